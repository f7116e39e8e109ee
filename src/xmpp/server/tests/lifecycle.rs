//! The end of streams, limits, deadlines, settings, components.

use super::*;

#[test]
fn a_partner_that_closes_is_answered_and_the_next_stanza_gets_a_new_stream() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("one").expect("taken");
    let link = s.outbound_proved("", "");
    s.answer(link);
    // The partner goes on reading until it sees our end tag.
    assert_eq!(s.says(link, "</stream:stream>"), "");
    assert!(!s.is_closed(link));
    s.send("two").expect("taken");
    assert_eq!(s.connects.len(), 2);
    s.drained(link);
    assert_eq!(s.answer(link), "</stream:stream>");
    assert!(s.is_closed(link));
    assert_eq!(s.node.events, ["delivered 0"]);
}

#[test]
fn a_stream_cut_in_the_middle_of_anything_leaves_nobody_without_an_answer() {
    for cut_after in 1..40 {
        for dialback in [false, true] {
            let mut w = if dialback { World::dialback() } else { World::standard() };
            w.chunk = 97;
            w.send(A, "x@a.example", "y@b.example", "hello").expect("taken");
            for _ in 0..cut_after {
                for at in 0..w.pipes.len() {
                    for node in [A, B] {
                        w.deliver(at, node);
                    }
                }
            }
            if w.pipes[0].open {
                w.cut(0, CloseReason::Reset);
            }
            w.settle();
            w.pass(Duration::from_secs(60));
            let told: Vec<&String> = w.nodes[A].events.iter().filter(|event| event.contains("delivered")).collect();
            assert_eq!(told.len(), 1, "{cut_after} {:?}", w.nodes[A].events);
            let seen = w.nodes[B].events.iter().filter(|event| event.ends_with("hello")).count();
            assert!(seen <= 1);
            assert!(!told[0].starts_with("delivered") || seen == 1);
            w.say("again");
            w.pass(Duration::from_secs(60));
            w.say("and again");
            assert!(w.nodes[B].events.iter().any(|event| event.ends_with("and again")), "{cut_after}");
        }
    }
}

#[test]
fn ten_thousand_stanzas_arrive_in_order_while_streams_are_replaced() {
    for dialback in [false, true] {
        let mut w = if dialback { World::dialback() } else { World::standard() };
        let mut next = 0;
        for round in 0..200 {
            for _ in 0..50 {
                if w.send(A, "x@a.example", "y@b.example", &next.to_string()).is_ok() {
                    next += 1;
                }
            }
            if round % 7 == 3 {
                // The partner ends all streams in good order.
                let keys: Vec<Key> = w.nodes[B].server.streams.iter().map(|(key, _)| key).collect();
                for key in keys {
                    let (_, acts) = w.nodes[B].run(w.now, |s, cx| s.retire(cx, key));
                    w.act(B, acts);
                }
            }
            w.settle();
            w.pass(Duration::from_secs(1));
        }
        w.pass(Duration::from_secs(30));
        let seen: Vec<usize> = w.nodes[B]
            .events
            .iter()
            .filter_map(|event| event.strip_prefix("message x@a.example > y@b.example ")?.parse().ok())
            .collect();
        let delivered = w.nodes[A].events.iter().filter(|event| event.starts_with("delivered")).count();
        let undelivered = w.nodes[A].events.iter().filter(|event| event.starts_with("undelivered")).count();
        assert_eq!(delivered + undelivered, next);
        assert!(seen.is_sorted_by(|a, b| a < b), "in order, none twice");
        assert_eq!(seen.len(), next, "none missing");
        // What is not acknowledged when the partner ends a stream is not certain.
        assert!(!dialback || undelivered == 0);
    }
}

#[test]
fn a_full_queue_refuses_and_everything_in_it_is_told() {
    let mut s = Script::new(Partner::new(THEIRS));
    let mut taken = 0;
    while s.send("hello").is_ok() {
        taken += 1;
    }
    assert_eq!(taken, limits::STREAM_QUEUE_STANZAS_MAX);
    assert_eq!(s.send("hello"), Err(Refused::Overload));
    s.pass(Duration::from_secs(60));
    assert_eq!(s.node.events.len(), taken);
    assert_eq!(s.node.server.queued_octets, 0);
}

#[test]
fn a_stanza_waits_no_longer_than_its_sender() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.connects[0];
    s.run(|s, cx| s.opened(cx, link));
    s.pass(Duration::from_secs(26));
    assert_eq!(s.node.events.len(), 1);
    assert!(s.node.events[0].starts_with("undelivered 0 Timeout"), "{:?}", s.node.events);
}

