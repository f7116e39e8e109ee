//! End to end over loopback: a `latimer serve` process between a SIP peer and an XMPP
//! partner that live here, and for comparison a process that only copies octets between
//! the same two sockets with mio.

use crate::memory::{request, stanza};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Messages under way at one time.
const WINDOW: usize = 32;
/// Octets of the answer that goes back through the relay for each message: a 200.
const ANSWER_OCTETS: usize = 330;

/// What one run of messages cost.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Time between the first request and the last answer, a message.
    pub wall_ns: f64,
    /// Time of a processor spent by the process under test, a message.
    pub cpu_ns: f64,
}

/// Which way messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToXmpp,
    ToSip,
}

/// Messages through the gateway, with TLS on both legs or on none.
pub fn gateway(count: usize, way: Way, tls: bool) -> Run {
    let mut wire = Wire::start(&[], tls);
    wire.run(way, count / 10);
    let before = cpu_ns(wire.process.id());
    let begun = Instant::now();
    wire.run(way, count);
    Run::new(count, begun.elapsed(), cpu_ns(wire.process.id()) - before)
}

/// Instructions a message, by the difference of two counts under callgrind.
pub fn instructions(way: Way, tls: bool) -> f64 {
    let counted = |count: usize| {
        let file = std::env::temp_dir().join(format!("latimer-callgrind-{}-{count}", std::process::id()));
        let out = format!("--callgrind-out-file={}", file.display());
        let mut wire = Wire::start(&["valgrind", "--quiet", "--tool=callgrind", &out], tls);
        wire.run(way, count);
        wire.end();
        let text = std::fs::read_to_string(&file).expect("callgrind writes its file at the end");
        let _ = std::fs::remove_file(&file);
        let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).expect("a line with the total");
        total.trim().parse::<f64>().expect("a number")
    };
    (counted(1200) - counted(200)) / 1000.0
}

/// The same number of messages and answers through the relay.
pub fn relay(count: usize) -> Run {
    let listener = listen();
    let target = listener.local_addr().expect("an address").to_string();
    let mut command = Command::new(std::env::current_exe().expect("our own path"));
    let process = command.args(["relay", &target]).stdout(Stdio::piped()).spawn().expect("the relay starts");
    let mut process = Process(process);
    let mut line = [0; 5];
    process.0.stdout.as_mut().expect("a pipe").read_exact(&mut line).expect("the relay tells its port");
    let port: u16 = std::str::from_utf8(&line).expect("digits").parse().expect("a port");
    let mut sender = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the relay listens");
    sender.set_nodelay(true).expect("a socket");
    let (mut sink, _) = listener.accept().expect("the relay connects");
    sink.set_nodelay(true).expect("a socket");
    let message = request(1, "xmpp.example", "TCP", "127.0.0.1:5060").into_bytes();
    let length = message.len();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        let mut octets = 0;
        while let Ok(count @ 1..) = sink.read(&mut buffer) {
            octets += count;
            let answers = octets / length;
            octets %= length;
            if sink.write_all(&vec![b'a'; answers * ANSWER_OCTETS]).is_err() {
                break;
            }
        }
    });
    let mut exchange = |count: usize| {
        let mut buffer = vec![0; 64 * 1024];
        let (mut sent, mut octets) = (0, 0);
        while octets / ANSWER_OCTETS < count {
            while sent < count && sent - octets / ANSWER_OCTETS < WINDOW {
                sender.write_all(&message).expect("the relay reads");
                sent += 1;
            }
            octets += sender.read(&mut buffer).expect("the relay writes");
        }
    };
    exchange(count / 10);
    let before = cpu_ns(process.id());
    let begun = Instant::now();
    exchange(count);
    Run::new(count, begun.elapsed(), cpu_ns(process.id()) - before)
}

/// The relay process: copies between the connection it accepts and the one it makes.
pub fn be_relay(target: &str) {
    use mio::net::{TcpListener, TcpStream};
    use mio::{Events, Interest, Poll, Token};
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let mut listener = listener;
    print!("{:05}", listener.local_addr().expect("an address").port());
    std::io::stdout().flush().expect("a pipe");
    let mut poll = Poll::new().expect("epoll");
    let mut events = Events::with_capacity(16);
    poll.registry().register(&mut listener, Token(2), Interest::READABLE).expect("epoll");
    poll.poll(&mut events, None).expect("epoll");
    let accepted = listener.accept().expect("a connection").0;
    let made = TcpStream::connect(target.parse().expect("an address")).expect("a socket");
    let mut ends = [accepted, made];
    for (number, end) in ends.iter_mut().enumerate() {
        let _ = end.set_nodelay(true);
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(end, Token(number), both).expect("epoll");
    }
    let mut waiting = [Vec::new(), Vec::new()];
    let mut buffer = vec![0; 64 * 1024];
    loop {
        poll.poll(&mut events, None).expect("epoll");
        for from in 0..2 {
            loop {
                match ends[from].read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) => waiting[1 - from].extend_from_slice(&buffer[..count]),
                    Err(_) => break,
                }
            }
            let to = 1 - from;
            if !waiting[to].is_empty()
                && let Ok(count) = ends[to].write(&waiting[to])
            {
                waiting[to].drain(..count);
            }
        }
    }
}

