//! Single messages both ways (RFC 7572): MESSAGE -> `<message/>` and back, and how
//! each outcome reaches the side that has to know it.
//!
//! Promise P1 rules the answers: the 200 to a MESSAGE waits until the stanza was
//! delivered (acknowledged, or drained to a live stream), and a stanza is handed back
//! for acknowledgement only when SIP gave its final answer. Counters: every message
//! taken in ends as delivered, failed, refused or nothing (P8).

use super::content::{self, Body, Content, Text};
use super::discovered::Held;
use super::outgoing::Outgoing;
use super::pending::{ImdnRequest, NoRoom, Origin, Pending, ToSip, ToXmpp, Trace};
use super::policy::What;
use super::route::{self, HOPS_MAX, LoopGuard, Passing};
use super::uas::Answer;
use super::{Gateway, Named, address, error};
use crate::base::counters::Counter;
use crate::base::cx::{Cx, Ticket};
use crate::base::outbox::Writer;
use crate::base::rng::Token;
use crate::base::slab::Key;
use crate::base::text::{Escaped, Sentence};
use crate::base::time::Wall;
use crate::base::xml::{Node, Tag};
use crate::limits::SIP_PAGER_OCTETS_MAX;
use crate::settings::Dialect;
use crate::sip;
use crate::sip::diagnostics::status_in_dialog;
use crate::sip::endpoint::{Failure, Refused};
use crate::xmpp::jid::Jid;
use crate::xmpp::ns;
use crate::xmpp::server::{Handle, Undelivered};
use crate::xmpp::stanza::{Condition, Head, Kind, Stanza, StanzaError};
use core::hash::Hasher as _;
use core::time::Duration;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::hash::DefaultHasher;

/// So much of a thread is remembered and compared, in octets.
const THREAD_OCTETS_MAX: usize = 1024;
/// Threads that are no legal Call-ID, remembered with the Call-ID made for them.
const THREADS_MAX: usize = 256;
/// Longest Subject that is made, in octets.
const SUBJECT_OCTETS_MAX: usize = 256;
/// A Date older than this becomes `<delay/>` (REQ-7572-22), in milliseconds.
const DELAY_MIN_MS: i64 = 60_000;

/// What is kept from one message to the next.
#[derive(Debug)]
pub(super) struct Memory {
    /// Key of the hashes that nobody outside may foresee.
    pub(super) hash_key: Vec<u8>,
    /// The last CSeq number given.
    cseq: u32,
    /// (Call-ID made, thread it stands for, pair), oldest first.
    threads: VecDeque<(String, String, u64)>,
    /// Stops messages that run in circles.
    pub(super) loops: LoopGuard,
    /// Requests whose turn has come in their lanes.
    next: VecDeque<(Ticket, Outgoing)>,
    /// Are they being sent?
    is_advancing: bool,
    /// Where bodies are read into.
    pub(super) text: Text,
}

impl Memory {
    pub(super) fn new(hash_key: &[u8]) -> Self {
        Self {
            hash_key: hash_key.to_vec(),
            cseq: 0,
            threads: VecDeque::new(),
            loops: LoopGuard::default(),
            next: VecDeque::new(),
            is_advancing: false,
            text: Text::default(),
        }
    }

    /// A number that rises with every message and, being drawn from the clock at the
    /// start, across restarts too: messages of one Call-ID keep rising CSeq numbers
    /// with nothing remembered (RFC 3428 section 8).
    pub(super) fn next_cseq(&mut self, wall: Wall) -> u32 {
        const LATE_2025: i64 = 1_760_000_000;
        if self.cseq == 0 {
            self.cseq = (wall.seconds() - LATE_2025).clamp(1, 1 << 30) as u32;
        }
        self.cseq = if self.cseq >= (1 << 31) - 1 { 1 } else { self.cseq + 1 };
        self.cseq
    }

    /// A number for a pair of texts that an outsider cannot foresee.
    fn pair(&self, from: &str, to: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.hash_key);
        hasher.write(from.as_bytes());
        hasher.write_u8(0xFF);
        hasher.write(to.as_bytes());
        hasher.finish()
    }

    /// The Call-ID for a thread (D-20): the thread itself when it is legal as one,
    /// else one made up and remembered for this pair.
    fn call_id(&mut self, cx: &mut Cx<'_>, thread: Option<&str>, pair: u64) -> String {
        let Some(thread) = thread.filter(|thread| !thread.is_empty()) else { return new_call_id(cx) };
        if let Some(call_id) = content::call_id(thread) {
            return call_id.to_owned();
        }
        let thread = crate::base::text::cut(thread, THREAD_OCTETS_MAX);
        if let Some((call_id, ..)) = self.threads.iter().find(|(_, t, p)| t == thread && *p == pair) {
            return call_id.clone();
        }
        let call_id = new_call_id(cx);
        if self.threads.len() == THREADS_MAX {
            self.threads.pop_front();
        }
        self.threads.push_back((call_id.clone(), thread.to_owned(), pair));
        call_id
    }

    /// The thread that a Call-ID stands for.
    pub(super) fn thread<'a>(&'a self, call_id: &'a str) -> &'a str {
        self.threads.iter().find(|(made, ..)| made == call_id).map_or(call_id, |(_, thread, _)| thread)
    }
}

