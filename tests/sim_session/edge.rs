//! A Lync Edge with the clients of its users behind it: they invite and are invited, write
//! in sessions one text at a time, and end, forget or refuse sessions as the seed wants. A
//! machine without a network: messages come in, messages go out.

use crate::net::Chance;
use crate::peers::SipMessage;
use std::collections::{BTreeMap, VecDeque};

pub const SIP_DOMAIN: &str = "voip.example";
pub const XMPP_DOMAIN: &str = "chat.example";

/// 64 T1, in milliseconds.
const TRANSACTION_MS: u64 = 32_000;

const SDP: &str = "v=0\r\no=- 0 0 IN IP4 192.0.2.101\r\ns=session\r\nc=IN IP4 192.0.2.101\r\nt=0 0\r\n\
                   m=message 5060 sip null\r\na=accept-types:text/plain text/html text/rtf\r\n";

/// How the proxies record themselves; in requests of the gateway it has to stand as it is.
const ROUTES: [&str; 2] = [
    "<sip:edge.voip.example:5061;transport=tls;lr;ms-key-info=AAEAAfx0_-q9PqLrX7w;ms-route-sig=c2lnbmF0dXJl>;tag=5C4B",
    "<sip:pool.voip.example:5061;transport=tls;opaque=state:T;lr>;tag=A89C",
];

/// What is to be sent.
pub enum Out {
    Request(Vec<u8>),
    Response(Vec<u8>),
}

/// One client's end of a session.
struct Dialog {
    /// User, client, and whom he talks to.
    who: (String, u64, String),
    state: State,
    theirs: String,
    target: String,
    cseq: u32,
    their_cseq: u32,
    /// Did the gateway open it? Then its requests have the routes in the other order.
    theirs_to_open: bool,
    /// Texts that wait; the first of them is under way if `busy`.
    queue: VecDeque<Text>,
    busy: bool,
    /// A re-INVITE of ours has no answer.
    offering: bool,
    /// The last ACK, to be sent again with each repetition of a 2xx.
    ack: Vec<u8>,
    /// Was our INVITE cancelled?
    cancelled: bool,
    /// Did an ACK of ours leave?
    acked: bool,
    /// When it began.
    since: u64,
    /// A 2xx of ours that waits for its ACK.
    accepted: bool,
    /// The INVITE that we answer later.
    invite: Option<SipMessage>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Inviting,
    Ringing,
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Text {
    number: u64,
    /// Did it travel in the INVITE already?
    first: bool,
}

/// Call-ID and our tag.
type Key = (String, String);

#[derive(Clone)]
enum What {
    Invite { embedded: Option<u64> },
    Again,
    Message(Text, (String, u64, String)),
    Other,
}

struct Client {
    bytes: Vec<u8>,
    what: What,
    key: Key,
    rang: bool,
    since: u64,
}

enum Todo {
    Resend(String, u64),
    Expire(String),
    /// Answers an INVITE with 200, so that this tag makes the dialog.
    Accept(Key),
    /// Repeats a 2xx.
    Repeat(Key, Vec<u8>, u64, u64),
    Answer(Vec<u8>),
    Request(Vec<u8>),
}

pub struct Edge {
    via: &'static str,
    reliable: bool,
    calm: bool,
    chance: Chance,
    pub out: Vec<Out>,
    pub faults: Vec<String>,
    /// Number and time of what a user was shown.
    pub shown: Vec<(u64, u64)>,
    /// Who was told by whom that something was not delivered.
    pub notices: Vec<(String, String)>,
    /// Number and status of what a user sent.
    pub answered: Vec<(u64, u16)>,
    dialogs: BTreeMap<Key, Dialog>,
    servers: BTreeMap<String, Vec<u8>>,
    clients: BTreeMap<String, Client>,
    agenda: BTreeMap<(u64, u64), Todo>,
    number: u64,
    now: u64,
}

impl Edge {
    pub fn new(via: &'static str, calm: bool, seed: u64) -> Self {
        Self {
            via,
            reliable: via != "UDP",
            calm,
            chance: Chance::new(seed ^ 0xed6e),
            out: Vec::new(),
            faults: Vec::new(),
            shown: Vec::new(),
            notices: Vec::new(),
            answered: Vec::new(),
            dialogs: BTreeMap::new(),
            servers: BTreeMap::new(),
            clients: BTreeMap::new(),
            agenda: BTreeMap::new(),
            number: 0,
            now: 0,
        }
    }

