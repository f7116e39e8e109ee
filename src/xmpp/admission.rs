//! Who may have sent a stanza that came in: the part of [`Server`] that holds its domains
//! against what the stream proved, before anything is handed up.

use super::server::{Event, Handle, Server};
use super::stanza::{BadStanza, Condition, Kind, Stanza, StanzaError, emit_error_raw};
use super::stream_error::{StreamCondition, StreamFault};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::slab::Key;
use crate::base::text::Escaped;
use crate::base::xml::Node;

impl Server {
    /// A stanza came: who may have sent it?
    pub(super) fn on_stanza<'a>(&mut self, cx: &mut Cx<'_>, key: Key, element: Node<'a>) -> Option<Event<'a>> {
        let stream = self.streams.get_mut(key)?;
        if !stream.takes() {
            let fault = StreamFault::new(StreamCondition::NotAuthorized, "stanza before authentication");
            let step = stream.fail(cx, fault);
            self.on_step(cx, key, step);
            return None;
        }
        match Stanza::parse(element, stream.content(), element.inherited_lang()) {
            Ok(stanza) => {
                if let Some(ours) = self.strays_from(key, stanza.from.domain(), stanza.to.domain()) {
                    self.on_unserved(cx, key, &ours, &stanza);
                    return None;
                }
                self.check_domains(cx, key, stanza.from.domain(), stanza.to.domain())?;
                let number = self.count(key);
                if self.is_pong(cx, key, &stanza) {
                    if let Some((session, number)) = number {
                        self.finish(cx, session, number);
                    }
                    return None;
                }
                let handle =
                    Handle { session: number.map(|(session, _)| session), number: number.map_or(0, |(_, n)| n) };
                Some(Event::Stanza { handle, stanza })
            }
            Err(bad @ BadStanza::Address { .. }) => {
                self.on_bad_address(cx, key, &bad);
                None
            }
            Err(BadStanza::Stream(fault)) => {
                let step = self.streams.get_mut(key)?.fail(cx, fault);
                self.on_step(cx, key, step);
                None
            }
        }
    }

    /// Is the pair proved on the stream? If not, the stream ends. The server of a
    /// component vouches for every domain but ours.
    fn check_domains(&mut self, cx: &mut Cx<'_>, key: Key, from: &str, to: &str) -> Option<()> {
        let stream = self.streams.get_mut(key)?;
        let fault = if stream.is_component() {
            match (stream.ours == to, self.policy.is_ours(from)) {
                (true, false) => return Some(()),
                (false, _) => (StreamCondition::HostUnknown, "to is another domain than the component's"),
                (true, true) => (StreamCondition::InvalidFrom, "from is a domain of ours"),
            }
        } else if stream.has_proved(to, from) {
            return Some(());
        } else if self.policy.serves(to) {
            (StreamCondition::InvalidFrom, "domain of from is not proved for that of to")
        } else {
            (StreamCondition::HostUnknown, "domain of to is not served here")
        };
        cx.info(
            "xmpp.stanza.refused",
            format_args!("partner={} from={} to={}", Escaped(&stream.theirs), Escaped(from), Escaped(to)),
        );
        let step = stream.fail(cx, StreamFault::new(fault.0, fault.1));
        self.on_step(cx, key, step);
        None
    }

    /// Is a stanza from a domain that is proved on the stream for a domain that is not
    /// ours? Then the domain of ours that it is proved for: nothing is wrong with the
    /// stream, and the sender shall hear of it (REQ-7247-7).
    fn strays_from(&self, key: Key, from: &str, to: &str) -> Option<String> {
        let stream = self.streams.get(key)?;
        if stream.is_component() || self.policy.serves(to) {
            return None;
        }
        stream.proved.iter().find(|pair| pair.theirs == from).map(|pair| pair.ours.clone())
    }

    fn on_unserved(&mut self, cx: &mut Cx<'_>, key: Key, ours: &str, stanza: &Stanza<'_>) {
        if let Some((session, number)) = self.count(key) {
            self.finish(cx, session, number);
        }
        cx.refuse(
            Counter::HostUnknown,
            "xmpp.stanza.unserved",
            format_args!("side=partner from={} to={}", Escaped(stanza.from.domain()), Escaped(stanza.to.domain())),
        );
        let error = StanzaError::new(Condition::RemoteServerNotFound);
        // Without room for the answer the sender's server still has its stream's word
        // for nothing but what it sent astray.
        let _ = self.answer(cx, ours, stanza.from.domain(), |w| {
            stanza.emit_error(w, &error);
        });
    }

    /// A stanza whose domains are in order while the rest of an address is not.
    fn on_bad_address(&mut self, cx: &mut Cx<'_>, key: Key, bad: &BadStanza<'_>) {
        let BadStanza::Address { from, to, element } = bad else { return };
        if self.check_domains(cx, key, from.domain(), to.domain()).is_none() {
            return;
        }
        if let Some((session, number)) = self.count(key) {
            self.finish(cx, session, number);
        }
        cx.refuse(
            Counter::XmlRefused,
            "xmpp.stanza.jid-malformed",
            format_args!("partner={} side=partner", Escaped(from.domain())),
        );
        if bad.may_answer() {
            let error = StanzaError::new(Condition::JidMalformed);
            // An answer that finds no room is lost with its cause: the sender sent rubbish.
            let _ = self.answer(cx, to.domain(), from.domain(), |w| {
                emit_error_raw(w, *element, &error);
            });
        }
    }

    /// Counts a stanza that came in, if its stream counts.
    fn count(&mut self, key: Key) -> Option<(Key, u32)> {
        let session = self.streams.get(key)?.session?;
        Some((session, self.sessions.get_mut(session)?.management.received()))
    }

    /// Is it the answer to a ping of ours? It comes on another stream than the ping went
    /// out on unless that goes both ways; an error is a sign of life too.
    fn is_pong(&mut self, cx: &mut Cx<'_>, key: Key, stanza: &Stanza<'_>) -> bool {
        let is_answer = stanza.kind == Kind::Iq && matches!(stanza.type_, Some("result" | "error"));
        if !is_answer || stanza.to.local().is_some() || stanza.from.local().is_some() {
            return false;
        }
        let route = self.route_of(stanza.to.domain(), stanza.from.domain());
        let carrier = route.and_then(|route| self.routes.get(route)?.carrier);
        for key in carrier.into_iter().chain([key]) {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            if stream.ping.as_ref().is_some_and(|ping| Some(&*ping.id) == stanza.id) {
                stream.ping = None;
                stream.last_in = cx.now;
                return true;
            }
        }
        false
    }
}
