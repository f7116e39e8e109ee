//! Two SIP sides with the gateway between them, in one process and in no time.

use super::*;
use crate::base::certificate::PeerCertificate;
use crate::base::counters::Counters;
use crate::base::net::{CloseReason, LinkId, ListenerId};
use crate::base::outbox::{Action, Outbox};
use crate::base::rng::Rng;
use crate::base::time::Wall;
use crate::gateway::input::Input;
use crate::settings::{
    Listener, ListenerKind, NextHop, NextHopTransport, Partner, Policy, Settings, SipDomain, Verification,
};

/// The next hops: the office's server and the provider's proxy.
const OFFICE: &str = "192.0.2.7";
const PROXY: &str = "192.0.2.9";

fn settings() -> Settings {
    let hop = NextHop { transport: NextHopTransport::Tls, host: OFFICE.into(), port: None };
    let provider = Provider {
        enabled: true,
        proxy: Some((PROXY.into(), None)),
        domains: vec!["hafen.example".into()],
        routing_domain: Some("hafen.example".into()),
        audio: true,
        ..Provider::new("hafen")
    };
    let mut settings = Settings {
        host_name: "bruecke.example".into(),
        listeners: vec![Listener {
            name: "tls".into(),
            kind: ListenerKind::SipTls,
            address: "192.0.2.1:5061".parse().expect("an address"),
        }],
        sip_domains: vec![SipDomain { next_hop: Some(hop), ..SipDomain::new("kontor.example") }],
        partners: vec![Partner::new("wiese.example")],
        providers: vec![provider],
        ..Settings::default()
    };
    settings.complete();
    settings
}

/// The gateway and the connections that lead to the two sides.
struct World {
    gateway: Gateway,
    now: Instant,
    rng: Rng,
    out: Outbox,
    count: Counters,
    /// Who each connection leads to.
    links: Vec<(LinkId, &'static str)>,
    /// What was sent and not looked at: to whom, and what.
    sent: Vec<(&'static str, String)>,
    /// Does the other side take connections?
    is_closed: bool,
}

impl World {
    fn new(settings: Settings) -> Self {
        Self {
            gateway: Gateway::new(settings, &[5; 32]),
            now: Instant::from_millis(9_000),
            rng: Rng::from_number(11),
            out: Outbox::with_capacity(16_384, 16),
            count: Counters::default(),
            links: Vec::new(),
            sent: Vec::new(),
            is_closed: false,
        }
    }

    fn give(&mut self, input: Input<'_>) -> usize {
        let mut cx = Cx {
            now: self.now,
            wall: Wall(1_800_000_000_000),
            rng: &mut self.rng,
            out: &mut self.out,
            count: &mut self.count,
        };
        let result = self.gateway.handle(&mut cx, input);
        let (mut connects, mut pings) = (Vec::new(), Vec::new());
        for action in self.out.actions() {
            match action {
                Action::Send { link, bytes } if self.out.text(bytes) == "\r\n\r\n" => pings.push(*link),
                Action::Send { link, bytes } => {
                    let to = self.links.iter().find(|(known, _)| known == link).map_or("nobody", |(_, name)| name);
                    self.sent.push((to, self.out.text(bytes).into()));
                }
                Action::Connect { link, to, .. } => connects.push((*link, to.ip().to_string())),
                _ => {}
            }
        }
        self.out.clear();
        for link in pings {
            self.give(Input::Stream { link, bytes: &mut b"\r\n".to_vec() });
        }
        for (link, to) in connects {
            if self.is_closed {
                let why = CloseReason::Refused;
                self.give(Input::Closed { link, why });
                continue;
            }
            let name = if to == PROXY { PROXY } else { OFFICE };
            self.links.push((link, name));
            self.give(Input::Opened { link });
            self.secure(link, name);
        }
        result
    }

    fn secure(&mut self, link: LinkId, name: &str) {
        let peer = PeerCertificate {
            verdict: Some(Ok(())),
            dns_names: vec![name.into()],
            protocol: "TLSv1_3".into(),
            ..PeerCertificate::default()
        };
        self.give(Input::Secured { link, peer: &peer });
    }

    /// A connection that somebody opens with this certificate.
    fn accept(&mut self, name: &'static str) -> LinkId {
        let link = self.out.new_link();
        self.links.push((link, name));
        let from = "198.51.100.4:40000".parse().expect("an address");
        self.give(Input::Accepted { link, listener: ListenerId(0), from });
        self.secure(link, name);
        link
    }

    /// Brings octets; gives what was sent because of them.
    fn say(&mut self, link: LinkId, text: &str) -> Vec<(&'static str, String)> {
        let mut bytes = text.as_bytes().to_vec();
        let used = self.give(Input::Stream { link, bytes: &mut bytes });
        assert_eq!(used, text.len());
        core::mem::take(&mut self.sent)
    }

    /// Answers what was sent to somebody, over the connection it was sent on.
    fn answer(&mut self, request: &str, status: &str, more: &str) -> Vec<(&'static str, String)> {
        let text = response(request, status, more);
        let link = self.links.iter().rev().find(|(_, name)| *name == self.side_of(request)).expect("a link").0;
        self.say(link, &text)
    }

    /// Whom a request that was sent on is for: the side that did not send it.
    fn side_of(&self, request: &str) -> &'static str {
        if request.contains("198.51.100.1;branch") { PROXY } else { OFFICE }
    }

    fn wait(&mut self, seconds: u64) -> Vec<(&'static str, String)> {
        let end = self.now.after(Duration::from_secs(seconds));
        while let Some(next) = self.gateway.deadline().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.give(Input::Timeout);
        }
        self.now = end;
        core::mem::take(&mut self.sent)
    }
}

