//! The side that invites: a message wants to go to a SIP user who takes sessions
//! (RFC 7573 section 4, RFC 3261 section 13.2).

use super::table::{First, Noticed, Phase, Session, Timer, Typing};
use super::{Asked, session_headers, ticket};
use crate::base::counters::Counter;
use crate::base::cx::{Cx, Ticket};
use crate::base::slab::Key;
use crate::base::time::Instant;
use crate::gateway::address::jid_of;
use crate::gateway::outgoing::Outgoing;
use crate::gateway::pending::Pending;
use crate::gateway::{Gateway, content, error, message};
use crate::limits::{DIALOG_OCTETS_MAX, SESSION_BODY_OCTETS_MAX, SIP_PAGER_OCTETS_MAX};
use crate::sip::diagnostics::status_in_dialog;
use crate::sip::dialog::{Dialog, Parts, target_of};
use crate::sip::endpoint::{Failure, Refused};
use crate::sip::message::{Message, Method};
use crate::sip::sdp;
use crate::sip::session_timer::SessionTimer;
use crate::sip::uri::Uri;
use crate::xmpp::jid::{self, Jid};
use crate::xmpp::stanza::{Condition, StanzaError};
use core::time::Duration;
use std::rc::Rc;

/// How long an INVITE may ring before it is cancelled. Some servers let a user's clients wait
/// ten seconds before one of them answers.
const RING_MAX: Duration = Duration::from_secs(60);
/// How long the answer to a CANCEL is waited for.
const CANCEL_WAIT: Duration = Duration::from_secs(32);

impl Gateway {
    /// Sends a request whose turn it is in its lane: in the session of its pair of users, in
    /// one that is opened for it, or by itself.
    pub(in crate::gateway) fn send_to_sip(&mut self, cx: &mut Cx<'_>, ticket: Ticket, request: Outgoing) {
        let Some(lane) = self.pending.lane_of(ticket) else { return };
        if let Some(key) = self.sessions.open(lane, request.thread.as_deref()) {
            return self.message_in_session(cx, key, ticket, request);
        }
        let is_wanted = self.opens_sessions(&request.sip_domain) && !self.sessions.is_pager(lane, cx.now);
        if !is_wanted {
            return self.message_alone(cx, ticket, &request);
        }
        let key = self.sessions.inviting(lane).or_else(|| self.invite(cx, lane, ticket, &request));
        let Some(key) = key else { return self.refuse_to_sip(cx, ticket, Refused::Overload, &request.body) };
        match self.pending.carry(ticket, key, request) {
            Ok(()) => {
                if let Some(session) = self.sessions.slots.get_mut(key) {
                    session.held = Some(ticket);
                }
            }
            Err(request) => self.refuse_to_sip(cx, ticket, Refused::Overload, &request.body),
        }
    }

    /// Sends a message by itself (RFC 3428).
    fn message_alone(&mut self, cx: &mut Cx<'_>, ticket: Ticket, request: &Outgoing) {
        if request.size(&self.sip, &self.settings) > SIP_PAGER_OCTETS_MAX {
            return self.refuse_to_sip(cx, ticket, Refused::TooLarge, "");
        }
        if let Err(refused) = request.send(cx, &mut self.sip, &self.settings, ticket) {
            self.refuse_to_sip(cx, ticket, refused, "");
        }
    }

    /// The largest body that may go to a domain at present; `None`: the size of the whole
    /// request decides.
    pub(in crate::gateway) fn body_limit(&self, cx: &Cx<'_>, lane: u64, domain: &str) -> Option<usize> {
        let in_session =
            self.sessions.has_open(lane) || (self.opens_sessions(domain) && !self.sessions.is_pager(lane, cx.now));
        in_session.then_some(SESSION_BODY_OCTETS_MAX)
    }

