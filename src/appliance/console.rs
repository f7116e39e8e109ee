//! What may be asked of the running gateway: one table of patterns with their help and
//! handlers, which gives matching, abbreviations and `help`.
//!
//! [`begin`] takes a line and gives an [`Answer`], which is fetched in slices: whoever
//! sends it asks for the next one when there is room, and the gateway is looked at
//! again then. So fifty thousand contacts cost no more memory than a hundred, and what
//! is shown of them is of the moments they were sent in.
//!
//! Words in capitals stand for what the operator writes, brackets for what may be left
//! out; all other words may be shortened as long as they mean one thing. Foreign text
//! is escaped here: no answer holds a control character besides the ends of its lines.

use crate::base::counters::{Counter, Counters};
use crate::base::cx::Cx;
use crate::base::text::{Escaped, cut};
use crate::gateway::Gateway;
use crate::gateway::probe::{Test, Verdict};
use crate::gateway::report::{Contact, Direction, Session};
use crate::limits::{CONSOLE_ADDRESS_OCTETS_MAX, CONSOLE_SESSIONS_MAX, CONSOLE_SLICE_OCTETS_MAX};
use core::fmt::{self, Write};
use core::time::Duration;
use std::collections::VecDeque;

/// Whom a console asks. A trait, so that the tests can have more contacts than they
/// could make by talking to a gateway.
pub trait Running {
    /// Name, version and commit, without the name.
    fn version(&self) -> &str;
    /// What was counted.
    fn counters(&self) -> &Counters;
    /// As [`Gateway::contacts`].
    fn contacts(&self, from: u32, each: &mut dyn FnMut(Contact)) -> Option<u32>;
    /// As [`Gateway::contact`].
    fn contact(&self, a: &str, b: &str) -> Option<Contact>;
    /// As [`Gateway::sessions`].
    fn sessions(&self, most: usize) -> (Vec<Session>, usize);
    /// As [`Gateway::partner_state`].
    fn partner_state(&self, domain: &str) -> String;
    /// As [`Gateway::begin_test`].
    fn begin_test(&mut self, test: &Test) -> Result<u64, String>;
    /// As [`Gateway::test_lines`].
    fn test_lines(&self, test: u64) -> Option<(&[String], Option<&Verdict>)>;
    /// As [`Gateway::end_test`].
    fn end_test(&mut self, test: u64);
}

/// The gateway that runs, at one moment.
#[derive(Debug)]
pub struct Live<'a> {
    /// The gateway.
    pub gateway: &'a mut Gateway,
    /// Its world: what a test causes goes out by it.
    pub cx: Cx<'a>,
    /// The program's.
    pub version: &'a str,
}

impl Running for Live<'_> {
    fn version(&self) -> &str {
        self.version
    }

    fn counters(&self) -> &Counters {
        self.cx.count
    }

    fn contacts(&self, from: u32, each: &mut dyn FnMut(Contact)) -> Option<u32> {
        self.gateway.contacts(self.cx.now, from, each)
    }

    fn contact(&self, a: &str, b: &str) -> Option<Contact> {
        self.gateway.contact(self.cx.now, a, b)
    }

    fn sessions(&self, most: usize) -> (Vec<Session>, usize) {
        self.gateway.sessions(self.cx.now, most)
    }

    fn partner_state(&self, domain: &str) -> String {
        self.gateway.partner_state(domain)
    }

    fn begin_test(&mut self, test: &Test) -> Result<u64, String> {
        self.gateway.begin_test(&mut self.cx, test)
    }

    fn test_lines(&self, test: u64) -> Option<(&[String], Option<&Verdict>)> {
        self.gateway.test_lines(test)
    }

    fn end_test(&mut self, test: u64) {
        self.gateway.end_test(&mut self.cx, test);
    }
}

/// One thing that may be asked.
struct Command {
    /// Its words.
    pattern: &'static str,
    /// What it does, in half a line.
    help: &'static str,
    /// Does it, given what was written for the words in capitals.
    run: fn(&[&str], &mut dyn Running) -> Result<Answer, String>,
}

