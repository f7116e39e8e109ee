//! All of the world a machine may touch, lent to it for one event.

use super::counters::{Counter, Counters};
use super::outbox::{Level, Outbox};
use super::rng::Rng;
use super::slab::Key;
use super::time::{Instant, Wall};
use core::fmt;

/// Time, chance, output and counters of one event.
#[derive(Debug)]
pub struct Cx<'a> {
    /// For timers.
    pub now: Instant,
    /// For dates written into messages.
    pub wall: Wall,
    /// The one source of chance.
    pub rng: &'a mut Rng,
    /// Where all output goes.
    pub out: &'a mut Outbox,
    /// What is counted.
    pub count: &'a mut Counters,
}

impl Cx<'_> {
    /// Adds one to a counter.
    pub fn count(&mut self, counter: Counter) {
        self.count.add(counter);
    }

    /// Counts an event and logs a line for it: what was refused or lost is always
    /// both (promise P8).
    pub fn refuse(&mut self, counter: Counter, code: &'static str, fields: fmt::Arguments<'_>) {
        self.count.add(counter);
        self.out.log(Level::Warn, code, fields);
    }

    /// Logs a line at `Info`.
    pub fn info(&mut self, code: &'static str, fields: fmt::Arguments<'_>) {
        self.out.log(Level::Info, code, fields);
    }

    /// Logs a line at `Debug`.
    pub fn debug(&mut self, code: &'static str, fields: fmt::Arguments<'_>) {
        self.out.log(Level::Debug, code, fields);
    }
}

/// Who asked: the gateway hands it down with a request or a stanza and gets it back
/// with the outcome. A key of the gateway's own table, meaningless to the protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub Key);
