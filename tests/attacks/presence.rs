//! Presence under attack: S9, S11, S12, G3, G4, G5, G8, and what must not leak.

use crate::measure::processor_ms;
use crate::sip::Sip;
use crate::world::{EVIL, HONEST, Mood, OURS, PROXY, SIP_TCP, World, certificate, message, settings};
use crate::xml::El;
use latimer::base::counters::Counter;
use latimer::base::net::LinkId;
use latimer::limits::NOTIFIERS_PER_CONTACT_MAX;
use latimer::settings::PartnerKind;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const ADA: &str = "ada@sip.example";
const EVE: &str = "eve@evil.example";
const MALLORY: &str = "mallory@evil.example";

/// A world in which the partner whose users watch and are watched is of this kind.
fn world_of(kind: PartnerKind) -> World {
    let mut settings = settings();
    settings.partners[0].kind = kind;
    let mut world = World::with(settings);
    // So that it is known what arrived.
    world.management = true;
    world
}

fn world() -> World {
    world_of(PartnerKind::Federated)
}

/// All requests and NOTIFYs have one outcome each (promise P8); messages too.
fn assert_books(world: &mut World) {
    use Counter as C;
    world.settle();
    let of = |counter| world.of(counter);
    let came = of(C::SubscribeIn) + of(C::NotifyIn);
    let ended = of(C::SubscribeTaken) + of(C::SubscribeRefusedIn) + of(C::NotifyTaken) + of(C::NotifyRefused);
    let elsewhere = of(C::SipRequestRefused) + of(C::SipOverload);
    assert!((ended..=ended + elsewhere).contains(&came), "presence books: {}", world.books());
    world.assert_honest_traffic();
}

// ---- SIP

/// A SUBSCRIBE of a SIP user's phone. `to_tag` is empty outside a dialog.
#[derive(Clone, Copy)]
struct Subscribe<'a> {
    from: &'a str,
    to: &'a str,
    call: &'a str,
    to_tag: &'a str,
    number: u32,
    expires: Option<&'a str>,
}

impl Default for Subscribe<'_> {
    fn default() -> Self {
        Self { from: ADA, to: EVE, call: "watch", to_tag: "", number: 1, expires: Some("3600") }
    }
}

impl Subscribe<'_> {
    fn text(&self, branch: u64) -> String {
        let Self { from, to, call, number, .. } = self;
        let to_tag = if self.to_tag.is_empty() { String::new() } else { format!(";tag={}", self.to_tag) };
        let expires = self.expires.map(|value| format!("Expires: {value}\r\n")).unwrap_or_default();
        format!(
            "SUBSCRIBE sip:{to} SIP/2.0\r\nVia: SIP/2.0/UDP {PROXY}:5060;branch=z9hG4bKs{branch}\r\nMax-Forwards: 70\r\n\
             From: <sip:{from}>;tag=t{call}\r\nTo: <sip:{to}>{to_tag}\r\nCall-ID: {call}\r\nCSeq: {number} SUBSCRIBE\r\n\
             Contact: <sip:phone@{PROXY}:5060>\r\nEvent: presence\r\n{expires}Content-Length: 0\r\n\r\n"
        )
    }

    /// Sends it from the next hop and gives the answer to it.
    fn send(&self, world: &mut World) -> Sip {
        let branch = world.number();
        world.datagram(SocketAddr::new(PROXY, 5060), self.text(branch).as_bytes());
        let answer = world.responses.get(self.call).and_then(|all| all.last()).cloned();
        answer.unwrap_or_else(|| panic!("no answer to SUBSCRIBE {}: {}", self.call, world.log()))
    }
}

/// The tag of a To or From.
fn tag_of(value: &str) -> String {
    value.split(";tag=").nth(1).unwrap_or_default().to_string()
}

/// A phone watches, is let, and has a dialog: its tag of ours.
fn watched(world: &mut World, link: LinkId, call: &str) -> String {
    let answer = Subscribe { call, ..Subscribe::default() }.send(world);
    assert_eq!(answer.status(), 200, "{}", world.log());
    presence(world, link, EVE, ADA, "subscribed");
    tag_of(answer.get("To"))
}

/// The requests of a method that reached the next hop since the last time.
fn take_requests(world: &mut World, method: &str) -> Vec<Sip> {
    world.pump();
    let all = std::mem::take(&mut world.requests);
    all.into_iter().filter(|request| request.start.starts_with(method)).collect()
}

/// The next SUBSCRIBE of ours, which has to come within that time.
fn next_subscribe(world: &mut World, ms: u64) -> Sip {
    for _ in 0..=ms / 1000 {
        if let Some(subscribe) = take_requests(world, "SUBSCRIBE").pop() {
            return subscribe;
        }
        world.pass(1000);
    }
    panic!("no SUBSCRIBE in {ms} ms: {}", world.log());
}

