//! Which kinds of presence documents there are, which of them a side reads and is sent,
//! and each of them as [`Resource`]s and back. PIDF is `document.rs`'s; the others say
//! something of the user as a whole, whose name is empty.
//!
//! Towards Lync the clients of an XMPP user come to one, the one that he most likely
//! sits at: Lync knows no more than one tuple of somebody from outside.
//!
//! Left out on purpose: lists (`application/rlmi+xml`), of which nobody is promised any.

use super::document::{self, Clients, Fault};
use super::state::{Resource, Show, Status};
use crate::base::outbox::Writer;
use crate::base::time::Wall;
use crate::base::xml::Tree;
use crate::gateway::content::date::Stamp;
use crate::gateway::message::sip_uri;
use crate::settings::Dialect;
use crate::sip::header::MediaType;
use crate::sip::msrtc::{self, Activity, Availability};
use crate::sip::pidf::{self, Basic, NewTuple};
use crate::sip::xpidf;
use crate::xmpp::jid::Jid;
use core::cmp::Reverse;

/// A kind of presence document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// PIDF (RFC 3863).
    #[default]
    Pidf,
    /// That of Live Communications Server 2005.
    Presentity,
    /// That of Office Communications Server 2007 and later.
    Categories,
    /// That of before RFC 3863.
    Xpidf,
}

impl Format {
    /// Those there are; a watcher who does not take the first gets the first that he
    /// takes of the others, in the order that Lync has.
    const ALL: [Self; 4] = [Self::Pidf, Self::Categories, Self::Presentity, Self::Xpidf];

    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Pidf => pidf::CONTENT_TYPE,
            Self::Presentity => msrtc::PRESENTITY,
            Self::Categories => msrtc::CATEGORIES,
            Self::Xpidf => xpidf::CONTENT_TYPE,
        }
    }

    /// The kind that a Content-Type names.
    pub fn of(content_type: &str) -> Option<Self> {
        let media = MediaType::parse(content_type)?;
        Self::ALL.into_iter().find(|format| {
            format.content_type().split_once('/').is_some_and(|(type_, subtype)| media.is(type_, subtype))
        })
    }

    /// Is it read when it comes from a side that speaks this way? Categories are never
    /// asked for, since that takes a body that names them, but Lync sends them.
    pub const fn is_read(self, dialect: Dialect) -> bool {
        match dialect {
            Dialect::Standard => matches!(self, Self::Pidf),
            Dialect::Lync => matches!(self, Self::Pidf | Self::Presentity | Self::Categories),
        }
    }

    /// What a watcher is sent who takes these, the values of Accept; none: PIDF (RFC 3856
    /// section 6.3). `None`: he takes nothing that there is.
    pub fn choose<'a>(accepts: impl Iterator<Item = &'a str>, dialect: Dialect) -> Option<Self> {
        let (mut best, mut is_first) = (None, true);
        for range in accepts {
            is_first = false;
            let range = range.split(';').next().unwrap_or(range).trim();
            let takes = |format: &Self| is_in(range, format.content_type());
            let place = Self::ALL.iter().position(|format| takes(format) && format.is_sent(dialect));
            best = [best, place].into_iter().flatten().min();
        }
        if is_first { Some(Self::Pidf) } else { Self::ALL.get(best?).copied() }
    }

    fn is_sent(self, dialect: Dialect) -> bool {
        dialect == Dialect::Lync || self == Self::Pidf
    }

    /// A number that stands for it in what is kept.
    pub const fn code(self) -> u8 {
        match self {
            Self::Pidf => 0,
            Self::Presentity => 1,
            Self::Categories => 2,
            Self::Xpidf => 3,
        }
    }

    /// The kind of that number; PIDF for one that is not known.
    pub fn from_code(code: u8) -> Self {
        Self::ALL.into_iter().find(|format| format.code() == code).unwrap_or_default()
    }
}

/// The Accept of a SUBSCRIBE to a side that speaks this way, and of a 415. Lync sends
/// what it has of 2005 before PIDF, which has no notes and tells busy from not to be
/// disturbed by nothing.
pub const fn accept(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Standard => "application/pidf+xml",
        Dialect::Lync => "text/xml+msrtc.pidf, application/pidf+xml",
    }
}

/// Is a media type in that range of Accept?
fn is_in(range: &str, content_type: &str) -> bool {
    let of_type = range.strip_suffix("/*").is_some_and(|type_| {
        type_ == "*" || content_type.split('/').next().is_some_and(|own| own.eq_ignore_ascii_case(type_))
    });
    of_type || range.eq_ignore_ascii_case(content_type)
}

