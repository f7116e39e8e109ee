//! A small SIP user agent over UDP: registers at Kamailio, sends MESSAGE, publishes and
//! watches presence, and answers what comes in at once, from a thread of its own. Shares
//! no code with the product.

use crate::Outcome;
use crate::xmpp::Element;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A SIP message: first line, header fields, body.
#[derive(Clone, Debug)]
pub struct Message {
    pub first: String,
    fields: Vec<(String, String)>,
    pub body: String,
}

impl Message {
    fn parse(datagram: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(datagram);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let first = lines.next()?.to_string();
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (long_name(name.trim()), value.trim().to_string())).collect();
        Some(Self { first, fields, body: body.to_string() })
    }

    /// The value of a header field, or nothing.
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// The values of a header field, each line one.
    fn all(&self, name: &str) -> Vec<String> {
        self.fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.clone()).collect()
    }

    /// The status of a response; 0 of a request.
    pub fn status(&self) -> u16 {
        self.first.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
    }

    fn branch(&self) -> &str {
        self.field("via").split_once("branch=").map_or("", |(_, rest)| rest.split([';', ',']).next().unwrap_or(""))
    }
}

fn long_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "v" => "via",
        "f" => "from",
        "t" => "to",
        "i" => "call-id",
        "l" => "content-length",
        "c" => "content-type",
        "s" => "subject",
        "m" => "contact",
        "o" => "event",
        other => other,
    }
    .to_string()
}

/// What the thread has heard and the test has not yet taken.
#[derive(Default)]
struct Heard {
    requests: Vec<Message>,
    /// All NOTIFYs, which are not among the requests.
    notifies: Vec<Message>,
    responses: Vec<Message>,
    branches: Vec<String>,
}

/// A dialog in which somebody's presence is watched (RFC 6665).
pub struct Watch {
    target: String,
    call_id: String,
    local_tag: String,
    remote_tag: String,
    remote_target: String,
    route: Vec<String>,
    cseq: u32,
}

/// A user with a phone.
pub struct Agent {
    uri: String,
    local: SocketAddr,
    proxy: SocketAddr,
    socket: Arc<UdpSocket>,
    heard: Arc<(Mutex<Heard>, Condvar)>,
    /// The status that incoming requests are answered with.
    pub answer: Arc<AtomicU16>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    count: u32,
    /// The entity tag of what we published (RFC 3903).
    etag: String,
}

