//! XML and stanzas: X1 to X10.

use crate::measure::{processor_ms, resident};
use crate::sip::Sip;
use crate::world::{EVIL, HONEST, OURS, Stage, World, certificate, header, message};
use crate::xml::{El, Piece, Reader, escape};
use latimer::base::counters::Counter;

const BEFORE_HEADER: [Stage; 3] = [Stage::Connected, Stage::Secured, Stage::Authenticated];
const IN_STREAM: [Stage; 3] = [Stage::Clear, Stage::Encrypted, Stage::Open];

/// All that was refused so far.
fn refusals(world: &World) -> u64 {
    use Counter as C;
    [C::XmlRefused, C::StreamFailed, C::InvalidFrom, C::HostUnknown, C::StreamLimit].map(|c| world.of(c)).iter().sum()
}

/// Octets on a stream of the partner that misbehaves end it with one of these stream
/// errors, and a counter says so.
fn assert_refused(world: &mut World, stage: Stage, octets: &[u8], conditions: &[&str]) {
    let link = world.reach(EVIL, stage);
    let before = refusals(world);
    world.write(link, octets);
    let shown = String::from_utf8_lossy(&octets[..octets.len().min(120)]).into_owned();
    let said = world.said(link);
    let named = conditions.iter().any(|c| said.contains(&format!("<{c} xmlns='urn:ietf:params:xml:ns:xmpp-streams'")));
    assert!(named, "{stage:?} {shown:?} is to end in {conditions:?}: {}{}", said, world.log());
    assert!(said.ends_with("</stream:stream>"), "{said}");
    assert!(world.is_closed(link), "{stage:?} {shown:?}: the link stays open");
    assert!(refusals(world) > before, "{stage:?} {shown:?}: not counted");
    assert!(world.requests.is_empty(), "{stage:?} {shown:?}: something passed");
}

/// After an attack: all is as before.
fn assert_unharmed(world: &mut World) {
    world.assert_honest_traffic();
    world.assert_recovered();
    world.settle();
}

#[test]
fn x1_entity_bombs_and_document_types_are_refused() {
    let nested = format!(
        "<!DOCTYPE lolz [<!ENTITY a0 'lol'>{}]>",
        (1..10).map(|n| format!("<!ENTITY a{n} '{}'>", format!("&a{};", n - 1).repeat(10))).collect::<String>()
    );
    let types = [
        "<!DOCTYPE a [<!ENTITY b 'c'>]>",
        &nested,
        "<!DOCTYPE a SYSTEM 'file:///etc/passwd'>",
        "<!DOCTYPE a [<!ENTITY x SYSTEM 'http://198.51.100.9/x'>]>",
        "<!DOCTYPE a [<!ENTITY % p SYSTEM 'http://198.51.100.9/p'> %p;]>",
        "<!DOCTYPE a PUBLIC '-//X//Y' 'http://198.51.100.9/dtd'>",
        "<!ENTITY a 'b'>",
        "<!ELEMENT a ANY>",
    ];
    let mut world = World::new();
    world.assert_honest_traffic();
    let refused = ["restricted-xml", "not-well-formed"];
    let mut attacks = 0;
    let ms = processor_ms(|| {
        for kind in types {
            for stage in BEFORE_HEADER {
                let octets = format!("<?xml version='1.0'?>{kind}{}", header(EVIL, OURS));
                assert_refused(&mut world, stage, octets.as_bytes(), &refused);
            }
            for stage in IN_STREAM {
                assert_refused(&mut world, stage, kind.as_bytes(), &refused);
                let inside = format!("<message from='e@{EVIL}' to='a@{OURS}'>{kind}<body>&a;</body></message>");
                assert_refused(&mut world, stage, inside.as_bytes(), &refused);
                attacks += 3;
            }
        }
        for reference in ["&lol;", "&a9;", "&%p;", "&;", "&#;", "&#x110000;", "&#0;", "&#xD800;", "&amp"] {
            let text = format!("<message from='e@{EVIL}' to='a@{OURS}'><body>{reference}</body></message>");
            assert_refused(&mut world, Stage::Open, text.as_bytes(), &refused);
            let value = format!("<message from='e@{EVIL}' to='a@{OURS}' id='{reference}'><body>x</body></message>");
            assert_refused(&mut world, Stage::Open, value.as_bytes(), &refused);
            let head = header(&format!("{reference}{EVIL}"), OURS);
            assert_refused(&mut world, Stage::Connected, head.as_bytes(), &refused);
            attacks += 3;
        }
        for extra in ["<?php x?>", "<!-- c -->", "<?xml-stylesheet href='x'?>", "<?xml version='1.0'?>"] {
            for stage in IN_STREAM {
                assert_refused(&mut world, stage, extra.as_bytes(), &refused);
                attacks += 1;
            }
        }
    });
    // The stream that carries each attack is negotiated in that time, too.
    assert!(ms / f64::from(attacks) < 5.0, "{ms} ms for {attacks} attacks");
    assert_unharmed(&mut world);
}

