//! Two servers back to back over links in memory, with certificates and TLS that only
//! pretend; and one server against a script.

use super::*;
use crate::base::certificate::CertificateFault;
use crate::base::counters::Counters;
use crate::base::net::{NotLocated, Target, Transport};
use crate::base::outbox::{Action, Level, Outbox};
use crate::base::rng::Rng;
use crate::base::time::Wall;
use crate::settings::{Component, Dialect, Listener, ListenerKind, Partner, Requirement, SipDomain};
use crate::xmpp::stanza::Head;
use base64ct::{Base64, Encoding};
use core::net::{IpAddr, Ipv4Addr};

/// One server and its world.
struct Node {
    server: Server,
    rng: Rng,
    out: Outbox,
    count: Counters,
    tree: Tree,
    certificate: PeerCertificate,
    /// What `poll` and `receive` gave, in words.
    events: Vec<String>,
    /// Handles not given back yet.
    handles: Vec<Handle>,
    /// Are handles given back at once?
    handles_at_once: bool,
    logs: Vec<String>,
    tickets: Slab<u32>,
}

/// What a node wants from the world.
#[derive(Clone, Debug, PartialEq)]
enum Act {
    Send(LinkId, Vec<u8>),
    Connect(LinkId, SocketAddr),
    Tls(LinkId, String, &'static str),
    Close(LinkId, bool),
    Reading(LinkId, bool),
}

fn named(domain: &str) -> PeerCertificate {
    PeerCertificate {
        verdict: Some(Ok(())),
        dns_names: vec![domain.into()],
        protocol: "TLSv1.3".into(),
        ..PeerCertificate::default()
    }
}

fn settings(domains: &[&str], partner: Partner, at: SocketAddr, direct: SocketAddr) -> Settings {
    let domain = |domain: &&str| SipDomain {
        domain: (*domain).into(),
        next_hop: None,
        peers: Vec::new(),
        dialect: Dialect::Standard,
        im_mode: None,
    };
    let listener = |name: &str, kind, address| Listener { name: name.into(), kind, address };
    Settings {
        sip_domains: domains.iter().map(domain).collect(),
        partners: vec![partner],
        listeners: vec![
            listener("starttls", ListenerKind::XmppStartTls, at),
            listener("direct", ListenerKind::XmppDirectTls, direct),
        ],
        ..Settings::default()
    }
}

fn address(host: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)), port)
}

impl Node {
    fn new(settings: &Settings, seed: u64, certificate: PeerCertificate) -> Self {
        let mut out = Outbox::with_capacity(4096, 64);
        out.log_level = Level::Debug;
        Self {
            server: Server::new(settings, format!("secret {seed}").as_bytes()),
            rng: Rng::from_number(seed),
            out,
            count: Counters::default(),
            tree: Tree::new(),
            certificate,
            events: Vec::new(),
            handles: Vec::new(),
            handles_at_once: true,
            logs: Vec::new(),
            tickets: Slab::with_capacity(100_000),
        }
    }

    fn run<R>(&mut self, now: Instant, run: impl FnOnce(&mut Server, &mut Cx<'_>) -> R) -> (R, Vec<Act>) {
        let wall = Wall(1_700_000_000_000 + now.as_millis() as i64);
        let mut cx = Cx { now, wall, rng: &mut self.rng, out: &mut self.out, count: &mut self.count };
        let result = run(&mut self.server, &mut cx);
        let acts = self.take();
        (result, acts)
    }

    fn take(&mut self) -> Vec<Act> {
        let mut acts = Vec::new();
        for action in self.out.actions() {
            match action {
                Action::Send { link, bytes } => acts.push(Act::Send(*link, self.out.bytes(bytes).to_vec())),
                Action::Connect { link, to, transport } => {
                    assert_eq!(*transport, Transport::Tcp);
                    acts.push(Act::Connect(*link, *to));
                }
                Action::StartTls { link, remote, alpn, .. } => {
                    acts.push(Act::Tls(*link, self.out.text(remote).into(), alpn));
                }
                Action::Close { link, abort } => acts.push(Act::Close(*link, *abort)),
                Action::Reading { link, on } => acts.push(Act::Reading(*link, *on)),
                Action::Log { code, text, .. } => self.logs.push(format!("{code} {}", self.out.text(text))),
                Action::Datagram { .. } => panic!("no datagrams in XMPP"),
            }
        }
        self.out.clear();
        acts
    }

    /// Brings octets; gives how many were used, and what is to be done.
    fn receive(&mut self, now: Instant, link: LinkId, bytes: &mut [u8]) -> (usize, Vec<Act>) {
        let mut tree = core::mem::take(&mut self.tree);
        let wall = Wall(1_700_000_000_000);
        let mut cx = Cx { now, wall, rng: &mut self.rng, out: &mut self.out, count: &mut self.count };
        let (used, event) = self.server.receive(&mut cx, link, bytes, &mut tree);
        let mut handle = None;
        if let Some(Event::Stanza { handle: h, stanza }) = event {
            let body = stanza.element.child("body", ns::SERVER).or_else(|| stanza.element.child("body", ns::COMPONENT));
            let text = body.map_or(String::new(), |body| body.text().into_owned());
            let delay = if stanza.element.child("delay", ns::DELAY).is_some() { " delayed" } else { "" };
            self.events.push(format!(
                "{} {} > {} {text}{delay}",
                stanza.kind.name(),
                stanza.from.as_str(),
                stanza.to.as_str()
            ));
            handle = Some(h);
        }
        match handle {
            Some(handle) if self.handles_at_once => self.server.handled(&mut cx, handle),
            Some(handle) => self.handles.push(handle),
            None => {}
        }
        self.tree = tree;
        (used, self.take())
    }

    fn send(&mut self, now: Instant, from: &str, to: &str, text: &str) -> (Result<Ticket, Refused>, Vec<Act>) {
        let ticket = Ticket(self.tickets.insert(0).expect("room"));
        let domain = |address: &str| address.split('@').next_back().unwrap_or_default().to_owned();
        let (result, acts) = self.run(now, |server, cx| {
            server.send(cx, Some(ticket), &domain(from), &domain(to), |w| {
                let head = Head { kind: Kind::Message, from, to, id: Some("m1"), type_: Some("chat"), lang: None };
                head.emit(w, |w| Tag::begin(w, "body").text(text));
            })
        });
        (result.map(|()| ticket), acts)
    }

    fn has_logged(&self, words: &[&str]) -> bool {
        self.logs.iter().any(|line| words.iter().all(|word| line.contains(word)))
    }
}

/// One connection between the two nodes.
struct Pipe {
    links: [LinkId; 2],
    /// Octets on their way to each node, and those it did not use yet.
    to: [Vec<u8>; 2],
    held: [Vec<u8>; 2],
    sent: [u64; 2],
    told: [u64; 2],
    tls: [bool; 2],
    secured: bool,
    reading: [bool; 2],
    open: bool,
    /// All that went over it, both directions.
    transcript: String,
}

struct World {
    now: Instant,
    nodes: [Node; 2],
    pipes: Vec<Pipe>,
    /// Octets handed over at a time.
    chunk: usize,
    /// What DNS says of every domain.
    targets: Result<Vec<Target>, NotLocated>,
    /// Does a TLS handshake fail?
    breaks_tls: bool,
    /// Is `Drained` told?
    drains: bool,
}

const A: usize = 0;
const B: usize = 1;
const OURS: &str = "a.example";
const THEIRS: &str = "b.example";

/// Which node and listener an address belongs to.
fn place(to: SocketAddr) -> Option<(usize, ListenerId)> {
    let node = match to.ip() {
        ip if ip == address(1, 0).ip() => A,
        ip if ip == address(2, 0).ip() => B,
        _ => return None,
    };
    match to.port() {
        5269 => Some((node, ListenerId(0))),
        5270 => Some((node, ListenerId(1))),
        _ => None,
    }
}

fn starttls_target(host: u8) -> Target {
    Target { transport: Transport::Tcp, address: address(host, 5269) }
}

impl World {
    fn new(a: Partner, b: Partner) -> Self {
        Self::with_settings(
            settings(&[OURS, "a2.example"], a, address(1, 5269), address(1, 5270)),
            settings(&[THEIRS, "b2.example"], b, address(2, 5269), address(2, 5270)),
        )
    }

    fn with_settings(a: Settings, b: Settings) -> Self {
        Self {
            now: Instant::from_millis(1000),
            nodes: [Node::new(&a, 1, named(OURS)), Node::new(&b, 2, named(THEIRS))],
            pipes: Vec::new(),
            chunk: usize::MAX,
            targets: Ok(Vec::new()),
            breaks_tls: false,
            drains: true,
        }
    }

    fn standard() -> Self {
        Self::new(Partner::new(THEIRS), Partner::new(OURS))
    }

    fn dialback() -> Self {
        let only = |domain| Partner { sasl: Requirement::NotSupported, ..Partner::new(domain) };
        Self::new(only(THEIRS), only(OURS))
    }

