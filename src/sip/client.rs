//! Our own requests: where they go, sent again, failed over to the next address, and
//! matched with their responses.

use super::emit::{Request, emit_name, emit_request, request_len};
use super::endpoint::{
    Destination, END, Endpoint, Event, Failure, Outcome, Place, RESEND, Refused, Source, TIMERS, timer,
};
use super::header::{is_call_id, is_token};
use super::message::{Message, Method};
use super::server::{MARK, OWN};
use super::table::Secret;
use super::transaction::{Class, ClientInput, ClientMachine, ClientState, Kind, Send, Set, Step, T1_64, Tell};
use super::transport::{Branch, COOKIE, FAILED_FOR, LinkState, RETRY_AFTER_MAX, Route, ascii, base32};
use super::uri::Uri;
use crate::base::counters::Counter;
use crate::base::cx::{Cx, Ticket};
use crate::base::net::{CloseReason, LinkId, ListenerId, NotLocated, Target, Transport};
use crate::base::outbox::{Action, Writer};
use crate::base::slab::Key;
use crate::base::time::Instant;
use crate::base::trail::{Side, Step as Way};
use crate::limits::{
    DNS_TARGETS_MAX, SIP_CLIENT_TRANSACTIONS_PER_ROUTE_MAX, SIP_MESSAGE_OCTETS_MAX, SIP_PAGER_OCTETS_MAX,
    SIP_ROUTES_MAX,
};
use crate::settings::{DISCOVERED, NextHop, NextHopTransport, Settings, SipDomain};
use core::net::SocketAddr;
use core::time::Duration;

/// Destinations remembered.
pub(super) const ROUTES_MAX: usize = SIP_ROUTES_MAX;
/// Addresses are asked for again after that time: the locator knows how long they are
/// good, and answers from its memory.
const LOCATED_FOR: Duration = Duration::from_secs(10);
/// A request that would have to wait longer than that for its destination to take it, in
/// microseconds, is refused: who sent it would not wait for the answer.
const PACED_US_MAX: u64 = 32_000_000;
/// Random characters of a branch: 60 bits.
const BRANCH_RANDOM: usize = 12;
/// Octets of a branch of ours: cookie, random characters, mark.
const BRANCH_OCTETS: usize = COOKIE.len() + BRANCH_RANDOM + BRANCH_MARK;
/// Characters of the mark: 40 bits. Who forges one has only his own request refused.
const BRANCH_MARK: usize = 8;
/// Larger requests go over a stream (REQ-SIP-63).
const DATAGRAM_OCTETS_MAX: usize = SIP_PAGER_OCTETS_MAX;

/// A request of ours, from its beginning until its response was told.
#[derive(Debug)]
pub(super) struct Client {
    /// Who asked; nobody did for an ACK or a CANCEL.
    ticket: Option<Ticket>,
    machine: ClientMachine,
    stage: Stage,
    /// What the responses find it by.
    hash: u64,
    branch: Branch,
    /// What of the request goes into the mark of each of its branches.
    marked: u64,
    route: Key,
    target: Option<Target>,
    /// Which of the route's targets were tried, a bit each.
    tried: u32,
    /// The whole request but its Via.
    bytes: Vec<u8>,
    /// Where the Via belongs.
    via: usize,
    compact: bool,
    is_ack: bool,
    /// Octets given to the connection when the request was.
    given: u64,
    /// Was the connection used before, so that the peer may have closed it meanwhile?
    is_reused: bool,
    /// It was too large for UDP: the stream did not come about, so UDP it is.
    is_forced_udp: bool,
    is_cancelled: bool,
    /// Is it somebody else's, with his Via below ours?
    is_relayed: bool,
    /// Does it count among the requests under way to its destination?
    has_place: bool,
}

/// How far a request is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It waits until its destination takes one more.
    Paced,
    /// Its addresses are being looked for.
    Locating,
    /// Its connection is being opened.
    Connecting(LinkId),
    /// It goes by datagrams.
    Datagram(ListenerId, SocketAddr),
    /// It went over a connection.
    Stream(LinkId),
}

/// Does this branch carry our mark for a request of these fields?
pub(super) fn is_own_branch(secret: Secret, branch: &str, call_id: &str, from_tag: &str, uri: &str) -> bool {
    let Some((random, mark)) = branch.strip_prefix(COOKIE).and_then(|rest| rest.split_at_checked(BRANCH_RANDOM)) else {
        return false;
    };
    mark == mark_of(secret, random, marked(secret, call_id, from_tag, uri))
}

/// A moment in microseconds: a destination may take more than a thousand requests a second.
const fn micros(at: Instant) -> u64 {
    at.as_millis().saturating_mul(1000)
}

/// How fast requests may go to each domain.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    /// Domains in A-labels and requests a second, if they are to be held back.
    domains: Vec<(String, Option<u32>)>,
    /// The same for all others.
    others: Option<u32>,
}

