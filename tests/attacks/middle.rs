//! The middle: G1, G2, G6, G7, G9 and with each of them G10, the books.

use crate::house::{Did, House};
use crate::world::{
    EVIL, HONEST, Mood, OURS, SIP_TCP, World, certificate, header, message, partner, settings, sip_domain, sip_message,
};
use latimer::base::counters::Counter;
use latimer::base::net::{CloseReason, LinkId};
use latimer::settings::Settings;
use std::collections::BTreeMap;
use std::net::SocketAddr;

const WEST: usize = 0;
const EAST: usize = 1;

/// Two gateways, each of which is for the other both the XMPP server and the SIP proxy
/// of the domain that it does not serve itself.
struct Ring {
    houses: [House; 2],
    /// The other end of each link.
    wires: [BTreeMap<LinkId, LinkId>; 2],
    /// SIP requests and stanzas that went from one to the other.
    packets: usize,
    errors: usize,
    /// All that was written by either.
    writes: usize,
    /// What a SIP user's phone behind `west.example` got.
    phone: Vec<String>,
}

impl Ring {
    fn new() -> Self {
        let house = |own: &str, other: &str, own_ip: &str, other_ip: &str| {
            let ip = |text: &str| text.parse().expect("an address");
            let mut peer = partner(other, 0);
            peer.proxy = Some((other_ip.into(), Some(5269)));
            let mut settings = settings();
            for listener in &mut settings.listeners {
                listener.address.set_ip(ip(own_ip));
            }
            settings.host_name = format!("gw.{own}");
            House::new(Settings { sip_domains: vec![sip_domain(own, ip(other_ip))], partners: vec![peer], ..settings })
        };
        Self {
            houses: [
                house("west.example", "east.example", "192.0.2.101", "192.0.2.102"),
                house("east.example", "west.example", "192.0.2.102", "192.0.2.101"),
            ],
            wires: Default::default(),
            packets: 0,
            errors: 0,
            writes: 0,
            phone: Vec::new(),
        }
    }

    /// Carries everything from one to the other until nothing moves.
    fn run(&mut self, ms: u64) {
        let until = self.houses[WEST].now + ms;
        loop {
            while self.carry() {}
            let due = self.houses.iter().filter_map(House::due).min().filter(|due| *due <= until);
            let Some(due) = due else { break };
            for house in &mut self.houses {
                house.now = house.now.max(due);
                if house.due().is_some_and(|at| at <= due) {
                    house.timeout();
                }
            }
            assert!(self.packets < 100_000, "it never ends");
        }
        for house in &mut self.houses {
            house.now = until;
        }
    }

    fn carry(&mut self) -> bool {
        for at in [WEST, EAST] {
            let Some(did) = self.houses[at].did.pop_front() else { continue };
            // A round takes a moment.
            for house in &mut self.houses {
                house.now += 1;
            }
            let far = 1 - at;
            let names = [certificate(&["west.example"]), certificate(&["east.example"])];
            match did {
                Did::Connect { link, to, .. } => {
                    let listener = if to.port() == 5269 { crate::world::XMPP } else { SIP_TCP };
                    let from = SocketAddr::new(self.houses[at].gateway.settings().listeners[0].address.ip(), 40_000);
                    self.houses[at].set_certificate(link, names[far].clone());
                    let other = self.houses[far].accept(listener, from, names[at].clone());
                    self.wires[at].insert(link, other);
                    self.wires[far].insert(other, link);
                    self.houses[at].opened(link);
                }
                Did::Sent { link, bytes } => {
                    let text = String::from_utf8_lossy(&bytes);
                    self.writes += 1;
                    assert!(self.writes < 20_000, "it never ends");
                    let errors = text.matches("<error ").count();
                    self.errors += errors;
                    self.packets += text.matches("<message ").count() + text.matches("MESSAGE sip:").count() - errors;
                    if let Some(other) = self.wires[at].get(&link).copied() {
                        // What was written in TLS is read in TLS.
                        let begins = |did: &Did| matches!(did, Did::StartTls { link } if *link == other);
                        if let Some(place) = self.houses[far].did.iter().position(begins) {
                            self.houses[far].did.remove(place);
                            self.houses[far].secured(other);
                        }
                        self.houses[far].octets(other, &bytes);
                        self.houses[at].drained(link);
                    }
                }
                Did::StartTls { link } => self.houses[at].secured(link),
                Did::Closed { link } => {
                    if let Some(other) = self.wires[at].remove(&link) {
                        self.houses[far].close(other, CloseReason::Peer);
                    }
                }
                Did::Datagram { bytes, .. } => self.phone.push(String::from_utf8_lossy(&bytes).into_owned()),
            }
            return true;
        }
        false
    }

