//! The world around one gateway: a virtual clock, a heap of what is to happen, and
//! the links. It acts as `io` does, reports what reaches the neighbours, and knows no
//! protocol. One seed gives one history; `trace` is its fingerprint.

#![allow(dead_code, reason = "each test target that includes this file uses another part of it")]

use crate::net::{Chance, Link, Weather};
use latimer::base::certificate::PeerCertificate;
use latimer::base::counters::Counters;
use latimer::base::cx::Cx;
use latimer::base::net::{CloseReason, LinkId, ListenerId, Transport};
use latimer::base::outbox::{Action, Level, Outbox};
use latimer::base::rng::Rng;
use latimer::base::time::{Instant, Wall};
use latimer::gateway::Gateway;
use latimer::gateway::input::Input;
use latimer::settings::Settings;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// 2031-03-01 08:00:00 UTC, when every world begins.
const EPOCH_MS: i64 = 1_930_204_800_000;

/// How long it takes until a record is safe from a power cut, unless `store_ms` says
/// otherwise.
const STORE_MS: u64 = 5;

/// Something that reaches the gateway.
#[derive(Clone, Debug)]
enum Incoming {
    Datagram { listener: ListenerId, from: SocketAddr, bytes: Vec<u8> },
    Accepted { link: LinkId, listener: ListenerId, from: SocketAddr },
    Opened(LinkId),
    Secured(LinkId),
    Octets(LinkId, Vec<u8>),
    Drained(LinkId, u64),
    Closed(LinkId, CloseReason),
    Stored(u64),
    Shutdown,
}

/// Something that reaches a neighbour.
#[derive(Clone, Debug)]
pub enum Arrived {
    /// From a UDP listener of the gateway's.
    Datagram { listener: ListenerId, to: SocketAddr, bytes: Vec<u8> },
    /// The gateway wants a connection: `accept` or `refuse` it.
    Connect { link: LinkId, transport: Transport, to: SocketAddr },
    /// Octets on a stream, or a datagram on a connected UDP socket.
    Octets { link: LinkId, bytes: Vec<u8> },
    /// TLS is up; the gateway asked for the name `remote`.
    Secured { link: LinkId, remote: String },
    /// The connection is gone.
    Closed { link: LinkId },
    /// A moment that `wake` was asked for.
    Wake(u64),
}

#[derive(Clone, Debug)]
enum Happening {
    ToGateway(Incoming),
    ToPeer(Arrived),
}

pub struct World {
    /// Milliseconds since the start.
    pub now: u64,
    /// How far the wall clock is off, in milliseconds.
    pub wall_off: i64,
    pub gateway: Gateway,
    pub count: Counters,
    pub weather: Weather,
    pub chance: Chance,
    pub links: BTreeMap<LinkId, Link>,
    /// A fingerprint of all that happened.
    pub trace: u64,
    /// The gateway's latest log lines, oldest first.
    pub lines: VecDeque<String>,
    /// How many lines are kept.
    pub lines_max: usize,
    /// Records the gateway stored, oldest first; the place is the number less one.
    pub disk: Vec<Vec<u8>>,
    /// How many of them are safe from a power cut.
    pub safe: usize,
    /// How long it takes until a record is safe.
    pub store_ms: u64,
    out: Outbox,
    rng: Rng,
    heap: BTreeMap<(u64, u64), Happening>,
    order: u64,
    /// Links that the gateway has not heard the end of; true: it closed them itself.
    known: BTreeMap<LinkId, bool>,
    timeouts_at_once: u32,
}

impl World {
    pub fn new(gateway: Gateway, seed: u64) -> Self {
        let mut out = Outbox::with_capacity(64 * 1024, 256);
        out.log_level = Level::Debug;
        Self {
            now: 0,
            wall_off: 0,
            gateway,
            count: Counters::default(),
            weather: Weather::default(),
            chance: Chance::new(seed),
            links: BTreeMap::new(),
            trace: 0xcbf2_9ce4_8422_2325,
            lines: VecDeque::new(),
            lines_max: 4000,
            disk: Vec::new(),
            safe: 0,
            store_ms: STORE_MS,
            out,
            rng: Rng::from_number(seed),
            heap: BTreeMap::new(),
            order: 0,
            known: BTreeMap::new(),
            timeouts_at_once: 0,
        }
    }

