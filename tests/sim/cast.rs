//! The people and their servers: a SIP proxy with user agents behind it, an XMPP server
//! with its users. They send what the seed tells them to send, behave as their
//! standards want, and keep a ledger of what was sent, shown and told.

use crate::checks::Ledger;
use crate::net::{Chance, Weather};
use crate::peers::{self, Dns, DnsMood, Do, Element, Manner, Record, Role, SipMessage, SipReader, Stream};
use crate::world::{Arrived, World};
use latimer::base::certificate::PeerCertificate;
use latimer::base::net::{CloseReason, LinkId, ListenerId, Network, Transport};
use latimer::gateway::Gateway;
use latimer::settings::{
    Listener, ListenerKind, NextHop, NextHopTransport, Partner, PartnerKind, Peer, Requirement, Settings, SipDomain,
};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const SIP_TLS: ListenerId = ListenerId(0);
const SIP_TCP: ListenerId = ListenerId(1);
const SIP_UDP: ListenerId = ListenerId(2);
const XMPP: ListenerId = ListenerId(3);

const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 21));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 31));
const DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));

const SIP_DOMAIN: &str = "voip.example";
const XMPP_DOMAIN: &str = "chat.example";

/// How long a user agent waits for a final answer (64 T1).
const TRANSACTION_MS: u64 = 32_000;
/// How long an XMPP server keeps a stream that may be resumed.
const RESUME_MS: u64 = 300_000;
/// How often an XMPP server tries to open a stream before it bounces what waits.
const STREAM_TRIES: u32 = 4;

/// What a seed decides before anything happens.
#[derive(Clone, Debug)]
pub struct Story {
    pub transport: NextHopTransport,
    pub manner: Manner,
    pub weather: Weather,
    pub error_wait_s: u32,
    /// Nothing goes wrong: everything has to arrive, in order.
    pub calm: bool,
    /// The gateway is killed once.
    pub kill: bool,
    /// Streams are kept open when nothing passes.
    pub keep_alive: bool,
    /// People write so fast that tables fill.
    pub hurry: bool,
    pub steps: u64,
}

impl Story {
    pub fn of(seed: u64, steps: u64) -> Self {
        let mut chance = Chance::new(seed ^ 0x5707);
        let calm = seed.is_multiple_of(4);
        let bad = |chance: &mut Chance, most: u64| if calm || chance.below(2) == 0 { 0 } else { chance.below(most) };
        let external = chance.below(2) == 0;
        Self {
            transport: [NextHopTransport::Tls, NextHopTransport::Tcp, NextHopTransport::Udp][chance.below(3) as usize],
            manner: Manner {
                starttls: true,
                external,
                dialback: !external,
                management: chance.below(2) == 0,
                bidirectional: chance.below(3) == 0,
            },
            weather: Weather {
                latency_ms: chance.below(60),
                jitter_ms: if calm { 0 } else { chance.below(60) },
                loss: bad(&mut chance, 300),
                doubles: bad(&mut chance, 200),
                late: bad(&mut chance, 200),
                refused: bad(&mut chance, 400),
                cuts: chance.below(2) * chance.below(1000),
                resets: bad(&mut chance, 30),
                stalls: bad(&mut chance, 40),
            },
            error_wait_s: [0, 0, 3][chance.below(3) as usize],
            calm,
            kill: !calm && chance.below(6) == 0,
            keep_alive: chance.below(2) == 0,
            hurry: !calm && chance.below(4) == 0,
            steps,
        }
    }

    pub fn settings(&self) -> Settings {
        let listener =
            |kind, port| Listener { name: format!("l{port}"), kind, address: SocketAddr::new(GATEWAY, port) };
        let mut partner = Partner::new(XMPP_DOMAIN);
        partner.kind = PartnerKind::Federated;
        partner.sasl = Requirement::Optional;
        partner.keep_alive = self.keep_alive;
        let mut settings = Settings {
            host_name: "gw.edge.example".into(),
            dns_servers: vec![SocketAddr::new(DNS, 53)],
            listeners: vec![
                listener(ListenerKind::SipTls, 5061),
                listener(ListenerKind::SipTcp, 5060),
                listener(ListenerKind::SipUdp, 5060),
                listener(ListenerKind::XmppStartTls, 5269),
            ],
            sip_domains: vec![SipDomain {
                next_hop: Some(NextHop { transport: self.transport, host: "proxy.voip.example".into(), port: None }),
                peers: vec![
                    Peer::Host("proxy.voip.example".into()),
                    Peer::Network(Network { address: PROXY, length: 32 }),
                ],
                ..SipDomain::new(SIP_DOMAIN)
            }],
            partners: vec![partner],
            ..Settings::default()
        };
        settings.message.error_wait_s = self.error_wait_s;
        settings
    }
}

