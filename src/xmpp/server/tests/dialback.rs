//! Server dialback in its three roles.

use super::*;

#[test]
fn a_server_older_than_xmpp_1_0_proves_itself_by_dialback_where_that_is_allowed() {
    let mut s = Script::new(clear_partner(THEIRS));
    let link = legacy(&mut s);
    assert_eq!(s.says(link, RESULT), "");
    let (on, id) = asked(&mut s);
    let verdict = format!("<db:verify from='b.example' to='a.example' id='{id}' type='valid'/>");
    s.says(on, &verdict);
    assert_eq!(s.answer(link), "<db:result from='a.example' to='b.example' type='valid'/>");
    s.says(link, &message("y@b.example", "x@a.example", "hello"));
    assert_eq!(s.node.events, ["message y@b.example > x@a.example hello"]);
}

#[test]
fn our_stream_to_such_a_server_begins_with_the_key() {
    let mut s = Script::new(clear_partner(THEIRS));
    s.send("hello").expect("taken");
    let link = s.connects[0];
    s.run(|s, cx| s.opened(cx, link));
    s.answer(link);
    let answer = s.says(link, &format!("{HEADER}id='s1'>"));
    assert!(answer.starts_with("<db:result from='a.example' to='b.example'>"), "{answer}");
    let answer = s.says(link, "<db:result from='b.example' to='a.example' type='valid'/>");
    assert!(answer.contains("<body>hello</body>"), "{answer}");
    s.drained(link);
    assert_eq!(s.node.events, ["delivered 0"]);
}

#[test]
fn verdicts_nobody_asked_for_prove_nothing() {
    let mut s = Script::new(clear_partner(THEIRS));
    let link = legacy(&mut s);
    s.says(link, RESULT);
    let (on, id) = asked(&mut s);
    let verdict =
        |from: &str, to: &str, id: &str| format!("<db:verify from='{from}' to='{to}' id='{id}' type='valid'/>");
    for forged in [
        verdict("b.example", "a.example", "other"),
        verdict("a.example", "b.example", &id),
        verdict("c.example", "a.example", &id),
        verdict("b.example", "a2.example", &id),
        "<db:result from='b.example' to='a.example' type='valid'/>".into(),
        "<db:result from='b.example' to='a2.example' type='valid'/>".into(),
        "<db:result from='b.example' to='a.example'>key</db:result>".into(),
        "<db:verify from='b.example' to='a.example'/>".into(),
    ] {
        s.says(on, &forged);
        assert_eq!(s.answer(link), "", "{forged}");
    }
    // On the stream of the one who wants in.
    for forged in [verdict("b.example", "a.example", &id), RESULT.replace("'>abc<", "' type='valid'>abc<")] {
        assert_eq!(s.says(link, &forged), "", "{forged}");
    }
    assert!(s.node.count.of(Counter::DialbackInvalid) >= 10);
    assert!(s.says(link, &message("y@b.example", "x@a.example", "in")).contains("not-authorized"));
    assert!(s.node.events.is_empty());
}

#[test]
fn a_key_that_is_not_confirmed_lets_nothing_pass() {
    for (type_, error) in [("invalid", "type='invalid'"), ("error", "remote-server-not-found")] {
        let mut s = Script::new(clear_partner(THEIRS));
        let link = legacy(&mut s);
        s.says(link, RESULT);
        let (on, id) = asked(&mut s);
        s.says(on, &format!("<db:verify from='b.example' to='a.example' id='{id}' type='{type_}'/>"));
        assert!(s.answer(link).contains(error), "{type_}");
        assert_eq!(s.is_closed(link), type_ == "invalid");
        if type_ == "error" {
            assert!(s.says(link, &message("y@b.example", "x@a.example", "in")).contains("not-authorized"));
        }
        assert!(s.node.events.is_empty());
    }
}

#[test]
fn keys_for_domains_that_are_not_ours_or_are_ours_are_refused() {
    let mut s = Script::new(clear_partner(THEIRS));
    let link = legacy(&mut s);
    let answer = s.says(link, &RESULT.replace("to='a.example'", "to='c.example'"));
    assert!(answer.contains("item-not-found") && answer.contains("type='error'"), "{answer}");
    assert!(s.connects.is_empty());
    let answer = s.says(link, &RESULT.replace("from='b.example'", "from='a2.example'"));
    assert!(answer.contains("invalid-from") && s.is_closed(link), "{answer}");
    let link = legacy(&mut s);
    assert!(s.says(link, "<db:result to='a.example'>k</db:result>").contains("improper-addressing"));
}

#[test]
fn dialback_is_not_taken_where_the_settings_forbid_it() {
    let strict = Partner { sasl: Requirement::Required, ..Partner::new(THEIRS) };
    let mut s = Script::new(strict);
    let (link, features) = s.inbound(&named(THEIRS));
    assert!(!features.contains("<dialback"));
    assert!(s.says(link, RESULT).contains("policy-violation"));
    // A stranger in the clear, on a gateway that takes clear text of another partner.
    let mut s = Script::new(clear_partner(THEIRS));
    let link = legacy(&mut s);
    assert!(s.says(link, &RESULT.replace("b.example", "c.example")).contains("policy-violation"));
    assert!(s.connects.is_empty());
}

