//! Plays the torture messages of `tests/corpus/torture`, each against its verdict: over
//! UDP as one datagram, over TCP in one piece, octet by octet, and cut at every place.
//! A good message behind each of them has to cross as if nothing had happened.

#![allow(unreachable_pub, reason = "modules are shared between test targets")]

#[path = "flows/neighbours.rs"]
mod neighbours;
#[path = "sim/net.rs"]
mod net;
#[path = "sim/peers.rs"]
mod peers;
#[path = "sim/world.rs"]
mod world;

use latimer::base::net::Transport;
use latimer::settings::NextHopTransport;
use neighbours::{Names, Neighbours};
use peers::{Element, SipMessage, find, full_name};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

/// One line of `verdicts.tsv`.
struct Verdict {
    name: String,
    tcp_only: bool,
    /// The right final status codes as text, such as `200` or `2xx`; `-`: none.
    answers: Vec<String>,
    /// What has to stand behind the code: `close`, or a header.
    more: String,
    effect: String,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/torture")
}

fn verdicts() -> Vec<Verdict> {
    let text = std::fs::read_to_string(folder().join("verdicts.tsv")).expect("the verdicts are there");
    let all: Vec<Verdict> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let (codes, more) = columns[4].split_once(' ').unwrap_or((columns[4], ""));
            Verdict {
                name: columns[0].into(),
                tcp_only: columns[2] == "tcp",
                answers: codes.split('|').map(Into::into).collect(),
                more: more.into(),
                effect: columns[5].into(),
            }
        })
        .collect();
    assert!(all.len() >= 71, "{} verdicts", all.len());
    all
}

fn message(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(format!("{name}.sip"))).expect("the message is there")
}

fn world() -> Neighbours {
    let names = Names {
        gateway: "edge9.sued.example".into(),
        xmpp: vec!["im.sued.example".into()],
        sip: vec!["tel.nord.example".into()],
        proxy: "sbc.nord.example".into(),
        transport: NextHopTransport::Udp,
        strangers: Vec::new(),
    };
    let mut settings = names.settings();
    // The messages name this address as the gateway's, too.
    settings.listeners.push(latimer::settings::Listener {
        name: "v6".into(),
        kind: latimer::settings::ListenerKind::SipUdp,
        address: "[2001:db8:77::5]:5060".parse().expect("an address"),
    });
    Neighbours::new(names, settings, 1)
}

/// What came of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    answers: Vec<SipMessage>,
    /// Requests of the gateway's own: NOTIFYs, answered 200.
    requests: Vec<SipMessage>,
    stanzas: Vec<Element>,
    closed: bool,
    faults: Vec<String>,
}

impl Outcome {
    /// What has to be the same however the octets were cut.
    fn gist(&self) -> (Vec<String>, Vec<String>, bool) {
        let texts = self.stanzas.iter().map(|s| format!("{:?} {}", s.attribute("to"), s.whole_text())).collect();
        (self.answers.iter().map(|answer| answer.start.clone()).collect(), texts, self.closed)
    }
}

fn outcome(n: &mut Neighbours, before_closed: usize) -> Outcome {
    n.advance(3000);
    // The answer to an INVITE is repeated over UDP until an ACK comes.
    let came: Vec<SipMessage> = n.sip.drain(..).map(|came| came.message).collect();
    let (mut requests, mut answers): (Vec<_>, Vec<_>) = came.into_iter().partition(|m| m.method().is_some());
    answers.dedup();
    requests.dedup();
    for request in &requests {
        if let Err(problem) = n.send_response(&request.response(200, "OK", "torture", "")) {
            n.faults.push(problem);
        }
    }
    for answer in answers.iter().filter(|answer| answer.header("cseq").is_some_and(|cseq| cseq.ends_with("INVITE"))) {
        n.send_request(Transport::Udp, None, &ack(answer));
    }
    Outcome {
        answers,
        requests,
        stanzas: n.xmpp.drain(..).collect(),
        closed: n.closed.len() > before_closed,
        faults: core::mem::take(&mut n.faults),
    }
}

fn ack(answer: &SipMessage) -> Vec<u8> {
    let of = |name: &str| answer.header(name).unwrap_or_default().to_string();
    let via = of("via");
    let top = via.split(',').next().unwrap_or_default();
    format!(
        "ACK sip:zoe@im.sued.example SIP/2.0\r\nVia: {top}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\n\
         CSeq: {}\r\nContent-Length: 0\r\n\r\n",
        of("from"),
        of("to"),
        of("call-id"),
        of("cseq").replace("INVITE", "ACK")
    )
    .into_bytes()
}

fn over_udp(bytes: &[u8]) -> (Neighbours, Outcome) {
    let mut n = world();
    n.send_request(Transport::Udp, None, bytes);
    let outcome = outcome(&mut n, 0);
    (n, outcome)
}