impl Rates {
    pub(super) fn new(settings: &Settings) -> Self {
        let of = |domain: &SipDomain| (ascii(&domain.domain), domain.rate);
        Self {
            domains: settings.sip_domains.iter().map(of).collect(),
            others: DISCOVERED.rate.filter(|_| settings.discovery_open),
        }
    }

    /// Microseconds from one request to the next.
    fn interval(&self, domain: &str) -> Option<u64> {
        let known = self.domains.iter().find(|(name, _)| name == domain);
        known.map_or(self.others, |(_, rate)| *rate).map(|rate| 1_000_000 / u64::from(rate.max(1)))
    }
}

fn marked(secret: Secret, call_id: &str, from_tag: &str, uri: &str) -> u64 {
    secret.hash(MARK, &[call_id.as_bytes(), from_tag.as_bytes(), uri.as_bytes()])
}

fn mark_of(secret: Secret, random: &str, marked: u64) -> heapless::String<13> {
    let mut mark = base32(secret.hash(MARK, &[random.as_bytes(), &marked.to_be_bytes()]));
    mark.truncate(BRANCH_MARK);
    mark
}

impl Endpoint {
    pub(super) fn begin(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Ticket,
        destination: &Destination<'_>,
        request: &Request<'_>,
    ) -> Result<(), Refused> {
        if !is_well_formed(request) {
            return Err(Refused::Malformed);
        }
        let secret = self.secret(cx);
        let route = self.route_with_room(cx, destination)?;
        let mut w = cx.out.begin();
        let may_compact = match destination {
            Destination::NextHop { hop, .. } => hop.transport == NextHopTransport::Udp || request.to_tag.is_none(),
            Destination::Domain { .. } => true,
        };
        let (via, compact) = self.vouching.vouched(destination.domain(), request, |request| {
            emit(&mut w, request, self.via_octets(destination, false), may_compact)
        });
        if w.len() > SIP_MESSAGE_OCTETS_MAX {
            w.cancel();
            return Err(Refused::TooLarge);
        }
        let bytes = self.buffers.lend(w.written());
        w.cancel();
        let marked = marked(secret, request.call_id, request.from_tag, request.uri);
        let bytes = bytes.ok_or(Refused::Overload)?;
        self.enter(cx, Client { via, compact, ..new_client(ticket, request.method, marked, route, bytes) })
    }

    /// Begins a request of somebody else that is sent on; `via` is the place of our Via in it.
    pub(super) fn begin_relayed(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Ticket,
        destination: &Destination<'_>,
        message: &Message<'_>,
        octets: &[u8],
        via: usize,
    ) -> Result<(), Refused> {
        let secret = self.secret(cx);
        let route = self.route_with_room(cx, destination)?;
        if octets.len() > SIP_MESSAGE_OCTETS_MAX {
            return Err(Refused::TooLarge);
        }
        let bytes = self.buffers.lend(octets).ok_or(Refused::Overload)?;
        let from_tag = message.from().tag.unwrap_or_default();
        let marked = marked(secret, message.call_id(), from_tag, message.uri());
        let client = new_client(ticket, message.method(), marked, route, bytes);
        self.enter(cx, Client { via, is_relayed: true, ..client })
    }

    /// The destination of a new request, if there is room for one.
    fn route_with_room(&mut self, cx: &Cx<'_>, destination: &Destination<'_>) -> Result<Key, Refused> {
        let route = self.route(cx.now, destination).ok_or(Refused::Overload)?;
        if self.clients.is_full() {
            self.forget_accepted();
        }
        let is_crowded = |route: &Route| route.requests >= SIP_CLIENT_TRANSACTIONS_PER_ROUTE_MAX;
        if self.clients.is_full() || self.routes.get(route).is_none_or(is_crowded) {
            return Err(Refused::Overload);
        }
        if self.routes.get(route).is_some_and(|route| route.departs.saturating_sub(micros(cx.now)) > PACED_US_MAX) {
            return Err(Refused::Overload);
        }
        Ok(route)
    }

    fn enter(&mut self, cx: &mut Cx<'_>, client: Client) -> Result<(), Refused> {
        let route = client.route;
        let key = self.clients.insert(client).map_err(|_| Refused::Overload)?;
        self.client_timers.set(timer(key, END), cx.now.after(T1_64));
        self.depart(cx, key, route);
        Ok(())
    }

    /// Sends a new request when its destination takes one more.
    fn depart(&mut self, cx: &mut Cx<'_>, key: Key, route_key: Key) {
        let Some(route) = self.routes.get_mut(route_key) else { return };
        route.requests += 1;
        let is_ack = self.clients.get(key).is_some_and(|client| client.is_ack);
        let Some(interval) = self.rates.interval(&route.domain).filter(|_| !is_ack) else {
            return self.go(cx, key, route_key);
        };
        let now = micros(cx.now);
        let at = route.departs.max(now);
        route.departs = at + interval;
        if at == now {
            return self.go(cx, key, route_key);
        }
        if let Some(client) = self.clients.get_mut(key) {
            client.stage = Stage::Paced;
        }
        self.client_timers.stop(timer(key, END));
        self.client_timers.set(timer(key, RESEND), Instant::from_millis(at.div_ceil(1000)));
    }

