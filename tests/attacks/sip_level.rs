//! SIP: S5 to S10 and S12.

use crate::measure::{processor_ms, resident};
use crate::sip::Sip;
use crate::world::{EVIL, HONEST, Mood, OURS, PROXY, SIP_TCP, World, message, sip_message, sip_request};
use latimer::base::counters::Counter;
use latimer::gateway::address;
use latimer::limits::{PENDING_MAX, SIP_SERVER_TRANSACTIONS_MAX};
use latimer::sip::uri::Uri;
use std::collections::BTreeMap;
use std::net::SocketAddr;

fn proxy() -> SocketAddr {
    SocketAddr::new(PROXY, 5060)
}

fn stranger() -> SocketAddr {
    "203.0.113.66:5060".parse().expect("an address")
}

#[test]
fn s5_smuggled_header_fields_change_nothing() {
    let (ada, bob) = (format!("ada@{OURS}"), format!("bob@{HONEST}"));
    let more = [
        "To\u{1}: <sip:boss@honest.example>",
        "To\u{0}: <sip:boss@honest.example>",
        "From\u{1}: <sip:boss@sip.example>;tag=b",
        "From: <sip:boss@sip.example>;tag=b",
        "f: <sip:boss@sip.example>;tag=b",
        "From : <sip:boss@sip.example>;tag=b",
        "From\t: <sip:boss@sip.example>;tag=b",
        "FROM: <sip:boss@sip.example>;tag=b",
        "To: <sip:boss@honest.example>",
        "t: <sip:boss@honest.example>",
        "Call-ID: other",
        "i: other",
        "CSeq: 2 MESSAGE",
        "CSeq: 1 INVITE",
        "Max-Forwards: 0",
        "Content-Length: 0",
        "l: 3",
        "Content-Length : 5",
        "Content-Type: text/html",
        "c: text/html",
        "Via: SIP/2.0/UDP 203.0.113.9;branch=z9hG4bKx",
        "v: SIP/2.0/UDP 203.0.113.9",
        "Contact: <sip:boss@sip.example>",
        "P-Asserted-Identity: <sip:boss@sip.example>",
        "Remote-Party-ID: <sip:boss@sip.example>",
        "Identity: boss",
        "Fro m: x",
        ": x",
        "no colon at all",
        " folded at once",
        "X: a\u{0}b",
        "X: a\nFrom: <sip:boss@sip.example>;tag=b",
        "X: a\rTo: <sip:boss@honest.example>",
        "X: a\n\nMESSAGE sip:boss@honest.example SIP/2.0",
        "X: a\r\n From: <sip:boss@sip.example>",
        "From:",
        "ms-sender: boss",
        "Route: <sip:203.0.113.9;lr>",
        "Record-Route: <sip:203.0.113.9;lr>",
        "Subject: x\u{b}From: boss",
    ];
    for tcp in [false, true] {
        let mut world = World::new();
        world.assert_honest_traffic();
        for first in [false, true] {
            for line in more {
                let call = format!("s5-{}", world.number());
                let request = sip_request(&ada, &bob, &call, "", "mine");
                let place =
                    if first { request.find("From: ") } else { request.find("Content-Type") }.expect("the field");
                let request = format!("{}{line}\r\n{}", &request[..place], &request[place..]);
                if tcp {
                    let port = 10_000 + world.number() as u16;
                    let link = world.dial_sip(SIP_TCP, SocketAddr::new(PROXY, port), Default::default());
                    world.write(link, request.as_bytes());
                    world.pass(100);
                    world.house.close(link, latimer::base::net::CloseReason::Peer);
                } else {
                    world.datagram(proxy(), request.as_bytes());
                }
                let (_, stanzas) = world.take();
                assert!(stanzas.len() <= 1, "{line:?} became {stanzas:?}");
                for (at, el) in &stanzas {
                    let identity = (at.as_str(), el.attr("from"), el.attr("to"));
                    assert_eq!(identity, (HONEST, ada.as_str(), bob.as_str()), "{line:?} changed who is who");
                    assert!(!el.body().contains("From:") && el.count("message") == 1, "{line:?}");
                }
                let answered = world.statuses(&call);
                assert!(stanzas.is_empty() || answered == [200], "{line:?} passed and was answered {answered:?}");
                assert!(matches!(answered[..], [] | [200 | 400..=499]), "{line:?} was answered {answered:?}");
            }
        }
        assert!(world.of(Counter::SipMalformed) > 10, "{}", world.books());
        world.responses.clear();
        world.assert_honest_traffic();
        world.settle();
    }
}