    pub fn due(&self) -> Option<u64> {
        self.agenda.keys().next().map(|(at, _)| *at)
    }

    /// From now on nobody refuses anything.
    pub fn calm_down(&mut self) {
        self.calm = true;
    }

    // ---- What users do

    /// A client writes to an XMPP user.
    pub fn write(&mut self, user: &str, client: u64, peer: &str, number: u64, now: u64) {
        self.now = now;
        self.queue((user.into(), client, peer.into()), Text { number, first: false });
    }

    fn queue(&mut self, who: (String, u64, String), text: Text) {
        let found = self.dialogs.iter_mut().find(|(_, d)| d.who == who && d.state != State::Ringing);
        match found {
            Some((key, dialog)) => {
                dialog.queue.push_back(text);
                let key = key.clone();
                self.pump(&key);
            }
            None => self.invite(who, text),
        }
    }

    fn some_open(&mut self) -> Option<Key> {
        let open: Vec<&Key> = self.dialogs.iter().filter(|(_, d)| d.state == State::Open).map(|(k, _)| k).collect();
        let at = self.chance.below(open.len() as u64) as usize;
        open.get(at).map(|key| (*key).clone())
    }

    /// A client ends one of its sessions; what it has not sent goes in another.
    pub fn end_one(&mut self, now: u64) {
        self.now = now;
        if let Some(key) = self.some_open() {
            self.bye(&key);
        }
    }

    fn bye(&mut self, key: &Key) {
        self.in_dialog(key, "BYE", "", "", What::Other);
        self.drop_dialog(key);
    }

    /// A client forgets one of its sessions: it was switched off.
    pub fn forget_one(&mut self, now: u64) {
        self.now = now;
        if let Some(key) = self.some_open() {
            self.dialogs.remove(&key);
        }
    }

    /// A client refreshes a session by UPDATE or re-INVITE.
    pub fn refresh_one(&mut self, now: u64) {
        self.now = now;
        let Some(key) = self.some_open() else { return };
        let contact = contact(&self.dialogs[&key].who);
        let more = format!("{contact}Supported: timer\r\nSession-Expires: 1800;refresher=uac\r\n");
        if self.chance.below(2) == 0 {
            self.in_dialog(&key, "UPDATE", &more, "", What::Other);
        } else if let Some(dialog) = self.dialogs.get_mut(&key).filter(|dialog| !dialog.offering) {
            dialog.offering = true;
            self.in_dialog(&key, "INVITE", &format!("{more}Content-Type: application/sdp\r\n"), SDP, What::Again);
        }
    }

    pub fn type_in_one(&mut self, now: u64) {
        self.now = now;
        let Some(key) = self.some_open() else { return };
        let status = if self.chance.below(2) == 0 { "type" } else { "idle" };
        let body =
            format!("<?xml version=\"1.0\"?><KeyboardActivity><status status=\"{status}\" /></KeyboardActivity>");
        self.in_dialog(&key, "INFO", "Content-Type: application/xml\r\n", &body, What::Other);
    }

    // ---- Our requests

    fn fresh(&mut self, prefix: &str) -> String {
        self.number += 1;
        format!("{prefix}{}", self.number)
    }

