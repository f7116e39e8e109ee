//! Domains that nobody configured, and how fast we write to an Edge: what takes a thousand
//! messages to see, without a text for each.

use crate::neighbours::{Names, Neighbours};
use crate::peers::Record;
use latimer::base::net::Transport;
use latimer::settings::provider::Provider;
use latimer::settings::{Dialect, ImMode, SipDomain};
use std::collections::BTreeMap;

const FERN: &str = "sip.fern.example";

/// A gateway whose discovery is open.
fn open() -> Neighbours {
    let names = Names::usual();
    let mut settings = names.settings();
    settings.discovery_open = true;
    Neighbours::new(names, settings, 1)
}

/// A message of a user of fern.example, who shows the certificate of its Edge.
fn say(n: &mut Neighbours, number: usize, to: &str) {
    let text = format!(
        "MESSAGE sip:{to} SIP/2.0\r\nVia: SIP/2.0/TLS {FERN};branch=z9hG4bKd{number}\r\nMax-Forwards: 69\r\n\
         From: <sip:otto@fern.example>;tag=t{number}\r\nTo: <sip:{to}>\r\nCall-ID: d-{number}\r\nCSeq: 1 MESSAGE\r\n\
         Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nHo"
    );
    n.send_request(Transport::Tls, Some(FERN), text.as_bytes());
}

/// Number and answer of each message that was answered.
fn answers(n: &mut Neighbours) -> BTreeMap<usize, (u16, String)> {
    n.settle();
    let came = core::mem::take(&mut n.sip);
    let of = |message: &crate::peers::SipMessage| {
        let number = message.header("call-id")?.strip_prefix("d-")?.parse().ok()?;
        let said = message.header("ms-diagnostics-public").unwrap_or_default().to_owned();
        Some((number, (message.status()?, said)))
    };
    came.iter().filter_map(|came| of(&came.message)).collect()
}

#[test]
fn a_discovered_domain_may_send_twenty_messages_a_second_and_a_configured_one_more() {
    let mut n = open();
    for number in 0..25 {
        say(&mut n, number, "lena@chat.example");
    }
    n.advance(500);
    let got = answers(&mut n);
    let taken: Vec<usize> = got.iter().filter(|(_, (status, _))| *status == 200).map(|(number, _)| *number).collect();
    assert_eq!(taken, (0..20).collect::<Vec<_>>());
    for number in 20..25 {
        let (status, said) = &got[&number];
        assert!(*status == 503 && said.starts_with("7247005;"), "{status} {said}");
    }
    assert_eq!(n.xmpp.len(), 20);
    n.advance(600);
    say(&mut n, 30, "lena@chat.example");
    n.advance(100);
    assert_eq!(answers(&mut n)[&30].0, 200);
    // Now somebody vouches for it.
    let mut settings = n.names.settings();
    settings.discovery_open = true;
    settings.sip_domains.push(SipDomain { dialect: Dialect::Lync, ..SipDomain::new("fern.example") });
    n.world.configure(settings);
    for number in 100..160 {
        say(&mut n, number, "lena@chat.example");
    }
    n.advance(500);
    let got = answers(&mut n);
    assert!(got.len() == 60 && got.values().all(|(status, _)| *status == 200), "{got:?}");
}

#[test]
fn a_discovered_domain_that_tries_a_thousand_names_is_not_heard_any_more() {
    let mut n = open();
    for number in 0..1000 {
        say(&mut n, number, &format!("u{number}@chat.example"));
        n.advance(60);
        n.xmpp.clear();
    }
    let got = answers(&mut n);
    assert!(got.len() == 1000 && got.values().all(|(status, _)| *status == 200));
    say(&mut n, 1000, "one.more@chat.example");
    n.advance(60_000);
    say(&mut n, 1001, "u1@chat.example");
    n.advance(100);
    let got = answers(&mut n);
    for number in [1000, 1001] {
        let (status, said) = &got[&number];
        assert!(*status == 403 && said.starts_with("7247004;"), "{status} {said}");
    }
    assert!(n.xmpp.is_empty());
}

/// Says this many messages, ten a second. The XMPP side has no such user, if `fails`.
fn say_many(n: &mut Neighbours, from: usize, count: usize, fails: bool) -> BTreeMap<usize, (u16, String)> {
    for number in from..from + count {
        say(n, number, "lena@chat.example");
        n.advance(100);
        for stanza in core::mem::take(&mut n.xmpp).into_iter().filter(|_| fails) {
            let of = |name: &str| stanza.attribute(name).unwrap_or_default().to_owned();
            let error = format!(
                "<message type='error' from='{}' to='{}' id='{}'><error type='cancel'><item-not-found \
                 xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>",
                of("to"),
                of("from"),
                of("id")
            );
            n.send_stanza("chat.example", "fern.example", &error).expect("a stream");
        }
    }
    n.advance(200);
    answers(n)
}

fn taken(answers: &BTreeMap<usize, (u16, String)>) -> usize {
    answers.values().filter(|(status, _)| *status == 200).count()
}

#[test]
fn a_discovered_domain_whose_messages_all_fail_is_slowed_down_and_gets_out_of_it() {
    let mut n = open();
    say_many(&mut n, 0, 45, true);
    n.advance(2000);
    let got = say_many(&mut n, 100, 20, true);
    assert!(taken(&got) <= 3, "one a second: {got:?}");
    assert!(got.values().any(|(_, said)| said.starts_with("7247005;")), "{got:?}");
    // Whom it writes to is there now: what is refused for coming too fast does not count.
    say_many(&mut n, 200, 250, false);
    let got = say_many(&mut n, 500, 20, false);
    assert_eq!(taken(&got), 20, "{got:?}");
}

