//! A SIP user watches an XMPP user (RFC 8048 section 5.3): his dialogs, which he has to
//! refresh, and the one lasting authorization of the XMPP user they lean on.

use super::document;
use super::format::{self, Format};
use super::state::Resource;
use super::subscriber::user_of;
use super::table::{Authorization, DialogKey, End, NoRoom, Notifier, Task};
use super::{ROOM_RETRY, back_off, contact_ticket, seconds_after};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::slab::Key;
use crate::base::time::Instant;
use crate::base::xml::Tag;
use crate::gateway::policy::What;
use crate::gateway::uas::Answer;
use crate::gateway::{Gateway, message};
use crate::limits::{DIALOG_OCTETS_MAX, NOTIFIERS_PER_CONTACT_MAX, RESOURCES_MAX, SUBSCRIBE_EXPIRES_MIN_S};
use crate::settings::Dialect;
use crate::sip;
use crate::sip::dialog::{Dialog, Parts, target_of};
use crate::sip::endpoint::Source;
use crate::sip::subscription::{self, Event, Reason};
use crate::xmpp::jid::Jid;
use crate::xmpp::ns;
use crate::xmpp::stanza::{Condition, Head, Kind, Stanza, StanzaError};
use core::time::Duration;

/// How long a poll waits for the answer to its probe (D-19).
const POLL_WAIT: Duration = Duration::from_secs(4);
/// How long it waits for further clients once one has answered.
const POLL_GATHER: Duration = Duration::from_millis(200);
/// How long presence is waited for after an approval, before it is asked for.
const STATE_WAIT: Duration = Duration::from_secs(30);
/// A leave that comes so soon after it was asked for was given by no human being.
const AT_ONCE: Duration = Duration::from_millis(1500);
/// What comes so soon after a leave is the state of all clients, told with it.
const TOLD_WITH: Duration = Duration::from_secs(1);
/// A contact whose server is silent is asked again after that time, which doubles.
const SILENT_AGAIN: Duration = Duration::from_secs(60);
/// How long the answer to a probe is waited for, before the contact counts as gone.
const PROBE_WAIT: Duration = Duration::from_secs(20);
/// An unanswered `subscribe` is asked again after that time (REQ-XI-7).
const ASK_AGAIN: Duration = Duration::from_secs(24 * 3600);
/// Seconds after which a watcher may come again when XMPP is short of something.
const RETRY_AFTER_S: u32 = 60;

type Outcome = Result<Option<u64>, StanzaError<'static>>;

fn refuse(status: u16, reason: &'static str) -> Answer {
    Answer::new(status, reason, Counter::SubscribeRefusedIn)
}

/// What the SIP user does.
impl Gateway {
    /// A SUBSCRIBE outside a dialog whose sender's domain is proved and whose target is
    /// a partner's user.
    pub(in crate::gateway) fn subscribe_from_sip(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &sip::message::Message<'_>,
        source: &Source,
        (from, to): (Jid, Jid),
    ) {
        cx.count(Counter::SubscribeIn);
        if let Err(answer) = self.try_subscribe(cx, transaction, message, source, &from, &to) {
            cx.count(answer.counter);
            self.log_refusal(cx, message, &answer);
            self.respond(cx, transaction, &answer);
        }
    }