    fn invite(&mut self, who: (String, u64, String), text: Text) {
        let (call_id, tag) = (self.fresh("edge-"), self.fresh("e"));
        let (user, client, peer) = who.clone();
        let embeds = self.chance.below(3);
        let text = Text { first: embeds == 1, ..text };
        let mut more = String::new();
        if embeds > 0 {
            more = format!("ms-text-format: text/plain; charset=UTF-8; ms-body={}\r\n", base64(&words(text.number)));
        }
        let embedded = (embeds == 2).then_some(text.number);
        let branch = self.fresh("z9hG4bKe");
        let bytes = format!(
            "INVITE sip:{peer}@{XMPP_DOMAIN} SIP/2.0\r\nVia: SIP/2.0/{} proxy.voip.example;branch={branch}\r\n\
             Record-Route: {}\r\nRecord-Route: {}\r\nMax-Forwards: 67\r\n\
             From: \"{user}\"<sip:{user}@{SIP_DOMAIN}>;tag={tag};epid=ab{client}\r\nTo: <sip:{peer}@{XMPP_DOMAIN}>\r\n\
             Call-ID: {call_id}\r\nCSeq: 1 INVITE\r\n{}Supported: timer\r\nAllow: INVITE, BYE, ACK, CANCEL, INFO, MESSAGE, UPDATE\r\n\
             {more}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{SDP}",
            self.via,
            ROUTES[0],
            ROUTES[1],
            contact(&who),
            SDP.len()
        );
        let key = (call_id, tag);
        let queue = if embedded.is_none() { VecDeque::from([text]) } else { VecDeque::new() };
        let dialog = Dialog {
            who,
            state: State::Inviting,
            theirs: String::new(),
            target: String::new(),
            cseq: 1,
            their_cseq: 0,
            theirs_to_open: false,
            queue,
            busy: false,
            offering: false,
            ack: Vec::new(),
            cancelled: false,
            acked: false,
            since: self.now,
            accepted: false,
            invite: None,
        };
        self.dialogs.insert(key.clone(), dialog);
        // Some think better of it at once: the CANCEL crosses the answer.
        if !self.calm && self.chance.below(12) == 0 {
            self.cancel(&bytes, &key);
        }
        self.call(branch, bytes.into_bytes(), What::Invite { embedded }, key);
    }

    fn cancel(&mut self, invite: &str, key: &Key) {
        if let Some(dialog) = self.dialogs.get_mut(key) {
            dialog.cancelled = true;
        }
        let kept = ["Via:", "Max-Forwards:", "From:", "To:", "Call-ID:"];
        let lines: Vec<&str> = invite.lines().filter(|line| kept.iter().any(|name| line.starts_with(name))).collect();
        let uri = invite.split(' ').nth(1).unwrap_or_default();
        let cancel =
            format!("CANCEL {uri} SIP/2.0\r\n{}\r\nCSeq: 1 CANCEL\r\nContent-Length: 0\r\n\r\n", lines.join("\r\n"));
        self.later(0, Todo::Request(cancel.into_bytes()));
    }

    /// Writes a request of a dialog.
    fn emit(&mut self, key: &Key, method: &str, cseq: u32, branch: &str, more: &str, body: &str) -> Vec<u8> {
        let dialog = &self.dialogs[key];
        let (user, _, peer) = &dialog.who;
        format!(
            "{method} {} SIP/2.0\r\nVia: SIP/2.0/{} proxy.voip.example;branch={branch}\r\nMax-Forwards: 67\r\n\
             From: <sip:{user}@{SIP_DOMAIN}>;tag={}\r\nTo: <sip:{peer}@{XMPP_DOMAIN}>;tag={}\r\nCall-ID: {}\r\n\
             CSeq: {cseq} {method}\r\n{more}Content-Length: {}\r\n\r\n{body}",
            dialog.target,
            self.via,
            key.1,
            dialog.theirs,
            key.0,
            body.len()
        )
        .into_bytes()
    }

