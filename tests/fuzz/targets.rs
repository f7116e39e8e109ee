//! The fuzz targets: functions that take any octets and hold what is true of all of
//! them. No panic; what is emitted parses to the same; octets cut anywhere give what
//! they give in one piece; what we take for well-formed a second reader takes, too.

use crate::neighbours::{Names, Neighbours};
use crate::peers;
use base64ct::{Base64, Encoding as _};
use latimer::appliance::{config, slots};
use latimer::base::journal;
use latimer::base::net::Transport;
use latimer::base::outbox::Outbox;
use latimer::base::rng::Rng;
use latimer::base::time::Wall;
use latimer::base::xml::{Bindings, Limits, Node, Tree};
use latimer::dns::message::{self as dns, Kind, Question, Records, Reply};
use latimer::gateway::presence::format::{self, Format};
use latimer::gateway::presence::{document, state::Resource};
use latimer::gateway::{address, content};
use latimer::settings::{Dialect, NextHopTransport};
use latimer::sip::header::{CSeq, MediaType, NameAddr, Via, split_list};
use latimer::sip::message::Message;
use latimer::sip::{framer as sip_framer, pidf, sdp, uri};
use latimer::xmpp::framer as xmpp_framer;
use latimer::xmpp::jid::Jid;
use latimer::xmpp::stanza::Stanza;

/// A name and what it does with octets.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: &[Target] = &[
    ("sip-message", sip_message),
    ("sip-uri", sip_uri),
    ("sip-header", sip_header),
    ("sip-framer", sip_stream),
    ("xmpp-framer", xmpp_stream),
    ("stanza", stanza),
    ("jid", jid),
    ("address", mapped_address),
    ("dns", dns_answer),
    ("config-text", config_text),
    ("config-file", config_file),
    ("journal", contacts_journal),
    ("content", message_content),
    ("html", html),
    ("rtf", rtf),
    ("xhtml", xhtml),
    ("first-message", first_message),
    ("typing", typing),
    ("pidf", presence_document),
    ("msrtc", microsoft_presence),
    ("xpidf", old_presence),
    ("gateway", gateway),
    ("sdp", session_description),
    ("session", session),
];

/// Longer inputs show nothing that shorter ones do not.
const OCTETS_MAX: usize = 8 * 1024;

fn text(data: &[u8]) -> Option<&str> {
    core::str::from_utf8(data.get(..data.len().min(OCTETS_MAX))?).ok()
}

/// What an emitter writes.
fn emitted(write: impl FnOnce(&mut latimer::base::outbox::Writer<'_>)) -> String {
    let mut out = Outbox::with_capacity(256, 1);
    let mut w = out.begin();
    write(&mut w);
    let span = w.finish();
    String::from_utf8(out.bytes(&span).to_vec()).expect("what is emitted is UTF-8")
}

// ---- SIP

/// All that a message says, to be compared.
type Said = (String, Vec<(String, String)>, Vec<u8>);

fn said(message: &Message<'_>) -> Said {
    let fields = message.fields().map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_string())).collect();
    (format!("{:?}", message.start_line()), fields, message.body().to_vec())
}

fn parse_datagram(octets: &mut [u8]) -> Option<Said> {
    let (skip, head, len) = sip_framer::datagram(octets).ok()?;
    let octets = octets.get_mut(skip..skip + len).expect("the framer stays within the datagram");
    match Message::parse(octets, head) {
        Ok(message) => {
            touch(&message);
            Some(said(&message))
        }
        Err(malformed) => {
            // What is left of it is read to answer it.
            let _ = (malformed.is_response(), malformed.is_unanswered(), malformed.fields().count());
            None
        }
    }
}

/// Asks a message all there is to ask.
fn touch(message: &Message<'_>) {
    let _ = (message.method(), message.uri(), message.status(), message.reason(), message.max_forwards());
    let _ = (message.contact(), message.content_type(), message.expires(), message.retry_after());
    let _ = (message.call_id(), message.cseq(), message.from().uri(), message.to().uri());
    for via in message.vias() {
        let via = Via::parse(via).expect("a checked message has good Via values");
        let _ = (via.branch(), via.rport(), via.received());
    }
    for name in ["Accept", "Require", "Route", "Contact", "Allow"] {
        assert!(message.headers(name).count() < 10_000);
    }
}

