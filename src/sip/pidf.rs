//! Presence documents, application/pidf+xml: PIDF (RFC 3863), and what of the presence
//! data model (RFC 4479) and of rich presence (RPID, RFC 4480) tells how available
//! somebody is. A [`Document`] is read in place over a [`Tree`]; [`emit`] and
//! [`NewTuple`] write the canonical form.
//!
//! Left out on purpose: writing rich presence, capabilities (RFC 5196), partial
//! documents (RFC 5263). What the texts mean is the reader's business: points in time
//! and values of `<show/>` stay text here.
//!
//! Invariant: a document that was read has an entity, and no more tuples than
//! [`PIDF_TUPLES_MAX`].

use crate::base::outbox::Writer;
use crate::base::xml::{Limits, Node, Tag, Tree, XmlError};
use crate::limits::{PIDF_DEPTH_MAX, PIDF_ELEMENTS_MAX, PIDF_OCTETS_MAX, PIDF_TUPLES_MAX, STANZA_ATTRIBUTES_MAX};
use core::fmt;
use std::borrow::Cow;

/// The namespace of PIDF (RFC 3863 section 4.1.1).
pub const NAMESPACE: &str = "urn:ietf:params:xml:ns:pidf";
/// The media type (RFC 3863 section 6.1).
pub const CONTENT_TYPE: &str = "application/pidf+xml";

/// The namespace of the presence data model (RFC 4479 section 4).
const DATA_MODEL: &str = "urn:ietf:params:xml:ns:pidf:data-model";
/// The namespace of contact information (CIPID, RFC 4482 section 3).
const CIPID: &str = "urn:ietf:params:xml:ns:pidf:cipid";
/// The namespace of rich presence before RFC 4480, which Lync reads and writes.
const DRAFT_RPID: &str = "urn:ietf:params:xml:ns:pidf:status:rpid-status";
/// The namespace of `<show/>` inside `<status/>` (RFC 8048 section 6.2).
const SHOW: &str = "jabber:client";

pub(super) const LIMITS: Limits = Limits {
    octets: PIDF_OCTETS_MAX,
    depth: PIDF_DEPTH_MAX,
    elements: PIDF_ELEMENTS_MAX,
    attributes: STANZA_ATTRIBUTES_MAX,
};

/// The end tag of a document, which has to fit behind the last tuple.
const END: &str = "</presence>";

/// A presence document.
#[derive(Clone, Copy, Debug)]
pub struct Document<'a> {
    root: Node<'a>,
    entity: &'a str,
}

/// Why octets are no presence document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Where in the grammar, in words for a log line.
    pub cause: &'static str,
}

impl Malformed {
    pub(super) const fn new(cause: &'static str) -> Self {
        Self { cause }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cause)
    }
}

impl From<XmlError> for Malformed {
    fn from(error: XmlError) -> Self {
        Self { cause: error.cause }
    }
}

impl<'a> Document<'a> {
    /// Reads a document in UTF-8 or UTF-16 (RFC 3863 section 3.3). What its octets are
    /// decides, whatever a `charset` beside it says.
    pub fn parse(octets: &[u8], tree: &'a mut Tree) -> Result<Self, Malformed> {
        let root = tree.parse_document(&to_utf8(octets)?, LIMITS)?;
        if !root.is("presence", NAMESPACE) {
            return Err(Malformed { cause: "no presence document" });
        }
        let entity = root.attribute("entity").map(str::trim).filter(|entity| !entity.is_empty());
        let entity = entity.ok_or(Malformed { cause: "presence document without entity" })?;
        // RFC 3863 section 4.2.3: then nothing of what stands beside it has a meaning.
        if root.children().any(|child| !is_known(child) && is_mandatory(child)) {
            return Err(Malformed { cause: "mandatory extension of a presence document" });
        }
        if root.children().filter(|child| child.is("tuple", NAMESPACE)).count() > PIDF_TUPLES_MAX {
            return Err(Malformed { cause: "too many tuples" });
        }
        Ok(Self { root, entity })
    }

