//! Messages: sessions in both directions, what they carry, how they end and fail.

use crate::message::Message;
use crate::player::{Answer, Edge, First, Talk, User, offer, supported};
use crate::xmpp::{Client, Element};
use crate::{EJABBERD, ONE_SECOND, Outcome, PROSODY, QUIET, SOON, Scenario, Site, ensure, equal};
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    ("f01-im-lync-to-xmpp-prosody", |site| lync_to_xmpp(site, PROSODY)),
    ("f01-im-lync-to-xmpp-ejabberd", |site| lync_to_xmpp(site, EJABBERD)),
    ("f02-im-xmpp-to-lync-prosody", |site| xmpp_to_lync(site, PROSODY)),
    ("f02-im-xmpp-to-lync-ejabberd", |site| xmpp_to_lync(site, EJABBERD)),
    ("f03-session-reuse", session_reuse),
    ("f04-session-end", session_end),
    ("f05-stale-session", stale_session),
    ("f06-formats-in", formats_in),
    ("f07-formats-out", formats_out),
    ("f08-typing-both-ways", typing),
    ("f32-refused-media", refused_media),
    ("f34-errors-to-xmpp", errors),
    ("f35-diagnostics-to-lync", diagnostics),
    ("f36-odd-wire-forms", odd_forms),
    ("f37-unknown-methods", unknown_methods),
    ("f41-archiving-notice", archiving_notice),
    ("session-first-text-in-headers-alone", headers_alone),
    ("session-cancelled", cancelled),
    ("session-refreshed-by-update-and-invite", refreshed),
    ("session-accepted-late", accepted_late),
    ("session-begun-by-both", begun_by_both),
    ("session-idle-is-ended", idle),
];

/// A text that no charset but UTF-8 carries.
pub const TEXT: &str = "Dzień dobry, Özlem — spotkanie o 14:30 ✓ 你好 \u{1F600}";

/// Opens a session as a client does: where the answer does not say that the text in the
/// headers was taken, the text follows as a MESSAGE.
pub fn open<'a>(edge: &'a Edge, user: &User, to: &str, text: &str) -> Outcome<Talk<'a>> {
    let first = First { plain: text, ..First::default() };
    let (answer, call) = edge.ask(user, "INVITE", to, &first.lines(user, to), "application/sdp", &offer("null"))?;
    equal("the answer to the INVITE", answer.first.as_str(), "SIP/2.0 200 OK")?;
    ensure(answer.body.contains("m=message"), || format!("no m=message in {:?}", answer.body))?;
    let talk = edge.talk_by(&call);
    if !took_first(&answer) {
        talk.text(text)?;
    }
    Ok(talk)
}

/// Does the answer to an INVITE say that the text in its headers was taken?
pub fn took_first(answer: &Message) -> bool {
    let tags = answer.list("supported");
    tags.iter().any(|tag| tag == "ms-text-format" || tag == "ms-embedded-first-message")
}

/// All texts that came to an XMPP user in that time.
pub fn texts(client: &mut Client, within: Duration) -> Vec<String> {
    let messages = client.messages(within).into_iter().filter(|m| m.child("body").is_some());
    messages
        .map(|m| format!("{}{}", if m.attribute("type") == "error" { "error: " } else { "" }, m.text_of("body")))
        .collect()
}

fn lync_to_xmpp(site: &Site, partner: &str) -> Outcome {
    let (_latimer, edge) = site.open(partner, &[])?;
    let (mut guest, bare) = site.guest(partner)?;
    let odile = edge.user("odile");
    let begun = Instant::now();
    let talk = open(&edge, &odile, &bare, TEXT)?;
    let stanza = guest.wait_message(TEXT)?;
    let took = begun.elapsed();
    equal("from", stanza.attribute("from").split('/').next().unwrap_or(""), &*odile.address)?;
    let begun = Instant::now();
    talk.text("two\r\nlines, <b>&amp;</b>")?;
    guest.wait("the second text", |m| m.text_of("body").replace("\r\n", "\n") == "two\nlines, <b>&amp;</b>")?;
    let second = begun.elapsed();
    ensure(second < ONE_SECOND, || format!("the second text took {second:?}"))?;
    // The first opens the stream to the partner.
    ensure(took < ONE_SECOND * 2, || format!("the first text took {took:?}"))?;
    let more = texts(&mut guest, Duration::from_secs(5));
    ensure(more.is_empty(), || format!("more came: {more:?}"))
}