    fn in_dialog(&mut self, key: &Key, method: &str, more: &str, body: &str, what: What) {
        let Some(dialog) = self.dialogs.get_mut(key) else { return };
        dialog.cseq += 1;
        let cseq = dialog.cseq;
        let branch = self.fresh("z9hG4bKe");
        let bytes = self.emit(key, method, cseq, &branch, more, body);
        self.call(branch, bytes, what, key.clone());
    }

    fn pump(&mut self, key: &Key) {
        let Some(dialog) = self.dialogs.get_mut(key) else { return };
        if dialog.state != State::Open || dialog.busy {
            return;
        }
        let Some(text) = dialog.queue.front().copied() else { return };
        dialog.busy = true;
        let who = dialog.who.clone();
        let (kind, body) = match self.chance.below(3) {
            0 => ("text/html; charset=UTF-8", format!("<DIV style=\"color:red\"><B>{}</B></DIV>", words(text.number))),
            _ => ("text/plain; charset=UTF-8", words(text.number)),
        };
        self.in_dialog(key, "MESSAGE", &format!("Content-Type: {kind}\r\n"), &body, What::Message(text, who));
    }

    fn call(&mut self, branch: String, bytes: Vec<u8>, what: What, key: Key) {
        self.out.push(Out::Request(bytes.clone()));
        if !self.reliable {
            self.later(500, Todo::Resend(branch.clone(), 500));
        }
        self.later(TRANSACTION_MS, Todo::Expire(branch.clone()));
        let since = self.now;
        self.clients.insert(branch, Client { bytes, what, key, rang: false, since });
    }

    fn later(&mut self, after: u64, todo: Todo) {
        self.number += 1;
        self.agenda.insert((self.now + after, self.number), todo);
    }

    /// A session is over for its client: what it has not sent goes in another.
    fn drop_dialog(&mut self, key: &Key) {
        let Some(dialog) = self.dialogs.remove(key) else { return };
        let unsent = dialog.queue.into_iter().skip(usize::from(dialog.busy));
        for text in unsent {
            // One that went in an INVITE may be shown already.
            if !text.first {
                self.queue(dialog.who.clone(), text);
            }
        }
    }

    // ---- Time

