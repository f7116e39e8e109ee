//! Is somebody typing? Two documents say so: `application/im-iscomposing+xml` in a MESSAGE
//! (RFC 3994), and `KeyboardActivity`, which Lync and its forerunners send in an INFO. Both
//! are read as tolerantly as can be done without doubt about what they say, and written
//! in the one form that all readers know.

use super::Refusal;
use crate::base::xml::{Limits, Node, Tree};
use core::fmt::Write;
use std::borrow::Cow;

const NAMESPACE: &str = "urn:ietf:params:xml:ns:im-iscomposing";

/// The type of the document of RFC 3994.
pub const COMPOSING_TYPE: &str = "application/im-iscomposing+xml";
/// The type of a `KeyboardActivity` document, and of much else.
pub const KEYBOARD_TYPE: &str = "application/xml";

/// A status document has four elements; anything much larger is none.
const LIMITS: Limits = Limits { octets: 4096, depth: 4, elements: 16, attributes: 8 };

/// The octets of a document among which its XML declaration ends.
const DECLARATION_OCTETS_MAX: usize = 256;

/// What somebody who writes to us does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Typing {
    /// Is he typing? If not, he has stopped to.
    pub active: bool,
    /// After how many seconds without news he is taken for idle again (RFC 3994 section
    /// 3.2), where the document says so.
    pub refresh_s: Option<u32>,
}

/// Reads a status document of RFC 3994. An unknown state is idle (REQ-IM-18).
/// `Malformed` if it is no such document.
pub(super) fn read_composing(octets: &[u8]) -> Result<Typing, Refusal> {
    let mut tree = Tree::new();
    let octets = undeclared(octets);
    let root = tree.parse_document(&octets, LIMITS).map_err(|_| Refusal::Malformed)?;
    // Some leave the namespace out.
    if root.name() != "isComposing" {
        return Err(Refusal::Malformed);
    }
    let state = child(root, "state").ok_or(Refusal::Malformed)?;
    let refresh = child(root, "refresh").and_then(|refresh| refresh.text().trim().parse().ok());
    Ok(Typing { active: state.text().trim() == "active", refresh_s: refresh.filter(|seconds| *seconds > 0) })
}

/// Reads a `KeyboardActivity` document, the body of an INFO of type [`KEYBOARD_TYPE`].
/// `None` if it is another document, or says something else than typing or idle.
pub fn read_keyboard(octets: &[u8]) -> Option<Typing> {
    let mut tree = Tree::new();
    let octets = undeclared(octets);
    let root = tree.parse_document(&octets, LIMITS).ok().filter(|root| root.name() == "KeyboardActivity")?;
    let mut attributes = child(root, "status")?.attributes();
    let (_, _, status) = attributes.find(|(name, _, _)| *name == "status")?;
    let active = match status.trim() {
        "type" => true,
        "idle" => false,
        _ => return None,
    };
    Some(Typing { active, refresh_s: None })
}

/// The `KeyboardActivity` document that says so.
pub const fn keyboard_document(active: bool) -> &'static str {
    if active {
        "<?xml version=\"1.0\"?><KeyboardActivity><status status=\"type\" /></KeyboardActivity>"
    } else {
        "<?xml version=\"1.0\"?><KeyboardActivity><status status=\"idle\" /></KeyboardActivity>"
    }
}

/// Appends the document of RFC 3994 that says so.
pub fn composing_document(typing: Typing, out: &mut String) {
    let state = if typing.active { "active" } else { "idle" };
    // Writing into a String does not fail.
    let _ = write!(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<isComposing xmlns=\"{NAMESPACE}\"><state>{state}</state>\
         <contenttype>text/plain</contenttype>"
    );
    if let Some(seconds) = typing.refresh_s.filter(|_| typing.active) {
        let _ = write!(out, "<refresh>{seconds}</refresh>");
    }
    out.push_str("</isComposing>");
}

/// The first child of that name, whatever its namespace.
fn child<'a>(node: Node<'a>, name: &str) -> Option<Node<'a>> {
    node.children().find(|child| child.name() == name)
}

/// The document as UTF-8 and without its XML declaration: some say utf-16 there and write
/// UTF-8, and some do write UTF-16.
fn undeclared(octets: &[u8]) -> Cow<'_, [u8]> {
    let is_utf16 = matches!(octets, [0xFE, 0xFF, ..] | [0xFF, 0xFE, ..] | [0, b'<', ..] | [b'<', 0, ..]);
    if is_utf16 && octets.len() <= 2 * LIMITS.octets {
        return behind_declaration(from_utf16(octets).as_bytes()).to_vec().into();
    }
    behind_declaration(octets.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(octets).trim_ascii_start()).into()
}