fn xmpp_to_lync(site: &Site, partner: &str) -> Outcome {
    let (_latimer, edge) = site.open(partner, &[])?;
    let (mut guest, bare) = site.guest(partner)?;
    let odile = edge.user("odile");
    guest.message(&odile.address, TEXT)?;
    let invite = edge.wait_request("INVITE", SOON)?;
    equal("the target", invite.target(), &*format!("sip:{}", odile.address))?;
    ensure(invite.uri("from").starts_with(&format!("sip:{bare}")), || invite.field("from").into())?;
    ensure(invite.body.contains("m=message"), || format!("the offer is {:?}", invite.body))?;
    edge.wait_request("ACK", SOON)?;
    let message = edge.wait_request("MESSAGE", SOON)?;
    equal("the text", message.body.as_str(), TEXT)?;
    ensure(message.field("content-type").starts_with("text/plain"), || message.field("content-type").into())?;
    let more = edge.requests("MESSAGE", QUIET);
    ensure(more.is_empty(), || format!("it came {} times more", more.len()))?;
    let talk = edge.talk(&invite);
    talk.text("and back")?;
    guest.wait_message("and back")?;
    talk.bye()
}

fn session_reuse(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, _) = site.guest(PROSODY)?;
    // Prosody 0.12 mixes up what it sends while its stream is being authenticated.
    let silas = edge.user("silas");
    guest.message(&silas.address, "first of all")?;
    edge.wait_talk(&silas, SOON)?.wait_text(SOON)?;
    let odile = edge.user("odile");
    for number in 1..=10 {
        guest.message(&odile.address, &format!("number {number}"))?;
    }
    let talk = edge.wait_talk(&odile, SOON)?;
    for number in 1..=10 {
        equal("the next text", talk.wait_text(SOON)?, format!("number {number}"))?;
    }
    edge.never("INVITE", QUIET)?;
    edge.never("MESSAGE", Duration::ZERO)?;
    // What the other side opened is used for the way back too.
    let rhea = edge.user("rhea");
    let (mut other, bare) = site.guest(PROSODY)?;
    let talk = open(&edge, &rhea, &bare, "from this side")?;
    other.wait_message("from this side")?;
    other.message(&rhea.address, "in the same session")?;
    equal("the text", talk.wait_text(SOON)?.as_str(), "in the same session")?;
    edge.never("INVITE", QUIET)
}

fn session_end(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let talk = open(&edge, &odile, &bare, "hello")?;
    guest.wait_message("hello")?;
    talk.bye()?;
    guest.message(&odile.address, "are you still there?")?;
    let again = edge.wait_talk(&odile, SOON)?;
    ensure(again.call != talk.call, || "the ended session was used".into())?;
    equal("the text", again.wait_text(SOON)?.as_str(), "are you still there?")?;
    // What belongs to an ended session is refused.
    let answer = edge.inside(&talk.call, "MESSAGE", &supported(), "text/plain", "too late")?;
    equal("the answer in the ended session", answer.status(), 481)?;
    let came = texts(&mut guest, QUIET);
    ensure(came.is_empty(), || format!("it came: {came:?}"))
}

fn stale_session(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, _) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    guest.message(&odile.address, "first")?;
    let talk = edge.wait_talk(&odile, SOON)?;
    equal("the text", talk.wait_text(SOON)?.as_str(), "first")?;
    let mut last = talk.call;
    for (status, reason) in
        [(481, "Call Leg/Transaction Does Not Exist"), (408, "Request Timeout"), (480, "Temporarily Unavailable")]
    {
        let line = "ms-diagnostics-public: 1999;reason=\"Dialog not found\"".to_string();
        edge.next("MESSAGE", Answer::Refuse(status, reason, vec![line]));
        let text = format!("after a {status}");
        guest.message(&odile.address, &text)?;
        let refused = edge.wait_request("MESSAGE", SOON)?;
        equal("the Call-ID of what is refused", refused.field("call-id"), last.as_str())?;
        let again = edge.wait_talk(&odile, SOON)?;
        ensure(again.call != last, || "no new session".into())?;
        equal("the text", again.wait_text(SOON)?, text)?;
        last = again.call;
    }
    edge.never("MESSAGE", QUIET)?;
    let came = texts(&mut guest, Duration::from_millis(100));
    ensure(came.is_empty(), || format!("it came back: {came:?}"))
}

