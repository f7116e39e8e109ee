//! The neighbours' side of each protocol: small, honest and independent. No line of
//! it is shared with `src/`, or a misreading would be shared too. XML is read by
//! `rxml`, which refuses whatever is not well-formed, so that every octet the gateway
//! sends is held against a second, strict reader.

#![allow(dead_code, reason = "each test target that includes this file uses another part of it")]

use rxml::{Event, Parse, Parser};
use std::collections::BTreeMap;
use std::fmt::Write as _;

pub const CLIENT: &str = "jabber:client";
pub const SERVER: &str = "jabber:server";
pub const STREAMS: &str = "http://etherx.jabber.org/streams";
pub const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
pub const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
pub const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
pub const DIALBACK: &str = "jabber:server:dialback";
pub const MANAGEMENT: &str = "urn:xmpp:sm:3";
pub const BIDIRECTIONAL: &str = "urn:xmpp:bidi";
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// An element with all it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    pub namespace: String,
    pub name: String,
    /// Namespace, name, value.
    pub attributes: Vec<(String, String, String)>,
    pub children: Vec<Node>,
}

/// What an element holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Element(Element),
    Text(String),
}

impl Element {
    /// The value of an attribute without a namespace.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(ns, n, _)| ns.is_empty() && n == name).map(|(_, _, v)| v.as_str())
    }

    /// The elements directly below.
    pub fn elements(&self) -> impl Iterator<Item = &Self> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The first element of that name directly below.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.elements().find(|element| element.name == name)
    }

    /// The text directly below.
    pub fn text(&self) -> String {
        self.children
            .iter()
            .filter_map(|node| match node {
                Node::Text(text) => Some(text.as_str()),
                Node::Element(_) => None,
            })
            .collect()
    }

    /// All text below, at any depth.
    pub fn whole_text(&self) -> String {
        self.children
            .iter()
            .map(|node| match node {
                Node::Text(text) => text.clone(),
                Node::Element(element) => element.whole_text(),
            })
            .collect()
    }

    fn push_text(&mut self, more: &str) {
        if let Some(Node::Text(text)) = self.children.last_mut() {
            text.push_str(more);
        } else {
            self.children.push(Node::Text(more.into()));
        }
    }

    /// Is it a stanza?
    pub fn is_stanza(&self) -> bool {
        matches!(self.namespace.as_str(), CLIENT | SERVER) && matches!(&*self.name, "message" | "presence" | "iq")
    }

    /// As XML, for people and for sending on.
    pub fn to_xml(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, SERVER);
        out
    }

    fn write(&self, out: &mut String, around: &str) {
        let _ = write!(out, "<{}", self.name);
        if self.namespace != around {
            let _ = write!(out, " xmlns='{}'", escape(&self.namespace));
        }
        for (ns, name, value) in &self.attributes {
            let prefix = if ns == XML { "xml:" } else { "" };
            let _ = write!(out, " {prefix}{name}='{}'", escape(value));
        }
        if self.children.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        for node in &self.children {
            match node {
                Node::Element(element) => element.write(out, &self.namespace),
                Node::Text(text) => out.push_str(&escape(text)),
            }
        }
        let _ = write!(out, "</{}>", self.name);
    }
}

/// Text as it has to stand in XML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#xD;"),
            c => out.push(c),
        }
    }
    out
}

/// What stands in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InStream {
    /// The root element's start.
    Header(Element),
    /// A first-level element, whole.
    Element(Element),
    /// The root element's end.
    End,
}

/// Reads an XML stream piece by piece.
pub struct XmlReader {
    parser: Parser,
    open: Vec<Element>,
}

impl Default for XmlReader {
    fn default() -> Self {
        Self { parser: Parser::new(), open: Vec::new() }
    }
}

