//! The values of header fields: Via, CSeq, addresses with parameters, comma lists.
//! Everything here reads one unfolded value and borrows from it.

use super::uri::{Uri, parse_ipv6, split_host_port};
use core::net::IpAddr;

/// May the octet stand in a token (RFC 3261 section 25.1)?
pub const fn is_token_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric()
        || matches!(octet, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
}

/// Is it a token: one or more of those octets?
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_octet)
}

/// Is it a Call-ID (`word ["@" word]`)?
pub fn is_call_id(text: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|c| is_token_octet(c) || b"()<>:\\\"/[]?{}".contains(&c));
    match text.split_once('@') {
        Some((left, right)) => is_word(left) && is_word(right),
        None => is_word(text),
    }
}

/// May the octet stand in any part of a URI in plain?
pub(crate) const fn is_unreserved(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')')
}

/// Without spaces and tabs around it.
pub(crate) fn trim(text: &str) -> &str {
    let is_text = |c: u8| !matches!(c, b' ' | b'\t');
    let Some(first) = text.bytes().position(is_text) else { return "" };
    let end = text.bytes().rposition(is_text).map_or(first, |last| last + 1);
    text.get(first..end).unwrap_or_default()
}

fn trim_start(text: &str) -> &str {
    let blanks = text.bytes().position(|c| !matches!(c, b' ' | b'\t')).unwrap_or(text.len());
    text.get(blanks..).unwrap_or_default()
}

/// The number that decimal digits and nothing else make, leading zeros allowed.
/// `None`: other characters; `Some(u64::MAX)`: more than fits.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    Some(text.bytes().fold(0u64, |number, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

/// How many octets the quoted string at the start of `text` has, quotes included.
/// `None`: there is none, or it does not close.
fn quoted_len(text: &str) -> Option<usize> {
    let mut octets = text.bytes().enumerate();
    octets.next().filter(|(_, quote)| *quote == b'"')?;
    while let Some((at, octet)) = octets.next() {
        match octet {
            b'"' => return Some(at + 1),
            b'\\' => drop(octets.next()?),
            _ => {}
        }
    }
    None
}

/// The text of a quoted string, or a token as it stands; `\` pairs are undone.
pub fn unquote(value: &str) -> impl Iterator<Item = char> {
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    let mut chars = inner.unwrap_or(value).chars();
    core::iter::from_fn(move || match chars.next()? {
        '\\' if inner.is_some() => chars.next(),
        c => Some(c),
    })
}

/// The values of a comma list: commas in quotes and in angle brackets do not split.
pub fn split_list(value: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(value);
    core::iter::from_fn(move || {
        let text = rest?;
        let end = list_value_len(text);
        rest = text.get(end + 1..);
        text.get(..end).map(trim)
    })
}

fn list_value_len(text: &str) -> usize {
    if !text.as_bytes().contains(&b',') {
        return text.len();
    }
    let mut octets = text.bytes().enumerate();
    let (mut quoted, mut bracketed) = (false, false);
    while let Some((at, octet)) = octets.next() {
        match octet {
            b'\\' if quoted => drop(octets.next()),
            b'"' if !bracketed => quoted = !quoted,
            b'<' if !quoted => bracketed = true,
            b'>' if !quoted => bracketed = false,
            b',' if !quoted && !bracketed => return at,
            _ => {}
        }
    }
    text.len()
}

/// Parameters, `name[=value]` with semicolons between, checked when they were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params<'a>(&'a str);

impl<'a> Params<'a> {
    /// Reads parameters behind their first semicolon. `None`: one is empty, its name
    /// is no token, or its value is neither a quoted string nor free of separators.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut rest = Some(text);
        while let Some(text) = rest {
            let (_, _, after) = parameter(text)?;
            rest = after;
        }
        Some(Self(text))
    }

    /// All of them in order, the value as it was written.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> + use<'a> {
        let mut rest = Some(self.0).filter(|text| !text.is_empty());
        core::iter::from_fn(move || {
            let (name, value, after) = parameter(rest?)?;
            rest = after;
            Some((name, value))
        })
    }

    /// The first one of that name in any case: `Some(None)` if it has no value.
    pub fn get(&self, name: &str) -> Option<Option<&'a str>> {
        self.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The value of the first one of that name, if it has one.
    pub fn value(&self, name: &str) -> Option<&'a str> {
        self.get(name).flatten()
    }

    /// Are there none?
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text they were read from, without the first semicolon.
    pub const fn as_str(&self) -> &'a str {
        self.0
    }
}

