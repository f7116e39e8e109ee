//! The side that is invited: a SIP user opens a session, and is answered in the XMPP user's
//! name (RFC 7573 section 5). XMPP users cannot be made to ring.

use super::caller::{full_address, soon, takes_html, takes_update};
use super::session_headers;
use super::table::{First, Noticed, Phase, Session, Timer, Typing, Unacknowledged, text_hash};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::slab::Key;
use crate::base::xml::Tag;
use crate::gateway::Gateway;
use crate::gateway::content::{self, Text};
use crate::gateway::message::Inbound;
use crate::gateway::route::HOPS_MAX;
use crate::gateway::uas::Answer;
use crate::limits::{DIALOG_OCTETS_MAX, SESSIONS_PER_PAIR_MAX};
use crate::sip::dialog::{Dialog, Parts, target_of};
use crate::sip::endpoint::{Response, Source};
use crate::sip::message::Message;
use crate::sip::sdp;
use crate::sip::session_timer::{SessionTimer, TIMER};
use crate::sip::transaction::{T1, T1_64, T2};
use crate::xmpp::jid::Jid;
use core::time::Duration;

/// How long the MESSAGE that repeats the text of an INVITE is waited for, behind the ACK. Its
/// sender has it ready by then; the reader of a text that is not repeated waits as long.
const REPEAT_WAIT_MS: u64 = 500;
/// The same, behind a 2xx whose ACK may be lost.
const REPEAT_WAIT_NO_ACK_MS: u64 = 3000;
/// So long a first MESSAGE with the same text is taken for that repetition.
const REPETITION_UNTIL: Duration = Duration::from_secs(10);

impl Gateway {
    /// An INVITE outside a dialog that passed the checks of every request.
    pub(in crate::gateway) fn invite_from_sip(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &Message<'_>,
        (from, to): (Jid, Jid),
    ) {
        cx.count(Counter::SessionIn);
        if let Err(answer) = self.try_invite_from_sip(cx, transaction, message, from, to) {
            cx.count(Counter::SessionRefusedIn);
            cx.count(answer.counter);
            self.log_refusal(cx, message, &answer);
            self.respond(cx, transaction, &answer);
        }
    }

