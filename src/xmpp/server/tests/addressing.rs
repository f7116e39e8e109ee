//! Who may say what on a stream: headers, senders, elements out of place.

use super::*;

#[test]
fn a_proved_stream_passes_stanzas_of_its_pair_and_no_others() {
    let cases = [
        ("y@b.example", "x@a.example", ""),
        ("Y@B.Example/r", "x@A.example.", ""),
        ("b.example", "a.example", ""),
        ("y@c.example", "x@a.example", "invalid-from"),
        ("y@sub.b.example", "x@a.example", "invalid-from"),
        ("y@a.example", "x@a.example", "invalid-from"),
        ("a2.example", "x@a.example", "invalid-from"),
        ("y@xb.example", "x@a.example", "invalid-from"),
        ("y@b.example", "x@a2.example", "invalid-from"),
        ("y@c.example", "x@d.example", "host-unknown"),
        ("", "x@a.example", "improper-addressing"),
    ];
    for (from, to, error) in cases {
        let mut s = Script::new(Partner::new(THEIRS));
        let link = s.proved("");
        let answer = s.says(link, &message(from, to, "hello"));
        assert_eq!(s.node.events.len(), usize::from(error.is_empty()), "{from} {to} {answer}");
        assert!(answer.contains(error), "{from} {to} {answer}");
        assert_eq!(s.is_closed(link), !error.is_empty());
    }
}

#[test]
fn a_stanza_that_strays_to_a_domain_not_served_is_answered() {
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("<bidi xmlns='urn:xmpp:bidi'/>");
    let answer = s.says(link, &message("y@b.example", "x@c.example", "hello"));
    assert!(answer.contains("remote-server-not-found") && !s.is_closed(link), "{answer}");
    assert!(s.node.events.is_empty());
}

#[test]
fn a_stanza_without_from_or_to_ends_the_stream() {
    for stanza in ["<message to='x@a.example'/>", "<message from='y@b.example'/>", "<iq type='get' id='1'/>"] {
        let mut s = Script::new(Partner::new(THEIRS));
        let link = s.proved("");
        assert!(s.says(link, stanza).contains("improper-addressing"), "{stanza}");
        assert!(s.is_closed(link));
    }
}

#[test]
fn a_malformed_local_part_is_answered_and_the_stream_goes_on() {
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("<bidi xmlns='urn:xmpp:bidi'/>");
    let answer = s.says(link, &message("y@b.example", "a b&amp;c@a.example", "hello"));
    assert!(answer.contains("jid-malformed") && answer.contains("type='error'"), "{answer}");
    assert!(s.node.events.is_empty() && !s.is_closed(link));
}

#[test]
fn nothing_passes_before_authentication() {
    let mut s = Script::new(Partner::new(THEIRS));
    let (link, _) = s.inbound(&named(THEIRS));
    assert!(s.says(link, &message("y@b.example", "x@a.example", "hello")).contains("not-authorized"));
    let link = s.accepted();
    s.says(link, &format!("{HEADER}{FROM_B}"));
    assert!(s.says(link, &message("y@b.example", "x@a.example", "hello")).contains("not-authorized"));
    assert!(s.node.events.is_empty());
}

