//! The only code that knows both SIP and XMPP.

pub mod input;