// ---- From SIP

/// What a document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// All clients.
    Clients(Clients),
    /// The user as a whole. What it does not speak of stays as it was.
    Whole(Whole),
}

/// What a document says of the user as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// How he is.
    state: Option<WholeState>,
    /// What he says about himself; `Some(None)`: nothing any more.
    note: Option<Option<Box<str>>>,
    /// What he is called.
    nick: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct WholeState {
    is_available: bool,
    show: Option<Show>,
    idle_since: Option<Wall>,
    activity: Option<Box<str>>,
}

/// Reads a document of that kind about `contact`. `language` is that of Content-Language.
pub fn read(
    format: Format,
    octets: &[u8],
    contact: &Jid,
    language: Option<&str>,
    tree: &mut Tree,
) -> Result<Told, Fault> {
    let is_about = |uri: &str| if document::is_about(uri, contact) { Ok(()) } else { Err(Fault::Foreign) };
    match format {
        Format::Pidf => document::from_pidf(pidf::CONTENT_TYPE, octets, contact, language, tree).map(Told::Clients),
        Format::Presentity => {
            let document = msrtc::Presentity::parse(octets, tree).map_err(|_| Fault::Malformed)?;
            is_about(document.uri())?;
            Ok(Told::Whole(Whole {
                state: document.availability().map(WholeState::of),
                note: Some(document::note(&document.note())),
                nick: document.display_name().and_then(document::display_name),
            }))
        }
        Format::Categories => {
            let document = msrtc::Categories::parse(octets, tree).map_err(|_| Fault::Malformed)?;
            is_about(document.uri())?;
            Ok(Told::Whole(from_categories(document)))
        }
        Format::Xpidf => {
            let document = xpidf::Document::parse(octets, tree).map_err(|_| Fault::Malformed)?;
            is_about(document.uri())?;
            Ok(Told::Whole(Whole {
                state: document.availability().map(WholeState::of),
                note: Some(None),
                nick: document.display_name().and_then(document::display_name),
            }))
        }
    }
}

fn from_categories(document: msrtc::Categories<'_>) -> Whole {
    let note = document.note();
    let state = document.state().map(|said| {
        let mut state = WholeState::of(said.availability);
        let is_idle = matches!(
            said.availability,
            Availability::AvailableIdle | Availability::BusyIdle | Availability::BeRightBack | Availability::Away
        );
        let point = |text: Option<&str>| text.and_then(point_in_time);
        state.idle_since = point(said.last_active).filter(|_| is_idle);
        let is_long = |since: Wall| point(said.published).is_some_and(|at| at.0 - since.0 >= LONG_IDLE_MS);
        let (is_custom, activity) = match &said.activity {
            Some(Activity::Custom(text)) => (true, document::note(text)),
            Some(Activity::Token(token)) => (*token == "out-of-office", words_of(token)),
            None => (false, None),
        };
        let is_out = is_custom || note.as_ref().is_some_and(|note| note.is_out_of_office);
        if said.availability == Availability::Away && (is_out || state.idle_since.is_some_and(is_long)) {
            state.show = Some(Show::Xa);
        }
        state.activity = activity.filter(|_| state.is_available);
        state
    });
    Whole {
        state,
        note: note.map(|note| document::note(&note.text)),
        nick: document.display_name().and_then(|name| document::display_name(&name)),
    }
}

/// Somebody who has touched nothing for so long is away for longer.
const LONG_IDLE_MS: i64 = 3_600_000;

/// A point in time of these documents: in UTC, which they need not say.
fn point_in_time(text: &str) -> Option<Wall> {
    document::point_in_time(text).or_else(|| document::point_in_time(&format!("{text}Z")))
}

/// The activities that Lync has words for, and those words.
const ACTIVITIES: [(&str, &str); 7] = [
    ("on-the-phone", "On the phone"),
    ("in-a-conference", "In a conference"),
    ("in-a-meeting", "In a meeting"),
    ("in-presentation", "Presenting"),
    ("urgent-interruptions-only", "Urgent interruptions only"),
    ("out-of-office", "Out of office"),
    ("off-work", "Off work"),
];

fn words_of(token: &str) -> Option<Box<str>> {
    ACTIVITIES.iter().find(|(known, _)| *known == token).map(|(_, words)| (*words).into())
}