    /// Whose presence it is: a URI, as it stands (RFC 3863 section 4.1.1).
    pub fn entity(self) -> &'a str {
        self.entity
    }

    /// Its tuples, without those that want an extension to be understood which is not
    /// (RFC 3863 section 4.2.3).
    pub fn tuples(self) -> impl Iterator<Item = Tuple<'a>> + use<'a> {
        let lang = self.root.lang();
        let tuples = self.root.children().filter(|child| child.is("tuple", NAMESPACE) && is_understood(*child));
        tuples.map(move |node| Tuple { node, lang: node.lang().or(lang) })
    }

    /// What is said about the user as a whole: the notes outside of tuples (RFC 3863
    /// section 4.1.6), then those of the person (RFC 4479 section 4.1).
    pub fn notes(self) -> impl Iterator<Item = Note<'a>> + use<'a> {
        let lang = self.root.lang();
        let of_persons = self.persons().flat_map(move |person| {
            let lang = person.lang().or(lang);
            person.children().filter(|child| child.is("note", DATA_MODEL)).map(move |node| Note { node, lang })
        });
        notes(self.root, lang).chain(of_persons)
    }

    /// What the user of `tuple` does: by the tuple, else by the person (RFC 4480
    /// section 3.2). `None`: nothing is said about that.
    pub fn activities(self, tuple: Tuple<'a>) -> Option<Activities<'a>> {
        let said = rich(tuple.node, "activities").or_else(|| self.persons().find_map(|p| rich(p, "activities")));
        said.map(|node| Activities { node })
    }

    /// When the user of `tuple` last touched something: by the tuple, else by the device
    /// it runs on, else by the person (RFC 4480 section 3.11).
    pub fn user_input(self, tuple: Tuple<'a>) -> Option<UserInput<'a>> {
        let of_tuple = rich(tuple.node, "user-input");
        let of_device = || self.device(&tuple.device_id()?).and_then(|device| rich(device, "user-input"));
        let of_person = || self.persons().find_map(|person| rich(person, "user-input"));
        let node = of_tuple.or_else(of_device).or_else(of_person)?;
        Some(UserInput { is_idle: node.text().trim() == "idle", last_input: node.attribute("last-input") })
    }

    /// What the user of `tuple` is called (RFC 4482 section 3.2): by the tuple, the person
    /// or, as Lync has it, the document.
    pub fn display_name(self, tuple: Tuple<'a>) -> Option<Cow<'a, str>> {
        let mut places = [tuple.node].into_iter().chain(self.persons()).chain([self.root]);
        places.find_map(|place| place.child("display-name", CIPID)).map(Node::text)
    }

    fn persons(self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        self.root.children().filter(|child| child.is("person", DATA_MODEL) && is_understood(*child))
    }

    fn device(self, id: &str) -> Option<Node<'a>> {
        let has_id = |device: Node<'_>| device_id(device).is_some_and(|own| own == id);
        self.root.children().find(|child| child.is("device", DATA_MODEL) && has_id(*child) && is_understood(*child))
    }
}

/// What a document says about one client (RFC 3863 section 4.1.2).
#[derive(Clone, Copy, Debug)]
pub struct Tuple<'a> {
    node: Node<'a>,
    /// The language it is in, unless what it holds says otherwise.
    lang: Option<&'a str>,
}

/// `<basic/>` (RFC 3863 section 4.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basic {
    /// Ready to take messages.
    Open,
    /// Not so.
    Closed,
}

impl Basic {
    /// As the element has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

impl<'a> Tuple<'a> {
    /// `id`; empty if it is missing, which the schema does not allow.
    pub fn id(self) -> &'a str {
        self.node.attribute("id").unwrap_or_default().trim()
    }

    /// `<basic/>`; `None` if it is missing or something else.
    pub fn basic(self) -> Option<Basic> {
        let basic = self.node.child("status", NAMESPACE)?.child("basic", NAMESPACE)?.text();
        [Basic::Open, Basic::Closed].into_iter().find(|known| known.as_str() == basic.trim())
    }

    /// Each `<show xmlns='jabber:client'/>` of the status (RFC 8048 section 6.2); there
    /// should be one at most.
    pub fn shows(self) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        let status = self.node.child("status", NAMESPACE);
        let children = status.into_iter().flat_map(Node::children);
        children.filter(|child| child.is("show", SHOW)).map(Node::text)
    }

    /// `<contact/>` (RFC 3863 section 4.1.5).
    pub fn contact(self) -> Option<Contact<'a>> {
        let node = self.node.child("contact", NAMESPACE)?;
        Some(Contact { uri: node.text(), priority: node.attribute("priority").and_then(parse_priority) })
    }

    /// Its notes (RFC 3863 section 4.1.6).
    pub fn notes(self) -> impl Iterator<Item = Note<'a>> + use<'a> {
        notes(self.node, self.lang)
    }

    /// `<timestamp/>`, as it stands (RFC 3863 section 4.1.7).
    pub fn timestamp(self) -> Option<Cow<'a, str>> {
        Some(self.node.child("timestamp", NAMESPACE)?.text())
    }

    /// Which device it runs on (RFC 4479 section 3.3).
    pub fn device_id(self) -> Option<Cow<'a, str>> {
        device_id(self.node)
    }
}

