//! An Edge with its users: it writes requests in the shapes that a front end and an Edge
//! give them, answers what comes in from the threads of its connections, and holds the
//! gateway to the rules of transactions and dialogs. Shares no code with the product.
//!
//! What breaks a rule is kept in a list of faults, which every scenario looks at in the
//! end: [`Edge::honest`].

mod rules;

use crate::message::{Framed, Message, parameter};
use crate::wire::{Link, Papers, listen};
use crate::{Outcome, ensure};
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What the SDP of a session for messages says it takes.
const TYPES: &str = "text/plain multipart/alternative image/gif text/rtf text/html application/x-ms-ink \
                     application/ms-imdn+xml text/x-msmsgsinvite";
const AGENT: &str = "UCCAPI/16.0.5134.1000 OC/16.0.5134.1000 (Skype for Business)";
/// How long a client waits for an answer to a request.
pub const ANSWERED: Duration = Duration::from_secs(12);

/// So that no two Edges give the same numbers.
static EDGES: AtomicU64 = AtomicU64::new(0);

/// How a request of the gateway's is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// 200, with what belongs to it; an INVITE rings before.
    Take,
    /// 200 with further header lines and a body.
    With(Vec<String>, &'static str, String),
    /// Another status with its reason, and header lines.
    Refuse(u16, &'static str, Vec<String>),
    /// Nothing, unless the test answers itself.
    Hold,
}

/// A dialog, as the Edge's side has it.
#[derive(Clone, Debug, Default)]
pub struct Dialog {
    pub call: String,
    /// Our side as we write it, with tag and epid; and the other side.
    pub local: String,
    pub remote: String,
    local_tag: String,
    pub remote_tag: String,
    local_cseq: u32,
    remote_cseq: Option<u32>,
    /// What the gateway has to say in Route, in this order.
    pub routes: Vec<String>,
    /// Where the gateway has to send its requests: our Contact.
    target: String,
    /// The Contact of the gateway.
    pub remote_target: String,
    link: usize,
}

/// A request that we sent.
#[derive(Clone, Debug)]
struct Sent {
    link: usize,
    method: String,
    vias: Vec<String>,
    from: String,
    to: String,
    call: String,
    cseq: u32,
    target: String,
    record_routes: Vec<String>,
    finals: u32,
}

#[derive(Default)]
struct Heard {
    requests: Vec<Message>,
    responses: Vec<Message>,
    dialogs: BTreeMap<String, Dialog>,
    sent: BTreeMap<String, Sent>,
    branches: BTreeSet<String>,
    /// The To tags that we gave, by branch.
    tags: BTreeMap<String, String>,
    /// Branches of INVITEs that we refused: their ACKs belong to no dialog.
    refused: BTreeSet<String>,
    next: BTreeMap<String, VecDeque<Answer>>,
    always: BTreeMap<String, Answer>,
    faults: Vec<String>,
    line_ends: u32,
}

struct Shared {
    domain: String,
    host: String,
    address: IpAddr,
    number: AtomicU64,
    heard: Mutex<Heard>,
    changed: Condvar,
    links: Mutex<Vec<Arc<Link>>>,
    count: AtomicUsize,
    ended: AtomicBool,
    verified: AtomicBool,
}

/// An Edge of one domain.
pub struct Edge {
    shared: Arc<Shared>,
    papers: Papers,
    pub gateway: SocketAddr,
    pub gateway_name: String,
    current: Mutex<Option<Arc<Link>>>,
}

/// Somebody at a client of the domain.
#[derive(Clone, Debug)]
pub struct User {
    pub address: String,
    display: String,
    epid: String,
    gruu: String,
}

/// The first text of a session, in its forms.
#[derive(Clone, Copy, Default)]
pub struct First<'a> {
    pub plain: &'a str,
    pub html: &'a str,
    pub rtf: &'a str,
}

/// A session for messages.
pub struct Talk<'a> {
    edge: &'a Edge,
    pub call: String,
}