fn sip_message(data: &[u8]) {
    let data = &data[..data.len().min(OCTETS_MAX)];
    let Some(first) = parse_datagram(&mut data.to_vec()) else { return };
    // Written anew, one line a field, it says the same.
    let blanks = data.iter().take_while(|octet| matches!(octet, b'\r' | b'\n')).count();
    let mut again: Vec<u8> = data[blanks..].iter().take_while(|octet| **octet != b'\r').copied().collect();
    again.extend_from_slice(b"\r\n");
    for (name, value) in &first.1 {
        again.extend_from_slice(name.as_bytes());
        again.extend_from_slice(b": ");
        again.extend_from_slice(value.as_bytes());
        again.extend_from_slice(b"\r\n");
    }
    again.extend_from_slice(b"\r\n");
    again.extend_from_slice(&first.2);
    let second = parse_datagram(&mut again);
    assert_eq!(Some(first), second, "{}", String::from_utf8_lossy(&again));
}

fn sip_uri(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok(first) = uri::Uri::parse(text) else { return };
    let written = emitted(|w| first.emit(w));
    let second = uri::Uri::parse(&written).unwrap_or_else(|fault| panic!("{written:?}: {fault:?}"));
    assert_eq!(emitted(|w| second.emit(w)), written);
    assert!(first.is_same_as(&first) || first.params.as_str().contains('='), "{text:?} is not itself");
}

fn sip_header(data: &[u8]) {
    let Some(text) = text(data) else { return };
    for value in split_list(text) {
        if let Some(address) = NameAddr::parse(value) {
            let _ = (address.uri(), address.tag, address.display);
        }
        if let Some(via) = Via::parse(value) {
            let _ = (via.branch(), via.rport(), via.received());
        }
        if let Some(media) = MediaType::parse(value) {
            let _ = media.is("text", "plain");
        }
    }
    let _ = CSeq::parse(text);
    let _ = content::date::parse_sip(text);
    let _ = content::date::parse_stamp(text);
    let mut safe = String::new();
    content::header_text(text, 200, &mut safe);
    assert!(!safe.contains(['\r', '\n', '\0']), "{safe:?}");
}

/// What a stream framer found: what it was and its octets.
fn sip_pieces(data: &[u8], step: usize) -> Vec<(String, Vec<u8>)> {
    let (mut framer, mut all, mut start, mut end) = (sip_framer::Framer::default(), Vec::new(), 0, 0);
    loop {
        let frame = framer.next(&data[start..end]);
        let used = match frame {
            sip_framer::Frame::Partial if end == data.len() => return all,
            sip_framer::Frame::Partial => {
                end = data.len().min(end + step);
                continue;
            }
            sip_framer::Frame::Pong | sip_framer::Frame::Ping => sip_framer::CRLF_OCTETS,
            sip_framer::Frame::Message { len, .. } => len,
            sip_framer::Frame::Broken { fault, .. } => {
                all.push((format!("{fault:?}"), Vec::new()));
                return all;
            }
        };
        let piece = data[start..end].get(..used).expect("a frame is whole").to_vec();
        all.push((format!("{frame:?}"), piece));
        start += used;
    }
}

fn sip_stream(data: &[u8]) {
    let data = &data[..data.len().min(OCTETS_MAX)];
    let whole = sip_pieces(data, usize::MAX / 2);
    for step in [1, 2, 7, 100] {
        assert_eq!(whole, sip_pieces(data, step), "in steps of {step}");
    }
}

// ---- XMPP

fn xmpp_pieces(data: &[u8], step: usize) -> Vec<(String, Vec<u8>)> {
    use xmpp_framer::Item;
    let (mut framer, mut all, mut start, mut end) = (xmpp_framer::Framer::new(), Vec::<(String, Vec<u8>)>::new(), 0, 0);
    loop {
        let item = match framer.next(&data[start..end]) {
            Ok(item) => item,
            Err(fault) => {
                all.push((format!("{fault:?}"), Vec::new()));
                return all;
            }
        };
        let (kind, used) = match item {
            Item::Incomplete if end == data.len() => return all,
            Item::Incomplete => {
                end = data.len().min(end + step);
                continue;
            }
            // Blanks come in as many pieces as they are cut into.
            Item::Whitespace(used) => ("blank", used),
            Item::Declaration(used) => ("declaration", used),
            Item::Header(used) => ("header", used),
            Item::Element(used) => ("element", used),
            Item::End(used) => ("end", used),
        };
        assert!(used > 0, "a piece of no octets");
        let piece = data[start..end].get(..used).expect("a piece is whole");
        match all.last_mut() {
            Some((last, octets)) if last == "blank" && kind == "blank" => octets.extend_from_slice(piece),
            _ => all.push((kind.into(), piece.to_vec())),
        }
        start += used;
    }
}

