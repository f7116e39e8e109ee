//! The strict XML reader against another one that is known to be strict: whatever ours
//! takes, `rxml` takes too and finds the same in it; what ours writes is read back the
//! same; and the framer cuts where the reader ends, however the octets come.
//!
//! `SEED=7` begins with another seed, `ROUNDS=1000000` goes on for longer.

use latimer::base::outbox::Outbox;
use latimer::base::rng::Rng;
use latimer::base::xml::{Bindings, Content, Limits, Node, Tree};
use latimer::limits::{STANZA_ATTRIBUTES_MAX, STANZA_DEPTH_MAX, STANZA_OCTETS_MAX};
use latimer::xmpp::framer::{Framer, Item, StreamHeader};
use latimer::xmpp::ns;
use latimer::xmpp::stanza::Stanza;
use latimer::xmpp::stream_error::{StreamCondition, StreamError, StreamFault};
use rxml::Parse;

const HEADER: &[u8] = b"<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
    xmlns:db='jabber:server:dialback' version='1.0' from='chat.example' to='voip.example'>";

/// Elements to begin with: each construct of XML that a stanza may have, and most of
/// those it may not.
const CORPUS: &[&str] = &[
    "<message from='lena@chat.example/balkon' to='marta@voip.example' id='m-1' type='chat' xml:lang='de'>\
     <subject>Mittag?</subject><thread>5f3c</thread><body>Kommst du um zwölf?</body></message>",
    "<message to='a' from='b'><body>1 &lt; 2 &amp;&#x26; 3 &gt; 2 &apos;&quot;&#39; &#x1F600;</body></message>",
    "<message to='a' from='b'><body><![CDATA[<b> & ]] > ]]]]><![CDATA[>]]></body></message>",
    "<message\n\tto = \"a\"\r\n from='b'  ><body>a\r\nb\rc\n</body ></message\n>",
    "<iq type='get' id='1'><query xmlns='http://jabber.org/protocol/disco#info' node=\"a'b>c\"/></iq>",
    "<a:message xmlns:a='jabber:server' xmlns:b='urn:b' a:x='1' b:x='2' x='3'><b:c xmlns:b='urn:c' b:x=''/></a:message>",
    "<db:result from='a' to='b'>37c69b1cf07a3f67</db:result>",
    "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>",
    "<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
    "<message><html xmlns='http://jabber.org/protocol/xhtml-im'><body xmlns='http://www.w3.org/1999/xhtml'>\
     <p style='color:red'>a<b>b</b>c<br/></p></body></html></message>",
    "<x xmlns=''><y xmlns='urn:y'><z xmlns=''/></y></x>",
    "<ü.é-1 _='&#9;&#10;&#13; \t'>\u{10FFFF}\u{FFFD}\u{85}\u{2028}\u{7f}</ü.é-1>",
    "<message from='boss@ours'>&#x3C;message from='boss@ours'/&#x3E;</message>",
    "<a><b/><b></b> <b>x</b><c d='e'/>f<g/></a>",
    "<a b='1' b='2'/>",
    "<a xmlns:b='urn:x' xmlns:c='urn:x' b:d='' c:d=''/>",
    "<a xmlns:xml='http://www.w3.org/XML/1998/namespace' xml:space='preserve'/>",
    "<a><!-- b --></a>",
    "<a><?b c?></a>",
    "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
    "<a>&b;</a>",
    "<a>]]></a>",
    "<a b=\"<\"/>",
    "<1a/>",
    "<a:b:c xmlns:a='urn:a'/>",
    "<a/><b/>",
];