    /// The next thing that reaches a neighbour up to the time `until`; `None`: the
    /// clock stands at `until` and nothing more is due.
    pub fn next(&mut self, until: u64) -> Option<Arrived> {
        loop {
            let due = self.heap.keys().next().map(|(time, _)| *time);
            let deadline = self.gateway.deadline().map(|at| at.as_millis().max(self.now));
            let timeout_first = match (due, deadline) {
                (None, None) => false,
                (Some(due), Some(deadline)) => deadline < due,
                (due, _) => due.is_none(),
            };
            let Some(time) = (if timeout_first { deadline } else { due }).filter(|time| *time <= until) else {
                self.now = self.now.max(until);
                return None;
            };
            if time > self.now {
                self.now = time;
                self.timeouts_at_once = 0;
            }
            if timeout_first {
                self.timeouts_at_once += 1;
                assert!(self.timeouts_at_once < 10_000, "the gateway's deadline does not move forward");
                self.handle(Input::Timeout);
                continue;
            }
            let Some((_, happening)) = self.heap.pop_first() else { continue };
            match happening {
                Happening::ToGateway(incoming) => self.bring(incoming),
                Happening::ToPeer(arrived) => {
                    if let Some(arrived) = self.reach(arrived) {
                        return Some(arrived);
                    }
                }
            }
        }
    }

    /// When something is to happen next.
    pub fn next_due(&self) -> Option<u64> {
        let due = self.heap.keys().next().map(|(time, _)| *time);
        let deadline = self.gateway.deadline().map(|at| at.as_millis().max(self.now));
        [due, deadline].into_iter().flatten().min()
    }

    /// A neighbour opens a connection to a listener.
    pub fn dial(
        &mut self,
        listener: ListenerId,
        transport: Transport,
        from: SocketAddr,
        certificate: PeerCertificate,
    ) -> LinkId {
        let link = self.out.new_link();
        self.known.insert(link, false);
        self.add_link(link, transport, true, certificate);
        let at = self.now + self.travel();
        self.soon(at, Incoming::Accepted { link, listener, from });
        if let Some(l) = self.links.get_mut(&link) {
            l.next_to_gateway = at;
        }
        link
    }

    /// A neighbour takes a connection that the gateway asked for.
    pub fn accept(&mut self, link: LinkId, transport: Transport, certificate: PeerCertificate) {
        if !self.alive(link) {
            return;
        }
        if transport == Transport::Udp {
            self.soon(self.now, Incoming::Opened(link));
            return;
        }
        self.add_link(link, transport, false, certificate);
        let at = self.now + self.travel();
        self.soon(at, Incoming::Opened(link));
        if transport == Transport::Tls {
            self.soon(at, Incoming::Secured(link));
            self.push(at, Happening::ToPeer(Arrived::Secured { link, remote: String::new() }));
        }
        if let Some(l) = self.links.get_mut(&link) {
            l.next_to_gateway = at;
        }
    }

    /// A neighbour does not take a connection that the gateway asked for.
    pub fn refuse(&mut self, link: LinkId, why: CloseReason, after: u64) {
        let at = self.now + after;
        self.soon(at, Incoming::Closed(link, why));
    }

    /// A neighbour sends octets on a stream, or a datagram on a connected socket.
    pub fn send(&mut self, link: LinkId, bytes: &[u8]) {
        let Some(l) = self.links.get(&link) else { return };
        if l.leaving || l.closing {
            return;
        }
        if l.transport == Transport::Udp {
            for at in self.datagram_times() {
                self.soon(at, Incoming::Octets(link, bytes.to_vec()));
            }
            return;
        }
        for piece in self.pieces(bytes) {
            let at = self.stream_time(link, true);
            self.soon(at, Incoming::Octets(link, piece));
            self.misfortune(link, at);
        }
    }

    /// A neighbour sends a datagram to a UDP listener.
    pub fn datagram(&mut self, listener: ListenerId, from: SocketAddr, bytes: &[u8]) {
        for at in self.datagram_times() {
            self.soon(at, Incoming::Datagram { listener, from, bytes: bytes.to_vec() });
        }
    }

    /// A neighbour closes a connection in good order.
    pub fn close(&mut self, link: LinkId) {
        let at = self.stream_time(link, true);
        if let Some(l) = self.links.get_mut(&link) {
            l.leaving = true;
            self.soon(at, Incoming::Closed(link, CloseReason::Peer));
        }
    }