/// How available somebody is, on XMPP: is he there, and `<show/>`.
const SHOWS: [(Availability, bool, Option<Show>); 8] = [
    (Availability::Offline, false, None),
    (Availability::Available, true, None),
    (Availability::AvailableIdle, true, Some(Show::Away)),
    (Availability::Busy, true, Some(Show::Dnd)),
    (Availability::BusyIdle, true, Some(Show::Dnd)),
    (Availability::DoNotDisturb, true, Some(Show::Dnd)),
    (Availability::BeRightBack, true, Some(Show::Away)),
    (Availability::Away, true, Some(Show::Away)),
];

impl WholeState {
    fn of(availability: Availability) -> Self {
        let row = SHOWS.iter().find(|(known, ..)| *known == availability);
        let (is_available, show) = row.map_or((false, None), |(_, is_available, show)| (*is_available, *show));
        Self { is_available, show, idle_since: None, activity: None }
    }
}

impl Told {
    /// Brings what is known up to what was said. False: it is still not known whether
    /// the user is there.
    pub fn apply(self, known: &mut Vec<Resource>) -> bool {
        let whole = match self {
            Self::Clients(clients) => return clients.apply(known),
            Self::Whole(whole) => whole,
        };
        let place = known.iter().position(|resource| resource.name.is_empty());
        let mut resource = place.map(|place| known.swap_remove(place));
        if let Some(state) = whole.state {
            let before = resource.take().unwrap_or_default();
            let WholeState { is_available, show, idle_since, activity } = state;
            let mut changed = Resource { is_available, show, ..before };
            changed.change_more(|more| {
                (more.idle_since, more.activity) = (idle_since, activity);
            });
            resource = Some(changed);
        }
        // Until he is known to be there or not, a note is about nobody.
        let Some(mut resource) = resource else { return false };
        if let Some(note) = whole.note {
            resource.statuses = note.map(|text| Status { lang: None, text }).into_iter().collect();
        }
        if let Some(nick) = whole.nick {
            resource.change_more(|more| more.nick = Some(nick));
        }
        known.clear();
        known.reserve_exact(1);
        known.push(resource);
        true
    }

    /// Does it say that nobody is there?
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Clients(clients) => clients.mute.is_empty() && clients.said.iter().all(|client| !client.is_available),
            Self::Whole(whole) => whole.state.as_ref().is_some_and(|state| !state.is_available),
        }
    }

    /// Leaves out what users say about themselves, for want of room.
    pub fn drop_texts(&mut self) {
        match self {
            Self::Clients(clients) => clients.said.iter_mut().for_each(|client| client.statuses = Box::default()),
            Self::Whole(whole) => {
                whole.note = whole.note.take().map(|_| None);
                if let Some(state) = &mut whole.state {
                    state.activity = None;
                }
            }
        }
    }
}

// ---- To SIP

/// How available an XMPP user is, on Lync: by `<show/>` of somebody who is there, the
/// number that counts, and the one activity that every reader of its PIDF knows.
const AVAILABILITIES: [(Option<Show>, Availability, Option<&str>); 5] = [
    (None, Availability::Available, None),
    (Some(Show::Chat), Availability::Available, None),
    (Some(Show::Dnd), Availability::DoNotDisturb, Some("busy")),
    (Some(Show::Away), Availability::Away, Some("away")),
    (Some(Show::Xa), Availability::Away, Some("away")),
];

/// Writes what Lync is told of `contact`: the one of his clients that he most likely sits
/// at, in a document of that kind. `now` is when it is so.
pub fn write_for_lync(w: &mut Writer<'_>, format: Format, contact: &Jid, resources: &[Resource], now: Wall) {
    let nobody = Resource::gone("");
    let resource = foremost(resources).unwrap_or(&nobody);
    // Somebody without an address on SIP has no watcher there.
    let uri = sip_uri(contact, false).unwrap_or_else(|_| format!("sip:{}", contact.bare()));
    let address = uri.strip_prefix("sip:").unwrap_or(&uri);
    let row = AVAILABILITIES.iter().find(|(show, ..)| *show == resource.show);
    let (availability, activity) = match row {
        Some((_, availability, activity)) if resource.is_available => (*availability, *activity),
        _ => (Availability::Offline, None),
    };
    let note = resource.statuses.first();
    let display_name = resources.iter().find_map(Resource::nick);
    if let Format::Pidf = format {
        pidf::emit(w, &uri, |w| {
            let tuple = NewTuple {
                id: &document::tuple_id(&resource.name),
                basic: if resource.is_available { Basic::Open } else { Basic::Closed },
                show: None,
                draft_activity: activity,
                contact: None,
            };
            tuple.emit(w, note.iter().map(|note| (note.lang.as_deref().or_else(|| resource.lang()), &*note.text)));
            if let Some(name) = display_name {
                pidf::emit_display_name(w, name);
            }
        });
        return;
    }
    let published = Stamp(now).to_string();
    let new = msrtc::NewPresence {
        address,
        availability,
        note: note.map_or("", |note| &note.text),
        display_name,
        published: published.trim_end_matches('Z'),
    };
    match format {
        Format::Categories => new.emit_categories(w),
        Format::Presentity => new.emit_presentity(w),
        Format::Pidf | Format::Xpidf => xpidf::emit(w, address, availability, display_name),
    }
}