#[test]
fn x2_attribute_and_namespace_floods_are_refused() {
    let flood = |count: usize, attribute: fn(usize) -> String| {
        let all: String = (0..count).map(attribute).collect();
        format!("<message from='e@{EVIL}' to='a@{OURS}'{all}><body>x</body></message>").into_bytes()
    };
    let forms: [fn(usize) -> String; 4] = [
        |n| format!(" a{n}='v'"),
        |n| format!(" xmlns:p{n}='urn:n'"),
        |n| format!(" xmlns:q{n}='urn:{n}' q{n}:a='v'"),
        |n| format!(" very-long-attribute-name-{n:060}='{n:0100}'"),
    ];
    let mut world = World::new();
    world.assert_honest_traffic();
    let before = resident();
    let mut worst: f64 = 0.0;
    for form in forms {
        for count in [65, 100, 1000, 5000, 20_000, 60_000] {
            let octets = flood(count, form);
            for stage in [Stage::Encrypted, Stage::Open] {
                let conditions = ["policy-violation", "not-well-formed"];
                worst = worst.max(processor_ms(|| assert_refused(&mut world, stage, &octets, &conditions)));
            }
        }
        // In the stream header, too.
        let open = header(EVIL, OURS);
        let head = format!("{}{}>", open.trim_end_matches('>'), (0..300).map(form).collect::<String>());
        assert_refused(&mut world, Stage::Connected, head.as_bytes(), &["policy-violation", "not-well-formed"]);
    }
    let twice = format!("<message from='e@{EVIL}' to='a@{OURS}' id='a' id='b'><body>x</body></message>");
    assert_refused(&mut world, Stage::Open, twice.as_bytes(), &["not-well-formed"]);
    let aliased = format!("<message from='e@{EVIL}' to='a@{OURS}' xmlns:p='u' xmlns:q='u' p:a='1' q:a='2'/>");
    assert_refused(&mut world, Stage::Open, aliased.as_bytes(), &["not-well-formed"]);
    assert!(worst < 100.0, "one flood takes {worst} ms");
    assert!(resident().saturating_sub(before) < 64 << 20, "memory grew by {}", resident() - before);
    assert_unharmed(&mut world);
}

#[test]
fn x3_what_has_no_end_is_refused_at_its_limit() {
    let start = format!("<message from='e@{EVIL}' to='a@{OURS}'>");
    let shapes: [(&str, Vec<u8>); 12] = [
        ("depth", format!("{start}{}", "<a>".repeat(100_000)).into_bytes()),
        ("width", format!("{start}{}", "<a/>".repeat(250_000)).into_bytes()),
        ("text", format!("{start}<body>{}", "x".repeat(2_000_000)).into_bytes()),
        ("escapes", format!("{start}<body>{}", "&amp;".repeat(400_000)).into_bytes()),
        ("section", format!("{start}<body><![CDATA[{}", "]".repeat(2_000_000)).into_bytes()),
        ("name", format!("<{}", "n".repeat(2_000_000)).into_bytes()),
        ("end tag", format!("<a></{}", "n".repeat(2_000_000)).into_bytes()),
        ("value", format!("<a b='{}", "v".repeat(2_000_000)).into_bytes()),
        ("attribute name", format!("<a {}", "v".repeat(2_000_000)).into_bytes()),
        ("blanks", " \n\t\r".repeat(500_000).into_bytes()),
        ("blanks in a tag", format!("<a{}", " ".repeat(2_000_000)).into_bytes()),
        ("sections", format!("{start}<body>{}", "<![CDATA[]]>".repeat(170_000)).into_bytes()),
    ];
    let mut world = World::new();
    world.assert_honest_traffic();
    let before = resident();
    for (shape, octets) in &shapes {
        for stage in
            [Stage::Connected, Stage::Clear, Stage::Secured, Stage::Encrypted, Stage::Authenticated, Stage::Open]
        {
            let begins = BEFORE_HEADER.contains(&stage);
            // Before a header comes a start tag: the same shapes in it.
            let conditions: &[&str] = if begins {
                &["policy-violation", "not-well-formed", "bad-format", "invalid-namespace"]
            } else {
                &["policy-violation"]
            };
            assert_refused(&mut world, stage, octets, conditions);
        }
        assert!(resident().saturating_sub(before) < 64 << 20, "{shape}: memory grew");
    }
    // Whole, and one more than is taken.
    let wide = format!("{start}{}</message>", "<a/>".repeat(512));
    assert_refused(&mut world, Stage::Open, wide.as_bytes(), &["policy-violation"]);
    let deep = format!("{start}{}{}</message>", "<a>".repeat(32), "</a>".repeat(32));
    assert_refused(&mut world, Stage::Open, deep.as_bytes(), &["policy-violation"]);
    assert_unharmed(&mut world);
}