impl Edge {
    /// An Edge that listens at `ports` of `address`.
    pub fn new(
        domain: &str,
        host: &str,
        address: IpAddr,
        ports: &[u16],
        papers: Papers,
        gateway: SocketAddr,
        gateway_name: &str,
    ) -> Outcome<Self> {
        let shared = Arc::new(Shared {
            domain: domain.into(),
            host: host.into(),
            address,
            number: AtomicU64::new(EDGES.fetch_add(1 << 40, Ordering::Relaxed) + (u64::from(std::process::id()) << 20)),
            heard: Mutex::default(),
            changed: Condvar::new(),
            links: Mutex::default(),
            count: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            verified: AtomicBool::new(true),
        });
        let config = papers.server()?;
        for port in ports {
            let listener = listen(SocketAddr::new(address, *port))?;
            let (shared, config) = (shared.clone(), config.clone());
            std::thread::spawn(move || {
                while !shared.ended.load(Ordering::Relaxed) {
                    let Ok((socket, _)) = listener.accept() else {
                        std::thread::sleep(Duration::from_millis(10));
                        continue;
                    };
                    let _ = socket.set_nonblocking(false);
                    let (shared, config) = (shared.clone(), config.clone());
                    std::thread::spawn(move || {
                        // A handshake that fails leaves no connection.
                        if let Ok(link) = Link::accept(socket, config, shared.next_link()) {
                            shared.links.lock().expect("no panic with it").push(link.clone());
                            serve(&shared, &link);
                        }
                    });
                }
            });
        }
        Ok(Self { shared, papers, gateway, gateway_name: gateway_name.into(), current: Mutex::default() })
    }

    pub fn domain(&self) -> &str {
        &self.shared.domain
    }

    /// A user with a display name that is not ASCII.
    pub fn user(&self, name: &str) -> User {
        User::of(name, self.domain())
    }

    /// The connection that requests go out on: the last one we opened, or a new one.
    pub fn link(&self) -> Outcome<Arc<Link>> {
        let open = self.current.lock().expect("no panic with it").clone().filter(|link| !link.is_closed());
        open.map_or_else(|| self.new_link(), Ok)
    }

    /// Opens a connection from a port of its own.
    pub fn new_link(&self) -> Outcome<Arc<Link>> {
        self.link_with(&self.papers)
    }

    pub fn link_with(&self, papers: &Papers) -> Outcome<Arc<Link>> {
        let from = SocketAddr::new(self.shared.address, 0);
        let link = Link::connect(from, self.gateway, &self.gateway_name, papers.client()?, self.shared.next_link())?;
        self.shared.links.lock().expect("no panic with it").push(link.clone());
        let (shared, served) = (self.shared.clone(), link.clone());
        std::thread::spawn(move || serve(&shared, &served));
        *self.current.lock().expect("no panic with it") = Some(link.clone());
        Ok(link)
    }

