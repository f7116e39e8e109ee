//! What a message costs. `cargo bench` prints all of it:
//!
//! - parse and emit of each side, and a message through `Gateway::handle` in each
//!   direction: nanoseconds, allocations, octets allocated;
//! - the same with 1, 10 and 100 streams: the cost has to stay flat;
//! - end to end over loopback, TCP and TLS, against a bare mio relay that copies the same
//!   octets in the same run;
//! - sizes of the main tables;
//! - sessions: a message in an open one beside a single MESSAGE, and what open ones hold;
//! - one Edge of Lync: heap octets of 40,000 presence dialogs;
//! - presence: heap octets a subscription with 50,000 held, ten thousand SUBSCRIBEs taken
//!   in as fast as it goes, and a change of presence with 100, 10,000 and 50,000 held.
//!
//! `cargo bench -- instructions` counts the instructions of a message end to end under
//! callgrind (Debian: valgrind), by the difference of two counts; `cargo bench -- changes`
//! those of a change of presence, with 100 and 10,000 held; `cargo bench -- messages` those
//! of a message in a session beside a single one. `cargo bench -- WORD` runs the parts whose
//! name contains the word: `cargo bench -- presence`.

#![allow(unreachable_pub)] // The modules of the bench are public to each other and to nobody else.

#[path = "bench/memory.rs"]
mod memory;
#[path = "bench/presence.rs"]
mod presence;
#[path = "bench/session.rs"]
mod session;
#[path = "bench/wire.rs"]
mod wire;

use latimer::base::outbox::Outbox;
use latimer::base::xml::{Bindings, Limits, Tree};
use latimer::gateway::Gateway;
use latimer::sip::message::Message;
use latimer::xmpp::framer::Framer;
use latimer::xmpp::stanza::Stanza;
use memory::{Cost, Memory};
use std::hint::black_box;
use std::time::Instant;
use wire::Way;

/// A part, by name.
type Part = (&'static str, fn());

const PARTS: &[Part] = &[
    ("protocols", protocols),
    ("gateway", gateway),
    ("sizes", sizes),
    ("sessions", session::sessions),
    ("presence", presence_all),
    ("edge", presence::edge),
    ("wire", wire),
];

const STANZA: &str = "<message from='alice@xmpp.example/home' to='bob@sip.example' id='n1' type='chat'>\
                      <body>Are you coming to the tower tonight?</body></message>";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    match words.as_slice() {
        [word, target] if word == "relay" => return wire::be_relay(target),
        [word] if word == "instructions" => return instructions(),
        [word] if word == "changes" => return presence::instructions(),
        [word] if word == "messages" => return session::instructions(),
        [word, side, mode, count] if word == "be-message" => return session::be_message(side, mode, count),
        [word, held, way, count] if word == "be-changed" => return presence::be_changed(held, way, count),
        _ => {}
    }
    for (name, part) in PARTS {
        if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
            part();
        }
    }
}

/// Reading and writing, each side alone.
fn protocols() {
    title("protocol");
    let request = memory::request(1, "xmpp.example", "UDP", "192.0.2.1:5060").into_bytes();
    let mut copy = request.clone();
    row(
        "SIP: frame and parse a MESSAGE",
        measure(20_000, || {
            copy.copy_from_slice(&request);
            let (_, head, _) = latimer::sip::framer::datagram(&copy).expect("a whole message");
            black_box(Message::parse(&mut copy, head).is_ok());
        }),
    );
    let mut tree = Tree::new();
    let bindings = Bindings::with_default("jabber:server");
    row(
        "XMPP: frame and parse a message",
        measure(20_000, || {
            let mut framer = Framer::new();
            black_box(framer.next(black_box(STANZA.as_bytes())).is_ok());
            let element = tree.parse(STANZA.as_bytes(), &bindings, Limits::STANZA).expect("well-formed");
            black_box(Stanza::parse(element, "jabber:server", None).is_ok());
        }),
    );
    let mut out = Outbox::with_capacity(4096, 8);
    let mut source = Tree::new();
    let element = source.parse(STANZA.as_bytes(), &bindings, Limits::STANZA).expect("well-formed");
    row(
        "XMPP: emit a message",
        measure(20_000, || {
            let mut writer = out.begin();
            element.emit(&mut writer, "jabber:server");
            black_box(writer.len());
            writer.cancel();
        }),
    );
}

