//! (xmpp)