impl XmlReader {
    /// The next thing that is whole in `bytes`, which shrinks by what was read.
    /// `None`: more is needed.
    pub fn read(&mut self, bytes: &mut &[u8], last: bool) -> Result<Option<InStream>, String> {
        loop {
            let event = match self.parser.parse(bytes, last) {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(None),
                Err(rxml::error::EndOrError::NeedMoreData) => return Ok(None),
                Err(rxml::error::EndOrError::Error(error)) => return Err(error.to_string()),
            };
            match event {
                Event::XmlDeclaration(..) => {}
                Event::StartElement(_, (namespace, name), attributes) => {
                    let element = Element {
                        namespace: namespace.to_string(),
                        name: name.to_string(),
                        attributes: attributes
                            .into_iter()
                            .map(|((ns, name), value)| (ns.to_string(), name.to_string(), value.to_string()))
                            .collect(),
                        children: Vec::new(),
                    };
                    self.open.push(element);
                    if let [root] = &self.open[..] {
                        return Ok(Some(InStream::Header(root.clone())));
                    }
                }
                Event::Text(_, text) => {
                    // White space between first-level elements is a keep-alive.
                    if let [_, .., top] = &mut self.open[..] {
                        top.push_text(&text);
                    }
                }
                Event::EndElement(_) => {
                    let Some(done) = self.open.pop() else { return Err("an end without a start".into()) };
                    match &mut self.open[..] {
                        [] => return Ok(Some(InStream::End)),
                        [_] => return Ok(Some(InStream::Element(done))),
                        [.., above] => above.children.push(Node::Element(done)),
                    }
                }
            }
        }
    }
}

/// Reads one element that stands alone. Names without a namespace are in
/// `namespace`.
pub fn parse_element(text: &str, namespace: &str) -> Result<Element, String> {
    let text = text.trim();
    let text = match text.strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>").ok_or("an XML declaration without an end")?.1.trim_start(),
        None => text,
    };
    let whole = format!("<wrap xmlns='{namespace}'>{text}</wrap>");
    let mut reader = XmlReader::default();
    let mut bytes = whole.as_bytes();
    let mut found = None;
    loop {
        match reader.read(&mut bytes, true)? {
            Some(InStream::Header(_)) => {}
            Some(InStream::Element(element)) if found.is_none() => found = Some(element),
            Some(InStream::Element(_)) => return Err("more than one element".into()),
            Some(InStream::End) => return found.ok_or_else(|| "no element".into()),
            None => return Err("the XML ends too early".into()),
        }
    }
}

/// The domain of an address.
pub fn domain_of(jid: &str) -> &str {
    let bare = jid.split('/').next().unwrap_or_default();
    bare.rsplit_once('@').map_or(bare, |(_, domain)| domain)
}

/// What an XMPP server offers and asks for on its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    pub starttls: bool,
    pub external: bool,
    pub dialback: bool,
    pub management: bool,
    pub bidirectional: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self { starttls: true, external: true, dialback: false, management: false, bidirectional: false }
    }
}

/// What the owner of a stream has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    /// Send these octets.
    Send(String),
    /// TLS begins now; `secured` is to be called when it is up.
    StartTls,
    /// The stream may carry stanzas now.
    Ready,
    /// A stanza came.
    Stanza(Element),
    /// The gateway brought a dialback key for a pair: ask its authoritative server.
    Verify { from: String, to: String, key: String },
    /// The answer to a `db:verify` of ours.
    Verified { id: String, valid: bool },
    /// The gateway wants to go on with the stream of that name; it has seen this many.
    Resume { previous: String, seen: u32 },
    /// The gateway acknowledged that many stanzas in all.
    Acknowledged(u32),
    /// The stream is at its end, in good order or because of this error.
    End(Option<String>),
}

/// Who opened a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We did.
    Initiator,
    /// The gateway did.
    Receiver,
    /// We did, only to ask about this dialback key: the stream it came on, the key.
    Verifier,
}