fn xmpp_stream(data: &[u8]) {
    let data = &data[..data.len().min(OCTETS_MAX)];
    let whole = xmpp_pieces(data, usize::MAX / 2);
    for step in [1, 3, 50] {
        assert_eq!(whole, xmpp_pieces(data, step), "in steps of {step}");
    }
    let mut tree = Tree::new();
    for (kind, octets) in &whole {
        if kind == "header" {
            let _ = xmpp_framer::StreamHeader::parse(octets, peers::SERVER, &mut tree);
        }
    }
}

/// The same element as another reader would have it.
fn as_element(node: Node<'_>) -> peers::Element {
    let mut attributes: Vec<(String, String, String)> =
        node.attributes().map(|(name, ns, value)| (ns.into(), name.into(), value.into())).collect();
    attributes.sort();
    peers::Element {
        namespace: node.namespace().into(),
        name: node.name().into(),
        attributes,
        children: node
            .contents()
            .map(|content| match content {
                latimer::base::xml::Content::Text(text) => peers::Node::Text(text.to_string()),
                latimer::base::xml::Content::Element(child) => peers::Node::Element(as_element(child)),
            })
            .collect(),
    }
}

fn sorted(mut element: peers::Element) -> peers::Element {
    element.attributes.sort();
    element.children = element
        .children
        .into_iter()
        .map(|node| match node {
            peers::Node::Element(child) => peers::Node::Element(sorted(child)),
            text => text,
        })
        .collect();
    element
}

fn stanza(data: &[u8]) {
    let data = &data[..data.len().min(OCTETS_MAX)];
    let (mut tree, mut other) = (Tree::new(), Tree::new());
    let bindings = Bindings::with_default(peers::SERVER);
    let Ok(node) = tree.parse(data, &bindings, Limits::STANZA) else { return };
    let ours = as_element(node);
    let source = core::str::from_utf8(data).expect("what was accepted is UTF-8");
    // The other reader stumbles over a bare CR in an attribute, which XML 1.0 section
    // 3.3.3 makes a blank, and over character references of many digits.
    let long = source.split("&#").skip(1).any(|rest| rest.find(';').is_none_or(|end| end > 8));
    if !data.contains(&b'\r') && !long {
        let theirs = peers::parse_element(source, peers::SERVER)
            .unwrap_or_else(|problem| panic!("accepted {source:?}, a strict reader says: {problem}"));
        assert_eq!(ours, sorted(theirs), "read differently: {source:?}");
    }
    let written = emitted(|w| node.emit(w, peers::SERVER));
    let again = other.parse(written.as_bytes(), &bindings, Limits { octets: usize::MAX, ..Limits::STANZA });
    match again {
        Ok(again) => assert_eq!(ours, as_element(again), "emitted differently: {written:?}"),
        // Declarations take the place of attributes; there may be too many of them then.
        Err(error) => assert_eq!(error.kind, latimer::base::xml::XmlErrorKind::TooMuch, "{written:?}"),
    }
    if let Ok(stanza) = Stanza::parse(node, peers::SERVER, None) {
        let _ = (stanza.is_error(), stanza.is_request(), stanza.is_bad_request(), stanza.may_answer());
        let answer = emitted(|w| stanza.emit_result(w));
        peers::parse_element(&answer, peers::SERVER).unwrap_or_else(|problem| panic!("{answer:?}: {problem}"));
    }
}

fn jid(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok(first) = Jid::parse(text) else { return };
    let second = Jid::parse(first.as_str()).unwrap_or_else(|fault| panic!("{:?}: {fault:?}", first.as_str()));
    assert_eq!(first, second, "{text:?} is not prepared");
    assert_eq!(Jid::new(first.local(), first.domain(), first.resource()).as_ref(), Ok(&first));
    assert!(!first.as_str().contains(|c: char| c.is_control()), "{first:?}");
}

