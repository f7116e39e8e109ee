//! What an XMPP user who watches a SIP user is told: the difference between what is known
//! and what he was told last, one stanza a client (D-17), and the end of it.

use super::document;
use super::state::Resource;
use super::table::{Authorization, Phase, Shown, Task, Waiting};
use super::{ROOM_RETRY, back_off, contact_ticket};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::slab::Key;
use crate::base::text::Escaped;
use crate::base::time::Instant;
use crate::gateway::Gateway;
use crate::xmpp::server::{Refused, Undelivered};
use crate::xmpp::stanza::{Head, Kind, StanzaError};
use core::hash::{Hash, Hasher};
use core::time::Duration;
use std::hash::DefaultHasher;

/// What stops the telling for now.
enum Stop {
    /// The way has no room, or is no way: again later.
    Later(Instant),
    /// There will be no way.
    Never,
}

impl Gateway {
    /// Tells the XMPP user of a contact what he was not told yet.
    pub(super) fn tell(&mut self, cx: &mut Cx<'_>, key: Key) {
        match self.try_tell(cx, key) {
            Ok(()) => self.forget_if_empty(key),
            Err(Stop::Later(at)) => self.presence.plan_by(key, Task::Tell, at),
            Err(Stop::Never) => {
                if let Some(contact) = self.presence.contacts.get_mut(key)
                    && contact.watch.state == Authorization::Ended
                {
                    contact.watch.state = Authorization::None;
                    contact.watch.shown = Vec::new();
                    self.store(cx, key);
                }
                self.forget_if_empty(key);
            }
        }
    }

    fn try_tell(&mut self, cx: &mut Cx<'_>, key: Key) -> Result<(), Stop> {
        if !self.is_served(key) {
            return Err(Stop::Never);
        }
        let Some(contact) = self.presence.contacts.get(key) else { return Ok(()) };
        match contact.watch.state {
            Authorization::None => Ok(()),
            Authorization::Ended => self.tell_end(cx, key),
            Authorization::Pending => Ok(()),
            Authorization::Active => {
                if contact.record > self.presence.safe {
                    // What lasts is promised when it does.
                    let record = contact.record;
                    let is_waiting = contact.watch.say_subscribed;
                    if contact.watch.waits {
                        return Ok(());
                    }
                    if is_waiting {
                        if let Some(contact) = self.presence.contacts.get_mut(key) {
                            contact.watch.waits = true;
                        }
                        self.presence.waiting.push_back((record, Waiting::Contact(key)));
                        return Ok(());
                    }
                }
                self.tell_subscribed(cx, key)?;
                self.tell_state(cx, key)
            }
        }
    }

    fn tell_subscribed(&mut self, cx: &mut Cx<'_>, key: Key) -> Result<(), Stop> {
        let Some(contact) = self.presence.contacts.get(key).filter(|contact| contact.watch.say_subscribed) else {
            return Ok(());
        };
        debug_assert!(contact.watch.state == Authorization::Active);
        let Some((sip, xmpp)) = self.presence.names(key) else { return Ok(()) };
        let sent = self.send_bare(cx, Some(contact_ticket(key)), &sip, &xmpp, "subscribed");
        self.sent(cx, key, sent)?;
        if let Some(contact) = self.presence.contacts.get_mut(key) {
            (contact.watch.say_subscribed, contact.watch.unconfirmed) = (false, true);
        }
        Ok(())
    }