/// One stream between an XMPP server of the world and the gateway.
pub struct Stream {
    pub role: Role,
    pub ours: String,
    pub theirs: String,
    pub manner: Manner,
    pub ready: bool,
    /// The stream's id, made by whoever received it.
    pub id: String,
    /// Stanzas received since stream management was switched on.
    pub received: u32,
    pub managed: bool,
    /// Stanzas may go both ways on it.
    pub bidirectional: bool,
    /// What to ask when the role is `Verifier`: stream id and key.
    pub question: Option<(String, String)>,
    /// The stream to go on with, and what of it was seen.
    pub resume: Option<(String, u32)>,
    /// The name the gateway gave a stream of ours that can be gone on with.
    pub resumable: Option<String>,
    secured: bool,
    proved: bool,
    /// Did the gateway's header come since the last restart?
    headed: bool,
    reader: XmlReader,
    rest: Vec<u8>,
    ended: bool,
}

impl Stream {
    pub fn new(role: Role, ours: &str, theirs: &str, id: &str, manner: Manner) -> Self {
        Self {
            role,
            ours: ours.into(),
            theirs: theirs.into(),
            manner,
            ready: false,
            id: id.into(),
            received: 0,
            managed: false,
            bidirectional: false,
            question: None,
            resume: None,
            resumable: None,
            secured: false,
            proved: false,
            headed: false,
            reader: XmlReader::default(),
            rest: Vec::new(),
            ended: false,
        }
    }

    /// What to send when the connection is up and we opened it.
    pub fn header(&self) -> String {
        let id = match self.role {
            Role::Receiver => format!(" id='{}'", self.id),
            Role::Initiator | Role::Verifier => String::new(),
        };
        format!(
            "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='{STREAMS}' \
             xmlns:db='{DIALBACK}' from='{}' to='{}'{id} version='1.0'>",
            escape(&self.ours),
            escape(&self.theirs)
        )
    }

    /// TLS is up.
    pub fn secured(&mut self) -> Vec<Do> {
        self.secured = true;
        self.restart()
    }

    fn restart(&mut self) -> Vec<Do> {
        self.reader = XmlReader::default();
        self.headed = false;
        match self.role {
            Role::Receiver => Vec::new(),
            Role::Initiator | Role::Verifier => vec![Do::Send(self.header())],
        }
    }

