//! Which way two servers take to each other: TLS, certificates, SASL EXTERNAL, dialback.

use super::*;

#[test]
fn a_stanza_crosses_with_sasl_external() {
    let mut w = World::standard();
    w.say("hello");
    assert_eq!(w.nodes[B].events, ["message x@a.example > y@b.example hello"]);
    assert_eq!(w.nodes[A].events, ["locate b.example None", "delivered 0"]);
    assert!(w.transcript().contains("<success"), "{}", w.transcript());
    assert!(!w.transcript().contains("<db:result"));
    assert!(w.nodes[B].has_logged(&["xmpp.stream.opened", "proof=EXTERNAL", "direction=in"]));
}

#[test]
fn a_stanza_crosses_with_dialback_and_the_key_is_confirmed_on_another_connection() {
    let mut w = World::dialback();
    w.say("hello");
    assert_eq!(w.nodes[B].events[..2], ["locate a.example None", "message x@a.example > y@b.example hello"]);
    assert!(w.transcript().contains("<db:verify"));
    assert_eq!(w.pipes.len(), 2);
    assert!(!w.pipes[0].transcript.contains("<db:verify"));
    assert_eq!(w.nodes[A].events.last().map(String::as_str), Some("delivered 0"));
}

const REQUIREMENTS: [Requirement; 3] = [Requirement::Required, Requirement::Optional, Requirement::NotSupported];

/// What a partner's settings lead to with a partner that has everything.
fn way(partner: &Partner) -> &'static str {
    match (partner.may_sasl(), partner.may_dialback_over_tls(), partner.may_dialback_in_the_clear()) {
        (true, _, _) => "proof=EXTERNAL",
        (false, true, _) => "tls=TLSv1.3 certificate=believed proof=dialback",
        (false, false, true) => "tls=none certificate=none proof=dialback",
        (false, false, false) => "",
    }
}

fn rows() -> impl Iterator<Item = (Requirement, Requirement, bool)> {
    REQUIREMENTS.into_iter().flat_map(|tls| {
        REQUIREMENTS.into_iter().flat_map(move |sasl| [true, false].map(|dialback| (tls, sasl, dialback)))
    })
}

fn with(domain: &str, (tls, sasl, dialback): (Requirement, Requirement, bool)) -> Partner {
    Partner { tls, sasl, dialback, ..Partner::new(domain) }
}

#[test]
fn each_of_the_eighteen_rows_of_the_table_negotiates_what_it_allows() {
    let open = (Requirement::Optional, Requirement::Optional, true);
    for row in rows() {
        for ours_is_strict in [true, false] {
            let (a, b) = if ours_is_strict {
                (with(THEIRS, row), with(OURS, open))
            } else {
                (with(THEIRS, open), with(OURS, row))
            };
            let way = way(if ours_is_strict { &a } else { &b });
            let mut w = World::new(a, b);
            w.say("hello");
            w.pass(Duration::from_secs(30));
            let arrived = w.nodes[B].events.iter().any(|event| event.ends_with("hello"));
            assert_eq!(arrived, !way.is_empty(), "{row:?} {ours_is_strict} {}", w.transcript());
            if way.is_empty() {
                assert!(w.nodes[A].events.contains(&"undelivered 0 Refused".into()), "{row:?} {:?}", w.nodes[A].events);
            } else {
                assert!(w.nodes[A].has_logged(&["xmpp.stream.opened", way]), "{row:?} {:?}", w.nodes[A].logs);
            }
        }
    }
}

#[test]
fn two_sides_that_want_different_things_find_what_both_allow_or_nothing() {
    for left in rows() {
        for right in rows() {
            let (a, b) = (with(THEIRS, left), with(OURS, right));
            let possible = (a.may_sasl() && b.may_sasl())
                || (a.may_dialback_over_tls() && b.may_dialback_over_tls())
                || (a.may_dialback_in_the_clear() && b.may_dialback_in_the_clear());
            let must_tls = a.tls == Requirement::Required || b.tls == Requirement::Required;
            let mut w = World::new(a, b);
            w.say("hello");
            w.pass(Duration::from_secs(30));
            let arrived = w.nodes[B].events.iter().any(|event| event.ends_with("hello"));
            assert_eq!(arrived, possible, "{left:?} {right:?} {}", w.transcript());
            let clear = w.nodes[A].has_logged(&["xmpp.stream.opened", "tls=none"]);
            assert!(!(must_tls && clear), "{left:?} {right:?}");
            let told = w.nodes[A].events.iter().any(|event| event.starts_with("undelivered"));
            assert_eq!(told, !arrived, "{left:?} {right:?} {:?}", w.nodes[A].events);
        }
    }
}

