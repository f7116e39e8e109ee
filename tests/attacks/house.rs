//! One gateway on a virtual clock. It does to the gateway what `io` does, keeps what the
//! gateway wants done in a list, and knows no protocol.

use latimer::base::certificate::PeerCertificate;
use latimer::base::counters::{Counter, Counters};
use latimer::base::cx::Cx;
use latimer::base::net::{CloseReason, LinkId, ListenerId, Transport};
use latimer::base::outbox::{Action, Outbox};
use latimer::base::rng::Rng;
use latimer::base::time::{Instant, Wall};
use latimer::gateway::Gateway;
use latimer::gateway::input::Input;
use latimer::limits::LINK_RECEIVE_OCTETS_MAX;
use latimer::settings::Settings;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// 2031-03-01 08:00:00 UTC.
const EPOCH_MS: i64 = 1_930_204_800_000;
/// As much as comes from a socket in one read.
const READ_OCTETS: usize = 16 * 1024;

/// The world of one event. A macro, since it borrows some fields of the house and not
/// the gateway.
macro_rules! context {
    ($house:ident) => {
        Cx {
            now: Instant::from_millis($house.now),
            wall: Wall(EPOCH_MS + $house.now as i64),
            rng: &mut $house.rng,
            out: &mut $house.out,
            count: &mut $house.count,
        }
    };
}

/// What the gateway wants of the world.
#[derive(Clone, Debug)]
pub(crate) enum Did {
    Datagram { to: SocketAddr, bytes: Vec<u8> },
    Sent { link: LinkId, bytes: Vec<u8> },
    Connect { link: LinkId, transport: Transport, to: SocketAddr },
    StartTls { link: LinkId },
    Closed { link: LinkId },
}

#[derive(Debug)]
struct Wire {
    unread: Vec<u8>,
    reading: bool,
    sent: u64,
    certificate: PeerCertificate,
}

pub(crate) struct House {
    pub(crate) gateway: Gateway,
    pub(crate) count: Counters,
    /// Milliseconds since the start.
    pub(crate) now: u64,
    pub(crate) did: VecDeque<Did>,
    /// The latest log lines.
    pub(crate) lines: VecDeque<String>,
    out: Outbox,
    rng: Rng,
    wires: BTreeMap<LinkId, Wire>,
    /// Records of the journal, each safe as soon as it is written.
    stored: u64,
}