    /// Sends a request, or has its addresses looked for.
    fn go(&mut self, cx: &mut Cx<'_>, key: Key, route_key: Key) {
        let Some(route) = self.routes.get_mut(route_key) else { return };
        if let Some(target) = route.literal() {
            route.targets.clear();
            // One target fits.
            let _ = route.targets.push(target);
            route.located = Some(cx.now);
        }
        if route.located.is_some_and(|then| cx.now.since(then) < LOCATED_FOR) {
            self.attempt(cx, key, Failure::NotLocated(NotLocated::NoAddress));
        } else if !route.is_asking {
            route.is_asking = true;
            self.outcomes.push_back(Outcome::Locate(route_key));
        }
    }

    pub(super) fn measure(&self, destination: &Destination<'_>, request: &Request<'_>) -> usize {
        self.vouching.vouched(destination.domain(), request, |request| {
            let octets = |compact| request_len(request, compact) + self.via_octets(destination, compact);
            if octets(false) <= SIP_PAGER_OCTETS_MAX { octets(false) } else { octets(true) }
        })
    }

    /// Octets of the Via line. Of a domain the transport is not known yet:
    /// the longest line counts.
    fn via_octets(&self, destination: &Destination<'_>, compact: bool) -> usize {
        let octets = |transport: Transport| self.ways.via_len(transport, compact) + BRANCH_OCTETS;
        match destination {
            Destination::NextHop { hop, .. } => octets(hop.transport.into()),
            Destination::Domain { .. } => {
                [Transport::Udp, Transport::Tcp, Transport::Tls].map(octets).into_iter().max().unwrap_or_default()
            }
        }
    }

    /// What is known of a destination; `None` if all places are taken.
    fn route(&mut self, now: Instant, destination: &Destination<'_>) -> Option<Key> {
        let (hop, domain): (Option<&NextHop>, &str) = match *destination {
            Destination::NextHop { hop, domain } => (Some(hop), domain),
            Destination::Domain { domain } => (None, domain),
        };
        let known = self.routes.iter().find(|(_, route)| route.is_for(hop, domain)).map(|(key, _)| key);
        if let Some(key) = known {
            if let Some(route) = self.routes.get_mut(key) {
                route.used = now;
            }
            return Some(key);
        }
        if self.routes.is_full() {
            let idle = self.routes.iter().filter(|(_, route)| route.requests == 0);
            let (oldest, _) = idle.min_by_key(|(_, route)| route.used)?;
            self.routes.remove(oldest);
        }
        let route = Route {
            hop: hop.cloned(),
            domain: domain.to_owned(),
            targets: heapless::Vec::new(),
            hosts: Vec::new(),
            departs: 0,
            located: None,
            is_asking: false,
            used: now,
            requests: 0,
        };
        self.routes.insert(route).ok()
    }

    /// What to look for on behalf of a route.
    pub(super) fn place(&self, route: Key) -> Option<Place> {
        let route = self.routes.get(route)?;
        Some(match &route.hop {
            Some(hop) => {
                Place { host: hop.host.clone(), port: hop.port, transport: Some(hop.transport.into()), sips: false }
            }
            None => Place { host: route.domain.clone(), port: None, transport: None, sips: false },
        })
    }

    /// The hosts of the targets of a route that are about to be told.
    pub(super) fn set_hosts(&mut self, route: Key, hosts: &[String]) {
        if let Some(route) = self.routes.get_mut(route) {
            route.hosts = hosts.iter().take(DNS_TARGETS_MAX).cloned().collect();
        }
    }

    pub(super) fn on_located(&mut self, cx: &mut Cx<'_>, route_key: Key, targets: Result<&[Target], NotLocated>) {
        let Some(route) = self.routes.get_mut(route_key) else { return };
        route.is_asking = false;
        note_located(cx, route, targets);
        let failure = match targets {
            Ok(targets) => {
                route.targets = targets.iter().take(DNS_TARGETS_MAX).copied().collect();
                route.located = Some(cx.now);
                NotLocated::NoAddress
            }
            Err(failure) => failure,
        };
        for index in 0..self.clients.capacity() as u32 {
            let Some(key) = self.clients.key_at(index) else { continue };
            let waits = |client: &Client| client.route == route_key && client.stage == Stage::Locating;
            if !self.clients.get(key).is_some_and(waits) {
                continue;
            }
            match targets {
                Ok(_) => self.attempt(cx, key, Failure::NotLocated(failure)),
                Err(_) => self.fail(cx, key, Failure::NotLocated(failure)),
            }
        }
    }