    /// Takes octets of the gateway's.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Do>, String> {
        let mut whole = core::mem::take(&mut self.rest);
        whole.extend_from_slice(bytes);
        let mut left = &whole[..];
        let mut all = Vec::new();
        while !self.ended {
            // An error that the gateway sent before it knew of the restart.
            let crossed = !self.headed && (self.secured || self.proved) && left.starts_with(b"<stream:error>");
            if crossed {
                self.ended = true;
                all.push(Do::End(Some("the gateway gave up".into())));
                break;
            }
            match self.reader.read(&mut left, false)? {
                None => break,
                Some(InStream::Header(header)) => all.extend(self.on_header(&header)?),
                Some(InStream::Element(element)) => all.extend(self.on_element(element)?),
                Some(InStream::End) => {
                    self.ended = true;
                    all.push(Do::Send("</stream:stream>".into()));
                    all.push(Do::End(None));
                }
            }
        }
        self.rest = left.to_vec();
        Ok(all)
    }

    fn on_header(&mut self, header: &Element) -> Result<Vec<Do>, String> {
        self.headed = true;
        if header.namespace != STREAMS || header.name != "stream" {
            return Err(format!("not a stream header: {}", header.to_xml()));
        }
        if self.role != Role::Receiver {
            self.id = header.attribute("id").unwrap_or_default().into();
            return Ok(Vec::new());
        }
        // The gateway says whom it looks for; it need not say who it is before TLS.
        if let Some(from) = header.attribute("from") {
            self.theirs = from.into();
        }
        if let Some(to) = header.attribute("to") {
            self.ours = to.into();
        }
        let mut features = String::new();
        if self.manner.starttls && !self.secured {
            let _ = write!(features, "<starttls xmlns='{TLS}'><required/></starttls>");
        } else if !self.proved {
            if self.manner.bidirectional {
                features.push_str("<bidi xmlns='urn:xmpp:features:bidi'/>");
            }
            if self.manner.external {
                let _ = write!(features, "<mechanisms xmlns='{SASL}'><mechanism>EXTERNAL</mechanism></mechanisms>");
            }
            if self.manner.dialback {
                features.push_str("<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>");
            }
        }
        if self.manner.management && (self.proved || (self.manner.dialback && self.secured)) {
            let _ = write!(features, "<sm xmlns='{MANAGEMENT}'/>");
        }
        let mut all = vec![Do::Send(format!("{}<stream:features>{features}</stream:features>", self.header()))];
        if self.proved {
            self.ready = true;
            all.push(Do::Ready);
        }
        Ok(all)
    }

    fn on_element(&mut self, element: Element) -> Result<Vec<Do>, String> {
        if element.is_stanza() {
            if self.managed {
                self.received += 1;
            }
            return Ok(vec![Do::Stanza(element)]);
        }
        let send = |text: String| Ok(vec![Do::Send(text)]);
        match (element.namespace.as_str(), element.name.as_str()) {
            (STREAMS, "error") => {
                let condition = element.elements().next().map_or("none", |e| &e.name).to_string();
                Ok(vec![Do::End(Some(condition))])
            }
            (STREAMS, "features") => Ok(self.on_features(&element)),
            (TLS, "starttls") => Ok(vec![Do::Send(format!("<proceed xmlns='{TLS}'/>")), Do::StartTls]),
            (TLS, "proceed") => Ok(vec![Do::StartTls]),
            (TLS, "failure") => Ok(vec![Do::End(Some("starttls refused".into()))]),
            (SASL, "auth") => {
                self.proved = true;
                self.restart();
                send(format!("<success xmlns='{SASL}'/>"))
            }
            (SASL, "success") => {
                self.proved = true;
                Ok(self.restart())
            }
            (SASL, "failure") => Ok(vec![Do::End(Some("sasl refused".into()))]),
            (DIALBACK, "result") => Ok(self.on_dialback_result(&element)),
            (DIALBACK, "verify") => Ok(self.on_dialback_verify(&element)),
            (MANAGEMENT, _) => self.on_management(&element),
            (BIDIRECTIONAL, "bidi") => {
                self.bidirectional = self.manner.bidirectional;
                Ok(Vec::new())
            }
            // Whatever else it knows is its own business.
            _ => Ok(Vec::new()),
        }
    }

    fn on_features(&mut self, features: &Element) -> Vec<Do> {
        let offers = |name: &str| features.child(name).is_some();
        if !self.secured && self.manner.starttls && offers("starttls") {
            return vec![Do::Send(format!("<starttls xmlns='{TLS}'/>"))];
        }
        if let (Role::Verifier, Some((id, key))) = (self.role, &self.question) {
            let (from, to) = (escape(&self.ours), escape(&self.theirs));
            return vec![Do::Send(format!("<db:verify from='{from}' to='{to}' id='{id}'>{key}</db:verify>"))];
        }
        if self.proved {
            if let (true, Some((previous, seen))) = (offers("sm"), &self.resume) {
                return vec![Do::Send(format!(
                    "<resume xmlns='{MANAGEMENT}' h='{seen}' previd='{}'/>",
                    escape(previous)
                ))];
            }
            if self.manner.management && offers("sm") {
                return vec![Do::Send(format!("<enable xmlns='{MANAGEMENT}' resume='true'/>"))];
            }
            self.ready = true;
            return vec![Do::Ready];
        }
        let bidi = if self.manner.bidirectional && offers("bidi") {
            self.bidirectional = true;
            format!("<bidi xmlns='{BIDIRECTIONAL}'/>")
        } else {
            String::new()
        };
        let external = features.child("mechanisms").is_some_and(|m| m.elements().any(|e| e.text() == "EXTERNAL"));
        if external && self.manner.external {
            return vec![Do::Send(format!("{bidi}<auth xmlns='{SASL}' mechanism='EXTERNAL'>=</auth>"))];
        }
        if self.manner.dialback {
            let key = dialback_key(&self.id, &self.ours, &self.theirs);
            let (from, to) = (escape(&self.ours), escape(&self.theirs));
            return vec![Do::Send(format!("{bidi}<db:result from='{from}' to='{to}'>{key}</db:result>"))];
        }
        vec![Do::End(Some("the gateway offers no way to prove who we are".into()))]
    }

    fn on_dialback_result(&mut self, result: &Element) -> Vec<Do> {
        let of = |name: &str| result.attribute(name).unwrap_or_default().to_string();
        match result.attribute("type") {
            None => vec![Do::Verify { from: of("from"), to: of("to"), key: result.text() }],
            Some("valid") => {
                self.proved = true;
                if self.manner.management {
                    return vec![Do::Send(format!("<enable xmlns='{MANAGEMENT}' resume='true'/>"))];
                }
                self.ready = true;
                vec![Do::Ready]
            }
            Some(other) => vec![Do::End(Some(format!("dialback {other}")))],
        }
    }

    /// The authoritative server has spoken about a key that came on this stream.
    pub fn dialback_verdict(&mut self, from: &str, to: &str, valid: bool) -> Vec<Do> {
        self.proved |= valid;
        let verdict = if valid { "valid" } else { "invalid" };
        let mut all =
            vec![Do::Send(format!("<db:result from='{}' to='{}' type='{verdict}'/>", escape(to), escape(from)))];
        if valid {
            self.ready = true;
            all.push(Do::Ready);
        }
        all
    }

    fn on_dialback_verify(&self, verify: &Element) -> Vec<Do> {
        let of = |name: &str| verify.attribute(name).unwrap_or_default();
        match verify.attribute("type") {
            None => {
                let valid = verify.text() == dialback_key(of("id"), of("to"), of("from"));
                let verdict = if valid { "valid" } else { "invalid" };
                let (from, to, id) = (escape(of("to")), escape(of("from")), escape(of("id")));
                vec![Do::Send(format!("<db:verify from='{from}' to='{to}' id='{id}' type='{verdict}'/>"))]
            }
            Some(verdict) => vec![Do::Verified { id: of("id").into(), valid: verdict == "valid" }],
        }
    }

    fn on_management(&mut self, element: &Element) -> Result<Vec<Do>, String> {
        let number = |name: &str| -> Result<u32, String> {
            element.attribute(name).unwrap_or("0").parse().map_err(|_| format!("{name} is no number"))
        };
        Ok(match element.name.as_str() {
            "enable" => {
                self.managed = true;
                self.received = 0;
                vec![Do::Send(format!("<enabled xmlns='{MANAGEMENT}' id='{}' resume='true'/>", self.id))]
            }
            "enabled" => {
                self.managed = true;
                self.received = 0;
                self.resumable = element.attribute("id").map(Into::into);
                self.ready = true;
                vec![Do::Ready]
            }
            "resume" => {
                let previous = element.attribute("previd").unwrap_or_default().into();
                vec![Do::Resume { previous, seen: number("h")? }]
            }
            "resumed" => {
                self.managed = true;
                if let Some((previous, seen)) = self.resume.take() {
                    self.received = seen;
                    self.resumable = Some(previous);
                }
                self.ready = true;
                vec![Do::Ready, Do::Acknowledged(number("h")?)]
            }
            "failed" if self.resume.take().is_some() => {
                vec![Do::Send(format!("<enable xmlns='{MANAGEMENT}' resume='true'/>"))]
            }
            "failed" => {
                self.ready = true;
                vec![Do::Ready]
            }
            "r" => vec![Do::Send(format!("<a xmlns='{MANAGEMENT}' h='{}'/>", self.received))],
            "a" => vec![Do::Acknowledged(number("h")?)],
            _ => Vec::new(),
        })
    }

    /// The gateway goes on with an old stream of which `received` stanzas were seen.
    pub fn resumed(&mut self, previous: &str, received: u32) -> Vec<Do> {
        self.managed = true;
        self.received = received;
        vec![Do::Send(format!("<resumed xmlns='{MANAGEMENT}' h='{received}' previd='{}'/>", escape(previous)))]
    }

    /// The old stream is not known here.
    pub fn not_resumed(&mut self) -> Vec<Do> {
        vec![Do::Send(format!("<failed xmlns='{MANAGEMENT}'><item-not-found xmlns='{STANZAS}'/></failed>"))]
    }
}

