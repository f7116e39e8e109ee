//! The presence documents of Live Communications Server 2005 and its descendants, Lync
//! and Skype for Business: [`Categories`] (`application/msrtc-event-categories+xml`), of
//! 2007 and later, and [`Presentity`] (`text/xml+msrtc.pidf`), of 2005. Both say by
//! numbers how available somebody is; [`Availability`] is what the numbers mean.
//!
//! Left out on purpose: calendars, locations, the states of single devices, who may see
//! what. A document of categories says only what changed, so what it does not speak of
//! is `None` here, and what it takes back is empty.
//!
//! Invariant: a document that was read names its user.

use super::pidf::{LIMITS, Malformed, to_utf8, without_false_declaration};
use crate::base::outbox::Writer;
use crate::base::xml::{Node, Tag, Tree};
use std::borrow::Cow;

/// The media type of categories.
pub const CATEGORIES: &str = "application/msrtc-event-categories+xml";
/// The media type of 2005.
pub const PRESENTITY: &str = "text/xml+msrtc.pidf";

const CATEGORIES_NAMESPACE: &str = "http://schemas.microsoft.com/2006/09/sip/categories";
const STATE_NAMESPACE: &str = "http://schemas.microsoft.com/2006/09/sip/state";
const NOTE_NAMESPACE: &str = "http://schemas.microsoft.com/2006/09/sip/note";
const CARD_NAMESPACE: &str = "http://schemas.microsoft.com/2006/09/sip/contactcard";
const PRESENTITY_NAMESPACE: &str = "http://schemas.microsoft.com/2002/09/sip/presence";
/// The namespace of `xsi:type`.
const SCHEMA_INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// The `xsi:type` of the state that counts: what all clients come to together.
const AGGREGATE: &str = "aggregateState";

/// How available somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Not there, or not to be seen.
    Offline,
    /// There.
    Available,
    /// There, and has not touched anything for a while.
    AvailableIdle,
    /// Does something.
    Busy,
    /// Did something, and has not touched anything for a while.
    BusyIdle,
    /// Does something and is not to be disturbed.
    DoNotDisturb,
    /// Away for a moment.
    BeRightBack,
    /// Away.
    Away,
}

/// From which number on somebody is how available, the number that is written for it,
/// and the two numbers of 2005 that are: availability and activity.
const AVAILABILITIES: [(u32, Availability, u32, (u32, u32)); 9] = [
    (0, Availability::Offline, 18_500, (0, 0)),
    (3000, Availability::Available, 3500, (300, 400)),
    (4500, Availability::AvailableIdle, 5000, (300, 200)),
    (6000, Availability::Busy, 6500, (300, 600)),
    (7500, Availability::BusyIdle, 8000, (300, 600)),
    (9000, Availability::DoNotDisturb, 9500, (300, 600)),
    (12_000, Availability::BeRightBack, 12_500, (300, 300)),
    (15_000, Availability::Away, 15_500, (300, 100)),
    (18_000, Availability::Offline, 18_500, (0, 0)),
];

/// From which activity of 2005 on somebody who can be reached is how available.
const ACTIVITIES_2005: [(u32, Availability); 10] = [
    (0, Availability::Available),
    // Away, and at lunch.
    (100, Availability::Away),
    (200, Availability::AvailableIdle),
    (300, Availability::BeRightBack),
    (400, Availability::Available),
    // In a call.
    (500, Availability::Busy),
    (600, Availability::Busy),
    (700, Availability::Away),
    (800, Availability::Available),
    (1000, Availability::Available),
];
/// With a smaller availability of 2005 somebody cannot be reached.
const REACHABLE_2005: u32 = 100;

impl Availability {
    /// What a number of 2007 and later means.
    pub fn of(number: u32) -> Self {
        let row = AVAILABILITIES.iter().rev().find(|(from, ..)| number >= *from);
        row.map_or(Self::Offline, |(_, availability, ..)| *availability)
    }

    /// What the two numbers of 2005 mean.
    pub fn of_2005(availability: u32, activity: u32) -> Self {
        if availability < REACHABLE_2005 {
            return Self::Offline;
        }
        let row = ACTIVITIES_2005.iter().rev().find(|(from, _)| activity >= *from);
        row.map_or(Self::Available, |(_, availability)| *availability)
    }