/// Addresses lead back to where they came from, or are refused.
fn mapped_address(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let (mut there, mut back, mut again) = (String::new(), String::new(), String::new());
    if address::to_jid(text, None, &mut there).is_ok() {
        let prepared = Jid::parse(&there).unwrap_or_else(|fault| panic!("{text:?} -> {there:?}: {fault:?}"));
        assert_eq!(prepared.as_str(), there, "{text:?} gives an address that is not prepared");
        if address::to_sip(prepared.local(), prepared.domain(), prepared.resource(), &mut back).is_ok() {
            uri::Uri::parse(&back).unwrap_or_else(|fault| panic!("{there:?} -> {back:?}: {fault:?}"));
            address::to_jid(&back, None, &mut again).unwrap_or_else(|fault| panic!("{back:?}: {fault:?}"));
            assert_eq!(there, again, "through {back:?}");
        }
    }
    if let Ok(prepared) = Jid::parse(text)
        && address::to_sip(prepared.local(), prepared.domain(), prepared.resource(), &mut there).is_ok()
        && address::to_jid(&there, None, &mut back).is_ok()
    {
        // `a\\5cb` is another spelling of `a\\b` (XEP-0106 section 4.2): one SIP address.
        let prepared = Jid::parse(&back).unwrap_or_else(|fault| panic!("{back:?}: {fault:?}"));
        let result = address::to_sip(prepared.local(), prepared.domain(), prepared.resource(), &mut again);
        assert_eq!((result, &there), (Ok(()), &again), "through {back:?}");
    }
    let _ = address::uri_to_sip(text, &mut there);
    let _ = address::sip_to_xmpp_uri(text, &mut there);
}

// ---- DNS

/// The first octet says what was asked; the rest is the answer behind the id: flags and
/// counts, then, behind the question, the records.
fn dns_answer(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let kind = [Kind::A, Kind::Aaaa, Kind::Srv, Kind::Naptr][usize::from(kind % 4)];
    let question = Question::new("_x._tcp.chat.example", kind, &mut Rng::from_number(1)).expect("a name");
    let raw = [&question.octets[..2], data].concat();
    let _ = dns::parse(&raw, &question, false);
    let (head, records) = data.split_at(data.len().min(10));
    let whole = [&question.octets[..2], head, &question.octets[12..], records].concat();
    let Ok(Reply::Records(records, _)) = dns::parse(&whole, &question, true) else { return };
    let names: Vec<&String> = match &records {
        Records::Addresses(all) => {
            assert!(!all.is_empty(), "records that are none");
            Vec::new()
        }
        Records::Srv(all) => all.iter().map(|record| &record.target).collect(),
        Records::Naptr(all) => all.iter().map(|record| &record.replacement).collect(),
    };
    for name in names {
        assert!(name.len() <= 255 && !name.contains(|c: char| c.is_ascii_control() || c == ' '), "{name:?}");
    }
}

// ---- Configuration

fn config_text(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok((first, _)) = config::load(text) else { return };
    let shown = config::show(&first, config::Secrets::Shown);
    let (second, _) = config::load(&shown).unwrap_or_else(|errors| panic!("{shown}\n{errors:?}"));
    assert_eq!(shown, config::show(&second, config::Secrets::Shown));
    assert_eq!(first, second, "{shown}");
    let (place, octets) = slots::write_next(&[], &first);
    assert_eq!(place, 0);
    let chosen = slots::choose(&octets).unwrap_or_else(|error| panic!("{shown}\n{error}"));
    assert_eq!(chosen.config, first);
}

fn config_file(data: &[u8]) {
    if let Ok(chosen) = slots::choose(data) {
        let shown = config::show(&chosen.config, config::Secrets::Shown);
        config::load(&shown).unwrap_or_else(|errors| panic!("{shown}\n{errors:?}"));
    }
}

/// A whole file of these records.
fn journal_of<'a>(generation: u64, snapshot: usize, records: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut writer = journal::Writer::new(generation);
    let mut before = snapshot;
    for record in records {
        if before == 0 {
            writer.complete();
        }
        before = before.wrapping_sub(1);
        assert!(writer.record(record), "it is no larger than what was read");
    }
    if before == 0 {
        writer.complete();
    }
    writer.pending().to_vec()
}