const COMMANDS: &[Command] = &[
    Command { pattern: "help", help: "what may be asked", run: |_, _| Ok(help()) },
    Command { pattern: "show version", help: "version and commit", run: |_, gateway| Ok(version(gateway)) },
    Command {
        pattern: "show counters",
        help: "what was counted, without what never happened",
        run: |_, gateway| Ok(counters(gateway, false)),
    },
    Command {
        pattern: "show counters all",
        help: "the same with what never happened",
        run: |_, gateway| Ok(counters(gateway, true)),
    },
    Command {
        pattern: "show contacts [DOMAIN|ADDRESS]",
        help: "who watches whom; of one domain or address only",
        run: |arguments, _| Ok(contacts(arguments.first().copied())),
    },
    Command {
        pattern: "show contact A B",
        help: "all about two contacts: what each believes, when it changed, what failed",
        run: |arguments, gateway| contact(arguments, gateway),
    },
    Command {
        pattern: "show sessions",
        help: "sessions of messages: between whom, how far, when something crossed last",
        run: |_, gateway| Ok(sessions(gateway)),
    },
    Command {
        pattern: "test partner DOMAIN [OURS]",
        help: "walk to a partner or a SIP domain step by step, and back; as one of our domains",
        run: |arguments, gateway| {
            let [domain, ours @ ..] = arguments else { return Err(missing("test partner DOMAIN")) };
            let ours = ours.first().map(|ours| (*ours).to_owned());
            test(gateway, &Test::Partner { domain: (*domain).to_owned(), ours })
        },
    },
    Command {
        pattern: "test user A to B",
        help: "send a test message from one user to another on the other side",
        run: |arguments, gateway| {
            let [from, to] = arguments else { return Err(missing("test user A to B")) };
            test(gateway, &Test::User { from: (*from).to_owned(), to: (*to).to_owned() })
        },
    },
    Command { pattern: "exit", help: "leave", run: |_, _| Ok(leave()) },
    Command { pattern: "quit", help: "leave", run: |_, _| Ok(leave()) },
];

/// Takes one line. The error is a sentence for the operator: what is wrong, and what is
/// allowed. A blank line and one with nothing but a `#` comment ask for nothing.
pub fn begin(line: &str, gateway: &mut dyn Running) -> Result<Answer, String> {
    let words: Vec<&str> = line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
    if words.is_empty() {
        return Ok(Answer::default());
    }
    let (command, arguments) = find(&words)?;
    (command.run)(&arguments, gateway)
}

/// Does the line ask to leave?
pub fn leaves(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
    find(&words).is_ok_and(|(command, _)| matches!(command.pattern, "exit" | "quit"))
}

// ---- Matching -----------------------------------------------------------------------

/// A word of a pattern that stands for what the operator writes.
fn is_argument(word: &str) -> bool {
    word.starts_with(|c: char| c == '[' || c.is_ascii_uppercase())
}

/// The command that is meant, and what was written for its words in capitals.
fn find<'w>(words: &[&'w str]) -> Result<(&'static Command, Vec<&'w str>), String> {
    let mut candidates: Vec<(&'static Command, Vec<&'static str>)> =
        COMMANDS.iter().map(|command| (command, command.pattern.split(' ').collect())).collect();
    for (at, word) in words.iter().enumerate() {
        let keywords = keywords_at(&candidates, at);
        let is = |keyword: &str| keyword.eq_ignore_ascii_case(word);
        let begins = |keyword: &str| keyword.get(..word.len()).is_some_and(is);
        let meant: Vec<&str> = match keywords.iter().find(|keyword| is(keyword)) {
            Some(keyword) => vec![keyword],
            None => keywords.iter().copied().filter(|keyword| begins(keyword)).collect(),
        };
        let fits = |expected: Option<&&str>| match (meant.as_slice(), expected) {
            ([keyword], Some(expected)) => keyword == expected,
            ([], Some(expected)) => is_argument(expected),
            _ => false,
        };
        if meant.len() > 1 {
            return Err(format!("'{}' is more than one thing; allowed: {}", short(word), meant.join(", ")));
        }
        let allowed = allowed_at(&candidates, at);
        candidates.retain(|(_, pattern)| fits(pattern.get(at)));
        if candidates.is_empty() {
            return Err(format!("'{}' is not known here; allowed: {allowed}", short(word)));
        }
    }
    let is_whole = |pattern: &[&str]| pattern.get(words.len()).is_none_or(|word| word.starts_with('['));
    let Some((command, pattern)) = candidates.iter().find(|(_, pattern)| is_whole(pattern)) else {
        return Err(format!("something is missing; allowed next: {}", allowed_at(&candidates, words.len())));
    };
    let given = pattern.iter().zip(words).filter(|(expected, _)| is_argument(expected)).map(|(_, word)| *word);
    Ok((command, given.collect()))
}