    fn try_invite_from_sip(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &Message<'_>,
        from: Jid,
        to: Jid,
    ) -> Result<(), Answer> {
        let bad = |cause: &'static str| Answer::new(400, cause, Counter::SipRequestRefused);
        if message.max_forwards() == Some(0) {
            return Err(Answer::new(483, "Too Many Hops", Counter::Loop));
        }
        let target = target_of(message).ok_or_else(|| bad("Contact Is No SIP Address"))?;
        let remote_tag = message.from().tag.ok_or_else(|| bad("From Has No Tag"))?;
        let offer = offer_of(message)?;
        if offer.is_none() && !self.is_lync(from.domain()) {
            // A telephone would be offered something it cannot do.
            return Err(refuse_media());
        }
        let agreed = timer_of(message)?;
        let lane = self.lane(to.bare(), from.bare());
        let local_tag = self.sip.local_tag(transaction).unwrap_or_default().to_owned();
        let parts = Parts {
            call_id: message.call_id(),
            local_tag: &local_tag,
            remote_tag,
            local_uri: message.to().uri,
            remote_uri: message.from().uri,
            target,
        };
        let texts = [parts.call_id, parts.remote_tag, parts.local_uri, parts.remote_uri, parts.target];
        let routes = message.headers("Record-Route").map(|route| route.len() + 2);
        let octets: usize = texts.iter().map(|text| text.len()).chain(routes).sum();
        if octets > DIALOG_OCTETS_MAX {
            return Err(too_long());
        }
        let route_set = self.sessions.route_sets.of(message.headers("Record-Route"));
        let dialog = Dialog::new(&parts, route_set, 0, Some(message.cseq().number));
        let is_lync = self.is_lync(from.domain());
        let media = offer.as_ref().and_then(|offer| offer.iter().find(|media| media.is_instant_messages()).copied());
        let session = Session {
            lane,
            is_ours: false,
            sip: full_address(message, &from),
            client: to.resource().map(|resource| (resource.into(), true)),
            xmpp: to.to_bare(),
            thread: self.memory.thread(message.call_id()).into(),
            dialog,
            invite_cseq: 0,
            phase: Phase::Open,
            unacknowledged: None,
            held: None,
            first: First::None,
            typing: Typing::default(),
            timer: agreed.map(|agreed| Timer { agreed, at: cx.now.after(agreed.due_after()), is_refreshing: false }),
            is_offering: false,
            used: cx.now,
            idle_at: cx.now.after(self.session_idle(from.domain())),
            number: self.next_session_number(cx),
            is_lync,
            takes_composing: media.is_some_and(|media| media.takes(content::COMPOSING_TYPE)),
            takes_html: media.is_some_and(|media| takes_html(&media)),
            noticed: Noticed::default(),
            takes_update: takes_update(message),
        };
        if let Some(old) = self.sessions.one_too_many(lane, SESSIONS_PER_PAIR_MAX) {
            self.end_at_once(cx, old, "the pair has opened others");
        }
        self.make_room_for(cx, from.domain());
        let key = self.sessions.insert(session).ok_or_else(|| Answer::overload("Too Many Sessions"))?;
        let Some(sdp) = self.session_description(key, offer.as_ref()) else {
            self.sessions.remove(key);
            return Err(refuse_media());
        };
        if octets + sdp.len() > DIALOG_OCTETS_MAX {
            self.sessions.remove(key);
            return Err(too_long());
        }
        self.sessions.takes_sessions(lane);
        cx.count(Counter::SessionOpened);
        let may_wait = self.keep_first_text(cx, key, message);
        let accepted = Unacknowledged {
            invite: transaction,
            is_first: true,
            is_offer: offer.is_none(),
            sdp: sdp.into(),
            is_known: false,
            ends: None,
            again: cx.now.after(T1),
            interval: T1,
            until: cx.now.after(T1_64),
        };
        self.accept(cx, key, accepted);
        if !may_wait {
            // Known again by its hash when it comes again.
            self.flush_first(cx, key);
        }
        Ok(())
    }

    /// A new session of this domain's finds a place, if others have more than their share.
    pub(super) fn make_room_for(&mut self, cx: &mut Cx<'_>, domain: &str) {
        if let Some(old) = self.sessions.in_excess(domain, cx.now) {
            self.end_at_once(cx, old, "others need its place");
        }
    }

    /// Keeps the text that came in the header fields of an INVITE. One that cannot be read is
    /// none: its sender sends it again. False: there is no room for it to wait.
    fn keep_first_text(&mut self, cx: &mut Cx<'_>, key: Key, message: &Message<'_>) -> bool {
        let mut text = core::mem::take(&mut self.memory.text);
        let formats = message.fields().filter(|(name, _)| name.eq_ignore_ascii_case("ms-im-format"));
        let is_text = content::read_first(message.header("ms-text-format"), formats.map(|(_, value)| value), &mut text);
        let mut may_wait = true;
        if is_text == Ok(true) && !text.body.trim().is_empty() {
            let hash = text_hash(&text.body);
            let first = if self.sessions.is_first_again(key, hash) {
                First::Passed { until: cx.now.after(REPETITION_UNTIL), hash }
            } else {
                First::Waiting {
                    at: soon(cx.now, REPEAT_WAIT_NO_ACK_MS),
                    body: text.body.as_str().into(),
                    xhtml: text.xhtml.as_str().into(),
                    hops: message.max_forwards().unwrap_or(HOPS_MAX),
                }
            };
            may_wait = self.sessions.keep_first(key, first);
        }
        self.memory.text = text;
        may_wait
    }

