//! Presence and contacts (RFC 8048): long XMPP subscriptions on one side, short SIP ones
//! on the other, kept in step.
//!
//! Each pair of users is one [`table::Contact`] with two independent halves: `watch.rs`
//! is the XMPP user who watches the SIP user, `subscriber.rs` the SIP dialogs for that and
//! `doubt.rs` the question whether they still stand;
//! `grant.rs` is the SIP user who watches the XMPP user, `notifier.rs` his dialogs. `tell.rs` brings the XMPP side up
//! to what is known, `record.rs` keeps authorizations over a restart, `document.rs` is
//! the two ways to write presence down.
//!
//! Nothing is sent because something came in, but because what a side was told differs
//! from what is known: so whatever is lost, refused for want of room or cut off by a
//! fault is sent later, and only its latest state. Each piece of work is short and hangs
//! on one deadline, and a turn serves [`PRESENCE_TURN_MAX`] of them at most.

mod describe;
pub mod document;
mod doubt;
pub mod format;
mod grant;
mod notifier;
mod record;
mod rights;
pub mod state;
mod subscriber;
pub(super) mod table;
mod tell;
mod watch;

use super::Gateway;
use super::owner::{NOTIFIER as OF_NOTIFIER, PRESENCE as OF_PRESENCE};
use super::uas::Answer;
use crate::base::counters::Counter;
use crate::base::cx::{Cx, Ticket};
use crate::base::net::Transport;
use crate::base::slab::Key;
use crate::base::text::Escaped;
use crate::base::time::Instant;
use crate::limits::{PRESENCE_TURN_MAX, STREAM_QUEUE_STANZAS_MAX};
use crate::settings::{Dialect, ListenerKind, PartnerKind};
use crate::sip;
use crate::sip::endpoint::{Destination, Failure, Refused, Request};
use crate::xmpp::jid::{Jid, domain_to_ascii};
use crate::xmpp::server::{Handle, Undelivered};
use crate::xmpp::stanza::{Condition, Head, Kind, Stanza, StanzaError};
use core::time::Duration;
pub(super) use rights::NoRoom;
pub(super) use subscriber::user_of;
use table::{DialogKey, Due, Task, Waiting};

/// First wait before something that failed is tried again; it doubles from there.
const RETRY_FIRST: Duration = Duration::from_secs(15);
/// The longest such wait.
const RETRY_MAX: Duration = Duration::from_secs(1800);
/// Wait when a table or a queue has no room.
const ROOM_RETRY: Duration = Duration::from_secs(1);
/// Everything is asked anew within this time after a start: spread, not a storm.
const RESTART_SPREAD_MS: u64 = 30_000;

const fn subscriber_ticket(key: Key) -> Ticket {
    Ticket(Key::from_bits(key.to_bits() | OF_PRESENCE))
}

const fn notifier_ticket(key: Key) -> Ticket {
    Ticket(Key::from_bits(key.to_bits() | OF_PRESENCE | OF_NOTIFIER))
}

const fn contact_ticket(key: Key) -> Ticket {
    Ticket(Key::from_bits(key.to_bits() | OF_PRESENCE))
}

/// The dialog that a ticket of SIP's names, if it is one of presence.
fn dialog_of(ticket: Ticket) -> Option<DialogKey> {
    let bits = ticket.0.to_bits();
    if bits & OF_PRESENCE == 0 {
        return None;
    }
    let key = Key::from_bits(bits & !(OF_PRESENCE | OF_NOTIFIER));
    Some(if bits & OF_NOTIFIER == 0 { DialogKey::Subscriber(key) } else { DialogKey::Notifier(key) })
}

/// The contact that a ticket of XMPP's names, if it is one of presence.
fn contact_of(ticket: Ticket) -> Option<Key> {
    let bits = ticket.0.to_bits();
    (bits & OF_PRESENCE != 0).then(|| Key::from_bits(bits & !OF_PRESENCE))
}

/// A wait that doubles with each failure, with up to a quarter of chance in it.
fn back_off(cx: &mut Cx<'_>, failures: u8) -> Duration {
    let step = RETRY_FIRST.saturating_mul(1 << failures.min(10)).min(RETRY_MAX).as_millis() as u64;
    Duration::from_millis(step - cx.rng.below(step / 4 + 1))
}