    fn act(&mut self, node: usize, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Connect(link, to) => self.connect(node, link, to),
                Act::Send(link, bytes) => {
                    if let Some(pipe) = self.pipes.iter_mut().find(|p| p.links[node] == link && p.open) {
                        pipe.transcript += &format!("{node}: {}\n", String::from_utf8_lossy(&bytes));
                        pipe.sent[node] += bytes.len() as u64;
                        pipe.to[1 - node].extend(bytes);
                    }
                }
                Act::Tls(link, ..) => {
                    if let Some(pipe) = self.pipes.iter_mut().find(|p| p.links[node] == link) {
                        pipe.tls[node] = true;
                        pipe.held[node].clear();
                    }
                }
                Act::Close(link, _) => {
                    if let Some(at) = self.pipes.iter().position(|p| p.links[node] == link && p.open) {
                        self.deliver(at, 1 - node);
                        self.cut(at, CloseReason::Peer);
                    }
                }
                Act::Reading(link, on) => {
                    if let Some(pipe) = self.pipes.iter_mut().find(|p| p.links[node] == link) {
                        pipe.reading[node] = on;
                    }
                }
            }
        }
        self.outcomes(node);
    }

    fn connect(&mut self, node: usize, link: LinkId, to: SocketAddr) {
        let Some((other, listener)) = place(to) else {
            let (_, acts) = self.nodes[node].run(self.now, |s, cx| s.closed(cx, link, CloseReason::Refused));
            self.act(node, acts);
            return;
        };
        let accepted = self.nodes[other].out.new_link();
        let mut links = [link; 2];
        links[other] = accepted;
        self.pipes.push(Pipe {
            links,
            to: Default::default(),
            held: Default::default(),
            sent: [0; 2],
            told: [0; 2],
            tls: [false; 2],
            secured: false,
            reading: [true; 2],
            open: true,
            transcript: String::new(),
        });
        let from = address(node as u8 + 1, 40_000);
        let (_, acts) = self.nodes[other].run(self.now, |s, cx| s.accepted(cx, accepted, listener, from));
        self.act(other, acts);
        let (_, acts) = self.nodes[node].run(self.now, |s, cx| s.opened(cx, link));
        self.act(node, acts);
    }

    /// Both ends learn that a connection is gone.
    fn cut(&mut self, at: usize, why: CloseReason) {
        self.pipes[at].open = false;
        let links = self.pipes[at].links;
        for node in [A, B] {
            let (_, acts) = self.nodes[node].run(self.now, |s, cx| s.closed(cx, links[node], why));
            self.act(node, acts);
        }
    }

    fn outcomes(&mut self, node: usize) {
        while let Some(event) = self.nodes[node].server.poll() {
            match event {
                Event::Locate { place, domain, proxy } => {
                    self.nodes[node].events.push(format!("locate {domain} {proxy:?}"));
                    let mut targets = self.targets.clone();
                    if let Some(list) = targets.as_mut().ok().filter(|list| list.is_empty()) {
                        list.push(starttls_target(if domain.starts_with('a') { 1 } else { 2 }));
                    }
                    let (_, acts) = self.nodes[node].run(self.now, |s, cx| {
                        s.located(cx, place, targets.as_deref().map_err(|fault| *fault));
                    });
                    self.act(node, acts);
                }
                Event::Delivered { ticket } => self.nodes[node].events.push(format!("delivered {}", ticket.0.index())),
                Event::Undelivered { ticket, why } => {
                    self.nodes[node].events.push(format!("undelivered {} {why:?}", ticket.0.index()));
                }
                Event::Stanza { .. } => panic!("stanzas come by receive"),
            }
        }
    }

    /// Hands over what is on its way to one node on one pipe.
    fn deliver(&mut self, at: usize, node: usize) -> bool {
        let pipe = &mut self.pipes[at];
        if !pipe.open {
            return false;
        }
        if pipe.tls == [true; 2] && !pipe.secured {
            pipe.secured = true;
            let links = pipe.links;
            if self.breaks_tls {
                self.cut(at, CloseReason::Tls);
                return true;
            }
            for node in [B, A] {
                let certificate = self.nodes[1 - node].certificate.clone();
                let (_, acts) = self.nodes[node].run(self.now, |s, cx| s.secured(cx, links[node], &certificate));
                self.act(node, acts);
            }
            return true;
        }
        let mut moved = false;
        let take = pipe.to[node].len().min(self.chunk);
        let more: Vec<u8> = pipe.to[node].drain(..take).collect();
        if !pipe.reading[node] {
            pipe.held[node].extend(more);
            return take > 0;
        }
        moved |= take > 0;
        pipe.held[node].extend(more);
        loop {
            let pipe = &mut self.pipes[at];
            if pipe.held[node].is_empty() || !pipe.open || !pipe.reading[node] {
                break;
            }
            let mut bytes = core::mem::take(&mut pipe.held[node]);
            let link = pipe.links[node];
            let (used, acts) = self.nodes[node].receive(self.now, link, &mut bytes);
            bytes.drain(..used);
            self.pipes[at].held[node] = bytes;
            self.act(node, acts);
            if used == 0 {
                break;
            }
            moved = true;
        }
        moved
    }

    /// Lets everything happen that needs no time.
    fn settle(&mut self) {
        for _ in 0..200_000 {
            let mut moved = false;
            for at in 0..self.pipes.len() {
                for node in [A, B] {
                    moved |= self.deliver(at, node);
                }
            }
            for at in 0..self.pipes.len() {
                for node in [A, B] {
                    let pipe = &mut self.pipes[at];
                    let is_gone = pipe.to[1 - node].is_empty();
                    if self.drains && pipe.open && is_gone && pipe.told[node] < pipe.sent[node] {
                        pipe.told[node] = pipe.sent[node];
                        let (link, sent) = (pipe.links[node], pipe.sent[node]);
                        let (_, acts) = self.nodes[node].run(self.now, |s, cx| s.drained(cx, link, sent));
                        self.act(node, acts);
                        moved = true;
                    }
                }
            }
            if !moved {
                for node in &self.nodes {
                    node.server.check_invariants();
                }
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Lets time pass.
    fn pass(&mut self, by: Duration) {
        let until = self.now.after(by);
        loop {
            let next = self.nodes.iter().filter_map(|node| node.server.deadline()).min();
            match next.filter(|next| *next <= until) {
                Some(next) => self.now = self.now.max(next),
                None => break,
            }
            for node in [A, B] {
                let (_, acts) = self.nodes[node].run(self.now, |s, cx| s.timeout(cx));
                self.act(node, acts);
            }
            self.settle();
        }
        self.now = until;
    }

    fn send(&mut self, node: usize, from: &str, to: &str, text: &str) -> Result<Ticket, Refused> {
        let (result, acts) = self.nodes[node].send(self.now, from, to, text);
        self.act(node, acts);
        result
    }

    fn say(&mut self, text: &str) {
        self.send(A, "x@a.example", "y@b.example", text).expect("taken");
        self.settle();
    }

    fn transcript(&self) -> String {
        self.pipes.iter().map(|pipe| pipe.transcript.as_str()).collect()
    }
}

impl Server {
    /// What has to hold between two inputs.
    fn check_invariants(&self) {
        let queued: usize = self.routes.iter().map(|(_, route)| route.octets).sum();
        assert_eq!(queued, self.queued_octets);
        for (_, route) in self.routes.iter() {
            let octets: usize = route.queue.iter().map(|stanza| stanza.bytes.len()).sum();
            assert_eq!(octets, route.octets);
            let named = route.carrier.into_iter().chain(match route.stage {
                Stage::Opening(key) | Stage::Ready(key) => Some(key),
                _ => None,
            });
            for key in named {
                assert!(self.streams.get(key).is_some(), "a route names a stream that is gone");
            }
            if let Some(key) = route.carrier {
                let stream = self.streams.get(key).expect("checked");
                assert!(route.is_component() || stream.has_proved(&route.ours, &route.theirs));
            }
        }
        for (key, stream) in self.streams.iter() {
            assert_eq!(self.links.get(&stream.link), Some(&key));
            let unproven = stream.proved.is_empty();
            assert!(!unproven || self.timers.of(timer(key, Timer::Progress)).is_some(), "a stream without a deadline");
        }
        assert_eq!(self.links.len(), self.streams.len());
    }
}

#[test]
fn a_stanza_crosses_with_sasl_external() {
    let mut w = World::standard();
    w.say("hello");
    assert_eq!(w.nodes[B].events, ["message x@a.example > y@b.example hello"]);
    assert_eq!(w.nodes[A].events, ["locate b.example None", "delivered 0"]);
    assert!(w.transcript().contains("<success"), "{}", w.transcript());
    assert!(!w.transcript().contains("<db:result"));
    assert!(w.nodes[B].has_logged(&["xmpp.stream.opened", "proof=EXTERNAL", "direction=in"]));
}

#[test]
fn a_stanza_crosses_with_dialback_and_the_key_is_confirmed_on_another_connection() {
    let mut w = World::dialback();
    w.say("hello");
    assert_eq!(w.nodes[B].events[..2], ["locate a.example None", "message x@a.example > y@b.example hello"]);
    assert!(w.transcript().contains("<db:verify"));
    assert_eq!(w.pipes.len(), 2);
    assert!(!w.pipes[0].transcript.contains("<db:verify"));
    assert_eq!(w.nodes[A].events.last().map(String::as_str), Some("delivered 0"));
}

// ---- Negotiation ------------------------------------------------------------------

const REQUIREMENTS: [Requirement; 3] = [Requirement::Required, Requirement::Optional, Requirement::NotSupported];

/// What a partner's settings lead to with a partner that has everything.
fn way(partner: &Partner) -> &'static str {
    match (partner.may_sasl(), partner.may_dialback_over_tls(), partner.may_dialback_in_the_clear()) {
        (true, _, _) => "proof=EXTERNAL",
        (false, true, _) => "tls=TLSv1.3 certificate=believed proof=dialback",
        (false, false, true) => "tls=none certificate=none proof=dialback",
        (false, false, false) => "",
    }
}

fn rows() -> impl Iterator<Item = (Requirement, Requirement, bool)> {
    REQUIREMENTS.into_iter().flat_map(|tls| {
        REQUIREMENTS.into_iter().flat_map(move |sasl| [true, false].map(|dialback| (tls, sasl, dialback)))
    })
}

fn with(domain: &str, (tls, sasl, dialback): (Requirement, Requirement, bool)) -> Partner {
    Partner { tls, sasl, dialback, ..Partner::new(domain) }
}

#[test]
fn each_of_the_eighteen_rows_of_the_table_negotiates_what_it_allows() {
    let open = (Requirement::Optional, Requirement::Optional, true);
    for row in rows() {
        for ours_is_strict in [true, false] {
            let (a, b) = if ours_is_strict {
                (with(THEIRS, row), with(OURS, open))
            } else {
                (with(THEIRS, open), with(OURS, row))
            };
            let way = way(if ours_is_strict { &a } else { &b });
            let mut w = World::new(a, b);
            w.say("hello");
            w.pass(Duration::from_secs(30));
            let arrived = w.nodes[B].events.iter().any(|event| event.ends_with("hello"));
            assert_eq!(arrived, !way.is_empty(), "{row:?} {ours_is_strict} {}", w.transcript());
            if way.is_empty() {
                assert!(w.nodes[A].events.contains(&"undelivered 0 Refused".into()), "{row:?} {:?}", w.nodes[A].events);
            } else {
                assert!(w.nodes[A].has_logged(&["xmpp.stream.opened", way]), "{row:?} {:?}", w.nodes[A].logs);
            }
        }
    }
}

#[test]
fn two_sides_that_want_different_things_find_what_both_allow_or_nothing() {
    for left in rows() {
        for right in rows() {
            let (a, b) = (with(THEIRS, left), with(OURS, right));
            let possible = (a.may_sasl() && b.may_sasl())
                || (a.may_dialback_over_tls() && b.may_dialback_over_tls())
                || (a.may_dialback_in_the_clear() && b.may_dialback_in_the_clear());
            let must_tls = a.tls == Requirement::Required || b.tls == Requirement::Required;
            let mut w = World::new(a, b);
            w.say("hello");
            w.pass(Duration::from_secs(30));
            let arrived = w.nodes[B].events.iter().any(|event| event.ends_with("hello"));
            assert_eq!(arrived, possible, "{left:?} {right:?} {}", w.transcript());
            let clear = w.nodes[A].has_logged(&["xmpp.stream.opened", "tls=none"]);
            assert!(!(must_tls && clear), "{left:?} {right:?}");
            let told = w.nodes[A].events.iter().any(|event| event.starts_with("undelivered"));
            assert_eq!(told, !arrived, "{left:?} {right:?} {:?}", w.nodes[A].events);
        }
    }
}

#[test]
fn direct_tls_asks_for_the_partner_by_name_and_protocol() {
    let mut w = World::standard();
    w.targets = Ok(vec![Target { transport: Transport::Tls, address: address(2, 5270) }]);
    w.say("hello");
    assert_eq!(w.nodes[B].events, ["message x@a.example > y@b.example hello"]);
    assert!(!w.transcript().contains("<starttls"));
}

#[test]
fn the_next_address_is_tried_when_one_does_not_answer() {
    let mut w = World::standard();
    w.targets = Ok(vec![
        Target { transport: Transport::Tls, address: address(9, 5270) },
        Target { transport: Transport::Tcp, address: address(9, 5269) },
        starttls_target(2),
    ]);
    w.say("hello");
    assert_eq!(w.nodes[B].events, ["message x@a.example > y@b.example hello"]);
}

#[test]
fn what_waits_is_told_when_no_address_answers_and_a_moment_later_it_is_tried_again() {
    let mut w = World::standard();
    w.targets = Ok(vec![starttls_target(9)]);
    w.say("lost");
    assert_eq!(w.nodes[A].events, ["locate b.example None", "undelivered 0 Unreachable"]);
    assert_eq!(w.send(A, "x@a.example", "y@b.example", "again"), Err(Refused::Failed(Undelivered::Unreachable)));
    w.targets = Ok(vec![starttls_target(2)]);
    w.pass(Duration::from_secs(5));
    w.say("found");
    assert_eq!(w.nodes[B].events, ["message x@a.example > y@b.example found"]);
}

#[test]
fn each_fault_of_dns_is_told_as_what_it_is() {
    for (fault, why) in [
        (NotLocated::NoSuchDomain, "NotFound"),
        (NotLocated::NoAnswer, "Timeout"),
        (NotLocated::NoAddress, "Unreachable"),
    ] {
        let mut w = World::standard();
        w.targets = Err(fault);
        w.say("lost");
        assert_eq!(w.nodes[A].events.last(), Some(&format!("undelivered 0 {why}")));
    }
}

#[test]
fn nothing_is_opened_to_a_domain_that_is_no_partner() {
    let mut w = World::standard();
    assert_eq!(w.send(A, "x@a.example", "y@c.example", "hello"), Err(Refused::NotPartner));
    assert_eq!(w.send(A, "x@a.example", "y@a2.example", "hello"), Err(Refused::NotPartner));
    assert!(w.pipes.is_empty());
}

#[test]
fn every_cut_of_the_octets_gives_the_same_conversation() {
    let transcript = |chunk, dialback: bool| {
        let mut w = if dialback { World::dialback() } else { World::standard() };
        w.chunk = chunk;
        w.say("one");
        w.send(B, "y@b.example", "x@a.example", "two").expect("taken");
        w.settle();
        let texts = |node: &Node| -> Vec<String> {
            node.events.iter().filter(|event| event.starts_with("message")).cloned().collect()
        };
        (texts(&w.nodes[A]), texts(&w.nodes[B]))
    };
    for dialback in [false, true] {
        let whole = transcript(usize::MAX, dialback);
        assert_eq!((whole.0.len(), whole.1.len()), (1, 1));
        for chunk in 1..300 {
            assert_eq!(transcript(chunk, dialback), whole, "{chunk}");
        }
    }
}

// ---- Certificates -----------------------------------------------------------------

#[test]
fn each_fault_of_a_certificate_is_named_and_leads_to_dialback_where_that_is_allowed() {
    let faults = [
        (Some(Err(CertificateFault::Expired)), "expired", THEIRS),
        (Some(Err(CertificateFault::NotYetValid)), "not\\x20yet", THEIRS),
        (Some(Err(CertificateFault::UnknownIssuer)), "unknown\\x20CA", THEIRS),
        (Some(Err(CertificateFault::MissingIntermediate)), "intermediate", THEIRS),
        (Some(Ok(())), "wrong\\x20name", "other.example"),
        (None, "no\\x20certificate", ""),
    ];
    for (verdict, words, name) in faults {
        for dialback in [true, false] {
            let mut w = World::new(Partner { dialback, ..Partner::new(THEIRS) }, Partner::new(OURS));
            w.nodes[B].certificate = PeerCertificate { verdict, ..named(name) };
            w.say("hello");
            w.pass(Duration::from_secs(30));
            let arrived = w.nodes[B].events.iter().any(|event| event.ends_with("hello"));
            assert_eq!(arrived, dialback, "{words}");
            if verdict.is_some() || !dialback {
                let line = ["tls.certificate.refused", words, "wanted=b.example", "side=partner"];
                assert!(w.nodes[A].has_logged(&line), "{:?}", w.nodes[A].logs);
            }
            if !dialback {
                assert_eq!(w.nodes[A].events.last(), Some(&"undelivered 0 Refused".into()));
                assert_eq!(w.nodes[A].count.of(Counter::CertificateRefused), 1);
            }
        }
    }
}

#[test]
fn an_initiator_whose_certificate_is_not_believed_is_not_offered_external() {
    let mut w = World::standard();
    w.nodes[A].certificate = PeerCertificate { verdict: Some(Err(CertificateFault::Expired)), ..named(OURS) };
    w.say("hello");
    assert!(w.nodes[B].events.contains(&"message x@a.example > y@b.example hello".into()));
    assert!(!w.pipes[0].transcript.contains("EXTERNAL"));
    assert!(w.nodes[B].has_logged(&["tls.certificate.refused", "partner=a.example", "then=dialback"]));
}

#[test]
fn without_dialback_such_an_initiator_is_refused_and_learns_why() {
    let mut w = World::new(Partner::new(THEIRS), Partner { dialback: false, ..Partner::new(OURS) });
    w.nodes[A].certificate = named("other.example");
    w.say("hello");
    w.pass(Duration::from_secs(30));
    assert!(w.nodes[B].events.is_empty());
    assert!(w.nodes[A].has_logged(&["xmpp.stream.error-received", "not-authorized"]));
    assert_eq!(w.nodes[A].events.last(), Some(&"undelivered 0 Refused".into()));
}

#[test]
fn a_tls_handshake_that_fails_never_leads_to_clear_text() {
    let mut w = World::standard();
    w.breaks_tls = true;
    w.say("hello");
    w.pass(Duration::from_secs(30));
    assert_eq!(w.nodes[A].events.last(), Some(&"undelivered 0 Refused".into()));
    assert!(!w.transcript().contains("hello"));
}

// ---- One server against a script ----------------------------------------------------

/// A server whose peer is played by the test.
struct Script {
    node: Node,
    now: Instant,
    /// What was sent on each link and not looked at yet.
    sent: BTreeMap<LinkId, String>,
    /// All octets given to each link.
    total: BTreeMap<LinkId, u64>,
    connects: Vec<LinkId>,
    closed: Vec<LinkId>,
    tls: Vec<(LinkId, String, &'static str)>,
    reading: Vec<bool>,
}

const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' \
    xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback' ";
const FROM_B: &str = "from='b.example' to='a.example' version='1.0'>";
/// What an answerer says in TLS, with features to fill in.
const ANSWER_B: &str = "from='b.example' to='a.example' id='s1' version='1.0' xml:lang='de'><stream:features>";

impl Script {
    fn new(partner: Partner) -> Self {
        Self::with(settings(&[OURS, "a2.example"], partner, address(1, 5269), address(1, 5270)))
    }

    fn with(settings: Settings) -> Self {
        Self {
            node: Node::new(&settings, 1, named(OURS)),
            now: Instant::from_millis(1000),
            sent: BTreeMap::new(),
            total: BTreeMap::new(),
            connects: Vec::new(),
            closed: Vec::new(),
            tls: Vec::new(),
            reading: Vec::new(),
        }
    }

    fn act(&mut self, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Send(link, bytes) => {
                    *self.total.entry(link).or_default() += bytes.len() as u64;
                    self.sent.entry(link).or_default().push_str(&String::from_utf8(bytes).expect("text"));
                }
                Act::Connect(link, _) => self.connects.push(link),
                Act::Tls(link, name, alpn) => self.tls.push((link, name, alpn)),
                Act::Close(link, _) => self.closed.push(link),
                Act::Reading(_, on) => self.reading.push(on),
            }
        }
        while let Some(event) = self.node.server.poll() {
            match event {
                Event::Locate { place, .. } => {
                    let (_, acts) = self.node.run(self.now, |s, cx| s.located(cx, place, Ok(&[starttls_target(2)])));
                    self.act(acts);
                }
                Event::Delivered { ticket } => self.node.events.push(format!("delivered {}", ticket.0.index())),
                Event::Undelivered { ticket, why } => {
                    self.node.events.push(format!("undelivered {} {why:?}", ticket.0.index()));
                }
                Event::Stanza { .. } => panic!("stanzas come by receive"),
            }
        }
        self.node.server.check_invariants();
    }

    fn run(&mut self, run: impl FnOnce(&mut Server, &mut Cx<'_>)) {
        let ((), acts) = self.node.run(self.now, run);
        self.act(acts);
    }

    /// The peer says something; gives what it is answered on the same link.
    fn says(&mut self, link: LinkId, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        while !bytes.is_empty() {
            let (used, acts) = self.node.receive(self.now, link, &mut bytes);
            bytes.drain(..used);
            self.act(acts);
            if used == 0 {
                break;
            }
        }
        self.answer(link)
    }

    fn answer(&mut self, link: LinkId) -> String {
        self.sent.remove(&link).unwrap_or_default()
    }

    fn accepted(&mut self) -> LinkId {
        let link = self.node.out.new_link();
        self.run(|s, cx| s.accepted(cx, link, ListenerId(0), address(2, 40_000)));
        link
    }

    fn secured(&mut self, link: LinkId, certificate: &PeerCertificate) {
        self.run(|s, cx| s.secured(cx, link, certificate));
    }

    /// A stream of the peer's that is encrypted and has its features.
    fn inbound(&mut self, certificate: &PeerCertificate) -> (LinkId, String) {
        let link = self.accepted();
        self.says(link, &format!("{HEADER}{FROM_B}"));
        assert_eq!(
            self.says(link, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"),
            "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
        );
        self.secured(link, certificate);
        let answer = self.says(link, &format!("{HEADER}{FROM_B}"));
        (link, answer)
    }

    /// A stream of the peer's that SASL EXTERNAL proved; `before` goes before it.
    fn proved(&mut self, before: &str) -> LinkId {
        let (link, features) = self.inbound(&named(THEIRS));
        assert!(features.contains("EXTERNAL"), "{features}");
        self.says(link, before);
        let answer = self.says(link, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>");
        assert!(answer.contains("<success"), "{answer}");
        let answer = self.says(link, &format!("{HEADER}{FROM_B}"));
        assert!(answer.contains("<sm xmlns"), "{answer}");
        link
    }

    /// A stream of ours that is up to the features in TLS, which are `features`.
    fn outbound(&mut self, features: &str) -> LinkId {
        let link = *self.connects.last().expect("a connection");
        self.run(|s, cx| s.opened(cx, link));
        assert!(self.answer(link).contains("to='b.example'"));
        let tls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>";
        assert!(self.says(link, &format!("{HEADER}{ANSWER_B}{tls}")).contains("<starttls"));
        self.says(link, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        self.secured(link, &named(THEIRS));
        assert!(self.answer(link).contains("<stream:stream"));
        let text = format!("{HEADER}{ANSWER_B}{features}</stream:features>");
        let mut bytes = text.into_bytes();
        while !bytes.is_empty() {
            let (used, acts) = self.node.receive(self.now, link, &mut bytes);
            bytes.drain(..used);
            self.act(acts);
        }
        link
    }

    /// A stream of ours that SASL EXTERNAL proved, with these features behind it.
    fn outbound_proved(&mut self, before: &str, features: &str) -> LinkId {
        let link = self.outbound(&format!("{EXTERNAL}{before}"));
        assert!(self.answer(link).contains("<auth"));
        let answer = self.says(link, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
        assert!(answer.contains("<stream:stream"), "{answer}");
        let answer = self.says(link, &format!("{HEADER}{ANSWER_B}{features}</stream:features>"));
        self.sent.insert(link, answer);
        link
    }

    fn send(&mut self, text: &str) -> Result<Ticket, Refused> {
        let (result, acts) = self.node.send(self.now, "x@a.example", "y@b.example", text);
        self.act(acts);
        result
    }

    fn pass(&mut self, by: Duration) {
        let until = self.now.after(by);
        while let Some(next) = self.node.server.deadline().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.run(|s, cx| s.timeout(cx));
        }
        self.now = until;
    }

    fn drained(&mut self, link: LinkId) {
        let sent = self.total.get(&link).copied().unwrap_or_default();
        self.run(|s, cx| s.drained(cx, link, sent));
    }

    fn is_closed(&self, link: LinkId) -> bool {
        self.closed.contains(&link)
    }
}

const EXTERNAL: &str =
    "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>";
const DIALBACK: &str = "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>";
const BIDI: &str = "<bidi xmlns='urn:xmpp:features:bidi'/>";
const SM: &str = "<sm xmlns='urn:xmpp:sm:3'/>";

fn message(from: &str, to: &str, text: &str) -> String {
    format!("<message from='{from}' to='{to}' id='1'><body>{text}</body></message>")
}

#[test]
fn a_proved_stream_passes_stanzas_of_its_pair_and_no_others() {
    let cases = [
        ("y@b.example", "x@a.example", ""),
        ("Y@B.Example/r", "x@A.example.", ""),
        ("b.example", "a.example", ""),
        ("y@c.example", "x@a.example", "invalid-from"),
        ("y@sub.b.example", "x@a.example", "invalid-from"),
        ("y@a.example", "x@a.example", "invalid-from"),
        ("a2.example", "x@a.example", "invalid-from"),
        ("y@xb.example", "x@a.example", "invalid-from"),
        ("y@b.example", "x@a2.example", "invalid-from"),
        ("y@c.example", "x@d.example", "host-unknown"),
        ("", "x@a.example", "improper-addressing"),
    ];
    for (from, to, error) in cases {
        let mut s = Script::new(Partner::new(THEIRS));
        let link = s.proved("");
        let answer = s.says(link, &message(from, to, "hello"));
        assert_eq!(s.node.events.len(), usize::from(error.is_empty()), "{from} {to} {answer}");
        assert!(answer.contains(error), "{from} {to} {answer}");
        assert_eq!(s.is_closed(link), !error.is_empty());
    }
}

#[test]
fn a_stanza_that_strays_to_a_domain_not_served_is_answered() {
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("<bidi xmlns='urn:xmpp:bidi'/>");
    let answer = s.says(link, &message("y@b.example", "x@c.example", "hello"));
    assert!(answer.contains("remote-server-not-found") && !s.is_closed(link), "{answer}");
    assert!(s.node.events.is_empty());
}

#[test]
fn a_stanza_without_from_or_to_ends_the_stream() {
    for stanza in ["<message to='x@a.example'/>", "<message from='y@b.example'/>", "<iq type='get' id='1'/>"] {
        let mut s = Script::new(Partner::new(THEIRS));
        let link = s.proved("");
        assert!(s.says(link, stanza).contains("improper-addressing"), "{stanza}");
        assert!(s.is_closed(link));
    }
}

#[test]
fn a_malformed_local_part_is_answered_and_the_stream_goes_on() {
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("<bidi xmlns='urn:xmpp:bidi'/>");
    let answer = s.says(link, &message("y@b.example", "a b&amp;c@a.example", "hello"));
    assert!(answer.contains("jid-malformed") && answer.contains("type='error'"), "{answer}");
    assert!(s.node.events.is_empty() && !s.is_closed(link));
}

#[test]
fn nothing_passes_before_authentication() {
    let mut s = Script::new(Partner::new(THEIRS));
    let (link, _) = s.inbound(&named(THEIRS));
    assert!(s.says(link, &message("y@b.example", "x@a.example", "hello")).contains("not-authorized"));
    let link = s.accepted();
    s.says(link, &format!("{HEADER}{FROM_B}"));
    assert!(s.says(link, &message("y@b.example", "x@a.example", "hello")).contains("not-authorized"));
    assert!(s.node.events.is_empty());
}

#[test]
fn headers_that_ask_for_the_wrong_thing_are_answered_with_a_header_and_an_error() {
    let with = |rest: &str| format!("{HEADER}{rest}");
    let cases = [
        (with("from='b.example' to='c.example' version='1.0'>"), "host-unknown"),
        (with("from='b.example' version='1.0'>"), "improper-addressing"),
        (with("from='b.example' to='x@a.example' version='1.0'>"), "improper-addressing"),
        (with("from='y@b.example' to='a.example' version='1.0'>"), "improper-addressing"),
        (with("from='a2.example' to='a.example' version='1.0'>"), "invalid-from"),
        (with("from='a.example' to='a.example' version='1.0'>"), "invalid-from"),
        (with("from='b.example' to='a.example' version='abc'>"), "unsupported-version"),
        (with("from='b.example' to='a.example'>"), "unsupported-version"),
        (HEADER.replace("jabber:server'", "jabber:client'") + FROM_B, "invalid-namespace"),
        (HEADER.replace("etherx", "other") + FROM_B, "invalid-namespace"),
        ("<!DOCTYPE a>".into(), "restricted-xml"),
        ("GET / HTTP/1.1\r\n".into(), "not-well-formed"),
        (HEADER.replace("UTF", "") + "from='b.example' to='a.example' x:y='1' version='1.0'>", "bad-namespace-prefix"),
    ];
    for (header, error) in cases {
        let mut s = Script::new(Partner::new(THEIRS));
        let link = s.accepted();
        let answer = s.says(link, &header);
        assert!(answer.starts_with("<?xml version='1.0'?><stream:stream"), "{header} {answer}");
        assert!(answer.contains(error), "{header} {answer}");
        assert!(answer.ends_with("</stream:error></stream:stream>"), "{answer}");
        assert!(s.is_closed(link), "{header}");
    }
}

#[test]
fn stream_ids_differ() {
    let mut s = Script::new(Partner::new(THEIRS));
    let mut ids = Vec::new();
    for _ in 0..20 {
        let link = s.accepted();
        let answer = s.says(link, &format!("{HEADER}{FROM_B}"));
        let id = answer.split(" id='").nth(1).and_then(|rest| rest.split('\'').next()).expect("an id");
        assert!(id.len() >= 20);
        ids.push(id.to_owned());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

#[test]
fn clear_text_behind_starttls_is_never_read() {
    let starttls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.accepted();
    s.says(link, &format!("{HEADER}{FROM_B}"));
    s.says(link, &format!("{starttls}{HEADER}{FROM_B}"));
    assert!(s.is_closed(link));
    assert!(s.node.has_logged(&["xmpp.starttls.injection"]));
    let link = s.accepted();
    s.says(link, &format!("{HEADER}{FROM_B}"));
    s.says(link, &format!("{starttls}\n "));
    assert!(!s.is_closed(link));
    s.send("hello").expect("taken");
    let link = s.connects[0];
    s.run(|s, cx| s.opened(cx, link));
    s.says(link, &format!("{HEADER}{ANSWER_B}{starttls}</stream:features>"));
    s.says(link, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><stream:features/>");
    assert!(s.is_closed(link));
}

#[test]
fn starttls_cannot_come_twice_or_inside_of_tls() {
    let mut s = Script::new(Partner::new(THEIRS));
    let (link, features) = s.inbound(&named(THEIRS));
    assert!(!features.contains("<starttls"));
    let answer = s.says(link, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert!(answer.contains("<failure") && s.is_closed(link), "{answer}");
}

#[test]
fn compression_is_not_offered_and_refused() {
    let mut s = Script::new(Partner::new(THEIRS));
    let (link, features) = s.inbound(&named(THEIRS));
    assert!(!features.contains("compress"));
    let ask = "<compress xmlns='http://jabber.org/protocol/compress'><method>zlib</method></compress>";
    assert!(s.says(link, ask).contains("<failure xmlns='http://jabber.org/protocol/compress'>"));
}

#[test]
fn each_mistake_of_external_is_refused_with_its_condition() {
    let auth =
        |text: &str| format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{text}</auth>");
    let other = Base64::encode_string(b"c.example");
    let huge = "A".repeat(4096);
    let cases = [
        (auth(""), "malformed-request"),
        (auth(&other), "invalid-authzid"),
        (auth("%%%"), "incorrect-encoding"),
        (auth("/w=="), "incorrect-encoding"),
        (auth(&huge), "malformed-request"),
        (auth("=").replace("EXTERNAL", "PLAIN"), "invalid-mechanism"),
        ("<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".into(), "aborted"),
        ("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".into(), "malformed-request"),
    ];
    for (request, condition) in cases {
        let mut s = Script::new(Partner::new(THEIRS));
        let (link, _) = s.inbound(&named(THEIRS));
        let answer = s.says(link, &request);
        assert!(answer.contains(condition) && answer.contains("<failure"), "{request} {answer}");
        assert!(!s.is_closed(link), "dialback may follow");
        // A second attempt may go well.
        assert!(s.says(link, &auth(&Base64::encode_string(b"B.example"))).contains("<success"));
    }
    let mut s = Script::new(Partner::new(THEIRS));
    let (link, _) = s.inbound(&named(THEIRS));
    for _ in 0..3 {
        s.says(link, &auth(&other));
    }
    assert!(s.is_closed(link), "no guessing without end");
}

#[test]
fn external_is_not_taken_where_it_was_not_offered() {
    let auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>";
    let mut s = Script::new(Partner::new(THEIRS));
    let (link, features) = s.inbound(&named("c.example"));
    assert!(!features.contains("EXTERNAL"));
    assert!(s.says(link, auth).contains("not-authorized"));
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.accepted();
    s.says(link, &format!("{HEADER}{FROM_B}"));
    assert!(s.says(link, auth).contains("encryption-required"));
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("");
    assert!(s.says(link, auth).contains("not-authorized"), "not twice");
}

#[test]
fn after_authentication_the_addresses_of_the_stream_stay() {
    let auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>";
    for (header, error) in [
        ("from='c.example' to='a.example' version='1.0'>", "invalid-from"),
        ("from='b.example' to='a2.example' version='1.0'>", "improper-addressing"),
        ("version='1.0'>", ""),
    ] {
        let mut s = Script::new(Partner::new(THEIRS));
        let (link, _) = s.inbound(&named(THEIRS));
        s.says(link, auth);
        let answer = s.says(link, &format!("{HEADER}{header}"));
        assert!(answer.contains(error), "{answer}");
        assert_eq!(s.is_closed(link), !error.is_empty());
    }
}

// ---- Dialback -----------------------------------------------------------------------

fn clear_partner(domain: &str) -> Partner {
    Partner { tls: Requirement::NotSupported, sasl: Requirement::NotSupported, ..Partner::new(domain) }
}

/// A stream of the peer's in the clear, from a server older than XMPP 1.0.
fn legacy(s: &mut Script) -> LinkId {
    let link = s.accepted();
    let answer = s.says(link, &format!("{HEADER}>"));
    assert!(!answer.contains("features") && !answer.contains("version='1.0' ") && answer.contains(" id='"), "{answer}");
    link
}

fn id_of(answer: &str) -> String {
    answer.split(" id='").nth(1).and_then(|rest| rest.split('\'').next()).expect("an id").to_owned()
}

/// Opens our stream to b.example for a key that is to be confirmed; gives it and the id
/// that was asked about.
fn asked(s: &mut Script) -> (LinkId, String) {
    let link = *s.connects.last().expect("a connection to the authoritative server");
    s.run(|s, cx| s.opened(cx, link));
    s.answer(link);
    let answer = s.says(link, &format!("{HEADER}from='b.example' to='a.example' id='s9'>"));
    assert!(answer.contains("<db:verify"), "{answer}");
    (link, id_of(&answer))
}

const RESULT: &str = "<db:result from='b.example' to='a.example'>abc</db:result>";

#[test]
fn a_server_older_than_xmpp_1_0_proves_itself_by_dialback_where_that_is_allowed() {
    let mut s = Script::new(clear_partner(THEIRS));
    let link = legacy(&mut s);
    assert_eq!(s.says(link, RESULT), "");
    let (on, id) = asked(&mut s);
    let verdict = format!("<db:verify from='b.example' to='a.example' id='{id}' type='valid'/>");
    s.says(on, &verdict);
    assert_eq!(s.answer(link), "<db:result from='a.example' to='b.example' type='valid'/>");
    s.says(link, &message("y@b.example", "x@a.example", "hello"));
    assert_eq!(s.node.events, ["message y@b.example > x@a.example hello"]);
}

#[test]
fn our_stream_to_such_a_server_begins_with_the_key() {
    let mut s = Script::new(clear_partner(THEIRS));
    s.send("hello").expect("taken");
    let link = s.connects[0];
    s.run(|s, cx| s.opened(cx, link));
    s.answer(link);
    let answer = s.says(link, &format!("{HEADER}id='s1'>"));
    assert!(answer.starts_with("<db:result from='a.example' to='b.example'>"), "{answer}");
    let answer = s.says(link, "<db:result from='b.example' to='a.example' type='valid'/>");
    assert!(answer.contains("<body>hello</body>"), "{answer}");
    s.drained(link);
    assert_eq!(s.node.events, ["delivered 0"]);
}

#[test]
fn verdicts_nobody_asked_for_prove_nothing() {
    let mut s = Script::new(clear_partner(THEIRS));
    let link = legacy(&mut s);
    s.says(link, RESULT);
    let (on, id) = asked(&mut s);
    let verdict =
        |from: &str, to: &str, id: &str| format!("<db:verify from='{from}' to='{to}' id='{id}' type='valid'/>");
    for forged in [
        verdict("b.example", "a.example", "other"),
        verdict("a.example", "b.example", &id),
        verdict("c.example", "a.example", &id),
        verdict("b.example", "a2.example", &id),
        "<db:result from='b.example' to='a.example' type='valid'/>".into(),
        "<db:result from='b.example' to='a2.example' type='valid'/>".into(),
        "<db:result from='b.example' to='a.example'>key</db:result>".into(),
        "<db:verify from='b.example' to='a.example'/>".into(),
    ] {
        s.says(on, &forged);
        assert_eq!(s.answer(link), "", "{forged}");
    }
    // On the stream of the one who wants in.
    for forged in [verdict("b.example", "a.example", &id), RESULT.replace("'>abc<", "' type='valid'>abc<")] {
        assert_eq!(s.says(link, &forged), "", "{forged}");
    }
    assert!(s.node.count.of(Counter::DialbackInvalid) >= 10);
    assert!(s.says(link, &message("y@b.example", "x@a.example", "in")).contains("not-authorized"));
    assert!(s.node.events.is_empty());
}

#[test]
fn a_key_that_is_not_confirmed_lets_nothing_pass() {
    for (type_, error) in [("invalid", "type='invalid'"), ("error", "remote-server-not-found")] {
        let mut s = Script::new(clear_partner(THEIRS));
        let link = legacy(&mut s);
        s.says(link, RESULT);
        let (on, id) = asked(&mut s);
        s.says(on, &format!("<db:verify from='b.example' to='a.example' id='{id}' type='{type_}'/>"));
        assert!(s.answer(link).contains(error), "{type_}");
        assert_eq!(s.is_closed(link), type_ == "invalid");
        if type_ == "error" {
            assert!(s.says(link, &message("y@b.example", "x@a.example", "in")).contains("not-authorized"));
        }
        assert!(s.node.events.is_empty());
    }
}

#[test]
fn keys_for_domains_that_are_not_ours_or_are_ours_are_refused() {
    let mut s = Script::new(clear_partner(THEIRS));
    let link = legacy(&mut s);
    let answer = s.says(link, &RESULT.replace("to='a.example'", "to='c.example'"));
    assert!(answer.contains("item-not-found") && answer.contains("type='error'"), "{answer}");
    assert!(s.connects.is_empty());
    let answer = s.says(link, &RESULT.replace("from='b.example'", "from='a2.example'"));
    assert!(answer.contains("invalid-from") && s.is_closed(link), "{answer}");
    let link = legacy(&mut s);
    assert!(s.says(link, "<db:result to='a.example'>k</db:result>").contains("improper-addressing"));
}

#[test]
fn dialback_is_not_taken_where_the_settings_forbid_it() {
    let strict = Partner { sasl: Requirement::Required, ..Partner::new(THEIRS) };
    let mut s = Script::new(strict);
    let (link, features) = s.inbound(&named(THEIRS));
    assert!(!features.contains("<dialback"));
    assert!(s.says(link, RESULT).contains("policy-violation"));
    // A stranger in the clear, on a gateway that takes clear text of another partner.
    let mut s = Script::new(clear_partner(THEIRS));
    let link = legacy(&mut s);
    assert!(s.says(link, &RESULT.replace("b.example", "c.example")).contains("policy-violation"));
    assert!(s.connects.is_empty());
}

#[test]
fn an_authoritative_server_that_keeps_silent_is_waited_for_thirty_seconds() {
    let mut s = Script::new(clear_partner(THEIRS));
    let link = legacy(&mut s);
    s.says(link, RESULT);
    let (on, _) = asked(&mut s);
    s.pass(Duration::from_secs(29));
    assert_eq!(s.answer(link), "");
    s.pass(Duration::from_secs(2));
    assert!(s.answer(link).contains("remote-server-timeout"));
    assert!(s.is_closed(on));
}

#[test]
fn an_authoritative_server_that_is_gone_is_asked_once_more() {
    let mut s = Script::new(clear_partner(THEIRS));
    let link = legacy(&mut s);
    s.says(link, RESULT);
    let (on, _) = asked(&mut s);
    s.run(|s, cx| s.closed(cx, on, CloseReason::Reset));
    assert_eq!(s.connects.len(), 2);
    let (on, _) = asked(&mut s);
    s.run(|s, cx| s.closed(cx, on, CloseReason::Reset));
    assert!(s.answer(link).contains("remote-server-timeout"));
    assert_eq!(s.connects.len(), 2);
}

#[test]
fn we_confirm_our_own_keys_and_no_others() {
    let mut s = Script::new(clear_partner(THEIRS));
    s.send("hello").expect("taken");
    let out = s.connects[0];
    s.run(|s, cx| s.opened(cx, out));
    s.answer(out);
    let shown = s.says(out, &format!("{HEADER}id='s1'>"));
    let key = shown.split('>').nth(1).and_then(|rest| rest.split('<').next()).expect("a key").to_owned();
    let link = legacy(&mut s);
    let verify = |from: &str, to: &str, id: &str, key: &str| {
        format!("<db:verify from='{from}' to='{to}' id='{id}'>{key}</db:verify>")
    };
    let right = s.says(link, &verify("b.example", "a.example", "s1", &key));
    assert_eq!(right, "<db:verify from='a.example' to='b.example' id='s1' type='valid'/>");
    for wrong in [
        verify("b.example", "a.example", "s2", &key),
        verify("c.example", "a.example", "s1", &key),
        verify("b.example", "a2.example", "s1", &key),
        verify("b.example", "a.example", "s1", &key.replace(char::is_numeric, "0")),
    ] {
        assert!(s.says(link, &wrong).contains("type='invalid'"), "{wrong}");
    }
    assert!(s.says(link, &verify("b.example", "c.example", "s1", &key)).contains("item-not-found"));
    // It is no way in.
    assert!(s.says(link, &message("y@b.example", "x@a.example", "in")).contains("not-authorized"));
}

#[test]
fn further_pairs_are_proved_on_a_stream_up_to_a_limit() {
    let partner = Partner { additional_domains: vec!["b3.example".into()], ..clear_partner(THEIRS) };
    let mut s = Script::new(partner);
    let link = legacy(&mut s);
    s.says(link, RESULT);
    let (on, id) = asked(&mut s);
    s.says(on, &format!("<db:verify from='b.example' to='a.example' id='{id}' type='valid'/>"));
    s.answer(link);
    // A second pair fails and takes nothing from the first.
    s.says(link, &RESULT.replace("'b.example'", "'b3.example'"));
    let on = *s.connects.last().expect("a connection");
    s.run(|s, cx| s.opened(cx, on));
    s.says(on, &format!("{HEADER}id='s9'>"));
    s.says(on, &format!("<db:verify from='b3.example' to='a.example' id='{id}' type='invalid'/>"));
    assert_eq!(s.answer(link), "<db:result from='a.example' to='b3.example' type='invalid'/>");
    assert!(!s.is_closed(link));
    s.says(link, &message("y@b.example", "x@a.example", "still"));
    assert_eq!(s.node.events, ["message y@b.example > x@a.example still"]);
    assert!(s.says(link, &message("y@b3.example", "x@a.example", "in")).contains("invalid-from"));
    // A thousand at once.
    let mut s = Script::new(clear_partner(THEIRS));
    let link = legacy(&mut s);
    for n in 0..1000 {
        s.says(
            link,
            &RESULT.replace("to='a.example'", "to='a2.example'").replace(
                "from='b.example'",
                &format!("from='{}'", if n % 2 == 0 { "b.example".into() } else { format!("c{n}.example") }),
            ),
        );
    }
    assert!(s.node.server.verifications.len() <= limits::VERIFICATIONS_PER_STREAM_MAX);
}

#[test]
fn a_second_domain_of_ours_joins_a_stream_that_dialback_proved() {
    let mut w = World::dialback();
    w.say("one");
    let pipes = w.pipes.len();
    w.send(A, "x@a2.example", "y@b.example", "two").expect("taken");
    w.settle();
    assert!(w.nodes[B].events.contains(&"message x@a2.example > y@b.example two".into()), "{:?}", w.nodes[B].events);
    // One more connection: b.example asks the server of a2.example about its key.
    assert_eq!(w.pipes.len(), pipes + 1);
    let mut w = World::standard();
    w.say("one");
    w.send(A, "x@a2.example", "y@b.example", "two").expect("taken");
    w.settle();
    assert!(!w.pipes[0].transcript.contains("<db:result"), "a stream that a certificate proved is left alone");
}

// ---- Acknowledgements ---------------------------------------------------------------

#[test]
fn a_stanza_is_delivered_once_the_partner_acknowledges_it() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound_proved("", SM);
    assert_eq!(s.answer(link), "<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
    let answer = s.says(link, "<enabled xmlns='urn:xmpp:sm:3'/>");
    assert!(answer.ends_with("</message><r xmlns='urn:xmpp:sm:3'/>"), "{answer}");
    s.drained(link);
    assert!(s.node.events.is_empty());
    s.says(link, "<a xmlns='urn:xmpp:sm:3' h='1'/>");
    assert_eq!(s.node.events, ["delivered 0"]);
}

#[test]
fn a_partner_that_refuses_acknowledgements_gets_stanzas_all_the_same() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound_proved("", SM);
    s.answer(link);
    let failed = "<failed xmlns='urn:xmpp:sm:3'><feature-not-implemented \
        xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>";
    assert!(s.says(link, failed).contains("hello"));
    s.drained(link);
    assert_eq!(s.node.events, ["delivered 0"]);
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_ends_the_stream() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound_proved("", SM);
    s.says(link, "<enabled xmlns='urn:xmpp:sm:3'/>");
    let answer = s.says(link, "<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert!(answer.contains("undefined-condition") && answer.contains("<handled-count-too-high"), "{answer}");
    assert_eq!(s.node.events, ["undelivered 0 StreamLost"]);
}

#[test]
fn without_an_acknowledgement_in_thirty_seconds_the_stream_is_dead() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound_proved("", SM);
    s.says(link, "<enabled xmlns='urn:xmpp:sm:3'/>");
    s.pass(Duration::from_secs(29));
    assert!(!s.is_closed(link));
    s.pass(Duration::from_secs(2));
    assert!(s.is_closed(link));
    assert_eq!(s.node.events, ["undelivered 0 StreamLost"]);
    assert_eq!(s.connects.len(), 1, "what may have arrived is not sent again");
}

#[test]
fn octets_that_do_not_leave_in_thirty_seconds_are_not_delivered() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound_proved("", "");
    s.pass(Duration::from_secs(31));
    assert!(s.is_closed(link));
    assert_eq!(s.node.events, ["undelivered 0 StreamLost"]);
}

#[test]
fn a_resumed_stream_gets_what_it_did_not_have_and_nothing_twice() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("one").expect("taken");
    let link = s.outbound_proved("", SM);
    s.says(link, "<enabled xmlns='urn:xmpp:sm:3' resume='true' id='r1' max='300'/>");
    s.send("two").expect("taken");
    s.run(|s, cx| s.closed(cx, link, CloseReason::Reset));
    assert!(s.node.events.is_empty());
    s.send("three").expect("taken");
    let link = s.outbound_proved("", SM);
    assert_eq!(s.answer(link), "<resume xmlns='urn:xmpp:sm:3' previd='r1' h='0'/>");
    let answer = s.says(link, "<resumed xmlns='urn:xmpp:sm:3' previd='r1' h='1'/>");
    assert_eq!(s.node.events, ["delivered 0"]);
    assert!(!answer.contains(">one<"), "{answer}");
    let (two, three) = (answer.find(">two<").expect("two"), answer.find(">three<").expect("three"));
    assert!(two < three && answer.matches("<delay xmlns='urn:xmpp:delay'").count() == 1, "{answer}");
    s.says(link, "<a xmlns='urn:xmpp:sm:3' h='3'/>");
    assert_eq!(s.node.events, ["delivered 0", "delivered 1", "delivered 2"]);
}

#[test]
fn a_stream_that_cannot_be_resumed_gets_again_only_what_it_says_it_does_not_have() {
    for (failed, again) in [("<failed xmlns='urn:xmpp:sm:3' h='1'>", true), ("<failed xmlns='urn:xmpp:sm:3'>", false)] {
        let mut s = Script::new(Partner::new(THEIRS));
        s.send("one").expect("taken");
        let link = s.outbound_proved("", SM);
        s.says(link, "<enabled xmlns='urn:xmpp:sm:3' resume='1' id='r1'/>");
        s.send("two").expect("taken");
        s.run(|s, cx| s.closed(cx, link, CloseReason::Reset));
        let link = s.outbound_proved("", SM);
        s.answer(link);
        let condition = "<item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>";
        assert_eq!(s.says(link, &format!("{failed}{condition}")), "<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
        let answer = s.says(link, "<enabled xmlns='urn:xmpp:sm:3'/>");
        assert_eq!(answer.contains(">two<") && answer.contains("<delay"), again, "{answer}");
        let events: &[&str] =
            if again { &["delivered 0"] } else { &["undelivered 1 StreamLost", "undelivered 0 StreamLost"] };
        assert_eq!(s.node.events, events);
    }
}

#[test]
fn what_is_not_resumed_in_time_is_told_and_never_sent_again() {
    for late in [false, true] {
        let mut s = Script::new(Partner::new(THEIRS));
        s.send("one").expect("taken");
        let link = s.outbound_proved("", SM);
        s.says(link, "<enabled xmlns='urn:xmpp:sm:3' resume='true' id='r1' max='10'/>");
        s.run(|s, cx| s.closed(cx, link, CloseReason::Reset));
        let link = s.outbound(EXTERNAL);
        s.says(link, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
        if !late {
            s.pass(Duration::from_secs(11));
        }
        let answer = s.says(link, &format!("{HEADER}{ANSWER_B}{SM}</stream:features>"));
        assert_eq!(answer.contains("<resume"), late, "{answer}");
        s.pass(Duration::from_secs(11));
        assert_eq!(s.node.events, ["undelivered 0 StreamLost"]);
        let answer = s.says(link, "<resumed xmlns='urn:xmpp:sm:3' previd='r1' h='0'/>");
        assert!(!answer.contains(">one<") && s.is_closed(link), "{answer}");
        assert_eq!(s.node.events.len(), 1);
    }
}

#[test]
fn what_came_is_acknowledged_in_order_once_it_is_handled() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.node.handles_at_once = false;
    let link = s.proved("");
    assert_eq!(s.says(link, "<enable xmlns='urn:xmpp:sm:3' resume='true'/>"), "<enabled xmlns='urn:xmpp:sm:3'/>");
    assert!(s.says(link, "<enable xmlns='urn:xmpp:sm:3'/>").contains("unexpected-request"));
    for text in ["one", "two"] {
        s.says(link, &message("y@b.example", "x@a.example", text));
    }
    assert_eq!(s.says(link, "<r xmlns='urn:xmpp:sm:3'/>"), "<a xmlns='urn:xmpp:sm:3' h='0'/>");
    let handles = core::mem::take(&mut s.node.handles);
    s.run(|s, cx| s.handled(cx, handles[1]));
    assert_eq!(s.answer(link), "");
    s.run(|s, cx| s.handled(cx, handles[0]));
    assert_eq!(s.answer(link), "<a xmlns='urn:xmpp:sm:3' h='2'/>", "the answer that was owed");
    s.run(|s, cx| s.handled(cx, handles[0]));
    assert_eq!(s.says(link, "<r xmlns='urn:xmpp:sm:3'/>"), "<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert!(s.says(link, "<resume xmlns='urn:xmpp:sm:3' previd='x' h='1'/>").contains("item-not-found"));
}

#[test]
fn reading_stops_while_too_much_is_not_handled() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.node.handles_at_once = false;
    let link = s.proved("");
    s.says(link, "<enable xmlns='urn:xmpp:sm:3'/>");
    for n in 0..limits::STREAM_UNHANDLED_MAX + 5 {
        s.says(link, &message("y@b.example", "x@a.example", &n.to_string()));
    }
    assert_eq!(s.node.events.len(), limits::STREAM_UNHANDLED_MAX);
    assert_eq!(s.reading, [false]);
    let handle = s.node.handles.remove(0);
    s.run(|s, cx| s.handled(cx, handle));
    assert_eq!(s.reading, [false, true]);
    s.says(link, &message("y@b.example", "x@a.example", "more"));
    assert_eq!(s.node.events.len(), limits::STREAM_UNHANDLED_MAX + 1);
}

#[test]
fn acknowledgements_before_authentication_end_the_stream() {
    let mut s = Script::new(Partner::new(THEIRS));
    let (link, features) = s.inbound(&named(THEIRS));
    assert!(!features.contains("urn:xmpp:sm:3"));
    assert!(s.says(link, "<enable xmlns='urn:xmpp:sm:3'/>").contains("not-authorized"));
}

// ---- Both ways on one stream ----------------------------------------------------------

#[test]
fn an_answer_goes_back_on_a_stream_that_goes_both_ways() {
    let mut w = World::standard();
    w.say("one");
    w.send(B, "y@b.example", "x@a.example", "two").expect("taken");
    w.settle();
    assert_eq!(w.pipes.len(), 1);
    assert!(w.nodes[A].events.contains(&"message y@b.example > x@a.example two".into()));
    assert!(w.nodes[B].events.contains(&"delivered 0".into()));
}

#[test]
fn an_answerer_that_was_not_asked_sends_nothing_back_on_the_stream() {
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("");
    s.send("hello").expect("taken");
    assert_eq!(s.connects.len(), 1);
    assert_eq!(s.answer(link), "");
}

#[test]
fn bidi_is_not_asked_of_a_partner_whose_certificate_is_not_believed() {
    let mut w = World::standard();
    w.nodes[B].certificate = named("c.example");
    w.say("one");
    assert!(!w.pipes[0].transcript.contains("<bidi xmlns='urn:xmpp:bidi'"));
}

#[test]
fn an_initiator_takes_stanzas_of_its_pair_only_and_only_with_bidi() {
    for (features, from, error) in
        [(BIDI, "y@b.example", ""), (BIDI, "y@c.example", "invalid-from"), ("", "y@b.example", "not-authorized")]
    {
        let mut s = Script::new(Partner::new(THEIRS));
        s.send("hello").expect("taken");
        let link = s.outbound_proved(features, "");
        s.answer(link);
        let answer = s.says(link, &message(from, "x@a.example", "back"));
        assert!(answer.contains(error), "{answer}");
        let seen = s.node.events.iter().filter(|event| event.starts_with("message")).count();
        assert_eq!(seen, usize::from(error.is_empty()));
    }
}

#[test]
fn bidi_after_authentication_is_refused() {
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("");
    assert!(s.says(link, "<bidi xmlns='urn:xmpp:bidi'/>").contains("policy-violation"));
}

#[test]
fn a_key_is_never_confirmed_on_the_connection_it_was_shown_on() {
    let mut s = Script::new(Partner::new(THEIRS));
    let (link, _) = s.inbound(&named("other.example"));
    s.says(link, "<bidi xmlns='urn:xmpp:bidi'/>");
    assert_eq!(s.says(link, RESULT), "");
    assert_eq!(s.connects.len(), 1);
}

// ---- Fallback -----------------------------------------------------------------------

#[test]
fn a_partner_that_refuses_external_is_shown_a_key_on_the_same_stream() {
    let failure = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>";
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound(&format!("{EXTERNAL}{DIALBACK}"));
    s.answer(link);
    assert!(s.says(link, failure).starts_with("<db:result"));
    assert!(s.says(link, "<db:result from='b.example' to='a.example' type='valid'/>").contains("hello"));
    // If it closes instead, on the next connection without EXTERNAL.
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound(&format!("{EXTERNAL}{DIALBACK}"));
    s.says(link, failure);
    s.says(link, "</stream:stream>");
    assert!(s.is_closed(link));
    assert_eq!(s.connects.len(), 2);
    let link = s.outbound(&format!("{EXTERNAL}{DIALBACK}"));
    assert!(s.answer(link).starts_with("<db:result"));
    // Not where dialback is not allowed.
    let mut s = Script::new(Partner { dialback: false, ..Partner::new(THEIRS) });
    s.send("hello").expect("taken");
    let link = s.outbound(EXTERNAL);
    s.says(link, failure);
    assert!(s.is_closed(link));
    assert_eq!(s.node.events, ["undelivered 0 Refused"]);
}

#[test]
fn starttls_is_tried_where_it_is_not_offered_and_the_way_in_the_clear_is_never_taken_if_tls_is_required() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.connects[0];
    s.run(|s, cx| s.opened(cx, link));
    s.answer(link);
    let answer = s.says(link, &format!("{HEADER}{ANSWER_B}{DIALBACK}</stream:features>"));
    assert_eq!(answer, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    s.says(link, "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert_eq!(s.node.events, ["undelivered 0 Refused"]);
    // Optional: the refusal is taken at its word.
    let mut s = Script::new(Partner { tls: Requirement::Optional, ..Partner::new(THEIRS) });
    s.send("hello").expect("taken");
    for answer in ["<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", ""] {
        let link = *s.connects.last().expect("a connection");
        s.run(|s, cx| s.opened(cx, link));
        s.answer(link);
        let tls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>";
        let said = s.says(link, &format!("{HEADER}{ANSWER_B}{tls}"));
        assert_eq!(said.starts_with("<starttls"), !answer.is_empty(), "{said}");
        s.says(link, answer);
    }
    assert_eq!(s.connects.len(), 2);
}

#[test]
fn a_server_without_version_is_not_spoken_to_in_the_clear_if_tls_is_required() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.connects[0];
    s.run(|s, cx| s.opened(cx, link));
    s.answer(link);
    assert!(s.says(link, &format!("{HEADER}id='s1'>")).contains("policy-violation"));
    assert_eq!(s.node.events, ["undelivered 0 Refused"]);
}

#[test]
fn what_a_stream_error_says_reaches_the_sender() {
    for (condition, why) in
        [("host-unknown", "NotFound"), ("not-authorized", "Refused"), ("system-shutdown", "Unreachable")]
    {
        let mut s = Script::new(Partner::new(THEIRS));
        s.send("hello").expect("taken");
        let link = s.connects[0];
        s.run(|s, cx| s.opened(cx, link));
        let error = format!(
            "<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
        );
        let answer = s.says(link, &format!("{HEADER}from='b.example' id='1' version='1.0'>{error}"));
        assert!(answer.ends_with("</stream:stream>"), "{answer}");
        assert_eq!(s.node.events, [format!("undelivered 0 {why}")]);
    }
}

// ---- The end of streams, limits, deadlines --------------------------------------------

#[test]
fn a_partner_that_closes_is_answered_and_the_next_stanza_gets_a_new_stream() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("one").expect("taken");
    let link = s.outbound_proved("", "");
    s.answer(link);
    // The partner goes on reading until it sees our end tag.
    assert_eq!(s.says(link, "</stream:stream>"), "");
    assert!(!s.is_closed(link));
    s.send("two").expect("taken");
    assert_eq!(s.connects.len(), 2);
    s.drained(link);
    assert_eq!(s.answer(link), "</stream:stream>");
    assert!(s.is_closed(link));
    assert_eq!(s.node.events, ["delivered 0"]);
}

#[test]
fn a_stream_cut_in_the_middle_of_anything_leaves_nobody_without_an_answer() {
    for cut_after in 1..40 {
        for dialback in [false, true] {
            let mut w = if dialback { World::dialback() } else { World::standard() };
            w.chunk = 97;
            w.send(A, "x@a.example", "y@b.example", "hello").expect("taken");
            for _ in 0..cut_after {
                for at in 0..w.pipes.len() {
                    for node in [A, B] {
                        w.deliver(at, node);
                    }
                }
            }
            if w.pipes[0].open {
                w.cut(0, CloseReason::Reset);
            }
            w.settle();
            w.pass(Duration::from_secs(60));
            let told: Vec<&String> = w.nodes[A].events.iter().filter(|event| event.contains("delivered")).collect();
            assert_eq!(told.len(), 1, "{cut_after} {:?}", w.nodes[A].events);
            let seen = w.nodes[B].events.iter().filter(|event| event.ends_with("hello")).count();
            assert!(seen <= 1);
            assert!(!told[0].starts_with("delivered") || seen == 1);
            w.say("again");
            w.pass(Duration::from_secs(60));
            w.say("and again");
            assert!(w.nodes[B].events.iter().any(|event| event.ends_with("and again")), "{cut_after}");
        }
    }
}

#[test]
fn ten_thousand_stanzas_arrive_in_order_while_streams_are_replaced() {
    for dialback in [false, true] {
        let mut w = if dialback { World::dialback() } else { World::standard() };
        let mut next = 0;
        for round in 0..200 {
            for _ in 0..50 {
                if w.send(A, "x@a.example", "y@b.example", &next.to_string()).is_ok() {
                    next += 1;
                }
            }
            if round % 7 == 3 {
                // The partner ends all streams in good order.
                let keys: Vec<Key> = w.nodes[B].server.streams.iter().map(|(key, _)| key).collect();
                for key in keys {
                    let (_, acts) = w.nodes[B].run(w.now, |s, cx| s.retire(cx, key));
                    w.act(B, acts);
                }
            }
            w.settle();
            w.pass(Duration::from_secs(1));
        }
        w.pass(Duration::from_secs(30));
        let seen: Vec<usize> = w.nodes[B]
            .events
            .iter()
            .filter_map(|event| event.strip_prefix("message x@a.example > y@b.example ")?.parse().ok())
            .collect();
        let delivered = w.nodes[A].events.iter().filter(|event| event.starts_with("delivered")).count();
        let undelivered = w.nodes[A].events.iter().filter(|event| event.starts_with("undelivered")).count();
        assert_eq!(delivered + undelivered, next);
        assert!(seen.is_sorted_by(|a, b| a < b), "in order, none twice");
        assert_eq!(seen.len(), next, "none missing");
        // What is not acknowledged when the partner ends a stream is not certain.
        assert!(!dialback || undelivered == 0);
    }
}

#[test]
fn a_full_queue_refuses_and_everything_in_it_is_told() {
    let mut s = Script::new(Partner::new(THEIRS));
    let mut taken = 0;
    while s.send("hello").is_ok() {
        taken += 1;
    }
    assert_eq!(taken, limits::STREAM_QUEUE_STANZAS_MAX);
    assert_eq!(s.send("hello"), Err(Refused::Overload));
    s.pass(Duration::from_secs(60));
    assert_eq!(s.node.events.len(), taken);
    assert_eq!(s.node.server.queued_octets, 0);
}

#[test]
fn a_stanza_waits_no_longer_than_its_sender() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.connects[0];
    s.run(|s, cx| s.opened(cx, link));
    s.pass(Duration::from_secs(26));
    assert_eq!(s.node.events.len(), 1);
    assert!(s.node.events[0].starts_with("undelivered 0 Timeout"), "{:?}", s.node.events);
}

#[test]
fn a_stanza_larger_than_the_partner_takes_is_refused_before_it_is_sent() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let most = "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>10000</max-bytes></limits>";
    let link = s.outbound_proved("", most);
    s.answer(link);
    assert_eq!(s.node.server.stanza_limit(OURS, THEIRS), Some(10_000));
    assert_eq!(s.send(&"x".repeat(10_000)), Err(Refused::TooLarge { limit: 10_000 }));
    assert_eq!(s.answer(link), "");
    s.send("small").expect("taken");
}

#[test]
fn a_stream_that_proves_nothing_is_closed_in_time() {
    let mut s = Script::new(Partner::new(THEIRS));
    let silent = s.accepted();
    let (slow, _) = s.inbound(&named(THEIRS));
    s.pass(Duration::from_secs(59));
    assert!(!s.is_closed(silent) && !s.is_closed(slow));
    s.pass(Duration::from_secs(2));
    assert!(s.is_closed(silent) && s.is_closed(slow));
    assert!(s.answer(slow).contains("connection-timeout"));
}

#[test]
fn strangers_hold_a_share_of_the_streams_and_no_more() {
    let mut s = Script::new(Partner::new(THEIRS));
    let proved = s.proved("");
    for n in 0..2000_u32 {
        let link = s.node.out.new_link();
        let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0A00_0000 + n)), 1);
        s.run(|s, cx| s.accepted(cx, link, ListenerId(0), from));
    }
    let most = limits::STREAMS_MAX * limits::STREAMS_UNPROVEN_PERCENT / 100;
    assert_eq!(s.node.server.streams.len(), most + 1);
    assert_eq!(s.node.count.of(Counter::StreamLimit), (2000 - most) as u64);
    assert!(!s.is_closed(proved));
    // One address gets less.
    let mut s = Script::new(Partner::new(THEIRS));
    for _ in 0..100 {
        s.accepted();
    }
    assert_eq!(s.node.server.streams.len(), limits::STREAMS_UNPROVEN_PER_ADDRESS_MAX);
}