/// The client that stands for the user: of those that are there the one of the highest
/// priority, of these the one he is most ready at; else any that is gone.
fn foremost(resources: &[Resource]) -> Option<&Resource> {
    let readiness = |resource: &Resource| match resource.show {
        Some(Show::Chat) => 0,
        None => 1,
        Some(Show::Dnd) => 2,
        Some(Show::Away) => 3,
        Some(Show::Xa) => 4,
    };
    resources
        .iter()
        .min_by_key(|resource| (!resource.is_available, Reverse(resource.priority.unwrap_or(0)), readiness(resource)))
}

#[cfg(test)]
mod tests {
    use super::super::state::More;
    use super::*;
    use crate::base::outbox::Outbox;

    fn jid(text: &str) -> Jid {
        Jid::parse(text).expect("an address")
    }

    /// What stands in the stanza after a document: is he there, show, status, nick.
    fn shown(format: Format, text: &str) -> String {
        let mut tree = Tree::new();
        let mut known = Vec::new();
        let told = read(format, text.as_bytes(), &jid("runa@fjord.example"), None, &mut tree).expect("a document");
        if !told.apply(&mut known) {
            return "unknown".into();
        }
        let resource = known.first().expect("a resource");
        let status = resource.statuses.first().map_or_else(|| resource.activity(), |status| Some(&*status.text));
        format!(
            "{} {} {:?} {:?}",
            resource.is_available,
            resource.show.map_or("-", Show::as_str),
            status.unwrap_or(""),
            resource.nick().unwrap_or("")
        )
    }

    fn categories(availability: u32, more: &str) -> String {
        let base = "http://schemas.microsoft.com/2006/09/sip";
        format!(
            "<categories xmlns='{base}/categories' uri='sip:runa@fjord.example'>\
             <category name='state' instance='1' publishTime='2031-05-02T12:00:00.100'><state xmlns='{base}/state' \
             xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance' xsi:type='aggregateState' {more}</state></category>\
             </categories>"
        )
        .replace("NUMBER", &availability.to_string())
    }

    #[test]
    fn every_availability_is_shown_as_the_table_has_it() {
        for (number, expected) in [
            (0, "false - \"\" \"\""),
            (3500, "true - \"\" \"\""),
            (5000, "true away \"\" \"\""),
            (6500, "true dnd \"\" \"\""),
            (8000, "true dnd \"\" \"\""),
            (9500, "true dnd \"\" \"\""),
            (12_500, "true away \"\" \"\""),
            (15_500, "true away \"\" \"\""),
            (18_500, "false - \"\" \"\""),
        ] {
            let text = categories(number, "><availability>NUMBER</availability>");
            assert_eq!(shown(Format::Categories, &text), expected, "{number}");
        }
    }

    #[test]
    fn what_somebody_does_is_his_status_where_he_says_nothing() {
        let doing = |number, activity: &str| {
            shown(Format::Categories, &categories(number, &format!("><availability>NUMBER</availability>{activity}")))
        };
        for (token, words) in ACTIVITIES {
            let activity = format!("<activity token='{token}'/>");
            assert_eq!(doing(6500, &activity), format!("true dnd {words:?} \"\""));
        }
        assert_eq!(doing(6500, "<activity token='knitting'/>"), "true dnd \"\" \"\"");
        let own = "<activity><custom LCID='1044'>At sea until Friday</custom></activity>";
        assert_eq!(doing(15_500, own), "true xa \"At sea until Friday\" \"\"");
        assert_eq!(doing(18_500, own), "false - \"\" \"\"");
        assert_eq!(doing(15_500, "<activity token='out-of-office'/>"), "true xa \"Out of office\" \"\"");
    }