    /// A connection breaks at once; what is on its way is lost.
    pub fn reset(&mut self, link: LinkId) {
        if self.links.remove(&link).is_some() {
            self.soon(self.now, Incoming::Closed(link, CloseReason::Reset));
            self.push(self.now, Happening::ToPeer(Arrived::Closed { link }));
        }
    }

    /// `Arrived::Wake(what)` comes at that time.
    pub fn wake(&mut self, at: u64, what: u64) {
        self.push(at.max(self.now), Happening::ToPeer(Arrived::Wake(what)));
    }

    /// The program is asked to end.
    pub fn shutdown(&mut self) {
        self.soon(self.now, Incoming::Shutdown);
    }

    /// The gateway is killed and another one started in its place, with what was stored:
    /// every connection is gone, and so is what was on its way to it.
    pub fn restart(&mut self, gateway: Gateway) {
        self.gateway = gateway;
        self.known.clear();
        self.safe = self.disk.len();
        let disk = core::mem::take(&mut self.disk);
        let mut cx = Cx {
            now: Instant::from_millis(self.now),
            wall: Wall(EPOCH_MS + self.now as i64 + self.wall_off),
            rng: &mut self.rng,
            out: &mut self.out,
            count: &mut self.count,
        };
        self.gateway.restore(&mut cx, &mut disk.iter().map(Vec::as_slice));
        self.disk = disk;
        self.heap.retain(|_, happening| matches!(happening, Happening::ToPeer(Arrived::Wake(_))));
        for link in core::mem::take(&mut self.links).into_keys() {
            self.push(self.now, Happening::ToPeer(Arrived::Closed { link }));
        }
        self.carry_out();
    }

    /// The settings are changed while it runs.
    pub fn configure(&mut self, settings: Settings) {
        let mut cx = Cx {
            now: Instant::from_millis(self.now),
            wall: Wall(EPOCH_MS + self.now as i64 + self.wall_off),
            rng: &mut self.rng,
            out: &mut self.out,
            count: &mut self.count,
        };
        self.gateway.configure(&mut cx, settings);
        self.carry_out();
    }

    fn add_link(&mut self, id: LinkId, transport: Transport, inbound: bool, certificate: PeerCertificate) {
        let link = Link {
            id,
            transport,
            inbound,
            certificate,
            unread: Vec::new(),
            sent: 0,
            reading: true,
            closing: false,
            leaving: false,
            drained_early: false,
            next_to_peer: self.now,
            next_to_gateway: self.now,
        };
        self.links.insert(id, link);
    }

    fn push(&mut self, at: u64, happening: Happening) {
        self.order += 1;
        self.heap.insert((at, self.order), happening);
    }

    fn soon(&mut self, at: u64, incoming: Incoming) {
        self.push(at, Happening::ToGateway(incoming));
    }

    fn travel(&mut self) -> u64 {
        self.weather.latency_ms + self.chance.below(self.weather.jitter_ms + 1)
    }

    /// When a datagram sent now arrives: never, once, or twice.
    fn datagram_times(&mut self) -> Vec<u64> {
        if self.chance.per_mille(self.weather.loss) {
            return Vec::new();
        }
        let copies = 1 + u64::from(self.chance.per_mille(self.weather.doubles));
        (0..copies)
            .map(|_| {
                let late = if self.chance.per_mille(self.weather.late) { self.chance.below(4000) } else { 0 };
                self.now + self.travel() + late
            })
            .collect()
    }

    fn pieces(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        if bytes.len() > 1 && self.chance.per_mille(self.weather.cuts) {
            let (a, b) = bytes.split_at(1 + self.chance.below(bytes.len() as u64 - 1) as usize);
            return vec![a.to_vec(), b.to_vec()];
        }
        vec![bytes.to_vec()]
    }

    /// When octets sent on a stream now arrive.
    fn stream_time(&mut self, link: LinkId, to_gateway: bool) -> u64 {
        let stall = if self.chance.per_mille(self.weather.stalls) { 1000 + self.chance.below(20_000) } else { 0 };
        let at = self.now + self.travel() + stall;
        let Some(l) = self.links.get_mut(&link) else { return at };
        let next = if to_gateway { &mut l.next_to_gateway } else { &mut l.next_to_peer };
        *next = at.max(*next);
        *next
    }

