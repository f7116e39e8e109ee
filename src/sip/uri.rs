//! `sip:` and `sips:` URIs (RFC 3261 sections 19.1 and 25.1): read, compared, written.
//! Other schemes are recognised and kept as they stand, so that they can be refused
//! with 416 instead of 400.
//!
//! Left out on purpose: `tel:` and friends have no mapping here; the header part
//! (`?name=value`) is checked and never carried out.

use super::header::{Params, is_unreserved};
use crate::base::outbox::Writer;
use crate::base::text::hex_value;
use core::net::{Ipv4Addr, Ipv6Addr};

/// Longest host name, in octets (RFC 1035 section 2.3.4).
const HOST_OCTETS_MAX: usize = 255;

/// Most parameters of a URI, and most headers that are compared one by one.
const PARTS_MAX: usize = 32;

/// A URI whose parts are slices of the text it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    /// What comes before the first colon.
    pub scheme: Scheme<'a>,
    /// The user part, escapes not undone.
    pub user: Option<&'a str>,
    /// The password, escapes not undone.
    pub password: Option<&'a str>,
    /// A name, an IPv4 address, or an IPv6 one in brackets; empty with other schemes.
    pub host: &'a str,
    /// The port.
    pub port: Option<u16>,
    /// The parameters, escapes not undone.
    pub params: Params<'a>,
    /// What stands behind `?`.
    pub headers: Option<&'a str>,
    /// With another scheme: all behind the colon.
    pub opaque: &'a str,
}

/// The schemes told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme<'a> {
    /// `sip:`.
    Sip,
    /// `sips:`.
    Sips,
    /// Any other, as it was written.
    Other(&'a str),
}

/// Where a URI breaks the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UriFault {
    /// No scheme, or not a legal one.
    Scheme,
    /// The user part or the password.
    User,
    /// The host.
    Host,
    /// The port.
    Port,
    /// A parameter.
    Parameter,
    /// The header part.
    Headers,
    /// Something in a URI of another scheme.
    Opaque,
}

impl<'a> Uri<'a> {
    /// Reads a URI that fills `text`.
    pub fn parse(text: &'a str) -> Result<Self, UriFault> {
        let (scheme, rest) = text.split_once(':').ok_or(UriFault::Scheme)?;
        if scheme.eq_ignore_ascii_case("sip") {
            Self::parse_sip(Scheme::Sip, rest)
        } else if scheme.eq_ignore_ascii_case("sips") {
            Self::parse_sip(Scheme::Sips, rest)
        } else {
            Self::parse_other(scheme, rest)
        }
    }

    fn parse_other(scheme: &'a str, opaque: &'a str) -> Result<Self, UriFault> {
        let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(legal) {
            return Err(UriFault::Scheme);
        }
        if opaque.is_empty() || !opaque.bytes().all(|c| is_unreserved(c) || b";/?:@&=+$,%#[]".contains(&c)) {
            return Err(UriFault::Opaque);
        }
        Ok(Self {
            scheme: Scheme::Other(scheme),
            user: None,
            password: None,
            host: "",
            port: None,
            params: Params::default(),
            headers: None,
            opaque,
        })
    }

    fn parse_sip(scheme: Scheme<'a>, rest: &'a str) -> Result<Self, UriFault> {
        // No part but the user part and the password can hold an `@`, and those only
        // in escaped form: the first one ends them.
        let (user, password, rest) = match rest.split_once('@') {
            Some((info, rest)) => {
                let (user, password) = match info.split_once(':') {
                    Some((user, password)) => (user, Some(password)),
                    None => (info, None),
                };
                if user.is_empty() || !all_legal(user, b"&=+$,;?/") || !password.is_none_or(|p| all_legal(p, b"&=+$,"))
                {
                    return Err(UriFault::User);
                }
                (Some(user), password, rest)
            }
            None => (None, None, rest),
        };
        let (rest, headers) = match rest.split_once('?') {
            Some((rest, headers)) => (rest, Some(headers)),
            None => (rest, None),
        };
        let (place, params) = match rest.split_once(';') {
            Some((place, params)) => (place, Some(params)),
            None => (rest, None),
        };
        let (host, port) = split_host_port(place)?;
        if !headers.is_none_or(|h| !h.is_empty() && all_legal(h, b"[]/?:+$=&")) {
            return Err(UriFault::Headers);
        }
        let params = match params {
            Some(params) if all_legal(params, b"[]/:&+$=;") => {
                let params = Params::parse(params).ok_or(UriFault::Parameter)?;
                if !is_each_once(&params) {
                    return Err(UriFault::Parameter);
                }
                params
            }
            Some(_) => return Err(UriFault::Parameter),
            None => Params::default(),
        };
        Ok(Self { scheme, user, password, host, port, params, headers, opaque: "" })
    }

