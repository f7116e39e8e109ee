//! A stub resolver as a pure machine: gets one question answered, by a server whose
//! word is taken.
//!
//! Each time a question is asked it goes out on a fresh link (a port of its own), with
//! a fresh id and fresh letter case, so that a forger has to guess all three. What does
//! not fit is dropped and counted, and the question stays open. A truncated answer is
//! fetched over TCP. When a server is slow the question is asked again, of the next
//! server if there is one, while the earlier link stays open: a late answer is as good
//! as a quick one. Answers are kept as long as they say, within bounds; the same
//! question is never asked twice at a time.

use super::message::{self, Foreign, Kind, Question, Records, Reply};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::net::{CloseReason, LinkId, Transport};
use crate::base::slab::{Key, Slab};
use crate::base::text::Escaped;
use crate::base::time::Instant;
use crate::base::timers::Timers;
use crate::limits::{DNS_ALIASES_MAX, DNS_ATTEMPTS_MAX, DNS_CACHE_MAX, DNS_CACHE_OCTETS_MAX, DNS_QUERIES_MAX};
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

/// What the DNS says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These records.
    Records(Records),
    /// The name has no records of that kind.
    NoData,
    /// The name does not exist.
    NoSuchName,
    /// No server gave a usable answer in time.
    Failed,
}

/// What [`Resolver::ask`] gives at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The answer is known.
    Known(Answer),
    /// It will come by [`Resolver::poll`].
    Asked,
    /// Too many questions are under way.
    Full,
}

/// When a question is asked again, after it was first asked; the last one is when it
/// is given up. Two of them fit into the 10 s a domain may take to be located.
const SCHEDULE: [Duration; DNS_ATTEMPTS_MAX] =
    [Duration::from_millis(1500), Duration::from_millis(3000), Duration::from_millis(5000)];

/// Longest time an answer is kept.
const KEPT_MAX: Duration = Duration::from_secs(3600);
/// Longest time a negative answer is kept: a domain that was repaired works again
/// within 5 minutes (promise P7), whatever its SOA says.
const NEGATIVE_KEPT_MAX: Duration = Duration::from_secs(120);
/// How long a negative answer is kept that does not say.
const NEGATIVE_KEPT: Duration = Duration::from_secs(30);
/// How long it is remembered that nobody answered: long enough that one burst of
/// messages does not ask for each.
const FAILED_KEPT: Duration = Duration::from_secs(5);

/// The machine.
#[derive(Debug)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    /// The server that answered last, asked first.
    preferred: usize,
    queries: Slab<Query>,
    timers: Timers,
    /// Whose link it is.
    links: BTreeMap<LinkId, Key>,
    /// The question of each query under way.
    under_way: BTreeMap<(String, Kind), Key>,
    cache: Cache,
    done: VecDeque<(String, Kind, Answer)>,
}

/// One question under way.
#[derive(Debug)]
struct Query {
    /// As it was asked.
    name: String,
    kind: Kind,
    /// The name asked for now: the end of the aliases followed so far.
    current: String,
    /// Aliases followed so far.
    aliases: usize,
    /// How long those hold, in seconds.
    ttl: u32,
    /// When it was first asked.
    since: Instant,
    /// How often it was asked.
    attempts: usize,
    /// The server asked last, by its place.
    server: usize,
    /// The links an answer may come on.
    open: heapless::Vec<Attempt, DNS_ATTEMPTS_MAX>,
}

/// One time a question was asked.
#[derive(Debug)]
struct Attempt {
    link: LinkId,
    server: SocketAddr,
    question: Question,
    tcp: bool,
    /// An answer came that fits but for its letters: the server may be one that
    /// changes them, and is asked over TCP when nothing better comes.
    case_changed: bool,
}

impl Resolver {
    /// A resolver that asks `servers`.
    pub fn new(servers: &[SocketAddr]) -> Self {
        Self {
            servers: servers.to_vec(),
            preferred: 0,
            queries: Slab::with_capacity(DNS_QUERIES_MAX),
            timers: Timers::with_capacity(DNS_QUERIES_MAX),
            links: BTreeMap::new(),
            under_way: BTreeMap::new(),
            cache: Cache::default(),
            done: VecDeque::new(),
        }
    }

    /// Asks other servers from now on; what the old ones said is forgotten.
    pub fn configure(&mut self, servers: &[SocketAddr]) {
        if self.servers != servers {
            self.servers = servers.to_vec();
            self.preferred = 0;
            self.cache = Cache::default();
        }
    }