/// The one reading of a stanza inside of a stream that a strict reader has: the
/// first-level elements, or nothing if it refuses.
fn oracle(stanza: &[u8]) -> Option<Vec<El>> {
    let mut stream = header(EVIL, OURS).into_bytes();
    stream.extend_from_slice(stanza);
    stream.extend_from_slice(b"</stream:stream>");
    let pieces = Reader::default().feed(&stream).ok()?;
    let elements = pieces.into_iter().filter_map(|piece| match piece {
        Piece::Element(el) => Some(el),
        Piece::Header(_) | Piece::End => None,
    });
    Some(elements.collect())
}

#[test]
fn x4_no_stanza_is_smuggled_inside_another() {
    let hidden = format!("<message from='boss@{OURS}' to='ada@{OURS}' type='chat'><body>pwned</body></message>");
    let tricks: [&[u8]; 20] = [
        b"\xC0",
        b"\xC2",
        b"\xE0",
        b"\xE2\x82",
        b"\xF0\x9F\x98",
        b"\xF5",
        b"\xFF",
        b"\xC0\xBC",
        b"\xE0\x80\xBC",
        b"\xF0\x80\x80\xBC",
        b"\xEF\xBF\xBE",
        b"\xED\xA0\x80",
        b"\0",
        b"\x0C",
        b"]]>",
        b"&#x3C;",
        b"&#0;",
        b"\xEF\xBB\xBF",
        b"\xC2\x85",
        b"\xE2\x80\xA8",
    ];
    type Place = fn(&[u8], &str) -> Vec<u8>;
    let places: [Place; 10] = [
        |t, h| [b"<body>", t, b"</body>", h.as_bytes(), b"<body>"].concat(),
        |t, h| [b"<body>", t, h.as_bytes(), b"</body>"].concat(),
        |t, h| [b"<x a=\"", t, b"\">", h.as_bytes(), b"</x>"].concat(),
        |t, h| [b"<x a='", t, b"'/></message>", h.as_bytes(), b"<message a='"].concat(),
        |t, h| [b"<x xmlns='urn:", t, b"'>", h.as_bytes(), b"</x>"].concat(),
        |t, h| [b"<x xmlns:p='", t, b"'><p:message>", h.as_bytes(), b"</p:message></x>"].concat(),
        |t, h| [b"<x", t, b">", h.as_bytes(), b"</x", t, b">"].concat(),
        |t, h| [b"<body><![CDATA[", t, b"]]>", h.as_bytes(), b"<![CDATA[", t, b"]]></body>"].concat(),
        |t, h| [b"<body>", escape(h).as_bytes(), t, b"</body>"].concat(),
        |t, h| {
            [
                b"<html xmlns='http://jabber.org/protocol/xhtml-im'><body xmlns='http://www.w3.org/1999/xhtml'>",
                t,
                h.as_bytes(),
                b"</body></html><body>x</body>",
            ]
            .concat()
        },
    ];
    let mut world = World::new();
    world.assert_honest_traffic();
    let (mut link, mut tried, mut refused, mut passed) = (world.open(EVIL), 0, 0, 0);
    for trick in tricks {
        for place in places {
            for tail in ["<body>mine</body>", ""] {
                let mut stanza =
                    format!("<message from='eve@{EVIL}' to='ada@{OURS}' type='chat' id='s{tried}'>").into_bytes();
                stanza.extend(place(trick, &hidden));
                stanza.extend_from_slice(tail.as_bytes());
                stanza.extend_from_slice(b"</message>");
                tried += 1;
                world.write(link, &stanza);
                let (requests, stanzas) = world.take();
                judge_smuggling(&stanza, &requests, &stanzas);
                passed += requests.len();
                if world.is_closed(link) {
                    refused += 1;
                    assert!(world.said(link).contains("<stream:error>"), "closed without a word");
                    link = world.open(EVIL);
                } else if oracle(&stanza).is_none() {
                    // The rest of an element that is not whole yet.
                    world.house.close(link, latimer::base::net::CloseReason::Peer);
                    world.pump();
                    link = world.open(EVIL);
                }
            }
        }
    }
    assert_eq!(tried, 400);
    assert!(refused > 100 && passed > 20, "{refused} streams refused, {passed} messages passed");
    assert_unharmed(&mut world);
}

