//! The door of SIP: octets and time go in, requests, responses and outcomes come out.
//!
//! The rest of the endpoint lies beside it: `connection` keeps the streams, `server`
//! the requests of others, `client` our own.
//!
//! Left out on purpose: SCTP and WebSocket; multicast; `maddr` of strangers; racing
//! IPv4 against IPv6; following the records of `sent-by` when the connection for a
//! response is gone and its address does not answer either (RFC 3263 section 5).

use super::client::{Client, Rates};
use super::connection;
use super::diagnostics::Readers;
pub use super::emit::{Request, Response};
use super::framer;
pub use super::header::{CSeq, MediaType, NameAddr, Params, Via};
use super::message::Malformed;
pub use super::message::{Message, Method};
use super::server::Server;
use super::table::{Buffers, Index, Recent, Secret};
use super::transaction::{T1_64, T4};
use super::transport::{Failed, LinkState, Links, Route, Ways, datagram_reply};
use super::vouching::Vouching;
use crate::base::certificate::PeerCertificate;
use crate::base::cx::{Cx, Ticket};
use crate::base::net::{CloseReason, LinkId, ListenerId, NotLocated, Target, Transport};
use crate::base::slab::{Key, Slab};
use crate::base::time::Instant;
use crate::base::timers::Timers;
use crate::limits::{
    SIP_CLIENT_TRANSACTIONS_MAX, SIP_LINKS_MAX, SIP_SERVER_TRANSACTIONS_MAX, SIP_TRANSACTION_OCTETS_MAX,
};
use crate::settings::{NextHop, Settings};
use core::net::SocketAddr;
use std::collections::VecDeque;

/// What the SIP side has to tell.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Event<'a> {
    /// A new request: its syntax, version and mandatory headers are good, it is no
    /// retransmission, not merged and not in a loop. ACK and CANCEL never come here.
    Request {
        /// To be answered with [`Endpoint::respond`].
        transaction: Key,
        /// The request.
        message: Message<'a>,
        /// Where it came from.
        source: Source,
    },
    /// A BENOTIFY: a request that is never answered, so it has no transaction.
    Benotify {
        /// The request.
        message: Message<'a>,
        /// Where it came from.
        source: Source,
    },
    /// The ACK to a 2xx that was relayed; no transaction answers it.
    RelayedAck {
        /// The ACK.
        message: Message<'a>,
        /// Where it came from.
        source: Source,
    },
    /// An INVITE was cancelled by its sender and answered 487, unless it was relayed.
    Cancelled {
        /// The INVITE's.
        transaction: Key,
    },
    /// The ACK to a 2xx of ours.
    Acknowledged {
        /// The INVITE's.
        transaction: Key,
        /// The ACK.
        message: Message<'a>,
        /// Where it came from.
        source: Source,
    },
    /// No ACK came to the final response of an INVITE.
    Unacknowledged {
        /// The INVITE's.
        transaction: Key,
    },
    /// A final response, told once; provisional ones of INVITE too.
    Response {
        /// Who asked.
        ticket: Ticket,
        /// The response.
        message: Message<'a>,
    },
    /// No final response will come.
    Failed {
        /// Who asked.
        ticket: Ticket,
        /// Why.
        failure: Failure,
    },
    /// Find out where this is, and tell [`Endpoint::located`].
    Locate {
        /// To be given back.
        request: Key,
        /// What is looked for.
        place: Place,
    },
}

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// How it travelled.
    pub transport: Transport,
    /// The address it came from.
    pub address: SocketAddr,
    /// The connection, unless it was a datagram.
    pub link: Option<LinkId>,
    /// The listener, unless we opened the connection.
    pub listener: Option<ListenerId>,
}

/// Why a request of ours got no final response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answered in time.
    Timeout,
    /// No connection, or it broke.
    Transport(CloseReason),
    /// There is no address to send it to.
    NotLocated(NotLocated),
    /// The peer's certificate is not believed, or names another domain; logged.
    Certificate,
    /// The peer said it is overloaded, and there is no other.
    Overload,
}

/// Why a request of ours was not even begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A table or the memory for requests is full.
    Overload,
    /// It is larger than we ever send.
    TooLarge,
    /// A URI, a tag or the Call-ID is none.
    Malformed,
}

/// Where a request is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination<'a> {
    /// To a fixed place. A TLS peer there has to name that host, or the domain.
    NextHop {
        /// The place.
        hop: &'a NextHop,
        /// The SIP domain served there, in A-labels.
        domain: &'a str,
    },
    /// To the servers of a domain (RFC 3263). A TLS peer has to name the domain.
    Domain {
        /// In A-labels.
        domain: &'a str,
    },
}

impl<'a> Destination<'a> {
    /// The SIP domain it is, in A-labels.
    pub(super) const fn domain(&self) -> &'a str {
        match self {
            Self::NextHop { domain, .. } | Self::Domain { domain } => domain,
        }
    }
}

/// A host to find the addresses of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A name, in A-labels.
    pub host: String,
    /// The port; `None`: SRV records decide.
    pub port: Option<u16>,
    /// The transport; `None`: the records decide.
    pub transport: Option<Transport>,
    /// Nothing but TLS will do.
    pub sips: bool,
}

/// The SIP side: listeners, connections, transactions.
#[derive(Debug)]
pub struct Endpoint {
    pub(super) ways: Ways,
    /// Who gets diagnostics with a failure.
    pub(super) readers: Readers,
    /// How fast requests may go.
    pub(super) rates: Rates,
    /// What is said of senders.
    pub(super) vouching: Vouching,
    /// Drawn when it is first needed.
    pub(super) secret: Option<Secret>,
    pub(super) links: Links,
    /// By link: see [`connection`].
    pub(super) link_timers: Timers,
    pub(super) servers: Slab<Server>,
    /// By server transaction: its resend timer and its end timer.
    pub(super) server_timers: Timers,
    /// Server transactions by branch, `sent-by` and method.
    pub(super) by_branch: Index,
    /// Those of requests without a To tag by From tag, Call-ID and CSeq.
    pub(super) by_merge: Index,
    /// INVITEs answered with 2xx, by dialog.
    pub(super) by_dialog: Index,
    /// Server transactions that only wait for repeated requests, oldest first.
    pub(super) done: VecDeque<Key>,
    /// Requests answered with 2xx whose transactions are gone.
    pub(super) recent: Recent,
    pub(super) clients: Slab<Client>,
    /// By client transaction: its resend timer and its end timer.
    pub(super) client_timers: Timers,
    /// Client transactions by branch and method.
    pub(super) by_own_branch: Index,
    /// Client transactions that are over and whose responses may come again (timer K).
    pub(super) absorbed: Recent,
    pub(super) routes: Slab<Route>,
    pub(super) failed: Failed,
    /// What the transactions keep.
    pub(super) buffers: Buffers,
    pub(super) outcomes: VecDeque<Outcome>,
    /// Are we on our way out? Then nothing new is opened.
    pub(super) is_shut: bool,
}

/// What [`Endpoint::poll`] has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Failed(Ticket, Failure),
    Cancelled(Key),
    Unacknowledged(Key),
    Locate(Key),
}

/// Timers of a transaction: the key of a slot's first one.
pub(super) const fn timer(key: Key, which: u32) -> u32 {
    key.index() * TIMERS + which
}

/// Timers a transaction has.
pub(super) const TIMERS: u32 = 2;
/// Timers A, E and G, and the one for 100.
pub(super) const RESEND: u32 = 0;
/// Timers B, D, F, H, I, J, K, L and M.
pub(super) const END: u32 = 1;

/// Places in the memory for requests and responses that are over.
const RECENT_PLACES: usize = 16_384;