    fn balance(&self) {
        for house in &self.houses {
            let of = |counters: &[Counter]| counters.iter().map(|c| house.of(*c)).sum::<u64>();
            use Counter as C;
            let books = [
                (
                    C::SipMessageIn,
                    [C::SipMessageDelivered, C::SipMessageFailed, C::SipMessageRefused, C::SipMessageNothing],
                ),
                (
                    C::XmppMessageIn,
                    [C::XmppMessageDelivered, C::XmppMessageFailed, C::XmppMessageRefused, C::XmppMessageNothing],
                ),
            ];
            for (taken, ends) in books {
                assert_eq!(house.of(taken), of(&ends), "{taken:?}: {:?}", house.lines);
            }
            assert_eq!(house.gateway.messages_under_way(), 0);
        }
    }
}

#[test]
fn g1_a_message_between_two_gateways_dies() {
    for body in ["once around", ""] {
        let mut ring = Ring::new();
        let (from, to) = ("ada@west.example", "bob@east.example");
        // The other gateway is the next hop, so its address is that of the peer.
        let request = sip_message(from, to, "loop", body);
        ring.houses[WEST].datagram(
            crate::world::SIP_UDP,
            "192.0.2.102:5060".parse().expect("an address"),
            request.as_bytes(),
        );
        ring.run(3_600_000);
        // 70 hops at most, and one error back for each.
        assert!(ring.packets <= 2 * 70 && ring.errors <= 70, "{} packets, {} errors", ring.packets, ring.errors);
        assert!(ring.writes < 5_000, "{} writes", ring.writes);
        let loops = ring.houses.iter().map(|house| house.of(Counter::Loop)).sum::<u64>();
        assert!(
            body.is_empty() || loops > 0,
            "nothing counted: {:?} {:?} {:?}",
            ring.phone,
            ring.houses[0].lines,
            ring.houses[1].lines
        );
        assert!(ring.phone.iter().any(|response| response.starts_with("SIP/2.0 ")), "the sender heard nothing");
        ring.balance();
    }
    // An error that nobody asked for, and one with text.
    let mut ring = Ring::new();
    let link = ring.houses[WEST].accept(
        crate::world::XMPP,
        "192.0.2.102:1".parse().expect("an address"),
        certificate(&["east.example"]),
    );
    let header = header("east.example", "west.example");
    let starttls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
    let auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>";
    for step in [&header, starttls, &header, auth, &header] {
        ring.houses[WEST].octets(link, step.as_bytes());
        ring.run(10);
    }
    let error = "<error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";
    let stanza = format!(
        "<message from='bob@east.example' to='ada@west.example' type='error' id='e'><body>x</body>{error}</message>"
    );
    ring.houses[WEST].octets(link, stanza.as_bytes());
    ring.run(300_000);
    assert_eq!(ring.packets, 0);
    ring.balance();
}

#[test]
fn g2_two_automatic_repliers_are_stopped() {
    let mut world = World::new();
    world.assert_honest_traffic();
    let link = world.open(EVIL);
    let (ada, eve) = (format!("ada@{OURS}"), format!("eve@{EVIL}"));
    world.write(link, message(&eve, &ada, "start", "hello").as_bytes());
    let mut exchanged = 0;
    for round in 0..200 {
        let (requests, stanzas) = world.take();
        let errors = stanzas.iter().filter(|(_, el)| el.attr("type") == "error").count();
        if requests.is_empty() && stanzas.len() == errors {
            break;
        }
        exchanged += requests.len() + stanzas.len() - errors;
        // Each side answers every message, at once, with the same words.
        for _ in &requests {
            world.sip_message(&ada, &eve, "I am away");
        }
        for _ in stanzas.iter().filter(|(_, el)| el.attr("type") != "error") {
            world.write(link, message(&eve, &ada, &format!("r{round}"), "I am on holiday").as_bytes());
        }
        world.pass(20);
    }
    assert!(exchanged <= 15, "{exchanged} messages");
    assert!(world.of(Counter::Loop) >= 1);
    world.responses.clear();
    world.assert_honest_traffic();
    // People go on when the machines have gone quiet.
    world.pass(30_000);
    world.write(link, message(&eve, &ada, "later", "now it is me").as_bytes());
    assert!(world.take().0.iter().any(|request| request.body() == "now it is me"));
    world.settle();
}