    /// Accepts an INVITE, and does so again until its ACK comes.
    fn accept(&mut self, cx: &mut Cx<'_>, key: Key, accepted: Unacknowledged) {
        if let Some(session) = self.sessions.slots.get_mut(key) {
            session.unacknowledged = Some(accepted);
        }
        self.say_accept(cx, key);
        self.sessions.arm(key);
    }

    fn say_accept(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(contact) = self.session_contact(key) else { return };
        let Some(session) = self.sessions.slots.get(key) else { return };
        let Some(pending) = &session.unacknowledged else { return };
        let expires = session.timer.map(|timer| timer.agreed);
        let value = expires.map(|agreed| agreed.as_answerer());
        // What came as Record-Route goes back as it came, and is the route set.
        let record_route = session.dialog.route_set();
        let mut headers = session_headers(&contact);
        if pending.is_first && !record_route.is_empty() {
            let _ = headers.push(("Record-Route", &record_route));
        }
        if let Some(value) = &value {
            let _ = headers.push(("Session-Expires", value));
            if expires.is_some_and(|agreed| !agreed.is_ours) {
                let _ = headers.push(("Require", TIMER));
            }
        }
        let response = Response {
            status: 200,
            reason: "OK",
            headers: &headers,
            content_type: Some("application/sdp"),
            body: pending.sdp.as_bytes(),
        };
        self.sip.respond(cx, pending.invite, &response);
    }

    /// Accepts a re-INVITE with this description.
    pub(super) fn accept_again(&mut self, cx: &mut Cx<'_>, key: Key, invite: Key, sdp: String, is_offer: bool) {
        let before = self.sessions.slots.get_mut(key).and_then(|session| session.unacknowledged.take());
        let accepted = Unacknowledged {
            invite,
            is_first: false,
            is_offer,
            sdp: sdp.into(),
            is_known: false,
            ends: before.and_then(|before| before.ends),
            again: cx.now.after(T1),
            interval: T1,
            until: cx.now.after(T1_64),
        };
        self.accept(cx, key, accepted);
    }

    /// No ACK has come yet.
    pub(super) fn repeat_accept(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        let Some(pending) = &mut session.unacknowledged else { return };
        if pending.until <= cx.now {
            let (is_known, ends) = (pending.is_known, pending.ends);
            session.unacknowledged = None;
            return match ends {
                None if is_known => self.sessions.arm(key),
                Some(cause) => self.end_acknowledged(cx, key, cause),
                None => self.end_session(cx, key, "its acceptance was not acknowledged"),
            };
        }
        pending.interval = T2.min(pending.interval * 2);
        pending.again = cx.now.after(pending.interval).min(pending.until);
        self.say_accept(cx, key);
    }

    /// The ACK to an acceptance came.
    pub(in crate::gateway) fn on_acknowledged(
        &mut self,
        cx: &mut Cx<'_>,
        invite: Key,
        message: &Message<'_>,
        source: &Source,
    ) {
        let Some(key) = self.sessions.find(message) else { return };
        if !self.proved_sender(message, source).is_ok_and(|from| self.is_session_of(key, &from)) {
            return;
        }
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        // One that comes again, or with a body that is no answer, says nothing new.
        let Some(accepted) = session.unacknowledged.take_if(|pending| pending.invite == invite) else { return };
        let is_refused =
            accepted.is_offer && !sdp::read(message.body()).iter().flatten().any(sdp::Media::is_instant_messages);
        match accepted.ends {
            Some(cause) => self.end_acknowledged(cx, key, cause),
            None if is_refused => self.end_session(cx, key, "its answer takes no messages"),
            None => self.is_acknowledged(cx, key),
        }
    }

    /// Somebody who sends a request in a session has the acceptance that opened it, also if his
    /// ACK is lost: it need not be repeated. Of a later one that says nothing: they may have
    /// crossed.
    pub(super) fn has_acceptance(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        let is_opened_by = |p: &&mut Unacknowledged| p.is_first && !p.is_offer && !p.is_known && p.ends.is_none();
        let Some(pending) = session.unacknowledged.as_mut().filter(is_opened_by) else { return };
        (pending.is_known, pending.again) = (true, pending.until);
        self.is_acknowledged(cx, key);
    }