    /// Perhaps the connection breaks soon after.
    fn misfortune(&mut self, link: LinkId, at: u64) {
        if self.chance.per_mille(self.weather.resets) {
            let at = at + self.chance.below(50);
            self.soon(at, Incoming::Closed(link, CloseReason::Reset));
            self.push(at, Happening::ToPeer(Arrived::Closed { link }));
        }
    }

    fn note(&mut self, what: &str, number: u64, bytes: &[u8]) {
        let words = [self.now.to_be_bytes(), number.to_be_bytes()].concat();
        for byte in what.bytes().chain(words).chain(bytes.iter().copied()) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Something is with its neighbour now, if the link still stands.
    fn reach(&mut self, arrived: Arrived) -> Option<Arrived> {
        match &arrived {
            Arrived::Datagram { to, bytes, .. } => self.note("datagram", u64::from(to.port()), bytes),
            Arrived::Connect { link, .. } => self.note("connect", link.0, &[]),
            Arrived::Octets { link, bytes } => {
                self.links.get(link).filter(|l| !l.leaving)?;
                self.note("octets", link.0, bytes);
            }
            Arrived::Secured { link, .. } => {
                self.links.get(link)?;
                self.note("secured", link.0, &[]);
            }
            Arrived::Closed { link } => {
                self.links.remove(link);
                self.note("closed", link.0, &[]);
            }
            Arrived::Wake(what) => self.note("wake", *what, &[]),
        }
        Some(arrived)
    }

    /// Something is with the gateway now.
    fn bring(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Datagram { listener, from, mut bytes } => {
                self.note("to datagram", u64::from(listener.0), &bytes);
                self.handle(Input::Datagram { listener, from, bytes: &mut bytes });
            }
            Incoming::Accepted { link, listener, from } => {
                if self.alive(link) {
                    self.note("to accepted", link.0, &[]);
                    self.handle(Input::Accepted { link, listener, from });
                }
            }
            Incoming::Opened(link) => {
                if self.alive(link) {
                    self.handle(Input::Opened { link });
                }
            }
            Incoming::Secured(link) => {
                if let Some(l) = self.links.get(&link).filter(|_| self.alive(link)) {
                    let peer = l.certificate.clone();
                    self.handle(Input::Secured { link, peer: &peer });
                }
            }
            Incoming::Octets(link, bytes) => self.bring_octets(link, &bytes),
            Incoming::Drained(link, sent) => {
                if self.alive(link) {
                    self.handle(Input::Drained { link, sent });
                }
            }
            Incoming::Closed(link, why) => {
                if self.known.remove(&link).is_some() {
                    self.note("to closed", link.0, &[]);
                    if why != CloseReason::Local {
                        self.links.remove(&link);
                    }
                    self.handle(Input::Closed { link, why });
                }
            }
            Incoming::Stored(number) => {
                self.safe = self.safe.max(number as usize);
                self.handle(Input::Stored { number });
            }
            Incoming::Shutdown => {
                self.handle(Input::Shutdown);
            }
        }
    }

    /// May the gateway hear something of this link other than its end?
    fn alive(&self, link: LinkId) -> bool {
        self.known.get(&link) == Some(&false)
    }

    fn bring_octets(&mut self, link: LinkId, bytes: &[u8]) {
        if !self.alive(link) {
            return;
        }
        self.note("to octets", link.0, bytes);
        let Some(l) = self.links.get_mut(&link) else { return };
        if l.transport == Transport::Udp {
            let mut bytes = bytes.to_vec();
            self.handle(Input::Stream { link, bytes: &mut bytes });
            return;
        }
        l.unread.extend_from_slice(bytes);
        while let Some(l) = self.links.get_mut(&link).filter(|l| l.reading && !l.closing && !l.unread.is_empty()) {
            let mut unread = core::mem::take(&mut l.unread);
            let used = self.handle_keeping(Input::Stream { link, bytes: &mut unread });
            assert!(used <= unread.len(), "more octets used than there were");
            unread.drain(..used);
            // TLS may have begun meanwhile: what came before it is dropped.
            if let Some(l) = self.links.get_mut(&link) {
                l.unread = unread;
            }
            self.carry_out();
            if used == 0 {
                return;
            }
        }
    }

    fn handle(&mut self, input: Input<'_>) -> usize {
        let used = self.handle_keeping(input);
        self.carry_out();
        used
    }