    /// The number that is written for it.
    pub fn number(self) -> u32 {
        self.row().0
    }

    /// The numbers of 2005 that are written for it: availability and activity.
    pub fn numbers_2005(self) -> (u32, u32) {
        self.row().1
    }

    fn row(self) -> (u32, (u32, u32)) {
        let row = AVAILABILITIES.iter().find(|(_, availability, ..)| *availability == self);
        row.map_or((0, (0, 0)), |(_, _, number, old)| (*number, *old))
    }
}

/// A document of categories.
#[derive(Clone, Copy, Debug)]
pub struct Categories<'a> {
    root: Node<'a>,
    uri: &'a str,
}

/// What its state says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State<'a> {
    /// How available the user is.
    pub availability: Availability,
    /// What he does, where it goes with that.
    pub activity: Option<Activity<'a>>,
    /// When he last touched something, as it stands.
    pub last_active: Option<&'a str>,
    /// When that was said, as it stands.
    pub published: Option<&'a str>,
}

/// What somebody does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activity<'a> {
    /// A word of the protocol, such as `on-the-phone`.
    Token(&'a str),
    /// In his own words.
    Custom(Cow<'a, str>),
}

/// What somebody says about himself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// The text; empty: nothing, or nothing any more.
    pub text: Cow<'a, str>,
    /// Is it the one of somebody who is out of the office?
    pub is_out_of_office: bool,
}

impl<'a> Categories<'a> {
    /// Reads a document. XML and its bounds are those of [`super::pidf`].
    pub fn parse(octets: &[u8], tree: &'a mut Tree) -> Result<Self, Malformed> {
        let root = tree.parse_document(&to_utf8(without_false_declaration(octets))?, LIMITS)?;
        if !root.is("categories", CATEGORIES_NAMESPACE) {
            return Err(Malformed::new("no document of categories"));
        }
        let uri = root.attribute("uri").map(str::trim).filter(|uri| !uri.is_empty());
        Ok(Self { root, uri: uri.ok_or(Malformed::new("categories of nobody"))? })
    }

    /// Whose they are: a URI, as it stands.
    pub fn uri(self) -> &'a str {
        self.uri
    }

    /// How available he is: by what all clients come to, else by the first that says so.
    pub fn state(self) -> Option<State<'a>> {
        let all = || self.of("state", STATE_NAMESPACE).filter_map(|(category, state)| read_state(category, state));
        all().find(|(is_aggregate, _)| *is_aggregate).or_else(|| all().next()).map(|(_, state)| state)
    }

    /// What he says about himself; the note of who is out of the office is the one that
    /// Lync shows. `None`: it does not speak of notes.
    pub fn note(self) -> Option<Note<'a>> {
        self.category("note").next()?;
        let bodies = || {
            let notes = self.of("note", NOTE_NAMESPACE).flat_map(|(_, note)| note.children());
            notes.filter(|body| body.is("body", NOTE_NAMESPACE) && !body.text().trim().is_empty())
        };
        let of_type = |word| bodies().find(|body| body.attribute("type").is_some_and(|of| of == word));
        Some(match of_type("OOF") {
            Some(body) => Note { text: body.text(), is_out_of_office: true },
            None => Note { text: of_type("personal").map(Node::text).unwrap_or_default(), is_out_of_office: false },
        })
    }

    /// What he is called.
    pub fn display_name(self) -> Option<Cow<'a, str>> {
        self.of("contactCard", CARD_NAMESPACE).find_map(|(_, card)| {
            let name = card.child("identity", CARD_NAMESPACE)?.child("name", CARD_NAMESPACE)?;
            Some(name.child("displayName", CARD_NAMESPACE)?.text())
        })
    }

    fn category(self, name: &'static str) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let categories = self.root.children().filter(|child| child.is("category", CATEGORIES_NAMESPACE));
        categories.filter(move |category| category.attribute("name").is_some_and(|own| own == name))
    }

    /// Each instance of a category, and the element of that name in it.
    fn of(self, name: &'static str, namespace: &'static str) -> impl Iterator<Item = (Node<'a>, Node<'a>)> + use<'a> {
        self.category(name).filter_map(move |category| Some((category, category.child(name, namespace)?)))
    }
}

