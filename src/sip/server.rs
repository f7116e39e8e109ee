//! Requests of others: told apart from their repetitions, answered, and remembered
//! until no repetition can come any more.

use super::diagnostics::diagnosed;
use super::emit::{Response, emit_response};
use super::endpoint::{END, Endpoint, Event, Outcome, RESEND, Source, TIMERS, timer};
use super::header::{Via, split_list};
use super::message::{Malformed, Message, Method};
use super::relay::emit_back;
use super::transaction::{Class, Kind, Send, ServerInput, ServerMachine, ServerState, Set, Step, Tell};
use super::transport::{
    COOKIE, Copied, Link, LinkState, Ways, base32, default_port, emit_copied, emit_salvaged, names_any,
};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::net::{LinkId, Target, Transport};
use crate::base::outbox::{Action, Span};
use crate::base::slab::Key;
use crate::base::text::Escaped;
use core::net::SocketAddr;

/// A request of somebody else, from its coming until nothing of it can come again.
#[derive(Debug)]
pub(super) struct Server {
    machine: ServerMachine,
    hashes: Hashes,
    source: Source,
    /// Where the answer to a datagram goes; for a stream the port of `sent-by`.
    reply_to: SocketAddr,
    /// What the answer copies from the request.
    head: Vec<u8>,
    copied: Copied,
    /// The last response.
    reply: Vec<u8>,
    /// Octets of the request.
    len: usize,
    /// The connection that is being opened for the reply.
    waits_for: Option<LinkId>,
    /// Was it sent on, so that its answers are somebody else's?
    is_relayed: bool,
}

/// What a transaction is to be answered with.
#[derive(Clone, Copy)]
enum Given<'g> {
    /// A response of ours.
    Own(&'g Response<'g>),
    /// One of whom the request was sent on to.
    Passed(&'g Message<'g>),
}

/// What a request is found by.
#[derive(Clone, Copy, Debug)]
struct Hashes {
    /// REQ-SIP-60: branch, `sent-by` and method, or the fields RFC 2543 names.
    branch: u64,
    /// REQ-SIP-24: From tag, Call-ID and CSeq, if there is no To tag.
    merge: Option<u64>,
    /// Call-ID, the tags and the number of CSeq.
    dialog: u64,
    /// The same request on the same transport; see [`super::table::Recent`].
    again: u64,
    merge_again: u64,
}

/// Purposes of hashes, so that one cannot stand for another.
const BRANCH: u8 = 0;
const BRANCH_2543: u8 = 1;
const MERGE: u8 = 2;
const DIALOG: u8 = 3;
const AGAIN: u8 = 4;
const TAG: u8 = 5;
/// The mark in our own branches.
pub(super) const MARK: u8 = 6;
/// Our own branches.
pub(super) const OWN: u8 = 7;

/// The answer when a table is full: come again when the oldest of it is over.
const OVERLOAD: Response<'static> =
    Response { status: 503, reason: "", headers: &[("Retry-After", "10")], content_type: None, body: &[] };

/// What CANCEL has no effect on: it is answered at once, or soon.
const UNCANCELLABLE: [&str; 7] = ["SUBSCRIBE", "NOTIFY", "MESSAGE", "INFO", "UPDATE", "BYE", "OPTIONS"];

const fn status(status: u16) -> Response<'static> {
    Response { status, reason: "", headers: &[], content_type: None, body: &[] }
}

