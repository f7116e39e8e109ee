//! What the SIP user sends inside an open session: messages, notices that he types, offers
//! that change it, its end.

use super::callee::{offer_of, refuse_media, timer_of};
use super::caller::takes_update;
use super::session_headers;
use super::table::{First, Timer, text_hash};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::slab::Key;
use crate::gateway::Gateway;
use crate::gateway::content::{self, Body, Content, Text};
use crate::gateway::message::{Inbound, is_past};
use crate::gateway::route::HOPS_MAX;
use crate::gateway::uas::Answer;
use crate::limits::DIALOG_OCTETS_MAX;
use crate::sip::dialog::target_of;
use crate::sip::endpoint::Response;
use crate::sip::message::{Message, Method};
use crate::sip::session_timer::TIMER;

impl Gateway {
    /// A request inside a session, whose sender's domain is proved to be its SIP user's.
    pub(in crate::gateway) fn session_request(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &Message<'_>,
        key: Key,
    ) {
        let is_message = message.method() == Method::Message;
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        if !session.dialog.admits(message.cseq().number) {
            let answer = Answer::new(500, "A Later Request Came Before", Counter::SipRequestRefused);
            return self.refuse_in_session(cx, transaction, message, &answer);
        }
        if message.method() != Method::Bye {
            self.has_acceptance(cx, key);
        }
        let outcome = match message.method() {
            Method::Message => return self.message_in_session_from_sip(cx, transaction, message, key),
            Method::Info => self.info_from_sip(cx, transaction, message, key),
            Method::Invite => self.reinvite_from_sip(cx, transaction, message, key),
            Method::Update => self.update_from_sip(cx, transaction, message, key),
            Method::Bye => {
                self.sip.respond(cx, transaction, &Response { status: 200, reason: "OK", ..Response::default() });
                self.flush_first(cx, key);
                self.say_gone_from_sip(cx, key);
                self.drop_session(cx, key, "ended by the SIP user");
                Ok(())
            }
            Method::Options => {
                self.answer_options(cx, transaction);
                Ok(())
            }
            // Some turn a session into a conference that way.
            Method::Refer => Err(Answer::new(603, "Only Two Can Talk Here", Counter::SipMethodRefused)),
            _ => Err(crate::gateway::uas::not_allowed()),
        };
        debug_assert!(!is_message, "a MESSAGE is answered where it is handled");
        if let Err(answer) = outcome {
            self.refuse_in_session(cx, transaction, message, &answer);
        }
    }

    fn refuse_in_session(&mut self, cx: &mut Cx<'_>, transaction: Key, message: &Message<'_>, answer: &Answer) {
        if message.method() == Method::Message {
            cx.count(Counter::SipMessageRefused);
        }
        cx.count(answer.counter);
        self.log_refusal(cx, message, answer);
        self.respond(cx, transaction, answer);
    }

    /// A MESSAGE inside a session.
    fn message_in_session_from_sip(&mut self, cx: &mut Cx<'_>, transaction: Key, message: &Message<'_>, key: Key) {
        let mut text = core::mem::take(&mut self.memory.text);
        text.clear();
        let outcome = self.try_message_in_session(cx, transaction, message, key, &mut text);
        self.memory.text = text;
        if let Err(answer) = outcome {
            self.answer_message(cx, transaction, message, &answer);
        }
        self.touch(cx, key);
    }