/// `pieces` end at these octets; the rest goes last.
fn over_tcp(bytes: &[u8], ends: impl Iterator<Item = usize>) -> (Neighbours, Outcome) {
    let mut n = world();
    let link = n.new_sip_link(Transport::Tcp, "sbc.nord.example");
    let mut start = 0;
    for end in ends.chain([bytes.len()]) {
        n.send_octets(link, &bytes[start..end]);
        n.settle();
        start = end;
    }
    let outcome = outcome(&mut n, 0);
    (n, outcome)
}

/// Holds an outcome against a verdict.
fn judge(verdict: &Verdict, outcome: &Outcome) -> Result<(), String> {
    if !outcome.faults.is_empty() {
        return Err(format!("broken protocol: {:?}", outcome.faults));
    }
    let statuses: Vec<u16> = outcome.answers.iter().filter_map(SipMessage::status).collect();
    if statuses.len() != outcome.answers.len() || statuses.len() > 1 {
        return Err(format!("more than an answer came: {:?}", outcome.gist()));
    }
    let text = statuses.first().map_or_else(|| "-".into(), u16::to_string);
    let fits = |wanted: &String| *wanted == text || (wanted == "2xx" && text.starts_with('2'));
    if !verdict.answers.iter().any(fits) {
        return Err(format!("answered {text}, right is {:?}", verdict.answers));
    }
    if let (Some((header, values)), Some(answer)) = (header_wanted(&verdict.more), outcome.answers.first()) {
        let value = answer.header(&header).ok_or_else(|| format!("{header} is missing"))?;
        for one in values.split(',').map(str::trim) {
            if !value.contains(one) {
                return Err(format!("{header}: {value} does not hold {one}"));
            }
        }
    }
    if verdict.more == "close" && !outcome.closed {
        return Err("the connection stays open".into());
    }
    if verdict.effect.contains("presence subscribe") && text.starts_with('2') {
        return watch(&verdict.effect, outcome);
    }
    if let Some(request) = outcome.requests.first() {
        return Err(format!("a request came: {}", request.start));
    }
    effect(&verdict.effect, &text, &outcome.stanzas)
}

/// A watch began: one NOTIFY to the Contact, one `subscribe`.
fn watch(effect: &str, outcome: &Outcome) -> Result<(), String> {
    let [notify] = &outcome.requests[..] else { return Err(format!("{} requests came", outcome.requests.len())) };
    let to = effect.split("NOTIFY to ").nth(1);
    if notify.method() != Some("NOTIFY") || to.is_some_and(|to| notify.start != format!("NOTIFY {to} SIP/2.0")) {
        return Err(format!("wanted a NOTIFY to {to:?}, came {}", notify.start));
    }
    match &outcome.stanzas[..] {
        [stanza] if stanza.name == "presence" && stanza.attribute("type") == Some("subscribe") => Ok(()),
        stanzas => Err(format!("wanted one presence subscribe, {} stanzas came", stanzas.len())),
    }
}

fn header_wanted(more: &str) -> Option<(String, &str)> {
    if more.is_empty() || more == "close" {
        return None;
    }
    let (name, values) = more.split_once(':').unwrap_or((more, ""));
    Some((full_name(name), values.trim()))
}

fn effect(effect: &str, status: &str, stanzas: &[Element]) -> Result<(), String> {
    let body = effect.split('"').nth(1);
    let wanted = body.filter(|_| !effect.contains("if 200") || status == "200");
    let Some(body) = wanted else {
        return if stanzas.is_empty() { Ok(()) } else { Err(format!("came: {}", stanzas[0].to_xml())) };
    };
    let [stanza] = stanzas else { return Err(format!("{} stanzas came", stanzas.len())) };
    let xml = stanza.to_xml();
    let came = stanza.child("body").map(Element::text).unwrap_or_default();
    if stanza.name != "message" || came != body {
        return Err(format!("wanted a message {body:?}, came {xml}"));
    }
    let words: Vec<&str> = effect.split_whitespace().collect();
    for pair in words.windows(2) {
        let fits = match pair {
            ["from", from] => bare(stanza.attribute("from")) == *from,
            ["to", to] => bare(stanza.attribute("to")) == *to,
            ["without", "subject"] => stanza.child("subject").is_none(),
            ["delay", "stamp"] => stanza.child("delay").is_none(),
            _ => true,
        };
        if !fits {
            return Err(format!("{pair:?} does not hold in {xml}"));
        }
    }
    Ok(())
}

fn bare(jid: Option<&str>) -> &str {
    jid.unwrap_or_default().split('/').next().unwrap_or_default()
}

/// A good message crosses, over UDP.
fn still_works(n: &mut Neighbours) -> Result<(), String> {
    let good = "MESSAGE sip:ravi@im.sued.example SIP/2.0\r\nVia: SIP/2.0/UDP sbc.nord.example;branch=z9hG4bKgood\r\n\
                Max-Forwards: 70\r\nFrom: <sip:bo@tel.nord.example>;tag=good\r\nTo: <sip:ravi@im.sued.example>\r\n\
                Call-ID: good@sbc.nord.example\r\nCSeq: 1 MESSAGE\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ngood";
    n.send_request(Transport::Udp, None, good.as_bytes());
    let outcome = outcome(n, 0);
    match (&outcome.answers[..], &outcome.stanzas[..]) {
        ([answer], [stanza]) if answer.status() == Some(200) && stanza.whole_text().contains("good") => Ok(()),
        _ => Err(format!("the good message behind it: {:?}", outcome.gist())),
    }
}