fn formats_in(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let wanted = "The café opens at 9\nsee you there";
    let html = "<DIV style=\"font-size: 10pt; font-family: Segoe UI; color: #000000; direction: ltr\">The \
                <B>caf&eacute;</B> opens at&nbsp;9<BR>see <I>you</I> there</DIV>";
    let rtf = "{\\rtf1\\fbidis\\ansi\\ansicpg1252\\deff0\\nouicompat\\deflang1033{\\fonttbl{\\f0\\fnil\\fcharset0 Segoe \
               UI;}{\\f1\\fnil Segoe UI;}}\r\n{\\colortbl ;\\red0\\green0\\blue0;}\r\n{\\*\\generator Riched20 \
               16.0.5134}{\\*\\mmathPr\\mwrapIndent1440 }\\viewkind4\\uc1 \r\n\\pard\\cf1\\embo\\f0\\fs20 The \\b \
               caf\\'e9\\b0  opens at 9\\line see \\i you\\i0  there{\\*\\lyncflags<rtf=1>}}\r\n";
    let mixed = format!(
        "------=_Part_7\r\nContent-Type: text/plain; charset=UTF-8\r\n\r\n{wanted}\r\n------=_Part_7\r\nContent-Type: \
         text/html; charset=UTF-8\r\n\r\n{html}\r\n------=_Part_7\r\nContent-Type: text/rtf\r\n\r\n{rtf}\r\n------=_Part_7--\r\n"
    );
    let mut read = |what: &str| -> Outcome {
        let message = guest.wait(what, |m| m.name == "message" && m.child("body").is_some())?;
        let body = message.text_of("body").replace("\r\n", "\n").replace('\u{a0}', " ");
        equal(what, body.trim_end(), wanted)
    };
    // The forms of the first text, each alone, from a client that does not repeat it.
    for (what, first) in [
        ("plain in the headers", First { plain: wanted, ..First::default() }),
        ("HTML in the headers", First { html, ..First::default() }),
        ("RTF in the headers", First { rtf, ..First::default() }),
        ("all three in the headers", First { plain: wanted, html, rtf }),
    ] {
        let talk = edge.invite(&odile, &bare, first)?;
        read(what)?;
        talk.bye()?;
    }
    let talk = open(&edge, &odile, &bare, wanted)?;
    read("the first text")?;
    for (what, kind, body) in [
        ("a text in HTML", "text/html; charset=UTF-8", html),
        ("a text in RTF", "text/rtf; charset=UTF-8", rtf),
        ("a text in three forms", "multipart/alternative; boundary=\"----=_Part_7\"", &mixed),
        ("a plain text with a font", "text/plain; charset=UTF-8;msgr=WAAtAE0ATQBTAC0ASQBNAC0ARgBvAHIAbQBhAHQA", wanted),
    ] {
        talk.content(kind, body)?;
        read(what)?;
    }
    let more = texts(&mut guest, QUIET);
    ensure(more.is_empty(), || format!("more came: {more:?}"))?;
    let link = "<SPAN>read <A href=\"https://mill.example/plan\">the plan</A></SPAN>";
    talk.content("text/html; charset=UTF-8", link)?;
    let message = guest.wait("a link", |m| m.child("body").is_some())?;
    ensure(message.text_of("body").contains("https://mill.example/plan"), || format!("{message:?}"))
}

fn formats_out(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, _) = site.guest(PROSODY)?;
    let to = site.at("odile");
    let html = "<html xmlns='http://jabber.org/protocol/xhtml-im'><body xmlns='http://www.w3.org/1999/xhtml'>\
                <p>bring the <strong>blue</strong> folder</p></body></html>";
    guest.send(&format!(
        "<message to='{to}' type='chat' id='x1'><body>bring the *blue* folder</body>{html}</message>"
    ))?;
    let talk = edge.wait_talk(&edge.user("odile"), SOON)?;
    equal("the text with markup", talk.wait_text(SOON)?.as_str(), "bring the *blue* folder")?;
    guest.send(&format!("<message to='{to}' type='chat' id='x2'>{html}</message>"))?;
    let text = talk.wait_text(SOON)?;
    equal("the text of markup alone", text.trim(), "bring the blue folder")?;
    guest.send(&format!(
        "<message to='{to}' type='chat' id='x3'><subject>Folder</subject><body>*bold* _it_ `code`</body></message>"
    ))?;
    let text = talk.wait_text(SOON)?;
    ensure(text.contains("*bold* _it_ `code`"), || format!("it came as {text:?}"))?;
    edge.never("MESSAGE", QUIET)
}

