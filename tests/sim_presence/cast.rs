//! The gateway between an XMPP server and the phones behind a SIP proxy: carries what the
//! machines say over the links of the world, lets people do what the story tells them,
//! and keeps the conversation for whoever has to find out what went wrong.

use crate::net::Weather;
use crate::peers::{self, Dns, Do, Element, Record, Role, SipMessage, SipReader, Stream};
use crate::phones::{self, Out, Phones};
use crate::server::{self, Server};
use crate::story::{Act, SIP_DOMAIN, SIP_USERS, Story, XMPP_DOMAIN, XMPP_USERS};
use crate::verdict::Problem;
use crate::world::{Arrived, World};
use latimer::base::certificate::PeerCertificate;
use latimer::base::net::{CloseReason, LinkId, ListenerId, Transport};
use latimer::gateway::Gateway;
use latimer::settings::NextHopTransport;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const SIP_TLS: ListenerId = ListenerId(0);
const SIP_TCP: ListenerId = ListenerId(1);
const SIP_UDP: ListenerId = ListenerId(2);
const XMPP: ListenerId = ListenerId(3);

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 21));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 31));
const DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));

/// How long an XMPP server keeps a stream that may be resumed.
const RESUME_MS: u64 = 300_000;
/// How long what was allowed before may still be on its way.
pub const UNDER_WAY_MS: u64 = 300_000;
/// How many lines of the conversation are kept.
const LOG_MAX: usize = 40_000;

enum Plan {
    Act(Act),
    /// The phones have something to do.
    Phones,
    /// The XMPP server tries to open its stream again.
    Stream,
    Listening,
    /// Everybody who is online comes again: client by client.
    Return(String, String, String),
}

struct SipLink {
    transport: Transport,
    up: bool,
    reader: SipReader,
    waiting: Vec<u8>,
}

pub struct Cast {
    pub world: World,
    pub story: Story,
    pub server: Server,
    pub phones: Phones,
    pub faults: Vec<String>,
    /// Who was shown what he may not see, each pair once.
    pub leaks: Vec<Problem>,
    /// Time and what was said.
    pub log: VecDeque<(u64, String)>,
    /// Presence stanzas and SIP messages of the gateway's.
    pub traffic: u64,
    pub kills: u64,
    dns: Dns,
    listening: bool,
    plans: BTreeMap<u64, Plan>,
    next_plan: u64,
    next_port: u16,
    phones_wake: Option<u64>,
    dns_links: Vec<LinkId>,
    sip_links: BTreeMap<LinkId, SipLink>,
    streams: BTreeMap<LinkId, Stream>,
    own: Option<LinkId>,
    posts: VecDeque<String>,
    unacknowledged: VecDeque<String>,
    acknowledged: u32,
    broken: Option<(String, u32, u64)>,
    parked: BTreeMap<String, (u32, u64)>,
}

impl Cast {
    pub fn new(seed: u64, story: Story) -> Self {
        let mut world = World::new(Gateway::new(story.settings(), b"a secret of the tests"), seed);
        world.weather = story.weather.clone();
        let mut dns = Dns::default();
        dns.add("proxy.voip.example", Record::A([192, 0, 2, 21]));
        dns.add("xmpp.chat.example", Record::A([192, 0, 2, 31]));
        dns.add("_xmpp-server._tcp.chat.example", Record::Srv(1, 1, 5269, "xmpp.chat.example".into()));
        let mut server = Server::new(XMPP_DOMAIN, SIP_DOMAIN, XMPP_USERS);
        server.trusts_domain = story.trusts_domain;
        let via = match story.transport {
            NextHopTransport::Tls => "TLS",
            NextHopTransport::Tcp => "TCP",
            NextHopTransport::Udp => "UDP",
        };
        let mut phones = Phones::new(SIP_DOMAIN, XMPP_DOMAIN, via, story.habits, SIP_USERS);
        phones.in_order = story.calm;
        let mut cast = Self {
            world,
            server,
            phones,
            faults: Vec::new(),
            leaks: Vec::new(),
            log: VecDeque::new(),
            traffic: 0,
            kills: 0,
            dns,
            listening: true,
            plans: BTreeMap::new(),
            next_plan: 0,
            next_port: 20_000,
            phones_wake: None,
            dns_links: Vec::new(),
            sip_links: BTreeMap::new(),
            streams: BTreeMap::new(),
            own: None,
            posts: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            acknowledged: 0,
            broken: None,
            parked: BTreeMap::new(),
            story,
        };
        for (at, act) in cast.story.acts.clone() {
            cast.plan(at, Plan::Act(act));
        }
        cast
    }