    fn try_subscribe(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &sip::message::Message<'_>,
        source: &Source,
        from: &Jid,
        to: &Jid,
    ) -> Result<(), Answer> {
        let dialect = self.presence_dialect(from.domain());
        let (event_id, format) = check_subscribe(message, dialect)?;
        let expires = self.granted(message)?;
        let target = target_of(message).ok_or_else(|| refuse(400, "Contact Is No SIP Address"))?.to_owned();
        let remote_tag = message.from().tag.ok_or_else(|| refuse(400, "From Has No Tag"))?.to_owned();
        let key = self.presence.find_or_new(from, to).map_err(|no_room| match no_room {
            NoRoom::Table => Answer::overload("Too Many Contacts Are Kept"),
            NoRoom::User => refuse(480, "Too Many Contacts Of One User"),
        })?;
        let local_uri = message.to().uri.to_owned();
        let remote_uri = message.from().uri.to_owned();
        let local_tag = self.sip.local_tag(transaction).unwrap_or_default().to_owned();
        let parts = Parts {
            call_id: message.call_id(),
            local_tag: &local_tag,
            remote_tag: &remote_tag,
            local_uri: &local_uri,
            remote_uri: &remote_uri,
            target: &target,
        };
        let route_set = self.presence.route_sets.of_thriftily(message.headers("Record-Route"));
        let record_route = route_set.text().into_owned();
        let texts = [parts.call_id, &local_tag, &remote_tag, &local_uri, &remote_uri, &target, &record_route];
        if texts.iter().map(|text| text.len()).sum::<usize>() > DIALOG_OCTETS_MAX {
            self.forget_if_empty(key);
            return Err(refuse(513, "Addresses Or Routes Are Too Long"));
        }
        let is_poll = expires == 0;
        let dialog = Dialog::new(&parts, route_set, 0, Some(message.cseq().number));
        let notifier = Notifier {
            contact: key,
            dialog,
            event_id,
            format,
            is_extended: dialect == Dialect::Lync && extends(message),
            expires: if is_poll { cx.now.after(POLL_WAIT * 2) } else { seconds_after(cx.now, expires) },
            granted_s: expires,
            is_busy: false,
            is_dirty: !is_poll,
            last_state: None,
            hold: None,
            end: None,
            poll: is_poll.then(|| cx.now.after(POLL_WAIT)),
            failures: 0,
            octets: 0,
        };
        let dialogs = self.presence.contacts.get(key).map_or(0, |contact| contact.grant.dialogs.len());
        if dialogs >= NOTIFIERS_PER_CONTACT_MAX {
            // REQ-8048-79: no 503 for what one user does.
            return Err(refuse(480, "Too Many Subscriptions For One Contact"));
        }
        let Some(dialog) = self.presence.add_notifier(notifier) else {
            self.forget_if_empty(key);
            return Err(Answer::overload("Too Many Subscriptions"));
        };
        let user = message::sip_uri(to, false).ok();
        let uri = self.sip.contact(source.transport, user.as_deref().map_or("", user_of), &local_tag);
        cx.count(Counter::SubscribeTaken);
        if !is_poll {
            if let Some(contact) = self.presence.contacts.get_mut(key)
                && !matches!(contact.grant.state, Authorization::Pending | Authorization::Active)
            {
                contact.grant.state = Authorization::Pending;
                (contact.grant.resources, contact.grant.is_known) = (Vec::new(), false);
                contact.grant.trouble.change(|trouble| trouble.nick = display_name(message));
            }
            // What is answered stands after a restart.
            self.store(cx, key);
        }
        self.respond(cx, transaction, &Answer::subscribed(&expires.to_string(), &uri, &record_route));
        if is_poll {
            self.poll_grant(cx, key, dialog);
        } else {
            self.watcher_came(cx, key);
            self.notify(cx, dialog);
        }
        Ok(())
    }

    /// A watcher has a dialog now: the XMPP user is asked for leave, or for his state.
    fn watcher_came(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        let was_added = core::mem::replace(&mut contact.grant.is_added, true);
        if !was_added {
            self.store(cx, key);
        }
        let Some(contact) = self.presence.contacts.get(key) else { return };
        match contact.grant.state {
            Authorization::None | Authorization::Ended => {}
            Authorization::Pending => {
                // Asked and not answered: the XMPP user knows, or will when he can be reached.
                if self.presence.planned(key, Task::Ask).is_none() {
                    self.ask(cx, key);
                }
            }
            Authorization::Active if !contact.grant.is_known => self.probe(cx, key),
            // What came while nobody looked is the state; whether it is all is checked soon.
            Authorization::Active => {
                if self.presence.planned(key, Task::Probe).is_none() {
                    self.presence.plan(key, Task::Probe, cx.now.after(STATE_WAIT));
                }
            }
        }
        if !was_added && self.presence.contacts.get(key).is_some_and(|c| c.watch.state != Authorization::None) {
            // The XMPP user may watch him again.
            self.presence.plan_by(key, Task::Subscribe, cx.now);
        }
    }

