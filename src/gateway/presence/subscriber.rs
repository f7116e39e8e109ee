//! The SIP dialogs in which we watch SIP users (RFC 6665 section 4.1): SUBSCRIBE, its
//! answers, the NOTIFYs that follow, forks, refreshes, and what the end of each means for
//! the authorization it stands for.

use super::document::Fault;
use super::format::{self, Format, Told};
use super::table::{Authorization, DialogKey, Phase, Subscriber, Task};
use super::{
    Headers, RETRY_FIRST, ROOM_RETRY, failure_in_words, give, refusal_in_words, seconds_after, subscriber_ticket,
};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::slab::Key;
use crate::base::text::Escaped;
use crate::base::time::Instant;
use crate::base::xml::Tree;
use crate::gateway::content::outward::first_language;
use crate::gateway::policy::What;
use crate::gateway::uas::Answer;
use crate::gateway::{Gateway, error, message};
use crate::limits::{DIALOG_OCTETS_MAX, RESOURCES_MAX};
use crate::settings::Dialect;
use crate::sip;
use crate::sip::dialog::{Dialog, Parts, target_of};
use crate::sip::endpoint::{Failure, Method};
use crate::sip::subscription::{self, Event, Reason, Refusal, Status, SubscriptionState};
use crate::sip::transaction::T1_64;
use crate::xmpp::jid::Jid;
use core::time::Duration;

/// How long the answer to our probe is waited for (D-10).
const PROBE_WAIT: Duration = Duration::from_secs(5);
/// The CSeq number of the SUBSCRIBE that makes a dialog.
const FIRST_CSEQ: u32 = 1;
/// How often in a row a subscription is begun again at once at its notifier's word.
const BEGUN_AGAIN_MAX: u8 = 3;
/// A refresh comes no sooner than this after what it refreshes.
const REFRESH_MIN: Duration = Duration::from_secs(5);
/// Longest wait that a notifier may ask for.
const RETRY_AFTER_MAX_S: u32 = 86_400;
/// Longest life that is believed.
const EXPIRES_MAX_S: u32 = 7 * 24 * 3600;

/// Dialogs.
impl Gateway {
    /// Begins a dialog for a contact that has none.
    pub(super) fn begin_watch(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(contact) = self.presence.contacts.get(key) else { return };
        let wanted = matches!(contact.watch.state, Authorization::Pending | Authorization::Active);
        if !wanted || self.watch_is_live(key) || self.ending {
            return;
        }
        if !self.may_watch(key) {
            // While he is no contact he sees nothing; he sees again when he is one.
            self.suspend_watch(cx, key);
            return;
        }
        let expires = self.expires_wanted(key);
        if self.send_subscribe_outside(cx, key, expires, None).is_none() {
            self.presence.plan(key, Task::Subscribe, cx.now.after(ROOM_RETRY));
        }
    }

    /// The Expires that is asked for.
    fn expires_wanted(&self, contact: Key) -> u32 {
        let least = self.presence.contacts.get(contact).map_or(0, |contact| contact.watch.expires_min_s());
        self.settings.presence.expires_s.max(least)
    }

    /// Sends a SUBSCRIBE that makes a dialog. `None`: there was no room, or no way.
    pub(super) fn send_subscribe_outside(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        expires: u32,
        poll: Option<&str>,
    ) -> Option<Key> {
        let (sip, xmpp) = self.presence.names(key)?;
        let way = self.could_talk(cx.wall, &sip, xmpp.domain(), What::Presence).ok()?;
        let (local_uri, remote_uri) = (self.known_as(way, &xmpp, false).ok()?, message::sip_uri(&sip, false).ok()?);
        let (call_id, tag) = (message::new_call_id(cx), message::new_tag(cx));
        let parts = Parts {
            call_id: &call_id,
            local_tag: &tag,
            remote_tag: "",
            local_uri: &local_uri,
            remote_uri: &remote_uri,
            target: &remote_uri,
        };
        let dialog = Dialog::new(&parts, self.presence.route_sets.intern(""), FIRST_CSEQ - 1, None);
        let until = cx.now.after(T1_64);
        let subscriber = Subscriber {
            contact: key,
            dialog,
            phase: Phase::Begun,
            is_busy: false,
            poll: poll.map(Into::into),
            expires: until,
            granted_s: 0,
            refresh: None,
            probing: None,
            forks_until: until,
            notify_until: None,
            resources: Vec::new(),
            is_informed: false,
            is_in_doubt: false,
            is_life_told: false,
            is_end_asked: false,
            octets: 0,
        };
        let subscriber = self.presence.add_subscriber(subscriber)?;
        self.presence.arm_subscriber(subscriber);
        if self.send_subscribe(cx, subscriber, expires) { Some(subscriber) } else { None }
    }

