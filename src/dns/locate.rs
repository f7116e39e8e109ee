//! The door: which addresses to try for a domain, and in which order.
//!
//! SIP goes by RFC 3263: NAPTR, then SRV, then A and AAAA; of the transports a domain
//! has, TLS comes first and those in the clear only if the asker wants them. XMPP goes
//! by RFC 6120 section 3.2 with XEP-0368: `_xmpps-server` and `_xmpp-server` mixed by
//! priority, direct TLS first among equals. Within a priority the weights decide by
//! lot (RFC 2782). Addresses of both families are given in turn, IPv6 first.
//!
//! A domain that somebody else named must not make us knock on our own doors: our own
//! listeners, link-local addresses and, unless we listen there ourselves, the loopback
//! are not handed out for it. What the operator named ([`Service::Host`]) is not
//! judged so.

use super::message::{Kind, NaptrRecord, Records, SrvRecord};
use super::resolver::{Answer, Lookup, Resolver};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::net::{CloseReason, LinkId, NotLocated, Target, Transport};
use crate::base::rng::Rng;
use crate::base::slab::{Key, Slab};
use crate::base::text::Escaped;
use crate::base::time::Instant;
use crate::base::trail::Step as Trail;
use crate::limits::{DNS_LOCATES_MAX, DNS_TARGETS_MAX, DNS_WAITERS_MAX};
use crate::settings::{Listener, ListenerKind, Settings};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::borrow::Cow;
use std::collections::VecDeque;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service<'a> {
    /// The servers of a SIP URI (RFC 3263 section 4), or of a Via (section 5).
    Sip {
        /// Its host: a domain or an address, IPv6 with or without brackets.
        host: &'a str,
        /// The port it names.
        port: Option<u16>,
        /// The transport it names.
        transport: Option<Transport>,
        /// Only TLS will do.
        secure_only: bool,
    },
    /// The Edge of a SIP domain that federates as Lync does: by one SRV record of its own,
    /// over TLS and nothing else.
    Federation {
        /// The domain.
        domain: &'a str,
        /// Has a server to be in the domain? If not, one that is not is only told of.
        is_strict: bool,
    },
    /// The servers of an XMPP domain. Direct TLS targets have `Transport::Tls`, those
    /// for STARTTLS `Transport::Tcp`.
    XmppServer {
        /// The domain.
        domain: &'a str,
    },
    /// A host that the operator named.
    Host {
        /// A name or an address.
        host: &'a str,
        /// The port.
        port: u16,
        /// The transport.
        transport: Transport,
    },
}

/// Addresses in the order to try them.
pub type Targets = heapless::Vec<Target, DNS_TARGETS_MAX>;

/// The outcome of one [`Locator::locate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Who asked.
    pub token: u64,
    /// Where to go, or why nowhere.
    pub result: Result<Targets, NotLocated>,
    /// Of a federation, the name of each target's host: what its certificate may name.
    pub hosts: Vec<String>,
}

/// Longest time a domain may take to be located.
const LOCATE_TIME_MAX: Duration = Duration::from_secs(10);
/// Hosts of one domain looked up at most.
const HOSTS_MAX: usize = 8;
/// Hosts of one domain looked up at the same time: one domain whose servers are silent
/// must not hold all questions (promise P5).
const HOSTS_AT_ONCE: usize = 2;

/// The machine.
#[derive(Debug)]
pub struct Locator {
    resolver: Resolver,
    locates: Slab<Locate>,
    /// Askers of all of them.
    waiters: usize,
    listeners: Vec<Listener>,
    ready: VecDeque<Located>,
}

impl Locator {
    /// A locator that asks the servers of `settings`.
    pub fn new(settings: &Settings) -> Self {
        Self {
            resolver: Resolver::new(&settings.dns_servers),
            locates: Slab::with_capacity(DNS_LOCATES_MAX),
            waiters: 0,
            listeners: settings.listeners.clone(),
            ready: VecDeque::new(),
        }
    }

    /// Goes by other settings from now on.
    pub fn configure(&mut self, _cx: &mut Cx<'_>, settings: &Settings) {
        self.resolver.configure(&settings.dns_servers);
        self.listeners.clone_from(&settings.listeners);
    }

    /// Looks for a service. `Some`: known at once. `None`: comes by [`Self::poll`] with
    /// the same `token`, within 10 seconds.
    pub fn locate(&mut self, cx: &mut Cx<'_>, service: Service<'_>, token: u64) -> Option<Located> {
        let wanted = match Wanted::new(service) {
            Ok(wanted) => wanted,
            Err(result) => {
                let result = result.map(|target| [target].into_iter().collect());
                return Some(Located { token, result, hosts: Vec::new() });
            }
        };
        if self.waiters >= DNS_WAITERS_MAX {
            return Some(self.overload(cx, &wanted, token));
        }
        let same = self.locates.iter().find(|(_, locate)| locate.wanted == wanted).map(|(key, _)| key);
        if let Some(locate) = same.and_then(|key| self.locates.get_mut(key)) {
            locate.tokens.push(token);
            self.waiters += 1;
            return None;
        }
        let locate = Locate {
            tokens: vec![token],
            stage: Stage::first(&wanted),
            wanted,
            deadline: cx.now.after(LOCATE_TIME_MAX),
            is_starved: false,
        };
        let key = match self.locates.insert(locate) {
            Ok(key) => key,
            Err(locate) => return Some(self.overload(cx, &locate.wanted, token)),
        };
        self.waiters += 1;
        let result = self.advance(cx, key);
        let hosts = match &result {
            Some(Ok(targets)) => self.remove(key).map(|locate| locate.stage.hosts_of(&locate.wanted, targets)),
            Some(Err(_)) => self.remove(key).map(|_| Vec::new()),
            None => None,
        };
        self.on_answers(cx);
        result.map(|result| Located { token, result, hosts: hosts.unwrap_or_default() })
    }

    /// The next outcome. To be asked until there is none, after every call.
    pub fn poll(&mut self) -> Option<Located> {
        self.ready.pop_front()
    }

    /// Is it one of ours?
    pub fn owns(&self, link: LinkId) -> bool {
        self.resolver.owns(link)
    }

    /// A link is up.
    pub fn opened(&mut self, cx: &mut Cx<'_>, link: LinkId) {
        self.resolver.opened(cx, link);
    }

    /// Octets came. Returns how many were used.
    pub fn receive(&mut self, cx: &mut Cx<'_>, link: LinkId, bytes: &mut [u8]) -> usize {
        let used = self.resolver.receive(cx, link, bytes);
        self.on_answers(cx);
        used
    }

    /// A link is gone.
    pub fn closed(&mut self, cx: &mut Cx<'_>, link: LinkId, why: CloseReason) {
        self.resolver.closed(cx, link, why);
        self.on_answers(cx);
    }

    /// A deadline has come.
    pub fn timeout(&mut self, cx: &mut Cx<'_>) {
        self.resolver.timeout(cx);
        self.on_answers(cx);
        let now = cx.now;
        let late: Vec<Key> =
            self.locates.iter().filter(|(_, locate)| locate.deadline <= now).map(|(key, _)| key).collect();
        for key in late {
            let Some(locate) = self.locates.get(key) else { continue };
            cx.debug("dns.locate.late", format_args!("side=dns name={}", Escaped(locate.wanted.name())));
            // What was found so far is better than nothing.
            let result = match &locate.stage {
                Stage::Hosts(hosts) => {
                    let policy = Policy::new(&self.listeners, &locate.wanted);
                    hosts.result(NotLocated::NoAnswer, &policy)
                }
                _ => Err(NotLocated::NoAnswer),
            };
            self.tell(key, &result);
        }
    }

