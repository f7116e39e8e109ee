//! The neighbours of one gateway: XMPP servers, SIP next hops and a DNS that answer by
//! themselves what any neighbour answers, and connections that a test speaks on by hand.

use crate::house::{Did, House};
use crate::sip::Sip;
use crate::xml::{El, Piece, Reader};
use latimer::base::certificate::PeerCertificate;
use latimer::base::counters::Counter;
use latimer::base::net::{CloseReason, LinkId, ListenerId, Network, Transport};
use latimer::settings::{
    Listener, ListenerKind, NextHop, NextHopTransport, Partner, PartnerKind, Peer, Settings, SipDomain,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub(crate) const SIP_UDP: ListenerId = ListenerId(0);
pub(crate) const SIP_TCP: ListenerId = ListenerId(1);
pub(crate) const SIP_TLS: ListenerId = ListenerId(2);
pub(crate) const XMPP: ListenerId = ListenerId(3);
pub(crate) const XMPP_TLS: ListenerId = ListenerId(4);

const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
/// The name server.
pub(crate) const DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
/// The next hop of `sip.example`.
pub(crate) const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 21));

pub(crate) const OURS: &str = "sip.example";
/// The partner whose server does what it should not.
pub(crate) const EVIL: &str = "evil.example";
/// The partner that must not notice.
pub(crate) const HONEST: &str = "honest.example";
/// Not a partner.
pub(crate) const STRANGER: &str = "stranger.example";

/// How far a stream of a partner's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// TCP is up, nothing was said.
    Connected,
    /// The features were read, in the clear.
    Clear,
    /// TLS is up, nothing was said in it.
    Secured,
    /// The features were read, in TLS.
    Encrypted,
    /// SASL is done, the stream not restarted.
    Authenticated,
    /// Stanzas may pass.
    Open,
}

/// How a neighbour behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Good,
    /// Nothing ever comes back, not even to a connect.
    Blackhole,
    /// It takes the connection and reads nothing.
    Deaf,
    /// It never ends the TLS handshake.
    TlsStall,
    /// It resets every connection.
    Resets,
    /// SIP: it answers with this status.
    Answers(u16),
    /// SIP: it takes the request and says nothing.
    Silent,
    /// XMPP: its features offer no TLS.
    OffersNoTls,
    /// XMPP: it offers TLS and then does not want it.
    RefusesTls,
    /// XMPP: a server from before version 1.0.
    Legacy,
}

/// The other end of a link.
enum Far {
    Dns,
    /// An XMPP server that the gateway connected to.
    Server {
        domain: String,
        reader: Reader,
        secure: bool,
        proved: bool,
        handled: u32,
    },
    /// A next hop that the gateway connected to.
    Hop {
        ip: IpAddr,
        buffer: Vec<u8>,
    },
    /// A test, which speaks XMPP.
    Hand {
        said: Vec<u8>,
        reader: Reader,
    },
    /// A test, which speaks SIP.
    SipHand {
        said: Vec<u8>,
        buffer: Vec<u8>,
    },
    /// Nobody reads.
    Nobody,
}