    fn try_message_in_session(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &Message<'_>,
        key: Key,
        text: &mut Text,
    ) -> Result<(), Answer> {
        let nothing = |reason: &'static str| Answer::new(200, reason, Counter::SipMessageNothing);
        let hops = message.max_forwards().unwrap_or(HOPS_MAX);
        if hops == 0 {
            return Err(Answer::new(483, "Too Many Hops", Counter::Loop));
        }
        let date = message.header("Date").and_then(content::date::parse_sip);
        if is_past(message.header("Expires"), date, cx.wall) {
            return Err(nothing("OK, but its time was over"));
        }
        match content::read(&Body::of(message), text).map_err(Answer::of_content)? {
            Content::Message if !text.body.is_empty() => {}
            Content::Composing(typing) => {
                self.typing_from_sip(cx, key, typing);
                return Err(nothing("OK"));
            }
            Content::Message | Content::Notification => return Err(nothing("OK")),
        }
        let Some(session) = self.sessions.slots.get(key) else { return Err(nothing("OK")) };
        let hash = text_hash(&text.body);
        match &session.first {
            First::None => {}
            First::Waiting { body, .. } if text_hash(body) == hash => drop(self.sessions.take_first(key, First::None)),
            First::Waiting { .. } => {
                self.flush_first(cx, key);
                drop(self.sessions.take_first(key, First::None));
            }
            First::Passed { until, hash: passed } => {
                let is_repetition = *passed == hash && *until > cx.now;
                drop(self.sessions.take_first(key, First::None));
                if is_repetition {
                    cx.count(Counter::SessionFirstRepeated);
                    return Err(nothing("OK"));
                }
            }
        }
        self.notice_to_xmpp(cx, key);
        let Some(session) = self.sessions.slots.get_mut(key) else { return Err(nothing("OK")) };
        // Who has written types no more: `<active/>` in the message says so.
        session.typing.sip_until = None;
        let (call_id, thread) = (session.dialog.call_id().to_owned(), session.thread.to_string());
        let inbound = Inbound {
            transaction: Some(transaction),
            from: session.sip.clone(),
            to: session.xmpp_target(),
            hops,
            conversation: &call_id,
            thread: Some(&thread),
            subject: message.header("Subject"),
            language: message.header("Content-Language").and_then(content::outward::first_language),
            date,
            states: Some(session.typing.states != Some(false)),
        };
        self.pass_to_xmpp(cx, inbound, text)
    }

    /// A re-INVITE: a new offer of messages is taken, anything else refused, and the session
    /// goes on as it was (RFC 3261 section 14.2).
    fn reinvite_from_sip(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &Message<'_>,
        key: Key,
    ) -> Result<(), Answer> {
        let offer = offer_of(message)?;
        self.may_offer(key)?;
        self.take_refresh(cx, message, key)?;
        let sdp = self.session_description(key, offer.as_ref()).ok_or_else(refuse_media)?;
        self.accept_again(cx, key, transaction, sdp, offer.is_none());
        self.touch(cx, key);
        Ok(())
    }

    /// UPDATE (RFC 3311): a sign of life, a new target, or a new offer.
    fn update_from_sip(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &Message<'_>,
        key: Key,
    ) -> Result<(), Answer> {
        let offer = offer_of(message)?;
        if offer.is_some() {
            self.may_offer(key)?;
        }
        self.take_refresh(cx, message, key)?;
        let sdp = match &offer {
            Some(offer) => Some(self.session_description(key, Some(offer)).ok_or_else(refuse_media)?),
            None => None,
        };
        let contact = self.session_contact(key).unwrap_or_default();
        let agreed = self.sessions.slots.get(key).and_then(|session| session.timer).map(|timer| timer.agreed);
        let value = agreed.map(|agreed| agreed.as_answerer());
        let mut headers = session_headers(&contact);
        if let (Some(agreed), Some(value)) = (agreed, &value) {
            let _ = headers.push(("Session-Expires", value));
            if !agreed.is_ours {
                let _ = headers.push(("Require", TIMER));
            }
        }
        let response = Response {
            status: 200,
            reason: "OK",
            headers: &headers,
            content_type: sdp.is_some().then_some("application/sdp"),
            body: sdp.as_deref().unwrap_or_default().as_bytes(),
        };
        self.sip.respond(cx, transaction, &response);
        self.touch(cx, key);
        Ok(())
    }

    /// One offer at a time.
    fn may_offer(&self, key: Key) -> Result<(), Answer> {
        match self.sessions.slots.get(key) {
            Some(session) if session.has_offer_out() => {
                Err(Answer::new(491, "Request Pending", Counter::SipRequestRefused))
            }
            _ => Ok(()),
        }
    }

    /// What re-INVITE and UPDATE have in common: the timer begins anew, the target may change.
    fn take_refresh(&mut self, cx: &mut Cx<'_>, message: &Message<'_>, key: Key) -> Result<(), Answer> {
        let agreed = timer_of(message)?;
        let Some(session) = self.sessions.slots.get_mut(key) else { return Ok(()) };
        if let Some(target) = target_of(message).filter(|target| target.len() <= DIALOG_OCTETS_MAX / 4) {
            session.dialog.refresh_target(target);
        }
        session.timer =
            agreed.map(|agreed| Timer { agreed, at: cx.now.after(agreed.due_after()), is_refreshing: false });
        if message.header("Allow").is_some() {
            session.takes_update = takes_update(message);
        }
        self.sessions.arm(key);
        Ok(())
    }
}