/// A dialback key of ours: nobody attacks in here, so any function of the three will do.
fn dialback_key(id: &str, from: &str, to: &str) -> String {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in [id, "|", from, "|", to].concat().bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{state:016x}")
}

/// A SIP message as it came, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SipMessage {
    pub start: String,
    /// Full names in lower case; values unfolded and trimmed.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub raw: Vec<u8>,
}

impl SipMessage {
    /// Takes one whole message apart, strictly: CRLF ends every line.
    pub fn parse(raw: &[u8]) -> Result<Self, String> {
        let end = find(raw, b"\r\n\r\n").ok_or("no empty line behind the header")?;
        let head = core::str::from_utf8(&raw[..end]).map_err(|_| "the header is not UTF-8")?;
        // Other control characters may stand in quoted strings, behind a backslash.
        if head.replace("\r\n", "").contains(['\r', '\n']) {
            return Err("a bare CR or LF in the header".into());
        }
        let mut lines = head.split("\r\n");
        let start = lines.next().unwrap_or_default().to_string();
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines {
            if line.starts_with([' ', '\t']) {
                let last = headers.last_mut().ok_or("folding in the first header line")?;
                last.1 = format!("{} {}", last.1, line.trim());
                continue;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon in {line:?}"))?;
            headers.push((full_name(name.trim()), value.trim().to_string()));
        }
        Ok(Self { start, headers, body: raw[end + 4..].to_vec(), raw: raw.to_vec() })
    }

    /// The first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The status code, if it is a response.
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// The method, if it is a request.
    pub fn method(&self) -> Option<&str> {
        if self.status().is_some() { None } else { self.start.split(' ').next() }
    }

    /// The branch of the topmost Via.
    pub fn branch(&self) -> Option<&str> {
        let via = self.header("via")?;
        let rest = &via[via.find("branch=")? + 7..];
        Some(rest.split([';', ',', ' ']).next().unwrap_or(rest))
    }

    /// A response of ours to this request: the headers that go back, then `more`.
    pub fn response(&self, status: u16, reason: &str, tag: &str, more: &str) -> Vec<u8> {
        let mut out = format!("SIP/2.0 {status} {reason}\r\n");
        for (name, value) in &self.headers {
            let (label, tail) = match name.as_str() {
                "via" => ("Via", String::new()),
                "from" => ("From", String::new()),
                "to" if value.contains(";tag=") => ("To", String::new()),
                "to" => ("To", format!(";tag={tag}")),
                "call-id" => ("Call-ID", String::new()),
                "cseq" => ("CSeq", String::new()),
                _ => continue,
            };
            let _ = write!(out, "{label}: {value}{tail}\r\n");
        }
        let _ = write!(out, "{more}Content-Length: 0\r\n\r\n");
        out.into_bytes()
    }
}

/// The full name of a header in lower case.
pub fn full_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "i" => "call-id",
        "m" => "contact",
        "e" => "content-encoding",
        "l" => "content-length",
        "c" => "content-type",
        "f" => "from",
        "s" => "subject",
        "k" => "supported",
        "t" => "to",
        "v" => "via",
        "o" => "event",
        "u" => "allow-events",
        _ => &name,
    }
    .to_string()
}