    /// Sends the request to the next of its targets; with none left it has failed as
    /// the last one did.
    fn attempt(&mut self, cx: &mut Cx<'_>, key: Key, last: Failure) {
        let mut last = last;
        if self.is_shut {
            return self.fail(cx, key, last);
        }
        while let Some(next) = self.next_target(cx.now, key) {
            let (index, target) = match next {
                Ok(next) => next,
                Err(failure) => return self.fail(cx, key, failure),
            };
            if let Some(client) = self.clients.get_mut(key) {
                client.tried |= 1 << index;
                client.is_forced_udp = false;
            }
            match self.start(cx, key, target) {
                Ok(()) => return,
                Err(failure) => last = failure,
            }
        }
        self.fail(cx, key, last);
    }

    /// The next target: first those that did not fail lately; one that did only if no
    /// other was tried. An error if all asked to be left alone.
    fn next_target(&self, now: Instant, key: Key) -> Option<Result<(usize, Target), Failure>> {
        let client = self.clients.get(key)?;
        let route = self.routes.get(client.route)?;
        let left = || {
            let all = route.targets.iter().copied().enumerate();
            all.filter(|(index, _)| client.tried & 1 << index == 0)
        };
        if let Some(good) = left().find(|(_, target)| self.failed.of(now, *target).is_none()) {
            return Some(Ok(good));
        }
        if client.tried != 0 {
            return None;
        }
        match left().find(|(_, target)| self.failed.of(now, *target) == Some(false)) {
            Some(failed) => Some(Ok(failed)),
            None if route.targets.is_empty() => None,
            None => Some(Err(Failure::Overload)),
        }
    }

    /// Sends the request to `target`, or begins to connect to it.
    fn start(&mut self, cx: &mut Cx<'_>, key: Key, target: Target) -> Result<(), Failure> {
        let secret = self.secret(cx);
        let Some(client) = self.clients.get_mut(key) else { return Ok(()) };
        let random = cx.rng.token::<BRANCH_RANDOM>();
        let mark = mark_of(secret, random.as_str(), client.marked);
        let mut branch = Branch::new();
        for piece in [COOKIE, random.as_str(), mark.as_str()] {
            // The pieces fit by type.
            let _ = branch.push_str(piece);
        }
        self.by_own_branch.remove(client.hash, key);
        client.hash = own_hash(secret, &branch, client.method());
        client.branch = branch;
        client.target = Some(target);
        let is_large = client.bytes.len() + BRANCH_OCTETS > DATAGRAM_OCTETS_MAX && !client.is_forced_udp;
        self.by_own_branch.insert(client.hash, key);
        if target.transport == Transport::Udp && !is_large {
            let unreachable = Failure::Transport(CloseReason::Unreachable);
            let listener = self.ways.udp_towards(target.address.ip()).ok_or(unreachable)?;
            client.stage = Stage::Datagram(listener, target.address);
            self.transmit_first(cx, key);
            return Ok(());
        }
        let transport = if target.transport == Transport::Udp { Transport::Tcp } else { target.transport };
        let target = Target { transport, ..target };
        let route = self.routes.get(client.route);
        let names = route.map_or(["", ""], |route| route.names_at(target.address));
        let id = match self.links.find(target, &names) {
            Some(id) => id,
            None => {
                let names = names.map(str::to_owned);
                self.connect(cx, target, names).ok_or(Failure::Transport(CloseReason::Overflow))?
            }
        };
        self.board(cx, key, id);
        Ok(())
    }

    /// Puts a request on a connection, now or when it is up.
    fn board(&mut self, cx: &mut Cx<'_>, key: Key, id: LinkId) {
        let (Some(client), Some(link)) = (self.clients.get_mut(key), self.links.get(id)) else { return };
        if link.state == LinkState::Ready {
            client.is_reused = link.given > 0;
            client.stage = Stage::Stream(id);
            self.transmit_first(cx, key);
        } else {
            client.stage = Stage::Connecting(id);
            // The connection has a deadline of its own, shorter than this one.
            self.client_timers.set(timer(key, END), cx.now.after(T1_64));
            self.client_timers.stop(timer(key, RESEND));
        }
    }

    fn transmit_first(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let is_reliable = !matches!(client.stage, Stage::Datagram(..));
        client.machine = ClientMachine::new(client.machine.kind, is_reliable);
        let step = client.machine.step(ClientInput::Sent);
        self.set_client_timers(cx, key, &step);
        self.transmit(cx, key);
        if self.clients.get(key).is_some_and(|client| client.is_ack) {
            self.finish(key);
        }
    }

