//! An XMPP server from before version 1.0: plain TCP and dialback (XEP-0220), a stream
//! header without a version, no features. Threads and rxml; shares no code with the product.

use crate::xmpp::{Element, add};
use crate::{Outcome, SOON};
use rxml::{Event, Parse, error::EndOrError};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const NAMESPACES: &str = "xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
                          xmlns:db='jabber:server:dialback'";

struct Shared {
    domain: String,
    /// The domain on the other side that our stanzas are for.
    theirs: String,
    gateway: SocketAddr,
    stanzas: Mutex<Vec<Element>>,
    changed: Condvar,
    count: AtomicU32,
    ended: AtomicBool,
}

/// The server of one domain.
pub struct OldServer {
    shared: Arc<Shared>,
    /// The stream that our stanzas go out on.
    out: Mutex<Option<Stream>>,
}

/// One connection, read element by element.
pub struct Stream {
    socket: TcpStream,
    parser: rxml::Parser,
    open: Vec<Element>,
    /// The attributes of the other side's header.
    pub header: Element,
}

/// What was read.
enum Read1 {
    Header,
    Element(Element),
}

impl Stream {
    pub fn connect(to: SocketAddr) -> Outcome<Self> {
        let socket = TcpStream::connect_timeout(&to, SOON).map_err(|e| format!("{to}: {e}"))?;
        Self::on(socket)
    }

    fn on(socket: TcpStream) -> Outcome<Self> {
        socket.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Self { socket, parser: rxml::Parser::new(), open: Vec::new(), header: Element::default() })
    }

    pub fn send(&mut self, text: &str) -> Outcome {
        self.socket.write_all(text.as_bytes()).map_err(|e| format!("an old stream: {e}"))
    }

    /// Sends our header, without a version.
    pub fn greet(&mut self, id: &str, to: &str) -> Outcome {
        let id = if id.is_empty() { String::new() } else { format!(" id='{id}'") };
        self.send(&format!("<?xml version='1.0'?><stream:stream {NAMESPACES}{id} to='{to}'>"))
    }

    /// The next element, or the header; an error when the stream ends.
    fn next(&mut self, end: Instant) -> Outcome<Read1> {
        let mut one = [0; 1];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("an old stream: nothing came".into());
            }
            self.socket.set_read_timeout(Some(left)).map_err(|e| e.to_string())?;
            // An octet at a time: what follows belongs to the next element.
            match self.socket.read(&mut one) {
                Ok(0) => return Err("an old stream was closed".into()),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(e) => return Err(format!("an old stream: {e}")),
            }
            let mut octets = &one[..];
            loop {
                match self.parser.parse(&mut octets, false) {
                    Ok(Some(event)) => {
                        let is_header = self.open.is_empty() && matches!(event, Event::StartElement(..));
                        let element = add(&mut self.open, event, 1);
                        if is_header {
                            self.header = self.open[0].clone();
                            return Ok(Read1::Header);
                        }
                        if let Some(element) = element {
                            return Ok(Read1::Element(element));
                        }
                    }
                    Ok(None) | Err(EndOrError::NeedMoreData) => break,
                    Err(EndOrError::Error(e)) => return Err(format!("an old stream: bad XML: {e}")),
                }
            }
        }
    }

    /// Waits for the header of the other side.
    pub fn wait_header(&mut self, within: Duration) -> Outcome {
        match self.next(Instant::now() + within)? {
            Read1::Header => Ok(()),
            Read1::Element(element) => Err(format!("there came {element:?} before a header")),
        }
    }

    /// Waits for the next element.
    pub fn wait_element(&mut self, within: Duration) -> Outcome<Element> {
        match self.next(Instant::now() + within)? {
            Read1::Header => Err("a second header".into()),
            Read1::Element(element) => Ok(element),
        }
    }

    /// Waits for its end; gives the stream error before it, if there was one.
    pub fn wait_end(&mut self, within: Duration) -> Outcome<Option<Element>> {
        let (end, mut error) = (Instant::now() + within, None);
        loop {
            match self.next(end) {
                Ok(Read1::Element(element)) if element.name == "error" => error = Some(element),
                Ok(_) => {}
                Err(why) if why.contains("nothing came") => return Err("the stream did not end".into()),
                Err(_) => return Ok(error),
            }
        }
    }
}

