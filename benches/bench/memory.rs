//! The gateway without sockets: partners and a SIP next hop that answer in memory, so
//! that what is measured is `Gateway::handle` alone.

use latimer::appliance::config;
use latimer::base::counters::Counters;
use latimer::base::cx::Cx;
use latimer::base::net::{LinkId, ListenerId};
use latimer::base::outbox::{Action, Outbox};
use latimer::base::rng::Rng;
use latimer::base::time::{Instant, Wall};
use latimer::gateway::Gateway;
use latimer::gateway::input::Input;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// What some calls of the gateway cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub ns: u128,
    pub allocations: u64,
    pub octets: u64,
    /// Octets allocated and not given back.
    pub held: i64,
}

/// A link of the gateway, as its other end sees it.
struct Peer {
    link: LinkId,
    partner: usize,
    /// Octets the gateway sent on it.
    sent: u64,
}

pub struct Memory {
    gateway: Gateway,
    rng: Rng,
    out: Outbox,
    count: Counters,
    now: u64,
    cost: Cost,
    /// The streams the gateway opened to its partners, and those that they opened.
    out_links: Vec<Peer>,
    in_links: Vec<LinkId>,
    /// The octets the last call made the gateway send, and where.
    last: Vec<u8>,
    last_link: Option<LinkId>,
    datagram: Vec<u8>,
    /// All SIP messages among them.
    pub sip_sent: Vec<Vec<u8>>,
    /// Presence stanzas the gateway sent.
    pub presences_sent: usize,
    pub sip: Sip,
    /// The gateway asked for a SIP connection that is not up yet.
    is_sip_dialed: bool,
    /// The SIP connections: ours to the gateway, and the gateway's to us.
    sip_links: [Option<LinkId>; 2],
    /// Records the gateway gave to be stored, and those it was told to be safe.
    stored: [u64; 2],
    /// Connections the gateway asked for and that are not answered yet.
    connects: Vec<(LinkId, SocketAddr)>,
    number: u64,
}

/// How the next hop and the gateway reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sip {
    Udp,
    Tcp,
}

const SIP: ListenerId = ListenerId(0);
const XMPP: ListenerId = ListenerId(1);
const SIP_PORT: u16 = 5060;

impl Memory {
    /// A gateway with one stream in each direction for each of `partners` domains.
    pub fn new(partners: usize) -> Self {
        Self::over(Sip::Udp, partners, "")
    }

    /// The same with a choice of the SIP transport, and settings of its own.
    pub fn over(sip: Sip, partners: usize, more: &str) -> Self {
        let name = if sip == Sip::Udp { "udp" } else { "tcp" };
        let mut lines = format!(
            "set system host-name gw.example\nset sip listen main {name}:127.0.0.1:{SIP_PORT}\n\
             set xmpp listen servers starttls:127.0.0.1:5269\n\
             set sip domain sip.example next-hop {name}:127.0.0.2:{SIP_PORT}\n\
             set sip domain sip.example peer 127.0.0.2/32\n{more}"
        );
        for number in 0..partners {
            let domain = format!("p{number}.example");
            let _ = write!(
                lines,
                "set partner {domain} type federated\nset partner {domain} tls not-supported\n\
                 set partner {domain} sasl not-supported\nset partner {domain} proxy 127.0.0.3:{}\n",
                10_000 + number
            );
        }
        let (config, _) = config::load(&lines).expect("a good configuration");
        let mut memory = Self {
            gateway: Gateway::new(config.settings, &[7; 32]),
            rng: Rng::from_number(1),
            out: Outbox::with_capacity(64 * 1024, 256),
            count: Counters::default(),
            now: 1,
            cost: Cost::default(),
            out_links: Vec::new(),
            in_links: Vec::new(),
            last: Vec::with_capacity(64 * 1024),
            last_link: None,
            datagram: Vec::with_capacity(64 * 1024),
            sip_sent: Vec::new(),
            presences_sent: 0,
            sip,
            is_sip_dialed: false,
            sip_links: [None; 2],
            stored: [0; 2],
            connects: Vec::new(),
            number: 0,
        };
        for partner in 0..partners {
            memory.open_streams(partner);
        }
        memory
    }

    /// What was measured since this was last asked.
    pub fn take_cost(&mut self) -> Cost {
        std::mem::take(&mut self.cost)
    }

    /// A MESSAGE comes from SIP, a `<message/>` goes to the partner, a 200 goes back.
    pub fn message_from_sip(&mut self, partner: usize) {
        self.sip_sent.clear();
        let request = self.request(partner);
        self.sip_sends(&request);
        let peer = self.out_links.iter().find(|peer| peer.partner == partner).expect("an open stream");
        let (link, sent) = (peer.link, peer.sent);
        assert_eq!(self.last_link, Some(link), "no stanza went out: {}", String::from_utf8_lossy(&self.datagram));
        self.handle(Input::Drained { link, sent });
        assert!(self.datagram.starts_with(b"SIP/2.0 200"), "{}", String::from_utf8_lossy(&self.datagram));
        self.pass_time(20);
    }