/// What mutations put in.
const PIECES: &[&[u8]] = &[
    b"<",
    b">",
    b"/",
    b"/>",
    b"</",
    b"=",
    b"'",
    b"\"",
    b"&",
    b";",
    b"#",
    b"x",
    b":",
    b"]]>",
    b"<![CDATA[",
    b"<!--",
    b"-->",
    b"<?",
    b"?>",
    b"<!DOCTYPE",
    b"<?xml version='1.0'?>",
    b" ",
    b"\t",
    b"\n",
    b"\r",
    b"\r\n",
    b"\0",
    b"\x01",
    b"\x0b",
    b"\x7f",
    b"\xc0\x80",
    b"\xc2",
    b"\xe0\x80\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xff",
    b"\xef\xbf\xbe",
    b"\xef\xbf\xbf",
    b"\xef\xbb\xbf",
    b"&#0;",
    b"&#x1;",
    b"&#xD;",
    b"&#xA;",
    b"&#x3C;",
    b"&#xFFFE;",
    b"&#xD800;",
    b"&#x110000;",
    b"&#99999999999;",
    b"&#+65;",
    b"&#x;",
    b"&#;",
    b"&#X41;",
    b"&lt",
    b"&amp;",
    b"&AMP;",
    b"xmlns",
    b" xmlns='urn:z'",
    b" xmlns:a='urn:a'",
    b" xmlns:a=''",
    b" xmlns:xml='urn:x'",
    b" xmlns:xmlns='urn:x'",
    b" xmlns='http://www.w3.org/2000/xmlns/'",
    b" xmlns:q='http://www.w3.org/XML/1998/namespace'",
    b" xmlns:a='urn:a&#xA;b'",
    b" xmlns:a='urn a'",
    b" a:b='1'",
    b" b='1'",
    b"<a>",
    b"</a>",
    b"<a/>",
    b"<a:b/>",
    b"<xml:a/>",
    b"<xmlns:a/>",
    b"-",
    b".",
    b"1",
    b"\xc2\xb7",
    b"\xcc\x80",
    b"\xe2\x81\xbf",
    b"\xc3\x97",
    b"a",
    b"b",
];

fn context() -> Bindings {
    Tree::new().parse_start_tag(HEADER, Limits::UNPROVEN).expect("a header").1
}

/// What an element says, as lines: start with its sorted attributes, text, end.
fn infoset(node: Node<'_>, lines: &mut Vec<String>) {
    let mut attributes: Vec<_> = node.attributes().map(|(n, ns, v)| format!(" {{{ns}}}{n}={v:?}")).collect();
    attributes.sort();
    lines.push(format!("<{{{}}}{}{}", node.namespace(), node.name(), attributes.concat()));
    for content in node.contents() {
        match content {
            Content::Text(text) => lines.push(format!("{text:?}")),
            Content::Element(child) => infoset(child, lines),
        }
    }
    lines.push(">".into());
}