    /// Is it a `sip:` or `sips:` URI?
    pub fn is_sip(&self) -> bool {
        !matches!(self.scheme, Scheme::Other(_))
    }

    /// Do both name the same resource (RFC 3261 section 19.1.4)?
    pub fn is_same_as(&self, other: &Uri<'_>) -> bool {
        let schemes = match (self.scheme, other.scheme) {
            (Scheme::Other(a), Scheme::Other(b)) => a.eq_ignore_ascii_case(b) && self.opaque == other.opaque,
            (Scheme::Sip, Scheme::Sip) | (Scheme::Sips, Scheme::Sips) => true,
            _ => false,
        };
        schemes
            && same_coded(self.user, other.user)
            && same_coded(self.password, other.password)
            && same_host(self.host, other.host)
            && self.port == other.port
            && self.params_agree(other)
            && same_headers(self.headers, other.headers)
    }

    fn params_agree(&self, other: &Uri<'_>) -> bool {
        // These change what the URI means, so they may not be missing on one side.
        const DECISIVE: [&str; 5] = ["user", "ttl", "method", "maddr", "transport"];
        let agrees = |name: &str, value: Option<&str>, others: &Params<'_>| match others.get(name) {
            Some(theirs) => same_value(value, theirs),
            None => !DECISIVE.iter().any(|decisive| decisive.eq_ignore_ascii_case(name)),
        };
        self.params.iter().all(|(name, value)| agrees(name, value, &other.params))
            && other.params.iter().all(|(name, value)| agrees(name, value, &self.params))
    }

    /// Writes it in one canonical form: the scheme in lower case, an IPv6 address as
    /// RFC 5952 has it.
    pub fn emit(&self, w: &mut Writer<'_>) {
        match self.scheme {
            Scheme::Sip => w.str("sip:"),
            Scheme::Sips => w.str("sips:"),
            Scheme::Other(scheme) => w.str(scheme).str(":").str(self.opaque),
        };
        if let Some(user) = self.user {
            w.str(user);
            if let Some(password) = self.password {
                w.str(":").str(password);
            }
            w.str("@");
        }
        match ipv6_reference(self.host) {
            // Writing into the arena cannot fail.
            Some(address) => {
                let _ = core::fmt::Write::write_fmt(w, format_args!("[{address}]"));
            }
            None => {
                w.str(self.host);
            }
        }
        if let Some(port) = self.port {
            w.str(":").number(u64::from(port));
        }
        for (name, value) in self.params.iter() {
            w.str(";").str(name);
            if let Some(value) = value {
                w.str("=").str(value);
            }
        }
        if let Some(headers) = self.headers {
            w.str("?").str(headers);
        }
    }
}

/// Splits `host[:port]` and checks both.
pub(crate) fn split_host_port(place: &str) -> Result<(&str, Option<u16>), UriFault> {
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.find(']')) {
        // The bracket found lies one octet further in `place`, and one behind it ends the host.
        Some(end) => match place.split_at_checked(end + 2) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => {
                (host, Some(rest.trim_start_matches([' ', '\t']).strip_prefix(':').ok_or(UriFault::Host)?))
            }
            None => return Err(UriFault::Host),
        },
        None => match place.split_once(':') {
            Some((host, port)) => (host.trim_end_matches([' ', '\t']), Some(port)),
            None => (place, None),
        },
    };
    if !is_host(host) {
        return Err(UriFault::Host);
    }
    let port = match port {
        Some(port) => Some(parse_port(port.trim_matches([' ', '\t'])).ok_or(UriFault::Port)?),
        None => None,
    };
    Ok((host, port))
}

