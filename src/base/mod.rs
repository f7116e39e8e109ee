//! What every machine stands on; knows no protocol and does no I/O.

pub mod certificate;
pub mod counters;
pub mod cx;
pub mod journal;
pub mod net;
pub mod outbox;
pub mod rng;
pub mod slab;
pub mod text;
pub mod time;
pub mod timers;
pub mod trail;
pub mod xml;
