//! The only code that knows both SIP and XMPP.

pub mod address;
pub mod content;
pub mod error;
pub mod input;
pub mod route;
