//! Who is who between servers: D1, D3, D4, D6, D7.

use crate::world::{DNS, EVIL, HONEST, Mood, OURS, STRANGER, Stage, World, certificate, header, message};
use crate::xml::El;
use base64ct::{Base64, Encoding as _};
use latimer::base::certificate::PeerCertificate;
use latimer::base::counters::Counter;
use latimer::base::net::{CloseReason, LinkId};
use std::net::SocketAddr;

/// A server of somebody who shows no certificate and says it is `domain`, in TLS.
fn impostor(world: &mut World, domain: &str) -> LinkId {
    let port = 20_000 + world.number() as u16;
    let link =
        world.dial(SocketAddr::new("203.0.113.7".parse().expect("an address"), port), PeerCertificate::default());
    world.write(link, header(domain, OURS).as_bytes());
    world.write(link, b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    world.write(link, header(domain, OURS).as_bytes());
    link
}

fn show_key(world: &mut World, link: LinkId, domain: &str, key: &str) {
    world.write(link, format!("<db:result from='{domain}' to='{OURS}'>{key}</db:result>").as_bytes());
}

/// The id of the stream as its last header has it.
fn stream_id(world: &World, link: LinkId) -> String {
    let said = world.said(link);
    let id = said.rsplit(" id='").next().and_then(|rest| rest.split('\'').next());
    id.expect("a header with an id").to_string()
}

/// A stanza of a domain that is not proved ends the stream and goes nowhere.
fn assert_unproved(world: &mut World, link: LinkId, domain: &str) {
    world.write(link, message(&format!("boss@{domain}"), &format!("ada@{OURS}"), "u", "pwned").as_bytes());
    assert!(!world.requests.iter().any(|request| request.body() == "pwned"), "passed: {}", world.log());
    let said = world.said(link);
    assert!(world.is_closed(link), "{said}");
    assert!(["<invalid-from ", "<not-authorized "].iter().any(|c| said.contains(c)), "{said}");
}

#[test]
fn d1_verdicts_that_nobody_asked_for_prove_nothing() {
    let mut world = World::new();
    world.assert_honest_traffic();
    // A true key passes: the rest of this test tries what does work.
    let link = impostor(&mut world, EVIL);
    show_key(&mut world, link, EVIL, "good");
    assert!(world.said(link).contains("type='valid'"), "{}{}", world.said(link), world.log());
    world.write(link, message(&format!("eve@{EVIL}"), &format!("ada@{OURS}"), "g", "fine").as_bytes());
    assert_eq!(world.take().0.len(), 1);
    world.house.close(link, CloseReason::Peer);

    // The partner's server says nothing, and everybody else says `valid`.
    world.verdict = Some(|_| String::new());
    let evil_in = world.open(EVIL);
    world.sip_message(&format!("ada@{OURS}"), &format!("eve@{EVIL}"), "opens a stream");
    for turned in [false, true] {
        for element in ["verify", "result"] {
            for right_id in [false, true] {
                for where_to in 0..3 {
                    let link = impostor(&mut world, HONEST);
                    show_key(&mut world, link, HONEST, "good but never confirmed");
                    let (from, to) = if turned { (OURS, HONEST) } else { (HONEST, OURS) };
                    let id = if right_id { stream_id(&world, link) } else { "guess".into() };
                    let forged = format!("<db:{element} from='{from}' to='{to}' id='{id}' type='valid'/>");
                    let evil_out = *world.streams_to(EVIL).first().expect("a stream to it");
                    let way = [link, evil_in, evil_out][where_to];
                    world.write(way, forged.as_bytes());
                    if !world.is_closed(link) {
                        assert_unproved(&mut world, link, HONEST);
                    }
                    for (stream, open) in [(evil_in, true), (evil_out, false)] {
                        if open && !world.is_closed(stream) {
                            world.write(
                                stream,
                                format!("<db:{element} from='{from}' to='{to}' id='{id}' type='valid'/>").as_bytes(),
                            );
                        }
                    }
                    if world.is_closed(evil_in) || world.is_closed(evil_out) {
                        // Closed over the forgery: as good as ignored, and the round goes on anew.
                        return finish_d1(world);
                    }
                }
            }
        }
    }
    finish_d1(world);
}

fn finish_d1(mut world: World) {
    assert!(world.of(Counter::DialbackInvalid) > 0, "{}", world.books());
    world.stream_errors.clear();
    // The right server answers, and not what it was asked.
    let answers: [fn(&El) -> String; 5] = [
        |el| format!("<db:verify from='{}' to='{}' id='wrong' type='valid'/>", el.attr("to"), el.attr("from")),
        |el| {
            format!(
                "<db:verify from='{}' to='{}' id='{}' type='valid'/>",
                el.attr("from"),
                el.attr("to"),
                el.attr("id")
            )
        },
        |el| format!("<db:verify from='evil.example' to='{}' id='{}' type='valid'/>", el.attr("from"), el.attr("id")),
        |el| {
            format!(
                "<db:verify from='{}' to='{}' id='{}' type='VALID'/>",
                el.attr("to"),
                el.attr("from"),
                el.attr("id")
            )
        },
        |el| format!("<db:result from='{}' to='{}' type='valid'/>", el.attr("to"), el.attr("from")),
    ];
    for answer in answers {
        world.verdict = Some(answer);
        let link = impostor(&mut world, HONEST);
        show_key(&mut world, link, HONEST, "good");
        world.pass(45_000);
        assert!(!world.said(link).contains("type='valid'"), "{}", world.said(link));
        if !world.is_closed(link) {
            assert_unproved(&mut world, link, HONEST);
        }
        world.pass(10_000);
    }
    world.verdict = None;
    world.stream_errors.clear();
    let link = impostor(&mut world, HONEST);
    show_key(&mut world, link, HONEST, "bad");
    assert!(world.said(link).contains("type='invalid'"), "{}", world.said(link));
    world.pass(10_000);
    world.assert_honest_traffic();
    world.assert_recovered();
    world.settle();
}

#[test]
fn d3_a_sender_that_the_stream_did_not_prove_is_refused() {
    let froms = [
        format!("boss@{HONEST}"),
        format!("boss@sub.{EVIL}"),
        format!("boss@{OURS}"),
        OURS.into(),
        format!("boss@{STRANGER}"),
        format!("boss@x{EVIL}"),
        format!("boss@{EVIL}.example"),
        "boss@xn--evl-7ma.example".into(),
        "boss@evıl.example".into(),
        "boss@ev\u{456}l.example".into(),
        format!("{EVIL}@{HONEST}/{EVIL}"),
        format!("boss@{HONEST}/x@{EVIL}"),
        format!("@{EVIL}"),
        format!("boss@@{EVIL}"),
        "boss@".into(),
        String::new(),
    ];
    let mut world = World::new();
    world.assert_honest_traffic();
    for from in &froms {
        for kind in ["message", "presence", "iq"] {
            let before =
                world.of(Counter::InvalidFrom) + world.of(Counter::XmlRefused) + world.of(Counter::HostUnknown);
            let link = world.open(EVIL);
            let stanza = format!("<{kind} from='{from}' to='ada@{OURS}' type='get' id='x'><body>pwned</body></{kind}>")
                .replace("<message from", "<message  from")
                .replace("<presence", "<presence ");
            world.write(link, stanza.replace(" type='get'", if kind == "iq" { " type='get'" } else { "" }).as_bytes());
            let (requests, stanzas) = world.take();
            assert!(requests.is_empty(), "{from:?} passed: {requests:?}");
            let said = world.said(link);
            assert!(
                world.is_closed(link) || stanzas.iter().all(|(at, el)| at == EVIL && el.error() == "jid-malformed"),
                "{from:?}: {said} {stanzas:?}"
            );
            if world.is_closed(link) {
                assert!(said.contains("<invalid-from ") || said.contains("<improper-addressing "), "{from:?}: {said}");
            }
            let after = world.of(Counter::InvalidFrom) + world.of(Counter::XmlRefused) + world.of(Counter::HostUnknown);
            assert!(after > before, "{from:?} is not counted");
        }
    }
    // Without any sender or recipient.
    for stanza in [
        format!("<message to='ada@{OURS}'><body>pwned</body></message>"),
        format!("<message from='eve@{EVIL}'><body>pwned</body></message>"),
        "<message><body>pwned</body></message>".to_string(),
    ] {
        let link = world.open(EVIL);
        world.write(link, stanza.as_bytes());
        assert!(
            world.is_closed(link) && world.said(link).contains("<improper-addressing "),
            "{stanza}: {}",
            world.said(link)
        );
    }
    // Its own domain in another spelling is its own domain, and nobody else's.
    for from in ["eve@EVIL.example", "eve@evil.example.", "EVE@evil.example"] {
        let link = world.open(EVIL);
        world.write(link, message(from, &format!("ada@{OURS}"), "c", "own").as_bytes());
        let (requests, _) = world.take();
        assert!(requests.iter().all(|r| r.get("From").contains(&format!("<sip:eve@{EVIL}>"))), "{from}: {requests:?}");
        assert!(requests.len() == 1 || world.is_closed(link), "{from}");
    }
    world.assert_honest_traffic();
    world.assert_recovered();
    world.settle();
}

#[test]
fn d4_many_pairs_on_one_stream_stay_apart_and_bounded() {
    let mut world = World::new();
    world.assert_honest_traffic();
    let link = impostor(&mut world, EVIL);
    show_key(&mut world, link, EVIL, "good");
    show_key(&mut world, link, HONEST, "bad");
    assert!(
        world.said(link).contains(&format!("<db:result from='{OURS}' to='{HONEST}' type='invalid'/>")),
        "{}",
        world.said(link)
    );
    world.write(link, message(&format!("eve@{EVIL}"), &format!("ada@{OURS}"), "a", "still mine").as_bytes());
    assert_eq!(world.take().0.len(), 1, "a failed pair killed another: {}", world.said(link));
    assert_unproved(&mut world, link, HONEST);

    for (pairs, resolves) in [(1, true), (16, true), (1000, true), (1000, false)] {
        // A name server that says nothing keeps all of them open.
        world.moods.insert(DNS, if resolves { Mood::Good } else { Mood::Blackhole });
        let link = impostor(&mut world, EVIL);
        show_key(&mut world, link, EVIL, "good");
        let before = world.said(link).matches("<db:result ").count();
        for n in 0..pairs {
            show_key(&mut world, link, &format!("n{n}.{STRANGER}"), "good");
        }
        world.pass(40_000);
        let said = world.said(link);
        let answers = said.matches("<db:result ").count() - before;
        assert!(answers == pairs || world.is_closed(link), "{pairs} keys, {answers} answers");
        assert!(world.house.links() < 100, "{} links", world.house.links());
        if !world.is_closed(link) {
            world.write(
                link,
                message(&format!("eve@{EVIL}"), &format!("ada@{OURS}"), "b", &format!("after {pairs} {resolves}"))
                    .as_bytes(),
            );
            assert_eq!(world.take().0.len(), 1);
            assert_unproved(&mut world, link, &format!("n0.{STRANGER}"));
        }
    }
    // Keys for a domain of ours, and for one we do not serve.
    let link = impostor(&mut world, EVIL);
    show_key(&mut world, link, OURS, "good");
    assert!(world.is_closed(link) && world.said(link).contains("<invalid-from "), "{}", world.said(link));
    let link = impostor(&mut world, EVIL);
    world.write(link, format!("<db:result from='{EVIL}' to='other.example'>good</db:result>").as_bytes());
    assert!(world.said(link).contains("<item-not-found "), "{}", world.said(link));
    assert!(
        world.of(Counter::StreamLimit) > 0 && world.of(Counter::DialbackInvalid) + world.of(Counter::InvalidFrom) > 0
    );
    world.stream_errors.clear();
    world.assert_honest_traffic();
    world.settle();
}

#[test]
fn d6_an_authorization_identity_is_that_of_the_certificate_or_refused() {
    let mut world = World::new();
    world.assert_honest_traffic();
    let auth =
        |text: &str| format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{text}</auth>");
    let encode = |text: &str| Base64::encode_string(text.as_bytes());
    for good in ["=".to_string(), encode(EVIL), encode("EVIL.example")] {
        let link = world.reach(EVIL, Stage::Encrypted);
        world.write(link, auth(&good).as_bytes());
        assert!(
            world.said(link).ends_with("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"),
            "{good:?}: {}",
            world.said(link)
        );
        world.house.close(link, CloseReason::Peer);
    }
    let huge = encode(&"x".repeat(6000));
    for bad in [
        encode(HONEST),
        encode(OURS),
        encode(&format!("eve@{EVIL}")),
        encode("evil.example\0honest.example"),
        encode("*.example"),
        encode("sub.evil.example"),
        encode(" "),
        String::new(),
        "==".into(),
        "!!!".into(),
        "YQ".into(),
        "Y Q==".into(),
        "/+/+".into(),
        "gICA".into(),
        huge,
    ] {
        let before = world.of(Counter::StreamFailed);
        let link = world.reach(EVIL, Stage::Encrypted);
        world.write(link, auth(&bad).as_bytes());
        let said = world.said(link);
        assert!(
            said.contains("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><") && !said.contains("<success"),
            "{bad:?}: {said}"
        );
        assert!(world.of(Counter::StreamFailed) > before, "{bad:?} is not counted");
        assert_unproved(&mut world, link, EVIL);
    }
    for (other, condition) in [
        (auth("=").replace("EXTERNAL", "PLAIN"), "invalid-mechanism"),
        (auth("=").replace("EXTERNAL", "ANONYMOUS"), "invalid-mechanism"),
        (auth("=").replace(" mechanism='EXTERNAL'", ""), "invalid-mechanism"),
        ("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>=</response>".into(), "malformed-request"),
        ("<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".into(), "aborted"),
        ("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".into(), "malformed-request"),
    ] {
        let link = world.reach(EVIL, Stage::Encrypted);
        world.write(link, other.as_bytes());
        let said = world.said(link);
        assert!(said.contains(&format!("<{condition}/></failure>")), "{other}: {said}");
        assert_unproved(&mut world, link, EVIL);
    }
    // After a failure one may try again, and not for ever.
    let link = world.reach(EVIL, Stage::Encrypted);
    world.write(link, auth(&encode(HONEST)).as_bytes());
    world.write(link, auth("=").as_bytes());
    assert!(world.said(link).contains("<success"), "{}", world.said(link));
    let link = world.reach(EVIL, Stage::Encrypted);
    for _ in 0..50 {
        world.write(link, auth("!").as_bytes());
    }
    assert!(world.is_closed(link) && world.said(link).matches("<failure").count() <= 5, "{}", world.said(link));
    // Without a certificate that proves the domain nothing is offered, and nothing taken.
    for shown in [PeerCertificate::default(), certificate(&[HONEST])] {
        let from = world.address_of(EVIL);
        let link = world.dial(from, shown);
        world.write(link, header(EVIL, OURS).as_bytes());
        world.write(link, b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        world.write(link, header(EVIL, OURS).as_bytes());
        assert!(!world.said(link).contains("EXTERNAL"));
        world.write(link, auth("=").as_bytes());
        assert!(!world.said(link).contains("<success"), "{}", world.said(link));
        assert_unproved(&mut world, link, EVIL);
    }
    world.assert_honest_traffic();
    world.assert_recovered();
    world.settle();
}

#[test]
fn d7_tls_that_is_required_is_never_done_without() {
    for mood in [Mood::OffersNoTls, Mood::RefusesTls, Mood::Legacy, Mood::TlsStall] {
        let mut world = World::new();
        world.assert_honest_traffic();
        world.set_mood(EVIL, mood);
        world.in_the_clear.clear();
        let call = world.sip_message(&format!("ada@{OURS}"), &format!("eve@{EVIL}"), "secret");
        world.assert_honest_traffic();
        world.pass(40_000);
        let answered = world.statuses(&call);
        assert!(
            matches!(answered[..], [400..=599]) || mood == Mood::OffersNoTls && answered == [200],
            "{mood:?}: {answered:?} {}",
            world.log()
        );
        let evil_words: Vec<&str> =
            world.in_the_clear.iter().map(|el| &*el.name).filter(|name| *name != "error").collect();
        assert!(evil_words.iter().all(|name| *name == "starttls"), "{mood:?}: {evil_words:?} in the clear");
        if answered != [200] {
            assert!(
                world.of(Counter::SipMessageFailed) == 1 && world.of(Counter::StreamFailed) > 0,
                "{}",
                world.books()
            );
        }
        world.stream_errors.clear();
        world.assert_honest_traffic();
        world.settle();
    }
    // The same when they come to us.
    let mut world = World::new();
    let clear_result = format!("<db:result from='{EVIL}' to='{OURS}'>good</db:result>");
    let link = world.reach(EVIL, Stage::Clear);
    world.write(link, clear_result.as_bytes());
    assert!(!world.said(link).contains("type='valid'"), "{}", world.said(link));
    assert_unproved(&mut world, link, EVIL);
    let from = world.address_of(EVIL);
    let link = world.dial(from, certificate(&[EVIL]));
    world.write(link, header(EVIL, OURS).replace(" version='1.0'>", ">").as_bytes());
    assert!(world.is_closed(link) && world.said(link).contains("<unsupported-version "), "{}", world.said(link));
    let link = world.reach(EVIL, Stage::Clear);
    assert!(world.said(link).contains("<required/>"));
    world.assert_honest_traffic();
    world.settle();
}
