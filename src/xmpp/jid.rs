//! Addresses of XMPP (RFC 7622): `[local@]domain[/resource]`, prepared once, so that
//! from then on two addresses are the same when their octets are.
//!
//! The domain stands in U-labels, lower case, without a trailing dot; what DNS and SIP
//! want is [`Jid::domain_ascii`]. The local part went through PRECIS
//! UsernameCaseMapped, the resource through OpaqueString. What is ASCII and prepared
//! already, which is nearly everything, costs one copy.
//!
//! Invariant: preparing what was prepared changes nothing.

use core::fmt;
use core::net::Ipv6Addr;
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use precis_profiles::precis_core::profile::PrecisFastInvocation;
use precis_profiles::precis_core::{IdentifierClass, StringClass};
use precis_profiles::{OpaqueString, UsernameCaseMapped};
use std::borrow::Cow;

/// Most octets of each part (RFC 7622 section 3.1).
pub const PART_OCTETS_MAX: usize = 1023;
/// Most octets of an address: three parts and their separators. Longer text is not
/// even looked at.
pub const JID_OCTETS_MAX: usize = 3 * PART_OCTETS_MAX + 2;

/// A prepared address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Jid {
    text: Box<str>,
    /// Where the domain begins: 0, or behind the `@`.
    domain_start: u16,
    /// Where the domain ends.
    domain_end: u16,
}

/// Why text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JidError {
    /// The local part is empty, too long or has characters it must not have.
    Local,
    /// The domain is empty, too long or no host name or address.
    Domain,
    /// The resource is empty, too long or has characters it must not have.
    Resource,
}

impl fmt::Display for JidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "bad local part",
            Self::Domain => "bad domain",
            Self::Resource => "bad resource",
        })
    }
}

impl Jid {
    /// Parses and prepares an address.
    pub fn parse(text: &str) -> Result<Self, JidError> {
        let (local, domain, resource) = split(text);
        Self::new(local, domain, resource)
    }

    /// Puts an address together out of its parts, which are prepared.
    pub fn new(local: Option<&str>, domain: &str, resource: Option<&str>) -> Result<Self, JidError> {
        let local = local.map(prepare_local).transpose()?;
        let domain = prepare_domain(domain)?;
        let resource = resource.map(prepare_resource).transpose()?;
        Ok(Self::join(local.as_deref(), &domain, resource.as_deref()))
    }

    /// The address of a domain that is prepared already, as those of the settings are.
    fn join(local: Option<&str>, domain: &str, resource: Option<&str>) -> Self {
        let separated = |part: Option<&str>| part.map_or(0, |part| part.len() + 1);
        let domain_start = separated(local);
        let domain_end = domain_start + domain.len();
        let mut text = String::with_capacity(domain_end + separated(resource));
        if let Some(local) = local {
            text.push_str(local);
            text.push('@');
        }
        text.push_str(domain);
        if let Some(resource) = resource {
            text.push('/');
            text.push_str(resource);
        }
        // Each part has at most 1023 octets.
        Self { text: text.into_boxed_str(), domain_start: domain_start as u16, domain_end: domain_end as u16 }
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part before the `@`.
    pub fn local(&self) -> Option<&str> {
        self.text[..usize::from(self.domain_start)].strip_suffix('@')
    }

    /// The domain in U-labels.
    pub fn domain(&self) -> &str {
        &self.text[usize::from(self.domain_start)..usize::from(self.domain_end)]
    }

    /// The domain in A-labels, as DNS and SIP have it. `None` if it is too long for DNS.
    pub fn domain_ascii(&self) -> Option<Cow<'_, str>> {
        domain_to_ascii(self.domain())
    }

    /// The part behind the `/`.
    pub fn resource(&self) -> Option<&str> {
        self.text[usize::from(self.domain_end)..].strip_prefix('/')
    }

    /// The address without its resource, as text.
    pub fn bare(&self) -> &str {
        &self.text[..usize::from(self.domain_end)]
    }

    /// The address without its resource.
    pub fn to_bare(&self) -> Self {
        Self { text: self.bare().into(), ..*self }
    }

    /// The address with this resource instead of its own.
    pub fn with_resource(&self, resource: &str) -> Result<Self, JidError> {
        let resource = prepare_resource(resource)?;
        Ok(Self::join(self.local(), self.domain(), Some(&resource)))
    }

    /// Has it no resource?
    pub fn is_bare(&self) -> bool {
        self.resource().is_none()
    }
}

