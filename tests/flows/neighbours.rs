//! Both neighbours of the gateway, driven by hand: the SIP proxy at one address and the
//! XMPP server at another, a DNS between them. They answer what every neighbour answers
//! by itself (negotiation, pings, keep-alives) and keep everything else for the test.

#![allow(dead_code, reason = "each test target that includes this file uses another part of it")]

use crate::peers::{self, Dns, Do, Element, Manner, Record, Role, SipMessage, SipReader, Stream};
use crate::world::{Arrived, World};
use latimer::base::certificate::PeerCertificate;
use latimer::base::net::{CloseReason, LinkId, ListenerId, Network, Transport};
use latimer::gateway::Gateway;
use latimer::settings::{
    Listener, ListenerKind, NextHop, NextHopTransport, Partner, PartnerKind, Peer, Settings, SipDomain,
};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub const SIP_TLS: ListenerId = ListenerId(0);
pub const SIP_TCP: ListenerId = ListenerId(1);
pub const SIP_UDP: ListenerId = ListenerId(2);
pub const XMPP_STARTTLS: ListenerId = ListenerId(3);

const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
pub const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 21));
const XMPP_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 31));
const DNS_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));

/// Who is who.
#[derive(Clone, Debug)]
pub struct Names {
    pub gateway: String,
    /// The partner first, then its additional domains.
    pub xmpp: Vec<String>,
    pub sip: Vec<String>,
    pub proxy: String,
    /// How the gateway reaches the proxy.
    pub transport: NextHopTransport,
    /// Domains that are nobody's partner and have an XMPP server all the same.
    pub strangers: Vec<String>,
}

impl Names {
    /// One SIP domain, reached over TLS, and one XMPP domain.
    pub fn usual() -> Self {
        Self {
            gateway: "gw.edge.example".into(),
            xmpp: vec!["chat.example".into()],
            sip: vec!["voip.example".into()],
            proxy: "proxy.voip.example".into(),
            transport: NextHopTransport::Tls,
            strangers: Vec::new(),
        }
    }

    /// Settings in which exactly these domains talk.
    pub fn settings(&self) -> Settings {
        let listener =
            |name: &str, kind, port| Listener { name: name.into(), kind, address: SocketAddr::new(GATEWAY, port) };
        let mut partner = Partner::new(&self.xmpp[0]);
        partner.kind = PartnerKind::Federated;
        partner.additional_domains = self.xmpp[1..].to_vec();
        let sip_domain = |domain: &String| SipDomain {
            next_hop: Some(NextHop { transport: self.transport, host: self.proxy.clone(), port: None }),
            peers: vec![Peer::Host(self.proxy.clone()), Peer::Network(Network { address: PROXY, length: 32 })],
            ..SipDomain::new(domain)
        };
        Settings {
            host_name: self.gateway.clone(),
            dns_servers: vec![SocketAddr::new(DNS_SERVER, 53)],
            listeners: vec![
                listener("sip-tls", ListenerKind::SipTls, 5061),
                listener("sip-tcp", ListenerKind::SipTcp, 5060),
                listener("sip-udp", ListenerKind::SipUdp, 5060),
                listener("xmpp", ListenerKind::XmppStartTls, 5269),
                listener("xmpp-tls", ListenerKind::XmppDirectTls, 5270),
            ],
            sip_domains: self.sip.iter().map(sip_domain).collect(),
            partners: vec![partner],
            ..Settings::default()
        }
    }

    fn dns(&self) -> Dns {
        let mut dns = Dns::default();
        dns.add(&self.proxy, Record::A([192, 0, 2, 21]));
        dns.add("xmpp.world.example", Record::A([192, 0, 2, 31]));
        for domain in self.xmpp.iter().chain(&self.strangers) {
            dns.add(&format!("_xmpp-server._tcp.{domain}"), Record::Srv(5, 10, 5269, "xmpp.world.example".into()));
        }
        dns
    }
}

/// A gateway with these settings, as it stands after its start.
pub fn start(settings: Settings) -> Gateway {
    Gateway::new(settings, b"a secret of the tests")
}