impl Run {
    fn new(count: usize, wall: Duration, cpu_ns: u64) -> Self {
        Self { wall_ns: wall.as_nanos() as f64 / count as f64, cpu_ns: cpu_ns as f64 / count as f64 }
    }
}

/// The gateway's process, and the ends that it stands between.
struct Wire {
    process: Process,
    /// Our SIP connection to it, and the stream our partner opened to it.
    sip: Box<dyn Both>,
    xmpp: Box<dyn Both>,
    /// Requests that the gateway sent to its next hop and that were answered.
    answered: Arc<AtomicUsize>,
    number: u64,
    _dir: Dir,
}

trait Both: Read + Write + Send {}
impl<T: Read + Write + Send> Both for T {}

impl Wire {
    fn start(under: &[&str], tls: bool) -> Self {
        let dir = Dir::new();
        let (partner, next_hop) = (listen(), listen());
        let (sip, xmpp) = (free_port(), free_port());
        let identity = Arc::new(Identity::new());
        let hop = next_hop.local_addr().expect("an address");
        let mut lines = format!(
            "set system host-name gw.example\nset system log level warn\nset tls public-roots false\n\
             set xmpp listen servers starttls:127.0.0.1:{xmpp}\nset partner xmpp.example type federated\n\
             set partner xmpp.example proxy {}\n",
            partner.local_addr().expect("an address")
        );
        if tls {
            let _ = write!(
                lines,
                "set sip listen sip tls:127.0.0.1:{sip}\nset sip domain sip.example next-hop tls:{hop}\n\
                 set sip domain sip.example peer sip.example\nset tls trust ca {0}\n\
                 set tls certificate ours chain {0}\nset tls certificate ours key {1}\n",
                quoted(&identity.chain),
                quoted(&identity.key)
            );
        } else {
            let _ = write!(
                lines,
                "set sip listen sip tcp:127.0.0.1:{sip}\nset sip domain sip.example next-hop tcp:{hop}\n\
                 set sip domain sip.example peer 127.0.0.1/32\nset partner xmpp.example tls not-supported\n\
                 set partner xmpp.example sasl not-supported\n"
            );
        }
        let process = serve(under, &dir.0, &lines);
        let identity = tls.then_some(identity);
        let answered = Arc::new(AtomicUsize::new(0));
        std::thread::spawn({
            let identity = identity.clone();
            move || be_partner(&partner, identity.as_deref())
        });
        std::thread::spawn({
            let (identity, answered) = (identity.clone(), answered.clone());
            move || be_next_hop(&next_hop, identity.as_deref(), &answered)
        });
        let stream = connect(sip);
        let sip: Box<dyn Both> = match &identity {
            Some(identity) => Box::new(identity.connect(stream)),
            None => Box::new(stream),
        };
        let xmpp = open_stream(connect(xmpp), identity.as_deref());
        let mut wire = Self { process, sip, xmpp, answered, number: 0, _dir: dir };
        wire.run(Way::ToXmpp, 1);
        wire.run(Way::ToSip, 1);
        wire
    }

    fn run(&mut self, way: Way, count: usize) {
        match way {
            Way::ToXmpp => self.send_to_xmpp(count),
            Way::ToSip => self.send_to_sip(count),
        }
    }

    /// Sends `count` stanzas and waits until the next hop has answered as many requests.
    fn send_to_sip(&mut self, count: usize) {
        let begun = self.answered.load(Ordering::Relaxed);
        let mut sent = 0;
        loop {
            let answered = self.answered.load(Ordering::Relaxed) - begun;
            if answered == count {
                return;
            }
            if sent == count || sent - answered >= WINDOW {
                std::thread::yield_now();
                continue;
            }
            self.number += 1;
            sent += 1;
            let stanza = stanza(self.number, "xmpp.example");
            self.xmpp.write_all(stanza.as_bytes()).expect("the gateway reads");
            self.xmpp.flush().expect("the gateway reads");
        }
    }