    /// A `<message/>` comes from the partner, a MESSAGE goes to SIP and is answered 200.
    pub fn message_from_xmpp(&mut self, partner: usize) {
        self.sip_sent.clear();
        self.number += 1;
        let mut stanza = stanza(self.number, &format!("p{partner}.example")).into_bytes();
        let link = self.in_links[partner];
        self.handle(Input::Stream { link, bytes: &mut stanza });
        let answer = answer_to(&self.datagram, "");
        self.sip_sends(&answer);
        self.pass_time(20);
    }

    fn request(&mut self, partner: usize) -> Vec<u8> {
        self.number += 1;
        request(self.number, &format!("p{partner}.example"), "UDP", "127.0.0.2:5060").into_bytes()
    }

    /// Time between two messages, in milliseconds: transactions end as they do in life.
    pub fn pass_time(&mut self, ms: u64) {
        self.now += ms;
        while self.gateway.deadline().is_some_and(|at| at.as_millis() <= self.now) {
            self.handle(Input::Timeout);
        }
    }

    fn handle(&mut self, input: Input<'_>) -> usize {
        let mut cx = Cx {
            now: Instant::from_millis(self.now),
            wall: Wall(1_800_000_000_000 + self.now as i64),
            rng: &mut self.rng,
            out: &mut self.out,
            count: &mut self.count,
        };
        let (mut used, mut ns) = (0, 0);
        let info = allocation_counter::measure(|| {
            let begun = std::time::Instant::now();
            used = self.gateway.handle(&mut cx, input);
            ns = begun.elapsed().as_nanos();
        });
        self.cost.ns += ns;
        self.cost.allocations += info.count_total;
        self.cost.octets += info.bytes_total;
        self.cost.held += info.bytes_current;
        self.take_actions();
        used
    }

    fn take_actions(&mut self) {
        self.last.clear();
        self.last_link = None;
        for action in self.out.actions() {
            match action {
                Action::Datagram { bytes, .. } => {
                    self.datagram.clear();
                    self.datagram.extend_from_slice(self.out.bytes(bytes));
                    self.sip_sent.push(self.datagram.clone());
                }
                Action::Send { link, bytes } if self.sip_links.contains(&Some(*link)) => {
                    self.sip_sent.push(self.out.bytes(bytes).to_vec());
                }
                Action::Store { .. } => self.stored[0] += 1,
                Action::Connect { link, to, .. } if to.port() == SIP_PORT => {
                    self.sip_links[1] = Some(*link);
                    self.is_sip_dialed = true;
                }
                Action::Send { link, bytes } => {
                    let bytes = self.out.bytes(bytes);
                    self.presences_sent += usize::from(bytes.starts_with(b"<presence"));
                    self.last.extend_from_slice(bytes);
                    self.last_link = Some(*link);
                    if let Some(peer) = self.out_links.iter_mut().find(|peer| peer.link == *link) {
                        peer.sent += bytes.len() as u64;
                    }
                }
                Action::Connect { link, to, .. } => self.connects.push((*link, *to)),
                _ => {}
            }
        }
        self.out.clear();
    }

    /// Octets come from the SIP side: requests on a connection of its own, everything else
    /// on the gateway's.
    pub fn sip_sends(&mut self, message: &[u8]) {
        let mut bytes = message.to_vec();
        if self.sip == Sip::Udp {
            self.handle(Input::Datagram { listener: SIP, from: next_hop(), bytes: &mut bytes });
            return;
        }
        let is_request = !message.starts_with(b"SIP/2.0") && !message.starts_with(b"\r\n");
        let link = match self.sip_links[usize::from(!is_request)] {
            Some(link) => link,
            None => {
                let link = self.out.new_link();
                self.sip_links[0] = Some(link);
                self.handle(Input::Accepted { link, listener: SIP, from: next_hop() });
                link
            }
        };
        let used = self.handle(Input::Stream { link, bytes: &mut bytes });
        assert_eq!(used, message.len(), "the gateway did not take {}", String::from_utf8_lossy(message));
    }

    /// Octets come from a partner.
    pub fn xmpp_sends(&mut self, partner: usize, text: &str) {
        self.receive(self.in_links[partner], text);
    }

    /// What the last event left is done: connections are made, stanzas have arrived and
    /// records are safe.
    pub fn after_event(&mut self) {
        if let Some(link) = self.sip_links[1].filter(|_| core::mem::take(&mut self.is_sip_dialed)) {
            self.handle(Input::Opened { link });
        }
        self.drain();
        self.sync();
        self.drain();
    }

