//! The torture messages, mutated by a seeded generator, thrown at the SIP code: it
//! never panics, what it writes reads as it was, cuts change nothing, tables stay
//! bounded. `ROUNDS` sets how long (default: a short run), `SEED` where to begin.

use latimer::base::counters::Counters;
use latimer::base::cx::{Cx, Ticket};
use latimer::base::net::{CloseReason, LinkId, ListenerId, NotLocated, Target, Transport};
use latimer::base::outbox::{Action, Outbox};
use latimer::base::rng::Rng;
use latimer::base::slab::{Key, Slab};
use latimer::base::time::{Instant, Wall};
use latimer::limits::{SIP_CLIENT_TRANSACTIONS_MAX, SIP_LINKS_MAX};
use latimer::settings::{Listener, ListenerKind, NextHop, NextHopTransport, Settings, SipDomain};
use latimer::sip::endpoint::{Destination, Endpoint, Event, Request, Response};
use latimer::sip::framer::{CRLF_OCTETS, Frame, Framer, datagram};
use latimer::sip::header::{MediaType, NameAddr, Via, split_list, unquote};
use latimer::sip::message::{Message, Method};
use latimer::sip::uri::Uri;
use std::path::Path;
use std::time::Duration;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn rounds(default: u64) -> u64 {
    number("ROUNDS", default)
}

fn rng(test: u64) -> Rng {
    Rng::from_number(number("SEED", 1) * 16 + test)
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/torture");
    let mut paths: Vec<_> = std::fs::read_dir(folder).expect("the corpus").map(|f| f.expect("a file").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "sip"));
    // The order of a folder is chance.
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a message")).collect()
}

/// Pieces that mean something to SIP.
const PIECES: &[&str] = &[
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    ":",
    ";",
    ",",
    "<",
    ">",
    "\"",
    "\\",
    "@",
    "?",
    "=",
    "%",
    "%00",
    "[",
    "]",
    "[::1]",
    "sip:",
    "sips:",
    "SIP/2.0",
    "z9hG4bK",
    "Via: SIP/2.0/UDP a;branch=z9hG4bKq\r\n",
    "v: SIP / 2.0 / TCP [::1]:7\r\n",
    "Content-Length: 0\r\n",
    "l: 5\r\n",
    "Content-Length: -1\r\n",
    "To: <sip:a@b>;tag=1\r\n",
    "CSeq: 1 ACK\r\n",
    "ACK",
    "CANCEL",
    "INVITE",
    "MESSAGE",
    "\0",
    "\u{7f}",
    "\u{fc}",
    "99999999999999999999",
    "0",
    ";rport",
    ";received=1.2.3.4",
    ";alias",
    "Contact: *\r\n",
    "Max-Forwards: 0\r\n",
    "maddr=1.2.3.4",
];

fn mutate(rng: &mut Rng, octets: &mut Vec<u8>) {
    for _ in 0..=rng.below(4) {
        let at = rng.below(octets.len() as u64 + 1) as usize;
        let to = (at + rng.below(12) as usize).min(octets.len());
        match rng.below(6) {
            0 => octets.truncate(at),
            1 => drop(octets.drain(at..to)),
            2 => octets.insert(at, rng.next_u64() as u8),
            3 => {
                let copy = octets[at..to].to_vec();
                let there = rng.below(octets.len() as u64 + 1) as usize;
                octets.splice(there..there, copy);
            }
            _ => {
                let piece = PIECES[rng.below(PIECES.len() as u64) as usize];
                let end = if rng.below(2) == 0 { at } else { to };
                octets.splice(at..end, piece.bytes());
            }
        }
    }
}

fn mutated(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut octets = corpus[rng.below(corpus.len() as u64) as usize].clone();
    if octets.len() > 2000 {
        octets.truncate(2000);
    }
    mutate(rng, &mut octets);
    octets
}

fn emitted(uri: &Uri<'_>) -> String {
    let mut out = Outbox::default();
    let mut w = out.begin();
    uri.emit(&mut w);
    let span = w.finish();
    out.text(&span).into()
}