    fn poll_grant(&mut self, cx: &mut Cx<'_>, key: Key, dialog: Key) {
        let is_known = self.presence.contacts.get(key).is_some_and(|contact| contact.grant.is_known);
        if is_known {
            return self.finish_poll(cx, dialog);
        }
        let Some((sip, xmpp)) = self.presence.names(key) else { return };
        if self.send_bare(cx, None, &sip, &xmpp, "probe").is_err() {
            return self.finish_poll(cx, dialog);
        }
        self.presence.arm_notifier(dialog, None);
    }

    pub(super) fn finish_poll(&mut self, cx: &mut Cx<'_>, dialog: Key) {
        self.end_notifier(
            cx,
            dialog,
            End { reason: Reason::Timeout, retry_after_s: None, says_closed: false, is_sent: false },
        );
    }

    /// A SUBSCRIBE inside a dialog (REQ-8048-38, -42).
    pub(in crate::gateway) fn resubscribe_from_sip(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &sip::message::Message<'_>,
        source: &Source,
        from: &Jid,
    ) {
        cx.count(Counter::SubscribeIn);
        if let Err(answer) = self.try_resubscribe(cx, transaction, message, source, from) {
            cx.count(answer.counter);
            self.log_refusal(cx, message, &answer);
            self.respond(cx, transaction, &answer);
        }
    }

    fn try_resubscribe(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &sip::message::Message<'_>,
        source: &Source,
        from: &Jid,
    ) -> Result<(), Answer> {
        // What he took first he goes on taking.
        let (event_id, _) = check_subscribe(message, self.presence_dialect(from.domain()))?;
        let known = self.presence.dialogs(message.call_id(), message.to().tag.unwrap_or_default());
        let dialog = known.iter().find_map(|key| if let DialogKey::Notifier(key) = key { Some(*key) } else { None });
        let dialog = dialog.ok_or_else(|| Self::no_subscription(Counter::SubscribeRefusedIn))?;
        let Some(notifier) = self.presence.notifiers.get(dialog) else {
            return Err(Self::no_subscription(Counter::SubscribeRefusedIn));
        };
        let key = notifier.contact;
        let is_his = notifier.dialog.is_from(message)
            && notifier.event_id == event_id
            && notifier.end.is_none()
            && self.presence.names(key).is_some_and(|(sip, _)| sip.domain() == from.domain());
        if !is_his {
            return Err(Self::no_subscription(Counter::SubscribeRefusedIn));
        }
        if let Some((sip, xmpp)) = self.presence.names(key)
            && let Err(denial) = self.may_talk(cx, &sip, xmpp.domain(), What::Presence)
        {
            return Err(denial.answer());
        }
        let expires = self.granted(message)?;
        let Some(notifier) = self.presence.notifiers.get_mut(dialog) else {
            return Err(Self::no_subscription(Counter::SubscribeRefusedIn));
        };
        let (now, local_tag) = (cx.now, notifier.dialog.local_tag().to_owned());
        let user = user_of(notifier.dialog.parts().local_uri).to_owned();
        if !notifier.dialog.admits(message.cseq().number) {
            return Err(refuse(500, "A Later Request Came Before"));
        }
        if let Some(target) = target_of(message).filter(|target| target.len() <= DIALOG_OCTETS_MAX / 2) {
            notifier.dialog.refresh_target(target);
        }
        if expires > 0 {
            (notifier.expires, notifier.granted_s) = (seconds_after(now, expires), expires);
            // Each refresh is followed by a NOTIFY at once (RFC 6665 section 4.2.1.2).
            (notifier.is_dirty, notifier.last_state, notifier.hold) = (true, None, None);
        }
        let uri = self.sip.contact(source.transport, &user, &local_tag);
        cx.count(Counter::SubscribeTaken);
        if expires > 0 {
            self.store(cx, key);
        }
        self.respond(cx, transaction, &Answer::subscribed(&expires.to_string(), &uri, ""));
        if expires > 0 {
            self.notify(cx, dialog);
        } else {
            let lives = |other: &Key| {
                *other != dialog
                    && self.presence.notifiers.get(*other).is_some_and(|n| n.end.is_none() && n.poll.is_none())
            };
            let is_last = !self.presence.contacts.get(key).is_some_and(|c| c.grant.dialogs.iter().any(lives));
            if let Some(contact) = self.presence.contacts.get_mut(key).filter(|_| is_last) {
                // He took him off his list.
                contact.grant.is_added = false;
            }
            let end = End { reason: Reason::Timeout, retry_after_s: None, says_closed: true, is_sent: false };
            self.end_notifier(cx, dialog, end);
            self.store(cx, key);
            self.suspend_watch(cx, key);
        }
        Ok(())
    }

