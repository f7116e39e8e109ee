//! The demo's user on the XMPP side and the little server of her domain: streams in
//! the clear, proved by Server Dialback (XEP-0220) in both directions, with the real
//! gateway as the other party. Her server checks the gateway's key as every server
//! does: it asks the authoritative server of the SIP domain, which is the gateway.

use crate::base::rng::Rng;
use crate::base::xml::{Bindings, Limits, Node, Tree};
use crate::xmpp::framer::{Framer, Item, StreamHeader};
use crate::xmpp::ns;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

/// The user's name and domain.
pub(super) const USER: &str = "lena";
pub(super) const DOMAIN: &str = "chat.example";

/// What the server heard.
#[derive(Debug)]
pub(super) enum Heard {
    /// A stream was proved; stanzas of this sender may pass it.
    Proved { from: String, to: String },
    /// A message or presence came, or an error for one.
    Stanza(Stanza),
}

/// What a stanza says.
#[derive(Debug)]
pub(super) struct Stanza {
    /// `message` or `presence`.
    pub name: String,
    pub from: String,
    pub to: String,
    /// Its `type`; empty without one.
    pub type_: String,
    /// Its `<show/>`, or the condition of an error.
    pub detail: String,
    /// Its body or status.
    pub text: String,
    pub octets: usize,
}

#[derive(Debug)]
pub(super) struct Server {
    /// The SIP domain, whose XMPP server the gateway is.
    peer: String,
    gateway: SocketAddr,
    listener: TcpListener,
    links: Vec<Link>,
    /// The secret of our own stream, which the gateway asks us about.
    key: String,
    /// Elements for the gateway that wait until our stream is proved.
    waiting: Vec<String>,
    /// The stream id and the key that the gateway gave us to check.
    to_check: Option<(String, String)>,
    sent: u32,
    tree: Tree,
}

/// One connection with the gateway.
#[derive(Debug)]
struct Link {
    socket: TcpStream,
    framer: Framer,
    bindings: Bindings,
    unread: Vec<u8>,
    kind: Kind,
    ended: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// The gateway opened it; our name for the stream.
    Accepted { id: String },
    /// We opened it, and are this far.
    Ours(Phase),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Asked,
    Proved,
}