    /// When [`Self::timeout`] is next due.
    pub fn deadline(&self) -> Option<Instant> {
        let locates = self.locates.iter().map(|(_, locate)| locate.deadline).min();
        [locates, self.resolver.deadline()].into_iter().flatten().min()
    }

    fn overload(&self, cx: &mut Cx<'_>, wanted: &Wanted, token: u64) -> Located {
        cx.refuse(Counter::DnsOverload, "dns.overload", format_args!("side=ours name={}", Escaped(wanted.name())));
        Located { token, result: Err(NotLocated::NoAnswer), hosts: Vec::new() }
    }

    /// Hands answers to whoever waits for them, and room for questions to whoever waits
    /// for that.
    fn on_answers(&mut self, cx: &mut Cx<'_>) {
        loop {
            while let Some((name, kind, answer)) = self.resolver.poll() {
                let concerned: Vec<Key> = (self.locates.iter_mut())
                    .filter_map(|(key, locate)| locate.stage.take(&name, kind, &answer).then_some(key))
                    .collect();
                self.advance_all(cx, concerned);
            }
            // The youngest first: the oldest may be old because nobody answers them.
            let mut starved: Vec<(Instant, Key)> = (self.locates.iter())
                .filter(|(_, locate)| locate.is_starved)
                .map(|(key, locate)| (locate.deadline, key))
                .collect();
            starved.sort_unstable_by(|a, b| b.cmp(a));
            self.advance_all(cx, starved.into_iter().map(|(_, key)| key));
            // Making room may have ended other questions.
            if !self.resolver.has_answers() {
                return;
            }
        }
    }

    fn advance_all(&mut self, cx: &mut Cx<'_>, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            if let Some(result) = self.advance(cx, key) {
                self.tell(key, &result);
            }
        }
    }

    /// Goes from stage to stage as far as the answers known allow; gives the result
    /// when there is one.
    fn advance(&mut self, cx: &mut Cx<'_>, key: Key) -> Option<Result<Targets, NotLocated>> {
        loop {
            let locate = self.locates.get_mut(key)?;
            locate.is_starved = false;
            let mut is_waiting = false;
            for (name, kind, slot) in locate.stage.open() {
                match self.resolver.ask(cx, name, kind) {
                    Lookup::Known(answer) => *slot = Some(answer),
                    Lookup::Asked => is_waiting = true,
                    Lookup::Full => locate.is_starved = true,
                }
            }
            if is_waiting || locate.is_starved {
                return None;
            }
            let policy = Policy::new(&self.listeners, &locate.wanted);
            match locate.stage.next(cx, &locate.wanted, &policy) {
                Step::To(stage) => locate.stage = stage,
                Step::Stay => {}
                Step::Done(result) => return Some(result),
            }
        }
    }

    fn tell(&mut self, key: Key, result: &Result<Targets, NotLocated>) {
        if let Some(locate) = self.remove(key) {
            let hosts = result.as_ref().map(|targets| locate.stage.hosts_of(&locate.wanted, targets));
            let hosts = hosts.unwrap_or_default();
            let of = |&token: &u64| Located { token, result: result.clone(), hosts: hosts.clone() };
            self.ready.extend(locate.tokens.iter().map(of));
        }
    }

    fn remove(&mut self, key: Key) -> Option<Locate> {
        let locate = self.locates.remove(key)?;
        self.waiters -= locate.tokens.len();
        Some(locate)
    }
}

/// One service being located.
#[derive(Debug)]
struct Locate {
    wanted: Wanted,
    /// Everybody who asked for it.
    tokens: Vec<u64>,
    stage: Stage,
    deadline: Instant,
    /// Does a question of it wait until there is room?
    is_starved: bool,
}

/// A service whose address is not known from its name alone; names in A-labels, lower
/// case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    /// NAPTR, SRV and hosts; neither port nor transport was named.
    Sip { host: String, secure_only: bool },
    /// SRV and hosts of one transport.
    SipOver { host: String, transport: Transport },
    /// SRV and hosts.
    Xmpp { domain: String },
    /// SRV and hosts.
    Federation { domain: String, is_strict: bool },
    /// One host; `found_by_others`: named in a message, not by the operator.
    Host { host: String, port: u16, transport: Transport, found_by_others: bool },
}

impl Wanted {
    /// What to look up for a service; the error is its result where nothing has to be.
    fn new(service: Service<'_>) -> Result<Self, Result<Target, NotLocated>> {
        let (name, literal) = match service {
            Service::Sip { host, .. } | Service::Host { host, .. } => (host, address_of(host)),
            Service::XmppServer { domain } | Service::Federation { domain, .. } => (domain, address_of(domain)),
        };
        let ascii = match literal {
            Some(_) => Cow::Borrowed(""),
            None => ascii_name(name).ok_or(Err(NotLocated::NoSuchDomain))?,
        };
        let (port, transport, found_by_others) = match service {
            Service::Federation { is_strict, .. } if literal.is_none() => {
                return Ok(Self::Federation { domain: ascii.into_owned(), is_strict });
            }
            Service::Federation { .. } => return Err(Err(NotLocated::NoSuchDomain)),
            Service::XmppServer { .. } if literal.is_none() => return Ok(Self::Xmpp { domain: ascii.into_owned() }),
            Service::XmppServer { .. } => (XMPP_PORT, Transport::Tcp, true),
            Service::Host { port, transport, .. } => (port, transport, false),
            Service::Sip { port, transport, secure_only, .. } => {
                let transport = match (transport, secure_only) {
                    // There is no TLS over UDP here.
                    (Some(Transport::Udp), true) => return Err(Err(NotLocated::NoAddress)),
                    (Some(_), true) => Some(Transport::Tls),
                    (transport, _) => transport,
                };
                match (port, transport, literal) {
                    (None, None, None) => return Ok(Self::Sip { host: ascii.into_owned(), secure_only }),
                    (None, Some(transport), None) => return Ok(Self::SipOver { host: ascii.into_owned(), transport }),
                    (port, transport, _) => {
                        let transport = transport.unwrap_or_else(|| default_transport(secure_only));
                        (port.unwrap_or_else(|| sip_port(transport)), transport, true)
                    }
                }
            }
        };
        match literal {
            Some(ip) if port == 0 || !is_usable(ip) => Err(Err(NotLocated::NoAddress)),
            Some(ip) => Err(Ok(Target { transport, address: SocketAddr::new(ip, port) })),
            None => Ok(Self::Host { host: ascii.into_owned(), port, transport, found_by_others }),
        }
    }

    /// The name, for logs.
    fn name(&self) -> &str {
        match self {
            Self::Sip { host, .. } | Self::SipOver { host, .. } | Self::Host { host, .. } => host,
            Self::Xmpp { domain } | Self::Federation { domain, .. } => domain,
        }
    }
}

const XMPP_PORT: u16 = 5269;

/// The default port of a SIP transport (RFC 3261 section 18.2.1).
const fn sip_port(transport: Transport) -> u16 {
    match transport {
        Transport::Tls => 5061,
        Transport::Udp | Transport::Tcp => 5060,
    }
}