#[test]
fn a_partner_gets_as_many_streams_as_it_may_have() {
    let mut s = Script::new(Partner { connection_limit: Some(2), ..Partner::new(THEIRS) });
    s.proved("");
    s.proved("");
    let (link, _) = s.inbound(&named(THEIRS));
    s.says(link, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>");
    assert!(s.says(link, &format!("{HEADER}{FROM_B}")).contains("resource-constraint"));
    assert_eq!(s.send("hello").map(|_| ()), Ok(()));
    assert_eq!(s.node.events, ["undelivered 0 Overload"]);
}

#[test]
fn an_idle_stream_is_kept_alive_or_closed_as_the_partner_is_set() {
    // Kept alive, and dead without an answer.
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("one").expect("taken");
    let link = s.outbound_proved("", "");
    s.drained(link);
    s.answer(link);
    s.pass(Duration::from_secs(301));
    let ping = s.answer(link);
    assert!(ping.contains("<ping xmlns='urn:xmpp:ping'/>"), "{ping}");
    let pong = format!("<iq from='b.example' to='a.example' type='error' id='{}'/>", id_of(&ping));
    let back = s.proved("");
    s.says(back, &pong);
    assert!(s.node.events.len() == 1, "{:?}", s.node.events);
    s.pass(Duration::from_secs(302));
    assert!(s.answer(link).contains("<ping"));
    s.pass(Duration::from_secs(31));
    assert!(s.is_closed(link));
    // Not kept alive: closed when idle.
    let mut s = Script::new(Partner { keep_alive: false, ..Partner::new(THEIRS) });
    s.send("one").expect("taken");
    let link = s.outbound_proved("", "");
    s.drained(link);
    s.answer(link);
    s.pass(Duration::from_secs(601));
    assert_eq!(s.answer(link), "</stream:stream>");
    s.says(link, "</stream:stream>");
    assert!(s.is_closed(link));
}

#[test]
fn a_partner_that_closes_idle_streams_early_is_pinged_earlier() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("one").expect("taken");
    let limits = "<limits xmlns='urn:xmpp:stream-limits:0'><idle-seconds>100</idle-seconds></limits>";
    let link = s.outbound_proved("", limits);
    s.drained(link);
    s.answer(link);
    s.pass(Duration::from_secs(76));
    assert!(s.answer(link).contains("<ping"));
}

