//! Two servers back to back over links in memory, with certificates and TLS that only
//! pretend; and one server against a script.

mod addressing;
mod chaos;
mod dialback;
mod lifecycle;
mod management;
mod negotiation;

use super::*;
use crate::base::certificate::CertificateFault;
use crate::base::counters::Counters;
use crate::base::net::{NotLocated, Target, Transport};
use crate::base::outbox::{Action, Level, Outbox};
use crate::base::rng::Rng;
use crate::base::time::Wall;
use crate::settings::{Component, Listener, ListenerKind, Partner, Requirement, SipDomain};
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
    let domain = |domain: &&str| SipDomain::new(domain);
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
                Action::Store { .. } => panic!("nothing to store in XMPP"),
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
                Event::Lost { .. } | Event::Handled { .. } => {}
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
                Event::Lost { .. } | Event::Handled { .. } => {}
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
