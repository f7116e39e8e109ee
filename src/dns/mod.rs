//! Where the servers of a domain are, asked of the DNS.
//!
//! [`locate`] is the door; it knows which questions lead to SIP and XMPP servers
//! (RFC 3263, RFC 6120 section 3.2, XEP-0368). [`resolver`] gets one question
//! answered; [`message`] knows what questions and answers look like on the wire.
//! Nothing here knows the protocols that are spoken to the servers found.

pub mod locate;
pub mod message;
pub mod resolver;
