//! The door of the XMPP side: streams by domain pair, a bounded queue while one opens.
//!
//! [`Server`] holds every connection and every pair. A stanza that is given to
//! [`Server::send`] goes out at once if a stream carries its pair; else it waits while
//! one is located, connected and negotiated, target after target, and gets its outcome
//! in any case: [`Event::Delivered`] once the partner acknowledged it (XEP-0198) or, where
//! it does not do that, once its octets have left and the connection was seen alive after
//! that; [`Event::Undelivered`] with the reason otherwise.
//!
//! How the work is divided: `stream` is one connection, `initiator` and `answerer` are its
//! two ends, `route` is one pair of domains, `routing` brings the two together, `dialback` confirms the keys of
//! partners, `management` counts what was handled.
//!
//! Invariants: a stanza is handed up only if the stream proved its sender's domain for
//! the domain it is sent to, and never with a sender's domain that is one of ours. A
//! stream proves itself within its time or is closed. A ticket gets one outcome.

use super::dialback::{Keys, Verification};
use super::framer::{Item, StreamHeader};
use super::management::Session;
use super::ns;
use super::policy::Policy;
use super::route::{Route, Stage};
use super::stanza::{Kind, Stanza};
use super::status;
use super::stream::{Channel, Ended, Ping, Side, State, Step, Stream};
use super::stream_error::{StreamCondition, StreamFault};
use crate::base::certificate::PeerCertificate;
use crate::base::counters::Counter;
use crate::base::cx::{Cx, Ticket};
use crate::base::net::{CloseReason, LinkId, ListenerId};
use crate::base::slab::{Key, Slab};
use crate::base::text::Escaped;
use crate::base::time::Instant;
use crate::base::timers::Timers;
use crate::base::trail;
use crate::base::xml::{Node, Tag, Tree};
use crate::limits;
use crate::settings::Settings;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

/// All streams, all pairs of domains.
#[derive(Debug)]
pub struct Server {
    /// What the operator decided.
    pub(super) policy: Policy,
    /// The connections.
    pub(super) streams: Slab<Stream>,
    /// Which connection is which stream.
    pub(super) links: BTreeMap<LinkId, Key>,
    /// The pairs of domains.
    pub(super) routes: Slab<Route>,
    /// The routes to a domain; those of components are under the empty name.
    pub(super) routes_to: BTreeMap<String, Vec<Key>>,
    /// The counts of stream management.
    pub(super) sessions: Slab<Session>,
    /// Keys of partners that are being confirmed.
    pub(super) verifications: Slab<Verification>,
    /// All deadlines: see [`Timer`].
    pub(super) timers: Timers,
    /// What happened and was not fetched yet.
    pub(super) outcomes: VecDeque<Event<'static>>,
    /// Octets that wait in all queues.
    pub(super) queued_octets: usize,
    /// Are we on our way out?
    pub(super) is_shut: bool,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A stanza came. Its sender's domain is proved on its stream, `to` is at a domain of
    /// ours, both addresses are prepared.
    Stanza {
        /// To be given to [`Server::handled`] when its outcome is certain.
        handle: Handle,
        /// The stanza.
        stanza: Stanza<'a>,
    },
    /// The partner has the stanza.
    Delivered {
        /// Which.
        ticket: Ticket,
    },
    /// The partner does not have it, or may not have it.
    Undelivered {
        /// Which.
        ticket: Ticket,
        /// Why.
        why: Undelivered,
    },
    /// A stream on which a partner's users had sent something broke: what is known of
    /// them may be out of date.
    Lost {
        /// Our domain.
        ours: String,
        /// The partner's; empty for the server of a component.
        theirs: String,
    },
    /// A stanza of [`Handle::of_test`] was handled.
    Handled {
        /// Which.
        number: u32,
    },
    /// Where are the servers of a domain? Answer with [`Server::located`].
    Locate {
        /// For the answer.
        place: Key,
        /// The domain, in U-labels.
        domain: String,
        /// To be asked for instead of the domain's SRV records.
        proxy: Option<(String, Option<u16>)>,
    },
}

/// A stanza that was handed up and whose handling is not finished. Give it back to
/// `Server::handled` once its outcome is certain: from then on it may be acknowledged
/// to the partner (XEP-0198).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle {
    /// The count it belongs to, if its stream has one; a stale key finds nothing.
    pub(super) session: Option<Key>,
    /// Which stanza of that count.
    pub(super) number: u32,
}

impl Handle {
    /// A handle of no stream: what becomes of it is told by [`Event::Handled`].
    pub const fn of_test(number: u32) -> Self {
        Self { session: Some(OF_TEST), number }
    }
}

/// No session has this key: the table of sessions is smaller.
const OF_TEST: Key = Key::from_bits(u64::MAX);