#[test]
fn a_burst_leaves_for_an_edge_at_the_rate_it_takes_and_nothing_is_lost() {
    let names = Names::usual();
    let mut settings = names.settings();
    settings.sip_domains[0].rate = Some(20);
    settings.sip_domains[0].dialect = Dialect::Lync;
    settings.sip_domains[0].im_mode = Some(ImMode::Pager);
    let mut n = Neighbours::new(names, settings, 1);
    for number in 0..500 {
        let stanza = format!(
            "<message from='u{number}@chat.example/x' to='marta@voip.example' id='b{number}' type='chat'>\
             <body>text {number}</body></message>"
        );
        n.send_stanza("chat.example", "voip.example", &stanza).expect("a stream");
    }
    let start = n.world.now;
    let mut times: Vec<(u64, String)> = Vec::new();
    while times.len() < 500 {
        assert!(n.world.now - start < 30_000, "{} left", times.len());
        let now = n.world.now - start;
        times.extend(n.sip.iter().map(|came| (now, String::from_utf8_lossy(&came.message.body).into_owned())));
        n.answer_all(200);
        n.advance(10);
    }
    let texts: Vec<&str> = times.iter().map(|(_, text)| &**text).collect();
    assert_eq!(texts, (0..500).map(|number| format!("text {number}")).collect::<Vec<_>>());
    for (place, (at, _)) in times.iter().enumerate() {
        let within = times[place..].iter().take_while(|(other, _)| other - at < 1000).count();
        assert!(within <= 21, "{within} within a second of {at} ms");
    }
    n.advance(40_000);
    assert!(n.xmpp.is_empty() && n.sip.is_empty(), "no error, nothing twice");
    assert!(n.faults.is_empty(), "{:?}", n.faults);
}

/// A gateway for a domain of the Lync dialect whose next hop nobody named.
fn federated(strict: bool, target: &str) -> Neighbours {
    let mut names = Names::usual();
    let mut settings = names.settings();
    let mut fern = SipDomain::new("fern.example");
    (fern.dialect, fern.im_mode, fern.srv_target_strict) = (Dialect::Lync, Some(ImMode::Pager), strict);
    settings.sip_domains.push(fern);
    names.sip.push("fern.example".into());
    let mut n = Neighbours::new(names, settings, 1);
    n.edges.insert(5063, target.into());
    n.dns.add("_sipfederationtls._tcp.fern.example", Record::Srv(5, 10, 5063, target.into()));
    n.dns.add("_sips._tcp.fern.example", Record::Srv(1, 10, 5061, "proxy.voip.example".into()));
    n.dns.add(target, Record::A([192, 0, 2, 21]));
    n
}

fn hello(n: &mut Neighbours) {
    let stanza =
        "<message from='lena@chat.example/x' to='otto@fern.example' id='h1' type='chat'><body>Hello</body></message>";
    n.send_stanza("chat.example", "fern.example", stanza).expect("a stream");
    n.advance(3000);
}

#[test]
fn an_edge_is_found_by_its_federation_record_alone() {
    let mut n = federated(true, FERN);
    hello(&mut n);
    assert_eq!(n.sip.len(), 1, "{:?}", n.world.lines);
    assert!(n.sip[0].message.start.starts_with("MESSAGE sip:otto@fern.example "));
    n.answer_all(200);
    n.advance(1000);
    assert!(n.xmpp.is_empty() && n.faults.is_empty());
}

#[test]
fn an_edge_outside_its_domain_is_refused_or_told_of() {
    let mut n = federated(true, "edge.moor.example");
    hello(&mut n);
    assert!(n.sip.is_empty());
    assert!(n.xmpp[0].to_xml().contains("remote-server-not-found"), "{}", n.xmpp[0].to_xml());
    let told = |n: &Neighbours| n.world.lines.iter().any(|line| line.contains("dns.srv.foreign-target"));
    assert!(told(&n));
    let mut n = federated(false, "edge.moor.example");
    hello(&mut n);
    assert!(n.sip.len() == 1 && told(&n), "{:?}", n.world.lines);
}

#[test]
fn a_next_hop_is_gone_to_without_a_question_about_the_federation() {
    let mut n = federated(true, FERN);
    let mut settings = n.names.settings();
    settings.sip_domains.iter_mut().for_each(|domain| domain.dialect = Dialect::Lync);
    settings.sip_domains.iter_mut().for_each(|domain| domain.im_mode = Some(ImMode::Pager));
    n.world.configure(settings);
    hello(&mut n);
    assert_eq!(n.sip.len(), 1);
    assert!(!n.world.lines.iter().any(|line| line.contains("_sipfederationtls")));
}

#[test]
fn a_provider_at_its_end_is_told_of_once_a_day() {
    let names = Names::usual();
    let mut settings = names.settings();
    let mut provider = Provider::new("skype");
    provider.enabled = true;
    settings.providers.push(provider);
    let mut n = Neighbours::new(names, settings, 1);
    let told = |n: &Neighbours| n.world.lines.iter().filter(|line| line.contains("provider.ended")).count();
    n.advance(1000);
    assert_eq!(told(&n), 1);
    n.advance(3 * 86_400_000);
    assert_eq!(told(&n), 4);
}