#[test]
fn headers_that_ask_for_the_wrong_thing_are_answered_with_a_header_and_an_error() {
    let with = |rest: &str| format!("{HEADER}{rest}");
    let cases = [
        (with("from='b.example' to='c.example' version='1.0'>"), "host-unknown"),
        (with("from='b.example' version='1.0'>"), "improper-addressing"),
        (with("from='b.example' to='x@a.example' version='1.0'>"), "improper-addressing"),
        (with("from='y@b.example' to='a.example' version='1.0'>"), "improper-addressing"),
        (with("from='a2.example' to='a.example' version='1.0'>"), "invalid-from"),
        (with("from='a.example' to='a.example' version='1.0'>"), "invalid-from"),
        (with("from='b.example' to='a.example' version='abc'>"), "unsupported-version"),
        (with("from='b.example' to='a.example'>"), "unsupported-version"),
        (HEADER.replace("jabber:server'", "jabber:client'") + FROM_B, "invalid-namespace"),
        (HEADER.replace("etherx", "other") + FROM_B, "invalid-namespace"),
        ("<!DOCTYPE a>".into(), "restricted-xml"),
        ("GET / HTTP/1.1\r\n".into(), "not-well-formed"),
        (HEADER.replace("UTF", "") + "from='b.example' to='a.example' x:y='1' version='1.0'>", "bad-namespace-prefix"),
    ];
    for (header, error) in cases {
        let mut s = Script::new(Partner::new(THEIRS));
        let link = s.accepted();
        let answer = s.says(link, &header);
        assert!(answer.starts_with("<?xml version='1.0'?><stream:stream"), "{header} {answer}");
        assert!(answer.contains(error), "{header} {answer}");
        assert!(answer.ends_with("</stream:error></stream:stream>"), "{answer}");
        assert!(s.is_closed(link), "{header}");
    }
}

#[test]
fn a_blocked_domain_gets_no_stream_and_loses_the_one_it_has() {
    let mut all = settings(&[OURS], Partner::new("other.example"), address(1, 5269), address(1, 5270));
    all.discovery_open = true;
    let mut s = Script::with(all.clone());
    let link = s.proved("");
    all.blocked.push(THEIRS.into());
    s.run(|s, cx| s.configure(cx, &all));
    assert!(s.is_closed(link));
    let link = s.accepted();
    let answer = s.says(link, &format!("{HEADER}{FROM_B}"));
    assert!(answer.contains("policy-violation"), "{answer}");
    assert!(s.is_closed(link) && s.node.events.is_empty());
    assert_eq!(s.send("hello").map(|_| ()), Err(Refused::NotPartner));
}

#[test]
fn a_discovered_domain_is_served_while_discovery_is_open() {
    let mut all = settings(&[OURS], Partner::new(THEIRS), address(1, 5269), address(1, 5270));
    all.discovery_open = true;
    let mut s = Script::with(all.clone());
    let header = format!("{HEADER}from='b.example' to='far.example' version='1.0'>");
    let link = s.accepted();
    assert!(s.says(link, &header).contains("host-unknown"));
    s.node.server.serve("far.example");
    s.node.server.serve(THEIRS);
    let link = s.accepted();
    assert!(s.says(link, &header).contains("<stream:features>"));
    s.run(|s, cx| s.configure(cx, &all));
    assert!(!s.is_closed(link), "it is served on");
    assert!(s.node.server.policy.serves("far.example") && !s.node.server.policy.serves(THEIRS));
    for n in 0..2 * limits::DISCOVERED_MAX {
        s.node.server.serve(&format!("d{n}.example"));
    }
    assert!(!s.node.server.policy.serves("far.example"), "the oldest made room");
    all.discovery_open = false;
    s.run(|s, cx| s.configure(cx, &all));
    assert!(!s.node.server.policy.serves("d500.example") && s.node.server.policy.serves(OURS));
}