/// What a SIP URI means that says nothing (RFC 3263 section 4.1).
const fn default_transport(secure_only: bool) -> Transport {
    if secure_only { Transport::Tls } else { Transport::Udp }
}

fn sip_srv_name(host: &str, transport: Transport) -> String {
    match transport {
        Transport::Tls => format!("_sips._tcp.{host}"),
        Transport::Tcp => format!("_sip._tcp.{host}"),
        Transport::Udp => format!("_sip._udp.{host}"),
    }
}

/// Transports in the order we like them.
const fn rank(transport: Transport) -> u8 {
    match transport {
        Transport::Tls => 0,
        Transport::Tcp => 1,
        Transport::Udp => 2,
    }
}

/// An address written in place of a name.
fn address_of(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// A name as the DNS has it: A-labels, lower case, no dot at its end.
fn ascii_name(name: &str) -> Option<Cow<'_, str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > 1024 {
        return None;
    }
    let is_plain =
        |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || matches!(octet, b'-' | b'.' | b'_');
    if name.bytes().all(is_plain) {
        return Some(Cow::Borrowed(name));
    }
    idna::domain_to_ascii_cow(name.as_bytes(), idna::AsciiDenyList::URL).ok()
}

/// How far a service has been located. Each question has a slot for its answer.
#[derive(Debug)]
enum Stage {
    /// Which transports a SIP domain has.
    Naptr { name: String, answer: Option<Answer> },
    /// Which hosts offer the service.
    Srv { questions: Vec<SrvQuestion>, fallback: Fallback },
    /// Where those hosts are.
    Hosts(Hosts),
}

/// What to do with a stage whose answers are all there.
#[expect(clippy::large_enum_variant, reason = "lives on the stack for one call")]
enum Step {
    /// Go on with this one.
    To(Stage),
    /// It has further questions.
    Stay,
    /// That is the result.
    Done(Result<Targets, NotLocated>),
}

#[derive(Debug)]
struct SrvQuestion {
    name: String,
    transport: Transport,
    answer: Option<Answer>,
}

/// The host to ask for when there is no SRV record.
#[derive(Clone, Debug)]
struct Fallback {
    host: String,
    port: u16,
    transport: Transport,
}

#[derive(Debug)]
struct Hosts {
    hosts: Vec<Host>,
    /// Were they named by SRV records? Then the domain exists whatever they are.
    by_srv: bool,
}

#[derive(Debug)]
struct Host {
    name: String,
    port: u16,
    transport: Transport,
    ipv6: Option<Answer>,
    ipv4: Option<Answer>,
}

impl Stage {
    fn first(wanted: &Wanted) -> Self {
        match wanted {
            Wanted::Sip { host, .. } => Self::Naptr { name: host.clone(), answer: None },
            Wanted::SipOver { host, transport } => Self::Srv {
                questions: vec![SrvQuestion::new(sip_srv_name(host, *transport), *transport)],
                fallback: Fallback { host: host.clone(), port: sip_port(*transport), transport: *transport },
            },
            Wanted::Xmpp { domain } => Self::Srv {
                questions: vec![
                    SrvQuestion::new(format!("_xmpps-server._tcp.{domain}"), Transport::Tls),
                    SrvQuestion::new(format!("_xmpp-server._tcp.{domain}"), Transport::Tcp),
                ],
                fallback: Fallback { host: domain.clone(), port: XMPP_PORT, transport: Transport::Tcp },
            },
            // The fallback is never taken: without a record the domain does not federate.
            Wanted::Federation { domain, .. } => Self::Srv {
                questions: vec![SrvQuestion::new(format!("_sipfederationtls._tcp.{domain}"), Transport::Tls)],
                fallback: Fallback { host: domain.clone(), port: sip_port(Transport::Tls), transport: Transport::Tls },
            },
            Wanted::Host { host, port, transport, .. } => {
                let hosts = vec![Host::new(host.clone(), *port, *transport)];
                Self::Hosts(Hosts { hosts, by_srv: false })
            }
        }
    }

    /// The questions to ask now, with the slots for their answers.
    fn open(&mut self) -> Vec<(&str, Kind, &mut Option<Answer>)> {
        match self {
            Self::Naptr { answer: Some(_), .. } => Vec::new(),
            Self::Naptr { name, answer } => vec![(name.as_str(), Kind::Naptr, answer)],
            Self::Srv { questions, .. } => (questions.iter_mut())
                .filter(|question| question.answer.is_none())
                .map(|question| (question.name.as_str(), Kind::Srv, &mut question.answer))
                .collect(),
            Self::Hosts(hosts) => (hosts.hosts.iter_mut())
                .filter(|host| !host.is_known())
                .take(HOSTS_AT_ONCE)
                .flat_map(|host| {
                    let name = host.name.as_str();
                    [(name, Kind::Aaaa, &mut host.ipv6), (name, Kind::A, &mut host.ipv4)]
                })
                .filter(|(_, _, answer)| answer.is_none())
                .collect(),
        }
    }

    /// Takes an answer if it is one that is missing.
    fn take(&mut self, name: &str, kind: Kind, answer: &Answer) -> bool {
        let mut taken = false;
        for (asked, asked_kind, slot) in self.open() {
            if asked == name && asked_kind == kind {
                *slot = Some(answer.clone());
                taken = true;
            }
        }
        taken
    }

    /// The host of each target, where its certificate may name that.
    fn hosts_of(&self, wanted: &Wanted, targets: &Targets) -> Vec<String> {
        let (Self::Hosts(hosts), Wanted::Federation { .. }) = (self, wanted) else { return Vec::new() };
        let has = |host: &Host, target: &Target| {
            host.port == target.address.port() && host.addresses().any(|a| a.to_canonical() == target.address.ip())
        };
        let host_of = |target| hosts.hosts.iter().find(|host| has(host, target)).map(|host| host.name.clone());
        targets.iter().map(|target| host_of(target).unwrap_or_default()).collect()
    }

    /// What follows when no question is open.
    fn next(&mut self, cx: &mut Cx<'_>, wanted: &Wanted, policy: &Policy<'_>) -> Step {
        match self {
            Self::Naptr { name, answer } => {
                let secure_only = matches!(wanted, Wanted::Sip { secure_only: true, .. });
                Step::To(Self::after_naptr(name, answer.as_ref(), secure_only))
            }
            Self::Srv { questions, fallback } => {
                note_srv(cx, questions, fallback);
                match wanted {
                    Wanted::Xmpp { .. } => after_xmpp_srv(cx, questions, fallback),
                    Wanted::Federation { domain, is_strict } => after_federation_srv(cx, questions, domain, *is_strict),
                    _ => after_sip_srv(cx, questions, fallback),
                }
            }
            Self::Hosts(hosts) => {
                // The rest of a long list is not looked up once there is enough.
                let enough = hosts.targets(policy).is_full();
                if !enough && hosts.hosts.iter().any(|host| !host.is_known()) {
                    return Step::Stay;
                }
                Step::Done(hosts.result(NotLocated::NoAddress, policy))
            }
        }
    }

