//! What is on its way from one domain of ours to one domain of a partner: the stanzas
//! that wait, the stream they wait for, and what was learned from failures.

use super::management::Stanza;
use super::server::Undelivered;
use super::stream::Without;
use crate::base::cx::Cx;
use crate::base::net::Target;
use crate::base::slab::Key;
use crate::base::time::Instant;
use crate::limits;
use core::time::Duration;
use std::collections::VecDeque;

/// One pair of domains.
#[derive(Debug)]
pub(super) struct Route {
    /// Ours.
    pub(super) ours: String,
    /// The partner's; empty for the server of a component, which takes all.
    pub(super) theirs: String,
    /// Our own stream to the partner.
    pub(super) stage: Stage,
    /// The stream that stanzas go out on: our own, one of another pair that this pair
    /// was proved on too, or one of the partner's that goes both ways.
    pub(super) carrier: Option<Key>,
    /// The stream of another pair that our key for this pair was shown on.
    pub(super) joining: Option<(Key, Instant)>,
    /// Was joining refused, so that the pair needs a stream of its own?
    pub(super) alone: bool,
    /// The partner's addresses.
    pub(super) targets: heapless::Vec<Target, { limits::DNS_TARGETS_MAX }>,
    /// Which of them is being tried.
    pub(super) next: usize,
    /// What does not work there.
    pub(super) without: Without,
    /// The gravest failure so far.
    pub(super) worst: Option<Undelivered>,
    /// Was the search begun anew because a negotiated stream was lost?
    pub(super) restarted: bool,
    /// When the attempts began.
    pub(super) since: Instant,
    /// Stanzas that wait.
    pub(super) queue: VecDeque<Stanza>,
    /// Octets of those.
    pub(super) octets: usize,
    /// Dialback keys of the partner that wait to be confirmed.
    pub(super) verifications: Vec<Key>,
    /// Attempts that failed since one went well.
    pub(super) failures: u32,
    /// Until then new stanzas are answered with the last failure.
    pub(super) blocked: Option<(Instant, Undelivered)>,
    /// A stream that was lost and may be taken up again.
    pub(super) suspended: Option<Suspended>,
}

/// How far our own stream to the partner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// There is none.
    Idle,
    /// Its address is being looked up.
    Locating,
    /// It is being negotiated.
    Opening(Key),
    /// It can confirm keys, and carry stanzas once our pair is proved.
    Ready(Key),
}

impl Stage {
    /// Is it this stream?
    pub(super) fn is(self, stream: Key) -> bool {
        self == Self::Opening(stream) || self == Self::Ready(stream)
    }
}

/// A stream that was lost and may be taken up again.
#[derive(Debug)]
pub(super) struct Suspended {
    /// Its counts and what is not acknowledged.
    pub(super) session: Key,
    /// After that its senders are told.
    pub(super) until: Instant,
}

impl Route {
    pub(super) fn new(ours: &str, theirs: &str, now: Instant) -> Self {
        Self {
            ours: ours.into(),
            theirs: theirs.into(),
            stage: Stage::Idle,
            carrier: None,
            joining: None,
            alone: false,
            targets: heapless::Vec::new(),
            next: 0,
            without: Without::default(),
            worst: None,
            restarted: false,
            since: now,
            queue: VecDeque::new(),
            octets: 0,
            verifications: Vec::new(),
            failures: 0,
            blocked: None,
            suspended: None,
        }
    }

    /// Is a stream of ours on its way?
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.stage, Stage::Locating | Stage::Opening(_))
    }

    /// Does it lead to the server of a component?
    pub(super) fn is_component(&self) -> bool {
        self.theirs.is_empty()
    }

    /// Does anything wait for a stream that carries stanzas?
    pub(super) fn wants_carrier(&self) -> bool {
        let waits = !self.queue.is_empty() || self.suspended.is_some() || self.is_component();
        waits && self.carrier.is_none() && self.joining.is_none()
    }

    /// Does anything wait for a stream of any kind?
    pub(super) fn wants_stream(&self) -> bool {
        self.wants_carrier() || !self.verifications.is_empty()
    }

    /// Is there room for one more stanza?
    pub(super) fn has_room(&self, octets: usize) -> bool {
        self.queue.len() < limits::STREAM_QUEUE_STANZAS_MAX && self.octets + octets <= limits::STREAM_QUEUE_OCTETS_MAX
    }

    /// Notes a failure; the gravest one is what senders are told in the end.
    pub(super) fn note(&mut self, why: Undelivered) {
        let grave = |why| match why {
            Undelivered::Refused => 4,
            Undelivered::NotFound => 3,
            Undelivered::Timeout => 2,
            Undelivered::Unreachable => 1,
            Undelivered::Overload | Undelivered::TooLarge | Undelivered::StreamLost => 0,
        };
        if self.worst.is_none_or(|worst| grave(worst) < grave(why)) {
            self.worst = Some(why);
        }
    }

    /// How long to leave the partner alone after another failure: random, doubling, and
    /// short, since a new stanza is reason enough to try again (promise P7).
    pub(super) fn back_off(&mut self, cx: &mut Cx<'_>) -> Duration {
        let most = if self.is_component() { COMPONENT_BACK_OFF_MAX } else { BACK_OFF_MAX };
        let step = BACK_OFF_FIRST.saturating_mul(1 << self.failures.min(10)).min(most);
        self.failures = self.failures.saturating_add(1);
        let half = step.as_millis() as u64 / 2;
        Duration::from_millis(half + cx.rng.below(half + 1))
    }

    /// When something has to happen here if nothing else does before.
    pub(super) fn deadline(&self, establishment: Duration) -> Option<Instant> {
        let waiting = self.queue.front().map(|stanza| stanza.since.after(STANZA_WAIT_MAX));
        let attempt = self.is_opening().then(|| self.since.after(establishment));
        let joining = self.joining.map(|(_, since)| since.after(JOIN_MAX));
        let blocked = self.blocked.map(|(until, _)| until);
        let suspended = self.suspended.as_ref().map(|suspended| suspended.until);
        [waiting, attempt, joining, blocked, suspended].into_iter().flatten().min()
    }

    /// Is there nothing left to remember?
    pub(super) fn is_spent(&self) -> bool {
        self.stage == Stage::Idle
            && self.carrier.is_none()
            && self.blocked.is_none()
            && !self.is_component()
            && !self.wants_stream()
            && self.joining.is_none()
    }
}

/// A stanza waits no longer for its stream: below the 32 s after which the SIP
/// transaction that may stand behind it gives up.
pub(super) const STANZA_WAIT_MAX: Duration = Duration::from_secs(25);
/// After that the pair gets a stream of its own.
const JOIN_MAX: Duration = Duration::from_secs(10);
const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
const COMPONENT_BACK_OFF_MAX: Duration = Duration::from_secs(30);