fn contacts_journal(data: &[u8]) {
    if let Ok(found) = journal::read(data) {
        let records = found.records.iter().map(|at| &data[at.clone()]);
        let again = journal_of(found.generation, found.snapshot_records, records);
        assert_eq!(again, data[..found.octets]);
        assert_eq!(journal::read(&again), Ok(journal::Journal { loss: None, ..found }));
    }
    // Few inputs have a good check, so one is made of each: its lines are the records. A
    // good one that is changed gives the first of them, or none.
    let data = &data[..data.len().min(OCTETS_MAX)];
    let records: Vec<&[u8]> = data.split(|octet| *octet == b'\n').collect();
    let snapshot = data.len() % (records.len() + 1);
    let whole = journal_of(u64::from(data.len() as u32), snapshot, records.iter().copied());
    let found = journal::read(&whole).expect("it was just made");
    assert!(found.loss.is_none() && found.records.iter().map(|at| &whole[at.clone()]).eq(records.iter().copied()));
    let at = data.iter().fold(7_usize, |sum, octet| sum.wrapping_mul(31).wrapping_add(usize::from(*octet)));
    let mut changed = whole.clone();
    let place = at % changed.len();
    changed[place] ^= 1 + (at % 255) as u8;
    for rotten in [&changed[..], &whole[..place]] {
        let Ok(found) = journal::read(rotten) else { continue };
        let count = found.records.len();
        assert!(place >= found.octets && count < records.len() + 1);
        assert!(found.records.iter().map(|at| &rotten[at.clone()]).eq(records[..count].iter().copied()));
    }
}

// ---- Content

/// The first line is the Content-Type, the rest the body.
fn message_content(data: &[u8]) {
    let data = &data[..data.len().min(OCTETS_MAX)];
    let end = data.iter().position(|octet| *octet == b'\n').unwrap_or(data.len());
    let Ok(content_type) = core::str::from_utf8(&data[..end]) else { return };
    read_body(content_type.trim_end(), data.get(end + 1..).unwrap_or_default());
}

/// Reads a body and holds what came of it to what a stanza may carry.
fn read_body(content_type: &str, octets: &[u8]) {
    let body = content::Body { content_type: Some(content_type), octets, ..content::Body::default() };
    let mut out = content::Text::default();
    if content::read(&body, &mut out).is_ok() {
        fits_a_stanza(&out);
    }
}

fn html(data: &[u8]) {
    read_body("text/html;charset=utf-8", &data[..data.len().min(OCTETS_MAX)]);
}

fn rtf(data: &[u8]) {
    let data = &data[..data.len().min(OCTETS_MAX)];
    read_body("text/rtf", data);
    // Few inputs begin as RTF has to.
    read_body("application/rtf", &[b"{\\rtf1\\ansi ", data].concat());
}

/// What a client of XMPP may write as markup is harmless HTML for a SIP side, or none.
fn xhtml(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let document = format!(
        "<html xmlns='http://jabber.org/protocol/xhtml-im'><body xmlns='http://www.w3.org/1999/xhtml'>{text}</body></html>"
    );
    let mut tree = Tree::new();
    let Ok(node) = tree.parse_document(document.as_bytes(), Limits::STANZA) else { return };
    let mut html = String::new();
    let found = content::html_of(node, &mut html);
    assert_eq!(found, !html.is_empty());
    let body = content::text_of_xhtml(node).unwrap_or_default();
    fits_a_stanza(&content::Text { body, xhtml: html, ..content::Text::default() });
}

/// The first line is `ms-text-format`, the others are values of `ms-im-format`. Behind an
/// `=` at its start a line is not encoded yet.
fn first_message(data: &[u8]) {
    let data = &data[..data.len().min(OCTETS_MAX)];
    let values: Vec<String> = data
        .split(|octet| *octet == b'\n')
        .filter_map(|line| match line {
            [b'=', kind, rest @ ..] => {
                let kind = ["plain", "html", "rtf", "plain; charset=utf-16"][usize::from(kind % 4)];
                Some(format!("text/{kind}; ms-body={}", Base64::encode_string(rest)))
            }
            line => core::str::from_utf8(line).ok().map(str::to_owned),
        })
        .collect();
    let mut values = values.iter().map(String::as_str);
    let mut out = content::Text::default();
    let text_format = values.next();
    match content::read_first(text_format, values, &mut out) {
        Ok(found) => {
            assert_eq!(found, !out.body.is_empty());
            fits_a_stanza(&out);
        }
        Err(why) => assert!(out.body.is_empty() && why.status() >= 400),
    }
}

