//! Rights that change while hundreds of contacts stand, and over a restart: what takes too many
//! users for a text.

use crate::neighbours::{Names, Neighbours};
use crate::peers::SipMessage;
use latimer::base::net::Transport;
use latimer::base::time::Instant;
use latimer::settings::Settings;
use latimer::settings::provider::Provider;
use std::collections::BTreeSet;

/// More than one stream takes at once, and than one turn of the loop looks at.
const PAIRS: usize = 700;

/// What the SIP side does by itself: it answers, and tells whoever watches that the user is there.
pub(super) fn play(n: &mut Neighbours, seen: &mut Vec<SipMessage>) {
    n.settle();
    while let Some(came) = n.sip.pop_front() {
        let message = came.message;
        let is_end = message.header("expires") == Some("0");
        let expires = if is_end { "Expires: 0\r\n" } else { "Expires: 3600\r\n" };
        if message.method() == Some("SUBSCRIBE") {
            let more = format!("{expires}Contact: <sip:phone@192.0.2.21;transport=tls>\r\n");
            n.send_response(&message.response(200, "OK", "phone", &more)).expect("a way back");
            if !is_end {
                let notify = notify_for(&message);
                n.send_request(Transport::Tls, None, notify.as_bytes());
            }
        } else if message.method().is_some_and(|method| method != "ACK") {
            n.send_response(&message.response(200, "OK", "phone", "")).expect("a way back");
        }
        if message.method().is_some() {
            seen.push(message);
        }
        n.settle();
    }
}

pub(super) fn notify_for(subscribe: &SipMessage) -> String {
    let header = |name: &str| subscribe.header(name).expect("a header");
    let target = header("contact").split(['<', '>']).nth(1).expect("a target");
    let user = header("to").split([':', '@']).nth(1).expect("a user");
    let body = format!(
        "<presence xmlns='urn:ietf:params:xml:ns:pidf' entity='pres:{user}@voip.example'><tuple id='ID-desk'>\
         <status><basic>open</basic></status></tuple></presence>"
    );
    format!(
        "NOTIFY {target} SIP/2.0\r\nVia: SIP/2.0/TLS proxy.voip.example;branch=z9hG4bK{call}\r\nMax-Forwards: 70\r\n\
         From: {to};tag=phone\r\nTo: {from}\r\nCall-ID: {call}\r\nCSeq: 1 NOTIFY\r\nEvent: presence\r\n\
         Contact: <sip:phone@192.0.2.21;transport=tls>\r\nSubscription-State: active;expires=3600\r\n\
         Content-Type: application/pidf+xml\r\nContent-Length: {length}\r\n\r\n{body}",
        call = header("call-id"),
        to = header("to"),
        from = header("from"),
        length = body.len(),
    )
}

/// Each of so many XMPP users watches a SIP user of his own.
pub(super) fn watched(settings: Settings, pairs: usize) -> Neighbours {
    let mut n = Neighbours::new(Names::usual(), settings, 1);
    let mut seen = Vec::new();
    for pair in 0..pairs {
        let subscribe =
            format!("<presence from='x{pair}@chat.example' to='s{pair}@voip.example' type='subscribe' id='i{pair}'/>");
        n.send_stanza("chat.example", "voip.example", &subscribe).expect("a stream");
        play(&mut n, &mut seen);
        n.advance(10);
    }
    n.advance(2000);
    assert_eq!(online(&mut n, true).len(), pairs);
    n
}

/// Who was told that his contact is there, or that he is gone.
pub(super) fn online(n: &mut Neighbours, is_there: bool) -> BTreeSet<String> {
    let told = core::mem::take(&mut n.xmpp);
    let is_it = |kind: Option<&str>| if is_there { kind.is_none() } else { kind == Some("unavailable") };
    let told = told.iter().filter(|stanza| stanza.name == "presence" && is_it(stanza.attribute("type")));
    told.filter_map(|stanza| stanza.attribute("to").map(String::from)).collect()
}

/// Lets time pass, a little at a time, while the SIP side answers.
fn pass(n: &mut Neighbours, ms: u64) -> Vec<SipMessage> {
    let mut seen = Vec::new();
    for _ in 0..ms / 10 {
        n.advance(10);
        play(n, &mut seen);
    }
    seen
}

fn without_partner() -> Settings {
    let mut settings = Names::usual().settings();
    settings.partners.clear();
    settings
}

#[test]
fn a_partner_with_hundreds_of_contacts_goes_and_comes_back_a_turn_at_a_time() {
    let mut n = watched(Names::usual().settings(), PAIRS);
    n.world.configure(without_partner());
    let mut first = Vec::new();
    play(&mut n, &mut first);
    assert!(first.len() <= 64, "{} dialogs ended in one turn", first.len());
    let ended = pass(&mut n, 3000);
    let ended: Vec<&SipMessage> = first.iter().chain(&ended).collect();
    assert!(ended.iter().all(|end| end.method() == Some("SUBSCRIBE") && end.header("expires") == Some("0")));
    assert_eq!(ended.len(), PAIRS);
    assert_eq!(online(&mut n, false).len(), PAIRS);
    assert!(pass(&mut n, 60_000).is_empty());

    n.world.configure(Names::usual().settings());
    let begun = pass(&mut n, 10_000);
    assert_eq!(begun.len(), PAIRS);
    assert!(begun.iter().all(|begin| begin.header("expires") == Some("3600")));
    let told = core::mem::take(&mut n.xmpp);
    assert!(told.iter().all(|stanza| stanza.attribute("type").is_none()), "nobody is asked again");
    assert_eq!(told.len(), PAIRS);
}