fn typing(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let state = |name: &str, to: &str| {
        format!("<message to='{to}' type='chat'><{name} xmlns='http://jabber.org/protocol/chatstates'/></message>")
    };
    // Before a session there is nobody to tell.
    guest.send(&state("composing", &odile.address))?;
    edge.never("INVITE", QUIET)?;
    edge.never("INFO", Duration::ZERO)?;
    let talk = open(&edge, &odile, &bare, "hello")?;
    guest.wait_message("hello")?;
    talk.typing(true)?;
    guest.wait("composing", |m| m.child("composing").is_some())?;
    talk.typing(false)?;
    guest.wait("paused or active", |m| m.child("paused").is_some() || m.child("active").is_some())?;
    guest.send(&format!(
        "<message to='{}' type='chat' id='t1'><body>I see</body><active xmlns='http://jabber.org/protocol/chatstates'/></message>",
        odile.address
    ))?;
    equal("the text", talk.wait_text(SOON)?.as_str(), "I see")?;
    guest.send(&state("composing", &odile.address))?;
    let info = edge.wait_request("INFO", SOON)?;
    ensure(info.body.contains("KeyboardActivity") && info.body.contains("\"type\""), || info.body.clone())?;
    equal("the type", info.field("content-type").split(';').next().unwrap_or(""), "application/xml")?;
    equal("the session", info.field("call-id"), talk.call.as_str())?;
    guest.send(&state("paused", &odile.address))?;
    let info = edge.wait_request("INFO", SOON)?;
    ensure(info.body.contains("\"idle\""), || info.body.clone())?;
    // RFC 3994, from other systems.
    let composing = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<isComposing \
                     xmlns=\"urn:ietf:params:xml:ns:im-iscomposing\"><state>active</state>\
                     <contenttype>text/plain</contenttype><refresh>90</refresh></isComposing>";
    talk.content("application/im-iscomposing+xml", composing)?;
    let stanza = guest.wait("composing", |m| m.child("composing").is_some())?;
    ensure(stanza.child("body").is_none(), || format!("it has a body: {stanza:?}"))?;
    talk.bye()?;
    guest.send(&state("composing", &odile.address))?;
    edge.never("INFO", QUIET)
}

/// Media, files, conferences: refused at once, and the session for messages goes on.
fn refused_media(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let talk = open(&edge, &odile, &bare, "may I call you?")?;
    guest.wait_message("may I call you?")?;
    let audio = "v=0\r\no=- 0 0 IN IP4 10.44.8.31\r\ns=session\r\nc=IN IP4 10.44.8.31\r\nb=CT:53980\r\nt=0 0\r\n\
                 a=x-devicecaps:audio:send,recv;video:send,recv\r\nm=audio 21540 RTP/SAVP 104 9 8 0 101\r\n\
                 a=ice-ufrag:4yWd\r\na=ice-pwd:l6vPqYc1ZrDk8sXe0JmBnTuA\r\na=candidate:1 1 UDP 2130706431 10.44.8.31 21540 \
                 typ host\r\na=crypto:2 AES_CM_128_HMAC_SHA1_80 inline:hV1cT9dKx0yq2wz6PzYr3nB5uQmEoLgWiJfSaXtC|2^31\r\n\
                 a=rtpmap:104 SILK/16000\r\na=rtpmap:9 G722/8000\r\na=encryption:required\r\n";
    let video = format!(
        "{audio}m=video 29142 RTP/SAVP 122 121\r\na=rtpmap:122 X-H264UC/90000\r\na=rtpmap:121 x-rtvc1/90000\r\n"
    );
    let fallback = format!(
        "--=_alt9\r\nContent-Type: application/sdp\r\nContent-ID: <5e1@mill.example>\r\nContent-Disposition: session; \
         handling=optional; ms-proxy-2007fallback\r\n\r\n{audio}--=_alt9\r\nContent-Type: application/sdp\r\nContent-ID: \
         <5e2@mill.example>\r\nContent-Disposition: session; handling=optional\r\n\r\n{audio}--=_alt9--\r\n"
    );
    let file = "--=_mix3\r\nContent-Type: application/sdp\r\nContent-Transfer-Encoding: 7bit\r\n\r\nv=0\r\no=- 0 0 IN IP4 \
                10.44.8.31\r\ns=session\r\nc=IN IP4 10.44.8.31\r\nt=0 0\r\nm=data 40062 TCP/RTP/AVP 127\r\na=rtpmap:127 \
                x-data/90000\r\na=sendonly\r\n--=_mix3\r\nContent-Type: application/ms-filetransfer+xml\r\n\
                Content-Transfer-Encoding: 7bit\r\nContent-Disposition: render; handling=optional\r\n\r\n<request \
                xmlns=\"http://schemas.microsoft.com/rtc/2009/05/filetransfer\" requestId=\"1\"><publishFile><fileInfo>\
                <id>{0A17}</id><name>flour.txt</name><size>77</size></fileInfo></publishFile></request>\r\n--=_mix3--\r\n";
    let conference = "<Conferencing version=\"2.0\"><focus-uri>sip:odile@mill.example;gruu;opaque=app:conf:focus:id:7\
                      </focus-uri><subject>Flour</subject><im available=\"true\"><first-im/></im></Conferencing>";
    for (what, kind, body, wanted) in [
        ("a call", "application/sdp", audio, &[488][..]),
        ("a video call", "application/sdp", &video, &[488]),
        ("a call in two forms", "multipart/alternative;boundary=\"=_alt9\"", &fallback, &[488]),
        ("a file", "multipart/mixed;boundary=\"=_mix3\"", file, &[488]),
        ("a conference", "application/ms-conf-invite+xml", conference, &[488, 415]),
    ] {
        let extra = ["Supported: ms-sender".to_string(), "Supported: timer".into(), "Supported: ms-conf-invite".into()];
        quick(
            what,
            || {
                let begun = Instant::now();
                let (branch, _) = edge.begin(&odile, "INVITE", &bare, &extra, kind, body)?;
                let answer = edge.finish(&branch, SOON)?;
                let rung: Vec<u16> = edge.provisional(&branch).into_iter().filter(|status| *status > 100).collect();
                ensure(rung.is_empty(), || format!("{what} rang: {rung:?}"))?;
                Ok((answer, begun.elapsed()))
            },
            wanted,
        )?;
        talk.text(&format!("{what} did not work"))?;
        guest.wait_message(&format!("{what} did not work"))?;
    }
    let refer = [
        format!("Refer-to: <sip:{}>", site.at("silas")),
        format!("Referred-By: <sip:{}>", odile.address),
        "Require: com.microsoft.rtc-multiparty".into(),
    ];
    quick(
        "a REFER",
        || {
            let begun = Instant::now();
            Ok((edge.inside(&talk.call, "REFER", &refer, "", "")?, begun.elapsed()))
        },
        &[420, 603],
    )?;
    // Media that come to the open session.
    quick(
        "a call in the session",
        || {
            let begun = Instant::now();
            Ok((edge.inside(&talk.call, "INVITE", &supported(), "application/sdp", audio)?, begun.elapsed()))
        },
        &[488],
    )?;
    talk.text("so we write")?;
    guest.wait_message("so we write")?;
    let more = texts(&mut guest, QUIET);
    ensure(more.is_empty(), || format!("more came: {more:?}"))
}