    /// How long a subscription is granted for; 0: the watcher wants it over.
    fn granted(&self, message: &sip::message::Message<'_>) -> Result<u32, Answer> {
        let max = self.settings.presence.expires_s.max(1);
        let min = SUBSCRIBE_EXPIRES_MIN_S.min(max);
        let asked = message.expires().unwrap_or(max);
        if asked > 0 && asked < min {
            return Err(refuse(423, "Interval Too Brief").with("Min-Expires", min.to_string()));
        }
        Ok(asked.min(max))
    }
}

/// What the XMPP user does.
impl Gateway {
    /// Presence of one of his clients.
    pub(super) fn presence_from_xmpp(&mut self, cx: &mut Cx<'_>, stanza: &Stanza<'_>) -> Outcome {
        let Some(key) = self.presence.find(stanza.to.bare(), stanza.from.bare()) else {
            cx.count(Counter::PresenceUnwatched);
            return Ok(None);
        };
        let mut resource = document::from_stanza(stanza);
        if self.presence.is_heavy() {
            resource.statuses = Box::default();
        }
        let Some(contact) = self.presence.contacts.get_mut(key) else { return Ok(None) };
        let is_polled = contact.grant.is_polled(&self.presence.notifiers);
        let is_active = contact.grant.state == Authorization::Active;
        if !is_active && !is_polled {
            cx.count(Counter::PresenceUnwatched);
            return Ok(None);
        }
        let grant = &mut contact.grant;
        let since_last = grant.last_in.replace(cx.now).map_or(Duration::MAX, |last| cx.now.since(last));
        grant.silent_probes = 0;
        if resource.name.is_empty() {
            grant.trouble.change(|trouble| trouble.stale = Vec::new());
        } else {
            grant.trouble.change(|trouble| trouble.stale.retain(|name| *name != resource.name));
        }
        let was_known = core::mem::replace(&mut grant.is_known, true);
        let is_first = is_active && !was_known;
        grant.is_unsure = false;
        let changed = take_in(&mut grant.resources, resource);
        let dialogs = grant.dialogs.clone();
        if dialogs.is_empty() {
            grant.resources.retain(|resource| resource.is_available);
        }
        if is_first && !dialogs.is_empty() && (since_last <= TOLD_WITH || !grant.is_automatic) {
            self.plan_check(cx, key);
        }
        self.presence.weigh(key);
        for dialog in dialogs {
            let Some(notifier) = self.presence.notifiers.get_mut(dialog) else { continue };
            if notifier.poll.is_some() && notifier.end.is_none() {
                let soon = cx.now.after(POLL_GATHER);
                notifier.poll = notifier.poll.map(|at| at.min(soon));
                self.presence.arm_notifier(dialog, None);
            } else if is_active && (changed || !was_known) {
                notifier.is_dirty = true;
                self.notify(cx, dialog);
            }
        }
        Ok(None)
    }

