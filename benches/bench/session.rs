//! Sessions of messages as a Lync Edge has them: what a message in an open one costs beside a
//! single MESSAGE with the same header fields, and what a thousand open ones hold.

use super::memory::{Memory, Sip, answer_to};
use super::{per, row, title};
use std::fmt::Write as _;

const COUNT: usize = 5000;
const SESSIONS: usize = 1000;

const SDP: &str = "v=0\r\no=- 0 0 IN IP4 192.0.2.101\r\ns=session\r\nc=IN IP4 192.0.2.101\r\nt=0 0\r\n\
                   m=message 5060 sip null\r\na=accept-types:text/plain text/html text/rtf\r\n";

/// One side's part of a dialog.
struct Dialog {
    call_id: String,
    user: usize,
    /// Of the gateway's requests: its From; of ours: our To.
    us: String,
    uri: String,
    cseq: u32,
}

pub fn sessions() {
    title("messages in sessions, TCP, route sets of 1 KB");
    let mut alone = Memory::over(Sip::Tcp, 1, &settings("pager"));
    let mut inside = Memory::over(Sip::Tcp, 1, &settings("session"));
    let dialog = &mut opened_from_sip(&mut inside, 0);
    let single = measure(&mut alone, |memory, number| {
        message(
            memory,
            number,
            &mut Dialog {
                call_id: format!("s{number}"),
                user: 0,
                us: "<sip:alice@p0.example>".into(),
                uri: "sip:alice@p0.example".into(),
                cseq: 1,
            },
        );
    });
    let in_session = measure(&mut inside, |memory, number| message(memory, number, dialog));
    row("MESSAGE -> <message/>, alone", single);
    row("MESSAGE -> <message/>, in a session", in_session);
    ratio(single, in_session);

    let mut alone = Memory::over(Sip::Tcp, 1, &settings("pager"));
    let mut inside = Memory::over(Sip::Tcp, 1, &settings("session"));
    opened_from_xmpp(&mut inside, 0);
    let single = measure(&mut alone, |memory, number| stanza(memory, number, 0));
    let in_session = measure(&mut inside, |memory, number| stanza(memory, number, 0));
    row("<message/> -> MESSAGE, alone", single);
    row("<message/> -> MESSAGE, in a session", in_session);
    ratio(single, in_session);

    for (name, open) in [
        (
            "opened by SIP users",
            &(|memory: &mut Memory, user| drop(opened_from_sip(memory, user))) as &dyn Fn(&mut Memory, usize),
        ),
        ("opened by XMPP users", &opened_from_xmpp),
    ] {
        let mut memory = Memory::over(Sip::Tcp, 1, &settings("session"));
        open(&mut memory, 0);
        memory.pass_time(60_000);
        memory.take_cost();
        for user in 1..=SESSIONS {
            open(&mut memory, user);
        }
        memory.pass_time(60_000);
        let held = memory.take_cost().held as f64 / SESSIONS as f64;
        println!("{:<52}{held:>10.0}{:>10}", format!("heap octets of a session {name}"), SESSIONS);
    }
}

/// The four of them by name: those in sessions after those that go alone.
const WAYS: [(&str, &str, &str); 4] = [
    ("MESSAGE -> <message/>, alone", "sip", "pager"),
    ("MESSAGE -> <message/>, in a session", "sip", "session"),
    ("<message/> -> MESSAGE, alone", "xmpp", "pager"),
    ("<message/> -> MESSAGE, in a session", "xmpp", "session"),
];

/// What a message costs in instructions, by the difference of two counts under callgrind:
/// those of the neighbours in this file are among them, as many for one in a session as for
/// a single one.
pub fn instructions() {
    println!("\n{:<52}{:>14}{:>10}", "a message, under callgrind", "instructions", "ratio");
    let mut before = 0.0;
    for (name, side, mode) in WAYS {
        let counted = |count: usize| super::instructions_of(&["be-message", side, mode, &count.to_string()]);
        let cost = (counted(1200) - counted(200)) / 1000.0;
        let ratio = if mode == "session" { format!("{:.2}", cost / before) } else { String::new() };
        println!("{name:<52}{cost:>14.0}{ratio:>10}");
        before = cost;
    }
}

/// The process under callgrind: sends messages, ends.
pub fn be_message(side: &str, mode: &str, count: &str) {
    let count = count.parse::<usize>().expect("a number");
    let mut memory = Memory::over(Sip::Tcp, 1, &settings(mode));
    let mut dialog = Dialog {
        call_id: "s".into(),
        user: 0,
        us: "<sip:alice@p0.example>".into(),
        uri: "sip:alice@p0.example".into(),
        cseq: 1,
    };
    match (side, mode) {
        ("sip", "session") => dialog = opened_from_sip(&mut memory, 0),
        (_, "session") => opened_from_xmpp(&mut memory, 0),
        _ => {}
    }
    for number in 0..count {
        match (side, mode) {
            ("sip", "session") => message(&mut memory, number, &mut dialog),
            ("sip", _) => {
                dialog.call_id = format!("s{number}");
                dialog.cseq = 1;
                message(&mut memory, number, &mut dialog);
            }
            _ => stanza(&mut memory, number, 0),
        }
        memory.pass_time(50);
    }
}

fn settings(mode: &str) -> String {
    format!("set sip domain sip.example dialect lync\nset sip domain sip.example im-mode {mode}\n")
}

fn ratio(single: (f64, f64, f64), in_session: (f64, f64, f64)) {
    println!(
        "{:<52}{:>10.2}{:>10.2}{:>10.2}",
        "  ratio",
        in_session.0 / single.0,
        in_session.1 / single.1,
        in_session.2 / single.2
    );
}

