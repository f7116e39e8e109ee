//! Presence as each side writes it down: a PIDF document (RFC 3863, RFC 4480) on SIP, a
//! `<presence/>` stanza on XMPP, and [`Resource`] between the two (RFC 8048 section 6,
//! tables 1 and 2; decisions D-14 to D-17).
//!
//! A tuple is a client: its id is `ID-` and the resourcepart, or `IDx-` and the
//! resourcepart coded where that is no name of XML's. The user as a whole, without a
//! resource, is `ID-` and nothing, which no client is called. What a document of a SIP
//! user says under other ids keeps them as resources.
//!
//! Left out on purpose: rich presence, idle times and timestamps are read and never sent
//! to SIP.
//!
//! Invariant: what [`to_pidf`] and [`to_stanza`] write of a resource that was read is
//! read again as the same, less what the other side has no place for.

use super::state::{More, Resource, Show, Status};
use crate::base::outbox::Writer;
use crate::base::text::{cut, hex_upper, hex_value};
use crate::base::time::Wall;
use crate::base::xml::{Node, Tag, Tree};
use crate::gateway::address;
use crate::gateway::content::date::{Stamp, parse_stamp};
use crate::gateway::content::language;
use crate::gateway::content::outward::first_language;
use crate::gateway::message::sip_uri;
use crate::limits::{
    DISPLAY_NAME_OCTETS_MAX, PIDF_TUPLES_MAX, PRESENCE_STATUS_OCTETS_MAX, PRESENCE_STATUSES_MAX, RESOURCES_MAX,
};
use crate::sip::header::MediaType;
use crate::sip::pidf::{self, Basic, Document, NewTuple, Tuple};
use crate::xmpp::jid::Jid;
use crate::xmpp::ns;
use crate::xmpp::stanza::{Head, Kind, Stanza};
use std::borrow::Cow;

/// Why the body of a NOTIFY says nothing about the contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is another type than is accepted: 415.
    Type,
    /// It is not well-formed, no PIDF, or beyond a limit: 400.
    Malformed,
    /// It is about somebody else (REQ-8048-70): 200, and ignored.
    Foreign,
}

/// What a document says of a user's clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// Those that it says something of.
    pub said: Vec<Resource>,
    /// The names of those that it has, and says nothing of (REQ-8048-65).
    pub mute: Vec<Box<str>>,
}

impl Clients {
    /// Brings what is known up to it: clients that it does not have are gone, those that it
    /// says nothing of are as they were, and so are those of which a later state is known
    /// (REQ-EVT-34). False: nothing is known still.
    pub fn apply(self, known: &mut Vec<Resource>) -> bool {
        let Self { mut said, mute } = self;
        for new in &mut said {
            if let Some(before) = known.iter().find(|before| before.name == new.name) {
                if (1..before.stamp_s).contains(&new.stamp_s) {
                    *new = before.clone();
                }
                new.stamp_s = new.stamp_s.max(before.stamp_s);
            }
        }
        let is_mute =
            |before: &Resource| mute.contains(&before.name) && !said.iter().any(|new| new.name == before.name);
        let kept: Vec<Resource> = known.drain(..).filter(is_mute).collect();
        let is_known = mute.is_empty() || !said.is_empty() || !kept.is_empty();
        *known = said;
        known.extend(kept);
        known.truncate(RESOURCES_MAX);
        is_known
    }
}

/// Reads the body of a NOTIFY about `contact`: the clients that its tuples are. `language`
/// is that of Content-Language.
pub fn from_pidf(
    content_type: &str,
    octets: &[u8],
    contact: &Jid,
    language: Option<&str>,
    tree: &mut Tree,
) -> Result<Clients, Fault> {
    if !MediaType::parse(content_type).is_some_and(|media| media.is("application", "pidf+xml")) {
        return Err(Fault::Type);
    }
    let document = Document::parse(octets, tree).map_err(|_| Fault::Malformed)?;
    if !is_about(document.entity(), contact) {
        return Err(Fault::Foreign);
    }
    let language = language.and_then(first_language);
    let mut clients = Clients::default();
    for tuple in document.tuples() {
        let Some(name) = name_of(tuple, contact) else { continue };
        match from_tuple(document, tuple, &name, language) {
            Some(_) if clients.said.iter().any(|first| first.name == name) => {}
            Some(resource) => clients.said.push(resource),
            None => clients.mute.push(name),
        }
    }
    Ok(clients)
}

/// Writes the PIDF document that says `resources` about `contact`. One that grows too
/// large loses notes, then tuples, from its end.
pub fn to_pidf<'a>(w: &mut Writer<'_>, contact: &Jid, resources: impl Iterator<Item = &'a Resource>) {
    // Somebody without an address on SIP has no watcher there.
    let uri = sip_uri(contact, false).unwrap_or_else(|_| format!("sip:{}", contact.bare()));
    let start = w.len();
    pidf::emit(w, &entity_of(&uri), |w| {
        for resource in resources.take(PIDF_TUPLES_MAX) {
            let before = w.len();
            emit_tuple(w, &uri, resource, &resource.statuses);
            if pidf::is_full(w.len() - start) {
                w.truncate(before);
                emit_tuple(w, &uri, resource, &[]);
            }
            if pidf::is_full(w.len() - start) {
                w.truncate(before);
                break;
            }
        }
    });
}

/// Reads a `<presence/>` without `type` or of type `unavailable`.
pub fn from_stanza(stanza: &Stanza<'_>) -> Resource {
    let (element, lang) = (stanza.element, stanza.lang.and_then(language));
    let children = |name| element.children().filter(move |child| child.is(name, element.namespace()));
    let is_available = stanza.type_.is_none();
    let idle = element.child("idle", ns::IDLE).filter(|_| is_available);
    Resource {
        name: stanza.from.resource().unwrap_or_default().into(),
        is_available,
        show: only(children("show").map(Node::text)).and_then(|show| Show::from_name(show.trim())),
        priority: only(children("priority").map(Node::text)).and_then(|priority| priority.trim().parse().ok()),
        stamp_s: 0,
        statuses: statuses(children("status").map(|status| (status.lang(), status.text())), lang),
        more: More {
            lang: lang.map(Into::into),
            idle_since: idle.and_then(|idle| idle.attribute("since")).and_then(point_in_time),
            nick: element.child("nick", ns::NICK).filter(|_| is_available).and_then(|nick| display_name(&nick.text())),
            activity: None,
        }
        .boxed(),
    }
}