    /// All connections there have been.
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.shared.links.lock().expect("no panic with it").clone()
    }

    /// How the next request with this method is answered.
    pub fn next(&self, method: &str, answer: Answer) {
        self.heard().next.entry(method.into()).or_default().push_back(answer);
    }

    /// How all further requests with this method are answered.
    pub fn always(&self, method: &str, answer: Answer) {
        self.heard().always.insert(method.into(), answer);
    }

    /// Do our requests say that their sender was verified?
    pub fn say_verified(&self, yes: bool) {
        self.shared.verified.store(yes, Ordering::Relaxed);
    }

    /// Fails when the gateway broke a rule.
    pub fn honest(&self) -> Outcome {
        let faults = self.heard().faults.clone();
        ensure(faults.is_empty(), || format!("the gateway broke rules: {faults:#?}"))
    }

    /// Line ends between messages that came.
    pub fn line_ends(&self) -> u32 {
        self.heard().line_ends
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.shared.heard.lock().expect("no thread panics with what was heard")
    }

    // ---- Requests of ours

    /// Sends a request of a user's that is in no dialog; gives its branch and Call-ID.
    pub fn begin(
        &self,
        user: &User,
        method: &str,
        to: &str,
        extra: &[String],
        kind: &str,
        body: &str,
    ) -> Outcome<(String, String)> {
        let link = self.link()?;
        self.begin_on(&link, user, method, to, extra, kind, body)
    }

    #[allow(clippy::too_many_arguments)] // Each is a part of the request.
    pub fn begin_on(
        &self,
        link: &Link,
        user: &User,
        method: &str,
        to: &str,
        extra: &[String],
        kind: &str,
        body: &str,
    ) -> Outcome<(String, String)> {
        let shared = &self.shared;
        let (call, tag) = (shared.hex(32), shared.hex(10));
        let from = format!("\"{}\"<sip:{}>;tag={tag};epid={}", user.display, user.address, user.epid);
        let remote = format!("<sip:{to}>");
        let routes = shared.record_routes();
        let target = user.gruu.clone();
        let branch = shared.branch();
        if matches!(method, "INVITE" | "SUBSCRIBE") {
            let dialog = Dialog {
                call: call.clone(),
                local: from.clone(),
                remote: remote.clone(),
                local_tag: tag,
                local_cseq: 1,
                routes: routes.clone(),
                target: target.clone(),
                link: link.number,
                ..Dialog::default()
            };
            self.heard().dialogs.insert(call.clone(), dialog);
        }
        let sent = Sent {
            link: link.number,
            method: method.into(),
            vias: shared.vias(link, &branch),
            from,
            to: remote,
            call: call.clone(),
            cseq: 1,
            target: format!("sip:{to}"),
            record_routes: routes,
            finals: 0,
        };
        let contact = format!("Contact: <{target}>");
        self.transmit(link, &branch, sent, Some(&contact), extra, kind, body)?;
        Ok((branch, call))
    }

    /// The same, and waits for the final response; an INVITE is acknowledged.
    pub fn ask(
        &self,
        user: &User,
        method: &str,
        to: &str,
        extra: &[String],
        kind: &str,
        body: &str,
    ) -> Outcome<(Message, String)> {
        let (branch, call) = self.begin(user, method, to, extra, kind, body)?;
        Ok((self.finish(&branch, ANSWERED)?, call))
    }

    /// Waits for the final response of a branch, and acknowledges an INVITE's.
    pub fn finish(&self, branch: &str, within: Duration) -> Outcome<Message> {
        let answer = self.wait(&format!("a final response to {branch}"), within, |heard| {
            let place = heard.responses.iter().position(|m| m.status() >= 200 && m.branch() == branch)?;
            Some(heard.responses.remove(place))
        })?;
        if answer.method() == "INVITE" {
            self.acknowledge(branch, &answer)?;
        }
        Ok(answer)
    }

    fn acknowledge(&self, branch: &str, answer: &Message) -> Outcome {
        let sent = self.heard().sent.get(branch).cloned().ok_or("an answer to nothing")?;
        let link = self.link_number(sent.link)?;
        let is_good = answer.status() < 300;
        let target = if is_good { answer.uri("contact").to_string() } else { sent.target.clone() };
        let vias = if is_good { self.shared.vias(&link, &self.shared.branch()) } else { sent.vias[..1].to_vec() };
        let ack = Sent {
            vias,
            to: answer.field("to").into(),
            target,
            method: "ACK".into(),
            record_routes: Vec::new(),
            ..sent
        };
        link.send(self.shared.written(&ack, None, &[], "", "").as_bytes())
    }

    /// Sends a request in a dialog; gives its branch.
    pub fn begin_inside(&self, call: &str, method: &str, extra: &[String], kind: &str, body: &str) -> Outcome<String> {
        let dialog = {
            let mut heard = self.heard();
            let dialog = heard.dialogs.get_mut(call).ok_or("no such dialog")?;
            dialog.local_cseq += 1;
            dialog.clone()
        };
        let link = self.link_number(dialog.link).or_else(|_| self.link())?;
        let branch = self.shared.branch();
        let sent = Sent {
            link: link.number,
            method: method.into(),
            vias: self.shared.vias(&link, &branch),
            from: dialog.local.clone(),
            to: dialog.remote.clone(),
            call: call.into(),
            cseq: dialog.local_cseq,
            target: dialog.remote_target.clone(),
            record_routes: Vec::new(),
            finals: 0,
        };
        let contact = format!("Contact: <{}>", dialog.target);
        let contact =
            matches!(method, "SUBSCRIBE" | "NOTIFY" | "BENOTIFY" | "INVITE" | "UPDATE" | "REFER").then_some(contact);
        self.transmit(&link, &branch, sent, contact.as_deref(), extra, kind, body)?;
        Ok(branch)
    }

    /// The same, and waits for the final response.
    pub fn inside(&self, call: &str, method: &str, extra: &[String], kind: &str, body: &str) -> Outcome<Message> {
        let branch = self.begin_inside(call, method, extra, kind, body)?;
        self.finish(&branch, ANSWERED)
    }

    /// Takes back an INVITE; gives the answer to the CANCEL.
    pub fn cancel(&self, invite: &str) -> Outcome<Message> {
        let sent = self.heard().sent.get(invite).cloned().ok_or("no such INVITE")?;
        let link = self.link_number(sent.link)?;
        let cancel = Sent {
            method: "CANCEL".into(),
            vias: sent.vias[..1].to_vec(),
            record_routes: Vec::new(),
            finals: 0,
            ..sent
        };
        link.send(self.shared.written(&cancel, None, &[], "", "").as_bytes())?;
        self.wait("an answer to the CANCEL", ANSWERED, |heard| {
            let place = heard.responses.iter().position(|m| m.method() == "CANCEL" && m.branch() == invite)?;
            Some(heard.responses.remove(place))
        })
    }

    #[allow(clippy::too_many_arguments)] // Each is a part of the request.
    fn transmit(
        &self,
        link: &Link,
        branch: &str,
        sent: Sent,
        contact: Option<&str>,
        extra: &[String],
        kind: &str,
        body: &str,
    ) -> Outcome {
        let octets = self.shared.written(&sent, contact, extra, kind, body);
        if sent.method != "BENOTIFY" {
            self.heard().sent.insert(branch.into(), sent);
        }
        link.send(octets.as_bytes())
    }

    fn link_number(&self, number: usize) -> Outcome<Arc<Link>> {
        let link = self.links().into_iter().find(|link| link.number == number && !link.is_closed());
        link.ok_or_else(|| format!("connection {number} is closed"))
    }

    // ---- What came

    /// Waits for a request with this method, and takes it.
    pub fn wait_request(&self, method: &str, within: Duration) -> Outcome<Message> {
        self.wait_request_like(method, within, |_| true)
    }

    pub fn wait_request_like(
        &self,
        method: &str,
        within: Duration,
        fits: impl Fn(&Message) -> bool,
    ) -> Outcome<Message> {
        self.wait(&format!("a {method}"), within, |heard| {
            let place = heard.requests.iter().position(|m| m.method() == method && fits(m))?;
            Some(heard.requests.remove(place))
        })
    }

    /// Takes all requests with this method that came, after a moment.
    pub fn requests(&self, method: &str, after: Duration) -> Vec<Message> {
        std::thread::sleep(after);
        let mut heard = self.heard();
        let (taken, left) = std::mem::take(&mut heard.requests).into_iter().partition(|m| m.method() == method);
        heard.requests = left;
        taken
    }

    /// Fails if such a request comes in that time, or has come.
    pub fn never(&self, method: &str, within: Duration) -> Outcome {
        match self.wait_request(method, within) {
            Ok(request) => Err(format!("there came {}", request.first)),
            Err(_) => Ok(()),
        }
    }

    /// Provisional responses to a branch.
    pub fn provisional(&self, branch: &str) -> Vec<u16> {
        let heard = self.heard();
        heard.responses.iter().filter(|m| m.status() < 200 && m.branch() == branch).map(Message::status).collect()
    }

    /// Takes a response to a method that was written by hand.
    pub fn take_response(&self, method: &str, within: Duration) -> Outcome<Message> {
        self.wait(&format!("an answer to {method}"), within, |heard| {
            let place = heard.responses.iter().position(|m| m.status() >= 200 && m.method() == method)?;
            // It answers nothing that the player wrote.
            heard.faults.retain(|fault| !fault.starts_with("it answers nothing"));
            Some(heard.responses.remove(place))
        })
    }

    /// The session of this Call-ID.
    pub fn talk_by(&self, call: &str) -> Talk<'_> {
        Talk { edge: self, call: call.into() }
    }

    /// The session that the gateway opened with this INVITE.
    pub fn talk(&self, invite: &Message) -> Talk<'_> {
        Talk { edge: self, call: invite.field("call-id").into() }
    }

    /// Waits until the gateway opens a session, and acknowledges our answer.
    pub fn wait_talk(&self, to: &User, within: Duration) -> Outcome<Talk<'_>> {
        let invite = self.wait_request_like("INVITE", within, |m| m.uri("to") == format!("sip:{}", to.address))?;
        self.wait_request_like("ACK", within, |m| m.field("call-id") == invite.field("call-id"))?;
        Ok(self.talk(&invite))
    }

    /// Answers a request that was held.
    pub fn respond(&self, request: &Message, answer: &Answer) -> Outcome {
        let link = self.link_number(request.link)?;
        let mut heard = self.heard();
        let responses = self.shared.answered(&mut heard, request, answer);
        drop(heard);
        responses.iter().try_for_each(|response| link.send(response.as_bytes()))
    }

    fn wait<T>(&self, what: &str, within: Duration, mut take: impl FnMut(&mut Heard) -> Option<T>) -> Outcome<T> {
        let end = Instant::now() + within;
        let mut heard = self.heard();
        loop {
            if let Some(found) = take(&mut heard) {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let have: Vec<&str> = heard.requests.iter().chain(&heard.responses).map(|m| &*m.first).collect();
                return Err(format!("{} waited for {what}; has {have:?}; faults {:?}", self.domain(), heard.faults));
            }
            heard = self.shared.changed.wait_timeout(heard, left).expect("no thread panics with it").0;
        }
    }

    // ---- Sessions and watches

    /// Opens a session with the first text in headers; the answer must be 200.
    pub fn invite(&self, user: &User, to: &str, first: First<'_>) -> Outcome<Talk<'_>> {
        let (answer, call) = self.ask(user, "INVITE", to, &first.lines(user, to), "application/sdp", &offer("null"))?;
        ensure(answer.status() == 200, || format!("the INVITE was answered {}", answer.first))?;
        ensure(answer.body.contains("m=message"), || format!("no m=message in {:?}", answer.body))?;
        ensure(answer.field("content-type") == "application/sdp", || answer.field("content-type").into())?;
        Ok(Talk { edge: self, call })
    }

    /// Begins to watch an XMPP user; gives the answer and the Call-ID.
    pub fn subscribe(&self, user: &User, to: &str, expires: u32) -> Outcome<(Message, String)> {
        self.ask(user, "SUBSCRIBE", to, &watching(expires), "", "")
    }

    /// Waits for the next NOTIFY of a watch whose words fit.
    pub fn wait_notify(&self, call: &str, within: Duration, fits: impl Fn(&str) -> bool) -> Outcome<Message> {
        let mut last = String::from("nothing");
        let found = self.wait("a NOTIFY", within, |heard| {
            let ours = |m: &Message| matches!(m.method(), "NOTIFY" | "BENOTIFY") && m.field("call-id") == call;
            while let Some(place) = heard.requests.iter().position(ours) {
                let notify = heard.requests.remove(place);
                last = crate::documents::in_words(&notify);
                if fits(&last) {
                    return Some(notify);
                }
            }
            None
        });
        found.map_err(|why| format!("{why}; the last NOTIFY said {last:?}"))
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for link in self.links() {
            link.close();
        }
    }
}

