//! The address of a user on the other side: SIP URI to JID and back (RFC 7247
//! section 6, XEP-0106). Pure text in, text out into the caller's buffer; plain ASCII
//! addresses cost no allocation.
//!
//! The domain stays as it is, so an address is its own mapping and both sides see the
//! one the other side uses. What has no exact counterpart is refused, never guessed:
//! mapping an accepted SIP user part there and back gives the same user after PRECIS.
//!
//! Left out on purpose: `im:` and `pres:` are read and never written; `tel:` has no JID.

use crate::base::text::{hex_upper, hex_value};
use crate::sip::uri::{Scheme, Uri, UriFault, is_host};
use crate::xmpp::jid::{self, Jid, JidError, PART_OCTETS_MAX};

/// Why an address has no counterpart on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotMapped {
    /// It has another scheme than `sip`, `sips`, `im`, `pres` (or `xmpp` the other way).
    Scheme,
    /// It is no URI, or no JID.
    Syntax,
    /// A `%` without two hex digits.
    Escape,
    /// Octets that are no UTF-8.
    Utf8,
    /// A character that the other side does not allow.
    Character,
    /// A part that is longer than the other side allows.
    Length,
    /// A domain that is none on the other side.
    Domain,
}

impl NotMapped {
    /// In words, for logs and reason phrases.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Scheme => "unsupported address scheme",
            Self::Syntax => "malformed address",
            Self::Escape => "bad percent escape in address",
            Self::Utf8 => "address is not UTF-8",
            Self::Character => "forbidden character in address",
            Self::Length => "address too long",
            Self::Domain => "bad domain in address",
        }
    }
}

impl From<UriFault> for NotMapped {
    fn from(fault: UriFault) -> Self {
        match fault {
            UriFault::User => Self::Character,
            UriFault::Host => Self::Domain,
            _ => Self::Syntax,
        }
    }
}

impl From<JidError> for NotMapped {
    fn from(error: JidError) -> Self {
        match error {
            JidError::Local | JidError::Resource => Self::Character,
            JidError::Domain => Self::Domain,
        }
    }
}

/// Writes the JID of a SIP URI into `jid`, which is cleared first. The `gr` parameter
/// becomes the resource; `header_gr` is one that stands behind the brackets, as the
/// examples of RFC 8048 print it (REQ-7247-26). A `gr` without a value marks a
/// temporary GRUU and names no resource (REQ-7247-17).
pub fn to_jid(uri: &str, header_gr: Option<&str>, jid: &mut String) -> Result<(), NotMapped> {
    jid.clear();
    let parts = Parts::of(uri)?;
    if let Some(user) = parts.user {
        push_localpart(user, jid)?;
        jid.push('@');
    }
    jid.push_str(&jid::prepare_domain(parts.host)?);
    // Behind the brackets it may stand in quotes, as any header parameter.
    let header_gr = header_gr.map(|gr| gr.trim_matches('"'));
    if let Some(gr) = [parts.gr, header_gr].into_iter().flatten().find(|gr| !gr.is_empty()) {
        jid.push('/');
        push_resourcepart(gr, jid)?;
    }
    Ok(())
}

/// The JID that a SIP URI stands for; `None`: it has none.
pub fn jid_of(uri: &str) -> Option<Jid> {
    let mut jid = String::new();
    to_jid(uri, None, &mut jid).ok()?;
    Jid::parse(&jid).ok()
}

/// Writes the SIP URI of a prepared JID into `uri`, which is cleared first. Leave
/// `resource` out to get the address of record (REQ-7572-4).
pub fn to_sip(
    localpart: Option<&str>,
    domainpart: &str,
    resourcepart: Option<&str>,
    uri: &mut String,
) -> Result<(), NotMapped> {
    uri.clear();
    uri.push_str("sip:");
    if let Some(localpart) = localpart {
        push_user(localpart, uri)?;
        uri.push('@');
    }
    push_host(domainpart, uri)?;
    if let Some(resource) = resourcepart {
        uri.push_str(";gr=");
        push_escaped(resource.bytes(), GR_UNESCAPED, uri);
    }
    Ok(())
}