    /// Sends a message inside an open session.
    fn message_in_session(&mut self, cx: &mut Cx<'_>, key: Key, id: Ticket, request: Outgoing) {
        self.notice_to_sip(cx, key);
        let rich = self.alternatives(cx, key, &request);
        let content = rich.as_ref().map_or((request.content_type, &*request.body), |(kind, body)| (kind, body));
        let content = Some((content.0, content.1.as_bytes()));
        let method = (Method::Message, request.max_forwards);
        let sent = self.ask_within(cx, key, id, method, &request.headers(), content);
        if let Err(refused) = sent {
            return self.refuse_to_sip(cx, id, refused, &request.body);
        }
        if let Some(session) = self.sessions.slots.get_mut(key) {
            // The other end takes him for one who types no more.
            session.typing.xmpp_told = false;
        }
        self.touch(cx, key);
        // Without room it is not kept, and is not sent again should the session be dead.
        drop(self.pending.carry(id, key, request));
    }

    /// The body in both its forms, if there are two and the other end takes that.
    fn alternatives(&self, cx: &mut Cx<'_>, key: Key, request: &Outgoing) -> Option<(String, String)> {
        let session = self.sessions.slots.get(key)?;
        if request.html.is_empty() || !session.takes_html {
            return None;
        }
        // Random, so that no text can hold it.
        let boundary = cx.rng.token::<16>();
        let boundary = boundary.as_str();
        let body = format!(
            "--{boundary}\r\nContent-Type: text/plain; charset=UTF-8\r\n\r\n{}\r\n--{boundary}\r\n\
             Content-Type: text/html; charset=UTF-8\r\n\r\n{}\r\n--{boundary}--\r\n",
            request.body, request.html
        );
        Some((format!("multipart/alternative;boundary={boundary}"), body))
    }

    /// `message archiving-notice` goes before the first message of a session.
    fn notice_to_sip(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(notice) = self.settings.message.archiving_notice.clone() else { return };
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        if core::mem::replace(&mut session.noticed.sip, true) {
            return;
        }
        let content = Some(("text/plain; charset=UTF-8", notice.as_bytes()));
        if self.ask_in_session(cx, key, ticket(key, Asked::Bye), Method::Message, &[], content).is_err() {
            cx.count(Counter::SipOverload);
        }
    }

    /// Sends an INVITE for a message. `None`: there was no room.
    fn invite(&mut self, cx: &mut Cx<'_>, lane: u64, of: Ticket, request: &Outgoing) -> Option<Key> {
        let sip = jid_of(&request.to)?;
        // SIP may know the sender by another address than XMPP; not so in a notice of ours.
        let xmpp = match self.pending.sender(of) {
            Some(sender) => Jid::parse(sender).ok()?,
            None => jid_of(&request.from)?,
        };
        // His client's name is no part of the address that a dialog has.
        let from = Uri::parse(&request.from).ok()?;
        let local_uri = format!("sip:{}@{}", from.user?, from.host);
        let call_id = if self.sessions.is_new_call_id(&request.call_id) {
            request.call_id.clone()
        } else {
            message::new_call_id(cx)
        };
        let tag = message::new_tag(cx);
        let parts = Parts {
            call_id: &call_id,
            local_tag: &tag,
            remote_tag: "",
            local_uri: &local_uri,
            remote_uri: &request.to,
            target: &request.to,
        };
        let dialog = Dialog::new(&parts, self.sessions.route_sets.intern(""), 0, None);
        let is_lync = self.is_lync(sip.domain());
        self.make_room_for(cx, xmpp.domain());
        let session = Session {
            lane,
            is_ours: true,
            thread: request.thread.as_deref().unwrap_or(&call_id).into(),
            client: xmpp.resource().map(|resource| (resource.into(), true)),
            xmpp: xmpp.to_bare(),
            dialog,
            invite_cseq: 1,
            phase: Phase::Inviting { until: cx.now.after(RING_MAX), is_cancelled: false },
            unacknowledged: None,
            held: None,
            first: First::None,
            typing: Typing::default(),
            timer: None,
            is_offering: false,
            used: cx.now,
            idle_at: cx.now.after(self.session_idle(sip.domain())),
            number: self.next_session_number(cx),
            is_lync,
            takes_composing: false,
            takes_html: false,
            noticed: Noticed::default(),
            takes_update: false,
            sip,
        };
        let key = self.sessions.insert(session)?;
        if self.send_invite(cx, key, request).is_none() {
            self.sessions.remove(key);
            return None;
        }
        cx.count(Counter::SessionOut);
        Some(key)
    }