const SDP: &str =
    "v=0\r\no=- 7 1 IN IP4 198.51.100.9\r\ns=-\r\nc=IN IP4 198.51.100.9\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";

/// An INVITE of the office as its server sends it, with header fields nobody else knows.
fn invite(more: &str, body: &str) -> String {
    format!(
        "INVITE sip:moewe@hafen.example SIP/2.0\r\n\
         Record-Route: <sip:kontor.example:5061;transport=tls;lr;ms-key-info=AAEC%3d;ms-route-sig=x>;tag=1A\r\n\
         Via: SIP/2.0/TLS 198.51.100.1;branch=z9hG4bKa1;branched=FALSE;ms-internal-info=\"bq\"\r\n\
         max-forwards: 66\r\n\
         Content-Length: {}\r\n\
         v: SIP/2.0/TLS 10.0.0.4:1205;branch=z9hG4bKa0;ms-received-port=1205\r\n\
         From: \"Pia\"<sip:pia@kontor.example>;tag=f1;epid=00AB\r\n\
         To: <sip:moewe@hafen.example>;epid=77\r\n\
         Call-ID: c-1\r\n\
         CSeq: 1  INVITE\r\n\
         X-Nobody-Knows:  \"a,b\" ; c=d\r\n\
         Supported: timer\r\n\
         Supported: ms-early-media\r\n\
         Contact: <sip:pia@kontor.example;opaque=user:epid:Zz;gruu>\r\n\
         {more}Content-Type: application/sdp\r\n\r\n{body}",
        body.len()
    )
}

/// A response to a request as its receiver sees it.
fn response(request: &str, status: &str, more: &str) -> String {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for line in request.split("\r\n") {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        match name.as_str() {
            "via" | "v" | "from" | "call-id" | "cseq" | "record-route" => text.push_str(&format!("{line}\r\n")),
            "to" if !line.contains(";tag=") && !status.starts_with("100") => {
                text.push_str(&format!("{line};tag=t1\r\n"));
            }
            "to" => text.push_str(&format!("{line}\r\n")),
            _ => {}
        }
    }
    text + more + "Content-Length: 0\r\n\r\n"
}

fn first_line(text: &str) -> &str {
    text.split("\r\n").next().unwrap_or_default()
}

/// Who gets what: the first line of each message.
fn lines<'a>(sent: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    sent.iter().map(|(to, text)| (*to, first_line(text))).collect()
}

/// The header fields and the body, without the top Via.
fn without_top_via(text: &str) -> String {
    let (first, rest) = text.split_once("\r\n").expect("a first line");
    let (via, rest) = rest.split_once("\r\n").expect("a Via");
    assert!(via.starts_with("Via: SIP/2.0/TLS bruecke.example;branch=z9hG4bK"), "{via}");
    format!("{first}\r\n{rest}")
}