impl Gateway {
    /// A presence stanza whose sender's domain is proved. Its handle is given back when
    /// what it changed is safe.
    pub(super) fn on_presence(&mut self, cx: &mut Cx<'_>, handle: Handle, stanza: &Stanza<'_>) {
        cx.count(Counter::XmppPresenceIn);
        let outcome = match stanza.type_ {
            _ if self.ending => Ok(None),
            Some("error") => self.presence_error(cx, stanza),
            _ if stanza.to.local().is_none() => self.presence_for_domain(cx, stanza),
            None | Some("unavailable") => self.presence_from_xmpp(cx, stanza),
            Some("probe") => self.probe_from_xmpp(cx, stanza),
            Some("subscribe") => self.subscribe_from_xmpp(cx, stanza),
            Some("unsubscribe") => self.unsubscribe_from_xmpp(cx, stanza),
            Some("subscribed") => self.subscribed_from_xmpp(cx, stanza),
            Some("unsubscribed") => self.unsubscribed_from_xmpp(cx, stanza),
            Some(_) => Err(StanzaError::new(Condition::BadRequest).with_text("no such type of presence")),
        };
        match outcome {
            Ok(Some(record)) if record > self.presence.safe => {
                self.presence.waiting.push_back((record, Waiting::Handled(handle)));
                return;
            }
            Ok(_) => {}
            Err(error) => self.refuse_presence(cx, stanza, &error),
        }
        self.xmpp.handled(cx, handle);
    }

    fn refuse_presence(&mut self, cx: &mut Cx<'_>, stanza: &Stanza<'_>, error: &StanzaError<'_>) {
        cx.refuse(
            Counter::PresenceRefused,
            "presence.refused",
            format_args!(
                "side=xmpp from={} to={} type={} condition={} cause={}",
                self.named(stanza.from.as_str()),
                self.named(stanza.to.as_str()),
                Escaped(stanza.type_.unwrap_or("available")),
                error.condition.name(),
                Escaped(error.text.as_deref().unwrap_or_default()),
            ),
        );
        let to = stanza.from.domain();
        let sent = self.xmpp.answer(cx, stanza.to.domain(), to, |w| {
            stanza.emit_error(w, error);
        });
        Self::note_lost_answer(cx, to, sent);
    }

