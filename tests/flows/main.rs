//! Runs the golden flows: whole conversations through the gateway in virtual time, with
//! both neighbours played by the harness.
//!
//! `FLOWS_DIR` reads another folder, `FLOW=NAME` runs one flow. Flows of kinds that this
//! version does not serve (chat sessions, rooms) are read and held against the format, and
//! counted as skipped.

#![allow(unreachable_pub, reason = "modules are shared between test targets")]

mod compare;
mod format;
mod neighbours;
#[path = "../sim/net.rs"]
mod net;
#[path = "../sim/peers.rs"]
mod peers;
mod run;
#[path = "../sim/world.rs"]
mod world;

use format::{Flow, Lane, What};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

/// What a flow needs that this version does not have. Flows about messages (M), about
/// presence (P) and about the rest of what is served (E) always run.
fn later(flow: &Flow, flows: &BTreeMap<String, Flow>) -> Option<&'static str> {
    let served = flow.name.starts_with(['M', 'P', 'E']);
    if let Some(kind) = flow.prelude.as_ref().and_then(|name| flows.get(name)).and_then(|before| later(before, flows)) {
        return Some(kind);
    }
    if flow.config.iter().any(|(key, value)| key == "im.mode" && value == "session") {
        return Some("chat session");
    }
    for section in &flow.sections {
        let start = section.text.lines().next().unwrap_or_default();
        match section.what {
            What::Send(Lane::Msrp) | What::Expect(Lane::Msrp) | What::MsrpLink => return Some("MSRP"),
            _ if served => {}
            What::Send(Lane::Xmpp) | What::Expect(Lane::Xmpp) if start.trim_start().starts_with("<presence") => {
                return Some("rooms");
            }
            What::Expect(Lane::Sip)
                if ["SUBSCRIBE ", "NOTIFY ", "PUBLISH ", "INVITE ", "BYE "].iter().any(|m| start.starts_with(m)) =>
            {
                return Some("SIP dialogs");
            }
            _ => {}
        }
    }
    None
}

/// Written past the test harness, which swallows what a passing test prints.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn folder() -> PathBuf {
    std::env::var_os("FLOWS_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/flows"), PathBuf::from)
}

fn run_those(belongs: impl Fn(&str) -> bool) {
    let format::Folder { flows, problems } = format::read_folder(&folder());
    let wanted = std::env::var("FLOW").ok();
    let chosen = |name: &str| belongs(name) && wanted.as_ref().is_none_or(|wanted| wanted == name);
    let (mut run, mut failed) = (0, Vec::new());
    let mut skipped: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, problems) in problems.iter().filter(|(name, _)| chosen(name)) {
        tell(&format!("flow {name} ... FAILED\nit breaks the format:\n  {}", problems.join("\n  ")));
        failed.push(name.clone());
    }
    for (name, flow) in flows.iter().filter(|(name, _)| chosen(name) && !problems.contains_key(*name)) {
        if let Some(kind) = later(flow, &flows) {
            *skipped.entry(kind).or_default() += 1;
            continue;
        }
        run += 1;
        match run::run(flow, &flows) {
            Ok(()) => tell(&format!("flow {name} ... ok")),
            Err(problem) => {
                tell(&format!("flow {name} ... FAILED\n{problem}"));
                failed.push(name.clone());
            }
        }
    }
    tell(&format!(
        "flows: {run} run, {} failed, {} skipped {skipped:?}",
        failed.len(),
        skipped.values().sum::<usize>()
    ));
    assert!(failed.is_empty(), "failed: {}", failed.join(" "));
}

#[test]
fn message_flows_hold() {
    run_those(|name| name.starts_with('M'));
}

#[test]
fn presence_flows_hold() {
    run_those(|name| name.starts_with('P'));
}

#[test]
fn all_other_flows_hold() {
    run_those(|name| !name.starts_with(['M', 'P']));
}

/// Numbers that flows claim to cover are those of the requirements in
/// `tests/standards`.
#[test]
fn flows_name_requirements_that_exist() {
    let standards = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/standards");
    let mut known = String::new();
    for entry in std::fs::read_dir(standards).expect("the standards are there").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "md") {
            known.push_str(&std::fs::read_to_string(entry.path()).expect("a text"));
        }
    }
    let flows = format::read_folder(&folder()).flows;
    let unknown: Vec<_> = flows
        .values()
        .flat_map(|flow| flow.covers.iter().map(move |number| (&flow.name, number)))
        .filter(|(_, number)| !known.contains(&format!("**{number}**")))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