impl Agent {
    /// An agent for `uri` on `local`, not registered yet.
    pub fn new(uri: &str, local: SocketAddr, proxy: SocketAddr) -> Outcome<Self> {
        let socket = Arc::new(UdpSocket::bind(local).map_err(|e| format!("SIP agent on {local}: {e}"))?);
        socket.set_read_timeout(Some(Duration::from_millis(50))).map_err(|e| e.to_string())?;
        let heard = Arc::new((Mutex::default(), Condvar::new()));
        let answer = Arc::new(AtomicU16::new(200));
        let ended = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (socket, heard, answer, ended) = (socket.clone(), heard.clone(), answer.clone(), ended.clone());
            move || {
                while !ended.load(Ordering::Relaxed) {
                    listen(&socket, &heard, &answer);
                }
            }
        });
        Ok(Self {
            uri: uri.into(),
            local,
            proxy,
            socket,
            heard,
            answer,
            ended,
            thread: Some(thread),
            count: 0,
            etag: String::new(),
        })
    }

    /// Registers `contact`, or our own address, in the place of all others.
    pub fn register(&mut self, contact: Option<SocketAddr>) -> Outcome {
        let domain = self.uri.split_once('@').map_or("", |(_, domain)| domain).to_string();
        let user = self.uri.trim_start_matches("sip:").split('@').next().unwrap_or("").to_string();
        let none = "Contact: *\r\nExpires: 0\r\n".to_string();
        let ours = format!("Contact: <sip:{user}@{}>\r\nExpires: 600\r\n", contact.unwrap_or(self.local));
        let (from, to) = (self.uri.clone(), self.uri.clone());
        for contact in [none, ours] {
            let branch = self.request("REGISTER", &format!("sip:{domain}"), &from, &to, &contact, "")?;
            let status = self.wait_final(&branch, Duration::from_secs(5))?.status();
            if status != 200 {
                return Err(format!("REGISTER of {} was answered {status}", self.uri));
            }
        }
        Ok(())
    }

    /// Sends a MESSAGE and waits for its final response.
    pub fn message(&mut self, to: &str, body: &str) -> Outcome<Message> {
        let branch = self.begin_message(to, body)?;
        self.wait_final(&branch, Duration::from_secs(40))
    }

    /// Sends a MESSAGE and gives its branch.
    pub fn begin_message(&mut self, to: &str, body: &str) -> Outcome<String> {
        let from = self.uri.clone();
        self.begin_message_from(&from, to, body)
    }

    /// Sends a MESSAGE that says it is from somebody else.
    pub fn begin_message_from(&mut self, from: &str, to: &str, body: &str) -> Outcome<String> {
        self.request("MESSAGE", to, from, to, "Content-Type: text/plain;charset=UTF-8\r\n", body)
    }

    fn request(
        &mut self,
        method: &str,
        target: &str,
        from: &str,
        to: &str,
        extra: &str,
        body: &str,
    ) -> Outcome<String> {
        self.count += 1;
        let unique = self.unique();
        let head = format!(
            "From: <{from}>;tag={unique}\r\nTo: <{to}>\r\nCall-ID: {unique}@agent\r\nCSeq: 1 {method}\r\n{extra}"
        );
        self.send(method, target, &unique, &head, body)
    }

    fn unique(&self) -> String {
        format!("{:x}{:x}{:x}", std::process::id(), self.local.port(), self.count)
    }

    fn send(&self, method: &str, target: &str, unique: &str, head: &str, body: &str) -> Outcome<String> {
        let branch = format!("z9hG4bK{unique}");
        let datagram = format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch={branch};rport\r\nMax-Forwards: 70\r\n\
             {head}Content-Length: {}\r\n\r\n{body}",
            self.local,
            body.len()
        );
        self.socket.send_to(datagram.as_bytes(), self.proxy).map_err(|e| format!("SIP agent: {e}"))?;
        Ok(branch)
    }

    /// Publishes how we are: `open` or not, what stands in `<status/>` besides, RPID
    /// elements of the person, a note. What was published before is replaced.
    pub fn publish(&mut self, open: bool, status: &str, person: &str, note: &str) -> Outcome {
        let aor = self.uri.trim_start_matches("sip:").to_string();
        let basic = if open { "open" } else { "closed" };
        let note = if note.is_empty() { String::new() } else { format!("<note>{note}</note>") };
        let person = if person.is_empty() {
            String::new()
        } else {
            format!("<dm:person id='p1'><rpid:activities>{person}</rpid:activities></dm:person>")
        };
        let body = format!(
            "<?xml version='1.0' encoding='UTF-8'?>\n<presence xmlns='urn:ietf:params:xml:ns:pidf' \
             xmlns:dm='urn:ietf:params:xml:ns:pidf:data-model' xmlns:rpid='urn:ietf:params:xml:ns:pidf:rpid' \
             entity='pres:{aor}'><tuple id='desk'><status><basic>{basic}</basic>{status}</status>\
             <contact>sip:{aor}</contact>{note}</tuple>{person}</presence>"
        );
        self.put(&body, 600)
    }

    /// Takes back what we published.
    pub fn unpublish(&mut self) -> Outcome {
        self.put("", 0)
    }

    fn put(&mut self, body: &str, expires: u32) -> Outcome {
        let mut extra = format!("Event: presence\r\nExpires: {expires}\r\n");
        if !self.etag.is_empty() {
            extra.push_str(&format!("SIP-If-Match: {}\r\n", self.etag));
        }
        if !body.is_empty() {
            extra.push_str("Content-Type: application/pidf+xml\r\n");
        }
        let uri = self.uri.clone();
        let mut publish = || {
            let branch = self.request("PUBLISH", &uri, &uri, &uri, &extra, body)?;
            self.wait_final(&branch, Duration::from_secs(5))
        };
        let mut answer = publish()?;
        if answer.status() == 500 {
            // SQLite, which the presence server keeps it in, was busy.
            std::thread::sleep(Duration::from_millis(500));
            answer = publish()?;
        }
        if answer.status() != 200 {
            return Err(format!("PUBLISH of {uri} was answered {}", answer.first));
        }
        self.etag = if expires == 0 { String::new() } else { answer.field("sip-etag").into() };
        Ok(())
    }

    /// Begins to watch somebody.
    pub fn watch(&mut self, target: &str, expires: u32) -> Outcome<Watch> {
        self.count += 1;
        let unique = self.unique();
        let mut watch = Watch {
            target: target.into(),
            call_id: format!("{unique}@agent"),
            local_tag: unique,
            remote_tag: String::new(),
            remote_target: target.into(),
            route: Vec::new(),
            cseq: 0,
        };
        let answer = self.rewatch(&mut watch, expires)?;
        if !(200..300).contains(&answer.status()) {
            return Err(format!("SUBSCRIBE of {} to {target} was answered {}", self.uri, answer.first));
        }
        Ok(watch)
    }

    /// Refreshes a watch, or ends it with 0 seconds; gives the final response.
    pub fn rewatch(&mut self, watch: &mut Watch, expires: u32) -> Outcome<Message> {
        self.count += 1;
        watch.cseq += 1;
        let to_tag = if watch.remote_tag.is_empty() { String::new() } else { format!(";tag={}", watch.remote_tag) };
        let route: String = watch.route.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let user = self.uri.trim_start_matches("sip:").split('@').next().unwrap_or("");
        let head = format!(
            "{route}From: <{}>;tag={}\r\nTo: <{}>{to_tag}\r\nCall-ID: {}\r\nCSeq: {} SUBSCRIBE\r\n\
             Contact: <sip:{user}@{}>\r\nEvent: presence\r\nAccept: application/pidf+xml\r\nExpires: {expires}\r\n",
            self.uri, watch.local_tag, watch.target, watch.call_id, watch.cseq, self.local
        );
        let branch = self.send("SUBSCRIBE", &watch.remote_target, &self.unique(), &head, "")?;
        let answer = self.wait_final(&branch, Duration::from_secs(40))?;
        if (200..300).contains(&answer.status()) && watch.remote_tag.is_empty() {
            watch.remote_tag = answer.field("to").split_once(";tag=").map_or("", |(_, tag)| tag).into();
            let routes = answer.all("record-route").join(",");
            watch.route = routes.split(',').rev().filter(|r| !r.is_empty()).map(|r| r.trim().into()).collect();
        }
        if let Some((_, rest)) = answer.field("contact").split_once('<') {
            watch.remote_target = rest.split('>').next().unwrap_or("").into();
        }
        Ok(answer)
    }

    /// Takes the SUBSCRIBE that somebody watches us by; it was answered already.
    pub fn wait_watcher(&self) -> Outcome<Message> {
        self.wait("SUBSCRIBE", Duration::from_secs(5), |heard| {
            let place = heard.requests.iter().position(|m| m.first.starts_with("SUBSCRIBE "))?;
            Some(heard.requests.remove(place))
        })
    }

    /// Tells the watcher who sent this SUBSCRIBE that he may watch; gives the final response.
    pub fn notify(&mut self, subscribe: &Message) -> Outcome<Message> {
        self.count += 1;
        let own = subscribe.field("to");
        let own = if own.contains(";tag=") { own.to_string() } else { format!("{own};tag=agent") };
        let route: String = subscribe.all("record-route").iter().map(|route| format!("Route: {route}\r\n")).collect();
        let contact = subscribe.field("contact").trim_start_matches('<').split('>').next().unwrap_or("");
        let head = format!(
            "{route}From: {own}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} NOTIFY\r\nContact: <sip:{}>\r\n\
             Event: presence\r\nSubscription-State: active;expires=60\r\n",
            subscribe.field("from"),
            subscribe.field("call-id"),
            self.count,
            self.local
        );
        let branch = self.send("NOTIFY", contact, &self.unique(), &head, "")?;
        self.wait_final(&branch, Duration::from_secs(5))
    }

    /// What the last NOTIFY of a watch said: the state of the subscription with its reason,
    /// then `closed` or of each open tuple `open`, its show, its note in brackets; nothing
    /// more without a body. `unheard` before the first.
    pub fn sees(&self, watch: &Watch) -> String {
        let heard = self.heard.0.lock().expect("the agent's thread did not panic");
        watch.sees(&heard)
    }

    /// Waits until the last NOTIFY of a watch says so.
    pub fn wait_sees(&self, watch: &Watch, wanted: &str, within: Duration) -> Outcome {
        let done = self.wait("a NOTIFY", within, |heard| {
            (watch.sees(heard) == wanted).then(|| heard.notifies.last().cloned()).flatten()
        });
        let seen = || format!("{} sees of {}: {:?}, wanted {wanted:?}", self.uri, watch.target, self.sees(watch));
        done.map(drop).map_err(|_| seen())
    }

    /// Waits for the final response of a branch.
    pub fn wait_final(&self, branch: &str, within: Duration) -> Outcome<Message> {
        self.wait(&format!("a final response to {branch}"), within, |heard| {
            let place = heard.responses.iter().position(|m| m.status() >= 200 && m.branch() == branch)?;
            Some(heard.responses.remove(place))
        })
    }

    /// Waits for the MESSAGE with this body.
    pub fn wait_message(&self, body: &str) -> Outcome<Message> {
        let cut: String = body.chars().take(40).collect();
        self.wait(&format!("MESSAGE {cut:?}"), Duration::from_secs(8), |heard| {
            let place = heard.requests.iter().position(|m| m.body == body)?;
            Some(heard.requests.remove(place))
        })
    }

    /// Waits for any MESSAGE whose body fits.
    pub fn wait_message_like(&self, what: &str, fits: impl Fn(&str) -> bool) -> Outcome<Message> {
        self.wait(what, Duration::from_secs(8), |heard| {
            let place = heard.requests.iter().position(|m| fits(&m.body))?;
            Some(heard.requests.remove(place))
        })
    }

    /// All requests heard so far.
    pub fn requests(&self) -> Vec<Message> {
        std::mem::take(&mut self.heard.0.lock().expect("the agent's thread did not panic").requests)
    }

    fn wait(
        &self,
        what: &str,
        within: Duration,
        mut take: impl FnMut(&mut Heard) -> Option<Message>,
    ) -> Outcome<Message> {
        let end = Instant::now() + within;
        let (heard, changed) = &*self.heard;
        let mut heard = heard.lock().expect("the agent's thread did not panic");
        loop {
            if let Some(message) = take(&mut heard) {
                return Ok(message);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let have: Vec<&str> = heard.requests.iter().chain(&heard.responses).map(|m| &*m.first).collect();
                return Err(format!("{} waited for {what}; has {have:?}", self.uri));
            }
            heard = changed.wait_timeout(heard, left).expect("the agent's thread did not panic").0;
        }
    }
}