    /// What is known of the SIP user's clients; `None`: nothing new is known, because a
    /// subscription is just being begun, or says nothing.
    fn known(&self, key: Key) -> Option<Vec<Resource>> {
        let contact = self.presence.contacts.get(key)?;
        if !self.may_watch(key) {
            return Some(Vec::new());
        }
        let dialogs = || contact.watch.dialogs.iter().filter_map(|dialog| self.presence.subscribers.get(*dialog));
        let informed = dialogs().filter(|s| s.phase == Phase::Live && s.is_informed);
        let mut known: Vec<Resource> = Vec::new();
        let mut is_informed = false;
        for subscriber in informed {
            is_informed = true;
            for resource in &subscriber.resources {
                if !known.iter().any(|other| other.name == resource.name) {
                    known.push(resource.clone());
                }
            }
        }
        if is_informed {
            known.truncate(crate::limits::RESOURCES_MAX);
            return Some(known);
        }
        // Nobody speaks for the contact any more, or will in a moment.
        let mut may_speak =
            dialogs().map(|s| s.phase != Phase::Live || s.forks_until > self.presence.clock.0).peekable();
        let is_trying = if may_speak.peek().is_some() { may_speak.any(|may| may) } else { contact.watch.failures == 0 };
        (!is_trying || contact.watch.is_closed).then(Vec::new)
    }

    fn tell_state(&mut self, cx: &mut Cx<'_>, key: Key) -> Result<(), Stop> {
        let Some(known) = self.known(key) else { return Ok(()) };
        let Some((_, xmpp)) = self.presence.names(key) else { return Ok(()) };
        let with_status = self.sees_status(xmpp.domain());
        let news = self.news(key, &known, with_status);
        if news.is_empty() {
            return Ok(());
        }
        let Some(contact) = self.presence.contacts.get(key) else { return Ok(()) };
        let interval = Duration::from_secs(u64::from(self.settings.presence.min_interval_s));
        if let Some(at) = contact.watch.last_out.map(|last| last.after(interval)).filter(|at| *at > cx.now) {
            cx.count(Counter::PresenceCoalesced);
            return Err(Stop::Later(at));
        }
        let names = |contact: &super::table::Contact| {
            contact.watch.shown.iter().filter(|s| s.is_available).map(|s| s.name.clone()).collect::<Vec<_>>()
        };
        let before = names(contact);
        // What he is about to see is kept first: after a crash it can be taken back.
        if let Some(contact) = self.presence.contacts.get_mut(key) {
            for resource in news.iter().filter(|resource| resource.is_available) {
                if !contact.watch.shown.iter().any(|shown| shown.name == resource.name) {
                    contact.watch.shown.reserve_exact(1);
                    contact.watch.shown.push(Shown { name: resource.name.clone(), is_available: true, digest: 0 });
                } else if let Some(shown) = contact.watch.shown.iter_mut().find(|s| s.name == resource.name) {
                    shown.is_available = true;
                }
            }
            if names(contact) != before {
                self.store(cx, key);
            }
        }
        for resource in &news {
            let sent = self.send_resource_checked(cx, key, xmpp.bare(), resource);
            self.sent(cx, key, sent)?;
            let Some(contact) = self.presence.contacts.get_mut(key) else { return Ok(()) };
            contact.watch.last_out = Some(cx.now);
            let digest = digest(resource, with_status);
            match contact.watch.shown.iter_mut().find(|shown| shown.name == resource.name) {
                Some(shown) => (shown.is_available, shown.digest) = (resource.is_available, digest),
                None => contact.watch.shown.push(Shown {
                    name: resource.name.clone(),
                    is_available: resource.is_available,
                    digest,
                }),
            }
        }
        if let Some(contact) = self.presence.contacts.get_mut(key) {
            if known.is_empty() {
                // It was said of the user as a whole, or of each client.
                contact.watch.shown.iter_mut().for_each(|shown| shown.is_available = false);
            } else {
                let is_whole = known.iter().any(|resource| resource.name.is_empty());
                contact.watch.shown.retain(|shown| is_whole || !shown.name.is_empty());
            }
            if names(contact) != before {
                self.store(cx, key);
            }
        }
        self.presence.weigh(key);
        Ok(())
    }