/// Where `what` begins in `bytes`.
pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Cuts a stream of the gateway's into SIP messages.
#[derive(Default)]
pub struct SipReader {
    rest: Vec<u8>,
}

impl SipReader {
    /// The messages that are whole now, and how many keep-alive pings came. One bad
    /// message ends it.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(Vec<SipMessage>, usize), String> {
        self.rest.extend_from_slice(bytes);
        let (mut all, mut pings) = (Vec::new(), 0);
        loop {
            while self.rest.starts_with(b"\r\n") {
                let ping = self.rest.starts_with(b"\r\n\r\n");
                pings += usize::from(ping);
                self.rest.drain(..if ping { 4 } else { 2 });
            }
            let Some(end) = find(&self.rest, b"\r\n\r\n") else { return Ok((all, pings)) };
            let head = SipMessage::parse(&self.rest[..end + 4])?;
            let length: usize = head
                .header("content-length")
                .ok_or("no Content-Length on a stream")?
                .parse()
                .map_err(|_| "Content-Length is no number")?;
            let whole = end + 4 + length;
            if self.rest.len() < whole {
                return Ok((all, pings));
            }
            let raw: Vec<u8> = self.rest.drain(..whole).collect();
            all.push(SipMessage::parse(&raw)?);
        }
    }
}