/// SIP -> XMPP.
impl Gateway {
    /// A MESSAGE that passed the checks of every request: its sender's domain is
    /// proved and its target's domain is a partner's.
    pub(super) fn message_from_sip(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &sip::message::Message<'_>,
        from: Jid,
        to: Jid,
    ) {
        let mut text = core::mem::take(&mut self.memory.text);
        text.clear();
        let outcome = self.try_message_from_sip(cx, transaction, message, from, to, &mut text);
        self.memory.text = text;
        if let Err(answer) = outcome {
            self.answer_message(cx, transaction, message, &answer);
        }
    }

    fn try_message_from_sip(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &sip::message::Message<'_>,
        from: Jid,
        to: Jid,
        text: &mut Text,
    ) -> Result<(), Answer> {
        let hops = message.max_forwards().unwrap_or(HOPS_MAX);
        if hops == 0 {
            return Err(Answer::new(483, "Too Many Hops", Counter::Loop));
        }
        let date = message.header("Date").and_then(content::date::parse_sip);
        if is_past(message.header("Expires"), date, cx.wall) {
            return Err(Answer::new(200, "OK, but its time was over", Counter::SipMessageNothing));
        }
        let content = content::read(&Body::of(message), text).map_err(Answer::of_content)?;
        if content != Content::Message || text.body.is_empty() {
            return Err(Answer::new(200, "OK", Counter::SipMessageNothing));
        }
        let inbound = Inbound {
            transaction: Some(transaction),
            from,
            to,
            hops,
            conversation: message.call_id(),
            thread: None,
            subject: message.header("Subject"),
            language: message.header("Content-Language").and_then(content::outward::first_language),
            date,
            states: None,
        };
        self.pass_to_xmpp(cx, inbound, text)
    }

    /// Gives a message of a SIP user's to the XMPP side. An error is the answer it gets.
    pub(super) fn pass_to_xmpp(
        &mut self,
        cx: &mut Cx<'_>,
        inbound: Inbound<'_>,
        text: &mut Text,
    ) -> Result<(), Answer> {
        let Inbound { from, to, .. } = inbound;
        let passing =
            Passing { from: from.bare(), to: to.bare(), conversation: Some(inbound.conversation), body: &text.body };
        if let Err(circle) = self.memory.loops.pass(cx.now, &passing) {
            return Err(Answer::new(482, circle.reason(), Counter::Loop));
        }
        self.log_body(cx, "sip", from.as_str(), to.as_str(), &text.body);
        let mut id = String::with_capacity(24);
        route::stanza_id(inbound.hops.saturating_sub(1), cx.rng.token::<16>().as_str(), &mut id);
        let imdn = text.notification.negative_delivery.then(|| ImdnRequest {
            message_id: core::mem::take(&mut text.notification.message_id),
            date_time: text.sent.unwrap_or(cx.wall),
        });
        let ticket = self
            .pending
            .enter_to_xmpp(inbound.transaction, Trace { id, from, to, imdn })
            .map_err(|_| Answer::overload("Too Many Messages On Their Way"))?;
        let Some(Pending::ToXmpp(ToXmpp { trace, .. })) = self.pending.get_mut(ticket) else { return Ok(()) };
        let stanza = FromSip {
            id: &trace.id,
            from: trace.from.as_str(),
            to: trace.to.as_str(),
            language: inbound.language,
            subject: Some(text.subject.as_str())
                .filter(|subject| !subject.is_empty())
                .or(inbound.subject)
                .filter(|subject| !subject.trim().is_empty()),
            thread: inbound.thread.unwrap_or_else(|| self.memory.thread(inbound.conversation)),
            body: &text.body,
            xhtml: Some(text.xhtml.as_str()).filter(|xhtml| !xhtml.is_empty()),
            delay: inbound.date.or(text.sent).filter(|date| cx.wall.0 - date.0 > DELAY_MIN_MS),
            sip_domain: trace.from.domain(),
            states: inbound.states,
        };
        let (ours, theirs) = (trace.from.domain(), trace.to.domain());
        let Err(refused) = self.xmpp.send(cx, Some(ticket), ours, theirs, |w| stanza.emit(w)) else { return Ok(()) };
        let answer = Answer::of_refused(refused);
        if let Some(Pending::ToXmpp(entry)) = self.pending.take(ticket) {
            self.log_undelivered(cx, entry.trace.to.domain(), &answer, format_args!("{refused:?}"));
        }
        Err(answer)
    }