    /// The SRV questions that NAPTR records lead to, in the order to go by; without such
    /// records those of all transports we may use.
    fn after_naptr(host: &str, answer: Option<&Answer>, secure_only: bool) -> Self {
        let fitting = |transport: Transport| !secure_only || transport == Transport::Tls;
        let mut found: Vec<(Transport, &NaptrRecord)> = match answer {
            Some(Answer::Records(Records::Naptr(records))) => (records.iter())
                .filter_map(|record| Some((naptr_transport(&record.service)?, record)))
                .filter(|(transport, _)| fitting(*transport))
                .collect(),
            _ => Vec::new(),
        };
        // TLS goes before what the domain would rather have; among the others the
        // domain's order counts.
        found.sort_by_key(|(transport, record)| (*transport != Transport::Tls, record.order, record.preference));
        let mut questions: Vec<SrvQuestion> =
            found.iter().map(|(transport, record)| SrvQuestion::new(record.replacement.clone(), *transport)).collect();
        questions.truncate(TRANSPORTS.len());
        if questions.is_empty() {
            questions = (TRANSPORTS.into_iter())
                .filter(|transport| fitting(*transport))
                .map(|transport| SrvQuestion::new(sip_srv_name(host, transport), transport))
                .collect();
        }
        let transport = default_transport(secure_only);
        Self::Srv { questions, fallback: Fallback { host: host.into(), port: sip_port(transport), transport } }
    }
}

/// All transports in the order we like them.
const TRANSPORTS: [Transport; 3] = [Transport::Tls, Transport::Tcp, Transport::Udp];

fn naptr_transport(service: &str) -> Option<Transport> {
    match service {
        "SIPS+D2T" => Some(Transport::Tls),
        "SIP+D2T" => Some(Transport::Tcp),
        "SIP+D2U" => Some(Transport::Udp),
        _ => None,
    }
}

impl SrvQuestion {
    const fn new(name: String, transport: Transport) -> Self {
        Self { name, transport, answer: None }
    }

    /// Its records, without those that say there is no service; `None` if it has none
    /// at all.
    fn offered(&self) -> Option<impl Iterator<Item = (Transport, &SrvRecord)>> {
        match &self.answer {
            Some(Answer::Records(Records::Srv(records))) => Some(
                records.iter().filter(|srv| !srv.target.is_empty() && srv.port != 0).map(|srv| (self.transport, srv)),
            ),
            _ => None,
        }
    }
}

/// The transport once chosen is kept (RFC 3263 section 4.1): the first one that is
/// offered.
fn after_sip_srv(cx: &mut Cx<'_>, questions: &[SrvQuestion], fallback: &Fallback) -> Step {
    let mut is_told = false;
    for question in questions {
        let Some(offered) = question.offered() else { continue };
        is_told = true;
        let records: Vec<_> = offered.collect();
        if !records.is_empty() {
            return Step::To(Stage::hosts(cx, records));
        }
    }
    after_no_srv(is_told, fallback)
}

fn after_xmpp_srv(cx: &mut Cx<'_>, questions: &[SrvQuestion], fallback: &Fallback) -> Step {
    let records: Vec<_> = questions.iter().filter_map(SrvQuestion::offered).flatten().collect();
    if !records.is_empty() {
        return Step::To(Stage::hosts(cx, records));
    }
    // What is said of direct TLS says nothing of the other.
    let is_told = questions.iter().any(|question| question.transport == Transport::Tcp && question.offered().is_some());
    after_no_srv(is_told, fallback)
}

/// A server that the record names has to be in the domain it serves, or anybody who can
/// forge an answer of the DNS, or was once given the domain's record, could be its Edge.
fn after_federation_srv(cx: &mut Cx<'_>, questions: &[SrvQuestion], domain: &str, is_strict: bool) -> Step {
    let mut records: Vec<_> = questions.iter().filter_map(SrvQuestion::offered).flatten().collect();
    if records.is_empty() {
        let failed = questions.iter().any(|question| question.answer == Some(Answer::Failed));
        return Step::Done(Err(if failed { NotLocated::NoAnswer } else { NotLocated::NoSuchDomain }));
    }
    for (_, srv) in records.iter().filter(|(_, srv)| !is_within(&srv.target, domain)) {
        let what = if is_strict { "refused" } else { "used all the same" };
        cx.refuse(
            Counter::SrvForeignTarget,
            "dns.srv.foreign-target",
            format_args!(
                "side=sip id=1009 domain={} host={} what=\"{what}\" do=\"let the record name a host of the domain, or set next-hop\"",
                Escaped(domain),
                Escaped(&srv.target)
            ),
        );
    }
    if is_strict {
        records.retain(|(_, srv)| is_within(&srv.target, domain));
    }
    if records.is_empty() { Step::Done(Err(NotLocated::ForeignTarget)) } else { Step::To(Stage::hosts(cx, records)) }
}

/// Is the host the domain, or below it? Both as the DNS has them.
fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Tells whoever asks what the SRV records say.
fn note_srv(cx: &mut Cx<'_>, questions: &[SrvQuestion], fallback: &Fallback) {
    let host = fallback.host.as_str();
    if !cx.out.trail.is_watching() {
        return;
    }
    let mut found = 0;
    for question in questions {
        for (_, record) in question.offered().into_iter().flatten() {
            found += 1;
            let SrvRecord { priority, weight, port, target, .. } = record;
            let text = format_args!("{} SRV {priority} {weight} {port} {target}", question.name);
            cx.out.trail.noted(&[host], Trail::Dns, text);
        }
    }
    if found == 0 && questions.iter().any(|question| question.offered().is_some()) {
        let text = format_args!("the SRV records of {host} say that the service is not offered");
        cx.out.trail.noted(&[host], Trail::Dns, text);
    } else if found == 0 {
        let asked: Vec<&str> = questions.iter().map(|question| question.name.as_str()).collect();
        let text = format_args!("no SRV record {}: port {} of the domain itself", asked.join(", "), fallback.port);
        cx.out.trail.noted(&[host], Trail::Dns, text);
    }
}

/// `is_told`: there are SRV records, and they say that the service is not offered.
fn after_no_srv(is_told: bool, fallback: &Fallback) -> Step {
    if is_told {
        return Step::Done(Err(NotLocated::NoSuchDomain));
    }
    let Fallback { host, port, transport } = fallback.clone();
    Step::To(Stage::Hosts(Hosts { hosts: vec![Host::new(host, port, transport)], by_srv: false }))
}

impl Stage {
    fn hosts(cx: &mut Cx<'_>, mut records: Vec<(Transport, &SrvRecord)>) -> Self {
        order(cx.rng, &mut records);
        let mut hosts: Vec<Host> = Vec::new();
        for (transport, srv) in records {
            // Nobody serves SIP or XMPP there; somebody may want us to knock.
            if srv.port < 1024 && srv.port != 443 {
                cx.info("dns.srv.port", format_args!("side=dns host={} port={}", Escaped(&srv.target), srv.port));
            }
            let same = |host: &Host| host.name == srv.target && host.port == srv.port && host.transport == transport;
            if hosts.len() < HOSTS_MAX && !hosts.iter().any(same) {
                hosts.push(Host::new(srv.target.clone(), srv.port, transport));
            }
        }
        Self::Hosts(Hosts { hosts, by_srv: true })
    }
}