#[test]
fn direct_tls_asks_for_the_partner_by_name_and_protocol() {
    let mut w = World::standard();
    w.targets = Ok(vec![Target { transport: Transport::Tls, address: address(2, 5270) }]);
    w.say("hello");
    assert_eq!(w.nodes[B].events, ["message x@a.example > y@b.example hello"]);
    assert!(!w.transcript().contains("<starttls"));
}

#[test]
fn the_next_address_is_tried_when_one_does_not_answer() {
    let mut w = World::standard();
    w.targets = Ok(vec![
        Target { transport: Transport::Tls, address: address(9, 5270) },
        Target { transport: Transport::Tcp, address: address(9, 5269) },
        starttls_target(2),
    ]);
    w.say("hello");
    assert_eq!(w.nodes[B].events, ["message x@a.example > y@b.example hello"]);
}

#[test]
fn what_waits_is_told_when_no_address_answers_and_a_moment_later_it_is_tried_again() {
    let mut w = World::standard();
    w.targets = Ok(vec![starttls_target(9)]);
    w.say("lost");
    assert_eq!(w.nodes[A].events, ["locate b.example None", "undelivered 0 Unreachable"]);
    assert_eq!(w.send(A, "x@a.example", "y@b.example", "again"), Err(Refused::Failed(Undelivered::Unreachable)));
    w.targets = Ok(vec![starttls_target(2)]);
    w.pass(Duration::from_secs(5));
    w.say("found");
    assert_eq!(w.nodes[B].events, ["message x@a.example > y@b.example found"]);
}

#[test]
fn each_fault_of_dns_is_told_as_what_it_is() {
    for (fault, why) in [
        (NotLocated::NoSuchDomain, "NotFound"),
        (NotLocated::NoAnswer, "Timeout"),
        (NotLocated::NoAddress, "Unreachable"),
    ] {
        let mut w = World::standard();
        w.targets = Err(fault);
        w.say("lost");
        assert_eq!(w.nodes[A].events.last(), Some(&format!("undelivered 0 {why}")));
    }
}

#[test]
fn nothing_is_opened_to_a_domain_that_is_no_partner() {
    let mut w = World::standard();
    assert_eq!(w.send(A, "x@a.example", "y@c.example", "hello"), Err(Refused::NotPartner));
    assert_eq!(w.send(A, "x@a.example", "y@a2.example", "hello"), Err(Refused::NotPartner));
    assert!(w.pipes.is_empty());
}

#[test]
fn every_cut_of_the_octets_gives_the_same_conversation() {
    let transcript = |chunk, dialback: bool| {
        let mut w = if dialback { World::dialback() } else { World::standard() };
        w.chunk = chunk;
        w.say("one");
        w.send(B, "y@b.example", "x@a.example", "two").expect("taken");
        w.settle();
        let texts = |node: &Node| -> Vec<String> {
            node.events.iter().filter(|event| event.starts_with("message")).cloned().collect()
        };
        (texts(&w.nodes[A]), texts(&w.nodes[B]))
    };
    for dialback in [false, true] {
        let whole = transcript(usize::MAX, dialback);
        assert_eq!((whole.0.len(), whole.1.len()), (1, 1));
        for chunk in 1..300 {
            assert_eq!(transcript(chunk, dialback), whole, "{chunk}");
        }
    }
}

#[test]
fn each_fault_of_a_certificate_is_named_and_leads_to_dialback_where_that_is_allowed() {
    let faults = [
        (Some(Err(CertificateFault::Expired)), "expired", THEIRS),
        (Some(Err(CertificateFault::NotYetValid)), "not\\x20yet", THEIRS),
        (Some(Err(CertificateFault::UnknownIssuer)), "unknown\\x20CA", THEIRS),
        (Some(Err(CertificateFault::MissingIntermediate)), "intermediate", THEIRS),
        (Some(Ok(())), "wrong\\x20name", "other.example"),
        (None, "no\\x20certificate", ""),
    ];
    for (verdict, words, name) in faults {
        for dialback in [true, false] {
            let mut w = World::new(Partner { dialback, ..Partner::new(THEIRS) }, Partner::new(OURS));
            w.nodes[B].certificate = PeerCertificate { verdict, ..named(name) };
            w.say("hello");
            w.pass(Duration::from_secs(30));
            let arrived = w.nodes[B].events.iter().any(|event| event.ends_with("hello"));
            assert_eq!(arrived, dialback, "{words}");
            if verdict.is_some() || !dialback {
                let line = ["tls.certificate.refused", words, "wanted=b.example", "side=partner"];
                assert!(w.nodes[A].has_logged(&line), "{:?}", w.nodes[A].logs);
            }
            if !dialback {
                assert_eq!(w.nodes[A].events.last(), Some(&"undelivered 0 Refused".into()));
                assert_eq!(w.nodes[A].count.of(Counter::CertificateRefused), 1);
            }
        }
    }
}