    /// Puts the request on its way, with its Via.
    fn transmit(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let transport = match client.stage {
            Stage::Datagram(..) => Transport::Udp,
            Stage::Stream(id) => self.links.get(id).map_or(Transport::Tcp, |link| link.transport),
            Stage::Paced | Stage::Locating | Stage::Connecting(_) => return,
        };
        let (start, rest) = client.bytes.split_at_checked(client.via).unwrap_or_default();
        let mut w = cx.out.begin();
        w.bytes(start);
        self.ways.emit_via(&mut w, transport, &client.branch, client.compact);
        w.bytes(rest);
        let bytes = w.finish();
        match client.stage {
            Stage::Datagram(listener, to) => cx.out.push(Action::Datagram { listener, to, bytes }),
            Stage::Stream(id) => {
                self.push_octets(cx, id, bytes);
                let given = self.links.get(id).map_or(0, |link| link.given);
                if let Some(client) = self.clients.get_mut(key) {
                    client.given = given;
                }
            }
            Stage::Paced | Stage::Locating | Stage::Connecting(_) => {}
        }
    }

    /// A connection is up: what waited for it goes.
    pub(super) fn flush_requests(&mut self, cx: &mut Cx<'_>, id: LinkId) {
        for index in 0..self.clients.capacity() as u32 {
            let Some(key) = self.clients.key_at(index) else { continue };
            if self.clients.get(key).is_some_and(|client| client.stage == Stage::Connecting(id)) {
                self.board(cx, key, id);
            }
        }
    }

    /// A connection is gone, or did not come about: what was on it goes elsewhere.
    pub(super) fn divert_requests(&mut self, cx: &mut Cx<'_>, id: LinkId, was: LinkState, drained: u64, why: Failure) {
        for index in 0..self.clients.capacity() as u32 {
            let Some(key) = self.clients.key_at(index) else { continue };
            let Some(client) = self.clients.get_mut(key) else { continue };
            let is_sent = client.stage == Stage::Stream(id);
            if !(is_sent || client.stage == Stage::Connecting(id)) || client.machine.is_answered() {
                continue;
            }
            let Some(target) = client.target else { continue };
            // The peer had closed a connection that stood for a while, and the request
            // never left: a fresh one is no second sending.
            if is_sent && client.is_reused && client.given > drained && client.machine.state != ClientState::Proceeding
            {
                client.is_reused = false;
                if self.start(cx, key, target).is_ok() {
                    continue;
                }
            } else if !is_sent && target.transport == Transport::Udp {
                client.is_forced_udp = true;
                if self.start(cx, key, target).is_ok() {
                    continue;
                }
            }
            if was != LinkState::Ready {
                self.failed.add(cx.now, target, FAILED_FOR, false);
            }
            self.attempt(cx, key, why);
        }
    }

    fn set_client_timers(&mut self, cx: &Cx<'_>, key: Key, step: &Step) {
        for (which, set) in [(RESEND, step.resend), (END, step.end)] {
            match set {
                Set::Keep => {}
                Set::Stop => self.client_timers.stop(timer(key, which)),
                Set::After(time) => self.client_timers.set(timer(key, which), cx.now.after(time)),
            }
        }
    }

    pub(super) fn on_client_timer(&mut self, cx: &mut Cx<'_>, fired: u32) {
        let Some(key) = self.clients.key_at(fired / TIMERS) else { return };
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.stage == Stage::Paced {
            client.stage = Stage::Locating;
            let route = client.route;
            self.client_timers.set(timer(key, END), cx.now.after(T1_64));
            return self.go(cx, key, route);
        }
        if matches!(client.stage, Stage::Locating | Stage::Connecting(_)) {
            self.fail(cx, key, Failure::Timeout);
            return;
        }
        let input = if fired % TIMERS == RESEND { ClientInput::Resend } else { ClientInput::End };
        let was = client.machine.state;
        let step = client.machine.step(input);
        self.set_client_timers(cx, key, &step);
        if step.send == Send::Again {
            cx.count(Counter::SipRetransmissionOut);
            self.transmit(cx, key);
        }
        match step.tell {
            Tell::Timeout => self.on_client_timeout(cx, key, was),
            Tell::Nothing | Tell::Message if step.over => self.finish(key),
            Tell::Nothing | Tell::Message => {}
        }
    }

    fn on_client_timeout(&mut self, cx: &mut Cx<'_>, key: Key, was: ClientState) {
        let Some(client) = self.clients.get(key) else { return };
        let target = client.target;
        if let Some(target) = target {
            cx.refuse(
                Counter::SipTimeout,
                "sip.timeout",
                format_args!("side=sip peer={} transport={}: no answer", target.address, target.transport),
            );
        }
        if let (Some(target), Some(route)) = (target, self.routes.get(client.route)) {
            cx.out.trail.failed(
                &route.names_at(target.address),
                Way::RoundTrip,
                Side::Partner,
                format_args!("{} by {}: no answer within {} s", target.address, target.transport, T1_64.as_secs()),
                "the peer takes the request and does not answer, or drops it: its log says why",
            );
        }
        // One that rang is there, and one that said 100 has the request.
        if was == ClientState::Proceeding {
            self.fail(cx, key, Failure::Timeout);
            return;
        }
        if let Some(target) = target {
            self.failed.add(cx.now, target, FAILED_FOR, false);
        }
        self.attempt(cx, key, Failure::Timeout);
    }

