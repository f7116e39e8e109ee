//! The kinds of values a path takes. A kind knows what it allows, reads it, and
//! gives it to the setter of its type; what it read comes back in its one canonical
//! form, which reads back to the same.

use super::config::Config;
use super::grammar::Fault;
use super::pem;
use crate::base::net::{Network, Transport};
use crate::settings::provider::Day;
use crate::settings::{NextHop, NextHopTransport, Peer};
use crate::xmpp::jid::Jid;
use core::fmt;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

/// What `config show` prints instead of a secret.
pub const SECRET_MASK: &str = "<secret>";

/// Puts a value into the configuration; the `&str` is the name within the path.
pub type Set<T> = fn(&mut Config, &str, T);

/// Puts the one thing a word means into the configuration.
pub type SetWord = fn(&mut Config, &str);

/// A kind of value with the setter of its type.
#[derive(Clone, Copy)]
pub enum Kind {
    /// No value: the path itself says it all.
    Nothing(SetWord),
    /// A number in a range.
    Number(u32, u32, Set<u32>),
    /// `true` or `false`.
    Truth(Set<bool>),
    /// One of a few words, each with its own setter.
    Choice(&'static [(&'static str, SetWord)]),
    /// Text of at most so many octets.
    Text(usize, Set<String>),
    /// Text that is not shown.
    Secret(Set<String>),
    /// PEM certificates.
    Certificates(Set<String>),
    /// PEM revocation lists, at least one.
    RevocationLists(Set<String>),
    /// A PEM private key; not shown.
    PrivateKey(Set<String>),
    /// A domain, kept in U-labels.
    Domain(Set<String>),
    /// A host name, kept in A-labels.
    HostName(Set<String>),
    /// `HOST[:PORT]`; the host in A-labels or an address.
    HostPort(Set<(String, Option<u16>)>),
    /// `ADDR:PORT`, or `ADDR` alone where a port is given here.
    Address(Option<u16>, Set<SocketAddr>),
    /// `SCHEME:ADDR:PORT`, each scheme with its own setter.
    Scheme(&'static [(&'static str, Set<SocketAddr>)]),
    /// `tls:HOST[:PORT]` and the like.
    NextHop(Set<NextHop>),
    /// `HOST` or `ADDR[/LEN]`.
    Peer(Set<Peer>),
    /// A name that the operator chose.
    Name(Set<String>),
    /// A day, `YYYY-MM-DD`.
    Day(Set<Day>),
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.allowed())
    }
}