impl House {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            gateway: Gateway::new(settings, &[7; 32]),
            count: Counters::default(),
            now: 1000,
            did: VecDeque::new(),
            lines: VecDeque::new(),
            out: Outbox::with_capacity(64 * 1024, 256),
            rng: Rng::from_number(1),
            wires: BTreeMap::new(),
            stored: 0,
        }
    }

    pub(crate) fn of(&self, counter: Counter) -> u64 {
        self.count.of(counter)
    }

    /// Links that are open.
    pub(crate) fn links(&self) -> usize {
        self.wires.len()
    }

    pub(crate) fn is_open(&self, link: LinkId) -> bool {
        self.wires.contains_key(&link)
    }

    pub(crate) fn accept(&mut self, listener: ListenerId, from: SocketAddr, certificate: PeerCertificate) -> LinkId {
        let link = self.out.new_link();
        self.add(link, certificate);
        self.handle(Input::Accepted { link, listener, from });
        link
    }

    pub(crate) fn opened(&mut self, link: LinkId) {
        if self.is_open(link) {
            self.handle(Input::Opened { link });
        }
    }

    /// The TLS handshake is done.
    pub(crate) fn secured(&mut self, link: LinkId) {
        if let Some(wire) = self.wires.get(&link) {
            let peer = wire.certificate.clone();
            self.handle(Input::Secured { link, peer: &peer });
        }
    }

    /// What the other end of a connection of the gateway's shows.
    pub(crate) fn set_certificate(&mut self, link: LinkId, certificate: PeerCertificate) {
        if let Some(wire) = self.wires.get_mut(&link) {
            wire.certificate = certificate;
        }
    }

    pub(crate) fn datagram(&mut self, listener: ListenerId, from: SocketAddr, bytes: &[u8]) {
        self.handle(Input::Datagram { listener, from, bytes: &mut bytes.to_vec() });
    }

    /// Octets come on a link, as many at once as a socket gives.
    pub(crate) fn octets(&mut self, link: LinkId, bytes: &[u8]) {
        for piece in bytes.chunks(READ_OCTETS) {
            if let Some(wire) = self.wires.get_mut(&link) {
                wire.unread.extend_from_slice(piece);
                self.bring(link);
            }
            if let Some(wire) = self.wires.get(&link).filter(|wire| wire.reading) {
                assert!(
                    wire.unread.len() <= LINK_RECEIVE_OCTETS_MAX,
                    "the gateway lets {} octets wait",
                    wire.unread.len()
                );
            }
        }
    }

    fn bring(&mut self, link: LinkId) {
        while let Some(wire) = self.wires.get_mut(&link).filter(|wire| wire.reading && !wire.unread.is_empty()) {
            let mut unread = std::mem::take(&mut wire.unread);
            let used = self.gateway.handle(&mut context!(self), Input::Stream { link, bytes: &mut unread });
            let starts_tls = self.out.actions().iter().any(|a| matches!(a, Action::StartTls { .. }));
            unread.drain(..used);
            if let Some(wire) = self.wires.get_mut(&link).filter(|_| !starts_tls) {
                wire.unread = unread;
            }
            self.carry_out();
            if used == 0 {
                return;
            }
        }
    }

    /// All that was sent on a link has left.
    pub(crate) fn drained(&mut self, link: LinkId) {
        if let Some(sent) = self.wires.get(&link).map(|wire| wire.sent) {
            self.handle(Input::Drained { link, sent });
        }
    }

    /// A link breaks or is closed by the other end.
    pub(crate) fn close(&mut self, link: LinkId, why: CloseReason) {
        if self.wires.remove(&link).is_some() {
            self.handle(Input::Closed { link, why });
        }
    }

    pub(crate) fn configure(&mut self, settings: Settings) {
        self.gateway.configure(&mut context!(self), settings);
        self.carry_out();
    }

    /// When the gateway wants to be woken.
    pub(crate) fn due(&self) -> Option<u64> {
        self.gateway.deadline().map(|at| at.as_millis().max(self.now))
    }

    pub(crate) fn timeout(&mut self) {
        self.handle(Input::Timeout);
    }

    fn add(&mut self, link: LinkId, certificate: PeerCertificate) {
        self.wires.insert(link, Wire { unread: Vec::new(), reading: true, sent: 0, certificate });
    }

    fn handle(&mut self, input: Input<'_>) {
        self.gateway.handle(&mut context!(self), input);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        let (mut closed, mut resumed) = (Vec::new(), Vec::new());
        let safe = self.stored;
        for action in self.out.actions().to_vec() {
            match action {
                Action::Datagram { to, bytes, .. } => {
                    self.did.push_back(Did::Datagram { to, bytes: self.out.bytes(&bytes).to_vec() });
                }
                Action::Send { link, bytes } => {
                    let Some(wire) = self.wires.get_mut(&link) else { continue };
                    wire.sent += bytes.len() as u64;
                    self.did.push_back(Did::Sent { link, bytes: self.out.bytes(&bytes).to_vec() });
                }
                Action::Connect { link, transport, to } => {
                    self.add(link, PeerCertificate::default());
                    self.did.push_back(Did::Connect { link, transport, to });
                }
                Action::StartTls { link, .. } => {
                    if let Some(wire) = self.wires.get_mut(&link) {
                        wire.unread.clear();
                        self.did.push_back(Did::StartTls { link });
                    }
                }
                Action::Close { link, .. } => closed.push(link),
                Action::Reading { link, on } => {
                    if let Some(wire) = self.wires.get_mut(&link) {
                        wire.reading = on;
                        resumed.extend(on.then_some(link));
                    }
                }
                Action::Store { .. } => self.stored += 1,
                Action::Log { code, text, .. } => {
                    if self.lines.len() == 200 {
                        self.lines.pop_front();
                    }
                    self.lines.push_back(format!("{} {code} {}", self.now, self.out.text(&text)));
                }
            }
        }
        self.out.clear();
        for link in closed {
            if self.wires.remove(&link).is_some() {
                self.did.push_back(Did::Closed { link });
                self.handle(Input::Closed { link, why: CloseReason::Local });
            }
        }
        for link in resumed {
            self.bring(link);
        }
        if self.stored > safe {
            self.handle(Input::Stored { number: self.stored });
        }
    }
}