    /// The answer to a question, now or later by [`Self::poll`]. `name` is lower-case
    /// text without a dot at its end.
    pub fn ask(&mut self, cx: &mut Cx<'_>, name: &str, kind: Kind) -> Lookup {
        let place = (name.to_string(), kind);
        if let Some(answer) = self.cache.find(&place, cx.now) {
            return Lookup::Known(answer.clone());
        }
        if self.under_way.contains_key(&place) {
            return Lookup::Asked;
        }
        if Question::new(name, kind, cx.rng).is_none() {
            // A name the DNS cannot hold does not exist in it.
            return Lookup::Known(Answer::NoSuchName);
        }
        if self.servers.is_empty() {
            cx.refuse(Counter::DnsTimeout, "dns.no-server", format_args!("side=ours name={}", Escaped(name)));
            return Lookup::Known(Answer::Failed);
        }
        let query = Query {
            name: name.into(),
            kind,
            current: name.into(),
            aliases: 0,
            ttl: u32::MAX,
            since: cx.now,
            attempts: 0,
            server: self.preferred,
            open: heapless::Vec::new(),
        };
        if self.queries.is_full() && !self.make_room(cx) {
            return Lookup::Full;
        }
        let Ok(key) = self.queries.insert(query) else { return Lookup::Full };
        self.under_way.insert(place, key);
        self.attempt(cx, key);
        Lookup::Asked
    }

    /// Gives up the question that has waited longest, if it was asked more than once:
    /// domains whose servers are silent must not hold the place of others (promise P5).
    fn make_room(&mut self, cx: &mut Cx<'_>) -> bool {
        let silent = self.queries.iter().filter(|(_, query)| cx.now.since(query.since) >= SCHEDULE[0]);
        let Some((key, query)) = silent.min_by_key(|(_, query)| query.since) else { return false };
        cx.refuse(
            Counter::DnsOverload,
            "dns.overload",
            format_args!("side=dns name={} kind={}", Escaped(&query.name), query.kind.name()),
        );
        self.finish(cx, key, Answer::Failed, FAILED_KEPT);
        true
    }

    /// The next question that got its answer.
    pub fn poll(&mut self) -> Option<(String, Kind, Answer)> {
        self.done.pop_front()
    }

    /// Would [`Self::poll`] give something?
    pub fn has_answers(&self) -> bool {
        !self.done.is_empty()
    }

    /// Is it one of ours?
    pub fn owns(&self, link: LinkId) -> bool {
        self.links.contains_key(&link)
    }

    /// When [`Self::timeout`] is next due.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Asks again, or gives up.
    pub fn timeout(&mut self, cx: &mut Cx<'_>) {
        while let Some(index) = self.timers.pop_due(cx.now) {
            if let Some(key) = self.queries.key_at(index) {
                self.attempt(cx, key);
            }
        }
    }

    /// A TCP link is up: the question goes out on it.
    pub fn opened(&mut self, cx: &mut Cx<'_>, link: LinkId) {
        let Some(attempt) = self.attempt_on(link).filter(|attempt| attempt.tcp) else { return };
        let octets = &attempt.question.octets;
        let mut writer = cx.out.begin();
        writer.bytes(&(octets.len() as u16).to_be_bytes()).bytes(octets);
        let bytes = writer.finish();
        cx.out.push(crate::base::outbox::Action::Send { link, bytes });
    }

