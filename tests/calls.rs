//! A call between an office and a user of a public provider, over real TLS connections: the
//! program in the middle, the office's server and the provider's proxy played here. Both
//! show certificates of one CA; what passes is compared octet by octet.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// A CA and what it signs.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
struct Papers {
    chain: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "calls");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, names: &[&str]) -> Papers {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        let name = |name: &&str| SanType::DnsName((*name).try_into().expect("ASCII"));
        params.subject_alt_names = names.iter().map(name).collect();
        let key = KeyPair::generate().expect("a key");
        let chain = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Papers { chain, key: key.serialize_pem() }
    }
}

impl Papers {
    fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes()).map(|c| c.expect("a certificate")).collect();
        (chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key"))
    }
}

/// One end of a TLS connection; messages are cut out of what comes.
struct Link {
    tls: Box<dyn ReadWrite>,
    heard: Vec<u8>,
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

impl Link {
    fn connect(to: SocketAddr, name: &str, papers: &Papers, authority: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("a CA")).expect("a root");
        let (chain, key) = papers.parts();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_root_certificates(roots).with_client_auth_cert(chain, key);
        let name = ServerName::try_from(name.to_string()).expect("a name");
        let tls = ClientConnection::new(Arc::new(config.expect("a client")), name).expect("a connection");
        let socket = patient(TcpStream::connect(to).expect("it listens"));
        Self { tls: Box::new(rustls::StreamOwned::new(tls, socket)), heard: Vec::new() }
    }

    fn accept(listener: &TcpListener, papers: &Papers) -> Self {
        listener.set_nonblocking(true).expect("a listener");
        let begun = Instant::now();
        let socket = loop {
            match listener.accept() {
                Ok((socket, _)) => break socket,
                Err(e) if e.kind() == ErrorKind::WouldBlock && begun.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(e) => panic!("nobody connected: {e}"),
            }
        };
        socket.set_nonblocking(false).expect("a socket");
        let (chain, key) = papers.parts();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth().with_single_cert(chain, key);
        let tls = ServerConnection::new(Arc::new(config.expect("a server"))).expect("a connection");
        Self { tls: Box::new(rustls::StreamOwned::new(tls, patient(socket))), heard: Vec::new() }
    }

    fn send(&mut self, text: &str) {
        self.tls.write_all(text.as_bytes()).expect("it takes it");
        self.tls.flush().expect("it takes it");
    }

    /// The next message, whole.
    fn next(&mut self) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.heard).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                let length: usize = length.expect("a length").trim().parse().expect("a number");
                if body.len() >= length {
                    let whole = head.len() + 4 + length;
                    let message: Vec<u8> = self.heard.drain(..whole).collect();
                    return String::from_utf8(message).expect("text");
                }
            }
            let mut buffer = [0; 4096];
            let count = self.tls.read(&mut buffer).expect("something comes");
            assert!(count > 0, "it hung up");
            self.heard.extend_from_slice(&buffer[..count]);
        }
    }
}