#[test]
fn an_authoritative_server_that_keeps_silent_is_waited_for_thirty_seconds() {
    let mut s = Script::new(clear_partner(THEIRS));
    let link = legacy(&mut s);
    s.says(link, RESULT);
    let (on, _) = asked(&mut s);
    s.pass(Duration::from_secs(29));
    assert_eq!(s.answer(link), "");
    s.pass(Duration::from_secs(2));
    assert!(s.answer(link).contains("remote-server-timeout"));
    assert!(s.is_closed(on));
}

#[test]
fn an_authoritative_server_that_is_gone_is_asked_once_more() {
    let mut s = Script::new(clear_partner(THEIRS));
    let link = legacy(&mut s);
    s.says(link, RESULT);
    let (on, _) = asked(&mut s);
    s.run(|s, cx| s.closed(cx, on, CloseReason::Reset));
    assert_eq!(s.connects.len(), 2);
    let (on, _) = asked(&mut s);
    s.run(|s, cx| s.closed(cx, on, CloseReason::Reset));
    assert!(s.answer(link).contains("remote-server-timeout"));
    assert_eq!(s.connects.len(), 2);
}

#[test]
fn we_confirm_our_own_keys_and_no_others() {
    let mut s = Script::new(clear_partner(THEIRS));
    s.send("hello").expect("taken");
    let out = s.connects[0];
    s.run(|s, cx| s.opened(cx, out));
    s.answer(out);
    let shown = s.says(out, &format!("{HEADER}id='s1'>"));
    let key = shown.split('>').nth(1).and_then(|rest| rest.split('<').next()).expect("a key").to_owned();
    let link = legacy(&mut s);
    let verify = |from: &str, to: &str, id: &str, key: &str| {
        format!("<db:verify from='{from}' to='{to}' id='{id}'>{key}</db:verify>")
    };
    let right = s.says(link, &verify("b.example", "a.example", "s1", &key));
    assert_eq!(right, "<db:verify from='a.example' to='b.example' id='s1' type='valid'/>");
    for wrong in [
        verify("b.example", "a.example", "s2", &key),
        verify("c.example", "a.example", "s1", &key),
        verify("b.example", "a2.example", "s1", &key),
        verify("b.example", "a.example", "s1", &key.replace(char::is_numeric, "0")),
    ] {
        assert!(s.says(link, &wrong).contains("type='invalid'"), "{wrong}");
    }
    assert!(s.says(link, &verify("b.example", "c.example", "s1", &key)).contains("item-not-found"));
    // It is no way in.
    assert!(s.says(link, &message("y@b.example", "x@a.example", "in")).contains("not-authorized"));
}

#[test]
fn further_pairs_are_proved_on_a_stream_up_to_a_limit() {
    let partner = Partner { additional_domains: vec!["b3.example".into()], ..clear_partner(THEIRS) };
    let mut s = Script::new(partner);
    let link = legacy(&mut s);
    s.says(link, RESULT);
    let (on, id) = asked(&mut s);
    s.says(on, &format!("<db:verify from='b.example' to='a.example' id='{id}' type='valid'/>"));
    s.answer(link);
    // A second pair fails and takes nothing from the first.
    s.says(link, &RESULT.replace("'b.example'", "'b3.example'"));
    let on = *s.connects.last().expect("a connection");
    s.run(|s, cx| s.opened(cx, on));
    s.says(on, &format!("{HEADER}id='s9'>"));
    s.says(on, &format!("<db:verify from='b3.example' to='a.example' id='{id}' type='invalid'/>"));
    assert_eq!(s.answer(link), "<db:result from='a.example' to='b3.example' type='invalid'/>");
    assert!(!s.is_closed(link));
    s.says(link, &message("y@b.example", "x@a.example", "still"));
    assert_eq!(s.node.events, ["message y@b.example > x@a.example still"]);
    assert!(s.says(link, &message("y@b3.example", "x@a.example", "in")).contains("invalid-from"));
    // A thousand at once.
    let mut s = Script::new(clear_partner(THEIRS));
    let link = legacy(&mut s);
    for n in 0..1000 {
        s.says(
            link,
            &RESULT.replace("to='a.example'", "to='a2.example'").replace(
                "from='b.example'",
                &format!("from='{}'", if n % 2 == 0 { "b.example".into() } else { format!("c{n}.example") }),
            ),
        );
    }
    assert!(s.node.server.verifications.len() <= limits::VERIFICATIONS_PER_STREAM_MAX);
}

#[test]
fn a_second_domain_of_ours_joins_a_stream_that_dialback_proved() {
    let mut w = World::dialback();
    w.say("one");
    let pipes = w.pipes.len();
    w.send(A, "x@a2.example", "y@b.example", "two").expect("taken");
    w.settle();
    assert!(w.nodes[B].events.contains(&"message x@a2.example > y@b.example two".into()), "{:?}", w.nodes[B].events);
    // One more connection: b.example asks the server of a2.example about its key.
    assert_eq!(w.pipes.len(), pipes + 1);
    let mut w = World::standard();
    w.say("one");
    w.send(A, "x@a2.example", "y@b.example", "two").expect("taken");
    w.settle();
    assert!(!w.pipes[0].transcript.contains("<db:result"), "a stream that a certificate proved is left alone");
}