    /// Octets came. Returns how many were used.
    pub fn receive(&mut self, cx: &mut Cx<'_>, link: LinkId, bytes: &[u8]) -> usize {
        let Some(attempt) = self.attempt_on(link) else { return bytes.len() };
        if !attempt.tcp {
            self.on_message(cx, link, bytes);
            return bytes.len();
        }
        let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return 0 };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some(message) = rest.get(..length) else { return 0 };
        self.on_message(cx, link, message);
        2 + length
    }

    /// A link is gone.
    pub fn closed(&mut self, cx: &mut Cx<'_>, link: LinkId, why: CloseReason) {
        let Some(key) = self.links.remove(&link) else { return };
        let Some(query) = self.queries.get_mut(key) else { return };
        let Some(at) = query.open.iter().position(|attempt| attempt.link == link) else { return };
        let attempt = query.open.swap_remove(at);
        cx.debug("dns.link.closed", format_args!("side=dns server={} why={}", attempt.server, Escaped(why.reason())));
        self.on_failure(cx, key, attempt.server);
    }

    fn attempt_on(&self, link: LinkId) -> Option<&Attempt> {
        let query = self.queries.get(*self.links.get(&link)?)?;
        query.open.iter().find(|attempt| attempt.link == link)
    }

    /// Asks the question once more, or gives up when its time is over.
    fn attempt(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(query) = self.queries.get_mut(key) else { return };
        let age = cx.now.since(query.since);
        let last = SCHEDULE[DNS_ATTEMPTS_MAX - 1];
        if age >= last || self.servers.is_empty() {
            let (name, kind) = (&query.name, query.kind);
            cx.refuse(
                Counter::DnsTimeout,
                "dns.timeout",
                format_args!("side=dns name={} kind={} attempts={}", Escaped(name), kind.name(), query.attempts),
            );
            self.preferred = (self.preferred + 1) % self.servers.len().max(1);
            self.finish(cx, key, Answer::Failed, FAILED_KEPT);
            return;
        }
        // A server that changes letters is asked in a way that needs no secret letters.
        let changes_case = query.open.iter().find(|attempt| attempt.case_changed && !attempt.tcp);
        if let Some(link) = changes_case.map(|attempt| attempt.link) {
            self.ask_over_tcp(cx, key, link);
        } else if !query.open.is_full() && query.attempts < DNS_ATTEMPTS_MAX {
            self.ask_over_udp(cx, key);
        }
        let Some(query) = self.queries.get(key) else { return };
        let next = SCHEDULE.iter().map(|after| query.since.after(*after)).find(|at| *at > cx.now);
        self.timers.set(key.index(), next.unwrap_or_else(|| query.since.after(last)));
    }

    fn ask_over_udp(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(query) = self.queries.get_mut(key) else { return };
        if query.attempts > 0 {
            query.server += 1;
        }
        query.server %= self.servers.len();
        query.attempts += 1;
        let server = self.servers[query.server];
        // Checked when the question or its alias was taken.
        let Some(question) = Question::new(&query.current, query.kind, cx.rng) else { return };
        let link = cx.out.connect(Transport::Udp, server);
        cx.out.send(link, &question.octets);
        cx.count(Counter::DnsQuery);
        cx.debug(
            "dns.query",
            format_args!("server={server} name={} kind={}", Escaped(&query.current), query.kind.name()),
        );
        self.links.insert(link, key);
        // The caller found room.
        let _ = query.open.push(Attempt { link, server, question, tcp: false, case_changed: false });
    }

    /// Asks the server of an attempt again, over TCP, in place of that attempt.
    fn ask_over_tcp(&mut self, cx: &mut Cx<'_>, key: Key, old: LinkId) {
        let Some(query) = self.queries.get_mut(key) else { return };
        let Some(attempt) = query.open.iter_mut().find(|attempt| attempt.link == old) else { return };
        let Some(question) = Question::new(&query.current, query.kind, cx.rng) else { return };
        cx.out.close(old);
        let link = cx.out.connect(Transport::Tcp, attempt.server);
        cx.count(Counter::DnsQuery);
        self.links.remove(&old);
        self.links.insert(link, key);
        *attempt = Attempt { link, server: attempt.server, question, tcp: true, case_changed: false };
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, link: LinkId, octets: &[u8]) {
        let Some(&key) = self.links.get(&link) else { return };
        let Some(query) = self.queries.get_mut(key) else { return };
        let Some(attempt) = query.open.iter_mut().find(|attempt| attempt.link == link) else { return };
        let (server, tcp) = (attempt.server, attempt.tcp);
        match message::parse(octets, &attempt.question, !tcp) {
            Err(foreign) => {
                attempt.case_changed |= foreign == Foreign::Case;
                cx.refuse(
                    Counter::DnsRefused,
                    "dns.answer.refused",
                    format_args!("side=dns cause={} server={server} name={}", foreign.reason(), Escaped(&query.name)),
                );
                // Nobody else could have written that on a TCP connection of ours.
                if tcp {
                    self.drop_attempt(cx, key, link);
                    self.on_failure(cx, key, server);
                }
            }
            Ok(Reply::Truncated) if tcp => {
                self.drop_attempt(cx, key, link);
                self.on_failure(cx, key, server);
            }
            Ok(Reply::Truncated) => self.ask_over_tcp(cx, key, link),
            Ok(Reply::Failed(cause)) => {
                cx.debug(
                    "dns.failed",
                    format_args!("side=dns cause={} server={server} name={}", Escaped(cause), Escaped(&query.name)),
                );
                self.drop_attempt(cx, key, link);
                self.on_failure(cx, key, server);
            }
            Ok(Reply::Alias(target, aliases, ttl)) => self.on_alias(cx, key, target, aliases, ttl),
            Ok(Reply::Records(records, ttl)) => {
                let ttl = u64::from(ttl.min(query.ttl));
                self.prefer(server);
                self.finish(cx, key, Answer::Records(records), Duration::from_secs(ttl).min(KEPT_MAX));
            }
            Ok(Reply::NoData(ttl)) => {
                self.prefer(server);
                self.finish(cx, key, Answer::NoData, negative(ttl));
            }
            Ok(Reply::NoSuchName(ttl)) => {
                self.prefer(server);
                self.finish(cx, key, Answer::NoSuchName, negative(ttl));
            }
        }
    }

    /// The name asked for is another name for `target`, which has to be asked for.
    fn on_alias(&mut self, cx: &mut Cx<'_>, key: Key, target: String, aliases: usize, ttl: u32) {
        self.close_links(cx, key);
        let Some(query) = self.queries.get_mut(key) else { return };
        query.aliases += aliases;
        query.ttl = query.ttl.min(ttl);
        if query.aliases > DNS_ALIASES_MAX || Question::new(&target, query.kind, cx.rng).is_none() {
            self.finish(cx, key, Answer::Failed, FAILED_KEPT);
            return;
        }
        query.current = target;
        // The chain is bounded; so is the time, which goes on running.
        query.attempts = 0;
        self.attempt(cx, key);
    }

    /// A server cannot answer: the next one is asked at once. When all were asked and
    /// none can, that is the answer.
    fn on_failure(&mut self, cx: &mut Cx<'_>, key: Key, server: SocketAddr) {
        let Some(query) = self.queries.get(key) else { return };
        let another = query.attempts < DNS_ATTEMPTS_MAX.min(self.servers.len());
        if another {
            self.attempt(cx, key);
        } else if query.open.is_empty() {
            cx.refuse(
                Counter::DnsTimeout,
                "dns.no-answer",
                format_args!("side=dns server={server} name={} kind={}", Escaped(&query.name), query.kind.name()),
            );
            self.finish(cx, key, Answer::Failed, FAILED_KEPT);
        }
    }

    fn prefer(&mut self, server: SocketAddr) {
        if let Some(at) = self.servers.iter().position(|other| *other == server) {
            self.preferred = at;
        }
    }

    fn finish(&mut self, cx: &mut Cx<'_>, key: Key, answer: Answer, kept: Duration) {
        self.close_links(cx, key);
        self.timers.stop(key.index());
        let Some(query) = self.queries.remove(key) else { return };
        let place = (query.name, query.kind);
        self.under_way.remove(&place);
        self.done.push_back((place.0.clone(), place.1, answer.clone()));
        if !kept.is_zero() {
            self.cache.keep(place, answer, cx.now.after(kept), cx.now);
        }
    }

    fn close_links(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(query) = self.queries.get_mut(key) else { return };
        while let Some(attempt) = query.open.pop() {
            self.links.remove(&attempt.link);
            cx.out.close(attempt.link);
        }
    }

    fn drop_attempt(&mut self, cx: &mut Cx<'_>, key: Key, link: LinkId) {
        let Some(query) = self.queries.get_mut(key) else { return };
        query.open.retain(|attempt| attempt.link != link);
        self.links.remove(&link);
        cx.out.close(link);
    }
}