/// What passed is what a strict reader finds in the stanza, from its true sender, and
/// nothing of what was hidden in it.
fn judge_smuggling(stanza: &[u8], requests: &[Sip], stanzas: &[(String, El)]) {
    let shown = String::from_utf8_lossy(stanza);
    assert!(requests.len() <= 1, "{} requests of one stanza: {shown}", requests.len());
    for request in requests {
        let elements = oracle(stanza).unwrap_or_else(|| panic!("passed what a strict reader refuses: {shown}"));
        let bodies: Vec<&str> = elements[0]
            .children
            .iter()
            .filter(|c| c.name == "body" && c.ns == "jabber:server")
            .map(|c| &*c.text)
            .collect();
        assert!(request.get("From").contains(&format!("sip:eve@{EVIL}")), "{request:?}");
        assert_eq!(request.body(), *bodies.first().unwrap_or(&""), "{shown}");
        assert_ne!(request.body(), "pwned", "{shown}");
    }
    for (at, el) in stanzas {
        assert_eq!((&**at, el.attr("type"), el.attr("to")), (EVIL, "error", &*format!("eve@{EVIL}")), "{shown}");
        assert_eq!(el.count("message"), 1, "{shown}");
        assert!(!el.attr("from").starts_with("boss"), "{shown}");
    }
}

#[test]
fn x5_text_from_sip_never_becomes_markup() {
    let mut world = World::new();
    world.assert_honest_traffic();
    let texts = [
        "</body></message><message from='boss@evil' to='x'><body>pwned",
        "<![CDATA[x]]>",
        "]]>",
        "&lt;&amp;&#60;",
        "\"'<>&",
        "<?xml?>",
        "<!DOCTYPE a>",
        "%3Cmessage%3E",
        "=?UTF-8?B?PGE+?=",
        "\u{85}\u{2028}\u{2029}",
        "\u{FFFD}\u{10FFFF}",
        "\u{202E}rtl",
        "a\r\nb\tc",
    ];
    for text in texts {
        let call = world.sip_message(&format!("ada@{OURS}"), &format!("bob@{HONEST}"), text);
        let (_, stanzas) = world.take();
        assert_eq!(world.statuses(&call), [200], "{text:?}");
        let [(at, el)] = &stanzas[..] else { panic!("{text:?} became {stanzas:?}") };
        // A line end is one line feed in XML.
        assert_eq!((&**at, el.body()), (HONEST, &*text.replace("\r\n", "\n")));
        assert_eq!((el.count("message"), el.count("body")), (1, 1), "{text:?}");
    }
    // Characters that XML cannot have are refused or replaced, never sent.
    for octet in (0..32_u8).filter(|octet| !b"\t\r\n".contains(octet)) {
        let text = format!("a{}b", char::from(octet));
        let call = world.sip_message(&format!("ada@{OURS}"), &format!("bob@{HONEST}"), &text);
        let (_, stanzas) = world.take();
        let answered = world.statuses(&call);
        assert!(matches!(answered[..], [200 | 400..=499]), "{octet:#x} is answered {answered:?}");
        assert_eq!(stanzas.len(), usize::from(answered == [200]));
    }
    for line in [
        "Subject: </subject><body>pwned</body>",
        "Subject: ]]>&lt;\"'",
        "Subject: =?UTF-8?B?PGE+?=",
        "Subject: %00",
        "Subject: a\u{202E}b\u{FFFE}",
        "Call-Info: <http://x/'><a>",
    ] {
        let call = format!("x5-{}", world.number());
        let request = crate::world::sip_request(
            &format!("ada@{OURS}"),
            &format!("bob@{HONEST}"),
            &call,
            &format!("{line}\r\n"),
            "mine",
        );
        world.datagram("192.0.2.21:5060".parse().expect("an address"), request.as_bytes());
        let (_, stanzas) = world.take();
        let answered = world.statuses(&call);
        assert!(matches!(answered[..], [200 | 400..=499]), "{line:?} is answered {answered:?}");
        for (_, el) in &stanzas {
            assert_eq!((el.body(), el.count("body"), el.count("message")), ("mine", 1, 1), "{line:?}");
        }
    }
    for user in
        ["a%00b", "a%0d%0ab", "a%3c%3e%26", "%22%27", "a%EF%BF%BEb", "%C0%BC", "%ff", "%", "%zz", "a%20b", "a%2Fb%40c"]
    {
        let call = world.sip_message(&format!("{user}@{OURS}"), &format!("bob@{HONEST}"), "mine");
        let (_, stanzas) = world.take();
        let answered = world.statuses(&call);
        assert!(matches!(answered[..], [200 | 400..=499]), "{user} is answered {answered:?}");
        for (_, el) in &stanzas {
            assert_eq!(el.body(), "mine");
            assert!(el.attr("from").ends_with(&format!("@{OURS}")), "{user}: {}", el.attr("from"));
        }
    }
    assert_unharmed(&mut world);
}