/// Numbers of one pair in the order they arrived: rising, none twice.
fn assert_in_order(what: &str, arrived: &[u32]) {
    assert!(arrived.windows(2).all(|two| two[0] < two[1]), "{what}: out of order or doubled: {arrived:?}");
}

#[test]
fn g6_messages_of_a_pair_arrive_in_order_and_once() {
    const PAIRS: u32 = 50;
    const EACH: u32 = 100;
    for management in [false, true] {
        let mut world = World::new();
        world.management = management;
        world.assert_honest_traffic();
        let mut link = world.open(EVIL);
        let mut unanswered: BTreeMap<(u32, u32), String> = BTreeMap::new();
        for number in 0..EACH {
            for pair in 0..PAIRS {
                let (ada, eve) = (format!("ada{pair}@{OURS}"), format!("eve{pair}@{EVIL}"));
                unanswered.insert((pair, number), world.sip_message(&ada, &eve, &format!("{number}")));
                if world.is_closed(link) {
                    link = world.open(EVIL);
                }
                world.write(link, message(&eve, &ada, &format!("{pair}-{number}"), &format!("{number}")).as_bytes());
            }
            // The streams and the SIP connection are replaced in mid-flow.
            match number % 20 {
                7 => world.break_streams_to(EVIL),
                13 => {
                    world.write(link, b"</stream:stream>");
                    world.house.close(link, CloseReason::Peer);
                }
                17 => world.break_next_hop(),
                _ => {}
            }
            world.pass(50);
        }
        world.settle();
        let (requests, stanzas) = world.take();
        let mut to_sip: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for request in &requests {
            let from = request.get("From").split('>').next().unwrap_or_default().to_string();
            to_sip.entry(from).or_default().push(request.body().parse().expect("a number"));
        }
        let mut to_xmpp: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let mut errors = 0;
        for (_, el) in &stanzas {
            if el.attr("type") == "error" {
                errors += 1;
            } else {
                to_xmpp.entry(el.attr("from").into()).or_default().push(el.body().parse().expect("a number"));
            }
        }
        for (pair, arrived) in to_sip.iter().chain(&to_xmpp) {
            assert_in_order(pair, arrived);
        }
        let arrived: usize = to_xmpp.values().map(Vec::len).sum();
        let answers: Vec<Vec<u16>> = unanswered.values().map(|call| world.statuses(call)).collect();
        assert!(answers.iter().all(|statuses| statuses.len() == 1), "a message without its one answer");
        let positive = answers.iter().filter(|statuses| statuses[0] == 200).count();
        assert!(arrived >= positive, "{positive} answered with 200, {arrived} arrived");
        assert!(positive as u32 > PAIRS * EACH * 9 / 10, "only {positive} went through");
        let delivered: usize = to_sip.values().map(Vec::len).sum();
        assert_eq!(
            delivered + errors,
            (PAIRS * EACH) as usize,
            "{delivered} delivered, {errors} errors: {}",
            world.books()
        );
        world.responses.clear();
        world.assert_honest_traffic();
        world.settle();
    }
}

#[test]
fn g7_a_partner_in_trouble_delays_nobody_else() {
    for mood in [Mood::Blackhole, Mood::Deaf, Mood::TlsStall, Mood::Resets, Mood::RefusesTls] {
        let mut world = World::new();
        world.assert_honest_traffic();
        world.set_mood(EVIL, mood);
        let mut calls = Vec::new();
        for n in 0..400 {
            calls.push(world.sip_message(
                &format!("ada{}@{OURS}", n % 20),
                &format!("eve{}@{EVIL}", n % 20),
                &format!("lost {n}"),
            ));
            if n % 10 == 0 {
                // Not a millisecond passes for the honest partner.
                world.assert_honest_traffic();
            }
            world.pass(100);
        }
        world.settle();
        world.pass(40_000);
        for call in &calls {
            assert!(matches!(world.statuses(call)[..], [400..=599]), "{mood:?}: {:?}", world.statuses(call));
        }
        assert_eq!(world.of(Counter::SipMessageFailed), 400, "{mood:?}");
        world.stream_errors.clear();
        // It comes back by itself (P7).
        world.set_mood(EVIL, Mood::Good);
        world.pass(300_000);
        let call = world.sip_message(&format!("ada@{OURS}"), &format!("eve@{EVIL}"), "back");
        world.pass(1000);
        assert_eq!(world.statuses(&call), [200], "{mood:?}: {}", world.log());
        world.settle();
    }
}