    /// A response came whose syntax is good.
    pub(super) fn on_response<'a>(
        &mut self,
        cx: &mut Cx<'_>,
        source: Source,
        message: Message<'a>,
    ) -> Option<Event<'a>> {
        let secret = self.secret(cx);
        let hash = own_hash(secret, message.via().branch(), message.cseq().method);
        // Another Via below ours, and the request was our own: somebody sent us what was meant for another (REQ-SIP-36).
        let (is_ours, is_below) = (self.ways.is_ours(message.via()), message.vias().nth(1).is_some());
        let fits = |client: &Client| is_ours && client.is_relayed == is_below;
        let found = self.by_own_branch.find(hash).filter(|key| self.clients.get(*key).is_some_and(fits));
        let Some(key) = found else {
            if self.absorbed.recall(cx.now, hash).is_none() {
                cx.count(Counter::SipStrayResponse);
                cx.debug(
                    "sip.response.stray",
                    format_args!("side=sip peer={} status={}", source.address, message.status()),
                );
            }
            return None;
        };
        let client = self.clients.get_mut(key)?;
        let class = Class::of(message.status());
        let step = client.machine.step(ClientInput::Response(class));
        let (ticket, target) = (client.ticket, client.target);
        if let Some(target) = target {
            // It is there again; a 503 is judged below.
            self.failed.remove(target);
        }
        self.set_client_timers(cx, key, &step);
        if step.send == Send::Ack {
            self.acknowledge(cx, key, message.header("To").unwrap_or_default());
        }
        if step.tell != Tell::Message {
            return None;
        }
        if class == Class::Provisional {
            self.cancel_now(cx, key);
        } else if message.status() == 503 && self.is_diverted(cx, key, target, message.retry_after()) {
            return None;
        } else {
            self.settle(cx, key, hash, &step);
        }
        Some(Event::Response { ticket: ticket?, message })
    }

    /// A 503 asks us to go elsewhere, if there is an elsewhere.
    fn is_diverted(&mut self, cx: &mut Cx<'_>, key: Key, target: Option<Target>, retry_after: Option<u32>) -> bool {
        let Some(target) = target else { return false };
        let asked = retry_after.map(|seconds| Duration::from_secs(u64::from(seconds)).min(RETRY_AFTER_MAX));
        self.failed.add(cx.now, target, asked.unwrap_or(FAILED_FOR), asked.is_some());
        if !matches!(self.next_target(cx.now, key), Some(Ok(_))) {
            return false;
        }
        self.attempt(cx, key, Failure::Overload);
        true
    }

    /// The final response is told; what stays absorbs its repetitions.
    fn settle(&mut self, cx: &mut Cx<'_>, key: Key, hash: u64, step: &Step) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.machine.kind == Kind::Invite && !step.over {
            // It only waits for what may come again: no reason to hold up other requests.
            self.give_place_back(key);
            return;
        }
        // In place of Timer K, without keeping the request.
        self.absorbed.remember(cx.now, hash, 0);
        self.finish(key);
    }

    /// Ends a request without an answer.
    fn fail(&mut self, cx: &mut Cx<'_>, key: Key, failure: Failure) {
        let Some(client) = self.clients.get(key) else { return };
        if let Some(ticket) = client.ticket {
            self.outcomes.push_back(Outcome::Failed(ticket, failure));
        }
        let domain = self.routes.get(client.route).map_or("", |route| &route.domain);
        cx.debug("sip.request.failed", format_args!("side=sip domain={domain} failure={failure:?}"));
        self.finish(key);
    }

    fn finish(&mut self, key: Key) {
        let Some(client) = self.clients.remove(key) else { return };
        for which in 0..TIMERS {
            self.client_timers.stop(timer(key, which));
        }
        self.by_own_branch.remove(client.hash, key);
        self.buffers.take_back(client.bytes);
        if let Some(route) = self.routes.get_mut(client.route).filter(|_| client.has_place) {
            route.requests = route.requests.saturating_sub(1);
        }
    }

    /// A request counts no longer among those under way to its destination.
    fn give_place_back(&mut self, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if core::mem::take(&mut client.has_place)
            && let Some(route) = self.routes.get_mut(client.route)
        {
            route.requests = route.requests.saturating_sub(1);
        }
    }

    /// Makes room: an INVITE that was accepted long ago hears of further acceptances no more.
    fn forget_accepted(&mut self) {
        let accepted = |client: &Client| client.machine.state == ClientState::Accepted;
        let end = |key: Key| self.client_timers.of(timer(key, END));
        let oldest = self.clients.iter().filter(|(_, client)| accepted(client)).min_by_key(|(key, _)| end(*key));
        if let Some(key) = oldest.map(|(key, _)| key) {
            self.finish(key);
        }
    }

    /// The ACK to a failure, the way the INVITE went (RFC 3261 section 17.1.1.3).
    fn acknowledge(&mut self, cx: &mut Cx<'_>, key: Key, to: &str) {
        let Some(client) = self.clients.get(key) else { return };
        let Some((stage, bytes)) = self.write_sibling(cx, client, "ACK", Some(to)) else { return };
        match stage {
            Stage::Datagram(listener, to) => cx.out.push(Action::Datagram { listener, to, bytes }),
            Stage::Stream(id) => drop(self.push_octets(cx, id, bytes)),
            Stage::Paced | Stage::Locating | Stage::Connecting(_) => {}
        }
    }

    /// Writes an ACK or a CANCEL beside an INVITE into the arena, Via and all.
    fn write_sibling(
        &self,
        cx: &mut Cx<'_>,
        client: &Client,
        method: &str,
        to: Option<&str>,
    ) -> Option<(Stage, core::ops::Range<usize>)> {
        let transport = match client.stage {
            Stage::Datagram(..) => Transport::Udp,
            Stage::Stream(id) => self.links.get(id)?.transport,
            Stage::Paced | Stage::Locating | Stage::Connecting(_) => return None,
        };
        let mut w = cx.out.begin();
        emit_sibling(&mut w, client, method, to, |w| {
            self.ways.emit_via(w, transport, &client.branch, client.compact);
        });
        Some((client.stage, w.finish()))
    }

    /// The domain, in A-labels, that the INVITE of a ticket went to, while further responses
    /// to it may come.
    pub(super) fn domain_of_invite(&self, ticket: Ticket) -> Option<&str> {
        let (_, client) = self.clients.iter().find(|(_, client)| client.ticket == Some(ticket))?;
        self.routes.get(client.route).map(|route| &*route.domain)
    }

    pub(super) fn cancel_invite(&mut self, cx: &mut Cx<'_>, ticket: Ticket) {
        let found = self.clients.iter().find(|(_, client)| client.ticket == Some(ticket)).map(|(key, _)| key);
        let Some(key) = found else { return };
        let Some(client) = self.clients.get_mut(key).filter(|client| client.machine.kind == Kind::Invite) else {
            return;
        };
        if client.is_cancelled {
            return;
        }
        client.is_cancelled = true;
        match client.machine.state {
            // Not before the peer has shown that it has the INVITE (REQ-SIP-49).
            ClientState::Trying { .. } => {}
            ClientState::Proceeding => self.cancel_now(cx, key),
            ClientState::Completed | ClientState::Accepted => {}
        }
    }

    /// Sends the CANCEL that was asked for: a request of its own, with the branch of
    /// the INVITE.
    fn cancel_now(&mut self, cx: &mut Cx<'_>, invite: Key) {
        let Some(client) = self.clients.get_mut(invite).filter(|client| client.is_cancelled) else { return };
        // Once only.
        client.is_cancelled = false;
        // The INVITE must not ring for ever if nobody obeys (RFC 3261 section 9.1).
        self.client_timers.set(timer(invite, END), cx.now.after(T1_64));
        let secret = self.secret(cx);
        let Some(client) = self.clients.get(invite) else { return };
        let mut w = cx.out.begin();
        let via = emit_sibling(&mut w, client, "CANCEL", None, |_| {});
        let bytes = self.buffers.lend(w.written());
        w.cancel();
        let Some(bytes) = bytes else { return };
        let cancel = Client {
            ticket: None,
            machine: ClientMachine::new(Kind::Other, true),
            stage: client.stage,
            hash: own_hash(secret, &client.branch, "CANCEL"),
            branch: client.branch.clone(),
            marked: client.marked,
            route: client.route,
            target: client.target,
            // It goes where the INVITE went or nowhere.
            tried: u32::MAX,
            bytes,
            via,
            compact: client.compact,
            is_ack: false,
            given: 0,
            is_reused: false,
            is_forced_udp: false,
            is_cancelled: false,
            is_relayed: false,
            has_place: true,
        };
        let (hash, route) = (cancel.hash, cancel.route);
        match self.clients.insert(cancel) {
            Ok(key) => {
                self.by_own_branch.insert(hash, key);
                if let Some(route) = self.routes.get_mut(route) {
                    route.requests += 1;
                }
                self.transmit_first(cx, key);
            }
            Err(cancel) => self.buffers.take_back(cancel.bytes),
        }
    }
}