/// A NOTIFY in the dialog of a SUBSCRIBE of ours, as the contact's server sends it.
fn notify_text(subscribe: &Sip, number: u32, branch: u64, state: &str, content_type: &str, body: &str) -> String {
    let uri = subscribe.get("Contact").trim_start_matches('<').split('>').next().unwrap_or_default().to_string();
    format!(
        "NOTIFY {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {PROXY}:5060;branch=z9hG4bKn{branch}\r\nMax-Forwards: 70\r\n\
         From: {};tag=far\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {number} NOTIFY\r\nContact: <sip:phone@{PROXY}:5060>\r\n\
         Event: presence\r\nSubscription-State: {state}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        subscribe.get("To"),
        subscribe.get("From"),
        subscribe.get("Call-ID"),
        body.len()
    )
}

/// Sends one as a datagram and gives the status of its answer.
fn notify(world: &mut World, subscribe: &Sip, number: u32, state: &str, body: &str) -> u16 {
    let branch = world.number();
    let text = notify_text(subscribe, number, branch, state, "application/pidf+xml", body);
    world.datagram(SocketAddr::new(PROXY, 5060), text.as_bytes());
    world.statuses(subscribe.get("Call-ID")).last().copied().unwrap_or_default()
}

/// A presence document of one client.
fn pidf(status: &str, note: &str) -> String {
    format!(
        "<presence xmlns='urn:ietf:params:xml:ns:pidf' entity='pres:{ADA}'><tuple id='ID-desk'><status>\
         <basic>{status}</basic></status><note>{note}</note></tuple></presence>"
    )
}

// ---- XMPP

/// A presence stanza without content; `available` has no type.
fn presence(world: &mut World, link: LinkId, from: &str, to: &str, type_: &str) {
    let type_ = if type_ == "available" { String::new() } else { format!(" type='{type_}'") };
    world.write(link, format!("<presence from='{from}' to='{to}'{type_}/>").as_bytes());
}

/// The presence stanzas that reached the partner since the last time, as `type to`.
fn take_presence(world: &mut World) -> Vec<El> {
    world.pump();
    let all = std::mem::take(&mut world.stanzas);
    all.into_iter().filter(|(at, el)| at == EVIL && el.name == "presence").map(|(_, el)| el).collect()
}

fn types(stanzas: &[El]) -> Vec<&str> {
    stanzas.iter().map(|el| if el.attr("type").is_empty() { "available" } else { el.attr("type") }).collect()
}

/// An XMPP user watches the SIP user, who lets him: the SUBSCRIBE that did it.
fn watches(world: &mut World, link: LinkId, user: &str) -> Sip {
    presence(world, link, user, ADA, "subscribe");
    let subscribe = take_requests(world, "SUBSCRIBE").pop().unwrap_or_else(|| panic!("no SUBSCRIBE: {}", world.log()));
    assert_eq!(notify(world, &subscribe, 1, "active;expires=3600", &pidf("open", "here")), 200);
    world.pass(1500);
    assert_eq!(types(&take_presence(world)), ["subscribed", "available"], "{}", world.log());
    subscribe
}

// ---- S9, S11

#[test]
fn s9_a_strangers_subscribe_earns_no_notify() {
    let mut world = world();
    let (mut asked, mut stanzas) = (0, 0);
    for n in 0..300_u64 {
        let call = format!("stranger{n}");
        let text = Subscribe { call: &call, ..Subscribe::default() }.text(n);
        asked += text.len();
        let victim = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, (n % 200) as u8)), 5060);
        world.datagram(victim, text.as_bytes());
    }
    world.pass(120_000);
    stanzas += take_presence(&mut world).len();
    let answered: usize = world.strays.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(answered <= asked, "{answered} octets for {asked}");
    assert!(!world.strays.iter().any(|(_, bytes)| bytes.starts_with(b"NOTIFY")));
    assert_eq!((stanzas, world.of(Counter::NotifyOut), world.house.gateway.contacts_kept()), (0, 0, 0));
    assert_books(&mut world);
}

#[test]
fn s11_expires_of_every_size() {
    let mut world = world();
    let cases: [(Option<&str>, u16, &str); 6] = [
        (Some("0"), 200, "0"),
        (Some("1"), 423, ""),
        (Some("59"), 423, ""),
        (Some("4294967295"), 200, "3600"),
        (Some("99999999999999999999"), 200, "3600"),
        (None, 200, "3600"),
    ];
    for (place, (expires, status, granted)) in cases.into_iter().enumerate() {
        let (call, from) = (format!("size{place}"), format!("user{place}@{OURS}"));
        let answer = Subscribe { call: &call, from: &from, expires, ..Subscribe::default() }.send(&mut world);
        assert_eq!((answer.status(), answer.get("Expires")), (status, granted), "{expires:?}");
        assert_eq!(answer.get("Min-Expires"), if status == 423 { "60" } else { "" }, "{expires:?}");
        world.pass(6000);
        let said: Vec<String> =
            take_requests(&mut world, "NOTIFY").iter().map(|n| n.get("Subscription-State").into()).collect();
        match (status, granted) {
            (200, "0") => assert_eq!(said, ["terminated;reason=timeout"]),
            (200, _) => assert!(said.len() == 1 && said[0].starts_with("pending;expires="), "{said:?}"),
            _ => assert!(said.is_empty(), "{said:?}"),
        }
    }
    assert_books(&mut world);
}