    fn drain(&mut self) {
        if let Some(peer) = self.out_links.iter().find(|peer| Some(peer.link) == self.last_link) {
            let (link, sent) = (peer.link, peer.sent);
            self.handle(Input::Drained { link, sent });
        }
    }

    /// What was given to be stored is safe.
    fn sync(&mut self) {
        let [given, safe] = self.stored;
        if given > safe {
            self.stored[1] = given;
            self.handle(Input::Stored { number: given });
        }
    }

    /// Dialback both ways, as a partner that believes everything.
    fn open_streams(&mut self, partner: usize) {
        let request = self.request(partner);
        self.sip_sends(&request);
        let link = self.accept_stream(partner);
        let valid = format!("<db:result from='p{partner}.example' to='sip.example' type='valid'/>");
        self.receive(link, &valid);
        let sent = self.out_links.last().expect("the stream just made").sent;
        self.handle(Input::Drained { link, sent });

        let incoming = self.out.new_link();
        let from = SocketAddr::from(([127, 0, 0, 3], 40_000));
        self.handle(Input::Accepted { link: incoming, listener: XMPP, from });
        self.receive(incoming, &header(partner, ""));
        let result = format!("<db:result from='p{partner}.example' to='sip.example'>key</db:result>");
        self.receive(incoming, &result);
        // The gateway asks on a stream it has, or on a new one.
        let asked = if self.connects.is_empty() { link } else { self.accept_stream(partner) };
        let text = String::from_utf8_lossy(&self.last).into_owned();
        let id = text.split("id='").nth(1).and_then(|rest| rest.split('\'').next()).expect("a db:verify with an id");
        let verify = format!("<db:verify from='p{partner}.example' to='sip.example' id='{id}' type='valid'/>");
        self.receive(asked, &verify);
        if asked != link {
            self.out_links.pop();
        }
        self.in_links.push(incoming);
    }

    /// Takes the connection that the gateway asked for, up to its first element.
    fn accept_stream(&mut self, partner: usize) -> LinkId {
        let (link, to) = self.connects.pop().expect("the gateway connects");
        assert_eq!(usize::from(to.port()), 10_000 + partner);
        self.out_links.push(Peer { link, partner, sent: 0 });
        self.handle(Input::Opened { link });
        self.receive(link, &header(partner, " id='stream'"));
        let features = "<stream:features><dialback xmlns='urn:xmpp:features:dialback'/></stream:features>";
        self.receive(link, features);
        link
    }

    /// Brings octets to the gateway until it has used them all.
    fn receive(&mut self, link: LinkId, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        let used = self.handle(Input::Stream { link, bytes: &mut bytes });
        assert_eq!(used, bytes.len(), "the gateway did not take {text}");
    }
}

fn header(partner: usize, id: &str) -> String {
    format!(
        "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
         xmlns:db='jabber:server:dialback' from='p{partner}.example' to='sip.example'{id} version='1.0'>"
    )
}

fn next_hop() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 2], SIP_PORT))
}

/// A 200 for a request, with further lines.
pub fn answer_to(request: &[u8], more: &str) -> Vec<u8> {
    let mut answer = b"SIP/2.0 200 OK\r\n".to_vec();
    for line in request.split_inclusive(|octet| *octet == b'\n').skip(1) {
        if [&b"Via"[..], b"From", b"To", b"Call-ID", b"CSeq"].iter().any(|name| line.starts_with(name)) {
            answer.extend_from_slice(line);
        }
    }
    answer.extend_from_slice(more.as_bytes());
    answer.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    answer
}

/// A message as a client sends it. Each has a text of its own: the same one again and
/// again would look like a loop.
pub fn stanza(number: u64, domain: &str) -> String {
    format!(
        "<message from='alice@{domain}/home' to='bob@sip.example' id='n{number:08}' type='chat'>\
         <body>{number:08}: yes, with bread and a lamp.</body></message>"
    )
}

/// A MESSAGE as a phone behind a proxy sends it.
pub fn request(number: u64, domain: &str, transport: &str, sender: &str) -> String {
    let body = format!("{number:08}: are you coming to the tower?");
    format!(
        "MESSAGE sip:alice@{domain} SIP/2.0\r\nVia: SIP/2.0/{transport} {sender};branch=z9hG4bK{number:08}\r\n\
         Via: SIP/2.0/UDP 192.0.2.7:5060;branch=z9hG4bKp{number:08};received=192.0.2.7;rport=5060\r\n\
         Max-Forwards: 69\r\nFrom: \"Bob\" <sip:bob@sip.example>;tag=f{number:08}\r\nTo: <sip:alice@{domain}>\r\n\
         Call-ID: c{number:08}@192.0.2.7\r\nCSeq: 1 MESSAGE\r\nUser-Agent: bench\r\n\
         Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
