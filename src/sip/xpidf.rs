//! Presence documents, application/xpidf+xml: what public providers and the phones of
//! before RFC 3863 sent, with the words of MSN Messenger where they are.
//!
//! Its documents begin with a document type declaration. That is cut off unread: nothing
//! is fetched, and since no declaration inside it is ever taken in, there is no entity to
//! be expanded. One with declarations of its own is refused.
//!
//! Left out on purpose: everything but who it is, how available he is and what he is
//! called.

use super::msrtc::Availability;
use super::pidf::{LIMITS, Malformed, to_utf8, without_false_declaration};
use crate::base::outbox::Writer;
use crate::base::xml::{Node, Tag, Tree};

/// The media type.
pub const CONTENT_TYPE: &str = "application/xpidf+xml";

/// What its own words mean.
const STATUSES: [(&str, Availability); 4] = [
    ("open", Availability::Available),
    ("inuse", Availability::Busy),
    ("inactive", Availability::Away),
    ("closed", Availability::Offline),
];
/// What the words of MSN Messenger mean, for somebody who is not `closed`.
const SUBSTATUSES: [(&str, Availability); 7] = [
    ("online", Availability::Available),
    ("away", Availability::Away),
    ("idle", Availability::AvailableIdle),
    ("busy", Availability::Busy),
    ("berightback", Availability::BeRightBack),
    ("onthephone", Availability::Busy),
    ("outtolunch", Availability::Away),
];

/// A presence document.
#[derive(Clone, Copy, Debug)]
pub struct Document<'a> {
    root: Node<'a>,
    uri: &'a str,
}

impl<'a> Document<'a> {
    /// Reads a document. XML and its bounds are those of [`super::pidf`].
    pub fn parse(octets: &[u8], tree: &'a mut Tree) -> Result<Self, Malformed> {
        let octets = to_utf8(without_false_declaration(octets))?;
        let root = tree.parse_document(behind_document_type(&octets)?, LIMITS)?;
        if !root.is("presence", "") {
            return Err(Malformed::new("no presence document"));
        }
        let uri = root.child("presentity", "").and_then(|presentity| presentity.attribute("uri")).map(str::trim);
        let uri = uri.filter(|uri| !uri.is_empty()).ok_or(Malformed::new("presence document without presentity"))?;
        Ok(Self { root, uri })
    }

    /// Whose presence it is: a URI, as it stands, often with the parameter `method`.
    pub fn uri(self) -> &'a str {
        self.uri
    }

    /// How available he is at the address where he is most; `None`: it does not say so.
    pub fn availability(self) -> Option<Availability> {
        let atoms = self.root.children().filter(|child| child.is("atom", ""));
        let addresses = atoms.flat_map(Node::children).filter(|child| child.is("address", ""));
        let mut all = addresses.filter_map(availability_at);
        let first = all.next()?;
        if first == Availability::Offline { Some(all.find(|one| *one != first).unwrap_or(first)) } else { Some(first) }
    }

    /// What he is called.
    pub fn display_name(self) -> Option<&'a str> {
        self.root.child("display", "")?.attribute("name")
    }
}

fn availability_at(address: Node<'_>) -> Option<Availability> {
    let word = |element: &str, attribute: &str| address.child(element, "")?.attribute(attribute).map(str::trim);
    let find = |words: &[(&str, Availability)], word: &str| {
        words.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, availability)| *availability)
    };
    let status = find(&STATUSES, word("status", "status")?)?;
    let finer = word("msnsubstatus", "substatus").and_then(|word| find(&SUBSTATUSES, word));
    Some(finer.filter(|_| status != Availability::Offline).unwrap_or(status))
}

/// Writes what is said of somebody; `address` is without a scheme.
pub fn emit(w: &mut Writer<'_>, address: &str, availability: Availability, display_name: Option<&str>) {
    // The first row of each is the one that is written.
    let substatus = SUBSTATUSES.iter().find(|(_, known)| *known == availability).map(|(word, _)| *word);
    let status = match availability {
        Availability::Offline => "closed",
        Availability::Available => "open",
        Availability::Busy | Availability::BusyIdle | Availability::DoNotDisturb => "inuse",
        Availability::AvailableIdle | Availability::BeRightBack | Availability::Away => "inactive",
    };
    let uri = format!("sip:{address}");
    w.str("<?xml version='1.0' encoding='UTF-8'?>");
    w.str("<!DOCTYPE presence PUBLIC '-//IETF//DTD RFCxxxx XPIDF 1.0//EN' 'xpidf.dtd'>");
    Tag::begin(w, "presence").content(|w| {
        Tag::begin(w, "presentity").attribute("uri", &format!("{uri};method=SUBSCRIBE")).empty();
        if let Some(name) = display_name {
            Tag::begin(w, "display").attribute("name", name).empty();
        }
        Tag::begin(w, "atom").attribute("id", "1").content(|w| {
            Tag::begin(w, "address").attribute("uri", &uri).attribute("priority", "0.8").content(|w| {
                Tag::begin(w, "status").attribute("status", status).empty();
                if let Some(substatus) = substatus.or_else(|| (status == "inuse").then_some("busy")) {
                    Tag::begin(w, "msnsubstatus").attribute("substatus", substatus).empty();
                }
            });
        });
    });
}