    /// Ends a MESSAGE with an answer that is decided before XMPP took anything.
    pub(super) fn answer_message(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &sip::message::Message<'_>,
        answer: &Answer,
    ) {
        self.count_refusal(cx, answer);
        // What failed on the XMPP side is no fault of the SIP side's, and is logged already.
        if answer.status >= 300 && answer.counter != Counter::SipMessageFailed {
            self.log_refusal(cx, message, answer);
        }
        self.respond(cx, transaction, answer);
    }

    /// Counts a message that ends with this answer before XMPP took anything.
    pub(super) fn count_refusal(&self, cx: &mut Cx<'_>, answer: &Answer) {
        match answer.counter {
            Counter::SipMessageNothing => cx.count(Counter::SipMessageNothing),
            // Counted and logged where it failed.
            Counter::SipMessageFailed => {}
            counter => {
                cx.count(Counter::SipMessageRefused);
                if counter != Counter::SipMessageRefused {
                    cx.count(counter);
                }
            }
        }
    }

    /// The stanza of a MESSAGE was delivered.
    pub(super) fn on_delivered(&mut self, cx: &mut Cx<'_>, ticket: Ticket) {
        let Some(Pending::ToXmpp(entry)) = self.pending.get_mut(ticket) else { return };
        let wait = self.settings.message.error_wait_s;
        if wait > 0 {
            entry.delivered = true;
            self.pending.wait(ticket, cx.now.after(Duration::from_secs(u64::from(wait))));
        } else {
            self.say_ok(cx, ticket);
        }
    }

    /// `message error-wait` is over for some messages: no error came.
    pub(super) fn on_error_wait_over(&mut self, cx: &mut Cx<'_>) {
        while let Some(ticket) = self.pending.pop_due(cx.now) {
            self.say_ok(cx, ticket);
        }
    }

    fn say_ok(&mut self, cx: &mut Cx<'_>, ticket: Ticket) {
        let Some(Pending::ToXmpp(ToXmpp { transaction, trace, .. })) = self.pending.take(ticket) else { return };
        cx.count(Counter::SipMessageDelivered);
        if let Some(transaction) = transaction {
            self.respond(cx, transaction, &Answer::new(200, "OK", Counter::SipMessageDelivered));
        }
        self.pending.remember(trace);
    }

    /// The stanza of a MESSAGE could not be delivered.
    pub(super) fn on_undelivered(&mut self, cx: &mut Cx<'_>, ticket: Ticket, why: Undelivered) {
        let Some(Pending::ToXmpp(entry)) = self.pending.take(ticket) else { return };
        let answer = Answer::of_undelivered(why);
        self.log_undelivered(cx, entry.trace.to.domain(), &answer, format_args!("{why:?}"));
        match entry.transaction {
            Some(transaction) => self.respond(cx, transaction, &answer),
            None => self.tell_late(cx, entry.trace.from, entry.trace.to, &answer.reason),
        }
    }

    fn log_undelivered(&self, cx: &mut Cx<'_>, domain: &str, answer: &Answer, cause: core::fmt::Arguments<'_>) {
        cx.refuse(
            Counter::SipMessageFailed,
            "message.undelivered",
            format_args!("side=xmpp domain={} status={} cause={cause}", Escaped(domain), answer.status),
        );
    }

    /// A `<message type='error'/>`: it decides an answer that still waits, or comes
    /// late, or belongs to nothing of ours.
    pub(super) fn on_message_error(&mut self, cx: &mut Cx<'_>, stanza: &Stanza<'_>) {
        let error = StanzaError::parse(stanza.element).unwrap_or(StanzaError::new(Condition::UndefinedCondition));
        let (id, from, to) = (stanza.id.unwrap_or_default(), stanza.from.as_str(), stanza.to.as_str());
        if let Some(ticket) = self.pending.find_trace(id, from, to) {
            let Some(Pending::ToXmpp(entry)) = self.pending.take(ticket) else { return };
            self.note_failed(entry.trace.from.domain());
            let dialect = self.dialect_of(entry.trace.from.domain());
            let answer = Answer::of_stanza_error(&error, stanza.from.resource().is_some(), dialect);
            cx.refuse(
                Counter::SipMessageFailed,
                "message.stanza-error",
                format_args!(
                    "side=xmpp from={} to={} condition={} status={}",
                    self.named(from),
                    self.named(to),
                    error.condition.name(),
                    answer.status
                ),
            );
            match entry.transaction {
                Some(transaction) => self.respond(cx, transaction, &answer),
                None => self.on_late_error(cx, &entry.trace, &error),
            }
        } else if let Some(trace) = self.pending.recall(id, from, to) {
            self.note_failed(trace.from.domain());
            if !self.test_late_error(cx, &trace.id, &error) {
                self.on_late_error(cx, &trace, &error);
            }
        } else {
            cx.refuse(
                Counter::StrayError,
                "message.stray-error",
                format_args!(
                    "side=xmpp from={} to={} condition={}",
                    self.named(from),
                    self.named(to),
                    error.condition.name()
                ),
            );
        }
    }
}