    /// What differs from what the XMPP user was told: clients that changed, then those
    /// that are gone.
    fn news(&self, key: Key, known: &[Resource], with_status: bool) -> Vec<Resource> {
        let Some(contact) = self.presence.contacts.get(key) else { return Vec::new() };
        let shown = &contact.watch.shown;
        let mut news: Vec<Resource> = shown
            .iter()
            .filter(|shown| shown.is_available || (shown.digest == 0 && !shown.name.is_empty()))
            .filter(|shown| !known.iter().any(|resource| resource.name == shown.name))
            .map(|shown| Resource::gone(&shown.name))
            .collect();
        let is_new = |resource: &&Resource| {
            shown
                .iter()
                .find(|shown| shown.name == resource.name)
                .is_none_or(|shown| shown.digest != digest(resource, with_status))
        };
        news.extend(known.iter().filter(is_new).cloned());
        let is_spoken_for = contact.watch.dialogs.iter().any(|dialog| {
            self.presence.subscribers.get(*dialog).is_some_and(|s| s.phase == Phase::Live && s.is_informed)
        });
        let was_said = shown.iter().any(|shown| shown.name.is_empty() && !shown.is_available && shown.digest != 0);
        if known.is_empty() && is_spoken_for && !was_said && self.may_watch(key) {
            // A document without a tuple speaks of the user as a whole (REQ-8048-65).
            return vec![Resource::gone("")];
        }
        news
    }

    fn tell_end(&mut self, cx: &mut Cx<'_>, key: Key) -> Result<(), Stop> {
        let Some((sip, xmpp)) = self.presence.names(key) else { return Ok(()) };
        let Some(contact) = self.presence.contacts.get(key) else { return Ok(()) };
        if contact.watch.is_end_said {
            return Ok(());
        }
        let gone: Vec<Box<str>> =
            contact.watch.shown.iter().filter(|shown| shown.is_available).map(|shown| shown.name.clone()).collect();
        let error = contact.watch.trouble.get().and_then(|trouble| trouble.error.clone());
        for name in gone {
            let sent = self.send_resource_checked(cx, key, xmpp.bare(), &Resource::gone(&name));
            self.sent(cx, key, sent)?;
            if let Some(contact) = self.presence.contacts.get_mut(key) {
                contact.watch.shown.retain(|shown| shown.name != name);
            }
        }
        let sent = match error {
            None => self.send_bare(cx, Some(contact_ticket(key)), &sip, &xmpp, "unsubscribed"),
            Some((condition, id)) => {
                let error = StanzaError::new(condition);
                let head = Head {
                    kind: Kind::Presence,
                    from: sip.bare(),
                    to: xmpp.bare(),
                    id: id.as_deref(),
                    type_: Some("error"),
                    lang: None,
                };
                let sent = self.xmpp.send(cx, Some(contact_ticket(key)), sip.domain(), xmpp.domain(), |w| {
                    head.emit(w, |w| error.emit(w));
                });
                Self::count_presence_out(cx, sent)
            }
        };
        self.sent(cx, key, sent)?;
        if let Some(contact) = self.presence.contacts.get_mut(key) {
            contact.watch.shown = Vec::new();
            contact.watch.is_end_said = true;
        }
        Ok(())
    }

    /// Notes what became of a stanza.
    fn sent(&mut self, cx: &mut Cx<'_>, key: Key, sent: Result<(), Refused>) -> Result<(), Stop> {
        let Some(contact) = self.presence.contacts.get_mut(key) else { return Ok(()) };
        let refused = match sent {
            Ok(()) => {
                contact.watch.in_flight = contact.watch.in_flight.saturating_add(1);
                return Ok(());
            }
            Err(refused) => refused,
        };
        cx.debug("presence.not-told", format_args!("side=xmpp cause={refused:?}"));
        match refused {
            Refused::Overload => {
                let spread = Duration::from_millis(cx.rng.below(1000));
                Err(Stop::Later(cx.now.after(ROOM_RETRY + spread)))
            }
            Refused::NotPartner => Err(Stop::Never),
            Refused::TooLarge { .. } => {
                cx.count(Counter::PresenceOverload);
                Ok(())
            }
            Refused::Failed(_) => {
                let wait = back_off(cx, contact.watch.tell_failures);
                contact.watch.tell_failures = contact.watch.tell_failures.saturating_add(1);
                Err(Stop::Later(cx.now.after(wait)))
            }
        }
    }