impl fmt::Display for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl AsRef<str> for Jid {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// Splits an address, prepared or not: the first `/` ends local part and domain, the
/// first `@` before it ends the local part (RFC 7622 section 3.1).
pub fn split(text: &str) -> (Option<&str>, &str, Option<&str>) {
    let (bare, resource) = text.split_once('/').map_or((text, None), |(bare, resource)| (bare, Some(resource)));
    let (local, domain) = bare.split_once('@').map_or((None, bare), |(local, domain)| (Some(local), domain));
    (local, domain, resource)
}

/// Prepares a local part.
pub fn prepare_local(local: &str) -> Result<Cow<'_, str>, JidError> {
    if local.bytes().all(|octet| is_local_octet(octet) && !octet.is_ascii_uppercase()) {
        return check_length(local.into(), JidError::Local);
    }
    if local.bytes().all(is_local_octet) {
        return check_length(local.to_ascii_lowercase().into(), JidError::Local);
    }
    let prepared = until_stable(local, |text| UsernameCaseMapped::enforce(text).ok().map(Cow::into_owned));
    let prepared = prepared.ok_or(JidError::Local)?;
    // Wide forms of the excluded characters are those characters by now.
    if !prepared.bytes().all(|octet| !octet.is_ascii() || is_local_octet(octet)) {
        return Err(JidError::Local);
    }
    check_length(prepared.into(), JidError::Local)
}

/// Prepares a resource.
pub fn prepare_resource(resource: &str) -> Result<Cow<'_, str>, JidError> {
    if resource.bytes().all(|octet| matches!(octet, b' '..=b'~')) {
        return check_length(resource.into(), JidError::Resource);
    }
    let prepared = until_stable(resource, |text| OpaqueString::enforce(text).ok().map(Cow::into_owned));
    check_length(prepared.ok_or(JidError::Resource)?.into(), JidError::Resource)
}

/// Prepares a domain: a name, an IPv4 address, or an IPv6 address in brackets.
pub fn prepare_domain(domain: &str) -> Result<Cow<'_, str>, JidError> {
    if let Some(inner) = domain.strip_prefix('[') {
        let address: Option<Ipv6Addr> = inner.strip_suffix(']').and_then(|inner| inner.parse().ok());
        return address.map(|address| format!("[{address}]").into()).ok_or(JidError::Domain);
    }
    let without_dot = domain.strip_suffix('.').unwrap_or(domain);
    if is_plain_domain(without_dot) {
        return check_length(without_dot.into(), JidError::Domain);
    }
    let prepared = until_stable(domain, to_u_labels).ok_or(JidError::Domain)?;
    check_length(prepared.into(), JidError::Domain)
}

/// A prepared domain in A-labels. `None` if it is too long for DNS. An IP literal stays
/// as it is.
pub fn domain_to_ascii(domain: &str) -> Option<Cow<'_, str>> {
    if domain.is_ascii() && (domain.starts_with('[') || domain.len() <= 253) {
        return Some(domain.into());
    }
    let uts46 = Uts46::new();
    let hyphens = Hyphens::CheckFirstLast;
    uts46.to_ascii(domain.as_bytes(), AsciiDenyList::STD3, hyphens, DnsLength::Verify).ok()
}