/// XMPP -> SIP.
impl Gateway {
    /// A `<message/>` of another type than `error`.
    pub(super) fn message_from_xmpp(&mut self, cx: &mut Cx<'_>, handle: Handle, stanza: &Stanza<'_>) {
        cx.count(Counter::XmppMessageIn);
        let outcome = self.try_message_from_xmpp(cx, handle, stanza);
        if !matches!(outcome, Ok(Taken::Nothing)) {
            self.note_outcome(stanza.from.domain(), outcome.as_ref().err().map(|(counter, _)| *counter));
        }
        match outcome {
            Ok(Taken::Sent) => return,
            Ok(Taken::Nothing) => cx.count(Counter::XmppMessageNothing),
            Err((counter, error)) => {
                cx.count(Counter::XmppMessageRefused);
                cx.refuse(
                    counter,
                    "message.refused",
                    format_args!(
                        "side=xmpp from={} to={} condition={} cause={}",
                        self.named(stanza.from.as_str()),
                        self.named(stanza.to.as_str()),
                        error.condition.name(),
                        Escaped(error.text.as_deref().unwrap_or_default()),
                    ),
                );
                self.send_error(cx, stanza.to.as_str(), stanza.from.as_str(), stanza.id, &error);
            }
        }
        self.xmpp.handled(cx, handle);
    }