#[test]
fn s11_what_belongs_to_no_dialog_is_told_so() {
    let mut world = world();
    let link = world.open(EVIL);
    let subscribe = watches(&mut world, link, EVE);
    let tag = watched(&mut world, link, "known");
    take_presence(&mut world);
    let mut other = subscribe.clone();
    for field in other.fields.iter_mut().filter(|(name, _)| name == "Call-ID") {
        field.1 = "nobody-knows".into();
    }
    assert_eq!(notify(&mut world, &other, 2, "active;expires=3600", &pidf("open", "forged")), 481);
    let mut other = subscribe.clone();
    for field in other.fields.iter_mut().filter(|(name, _)| name == "From") {
        field.1 = format!("<sip:{EVE}>;tag=guessed");
    }
    assert_eq!(notify(&mut world, &other, 2, "terminated;reason=rejected", ""), 481);
    for (call, to_tag) in [("unknown", tag.as_str()), ("known", "guessed")] {
        let answer = Subscribe { call, to_tag, number: 2, ..Subscribe::default() }.send(&mut world);
        assert_eq!(answer.status(), 481, "{call} {to_tag}");
    }
    world.pass(2000);
    assert!(take_presence(&mut world).is_empty(), "nothing of it reaches XMPP");
    // What was known stands.
    let answer = Subscribe { call: "known", to_tag: &tag, number: 2, ..Subscribe::default() }.send(&mut world);
    assert_eq!(answer.status(), 200);
    assert_eq!(notify(&mut world, &subscribe, 2, "active;expires=3600", &pidf("closed", "")), 200);
    assert_books(&mut world);
}

#[test]
fn s11_a_storm_is_admitted_up_to_the_limit_and_the_others_go_on_refreshing() {
    let mut world = world();
    const USERS: usize = 1500;
    let mut tags = Vec::new();
    for n in 0..USERS {
        let (call, from) = (format!("storm{n}"), format!("user{n}@{OURS}"));
        let answer = Subscribe { call: &call, from: &from, ..Subscribe::default() }.send(&mut world);
        assert_eq!(answer.status(), 200, "{n}: {}", world.log());
        tags.push((call, from, tag_of(answer.get("To"))));
    }
    world.pass(10_000);
    assert_eq!(take_requests(&mut world, "NOTIFY").len(), USERS);
    assert_eq!(types(&take_presence(&mut world)), vec!["subscribe"; USERS]);
    // One user's phones, more than a contact has room for.
    let mut statuses = Vec::new();
    for n in 0..NOTIFIERS_PER_CONTACT_MAX + 4 {
        let call = format!("phone{n}");
        let answer = Subscribe { call: &call, ..Subscribe::default() }.send(&mut world);
        statuses.push(answer.status());
    }
    let (admitted, refused) = statuses.split_at(NOTIFIERS_PER_CONTACT_MAX);
    assert!(admitted.iter().all(|status| *status == 200), "{statuses:?}");
    // 503 would speak of the whole gateway, and its proxy turn away from it.
    assert!(refused.iter().all(|status| *status == 480), "{statuses:?}");
    take_requests(&mut world, "NOTIFY");
    // All refresh at once.
    for (call, from, to_tag) in &tags {
        let answer = Subscribe { call, from, to_tag, number: 2, ..Subscribe::default() }.send(&mut world);
        assert_eq!(answer.status(), 200, "{call}: {}", world.log());
    }
    world.pass(10_000);
    assert_eq!(take_requests(&mut world, "NOTIFY").len(), USERS);
    assert_books(&mut world);
}

#[test]
fn s11_a_notifier_that_ends_every_subscription_is_not_asked_in_a_circle() {
    for first_active in [false, true] {
        for reason in ["deactivated", "timeout"] {
            let mut world = world();
            let link = world.open(EVIL);
            let mut subscribe = watches(&mut world, link, EVE);
            let mut asked = 0;
            for n in 0..300 {
                if first_active {
                    notify(&mut world, &subscribe, 2, "active;expires=3600", &pidf("open", "again"));
                }
                notify(&mut world, &subscribe, 3, &format!("terminated;reason={reason}"), "");
                world.pass(10);
                match take_requests(&mut world, "SUBSCRIBE").pop() {
                    Some(next) => (subscribe, asked) = (next, asked + 1),
                    None if n == 0 => panic!("{reason}: the first time it is asked again at once"),
                    None => {}
                }
            }
            assert!(asked <= 4, "{reason}: asked {asked} times in 3 s");
            // It heals by itself.
            let subscribe = next_subscribe(&mut world, 120_000);
            assert_eq!(notify(&mut world, &subscribe, 1, "active;expires=3600", &pidf("open", "well")), 200);
            world.pass(2000);
            assert_eq!(types(&take_presence(&mut world)).last(), Some(&"available"));
            assert_books(&mut world);
        }
    }
}

// ---- S12