impl Talk<'_> {
    /// Sends a plain text; the answer must be 200.
    pub fn text(&self, text: &str) -> Outcome {
        self.content("text/plain; charset=UTF-8", text)
    }

    pub fn content(&self, kind: &str, body: &str) -> Outcome {
        let answer = self.edge.inside(&self.call, "MESSAGE", &supported(), kind, body)?;
        ensure(answer.status() == 200, || format!("the MESSAGE was answered {}", answer.first))
    }

    /// Says that somebody types, or that he stopped.
    pub fn typing(&self, on: bool) -> Outcome {
        let status = if on { "type" } else { "idle" };
        let body =
            format!("<?xml version=\"1.0\"?><KeyboardActivity><status status=\"{status}\" /></KeyboardActivity>");
        let answer = self.edge.inside(&self.call, "INFO", &supported(), "application/xml", &body)?;
        ensure(answer.status() == 200, || format!("the INFO was answered {}", answer.first))
    }

    /// Ends the session.
    pub fn bye(&self) -> Outcome {
        let line = "ms-client-diagnostics: 51004; reason=\"Action initiated by user\"".to_string();
        let answer = self.edge.inside(&self.call, "BYE", &[line], "", "")?;
        ensure(answer.status() == 200, || format!("the BYE was answered {}", answer.first))
    }

    /// Waits for the next MESSAGE of the gateway in this session; gives its text.
    pub fn wait_text(&self, within: Duration) -> Outcome<String> {
        let call = &self.call;
        Ok(self.edge.wait_request_like("MESSAGE", within, |m| m.field("call-id") == call)?.body)
    }
}