/// The different words that may stand at a place, arguments left out.
fn keywords_at(candidates: &[(&Command, Vec<&'static str>)], at: usize) -> Vec<&'static str> {
    let mut keywords = Vec::new();
    for keyword in candidates.iter().filter_map(|(_, pattern)| pattern.get(at)).filter(|word| !is_argument(word)) {
        if !keywords.contains(keyword) {
            keywords.push(keyword);
        }
    }
    keywords
}

/// The same with arguments and the end of the line, as a list to be read.
fn allowed_at(candidates: &[(&Command, Vec<&'static str>)], at: usize) -> String {
    let mut allowed = keywords_at(candidates, at);
    for (_, pattern) in candidates {
        let word = pattern.get(at).copied().unwrap_or("the end of the line");
        if !allowed.contains(&word) {
            allowed.push(word);
        }
    }
    allowed.join(", ")
}

/// What was written, short enough for an error.
fn short(word: &str) -> Escaped<'_> {
    Escaped(cut(word, 24))
}

// ---- Answers ------------------------------------------------------------------------

/// What is left to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Lines that are made and not fetched; none is longer than a slice.
    lines: VecDeque<String>,
    /// Contacts that follow.
    walk: Option<Walk>,
    /// The test whose lines follow, and how many of them were said.
    test: Option<(u64, usize)>,
    /// What it all came to, if to nothing good: a sentence, to be said at the end.
    pub failed: Option<String>,
    /// Does the console leave after it?
    pub leaves: bool,
}

/// A walk through the contacts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Walk {
    /// Where the gateway's slice begins.
    from: u32,
    /// How many of that slice are done with: the others found no room in ours, and are
    /// looked at again instead of kept.
    done: usize,
    /// The domain or address to be shown, as [`folded`]; empty for all.
    only: String,
    /// How many were shown.
    shown: u64,
}

impl Answer {
    /// Appends the next slice to `out`: whole lines, at most
    /// [`CONSOLE_SLICE_OCTETS_MAX`] octets of them, none at all if nothing was found in
    /// as much as is looked at in one go. False once there is no more.
    pub fn next(&mut self, gateway: &mut dyn Running, out: &mut String) -> bool {
        self.take_test_lines(gateway);
        let end = out.len() + CONSOLE_SLICE_OCTETS_MAX;
        while self.lines.front().is_some_and(|line| out.len() + line.len() < end) {
            out.extend(self.lines.pop_front());
            out.push('\n');
        }
        if self.lines.is_empty() {
            self.walk_on(gateway, out, end);
        }
        !self.lines.is_empty() || self.walk.is_some() || self.test.is_some()
    }

    /// Is there nothing to be fetched until something happens at the gateway?
    pub fn is_waiting(&self) -> bool {
        self.lines.is_empty() && self.walk.is_none() && self.test.is_some()
    }

    /// Takes over what a test has said since; ends it when it is over.
    fn take_test_lines(&mut self, gateway: &mut dyn Running) {
        let Some((test, said)) = self.test else { return };
        let Some((lines, outcome)) = gateway.test_lines(test) else {
            self.test = None;
            self.failed = Some("the test was forgotten".into());
            return;
        };
        let fresh: Vec<String> = lines.iter().skip(said).map(|line| Shown(line).to_string()).collect();
        self.test = Some((test, said + fresh.len()));
        if let Some(outcome) = outcome {
            self.failed = outcome.as_ref().err().map(|sentence| Shown(sentence).to_string());
            self.test = None;
            gateway.end_test(test);
        }
        self.lines.extend(fresh);
    }

    fn walk_on(&mut self, gateway: &dyn Running, out: &mut String, end: usize) {
        let Some(walk) = &mut self.walk else { return };
        let (mut at, mut is_full) = (0, false);
        let next = gateway.contacts(walk.from, &mut |contact| {
            at += 1;
            if is_full || at <= walk.done {
                return;
            }
            if walk.only.is_empty() || concerns(&contact, &walk.only) {
                let row = row(&contact);
                is_full = out.len() + row.len() >= end;
                if is_full {
                    return;
                }
                out.push_str(&row);
                out.push('\n');
                walk.shown += 1;
            }
            walk.done = at;
        });
        match next {
            _ if is_full => {}
            // One that does not move on would never end.
            Some(from) if from > walk.from => (walk.from, walk.done) = (from, 0),
            _ => {
                let shown = counted(walk.shown, "contact");
                self.walk = None;
                self.say(format_args!("{shown} shown"));
            }
        }
    }

    fn say(&mut self, line: fmt::Arguments<'_>) {
        let mut line = line.to_string();
        // Never so, by the limits of what is put into a line; a longer one could not be
        // fetched.
        line.truncate(cut(&line, CONSOLE_SLICE_OCTETS_MAX - 1).len());
        self.lines.push_back(line);
    }
}

fn missing(pattern: &str) -> String {
    format!("something is missing; allowed: {pattern}")
}

fn test(gateway: &mut dyn Running, test: &Test) -> Result<Answer, String> {
    let test = gateway.begin_test(test)?;
    Ok(Answer { test: Some((test, 0)), ..Answer::default() })
}

fn help() -> Answer {
    let mut answer = Answer::default();
    let width = COMMANDS.iter().map(|command| command.pattern.len()).max().unwrap_or_default();
    for Command { pattern, help, .. } in COMMANDS {
        answer.say(format_args!("{pattern:width$}  {help}"));
    }
    answer.say(format_args!("Words may be shortened as long as they mean one thing."));
    answer
}

fn leave() -> Answer {
    Answer { leaves: true, ..Answer::default() }
}

fn version(gateway: &dyn Running) -> Answer {
    let mut answer = Answer::default();
    answer.say(format_args!("latimer {}", Shown(gateway.version())));
    answer
}

fn counters(gateway: &dyn Running, all: bool) -> Answer {
    let mut answer = Answer::default();
    let counters = gateway.counters();
    for counter in Counter::ALL.iter().filter(|counter| all || counters.of(**counter) > 0) {
        answer.say(format_args!("{:30} {}", counter.name(), counters.of(*counter)));
    }
    if answer.lines.is_empty() {
        answer.say(format_args!("nothing was counted yet"));
    }
    answer
}

fn sessions(gateway: &dyn Running) -> Answer {
    let (sessions, all) = gateway.sessions(CONSOLE_SESSIONS_MAX);
    let mut answer = Answer::default();
    answer.say(format_args!("{:40} {:40} {:9} USED", "SIP", "XMPP", "STATE"));
    for Session { sip, xmpp, state, used } in &sessions {
        let (sip, xmpp) = (Shown(sip).to_string(), Shown(xmpp).to_string());
        answer.say(format_args!("{sip:40} {xmpp:40} {state:9} {} ago", Span(*used)));
    }
    let more = if all > sessions.len() { format!(" of {all}") } else { String::new() };
    answer.say(format_args!("{}{more} shown", counted(sessions.len() as u64, "session")));
    answer
}

fn contacts(only: Option<&str>) -> Answer {
    let only = only.map(folded).unwrap_or_default();
    let mut answer = Answer { walk: Some(Walk { only, ..Walk::default() }), ..Answer::default() };
    answer.say(format_args!("{:40} {:40} {:12} SIP WATCHES", "SIP", "XMPP", "XMPP WATCHES"));
    answer
}

fn row(contact: &Contact) -> String {
    let Contact { sip, xmpp, xmpp_watches, sip_watches } = contact;
    // Padded as text: `Shown` is written piece by piece.
    let (sip, xmpp) = (Shown(sip).to_string(), Shown(xmpp).to_string());
    format!("{sip:40} {xmpp:40} {:12} {}", xmpp_watches.state, sip_watches.state)
}

fn contact(arguments: &[&str], gateway: &dyn Running) -> Result<Answer, String> {
    let [a, b] = arguments else { return Err("two addresses are missing; allowed: show contact A B".into()) };
    let Some(contact) = gateway.contact(a, b) else {
        return Err(format!(
            "{} and {} are no contacts of each other; allowed: two addresses that `show contacts` lists in one line",
            Escaped(a),
            Escaped(b)
        ));
    };
    let Contact { sip, xmpp, xmpp_watches, sip_watches } = &contact;
    let mut answer = Answer::default();
    direction(&mut answer, xmpp, sip, xmpp_watches);
    direction(&mut answer, sip, xmpp, sip_watches);
    let domain = domain_of(xmpp);
    answer.say(format_args!("partner {}: {}", Shown(domain), Shown(&gateway.partner_state(domain))));
    Ok(answer)
}

fn direction(answer: &mut Answer, watcher: &str, watched: &str, direction: &Direction) {
    let Direction { state, dialogs, peer_believes, last_in, last_out, next_refresh, problem } = direction;
    let ago = |age: &Option<Duration>| age.map_or_else(|| "never".into(), |age| format!("{} ago", Span(age)));
    let dialogs = counted(u64::from(*dialogs), "SIP dialog");
    answer.say(format_args!("{} watches {}", Shown(watcher), Shown(watched)));
    answer.say(format_args!("  state         {state}, {dialogs}"));
    match peer_believes.as_str() {
        "" => answer.say(format_args!("  believes      nothing: it was not told yet")),
        told => answer.say(format_args!("  believes      {}", Shown(told))),
    }
    answer.say(format_args!("  last change   received {}, told {}", ago(last_in), ago(last_out)));
    match next_refresh {
        Some(after) => answer.say(format_args!("  next refresh  in {}", Span(*after))),
        None => answer.say(format_args!("  next refresh  none")),
    }
    answer.say(format_args!("  problem       {}", Shown(problem.as_deref().unwrap_or("none"))));
}

/// Is one of the two the address, or at the domain, that is asked for?
fn concerns(contact: &Contact, only: &str) -> bool {
    [&contact.sip, &contact.xmpp].into_iter().any(|address| {
        let address = folded(address);
        address == only || domain_of(&address) == only
    })
}

/// An address to be compared: without its scheme, in small letters.
fn folded(address: &str) -> String {
    let address = address.to_lowercase();
    let bare = ["sip:", "sips:", "xmpp:"].iter().find_map(|scheme| address.strip_prefix(scheme));
    bare.map_or_else(|| address.clone(), str::to_owned)
}

/// The domain of a bare address of either side.
fn domain_of(address: &str) -> &str {
    let domain = address.split_once('@').map_or(address, |(_, domain)| domain);
    domain.split(['/', ';', ':', '?']).next().unwrap_or(domain)
}

fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Foreign text for a terminal: like [`Escaped`], with blanks left as they are and room
/// for the longest address.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = cut(self.0, CONSOLE_ADDRESS_OCTETS_MAX);
        for c in cut.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                ' '..='~' => f.write_char(c)?,
                c if c.is_ascii() => write!(f, "\\x{:02X}", u32::from(c))?,
                c if c.is_alphanumeric() => f.write_char(c)?,
                c => write!(f, "\\u{{{:X}}}", u32::from(c))?,
            }
        }
        if cut.len() < self.0.len() { f.write_str("...") } else { Ok(()) }
    }
}

