//! Whose a ticket is. The parts of the gateway share the tickets of SIP and XMPP: each marks
//! its own with a bit that no key of a table reaches, and knows them again by it. A ticket
//! without any belongs to a message.

/// Presence: of a subscriber, or for a stanza of a contact.
pub(super) const PRESENCE: u64 = 1 << 63;
/// Presence, with [`PRESENCE`]: of a notifier.
pub(super) const NOTIFIER: u64 = 1 << 62;
/// A call that is relayed, without [`PRESENCE`].
pub(super) const RELAY: u64 = 1 << 62;
/// A test of the operator's.
pub(super) const PROBE: u64 = 1 << 61;
/// A session of messages.
pub(super) const SESSION: u64 = 1 << 60;
/// What a request of a session is for.
pub(super) const SESSION_WHAT: u64 = 3 << 58;
