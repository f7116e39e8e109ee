//! Stream management (XEP-0198): which stanzas of a stream were handled, on both sides.
//!
//! Inbound, a stanza is acknowledged once the gateway is done with it: stanzas may be
//! finished in any order, the number told to the partner only passes those before
//! which none is open. Outbound, a stanza stays here until the partner's number has
//! passed it.
//!
//! What becomes of stanzas that are not acknowledged when a stream is lost: if the
//! stream is resumed, or the refusal to resume names a number, it is known which ones
//! the partner has, and the others are sent again, once, with a `<delay/>`. Without
//! that knowledge a stanza may have been shown already, so it is never sent again: its
//! sender is told (promises P1 and P2).

use crate::base::cx::Ticket;
use crate::base::time::{Instant, Wall};
use crate::limits;
use std::collections::VecDeque;

/// A stanza of ours as it goes over the wire, with what is needed to send it later.
#[derive(Debug)]
pub(super) struct Stanza {
    /// Who wants to know its outcome.
    pub(super) ticket: Option<Ticket>,
    /// The whole element; empty if it can never be sent again.
    pub(super) bytes: Box<[u8]>,
    /// When it was given to us.
    pub(super) since: Instant,
    /// The same as a date, for `<delay/>`.
    pub(super) wall: Wall,
    /// Was it sent before, so that it needs a `<delay/>`?
    pub(super) again: bool,
}

/// The two counts of one stream, or of several that resumed each other.
#[derive(Debug, Default)]
pub(super) struct Management {
    inbound: Inbound,
    outbound: Outbound,
    /// How the stream may be taken up again, if the partner offered it.
    pub(super) resumption: Option<Resumption>,
}

/// The partner's offer to resume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resumption {
    /// The name of the stream in `<resume/>`.
    pub(super) id: String,
    /// How many seconds the partner keeps it.
    pub(super) seconds_max: u64,
}

#[derive(Debug, Default)]
struct Inbound {
    /// How many stanzas were handled, modulo 2^32, with none open before them.
    handled: u32,
    /// Of each stanza after those: is it finished?
    finished: VecDeque<bool>,
    /// Did the partner ask while stanzas were open?
    owed: bool,
}

#[derive(Debug, Default)]
struct Outbound {
    /// How many stanzas the partner acknowledged, modulo 2^32.
    acknowledged: u32,
    /// Those after them.
    unacknowledged: VecDeque<Stanza>,
    octets: usize,
    /// When the oldest `<r/>` without an answer went out.
    asked: Option<Instant>,
    /// Stanzas sent since the last `<r/>`.
    unasked: usize,
}

/// An acknowledgement of more than was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooHigh {
    /// What the partner says.
    pub(super) handled: u32,
    /// What we sent.
    pub(super) sent: u32,
}

impl Management {
    /// Counts a stanza that came in and gives its number.
    pub(super) fn received(&mut self) -> u32 {
        let number = self.inbound.handled.wrapping_add(self.inbound.finished.len() as u32);
        self.inbound.finished.push_back(false);
        number
    }

    /// Is so much open that nothing more may be read?
    pub(super) fn is_busy(&self) -> bool {
        self.inbound.finished.len() >= limits::STREAM_UNHANDLED_MAX
    }

    /// A stanza is finished. Says whether an acknowledgement that is owed can be sent
    /// now; a stale number changes nothing.
    pub(super) fn finish(&mut self, number: u32) -> bool {
        let offset = number.wrapping_sub(self.inbound.handled) as usize;
        let Some(finished) = self.inbound.finished.get_mut(offset) else { return false };
        *finished = true;
        while self.inbound.finished.front() == Some(&true) {
            self.inbound.finished.pop_front();
            self.inbound.handled = self.inbound.handled.wrapping_add(1);
        }
        self.inbound.owed && self.inbound.finished.is_empty()
    }

    /// The number for an `<a/>` that is sent now.
    pub(super) fn answer(&mut self) -> u32 {
        self.inbound.owed = !self.inbound.finished.is_empty();
        self.inbound.handled
    }

    /// How many stanzas were handled.
    pub(super) fn handled(&self) -> u32 {
        self.inbound.handled
    }

    /// Is there room for one more stanza of `octets` octets?
    pub(super) fn has_room(&self, octets: usize) -> bool {
        self.outbound.unacknowledged.len() < limits::STREAM_QUEUE_STANZAS_MAX
            && self.outbound.octets + octets <= limits::STREAM_QUEUE_OCTETS_MAX
    }

    /// Notes a stanza that goes out now. Its octets are kept only if it could be sent
    /// again.
    pub(super) fn sent(&mut self, mut stanza: Stanza) {
        if self.resumption.is_none() {
            stanza.bytes = Box::default();
        }
        self.outbound.octets += stanza.bytes.len();
        self.outbound.unacknowledged.push_back(stanza);
        self.outbound.unasked += 1;
    }