    fn try_message_from_xmpp(
        &mut self,
        cx: &mut Cx<'_>,
        handle: Handle,
        stanza: &Stanza<'_>,
    ) -> Result<Taken, (Counter, StanzaError<'static>)> {
        let refuse =
            |counter, condition, cause: &'static str| Err((counter, StanzaError::new(condition).with_text(cause)));
        if self.ending {
            return refuse(Counter::SipOverload, Condition::RecipientUnavailable, "the gateway is being shut down");
        }
        if stanza.type_ == Some("groupchat") {
            return refuse(Counter::XmppMessageRefused, Condition::ServiceUnavailable, "group chat is not bridged");
        }
        let (from_domain, to_domain) = (stanza.from.domain(), stanza.to.domain());
        let is_contact = self.is_contact(&stanza.to, &stanza.from);
        if let Err(denied) = self.routes.from_xmpp(&self.settings, from_domain, to_domain, is_contact) {
            return refuse(Counter::NotPartner, denied.condition(), denied.reason());
        }
        self.hold_discovered(cx, from_domain, stanza.to.bare()).map_err(Held::error)?;
        let way = self
            .may_be_reached(cx, &stanza.to, from_domain, What::Im)
            .map_err(|denial| (denial.counter(), denial.error()))?;
        if stanza.element.children().any(content::outward::encrypts) {
            return refuse(
                Counter::XmppMessageRefused,
                Condition::NotAcceptable,
                "encrypted for somebody else than the gateway",
            );
        }
        let rich = stanza.element.child("html", ns::XHTML_IM);
        let text = body_of(stanza).or_else(|| Some((Cow::Owned(content::text_of_xhtml(rich?)?), stanza.lang)));
        self.chat_state_from_xmpp(cx, stanza, text.is_some());
        let Some((body, language)) = text else { return Ok(Taken::Nothing) };
        if stanza.to.local().is_none() {
            return refuse(Counter::XmppMessageRefused, Condition::ItemNotFound, "the address has no user");
        }
        if self.is_unknown(cx.now, &stanza.to) {
            return Err((Counter::UnknownUser, Self::unknown_user()));
        }
        let hops = match stanza.id.and_then(route::hops_of) {
            Some(0) => return refuse(Counter::Loop, Condition::NotAcceptable, "too many hops"),
            Some(hops) => hops,
            None => HOPS_MAX,
        };
        let thread = child_text(stanza, "thread");
        let passing =
            Passing { from: stanza.from.bare(), to: stanza.to.bare(), conversation: thread.as_deref(), body: &body };
        if let Err(circle) = self.memory.loops.pass(cx.now, &passing) {
            return refuse(Counter::Loop, Condition::PolicyViolation, circle.reason());
        }
        self.log_body(cx, "xmpp", stanza.from.as_str(), stanza.to.as_str(), &body);
        let malformed = |why: address::NotMapped| {
            (Counter::XmppMessageRefused, StanzaError::new(Condition::JidMalformed).with_text(why.reason()))
        };
        let from = self.known_as(way, &stanza.from, true).map_err(malformed)?;
        let uri = sip_uri(&stanza.to, true).map_err(malformed)?;
        let to = sip_uri(&stanza.to, false).map_err(malformed)?;
        let pair = self.memory.pair(stanza.from.bare(), stanza.to.bare());
        let request = Outgoing {
            sip_domain: stanza.to.domain().to_owned(),
            uri,
            from,
            from_tag: new_tag(cx),
            to,
            call_id: self.memory.call_id(cx, thread.as_deref(), pair),
            cseq: self.memory.next_cseq(cx.wall),
            max_forwards: hops,
            subject: subject_of(stanza),
            language: language.and_then(content::language).map(str::to_owned),
            date: delay_of(stanza).map(|sent| content::date::SipDate(sent).to_string()),
            content_type: if body.is_ascii() { "text/plain" } else { "text/plain;charset=UTF-8" },
            body: body.into_owned(),
            html: self.html_for(stanza.to.domain(), rich),
            thread: thread.as_deref().map(|thread| crate::base::text::cut(thread, THREAD_OCTETS_MAX).to_owned()),
            is_repeated: false,
        };
        match self.body_limit(cx, pair, stanza.to.domain()) {
            None if request.size(&self.sip, &self.settings) > SIP_PAGER_OCTETS_MAX => {
                return refuse(
                    Counter::XmppMessageRefused,
                    Condition::PolicyViolation,
                    "longer than a SIP MESSAGE may be (1300 octets)",
                );
            }
            Some(limit) if request.body.len() > limit => {
                return refuse(
                    Counter::XmppMessageRefused,
                    Condition::PolicyViolation,
                    "longer than a message in a session may be (16384 octets)",
                );
            }
            None | Some(_) => {}
        }
        let origin = Origin {
            handle,
            from: stanza.from.as_str().into(),
            to: stanza.to.as_str().into(),
            id: stanza.id.map(str::to_owned),
            wants_receipt: stanza.element.child("request", ns::RECEIPTS).is_some(),
        };
        self.enter_lane(cx, pair, Some(origin), request).map_err(|no_room| {
            let cause = match no_room {
                NoRoom::Table => "too many messages are on their way",
                NoRoom::Lane => "too many messages wait for this recipient",
            };
            (Counter::SipOverload, StanzaError::new(Condition::ResourceConstraint).with_text(cause))
        })?;
        Ok(Taken::Sent)
    }

    /// The text as HTML, if the SIP domain is to get it.
    fn html_for(&self, domain: &str, rich: Option<Node<'_>>) -> String {
        let mut html = String::new();
        let is_wanted = self.routes.sip_domain(&self.settings, domain).is_some_and(|served| served.html);
        if let Some(rich) = rich.filter(|_| is_wanted)
            && !content::html_of(rich, &mut html)
        {
            html.clear();
        }
        html
    }

    /// Sends a request when nothing else of its lane is under way, else lets it wait.
    pub(super) fn enter_lane(
        &mut self,
        cx: &mut Cx<'_>,
        lane: u64,
        origin: Option<Origin>,
        request: Outgoing,
    ) -> Result<(), NoRoom> {
        match self.pending.enter_to_sip(lane, origin, request) {
            Ok((ticket, Some(request))) => {
                self.send_to_sip(cx, ticket, request);
                Ok(())
            }
            Ok((_, None)) => Ok(()),
            Err((no_room, _)) => Err(no_room),
        }
    }