/// Writes the `<presence/>` of one resource of the contact `from`, a bare JID.
/// `with_status`: may what he says about himself be told (partner type)? `capabilities`
/// writes `<c/>` (XEP-0115) where it belongs.
pub fn to_stanza(
    w: &mut Writer<'_>,
    from: &str,
    to: &str,
    resource: &Resource,
    with_status: bool,
    capabilities: impl FnOnce(&mut Writer<'_>),
) {
    let from = match &*resource.name {
        "" => Cow::Borrowed(from),
        name => Cow::Owned(format!("{from}/{name}")),
    };
    let type_ = if resource.is_available { None } else { Some("unavailable") };
    let head = Head { kind: Kind::Presence, from: &from, to, id: None, type_, lang: resource.lang() };
    head.emit(w, |w| {
        if let Some(show) = resource.show {
            Tag::begin(w, "show").text(show.as_str());
        }
        for status in resource.statuses.iter().filter(|_| with_status) {
            Tag::begin(w, "status").lang(status.lang.as_deref()).text(&status.text);
        }
        if let Some(activity) = resource.activity().filter(|_| with_status && resource.statuses.is_empty()) {
            Tag::begin(w, "status").text(activity);
        }
        if let Some(priority) = resource.priority {
            Tag::begin(w, "priority").text(&priority.to_string());
        }
        if !resource.is_available {
            return;
        }
        if let Some(nick) = resource.nick().filter(|_| with_status) {
            Tag::begin(w, "nick").namespace(ns::NICK).text(nick);
        }
        if let Some(since) = resource.idle_since() {
            Tag::begin(w, "idle").namespace(ns::IDLE).attribute("since", &Stamp(since).to_string()).empty();
        }
        capabilities(w);
    });
}

/// The name of the client that a tuple is; `None` if its id is nobody's resource.
fn name_of(tuple: Tuple<'_>, contact: &Jid) -> Option<Box<str>> {
    match &*resource_of(tuple.id()) {
        "" => Some(Box::default()),
        name => Some(contact.with_resource(name).ok()?.resource()?.into()),
    }
}

/// What a tuple tells of that client. `None` if it does not say whether it is there.
fn from_tuple(document: Document<'_>, tuple: Tuple<'_>, name: &str, language: Option<&str>) -> Option<Resource> {
    let is_available = tuple.basic()? == Basic::Open;
    let show = match tuple.shows().next() {
        Some(_) => only(tuple.shows()).and_then(|show| Show::from_name(show.trim())),
        // Somebody who is gone is not busy at his phone.
        None if is_available => document.activities(tuple).and_then(|all| all.names().find_map(|name| show_of(&name))),
        None => None,
    };
    let is_empty = |note: pidf::Note<'_>| note.text().trim().is_empty();
    let statuses = if tuple.notes().all(is_empty) {
        statuses(document.notes().map(|note| (note.lang(), note.text())), language)
    } else {
        statuses(tuple.notes().map(|note| (note.lang(), note.text())), language)
    };
    let idle = document.user_input(tuple).filter(|input| is_available && input.is_idle);
    let name_of_user = document.display_name(tuple).filter(|_| is_available);
    let stamp = tuple.timestamp().and_then(|stamp| point_in_time(stamp.trim()));
    Some(Resource {
        name: name.into(),
        stamp_s: stamp.and_then(|stamp| u32::try_from(stamp.seconds()).ok()).unwrap_or_default(),
        is_available,
        show,
        priority: tuple.contact().and_then(|contact| contact.priority).map(priority_of),
        statuses,
        more: More {
            lang: language.map(Into::into),
            idle_since: idle.and_then(|input| input.last_input).and_then(point_in_time),
            nick: name_of_user.and_then(|name| display_name(&name)),
            activity: None,
        }
        .boxed(),
    })
}

fn emit_tuple(w: &mut Writer<'_>, uri: &str, resource: &Resource, statuses: &[Status]) {
    let tuple = NewTuple {
        id: &tuple_id(&resource.name),
        basic: if resource.is_available { Basic::Open } else { Basic::Closed },
        show: resource.show.map(Show::as_str),
        draft_activity: None,
        contact: resource.priority.and_then(thousandths_of).map(|priority| (uri, priority)),
    };
    let lang = resource.lang();
    tuple.emit(w, statuses.iter().map(|status| (status.lang.as_deref().or(lang), &*status.text)));
}

/// The entity of the user with this SIP URI (RFC 3859, REQ-8048-5).
pub(super) fn entity_of(uri: &str) -> String {
    match uri.strip_prefix("sip:") {
        // What follows a `?` would be headers of the `pres` URI (RFC 3859 section 3.1).
        Some(address) if address.contains('@') => format!("pres:{}", address.replace('?', "%3F")),
        _ => uri.to_owned(),
    }
}

/// Is `entity` the contact, whichever way its URI is spelled (REQ-8048-70)?
pub(super) fn is_about(entity: &str, contact: &Jid) -> bool {
    let mut mapped = String::new();
    let user = entity.split('@').next().unwrap_or_default();
    // COMPAT: Live Communications Server 2005 leaves the scheme out.
    let spelled: Cow<'_, str> = if user.contains(':') { entity.into() } else { format!("pres:{entity}").into() };
    address::to_jid(&spelled, None, &mut mapped).is_ok()
        && Jid::parse(&mapped).is_ok_and(|entity| entity.bare() == contact.bare())
}

/// The tuple id of a resource (D-14).
pub(super) fn tuple_id(name: &str) -> String {
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-');
    if name.bytes().all(|octet| is_plain(octet) || octet == b'_') {
        return format!("ID-{name}");
    }
    let mut id = String::with_capacity(4 + name.len() * 3);
    id.push_str("IDx-");
    for octet in name.bytes() {
        if is_plain(octet) {
            id.push(char::from(octet));
        } else {
            id.push('_');
            id.extend(hex_upper(octet).map(char::from));
        }
    }
    id
}

/// The resource of a tuple id (D-17): an id that we would not have made is one itself.
fn resource_of(id: &str) -> Cow<'_, str> {
    match id.strip_prefix("IDx-").and_then(decode) {
        Some(name) => name.into(),
        None => id.strip_prefix("ID-").unwrap_or(id).into(),
    }
}