/// Puts SRV records into the order to try them: by priority, the safer transport
/// first, then by lot, in which a record wins as often as its weight (RFC 2782).
fn order(rng: &mut Rng, records: &mut [(Transport, &SrvRecord)]) {
    records.sort_by_key(|(transport, srv)| (srv.priority, rank(*transport)));
    let mut rest = records;
    while let Some((first, _)) = rest.split_first() {
        let group = |record: &(Transport, &SrvRecord)| (record.1.priority, record.0);
        let of = group(first);
        let end = rest.iter().position(|record| group(record) != of).unwrap_or(rest.len());
        let (equals, others) = rest.split_at_mut(end);
        draw(rng, equals);
        rest = others;
    }
}

fn draw(rng: &mut Rng, equals: &mut [(Transport, &SrvRecord)]) {
    // Those without weight first, so that they win only when the lot is 0.
    equals.sort_by_key(|(_, srv)| srv.weight != 0);
    let mut rest = equals;
    while rest.len() > 1 {
        let sum: u64 = rest.iter().map(|(_, srv)| u64::from(srv.weight)).sum();
        let lot = rng.below(sum + 1);
        let mut running = 0;
        let winner = rest.iter().position(|(_, srv)| {
            running += u64::from(srv.weight);
            running >= lot
        });
        // The others keep their order.
        rest[..=winner.unwrap_or(0)].rotate_right(1);
        rest = &mut rest[1..];
    }
}

impl Host {
    const fn new(name: String, port: u16, transport: Transport) -> Self {
        Self { name, port, transport, ipv6: None, ipv4: None }
    }

    const fn is_known(&self) -> bool {
        self.ipv6.is_some() && self.ipv4.is_some()
    }

    /// Its addresses, of both families in turn.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let of = |answer: &Option<Answer>| match answer {
            Some(Answer::Records(Records::Addresses(addresses))) => addresses.clone(),
            _ => Vec::new(),
        };
        let (ipv6, ipv4) = (of(&self.ipv6), of(&self.ipv4));
        (0..DNS_TARGETS_MAX).flat_map(move |at| [ipv6.get(at).copied(), ipv4.get(at).copied()]).flatten()
    }
}

impl Hosts {
    /// What is known of them so far, in order.
    fn targets(&self, policy: &Policy<'_>) -> Targets {
        let mut targets = Targets::new();
        for host in &self.hosts {
            for address in host.addresses() {
                let target =
                    Target { transport: host.transport, address: SocketAddr::new(address.to_canonical(), host.port) };
                if policy.allows(target) && !targets.contains(&target) && targets.push(target).is_err() {
                    return targets;
                }
            }
        }
        targets
    }

    /// The result; `otherwise` when some hosts have no usable address and nothing worse
    /// is known.
    fn result(&self, otherwise: NotLocated, policy: &Policy<'_>) -> Result<Targets, NotLocated> {
        let targets = self.targets(policy);
        if !targets.is_empty() {
            return Ok(targets);
        }
        let mut answers = self.hosts.iter().flat_map(|host| [&host.ipv6, &host.ipv4]);
        let is = |wanted: Answer| move |answer: &Option<Answer>| *answer == Some(wanted.clone());
        if answers.clone().any(is(Answer::Failed)) {
            return Err(NotLocated::NoAnswer);
        }
        if !self.by_srv && answers.all(is(Answer::NoSuchName)) {
            return Err(NotLocated::NoSuchDomain);
        }
        Err(otherwise)
    }
}

/// Which addresses may be handed out.
#[derive(Debug)]
struct Policy<'a> {
    /// Our own, which a domain that others named must not lead to.
    listeners: &'a [Listener],
    found_by_others: bool,
}

impl<'a> Policy<'a> {
    const fn new(listeners: &'a [Listener], wanted: &Wanted) -> Self {
        let found_by_others = !matches!(wanted, Wanted::Host { found_by_others: false, .. });
        Self { listeners, found_by_others }
    }

    fn allows(&self, target: Target) -> bool {
        let ip = target.address.ip();
        is_usable(ip)
            && target.address.port() != 0
            && !(self.found_by_others && (is_link_local(ip) || self.is_our_own(target) || self.is_private_to_us(ip)))
    }

    /// Does one of our own listeners answer there?
    fn is_our_own(&self, target: Target) -> bool {
        let ip = target.address.ip();
        self.listeners.iter().any(|listener| {
            let ours = listener.address.ip().to_canonical();
            let same_kind = (listener.kind == ListenerKind::SipUdp) == (target.transport == Transport::Udp);
            same_kind
                && listener.address.port() == target.address.port()
                && (ours == ip || (ours.is_unspecified() && ip.is_loopback()))
        })
    }

    /// Is it on our loopback, where we let nobody in?
    fn is_private_to_us(&self, ip: IpAddr) -> bool {
        let on_loopback = |listener: &Listener| {
            let ours = listener.address.ip().to_canonical();
            ours.is_loopback() || ours.is_unspecified()
        };
        ip.is_loopback() && !self.listeners.is_empty() && !self.listeners.iter().any(on_loopback)
    }
}

/// Could a server be there at all?
fn is_usable(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        // 0/8 is this host, 240/4 is reserved and ends with the broadcast address.
        IpAddr::V4(v4) => !v4.is_multicast() && v4.octets()[0] != 0 && v4.octets()[0] < 240,
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unspecified(),
    }
}