    /// `subscribed`: he lets himself be watched (REQ-8048-31).
    pub(super) fn subscribed_from_xmpp(&mut self, cx: &mut Cx<'_>, stanza: &Stanza<'_>) -> Outcome {
        let Some(key) = self.presence.find(stanza.to.bare(), stanza.from.bare()) else { return Ok(None) };
        let Some(contact) = self.presence.contacts.get_mut(key) else { return Ok(None) };
        if contact.grant.state != Authorization::Pending {
            // Not asked, or known already (REQ-XI-3).
            return Ok(Some(contact.record));
        }
        contact.grant.state = Authorization::Active;
        contact.grant.is_automatic = contact.grant.last_out.is_some_and(|asked| cx.now.since(asked) <= AT_ONCE);
        (contact.grant.failures, contact.grant.last_in) = (0, Some(cx.now));
        contact.grant.trouble.change(|trouble| trouble.nick = None);
        let dialogs = contact.grant.dialogs.clone();
        self.presence.cancel(key, Task::Ask);
        let record = self.store(cx, key);
        if !dialogs.is_empty() {
            // His presence follows; a server that had approved long ago may not send it.
            self.presence.plan(key, Task::Probe, cx.now.after(STATE_WAIT));
        }
        for dialog in dialogs {
            if let Some(notifier) = self.presence.notifiers.get_mut(dialog) {
                notifier.is_dirty = true;
            }
            self.notify(cx, dialog);
        }
        Ok(record)
    }

    /// `unsubscribed`: he does not, or no longer (REQ-8048-32, -33).
    pub(super) fn unsubscribed_from_xmpp(&mut self, cx: &mut Cx<'_>, stanza: &Stanza<'_>) -> Outcome {
        let Some(key) = self.presence.find(stanza.to.bare(), stanza.from.bare()) else { return Ok(None) };
        let Some(contact) = self.presence.contacts.get(key) else { return Ok(None) };
        // While a poll waits, this is what his server says to the probe (RFC 6121 section
        // 4.3.2), not what he says to the request.
        let is_asked_twice =
            contact.grant.state == Authorization::Pending && contact.grant.is_polled(&self.presence.notifiers);
        if contact.grant.state == Authorization::None || is_asked_twice {
            self.finish_polls(cx, key);
            return Ok(None);
        }
        Ok(self.end_grant(cx, key, Reason::Rejected, None))
    }

    /// An error in answer to `subscribe` or to a probe (REQ-8048-34).
    pub(super) fn grant_error(&mut self, cx: &mut Cx<'_>, stanza: &Stanza<'_>, error: &StanzaError<'_>) -> Option<u64> {
        let key = self.presence.find(stanza.to.bare(), stanza.from.bare())?;
        let state = self.presence.contacts.get(key)?.grant.state;
        cx.refuse(
            Counter::PresenceErrorIn,
            "presence.stanza-error",
            format_args!(
                "side=xmpp from={} to={} condition={}",
                self.named(stanza.from.as_str()),
                self.named(stanza.to.as_str()),
                error.condition.name()
            ),
        );
        if stanza.to.resource().is_some() {
            // It is about what was said of one client; requests are the user's.
            return None;
        }
        let (reason, retry_after) = reason_of(error.condition);
        match (state, reason) {
            (Authorization::Pending, _) => self.end_grant(cx, key, reason, retry_after),
            (Authorization::Active, Reason::NoResource) => self.end_grant(cx, key, reason, retry_after),
            (Authorization::Active, _) => {
                // His server answers, and he is not to be had: he counts as gone.
                self.unknown(cx, key);
                None
            }
            (Authorization::None | Authorization::Ended, _) => {
                self.finish_polls(cx, key);
                None
            }
        }
    }

    fn finish_polls(&mut self, cx: &mut Cx<'_>, key: Key) {
        let dialogs = self.presence.contacts.get(key).map(|contact| contact.grant.dialogs.clone());
        for dialog in dialogs.unwrap_or_default() {
            if self.presence.notifiers.get(dialog).is_some_and(|notifier| notifier.poll.is_some()) {
                self.finish_poll(cx, dialog);
            }
        }
    }

    /// Ends the authorization and every dialog that leaned on it.
    fn end_grant(&mut self, cx: &mut Cx<'_>, key: Key, reason: Reason, retry_after_s: Option<u32>) -> Option<u64> {
        let contact = self.presence.contacts.get_mut(key)?;
        let grant = &mut contact.grant;
        (grant.state, grant.is_known, grant.is_added) = (Authorization::None, false, false);
        (grant.resources, grant.last_in) = (Vec::new(), Some(cx.now));
        for task in [Task::Ask, Task::Probe, Task::ProbeOver] {
            self.presence.cancel(key, task);
        }
        let record = self.end_dialogs(cx, key, End { reason, retry_after_s, says_closed: false, is_sent: false });
        self.suspend_watch(cx, key);
        self.forget_if_empty(key);
        record
    }