fn negative(ttl: Option<u32>) -> Duration {
    ttl.map_or(NEGATIVE_KEPT, |ttl| Duration::from_secs(u64::from(ttl))).min(NEGATIVE_KEPT_MAX)
}

/// Answers kept, within a number and a sum of octets.
#[derive(Debug, Default)]
struct Cache {
    kept: BTreeMap<(String, Kind), (Answer, Instant)>,
    octets: usize,
}

impl Cache {
    fn find(&self, place: &(String, Kind), now: Instant) -> Option<&Answer> {
        self.kept.get(place).filter(|(_, until)| *until > now).map(|(answer, _)| answer)
    }

    fn keep(&mut self, place: (String, Kind), answer: Answer, until: Instant, now: Instant) {
        self.forget(&place);
        let octets = octets_of(&place.0, &answer);
        if self.kept.len() >= DNS_CACHE_MAX || self.octets + octets > DNS_CACHE_OCTETS_MAX {
            let over: Vec<_> =
                self.kept.iter().filter(|(_, (_, until))| *until <= now).map(|(place, _)| place.clone()).collect();
            over.iter().for_each(|place| self.forget(place));
        }
        while self.kept.len() >= DNS_CACHE_MAX || self.octets + octets > DNS_CACHE_OCTETS_MAX {
            // The one that would be over first goes first.
            let Some(first) = self.kept.iter().min_by_key(|(_, (_, until))| *until).map(|(place, _)| place.clone())
            else {
                break;
            };
            self.forget(&first);
        }
        self.octets += octets;
        self.kept.insert(place, (answer, until));
    }