/// The header fields of a MESSAGE of ours.
const TEMPLATE: [&str; 8] = ["Via", "Max-Forwards", "From", "To", "Call-ID", "CSeq", "Content-Type", "Content-Length"];

#[test]
fn s6_no_line_end_crosses_into_a_header() {
    let nasty = [
        "a&#13;&#10;X: y",
        "a&#10;X: y",
        "a&#13;X: y",
        "a&#13;&#10;&#13;&#10;MESSAGE sip:x SIP/2.0",
        "%0d%0aX: y",
        "a%00b",
        "a\u{2028}X: y",
        "a\u{2029}X: y",
        "a\u{85}X: y",
        "a&quot;b",
        "a\\",
        "a\\&quot;",
        "&quot;&lt;sip:boss@sip.example&gt;",
        "a&lt;sip:x@y&gt;",
        "a;tag=1",
        "a?Subject=x",
        "a,b",
        "a&#9;b",
        "\u{FEFF}a",
        "=?UTF-8?Q?=0D=0AX:_y?=",
        "a\u{7f}b",
        "\u{202E}a",
        "&#x85;",
        "a\r\nX: y",
        "a\nb",
    ];
    let mut world = World::new();
    world.assert_honest_traffic();
    let (eve, ada) = (format!("eve@{EVIL}"), format!("ada@{OURS}"));
    type Place = fn(&str, &str, &str) -> String;
    let places: [(&str, Place); 8] = [
        ("local", |t, _, ada| format!("<message from='{t}@{EVIL}' to='{ada}' id='i'><body>b</body></message>")),
        ("resource", |t, eve, ada| format!("<message from='{eve}/{t}' to='{ada}' id='i'><body>b</body></message>")),
        ("to", |t, eve, _| format!("<message from='{eve}' to='{t}@{OURS}/{t}' id='i'><body>b</body></message>")),
        ("id", |t, eve, ada| format!("<message from='{eve}' to='{ada}' id='{t}'><body>b</body></message>")),
        ("thread", |t, eve, ada| {
            format!("<message from='{eve}' to='{ada}' id='i'><thread>{t}</thread><body>b</body></message>")
        }),
        ("subject", |t, eve, ada| {
            format!("<message from='{eve}' to='{ada}' id='i'><subject>{t}</subject><body>b</body></message>")
        }),
        ("nick", |t, eve, ada| {
            format!(
                "<message from='{eve}' to='{ada}' id='i'><nick xmlns='http://jabber.org/protocol/nick'>{t}</nick><body>b</body></message>"
            )
        }),
        ("body", |t, eve, ada| {
            format!("<message from='{eve}' to='{ada}' id='i' xml:lang='{t}'><body>{t}</body></message>")
        }),
    ];
    let mut passed = 0;
    for (place, write) in places {
        for text in nasty {
            let link = world.open(EVIL);
            let stanza = write(text, &eve, &ada);
            world.write(link, stanza.as_bytes());
            let (requests, stanzas) = world.take();
            let refused = stanzas.iter().any(|(_, el)| el.attr("type") == "error") || world.is_closed(link);
            assert!(
                requests.len() == usize::from(!refused),
                "{place} {text:?}: {requests:?} {stanzas:?} {}",
                world.said(link)
            );
            for request in &requests {
                assert_template(request, place, text);
                passed += 1;
            }
            world.house.close(link, latimer::base::net::CloseReason::Peer);
        }
    }
    assert!(passed > 100, "{passed}");
    world.assert_honest_traffic();
    world.assert_recovered();
    world.settle();
}

