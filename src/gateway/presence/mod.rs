//! Presence and contacts (RFC 8048): long XMPP subscriptions on one side, short SIP
//! ones on the other, kept in step.

pub mod document;
pub mod state;
