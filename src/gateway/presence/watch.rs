//! An XMPP user watches a SIP user (RFC 8048 section 5.2): one authorization that lasts,
//! and under it SIP subscriptions that are refreshed, replaced and repaired for as long
//! as it stands. The XMPP user sees nothing of that.

use super::back_off;
use super::table::{Authorization, Contact, NoRoom, Phase, Subscriber, Task};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::slab::Key;
use crate::base::text::Escaped;
use crate::gateway::policy::What;
use crate::gateway::{Gateway, message};
use crate::xmpp::jid::Jid;
use crate::xmpp::stanza::{Condition, Stanza, StanzaError};
use core::time::Duration;

/// How long a subscription nobody ever accepted is tried, before its user is told.
const NEW_TRIED_MAX: Duration = Duration::from_secs(24 * 3600);

type Outcome = Result<Option<u64>, StanzaError<'static>>;

fn refuse(condition: Condition, cause: &'static str) -> StanzaError<'static> {
    StanzaError::new(condition).with_text(cause)
}

/// What the XMPP user does.
impl Gateway {
    /// `subscribe`: the XMPP user wants to see the SIP user (REQ-8048-6, -11).
    pub(super) fn subscribe_from_xmpp(&mut self, cx: &mut Cx<'_>, stanza: &Stanza<'_>) -> Outcome {
        let (sip, xmpp) = (stanza.to.to_bare(), stanza.from.to_bare());
        let is_contact = self.is_contact(&sip, &xmpp);
        if let Err(denied) = self.routes.from_xmpp(&self.settings, xmpp.domain(), sip.domain(), is_contact) {
            return Err(StanzaError::new(denied.condition()).with_text(denied.reason()));
        }
        if let Err(denial) = self.may_be_reached(cx, &sip, xmpp.domain(), What::Presence) {
            cx.count(denial.counter());
            return Err(denial.error());
        }
        if let Err(held) = self.hold_discovered(cx, xmpp.domain(), sip.bare()) {
            let (counter, error) = held.error();
            cx.count(counter);
            return Err(error);
        }
        if self.is_unknown(cx.now, &sip) {
            cx.count(Counter::UnknownUser);
            return Err(Self::unknown_user());
        }
        if message::sip_uri(&sip, false).is_err() || message::sip_uri(&xmpp, false).is_err() {
            return Err(refuse(Condition::JidMalformed, "the address has no SIP form"));
        }
        let key = self.presence.find_or_new(&sip, &xmpp).map_err(|no_room| match no_room {
            NoRoom::Table => refuse(Condition::ResourceConstraint, "too many contacts are kept"),
            NoRoom::User => refuse(Condition::PolicyViolation, "too many contacts of one user"),
        })?;
        let Some(contact) = self.presence.contacts.get_mut(key) else { return Ok(None) };
        match contact.watch.state {
            Authorization::Active => {
                // He lost it: so he hears everything again (REQ-XI-2).
                contact.watch.say_subscribed = true;
                contact.watch.say_all_again();
                self.tell(cx, key);
                if !self.watch_is_live(key) {
                    self.try_soon(cx, key);
                }
                Ok(None)
            }
            Authorization::Pending => {
                let record = contact.record;
                if contact.watch.dialogs.is_empty() {
                    self.try_soon(cx, key);
                }
                Ok(Some(record))
            }
            Authorization::None | Authorization::Ended => {
                // An end that is not said yet would have taken back what he was shown.
                self.say_gone(cx, key);
                let Some(contact) = self.presence.contacts.get_mut(key) else { return Ok(None) };
                let watch = &mut contact.watch;
                watch.state = Authorization::Pending;
                (watch.is_new, watch.failures) = (true, 0);
                watch.is_end_said = false;
                watch.trouble.change(|trouble| {
                    (trouble.error, trouble.failing_since) = (None, None);
                    trouble.asked_id = stanza.id.map(Into::into);
                });
                let record = self.store(cx, key);
                self.begin_watch(cx, key);
                Ok(record)
            }
        }
    }

    /// `unsubscribe`: he does not want to see him any more (REQ-8048-24, -27).
    pub(super) fn unsubscribe_from_xmpp(&mut self, cx: &mut Cx<'_>, stanza: &Stanza<'_>) -> Outcome {
        let Some(key) = self.presence.find(stanza.to.bare(), stanza.from.bare()) else {
            // Nothing to end: he hears so (REQ-8048-27).
            let sent = self.send_bare(cx, None, &stanza.to, &stanza.from, "unsubscribed");
            Self::note_lost_answer(cx, stanza.from.domain(), sent);
            return Ok(None);
        };
        Ok(self.end_watch(cx, key))
    }

    /// `probe`: his server asks on his behalf (D-18).
    pub(super) fn probe_from_xmpp(&mut self, cx: &mut Cx<'_>, stanza: &Stanza<'_>) -> Outcome {
        let (sip, xmpp) = (stanza.to.to_bare(), stanza.from.to_bare());
        let known = self.presence.find(sip.bare(), xmpp.bare());
        let state = known.and_then(|key| self.presence.contacts.get(key)).map(|contact| contact.watch.state);
        if let Some(key) = known
            && matches!(state, Some(Authorization::Active | Authorization::Pending))
        {
            if self.watch_is_live(key) {
                // He starts a session, so a refresh that was left out is due again.
                self.user_is_online(cx, xmpp.bare(), sip.domain());
                self.answer_probe(cx, key, stanza.from.as_str());
            } else {
                self.tell_all_again(key);
                self.try_soon(cx, key);
            }
            return Ok(None);
        }
        let is_contact = self.is_contact(&sip, &xmpp);
        if let Err(denied) = self.routes.from_xmpp(&self.settings, xmpp.domain(), sip.domain(), is_contact) {
            cx.debug(
                "presence.probe-denied",
                format_args!("from={} cause={}", self.named(xmpp.as_str()), denied.reason()),
            );
            self.say_unsubscribed_to(cx, &sip, &xmpp);
            return Ok(None);
        }
        if let Err(denial) = self.may_be_reached(cx, &sip, xmpp.domain(), What::Presence) {
            cx.refuse(
                denial.counter(),
                "presence.probe-denied",
                format_args!("from={} cause={}", self.named(xmpp.as_str()), Escaped(denial.reason())),
            );
            self.say_unsubscribed_to(cx, &sip, &xmpp);
            return Ok(None);
        }
        if self.presence.is_refused(sip.bare(), xmpp.bare()) {
            self.say_unsubscribed_to(cx, &sip, &xmpp);
            return Ok(None);
        }
        let Ok(key) = self.presence.find_or_new(&sip, &xmpp) else {
            cx.refuse(Counter::PresenceOverload, "presence.full", format_args!("side=ours what=poll"));
            return Ok(None);
        };
        let dialogs = self.presence.contacts.get(key).map(|contact| contact.watch.dialogs.clone()).unwrap_or_default();
        let is_polling = !dialogs.is_empty();
        for dialog in dialogs {
            let asker = self.presence.subscribers.get_mut(dialog).and_then(|subscriber| subscriber.poll.as_mut());
            if let Some(asker) = asker.filter(|asker| ***asker != *stanza.from.as_str()) {
                // Two clients of his ask at once: the answer is for both.
                *asker = xmpp.bare().into();
            }
        }
        if is_polling || !self.presence.may_poll(key, cx.now) {
            cx.count(Counter::PresenceCoalesced);
            self.forget_if_empty(key);
            return Ok(None);
        }
        if self.send_subscribe_outside(cx, key, 0, Some(stanza.from.as_str())).is_none() {
            self.forget_if_empty(key);
        }
        Ok(None)
    }

    /// He asks while no dialog lives: it is tried before its time, but no more often than
    /// he may be told anything, however often he asks.
    fn try_soon(&mut self, cx: &Cx<'_>, key: Key) {
        let min = Duration::from_secs(u64::from(self.settings.presence.min_interval_s.max(1)));
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        let next = contact.watch.last_probe.map(|last| last.after(min)).filter(|at| *at > cx.now);
        if next.is_none() {
            contact.watch.last_probe = Some(cx.now);
        }
        self.presence.plan_by(key, Task::Subscribe, next.unwrap_or(cx.now));
    }

    pub(super) fn say_unsubscribed_to(&mut self, cx: &mut Cx<'_>, sip: &Jid, xmpp: &Jid) {
        let sent = self.send_bare(cx, None, sip, xmpp, "unsubscribed");
        Self::note_lost_answer(cx, xmpp.domain(), sent);
    }

    /// Is there a dialog in which NOTIFYs came, or may still come?
    pub(super) fn watch_is_live(&self, key: Key) -> bool {
        let Some(contact) = self.presence.contacts.get(key) else { return false };
        contact.watch.dialogs.iter().any(|dialog| {
            self.presence.subscribers.get(*dialog).is_some_and(|s| s.phase != Phase::Ending && s.poll.is_none())
        })
    }

    /// The XMPP user shows himself to our domain: refreshes that wait for that, or were left
    /// out because he did not, go out.
    pub(super) fn user_is_online(&mut self, cx: &Cx<'_>, xmpp: &str, sip_domain: &str) {
        let waits = |subscriber: &Subscriber| {
            subscriber.phase == Phase::Live && (subscriber.probing.is_some() || subscriber.refresh.is_none())
        };
        for dialog in self.dialogs_of(xmpp, sip_domain, waits) {
            if let Some(subscriber) = self.presence.subscribers.get_mut(dialog) {
                // In its turn, and without another probe: there may be thousands.
                (subscriber.probing, subscriber.refresh) = (None, Some(cx.now));
                subscriber.is_in_doubt = true;
            }
            self.presence.arm_subscriber(dialog);
        }
    }

    /// His server says that it does not tell: the refresh is left out.
    pub(super) fn user_is_not_online(&mut self, xmpp: &str, sip_domain: &str) {
        for dialog in self.dialogs_of(xmpp, sip_domain, |subscriber| subscriber.probing.is_some()) {
            if let Some(subscriber) = self.presence.subscribers.get_mut(dialog) {
                (subscriber.probing, subscriber.refresh) = (None, None);
            }
            self.presence.arm_subscriber(dialog);
        }
    }

    /// Those dialogs of an XMPP user with a SIP domain.
    fn dialogs_of(&self, xmpp: &str, sip_domain: &str, which: impl Fn(&Subscriber) -> bool) -> Vec<Key> {
        let mut dialogs = Vec::new();
        for key in self.presence.of_xmpp(xmpp) {
            let is_there = self.presence.names(key).is_some_and(|(sip, _)| sip.domain() == sip_domain);
            if let Some(contact) = self.presence.contacts.get(key).filter(|_| is_there) {
                let is_it = |dialog: &Key| self.presence.subscribers.get(*dialog).is_some_and(&which);
                dialogs.extend(contact.watch.dialogs.iter().copied().filter(is_it));
            }
        }
        dialogs
    }
}

/// What becomes of the authorization.
impl Gateway {
    /// The XMPP user gave it up: the authorization is gone at once, the dialogs as soon
    /// as SIP was told.
    fn end_watch(&mut self, cx: &mut Cx<'_>, key: Key) -> Option<u64> {
        let contact = self.presence.contacts.get_mut(key)?;
        let dialogs = contact.watch.dialogs.clone();
        let has_authorization = matches!(contact.watch.state, Authorization::Pending | Authorization::Active);
        contact.watch.state = Authorization::Ended;
        contact.watch.say_subscribed = false;
        contact.watch.trouble.change(|trouble| trouble.error = None);
        self.presence.cancel(key, Task::Subscribe);
        let record = if has_authorization { self.store(cx, key) } else { None };
        for dialog in dialogs {
            self.end_dialog(cx, dialog);
        }
        self.watch_ended(cx, key);
        record
    }

    /// Says `unsubscribed` once no SUBSCRIBE with Expires 0 is under way any more.
    pub(super) fn watch_ended(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(contact) = self.presence.contacts.get(key) else { return };
        let is_asking = |dialog: &Key| self.presence.subscribers.get(*dialog).is_some_and(|s| s.is_busy);
        if contact.watch.state == Authorization::Ended && !contact.watch.dialogs.iter().any(is_asking) {
            self.tell(cx, key);
        }
    }

    /// Gives a contact up without a word to XMPP: its domain is gone.
    pub(super) fn drop_watch(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        if contact.watch.state == Authorization::None {
            return;
        }
        contact.watch.state = Authorization::None;
        contact.watch.shown = Vec::new();
        let dialogs = contact.watch.dialogs.clone();
        for task in [Task::Subscribe, Task::Tell] {
            self.presence.cancel(key, task);
        }
        self.store(cx, key);
        for dialog in dialogs {
            self.end_dialog(cx, dialog);
        }
        self.forget_if_empty(key);
    }

    /// The SIP side ended it for good (REQ-8048-17, -22).
    pub(super) fn refused_for_good(&mut self, cx: &mut Cx<'_>, key: Key, cause: core::fmt::Arguments<'_>) {
        let Some((sip, xmpp)) = self.presence.names(key) else { return };
        cx.info(
            "presence.refused-by-sip",
            format_args!("sip={} xmpp={} side=sip cause={cause}", self.named(sip.as_str()), self.named(xmpp.as_str())),
        );
        self.presence.note_refused(sip.bare(), xmpp.bare());
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        if matches!(contact.watch.state, Authorization::Pending | Authorization::Active) {
            contact.watch.state = Authorization::Ended;
            contact.watch.say_subscribed = false;
            contact.watch.trouble.change(|trouble| trouble.error = None);
            let dialogs = contact.watch.dialogs.clone();
            self.presence.cancel(key, Task::Subscribe);
            self.store(cx, key);
            for dialog in dialogs {
                self.end_dialog(cx, dialog);
            }
            self.tell(cx, key);
        }
    }

    /// An attempt came to nothing: the XMPP user sees the contact as gone, and it is
    /// tried again after a while that grows.
    pub(super) fn try_later(&mut self, cx: &mut Cx<'_>, key: Key, retry_after: Option<u32>, cause: &str) {
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        let watch = &mut contact.watch;
        if !matches!(watch.state, Authorization::Pending | Authorization::Active) {
            return;
        }
        let wait = retry_after.map_or_else(
            || back_off(cx, watch.failures),
            |seconds| Duration::from_secs(u64::from(seconds.clamp(1, 86_400))),
        );
        watch.failures = watch.failures.saturating_add(1);
        let since = watch.trouble.change(|trouble| {
            trouble.problem = Some(format!("sip: {cause}").into());
            *trouble.failing_since.get_or_insert(cx.now)
        });
        let is_hopeless = watch.is_new && cx.now.since(since) >= NEW_TRIED_MAX;
        if let Some((sip, xmpp)) = self.presence.names(key) {
            cx.refuse(
                Counter::SubscribeFailed,
                "presence.subscribe-failed",
                format_args!(
                    "side=sip sip={} xmpp={} cause={} retry-in={}",
                    self.named(sip.as_str()),
                    self.named(xmpp.as_str()),
                    Escaped(cause),
                    wait.as_secs()
                ),
            );
        }
        if is_hopeless {
            self.fail_new(cx, key, Condition::RemoteServerTimeout);
            return;
        }
        self.presence.plan(key, Task::Subscribe, cx.now.after(wait));
        self.show_nothing(cx, key);
    }

    /// The very first SUBSCRIBE was refused: the XMPP user gets the error, and nothing is
    /// kept (REQ-8048-20).
    pub(super) fn fail_new(&mut self, cx: &mut Cx<'_>, key: Key, condition: Condition) {
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        contact.watch.state = Authorization::Ended;
        contact.watch.trouble.change(|trouble| trouble.error = Some((condition, trouble.asked_id.take())));
        self.presence.cancel(key, Task::Subscribe);
        self.store(cx, key);
        self.tell(cx, key);
    }

    /// Lets the XMPP user see nobody: what was shown is unknown now.
    pub(super) fn show_nothing(&mut self, cx: &mut Cx<'_>, key: Key) {
        if self.presence.contacts.get(key).is_some_and(|contact| !contact.watch.shown.is_empty()) {
            self.tell(cx, key);
        }
    }

    /// Forgets a contact of which nothing is left that anybody waits for.
    pub(super) fn forget_if_empty(&mut self, key: Key) {
        let Some(contact) = self.presence.contacts.get(key) else { return };
        if is_empty(contact) {
            self.presence.forget(key);
        }
    }
}

fn is_empty(contact: &Contact) -> bool {
    contact.watch.state == Authorization::None
        && contact.grant.state == Authorization::None
        && contact.watch.dialogs.is_empty()
        && contact.grant.dialogs.is_empty()
        && !contact.grant.is_added
}