fn assert_template(request: &Sip, place: &str, text: &str) {
    let optional = ["Subject", "Content-Language"];
    let names: Vec<&str> = request.names().into_iter().filter(|name| !optional.contains(name)).collect();
    assert_eq!(names, TEMPLATE, "{place} {text:?}: {request:#?}");
    for name in optional {
        assert!(request.names().iter().filter(|n| **n == name).count() <= 1, "{request:?}");
    }
    assert!(
        request.get("From").contains(&format!("@{EVIL}")) && request.start.contains(&format!("@{OURS}")),
        "{request:?}"
    );
    assert!(place == "body" || request.body() == "b", "{place} {text:?}: {request:?}");
}

#[test]
fn s7_addresses_are_mapped_and_never_obeyed() {
    let mut world = World::new();
    world.assert_honest_traffic();
    let targets = [
        "api+system:id@honest.example",
        "tel:+15550100",
        "mailto:bob@honest.example",
        "http://honest.example/",
        "xmpp:bob@honest.example",
        "im:bob@honest.example",
        "pres:bob@honest.example",
        "urn:service:sos",
        "sip:honest.example",
        "sip:@honest.example",
        "sip:bob@",
        "sip:",
        "sips:bob@honest.example",
        "sip:bob:secret@honest.example",
        "sip:bob@honest.example:99999",
        "sip:bob@honest.example;maddr=203.0.113.9",
        "sip:bob@honest.example;transport=udp;ttl=255",
        "sip:bob@honest.example?Subject=x&body=y&To=boss%40honest.example",
        "sip:bob@honest.example?Route=%3Csip:203.0.113.9%3E",
        "sip:%2e%2e%2f@honest.example",
        "sip:$(id)@honest.example",
        "sip:%60id%60@honest.example",
        "sip:;id;@honest.example",
        "sip:|id@honest.example",
        "sip:bob%0d%0aX@honest.example",
        "sip:bob%00@honest.example",
        "sip:bob@[::1]",
        "sip:bob@192.0.2.10",
        "sip:bob@gw.example",
        "sip:bob@sip.example",
        "sip:bob@203.0.113.9",
        "sip:bob@stranger.example",
    ];
    for target in targets {
        let call = format!("s7-{}", world.number());
        let request = sip_message(&format!("ada@{OURS}"), &format!("bob@{HONEST}"), &call, "mine");
        let request = request.replacen(&format!("MESSAGE sip:bob@{HONEST} "), &format!("MESSAGE {target} "), 1);
        world.datagram(proxy(), request.as_bytes());
        world.pass(100);
        let (requests, stanzas) = world.take();
        assert!(requests.is_empty(), "{target} came back to SIP");
        let answered = world.statuses(&call);
        assert!(matches!(answered[..], [] | [200 | 400..=499]), "{target} was answered {answered:?}");
        assert_eq!(stanzas.len(), usize::from(answered == [200]), "{target}");
        for (at, el) in &stanzas {
            assert!(at == HONEST && el.body() == "mine" && el.child("subject").is_none(), "{target}: {el:?}");
            let to = el.attr("to");
            assert!(
                to.ends_with(&format!("@{HONEST}")) && !to.contains(['?', '<', '\0', '\r', '\n']),
                "{target}: {to}"
            );
        }
    }
    assert!(
        world.faults.is_empty() && !world.connects.keys().any(|ip| ip.to_string().starts_with("203.")),
        "{:?}",
        world.connects
    );
    world.assert_honest_traffic();
    world.settle();
}

