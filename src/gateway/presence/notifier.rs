//! The SIP dialogs in which SIP users watch somebody of XMPP (RFC 6665 section 4.2): when a
//! NOTIFY goes out, what it says, what its answer means, and how a dialog ends.

use super::document;
use super::format::{self, Format};
use super::state::Resource;
use super::subscriber::user_of;
use super::table::{Authorization, End, Task};
use super::{
    Headers, RETRY_FIRST, ROOM_RETRY, back_off, failure_in_words, give, notifier_ticket, refusal_in_words,
    seconds_after,
};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::slab::Key;
use crate::base::text::Escaped;
use crate::gateway::Gateway;
use crate::settings::Dialect;
use crate::sip;
use crate::sip::endpoint::{Failure, Method};
use crate::sip::subscription::{self, Reason, ends_notifier};
use crate::xmpp::jid::Jid;
use core::time::Duration;

/// No more than one NOTIFY with state in that time (RFC 3856 section 6.10).
const STATE_INTERVAL: Duration = Duration::from_secs(5);

/// Dialogs.
impl Gateway {
    /// Sends what a watcher was not told yet, if it may go now.
    pub(super) fn notify(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(notifier) = self.presence.notifiers.get(key) else { return };
        if notifier.is_busy || notifier.end.is_some_and(|end| end.is_sent) {
            return;
        }
        if notifier.end.is_none() && (!notifier.is_dirty || notifier.poll.is_some()) {
            return self.presence.arm_notifier(key, None);
        }
        let Some(contact) = self.presence.contacts.get(notifier.contact) else { return };
        let is_active = contact.grant.state == Authorization::Active;
        let has_state = contact.grant.is_known && (is_active || notifier.poll.is_some());
        let least = Duration::from_secs(u64::from(self.settings.presence.min_interval_s));
        let sip = self.presence.names(notifier.contact).map(|(sip, _)| sip);
        // An Edge carries the dialogs of thousands, and its users are used to seeing each other at once.
        let interval = match sip.map_or(Dialect::Standard, |sip| self.presence_dialect(sip.domain())) {
            Dialect::Standard => STATE_INTERVAL.max(least),
            Dialect::Lync => least,
        };
        let throttled =
            notifier.last_state.filter(|_| has_state && notifier.end.is_none()).map(|at| at.after(interval));
        if let Some(at) = [throttled, notifier.hold].into_iter().flatten().max().filter(|at| *at > cx.now) {
            return self.presence.arm_notifier(key, Some(at));
        }
        self.send_notify(cx, key, has_state);
    }

    fn send_notify(&mut self, cx: &mut Cx<'_>, key: Key, has_state: bool) {
        let Some(notifier) = self.presence.notifiers.get(key) else { return };
        let contact_key = notifier.contact;
        let Some((sip, xmpp)) = self.presence.names(contact_key) else { return };
        let dialect = self.presence_dialect(sip.domain());
        if let Some(notifier) = self.presence.notifiers.get_mut(key).filter(|n| n.is_extended && n.end.is_none()) {
            notifier.expires = notifier.expires.max(seconds_after(cx.now, notifier.granted_s));
        }
        let Some(notifier) = self.presence.notifiers.get(key) else { return };
        let Some(contact) = self.presence.contacts.get(contact_key) else { return };
        let state = match notifier.end {
            Some(end) => match end.retry_after_s {
                Some(seconds) => format!("terminated;reason={};retry-after={seconds}", end.reason.as_str()),
                None => format!("terminated;reason={}", end.reason.as_str()),
            },
            None => {
                let left = notifier.expires.since(cx.now).as_millis().div_ceil(1000);
                let word = if contact.grant.state == Authorization::Active { "active" } else { "pending" };
                format!("{word};expires={left}")
            }
        };
        let is_closing = notifier.end.is_some_and(|end| end.says_closed);
        let has_body = is_closing || (has_state && notifier.end.is_none_or(|end| end.reason == Reason::Timeout));
        let mut body = cx.out.begin();
        if has_body {
            let resources = &contact.grant.resources;
            match dialect {
                Dialect::Standard => write_state(&mut body, &xmpp, resources, is_closing),
                Dialect::Lync => {
                    let resources = if is_closing { &[] } else { resources.as_slice() };
                    let named = self.decorated_in(notifier.dialog.parts().local_uri);
                    let named = named.as_ref().unwrap_or(&xmpp);
                    format::write_for_lync(&mut body, notifier.format, named, resources, cx.wall);
                }
            }
        }
        let format = if dialect == Dialect::Lync { notifier.format } else { Format::Pidf };
        let octets = body.written().to_vec();
        body.cancel();
        let user = user_of(notifier.dialog.parts().local_uri);
        let uri = self.sip.contact(self.transport_for(sip.domain()), user, notifier.dialog.local_tag());
        let event = match &notifier.event_id {
            Some(id) => format!("{};id={id}", subscription::PRESENCE),
            None => subscription::PRESENCE.to_owned(),
        };
        let contact_value = format!("<{uri}>");
        let has_language = has_body && dialect == Dialect::Standard;
        let language = has_language.then(|| language_of(&contact.grant.resources)).flatten();
        let mut headers = Headers::new();
        for header in [("Contact", contact_value.as_str()), ("Event", &event), ("Subscription-State", &state)] {
            // Eight places for four headers.
            let _ = headers.push(header);
        }
        if let Some(language) = language.as_deref() {
            let _ = headers.push(("Content-Language", language));
        }
        let content_type = has_body.then_some(format.content_type());
        let Self { presence, sip: endpoint, settings, routes, .. } = self;
        let Some(notifier) = presence.notifiers.get_mut(key) else { return };
        let sent = Self::with_destination(endpoint, (settings, routes), sip.domain(), |endpoint, destination| {
            notifier.dialog.request(Method::Notify, &headers, content_type, &octets, |request| {
                give(cx, endpoint, destination, notifier_ticket(key), request)
            })
        });
        match sent {
            Ok(()) => {
                cx.count(Counter::NotifyOut);
                (notifier.is_busy, notifier.is_dirty) = (true, false);
                if has_body {
                    notifier.last_state = Some(cx.now);
                }
                if let Some(end) = &mut notifier.end {
                    end.is_sent = true;
                }
                if let Some(contact) = presence.contacts.get_mut(contact_key) {
                    contact.grant.last_out = Some(cx.now);
                }
                presence.arm_notifier(key, None);
            }
            Err(refused) => {
                cx.refuse(
                    Counter::PresenceOverload,
                    "presence.not-sent",
                    format_args!("side=ours method=NOTIFY cause={}", Escaped(refusal_in_words(refused))),
                );
                if self.ending {
                    // He is not told, so he is kept, and served again after the start.
                    notifier.end = None;
                } else if refused == sip::endpoint::Refused::Malformed {
                    self.notifier_gone(cx, key);
                } else {
                    self.presence.arm_notifier(key, Some(cx.now.after(ROOM_RETRY)));
                }
            }
        }
    }