fn from_utf16(octets: &[u8]) -> String {
    let is_little_endian = matches!(octets, [0xFF, ..] | [b'<', ..]);
    let unit = if is_little_endian { u16::from_le_bytes } else { u16::from_be_bytes };
    let units = octets.as_chunks::<2>().0.iter().map(|pair| unit(*pair)).skip_while(|unit| *unit == 0xFEFF);
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

fn behind_declaration(octets: &[u8]) -> &[u8] {
    let Some(declaration) =
        octets.strip_prefix(b"<?xml").filter(|rest| rest.first().is_some_and(u8::is_ascii_whitespace))
    else {
        return octets;
    };
    let end = declaration.windows(2).take(DECLARATION_OCTETS_MAX).position(|two| two == b"?>");
    end.and_then(|end| declaration.get(end + 2..)).unwrap_or(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(inside: &str) -> Result<Typing, Refusal> {
        let document = format!("<?xml version='1.0'?><isComposing xmlns='{NAMESPACE}'>{inside}</isComposing>");
        read_composing(document.as_bytes())
    }

    const fn says(active: bool, refresh_s: Option<u32>) -> Typing {
        Typing { active, refresh_s }
    }

    #[test]
    fn req_im_18_an_unknown_state_is_idle() {
        assert_eq!(state("<state>active</state><refresh>90</refresh>"), Ok(says(true, Some(90))));
        assert_eq!(state("<refresh> 7\n</refresh><state>\n active </state>"), Ok(says(true, Some(7))));
        assert_eq!(state("<state>idle</state>"), Ok(says(false, None)));
        assert_eq!(state("<state>thinking</state><new xmlns='x'/>"), Ok(says(false, None)));
        for refresh in ["0", "-1", "99999999999", "soon", ""] {
            assert_eq!(state(&format!("<state>active</state><refresh>{refresh}</refresh>")), Ok(says(true, None)));
        }
        assert_eq!(state(""), Err(Refusal::Malformed));
        assert_eq!(read_composing(b"<isComposing>"), Err(Refusal::Malformed));
        assert_eq!(read_composing(b"<isComposing><state>active</state></isComposing>"), Ok(says(true, None)));
    }

    #[test]
    fn the_keyboard_document_is_read_however_it_is_written() {
        let utf16 = |text: &str, unit: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        let typing = "<KeyboardActivity><status status='type'/></KeyboardActivity>";
        for document in [
            typing.as_bytes().to_vec(),
            format!("<?xml version=\"1.0\"?>{typing}").into_bytes(),
            format!("\u{FEFF}<?xml version=\"1.0\" encoding=\"utf-16\"?>\r\n{typing}\r\n").into_bytes(),
            format!("\r\n<?xml version='1.0' encoding='UTF-16' standalone='yes' ?>{typing}").into_bytes(),
            utf16(&format!("\u{FEFF}<?xml version='1.0' encoding='utf-16'?>{typing}"), u16::to_le_bytes),
            utf16(typing, u16::to_be_bytes),
            b"<k:KeyboardActivity xmlns:k='urn:x'>\n <k:status seq='4' status='type' of='x'>\n</k:status></k:KeyboardActivity>"
                .to_vec(),
        ] {
            assert_eq!(read_keyboard(&document), Some(says(true, None)), "{:?}", String::from_utf8_lossy(&document));
        }
        assert_eq!(read_keyboard(keyboard_document(false).as_bytes()), Some(says(false, None)));
        assert_eq!(read_keyboard(keyboard_document(true).as_bytes()), Some(says(true, None)));
    }

    #[test]
    fn what_does_not_say_who_types_says_nothing() {
        for document in [
            "",
            "KeyboardActivity",
            "<KeyboardActivity/>",
            "<KeyboardActivity><status/></KeyboardActivity>",
            "<KeyboardActivity><status status='sleep'/></KeyboardActivity>",
            "<KeyboardActivity><a><status status='type'/></a></KeyboardActivity>",
            "<Keyboard><status status='type'/></Keyboard>",
            "<!DOCTYPE KeyboardActivity><KeyboardActivity><status status='type'/></KeyboardActivity>",
            "<?xml version='1.0'?><!DOCTYPE k [<!ENTITY t 'type'>]><KeyboardActivity><status status='&t;'/></KeyboardActivity>",
            "<?xml version='1.0'",
        ] {
            assert_eq!(read_keyboard(document.as_bytes()), None, "{document}");
        }
        let deep = format!("{}{}", "<KeyboardActivity>".repeat(9), "</KeyboardActivity>".repeat(9));
        assert_eq!(read_keyboard(deep.as_bytes()), None);
        let long = format!("<?xml {}?>", " ".repeat(100_000));
        assert_eq!(read_keyboard(long.as_bytes()), None);
        let wide = "<\0".repeat(100_000);
        assert_eq!(read_keyboard(wide.as_bytes()), None);
    }

    #[test]
    fn what_is_written_is_read_again() {
        for typing in [says(true, Some(60)), says(true, None), says(false, None)] {
            let mut document = String::new();
            composing_document(typing, &mut document);
            assert_eq!(read_composing(document.as_bytes()), Ok(typing));
        }
        let mut document = String::new();
        composing_document(says(false, Some(60)), &mut document);
        assert!(!document.contains("refresh"), "{document}");
    }
}