/// Where a tuple's client is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact<'a> {
    /// Its URI, as it stands.
    pub uri: Cow<'a, str>,
    /// From 0 to 1000 thousandths.
    pub priority: Option<u16>,
}

/// A text for people.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
    node: Node<'a>,
    /// That of what it stands in.
    lang: Option<&'a str>,
}

impl<'a> Note<'a> {
    /// `xml:lang`, its own or that of what it stands in; none if that is empty.
    pub fn lang(self) -> Option<&'a str> {
        self.node.lang().or(self.lang).filter(|lang| !lang.is_empty())
    }

    /// The text.
    pub fn text(self) -> Cow<'a, str> {
        self.node.text()
    }
}

/// What somebody does (RFC 4480 section 3.2).
#[derive(Clone, Copy, Debug)]
pub struct Activities<'a> {
    node: Node<'a>,
}

impl<'a> Activities<'a> {
    /// The names of the activities, such as `on-the-phone`.
    pub fn names(self) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        self.node.children().filter(|child| is_rpid(child.namespace())).map(|child| match child.name() {
            // The drafts before RFC 4480 had the name as text.
            "activity" => match child.text() {
                Cow::Borrowed(text) => text.trim().into(),
                Cow::Owned(text) => text.trim().to_owned().into(),
            },
            name => name.into(),
        })
    }
}

/// `<user-input/>` (RFC 4480 section 3.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserInput<'a> {
    /// `idle`, not `active`.
    pub is_idle: bool,
    /// When there was input for the last time, as it stands.
    pub last_input: Option<&'a str>,
}

/// Writes a document about `entity`, with the tuples that `tuples` writes in it: always
/// in UTF-8.
pub fn emit(w: &mut Writer<'_>, entity: &str, tuples: impl FnOnce(&mut Writer<'_>)) {
    w.str("<?xml version='1.0' encoding='UTF-8'?>");
    Tag::begin(w, "presence").namespace(NAMESPACE).attribute("entity", entity).content(tuples);
}

/// Writes what the user is called, behind the tuples.
pub fn emit_display_name(w: &mut Writer<'_>, name: &str) {
    Tag::begin(w, "display-name").namespace(CIPID).text(name);
}

/// Is there room in the document for no more tuples, when `octets` are written of it?
pub const fn is_full(octets: usize) -> bool {
    octets + END.len() > PIDF_OCTETS_MAX
}

/// A tuple to be written.
#[derive(Clone, Copy, Debug)]
pub struct NewTuple<'a> {
    /// `id`: a name without a colon, unique in the document.
    pub id: &'a str,
    /// `<basic/>`.
    pub basic: Basic,
    /// `<show xmlns='jabber:client'/>`.
    pub show: Option<&'a str>,
    /// An activity in the way of the drafts before RFC 4480: as text, inside the status.
    pub draft_activity: Option<&'a str>,
    /// The URI of `<contact/>` and its priority in thousandths.
    pub contact: Option<(&'a str, u16)>,
}

impl NewTuple<'_> {
    /// Writes it in the order of RFC 3863 section 4.1.2, with these notes: language and
    /// text.
    pub fn emit<'n>(&self, w: &mut Writer<'_>, notes: impl Iterator<Item = (Option<&'n str>, &'n str)>) {
        Tag::begin(w, "tuple").attribute("id", self.id).content(|w| {
            Tag::begin(w, "status").content(|w| {
                Tag::begin(w, "basic").text(self.basic.as_str());
                if let Some(show) = self.show {
                    Tag::begin(w, "show").namespace(SHOW).text(show);
                }
                if let Some(activity) = self.draft_activity {
                    Tag::begin(w, "activities").namespace(DRAFT_RPID).content(|w| {
                        Tag::begin(w, "activity").text(activity);
                    });
                }
            });
            if let Some((uri, priority)) = self.contact {
                Tag::begin(w, "contact").attribute("priority", &priority_text(priority)).text(uri);
            }
            for (lang, text) in notes {
                Tag::begin(w, "note").lang(lang).text(text);
            }
        });
    }
}

