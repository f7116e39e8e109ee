//! SIP and nothing else: framing, messages, transactions, transport. `endpoint` is
//! the door.

mod client;
mod connection;
pub mod diagnostics;
pub mod dialog;
pub mod emit;
pub mod endpoint;
pub mod framer;
pub mod header;
pub mod message;
pub mod msrtc;
pub mod pidf;
pub mod relay;
pub mod sdp;
mod server;
pub mod session_timer;
pub mod subscription;
mod table;
pub mod transaction;
pub mod transport;
pub mod uri;
mod vouching;
pub mod xpidf;
