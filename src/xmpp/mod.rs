//! XMPP between servers and nothing else. [`server`] is the door.
//!
//! [`framer`] finds where the next piece of a stream ends, [`crate::base::xml`] reads it,
//! [`stanza`] says what it means. [`jid`] holds addresses, [`ns`] the namespaces,
//! [`stream_error`] the conditions a stream ends with, [`disco`] what is told about
//! ourselves, [`status`] what the operator is told about a partner.

mod admission;
mod answerer;
mod component;
mod dialback;
pub mod disco;
pub mod framer;
mod initiator;
pub mod jid;
mod management;
pub mod ns;
mod policy;
mod route;
mod routing;
pub mod server;
pub mod stanza;
pub mod status;
mod stream;
pub mod stream_error;