/// Tells whoever asks where a destination is.
fn note_located(cx: &mut Cx<'_>, route: &Route, targets: Result<&[Target], NotLocated>) {
    let (text, advice) = match targets {
        Ok(targets) => {
            let places: Vec<String> = targets.iter().map(|t| format!("{} ({})", t.address, t.transport)).collect();
            cx.out.trail.passed(
                &[&route.domain, route.hop.as_ref().map_or("", |hop| &hop.host)],
                Way::Dns,
                format_args!("{}", places.join(", ")),
            );
            return;
        }
        Err(NotLocated::NoSuchDomain) => (
            "the name does not exist, or says that it has no SIP service",
            "check how it is written, or set sip domain DOMAIN next-hop",
        ),
        Err(NotLocated::NoAnswer) => {
            ("no server of the DNS answered in time", "check system dns server, and whether the domain's servers work")
        }
        Err(NotLocated::NoAddress) => {
            ("there is no address that may be used", "publish A or AAAA records, or set sip domain DOMAIN next-hop")
        }
        Err(NotLocated::ForeignTarget) => (
            "the SRV record _sipfederationtls._tcp names a host outside the domain",
            "let the record name a host of the domain, or set sip domain DOMAIN next-hop, or srv-target warn",
        ),
    };
    cx.out.trail.failed(
        &[&route.domain, route.hop.as_ref().map_or("", |hop| &hop.host)],
        Way::Dns,
        Side::Dns,
        format_args!("{text}"),
        advice,
    );
}