pub(crate) struct World {
    pub(crate) house: House,
    /// All domains with an XMPP server.
    pub(crate) domains: Vec<String>,
    pub(crate) moods: BTreeMap<IpAddr, Mood>,
    /// Do the servers offer stream management?
    pub(crate) management: bool,
    /// Do the connections that a test speaks on leave their TLS handshakes half done?
    pub(crate) stalls_tls: bool,
    /// What the servers answer to `<db:verify/>`, if not the truth.
    pub(crate) verdict: Option<fn(&El) -> String>,
    /// What the servers were told before TLS was up.
    pub(crate) in_the_clear: Vec<El>,
    /// Stream errors that the gateway sent to servers it connected to.
    pub(crate) stream_errors: Vec<(String, El)>,
    far: BTreeMap<LinkId, Far>,
    /// Stanzas that reached an XMPP server, with its domain.
    pub(crate) stanzas: Vec<(String, El)>,
    /// Requests that reached a next hop.
    pub(crate) requests: Vec<Sip>,
    /// The connection that the last request came on.
    pub(crate) last_hop: Option<LinkId>,
    /// Responses, by Call-ID.
    pub(crate) responses: BTreeMap<String, Vec<Sip>>,
    /// Datagrams to anybody who is no next hop.
    pub(crate) strays: Vec<(SocketAddr, Vec<u8>)>,
    /// What broke a protocol.
    pub(crate) faults: Vec<String>,
    /// Connections the gateway made, by address.
    pub(crate) connects: BTreeMap<IpAddr, usize>,
    /// Octets of links the gateway closed, as they were when it did.
    last_words: BTreeMap<LinkId, Vec<u8>>,
    next: u64,
    honest: Option<LinkId>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(settings())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let mut domains: Vec<String> = settings.partners.iter().map(|partner| partner.domain.clone()).collect();
        domains.push(STRANGER.into());
        Self {
            house: House::new(settings),
            domains,
            moods: BTreeMap::new(),
            management: false,
            stalls_tls: false,
            verdict: None,
            in_the_clear: Vec::new(),
            stream_errors: Vec::new(),
            far: BTreeMap::new(),
            stanzas: Vec::new(),
            requests: Vec::new(),
            last_hop: None,
            responses: BTreeMap::new(),
            strays: Vec::new(),
            faults: Vec::new(),
            connects: BTreeMap::new(),
            last_words: BTreeMap::new(),
            next: 0,
            honest: None,
        }
    }

    /// A number never given before.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn of(&self, counter: Counter) -> u64 {
        self.house.of(counter)
    }

    // ---- Time

    /// Lets everything happen that is due now.
    pub(crate) fn pump(&mut self) {
        while let Some(did) = self.house.did.pop_front() {
            self.on(did);
        }
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        let until = self.house.now + ms;
        self.pump();
        let mut at_once = 0;
        while let Some(due) = self.house.due().filter(|due| *due <= until) {
            at_once = if due > self.house.now { 0 } else { at_once + 1 };
            assert!(at_once < 20_000, "the deadline does not move");
            self.house.now = due;
            self.house.timeout();
            self.pump();
        }
        self.house.now = until;
    }

    /// Waits until no message is on its way, and holds the books to promise P8.
    pub(crate) fn settle(&mut self) {
        self.pump();
        let mut waited = 0;
        while self.house.gateway.messages_under_way() > 0 && waited < 120_000 {
            self.pass(500);
            waited += 500;
        }
        self.assert_balance();
    }

    pub(crate) fn assert_balance(&self) {
        use Counter as C;
        let of = |counters: &[C]| counters.iter().map(|c| self.of(*c)).sum::<u64>();
        assert_eq!(self.house.gateway.messages_under_way(), 0, "messages are still on their way");
        assert_eq!(
            self.of(C::SipMessageIn),
            of(&[C::SipMessageDelivered, C::SipMessageFailed, C::SipMessageRefused, C::SipMessageNothing]),
            "SIP books: {}",
            self.books()
        );
        assert_eq!(
            self.of(C::XmppMessageIn),
            of(&[C::XmppMessageDelivered, C::XmppMessageFailed, C::XmppMessageRefused, C::XmppMessageNothing]),
            "XMPP books: {}",
            self.books()
        );
        assert!(self.stream_errors.is_empty(), "stream errors to good servers: {:#?}", self.stream_errors);
        assert!(self.faults.is_empty(), "the gateway broke a protocol: {:#?}", self.faults);
    }

    /// All counters that moved, for people.
    pub(crate) fn books(&self) -> String {
        let mut out = String::new();
        for counter in Counter::ALL.iter().filter(|counter| self.of(**counter) > 0) {
            let _ = write!(out, "{}={} ", counter.name(), self.of(*counter));
        }
        out
    }

    /// The gateway's latest log lines, for people.
    pub(crate) fn log(&self) -> String {
        self.house.lines.iter().rev().take(12).rev().fold(String::new(), |all, line| all + "\n  " + line)
    }

    // ---- The honest partner

    /// A message each way between our side and the honest partner: each arrives once.
    pub(crate) fn assert_honest_traffic(&mut self) {
        let n = self.number();
        let (user, friend) = (format!("ada{n}@{OURS}"), format!("bob{n}@{HONEST}"));
        let call = self.sip_message(&user, &friend, &format!("honest out {n}"));
        self.pump();
        let arrived = self.stanzas.iter().filter(|(at, el)| at == HONEST && el.body() == format!("honest out {n}"));
        assert_eq!(arrived.count(), 1, "SIP to the honest partner: {}{}", self.books(), self.log());
        assert_eq!(self.statuses(&call), [200], "{}", self.log());
        let link = match self.honest {
            Some(link) if self.house.is_open(link) => link,
            Some(_) => panic!("the honest partner lost its stream: {}", self.log()),
            None => self.open(HONEST),
        };
        self.honest = Some(link);
        let stanza = message(&friend, &user, &format!("h{n}"), &format!("honest in {n}"));
        self.write(link, stanza.as_bytes());
        let arrived = self.requests.iter().filter(|request| request.body() == format!("honest in {n}"));
        assert_eq!(arrived.count(), 1, "the honest partner to SIP: {}{}", self.books(), self.log());
        assert!(!self.stanzas.iter().any(|(_, el)| el.attr("id") == format!("h{n}") && el.attr("type") == "error"));
        self.stanzas.retain(|(_, el)| !el.body().starts_with("honest"));
        self.requests.retain(|request| !request.body().starts_with("honest"));
    }

    /// The partner that misbehaved comes back in good order: it is heard, and answered.
    pub(crate) fn assert_recovered(&mut self) {
        let n = self.number();
        let link = self.open(EVIL);
        let (user, friend) = (format!("ada{n}@{OURS}"), format!("eve{n}@{EVIL}"));
        self.write(link, message(&friend, &user, &format!("r{n}"), &format!("again {n}")).as_bytes());
        let arrived = self.requests.iter().filter(|request| request.body() == format!("again {n}"));
        assert_eq!(arrived.count(), 1, "after the attack: {}{}", self.books(), self.log());
        self.write(
            link,
            format!("<iq from='{EVIL}' to='{OURS}' id='p{n}' type='get'><ping xmlns='urn:xmpp:ping'/></iq>").as_bytes(),
        );
        let pong = self.stanzas.iter().filter(|(at, el)| at == EVIL && el.attr("id") == format!("p{n}"));
        assert_eq!(pong.map(|(_, el)| el.attr("type").to_string()).collect::<Vec<_>>(), ["result"], "{}", self.log());
        self.write(link, b"</stream:stream>");
        self.house.close(link, CloseReason::Peer);
        self.requests.retain(|request| !request.body().starts_with("again"));
        self.pump();
    }

    // ---- SIP

    /// A MESSAGE from the next hop of `sip.example`, as a datagram. Gives its Call-ID.
    pub(crate) fn sip_message(&mut self, from: &str, to: &str, body: &str) -> String {
        let call = format!("call{}", self.number());
        let request = sip_message(from, to, &call, body);
        self.datagram(SocketAddr::new(PROXY, 5060), request.as_bytes());
        call
    }

    pub(crate) fn datagram(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.house.datagram(SIP_UDP, from, bytes);
        self.pump();
    }

    /// The final answers to a request of ours, oldest first.
    pub(crate) fn statuses(&self, call: &str) -> Vec<u16> {
        self.responses
            .get(call)
            .map(|all| all.iter().map(Sip::status).filter(|s| *s >= 200).collect())
            .unwrap_or_default()
    }

    /// A SIP connection that the test speaks on.
    pub(crate) fn dial_sip(&mut self, listener: ListenerId, from: SocketAddr, certificate: PeerCertificate) -> LinkId {
        let link = self.house.accept(listener, from, certificate);
        self.far.insert(link, Far::SipHand { said: Vec::new(), buffer: Vec::new() });
        self.pump();
        link
    }

    // ---- XMPP by hand

    /// A connection to the XMPP listener. TLS comes up when it is asked for.
    pub(crate) fn dial(&mut self, from: SocketAddr, certificate: PeerCertificate) -> LinkId {
        self.dial_at(XMPP, from, certificate)
    }

    pub(crate) fn dial_at(&mut self, listener: ListenerId, from: SocketAddr, certificate: PeerCertificate) -> LinkId {
        let link = self.house.accept(listener, from, certificate);
        self.far.insert(link, Far::Hand { said: Vec::new(), reader: Reader::default() });
        self.pump();
        link
    }

    /// An address of the servers of a domain, with a port never used before.
    pub(crate) fn address_of(&mut self, domain: &str) -> SocketAddr {
        let port = 10_000 + (self.number() % 50_000) as u16;
        SocketAddr::new(self.ip_of(domain), port)
    }

    /// Octets on a connection that the test speaks on.
    pub(crate) fn write(&mut self, link: LinkId, bytes: &[u8]) {
        self.house.octets(link, bytes);
        self.pump();
    }

    /// All that the gateway said on a connection.
    pub(crate) fn said(&self, link: LinkId) -> String {
        let said = match self.far.get(&link) {
            Some(Far::Hand { said, .. } | Far::SipHand { said, .. }) => said,
            _ => self.last_words.get(&link).expect("a link of the test"),
        };
        String::from_utf8_lossy(said).into_owned()
    }

    pub(crate) fn is_closed(&self, link: LinkId) -> bool {
        !self.house.is_open(link)
    }

    /// A stream of a partner's to `sip.example`, in order, up to a stage.
    pub(crate) fn reach(&mut self, domain: &str, stage: Stage) -> LinkId {
        self.negotiate(domain, OURS, stage)
    }

    /// An open stream of a partner's to another domain of ours.
    pub(crate) fn reach_for(&mut self, domain: &str, ours: &str) -> LinkId {
        self.negotiate(domain, ours, Stage::Open)
    }

    fn negotiate(&mut self, domain: &str, ours: &str, stage: Stage) -> LinkId {
        let from = self.address_of(domain);
        let link = self.dial(from, certificate(&[domain]));
        let header = header(domain, ours);
        let steps: [(Stage, &str); 5] = [
            (Stage::Clear, &header),
            (Stage::Secured, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"),
            (Stage::Encrypted, &header),
            (Stage::Authenticated, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"),
            (Stage::Open, &header),
        ];
        for (leads_to, octets) in steps {
            if leads_to <= stage {
                self.write(link, octets.as_bytes());
            }
        }
        assert!(self.house.is_open(link), "{domain} does not get to {stage:?}: {}{}", self.said(link), self.log());
        link
    }

    pub(crate) fn open(&mut self, domain: &str) -> LinkId {
        self.reach(domain, Stage::Open)
    }

    /// Messages of one partner's stream that reached SIP, and stanzas that reached any
    /// server, since the last time this was called.
    pub(crate) fn take(&mut self) -> (Vec<Sip>, Vec<(String, El)>) {
        (std::mem::take(&mut self.requests), std::mem::take(&mut self.stanzas))
    }

    // ---- What the gateway does

    fn ip_of(&self, domain: &str) -> IpAddr {
        let place = self.domains.iter().position(|d| d == domain).expect("a known domain");
        server_ip(place)
    }

    fn domain_at(&self, ip: IpAddr) -> Option<String> {
        (0..self.domains.len()).find(|place| server_ip(*place) == ip).map(|place| self.domains[place].clone())
    }

    fn mood(&self, ip: IpAddr) -> Mood {
        self.moods.get(&ip).copied().unwrap_or_default()
    }

    pub(crate) fn set_mood(&mut self, domain: &str, mood: Mood) {
        self.moods.insert(self.ip_of(domain), mood);
    }

    fn on(&mut self, did: Did) {
        match did {
            Did::Datagram { to, bytes } => self.on_datagram(to, bytes),
            Did::Connect { link, transport, to } => self.on_connect(link, transport, to),
            Did::Sent { link, bytes } => self.on_sent(link, &bytes),
            Did::StartTls { link } => self.on_start_tls(link),
            Did::Closed { link } => {
                if let Some(Far::Hand { said, .. } | Far::SipHand { said, .. }) = self.far.remove(&link) {
                    self.last_words.insert(link, said);
                }
            }
        }
    }

    fn on_datagram(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        if to.ip() != PROXY {
            self.strays.push((to, bytes));
            return;
        }
        match Sip::read(&bytes) {
            Ok(Some((message, _))) => self.on_sip(message, None, to.ip()),
            other => self.faults.push(format!("a datagram that is no SIP: {other:?}")),
        }
    }

    fn on_connect(&mut self, link: LinkId, transport: Transport, to: SocketAddr) {
        *self.connects.entry(to.ip()).or_default() += 1;
        match self.mood(to.ip()) {
            Mood::Blackhole => {
                self.far.insert(link, Far::Nobody);
                return;
            }
            Mood::Resets => return self.house.close(link, CloseReason::Reset),
            _ => {}
        }
        if to.ip() == DNS {
            self.far.insert(link, Far::Dns);
        } else if to.port() == 5060 || to.port() == 5061 {
            self.far.insert(link, Far::Hop { ip: to.ip(), buffer: Vec::new() });
            self.house.set_certificate(link, certificate(&[&to.ip().to_string(), OURS]));
        } else if let Some(domain) = self.domain_at(to.ip()) {
            self.house.set_certificate(link, certificate(&[&domain]));
            let reader = Reader::default();
            self.far.insert(link, Far::Server { domain, reader, secure: false, proved: false, handled: 0 });
        } else {
            self.faults.push(format!("{transport} to {to}"));
        }
        self.house.opened(link);
    }

    fn on_start_tls(&mut self, link: LinkId) {
        match self.far.get_mut(&link) {
            Some(Far::Server { secure, domain, .. }) => {
                *secure = true;
                let domain = domain.clone();
                if self.mood(self.ip_of(&domain)) != Mood::TlsStall {
                    self.house.secured(link);
                }
            }
            Some(Far::Nobody) => {}
            Some(Far::Hand { .. } | Far::SipHand { .. }) if self.stalls_tls => {}
            _ => self.house.secured(link),
        }
    }

    fn on_sent(&mut self, link: LinkId, bytes: &[u8]) {
        match self.far.get_mut(&link) {
            Some(Far::Dns) => {
                let answer = self.resolve(bytes);
                self.house.octets(link, &answer);
                return;
            }
            Some(Far::Hand { said, reader }) => {
                said.extend_from_slice(bytes);
                if let Err(fault) = reader.feed(bytes) {
                    self.faults.push(fault);
                }
            }
            Some(Far::SipHand { said, buffer }) => {
                said.extend_from_slice(bytes);
                buffer.extend_from_slice(bytes);
                self.read_sip(link, PROXY);
            }
            Some(Far::Hop { ip, buffer }) => {
                let ip = *ip;
                if self.moods.get(&ip) == Some(&Mood::Deaf) {
                    return;
                }
                buffer.extend_from_slice(bytes);
                self.read_sip(link, ip);
            }
            Some(Far::Server { domain, reader, .. }) => {
                let domain = domain.clone();
                let pieces = reader.feed(bytes);
                if self.mood(self.ip_of(&domain)) == Mood::Deaf {
                    return;
                }
                match pieces {
                    Ok(pieces) => pieces.into_iter().for_each(|piece| self.on_piece(link, &domain, piece)),
                    Err(fault) => self.faults.push(fault),
                }
            }
            Some(Far::Nobody) | None => return,
        }
        self.house.drained(link);
    }

    fn read_sip(&mut self, link: LinkId, ip: IpAddr) {
        loop {
            let (Some(Far::Hop { buffer, .. }) | Some(Far::SipHand { buffer, .. })) = self.far.get_mut(&link) else {
                return;
            };
            // Keep-alives.
            while buffer.starts_with(b"\r\n") {
                buffer.drain(..2);
            }
            match Sip::read(buffer) {
                Ok(Some((message, used))) => {
                    buffer.drain(..used);
                    self.on_sip(message, Some(link), ip);
                }
                Ok(None) => return,
                Err(fault) => {
                    self.faults.push(format!("no SIP: {fault}"));
                    return;
                }
            }
        }
    }

    fn on_sip(&mut self, message: Sip, link: Option<LinkId>, ip: IpAddr) {
        if message.is_response() {
            self.responses.entry(message.get("Call-ID").into()).or_default().push(message);
            return;
        }
        let status = match self.mood(ip) {
            Mood::Silent => None,
            Mood::Answers(status) => Some(status),
            _ => Some(200),
        };
        let response = status.map(|status| message.response(status));
        self.requests.push(message);
        self.last_hop = link;
        if let Some(response) = response {
            match link {
                Some(link) => self.house.octets(link, response.as_bytes()),
                None => self.house.datagram(SIP_UDP, SocketAddr::new(ip, 5060), response.as_bytes()),
            }
        }
    }

    /// A server that the gateway connected to.
    fn on_piece(&mut self, link: LinkId, domain: &str, piece: Piece) {
        let mood = self.mood(self.ip_of(domain));
        let Some(Far::Server { secure, proved, handled, .. }) = self.far.get_mut(&link) else { return };
        if let (false, Piece::Element(el)) = (*secure, &piece) {
            self.in_the_clear.push(el.clone());
        }
        let answer = match piece {
            Piece::Header(asked) => {
                let id = format!(" id='s{}'", link.0);
                let header = header(domain, asked.attr("from"));
                if mood == Mood::Legacy {
                    header.replace(" version='1.0'>", &format!("{id}>"))
                } else {
                    let header = header.replace(" version='1.0'>", &format!("{id} version='1.0'>"));
                    format!(
                        "{header}<stream:features>{}</stream:features>",
                        features(mood, *secure, *proved, self.management)
                    )
                }
            }
            Piece::End => "</stream:stream>".into(),
            Piece::Element(el) => match (&*el.ns, &*el.name) {
                (_, "starttls") if mood == Mood::RefusesTls => {
                    "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>".into()
                }
                (_, "starttls") => "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>".into(),
                (_, "auth") => {
                    *proved = true;
                    "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".into()
                }
                ("jabber:server:dialback", "verify") => match self.verdict {
                    Some(verdict) => verdict(&el),
                    None => {
                        let verdict = if el.text.trim().starts_with("good") { "valid" } else { "invalid" };
                        format!(
                            "<db:verify from='{}' to='{}' id='{}' type='{verdict}'/>",
                            el.attr("to"),
                            el.attr("from"),
                            el.attr("id")
                        )
                    }
                },
                ("jabber:server:dialback", _) => {
                    format!("<db:result from='{}' to='{}' type='valid'/>", el.attr("to"), el.attr("from"))
                }
                ("urn:xmpp:sm:3", "enable") => "<enabled xmlns='urn:xmpp:sm:3'/>".into(),
                ("urn:xmpp:sm:3", "r") => format!("<a xmlns='urn:xmpp:sm:3' h='{handled}'/>"),
                ("http://etherx.jabber.org/streams", _) => {
                    self.stream_errors.push((domain.into(), el));
                    return;
                }
                _ => {
                    *handled += u32::from(el.ns == "jabber:server");
                    if el.child("ping").is_some() && el.attr("type") == "get" {
                        self.answer_ping(domain, &el);
                    } else {
                        self.stanzas.push((domain.into(), el));
                    }
                    return;
                }
            },
        };
        self.house.octets(link, answer.as_bytes());
    }

    /// The answer goes over a stream of the server's own.
    fn answer_ping(&mut self, domain: &str, ping: &El) {
        if let Some(link) = self.honest.filter(|_| domain == HONEST) {
            let (from, to, id) = (ping.attr("to"), ping.attr("from"), ping.attr("id"));
            self.house.octets(link, format!("<iq from='{from}' to='{to}' id='{id}' type='result'/>").as_bytes());
        }
    }

    /// Breaks every stream that the gateway opened to a domain.
    pub(crate) fn break_streams_to(&mut self, domain: &str) {
        let links: Vec<LinkId> = self
            .far
            .iter()
            .filter(|(_, far)| matches!(far, Far::Server { domain: d, .. } if d == domain))
            .map(|(link, _)| *link)
            .collect();
        for link in links {
            self.far.remove(&link);
            self.house.close(link, CloseReason::Reset);
        }
        self.pump();
    }

    /// Breaks every connection that the gateway made to a next hop.
    pub(crate) fn break_next_hop(&mut self) {
        let links: Vec<LinkId> =
            self.far.iter().filter(|(_, far)| matches!(far, Far::Hop { .. })).map(|(link, _)| *link).collect();
        for link in links {
            self.far.remove(&link);
            self.house.close(link, CloseReason::Reset);
        }
        self.pump();
    }

    /// Links that the gateway opened to a domain's server and that stand.
    pub(crate) fn streams_to(&self, domain: &str) -> Vec<LinkId> {
        let is_to = |far: &Far| matches!(far, Far::Server { domain: d, .. } if d == domain);
        let all = self.far.iter().filter(|(link, far)| is_to(far) && self.house.is_open(**link));
        all.map(|(link, _)| *link).collect()
    }

    /// A DNS that knows every domain here and nothing else.
    fn resolve(&self, question: &[u8]) -> Vec<u8> {
        let (mut labels, mut at) = (Vec::new(), 12);
        while let Some(length) = question.get(at).map(|l| usize::from(*l)).filter(|l| *l > 0) {
            labels.push(String::from_utf8_lossy(&question[at + 1..at + 1 + length]).to_ascii_lowercase());
            at += 1 + length;
        }
        let name = labels.join(".");
        let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
        let end = at + 5;
        let known = |name: &str| self.domains.iter().any(|d| d == name);
        let data = match (kind, name.strip_prefix("_xmpp-server._tcp.")) {
            (33, Some(domain)) if known(domain) => {
                let mut data = vec![0, 1, 0, 1, 0x14, 0x95];
                for label in domain.split('.') {
                    data.push(label.len() as u8);
                    data.extend_from_slice(label.as_bytes());
                }
                data.push(0);
                Some(data)
            }
            (1, _) if known(&name) => match self.ip_of(&name) {
                IpAddr::V4(v4) => Some(v4.octets().to_vec()),
                IpAddr::V6(_) => None,
            },
            _ => None,
        };
        let is_known = labels.len() >= 2 && known(&labels[labels.len() - 2..].join("."));
        let mut answer = question[..2].to_vec();
        answer.extend_from_slice(&[
            0x81,
            if is_known { 0x80 } else { 0x83 },
            0,
            1,
            0,
            u8::from(data.is_some()),
            0,
            0,
            0,
            0,
        ]);
        answer.extend_from_slice(&question[12..end]);
        if let Some(data) = data {
            answer.extend_from_slice(&[0xC0, 12]);
            answer.extend_from_slice(&kind.to_be_bytes());
            answer.extend_from_slice(&[0, 1, 0, 0, 14, 16, 0, data.len() as u8]);
            answer.extend_from_slice(&data);
        }
        answer
    }
}

fn features(mood: Mood, secure: bool, proved: bool, management: bool) -> &'static str {
    match (secure, proved) {
        (false, _) if mood == Mood::OffersNoTls => "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>",
        (false, _) => "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>",
        (true, false) => {
            "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>\
             <dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>"
        }
        (true, true) if management => "<sm xmlns='urn:xmpp:sm:3'/>",
        (true, true) => "",
    }
}

