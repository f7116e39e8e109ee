//! Latimer stands between a SIP world and an XMPP world and lets the people on
//! both sides write to each other, add each other as contacts and see each other.
//!
//! Read the folders in this order; each may use those before it and none after:
//!
//! 1. [`limits`]: every bound of the program and the memory they add up to;
//!    [`settings`]: what the operator decided. Everybody may read both.
//! 2. [`base`]: time, chance, timers, tables, output: knows no protocol.
//! 3. [`dns`]: where a domain's servers are.
//! 4. [`sip`] and [`xmpp`]: one protocol each; they do not know one another.
//! 5. [`gateway`]: the only code that knows both.
//! 6. [`appliance`]: the box: configuration and its two slots.
//! 7. [`io`]: the only folder that touches sockets, files, devices and the clock.
//!
//! Invariants a reader cannot see: there are no threads, no async runtime and no
//! `unsafe`. Nothing outside `io` reads a clock, draws a random number or opens a
//! file: all of it comes in through [`base::cx::Cx`], so that one seed gives one
//! trace. No byte from a peer can reach a panic.

pub mod appliance;
pub mod base;
pub mod dns;
pub mod gateway;
pub mod io;
pub mod limits;
pub mod settings;
pub mod sip;
pub mod xmpp;