fn check_length(part: Cow<'_, str>, error: JidError) -> Result<Cow<'_, str>, JidError> {
    if (1..=PART_OCTETS_MAX).contains(&part.len()) { Ok(part) } else { Err(error) }
}

/// Applies a rule until it changes nothing more. Text that is still not at rest after
/// four rounds is refused (RFC 8264 section 7).
fn until_stable(text: &str, rule: impl Fn(&str) -> Option<String>) -> Option<String> {
    if text.len() > JID_OCTETS_MAX {
        return None;
    }
    let mut prepared = rule(text)?;
    for _ in 0..3 {
        let again = rule(&prepared)?;
        if again == prepared {
            return Some(prepared);
        }
        prepared = again;
    }
    None
}

/// ASCII that a local part may have (RFC 7622 section 3.3.1).
const fn is_local_octet(octet: u8) -> bool {
    matches!(octet, b'!'..=b'~') && !matches!(octet, b'"' | b'&' | b'\'' | b'/' | b':' | b'<' | b'>' | b'@')
}

/// Labels of lower-case letters, digits and inner hyphens, none of them an A-label.
fn is_plain_domain(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let octets = label.as_bytes();
        matches!(octets.len(), 1..=63)
            && octets.iter().all(|octet| matches!(octet, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
            && !label.starts_with("xn--")
    })
}

fn to_u_labels(domain: &str) -> Option<String> {
    let uts46 = Uts46::new();
    let (unicode, outcome) = uts46.to_unicode(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast);
    outcome.ok()?;
    // Other full stops were made dots by now.
    let unicode = unicode.strip_suffix('.').unwrap_or(&unicode);
    // Each label has to have an A-label that DNS can carry.
    let ascii = uts46.to_ascii(unicode.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Ignore);
    let fits = |label: &str| matches!(label.len(), 1..=63);
    if !ascii.ok()?.split('.').all(fits) {
        return None;
    }
    // IDNA2008 has letters and digits, where the mapping (UTS 46) still has symbols.
    let class = IdentifierClass::default();
    unicode.split('.').all(|label| class.allows(label).is_ok()).then(|| unicode.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    #[test]
    fn the_parts_are_found_where_the_separators_first_stand() {
        let jid = Jid::parse("lena@chat.example/a@b/c").expect("an address");
        assert_eq!((jid.local(), jid.domain(), jid.resource()), (Some("lena"), "chat.example", Some("a@b/c")));
        assert_eq!(jid.bare(), "lena@chat.example");
        assert_eq!(jid.to_bare().to_string(), "lena@chat.example");
        let jid = Jid::parse("chat.example/x@y").expect("an address");
        assert_eq!((jid.local(), jid.domain(), jid.resource()), (None, "chat.example", Some("x@y")));
        assert_eq!(jid.with_resource("z").expect("an address").as_str(), "chat.example/z");
    }

    #[test]
    fn parts_are_prepared() {
        for (raw, prepared) in [
            ("Lena@Chat.Example/Balkon", "lena@chat.example/Balkon"),
            ("Марта@chat.example", "марта@chat.example"),
            ("e\u{301}va@chat.example", "éva@chat.example"),
            ("straße@chat.example", "straße@chat.example"),
            ("ｌｅｎａ@chat.example", "lena@chat.example"),
            ("李明@chat.example", "李明@chat.example"),
            ("a\\2Fb@chat.example", "a\\2fb@chat.example"),
            ("[x]^`{y|z}@chat.example", "[x]^`{y|z}@chat.example"),
            ("lena@xn--bcher-kva.example", "lena@bücher.example"),
            ("lena@BÜCHER.example.", "lena@bücher.example"),
            ("lena@bu\u{308}cher。example。", "lena@bücher.example"),
            ("lena@[2001:DB8:0::7]", "lena@[2001:db8::7]"),
            ("lena@192.0.2.1", "lena@192.0.2.1"),
            ("lena@chat.example/☎", "lena@chat.example/☎"),
            ("lena@chat.example/a\u{a0}b", "lena@chat.example/a b"),
            ("ΑΣ@chat.example", "ασ@chat.example"),
        ] {
            assert_eq!(Jid::parse(raw).map(|jid| jid.to_string()), Ok(prepared.to_owned()), "{raw}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for raw in [
            "",
            "@chat.example",
            "lena@",
            "lena@chat.example/",
            "a b@chat.example",
            "a'b@chat.example",
            "a<b@chat.example",
            "a\"b@chat.example",
            "a&b@chat.example",
            "a:b@chat.example",
            "a>b@chat.example",
            "a@b@chat.example",
            "a＠b@chat.example",
            "a／b@chat.example",
            "a\tb@chat.example",
            "a\0b@chat.example",
            "a\u{7f}@chat.example",
            "a\u{200b}@chat.example",
            "a\u{fffe}@chat.example",
            "☎@chat.example",
            "אa@chat.example",
            "ᾈ@chat.example",
            "ǅ@chat.example",
            "lena@chat..example",
            "lena@.example",
            "lena@chat_x.example",
            "lena@-a.example",
            "lena@a-.example",
            "lena@ch at.example",
            "lena@[::1",
            "lena@[::1]x",
            "lena@[fe80::1%eth0]",
            "lena@::1",
            "lena@chat.example:5269",
            "lena@xn--a.example",
            "lena@chat.example/a\nb",
            "lena@chat.example/a\0",
            "lena@chat.example/a\u{85}",
            "lena@chat.example..",
            "lena@.",
            "lena@☃.example",
            "lena@。",
        ] {
            assert!(Jid::parse(raw).is_err(), "{raw:?} became {:?}", Jid::parse(raw));
        }
    }

    #[test]
    fn the_address_vectors_hold() {
        let vectors = include_str!("../../tests/standards/address-vectors.tsv");
        let mut seen = 0;
        for line in vectors.lines() {
            let mut columns = line.split('\t');
            match (columns.next(), columns.next(), columns.next()) {
                (Some("X2S"), Some(jid), Some("-")) => assert!(Jid::parse(jid).is_err(), "{jid}"),
                (Some("X2S"), Some(jid), Some(_)) => assert!(Jid::parse(jid).is_ok(), "{jid}"),
                (Some("S2X"), Some(_), Some(jid)) if jid != "-" => {
                    assert_eq!(Jid::parse(jid).as_ref().map(Jid::as_str), Ok(jid));
                }
                _ => continue,
            }
            seen += 1;
        }
        assert!(seen > 50, "only {seen}");
    }

    #[test]
    fn each_part_has_1023_octets_at_most() {
        let (most, more) = ("a".repeat(1023), "a".repeat(1024));
        let domain = |octets: usize| "a.".repeat(512)[..octets].to_owned();
        for (part, fits) in [(&most, true), (&more, false)] {
            assert_eq!(Jid::new(Some(part), "chat.example", None).is_ok(), fits);
            assert_eq!(Jid::new(Some("a"), "chat.example", Some(part)).is_ok(), fits);
        }
        let longest = Jid::new(Some(&most), &domain(1023), Some(&most)).expect("an address");
        assert_eq!(longest.as_str().len(), JID_OCTETS_MAX);
        assert_eq!(longest.domain_ascii(), None);
        assert!(Jid::new(None, &format!("{}a.aa", domain(1022)), None).is_err());
        assert!(Jid::new(None, &format!("{}.example", "a".repeat(64)), None).is_err());
    }

    #[test]
    fn a_domain_goes_to_dns_in_a_labels() {
        let jid = Jid::parse("lena@bücher.example").expect("an address");
        assert_eq!(jid.domain_ascii().as_deref(), Some("xn--bcher-kva.example"));
        assert_eq!(domain_to_ascii("[2001:db8::7]").as_deref(), Some("[2001:db8::7]"));
    }

    #[test]
    fn preparing_twice_is_preparing_once() {
        const PIECES: &[&str] = &[
            "a",
            "B",
            "z",
            "0",
            "-",
            ".",
            "@",
            "/",
            "\\",
            " ",
            "'",
            "ü",
            "U\u{308}",
            "ß",
            "ẞ",
            "Σ",
            "ς",
            "İ",
            "I",
            "ı",
            "ａ",
            "Ａ",
            "ﬁ",
            "\u{301}",
            "\u{327}",
            "Å",
            "\u{212b}",
            "\u{212a}",
            "ᾈ",
            "Ǆ",
            "ǅ",
            "ǰ",
            "ŉ",
            "א",
            "ب",
            "\u{661}",
            "\u{6f1}",
            "ー",
            "ｰ",
            "ｶ",
            "ﾞ",
            "가",
            "\u{1100}",
            "\u{1161}",
            "\u{200d}",
            "\u{94d}",
            "क",
            "·",
            "l·l",
            "・",
            "。",
            "☎",
            "😀",
            "\u{a0}",
            "\u{3000}",
            "\u{feff}",
            "xn--",
            "xn--bcher-kva",
            "\u{1E9B}",
            "\u{323}",
            "\u{390}",
            "\u{1fd3}",
            "\u{345}",
            "𐐀",
            "𞤀",
            "\u{2126}",
            "\u{13a0}",
            "\u{ab70}",
            "\u{10a0}",
        ];
        let mut rng = Rng::from_number(11);
        let mut accepted = 0;
        for _ in 0..60_000 {
            let raw: String = (0..1 + rng.below(7)).map(|_| PIECES[rng.below(PIECES.len() as u64) as usize]).collect();
            for rule in [prepare_local, prepare_domain, prepare_resource] {
                if let Ok(prepared) = rule(&raw) {
                    accepted += 1;
                    assert_eq!(rule(&prepared).as_deref(), Ok(&*prepared), "{raw:?}");
                }
            }
            if let Ok(jid) = Jid::parse(&raw) {
                assert_eq!(Jid::parse(jid.as_str()), Ok(jid.clone()), "{raw:?}");
                if jid.as_str().len() < 200 && !jid.domain().starts_with('[') {
                    let ascii = jid.domain_ascii().expect("a short domain has A-labels").into_owned();
                    assert_eq!(prepare_domain(&ascii).as_deref(), Ok(jid.domain()), "{raw:?}");
                }
            }
        }
        assert!(accepted > 5000, "only {accepted}");
    }

    #[test]
    fn any_character_is_prepared_or_refused_without_a_panic() {
        for code in 0..=0x10FFFF {
            let Some(c) = char::from_u32(code) else { continue };
            let raw = format!("{c}1{c}a{c}");
            for rule in [prepare_local, prepare_domain, prepare_resource] {
                if let Ok(prepared) = rule(&raw) {
                    assert_eq!(rule(&prepared).as_deref(), Ok(&*prepared), "{code:X}");
                }
            }
        }
    }
}