impl Kind {
    /// What may stand there, in words.
    pub fn allowed(&self) -> String {
        match self {
            Self::Nothing(_) => "no value".into(),
            Self::Number(min, max, _) => format!("a number from {min} to {max}"),
            Self::Truth(_) => "true, false".into(),
            Self::Choice(words) => words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", "),
            Self::Text(max, _) => format!("text of at most {max} octets, in quotes if it holds blanks"),
            Self::Secret(_) => format!("1 to {SECRET_OCTETS_MAX} printable characters, in quotes if it holds blanks"),
            Self::Certificates(_) => "PEM certificates as one quoted value, line breaks written \\n".into(),
            Self::RevocationLists(_) => "PEM revocation lists as one quoted value, line breaks written \\n".into(),
            Self::PrivateKey(_) => {
                "one PEM private key without a pass phrase as one quoted value, line breaks written \\n".into()
            }
            Self::Domain(_) => "a domain without wildcard and without a dot at its end".into(),
            Self::HostName(_) => "a fully qualified host name".into(),
            Self::HostPort(_) => "HOST[:PORT], HOST a name, an IPv4 address or an IPv6 address in brackets".into(),
            Self::Address(Some(_), _) => "ADDR[:PORT], an IPv6 address with a port in brackets".into(),
            Self::Address(None, _) => "ADDR:PORT, an IPv6 address in brackets".into(),
            Self::Scheme(schemes) => {
                schemes.iter().map(|(scheme, _)| format!("{scheme}:ADDR:PORT")).collect::<Vec<_>>().join(", ")
            }
            Self::NextHop(_) => "tls:HOST[:PORT], tcp:HOST[:PORT], udp:HOST[:PORT], an IPv6 address in brackets".into(),
            Self::Peer(_) => "HOST (the name in its certificate), or ADDR[/LEN] for udp and tcp".into(),
            Self::Name(_) => NAME_ALLOWED.into(),
            Self::Day(_) => "a day of the calendar as YYYY-MM-DD".into(),
        }
    }

    /// Must its values not be shown?
    pub const fn is_secret(&self) -> bool {
        matches!(self, Self::Secret(_) | Self::PrivateKey(_))
    }

    /// Reads `text`, gives it to the setter together with `name`, and returns its
    /// canonical form. The error says what is wrong and never repeats a secret.
    pub fn read(&self, config: &mut Config, name: &str, text: &str) -> Result<String, String> {
        if self.is_secret() && text == SECRET_MASK {
            return Err(format!(
                "\"{SECRET_MASK}\" stands for a secret that was not shown (`config show --secrets` shows it)"
            ));
        }
        match *self {
            Self::Nothing(set) => {
                set(config, name);
                Ok(String::new())
            }
            Self::Number(min, max, set) => {
                let number = number(text).filter(|n| (min..=max).contains(n)).ok_or("not a number in range")?;
                set(config, name, number);
                Ok(number.to_string())
            }
            Self::Truth(set) => {
                let truth = text.parse().map_err(|_| "neither true nor false")?;
                set(config, name, truth);
                Ok(text.into())
            }
            Self::Choice(words) => {
                let (word, set) = words.iter().find(|(word, _)| *word == text).ok_or("not one of its values")?;
                set(config, name);
                Ok((*word).into())
            }
            Self::Text(max, set) => {
                if text.len() > max || text.chars().any(char::is_control) {
                    return Err("too long, or not printable".into());
                }
                set(config, name, text.into());
                Ok(text.into())
            }
            Self::Secret(set) => {
                if text.is_empty() || text.len() > SECRET_OCTETS_MAX || text.chars().any(char::is_control) {
                    return Err("empty, too long, or not printable".into());
                }
                set(config, name, text.into());
                Ok(text.into())
            }
            Self::Certificates(set) => {
                certificates(text)?;
                let text = lines(text);
                set(config, name, text.clone());
                Ok(text)
            }
            Self::RevocationLists(set) => {
                revocation_lists(text)?;
                let text = lines(text);
                set(config, name, text.clone());
                Ok(text)
            }
            Self::PrivateKey(set) => {
                private_key(text)?;
                let text = lines(text);
                set(config, name, text.clone());
                Ok(text)
            }
            Self::Domain(set) => {
                let domain = domain(text)?;
                set(config, name, domain.clone());
                Ok(domain)
            }
            Self::HostName(set) => {
                let host = ascii_domain(text)?;
                set(config, name, host.clone());
                Ok(host)
            }
            Self::HostPort(set) => {
                let (host, port) = host_port(text)?;
                let canonical = show_host_port(&host, port);
                set(config, name, (host, port));
                Ok(canonical)
            }
            Self::Address(default_port, set) => {
                let address = address(text, default_port)?;
                set(config, name, address);
                Ok(address.to_string())
            }
            Self::Scheme(schemes) => {
                let (scheme, rest) = text.split_once(':').ok_or("its scheme is missing")?;
                let (scheme, set) =
                    schemes.iter().find(|(known, _)| *known == scheme).ok_or("its scheme is not known here")?;
                let address = address(rest, None)?;
                set(config, name, address);
                Ok(format!("{scheme}:{address}"))
            }
            Self::NextHop(set) => {
                let hop = next_hop(text)?;
                let canonical = show_next_hop(&hop);
                set(config, name, hop);
                Ok(canonical)
            }
            Self::Peer(set) => {
                let peer = peer(text)?;
                let canonical = match &peer {
                    Peer::Host(host) => host.clone(),
                    Peer::Network(Network { address, length }) => format!("{address}/{length}"),
                };
                set(config, name, peer);
                Ok(canonical)
            }
            Self::Name(set) => {
                set(config, name, self::name(text)?);
                Ok(text.into())
            }
            Self::Day(set) => {
                let day = Day::parse(text).ok_or("not a day")?;
                set(config, name, day);
                Ok(day.to_string())
            }
        }
    }

    /// The fault of a value that was not taken: `what` as [`Self::read`] has it.
    pub fn fault(&self, path: &str, text: &str, what: &str, example: &str) -> Fault {
        let shown = match self {
            Self::Secret(_)
            | Self::PrivateKey(_)
            | Self::Certificates(_)
            | Self::RevocationLists(_)
            | Self::Nothing(_) => String::new(),
            _ => format!(" '{}'", crate::base::text::Escaped(text)),
        };
        Fault::new(format!("{path}{shown}: {what}"), self.allowed(), example)
    }
}

