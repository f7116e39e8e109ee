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
            let body = stanza.element.child("body", ns::SERVER).or(stanza.element.child("body", ns::COMPONENT));
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
                    if let Ok(list) = &mut targets {
                        if list.is_empty() {
                            list.push(starttls_target(if domain.starts_with('a') { 1 } else { 2 }));
                        }
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

    fn open_pipes(&self) -> usize {
        self.pipes.iter().filter(|pipe| pipe.open).count()
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
    let faults: [(Option<Result<(), CertificateFault>>, &str, &str); 6] = [
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