impl First<'_> {
    /// The header lines that an INVITE carries the text in, with those around them.
    pub fn lines(&self, user: &User, to: &str) -> Vec<String> {
        let mut lines = vec!["Supported: ms-dialog-route-set-update".to_string()];
        if !self.plain.is_empty() {
            let body = Base64::encode_string(self.plain.as_bytes());
            lines.push(format!("ms-text-format: text/plain; charset=UTF-8; ms-body={body}"));
        }
        for (kind, text) in [("text/html", self.html), ("text/rtf", self.rtf)] {
            if !text.is_empty() {
                let body = Base64::encode_string(text.as_bytes());
                lines.push(format!("ms-im-format: {kind}; charset=UTF-8; ms-body={body}"));
            }
        }
        for tag in [
            "ms-embedded-first-message",
            "ms-delayed-accept",
            "ms-renders-isf",
            "ms-renders-gif",
            "ms-renders-mime-alternative",
        ] {
            lines.push(format!("Supported: {tag}"));
        }
        lines.push(format!("Ms-Conversation-ID: {}", Base64::encode_string(to.as_bytes())));
        for tag in ["timer", "histinfo", "ms-safe-transfer", "ms-sender", "ms-early-media"] {
            lines.push(format!("Supported: {tag}"));
        }
        lines.push(format!("Roster-Manager: sip:{}", user.address));
        lines.push(format!("EndPoints: <sip:{}>, <sip:{to}>", user.address));
        lines.push("Supported: com.microsoft.rtc-multiparty".into());
        lines.push("ms-keep-alive: UAC;hop-hop=yes".into());
        lines.push("Allow: INVITE, BYE, ACK, CANCEL, INFO, MESSAGE, UPDATE, REFER, NOTIFY, BENOTIFY".into());
        lines.push("ms-subnet: 10.44.8.0".into());
        lines.push("Supported: ms-conf-invite".into());
        lines.push(format!("history-info: <sip:{to}>;index=1"));
        lines
    }
}