    fn plan(&mut self, at: u64, plan: Plan) {
        self.next_plan += 1;
        self.plans.insert(self.next_plan, plan);
        self.world.wake(at, self.next_plan);
    }

    /// Lets the world run up to that time.
    pub fn run(&mut self, until: u64) {
        while let Some(arrived) = self.world.next(until) {
            self.on(arrived);
            self.flush();
        }
    }

    /// Somebody does something now.
    pub fn act(&mut self, act: &Act) {
        self.say(format!("  ** {act:?}"));
        let now = self.world.now;
        match act {
            Act::Xmpp(user, deed) => self.server.act(user, deed, now),
            Act::Sip(user, deed) => self.phones.act(user, deed, now),
            Act::Kill => {
                self.kills += 1;
                let gateway = Gateway::new(self.story.settings(), b"a secret of the tests");
                self.world.restart(gateway);
                // Nobody remembers the streams of the one that died.
                self.parked.clear();
            }
            Act::ServerCrash => {
                self.server.crash();
                self.reset(|link, cast| cast.streams.contains_key(link));
                // With the rosters it keeps what they are to be told of: nothing could repair
                // the loss of an `unsubscribe`, which no side says twice.
                let kept = self.unacknowledged.drain(..).chain(self.posts.drain(..));
                let of_rosters = kept.filter(|xml| xml.contains("subscribe")).collect();
                self.posts = of_rosters;
                self.parked.clear();
                self.broken = None;
                for link in core::mem::take(&mut self.streams).into_keys() {
                    self.world.reset(link);
                }
                self.own = None;
            }
            Act::Resets => self.reset(|_, _| true),
            Act::Deaf(lasts) => {
                self.listening = false;
                self.plan(now + lasts, Plan::Listening);
            }
        }
        self.flush();
    }

    fn reset(&mut self, which: impl Fn(&LinkId, &Self) -> bool) {
        let links: Vec<LinkId> = self.world.links.keys().copied().filter(|link| which(link, self)).collect();
        for link in links {
            self.world.reset(link);
        }
    }

    /// All that breaks is mended from now on.
    pub fn heal(&mut self) {
        let latency_ms = self.world.weather.latency_ms;
        self.world.weather = Weather { latency_ms, ..Weather::default() };
        self.listening = true;
    }

    /// Whoever is online on XMPP goes offline, and comes back a minute later.
    pub fn log_in_again(&mut self) {
        let all: Vec<(String, String, String)> = self
            .server
            .users
            .iter()
            .flat_map(|(user, u)| u.online.iter().map(|(r, (show, _))| (user.clone(), r.clone(), show.clone())))
            .collect();
        for (user, resource, show) in all {
            let name = crate::story::known(&resource);
            self.act(&Act::Xmpp(crate::story::known(&user), server::Deed::Leave(name)));
            self.plan(self.world.now + 60_000, Plan::Return(user, resource, show));
        }
    }

    /// Whoever was misunderstood asks again.
    pub fn insist(&mut self) {
        self.server.insist();
        self.flush();
    }

    fn say(&mut self, line: String) {
        if self.log.len() >= LOG_MAX {
            self.log.pop_front();
        }
        self.log.push_back((self.world.now, line));
    }

