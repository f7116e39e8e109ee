//! How a connection to a peer comes about, told step by step while somebody asks.
//!
//! The protocols say of a name (a domain, or the host that stands for it) what they
//! found out; whoever watches that name takes the marks out. While nobody watches, a
//! mark costs a look at an empty list, and its text is not made.

use super::net::LinkId;
use super::text::cut;
use crate::limits::{TRAIL_MARKS_MAX, TRAIL_NAMES_MAX, TRAIL_TEXT_OCTETS_MAX};
use core::fmt;
use std::collections::VecDeque;

/// What is watched, and what was said of it.
#[derive(Debug, Default)]
pub struct Trail {
    /// Names, each as often as it is watched.
    watched: Vec<String>,
    /// Oldest first.
    marks: VecDeque<Mark>,
    /// The link that broke last, and the cause in the words of who saw it.
    broken: Option<(LinkId, String)>,
}

/// One thing that was found out. Its text may hold foreign characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The name that is watched.
    pub subject: String,
    /// Which step it belongs to.
    pub step: Step,
    /// How it went.
    pub outcome: Outcome,
    /// What was found, in words.
    pub text: String,
}

/// The steps on the way to a peer, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Where it is.
    Dns,
    /// The connection.
    Tcp,
    /// Its encryption, and the peer's certificate.
    Tls,
    /// How each end proves who it is.
    Identity,
    /// A question and its answer.
    RoundTrip,
    /// The peer's own connections to us.
    Incoming,
}

/// How a step went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Passed,
    /// Something was learned on the way.
    Noted,
    /// It came to nothing; another address or another way may still be tried.
    Failed {
        /// Who has to act.
        side: Side,
        /// What helps.
        advice: String,
    },
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Ours.
    Ours,
    /// The peer's.
    Partner,
    /// Whoever keeps the records of the domain.
    Dns,
    /// Whatever lies between.
    Network,
}

impl Step {
    /// The word that a line about it begins with.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Identity => "identity",
            Self::RoundTrip => "round-trip",
            Self::Incoming => "incoming",
        }
    }
}

impl Side {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Partner => "the partner's",
            Self::Dns => "the DNS's",
            Self::Network => "the network's",
        }
    }
}

impl Trail {
    /// Watches a name from now on; false if too many are watched.
    pub fn watch(&mut self, name: &str) -> bool {
        let has_room = self.watched.len() < TRAIL_NAMES_MAX;
        if has_room {
            self.watched.push(name.into());
        }
        has_room
    }

    /// Ends one watch of a name.
    pub fn unwatch(&mut self, name: &str) {
        if let Some(place) = self.watched.iter().position(|watched| watched == name) {
            self.watched.swap_remove(place);
        }
        if self.watched.is_empty() {
            self.marks.clear();
            self.broken = None;
        }
    }

    /// Does anybody watch anything?
    pub fn is_watching(&self) -> bool {
        !self.watched.is_empty()
    }

    /// A step is done. Of `names`, which mean the same peer, the first that is watched
    /// counts; so for the others below.
    pub fn passed(&mut self, names: &[&str], step: Step, text: fmt::Arguments<'_>) {
        self.add(names, step, text, || Outcome::Passed);
    }

    /// Something was learned.
    pub fn noted(&mut self, names: &[&str], step: Step, text: fmt::Arguments<'_>) {
        self.add(names, step, text, || Outcome::Noted);
    }

    /// A step came to nothing.
    pub fn failed(&mut self, names: &[&str], step: Step, side: Side, text: fmt::Arguments<'_>, advice: &str) {
        self.add(names, step, text, || Outcome::Failed { side, advice: advice.into() });
    }

    fn add(&mut self, names: &[&str], step: Step, text: fmt::Arguments<'_>, outcome: impl FnOnce() -> Outcome) {
        if self.watched.is_empty() || self.marks.len() >= TRAIL_MARKS_MAX {
            return;
        }
        let Some(subject) = names.iter().find(|name| self.watched.iter().any(|watched| watched == *name)) else {
            return;
        };
        let mut text = text.to_string();
        text.truncate(cut(&text, TRAIL_TEXT_OCTETS_MAX).len());
        self.marks.push_back(Mark { subject: (*subject).into(), step, outcome: outcome(), text });
    }

    /// The oldest mark that was not taken yet.
    pub fn pop(&mut self) -> Option<Mark> {
        self.marks.pop_front()
    }

    /// A link broke, and this is why: said before the protocols hear of it.
    pub fn note_broken(&mut self, link: LinkId, cause: &str) {
        if self.is_watching() {
            self.broken = Some((link, cut(cause, TRAIL_TEXT_OCTETS_MAX).into()));
        }
    }

    /// Why a link broke, as [`Self::note_broken`] has it.
    pub fn cause_of(&self, link: LinkId) -> Option<&str> {
        self.broken.as_ref().filter(|(broken, _)| *broken == link).map(|(_, cause)| cause.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_watched_leaves_a_mark() {
        let mut trail = Trail::default();
        trail.passed(&["chat.example"], Step::Tcp, format_args!("up"));
        assert!(trail.watch("chat.example") && trail.watch("chat.example"));
        trail.passed(&["other.example"], Step::Tcp, format_args!("up"));
        trail.failed(&["host.example", "chat.example"], Step::Tls, Side::Ours, format_args!("{}", 7), "do it");
        let mark = trail.pop().expect("a mark");
        assert_eq!((mark.subject.as_str(), mark.step, mark.text.as_str()), ("chat.example", Step::Tls, "7"));
        assert_eq!(mark.outcome, Outcome::Failed { side: Side::Ours, advice: "do it".into() });
        assert_eq!(trail.pop(), None);
        trail.unwatch("chat.example");
        assert!(trail.is_watching());
        trail.unwatch("chat.example");
        assert!(!trail.is_watching());
    }

    #[test]
    fn names_marks_and_texts_are_bounded() {
        let mut trail = Trail::default();
        let watched = (0..1000).filter(|_| trail.watch("a.example")).count();
        assert_eq!(watched, TRAIL_NAMES_MAX);
        for _ in 0..1000 {
            trail.noted(&["a.example"], Step::Dns, format_args!("{}", "é".repeat(5000)));
        }
        let mut marks = 0;
        while let Some(mark) = trail.pop() {
            assert!(mark.text.len() <= TRAIL_TEXT_OCTETS_MAX);
            marks += 1;
        }
        assert_eq!(marks, TRAIL_MARKS_MAX);
    }

    #[test]
    fn the_cause_of_a_broken_link_is_that_links_alone() {
        let mut trail = Trail::default();
        trail.note_broken(LinkId(3), "alert");
        assert_eq!(trail.cause_of(LinkId(3)), None);
        trail.watch("a.example");
        trail.note_broken(LinkId(3), "alert");
        assert_eq!((trail.cause_of(LinkId(3)), trail.cause_of(LinkId(4))), (Some("alert"), None));
    }
}