#[test]
fn blanks_between_stanzas_are_signs_of_life() {
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("");
    for _ in 0..3 {
        s.pass(Duration::from_secs(400));
        assert_eq!(s.says(link, " \n"), "");
    }
    s.pass(Duration::from_secs(601));
    assert_eq!(s.answer(link), "</stream:stream>");
}

#[test]
fn a_stanza_beyond_the_limits_ends_the_stream() {
    for (stanza, error) in [
        (message("y@b.example", "x@a.example", &"x".repeat(limits::STANZA_OCTETS_MAX)), "policy-violation"),
        (message("y@b.example", "x@a.example", "<!-- c -->"), "restricted-xml"),
        (message("y@b.example", "x@a.example", "&bomb;"), "restricted-xml"),
        (message("y@b.example", "x@a.example", "</b>"), "not-well-formed"),
        (message("y@b.example", "x@a.example", "<a b=1/>"), "not-well-formed"),
        (message("y@b.example", "x@a.example", "<z:a/>"), "bad-namespace-prefix"),
        ("<message xmlns='jabber:client' from='y@b.example' to='x@a.example'/>".into(), "invalid-namespace"),
        ("<thing/>".into(), "unsupported-stanza-type"),
        ("text".into(), "bad-format"),
    ] {
        let mut s = Script::new(Partner::new(THEIRS));
        let link = s.proved("");
        assert!(s.says(link, &stanza).contains(error), "{error}");
        assert!(s.is_closed(link) && s.node.events.is_empty());
    }
}

