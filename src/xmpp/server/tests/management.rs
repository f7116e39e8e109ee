//! Acknowledgements, resumption, and streams that go both ways.

use super::*;

#[test]
fn a_stanza_is_delivered_once_the_partner_acknowledges_it() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound_proved("", SM);
    assert_eq!(s.answer(link), "<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
    let answer = s.says(link, "<enabled xmlns='urn:xmpp:sm:3'/>");
    assert!(answer.ends_with("</message><r xmlns='urn:xmpp:sm:3'/>"), "{answer}");
    s.drained(link);
    assert!(s.node.events.is_empty());
    s.says(link, "<a xmlns='urn:xmpp:sm:3' h='1'/>");
    assert_eq!(s.node.events, ["delivered 0"]);
}

#[test]
fn a_partner_that_refuses_acknowledgements_gets_stanzas_all_the_same() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound_proved("", SM);
    s.answer(link);
    let failed = "<failed xmlns='urn:xmpp:sm:3'><feature-not-implemented \
        xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>";
    assert!(s.says(link, failed).contains("hello"));
    s.drained(link);
    assert_eq!(s.node.events, ["delivered 0"]);
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_ends_the_stream() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound_proved("", SM);
    s.says(link, "<enabled xmlns='urn:xmpp:sm:3'/>");
    let answer = s.says(link, "<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert!(answer.contains("undefined-condition") && answer.contains("<handled-count-too-high"), "{answer}");
    assert_eq!(s.node.events, ["undelivered 0 StreamLost"]);
}

#[test]
fn without_an_acknowledgement_in_thirty_seconds_the_stream_is_dead() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound_proved("", SM);
    s.says(link, "<enabled xmlns='urn:xmpp:sm:3'/>");
    s.pass(Duration::from_secs(29));
    assert!(!s.is_closed(link));
    s.pass(Duration::from_secs(2));
    assert!(s.is_closed(link));
    assert_eq!(s.node.events, ["undelivered 0 StreamLost"]);
    assert_eq!(s.connects.len(), 1, "what may have arrived is not sent again");
}

#[test]
fn octets_that_do_not_leave_in_thirty_seconds_are_not_delivered() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("hello").expect("taken");
    let link = s.outbound_proved("", "");
    s.pass(Duration::from_secs(31));
    assert!(s.is_closed(link));
    assert_eq!(s.node.events, ["undelivered 0 StreamLost"]);
}

#[test]
fn a_resumed_stream_gets_what_it_did_not_have_and_nothing_twice() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.send("one").expect("taken");
    let link = s.outbound_proved("", SM);
    s.says(link, "<enabled xmlns='urn:xmpp:sm:3' resume='true' id='r1' max='300'/>");
    s.send("two").expect("taken");
    s.run(|s, cx| s.closed(cx, link, CloseReason::Reset));
    assert!(s.node.events.is_empty());
    s.send("three").expect("taken");
    let link = s.outbound_proved("", SM);
    assert_eq!(s.answer(link), "<resume xmlns='urn:xmpp:sm:3' previd='r1' h='0'/>");
    let answer = s.says(link, "<resumed xmlns='urn:xmpp:sm:3' previd='r1' h='1'/>");
    assert_eq!(s.node.events, ["delivered 0"]);
    assert!(!answer.contains(">one<"), "{answer}");
    let (two, three) = (answer.find(">two<").expect("two"), answer.find(">three<").expect("three"));
    assert!(two < three && answer.matches("<delay xmlns='urn:xmpp:delay'").count() == 1, "{answer}");
    s.says(link, "<a xmlns='urn:xmpp:sm:3' h='3'/>");
    assert_eq!(s.node.events, ["delivered 0", "delivered 1", "delivered 2"]);
}