fn patient(socket: TcpStream) -> TcpStream {
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// The program under test, with its files.
struct Latimer {
    process: Child,
    folder: PathBuf,
}

impl Latimer {
    fn start(config: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("latimer-calls-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (text, binary, log) = (folder.join("config.set"), folder.join("config.bin"), folder.join("log"));
        std::fs::write(&text, config).expect("written");
        let latimer = || Command::new(env!("CARGO_BIN_EXE_latimer"));
        let loaded = latimer().args(["config", "load"]).arg(&text).arg("--config").arg(&binary).output();
        let loaded = loaded.expect("it runs");
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        let errors = std::fs::File::create(&log).expect("a file");
        let mut command = latimer();
        command.arg("serve").arg("--config").arg(&binary).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let process = command.spawn().expect("it runs");
        let begun = Instant::now();
        while !std::fs::read_to_string(&log).is_ok_and(|log| log.contains("ready")) {
            assert!(begun.elapsed() < PATIENCE, "it was not ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { process, folder }
    }
}

impl Drop for Latimer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.folder.join("log")).unwrap_or_default());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

fn quoted(pem: &str) -> String {
    format!("\"{}\"", pem.trim_end().replace('\n', "\\n"))
}

const SDP: &str = "v=0\r\no=- 3 1 IN IP4 203.0.113.20\r\ns=-\r\nc=IN IP4 203.0.113.20\r\nt=0 0\r\n\
                   m=audio 40000 RTP/SAVP 114 9\r\na=x-candidate:  odd \t\r\n";

fn invite(to: &str, number: u32, body: &str) -> String {
    format!(
        "INVITE sip:{to} SIP/2.0\r\nRecord-Route: <sip:kontor.example:5061;transport=tls;lr;ms-route-sig=aa>;tag=0C\r\n\
         Via: SIP/2.0/TLS 127.0.0.1:49152;branch=z9hG4bK{number};ms-received-cid=2A00\r\nMax-Forwards: 68\r\n\
         Via: SIP/2.0/TLS 10.1.1.1:50000;branch=z9hG4bKin{number};branched=FALSE\r\n\
         From: \"Ada\"<sip:ada@kontor.example>;tag=a{number};epid=01\r\nTo: <sip:{to}>\r\nCall-ID: call{number}\r\n\
         CSeq: 1 INVITE\r\nContact: <sip:ada@kontor.example;opaque=user:epid:Q;gruu>\r\nX-Odd: 1;;2\r\nX-Odd: 3\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What the receiver of a request answers.
fn response(request: &str, status: &str, body: &str) -> String {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for line in request.split("\r\n").take_while(|line| !line.is_empty()) {
        if ["Via: ", "From: ", "Call-ID: ", "CSeq: ", "Record-Route: "].iter().any(|name| line.starts_with(name)) {
            text += &format!("{line}\r\n");
        } else if line.starts_with("To: ") {
            text += &format!("{line}{}\r\n", if line.contains(";tag=") { "" } else { ";tag=b" });
        }
    }
    text + &format!(
        "Contact: <sip:boje@198.51.100.77>\r\nX-Back:  kept\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A message without one line.
fn without(text: &str, begin: &str) -> String {
    let line = text.split("\r\n").find(|line| line.starts_with(begin)).expect(begin);
    text.replacen(&format!("{line}\r\n"), "", 1)
}

#[test]
fn a_call_crosses_real_connections_and_what_may_not_is_refused_at_once() {
    let authority = Authority::new();
    let gateway = authority.sign(&["bruecke.example"]);
    let office_papers = authority.sign(&["kontor.example", "127.0.0.1"]);
    let proxy_papers = authority.sign(&["127.0.0.1", "boje.example"]);
    let (office_listener, office_at) = listen();
    let (proxy_listener, proxy_at) = listen();
    let gateway_at = {
        let (_free, at) = listen();
        at
    };
    let latimer = Latimer::start(&format!(
        "set system host-name bruecke.example\nset tls public-roots false\nset tls trust calls {}\n\
         set tls certificate ours chain {}\nset tls certificate ours key {}\n\
         set sip listen tls tls:{gateway_at}\nset sip domain kontor.example next-hop tls:{office_at}\n\
         set sip domain kontor.example dialect lync\nset sip domain kontor.example peer kontor.example\n\
         set partner wiese.example type federated\n\
         set provider boje enabled true\nset provider boje proxy {proxy_at}\nset provider boje domain boje.example\n\
         set provider boje audio true\n",
        quoted(&authority.pem),
        quoted(&gateway.chain),
        quoted(&gateway.key),
    ));
    let mut office = Link::connect(gateway_at, "bruecke.example", &office_papers, &authority);
    let sent = invite("boje@boje.example", 1, SDP);
    office.send(&sent);
    assert!(office.next().starts_with("SIP/2.0 100 Trying\r\n"));
    let mut proxy = Link::accept(&proxy_listener, &proxy_papers);
    let request = proxy.next();
    let rest = without(&without(&request, "Via: SIP/2.0/TLS bruecke.example"), "Record-Route: <sip:bruecke.example");
    assert_eq!(rest, sent.replace("Max-Forwards: 68", "Max-Forwards: 67"));

    for status in ["183 Session Progress", "200 OK"] {
        let answer = response(&request, status, SDP);
        proxy.send(&answer);
        let back = office.next();
        assert_eq!(back, without(&answer, "Via: SIP/2.0/TLS bruecke.example").replace("X-Back:  ", "X-Back: "));
    }
    let ours = request.split("\r\n").find_map(|line| line.strip_prefix("Record-Route: <sip:bruecke"));
    let route = format!("<sip:bruecke{}", ours.expect("our Record-Route"));
    office.send(&format!(
        "ACK sip:boje@198.51.100.77 SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:49152;branch=z9hG4bKack\r\nMax-Forwards: 70\r\n\
         Route: {route}\r\nFrom: <sip:ada@kontor.example>;tag=a1\r\nTo: <sip:boje@boje.example>;tag=b\r\n\
         Call-ID: call1\r\nCSeq: 1 ACK\r\nContent-Length: 0\r\n\r\n"
    ));
    let ack = proxy.next();
    assert!(ack.starts_with("ACK sip:boje@198.51.100.77 SIP/2.0\r\n") && !ack.contains("Route: "), "{ack}");

    // The provider's side hangs up; the office is reached where its next hop is.
    proxy.send(&format!(
        "BYE sip:ada@kontor.example;opaque=user:epid:Q;gruu SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1;branch=z9hG4bKbye\r\n\
         Max-Forwards: 70\r\nRoute: {route}\r\nRoute: <sip:kontor.example:5061;transport=tls;lr;ms-route-sig=aa>;tag=0C\r\n\
         From: <sip:boje@boje.example>;tag=b\r\nTo: <sip:ada@kontor.example>;tag=a1;epid=01\r\nCall-ID: call1\r\n\
         CSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n"
    ));
    let mut back = Link::accept(&office_listener, &office_papers);
    let bye = back.next();
    assert!(bye.starts_with("BYE sip:ada@kontor.example;opaque=user:epid:Q;gruu SIP/2.0\r\n"), "{bye}");
    assert!(bye.contains("\r\nRoute: <sip:kontor.example:5061;transport=tls;lr;ms-route-sig=aa>;tag=0C\r\n"), "{bye}");
    back.send(&response(&bye, "200 OK", ""));
    assert!(proxy.next().starts_with("SIP/2.0 200 OK\r\n"));

    // No pictures with this provider, and no calls at all with XMPP users.
    let video = SDP.replace("m=audio", "m=video");
    for (number, to, body) in [(2, "boje@boje.example", video.as_str()), (3, "klee@wiese.example", SDP)] {
        let begun = Instant::now();
        office.send(&invite(to, number, body));
        let answer = office.next();
        let took = begun.elapsed();
        assert!(answer.starts_with("SIP/2.0 488 "), "{answer}");
        assert_eq!(answer.matches("ms-diagnostics-public: ").count(), 1, "{answer}");
        assert!(took < Duration::from_millis(200), "{took:?}");
    }
    drop(latimer);
}