#[test]
fn s8_no_two_users_share_an_address() {
    const PIECES: [&str; 40] = [
        "a",
        "b",
        "Z",
        "0",
        "\\20",
        "\\5c",
        "\\5c20",
        "\\",
        "%20",
        "%5c",
        "%41",
        "%61",
        "%2B",
        "+",
        ".",
        "_",
        "!",
        "~",
        "*",
        "'",
        "(",
        ")",
        "&",
        "=",
        "$",
        ",",
        ";",
        "?",
        "/",
        "%2F",
        "%40",
        "%22",
        "%3C",
        "%C3%A9",
        "%EF%BC%A1",
        "%D7%90",
        "%D0%B0",
        "%e2%82%ac",
        "%CC%81",
        "-",
    ];
    let mut rng = latimer::base::rng::Rng::from_number(8);
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let (mut mapped, mut returned) = (0, 0);
    for _ in 0..100_000 {
        let user: String = (0..1 + rng.below(5)).map(|_| PIECES[rng.below(40) as usize]).collect();
        let uri = format!("sip:{user}@{OURS}");
        let mut jid = String::new();
        if address::to_jid(&uri, None, &mut jid).is_err() {
            continue;
        }
        mapped += 1;
        let parsed = latimer::xmpp::jid::Jid::parse(&jid).unwrap_or_else(|_| panic!("{uri} -> {jid}: no JID"));
        assert_eq!(parsed.as_str(), jid, "{uri}: not prepared");
        let mut back = String::new();
        if address::to_sip(parsed.local(), parsed.domain(), parsed.resource(), &mut back).is_err() {
            continue;
        }
        returned += 1;
        let mut again = String::new();
        assert_eq!(address::to_jid(&back, None, &mut again), Ok(()), "{uri} -> {jid} -> {back}");
        assert_eq!(again, jid, "{uri} -> {jid} -> {back} -> {again}");
        // Those that share a JID are one user by SIP's own comparison, letters' case and
        // width apart.
        let canonical = fold(&back);
        let owner = owners.entry(jid.clone()).or_insert_with(|| canonical.clone());
        assert_eq!(*owner, canonical, "{jid} is two users");
        assert!(Uri::parse(&back).is_ok(), "{back}");
    }
    let mut users: Vec<&String> = owners.values().collect();
    users.sort();
    users.dedup();
    assert_eq!(users.len(), owners.len(), "two JIDs became one user");
    assert!(mapped > 30_000 && returned == mapped, "{mapped} mapped, {returned} returned");

    // A partner's address that comes from SIP is our own mapping, come back.
    let mut world = World::new();
    for from in [format!("eve@{EVIL}"), format!("bob@{HONEST}")] {
        let call = world.sip_message(&from, &format!("bob@{HONEST}"), "x");
        assert_eq!(world.statuses(&call), [403], "{from}");
    }
    assert!(world.take().1.is_empty());
    assert_eq!(world.of(Counter::SipForbidden), 2);
    let link = world.open(EVIL);
    world.write(link, message(&format!("ada@{OURS}"), &format!("ada@{OURS}"), "x", "x").as_bytes());
    assert!(world.is_closed(link) && world.take().0.is_empty());
    world.settle();
}

fn fold(uri: &str) -> String {
    uri.to_lowercase()
}

#[test]
fn s9_unknown_sources_never_get_more_than_they_sent() {
    let mut world = World::new();
    world.assert_honest_traffic();
    let methods =
        ["MESSAGE", "OPTIONS", "SUBSCRIBE", "INVITE", "REGISTER", "NOTIFY", "PUBLISH", "ACK", "CANCEL", "BYE", "WHAT"];
    let (mut sent, mut attempts) = (0, 0);
    for method in methods {
        for padding in [0, 10, 100, 1000, 40_000] {
            for shape in 0..5 {
                let n = world.number();
                let request = sip_request(
                    &format!("ada@{OURS}"),
                    &format!("bob@{HONEST}"),
                    &format!("s9-{n}"),
                    &format!("X: {}\r\n", "x".repeat(padding.min(4000))),
                    "b",
                );
                let request = request.replacen("MESSAGE", method, 1).replacen("1 MESSAGE", &format!("1 {method}"), 1);
                let request = match shape {
                    // To a victim: by Via, by a name in it, by a port in it.
                    0 => request,
                    1 => request.replacen(&format!("{PROXY}:5060"), "198.51.100.99:53", 1),
                    2 => request.replacen(
                        &format!("{PROXY}:5060"),
                        "victim.example;received=198.51.100.99;rport=53;maddr=198.51.100.99",
                        1,
                    ),
                    // The shortest that is answered at all.
                    3 => format!(
                        "{method} sip:a@b SIP/2.0\r\nv:SIP/2.0/UDP h;branch=z9hG4bK{n}\r\nf:<a:b>;tag=1\r\nt:<a:b>\r\ni:{n}\r\nCSeq:1 {method}\r\nMax-Forwards:1\r\n\r\n"
                    ),
                    // Broken, and each break has an answer of its own.
                    _ => request.replace("SIP/2.0\r\n", "SIP/9.0\r\n"),
                };
                attempts += 1;
                for _ in 0..3 {
                    world.datagram(stranger(), request.as_bytes());
                    world.pass(10);
                    let answered: usize = world.strays.iter().map(|(_, bytes)| bytes.len()).sum();
                    assert!(answered <= request.len(), "{answered} octets for {}: {request}", request.len());
                    assert!(world.strays.len() <= 1);
                    assert!(world.strays.iter().all(|(to, _)| to.ip() == stranger().ip()), "{:?}", world.strays);
                    sent += world.strays.len();
                    world.strays.clear();
                }
            }
        }
    }
    // Nothing more comes later: no retransmission, no NOTIFY, no connection.
    world.pass(120_000);
    assert!(world.strays.is_empty(), "{:?}", world.strays);
    assert!(world.take().0.is_empty());
    assert!(attempts == 275 && sent > 0);
    assert!(world.of(Counter::SipForbidden) > 100, "{}", world.books());
    for junk in ["", "\0", "\r\n", "\r\n\r\n", "x", "SIP/2.0 200 OK\r\n\r\n", "MESSAGE", "\u{16}\u{3}\u{1}"] {
        world.datagram(stranger(), junk.as_bytes());
        assert!(world.strays.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= junk.len(), "{junk:?}");
    }
    // A known peer that names somebody else in Via is still answered where it is.
    let request = sip_message(&format!("ada@{OURS}"), &format!("bob@{HONEST}"), "s9", "x").replacen(
        &format!("{PROXY}:5060"),
        "198.51.100.99:53",
        1,
    );
    world.datagram(proxy(), request.as_bytes());
    assert!(world.strays.iter().all(|(to, _)| to.ip() == PROXY), "{:?}", world.strays);
    world.strays.clear();
    world.assert_honest_traffic();
    world.settle();
}