impl Endpoint {
    /// An endpoint with nothing going on.
    pub fn new(settings: &Settings) -> Self {
        Self {
            ways: Ways::new(settings),
            readers: Readers::new(settings),
            rates: Rates::new(settings),
            vouching: Vouching::new(settings),
            secret: None,
            links: Links::new(),
            link_timers: Timers::with_capacity(SIP_LINKS_MAX * connection::TIMERS as usize),
            servers: Slab::with_capacity(SIP_SERVER_TRANSACTIONS_MAX),
            server_timers: Timers::with_capacity(SIP_SERVER_TRANSACTIONS_MAX * TIMERS as usize),
            by_branch: Index::with_capacity(SIP_SERVER_TRANSACTIONS_MAX),
            by_merge: Index::with_capacity(SIP_SERVER_TRANSACTIONS_MAX),
            by_dialog: Index::with_capacity(SIP_SERVER_TRANSACTIONS_MAX),
            done: VecDeque::new(),
            recent: Recent::new(RECENT_PLACES, T1_64),
            clients: Slab::with_capacity(SIP_CLIENT_TRANSACTIONS_MAX),
            client_timers: Timers::with_capacity(SIP_CLIENT_TRANSACTIONS_MAX * TIMERS as usize),
            by_own_branch: Index::with_capacity(SIP_CLIENT_TRANSACTIONS_MAX),
            absorbed: Recent::new(RECENT_PLACES, T4),
            routes: Slab::with_capacity(super::client::ROUTES_MAX),
            failed: Failed::default(),
            buffers: Buffers::new(SIP_TRANSACTION_OCTETS_MAX),
            outcomes: VecDeque::new(),
            is_shut: false,
        }
    }

    /// Takes over changed settings; connections and transactions go on.
    pub fn configure(&mut self, cx: &mut Cx<'_>, settings: &Settings) {
        self.ways = Ways::new(settings);
        self.readers = Readers::new(settings);
        self.rates = Rates::new(settings);
        self.vouching = Vouching::new(settings);
        cx.debug("sip.configured", format_args!("links={} transactions={}", self.links.len(), self.servers.len()));
    }

    /// Is this connection one of SIP's?
    pub fn owns(&self, link: LinkId) -> bool {
        self.links.key(link).is_some()
    }

    /// A SIP listener accepted a connection; may close it at once.
    pub fn accepted(&mut self, cx: &mut Cx<'_>, link: LinkId, listener: ListenerId, from: SocketAddr) {
        self.on_accepted(cx, link, listener, from);
    }

    /// A connection we asked for is up.
    pub fn opened(&mut self, cx: &mut Cx<'_>, link: LinkId) {
        self.on_opened(cx, link);
    }

    /// A TLS handshake is done.
    pub fn secured(&mut self, cx: &mut Cx<'_>, link: LinkId, peer: &PeerCertificate) {
        self.on_secured(cx, link, peer);
    }

