//! Who is writing: chat states (XEP-0085) on one side; INFO with a KeyboardActivity, or the
//! status documents of RFC 3994, on the other (RFC 7573 section 6).
//!
//! A side is told of a change once. Nobody is told by a notice of its own what a message says
//! anyhow: that its sender writes no more.

use super::table::First;
use super::{Asked, ticket};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::slab::Key;
use crate::base::xml::Tag;
use crate::gateway::Gateway;
use crate::gateway::content;
use crate::gateway::uas::Answer;
use crate::limits::SESSIONS_PER_PAIR_MAX;
use crate::sip::endpoint::Response;
use crate::sip::message::{Message, Method};
use crate::xmpp::ns;
use crate::xmpp::stanza::Stanza;
use core::time::Duration;

/// How long somebody types without saying so again (RFC 3994 section 3.2 has 120 s).
const TYPING_S: u32 = 120;
/// Longest such time that is believed.
const TYPING_S_MAX: u32 = 3600;

impl Gateway {
    /// An INFO inside a session.
    pub(super) fn info_from_sip(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &Message<'_>,
        key: Key,
    ) -> Result<(), Answer> {
        let is_xml = message.content_type().is_some_and(|kind| kind.is("application", "xml") || kind.is("text", "xml"));
        match content::read_keyboard(message.body()).filter(|_| is_xml) {
            Some(typing) => self.typing_from_sip(cx, key, typing),
            // An INFO without a body is a sign of life.
            None if message.body().is_empty() => {}
            None => {
                return Err(Answer::new(415, "Unsupported Media Type", Counter::SipRequestRefused)
                    .with("Accept", "application/xml"));
            }
        }
        self.sip.respond(cx, transaction, &Response { status: 200, reason: "OK", ..Response::default() });
        self.touch(cx, key);
        Ok(())
    }

    /// The SIP user types, or has stopped.
    pub(super) fn typing_from_sip(&mut self, cx: &mut Cx<'_>, key: Key, typing: content::Typing) {
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        match session.first {
            // Whoever types has sent what he had to repeat: what he says next is new.
            First::Passed { .. } if typing.active => session.first = First::None,
            // He has the acceptance and repeats nothing; what he said before comes first.
            First::Waiting { .. } if typing.active => self.flush_first(cx, key),
            _ => {}
        }
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        let (was_typing, is_typing) = (session.typing.sip_until.is_some(), typing.active);
        let seconds = typing.refresh_s.unwrap_or(TYPING_S).clamp(1, TYPING_S_MAX);
        session.typing.sip_until = is_typing.then(|| cx.now.after(Duration::from_secs(u64::from(seconds))));
        self.sessions.arm(key);
        if was_typing != is_typing {
            self.say_state(cx, key, if is_typing { "composing" } else { "active" });
        }
    }

    /// The SIP user said long ago that he types.
    pub(super) fn typing_forgotten(&mut self, cx: &mut Cx<'_>, key: Key) {
        self.typing_from_sip(cx, key, content::Typing::default());
    }

    /// The SIP user left the conversation.
    pub(super) fn say_gone_from_sip(&mut self, cx: &mut Cx<'_>, key: Key) {
        self.say_state(cx, key, "gone");
    }

    /// Tells the XMPP user a chat state, unless his client has shown that it knows none.
    fn say_state(&mut self, cx: &mut Cx<'_>, key: Key, state: &'static str) {
        let knows_states = self.sessions.slots.get(key).is_some_and(|session| session.typing.states != Some(false));
        if knows_states
            && self.say_to_xmpp(cx, key, |w| Tag::begin(w, state).namespace(ns::CHAT_STATES).empty()).is_ok()
        {
            cx.count(Counter::ChatStateOut);
        }
    }