#[test]
fn uris_are_written_as_they_read() {
    let mut rng = rng(0);
    let seeds = [
        "sip:7_odd.Name~(maybe?yes)&can't+do$/wow?,/;;*:&p+w=9,fine!*go$al~x_ok.(doesn't-it)@im.sued.example",
        "sips:zoe;osasto=a%40sued.example@im.sued.example:5061;gr=x;lr?a=b&c=%20",
        "sip:[2001:db8:77:::203.0.113.1]:5062;transport=tcp",
        "soap.tcp://203.0.113.9:8080",
    ];
    let mut good = 0;
    for _ in 0..rounds(20_000) {
        let mut octets = seeds[rng.below(seeds.len() as u64) as usize].as_bytes().to_vec();
        mutate(&mut rng, &mut octets);
        let text = String::from_utf8_lossy(&octets);
        let Ok(uri) = Uri::parse(&text) else { continue };
        good += 1;
        let written = emitted(&uri);
        let again = Uri::parse(&written).unwrap_or_else(|fault| panic!("{text} -> {written}: {fault:?}"));
        assert!(uri.is_same_as(&again) && again.is_same_as(&uri), "{text} -> {written}");
        assert_eq!(emitted(&again), written);
    }
    assert!(good > 0);
}

/// All that can be asked of a message, as text.
fn described(message: &Message<'_>) -> String {
    let vias: Vec<_> = message.vias().map(Via::parse).collect();
    format!(
        "{:?} {vias:?} {:?} {:?} {} {:?} {:?} {:?} {:?} {:?} {:?}",
        message.start_line(),
        message.from(),
        message.to(),
        message.call_id(),
        message.cseq(),
        message.max_forwards(),
        message.content_type(),
        message.expires(),
        message.contact(),
        message.body(),
    )
}

#[test]
fn messages_read_the_same_after_they_were_written_line_by_line() {
    let (mut rng, corpus) = (rng(1), corpus());
    let mut good = 0;
    for _ in 0..rounds(20_000) {
        let mut octets = mutated(&mut rng, &corpus);
        let Ok((skip, head, len)) = datagram(&octets) else { continue };
        let Ok(message) = Message::parse(&mut octets[skip..skip + len], head) else { continue };
        good += 1;
        let line = match message.is_request() {
            true => format!("{} {} SIP/2.0\r\n", message.method().as_str(), message.uri()),
            false => format!("SIP/2.0 {} {}\r\n", message.status(), message.reason()),
        };
        let mut again = line.into_bytes();
        for (name, value) in message.fields() {
            again.extend(format!("{name}: {value}\r\n").bytes());
        }
        again.extend(b"\r\n");
        let head = again.len();
        again.extend(message.body());
        let reread = Message::parse(&mut again, head).unwrap_or_else(|m| panic!("{:?}: {message:?}", m.fault));
        assert_eq!(described(&reread), described(&message));
        for (name, value) in message.fields() {
            assert!(message.headers(name).count() > 0, "{name}");
            let _ =
                (NameAddr::parse(value), MediaType::parse(value), split_list(value).count(), unquote(value).count());
        }
    }
    assert!(good > 0);
}

#[test]
fn a_mutated_stream_means_the_same_wherever_it_is_cut() {
    let (mut rng, corpus) = (rng(2), corpus());
    for _ in 0..rounds(10_000) {
        let mut octets = Vec::new();
        for _ in 0..=rng.below(2) {
            octets.extend(mutated(&mut rng, &corpus));
        }
        let mut cuts: Vec<_> = (0..rng.below(6)).map(|_| rng.below(octets.len() as u64 + 1) as usize).collect();
        cuts.sort_unstable();
        assert_eq!(play(&octets, &cuts), play(&octets, &[]));
    }
}

fn play(octets: &[u8], cuts: &[usize]) -> Vec<(usize, String)> {
    let (mut framer, mut used, mut found) = (Framer::default(), 0, Vec::new());
    for &cut in cuts.iter().chain(&[octets.len()]) {
        while used <= cut {
            let frame = framer.next(&octets[used..cut]);
            let len = match frame {
                Frame::Partial => break,
                Frame::Ping | Frame::Pong => CRLF_OCTETS,
                Frame::Message { len, .. } => len,
                Frame::Broken { fault, .. } => {
                    // How much of the head was seen depends on the cut; the fault does not.
                    found.push((used, fault.to_string()));
                    return found;
                }
            };
            found.push((used, format!("{frame:?}")));
            used += len;
        }
    }
    found
}