/// Why a stanza was not even taken for sending. The caller keeps the ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The domain is no partner, and we open no streams to strangers.
    NotPartner,
    /// No room: the queue of the pair, the table of streams or a connection limit.
    Overload,
    /// Longer than the partner takes (XEP-0478): tell the sender `policy-violation`.
    TooLarge {
        /// The most octets it takes.
        limit: usize,
    },
    /// A stream to the domain failed a moment ago, in this way.
    Failed(Undelivered),
}

/// Why a stanza that was taken did not reach the partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undelivered {
    /// The domain does not exist, or says that it has no XMPP service.
    NotFound,
    /// None of the domain's addresses could be reached.
    Unreachable,
    /// No stream came up, or no acknowledgement came, in time.
    Timeout,
    /// The partner refused us, or our policy refused the partner: TLS, certificate,
    /// authentication, stream error.
    Refused,
    /// No room, or we are shutting down.
    Overload,
    /// Longer than the partner said it takes (XEP-0478), when its stream was up at last.
    TooLarge,
    /// The stream was lost after the stanza was sent and before it was certain that
    /// the partner has it. It may or may not have been delivered, so it is not sent
    /// again (promise P2).
    StreamLost,
}

/// The deadlines of a stream; those of routes and verifications follow behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// A stream has to be up, or a closing one closed.
    Progress,
    /// A stream may be idle.
    Idle,
    /// An acknowledgement or the leaving of octets is due.
    Outcome,
}

const STREAM_TIMERS: u32 = 3;
const ROUTE_TIMERS_FROM: u32 = STREAM_TIMERS * limits::STREAMS_MAX as u32;
const VERIFICATION_TIMERS_FROM: u32 = ROUTE_TIMERS_FROM + limits::ROUTES_MAX as u32;
const TIMERS: usize = VERIFICATION_TIMERS_FROM as usize + limits::VERIFICATIONS_MAX;

/// TCP has to be up in that time, else the next address is tried.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(8);
/// TLS, header, features and authentication at one address.
pub(super) const NEGOTIATION_MAX: Duration = Duration::from_secs(20);
/// How long a stream of ours that only confirmed a key stays open.
const UNUSED_MAX: Duration = Duration::from_secs(30);
/// How long the peer's end tag is waited for.
const CLOSING_MAX: Duration = Duration::from_secs(5);
/// REQ-XC-42: without an acknowledgement for so long a stream is dead.
const OUTCOME_MAX: Duration = Duration::from_secs(30);
/// A partner that answers each request for an acknowledgement may take so long to be
/// done with a stanza: another gateway waits for SIP, and SIP gives up after 32 seconds.
const HANDLING_MAX: Duration = Duration::from_secs(90);

impl Server {
    /// A server with no stream. `dialback_secret` is used unless the settings hold one.
    pub fn new(settings: &Settings, dialback_secret: &[u8]) -> Self {
        let secret = settings.xmpp.dialback_secret.as_ref().map_or(dialback_secret, |secret| secret.as_bytes());
        let mut server = Self {
            policy: Policy::new(settings, Keys::new(secret)),
            streams: Slab::with_capacity(limits::STREAMS_MAX),
            links: BTreeMap::new(),
            routes: Slab::with_capacity(limits::ROUTES_MAX),
            routes_to: BTreeMap::new(),
            sessions: Slab::with_capacity(limits::STREAMS_MAX),
            verifications: Slab::with_capacity(limits::VERIFICATIONS_MAX),
            timers: Timers::with_capacity(TIMERS),
            outcomes: VecDeque::new(),
            queued_octets: 0,
            is_shut: false,
        };
        server.add_components(Instant::ZERO);
        server
    }

    /// Serves a SIP domain that nobody configured and that proved itself, from now on and
    /// while discovery is open.
    pub fn serve(&mut self, domain: &str) {
        if !self.policy.is_ours(domain) {
            self.policy.serve(domain);
        }
    }

    /// Knows the listeners of these settings, whose other parts are still to come.
    pub fn listen(&mut self, settings: &Settings) {
        self.policy.listeners.clone_from(&settings.listeners);
    }

