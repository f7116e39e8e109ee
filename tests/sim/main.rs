//! The simulation: one gateway between a SIP proxy and an XMPP server, hours of virtual
//! time, faults drawn from a seed.
//!
//! `SEED=7` replays one seed and prints its log. `SEEDS=1000` and `STEPS=200` (messages)
//! set how much is swept; otherwise 24 seeds of 60 messages. A failure prints its seed.

#![allow(unreachable_pub, reason = "modules are shared between test targets")]

mod cast;
mod checks;
mod net;
mod peers;
mod world;

use cast::{Cast, Story};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How long the gateway has to be well again after the last fault (promise P7).
const HEAL_MS: u64 = 300_000;

/// After so long without a message nothing is left to wait for.
const QUIET_MS: u64 = 4 * 3_600_000;

struct Ending {
    trace: u64,
    problems: Vec<String>,
    log: Vec<String>,
    shown: usize,
    written: usize,
}

fn play(seed: u64, steps: u64) -> Ending {
    let story = Story::of(seed, steps);
    let (calm, kill) = (story.calm, story.kill);
    let mut cast = Cast::new(seed, story);
    let mut now = cast.story_ms();
    cast.run(now);
    cast.heal();
    now += HEAL_MS;
    cast.run(now);
    // Well again: a message crosses each way.
    let fresh = [cast.write_now(true), cast.write_now(false)];
    now += 60_000;
    cast.run(now);
    let mut problems = Vec::new();
    for number in fresh {
        let entry = &cast.ledger.entries[&number];
        if entry.shown.len() != 1 {
            problems.push(format!("not well again after {HEAL_MS} ms (P7): {entry:?}"));
        }
    }
    // Everything has its end by now, also what waited in a long row behind one who never
    // answers, and what nobody uses is closed.
    cast.run(now + QUIET_MS);
    problems.extend(cast.ledger.check(calm, &cast.world.count));
    if cast.world.gateway.messages_under_way() > 0 {
        problems.push(format!("{} messages are still under way", cast.world.gateway.messages_under_way()));
    }
    problems.extend(cast.idle());
    if !kill {
        problems.extend(checks::balance(&cast.world.count));
    }
    Ending {
        trace: cast.world.trace,
        problems,
        log: cast.world.lines.iter().cloned().collect(),
        shown: cast.ledger.entries.values().filter(|entry| !entry.shown.is_empty()).count(),
        written: cast.ledger.entries.len(),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What is wrong with a seed.
fn judge(seed: u64, steps: u64) -> Result<(usize, usize), String> {
    let run = || catch_unwind(AssertUnwindSafe(|| play(seed, steps)));
    let first = run().map_err(|_| format!("SEED={seed} STEPS={steps}: panicked"))?;
    let second = run().map_err(|_| format!("SEED={seed} STEPS={steps}: panicked the second time"))?;
    if number("SEED").is_some() {
        first.log.iter().for_each(|line| tell(line));
    }
    if !first.problems.is_empty() {
        let story = Story::of(seed, steps);
        return Err(format!("SEED={seed} STEPS={steps} fails: {story:?}\n  {}", first.problems.join("\n  ")));
    }
    if first.trace != second.trace {
        return Err(format!("SEED={seed} STEPS={steps}: two runs differ"));
    }
    Ok((first.written, first.shown))
}

#[test]
fn promises_hold_under_every_seed() {
    let steps = number("STEPS").unwrap_or(60);
    let seeds: Vec<u64> = match number("SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SEEDS").unwrap_or(24)).collect(),
    };
    let (mut written, mut shown, mut failed) = (0, 0, Vec::new());
    for seed in &seeds {
        match judge(*seed, steps) {
            Ok((w, s)) => {
                written += w;
                shown += s;
            }
            Err(problem) => {
                tell(&problem);
                failed.push(*seed);
            }
        }
    }
    tell(&format!("simulation: {} seeds, {written} messages written, {shown} shown", seeds.len()));
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
}