    /// SIP answered a MESSAGE of ours.
    pub(super) fn on_response(&mut self, cx: &mut Cx<'_>, ticket: Ticket, message: &sip::message::Message<'_>) {
        let status = message.status();
        if status < 200 {
            return;
        }
        if self.is_sent_again(cx, ticket, status_in_dialog(message)) {
            return;
        }
        let Some(Pending::ToSip(done)) = self.pending.take(ticket) else { return };
        if let Some(origin) = &done.origin {
            self.note_answer(cx.now, &origin.to, status);
            if status < 300 {
                cx.count(Counter::XmppMessageDelivered);
                self.was_reached(cx, &origin.to, domain_of(&origin.from), What::Im);
                // In a session it is the other end that answers, so it has the message.
                if origin.wants_receipt && status == 200 && done.session().is_some() {
                    self.send_receipt(cx, origin);
                }
            } else {
                self.note_failed(domain_of(&origin.from));
                let error = error::of_response(message, self.dialect_of(domain_of(&origin.to)));
                let cause = format_args!("status={status} {}", error::Said(message));
                self.fail_to_xmpp(cx, origin, &error, done.body(), cause);
                match done.session() {
                    Some(session) => self.message_refused(cx, session, status),
                    // If it was sent alone because he refused a session: that is no better.
                    None => self.sessions.takes_sessions(done.lane()),
                }
            }
            self.xmpp.handled(cx, origin.handle);
        }
        self.advance_lane(cx, &done);
    }

    /// A MESSAGE of ours got no answer, or could not be sent.
    pub(super) fn on_sip_failure(&mut self, cx: &mut Cx<'_>, ticket: Ticket, failure: Failure) {
        if failure == Failure::Timeout {
            self.message_unanswered(cx, ticket);
        }
        self.end_to_sip(cx, ticket, &error::stanza_error_for(failure), "", format_args!("failure={failure:?}"));
    }

    /// The SIP side did not take a MESSAGE of ours.
    pub(super) fn refuse_to_sip(&mut self, cx: &mut Cx<'_>, ticket: Ticket, refused: Refused, body: &str) {
        let condition = match refused {
            Refused::Overload => Condition::ResourceConstraint,
            Refused::TooLarge => Condition::PolicyViolation,
            Refused::Malformed => Condition::JidMalformed,
        };
        self.end_to_sip(cx, ticket, &StanzaError::new(condition), body, format_args!("refused={refused:?}"));
    }

    /// A message for SIP ends with an error. `body`: its text, if it is to be told again.
    pub(super) fn end_to_sip(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Ticket,
        error: &StanzaError<'_>,
        body: &str,
        cause: core::fmt::Arguments<'_>,
    ) {
        let Some(Pending::ToSip(done)) = self.pending.take(ticket) else { return };
        if let Some(origin) = &done.origin {
            let body = if body.is_empty() { done.body() } else { body };
            self.fail_to_xmpp(cx, origin, error, body, cause);
            self.xmpp.handled(cx, origin.handle);
        }
        self.advance_lane(cx, &done);
    }

    fn fail_to_xmpp(
        &mut self,
        cx: &mut Cx<'_>,
        origin: &Origin,
        error: &StanzaError<'_>,
        body: &str,
        cause: core::fmt::Arguments<'_>,
    ) {
        cx.refuse(
            Counter::XmppMessageFailed,
            "message.failed",
            format_args!(
                "side=sip from={} to={} {cause} condition={}",
                self.named(&origin.from),
                self.named(&origin.to),
                error.condition.name()
            ),
        );
        self.send_error_with(cx, (&origin.to, &origin.from), origin.id.as_deref(), error, body);
    }

    /// Tells an XMPP user that his message has arrived (XEP-0184).
    fn send_receipt(&mut self, cx: &mut Cx<'_>, origin: &Origin) {
        let Some(received) = origin.id.as_deref() else { return };
        let id = cx.rng.token::<10>();
        let head = Head {
            kind: Kind::Message,
            from: &origin.to,
            to: &origin.from,
            id: Some(id.as_str()),
            type_: Some("chat"),
            lang: None,
        };
        let (ours, theirs) = (domain_of(&origin.to), domain_of(&origin.from));
        let sent = self.xmpp.send(cx, None, ours, theirs, |w| {
            head.emit(w, |w| Tag::begin(w, "received").namespace(ns::RECEIPTS).attribute("id", received).empty());
        });
        if sent.is_ok() {
            cx.count(Counter::ReceiptOut);
        }
    }

    fn advance_lane(&mut self, cx: &mut Cx<'_>, done: &ToSip) {
        let Some(next) = self.pending.next_in_lane(done) else {
            // What may not overtake a message has its turn.
            return done.session().into_iter().for_each(|session| self.tell_typing(cx, session));
        };
        self.memory.next.push_back(next);
        if core::mem::replace(&mut self.memory.is_advancing, true) {
            // A request that failed at once: its successor has its turn below, so that no
            // lane is walked down the stack.
            return;
        }
        while let Some((ticket, request)) = self.memory.next.pop_front() {
            self.send_to_sip(cx, ticket, request);
        }
        self.memory.is_advancing = false;
    }

    /// The lane of messages between two JIDs, bare.
    pub(super) fn lane(&self, from: &str, to: &str) -> u64 {
        self.memory.pair(from, to)
    }