/// Writes the SIP URI that an address in `<gone/>` or `<redirect/>` stands for: an
/// `xmpp:` URI mapped, a `sip:` URI as it is.
pub fn uri_to_sip(address: &str, uri: &mut String) -> Result<(), NotMapped> {
    uri.clear();
    let (scheme, rest) = address.split_once(':').ok_or(NotMapped::Syntax)?;
    if scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips") {
        // One that names nobody we could reach is not worth passing on.
        to_jid(address, None, uri)?;
        uri.clear();
        if !is_plain_uri(address) {
            return Err(NotMapped::Character);
        }
        uri.push_str(address);
        return Ok(());
    }
    if !scheme.eq_ignore_ascii_case("xmpp") {
        return Err(NotMapped::Scheme);
    }
    // `xmpp://account@host/jid` names the account to use first (RFC 5122 section 2.2).
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest.split_once('/').ok_or(NotMapped::Syntax)?.1,
        None => rest,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let jid = Jid::parse(&percent_decode(path)?)?;
    to_sip(jid.local(), jid.domain(), jid.resource(), uri)
}

/// Writes the `xmpp:` URI (RFC 5122) of the user a SIP URI names into `address`.
pub fn sip_to_xmpp_uri(uri: &str, address: &mut String) -> Result<(), NotMapped> {
    let mut jid = String::new();
    to_jid(uri, None, &mut jid)?;
    let (local, domain, resource) = jid::split(&jid);
    address.clear();
    address.push_str("xmpp:");
    if let Some(local) = local {
        push_escaped(local.bytes(), XMPP_URI_UNESCAPED, address);
        address.push('@');
    }
    push_escaped(domain.bytes(), XMPP_URI_UNESCAPED, address);
    if let Some(resource) = resource {
        address.push('/');
        push_escaped(resource.bytes(), XMPP_URI_UNESCAPED, address);
    }
    Ok(())
}

/// The parts of a SIP URI that have a counterpart in XMPP.
#[derive(Debug, PartialEq, Eq)]
struct Parts<'a> {
    /// With its escapes, without a password.
    user: Option<&'a str>,
    host: &'a str,
    /// The value of `gr`; empty when it has none.
    gr: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Self, NotMapped> {
        let uri = Uri::parse(text)?;
        match uri.scheme {
            Scheme::Sip | Scheme::Sips => {
                let gr = uri.params.iter().find(|(name, _)| name.eq_ignore_ascii_case("gr"));
                Ok(Self { user: uri.user, host: uri.host, gr: gr.map(|(_, value)| value.unwrap_or_default()) })
            }
            // `im:` and `pres:` have a mailbox and perhaps headers (RFC 3860 section 3).
            Scheme::Other(scheme) if ["im", "pres"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => {
                let mailbox = uri.opaque.split('?').next().unwrap_or_default();
                let (user, host) = mailbox.split_once('@').ok_or(NotMapped::Syntax)?;
                Ok(Self { user: Some(user), host, gr: None })
            }
            Scheme::Other(_) => Err(NotMapped::Scheme),
        }
    }
}

/// May this text stand between the brackets of a Contact as it is? Only characters of
/// RFC 3986, and no longer than a header should be.
pub(super) fn is_plain_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let legal = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&octet);
    text.len() <= 255
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"+-.".contains(&octet))
        && !rest.is_empty()
        && rest.bytes().all(legal)
}

/// Characters of a SIP user part that stand for themselves (RFC 3261 section 25.1:
/// `unreserved` and `user-unreserved`), next to letters and digits.
const USER_UNESCAPED: &[u8] = b"-_.!~*'()&=+$,;?/";

/// The same of a `gr` value (`unreserved` and `param-unreserved`).
const GR_UNESCAPED: &[u8] = b"-_.!~*'()[]/:&+$";

/// The same of an `xmpp:` URI (RFC 5122 section 2.3, less what readers trip over).
const XMPP_URI_UNESCAPED: &[u8] = b"-._~!$()*+,;=[]:";

/// Appends the localpart of a SIP user part.
fn push_localpart(user: &str, jid: &mut String) -> Result<(), NotMapped> {
    if !user.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'%' || USER_UNESCAPED.contains(&octet)) {
        return Err(NotMapped::Character);
    }
    let start = jid.len();
    let mut octets = user.bytes();
    let mut last_literal_backslash = None;
    while let Some(octet) = octets.next() {
        let octet = if octet == b'%' { escaped_octet(&mut octets)? } else { octet };
        if !octet.is_ascii() {
            jid.truncate(start);
            return push_unicode_localpart(user, jid);
        }
        push_localpart_char(octet as char, jid, &mut last_literal_backslash)?;
    }
    check_localpart(&jid[start..])
}

