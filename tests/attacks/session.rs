//! Sessions of messages under attack: S5, S10, S12, G7, P3.

use crate::measure::{processor_ms, resident};
use crate::sip::Sip;
use crate::world::{HONEST, Mood, OURS, PROXY, SIP_TCP, World, message, settings, sip_domain};
use latimer::base::counters::Counter;
use latimer::base::net::LinkId;
use latimer::limits::{SDP_MEDIA_MAX, SESSIONS_MAX, SESSIONS_PER_PAIR_MAX};
use latimer::settings::Dialect;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The SIP domain that does what it should not, and its next hop.
const RIVAL: &str = "rival.example";
const RIVAL_HOP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 22));

const OFFER: &str = "v=0\r\no=- 0 0 IN IP4 192.0.2.101\r\ns=session\r\nc=IN IP4 192.0.2.101\r\nt=0 0\r\n\
                     m=message 5060 sip null\r\na=accept-types:text/plain\r\n";

/// A second SIP domain, which speaks as Lync does.
fn world() -> World {
    let mut settings = settings();
    let mut rival = sip_domain(RIVAL, RIVAL_HOP);
    rival.dialect = Dialect::Lync;
    rival.rate = None;
    settings.sip_domains.push(rival);
    settings.sip_domains.iter_mut().for_each(|domain| domain.session_idle_s = 60);
    let mut world = World::with(settings);
    world.assert_honest_traffic();
    world
}

/// Sends a request of a domain's next hop over its connection.
fn send(world: &mut World, link: LinkId, text: &str) {
    world.write(link, text.as_bytes());
    world.pump();
}

fn dial(world: &mut World, hop: IpAddr) -> LinkId {
    let port = 20_000 + (world.number() % 30_000) as u16;
    world.dial_sip(SIP_TCP, SocketAddr::new(hop, port), Default::default())
}

/// A request; `to_tag` is empty outside a dialog, `more` are header lines.
struct Request<'a> {
    method: &'a str,
    from: &'a str,
    to: &'a str,
    call: &'a str,
    to_tag: &'a str,
    cseq: u32,
    more: &'a str,
    body: &'a str,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self { method: "INVITE", from: "", to: "", call: "", to_tag: "", cseq: 1, more: "", body: "" }
    }
}