    fn forget(&mut self, place: &(String, Kind)) {
        if let Some((answer, _)) = self.kept.remove(place) {
            self.octets -= octets_of(&place.0, &answer);
        }
    }
}

/// About what an answer takes in memory.
fn octets_of(name: &str, answer: &Answer) -> usize {
    let records = match answer {
        Answer::NoData | Answer::NoSuchName | Answer::Failed => 0,
        Answer::Records(Records::Addresses(all)) => size_of_val(all.as_slice()),
        Answer::Records(Records::Srv(all)) => all.iter().map(|srv| 40 + srv.target.len()).sum(),
        Answer::Records(Records::Naptr(all)) => {
            all.iter().map(|naptr| 64 + naptr.service.len() + naptr.replacement.len()).sum()
        }
    };
    size_of::<Answer>() + 2 * name.len() + 96 + records
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::message::tests::{Answer as Reply, asked};
    use super::*;
    use crate::base::counters::Counters;
    use crate::base::outbox::{Action, Outbox};
    use crate::base::rng::Rng;
    use crate::base::time::Wall;

    /// The world around a resolver or a locator: clock, chance, output.
    pub(crate) struct World {
        pub(crate) now: Instant,
        pub(crate) rng: Rng,
        pub(crate) out: Outbox,
        pub(crate) count: Counters,
    }

    /// Something that went out on a link.
    #[derive(Clone, Debug)]
    pub(crate) struct Sent {
        pub(crate) link: LinkId,
        pub(crate) octets: Vec<u8>,
    }

    impl World {
        pub(crate) fn new() -> Self {
            Self {
                now: Instant::from_millis(1000),
                rng: Rng::from_number(77),
                out: Outbox::with_capacity(4096, 64),
                count: Counters::default(),
            }
        }

        pub(crate) fn cx(&mut self) -> Cx<'_> {
            Cx { now: self.now, wall: Wall(0), rng: &mut self.rng, out: &mut self.out, count: &mut self.count }
        }

        /// Links opened, and what was sent, since the last call.
        pub(crate) fn taken(&mut self) -> (Vec<(LinkId, Transport, SocketAddr)>, Vec<Sent>) {
            let (mut opened, mut sent) = (Vec::new(), Vec::new());
            for action in self.out.actions() {
                match action {
                    Action::Connect { link, transport, to } => opened.push((*link, *transport, *to)),
                    Action::Send { link, bytes } => {
                        sent.push(Sent { link: *link, octets: self.out.bytes(bytes).to_vec() });
                    }
                    _ => {}
                }
            }
            self.out.clear();
            (opened, sent)
        }
    }

    fn servers(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|n| SocketAddr::from(([192, 0, 2, n], 53))).collect()
    }

    struct Test {
        world: World,
        resolver: Resolver,
    }

    impl Test {
        fn new(count: u8) -> Self {
            Self { world: World::new(), resolver: Resolver::new(&servers(count)) }
        }

        fn ask(&mut self, name: &str) -> Lookup {
            self.resolver.ask(&mut self.world.cx(), name, Kind::A)
        }

        /// Asks and gives what went out.
        fn asked(&mut self, name: &str) -> Sent {
            assert_eq!(self.ask(name), Lookup::Asked);
            self.sent()
        }

        fn sent(&mut self) -> Sent {
            let (_, mut sent) = self.world.taken();
            assert_eq!(sent.len(), 1, "{sent:?}");
            sent.remove(0)
        }

        fn receive(&mut self, link: LinkId, octets: &[u8]) -> usize {
            self.resolver.receive(&mut self.world.cx(), link, octets)
        }

        fn answer(&mut self) -> Option<Answer> {
            let answer = self.resolver.poll().map(|(_, _, answer)| answer);
            assert!(self.resolver.queries.len() == self.resolver.under_way.len());
            if self.resolver.queries.is_empty() {
                assert!(self.resolver.links.is_empty() && self.resolver.timers.is_empty());
            }
            answer
        }

        fn wait(&mut self, millis: u64) {
            self.world.now = self.world.now.after(Duration::from_millis(millis));
            self.resolver.timeout(&mut self.world.cx());
        }
    }

    fn one(address: &str) -> Option<Answer> {
        Some(Answer::Records(Records::Addresses(vec![address.parse().expect("an address")])))
    }

    #[test]
    fn an_answer_is_kept_as_long_as_it_says() {
        let mut t = Test::new(1);
        let sent = t.asked("a.example");
        assert_eq!(t.ask("a.example"), Lookup::Asked, "the same question in flight is shared");
        assert!(t.world.taken().1.is_empty());
        t.receive(sent.link, &Reply::to(&sent.octets, 0).a("a.example", 60, "192.0.2.9").octets());
        assert_eq!(t.answer(), one("192.0.2.9"));
        assert!(!t.resolver.owns(sent.link));
        t.wait(59_999);
        assert!(matches!(t.ask("a.example"), Lookup::Known(Answer::Records(_))));
        t.wait(1);
        assert_eq!(t.ask("a.example"), Lookup::Asked);
    }

    #[test]
    fn a_thousand_forgeries_before_the_true_answer_change_nothing() {
        let mut t = Test::new(1);
        let sent = t.asked("a.example");
        let mut rng = Rng::from_number(8);
        let mut refused = 0;
        for n in 0..1000u32 {
            let mut question = sent.octets.clone();
            match n % 3 {
                0 => question[0] ^= 1 + (rng.next_u64() % 255) as u8,
                1 => question[13] ^= 0x20,
                _ => question[14] ^= 1,
            }
            t.receive(sent.link, &Reply::to(&question, 0).a("a.example", 60, "203.0.113.66").octets());
            refused += 1;
            assert_eq!(t.answer(), None);
        }
        assert_eq!(t.world.count.of(Counter::DnsRefused), refused);
        t.world.out.clear();
        t.receive(sent.link, &Reply::to(&sent.octets, 0).a("a.example", 60, "192.0.2.9").octets());
        assert_eq!(t.answer(), one("192.0.2.9"));
        // On a link that is not ours any more, nothing is believed.
        t.receive(sent.link, &Reply::to(&sent.octets, 0).a("a.example", 60, "203.0.113.66").octets());
        assert_eq!(t.answer(), None);
    }

    #[test]
    fn a_question_is_asked_again_with_another_id_of_another_server_and_given_up() {
        let mut t = Test::new(2);
        assert_eq!(t.ask("a.example"), Lookup::Asked);
        let (first, first_sent) = t.world.taken();
        assert_eq!(t.resolver.deadline(), Some(Instant::from_millis(2500)));
        t.wait(1500);
        let (second, second_sent) = t.world.taken();
        assert_eq!((first[0].2, second[0].2), (servers(2)[0], servers(2)[1]));
        assert_ne!(first_sent[0].octets, second_sent[0].octets);
        t.wait(1500);
        assert_eq!(t.world.taken().0[0].2, servers(2)[0]);
        t.wait(1999);
        assert_eq!(t.answer(), None);
        t.wait(1);
        assert_eq!(t.answer(), Some(Answer::Failed));
        assert_eq!(t.world.count.of(Counter::DnsTimeout), 1);
        // Remembered for a few seconds only.
        assert_eq!(t.ask("a.example"), Lookup::Known(Answer::Failed));
        t.wait(5000);
        assert_eq!(t.ask("a.example"), Lookup::Asked);
    }

    #[test]
    fn a_late_answer_to_the_first_attempt_is_as_good_as_any() {
        let mut t = Test::new(1);
        let sent = t.asked("slow.example");
        t.wait(2000);
        t.receive(sent.link, &Reply::to(&sent.octets, 0).a("slow.example", 60, "192.0.2.9").octets());
        assert_eq!(t.answer(), one("192.0.2.9"));
    }

    #[test]
    fn the_server_that_answered_is_asked_first() {
        let mut t = Test::new(2);
        t.ask("a.example");
        t.world.taken();
        t.wait(1500);
        let sent = t.sent();
        t.receive(sent.link, &Reply::to(&sent.octets, 0).a("a.example", 60, "192.0.2.9").octets());
        assert_eq!(t.answer(), one("192.0.2.9"));
        t.ask("b.example");
        assert_eq!(t.world.taken().0[0].2, servers(2)[1]);
    }

    #[test]
    fn a_server_that_cannot_answer_is_left_at_once_for_the_next() {
        let mut t = Test::new(2);
        let sent = t.asked("a.example");
        t.receive(sent.link, &Reply::to(&sent.octets, 2).octets());
        let second = t.sent();
        t.receive(second.link, &Reply::to(&second.octets, 2).octets());
        assert_eq!(t.answer(), Some(Answer::Failed));
        // A closed port says the same.
        let sent = t.asked("b.example");
        t.resolver.closed(&mut t.world.cx(), sent.link, CloseReason::Refused);
        let second = t.sent();
        t.receive(second.link, &Reply::to(&second.octets, 0).a("b.example", 60, "192.0.2.9").octets());
        assert_eq!(t.answer(), one("192.0.2.9"));
    }

    #[test]
    fn a_truncated_answer_is_fetched_over_tcp_in_pieces() {
        let mut t = Test::new(1);
        let sent = t.asked("big.example");
        t.receive(sent.link, &Reply::to(&sent.octets, 0).truncated().octets());
        let (opened, sent) = t.world.taken();
        assert!(sent.is_empty());
        let (link, transport, _) = opened[0];
        assert_eq!(transport, Transport::Tcp);
        t.resolver.opened(&mut t.world.cx(), link);
        let sent = t.sent();
        assert_eq!(sent.octets[..2], ((sent.octets.len() - 2) as u16).to_be_bytes());
        let mut reply = Reply::to(&sent.octets[2..], 0);
        for _ in 0..2400 {
            reply = reply.a("big.example", 60, "192.0.2.9");
        }
        let reply = reply.octets();
        assert!(reply.len() > 60_000);
        let stream = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
        for cut in [0, 1, 2, 3, stream.len() - 1] {
            assert_eq!(t.receive(link, &stream[..cut]), 0);
            assert_eq!(t.answer(), None);
        }
        assert_eq!(t.receive(link, &stream), stream.len());
        let Some(Answer::Records(Records::Addresses(all))) = t.answer() else { panic!("no records") };
        assert_eq!(all.len(), crate::limits::DNS_TARGETS_MAX);
    }

    #[test]
    fn a_server_that_changes_letters_is_asked_over_tcp_when_nothing_better_comes() {
        let mut t = Test::new(1);
        let sent = t.asked("a.example");
        let mut lower = sent.octets.clone();
        lower[12..].make_ascii_lowercase();
        t.receive(sent.link, &Reply::to(&lower, 0).a("a.example", 60, "192.0.2.9").octets());
        t.world.out.clear();
        t.wait(1500);
        let (opened, _) = t.world.taken();
        let (link, transport, _) = opened[0];
        assert_eq!(transport, Transport::Tcp);
        t.resolver.opened(&mut t.world.cx(), link);
        let mut question = t.sent().octets.split_off(2);
        question[12..].make_ascii_lowercase();
        let reply = Reply::to(&question, 0).a("a.example", 60, "192.0.2.9").octets();
        t.receive(link, &[&(reply.len() as u16).to_be_bytes()[..], &reply].concat());
        assert_eq!(t.answer(), one("192.0.2.9"));
    }

    #[test]
    fn an_alias_whose_end_is_not_told_is_asked_for_up_to_a_bound() {
        let mut t = Test::new(1);
        let mut sent = t.asked("a0.example");
        for n in 0..=DNS_ALIASES_MAX {
            let (from, to) = (format!("a{n}.example"), format!("a{}.example", n + 1));
            assert_eq!(asked(&sent.octets).0, from);
            t.receive(sent.link, &Reply::to(&sent.octets, 0).cname(&from, 60, &to).octets());
            if n < DNS_ALIASES_MAX {
                sent = t.sent();
            }
        }
        assert_eq!(t.answer(), Some(Answer::Failed));
    }

    #[test]
    fn a_circle_of_aliases_ends() {
        let mut t = Test::new(1);
        let mut sent = t.asked("a.example");
        for n in 0..=DNS_ALIASES_MAX {
            let (from, to) = if n % 2 == 0 { ("a.example", "b.example") } else { ("b.example", "a.example") };
            t.receive(sent.link, &Reply::to(&sent.octets, 0).cname(from, 60, to).octets());
            if n < DNS_ALIASES_MAX {
                sent = t.sent();
            }
        }
        assert_eq!(t.answer(), Some(Answer::Failed));
    }

    #[test]
    fn negative_answers_are_kept_for_a_bounded_time() {
        for (soa, kept) in [(Some(10), 10), (Some(100_000), 120), (None, 30), (Some(0), 0)] {
            let mut t = Test::new(1);
            let sent = t.asked("a.example");
            let reply = Reply::to(&sent.octets, 3);
            let reply = match soa {
                Some(minimum) => reply.soa("example", 100_000, minimum),
                None => reply,
            };
            t.receive(sent.link, &reply.octets());
            assert_eq!(t.answer(), Some(Answer::NoSuchName));
            if kept > 0 {
                t.wait(kept * 1000 - 1);
                assert_eq!(t.ask("a.example"), Lookup::Known(Answer::NoSuchName));
                t.wait(1);
            }
            assert_eq!(t.ask("a.example"), Lookup::Asked, "{soa:?}");
        }
    }

    #[test]
    fn a_time_to_live_of_nothing_or_of_years_is_bounded() {
        for (ttl, kept) in [(0, 0), (1 << 31, 0), (i32::MAX as u32, 3600)] {
            let mut t = Test::new(1);
            let sent = t.asked("a.example");
            t.receive(sent.link, &Reply::to(&sent.octets, 0).a("a.example", ttl, "192.0.2.9").octets());
            assert_eq!(t.answer(), one("192.0.2.9"));
            if kept > 0 {
                t.wait(kept * 1000 - 1);
                assert!(matches!(t.ask("a.example"), Lookup::Known(_)));
                t.wait(1);
            }
            assert_eq!(t.ask("a.example"), Lookup::Asked);
        }
    }

    #[test]
    fn tables_are_bounded_and_drain() {
        let mut t = Test::new(1);
        for n in 0..DNS_QUERIES_MAX {
            assert_eq!(t.ask(&format!("n{n}.example")), Lookup::Asked);
        }
        assert_eq!(t.ask("one-more.example"), Lookup::Full);
        t.wait(1500);
        assert_eq!(t.ask("one-more.example"), Lookup::Asked, "silent ones make room");
        t.wait(5000);
        for _ in 0..=DNS_QUERIES_MAX {
            assert_eq!(t.answer(), Some(Answer::Failed));
        }
        assert_eq!(t.answer(), None);
        assert!(t.resolver.queries.is_empty() && t.resolver.links.is_empty());
        for n in 0..3 * DNS_CACHE_MAX {
            let name = format!("m{n}.example");
            t.world.taken();
            let sent = t.asked(&name);
            t.receive(sent.link, &Reply::to(&sent.octets, 0).a(&name, 60 + n as u32, "192.0.2.9").octets());
            t.answer();
            assert!(t.resolver.cache.kept.len() <= DNS_CACHE_MAX);
            assert!(t.resolver.cache.octets <= DNS_CACHE_OCTETS_MAX);
        }
        let sum: usize = t.resolver.cache.kept.iter().map(|((name, _), (answer, _))| octets_of(name, answer)).sum();
        assert_eq!(sum, t.resolver.cache.octets);
    }

    #[test]
    fn without_servers_there_is_no_answer() {
        let mut t = Test::new(0);
        assert_eq!(t.ask("a.example"), Lookup::Known(Answer::Failed));
    }

    #[test]
    fn other_servers_are_asked_after_a_change_and_old_answers_are_forgotten() {
        let mut t = Test::new(1);
        let sent = t.asked("a.example");
        t.receive(sent.link, &Reply::to(&sent.octets, 0).a("a.example", 60, "192.0.2.9").octets());
        t.resolver.configure(&servers(1));
        assert!(matches!(t.ask("a.example"), Lookup::Known(_)));
        t.resolver.configure(&[SocketAddr::from(([198, 51, 100, 1], 53))]);
        t.world.taken();
        assert_eq!(t.ask("a.example"), Lookup::Asked);
        assert_eq!(t.world.taken().0[0].2, SocketAddr::from(([198, 51, 100, 1], 53)));
        // An open question survives the loss of all servers.
        t.resolver.configure(&[]);
        t.wait(1500);
        assert!(t.resolver.queries.is_empty());
    }
}