/// One parameter at the start of `text`, and what is behind the semicolon after it.
fn parameter(text: &str) -> Option<(&str, Option<&str>, Option<&str>)> {
    let text = trim_start(text);
    let name_len = text.bytes().position(|c| !is_param_name_octet(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(name_len).filter(|(name, _)| !name.is_empty())?;
    let rest = trim_start(rest);
    let Some(rest) = rest.strip_prefix('=') else {
        return Some((name, None, end_of_parameter(rest)?));
    };
    let rest = trim_start(rest);
    let value_len = match quoted_len(rest) {
        Some(len) => len,
        None => rest.bytes().position(|c| !is_param_value_octet(c)).unwrap_or(rest.len()),
    };
    let (value, rest) = rest.split_at_checked(value_len)?;
    if value.is_empty() {
        return None;
    }
    Some((name, Some(value), end_of_parameter(trim_start(rest))?))
}

/// `Some(None)`: nothing more; `Some(Some(rest))`: a semicolon, and what is behind it.
fn end_of_parameter(rest: &str) -> Option<Option<&str>> {
    if rest.is_empty() { Some(None) } else { rest.strip_prefix(';').map(Some) }
}

/// Tokens, and the further characters that names of URI parameters may have.
const fn is_param_name_octet(octet: u8) -> bool {
    is_token_octet(octet) || is_unreserved(octet) || matches!(octet, b'[' | b']' | b'/' | b':' | b'&' | b'$')
}

/// All visible characters but separators; wider than a token, so that addresses,
/// with and without brackets, are values too.
const fn is_param_value_octet(octet: u8) -> bool {
    octet > b' ' && octet != 0x7F && !matches!(octet, b'"' | b';' | b',' | b'<' | b'>')
}

/// An address with an optional display name and the header's parameters, as in From,
/// To, Contact and Route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The display name as it was written, quotes included; empty if there is none.
    pub display: &'a str,
    /// The URI, without brackets.
    pub uri: &'a str,
    /// The `tag` parameter.
    pub tag: Option<&'a str>,
    /// All parameters of the header field, not those of the URI.
    pub params: Params<'a>,
}

impl<'a> NameAddr<'a> {
    /// Reads one value; `None` if it breaks the grammar, the URI's included.
    pub fn parse(value: &'a str) -> Option<Self> {
        let value = trim(value);
        let (display, uri, rest) = if value.starts_with('"') {
            let (display, rest) = value.split_at_checked(quoted_len(value)?)?;
            let (uri, rest) = bracketed(trim_start(rest))?;
            (display, uri, rest)
        } else if let Some(bracket) = value.find('<') {
            let (display, rest) = value.split_at_checked(bracket)?;
            // Letters beyond ASCII need quotes, and often come without.
            let legal = |c: u8| is_token_octet(c) || matches!(c, b' ' | b'\t' | 0x80..);
            if !display.bytes().all(legal) {
                return None;
            }
            let (uri, rest) = bracketed(rest)?;
            (trim(display), uri, rest)
        } else {
            // Without brackets, `;` and what follows belong to the header; `?` and
            // `,` may not be there (RFC 3261 section 20).
            let end = value.find(';').unwrap_or(value.len());
            let (uri, rest) = value.split_at_checked(end)?;
            let uri = trim(uri);
            if uri.contains(['?', ',']) {
                return None;
            }
            ("", uri, rest)
        };
        Uri::parse(uri).ok()?;
        let rest = trim(rest);
        let params = match rest.strip_prefix(';') {
            Some(params) => Params::parse(params)?,
            None if rest.is_empty() => Params::default(),
            None => return None,
        };
        let tag = params.value("tag");
        if params.get("tag").is_some() && !tag.is_some_and(is_token) {
            return None;
        }
        Some(Self { display, uri, tag, params })
    }

    /// The URI's parts.
    pub fn uri(&self) -> Option<Uri<'a>> {
        Uri::parse(self.uri).ok()
    }
}

