//! Runs the golden flows: whole conversations through the gateway in virtual time, with
//! both neighbours played by the harness.
//!
//! `FLOWS_DIR` reads another folder, `FLOW=NAME` runs one flow. Flows of kinds that this
//! version does not serve (chat sessions, rooms) are read and held against the format, and
//! counted as skipped.

#![allow(unreachable_pub, reason = "modules are shared between test targets")]

mod compare;
mod discovered;
mod doubt;
mod format;
mod neighbours;
#[path = "../sim/net.rs"]
mod net;
#[path = "../sim/peers.rs"]
mod peers;
mod rights;
mod run;
#[path = "../sim/world.rs"]
mod world;

use format::{Flow, Lane, What};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;

/// What a flow needs that this version does not have. Flows about messages (M), about
/// presence (P), about Lync's dialect (L), about rights (R) and about the rest of what is
/// served (E) always run.
fn later(flow: &Flow, flows: &BTreeMap<String, Flow>) -> Option<&'static str> {
    let served = flow.name.starts_with(['M', 'P', 'E', 'L', 'R']);
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
fn lync_flows_hold() {
    run_those(|name| name.starts_with('L'));
}

#[test]
fn all_other_flows_hold() {
    run_those(|name| !name.starts_with(['M', 'P', 'L']));
}

/// What people say is written into the log where that was switched on, and never else.
#[test]
fn bodies_are_logged_only_where_that_is_wanted() {
    let flows = format::read_folder(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/flows")).flows;
    for (name, texts) in
        [("M01-x2s-message", 1), ("M02-s2x-message", 1), ("L01-s2x-session", 1), ("L04-x2s-session", 1)]
    {
        let mut flow = flows.get(name).expect("the flow").clone();
        let said = |flow: &Flow| {
            let lines = run::log(flow, &flows).expect("it holds");
            let is_told = |line: &&String| line.contains("message.body");
            lines.iter().filter(is_told).map(|line| line.split("body=").last().unwrap_or_default().len()).sum::<usize>()
        };
        assert_eq!(said(&flow), 0, "{name}");
        flow.config.push(("set".into(), "xmpp log-message-bodies true".into()));
        assert!(said(&flow) >= texts, "{name}");
    }
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

/// Requirements on presence that are none on the program, with the reason.
const NOT_OURS: [(&str, &str); 1] =
    [("REQ-8048-76", "what a SIP server asks of our certificate, which the operator gets for the domains he serves")];

/// Every requirement on presence has a flow, or a test or a piece of code that names it.
#[test]
fn every_requirement_on_presence_is_named() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let standard = std::fs::read_to_string(root.join("tests/standards/rfc8048-presence.md")).expect("a text");
    let flows = format::read_folder(&root.join("tests/flows")).flows;
    let mut named: BTreeSet<String> = flows.values().flat_map(|flow| flow.covers.iter().cloned()).collect();
    named.extend(NOT_OURS.iter().map(|(number, _)| (*number).to_string()));
    let this_file = root.join("tests/flows/main.rs");
    let mut folders = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path != this_file && path.extension().is_some_and(|extension| extension == "rs") {
                named.extend(numbers_in(&std::fs::read_to_string(path).expect("a text")));
            }
        }
    }
    let wanted: BTreeSet<String> = standard
        .lines()
        .filter(|line| line.starts_with("- **REQ-8048-"))
        .flat_map(|line| numbers_in(line).into_iter().next())
        .collect();
    assert!(wanted.len() >= 83, "only {} requirements were found", wanted.len());
    let missing: Vec<&String> = wanted.difference(&named).collect();
    assert!(missing.is_empty(), "named nowhere: {missing:?}");
}

/// The requirements on presence that a text names; `REQ-8048-6, -11` names two.
fn numbers_in(text: &str) -> Vec<String> {
    let mut numbers = Vec::new();
    for piece in text.split("REQ-8048-").skip(1) {
        let mut rest = piece;
        loop {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if digits.is_empty() {
                break;
            }
            rest = &rest[digits.len()..];
            numbers.push(format!("REQ-8048-{digits}"));
            let Some(more) = rest.strip_prefix(", -") else { break };
            rest = more;
        }
    }
    numbers
}