#[test]
fn an_initiator_whose_certificate_is_not_believed_is_not_offered_external() {
    let mut w = World::standard();
    w.nodes[A].certificate = PeerCertificate { verdict: Some(Err(CertificateFault::Expired)), ..named(OURS) };
    w.say("hello");
    assert!(w.nodes[B].events.contains(&"message x@a.example > y@b.example hello".into()));
    assert!(!w.pipes[0].transcript.contains("EXTERNAL"));
    assert!(w.nodes[B].has_logged(&["tls.certificate.refused", "partner=a.example", "then=dialback"]));
}

#[test]
fn without_dialback_such_an_initiator_is_refused_and_learns_why() {
    let mut w = World::new(Partner::new(THEIRS), Partner { dialback: false, ..Partner::new(OURS) });
    w.nodes[A].certificate = named("other.example");
    w.say("hello");
    w.pass(Duration::from_secs(30));
    assert!(w.nodes[B].events.is_empty());
    assert!(w.nodes[A].has_logged(&["xmpp.stream.error-received", "not-authorized"]));
    assert_eq!(w.nodes[A].events.last(), Some(&"undelivered 0 Refused".into()));
}

#[test]
fn a_tls_handshake_that_fails_never_leads_to_clear_text() {
    let mut w = World::standard();
    w.breaks_tls = true;
    w.say("hello");
    w.pass(Duration::from_secs(30));
    assert_eq!(w.nodes[A].events.last(), Some(&"undelivered 0 Refused".into()));
    assert!(!w.transcript().contains("hello"));
}

#[test]
fn a_partner_that_refuses_external_is_shown_a_key_on_the_same_stream() {
    let failure = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>";
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound(&format!("{EXTERNAL}{DIALBACK}"));
    s.answer(link);
    assert!(s.says(link, failure).starts_with("<db:result"));
    assert!(s.says(link, "<db:result from='b.example' to='a.example' type='valid'/>").contains("hello"));
    // If it closes instead, on the next connection without EXTERNAL.
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound(&format!("{EXTERNAL}{DIALBACK}"));
    s.says(link, failure);
    s.says(link, "</stream:stream>");
    assert!(s.is_closed(link));
    assert_eq!(s.connects.len(), 2);
    let link = s.outbound(&format!("{EXTERNAL}{DIALBACK}"));
    assert!(s.answer(link).starts_with("<db:result"));
    // Not where dialback is not allowed.
    let mut s = Script::new(Partner { dialback: false, ..Partner::new(THEIRS) });
    s.send("hello").expect("taken");
    let link = s.outbound(EXTERNAL);
    s.says(link, failure);
    assert!(s.is_closed(link));
    assert_eq!(s.node.events, ["undelivered 0 Refused"]);
}

#[test]
fn starttls_is_tried_where_it_is_not_offered_and_the_way_in_the_clear_is_never_taken_if_tls_is_required() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.connects[0];
    s.run(|s, cx| s.opened(cx, link));
    s.answer(link);
    let answer = s.says(link, &format!("{HEADER}{ANSWER_B}{DIALBACK}</stream:features>"));
    assert_eq!(answer, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    s.says(link, "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert_eq!(s.node.events, ["undelivered 0 Refused"]);
    // Optional: the refusal is taken at its word.
    let mut s = Script::new(Partner { tls: Requirement::Optional, ..Partner::new(THEIRS) });
    s.send("hello").expect("taken");
    for answer in ["<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", ""] {
        let link = *s.connects.last().expect("a connection");
        s.run(|s, cx| s.opened(cx, link));
        s.answer(link);
        let tls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>";
        let said = s.says(link, &format!("{HEADER}{ANSWER_B}{tls}"));
        assert_eq!(said.starts_with("<starttls"), !answer.is_empty(), "{said}");
        s.says(link, answer);
    }
    assert_eq!(s.connects.len(), 2);
}

#[test]
fn a_server_without_version_is_not_spoken_to_in_the_clear_if_tls_is_required() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.connects[0];
    s.run(|s, cx| s.opened(cx, link));
    s.answer(link);
    assert!(s.says(link, &format!("{HEADER}id='s1'>")).contains("policy-violation"));
    assert_eq!(s.node.events, ["undelivered 0 Refused"]);
}

#[test]
fn what_a_stream_error_says_reaches_the_sender() {
    for (condition, why) in
        [("host-unknown", "NotFound"), ("not-authorized", "Refused"), ("system-shutdown", "Unreachable")]
    {
        let mut s = Script::new(Partner::new(THEIRS));
        s.send("hello").expect("taken");
        let link = s.connects[0];
        s.run(|s, cx| s.opened(cx, link));
        let error = format!(
            "<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
        );
        let answer = s.says(link, &format!("{HEADER}from='b.example' id='1' version='1.0'>{error}"));
        assert!(answer.ends_with("</stream:stream>"), "{answer}");
        assert_eq!(s.node.events, [format!("undelivered 0 {why}")]);
    }
}