    /// What is open though nobody has used it for hours.
    pub fn idle(&self) -> Vec<String> {
        let open =
            [("DNS", self.dns_links.len(), 0), ("SIP", self.sip_links.len(), 2), ("XMPP", self.streams.len(), 2)];
        let left = open.into_iter().filter(|(_, open, most)| open > most);
        left.map(|(side, open, most)| format!("{open} {side} connections are open, {most} may be")).collect()
    }

    // ---- Out

    /// Sends what the machines want to send, and sees to it that they wake in time.
    fn flush(&mut self) {
        for out in core::mem::take(&mut self.phones.out) {
            match out {
                Out::Request(bytes) => {
                    self.say(format!("sip  -> {}", brief(&bytes)));
                    self.send_sip(&bytes);
                }
                Out::Response(back, bytes) => {
                    self.say(format!("sip  -> {}", brief(&bytes)));
                    match back {
                        Some(link) => self.world.send(link, &bytes),
                        None => self.world.datagram(SIP_UDP, SocketAddr::new(PROXY, 5060), &bytes),
                    }
                }
            }
        }
        for xml in core::mem::take(&mut self.server.out) {
            self.say(format!("xmpp -> {xml}"));
            self.posts.push_back(xml);
        }
        self.flush_posts();
        if let Some(due) = self.phones.due()
            && self.phones_wake.is_none_or(|at| due < at)
        {
            self.phones_wake = Some(due);
            self.plan(due, Plan::Phones);
        }
    }

    fn send_sip(&mut self, bytes: &[u8]) {
        let transport = match self.story.transport {
            NextHopTransport::Udp => {
                self.world.datagram(SIP_UDP, SocketAddr::new(PROXY, 5060), bytes);
                return;
            }
            NextHopTransport::Tcp => Transport::Tcp,
            NextHopTransport::Tls => Transport::Tls,
        };
        let found = self.sip_links.iter().find(|(link, l)| {
            l.transport == transport && self.world.links.get(link).is_some_and(|l| l.inbound && !l.closing)
        });
        let link = match found {
            Some((link, _)) => *link,
            None => {
                self.next_port += 1;
                let listener = if transport == Transport::Tls { SIP_TLS } else { SIP_TCP };
                let from = SocketAddr::new(PROXY, self.next_port);
                let link = self.world.dial(listener, transport, from, proxy_certificate());
                let up = transport == Transport::Tcp;
                self.sip_links
                    .insert(link, SipLink { transport, up, reader: SipReader::default(), waiting: Vec::new() });
                link
            }
        };
        match self.sip_links.get_mut(&link) {
            Some(l) if !l.up => l.waiting.extend_from_slice(bytes),
            _ => self.world.send(link, bytes),
        }
    }

    fn flush_posts(&mut self) {
        if self.posts.is_empty() && self.broken.is_none() {
            return;
        }
        let Some(link) = self.own else {
            self.open_own();
            return;
        };
        let Some(stream) = self.streams.get(&link).filter(|stream| stream.ready) else { return };
        let managed = stream.managed;
        if self.broken.is_some() {
            return;
        }
        while let Some(xml) = self.posts.pop_front() {
            let kept = if managed { "acks" } else { "no acks" };
            self.say(format!("xmpp ~> over {} ({kept}): {xml}", link.0));
            self.world.send(link, xml.as_bytes());
            if managed {
                self.unacknowledged.push_back(xml);
                self.world.send(link, b"<r xmlns='urn:xmpp:sm:3'/>");
            }
        }
    }

    fn open_own(&mut self) {
        self.next_port += 1;
        let from = SocketAddr::new(SERVER, self.next_port);
        let link = self.world.dial(XMPP, Transport::Tcp, from, server_certificate());
        let mut stream = Stream::new(Role::Initiator, XMPP_DOMAIN, SIP_DOMAIN, "", self.story.manner);
        if let Some((name, seen, since)) = &self.broken
            && self.world.now < since + RESUME_MS
        {
            stream.resume = Some((name.clone(), *seen));
        }
        self.world.send(link, stream.header().as_bytes());
        self.streams.insert(link, stream);
        self.own = Some(link);
    }

