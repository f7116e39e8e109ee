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

use super::ns;
use super::route::{STANZA_WAIT_MAX, Suspended};
use super::server::{Event, Server, Timer, Undelivered, route_of_side};
use super::stream::{Ended, State, Stream};
use super::stream_error::{StreamCondition, StreamFault};
use crate::base::cx::{Cx, Ticket};
use crate::base::outbox::Action;
use crate::base::slab::Key;
use crate::base::text::Escaped;
use crate::base::time::{Instant, Wall};
use crate::base::xml::Tag;
use crate::limits;
use core::time::Duration;
use std::collections::VecDeque;

/// The counts of a stream, and which stream it is now.
#[derive(Debug)]
pub(super) struct Session {
    /// The counts.
    pub(super) management: Management,
    /// The stream; `None` while it is lost and not resumed.
    stream: Option<Key>,
}

impl Server {
    /// Acknowledgements begin on a stream. Without a place in the table the stream does
    /// without them: the leaving of octets decides then.
    pub(super) fn begin_session(&mut self, key: Key, resumption: Option<(String, u64)>) {
        let resumption = resumption.map(|(id, seconds_max)| Resumption { id, seconds_max });
        let management = Management { resumption, ..Management::default() };
        let Ok(session) = self.sessions.insert(Session { management, stream: Some(key) }) else { return };
        if let Some(stream) = self.streams.get_mut(key) {
            stream.session = Some(session);
        }
    }

    /// The partner wants acknowledgements on its stream. We do not offer to resume it:
    /// what it sent and we did not handle is not known any more after a restart of ours.
    pub(super) fn on_enable(&mut self, cx: &mut Cx<'_>, key: Key) {
        let had = self.streams.get(key).is_some_and(|stream| stream.session.is_some());
        if !had {
            self.begin_session(key, None);
        }
        let Some(stream) = self.streams.get_mut(key) else { return };
        if had || stream.session.is_none() {
            let condition = if had { "unexpected-request" } else { "resource-constraint" };
            refuse(cx, stream, condition);
            return;
        }
        stream.write(cx, |w| Tag::begin(w, "enabled").namespace(ns::MANAGEMENT).empty());
    }

