//! Limits for domains that nobody configured, while discovery is open: those that Lync has
//! for partners it discovered. So many messages a second, fewer when most of them fail;
//! so many different addressees in all, since who tries more is guessing names. Only an
//! operator who configures the domain lifts them.
//!
//! And a short memory of SIP users who do not exist, so that an Edge, which judges us in
//! the same way, is not asked for them again and again.

use super::Gateway;
use super::uas::Answer;
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::text::Escaped;
use crate::base::time::Instant;
use crate::limits::{DISCOVERED_ADDRESSEES_MAX, DISCOVERED_MAX, UNKNOWN_USERS_MAX};
use crate::settings::{DISCOVERED_RATE, Dialect};
use crate::sip::diagnostics::cause;
use crate::xmpp::jid::{self, Jid};
use crate::xmpp::stanza::{Condition, StanzaError};
use core::hash::{Hash, Hasher};
use core::time::Duration;
use std::collections::BTreeMap;
use std::hash::DefaultHasher;

/// So many outcomes are looked at to see whether most of them are failures.
const OUTCOMES: u32 = 40;
/// Messages a second of a domain most of whose messages fail.
const BAD_RATE: u32 = 1;
/// So long after it last tried a blocked domain keeps its place, should all be taken.
const BLOCKED_TIME: Duration = Duration::from_secs(24 * 3600);
/// So long a user who does not exist is not asked for again.
const UNKNOWN_TIME: Duration = Duration::from_secs(60);

/// Why a discovered domain is not heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It sends too much: 503, `resource-constraint`.
    TooFast,
    /// It addressed too many users: 403, `policy-violation`.
    Blocked,
    /// Too many domains are kept already: 503, `resource-constraint`.
    NoRoom,
}

impl Held {
    const fn reason(self) -> &'static str {
        match self {
            Self::TooFast => "Too Many Messages From A Domain That Is Not Configured",
            Self::Blocked => "Too Many Addressees Of A Domain That Is Not Configured",
            Self::NoRoom => "Too Many Domains That Are Not Configured",
        }
    }

    /// The answer to a SIP request.
    pub(super) fn answer(self) -> Answer {
        match self {
            Self::TooFast => Answer::new(503, self.reason(), Counter::DiscoveredHeld)
                .with("Retry-After", "1")
                .because(Some(cause::TOO_FAST)),
            Self::NoRoom => Answer::new(503, self.reason(), Counter::DiscoveredHeld).with("Retry-After", "60"),
            Self::Blocked => {
                Answer::new(403, self.reason(), Counter::DiscoveredBlocked).because(Some(cause::TOO_MANY_ADDRESSEES))
            }
        }
    }

    /// The answer to a stanza, and what counts it.
    pub(super) fn error(self) -> (Counter, StanzaError<'static>) {
        let (counter, condition) = match self {
            Self::TooFast | Self::NoRoom => (Counter::DiscoveredHeld, Condition::ResourceConstraint),
            Self::Blocked => (Counter::DiscoveredBlocked, Condition::PolicyViolation),
        };
        (counter, StanzaError::new(condition).with_text(self.reason()))
    }
}

/// What is known of one domain.
#[derive(Clone, Debug)]
struct Domain {
    /// When the second began in which messages are counted.
    second: Instant,
    /// Messages within it.
    messages: u32,
    /// Hashes of the users it addressed, whether they exist or not, sorted.
    addressees: Vec<u64>,
    /// Did it address too many?
    is_blocked: bool,
    /// Its last outcomes, the latest lowest; a failure is 1.
    outcomes: u64,
    /// How many of them there are.
    known: u32,
    /// When it last sent anything.
    used: Instant,
}

impl Domain {
    const fn new(now: Instant) -> Self {
        Self { second: now, messages: 0, addressees: Vec::new(), is_blocked: false, outcomes: 0, known: 0, used: now }
    }

    const fn is_bad(&self) -> bool {
        self.known >= OUTCOMES && self.outcomes.count_ones() * 2 > OUTCOMES
    }