const SECRET_OCTETS_MAX: usize = 1024;

/// What [`name`] allows, in words.
pub(super) const NAME_ALLOWED: &str = "1 to 64 letters, digits, '-', '_', '.'";

/// A name that the operator chose.
pub fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 64 || !text.chars().all(good) {
        return Err("not a name".into());
    }
    Ok(text.into())
}

/// The address of a user as the gateway compares it: his bare JID.
pub fn user(text: &str) -> Result<String, String> {
    let jid = Jid::parse(text).map_err(|_| "not an address")?;
    match (jid.local(), jid.resource()) {
        (Some(_), None) => Ok(jid.bare().into()),
        (None, _) => Err("its user part is missing".into()),
        (_, Some(_)) => Err("a resource behind it".into()),
    }
}

/// A number in decimal digits alone: no sign, no blanks.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A domain in lower case and U-labels.
pub fn domain(text: &str) -> Result<String, String> {
    let ascii = ascii_domain(text)?;
    let (unicode, result) = Uts46::new().to_unicode(ascii.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast);
    result.map_err(|_| "not a domain")?;
    Ok(unicode.into_owned())
}

/// A domain in lower case and A-labels.
pub fn ascii_domain(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("an empty domain".into());
    }
    if text.ends_with('.') {
        return Err("a dot at the end".into());
    }
    if text.contains('*') {
        return Err("a wildcard".into());
    }
    let ascii = Uts46::new()
        .to_ascii(text.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
        .map_err(|_| "not a domain")?;
    // No top-level domain is a number; an address is what was meant.
    if ascii.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err("an address, not a domain".into());
    }
    Ok(ascii.into_owned())
}

/// A host: a name in A-labels, or an address (IPv6 without brackets).
fn host(text: &str) -> Result<String, String> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical().to_string()),
        Err(_) => ascii_domain(text),
    }
}

/// `HOST[:PORT]`.
fn host_port(text: &str) -> Result<(String, Option<u16>), String> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err("an IPv6 address without brackets".into());
    }
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or("a bracket is not closed")?;
            address.parse::<Ipv6Addr>().map_err(|_| "no IPv6 address in the brackets")?;
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or("something else than a port behind the brackets")?),
            };
            (address, port)
        }
        None => match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map(nonzero_port).transpose()?;
    Ok((host(name)?, port))
}

fn nonzero_port(text: &str) -> Result<u16, String> {
    number(text).and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0).ok_or_else(|| "not a port".into())
}

fn show_host_port(host: &str, port: Option<u16>) -> String {
    let brackets = host.contains(':');
    match (brackets, port) {
        (true, Some(port)) => format!("[{host}]:{port}"),
        (true, None) => format!("[{host}]"),
        (false, Some(port)) => format!("{host}:{port}"),
        (false, None) => host.into(),
    }
}

fn address(text: &str, default_port: Option<u16>) -> Result<SocketAddr, String> {
    let parsed = match (text.parse::<SocketAddr>(), default_port) {
        (Ok(address), _) => address,
        (Err(_), Some(port)) => SocketAddr::new(
            text.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| "not an address")?,
            port,
        ),
        (Err(_), None) if text.parse::<IpAddr>().is_ok() => return Err("its port is missing".into()),
        (Err(_), None) => return Err("not an address with a port".into()),
    };
    // An IPv4 address in IPv6 form is one of IPv4: as the other it could not be listened on.
    let parsed = match parsed.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), parsed.port()),
        IpAddr::V6(_) => parsed,
    };
    match parsed.ip().is_multicast() {
        true => Err("a multicast address".into()),
        false => Ok(parsed),
    }
}

fn next_hop(text: &str) -> Result<NextHop, String> {
    let (scheme, rest) = text.split_once(':').ok_or("its transport is missing")?;
    let transport = match scheme {
        "tls" => NextHopTransport::Tls,
        "tcp" => NextHopTransport::Tcp,
        "udp" => NextHopTransport::Udp,
        _ => return Err("its transport is not known".into()),
    };
    let (host, port) = host_port(rest)?;
    Ok(NextHop { transport, host, port })
}