    // ---- In

    fn on(&mut self, arrived: Arrived) {
        match arrived {
            Arrived::Datagram { bytes, .. } => match SipMessage::parse(&bytes) {
                Ok(message) => self.on_sip(None, &message),
                Err(_) if bytes.iter().all(|octet| octet.is_ascii_whitespace()) => {}
                Err(problem) => self.faults.push(format!("a datagram that is no SIP: {problem}")),
            },
            Arrived::Connect { link, transport, to } => self.on_connect(link, transport, to),
            Arrived::Octets { link, bytes } => self.on_octets(link, &bytes),
            Arrived::Secured { link, .. } => self.on_secured(link),
            Arrived::Closed { link } => self.on_closed(link),
            Arrived::Wake(what) => match self.plans.remove(&what) {
                Some(Plan::Act(act)) => self.act(&act),
                Some(Plan::Phones) => {
                    self.phones_wake = None;
                    self.phones.poll(self.world.now);
                }
                Some(Plan::Stream) | None => {}
                Some(Plan::Listening) => self.listening = true,
                Some(Plan::Return(user, resource, show)) => {
                    let deed = server::Deed::Show(crate::story::known(&resource), crate::story::known(&show));
                    self.act(&Act::Xmpp(crate::story::known(&user), deed));
                }
            },
        }
    }

    fn on_sip(&mut self, back: Option<LinkId>, message: &SipMessage) {
        self.traffic += 1;
        self.say(format!("sip  <- {}", brief(&message.raw)));
        let now = self.world.now;
        self.phones.receive(back, message, now);
        if message.method() == Some("NOTIFY") {
            self.look_for_leaks();
        }
    }

    /// Is anybody shown what he may not see?
    fn look_for_leaks(&mut self) {
        let now = self.world.now;
        for ((watcher, user, device), watch) in &self.phones.watches {
            let contact = format!("{watcher}@{SIP_DOMAIN}");
            let item = self.server.users.get(user).and_then(|u| u.roster.get(&contact)).copied().unwrap_or_default();
            if watch.view.is_empty() || item.from {
                continue;
            }
            let answered = self.server.tally.get(&(user.clone(), contact)).and_then(|t| t.answered.last().copied());
            let known = self.leaks.iter().any(|leak| leak.xmpp == *user && leak.sip == *watcher);
            if answered.is_none_or(|at| at + UNDER_WAY_MS < now) && !known {
                let what = format!(
                    "{now}: leak: {watcher} (device {device}) is shown {user} without approval: {:?}",
                    watch.view
                );
                self.leaks.push(Problem { xmpp: user.clone(), sip: watcher.clone(), what });
            }
        }
    }

    fn on_connect(&mut self, link: LinkId, transport: Transport, to: SocketAddr) {
        let refused = !self.listening || self.world.chance.per_mille(self.world.weather.refused);
        if refused && to.ip() != DNS {
            self.world.refuse(link, CloseReason::Refused, 1);
            return;
        }
        match to.ip() {
            DNS => {
                self.dns_links.push(link);
                self.world.accept(link, transport, PeerCertificate::default());
            }
            PROXY => {
                let l = SipLink { transport, up: true, reader: SipReader::default(), waiting: Vec::new() };
                self.sip_links.insert(link, l);
                self.world.accept(link, transport, proxy_certificate());
            }
            SERVER => {
                let id = format!("in{}", link.0);
                self.streams.insert(link, Stream::new(Role::Receiver, XMPP_DOMAIN, "", &id, self.story.manner));
                self.world.accept(link, transport, server_certificate());
            }
            _ => {
                self.faults.push(format!("a connection to {to}"));
                self.world.refuse(link, CloseReason::Refused, 0);
            }
        }
    }