#[test]
fn those_whose_rights_stay_notice_nothing() {
    let mut n = watched(Names::usual().settings(), 80);
    let mut settings = Names::usual().settings();
    settings.partners[0].description = Some("another remark".into());
    settings.partners.push(latimer::settings::Partner::new("lake.example"));
    n.closed.clear();
    n.world.configure(settings);
    assert!(pass(&mut n, 5000).is_empty());
    assert!(n.xmpp.is_empty() && n.closed.is_empty(), "{:?}", n.closed);
}

#[test]
fn a_partner_that_was_taken_out_while_the_gateway_was_down_sleeps_too() {
    let mut n = watched(Names::usual().settings(), 3);
    n.restart(without_partner());
    assert!(pass(&mut n, 60_000).is_empty());
    assert!(n.xmpp.is_empty());
    let contact = |n: &Neighbours| {
        let now = Instant::from_millis(n.world.now);
        n.world.gateway.contact(now, "s0@voip.example", "x0@chat.example").expect("it is kept")
    };
    let asleep = contact(&n);
    assert_eq!(asleep.xmpp_watches.problem.as_deref(), Some("ours: one of the two domains is not served"));
    assert_eq!((asleep.xmpp_watches.state, asleep.sip_watches.problem), ("active", None));
    n.world.configure(Names::usual().settings());
    assert_eq!(pass(&mut n, 5000).len(), 3);
    assert_eq!(contact(&n).xmpp_watches.problem, None);
    assert_eq!(online(&mut n, true).len(), 3);
}

#[test]
fn nobody_is_asked_where_a_sip_domain_was_that_went_while_the_gateway_was_down() {
    let mut n = Neighbours::new(Names::usual(), Names::usual().settings(), 1);
    let subscribe = "SUBSCRIBE sip:lena@chat.example SIP/2.0\r\nVia: SIP/2.0/TLS proxy.voip.example;branch=z9hG4bKw1\r\n\
                     Max-Forwards: 69\r\nFrom: <sip:ada@voip.example>;tag=a\r\nTo: <sip:lena@chat.example>\r\n\
                     Call-ID: w-1\r\nCSeq: 1 SUBSCRIBE\r\nContact: <sip:ada@192.0.2.21;transport=tls>\r\n\
                     Event: presence\r\nExpires: 3600\r\nContent-Length: 0\r\n\r\n";
    n.send_request(Transport::Tls, None, subscribe.as_bytes());
    pass(&mut n, 1000);
    let mut settings = Names::usual().settings();
    settings.sip_domains[0].domain = "other.example".into();
    n.xmpp.clear();
    n.restart(settings);
    n.world.lines.clear();
    assert!(pass(&mut n, 120_000).is_empty() && n.xmpp.is_empty());
    assert!(!n.world.lines.iter().any(|line| line.contains("voip.example")), "{:#?}", n.world.lines);
    n.restart(Names::usual().settings());
    pass(&mut n, 60_000);
    assert!(n.xmpp.iter().any(|stanza| stanza.attribute("type") == Some("subscribe")), "it still waits for leave");
}

#[test]
fn with_fewer_licences_who_was_seen_last_keeps_his_over_a_restart_too() {
    let harbour = |licences| Provider {
        enabled: true,
        partners: vec!["chat.example".into()],
        licence_needed: true,
        licences: Some(licences),
        ..Provider::new("harbour")
    };
    let settings = |licences| {
        let mut settings = Names::usual().settings();
        settings.providers.push(harbour(licences));
        settings
    };
    let mut n = Neighbours::new(Names::usual(), settings(2), 1);
    let write = |n: &mut Neighbours, user: &str| {
        let (number, domain) = (n.world.now, "voip.example");
        let text = format!(
            "MESSAGE sip:lena@chat.example SIP/2.0\r\nVia: SIP/2.0/TLS proxy.{domain};branch=z9hG4bK{number}\r\n\
             Max-Forwards: 69\r\nFrom: <sip:{user}@{domain}>;tag=t{number}\r\nTo: <sip:lena@chat.example>\r\n\
             Call-ID: m-{number}\r\nCSeq: 1 MESSAGE\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nHo"
        );
        n.send_request(Transport::Tls, None, text.as_bytes());
        n.advance(1000);
        n.sip.pop_back().and_then(|came| came.message.status())
    };
    assert_eq!(write(&mut n, "ada"), Some(200));
    n.advance(3 * 86_400_000);
    assert_eq!(write(&mut n, "otto"), Some(200));
    assert_eq!(write(&mut n, "iris"), Some(403));
    n.restart(settings(2));
    assert_eq!(write(&mut n, "iris"), Some(403), "a restart frees no place");
    assert_eq!(write(&mut n, "ada"), Some(200));
    n.world.configure(settings(1));
    assert_eq!((write(&mut n, "otto"), write(&mut n, "ada")), (Some(403), Some(200)));
    n.world.configure(settings(2));
    assert_eq!((write(&mut n, "otto"), write(&mut n, "iris")), (Some(200), Some(403)));
}
