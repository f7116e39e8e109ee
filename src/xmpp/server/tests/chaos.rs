//! Anything at all: octets out of nowhere, and connections that come and go.

use super::*;

#[test]
fn no_octets_of_a_peer_break_the_server() {
    let pieces = [
        HEADER,
        FROM_B,
        ANSWER_B,
        EXTERNAL,
        DIALBACK,
        BIDI,
        SM,
        RESULT,
        "</stream:features>",
        "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
        "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>",
        "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>",
        "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><aborted/></failure>",
        "<bidi xmlns='urn:xmpp:bidi'/>",
        "<enable xmlns='urn:xmpp:sm:3'/>",
        "<enabled xmlns='urn:xmpp:sm:3' resume='true' id='r' max='9'/>",
        "<resumed xmlns='urn:xmpp:sm:3' previd='r' h='0'/>",
        "<failed xmlns='urn:xmpp:sm:3' h='1'/>",
        "<r xmlns='urn:xmpp:sm:3'/>",
        "<a xmlns='urn:xmpp:sm:3' h='1'/>",
        "<db:result from='b.example' to='a.example' type='valid'/>",
        "<db:verify from='b.example' to='a.example' id='x' type='valid'/>",
        "<db:verify from='b.example' to='a.example' id='x'>abc</db:verify>",
        "<message from='y@b.example' to='x@a.example'><body>hello</body></message>",
        "<iq from='b.example' to='a.example' type='result' id='1'/>",
        "<stream:error><reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
        "</stream:stream>",
        " ",
    ];
    for seed in 0..400 {
        let mut rng = Rng::from_number(seed);
        let partner = if rng.below(3) == 0 {
            Partner { tls: Requirement::Optional, ..Partner::new(THEIRS) }
        } else if rng.below(2) == 0 {
            clear_partner(THEIRS)
        } else {
            Partner::new(THEIRS)
        };
        let mut s = Script::new(partner);
        let mut links = Vec::new();
        for _ in 0..60 {
            match rng.below(10) {
                0 if links.len() < 6 => links.push(s.accepted()),
                1 => {
                    let _ = s.send("hello");
                }
                2 => s.pass(Duration::from_millis(rng.below(12_000))),
                _ => {}
            }
            for link in s.connects.clone() {
                if !links.contains(&link) {
                    links.push(link);
                    s.run(|s, cx| s.opened(cx, link));
                }
            }
            let Some(&link) = links.get(rng.below(links.len() as u64) as usize) else { continue };
            match rng.below(20) {
                0 => s.run(|s, cx| s.closed(cx, link, CloseReason::Reset)),
                1 => s.drained(link),
                2 | 3 => s.secured(link, &named(if rng.below(3) == 0 { "c.example" } else { THEIRS })),
                _ => {
                    let mut text = String::new();
                    for _ in 0..=rng.below(3) {
                        text.push_str(pieces[rng.below(pieces.len() as u64) as usize]);
                    }
                    let mut bytes = text.into_bytes();
                    for _ in 0..rng.below(3) {
                        let at = rng.below(bytes.len() as u64) as usize;
                        match rng.below(6) {
                            0 => bytes[at] = rng.below(256) as u8,
                            1 => bytes.truncate(at.max(1)),
                            _ => {}
                        }
                    }
                    while !bytes.is_empty() {
                        let (used, acts) = s.node.receive(s.now, link, &mut bytes);
                        bytes.drain(..used);
                        s.act(acts);
                        if used == 0 {
                            break;
                        }
                    }
                }
            }
        }
        s.run(|s, cx| s.shutdown(cx));
        let sent = s.node.tickets.len();
        let told = s.node.events.iter().filter(|event| event.contains("delivered")).count();
        let refused = sent - told;
        assert!(told <= sent && refused <= sent);
        assert!(s.node.server.streams.is_empty() && s.node.server.links.is_empty());
        assert!(s.node.server.sessions.is_empty() && s.node.server.verifications.is_empty(), "{seed}");
        assert_eq!(s.node.server.queued_octets, 0);
    }
}

#[test]
fn whatever_happens_to_the_connections_each_ticket_gets_one_outcome_and_no_stanza_comes_twice() {
    for seed in 0..150 {
        let mut rng = Rng::from_number(seed);
        let mut w = if rng.below(2) == 0 { World::dialback() } else { World::standard() };
        w.chunk = [usize::MAX, 1000, 61][rng.below(3) as usize];
        let (mut taken, mut refused) = (0, 0);
        for n in 0..120 {
            match w.send(A, "x@a.example", "y@b.example", &n.to_string()) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
            for _ in 0..rng.below(30) {
                for at in 0..w.pipes.len() {
                    let node = rng.below(2) as usize;
                    w.deliver(at, node);
                }
            }
            match rng.below(12) {
                0 => {
                    let at = rng.below(w.pipes.len().max(1) as u64) as usize;
                    if w.pipes.get(at).is_some_and(|pipe| pipe.open) {
                        w.cut(at, CloseReason::Reset);
                    }
                }
                1 => w.pass(Duration::from_millis(rng.below(40_000))),
                2 => w.targets = Ok(vec![starttls_target(9)]),
                3 | 4 => w.targets = Ok(Vec::new()),
                5 => w.drains = !w.drains,
                _ => w.settle(),
            }
        }
        w.drains = true;
        w.targets = Ok(Vec::new());
        w.settle();
        w.pass(Duration::from_secs(120));
        let events = &w.nodes[A].events;
        let delivered: Vec<usize> = outcomes(events, "delivered ");
        let undelivered: Vec<usize> = outcomes(events, "undelivered ");
        assert_eq!(delivered.len() + undelivered.len(), taken, "seed {seed}, {refused} refused");
        let seen: Vec<usize> = w.nodes[B]
            .events
            .iter()
            .filter_map(|event| event.strip_prefix("message x@a.example > y@b.example ")?.parse().ok())
            .collect();
        assert!(seen.is_sorted_by(|a, b| a < b), "seed {seed}: in order and none twice: {seen:?}");
        for ticket in delivered {
            assert!(seen.contains(&ticket), "seed {seed}: {ticket} was never seen");
        }
        // P7: a minute after the faults ended everything works.
        w.say("999");
        w.settle();
        assert!(w.nodes[B].events.iter().any(|event| event.ends_with(" 999")), "seed {seed}");
    }
}

fn outcomes(events: &[String], word: &str) -> Vec<usize> {
    let number = |event: &String| event.strip_prefix(word)?.split(' ').next()?.parse().ok();
    events.iter().filter_map(number).collect()
}