#[test]
fn a_stanza_inherits_the_language_of_its_stream() {
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("");
    let mut tree = Tree::new();
    let mut bytes = message("y@b.example", "x@a.example", "hello").into_bytes();
    s.node.run(s.now, |server, cx| {
        let (_, event) = server.receive(cx, link, &mut bytes, &mut tree);
        let Some(Event::Stanza { stanza, .. }) = event else { panic!("a stanza") };
        assert_eq!(stanza.lang, None);
    });
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound_proved(BIDI, "");
    let mut bytes = message("y@b.example", "x@a.example", "hello").into_bytes();
    s.node.run(s.now, |server, cx| {
        let (_, event) = server.receive(cx, link, &mut bytes, &mut tree);
        let Some(Event::Stanza { stanza, .. }) = event else { panic!("a stanza") };
        assert_eq!(stanza.lang, Some("de"));
    });
}

#[test]
fn shutting_down_tells_partners_and_senders() {
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("");
    s.send("hello").expect("taken");
    s.run(|s, cx| s.shutdown(cx));
    assert!(s.answer(link).contains("system-shutdown") && s.is_closed(link));
    assert_eq!(s.node.events, ["undelivered 0 Overload"]);
    assert_eq!(s.send("more"), Err(Refused::Overload));
    assert!(s.node.server.streams.is_empty());
}