    /// Takes in the partner's number; gives the stanzas it frees.
    pub(super) fn acknowledged(&mut self, handled: u32) -> Result<impl Iterator<Item = Stanza> + '_, TooHigh> {
        let out = &mut self.outbound;
        let count = handled.wrapping_sub(out.acknowledged);
        // A number that went back is a late answer, not a claim.
        let count = if count > u32::MAX / 2 { 0 } else { count as usize };
        if count > out.unacknowledged.len() {
            let sent = out.acknowledged.wrapping_add(out.unacknowledged.len() as u32);
            return Err(TooHigh { handled, sent });
        }
        out.acknowledged = out.acknowledged.wrapping_add(count as u32);
        out.octets -= out.unacknowledged.iter().take(count).map(|s| s.bytes.len()).sum::<usize>();
        Ok(out.unacknowledged.drain(..count))
    }

    /// An `<a/>` came: the partner lives, and the next question may go out.
    pub(super) fn answered(&mut self) {
        self.outbound.asked = None;
    }

    /// Notes that an `<r/>` goes out.
    pub(super) fn asked(&mut self, now: Instant) {
        self.outbound.asked.get_or_insert(now);
        self.outbound.unasked = 0;
    }

    /// Since when an answer is due.
    pub(super) fn asked_since(&self) -> Option<Instant> {
        self.outbound.asked
    }

    /// Should an `<r/>` go out now? Always when something is open and no question is,
    /// so that a sender waits one round trip and no longer; else after every
    /// [`STANZAS_PER_REQUEST`] stanzas.
    pub(super) fn should_ask(&self) -> bool {
        let out = &self.outbound;
        !out.unacknowledged.is_empty() && (out.asked.is_none() || out.unasked >= STANZAS_PER_REQUEST)
    }

    /// Is every stanza acknowledged?
    pub(super) fn is_settled(&self) -> bool {
        self.outbound.unacknowledged.is_empty()
    }

    /// Takes out all that is not acknowledged: on a resumed stream it is sent, and so
    /// counted, again.
    pub(super) fn take_unacknowledged(&mut self) -> VecDeque<Stanza> {
        self.outbound.octets = 0;
        self.outbound.asked = None;
        self.outbound.unasked = 0;
        core::mem::take(&mut self.outbound.unacknowledged)
    }
}

/// REQ-XC-42: an acknowledgement is asked for at least this often.
const STANZAS_PER_REQUEST: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn stanza(octets: usize) -> Stanza {
        Stanza { ticket: None, bytes: vec![b'x'; octets].into(), since: Instant::ZERO, wall: Wall(0), again: false }
    }

    #[test]
    fn the_number_told_passes_no_stanza_that_is_open() {
        let mut m = Management::default();
        let numbers = [m.received(), m.received(), m.received()];
        assert_eq!(numbers, [0, 1, 2]);
        assert!(!m.finish(2));
        assert!(!m.finish(1));
        assert_eq!(m.answer(), 0);
        assert!(m.finish(0), "the answer that was owed may go now");
        assert_eq!(m.answer(), 3);
        assert!(!m.finish(0), "a stale number changes nothing");
        assert_eq!(m.handled(), 3);
    }

    #[test]
    fn counts_wrap_at_two_to_the_thirty_two() {
        let mut m = Management::default();
        m.inbound.handled = u32::MAX;
        m.outbound.acknowledged = u32::MAX;
        assert_eq!((m.received(), m.received()), (u32::MAX, 0));
        m.finish(u32::MAX);
        m.finish(0);
        assert_eq!(m.handled(), 1);
        m.sent(stanza(1));
        m.sent(stanza(1));
        assert_eq!(m.acknowledged(1).map(Iterator::count), Ok(2));
    }

    #[test]
    fn an_acknowledgement_of_more_than_was_sent_is_told() {
        let mut m = Management::default();
        m.sent(stanza(1));
        assert_eq!(m.acknowledged(2).map(Iterator::count), Err(TooHigh { handled: 2, sent: 1 }));
        assert_eq!(m.acknowledged(1).map(Iterator::count), Ok(1));
        assert_eq!(m.acknowledged(0).map(Iterator::count), Ok(0), "a late answer");
        assert!(m.is_settled());
    }

    #[test]
    fn octets_are_kept_only_where_they_could_be_sent_again() {
        let mut m = Management::default();
        m.sent(stanza(100));
        assert_eq!(m.outbound.octets, 0);
        m.resumption = Some(Resumption { id: "r".into(), seconds_max: 60 });
        m.sent(stanza(100));
        assert_eq!(m.outbound.octets, 100);
        assert_eq!(m.acknowledged(2).map(Iterator::count), Ok(2));
        assert_eq!(m.outbound.octets, 0);
    }

    #[test]
    fn an_acknowledgement_is_asked_for_at_once_and_then_every_five_stanzas() {
        let mut m = Management::default();
        assert!(!m.should_ask());
        m.sent(stanza(1));
        assert!(m.should_ask());
        m.asked(Instant::ZERO);
        for _ in 0..STANZAS_PER_REQUEST {
            assert!(!m.should_ask());
            m.sent(stanza(1));
        }
        assert!(m.should_ask());
        m.asked(Instant::from_millis(5));
        assert_eq!(m.asked_since(), Some(Instant::ZERO));
        m.answered();
        assert!(m.should_ask());
    }

    #[test]
    fn the_table_has_an_end_in_both_directions() {
        let mut m = Management::default();
        for _ in 0..limits::STREAM_UNHANDLED_MAX {
            assert!(!m.is_busy());
            m.received();
        }
        assert!(m.is_busy());
        for _ in 0..limits::STREAM_QUEUE_STANZAS_MAX {
            assert!(m.has_room(1));
            m.sent(stanza(1));
        }
        assert!(!m.has_room(1));
    }
}