/// A certificate of the world's CA for these names.
pub fn certificate(names: &[&str], sip_hosts: &[&str]) -> PeerCertificate {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect();
    PeerCertificate {
        verdict: Some(Ok(())),
        dns_names: owned(names),
        sip_hosts: owned(sip_hosts),
        protocol: "TLS1.3".into(),
        ..PeerCertificate::default()
    }
}

/// A SIP message of the gateway's.
#[derive(Clone, Debug)]
pub struct SipCame {
    pub via: Transport,
    /// Where an answer goes.
    pub back: Back,
    pub message: SipMessage,
}

/// The way back to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    Link(LinkId),
    Datagram,
}

struct SipLink {
    transport: Transport,
    /// The proxy, or whoever the certificate names.
    identity: String,
    up: bool,
    reader: SipReader,
    /// Waits until the link is up.
    waiting: Vec<u8>,
}

struct XmppLink {
    stream: Stream,
    /// Stanzas that wait until the stream is ready.
    waiting: Vec<String>,
}

/// The two neighbours and what they got.
pub struct Neighbours {
    pub world: World,
    pub names: Names,
    pub dns: Dns,
    /// Ports at which the proxy shows another certificate, of that name.
    pub edges: BTreeMap<u16, String>,
    pub sip: VecDeque<SipCame>,
    pub xmpp: VecDeque<Element>,
    /// What broke the protocol; a test that sees one has failed.
    pub faults: Vec<String>,
    /// Links that the gateway closed.
    pub closed: Vec<LinkId>,
    dns_links: Vec<LinkId>,
    sip_links: BTreeMap<LinkId, SipLink>,
    xmpp_links: BTreeMap<LinkId, XmppLink>,
    /// Branch of a request of the gateway's -> where its responses go.
    branches: BTreeMap<String, Back>,
    next_port: u16,
}

impl Neighbours {
    pub fn new(names: Names, settings: Settings, seed: u64) -> Self {
        Self {
            world: World::new(start(settings), seed),
            dns: names.dns(),
            edges: BTreeMap::new(),
            names,
            sip: VecDeque::new(),
            xmpp: VecDeque::new(),
            faults: Vec::new(),
            closed: Vec::new(),
            dns_links: Vec::new(),
            sip_links: BTreeMap::new(),
            xmpp_links: BTreeMap::new(),
            branches: BTreeMap::new(),
            next_port: 40_000,
        }
    }

    /// Kills the gateway and starts another one with the same settings.
    pub fn restart(&mut self, settings: Settings) {
        self.world.restart(start(settings));
        self.sip_links.clear();
        self.xmpp_links.clear();
        self.dns_links.clear();
        self.branches.clear();
        self.settle();
    }

    /// Lets everything happen that is due now.
    pub fn settle(&mut self) {
        self.advance(0);
    }

    /// Moves the clock on by that many milliseconds.
    pub fn advance(&mut self, by: u64) {
        let until = self.world.now + by;
        while let Some(arrived) = self.world.next(until) {
            self.on(arrived);
        }
    }

    /// Moves the clock on to the next thing that happens, `until` at the latest.
    /// False: the clock stands at `until`.
    pub fn step(&mut self, until: u64) -> bool {
        match self.world.next_due().filter(|due| *due <= until) {
            Some(due) => {
                while let Some(arrived) = self.world.next(due) {
                    self.on(arrived);
                }
                true
            }
            None => {
                self.advance(until.saturating_sub(self.world.now));
                false
            }
        }
    }

    // ---- What the test sends

    /// A SIP request: over a link of ours that proves `identity`, or as a datagram.
    pub fn send_request(&mut self, transport: Transport, identity: Option<&str>, bytes: &[u8]) {
        if transport == Transport::Udp {
            self.world.datagram(SIP_UDP, SocketAddr::new(PROXY, 5060), bytes);
        } else {
            let link = self.sip_link(transport, identity);
            self.send_octets(link, bytes);
        }
        self.settle();
    }

    /// Octets on a SIP connection of ours.
    pub fn send_octets(&mut self, link: LinkId, bytes: &[u8]) {
        match self.sip_links.get_mut(&link) {
            Some(l) if !l.up => l.waiting.extend_from_slice(bytes),
            _ => self.world.send(link, bytes),
        }
    }