    /// Ends every dialog of the SIP user with the contact, and stores what is left of it.
    pub(super) fn end_dialogs(&mut self, cx: &mut Cx<'_>, key: Key, end: End) -> Option<u64> {
        let dialogs = self.presence.contacts.get(key)?.grant.dialogs.clone();
        // What ends is not kept, though its last NOTIFY may take a while to arrive.
        for dialog in dialogs.iter() {
            if let Some(notifier) = self.presence.notifiers.get_mut(*dialog).filter(|n| n.end.is_none()) {
                notifier.end = Some(end);
            }
        }
        let record = self.store(cx, key);
        for dialog in dialogs {
            self.notify(cx, dialog);
        }
        record
    }

    /// A partner or a SIP domain is gone: its watchers are told, nobody else is.
    pub(super) fn drop_grant(&mut self, cx: &mut Cx<'_>, key: Key) {
        if self.presence.contacts.get(key).is_some_and(|contact| {
            contact.grant.state != Authorization::None || !contact.grant.dialogs.is_empty() || contact.grant.is_added
        }) {
            self.end_grant(cx, key, Reason::NoResource, None);
        }
    }

    /// The program ends: the watchers of a contact may come again at once.
    pub(super) fn deactivate(&mut self, cx: &mut Cx<'_>, key: Key) {
        let dialogs = self.presence.contacts.get(key).map(|contact| contact.grant.dialogs.clone()).unwrap_or_default();
        if dialogs.is_empty() {
            return;
        }
        for dialog in dialogs {
            let end = End { reason: Reason::Deactivated, retry_after_s: None, says_closed: false, is_sent: false };
            self.end_notifier(cx, dialog, end);
        }
        self.store(cx, key);
    }
}

/// Towards the XMPP user.
impl Gateway {
    /// Asks the XMPP user for leave.
    pub(super) fn ask(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(contact) = self.presence.contacts.get(key) else { return };
        if contact.grant.state != Authorization::Pending {
            return;
        }
        let Some((sip, xmpp)) = self.presence.names(key) else { return };
        // What he is called is as private as what he says of himself.
        let nick = contact.grant.trouble.get().and_then(|trouble| trouble.nick.clone());
        let nick = nick.filter(|_| self.sees_status(xmpp.domain()));
        let id = cx.rng.token::<10>();
        let head = Head {
            kind: Kind::Presence,
            from: sip.bare(),
            to: xmpp.bare(),
            id: Some(id.as_str()),
            type_: Some("subscribe"),
            lang: None,
        };
        let sent = self.xmpp.send(cx, Some(contact_ticket(key)), sip.domain(), xmpp.domain(), |w| match &nick {
            Some(nick) => head.emit(w, |w| Tag::begin(w, "nick").namespace(ns::NICK).text(nick)),
            None => head.emit_empty(w),
        });
        match Self::count_presence_out(cx, sent) {
            Ok(()) => {
                if let Some(contact) = self.presence.contacts.get_mut(key) {
                    contact.watch.in_flight = contact.watch.in_flight.saturating_add(1);
                    contact.grant.is_asking = true;
                    contact.grant.last_out = Some(cx.now);
                }
                self.presence.plan(key, Task::Ask, cx.now.after(ASK_AGAIN));
            }
            Err(refused) => self.ask_later(cx, key, refused == crate::xmpp::server::Refused::Overload),
        }
    }

    /// `subscribe` did not arrive: it is sent again for as long as somebody waits.
    pub(super) fn ask_later(&mut self, cx: &mut Cx<'_>, key: Key, is_for_room: bool) {
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        if contact.grant.state != Authorization::Pending {
            return;
        }
        let wait = if is_for_room { ROOM_RETRY } else { back_off(cx, contact.grant.failures) };
        contact.grant.failures = contact.grant.failures.saturating_add(u8::from(!is_for_room));
        self.presence.plan(key, Task::Ask, cx.now.after(wait));
    }