    fn send_invite(&mut self, cx: &mut Cx<'_>, key: Key, request: &Outgoing) -> Option<()> {
        let contact = self.session_contact(key)?;
        let mut headers = session_headers(&contact);
        if let Some(subject) = &request.subject {
            // Eight places for four headers.
            let _ = headers.push(("Subject", subject));
        }
        let offer = self.session_description(key, None)?;
        let content = Some(("application/sdp", offer.as_bytes()));
        let method = (Method::Invite, request.max_forwards);
        self.ask_within(cx, key, ticket(key, Asked::Invite), method, &headers, content).ok()
    }

    /// A number for a description: nobody can foresee the first.
    pub(super) fn next_session_number(&mut self, cx: &mut Cx<'_>) -> u32 {
        let next = &mut self.sessions.next_number;
        if *next == 0 {
            *next = cx.rng.below(1 << 30) as u32;
        }
        *next = next.wrapping_add(1) | 1;
        *next
    }

    /// A response to an INVITE of ours.
    pub(super) fn invite_answered(&mut self, cx: &mut Cx<'_>, key: Key, message: &Message<'_>) {
        let status = message.status();
        if status < 200 {
            return;
        }
        let Some(session) = self.sessions.slots.get_mut(key) else {
            if status < 300 {
                // The session was given up meanwhile.
                self.refuse_late_accept(cx, key, message);
            }
            return;
        };
        let is_open = session.phase == Phase::Open;
        if is_open {
            match message.to().tag {
                // Its ACK was lost.
                _ if status >= 300 => {}
                Some(tag) if tag == session.dialog.remote_tag() => self.acknowledge(cx, key),
                // Another client of his accepted too: one is enough.
                _ => self.refuse_late_accept(cx, key, message),
            }
            return;
        }
        if status >= 300 {
            return self.invite_refused(cx, key, message);
        }
        let is_cancelled = matches!(session.phase, Phase::Inviting { is_cancelled: true, .. });
        let fits = |text: Option<&str>| text.is_some_and(|text| text.len() <= DIALOG_OCTETS_MAX / 4);
        let target = target_of(message);
        let routes = reversed(message);
        // Without a Contact the address that was invited has to do.
        let has_place = fits(target) || message.contact().is_none();
        if !fits(message.to().tag) || !has_place || routes.len() > DIALOG_OCTETS_MAX {
            self.refuse_late_accept(cx, key, message);
            return self.give_up_invite(
                cx,
                key,
                &StanzaError::new(Condition::RemoteServerNotFound),
                "a 2xx that makes no dialog",
            );
        }
        let route_set = self.sessions.route_sets.intern(&routes);
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        session.dialog.confirm(message.to().tag.unwrap_or_default(), target, route_set);
        session.phase = Phase::Open;
        session.sip = full_address(message, &session.sip);
        session.takes_update = takes_update(message);
        let media = sdp::read(message.body());
        let media = media.iter().flatten().find(|media| media.is_instant_messages()).copied();
        session.takes_composing = media.is_some_and(|media| media.takes(content::COMPOSING_TYPE));
        session.takes_html = media.is_some_and(|media| takes_html(&media));
        session.timer = SessionTimer::settled(message).map(|agreed| Timer {
            agreed,
            at: cx.now.after(agreed.due_after()),
            is_refreshing: false,
        });
        let held = session.held.take();
        self.acknowledge(cx, key);
        let request = held.and_then(|ticket| Some((ticket, self.pending.uncarry(ticket)?.1)));
        if is_cancelled || media.is_none() {
            self.end_session(cx, key, if is_cancelled { "accepted too late" } else { "accepted without its media" });
            if let Some((ticket, request)) = request {
                if let Some(lane) = self.pending.lane_of(ticket) {
                    self.sessions.takes_no_session(lane, cx.now);
                }
                self.message_alone(cx, ticket, &request);
            }
            return;
        }
        cx.count(Counter::SessionOpened);
        self.touch(cx, key);
        if let Some((ticket, request)) = request {
            self.message_in_session(cx, key, ticket, request);
        }
    }