    pub fn poll(&mut self, now: u64) {
        self.now = now;
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Todo::Resend(branch, interval) => {
                    let Some(client) = self.clients.get(&branch).filter(|client| !client.rang) else { continue };
                    let is_invite = matches!(client.what, What::Invite { .. } | What::Again);
                    let next = if is_invite { interval * 2 } else { (interval * 2).min(4000) };
                    if now + next < client.since + TRANSACTION_MS {
                        self.out.push(Out::Request(client.bytes.clone()));
                        self.later(next, Todo::Resend(branch, next));
                    }
                }
                Todo::Expire(branch) => {
                    let Some(client) = self.clients.remove(&branch) else { continue };
                    match client.what {
                        // After a 2xx this only waited for its repetitions.
                        What::Invite { .. } => {
                            if self.dialogs.get(&client.key).is_some_and(|d| d.state == State::Inviting) {
                                self.dialogs.remove(&client.key);
                            }
                        }
                        What::Message(..) => {
                            if self.dialogs.contains_key(&client.key) {
                                self.bye(&client.key);
                            }
                        }
                        What::Again => {
                            if let Some(dialog) = self.dialogs.get_mut(&client.key) {
                                dialog.offering = false;
                            }
                        }
                        What::Other => {}
                    }
                }
                Todo::Accept(key) => self.accept(&key),
                Todo::Repeat(key, bytes, interval, until) => {
                    if !self.dialogs.get(&key).is_some_and(|dialog| dialog.accepted) {
                        continue;
                    }
                    if now >= until {
                        self.bye(&key);
                        continue;
                    }
                    self.out.push(Out::Response(bytes.clone()));
                    let next = (interval * 2).min(4000);
                    self.later(next, Todo::Repeat(key, bytes, next, until));
                }
                Todo::Answer(bytes) => self.answer(bytes),
                Todo::Request(bytes) => self.out.push(Out::Request(bytes)),
            }
        }
    }

    // ---- What comes

    pub fn receive(&mut self, message: &SipMessage, now: u64) {
        self.now = now;
        let Some(branch) = message.branch().map(String::from) else {
            self.faults.push(format!("no branch in {}", message.start));
            return;
        };
        match message.status() {
            Some(status) => self.on_response(&branch, status, message),
            None => self.on_request(&branch, message),
        }
    }

    fn on_response(&mut self, branch: &str, status: u16, message: &SipMessage) {
        let is_of_cancel = message.header("cseq").is_some_and(|cseq| cseq.ends_with("CANCEL"));
        let Some(client) = self.clients.get_mut(branch).filter(|_| !is_of_cancel) else { return };
        if status < 200 {
            client.rang = true;
            return;
        }
        let (what, key) = (client.what.clone(), client.key.clone());
        match what {
            What::Invite { .. } | What::Again => {
                client.rang = true;
                self.on_invite_answered(branch, status, message, &what, &key);
            }
            What::Message(text, who) => {
                self.clients.remove(branch);
                self.on_message_answered(&key, text, who, status);
            }
            What::Other => {
                self.clients.remove(branch);
                if status == 481 {
                    self.drop_dialog(&key);
                }
            }
        }
    }

    fn on_invite_answered(&mut self, branch: &str, status: u16, message: &SipMessage, what: &What, key: &Key) {
        let cseq: u32 =
            message.header("cseq").and_then(|c| c.split(' ').next()).and_then(|c| c.parse().ok()).unwrap_or_default();
        if status >= 300 {
            self.clients.remove(branch);
            if let Some(dialog) = self.dialogs.get_mut(key) {
                dialog.offering = false;
                let (user, _, peer) = dialog.who.clone();
                let to = message.header("to").unwrap_or_default();
                let uri =
                    if dialog.target.is_empty() { format!("sip:{peer}@{XMPP_DOMAIN}") } else { dialog.target.clone() };
                let ack = format!(
                    "ACK {uri} SIP/2.0\r\nVia: SIP/2.0/{} proxy.voip.example;branch={branch}\r\nMax-Forwards: 67\r\n\
                     From: <sip:{user}@{SIP_DOMAIN}>;tag={}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {cseq} ACK\r\nContent-Length: 0\r\n\r\n",
                    self.via, key.1, key.0
                );
                self.out.push(Out::Request(ack.into_bytes()));
            }
            if matches!(what, What::Invite { .. }) || status == 481 {
                if let Some(dialog) = self.dialogs.remove(key) {
                    self.answered.extend(dialog.queue.iter().map(|text| (text.number, status)));
                }
                if let What::Invite { embedded: Some(number) } = what {
                    self.answered.push((*number, status));
                }
            }
            return;
        }
        let Some(dialog) = self.dialogs.get_mut(key) else { return };
        let is_new = matches!(what, What::Invite { .. }) && dialog.state == State::Inviting
            || matches!(what, What::Again) && dialog.offering;
        if !is_new {
            // Our ACK was lost.
            let ack = dialog.ack.clone();
            dialog.acked = true;
            self.out.push(Out::Request(ack));
            return;
        }
        dialog.offering = false;
        dialog.state = State::Open;
        if let Some(tag) = message.header("to").and_then(|to| to.split(";tag=").nth(1)) {
            dialog.theirs = tag.split(';').next().unwrap_or(tag).into();
        }
        let target = message.header("contact").and_then(|c| c.split(['<', '>']).nth(1)).unwrap_or_default();
        dialog.target = target.into();
        if let What::Invite { embedded: Some(number) } = what {
            self.answered.push((*number, status));
        }
        let ack_branch = self.fresh("z9hG4bKe");
        let ack = self.emit(key, "ACK", cseq, &ack_branch, "", "");
        // Some write before they acknowledge, and some acknowledge only when asked again.
        let manner = if self.calm { 9 } else { self.chance.below(10) };
        if manner == 0 {
            self.pump(key);
        }
        if let Some(dialog) = self.dialogs.get_mut(key) {
            dialog.ack = ack.clone();
            dialog.acked |= manner != 1;
        }
        if manner != 1 {
            self.out.push(Out::Request(ack));
        }
        if self.dialogs.get(key).is_some_and(|dialog| dialog.cancelled) {
            return self.bye(key);
        }
        self.pump(key);
    }

    fn on_message_answered(&mut self, key: &Key, text: Text, who: (String, u64, String), status: u16) {
        let Some(dialog) = self.dialogs.get_mut(key) else {
            // It crossed the end of the session, and was not even looked at.
            if status == 481 && !text.first {
                self.queue(who, text);
            } else {
                self.answered.push((text.number, status));
            }
            return;
        };
        dialog.busy = false;
        let is_dead = matches!(status, 408 | 480 | 481);
        // It was not even looked at.
        if status == 481 && !text.first {
            self.drop_dialog(key);
            return;
        }
        dialog.queue.pop_front();
        self.answered.push((text.number, status));
        if is_dead { self.drop_dialog(key) } else { self.pump(key) }
    }

    fn on_request(&mut self, branch: &str, request: &SipMessage) {
        let method = request.method().unwrap_or_default().to_string();
        let of = |name: &str| request.header(name).unwrap_or_default().to_string();
        let place = if method == "CANCEL" { format!("{branch} CANCEL") } else { branch.to_string() };
        if let Some(answer) = self.servers.get(&place) {
            if !answer.is_empty() && method != "ACK" {
                self.out.push(Out::Response(answer.clone()));
            }
            return;
        }
        let tag = of("to").split(";tag=").nth(1).map(|tag| tag.split(';').next().unwrap_or(tag).to_string());
        let key = (of("call-id"), tag.clone().unwrap_or_default());
        let cseq: u32 = of("cseq").split(' ').next().and_then(|c| c.parse().ok()).unwrap_or_default();
        match method.as_str() {
            "ACK" => {
                if let Some(dialog) = self.dialogs.get_mut(&key) {
                    dialog.accepted = false;
                }
                return;
            }
            "CANCEL" => {
                self.servers.insert(place, request.response(200, "OK", "c", ""));
                self.out.push(Out::Response(request.response(200, "OK", "c", "")));
                let rings = |d: &Dialog| d.invite.as_ref().is_some_and(|i| i.branch() == Some(branch));
                let ringing: Vec<Key> = self.dialogs.iter().filter(|(_, d)| rings(d)).map(|(k, _)| k.clone()).collect();
                let all: Vec<Dialog> = ringing.iter().filter_map(|key| self.dialogs.remove(key)).collect();
                if let Some(invite) = all.into_iter().next().and_then(|dialog| dialog.invite) {
                    self.answer(invite.response(487, "Request Terminated", &ringing[0].1, ""));
                }
                return;
            }
            "INVITE" if tag.is_none() => return self.on_invite(request),
            "MESSAGE" if tag.is_none() => {
                self.show(request);
                return self.answer(request.response(200, "OK", "s", ""));
            }
            _ => {}
        }
        let is_early = |d: &Dialog| !d.theirs_to_open && !d.acked && self.now < d.since + TRANSACTION_MS;
        if method == "BYE" && self.dialogs.get(&key).is_some_and(is_early) {
            self.faults.push("a BYE before the ACK".into());
        }
        let Some(dialog) = self.dialogs.get_mut(&key).filter(|dialog| dialog.state == State::Open) else {
            return self.answer(request.response(481, "Gone", "g", ""));
        };
        let route = request.headers.iter().filter(|(name, _)| name == "route").map(|(_, v)| v.as_str());
        let route = route.collect::<Vec<_>>().join(", ");
        let wanted = if dialog.theirs_to_open { [ROUTES[1], ROUTES[0]].join(", ") } else { ROUTES.join(", ") };
        if route != wanted {
            self.faults.push(format!("Route {route}"));
        }
        if cseq <= dialog.their_cseq {
            return self.answer(request.response(500, "Late", "", ""));
        }
        dialog.their_cseq = cseq;
        match method.as_str() {
            "BYE" => {
                self.answer(request.response(200, "OK", "", ""));
                self.drop_dialog(&key);
            }
            "MESSAGE" => self.on_message(request, &key),
            "INVITE" if dialog.offering || (!self.calm && self.chance.below(4) == 0) => {
                self.answer(request.response(491, "Request Pending", "", ""));
            }
            "INVITE" => {
                dialog.accepted = true;
                self.accept_invite(request, &key);
            }
            "UPDATE" => {
                let expires = of("session-expires");
                let more = format!("{}Session-Expires: {expires}\r\n", contact(&self.dialogs[&key].who));
                self.answer(request.response(200, "OK", "", &more));
            }
            _ => self.answer(request.response(200, "OK", "", "")),
        }
    }

    /// A text, or a notice of the gateway's that one was lost.
    fn show(&mut self, request: &SipMessage) {
        let user_of = |name: &str| request.header(name).and_then(|v| v.split([':', '@']).nth(1)).unwrap_or_default();
        match number_of(&request.body) {
            Some(number) => self.shown.push((number, self.now)),
            None if request.body.starts_with(b"Your message was not delivered") => {
                self.notices.push((user_of("to").into(), user_of("from").into()));
            }
            // He types.
            None => {}
        }
    }

    fn on_message(&mut self, request: &SipMessage, key: &Key) {
        let chance = if self.calm { 99 } else { self.chance.below(40) };
        let status = match chance {
            0 => 481,
            1 => 480,
            2 => 408,
            3 => 0,
            _ => 200,
        };
        match status {
            0 => {
                // Whoever asks again gets no answer either.
                let branch = request.branch().unwrap_or_default().to_string();
                self.servers.insert(branch, Vec::new());
            }
            200 => {
                self.show(request);
                let answer = request.response(200, "OK", "", "");
                if chance == 4 {
                    let branch = request.branch().unwrap_or_default().to_string();
                    self.servers.insert(branch, Vec::new());
                    let after = self.chance.below(20_000);
                    self.later(after, Todo::Answer(answer));
                } else {
                    self.answer(answer);
                }
            }
            status => {
                self.answer(request.response(status, "No", "", ""));
                self.drop_dialog(key);
            }
        }
    }

    fn on_invite(&mut self, request: &SipMessage) {
        let branch = request.branch().unwrap_or_default().to_string();
        self.servers.insert(branch, Vec::new());
        let user = request.start.split([':', '@']).nth(1).unwrap_or_default().to_string();
        let of = |name: &str| request.header(name).unwrap_or_default().to_string();
        let from = of("from");
        let peer = from.split([':', '@']).nth(1).unwrap_or_default().to_string();
        let theirs = from.split(";tag=").nth(1).map(|tag| tag.split(';').next().unwrap_or(tag)).unwrap_or_default();
        let cseq: u32 = of("cseq").split(' ').next().and_then(|c| c.parse().ok()).unwrap_or_default();
        let target = of("contact").split(['<', '>']).nth(1).unwrap_or_default().to_string();
        let chance = if self.calm { 99 } else { self.chance.below(24) };
        let (status, after) = match chance {
            0 => (480, 0),
            1 => (486, 500),
            2 => (488, 0),
            3 => (408, 0),
            4 => return,
            5 => (603, 3000),
            6 => (200, 55_000 + self.chance.below(15_000)),
            7 | 8 => (200, self.chance.below(12_000)),
            _ => (200, self.chance.below(800)),
        };
        if status != 200 {
            let tag = self.fresh("e");
            self.later(after, Todo::Answer(request.response(status, "No", &tag, "")));
            return;
        }
        // Two clients may accept it.
        for client in 0..(if chance == 8 { 2 } else { 1 }) {
            let key = (of("call-id"), self.fresh("e"));
            if after > 900 {
                self.out.push(Out::Response(request.response(180, "Ringing", &key.1, "")));
            }
            let dialog = Dialog {
                who: (user.clone(), client, peer.clone()),
                state: State::Ringing,
                theirs: theirs.into(),
                target: target.clone(),
                cseq: 0,
                their_cseq: cseq,
                theirs_to_open: true,
                queue: VecDeque::new(),
                busy: false,
                offering: false,
                ack: Vec::new(),
                cancelled: false,
                acked: false,
                since: self.now,
                accepted: false,
                invite: Some(request.clone()),
            };
            self.dialogs.insert(key.clone(), dialog);
            let more = client * self.chance.below(3000);
            self.later(after + more, Todo::Accept(key));
        }
    }

    fn accept(&mut self, key: &Key) {
        let Some(dialog) = self.dialogs.get_mut(key) else { return };
        let Some(invite) = dialog.invite.take() else { return };
        dialog.state = State::Open;
        dialog.accepted = true;
        self.accept_invite(&invite, key);
    }

    /// The 200 to an INVITE, until its ACK comes.
    fn accept_invite(&mut self, invite: &SipMessage, key: &Key) {
        let mut more = contact(&self.dialogs[key].who);
        more.push_str("Allow: INVITE, BYE, ACK, CANCEL, INFO, MESSAGE");
        more.push_str(if self.chance.below(2) == 0 { ", UPDATE\r\n" } else { "\r\n" });
        if invite.header("to").is_some_and(|to| !to.contains(";tag=")) {
            more.push_str(&format!("Record-Route: {}\r\nRecord-Route: {}\r\n", ROUTES[0], ROUTES[1]));
        }
        match self.chance.below(3) {
            0 => more.push_str("Session-Expires: 120;refresher=uac\r\nRequire: timer\r\n"),
            1 => more.push_str("Session-Expires: 1800;refresher=uac\r\nRequire: timer\r\n"),
            _ => {}
        }
        more.push_str("Content-Type: application/sdp\r\n");
        let bytes = invite.response(200, "OK", &key.1, &more);
        let text = String::from_utf8_lossy(&bytes);
        let bytes = text.replace("Content-Length: 0\r\n\r\n", &format!("Content-Length: {}\r\n\r\n{SDP}", SDP.len()));
        let bytes = bytes.into_bytes();
        self.out.push(Out::Response(bytes.clone()));
        let until = self.now + TRANSACTION_MS;
        self.later(500, Todo::Repeat(key.clone(), bytes, 500, until));
    }

    fn answer(&mut self, bytes: Vec<u8>) {
        if let Ok(message) = SipMessage::parse(&bytes)
            && let Some(branch) = message.branch()
        {
            self.servers.insert(branch.into(), bytes.clone());
        }
        self.out.push(Out::Response(bytes));
    }
}

fn contact((user, client, _): &(String, u64, String)) -> String {
    format!("Contact: <sip:{user}@{SIP_DOMAIN};opaque=user:epid:N4OQykhuMBrKaTofmjebMP{client}A;gruu>\r\n")
}

/// The text of a message.
pub fn words(number: u64) -> String {
    format!("text {number} end")
}

/// The number of a message by its text.
pub fn number_of(body: &[u8]) -> Option<u64> {
    core::str::from_utf8(body).ok()?.strip_prefix("text ")?.strip_suffix(" end")?.parse().ok()
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in text.as_bytes().chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, octet| bits << 8 | u32::from(*octet)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]);
            out.push(if place <= three.len() { digit } else { '=' });
        }
    }
    out
}