    /// Asks the XMPP user's server how he is.
    pub(super) fn probe(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(contact) = self.presence.contacts.get(key) else { return };
        if contact.grant.state != Authorization::Active || contact.grant.dialogs.is_empty() {
            return;
        }
        let Some((sip, xmpp)) = self.presence.names(key) else { return };
        match self.send_bare(cx, Some(contact_ticket(key)), &sip, &xmpp, "probe") {
            Ok(()) => {
                if let Some(contact) = self.presence.contacts.get_mut(key) {
                    contact.watch.in_flight = contact.watch.in_flight.saturating_add(1);
                    let available = contact.grant.resources.iter().filter(|resource| resource.is_available);
                    let stale = available.map(|resource| resource.name.clone()).collect();
                    contact.grant.trouble.change(|trouble| trouble.stale = stale);
                    contact.grant.silent_probes = contact.grant.silent_probes.saturating_add(1);
                }
                self.presence.plan(key, Task::ProbeOver, cx.now.after(PROBE_WAIT));
                self.plan_check(cx, key);
            }
            Err(crate::xmpp::server::Refused::Overload) => {
                self.presence.plan(key, Task::Probe, cx.now.after(ROOM_RETRY))
            }
            Err(_) => {
                self.unknown(cx, key);
                self.presence.plan(key, Task::Probe, cx.now.after(back_off(cx, 1)));
            }
        }
    }

    /// The state is asked for again after `xmpp subscription-refresh-interval`.
    pub(super) fn plan_check(&mut self, cx: &mut Cx<'_>, key: Key) {
        let interval = u64::from(self.settings.xmpp.subscription_refresh_interval_s.max(60)) * 1000;
        let wait = Duration::from_millis(interval - cx.rng.below(interval / 10 + 1));
        self.presence.plan(key, Task::Probe, cx.now.after(wait));
    }

    /// The time for answers to a probe is over. Clients that none of them named are gone;
    /// if there was no answer at all, it may have been lost and is asked for once more.
    pub(super) fn probe_over(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        let nobody_knows = !contact.grant.is_known && !contact.grant.is_unsure;
        match contact.grant.silent_probes {
            0 => {}
            // Nothing was ever shown, so nothing has to be taken back.
            _ if nobody_knows => return self.plan_check(cx, key),
            // It may have been lost.
            1 => return self.probe(cx, key),
            tries => {
                self.unknown(cx, key);
                let wait = SILENT_AGAIN.saturating_mul(1 << tries.saturating_sub(2).min(7));
                if let Some(contact) = self.presence.contacts.get_mut(key) {
                    contact.grant.silent_probes = tries;
                }
                return self.presence.plan_by(key, Task::Probe, cx.now.after(wait));
            }
        }
        let stale = contact.grant.trouble.change(|trouble| core::mem::take(&mut trouble.stale));
        let mut changed = false;
        for resource in contact.grant.resources.iter_mut().filter(|resource| stale.contains(&resource.name)) {
            *resource = Resource::gone(&resource.name);
            changed = true;
        }
        if changed {
            self.state_changed(cx, key);
        }
    }

    /// Every watcher has something to be told.
    fn state_changed(&mut self, cx: &mut Cx<'_>, key: Key) {
        let dialogs = self.presence.contacts.get(key).map(|contact| contact.grant.dialogs.clone()).unwrap_or_default();
        for dialog in dialogs {
            if let Some(notifier) = self.presence.notifiers.get_mut(dialog) {
                notifier.is_dirty = true;
            }
            self.notify(cx, dialog);
        }
    }

    /// Nothing is known of the XMPP user any more: his clients count as gone, for who
    /// was told of them.
    pub(super) fn unknown(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        let mut changed = !core::mem::replace(&mut contact.grant.is_known, true);
        (contact.grant.silent_probes, contact.grant.is_unsure) = (0, false);
        contact.grant.trouble.change(|trouble| trouble.stale = Vec::new());
        for resource in contact.grant.resources.iter_mut().filter(|resource| resource.is_available) {
            *resource = Resource::gone(&resource.name);
            changed = true;
        }
        if changed {
            self.state_changed(cx, key);
        }
    }
}