    /// Sends the ACK to a 2xx, the first time or again (RFC 3261 section 13.2.2.4).
    fn acknowledge(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Self { sessions, sip, settings, routes, .. } = self;
        let Some(session) = sessions.slots.get(key) else { return };
        let refused = Self::with_destination(sip, (settings, routes), session.sip.domain(), |sip, destination| {
            session.dialog.acknowledge(session.invite_cseq, |request| {
                sip.request(cx, ticket(key, Asked::Bye), destination, request)
            })
        });
        if refused.is_err() {
            cx.count(Counter::SipOverload);
        }
    }

    /// A 2xx that no session of ours wants: it is acknowledged, and its dialog ended at once.
    fn refuse_late_accept(&mut self, cx: &mut Cx<'_>, key: Key, message: &Message<'_>) {
        // It goes where the INVITE went, whatever the 2xx says of its To.
        let domain = self.sip.domain_of(ticket(key, Asked::Invite)).map(|ascii| idna::domain_to_unicode(ascii).0);
        let Some(domain) = domain else { return };
        let parts = Parts {
            call_id: message.call_id(),
            local_tag: message.from().tag.unwrap_or_default(),
            remote_tag: message.to().tag.unwrap_or_default(),
            local_uri: message.from().uri,
            remote_uri: message.to().uri,
            target: target_of(message).unwrap_or_else(|| message.to().uri),
        };
        // Not among those of sessions: it may be of any length, and lives for two requests.
        let routes: Rc<str> = reversed(message).into();
        let number = message.cseq().number;
        let mut dialog = Dialog::new(&parts, routes, number, None);
        let nobody = ticket(Key::from_bits(u64::from(u32::MAX) >> 8 << 32), Asked::Bye);
        let _ = Self::with_destination(&mut self.sip, (&self.settings, &self.routes), &domain, |sip, destination| {
            dialog.acknowledge(number, |request| sip.request(cx, nobody, destination, request))?;
            dialog.request(Method::Bye, &[], None, b"", |request| sip.request(cx, nobody, destination, request))
        });
    }

    fn invite_refused(&mut self, cx: &mut Cx<'_>, key: Key, message: &Message<'_>) {
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        let (lane, held) = (session.lane, session.held.take());
        let sip = session.sip.clone();
        self.note_answer(cx.now, sip.as_str(), message.status());
        let request = held.and_then(|ticket| Some((ticket, self.pending.uncarry(ticket)?.1)));
        self.drop_session(cx, key, "refused");
        cx.count(Counter::SessionRefused);
        let Some((ticket, request)) = request else { return };
        if self.sessions.has_open(lane) {
            // Both invited each other, and his is open.
            return self.send_to_sip(cx, ticket, request);
        }
        if is_media_refused(message) {
            // REQ-7573-7: he takes no sessions, but perhaps single messages.
            self.sessions.takes_no_session(lane, cx.now);
            return self.message_alone(cx, ticket, &request);
        }
        let domain = self.pending.sender(ticket).map(|sender| jid::split(sender).1.to_owned());
        domain.iter().for_each(|domain| self.note_failed(domain));
        let error = error::of_response(message, self.dialect_of(&request.sip_domain));
        let cause = format_args!("status={} {}", message.status(), error::Said(message));
        self.end_to_sip(cx, ticket, &error, &request.body, cause);
    }

    /// An INVITE got no answer.
    pub(super) fn invite_failed(&mut self, cx: &mut Cx<'_>, key: Key, failure: Failure) {
        let error = error::stanza_error_for(failure);
        self.give_up_invite(cx, key, &error, "no answer");
    }

    /// An INVITE rings too long, or its CANCEL had no answer.
    pub(super) fn invite_too_slow(&mut self, cx: &mut Cx<'_>, key: Key, is_cancelled: bool) {
        if is_cancelled {
            return self.drop_session(cx, key, "no answer to a CANCEL");
        }
        let error = StanzaError::new(Condition::RecipientUnavailable).with_text("nobody answered");
        let held = self.withdraw(cx, key);
        self.fail_held(cx, held, &error, "nobody answered");
    }