fn measure(memory: &mut Memory, mut send: impl FnMut(&mut Memory, usize)) -> (f64, f64, f64) {
    for number in 0..COUNT / 5 {
        send(memory, number);
        memory.pass_time(50);
    }
    memory.take_cost();
    for number in COUNT..2 * COUNT {
        send(memory, number);
        memory.pass_time(50);
    }
    per(memory.take_cost(), COUNT)
}

fn routes() -> String {
    let (key, signature) = ("A".repeat(400), "s".repeat(44));
    format!(
        "Record-Route: <sip:edge.sip.example:5061;transport=tls;lr;ms-key-info={key};ms-route-sig={signature}>;tag=5C4B\r\n\
         Record-Route: <sip:pool.sip.example:5061;transport=tls;ms-fe=fe1.sip.example;opaque=state:T:{};lr>;tag=A89C\r\n",
        "f".repeat(350)
    )
}

fn head(method: &str, uri: &str, to: &str, call_id: &str, user: usize, cseq: u32, branch: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.2:50104;branch=z9hG4bK{branch}\r\n\
         Via: SIP/2.0/TCP 192.0.2.21:61619;branch=z9hG4bKp{branch};ms-received-port=61619;ms-received-cid=8C79E9E\r\n\
         Max-Forwards: 66\r\nFrom: \"Bob\"<sip:bob{user}@sip.example>;tag=f{user};epid=75a92f45aa\r\nTo: {to}\r\n\
         Call-ID: {call_id}\r\nCSeq: {cseq} {method}\r\nUser-Agent: bench\r\n"
    )
}

fn send(memory: &mut Memory, head: &str, content_type: &str, body: &str) {
    let mut text = head.to_owned();
    let _ = write!(text, "Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    memory.sip_sends(text.as_bytes());
}

fn field<'a>(message: &'a str, name: &str) -> &'a str {
    let line = message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name} in {message}"))
}

fn last(memory: &Memory) -> String {
    String::from_utf8_lossy(memory.sip_sent.last().expect("the gateway sent something")).into_owned()
}

fn opened_from_sip(memory: &mut Memory, user: usize) -> Dialog {
    let call_id = format!("c{user}");
    let mut invite =
        head("INVITE", "sip:alice@p0.example", "<sip:alice@p0.example>", &call_id, user, 1, &format!("i{user}"));
    invite.push_str(&routes());
    let _ = write!(
        invite,
        "Contact: <sip:bob{user}@sip.example;opaque=user:epid:N4OQykhuMBrKaTofmjebMPAA;gruu>\r\nSupported: timer\r\n"
    );
    memory.sip_sent.clear();
    send(memory, &invite, "application/sdp", SDP);
    let accepted = last(memory);
    assert!(accepted.starts_with("SIP/2.0 200"), "{accepted}");
    let us = field(&accepted, "To").to_owned();
    let uri = field(&accepted, "Contact").trim_matches(['<', '>']).to_owned();
    let ack = head("ACK", &uri, &us, &call_id, user, 1, &format!("a{user}"));
    memory.sip_sends(format!("{ack}Content-Length: 0\r\n\r\n").as_bytes());
    Dialog { call_id, user, us, uri, cseq: 1 }
}

/// A MESSAGE of the SIP user's, which arrives and is answered.
fn message(memory: &mut Memory, number: usize, dialog: &mut Dialog) {
    dialog.cseq += 1;
    memory.sip_sent.clear();
    let body = format!("{number:08}: are you coming to the tower?");
    let text =
        head("MESSAGE", &dialog.uri, &dialog.us, &dialog.call_id, dialog.user, dialog.cseq, &format!("m{number}"));
    send(memory, &text, "text/plain; charset=UTF-8", &body);
    memory.after_event();
    assert!(last(memory).starts_with("SIP/2.0 200"), "{}", last(memory));
}

/// A stanza of the XMPP user's, whose MESSAGE is answered.
fn stanza(memory: &mut Memory, number: usize, user: usize) {
    memory.sip_sent.clear();
    memory.xmpp_sends(
        0,
        &format!(
            "<message from='alice@p0.example/home' to='bob{user}@sip.example' id='n{number:08}' type='chat'>\
         <body>{number:08}: yes, with bread and a lamp.</body></message>"
        ),
    );
    memory.after_event();
    let request = last(memory);
    assert!(request.starts_with("MESSAGE "), "{request}");
    let answer = answer_to(request.as_bytes(), "");
    memory.sip_sends(&answer);
}

fn opened_from_xmpp(memory: &mut Memory, user: usize) {
    memory.sip_sent.clear();
    memory.xmpp_sends(0, &format!(
        "<message from='alice@p0.example/home' to='bob{user}@sip.example' id='o{user}' type='chat'><body>Open {user}</body></message>"
    ));
    memory.after_event();
    let invite = last(memory);
    assert!(invite.starts_with("INVITE "), "{invite}");
    let more = format!(
        "{}Contact: <sip:bob{user}@sip.example;opaque=user:epid:N4OQykhuMBrKaTofmjebMPAA;gruu>\r\n\
         Content-Type: application/sdp\r\n",
        routes()
    );
    let answer = String::from_utf8(answer_to(invite.as_bytes(), &more)).expect("a text");
    let answer = answer.replacen(
        &format!("To: <sip:bob{user}@sip.example>"),
        &format!("To: <sip:bob{user}@sip.example>;tag=r{user}"),
        1,
    );
    let answer = answer.replace("Content-Length: 0\r\n\r\n", &format!("Content-Length: {}\r\n\r\n{SDP}", SDP.len()));
    memory.sip_sends(answer.as_bytes());
    memory.after_event();
    let request = last(memory);
    assert!(request.starts_with("MESSAGE "), "{request}");
    let answer = answer_to(request.as_bytes(), "");
    memory.sip_sends(&answer);
}