/// What stands in the angle brackets at the start of `text`, and what is behind.
fn bracketed(text: &str) -> Option<(&str, &str)> {
    let (uri, rest) = text.strip_prefix('<')?.split_once('>')?;
    Some((uri, rest))
}

/// One value of a Via header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// The transport as it was written, known to us or not.
    pub transport: &'a str,
    /// Host of `sent-by`.
    pub host: &'a str,
    /// Port of `sent-by`.
    pub port: Option<u16>,
    /// The parameters.
    pub params: Params<'a>,
}

impl<'a> Via<'a> {
    /// Reads one value; `None` if it breaks the grammar or is not of SIP/2.0.
    pub fn parse(value: &'a str) -> Option<Self> {
        let (name, rest) = value.split_once('/')?;
        let (version, rest) = rest.split_once('/')?;
        if !trim(name).eq_ignore_ascii_case("SIP") || trim(version) != "2.0" {
            return None;
        }
        let rest = trim_start(rest);
        let (transport, rest) = rest.split_once([' ', '\t']).filter(|(transport, _)| is_token(transport))?;
        let (place, params) = match rest.split_once(';') {
            Some((place, params)) => (place, Params::parse(trim(params))?),
            None => (rest, Params::default()),
        };
        let (host, port) = split_host_port(trim(place)).ok()?;
        Some(Self { transport, host, port, params })
    }

    /// The branch, empty if there is none.
    pub fn branch(&self) -> &'a str {
        self.params.value("branch").unwrap_or_default()
    }

    /// `None`: no `rport` (RFC 3581).
    pub fn rport(&self) -> Option<Option<u16>> {
        self.params.get("rport").map(|port| port.and_then(|p| p.parse().ok()))
    }

    /// The address in `received`, with or without brackets.
    pub fn received(&self) -> Option<IpAddr> {
        let text = self.params.value("received")?;
        let text = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        parse_ipv6(text).map(IpAddr::V6).or_else(|| text.parse().ok())
    }
}

/// CSeq: a number below 2^31 and a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    /// The number.
    pub number: u32,
    /// The method.
    pub method: &'a str,
}

impl<'a> CSeq<'a> {
    /// Reads the value; `None` if it breaks the grammar or the number is too large.
    pub fn parse(value: &'a str) -> Option<Self> {
        let (number, method) = trim(value).split_once([' ', '\t'])?;
        let number = decimal(number).filter(|number| *number < 1 << 31)?;
        let method = trim(method);
        is_token(method).then_some(Self { number: number as u32, method })
    }
}

/// A media type with its parameters, as in Content-Type and Accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaType<'a> {
    /// Such as `text`.
    pub kind: &'a str,
    /// Such as `plain`.
    pub subtype: &'a str,
    /// Such as `charset`.
    pub params: Params<'a>,
}

impl<'a> MediaType<'a> {
    /// Reads one value; `None` if it breaks the grammar.
    pub fn parse(value: &'a str) -> Option<Self> {
        let (name, params) = match trim(value).split_once(';') {
            Some((name, params)) => (name, Params::parse(params)?),
            None => (value, Params::default()),
        };
        let (kind, subtype) = name.split_once('/')?;
        let (kind, subtype) = (trim(kind), trim(subtype));
        (is_token(kind) && is_token(subtype)).then_some(Self { kind, subtype, params })
    }