    /// Ends a dialog with a last NOTIFY.
    pub(super) fn end_notifier(&mut self, cx: &mut Cx<'_>, key: Key, end: End) {
        let Some(notifier) = self.presence.notifiers.get_mut(key) else { return };
        if notifier.end.is_some() {
            return;
        }
        notifier.end = Some(end);
        let (contact, is_poll) = (notifier.contact, notifier.poll.is_some());
        self.notify(cx, key);
        if end.says_closed && !is_poll {
            self.say_watcher_gone(cx, contact);
        }
    }

    /// With the last dialog the XMPP user hears that the SIP user is gone (REQ-8048-44),
    /// unless he watches him and knows better.
    fn say_watcher_gone(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(contact) = self.presence.contacts.get(key) else { return };
        let lives =
            |dialog: &Key| self.presence.notifiers.get(*dialog).is_some_and(|n| n.end.is_none() && n.poll.is_none());
        let is_shown = contact.watch.shown.iter().any(|shown| shown.is_available);
        if self.ending || is_shown || contact.grant.dialogs.iter().any(lives) {
            return;
        }
        let Some((sip, xmpp)) = self.presence.names(key) else { return };
        let sent = self.send_bare(cx, None, &sip, &xmpp, "unavailable");
        Self::note_lost_answer(cx, xmpp.domain(), sent);
    }

    /// A notifier's deadline came.
    pub(super) fn notifier_due(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(notifier) = self.presence.notifiers.get(key) else { return };
        if notifier.end.is_none() && notifier.poll.is_some_and(|at| at <= cx.now) {
            return self.finish_poll(cx, key);
        }
        if notifier.end.is_none() && notifier.expires <= cx.now {
            // Not refreshed (REQ-8048-43).
            let end = End { reason: Reason::Timeout, retry_after_s: None, says_closed: true, is_sent: false };
            return self.end_notifier(cx, key, end);
        }
        self.notify(cx, key);
    }

    /// A NOTIFY was answered.
    pub(super) fn notify_answered(&mut self, cx: &mut Cx<'_>, key: Key, message: &sip::message::Message<'_>) {
        let Some(notifier) = self.presence.notifiers.get_mut(key) else { return };
        notifier.is_busy = false;
        let (contact, status) = (notifier.contact, message.status());
        if notifier.end.is_some_and(|end| end.is_sent) || ends_notifier(status) {
            if status >= 300 {
                self.log_notify_failure(cx, contact, &format!("status {status}"));
            }
            return self.notifier_gone(cx, key);
        }
        if status < 300 {
            // The interval runs from when it was there: it may have waited for a connection.
            notifier.last_state = notifier.last_state.map(|_| cx.now);
            notifier.failures = 0;
            if let Some(contact) = self.presence.contacts.get_mut(contact) {
                contact.grant.trouble.change(|trouble| trouble.problem = None);
            }
            self.purge_gone(contact);
            return self.notify(cx, key);
        }
        self.log_notify_failure(cx, contact, &format!("status {status}"));
        let retry = message.retry_after().map(|seconds| Duration::from_secs(u64::from(seconds.min(3600))));
        self.notify_later(cx, key, retry);
    }