impl Server {
    pub(super) fn new(peer: &str, gateway: SocketAddr, rng: &mut Rng) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            peer: peer.to_owned(),
            gateway,
            listener,
            links: Vec::new(),
            key: rng.token::<32>().to_string(),
            waiting: Vec::new(),
            to_check: None,
            sent: 0,
            tree: Tree::new(),
        })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Sends a message of our user; gives its octets.
    pub(super) fn send(&mut self, to: &str, text: &str) -> io::Result<usize> {
        self.sent += 1;
        let id = self.sent;
        let text = escaped(text);
        self.send_stanza(format!(
            "<message from='{USER}@{DOMAIN}/sofa' to='{to}' id='d{id}' type='chat'><body>{text}</body></message>"
        ))
    }

    /// Asks for a contact, or answers one who asked: `type_` is `subscribe` or `subscribed`.
    pub(super) fn send_contact(&mut self, to: &str, type_: &str) -> io::Result<usize> {
        self.sent += 1;
        let id = self.sent;
        self.send_stanza(format!("<presence from='{USER}@{DOMAIN}' to='{to}' id='d{id}' type='{type_}'/>"))
    }

    /// Shows our user to a contact; gives the octets.
    pub(super) fn send_state(&mut self, to: &str, show: &str, status: &str) -> io::Result<usize> {
        let status = escaped(status);
        self.send_stanza(format!(
            "<presence from='{USER}@{DOMAIN}/sofa' to='{to}'><show>{show}</show><status>{status}</status></presence>"
        ))
    }

    fn send_stanza(&mut self, stanza: String) -> io::Result<usize> {
        let octets = stanza.len();
        self.waiting.push(stanza);
        self.flush()?;
        Ok(octets)
    }

    /// Takes in whatever came.
    pub(super) fn poll(&mut self, rng: &mut Rng) -> io::Result<Vec<Heard>> {
        while let Some((socket, _)) = unless_blocked(self.listener.accept())? {
            self.links.push(Link::new(socket, Kind::Accepted { id: rng.token::<16>().to_string() })?);
        }
        let mut heard = Vec::new();
        for at in 0..self.links.len() {
            self.read(at, &mut heard)?;
        }
        self.links.retain(|link| !link.ended);
        if !self.waiting.is_empty() || self.to_check.is_some() {
            self.flush()?;
        }
        Ok(heard)
    }

    fn read(&mut self, at: usize, heard: &mut Vec<Heard>) -> io::Result<()> {
        let Some(link) = self.links.get_mut(at) else { return Ok(()) };
        link.receive()?;
        let mut tree = std::mem::take(&mut self.tree);
        while let Some(item) = self.links.get_mut(at).and_then(Link::next) {
            self.on_item(at, item, &mut tree, heard)?;
        }
        self.tree = tree;
        Ok(())
    }

    fn on_item(&mut self, at: usize, item: Item, tree: &mut Tree, heard: &mut Vec<Heard>) -> io::Result<()> {
        let Some(link) = self.links.get_mut(at) else { return Ok(()) };
        match item {
            Item::Header(octets) => {
                let bytes = link.take(octets);
                let Ok(header) = StreamHeader::parse(&bytes, ns::SERVER, tree) else { return Ok(()) };
                link.bindings = header.bindings;
                if let Kind::Accepted { id } = &link.kind {
                    let answer = format!(
                        "{}<stream:features><dialback xmlns='{}'/></stream:features>",
                        stream_header(&self.peer, &format!(" id='{id}'")),
                        ns::DIALBACK_FEATURE
                    );
                    link.socket.write_all(answer.as_bytes())?;
                }
            }
            Item::Element(octets) => {
                let bytes = link.take(octets);
                let bindings = link.bindings.clone();
                if let Ok(element) = tree.parse(&bytes, &bindings, Limits::STANZA) {
                    self.on_element(at, element, octets, heard)?;
                }
            }
            Item::Whitespace(octets) | Item::Declaration(octets) => drop(link.take(octets)),
            Item::End(_) | Item::Incomplete => link.ended = true,
        }
        Ok(())
    }

    fn on_element(&mut self, at: usize, element: Node<'_>, octets: usize, heard: &mut Vec<Heard>) -> io::Result<()> {
        let Some(link) = self.links.get_mut(at) else { return Ok(()) };
        let valid = element.attribute("type") == Some("valid");
        match (element.namespace(), element.name(), &link.kind) {
            (ns::STREAMS, "features", Kind::Ours(Phase::Opening)) => {
                let result = format!("<db:result from='{DOMAIN}' to='{}'>{}</db:result>", self.peer, self.key);
                link.socket.write_all(result.as_bytes())?;
                link.kind = Kind::Ours(Phase::Asked);
            }
            (ns::DIALBACK, "result", Kind::Ours(_)) if valid => {
                link.kind = Kind::Ours(Phase::Proved);
                heard.push(Heard::Proved { from: DOMAIN.to_owned(), to: self.peer.clone() });
            }
            (ns::DIALBACK, "result", Kind::Accepted { id }) => {
                self.to_check = Some((id.clone(), element.text().into_owned()));
            }
            (ns::DIALBACK, "verify", Kind::Accepted { .. }) => {
                let outcome = if element.text() == self.key { "valid" } else { "invalid" };
                let id = element.attribute("id").unwrap_or_default();
                let verified = format!("<db:verify from='{DOMAIN}' to='{}' id='{id}' type='{outcome}'/>", self.peer);
                link.socket.write_all(verified.as_bytes())?;
            }
            (ns::DIALBACK, "verify", Kind::Ours(_)) if valid => {
                let id = element.attribute("id").unwrap_or_default();
                self.accept(id)?;
                heard.push(Heard::Proved { from: self.peer.clone(), to: DOMAIN.to_owned() });
            }
            (ns::SERVER, "message" | "presence", Kind::Accepted { .. }) => {
                heard.push(Heard::Stanza(stanza(element, octets)));
            }
            _ => {}
        }
        Ok(())
    }

    /// The gateway's key was right: its stream may be used.
    fn accept(&mut self, id: &str) -> io::Result<()> {
        let named = |link: &&mut Link| matches!(&link.kind, Kind::Accepted { id: own } if own == id);
        if let Some(link) = self.links.iter_mut().find(named) {
            let result = format!("<db:result from='{DOMAIN}' to='{}' type='valid'/>", self.peer);
            link.socket.write_all(result.as_bytes())?;
        }
        Ok(())
    }

    /// Sends what waits on our own stream, as far as it is; opens it when there is none.
    fn flush(&mut self) -> io::Result<()> {
        let Some(link) = self.links.iter_mut().find(|link| matches!(link.kind, Kind::Ours(_))) else {
            let mut socket = TcpStream::connect(self.gateway)?;
            socket.write_all(stream_header(&self.peer, "").as_bytes())?;
            self.links.push(Link::new(socket, Kind::Ours(Phase::Opening))?);
            return Ok(());
        };
        if link.kind != Kind::Ours(Phase::Opening)
            && let Some((id, key)) = self.to_check.take()
        {
            let verify = format!("<db:verify from='{DOMAIN}' to='{}' id='{id}'>{key}</db:verify>", self.peer);
            link.socket.write_all(verify.as_bytes())?;
        }
        if link.kind == Kind::Ours(Phase::Proved) {
            for stanza in self.waiting.drain(..) {
                link.socket.write_all(stanza.as_bytes())?;
            }
        }
        Ok(())
    }
}