/// A state, and whether it is what all clients come to. `None`: it has no number.
fn read_state<'a>(category: Node<'a>, state: Node<'a>) -> Option<(bool, State<'a>)> {
    let type_ = state.attribute_ns("type", SCHEMA_INSTANCE).unwrap_or_default();
    let is_aggregate = type_.rsplit(':').next() == Some(AGGREGATE);
    let number = number(&state.child("availability", STATE_NAMESPACE)?.text())?;
    // One that goes with another availability is left over from before.
    let bound = |activity: Node<'a>, name| activity.attribute(name).and_then(self::number);
    let fits = |activity: &Node<'a>| {
        bound(*activity, "minAvailability").is_none_or(|min| number >= min)
            && bound(*activity, "maxAvailability").is_none_or(|max| number <= max)
    };
    let activity = state.child("activity", STATE_NAMESPACE).filter(fits).and_then(|activity| {
        let custom = activity.child("custom", STATE_NAMESPACE).map(Node::text);
        let custom = custom.filter(|text| !text.trim().is_empty()).map(Activity::Custom);
        let token = || activity.attribute("token").map(str::trim).filter(|token| !token.is_empty());
        custom.or_else(|| token().map(Activity::Token))
    });
    let state = State {
        availability: Availability::of(number),
        activity,
        last_active: state.attribute("lastActive"),
        published: category.attribute("publishTime"),
    };
    Some((is_aggregate, state))
}

/// A document of 2005.
#[derive(Clone, Copy, Debug)]
pub struct Presentity<'a> {
    root: Node<'a>,
    uri: &'a str,
}

impl<'a> Presentity<'a> {
    /// Reads a document. XML and its bounds are those of [`super::pidf`].
    pub fn parse(octets: &[u8], tree: &'a mut Tree) -> Result<Self, Malformed> {
        let root = tree.parse_document(&to_utf8(without_false_declaration(octets))?, LIMITS)?;
        if !root.is("presentity", PRESENTITY_NAMESPACE) {
            return Err(Malformed::new("no presentity"));
        }
        let uri = root.attribute("uri").map(str::trim).filter(|uri| !uri.is_empty());
        Ok(Self { root, uri: uri.ok_or(Malformed::new("presentity without a name"))? })
    }

    /// Whose it is: mostly without a scheme, as it stands.
    pub fn uri(self) -> &'a str {
        self.uri
    }

    /// How available he is; `None`: it does not say so.
    pub fn availability(self) -> Option<Availability> {
        let aggregate = |name| number(self.child(name)?.attribute("aggregate")?);
        Some(Availability::of_2005(aggregate("availability")?, aggregate("activity").unwrap_or(0)))
    }

    /// What he says about himself; empty: nothing.
    pub fn note(self) -> Cow<'a, str> {
        let note = self.child("userInfo").and_then(|info| info.child("note", PRESENTITY_NAMESPACE)).map(Node::text);
        let of_activity = || self.child("activity").and_then(|activity| activity.attribute("note"));
        match note.filter(|note| !note.trim().is_empty()) {
            Some(note) => note,
            None => of_activity().unwrap_or_default().into(),
        }
    }

    /// What he is called.
    pub fn display_name(self) -> Option<&'a str> {
        self.child("displayName")?.attribute("displayName")
    }

    fn child(self, name: &str) -> Option<Node<'a>> {
        self.root.child(name, PRESENTITY_NAMESPACE)
    }
}

/// What is to be written about somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewPresence<'a> {
    /// His address, without a scheme.
    pub address: &'a str,
    /// How available he is.
    pub availability: Availability,
    /// What he says about himself; empty: nothing.
    pub note: &'a str,
    /// What he is called.
    pub display_name: Option<&'a str>,
    /// When that was so, as it is to stand: without a zone, in UTC.
    pub published: &'a str,
}