#[test]
fn s12_documents_that_are_no_documents() {
    let tuples = |n: usize| {
        let mut body = format!("<presence xmlns='urn:ietf:params:xml:ns:pidf' entity='pres:{ADA}'>");
        for n in 0..n {
            let _ = write!(body, "<tuple id='t{n}'><status><basic>open</basic></status></tuple>");
        }
        body + "</presence>"
    };
    let deep = |n: usize| {
        let head = format!("<presence xmlns='urn:ietf:params:xml:ns:pidf' entity='pres:{ADA}'>");
        format!("{head}{}{}</presence>", "<a>".repeat(n), "</a>".repeat(n))
    };
    let good = pidf("open", "good");
    let pidf_type = "application/pidf+xml";
    let cases: Vec<(&str, &str, String, &[u16])> = vec![
        ("10,000 tuples", pidf_type, tuples(10_000), &[400, 413, 513]),
        ("1,000 tuples", pidf_type, tuples(1000), &[400, 413, 513]),
        ("1 MB of text", pidf_type, pidf("open", &"x".repeat(1 << 20)), &[400, 413, 513]),
        ("1,000 deep", pidf_type, deep(1000), &[400]),
        ("an entity", pidf_type, format!("<!DOCTYPE p [<!ENTITY a 'aaaa'>]>{good}"), &[400]),
        ("an outer DTD", pidf_type, format!("<!DOCTYPE p SYSTEM 'file:///etc/passwd'>{good}"), &[400]),
        ("no such entity", pidf_type, pidf("open", "&a;"), &[400]),
        ("cut off", pidf_type, good[..good.len() - 12].to_string(), &[400]),
        ("two roots", pidf_type, format!("{good}{good}"), &[400]),
        ("another root", pidf_type, "<html xmlns='http://www.w3.org/1999/xhtml'/>".into(), &[400]),
        ("a control character", pidf_type, pidf("open", "\u{1}"), &[400]),
        ("text", "text/plain", "open".into(), &[415]),
        ("partial PIDF", "application/pidf-diff+xml", good.clone(), &[415]),
        ("parts", "multipart/mixed;boundary=b", format!("--b\r\n\r\n{good}\r\n--b--"), &[415]),
    ];
    let mut world = world();
    let link = world.open(EVIL);
    let subscribe = watches(&mut world, link, EVE);
    for (place, (name, content_type, body, statuses)) in cases.into_iter().enumerate() {
        let number = 10 * (place as u32 + 1);
        let from = SocketAddr::new(PROXY, 40_000 + place as u16);
        let line = world.dial_sip(SIP_TCP, from, certificate(&[]));
        let branch = world.number();
        let text = notify_text(&subscribe, number, branch, "active;expires=3600", content_type, &body)
            .replace("SIP/2.0/UDP", "SIP/2.0/TCP");
        let call = subscribe.get("Call-ID").to_string();
        world.responses.remove(&call);
        let cost = processor_ms(|| world.write(line, text.as_bytes()));
        assert!(cost < 400.0, "{name}: {cost} ms");
        let said = world.statuses(&call);
        assert!(said.first().is_some_and(|status| statuses.contains(status)), "{name}: {said:?} {}", world.log());
        world.pass(1500);
        assert!(take_presence(&mut world).is_empty(), "{name}: something reached XMPP");
        // The dialog stands.
        let body = pidf("open", &format!("after {place}"));
        assert_eq!(notify(&mut world, &subscribe, number + 5, "active;expires=3600", &body), 200, "after {name}");
        world.pass(1500);
        assert_eq!(types(&take_presence(&mut world)), ["available"], "after {name}");
    }
    assert_books(&mut world);
}

// ---- G3

#[test]
fn g3_a_thousand_changes_a_second_are_told_once_in_five_seconds() {
    let mut world = world();
    let link = world.open(EVIL);
    watched(&mut world, link, "phone");
    Subscribe { call: "desk", ..Subscribe::default() }.send(&mut world);
    world.pass(20_000);
    take_requests(&mut world, "NOTIFY");
    let mut came: Vec<(u64, Sip)> = Vec::new();
    let mut last = String::new();
    for n in 0..20_000 {
        last = format!("number {n}.");
        let resource = if n % 2 == 0 { "a" } else { "b" };
        let stanza = format!("<presence from='{EVE}/{resource}' to='{ADA}'><status>{last}</status></presence>");
        world.write(link, stanza.as_bytes());
        if n % 10 == 9 {
            world.pass(10);
            let now = world.house.now;
            came.extend(take_requests(&mut world, "NOTIFY").into_iter().map(|notify| (now, notify)));
        }
    }
    world.pass(20_000);
    let now = world.house.now;
    came.extend(take_requests(&mut world, "NOTIFY").into_iter().map(|notify| (now, notify)));
    let calls: BTreeSet<String> = came.iter().map(|(_, notify)| notify.get("Call-ID").to_string()).collect();
    assert_eq!(calls, BTreeSet::from(["desk".to_string(), "phone".to_string()]));
    for call in &calls {
        let of_it: Vec<&(u64, Sip)> = came.iter().filter(|(_, notify)| notify.get("Call-ID") == call).collect();
        assert!((4..=6).contains(&of_it.len()), "{call}: {} NOTIFYs in 20 s of changes", of_it.len());
        assert!(of_it.windows(2).all(|two| two[1].0 - two[0].0 >= 4990), "{call}: closer than 5 s");
        let latest = of_it.last().expect("a NOTIFY").1.body();
        assert!(latest.contains(&last), "{call}: the latest is not told: {latest}");
    }
    assert_books(&mut world);
}