#[test]
fn s10_transactions_are_bounded_and_each_is_done_once() {
    let mut world = World::new();
    world.assert_honest_traffic();
    // The same branch with another message, and the same message again.
    let first = sip_message(&format!("ada@{OURS}"), &format!("bob@{HONEST}"), "once", "first");
    let second = first.replace("first", "other");
    for request in [&first, &second, &first, &first] {
        world.datagram(proxy(), request.as_bytes());
    }
    // The same request by another way.
    world.datagram(proxy(), first.replace("z9hG4bKonce", "z9hG4bKelse").as_bytes());
    let (_, stanzas) = world.take();
    assert_eq!(stanzas.iter().map(|(_, el)| el.body()).collect::<Vec<_>>(), ["first"]);
    assert_eq!(world.statuses("once"), [200, 200, 200, 200, 482]);
    // Strays.
    for method in ["CANCEL", "ACK"] {
        let stray =
            sip_message(&format!("ada@{OURS}"), &format!("bob@{HONEST}"), method, "x").replace("MESSAGE", method);
        world.datagram(proxy(), stray.as_bytes());
    }
    assert_eq!((world.statuses("CANCEL"), world.statuses("ACK")), (vec![481], vec![]));
    for status in [100, 200, 404, 999] {
        let response = format!(
            "SIP/2.0 {status} X\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKguess\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: g\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n"
        );
        world.datagram(proxy(), response.as_bytes());
    }
    assert!(world.of(Counter::SipStrayResponse) >= 3, "{}", world.books());

    // A partner that is gone holds transactions open: up to the limit, then 503 at once.
    world.set_mood(EVIL, Mood::Blackhole);
    let before = resident();
    let many = 20_000;
    let ms = processor_ms(|| {
        for n in 0..many {
            let request = sip_message(
                &format!("u{}@{OURS}", n % 500),
                &format!("eve{}@{EVIL}", n % 500),
                &format!("many{n}"),
                "x",
            );
            world.house.datagram(crate::world::SIP_UDP, proxy(), request.as_bytes());
        }
        world.pump();
    });
    let open = (0..many).filter(|n| world.statuses(&format!("many{n}")).is_empty()).count();
    assert!(open <= PENDING_MAX.min(SIP_SERVER_TRANSACTIONS_MAX), "{open} are open");
    let refused: Vec<&Sip> = world.responses.values().flatten().filter(|r| r.status() == 503).collect();
    assert!(
        refused.len() >= many - open && refused.iter().all(|r| r.get("Retry-After").parse::<u32>().is_ok()),
        "{} of {many} refused",
        refused.len()
    );
    assert!(resident().saturating_sub(before) < 96 << 20, "memory grew by {}", resident() - before);
    assert!(ms / f64::from(many as u32) < 1.0, "{ms} ms");
    world.responses.clear();
    world.assert_honest_traffic();
    // A storm of repetitions of what is open: absorbed.
    let carried = world.of(Counter::SipMessageIn);
    for _ in 0..20 {
        for n in 0..open.min(100) {
            let request = sip_message(
                &format!("u{}@{OURS}", n % 500),
                &format!("eve{}@{EVIL}", n % 500),
                &format!("many{n}"),
                "x",
            );
            world.house.datagram(crate::world::SIP_UDP, proxy(), request.as_bytes());
        }
    }
    world.pump();
    assert_eq!(world.of(Counter::SipMessageIn), carried);
    world.settle();
    world.pass(70_000);
    world.set_mood(EVIL, Mood::Good);
    world.responses.clear();
    world.pass(600_000);
    let call = world.sip_message(&format!("ada@{OURS}"), &format!("eve@{EVIL}"), "after");
    assert_eq!(world.statuses(&call), [200], "{}", world.log());
    world.settle();
}