#[test]
fn stream_ids_differ() {
    let mut s = Script::new(Partner::new(THEIRS));
    let mut ids = Vec::new();
    for _ in 0..20 {
        let link = s.accepted();
        let answer = s.says(link, &format!("{HEADER}{FROM_B}"));
        let id = answer.split(" id='").nth(1).and_then(|rest| rest.split('\'').next()).expect("an id");
        assert!(id.len() >= 20);
        ids.push(id.to_owned());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

#[test]
fn clear_text_behind_starttls_is_never_read() {
    let starttls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.accepted();
    s.says(link, &format!("{HEADER}{FROM_B}"));
    s.says(link, &format!("{starttls}{HEADER}{FROM_B}"));
    assert!(s.is_closed(link));
    assert!(s.node.has_logged(&["xmpp.starttls.injection"]));
    let link = s.accepted();
    s.says(link, &format!("{HEADER}{FROM_B}"));
    s.says(link, &format!("{starttls}\n "));
    assert!(!s.is_closed(link));
    s.send("hello").expect("taken");
    let link = s.connects[0];
    s.run(|s, cx| s.opened(cx, link));
    s.says(link, &format!("{HEADER}{ANSWER_B}{starttls}</stream:features>"));
    s.says(link, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><stream:features/>");
    assert!(s.is_closed(link));
}

#[test]
fn starttls_cannot_come_twice_or_inside_of_tls() {
    let mut s = Script::new(Partner::new(THEIRS));
    let (link, features) = s.inbound(&named(THEIRS));
    assert!(!features.contains("<starttls"));
    let answer = s.says(link, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert!(answer.contains("<failure") && s.is_closed(link), "{answer}");
}

#[test]
fn compression_is_not_offered_and_refused() {
    let mut s = Script::new(Partner::new(THEIRS));
    let (link, features) = s.inbound(&named(THEIRS));
    assert!(!features.contains("compress"));
    let ask = "<compress xmlns='http://jabber.org/protocol/compress'><method>zlib</method></compress>";
    assert!(s.says(link, ask).contains("<failure xmlns='http://jabber.org/protocol/compress'>"));
}

#[test]
fn each_mistake_of_external_is_refused_with_its_condition() {
    let auth =
        |text: &str| format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{text}</auth>");
    let other = Base64::encode_string(b"c.example");
    let huge = "A".repeat(4096);
    let cases = [
        (auth(""), "malformed-request"),
        (auth(&other), "invalid-authzid"),
        (auth("%%%"), "incorrect-encoding"),
        (auth("/w=="), "incorrect-encoding"),
        (auth(&huge), "malformed-request"),
        (auth("=").replace("EXTERNAL", "PLAIN"), "invalid-mechanism"),
        ("<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".into(), "aborted"),
        ("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".into(), "malformed-request"),
    ];
    for (request, condition) in cases {
        let mut s = Script::new(Partner::new(THEIRS));
        let (link, _) = s.inbound(&named(THEIRS));
        let answer = s.says(link, &request);
        assert!(answer.contains(condition) && answer.contains("<failure"), "{request} {answer}");
        assert!(!s.is_closed(link), "dialback may follow");
        // A second attempt may go well.
        assert!(s.says(link, &auth(&Base64::encode_string(b"B.example"))).contains("<success"));
    }
    let mut s = Script::new(Partner::new(THEIRS));
    let (link, _) = s.inbound(&named(THEIRS));
    for _ in 0..3 {
        s.says(link, &auth(&other));
    }
    assert!(s.is_closed(link), "no guessing without end");
}

#[test]
fn external_is_not_taken_where_it_was_not_offered() {
    let auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>";
    let mut s = Script::new(Partner::new(THEIRS));
    let (link, features) = s.inbound(&named("c.example"));
    assert!(!features.contains("EXTERNAL"));
    assert!(s.says(link, auth).contains("not-authorized"));
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.accepted();
    s.says(link, &format!("{HEADER}{FROM_B}"));
    assert!(s.says(link, auth).contains("encryption-required"));
    let mut s = Script::new(Partner::new(THEIRS));
    let link = s.proved("");
    assert!(s.says(link, auth).contains("not-authorized"), "not twice");
}

#[test]
fn after_authentication_the_addresses_of_the_stream_stay() {
    let auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>";
    for (header, error) in [
        ("from='c.example' to='a.example' version='1.0'>", "invalid-from"),
        ("from='b.example' to='a2.example' version='1.0'>", "improper-addressing"),
        ("version='1.0'>", ""),
    ] {
        let mut s = Script::new(Partner::new(THEIRS));
        let (link, _) = s.inbound(&named(THEIRS));
        s.says(link, auth);
        let answer = s.says(link, &format!("{HEADER}{header}"));
        assert!(answer.contains(error), "{answer}");
        assert_eq!(s.is_closed(link), !error.is_empty());
    }
}
