//! The simulation of presence and contacts: one gateway between an XMPP server with
//! rosters and phones that notify and watch, hours of virtual time, faults drawn from a
//! seed. When the faults are over and every subscription was refreshed once, both sides
//! have to know the truth about each other.
//!
//! `SEED=7` replays one seed of the sweep and prints the conversation of the pair that
//! went wrong. `SEEDS=256` and `STEPS=200` (deeds) set how much is swept; otherwise 16
//! seeds of 160 deeds. `LOG=1` prints the gateway's log, too. `ORDER=5 VARIANT=2` replays one crossing, and with
//! `STRICT=1` nobody asks again whose question crossed the answer to an earlier one. A failure prints which
//! of them it was.

#![allow(unreachable_pub, reason = "modules are shared between test targets")]

mod alone;
mod cast;
#[path = "../sim/net.rs"]
mod net;
#[path = "../sim/peers.rs"]
mod peers;
mod phones;
mod server;
mod story;
mod verdict;
#[path = "../sim/world.rs"]
mod world;

use cast::{Cast, sip, xmpp};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use story::{Act, SIP_USERS, Story, XMPP_USERS};
use verdict::Problem;

/// How long the gateway has to be well again after the last fault.
const HEAL_MS: u64 = 300_000;

/// How long after a first look another one is taken.
const SECOND_LOOK_MS: u64 = 45_000;

struct Ending {
    trace: u64,
    problems: Vec<String>,
    pairs: usize,
}

fn play(seed: u64, story: Story) -> Ending {
    let mut cast = Cast::new(seed, story);
    let mut now = cast.story.length_ms;
    cast.run(now);
    cast.heal();
    now += 10_000;
    cast.run(now);
    if cast.story.log_in_again {
        cast.log_in_again();
    }
    if cast.story.insists && number("STRICT").is_none() {
        cast.run(now + 120_000);
        cast.insist();
    }
    now += HEAL_MS + cast.story.refresh_ms() + 60_000;
    cast.run(now);
    let mut found = verdict::agree(&cast);
    if !found.is_empty() {
        // Perhaps something was under way just then: what is wrong stays wrong.
        cast.run(now + SECOND_LOOK_MS);
        now = cast.world.now;
        found = verdict::agree(&cast);
    }
    found.append(&mut cast.leaks);
    if number("LOG").is_some() && !found.is_empty() {
        cast.world.lines.iter().for_each(|line| tell(line));
    }
    let mut problems = tell_of(&cast, found);
    let pairs = cast.phones.watches.values().filter(|watch| watch.state == "active").count()
        + cast.server.users.values().flat_map(|u| u.roster.values()).filter(|item| item.to).count();
    problems.extend(part(&mut cast, now));
    problems.extend(cast.server.faults.iter().chain(&cast.phones.faults).chain(&cast.faults).take(10).cloned());
    Ending { trace: cast.world.trace, problems, pairs }
}

/// Everybody leaves, and there is nothing left to say: no dialog lives on, no stanza
/// crosses, no connection is kept.
fn part(cast: &mut Cast, now: u64) -> Vec<String> {
    for one in XMPP_USERS {
        for other in SIP_USERS {
            for device in 0..2 {
                cast.act(&sip(other, phones::Deed::Unwatch(one, device)));
            }
            cast.act(&xmpp(one, server::Deed::Remove(other)));
            cast.act(&xmpp(one, server::Deed::Deny(other)));
        }
    }
    let now = now + HEAL_MS + cast.story.refresh_ms();
    cast.run(now);
    let before = cast.traffic;
    let pairs = XMPP_USERS.iter().flat_map(|one| SIP_USERS.iter().map(move |other| (*one, *other)));
    let mut found = Vec::new();
    for (one, other) in pairs {
        let serving = cast.phones.serving(other, one);
        if serving > 0 {
            let what = format!("{serving} dialogs of {one} at {other} after all parted");
            found.push(Problem { xmpp: one.into(), sip: other.into(), what });
        }
    }
    let mut problems = tell_of(cast, found);
    cast.run(now + 4 * 3_600_000);
    if cast.traffic > before {
        problems.push(format!("{} messages in four hours after all parted", cast.traffic - before));
    }
    problems.extend(cast.idle());
    problems
}

/// The problems, and the conversation behind the first of them.
fn tell_of(cast: &Cast, found: Vec<Problem>) -> Vec<String> {
    let mut problems: Vec<String> = found.iter().map(|p| p.what.clone()).collect();
    if let Some(first) = found.first() {
        problems.push(format!("what {} and {} said:", first.xmpp, first.sip));
        problems.extend(cast.conversation(&first.xmpp, &first.sip));
    }
    problems
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What is wrong with a story; how many subscriptions stood at its end.
fn judge(name: &str, seed: u64, story: &Story) -> Result<usize, String> {
    let run = || catch_unwind(AssertUnwindSafe(|| play(seed, story.clone())));
    let first = run().map_err(|_| format!("{name}: panicked"))?;
    if !first.problems.is_empty() {
        let mut told = story.clone();
        told.acts.clear();
        return Err(format!("{name} fails: {told:?}\n  {}", first.problems.join("\n  ")));
    }
    let second = run().map_err(|_| format!("{name}: panicked the second time"))?;
    if first.trace != second.trace {
        return Err(format!("{name}: two runs differ"));
    }
    Ok(first.pairs)
}

#[test]
fn both_sides_agree_under_every_seed() {
    let steps = number("STEPS").unwrap_or(160);
    let seeds: Vec<u64> = match number("SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SEEDS").unwrap_or(16)).collect(),
    };
    let (mut pairs, mut failed) = (0, Vec::new());
    for seed in &seeds {
        match judge(&format!("SEED={seed} STEPS={steps}"), *seed, &Story::sweep(*seed, steps)) {
            Ok(more) => pairs += more,
            Err(problem) => {
                tell(&problem);
                failed.push(*seed);
            }
        }
    }
    tell(&format!("presence: {} seeds, {pairs} subscriptions stood at their ends", seeds.len()));
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
}