#[test]
fn a_stanza_larger_than_the_partner_takes_is_refused_before_it_is_sent() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let most = "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>10000</max-bytes></limits>";
    let link = s.outbound_proved("", most);
    s.answer(link);
    assert_eq!(s.node.server.stanza_limit(OURS, THEIRS), Some(10_000));
    assert_eq!(s.send(&"x".repeat(10_000)), Err(Refused::TooLarge { limit: 10_000 }));
    assert_eq!(s.answer(link), "");
    s.send("small").expect("taken");
}

#[test]
fn a_stanza_that_waited_and_is_larger_than_the_partner_takes_is_told_as_too_large() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send(&"x".repeat(10_000)).expect("taken");
    let most = "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>10000</max-bytes></limits>";
    let link = s.outbound_proved("", most);
    assert!(!s.answer(link).contains("<message"));
    assert!(s.node.events[0].starts_with("undelivered 0 TooLarge"), "{:?}", s.node.events);
}

#[test]
fn a_stream_that_proves_nothing_is_closed_in_time() {
    let mut s = Script::new(Partner::new(THEIRS));
    let silent = s.accepted();
    let (slow, _) = s.inbound(&named(THEIRS));
    s.pass(Duration::from_secs(59));
    assert!(!s.is_closed(silent) && !s.is_closed(slow));
    s.pass(Duration::from_secs(2));
    assert!(s.is_closed(silent) && s.is_closed(slow));
    assert!(s.answer(slow).contains("connection-timeout"));
}

#[test]
fn strangers_hold_a_share_of_the_streams_and_no_more() {
    let mut s = Script::new(Partner::new(THEIRS));
    let proved = s.proved("");
    for n in 0..2000_u32 {
        let link = s.node.out.new_link();
        let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0A00_0000 + n)), 1);
        s.run(|s, cx| s.accepted(cx, link, ListenerId(0), from));
    }
    let most = limits::STREAMS_MAX * limits::STREAMS_UNPROVEN_PERCENT / 100;
    assert_eq!(s.node.server.streams.len(), most + 1);
    assert_eq!(s.node.count.of(Counter::StreamLimit), (2000 - most) as u64);
    assert!(!s.is_closed(proved));
    // Those who proved nothing for a while make room, one for each newcomer.
    s.pass(Duration::from_secs(3));
    let link = s.node.out.new_link();
    let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0B00_0000)), 1);
    s.run(|s, cx| s.accepted(cx, link, ListenerId(0), from));
    assert!(!s.is_closed(link));
    assert_eq!(s.node.server.streams.len(), most + 1);
    // One address gets less.
    let mut s = Script::new(Partner::new(THEIRS));
    for _ in 0..100 {
        s.accepted();
    }
    assert_eq!(s.node.server.streams.len(), limits::STREAMS_UNPROVEN_PER_ADDRESS_MAX);
}

#[test]
fn a_partner_gets_as_many_streams_as_it_may_have() {
    let mut s = Script::new(Partner { connection_limit: Some(2), ..Partner::new(THEIRS) });
    s.proved("");
    s.proved("");
    let (link, _) = s.inbound(&named(THEIRS));
    s.says(link, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>");
    assert!(s.says(link, &format!("{HEADER}{FROM_B}")).contains("resource-constraint"));
    assert_eq!(s.send("hello").map(|_| ()), Ok(()));
    assert_eq!(s.node.events, ["undelivered 0 Overload"]);
}

#[test]
fn an_idle_stream_is_kept_alive_or_closed_as_the_partner_is_set() {
    // Kept alive, and dead without an answer.
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("one").expect("taken");
    let link = s.outbound_proved("", "");
    s.drained(link);
    s.answer(link);
    s.pass(Duration::from_secs(301));
    let ping = s.answer(link);
    assert!(ping.contains("<ping xmlns='urn:xmpp:ping'/>"), "{ping}");
    let pong = format!("<iq from='b.example' to='a.example' type='error' id='{}'/>", id_of(&ping));
    let back = s.proved("");
    s.says(back, &pong);
    assert!(s.node.events.len() == 1, "{:?}", s.node.events);
    s.pass(Duration::from_secs(302));
    assert!(s.answer(link).contains("<ping"));
    s.pass(Duration::from_secs(31));
    assert!(s.is_closed(link));
    // Not kept alive: closed when idle.
    let mut s = Script::new(Partner { keep_alive: false, ..Partner::new(THEIRS) });
    s.send("one").expect("taken");
    let link = s.outbound_proved("", "");
    s.drained(link);
    s.answer(link);
    s.pass(Duration::from_secs(601));
    assert_eq!(s.answer(link), "</stream:stream>");
    s.says(link, "</stream:stream>");
    assert!(s.is_closed(link));
}

#[test]
fn new_settings_say_how_long_a_running_stream_may_be_silent() {
    let left_alone = Partner { keep_alive: false, ..Partner::new(THEIRS) };
    let with = |partner| settings(&[OURS], partner, address(1, 5269), address(1, 5270));
    let mut s = Script::new(left_alone.clone());
    s.send("one").expect("taken");
    let link = s.outbound_proved("", "");
    s.drained(link);
    s.answer(link);
    s.run(|s, cx| s.configure(cx, &with(Partner::new(THEIRS))));
    s.pass(Duration::from_secs(302));
    assert!(s.answer(link).contains("<ping"), "it is looked after from now on");
    s.run(|s, cx| s.configure(cx, &with(left_alone.clone())));
    s.pass(Duration::from_secs(31));
    assert!(s.is_closed(link), "a ping that was sent is waited for");
}

#[test]
fn a_partner_that_closes_idle_streams_early_is_pinged_earlier() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("one").expect("taken");
    let limits = "<limits xmlns='urn:xmpp:stream-limits:0'><idle-seconds>100</idle-seconds></limits>";
    let link = s.outbound_proved("", limits);
    s.drained(link);
    s.answer(link);
    s.pass(Duration::from_secs(76));
    assert!(s.answer(link).contains("<ping"));
}