    /// Presence for one of our domains itself: the answer to a probe of ours.
    fn presence_for_domain(
        &mut self,
        cx: &mut Cx<'_>,
        stanza: &Stanza<'_>,
    ) -> Result<Option<u64>, StanzaError<'static>> {
        match stanza.type_ {
            None => self.user_is_online(cx, stanza.from.bare(), stanza.to.domain()),
            Some("subscribe") => {
                return Err(StanzaError::new(Condition::ServiceUnavailable).with_text("a domain has no presence"));
            }
            // `unsubscribed` and silence say nothing about the user, `unavailable` that he
            // is away: the dialog is left to run out (D-10).
            Some("unsubscribed" | "unavailable") => self.user_is_not_online(stanza.from.bare(), stanza.to.domain()),
            Some(_) => {}
        }
        Ok(None)
    }

    fn presence_error(&mut self, cx: &mut Cx<'_>, stanza: &Stanza<'_>) -> Result<Option<u64>, StanzaError<'static>> {
        if stanza.to.local().is_none() {
            self.user_is_not_online(stanza.from.bare(), stanza.to.domain());
            return Ok(None);
        }
        let error = StanzaError::parse(stanza.element).unwrap_or(StanzaError::new(Condition::UndefinedCondition));
        Ok(self.grant_error(cx, stanza, &error))
    }

    /// Does the XMPP user have the SIP user among his contacts?
    pub(super) fn has_as_contact(&self, xmpp: &Jid, sip: &Jid) -> bool {
        let contact = self.presence.find(sip.bare(), xmpp.bare());
        let watch = contact.and_then(|key| self.presence.contacts.get(key)).map(|contact| contact.watch.state);
        matches!(watch, Some(table::Authorization::Active | table::Authorization::Pending))
    }

    /// Does the SIP user have the XMPP user among his contacts?
    pub(super) fn is_contact(&self, sip: &Jid, xmpp: &Jid) -> bool {
        let contact = self.presence.find(sip.bare(), xmpp.bare());
        contact.and_then(|key| self.presence.contacts.get(key)).is_some_and(|contact| contact.grant.is_added)
    }

    /// May users of this domain read what SIP users say about themselves?
    fn sees_status(&self, xmpp_domain: &str) -> bool {
        let domain = self.routes.xmpp_domain(&self.settings, xmpp_domain);
        domain.is_some_and(|domain| domain.kind == PartnerKind::Federated)
    }

    /// Sends a presence stanza without a body of its own.
    fn send_bare(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Option<Ticket>,
        from: &Jid,
        to: &Jid,
        type_: &str,
    ) -> Result<(), crate::xmpp::server::Refused> {
        let id = cx.rng.token::<10>();
        let head = Head {
            kind: Kind::Presence,
            from: from.bare(),
            to: to.bare(),
            id: Some(id.as_str()),
            type_: Some(type_),
            lang: None,
        };
        let sent = self.xmpp.send(cx, ticket, from.domain(), to.domain(), |w| head.emit_empty(w));
        Self::count_presence_out(cx, sent)
    }

    /// Counts a presence stanza that was taken to be sent.
    fn count_presence_out(
        cx: &mut Cx<'_>,
        sent: Result<(), crate::xmpp::server::Refused>,
    ) -> Result<(), crate::xmpp::server::Refused> {
        if sent.is_ok() {
            cx.count(Counter::XmppPresenceOut);
        }
        sent
    }

    /// Has `send` the way to a SIP domain: everything for it goes through its own
    /// servers, in dialogs too; Route and Request-URI tell them where from there.
    pub(super) fn with_destination<T>(
        sip: &mut sip::endpoint::Endpoint,
        (settings, routes): (&crate::settings::Settings, &super::route::Routes),
        domain: &str,
        send: impl FnOnce(&mut sip::endpoint::Endpoint, &Destination<'_>) -> T,
    ) -> T {
        let ascii = domain_to_ascii(domain).unwrap_or_default();
        let destination = match routes.next_hop(settings, domain) {
            Some(hop) => Destination::NextHop { hop, domain: &ascii },
            None => Destination::Domain { domain: &ascii },
        };
        send(sip, &destination)
    }

    /// How a SIP domain speaks.
    fn presence_dialect(&self, sip_domain: &str) -> Dialect {
        self.routes.sip_domain(&self.settings, sip_domain).map_or(Dialect::Standard, |served| served.dialect)
    }

    /// How a SIP domain reaches us: as we reach it, if we listen there.
    pub(super) fn transport_for(&self, sip_domain: &str) -> Transport {
        if let Some(hop) = self.routes.next_hop(&self.settings, sip_domain) {
            return hop.transport.into();
        }
        let listens = |kind| self.settings.listeners.iter().any(|listener| listener.kind == kind);
        match () {
            () if listens(ListenerKind::SipTls) => Transport::Tls,
            () if listens(ListenerKind::SipTcp) => Transport::Tcp,
            () => Transport::Udp,
        }
    }

    // ---- Outcomes

    /// SIP answered a request of presence. False: it was none of ours.
    pub(super) fn presence_response(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Ticket,
        message: &sip::message::Message<'_>,
    ) -> bool {
        let Some(dialog) = dialog_of(ticket) else { return false };
        if message.status() >= 200 {
            if let DialogKey::Subscriber(key) = dialog
                && let Some(contact) = self.presence.subscribers.get(key).map(|subscriber| subscriber.contact)
                && let Some((sip, _)) = self.presence.names(contact)
            {
                self.note_answer(cx.now, sip.as_str(), message.status());
            }
            match dialog {
                DialogKey::Subscriber(key) => self.subscribe_answered(cx, key, message),
                DialogKey::Notifier(key) => self.notify_answered(cx, key, message),
            }
        }
        true
    }

    /// A request of presence got no answer. False: it was none of ours.
    pub(super) fn presence_failed(&mut self, cx: &mut Cx<'_>, ticket: Ticket, failure: Failure) -> bool {
        match dialog_of(ticket) {
            Some(DialogKey::Subscriber(key)) => self.subscribe_failed(cx, key, failure),
            Some(DialogKey::Notifier(key)) => self.notify_failed(cx, key, failure),
            None => return false,
        }
        true
    }

    /// A presence stanza arrived. False: it was none of ours.
    pub(super) fn presence_delivered(&mut self, cx: &mut Cx<'_>, ticket: Ticket) -> bool {
        let Some(key) = contact_of(ticket) else { return false };
        self.told(cx, key);
        true
    }

    /// A presence stanza did not arrive. False: it was none of ours.
    pub(super) fn presence_undelivered(&mut self, cx: &mut Cx<'_>, ticket: Ticket, why: Undelivered) -> bool {
        let Some(key) = contact_of(ticket) else { return false };
        self.not_told(cx, key, why);
        true
    }

    /// Deadlines have come.
    pub(super) fn presence_timeout(&mut self, cx: &mut Cx<'_>) {
        if self.presence.suspicions.due.is_some_and(|due| due <= cx.now) {
            self.examine_suspects(cx);
        }
        for _ in 0..PRESENCE_TURN_MAX {
            match self.presence.pop_due(cx.now) {
                Some(Due::Contact(key)) => {
                    while let Some(task) = self.presence.next_task(key, cx.now) {
                        self.carry_out(cx, key, task);
                    }
                }
                Some(Due::Subscriber(key)) => self.subscriber_due(cx, key),
                Some(Due::Notifier(key)) => self.notifier_due(cx, key),
                None => return,
            }
        }
    }

    fn carry_out(&mut self, cx: &mut Cx<'_>, key: Key, task: Task) {
        match task {
            Task::Subscribe => self.begin_watch(cx, key),
            Task::Tell => self.tell(cx, key),
            Task::Ask => self.ask(cx, key),
            Task::Probe => self.probe(cx, key),
            Task::ProbeOver => self.probe_over(cx, key),
        }
    }

    /// Records up to this one are safe: what waited for them may be promised.
    pub(super) fn on_stored(&mut self, cx: &mut Cx<'_>, number: u64) {
        self.presence.safe = self.presence.safe.max(number);
        while let Some((record, _)) = self.presence.waiting.front() {
            if *record > self.presence.safe {
                break;
            }
            match self.presence.waiting.pop_front() {
                Some((_, Waiting::Handled(handle))) => self.xmpp.handled(cx, handle),
                Some((_, Waiting::Contact(key))) => {
                    if let Some(contact) = self.presence.contacts.get_mut(key) {
                        contact.watch.waits = false;
                    }
                    self.presence.plan_by(key, Task::Tell, cx.now);
                }
                None => break,
            }
        }
    }

    /// Nothing can be made safe at present: a stream whose stanzas wait for that would
    /// stall with everything on it, so they are acknowledged, and nothing else is
    /// promised.
    pub(super) fn on_store_failed(&mut self, cx: &mut Cx<'_>) {
        let waiting = core::mem::take(&mut self.presence.waiting);
        for (record, what) in waiting {
            match what {
                Waiting::Handled(handle) => self.xmpp.handled(cx, handle),
                Waiting::Contact(_) => self.presence.waiting.push_back((record, what)),
            }
        }
    }

    /// The program ends: XMPP watchers are told that the contacts they saw are gone, SIP
    /// watchers that they may come again (REQ-8048-83), as far as there is room.
    pub(super) fn presence_shutdown(&mut self, cx: &mut Cx<'_>) {
        for (_, waiting) in core::mem::take(&mut self.presence.waiting) {
            if let Waiting::Handled(handle) = waiting {
                self.xmpp.handled(cx, handle);
            }
        }
        let keys: Vec<Key> = self.presence.contacts.iter().map(|(key, _)| key).collect();
        let mut stanzas = 0;
        for key in keys {
            if stanzas < 64 * STREAM_QUEUE_STANZAS_MAX {
                stanzas += self.say_gone(cx, key);
            }
            self.deactivate(cx, key);
        }
    }

    /// How many contacts are kept.
    pub fn contacts_kept(&self) -> usize {
        self.presence.len()
    }

    /// The answer to a SUBSCRIBE or a NOTIFY that belongs to no dialog.
    fn no_subscription(counter: Counter) -> Answer {
        Answer::new(481, "Subscription Does Not Exist", counter)
    }
}