impl OldServer {
    /// Listens at `address` for `domain`.
    pub fn new(domain: &str, address: SocketAddr, theirs: &str, gateway: SocketAddr) -> Outcome<Self> {
        let listener = TcpListener::bind(address).map_err(|e| format!("old server on {address}: {e}"))?;
        listener.set_nonblocking(true).map_err(|e| e.to_string())?;
        let shared = Arc::new(Shared {
            domain: domain.into(),
            theirs: theirs.into(),
            gateway,
            stanzas: Mutex::default(),
            changed: Condvar::new(),
            count: AtomicU32::new(0),
            ended: AtomicBool::new(false),
        });
        let served = shared.clone();
        std::thread::spawn(move || {
            while !served.ended.load(Ordering::Relaxed) {
                let Ok((socket, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                };
                let _ = socket.set_nonblocking(false);
                let served = served.clone();
                std::thread::spawn(move || served.serve(socket));
            }
        });
        Ok(Self { shared, out: Mutex::default() })
    }

    /// A further stream that the gateway believes.
    pub fn stream(&self) -> Outcome<Stream> {
        self.shared.prove()
    }

    /// Sends a stanza, on a stream that is made and proved by dialback when there is none.
    pub fn send(&self, stanza: &str) -> Outcome {
        let mut out = self.out.lock().expect("no panic with it");
        if out.as_mut().is_some_and(|stream| stream.send(stanza).is_ok()) {
            return Ok(());
        }
        let mut stream = self.shared.prove()?;
        stream.send(stanza)?;
        *out = Some(stream);
        Ok(())
    }

    /// Waits for a stanza.
    pub fn wait(&self, what: &str, within: Duration, fits: impl Fn(&Element) -> bool) -> Outcome<Element> {
        let end = Instant::now() + within;
        let mut stanzas = self.shared.stanzas.lock().expect("no panic with it");
        loop {
            if let Some(place) = stanzas.iter().position(&fits) {
                return Ok(stanzas.remove(place));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("{} waited for {what}; has {stanzas:?}", self.shared.domain));
            }
            stanzas = self.shared.changed.wait_timeout(stanzas, left).expect("no panic with it").0;
        }
    }
}

impl Drop for OldServer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// The key that we give for a stream id.
    fn key(id: &str) -> String {
        format!("old-{id}-key")
    }

    /// A stream to the gateway that it believes.
    fn prove(&self) -> Outcome<Stream> {
        let mut stream = Stream::connect(self.gateway)?;
        stream.greet("", &self.theirs)?;
        stream.wait_header(SOON)?;
        let id = stream.header.attribute("id").to_string();
        let (ours, theirs) = (&self.domain, &self.theirs);
        stream.send(&format!("<db:result from='{ours}' to='{theirs}'>{}</db:result>", Self::key(&id)))?;
        let answer = stream.wait_element(SOON)?;
        match (&*answer.name, answer.attribute("type")) {
            ("result", "valid") => Ok(stream),
            _ => Err(format!("dialback was answered {answer:?}")),
        }
    }

    /// What a stream of the gateway's brings.
    fn serve(&self, socket: TcpStream) {
        let _ = self.serve_to_the_end(socket);
    }

    fn serve_to_the_end(&self, socket: TcpStream) -> Outcome {
        let mut stream = Stream::on(socket)?;
        stream.wait_header(SOON)?;
        let id = format!("old{}", self.count.fetch_add(1, Ordering::Relaxed));
        stream.greet(&id, &self.theirs)?;
        let mut is_proved = false;
        loop {
            let element = stream.wait_element(Duration::from_secs(600))?;
            let (from, to) = (element.attribute("from").to_string(), element.attribute("to").to_string());
            match &*element.name {
                "verify" => {
                    let good = element.text == Self::key(element.attribute("id")) && to == self.domain;
                    let (kind, id) = (if good { "valid" } else { "invalid" }, element.attribute("id"));
                    stream.send(&format!("<db:verify from='{to}' to='{from}' id='{id}' type='{kind}'/>"))?;
                }
                "result" => {
                    is_proved = self.ask(&from, &id, &element.text)?;
                    let kind = if is_proved { "valid" } else { "invalid" };
                    stream.send(&format!("<db:result from='{to}' to='{from}' type='{kind}'/>"))?;
                }
                _ if is_proved => {
                    self.stanzas.lock().expect("no panic with it").push(element);
                    self.changed.notify_all();
                }
                _ => return Err("a stanza before dialback".into()),
            }
        }
    }

    /// Asks the gateway, as the server of its domain, whether it gave this key.
    fn ask(&self, theirs: &str, id: &str, key: &str) -> Outcome<bool> {
        let mut stream = Stream::connect(self.gateway)?;
        stream.greet("", theirs)?;
        stream.wait_header(SOON)?;
        stream.send(&format!("<db:verify from='{}' to='{theirs}' id='{id}'>{key}</db:verify>", self.domain))?;
        let answer = stream.wait_element(SOON)?;
        Ok(answer.name == "verify" && answer.attribute("type") == "valid")
    }
}