impl Link {
    fn new(socket: TcpStream, kind: Kind) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let bindings = Bindings::with_default(ns::SERVER);
        Ok(Self { socket, framer: Framer::new(), bindings, unread: Vec::new(), kind, ended: false })
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 8192];
        while let Some(octets) = unless_blocked(self.socket.read(&mut buffer))? {
            if octets == 0 {
                self.ended = true;
                break;
            }
            self.unread.extend_from_slice(buffer.get(..octets).unwrap_or_default());
        }
        Ok(())
    }

    /// What comes next, if it is whole.
    fn next(&mut self) -> Option<Item> {
        if self.unread.is_empty() {
            return None;
        }
        match self.framer.next(&self.unread) {
            Ok(Item::Incomplete) => None,
            Ok(item) => Some(item),
            Err(_) => {
                self.ended = true;
                self.unread.clear();
                None
            }
        }
    }

    fn take(&mut self, octets: usize) -> Vec<u8> {
        self.unread.drain(..octets.min(self.unread.len())).collect()
    }
}

fn stream_header(to: &str, id: &str) -> String {
    format!(
        "<?xml version='1.0'?><stream:stream xmlns='{}' xmlns:stream='{}' xmlns:db='{}' \
         from='{DOMAIN}' to='{to}'{id} version='1.0'>",
        ns::SERVER,
        ns::STREAMS,
        ns::DIALBACK
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn stanza(element: Node<'_>, octets: usize) -> Stanza {
    let attribute = |name| element.attribute(name).unwrap_or_default().to_owned();
    let text = |name| element.child(name, ns::SERVER).map(|child| child.text().into_owned());
    let error = element.child("error", ns::SERVER).and_then(|error| error.children().next());
    Stanza {
        name: element.name().to_owned(),
        from: attribute("from"),
        to: attribute("to"),
        type_: attribute("type"),
        detail: error.map(|condition| condition.name().to_owned()).or_else(|| text("show")).unwrap_or_default(),
        text: text("body").or_else(|| text("status")).unwrap_or_default(),
        octets,
    }
}

fn unless_blocked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}