    fn handle_keeping(&mut self, input: Input<'_>) -> usize {
        let mut cx = Cx {
            now: Instant::from_millis(self.now),
            wall: Wall(EPOCH_MS + self.now as i64 + self.wall_off),
            rng: &mut self.rng,
            out: &mut self.out,
            count: &mut self.count,
        };
        self.gateway.handle(&mut cx, input)
    }

    /// Does what the gateway wants done, as `io` would.
    fn carry_out(&mut self) {
        let actions = self.out.actions().to_vec();
        for action in actions {
            match action {
                Action::Datagram { listener, to, bytes } => {
                    let bytes = self.out.bytes(&bytes).to_vec();
                    for at in self.datagram_times() {
                        let bytes = bytes.clone();
                        self.push(at, Happening::ToPeer(Arrived::Datagram { listener, to, bytes }));
                    }
                }
                Action::Send { link, bytes } => {
                    let bytes = self.out.bytes(&bytes).to_vec();
                    self.send_from_gateway(link, &bytes);
                }
                Action::Connect { link, transport, to } => {
                    self.known.insert(link, false);
                    // A connected UDP socket is there at once.
                    let udp = transport == Transport::Udp;
                    if udp {
                        self.add_link(link, transport, false, PeerCertificate::default());
                    }
                    let at = if udp { self.now } else { self.now + self.travel() };
                    self.push(at, Happening::ToPeer(Arrived::Connect { link, transport, to }));
                }
                Action::StartTls { link, remote, .. } => {
                    let remote = self.out.text(&remote).to_string();
                    let at = self.stream_time(link, true);
                    let back = self.stream_time(link, false);
                    if let Some(l) = self.links.get_mut(&link) {
                        l.unread.clear();
                        l.next_to_gateway = at;
                    }
                    self.soon(at.max(back), Incoming::Secured(link));
                    self.push(at.max(back), Happening::ToPeer(Arrived::Secured { link, remote }));
                }
                Action::Close { link, abort } => self.close_from_gateway(link, abort),
                Action::Reading { link, on } => {
                    let now = self.now;
                    if let Some(l) = self.links.get_mut(&link) {
                        l.reading = on;
                        if on {
                            self.soon(now, Incoming::Octets(link, Vec::new()));
                        }
                    }
                }
                Action::Store { bytes } => {
                    self.disk.push(self.out.bytes(&bytes).to_vec());
                    self.soon(self.now + self.store_ms, Incoming::Stored(self.disk.len() as u64));
                }
                Action::Log { level, code, text } => {
                    let line = format!("{:>8} {level:?} {code} {}", self.now, self.out.text(&text));
                    assert!(!line.contains(['\n', '\r', '\0']), "a log line with control characters: {line:?}");
                    if self.lines.len() >= self.lines_max {
                        self.lines.pop_front();
                    }
                    self.lines.push_back(line);
                }
            }
        }
        self.out.clear();
    }

    fn send_from_gateway(&mut self, link: LinkId, bytes: &[u8]) {
        let Some(l) = self.links.get_mut(&link).filter(|l| !l.closing) else { return };
        l.sent += bytes.len() as u64;
        let sent = l.sent;
        if l.leaving {
            return;
        }
        if l.transport == Transport::Udp {
            for at in self.datagram_times() {
                self.push(at, Happening::ToPeer(Arrived::Octets { link, bytes: bytes.to_vec() }));
            }
            return;
        }
        let mut last = self.now;
        for bytes in self.pieces(bytes) {
            last = self.stream_time(link, false);
            self.push(last, Happening::ToPeer(Arrived::Octets { link, bytes }));
            self.misfortune(link, last);
        }
        let early = self.links.get(&link).is_some_and(|l| l.drained_early);
        let left = if early { self.now } else { last };
        self.soon(left, Incoming::Drained(link, sent));
    }

    fn close_from_gateway(&mut self, link: LinkId, abort: bool) {
        match self.known.get_mut(&link) {
            Some(closing) if !*closing => *closing = true,
            // Closed twice, or after it was gone: nothing happens.
            _ => return,
        }
        let at = if abort { self.now } else { self.stream_time(link, false) };
        if abort {
            self.links.remove(&link);
        } else if let Some(l) = self.links.get_mut(&link) {
            l.closing = true;
        }
        self.push(at, Happening::ToPeer(Arrived::Closed { link }));
        self.soon(self.now, Incoming::Closed(link, CloseReason::Local));
    }
}
