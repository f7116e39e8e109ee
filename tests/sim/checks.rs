//! What has to be true whatever happened: the promises, held against a ledger of what
//! was written, shown and told.

use latimer::base::counters::{Counter, Counters};
use latimer::base::net::LinkId;
use std::collections::BTreeMap;

/// What became of a message.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    pub from_sip: bool,
    pub to: String,
    /// When it was shown, each time.
    pub shown: Vec<u64>,
    /// The final answer a SIP sender got.
    pub status: Option<u16>,
    /// Was an XMPP sender told that it failed?
    pub told: bool,
    /// It went over a stream without stream management, and from then on nobody can
    /// say what was lost when that stream broke.
    pub unsure: Option<LinkId>,
    /// That stream broke, or the gateway was killed, while it was under way.
    pub excused: bool,
}

/// All messages by number, and what went wrong.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub entries: BTreeMap<u64, Entry>,
    pub faults: Vec<String>,
    kill: Option<u64>,
}

impl Ledger {
    pub fn wrote(&mut self, number: u64, from_sip: bool, to: &str) {
        self.entries.insert(number, Entry { from_sip, to: to.into(), ..Entry::default() });
    }

    pub fn shown(&mut self, number: u64, at: u64) {
        match self.entries.get_mut(&number) {
            Some(entry) => entry.shown.push(at),
            None => self.fault(format!("message {number} was never written")),
        }
    }

    pub fn answered(&mut self, number: u64, status: u16) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.status = Some(status);
        }
    }

    pub fn told(&mut self, number: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.told = true;
        }
    }

    /// It left on a stream that nobody acknowledges.
    pub fn unsure(&mut self, number: u64, link: LinkId) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.unsure = Some(link);
        }
    }

    /// A stream broke: what is open on it may be gone with it.
    pub fn lost(&mut self, link: LinkId) {
        for entry in self.entries.values_mut().filter(|entry| entry.unsure == Some(link)) {
            entry.excused |= entry.shown.is_empty() && !entry.told;
        }
    }

    pub fn killed(&mut self, at: u64) {
        self.kill = Some(at);
        for entry in self.entries.values_mut() {
            entry.excused |= entry.status.is_none() && !entry.told;
        }
    }

    pub fn fault(&mut self, what: String) {
        if self.faults.len() < 20 {
            self.faults.push(what);
        }
    }

    /// The promises P1 and P2.
    pub fn check(&self, calm: bool, count: &Counters) -> Vec<String> {
        let mut problems = self.faults.clone();
        let mut unheard = Vec::new();
        for (number, entry) in &self.entries {
            let mut bad = |what: &str| problems.push(format!("message {number}: {what}: {entry:?}"));
            let positive = entry.status.is_some_and(|status| (200..300).contains(&status));
            if entry.shown.len() > 1 && !(entry.excused && self.kill.is_some()) {
                bad("shown twice (P2)");
            }
            if entry.from_sip && positive && entry.shown.is_empty() {
                bad("its sender got 200, and it was lost (P1)");
            }
            if !entry.from_sip && entry.shown.is_empty() && !entry.told && !entry.excused {
                unheard.push(*number);
            }
            let reachable = matches!(&*entry.to, "marta" | "jonas" | "lena" | "pavel" | "slow");
            let crossed = entry.shown.len() == 1 && !entry.told && (positive || !entry.from_sip);
            if calm && reachable && !crossed {
                bad("did not cross though all was well");
            }
        }
        // An error may have found no way back in time, which the gateway has to know.
        let known = if calm { 0 } else { count.of(Counter::StanzaUndelivered) };
        if unheard.len() as u64 > known {
            problems.push(format!("lost without a word (P1, {known} known): {unheard:?}"));
        }
        if calm {
            problems.extend(self.disorder());
        }
        problems
    }

    /// Between two people messages keep their order.
    fn disorder(&self) -> Vec<String> {
        let mut last: BTreeMap<(bool, &str), (u64, u64)> = BTreeMap::new();
        let mut problems = Vec::new();
        for (number, entry) in &self.entries {
            let Some(shown) = entry.shown.first() else { continue };
            let before = last.insert((entry.from_sip, &entry.to), (*number, *shown));
            if let Some((other, at)) = before
                && at > *shown
            {
                problems.push(format!("message {number} overtook {other}"));
            }
        }
        problems
    }
}

/// The promise P8: at a quiet moment what came in is what went out, was answered with an
/// error, or was refused.
pub fn balance(count: &Counters) -> Vec<String> {
    let of = |counters: &[Counter]| counters.iter().map(|counter| count.of(*counter)).sum::<u64>();
    let sides = [
        (
            "SIP",
            Counter::SipMessageIn,
            [
                Counter::SipMessageDelivered,
                Counter::SipMessageFailed,
                Counter::SipMessageRefused,
                Counter::SipMessageNothing,
            ],
        ),
        (
            "XMPP",
            Counter::XmppMessageIn,
            [
                Counter::XmppMessageDelivered,
                Counter::XmppMessageFailed,
                Counter::XmppMessageRefused,
                Counter::XmppMessageNothing,
            ],
        ),
    ];
    sides
        .into_iter()
        .filter(|(_, taken, gone)| count.of(*taken) != of(gone))
        .map(|(side, taken, gone)| {
            let parts: Vec<String> = gone.iter().map(|c| format!("{} {}", c.name(), count.of(*c))).collect();
            format!("{side}: {} came in, {} (P8)", count.of(taken), parts.join(", "))
        })
        .collect()
}
