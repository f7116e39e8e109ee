//! `latimer serve` between real servers on loopback: Kamailio and SIPp on the SIP side,
//! Prosody and ejabberd on the XMPP side, a private CA and a DNS of their own
//! (`tests/peers`). One line of result for each scenario; what fails prints the end of
//! the gateway's log. Needs Debian and root; elsewhere it says so and passes.
//!
//! `cargo test --test interop -- WORD...` runs the scenarios whose name contains one of
//! the words; `KEEP=1` leaves logs and state behind.

#![allow(unreachable_pub)] // The modules of one test are public to each other and to nobody else.

mod messages;
mod negotiation;
mod operation;
mod peers;
mod presence;
mod probes;
mod refusals;
mod sip;
mod world;
mod xmpp;

use std::process::ExitCode;
use std::time::Instant;
use world::World;

/// What a step gives, or what went wrong in words.
type Outcome<T = ()> = Result<T, String>;

/// A scenario, by name.
type Scenario = (&'static str, fn(&World) -> Outcome);

const TABLES: &[&[Scenario]] = &[
    peers::SCENARIOS,
    messages::SCENARIOS,
    negotiation::SCENARIOS,
    refusals::SCENARIOS,
    operation::SCENARIOS,
    presence::SCENARIOS,
    probes::SCENARIOS,
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    if let Some(reason) = unable() {
        println!("interop: skipped, {reason}");
        return ExitCode::SUCCESS;
    }
    let world = match World::start() {
        Ok(world) => world,
        Err(why) => {
            println!("interop: the peers did not start: {why}");
            return ExitCode::FAILURE;
        }
    };
    let (mut passed, mut failed) = (0, 0);
    for (name, scenario) in TABLES.iter().copied().flatten().filter(|(name, _)| wanted(name)) {
        let begun = Instant::now();
        let outcome = scenario(&world);
        let took = begun.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("ok    {name} ({took:.1} s)");
            }
            Err(why) => {
                failed += 1;
                println!("FAIL  {name} ({took:.1} s): {why}");
                let log = world.peer_log("latimer/log");
                let lines: Vec<&str> = log.lines().collect();
                for line in &lines[lines.len().saturating_sub(25)..] {
                    println!("      | {line}");
                }
            }
        }
    }
    println!("interop: {passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Why the peers cannot run here.
fn unable() -> Option<&'static str> {
    if !std::path::Path::new("/etc/debian_version").exists() {
        return Some("the peers are Debian's packages");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root = status.lines().any(|line| line.starts_with("Uid:\t0\t") || line == "Uid:\t0\t0\t0\t0");
    (!root).then_some("the peers need root")
}

/// Fails with the words when the condition does not hold.
fn ensure(holds: bool, words: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(words()) }
}

/// Fails unless both are equal.
fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Outcome {
    ensure(found == wanted, || format!("{what} is {found:?}, wanted {wanted:?}"))
}