/// The same from `rxml`, inside of the stream header; `None` if it refuses.
fn oracle(element: &[u8]) -> Option<Vec<String>> {
    let mut document = HEADER.to_vec();
    // Line ends are made one before anything else (XML section 2.11); `rxml` loses a
    // carriage return at the end of an attribute value.
    for (at, octet) in element.iter().enumerate() {
        match octet {
            b'\r' if element.get(at + 1) == Some(&b'\n') => {}
            b'\r' => document.push(b'\n'),
            octet => document.push(*octet),
        }
    }
    document.extend_from_slice(b"</stream:stream>");
    let mut parser = rxml::Parser::new();
    let (mut rest, mut lines, mut text) = (&document[..], Vec::new(), String::new());
    while let Some(event) = parser.parse(&mut rest, true).ok()? {
        if let rxml::Event::Text(_, piece) = &event {
            text.push_str(piece);
            continue;
        }
        if !text.is_empty() {
            lines.push(format!("{text:?}"));
            text.clear();
        }
        match event {
            rxml::Event::StartElement(_, (namespace, name), attributes) => {
                let mut attributes: Vec<_> =
                    attributes.iter().map(|((ns, n), v)| format!(" {{{ns}}}{n}={v:?}")).collect();
                attributes.sort();
                lines.push(format!("<{{{namespace}}}{name}{}", attributes.concat()));
            }
            rxml::Event::EndElement(_) => lines.push(">".into()),
            _ => {}
        }
    }
    // Without the stream's own start and end.
    lines.pop();
    lines.remove(0);
    Some(lines)
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let pick = |rng: &mut Rng, below: usize| rng.below(below as u64) as usize;
    for _ in 0..[1, 1, 2, 3][pick(rng, 4)] {
        let at = pick(rng, bytes.len() + 1);
        let end = (at + pick(rng, 12)).min(bytes.len());
        match pick(rng, 6) {
            0 => drop(bytes.drain(at..end)),
            1 => {
                let copy = bytes[at..end].to_vec();
                let to = pick(rng, bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            2 if at < bytes.len() => bytes[at] = rng.below(256) as u8,
            3 => {
                let other = CORPUS[pick(rng, CORPUS.len())].as_bytes();
                let from = pick(rng, other.len());
                let to = (from + pick(rng, 40)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => drop(bytes.splice(at..at, PIECES[pick(rng, PIECES.len())].iter().copied())),
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn what_is_taken_another_strict_reader_takes_and_understands_the_same() {
    let (context, mut rng) = (context(), Rng::from_number(number("SEED", 1)));
    let (mut tree, mut again) = (Tree::new(), Tree::new());
    let (mut taken, mut refused_by_both) = (0, 0);
    for round in 0..number("ROUNDS", 150_000) {
        let mut bytes = CORPUS[(round % CORPUS.len() as u64) as usize].as_bytes().to_vec();
        if round >= CORPUS.len() as u64 {
            mutate(&mut rng, &mut bytes);
        }
        let shown = || String::from_utf8_lossy(&bytes).into_owned();
        let Ok(node) = tree.parse(&bytes, &context, Limits::STANZA) else {
            refused_by_both += u64::from(oracle(&bytes).is_none());
            continue;
        };
        taken += 1;
        let mut ours = Vec::new();
        infoset(node, &mut ours);
        assert_eq!(Some(&ours), oracle(&bytes).as_ref(), "round {round}: {}", shown());

        let mut out = Outbox::default();
        let mut w = out.begin();
        node.emit(&mut w, context.default_namespace());
        let span = w.finish();
        let written = again.parse(out.bytes(&span), &context, Limits::STANZA);
        let mut second = Vec::new();
        infoset(written.unwrap_or_else(|e| panic!("round {round}: {e}: {}", out.text(&span))), &mut second);
        assert_eq!(ours, second, "round {round}: {} became {}", shown(), out.text(&span));

        let mut framer = in_a_stream();
        assert_eq!(framer.next(&bytes), Ok(Item::Element(bytes.len())), "round {round}: {}", shown());
        // Whatever it says, reading it does not panic.
        let _ = Stanza::parse(node, ns::SERVER, None);
        let _ = StreamError::parse(node);
    }
    assert!(taken > 5_000 && refused_by_both > 5_000, "{taken} taken, {refused_by_both} refused");
}

/// A framer behind the stream header.
fn in_a_stream() -> Framer {
    let mut framer = Framer::new();
    assert_eq!(framer.next(HEADER), Ok(Item::Header(HEADER.len())));
    framer.set_limit(STANZA_OCTETS_MAX);
    framer
}

/// What a stream falls apart into when it comes in pieces that end at `cuts`: the items
/// with what they hold, blanks joined, and the fault at the end if there is one.
fn pieces(
    stream: &[u8],
    limit: usize,
    cuts: impl Iterator<Item = usize>,
) -> (Vec<(Item, Vec<u8>)>, Option<StreamFault>) {
    let mut framer = Framer::new();
    framer.set_limit(limit);
    let (mut items, mut used): (Vec<(Item, Vec<u8>)>, usize) = (Vec::new(), 0);
    for end in cuts.chain([stream.len()]) {
        loop {
            let rest = &stream[used..end];
            let item = match framer.next(rest) {
                Ok(Item::Incomplete) => break,
                Ok(item) => item,
                Err(fault) => return (items, Some(fault)),
            };
            let (Item::Whitespace(length)
            | Item::Declaration(length)
            | Item::Header(length)
            | Item::Element(length)
            | Item::End(length)) = item
            else {
                unreachable!("incomplete was met above")
            };
            assert!(length > 0, "an item uses up something");
            let held = rest[..length].to_vec();
            used += length;
            match (item, items.last_mut()) {
                (Item::Whitespace(more), Some((Item::Whitespace(length), before))) => {
                    *length += more;
                    before.extend_from_slice(&held);
                }
                _ => items.push((item, held)),
            }
        }
    }
    (items, None)
}

#[test]
fn a_stream_falls_apart_the_same_however_it_is_cut() {
    let mut rng = Rng::from_number(number("SEED", 2));
    for round in 0..number("ROUNDS", 40_000) / 20 {
        let mut stream = if rng.below(2) == 0 { b"<?xml version='1.0'?>".to_vec() } else { Vec::new() };
        stream.extend_from_slice(HEADER);
        for _ in 0..rng.below(4) {
            let mut element = CORPUS[rng.below(14) as usize].as_bytes().to_vec();
            if rng.below(3) == 0 {
                mutate(&mut rng, &mut element);
            }
            stream.extend_from_slice(&element);
            stream.extend_from_slice(&b" \n\t\r"[..rng.below(5) as usize]);
        }
        stream.extend_from_slice(b"</stream:stream>");
        if rng.below(4) == 0 {
            mutate(&mut rng, &mut stream);
        }
        let limit = if rng.below(4) == 0 { 40 + rng.below(200) as usize } else { STANZA_OCTETS_MAX };
        let whole = pieces(&stream, limit, core::iter::empty());
        assert_eq!(pieces(&stream, limit, 1..stream.len()), whole, "round {round}, octet by octet");
        for cut in 0..stream.len() {
            assert_eq!(pieces(&stream, limit, [cut].into_iter()), whole, "round {round}, cut at {cut}");
        }
    }
}

/// How a stream that goes on with `tail` behind its header ends.
fn end_of(tail: &[u8]) -> Option<StreamCondition> {
    let mut framer = in_a_stream();
    let mut used = 0;
    loop {
        match framer.next(&tail[used..]) {
            Ok(Item::Incomplete | Item::End(_)) => return None,
            Ok(Item::Whitespace(n) | Item::Element(n) | Item::Declaration(n) | Item::Header(n)) => used += n,
            Err(fault) => return Some(fault.condition),
        }
    }
}

#[test]
fn floods_are_refused_at_the_limit() {
    use StreamCondition::{BadFormat, NotWellFormed, PolicyViolation, RestrictedXml};
    let repeated = |piece: &str, times: usize| piece.repeat(times).into_bytes();
    for (tail, end) in [
        (repeated("<a>", 100_000), PolicyViolation),
        ([repeated("<a>", 1), repeated("<b/>", 1_000_000)].concat(), PolicyViolation),
        ([repeated("<a>", 1), repeated("x", 2_000_000)].concat(), PolicyViolation),
        (repeated(" ", 2_000_000), PolicyViolation),
        ([repeated("<", 1), repeated("a", 2_000_000)].concat(), PolicyViolation),
        ([repeated("<a b='", 1), repeated("c", 2_000_000)].concat(), PolicyViolation),
        ([repeated("<a ", 1), repeated(" ", 2_000_000)].concat(), PolicyViolation),
        ([repeated("</", 1), repeated("a", 2_000_000)].concat(), PolicyViolation),
        (b"<!-".to_vec(), RestrictedXml),
        (b"<!D".to_vec(), RestrictedXml),
        (b"<a><!-".to_vec(), RestrictedXml),
        (b"<?".to_vec(), RestrictedXml),
        (b"<a><?".to_vec(), RestrictedXml),
        (b"<?xml version='1.0'?>".to_vec(), RestrictedXml),
        (b"<![CDATA[".to_vec(), BadFormat),
        (b"x".to_vec(), BadFormat),
        (b"<a b='<".to_vec(), NotWellFormed),
        (b"<a <".to_vec(), NotWellFormed),
        (b"<>".to_vec(), NotWellFormed),
    ] {
        let shown = String::from_utf8_lossy(&tail[..tail.len().min(40)]).into_owned();
        assert_eq!(end_of(&tail), Some(end), "{shown}");
    }
}

#[test]
fn one_hostile_element_costs_little() {
    let fill = |piece: &dyn Fn(usize) -> String| {
        let mut text = String::new();
        for n in 0.. {
            let piece = piece(n);
            if text.len() + piece.len() + 64 > STANZA_OCTETS_MAX {
                return text;
            }
            text.push_str(&piece);
        }
        text
    };
    let bindings: String = (0..50).map(|n| format!(" xmlns:a{n}='urn:a{n}'")).collect();
    let many: String = (0..STANZA_ATTRIBUTES_MAX).map(|n| format!(" a{n}=''")).collect();
    let samples = [
        format!("<a{}/>", fill(&|n| format!(" a{n}=''"))),
        format!("<a{}/>", fill(&|n| format!(" xmlns:a{n}='u{n}'"))),
        format!("<a{bindings}>{}</a>", fill(&|_| format!("<a0:b{}/>", " a1:c='' a2:d=''".repeat(3)))),
        format!("<a>{}</a>", fill(&|_| format!("<b{many}/>"))),
        format!("<a>{}</a>", fill(&|_| "<b/>".into())),
        format!("<a>{}</a>", fill(&|_| "&#x41;".into())),
        format!("<a>{}</a>", fill(&|_| "\r".into())),
        format!("<a b='{}'/>", fill(&|_| "\t".into())),
        format!("<a>{}</a>", fill(&|_| "&lt;".into())),
        format!("<a>{}</a>", fill(&|_| "<![CDATA[]]>".into())),
        format!("<a>{}</a>", fill(&|_| "]]".into())),
        format!("<a b='{}'/>", fill(&|_| "&".into())),
        "<a>".repeat(STANZA_DEPTH_MAX + 1),
        format!("<{}/>", fill(&|_| "a".into())),
        format!("<{}/>", fill(&|_| "a:".into())),
        format!("<a {}/>", fill(&|_| "=".into())),
    ];
    let mut tree = Tree::new();
    let context = context();
    for sample in &samples {
        let start = std::time::Instant::now();
        for _ in 0..10 {
            let _ = tree.parse(sample.as_bytes(), &context, Limits::STANZA);
        }
        let spent = start.elapsed() / 10;
        // The promise is 5 ms; a busy machine may be slower than that.
        assert!(spent.as_millis() < 25, "{spent:?} for {}", &sample[..60]);
    }
}

#[test]
fn a_stream_header_is_read_or_refused_with_its_condition() {
    const STREAM: &str = "xmlns:stream='http://etherx.jabber.org/streams'";
    let mut tree = Tree::new();
    let header = StreamHeader::parse(HEADER, ns::SERVER, &mut tree).expect("a header");
    assert_eq!(header.from.as_ref().map(|jid| jid.as_str()), Some("chat.example"));
    assert_eq!((header.version, header.lang.as_deref(), header.id.as_deref()), (Some((1, 0)), None, None));
    assert_eq!(header.bindings.prefix_of(ns::DIALBACK), Some("db"));
    for (text, outcome) in [
        (format!("<stream:stream xmlns='jabber:server' {STREAM} id='x' xml:lang='de'>"), None),
        (format!("<stream:stream xmlns='jabber:server' {STREAM} version='0.9'>"), None),
        (format!("<stream:stream xmlns='jabber:server' {STREAM} version='1.7'>"), None),
        (format!("<stream:stream xmlns='jabber:server' {STREAM} version='2.0'>"), None),
        ("<s:stream xmlns='jabber:server' xmlns:s='http://etherx.jabber.org/streams'>".into(), None),
        ("<stream xmlns='http://etherx.jabber.org/streams'>".into(), None),
        (
            format!("<stream:stream xmlns='jabber:server' {STREAM} version='1'>"),
            Some(StreamCondition::UnsupportedVersion),
        ),
        (
            format!("<stream:stream xmlns='jabber:server' {STREAM} version='+1.0'>"),
            Some(StreamCondition::UnsupportedVersion),
        ),
        (format!("<stream:stream xmlns='jabber:client' {STREAM}>"), Some(StreamCondition::InvalidNamespace)),
        (format!("<stream:stream {STREAM}>"), Some(StreamCondition::InvalidNamespace)),
        ("<stream:stream xmlns='jabber:server' xmlns:stream='urn:x'>".into(), Some(StreamCondition::InvalidNamespace)),
        ("<stream:stream xmlns='jabber:server'>".into(), Some(StreamCondition::BadNamespacePrefix)),
        (format!("<stream:flow xmlns='jabber:server' {STREAM}>"), Some(StreamCondition::BadFormat)),
        (
            format!("<stream:stream xmlns='jabber:server' {STREAM} from='a@@b'>"),
            Some(StreamCondition::ImproperAddressing),
        ),
        (format!("<stream:stream xmlns='jabber:server' {STREAM} to=' '>"), Some(StreamCondition::ImproperAddressing)),
        (
            format!("<stream:stream xmlns='jabber:server' {STREAM} id='{}'>", "x".repeat(257)),
            Some(StreamCondition::PolicyViolation),
        ),
        (format!("<stream:stream xmlns='jabber:server' {STREAM} a='<'>"), Some(StreamCondition::NotWellFormed)),
    ] {
        let parsed = StreamHeader::parse(text.as_bytes(), ns::SERVER, &mut tree);
        assert_eq!(parsed.err().map(|fault| fault.condition), outcome, "{text}");
    }
}

#[test]
fn an_xml_declaration_stands_at_the_start_and_says_utf_8() {
    use StreamCondition::{NotWellFormed, RestrictedXml, UnsupportedEncoding};
    for (start, outcome) in [
        ("<?xml version='1.0'?>", None),
        ("<?xml version=\"1.0\" encoding='utf-8' standalone='yes' ?>", None),
        ("<?xml version='1.0' encoding='UTF-8'?>\n", None),
        (" ", None),
        ("<?xml version='1.0' encoding='iso-8859-1'?>", Some(UnsupportedEncoding)),
        ("<?xml version='2.0'?>", Some(NotWellFormed)),
        ("<?xml encoding='utf-8'?>", Some(NotWellFormed)),
        (" <?xml version='1.0'?>", Some(RestrictedXml)),
        ("<?xml version='1.0'?><?xml version='1.0'?>", Some(RestrictedXml)),
        ("<?php ?>", Some(RestrictedXml)),
        ("<!DOCTYPE a>", Some(RestrictedXml)),
        ("<!-- a -->", Some(RestrictedXml)),
        ("</a>", Some(NotWellFormed)),
        ("\u{feff}", Some(NotWellFormed)),
        ("GET / HTTP/1.1", Some(NotWellFormed)),
    ] {
        let stream = [start.as_bytes(), HEADER].concat();
        let (items, fault) = pieces(&stream, STANZA_OCTETS_MAX, core::iter::empty());
        assert_eq!(fault.map(|fault| fault.condition), outcome, "{start}");
        assert_eq!(matches!(items.last(), Some((Item::Header(_), _))), outcome.is_none(), "{start}");
    }
}