#[test]
fn a_stream_that_cannot_be_resumed_gets_again_only_what_it_says_it_does_not_have() {
    for (failed, again) in [("<failed xmlns='urn:xmpp:sm:3' h='1'>", true), ("<failed xmlns='urn:xmpp:sm:3'>", false)] {
        let mut s = Script::new(Partner::new(THEIRS));
        s.send("one").expect("taken");
        let link = s.outbound_proved("", SM);
        s.says(link, "<enabled xmlns='urn:xmpp:sm:3' resume='1' id='r1'/>");
        s.send("two").expect("taken");
        s.run(|s, cx| s.closed(cx, link, CloseReason::Reset));
        let link = s.outbound_proved("", SM);
        s.answer(link);
        let condition = "<item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>";
        assert_eq!(s.says(link, &format!("{failed}{condition}")), "<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
        let answer = s.says(link, "<enabled xmlns='urn:xmpp:sm:3'/>");
        assert_eq!(answer.contains(">two<") && answer.contains("<delay"), again, "{answer}");
        let events: &[&str] =
            if again { &["delivered 0"] } else { &["undelivered 1 StreamLost", "undelivered 0 StreamLost"] };
        assert_eq!(s.node.events, events);
    }
}

#[test]
fn what_is_not_resumed_in_time_is_told_and_never_sent_again() {
    for late in [false, true] {
        let mut s = Script::new(Partner::new(THEIRS));
        s.send("one").expect("taken");
        let link = s.outbound_proved("", SM);
        s.says(link, "<enabled xmlns='urn:xmpp:sm:3' resume='true' id='r1' max='10'/>");
        s.run(|s, cx| s.closed(cx, link, CloseReason::Reset));
        let link = s.outbound(EXTERNAL);
        s.says(link, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
        if !late {
            s.pass(Duration::from_secs(11));
        }
        let answer = s.says(link, &format!("{HEADER}{ANSWER_B}{SM}</stream:features>"));
        assert_eq!(answer.contains("<resume"), late, "{answer}");
        s.pass(Duration::from_secs(11));
        assert_eq!(s.node.events, ["undelivered 0 StreamLost"]);
        let answer = s.says(link, "<resumed xmlns='urn:xmpp:sm:3' previd='r1' h='0'/>");
        assert!(!answer.contains(">one<") && s.is_closed(link), "{answer}");
        assert_eq!(s.node.events.len(), 1);
    }
}

#[test]
fn what_came_is_acknowledged_in_order_once_it_is_handled() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.node.handles_at_once = false;
    let link = s.proved("");
    assert_eq!(s.says(link, "<enable xmlns='urn:xmpp:sm:3' resume='true'/>"), "<enabled xmlns='urn:xmpp:sm:3'/>");
    assert!(s.says(link, "<enable xmlns='urn:xmpp:sm:3'/>").contains("unexpected-request"));
    for text in ["one", "two"] {
        s.says(link, &message("y@b.example", "x@a.example", text));
    }
    assert_eq!(s.says(link, "<r xmlns='urn:xmpp:sm:3'/>"), "<a xmlns='urn:xmpp:sm:3' h='0'/>");
    let handles = core::mem::take(&mut s.node.handles);
    s.run(|s, cx| s.handled(cx, handles[1]));
    assert_eq!(s.answer(link), "");
    s.run(|s, cx| s.handled(cx, handles[0]));
    assert_eq!(s.answer(link), "<a xmlns='urn:xmpp:sm:3' h='2'/>", "the answer that was owed");
    s.run(|s, cx| s.handled(cx, handles[0]));
    assert_eq!(s.says(link, "<r xmlns='urn:xmpp:sm:3'/>"), "<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert!(s.says(link, "<resume xmlns='urn:xmpp:sm:3' previd='x' h='1'/>").contains("item-not-found"));
}

#[test]
fn reading_stops_while_too_much_is_not_handled() {
    let mut s = Script::new(Partner::new(THEIRS));
    s.node.handles_at_once = false;
    let link = s.proved("");
    s.says(link, "<enable xmlns='urn:xmpp:sm:3'/>");
    for n in 0..limits::STREAM_UNHANDLED_MAX + 5 {
        s.says(link, &message("y@b.example", "x@a.example", &n.to_string()));
    }
    assert_eq!(s.node.events.len(), limits::STREAM_UNHANDLED_MAX);
    assert_eq!(s.reading, [false]);
    let handle = s.node.handles.remove(0);
    s.run(|s, cx| s.handled(cx, handle));
    assert_eq!(s.reading, [false, true]);
    s.says(link, &message("y@b.example", "x@a.example", "more"));
    assert_eq!(s.node.events.len(), limits::STREAM_UNHANDLED_MAX + 1);
}

#[test]
fn acknowledgements_before_authentication_end_the_stream() {
    let mut s = Script::new(Partner::new(THEIRS));
    let (link, features) = s.inbound(&named(THEIRS));
    assert!(!features.contains("urn:xmpp:sm:3"));
    assert!(s.says(link, "<enable xmlns='urn:xmpp:sm:3'/>").contains("not-authorized"));
}

#[test]
fn an_answer_goes_back_on_a_stream_that_goes_both_ways() {
    let mut w = World::standard();
    w.say("one");
    w.send(B, "y@b.example", "x@a.example", "two").expect("taken");
    w.settle();
    assert_eq!(w.pipes.len(), 1);
    assert!(w.nodes[A].events.contains(&"message y@b.example > x@a.example two".into()));
    assert!(w.nodes[B].events.contains(&"delivered 0".into()));
}

#[test]
fn an_answerer_that_was_not_asked_sends_nothing_back_on_the_stream() {
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("");
    s.send("hello").expect("taken");
    assert_eq!(s.connects.len(), 1);
    assert_eq!(s.answer(link), "");
}

#[test]
fn bidi_is_not_asked_of_a_partner_whose_certificate_is_not_believed() {
    let mut w = World::standard();
    w.nodes[B].certificate = named("c.example");
    w.say("one");
    assert!(!w.pipes[0].transcript.contains("<bidi xmlns='urn:xmpp:bidi'"));
}

#[test]
fn an_initiator_takes_stanzas_of_its_pair_only_and_only_with_bidi() {
    for (features, from, error) in
        [(BIDI, "y@b.example", ""), (BIDI, "y@c.example", "invalid-from"), ("", "y@b.example", "not-authorized")]
    {
        let mut s = Script::new(Partner::new(THEIRS));
        s.send("hello").expect("taken");
        let link = s.outbound_proved(features, "");
        s.answer(link);
        let answer = s.says(link, &message(from, "x@a.example", "back"));
        assert!(answer.contains(error), "{answer}");
        let seen = s.node.events.iter().filter(|event| event.starts_with("message")).count();
        assert_eq!(seen, usize::from(error.is_empty()));
    }
}

#[test]
fn bidi_after_authentication_is_refused() {
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("");
    assert!(s.says(link, "<bidi xmlns='urn:xmpp:bidi'/>").contains("policy-violation"));
}

#[test]
fn a_key_is_never_confirmed_on_the_connection_it_was_shown_on() {
    let mut s = Script::new(Partner::new(THEIRS));
    let (link, _) = s.inbound(&named("other.example"));
    s.says(link, "<bidi xmlns='urn:xmpp:bidi'/>");
    assert_eq!(s.says(link, RESULT), "");
    assert_eq!(s.connects.len(), 1);
}
