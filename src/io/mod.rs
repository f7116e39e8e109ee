//! The only folder that touches sockets, files, devices and the clock.
//!
//! - [`tls`]: our certificates, and the judgement of theirs; knows rustls.

pub mod tls;