/// The Event's `id` of a SUBSCRIBE that asks for something we have (REQ-8048-37,
/// RFC 6665 section 4.2.1), and how he wants it.
fn check_subscribe(
    message: &sip::message::Message<'_>,
    dialect: Dialect,
) -> Result<(Option<Box<str>>, Format), Answer> {
    let event = Event::of(message).filter(|event| event.package == subscription::PRESENCE);
    let Some(event) = event else {
        return Err(refuse(489, "Bad Event").with("Allow-Events", subscription::PRESENCE));
    };
    if message.contact().is_none() {
        return Err(refuse(400, "Contact Is Missing"));
    }
    let format = Format::choose(message.headers("Accept"), dialect).ok_or_else(|| {
        refuse(406, "Presence Is Sent As application/pidf+xml").with("Accept", format::accept(dialect))
    })?;
    // A filter or a list in the body is not obeyed; whoever insists is refused.
    let insists = message.header("Content-Disposition").is_none_or(|value| !value.contains("handling=optional"));
    if !message.body().is_empty() && insists && message.content_type().is_some() {
        return Err(refuse(415, "No Body Is Read In SUBSCRIBE"));
    }
    Ok((event.id.map(Into::into), format))
}

/// Does the watcher take each NOTIFY for a refresh ([MS-SIP] section 3.3)?
fn extends(message: &sip::message::Message<'_>) -> bool {
    message.headers("Supported").any(|tag| tag.eq_ignore_ascii_case(subscription::AUTO_EXTEND))
}

/// The display name of From, as a nickname (XEP-0172).
fn display_name(message: &sip::message::Message<'_>) -> Option<Box<str>> {
    let name: String = sip::header::unquote(message.from().display).collect();
    document::display_name(&name)
}

/// Takes in what one client says. False: nothing is new in it.
fn take_in(resources: &mut Vec<Resource>, new: Resource) -> bool {
    if new.name.is_empty() && !new.is_available {
        // From the bare address it is said of all clients (REQ-8048-57).
        let mut changed = false;
        for resource in resources.iter_mut().filter(|resource| resource.is_available) {
            let name = core::mem::take(&mut resource.name);
            *resource = Resource { name, ..new.clone() };
            changed = true;
        }
        return changed;
    }
    let is_full = resources.len() >= RESOURCES_MAX;
    match resources.iter_mut().find(|resource| resource.name == new.name) {
        Some(known) if *known == new => false,
        Some(known) => {
            let was_gone = !known.is_available && !new.is_available;
            *known = new;
            !was_gone
        }
        // One that goes and was never seen is nothing to anybody.
        None if !new.is_available => false,
        None if is_full => match resources.iter_mut().find(|resource| !resource.is_available) {
            // One that is gone makes room.
            Some(gone) => {
                *gone = new;
                true
            }
            None => false,
        },
        None => {
            // Most have one client.
            resources.reserve_exact(1);
            resources.push(new);
            true
        }
    }
}

/// What an error in answer to `subscribe` means for the watcher (REQ-8048-34).
const fn reason_of(condition: Condition) -> (Reason, Option<u32>) {
    match condition {
        Condition::ItemNotFound | Condition::Gone => (Reason::NoResource, None),
        Condition::Forbidden
        | Condition::NotAuthorized
        | Condition::NotAllowed
        | Condition::PolicyViolation
        | Condition::RegistrationRequired
        | Condition::SubscriptionRequired => (Reason::Rejected, None),
        Condition::RemoteServerTimeout
        | Condition::RemoteServerNotFound
        | Condition::RecipientUnavailable
        | Condition::ResourceConstraint => (Reason::Probation, Some(RETRY_AFTER_S)),
        _ => (Reason::Giveup, None),
    }
}

/// Restored dialogs begin with a number beyond any that was used: the record is renewed
/// with every refresh, and fewer NOTIFYs than this go out between two of them.
pub(super) const CSEQ_BEYOND: u32 = 100_000;

/// How long a restored dialog has left.
pub(super) fn restored_until(now: Instant, left_s: i64, granted_s: u32) -> Instant {
    seconds_after(now, u32::try_from(left_s.max(0)).unwrap_or(u32::MAX).min(granted_s))
}
