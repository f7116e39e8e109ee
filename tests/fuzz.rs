//! Runs every fuzz target over its corpus and over a budget of seeded mutations.
//!
//! `FUZZ_RUNS` sets the mutations a target (2,000 unless said otherwise), `FUZZ_TARGET`
//! picks one target, `FUZZ_SEED` another sequence. An input that fails is printed as
//! Rust octets and belongs into `tests/corpus/<target>/` before it is fixed.

#![allow(unreachable_pub, reason = "modules are shared between test targets")]

#[path = "flows/neighbours.rs"]
mod neighbours;
#[path = "sim/net.rs"]
mod net;
#[path = "sim/peers.rs"]
mod peers;
#[path = "fuzz/targets.rs"]
mod targets;
#[path = "sim/world.rs"]
mod world;

use net::Chance;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use targets::{TARGETS, Target};

/// Pieces that grammars care about.
const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    ";",
    ",",
    "<",
    ">",
    "\"",
    "\\",
    "@",
    "%",
    "%00",
    "%ff",
    "%40",
    "?",
    "=",
    "&",
    "Content-Length: ",
    "Content-Length: 4294967297\r\n",
    "l: 0\r\n",
    "Via: SIP/2.0/UDP x;branch=z9hG4bK1\r\n",
    "SIP/2.0",
    "sip:",
    "sips:",
    ";tag=",
    ";gr=",
    "[::1]",
    "z9hG4bK",
    "MESSAGE ",
    "SUBSCRIBE ",
    "CANCEL ",
    "ACK ",
    "INVITE ",
    "<!DOCTYPE a>",
    "<![CDATA[",
    "]]>",
    "<!--",
    "-->",
    "<?xml version='1.0'?>",
    "&#x3C;",
    "&#0;",
    "&amp;",
    "&lt;",
    "xmlns=''",
    "xmlns:a='b'",
    "xml:lang='de'",
    "/>",
    "</",
    "<stream:stream ",
    "<message ",
    "<body>",
    "</body>",
    "<iq type='get' ",
    "\u{fffe}",
    "\u{202e}",
    "ß",
    "İ",
    "\u{e4}",
    "\u{0301}",
    "\u{200d}",
    "xn--",
    "\\20",
    "\\5c",
    "\\40",
    "..",
    "é",
    "㎏",
    "LATIMERj",
    "set ",
    "delete ",
    "partner ",
    "sip domain ",
    "tls:",
    "--b",
    "boundary=b",
    "charset=utf-16",
    "base64",
    "quoted-printable",
    "<b>",
    "<p style='",
    "2147483648",
    "-1",
    "99999999999999999999",
    "00000000000000000001",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// The corpus of a target; the gateway and the SIP targets learn from the torture
/// messages, too.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let mut folders = vec![root().join(name)];
    if name.starts_with("sip-") || name == "gateway" {
        folders.push(root().join("torture"));
    }
    let mut paths: Vec<PathBuf> = folders
        .into_iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|path| path.extension().is_none_or(|extension| extension != "tsv"))
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a corpus file")).collect()
}

/// One of the first inputs or one made of them, changed in a few places.
fn mutate(corpus: usize, seeds: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let pick = |chance: &mut Chance| {
        let among = if chance.below(2) == 0 { corpus } else { seeds.len() };
        seeds[chance.below(among as u64) as usize].clone()
    };
    let mut data = pick(chance);
    for _ in 0..=chance.below(4) {
        let at = chance.below(data.len() as u64 + 1) as usize;
        let end = (at + chance.below(16) as usize).min(data.len());
        match chance.below(8) {
            0 if at < data.len() => data[at] ^= 1 << chance.below(8),
            1 if at < data.len() => data[at] = chance.below(256) as u8,
            2 => drop(data.drain(at..end)),
            3 => {
                let piece = data[at..end].to_vec();
                let again = 1 + chance.below(8);
                for _ in 0..again {
                    data.splice(at..at, piece.iter().copied());
                }
            }
            4 => data.truncate(at),
            5 => {
                let other = pick(chance);
                let from = chance.below(other.len() as u64 + 1) as usize;
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
            _ => {
                let word = WORDS[chance.below(WORDS.len() as u64) as usize];
                data.splice(at..end.min(at + chance.below(3) as usize), word.bytes());
            }
        }
    }
    data
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn one(target: &Target, data: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| target.1(data))).is_err() {
        let shown: String = data.iter().flat_map(|octet| std::ascii::escape_default(*octet)).map(char::from).collect();
        panic!("{}: {what} fails:\nb\"{shown}\"", target.0);
    }
}

fn run(name: &str) {
    if std::env::var("FUZZ_TARGET").is_ok_and(|wanted| wanted != name) {
        return;
    }
    let target = TARGETS.iter().find(|(n, _)| *n == name).expect("the target is in the table");
    let mut seeds = corpus(name);
    for (place, seed) in seeds.iter().enumerate() {
        one(target, seed, &format!("corpus input {place}"));
    }
    seeds.push(Vec::new());
    let inputs = seeds.len();
    let runs = number("FUZZ_RUNS", if matches!(name, "gateway" | "session") { 100 } else { 2000 });
    let mut chance = Chance::new(number("FUZZ_SEED", 1));
    for turn in 0..runs {
        let data = mutate(inputs, &seeds, &mut chance);
        one(target, &data, &format!("mutation {turn}"));
        // What was made of it may be made more of.
        if turn % 16 == 0 && seeds.len() < 4000 {
            seeds.push(data);
        }
    }
    let _ = writeln!(std::io::stderr(), "fuzz {name}: {} corpus inputs, {runs} mutations", corpus(name).len());
}

macro_rules! tests {
    ($($test:ident = $name:literal,)*) => {
        $(#[test] fn $test() { run($name); })*

        #[test]
        fn every_target_has_its_test() {
            assert_eq!([$($name),*].as_slice(), TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        }
    };
}

tests! {
    sip_message_holds = "sip-message",
    sip_uri_holds = "sip-uri",
    sip_header_holds = "sip-header",
    sip_framer_holds = "sip-framer",
    xmpp_framer_holds = "xmpp-framer",
    stanza_holds = "stanza",
    jid_holds = "jid",
    address_holds = "address",
    dns_holds = "dns",
    config_text_holds = "config-text",
    config_file_holds = "config-file",
    journal_holds = "journal",
    content_holds = "content",
    html_holds = "html",
    rtf_holds = "rtf",
    xhtml_holds = "xhtml",
    first_message_holds = "first-message",
    typing_holds = "typing",
    pidf_holds = "pidf",
    msrtc_holds = "msrtc",
    xpidf_holds = "xpidf",
    gateway_holds = "gateway",
    sdp_holds = "sdp",
    session_holds = "session",
}