    /// Is it `kind/subtype`, in any case?
    pub fn is(&self, kind: &str, subtype: &str) -> bool {
        self.kind.eq_ignore_ascii_case(kind) && self.subtype.eq_ignore_ascii_case(subtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_quotes_and_brackets_do_not_split() {
        let list = "\"a, \\\"b\" <sip:x,y@c;d?e=f,g>;p=\"1,2\" , <sip:d@e>,sip:f";
        let values: Vec<_> = split_list(list).collect();
        assert_eq!(values, ["\"a, \\\"b\" <sip:x,y@c;d?e=f,g>;p=\"1,2\"", "<sip:d@e>", "sip:f"]);
        assert_eq!(split_list("a,,").collect::<Vec<_>>(), ["a", "", ""]);
    }

    #[test]
    fn a_parameter_behind_an_address_without_brackets_is_the_headers() {
        let bare = NameAddr::parse("sip:+358401@gw1.nord.example;outoparam").expect("an address");
        assert_eq!((bare.uri, bare.params.get("outoparam")), ("sip:+358401@gw1.nord.example", Some(None)));
        let inside = NameAddr::parse("<sip:+358402@gw1.nord.example;outoparam>").expect("an address");
        assert_eq!((inside.uri, inside.params.is_empty()), ("sip:+358402@gw1.nord.example;outoparam", true));
    }

    #[test]
    fn addresses_are_read_widely() {
        let a = NameAddr::parse("\"Aino \\\\\\\"\"   <sip:aino@tel.nord.example>  ; tag = wsi55").expect("an address");
        assert_eq!((a.uri, a.tag), ("sip:aino@tel.nord.example", Some("wsi55")));
        assert_eq!(unquote(a.display).collect::<String>(), "Aino \\\"");
        let a = NameAddr::parse("sana1~` sana2'+_ <sip:a@b>;x''~=\"\u{444}\";tag=_s*'~`").expect("an address");
        assert_eq!((a.display, a.tag), ("sana1~` sana2'+_", Some("_s*'~`")));
        assert_eq!(NameAddr::parse("aino<sip:a@b>").map(|a| a.display), Some("aino"));
        assert_eq!(NameAddr::parse("J\u{f6}rg <sip:a@b>").map(|a| a.display), Some("J\u{f6}rg"));
    }

    #[test]
    fn addresses_that_break_the_grammar_are_refused() {
        for value in [
            "",
            "\"Zoe Z. <sip:zoe@im.sued.example>",
            "Virta, Aino <sip:aino@tel.nord.example>",
            "\"Zoe\" < sip:zoe@im.sued.example >",
            "<sip:a@b",
            "<sip:a@b>;;",
            "<sip:a@b>;;;;",
            "<sip:a@b>x",
            "<sip:a@b>;tag",
            "<sip:a@b>;tag=",
            "<sip:a@b>;tag=\"a\"",
            "sip:a@b?Route=x",
            "\"a\" sip:a@b",
            "sip:a b@c",
        ] {
            assert_eq!(NameAddr::parse(value), None, "{value}");
        }
    }

    #[test]
    fn a_via_may_have_space_everywhere() {
        let via =
            Via::parse("SIP  / 2.0  / TCP     hub.nord.example : 99  ;   branch  =   z9hG4bKw2;rport").expect("a Via");
        assert_eq!(
            (via.transport, via.host, via.port, via.branch()),
            ("TCP", "hub.nord.example", Some(99), "z9hG4bKw2")
        );
        assert_eq!(via.rport(), Some(None));
    }

    #[test]
    fn received_is_read_with_and_without_brackets() {
        let expected = "2001:db8:77::9:255".parse::<IpAddr>().expect("an address");
        for value in ["[2001:db8:77::9:255]", "2001:db8:77::9:255"] {
            let text = format!("SIP/2.0/UDP [2001:db8:77::9];received={value};branch=z9hG4bKv65");
            assert_eq!(Via::parse(&text).expect("a Via").received(), Some(expected));
        }
    }

    #[test]
    fn a_via_that_breaks_the_grammar_is_refused() {
        for value in [
            "",
            "SIP/2.0/UDP sbc.nord.example;;,;,,",
            "SIP/2.0/UDP",
            "SIP/2.0/UDP ",
            "SIP/7.0/UDP a",
            "SIP/2.0/UDP a:b",
        ] {
            assert_eq!(split_list(value).map(Via::parse).next().flatten(), None, "{value}");
        }
    }

    #[test]
    fn numbers_of_cseq_end_below_two_to_the_31st() {
        assert_eq!(CSeq::parse("0009   MESSAGE"), Some(CSeq { number: 9, method: "MESSAGE" }));
        assert_eq!(CSeq::parse("2147483647 A").map(|c| c.number), Some(2_147_483_647));
        for value in ["2147483648 A", "36893488147419103232 A", "1", "A 1", "1 A B", "-1 A", "1 ", ""] {
            assert_eq!(CSeq::parse(value), None, "{value}");
        }
    }

    #[test]
    fn media_types_keep_their_parameters() {
        let t = MediaType::parse("Text / PLAIN ; charset=\"UTF-8\"").expect("a type");
        assert!(t.is("text", "plain"));
        assert_eq!(t.params.value("charset"), Some("\"UTF-8\""));
        assert_eq!(MediaType::parse("text"), None);
    }
}