/// An answer with one of these statuses, in 200 ms. The machine has other things to do: the
/// best of three counts.
fn quick(what: &str, mut ask: impl FnMut() -> Outcome<(Message, Duration)>, wanted: &[u16]) -> Outcome {
    let mut took = Duration::MAX;
    for _ in 0..3 {
        let (answer, this) = ask().map_err(|why| format!("{what}: {why}"))?;
        ensure(wanted.contains(&answer.status()), || format!("{what} was answered {}", answer.first))?;
        took = took.min(this);
        if took < Duration::from_millis(200) {
            return Ok(());
        }
    }
    Err(format!("the answer to {what} took {took:?}"))
}

/// The statuses of an Edge as errors, with the id and the body of the original.
fn errors(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, _) = site.guest(PROSODY)?;
    let diagnosis = |id: u32, reason: &str| vec![format!("ms-diagnostics-public: {id};reason=\"{reason}\"")];
    let unknown = vec![
        "ms-diagnostics: 1034;reason=\"Previous hop federated peer did not report diagnostic information\";\
         Domain=\"xmpp.example\";PeerServer=\"gw\";source=\"sip.mill.example\""
            .to_string(),
        "ms-diagnostics: 1003;reason=\"User does not exist\";source=\"fe7.inner.mill.example\"".into(),
        "ms-diagnostics-public: 1003;reason=\"User does not exist\"".into(),
    ];
    let filter = vec!["Warning: 309 sip.mill.example \"Message contents not allowed by policy\"".to_string()];
    let in_session: &[(&str, u16, &'static str, Vec<String>, &str)] = &[
        ("una", 480, "Temporarily Unavailable", diagnosis(13_998, "No endpoint"), "wait recipient-unavailable"),
        ("bela", 486, "Busy Here", Vec::new(), "wait recipient-unavailable"),
        ("cleo", 600, "Busy Everywhere", Vec::new(), "wait recipient-unavailable"),
        ("dora2", 403, "Forbidden", diagnosis(1002, "From URI not authorized"), "auth forbidden"),
        ("ezra", 404, "Not Found", unknown, "cancel item-not-found"),
        ("femi", 604, "Does Not Exist Anywhere", Vec::new(), "cancel item-not-found"),
        (
            "gita",
            504,
            "Server time-out",
            diagnosis(1008, "Unable to resolve DNS SRV record"),
            "wait remote-server-timeout",
        ),
        ("hugo", 488, "Not Acceptable Here", Vec::new(), "modify not-acceptable"),
        ("ines", 500, "Server Internal Error", Vec::new(), "cancel internal-server-error|wait internal-server-error"),
        ("jens", 503, "Service Unavailable", Vec::new(), "wait resource-constraint|cancel internal-server-error"),
        (
            "kira",
            606,
            "Not Acceptable",
            filter,
            "modify policy-violation|cancel policy-violation|auth policy-violation",
        ),
    ];
    for (name, status, reason, lines, wanted) in in_session {
        edge.next("INVITE", Answer::Refuse(*status, reason, lines.clone()));
        if *status == 488 {
            // Who takes no session is sent a single MESSAGE, which clients here refuse too.
            edge.next("MESSAGE", Answer::Refuse(*status, reason, lines.clone()));
        }
        let to = site.at(name);
        let id = guest.message(&to, "refuse this")?;
        let error = guest.wait_error(&id, SOON).map_err(|why| format!("after {status}: {why}"))?;
        ensure(wanted.split('|').any(|w| w == error.error()), || format!("{status} became {}", error.error()))?;
        equal("from", error.attribute("from"), &*to)?;
        // Of a single MESSAGE no text is kept.
        let wanted = if *status == 488 { "" } else { "refuse this" };
        equal(&format!("the body after {status}"), error.text_of("body"), wanted)?;
    }
    // A filter refuses one MESSAGE; the session stays.
    let odile = edge.user("odile");
    guest.message(&odile.address, "first")?;
    let talk = edge.wait_talk(&odile, SOON)?;
    talk.wait_text(SOON)?;
    let filter = vec!["Warning: 309 sip.mill.example \"Message contents not allowed by policy\"".to_string()];
    edge.next("MESSAGE", Answer::Refuse(606, "Not Acceptable", filter));
    let id = guest.message(&odile.address, "a bad word")?;
    let error = guest.wait_error(&id, SOON)?;
    ensure(error.error().ends_with(" policy-violation"), || error.error())?;
    talk.wait_text(SOON)?;
    guest.message(&odile.address, "a good word")?;
    equal("the text", talk.wait_text(SOON)?.as_str(), "a good word")?;
    // The eleven INVITEs that were refused, and no more.
    equal("INVITEs", edge.requests("INVITE", QUIET).len(), in_session.len())
}