impl Watch {
    fn sees(&self, heard: &Heard) -> String {
        let number = |m: &Message| m.field("cseq").split(' ').next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
        let ours = heard.notifies.iter().filter(|m| m.field("call-id") == self.call_id);
        let Some(notify) = ours.max_by_key(|m| number(m)) else { return "unheard".into() };
        let mut words = Vec::new();
        for (place, part) in notify.field("subscription-state").split(';').map(str::trim).enumerate() {
            if place == 0 || part.starts_with("reason=") {
                words.push(part.trim_start_matches("reason=").to_string());
            }
        }
        if !notify.body.trim().is_empty() {
            match Element::parse(&notify.body) {
                Ok(document) => words.extend(in_words(&document)),
                Err(why) => words.push(why),
            }
        }
        words.join(" ")
    }
}

/// What a PIDF document says.
fn in_words(document: &Element) -> Vec<String> {
    let mut words = Vec::new();
    for tuple in document.children.iter().filter(|child| child.name == "tuple") {
        let Some(status) = tuple.child("status") else { continue };
        if status.text_of("basic") == "open" {
            words.push("open".into());
            words.extend(status.child("show").map(|show| show.text.clone()));
            words.extend(tuple.child("note").map(|note| format!("({})", note.text)));
        }
    }
    if words.is_empty() { vec!["closed".into()] } else { words }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(socket: &UdpSocket, heard: &(Mutex<Heard>, Condvar), answer: &AtomicU16) {
    let mut buffer = [0; 65_536];
    let Ok((count, from)) = socket.recv_from(&mut buffer) else { return };
    let Some(message) = Message::parse(&buffer[..count]) else { return };
    let mut state = heard.0.lock().expect("the test did not panic with the lock");
    if message.status() > 0 {
        state.responses.push(message);
    } else {
        let contact = socket.local_addr().map(|a| a.to_string()).unwrap_or_default();
        let _ = socket.send_to(&response(&message, answer.load(Ordering::Relaxed), &contact), from);
        let branch = message.branch().to_string();
        if !state.branches.contains(&branch) {
            state.branches.push(branch);
            let is_notify = message.first.starts_with("NOTIFY ");
            if is_notify { &mut state.notifies } else { &mut state.requests }.push(message);
        }
    }
    heard.1.notify_all();
}

fn response(request: &Message, status: u16, contact: &str) -> Vec<u8> {
    let mut text = format!("SIP/2.0 {status} Answer\r\n");
    for (name, value) in &request.fields {
        match name.as_str() {
            "via" | "from" | "call-id" | "cseq" => text.push_str(&format!("{name}: {value}\r\n")),
            "to" if value.contains(";tag=") => text.push_str(&format!("to: {value}\r\n")),
            "to" => text.push_str(&format!("to: {value};tag=agent\r\n")),
            "record-route" => text.push_str(&format!("record-route: {value}\r\n")),
            _ => {}
        }
    }
    if request.first.starts_with("SUBSCRIBE ") {
        text.push_str(&format!("Contact: <sip:{contact}>\r\nExpires: {}\r\n", request.field("expires")));
    }
    text.push_str("Content-Length: 0\r\n\r\n");
    text.into_bytes()
}