impl Request<'_> {
    fn text(&self, branch: u64) -> String {
        let Self { method, from, to, call, cseq, more, body, .. } = self;
        let to_tag = if self.to_tag.is_empty() { String::new() } else { format!(";tag={}", self.to_tag) };
        let kind =
            if body.starts_with("v=0") { "Content-Type: application/sdp\r\n" } else { "Content-Type: text/plain\r\n" };
        let kind = if body.is_empty() { "" } else { kind };
        format!(
            "{method} sip:{to} SIP/2.0\r\nVia: SIP/2.0/TCP proxy;branch=z9hG4bKw{branch}\r\nMax-Forwards: 70\r\n\
             From: <sip:{from}>;tag=t{call}\r\nTo: <sip:{to}>{to_tag}\r\nCall-ID: {call}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:{from};gr=desk>\r\n{more}{kind}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// Sends it and gives the last answer of its call, if one came.
    fn send(&self, world: &mut World, link: LinkId) -> Option<Sip> {
        let branch = world.number();
        let before = world.responses.get(self.call).map_or(0, Vec::len);
        send(world, link, &self.text(branch));
        world.responses.get(self.call).filter(|all| all.len() > before).and_then(|all| all.last()).cloned()
    }
}

fn tag_of(value: &str) -> String {
    value.split(";tag=").nth(1).unwrap_or_default().to_string()
}

/// An open session of Ada's with the honest partner's Bob: our tag in it.
fn opened(world: &mut World, link: LinkId, call: &str) -> String {
    let (from, to) = (&*format!("ada@{OURS}"), &*format!("bob@{HONEST}"));
    let invite = Request { from, to, call, body: OFFER, ..Request::default() };
    let answer = invite.send(world, link).expect("an answer");
    assert_eq!(answer.status(), 200, "{}", world.log());
    let tag = tag_of(answer.get("To"));
    assert!(Request { method: "ACK", to_tag: &tag, body: "", ..invite }.send(world, link).is_none());
    tag
}

fn assert_books(world: &mut World) {
    world.settle();
    let of = |counter| world.of(counter);
    assert_eq!(
        of(Counter::SessionIn) + of(Counter::SessionOut),
        of(Counter::SessionRefusedIn) + of(Counter::SessionEnded) + world.house.gateway.sessions_kept() as u64,
        "session books: {}",
        world.books()
    );
}

#[test]
fn s10_a_flood_of_invites_takes_no_place_from_others() {
    let mut world = world();
    let link = dial(&mut world, RIVAL_HOP);
    let before = resident();
    let text = "x".repeat(3000);
    let first = format!("ms-text-format: text/plain; charset=UTF-8; ms-body={}\r\n", base64(&text));
    // Neither an ACK nor a second message ever comes.
    let (mut taken, mut refused, mut shown) = (0, 0, 0);
    let mut clear = |world: &mut World| {
        world.responses.clear();
        world.requests.clear();
        let (_, stanzas) = world.take();
        shown += stanzas.iter().filter(|(at, el)| at == HONEST && el.body() == text).count();
    };
    let spent = processor_ms(|| {
        for n in 0..6000 {
            let (from, to, call) = (format!("u{n}@{RIVAL}"), format!("bob{n}@{HONEST}"), format!("flood{n}"));
            let invite = Request { from: &from, to: &to, call: &call, more: &first, body: OFFER, ..Request::default() };
            match invite.send(&mut world, link).map(|answer| (answer.status(), answer.get("Retry-After").len())) {
                Some((200, _)) => taken += 1,
                Some((503, 1..)) => refused += 1,
                other => panic!("INVITE {n} was answered {other:?}: {}", world.log()),
            }
            if n % 100 == 0 {
                clear(&mut world);
            }
        }
    });
    assert_eq!((taken, refused), (SESSIONS_MAX, 6000 - SESSIONS_MAX), "{}", world.books());
    assert!(spent < 6000.0, "{spent} ms for 6000 INVITEs");
    assert!(resident().saturating_sub(before) < 96 << 20, "memory grew by {}", resident() - before);
    // Another domain opens sessions and sends messages as ever.
    let ours = dial(&mut world, PROXY);
    for n in 0..20 {
        let call = format!("calm{n}");
        let tag = opened(&mut world, ours, &call);
        let (from, to) = (&*format!("ada@{OURS}"), &*format!("bob@{HONEST}"));
        let text = &*format!("calm {n}");
        let said = Request {
            method: "MESSAGE",
            from,
            to,
            call: &call,
            to_tag: &tag,
            cseq: 2,
            body: text,
            ..Request::default()
        };
        assert_eq!(said.send(&mut world, ours).expect("an answer").status(), 200, "{}", world.log());
    }
    clear(&mut world);
    world.assert_honest_traffic();
    // Every text of an INVITE that was taken is shown once, and nothing is left.
    world.pass(60_000);
    clear(&mut world);
    assert_eq!(shown, taken, "{}", world.books());
    world.pass(120_000);
    assert_eq!(world.house.gateway.sessions_kept(), 0);
    assert_books(&mut world);
    world.assert_honest_traffic();
}

#[test]
fn s10_one_pair_holds_few_sessions() {
    let mut world = world();
    let link = dial(&mut world, PROXY);
    for n in 0..500 {
        opened(&mut world, link, &format!("many{n}"));
        assert!(world.house.gateway.sessions_kept() <= SESSIONS_PER_PAIR_MAX);
    }
    world.pass(120_000);
    assert_eq!(world.house.gateway.sessions_kept(), 0);
    assert_books(&mut world);
    world.assert_honest_traffic();
}

#[test]
fn s10_one_who_never_accepts_holds_up_nobody_else() {
    let mut world = world();
    let honest = world.reach_for(HONEST, RIVAL);
    world.moods.insert(RIVAL_HOP, Mood::Silent);
    for n in 0..1500 {
        let text = message(&format!("bob@{HONEST}"), &format!("u{n}@{RIVAL}"), &format!("r{n}"), "are you there?");
        world.write(honest, text.as_bytes());
    }
    world.assert_honest_traffic();
    world.pass(120_000);
    let told = world.stanzas.iter().filter(|(_, el)| el.attr("type") == "error" && el.attr("id").starts_with('r'));
    // What found no room on the way back is known.
    let told = told.count() as u64;
    assert!(
        (1..1500).contains(&told) && told + world.of(Counter::StanzaUndelivered) >= 1500,
        "{told} {}",
        world.books()
    );
    assert_eq!(world.house.gateway.sessions_kept(), 0);
    assert_books(&mut world);
    world.assert_honest_traffic();
}

#[test]
fn p3_nobody_speaks_in_a_session_of_another_domain() {
    let mut world = world();
    let (ours, rival) = (dial(&mut world, PROXY), dial(&mut world, RIVAL_HOP));
    let call = "mine";
    let tag = opened(&mut world, ours, call);
    world.stanzas.clear();
    let (ada, mallory, bob) = (format!("ada@{OURS}"), format!("mallory@{RIVAL}"), format!("bob@{HONEST}"));
    for (from, status) in [(&ada, 403), (&mallory, 481)] {
        for (cseq, (method, body)) in
            [("MESSAGE", "from the boss"), ("INFO", ""), ("UPDATE", ""), ("INVITE", OFFER), ("BYE", ""), ("ACK", "x")]
                .into_iter()
                .enumerate()
        {
            let cseq = 1000 + cseq as u32;
            let forged = Request { method, from, to: &bob, call, to_tag: &tag, cseq, body, ..Request::default() };
            let answer = forged.send(&mut world, rival).map(|answer| answer.status());
            assert_eq!(answer, (method != "ACK").then_some(status), "{method} of {from}");
        }
    }
    // The tags of a session that are not right are those of none.
    for (call, to_tag) in [("mine2", &*tag), (call, "wrong"), (call, "")] {
        let stray = Request { method: "BYE", from: &ada, to: &bob, call, to_tag, cseq: 5, ..Request::default() };
        assert_eq!(stray.send(&mut world, ours).map(|answer| answer.status()), Some(481), "{call} {to_tag}");
    }
    assert!(world.stanzas.is_empty(), "{:?}", world.stanzas);
    assert_eq!(world.house.gateway.sessions_kept(), 1);
    let said = Request {
        method: "MESSAGE",
        from: &ada,
        to: &bob,
        call,
        to_tag: &tag,
        cseq: 2,
        body: "it is me",
        ..Request::default()
    };
    assert_eq!(said.send(&mut world, ours).map(|answer| answer.status()), Some(200), "{}", world.log());
    // Its numbers go on from the largest that was sent by its owner.
    let late = Request { cseq: 2, ..said };
    assert_eq!(late.send(&mut world, ours).map(|answer| answer.status()), Some(500));
    let far = Request { cseq: (1 << 31) - 1, body: "far", ..late };
    assert_eq!(far.send(&mut world, ours).map(|answer| answer.status()), Some(200));
    world.pass(120_000);
    assert_books(&mut world);
    world.assert_honest_traffic();
}

#[test]
fn s5_a_hostile_2xx_leads_requests_nowhere_else() {
    for contact in [
        "<sip:boss@203.0.113.77:22;maddr=203.0.113.78>",
        "<sip:boss@[::1]:5060;transport=tcp>",
        "<sip:localhost>",
        "<sip:bob@honest.example?Subject=x>",
        "<mailto:boss@sip.example>",
        "<sip:ada@sip.example>",
        "boss",
        "",
    ] {
        for to in
            [format!("mallory@{RIVAL}"), format!("ada@{OURS}"), "boss@203.0.113.77".into(), "victim.example".into()]
        {
            let mut world = world();
            let honest = world.reach_for(HONEST, RIVAL);
            world.moods.insert(RIVAL_HOP, Mood::Silent);
            let text = message(&format!("bob@{HONEST}"), &format!("mallory@{RIVAL}"), "n1", "hello");
            world.write(honest, text.as_bytes());
            let connects = world.connects.clone();
            let invite = world.requests.pop().expect("an INVITE");
            assert!(invite.start.starts_with("INVITE "), "{}", invite.start);
            for tag in ["far", "fork"] {
                let mut answer = String::from("SIP/2.0 200 OK\r\n");
                for name in ["Via", "From", "Call-ID", "CSeq"] {
                    let _ = write!(answer, "{name}: {}\r\n", invite.get(name));
                }
                let _ = write!(
                    answer,
                    "To: <sip:{to}>;tag={tag}\r\nContact: {contact}\r\nRecord-Route: <sip:203.0.113.79;lr>\r\n\
                     Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{OFFER}",
                    OFFER.len()
                );
                world.datagram(SocketAddr::new(RIVAL_HOP, 5060), answer.as_bytes());
            }
            world.pass(100_000);
            assert_eq!(
                world.connects.keys().collect::<Vec<_>>(),
                connects.keys().collect::<Vec<_>>(),
                "{contact} {to}"
            );
            assert!(world.strays.is_empty(), "{contact} {to}: {:?}", world.strays);
            world.moods.clear();
            world.pass(120_000);
            assert_eq!(world.house.gateway.sessions_kept(), 0, "{contact} {to}");
            assert_books(&mut world);
            world.requests.clear();
            world.assert_honest_traffic();
        }
    }
}

#[test]
fn s12_descriptions_and_first_texts_are_no_bombs() {
    let mut world = world();
    let link = dial(&mut world, PROXY);
    let head = "v=0\r\no=- 0 0 IN IP4 192.0.2.101\r\ns=session\r\nt=0 0\r\n";
    let message = "m=message 5060 sip null\r\n";
    let descriptions = [
        (format!("{head}{}", "m=audio 9 RTP/AVP 0\r\n".repeat(SDP_MEDIA_MAX + 1)), 400),
        (format!("{head}{}{message}", "a=x\r\n".repeat(3000)), 200),
        (format!("{head}{message}a=accept-types:{}\r\n", "text/x ".repeat(2000)), 200),
        (format!("{head}m=message 0 sip null\r\n"), 488),
        (format!("{head}m=message {} sip null\r\n", "9".repeat(4000)), 200),
        (format!("{head}m=message 5060 sip {}\r\n", "x".repeat(15_000)), 200),
        (format!("{head}m=audio 9 RTP/AVP {}\r\n{message}", "0 ".repeat(7000)), 200),
        (format!("{head}m=audio 9 RTP/AVP 0\r\nm=\r\n{message}"), 400),
        ("v=0\r\n\u{1}=x\r\n".into(), 488),
        ("v=0\n".repeat(3000), 488),
        (format!("v=0\r\n{}", "x".repeat(16_000)), 400),
    ];
    let rtf = base64(&"{".repeat(20_000));
    let html = base64(&"<b>".repeat(6000));
    let texts = [
        format!("ms-text-format: text/plain; ms-body={}\r\n", "!".repeat(4000)),
        format!("ms-text-format: text/plain; charset=UTF-7; ms-body={}\r\n", base64("x")),
        format!("ms-text-format: text/rtf; ms-body={rtf}\r\n"),
        format!("ms-text-format: text/plain; ms-body={}\r\nms-im-format: text/html; ms-body={html}\r\n", base64("hi")),
        format!("ms-text-format: text/plain;{}\r\n", ";a=b".repeat(1000)),
        format!("ms-text-format: text/plain; ms-body={}\r\n", base64("x")).repeat(60),
        format!("ms-im-format: text/rtf; ms-body={}\r\n", base64("{\\rtf1 x}")).repeat(60),
        format!("Record-Route: <sip:{};lr>\r\n", "r".repeat(5000)),
        "Record-Route: <sip:r.sip.example;lr>\r\n".repeat(200),
        "Session-Expires: 0\r\nSupported: timer\r\n".into(),
        "Session-Expires: 4294967296;refresher=uas\r\nMin-SE: 4294967296\r\n".into(),
        "Require: timer, 100rel\r\n".into(),
    ];
    let (from, to) = (&*format!("ada@{OURS}"), &*format!("bob@{HONEST}"));
    let all = descriptions.iter().map(|(body, status)| ("", &**body, Some(*status)));
    let all: Vec<(&str, &str, Option<u16>)> = all.chain(texts.iter().map(|more| (&**more, OFFER, None))).collect();
    for (number, (more, body, status)) in all.into_iter().enumerate() {
        let call = format!("bomb{number}");
        let mut answer = None;
        let spent = processor_ms(|| {
            answer = Request { from, to, call: &call, more, body, ..Request::default() }.send(&mut world, link);
        });
        let answer = answer.unwrap_or_else(|| panic!("bomb {number} has no answer: {}", world.log()));
        if let Some(status) = status {
            assert_eq!(answer.status(), status, "bomb {number}: {body:.60}");
        }
        assert!(matches!(answer.status(), 200 | 400..=499 | 513), "bomb {number}: {}", answer.status());
        assert!(spent < 100.0, "bomb {number} took {spent} ms");
        world.pass(1000);
        world.assert_honest_traffic();
    }
    world.pass(120_000);
    assert_eq!(world.house.gateway.sessions_kept(), 0);
    assert_books(&mut world);
    world.assert_honest_traffic();
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in text.as_bytes().chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, octet| bits << 8 | u32::from(*octet)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]);
            out.push(if place <= three.len() { digit } else { '=' });
        }
    }
    out
}