/// What stands behind XML declaration and document type declaration. The document is one
/// element, so what is cut off in front of it takes nothing else with it.
fn behind_document_type(octets: &[u8]) -> Result<&[u8], Malformed> {
    let bad = Malformed::new("document type declaration");
    let blank = |text: &[u8]| text.trim_ascii_start().len();
    let mut rest = octets.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(octets);
    if rest.starts_with(b"<?xml") {
        let end = rest.windows(2).position(|pair| pair == b"?>").ok_or(bad)?;
        let behind = rest.get(end + 2..).unwrap_or_default();
        let behind = behind.get(behind.len() - blank(behind)..).unwrap_or_default();
        if !behind.starts_with(b"<!DOCTYPE") {
            return Ok(octets);
        }
        rest = behind;
    } else {
        rest = rest.get(rest.len() - blank(rest)..).unwrap_or_default();
        if !rest.starts_with(b"<!DOCTYPE") {
            return Ok(octets);
        }
    }
    let mut quote = None;
    for (at, octet) in rest.iter().enumerate() {
        match (*octet, quote) {
            (octet, Some(open)) if octet == open => quote = None,
            (_, Some(_)) => {}
            (b'"' | b'\'', None) => quote = Some(*octet),
            (b'[' | b']', None) => return Err(bad),
            (b'>', None) => return Ok(rest.get(at + 1..).unwrap_or_default()),
            _ => {}
        }
    }
    Err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::outbox::Outbox;

    const PROLOG: &str = "<?xml version=\"1.0\"?>\r\n<!DOCTYPE presence PUBLIC \"-//IETF//DTD RFCxxxx XPIDF 1.0//EN\" \"xpidf.dtd\">\r\n";

    fn document(inside: &str) -> String {
        format!("<presence><presentity uri='sip:runa@fjord.example;method=SUBSCRIBE'/>{inside}</presence>")
    }

    fn availability(text: &str) -> Result<Option<Availability>, &'static str> {
        let mut tree = Tree::new();
        Document::parse(text.as_bytes(), &mut tree).map(Document::availability).map_err(|malformed| malformed.cause)
    }

    fn address(inside: &str) -> String {
        format!("<atom id='7'><address uri='sip:runa@fjord.example' priority='0.8'>{inside}</address></atom>")
    }

    #[test]
    fn every_word_has_its_meaning() {
        for (status, substatus, expected) in [
            ("open", None, Availability::Available),
            ("open", Some("unknown"), Availability::Available),
            ("open", Some("online"), Availability::Available),
            ("open", Some("away"), Availability::Away),
            ("open", Some("idle"), Availability::AvailableIdle),
            ("inuse", None, Availability::Busy),
            ("inuse", Some("busy"), Availability::Busy),
            ("inuse", Some("onthephone"), Availability::Busy),
            ("inactive", None, Availability::Away),
            ("inactive", Some("berightback"), Availability::BeRightBack),
            ("inactive", Some("outtolunch"), Availability::Away),
            ("closed", None, Availability::Offline),
            ("closed", Some("online"), Availability::Offline),
        ] {
            let finer = substatus.map(|word| format!("<msnsubstatus substatus='{word}'/>")).unwrap_or_default();
            let text = document(&address(&format!("<status status='{status}'/>{finer}")));
            assert_eq!(availability(&text), Ok(Some(expected)), "{status} {substatus:?}");
        }
        assert_eq!(availability(&document("")), Ok(None));
        let two = [address("<status status='closed'/>"), address("<status status='open'/>")].concat();
        assert_eq!(availability(&document(&two)), Ok(Some(Availability::Available)));
    }

    #[test]
    fn a_document_type_is_cut_off_and_never_read() {
        let inside = document(&address("<status status='open'/>"));
        let mut tree = Tree::new();
        for good in [inside.clone(), format!("{PROLOG}{inside}"), format!("<!DOCTYPE presence SYSTEM 'a>b'> {inside}")]
        {
            let read = Document::parse(good.as_bytes(), &mut tree).expect("a document");
            assert_eq!(read.uri(), "sip:runa@fjord.example;method=SUBSCRIBE");
        }
        for bad in [
            format!("<!DOCTYPE presence [<!ENTITY e 'x'>]>{inside}"),
            format!("<!DOCTYPE presence 'x{inside}"),
            format!("<!DOCTYPE a><!DOCTYPE b>{inside}"),
            format!("<!DOCTYPE a>{}", document("&e;")),
            format!("<?xml version='1.0'{inside}"),
        ] {
            assert!(availability(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for availability in [
            Availability::Offline,
            Availability::Available,
            Availability::AvailableIdle,
            Availability::Busy,
            Availability::BeRightBack,
            Availability::Away,
        ] {
            let mut out = Outbox::default();
            let mut w = out.begin();
            emit(&mut w, "runa@fjord.example", availability, Some("Runa & 'Å'"));
            let span = w.finish();
            let mut tree = Tree::new();
            let read = Document::parse(out.bytes(&span), &mut tree).expect("a document");
            assert_eq!((read.availability(), read.display_name()), (Some(availability), Some("Runa & 'Å'")));
            assert_eq!(read.uri(), "sip:runa@fjord.example;method=SUBSCRIBE");
        }
    }
}
