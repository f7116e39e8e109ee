//! Honest phones behind one SIP proxy: notifiers of their own presence and watchers of
//! that of others (RFC 6665, 3856, 3863). A machine without a network: messages come in,
//! messages go out, and `poll` does what is due.

use crate::peers::{SipMessage, parse_element};
use crate::server::{Shown, View};
use latimer::base::net::LinkId;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const PIDF: &str = "urn:ietf:params:xml:ns:pidf";

/// How long a transaction waits for its final answer (64 T1).
const TRANSACTION_MS: u64 = 32_000;

/// What is to be sent.
pub enum Out {
    Request(Vec<u8>),
    /// Back the way the request came.
    Response(Option<LinkId>, Vec<u8>),
}

/// What a person has decided about a watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Open,
    Allowed,
    Denied,
}

/// What a user does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A client publishes `<show/>`, which may be empty.
    Publish(&'static str, &'static str),
    Unpublish(&'static str),
    Allow(&'static str),
    Deny(&'static str),
    /// The device of that number begins to watch a contact.
    Watch(&'static str, u8),
    Unwatch(&'static str, u8),
    /// The phone loses its dialogs; its person's decisions and wishes stay.
    Crash,
}

/// How a notifier behaves where it may choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habits {
    /// Refuses a denied watcher by 603, else by a NOTIFY.
    pub declines: bool,
    /// Says `closed` once of a client that has gone.
    pub says_closed: bool,
    /// Longest life granted, in seconds.
    pub grant_s: u64,
    /// Life asked for by watchers, in seconds.
    pub ask_s: u64,
}

/// A subscription of a watcher of the gateway's.
#[derive(Clone, Debug)]
struct Serving {
    presentity: String,
    watcher: String,
    call_id: String,
    local_tag: String,
    remote: String,
    local: String,
    target: String,
    cseq: u64,
    remote_cseq: u64,
    expires_at: u64,
    /// The reason, when it has ended.
    ended: Option<&'static str>,
    dirty: bool,
    busy: bool,
    /// Clients in the latest NOTIFY.
    told: Vec<String>,
}

/// A subscription that a phone keeps alive.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    pub wants: bool,
    /// The call now, empty without one.
    pub call_id: String,
    local_tag: String,
    remote_tag: String,
    target: String,
    cseq: u64,
    remote_cseq: u64,
    expires_at: u64,
    refresh_at: u64,
    retry_at: u64,
    /// `pending`, `active`, or empty.
    pub state: String,
    pub view: View,
    /// When a new subscription was asked for, each time.
    pub begun: Vec<u64>,
    /// All SUBSCRIBE and NOTIFY requests.
    pub subscribes: u64,
    pub notifies: u64,
    last_subscribe: u64,
    last_state: Option<u64>,
    /// The shortest time between two states that no SUBSCRIBE asked for.
    pub shortest: Option<u64>,
    /// When the latest state came.
    pub last_seen: u64,
}

#[derive(Clone, Debug)]
enum Purpose {
    Notify(u64),
    Subscribe(WatchKey, String),
}

#[derive(Clone, Debug)]
struct Call {
    purpose: Purpose,
    bytes: Vec<u8>,
    since: u64,
    next: u64,
    interval: u64,
}

/// User, contact, device.
pub type WatchKey = (String, String, u8);

#[derive(Default)]
pub struct Phones {
    pub domain: String,
    pub other: String,
    /// `UDP`, `TCP` or `TLS`.
    pub via: &'static str,
    pub habits: Habits,
    /// User -> client -> `<show/>` and the number of the change.
    pub published: BTreeMap<String, BTreeMap<String, (String, u64)>>,
    /// Presentity and watcher.
    pub decisions: BTreeMap<(String, String), Decision>,
    pub watches: BTreeMap<WatchKey, Watch>,
    /// States told, one for each tuple: presentity and watcher.
    pub told: BTreeMap<(String, String), u64>,
    pub out: Vec<Out>,
    pub faults: Vec<String>,
    /// No message overtakes another.
    pub in_order: bool,
    serving: BTreeMap<u64, Serving>,
    calls: BTreeMap<String, Call>,
    answered: BTreeMap<String, Vec<u8>>,
    number: u64,
}

/// The part between angle brackets, or all of it.
fn uri_of(value: &str) -> &str {
    value.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(value, |(uri, _)| uri)
}

fn tag_of(value: &str) -> String {
    let parameters = value.rsplit_once('>').map_or(value, |(_, rest)| rest);
    let tag = parameters.split(';').find_map(|p| p.trim().strip_prefix("tag="));
    tag.unwrap_or_default().to_string()
}

fn user_of(value: &str) -> String {
    let uri = uri_of(value);
    let rest = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    rest.split('@').next().unwrap_or_default().to_string()
}

fn parameter(value: &str, name: &str) -> Option<String> {
    value.split(';').find_map(|p| p.trim().strip_prefix(name)?.strip_prefix('=').map(Into::into))
}

/// The client that a tuple's id stands for (decision D-14).
fn client_of(id: &str) -> String {
    if let Some(coded) = id.strip_prefix("IDx-") {
        let mut octets = Vec::new();
        let mut rest = coded.as_bytes();
        while let [first, after @ ..] = rest {
            if let (b'_', [a, b, after @ ..]) = (first, after) {
                let hex = [*a, *b];
                let number = core::str::from_utf8(&hex).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
                octets.push(number.unwrap_or(b'?'));
                rest = after;
            } else {
                octets.push(*first);
                rest = after;
            }
        }
        return String::from_utf8_lossy(&octets).into_owned();
    }
    id.strip_prefix("ID-").unwrap_or(id).to_string()
}

impl Phones {
    pub fn new(domain: &str, other: &str, via: &'static str, habits: Habits, users: &[&str]) -> Self {
        Self {
            domain: domain.into(),
            other: other.into(),
            via,
            habits,
            published: users.iter().map(|user| ((*user).to_string(), BTreeMap::new())).collect(),
            ..Self::default()
        }
    }

    /// What a client of `user` shows to `watcher`.
    fn shown(user: &str, watcher: &str, show: &str, number: u64) -> Shown {
        Shown { show: show.into(), status: format!("{user} to {watcher} {number}") }
    }

    /// All that `watcher` has to be shown of `user` now.
    pub fn truth(&self, user: &str, watcher: &str) -> View {
        if self.decision(user, watcher) != Decision::Allowed {
            return View::new();
        }
        let all = self.published.get(user).into_iter().flatten();
        all.map(|(client, (show, number))| (client.clone(), Self::shown(user, watcher, show, *number))).collect()
    }

    pub fn decision(&self, user: &str, watcher: &str) -> Decision {
        self.decisions.get(&(user.into(), watcher.into())).copied().unwrap_or(Decision::Open)
    }

    /// How many subscriptions of that watcher are alive here.
    pub fn serving(&self, user: &str, watcher: &str) -> usize {
        self.serving.values().filter(|s| s.presentity == user && s.watcher == watcher && s.ended.is_none()).count()
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn contact(&self, user: &str) -> String {
        let port = if self.via == "TLS" { 5061 } else { 5060 };
        format!("<sip:{user}@192.0.2.21:{port};transport={}>", self.via.to_ascii_lowercase())
    }

    /// A user does something.
    pub fn act(&mut self, user: &str, deed: &Deed, now: u64) {
        match deed {
            Deed::Publish(client, show) => {
                let number = self.next_number();
                self.published.entry(user.into()).or_default().insert((*client).into(), ((*show).into(), number));
                self.changed(user, now);
            }
            Deed::Unpublish(client) => {
                if self.published.entry(user.into()).or_default().remove(*client).is_some() {
                    self.changed(user, now);
                }
            }
            Deed::Allow(watcher) => self.decide(user, watcher, Decision::Allowed, now),
            Deed::Deny(watcher) => self.decide(user, watcher, Decision::Denied, now),
            Deed::Watch(contact, device) => {
                let key = (user.to_string(), (*contact).to_string(), *device);
                let watch = self.watches.entry(key.clone()).or_default();
                if !watch.wants {
                    watch.wants = true;
                    self.begin(&key, now);
                }
            }
            Deed::Unwatch(contact, device) => self.unwatch(&(user.to_string(), (*contact).to_string(), *device), now),
            Deed::Crash => {
                self.serving.retain(|_, s| s.presentity != user);
                let mine: Vec<WatchKey> = self.watches.keys().filter(|key| key.0 == user).cloned().collect();
                for key in mine {
                    self.forget(&key);
                    if self.watches.get(&key).is_some_and(|watch| watch.wants) {
                        self.begin(&key, now);
                    }
                }
            }
        }
    }

    fn decide(&mut self, user: &str, watcher: &str, decision: Decision, now: u64) {
        self.decisions.insert((user.into(), watcher.into()), decision);
        let all: Vec<u64> = self
            .serving
            .iter()
            .filter(|(_, s)| s.presentity == user && s.watcher == watcher)
            .map(|(n, _)| *n)
            .collect();
        for number in all {
            if let Some(s) = self.serving.get_mut(&number) {
                if decision == Decision::Denied {
                    s.ended = Some("rejected");
                }
                s.dirty = true;
            }
            self.notify(number, now);
        }
    }

    fn changed(&mut self, user: &str, now: u64) {
        let all: Vec<u64> = self.serving.iter().filter(|(_, s)| s.presentity == user).map(|(n, _)| *n).collect();
        for number in all {
            let Some(s) = self.serving.get_mut(&number) else { continue };
            if self.decisions.get(&(s.presentity.clone(), s.watcher.clone())) == Some(&Decision::Allowed) {
                s.dirty = true;
                self.notify(number, now);
            }
        }
    }

    // ---- Notifier

    fn document(&self, s: &Serving) -> (String, Vec<String>) {
        let mut out = format!("<presence xmlns='{PIDF}' entity='pres:{}@{}'>", s.presentity, self.domain);
        let mut told = Vec::new();
        for (client, shown) in self.truth(&s.presentity, &s.watcher) {
            let show = match shown.show.as_str() {
                "" => String::new(),
                show => format!("<show xmlns='jabber:client'>{show}</show>"),
            };
            let _ = write!(
                out,
                "<tuple id='ID-{client}'><status><basic>open</basic>{show}</status><note>{}</note></tuple>",
                shown.status
            );
            told.push(client);
        }
        if self.habits.says_closed {
            for gone in s.told.iter().filter(|client| !told.contains(client)) {
                let _ = write!(out, "<tuple id='ID-{gone}'><status><basic>closed</basic></status></tuple>");
            }
        }
        out.push_str("</presence>");
        (out, told)
    }

    /// Sends what a subscription is owed, one NOTIFY at a time.
    fn notify(&mut self, number: u64, now: u64) {
        let Some(mut s) = self.serving.get(&number).filter(|s| s.dirty && !s.busy).cloned() else { return };
        (s.dirty, s.busy) = (false, true);
        s.cseq += 1;
        let decision = self.decision(&s.presentity, &s.watcher);
        let left = s.expires_at.saturating_sub(now) / 1000;
        let state = match (s.ended, decision) {
            (Some(reason), _) => format!("terminated;reason={reason}"),
            (None, Decision::Allowed) => format!("active;expires={left}"),
            (None, _) => format!("pending;expires={left}"),
        };
        let body = if decision == Decision::Allowed {
            let (body, told) = self.document(&s);
            *self.told.entry((s.presentity.clone(), s.watcher.clone())).or_default() +=
                1 + told.len() as u64 + s.told.len() as u64;
            s.told = told;
            body
        } else {
            String::new()
        };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/pidf+xml\r\n" };
        let branch = format!("z9hG4bKn{}", self.next_number());
        let bytes = format!(
            "NOTIFY {} SIP/2.0\r\nVia: SIP/2.0/{} proxy.{};branch={branch}\r\nMax-Forwards: 70\r\nFrom: {};tag={}\r\n\
             To: {}\r\nCall-ID: {}\r\nCSeq: {} NOTIFY\r\nContact: {}\r\nEvent: presence\r\n\
             Subscription-State: {state}\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            s.target,
            self.via,
            self.domain,
            s.local,
            s.local_tag,
            s.remote,
            s.call_id,
            s.cseq,
            self.contact(&s.presentity),
            body.len(),
        )
        .into_bytes();
        self.serving.insert(number, s);
        self.call(branch, Purpose::Notify(number), bytes, now);
    }

    fn call(&mut self, branch: String, purpose: Purpose, bytes: Vec<u8>, now: u64) {
        let interval = if self.via == "UDP" { 500 } else { TRANSACTION_MS };
        self.out.push(Out::Request(bytes.clone()));
        self.calls.insert(branch, Call { purpose, bytes, since: now, next: now + interval, interval });
    }

    fn on_subscribe(&mut self, back: Option<LinkId>, request: &SipMessage, now: u64) {
        let of = |name: &str| request.header(name).unwrap_or_default();
        let (from, to, call_id) = (of("from"), of("to"), of("call-id"));
        let cseq: u64 = of("cseq").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
        let asked: u64 = of("expires").parse().unwrap_or(3600);
        let granted = asked.min(self.habits.grant_s);
        let target = uri_of(of("contact")).to_string();
        if of("event") != "presence" || target.is_empty() {
            self.faults.push(format!("a SUBSCRIBE without Event or Contact: {request:?}"));
        }
        let found = self
            .serving
            .iter()
            .find(|(_, s)| s.call_id == call_id && s.local_tag == tag_of(to) && tag_of(&s.remote) == tag_of(from));
        let (number, tag) = match (found.map(|(n, s)| (*n, s.clone())), tag_of(to).is_empty()) {
            (Some((number, mut s)), _) => {
                if cseq <= s.remote_cseq {
                    return self.answer(back, request, 500, "", "");
                }
                s.remote_cseq = cseq;
                s.target = target;
                s.expires_at = now + granted * 1000;
                let tag = s.local_tag.clone();
                if s.ended.is_some() {
                    return self.answer(back, request, 481, "", "");
                }
                self.serving.insert(number, s);
                (number, tag)
            }
            (None, false) => return self.answer(back, request, 481, "", ""),
            (None, true) => {
                let is_copy =
                    |s: &Serving| s.call_id == call_id && tag_of(&s.remote) == tag_of(from) && s.remote_cseq == cseq;
                if self.serving.values().any(is_copy) {
                    // It came another way before (RFC 3261 section 8.2.2.2).
                    return self.answer(back, request, 482, "x", "");
                }
                let (presentity, watcher) = (user_of(to), user_of(from));
                if !self.published.contains_key(&presentity) {
                    return self.answer(back, request, 404, "x", "");
                }
                let denied = self.decision(&presentity, &watcher) == Decision::Denied;
                if denied && self.habits.declines {
                    return self.answer(back, request, 603, "x", "");
                }
                let number = self.next_number();
                let tag = format!("s{number}");
                let s = Serving {
                    presentity,
                    watcher,
                    call_id: call_id.into(),
                    local_tag: tag.clone(),
                    remote: from.into(),
                    local: to.into(),
                    target,
                    cseq: 0,
                    remote_cseq: cseq,
                    expires_at: now + granted * 1000,
                    ended: denied.then_some("rejected"),
                    dirty: true,
                    busy: false,
                    told: Vec::new(),
                };
                self.serving.insert(number, s);
                (number, tag)
            }
        };
        let Some(s) = self.serving.get_mut(&number) else { return };
        s.dirty = true;
        if granted == 0 {
            s.ended = s.ended.or(Some("timeout"));
        }
        let more = format!("Expires: {granted}\r\nContact: {}\r\n", self.contact(&user_of(to)));
        self.answer(back, request, 200, &tag, &more);
        self.notify(number, now);
    }

    fn answer(&mut self, back: Option<LinkId>, request: &SipMessage, status: u16, tag: &str, more: &str) {
        let bytes = request.response(status, "Answer", if tag.is_empty() { "none" } else { tag }, more);
        if let Some(branch) = request.branch() {
            self.answered.insert(branch.into(), bytes.clone());
        }
        self.out.push(Out::Response(back, bytes));
    }

    // ---- Watcher

    /// Asks for a new subscription.
    fn begin(&mut self, key: &WatchKey, now: u64) {
        let number = self.next_number();
        let Some(watch) = self.watches.get_mut(key) else { return };
        watch.call_id = format!("w{number}@phone");
        watch.local_tag = format!("l{number}");
        watch.remote_tag.clear();
        watch.remote_cseq = 0;
        watch.cseq = 0;
        watch.retry_at = 0;
        watch.last_state = None;
        watch.begun.push(now);
        self.subscribe(key, self.habits.ask_s, now);
    }

    fn subscribe(&mut self, key: &WatchKey, expires: u64, now: u64) {
        let number = self.next_number();
        let Some(watch) = self.watches.get_mut(key) else { return };
        watch.cseq += 1;
        watch.subscribes += 1;
        watch.last_subscribe = now;
        let contact = format!("sip:{}@{}", key.1, self.other);
        let (target, tag) = match watch.remote_tag.as_str() {
            "" => (contact.clone(), String::new()),
            tag => (watch.target.clone(), format!(";tag={tag}")),
        };
        let (call_id, local_tag, cseq) = (watch.call_id.clone(), watch.local_tag.clone(), watch.cseq);
        let branch = format!("z9hG4bKw{number}");
        let bytes = format!(
            "SUBSCRIBE {target} SIP/2.0\r\nVia: SIP/2.0/{} proxy.{};branch={branch}\r\nMax-Forwards: 70\r\n\
             From: <sip:{}@{}>;tag={local_tag}\r\nTo: <{contact}>{tag}\r\nCall-ID: {call_id}\r\n\
             CSeq: {cseq} SUBSCRIBE\r\nContact: {}\r\nEvent: presence\r\nAccept: application/pidf+xml\r\n\
             Expires: {expires}\r\nContent-Length: 0\r\n\r\n",
            self.via,
            self.domain,
            key.0,
            self.domain,
            self.contact(&key.0),
        )
        .into_bytes();
        self.call(branch, Purpose::Subscribe(key.clone(), call_id), bytes, now);
    }

    /// Lets go of the call; what was seen is gone with it.
    fn forget(&mut self, key: &WatchKey) {
        let Some(watch) = self.watches.get_mut(key) else { return };
        watch.call_id.clear();
        watch.remote_tag.clear();
        watch.state.clear();
        watch.view.clear();
        (watch.retry_at, watch.refresh_at, watch.expires_at) = (0, 0, 0);
    }

    fn unwatch(&mut self, key: &WatchKey, now: u64) {
        let Some(watch) = self.watches.get_mut(key) else { return };
        if !watch.wants {
            return;
        }
        watch.wants = false;
        if watch.remote_tag.is_empty() {
            // Not answered yet: the rest is ended by 481.
            self.forget(key);
            return;
        }
        watch.refresh_at = 0;
        watch.expires_at = now + TRANSACTION_MS;
        self.subscribe(key, 0, now);
    }

    /// The subscription is gone; if the user still wants it, it is asked for again.
    fn lost(&mut self, key: &WatchKey, after: u64, now: u64) {
        self.forget(key);
        if let Some(watch) = self.watches.get_mut(key).filter(|watch| watch.wants) {
            watch.retry_at = now + after;
        }
    }

    fn on_notify(&mut self, back: Option<LinkId>, request: &SipMessage, now: u64) {
        let of = |name: &str| request.header(name).unwrap_or_default();
        let (call_id, tag) = (of("call-id"), tag_of(of("to")));
        let found = self.watches.iter_mut().find(|(_, w)| {
            w.call_id == call_id
                && w.local_tag == tag
                && (w.remote_tag.is_empty() || w.remote_tag == tag_of(of("from")))
        });
        let Some((key, watch)) = found else { return self.answer(back, request, 481, "", "") };
        let key = key.clone();
        let cseq: u64 = of("cseq").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
        // The same one may come another way when a connection broke (RFC 3261 section
        // 12.2.2); an older one may have been held up.
        if cseq < watch.remote_cseq {
            if self.in_order {
                self.faults.push(format!("CSeq {cseq} after {} in {call_id}", watch.remote_cseq));
            }
            return self.answer(back, request, 500, "", "");
        }
        watch.remote_cseq = cseq;
        watch.remote_tag = tag_of(of("from"));
        watch.target = uri_of(of("contact")).into();
        watch.notifies += 1;
        let header = of("subscription-state").to_string();
        let state = header.split(';').next().unwrap_or_default().trim().to_string();
        let body = String::from_utf8_lossy(&request.body).into_owned();
        self.answer(back, request, 200, "", "");
        if state == "terminated" {
            let reason = parameter(&header, "reason").unwrap_or_default();
            let wait = parameter(&header, "retry-after").and_then(|s| s.parse::<u64>().ok()).map(|s| s * 1000);
            match reason.as_str() {
                "rejected" | "noresource" | "invariant" => {
                    if let Some(watch) = self.watches.get_mut(&key) {
                        watch.wants = false;
                    }
                    self.forget(&key);
                }
                "deactivated" | "timeout" => self.lost(&key, 1000, now),
                _ => self.lost(&key, wait.unwrap_or(30_000), now),
            }
            return;
        }
        let Some(watch) = self.watches.get_mut(&key) else { return };
        match parameter(&header, "expires").and_then(|s| s.parse::<u64>().ok()) {
            Some(left) => {
                watch.expires_at = now + left * 1000;
                watch.refresh_at = if watch.wants { now + left * 700 } else { 0 };
            }
            None => self.faults.push(format!("no expires in {header:?}")),
        }
        watch.state = state;
        if body.is_empty() {
            // Nothing is known.
            watch.view.clear();
            return;
        }
        if watch.state != "active" {
            self.faults.push(format!("a state though the subscription is {}", watch.state));
        }
        if let Some(before) = watch.last_state
            && before > watch.last_subscribe + 6000
        {
            let gap = now - before;
            watch.shortest = Some(watch.shortest.map_or(gap, |shortest| shortest.min(gap)));
        }
        (watch.last_state, watch.last_seen) = (Some(now), now);
        match read_document(&body, &key.1, &self.other) {
            Ok(view) => {
                for shown in view.values() {
                    if !shown.status.starts_with(&format!("{} to {} ", key.1, key.0)) {
                        self.faults.push(format!("{} is shown of {}: {:?}", key.0, key.1, shown.status));
                    }
                }
                watch.view = view;
            }
            Err(problem) => self.faults.push(format!("{problem}: {body}")),
        }
    }

    // ---- Both

    /// A message of the gateway's.
    pub fn receive(&mut self, back: Option<LinkId>, message: &SipMessage, now: u64) {
        let Some(branch) = message.branch().map(String::from) else {
            self.faults.push(format!("no branch in {}", message.start));
            return;
        };
        match message.status() {
            Some(status @ 200..) => {
                if let Some(call) = self.calls.remove(&branch) {
                    self.on_answer(call.purpose, status, Some(message), now);
                }
            }
            Some(_) => {}
            None => {
                if let Some(bytes) = self.answered.get(&branch) {
                    self.out.push(Out::Response(back, bytes.clone()));
                    return;
                }
                match message.method() {
                    Some("SUBSCRIBE") => self.on_subscribe(back, message, now),
                    Some("NOTIFY") => self.on_notify(back, message, now),
                    Some("OPTIONS" | "MESSAGE") => self.answer(back, message, 200, "o", ""),
                    _ => self.faults.push(format!("nobody asked for {}", message.start)),
                }
            }
        }
    }

    fn on_answer(&mut self, purpose: Purpose, status: u16, message: Option<&SipMessage>, now: u64) {
        match purpose {
            Purpose::Notify(number) => {
                let Some(s) = self.serving.get_mut(&number) else { return };
                s.busy = false;
                let fatal = matches!(status, 404 | 405 | 408 | 410 | 416 | 480..=485 | 489 | 501 | 604);
                if fatal || (s.ended.is_some() && !s.dirty) {
                    self.serving.remove(&number);
                } else {
                    self.notify(number, now);
                }
            }
            Purpose::Subscribe(key, call_id) => {
                let Some(watch) = self.watches.get_mut(&key).filter(|w| w.call_id == call_id) else { return };
                let header = |name: &str| message.and_then(|m| m.header(name)).unwrap_or_default().to_string();
                let wants = watch.wants;
                match status {
                    200..=299 => {
                        let expires: u64 = header("expires").parse().unwrap_or(3600);
                        watch.remote_tag = tag_of(&header("to"));
                        watch.target = uri_of(&header("contact")).to_string();
                        watch.expires_at = now + (expires * 1000).max(TRANSACTION_MS);
                        watch.refresh_at = if wants { now + expires * 700 } else { 0 };
                    }
                    403 | 404 | 603 => {
                        watch.wants = false;
                        self.forget(&key);
                    }
                    _ if !wants => self.forget(&key),
                    481 => self.lost(&key, 1000, now),
                    // A refresh that failed is tried again before the life ends.
                    _ if !watch.remote_tag.is_empty() => watch.refresh_at = now + 20_000,
                    _ => {
                        let wait = header("retry-after").parse::<u64>().unwrap_or(30);
                        self.lost(&key, wait.clamp(1, 120) * 1000, now);
                    }
                }
            }
        }
    }

    /// When `poll` has something to do.
    pub fn due(&self) -> Option<u64> {
        let calls = self.calls.values().map(|call| call.next.min(call.since + TRANSACTION_MS));
        let serving = self.serving.values().filter(|s| s.ended.is_none()).map(|s| s.expires_at);
        let watches = self.watches.values().flat_map(|w| [w.retry_at, w.refresh_at, w.expires_at]).filter(|at| *at > 0);
        calls.chain(serving).chain(watches).min()
    }

    /// Does what is due.
    pub fn poll(&mut self, now: u64) {
        let due: Vec<String> = self
            .calls
            .iter()
            .filter(|(_, c)| c.next.min(c.since + TRANSACTION_MS) <= now)
            .map(|(b, _)| b.clone())
            .collect();
        for branch in due {
            let Some(mut call) = self.calls.remove(&branch) else { continue };
            if now >= call.since + TRANSACTION_MS {
                self.on_answer(call.purpose, 408, None, now);
                continue;
            }
            self.out.push(Out::Request(call.bytes.clone()));
            call.interval = (call.interval * 2).min(4000);
            call.next = now + call.interval;
            self.calls.insert(branch, call);
        }
        let over: Vec<u64> = self
            .serving
            .iter()
            .filter(|(_, s)| s.ended.is_none() && s.expires_at <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in over {
            if let Some(s) = self.serving.get_mut(&number) {
                s.ended = Some("timeout");
                s.dirty = true;
            }
            self.notify(number, now);
        }
        for key in self.watches.keys().cloned().collect::<Vec<_>>() {
            let Some(watch) = self.watches.get_mut(&key) else { continue };
            if watch.retry_at > 0 && watch.retry_at <= now {
                self.begin(&key, now);
            } else if watch.expires_at > 0 && watch.expires_at <= now {
                self.lost(&key, 1000, now);
            } else if watch.refresh_at > 0 && watch.refresh_at <= now {
                watch.refresh_at = 0;
                self.subscribe(&key, self.habits.ask_s, now);
            }
        }
    }
}

/// What a PIDF document shows of `user`.
fn read_document(body: &str, user: &str, domain: &str) -> Result<View, String> {
    let root = parse_element(body, "")?;
    if root.name != "presence" || root.namespace != PIDF {
        return Err("not PIDF".into());
    }
    if root.attribute("entity") != Some(&format!("pres:{user}@{domain}")) {
        return Err("about somebody else".into());
    }
    let mut view = View::new();
    for tuple in root.elements().filter(|e| e.name == "tuple") {
        let status = tuple.child("status").ok_or("a tuple without a status")?;
        if status.child("basic").map(|basic| basic.text()).as_deref() != Some("open") {
            continue;
        }
        let show = status.child("show").map(|show| show.text()).unwrap_or_default();
        let note = tuple.child("note").map(|note| note.text()).unwrap_or_default();
        view.insert(client_of(tuple.attribute("id").unwrap_or_default()), Shown { show, status: note });
    }
    Ok(view)
}
