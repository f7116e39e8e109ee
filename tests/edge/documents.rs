//! Presence documents: those that a front end writes, and in a few words what a NOTIFY
//! says in any of the formats that its clients read.

use crate::message::Message;
use crate::xmpp::Element;

/// `application/msrtc-event-categories+xml`: the number of the availability, the words of
/// an activity and a note, if any.
pub fn categories(address: &str, availability: u32, activity: &str, note: &str) -> String {
    let activity = match activity {
        "" => String::new(),
        token if token.contains(' ') => format!("<activity><custom LCID=\"1033\">{token}</custom></activity>"),
        token => format!("<activity token=\"{token}\" minAvailability=\"6500\" maxAvailability=\"8999\"></activity>"),
    };
    let note = match note {
        "" => String::new(),
        text => format!(
            "  <category name=\"note\" instance=\"0\" publishTime=\"2031-05-06T07:00:02.120\">\n    <note \
             xmlns=\"http://schemas.microsoft.com/2006/09/sip/note\">\n      <body type=\"personal\" uri=\"\" \
             startTime=\"2031-05-06T07:00:02Z\">{text}</body>\n    </note>\n  </category>\n"
        ),
    };
    let last = if availability >= 12000 { " lastActive=\"2031-05-06T08:12:31\"" } else { "" };
    format!(
        "<categories xmlns=\"http://schemas.microsoft.com/2006/09/sip/categories\" uri=\"sip:{address}\">\n  <category \
         name=\"contactCard\" instance=\"0\" publishTime=\"2031-05-06T07:00:02.120\">\n    <contactCard \
         xmlns=\"http://schemas.microsoft.com/2006/09/sip/contactcard\">\n      <identity>\n        <name>\n          \
         <displayName>{}</displayName>\n        </name>\n        <email>{address}</email>\n      </identity>\n    \
         </contactCard>\n  </category>\n{note}  <category name=\"state\" instance=\"1\" \
         publishTime=\"2031-05-06T08:12:31.447\">\n    <state xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
         xsi:type=\"aggregateState\"{last} xmlns=\"http://schemas.microsoft.com/2006/09/sip/state\">\n      \
         <availability>{availability}</availability>\n      {activity}\n    </state>\n  </category>\n</categories>\n",
        display(address)
    )
}

/// `text/xml+msrtc.pidf`, with the numbers of 2005.
pub fn presentity(address: &str, availability: u32, activity: u32, note: &str) -> String {
    format!(
        "<presentity uri=\"{address}\" xmlns=\"http://schemas.microsoft.com/2002/09/sip/presence\">\n <availability \
         aggregate=\"{availability}\" description=\"\" epid=\"5d0c11ab07\"/>\n <activity aggregate=\"{activity}\" \
         description=\"\" note=\"\"/>\n <displayName displayName=\"{}\"/>\n <email email=\"{address}\"/>\n \
         <userInfo>\n  <note>{note}</note>\n </userInfo>\n <devices>\n  <devicePresence epid=\"5d0c11ab07\" \
         ageOfPresence=\"9\">\n   <availability aggregate=\"{availability}\" description=\"\"/>\n   <activity \
         aggregate=\"{activity}\" description=\"\"/>\n  </devicePresence>\n </devices>\n</presentity>\n",
        display(address)
    )
}

/// PIDF with the activity of the draft that became RPID, inside `<status/>`; `entity` as
/// the caller writes it.
pub fn draft(entity: &str, basic: &str, activity: &str) -> String {
    let activity = match activity {
        "" => String::new(),
        text => format!("<ep:activities><ep:activity>{text}</ep:activity></ep:activities>"),
    };
    format!(
        "<?xml version=\"1.0\"?>\n<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" \
         xmlns:ep=\"urn:ietf:params:xml:ns:pidf:status:rpid-status\" \
         xmlns:ci=\"urn:ietf:params:xml:ns:pidf:cipid\" entity=\"{entity}\"><tuple id=\"0\"><status>\
         <basic>{basic}</basic>{activity}</status></tuple><ci:display-name>{}</ci:display-name></presence>",
        display(entity.trim_start_matches("sip:"))
    )
}

fn display(address: &str) -> String {
    format!("{} Müller-Łącka", address.split('@').next().unwrap_or(""))
}

/// The state of the subscription with its reason; then `closed` or `open` with what one
/// does, and a note in brackets; nothing more without a body.
pub fn in_words(notify: &Message) -> String {
    let mut words = Vec::new();
    for (place, part) in notify.field("subscription-state").split(';').map(str::trim).enumerate() {
        if place == 0 || part.starts_with("reason=") {
            words.push(part.trim_start_matches("reason=").to_string());
        }
    }
    words.extend(document(notify));
    words.join(" ")
}

/// What the document in a NOTIFY, or in the answer to a SUBSCRIBE, says.
pub fn document(message: &Message) -> Vec<String> {
    if message.body.trim().is_empty() {
        return Vec::new();
    }
    let root = match Element::parse(&message.body) {
        Ok(root) => root,
        Err(why) => return vec![why],
    };
    match message.field("content-type").split(';').next().unwrap_or("").trim() {
        "application/pidf+xml" => pidf(&root),
        "text/xml+msrtc.pidf" => vec![numbers(&root)],
        "application/msrtc-event-categories+xml" => by_category(&root),
        other => vec![format!("a document of type {other}")],
    }
}

fn pidf(root: &Element) -> Vec<String> {
    let mut words = Vec::new();
    for tuple in root.children.iter().filter(|child| child.name == "tuple") {
        let Some(status) = tuple.child("status") else { continue };
        if status.text_of("basic") != "open" {
            continue;
        }
        words.push("open".to_string());
        let of_draft = status.child("activities").map(|all| all.text_of("activity").to_string());
        let of_person = root.child("person").and_then(|p| Some(p.child("activities")?.children.first()?.name.clone()));
        let of_show = status.child("show").map(|show| show.text.clone());
        words.extend(of_draft.or(of_person).or(of_show).filter(|word| !word.is_empty()));
        words.extend(tuple.child("note").map(|note| format!("({})", note.text)));
    }
    if words.is_empty() { vec!["closed".into()] } else { words }
}

fn numbers(root: &Element) -> String {
    let number = |name: &str| root.child(name).and_then(|e| e.attribute("aggregate").parse::<u32>().ok()).unwrap_or(0);
    if number("availability") < 100 {
        return "closed".into();
    }
    match number("activity") {
        100..400 | 700..800 => "open away",
        500..700 => "open busy",
        _ => "open",
    }
    .into()
}

fn by_category(root: &Element) -> Vec<String> {
    let of = |name: &str| root.children.iter().find(|c| c.attribute("name") == name).and_then(|c| c.child(name));
    let number = of("state").map_or("", |state| state.text_of("availability"));
    let mut words: Vec<String> = match number.trim().parse::<u32>().unwrap_or(0) {
        3000..6000 => vec!["open".into()],
        6000..12000 => vec!["open".into(), "busy".into()],
        12000..18000 => vec!["open".into(), "away".into()],
        _ => vec!["closed".into()],
    };
    words.extend(of("note").and_then(|n| n.child("body")).map(|body| format!("({})", body.text)));
    words
}