/// A priority in thousandths, from text: a decimal from 0 to 1 (RFC 3863 section 4.1.5).
/// What stands behind the third decimal does not count.
fn parse_priority(text: &str) -> Option<u16> {
    let text = text.trim();
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let (whole, decimals) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = |text: &str| text.bytes().all(|octet| octet.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || (whole.is_empty() && decimals.is_empty()) {
        return None;
    }
    let is_zero = |digit: char| digit == '0';
    match whole.trim_start_matches(is_zero) {
        "" => {}
        "1" => return decimals.chars().all(is_zero).then_some(1000),
        _ => return None,
    }
    let digit = |place: usize| decimals.as_bytes().get(place).map_or(0, |digit| u16::from(digit - b'0'));
    Some(digit(0) * 100 + digit(1) * 10 + digit(2))
}

/// Thousandths as a decimal without zeros at its end.
fn priority_text(thousandths: u16) -> String {
    if thousandths >= 1000 {
        return "1".into();
    }
    let text = format!("0.{thousandths:03}");
    text.trim_end_matches('0').trim_end_matches('.').into()
}

/// The octets as UTF-8. UTF-16 is told by its byte order mark, or, since no XML begins
/// with it otherwise, by the NUL beside the first `<` (XML 1.0 appendix F).
pub(super) fn to_utf8(octets: &[u8]) -> Result<Cow<'_, [u8]>, Malformed> {
    if octets.len() > PIDF_OCTETS_MAX {
        return Err(Malformed::new("presence document too large"));
    }
    let text = match octets {
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0, b'<', ..] => utf16(octets, u16::from_be_bytes)?,
        [b'<', 0, ..] => utf16(octets, u16::from_le_bytes)?,
        _ => return Ok(octets.into()),
    };
    // It would say that the text is in UTF-16, which it is no longer.
    let declared = if text.starts_with("<?xml ") { text.find("?>").map_or(0, |at| at + 2) } else { 0 };
    Ok(text.into_bytes().split_off(declared).into())
}

/// The octets without an XML declaration that names UTF-16 before a document that is not
/// in it.
///
/// COMPAT: Live Communications Server 2005 and its relatives declare UTF-16 and send UTF-8.
pub(super) fn without_false_declaration(octets: &[u8]) -> &[u8] {
    let start = octets.get(..octets.len().min(128)).unwrap_or_default();
    let end = start.windows(2).position(|pair| pair == b"?>").map_or(0, |at| at + 2);
    let declaration = start.get(..end).unwrap_or_default();
    let names_it = declaration.windows(6).any(|word| word.eq_ignore_ascii_case(b"utf-16"));
    let is_false = declaration.starts_with(b"<?xml ") && names_it;
    octets.get(if is_false { end } else { 0 }..).unwrap_or_default()
}

fn utf16(octets: &[u8], unit: impl Fn([u8; 2]) -> u16) -> Result<String, Malformed> {
    let (pairs, odd) = octets.as_chunks::<2>();
    let text: Result<String, _> = char::decode_utf16(pairs.iter().map(|pair| unit(*pair))).collect();
    text.ok().filter(|_| odd.is_empty()).ok_or(Malformed { cause: "not UTF-16" })
}

/// The notes of PIDF that an element holds.
fn notes<'a>(element: Node<'a>, lang: Option<&'a str>) -> impl Iterator<Item = Note<'a>> + use<'a> {
    element.children().filter(|child| child.is("note", NAMESPACE)).map(move |node| Note { node, lang })
}

/// The first element of rich presence of that name, in `element` itself or, where the
/// drafts before RFC 4480 had it, in its status.
fn rich<'a>(element: Node<'a>, name: &str) -> Option<Node<'a>> {
    let in_status = element.child("status", NAMESPACE).into_iter().flat_map(Node::children);
    element.children().chain(in_status).find(|child| child.name() == name && is_rpid(child.namespace()))
}