fn server_ip(place: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 51, 100 + (place / 200) as u8, 1 + (place % 200) as u8))
}

/// A partner whose server is at the place-th address.
pub(crate) fn partner(domain: &str, place: usize) -> Partner {
    let mut partner = Partner::new(domain);
    partner.kind = PartnerKind::Federated;
    partner.proxy = Some((server_ip(place).to_string(), Some(5269)));
    partner
}

pub(crate) fn sip_domain(domain: &str, hop: IpAddr) -> SipDomain {
    SipDomain {
        next_hop: Some(NextHop { transport: NextHopTransport::Tcp, host: hop.to_string(), port: None }),
        peers: vec![Peer::Network(Network { address: hop, length: 32 }), Peer::Host(domain.into())],
        ..SipDomain::new(domain)
    }
}

/// One SIP domain, two partners.
pub(crate) fn settings() -> Settings {
    let listener =
        |name: &str, kind, port| Listener { name: name.into(), kind, address: SocketAddr::new(GATEWAY, port) };
    Settings {
        host_name: "gw.example".into(),
        dns_servers: vec![SocketAddr::new(DNS, 53)],
        listeners: vec![
            listener("udp", ListenerKind::SipUdp, 5060),
            listener("tcp", ListenerKind::SipTcp, 5060),
            listener("tls", ListenerKind::SipTls, 5061),
            listener("xmpp", ListenerKind::XmppStartTls, 5269),
            listener("xmpp-tls", ListenerKind::XmppDirectTls, 5270),
        ],
        sip_domains: vec![sip_domain(OURS, PROXY)],
        partners: vec![partner(EVIL, 0), partner(HONEST, 1)],
        ..Settings::default()
    }
}