#[test]
fn g3_a_storm_of_notifys_is_told_once_in_an_interval() {
    let mut world = world();
    let link = world.open(EVIL);
    let subscribe = watches(&mut world, link, EVE);
    for n in 0..1000 {
        let body = pidf("open", &format!("number {n}."));
        assert_eq!(notify(&mut world, &subscribe, n + 2, "active;expires=3600", &body), 200);
        world.pass(3);
    }
    world.pass(5000);
    let said = take_presence(&mut world);
    assert!((2..=5).contains(&said.len()), "{} stanzas for 3 s of changes", said.len());
    let last = said.last().and_then(|el| el.child("status")).map(|el| el.text.clone());
    assert_eq!(last.as_deref(), Some("number 999."));
    assert_books(&mut world);
}

#[test]
fn g10_only_presence_that_found_room_counts_as_sent() {
    let mut world = world();
    // While the stream to the partner opens, so many stanzas wait for it and no more.
    world.set_mood(EVIL, Mood::Blackhole);
    let room = latimer::limits::STREAM_QUEUE_STANZAS_MAX;
    for number in 0..room + 40 {
        let (from, call) = (format!("rower{number}@{OURS}"), format!("boat{number}"));
        Subscribe { from: &from, call: &call, ..Subscribe::default() }.send(&mut world);
    }
    assert_eq!(world.of(Counter::XmppPresenceOut), room as u64, "{}", world.books());
}

#[test]
fn g3_probes_are_answered_once_in_an_interval() {
    let mut world = world();
    let link = world.open(EVIL);
    let subscribe = watches(&mut world, link, EVE);
    for _ in 0..1000 {
        presence(&mut world, link, &format!("{EVE}/x"), ADA, "probe");
        world.pass(2);
    }
    let said = take_presence(&mut world);
    assert!((1..=3).contains(&said.len()), "{} answers in 2 s", said.len());
    assert!(take_requests(&mut world, "SUBSCRIBE").is_empty(), "a subscription that lives is not begun anew");
    // Nor do they make an end of the patience with a server that refuses.
    assert_eq!(notify(&mut world, &subscribe, 9, "terminated;reason=giveup;retry-after=600", ""), 200);
    world.moods.insert(PROXY, Mood::Answers(480));
    for _ in 0..1000 {
        presence(&mut world, link, &format!("{EVE}/x"), ADA, "probe");
        world.pass(2);
    }
    let asked = take_requests(&mut world, "SUBSCRIBE").len();
    assert!((1..=5).contains(&asked), "{asked} SUBSCRIBEs in 2 s");
    world.moods.clear();
    assert_books(&mut world);
}

// ---- G4

/// All orders of four things.
fn orders() -> Vec<[usize; 4]> {
    let mut all = Vec::new();
    for n in 0..256_usize {
        let order = [n & 3, n >> 2 & 3, n >> 4 & 3, n >> 6 & 3];
        if BTreeSet::from(order).len() == 4 {
            all.push(order);
        }
    }
    all
}

#[test]
fn g4_crossings_end_in_the_same_state() {
    const STEPS: [&str; 4] = ["subscribe", "subscribed", "unsubscribe", "unsubscribed"];
    let orders = orders();
    assert_eq!(orders.len(), 24);
    for order in orders {
        for repeats in [1, 2] {
            let mut world = world();
            let link = world.open(EVIL);
            Subscribe { call: "first", ..Subscribe::default() }.send(&mut world);
            for step in order {
                for _ in 0..repeats {
                    presence(&mut world, link, EVE, ADA, STEPS[step]);
                }
                // The SIP side answers what it is asked at once.
                for subscribe in take_requests(&mut world, "SUBSCRIBE") {
                    let state = if subscribe.get("Expires") == "0" {
                        "terminated;reason=timeout"
                    } else {
                        "active;expires=3600"
                    };
                    notify(&mut world, &subscribe, 1, state, &pidf("open", "here"));
                }
            }
            world.pass(5000);
            let place = |name| order.iter().position(|step| STEPS[*step] == name).expect("all are there");
            // Each direction holds what was said last of it.
            let said = take_presence(&mut world);
            let watches = place("subscribe") > place("unsubscribe");
            let ours: Vec<&str> =
                types(&said).into_iter().filter(|t| matches!(*t, "subscribed" | "unsubscribed")).collect();
            let last = if watches { "subscribed" } else { "unsubscribed" };
            assert_eq!(ours.last(), Some(&last), "{order:?} x{repeats}: {said:#?}");
            // A new SUBSCRIBE and an answer bring both to the same.
            take_requests(&mut world, "NOTIFY");
            Subscribe { call: "second", ..Subscribe::default() }.send(&mut world);
            presence(&mut world, link, EVE, ADA, "subscribed");
            presence(&mut world, link, &format!("{EVE}/x"), ADA, "available");
            world.pass(6000);
            let notifys = take_requests(&mut world, "NOTIFY");
            let latest = notifys.iter().rfind(|notify| notify.get("Call-ID") == "second").expect("a NOTIFY");
            assert!(latest.get("Subscription-State").starts_with("active;"), "{order:?} x{repeats}");
            assert!(latest.body().contains("open"), "{order:?} x{repeats}: {}", latest.body());
            assert_books(&mut world);
        }
    }
}

