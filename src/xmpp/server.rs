//! The door of the XMPP side.

use crate::base::cx::{Cx, Ticket};
use crate::base::net::{LinkId, NotLocated, Target};
use crate::base::outbox::Writer;
use crate::base::slab::Key;
use crate::base::time::Instant;

/// A stanza that was handed up and whose handling is not finished. Give it back to
/// `Server::handled` once its outcome is certain: from then on it may be acknowledged
/// to the partner (XEP-0198).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle {
    /// The stream it came on; a stale one finds nothing.
    pub(crate) stream: Key,
    /// Which of the stream's stanzas, counted from 0 modulo 2^32.
    pub(crate) number: u32,
}

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
    /// The stream was lost after the stanza was sent and before it was certain that
    /// the partner has it. It may or may not have been delivered, so it is not sent
    /// again (promise P2).
    StreamLost,
}