#[test]
fn subscriptions_cross_in_all_orders() {
    let orders = number("ORDER").map_or(0..24, |order| order..order + 1);
    let mut failed = Vec::new();
    for order in orders {
        let all = 0..number("VARIANTS").unwrap_or(4);
        let variants = number("VARIANT").map_or(all, |variant| variant..variant + 1);
        for variant in variants {
            let name = format!("ORDER={order} VARIANT={variant}");
            if let Err(problem) = judge(&name, order * 64 + variant, &Story::crossing(order, variant)) {
                tell(&problem);
                failed.push(name);
            }
        }
    }
    assert!(failed.is_empty(), "failing crossings: {failed:?}");
}

/// The XMPP server dies with a session open, and its user comes back with one client less,
/// or never: whoever watches him must not see the dead client. `watched`: was somebody
/// watching when it died? `returns`: does the user come back?
fn haunt(seed: u64, watched: bool, returns: bool) -> Vec<String> {
    let mut acts = vec![
        (1000, xmpp("lena", server::Deed::Show("balkon", ""))),
        (1000, xmpp("lena", server::Deed::Show("r.3", ""))),
        (2000, sip("marta", phones::Deed::Watch("lena", 0))),
        (3000, xmpp("lena", server::Deed::Approve("marta"))),
        (90_000, Act::ServerCrash),
    ];
    if !watched {
        acts.push((60_000, sip("marta", phones::Deed::Unwatch("lena", 0))));
        acts.push((200_000, sip("marta", phones::Deed::Watch("lena", 0))));
    }
    if returns {
        acts.push((120_000, xmpp("lena", server::Deed::Show("balkon", "away"))));
    }
    let mut story = Story::calm(seed, acts);
    story.length_ms = 300_000;
    let name = format!("seed {seed}, watched {watched}, returns {returns}");
    let ending = play(seed, story);
    if ending.problems.is_empty() { Vec::new() } else { vec![name, ending.problems.join("\n  ")] }
}

#[test]
fn nobody_is_haunted_by_a_client_that_died_with_its_server() {
    let cases = [(true, true), (true, false), (false, true), (false, false)];
    let problems: Vec<String> =
        (0..3).flat_map(|seed| cases.map(|(watched, returns)| haunt(seed, watched, returns))).flatten().collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// One user changes a thousand times a second; nobody else waits for it.
#[test]
fn one_who_changes_all_the_time_delays_nobody() {
    let mut acts: Vec<(u64, Act)> = Vec::new();
    for one in ["lena", "pavel"] {
        acts.push((1000, xmpp(one, server::Deed::Show("balkon", ""))));
        for other in ["marta", "jonas"] {
            acts.push((1000, sip(other, phones::Deed::Publish("desk", ""))));
            acts.push((2000, sip(other, phones::Deed::Watch(one, 0))));
            acts.push((2000, xmpp(one, server::Deed::Add(other))));
            acts.push((7000, xmpp(one, server::Deed::Approve(other))));
            acts.push((7000, sip(other, phones::Deed::Allow(one))));
        }
    }
    const BEGIN: u64 = 60_000;
    const END: u64 = BEGIN + 10_000;
    for at in BEGIN..END {
        let show = ["away", "chat", "dnd", "xa"][at as usize % 4];
        acts.push((at, xmpp("lena", server::Deed::Show("balkon", show))));
        acts.push((at, sip("marta", phones::Deed::Publish("desk", show))));
    }
    let mut cast = Cast::new(1, Story::calm(1, acts));
    cast.run(BEGIN + 5000);
    cast.act(&xmpp("pavel", server::Deed::Show("balkon", "dnd")));
    cast.act(&sip("jonas", phones::Deed::Publish("desk", "dnd")));
    cast.run(BEGIN + 6000);
    for watcher in ["marta", "jonas"] {
        let watch = &cast.phones.watches[&(watcher.to_string(), "pavel".to_string(), 0)];
        assert_eq!(watch.view["balkon"].show, "dnd", "{watcher} had to wait for Pavel's change");
    }
    for watcher in ["lena", "pavel"] {
        let view = &cast.server.users[watcher].views["jonas@voip.example"];
        assert_eq!(view["desk"].show, "dnd", "{watcher} had to wait for Jonas's change");
    }
    cast.run(END + 11_000);
    let problems = tell_of(&cast, verdict::agree(&cast));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    // Ten seconds and a bit: every five seconds once.
    let watch = &cast.phones.watches[&("jonas".to_string(), "lena".to_string(), 0)];
    assert!(watch.notifies < 12, "{} NOTIFYs for one who changes all the time", watch.notifies);
    assert!(cast.faults.is_empty(), "{:?}", cast.faults);
}
