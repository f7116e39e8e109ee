//! The demo's user on the SIP side: a phone on a UDP socket that sends MESSAGE requests,
//! watches one contact and lets itself be watched by one (RFC 3856), and answers what
//! comes, 404 when it is for somebody else.

use crate::base::xml::Tree;
use crate::sip::framer;
use crate::sip::message::Message;
use crate::sip::pidf::{self, Document};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

/// The user's name and domain.
pub(super) const USER: &str = "marta";
pub(super) const DOMAIN: &str = "voip.example";

/// What the phone heard.
#[derive(Debug)]
pub(super) enum Heard {
    /// A request, and how it was answered.
    Request(Request),
    /// A response to a request of its own.
    Response { line: String, status: u16, method: String, octets: usize },
}

/// A request that came.
#[derive(Debug)]
pub(super) struct Request {
    pub method: String,
    /// Method and Request-URI.
    pub line: String,
    pub from: String,
    /// Of a NOTIFY: how the subscription stands and what its document says, in words.
    pub detail: String,
    /// The message, or the first note of the document.
    pub text: String,
    pub octets: usize,
    /// How it was answered.
    pub status: u16,
    pub answer_octets: usize,
}

/// Somebody who watches the user of the phone: the dialog that his SUBSCRIBE made.
#[derive(Debug)]
struct Watcher {
    call_id: String,
    /// From and To of our requests, with their tags.
    local: String,
    remote: String,
    target: String,
    /// What Subscription-State says.
    state: String,
}

#[derive(Debug)]
pub(super) struct Phone {
    socket: UdpSocket,
    gateway: SocketAddr,
    sent: u32,
    watcher: Option<Watcher>,
    tree: Tree,
}

impl Phone {
    pub(super) fn new(gateway: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, gateway, sent: 0, watcher: None, tree: Tree::new() })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends a message; gives the octets of the request.
    pub(super) fn send(&mut self, to: &str, text: &str) -> io::Result<usize> {
        self.send_outside("MESSAGE", to, "Content-Type: text/plain;charset=UTF-8\r\n", text)
    }

    /// Asks to watch somebody; gives the octets of the request.
    pub(super) fn watch(&mut self, to: &str) -> io::Result<usize> {
        let headers = format!(
            "Contact: <sip:{USER}@{}>\r\nEvent: presence\r\nAccept: {}\r\nExpires: 3600\r\n",
            self.address()?,
            pidf::CONTENT_TYPE
        );
        self.send_outside("SUBSCRIBE", to, &headers, "")
    }

    /// Tells the watcher how our user is: what he does, in a word of RPID (RFC 4480; empty:
    /// nothing), and a note. Gives the Request-URI and the octets; 0: there is no watcher.
    pub(super) fn notify(&mut self, activity: &str, note: &str) -> io::Result<(String, usize)> {
        let here = self.address()?;
        let Some(Watcher { call_id, local, remote, target, state }) = &self.watcher else {
            return Ok((String::new(), 0));
        };
        self.sent += 1;
        let activities = match activity {
            "" => String::new(),
            word => format!("<r:activities><r:{word}/></r:activities>"),
        };
        let body = format!(
            "<?xml version='1.0' encoding='UTF-8'?><presence xmlns='{}' xmlns:r='urn:ietf:params:xml:ns:pidf:rpid' \
             entity='pres:{USER}@{DOMAIN}'><tuple id='phone'><status><basic>open</basic></status>{activities}\
             <note>{note}</note></tuple></presence>",
            pidf::NAMESPACE
        );
        let request = format!(
            "NOTIFY {target} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bKdemo{port}n{number};rport\r\n\
             Max-Forwards: 70\r\nFrom: {local}\r\nTo: {remote}\r\nCall-ID: {call_id}\r\n\
             CSeq: {number} NOTIFY\r\nContact: <sip:{USER}@{here}>\r\nEvent: presence\r\n\
             Subscription-State: {state}\r\nContent-Type: {}\r\nContent-Length: {length}\r\n\r\n{body}",
            pidf::CONTENT_TYPE,
            port = here.port(),
            number = self.sent,
            length = body.len()
        );
        Ok((target.clone(), self.socket.send_to(request.as_bytes(), self.gateway)?))
    }

    fn send_outside(&mut self, method: &str, to: &str, headers: &str, body: &str) -> io::Result<usize> {
        self.sent += 1;
        let (here, number) = (self.address()?, self.sent);
        let request = format!(
            "{method} sip:{to} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bKdemo{port}n{number};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:{USER}@{DOMAIN}>;tag=demo{number}\r\nTo: <sip:{to}>\r\n\
             Call-ID: demo{number}@{here}\r\nCSeq: 1 {method}\r\n{headers}\
             Content-Length: {length}\r\n\r\n{body}",
            port = here.port(),
            length = body.len()
        );
        self.socket.send_to(request.as_bytes(), self.gateway)
    }

    /// Takes in one datagram, if there is one.
    pub(super) fn poll(&mut self) -> io::Result<Option<Heard>> {
        let mut buffer = [0; 8192];
        let (octets, from) = match self.socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(None),
            Err(error) => return Err(error),
        };
        let datagram = buffer.get_mut(..octets).unwrap_or_default();
        let Ok((skip, head, length)) = framer::datagram(datagram) else { return Ok(None) };
        let datagram = datagram.get_mut(skip..skip + length).unwrap_or_default();
        let Ok(message) = Message::parse(datagram, head) else { return Ok(None) };
        if !message.is_request() {
            let line = format!("{} {}", message.status(), message.reason());
            let method = message.cseq().method.to_owned();
            return Ok(Some(Heard::Response { line, status: message.status(), method, octets }));
        }
        let method = message.method().as_str();
        let ours = message.uri().starts_with(&format!("sip:{USER}@"));
        let (status, reason) = if ours { (200, "OK") } else { (404, "Not Found") };
        let mut headers = String::new();
        if ours && method == "SUBSCRIBE" {
            let expires = message.expires().unwrap_or(3600);
            headers = format!("Contact: <sip:{USER}@{}>\r\nExpires: {expires}\r\n", self.address()?);
            self.watcher = watcher(&message, expires);
        }
        let answer = answer(&message, status, reason, &headers);
        self.socket.send_to(answer.as_bytes(), from)?;
        let (detail, text) = match method {
            "NOTIFY" => said(&message, &mut self.tree),
            _ => (String::new(), String::from_utf8_lossy(message.body()).into_owned()),
        };
        Ok(Some(Heard::Request(Request {
            method: method.to_owned(),
            line: format!("{method} {}", message.uri()),
            from: message.from().uri.to_owned(),
            detail,
            text,
            octets,
            status,
            answer_octets: answer.len(),
        })))
    }
}