/// Both documents that say who types.
fn typing(data: &[u8]) {
    let data = &data[..data.len().min(OCTETS_MAX)];
    if let Some(found) = content::read_keyboard(data) {
        assert_eq!(content::read_keyboard(content::keyboard_document(found.active).as_bytes()), Some(found));
    }
    let read = |octets: &[u8]| {
        let mut out = content::Text::default();
        let body = content::Body { content_type: Some(content::COMPOSING_TYPE), octets, ..content::Body::default() };
        content::read(&body, &mut out)
    };
    if let Ok(content::Content::Composing(found)) = read(data) {
        let found = content::Typing { refresh_s: found.refresh_s.filter(|_| found.active), ..found };
        let mut document = String::new();
        content::composing_document(found, &mut document);
        assert_eq!(read(document.as_bytes()), Ok(content::Content::Composing(found)), "{document}");
    }
}

fn fits_a_stanza(out: &content::Text) {
    let stanza = format!(
        "<message><subject>{}</subject><body>{}</body><html xmlns='http://jabber.org/protocol/xhtml-im'>\
         <body xmlns='http://www.w3.org/1999/xhtml'>{}</body></html></message>",
        emitted(|w| latimer::base::xml::emit_text(w, &out.subject)),
        emitted(|w| latimer::base::xml::emit_text(w, &out.body)),
        out.xhtml
    );
    let element = peers::parse_element(&stanza, peers::SERVER).unwrap_or_else(|problem| panic!("{stanza}: {problem}"));
    if let Some(html) = element.child("html") {
        harmless(html);
    }
}

fn harmless(element: &peers::Element) {
    assert!(!matches!(&*element.name, "script" | "object" | "iframe" | "form"), "<{}> is left", element.name);
    for (_, name, value) in &element.attributes {
        let value = value.to_ascii_lowercase();
        // A word of that name in a value, such as that of a font, places nothing.
        let is_placed =
            name == "style" && value.split(';').any(|declaration| declaration.trim().starts_with("position"));
        let bad = name.starts_with("on") || value.trim_start().starts_with("javascript:") || is_placed;
        assert!(!bad || matches!(&**name, "alt" | "title"), "{name}={value:?} is left");
    }
    element.elements().for_each(harmless);
}

// ---- Presence

/// A presence document about Marta. What is read of it is written for both sides, and
/// read again as the same.
fn presence_document(data: &[u8]) {
    let data = &data[..data.len().min(OCTETS_MAX)];
    let contact = Jid::parse("marta@voip.example").expect("an address");
    let mut tree = Tree::new();
    if let Ok(document) = pidf::Document::parse(data, &mut tree) {
        assert!(document.tuples().count() <= latimer::limits::PIDF_TUPLES_MAX);
        for tuple in document.tuples() {
            let _ =
                (tuple.timestamp(), document.user_input(tuple), document.activities(tuple).map(|a| a.names().count()));
        }
    }
    for language in [None, Some("de")] {
        let read = |octets: &[u8], tree: &mut Tree| {
            document::from_pidf(pidf::CONTENT_TYPE, octets, &contact, language, tree).map(|read| read.said)
        };
        let Ok(resources) = read(data, &mut tree) else { return };
        let written = emitted(|w| document::to_pidf(w, &contact, resources.iter()));
        peers::parse_element(&written, peers::SERVER).unwrap_or_else(|problem| panic!("{written}: {problem}"));
        let again = read(written.as_bytes(), &mut tree).unwrap_or_else(|fault| panic!("{written}: {fault:?}"));
        // SIP is not told how long somebody was idle, what he is called nor when that was so,
        // and a large document loses notes.
        let is_short = written.len() < latimer::limits::PIDF_OCTETS_MAX / 2;
        let kept = |resource: &Resource| {
            let statuses = if is_short { resource.statuses.clone() } else { Box::default() };
            let mut kept = Resource { statuses, stamp_s: 0, ..resource.clone() };
            kept.change_more(|more| (more.idle_since, more.nick) = (None, None));
            kept
        };
        let (before, after): (Vec<_>, Vec<_>) =
            (resources.iter().map(kept).collect(), again.iter().map(kept).collect());
        assert_eq!(before, after, "{written}");
        for resource in &resources {
            stanza_says(resource, &mut tree);
        }
    }
}

/// Documents of categories and of 2005.
fn microsoft_presence(data: &[u8]) {
    presence_of(data, &[Format::Categories, Format::Presentity]);
}