impl NewPresence<'_> {
    /// Writes it as categories: all of it, so that nothing is left over at the reader.
    pub fn emit_categories(&self, w: &mut Writer<'_>) {
        let uri = format!("sip:{}", self.address);
        Tag::begin(w, "categories").namespace(CATEGORIES_NAMESPACE).attribute("uri", &uri).content(|w| {
            if let Some(name) = self.display_name {
                self.category(w, "contactCard", "0", |w| {
                    Tag::begin(w, "contactCard").namespace(CARD_NAMESPACE).content(|w| {
                        Tag::begin(w, "identity").content(|w| {
                            Tag::begin(w, "name").content(|w| Tag::begin(w, "displayName").text(name));
                        });
                    });
                });
            }
            self.category(w, "note", "0", |w| {
                Tag::begin(w, "note").namespace(NOTE_NAMESPACE).content(|w| {
                    if !self.note.is_empty() {
                        Tag::begin(w, "body").attribute("type", "personal").attribute("uri", "").text(self.note);
                    }
                });
            });
            self.category(w, "state", "1", |w| {
                let state = Tag::begin(w, "state").namespace(STATE_NAMESPACE);
                let state = state.attribute("xmlns:xsi", SCHEMA_INSTANCE).attribute("xsi:type", AGGREGATE);
                state.content(|w| Tag::begin(w, "availability").text(&self.availability.number().to_string()));
            });
        });
    }

    fn category(&self, w: &mut Writer<'_>, name: &str, instance: &str, content: impl FnOnce(&mut Writer<'_>)) {
        let category = Tag::begin(w, "category").attribute("name", name).attribute("instance", instance);
        category.attribute("publishTime", self.published).content(content);
    }

    /// Writes it as a document of 2005.
    pub fn emit_presentity(&self, w: &mut Writer<'_>) {
        let (availability, activity) = self.availability.numbers_2005();
        Tag::begin(w, "presentity").namespace(PRESENTITY_NAMESPACE).attribute("uri", self.address).content(|w| {
            let tag = Tag::begin(w, "availability").attribute("aggregate", &availability.to_string());
            tag.attribute("description", "").empty();
            let tag = Tag::begin(w, "activity").attribute("aggregate", &activity.to_string());
            tag.attribute("description", "").attribute("note", "").empty();
            if let Some(name) = self.display_name {
                Tag::begin(w, "displayName").attribute("displayName", name).empty();
            }
            if !self.note.is_empty() {
                Tag::begin(w, "userInfo").content(|w| Tag::begin(w, "note").text(self.note));
            }
            Tag::begin(w, "devices").empty();
        });
    }
}

