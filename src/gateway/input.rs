//! What can happen to the gateway, as the reactor, a flow or the simulation tells it.

use crate::base::certificate::PeerCertificate;
use crate::base::net::{CloseReason, LinkId, ListenerId};
use core::net::SocketAddr;

/// One event. Bytes are lent, and may be changed in place while they are parsed.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram came in on a UDP listener. It is used up whole.
    Datagram {
        /// Which listener.
        listener: ListenerId,
        /// Where it came from.
        from: SocketAddr,
        /// The datagram.
        bytes: &'a mut [u8],
    },
    /// A listener accepted a connection.
    Accepted {
        /// The name the reactor drew for it.
        link: LinkId,
        /// Which listener.
        listener: ListenerId,
        /// The peer's address.
        from: SocketAddr,
    },
    /// A connection that was asked for is up (TCP; TLS is still to come).
    Opened {
        /// The link.
        link: LinkId,
    },
    /// The TLS handshake of a link is done, whatever its certificate is worth.
    Secured {
        /// The link.
        link: LinkId,
        /// What the peer showed.
        peer: &'a PeerCertificate,
    },
    /// Octets came on a stream, or one datagram on a connected socket. What
    /// `handle` does not use is brought again, with more behind it. `bytes` always
    /// begins with the first octet not used yet.
    Stream {
        /// The link.
        link: LinkId,
        /// All octets received and not used yet.
        bytes: &'a mut [u8],
    },
    /// All octets given to `Send` for this link up to `sent` (counted from its
    /// opening) have left for the network, and a read after that found the
    /// connection alive.
    Drained {
        /// The link.
        link: LinkId,
        /// Octets that left, counted before TLS.
        sent: u64,
    },
    /// A link is gone. Nothing more comes from it.
    Closed {
        /// The link.
        link: LinkId,
        /// Why.
        why: CloseReason,
    },
    /// Records given to `Store` are safe from a power cut.
    Stored {
        /// All up to the one of this number.
        number: u64,
    },
    /// Records cannot be made safe at present; the log has the cause, and it is tried
    /// again. What waits for them and would hold up others waits no longer.
    StoreFailed,
    /// A deadline has come.
    Timeout,
    /// The program ends: close streams, answer what waits.
    Shutdown,
}