    fn on_octets(&mut self, link: LinkId, bytes: &[u8]) {
        if self.dns_links.contains(&link) {
            if let Some(answer) = self.dns.answer(bytes) {
                self.world.send(link, &answer);
            }
        } else if let Some(l) = self.sip_links.get_mut(&link) {
            match l.reader.receive(bytes) {
                Ok((messages, pings)) => {
                    for _ in 0..pings {
                        self.world.send(link, b"\r\n");
                    }
                    for message in messages {
                        self.on_sip(Some(link), &message);
                    }
                }
                Err(problem) => self.faults.push(format!("not SIP: {problem}")),
            }
        } else if let Some(stream) = self.streams.get_mut(&link) {
            match stream.receive(bytes) {
                Ok(all) => {
                    if let Some(l) = self.world.links.get_mut(&link) {
                        l.drained_early = stream.managed;
                    }
                    self.obey(link, all);
                }
                Err(problem) => {
                    self.faults.push(format!("not XMPP: {problem}: {}", String::from_utf8_lossy(bytes)));
                }
            }
        }
    }

    fn on_secured(&mut self, link: LinkId) {
        if let Some(l) = self.sip_links.get_mut(&link) {
            l.up = true;
            let waiting = core::mem::take(&mut l.waiting);
            if !waiting.is_empty() {
                self.world.send(link, &waiting);
            }
        } else if let Some(stream) = self.streams.get_mut(&link) {
            let all = stream.secured();
            self.obey(link, all);
        }
    }

    fn on_closed(&mut self, link: LinkId) {
        self.dns_links.retain(|l| *l != link);
        self.sip_links.remove(&link);
        let Some(stream) = self.streams.remove(&link) else { return };
        if stream.role == Role::Receiver && stream.managed {
            self.parked.insert(stream.id.clone(), (stream.received, self.world.now));
        }
        if self.own == Some(link) {
            self.own = None;
            if stream.managed && stream.ready {
                if let Some(name) = stream.resumable {
                    self.broken = Some((name, stream.received, self.world.now));
                } else {
                    self.send_again();
                }
            }
            let at = self.world.now + 2000 + self.world.chance.below(8000);
            self.plan(at, Plan::Stream);
            // Until then nothing is opened.
            self.own = None;
        }
    }

    /// What nobody acknowledged is sent once more, in order, before all else.
    fn send_again(&mut self) {
        self.broken = None;
        self.acknowledged = 0;
        while let Some(xml) = self.unacknowledged.pop_back() {
            self.posts.push_front(xml);
        }
    }

    fn obey(&mut self, link: LinkId, all: Vec<Do>) {
        for one in all {
            match one {
                Do::Send(text) => self.world.send(link, text.as_bytes()),
                Do::StartTls | Do::Verified { .. } => {}
                Do::Ready => self.on_ready(link),
                Do::Stanza(stanza) => self.on_stanza(&stanza),
                // The world's gateway is whom it says to be.
                Do::Verify { from, to, .. } => {
                    let Some(stream) = self.streams.get_mut(&link) else { continue };
                    let all = stream.dialback_verdict(&from, &to, true);
                    self.obey(link, all);
                }
                Do::Resume { previous, .. } => {
                    let parked = self.parked.remove(&previous).filter(|(_, at)| self.world.now < at + RESUME_MS);
                    let Some(stream) = self.streams.get_mut(&link) else { continue };
                    let all = match parked {
                        Some((received, _)) => {
                            stream.id = previous.clone();
                            stream.resumed(&previous, received)
                        }
                        None => stream.not_resumed(),
                    };
                    self.obey(link, all);
                }
                Do::Acknowledged(seen) => self.on_acknowledged(link, seen),
                Do::End(why) => {
                    if let Some(why) = why
                        && self.story.calm
                    {
                        self.faults.push(format!("a stream ended: {why}"));
                    }
                    self.world.close(link);
                    self.on_closed(link);
                }
            }
        }
    }