    /// A stanza of a contact arrived.
    pub(super) fn told(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        let watch = &mut contact.watch;
        watch.in_flight = watch.in_flight.saturating_sub(1);
        if watch.in_flight > 0 {
            return;
        }
        let was_unconfirmed = core::mem::take(&mut watch.unconfirmed);
        watch.tell_failures = 0;
        contact.grant.is_asking = false;
        let is_of_xmpp = |problem: &mut Box<str>| problem.starts_with("xmpp:");
        contact.grant.trouble.change(|trouble| trouble.problem.take_if(is_of_xmpp));
        if was_unconfirmed && contact.watch.state == Authorization::Active {
            // From now on it need not be said again after a restart.
            self.store(cx, key);
        }
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        let watch = &mut contact.watch;
        // What is closed, and not spoken of any more, need not be remembered.
        if watch.shown.iter().any(|shown| !shown.is_available && shown.digest != 0) {
            self.forget_closed(cx, key);
        }
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        let watch = &mut contact.watch;
        watch.trouble.change(|trouble| trouble.problem.take_if(is_of_xmpp));
        if watch.state == Authorization::Ended && watch.is_end_said {
            // He knows that it is over.
            (watch.state, watch.is_end_said) = (Authorization::None, false);
            watch.trouble.change(|trouble| trouble.error = None);
            self.store(cx, key);
            self.forget_if_empty(key);
        }
    }

    fn forget_closed(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(known) = self.known(key) else { return };
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        let before = contact.watch.shown.len();
        let is_spoken_of = |shown: &Shown| shown.name.is_empty() || known.iter().any(|r| r.name == shown.name);
        contact.watch.shown.retain(|shown| shown.is_available || shown.digest == 0 || is_spoken_of(shown));
        if contact.watch.shown.len() != before {
            self.store(cx, key);
        }
    }

    /// A stanza of a contact did not arrive: all that may have been lost with it is said
    /// again.
    pub(super) fn not_told(&mut self, cx: &mut Cx<'_>, key: Key, why: Undelivered) {
        let Some((sip, xmpp)) = self.presence.names(key) else { return };
        cx.refuse(
            Counter::PresenceUndelivered,
            "presence.undelivered",
            format_args!("side=xmpp from={} to={} cause={why:?}", self.named(sip.as_str()), self.named(xmpp.as_str()),),
        );
        let probe_is_open = self.presence.planned(key, Task::ProbeOver).is_some();
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        let watch = &mut contact.watch;
        watch.in_flight = watch.in_flight.saturating_sub(1);
        watch.say_all_again();
        watch.is_end_said = false;
        let problem = format!("xmpp: {why:?}");
        contact.grant.trouble.change(|trouble| trouble.problem = Some(problem.as_str().into()));
        watch.trouble.change(|trouble| trouble.problem = Some(problem.into()));
        if core::mem::take(&mut watch.unconfirmed) && watch.state == Authorization::Active {
            watch.say_subscribed = true;
        }
        let wait = back_off(cx, watch.tell_failures);
        watch.tell_failures = watch.tell_failures.saturating_add(1);
        let was_asking = core::mem::take(&mut contact.grant.is_asking);
        let watch = &mut contact.watch;
        if matches!(watch.state, Authorization::Active | Authorization::Ended) {
            self.presence.plan_by(key, Task::Tell, cx.now.after(wait));
        }
        if was_asking {
            self.ask_later(cx, key, false);
        }
        if probe_is_open {
            self.presence.cancel(key, Task::ProbeOver);
            self.unknown(cx, key);
            self.presence.plan_by(key, Task::Probe, cx.now.after(wait));
        }
    }

    /// Writes one client's presence to an address, without minding what becomes of it.
    pub(super) fn send_resource(&mut self, cx: &mut Cx<'_>, key: Key, to: &str, resource: &Resource) {
        let Some((_, xmpp)) = self.presence.names(key) else { return };
        if let Err(refused) = self.emit_resource(cx, key, None, to, resource) {
            cx.refuse(
                Counter::PresenceUndelivered,
                "presence.answer-lost",
                format_args!("side=xmpp domain={} cause={refused:?}", Escaped(xmpp.domain())),
            );
        }
    }