// ---- G5

/// What a watcher's phone is told last: Subscription-State and body.
fn last_notify(world: &mut World) -> (String, String) {
    let last = take_requests(world, "NOTIFY").pop();
    last.map(|notify| (notify.get("Subscription-State").to_string(), notify.body())).unwrap_or_default()
}

#[test]
fn g5_a_lost_partner_is_seen_as_gone() {
    for mood in [Mood::Resets, Mood::Blackhole] {
        let mut world = world();
        let link = world.open(EVIL);
        watched(&mut world, link, "phone");
        presence(&mut world, link, &format!("{EVE}/x"), ADA, "available");
        world.pass(6000);
        assert!(last_notify(&mut world).1.contains("open"));
        world.set_mood(EVIL, mood);
        world.break_streams_to(EVIL);
        world.house.close(link, latimer::base::net::CloseReason::Reset);
        world.pass(60_000);
        let (state, body) = last_notify(&mut world);
        assert!(
            state.starts_with("active;") && body.contains("closed") && !body.contains("open"),
            "{mood:?}: {state} {body}"
        );
        // When it is back, what is true is told.
        world.moods.clear();
        let link = world.open(EVIL);
        presence(&mut world, link, &format!("{EVE}/x"), ADA, "available");
        world.pass(6000);
        assert!(last_notify(&mut world).1.contains("open"), "{mood:?}");
        assert_books(&mut world);
    }
}

#[test]
fn g5_a_deleted_partner_leaves_no_ghost() {
    let mut world = world();
    let link = world.open(EVIL);
    let subscribe = watches(&mut world, link, EVE);
    let tag = watched(&mut world, link, "phone");
    presence(&mut world, link, &format!("{EVE}/x"), ADA, "available");
    world.pass(6000);
    take_requests(&mut world, "NOTIFY");
    let mut without = settings();
    without.partners.remove(0);
    world.house.configure(without);
    world.pass(2000);
    let ends: Vec<Sip> = world.requests.iter().filter(|r| r.start.starts_with("SUBSCRIBE")).cloned().collect();
    assert_eq!(ends.iter().map(|end| end.get("Expires")).collect::<Vec<_>>(), ["0"]);
    assert_eq!(ends[0].get("Call-ID"), subscribe.get("Call-ID"));
    let (state, body) = last_notify(&mut world);
    assert_eq!((state.as_str(), body.contains("open")), ("terminated;reason=noresource", false));
    let answer = Subscribe { call: "phone", to_tag: &tag, number: 2, ..Subscribe::default() }.send(&mut world);
    assert_eq!(answer.status(), 481);
    world.pass(120_000);
    assert!(take_requests(&mut world, "").is_empty(), "nothing more is said");
    assert_eq!(world.house.gateway.contacts_kept(), 1, "what they agreed on sleeps");
    assert_books(&mut world);
}

#[test]
fn g5_a_deleted_sip_domain_leaves_no_ghost() {
    let mut world = world();
    let link = world.open(EVIL);
    watches(&mut world, link, EVE);
    let mut without = settings();
    without.sip_domains[0].domain = "other.example".into();
    world.house.configure(without);
    world.pass(120_000);
    let said = take_presence(&mut world);
    let gone: Vec<&str> = said.iter().filter(|el| el.attr("type") == "unavailable").map(|el| el.attr("from")).collect();
    assert_eq!(gone, [format!("{ADA}/desk")], "{said:#?} {}", world.log());
    assert_eq!(world.house.gateway.contacts_kept(), 1, "what they agreed on sleeps");
}

#[test]
fn g5_a_sip_peer_that_is_gone_is_seen_as_gone() {
    for mood in [Mood::Silent, Mood::Resets] {
        let mut world = world();
        let link = world.open(EVIL);
        watches(&mut world, link, EVE);
        world.moods.insert(PROXY, mood);
        world.break_next_hop();
        // His subscription runs out, and nothing answers the next.
        world.pass(3_600_000 + 60_000);
        assert_eq!(types(&take_presence(&mut world)).iter().filter(|t| **t == "unavailable").count(), 1, "{mood:?}");
        world.moods.clear();
        take_requests(&mut world, "SUBSCRIBE");
        let subscribe = next_subscribe(&mut world, 2_000_000);
        assert_eq!(notify(&mut world, &subscribe, 1, "active;expires=3600", &pidf("open", "back")), 200, "{mood:?}");
        world.pass(2000);
        assert_eq!(types(&take_presence(&mut world)).last(), Some(&"available"), "{mood:?}");
        assert_books(&mut world);
    }
}