fn device_id(element: Node<'_>) -> Option<Cow<'_, str>> {
    Some(element.child("deviceID", DATA_MODEL)?.text())
}

/// Is it the namespace of rich presence, as RFC 4480 has it or one of its drafts:
/// `rpid`, `rpid-tuple`, `status:rpid`, `status:rpid-status`, ...?
///
/// COMPAT: Live Communications Server 2005 and Office Communications Server 2007 write
/// `urn:ietf:params:xml:ns:pidf:status:rpid-status`.
fn is_rpid(namespace: &str) -> bool {
    let Some(rest) = namespace.strip_prefix("urn:ietf:params:xml:ns:pidf:") else { return false };
    let name = rest.strip_prefix("status:").unwrap_or(rest);
    name.strip_prefix("rpid").is_some_and(|behind| matches!(behind.bytes().next(), None | Some(b':' | b'-')))
}

/// Is every extension in there known, or one that may be passed over? What stands in
/// one that is passed over is passed over with it (RFC 3863 section 4.2.3).
fn is_understood(element: Node<'_>) -> bool {
    // No deeper than the limit the document was parsed with.
    element.children().all(|child| if is_known(child) { is_understood(child) } else { !is_mandatory(child) })
}

fn is_known(element: Node<'_>) -> bool {
    let name = element.name();
    match element.namespace() {
        NAMESPACE => matches!(name, "tuple" | "status" | "basic" | "contact" | "note" | "timestamp"),
        DATA_MODEL => matches!(name, "person" | "device" | "deviceID" | "note" | "timestamp"),
        SHOW => name == "show",
        CIPID => name == "display-name",
        namespace => is_rpid(namespace),
    }
}

/// Has it `mustUnderstand`? The schema has it in the namespace of PIDF; senders that
/// forget the prefix mean the same.
fn is_mandatory(element: Node<'_>) -> bool {
    let value = element.attribute_ns("mustUnderstand", NAMESPACE).or_else(|| element.attribute("mustUnderstand"));
    value.is_some_and(|value| matches!(value.trim(), "true" | "1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::outbox::Outbox;
    use crate::base::rng::Rng;

    const HEAD: &str = "<presence xmlns='urn:ietf:params:xml:ns:pidf' entity='pres:marta@voip.example'";

    /// A document with this in it, and the prefixes it may use.
    fn document(inside: &str) -> String {
        format!(
            "<?xml version='1.0' encoding='UTF-8'?>\n{HEAD} xmlns:p='urn:ietf:params:xml:ns:pidf' \
             xmlns:dm='urn:ietf:params:xml:ns:pidf:data-model' xmlns:r='urn:ietf:params:xml:ns:pidf:rpid' \
             xmlns:x='urn:example:x'>{inside}</presence>"
        )
    }

    /// What `ask` finds in that document.
    fn with<T>(inside: &str, ask: impl FnOnce(Document<'_>) -> T) -> T {
        let mut tree = Tree::new();
        ask(Document::parse(document(inside).as_bytes(), &mut tree).expect("a document"))
    }

    fn ids(inside: &str) -> Vec<String> {
        with(inside, |document| document.tuples().map(|tuple| tuple.id().to_owned()).collect())
    }

    fn refused(octets: &[u8]) -> Option<&'static str> {
        Document::parse(octets, &mut Tree::new()).err().map(|malformed| malformed.cause)
    }

    fn to_utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(unit).collect()
    }

    #[test]
    fn a_whole_tuple_is_read() {
        let inside = "<tuple id='ID-tisch4'><status><basic> open </basic><show xmlns='jabber:client'>away</show>\
            </status><dm:deviceID>urn:device:1</dm:deviceID>\
            <contact priority='0.8'>sip:marta@192.0.2.21</contact><note xml:lang='de'>Zu Tisch</note><note>Out</note>\
            <timestamp>2031-05-02T10:11:12Z</timestamp></tuple><note>Whole</note>";
        with(inside, |document| {
            assert_eq!(document.entity(), "pres:marta@voip.example");
            let tuple = document.tuples().next().expect("a tuple");
            assert_eq!((tuple.id(), tuple.basic()), ("ID-tisch4", Some(Basic::Open)));
            assert_eq!(tuple.shows().collect::<Vec<_>>(), ["away"]);
            let contact = Contact { uri: "sip:marta@192.0.2.21".into(), priority: Some(800) };
            assert_eq!(tuple.contact(), Some(contact));
            let notes: Vec<_> = tuple.notes().map(|note| (note.lang(), note.text())).collect();
            assert_eq!(notes, [(Some("de"), "Zu Tisch".into()), (None, "Out".into())]);
            assert_eq!(tuple.timestamp().as_deref(), Some("2031-05-02T10:11:12Z"));
            assert_eq!(tuple.device_id().as_deref(), Some("urn:device:1"));
            assert_eq!(document.notes().map(Note::text).collect::<Vec<_>>(), ["Whole"]);
        });
    }

    #[test]
    fn req_evt_32_basic_is_open_or_closed_or_nothing() {
        let basic = |status: &str| {
            let inside = format!("<tuple id='a'>{status}</tuple>");
            with(&inside, |document| document.tuples().next().and_then(Tuple::basic))
        };
        assert_eq!(basic("<status><basic>closed</basic></status>"), Some(Basic::Closed));
        for none in ["", "<status/>", "<status><basic/></status>", "<status><basic>Open</basic></status>"] {
            assert_eq!(basic(none), None, "{none}");
        }
        assert_eq!(basic("<status><x:basic>open</x:basic></status>"), None);
    }

    #[test]
    fn req_evt_34_a_note_inherits_the_language_around_it() {
        let inside = "<tuple id='a' xml:lang='fr'><note>1</note><note xml:lang=''>2</note></tuple>\
            <note>3</note><dm:person id='p' xml:lang='it'><dm:note>4</dm:note></dm:person>";
        with(inside, |document| {
            let tuple = document.tuples().next().expect("a tuple");
            assert_eq!(tuple.notes().map(Note::lang).collect::<Vec<_>>(), [Some("fr"), None]);
            let of_document: Vec<_> = document.notes().map(|note| (note.lang(), note.text())).collect();
            assert_eq!(of_document, [(None, "3".into()), (Some("it"), "4".into())]);
        });
    }

    #[test]
    fn req_evt_33_a_priority_is_a_decimal_from_0_to_1() {
        for (text, thousandths) in [
            ("0", 0),
            ("1", 1000),
            ("0.5", 500),
            (".5", 500),
            ("1.000", 1000),
            ("1.", 1000),
            ("00.039", 39),
            ("+0.0079", 7),
            (" 0.992\n", 992),
        ] {
            assert_eq!(parse_priority(text), Some(thousandths), "{text}");
        }
        for text in ["", ".", "+", "-0.5", "1.001", "2", "0,5", "0.5.5", "1e0", "0.x", "++1", "99999999999999999999"] {
            assert_eq!(parse_priority(text), None, "{text}");
        }
    }

    #[test]
    fn every_priority_is_read_as_it_was_written() {
        for thousandths in 0..=1000 {
            let text = priority_text(thousandths);
            assert_eq!(parse_priority(&text), Some(thousandths), "{text}");
            assert!(text.len() <= 5 && (!text.contains('.') || !text.ends_with(['0', '.'])), "{text}");
        }
    }

    #[test]
    fn req_evt_30_utf_16_is_read_in_both_orders() {
        let text = "<?xml version='1.0' encoding='UTF-16'?><presence xmlns='urn:ietf:params:xml:ns:pidf' \
            entity='pres:b\u{FC}ro@voip.example'><note>\u{1F319}</note></presence>";
        for octets in [
            [b"\xFE\xFF".to_vec(), to_utf16(text, u16::to_be_bytes)].concat(),
            [b"\xFF\xFE".to_vec(), to_utf16(text, u16::to_le_bytes)].concat(),
            to_utf16(text, u16::to_be_bytes),
            to_utf16(text, u16::to_le_bytes),
        ] {
            let mut tree = Tree::new();
            let document = Document::parse(&octets, &mut tree).expect("a document");
            assert_eq!(document.entity(), "pres:b\u{FC}ro@voip.example");
            assert_eq!(document.notes().map(Note::text).collect::<Vec<_>>(), ["\u{1F319}"]);
            assert_eq!(refused(&octets[..octets.len() - 1]), Some("not UTF-16"));
        }
        let lone = [b"\xFE\xFF".to_vec(), to_utf16(text, u16::to_be_bytes), vec![0xD8, 0]].concat();
        assert_eq!(refused(&lone), Some("not UTF-16"));
        // What says that it is in UTF-16 and is not.
        assert!(refused(text.as_bytes()).is_some());
    }

    #[test]
    fn req_evt_35_a_tuple_with_an_unknown_mandatory_extension_is_dropped() {
        let tuple = |inside: &str| format!("<tuple id='a'>{inside}</tuple><tuple id='b'/>");
        for mandatory in [
            "<x:y p:mustUnderstand='true'/>",
            "<x:y p:mustUnderstand='1'/>",
            "<x:y mustUnderstand='true'/>",
            "<status><x:y p:mustUnderstand='true'/></status>",
            "<p:later p:mustUnderstand='true'/>",
        ] {
            assert_eq!(ids(&tuple(mandatory)), ["b"], "{mandatory}");
        }
        for optional in [
            "<x:y/>",
            "<x:y p:mustUnderstand='false'/>",
            "<x:y p:mustUnderstand='0'/>",
            "<x:y x:mustUnderstand='true'/>",
            // What is known is understood.
            "<r:activities p:mustUnderstand='true'/>",
            "<status><show xmlns='jabber:client' p:mustUnderstand='true'>away</show></status>",
            // What stands in an extension that is passed over is passed over with it.
            "<x:y><x:z p:mustUnderstand='true'/></x:y>",
        ] {
            assert_eq!(ids(&tuple(optional)), ["a", "b"], "{optional}");
        }
    }

    #[test]
    fn a_mandatory_extension_beside_the_tuples_takes_the_document_its_meaning() {
        let text = document("<tuple id='a'/><x:y p:mustUnderstand='true'/>");
        assert_eq!(refused(text.as_bytes()), Some("mandatory extension of a presence document"));
        assert_eq!(ids("<tuple id='a'/><x:y/>"), ["a"]);
    }

    #[test]
    fn req_evt_37_activities_are_those_of_the_tuple_or_of_the_person() {
        let activities = |inside: &str| {
            with(inside, |document| {
                let tuple = document.tuples().next().expect("a tuple");
                let all = document.activities(tuple);
                all.map(|all| all.names().map(Cow::into_owned).collect::<Vec<_>>())
            })
        };
        let person = "<dm:person id='p'><r:activities><r:meal/></r:activities></dm:person>";
        assert_eq!(activities("<tuple id='a'/>"), None);
        assert_eq!(activities(&format!("<tuple id='a'/>{person}")), Some(vec!["meal".to_owned()]));
        let own = "<r:activities><r:note>x</r:note><r:away/><x:y/></r:activities>";
        let inside = format!("{person}<tuple id='a'>{own}</tuple>");
        assert_eq!(activities(&inside), Some(vec!["note".to_owned(), "away".to_owned()]));
        // A person whom we do not understand does nothing that we know of.
        let strange = person.replace("<r:activities>", "<x:y p:mustUnderstand='1'/><r:activities>");
        assert_eq!(activities(&format!("<tuple id='a'/>{strange}")), None);
    }

    #[test]
    fn activities_of_the_drafts_are_read() {
        for namespace in [
            "urn:ietf:params:xml:ns:pidf:rpid",
            "urn:ietf:params:xml:ns:pidf:rpid-tuple",
            "urn:ietf:params:xml:ns:pidf:status:rpid",
            "urn:ietf:params:xml:ns:pidf:status:rpid-status",
            "urn:ietf:params:xml:ns:pidf:rpid:rpid-status",
        ] {
            assert!(is_rpid(namespace), "{namespace}");
            let inside = format!(
                "<tuple id='0'><status><basic>open</basic><e:activities xmlns:e='{namespace}'>\
                 <e:activity> on-the-phone</e:activity><e:busy/></e:activities></status></tuple>"
            );
            with(&inside, |document| {
                let tuple = document.tuples().next().expect("a tuple");
                let all = document.activities(tuple).expect("activities");
                assert_eq!(all.names().collect::<Vec<_>>(), ["on-the-phone", "busy"]);
            });
        }
        for other in ["urn:ietf:params:xml:ns:pidf", "urn:ietf:params:xml:ns:pidf:rpids", "urn:x:rpid", "jabber:client"]
        {
            assert!(!is_rpid(other), "{other}");
        }
    }

    #[test]
    fn user_input_is_that_of_tuple_device_or_person() {
        let last_input = |inside: &str| {
            with(inside, |document| {
                let input = document.user_input(document.tuples().next().expect("a tuple"));
                input.map(|input| (input.is_idle, input.last_input.unwrap_or_default().to_owned()))
            })
        };
        let input = |at: &str| format!("<r:user-input last-input='{at}'>idle</r:user-input>");
        let tuple = format!("<tuple id='a'><dm:deviceID>d</dm:deviceID>{}</tuple>", input("1"));
        let device = format!("<dm:device id='x'>{}<dm:deviceID>d</dm:deviceID></dm:device>", input("2"));
        let person = format!("<dm:person id='p'>{}</dm:person>", input("3"));
        let bare = "<tuple id='a'><dm:deviceID>d</dm:deviceID></tuple>";
        let said = |at: &str| Some((true, at.to_owned()));
        assert_eq!(last_input(&format!("{person}{device}{tuple}")), said("1"));
        assert_eq!(last_input(&format!("{person}{device}{bare}")), said("2"));
        assert_eq!(last_input(&format!("{person}{bare}")), said("3"));
        assert_eq!(last_input(&format!("<tuple id='a'/>{device}")), None);
        assert_eq!(
            last_input("<tuple id='a'><r:user-input>active</r:user-input></tuple>"),
            Some((false, String::new()))
        );
    }

    #[test]
    fn what_is_no_presence_document_is_refused() {
        for (text, cause) in [
            ("", "element not closed"),
            ("<presence entity='pres:a@b'/>", "no presence document"),
            ("<tuple xmlns='urn:ietf:params:xml:ns:pidf' entity='pres:a@b'/>", "no presence document"),
            ("<presence xmlns='urn:ietf:params:xml:ns:pidf'/>", "presence document without entity"),
            ("<presence xmlns='urn:ietf:params:xml:ns:pidf' entity=' '/>", "presence document without entity"),
        ] {
            assert_eq!(refused(text.as_bytes()), Some(cause), "{text}");
        }
    }

    #[test]
    fn req_evt_36_document_types_and_entities_are_refused() {
        for text in [
            format!("<!DOCTYPE presence SYSTEM 'http://voip.example/x.dtd'>{HEAD}/>"),
            format!("<!DOCTYPE a [<!ENTITY b 'ccc'><!ENTITY d '&b;&b;&b;'>]>{HEAD}><note>&d;</note></presence>"),
            format!("<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>{HEAD}><note>&b;</note></presence>"),
            format!("{HEAD}><note>&b;</note></presence>"),
            format!("{HEAD} id='&b;'/>"),
            "<!DOCTYPE presence PUBLIC '-//IETF//DTD RFCxxxx XPIDF 1.0//EN' 'xpidf.dtd'><presence/>".to_owned(),
        ] {
            assert!(refused(text.as_bytes()).is_some(), "{text}");
            let wide = [b"\xFF\xFE".to_vec(), to_utf16(&text, u16::to_le_bytes)].concat();
            assert!(refused(&wide).is_some(), "{text}");
        }
    }

    #[test]
    fn req_evt_36_a_document_beyond_a_limit_is_refused() {
        let deep = |depth: usize| document(&format!("{}{}", "<x:y>".repeat(depth), "</x:y>".repeat(depth)));
        assert_eq!(refused(deep(PIDF_DEPTH_MAX - 1).as_bytes()), None);
        assert!(refused(deep(PIDF_DEPTH_MAX).as_bytes()).is_some());
        assert!(refused(deep(5_000).as_bytes()).is_some());
        let tuples = |count: usize| document(&"<tuple id='a'/>".repeat(count));
        assert_eq!(refused(tuples(PIDF_TUPLES_MAX).as_bytes()), None);
        assert_eq!(refused(tuples(PIDF_TUPLES_MAX + 1).as_bytes()), Some("too many tuples"));
        assert!(refused(tuples(10_000).as_bytes()).is_some());
        let long = |octets: usize| {
            let empty = document("<note></note>").len();
            document(&format!("<note>{}</note>", "b".repeat(octets - empty)))
        };
        assert_eq!(refused(long(PIDF_OCTETS_MAX).as_bytes()), None);
        assert!(refused(long(PIDF_OCTETS_MAX + 1).as_bytes()).is_some());
        assert!(refused(long(1 << 20).as_bytes()).is_some());
        assert!(refused(&to_utf16(&long(PIDF_OCTETS_MAX), u16::to_be_bytes)).is_some());
        // Every unit takes three octets in UTF-8.
        let dense = document(&format!("<note>{}</note>", "\u{4E00}".repeat(25_000)));
        assert!(refused(&to_utf16(&dense, u16::to_be_bytes)).is_some());
    }

    #[test]
    fn a_document_cut_at_any_octet_is_refused() {
        let whole = document("<tuple id='a'><status><basic>open</basic></status><note>\u{FC}&amp;</note></tuple>");
        let wide = [b"\xFF\xFE".to_vec(), to_utf16(&whole, u16::to_le_bytes)].concat();
        for whole in [whole.into_bytes(), wide] {
            assert_eq!(refused(&whole), None);
            for end in 0..whole.len() {
                assert!(refused(&whole[..end]).is_some(), "cut at {end}");
            }
        }
    }

    #[test]
    fn noise_is_refused() {
        let mut rng = Rng::from_number(1);
        let good = document("<tuple id='a'/>").into_bytes();
        for _ in 0..200 {
            let mut octets = vec![0; 64];
            rng.fill(&mut octets);
            assert!(refused(&octets).is_some());
            octets.extend_from_slice(&good);
            assert!(refused(&octets).is_some());
        }
    }

    #[test]
    fn req_8048_58_a_tuple_is_written_in_the_order_of_rfc_3863() {
        let mut out = Outbox::default();
        let mut w = out.begin();
        emit(&mut w, "pres:lena@chat.example", |w| {
            let tuple = NewTuple {
                id: "ID-balkon",
                basic: Basic::Open,
                show: Some("dnd"),
                draft_activity: None,
                contact: Some(("sip:lena@chat.example", 39)),
            };
            tuple.emit(w, [(Some("de"), "bis 15 <Uhr>"), (None, "x")].into_iter());
            NewTuple { id: "ID-4711", basic: Basic::Closed, show: None, draft_activity: None, contact: None }
                .emit(w, core::iter::empty());
        });
        let span = w.finish();
        assert_eq!(
            out.text(&span),
            "<?xml version='1.0' encoding='UTF-8'?>\
             <presence xmlns='urn:ietf:params:xml:ns:pidf' entity='pres:lena@chat.example'>\
             <tuple id='ID-balkon'><status><basic>open</basic><show xmlns='jabber:client'>dnd</show></status>\
             <contact priority='0.039'>sip:lena@chat.example</contact>\
             <note xml:lang='de'>bis 15 &lt;Uhr&gt;</note><note>x</note></tuple>\
             <tuple id='ID-4711'><status><basic>closed</basic></status></tuple></presence>"
        );
    }
}