/// The lines of a SUBSCRIBE for presence.
pub fn watching(expires: u32) -> Vec<String> {
    vec![
        "Event: presence".into(),
        "Accept: application/msrtc-event-categories+xml, application/xpidf+xml, text/xml+msrtc.pidf, \
         application/pidf+xml, application/rlmi+xml, multipart/related"
            .into(),
        "Supported: com.microsoft.autoextend".into(),
        "Supported: ms-piggyback-first-notify".into(),
        "Supported: ms-benotify".into(),
        "Proxy-Require: ms-benotify".into(),
        format!("Expires: {expires}"),
    ]
}

/// The lines of what follows in a session.
pub fn supported() -> Vec<String> {
    vec!["Supported: ms-dialog-route-set-update".into(), "Supported: timer".into()]
}

/// The SDP of a session for messages.
pub fn offer(format: &str) -> String {
    format!(
        "v=0\r\no=- 0 0 IN IP4 10.44.8.31\r\ns=session\r\nc=IN IP4 10.44.8.31\r\nt=0 0\r\n\
         m=message 5060 sip {format}\r\na=accept-types:{TYPES}\r\n"
    )
}

/// Reads a connection to its end.
fn serve(shared: &Arc<Shared>, link: &Arc<Link>) {
    let mut buffer = Vec::new();
    while !shared.ended.load(Ordering::Relaxed) && link.read(&mut buffer) {
        loop {
            match Message::take(&mut buffer, link.number) {
                Ok(Framed::Partial) => break,
                Ok(Framed::LineEnd) => shared.heard.lock().expect("no panic with it").line_ends += 1,
                Ok(Framed::Whole(message)) => on_message(shared, link, *message),
                Err(why) => {
                    shared.fault(why);
                    link.close();
                    return;
                }
            }
        }
        shared.changed.notify_all();
    }
    shared.changed.notify_all();
}

fn on_message(shared: &Shared, link: &Link, message: Message) {
    let mut heard = shared.heard.lock().expect("no panic with it");
    if message.status() > 0 {
        heard.check_response(&message);
        heard.responses.push(message);
        return;
    }
    heard.check_request(&message);
    let method = message.method().to_string();
    let queued = heard.next.get_mut(&method).and_then(VecDeque::pop_front);
    let answer = queued.or_else(|| heard.always.get(&method).cloned()).unwrap_or(Answer::Take);
    let responses = shared.answered(&mut heard, &message, &answer);
    drop(heard);
    for response in responses {
        let _ = link.send(response.as_bytes());
    }
    // Only now: what the test does next shall not overtake the answer.
    shared.heard.lock().expect("no panic with it").requests.push(message);
}

impl Shared {
    fn fault(&self, what: String) {
        self.heard.lock().expect("no panic with it").fault(what);
    }