    /// A SIP response: back the way its request came.
    pub fn send_response(&mut self, bytes: &[u8]) -> Result<(), String> {
        let message = SipMessage::parse(bytes)?;
        let branch = message.branch().ok_or("a response without a branch")?;
        match self.branches.get(branch) {
            Some(Back::Link(link)) => self.world.send(*link, bytes),
            Some(Back::Datagram) => self.world.datagram(SIP_UDP, SocketAddr::new(PROXY, 5060), bytes),
            None => return Err(format!("no request with branch {branch} came")),
        }
        self.settle();
        Ok(())
    }

    /// A SIP connection of ours, made when there is none yet.
    pub fn sip_link(&mut self, transport: Transport, identity: Option<&str>) -> LinkId {
        let identity = identity.unwrap_or(&self.names.proxy).to_string();
        let found = self.sip_links.iter().find(|(link, l)| {
            l.transport == transport && l.identity == identity && self.world.links.get(link).is_some_and(|l| l.inbound)
        });
        if let Some((link, _)) = found {
            return *link;
        }
        self.new_sip_link(transport, &identity)
    }

    /// A new SIP connection of ours.
    pub fn new_sip_link(&mut self, transport: Transport, identity: &str) -> LinkId {
        self.next_port += 1;
        let from = SocketAddr::new(PROXY, self.next_port);
        let listener = if transport == Transport::Tls { SIP_TLS } else { SIP_TCP };
        let certificate = self.proxy_certificate(identity);
        let link = self.world.dial(listener, transport, from, certificate);
        let up = transport != Transport::Tls;
        let l = SipLink { transport, identity: identity.into(), up, reader: SipReader::default(), waiting: Vec::new() };
        self.sip_links.insert(link, l);
        self.settle();
        link
    }

    fn proxy_certificate(&self, identity: &str) -> PeerCertificate {
        if identity == self.names.proxy {
            let sip: Vec<&str> = self.names.sip.iter().map(String::as_str).collect();
            certificate(&[identity], &sip)
        } else {
            certificate(&[identity], &[identity])
        }
    }

    /// A stanza from the server of `ours`, over a stream to the gateway's domain
    /// `theirs`.
    pub fn send_stanza(&mut self, ours: &str, theirs: &str, stanza: &str) -> Result<(), String> {
        let found = self
            .xmpp_links
            .iter()
            .find(|(_, l)| l.stream.role == Role::Initiator && l.stream.ours == ours && l.stream.theirs == theirs);
        let link = match found {
            Some((link, _)) => *link,
            None => self.open_stream(ours, theirs),
        };
        let Some(l) = self.xmpp_links.get_mut(&link) else { return Err("the stream is gone".into()) };
        if l.stream.ready {
            self.world.send(link, stanza.as_bytes());
        } else {
            l.waiting.push(stanza.into());
        }
        self.settle();
        match self.xmpp_links.get(&link) {
            Some(l) if l.stream.ready => Ok(()),
            _ => Err(format!("the stream from {ours} to {theirs} does not open: {:?}", self.faults)),
        }
    }

    fn open_stream(&mut self, ours: &str, theirs: &str) -> LinkId {
        self.next_port += 1;
        let from = SocketAddr::new(XMPP_SERVER, self.next_port);
        let link = self.world.dial(XMPP_STARTTLS, Transport::Tcp, from, self.server_certificate(ours));
        let stream = Stream::new(Role::Initiator, ours, theirs, "", Manner::default());
        let header = stream.header();
        self.xmpp_links.insert(link, XmppLink { stream, waiting: Vec::new() });
        self.world.send(link, header.as_bytes());
        self.settle();
        link
    }

    /// Octets on an XMPP connection that knows no rules.
    pub fn send_raw_stream(&mut self, octets: &[u8]) -> LinkId {
        self.next_port += 1;
        let from = SocketAddr::new(XMPP_SERVER, self.next_port);
        let link = self.world.dial(XMPP_STARTTLS, Transport::Tcp, from, certificate(&["far.example"], &[]));
        self.world.send(link, octets);
        self.settle();
        link
    }

