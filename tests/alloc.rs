//! Counts what a message costs in allocations on each path through the gateway. The
//! numbers may only fall: whoever makes one smaller writes the new one here.
//!
//! The gateway is driven directly, with buffers that are used again, so that nothing but
//! the gateway's own allocations is counted.

use allocation_counter::AllocationInfo;
use latimer::base::certificate::PeerCertificate;
use latimer::base::counters::{Counter, Counters};
use latimer::base::cx::Cx;
use latimer::base::net::{LinkId, ListenerId, Transport};
use latimer::base::outbox::{Action, Level, Outbox};
use latimer::base::rng::Rng;
use latimer::base::time::{Instant, Wall};
use latimer::gateway::Gateway;
use latimer::gateway::input::Input;
use latimer::settings::{Listener, ListenerKind, NextHop, NextHopTransport, Partner, PartnerKind, Settings, SipDomain};
use std::io::Write as _;

/// Messages before counting, so that every table and buffer has its usual size.
const WARM: usize = 300;
/// Messages counted.
const COUNTED: usize = 200;

/// What a message may cost at most, in allocations; see `tests/alloc.rs`.
struct Most {
    /// MESSAGE in, a stanza out.
    sip_in: u64,
    /// The stanza has left: the 200 out.
    sip_answered: u64,
    /// A stanza in, MESSAGE out.
    xmpp_in: u64,
    /// The 200 in.
    xmpp_answered: u64,
    /// OPTIONS in, its 200 out: SIP alone.
    options: u64,
    /// A ping in, its result out: XMPP alone.
    ping: u64,
}

const MOST: Most = Most { sip_in: 7, sip_answered: 0, xmpp_in: 21, xmpp_answered: 0, options: 0, ping: 4 };

/// The gateway and the links of both neighbours.
struct Bench {
    gateway: Gateway,
    out: Outbox,
    rng: Rng,
    count: Counters,
    now: u64,
    /// Octets the gateway sent on its own stream to the partner.
    sent: u64,
    sip: LinkId,
    xmpp_in: LinkId,
    xmpp_out: LinkId,
}

impl Bench {
    fn new() -> Self {
        let settings = Settings {
            host_name: "gw.edge.example".into(),
            listeners: vec![
                Listener {
                    name: "s".into(),
                    kind: ListenerKind::SipTls,
                    address: "192.0.2.10:5061".parse().expect("ok"),
                },
                Listener {
                    name: "x".into(),
                    kind: ListenerKind::XmppStartTls,
                    address: "192.0.2.10:5269".parse().expect("ok"),
                },
            ],
            sip_domains: vec![SipDomain {
                next_hop: Some(NextHop { transport: NextHopTransport::Tcp, host: "192.0.2.21".into(), port: None }),
                peers: vec![latimer::settings::Peer::Host("proxy.voip.example".into())],
                ..SipDomain::new("voip.example")
            }],
            partners: vec![Partner {
                kind: PartnerKind::Federated,
                proxy: Some(("192.0.2.31".into(), None)),
                ..Partner::new("chat.example")
            }],
            ..Settings::default()
        };
        let mut out = Outbox::with_capacity(64 * 1024, 64);
        out.log_level = Level::Info;
        let (sip, xmpp_in) = (out.new_link(), out.new_link());
        let mut bench = Self {
            gateway: Gateway::new(settings, b"a secret of the tests"),
            out,
            rng: Rng::from_number(1),
            count: Counters::default(),
            now: 1,
            sent: 0,
            sip,
            xmpp_in,
            xmpp_out: LinkId(0),
        };
        bench.open();
        bench
    }

    fn handle(&mut self, input: Input<'_>) -> usize {
        self.out.clear();
        let mut cx = Cx {
            now: Instant::from_millis(self.now),
            wall: Wall(1_930_204_800_000),
            rng: &mut self.rng,
            out: &mut self.out,
            count: &mut self.count,
        };
        self.gateway.handle(&mut cx, input)
    }

    /// All octets on a link, to the last one.
    fn bring(&mut self, link: LinkId, octets: &str) {
        let mut bytes = octets.as_bytes().to_vec();
        let used = self.handle(Input::Stream { link, bytes: &mut bytes });
        assert_eq!(used, bytes.len(), "used of {octets}\n{:?}", self.out);
        self.note_sent();
    }