/// Why SIP did not even take a request, for logs.
fn refusal_in_words(refused: Refused) -> &'static str {
    match refused {
        Refused::Overload => "too many SIP requests are under way",
        Refused::TooLarge => "the request is too large",
        Refused::Malformed => "an address has no SIP form",
    }
}

/// What a SIP request of ours got instead of an answer, as the side at fault and the
/// cause.
fn failure_in_words(failure: Failure) -> &'static str {
    match failure {
        Failure::Timeout => "the SIP server does not answer",
        Failure::Transport(_) => "the SIP server cannot be reached",
        Failure::NotLocated(_) => "the SIP server is not found in the DNS",
        Failure::Certificate => "the certificate of the SIP server is not believed",
        Failure::Overload => "the SIP server is overloaded",
    }
}

/// A request of a dialog that leaves room for what every one of them says.
pub(super) type Headers<'a> = heapless::Vec<(&'a str, &'a str), 8>;

/// Gives a request to the SIP side.
fn give(
    cx: &mut Cx<'_>,
    sip: &mut sip::endpoint::Endpoint,
    destination: &Destination<'_>,
    ticket: Ticket,
    request: &Request<'_>,
) -> Result<(), Refused> {
    sip.request(cx, ticket, destination, request)
}

/// Later than `now` by seconds.
fn seconds_after(now: Instant, seconds: u32) -> Instant {
    now.after(Duration::from_secs(u64::from(seconds)))
}
