//! One test, as a machine that knows nothing of how its questions travel: it is told
//! what happened, says a line for each step, and comes to one end: green, or red at the
//! first step that cannot be got over, with whose side it is and what to do.

use crate::base::text::cut;
use crate::base::time::Instant;
use crate::base::trail::{Mark, Outcome, Side, Step};
use crate::limits::{PROBE_LINES_MAX, TRAIL_TEXT_OCTETS_MAX};
use core::fmt;
use core::time::Duration;

/// A step of its own may take so long: longer than the machines below give it, whose
/// words on a failure are better than ours.
pub(super) const STEP_TIME_MAX: Duration = Duration::from_secs(40);
/// The answer to a question that was delivered comes by then.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// So long an error is waited for that may come after a message was delivered.
pub(super) const LATE_ERROR_TIME: Duration = Duration::from_secs(2);
/// Who asked may fetch the lines for so long after the end.
pub(super) const KEPT_TIME: Duration = Duration::from_secs(60);

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// At which step.
    pub(super) step: &'static str,
    /// Who has to act.
    pub(super) side: Side,
    /// What it is.
    pub(super) text: String,
    /// What helps.
    pub(super) advice: String,
}

impl Fault {
    pub(super) fn new(step: &'static str, side: Side, text: impl fmt::Display, advice: impl Into<String>) -> Self {
        Self { step, side, text: text.to_string(), advice: advice.into() }
    }
}

/// A test and all it has said.
#[derive(Debug)]
pub(super) struct Probe {
    /// What to do when something happens; see `mod.rs`.
    pub(super) course: super::Course,
    /// The names that are watched for it.
    pub(super) names: Vec<String>,
    /// What was asked is on the other side, as far as can be known.
    pub(super) delivered: bool,
    begun: Instant,
    /// When the last line was said.
    since: Instant,
    /// It comes to an end by then, or is forgotten.
    deadline: Instant,
    /// The failure that got farthest; others may still be tried.
    fault: Option<(Step, Fault)>,
    /// The last failure of a connection that the other side opened.
    incoming: Option<Fault>,
    /// The last failure while nothing was said of it: it may be the end.
    unsaid: Option<Fault>,
    lines: Vec<String>,
    outcome: Option<super::Verdict>,
}

impl Probe {
    pub(super) fn new(course: super::Course, names: Vec<String>, now: Instant) -> Self {
        Self {
            course,
            names,
            delivered: false,
            begun: now,
            since: now,
            deadline: now.after(STEP_TIME_MAX),
            fault: None,
            incoming: None,
            unsaid: None,
            lines: Vec::new(),
            outcome: None,
        }
    }

    /// What it said so far.
    pub(super) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// How it ended; the error is a sentence.
    pub(super) fn outcome(&self) -> Option<&super::Verdict> {
        self.outcome.as_ref()
    }

    /// Is it still on its way?
    pub(super) fn runs(&self) -> bool {
        self.outcome.is_none()
    }

    /// When [`super::Gateway`] has to look at it if nothing else happens.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// It may take so long from now on.
    pub(super) fn wait(&mut self, now: Instant, time: Duration) {
        self.deadline = now.after(time);
    }

    /// A step is done.
    pub(super) fn passed(&mut self, now: Instant, step: &str, text: impl fmt::Display) {
        self.say_unsaid(now);
        self.say(now, "ok", step, text);
    }

    /// Something was learned.
    pub(super) fn noted(&mut self, now: Instant, step: &str, text: impl fmt::Display) {
        self.say_unsaid(now);
        self.say(now, "..", step, text);
    }

    /// Somebody found something out about a name that is watched.
    pub(super) fn on_mark(&mut self, now: Instant, mark: Mark) {
        if !self.runs() {
            return;
        }
        let Mark { step, outcome, text, .. } = mark;
        match outcome {
            Outcome::Passed => {
                self.passed(now, step.name(), &text);
                // What failed before it did so on a way that is left now.
                if step != Step::Incoming {
                    self.fault = None;
                }
            }
            Outcome::Noted => self.noted(now, step.name(), &text),
            Outcome::Failed { side, advice } => {
                let fault = Fault { step: step.name(), side, text, advice };
                self.say_unsaid(now);
                self.unsaid = Some(fault.clone());
                if step == Step::Incoming {
                    self.incoming = Some(fault);
                } else if self.fault.as_ref().is_none_or(|(farthest, _)| *farthest <= step) {
                    self.fault = Some((step, fault));
                }
            }
        }
        if !self.delivered {
            self.wait(now, STEP_TIME_MAX);
        }
    }

    /// It cannot go on: what was found out on the way says why, else `otherwise`.
    pub(super) fn lost(&mut self, now: Instant, otherwise: Fault) {
        let fault = self.fault.take().map_or(otherwise, |(_, fault)| fault);
        self.red(now, fault);
    }

    /// The other side took the question, and does not get its answer to us: what
    /// was found out on its way says why, else `otherwise`.
    pub(super) fn unheard(&mut self, now: Instant, otherwise: Fault) {
        let fault = self.incoming.take().unwrap_or(otherwise);
        self.red(now, fault);
    }