#[test]
fn blanks_between_stanzas_are_signs_of_life() {
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("");
    for _ in 0..3 {
        s.pass(Duration::from_secs(400));
        assert_eq!(s.says(link, " \n"), "");
    }
    s.pass(Duration::from_secs(601));
    assert_eq!(s.answer(link), "</stream:stream>");
}

#[test]
fn a_stanza_beyond_the_limits_ends_the_stream() {
    for (stanza, error) in [
        (message("y@b.example", "x@a.example", &"x".repeat(limits::STANZA_OCTETS_MAX)), "policy-violation"),
        (message("y@b.example", "x@a.example", "<!-- c -->"), "restricted-xml"),
        (message("y@b.example", "x@a.example", "&bomb;"), "restricted-xml"),
        (message("y@b.example", "x@a.example", "</b>"), "not-well-formed"),
        (message("y@b.example", "x@a.example", "<a b=1/>"), "not-well-formed"),
        (message("y@b.example", "x@a.example", "<z:a/>"), "bad-namespace-prefix"),
        ("<message xmlns='jabber:client' from='y@b.example' to='x@a.example'/>".into(), "invalid-namespace"),
        ("<thing/>".into(), "unsupported-stanza-type"),
        ("text".into(), "bad-format"),
    ] {
        let mut s = Script::new(Partner::new(THEIRS));
        let link = s.proved("");
        assert!(s.says(link, &stanza).contains(error), "{error}");
        assert!(s.is_closed(link) && s.node.events.is_empty());
    }
}

#[test]
fn a_stanza_inherits_the_language_of_its_stream() {
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("");
    let mut tree = Tree::new();
    let mut bytes = message("y@b.example", "x@a.example", "hello").into_bytes();
    s.node.run(s.now, |server, cx| {
        let (_, event) = server.receive(cx, link, &mut bytes, &mut tree);
        let Some(Event::Stanza { stanza, .. }) = event else { panic!("a stanza") };
        assert_eq!(stanza.lang, None);
    });
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound_proved(BIDI, "");
    let mut bytes = message("y@b.example", "x@a.example", "hello").into_bytes();
    s.node.run(s.now, |server, cx| {
        let (_, event) = server.receive(cx, link, &mut bytes, &mut tree);
        let Some(Event::Stanza { stanza, .. }) = event else { panic!("a stanza") };
        assert_eq!(stanza.lang, Some("de"));
    });
}

#[test]
fn shutting_down_tells_partners_and_senders() {
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("");
    s.send("hello").expect("taken");
    s.run(|s, cx| s.shutdown(cx));
    assert!(s.answer(link).contains("system-shutdown") && s.is_closed(link));
    assert_eq!(s.node.events, ["undelivered 0 Overload"]);
    assert_eq!(s.send("more"), Err(Refused::Overload));
    assert!(s.node.server.streams.is_empty());
}

#[test]
fn new_settings_end_the_streams_they_concern_and_no_others() {
    let two = |kind: Partner| {
        let mut settings = settings(&[OURS, "a2.example"], kind, address(1, 5269), address(1, 5270));
        settings.partners.push(Partner::new("c.example"));
        settings
    };
    let mut s = Script::with(two(Partner::new(THEIRS)));
    let link = s.proved("");
    s.run(|s, cx| s.configure(cx, &two(Partner::new(THEIRS))));
    assert!(!s.is_closed(link) && s.answer(link).is_empty());
    s.run(|s, cx| s.configure(cx, &two(Partner { dialback: false, ..Partner::new(THEIRS) })));
    assert_eq!(s.answer(link), "</stream:stream>");
    let link = s.proved("");
    let mut without = two(Partner { dialback: false, ..Partner::new(THEIRS) });
    without.sip_domains.retain(|domain| domain.domain != OURS);
    s.run(|s, cx| s.configure(cx, &without));
    assert!(s.answer(link).contains("host-gone") && s.is_closed(link));
}