    /// Cancels an INVITE of ours, and gives what waited for it.
    fn withdraw(&mut self, cx: &mut Cx<'_>, key: Key) -> Option<Ticket> {
        self.sip.cancel(cx, ticket(key, Asked::Invite));
        let session = self.sessions.slots.get_mut(key)?;
        session.phase = Phase::Inviting { until: cx.now.after(CANCEL_WAIT), is_cancelled: true };
        let held = session.held.take();
        self.sessions.arm(key);
        held
    }

    /// A session of the SIP user's is established. If one of ours is being opened to him, both
    /// invited each other: what waits for ours goes in his, which is there already.
    pub(super) fn withdraw_for(&mut self, cx: &mut Cx<'_>, his: Key) {
        let Some(lane) = self.sessions.slots.get(his).map(|session| session.lane) else { return };
        let Some(ours) = self.sessions.inviting(lane) else { return };
        let held = self.withdraw(cx, ours);
        let client = self.sessions.slots.get(ours).map(|ours| (ours.client.clone(), ours.typing.states));
        if let (Some(session), Some((client, states))) = (self.sessions.slots.get_mut(his), client) {
            // The XMPP user wrote before there was a session of his to note from where.
            (session.client, session.typing.states) = (client, states);
        }
        if let Some((ticket, request)) = held.and_then(|ticket| Some((ticket, self.pending.uncarry(ticket)?.1))) {
            self.message_in_session(cx, his, ticket, request);
        }
    }

    pub(super) fn give_up_invite(&mut self, cx: &mut Cx<'_>, key: Key, error: &StanzaError<'_>, cause: &'static str) {
        let held = self.sessions.slots.get_mut(key).and_then(|session| session.held.take());
        self.drop_session(cx, key, cause);
        self.fail_held(cx, held, error, cause);
    }

    fn fail_held(&mut self, cx: &mut Cx<'_>, held: Option<Ticket>, error: &StanzaError<'_>, cause: &'static str) {
        let Some(ticket) = held else { return };
        let body = self.pending.uncarry(ticket).map(|(_, request)| request.body).unwrap_or_default();
        self.end_to_sip(cx, ticket, error, &body, format_args!("cause={cause}"));
    }

    /// A MESSAGE that went in a session was answered. True: the session was dead, and the
    /// message is on its way again.
    pub(in crate::gateway) fn is_sent_again(&mut self, cx: &mut Cx<'_>, ticket: Ticket, status: u16) -> bool {
        let Some(Pending::ToSip(entry)) = self.pending.get_mut(ticket) else { return false };
        let Some(key) = entry.session() else { return false };
        if !matches!(status, 408 | 480 | 481) {
            return false;
        }
        if status == 481 {
            self.drop_session(cx, key, "unknown to the other end");
        } else {
            self.end_session(cx, key, "the other end does not answer in it");
        }
        let Some((_, mut request)) = self.pending.uncarry(ticket) else { return false };
        if request.is_repeated || self.ending {
            // For the error that tells of it.
            drop(self.pending.carry(ticket, key, request));
            return false;
        }
        // 481: nobody saw it. Another session that is as dead may not keep it from a new one.
        let lane = self.pending.lane_of(ticket);
        request.is_repeated = status != 481 || lane.is_none_or(|lane| !self.sessions.has_open(lane));
        cx.count(Counter::SessionRenewed);
        self.send_to_sip(cx, ticket, request);
        true
    }

