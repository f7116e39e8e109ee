//! The door of SIP: octets and time go in, requests, responses and outcomes come out.

pub use super::header::{CSeq, MediaType, NameAddr, Params, Via};
pub use super::message::{Message, Method, Request, Response};
use crate::base::certificate::PeerCertificate;
use crate::base::cx::{Cx, Ticket};
use crate::base::net::{CloseReason, LinkId, ListenerId, NotLocated, Target, Transport};
use crate::base::slab::Key;
use crate::base::time::Instant;
use crate::settings::{NextHop, Settings};
use core::net::SocketAddr;

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
    /// An INVITE was cancelled by its sender and answered 487.
    Cancelled {
        /// The INVITE's.
        transaction: Key,
    },
    /// The ACK to a 2xx of ours.
    Acknowledged {
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
    _host_name: String,
}

#[allow(unused_variables)]
impl Endpoint {
    /// An endpoint with nothing going on.
    pub fn new(settings: &Settings) -> Self {
        Self { _host_name: settings.host_name.clone() }
    }

    /// Takes over changed settings; connections and transactions go on.
    pub fn configure(&mut self, cx: &mut Cx<'_>, settings: &Settings) {}

    /// Is this connection one of SIP's?
    pub fn owns(&self, link: LinkId) -> bool {
        false
    }

    /// A SIP listener accepted a connection; may close it at once.
    pub fn accepted(&mut self, cx: &mut Cx<'_>, link: LinkId, listener: ListenerId, from: SocketAddr) {}

    /// A connection we asked for is up.
    pub fn opened(&mut self, cx: &mut Cx<'_>, link: LinkId) {}

    /// A TLS handshake is done.
    pub fn secured(&mut self, cx: &mut Cx<'_>, link: LinkId, peer: &PeerCertificate) {}

    /// A datagram came.
    pub fn datagram<'a>(
        &mut self,
        cx: &mut Cx<'_>,
        listener: ListenerId,
        from: SocketAddr,
        bytes: &'a mut [u8],
    ) -> Option<Event<'a>> {
        None
    }

    /// Octets came on a connection. Gives the octets used and at most one event; to be
    /// called again with the rest while something was used and something is left.
    pub fn stream<'a>(&mut self, cx: &mut Cx<'_>, link: LinkId, bytes: &'a mut [u8]) -> (usize, Option<Event<'a>>) {
        (bytes.len(), None)
    }

    /// A connection is gone.
    pub fn closed(&mut self, cx: &mut Cx<'_>, link: LinkId, why: CloseReason) {}

    /// All octets up to `sent` have left.
    pub fn drained(&mut self, cx: &mut Cx<'_>, link: LinkId, sent: u64) {}

    /// A deadline has come.
    pub fn timeout(&mut self, cx: &mut Cx<'_>) {}

    /// When [`Self::timeout`] is next due.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The next outcome that has no message; to be called until `None` after every
    /// call that takes a `Cx`.
    pub fn poll(&mut self) -> Option<Event<'static>> {
        None
    }

    /// What the peer of a connection proved.
    pub fn certificate(&self, link: LinkId) -> Option<&PeerCertificate> {
        None
    }

    /// Answers a request, finally or for the time being.
    pub fn respond(&mut self, cx: &mut Cx<'_>, transaction: Key, response: &Response<'_>) {}

    /// Answers a request whose sender proved nothing, and forgets it at once; over UDP
    /// never with more octets than it had, else not at all.
    pub fn respond_unproven(&mut self, cx: &mut Cx<'_>, transaction: Key, response: &Response<'_>) {}

    /// Sends a request. What becomes of it is told with `ticket`; of an ACK nothing.
    pub fn request(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Ticket,
        destination: &Destination<'_>,
        request: &Request<'_>,
    ) -> Result<(), Refused> {
        Err(Refused::Overload)
    }

    /// Cancels an INVITE of ours. Its outcome is told as that of any request.
    pub fn cancel(&mut self, cx: &mut Cx<'_>, ticket: Ticket) {}

    /// Octets of a request as it would be sent.
    pub fn size(&self, destination: &Destination<'_>, request: &Request<'_>) -> usize {
        0
    }

    /// The answer to [`Event::Locate`].
    pub fn located(&mut self, cx: &mut Cx<'_>, request: Key, targets: Result<&[Target], NotLocated>) {}
}