/// A number as these documents have it; one that is too large is the largest.
fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    let is_number = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::outbox::Outbox;

    /// A document of categories with these in it.
    fn categories(inside: &str) -> String {
        format!("<categories xmlns='{CATEGORIES_NAMESPACE}' uri='sip:runa@fjord.example'>{inside}</categories>")
    }

    fn state_of(inside: &str) -> Option<String> {
        let mut tree = Tree::new();
        let text = categories(inside);
        let document = Categories::parse(text.as_bytes(), &mut tree).expect("a document");
        document.state().map(|state| format!("{:?} {:?}", state.availability, state.activity))
    }

    /// The category of a state of that type, with this in it.
    fn state(type_: &str, inside: &str) -> String {
        format!(
            "<category name='state' instance='1' publishTime='2031-05-02T10:11:12.5'>\
             <state xmlns='{STATE_NAMESPACE}' xmlns:xsi='{SCHEMA_INSTANCE}' xsi:type='{type_}'>{inside}</state></category>"
        )
    }

    fn note_of(inside: &str) -> Option<(String, bool)> {
        let mut tree = Tree::new();
        let text = categories(inside);
        let document = Categories::parse(text.as_bytes(), &mut tree).expect("a document");
        document.note().map(|note| (note.text.into_owned(), note.is_out_of_office))
    }

    fn written(emit: impl FnOnce(&mut Writer<'_>)) -> String {
        let mut out = Outbox::default();
        let mut w = out.begin();
        emit(&mut w);
        let span = w.finish();
        out.text(&span).to_owned()
    }

    #[test]
    fn every_number_has_its_meaning() {
        for (first, last, availability) in [
            (0, 2999, Availability::Offline),
            (3000, 4499, Availability::Available),
            (4500, 5999, Availability::AvailableIdle),
            (6000, 7499, Availability::Busy),
            (7500, 8999, Availability::BusyIdle),
            (9000, 11_999, Availability::DoNotDisturb),
            (12_000, 14_999, Availability::BeRightBack),
            (15_000, 17_999, Availability::Away),
            (18_000, u32::MAX, Availability::Offline),
        ] {
            assert_eq!((Availability::of(first), Availability::of(last)), (availability, availability), "{first}");
        }
    }

    #[test]
    fn every_pair_of_numbers_of_2005_has_its_meaning() {
        for (first, last, availability) in [
            (0, 99, Availability::Available),
            (100, 149, Availability::Away),
            (150, 199, Availability::Away),
            (200, 299, Availability::AvailableIdle),
            (300, 399, Availability::BeRightBack),
            (400, 499, Availability::Available),
            (500, 599, Availability::Busy),
            (600, 699, Availability::Busy),
            (700, 799, Availability::Away),
            (800, 999, Availability::Available),
        ] {
            for reachable in [100, 199, 200, 300, 399] {
                let both = (Availability::of_2005(reachable, first), Availability::of_2005(reachable, last));
                assert_eq!(both, (availability, availability), "{first}");
            }
            assert_eq!(Availability::of_2005(99, first), Availability::Offline);
            assert_eq!(Availability::of_2005(0, last), Availability::Offline);
        }
    }

    #[test]
    fn the_number_that_is_written_means_what_it_is_written_for() {
        for (_, availability, ..) in AVAILABILITIES {
            assert_eq!(Availability::of(availability.number()), availability);
            let (reachable, activity) = availability.numbers_2005();
            let old = Availability::of_2005(reachable, activity);
            // 2005 knew no other way not to be disturbed than to be busy.
            let expected = match availability {
                Availability::BusyIdle | Availability::DoNotDisturb => Availability::Busy,
                other => other,
            };
            assert_eq!(old, expected);
        }
    }

    #[test]
    fn what_all_clients_come_to_counts() {
        let one = state("userState", "<availability>6500</availability>");
        let all = state("aggregateState", "<availability>15500</availability>");
        let device = state("aggregateMachineState", "<availability>3500</availability>");
        assert_eq!(state_of(&format!("{one}{device}{all}")).as_deref(), Some("Away None"));
        assert_eq!(state_of(&format!("{one}{device}")).as_deref(), Some("Busy None"));
        assert_eq!(
            state_of(&state("aggregateState", "<availability> 3500\n</availability>")).as_deref(),
            Some("Available None")
        );
        for none in ["", "<availability/>", "<availability>x</availability>", "<availability>-1</availability>"] {
            assert_eq!(state_of(&state("aggregateState", none)), None, "{none}");
        }
        assert_eq!(state_of("<category name='state' instance='1'/>"), None);
    }

    #[test]
    fn an_activity_beside_its_range_is_none() {
        let with = |number: u32, activity: &str| {
            state_of(&state("aggregateState", &format!("<availability>{number}</availability>{activity}")))
        };
        let phone = "<activity token='on-the-phone' minAvailability='6500' maxAvailability='8999'/>";
        assert_eq!(with(6500, phone).as_deref(), Some("Busy Some(Token(\"on-the-phone\"))"));
        assert_eq!(with(8999, phone).as_deref(), Some("BusyIdle Some(Token(\"on-the-phone\"))"));
        assert_eq!(with(6499, phone).as_deref(), Some("Busy None"));
        assert_eq!(with(15_500, phone).as_deref(), Some("Away None"));
        let own = "<activity><custom LCID='1033'>Feeding the goats</custom></activity>";
        assert_eq!(with(15_500, own).as_deref(), Some("Away Some(Custom(\"Feeding the goats\"))"));
    }

    #[test]
    fn the_note_of_who_is_out_of_the_office_comes_first() {
        let note = |bodies: &str| {
            let note = format!("<note xmlns='{NOTE_NAMESPACE}'>{bodies}</note>");
            note_of(&format!("<category name='note' instance='0'>{note}</category>"))
        };
        let (own, out) = ("<body type='personal'>in the boathouse</body>", "<body type='OOF'>back in May</body>");
        assert_eq!(note(own), Some(("in the boathouse".into(), false)));
        assert_eq!(note(&format!("{own}{out}")), Some(("back in May".into(), true)));
        assert_eq!(note("<body type='OOF'> </body>"), Some((String::new(), false)));
        // It says that there is none any more, or does not speak of it.
        assert_eq!(note_of("<category name='note' instance='0'/>"), Some((String::new(), false)));
        assert_eq!(note_of(&state("aggregateState", "<availability>3500</availability>")), None);
    }

    #[test]
    fn a_document_of_2005_is_read() {
        let read = |inside: &str| {
            let text =
                format!("<presentity uri='runa@fjord.example' xmlns='{PRESENTITY_NAMESPACE}'>{inside}</presentity>");
            let mut tree = Tree::new();
            let document = Presentity::parse(text.as_bytes(), &mut tree).expect("a document");
            (document.availability(), document.note().into_owned(), document.display_name().map(str::to_owned))
        };
        assert_eq!(
            read(
                "<availability aggregate='300'/><activity aggregate='500' note='on call'/><displayName displayName='Runa'/>"
            ),
            (Some(Availability::Busy), "on call".into(), Some("Runa".into()))
        );
        let both = "<availability aggregate='300'/><activity note='x'/><userInfo><note>hull 3</note></userInfo>";
        assert_eq!(read(both), (Some(Availability::Available), "hull 3".into(), None));
        assert_eq!(read(""), (None, String::new(), None));
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for (_, availability, ..) in AVAILABILITIES {
            for (note, display_name) in [("", None), ("<hull> & \"keel\"", Some("Runa <'Å'>"))] {
                let new = NewPresence {
                    address: "runa@fjord.example",
                    availability,
                    note,
                    display_name,
                    published: "2031-05-02T10:11:12",
                };
                let mut tree = Tree::new();
                let text = written(|w| new.emit_categories(w));
                let read = Categories::parse(text.as_bytes(), &mut tree).expect("a document");
                assert_eq!(read.uri(), "sip:runa@fjord.example");
                assert_eq!(read.state().map(|state| state.availability), Some(availability));
                assert_eq!(read.note().map(|note| note.text), Some(note.into()));
                assert_eq!(read.display_name().as_deref(), display_name);
                let text = written(|w| new.emit_presentity(w));
                let read = Presentity::parse(text.as_bytes(), &mut tree).expect("a document");
                assert_eq!((read.uri(), read.note().as_ref()), (new.address, note));
                assert_eq!(read.display_name(), display_name);
                let (reachable, activity) = availability.numbers_2005();
                assert_eq!(read.availability(), Some(Availability::of_2005(reachable, activity)));
            }
        }
    }

    #[test]
    fn what_declares_another_encoding_than_it_has_is_read() {
        let text = format!("<?xml version=\"1.0\" encoding=\"utf-16\"?>{}", categories(""));
        let mut tree = Tree::new();
        assert!(Categories::parse(text.as_bytes(), &mut tree).is_ok());
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let wide = [&[0xFF, 0xFE][..], &wide].concat();
        assert!(Categories::parse(&wide, &mut tree).is_ok());
        let other = format!("<?xml version='1.0' encoding='koi8-r'?>{}", categories(""));
        assert!(Categories::parse(other.as_bytes(), &mut tree).is_err());
    }

    #[test]
    fn hostile_documents_are_refused() {
        let mut tree = Tree::new();
        let deep = format!("{}{}", "<a>".repeat(10_000), "</a>".repeat(10_000));
        for hostile in [
            format!("<!DOCTYPE a [<!ENTITY b 'c'>]>{}", categories("")),
            categories(&deep),
            categories(&"<category name='state'/>".repeat(10_000)),
            categories(&"x".repeat(1 << 20)),
            format!("<categories xmlns='{CATEGORIES_NAMESPACE}'/>"),
            "<categories/>".into(),
        ] {
            assert!(Categories::parse(hostile.as_bytes(), &mut tree).is_err());
            assert!(Presentity::parse(hostile.as_bytes(), &mut tree).is_err());
        }
    }
}