    /// Sends a stanza error of ours. When it finds no room it is counted as lost: its
    /// stream is gone, and with it the one who asked.
    pub(super) fn send_error(
        &mut self,
        cx: &mut Cx<'_>,
        from: &str,
        to: &str,
        id: Option<&str>,
        error: &StanzaError<'_>,
    ) {
        self.send_error_with(cx, (from, to), id, error, "");
    }

    /// The same, with the text of the message it is about, if there is one.
    fn send_error_with(
        &mut self,
        cx: &mut Cx<'_>,
        (from, to): (&str, &str),
        id: Option<&str>,
        error: &StanzaError<'_>,
        body: &str,
    ) {
        if self.test_refused(cx, id, error) {
            return;
        }
        let (from_domain, to_domain) = (domain_of(from), domain_of(to));
        let head = Head { kind: Kind::Message, from, to, id, type_: Some("error"), lang: None };
        let sent = self.xmpp.answer(cx, from_domain, to_domain, |w| {
            head.emit(w, |w| {
                if !body.is_empty() {
                    Tag::begin(w, "body").text(body);
                }
                error.emit(w);
            });
        });
        if let Err(refused) = sent {
            cx.refuse(
                Counter::StanzaUndelivered,
                "message.error-lost",
                format_args!("side=xmpp domain={} cause={refused:?}", Escaped(to_domain)),
            );
        }
    }

    /// The program ends: who waits for an outcome is told that there will be none.
    pub(super) fn give_up_all(&mut self, cx: &mut Cx<'_>) {
        while let Some(ticket) = self.pending.first() {
            // The partner has it: only the wait for an error is cut short.
            if matches!(self.pending.get_mut(ticket), Some(Pending::ToXmpp(ToXmpp { delivered: true, .. }))) {
                self.say_ok(cx, ticket);
                continue;
            }
            match self.pending.take(ticket) {
                Some(Pending::ToXmpp(entry)) => {
                    cx.count(Counter::SipMessageFailed);
                    if let Some(transaction) = entry.transaction {
                        let answer = Answer::overload("The Gateway Is Being Shut Down");
                        self.respond(cx, transaction, &answer);
                    }
                }
                Some(Pending::ToSip(ToSip { origin: Some(origin), .. })) => {
                    let error =
                        StanzaError::new(Condition::RecipientUnavailable).with_text("the gateway is being shut down");
                    self.fail_to_xmpp(cx, &origin, &error, "", format_args!("cause=shutdown"));
                    self.xmpp.handled(cx, origin.handle);
                }
                Some(Pending::ToSip(_)) | None => {}
            }
        }
    }

    /// How the SIP side of a domain speaks.
    pub(super) fn dialect_of(&self, sip_domain: &str) -> Dialect {
        self.routes.sip_domain(&self.settings, sip_domain).map_or(Dialect::Standard, |domain| domain.dialect)
    }

    /// Writes what was said into the log, if the operator switched that on
    /// (`xmpp log-message-bodies`): once for each message, whichever way it goes.
    pub(super) fn log_body(&self, cx: &mut Cx<'_>, side: &str, from: &str, to: &str, body: &str) {
        if self.settings.xmpp.log_message_bodies {
            cx.info(
                "message.body",
                format_args!("side={side} from={} to={} body={}", self.named(from), self.named(to), Sentence(body)),
            );
        }
    }

    /// An address as logs may show it.
    pub(super) fn named<'a>(&'a self, address: &'a str) -> Named<'a> {
        Named { address, privacy: self.settings.privacy, key: &self.memory.hash_key }
    }
}

/// What became of a stanza that was not refused.
enum Taken {
    /// A request stands for it.
    Sent,
    /// It holds nothing to pass on.
    Nothing,
}

/// A message of a SIP user's on its way to XMPP.
pub(super) struct Inbound<'a> {
    /// The request that waits for the answer; `None`: its sender counts it as delivered.
    pub(super) transaction: Option<Key>,
    pub(super) from: Jid,
    pub(super) to: Jid,
    /// Max-Forwards as it came.
    pub(super) hops: u8,
    /// Call-ID.
    pub(super) conversation: &'a str,
    /// `<thread/>`; `None`: the one that the Call-ID stands for.
    pub(super) thread: Option<&'a str>,
    pub(super) subject: Option<&'a str>,
    pub(super) language: Option<&'a str>,
    pub(super) date: Option<Wall>,
    /// In a session it is of type chat: with a chat state, if the recipient's client may know
    /// them. `None`: it stands in none.
    pub(super) states: Option<bool>,
}