#[test]
fn g5_a_phone_that_is_gone_is_not_told_any_more() {
    let mut world = world();
    let link = world.open(EVIL);
    watched(&mut world, link, "phone");
    world.pass(1000);
    world.moods.insert(PROXY, Mood::Answers(481));
    presence(&mut world, link, &format!("{EVE}/x"), ADA, "available");
    world.pass(6000);
    world.moods.clear();
    take_requests(&mut world, "NOTIFY");
    assert_eq!(types(&take_presence(&mut world)).last(), Some(&"unavailable"));
    presence(&mut world, link, &format!("{EVE}/x"), ADA, "unavailable");
    world.pass(60_000);
    assert!(take_requests(&mut world, "NOTIFY").is_empty(), "no NOTIFY for a dialog that is gone");
    assert_books(&mut world);
}

// ---- G8

/// Can the user of a public-unverified partner write and watch? All the same, or not.
fn assert_let_in(world: &mut World, link: LinkId, who: &str, expected: bool) {
    let n = world.number();
    world.write(link, message(who, ADA, &format!("g8-{n}"), "let me in").as_bytes());
    world.settle();
    let (requests, stanzas) = world.take();
    let arrived = requests.iter().any(|request| request.body() == "let me in");
    let refused = stanzas.iter().any(|(_, el)| el.attr("id") == format!("g8-{n}") && el.error() == "forbidden");
    assert_eq!((arrived, refused), (expected, !expected), "{who}: a message: {}", world.log());
    if expected {
        return;
    }
    world.write(link, format!("<presence from='{who}' to='{ADA}' id='s{n}' type='subscribe'/>").as_bytes());
    presence(world, link, who, ADA, "probe");
    world.pass(1000);
    let (requests, stanzas) = world.take();
    assert!(requests.is_empty(), "{who}: SIP hears of it: {requests:#?}");
    assert!(
        stanzas.iter().any(|(_, el)| el.attr("id") == format!("s{n}") && el.error() == "forbidden"),
        "{who}: {stanzas:#?}"
    );
    assert!(!stanzas.iter().any(|(_, el)| matches!(el.attr("type"), "" | "subscribed")), "{who}: {stanzas:#?}");
}

#[test]
fn g8_who_is_no_contact_is_let_in_only_while_he_is_one() {
    let mut world = world_of(PartnerKind::PublicUnverified);
    let link = world.open(EVIL);
    let spoofs = [
        MALLORY,
        "EVE2@evil.example",
        "eve\\20@evil.example",
        "eve@evil.example/eve@evil.example",
        "ev\u{435}@evil.example",
    ];
    for who in [EVE, "eve@evil.example/x"].iter().chain(&spoofs) {
        assert_let_in(&mut world, link, who, false);
    }
    let answer = Subscribe::default().send(&mut world);
    let tag = tag_of(answer.get("To"));
    take_requests(&mut world, "NOTIFY");
    assert_let_in(&mut world, link, EVE, true);
    assert_let_in(&mut world, link, "eve@evil.example/x", true);
    for who in spoofs.iter().filter(|who| !who.starts_with("eve@")) {
        assert_let_in(&mut world, link, who, false);
    }
    // While he is a contact he may watch; when he is none any more, he sees nobody.
    world.take();
    watches(&mut world, link, EVE);
    Subscribe { to_tag: &tag, number: 2, expires: Some("0"), ..Subscribe::default() }.send(&mut world);
    world.pass(2000);
    let said = take_presence(&mut world);
    assert!(
        said.iter().any(|el| el.attr("from") == format!("{ADA}/desk") && el.attr("type") == "unavailable"),
        "{said:#?}"
    );
    world.take();
    presence(&mut world, link, EVE, ADA, "unsubscribe");
    world.pass(40_000);
    world.take();
    for who in [EVE, "eve@evil.example/x"].iter().chain(&spoofs) {
        assert_let_in(&mut world, link, who, false);
    }
    assert_books(&mut world);
}

#[test]
fn g8_two_phones_that_let_go_at_once_let_go() {
    let mut world = world_of(PartnerKind::PublicUnverified);
    let link = world.open(EVIL);
    let tags: Vec<String> = ["one", "two"]
        .iter()
        .map(|call| tag_of(Subscribe { call, ..Subscribe::default() }.send(&mut world).get("To")))
        .collect();
    assert_let_in(&mut world, link, EVE, true);
    // The last NOTIFY of the first is not answered before the second lets go.
    world.moods.insert(PROXY, Mood::Silent);
    for (call, to_tag) in ["one", "two"].iter().zip(&tags) {
        let answer = Subscribe { call, to_tag, number: 2, expires: Some("0"), ..Subscribe::default() }.send(&mut world);
        assert_eq!(answer.status(), 200);
    }
    world.moods.clear();
    world.pass(60_000);
    world.take();
    assert_let_in(&mut world, link, EVE, false);
    assert_books(&mut world);
}

// ---- What must not leak