    /// Sends `count` messages and waits for as many answers.
    fn send_to_xmpp(&mut self, count: usize) {
        let mut buffer = vec![0; 64 * 1024];
        let mut unread: Vec<u8> = Vec::new();
        let (mut sent, mut answered) = (0, 0);
        while answered < count {
            while sent < count && sent - answered < WINDOW {
                self.number += 1;
                let message = request(self.number, "xmpp.example", "TCP", "127.0.0.1:5060");
                self.sip.write_all(message.as_bytes()).expect("the gateway reads");
                self.sip.flush().expect("the gateway reads");
                sent += 1;
            }
            let octets = self.sip.read(&mut buffer).expect("the gateway answers");
            assert!(octets > 0, "the gateway closed the SIP connection");
            unread.extend_from_slice(&buffer[..octets]);
            while let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let answer = String::from_utf8_lossy(&unread[..end]).into_owned();
                assert!(answer.starts_with("SIP/2.0 200") || answer.starts_with("SIP/2.0 1"), "{answer}");
                answered += usize::from(answer.starts_with("SIP/2.0 200"));
                unread.drain(..end + 4);
            }
        }
    }

    /// Ends the process in good order.
    fn end(mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.0.wait();
    }
}

struct Process(Child);

impl Process {
    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("latimer-bench-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder for the gateway's files");
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn serve(under: &[&str], dir: &Path, lines: &str) -> Process {
    let program = env!("CARGO_BIN_EXE_latimer");
    let (text, file, log) = (dir.join("config.set"), dir.join("config.bin"), dir.join("log"));
    std::fs::write(&text, lines).expect("a file");
    let mut load = Command::new(program);
    let loaded = load.args(["config", "load"]).arg(&text).arg("--config").arg(&file).output().expect("it runs");
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    let words: Vec<&str> = under.iter().copied().chain([program, "serve", "--config"]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(&file).stdin(Stdio::null());
    let process = command.stderr(std::fs::File::create(&log).expect("a file")).spawn().expect("it runs");
    let process = Process(process);
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        if std::fs::read_to_string(&log).is_ok_and(|log| log.contains("ready")) {
            return process;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the gateway did not start: {}", std::fs::read_to_string(&log).unwrap_or_default());
}

/// The partner's server: takes the gateway's streams, believes it, and reads.
fn be_partner(listener: &TcpListener, tls: Option<&Identity>) {
    while let Ok((mut stream, _)) = listener.accept() {
        let _ = stream.set_nodelay(true);
        let Some(identity) = tls else {
            answer(&mut stream, "<stream:stream", &format!("{}{FEATURES_DIALBACK}", header(" id='s'")));
            std::thread::spawn(move || {
                let asked = read_until(&mut stream, &["</db:result>", "</db:verify>"]);
                let name = if asked.contains("<db:verify") { "verify" } else { "result" };
                let id = asked.split(" id='").nth(1).and_then(|rest| rest.split('\'').next()).unwrap_or("");
                let id = if name == "verify" { format!(" id='{id}'") } else { String::new() };
                let valid = format!("<db:{name} from='xmpp.example' to='sip.example'{id} type='valid'/>");
                let _ = stream.write_all(valid.as_bytes());
                drain(stream);
            });
            continue;
        };
        answer(&mut stream, "<stream:stream", &format!("{}{FEATURES_TLS}", header(" id='s'")));
        answer(&mut stream, "<starttls", "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        let mut stream = identity.accept(stream);
        answer(&mut stream, "<stream:stream", &format!("{}{FEATURES_SASL}", header(" id='s'")));
        answer(&mut stream, "</auth", "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
        answer(&mut stream, "<stream:stream", &format!("{}<stream:features/>", header(" id='s'")));
        std::thread::spawn(move || drain(stream));
    }
}

/// The partner's stream to the gateway, proved.
fn open_stream(mut stream: TcpStream, tls: Option<&Identity>) -> Box<dyn Both> {
    stream.write_all(header("").as_bytes()).expect("the gateway reads");
    let Some(identity) = tls else {
        answer(&mut stream, "</stream:features", "<db:result from='xmpp.example' to='sip.example'>key</db:result>");
        read_until(&mut stream, &["type='valid'/>"]);
        return Box::new(stream);
    };
    answer(&mut stream, "</stream:features", "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    read_until(&mut stream, &["<proceed"]);
    read_until(&mut stream, &[">"]);
    let mut stream = identity.connect(stream);
    stream.write_all(header("").as_bytes()).expect("the gateway reads");
    let auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>";
    answer(&mut stream, "</stream:features", auth);
    read_until(&mut stream, &["<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"]);
    stream.write_all(header("").as_bytes()).expect("the gateway reads");
    read_until(&mut stream, &["features>", "features/>"]);
    Box::new(stream)
}

/// The SIP next hop: answers every request with 200.
fn be_next_hop(listener: &TcpListener, tls: Option<&Identity>, answered: &Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept() {
        let _ = stream.set_nodelay(true);
        let mut stream: Box<dyn Both> = match tls {
            Some(identity) => Box::new(identity.accept(stream)),
            None => Box::new(stream),
        };
        let answered = answered.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            let mut unread = String::new();
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                unread.push_str(&String::from_utf8_lossy(&buffer[..count]));
                let mut answers = String::new();
                let mut requests = 0;
                while let Some((octets, answer)) = answer_to(&unread) {
                    unread.drain(..octets);
                    answers.push_str(&answer);
                    requests += 1;
                }
                if stream.write_all(answers.as_bytes()).and_then(|()| stream.flush()).is_err() {
                    return;
                }
                answered.fetch_add(requests, Ordering::Relaxed);
            }
        });
    }
}

/// The first whole request of a text: its octets and a 200 for it.
fn answer_to(text: &str) -> Option<(usize, String)> {
    let head = text.find("\r\n\r\n")? + 4;
    let lines = || text[..head].split_inclusive("\r\n");
    let length = lines().find_map(|line| line.strip_prefix("Content-Length: "))?.trim().parse::<usize>().ok()?;
    if text.len() < head + length {
        return None;
    }
    let mut answer = String::from("SIP/2.0 200 OK\r\n");
    let copied = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
    answer.extend(lines().filter(|line| copied.iter().any(|name| line.starts_with(name))));
    Some((head + length, answer + "Content-Length: 0\r\n\r\n"))
}

const FEATURES_TLS: &str =
    "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>";
const FEATURES_SASL: &str = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>\
                             <mechanism>EXTERNAL</mechanism></mechanisms></stream:features>";
const FEATURES_DIALBACK: &str = "<stream:features><dialback xmlns='urn:xmpp:features:dialback'/></stream:features>";

fn header(id: &str) -> String {
    format!(
        "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
         xmlns:db='jabber:server:dialback' from='xmpp.example' to='sip.example'{id} version='1.0'>"
    )
}

/// Reads until a tag that begins with `word` is over, then writes.
fn answer(stream: &mut impl Both, word: &str, text: &str) {
    let came = read_until(stream, &[word]);
    if !came.ends_with('>') {
        read_until(stream, &[">"]);
    }
    let _ = stream.write_all(text.as_bytes());
    let _ = stream.flush();
}

/// Reads, octet by octet, until what came ends with one of the words.
fn read_until(stream: &mut impl Both, words: &[&str]) -> String {
    let mut came = Vec::new();
    let mut octet = [0];
    while !words.iter().any(|word| came.ends_with(word.as_bytes())) {
        if !matches!(stream.read(&mut octet), Ok(1)) {
            break;
        }
        came.push(octet[0]);
    }
    String::from_utf8_lossy(&came).into_owned()
}

fn drain(mut stream: impl Read) {
    let mut buffer = vec![0; 64 * 1024];
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
}

/// One self-signed certificate for everybody here.
struct Identity {
    chain: String,
    key: String,
    certificate: rustls::pki_types::CertificateDer<'static>,
    private: PrivateKeyDer<'static>,
}

impl Identity {
    fn new() -> Self {
        let names = ["sip.example", "xmpp.example", "gw.example"].map(String::from);
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        Self {
            chain: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            certificate: made.cert.der().clone(),
            private: PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key"),
        }
    }

    fn connect(&self, stream: TcpStream) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a root");
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![self.certificate.clone()], self.private.clone_key())
            .expect("a certificate");
        let name = ServerName::try_from("sip.example").expect("a name");
        let session = rustls::ClientConnection::new(Arc::new(config), name).expect("a session");
        rustls::StreamOwned::new(session, stream)
    }

    fn accept(&self, stream: TcpStream) -> rustls::StreamOwned<rustls::ServerConnection, TcpStream> {
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.private.clone_key())
            .expect("a certificate");
        let session = rustls::ServerConnection::new(Arc::new(config)).expect("a session");
        rustls::StreamOwned::new(session, stream)
    }
}

fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")
}

fn free_port() -> u16 {
    listen().local_addr().expect("an address").port()
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the gateway listens");
    stream.set_nodelay(true).expect("a socket");
    stream
}

fn quoted(pem: &str) -> String {
    format!("\"{}\"", pem.trim_end().replace('\r', "").replace('\n', "\\n"))
}

/// Time that a process has spent on a processor.
fn cpu_ns(id: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