/// The same for a user part that has characters beyond ASCII: these go through
/// PRECIS, which may turn a wide or composed form into a sign that means something in
/// a localpart. Such a user would come back as another one, and is refused.
fn push_unicode_localpart(user: &str, jid: &mut String) -> Result<(), NotMapped> {
    let text = percent_decode(user)?;
    let mut escaped = String::with_capacity(text.len());
    let mut last_literal_backslash = None;
    for c in text.chars() {
        push_localpart_char(c, &mut escaped, &mut last_literal_backslash)?;
    }
    let prepared = jid::prepare_local(&escaped)?;
    check_localpart(&prepared)?;
    let mut again = String::with_capacity(prepared.len());
    let mut last_literal_backslash = None;
    for c in unescaped(&prepared) {
        push_localpart_char(c, &mut again, &mut last_literal_backslash)?;
    }
    let signs = |c: &char| c.is_ascii() && !c.is_ascii_alphanumeric();
    if again != prepared || !unescaped(&prepared).filter(signs).eq(text.chars().filter(signs)) {
        return Err(NotMapped::Character);
    }
    jid.push_str(&prepared);
    Ok(())
}

/// Appends one character to a localpart, escaped by XEP-0106. `last_literal_backslash`
/// is where the last backslash that is no escape stands: one that turns out to begin
/// an escape sequence becomes `\5c`.
fn push_localpart_char(
    c: char,
    localpart: &mut String,
    last_literal_backslash: &mut Option<usize>,
) -> Result<(), NotMapped> {
    if c.is_control() {
        return Err(NotMapped::Character);
    }
    if c == '\\' {
        *last_literal_backslash = Some(localpart.len());
    } else if !c.is_ascii_alphanumeric()
        && let Some((code, _)) = ESCAPES.iter().find(|(_, sign)| *sign == c)
    {
        localpart.push('\\');
        localpart.push_str(code);
        return Ok(());
    }
    localpart.push(c.to_ascii_lowercase());
    if let Some(at) = *last_literal_backslash
        && localpart.len() == at + 3
        && ESCAPES.iter().any(|(code, _)| localpart.ends_with(code))
    {
        localpart.insert_str(at + 1, "5c");
    }
    Ok(())
}

/// The ten sequences of XEP-0106: what stands behind the backslash, and what it means.
const ESCAPES: [(&str, char); 10] = [
    ("20", ' '),
    ("22", '"'),
    ("26", '&'),
    ("27", '\''),
    ("2f", '/'),
    ("3a", ':'),
    ("3c", '<'),
    ("3e", '>'),
    ("40", '@'),
    ("5c", '\\'),
];

/// A localpart with its escape sequences undone, once.
fn unescaped(localpart: &str) -> impl Iterator<Item = char> {
    let mut rest = localpart;
    core::iter::from_fn(move || {
        let escape = rest.strip_prefix('\\').and_then(|rest| ESCAPES.iter().find(|(code, _)| rest.starts_with(code)));
        if let Some(&(_, c)) = escape {
            rest = &rest[3..];
            return Some(c);
        }
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        Some(c)
    })
}

/// Is a prepared localpart one that XEP-0106 allows, and short enough?
fn check_localpart(localpart: &str) -> Result<(), NotMapped> {
    if localpart.len() > PART_OCTETS_MAX {
        return Err(NotMapped::Length);
    }
    if localpart.is_empty() || localpart.starts_with("\\20") || localpart.ends_with("\\20") {
        return Err(NotMapped::Character);
    }
    Ok(())
}

/// Appends the user part of a localpart.
fn push_user(localpart: &str, uri: &mut String) -> Result<(), NotMapped> {
    check_localpart(localpart)?;
    let mut utf8 = [0; 4];
    for c in unescaped(localpart) {
        push_escaped(c.encode_utf8(&mut utf8).bytes(), USER_UNESCAPED, uri);
    }
    Ok(())
}

/// Appends octets, percent-encoded unless letters, digits or among `unescaped`.
fn push_escaped(octets: impl Iterator<Item = u8>, unescaped: &[u8], out: &mut String) {
    for octet in octets {
        if octet.is_ascii_alphanumeric() || unescaped.contains(&octet) {
            out.push(octet as char);
        } else {
            out.push('%');
            out.extend(hex_upper(octet).map(|digit| digit as char));
        }
    }
}