    /// Answers every SIP request that came with this status.
    pub fn answer_all(&mut self, status: u16) {
        for came in core::mem::take(&mut self.sip) {
            if came.message.method().is_some_and(|method| method != "ACK") {
                let response = came.message.response(status, "Answer", "all", "");
                if let Err(problem) = self.send_response(&response) {
                    self.faults.push(problem);
                }
            }
        }
    }

    /// Resets a part of all connections.
    pub fn break_all(&mut self, part: u8) {
        let links: Vec<LinkId> = self.world.links.keys().copied().collect();
        for link in links.into_iter().filter(|link| (link.0 as u8) & part == part & 3) {
            self.world.reset(link);
        }
        self.settle();
    }

    /// The server of the partner's domains proves all of them at once.
    fn server_certificate(&self, domain: &str) -> PeerCertificate {
        if self.names.xmpp.iter().any(|d| d == domain) {
            let all: Vec<&str> = self.names.xmpp.iter().map(String::as_str).collect();
            certificate(&all, &[])
        } else {
            certificate(&[domain], &[])
        }
    }

    // ---- What comes

    fn on(&mut self, arrived: Arrived) {
        match arrived {
            Arrived::Datagram { to, bytes, .. } => self.on_datagram(to, &bytes),
            Arrived::Connect { link, transport, to } => self.on_connect(link, transport, to),
            Arrived::Octets { link, bytes } => self.on_octets(link, &bytes),
            Arrived::Secured { link, remote } => self.on_secured(link, &remote),
            Arrived::Closed { link } => {
                self.closed.push(link);
                self.sip_links.remove(&link);
                self.xmpp_links.remove(&link);
                self.dns_links.retain(|l| *l != link);
            }
            Arrived::Wake(_) => {}
        }
    }

    fn on_datagram(&mut self, to: SocketAddr, bytes: &[u8]) {
        if to.ip() != PROXY {
            self.faults.push(format!("a datagram to {to}"));
            return;
        }
        if bytes.iter().all(|b| matches!(b, b'\r' | b'\n')) {
            return;
        }
        match SipMessage::parse(bytes) {
            Ok(message) => self.keep_sip(Transport::Udp, Back::Datagram, message),
            Err(problem) => self.faults.push(format!("a datagram that is no SIP: {problem}")),
        }
    }

    fn keep_sip(&mut self, via: Transport, back: Back, message: SipMessage) {
        if let (Some(_), Some(branch)) = (message.method(), message.branch()) {
            self.branches.insert(branch.into(), back);
        }
        self.sip.push_back(SipCame { via, back, message });
    }

    fn on_connect(&mut self, link: LinkId, transport: Transport, to: SocketAddr) {
        match (to.ip(), transport, to.port()) {
            (DNS_SERVER, Transport::Udp, 53) => {
                self.dns_links.push(link);
                self.world.accept(link, transport, PeerCertificate::default());
            }
            (PROXY, Transport::Tcp | Transport::Tls, port) if self.edges.contains_key(&port) => {
                let identity = self.edges[&port].clone();
                let reader = SipReader::default();
                let certificate = certificate(&[&identity], &[]);
                self.sip_links.insert(link, SipLink { transport, identity, up: true, reader, waiting: Vec::new() });
                self.world.accept(link, transport, certificate);
            }
            (PROXY, Transport::Tcp | Transport::Tls, 5060 | 5061) => {
                let certificate = self.proxy_certificate(&self.names.proxy.clone());
                let identity = self.names.proxy.clone();
                let reader = SipReader::default();
                self.sip_links.insert(link, SipLink { transport, identity, up: true, reader, waiting: Vec::new() });
                self.world.accept(link, transport, certificate);
            }
            (XMPP_SERVER, Transport::Tcp, 5269) => {
                let id = format!("in{}", link.0);
                let stream = Stream::new(Role::Receiver, "", "", &id, Manner::default());
                self.xmpp_links.insert(link, XmppLink { stream, waiting: Vec::new() });
                // Which domain is meant shows only when TLS begins.
                let certificate = self.all_servers_certificate();
                self.world.accept(link, transport, certificate);
            }
            _ => self.world.refuse(link, CloseReason::Refused, 0),
        }
    }