    #[test]
    fn who_touched_nothing_for_an_hour_is_away_for_longer() {
        let since = |number, at: &str| {
            let more = format!("lastActive='{at}'><availability>NUMBER</availability>");
            let mut tree = Tree::new();
            let mut known = Vec::new();
            let text = categories(number, &more);
            let told = read(Format::Categories, text.as_bytes(), &jid("runa@fjord.example"), None, &mut tree);
            assert!(told.expect("a document").apply(&mut known));
            (known[0].show, known[0].idle_since())
        };
        let at = document::point_in_time("2031-05-02T11:00:00Z");
        assert_eq!(since(15_500, "2031-05-02T11:00:00"), (Some(Show::Xa), at));
        assert_eq!(since(15_500, "2031-05-02T11:00:01").0, Some(Show::Away));
        assert_eq!(since(5000, "2031-05-02T11:00:00Z"), (Some(Show::Away), at));
        assert_eq!(since(3500, "2031-05-02T11:00:00Z"), (None, None));
    }

    #[test]
    fn what_a_document_does_not_speak_of_stays() {
        let base = "http://schemas.microsoft.com/2006/09/sip";
        let note = |body: &str| {
            format!(
                "<categories xmlns='{base}/categories' uri='sip:runa@fjord.example'><category name='note'>\
                 <note xmlns='{base}/note'>{body}</note></category></categories>"
            )
        };
        let mut tree = Tree::new();
        let mut take = |known: &mut Vec<Resource>, text: &str| {
            let told = read(Format::Categories, text.as_bytes(), &jid("runa@fjord.example"), None, &mut tree);
            told.expect("a document").apply(known)
        };
        let mut known = Vec::new();
        let own = note("<body type='personal'>in the boathouse</body>");
        assert!(!take(&mut known, &own) && known.is_empty());
        let phone = "><availability>NUMBER</availability><activity token='on-the-phone'/>";
        assert!(take(&mut known, &categories(6500, phone)));
        assert!(take(&mut known, &own));
        assert_eq!((known[0].show, &*known[0].statuses[0].text), (Some(Show::Dnd), "in the boathouse"));
        assert!(take(&mut known, &categories(3500, "><availability>NUMBER</availability>")));
        assert_eq!((known[0].show, &*known[0].statuses[0].text), (None, "in the boathouse"));
        assert_eq!(known[0].activity(), None);
        assert!(take(&mut known, &note("")));
        assert!(known[0].is_available && known[0].statuses.is_empty());
        // What was said of clients before is over: the document speaks of all of him.
        let mut known = vec![Resource { is_available: true, ..Resource::gone("0") }];
        assert!(take(&mut known, &categories(18_500, "><availability>NUMBER</availability>")));
        assert_eq!(known, [Resource::gone("")]);
    }

    #[test]
    fn a_document_about_somebody_else_is_foreign() {
        let mut tree = Tree::new();
        let old = "<presentity xmlns='http://schemas.microsoft.com/2002/09/sip/presence' uri='runa@fjord.example'/>";
        let text = categories(3500, "><availability>NUMBER</availability>");
        for (format, text) in [(Format::Categories, &*text), (Format::Presentity, old)] {
            for other in ["egil@fjord.example", "runa@chat.example"] {
                assert_eq!(read(format, text.as_bytes(), &jid(other), None, &mut tree), Err(Fault::Foreign));
            }
            assert!(read(format, text.as_bytes(), &jid("runa@fjord.example"), None, &mut tree).is_ok());
            assert_eq!(read(format, b"<x/>", &jid("runa@fjord.example"), None, &mut tree), Err(Fault::Malformed));
        }
    }