fn show_next_hop(hop: &NextHop) -> String {
    let scheme = match hop.transport {
        NextHopTransport::Tls => "tls",
        NextHopTransport::Tcp => "tcp",
        NextHopTransport::Udp => "udp",
    };
    format!("{scheme}:{}", show_host_port(&hop.host, hop.port))
}

fn peer(text: &str) -> Result<Peer, String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return match length {
            Some(_) => Err("no address before the '/'".into()),
            None => Ok(Peer::Host(ascii_domain(text)?)),
        };
    };
    let wrong = "a length that the address does not have";
    let width: u8 = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => width,
        Some(length) => number(length).and_then(|n| u8::try_from(n).ok()).filter(|n| *n <= width).ok_or(wrong)?,
    };
    // One of IPv4 in IPv6 form has 96 bits before its own.
    let (address, length) = match address.to_canonical() {
        v4 @ IpAddr::V4(_) if address.is_ipv6() => (v4, length.checked_sub(96).ok_or(wrong)?),
        address => (address, length),
    };
    Ok(Peer::Network(Network { address: masked(address, length), length }))
}

/// The address with all bits behind the first `length` cleared, so that one network
/// has one form.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

fn certificates(text: &str) -> Result<(), String> {
    all_are(text, "CERTIFICATE", "certificate")
}

fn revocation_lists(text: &str) -> Result<(), String> {
    all_are(text, "X509 CRL", "revocation list")
}

/// Is it PEM of one or more of these?
fn all_are(text: &str, label: &str, what: &str) -> Result<(), String> {
    let blocks = pem::blocks(text)?;
    match blocks.iter().find(|block| block.label != label) {
        Some(block) => Err(format!("PEM: a {} among the {what}s", block.label)),
        None if blocks.is_empty() => Err(format!("PEM: no {what} in it")),
        None => Ok(()),
    }
}

fn private_key(text: &str) -> Result<(), String> {
    let blocks = pem::blocks(text)?;
    match blocks.as_slice() {
        [block] if matches!(block.label.as_str(), "PRIVATE KEY" | "EC PRIVATE KEY" | "RSA PRIVATE KEY") => Ok(()),
        [block] if block.label == "ENCRYPTED PRIVATE KEY" => Err("PEM: the key has a pass phrase".into()),
        [block] => Err(format!("PEM: a {} instead of a private key", block.label)),
        [] => Err("PEM: no private key in it".into()),
        _ => Err("PEM: more than one key".into()),
    }
}