/// The dialog of a SUBSCRIBE.
fn watcher(request: &Message<'_>, expires: u32) -> Option<Watcher> {
    let state = match expires {
        0 => "terminated;reason=timeout".to_owned(),
        seconds => format!("active;expires={seconds}"),
    };
    Some(Watcher {
        call_id: request.call_id().to_owned(),
        local: to_with_tag(request),
        remote: request.header("From")?.to_owned(),
        target: request.contact()?.uri.to_owned(),
        state,
    })
}

/// How the subscription of a NOTIFY stands and what its document says of the first
/// client; and the note of that.
fn said(request: &Message<'_>, tree: &mut Tree) -> (String, String) {
    let state = request.header("Subscription-State").unwrap_or_default();
    let mut detail = state.split(';').next().unwrap_or_default().to_owned();
    let Ok(document) = Document::parse(request.body(), tree) else { return (detail, String::new()) };
    let Some(tuple) = document.tuples().next() else { return (detail, String::new()) };
    let basic = tuple.basic().map(|basic| basic.as_str().into());
    for word in basic.into_iter().chain(tuple.shows()) {
        detail.push(' ');
        detail.push_str(&word);
    }
    (detail, tuple.notes().next().map(|note| note.text().into_owned()).unwrap_or_default())
}

/// The To of a request with the tag of ours.
fn to_with_tag(request: &Message<'_>) -> String {
    let tag = if request.to().tag.is_some() { "" } else { ";tag=demo" };
    format!("{}{tag}", request.header("To").unwrap_or_default())
}

fn answer(request: &Message<'_>, status: u16, reason: &str, headers: &str) -> String {
    let mut answer = format!("SIP/2.0 {status} {reason}\r\n");
    for via in request.vias() {
        answer.push_str(&format!("Via: {via}\r\n"));
    }
    for name in ["From", "Call-ID", "CSeq"] {
        answer.push_str(&format!("{name}: {}\r\n", request.header(name).unwrap_or_default()));
    }
    answer + &format!("To: {}\r\n{headers}Content-Length: 0\r\n\r\n", to_with_tag(request))
}