    fn pass(&mut self, now: Instant, addressee: u64) -> Result<(), Held> {
        self.used = now;
        if self.is_blocked {
            return Err(Held::Blocked);
        }
        if now.since(self.second) >= Duration::from_secs(1) {
            (self.second, self.messages) = (now, 0);
        }
        if self.messages >= if self.is_bad() { BAD_RATE } else { DISCOVERED_RATE } {
            return Err(Held::TooFast);
        }
        self.messages += 1;
        if let Err(at) = self.addressees.binary_search(&addressee) {
            if self.addressees.len() >= DISCOVERED_ADDRESSEES_MAX {
                self.is_blocked = true;
                // They are not needed any more.
                self.addressees = Vec::new();
                return Err(Held::Blocked);
            }
            self.addressees.insert(at, addressee);
        }
        Ok(())
    }
}

/// All discovered domains that were heard of, and users that do not exist.
#[derive(Debug, Default)]
pub(super) struct Discovered {
    domains: BTreeMap<Box<str>, Domain>,
    unknown: BTreeMap<u64, Instant>,
}

impl Discovered {
    /// May a message of this domain to that user pass?
    fn pass(&mut self, now: Instant, domain: &str, addressee: &str) -> Result<(), Held> {
        if !self.domains.contains_key(domain) {
            if self.domains.len() >= DISCOVERED_MAX {
                // One that is blocked has to stay, or it would begin anew; but not for ever, or
                // whoever has many domains could shut all others out.
                let may_go = |known: &Domain| !known.is_blocked || now.since(known.used) >= BLOCKED_TIME;
                let idle = self.domains.iter().filter(|(_, known)| may_go(known));
                let oldest = idle.min_by_key(|(_, known)| (known.is_blocked, known.used)).map(|(name, _)| name.clone());
                self.domains.remove(&oldest.ok_or(Held::NoRoom)?);
            }
            self.domains.insert(domain.into(), Domain::new(now));
        }
        self.domains.get_mut(domain).map_or(Err(Held::NoRoom), |known| known.pass(now, hash(addressee)))
    }

    fn outcome(&mut self, domain: &str, is_failure: bool) {
        let Some(known) = self.domains.get_mut(domain) else { return };
        known.outcomes = (known.outcomes << 1 | u64::from(is_failure)) & ((1 << OUTCOMES) - 1);
        known.known = (known.known + 1).min(OUTCOMES);
    }

    /// What was taken for a success turned out to be none: the latest of them counts as a
    /// failure.
    fn failed(&mut self, domain: &str) {
        let Some(known) = self.domains.get_mut(domain).filter(|known| known.known > 0) else { return };
        known.outcomes = (known.outcomes | (known.outcomes + 1)) & ((1 << OUTCOMES) - 1);
    }

    /// Forgets those that are configured now.
    pub(super) fn configure(&mut self, is_configured: impl Fn(&str) -> bool) {
        self.domains.retain(|domain, _| !is_configured(domain));
        self.unknown.clear();
    }

    fn note_unknown(&mut self, now: Instant, user: &str) {
        if self.unknown.len() >= UNKNOWN_USERS_MAX {
            self.unknown.retain(|_, since| now.since(*since) < UNKNOWN_TIME);
        }
        if self.unknown.len() < UNKNOWN_USERS_MAX {
            self.unknown.insert(hash(user), now);
        }
    }