impl Client {
    /// The method, as the request-line has it.
    fn method(&self) -> &str {
        let line = self.bytes.get(..self.via).unwrap_or_default();
        let method = line.split(|c| *c == b' ').next().unwrap_or_default();
        core::str::from_utf8(method).unwrap_or_default()
    }
}

/// A request of ours that was not sent yet.
fn new_client(ticket: Ticket, method: Method<'_>, marked: u64, route: Key, bytes: Vec<u8>) -> Client {
    let is_ack = method == Method::Ack;
    let kind = if method == Method::Invite { Kind::Invite } else { Kind::Other };
    Client {
        ticket: (!is_ack).then_some(ticket),
        machine: ClientMachine::new(kind, true),
        stage: Stage::Locating,
        hash: 0,
        branch: Branch::new(),
        marked,
        route,
        target: None,
        tried: 0,
        bytes,
        via: 0,
        compact: false,
        is_ack,
        given: 0,
        is_reused: false,
        is_forced_udp: false,
        is_cancelled: false,
        is_relayed: false,
        has_place: true,
    }
}

fn own_hash(secret: Secret, branch: &str, method: &str) -> u64 {
    secret.hash(OWN, &[branch.as_bytes(), method.as_bytes()])
}

/// Writes a request in its long form, or in the compact one if that and only that is as short
/// as a datagram, or a MESSAGE outside a dialog, may be. Gives the place of the Via.
fn emit(w: &mut Writer<'_>, request: &Request<'_>, via_octets: usize, may_compact: bool) -> (usize, bool) {
    let fits = |compact| request_len(request, compact) + via_octets <= SIP_PAGER_OCTETS_MAX;
    let compact = may_compact && !fits(false) && fits(true);
    (emit_request(w, request, compact), compact)
}

/// Writes the ACK or CANCEL to an INVITE: its Request-URI, From, Call-ID, Route and
/// number of CSeq; To too, unless another is given. Gives the place of the Via.
fn emit_sibling(
    w: &mut Writer<'_>,
    client: &Client,
    method: &str,
    to: Option<&str>,
    emit_via: impl FnOnce(&mut Writer<'_>),
) -> usize {
    const KEPT: [&str; 9] = ["Max-Forwards", "From", "f", "To", "t", "Call-ID", "i", "CSeq", "Route"];
    // What is sent on has the names as their sender wrote them.
    let is_kept = |name: &str| KEPT.iter().any(|kept| kept.eq_ignore_ascii_case(name));
    let text = core::str::from_utf8(&client.bytes).unwrap_or_default();
    let text = text.split_once("\r\n\r\n").map_or(text, |(head, _)| head);
    let mut lines = text.split("\r\n");
    let uri = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default();
    w.str(method).str(" ").str(uri).str(" SIP/2.0\r\n");
    let via = w.len();
    emit_via(w);
    for line in lines {
        let Some((name, value)) = line.split_once(": ").filter(|(name, _)| is_kept(name)) else { continue };
        w.str(name).str(": ");
        match to {
            Some(to) if ["To", "t"].iter().any(|own| own.eq_ignore_ascii_case(name)) => w.str(to),
            _ if name.eq_ignore_ascii_case("CSeq") => {
                w.str(value.split([' ', '\t']).next().unwrap_or_default()).str(" ").str(method)
            }
            _ => w.str(value),
        };
        w.str("\r\n");
    }
    emit_name(w, "Content-Length", client.compact);
    w.str("0\r\n\r\n");
    via
}

/// Will what is written parse again, with every value in its place?
fn is_well_formed(request: &Request<'_>) -> bool {
    is_token(request.method.as_str())
        && [request.uri, request.from, request.to].into_iter().all(|uri| Uri::parse(uri).is_ok())
        && is_token(request.from_tag)
        && request.to_tag.is_none_or(is_token)
        && is_call_id(request.call_id)
        && request.cseq < 1 << 31
}
