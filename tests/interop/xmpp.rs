//! A small XMPP client: plain TCP and SASL PLAIN, which the test servers allow on
//! loopback. It reads with rxml, a strict parser that shares nothing with the product.

use crate::Outcome;
use base64ct::{Base64, Encoding};
use rxml::{Event, Parse, error::EndOrError};
use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// An element with what is in it.
#[derive(Clone, Debug, Default)]
pub struct Element {
    pub name: String,
    pub namespace: String,
    pub attributes: Vec<(String, String)>,
    pub text: String,
    pub children: Vec<Self>,
}

impl Element {
    /// The value of an attribute, or nothing.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of a child, or nothing.
    pub fn text_of(&self, name: &str) -> &str {
        self.child(name).map_or("", |child| &child.text)
    }

    /// Reads a whole document.
    pub fn parse(text: &str) -> Outcome<Self> {
        let (mut parser, mut open, mut bytes) = (rxml::Parser::new(), Vec::new(), text.trim_start().as_bytes());
        loop {
            match parser.parse(&mut bytes, true) {
                Ok(Some(event)) => {
                    if let Some(root) = add(&mut open, event, 0) {
                        return Ok(root);
                    }
                }
                Ok(None) | Err(EndOrError::NeedMoreData) => return Err(format!("no whole document: {text}")),
                Err(EndOrError::Error(e)) => return Err(format!("bad XML, {e}: {text}")),
            }
        }
    }

    /// `TYPE CONDITION` of a stanza error.
    pub fn error(&self) -> String {
        let Some(error) = self.child("error") else { return "no error".into() };
        let condition = error.children.iter().find(|child| child.name != "text").map_or("", |child| &child.name);
        format!("{} {condition}", error.attribute("type"))
    }
}

/// A session of one user.
pub struct Client {
    /// Our full JID.
    pub jid: String,
    stream: TcpStream,
    parser: rxml::Parser,
    open: Vec<Element>,
    inbox: VecDeque<Element>,
    /// The last presence of each full or bare JID, without those that ask or answer.
    presences: BTreeMap<String, Element>,
    ids: u32,
}