    fn send_resource_checked(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        to: &str,
        resource: &Resource,
    ) -> Result<(), Refused> {
        self.emit_resource(cx, key, Some(contact_ticket(key)), to, resource)
    }

    pub(super) fn emit_resource(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        ticket: Option<crate::base::cx::Ticket>,
        to: &str,
        resource: &Resource,
    ) -> Result<(), Refused> {
        let Some((sip, xmpp)) = self.presence.names(key) else { return Ok(()) };
        let with_status = self.sees_status(xmpp.domain());
        if self.presence.capabilities.is_empty() {
            self.presence.capabilities = Self::phone_capabilities(cx);
        }
        let Self { presence, xmpp: server, .. } = self;
        let sent = server.send(cx, ticket, sip.domain(), xmpp.domain(), |w| {
            document::to_stanza(w, sip.bare(), to, resource, with_status, |w| {
                w.str(&presence.capabilities);
            });
        });
        Self::count_presence_out(cx, sent)
    }

    /// Answers a probe from what is known (REQ-8048-73): to the client that asks, and at most
    /// once in the least interval. Another that asks meanwhile is told with all of them when
    /// that is over.
    pub(super) fn answer_probe(&mut self, cx: &mut Cx<'_>, key: Key, to: &str) {
        let least = Duration::from_secs(u64::from(self.settings.presence.min_interval_s));
        let asker = self.presence.hash(to, "") as u32;
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        let watch = &mut contact.watch;
        if watch.state != Authorization::Active {
            return;
        }
        if let Some(next) = watch.last_probe.map(|last| last.after(least)).filter(|next| *next > cx.now) {
            cx.count(Counter::PresenceCoalesced);
            if watch.last_prober != asker {
                watch.say_all_again();
                self.presence.plan_by(key, Task::Tell, next);
            }
            return;
        }
        (watch.last_probe, watch.last_prober) = (Some(cx.now), asker);
        let Some(known) = self.known(key) else { return self.tell_all_again(key) };
        let mut is_said = false;
        for resource in known.iter().filter(|resource| resource.is_available) {
            self.send_resource(cx, key, to, resource);
            is_said = true;
        }
        if !is_said {
            self.send_resource(cx, key, to, &Resource::gone(""));
        }
    }

    /// What becomes known next is told even if it is what was told before: a client has
    /// come that heard nothing of it.
    pub(super) fn tell_all_again(&mut self, key: Key) {
        if let Some(contact) = self.presence.contacts.get_mut(key) {
            contact.watch.say_all_again();
        }
    }

    /// What is shown of a contact is gone, since the program ends or he is watched anew. Gives
    /// how many stanzas that took.
    pub(super) fn say_gone(&mut self, cx: &mut Cx<'_>, key: Key) -> usize {
        let Some((_, xmpp)) = self.presence.names(key) else { return 0 };
        let Some(contact) = self.presence.contacts.get_mut(key) else { return 0 };
        if !matches!(contact.watch.state, Authorization::Active | Authorization::Ended) {
            return 0;
        }
        let shown = core::mem::take(&mut contact.watch.shown);
        let gone: Vec<Shown> = shown.into_iter().filter(|shown| shown.is_available).collect();
        if gone.is_empty() {
            return 0;
        }
        self.store(cx, key);
        for shown in &gone {
            self.send_resource(cx, key, xmpp.bare(), &Resource::gone(&shown.name));
        }
        gone.len()
    }
}

/// A number that stands for all that a client's presence says, with its status or without;
/// never 0.
fn digest(resource: &Resource, with_status: bool) -> u32 {
    let mut hasher = DefaultHasher::new();
    resource.is_available.hash(&mut hasher);
    resource.show.map(super::state::Show::as_str).hash(&mut hasher);
    resource.priority.hash(&mut hasher);
    resource.more.hash(&mut hasher);
    for status in resource.statuses.iter().filter(|_| with_status) {
        status.lang.hash(&mut hasher);
        status.text.hash(&mut hasher);
    }
    (hasher.finish() as u32) | 1
}