/// The same lines with the same ends.
fn lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 1);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// Where log lines go besides standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syslog {
    /// How.
    pub transport: Transport,
    /// Where.
    pub address: SocketAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, text: &str) -> Result<String, String> {
        kind.read(&mut Config::default(), "x", text)
    }

    #[track_caller]
    fn canonical(kind: Kind, text: &str, expected: &str) {
        assert_eq!(read(kind, text).as_deref(), Ok(expected));
        assert_eq!(read(kind, expected).as_deref(), Ok(expected), "its own canonical form");
    }

    #[test]
    fn domains_are_kept_in_lower_case_and_u_labels() {
        let kind = Kind::Domain(|_, _, _| ());
        canonical(kind, "Chat.EXAMPLE", "chat.example");
        canonical(kind, "xn--bcher-kva.example", "bücher.example");
        canonical(kind, "BÜCHER.example", "bücher.example");
        for bad in ["", "a.", ".a", "a..b", "*.a", "a b", "a_b.example", "192.0.2.1", "[::1]", "-a.example", "a/b"] {
            assert!(read(kind, bad).is_err(), "{bad}");
        }
        assert!(read(kind, &"a".repeat(64)).is_err());
        assert!(read(kind, &"abc.".repeat(63).repeat(2)).is_err());
    }

    #[test]
    fn next_hops_have_a_transport_a_host_and_perhaps_a_port() {
        let kind = Kind::NextHop(|_, _, _| ());
        canonical(kind, "tls:Edge.sip.example", "tls:edge.sip.example");
        canonical(kind, "tcp:edge.sip.example:5080", "tcp:edge.sip.example:5080");
        canonical(kind, "udp:[2001:DB8:0::1]:5060", "udp:[2001:db8::1]:5060");
        canonical(kind, "udp:[::1]", "udp:[::1]");
        canonical(kind, "udp:[::FFFF:192.0.2.1]:5060", "udp:192.0.2.1:5060");
        canonical(kind, "tls:192.0.2.1:5061", "tls:192.0.2.1:5061");
        for bad in ["edge", "tls:", "sctp:a", "tls:a:0", "tls:a:65536", "tls:a:+1", "tls:::1", "tls:[::1", "tls:[a]:1"]
        {
            assert!(read(kind, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn peers_are_names_or_networks() {
        let kind = Kind::Peer(|_, _, _| ());
        canonical(kind, "Edge.example", "edge.example");
        canonical(kind, "192.0.2.7", "192.0.2.7/32");
        canonical(kind, "192.0.2.7/24", "192.0.2.0/24");
        canonical(kind, "2001:db8::1/32", "2001:db8::/32");
        canonical(kind, "::/0", "::/0");
        canonical(kind, "::ffff:192.0.2.7", "192.0.2.7/32");
        canonical(kind, "::ffff:192.0.2.7/120", "192.0.2.0/24");
        for bad in ["192.0.2.7/33", "::ffff:192.0.2.7/95", "edge.example/24", "192.0.2.7/", "::1/129", "*.example"] {
            assert!(read(kind, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_have_a_port_unless_there_is_a_usual_one() {
        canonical(Kind::Address(Some(53), |_, _, _| ()), "192.0.2.1", "192.0.2.1:53");
        canonical(Kind::Address(Some(53), |_, _, _| ()), "2001:db8::1", "[2001:db8::1]:53");
        canonical(Kind::Address(None, |_, _, _| ()), "[::1]:9090", "[::1]:9090");
        canonical(Kind::Address(None, |_, _, _| ()), "[::ffff:127.0.0.1]:9090", "127.0.0.1:9090");
        assert_eq!(read(Kind::Address(None, |_, _, _| ()), "192.0.2.1"), Err("its port is missing".into()));
        assert!(read(Kind::Address(None, |_, _, _| ()), "localhost:1").is_err());
        assert!(read(Kind::Address(Some(53), |_, _, _| ()), "224.0.0.1").is_err());
        assert!(read(Kind::Address(Some(53), |_, _, _| ()), "::ffff:224.0.0.1").is_err());
    }

    #[test]
    fn numbers_are_digits_in_their_range() {
        let kind = Kind::Number(1, 20, |_, _, _| ());
        canonical(kind, "20", "20");
        canonical(kind, "007", "7");
        for bad in ["0", "21", "+3", "-3", "3s", "", "99999999999", "١"] {
            assert!(read(kind, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mask_is_not_taken_for_the_secret() {
        for kind in [Kind::Secret(|_, _, _| ()), Kind::PrivateKey(|_, _, _| ())] {
            assert!(read(kind, SECRET_MASK).expect_err("refused").contains("--secrets"));
        }
    }

    #[test]
    fn faults_do_not_repeat_secrets() {
        let kind = Kind::Secret(|_, _, _| ());
        assert!(!kind.fault("a b", "canary", "too long", "set a b c").to_string().contains("canary"));
    }

    #[test]
    fn certificates_and_keys_are_told_apart() {
        let certificate = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
        canonical(Kind::Certificates(|_, _, _| ()), certificate, certificate);
        let list = "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
        canonical(Kind::RevocationLists(|_, _, _| ()), list, list);
        canonical(Kind::PrivateKey(|_, _, _| ()), &key.replace('\n', "\r\n"), key);
        for (kind, bad) in [
            (Kind::Certificates(|_, _, _| ()), key.to_string()),
            (Kind::Certificates(|_, _, _| ()), String::new()),
            (Kind::RevocationLists(|_, _, _| ()), certificate.to_string()),
            (Kind::PrivateKey(|_, _, _| ()), certificate.into()),
            (Kind::PrivateKey(|_, _, _| ()), key.repeat(2)),
            (Kind::PrivateKey(|_, _, _| ()), key.replace("PRIVATE", "ENCRYPTED PRIVATE")),
        ] {
            assert!(read(kind, &bad).is_err(), "{bad}");
        }
    }
}