impl Client {
    /// Logs in as `user` of `domain` at `host`, and is available then.
    pub fn login(host: &str, user: &str, domain: &str, resource: &str) -> Outcome<Self> {
        let stream = TcpStream::connect((host, 5222)).map_err(|e| format!("XMPP server {host}: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let mut client = Self {
            jid: format!("{user}@{domain}/{resource}"),
            stream,
            parser: rxml::Parser::new(),
            open: Vec::new(),
            inbox: VecDeque::new(),
            presences: BTreeMap::new(),
            ids: 0,
        };
        client.begin(domain)?;
        let token = Base64::encode_string(format!("\0{user}\0secret").as_bytes());
        client.send(&format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{token}</auth>"))?;
        let answer = client.wait("an answer to <auth/>", |e| e.namespace.ends_with("xmpp-sasl"))?;
        if answer.name != "success" {
            return Err(format!("{user}@{domain} cannot log in: {answer:?}"));
        }
        client.begin(domain)?;
        client.send(&format!(
            "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
             <resource>{resource}</resource></bind></iq><presence id='up'/>"
        ))?;
        client.wait("the bound resource", |e| e.name == "iq" && e.attribute("id") == "bind")?;
        // Our own presence comes back: from now on messages find us.
        client.wait("our presence", |e| e.name == "presence" && e.attribute("from").ends_with(resource))?;
        Ok(client)
    }

    /// Sends a chat message and gives its id.
    pub fn message(&mut self, to: &str, body: &str) -> Outcome<String> {
        self.ids += 1;
        let id = format!("m{}", self.ids);
        let escaped = body.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.send(&format!("<message to='{to}' type='chat' id='{id}'><body>{escaped}</body></message>"))?;
        Ok(id)
    }

    /// Waits for the message with this body.
    pub fn wait_message(&mut self, body: &str) -> Outcome<Element> {
        let cut: String = body.chars().take(40).collect();
        self.wait(&format!("message {cut:?}"), |e| {
            e.name == "message" && e.attribute("type") != "error" && e.text_of("body") == body
        })
    }

    /// Waits for any message whose body fits.
    pub fn wait_message_like(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> Outcome<Element> {
        self.wait(what, |e| e.name == "message" && e.attribute("type") != "error" && fits(e.text_of("body")))
    }

    /// Waits for the error that answers the message `id`.
    pub fn wait_error(&mut self, id: &str, within: Duration) -> Outcome<Element> {
        self.wait_for(&format!("an error for {id}"), within, |e| {
            e.name == "message" && e.attribute("type") == "error" && e.attribute("id") == id
        })
    }

    /// Waits a moment, and gives all messages that are there then.
    pub fn messages(&mut self, within: Duration) -> Vec<Element> {
        let _ = self.wait_for("nothing", within, |_| false);
        let (messages, rest): (Vec<_>, Vec<_>) = self.inbox.drain(..).partition(|e| e.name == "message");
        self.inbox = rest.into();
        messages
    }

    /// Sends a presence stanza that asks or answers: `subscribe`, `subscribed`,
    /// `unsubscribe`, `unsubscribed`.
    pub fn contact(&mut self, kind: &str, to: &str) -> Outcome {
        self.send(&format!("<presence to='{to}' type='{kind}'/>"))
    }

    /// Waits until somebody asks or answers so.
    pub fn wait_contact(&mut self, kind: &str, from: &str, within: Duration) -> Outcome<Element> {
        self.wait_for(&format!("{kind} from {from}"), within, |e| {
            e.name == "presence" && e.attribute("type") == kind && bare(e.attribute("from")) == from
        })
    }

    /// Fails if somebody asks or answers so in that time, or has.
    pub fn never_contact(&mut self, kind: &str, from: &str, within: Duration) -> Outcome {
        match self.wait_contact(kind, from, within) {
            Ok(stanza) => Err(format!("{} got {kind} from {from}: {stanza:?}", self.jid)),
            Err(_) => self.read(Duration::from_millis(1)),
        }
    }

    /// Tells everybody how we are: nothing is a `show` of none, and no status.
    pub fn be(&mut self, show: &str, status: &str) -> Outcome {
        let show = if show.is_empty() { String::new() } else { format!("<show>{show}</show>") };
        let status = if status.is_empty() { String::new() } else { format!("<status>{status}</status>") };
        self.send(&format!("<presence>{show}{status}</presence>"))
    }

    /// Tells everybody that we are gone, and stays connected.
    pub fn be_gone(&mut self) -> Outcome {
        self.send("<presence type='unavailable'/>")
    }

    /// Asks for the roster: from then on the server tells us of contacts. `STATE/ASK` of
    /// one of them, such as `both/` or `none/subscribe`; `-` without it.
    pub fn roster(&mut self, contact: &str) -> Outcome<String> {
        self.ids += 1;
        let id = format!("r{}", self.ids);
        self.send(&format!("<iq type='get' id='{id}'><query xmlns='jabber:iq:roster'/></iq>"))?;
        let answer = self.wait("the roster", |e| e.name == "iq" && e.attribute("id") == id)?;
        let item = answer.child("query").and_then(|q| q.children.iter().find(|i| i.attribute("jid") == contact));
        Ok(item.map_or_else(|| "-".into(), |i| format!("{}/{}", i.attribute("subscription"), i.attribute("ask"))))
    }

    /// What we see of a contact: `nothing` was told, `gone`, or of each resource `SHOW` or
    /// `available`, with its status in brackets.
    pub fn sees(&self, contact: &str) -> String {
        let of_contact = |jid: &str| bare(jid) == contact;
        let all: Vec<&Element> = self.presences.iter().filter(|(jid, _)| of_contact(jid)).map(|(_, e)| e).collect();
        let here = all.iter().filter(|e| e.attribute("type").is_empty());
        let words: Vec<String> = here
            .map(|e| {
                let show = if e.text_of("show").is_empty() { "available" } else { e.text_of("show") };
                if e.text_of("status").is_empty() { show.into() } else { format!("{show} ({})", e.text_of("status")) }
            })
            .collect();
        match (all.is_empty(), words.is_empty()) {
            (true, _) => "nothing".into(),
            (false, true) => "gone".into(),
            (false, false) => words.join(", "),
        }
    }

    /// Waits until we see a contact so.
    pub fn wait_sees(&mut self, contact: &str, wanted: &str, within: Duration) -> Outcome {
        let end = Instant::now() + within;
        while self.sees(contact) != wanted {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("{} sees of {contact}: {:?}, wanted {wanted:?}", self.jid, self.sees(contact)));
            }
            self.read(left)?;
        }
        Ok(())
    }

    /// Fails as soon as we see a contact otherwise in that time.
    pub fn still_sees(&mut self, contact: &str, wanted: &str, during: Duration) -> Outcome {
        let end = Instant::now() + during;
        while self.sees(contact) == wanted {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.read(left)?;
        }
        Err(format!("{} sees of {contact}: {:?}, after {wanted:?}", self.jid, self.sees(contact)))
    }

    pub fn wait(&mut self, what: &str, fits: impl Fn(&Element) -> bool) -> Outcome<Element> {
        self.wait_for(what, Duration::from_secs(8), fits)
    }

    pub fn wait_for(&mut self, what: &str, within: Duration, fits: impl Fn(&Element) -> bool) -> Outcome<Element> {
        let end = Instant::now() + within;
        loop {
            if let Some(place) = self.inbox.iter().position(&fits) {
                return Ok(self.inbox.remove(place).expect("a place that was found"));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let have: Vec<String> = self.inbox.iter().map(|e| format!("{}:{}", e.name, e.error())).collect();
                return Err(format!("{} waited for {what}; has {have:?}", self.jid));
            }
            self.read(left)?;
        }
    }

    fn begin(&mut self, domain: &str) -> Outcome {
        self.parser = rxml::Parser::new();
        self.open.clear();
        self.send(&format!(
            "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
             xmlns:stream='http://etherx.jabber.org/streams' to='{domain}' version='1.0'>"
        ))?;
        self.wait("stream features", |e| e.name == "features").map(drop)
    }

    /// Sends a stanza as it is written.
    pub fn send(&mut self, text: &str) -> Outcome {
        self.stream.write_all(text.as_bytes()).map_err(|e| format!("{}: {e}", self.jid))
    }

    fn read(&mut self, within: Duration) -> Outcome {
        self.stream.set_read_timeout(Some(within.max(Duration::from_millis(1)))).map_err(|e| e.to_string())?;
        let mut buffer = [0; 16 * 1024];
        let count = match self.stream.read(&mut buffer) {
            Ok(0) => return Err(format!("{}: the server closed the stream", self.jid)),
            Ok(count) => count,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return Ok(());
            }
            Err(e) => return Err(format!("{}: {e}", self.jid)),
        };
        let mut bytes = &buffer[..count];
        loop {
            match self.parser.parse(&mut bytes, false) {
                Ok(Some(event)) => self.on_event(event),
                Ok(None) | Err(EndOrError::NeedMoreData) => return Ok(()),
                Err(EndOrError::Error(e)) => return Err(format!("{}: the server sent bad XML: {e}", self.jid)),
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        let Some(element) = add(&mut self.open, event, 1) else { return };
        if element.name == "presence" && matches!(element.attribute("type"), "" | "unavailable") {
            let from = element.attribute("from");
            if from == bare(from) {
                // Who is gone as a whole is gone with all resources.
                self.presences.retain(|jid, _| bare(jid) != from);
            }
            self.presences.insert(from.to_string(), element.clone());
        }
        self.inbox.push_back(element);
    }
}

/// Adds what was read to the open elements; gives the one that ends below `depth` others.
pub fn add(open: &mut Vec<Element>, event: Event, depth: usize) -> Option<Element> {
    match event {
        Event::XmlDeclaration(..) => {}
        Event::StartElement(_, (namespace, name), attributes) => open.push(Element {
            name: name.to_string(),
            namespace: namespace.to_string(),
            attributes: attributes.iter().map(|((_, name), value)| (name.to_string(), value.clone())).collect(),
            ..Element::default()
        }),
        Event::Text(_, text) => {
            if let Some(element) = open.last_mut() {
                element.text.push_str(&text);
            }
        }
        Event::EndElement(_) => {
            let element = open.pop().unwrap_or_default();
            if open.len() <= depth {
                return Some(element);
            }
            open.last_mut().expect("more than none are open").children.push(element);
        }
    }
    None
}

fn bare(jid: &str) -> &str {
    jid.split('/').next().unwrap_or(jid)
}