#[test]
fn s12_bodies_that_are_bombs_are_refused() {
    let mut nested = String::from("Content-Type: text/plain\r\n\r\ndeep");
    for depth in 0..100 {
        nested = format!(
            "Content-Type: multipart/mixed;boundary=b{depth}\r\n\r\n--b{depth}\r\n{nested}\r\n--b{depth}--\r\n"
        );
    }
    let nested = nested
        .split_once("\r\n\r\n")
        .map(|(head, body)| (head.trim_start_matches("Content-Type: ").to_string(), body.to_string()))
        .expect("a head");
    let parts: String =
        (0..500).map(|n| format!("--x\r\nContent-Type: text/x-{n}\r\n\r\nx\r\n")).collect::<String>() + "--x--\r\n";
    let tuples: String = (0..300).map(|n| format!("<tuple id='t{n}'/>")).collect();
    let bodies: Vec<(String, Vec<u8>, &[u16])> = vec![
        ("text/plain".into(), vec![b'x'; 17 * 1024], &[413]),
        ("text/plain".into(), vec![b'x'; 60 * 1024], &[413]),
        (nested.0, nested.1.into_bytes(), &[413, 415, 400]),
        ("multipart/mixed".into(), b"--x\r\n\r\nx\r\n--x--".to_vec(), &[400, 415]),
        ("multipart/mixed;boundary=\"\"".into(), b"--\r\n\r\nx\r\n----".to_vec(), &[400, 415]),
        (format!("multipart/mixed;boundary={}", "b".repeat(5000)), b"x".to_vec(), &[400, 415]),
        ("multipart/mixed;boundary=x".into(), b"x".repeat(1000), &[400, 415]),
        ("multipart/mixed;boundary=x".into(), parts.into_bytes(), &[400, 413, 415]),
        ("application/pidf+xml".into(), format!("<presence xmlns='urn:ietf:params:xml:ns:pidf'>{tuples}</presence>").into_bytes(), &[415]),
        ("text/plain;charset=utf-16".into(), b"\xD8\x00\xD8\x00".to_vec(), &[415, 400, 200]),
        ("text/plain;charset=utf-8".into(), b"\xC0\xBC\xFF\xFE".to_vec(), &[415, 400, 200]),
        ("text/plain;charset=utf-7".into(), b"+ADw-script+AD4-".to_vec(), &[415]),
        ("text/html".into(), b"<p>".repeat(5000), &[200, 413, 415]),
        ("text/html".into(), b"<a href='javascript:x'><script>alert(1)</script>&#0;&#x3C;b".to_vec(), &[200, 415]),
        ("text/rtf".into(), b"x".repeat(5000), &[400, 415]),
        ("text/rtf".into(), b"{\\rtf1".repeat(2500), &[400, 413, 415]),
        ("text/rtf".into(), [&b"{\\rtf1 x"[..], &b"\\bin2147483647 ".repeat(1000)].concat(), &[200, 400, 415]),
        ("text/rtf".into(), [&b"{\\rtf1 "[..], &b"\\b x\\b0 y".repeat(1600)].concat(), &[200, 413, 415]),
        ("text/rtf".into(), b"{\\rtf1{\\field{\\*\\fldinst HYPERLINK \"javascript:x\"}{\\fldrslt <script>\\u60?\\'00}}".to_vec(), &[200, 415]),
        ("application/rtf".into(), b"{\\rtf1{\\object{\\*\\objdata 4d5a}}}".to_vec(), &[415]),
        ("application/x-ms-ink".into(), b"base64:AAAA".to_vec(), &[415]),
        ("message/cpim".into(), b"From: <sip:boss@sip.example>\r\nTo: <sip:bob@honest.example>\r\n\r\nContent-Type: text/plain\r\n\r\nwrapped".to_vec(), &[200, 403, 415]),
        ("message/cpim".into(), b"x".repeat(2000), &[400, 415]),
        ("application/im-iscomposing+xml".into(), b"<!DOCTYPE a [<!ENTITY b 'c'>]><isComposing/>".to_vec(), &[200, 400, 415]),
        ("".into(), b"x".to_vec(), &[400, 415, 200]),
        ("text".into(), b"x".to_vec(), &[400, 415]),
        ("text/plain; charset=\"".into(), b"x".to_vec(), &[200, 400, 415]),
    ];
    let mut world = World::new();
    world.assert_honest_traffic();
    let ms = processor_ms(|| {
        for (kind, body, statuses) in &bodies {
            let call = format!("s12-{}", world.number());
            let head = sip_request(&format!("ada@{OURS}"), &format!("bob@{HONEST}"), &call, "", "")
                .replace("text/plain;charset=UTF-8", kind);
            let head = head.replace("Content-Length: 0", &format!("Content-Length: {}", body.len()));
            world.datagram(proxy(), &[head.as_bytes(), body].concat());
            let (_, stanzas) = world.take();
            let answered = world.statuses(&call);
            let [status] = answered[..] else { panic!("{kind} was answered {answered:?}") };
            assert!(statuses.contains(&status), "{kind} was answered {status}");
            assert!(stanzas.len() <= usize::from(status == 200));
            for (_, el) in &stanzas {
                assert_eq!(
                    (el.attr("from"), el.count("script"), el.count("message")),
                    (&*format!("ada@{OURS}"), 0, 1),
                    "{kind}"
                );
                assert!(!format!("{el:?}").contains("javascript:"), "{kind}: {el:?}");
            }
            if status == 415 {
                let response = &world.responses[&call][0];
                assert!(!response.get("Accept").is_empty(), "{kind}: 415 without Accept");
            }
        }
    });
    assert!(ms / (bodies.len() as f64) < 20.0, "{ms} ms");
    // Announced and never sent: the connection is answered and closed, whatever follows.
    for length in ["1048576", "4294967296", "18446744073709551616", "-1", "+4", "0x4", "4.0", "4 4", "4,4", ""] {
        let port = 10_000 + world.number() as u16;
        let link = world.dial_sip(SIP_TCP, SocketAddr::new(PROXY, port), Default::default());
        let call = format!("s12-{}", world.number());
        let head = sip_request(&format!("ada@{OURS}"), &format!("bob@{HONEST}"), &call, "", "")
            .replace("Content-Length: 0", &format!("Content-Length: {length}"));
        world.write(link, head.as_bytes());
        world.write(link, &b"y".repeat(200_000));
        assert!(world.is_closed(link), "Content-Length: {length}");
        assert!(
            matches!(world.statuses(&call)[..], [400 | 413 | 513]),
            "Content-Length: {length} was answered {:?}",
            world.statuses(&call)
        );
    }
    assert!(world.take().1.is_empty());
    assert!(
        world.of(Counter::SipMessageRefused) > 10 && world.of(Counter::SipConnectionRefused) >= 10,
        "{}",
        world.books()
    );
    world.assert_honest_traffic();
    world.settle();
}