fn decode(coded: &str) -> Option<String> {
    let mut name = Vec::with_capacity(coded.len());
    let mut octets = coded.bytes();
    while let Some(octet) = octets.next() {
        name.push(if octet == b'_' { hex_value(octets.next()?)? << 4 | hex_value(octets.next()?)? } else { octet });
    }
    String::from_utf8(name).ok()
}

/// The priority of a contact in thousandths (D-15). `None` for a negative one, which
/// PIDF has no place for (REQ-8048-50).
fn thousandths_of(priority: i8) -> Option<u16> {
    let priority = u32::try_from(priority).ok()?;
    u16::try_from(priority * 1000 / 127).ok()
}

/// The priority of a client (D-15): the nearest one.
fn priority_of(thousandths: u16) -> i8 {
    let nearest = (u32::from(thousandths) * 127 + 500) / 1000;
    i8::try_from(nearest).unwrap_or(i8::MAX)
}

/// How available somebody is who does this (REQ-8048-67; RFC 4480 section 3.2).
fn show_of(activity: &str) -> Option<Show> {
    match activity {
        "away" | "appointment" | "meal" => Some(Show::Away),
        "vacation" | "permanent-absence" => Some(Show::Xa),
        "busy" | "meeting" | "on-the-phone" | "presentation" | "performance" => Some(Show::Dnd),
        _ => None,
    }
}

/// What somebody says about himself in a language that is not known, in bounds.
pub(super) fn note(text: &str) -> Option<Box<str>> {
    let text = cut(text.trim(), PRESENCE_STATUS_OCTETS_MAX).trim_end();
    (!text.is_empty()).then(|| text.into())
}

/// The first text of each language, in bounds. One in the language of the whole keeps
/// none of its own.
fn statuses<'a>(said: impl Iterator<Item = (Option<&'a str>, Cow<'a, str>)>, whole: Option<&str>) -> Box<[Status]> {
    let mut statuses: Vec<Status> = Vec::new();
    for (own, text) in said {
        if statuses.len() == PRESENCE_STATUSES_MAX {
            break;
        }
        let own = own.and_then(language).filter(|own| !whole.is_some_and(|whole| whole.eq_ignore_ascii_case(own)));
        let is_same = |status: &Status| match (status.lang.as_deref(), own) {
            (Some(first), Some(own)) => first.eq_ignore_ascii_case(own),
            (first, own) => first == own,
        };
        if let Some(text) = note(&text).filter(|_| !statuses.iter().any(is_same)) {
            statuses.push(Status { lang: own.map(Into::into), text });
        }
    }
    statuses.into()
}

/// What somebody is called, in bounds.
pub(super) fn display_name(text: &str) -> Option<Box<str>> {
    let name = cut(text.trim(), DISPLAY_NAME_OCTETS_MAX).trim_end();
    (!name.is_empty()).then(|| name.into())
}

/// The only one; none if there are several (REQ-XI-13).
fn only<T>(mut all: impl Iterator<Item = T>) -> Option<T> {
    let first = all.next();
    first.filter(|_| all.next().is_none())
}