    fn note_sent(&mut self) {
        for action in self.out.actions() {
            if let Action::Send { link, bytes } = action
                && *link == self.xmpp_out
            {
                self.sent += bytes.len() as u64;
            }
        }
    }

    fn connected(&self) -> LinkId {
        let connect = self.out.actions().iter().find_map(|action| match action {
            Action::Connect { link, transport: Transport::Tcp, .. } => Some(*link),
            _ => None,
        });
        connect.expect("the gateway connects")
    }

    fn certificate(names: &[&str]) -> PeerCertificate {
        PeerCertificate {
            verdict: Some(Ok(())),
            dns_names: names.iter().map(|name| (*name).into()).collect(),
            ..PeerCertificate::default()
        }
    }

    fn open(&mut self) {
        let proxy = "192.0.2.21:40000".parse().expect("an address");
        let server = "192.0.2.31:40000".parse().expect("an address");
        let (sip, xmpp_in) = (self.sip, self.xmpp_in);
        self.handle(Input::Accepted { link: sip, listener: ListenerId(0), from: proxy });
        self.handle(Input::Secured { link: sip, peer: &Self::certificate(&["proxy.voip.example", "voip.example"]) });
        self.handle(Input::Accepted { link: xmpp_in, listener: ListenerId(1), from: server });
        let header = |id: &str| {
            format!(
                "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
                 from='chat.example' to='voip.example'{id} version='1.0'>"
            )
        };
        self.bring(xmpp_in, &header(""));
        self.bring(xmpp_in, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        self.handle(Input::Secured { link: xmpp_in, peer: &Self::certificate(&["chat.example"]) });
        self.bring(xmpp_in, &header(""));
        self.bring(xmpp_in, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>");
        self.bring(xmpp_in, &header(""));
        // The first message makes the gateway open its own stream.
        let first = self.message(0);
        self.bring(sip, &first);
        let out = self.connected();
        self.xmpp_out = out;
        self.handle(Input::Opened { link: out });
        self.bring(
            out,
            &format!(
                "{}<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>",
                header(" id='1'")
            ),
        );
        self.bring(out, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        self.handle(Input::Secured { link: out, peer: &Self::certificate(&["chat.example"]) });
        self.bring(
            out,
            &format!(
                "{}<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>\
                 <mechanism>EXTERNAL</mechanism></mechanisms></stream:features>",
                header(" id='2'")
            ),
        );
        self.sent = 0;
        self.bring(out, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
        self.bring(out, &format!("{}<stream:features/>", header(" id='3'")));
    }

    fn message(&self, number: usize) -> String {
        format!(
            "MESSAGE sip:lena@chat.example SIP/2.0\r\nVia: SIP/2.0/TLS proxy.voip.example;branch=z9hG4bK{number}\r\n\
             Max-Forwards: 69\r\nFrom: \"Marta\" <sip:marta@voip.example>;tag=t{number}\r\nTo: <sip:lena@chat.example>\r\n\
             Call-ID: {number}@proxy\r\nCSeq: 1 MESSAGE\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nHallo, Lena!"
        )
    }

    fn drained(&mut self) {
        let (link, sent) = (self.xmpp_out, u64::MAX);
        self.handle(Input::Drained { link, sent });
    }

    fn answer_to(&self, request: &str) -> String {
        let mut out = String::from("SIP/2.0 200 OK\r\n");
        for line in request.split("\r\n") {
            if ["Via", "From", "To", "Call-ID", "CSeq"].iter().any(|name| line.starts_with(&format!("{name}:"))) {
                out.push_str(line);
                out.push_str("\r\n");
            }
        }
        out + "Content-Length: 0\r\n\r\n"
    }

    /// What the gateway sent last on any SIP link.
    fn last_request(&self) -> Option<(LinkId, String)> {
        self.out.actions().iter().find_map(|action| match action {
            Action::Send { link, bytes } if self.out.bytes(bytes).starts_with(b"MESSAGE ") => {
                Some((*link, String::from_utf8_lossy(self.out.bytes(bytes)).into_owned()))
            }
            _ => None,
        })
    }
}

/// The mean of what was counted, rounded up.
fn mean(all: &[AllocationInfo]) -> (u64, u64) {
    let count: u64 = all.iter().map(|info| info.count_total).sum();
    let bytes: u64 = all.iter().map(|info| info.bytes_total).sum();
    (count.div_ceil(all.len() as u64), bytes.div_ceil(all.len() as u64))
}

fn hold(what: &str, all: &[AllocationInfo], most: u64) {
    let (count, bytes) = mean(all);
    let less = if count < most { ", which is less than MOST says" } else { "" };
    let _ = writeln!(std::io::stderr(), "alloc: {what}: {count} allocations, {bytes} octets a message{less}");
    assert!(count <= most, "{what}: {count} allocations a message, {most} allowed");
}

#[test]
fn a_message_from_sip_costs_no_more_than_before() {
    let mut bench = Bench::new();
    let (mut taken, mut answered) = (Vec::new(), Vec::new());
    for number in 1..=WARM + COUNTED {
        bench.now += 200;
        let mut bytes = bench.message(number).into_bytes();
        let link = bench.sip;
        let info = allocation_counter::measure(|| {
            bench.handle(Input::Stream { link, bytes: &mut bytes });
        });
        let done = allocation_counter::measure(|| bench.drained());
        if number > WARM {
            taken.push(info);
            answered.push(done);
        }
    }
    assert!(bench.count.of(Counter::SipMessageDelivered) >= (WARM + COUNTED) as u64, "the messages crossed");
    hold("SIP in", &taken, MOST.sip_in);
    hold("SIP answered", &answered, MOST.sip_answered);
}

#[test]
fn a_message_from_xmpp_costs_no_more_than_before() {
    let mut bench = Bench::new();
    let (mut taken, mut answered) = (Vec::new(), Vec::new());
    for number in 1..=WARM + COUNTED {
        bench.now += 200;
        let mut bytes = format!(
            "<message from='lena@chat.example/balkon' to='marta@voip.example' id='m{number}' type='chat'>\
             <body>Hallo, Marta!</body></message>"
        )
        .into_bytes();
        let link = bench.xmpp_in;
        let info = allocation_counter::measure(|| {
            bench.handle(Input::Stream { link, bytes: &mut bytes });
        });
        if bench.last_request().is_none() {
            // The first one has to open a connection.
            let link = bench.connected();
            bench.handle(Input::Opened { link });
        }
        let (link, request) = bench.last_request().expect("a request goes out");
        let mut bytes = bench.answer_to(&request).into_bytes();
        let done = allocation_counter::measure(|| {
            bench.handle(Input::Stream { link, bytes: &mut bytes });
        });
        if number > WARM {
            taken.push(info);
            answered.push(done);
        }
    }
    assert_eq!(bench.count.of(Counter::XmppMessageDelivered), (WARM + COUNTED) as u64, "the messages crossed");
    hold("XMPP in", &taken, MOST.xmpp_in);
    hold("XMPP answered", &answered, MOST.xmpp_answered);
}

#[test]
fn each_side_alone_costs_no_more_than_before() {
    let mut bench = Bench::new();
    let (mut options, mut pings) = (Vec::new(), Vec::new());
    for number in 1..=WARM + COUNTED {
        bench.now += 200;
        let mut bytes = format!(
            "OPTIONS sip:gw.edge.example SIP/2.0\r\nVia: SIP/2.0/TLS proxy.voip.example;branch=z9hG4bKo{number}\r\n\
             Max-Forwards: 69\r\nFrom: <sip:marta@voip.example>;tag=o{number}\r\nTo: <sip:gw.edge.example>\r\n\
             Call-ID: o{number}@proxy\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes();
        let (sip, xmpp) = (bench.sip, bench.xmpp_in);
        let option = allocation_counter::measure(|| {
            bench.handle(Input::Stream { link: sip, bytes: &mut bytes });
        });
        let mut bytes = format!(
            "<iq from='chat.example' to='voip.example' id='p{number}' type='get'><ping xmlns='urn:xmpp:ping'/></iq>"
        )
        .into_bytes();
        let ping = allocation_counter::measure(|| {
            bench.handle(Input::Stream { link: xmpp, bytes: &mut bytes });
        });
        if number > WARM {
            options.push(option);
            pings.push(ping);
        }
    }
    assert_eq!(bench.count.of(Counter::IqAnswered), (WARM + COUNTED) as u64, "the pings were answered");
    hold("OPTIONS", &options, MOST.options);
    hold("ping", &pings, MOST.ping);
}