/// What the world's DNS says about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    A([u8; 4]),
    Aaaa([u8; 16]),
    /// Priority, weight, port, target.
    Srv(u16, u16, u16, String),
}

/// What is wrong with the DNS at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsMood {
    #[default]
    Well,
    Silent,
    ServerFailure,
    NoSuchName,
}

/// The world's zones: name in lower case -> records.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    pub records: BTreeMap<String, Vec<Record>>,
    pub mood: DnsMood,
}

impl Dns {
    pub fn add(&mut self, name: &str, record: Record) {
        self.records.entry(name.to_ascii_lowercase()).or_default().push(record);
    }

    /// The answer to a question, or silence.
    pub fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let (name, after) = read_name(question, 12)?;
        let kind = u16::from_be_bytes(question.get(after..after + 2)?.try_into().ok()?);
        let known = self.records.get(&name);
        // A name exists when something stands below it, too.
        let exists = known.is_some() || self.records.keys().any(|k| k.ends_with(&format!(".{name}")));
        let code = match self.mood {
            DnsMood::Silent => return None,
            DnsMood::ServerFailure => 2,
            DnsMood::NoSuchName => 3,
            DnsMood::Well => 3 * u8::from(!exists),
        };
        let mut answers = Vec::new();
        for record in known.into_iter().flatten().filter(|_| code == 0) {
            let (of, data) = match record {
                Record::A(octets) => (1, octets.to_vec()),
                Record::Aaaa(octets) => (28, octets.to_vec()),
                Record::Srv(priority, weight, port, target) => {
                    let mut data = [priority.to_be_bytes(), weight.to_be_bytes(), port.to_be_bytes()].concat();
                    write_name(&mut data, target);
                    (33, data)
                }
            };
            if of == kind {
                answers.push(data);
            }
        }
        let mut out = question.get(..after + 4)?.to_vec();
        out[2] = 0x84 | (question[2] & 1);
        out[3] = 0x80 | code;
        out[6..12].fill(0);
        out[6..8].copy_from_slice(&(answers.len() as u16).to_be_bytes());
        for data in &answers {
            out.extend_from_slice(&[0xc0, 12]);
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
            out.extend_from_slice(&(data.len() as u16).to_be_bytes());
            out.extend_from_slice(data);
        }
        if answers.is_empty() && code != 2 {
            // An SOA lets the answer be kept for a while, and no longer.
            out[9] = 1;
            out.extend_from_slice(&[0, 0, 6, 0, 1, 0, 0, 0, 5, 0, 22, 0, 0]);
            for number in [1_u32, 60, 60, 60, 5] {
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
        Some(out)
    }
}

fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(message.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
}

fn write_name(out: &mut Vec<u8>, name: &str) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
}