    /// A stanza of the XMPP user's in a conversation: what it shows of his client, and
    /// whether he writes.
    pub(in crate::gateway) fn chat_state_from_xmpp(&mut self, cx: &mut Cx<'_>, stanza: &Stanza<'_>, has_body: bool) {
        let state = stanza.element.children().find(|child| child.namespace() == ns::CHAT_STATES);
        for key in self.sessions_with(stanza) {
            let Some(session) = self.sessions.slots.get_mut(key) else { continue };
            if state.is_some() || has_body {
                session.typing.states = Some(state.is_some());
                session.heard_from(stanza.from.resource());
            }
            let typing = &mut session.typing;
            let name = state.map(|state| state.name());
            if has_body {
                // Who has written types no more: nobody has to say it.
                (typing.xmpp, typing.is_gone) = (false, name == Some("gone"));
                continue;
            }
            match name {
                Some("composing") => (typing.xmpp, typing.is_gone) = (true, false),
                Some("active" | "inactive" | "paused") => (typing.xmpp, typing.is_gone) = (false, false),
                Some("gone") => (typing.xmpp, typing.is_gone) = (false, true),
                _ => continue,
            }
            self.tell_typing(cx, key);
        }
    }

    /// A client of the XMPP user's is there no more: what the SIP user says goes to any of them
    /// (REQ-7573-39).
    pub(in crate::gateway) fn client_left(&mut self, stanza: &Stanza<'_>) {
        for key in self.sessions_with(stanza) {
            let Some(session) = self.sessions.slots.get_mut(key) else { continue };
            session.client.take_if(|(client, _)| stanza.from.resource() == Some(client));
        }
    }

    /// The sessions of the two users of a stanza of XMPP's.
    fn sessions_with(&self, stanza: &Stanza<'_>) -> heapless::Vec<Key, { SESSIONS_PER_PAIR_MAX + 1 }> {
        let lane = self.lane(stanza.from.bare(), stanza.to.bare());
        self.sessions.of_lane(lane).map(|(key, _)| key).take(SESSIONS_PER_PAIR_MAX + 1).collect()
    }

    /// Tells the SIP user what has changed of the XMPP user's typing, one notice at a time, or
    /// that he left (REQ-7573-23). Not while a message is on its way: the notice might overtake
    /// it, and what comes behind a later request is refused (RFC 3261 section 12.2.2).
    pub(in crate::gateway) fn tell_typing(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(session) = self.sessions.slots.get(key).filter(|session| session.is_open()) else { return };
        if self.pending.is_under_way(session.lane) {
            return;
        }
        let typing = session.typing;
        if typing.is_gone {
            return self.end_session(cx, key, "left by the XMPP user");
        }
        if typing.xmpp == typing.xmpp_told || typing.is_busy || typing.is_unwanted {
            return;
        }
        let is_info = session.is_lync;
        if !is_info && !session.takes_composing {
            return;
        }
        let (method, content_type, document) = if is_info {
            (Method::Info, content::KEYBOARD_TYPE, content::keyboard_document(typing.xmpp).to_owned())
        } else {
            let mut document = String::new();
            let refresh_s = Some(TYPING_S);
            content::composing_document(content::Typing { active: typing.xmpp, refresh_s }, &mut document);
            (Method::Message, content::COMPOSING_TYPE, document)
        };
        let id = ticket(key, Asked::Typing);
        let sent = self.ask_in_session(cx, key, id, method, &[], Some((content_type, document.as_bytes())));
        if let Some(session) = self.sessions.slots.get_mut(key).filter(|_| sent.is_ok()) {
            session.typing.xmpp_told = typing.xmpp;
            session.typing.is_busy = true;
            cx.count(Counter::TypingOut);
        }
        self.touch(cx, key);
    }

    /// The answer to such a notice.
    pub(super) fn typing_answered(&mut self, cx: &mut Cx<'_>, key: Key, status: u16) {
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        session.typing.is_busy = false;
        match status {
            200..=299 => self.tell_typing(cx, key),
            // The session is dead; the next message opens another.
            408 | 480 | 481 => self.end_session(cx, key, "the other end does not answer in it"),
            // Not now: it came behind a later one (RFC 3261 section 12.2.2), or all are busy.
            491 | 500 | 503 => {}
            _ => session.typing.is_unwanted = true,
        }
    }
}