/// Appends the resourcepart of a `gr` value.
fn push_resourcepart(gr: &str, jid: &mut String) -> Result<(), NotMapped> {
    if !gr.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'%' || GR_UNESCAPED.contains(&octet)) {
        return Err(NotMapped::Character);
    }
    let start = jid.len();
    let mut octets = gr.bytes();
    while let Some(octet) = octets.next() {
        let octet = if octet == b'%' { escaped_octet(&mut octets)? } else { octet };
        if !octet.is_ascii() {
            jid.truncate(start);
            jid.push_str(&jid::prepare_resource(&percent_decode(gr)?)?);
            break;
        }
        if octet.is_ascii_control() {
            return Err(NotMapped::Character);
        }
        jid.push(octet as char);
    }
    if jid.len() - start > PART_OCTETS_MAX { Err(NotMapped::Length) } else { Ok(()) }
}

/// The octet that the two hex digits behind a `%` give.
fn escaped_octet(digits: &mut impl Iterator<Item = u8>) -> Result<u8, NotMapped> {
    let mut digit = || digits.next().and_then(hex_value).ok_or(NotMapped::Escape);
    Ok(digit()? << 4 | digit()?)
}

/// Text with its percent escapes undone.
fn percent_decode(text: &str) -> Result<String, NotMapped> {
    let octets = crate::base::text::percent_decode(text).ok_or(NotMapped::Escape)?;
    String::from_utf8(octets).map_err(|_| NotMapped::Utf8)
}