fn parse_port(text: &str) -> Option<u16> {
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

/// Is it a host name, an IPv4 address, or an IPv6 reference in brackets?
pub(crate) fn is_host(text: &str) -> bool {
    if text.starts_with('[') {
        return ipv6_reference(text).is_some();
    }
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
    !text.is_empty()
        && text.len() <= HOST_OCTETS_MAX
        && text.bytes().all(legal)
        && !text.starts_with(['.', '-'])
        && !text.contains("..")
}

/// The address of an IPv6 reference in brackets. Three colons in a row, which the
/// grammar of RFC 3261 admits by mistake, mean two (RFC 5118 section 4.10).
pub fn ipv6_reference(host: &str) -> Option<Ipv6Addr> {
    parse_ipv6(host.strip_prefix('[')?.strip_suffix(']')?)
}

/// An IPv6 address without brackets, three colons tolerated.
pub(crate) fn parse_ipv6(text: &str) -> Option<Ipv6Addr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (head, tail) = text.split_once(":::")?;
    let mut mended = heapless::String::<48>::new();
    mended.push_str(head).ok()?;
    mended.push_str("::").ok()?;
    mended.push_str(tail).ok()?;
    mended.parse().ok()
}

/// Do both hosts mean the same: names without regard to case, addresses by value?
pub(crate) fn same_host(a: &str, b: &str) -> bool {
    match (ipv6_reference(a), ipv6_reference(b)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => a.strip_suffix('.').unwrap_or(a).eq_ignore_ascii_case(b.strip_suffix('.').unwrap_or(b)),
        _ => false,
    }
}

/// The address a host is, if it is one.
pub fn host_address(host: &str) -> Option<core::net::IpAddr> {
    match ipv6_reference(host) {
        Some(address) => Some(address.into()),
        None => host.parse::<Ipv4Addr>().ok().map(Into::into),
    }
}

/// No parameter twice (RFC 3261 section 19.1.1), and not too many to compare.
fn is_each_once(params: &Params<'_>) -> bool {
    params.iter().count() <= PARTS_MAX
        && params.iter().enumerate().all(|(place, (name, _))| {
            let mut before = params.iter().take(place);
            !before.any(|(other, _)| other.eq_ignore_ascii_case(name))
        })
}

/// Only unreserved characters, escapes, and those of `further`?
fn all_legal(text: &str, further: &[u8]) -> bool {
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        let legal = match octet {
            b'%' => octets.next().and_then(hex_value).is_some() && octets.next().and_then(hex_value).is_some(),
            octet => is_unreserved(octet) || further.contains(&octet),
        };
        if !legal {
            return false;
        }
    }
    true
}

/// The characters of a coded text for comparison: an escaped character that is not
/// reserved equals itself in plain; an escaped reserved one does not.
fn units(text: &str) -> impl Iterator<Item = u16> {
    const ESCAPED: u16 = 0x100;
    let mut octets = text.bytes();
    core::iter::from_fn(move || {
        let octet = octets.next()?;
        if octet != b'%' {
            return Some(u16::from(octet));
        }
        let high = octets.next().and_then(hex_value).unwrap_or_default();
        let low = octets.next().and_then(hex_value).unwrap_or_default();
        let octet = high << 4 | low;
        Some(if is_unreserved(octet) { u16::from(octet) } else { ESCAPED | u16::from(octet) })
    })
}

fn same_coded(a: Option<&str>, b: Option<&str>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => units(a).eq(units(b)),
        (None, None) => true,
        _ => false,
    }
}

fn same_value(a: Option<&str>, b: Option<&str>) -> bool {
    let lower = |unit: u16| u8::try_from(unit).map_or(unit, |octet| u16::from(octet.to_ascii_lowercase()));
    units(a.unwrap_or_default()).map(lower).eq(units(b.unwrap_or_default()).map(lower))
}