    fn is_acknowledged(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        if let First::Waiting { at, .. } = &mut session.first {
            *at = soon(cx.now, REPEAT_WAIT_MS).min(*at);
        }
        self.sessions.arm(key);
        self.withdraw_for(cx, key);
    }

    /// `message archiving-notice` goes before the first message of a session.
    pub(super) fn notice_to_xmpp(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(notice) = self.settings.message.archiving_notice.as_deref() else { return };
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        if core::mem::replace(&mut session.noticed.xmpp, true) {
            return;
        }
        let notice = notice.to_owned();
        if self.say_to_xmpp(cx, key, |w| Tag::begin(w, "body").text(&notice)).is_err() {
            cx.count(Counter::StanzaUndelivered);
        }
    }

    /// The text of the INVITE is passed on: it was not sent again.
    pub(super) fn flush_first(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(session) = self.sessions.slots.get(key) else { return };
        let First::Waiting { body, .. } = &session.first else { return };
        let then = First::Passed { until: cx.now.after(REPETITION_UNTIL), hash: text_hash(body) };
        let Some(First::Waiting { body, xhtml, hops, .. }) = self.sessions.take_first(key, then) else { return };
        self.notice_to_xmpp(cx, key);
        let mut text = Text { body: body.into(), xhtml: xhtml.into(), ..Text::default() };
        cx.count(Counter::SipMessageIn);
        let Some(session) = self.sessions.slots.get(key) else { return };
        let (call_id, thread) = (session.dialog.call_id().to_owned(), session.thread.to_string());
        let inbound = Inbound {
            transaction: None,
            from: session.sip.clone(),
            to: session.xmpp_target(),
            hops,
            conversation: &call_id,
            thread: Some(&thread),
            subject: None,
            language: None,
            date: None,
            states: Some(session.typing.states != Some(false)),
        };
        if let Err(answer) = self.pass_to_xmpp(cx, inbound, &mut text) {
            // Nobody waits for an answer: he hears it as of a message that failed later, and what
            // he says then is no repetition.
            self.sessions.take_first(key, First::None);
            self.count_refusal(cx, &answer);
            let Some(session) = self.sessions.slots.get(key) else { return };
            let (from, to) = (session.sip.clone(), session.xmpp.clone());
            self.tell_late(cx, from, to, &answer.reason);
        }
    }
}

/// The description in a request; `None`: there is none, so the answerer offers.
pub(super) fn offer_of<'a>(message: &Message<'a>) -> Result<Option<sdp::AllMedia<'a>>, Answer> {
    if message.body().is_empty() {
        return Ok(None);
    }
    if !message.content_type().is_some_and(|kind| kind.is("application", "sdp")) {
        return Err(refuse_media());
    }
    let offer = sdp::read(message.body())
        .ok_or_else(|| Answer::new(400, "The Session Description Cannot Be Read", Counter::SipRequestRefused))?;
    // A session of sound must not come about as one of messages.
    if offer.iter().any(sdp::Media::is_instant_messages) { Ok(Some(offer)) } else { Err(refuse_media()) }
}

/// The session timer that a request asks for.
pub(super) fn timer_of(message: &Message<'_>) -> Result<Option<SessionTimer>, Answer> {
    SessionTimer::asked(message).map_err(|min| {
        Answer::new(422, "Session Interval Too Small", Counter::SipRequestRefused).with("Min-SE", min.to_string())
    })
}

fn too_long() -> Answer {
    Answer::new(513, "Addresses, Routes Or Media Are Too Long", Counter::SipRequestRefused)
}

/// 488: the offer holds nothing that is bridged. Not 415, to which some servers would come
/// again with one part of what they offered.
pub(super) fn refuse_media() -> Answer {
    Answer::new(488, "Only Instant Messages Are Bridged", Counter::SipMethodRefused)
        .with("Allow", super::ALLOW)
        .with("Accept", "application/sdp")
}