/// Does the message say by itself where it ends, so that it can go over a stream?
fn is_framed(bytes: &[u8]) -> bool {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).replace("\r\n ", " ").replace("\r\n\t", " ");
    let lengths: Vec<&str> = head
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| full_name(name.trim()) == "content-length")
        .map(|(_, value)| value.trim())
        .collect();
    matches!(lengths[..], [length] if length.parse() == Ok(bytes.len() - end - 4))
}

/// Written past the test harness, which swallows what a passing test prints.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

struct Tally {
    lane: &'static str,
    good: usize,
    problems: String,
}

impl Tally {
    fn new(lane: &'static str) -> Self {
        Self { lane, good: 0, problems: String::new() }
    }

    fn add(&mut self, verdict: &Verdict, n: &mut Neighbours, outcome: &Outcome) {
        match judge(verdict, outcome).and_then(|()| still_works(n)) {
            Ok(()) => self.good += 1,
            Err(problem) => {
                let _ = writeln!(self.problems, "{}: {problem}", verdict.name);
                for line in n.world.lines.iter().rev().take(4).rev() {
                    let _ = writeln!(self.problems, "    {line}");
                }
            }
        }
    }

    fn end(self) {
        tell(&format!("torture over {}: {} as the verdict says", self.lane, self.good));
        assert!(self.problems.is_empty(), "over {}:\n{}", self.lane, self.problems);
    }
}

#[test]
fn every_message_gets_its_verdict_over_udp() {
    let mut tally = Tally::new("UDP");
    for verdict in verdicts().iter().filter(|verdict| !verdict.tcp_only) {
        let (mut n, outcome) = over_udp(&message(&verdict.name));
        tally.add(verdict, &mut n, &outcome);
    }
    tally.end();
}

#[test]
fn every_framed_message_gets_its_verdict_over_tcp() {
    let mut tally = Tally::new("TCP");
    for verdict in &verdicts() {
        let bytes = message(&verdict.name);
        if verdict.tcp_only || is_framed(&bytes) {
            let (mut n, outcome) = over_tcp(&bytes, [].into_iter());
            tally.add(verdict, &mut n, &outcome);
        }
    }
    tally.end();
}

#[test]
fn octet_by_octet_is_the_same_as_whole() {
    for verdict in &verdicts() {
        let bytes = message(&verdict.name);
        if verdict.tcp_only || is_framed(&bytes) {
            let (_, whole) = over_tcp(&bytes, [].into_iter());
            let (_, cut) = over_tcp(&bytes, 1..bytes.len());
            assert_eq!(whole.gist(), cut.gist(), "{}", verdict.name);
        }
    }
}

#[test]
fn cut_at_every_place_is_the_same_as_whole() {
    for verdict in &verdicts() {
        let bytes = message(&verdict.name);
        if verdict.tcp_only || is_framed(&bytes) {
            let (_, whole) = over_tcp(&bytes, [].into_iter());
            for place in 1..bytes.len() {
                let (_, cut) = over_tcp(&bytes, [place].into_iter());
                assert_eq!(whole.gist(), cut.gist(), "{} cut at {place}", verdict.name);
            }
        }
    }
}

#[test]
fn a_message_whose_rest_never_comes_delivers_nothing() {
    let mut n = world();
    let link = n.new_sip_link(Transport::Tcp, "sbc.nord.example");
    n.send_octets(link, &message("clerr-tcp"));
    n.settle();
    assert!(n.sip.is_empty(), "answered before it is whole");
    n.world.close(link);
    let outcome = outcome(&mut n, 0);
    assert!(outcome.stanzas.is_empty(), "delivered: {:?}", outcome.gist());
    assert!(outcome.answers.iter().all(|answer| answer.status() == Some(400)), "{:?}", outcome.gist());
    still_works(&mut n).expect("a good message crosses");
}

/// All Via values come back in order.
#[test]
fn the_whole_via_stack_comes_back() {
    for (name, count) in [("wsinv", 3), ("transports", 5), ("v6-mixed-via", 3)] {
        let (_, outcome) = over_udp(&message(name));
        let answer = outcome.answers.first().unwrap_or_else(|| panic!("{name}: no answer"));
        let values: usize =
            answer.headers.iter().filter(|(n, _)| n == "via").map(|(_, value)| value.split(',').count()).sum();
        assert_eq!(values, count, "{name}");
    }
    let (_, outcome) = over_tcp(&message("longreq"), [].into_iter());
    let vias = outcome.answers.first().map_or(0, |answer| {
        answer.headers.iter().filter(|(n, _)| n == "via").map(|(_, value)| value.split(',').count()).sum()
    });
    assert_eq!(vias, 34, "longreq");
}