    fn on_ready(&mut self, link: LinkId) {
        if self.own != Some(link) {
            return;
        }
        let resumed = self.streams.get(&link).is_some_and(|stream| {
            self.broken.as_ref().is_some_and(|(name, ..)| stream.resumable.as_ref() == Some(name))
        });
        if !resumed {
            self.send_again();
        }
    }

    fn on_acknowledged(&mut self, link: LinkId, seen: u32) {
        if self.own != Some(link) {
            return;
        }
        let new = seen.wrapping_sub(self.acknowledged) as usize;
        if new > self.unacknowledged.len() {
            let problem = format!("{seen} acknowledged, {} + {} sent", self.acknowledged, self.unacknowledged.len());
            self.faults.push(problem);
            return;
        }
        self.acknowledged = seen;
        self.unacknowledged.drain(..new);
        if self.broken.take().is_some() {
            for xml in self.unacknowledged.clone() {
                self.say(format!("xmpp ~> over {} (again): {xml}", link.0));
                self.world.send(link, xml.as_bytes());
            }
        }
    }

    fn on_stanza(&mut self, stanza: &Element) {
        let now = self.world.now;
        match (stanza.name.as_str(), stanza.attribute("type").unwrap_or_default()) {
            ("presence", _) => {
                self.traffic += 1;
                self.say(format!("xmpp <- {}", stanza.to_xml()));
                self.server.receive(stanza, now);
            }
            ("iq", "get" | "set") => {
                let of = |name: &str| peers::escape(stanza.attribute(name).unwrap_or_default());
                self.posts.push_back(format!(
                    "<iq type='error' id='{}' from='{}' to='{}'><error type='cancel'><service-unavailable \
                     xmlns='{}'/></error></iq>",
                    of("id"),
                    of("to"),
                    of("from"),
                    peers::STANZAS
                ));
            }
            _ => {}
        }
    }

    /// What was said about two people, the latest lines.
    pub fn conversation(&self, one: &str, other: &str) -> Vec<String> {
        let about = |line: &str| {
            let both = line.contains(one) && line.contains(other);
            let deed = line.contains("  ** ") && (line.contains(one) || line.contains(other) || !line.contains('"'));
            both || deed
        };
        let lines: Vec<String> =
            self.log.iter().filter(|(_, line)| about(line)).map(|(at, line)| format!("{at:>9} {line}")).collect();
        lines[lines.len().saturating_sub(120)..].to_vec()
    }
}

/// A SIP message in one line.
fn brief(bytes: &[u8]) -> String {
    let Ok(message) = SipMessage::parse(bytes) else { return "?".into() };
    let of = |name: &str| message.header(name).unwrap_or("-").to_string();
    let body = String::from_utf8_lossy(&message.body).into_owned();
    format!(
        "{} | {} > {} | {} | {} | exp {} | {} | {body}",
        message.start,
        of("from"),
        of("to"),
        of("call-id"),
        of("cseq"),
        of("expires"),
        of("subscription-state")
    )
}

fn proxy_certificate() -> PeerCertificate {
    PeerCertificate {
        verdict: Some(Ok(())),
        dns_names: vec!["proxy.voip.example".into()],
        sip_hosts: vec![SIP_DOMAIN.into()],
        ..PeerCertificate::default()
    }
}

fn server_certificate() -> PeerCertificate {
    PeerCertificate { verdict: Some(Ok(())), dns_names: vec![XMPP_DOMAIN.into()], ..PeerCertificate::default() }
}

/// Used by the stories to say who does what.
pub fn sip(user: &'static str, deed: phones::Deed) -> Act {
    Act::Sip(user, deed)
}

/// Used by the stories to say who does what.
pub fn xmpp(user: &'static str, deed: server::Deed) -> Act {
    Act::Xmpp(user, deed)
}