/// A span of time in its two largest units.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..60 => write!(f, "{seconds} s"),
            60..3600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            3600..86_400 => write!(f, "{} h {} min", seconds / 3600, seconds / 60 % 60),
            _ => write!(f, "{} d {} h", seconds / 86_400, seconds / 3600 % 24),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::limits::CONSOLE_CONTACTS_PER_SLICE_MAX;

    /// A gateway with as many contacts as wanted.
    #[derive(Default)]
    pub(crate) struct Fake {
        pub(crate) contacts: u32,
        pub(crate) sessions: usize,
        /// Are their names long?
        pub(crate) long: bool,
        pub(crate) counters: Counters,
        /// What a test says when it is begun, and how many of its lines are out.
        pub(crate) test: Vec<String>,
        pub(crate) said: usize,
        pub(crate) outcome: Option<Result<(), String>>,
    }

    fn direction() -> Direction {
        Direction {
            state: "active",
            dialogs: 1,
            peer_believes: "tisch4 open away".into(),
            last_in: Some(Duration::from_secs(12)),
            last_out: Some(Duration::from_secs(75)),
            next_refresh: Some(Duration::from_secs(3480)),
            problem: None,
        }
    }

    fn nth(n: u32) -> Contact {
        let problem = Some("SIP: 481\x1b[2J\u{202E}".into());
        Contact {
            sip: format!("marta{n}@voip.example"),
            xmpp: format!("lena@chat{}.example", n % 3),
            xmpp_watches: direction(),
            sip_watches: Direction { state: "none", peer_believes: String::new(), problem, ..direction() },
        }
    }

    impl Running for Fake {
        fn version(&self) -> &str {
            "0.1 (test)"
        }

        fn counters(&self) -> &Counters {
            &self.counters
        }

        fn sessions(&self, most: usize) -> (Vec<Session>, usize) {
            let session = |number: usize| Session {
                sip: format!("user{number}@voip.example"),
                xmpp: "lena@chat.example/sofa".into(),
                state: "open",
                used: Duration::from_secs(number as u64),
            };
            ((0..self.sessions.min(most)).map(session).collect(), self.sessions)
        }

        fn contacts(&self, from: u32, each: &mut dyn FnMut(Contact)) -> Option<u32> {
            let end = self.contacts.min(from + CONSOLE_CONTACTS_PER_SLICE_MAX as u32);
            let contact = |n| match self.long {
                true => Contact { sip: format!("marta{n}-{}@voip.example", "§".repeat(450)), ..nth(n) },
                false => nth(n),
            };
            (from..end).map(contact).for_each(each);
            (end < self.contacts).then_some(end)
        }

        fn contact(&self, a: &str, b: &str) -> Option<Contact> {
            let is = |c: &Contact| (c.sip == a && c.xmpp == b) || (c.sip == b && c.xmpp == a);
            (0..self.contacts).map(nth).find(is)
        }

        fn partner_state(&self, domain: &str) -> String {
            assert_eq!(domain, "chat0.example");
            "streams: 1 in, 1 out".into()
        }

        fn begin_test(&mut self, test: &Test) -> Result<u64, String> {
            match test {
                Test::Partner { domain, ours } => {
                    self.test = vec![format!("to {domain} as {ours:?}\x1b"), "there".into()];
                    self.outcome = Some(Ok(()));
                }
                Test::User { from, to } => {
                    self.test = vec![format!("{from} writes to {to}")];
                    self.outcome = Some(Err("red at delivered: \x07".into()));
                }
            }
            Ok(7)
        }

        fn test_lines(&self, test: u64) -> Option<(&[String], Option<&Verdict>)> {
            let is_over = self.said >= self.test.len();
            (test == 7)
                .then(|| (&self.test[..self.said.min(self.test.len())], self.outcome.as_ref().filter(|_| is_over)))
        }

        fn end_test(&mut self, test: u64) {
            assert_eq!(test, 7);
            (self.test, self.outcome) = (Vec::new(), None);
        }
    }

    fn asked(line: &str, gateway: &mut Fake) -> Result<String, String> {
        let mut answer = begin(line, gateway)?;
        let mut text = String::new();
        loop {
            let before = text.len();
            let more = answer.next(gateway, &mut text);
            assert!(text.len() - before <= CONSOLE_SLICE_OCTETS_MAX);
            if !more {
                return Ok(text);
            }
        }
    }

    #[test]
    fn words_may_be_shortened_while_they_mean_one_thing() {
        let mut fake = Fake::default();
        assert_eq!(asked("show version", &mut fake).as_deref(), Ok("latimer 0.1 (test)\n"));
        assert_eq!(asked("  SH v # the version", &mut fake).as_deref(), Ok("latimer 0.1 (test)\n"));
        assert_eq!(
            asked("show c", &mut fake),
            Err("'c' is more than one thing; allowed: counters, contacts, contact".into())
        );
        // A whole word is what it says, though it begins another.
        assert_eq!(asked("show contact", &mut fake), Err("something is missing; allowed next: A".into()));
        assert!(asked("s contacts", &mut fake).is_ok_and(|text| text.ends_with("0 contacts shown\n")));
        assert!(leaves("q") && leaves("exit") && !leaves("") && !leaves("help"));
    }

    #[test]
    fn what_is_not_known_is_told_with_what_is() {
        let mut fake = Fake::default();
        for (line, error) in [
            ("dance", "'dance' is not known here; allowed: help, show, test, exit, quit"),
            ("show me", "'me' is not known here; allowed: version, counters, contacts, contact, sessions"),
            ("show", "something is missing; allowed next: version, counters, contacts, contact, sessions"),
            ("show version now", "'now' is not known here; allowed: the end of the line"),
            ("show counters some", "'some' is not known here; allowed: all, the end of the line"),
            ("show contact a", "something is missing; allowed next: B"),
            ("\0\x1b[2J", "'\\x00\\x1B[2J' is not known here; allowed: help, show, test, exit, quit"),
        ] {
            assert_eq!(asked(line, &mut fake), Err(error.into()), "{line}");
        }
    }

    #[test]
    fn a_blank_line_asks_for_nothing() {
        for line in ["", "  \t", "# show version", "\r"] {
            assert_eq!(asked(line, &mut Fake::default()).as_deref(), Ok(""));
        }
    }

    #[test]
    fn help_lists_every_command() {
        let text = asked("help", &mut Fake::default()).expect("help");
        assert!(COMMANDS.iter().all(|command| text.contains(command.pattern) && text.contains(command.help)));
    }

    #[test]
    fn counters_that_never_counted_are_left_out_unless_all_are_wanted() {
        let mut fake = Fake::default();
        assert_eq!(asked("show counters", &mut fake).as_deref(), Ok("nothing was counted yet\n"));
        fake.counters.add(Counter::DnsQuery);
        let text = asked("show counters", &mut fake).expect("counters");
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["dns.query", "1"]);
        assert_eq!(asked("show counters all", &mut fake).expect("counters").lines().count(), Counter::ALL.len());
    }

    #[test]
    fn fifty_thousand_contacts_come_in_slices() {
        let mut fake = Fake { contacts: 50_000, ..Fake::default() };
        let text = asked("show contacts", &mut fake).expect("contacts");
        assert_eq!(text.lines().count(), 50_002);
        assert!(text.ends_with("\n50000 contacts shown\n"));
        let mut answer = begin("show contacts", &mut fake).expect("contacts");
        let mut out = String::new();
        assert!(answer.next(&mut fake, &mut out) && answer.lines.is_empty());
        assert!(out.lines().count() <= CONSOLE_CONTACTS_PER_SLICE_MAX + 1);
    }

    #[test]
    fn long_addresses_take_more_slices_and_none_is_lost() {
        let mut fake = Fake { contacts: 300, long: true, ..Fake::default() };
        let text = asked("show contacts", &mut fake).expect("contacts");
        let starts: Vec<String> = (0..300).map(|n| format!("marta{n}-")).collect();
        let rows: Vec<&str> = text.lines().skip(1).take(300).collect();
        assert!(rows.iter().zip(&starts).all(|(row, start)| row.starts_with(start.as_str())));
        assert!(text.ends_with("\n300 contacts shown\n"));
    }

    #[test]
    fn sessions_are_shown_with_what_is_known_of_them() {
        let mut fake = Fake { sessions: 2, ..Fake::default() };
        let text = asked("show sessions", &mut fake).expect("sessions");
        assert!(text.contains("user1@voip.example"), "{text}");
        assert!(text.ends_with(" open      1 s ago\n2 sessions shown\n"), "{text}");
        fake.sessions = CONSOLE_SESSIONS_MAX + 1;
        let text = asked("show sessions", &mut fake).expect("sessions");
        assert!(text.ends_with("\n500 sessions of 501 shown\n"));
    }

    #[test]
    fn contacts_can_be_asked_for_by_domain_and_by_address() {
        let mut fake = Fake { contacts: 9, ..Fake::default() };
        for (only, shown) in [
            ("chat1.example", 3),
            ("VOIP.example", 9),
            ("sip:Marta4@voip.example", 1),
            ("lena@chat2.example", 3),
            ("marta@voip.example", 0),
        ] {
            let text = asked(&format!("show contacts {only}"), &mut fake).expect("contacts");
            assert_eq!(text.lines().count(), shown + 2, "{only}: {text}");
        }
    }

    #[test]
    fn the_longest_addresses_fit_into_a_slice() {
        let contact = Contact { sip: "\x01".repeat(9000), xmpp: "\u{202E}".repeat(9000), ..nth(0) };
        let row = row(&contact);
        assert!(row.len() < CONSOLE_SLICE_OCTETS_MAX && row.contains("\\x01...") && !row.contains(char::is_control));
    }

    #[test]
    fn a_contact_is_shown_from_both_sides_without_steering_the_terminal() {
        let mut fake = Fake { contacts: 2, ..Fake::default() };
        let expected = "\
lena@chat0.example watches marta0@voip.example
  state         active, 1 SIP dialog
  believes      tisch4 open away
  last change   received 12 s ago, told 1 min 15 s ago
  next refresh  in 58 min 0 s
  problem       none
marta0@voip.example watches lena@chat0.example
  state         none, 1 SIP dialog
  believes      nothing: it was not told yet
  last change   received 12 s ago, told 1 min 15 s ago
  next refresh  in 58 min 0 s
  problem       SIP: 481\\x1B[2J\\u{202E}
partner chat0.example: streams: 1 in, 1 out
";
        for line in
            ["sh contact lena@chat0.example marta0@voip.example", "sh contact marta0@voip.example lena@chat0.example"]
        {
            assert_eq!(asked(line, &mut fake).as_deref(), Ok(expected));
        }
        let error = asked("show contact a b", &mut fake).expect_err("nobody");
        assert!(error.starts_with("a and b are no contacts of each other; allowed: "), "{error}");
    }

    #[test]
    fn the_lines_of_a_test_come_as_they_are_said_and_its_end_is_that_of_the_answer() {
        let mut fake = Fake::default();
        let mut answer = begin("test partner chat.example voip.example", &mut fake).expect("a test");
        let mut out = String::new();
        assert!(answer.next(&mut fake, &mut out) && answer.is_waiting() && out.is_empty());
        fake.said = 1;
        assert!(answer.next(&mut fake, &mut out) && answer.is_waiting());
        assert_eq!(out, "to chat.example as Some(\"voip.example\")\\x1B\n");
        fake.said = 2;
        assert!(!answer.next(&mut fake, &mut out) && !answer.is_waiting());
        assert!(out.ends_with("\nthere\n") && answer.failed.is_none());
        let mut answer = begin("test user lena@chat.example to sip:marta@voip.example", &mut fake).expect("a test");
        assert!(!answer.next(&mut fake, &mut out));
        assert!(out.ends_with("lena@chat.example writes to sip:marta@voip.example\n"));
        assert_eq!(answer.failed.as_deref(), Some("red at delivered: \\x07"));
    }

    #[test]
    fn spans_are_told_in_two_units() {
        let span = |seconds| Span(Duration::from_secs(seconds)).to_string();
        assert_eq!([span(59), span(3599), span(7260), span(90_000)], ["59 s", "59 min 59 s", "2 h 1 min", "1 d 1 h"]);
    }
}