    /// Sends a SUBSCRIBE of a dialog. False: it could not be sent; a dialog that nothing
    /// was sent in is gone.
    fn send_subscribe(&mut self, cx: &mut Cx<'_>, key: Key, expires: u32) -> bool {
        let Some(subscriber) = self.presence.subscribers.get(key) else { return false };
        let Some((sip, _)) = self.presence.names(subscriber.contact) else { return false };
        let user = user_of(subscriber.dialog.parts().local_uri);
        let uri = self.sip.contact(self.transport_for(sip.domain()), user, subscriber.dialog.local_tag());
        let (contact, expires_text) = (format!("<{uri}>"), expires.to_string());
        let dialect = self.presence_dialect(sip.domain());
        let headers: Headers<'_> = [
            ("Contact", contact.as_str()),
            ("Event", subscription::PRESENCE),
            ("Accept", format::accept(dialect)),
            ("Allow-Events", subscription::PRESENCE),
            ("Expires", &expires_text),
        ]
        .into_iter()
        .chain((dialect == Dialect::Lync).then_some(("Supported", subscription::SUPPORTED_LYNC)))
        .collect();
        let Self { presence, sip: endpoint, settings, routes, .. } = self;
        let Some(subscriber) = presence.subscribers.get_mut(key) else { return false };
        let sent = Self::with_destination(endpoint, (settings, routes), sip.domain(), |endpoint, destination| {
            subscriber.dialog.request(Method::Subscribe, &headers, None, b"", |request| {
                give(cx, endpoint, destination, subscriber_ticket(key), request)
            })
        });
        match sent {
            Ok(()) => {
                cx.count(Counter::SubscribeOut);
                (subscriber.is_busy, subscriber.is_life_told) = (true, false);
                subscriber.is_end_asked = expires == 0;
                true
            }
            Err(refused) => {
                cx.refuse(
                    Counter::PresenceOverload,
                    "presence.not-sent",
                    format_args!("side=ours method=SUBSCRIBE cause={}", Escaped(refusal_in_words(refused))),
                );
                if subscriber.phase == Phase::Begun {
                    presence.remove_subscriber(key);
                }
                false
            }
        }
    }

    /// A subscriber's deadline came.
    pub(super) fn subscriber_due(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return };
        let contact = subscriber.contact;
        match subscriber.phase {
            // Timer N: a subscription without a NOTIFY is none (REQ-8048-12).
            Phase::Begun => {
                self.presence.remove_subscriber(key);
                // Another server may have answered than those that notify.
                if !self.is_notified(contact) {
                    self.forget_if_empty(contact);
                    self.try_later(cx, contact, None, "no NOTIFY came after the SUBSCRIBE");
                }
            }
            Phase::Ending => {
                self.presence.remove_subscriber(key);
                self.watch_ended(cx, contact);
                self.forget_if_empty(contact);
            }
            Phase::Live if subscriber.expires <= cx.now => {
                // Its refresh was left out, or lost. Most servers never show their users to a
                // domain, or say `unsubscribed` of everybody: that means nothing, so presence
                // goes on in a new dialog instead of ending after the first one (promise P7).
                let not_before = subscriber.refresh.map(|at| at.since(cx.now)).filter(|wait| !wait.is_zero());
                self.presence.remove_subscriber(key);
                match not_before {
                    Some(wait) => {
                        let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
                        self.try_later(cx, contact, Some(seconds), "the refresh was refused for longer than it lasted");
                    }
                    None => self.begin_watch(cx, contact),
                }
            }
            Phase::Live if !subscriber.is_busy && subscriber.notify_until.is_some_and(|until| until <= cx.now) => {
                // Timer N again (RFC 6665 section 4.1.2.2).
                self.presence.remove_subscriber(key);
                self.begin_again(cx, contact);
            }
            Phase::Live if subscriber.probing.is_some_and(|until| until <= cx.now) => {
                (subscriber.probing, subscriber.refresh) = (None, None);
                self.presence.arm_subscriber(key);
            }
            Phase::Live if subscriber.refresh.is_some_and(|at| at <= cx.now) => self.probe_or_refresh(cx, key),
            Phase::Live => {
                self.presence.arm_subscriber(key);
                // One that has said nothing by now does not vouch for what another said before.
                self.show_nothing(cx, contact);
            }
        }
    }

    /// Has a contact a dialog in which NOTIFYs come?
    fn is_notified(&self, key: Key) -> bool {
        let Some(contact) = self.presence.contacts.get(key) else { return false };
        let is_live = |dialog: &Key| self.presence.subscribers.get(*dialog).is_some_and(|s| s.phase == Phase::Live);
        contact.watch.dialogs.iter().any(is_live)
    }

    /// Before a refresh the XMPP user's server is asked whether he is there
    /// (REQ-8048-21), unless his presence is known.
    fn probe_or_refresh(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(subscriber) = self.presence.subscribers.get(key) else { return };
        let Some(contact) = self.presence.contacts.get(subscriber.contact) else { return };
        let grant = &contact.grant;
        let is_online = grant.state == Authorization::Active && grant.resources.iter().any(|r| r.is_available);
        let names = self.presence.names(subscriber.contact);
        if !self.may_watch(subscriber.contact) {
            let contact = subscriber.contact;
            self.suspend_watch(cx, contact);
            return;
        }
        let is_in_doubt = subscriber.is_in_doubt;
        if !self.settings.presence.probe_before_refresh || is_online || is_in_doubt {
            return self.refresh(cx, key);
        }
        let Some((sip, xmpp)) = names else { return };
        let Ok(domain) = Jid::parse(sip.domain()) else { return };
        let is_sent = self.send_bare(cx, None, &domain, &xmpp, "probe").is_ok();
        if let Some(subscriber) = self.presence.subscribers.get_mut(key) {
            if is_sent {
                subscriber.probing = Some(cx.now.after(PROBE_WAIT));
            } else {
                subscriber.refresh = None;
            }
        }
        self.presence.arm_subscriber(key);
    }

    /// Sends the refresh.
    fn refresh(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return };
        if subscriber.is_busy {
            return;
        }
        (subscriber.refresh, subscriber.is_in_doubt) = (None, false);
        let contact = subscriber.contact;
        let expires = self.expires_wanted(contact);
        let sip = self.presence.names(contact).map(|(sip, _)| sip);
        let is_standard = sip.is_some_and(|sip| self.presence_dialect(sip.domain()) == Dialect::Standard);
        let is_sent = self.send_subscribe(cx, key, expires);
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return };
        if is_sent {
            // COMPAT: Lync may say all in the answer to a SUBSCRIBE.
            subscriber.notify_until = is_standard.then(|| cx.now.after(T1_64));
            // What comes is the state, by whichever clock it is stamped.
            subscriber.resources.iter_mut().for_each(|resource| resource.stamp_s = 0);
        } else {
            // Behind its end another is begun anyway.
            subscriber.refresh = Some(cx.now.after(ROOM_RETRY)).filter(|at| *at < subscriber.expires);
        }
        self.presence.arm_subscriber(key);
    }

    /// Ends a dialog of ours: with Expires 0 where the other end is known, else with the
    /// answer that makes it known.
    pub(super) fn end_dialog(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return };
        if subscriber.phase == Phase::Ending {
            return;
        }
        subscriber.phase = Phase::Ending;
        subscriber.expires = cx.now.after(T1_64);
        let is_known = !subscriber.dialog.remote_tag().is_empty();
        let is_busy = subscriber.is_busy;
        self.presence.arm_subscriber(key);
        if is_known && !is_busy && !self.send_subscribe(cx, key, 0) {
            let contact = self.presence.remove_subscriber(key).map(|subscriber| subscriber.contact);
            if let Some(contact) = contact {
                self.watch_ended(cx, contact);
            }
        }
    }
}