/// A message through `Gateway::handle`, with more and more streams.
fn gateway() {
    title("gateway");
    for partners in [1, 10, 100] {
        let mut memory = Memory::new(partners);
        for (name, send) in [
            ("MESSAGE -> <message/>", Memory::message_from_sip as fn(&mut Memory, usize)),
            ("<message/> -> MESSAGE", Memory::message_from_xmpp),
        ] {
            for number in 0..2000 {
                send(&mut memory, number % partners);
            }
            memory.take_cost();
            let count = 10_000;
            for number in 0..count {
                send(&mut memory, number % partners);
            }
            let total = memory.take_cost();
            row(&format!("{name}, {partners} streams each way"), per(total, count));
        }
    }
}

fn sizes() {
    println!("\n{:<52}{:>10}", "size", "octets");
    for (name, octets) in [
        ("Gateway", size_of::<Gateway>()),
        ("sip::message::Message", size_of::<Message<'_>>()),
        ("xmpp::stanza::Stanza", size_of::<Stanza<'_>>()),
        ("limits::MEMORY_MAX, all tables full", latimer::limits::MEMORY_MAX),
    ] {
        println!("{name:<52}{octets:>10}");
    }
}

/// End to end, and beside it what copying alone costs.
fn wire() {
    let count = 20_000;
    println!("\n{:<52}{:>10}{:>10}{:>10}", "end to end, 32 messages under way", "wall ns", "cpu ns", "ratio");
    let relay = wire::relay(count);
    let show = |name: &str, run: wire::Run| {
        println!("{name:<52}{:>10.0}{:>10.0}{:>10.2}", run.wall_ns, run.cpu_ns, run.cpu_ns / relay.cpu_ns);
    };
    show("relay: copies the octets", relay);
    for (name, way, tls) in WAYS {
        show(name, wire::gateway(count, way, tls));
    }
}

fn presence_all() {
    presence::subscriptions();
    presence::rush();
    presence::changes();
}

fn instructions() {
    println!("\n{:<52}{:>10}", "end to end, under callgrind", "instructions");
    for (name, way, tls) in WAYS {
        println!("{name:<52}{:>10.0}", wire::instructions(way, tls));
    }
}

const WAYS: [(&str, Way, bool); 4] = [
    ("MESSAGE -> <message/>, TCP on both sides", Way::ToXmpp, false),
    ("<message/> -> MESSAGE, TCP on both sides", Way::ToSip, false),
    ("MESSAGE -> <message/>, TLS on both sides", Way::ToXmpp, true),
    ("<message/> -> MESSAGE, TLS on both sides", Way::ToSip, true),
];

/// The instructions of this program with these arguments, under callgrind.
fn instructions_of(arguments: &[&str]) -> f64 {
    let file = std::env::temp_dir().join(format!("latimer-callgrind-{}", std::process::id()));
    let ours = std::env::current_exe().expect("our own path");
    let mut command = std::process::Command::new("valgrind");
    command.args(["--quiet", "--tool=callgrind", &format!("--callgrind-out-file={}", file.display())]).arg(ours);
    let status = command.args(arguments).status();
    assert!(status.is_ok_and(|status| status.success()), "valgrind (Debian: valgrind) did not run");
    let text = std::fs::read_to_string(&file).expect("callgrind writes its file at the end");
    let _ = std::fs::remove_file(&file);
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).expect("a line with the total");
    total.trim().parse::<f64>().expect("a number")
}

fn title(name: &str) {
    println!("\n{name:<52}{:>10}{:>10}{:>10}", "ns", "allocs", "octets");
}

fn row(name: &str, cost: (f64, f64, f64)) {
    println!("{name:<52}{:>10.0}{:>10.1}{:>10.0}", cost.0, cost.1, cost.2);
}

fn measure(count: usize, mut act: impl FnMut()) -> (f64, f64, f64) {
    for _ in 0..count / 10 {
        act();
    }
    let begun = Instant::now();
    let mut ns = 0;
    let info = allocation_counter::measure(|| {
        for _ in 0..count {
            act();
        }
        ns = begun.elapsed().as_nanos();
    });
    per(Cost { ns, allocations: info.count_total, octets: info.bytes_total, held: 0 }, count)
}

fn per(cost: Cost, count: usize) -> (f64, f64, f64) {
    let count = count as f64;
    (cost.ns as f64 / count, cost.allocations as f64 / count, cost.octets as f64 / count)
}
