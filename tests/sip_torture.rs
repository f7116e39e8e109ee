//! The torture messages in `tests/corpus/torture`: what the parser makes of each, and
//! that no cut of a stream changes it.

use latimer::sip::framer::{CRLF_OCTETS, Frame, Framer, datagram};
use latimer::sip::message::Message;
use std::path::Path;

/// One line of `verdicts.tsv`.
struct Case {
    name: String,
    is_stream: bool,
    verdict: String,
    octets: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/torture");
    let table = std::fs::read_to_string(folder.join("verdicts.tsv")).expect("the table of verdicts");
    let rows = table.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let cases: Vec<_> = rows
        .map(|row| {
            let columns: Vec<_> = row.split('\t').collect();
            let [name, _, lane, verdict, ..] = columns[..] else { panic!("a short row: {row}") };
            let octets = std::fs::read(folder.join(format!("{name}.sip"))).expect(name);
            Case { name: name.into(), is_stream: lane == "tcp", verdict: verdict.into(), octets }
        })
        .collect();
    assert_eq!(cases.len(), 71);
    cases
}

/// What the parser says: "wait", "ok", "response" or the fault.
fn judge(octets: &[u8], is_stream: bool) -> String {
    let mut octets = octets.to_vec();
    let (skip, head, len) = if is_stream {
        match Framer::default().next(&octets) {
            Frame::Message { head, len } => (0, head, len),
            Frame::Partial => return "wait".into(),
            Frame::Broken { fault, .. } => return fault.to_string(),
            Frame::Ping | Frame::Pong => panic!("a message was taken for a keep-alive"),
        }
    } else {
        match datagram(&octets) {
            Ok(place) => place,
            Err((fault, ..)) => return fault.to_string(),
        }
    };
    match Message::parse(&mut octets[skip..skip + len], head) {
        Ok(message) if message.is_request() => "ok".into(),
        Ok(_) => "response".into(),
        Err(malformed) => malformed.fault.to_string(),
    }
}

#[test]
fn every_message_gets_its_verdict() {
    for case in cases() {
        let judged = judge(&case.octets, case.is_stream);
        let is_response = case.octets.starts_with(b"SIP/");
        let is_right = match case.verdict.as_str() {
            "ok" if is_response => judged == "response",
            "ok" => judged == "ok",
            "wait" => judged == "wait",
            "reject" => !["ok", "wait", "response"].contains(&judged.as_str()),
            "either" => judged != "wait",
            // What is no response is refused; what is one matches no request.
            "ignore" => is_response && judged != "ok",
            other => panic!("{}: unknown verdict {other}", case.name),
        };
        assert!(is_right, "{}: {judged}, not {}", case.name, case.verdict);
    }
}

/// What a stream yields when its octets come in these pieces: frames, and the
/// messages between them, as they are after parsing.
fn play(octets: &[u8], cuts: &[usize]) -> Vec<(Frame, Vec<u8>)> {
    let (mut framer, mut used, mut found) = (Framer::default(), 0, Vec::new());
    for &cut in cuts.iter().chain(&[octets.len()]) {
        loop {
            let frame = framer.next(&octets[used..cut]);
            let len = match frame {
                Frame::Partial => break,
                Frame::Ping | Frame::Pong => CRLF_OCTETS,
                Frame::Message { len, .. } => len,
                Frame::Broken { .. } => {
                    found.push((frame, Vec::new()));
                    return found;
                }
            };
            found.push((frame, octets[used..used + len].to_vec()));
            used += len;
        }
    }
    found
}

#[test]
fn a_stream_means_the_same_wherever_it_is_cut() {
    for case in cases() {
        let mut octets = case.octets.clone();
        octets.extend_from_slice(b"\r\n\r\n");
        octets.extend_from_slice(&case.octets);
        let whole = play(&octets, &[]);
        // The longest message has places enough; every seventh will do.
        let step = if octets.len() > 5000 { 7 } else { 1 };
        for cut in (0..octets.len()).step_by(step) {
            assert_eq!(play(&octets, &[cut]), whole, "{} cut at {cut}", case.name);
        }
        let every: Vec<_> = (0..octets.len()).collect();
        assert_eq!(play(&octets, &every), whole, "{} octet by octet", case.name);
    }
}

#[test]
fn a_datagram_and_a_stream_agree_where_the_length_is_told() {
    for case in cases() {
        let (Frame::Message { head, len }, Ok((0, datagram_head, datagram_len))) =
            (Framer::default().next(&case.octets), datagram(&case.octets))
        else {
            continue;
        };
        assert_eq!((head, len), (datagram_head, datagram_len), "{}", case.name);
        assert_eq!(judge(&case.octets, true), judge(&case.octets, false), "{}", case.name);
    }
}