/// Link-local addresses; those of clouds that tell a machine its secrets among them.
const fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::{Answer as Reply, asked};
    use super::super::resolver::tests::World;
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// A DNS server by a script: each name and type has its records.
    #[derive(Default)]
    struct Zone {
        addresses: Vec<(&'static str, &'static str)>,
        srv: Vec<(&'static str, u16, u16, u16, &'static str)>,
        naptr: Vec<(&'static str, u16, &'static str, &'static str)>,
        aliases: Vec<(&'static str, &'static str)>,
        silent: Vec<&'static str>,
        servfail: Vec<&'static str>,
        ttl: u32,
    }

    impl Zone {
        fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
            let (name, rtype) = asked(question);
            let below = |all: &[&str]| all.iter().any(|end| name == *end || name.ends_with(&format!(".{end}")));
            if below(&self.silent) {
                return None;
            }
            if below(&self.servfail) {
                return Some(Reply::to(question, 2).octets());
            }
            let known = |other: &str| other == name || other.ends_with(&format!(".{name}"));
            let exists = self.addresses.iter().any(|a| known(a.0))
                || self.srv.iter().any(|s| known(s.0))
                || self.naptr.iter().any(|n| known(n.0))
                || self.aliases.iter().any(|a| known(a.0));
            let mut reply = Reply::to(question, if exists { 0 } else { 3 });
            if let Some((_, target)) = self.aliases.iter().find(|(alias, _)| *alias == name) {
                return Some(reply.cname(&name, self.ttl, target).octets());
            }
            for (host, address) in self.addresses.iter().filter(|(host, _)| *host == name) {
                match (rtype, address.parse().expect("an address")) {
                    (1, IpAddr::V4(_)) => reply = reply.a(host, self.ttl, address),
                    (28, IpAddr::V6(v6)) => reply = reply.record(host, 28, self.ttl, &v6.octets()),
                    _ => {}
                }
            }
            if rtype == 33 {
                for (owner, priority, weight, port, target) in self.srv.iter().filter(|srv| srv.0 == name) {
                    reply = reply.srv(owner, self.ttl, *priority, *weight, *port, target);
                }
            }
            if rtype == 35 {
                for (owner, order, service, target) in self.naptr.iter().filter(|naptr| naptr.0 == name) {
                    reply = reply.naptr(owner, *order, service, target);
                }
            }
            Some(reply.octets())
        }
    }

    struct Test {
        world: World,
        locator: Locator,
        zone: Zone,
        asked: Vec<String>,
    }

    impl Test {
        fn new(zone: Zone) -> Self {
            Self::with(zone, &[])
        }

        fn with(zone: Zone, listeners: &[(ListenerKind, &str)]) -> Self {
            let listeners = listeners
                .iter()
                .map(|(kind, address)| Listener {
                    name: "l".into(),
                    kind: *kind,
                    address: address.parse().expect("an address"),
                })
                .collect();
            let dns_servers = vec!["192.0.2.53:53".parse().expect("an address")];
            let settings = Settings { dns_servers, listeners, ..Settings::default() };
            Self { world: World::new(), locator: Locator::new(&settings), zone, asked: Vec::new() }
        }

        /// Lets the server answer what was asked, until nothing is asked any more.
        fn settle(&mut self) {
            loop {
                let (_, sent) = self.world.taken();
                if sent.is_empty() {
                    return;
                }
                for sent in sent {
                    self.asked.push(asked(&sent.octets).0);
                    if let Some(mut reply) = self.zone.answer(&sent.octets) {
                        let used = self.locator.receive(&mut self.world.cx(), sent.link, &mut reply);
                        assert_eq!(used, reply.len());
                    }
                }
            }
        }

        fn result(&mut self, service: Service<'_>) -> Result<Vec<String>, NotLocated> {
            let start = self.world.now;
            let located = self.locator.locate(&mut self.world.cx(), service, 7).unwrap_or_else(|| {
                loop {
                    self.settle();
                    if let Some(located) = self.locator.poll() {
                        return located;
                    }
                    self.world.now = self.locator.deadline().expect("something to wait for");
                    assert!(self.world.now.since(start) <= LOCATE_TIME_MAX);
                    self.locator.timeout(&mut self.world.cx());
                }
            });
            assert_eq!(located.token, 7);
            assert!(self.locator.locates.is_empty() && self.locator.waiters == 0);
            located.result.map(|targets| targets.iter().map(|t| format!("{} {}", t.transport, t.address)).collect())
        }

        fn xmpp(&mut self, domain: &str) -> Result<Vec<String>, NotLocated> {
            self.result(Service::XmppServer { domain })
        }

        fn sip(&mut self, host: &str, secure_only: bool) -> Result<Vec<String>, NotLocated> {
            self.result(Service::Sip { host, port: None, transport: None, secure_only })
        }
    }

    fn zone() -> Zone {
        Zone {
            addresses: vec![
                ("host.example", "192.0.2.1"),
                ("host.example", "2001:db8::1"),
                ("two.example", "192.0.2.2"),
                ("bare.example", "192.0.2.3"),
                ("xn--bcher-kva.example", "192.0.2.4"),
                ("six.example", "2001:db8::6"),
                ("odd.example", "224.0.0.1"),
                ("odd.example", "0.0.0.0"),
                ("odd.example", "255.255.255.255"),
                ("odd.example", "ff02::1"),
                ("odd.example", "::"),
            ],
            srv: vec![
                ("_xmpp-server._tcp.chat.example", 0, 0, 5269, "host.example"),
                ("_xmpp-server._tcp.none.example", 0, 0, 0, ""),
                ("_sips._tcp.sip.example", 0, 0, 5061, "host.example"),
                ("_sip._tcp.sip.example", 0, 0, 5060, "host.example"),
                ("_sip._udp.sip.example", 0, 0, 5060, "two.example"),
            ],
            ttl: 60,
            ..Zone::default()
        }
    }

    #[test]
    fn a_federation_is_found_by_its_own_record_and_by_nothing_else() {
        let mut t = Test::new(zone());
        t.zone.addresses.extend([("sip.office.example", "192.0.2.7"), ("spare.office.example", "192.0.2.8")]);
        t.zone.srv.extend([
            ("_sipfederationtls._tcp.office.example", 20, 0, 5061, "spare.office.example"),
            ("_sipfederationtls._tcp.office.example", 10, 0, 5063, "sip.office.example"),
        ]);
        let office = Service::Federation { domain: "Office.example", is_strict: true };
        assert_eq!(t.result(office), Ok(vec!["TLS 192.0.2.7:5063".into(), "TLS 192.0.2.8:5061".into()]));
        assert_eq!(t.asked[0], "_sipfederationtls._tcp.office.example");
        // What it was asked for, its certificate may name.
        let located = t.locator.locate(&mut t.world.cx(), office, 8).expect("known by now");
        assert_eq!(located.hosts, ["sip.office.example", "spare.office.example"]);
        // Another service of the domain is none of this.
        assert_eq!(
            t.result(Service::Federation { domain: "sip.example", is_strict: true }),
            Err(NotLocated::NoSuchDomain)
        );
        t.zone.servfail.push("dark.example");
        let dark = Service::Federation { domain: "dark.example", is_strict: true };
        assert_eq!(t.result(dark), Err(NotLocated::NoAnswer));
    }

    #[test]
    fn a_federation_server_outside_the_domain_is_refused_or_told_of() {
        let mut t = Test::new(zone());
        t.zone.srv.push(("_sipfederationtls._tcp.office.example", 10, 0, 5061, "two.example"));
        let office = |is_strict| Service::Federation { domain: "office.example", is_strict };
        assert_eq!(t.result(office(true)), Err(NotLocated::ForeignTarget));
        assert_eq!(t.result(office(false)), Ok(vec!["TLS 192.0.2.2:5061".into()]));
        // A name that only ends alike is outside.
        t.zone.addresses.push(("myoffice.example", "192.0.2.9"));
        t.zone.srv.push(("_sipfederationtls._tcp.office.example", 5, 0, 5061, "myoffice.example"));
        assert!(!is_within("myoffice.example", "office.example") && is_within("office.example", "office.example"));
        // One inside the domain is used, and those outside are left out.
        let mut t = Test::new(zone());
        t.zone.addresses.push(("sip.mixed.example", "192.0.2.7"));
        t.zone.srv.push(("_sipfederationtls._tcp.mixed.example", 10, 0, 5061, "two.example"));
        t.zone.srv.push(("_sipfederationtls._tcp.mixed.example", 20, 0, 5061, "sip.mixed.example"));
        let mixed = Service::Federation { domain: "mixed.example", is_strict: true };
        assert_eq!(t.result(mixed), Ok(vec!["TLS 192.0.2.7:5061".into()]));
    }

    #[test]
    fn an_xmpp_domain_with_srv_records_is_found() {
        let mut t = Test::new(zone());
        assert_eq!(t.xmpp("chat.example"), Ok(vec!["TCP [2001:db8::1]:5269".into(), "TCP 192.0.2.1:5269".into()]));
        // All of it was kept.
        t.asked.clear();
        assert!(t.xmpp("CHAT.example.").is_ok());
        assert_eq!(t.asked, [""; 0]);
    }

    #[test]
    fn an_xmpp_domain_without_srv_records_is_asked_for_itself() {
        let mut t = Test::new(zone());
        assert_eq!(t.xmpp("bare.example"), Ok(vec!["TCP 192.0.2.3:5269".into()]));
        assert_eq!(t.xmpp("bücher.example"), Ok(vec!["TCP 192.0.2.4:5269".into()]));
        assert_eq!(t.xmpp("six.example"), Ok(vec!["TCP [2001:db8::6]:5269".into()]));
    }

    #[test]
    fn a_target_of_a_dot_says_not_offered() {
        let mut t = Test::new(zone());
        t.zone.addresses.push(("none.example", "192.0.2.9"));
        assert_eq!(t.xmpp("none.example"), Err(NotLocated::NoSuchDomain));
        assert!(!t.asked.contains(&"none.example".to_string()));
        // Direct TLS not offered says nothing of STARTTLS.
        t.zone.srv.push(("_xmpps-server._tcp.bare.example", 0, 0, 0, ""));
        assert_eq!(t.xmpp("bare.example"), Ok(vec!["TCP 192.0.2.3:5269".into()]));
        // And the other way round.
        t.zone.srv.push(("_xmpps-server._tcp.half.example", 0, 0, 5270, "two.example"));
        t.zone.srv.push(("_xmpp-server._tcp.half.example", 0, 0, 0, ""));
        assert_eq!(t.xmpp("half.example"), Ok(vec!["TLS 192.0.2.2:5270".into()]));
    }

    #[test]
    fn direct_tls_and_starttls_are_mixed_by_priority() {
        let mut t = Test::new(zone());
        t.zone.srv.extend([
            ("_xmpps-server._tcp.mix.example", 5, 0, 443, "two.example"),
            ("_xmpp-server._tcp.mix.example", 5, 100, 5269, "two.example"),
            ("_xmpp-server._tcp.mix.example", 1, 0, 5269, "bare.example"),
            ("_xmpps-server._tcp.mix.example", 9, 0, 5270, "bare.example"),
        ]);
        let expected = ["TCP 192.0.2.3:5269", "TLS 192.0.2.2:443", "TCP 192.0.2.2:5269", "TLS 192.0.2.3:5270"];
        assert_eq!(t.xmpp("mix.example"), Ok(expected.map(String::from).to_vec()));
    }

    #[test]
    fn the_reasons_for_finding_nothing_are_told_apart() {
        let mut t = Test::new(zone());
        t.zone.servfail.push("broken.example");
        t.zone.silent.push("black.example");
        t.zone.srv.push(("_xmpp-server._tcp.lost.example", 0, 0, 5269, "nowhere.example"));
        assert_eq!(t.xmpp("nowhere.example"), Err(NotLocated::NoSuchDomain));
        assert_eq!(t.xmpp("broken.example"), Err(NotLocated::NoAnswer));
        assert_eq!(t.xmpp("black.example"), Err(NotLocated::NoAnswer));
        assert_eq!(t.xmpp("lost.example"), Err(NotLocated::NoAddress));
        assert_eq!(t.xmpp("odd.example"), Err(NotLocated::NoAddress));
        assert_eq!(t.xmpp("a b.example"), Err(NotLocated::NoSuchDomain));
        assert_eq!(t.xmpp(""), Err(NotLocated::NoSuchDomain));
        assert_eq!(t.xmpp(&"a".repeat(64)), Err(NotLocated::NoSuchDomain));
        assert_eq!(t.sip("nowhere.example", true), Err(NotLocated::NoSuchDomain));
        assert_eq!(t.sip("black.example", false), Err(NotLocated::NoAnswer));
    }

    #[test]
    fn one_silent_host_does_not_hide_the_others() {
        let mut t = Test::new(zone());
        t.zone.silent.push("black.example");
        t.zone.srv.extend([
            ("_xmpp-server._tcp.part.example", 0, 0, 5269, "a.black.example"),
            ("_xmpp-server._tcp.part.example", 1, 0, 5269, "two.example"),
        ]);
        assert_eq!(t.xmpp("part.example"), Ok(vec!["TCP 192.0.2.2:5269".into()]));
    }

    #[test]
    fn a_sip_domain_is_reached_over_tls_if_only_that_will_do() {
        let mut t = Test::new(zone());
        let tls = Ok(vec!["TLS [2001:db8::1]:5061".into(), "TLS 192.0.2.1:5061".into()]);
        assert_eq!(t.sip("sip.example", true), tls);
        assert_eq!(t.sip("sip.example", false), tls, "TLS is preferred anyway");
        assert_eq!(t.sip("bare.example", true), Ok(vec!["TLS 192.0.2.3:5061".into()]));
        assert_eq!(t.sip("bare.example", false), Ok(vec!["UDP 192.0.2.3:5060".into()]));
    }

    #[test]
    fn naptr_records_choose_the_transport() {
        let mut t = Test::new(zone());
        t.zone.naptr.extend([
            ("n.example", 10, "SIP+D2U", "_sip._udp.sip.example"),
            ("n.example", 20, "SIP+D2T", "_sip._tcp.sip.example"),
            ("n.example", 5, "E2U+sip", "_sips._tcp.sip.example"),
            ("m.example", 10, "SIP+D2U", "_sip._udp.sip.example"),
            ("m.example", 90, "SIPS+D2T", "_sips._tcp.sip.example"),
        ]);
        assert_eq!(t.sip("n.example", false), Ok(vec!["UDP 192.0.2.2:5060".into()]));
        assert_eq!(t.sip("n.example", true), Err(NotLocated::NoAddress), "no TLS, and no address of its own");
        assert_eq!(t.sip("m.example", false).expect("TLS first")[0], "TLS [2001:db8::1]:5061");
    }

    #[test]
    fn a_transport_or_a_port_in_the_uri_shortens_the_way() {
        let mut t = Test::new(zone());
        let sip = |host, port, transport, secure_only| Service::Sip { host, port, transport, secure_only };
        assert_eq!(
            t.result(sip("sip.example", None, Some(Transport::Udp), false)),
            Ok(vec!["UDP 192.0.2.2:5060".into()])
        );
        assert!(!t.asked.iter().any(|name| name == "sip.example"));
        assert_eq!(
            t.result(sip("bare.example", Some(5099), None, true)),
            Ok(vec!["TLS 192.0.2.3:5099".into()]),
            "with a port no SRV is asked for"
        );
        assert_eq!(
            t.result(sip("bare.example", None, Some(Transport::Tcp), false)),
            Ok(vec!["TCP 192.0.2.3:5060".into()])
        );
        assert_eq!(t.result(sip("bare.example", None, Some(Transport::Udp), true)), Err(NotLocated::NoAddress));
        assert_eq!(
            t.result(sip("bare.example", None, Some(Transport::Tcp), true)),
            Ok(vec!["TLS 192.0.2.3:5061".into()])
        );
    }

    #[test]
    fn an_address_needs_no_question() {
        let mut t = Test::new(zone());
        let cases = [
            (Service::Host { host: "192.0.2.7", port: 5070, transport: Transport::Tcp }, "TCP 192.0.2.7:5070"),
            (Service::Host { host: "::1", port: 5070, transport: Transport::Tls }, "TLS [::1]:5070"),
            (Service::XmppServer { domain: "192.0.2.7" }, "TCP 192.0.2.7:5269"),
            (
                Service::Sip { host: "[2001:db8::7]", port: None, transport: None, secure_only: true },
                "TLS [2001:db8::7]:5061",
            ),
            (Service::Sip { host: "192.0.2.7", port: None, transport: None, secure_only: false }, "UDP 192.0.2.7:5060"),
            (
                Service::Sip { host: "192.0.2.7", port: Some(9), transport: Some(Transport::Tcp), secure_only: false },
                "TCP 192.0.2.7:9",
            ),
        ];
        for (service, expected) in cases {
            assert_eq!(t.result(service), Ok(vec![expected.into()]));
        }
        for host in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "::ffff:0.0.0.0"] {
            let service = Service::Host { host, port: 1, transport: Transport::Tcp };
            assert_eq!(t.result(service), Err(NotLocated::NoAddress), "{host}");
        }
        assert!(t.asked.is_empty());
    }

    #[test]
    fn weights_decide_by_lot_and_records_without_weight_may_still_win() {
        let srv = |weight, port| SrvRecord { priority: 1, weight, port, target: "h.example".into() };
        let (heavy, light, none) = (srv(70, 1), srv(30, 2), srv(0, 3));
        let mut rng = Rng::from_number(2);
        let mut first: BTreeMap<u16, u32> = BTreeMap::new();
        for _ in 0..10_000 {
            let mut records = [&none, &heavy, &light].map(|record| (Transport::Tcp, record));
            order(&mut rng, &mut records);
            assert_eq!(records.iter().map(|(_, srv)| srv.port).collect::<BTreeSet<_>>().len(), 3);
            *first.entry(records[0].1.port).or_default() += 1;
        }
        assert!((6500..7400).contains(&first[&1]), "{first:?}");
        assert!((2600..3400).contains(&first[&2]), "{first:?}");
        assert!((20..250).contains(&first[&3]), "{first:?}");
        // All of them without weight.
        let (a, b) = (srv(0, 1), srv(0, 2));
        order(&mut rng, &mut [&a, &b].map(|record| (Transport::Tcp, record)));
    }

    #[test]
    fn many_hosts_and_addresses_are_bounded() {
        let mut t = Test::new(zone());
        let names: Vec<&'static str> = (0..200).map(|n| &*format!("h{n}.example").leak()).collect();
        for (n, name) in names.iter().enumerate() {
            t.zone.srv.push(("_xmpp-server._tcp.many.example", 1, n as u16, 5269, name));
            t.zone.addresses.push((name, format!("198.51.100.{n}").leak()));
        }
        let found = t.xmpp("many.example").expect("some");
        assert_eq!(found.len(), HOSTS_MAX);
        assert!(t.asked.len() <= 2 + 2 * HOSTS_MAX);
        for n in 0..100 {
            t.zone.addresses.push(("wide.example", format!("203.0.113.{n}").leak()));
        }
        assert_eq!(t.xmpp("wide.example").expect("some").len(), DNS_TARGETS_MAX);
    }

    #[test]
    fn aliases_lead_on_and_circles_do_not() {
        let mut t = Test::new(zone());
        t.zone.aliases.extend([
            ("alias.example", "bare.example"),
            ("c1.example", "c2.example"),
            ("c2.example", "c1.example"),
        ]);
        assert_eq!(t.xmpp("alias.example"), Ok(vec!["TCP 192.0.2.3:5269".into()]));
        assert_eq!(t.xmpp("c1.example"), Err(NotLocated::NoAnswer));
    }

    #[test]
    fn answers_that_may_not_be_kept_are_used_once() {
        let mut t = Test::new(zone());
        t.zone.ttl = 0;
        assert!(t.xmpp("chat.example").is_ok());
        let asked = t.asked.len();
        assert_eq!(asked, 4);
        assert!(t.xmpp("chat.example").is_ok());
        // What is not there may be kept, what is there may not.
        assert!(t.asked.len() > asked);
    }

    #[test]
    fn a_name_of_others_leads_neither_to_ourselves_nor_to_closed_doors() {
        let mut zone = zone();
        zone.addresses.extend([
            ("us.example", "192.0.2.10"),
            ("loop.example", "127.0.0.1"),
            ("meta.example", "169.254.169.254"),
            ("meta.example", "fe80::1"),
        ]);
        let mut t = Test::with(zone, &[(ListenerKind::XmppStartTls, "192.0.2.10:5269")]);
        for domain in ["us.example", "loop.example", "meta.example"] {
            assert_eq!(t.xmpp(domain), Err(NotLocated::NoAddress), "{domain}");
        }
        let elsewhere = Service::Sip { host: "us.example", port: Some(5080), transport: None, secure_only: true };
        assert_eq!(t.result(elsewhere), Ok(vec!["TLS 192.0.2.10:5080".into()]));
        // What the operator named is his to know.
        let named = Service::Host { host: "loop.example", port: 5060, transport: Transport::Tcp };
        assert_eq!(t.result(named), Ok(vec!["TCP 127.0.0.1:5060".into()]));
        // Who listens on the loopback means it.
        let zone = Zone { addresses: vec![("loop.example", "127.0.0.1")], ..Zone::default() };
        let mut t = Test::with(zone, &[(ListenerKind::XmppStartTls, "127.0.0.9:5269")]);
        assert_eq!(t.xmpp("loop.example"), Ok(vec!["TCP 127.0.0.1:5269".into()]));
    }

    #[test]
    fn askers_for_the_same_service_share_one_search() {
        let mut t = Test::new(zone());
        let service = Service::XmppServer { domain: "chat.example" };
        for token in 0..50 {
            assert_eq!(t.locator.locate(&mut t.world.cx(), service, token), None);
        }
        t.settle();
        assert_eq!(t.asked.len(), 4);
        let tokens: Vec<u64> = core::iter::from_fn(|| t.locator.poll()).map(|located| located.token).collect();
        assert!(tokens.iter().copied().eq(0..50));
    }

    #[test]
    fn silent_domains_do_not_stop_the_others() {
        let mut t = Test::new(zone());
        t.zone.silent.push("black.example");
        for n in 0..DNS_LOCATES_MAX as u64 - 1 {
            let domain = format!("d{n}.black.example");
            assert_eq!(t.locator.locate(&mut t.world.cx(), Service::XmppServer { domain: &domain }, 1000 + n), None);
        }
        t.world.now = t.world.now.after(Duration::from_millis(1));
        assert_eq!(t.locator.locate(&mut t.world.cx(), Service::XmppServer { domain: "chat.example" }, 1), None);
        let overload = t.locator.locate(&mut t.world.cx(), Service::XmppServer { domain: "x.example" }, 2);
        assert_eq!(overload, Some(Located { token: 2, result: Err(NotLocated::NoAnswer), hosts: Vec::new() }));
        let mut told = BTreeMap::new();
        let start = t.world.now;
        while let Some(deadline) = t.locator.deadline() {
            t.settle();
            while let Some(located) = t.locator.poll() {
                let after = t.world.now.since(start);
                assert!(after <= LOCATE_TIME_MAX);
                told.insert(located.token, (located.result.is_ok(), after));
            }
            t.world.now = t.world.now.max(deadline);
            t.locator.timeout(&mut t.world.cx());
        }
        assert_eq!(told.len(), DNS_LOCATES_MAX);
        let (found, after) = told[&1];
        assert!(found && after < Duration::from_secs(2), "{after:?}");
        assert!(t.locator.locates.is_empty() && t.locator.waiters == 0);
    }
}