    fn next_link(&self) -> usize {
        self.count.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A number that looks like chance and is never given twice.
    fn chance(&self) -> u64 {
        let mut x = self.number.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn hex(&self, digits: usize) -> String {
        let mut text = String::new();
        while text.len() < digits {
            let _ = write!(text, "{:016x}", self.chance());
        }
        text.truncate(digits);
        text
    }

    fn opaque(&self, length: usize) -> String {
        let octets: Vec<u8> = (0..length).flat_map(|_| self.chance().to_be_bytes()).take(length).collect();
        let mut text = Base64UrlUnpadded::encode_string(&octets);
        text.truncate(length);
        text
    }

    fn branch(&self) -> String {
        format!("z9hG4bK{}.{}", self.hex(8).to_uppercase(), self.hex(16).to_uppercase())
    }

    /// What an Edge and the pool behind it put on a route: together more than 1 KB.
    fn record_routes(&self) -> Vec<String> {
        let (host, domain) = (&self.host, &self.domain);
        vec![
            format!(
                "<sip:{host}:5061;transport=tls;lr;ms-key-info=AAEAA{};ms-route-sig={}>;tag={}",
                self.opaque(890),
                self.opaque(44),
                self.hex(32).to_uppercase()
            ),
            format!(
                "<sip:pool2.inner.{domain}:5061;transport=tls;ms-fe=fe7.inner.{domain};opaque=state:T;lr>;tag={}",
                self.hex(32).to_uppercase()
            ),
        ]
    }

    /// The hops of a request: ours with the port of the connection, the pool, the client,
    /// whose Via has no branch.
    fn vias(&self, link: &Link, branch: &str) -> Vec<String> {
        vec![
            format!(
                "SIP/2.0/TLS {};branch={branch};branched=FALSE;ms-internal-info=\"{}\"",
                link.local,
                self.opaque(56)
            ),
            format!(
                "SIP/2.0/TLS 10.44.0.7:61288;branch={};branched=FALSE;ms-received-port=61288;ms-received-cid={}",
                self.branch(),
                self.hex(7).to_uppercase()
            ),
            format!(
                "SIP/2.0/TLS 10.44.8.31:52110;ms-received-port=52110;ms-received-cid={}",
                self.hex(6).to_uppercase()
            ),
        ]
    }

    /// A request as its octets: nothing that belongs together stands together.
    fn written(&self, sent: &Sent, contact: Option<&str>, extra: &[String], kind: &str, body: &str) -> String {
        let (method, target) = (&sent.method, &sent.target);
        let mut text = format!("{method} {target} SIP/2.0\r\n");
        let mut line = |line: &str| text.push_str(&format!("{line}\r\n"));
        if let Some(route) = sent.record_routes.first() {
            line(&format!("Record-Route: {route}"));
        }
        line(&format!("Via: {}", sent.vias[0]));
        if self.verified.load(Ordering::Relaxed) {
            line("ms-asserted-verification-level: ms-source-verified-user=verified");
        }
        line("Max-Forwards: 66");
        line(&format!("Content-Length: {}", body.len()));
        if let Some(via) = sent.vias.get(1) {
            line(&format!("Via: {via}"));
        }
        line(&format!("From: {}", sent.from));
        if let Some(via) = sent.vias.get(2) {
            line(&format!("Via: {via}"));
        }
        if let Some(route) = sent.record_routes.get(1) {
            line(&format!("Record-Route: {route}"));
        }
        line(&format!("To: {}", sent.to));
        line(&format!("Call-ID: {}", sent.call));
        line(&format!("CSeq: {} {method}", sent.cseq));
        if let Some(contact) = contact {
            line(contact);
        }
        line(&format!("User-Agent: {AGENT}"));
        extra.iter().for_each(|extra| line(extra));
        if !kind.is_empty() {
            line(&format!("Content-Type: {kind}"));
        }
        text.push_str("\r\n");
        text.push_str(body);
        text
    }

    /// The responses to a request, and what follows from them.
    fn answered(&self, heard: &mut Heard, request: &Message, answer: &Answer) -> Vec<String> {
        let method = request.method();
        if matches!(method, "ACK" | "BENOTIFY") {
            return Vec::new();
        }
        let is_inside = !request.tag("to").is_empty();
        // All answers to one request carry one tag.
        let known = heard.tags.entry(request.branch().into()).or_insert_with(|| self.hex(32).to_uppercase());
        let tag = if is_inside { String::new() } else { known.clone() };
        let (status, reason, extra, kind, body) = match answer {
            Answer::Hold => return Vec::new(),
            Answer::Refuse(status, reason, extra) => (*status, *reason, extra.clone(), "", String::new()),
            Answer::With(extra, kind, body) => (200, "OK", extra.clone(), *kind, body.clone()),
            Answer::Take if method == "INVITE" => (200, "OK", Vec::new(), "application/sdp", offer(request.uri("to"))),
            Answer::Take => (200, "OK", Vec::new(), "", String::new()),
        };
        if method == "INVITE" && status >= 300 {
            heard.refused.insert(request.branch().into());
        }
        let user = request.uri("to").trim_start_matches("sip:").split('@').next().unwrap_or("").to_string();
        let user = User::of(&user, &self.domain);
        let makes_dialog = !is_inside && (200..300).contains(&status) && matches!(method, "INVITE" | "SUBSCRIBE");
        let routes = if makes_dialog { self.record_routes() } else { Vec::new() };
        let target = if method == "SUBSCRIBE" {
            format!("sip:fe7.inner.{}:5061;transport=tls", self.domain)
        } else {
            user.gruu.clone()
        };
        let mut to = request.field("to").to_string();
        if !is_inside {
            let _ = write!(to, ";epid={};tag={tag}", user.epid);
        }
        if makes_dialog {
            let dialog = Dialog {
                call: request.field("call-id").into(),
                local: to.clone(),
                remote: request.field("from").into(),
                local_tag: tag,
                remote_tag: request.tag("from").into(),
                local_cseq: 0,
                remote_cseq: Some(request.cseq()),
                routes: routes.iter().rev().cloned().collect(),
                target: target.clone(),
                remote_target: request.uri("contact").into(),
                link: request.link,
            };
            heard.dialogs.insert(dialog.call.clone(), dialog);
        }
        let head = |status: u16, reason: &str| {
            let mut text = format!("SIP/2.0 {status} {reason}\r\n");
            for (n, via) in request.all("via").iter().enumerate() {
                let mark = if n == 0 { ";ms-received-port=41522;ms-received-cid=5265EC" } else { "" };
                let _ = write!(text, "Via: {via}{mark}\r\n");
            }
            let (from, call, cseq) = (request.field("from"), request.field("call-id"), request.field("cseq"));
            let to = if status == 100 { request.field("to") } else { &to };
            let _ = write!(text, "From: {from}\r\nTo: {to}\r\nCall-ID: {call}\r\nCSeq: {cseq}\r\n");
            text
        };
        let mut responses = Vec::new();
        if method == "INVITE" && !is_inside && status >= 200 {
            responses.push(head(100, "Trying") + "Content-Length: 0\r\n\r\n");
            if status < 300 {
                // Two clients ring, one of them takes it.
                responses.push(head(180, "Ringing") + "Server: RTC/6.0\r\nContent-Length: 0\r\n\r\n");
                responses.push(head(183, "Session Progress") + "Server: RTC/6.0\r\nContent-Length: 0\r\n\r\n");
            }
        }
        let mut text = head(status, reason);
        for route in &routes {
            let _ = write!(text, "Record-Route: {route}\r\n");
        }
        if status < 300 && matches!(method, "INVITE" | "SUBSCRIBE" | "UPDATE") {
            let _ = write!(text, "Contact: <{target}>\r\n");
        }
        if method == "SUBSCRIBE" && status < 300 {
            let expires: u32 = request.field("expires").parse().unwrap_or(3600);
            let _ = write!(text, "Expires: {}\r\n", expires.min(29_087));
        }
        let _ = write!(
            text,
            "User-Agent: {AGENT}\r\nSupported: ms-sender\r\nSupported: histinfo\r\nSupported: ms-safe-transfer\r\n"
        );
        for line in extra {
            let _ = write!(text, "{line}\r\n");
        }
        if !kind.is_empty() {
            let _ = write!(text, "Content-Type: {kind}\r\n");
        }
        let _ = write!(text, "Content-Length: {}\r\n\r\n{body}", body.len());
        responses.push(text);
        responses
    }
}

impl User {
    /// The same name in another domain.
    pub fn of_domain(&self, domain: &str) -> Self {
        Self::of(self.address.split('@').next().unwrap_or(""), domain)
    }

    fn of(name: &str, domain: &str) -> Self {
        let seed = name.bytes().fold(7_u64, |sum, b| sum.wrapping_mul(131).wrapping_add(u64::from(b)));
        let address = format!("{name}@{domain}");
        let id = Base64UrlUnpadded::encode_string(&[seed.to_be_bytes(), (!seed).to_be_bytes()].concat());
        let gruu = format!("sip:{address};opaque=user:epid:{id}AA;gruu");
        Self {
            display: format!("{name} Müller-Łącka"), address, epid: format!("{:010x}", seed & 0xff_ffff_ffff), gruu
        }
    }
}

/// The seconds of an Expires or of a Subscription-State.
pub fn expires(message: &Message) -> u32 {
    let of_state = parameter(message.field("subscription-state"), "expires");
    if of_state.is_empty() { message.field("expires") } else { of_state }.parse().unwrap_or(0)
}