/// A certificate of a CA that is trusted, for these names.
pub(crate) fn certificate(names: &[&str]) -> PeerCertificate {
    PeerCertificate {
        verdict: Some(Ok(())),
        dns_names: names.iter().map(|name| (*name).to_string()).collect(),
        protocol: "TLS1.3".into(),
        ..PeerCertificate::default()
    }
}

pub(crate) fn header(from: &str, to: &str) -> String {
    format!(
        "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
         xmlns:db='jabber:server:dialback' from='{from}' to='{to}' version='1.0'>"
    )
}

pub(crate) fn message(from: &str, to: &str, id: &str, body: &str) -> String {
    format!(
        "<message from='{from}' to='{to}' id='{id}' type='chat'><body>{}</body></message>",
        crate::xml::escape(body)
    )
}

/// A MESSAGE as the next hop of `sip.example` sends it.
pub(crate) fn sip_message(from: &str, to: &str, call: &str, body: &str) -> String {
    sip_request(from, to, call, "", body)
}

/// The same with further header lines, each with its CRLF.
pub(crate) fn sip_request(from: &str, to: &str, call: &str, more: &str, body: &str) -> String {
    format!(
        "MESSAGE sip:{to} SIP/2.0\r\nVia: SIP/2.0/UDP {PROXY}:5060;branch=z9hG4bK{call}\r\nMax-Forwards: 70\r\n\
         From: <sip:{from}>;tag=t{call}\r\nTo: <sip:{to}>\r\nCall-ID: {call}\r\nCSeq: 1 MESSAGE\r\n{more}\
         Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