    /// Takes over new settings. Streams that they do not concern stay as they are.
    pub fn configure(&mut self, cx: &mut Cx<'_>, settings: &Settings) {
        let keys = settings.xmpp.dialback_secret.as_ref().map(|secret| Keys::new(secret.as_bytes()));
        let mut policy = Policy::new(settings, keys.unwrap_or_else(|| self.policy.keys.clone()));
        policy.serve_as(&self.policy);
        let old = core::mem::replace(&mut self.policy, policy);
        // Nothing is opened any more to say what waits for who may not hear it.
        let is_left = |policy: &Policy, route: &Route| {
            !route.is_component() && (!policy.may_open(&route.theirs) || !policy.is_ours(&route.ours))
        };
        let left = self.routes.iter().filter(|(_, route)| is_left(&self.policy, route) && !is_left(&old, route));
        let left: Vec<Key> = left.map(|(key, _)| key).collect();
        for key in left {
            self.give_up(cx, key, Undelivered::Refused);
        }
        let keys: Vec<Key> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            let (ours, theirs) = (&stream.ours, &stream.theirs);
            let is_served = if stream.is_component() {
                self.policy.component_of(ours) == old.component_of(ours)
            } else {
                ours.is_empty() || self.policy.serves(ours)
            };
            if self.policy.is_blocked(theirs) {
                let fault = StreamFault::new(StreamCondition::PolicyViolation, "domain is blocked");
                let step = stream.fail(cx, fault);
                self.on_step(cx, key, step);
                continue;
            }
            let is_same = self.policy.rules_for(theirs).negotiates_like(old.rules_for(theirs))
                && self.policy.partner_of(theirs).is_some() == old.partner_of(theirs).is_some();
            if !is_served {
                let fault = StreamFault::new(StreamCondition::HostGone, "domain no longer served here");
                let step = stream.fail(cx, fault);
                self.on_step(cx, key, step);
            } else if !is_same && !stream.is_component() {
                self.retire(cx, key);
            } else if self.timers.of(timer(key, Timer::Idle)).is_some() {
                // How long it may be silent may be another time now.
                self.set(key, Timer::Idle, cx.now);
            }
        }
        self.add_components(cx.now);
        let gone: Vec<Key> = self
            .routes
            .iter()
            .filter(|(_, route)| route.is_component() && self.policy.component_of(&route.ours).is_none())
            .map(|(key, _)| key)
            .collect();
        for key in gone {
            self.give_up(cx, key, Undelivered::Refused);
            self.forget_route(key);
        }
    }

    /// Is the link one of ours?
    pub fn owns(&self, link: LinkId) -> bool {
        self.links.contains_key(&link)
    }

    /// A listener accepted a connection. It is closed at once if there is no room: in
    /// all, for those who proved nothing, or for this address.
    pub fn accepted(&mut self, cx: &mut Cx<'_>, link: LinkId, listener: ListenerId, from: SocketAddr) {
        let max = self.policy.streams_max();
        let strangers_max = (max * limits::STREAMS_UNPROVEN_PERCENT / 100).max(1);
        let (mut strangers, mut of_address) = (0, 0);
        for (_, stream) in self.streams.iter() {
            let Side::Answerer { from: address } = stream.side else { continue };
            let unproven = stream.proved.is_empty();
            strangers += usize::from(unproven || stream.is_stranger);
            of_address += usize::from(unproven && address == from.ip());
        }
        let cause = if self.is_shut {
            "shutting down"
        } else if self.streams.len() >= max {
            "connection-limit reached"
        } else if strangers >= strangers_max && !self.drop_stranger(cx) {
            "too many streams that proved nothing"
        } else if of_address >= limits::STREAMS_UNPROVEN_PER_ADDRESS_MAX {
            "too many streams of this address that proved nothing"
        } else {
            let mut stream = Stream::new(link, Side::Answerer { from: from.ip() }, "", "", cx.now);
            if self.policy.is_direct_tls(usize::from(listener.0)) {
                stream.start_tls(cx, "xmpp-server");
            }
            if let Ok(key) = self.streams.insert(stream) {
                self.links.insert(link, key);
                self.set(key, Timer::Progress, cx.now.after(self.establishment()));
            }
            return;
        };
        cx.refuse(
            Counter::StreamLimit,
            "xmpp.stream.limit",
            format_args!("address={} cause={} side=ours", from.ip(), Escaped(cause)),
        );
        cx.out.abort(link);
    }

    /// A connection we asked for is up.
    pub fn opened(&mut self, cx: &mut Cx<'_>, link: LinkId) {
        let Some(&key) = self.links.get(&link) else { return };
        if let Some((theirs, address)) = self.target_of(key) {
            cx.out.trail.passed(&[theirs], trail::Step::Tcp, format_args!("connected to {address}"));
        }
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.on_opened(cx);
        self.set(key, Timer::Progress, cx.now.after(NEGOTIATION_MAX.min(self.establishment())));
    }

    /// TLS is up on a link.
    pub fn secured(&mut self, cx: &mut Cx<'_>, link: LinkId, peer: &PeerCertificate) {
        let Some(&key) = self.links.get(&link) else { return };
        if let Some(stream) = self.streams.get_mut(key) {
            stream.on_secured(cx, &self.policy, peer);
        }
    }

    /// A link is gone.
    pub fn closed(&mut self, cx: &mut Cx<'_>, link: LinkId, why: CloseReason) {
        let Some(&key) = self.links.get(&link) else { return };
        self.note_closed(cx, key, link, why);
        let Some(stream) = self.streams.get(key) else { return };
        cx.info(
            "xmpp.link.closed",
            format_args!(
                "partner={} ours={} reason={} proved={}",
                Escaped(&stream.theirs),
                Escaped(&stream.ours),
                Escaped(why.reason()),
                !stream.proved.is_empty()
            ),
        );
        let ended = Ended {
            why: if why == CloseReason::Tls { Undelivered::Refused } else { Undelivered::Unreachable },
            retry: stream.retry(),
        };
        self.stream_ended(cx, key, ended);
    }

    /// So many octets of a link have left, and it was alive after that.
    pub fn drained(&mut self, cx: &mut Cx<'_>, link: LinkId, sent: u64) {
        let Some(&key) = self.links.get(&link) else { return };
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.drained = sent;
        let (was_ended, stalled) = (stream.was_ended(), stream.stalled);
        let left = stream.deliveries.iter().take_while(|delivery| delivery.end <= sent).count();
        let tickets = stream.deliveries.drain(..left).filter_map(|delivery| delivery.ticket);
        self.outcomes.extend(tickets.map(|ticket| Event::Delivered { ticket }));
        let is_empty = stream.deliveries.is_empty();
        if was_ended && is_empty {
            self.end_stream(cx, key, Ended::new(Undelivered::StreamLost));
        } else if stalled {
            self.unstall(cx, key);
        }
    }

    /// Octets came. At most one piece of the stream is used; the answer says how many
    /// octets that were.
    pub fn receive<'a>(
        &mut self,
        cx: &mut Cx<'_>,
        link: LinkId,
        bytes: &'a mut [u8],
        tree: &'a mut Tree,
    ) -> (usize, Option<Event<'a>>) {
        let all = bytes.len();
        let Some((key, stream)) = self.stream_of(link) else { return (all, None) };
        stream.last_in = cx.now;
        if matches!(stream.state, State::Connecting | State::Securing) {
            // Clear text where TLS has to begin.
            return (all, None);
        }
        if self.must_pause(cx, key) {
            return (0, None);
        }
        let Some(stream) = self.streams.get_mut(key) else { return (all, None) };
        let item = stream.framer.next(bytes);
        let piece = |used: usize| bytes.get(..used).unwrap_or_default();
        let (used, step) = match item {
            Ok(Item::Incomplete) => return (0, None),
            Ok(Item::Whitespace(used) | Item::Declaration(used)) => return (used, None),
            Ok(Item::Header(used)) => match StreamHeader::parse(piece(used), stream.content(), tree) {
                Ok(header) => (used, stream.on_header(cx, &self.policy, header)),
                Err(fault) => (used, stream.refuse_header(cx, true, fault)),
            },
            Ok(Item::End(used)) => (used, stream.on_end(cx)),
            Ok(Item::Element(used)) => match tree.parse(piece(used), &stream.bindings, stream.limits()) {
                Ok(element) if is_stanza(stream, element) => return (used, self.on_stanza(cx, key, element)),
                Ok(element) => (used, stream.on_element(cx, &self.policy, element)),
                Err(error) => (used, stream.fail(cx, error.into())),
            },
            Err(fault) => (all, stream.refuse_header(cx, true, fault)),
        };
        let used = self.drop_clear_text(cx, key, used, bytes.get(used..).unwrap_or_default());
        self.on_step(cx, key, step);
        (used, None)
    }

    /// The next thing that happened.
    pub fn poll(&mut self) -> Option<Event<'static>> {
        self.outcomes.pop_front()
    }

    /// When [`Self::timeout`] is next due.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Deadlines have come.
    pub fn timeout(&mut self, cx: &mut Cx<'_>) {
        while let Some(timer) = self.timers.pop_due(cx.now) {
            if timer >= VERIFICATION_TIMERS_FROM {
                if let Some(key) = self.verifications.key_at(timer - VERIFICATION_TIMERS_FROM) {
                    self.verification_timed_out(cx, key);
                }
            } else if timer >= ROUTE_TIMERS_FROM {
                if let Some(key) = self.routes.key_at(timer - ROUTE_TIMERS_FROM) {
                    self.route_timed_out(cx, key);
                }
            } else if let Some(key) = self.streams.key_at(timer / STREAM_TIMERS) {
                match timer % STREAM_TIMERS {
                    0 => self.progress_timed_out(cx, key),
                    1 => self.idle_timed_out(cx, key),
                    _ => self.outcome_timed_out(cx, key),
                }
            }
        }
    }

    /// The stanza's outcome is certain: it may be acknowledged now.
    pub fn handled(&mut self, cx: &mut Cx<'_>, handle: Handle) {
        if handle.session == Some(OF_TEST) {
            self.outcomes.push_back(Event::Handled { number: handle.number });
        } else if let Some(session) = handle.session {
            self.finish(cx, session, handle.number);
        }
    }

    /// The most octets a partner takes in a stanza (XEP-0478), when it said so.
    pub fn stanza_limit(&self, from_domain: &str, to_domain: &str) -> Option<usize> {
        let route = self.routes.get(self.route_of(from_domain, to_domain)?)?;
        self.streams.get(route.carrier?)?.offers.max_bytes
    }

    /// Ends every stream and answers everything that waits.
    pub fn shutdown(&mut self, cx: &mut Cx<'_>) {
        self.is_shut = true;
        let keys: Vec<Key> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.acknowledge(cx, key);
            let Some(stream) = self.streams.get_mut(key) else { continue };
            stream.say_goodbye(cx);
            self.stream_ended(cx, key, Ended::new(Undelivered::Overload));
        }
        let routes: Vec<Key> = self.routes.iter().map(|(key, _)| key).collect();
        for key in routes {
            self.give_up(cx, key, Undelivered::Overload);
        }
    }

    // ---- Steps --------------------------------------------------------------------

    /// What an element of a stream leads to beyond its connection.
    pub(super) fn on_step(&mut self, cx: &mut Cx<'_>, key: Key, step: Step) {
        match step {
            Step::Quiet => {}
            Step::Ready => self.on_ready(cx, key),
            Step::Proved => self.on_proved(cx, key),
            Step::Enabled(resumption) => {
                self.begin_session(key, resumption);
                self.on_proved(cx, key);
            }
            Step::Resumed(handled) => {
                self.resumed(cx, key, handled);
                self.on_proved(cx, key);
            }
            Step::NotResumed(handled) => {
                self.not_resumed(cx, key, handled);
                // Acknowledgements may have been off the table: then the pair is proved.
                if self.streams.get(key).is_some_and(|stream| stream.state == State::Open) {
                    self.on_proved(cx, key);
                }
            }
            Step::KeyShown { pair, key: shown } => self.on_key_shown(cx, key, pair, shown),
            Step::Judged { pair, valid } => self.on_judged(cx, key, &pair, valid),
            Step::Verdict { pair, id, verdict } => self.on_verdict(cx, key, &pair, &id, verdict),
            Step::Enable => self.on_enable(cx, key),
            Step::Resume => self.refuse_resume(cx, key),
            Step::Request => self.acknowledge(cx, key),
            Step::Acknowledged(handled) => self.on_acknowledged(cx, key, handled),
            Step::Ended(ended) => self.stream_ended(cx, key, ended),
        }
        self.arm_closing(cx, key);
    }

    /// A pair is proved: stanzas may pass.
    pub(super) fn on_proved(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(stream) = self.streams.get(key) else { return };
        let theirs = stream.theirs.clone();
        let (ours, is_answerer) = (stream.ours.clone(), !stream.is_initiator());
        let max = self.policy.partner_streams_max(&theirs);
        if is_answerer && self.streams_with(&theirs) > max {
            let fault = StreamFault::new(StreamCondition::ResourceConstraint, "partner-connection-limit reached");
            let step = self.streams.get_mut(key).map_or(Step::Quiet, |stream| stream.fail(cx, fault));
            self.on_step(cx, key, step);
            return;
        }
        let is_stranger = self.policy.partner_of(&theirs).is_none();
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.is_stranger = is_stranger;
        log_opened(cx, stream);
        let (route, bidi) = (route_of_side(stream.side), stream.bidi);
        self.stop(key, Timer::Progress);
        self.arm_idle(cx, key);
        // The partner lives: what failed before says nothing any more.
        for route in self.routes_to.get(&theirs).cloned().unwrap_or_default() {
            if let Some(route) = self.routes.get_mut(route) {
                (route.failures, route.blocked) = (0, None);
            }
        }
        let route = match route {
            Some(route) => Some(route),
            None if bidi => self.route_or_new(cx, &ours, &theirs),
            None => None,
        };
        let Some(route) = route else { return };
        if let Some(route) = self.routes.get_mut(route) {
            if !is_answerer {
                route.stage = Stage::Ready(key);
                route.carrier = Some(key);
                (route.worst, route.next, route.restarted) = (None, 0, false);
                route.targets.clear();
            } else if route.carrier.is_none() {
                route.carrier = Some(key);
            }
        }
        self.advance(cx, route);
    }

    /// A stream of ours is negotiated.
    fn on_ready(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(stream) = self.streams.get(key) else { return };
        let Some(route) = route_of_side(stream.side) else { return };
        // Its route will authenticate it if stanzas wait; keys can be confirmed without.
        self.set(key, Timer::Progress, cx.now.after(UNUSED_MAX));
        if let Some(route) = self.routes.get_mut(route) {
            route.stage = Stage::Ready(key);
        }
        self.advance(cx, route);
    }

    // ---- The end of streams -------------------------------------------------------

    /// Closes the link of a stream and cleans up behind it.
    pub(super) fn end_stream(&mut self, cx: &mut Cx<'_>, key: Key, ended: Ended) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.end(cx);
        }
        self.stream_ended(cx, key, ended);
    }

    /// A stream is over: everything that leaned on it finds another way or is told.
    pub(super) fn stream_ended(&mut self, cx: &mut Cx<'_>, key: Key, ended: Ended) {
        let Some(stream) = self.streams.remove(key) else { return };
        self.links.remove(&stream.link);
        for timer in [Timer::Progress, Timer::Idle, Timer::Outcome] {
            self.stop(key, timer);
        }
        // A stream that was ended in good order leaves the state what it was.
        if stream.state == State::Open && !stream.proved.is_empty() && !self.is_shut {
            for pair in &stream.proved {
                self.outcomes.push_back(Event::Lost { ours: pair.ours.clone(), theirs: pair.theirs.clone() });
            }
        }
        for delivery in &stream.deliveries {
            self.undelivered(cx, delivery.ticket, Undelivered::StreamLost);
        }
        self.suspend_session(cx, &stream);
        self.release_verifications(cx, key);
        self.release_routes(cx, key, &stream, ended);
    }

    /// Ends a stream in good order: new stanzas go elsewhere, those on their way are
    /// waited for.
    pub(super) fn retire(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.proved.is_empty() || stream.state != State::Open {
            self.end_stream(cx, key, Ended::new(Undelivered::Refused));
            return;
        }
        self.acknowledge(cx, key);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.send_end(cx);
        }
        self.arm_closing(cx, key);
        self.detach_routes(cx, key);
    }

    /// A stream that sent its end tag has a few seconds left, and carries nothing more.
    fn arm_closing(&mut self, cx: &mut Cx<'_>, key: Key) {
        let closing = self.streams.get(key).is_some_and(|stream| stream.state == State::Closing);
        if closing && self.timers.of(timer(key, Timer::Progress)).is_none() {
            self.set(key, Timer::Progress, cx.now.after(CLOSING_MAX));
            self.stop(key, Timer::Idle);
            self.detach_routes(cx, key);
        }
    }

    // ---- Deadlines ----------------------------------------------------------------

    fn progress_timed_out(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let is_unused = stream.is_initiator() && stream.can_authenticate() && stream.verifying == 0;
        let ended = Ended::new(Undelivered::Timeout);
        match stream.state {
            State::Closing => self.end_stream(cx, key, ended),
            State::Connecting => {
                cx.out.abort(stream.link);
                if let Some((theirs, address)) = self.target_of(key) {
                    let text = format_args!("{address}: no connection within {} s", CONNECT_MAX.as_secs());
                    cx.out.trail.failed(&[theirs], trail::Step::Tcp, trail::Side::Network, text, status::UNREACHABLE);
                }
                self.stream_ended(cx, key, Ended::new(Undelivered::Unreachable));
            }
            _ if is_unused => self.end_stream(cx, key, ended),
            _ => {
                let fault = StreamFault::new(StreamCondition::ConnectionTimeout, "stream-establishment-timeout");
                stream.fail(cx, fault);
                self.stream_ended(cx, key, ended);
            }
        }
    }

    /// Arms the idle deadline for what comes first: a sign of life of ours, or the end.
    pub(super) fn arm_idle(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(stream) = self.streams.get(key) else { return };
        let after = self.keep_alive(stream).unwrap_or_else(|| self.inactivity());
        let last = if stream.carries() { stream.last_out.max(stream.last_in) } else { stream.last_in };
        self.set(key, Timer::Idle, last.max(cx.now).after(after));
    }

    /// How long a stream may be silent before we give a sign of life; `None`: we give
    /// none, it is closed when it is idle for too long.
    fn keep_alive(&self, stream: &Stream) -> Option<Duration> {
        let wanted = stream.is_component() || self.policy.rules_for(&stream.theirs).keep_alive;
        let interval = u64::from(self.policy.xmpp.keep_alive_interval_s);
        if !wanted || !stream.carries() || interval == 0 {
            return None;
        }
        // Well before the partner closes (XEP-0478).
        let theirs = stream.offers.idle_seconds.map_or(u64::MAX, |seconds| (seconds * 3 / 4).max(1));
        Some(Duration::from_secs(interval.min(theirs)))
    }

    fn idle_timed_out(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(stream) = self.streams.get(key) else { return };
        let keep_alive = self.keep_alive(stream);
        if stream.ping.as_ref().is_some_and(|ping| cx.now.since(ping.since) >= OUTCOME_MAX) {
            self.dead(cx, key, "no answer to a ping");
            return;
        }
        let last = if stream.carries() { stream.last_out.max(stream.last_in) } else { stream.last_in };
        let quiet = cx.now.since(last);
        let due = keep_alive.unwrap_or_else(|| self.inactivity());
        if let Some(ping) = &stream.ping {
            let at = ping.since.after(OUTCOME_MAX);
            self.set(key, Timer::Idle, at);
        } else if quiet < due {
            self.set(key, Timer::Idle, last.after(due));
        } else if keep_alive.is_some() {
            self.give_sign_of_life(cx, key);
        } else {
            cx.info("xmpp.stream.idle", format_args!("partner={}", Escaped(&stream.theirs)));
            self.retire(cx, key);
        }
    }

    /// Asks for a sign of life in the way that costs least: a request for an
    /// acknowledgement, a ping, or to the server of a component a blank.
    fn give_sign_of_life(&mut self, cx: &mut Cx<'_>, key: Key) {
        let id = cx.rng.token::<16>().to_string();
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.session.is_some() {
            self.ask(cx, key);
        } else if stream.is_component() {
            stream.write(cx, |w| {
                w.str(" ");
            });
        } else {
            let (ours, theirs) = (stream.ours.clone(), stream.theirs.clone());
            stream.write(cx, |w| {
                let iq = Tag::begin(w, "iq").attribute("from", &ours).attribute("to", &theirs);
                iq.attribute("id", &id).attribute("type", "get").content(|w| {
                    Tag::begin(w, "ping").namespace(ns::PING).empty();
                });
            });
            stream.ping = Some(Ping { id, since: cx.now });
            self.set(key, Timer::Idle, cx.now.after(OUTCOME_MAX));
            return;
        }
        self.arm_idle(cx, key);
    }

    /// Watches over what was sent and is not certain yet.
    pub(super) fn arm_outcome(&mut self, key: Key) {
        let is_armed = self.timers.of(timer(key, Timer::Outcome)).is_some();
        if let Some(since) = self.oldest_uncertain(key).filter(|_| !is_armed) {
            self.set(key, Timer::Outcome, since.after(OUTCOME_MAX));
        }
    }

    fn oldest_uncertain(&self, key: Key) -> Option<Instant> {
        let stream = self.streams.get(key)?;
        let asked = stream.session.and_then(|session| self.sessions.get(session)?.management.asked_since());
        let leaving = stream.deliveries.front().map(|delivery| delivery.since);
        [asked, leaving].into_iter().flatten().min()
    }

    fn outcome_timed_out(&mut self, cx: &mut Cx<'_>, key: Key) {
        if self.oldest_uncertain(key).is_some_and(|since| cx.now.since(since) >= OUTCOME_MAX) {
            self.dead(cx, key, "no acknowledgement");
            return;
        }
        let session = self.streams.get(key).and_then(|stream| self.sessions.get(stream.session?));
        let oldest = session.and_then(|session| session.management.oldest());
        if oldest.is_some_and(|since| cx.now.since(since) >= HANDLING_MAX) {
            self.dead(cx, key, "it answers and acknowledges nothing");
        } else if session.is_some_and(|session| session.management.should_ask()) {
            self.ask(cx, key);
        } else {
            self.arm_outcome(key);
        }
    }

    /// The peer does not answer: nothing polite would reach it.
    pub(super) fn dead(&mut self, cx: &mut Cx<'_>, key: Key, cause: &str) {
        let Some(stream) = self.streams.get(key) else { return };
        cx.refuse(
            Counter::StreamFailed,
            "xmpp.stream.dead",
            format_args!(
                "partner={} ours={} cause={} side=partner",
                Escaped(&stream.theirs),
                Escaped(&stream.ours),
                Escaped(cause)
            ),
        );
        cx.out.abort(stream.link);
        self.stream_ended(cx, key, Ended::new(Undelivered::Timeout));
    }

    // ---- Small things -------------------------------------------------------------

    fn stream_of(&mut self, link: LinkId) -> Option<(Key, &mut Stream)> {
        let key = *self.links.get(&link)?;
        Some((key, self.streams.get_mut(key)?))
    }

    /// Clear text behind the start of TLS was written by somebody who could not know how
    /// TLS would end: it is dropped, and if it is more than blanks the stream ends.
    fn drop_clear_text(&mut self, cx: &mut Cx<'_>, key: Key, used: usize, rest: &[u8]) -> usize {
        let Some(stream) = self.streams.get_mut(key) else { return used };
        if stream.state != State::Securing {
            return used;
        }
        if !rest.iter().all(u8::is_ascii_whitespace) {
            cx.refuse(
                Counter::XmlRefused,
                "xmpp.starttls.injection",
                format_args!("partner={} cause=clear-text-behind-starttls side=partner", Escaped(&stream.theirs)),
            );
            cx.out.abort(stream.link);
            self.stream_ended(cx, key, Ended::new(Undelivered::Refused));
        }
        used + rest.len()
    }

    /// How many streams there are with the partner a domain belongs to.
    pub(super) fn streams_with(&self, theirs: &str) -> usize {
        let partner = self.policy.partner_of(theirs).map(|(place, _)| place);
        let counts = |stream: &Stream| {
            let same = match partner {
                Some(place) => self.policy.partner_of(&stream.theirs).is_some_and(|(other, _)| other == place),
                None => stream.theirs == theirs,
            };
            same && (stream.is_initiator() || !stream.proved.is_empty()) && stream.state != State::Closing
        };
        self.streams.iter().filter(|(_, stream)| counts(stream)).count()
    }

    /// Tells the sender of a stanza that it is lost, and counts it. With an answer of
    /// ours nobody is left to tell, so the log says it.
    pub(super) fn undelivered(&mut self, cx: &mut Cx<'_>, ticket: Option<Ticket>, why: Undelivered) {
        match ticket {
            Some(ticket) => {
                cx.count(Counter::StanzaUndelivered);
                self.outcomes.push_back(Event::Undelivered { ticket, why });
            }
            None => cx.refuse(
                Counter::StanzaUndelivered,
                "xmpp.answer-lost",
                format_args!("side=partner cause={why:?} effect=the-sender-is-not-told"),
            ),
        }
    }

    pub(super) fn set(&mut self, key: Key, which: Timer, at: Instant) {
        self.timers.set(timer(key, which), at);
    }

    pub(super) fn stop(&mut self, key: Key, which: Timer) {
        self.timers.stop(timer(key, which));
    }

    pub(super) fn set_route_timer(&mut self, key: Key, at: Option<Instant>) {
        match at {
            Some(at) => self.timers.set(ROUTE_TIMERS_FROM + key.index(), at),
            None => self.timers.stop(ROUTE_TIMERS_FROM + key.index()),
        }
    }

    pub(super) fn set_verification_timer(&mut self, key: Key, at: Option<Instant>) {
        match at {
            Some(at) => self.timers.set(VERIFICATION_TIMERS_FROM + key.index(), at),
            None => self.timers.stop(VERIFICATION_TIMERS_FROM + key.index()),
        }
    }

    pub(super) fn establishment(&self) -> Duration {
        Duration::from_secs(u64::from(self.policy.xmpp.stream_establishment_timeout_s.max(1)))
    }

    fn inactivity(&self) -> Duration {
        Duration::from_secs(u64::from(self.policy.xmpp.stream_inactivity_timeout_s.max(1)))
    }
}