fn settings() -> Settings {
    let listener =
        |kind, address: &str| Listener { name: address.into(), kind, address: address.parse().expect("an address") };
    Settings {
        host_name: "edge9.sued.example".into(),
        listeners: vec![
            listener(ListenerKind::SipUdp, "192.0.2.1:5060"),
            listener(ListenerKind::SipTcp, "192.0.2.1:5060"),
        ],
        sip_domains: vec![SipDomain {
            next_hop: Some(NextHop { transport: NextHopTransport::Udp, host: "192.0.2.21".into(), port: None }),
            ..SipDomain::new("tel.nord.example")
        }],
        ..Settings::default()
    }
}

const STRANGER_ADDRESS: &str = "203.0.113.7";

/// An endpoint under fire.
struct Siege {
    endpoint: Endpoint,
    now: Instant,
    rng: Rng,
    out: Outbox,
    count: Counters,
    /// Requests told and not answered.
    open: Vec<Key>,
    /// Connections there are.
    links: Vec<(LinkId, Vec<u8>)>,
    /// Requests of ours seen on the way out, for answers.
    ours: Vec<Vec<u8>>,
    asked: Vec<Key>,
    outstanding: usize,
}

impl Siege {
    fn turn(
        &mut self,
        call: impl FnOnce(&mut Endpoint, &mut Cx<'_>, &mut Vec<Key>) -> Option<bool>,
        stranger: Option<usize>,
    ) {
        let mut cx =
            Cx { now: self.now, wall: Wall(0), rng: &mut self.rng, out: &mut self.out, count: &mut self.count };
        if call(&mut self.endpoint, &mut cx, &mut self.open) == Some(true) {
            self.outstanding = self.outstanding.saturating_sub(1);
        }
        while let Some(event) = self.endpoint.poll() {
            match event {
                Event::Failed { .. } => self.outstanding = self.outstanding.saturating_sub(1),
                Event::Locate { request, .. } => self.asked.push(request),
                _ => {}
            }
        }
        for action in self.out.actions() {
            match action {
                Action::Datagram { bytes, to, .. } => {
                    let octets = self.out.bytes(bytes).to_vec();
                    let is_his = to.ip().to_string() == STRANGER_ADDRESS;
                    assert!(stranger.is_none_or(|len| !is_his || octets.len() <= len), "more octets than came");
                    if !octets.starts_with(b"SIP/") {
                        self.ours.push(octets);
                    }
                }
                Action::Send { link, bytes } => {
                    assert!(self.links.iter().any(|(known, _)| known == link), "sent on a link that is gone");
                    let octets = self.out.bytes(bytes).to_vec();
                    if !octets.starts_with(b"SIP/") && !octets.starts_with(b"\r\n") {
                        self.ours.push(octets);
                    }
                }
                Action::Connect { link, .. } => self.links.push((*link, Vec::new())),
                Action::Close { link, .. } => self.links.retain(|(known, _)| known != link),
                _ => {}
            }
        }
        for octets in &self.ours {
            let mut copy = octets.clone();
            let (_, head, len) = datagram(octets).expect("what we send ends somewhere");
            Message::parse(&mut copy[..len], head).expect("what we send is a message");
        }
        self.ours.truncate(16);
        self.out.clear();
    }
}

/// Takes an event in: true if it ended a request of ours.
fn take(event: Option<Event<'_>>, open: &mut Vec<Key>) -> Option<bool> {
    match event? {
        Event::Request { transaction, .. } => open.push(transaction),
        Event::Response { message, .. } => return Some(message.status() >= 200),
        _ => {}
    }
    None
}

#[test]
fn an_endpoint_under_fire_stays_in_its_bounds() {
    let corpus = corpus();
    let mut siege = Siege {
        endpoint: Endpoint::new(&settings()),
        now: Instant::ZERO,
        rng: rng(3),
        out: Outbox::default(),
        count: Counters::default(),
        open: Vec::new(),
        links: Vec::new(),
        ours: Vec::new(),
        asked: Vec::new(),
        outstanding: 0,
    };
    let mut dice = rng(4);
    for round in 0..rounds(20_000) {
        match dice.below(16) {
            0..=4 => datagrams(&mut siege, &mut dice, &corpus, round),
            5..=8 => streams(&mut siege, &mut dice, &corpus),
            9 => {
                let link = siege.out.new_link();
                let from =
                    format!("198.51.100.{}:{}", dice.below(4), 1 + dice.below(60_000)).parse().expect("an address");
                siege.links.push((link, Vec::new()));
                siege.turn(
                    |e, cx, _| {
                        e.accepted(cx, link, ListenerId(1), from);
                        None
                    },
                    None,
                );
            }
            10 => {
                if let Some((link, _)) = siege.links.first().map(|(link, _)| (*link, ())) {
                    if dice.below(2) == 0 {
                        siege.links.remove(0);
                        siege.turn(
                            |e, cx, _| {
                                e.closed(cx, link, CloseReason::Reset);
                                None
                            },
                            None,
                        );
                    } else {
                        siege.turn(
                            |e, cx, _| {
                                e.opened(cx, link);
                                None
                            },
                            None,
                        );
                    }
                }
            }
            11 => requests(&mut siege, &mut dice),
            12 => {
                if let Some(key) = siege.asked.pop() {
                    let target =
                        Target { transport: Transport::Tcp, address: "192.0.2.33:5060".parse().expect("an address") };
                    let found = [target];
                    let found = if dice.below(2) == 0 { Ok(&found[..]) } else { Err(NotLocated::NoAnswer) };
                    siege.turn(
                        |e, cx, _| {
                            e.located(cx, key, found);
                            None
                        },
                        None,
                    );
                }
            }
            13 | 14 => {
                if let Some(key) = siege.open.pop() {
                    let status = [100, 180, 200, 202, 404, 503][dice.below(6) as usize];
                    let unproven = dice.below(3) == 0;
                    siege.turn(
                        |e, cx, _| {
                            let response = Response { status, ..Response::default() };
                            if unproven {
                                e.respond_unproven(cx, key, &response)
                            } else {
                                e.respond(cx, key, &response)
                            }
                            None
                        },
                        None,
                    );
                }
            }
            _ => {
                siege.now = siege.now.after(Duration::from_millis(dice.below(3_000)));
                siege.turn(
                    |e, cx, _| {
                        e.timeout(cx);
                        None
                    },
                    None,
                );
                assert!(siege.endpoint.deadline().is_none_or(|next| next > siege.now), "a deadline that stands still");
            }
        }
        assert!(siege.links.len() <= SIP_LINKS_MAX && siege.outstanding <= SIP_CLIENT_TRANSACTIONS_MAX);
    }
    // After a while without traffic nothing is left but open connections.
    for _ in 0..10_000 {
        let Some(next) = siege.endpoint.deadline() else { break };
        siege.now = siege.now.max(next);
        siege.turn(
            |e, cx, _| {
                e.timeout(cx);
                None
            },
            None,
        );
    }
    for (link, _) in core::mem::take(&mut siege.links) {
        siege.turn(
            |e, cx, _| {
                e.closed(cx, link, CloseReason::Peer);
                None
            },
            None,
        );
    }
    for key in core::mem::take(&mut siege.asked) {
        siege.turn(
            |e, cx, _| {
                e.located(cx, key, Err(NotLocated::NoAnswer));
                None
            },
            None,
        );
    }
    assert_eq!(siege.endpoint.deadline(), None);
    assert_eq!(siege.outstanding, 0, "every request of ours had an outcome");
}

fn datagrams(siege: &mut Siege, dice: &mut Rng, corpus: &[Vec<u8>], round: u64) {
    let mut octets = match siege.ours.last() {
        Some(ours) if dice.below(4) == 0 => answer_to(ours, dice),
        _ => mutated(dice, corpus),
    };
    if dice.below(2) == 0 {
        // A new transaction more often than mutation alone makes one.
        let text = String::from_utf8_lossy(&octets)
            .replace("branch=z9hG4bK", &format!("branch=z9hG4bK{round}"))
            .replace("Call-ID: ", &format!("Call-ID: {round}"));
        octets = text.into_bytes();
    }
    let is_stranger = dice.below(2) == 0;
    let from = if is_stranger { format!("{STRANGER_ADDRESS}:7777") } else { "192.0.2.21:5060".into() };
    let from = from.parse().expect("an address");
    let len = octets.len();
    siege.turn(
        |e, cx, open| {
            let event = e.datagram(cx, ListenerId(0), from, &mut octets);
            // A stranger's requests are left to time out or to be answered as his.
            take(event, open)
        },
        is_stranger.then_some(len),
    );
}

fn streams(siege: &mut Siege, dice: &mut Rng, corpus: &[Vec<u8>]) {
    if siege.links.is_empty() {
        return;
    }
    let at = dice.below(siege.links.len() as u64) as usize;
    let (link, mut kept) =
        core::mem::take(&mut siege.links[at].1).into_iter().fold((siege.links[at].0, Vec::new()), |mut all, octet| {
            all.1.push(octet);
            all
        });
    let mut octets = match siege.ours.last() {
        Some(ours) if dice.below(3) == 0 => answer_to(ours, dice),
        _ => mutated(dice, corpus),
    };
    octets.truncate(dice.below(octets.len() as u64 + 1) as usize + 200);
    kept.extend(octets);
    for _ in 0..100 {
        let mut used = 0;
        siege.turn(
            |e, cx, open| {
                let (n, event) = e.stream(cx, link, &mut kept);
                used = n;
                take(event, open)
            },
            None,
        );
        assert!(used <= kept.len());
        kept.drain(..used);
        if used == 0 || kept.is_empty() {
            break;
        }
    }
    if let Some(place) = siege.links.iter_mut().find(|(known, _)| *known == link) {
        place.1 = kept;
    }
}

fn requests(siege: &mut Siege, dice: &mut Rng) {
    let transports = [NextHopTransport::Udp, NextHopTransport::Tcp];
    let hosts = ["192.0.2.21", "192.0.2.22", "proxy.nord.example"];
    let hop = NextHop {
        transport: transports[dice.below(2) as usize],
        host: hosts[dice.below(3) as usize].into(),
        port: None,
    };
    let call_id = format!("c{}", dice.next_u64());
    let body = vec![b'x'; dice.below(1500) as usize];
    let method = [Method::Message, Method::Invite, Method::Notify][dice.below(3) as usize];
    let key = Slab::with_capacity(1).insert(()).expect("room");
    let mut begun = false;
    // Its outcome may come within the call.
    siege.outstanding += 1;
    siege.turn(
        |e, cx, _| {
            let request = Request {
                method,
                uri: "sip:aino@tel.nord.example",
                from: "sip:zoe@im.sued.example",
                from_tag: "f",
                to: "sip:aino@tel.nord.example",
                to_tag: None,
                call_id: &call_id,
                cseq: 1,
                max_forwards: 70,
                headers: &[("Subject", "a\r\nb")],
                content_type: Some("text/plain"),
                body: &body,
            };
            let destination = Destination::NextHop { hop: &hop, domain: "tel.nord.example" };
            let before = e.size(&destination, &request);
            assert!(before > body.len());
            begun = e.request(cx, Ticket(key), &destination, &request).is_ok();
            None
        },
        None,
    );
    siege.outstanding -= usize::from(!begun);
}

fn answer_to(request: &[u8], dice: &mut Rng) -> Vec<u8> {
    let text = String::from_utf8_lossy(request);
    let kept = |line: &&str| {
        ["Via", "v:", "From", "f:", "To", "t:", "Call-ID", "i:", "CSeq"].iter().any(|name| line.starts_with(name))
    };
    let lines: Vec<_> = text.split("\r\n").filter(kept).collect();
    let status = [100, 180, 200, 486, 503][dice.below(5) as usize];
    let mut octets = format!("SIP/2.0 {status} x\r\n{}\r\nContent-Length: 0\r\n\r\n", lines.join("\r\n")).into_bytes();
    if dice.below(4) == 0 {
        mutate(dice, &mut octets);
    }
    octets
}