#[test]
fn presence_of_who_did_not_approve_is_not_told() {
    let mut world = world();
    let link = world.open(EVIL);
    Subscribe::default().send(&mut world);
    take_requests(&mut world, "NOTIFY");
    for step in ["available", "unavailable", "available"] {
        presence(&mut world, link, &format!("{EVE}/secret"), ADA, step);
        world.pass(6000);
    }
    assert!(take_requests(&mut world, "NOTIFY").is_empty());
    presence(&mut world, link, EVE, ADA, "unsubscribed");
    let (state, body) = last_notify(&mut world);
    assert_eq!((state.as_str(), body.as_str()), ("terminated;reason=rejected", ""));
    presence(&mut world, link, &format!("{EVE}/secret"), ADA, "available");
    world.pass(6000);
    assert!(take_requests(&mut world, "NOTIFY").is_empty());
    assert!(world.of(Counter::PresenceUnwatched) >= 4, "{}", world.books());
    assert_books(&mut world);
}

#[test]
fn what_a_poll_was_told_is_not_told_the_next() {
    let mut world = world();
    let link = world.open(EVIL);
    // He waits for leave, and asks once beside that.
    Subscribe::default().send(&mut world);
    take_requests(&mut world, "NOTIFY");
    Subscribe { call: "poll1", expires: Some("0"), ..Subscribe::default() }.send(&mut world);
    presence(&mut world, link, &format!("{EVE}/x"), ADA, "available");
    world.pass(5000);
    assert!(last_notify(&mut world).1.contains("open"));
    presence(&mut world, link, &format!("{EVE}/x"), ADA, "unavailable");
    world.pass(60_000);
    take_presence(&mut world);
    Subscribe { call: "poll2", expires: Some("0"), ..Subscribe::default() }.send(&mut world);
    assert_eq!(types(&take_presence(&mut world)), ["probe"]);
    world.pass(6000);
    // Nobody answered, so nothing is known.
    assert_eq!(last_notify(&mut world), ("terminated;reason=timeout".to_string(), String::new()));
    assert_books(&mut world);
}

#[test]
fn what_one_watcher_is_told_is_not_told_another() {
    let mut world = world();
    let link = world.open(EVIL);
    watches(&mut world, link, EVE);
    // A probe of another's is asked of SIP, not answered from what the first one sees.
    presence(&mut world, link, &format!("{MALLORY}/x"), ADA, "probe");
    world.pass(5000);
    assert!(take_presence(&mut world).is_empty());
    let polls = take_requests(&mut world, "SUBSCRIBE");
    assert_eq!(polls.iter().map(|poll| poll.get("Expires")).collect::<Vec<_>>(), ["0"]);
    assert_eq!(notify(&mut world, &polls[0], 1, "terminated;reason=rejected", ""), 200);
    world.pass(2000);
    assert_eq!(types(&take_presence(&mut world)), ["unsubscribed"]);
    // The same the other way: another phone's user is not told of who let the first see him.
    watched(&mut world, link, "phone");
    presence(&mut world, link, &format!("{EVE}/x"), ADA, "available");
    world.pass(6000);
    take_requests(&mut world, "NOTIFY");
    let bob = format!("bob@{OURS}");
    Subscribe { call: "bobs", from: &bob, ..Subscribe::default() }.send(&mut world);
    world.pass(6000);
    let said = take_requests(&mut world, "NOTIFY");
    assert!(said.iter().all(|notify| notify.get("Call-ID") == "bobs" && notify.body.is_empty()), "{said:#?}");
    assert_books(&mut world);
}

#[test]
fn a_public_partner_sees_no_note() {
    for (kind, sees) in [(PartnerKind::Federated, true), (PartnerKind::PublicVerified, false)] {
        let mut world = world_of(kind);
        let link = world.open(EVIL);
        let subscribe = watches(&mut world, link, EVE);
        let body = pidf("open", "In room 4711");
        assert_eq!(notify(&mut world, &subscribe, 2, "active;expires=3600", &body), 200);
        presence(&mut world, link, &format!("{EVE}/x"), ADA, "probe");
        world.pass(3000);
        // Nor by asking once.
        presence(&mut world, link, &format!("{MALLORY}/x"), ADA, "probe");
        let polls = take_requests(&mut world, "SUBSCRIBE");
        assert_eq!(notify(&mut world, polls.last().expect("a poll"), 1, "terminated;reason=timeout", &body), 200);
        world.pass(1000);
        let said = take_presence(&mut world);
        let to = |who: &str| said.iter().filter(|el| el.attr("to").starts_with(who)).count();
        assert!(to(EVE) >= 1 && to(MALLORY) == 1, "{said:#?}");
        assert!(said.iter().all(|el| el.child("status").is_some() == sees), "{kind:?}: {said:#?}");
        assert_books(&mut world);
    }
}

#[test]
fn an_honest_partner_does_not_notice() {
    let mut world = world();
    let link = world.open(EVIL);
    let subscribe = watches(&mut world, link, EVE);
    for n in 0..500 {
        notify(&mut world, &subscribe, n + 2, "active;expires=3600", "<presence");
        presence(&mut world, link, EVE, ADA, "no-such-type");
        presence(&mut world, link, &format!("eve@{HONEST}"), ADA, "subscribe");
        if n % 100 == 0 && world.is_closed(link) {
            break;
        }
    }
    assert!(take_requests(&mut world, "SUBSCRIBE").is_empty(), "a sender that is not proved");
    assert_books(&mut world);
}