pub(super) fn timer(key: Key, which: Timer) -> u32 {
    key.index() * STREAM_TIMERS + which as u32
}

/// Is it a stanza by name and namespace?
fn is_stanza(stream: &Stream, element: Node<'_>) -> bool {
    element.namespace() == stream.content() && Kind::from_name(element.name()).is_some()
}

/// The route a stream was opened for.
pub(super) const fn route_of_side(side: Side) -> Option<Key> {
    match side {
        Side::Initiator { route, .. } | Side::Component { route } => Some(route),
        Side::Answerer { .. } => None,
    }
}

/// REQ-XC-24: how it is encrypted, and how each end proved itself.
fn log_opened(cx: &mut Cx<'_>, stream: &Stream) {
    let (protocol, certificate) = match &stream.channel {
        Channel::Clear => ("none", "none"),
        Channel::Secure { peer, believed } => {
            (peer.protocol.as_str(), if *believed { "believed" } else { "not-believed" })
        }
    };
    let proof = match stream.side {
        Side::Component { .. } => "handshake",
        _ if stream.external => "EXTERNAL",
        _ => "dialback",
    };
    let direction = if stream.is_initiator() { "out" } else { "in" };
    cx.count(Counter::StreamOpened);
    cx.info(
        "xmpp.stream.opened",
        format_args!(
            "partner={} ours={} direction={direction} tls={} certificate={certificate} proof={proof} bidi={} acks={}",
            Escaped(&stream.theirs),
            Escaped(&stream.ours),
            Escaped(protocol),
            stream.bidi,
            stream.session.is_some(),
        ),
    );
    stream.trail_passed(
        cx,
        trail::Step::Identity,
        format_args!(
            "{} proved by {proof}{}{}",
            if stream.is_initiator() { "we are" } else { "its own stream came, and it is" },
            if stream.bidi { ", the stream goes both ways (XEP-0288)" } else { "" },
            if stream.session.is_some() { ", stanzas are acknowledged (XEP-0198)" } else { "" },
        ),
    );
}

#[cfg(test)]
mod tests;