/// What is to be done at a certain time.
#[derive(Clone, Debug)]
enum Plan {
    /// A user writes a message.
    Write {
        from_sip: bool,
    },
    /// A SIP request is sent again, or given up.
    Retransmit {
        branch: String,
        interval: u64,
    },
    /// A SIP answer that took its time.
    Answer {
        link: Option<LinkId>,
        bytes: Vec<u8>,
    },
    /// The XMPP server tries to open its stream again.
    Stream,
    /// Something breaks; it heals later.
    Fault,
    DnsWell,
    Listening,
    Kill,
}

struct SipLink {
    transport: Transport,
    up: bool,
    reader: SipReader,
    waiting: Vec<u8>,
}

struct Calling {
    number: u64,
    bytes: Vec<u8>,
    link: Option<LinkId>,
    since: u64,
}

/// A stanza of a user's on its way to the gateway.
#[derive(Clone, Debug)]
struct Post {
    number: u64,
    xml: String,
}

pub struct Cast {
    pub world: World,
    pub ledger: Ledger,
    pub story: Story,
    chance: Chance,
    dns: Dns,
    /// Neighbours take connections.
    listening: bool,
    plans: BTreeMap<u64, Plan>,
    next_plan: u64,
    next_port: u16,
    next_number: u64,
    dns_links: Vec<LinkId>,
    sip_links: BTreeMap<LinkId, SipLink>,
    /// Requests of ours that wait for a final answer.
    calling: BTreeMap<String, Calling>,
    /// Branch -> the answer given, for retransmissions of the gateway's requests.
    answered: BTreeMap<String, Vec<u8>>,
    /// Call-ID, CSeq and From tag of what was taken, for merged requests.
    taken: Vec<String>,
    streams: BTreeMap<LinkId, Stream>,
    /// The XMPP server's own stream to the gateway.
    own: Option<LinkId>,
    own_tries: u32,
    posts: VecDeque<Post>,
    /// Sent on a managed stream and not acknowledged.
    unacknowledged: VecDeque<Post>,
    acknowledged: u32,
    /// The managed stream of ours that broke: its name, what was received on it, when.
    broken: Option<(String, u32, u64)>,
    /// Managed streams of the gateway's that broke: name -> stanzas received, when.
    parked: BTreeMap<String, (u32, u64)>,
}

impl Cast {
    pub fn new(seed: u64, story: Story) -> Self {
        let gateway = Gateway::new(story.settings(), b"a secret of the tests");
        let mut world = World::new(gateway, seed);
        world.weather = story.weather.clone();
        let mut dns = Dns::default();
        dns.add("proxy.voip.example", Record::A([192, 0, 2, 21]));
        dns.add("xmpp.chat.example", Record::A([192, 0, 2, 31]));
        dns.add("_xmpp-server._tcp.chat.example", Record::Srv(1, 1, 5269, "xmpp.chat.example".into()));
        let mut cast = Self {
            world,
            ledger: Ledger::default(),
            chance: Chance::new(seed ^ 0xca57),
            dns,
            listening: true,
            plans: BTreeMap::new(),
            next_plan: 0,
            next_port: 20_000,
            next_number: 0,
            dns_links: Vec::new(),
            sip_links: BTreeMap::new(),
            calling: BTreeMap::new(),
            answered: BTreeMap::new(),
            taken: Vec::new(),
            streams: BTreeMap::new(),
            own: None,
            own_tries: 0,
            posts: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            acknowledged: 0,
            broken: None,
            parked: BTreeMap::new(),
            story,
        };
        cast.plot();
        cast
    }

    /// Spreads what happens over the time of the story.
    fn plot(&mut self) {
        let length = self.story_ms();
        for _ in 0..self.story.steps {
            let at = self.chance.below(length);
            let from_sip = self.chance.below(2) == 0;
            self.plan(at, Plan::Write { from_sip });
        }
        if self.story.calm {
            return;
        }
        for _ in 0..self.chance.below(6) {
            let at = self.chance.below(length);
            self.plan(at, Plan::Fault);
        }
        if self.story.kill {
            let at = self.chance.below(length);
            self.plan(at, Plan::Kill);
        }
    }