    /// A session timer of ours, or the other end's, has come.
    pub(super) fn timer_due(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        let Some(timer) = &mut session.timer else { return };
        if !timer.agreed.is_ours || timer.is_refreshing {
            return self.end_session(cx, key, "it was not refreshed");
        }
        timer.is_refreshing = true;
        timer.at = cx.now.after(Duration::from_secs(u64::from(timer.agreed.interval_s) / 3));
        let value = timer.agreed.as_asker();
        let is_update = session.takes_update;
        let Some(contact) = self.session_contact(key) else { return };
        let mut headers = session_headers(&contact);
        let _ = headers.push(("Session-Expires", &value));
        let offer = if is_update { None } else { self.session_description(key, None) };
        let method = if is_update { Method::Update } else { Method::Invite };
        let content = offer.as_ref().map(|offer| ("application/sdp", offer.as_bytes()));
        if self.ask_in_session(cx, key, ticket(key, Asked::Refresh), method, &headers, content).is_ok()
            && !is_update
            && let Some(session) = self.sessions.slots.get_mut(key)
        {
            session.invite_cseq = session.dialog.local_cseq();
            session.is_offering = true;
        }
    }

    /// The answer to a refresh of ours.
    pub(super) fn refresh_answered(&mut self, cx: &mut Cx<'_>, key: Key, message: &Message<'_>) {
        if message.status() < 300 && message.method() == Method::Invite {
            self.acknowledge(cx, key);
        }
        if matches!(status_in_dialog(message), 408 | 481) {
            return self.drop_session(cx, key, "unknown to the other end");
        }
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        session.is_offering = false;
        if let Some(timer) = &mut session.timer {
            match message.status() {
                491 => {
                    // Both asked at once: whoever made the Call-ID waits longer (RFC 3261
                    // section 14.1).
                    let wait = if session.is_ours { 2100 + cx.rng.below(1900) } else { cx.rng.below(2000) };
                    (timer.at, timer.is_refreshing) = (soon(cx.now, wait), false);
                }
                422 if SessionTimer::min_of(message).is_some_and(|min| min > timer.agreed.interval_s) => {
                    timer.agreed.interval_s = SessionTimer::min_of(message).unwrap_or_default();
                    (timer.at, timer.is_refreshing) = (cx.now, false);
                }
                // It said that it takes UPDATE and does not: a re-INVITE does the same.
                405 | 501 if session.takes_update => {
                    session.takes_update = false;
                    (timer.at, timer.is_refreshing) = (cx.now, false);
                }
                _ => {}
            }
        }
        if message.status() < 300 {
            session.timer = SessionTimer::settled(message).map(|agreed| Timer {
                agreed,
                at: cx.now.after(agreed.due_after()),
                is_refreshing: false,
            });
            if let Some(target) = target_of(message).filter(|target| target.len() <= DIALOG_OCTETS_MAX / 4) {
                session.dialog.refresh_target(target);
            }
        }
        self.sessions.arm(key);
    }
}

/// The address of the other end with the client that its Contact names, if it is his.
pub(super) fn full_address(message: &Message<'_>, known: &Jid) -> Jid {
    let contact = message.contact().and_then(|contact| jid_of(contact.uri));
    contact.filter(|jid| jid.resource().is_some() && jid.bare() == known.bare()).unwrap_or_else(|| known.clone())
}

/// Does the other end take a body as HTML beside the plain one?
pub(super) fn takes_html(media: &sdp::Media<'_>) -> bool {
    ["text/html", "multipart/alternative"].iter().all(|kind| media.takes(kind))
}

/// Does the sender of this message take UPDATE?
pub(super) fn takes_update(message: &Message<'_>) -> bool {
    message.headers("Allow").any(|method| method == Method::Update.as_str())
}

/// The route set of a dialog that we began: the Record-Route of the response, last value
/// first (RFC 3261 section 12.1.2).
fn reversed(message: &Message<'_>) -> String {
    let values: Vec<&str> = message.headers("Record-Route").collect();
    values.into_iter().rev().collect::<Vec<_>>().join(", ")
}

/// Does this refusal of an INVITE concern sessions as such, not the user?
fn is_media_refused(message: &Message<'_>) -> bool {
    match message.status() {
        405 | 415 | 420 | 488 | 501 => true,
        // With Warning 309 it is a filter of what was written that refuses.
        606 => !message.headers("Warning").any(|warning| warning.starts_with("309")),
        _ => false,
    }
}

/// Later than now.
pub(super) fn soon(now: Instant, millis: u64) -> Instant {
    now.after(Duration::from_millis(millis))
}