/// Appends the host of a domainpart: in A-labels.
fn push_host(domain: &str, uri: &mut String) -> Result<(), NotMapped> {
    let host = jid::domain_to_ascii(domain).filter(|host| is_host(host)).ok_or(NotMapped::Domain)?;
    uri.push_str(&host);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use crate::xmpp::jid::prepare_local;
    use precis_profiles::UsernameCaseMapped;
    use precis_profiles::precis_core::profile::Rules;

    fn jid_of(uri: &str) -> Result<String, NotMapped> {
        let mut jid = String::new();
        to_jid(uri, None, &mut jid).map(|()| jid)
    }

    fn uri_of(raw: &str) -> Result<String, NotMapped> {
        let jid = Jid::parse(raw)?;
        let mut uri = String::new();
        to_sip(jid.local(), jid.domain(), jid.resource(), &mut uri).map(|()| uri)
    }

    #[test]
    fn every_address_vector_maps_as_it_says() {
        let table = include_str!("../../tests/standards/address-vectors.tsv");
        let mut count = 0;
        for line in table.lines().filter(|line| line.starts_with("S2X\t") || line.starts_with("X2S\t")) {
            let row: Vec<&str> = line.split('\t').collect();
            let mapped = if row[0] == "S2X" { jid_of(row[1]) } else { uri_of(row[1]) };
            assert_eq!(mapped.as_deref().unwrap_or("-"), row[2], "{line}: {mapped:?}");
            count += 1;
        }
        assert!(count >= 70);
    }

    #[test]
    fn a_refused_address_says_why() {
        for (uri, why) in [
            ("tel:+4930123456", NotMapped::Scheme),
            ("im:bad%ZZ@voip.example", NotMapped::Escape),
            ("im:voip.example", NotMapped::Syntax),
            ("sip:bad%ZZ@voip.example", NotMapped::Character),
            ("sip:bad%FF@voip.example", NotMapped::Utf8),
            ("sip:nul%00l@voip.example", NotMapped::Character),
            ("sip:a#b@voip.example", NotMapped::Character),
            ("sip:@voip.example", NotMapped::Character),
            ("sip:", NotMapped::Domain),
            ("", NotMapped::Syntax),
            ("sip:a@-x.example", NotMapped::Domain),
            ("sip:a@x..example", NotMapped::Domain),
            ("sip:a@x_y.example", NotMapped::Domain),
            ("sip:a@[::1", NotMapped::Domain),
            ("sip:a@[::g]", NotMapped::Domain),
            ("sip:a@voip.example:70000", NotMapped::Syntax),
            ("sip:a@xn--zzzzzz.example", NotMapped::Domain),
            ("sip:a@voip.example;gr=a%0Db", NotMapped::Character),
            ("sip:a@voip.example;gr=%FF", NotMapped::Utf8),
        ] {
            assert_eq!(jid_of(uri), Err(why), "{uri}");
        }
    }

    #[test]
    fn req_7247_26_a_gr_behind_the_brackets_counts_when_none_is_inside() {
        let mut jid = String::new();
        to_jid("sip:ana@voip.example", Some("desk"), &mut jid).expect("a JID");
        assert_eq!(jid, "ana@voip.example/desk");
        to_jid("sip:ana@voip.example;gr", Some("\"desk\""), &mut jid).expect("a JID");
        assert_eq!(jid, "ana@voip.example/desk");
        to_jid("sip:ana@voip.example;gr=sofa", Some("desk"), &mut jid).expect("a JID");
        assert_eq!(jid, "ana@voip.example/sofa");
    }

    #[test]
    fn req_7247_21_a_localpart_beyond_1023_octets_has_no_jid() {
        let uri = |user: &str| jid_of(&format!("sip:{user}@voip.example"));
        assert!(uri(&"a".repeat(1023)).is_ok());
        assert_eq!(uri(&"a".repeat(1024)), Err(NotMapped::Length));
        assert_eq!(uri(&"'".repeat(342)), Err(NotMapped::Length));
        assert_eq!(uri("a%20"), Err(NotMapped::Character));
    }

    #[test]
    fn req_7247_31_a_domain_without_a_labels_has_no_sip_uri() {
        for jid in ["a@b_c.example", "a@\u{200b}.example", "a@x y.example", "a@"] {
            assert!(uri_of(jid).is_err(), "{jid}");
        }
    }

    #[test]
    fn a_form_that_precis_turns_into_a_sign_is_refused() {
        // Wide backslash, wide digits behind a backslash, a dot that joins an escape.
        for user in ["%EF%BC%BC27", "%5C%EF%BC%92%EF%BC%97", "/%CC%87", "a%EF%BC%A0b"] {
            assert_eq!(jid_of(&format!("sip:{user}@voip.example")), Err(NotMapped::Character), "{user}");
        }
        assert_eq!(jid_of("sip:a%5C5Cb@voip.example").as_deref(), Ok("a\\5c5cb@voip.example"));
    }

    #[test]
    fn a_command_like_user_is_only_text() {
        assert_eq!(
            jid_of("sip:api+system;rm=%24(x)@voip.example?Route=%3Csip:evil%3E").as_deref(),
            Ok("api+system;rm=$(x)@voip.example")
        );
    }

    #[test]
    fn a_uri_in_an_error_maps_both_ways() {
        let mut out = String::new();
        uri_to_sip("xmpp:m%5C26m@chat.example/a%20b?message", &mut out).expect("a SIP URI");
        assert_eq!(out, "sip:m&m@chat.example;gr=a%20b");
        uri_to_sip("xmpp://me@home.example/you@chat.example", &mut out).expect("a SIP URI");
        assert_eq!(out, "sip:you@chat.example");
        sip_to_xmpp_uri("sip:m&m@voip.example;gr=a%20b", &mut out).expect("an XMPP URI");
        assert_eq!(out, "xmpp:m%5C26m@voip.example/a%20b");
        assert_eq!(uri_to_sip("sip:a b@c", &mut out), Err(NotMapped::Character));
    }

    /// A user text out of letters that are awkward somewhere.
    fn awkward(rng: &mut Rng) -> String {
        const PIECES: &[&str] = &[
            "a",
            "B",
            "z",
            "0",
            "2",
            "5",
            "c",
            "C",
            "f",
            "7",
            "\\",
            "\\5c",
            "\\20",
            "\\27",
            "\\2F",
            " ",
            "\"",
            "&",
            "'",
            "/",
            ":",
            "<",
            ">",
            "@",
            "%",
            "%5C",
            "#",
            "[",
            "]",
            "^",
            "`",
            "{",
            "|",
            "}",
            ";",
            "=",
            "?",
            ",",
            "\u{fc}",
            "\u{dc}",
            "\u{df}",
            "\u{301}",
            "\u{327}",
            "\u{307}",
            "\u{ff21}",
            "\u{ff3c}",
            "\u{ff12}",
            "\u{5d0}",
            "\u{627}",
            "\u{661}",
            "\u{674e}",
            "\u{41c}",
            "\u{430}",
            "\u{130}",
            "\u{131}",
            "\u{3c3}",
            "\u{3a3}",
            "\u{3c2}",
            "\u{1f600}",
            "\u{200d}",
            "\u{37e}",
            "\u{212a}",
            "\u{0}",
            "\u{7f}",
            "\u{ad}",
            "\u{e9}",
            "\u{1e9e}",
            "\u{1c4}",
            "\u{338}",
        ];
        (0..1 + rng.below(7)).map(|_| PIECES[rng.below(PIECES.len() as u64) as usize]).collect()
    }

    fn encoded(text: &str) -> String {
        let mut out = String::new();
        push_escaped(text.bytes(), USER_UNESCAPED, &mut out);
        out
    }

    #[test]
    fn req_7247_32_a_sip_user_comes_back_the_same_or_is_refused() {
        let mut rng = Rng::from_number(0x7247);
        let mut accepted = std::collections::BTreeMap::new();
        for _ in 0..100_000 {
            let text = awkward(&mut rng);
            let uri = format!("sip:{}@voip.example", encoded(&text));
            let Ok(jid) = jid_of(&uri) else { continue };
            let local = jid.split_once('@').expect("a localpart").0;
            assert_eq!(prepare_local(local).as_deref(), Ok(local), "{text:?} has no stable localpart");
            let back = uri_of(&jid).expect("a SIP URI");
            assert_eq!(jid_of(&back).as_ref(), Ok(&jid), "{text:?} moves from {jid} by {back}");
            // The user that came back is the user after PRECIS, signs and all.
            let came_back: String = unescaped(local).collect();
            let wanted = fold(&text);
            assert_eq!(came_back, wanted, "{text:?} came back as another user");
            let before = accepted.insert(jid.clone(), wanted.clone());
            assert!(before.is_none_or(|before| before == wanted), "two users at {jid}");
        }
        assert!(accepted.len() > 10_000);
    }

    /// What PRECIS makes of a user text, its signs untouched: a sign that no piece has
    /// stands in for them meanwhile.
    fn fold(text: &str) -> String {
        let is_sign = |c: char| ESCAPES.iter().any(|(_, sign)| *sign == c);
        let mut signs = text.chars().filter(|c| is_sign(*c));
        // Without the directionality rule, which looks at the escaped form.
        let profile = UsernameCaseMapped::new();
        let folded = profile.width_mapping_rule(text.replace(is_sign, "~")).expect("an accepted user");
        let folded = profile.case_mapping_rule(folded).expect("an accepted user");
        let folded = profile.normalization_rule(folded).expect("an accepted user");
        folded.chars().map(|c| if c == '~' { signs.next().expect("as many signs") } else { c }).collect()
    }

    #[test]
    fn req_7247_32_a_localpart_comes_back_the_same() {
        let mut rng = Rng::from_number(0x0106);
        let mut count = 0;
        for _ in 0..100_000 {
            let mut local = String::new();
            let mut backslash = None;
            if awkward(&mut rng).chars().any(|c| push_localpart_char(c, &mut local, &mut backslash).is_err()) {
                continue;
            }
            let jid = format!("{local}@chat.example");
            let Ok(uri) = uri_of(&jid) else { continue };
            let Ok(prepared) = prepare_local(&local) else { continue };
            // A sequence that only PRECIS brings about is one that XEP-0106 does not make.
            let Ok(back) = jid_of(&uri) else { continue };
            let canonical: String = unescaped(&prepared).collect();
            let again: String = unescaped(back.split_once('@').expect("a localpart").0).collect();
            assert_eq!(again, canonical, "{jid} by {uri}");
            count += 1;
        }
        assert!(count > 20_000);
    }

    #[test]
    fn any_octets_are_mapped_or_refused_without_harm() {
        let mut rng = Rng::from_number(99);
        let seeds = ["sip:a%40b:pw@VOIP.example:5060;gr=x%20y;lr?s=t", "sip:%E6%9D%8E@[2001:db8::7];gr", "xmpp:a@b/c"];
        let mut out = String::new();
        for round in 0..50_000_usize {
            let mut bytes = seeds[round % seeds.len()].as_bytes().to_vec();
            for _ in 0..1 + rng.below(4) {
                let at = rng.below(bytes.len() as u64) as usize;
                match rng.below(3) {
                    0 => bytes[at] = rng.below(256) as u8,
                    1 => bytes.insert(at, rng.below(256) as u8),
                    _ => drop(bytes.remove(at)),
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            if to_jid(&text, Some("r%20s"), &mut out).is_ok() {
                assert!(!out.contains(char::is_control), "{text:?} gives {out:?}");
            }
            if uri_to_sip(&text, &mut out).is_ok() {
                assert!(out.bytes().all(|octet| octet.is_ascii_graphic()), "{text:?} gives {out:?}");
            }
        }
    }
}