#[test]
fn an_invite_passes_with_nothing_changed_but_what_a_proxy_changes() {
    let mut world = World::new(settings());
    let office = world.accept(OFFICE);
    let body = format!("{SDP}a=x-odd:\t\u{1}\u{e9} \r\n");
    let sent = world.say(office, &invite("", &body));
    assert_eq!(lines(&sent), [(OFFICE, "SIP/2.0 100 Trying"), (PROXY, "INVITE sip:moewe@hafen.example SIP/2.0")]);
    let wanted = invite("", &body)
        .replace("max-forwards: 66", "max-forwards: 65")
        .replace("ms-internal-info=\"bq\"\r\n", "ms-internal-info=\"bq\";received=198.51.100.4\r\n")
        .replace("X-Nobody-Knows:  ", "X-Nobody-Knows: ")
        .replacen("\r\n", "\r\nRecord-Route: <sip:bruecke.example;transport=tls;lr;relay>\r\n", 1);
    assert_eq!(without_top_via(&sent[1].1), wanted);

    // Provisional responses, one with a body, come back without our Via and as they are.
    let request = sent[1].1.clone();
    for status in ["183 Weird  Words", "180 Ringing"] {
        let more = "X-Also:  1 ,2\r\nRSeq: 9\r\n";
        let back = world.answer(&request, status, more);
        let whole = response(&request, status, more);
        let via = whole.split("\r\n").find(|line| line.contains("bruecke.example;branch")).expect("ours");
        let wanted = whole.replace(&format!("{via}\r\n"), "").replace("X-Also:  ", "X-Also: ");
        assert_eq!(back, [(OFFICE, wanted)]);
    }
    let back = world.answer(&request, "200 OK", "Contact: <sip:moewe@203.0.113.5>\r\n");
    assert_eq!(lines(&back), [(OFFICE, "SIP/2.0 200 OK")]);
    assert_eq!(world.count.of(Counter::SipRelayed), 1);
}