fn component() -> Script {
    let mut settings = settings(&[OURS, "gw.b.example"], Partner::new(THEIRS), address(1, 5269), address(1, 5270));
    settings.components.push(Component {
        name: "one".into(),
        server: address(2, 5347),
        secret: "secret".into(),
        domain: "gw.b.example".into(),
    });
    let mut s = Script::with(settings);
    s.pass(Duration::from_millis(1));
    s
}

const COMPONENT: &str = "<stream:stream xmlns='jabber:component:accept' \
    xmlns:stream='http://etherx.jabber.org/streams' from='gw.b.example' id='3BF96D32'>";

fn connected(s: &mut Script) -> LinkId {
    let link = *s.connects.last().expect("a connection");
    s.run(|s, cx| s.opened(cx, link));
    let header = s.answer(link);
    assert!(header.contains("xmlns='jabber:component:accept'") && header.contains("to='gw.b.example'"), "{header}");
    assert_eq!(
        s.says(link, COMPONENT),
        format!("<handshake>{}</handshake>", crate::xmpp::component::handshake("3BF96D32", "secret"))
    );
    link
}

#[test]
fn a_component_connects_by_itself_and_takes_stanzas_of_every_domain_but_ours() {
    let mut s = component();
    let link = connected(&mut s);
    s.says(link, "<handshake/>");
    s.says(link, &message("y@anywhere.example", "x@gw.b.example", "hello"));
    assert_eq!(s.node.events, ["message y@anywhere.example > x@gw.b.example hello"]);
    let (result, acts) = s.node.send(s.now, "x@gw.b.example", "y@anywhere.example", "back");
    s.act(acts);
    assert!(result.is_ok() && s.answer(link).contains(">back<"));
    assert!(s.says(link, &message("y@a.example", "x@gw.b.example", "no")).contains("invalid-from"));
    assert!(s.is_closed(link));
}

#[test]
fn a_component_that_is_refused_or_cut_comes_back() {
    let mut s = component();
    let link = connected(&mut s);
    s.says(link, "<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>");
    assert!(s.is_closed(link));
    assert_eq!(s.connects.len(), 1);
    s.pass(Duration::from_secs(3));
    assert_eq!(s.connects.len(), 2);
    let link = connected(&mut s);
    s.says(link, "<handshake/>");
    s.run(|s, cx| s.closed(cx, link, CloseReason::Reset));
    s.pass(Duration::from_secs(60));
    let link = connected(&mut s);
    s.says(link, "<handshake/>");
    s.says(link, &message("y@anywhere.example", "x@gw.b.example", "hello"));
    assert_eq!(s.node.events, ["message y@anywhere.example > x@gw.b.example hello"]);
}

#[test]
fn the_domain_of_a_component_is_not_served_between_servers() {
    let mut s = component();
    let link = s.accepted();
    let answer = s.says(link, &format!("{HEADER}from='b.example' to='gw.b.example' version='1.0'>"));
    assert!(answer.contains("host-unknown"), "{answer}");
    assert_eq!(s.send("hello").map(|_| ()), Ok(()), "a.example goes the other way");
}

#[test]
fn the_operator_is_told_how_the_streams_with_a_partner_are() {
    let mut w = World::standard();
    let state = |w: &World, node: usize, domain: &str| w.nodes[node].server.partner_state(domain).to_string();
    assert_eq!(state(&w, A, THEIRS), "no stream");
    w.send(A, "x@a.example", "y@b.example", "hello").expect("taken");
    assert_eq!(state(&w, A, THEIRS), "no stream, 1 being opened, stanzas that wait: 1");
    w.settle();
    assert_eq!(
        (state(&w, A, THEIRS), state(&w, B, OURS)),
        ("streams: 0 in, 1 out".into(), "streams: 1 in, 0 out".into())
    );
    assert_eq!(state(&w, A, "elsewhere.example"), "no stream");
    let mut w = World::standard();
    w.targets = Err(NotLocated::NoSuchDomain);
    w.send(A, "x@a.example", "y@b.example", "hello").expect("taken");
    w.settle();
    assert_eq!(state(&w, A, THEIRS), "no stream, not tried again for a moment: the domain has no XMPP service");
}