#[test]
fn new_settings_end_the_streams_they_concern_and_no_others() {
    let two = |kind: Partner| {
        let mut settings = settings(&[OURS, "a2.example"], kind, address(1, 5269), address(1, 5270));
        settings.partners.push(Partner::new("c.example"));
        settings
    };
    let mut s = Script::with(two(Partner::new(THEIRS)));
    let link = s.proved("");
    s.run(|s, cx| s.configure(cx, &two(Partner::new(THEIRS))));
    assert!(!s.is_closed(link) && s.answer(link).is_empty());
    s.run(|s, cx| s.configure(cx, &two(Partner { dialback: false, ..Partner::new(THEIRS) })));
    assert_eq!(s.answer(link), "</stream:stream>");
    let link = s.proved("");
    let mut without = two(Partner { dialback: false, ..Partner::new(THEIRS) });
    without.sip_domains.retain(|domain| domain.domain != OURS);
    s.run(|s, cx| s.configure(cx, &without));
    assert!(s.answer(link).contains("host-gone") && s.is_closed(link));
}

// ---- Components -----------------------------------------------------------------------

fn component() -> Script {
    let mut settings = settings(&[OURS, "gw.b.example"], Partner::new(THEIRS), address(1, 5269), address(1, 5270));
    settings.components.push(Component {
        name: "one".into(),
        server: address(2, 5347),
        secret: "secret".into(),
        domain: "gw.b.example".into(),
    });
    let mut s = Script::with(settings);
    s.pass(Duration::from_millis(1));
    s
}