    /// Ends it at a step that cannot be got over.
    pub(super) fn red(&mut self, now: Instant, fault: Fault) {
        if !self.runs() {
            return;
        }
        self.unsaid.take_if(|unsaid| *unsaid == fault);
        self.say_unsaid(now);
        let Fault { step, side, text, advice } = fault;
        // There is always room for the end.
        self.lines.truncate(PROBE_LINES_MAX - 2);
        self.say(now, "RED", step, &text);
        self.push(format!("    side: {}; what to do: {advice}", side.name()));
        self.end(now, Err(format!("red at {step}: {text}")));
    }

    /// Ends it well.
    pub(super) fn green(&mut self, now: Instant, text: impl fmt::Display) {
        if !self.runs() {
            return;
        }
        self.say_unsaid(now);
        self.lines.truncate(PROBE_LINES_MAX - 1);
        let took = now.since(self.begun).as_millis();
        self.push(format!("green: {text}, {took} ms in all"));
        self.end(now, Ok(()));
    }

    fn end(&mut self, now: Instant, outcome: Result<(), String>) {
        self.outcome = Some(outcome);
        self.wait(now, KEPT_TIME);
    }

    /// The last failure was got over, or another one is the end.
    fn say_unsaid(&mut self, now: Instant) {
        if let Some(Fault { step, text, .. }) = self.unsaid.take() {
            self.say(now, "..", step, format_args!("failed: {text}"));
        }
    }

    fn say(&mut self, now: Instant, mark: &str, step: &str, text: impl fmt::Display) {
        let took = now.since(self.since).as_millis();
        self.since = now;
        self.push(format!("{mark:3} {step:10} {took:5} ms  {text}"));
    }

    fn push(&mut self, mut line: String) {
        if self.lines.len() < PROBE_LINES_MAX {
            line.truncate(cut(&line, 2 * TRAIL_TEXT_OCTETS_MAX).len());
            self.lines.push(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Course;
    use super::*;

    fn probe() -> Probe {
        Probe::new(Course::Sip, vec!["voip.example".into()], Instant::from_millis(1000))
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(1000 + millis)
    }

    fn mark(step: Step, outcome: Outcome, text: &str) -> Mark {
        Mark { subject: "voip.example".into(), step, outcome, text: text.into() }
    }

    fn failed(side: Side, advice: &str) -> Outcome {
        Outcome::Failed { side, advice: advice.into() }
    }

    fn other() -> Fault {
        Fault::new("round-trip", Side::Partner, "no answer", "wait")
    }

    #[test]
    fn every_step_has_a_line_with_its_time_and_the_end_has_the_sum() {
        let mut probe = probe();
        probe.on_mark(at(12), mark(Step::Dns, Outcome::Passed, "192.0.2.9:5061"));
        probe.on_mark(at(15), mark(Step::Tcp, Outcome::Passed, "connected"));
        probe.green(at(40), "voip.example can be reached");
        assert_eq!(
            probe.lines(),
            [
                "ok  dns           12 ms  192.0.2.9:5061",
                "ok  tcp            3 ms  connected",
                "green: voip.example can be reached, 40 ms in all"
            ]
        );
        assert_eq!(probe.outcome(), Some(&Ok(())));
    }

    #[test]
    fn the_red_line_is_the_failure_that_got_farthest_with_whose_side_it_is() {
        let mut probe = probe();
        probe.on_mark(at(1), mark(Step::Tls, failed(Side::Partner, "renew it"), "expired"));
        probe.on_mark(at(2), mark(Step::Tcp, failed(Side::Network, "open it"), "refused"));
        assert!(probe.runs());
        probe.lost(at(3), other());
        assert_eq!(
            probe.lines(),
            [
                "..  tls            2 ms  failed: expired",
                "..  tcp            1 ms  failed: refused",
                "RED tls            0 ms  expired",
                "    side: the partner's; what to do: renew it"
            ]
        );
        assert_eq!(probe.outcome(), Some(&Err("red at tls: expired".into())));
    }

    #[test]
    fn a_failure_that_was_got_over_is_not_the_cause_of_a_later_one() {
        let mut probe = probe();
        probe.on_mark(at(1), mark(Step::Tcp, failed(Side::Network, "open it"), "refused"));
        probe.on_mark(at(2), mark(Step::Tcp, Outcome::Passed, "connected"));
        probe.lost(at(3), other());
        assert_eq!(probe.outcome(), Some(&Err("red at round-trip: no answer".into())));
    }

    #[test]
    fn what_failed_on_the_way_back_says_why_no_answer_came() {
        let mut probe = probe();
        probe.on_mark(at(1), mark(Step::Incoming, failed(Side::Ours, "trust it"), "no certificate"));
        probe.unheard(at(3), other());
        assert_eq!(probe.outcome(), Some(&Err("red at incoming: no certificate".into())));
    }

    #[test]
    fn there_is_one_end_and_room_for_it_whatever_came_before() {
        let mut probe = probe();
        for n in 0..1000 {
            probe.on_mark(at(n), mark(Step::Dns, Outcome::Noted, &"é".repeat(4000)));
        }
        probe.lost(at(1001), other());
        probe.green(at(1002), "never");
        assert_eq!(probe.lines().len(), PROBE_LINES_MAX);
        assert!(probe.lines().last().is_some_and(|line| line.ends_with("what to do: wait")));
        assert_eq!(probe.deadline(), at(1001).after(KEPT_TIME));
    }
}
