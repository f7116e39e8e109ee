//! XMPP between servers and nothing else.

mod dialback;
pub mod server;