/// Every failure carries one public diagnosis: the player holds each answer to that, here
/// are those that nothing else draws.
fn diagnostics(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (_guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let ask = |method: &str, to: &str, extra: &[&str], kind: &str, body: &str| {
        let extra: Vec<String> = extra.iter().map(ToString::to_string).collect();
        Ok::<u16, String>(edge.ask(&odile, method, to, &extra, kind, body)?.0.status())
    };
    for (what, status, wanted) in [
        (
            "a domain that is no partner",
            ask("INVITE", "tove@nobody.example", &[], "application/sdp", &offer("null"))?,
            &[403, 404][..],
        ),
        ("a method", ask("PUBLISH", &bare, &["Event: presence"], "", "")?, &[403, 405, 501]),
        ("a REGISTER", ask("REGISTER", &bare, &[], "", "")?, &[403, 405]),
        ("an event", ask("SUBSCRIBE", &bare, &["Event: dialog", "Expires: 600"], "", "")?, &[489]),
        ("a type", ask("INVITE", &bare, &[], "application/x-nothing", "?")?, &[415, 488]),
        ("a requirement", ask("INVITE", &bare, &["Require: 100rel2"], "application/sdp", &offer("null"))?, &[420]),
    ] {
        ensure(wanted.contains(&status), || format!("{what} was answered {status}"))?;
    }
    let from_afar = User::clone(&odile);
    let stranger = from_afar.of_domain("elsewhere.example");
    let (answer, _) = edge.ask(&stranger, "INVITE", &bare, &[], "application/sdp", &offer("null"))?;
    equal("a sender of another domain", answer.status(), 403)
}

/// All that is odd on the wire at once: two connections, line ends between messages,
/// messages cut in pieces, a route of the greatest length.
fn odd_forms(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let first = edge.new_link()?;
    first.send(b"\r\n\r\n")?;
    let second = edge.new_link()?;
    second.send(b"\r\n")?;
    std::thread::sleep(Duration::from_millis(300));
    ensure(edge.line_ends() >= 1, || "no answer to a ping (RFC 5626 section 4.4.1)".into())?;
    // Two sessions on two connections: each is answered on its own, which the player checks.
    let rhea = edge.user("rhea");
    let one = open(&edge, &odile, &bare, "on the second")?;
    let third = edge.new_link()?;
    let other = open(&edge, &rhea, &bare, "on the third")?;
    guest.wait_message("on the second")?;
    guest.wait_message("on the third")?;
    second.send(b"\r\n\r\n\r\n")?;
    one.text("still there")?;
    third.send(b"\r\n")?;
    other.text("here too")?;
    guest.wait_message("still there")?;
    guest.wait_message("here too")?;
    guest.message(&odile.address, "to the one")?;
    guest.message(&rhea.address, "to the other")?;
    equal("the text", one.wait_text(SOON)?.as_str(), "to the one")?;
    equal("the text", other.wait_text(SOON)?.as_str(), "to the other")?;
    // A session goes on when its connection is gone: the gateway opens one, so do we.
    second.close();
    third.close();
    std::thread::sleep(Duration::from_millis(200));
    guest.message(&odile.address, "on a new connection")?;
    equal("the text", one.wait_text(SOON)?.as_str(), "on a new connection")?;
    one.text("from a new connection")?;
    guest.wait_message("from a new connection").map(drop)
}

fn unknown_methods(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let link = edge.new_link()?;
    // As an Edge says it: one Via without branch, no Contact, no hop left.
    let (host, at) = (site.edge_name(), site.gateway(5061));
    link.send(
        format!(
            "NEGOTIATE sip:{at} SIP/2.0\r\nVia: SIP/2.0/TLS {}\r\nCSeq: 1 NEGOTIATE\r\nCall-ID: 51c8a0d2\r\nFrom: \
             <sip:{host}>;tag=9d01\r\nTo: <sip:gw.{}>\r\nCompression: LZ77-64K\r\nSupported: \
             NewNegotiate,OCSNative,ECC,IPv6,TlsRecordSplit\r\nServer: RTC/6.0\r\nMax-Forwards: 0\r\n\
             Content-Length: 0\r\n\r\n",
            link.local,
            site.domain()
        )
        .as_bytes(),
    )?;
    let answer = edge.take_response("NEGOTIATE", SOON)?;
    ensure(answer.status() >= 300, || answer.first.clone())?;
    ensure(answer.status() != 483, || answer.first.clone())?;
    equal("the connection", answer.link, link.number)?;
    let options = edge.ask(&odile, "OPTIONS", &site.edge_name(), &["Accept: application/sdp".into()], "", "");
    let options = options.or_else(|_| edge.ask(&odile, "OPTIONS", &bare, &[], "", ""))?.0;
    ensure(options.status() >= 200, || options.first.clone())?;
    for method in ["SERVICE", "PUBLISH", "REGISTER", "PRACK", "FROBNICATE"] {
        let (answer, _) = edge.ask(&odile, method, &bare, &[], "", "")?;
        ensure(answer.status() >= 400, || format!("{method} was answered {}", answer.first))?;
    }
    ensure(!link.is_closed(), || "the connection was closed".into())?;
    open(&edge, &odile, &bare, "after all that")?;
    guest.wait_message("after all that")?;
    equal("connections", edge.links().iter().filter(|link| link.ours).count(), 1)
}

fn archiving_notice(site: &Site) -> Outcome {
    let notice = "Messages with this organisation are archived.";
    let (_latimer, edge) = site.open(PROSODY, &[&format!("message archiving-notice \"{notice}\"")])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let talk = open(&edge, &odile, &bare, "first")?;
    let came = |guest: &mut Client| -> Outcome<String> {
        let fits = |m: &Element| m.name == "message" && m.child("body").is_some();
        Ok(guest.wait("a text", fits)?.text_of("body").to_string())
    };
    let (one, two) = (came(&mut guest)?, came(&mut guest)?);
    equal("what came first", (one.as_str(), two.as_str()), (notice, "first"))?;
    talk.text("second")?;
    equal("what came then", came(&mut guest)?.as_str(), "second")?;
    talk.bye()?;
    guest.message(&odile.address, "back")?;
    let talk = edge.wait_talk(&odile, SOON)?;
    equal("what came first to the other side", talk.wait_text(SOON)?.as_str(), notice)?;
    equal("what came then", talk.wait_text(SOON)?.as_str(), "back")?;
    guest.message(&odile.address, "and again")?;
    equal("what came then", talk.wait_text(SOON)?.as_str(), "and again")
}

/// A client that takes the text in the headers as said, whatever the answer says.
fn headers_alone(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let talk = edge.invite(&odile, &bare, First { plain: TEXT, ..First::default() })?;
    guest.wait_for("the text", Duration::from_secs(15), |m| m.text_of("body") == TEXT)?;
    // It comes again, very late, as the MESSAGE of a client that was slow: still once.
    talk.text(TEXT)?;
    talk.text("something else")?;
    guest.wait_message("something else")?;
    let more = texts(&mut guest, QUIET);
    ensure(more.is_empty(), || format!("more came: {more:?}"))
}

/// CANCEL: while the INVITE waits, or too late.
fn cancelled(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let first = First { plain: "never mind", ..First::default() };
    let (branch, _) =
        edge.begin(&odile, "INVITE", &bare, &first.lines(&odile, &bare), "application/sdp", &offer("null"))?;
    let cancel = edge.cancel(&branch)?.status();
    let answer = edge.finish(&branch, SOON)?.status();
    ensure([(200, 487), (481, 200), (200, 200)].contains(&(cancel, answer)), || format!("{cancel} and {answer}"))?;
    let came = texts(&mut guest, Duration::from_secs(6));
    ensure(answer == 200 || came.is_empty(), || format!("it came: {came:?}"))
}

/// A session is kept alive by UPDATE and by INVITE (RFC 4028), and both keep the types.
fn refreshed(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let talk = open(&edge, &odile, &bare, "hello")?;
    guest.wait_message("hello")?;
    let lines = vec!["Supported: timer".to_string(), "Session-Expires: 1800;refresher=uac".into()];
    equal("UPDATE", edge.inside(&talk.call, "UPDATE", &lines, "", "")?.status(), 200)?;
    let answer = edge.inside(&talk.call, "INVITE", &lines, "application/sdp", &offer("null"))?;
    equal("INVITE", answer.status(), 200)?;
    ensure(answer.body.contains("m=message"), || answer.body.clone())?;
    talk.text("after the refresh")?;
    guest.wait_message("after the refresh")?;
    talk.bye()
}

/// Clients ring for some seconds (a delayed accept); what is written meanwhile waits, and
/// comes in order.
fn accepted_late(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, _) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    edge.next("INVITE", Answer::Hold);
    guest.message(&odile.address, "one")?;
    let invite = edge.wait_request("INVITE", SOON)?;
    for status in [(180, "Ringing"), (183, "Session Progress"), (180, "Ringing")] {
        edge.respond(&invite, &Answer::Refuse(status.0, status.1, Vec::new()))?;
    }
    guest.message(&odile.address, "two")?;
    guest.message(&odile.address, "three")?;
    std::thread::sleep(Duration::from_secs(3));
    edge.never("MESSAGE", Duration::ZERO)?;
    edge.never("INVITE", Duration::ZERO)?;
    edge.respond(&invite, &Answer::Take)?;
    let talk = edge.talk(&invite);
    for text in ["one", "two", "three"] {
        equal("the next text", talk.wait_text(SOON)?.as_str(), text)?;
    }
    let errors = texts(&mut guest, QUIET);
    ensure(errors.is_empty(), || format!("errors came: {errors:?}"))
}

