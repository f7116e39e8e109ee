//! What of a stanza may stand in a SIP request: text in header fields, the thread as a
//! Call-ID, a language tag, and which of several bodies is sent.

use crate::base::text::cut;
use crate::base::xml::Node;
use crate::xmpp::ns;

/// Longest Call-ID that a thread may become, in octets (decision D-20).
const CALL_ID_OCTETS_MAX: usize = 255;

/// Appends `text` to `out` as one line for a header field or a reason phrase: controls,
/// line and paragraph separators become blanks, a row of blanks one, none stand at the
/// ends; cut at `octets` on a whole character (REQ-7247-54).
pub fn header_text(text: &str, octets: usize, out: &mut String) {
    let start = out.len();
    for c in text.chars() {
        if out.len() - start >= octets {
            break;
        }
        match c {
            c if c.is_control() || c == ' ' || matches!(c, '\u{2028}' | '\u{2029}' | '\u{FEFF}') => {
                if out.len() > start && !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            // Direction overrides would let a subject pose as something else.
            '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => {}
            c => out.push(c),
        }
    }
    let kept = out.get(start..).map_or(0, |text| cut(text, octets).trim_end().len());
    out.truncate(start + kept);
}

/// Is this thread a Call-ID as it stands: `word [ "@" word ]` (RFC 3261 section 25.1)?
pub fn call_id(thread: &str) -> Option<&str> {
    let is_word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-.!%*_+`'~()<>:\\\"/[]?{}".contains(&octet))
    };
    let legal = match thread.split_once('@') {
        Some((left, right)) => is_word(left) && is_word(right),
        None => is_word(thread),
    };
    (legal && thread.len() <= CALL_ID_OCTETS_MAX).then_some(thread)
}

/// A language tag that may stand in Content-Language (RFC 3261 section 25.1: letters
/// in subtags of up to eight; digits as RFC 5646 has them), or in xml:lang.
pub fn language(tag: &str) -> Option<&str> {
    let tag = tag.trim();
    let mut subtags = tag.split('-');
    let is_primary = |tag: &str| (1..=8).contains(&tag.len()) && tag.bytes().all(|octet| octet.is_ascii_alphabetic());
    let is_subtag = |tag: &str| (1..=8).contains(&tag.len()) && tag.bytes().all(|octet| octet.is_ascii_alphanumeric());
    (tag.len() <= 35 && subtags.next().is_some_and(is_primary) && subtags.all(is_subtag)).then_some(tag)
}

/// The first tag of a Content-Language value (REQ-7572-30).
pub fn first_language(value: &str) -> Option<&str> {
    value.split(',').find_map(language)
}

/// Which of several `<body/>` elements is sent: the one without xml:lang of its own,
/// else the one in the stanza's language, else the first (REQ-7572-8). Gives the place
/// and the language it is in.
pub fn pick_body<'a>(
    languages: impl Iterator<Item = Option<&'a str>>,
    stanza_language: Option<&'a str>,
) -> Option<(usize, Option<&'a str>)> {
    let mut picked = None;
    for (place, own) in languages.enumerate() {
        let Some(own) = own else { return Some((place, stanza_language)) };
        let is_default = stanza_language.is_some_and(|default| default.eq_ignore_ascii_case(own));
        match picked {
            None => picked = Some((place, Some(own), is_default)),
            Some((_, _, false)) if is_default => picked = Some((place, Some(own), true)),
            Some(_) => {}
        }
    }
    picked.map(|(place, language, _)| (place, language))
}

/// Does this child of a message say that its text is encrypted? Like [`is_encrypted`],
/// but a hint (XEP-0380) that names OTR is none: OTR travels as text, which passes.
pub fn encrypts(child: Node<'_>) -> bool {
    let is_otr_hint = child.is("encryption", ns::ENCRYPTION) && child.attribute("namespace") == Some("urn:xmpp:otr:0");
    is_encrypted(child.namespace(), child.name()) && !is_otr_hint
}

/// Is this the namespace of a payload that is encrypted end to end, so that whatever
/// body stands beside it is no message (REQ-7572-33, REQ-XI-36)? `name` is the
/// element's.
fn is_encrypted(namespace: &str, name: &str) -> bool {
    match namespace {
        ns::OMEMO_LEGACY | "urn:xmpp:omemo:0" | "urn:xmpp:omemo:1" | ns::OMEMO => name == "encrypted",
        ns::OPENPGP => name == "openpgp",
        "jabber:x:encrypted" => name == "x",
        "urn:ietf:params:xml:ns:xmpp-e2e" => name == "e2e",
        ns::ENCRYPTION => name == "encryption",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, octets: usize) -> String {
        let mut out = String::new();
        header_text(text, octets, &mut out);
        out
    }

    #[test]
    fn req_7247_54_text_cannot_break_out_of_a_header() {
        assert_eq!(line("eins\r\nRoute: <sip:evil.example>", 200), "eins Route: <sip:evil.example>");
        assert_eq!(line("\u{0}a\u{85}b\u{2028}c\u{202e}d\u{7f} ", 200), "a b cd");
        assert_eq!(line("\u{fc}\u{fc}\u{fc}", 5), "\u{fc}\u{fc}");
        assert_eq!(line("ab  \r\n cd", 3), "ab");
    }

    #[test]
    fn req_7572_6_only_a_legal_thread_is_a_call_id() {
        for thread in ["5f3c1d2e-0001", "9b1f77@192.0.2.21", "a!b<c>{d}\"\\"] {
            assert_eq!(call_id(thread), Some(thread));
        }
        let long = "x".repeat(256);
        for thread in ["", "@", "a@", "a@b@c", "a b", "th\nX-Evil: 1", "\u{fc}", "a;b", "a,b", &long] {
            assert_eq!(call_id(thread), None, "{thread:?}");
        }
    }

    #[test]
    fn req_7572_30_only_language_tags_pass() {
        assert_eq!(language(" de-DE-1996 "), Some("de-DE-1996"));
        assert_eq!(first_language("!, fr, en"), Some("fr"));
        for tag in ["", "-", "de-", "de\r\nx: y", "123", "abcdefghi"] {
            assert_eq!(language(tag), None, "{tag:?}");
        }
    }

    #[test]
    fn req_7572_8_the_body_without_a_language_goes_first() {
        let pick = |own: &[Option<&'static str>], stanza| pick_body(own.iter().copied(), stanza);
        assert_eq!(pick(&[Some("de"), None], Some("en")), Some((1, Some("en"))));
        assert_eq!(pick(&[Some("de"), Some("EN")], Some("en")), Some((1, Some("EN"))));
        assert_eq!(pick(&[Some("de"), Some("fr")], Some("en")), Some((0, Some("de"))));
        assert_eq!(pick(&[], Some("en")), None);
    }

    #[test]
    fn req_7572_33_encrypted_payloads_are_known_by_their_namespace() {
        assert!(is_encrypted("eu.siacs.conversations.axolotl", "encrypted"));
        assert!(is_encrypted("urn:xmpp:eme:0", "encryption"));
        assert!(!is_encrypted("urn:xmpp:receipts", "request"));
    }

    #[test]
    fn req_7572_33_otr_passes_as_text() {
        use crate::base::xml::{Limits, Tree};
        let mut tree = Tree::new();
        for (namespace, encrypted) in [("urn:xmpp:otr:0", false), ("urn:xmpp:omemo:2", true)] {
            let hint = format!("<encryption xmlns='urn:xmpp:eme:0' namespace='{namespace}'/>");
            let hint = tree.parse_document(hint.as_bytes(), Limits::STANZA).expect("an element");
            assert_eq!(encrypts(hint), encrypted, "{namespace}");
        }
    }
}
