//! A contact in the operator's words: what each side was told, when something last
//! changed, what comes next and what failed.

use super::state::Resource;
use super::table::{Authorization, Phase, Task};
use crate::base::slab::Key;
use crate::base::time::Instant;
use crate::gateway::Gateway;
use crate::gateway::report::{Contact, Direction};
use crate::gateway::route::Denied;

impl Gateway {
    /// Contacts from slot `from` on, `most` at most.
    pub(in crate::gateway) fn describe_from(
        &self,
        now: Instant,
        from: u32,
        most: u32,
        each: &mut dyn FnMut(Contact),
    ) -> Option<u32> {
        let to = from.saturating_add(most);
        let keys = (from..to).filter_map(|index| self.presence.contacts.key_at(index));
        keys.filter_map(|key| self.describe(now, key)).for_each(each);
        (to < self.presence.contacts.end()).then_some(to)
    }

    /// The contact of these bare addresses.
    pub(in crate::gateway) fn describe_pair(&self, now: Instant, sip: &str, xmpp: &str) -> Option<Contact> {
        self.describe(now, self.presence.find(sip, xmpp)?)
    }

    fn describe(&self, now: Instant, key: Key) -> Option<Contact> {
        let contact = self.presence.contacts.get(key)?;
        let (sip, xmpp) = self.presence.names(key)?;
        let (watch, grant) = (&contact.watch, &contact.grant);
        let ago = |at: Option<Instant>| at.map(|at| now.since(at));
        let subscribers = || watch.dialogs.iter().filter_map(|dialog| self.presence.subscribers.get(*dialog));
        let refresh = subscribers().filter(|s| s.phase == Phase::Live).map(|s| s.refresh.unwrap_or(s.expires)).min();
        let told = watch.shown.iter().map(|shown| {
            let known = subscribers().flat_map(|s| &s.resources).find(|resource| resource.name == shown.name);
            let show = known.filter(|known| known.is_available && shown.is_available).and_then(|known| known.show);
            in_words(&shown.name, shown.is_available, show.map(super::state::Show::as_str))
        });
        let known = |resource: &Resource| {
            in_words(&resource.name, resource.is_available, resource.show.map(super::state::Show::as_str))
        };
        let sip_believes = if grant.last_out.is_some() && grant.is_known {
            if grant.resources.is_empty() { "closed".to_owned() } else { joined(grant.resources.iter().map(known)) }
        } else {
            String::new()
        };
        let wants = |state| matches!(state, Authorization::Pending | Authorization::Active);
        let hindrance = self.hindrance(key);
        let not_added = || (!self.may_watch(key)).then(|| format!("ours: {}", Denied::NotContact.reason()));
        let watch_hindrance = hindrance.clone().or_else(not_added).filter(|_| wants(watch.state));
        let hindrance = hindrance.filter(|_| wants(grant.state));
        Some(Contact {
            sip: sip.as_str().to_owned(),
            xmpp: xmpp.as_str().to_owned(),
            xmpp_watches: Direction {
                state: word(watch.state),
                dialogs: u32::try_from(watch.dialogs.len()).unwrap_or(u32::MAX),
                peer_believes: joined(told),
                last_in: ago(watch.last_in),
                last_out: ago(watch.last_out),
                next_refresh: refresh.or_else(|| self.presence.planned(key, Task::Subscribe)).map(|at| at.since(now)),
                problem: watch_hindrance
                    .or_else(|| watch.trouble.get().and_then(|trouble| trouble.problem.as_deref()).map(str::to_owned)),
            },
            sip_watches: Direction {
                state: word(grant.state),
                dialogs: u32::try_from(grant.dialogs.len()).unwrap_or(u32::MAX),
                peer_believes: sip_believes,
                last_in: ago(grant.last_in),
                last_out: ago(grant.last_out),
                next_refresh: [Task::Probe, Task::Ask]
                    .into_iter()
                    .filter_map(|task| self.presence.planned(key, task))
                    .min()
                    .map(|at| at.since(now)),
                problem: hindrance
                    .or_else(|| grant.trouble.get().and_then(|trouble| trouble.problem.as_deref()).map(str::to_owned)),
            },
        })
    }
}

const fn word(state: Authorization) -> &'static str {
    match state {
        Authorization::None => "none",
        Authorization::Pending => "pending",
        Authorization::Active => "active",
        Authorization::Ended => "ended, the XMPP side is still to be told",
    }
}

fn in_words(name: &str, is_available: bool, show: Option<&str>) -> String {
    let basic = if is_available { "open" } else { "closed" };
    let words = [Some(name).filter(|name| !name.is_empty()), Some(basic), show];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