/// A point in time that can be written down again: of this epoch, with a year of four
/// digits.
pub(super) fn point_in_time(text: &str) -> Option<Wall> {
    const YEAR_10000_MS: i64 = 253_402_300_800_000;
    parse_stamp(text).filter(|wall| (0..YEAR_10000_MS).contains(&wall.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::outbox::Outbox;
    use crate::base::xml::{Bindings, Limits};
    use crate::limits::PIDF_OCTETS_MAX;

    const HEAD: &str = "<presence xmlns='urn:ietf:params:xml:ns:pidf' entity='pres:marta@voip.example' \
         xmlns:dm='urn:ietf:params:xml:ns:pidf:data-model' xmlns:r='urn:ietf:params:xml:ns:pidf:rpid'>";

    fn jid(text: &str) -> Jid {
        Jid::parse(text).expect("an address")
    }

    fn read_as(content_type: &str, text: &str, language: Option<&str>) -> Result<Vec<Resource>, Fault> {
        let mut tree = Tree::new();
        from_pidf(content_type, text.as_bytes(), &jid("marta@voip.example"), language, &mut tree).map(|read| read.said)
    }

    /// The resources of a document with this in it.
    fn read(inside: &str) -> Vec<Resource> {
        read_as("application/pidf+xml", &format!("{HEAD}{inside}</presence>"), None).expect("a document")
    }

    /// The one resource of a tuple with this behind its status.
    fn read_open(inside: &str) -> Resource {
        let all = read(&format!("<tuple id='ID-a'><status><basic>open</basic></status>{inside}</tuple>"));
        all.into_iter().next().expect("a resource")
    }

    fn written(contact: &str, resources: &[Resource]) -> String {
        let mut out = Outbox::default();
        let mut w = out.begin();
        to_pidf(&mut w, &jid(contact), resources.iter());
        let span = w.finish();
        out.text(&span).to_owned()
    }

    /// What is written between the document's tags about these.
    fn tuples(resources: &[Resource]) -> String {
        let text = written("lena@chat.example", resources);
        let head = "<?xml version='1.0' encoding='UTF-8'?>\
            <presence xmlns='urn:ietf:params:xml:ns:pidf' entity='pres:lena@chat.example'>";
        let inside = text.strip_prefix(head).and_then(|rest| rest.strip_suffix("</presence>"));
        inside.unwrap_or_else(|| panic!("{text}")).to_owned()
    }

    fn stanza_to(resource: &Resource, with_status: bool) -> String {
        let mut out = Outbox::default();
        let mut w = out.begin();
        to_stanza(&mut w, "marta@voip.example", "lena@chat.example", resource, with_status, |w| {
            Tag::begin(w, "c").namespace(ns::CAPS).empty();
        });
        let span = w.finish();
        out.text(&span).to_owned()
    }

    fn parsed(text: &str) -> Resource {
        let mut tree = Tree::new();
        let node = tree.parse(text.as_bytes(), &Bindings::with_default(ns::SERVER), Limits::STANZA);
        let node = node.unwrap_or_else(|error| panic!("{text}: {error}"));
        from_stanza(&Stanza::parse(node, ns::SERVER, None).expect("a stanza"))
    }

    /// Presence from lena's client with this in it.
    fn parsed_with(inside: &str) -> Resource {
        parsed(&format!("<presence from='lena@chat.example/a' to='marta@voip.example'>{inside}</presence>"))
    }

    fn open(name: &str) -> Resource {
        Resource { name: name.into(), is_available: true, ..Resource::default() }
    }

    fn status(lang: Option<&str>, text: &str) -> Status {
        Status { lang: lang.map(Into::into), text: text.into() }
    }

    /// Names that are hard to carry.
    const ODD: &[&str] = &[
        "balkon",
        "4711",
        "Handy 2",
        "Büro 1",
        "a_b",
        "_",
        "-",
        ".",
        "x-",
        "IDx-a",
        "ID-",
        "ID-a",
        "a:b",
        "a/b@c",
        "_41",
        "<'&\">",
        "🌙",
        "a b",
        "%20",
        "closed",
        "é\u{323}",
        " x ",
        "Ω",
    ];

    // ---- XMPP to SIP

    #[test]
    fn req_8048_46_a_document_says_what_the_stanza_said_and_no_more() {
        let resource = parsed(
            "<presence from='lena@chat.example/balkon' to='marta@voip.example' id='x1' xml:lang='de'><show>dnd</show>\
             <status>Im Gespräch – bis 15 Uhr</status><priority>5</priority>\
             <c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:example:client' ver='x'/>\
             <idle xmlns='urn:xmpp:idle:1' since='2031-05-02T10:11:12Z'/></presence>",
        );
        assert_eq!(
            tuples(&[resource]),
            "<tuple id='ID-balkon'><status><basic>open</basic><show xmlns='jabber:client'>dnd</show></status>\
             <contact priority='0.039'>sip:lena@chat.example</contact>\
             <note xml:lang='de'>Im Gespräch – bis 15 Uhr</note></tuple>"
        );
    }

    #[test]
    fn req_8048_47_presence_without_type_and_unavailable_are_read() {
        assert!(parsed_with("").is_available);
        let gone = parsed("<presence from='lena@chat.example/a' to='marta@voip.example' type='unavailable'/>");
        assert_eq!(gone, Resource::gone("a"));
    }

    #[test]
    fn req_8048_48_a_tuple_id_is_a_name_made_of_the_resource() {
        for (name, id) in [
            ("balkon", "ID-balkon"),
            ("4711", "ID-4711"),
            ("a_b.c-D", "ID-a_b.c-D"),
            ("Handy 2", "IDx-Handy_202"),
            ("Büro 1", "IDx-B_C3_BCro_201"),
            ("a_ b", "IDx-a_5F_20b"),
            ("", "ID-"),
        ] {
            assert_eq!((&*tuple_id(name), &*resource_of(id)), (id, name));
        }
    }

    #[test]
    fn req_8048_48_every_resource_comes_back_from_its_tuple_id() {
        let mut ids: Vec<String> = Vec::new();
        let ascii = (' '..='~').map(String::from);
        for name in ODD.iter().map(|name| (*name).to_owned()).chain(ascii).chain([String::new(), "ü".repeat(511)]) {
            let id = tuple_id(&name);
            assert_eq!(resource_of(&id), name, "{id}");
            let legal = |octet: u8| octet.is_ascii_alphanumeric() || b".-_".contains(&octet);
            assert!(id.starts_with("ID") && id.bytes().all(legal), "{id}");
            ids.push(id);
        }
        ids.sort();
        let count = ids.len();
        ids.dedup();
        // `-`, `.` and `_` are in both lists.
        assert_eq!(ids.len(), count - 3);
    }

    #[test]
    fn req_8048_49_availability_is_basic() {
        assert_eq!(tuples(&[open("a")]), "<tuple id='ID-a'><status><basic>open</basic></status></tuple>");
        assert_eq!(tuples(&[Resource::gone("a")]), "<tuple id='ID-a'><status><basic>closed</basic></status></tuple>");
    }

    #[test]
    fn req_8048_50_a_negative_priority_is_not_said() {
        for priority in i8::MIN..0 {
            let resource = Resource { priority: Some(priority), ..open("a") };
            assert_eq!(tuples(&[resource]), tuples(&[open("a")]), "{priority}");
        }
    }

    #[test]
    fn req_8048_51_every_priority_has_a_decimal_of_its_own_and_comes_back() {
        let mut last = None;
        for priority in 0..=i8::MAX {
            let thousandths = thousandths_of(priority).expect("a priority that is said");
            assert!(Some(thousandths) > last, "{priority}");
            assert_eq!(priority_of(thousandths), priority);
            last = Some(thousandths);
            let resource = Resource { priority: Some(priority), ..open("a") };
            let text = written("marta@voip.example", core::slice::from_ref(&resource));
            assert_eq!(read_as("application/pidf+xml", &text, None), Ok(vec![resource]));
        }
        for (priority, thousandths) in [(0, 0), (1, 7), (2, 15), (5, 39), (64, 503), (126, 992), (127, 1000)] {
            assert_eq!(thousandths_of(priority), Some(thousandths));
        }
        assert!(!tuples(&[open("a")]).contains("contact"));
    }

    #[test]
    fn req_8048_52_show_is_copied() {
        for show in [Show::Away, Show::Chat, Show::Dnd, Show::Xa] {
            let resource = Resource { show: Some(show), ..open("a") };
            let inside = format!("<show xmlns='jabber:client'>{}</show>", show.as_str());
            assert!(tuples(&[resource]).contains(&inside), "{inside}");
        }
    }

    #[test]
    fn req_8048_53_every_resource_is_its_own_tuple() {
        let xa = Resource { show: Some(Show::Xa), priority: Some(-1), ..open("Handy 2") };
        assert_eq!(
            tuples(&[Resource::gone("balkon"), xa]),
            "<tuple id='ID-balkon'><status><basic>closed</basic></status></tuple>\
             <tuple id='IDx-Handy_202'><status><basic>open</basic><show xmlns='jabber:client'>xa</show></status></tuple>"
        );
        assert_eq!(tuples(&[]), "");
    }

    #[test]
    fn req_8048_57_every_language_is_a_note() {
        let resource = parsed(
            "<presence from='lena@chat.example/a' to='marta@voip.example' type='unavailable' xml:lang='de'>\
             <status>Feierabend</status><status xml:lang='en'>Done</status><status xml:lang='DE'>noch eins</status>\
             <status xml:lang='EN'>again</status></presence>",
        );
        assert_eq!(&*resource.statuses, [status(None, "Feierabend"), status(Some("en"), "Done")]);
        assert_eq!(
            tuples(&[resource]),
            "<tuple id='ID-a'><status><basic>closed</basic></status>\
             <note xml:lang='de'>Feierabend</note><note xml:lang='en'>Done</note></tuple>"
        );
        let without = parsed_with("<status>Feierabend</status>");
        assert!(tuples(&[without]).contains("<note>Feierabend</note>"));
    }

    #[test]
    fn the_user_as_a_whole_has_a_tuple_id_of_its_own() {
        let whole = parsed("<presence from='lena@chat.example' to='marta@voip.example' type='unavailable'/>");
        assert_eq!(whole, Resource::gone(""));
        let all = [whole, open("ID-"), open("closed"), open("-")];
        let text = written("marta@voip.example", &all);
        assert!(text.contains("<tuple id='ID-'>"), "{text}");
        assert_eq!(read_as("application/pidf+xml", &text, None).as_deref(), Ok(&all[..]));
    }

    #[test]
    fn req_8048_5_the_entity_is_a_pres_uri_that_leads_back() {
        for (contact, entity) in [
            ("lena@chat.example", "pres:lena@chat.example"),
            ("lena@chat.example/balkon", "pres:lena@chat.example"),
            ("a?b;c=d\\26e@chat.example", "pres:a%3Fb;c=d&amp;e@chat.example"),
            ("jürgen@bücher.example", "pres:j%C3%BCrgen@xn--bcher-kva.example"),
        ] {
            let text = written(contact, &[open("a")]);
            assert!(text.contains(&format!(" entity='{entity}'")), "{text}");
            let again = from_pidf("application/pidf+xml", text.as_bytes(), &jid(contact), None, &mut Tree::new());
            assert_eq!(again.map(|read| read.said).as_deref(), Ok(&[open("a")][..]), "{contact}");
        }
    }

    #[test]
    fn a_document_that_grows_too_large_loses_notes_and_then_tuples() {
        let loud = |name: usize| Resource {
            statuses: (0..4).map(|n| status(Some(&format!("l{}", "x".repeat(n))), &"'".repeat(1024))).collect(),
            ..open(&format!("r{name}"))
        };
        let all: Vec<Resource> = (0..PIDF_TUPLES_MAX + 9).map(loud).collect();
        let text = written("marta@voip.example", &all);
        assert!(text.len() <= PIDF_OCTETS_MAX, "{}", text.len());
        let again = read_as("application/pidf+xml", &text, None).expect("a document");
        assert_eq!(again.len(), PIDF_TUPLES_MAX);
        assert_eq!(again.first(), all.first());
        assert_eq!(again.last(), Some(&open(&format!("r{}", PIDF_TUPLES_MAX - 1))));
        let long: Vec<Resource> = (10..74).map(|n| open(&format!("{n}{}", "/".repeat(1000)))).collect();
        let text = written("marta@voip.example", &long);
        let again = read_as("application/pidf+xml", &text, None).expect("a document");
        assert!((10..64).contains(&again.len()) && again == long[..again.len()], "{}", again.len());
    }

    #[test]
    fn req_xi_13_two_shows_or_an_unknown_one_are_none() {
        assert_eq!(parsed_with("<show> xa\n</show>").show, Some(Show::Xa));
        for none in
            ["", "<show/>", "<show>XA</show>", "<show>xa</show><show>xa</show>", "<show xmlns='urn:x'>xa</show>"]
        {
            assert_eq!(parsed_with(none).show, None, "{none}");
        }
    }

    #[test]
    fn req_xi_13_a_priority_beyond_an_octet_is_none() {
        for priority in i8::MIN..=i8::MAX {
            assert_eq!(parsed_with(&format!("<priority>{priority}</priority>")).priority, Some(priority));
        }
        for none in ["128", "-129", "", "x", "1.0", "1</priority><priority>1"] {
            assert_eq!(parsed_with(&format!("<priority>{none}</priority>")).priority, None, "{none}");
        }
    }

    #[test]
    fn statuses_are_few_and_short() {
        let long = "ü".repeat(2000);
        let inside: String = (0..9).map(|n| format!("<status xml:lang='l{}'>{long}</status>", "x".repeat(n))).collect();
        let statuses = parsed_with(&inside).statuses;
        assert_eq!(statuses.len(), PRESENCE_STATUSES_MAX);
        assert!(statuses.iter().all(|status| *status.text == "ü".repeat(512)));
        assert!(parsed_with("<status> \n</status>").statuses.is_empty());
        // A cut leaves no blank at the end, which a reader would not see.
        let blank = format!("<status>a{}b</status>", " ".repeat(2000));
        assert_eq!(&*parsed_with(&blank).statuses, [status(None, "a")]);
    }

    #[test]
    fn what_is_no_language_is_none() {
        let inside = "<status xml:lang='a b'>1</status><status xml:lang='en&#xA;Via: x'>2</status>";
        assert_eq!(&*parsed_with(inside).statuses, [status(None, "1")]);
        let text = "<presence from='lena@chat.example' to='marta@voip.example' xml:lang='de&#xD;&#xA;X: y'/>";
        assert_eq!(parsed(text).lang(), None);
    }

    // ---- SIP to XMPP

    #[test]
    fn req_8048_59_a_stanza_says_what_the_document_said() {
        let text = format!(
            "<?xml version='1.0' encoding='UTF-8'?>{HEAD}<tuple id='ID-tisch4'>\
             <status><basic>open</basic><show xmlns='jabber:client'>dnd</show></status>\
             <contact priority='0.5'>sip:marta@192.0.2.21:5061</contact><note>En réunion</note>\
             <timestamp>2031-05-02T10:11:12Z</timestamp></tuple>\
             <tuple id='pda_9'><status><basic>closed</basic></status></tuple>\
             <tuple id='ID-labor'><status/></tuple></presence>"
        );
        let all = read_as("application/pidf+xml", &text, Some("fr")).expect("a document");
        let stanzas: Vec<String> = all.iter().map(|resource| stanza_to(resource, true)).collect();
        assert_eq!(
            stanzas,
            [
                "<presence from='marta@voip.example/tisch4' to='lena@chat.example' xml:lang='fr'><show>dnd</show>\
                 <status>En réunion</status><priority>64</priority><c xmlns='http://jabber.org/protocol/caps'/></presence>",
                "<presence from='marta@voip.example/pda_9' to='lena@chat.example' type='unavailable' xml:lang='fr'>\
                 </presence>",
            ]
        );
    }

    /// What is known after `before`, when a document with this in it came.
    fn known_after(before: &[Resource], inside: &str) -> Option<Vec<Resource>> {
        let text = format!("{HEAD}{inside}</presence>");
        let contact = jid("marta@voip.example");
        let clients = from_pidf("application/pidf+xml", text.as_bytes(), &contact, None, &mut Tree::new());
        let mut known = before.to_vec();
        clients.expect("a document").apply(&mut known).then_some(known)
    }

    #[test]
    fn req_8048_65_a_tuple_that_says_nothing_leaves_its_client_as_it_was() {
        let mute = "<tuple id='ID-a'><status/></tuple>";
        assert_eq!(known_after(&[], mute), None);
        assert_eq!(known_after(&[open("a"), open("b")], mute), Some(vec![open("a")]));
        assert_eq!(known_after(&[open("a")], ""), Some(vec![]));
        let other = "<tuple id='ID-b'><status><basic>closed</basic></status></tuple>";
        assert_eq!(known_after(&[open("a")], &format!("{mute}{other}")), Some(vec![Resource::gone("b"), open("a")]));
    }

    #[test]
    fn req_evt_34_a_tuple_older_than_what_is_known_says_nothing() {
        let at = |stamp: &str| {
            let stamp = if stamp.is_empty() { String::new() } else { format!("<timestamp>{stamp}</timestamp>") };
            format!("<tuple id='ID-a'><status><basic>closed</basic></status>{stamp}</tuple>")
        };
        let is_taken = |before: u32, stamp| {
            let before = Resource { stamp_s: before, ..open("a") };
            let known = known_after(&[before], &at(stamp)).expect("it is known");
            (!known[0].is_available, known[0].stamp_s)
        };
        let noon = 1_935_403_200;
        assert_eq!(is_taken(noon, "2031-05-01T11:59:59Z"), (false, noon));
        assert_eq!(is_taken(noon, "2031-05-01T14:00:00+02:00"), (true, noon));
        assert_eq!(is_taken(noon, "2031-05-01T12:00:01.5Z"), (true, noon + 1));
        assert_eq!(is_taken(0, "2031-05-01T12:00:00Z"), (true, noon));
        for none in ["", "noon", "1931-05-01T12:00:00Z"] {
            assert_eq!(is_taken(noon, none), (true, noon), "{none}");
        }
    }

    #[test]
    fn req_8048_60_closed_is_unavailable() {
        let all = read("<tuple id='ID-a'><status><basic>closed</basic></status></tuple>");
        assert_eq!(all, [Resource::gone("a")]);
        assert!(read_open("").is_available);
    }

    #[test]
    fn req_8048_61_only_a_legal_show_is_passed_on() {
        let show = |shows: &str| {
            let inside = format!("<tuple id='a'><status><basic>open</basic>{shows}</status></tuple>");
            read(&inside).first().and_then(|resource| resource.show)
        };
        for known in [Show::Away, Show::Chat, Show::Dnd, Show::Xa] {
            assert_eq!(show(&format!("<show xmlns='jabber:client'>{}</show>", known.as_str())), Some(known));
        }
        let away = "<show xmlns='jabber:client'>away</show>";
        let twice = away.repeat(2);
        for none in ["<show>away</show>", "<show xmlns='jabber:client'>online</show>", &twice] {
            assert_eq!(show(none), None, "{none}");
        }
        // An illegal one is one all the same: activities do not count.
        let busy = "<r:activities><r:busy/></r:activities>";
        assert_eq!(show(&format!("{away}{busy}")), Some(Show::Away));
        assert_eq!(show(&format!("<show xmlns='jabber:client'>x</show>{busy}")), None);
    }

    #[test]
    fn req_8048_62_the_resource_is_the_tuple_id_without_its_prefix() {
        for (id, name) in [
            ("ID-tisch4", "tisch4"),
            ("pda_9", "pda_9"),
            ("0", "0"),
            ("IDx-B_C3_BCro_201", "Büro 1"),
            ("IDx-B_c3_bcro", "Büro"),
            // What we would not have written is nobody's code.
            ("IDx-_C3", "IDx-_C3"),
            ("IDx-_ZZ", "IDx-_ZZ"),
            ("IDx-_4", "IDx-_4"),
            ("id-a", "id-a"),
            (" ID-a ", "a"),
            ("", ""),
            ("ID-", ""),
            // Prepared as every resource.
            ("ID-e\u{301}", "é"),
        ] {
            let all = read(&format!("<tuple id='{id}'><status><basic>open</basic></status></tuple>"));
            assert_eq!(all, [open(name)], "{id}");
        }
    }

    #[test]
    fn a_tuple_whose_id_is_no_resource_is_dropped() {
        let long = "a".repeat(1024);
        for id in ["IDx-_00", "IDx-_0A", "ID-a&#x85;b", &long] {
            let all = read(&format!(
                "<tuple id='{id}'><status><basic>open</basic></status></tuple>\
                 <tuple id='b'><status><basic>open</basic></status></tuple>"
            ));
            assert_eq!(all, [open("b")], "{id}");
        }
        assert_eq!(read(&format!("<tuple id='{}'><status><basic>open</basic></status></tuple>", &long[1..])).len(), 1);
    }

    #[test]
    fn req_evt_31_of_two_tuples_for_one_resource_the_first_counts() {
        let all = read(
            "<tuple id='ID-a'><status/></tuple><tuple id='ID-a'><status><basic>open</basic></status></tuple>\
             <tuple id='a'><status><basic>closed</basic></status></tuple>\
             <tuple id='IDx-a'><status><basic>closed</basic></status></tuple>",
        );
        assert_eq!(all, [open("a")]);
    }

    #[test]
    fn req_8048_64_a_priority_becomes_the_nearest_one() {
        for (decimal, priority) in
            [("0.5", Some(64)), ("0", Some(0)), ("1", Some(127)), ("0.004", Some(1)), ("0.003", Some(0)), ("2", None)]
        {
            let resource = read_open(&format!("<contact priority='{decimal}'>sip:x</contact>"));
            assert_eq!(resource.priority, priority, "{decimal}");
        }
        assert_eq!(read_open("<contact>sip:x</contact>").priority, None);
        for thousandths in 0..=1000 {
            assert!(priority_of(thousandths) >= 0);
        }
    }

    #[test]
    fn req_8048_65_a_document_without_tuples_has_no_resources() {
        assert_eq!(read(""), []);
        assert_eq!(read("<note>x</note><tuple id='a'/><tuple id='b'><status/></tuple>"), []);
    }

    #[test]
    fn req_8048_66_notes_outside_of_tuples_are_for_those_without() {
        let all = read(
            "<note>1</note><note xml:lang='de'>2</note><note>3</note>\
             <dm:person id='p'><dm:note xml:lang='it'>4</dm:note></dm:person>\
             <tuple id='a'><status><basic>open</basic></status><note xml:lang='fr'>5</note></tuple>\
             <tuple id='b'><status><basic>closed</basic></status><note> </note></tuple>",
        );
        let statuses: Vec<&[Status]> = all.iter().map(|resource| &*resource.statuses).collect();
        let whole = [status(None, "1"), status(Some("de"), "2"), status(Some("it"), "4")];
        assert_eq!(statuses, [&[status(Some("fr"), "5")][..], &whole]);
    }

    #[test]
    fn req_8048_67_activities_are_a_show_where_there_is_none() {
        for (activity, show) in [
            ("away", Some(Show::Away)),
            ("appointment", Some(Show::Away)),
            ("meal", Some(Show::Away)),
            ("vacation", Some(Show::Xa)),
            ("permanent-absence", Some(Show::Xa)),
            ("busy", Some(Show::Dnd)),
            ("meeting", Some(Show::Dnd)),
            ("on-the-phone", Some(Show::Dnd)),
            ("presentation", Some(Show::Dnd)),
            ("performance", Some(Show::Dnd)),
            ("steering", None),
            ("unknown", None),
        ] {
            let activities = format!("<r:activities><r:note>x</r:note><r:{activity}/></r:activities>");
            assert_eq!(read_open(&activities).show, show, "{activity}");
            let all = read(&format!(
                "<dm:person id='p'>{activities}</dm:person>\
                 <tuple id='a'><status><basic>open</basic></status></tuple>\
                 <tuple id='b'><status><basic>open</basic></status><r:activities><r:meal/></r:activities></tuple>\
                 <tuple id='c'><status><basic>closed</basic></status></tuple>"
            ));
            let shows: Vec<_> = all.iter().map(|resource| resource.show).collect();
            assert_eq!(shows, [show, Some(Show::Away), None], "{activity}");
        }
    }

    #[test]
    fn idle_input_is_the_time_of_the_last() {
        let since = parse_stamp("2031-05-02T10:11:12Z");
        let input = |state: &str, at: &str| {
            let input = format!("<r:user-input last-input='{at}'>{state}</r:user-input>");
            (read_open(&input).idle_since(), input)
        };
        let (idle, element) = input("idle", "2031-05-02T12:11:12.5+02:00");
        assert_eq!(idle, since);
        for (state, at) in [("active", "2031-05-02T10:11:12Z"), ("idle", ""), ("idle", "0000-01-01T00:00:00+23:00")] {
            assert_eq!(input(state, at).0, None, "{state} {at}");
        }
        let closed = read(&format!("<tuple id='a'><status><basic>closed</basic></status>{element}</tuple>"));
        assert_eq!(closed, [Resource::gone("a")]);
        let stanza =
            stanza_to(&Resource { more: More { idle_since: since, ..More::default() }.boxed(), ..open("") }, true);
        assert_eq!(
            stanza,
            "<presence from='marta@voip.example' to='lena@chat.example'>\
             <idle xmlns='urn:xmpp:idle:1' since='2031-05-02T10:11:12Z'/>\
             <c xmlns='http://jabber.org/protocol/caps'/></presence>"
        );
        assert_eq!(parsed(&stanza).idle_since(), since);
    }

    #[test]
    fn req_8048_68_a_body_of_another_type_or_that_is_no_document_is_refused() {
        let good = format!("{HEAD}</presence>");
        for fine in ["application/pidf+xml", "Application/PIDF+XML ; charset=\"utf-8\"", "application/pidf+xml;a=b;c"] {
            assert_eq!(read_as(fine, &good, None), Ok(Vec::new()), "{fine}");
        }
        for other in ["", "application/xpidf+xml", "text/xml", "application/pidf-diff+xml", "multipart/related"] {
            assert_eq!(read_as(other, &good, None), Err(Fault::Type), "{other}");
        }
        for end in 0..good.len() {
            let cut = read_as("application/pidf+xml", &good[..end], None);
            assert_eq!(cut, Err(Fault::Malformed), "cut at {end}");
        }
        for bad in ["<presence/>", "<presence xmlns='urn:ietf:params:xml:ns:pidf'/>", "<!DOCTYPE a><a/>", "{}"] {
            assert_eq!(read_as("application/pidf+xml", bad, None), Err(Fault::Malformed), "{bad}");
        }
    }

    #[test]
    fn req_8048_70_the_entity_is_the_contact_in_any_spelling() {
        let read = |entity: &str| {
            let text = format!(
                "<presence xmlns='urn:ietf:params:xml:ns:pidf' entity='{entity}'>\
                 <tuple id='a'><status><basic>open</basic></status></tuple></presence>"
            );
            read_as("application/pidf+xml", &text, None)
        };
        for own in [
            "pres:marta@voip.example",
            "sip:marta@voip.example",
            "sips:marta@voip.example",
            "SIP:%6darta@VOIP.example;transport=tls",
            "sip:marta@voip.example;gr=tisch4",
            " pres:Marta@voip.example ",
            "marta@voip.example",
        ] {
            assert_eq!(read(own), Ok(vec![open("a")]), "{own}");
        }
        for other in [
            "pres:jonas@voip.example",
            "pres:marta@chat.example",
            "pres:marta@voip.example.attacker.example",
            "pres:voip.example",
            "mailto:marta@voip.example",
            "voip.example",
            "pres:",
            "%",
        ] {
            assert_eq!(read(other), Err(Fault::Foreign), "{other}");
        }
        assert_eq!(read(""), Err(Fault::Malformed));
    }

    #[test]
    fn req_evt_36_hostile_documents_are_refused() {
        let tuple = "<tuple id='a'><status><basic>open</basic></status></tuple>";
        for hostile in [
            format!("<!DOCTYPE presence [<!ENTITY x 'y'>]>{HEAD}{tuple}</presence>"),
            format!("{HEAD}{}{}</presence>", "<note>".repeat(10_000), "</note>".repeat(10_000)),
            format!("{HEAD}{}</presence>", tuple.repeat(10_000)),
            format!("{HEAD}<note>{}</note></presence>", "a".repeat(1 << 20)),
        ] {
            assert_eq!(read_as("application/pidf+xml", &hostile, None), Err(Fault::Malformed));
        }
    }

    #[test]
    fn the_language_of_the_whole_is_content_languages_first() {
        let text = format!(
            "{HEAD}<tuple id='a'><status><basic>open</basic></status><note xml:lang='DE'>1</note>\
             <note xml:lang='en'>2</note></tuple></presence>"
        );
        let all = read_as("application/pidf+xml", &text, Some("de, en")).expect("a document");
        let expected = Resource {
            more: More { lang: Some("de".into()), ..More::default() }.boxed(),
            statuses: [status(None, "1"), status(Some("en"), "2")].into(),
            ..open("a")
        };
        assert_eq!(all, [expected]);
        assert_eq!(
            stanza_to(&all[0], true),
            "<presence from='marta@voip.example/a' to='lena@chat.example' xml:lang='de'><status>1</status>\
             <status xml:lang='en'>2</status><c xmlns='http://jabber.org/protocol/caps'/></presence>"
        );
    }

    #[test]
    fn what_somebody_says_is_kept_from_those_who_may_not_read_it() {
        let more = More { nick: Some("secret".into()), activity: Some("secret".into()), ..More::default() }.boxed();
        let silent = Resource { show: Some(Show::Dnd), more, ..open("a") };
        let resource = Resource { statuses: [status(None, "secret")].into(), ..silent.clone() };
        for resource in [silent, resource] {
            let text = stanza_to(&resource, false);
            assert!(text.contains("<show>dnd</show>") && !text.contains("status"), "{text}");
            assert!(!text.contains("secret") && !text.contains("nick"), "{text}");
            let told = stanza_to(&resource, true);
            assert_eq!(told.matches("secret").count(), 2, "{told}");
        }
    }

    #[test]
    fn odd_resources_cross_to_both_sides_and_back() {
        let all: Vec<Resource> = ODD
            .iter()
            .enumerate()
            .map(|(place, name)| Resource {
                name: jid("a@b").with_resource(name).expect("a resource").resource().unwrap_or_default().into(),
                is_available: place % 3 != 0,
                show: [None, Some(Show::Chat), Some(Show::Xa)][place % 3],
                priority: i8::try_from(place * 5).ok(),
                stamp_s: 0,
                statuses: [status(None, "<ü>\n&'\""), status(Some("fr-CA"), "]]>\r\u{FFFD}.")].into(),
                more: More { lang: Some("de".into()), ..More::default() }.boxed(),
            })
            .collect();
        let text = written("marta@voip.example", &all);
        assert_eq!(read_as("application/pidf+xml", &text, Some("de")).as_deref(), Ok(&all[..]));
        for resource in &all {
            assert_eq!(parsed(&stanza_to(resource, true)), *resource);
        }
    }
}