/// Both sides begin at the same time: every text arrives once.
fn begun_by_both(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    edge.next("INVITE", Answer::Hold);
    guest.message(&odile.address, "from XMPP")?;
    let theirs = edge.wait_request("INVITE", SOON)?;
    let talk = open(&edge, &odile, &bare, "from SIP")?;
    guest.wait_message("from SIP")?;
    edge.respond(&theirs, &Answer::Take)?;
    let message = edge.wait_request("MESSAGE", SOON)?;
    equal("the text", message.body.as_str(), "from XMPP")?;
    talk.text("and more from SIP")?;
    guest.wait_message("and more from SIP")?;
    guest.message(&odile.address, "and more from XMPP")?;
    let message = edge.wait_request("MESSAGE", SOON)?;
    equal("the text", message.body.as_str(), "and more from XMPP")?;
    edge.never("MESSAGE", QUIET)?;
    let more = texts(&mut guest, QUIET);
    ensure(more.is_empty(), || format!("more came: {more:?}"))
}

/// A session in which nobody writes is ended by the gateway, and the next text opens one.
fn idle(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &["sip domain DOMAIN session-idle 10"])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let talk = open(&edge, &odile, &bare, "good night")?;
    guest.wait_message("good night")?;
    let bye = edge.wait_request("BYE", Duration::from_secs(20))?;
    equal("the session that ended", bye.field("call-id"), talk.call.as_str())?;
    guest.message(&odile.address, "good morning")?;
    let again = edge.wait_talk(&odile, SOON)?;
    equal("the text", again.wait_text(SOON)?.as_str(), "good morning")
}