#[test]
fn x6_compression_is_neither_offered_nor_begun() {
    let mut world = World::new();
    for stage in IN_STREAM {
        let link = world.reach(EVIL, stage);
        assert!(!world.said(link).contains("compress"), "{stage:?}: offered");
        for method in ["zlib", "lzw", "", "exi"] {
            let compress =
                format!("<compress xmlns='http://jabber.org/protocol/compress'><method>{method}</method></compress>");
            world.write(link, compress.as_bytes());
        }
        let said = world.said(link);
        assert_eq!(said.matches("<unsupported-method/>").count(), 4, "{stage:?}: {said}");
        assert!(!said.contains("<compressed"));
        // What follows is read as it is.
        world.write(link, b"\x78\x9c\x4b\x04\x00");
        assert!(world.is_closed(link) && world.said(link).contains("<stream:error>"), "{stage:?}");
    }
    assert!(world.of(Counter::XmlRefused) >= 3);
    assert_unharmed(&mut world);
}

#[test]
fn x7_streams_restart_only_where_they_may() {
    let mut world = World::new();
    world.assert_honest_traffic();
    let smuggled = message(&format!("eve@{EVIL}"), &format!("ada@{OURS}"), "p", "pipelined");

    // Clear text behind STARTTLS: dropped with its stream.
    let starttls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
    for behind in [
        smuggled.clone(),
        header(EVIL, OURS),
        format!(
            "{}<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>{smuggled}",
            header(EVIL, OURS)
        ),
        "x".into(),
        "\u{16}\u{3}\u{1}".into(),
    ] {
        let before = refusals(&world);
        let link = world.reach(EVIL, Stage::Clear);
        world.write(link, format!("{starttls}{behind}").as_bytes());
        assert!(world.is_closed(link), "{behind:?} survived the start of TLS");
        assert!(world.said(link).ends_with("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"));
        assert!(refusals(&world) > before, "{behind:?} was not counted");
    }

    let second = header(EVIL, OURS);
    let second = second.trim_start_matches("<?xml version='1.0'?>");
    for stage in IN_STREAM {
        assert_refused(
            &mut world,
            stage,
            second.as_bytes(),
            &["bad-format", "not-well-formed", "unsupported-stanza-type", "policy-violation"],
        );
    }
    for stage in BEFORE_HEADER {
        let good = header(EVIL, OURS);
        for (bad, condition) in [
            (good.replace("etherx.jabber.org/streams", "example.org/streams"), "invalid-namespace"),
            (good.replace("'jabber:server'", "'jabber:client'"), "invalid-namespace"),
            (good.replace("'jabber:server'", "'urn:x'"), "invalid-namespace"),
            (good.replace("stream:stream xmlns", "stream:flow xmlns"), "bad-format"),
            (good.replace(OURS, "other.example"), "host-unknown"),
            (good.replace(&format!("from='{EVIL}'"), &format!("from='{OURS}'")), "invalid-from"),
            (good.replace(&format!("from='{EVIL}'"), "from='eve@evil.example'"), "improper-addressing"),
            (good.replace(&format!(" to='{OURS}'"), ""), "improper-addressing"),
            (good.replace("version='1.0'>", "version='1.0'/>"), "bad-format"),
        ] {
            if stage == Stage::Authenticated && condition == "improper-addressing" && !bad.contains(" to='") {
                continue; // Who is meant was proved.
            }
            let either = [condition, "invalid-from", "improper-addressing", "bad-namespace-prefix"];
            let conditions = if stage == Stage::Authenticated { &either[..] } else { &either[..1] };
            assert_refused(&mut world, stage, bad.as_bytes(), conditions);
        }
    }
    // Both addresses are proved: neither changes afterwards.
    assert_refused(&mut world, Stage::Authenticated, header(HONEST, OURS).as_bytes(), &["invalid-from"]);

    // What belongs to another step.
    let auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>";
    for (stage, octets) in [
        (Stage::Clear, smuggled.as_str()),
        (Stage::Encrypted, &smuggled),
        (Stage::Open, auth),
        (Stage::Open, "<bidi xmlns='urn:xmpp:bidi'/>"),
        (Stage::Encrypted, "<enable xmlns='urn:xmpp:sm:3'/>"),
        (Stage::Encrypted, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"),
        (Stage::Encrypted, "<stream:features/>"),
        (Stage::Open, "<message xmlns='jabber:client'/>"),
        (Stage::Open, "<handshake/>"),
    ] {
        let any = ["not-authorized", "unsupported-stanza-type", "policy-violation", "bad-format", "invalid-namespace"];
        assert_refused(&mut world, stage, octets.as_bytes(), &any);
    }
    for stage in [Stage::Encrypted, Stage::Open] {
        let before = refusals(&world);
        let link = world.reach(EVIL, stage);
        world.write(link, format!("{starttls}{smuggled}").as_bytes());
        let failure = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>";
        assert!(world.said(link).ends_with(failure) && world.is_closed(link), "{}", world.said(link));
        assert!(refusals(&world) > before && world.requests.is_empty());
    }
    // SASL in the clear: no stream comes of it.
    let link = world.reach(EVIL, Stage::Clear);
    world.write(link, auth.as_bytes());
    assert!(!world.said(link).contains("<success"), "{}", world.said(link));
    world.write(link, format!("{}{smuggled}", header(EVIL, OURS)).as_bytes());
    assert!(world.is_closed(link) && world.requests.is_empty());
    assert_unharmed(&mut world);
}

#[test]
fn x8_every_iq_gets_one_answer_and_no_answer_gets_one() {
    let mut world = World::new();
    world.assert_honest_traffic();
    let link = world.open(EVIL);
    let iq = |id: &str, kind: &str, inside: &str| {
        format!("<iq from='eve@{EVIL}/x' to='ada@{OURS}' id='{id}' type='{kind}'>{inside}</iq>")
    };
    let ms = processor_ms(|| {
        for n in 0..4000 {
            world.write(
                link,
                iq(&format!("f{n}"), if n % 2 == 0 { "get" } else { "set" }, "<q xmlns='urn:unknown'/>").as_bytes(),
            );
        }
    });
    let (_, stanzas) = world.take();
    assert_eq!(stanzas.len(), 4000);
    for (n, (_, el)) in stanzas.iter().enumerate() {
        assert_eq!((el.attr("id"), el.error()), (&*format!("f{n}"), "service-unavailable"));
    }
    assert!(ms < 4000.0, "{ms} ms for 4000 iq");
    assert_eq!(world.of(Counter::IqRefused), 4000);
    assert_eq!(world.house.gateway.messages_under_way(), 0);

    for (inside, kind, conditions) in [
        ("", "get", &["bad-request"][..]),
        ("<a xmlns='urn:a'/><b xmlns='urn:b'/>", "get", &["bad-request"]),
        ("<ping xmlns='urn:xmpp:ping'/><ping xmlns='urn:xmpp:ping'/>", "get", &["bad-request"]),
        ("<a xmlns='urn:a'/>", "what", &["bad-request"]),
        ("<query xmlns='jabber:iq:roster'/>", "get", &["service-unavailable"]),
        ("<query xmlns='jabber:iq:register'/>", "set", &["service-unavailable"]),
        ("<ping xmlns='urn:xmpp:ping'/>", "set", &["service-unavailable", "bad-request", "not-allowed"]),
    ] {
        world.write(link, iq("one", kind, inside).as_bytes());
        let (_, stanzas) = world.take();
        let [(_, el)] = &stanzas[..] else { panic!("{kind} {inside} got {stanzas:?}") };
        assert!(conditions.contains(&el.error()), "{kind} {inside} got {el:?}");
        assert_eq!((el.attr("id"), el.attr("to")), ("one", &*format!("eve@{EVIL}/x")));
    }
    // The same id twice is two requests.
    let twice = iq("twice", "get", "<q xmlns='urn:unknown'/>").repeat(2);
    world.write(link, twice.as_bytes());
    assert_eq!(world.take().1.len(), 2);

    // Answers, asked for or not.
    let error = "<error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";
    for answer in [
        iq("r", "result", "<q xmlns='urn:x'/>"),
        iq("r", "result", ""),
        iq("r", "error", error),
        iq("r", "error", "<a/><b/><c/>"),
        format!("<message from='eve@{EVIL}' to='ada@{OURS}' type='error' id='m'>{error}</message>"),
        format!("<message from='eve@{EVIL}' to='ada@{OURS}' type='error'/>"),
        format!("<message from='eve@{EVIL}' to='{OURS}' type='error'><body>x</body></message>"),
        format!("<presence from='eve@{EVIL}' to='ada@{OURS}' type='error'>{error}</presence>"),
        format!("<iq from='{EVIL}' to='{OURS}' type='result' id='none'/>"),
        format!("<message from='eve@{EVIL}' to='a b@{OURS}' type='error'>{error}</message>"),
    ] {
        world.write(link, answer.as_bytes());
        let (requests, stanzas) = world.take();
        assert!(requests.is_empty() && stanzas.is_empty(), "{answer} was answered: {stanzas:?}");
    }
    assert!(!world.is_closed(link), "{}", world.said(link));
    assert!(world.of(Counter::StrayError) >= 2);
    // An iq without an id is no iq.
    world.write(link, format!("<iq from='eve@{EVIL}' to='ada@{OURS}' type='get'><q xmlns='urn:x'/></iq>").as_bytes());
    let (_, stanzas) = world.take();
    assert!(world.is_closed(link) || stanzas.iter().all(|(_, el)| el.error() == "bad-request"));
    assert_unharmed(&mut world);
}

#[test]
fn x9_what_is_wrapped_stays_wrapped() {
    let inner = format!(
        "<message xmlns='jabber:client' from='boss@{OURS}' to='ada@{OURS}' type='chat'><body>pwned</body></message>"
    );
    let forwarded = format!(
        "<forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='2020-01-01T00:00:00Z'/>{inner}</forwarded>"
    );
    let wrappers = [
        forwarded.clone(),
        format!("<received xmlns='urn:xmpp:carbons:2'>{forwarded}</received>"),
        format!("<sent xmlns='urn:xmpp:carbons:2'>{forwarded}</sent>"),
        format!("<result xmlns='urn:xmpp:mam:2' id='1'>{forwarded}</result>"),
        format!("<privilege xmlns='urn:xmpp:privilege:2'>{forwarded}</privilege>"),
        format!("<event xmlns='http://jabber.org/protocol/pubsub#event'><items><item>{inner}</item></items></event>"),
        format!(
            "<addresses xmlns='http://jabber.org/protocol/address'><address type='ofrom' jid='boss@{OURS}'/></addresses>"
        ),
        format!("<delay xmlns='urn:xmpp:delay' from='{OURS}' stamp='2020-01-01T00:00:00Z'>{inner}</delay>"),
        format!("<nick xmlns='http://jabber.org/protocol/nick'>boss@{OURS}</nick>"),
        inner.clone(),
        inner.replace(" xmlns='jabber:client'", ""),
    ];
    let mut world = World::new();
    world.assert_honest_traffic();
    let link = world.open(EVIL);
    for wrapper in &wrappers {
        for body in ["", "<body>mine</body>"] {
            let stanza =
                format!("<message from='eve@{EVIL}' to='ada@{OURS}' type='chat' id='w'>{wrapper}{body}</message>");
            world.write(link, stanza.as_bytes());
            let (requests, stanzas) = world.take();
            assert!(stanzas.is_empty(), "{stanza}: {stanzas:?}");
            assert_eq!(requests.len(), usize::from(!body.is_empty()), "{stanza}");
            for request in requests {
                assert_eq!(request.body(), "mine");
                assert!(request.get("From").contains(&format!("<sip:eve@{EVIL}>")), "{request:?}");
                assert!(
                    !String::from_utf8_lossy(&request.body).contains("boss")
                        && !request.fields.iter().any(|(_, v)| v.contains("boss")),
                    "{request:?}"
                );
            }
        }
    }
    assert_eq!(world.of(Counter::XmppMessageNothing), wrappers.len() as u64);
    assert_unharmed(&mut world);
}

/// A whole negotiation with stanzas behind it, in the pieces that may not be joined
/// since TLS or SASL lies between them.
fn script() -> Vec<Vec<u8>> {
    let header = header(EVIL, OURS);
    let stanzas = format!(
        "{}<iq from='{EVIL}' to='{OURS}' id='i' type='get'><ping xmlns='urn:xmpp:ping'/></iq> \n\
         <message from='eve@{EVIL}' to='ada@{OURS}' id='c'><body><![CDATA[<b> & ]]&gt;&#x1F600; ü</body></message>\
         <message from='eve@{EVIL}' to='@{OURS}' id='bad'><body>x</body></message><?pi no?>",
        message(&format!("eve@{EVIL}"), &format!("ada@{OURS}"), "a", "one < two")
    );
    let stanzas = stanzas.replace("]]&gt;", "]]>");
    [
        &header,
        "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
        &header,
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>",
        &header,
        &stanzas,
    ]
    .map(|piece: &str| piece.as_bytes().to_vec())
    .to_vec()
}

/// What comes of a script of which one piece comes cut in two; or all octet by octet.
fn play(cut: Option<(usize, usize)>) -> (Vec<String>, Vec<String>, String) {
    let mut world = World::new();
    let link = world.dial("198.51.100.1:1".parse().expect("an address"), certificate(&[EVIL]));
    for (number, piece) in script().iter().enumerate() {
        match cut {
            Some((cut, at)) if cut == number => {
                world.write(link, &piece[..at]);
                world.write(link, &piece[at..]);
            }
            None => piece.chunks(1).for_each(|octet| world.write(link, octet)),
            Some(_) => world.write(link, piece),
        }
    }
    let said = world.said(link);
    let said = said
        .replace(|c: char| c.is_ascii_digit(), "")
        .split("id='")
        .map(|p| p.split_once('\'').map_or(p, |(_, r)| r))
        .collect();
    let (requests, stanzas) = world.take();
    world.settle();
    let bodies = requests
        .iter()
        .map(|r| format!("{} {}", r.get("From").split(';').next().unwrap_or_default(), r.body()))
        .collect();
    let answers =
        stanzas.iter().map(|(at, el)| format!("{at} {} {} {}", el.attr("id"), el.attr("type"), el.error())).collect();
    (bodies, answers, said)
}

#[test]
fn x10_the_same_comes_of_a_stream_wherever_it_is_cut() {
    let whole = play(Some((usize::MAX, 0)));
    assert_eq!(whole.0.len(), 2, "{whole:#?}");
    assert_eq!(whole.1.len(), 2, "{whole:#?}");
    assert!(whole.2.contains("<restricted-xml"), "{whole:#?}");
    assert_eq!(play(None), whole, "octet by octet");
    for (number, piece) in script().iter().enumerate() {
        for at in 1..piece.len() {
            assert_eq!(play(Some((number, at))), whole, "piece {number} cut at {at}");
        }
    }
}

#[test]
fn x10_the_same_comes_of_a_sip_stream_wherever_it_is_cut() {
    let message = |n: usize| {
        crate::world::sip_request(
            &format!("ada@{OURS}"),
            &format!("bob@{HONEST}"),
            &format!("cut{n}"),
            "Subject: a\r\n b\r\n",
            &format!("body {n}\r\n\r\n"),
        )
        .replace("SIP/2.0/UDP", "SIP/2.0/TCP")
    };
    let stream = format!("{}\r\n\r\n{}{}", message(1), message(2), message(3)).into_bytes();
    let play = |cuts: &[usize]| {
        let mut world = World::new();
        let link =
            world.dial_sip(crate::world::SIP_TCP, "192.0.2.21:40000".parse().expect("an address"), Default::default());
        let mut from = 0;
        for at in cuts.iter().copied().chain([stream.len()]) {
            world.write(link, &stream[from..at]);
            from = at;
        }
        let (_, stanzas) = world.take();
        world.settle();
        let bodies: Vec<String> = stanzas.iter().map(|(_, el)| el.body().to_string()).collect();
        (bodies, (1..4).map(|n| world.statuses(&format!("cut{n}"))).collect::<Vec<_>>())
    };
    let whole = play(&[]);
    assert_eq!(whole.1, vec![vec![200]; 3]);
    assert_eq!(whole.0.len(), 3);
    assert_eq!(play(&(1..stream.len()).collect::<Vec<_>>()), whole, "octet by octet");
    for at in 1..stream.len() {
        assert_eq!(play(&[at]), whole, "cut at {at}");
    }
}