    fn is_unknown(&self, now: Instant, user: &str) -> bool {
        self.unknown.get(&hash(user)).is_some_and(|since| now.since(*since) < UNKNOWN_TIME)
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl Gateway {
    /// May a message, session or subscription of this domain, on whichever side, to that
    /// bare address pass? Always, if the domain is configured.
    pub(super) fn hold_discovered(&mut self, cx: &mut Cx<'_>, domain: &str, to: &str) -> Result<(), Held> {
        if self.routes.is_configured(domain) {
            return Ok(());
        }
        let was_blocked = self.discovered.domains.get(domain).is_some_and(|known| known.is_blocked);
        let passed = self.discovered.pass(cx.now, domain, to);
        if passed == Err(Held::Blocked) && !was_blocked {
            cx.refuse(
                Counter::DiscoveredBlocked,
                "discovered.blocked",
                format_args!(
                    "domain={} addressees={DISCOVERED_ADDRESSEES_MAX} do=\"configure the domain if it may do so, else block it\"",
                    Escaped(domain)
                ),
            );
        }
        passed
    }

    /// What became of a message of that domain when it was judged, with what counts a
    /// refusal; of a configured domain it means nothing. What is refused for want of room or
    /// for coming too fast says nothing of the addressee: whoever was slowed down could else
    /// not get out of it.
    pub(super) fn note_outcome(&mut self, domain: &str, refused: Option<Counter>) {
        let is_ours =
            matches!(refused, Some(Counter::DiscoveredHeld | Counter::DiscoveredBlocked | Counter::SipOverload));
        if !is_ours {
            self.discovered.outcome(domain, refused.is_some());
        }
    }

    /// The other side refused a message of that domain that was passed on.
    pub(super) fn note_failed(&mut self, domain: &str) {
        self.discovered.failed(domain);
    }

    /// A final answer of a SIP user's side to what an XMPP user wanted of him: whether he
    /// exists is remembered, where its Edge would count how often we ask.
    /// `sip` is his JID.
    pub(super) fn note_answer(&mut self, now: Instant, sip: &str, status: u16) {
        let (_, domain, _) = jid::split(sip);
        let bare = sip.split_once('/').map_or(sip, |(bare, _)| bare);
        match status {
            404 | 604 if self.dialect_of(domain) == Dialect::Lync => self.discovered.note_unknown(now, bare),
            200..300 => self.is_there(bare),
            _ => {}
        }
    }

    /// The SIP user of this bare JID did something: he exists.
    pub(super) fn is_there(&mut self, sip: &str) {
        if !self.discovered.unknown.is_empty() {
            self.discovered.unknown.remove(&hash(sip));
        }
    }

    /// Did his own side say a moment ago that the SIP user does not exist?
    pub(super) fn is_unknown(&self, now: Instant, sip: &Jid) -> bool {
        self.discovered.is_unknown(now, sip.bare())
    }

    /// The answer to a stanza for one of whom that was said.
    pub(super) fn unknown_user() -> StanzaError<'static> {
        StanzaError::new(Condition::ItemNotFound).with_text("the SIP side said a moment ago that there is no such user")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn a_discovered_domain_may_send_twenty_messages_a_second() {
        let mut all = Discovered::default();
        for n in 0..100_u64 {
            // Ten seconds of one message each 50 ms, all to one user.
            assert_eq!(all.pass(at(n * 50), "far.example", "a@x"), Ok(()));
        }
        for n in 0..30 {
            let passed = all.pass(at(20_000), "far.example", "a@x");
            assert_eq!(passed, if n < 20 { Ok(()) } else { Err(Held::TooFast) }, "{n}");
        }
        assert_eq!(all.pass(at(20_000), "other.example", "a@x"), Ok(()), "each has its own");
        assert_eq!(all.pass(at(21_000), "far.example", "a@x"), Ok(()));
    }

    #[test]
    fn one_addressee_too_many_blocks_a_domain_until_it_is_configured() {
        let mut all = Discovered::default();
        let mut now = 0;
        for n in 0..DISCOVERED_ADDRESSEES_MAX {
            now += 50;
            assert_eq!(all.pass(at(now), "far.example", &format!("{n}@x")), Ok(()));
        }
        assert_eq!(all.pass(at(now + 50), "far.example", "0@x"), Ok(()), "not a new one");
        assert_eq!(all.pass(at(now + 100), "far.example", "new@x"), Err(Held::Blocked));
        assert_eq!(all.pass(at(now + 100_000_000), "far.example", "0@x"), Err(Held::Blocked));
        all.configure(|domain| domain == "far.example");
        assert!(all.domains.is_empty());
    }

    #[test]
    fn a_domain_most_of_whose_messages_fail_is_slowed_down_until_they_do_not() {
        let mut all = Discovered::default();
        assert_eq!(all.pass(at(0), "far.example", "a@x"), Ok(()));
        for n in 0..OUTCOMES {
            all.outcome("far.example", n % 2 == 0);
        }
        assert!(!all.domains["far.example"].is_bad(), "half is not most");
        for _ in 0..2 {
            all.outcome("far.example", true);
        }
        assert!(all.domains["far.example"].is_bad());
        assert_eq!(all.pass(at(5000), "far.example", "a@x"), Ok(()));
        assert_eq!(all.pass(at(5999), "far.example", "a@x"), Err(Held::TooFast));
        assert_eq!(all.pass(at(6000), "far.example", "a@x"), Ok(()));
        for _ in 0..OUTCOMES {
            all.outcome("far.example", false);
        }
        assert_eq!(all.pass(at(6001), "far.example", "a@x"), Ok(()));
    }

    #[test]
    fn what_fails_behind_us_is_a_failure_and_no_success_too() {
        let mut all = Discovered::default();
        all.failed("far.example");
        assert_eq!(all.pass(at(0), "far.example", "a@x"), Ok(()));
        all.failed("far.example");
        assert_eq!(all.domains["far.example"].outcomes, 0, "there was none to fail");
        for _ in 0..OUTCOMES {
            all.outcome("far.example", false);
            all.failed("far.example");
        }
        assert_eq!(all.domains["far.example"].outcomes.count_ones(), OUTCOMES);
        all.failed("far.example");
        assert_eq!(all.domains["far.example"].outcomes.count_ones(), OUTCOMES);
        assert!(all.domains["far.example"].is_bad());
    }

    #[test]
    fn the_tables_have_bounds_and_a_blocked_domain_stays() {
        let mut all = Discovered::default();
        assert_eq!(all.pass(at(0), "bad.example", "a@x"), Ok(()));
        all.domains.get_mut("bad.example").expect("known").is_blocked = true;
        for n in 0..2 * DISCOVERED_MAX as u64 {
            assert_eq!(all.pass(at(n + 1), &format!("d{n}.example"), "a@x"), Ok(()));
        }
        assert_eq!(all.domains.len(), DISCOVERED_MAX);
        assert_eq!(all.pass(at(1_000_000), "bad.example", "a@x"), Err(Held::Blocked));
        all.domains.values_mut().for_each(|known| known.is_blocked = true);
        assert_eq!(all.pass(at(1_000_000), "one.more.example", "a@x"), Err(Held::NoRoom));
        let day = 1_000_000 + BLOCKED_TIME.as_millis() as u64;
        assert_eq!(all.pass(at(day - 1), "bad.example", "a@x"), Err(Held::Blocked));
        assert_eq!(all.pass(at(day), "one.more.example", "a@x"), Ok(()));
        assert_eq!(all.pass(at(day), "bad.example", "a@x"), Err(Held::Blocked), "it tried a moment ago");
        for n in 0..UNKNOWN_USERS_MAX + 5 {
            all.note_unknown(at(0), &n.to_string());
        }
        assert_eq!(all.unknown.len(), UNKNOWN_USERS_MAX);
        all.note_unknown(at(60_000), "later");
        assert_eq!(all.unknown.len(), 1);
    }

    #[test]
    fn a_user_who_does_not_exist_is_forgotten_after_a_minute() {
        let mut all = Discovered::default();
        all.note_unknown(at(1000), "nobody@x");
        assert!(all.is_unknown(at(60_999), "nobody@x") && !all.is_unknown(at(61_000), "nobody@x"));
        assert!(!all.is_unknown(at(1000), "somebody@x"));
    }
}