/// A request of the office inside the dialog.
fn inside(method: &str, cseq: u32, body: &str) -> String {
    format!(
        "{method} sip:moewe@203.0.113.5 SIP/2.0\r\nVia: SIP/2.0/TLS 198.51.100.1;branch=z9hG4bKi{cseq}{method}\r\n\
         Max-Forwards: 70\r\nRoute: <sip:bruecke.example;transport=tls;lr;relay>, <sip:{PROXY};lr;x=%2c>\r\n\
         From: <sip:pia@kontor.example>;tag=f1\r\nTo: <sip:moewe@hafen.example>;tag=t1\r\nCall-ID: c-1\r\n\
         CSeq: {cseq} {method}\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn established() -> (World, LinkId) {
    let mut world = World::new(settings());
    let office = world.accept(OFFICE);
    let request = world.say(office, &invite("", SDP)).pop().expect("sent on").1;
    world.answer(&request, "200 OK", "");
    (world, office)
}

#[test]
fn everything_of_the_dialog_follows_by_our_route_and_loses_it() {
    let (mut world, office) = established();
    let sent = world.say(office, &inside("ACK", 1, ""));
    assert_eq!(lines(&sent), [(PROXY, "ACK sip:moewe@203.0.113.5 SIP/2.0")]);
    assert!(sent[0].1.contains(&format!("\r\nRoute: <sip:{PROXY};lr;x=%2c>\r\n")), "{}", sent[0].1);
    for (cseq, method, body) in [(2, "PRACK", ""), (3, "UPDATE", SDP), (4, "INFO", "x"), (5, "INVITE", SDP)] {
        let mut sent = world.say(office, &inside(method, cseq, body));
        let (to, request) = sent.pop().expect("sent on");
        assert_eq!((to, first_line(&request)), (PROXY, format!("{method} sip:moewe@203.0.113.5 SIP/2.0").as_str()));
        assert!(
            !request.contains("bruecke.example;transport=tls;lr;relay") && request.contains("Max-Forwards: 69\r\n")
        );
        assert_eq!(lines(&world.answer(&request, "200 OK", "")), [(OFFICE, "SIP/2.0 200 OK")], "{method}");
    }
    // The provider's side hangs up: over a connection of its own.
    let proxy = world.accept(PROXY);
    let bye = "BYE sip:pia@kontor.example SIP/2.0\r\nVia: SIP/2.0/TLS 203.0.113.9;branch=z9hG4bKp\r\n\
               Route: <sip:bruecke.example;transport=tls;lr;relay>\r\nRoute: <sip:kontor.example:5061;lr>\r\n\
               From: <sip:moewe@hafen.example>;tag=t1\r\nTo: <sip:pia@kontor.example>;tag=f1\r\nCall-ID: c-1\r\n\
               CSeq: 7 BYE\r\nContent-Length: 0\r\n\r\n";
    let sent = world.say(proxy, bye);
    assert_eq!(lines(&sent), [(OFFICE, "BYE sip:pia@kontor.example SIP/2.0")]);
    assert!(
        sent[0].1.contains("Max-Forwards: 69\r\n") && sent[0].1.contains("\r\nRoute: <sip:kontor.example:5061;lr>\r\n")
    );
    let back = world.answer(&sent[0].1.clone(), "200 OK", "");
    assert_eq!(lines(&back), [(PROXY, "SIP/2.0 200 OK")]);
    // What only waits for other phones is forgotten with them.
    world.wait(40);
    assert!(world.gateway.calls.relays.is_empty() && world.gateway.calls.timers.is_empty());
}

#[test]
fn a_strict_router_before_us_gets_its_target_back_in_place() {
    let (mut world, office) = established();
    let strict = inside("INFO", 2, "x")
        .replace("INFO sip:moewe@203.0.113.5 ", "INFO sip:bruecke.example;transport=tls;lr;relay ")
        .replace("Route: <sip:bruecke.example;transport=tls;lr;relay>, ", "Route: ")
        .replace("lr;x=%2c>", "lr;x=%2c>,<sip:moewe@203.0.113.5>");
    let sent = world.say(office, &strict);
    assert_eq!(lines(&sent), [(PROXY, "INFO sip:moewe@203.0.113.5 SIP/2.0")]);
    assert!(sent[0].1.contains(&format!("\r\nRoute: <sip:{PROXY};lr;x=%2c>\r\n")), "{}", sent[0].1);
}

#[test]
fn a_request_inside_that_nobody_answers_is_not_answered_too_late() {
    let (mut world, office) = established();
    assert_eq!(world.say(office, &inside("INFO", 2, "x")).len(), 1);
    let sent = world.wait(34);
    assert!(sent.iter().all(|(to, text)| *to != OFFICE || text.starts_with("SIP/2.0 100 ")), "{sent:?}");
    assert!(world.gateway.calls.relays.is_empty());
}

#[test]
fn what_does_not_follow_our_route_belongs_to_no_dialog() {
    let (mut world, office) = established();
    let stray = inside("BYE", 9, "").replace(";lr;relay", ";lr");
    let sent = world.say(office, &stray);
    assert_eq!(lines(&sent), [(OFFICE, "SIP/2.0 481 Call/Transaction Does Not Exist")]);
    let stray = inside("ACK", 9, "").replace(";lr;relay", ";lr");
    assert!(world.say(office, &stray).is_empty());
}

#[test]
fn every_phone_that_rings_and_answers_is_heard_of() {
    let mut world = World::new(settings());
    let office = world.accept(OFFICE);
    let request = world.say(office, &invite("", SDP)).pop().expect("sent on").1;
    let forked = |tag: &str| request.replace("epid=77", &format!("epid=77;tag={tag}"));
    for (status, tag) in
        [("180 Ringing", "t1"), ("180 Ringing", "t2"), ("200 OK", "t1"), ("200 OK", "t2"), ("200 OK", "t1")]
    {
        let back = world.answer(&forked(tag), status, "");
        assert_eq!(lines(&back), [(OFFICE, format!("SIP/2.0 {status}").as_str())]);
        assert!(back[0].1.contains(&format!(";tag={tag}\r\n")));
    }
}

#[test]
fn a_cancel_goes_on_and_the_487_comes_from_the_other_side() {
    let mut world = World::new(settings());
    let office = world.accept(OFFICE);
    let request = world.say(office, &invite("", SDP)).pop().expect("sent on").1;
    world.answer(&request, "180 Ringing", "");
    let cancel = "CANCEL sip:moewe@hafen.example SIP/2.0\r\nVia: SIP/2.0/TLS 198.51.100.1;branch=z9hG4bKa1\r\n\
                  Max-Forwards: 70\r\nFrom: \"Pia\"<sip:pia@kontor.example>;tag=f1\r\nTo: <sip:moewe@hafen.example>\r\n\
                  Call-ID: c-1\r\nCSeq: 1 CANCEL\r\nContent-Length: 0\r\n\r\n";
    let sent = world.say(office, cancel);
    assert_eq!(lines(&sent), [(OFFICE, "SIP/2.0 200 OK"), (PROXY, "CANCEL sip:moewe@hafen.example SIP/2.0")]);
    let cancel = &sent[1].1;
    let branch =
        |text: &str| text.split("branch=").nth(1).map(|rest| rest.split([';', '\r']).next().unwrap_or("").to_owned());
    assert_eq!(branch(cancel), branch(&request));
    assert!(!cancel.contains("198.51.100.1") && cancel.contains("CSeq: 1 CANCEL\r\n"), "{cancel}");
    let back = world.answer(&request, "487 Request Terminated", "");
    // The ACK to a failure is ours.
    assert_eq!(
        lines(&back),
        [(PROXY, "ACK sip:moewe@hafen.example SIP/2.0"), (OFFICE, "SIP/2.0 487 Request Terminated")]
    );
    assert!(world.gateway.calls.relays.is_empty());
}

fn refused(settings: Settings, request: &str) -> String {
    let mut world = World::new(settings);
    let office = world.accept(OFFICE);
    let sent = world.say(office, request);
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(sent[0].0, OFFICE);
    assert!(world.gateway.calls.relays.is_empty());
    sent[0].1.clone()
}

#[test]
fn what_may_not_pass_is_refused_at_once_and_says_why() {
    let audio = invite("", SDP);
    let video = invite("", &SDP.replace("m=audio 4000", "m=video 4000"));
    let policy = |calls| {
        let rights = Policy { public_cloud: true, public_cloud_audio_video: calls, ..Policy::new("default") };
        Settings { policies: vec![rights], ..settings() }
    };
    let mut ended = settings();
    ended.providers[0].end_of_life = crate::settings::provider::Day::parse("2020-01-31");
    for (settings, request, status, word) in [
        (settings(), video.clone(), "488 This Is Not Carried There", "7247007"),
        (policy(false), audio.clone(), "488 The SIP User May Not Call Users Of Public Providers", "1001"),
        (ended, audio.clone(), "488 The Public Provider Has Ended", "7247001"),
        (settings(), audio.replace("max-forwards: 66", "max-forwards: 0"), "483 Too Many Hops", ""),
        (settings(), invite("Proxy-Require: x-odd\r\n", SDP), "420 Bad Extension", "Unsupported: x-odd"),
        (settings(), invite("P-Asserted-Identity: <sip:boss@wiese.example>\r\n", SDP), "403 P-Asserted", ""),
        (settings(), audio.replace("sip:pia@kontor", "sip:pia@anders"), "403 sender's domain not served", ""),
        (settings(), audio.replace("sip:pia@kontor", "sip:pia@hafen"), "403 sender's domain not proved", ""),
    ] {
        let answer = refused(settings, &request);
        assert!(first_line(&answer).starts_with(&format!("SIP/2.0 {status}")) && answer.contains(word), "{answer}");
    }
    let mut world = World::new(policy(true));
    let office = world.accept(OFFICE);
    assert_eq!(world.say(office, &audio).len(), 2);
}

#[test]
fn a_call_to_an_xmpp_user_by_a_decorated_address_is_none() {
    let answer = refused(settings(), &invite("", SDP).replace("moewe@hafen", "klee(wiese.example)@hafen"));
    assert!(first_line(&answer).starts_with("SIP/2.0 488 "), "{answer}");
    let mut world = World::new(settings());
    let office = world.accept(OFFICE);
    let sent = world.say(office, &invite("", SDP).replace("moewe@hafen", "klee(strand.example)@hafen"));
    assert_eq!(lines(&sent)[1], (PROXY, "INVITE sip:klee(strand.example)@hafen.example SIP/2.0"));
}

#[test]
fn the_provider_calls_and_the_rights_of_the_called_user_count() {
    let call = invite("", SDP)
        .replace("pia@kontor", "PIA@X")
        .replace("moewe@hafen", "pia@kontor")
        .replace("PIA@X", "moewe@hafen");
    let mut world = World::new(settings());
    let proxy = world.accept(PROXY);
    let sent = world.say(proxy, &call);
    assert_eq!(lines(&sent), [(PROXY, "SIP/2.0 100 Trying"), (OFFICE, "INVITE sip:pia@kontor.example SIP/2.0")]);
    for settings in [Settings { policies: vec![Policy::new("default")], ..settings() }, {
        let mut settings = settings();
        settings.sip_domains[1].verification = Verification::Never;
        settings
    }] {
        let mut world = World::new(settings);
        let proxy = world.accept(PROXY);
        let sent = world.say(proxy, &call);
        assert!(sent.len() == 1 && (sent[0].1.contains(" 488 ") || sent[0].1.contains(" 403 ")), "{sent:?}");
    }
}

#[test]
fn a_side_that_cannot_be_reached_or_says_nothing_is_told_of() {
    let mut world = World::new(settings());
    let office = world.accept(OFFICE);
    world.is_closed = true;
    let sent = world.say(office, &invite("", SDP));
    assert_eq!(
        lines(&sent),
        [(OFFICE, "SIP/2.0 100 Trying"), (OFFICE, "SIP/2.0 503 The Other Side Cannot Be Reached")]
    );
    assert!(sent[1].1.contains("Retry-After: "));

    let mut world = World::new(settings());
    let office = world.accept(OFFICE);
    world.say(office, &invite("", SDP));
    let sent = world.wait(33);
    assert_eq!(lines(&sent), [(OFFICE, "SIP/2.0 408 The Other Side Did Not Answer In Time")]);

    // One that rings for ever is cancelled.
    let mut world = World::new(settings());
    let office = world.accept(OFFICE);
    let request = world.say(office, &invite("", SDP)).pop().expect("sent on").1;
    world.answer(&request, "180 Ringing", "");
    let sent = world.wait(186);
    assert!(lines(&sent).contains(&(PROXY, "CANCEL sip:moewe@hafen.example SIP/2.0")), "{sent:?}");
    let sent = world.wait(33);
    assert!(lines(&sent).contains(&(OFFICE, "SIP/2.0 408 The Other Side Did Not Answer In Time")), "{sent:?}");
    assert!(world.gateway.calls.relays.is_empty());

    // A server that is overloaded does not make us look so.
    let mut world = World::new(settings());
    let office = world.accept(OFFICE);
    let request = world.say(office, &invite("", SDP)).pop().expect("sent on").1;
    let back = world.answer(&request, "503 Service Unavailable", "");
    assert!(lines(&back).contains(&(OFFICE, "SIP/2.0 500 The Next Server Is Overloaded")), "{back:?}");
}

#[test]
fn there_is_room_for_so_many_calls_and_the_next_is_told_to_come_again() {
    let mut world = World::new(settings());
    let office = world.accept(OFFICE);
    let nth = |n: usize| {
        let numbered = invite("", SDP).replace("z9hG4bKa1", &format!("z9hG4bKn{n}")).replace("c-1", &format!("n-{n}"));
        numbered.replace("tag=f1", &format!("tag=n{n}"))
    };
    for n in 0..RELAYS_MAX {
        let sent = world.say(office, &nth(n));
        assert_eq!(sent.len(), 2, "{n}: {sent:?}");
    }
    let sent = world.say(office, &nth(RELAYS_MAX));
    assert_eq!(lines(&sent), [(OFFICE, "SIP/2.0 503 Too Many Calls Are Being Set Up")]);
}

#[test]
fn the_end_of_the_program_ends_what_is_being_set_up() {
    let mut world = World::new(settings());
    let office = world.accept(OFFICE);
    let request = world.say(office, &invite("", SDP)).pop().expect("sent on").1;
    world.answer(&request, "180 Ringing", "");
    world.give(Input::Shutdown);
    let sent = core::mem::take(&mut world.sent);
    assert_eq!(
        lines(&sent),
        [(PROXY, "CANCEL sip:moewe@hafen.example SIP/2.0"), (OFFICE, "SIP/2.0 503 The Gateway Is Being Shut Down")]
    );
}

#[test]
fn media_are_found_in_descriptions_and_in_parts_of_many() {
    for (body, wanted) in [
        (SDP, Some(What::Audio)),
        ("v=0\r\nm=audio 1 RTP/AVP 0\r\nm=video 0 RTP/AVP 31\r\n", Some(What::Audio)),
        ("v=0\nm=audio 1 RTP/AVP 0\nm=video 9 RTP/AVP 31\n", Some(What::Video)),
        ("--x\r\nContent-Type: application/sdp\r\n\r\nv=0\r\nm=audio 4 RTP/SAVP 8\r\n--x--\r\n", Some(What::Audio)),
        ("v=0\r\nm=message 5060 sip null\r\n", None),
        ("m=audio", None),
        ("", None),
    ] {
        assert_eq!(offered(body.as_bytes()), wanted, "{body}");
    }
}