    /// How long people write.
    pub fn story_ms(&self) -> u64 {
        let pace = if self.story.hurry { 20 } else { 1500 };
        120_000 + self.story.steps * pace
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
        }
    }

    /// All that breaks is mended from now on.
    pub fn heal(&mut self) {
        let latency_ms = self.world.weather.latency_ms;
        self.world.weather = Weather { latency_ms, ..Weather::default() };
        self.dns.mood = DnsMood::Well;
        self.listening = true;
    }

    /// What is open though nobody has used it for hours.
    pub fn idle(&self) -> Vec<String> {
        let streams = if self.story.keep_alive { 2 } else { 0 };
        // A connection each way may stay.
        let open =
            [("DNS", self.dns_links.len(), 0), ("SIP", self.sip_links.len(), 2), ("XMPP", self.streams.len(), streams)];
        let left = open.into_iter().filter(|(_, open, most)| open > most);
        left.map(|(side, open, most)| format!("{open} {side} connections are open, {most} may be")).collect()
    }

    /// A user writes to one who answers at once; gives the message's number.
    pub fn write_now(&mut self, from_sip: bool) -> u64 {
        self.write(from_sip, 0);
        self.next_number
    }

    fn on(&mut self, arrived: Arrived) {
        match arrived {
            Arrived::Datagram { bytes, .. } => match SipMessage::parse(&bytes) {
                Ok(message) => self.on_sip(None, message),
                Err(_) if bytes.iter().all(|octet| octet.is_ascii_whitespace()) => {}
                Err(problem) => self.ledger.fault(format!("a datagram that is no SIP: {problem}")),
            },
            Arrived::Connect { link, transport, to } => self.on_connect(link, transport, to),
            Arrived::Octets { link, bytes } => self.on_octets(link, &bytes),
            Arrived::Secured { link, .. } => self.on_secured(link),
            Arrived::Closed { link } => self.on_closed(link),
            Arrived::Wake(what) => {
                if let Some(plan) = self.plans.remove(&what) {
                    self.carry_out(plan);
                }
            }
        }
    }

    fn carry_out(&mut self, plan: Plan) {
        match plan {
            Plan::Write { from_sip } => {
                let whom = self.chance.below(10);
                self.write(from_sip, whom);
            }
            Plan::Retransmit { branch, interval } => self.retransmit(&branch, interval),
            Plan::Answer { link, bytes } => self.answer(link, &bytes),
            Plan::Stream => self.flush_posts(),
            Plan::Fault => self.fault(),
            Plan::DnsWell => self.dns.mood = DnsMood::Well,
            Plan::Listening => self.listening = true,
            Plan::Kill => {
                let gateway = Gateway::new(self.story.settings(), b"a secret of the tests");
                self.world.restart(gateway);
                self.ledger.killed(self.world.now);
                // Nobody remembers the streams of the one that died.
                self.parked.clear();
            }
        }
    }

    fn fault(&mut self) {
        let lasts = 1000 + self.chance.below(60_000);
        let until = self.world.now + lasts;
        match self.chance.below(6) {
            // The wall clock is set, or believed to be 1970.
            3 => self.world.wall_off = [3_600_000, -86_400_000, -1_930_204_800_000][self.chance.below(3) as usize],
            0 => {
                let moods = [DnsMood::Silent, DnsMood::ServerFailure, DnsMood::NoSuchName];
                self.dns.mood = moods[self.chance.below(3) as usize];
                self.plan(until, Plan::DnsWell);
            }
            1 => {
                self.listening = false;
                self.plan(until, Plan::Listening);
            }
            2 => {
                let settings = self.story.settings();
                self.world.configure(settings);
            }
            _ => {
                let links: Vec<LinkId> = self.world.links.keys().copied().collect();
                for link in links {
                    if self.chance.below(2) == 0 {
                        self.world.reset(link);
                    }
                }
            }
        }
    }

    // ---- Writing

    fn write(&mut self, from_sip: bool, whom: u64) {
        self.next_number += 1;
        let number = self.next_number;
        if from_sip {
            let to =
                ["lena", "lena", "pavel", "lena", "pavel", "lena", "lena", "ghost", "lena", "pavel"][whom as usize];
            self.ledger.wrote(number, true, to);
            self.call(number, to);
        } else {
            let to =
                ["marta", "marta", "jonas", "slow", "busy", "gone", "silent", "marta", "jonas", "flaky"][whom as usize];
            self.ledger.wrote(number, false, to);
            let xml = format!(
                "<message from='lena@{XMPP_DOMAIN}/r' to='{to}@{SIP_DOMAIN}' id='n{number}' type='chat'>\
                 <body>text {number} end</body></message>"
            );
            self.posts.push_back(Post { number, xml });
            self.flush_posts();
        }
    }

    /// The number of a message by its text.
    fn number_of(text: &str) -> Option<u64> {
        text.strip_prefix("text ")?.strip_suffix(" end")?.parse().ok()
    }

    // ---- SIP

    fn via(&self) -> &'static str {
        match self.story.transport {
            NextHopTransport::Tls => "TLS",
            NextHopTransport::Tcp => "TCP",
            NextHopTransport::Udp => "UDP",
        }
    }

    fn call(&mut self, number: u64, to: &str) {
        let body = format!("text {number} end");
        let branch = format!("z9hG4bKc{number}");
        let bytes = format!(
            "MESSAGE sip:{to}@{XMPP_DOMAIN} SIP/2.0\r\nVia: SIP/2.0/{} proxy.voip.example;branch={branch}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:marta@{SIP_DOMAIN}>;tag=t{number}\r\nTo: <sip:{to}@{XMPP_DOMAIN}>\r\n\
             Call-ID: c{number}@proxy\r\nCSeq: 1 MESSAGE\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
            self.via(),
            body.len()
        )
        .into_bytes();
        let link = match self.story.transport {
            NextHopTransport::Udp => {
                self.world.datagram(SIP_UDP, SocketAddr::new(PROXY, 5060), &bytes);
                None
            }
            NextHopTransport::Tcp => Some(self.send_on_link(Transport::Tcp, &bytes)),
            NextHopTransport::Tls => Some(self.send_on_link(Transport::Tls, &bytes)),
        };
        let since = self.world.now;
        self.calling.insert(branch.clone(), Calling { number, bytes, link, since });
        let interval = if link.is_none() { 500 } else { TRANSACTION_MS };
        self.plan(since + interval, Plan::Retransmit { branch, interval });
    }

    fn retransmit(&mut self, branch: &str, interval: u64) {
        let Some(calling) = self.calling.get(branch) else { return };
        if self.world.now >= calling.since + TRANSACTION_MS {
            // The user sees that it was not answered: that is no positive answer.
            self.calling.remove(branch);
            return;
        }
        if calling.link.is_none() {
            self.world.datagram(SIP_UDP, SocketAddr::new(PROXY, 5060), &calling.bytes);
        }
        let interval = (interval * 2).min(4000);
        let at = (self.world.now + interval).min(calling.since + TRANSACTION_MS);
        self.plan(at, Plan::Retransmit { branch: branch.into(), interval });
    }

    fn send_on_link(&mut self, transport: Transport, bytes: &[u8]) -> LinkId {
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
                let l = SipLink { transport, up, reader: SipReader::default(), waiting: Vec::new() };
                self.sip_links.insert(link, l);
                link
            }
        };
        match self.sip_links.get_mut(&link) {
            Some(l) if !l.up => l.waiting.extend_from_slice(bytes),
            _ => self.world.send(link, bytes),
        }
        link
    }

    fn on_sip(&mut self, link: Option<LinkId>, message: SipMessage) {
        let Some(branch) = message.branch().map(String::from) else {
            self.ledger.fault(format!("no branch in {}", message.start));
            return;
        };
        match message.status() {
            Some(status @ 200..) => {
                if let Some(calling) = self.calling.remove(&branch) {
                    self.ledger.answered(calling.number, status);
                }
            }
            Some(_) => {}
            None => self.on_request(link, &branch, &message),
        }
    }

    fn on_request(&mut self, link: Option<LinkId>, branch: &str, request: &SipMessage) {
        if let Some(answer) = self.answered.get(branch).cloned() {
            if !answer.is_empty() {
                self.answer(link, &answer);
            }
            return;
        }
        let text = String::from_utf8_lossy(&request.body).into_owned();
        let Some(number) = Self::number_of(&text) else {
            // A notice of the gateway's about a message that failed late.
            let answer = request.response(200, "OK", "n", "");
            self.answered.insert(branch.into(), answer.clone());
            self.answer(link, &answer);
            return;
        };
        let of = |name: &str| request.header(name).unwrap_or_default();
        let key = format!("{} {} {}", of("call-id"), of("cseq"), of("from"));
        let user = request.start.split([':', '@']).nth(1).unwrap_or_default().to_string();
        let (status, reason, after) = if self.taken.contains(&key) {
            (482, "Merged", 0)
        } else {
            match user.as_str() {
                "busy" => (486, "Busy Here", 0),
                "gone" => (404, "Not Found", 0),
                "flaky" => (503, "Unavailable", 0),
                "silent" => (0, "", 0),
                "slow" => (200, "OK", self.chance.below(20_000)),
                _ => (200, "OK", 0),
            }
        };
        if status == 200 {
            self.taken.push(key);
            self.ledger.shown(number, self.world.now);
        }
        let answer = if status == 0 { Vec::new() } else { request.response(status, reason, "u", "") };
        // Until it has its answer, a retransmission gets none.
        if after == 0 {
            self.answered.insert(branch.into(), answer.clone());
        } else {
            self.answered.insert(branch.into(), Vec::new());
        }
        if !answer.is_empty() {
            let at = self.world.now + after;
            self.plan(at, Plan::Answer { link, bytes: answer });
        }
    }

    fn answer(&mut self, link: Option<LinkId>, bytes: &[u8]) {
        if let Ok(message) = SipMessage::parse(bytes)
            && let Some(branch) = message.branch()
        {
            self.answered.insert(branch.into(), bytes.to_vec());
        }
        match link {
            Some(link) => self.world.send(link, bytes),
            None => self.world.datagram(SIP_UDP, SocketAddr::new(PROXY, 5060), bytes),
        }
    }

    // ---- XMPP

    /// Sends what waits, or sees to it that there is a stream.
    fn flush_posts(&mut self) {
        if self.posts.is_empty() && self.broken.is_none() {
            return;
        }
        // Both directions on the gateway's stream, if we agreed to that.
        let shared = |stream: &Stream| stream.role == Role::Receiver && stream.bidirectional && stream.ready;
        let other = self.streams.iter().find(|(_, stream)| shared(stream) && !stream.managed).map(|(link, _)| *link);
        let Some(link) = self.own.or(other) else {
            self.open_own();
            return;
        };
        let Some(stream) = self.streams.get(&link).filter(|stream| stream.ready) else { return };
        let managed = stream.managed;
        while let Some(post) = self.posts.pop_front() {
            self.world.send(link, post.xml.as_bytes());
            if managed {
                self.unacknowledged.push_back(post);
                self.world.send(link, b"<r xmlns='urn:xmpp:sm:3'/>");
            } else {
                self.ledger.unsure(post.number, link);
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
                self.ledger.fault(format!("a connection to {to}"));
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
                        self.on_sip(Some(link), message);
                    }
                }
                Err(problem) => self.ledger.fault(format!("not SIP: {problem}")),
            }
        } else if let Some(stream) = self.streams.get_mut(&link) {
            match stream.receive(bytes) {
                Ok(all) => {
                    if let Some(l) = self.world.links.get_mut(&link) {
                        l.drained_early = stream.managed;
                    }
                    self.act(link, all);
                }
                Err(problem) => {
                    self.ledger.fault(format!("not XMPP: {problem}: {}", String::from_utf8_lossy(bytes)));
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
            self.act(link, all);
        }
    }

    fn on_closed(&mut self, link: LinkId) {
        self.dns_links.retain(|l| *l != link);
        self.sip_links.remove(&link);
        // What waited for an answer on it waits until its time is up.
        let Some(stream) = self.streams.remove(&link) else { return };
        self.ledger.lost(link);
        if stream.role == Role::Receiver && stream.managed {
            self.parked.insert(stream.id.clone(), (stream.received, self.world.now));
        }
        if self.own == Some(link) {
            self.own = None;
            if stream.managed && stream.ready {
                if let Some(name) = stream.resumable {
                    self.broken = Some((name, stream.received, self.world.now));
                } else {
                    self.bounce_unacknowledged();
                }
            }
            self.own_tries += u32::from(!stream.ready);
            if self.own_tries >= STREAM_TRIES {
                self.own_tries = 0;
                self.bounce_unacknowledged();
                for post in core::mem::take(&mut self.posts) {
                    self.ledger.told(post.number);
                }
            }
            let at = self.world.now + 2000 + self.chance.below(8000);
            self.plan(at, Plan::Stream);
        }
    }

    fn bounce_unacknowledged(&mut self) {
        self.broken = None;
        self.acknowledged = 0;
        for post in core::mem::take(&mut self.unacknowledged) {
            self.ledger.told(post.number);
        }
    }

    fn act(&mut self, link: LinkId, all: Vec<Do>) {
        for one in all {
            match one {
                Do::Send(text) => self.world.send(link, text.as_bytes()),
                Do::StartTls => {}
                Do::Ready => self.on_ready(link),
                Do::Stanza(stanza) => self.on_stanza(link, &stanza),
                Do::Verify { key, .. } => self.verify(link, &key),
                Do::Verified { id, valid } => self.on_verified(link, &id, valid),
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
                    self.act(link, all);
                }
                Do::Acknowledged(seen) => self.on_acknowledged(link, seen),
                Do::End(why) => {
                    if let Some(why) = why
                        && self.story.calm
                    {
                        self.ledger.fault(format!("a stream ended: {why}"));
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
        self.own_tries = 0;
        let resumed = self.streams.get(&link).is_some_and(|stream| {
            self.broken.as_ref().is_some_and(|(name, ..)| stream.resumable.as_ref() == Some(name))
        });
        if self.broken.is_some() && !resumed {
            self.bounce_unacknowledged();
        }
        if !resumed {
            self.acknowledged = 0;
            self.flush_posts();
        }
    }

    fn on_acknowledged(&mut self, link: LinkId, seen: u32) {
        if self.own != Some(link) {
            return;
        }
        let new = seen.wrapping_sub(self.acknowledged) as usize;
        if new > self.unacknowledged.len() {
            let problem = format!("{seen} acknowledged, {} + {} sent", self.acknowledged, self.unacknowledged.len());
            self.ledger.fault(problem);
            return;
        }
        self.acknowledged = seen;
        self.unacknowledged.drain(..new);
        if self.broken.take().is_some() {
            for post in self.unacknowledged.clone() {
                self.world.send(link, post.xml.as_bytes());
            }
            self.flush_posts();
        }
    }

    fn verify(&mut self, link: LinkId, key: &str) {
        let Some(asking) = self.streams.get(&link) else { return };
        let question = Some((asking.id.clone(), key.to_string()));
        self.next_port += 1;
        let from = SocketAddr::new(SERVER, self.next_port);
        let other = self.world.dial(XMPP, Transport::Tcp, from, server_certificate());
        let mut stream = Stream::new(Role::Verifier, XMPP_DOMAIN, SIP_DOMAIN, "", self.story.manner);
        stream.question = question;
        self.world.send(other, stream.header().as_bytes());
        self.streams.insert(other, stream);
    }

    fn on_verified(&mut self, link: LinkId, id: &str, valid: bool) {
        self.world.close(link);
        self.streams.remove(&link);
        let asking = self.streams.iter_mut().find(|(_, stream)| stream.id == id && stream.role == Role::Receiver);
        if let Some((link, stream)) = asking {
            let link = *link;
            let all = stream.dialback_verdict(SIP_DOMAIN, XMPP_DOMAIN, valid);
            self.act(link, all);
        }
    }

    fn on_stanza(&mut self, link: LinkId, stanza: &Element) {
        let of = |name: &str| stanza.attribute(name).unwrap_or_default().to_string();
        if peers::domain_of(&of("from")) != SIP_DOMAIN && peers::domain_of(&of("from")) != "gw.edge.example" {
            self.ledger.fault(format!("from {}", of("from")));
        }
        match (stanza.name.as_str(), of("type").as_str()) {
            ("message", "error") => {
                if let Some(number) = of("id").strip_prefix('n').and_then(|id| id.parse().ok()) {
                    self.ledger.told(number);
                }
            }
            ("message", _) => {
                let text = stanza.child("body").map(Element::text).unwrap_or_default();
                let Some(number) = Self::number_of(&text) else {
                    self.ledger.fault(format!("a message nobody wrote: {text:?}"));
                    return;
                };
                self.ledger.shown(number, self.world.now);
                if of("to").starts_with("ghost@") {
                    self.error_reply(stanza, "item-not-found");
                }
            }
            ("iq", "get" | "set") => self.error_reply(stanza, "service-unavailable"),
            _ => {}
        }
        let _ = link;
    }

    fn error_reply(&mut self, stanza: &Element, condition: &str) {
        let of = |name: &str| peers::escape(stanza.attribute(name).unwrap_or_default());
        let xml = format!(
            "<{} type='error' id='{}' from='{}' to='{}'><error type='cancel'><{condition} xmlns='{}'/></error></{}>",
            stanza.name,
            of("id"),
            of("to"),
            of("from"),
            peers::STANZAS,
            stanza.name
        );
        self.posts.push_back(Post { number: 0, xml });
        self.flush_posts();
    }
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
