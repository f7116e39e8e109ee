//! The only folder that touches sockets, files, devices and the clock.
//!
//! - [`cli`]: the command line; [`serve`]: from the configuration to the loop.
//! - [`control`]: the socket for consoles; [`console`]: the terminal at its other end.
//! - [`demo`]: a conversation over real sockets, to be looked at.
//! - [`reactor`]: one loop: wait, read, handle, carry out, flush.
//! - [`listener`]: sockets that take connections or datagrams.
//! - [`link`]: one connection: what waits to be read and to be sent.
//! - [`tls`]: our certificates, and the judgement of theirs; knows rustls.
//! - [`store`]: files; [`journal`]: the two that change all the time.
//! - [`log`]: lines on standard error and to syslog collectors.

pub mod cli;
pub mod console;
pub mod control;
pub mod demo;
pub mod journal;
pub mod link;
pub mod listener;
pub mod log;
pub mod reactor;
pub mod serve;
pub mod store;
pub mod tls;