fn same_headers(a: Option<&str>, b: Option<&str>) -> bool {
    let pairs = |text: Option<&'_ str>| text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).count();
    let holds = |all: Option<&str>, pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        all.unwrap_or_default().split('&').any(|other| {
            let (other_name, other_value) = other.split_once('=').unwrap_or((other, ""));
            other_name.eq_ignore_ascii_case(name) && units(other_value).eq(units(value))
        })
    };
    if pairs(a) > PARTS_MAX {
        return a == b;
    }
    pairs(a) == pairs(b) && a.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).all(|pair| holds(b, pair))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::outbox::Outbox;

    fn uri(text: &str) -> Uri<'_> {
        Uri::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}"))
    }

    fn emitted(uri: &Uri<'_>) -> String {
        let mut out = Outbox::with_capacity(64, 1);
        let mut w = out.begin();
        uri.emit(&mut w);
        let span = w.finish();
        out.text(&span).into()
    }

    #[test]
    fn every_part_is_found() {
        let uri = uri("sips:alice;day=tuesday:secret@[2001:db8::1]:5061;transport=tcp;lr?subject=a&x=b");
        assert_eq!((uri.scheme, uri.user, uri.password), (Scheme::Sips, Some("alice;day=tuesday"), Some("secret")));
        assert_eq!((uri.host, uri.port), ("[2001:db8::1]", Some(5061)));
        assert_eq!(uri.params.get("TRANSPORT"), Some(Some("tcp")));
        assert_eq!(uri.params.get("lr"), Some(None));
        assert_eq!(uri.params.get("maddr"), None);
        assert_eq!(uri.headers, Some("subject=a&x=b"));
    }

    #[test]
    fn each_fault_is_named() {
        for (text, fault) in [
            ("nocolon", UriFault::Scheme),
            ("1a:b", UriFault::Scheme),
            ("<sip:a@b>", UriFault::Scheme),
            ("sip:", UriFault::Host),
            ("sip:@b", UriFault::User),
            ("sip:a b@c", UriFault::User),
            ("sip:a%4@c", UriFault::User),
            ("sip:a@b@c", UriFault::Host),
            ("sip:a@", UriFault::Host),
            ("sip:a@b c", UriFault::Host),
            ("sip:2001:db8::5", UriFault::Port),
            ("sip:a@b:", UriFault::Port),
            ("sip:a@b:0", UriFault::Port),
            ("sip:a@b:65536", UriFault::Port),
            ("sip:a@[::1", UriFault::Host),
            ("sip:a@[::1]x", UriFault::Host),
            ("sip:a@[::g]", UriFault::Host),
            ("sip:a@b;;c", UriFault::Parameter),
            ("sip:a@b;", UriFault::Parameter),
            ("sip:a@b;x=\"y\"", UriFault::Parameter),
            ("sip:a@b;gr=x;GR=y", UriFault::Parameter),
            ("sip:a@b?", UriFault::Headers),
            ("sip:a@b?x=<y>", UriFault::Headers),
            ("sip:\u{fc}@b", UriFault::User),
            ("http:", UriFault::Opaque),
            ("http:a b", UriFault::Opaque),
        ] {
            assert_eq!(Uri::parse(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn other_schemes_are_recognised() {
        for (text, scheme) in [
            ("soap.tcp://203.0.113.9:8080", "soap.tcp"),
            ("isbn:9781234567897", "isbn"),
            ("ventovieras:x", "ventovieras"),
        ] {
            assert_eq!(uri(text).scheme, Scheme::Other(scheme));
        }
    }

    #[test]
    fn uris_that_mean_the_same_are_equal() {
        for (a, b) in [
            ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;newparam=5"),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            (
                "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
                "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            ),
            ("sip:a@[2001:db8::1]", "sip:a@[2001:DB8:0:0::1]"),
            ("sip:zoe@[2001:db8:77:::203.0.113.1]", "sip:zoe@[2001:db8:77::203.0.113.1]"),
        ] {
            assert!(uri(a).is_same_as(&uri(b)), "{a} {b}");
            assert!(uri(b).is_same_as(&uri(a)), "{b} {a}");
        }
    }

    #[test]
    fn uris_that_mean_different_things_are_not_equal() {
        for (a, b) in [
            ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
            ("sip:carol@chicago.com;security=off", "sip:carol@chicago.com;security=on"),
            ("sip:a@b", "sips:a@b"),
            ("sip:a%3Bb@c", "sip:a;b@c"),
            ("sip:a@b", "sip:b"),
        ] {
            assert!(!uri(a).is_same_as(&uri(b)), "{a} {b}");
            assert!(!uri(b).is_same_as(&uri(a)), "{b} {a}");
        }
    }

    #[test]
    fn what_is_written_reads_as_it_was() {
        for text in [
            "sip:7_odd.Name~(maybe?yes)&can't+do$/wow?,/;;*:&p+w=9,fine!*go$al~x_ok.(doesn't-it)@im.sued.example",
            "sips:zoe;osasto=a%40sued.example@im.sued.example:5061;gr=x;lr?a=b",
            "sip:[2001:db8::1]:5062",
            "isbn:978",
        ] {
            assert_eq!(emitted(&uri(text)), text);
        }
        assert_eq!(emitted(&uri("SIP:a@[2001:db8:77:::203.0.113.1]")), "sip:a@[2001:db8:77::cb00:7101]");
    }
}