/// A stanza made from a MESSAGE, about to be written.
struct FromSip<'a> {
    id: &'a str,
    from: &'a str,
    to: &'a str,
    language: Option<&'a str>,
    subject: Option<&'a str>,
    thread: &'a str,
    body: &'a str,
    /// Well-formed XHTML-IM, the content of its `<body/>`.
    xhtml: Option<&'a str>,
    delay: Option<Wall>,
    sip_domain: &'a str,
    /// See [`Inbound::states`].
    states: Option<bool>,
}

impl FromSip<'_> {
    fn emit(&self, w: &mut Writer<'_>) {
        let head = Head {
            kind: Kind::Message,
            from: self.from,
            to: self.to,
            id: Some(self.id),
            type_: self.states.map(|_| "chat"),
            lang: self.language,
        };
        head.emit(w, |w| {
            if let Some(subject) = self.subject {
                Tag::begin(w, "subject").text(subject);
            }
            if !self.thread.is_empty() {
                Tag::begin(w, "thread").text(self.thread);
            }
            Tag::begin(w, "body").text(self.body);
            if let Some(xhtml) = self.xhtml {
                // Made by our own reader, element by element: never the sender's markup.
                Tag::begin(w, "html").namespace(ns::XHTML_IM).content(|w| {
                    Tag::begin(w, "body").namespace(ns::XHTML).content(|w| {
                        w.str(xhtml);
                    });
                });
            }
            if self.states == Some(true) {
                Tag::begin(w, "active").namespace(ns::CHAT_STATES).empty();
            }
            if let Some(delay) = self.delay {
                let stamp = content::date::Stamp(delay).to_string();
                Tag::begin(w, "delay")
                    .namespace(ns::DELAY)
                    .attribute("from", self.sip_domain)
                    .attribute("stamp", &stamp)
                    .empty();
            }
        });
    }
}

/// The body that is sent and its language (REQ-7572-8); `None` when there is no text.
fn body_of<'a>(stanza: &Stanza<'a>) -> Option<(Cow<'a, str>, Option<&'a str>)> {
    let bodies = || stanza.element.children().filter(|child| child.is("body", stanza.element.namespace()));
    let (place, language) = content::pick_body(bodies().map(Node::lang), stanza.lang)?;
    let text = bodies().nth(place)?.text();
    (!text.is_empty()).then_some((text, language))
}

fn child_text<'a>(stanza: &Stanza<'a>, name: &str) -> Option<Cow<'a, str>> {
    Some(stanza.element.child(name, stanza.element.namespace())?.text())
}

/// The subject as one header line.
fn subject_of(stanza: &Stanza<'_>) -> Option<String> {
    let mut line = String::new();
    content::header_text(&child_text(stanza, "subject")?, SUBJECT_OCTETS_MAX, &mut line);
    (!line.is_empty()).then_some(line)
}

/// When a delayed stanza was sent at first (XEP-0203).
fn delay_of(stanza: &Stanza<'_>) -> Option<Wall> {
    content::date::parse_stamp(stanza.element.child("delay", ns::DELAY)?.attribute("stamp")?)
}

/// The SIP URI of a JID, with `gr` or without.
pub(super) fn sip_uri(jid: &Jid, with_resource: bool) -> Result<String, address::NotMapped> {
    let mut uri = String::new();
    address::to_sip(jid.local(), jid.domain(), jid.resource().filter(|_| with_resource), &mut uri)?;
    Ok(uri)
}

/// Is a message with this Expires and Date useless by now (RFC 3428 section 7)?
pub(super) fn is_past(expires: Option<&str>, date: Option<Wall>, now: Wall) -> bool {
    let (Some(expires), Some(date)) = (expires.and_then(|e| e.trim().parse::<i64>().ok()), date) else { return false };
    date.0.saturating_add(expires.saturating_mul(1000)) < now.0
}

/// The tag of a From of ours: 40 random bits (REQ-SIP-31 wants 32). No longer, since the
/// whole request may have 1300 octets and a message of 1,000 characters shall fit.
pub(super) fn new_tag(cx: &mut Cx<'_>) -> String {
    let tag: Token<8> = cx.rng.token();
    tag.as_str().to_owned()
}

/// A Call-ID unique in space and time: 80 random bits.
pub(super) fn new_call_id(cx: &mut Cx<'_>) -> String {
    let token: Token<16> = cx.rng.token();
    token.as_str().to_owned()
}

/// The domain of a JID in text.
fn domain_of(jid: &str) -> &str {
    let bare = jid.split_once('/').map_or(jid, |(bare, _)| bare);
    bare.split_once('@').map_or(bare, |(_, domain)| domain)
}
