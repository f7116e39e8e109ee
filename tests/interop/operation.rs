//! Restarts, reloads and sudden deaths.

use crate::messages::{exchange, gateway};
use crate::peers::server_of;
use crate::world::{Config, Hop, Latimer, World};
use crate::{Outcome, Scenario, ensure, equal};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    ("partner-restart-prosody", |world| partner_restart(world, "xmpp.example")),
    ("partner-restart-ejabberd", |world| partner_restart(world, "ej.example")),
    ("sighup-adds-a-partner", sighup),
    ("sigterm-ends-cleanly", sigterm),
    ("kill-9-during-traffic-prosody", |world| kill(world, "xmpp.example")),
    ("kill-9-during-traffic-ejabberd", |world| kill(world, "ej.example")),
];

/// While the server is away the sender hears of it; when it is back, messages cross
/// again with nobody's help.
fn partner_restart(world: &World, domain: &str) -> Outcome {
    let latimer = gateway(world, "sip.example", Hop::Tls, domain, &[])?;
    let mut bob = world.agent("bob@sip.example")?;
    exchange(&mut bob, "bob@sip.example", &mut world.client("alice", domain)?, "before")?;
    world.peers("down", &[server_of(domain)])?;
    let status = bob.message(&format!("sip:alice@{domain}"), "while it is away").map(|answer| answer.status());
    world.peers("up", &[server_of(domain)])?;
    let status = status?;
    ensure([408, 480, 500, 503].contains(&status), || format!("answered {status}"))?;
    latimer.wait_log(&["side=xmpp", domain])?;

    let back = Instant::now();
    let mut alice = world.client("alice", domain)?;
    while bob.message(&format!("sip:alice@{domain}"), "after")?.status() != 200 {
        ensure(back.elapsed() < Duration::from_secs(60), || "not healed after 60 s".into())?;
        std::thread::sleep(Duration::from_millis(200));
    }
    alice.wait_message("after")?;
    exchange(&mut bob, "bob@sip.example", &mut alice, "and as before")
}

/// A new partner comes in; the streams of the old one stay.
fn sighup(world: &World) -> Outcome {
    for domain in ["xmpp.example", "ej.example"] {
        world.kamailio_hop(domain, Hop::Tls)?;
    }
    let mut config = Config::new(world)?;
    let latimer = Latimer::start(world, config.sip("sip.example", Hop::Tls).partner("xmpp.example", &[]))?;
    let mut bob = world.agent("bob@sip.example")?;
    let mut alice = world.client("alice", "xmpp.example")?;
    exchange(&mut bob, "bob@sip.example", &mut alice, "before")?;
    let status = bob.message("sip:alice@ej.example", "not yet")?.status();
    ensure(status >= 400, || format!("answered {status} before it was a partner"))?;

    latimer.reload(config.partner("ej.example", &[]))?;
    let begun = Instant::now();
    while bob.message("sip:alice@ej.example", "now")?.status() != 200 {
        ensure(begun.elapsed() < Duration::from_secs(5), || "the new partner is not served".into())?;
        std::thread::sleep(Duration::from_millis(100));
    }
    exchange(&mut bob, "bob@sip.example", &mut alice, "after")?;
    exchange(&mut bob, "bob@sip.example", &mut world.client("alice", "ej.example")?, "by the new one")?;
    let log = latimer.log();
    let streams =
        log.lines().filter(|l| l.contains("xmpp.stream.opened") && l.contains("partner=xmpp.example ")).count();
    equal("streams with the old partner", streams, 2)
}

fn sigterm(world: &World) -> Outcome {
    let mut latimer = gateway(world, "sip.example", Hop::Tls, "xmpp.example", &[])?;
    let mut bob = world.agent("bob@sip.example")?;
    exchange(&mut bob, "bob@sip.example", &mut world.client("alice", "xmpp.example")?, "before the end")?;
    latimer.signal("TERM")?;
    equal("the exit code", latimer.wait(Duration::from_secs(5))?.code(), Some(0))
}

/// Four deaths in a stream of messages both ways. What was answered 200 is there, and
/// nothing is there twice. What an XMPP user sent came, or an error did, if the server
/// uses stream management: ejabberd does not between servers, so nobody knows what was
/// on its way.
fn kill(world: &World, domain: &str) -> Outcome {
    let mut latimer = gateway(world, "sip.example", Hop::Tcp, domain, &[])?;
    let mut bob = world.agent("bob@sip.example")?;
    let mut alice = world.client("alice", domain)?;
    exchange(&mut bob, "bob@sip.example", &mut alice, "before")?;
    let (mut branches, mut sent) = (Vec::new(), Vec::new());
    let mut came = Vec::new();
    let mut errors = BTreeSet::new();
    for number in 0..400 {
        let text = format!("number {number}");
        branches.push((bob.begin_message(&format!("sip:alice@{domain}"), &text)?, text.clone()));
        sent.push((alice.message("bob@sip.example", &text)?, text));
        std::thread::sleep(Duration::from_millis(3));
        if number % 100 == 60 {
            latimer.signal("KILL")?;
            latimer.wait(Duration::from_secs(1))?;
            let ready = latimer.start_again()?;
            ensure(ready < Duration::from_secs(1), || format!("ready again after {ready:?}"))?;
        }
    }
    let mut acknowledged = Vec::new();
    let end = Instant::now() + Duration::from_secs(3);
    for (branch, text) in &branches {
        // Whoever hears nothing was told nothing.
        if bob.wait_final(branch, end.saturating_duration_since(Instant::now())).is_ok_and(|m| m.status() == 200) {
            acknowledged.push(text.clone());
        }
    }
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(3) {
        for message in alice.messages(Duration::from_millis(200)) {
            quiet = Instant::now();
            match message.attribute("type") {
                "error" => drop(errors.insert(message.attribute("id").to_string())),
                _ => came.push(message.text_of("body").to_string()),
            }
        }
    }
    let unique: BTreeSet<&String> = came.iter().collect();
    equal("messages that came twice to the XMPP user", came.len() - unique.len(), 0)?;
    let lost: Vec<&String> = acknowledged.iter().filter(|text| !unique.contains(text)).collect();
    ensure(lost.is_empty(), || format!("answered 200 and lost: {lost:?}"))?;

    let heard: Vec<String> = bob.requests().into_iter().map(|request| request.body).collect();
    let unique: BTreeSet<&String> = heard.iter().collect();
    equal("messages that came twice to the SIP user", heard.len() - unique.len(), 0)?;
    let lost: Vec<&String> =
        sent.iter().filter(|(id, text)| !unique.contains(text) && !errors.contains(id)).map(|(_, text)| text).collect();
    ensure(lost.is_empty() || server_of(domain) == "ejabberd", || format!("lost without an error: {lost:?}"))?;
    ensure(acknowledged.len() > 200, || format!("only {} of 400 were acknowledged", acknowledged.len()))
}