/// What SIP answers.
impl Gateway {
    /// A SUBSCRIBE was answered.
    pub(super) fn subscribe_answered(&mut self, cx: &mut Cx<'_>, key: Key, message: &sip::message::Message<'_>) {
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return };
        subscriber.is_busy = false;
        if message.status() < 300 {
            self.subscribe_accepted(cx, key, message);
            self.take_piggyback(cx, key, message);
        } else {
            self.subscribe_refused(cx, key, message);
        }
    }

    fn subscribe_accepted(&mut self, cx: &mut Cx<'_>, key: Key, message: &sip::message::Message<'_>) {
        let Some(contact) = self.presence.subscribers.get(key).map(|subscriber| subscriber.contact) else { return };
        // An answer may shorten the time, never lengthen it (REQ-8048-23).
        let asked = self.expires_wanted(contact);
        let granted = message.expires().map_or(asked, |granted| granted.min(asked));
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return };
        let is_over = subscriber.phase == Phase::Ending || subscriber.poll.is_some();
        if subscriber.dialog.remote_tag().is_empty()
            && let Some(tag) = message.to().tag
        {
            // The path back is the one the answer came by, from its far end.
            let mut route: Vec<&str> = message.headers("Record-Route").collect();
            route.reverse();
            route.truncate(if route.iter().map(|value| value.len()).sum::<usize>() > DIALOG_OCTETS_MAX {
                0
            } else {
                64
            });
            let route_set = self.presence.route_sets.of_thriftily(route.into_iter());
            subscriber.dialog.confirm(tag, target_of(message), route_set);
        }
        if is_over
            && let Some((sip, _)) = self.presence.names(contact)
            && let Some(tag) = message.to().tag
        {
            self.suspect(cx, sip.bare(), tag);
        }
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return };
        if subscriber.poll.is_some() {
            if subscriber.phase == Phase::Ending {
                // Its NOTIFY came before.
                self.presence.remove_subscriber(key);
                self.forget_if_empty(contact);
            }
            return;
        }
        if let Some(contact) = self.presence.contacts.get_mut(contact) {
            contact.watch.is_new = false;
            contact.watch.trouble.change(|trouble| trouble.asked_id = None);
        }
        match subscriber.phase {
            Phase::Ending => {
                // It was to end while it began, or the end was just confirmed.
                if !subscriber.is_end_asked && granted > 0 && !subscriber.dialog.remote_tag().is_empty() {
                    self.send_subscribe(cx, key, 0);
                }
                self.watch_ended(cx, contact);
            }
            // The deadline is still that of the first NOTIFY.
            Phase::Begun => {
                (subscriber.expires, subscriber.granted_s) = (seconds_after(cx.now, granted), granted);
            }
            Phase::Live => {
                if let Some(target) = target_of(message).filter(|target| target.len() <= DIALOG_OCTETS_MAX / 2) {
                    subscriber.dialog.refresh_target(target);
                }
                // A NOTIFY that overtook it has the last word.
                let left = u32::try_from(subscriber.expires.since(cx.now).as_secs()).unwrap_or(u32::MAX);
                let granted = if subscriber.is_life_told { granted.min(left) } else { granted };
                subscriber.granted_s = granted;
                self.set_life(cx, key, granted);
            }
        }
    }

    /// The NOTIFY that rides in the answer to a SUBSCRIBE ([MS-SIP] section 3.4), which we
    /// offer to Lync. One that we cannot read is as one without a body: no other will come
    /// until something changes.
    fn take_piggyback(&mut self, cx: &mut Cx<'_>, key: Key, message: &sip::message::Message<'_>) {
        let number = message.header(subscription::PIGGYBACK_CSEQ).and_then(sip::header::decimal);
        let Some(number) = number.filter(|number| *number < 1 << 31) else { return };
        let Some(subscriber) = self.presence.subscribers.get(key) else { return };
        let Some((sip, _)) = self.presence.names(subscriber.contact) else { return };
        if self.presence_dialect(sip.domain()) != Dialect::Lync {
            return;
        }
        let Some(state) = SubscriptionState::of(message) else { return };
        // One that a later NOTIFY has overtaken says nothing new.
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return };
        if !u32::try_from(number).is_ok_and(|number| subscriber.dialog.admits(number)) {
            return;
        }
        let told = self.read_body(message, &sip).unwrap_or_else(|answer| {
            cx.count(answer.counter);
            self.log_refusal(cx, message, &answer);
            None
        });
        cx.count(Counter::NotifyPiggybacked);
        self.on_notify(cx, key, state, told);
    }

    /// Notes how long a subscription lasts from now, and when to refresh it.
    fn set_life(&mut self, cx: &mut Cx<'_>, key: Key, seconds: u32) {
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return };
        let life = Duration::from_secs(u64::from(seconds.clamp(1, EXPIRES_MAX_S)));
        subscriber.expires = cx.now.after(life);
        if !subscriber.is_busy && subscriber.probing.is_none() {
            // A life that is too short to be refreshed in good order runs out.
            let after = subscription::refresh_after(life, cx.rng.below(1000));
            subscriber.refresh = (after >= REFRESH_MIN).then(|| cx.now.after(after));
        }
        self.presence.arm_subscriber(key);
    }

    fn subscribe_refused(&mut self, cx: &mut Cx<'_>, key: Key, message: &sip::message::Message<'_>) {
        let status = message.status();
        let Some(subscriber) = self.presence.subscribers.get(key) else { return };
        let (contact, phase, is_poll) = (subscriber.contact, subscriber.phase, subscriber.poll.is_some());
        cx.count(Counter::SubscribeRefused);
        if phase == Phase::Ending {
            self.presence.remove_subscriber(key);
            self.watch_ended(cx, contact);
            self.forget_if_empty(contact);
            return;
        }
        if is_poll {
            self.presence.remove_subscriber(key);
            if Refusal::of(status) == Refusal::ForGood
                && let Some((sip, xmpp)) = self.presence.names(contact)
            {
                self.presence.note_refused(sip.bare(), xmpp.bare());
                self.say_unsubscribed_to(cx, &sip, &xmpp);
            }
            self.forget_if_empty(contact);
            return;
        }
        let is_new = self.presence.contacts.get(contact).is_some_and(|contact| contact.watch.is_new);
        match Refusal::of(status) {
            Refusal::ForGood => {
                self.presence.remove_subscriber(key);
                self.refused_for_good(cx, contact, format_args!("status={status}"));
            }
            // A copy that went another way was merged with the first, whose dialog stands (RFC
            // 3261 section 8.2.2.2).
            _ if status == 482 && phase == Phase::Live && message.cseq().number == FIRST_CSEQ => {
                self.presence.arm_subscriber(key);
            }
            Refusal::TooBrief => self.ask_for_longer(cx, key, message),
            Refusal::NoDialog if phase == Phase::Live => {
                self.presence.remove_subscriber(key);
                self.examine_domain(cx, contact);
                self.begin_watch(cx, contact);
            }
            _ if phase == Phase::Begun => {
                self.presence.remove_subscriber(key);
                if is_new {
                    let mut address = String::new();
                    let uri = message.contact();
                    let condition = error::error_for(status, uri.as_ref().map(|contact| contact.uri), &mut address);
                    self.fail_new(cx, contact, condition);
                } else {
                    self.try_later(cx, contact, message.retry_after(), &format!("status {status}"));
                }
            }
            Refusal::DialogOver | Refusal::NoDialog => {
                self.presence.remove_subscriber(key);
                self.try_later(cx, contact, message.retry_after(), &format!("status {status}"));
            }
            Refusal::DialogStands => self.refresh_later(cx, key, message.retry_after()),
        }
    }

    /// 423: once more with at least what the notifier wants (REQ-8048-18), in the dialog if
    /// there is one.
    fn ask_for_longer(&mut self, cx: &mut Cx<'_>, key: Key, message: &sip::message::Message<'_>) {
        let wanted = message.header("Min-Expires").and_then(sip::header::decimal);
        let wanted = wanted.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
        let Some(subscriber) = self.presence.subscribers.get(key) else { return };
        let (contact, is_live) = (subscriber.contact, subscriber.phase == Phase::Live);
        let before = self.expires_wanted(contact);
        let wanted = wanted.filter(|wanted| *wanted > before && *wanted <= EXPIRES_MAX_S);
        if let Some(wanted) = wanted
            && let Some(contact) = self.presence.contacts.get_mut(contact)
        {
            contact.watch.trouble.change(|trouble| trouble.expires_min_s = wanted);
        }
        match (wanted, is_live) {
            (Some(_), true) => self.refresh(cx, key),
            (None, true) => self.refresh_later(cx, key, None),
            (Some(_), false) => {
                self.presence.remove_subscriber(key);
                self.begin_watch(cx, contact);
            }
            (None, false) => {
                self.presence.remove_subscriber(key);
                self.try_later(cx, contact, None, "423 with a Min-Expires that makes no sense");
            }
        }
    }

    /// A refresh failed and the dialog stands: again before it runs out.
    fn refresh_later(&mut self, cx: &mut Cx<'_>, key: Key, retry_after: Option<u32>) {
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return };
        subscriber.notify_until = None;
        let left = subscriber.expires.since(cx.now);
        let wait =
            retry_after.map_or(left / 4, |seconds| Duration::from_secs(u64::from(seconds.min(RETRY_AFTER_MAX_S))));
        let wait = wait.max(Duration::from_secs(5));
        // What the notifier asks for holds beyond the end of the dialog.
        subscriber.refresh = (wait < left || retry_after.is_some()).then(|| cx.now.after(wait));
        self.presence.arm_subscriber(key);
    }

    /// A SUBSCRIBE got no answer.
    pub(super) fn subscribe_failed(&mut self, cx: &mut Cx<'_>, key: Key, failure: Failure) {
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return };
        subscriber.is_busy = false;
        let (contact, phase, is_poll) = (subscriber.contact, subscriber.phase, subscriber.poll.is_some());
        match phase {
            Phase::Live if !is_poll => self.refresh_later(cx, key, None),
            _ => {
                self.presence.remove_subscriber(key);
                if phase == Phase::Ending {
                    self.watch_ended(cx, contact);
                } else if !is_poll {
                    self.try_later(cx, contact, None, failure_in_words(failure));
                }
                self.forget_if_empty(contact);
            }
        }
    }

    /// A NOTIFY. `from` is the sender whose domain its connection proved.
    pub(in crate::gateway) fn notify_from_sip(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &sip::message::Message<'_>,
        from: &Jid,
    ) {
        cx.count(Counter::NotifyIn);
        if let Err(answer) = self.try_notify(cx, transaction, message, from) {
            cx.count(answer.counter);
            if answer.status != 200 {
                self.log_refusal(cx, message, &answer);
            }
            if answer.status == 481
                && let Some(tag) = message.from().tag
            {
                self.suspect(cx, from.bare(), tag);
            }
            self.respond(cx, transaction, &answer);
        }
    }

    fn try_notify(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &sip::message::Message<'_>,
        from: &Jid,
    ) -> Result<(), Answer> {
        let (key, state, told) = self.read_notify(cx.now, message, from)?;
        self.respond(cx, transaction, &Answer::new(200, "OK", Counter::NotifyTaken));
        cx.count(Counter::NotifyTaken);
        self.on_notify(cx, key, state, told);
        Ok(())
    }

    /// A BENOTIFY ([MS-SIP] section 3.5): a NOTIFY that is never answered, whatever it says
    /// and whoever sent it. `from` is as for NOTIFY.
    pub(in crate::gateway) fn benotify_from_sip(
        &mut self,
        cx: &mut Cx<'_>,
        message: &sip::message::Message<'_>,
        from: Result<Jid, Answer>,
    ) {
        cx.count(Counter::BenotifyIn);
        match from.and_then(|from| self.read_notify(cx.now, message, &from)) {
            Ok((key, state, told)) => {
                cx.count(Counter::BenotifyTaken);
                self.on_notify(cx, key, state, told);
            }
            Err(answer) => {
                cx.count(Counter::BenotifyDropped);
                self.log_refusal(cx, message, &answer);
            }
        }
    }

    /// What a NOTIFY says, and in which dialog; or the answer to one that is not taken.
    fn read_notify(
        &mut self,
        now: Instant,
        message: &sip::message::Message<'_>,
        from: &Jid,
    ) -> Result<(Key, SubscriptionState, Option<Told>), Answer> {
        let refuse = |status, reason: &'static str| Answer::new(status, reason, Counter::NotifyRefused);
        let key =
            self.subscriber_of(now, message, from).ok_or_else(|| Self::no_subscription(Counter::NotifyRefused))?;
        let event = Event::of(message).ok_or_else(|| refuse(489, "Bad Event"))?;
        if event.package != subscription::PRESENCE || event.id.is_some() {
            return Err(refuse(489, "Bad Event").with("Allow-Events", subscription::PRESENCE));
        }
        let state = SubscriptionState::of(message).ok_or_else(|| refuse(400, "Subscription-State Is Missing"))?;
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else {
            return Err(Self::no_subscription(Counter::NotifyRefused));
        };
        if !subscriber.dialog.admits(message.cseq().number) {
            return Err(refuse(500, "A Later Request Came Before"));
        }
        let contact = subscriber.contact;
        let (sip, _) = self.presence.names(contact).ok_or_else(|| Self::no_subscription(Counter::NotifyRefused))?;
        let told = self.read_body(message, &sip)?;
        self.learn_dialog(key, message);
        Ok((key, state, told))
    }

    /// The first NOTIFY says who the other end is and by which way it is reached (RFC 6665
    /// section 4.4.1), unless the answer did and the NOTIFY names no way: so it is where the
    /// answer makes the dialog (RFC 3265 section 3.3.4). Later ones may move the target, never
    /// the route set (RFC 3261 section 12.2).
    fn learn_dialog(&mut self, key: Key, message: &sip::message::Message<'_>) {
        let target = target_of(message).filter(|target| target.len() <= DIALOG_OCTETS_MAX / 2);
        let Some(subscriber) = self.presence.subscribers.get(key) else { return };
        let says_route = subscriber.phase == Phase::Begun && message.headers("Record-Route").next().is_some();
        let is_first = says_route || subscriber.dialog.remote_tag().is_empty();
        let octets: usize = message.headers("Record-Route").map(str::len).sum();
        let route_set = (is_first && octets <= DIALOG_OCTETS_MAX)
            .then(|| self.presence.route_sets.of_thriftily(message.headers("Record-Route")));
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return };
        match (route_set, target) {
            (Some(route_set), target) => {
                subscriber.dialog.confirm(message.from().tag.unwrap_or_default(), target, route_set);
            }
            (None, Some(target)) => subscriber.dialog.refresh_target(target),
            (None, None) => {}
        }
    }

    /// Whose NOTIFY is it? One with another From tag in the time after the SUBSCRIBE is
    /// from another fork, and makes a dialog of its own (REQ-8048-13).
    fn subscriber_of(&mut self, now: Instant, message: &sip::message::Message<'_>, from: &Jid) -> Option<Key> {
        let ours = self.presence.dialogs(message.call_id(), message.to().tag?);
        let subscribers =
            || ours.iter().filter_map(|key| if let DialogKey::Subscriber(key) = key { Some(*key) } else { None });
        let tag = message.from().tag?;
        let known =
            subscribers().find(|key| self.presence.subscribers.get(*key).is_some_and(|s| s.dialog.remote_tag() == tag));
        let open = subscribers()
            .find(|key| self.presence.subscribers.get(*key).is_some_and(|s| s.dialog.remote_tag().is_empty()));
        let first = subscribers().next()?;
        // Whoever is no server of the contact's domain is not in the dialog.
        let contact = self.presence.subscribers.get(first)?.contact;
        self.presence.names(contact).filter(|(sip, _)| sip.domain() == from.domain())?;
        if let Some(key) = known.or(open) {
            return Some(key);
        }
        let model = self.presence.subscribers.get(first)?;
        if now > model.forks_until || model.phase == Phase::Ending {
            return None;
        }
        let parts = Parts { remote_tag: tag, ..model.dialog.parts() };
        let dialog = Dialog::new(&parts, self.presence.route_sets.intern(""), model.dialog.local_cseq(), None);
        let model = self.presence.subscribers.get(first)?;
        let fork = Subscriber {
            contact,
            dialog,
            phase: Phase::Begun,
            is_busy: false,
            poll: model.poll.clone(),
            expires: model.expires,
            granted_s: model.granted_s,
            refresh: None,
            probing: None,
            forks_until: model.forks_until,
            notify_until: None,
            resources: Vec::new(),
            is_informed: false,
            is_in_doubt: false,
            is_life_told: false,
            is_end_asked: false,
            octets: 0,
        };
        let key = self.presence.add_subscriber(fork)?;
        self.presence.arm_subscriber(key);
        Some(key)
    }

    /// The body of a NOTIFY; `None`: it has none, or it is about somebody else.
    fn read_body(&self, message: &sip::message::Message<'_>, contact: &Jid) -> Result<Option<Told>, Answer> {
        if message.body().is_empty() {
            return Ok(None);
        }
        let refuse = |status, reason: &'static str| Answer::new(status, reason, Counter::NotifyRefused);
        let mut tree = Tree::default();
        let language = message.header("Content-Language").and_then(first_language);
        let content_type = message.header("Content-Type").unwrap_or_default();
        if message.header("Content-Encoding").is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
            return Err(refuse(415, "Unsupported Content-Encoding").with("Accept-Encoding", "identity"));
        }
        let dialect = self.presence_dialect(contact.domain());
        let told = match Format::of(content_type).filter(|format| format.is_read(dialect)) {
            Some(format) => format::read(format, message.body(), contact, language, &mut tree),
            None => Err(Fault::Type),
        };
        match told {
            Ok(mut told) => {
                if let Told::Clients(clients) = &mut told {
                    clients.said.truncate(RESOURCES_MAX);
                }
                if self.presence.is_heavy() {
                    told.drop_texts();
                }
                Ok(Some(told))
            }
            Err(Fault::Foreign) => Ok(None),
            Err(Fault::Type) => Err(refuse(415, "Unsupported Media Type").with("Accept", format::accept(dialect))),
            Err(Fault::Malformed) => Err(refuse(400, "The Presence Document Cannot Be Read")),
        }
    }

    fn on_notify(&mut self, cx: &mut Cx<'_>, key: Key, state: SubscriptionState, told: Option<Told>) {
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return };
        let contact = subscriber.contact;
        if let Some(poll) = subscriber.poll.clone() {
            return self.polled(cx, key, &poll, state, told);
        }
        let names = self.presence.names(contact);
        let is_lync = names.is_some_and(|(sip, _)| self.presence_dialect(sip.domain()) == Dialect::Lync);
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return };
        let Some(entry) = self.presence.contacts.get_mut(contact) else { return };
        entry.watch.last_in = Some(cx.now);
        if subscriber.phase == Phase::Ending {
            if matches!(state.status, Status::Terminated(_)) && !subscriber.is_busy {
                self.presence.remove_subscriber(key);
                self.watch_ended(cx, contact);
                self.forget_if_empty(contact);
            }
            return;
        }
        entry.watch.is_new = false;
        match state.status {
            Status::Terminated(reason) => {
                // Its last word is shown until another dialog has one.
                let is_closed = told.is_some_and(|told| told.is_closed());
                self.presence.remove_subscriber(key);
                if self.is_notified(contact) {
                    // The end of one fork, which says nothing of the others (REQ-8048-13).
                    return self.tell(cx, contact);
                }
                let Some(entry) = self.presence.contacts.get_mut(contact) else { return };
                entry.watch.is_closed = is_closed;
                if is_closed {
                    self.show_nothing(cx, contact);
                }
                self.watch_terminated(cx, contact, reason, state.retry_after_s);
            }
            status @ (Status::Active | Status::Pending) => {
                entry.watch.failures = 0;
                entry.watch.trouble.change(|trouble| (trouble.failing_since, trouble.problem) = (None, None));
                let was_begun = subscriber.phase == Phase::Begun;
                (subscriber.phase, subscriber.notify_until) = (Phase::Live, None);
                let is_active = status == Status::Active;
                // What is not approved says nothing that is to be believed (REQ-EVT-25).
                if let Some(told) = told.filter(|_| is_active)
                    && told.apply(&mut subscriber.resources)
                {
                    subscriber.resources.shrink_to_fit();
                    subscriber.is_informed = true;
                    entry.watch.is_closed = false;
                }
                subscriber.is_life_told |= state.expires_s.is_some();
                let granted = Some(subscriber.granted_s).filter(|seconds| *seconds > 0);
                let left = u32::try_from(subscriber.expires.since(cx.now).as_secs()).unwrap_or(u32::MAX);
                let seconds = match state.expires_s {
                    Some(seconds) => Some(seconds),
                    // The 200, which says how long, is still to come.
                    None if was_begun && subscriber.is_busy => Some(self.settings.presence.expires_s),
                    None if was_begun => Some(left),
                    // What each NOTIFY does there (`com.microsoft.autoextend`).
                    None => granted.filter(|_| is_lync),
                };
                match seconds {
                    Some(seconds) => self.set_life(cx, key, seconds),
                    None => self.presence.arm_subscriber(key),
                }
                let Some(entry) = self.presence.contacts.get_mut(contact) else { return };
                if is_active && entry.watch.state == Authorization::Pending {
                    entry.watch.state = Authorization::Active;
                    entry.watch.say_subscribed = true;
                    entry.watch.trouble.change(|trouble| trouble.asked_id = None);
                    if let Some((sip, xmpp)) = self.presence.names(contact) {
                        self.presence.note_approved(sip.bare(), xmpp.bare());
                    }
                    self.store(cx, contact);
                }
                self.presence.weigh(contact);
                self.tell(cx, contact);
            }
        }
    }

    /// The notifier ended a subscription (REQ-8048-22).
    fn watch_terminated(&mut self, cx: &mut Cx<'_>, key: Key, reason: Option<Reason>, retry_after: Option<u32>) {
        match reason {
            Some(Reason::Rejected | Reason::NoResource) => {
                self.refused_for_good(cx, key, format_args!("reason={}", reason.map_or("", Reason::as_str)));
            }
            Some(Reason::Deactivated | Reason::Timeout) => self.begin_again(cx, key),
            Some(Reason::Invariant) => {}
            Some(Reason::Probation | Reason::Giveup) => {
                self.try_later(cx, key, retry_after, reason.map_or("", Reason::as_str));
            }
            None if retry_after.is_some() => self.try_later(cx, key, retry_after, "terminated without a reason"),
            None => self.begin_again(cx, key),
        }
    }

    /// Subscribes anew at once, but not in a circle with a notifier that ends every
    /// subscription as it begins.
    fn begin_again(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        let times = contact.watch.trouble.change(|trouble| {
            let before = trouble.begun_again.filter(|(at, _)| cx.now.since(*at) < RETRY_FIRST);
            let times = before.map_or(1, |(_, times)| times.saturating_add(1));
            trouble.begun_again = Some((cx.now, times));
            times
        });
        if times > BEGUN_AGAIN_MAX {
            self.try_later(cx, key, None, "every subscription is ended at once");
        } else {
            self.begin_watch(cx, key);
        }
    }

    /// The answer to a poll came.
    fn polled(&mut self, cx: &mut Cx<'_>, key: Key, asker: &str, state: SubscriptionState, told: Option<Told>) {
        let Some(contact) = self.presence.subscribers.get(key).map(|subscriber| subscriber.contact) else { return };
        if let Status::Terminated(Some(Reason::Rejected | Reason::NoResource)) = state.status
            && let Some((sip, xmpp)) = self.presence.names(contact)
        {
            self.presence.note_refused(sip.bare(), xmpp.bare());
            self.say_unsubscribed_to(cx, &sip, &xmpp);
        } else if state.status != Status::Pending
            && let Some(told) = told
            && let Some(subscriber) = self.presence.subscribers.get_mut(key).filter(|s| !s.is_informed)
        {
            let mut known = Vec::new();
            subscriber.is_informed = told.apply(&mut known);
            for resource in known {
                self.send_resource(cx, contact, asker, &resource);
            }
        }
        let is_over = matches!(state.status, Status::Terminated(_));
        if let Some(subscriber) = self.presence.subscribers.get_mut(key) {
            if is_over && !subscriber.is_busy {
                self.presence.remove_subscriber(key);
            } else {
                subscriber.phase = Phase::Ending;
                subscriber.expires = cx.now.after(T1_64);
                self.presence.arm_subscriber(key);
            }
        }
        self.forget_if_empty(contact);
    }
}

/// The user part of a SIP URI of ours.
pub(in crate::gateway) fn user_of(uri: &str) -> &str {
    uri.strip_prefix("sip:").and_then(|rest| rest.split_once('@')).map_or("", |(user, _)| user)
}

impl Answer {
    /// The 200 to a SUBSCRIBE, with what makes the dialog.
    pub(super) fn subscribed(expires: &str, contact: &str, record_route: &str) -> Self {
        let mut answer = Self::new(200, "OK", Counter::SubscribeTaken)
            .with("Expires", expires.to_owned())
            .with("Contact", format!("<{contact}>"));
        if !record_route.is_empty() {
            answer = answer.with("Record-Route", record_route.to_owned());
        }
        answer
    }
}