    fn all_servers_certificate(&self) -> PeerCertificate {
        let all: Vec<&str> = self.names.xmpp.iter().chain(&self.names.strangers).map(String::as_str).collect();
        certificate(&all, &[])
    }

    fn on_octets(&mut self, link: LinkId, bytes: &[u8]) {
        if self.dns_links.contains(&link) {
            if let Some(answer) = self.dns.answer(bytes) {
                self.world.send(link, &answer);
            }
        } else if let Some(l) = self.sip_links.get_mut(&link) {
            let transport = l.transport;
            match l.reader.receive(bytes) {
                Ok((messages, pings)) => {
                    for _ in 0..pings {
                        self.world.send(link, b"\r\n");
                    }
                    for message in messages {
                        self.keep_sip(transport, Back::Link(link), message);
                    }
                }
                Err(problem) => self.faults.push(format!("not SIP: {problem}: {}", String::from_utf8_lossy(bytes))),
            }
        } else if let Some(l) = self.xmpp_links.get_mut(&link) {
            match l.stream.receive(bytes) {
                Ok(all) => self.act(link, all),
                Err(problem) => self.faults.push(format!("not XMPP: {problem}: {}", String::from_utf8_lossy(bytes))),
            }
        }
    }

    fn on_secured(&mut self, link: LinkId, remote: &str) {
        if let Some(l) = self.sip_links.get_mut(&link) {
            l.up = true;
            l.transport = Transport::Tls;
            let waiting = core::mem::take(&mut l.waiting);
            if !waiting.is_empty() {
                self.world.send(link, &waiting);
            }
        } else if let Some(l) = self.xmpp_links.get_mut(&link) {
            if l.stream.role == Role::Receiver && !remote.is_empty() && remote != l.stream.ours {
                self.faults.push(format!("TLS for {remote}, the stream for {}", l.stream.ours));
            }
            let all = l.stream.secured();
            self.act(link, all);
        }
    }

    fn act(&mut self, link: LinkId, all: Vec<Do>) {
        for one in all {
            match one {
                Do::Send(text) => self.world.send(link, text.as_bytes()),
                Do::StartTls | Do::Acknowledged(_) => {}
                Do::Ready => {
                    let Some(l) = self.xmpp_links.get_mut(&link) else { continue };
                    for stanza in core::mem::take(&mut l.waiting) {
                        self.world.send(link, stanza.as_bytes());
                    }
                }
                Do::Stanza(stanza) => self.xmpp.push_back(stanza),
                // The world's gateway is whom it says to be.
                Do::Verify { from, to, .. } => {
                    let Some(l) = self.xmpp_links.get_mut(&link) else { continue };
                    let all = l.stream.dialback_verdict(&from, &to, true);
                    self.act(link, all);
                }
                Do::Verified { .. } => {}
                Do::Resume { .. } => {
                    let Some(l) = self.xmpp_links.get_mut(&link) else { continue };
                    let all = l.stream.not_resumed();
                    self.act(link, all);
                }
                Do::End(why) => {
                    if let Some(why) = why {
                        self.faults.push(format!("the stream ended: {why}"));
                    }
                    self.world.close(link);
                    self.xmpp_links.remove(&link);
                }
            }
        }
    }

    /// Answers an iq request of the gateway's own.
    pub fn refuse_iq(&mut self, iq: &Element) {
        let of = |name: &str| peers::escape(iq.attribute(name).unwrap_or_default());
        let (from, to) = (of("to"), of("from"));
        let text = format!(
            "<iq type='error' id='{}' from='{from}' to='{to}'><error type='cancel'>\
             <service-unavailable xmlns='{}'/></error></iq>",
            of("id"),
            peers::STANZAS
        );
        let (ours, theirs) = (peers::domain_of(&from).to_string(), peers::domain_of(&to).to_string());
        if let Err(problem) = self.send_stanza(&ours, &theirs, &text) {
            self.faults.push(problem);
        }
    }
}