/// Documents of before PIDF.
fn old_presence(data: &[u8]) {
    presence_of(data, &[Format::Xpidf]);
}

/// What is read is a stanza, and what is written of it to a watcher is read as the same
/// by whoever reads documents of any kind.
fn presence_of(data: &[u8], formats: &[Format]) {
    let data = &data[..data.len().min(OCTETS_MAX)];
    let contact = Jid::parse("marta@voip.example").expect("an address");
    let mut tree = Tree::new();
    for format in formats {
        let Ok(told) = format::read(*format, data, &contact, None, &mut tree) else { continue };
        let mut known = Vec::new();
        if !told.clone().apply(&mut known) {
            assert!(known.is_empty());
            continue;
        }
        let again = &mut known.clone();
        assert!(told.apply(again) && *again == known, "told twice it says the same");
        for resource in &known {
            let written =
                emitted(|w| document::to_stanza(w, "marta@voip.example", "lena@chat.example", resource, true, |_| {}));
            peers::parse_element(&written, peers::SERVER).unwrap_or_else(|problem| panic!("{written}: {problem}"));
        }
        for other in [Format::Pidf, Format::Categories, Format::Presentity, Format::Xpidf] {
            let written = emitted(|w| format::write_for_lync(w, other, &contact, &known, Wall(0)));
            let mut again = Vec::new();
            let told = format::read(other, written.as_bytes(), &contact, None, &mut tree);
            assert!(told.is_ok_and(|told| told.apply(&mut again)), "{written}");
            let is_there = |all: &[Resource]| all.iter().any(|resource| resource.is_available);
            assert_eq!(is_there(&known), is_there(&again), "{written}");
        }
    }
}

fn stanza_says(resource: &Resource, tree: &mut Tree) {
    let written =
        emitted(|w| document::to_stanza(w, "marta@voip.example", "lena@chat.example", resource, true, |_| {}));
    peers::parse_element(&written, peers::SERVER).unwrap_or_else(|problem| panic!("{written}: {problem}"));
    let node = tree.parse(written.as_bytes(), &Bindings::with_default(peers::SERVER), Limits::STANZA);
    let node = node.unwrap_or_else(|error| panic!("{written}: {error}"));
    let stanza = Stanza::parse(node, peers::SERVER, None).unwrap_or_else(|bad| panic!("{written}: {bad:?}"));
    let expected = Resource { stamp_s: 0, ..resource.clone() };
    assert_eq!(document::from_stanza(&stanza), expected, "{written}");
}

// ---- The gateway

/// The octets are orders: send this, wait, close, cut. Whatever comes in, what goes out
/// is SIP and XML.
fn gateway(data: &[u8]) {
    let names = Names {
        gateway: "gw.edge.example".into(),
        xmpp: vec!["chat.example".into()],
        sip: vec!["voip.example".into()],
        proxy: "proxy.voip.example".into(),
        transport: NextHopTransport::Tcp,
        strangers: vec!["far.example".into()],
    };
    let settings = names.settings();
    let mut n = Neighbours::new(names, settings, 7);
    let orders = data[..data.len().min(OCTETS_MAX)].split(|octet| *octet == 0xff).take(40);
    for order in orders {
        let Some((kind, rest)) = order.split_first() else { continue };
        match kind % 12 {
            0 | 1 => n.send_request(Transport::Udp, None, rest),
            2 | 3 => n.send_request(Transport::Tcp, None, rest),
            4 => n.send_request(Transport::Tls, Some("else.example"), rest),
            5..=7 => {
                if let Ok(stanza) = core::str::from_utf8(rest) {
                    let _ = n.send_stanza("chat.example", "voip.example", stanza);
                }
            }
            8 => {
                n.send_raw_stream(rest);
            }
            9 => n.advance(u64::from(rest.first().copied().unwrap_or(0)) * 700),
            10 => n.answer_all(200 + 25 * u16::from(rest.first().copied().unwrap_or(0) % 20)),
            _ => n.break_all(rest.first().copied().unwrap_or(0)),
        }
    }
    n.advance(120_000);
    let broken: Vec<&String> = n.faults.iter().filter(|fault| fault.starts_with("not ")).collect();
    assert!(broken.is_empty(), "{broken:?}");
}

// ---- Sessions