impl Endpoint {
    /// A request came whose syntax is good.
    pub(super) fn on_request<'a>(
        &mut self,
        cx: &mut Cx<'_>,
        source: Source,
        message: Message<'a>,
        len: usize,
    ) -> Option<Event<'a>> {
        self.learn_alias(&source, message.via());
        let hashes = self.hashes(cx, &source, &message);
        match message.method() {
            Method::Ack => return self.on_ack(cx, source, message, &hashes),
            Method::Cancel => {
                self.on_cancel(cx, source, &message, &hashes, len);
                return None;
            }
            // Its sender keeps nothing of it that an answer could reach.
            Method::Benotify => return Some(Event::Benotify { message, source }),
            _ => {}
        }
        if let Some(key) = self.by_branch.find(hashes.branch) {
            cx.count(Counter::SipRetransmissionIn);
            let reply = self.servers.get(key).map_or(0, |server| server.reply.len());
            if self.may_answer(&source, reply, len) {
                self.server_step(cx, key, ServerInput::Request, None);
            }
            return None;
        }
        if let Some(code) = self.recent.recall(cx.now, hashes.again) {
            cx.count(Counter::SipRetransmissionIn);
            self.answer_stateless(cx, source, &message, hashes.branch, len, &status(code));
            return None;
        }
        if let Some(cause) = self.loop_of(cx, &message, &hashes) {
            cx.refuse(
                Counter::SipLoop,
                "sip.loop",
                format_args!("side=sip cause={cause} peer={} call-id={}", source.address, Escaped(message.call_id())),
            );
            let response = Response { reason: cause, ..status(482) };
            self.answer_stateless(cx, source, &message, hashes.branch, len, &response);
            return None;
        }
        let Some(transaction) = self.admit(cx, source, &message, hashes, len) else {
            cx.refuse(Counter::SipOverload, "sip.overload", format_args!("side=ours peer={}", source.address));
            self.answer_stateless(cx, source, &message, hashes.branch, len, &OVERLOAD);
            return None;
        };
        self.server_step(cx, transaction, ServerInput::Received, None);
        Some(Event::Request { transaction, message, source })
    }

    fn hashes(&mut self, cx: &mut Cx<'_>, source: &Source, message: &Message<'_>) -> Hashes {
        // ACK and CANCEL belong to the INVITE they follow.
        let method = match message.method() {
            Method::Ack | Method::Cancel => "INVITE",
            method => method.as_str(),
        };
        self.hashes_as(cx, source, message, method)
    }

    /// The hashes of a request as if it had that method.
    fn hashes_as(&mut self, cx: &mut Cx<'_>, source: &Source, message: &Message<'_>, method: &str) -> Hashes {
        let secret = self.secret(cx);
        let via = message.via();
        let number = message.cseq().number.to_be_bytes();
        let from_tag = message.from().tag.unwrap_or_else(|| message.from().uri).as_bytes();
        let call_id = message.call_id().as_bytes();
        let has_cookie = via.branch().get(..COOKIE.len()).is_some_and(|start| start.eq_ignore_ascii_case(COOKIE))
            && via.branch().len() > COOKIE.len();
        let branch = if has_cookie {
            let mut host: heapless::Vec<u8, 256> = via.host.bytes().take(256).collect();
            host.make_ascii_lowercase();
            let port = via.port.unwrap_or_default().to_be_bytes();
            secret.hash(BRANCH, &[via.branch().as_bytes(), &host, &port, method.as_bytes()])
        } else {
            let top = message.vias().next().unwrap_or_default().as_bytes();
            secret.hash(BRANCH_2543, &[message.uri().as_bytes(), from_tag, call_id, &number, top, method.as_bytes()])
        };
        let merge = secret.hash(MERGE, &[from_tag, call_id, &number, method.as_bytes()]);
        let tag = base32(secret.hash(TAG, &[&branch.to_be_bytes()]));
        let to_tag = message.to().tag.unwrap_or(&tag).as_bytes();
        let transport = [source.transport as u8];
        Hashes {
            branch,
            merge: message.to().tag.is_none().then_some(merge),
            dialog: secret.hash(DIALOG, &[call_id, from_tag, to_tag, &number]),
            again: secret.hash(AGAIN, &[&branch.to_be_bytes(), &transport]),
            merge_again: secret.hash(AGAIN, &[&merge.to_be_bytes(), &transport]),
        }
    }

    /// The tag of ours for a request: the same whenever it is answered.
    fn tag(&mut self, cx: &mut Cx<'_>, branch: u64) -> heapless::String<13> {
        base32(self.secret(cx).hash(TAG, &[&branch.to_be_bytes()]))
    }

    /// Did this request reach us by another way (REQ-SIP-24), or was it ours (REQ-SIP-73)?
    fn loop_of(&mut self, cx: &mut Cx<'_>, message: &Message<'_>, hashes: &Hashes) -> Option<&'static str> {
        if let Some(merge) = hashes.merge
            && (self.by_merge.find(merge).is_some() || self.recent.recall(cx.now, hashes.merge_again).is_some())
        {
            return Some("Merged Request");
        }
        let secret = self.secret(cx);
        let from_tag = message.from().tag.unwrap_or_default();
        let is_ours = |via: &str| {
            let Some(via) = Via::parse(via).filter(|via| self.ways.is_ours(via)) else { return false };
            super::client::is_own_branch(secret, via.branch(), message.call_id(), from_tag, message.uri())
        };
        message.vias().any(is_ours).then_some("Loop Detected")
    }

    /// Makes a transaction of a new request; `None` if there is no room.
    fn admit(
        &mut self,
        cx: &mut Cx<'_>,
        source: Source,
        message: &Message<'_>,
        hashes: Hashes,
        len: usize,
    ) -> Option<Key> {
        if self.servers.is_full() {
            self.evict();
        }
        let tag = self.tag(cx, hashes.branch);
        let reply_to = match source.transport {
            Transport::Udp => self.reply_to(&source, Some(message.via())),
            // Should the connection be gone by then (RFC 3261 section 18.2.2).
            transport => {
                SocketAddr::new(source.address.ip(), message.via().port.unwrap_or_else(|| default_port(transport)))
            }
        };
        let mut w = cx.out.begin();
        let copied = emit_copied(&mut w, message, source.address, &tag);
        let head = self.buffers.lend(w.written());
        w.cancel();
        let kind = if message.method() == Method::Invite { Kind::Invite } else { Kind::Other };
        let server = Server {
            machine: ServerMachine::new(kind, source.transport.is_reliable()),
            hashes,
            source,
            reply_to,
            head: head?,
            copied,
            reply: Vec::new(),
            len,
            waits_for: None,
            is_relayed: false,
        };
        match self.servers.insert(server) {
            Ok(key) => {
                self.by_branch.insert(hashes.branch, key);
                if let Some(merge) = hashes.merge {
                    self.by_merge.insert(merge, key);
                }
                Some(key)
            }
            Err(server) => {
                self.buffers.take_back(server.head);
                None
            }
        }
    }

    /// Drops the oldest transaction that only waits for repetitions of its request; one that
    /// was answered 2xx stays in [`super::table::Recent`]. If all others wait for an answer,
    /// the oldest INVITE that has one: its ACK came long ago, or nobody will send it.
    fn evict(&mut self) {
        while let Some(key) = self.done.pop_front() {
            let is_done = |server: &Server| {
                matches!(server.machine.state, ServerState::Completed { .. }) && server.waits_for.is_none()
            };
            if self.servers.get(key).is_some_and(is_done) {
                self.remove_server(key);
                return;
            }
        }
        let is_answered = |server: &Server| server.machine.kind == Kind::Invite && !server.machine.is_open();
        let end = |key: Key| self.server_timers.of(timer(key, END));
        let answered = self.servers.iter().filter(|(_, server)| is_answered(server) && server.waits_for.is_none());
        if let Some((key, _)) = answered.min_by_key(|(key, _)| end(*key)) {
            self.remove_server(key);
        }
    }

    fn remove_server(&mut self, key: Key) {
        let Some(server) = self.servers.remove(key) else { return };
        self.server_timers.stop(timer(key, RESEND));
        self.server_timers.stop(timer(key, END));
        self.by_branch.remove(server.hashes.branch, key);
        if let Some(merge) = server.hashes.merge {
            self.by_merge.remove(merge, key);
        }
        self.by_dialog.remove(server.hashes.dialog, key);
        self.buffers.take_back(server.head);
        self.buffers.take_back(server.reply);
    }

    fn on_ack<'a>(
        &mut self,
        cx: &mut Cx<'_>,
        source: Source,
        message: Message<'a>,
        hashes: &Hashes,
    ) -> Option<Event<'a>> {
        // The ACK to a failure has the branch of the INVITE, the one to a 2xx its own.
        let Some(key) = self.by_branch.find(hashes.branch).or_else(|| self.by_dialog.find(hashes.dialog)) else {
            return self.follows_our_route(&message).then_some(Event::RelayedAck { message, source });
        };
        match self.server_step(cx, key, ServerInput::Ack, None) {
            Tell::Message => Some(Event::Acknowledged { transaction: key, message, source }),
            Tell::Nothing | Tell::Timeout => None,
        }
    }

    fn on_cancel(&mut self, cx: &mut Cx<'_>, source: Source, message: &Message<'_>, hashes: &Hashes, len: usize) {
        let invite = self.by_branch.find(hashes.branch);
        let mut found = invite.map(|_| hashes.branch);
        for method in UNCANCELLABLE.iter().take_while(|_| invite.is_none()) {
            // Nothing becomes of it, but there was something (RFC 3261 section 9.2, REQ-EVT-12).
            let other = self.hashes_as(cx, &source, message, method);
            if self.by_branch.find(other.branch).is_some() || self.recent.recall(cx.now, other.again).is_some() {
                found = Some(other.branch);
            }
        }
        let code = if found.is_some() { 200 } else { 481 };
        self.answer_stateless(cx, source, message, found.unwrap_or(hashes.branch), len, &status(code));
        if let Some(key) = invite
            && let Some(server) = self.servers.get(key).filter(|server| server.machine.is_open())
        {
            // One that was sent on is answered by whom the CANCEL is sent on to.
            if !server.is_relayed {
                self.answer(cx, key, &status(487));
            }
            self.outcomes.push_back(Outcome::Cancelled(key));
        }
    }

    /// The To tag that answers to a request carry.
    pub(super) fn tag_of(&self, transaction: Key) -> Option<&str> {
        let server = self.servers.get(transaction)?;
        let (from, to) = server.copied.tag;
        let text = core::str::from_utf8(server.head.get(from..to)?).ok()?;
        text.strip_prefix(";tag=")
    }

    /// The core answers.
    pub(super) fn answer(&mut self, cx: &mut Cx<'_>, transaction: Key, response: &Response<'_>) {
        let Some(server) = self.servers.get(transaction) else {
            // RFC 4320: after 64*T1 nobody waits for it any more.
            cx.debug("sip.answer.late", format_args!("side=ours status={}", response.status));
            return;
        };
        let (kind, hashes) = (server.machine.kind, server.hashes);
        let class = Class::of(response.status);
        if class == Class::Success {
            match kind {
                Kind::Invite => self.by_dialog.insert(hashes.dialog, transaction),
                Kind::Other => {
                    self.recent.remember(cx.now, hashes.again, response.status);
                    if hashes.merge.is_some() {
                        self.recent.remember(cx.now, hashes.merge_again, response.status);
                    }
                }
            }
        }
        self.server_step(cx, transaction, ServerInput::Respond(class), Some(Given::Own(response)));
    }

    /// A request was sent on: others answer it.
    pub(super) fn keep_open(&mut self, transaction: Key) {
        if let Some(server) = self.servers.get_mut(transaction) {
            server.is_relayed = true;
        }
    }

    /// Whom a request was sent on to answers.
    pub(super) fn pass_back(&mut self, cx: &mut Cx<'_>, transaction: Key, message: &Message<'_>) {
        let class = Class::of(message.status());
        self.server_step(cx, transaction, ServerInput::Respond(class), Some(Given::Passed(message)));
    }

    /// The core answers a stranger.
    pub(super) fn answer_stranger(&mut self, cx: &mut Cx<'_>, transaction: Key, response: &Response<'_>) {
        if let Some(server) = self.servers.get(transaction) {
            let mut w = cx.out.begin();
            diagnosed(response, self.reads_diagnostics(&server.source), |response| {
                emit_response(&mut w, response, [server.head.get(..server.copied.len).unwrap_or_default(), b""]);
            });
            let may_be_sent = server.source.transport.is_reliable() || w.len() <= server.len;
            if may_be_sent {
                let span = w.finish();
                let (source, reply_to) = (server.source, server.reply_to);
                self.push_reply(cx, &source, reply_to, span);
            } else {
                w.cancel();
            }
        }
        self.remove_server(transaction);
    }

    /// Answers without a transaction: the same request will get the same answer.
    fn answer_stateless(
        &mut self,
        cx: &mut Cx<'_>,
        source: Source,
        message: &Message<'_>,
        branch: u64,
        len: usize,
        response: &Response<'_>,
    ) {
        let tag = self.tag(cx, branch);
        let reply_to = self.reply_to(&source, Some(message.via()));
        let mut w = cx.out.begin();
        emit_copied(&mut w, message, source.address, &tag);
        let Some(copied) = self.buffers.lend(w.written()) else {
            w.cancel();
            return;
        };
        w.truncate(0);
        diagnosed(response, self.reads_diagnostics(&source), |response| {
            emit_response(&mut w, response, [&copied, b""]);
        });
        self.buffers.take_back(copied);
        if self.may_answer(&source, w.len(), len) {
            let span = w.finish();
            self.push_reply(cx, &source, reply_to, span);
        } else {
            w.cancel();
        }
    }

    /// A message came that breaks the grammar: a request is answered, if that can do
    /// no harm, anything else is dropped.
    pub(super) fn on_malformed(&mut self, cx: &mut Cx<'_>, source: Source, malformed: &Malformed<'_>, len: usize) {
        let fault = malformed.fault;
        cx.refuse(
            Counter::SipMalformed,
            "sip.malformed",
            format_args!("side=sip peer={} transport={} fault=\"{fault}\"", source.address, source.transport),
        );
        if !malformed.is_request() || malformed.is_unanswered() {
            return;
        }
        let secret = self.secret(cx);
        let tag = base32(malformed.fields().fold(u64::from(TAG), |hash, (name, value)| {
            secret.hash(TAG, &[&hash.to_be_bytes(), name.as_bytes(), value.as_bytes()])
        }));
        let is_via = |name: &str| name.eq_ignore_ascii_case("Via") || name.eq_ignore_ascii_case("v");
        let via = malformed.fields().find(|(name, _)| is_via(name)).and_then(|(_, via)| split_list(via).next());
        let reply_to = self.reply_to(&source, via.and_then(Via::parse).as_ref());
        let mut w = cx.out.begin();
        w.str("SIP/2.0 ").number(u64::from(fault.status())).str(" ");
        let from = w.len();
        // Writing into the arena cannot fail.
        let _ = core::fmt::Write::write_fmt(&mut w, format_args!("{fault}"));
        debug_assert!(w.len() > from, "every fault has words");
        w.str("\r\n");
        emit_salvaged(&mut w, malformed, source.address, &tag);
        if self.reads_diagnostics(&source) {
            diagnosed(&status(fault.status()), true, |response| {
                for (name, value) in response.headers {
                    w.str(name).str(": ").str(value).str("\r\n");
                }
            });
        }
        w.str("Content-Length: 0\r\n\r\n");
        if self.may_answer(&source, w.len(), len) {
            let span = w.finish();
            self.push_reply(cx, &source, reply_to, span);
        } else {
            w.cancel();
        }
    }

    /// Does whoever sent this get `ms-diagnostics-public` with a failure?
    fn reads_diagnostics(&self, source: &Source) -> bool {
        let certificate = source.link.and_then(|link| self.links.get(link)?.certificate.as_ref());
        self.readers.has(source.transport, source.address.ip(), certificate)
    }

    fn may_answer(&self, source: &Source, answer: usize, request: usize) -> bool {
        may_answer(&self.ways, source, answer, request)
    }

    /// Sends octets of the arena back, if the way is there.
    fn push_reply(&mut self, cx: &mut Cx<'_>, source: &Source, reply_to: SocketAddr, span: Span) -> bool {
        match (source.link, source.listener) {
            (Some(id), _) => self.push_octets(cx, id, span),
            (None, Some(listener)) => {
                cx.out.push(Action::Datagram { listener, to: reply_to, bytes: span });
                true
            }
            (None, None) => false,
        }
    }

    /// Takes a step of a server transaction and does what it asks for.
    fn server_step(&mut self, cx: &mut Cx<'_>, key: Key, input: ServerInput, given: Option<Given<'_>>) -> Tell {
        let Some(server) = self.servers.get_mut(key) else { return Tell::Nothing };
        let step = server.machine.step(input);
        let is_done = server.machine.kind == Kind::Other && matches!(input, ServerInput::Respond(_)) && !step.over;
        self.set_server_timers(cx, key, &step);
        let sent = match (step.send, given) {
            (Send::Given, Some(given)) => self.send_response(cx, key, given),
            (Send::Trying, _) => self.send_response(cx, key, Given::Own(&status(100))),
            (Send::Again, _) => {
                cx.count(Counter::SipRetransmissionOut);
                self.send_reply(cx, key)
            }
            _ => true,
        };
        if step.over && sent {
            self.remove_server(key);
        } else if is_done && !self.servers.get(key).is_some_and(|server| server.machine.is_open()) {
            if self.done.len() >= self.servers.capacity() {
                self.done.pop_front();
            }
            self.done.push_back(key);
        }
        step.tell
    }

    fn set_server_timers(&mut self, cx: &Cx<'_>, key: Key, step: &Step) {
        for (which, set) in [(RESEND, step.resend), (END, step.end)] {
            match set {
                Set::Keep => {}
                Set::Stop => self.server_timers.stop(timer(key, which)),
                Set::After(time) => self.server_timers.set(timer(key, which), cx.now.after(time)),
            }
        }
    }

    /// Writes a response, keeps it and sends it. `false`: it waits for a connection.
    fn send_response(&mut self, cx: &mut Cx<'_>, key: Key, given: Given<'_>) -> bool {
        let is_reader = self.servers.get(key).is_some_and(|server| self.reads_diagnostics(&server.source));
        let Some(server) = self.servers.get_mut(key) else { return true };
        let copied = server.copied;
        let piece = |from: usize, to: usize| server.head.get(from..to).unwrap_or_default();
        let mut w = cx.out.begin();
        match given {
            Given::Own(response) => {
                // A 100 has no tag of ours, and repeats the Timestamp (RFC 3261 section 8.2.6).
                let copied = match response.status {
                    100 => [piece(0, copied.tag.0), piece(copied.tag.1, server.head.len())],
                    _ => [piece(0, copied.len), b"".as_slice()],
                };
                diagnosed(response, is_reader, |response| emit_response(&mut w, response, copied));
            }
            Given::Passed(message) => emit_back(&mut w, message),
        }
        let (source, reply_to, len) = (server.source, server.reply_to, server.len);
        // A 100 is our own idea: it must not be what makes a forged request worth while.
        let is_trying = matches!(given, Given::Own(response) if response.status == 100);
        if is_trying && !may_answer(&self.ways, &source, w.len(), len) {
            w.cancel();
            return true;
        }
        let span = w.finish();
        self.buffers.take_back(core::mem::take(&mut server.reply));
        // Without memory it is sent all the same, and cannot be sent again.
        server.reply = self.buffers.lend(cx.out.bytes(&span)).unwrap_or_default();
        self.push_reply(cx, &source, reply_to, span) || self.reopen(cx, key)
    }

    /// Sends the kept response again.
    fn send_reply(&mut self, cx: &mut Cx<'_>, key: Key) -> bool {
        let Some(server) = self.servers.get(key).filter(|server| !server.reply.is_empty()) else { return true };
        let (source, reply_to) = (server.source, server.reply_to);
        let span = cx.out.put(&server.reply);
        self.push_reply(cx, &source, reply_to, span) || self.reopen(cx, key)
    }

    /// The connection a request came on is gone: its answer gets one of its own (REQ-SIP-67).
    fn reopen(&mut self, cx: &mut Cx<'_>, key: Key) -> bool {
        let Some(server) = self.servers.get(key) else { return true };
        if server.reply.is_empty() || server.waits_for.is_some() {
            return server.reply.is_empty();
        }
        let target = Target { transport: server.source.transport, address: server.reply_to };
        let names = [String::new(), sent_by(&server.head)];
        let opened = match self.links.find(target, &[&names[0], &names[1]]) {
            Some(id) => Some(id),
            None => self.connect(cx, target, names),
        };
        let Some(id) = opened else {
            cx.refuse(Counter::SipOverload, "sip.response.lost", format_args!("side=ours peer={}", target.address));
            return true;
        };
        // It is kept until then, however short its machine would keep it.
        self.server_timers.set(timer(key, END), cx.now.after(super::transaction::T1_64));
        if let Some(server) = self.servers.get_mut(key) {
            server.waits_for = Some(id);
        }
        if self.links.get(id).is_some_and(|link| link.state == LinkState::Ready) {
            self.flush_replies(cx, id);
        }
        false
    }

    /// A connection for replies is up.
    pub(super) fn flush_replies(&mut self, cx: &mut Cx<'_>, id: LinkId) {
        for index in 0..self.servers.capacity() as u32 {
            let Some(key) = self.servers.key_at(index) else { continue };
            let Some(server) = self.servers.get_mut(key).filter(|server| server.waits_for == Some(id)) else {
                continue;
            };
            server.waits_for = None;
            server.source.link = Some(id);
            let is_over = server.machine.kind == Kind::Other && !server.machine.is_open();
            let span = cx.out.put(&server.reply);
            self.push_octets(cx, id, span);
            if is_over {
                self.remove_server(key);
            }
        }
    }

    /// A connection for replies did not come about.
    pub(super) fn lose_replies(&mut self, cx: &mut Cx<'_>, id: LinkId) {
        for index in 0..self.servers.capacity() as u32 {
            let Some(key) = self.servers.key_at(index) else { continue };
            let Some(server) = self.servers.get(key).filter(|server| server.waits_for == Some(id)) else { continue };
            let peer = server.reply_to;
            cx.refuse(Counter::SipConnectionRefused, "sip.response.lost", format_args!("side=sip peer={peer}"));
            self.remove_server(key);
        }
    }

    pub(super) fn on_server_timer(&mut self, cx: &mut Cx<'_>, fired: u32) {
        let Some(key) = self.servers.key_at(fired / TIMERS) else { return };
        let input = if fired % TIMERS == RESEND { ServerInput::Resend } else { ServerInput::End };
        if input == ServerInput::End && self.servers.get(key).is_some_and(|server| server.machine.is_open()) {
            cx.refuse(Counter::SipTimeout, "sip.unanswered", format_args!("side=ours: the request was never answered"));
        }
        if self.server_step(cx, key, input, None) == Tell::Timeout {
            self.outcomes.push_back(Outcome::Unacknowledged(key));
        }
    }

    /// `alias` in the top Via over TLS: the connection may carry our requests to that
    /// `sent-by`, if the certificate covers it (RFC 5923 section 8.2).
    fn learn_alias(&mut self, source: &Source, via: &Via<'_>) {
        if source.transport != Transport::Tls || via.params.get("alias").is_none() {
            return;
        }
        let covers = |link: &Link| link.certificate.as_ref().is_some_and(|peer| names_any(peer, &[via.host, ""]));
        if let Some(link) = source.link.and_then(|id| self.links.get_mut(id)).filter(|link| covers(link)) {
            link.alias = Some(via.port.unwrap_or(default_port(Transport::Tls)));
        }
    }
}

/// Over UDP the source may be forged: unless it is a configured peer's it never gets
/// more octets than came from it.
fn may_answer(ways: &Ways, source: &Source, answer: usize, request: usize) -> bool {
    source.transport.is_reliable() || answer <= request || ways.is_peer_address(source.address.ip())
}

/// Host of the top Via in what a response copies.
fn sent_by(head: &[u8]) -> String {
    let line = core::str::from_utf8(head).unwrap_or_default().lines().next().unwrap_or_default();
    let via = line.strip_prefix("Via: ").and_then(Via::parse);
    via.map_or_else(String::new, |via| via.host.to_ascii_lowercase())
}