    /// A datagram came.
    pub fn datagram<'a>(
        &mut self,
        cx: &mut Cx<'_>,
        listener: ListenerId,
        from: SocketAddr,
        bytes: &'a mut [u8],
    ) -> Option<Event<'a>> {
        let source = Source { transport: Transport::Udp, address: from, link: None, listener: Some(listener) };
        match framer::datagram(bytes) {
            Ok((skip, head, len)) => {
                let octets = bytes.get_mut(skip..skip + len).unwrap_or_default();
                self.on_octets(cx, source, octets, head)
            }
            // Nothing but line ends keeps a binding of a NAT alive (RFC 5626 section 3.5.1).
            Err((_, skip, 0)) if skip == bytes.len() => None,
            Err((fault, skip, head)) => {
                let octets = bytes.get_mut(skip..).unwrap_or_default();
                let len = octets.len();
                self.on_malformed(cx, source, &Malformed::new(octets, head, fault), len);
                None
            }
        }
    }

    /// Octets came on a connection. Gives the octets used and at most one event; to be
    /// called again with the rest while something was used and something is left.
    pub fn stream<'a>(&mut self, cx: &mut Cx<'_>, link: LinkId, bytes: &'a mut [u8]) -> (usize, Option<Event<'a>>) {
        self.on_stream(cx, link, bytes)
    }

    /// A connection is gone.
    pub fn closed(&mut self, cx: &mut Cx<'_>, link: LinkId, why: CloseReason) {
        self.on_closed(cx, link, Failure::Transport(why));
    }

    /// The program ends: every connection closes after what was sent on it has left,
    /// and none is opened any more.
    pub fn shutdown(&mut self, cx: &mut Cx<'_>) {
        self.is_shut = true;
        for link in self.links.ids() {
            cx.out.close(link);
        }
    }

    /// All octets up to `sent` have left.
    pub fn drained(&mut self, cx: &mut Cx<'_>, link: LinkId, sent: u64) {
        if let Some(link) = self.links.get_mut(link) {
            link.drained = sent;
            link.used = cx.now;
        }
    }

    /// A deadline has come.
    pub fn timeout(&mut self, cx: &mut Cx<'_>) {
        while let Some(timer) = self.server_timers.pop_due(cx.now) {
            self.on_server_timer(cx, timer);
        }
        while let Some(timer) = self.client_timers.pop_due(cx.now) {
            self.on_client_timer(cx, timer);
        }
        while let Some(timer) = self.link_timers.pop_due(cx.now) {
            self.on_link_timer(cx, timer);
        }
    }

    /// When [`Self::timeout`] is next due.
    pub fn deadline(&self) -> Option<Instant> {
        [&self.server_timers, &self.client_timers, &self.link_timers].into_iter().filter_map(Timers::next).min()
    }

    /// The next outcome that has no message; to be called until `None` after every
    /// call that takes a `Cx`.
    pub fn poll(&mut self) -> Option<Event<'static>> {
        loop {
            return Some(match self.outcomes.pop_front()? {
                Outcome::Failed(ticket, failure) => Event::Failed { ticket, failure },
                Outcome::Cancelled(transaction) => Event::Cancelled { transaction },
                Outcome::Unacknowledged(transaction) => Event::Unacknowledged { transaction },
                Outcome::Locate(request) => match self.place(request) {
                    Some(place) => Event::Locate { request, place },
                    None => continue,
                },
            });
        }
    }

    /// How a connection travels, and where its other end is.
    pub fn peer_of(&self, link: LinkId) -> Option<(Transport, SocketAddr)> {
        self.links.get(link).map(|link| (link.transport, link.peer))
    }

    /// What the peer of a connection proved.
    pub fn certificate(&self, link: LinkId) -> Option<&PeerCertificate> {
        self.links.get(link)?.certificate.as_ref()
    }

    /// The connection that requests to a destination go over now, for the operator to
    /// read; `None` if one has to be opened first. A TLS peer has to name `domain`, in
    /// A-labels, or the host of `hop`.
    pub fn link_state(&self, hop: Option<&NextHop>, domain: &str) -> Option<String> {
        let route = self.routes.iter().map(|(_, route)| route).find(|route| route.is_for(hop, domain))?;
        let link = route
            .targets
            .iter()
            .find_map(|target| self.links.get(self.links.find(*target, &route.names_at(target.address))?))?;
        let channel = link.certificate.as_ref().map_or_else(|| "not encrypted".into(), PeerCertificate::summary);
        let whose = if link.listener.is_some() { "the peer's connection" } else { "our connection" };
        (link.state == LinkState::Ready).then(|| format!("{whose} with {} is up and used: {channel}", link.peer))
    }

    /// The domain, in A-labels, that an INVITE of ours went to; known as long as responses to
    /// it are told.
    pub fn domain_of(&self, ticket: Ticket) -> Option<&str> {
        self.domain_of_invite(ticket)
    }

    /// The tag that an answer to a request without one gets: ours in the dialog it makes.
    pub fn local_tag(&self, transaction: Key) -> Option<&str> {
        self.tag_of(transaction)
    }

    /// Where requests inside a dialog of ours are to go: a URI for Contact, without
    /// brackets. `mark` makes it one of this dialog alone: a GRUU (RFC 6665 section
    /// 4.5.1).
    pub fn contact(&self, transport: Transport, user: &str, mark: &str) -> String {
        self.ways.contact(transport, user, mark)
    }

    /// Answers a request, finally or for the time being.
    pub fn respond(&mut self, cx: &mut Cx<'_>, transaction: Key, response: &Response<'_>) {
        self.answer(cx, transaction, response);
    }

    /// Answers a request whose sender proved nothing, and forgets it at once; over UDP
    /// never with more octets than it had, else not at all.
    pub fn respond_unproven(&mut self, cx: &mut Cx<'_>, transaction: Key, response: &Response<'_>) {
        self.answer_stranger(cx, transaction, response);
    }

    /// Sends a request. What becomes of it is told with `ticket`; of an ACK nothing.
    pub fn request(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Ticket,
        destination: &Destination<'_>,
        request: &Request<'_>,
    ) -> Result<(), Refused> {
        self.begin(cx, ticket, destination, request)
    }

    /// Cancels an INVITE of ours. Its outcome is told as that of any request.
    pub fn cancel(&mut self, cx: &mut Cx<'_>, ticket: Ticket) {
        self.cancel_invite(cx, ticket);
    }

    /// Octets of a request as it would be sent.
    pub fn size(&self, destination: &Destination<'_>, request: &Request<'_>) -> usize {
        self.measure(destination, request)
    }

    /// What the certificates at the addresses that [`Self::located`] is about to tell may
    /// name beside the domain: a host each, in the same order.
    pub fn may_name(&mut self, request: Key, hosts: &[String]) {
        self.set_hosts(request, hosts);
    }

    /// The answer to [`Event::Locate`].
    pub fn located(&mut self, cx: &mut Cx<'_>, request: Key, targets: Result<&[Target], NotLocated>) {
        self.on_located(cx, request, targets);
    }

    /// The secret of this run.
    pub(super) fn secret(&mut self, cx: &mut Cx<'_>) -> Secret {
        *self.secret.get_or_insert_with(|| Secret([cx.rng.next_u64(), cx.rng.next_u64()]))
    }

    /// One whole message came, of which `head` octets are its head.
    pub(super) fn on_octets<'a>(
        &mut self,
        cx: &mut Cx<'_>,
        source: Source,
        octets: &'a mut [u8],
        head: usize,
    ) -> Option<Event<'a>> {
        let len = octets.len();
        match Message::parse(octets, head) {
            Ok(message) if message.is_request() => self.on_request(cx, source, message, len),
            Ok(message) => self.on_response(cx, source, message),
            Err(malformed) => {
                self.on_malformed(cx, source, &malformed, len);
                None
            }
        }
    }

    /// Where the answer to a datagram goes; streams ignore it.
    pub(super) fn reply_to(&self, source: &Source, via: Option<&Via<'_>>) -> SocketAddr {
        match source.transport {
            Transport::Udp => datagram_reply(via, source.address, self.ways.is_peer_address(source.address.ip())),
            Transport::Tcp | Transport::Tls => source.address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::counters::{Counter, Counters};
    use crate::base::net::Network;
    use crate::base::outbox::{Action, Outbox};
    use crate::base::rng::Rng;
    use crate::base::time::Wall;
    use crate::settings::{Listener, ListenerKind, NextHopTransport, Peer, SipDomain};

    const UDP: ListenerId = ListenerId(0);
    const TCP: ListenerId = ListenerId(1);
    const TLS: ListenerId = ListenerId(2);
    const PEER: &str = "192.0.2.21:5060";
    const STRANGER: &str = "203.0.113.9:4444";

    fn settings() -> Settings {
        let listener = |kind, address: &str| Listener {
            name: address.into(),
            kind,
            address: address.parse().expect("an address"),
        };
        Settings {
            host_name: "gw.edge.example".into(),
            listeners: vec![
                listener(ListenerKind::SipUdp, "192.0.2.1:5060"),
                listener(ListenerKind::SipTcp, "192.0.2.1:5060"),
                listener(ListenerKind::SipTls, "192.0.2.1:5061"),
            ],
            sip_domains: vec![SipDomain {
                peers: vec![Peer::Network(Network { address: "192.0.2.0".parse().expect("an address"), length: 24 })],
                ..SipDomain::new("voip.example")
            }],
            ..Settings::default()
        }
    }

    /// What one call did and told.
    #[derive(Debug, Default)]
    struct Turn {
        datagrams: Vec<(String, String)>,
        sent: Vec<(LinkId, String)>,
        connects: Vec<(LinkId, String)>,
        closes: Vec<LinkId>,
        told: Vec<String>,
        log: Vec<String>,
        /// The last request told.
        transaction: Option<Key>,
        locate: Option<Key>,
    }

    /// An endpoint with a world around it.
    struct World {
        endpoint: Endpoint,
        now: Instant,
        rng: Rng,
        out: Outbox,
        count: Counters,
    }

    impl World {
        fn new() -> Self {
            Self {
                endpoint: Endpoint::new(&settings()),
                now: Instant::from_millis(1000),
                rng: Rng::from_number(1),
                out: Outbox::with_capacity(4096, 16),
                count: Counters::default(),
            }
        }

        /// Makes one call and gathers all it caused.
        fn turn(&mut self, call: impl for<'e> FnOnce(&'e mut Endpoint, &mut Cx<'_>, &mut Turn)) -> Turn {
            let mut turn = Turn::default();
            let mut cx =
                Cx { now: self.now, wall: Wall(0), rng: &mut self.rng, out: &mut self.out, count: &mut self.count };
            call(&mut self.endpoint, &mut cx, &mut turn);
            while let Some(event) = self.endpoint.poll() {
                note(&mut turn, event);
            }
            for action in self.out.actions() {
                match action {
                    Action::Datagram { to, bytes, .. } => {
                        turn.datagrams.push((to.to_string(), self.out.text(bytes).into()));
                    }
                    Action::Send { link, bytes } => turn.sent.push((*link, self.out.text(bytes).into())),
                    Action::Connect { link, to, .. } => turn.connects.push((*link, to.to_string())),
                    Action::Close { link, .. } => turn.closes.push(*link),
                    Action::Log { code, text, .. } => turn.log.push(format!("{code} {}", self.out.text(text))),
                    Action::StartTls { .. } | Action::Reading { .. } | Action::Store { .. } => {}
                }
            }
            self.out.clear();
            turn
        }

        fn datagram(&mut self, from: &str, text: &str) -> Turn {
            let (from, mut bytes) = (from.parse().expect("an address"), text.as_bytes().to_vec());
            self.turn(|e, cx, turn| {
                if let Some(event) = e.datagram(cx, UDP, from, &mut bytes) {
                    note(turn, event);
                }
            })
        }

        fn stream(&mut self, link: LinkId, text: &str) -> Turn {
            let mut bytes = text.as_bytes().to_vec();
            self.turn(|e, cx, turn| {
                let mut from = 0;
                while from < bytes.len() {
                    let (used, event) = e.stream(cx, link, &mut bytes[from..]);
                    if let Some(event) = event {
                        note(turn, event);
                    }
                    if used == 0 {
                        break;
                    }
                    from += used;
                }
            })
        }

        fn accept(&mut self, listener: ListenerId, from: &str) -> (LinkId, Turn) {
            let link = self.out.new_link();
            let from = from.parse().expect("an address");
            (link, self.turn(|e, cx, _| e.accepted(cx, link, listener, from)))
        }

        fn respond(&mut self, transaction: Key, status: u16) -> Turn {
            self.turn(|e, cx, _| e.respond(cx, transaction, &Response { status, ..Response::default() }))
        }

        fn wait(&mut self, millis: u64) -> Turn {
            let until = self.now.after(core::time::Duration::from_millis(millis));
            let mut all = Turn::default();
            while let Some(next) = self.endpoint.deadline().filter(|next| *next <= until) {
                self.now = self.now.max(next);
                let turn = self.turn(|e, cx, _| e.timeout(cx));
                all.datagrams.extend(turn.datagrams);
                all.sent.extend(turn.sent);
                all.connects.extend(turn.connects);
                all.closes.extend(turn.closes);
                all.told.extend(turn.told);
                all.log.extend(turn.log);
            }
            self.now = until;
            all
        }

        fn request(&mut self, transport: NextHopTransport, host: &str, method: Method<'_>, body: &[u8]) -> Turn {
            let hop = NextHop { transport, host: host.into(), port: None };
            let ticket = Ticket(self.ticket());
            let result = &mut Ok(());
            let turn = self.turn(|e, cx, _| {
                let request = Request {
                    method,
                    uri: "sip:marta@voip.example",
                    from: "sip:lena@chat.example",
                    from_tag: "ft",
                    to: "sip:marta@voip.example",
                    to_tag: None,
                    call_id: "c1",
                    cseq: 1,
                    max_forwards: 70,
                    headers: &[],
                    content_type: Some("text/plain"),
                    body,
                };
                let destination = Destination::NextHop { hop: &hop, domain: "voip.example" };
                *result = e.request(cx, ticket, &destination, &request);
            });
            assert_eq!(*result, Ok(()));
            turn
        }

        fn ticket(&self) -> Key {
            Slab::with_capacity(1).insert(()).expect("room")
        }
    }

    fn note(turn: &mut Turn, event: Event<'_>) {
        turn.told.push(match event {
            Event::Request { transaction, message, .. } => {
                turn.transaction = Some(transaction);
                format!("{} {}", message.method().as_str(), String::from_utf8_lossy(message.body()))
            }
            Event::Benotify { message, .. } => format!("benotify {}", String::from_utf8_lossy(message.body())),
            Event::RelayedAck { .. } => "relayed ack".into(),
            Event::Cancelled { .. } => "cancelled".into(),
            Event::Acknowledged { .. } => "acknowledged".into(),
            Event::Unacknowledged { .. } => "unacknowledged".into(),
            Event::Response { message, .. } => message.status().to_string(),
            Event::Failed { failure, .. } => format!("{failure:?}"),
            Event::Locate { request, place } => {
                turn.locate = Some(request);
                format!("locate {}", place.host)
            }
        });
    }

    fn request(method: &str, branch: &str, further: &str) -> String {
        format!(
            "{method} sip:lena@chat.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.21;rport;branch={branch}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:marta@voip.example>;tag=q1\r\nTo: <sip:lena@chat.example>\r\n\
             Call-ID: 9b1f77\r\nCSeq: 1 {method}\r\n{further}Content-Length: 3\r\n\r\nMoi"
        )
    }

    /// The answer of a peer to what we sent.
    fn answer(request: &str, status: &str) -> String {
        let kept = |line: &&str| ["Via", "From", "To", "Call-ID", "CSeq"].iter().any(|name| line.starts_with(name));
        let lines: Vec<_> = request.split("\r\n").filter(kept).collect();
        format!("SIP/2.0 {status}\r\n{}\r\nContent-Length: 0\r\n\r\n", lines.join("\r\n"))
    }

    fn branch_of(text: &str) -> String {
        let rest = text.split_once("branch=").expect("a branch").1;
        rest.split([';', '\r']).next().expect("a branch").into()
    }

    #[test]
    fn a_request_is_told_once_and_its_repetition_gets_the_same_response() {
        let mut w = World::new();
        let text = request("MESSAGE", "z9hG4bKa", "");
        let turn = w.datagram(PEER, &text);
        assert_eq!(turn.told, ["MESSAGE Moi"]);
        assert!(turn.datagrams.is_empty());
        assert!(w.datagram(PEER, &text).told.is_empty());
        let first = w.respond(turn.transaction.expect("a transaction"), 200).datagrams;
        assert_eq!(first.len(), 1);
        assert!(first[0].1.starts_with(
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.21;rport=5060;branch=z9hG4bKa;received=192.0.2.21\r\n"
        ));
        assert!(first[0].1.contains("\r\nTo: <sip:lena@chat.example>;tag="));
        let again = w.datagram(PEER, &text);
        assert_eq!((again.told.len(), again.datagrams), (0, first));
        w.wait(38_000);
        assert!(w.endpoint.servers.is_empty() && w.endpoint.by_branch.len() == 0 && w.endpoint.by_merge.len() == 0);
    }

    #[test]
    fn a_benotify_is_told_and_never_answered_nor_kept() {
        let mut w = World::new();
        let (link, _) = w.accept(TCP, PEER);
        let text = request("BENOTIFY", "z9hG4bKa", "");
        for _ in 0..2 {
            let turn = w.stream(link, &text);
            assert_eq!((turn.told, turn.sent), (vec!["benotify Moi".to_owned()], vec![]));
        }
        assert!(w.datagram(PEER, &text).datagrams.is_empty());
        let broken = text.replace("Max-Forwards: 70", "Max-Forwards: seventy");
        assert_ne!(broken, text);
        let turn = w.stream(link, &broken);
        assert_eq!((turn.told.len(), turn.sent.len()), (0, 0));
        assert_eq!(w.datagram(PEER, &broken).datagrams.len(), 0);
        assert_eq!(w.count.of(Counter::SipMalformed), 2);
        assert!(w.endpoint.servers.is_empty() && w.wait(40_000).sent.is_empty());
    }

    #[test]
    fn requests_leave_no_faster_than_their_domain_takes_them_and_in_order() {
        let mut w = World::new();
        let mut settings = settings();
        settings.sip_domains[0].rate = Some(20);
        w.turn(|e, cx, _| e.configure(cx, &settings));
        let start = w.now;
        let mut left = Vec::new();
        for n in 0..500 {
            let turn = w.request(NextHopTransport::Udp, "192.0.2.21", Method::Message, n.to_string().as_bytes());
            left.extend(turn.datagrams);
        }
        assert_eq!(left.len(), 1, "the first one goes at once");
        let mut second = 0;
        while left.len() < 500 {
            assert!(w.now.since(start) < core::time::Duration::from_secs(26), "{}", left.len());
            let next = w.endpoint.deadline().expect("something waits");
            w.now = next;
            let turn = w.turn(|e, cx, _| e.timeout(cx));
            for (_, text) in turn.datagrams.iter() {
                // The peer is quick, so nothing is sent twice.
                let mut answer = answer(text, "200 OK").into_bytes();
                w.turn(|e, cx, _| drop(e.datagram(cx, UDP, PEER.parse().expect("an address"), &mut answer)));
            }
            let so_far = w.now.since(start).as_secs();
            if so_far > second {
                assert!(left.len() as u64 <= 20 * so_far + 1, "{} after {so_far} s", left.len());
                second = so_far;
            }
            let fresh = turn.datagrams.into_iter().filter(|(_, text)| !left.iter().any(|(_, old)| old == text));
            left.extend(fresh.collect::<Vec<_>>());
        }
        for (n, (_, text)) in left.iter().enumerate() {
            assert!(text.ends_with(&format!("\r\n\r\n{n}")), "{n}: {text}");
        }
        assert!(w.now.since(start) >= core::time::Duration::from_millis(499 * 50));
    }

    #[test]
    fn what_would_wait_longer_than_its_sender_is_refused() {
        let mut w = World::new();
        let mut settings = settings();
        settings.sip_domains[0].rate = Some(1);
        w.turn(|e, cx, _| e.configure(cx, &settings));
        let hop = NextHop { transport: NextHopTransport::Udp, host: "192.0.2.21".into(), port: None };
        let mut taken = 0;
        for _ in 0..60 {
            let ticket = Ticket(w.ticket());
            let result = &mut Ok(());
            w.turn(|e, cx, _| {
                let request = Request {
                    method: Method::Message,
                    uri: "sip:marta@voip.example",
                    from: "sip:lena@chat.example",
                    from_tag: "ft",
                    to: "sip:marta@voip.example",
                    to_tag: None,
                    call_id: "c1",
                    cseq: 1,
                    max_forwards: 70,
                    headers: &[],
                    content_type: None,
                    body: b"",
                };
                let destination = Destination::NextHop { hop: &hop, domain: "voip.example" };
                *result = e.request(cx, ticket, &destination, &request);
            });
            match result {
                Ok(()) => taken += 1,
                Err(refused) => assert_eq!(*refused, Refused::Overload),
            }
        }
        assert_eq!(taken, 33);
    }

    #[test]
    fn a_failure_is_told_with_diagnostics_to_a_lync_peer_alone_and_once() {
        let mut w = World::new();
        let refused = |w: &mut World, branch: &str, status| {
            let mut text = request("MESSAGE", branch, "");
            text = text.replace("9b1f77", branch);
            let turn = w.datagram(PEER, &text);
            w.respond(turn.transaction.expect("a transaction"), status).datagrams.remove(0).1
        };
        assert!(!refused(&mut w, "z9hG4bKa", 404).contains("ms-diagnostics"));
        let mut settings = settings();
        settings.sip_domains[0].dialect = crate::settings::Dialect::Lync;
        w.turn(|e, cx, _| e.configure(cx, &settings));
        let text = refused(&mut w, "z9hG4bKb", 404);
        assert_eq!(text.matches("\r\nms-diagnostics-public: 1003;reason=\"User does not exist\"\r\n").count(), 1);
        assert!(!refused(&mut w, "z9hG4bKc", 200).contains("ms-diagnostics"));
        // Nor are answers of the endpoint's own.
        let malformed = "MESSAGE sip:lena@chat.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.21;branch=z9hG4bKe\r\n\
                         From: <sip:marta@voip.example>;tag=q1\r\nTo: <sip:lena@chat.example>\r\nCall-ID: e\r\n\
                         CSeq: x MESSAGE\r\nContent-Length: 0\r\n\r\n";
        let malformed = w.datagram(PEER, malformed).datagrams.remove(0).1;
        assert_eq!(malformed.matches("\r\nms-diagnostics-public: 7247400;").count(), 1, "{malformed}");
    }

    #[test]
    fn a_merged_request_gets_482_while_the_first_one_lives_and_after_its_200() {
        let mut w = World::new();
        let turn = w.datagram(PEER, &request("MESSAGE", "z9hG4bKa", ""));
        let merged = w.datagram(PEER, &request("MESSAGE", "z9hG4bKb", ""));
        assert!(merged.told.is_empty());
        assert!(merged.datagrams[0].1.starts_with("SIP/2.0 482 Merged Request\r\n"));
        w.respond(turn.transaction.expect("a transaction"), 200);
        let late = w.datagram(PEER, &request("MESSAGE", "z9hG4bKc", ""));
        assert!(late.datagrams[0].1.starts_with("SIP/2.0 482 "));
        assert_eq!(w.count.of(Counter::SipLoop), 2);
    }

    #[test]
    fn over_a_stream_a_delivered_request_is_not_delivered_twice() {
        let mut w = World::new();
        let (link, _) = w.accept(TCP, PEER);
        let text = request("MESSAGE", "z9hG4bKa", "");
        let turn = w.stream(link, &text);
        let sent = w.respond(turn.transaction.expect("a transaction"), 200).sent;
        assert_eq!(sent.len(), 1);
        assert!(w.endpoint.servers.is_empty());
        let again = w.stream(link, &text);
        assert_eq!((again.told.len(), &again.sent), (0, &sent));
        let merged = w.stream(link, &request("MESSAGE", "z9hG4bKb", ""));
        assert!(merged.sent[0].1.starts_with("SIP/2.0 482 "));
    }

    #[test]
    fn a_bare_cookie_is_no_branch() {
        let mut w = World::new();
        assert_eq!(w.datagram(PEER, &request("MESSAGE", "z9hG4bK", "")).told.len(), 1);
        let other = request("MESSAGE", "z9hG4bK", "").replace("9b1f77", "other");
        assert_eq!(w.datagram(PEER, &other).told.len(), 1);
        assert_eq!(w.datagram(PEER, &other).told.len(), 0);
    }

    #[test]
    fn a_slow_core_lets_a_100_go_after_three_and_a_half_seconds() {
        let mut w = World::new();
        let turn = w.datagram(PEER, &request("MESSAGE", "z9hG4bKa", "Timestamp: 54\r\n"));
        assert!(w.wait(3_499).datagrams.is_empty());
        let trying = w.wait(1).datagrams;
        assert!(trying[0].1.starts_with("SIP/2.0 100 Trying\r\n"));
        assert!(trying[0].1.contains("\r\nTo: <sip:lena@chat.example>\r\n"));
        assert!(trying[0].1.contains("\r\nTimestamp: 54\r\n"));
        let answer = w.respond(turn.transaction.expect("a transaction"), 404).datagrams;
        assert!(answer[0].1.starts_with("SIP/2.0 404 Not Found\r\n") && !answer[0].1.contains("Timestamp"));
    }

    #[test]
    fn a_request_that_is_never_answered_is_forgotten_without_408() {
        let mut w = World::new();
        w.datagram(PEER, &request("MESSAGE", "z9hG4bKa", ""));
        let turn = w.wait(70_000);
        assert_eq!(turn.datagrams.len(), 1);
        assert!(w.endpoint.servers.is_empty());
        assert_eq!(w.endpoint.deadline(), None);
    }

    #[test]
    fn malformed_requests_of_peers_are_answered_with_the_cause() {
        let mut w = World::new();
        let turn = w.datagram(PEER, &request("MESSAGE", "z9hG4bKa", "CSeq: 2 MESSAGE\r\n"));
        assert!(turn.told.is_empty());
        assert!(turn.datagrams[0].1.starts_with("SIP/2.0 400 Repeated CSeq\r\nVia: SIP/2.0/UDP 192.0.2.21;rport=5060"));
        let turn = w.datagram(PEER, &request("MESSAGE", "z9hG4bKa", "").replace("Call-ID", "Cali-ID"));
        assert!(turn.datagrams[0].1.starts_with("SIP/2.0 400 Missing Call-ID\r\n"));
        let turn = w.datagram(PEER, &request("MESSAGE", "z9hG4bKa", "").replace("SIP/2.0\r\nVia", "SIP/7.0\r\nVia"));
        assert!(turn.datagrams[0].1.starts_with("SIP/2.0 505 "));
        for silent in ["", "\r\n\r\n", "\0", "hello", "SIP/2.0 999 x\r\n\r\n", "ACK sip:a SIP/2.0\r\n\r\n"] {
            let turn = w.datagram(PEER, silent);
            assert!(turn.datagrams.is_empty() && turn.told.is_empty(), "{silent:?}");
        }
    }

    #[test]
    fn a_stranger_never_gets_more_octets_than_he_sent() {
        let mut w = World::new();
        let short = "X sip:a SIP/2.0\r\nv:SIP/2.0/UDP a\r\n\r\n";
        assert!(w.datagram(STRANGER, short).datagrams.is_empty());
        assert_eq!(w.datagram(PEER, short).datagrams.len(), 1);
        let turn = w.datagram(STRANGER, &request("MESSAGE", "z9hG4bKa", ""));
        let transaction = turn.transaction.expect("a transaction");
        let header = [("Warning", "x".repeat(500))];
        let headers: Vec<_> = header.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let long = w.turn(|e, cx, _| {
            e.respond_unproven(cx, transaction, &Response { status: 403, headers: &headers, ..Response::default() });
        });
        assert!(long.datagrams.is_empty() && w.endpoint.servers.is_empty());
        let turn = w.datagram(
            STRANGER,
            &request(
                "MESSAGE",
                "z9hG4bKb",
                "Organization: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
            ),
        );
        let transaction = turn.transaction.expect("a transaction");
        let short = w.turn(|e, cx, _| {
            e.respond_unproven(cx, transaction, &Response { status: 403, ..Response::default() });
        });
        assert_eq!(short.datagrams.len(), 1);
    }

    #[test]
    fn lost_framing_is_answered_and_ends_the_stream() {
        let mut w = World::new();
        let (link, _) = w.accept(TCP, PEER);
        let turn = w.stream(link, &request("MESSAGE", "z9hG4bKa", "").replace("Length: 3", "Length: -1"));
        assert!(turn.sent[0].1.starts_with("SIP/2.0 400 Bad Content-Length\r\n"));
        assert_eq!(turn.closes, [link]);
        let after = w.stream(link, &request("MESSAGE", "z9hG4bKb", ""));
        assert!(after.told.is_empty() && after.sent.is_empty());
    }

    #[test]
    fn requests_come_through_whole_wherever_the_stream_is_cut() {
        let text = format!("\r\n\r\n{}\r\n{}", request("MESSAGE", "z9hG4bKa", ""), request("OPTIONS", "z9hG4bKb", ""));
        let whole = {
            let mut w = World::new();
            let (link, _) = w.accept(TCP, PEER);
            w.stream(link, &text).told
        };
        assert_eq!(whole, ["MESSAGE Moi", "OPTIONS Moi"]);
        for cut in 0..text.len() {
            let mut w = World::new();
            let (link, _) = w.accept(TCP, PEER);
            let (mut kept, mut told) = (Vec::new(), Vec::new());
            for piece in [&text.as_bytes()[..cut], &text.as_bytes()[cut..]] {
                kept.extend_from_slice(piece);
                loop {
                    let mut used = 0;
                    let turn = w.turn(|e, cx, turn| {
                        let (n, event) = e.stream(cx, link, &mut kept);
                        used = n;
                        if let Some(event) = event {
                            note(turn, event);
                        }
                    });
                    told.extend(turn.told);
                    kept.drain(..used);
                    if used == 0 || kept.is_empty() {
                        break;
                    }
                }
            }
            assert_eq!(told, whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_ping_is_answered_and_our_own_want_an_answer() {
        let mut w = World::new();
        let (link, _) = w.accept(TCP, PEER);
        assert_eq!(w.stream(link, "\r\n\r\n").sent, [(link, "\r\n".into())]);
        w.request(NextHopTransport::Tcp, "192.0.2.21", Method::Message, b"x");
        let ours = LinkId(link.0 + 1);
        let sent = w.turn(|e, cx, _| e.opened(cx, ours)).sent;
        w.stream(ours, &answer(&sent[0].1, "200 OK"));
        let until_ping = |w: &mut World| {
            let seconds = (0..131).find(|_| !w.wait(1_000).sent.is_empty()).expect("a ping");
            assert!(seconds >= 94);
        };
        until_ping(&mut w);
        assert!(w.stream(ours, "\r\n").sent.is_empty());
        until_ping(&mut w);
        assert!(w.wait(8_999).closes.is_empty());
        assert_eq!(w.wait(1_001).closes, [ours]);
    }

    #[test]
    fn slow_senders_and_silent_strangers_are_cut_off() {
        let mut w = World::new();
        let (silent, _) = w.accept(TCP, STRANGER);
        assert_eq!(w.wait(32_000).closes, [silent]);
        let (slow, _) = w.accept(TCP, PEER);
        for _ in 0..31 {
            w.stream(slow, "OPTI");
            assert!(w.wait(1_000).closes.is_empty());
        }
        assert_eq!(w.wait(1_000).closes, [slow]);
        let (tls, _) = w.accept(TLS, STRANGER);
        assert_eq!(w.wait(10_000).closes, [tls]);
    }

    #[test]
    fn strangers_hold_few_connections_and_peers_as_many_as_there_are() {
        let mut w = World::new();
        for _ in 0..crate::limits::SIP_LINKS_UNPROVEN_PER_ADDRESS_MAX {
            assert!(w.accept(TCP, STRANGER).1.closes.is_empty());
        }
        assert_eq!(w.accept(TCP, STRANGER).1.closes.len(), 1);
        let refused = (0..250).filter(|n| !w.accept(TCP, &format!("203.0.113.{n}:1")).1.closes.is_empty()).count();
        assert!(refused > 100);
        assert!(w.accept(TCP, PEER).1.closes.is_empty());
    }

    #[test]
    fn a_request_goes_out_and_its_response_comes_back_once() {
        let mut w = World::new();
        let sent = w.request(NextHopTransport::Udp, "192.0.2.21", Method::Message, b"Moi").datagrams;
        assert_eq!(sent[0].0, "192.0.2.21:5060");
        assert!(sent[0].1.contains("\r\nVia: SIP/2.0/UDP gw.edge.example;branch=z9hG4bK"));
        let response = answer(&sent[0].1, "200 OK");
        assert_eq!(w.datagram(PEER, &response).told, ["200"]);
        assert!(w.datagram(PEER, &response).told.is_empty());
        assert_eq!(w.count.of(Counter::SipStrayResponse), 0);
        assert!(w.endpoint.clients.is_empty() && w.endpoint.deadline().is_none());
        w.wait(6_000);
        w.datagram(PEER, &response);
        assert_eq!(w.count.of(Counter::SipStrayResponse), 1);
    }

    #[test]
    fn responses_that_are_not_ours_are_dropped() {
        let mut w = World::new();
        let sent = w.request(NextHopTransport::Udp, "192.0.2.21", Method::Message, b"Moi").datagrams;
        let response = answer(&sent[0].1, "200 OK");
        for wrong in [
            response.replace("gw.edge.example", "other.example"),
            response.replace("CSeq: 1 MESSAGE", "CSeq: 1 INVITE"),
            response.replace(";branch=z9hG4bK", ";branch=z9hG4bKx"),
            response.replace("\r\nFrom", "\r\nVia: SIP/2.0/UDP 255.255.255.255;branch=z9hG4bKy\r\nFrom"),
            response.replace("CSeq: 1 MESSAGE", "CSeq: 9292394834772304023312 MESSAGE"),
        ] {
            assert!(w.datagram(PEER, &wrong).told.is_empty(), "{wrong}");
        }
        assert_eq!(w.datagram(PEER, &response).told, ["200"]);
    }

    #[test]
    fn silence_ends_in_a_timeout_after_32_seconds() {
        let mut w = World::new();
        w.request(NextHopTransport::Udp, "192.0.2.21", Method::Message, b"Moi");
        let turn = w.wait(31_999);
        assert_eq!((turn.datagrams.len(), turn.told.len()), (10, 0));
        assert_eq!(w.wait(1).told, ["Timeout"]);
        assert!(w.endpoint.clients.is_empty());
    }

    fn request_domain(w: &mut World) -> Turn {
        w.turn(|e, cx, _| {
            let request = Request {
                method: Method::Message,
                uri: "sip:marta@voip.example",
                from: "sip:lena@chat.example",
                from_tag: "ft",
                to: "sip:marta@voip.example",
                to_tag: None,
                call_id: "c1",
                cseq: 1,
                max_forwards: 70,
                headers: &[],
                content_type: None,
                body: b"x",
            };
            let ticket = Ticket(Slab::with_capacity(1).insert(()).expect("room"));
            let result = e.request(cx, ticket, &Destination::Domain { domain: "voip.example" }, &request);
            assert_eq!(result, Ok(()));
        })
    }

    fn locate(w: &mut World, request: Key, targets: &[(Transport, &str)]) -> Turn {
        let target = |(transport, at): &(Transport, &str)| Target {
            transport: *transport,
            address: at.parse().expect("an address"),
        };
        let targets: Vec<_> = targets.iter().map(target).collect();
        w.turn(|e, cx, _| e.located(cx, request, Ok(&targets)))
    }

    #[test]
    fn the_next_address_is_tried_with_a_new_branch() {
        let mut w = World::new();
        let turn = request_domain(&mut w);
        assert_eq!(turn.told, ["locate voip.example"]);
        let targets = [
            (Transport::Tls, "192.0.2.30:5061"),
            (Transport::Udp, "192.0.2.31:5060"),
            (Transport::Udp, "192.0.2.32:5060"),
            (Transport::Tcp, "192.0.2.33:5060"),
        ];
        let turn = locate(&mut w, turn.locate.expect("a question"), &targets);
        let (link, _) = turn.connects[0];
        let turn = w.turn(|e, cx, _| e.closed(cx, link, CloseReason::Refused));
        let first = turn.datagrams[0].clone();
        assert_eq!(first.0, "192.0.2.31:5060");
        let turn = w.datagram("192.0.2.31:5060", &answer(&first.1, "503 Busy"));
        assert!(turn.told.is_empty());
        let second = turn.datagrams[0].clone();
        assert_eq!(second.0, "192.0.2.32:5060");
        assert_ne!(branch_of(&first.1), branch_of(&second.1));
        let turn = w.wait(32_000);
        let (link, to) = turn.connects[0].clone();
        assert_eq!(to, "192.0.2.33:5060");
        w.turn(|e, cx, _| e.opened(cx, link));
        let turn = w.turn(|e, cx, _| e.closed(cx, link, CloseReason::Reset));
        assert_eq!(turn.told, ["Transport(Reset)"]);
    }

    #[test]
    fn a_peer_that_asks_for_peace_gets_it() {
        let mut w = World::new();
        let turn = request_domain(&mut w);
        let turn = locate(&mut w, turn.locate.expect("a question"), &[(Transport::Udp, "192.0.2.31:5060")]);
        let busy = answer(&turn.datagrams[0].1, "503 Busy").replace("Content", "Retry-After: 60\r\nContent");
        assert_eq!(w.datagram("192.0.2.31:5060", &busy).told, ["503"]);
        w.wait(5_000);
        assert_eq!(request_domain(&mut w).told, ["Overload"]);
        w.wait(56_000);
        assert_eq!(request_domain(&mut w).told, ["locate voip.example"]);
    }

    #[test]
    fn what_is_not_found_fails_all_who_wait() {
        let mut w = World::new();
        let turn = request_domain(&mut w);
        assert!(request_domain(&mut w).told.is_empty());
        let key = turn.locate.expect("a question");
        let turn = w.turn(|e, cx, _| e.located(cx, key, Err(NotLocated::NoSuchDomain)));
        assert_eq!(turn.told, ["NotLocated(NoSuchDomain)", "NotLocated(NoSuchDomain)"]);
    }

    fn certificate(name: &str) -> PeerCertificate {
        PeerCertificate { verdict: Some(Ok(())), dns_names: vec![name.into()], ..PeerCertificate::default() }
    }

    #[test]
    fn a_tls_peer_has_to_name_the_domain_or_the_next_hop() {
        for (peer, believed) in [
            (certificate("voip.example"), true),
            (certificate("proxy.voip.example"), true),
            (certificate("*.voip.example"), false),
            (certificate("other.example"), false),
            (PeerCertificate::default(), false),
        ] {
            let mut w = World::new();
            let turn = w.request(NextHopTransport::Tls, "proxy.voip.example", Method::Message, b"x");
            let turn = locate(&mut w, turn.locate.expect("a question"), &[(Transport::Tls, "192.0.2.30:5061")]);
            let (link, _) = turn.connects[0];
            w.turn(|e, cx, _| e.opened(cx, link));
            let turn = w.turn(|e, cx, _| e.secured(cx, link, &peer));
            assert_eq!((turn.sent.len(), turn.told.len()), if believed { (1, 0) } else { (0, 1) }, "{peer:?}");
            if believed {
                assert!(turn.sent[0].1.contains("\r\nVia: SIP/2.0/TLS gw.edge.example;branch="));
                assert!(turn.sent[0].1.contains(";alias\r\n"));
            } else {
                assert_eq!(turn.told, ["Certificate"]);
                assert!(turn.log[0].starts_with("sip.certificate.refused side=sip"), "{:?}", turn.log);
                assert!(turn.log[0].contains("wanted=voip.example,proxy.voip.example"));
                assert_eq!(turn.closes, [link]);
            }
        }
    }

    #[test]
    fn one_connection_serves_all_requests_and_an_alias_serves_ours() {
        let mut w = World::new();
        let turn = w.request(NextHopTransport::Tcp, "192.0.2.21", Method::Message, b"x");
        let (link, _) = turn.connects[0];
        assert!(w.request(NextHopTransport::Tcp, "192.0.2.21", Method::Options, b"").connects.is_empty());
        assert_eq!(w.turn(|e, cx, _| e.opened(cx, link)).sent.len(), 2);
        assert_eq!(w.request(NextHopTransport::Tcp, "192.0.2.21", Method::Options, b"").sent.len(), 1);

        let (inbound, _) = w.accept(TLS, "192.0.2.40:33333");
        w.turn(|e, cx, _| e.secured(cx, inbound, &certificate("voip.example")));
        let text = request("OPTIONS", "z9hG4bKa;alias", "").replace("UDP 192.0.2.21;rport", "TLS voip.example");
        w.stream(inbound, &text);
        let turn = w.request(NextHopTransport::Tls, "192.0.2.40", Method::Message, b"x");
        assert_eq!((turn.sent.len(), turn.sent[0].0), (1, inbound));
        // Without an alias, or over plain TCP, it would not be used.
        let (plain, _) = w.accept(TCP, "192.0.2.41:33333");
        w.stream(plain, &request("OPTIONS", "z9hG4bKb;alias", "").replace("9b1f77", "other"));
        assert_eq!(w.request(NextHopTransport::Tcp, "192.0.2.41", Method::Message, b"x").connects.len(), 1);
    }

    #[test]
    fn a_response_finds_its_way_when_the_connection_is_gone() {
        let mut w = World::new();
        let (link, _) = w.accept(TCP, "192.0.2.21:33333");
        let turn = w.stream(link, &request("MESSAGE", "z9hG4bKa", "").replace("192.0.2.21;", "192.0.2.21:5070;"));
        w.turn(|e, cx, _| e.closed(cx, link, CloseReason::Peer));
        let turn = w.respond(turn.transaction.expect("a transaction"), 200);
        let (link, to) = turn.connects[0].clone();
        assert_eq!(to, "192.0.2.21:5070");
        let turn = w.turn(|e, cx, _| e.opened(cx, link));
        assert!(turn.sent[0].1.starts_with("SIP/2.0 200 OK\r\n"));
        assert!(w.endpoint.servers.is_empty());
    }

    #[test]
    fn a_request_on_a_connection_the_peer_had_closed_goes_over_a_fresh_one() {
        let mut w = World::new();
        let turn = w.request(NextHopTransport::Tcp, "192.0.2.21", Method::Message, b"x");
        let (link, _) = turn.connects[0];
        let sent = w.turn(|e, cx, _| e.opened(cx, link)).sent;
        w.stream(link, &answer(&sent[0].1, "200 OK"));
        w.turn(|e, cx, _| e.drained(cx, link, sent[0].1.len() as u64));
        assert_eq!(w.request(NextHopTransport::Tcp, "192.0.2.21", Method::Message, b"y").sent.len(), 1);
        let turn = w.turn(|e, cx, _| e.closed(cx, link, CloseReason::Peer));
        assert_eq!((turn.connects.len(), turn.told.len()), (1, 0));
        let (link, _) = turn.connects[0];
        assert_eq!(w.turn(|e, cx, _| e.opened(cx, link)).sent.len(), 1);
        let turn = w.turn(|e, cx, _| e.closed(cx, link, CloseReason::Peer));
        assert_eq!(turn.told, ["Transport(Peer)"]);
    }

    #[test]
    fn what_is_too_large_for_a_datagram_goes_by_tcp_or_if_that_is_refused_by_udp() {
        let mut w = World::new();
        let turn = w.request(NextHopTransport::Udp, "192.0.2.21", Method::Notify, &[b'x'; 1300]);
        assert!(turn.datagrams.is_empty());
        let (link, _) = turn.connects[0];
        let turn = w.turn(|e, cx, _| e.closed(cx, link, CloseReason::Refused));
        assert_eq!(turn.datagrams.len(), 1);
    }

    #[test]
    fn our_own_request_coming_back_is_a_loop_and_a_forwarded_one_is_not() {
        let mut w = World::new();
        let sent = w.request(NextHopTransport::Udp, "192.0.2.21", Method::Message, b"x").datagrams;
        let back = sent[0].1.replacen("\r\nVia", "\r\nVia: SIP/2.0/UDP 192.0.2.21;branch=z9hG4bKback\r\nVia", 1);
        let turn = w.datagram(PEER, &back);
        assert!(turn.datagrams[0].1.starts_with("SIP/2.0 482 Loop Detected\r\n"));
        let elsewhere = back.replacen("MESSAGE sip:marta@voip.example", "MESSAGE sip:pavel@chat.example", 1);
        assert_eq!(w.datagram(PEER, &elsewhere).told, ["MESSAGE x"]);
    }

    #[test]
    fn a_failed_invite_is_repeated_until_its_ack() {
        let mut w = World::new();
        let invite = request("INVITE", "z9hG4bKa", "");
        let turn = w.datagram(PEER, &invite);
        assert_eq!(turn.told, ["INVITE Moi"]);
        assert!(w.wait(200).datagrams[0].1.starts_with("SIP/2.0 100 "));
        let failed = w.respond(turn.transaction.expect("a transaction"), 488).datagrams;
        assert_eq!(w.wait(1_500).datagrams, [failed[0].clone(), failed[0].clone()]);
        let ack = request("ACK", "z9hG4bKa", "");
        assert!(w.datagram(PEER, &ack).told.is_empty());
        assert!(w.wait(5_000).datagrams.is_empty());
        assert!(w.endpoint.servers.is_empty());
        let turn = w.datagram(PEER, &request("INVITE", "z9hG4bKb", ""));
        w.respond(turn.transaction.expect("a transaction"), 488);
        assert_eq!(w.wait(33_000).told, ["unacknowledged"]);
    }

    #[test]
    fn a_cancel_ends_an_invite_with_487_and_nothing_else() {
        let mut w = World::new();
        assert!(w.datagram(PEER, &request("CANCEL", "z9hG4bKa", "")).datagrams[0].1.starts_with("SIP/2.0 481 "));
        w.datagram(PEER, &request("INVITE", "z9hG4bKa", ""));
        let turn = w.datagram(PEER, &request("CANCEL", "z9hG4bKa", ""));
        assert_eq!(turn.told, ["cancelled"]);
        assert!(turn.datagrams[0].1.starts_with("SIP/2.0 200 ") && turn.datagrams[0].1.contains("CSeq: 1 CANCEL"));
        assert!(turn.datagrams[1].1.starts_with("SIP/2.0 487 ") && turn.datagrams[1].1.contains("CSeq: 1 INVITE"));
        assert!(w.datagram(PEER, &request("CANCEL", "z9hG4bKa", "")).told.is_empty());
    }

    #[test]
    fn req_evt_12_a_cancel_of_another_request_is_taken_and_does_nothing() {
        let mut w = World::new();
        let turn = w.datagram(PEER, &request("SUBSCRIBE", "z9hG4bKs", ""));
        let cancel = request("CANCEL", "z9hG4bKs", "");
        let is_taken = |turn: Turn| turn.told.is_empty() && turn.datagrams[0].1.starts_with("SIP/2.0 200 ");
        assert!(is_taken(w.datagram(PEER, &cancel)));
        w.respond(turn.transaction.expect("a transaction"), 200);
        assert!(is_taken(w.datagram(PEER, &cancel)));
        assert!(w.datagram(PEER, &request("CANCEL", "z9hG4bKt", "")).datagrams[0].1.starts_with("SIP/2.0 481 "));
    }

    #[test]
    fn the_ack_to_a_2xx_is_told() {
        let mut w = World::new();
        let turn = w.datagram(PEER, &request("INVITE", "z9hG4bKa", ""));
        let ok = w.respond(turn.transaction.expect("a transaction"), 200).datagrams;
        let tag =
            ok[0].1.split_once("To: <sip:lena@chat.example>").expect("To").1.split_once("\r\n").expect("a line").0;
        let ack = request("ACK", "z9hG4bKother", "")
            .replace("To: <sip:lena@chat.example>", &format!("To: <sip:lena@chat.example>{tag}"));
        assert_eq!(w.datagram(PEER, &ack).told, ["acknowledged"]);
        assert!(w.datagram(PEER, &ack.replace(tag, ";tag=wrong")).told.is_empty());
    }

    #[test]
    fn our_invite_acknowledges_a_failure_and_can_be_cancelled() {
        let mut w = World::new();
        let invite = w.request(NextHopTransport::Udp, "192.0.2.21", Method::Invite, b"").datagrams;
        let ticket = Ticket(w.ticket());
        assert!(w.turn(|e, cx, _| e.cancel(cx, ticket)).datagrams.is_empty());
        let turn = w.datagram(PEER, &answer(&invite[0].1, "180 Ringing"));
        assert_eq!(turn.told, ["180"]);
        let cancel = &turn.datagrams[0].1;
        assert!(cancel.starts_with("CANCEL sip:marta@voip.example SIP/2.0\r\nVia: SIP/2.0/UDP gw.edge.example;"));
        assert!(cancel.contains("\r\nCSeq: 1 CANCEL\r\n") && branch_of(cancel) == branch_of(&invite[0].1));
        assert!(w.datagram(PEER, &answer(cancel, "200 OK")).told.is_empty());
        let turn = w.datagram(
            PEER,
            &answer(&invite[0].1, "487 Request Terminated").replace("voip.example>\r", "voip.example>;tag=z\r"),
        );
        assert_eq!(turn.told, ["487"]);
        let ack = &turn.datagrams[0].1;
        assert!(ack.starts_with("ACK sip:marta@voip.example SIP/2.0\r\nVia: SIP/2.0/UDP gw.edge.example;"));
        assert!(ack.contains("\r\nTo: <sip:marta@voip.example>;tag=z\r\n") && ack.contains("\r\nCSeq: 1 ACK\r\n"));
        assert!(w.wait(33_000).told.is_empty());
        assert!(w.endpoint.clients.is_empty());
    }

    #[test]
    fn full_tables_answer_503_and_old_answers_make_room() {
        let mut w = World::new();
        let numbered = |n: usize| request("MESSAGE", &format!("z9hG4bK{n}"), "").replace("9b1f77", &format!("c{n}"));
        let mut transactions = Vec::new();
        for n in 0..SIP_SERVER_TRANSACTIONS_MAX {
            transactions.extend(w.datagram(PEER, &numbered(n)).transaction);
        }
        let turn = w.datagram(PEER, &numbered(9_999));
        assert!(turn.datagrams[0].1.starts_with("SIP/2.0 503 ") && turn.datagrams[0].1.contains("\r\nRetry-After: "));
        w.respond(transactions[0], 200);
        assert_eq!(w.datagram(PEER, &numbered(9_999)).told.len(), 1);
        // The one that made room is still known.
        let turn = w.datagram(PEER, &numbered(0));
        assert!(turn.told.is_empty() && turn.datagrams[0].1.starts_with("SIP/2.0 200 "));
    }
}