/// A description, and our answer to it: as many media in the same places, at most one taken.
fn session_description(data: &[u8]) {
    let Some(offer) = sdp::read(data) else { return };
    let side =
        sdp::Side { host: "gw.edge.example", session: 7, format: "sip:lena@chat.example", accept_types: "text/plain" };
    let answer = side.answer(&offer);
    assert_eq!(answer.is_some(), offer.iter().any(sdp::Media::is_instant_messages));
    let Some(answer) = answer else { return };
    assert!(answer.len() < 512 + offer.len() * 128, "{answer}");
    let read = sdp::read(answer.as_bytes()).unwrap_or_else(|| panic!("our answer is none: {answer:?}"));
    assert_eq!(read.len(), offer.len(), "{answer:?}");
    assert_eq!(read.iter().filter(|media| media.port != "0").count(), 1, "{answer:?}");
    for (asked, answered) in offer.iter().zip(&read) {
        assert!(asked.kind == answered.kind && asked.protocol.eq_ignore_ascii_case(answered.protocol), "{answer:?}");
    }
}

const INVITE: &str = "INVITE sip:lena@chat.example SIP/2.0\r\n\
    Via: SIP/2.0/TCP proxy.voip.example;branch=z9hG4bKopen\r\nRecord-Route: <sip:edge.voip.example;lr>\r\n\
    Max-Forwards: 70\r\nFrom: <sip:marta@voip.example>;tag=m\r\nTo: <sip:lena@chat.example>\r\nCall-ID: s\r\n\
    CSeq: 1 INVITE\r\nContact: <sip:marta@voip.example;gr=desk>\r\nAllow: INVITE, BYE, MESSAGE, INFO, UPDATE\r\n\
    Supported: timer\r\nms-text-format: text/plain; ms-body=SGFsbG8=\r\nContent-Type: application/sdp\r\n\
    Content-Length: 55\r\n\r\nv=0\r\nm=message 1 sip null\r\na=accept-types:text/plain *\r\n\r\n";

/// A gateway with an open session, and what its two sides then send; in requests `$T` stands
/// for our tag in it and `$U` for our Contact. In the end everything is over.
fn session(data: &[u8]) {
    let names = Names {
        gateway: "gw.edge.example".into(),
        xmpp: vec!["chat.example".into()],
        sip: vec!["voip.example".into()],
        proxy: "proxy.voip.example".into(),
        transport: NextHopTransport::Tcp,
        strangers: Vec::new(),
    };
    let mut settings = names.settings();
    for domain in &mut settings.sip_domains {
        (domain.dialect, domain.session_idle_s, domain.rate) = (Dialect::Lync, 60, None);
    }
    let mut n = Neighbours::new(names, settings, 7);
    n.send_request(Transport::Tcp, None, INVITE.as_bytes());
    let accepted = n.sip.pop_front().expect("an answer").message;
    assert_eq!(accepted.status(), Some(200));
    let of = |name: &str| accepted.header(name).unwrap_or_default().to_string();
    let tag = of("to").split(";tag=").nth(1).unwrap_or_default().to_string();
    let uri = of("contact").split(['<', '>']).nth(1).unwrap_or_default().to_string();
    let orders = data[..data.len().min(OCTETS_MAX)].split(|octet| *octet == 0xff).take(40);
    for order in orders {
        let Some((kind, rest)) = order.split_first() else { continue };
        match (kind % 12, core::str::from_utf8(rest)) {
            (0..=5, Ok(request)) => {
                let request = request.replace("$T", &tag).replace("$U", &uri);
                let transport = if kind % 12 == 5 { Transport::Udp } else { Transport::Tcp };
                n.send_request(transport, None, request.as_bytes());
            }
            (6 | 7, Ok(stanza)) => {
                let _ = n.send_stanza("chat.example", "voip.example", stanza);
            }
            (8, _) => n.advance(u64::from(rest.first().copied().unwrap_or(0)) * 300),
            (9 | 10, _) => n.answer_all(200 + 25 * u16::from(rest.first().copied().unwrap_or(0) % 20)),
            _ => n.break_all(rest.first().copied().unwrap_or(0)),
        }
    }
    n.advance(6_000_000);
    let broken: Vec<&String> = n.faults.iter().filter(|fault| fault.starts_with("not ")).collect();
    assert!(broken.is_empty(), "{broken:?}");
    let left = (n.world.gateway.sessions_kept(), n.world.gateway.messages_under_way());
    assert_eq!(left, (0, 0), "sessions and messages are left");
}