#[test]
fn g7_a_next_hop_in_trouble_delays_nobody_else() {
    let other = "192.0.2.22".parse().expect("an address");
    for mood in [Mood::Blackhole, Mood::Deaf, Mood::Resets, Mood::Silent, Mood::Answers(503)] {
        let mut settings = settings();
        settings.sip_domains.push(sip_domain("other.example", other));
        let mut world = World::with(settings);
        world.assert_honest_traffic();
        world.moods.insert(other, mood);
        let link = world.reach_for(EVIL, "other.example");
        for n in 0..200 {
            let stanza = message(
                &format!("eve{}@{EVIL}", n % 20),
                &format!("zoe{}@other.example", n % 20),
                &format!("l{n}"),
                &format!("lost {n}"),
            );
            world.write(link, stanza.as_bytes());
            if n % 10 == 0 {
                world.assert_honest_traffic();
            }
            world.pass(20);
        }
        world.pass(400_000);
        world.settle();
        let (_, stanzas) = world.take();
        let errors = stanzas.iter().filter(|(at, el)| at == EVIL && el.attr("type") == "error").count();
        assert_eq!(errors, 200, "{mood:?}: {}", world.books());
        assert_eq!(world.of(Counter::XmppMessageFailed) + world.of(Counter::XmppMessageRefused), 200, "{mood:?}");
    }
}

#[test]
fn g9_settings_change_under_load_and_nothing_is_lost() {
    let mut world = World::new();
    world.assert_honest_traffic();
    let honest_link = world.open(HONEST);
    let before = world.streams_to(HONEST);
    let mut calls = Vec::new();
    for round in 0..60_usize {
        let mut settings = settings();
        // Partners come, go and change; a SIP domain comes and goes.
        for n in 0..round % 5 {
            settings.partners.push(partner(&format!("new{n}.example"), 10 + n));
        }
        if round % 3 == 1 {
            settings.partners.remove(0);
        }
        if round % 4 == 2 {
            settings.partners.insert(0, partner("first.example", 9));
            settings.sip_domains.insert(0, sip_domain("aaa.example", "192.0.2.99".parse().expect("an address")));
        }
        settings.xmpp.keep_alive_interval_s = 100 + round as u32;
        for n in 0..20 {
            let number = round * 20 + n;
            let (ada, bob) = (format!("ada{n}@{OURS}"), format!("bob{n}@{HONEST}"));
            calls.push(world.sip_message(&ada, &bob, &format!("m{number}")));
            if n == 10 {
                world.house.configure(settings.clone());
                world.pump();
            }
            world.write(honest_link, message(&bob, &ada, &format!("x{number}"), &format!("m{number}")).as_bytes());
        }
        world.pass(10);
    }
    world.settle();
    assert!(calls.iter().all(|call| world.statuses(call) == [200]), "{}", world.books());
    assert_eq!(world.requests.iter().filter(|r| r.body().starts_with('m')).count(), calls.len());
    assert_eq!(world.stanzas.iter().filter(|(at, el)| at == HONEST && el.body().starts_with('m')).count(), calls.len());
    assert!(!world.is_closed(honest_link), "{}", world.said(honest_link));
    assert_eq!(world.streams_to(HONEST), before, "the stream was replaced");

    // A partner that is taken out is told, and one that is put back is heard.
    let evil = world.open(EVIL);
    let mut without = settings();
    without.partners.remove(0);
    world.house.configure(without);
    world.pump();
    world.pass(10_000);
    assert!(world.is_closed(evil), "{}", world.said(evil));
    let call = world.sip_message(&format!("ada@{OURS}"), &format!("eve@{EVIL}"), "x");
    assert_eq!(world.statuses(&call), [404]);
    world.house.configure(settings());
    world.pump();
    world.assert_recovered();
    world.responses.clear();
    world.assert_honest_traffic();
    world.settle();
}