    /// The partner wants to take up a stream again, which we never offer.
    pub(super) fn refuse_resume(&mut self, cx: &mut Cx<'_>, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            refuse(cx, stream, "item-not-found");
        }
    }

    /// Tells the partner how much we handled.
    pub(super) fn acknowledge(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let Some(session) = stream.session.and_then(|session| self.sessions.get_mut(session)) else { return };
        let handled = session.management.answer().to_string();
        stream.write(cx, |w| Tag::begin(w, "a").namespace(ns::MANAGEMENT).attribute("h", &handled).empty());
    }

    /// Asks the partner how much it handled.
    pub(super) fn ask(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let Some(session) = stream.session.and_then(|session| self.sessions.get_mut(session)) else { return };
        session.management.asked(cx.now);
        stream.write(cx, |w| Tag::begin(w, "r").namespace(ns::MANAGEMENT).empty());
        self.arm_outcome(key);
    }

    /// The partner says how much it handled.
    pub(super) fn on_acknowledged(&mut self, cx: &mut Cx<'_>, key: Key, handled: u32) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let stalled = stream.stalled;
        let Some(session) = stream.session.and_then(|session| self.sessions.get_mut(session)) else { return };
        session.management.answered();
        let open = session.management.open();
        let outcome = session.management.acknowledged(handled).map(|stanzas| {
            let tickets = stanzas.filter_map(|stanza| stanza.ticket);
            self.outcomes.extend(tickets.map(|ticket| Event::Delivered { ticket }));
        });
        if let Err(TooHigh { handled, sent }) = outcome {
            cx.info(
                "xmpp.sm.too-high",
                format_args!("partner={} handled={handled} sent={sent} side=partner", Escaped(&stream.theirs)),
            );
            let fault = StreamFault::new(StreamCondition::UndefinedCondition, "more acknowledged than was sent");
            let step = stream.fail_with(cx, fault, Some(("handled-count-too-high", ns::MANAGEMENT)));
            self.on_step(cx, key, step);
            return;
        }
        let is_progress = session.management.open() < open;
        if session.management.should_ask() {
            if is_progress {
                self.ask(cx, key);
            } else {
                // It has them and is not done with them. To ask again at once would make
                // a circle of questions and answers that goes round as fast as it can.
                self.set(key, Timer::Outcome, cx.now.after(ASK_AGAIN));
            }
        }
        if stalled {
            self.unstall(cx, key);
        }
    }

    /// The gateway is done with a stanza of the partner.
    pub(super) fn finish(&mut self, cx: &mut Cx<'_>, session: Key, number: u32) {
        let Some(held) = self.sessions.get_mut(session) else { return };
        let owes = held.management.finish(number);
        let is_busy = held.management.is_busy();
        let Some(key) = held.stream else { return };
        if owes {
            self.acknowledge(cx, key);
        }
        if let Some(stream) = self.streams.get_mut(key).filter(|stream| stream.paused && !is_busy) {
            stream.paused = false;
            cx.out.push(Action::Reading { link: stream.link, on: true });
        }
    }

    /// Is so much not handled yet that nothing more is read from the stream?
    pub(super) fn must_pause(&mut self, cx: &mut Cx<'_>, key: Key) -> bool {
        let Some(stream) = self.streams.get_mut(key) else { return false };
        let session = stream.session.and_then(|session| self.sessions.get(session));
        let is_busy = session.is_some_and(|session| session.management.is_busy());
        if is_busy && !stream.paused {
            stream.paused = true;
            cx.out.push(Action::Reading { link: stream.link, on: false });
        }
        is_busy
    }

    /// A stream is gone. If it may be resumed its stanzas wait for that; else they may or
    /// may not have arrived, and their senders are told.
    pub(super) fn suspend_session(&mut self, cx: &mut Cx<'_>, stream: &Stream) {
        let Some(session) = stream.session else { return };
        let route = route_of_side(stream.side).and_then(|route| self.routes.get_mut(route));
        let Some(held) = self.sessions.get_mut(session) else { return };
        held.stream = None;
        let within = held.management.resumption.as_ref().map(|r| Duration::from_secs(r.seconds_max));
        let keep = stream.state != State::Closing && !self.is_shut && !held.management.is_settled();
        match (route, within) {
            (Some(route), Some(within)) if keep => {
                // No longer than its senders wait: once they are told, nothing is resumed.
                let until = cx.now.after(within.min(STANZA_WAIT_MAX));
                route.suspended = Some(Suspended { session, until });
            }
            _ => self.lose_session(cx, session),
        }
    }

    /// Gives up what was not acknowledged on a stream that is gone.
    pub(super) fn lose_session(&mut self, cx: &mut Cx<'_>, session: Key) {
        let Some(mut session) = self.sessions.remove(session) else { return };
        for stanza in session.management.take_unacknowledged() {
            self.undelivered(cx, stanza.ticket, Undelivered::StreamLost);
        }
    }

    /// The partner took a stream up again: what it did not get is sent once more.
    pub(super) fn resumed(&mut self, cx: &mut Cx<'_>, key: Key, handled: u32) {
        let left = self.reconcile(cx, key, Some(handled));
        if self.streams.get(key).is_none_or(|stream| stream.session.is_none()) {
            // Its senders were told in the meantime: what the partner counts is not ours.
            self.end_stream(cx, key, Ended::new(Undelivered::Unreachable));
            return;
        }
        for stanza in left {
            self.transmit(cx, key, Stanza { again: true, ..stanza });
        }
    }

    /// The partner does not take a stream up again. If it says how much it got, the rest
    /// goes out on the new stream; if not, nothing is known of it.
    pub(super) fn not_resumed(&mut self, cx: &mut Cx<'_>, key: Key, handled: Option<u32>) {
        let left = self.reconcile(cx, key, handled);
        let route = self.streams.get(key).and_then(|stream| route_of_side(stream.side));
        for stanza in left.into_iter().rev() {
            let again = Stanza { again: true, ..stanza };
            match route.and_then(|route| self.routes.get_mut(route)) {
                Some(route) if handled.is_some() => {
                    route.octets += again.bytes.len();
                    self.queued_octets += again.bytes.len();
                    route.queue.push_front(again);
                }
                _ => self.undelivered(cx, again.ticket, Undelivered::StreamLost),
            }
        }
    }

    /// Takes the suspended session of a stream's route: what the partner has is delivered;
    /// what it does not have, or may not have, is given back. After a resumption, when the
    /// stream is proved, the session goes on; else it ends.
    fn reconcile(&mut self, cx: &mut Cx<'_>, key: Key, handled: Option<u32>) -> VecDeque<Stanza> {
        let Some(stream) = self.streams.get_mut(key) else { return VecDeque::new() };
        let route = route_of_side(stream.side).and_then(|route| self.routes.get_mut(route));
        let Some(Suspended { session, .. }) = route.and_then(|route| route.suspended.take()) else {
            return VecDeque::new();
        };
        let goes_on = !stream.proved.is_empty();
        let Some(held) = self.sessions.get_mut(session) else { return VecDeque::new() };
        if let Some(Ok(stanzas)) = handled.map(|handled| held.management.acknowledged(handled)) {
            let delivered = stanzas.filter_map(|stanza| stanza.ticket).map(|ticket| Event::Delivered { ticket });
            self.outcomes.extend(delivered);
        }
        let left = held.management.take_unacknowledged();
        if goes_on {
            held.stream = Some(key);
            stream.session = Some(session);
        } else {
            self.sessions.remove(session);
        }
        cx.info(
            "xmpp.sm.reconciled",
            format_args!("partner={} resumed={goes_on} left={}", Escaped(&stream.theirs), left.len()),
        );
        left
    }
}

fn refuse(cx: &mut Cx<'_>, stream: &mut Stream, condition: &'static str) {
    stream.write(cx, |w| {
        Tag::begin(w, "failed").namespace(ns::MANAGEMENT).content(|w| {
            Tag::begin(w, condition).namespace(ns::STANZA_ERRORS).empty();
        });
    });
}

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

    /// Since when the oldest stanza that is not acknowledged is with us.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.outbound.unacknowledged.front().map(|stanza| stanza.since)
    }

    /// How many stanzas are not acknowledged.
    pub(super) fn open(&self) -> usize {
        self.outbound.unacknowledged.len()
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

/// How soon a partner is asked again that answered and acknowledged nothing new. It says
/// so by itself when it has; this is for those that do not.
const ASK_AGAIN: Duration = Duration::from_secs(2);

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