    /// A NOTIFY got no answer: one that is not there is forgotten (REQ-8048-45), one that
    /// cannot be reached for the moment is told when it can.
    pub(super) fn notify_failed(&mut self, cx: &mut Cx<'_>, key: Key, failure: Failure) {
        let Some(notifier) = self.presence.notifiers.get_mut(key) else { return };
        notifier.is_busy = false;
        let contact = notifier.contact;
        // The end is told, too, when he can be reached again: he still shows what he saw.
        let is_over = failure == Failure::Timeout || (notifier.end.is_some() && notifier.expires <= cx.now);
        if let Some(end) = &mut notifier.end {
            end.is_sent = false;
        }
        self.log_notify_failure(cx, contact, failure_in_words(failure));
        if is_over { self.notifier_gone(cx, key) } else { self.notify_later(cx, key, None) }
    }

    fn notify_later(&mut self, cx: &mut Cx<'_>, key: Key, wait: Option<Duration>) {
        let Some(notifier) = self.presence.notifiers.get_mut(key) else { return };
        let wait = wait.unwrap_or_else(|| back_off(cx, notifier.failures).min(RETRY_FIRST * 3));
        notifier.failures = notifier.failures.saturating_add(1);
        (notifier.is_dirty, notifier.hold) = (true, Some(cx.now.after(wait)));
        notifier.last_state = None;
        self.notify(cx, key);
    }

    fn log_notify_failure(&mut self, cx: &mut Cx<'_>, contact: Key, cause: &str) {
        if let Some(contact) = self.presence.contacts.get_mut(contact) {
            contact.grant.trouble.change(|trouble| trouble.problem = Some(format!("sip: {cause}").into()));
        }
        let Some((sip, xmpp)) = self.presence.names(contact) else { return };
        cx.refuse(
            Counter::NotifyFailed,
            "presence.notify-failed",
            format_args!(
                "side=sip sip={} xmpp={} cause={}",
                self.named(sip.as_str()),
                self.named(xmpp.as_str()),
                Escaped(cause)
            ),
        );
    }

    /// A dialog is over.
    fn notifier_gone(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(notifier) = self.presence.remove_notifier(key) else { return };
        let contact_key = notifier.contact;
        if notifier.poll.is_none() {
            self.store(cx, contact_key);
        }
        if notifier.end.is_none() && notifier.poll.is_none() {
            self.say_watcher_gone(cx, contact_key);
        }
        let Some(contact) = self.presence.contacts.get(contact_key) else { return };
        let is_last = contact.grant.dialogs.is_empty();
        let is_polled = contact.grant.is_polled(&self.presence.notifiers);
        let state = contact.grant.state;
        if is_last {
            // Nobody is told any more, so nobody has to be asked.
            for task in [Task::Ask, Task::Probe, Task::ProbeOver] {
                self.presence.cancel(contact_key, task);
            }
        }
        if let Some(contact) = self.presence.contacts.get_mut(contact_key)
            && state != Authorization::Active
            && !is_polled
        {
            (contact.grant.resources, contact.grant.is_known) = (Vec::new(), false);
            if is_last && state == Authorization::Pending && !contact.grant.is_added {
                contact.grant.state = Authorization::None;
                self.store(cx, contact_key);
            }
        }
        self.purge_gone(contact_key);
        self.forget_if_empty(contact_key);
    }

    /// Forgets the clients that are gone once every watcher knows (D-16).
    fn purge_gone(&mut self, key: Key) {
        let Some(contact) = self.presence.contacts.get(key) else { return };
        let all_know = contact.grant.dialogs.iter().all(|dialog| {
            self.presence.notifiers.get(*dialog).is_none_or(|notifier| !notifier.is_dirty && !notifier.is_busy)
        });
        if let Some(contact) = self.presence.contacts.get_mut(key).filter(|_| all_know) {
            contact.grant.resources.retain(|resource| resource.is_available);
            self.presence.weigh(key);
        }
    }
}

/// Writes the state of an XMPP user, or that he is gone.
fn write_state(w: &mut crate::base::outbox::Writer<'_>, xmpp: &Jid, resources: &[Resource], is_closing: bool) {
    if is_closing {
        let gone: Vec<Resource> = resources.iter().map(|resource| Resource::gone(&resource.name)).collect();
        if gone.is_empty() {
            document::to_pidf(w, xmpp, core::iter::once(&Resource::gone("")));
        } else {
            document::to_pidf(w, xmpp, gone.iter());
        }
    } else if resources.is_empty() {
        document::to_pidf(w, xmpp, core::iter::once(&Resource::gone("")));
    } else {
        document::to_pidf(w, xmpp, resources.iter());
    }
}

/// Content-Language, when all that is said is said in one language.
fn language_of(resources: &[Resource]) -> Option<String> {
    let mut languages = resources.iter().filter_map(|resource| resource.lang());
    let first = languages.next()?;
    languages.all(|language| language == first).then(|| first.to_owned())
}