    #[test]
    fn the_first_kind_is_chosen_that_a_watcher_takes() {
        let lync = "application/msrtc-event-categories+xml, application/xpidf+xml, text/xml+msrtc.pidf, \
                    application/pidf+xml, application/rlmi+xml, multipart/related";
        for (accept, standard, expected) in [
            (None, Some(Format::Pidf), Some(Format::Pidf)),
            (Some(lync), Some(Format::Pidf), Some(Format::Pidf)),
            (Some("APPLICATION/pidf+xml;q=0.5"), Some(Format::Pidf), Some(Format::Pidf)),
            (Some("*/*"), Some(Format::Pidf), Some(Format::Pidf)),
            (Some("application/*"), Some(Format::Pidf), Some(Format::Pidf)),
            (Some("text/*"), None, Some(Format::Presentity)),
            (Some("text/xml+msrtc.pidf, application/msrtc-event-categories+xml"), None, Some(Format::Categories)),
            (Some("application/xpidf+xml, text/xml+msrtc.pidf"), None, Some(Format::Presentity)),
            (Some("application/xpidf+xml"), None, Some(Format::Xpidf)),
            (Some("application/rlmi+xml, multipart/related"), None, None),
            (Some(""), None, None),
        ] {
            let choose = |dialect| Format::choose(accept.into_iter().flat_map(|list| list.split(',')), dialect);
            assert_eq!((choose(Dialect::Standard), choose(Dialect::Lync)), (standard, expected), "{accept:?}");
        }
        for format in Format::ALL {
            assert_eq!(Format::from_code(format.code()), format);
            assert_eq!(Format::of(&format!("{}; charset=utf-8", format.content_type())), Some(format));
        }
        assert!(accept(Dialect::Lync).split(", ").all(|t| Format::of(t).is_some_and(|f| f.is_read(Dialect::Lync))));
        assert!(!Format::Xpidf.is_read(Dialect::Lync) && !Format::Presentity.is_read(Dialect::Standard));
    }

    fn written(format: Format, resources: &[Resource]) -> String {
        let mut out = Outbox::default();
        let mut w = out.begin();
        let noon = document::point_in_time("2031-05-02T12:00:00Z").expect("a time");
        write_for_lync(&mut w, format, &jid("runa@fjord.example"), resources, noon);
        let span = w.finish();
        out.text(&span).to_owned()
    }

    fn client(name: &str, show: Option<Show>) -> Resource {
        Resource { is_available: true, show, ..Resource::gone(name) }
    }

    #[test]
    fn every_show_is_read_again_as_the_table_has_it() {
        for (show, again) in [
            (None, "-"),
            (Some(Show::Chat), "-"),
            (Some(Show::Dnd), "dnd"),
            (Some(Show::Away), "away"),
            (Some(Show::Xa), "away"),
        ] {
            let statuses = [Status { lang: None, text: "hull & keel".into() }].into();
            let more = More { nick: Some("Runa".into()), ..More::default() }.boxed();
            let all = [Resource { statuses, more, ..client("boat", show) }];
            for format in Format::ALL {
                let expected = match format {
                    Format::Xpidf => format!("true {again} \"\" \"Runa\""),
                    _ => format!("true {again} \"hull & keel\" \"Runa\""),
                };
                assert_eq!(shown(format, &written(format, &all)), expected);
                let gone = [Resource::gone("boat")];
                assert_eq!(shown(format, &written(format, &gone)), "false - \"\" \"\"");
                assert_eq!(shown(format, &written(format, &[])), "false - \"\" \"\"");
            }
        }
    }

    #[test]
    fn pidf_for_lync_has_one_tuple_and_the_activity_as_text() {
        let all = [Resource::gone("cabin"), client("boat", Some(Show::Dnd))];
        assert_eq!(
            written(Format::Pidf, &all),
            "<?xml version='1.0' encoding='UTF-8'?><presence xmlns='urn:ietf:params:xml:ns:pidf' \
             entity='sip:runa@fjord.example'><tuple id='ID-boat'><status><basic>open</basic>\
             <activities xmlns='urn:ietf:params:xml:ns:pidf:status:rpid-status'><activity>busy</activity></activities>\
             </status></tuple></presence>"
        );
    }

    #[test]
    fn the_client_of_the_highest_priority_stands_for_the_user() {
        let with = |name, show, priority| Resource { priority, ..client(name, show) };
        let foremost = |all: &[Resource]| foremost(all).map(|resource| resource.name.to_string());
        let (gone, away) = (Resource::gone("a"), client("b", Some(Show::Away)));
        let (busy, ready) = (client("c", Some(Show::Dnd)), client("d", None));
        assert_eq!(foremost(&[gone.clone(), away.clone(), busy.clone(), ready.clone()]).as_deref(), Some("d"));
        assert_eq!(foremost(&[gone.clone(), away, busy]).as_deref(), Some("c"));
        assert_eq!(foremost(&[ready, with("e", Some(Show::Xa), Some(5))]).as_deref(), Some("e"));
        assert_eq!(foremost(&[with("f", None, Some(-1)), gone]).as_deref(), Some("f"));
        assert_eq!(foremost(&[]), None);
    }
}