const COMPONENT: &str = "<stream:stream xmlns='jabber:component:accept' \
    xmlns:stream='http://etherx.jabber.org/streams' from='gw.b.example' id='3BF96D32'>";

fn connected(s: &mut Script) -> LinkId {
    let link = *s.connects.last().expect("a connection");
    s.run(|s, cx| s.opened(cx, link));
    let header = s.answer(link);
    assert!(header.contains("xmlns='jabber:component:accept'") && header.contains("to='gw.b.example'"), "{header}");
    assert_eq!(
        s.says(link, COMPONENT),
        format!("<handshake>{}</handshake>", super::super::component::handshake("3BF96D32", "secret"))
    );
    link
}

#[test]
fn a_component_connects_by_itself_and_takes_stanzas_of_every_domain_but_ours() {
    let mut s = component();
    let link = connected(&mut s);
    s.says(link, "<handshake/>");
    s.says(link, &message("y@anywhere.example", "x@gw.b.example", "hello"));
    assert_eq!(s.node.events, ["message y@anywhere.example > x@gw.b.example hello"]);
    let (result, acts) = s.node.send(s.now, "x@gw.b.example", "y@anywhere.example", "back");
    s.act(acts);
    assert!(result.is_ok() && s.answer(link).contains(">back<"));
    assert!(s.says(link, &message("y@a.example", "x@gw.b.example", "no")).contains("invalid-from"));
    assert!(s.is_closed(link));
}

