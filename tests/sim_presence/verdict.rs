//! What has to be true when the faults are over: both sides know the same of each other,
//! nobody is shown what he may not see, and nobody was flooded.

use crate::cast::{Cast, UNDER_WAY_MS};
use crate::phones::Decision;
use crate::server::{Item, View};
use crate::story::{MIN_INTERVAL_S, SIP_DOMAIN, SIP_USERS, XMPP_USERS};

/// What is wrong, and between whom.
pub struct Problem {
    pub xmpp: String,
    pub sip: String,
    pub what: String,
}

/// Holds all pairs against the truth.
pub fn agree(cast: &Cast) -> Vec<Problem> {
    let mut problems = Vec::new();
    for xmpp in XMPP_USERS {
        for sip in SIP_USERS {
            let found = x2s(cast, xmpp, sip).into_iter().chain(s2x(cast, xmpp, sip)).chain(counts(cast, xmpp, sip));
            problems.extend(found.map(|what| Problem { xmpp: (*xmpp).into(), sip: (*sip).into(), what }));
        }
    }
    problems
}

fn item(cast: &Cast, xmpp: &str, sip: &str) -> Item {
    let contact = format!("{sip}@{SIP_DOMAIN}");
    cast.server.users.get(xmpp).and_then(|u| u.roster.get(&contact)).copied().unwrap_or_default()
}

/// The XMPP user watches the SIP user.
fn x2s(cast: &Cast, xmpp: &str, sip: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let item = item(cast, xmpp, sip);
    let contact = format!("{sip}@{SIP_DOMAIN}");
    let Some(user) = cast.server.users.get(xmpp) else { return problems };
    let view = user.views.get(&contact).cloned().unwrap_or_default();
    let decision = cast.phones.decision(sip, xmpp);
    let serving = cast.phones.serving(sip, xmpp);
    let truth = cast.phones.truth(sip, xmpp);
    let expected = if item.to && !user.online.is_empty() { truth } else { View::new() };
    if view != expected {
        problems.push(format!("X2S: {xmpp} is shown {view:?} of {sip}, true is {expected:?}"));
    }
    match (item.to, item.asked) {
        (true, _) if decision != Decision::Allowed => {
            problems.push(format!("X2S: the roster of {xmpp} says `to`, {sip} has decided {decision:?}"));
        }
        (false, true) if decision != Decision::Open => {
            problems.push(format!("X2S: {xmpp} still waits for {sip}, who has decided {decision:?}"));
        }
        _ => {}
    }
    if (item.to || item.asked) != (serving > 0) || serving > 1 {
        problems.push(format!("X2S: {serving} dialogs of {xmpp} at {sip}, the roster says {item:?}"));
    }
    problems
}

/// The SIP user watches the XMPP user.
fn s2x(cast: &Cast, xmpp: &str, sip: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let item = item(cast, xmpp, sip);
    let truth = cast.server.truth(xmpp, &format!("{sip}@{SIP_DOMAIN}"));
    for device in 0..2 {
        let Some(watch) = cast.phones.watches.get(&(sip.into(), xmpp.into(), device)) else { continue };
        let who = format!("S2X: {sip} (device {device})");
        let expected = if watch.wants { truth.clone() } else { View::new() };
        if watch.view != expected {
            problems.push(format!("{who} is shown {:?} of {xmpp}, true is {expected:?}", watch.view));
        }
        let state = match (watch.wants, item.from, item.asking) {
            (false, ..) => "",
            (true, true, _) => "active",
            (true, false, true) => "pending",
            (true, false, false) => "nothing: refused, and not told",
        };
        if watch.state != state {
            problems.push(format!("{who} is told {:?} about {xmpp}, true is {state:?}", watch.state));
        }
        // Without faults nobody gets two states within the interval; the first may have
        // waited until its way was known.
        if cast.story.calm
            && let Some(gap) = watch.shortest.filter(|gap| *gap + 250 < u64::from(MIN_INTERVAL_S) * 1000)
        {
            problems.push(format!("{who} got two states within {gap} ms"));
        }
    }
    problems
}

/// Was anybody asked twice, or flooded?
fn counts(cast: &Cast, xmpp: &str, sip: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let contact = format!("{sip}@{SIP_DOMAIN}");
    let tally = cast.server.tally.get(&(xmpp.into(), contact)).cloned().unwrap_or_default();
    let watches: Vec<_> =
        (0..2).filter_map(|device| cast.phones.watches.get(&(sip.into(), xmpp.into(), device))).collect();
    for asked in &tally.asked {
        let Some(answered) = tally.answered.iter().rev().find(|at| *at < asked) else { continue };
        let anew = watches.iter().flat_map(|w| &w.begun).any(|at| at + 1000 >= *answered && at <= asked);
        if *asked > answered + UNDER_WAY_MS && !anew {
            problems.push(format!("{xmpp} was asked about {sip} at {asked}, and had answered at {answered}"));
        }
    }
    let slack = 20 + 10 * cast.kills;
    for watch in &watches {
        let most = tally.changes + 2 * watch.subscribes + slack;
        if watch.notifies > most {
            problems.push(format!("{} NOTIFYs to {sip} about {xmpp}, {most} are enough", watch.notifies));
        }
    }
    let told = cast.phones.told.get(&(sip.into(), xmpp.into())).copied().unwrap_or_default();
    let most = told + 4 * tally.probes + slack;
    if tally.states > most {
        problems.push(format!("{} states of {sip} to {xmpp}, {most} are enough", tally.states));
    }
    problems
}