#[test]
fn a_component_that_is_refused_or_cut_comes_back() {
    let mut s = component();
    let link = connected(&mut s);
    s.says(link, "<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>");
    assert!(s.is_closed(link));
    assert_eq!(s.connects.len(), 1);
    s.pass(Duration::from_secs(3));
    assert_eq!(s.connects.len(), 2);
    let link = connected(&mut s);
    s.says(link, "<handshake/>");
    s.run(|s, cx| s.closed(cx, link, CloseReason::Reset));
    s.pass(Duration::from_secs(60));
    let link = connected(&mut s);
    s.says(link, "<handshake/>");
    s.says(link, &message("y@anywhere.example", "x@gw.b.example", "hello"));
    assert_eq!(s.node.events, ["message y@anywhere.example > x@gw.b.example hello"]);
}

#[test]
fn the_domain_of_a_component_is_not_served_between_servers() {
    let mut s = component();
    let link = s.accepted();
    let answer = s.says(link, &format!("{HEADER}from='b.example' to='gw.b.example' version='1.0'>"));
    assert!(answer.contains("host-unknown"), "{answer}");
    assert_eq!(s.send("hello").map(|_| ()), Ok(()), "a.example goes the other way");
}

// ---- Anything at all ------------------------------------------------------------------

#[test]
fn no_octets_of_a_peer_break_the_server() {
    let pieces = [
        HEADER,
        FROM_B,
        ANSWER_B,
        EXTERNAL,
        DIALBACK,
        BIDI,
        SM,
        RESULT,
        "</stream:features>",
        "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
        "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>",
        "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>",
        "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><aborted/></failure>",
        "<bidi xmlns='urn:xmpp:bidi'/>",
        "<enable xmlns='urn:xmpp:sm:3'/>",
        "<enabled xmlns='urn:xmpp:sm:3' resume='true' id='r' max='9'/>",
        "<resumed xmlns='urn:xmpp:sm:3' previd='r' h='0'/>",
        "<failed xmlns='urn:xmpp:sm:3' h='1'/>",
        "<r xmlns='urn:xmpp:sm:3'/>",
        "<a xmlns='urn:xmpp:sm:3' h='1'/>",
        "<db:result from='b.example' to='a.example' type='valid'/>",
        "<db:verify from='b.example' to='a.example' id='x' type='valid'/>",
        "<db:verify from='b.example' to='a.example' id='x'>abc</db:verify>",
        "<message from='y@b.example' to='x@a.example'><body>hello</body></message>",
        "<iq from='b.example' to='a.example' type='result' id='1'/>",
        "<stream:error><reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
        "</stream:stream>",
        " ",
    ];
    for seed in 0..400 {
        let mut rng = Rng::from_number(seed);
        let partner = if rng.below(3) == 0 {
            Partner { tls: Requirement::Optional, ..Partner::new(THEIRS) }
        } else if rng.below(2) == 0 {
            clear_partner(THEIRS)
        } else {
            Partner::new(THEIRS)
        };
        let mut s = Script::new(partner);
        let mut links = Vec::new();
        for _ in 0..60 {
            match rng.below(10) {
                0 if links.len() < 6 => links.push(s.accepted()),
                1 => {
                    let _ = s.send("hello");
                }
                2 => s.pass(Duration::from_millis(rng.below(12_000))),
                _ => {}
            }
            for link in s.connects.clone() {
                if !links.contains(&link) {
                    links.push(link);
                    s.run(|s, cx| s.opened(cx, link));
                }
            }
            let Some(&link) = links.get(rng.below(links.len() as u64) as usize) else { continue };
            match rng.below(20) {
                0 => s.run(|s, cx| s.closed(cx, link, CloseReason::Reset)),
                1 => s.drained(link),
                2 | 3 => s.secured(link, &named(if rng.below(3) == 0 { "c.example" } else { THEIRS })),
                _ => {
                    let mut text = String::new();
                    for _ in 0..=rng.below(3) {
                        text.push_str(pieces[rng.below(pieces.len() as u64) as usize]);
                    }
                    let mut bytes = text.into_bytes();
                    for _ in 0..rng.below(3) {
                        let at = rng.below(bytes.len() as u64) as usize;
                        match rng.below(6) {
                            0 => bytes[at] = rng.below(256) as u8,
                            1 => bytes.truncate(at.max(1)),
                            _ => {}
                        }
                    }
                    while !bytes.is_empty() {
                        let (used, acts) = s.node.receive(s.now, link, &mut bytes);
                        bytes.drain(..used);
                        s.act(acts);
                        if used == 0 {
                            break;
                        }
                    }
                }
            }
        }
        s.run(|s, cx| s.shutdown(cx));
        let sent = s.node.tickets.len();
        let told = s.node.events.iter().filter(|event| event.contains("delivered")).count();
        let refused = sent - told;
        assert!(told <= sent && refused <= sent);
        assert!(s.node.server.streams.is_empty() && s.node.server.links.is_empty());
        assert!(s.node.server.sessions.is_empty() && s.node.server.verifications.is_empty(), "{seed}");
        assert_eq!(s.node.server.queued_octets, 0);
    }
}

#[test]
fn whatever_happens_to_the_connections_each_ticket_gets_one_outcome_and_no_stanza_comes_twice() {
    for seed in 0..150 {
        let mut rng = Rng::from_number(seed);
        let mut w = if rng.below(2) == 0 { World::dialback() } else { World::standard() };
        w.chunk = [usize::MAX, 1000, 61][rng.below(3) as usize];
        let (mut taken, mut refused) = (0, 0);
        for n in 0..120 {
            match w.send(A, "x@a.example", "y@b.example", &n.to_string()) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
            for _ in 0..rng.below(30) {
                for at in 0..w.pipes.len() {
                    let node = rng.below(2) as usize;
                    w.deliver(at, node);
                }
            }
            match rng.below(12) {
                0 => {
                    let at = rng.below(w.pipes.len().max(1) as u64) as usize;
                    if w.pipes.get(at).is_some_and(|pipe| pipe.open) {
                        w.cut(at, CloseReason::Reset);
                    }
                }
                1 => w.pass(Duration::from_millis(rng.below(40_000))),
                2 => w.targets = Ok(vec![starttls_target(9)]),
                3 | 4 => w.targets = Ok(Vec::new()),
                5 => w.drains = !w.drains,
                _ => w.settle(),
            }
        }
        w.drains = true;
        w.targets = Ok(Vec::new());
        w.settle();
        w.pass(Duration::from_secs(120));
        let events = &w.nodes[A].events;
        let delivered: Vec<usize> = outcomes(events, "delivered ");
        let undelivered: Vec<usize> = outcomes(events, "undelivered ");
        assert_eq!(delivered.len() + undelivered.len(), taken, "seed {seed}, {refused} refused");
        let seen: Vec<usize> = w.nodes[B]
            .events
            .iter()
            .filter_map(|event| event.strip_prefix("message x@a.example > y@b.example ")?.parse().ok())
            .collect();
        assert!(seen.is_sorted_by(|a, b| a < b), "seed {seed}: in order and none twice: {seen:?}");
        for ticket in delivered {
            assert!(seen.contains(&ticket), "seed {seed}: {ticket} was never seen");
        }
        // P7: a minute after the faults ended everything works.
        w.say("999");
        w.settle();
        assert!(w.nodes[B].events.iter().any(|event| event.ends_with(" 999")), "seed {seed}");
    }
}

fn outcomes(events: &[String], word: &str) -> Vec<usize> {
    let number = |event: &String| event.strip_prefix(word)?.split(' ').next()?.parse().ok();
    events.iter().filter_map(number).collect()
}
