//! The peers on their loopback network, and the gateway under test between them.

use crate::Outcome;
use crate::sip::Agent;
use crate::xmpp::Client;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How the gateway and Kamailio speak with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    Udp,
    Tcp,
    Tls,
}

/// The real peers, started by `tests/peers/up` on a network of this process's own.
pub struct World {
    pub net: String,
    pub run: PathBuf,
    port: AtomicU16,
    guests: AtomicU16,
    /// How many guests there are.
    guests_max: u16,
}

impl World {
    pub fn start() -> Outcome<Self> {
        Self::start_with(&[], 30)
    }

    /// The DNS and the named peers, all of them if none is named, and so many guests.
    pub fn start_with(names: &[&str], guests: u16) -> Outcome<Self> {
        // Neighbouring process ids fall into different networks.
        let pid = std::process::id();
        let net = format!("127.{}.{}", 16 + pid / 250 % 200, 1 + pid % 250);
        let run = std::env::temp_dir().join(format!("latimer-peers-{net}"));
        let world = Self { net, run, port: AtomicU16::new(6000), guests_max: guests, guests: AtomicU16::new(0) };
        world.peers("up", names)?;
        Ok(world)
    }

    /// Runs `tests/peers/up` or `down`.
    pub fn peers(&self, script: &str, names: &[&str]) -> Outcome {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script);
        let mut command = Command::new(path);
        command.args(names).env("PEERS_NET", &self.net).env("PEERS_RUN", &self.run);
        command.env("PEERS_GUESTS", self.guests_max.to_string());
        let output = command.stdin(Stdio::null()).output().map_err(|e| format!("tests/peers/{script}: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("tests/peers/{script} failed:\n{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// An address of a peer: the last number stands for who it is.
    pub fn host(&self, last: u8) -> String {
        format!("{}.{last}", self.net)
    }

    fn address(&self, last: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.host(last).parse().expect("an address"), port)
    }

    /// A fresh port for an agent.
    pub fn agent_address(&self) -> SocketAddr {
        self.address(50, self.port.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub fn kamailio(&self) -> SocketAddr {
        self.address(30, 5060)
    }

    pub fn gateway(&self) -> SocketAddr {
        self.address(40, 5060)
    }

    /// A SIP user, registered at Kamailio.
    pub fn agent(&self, address: &str) -> Outcome<Agent> {
        let mut agent = Agent::new(&format!("sip:{address}"), self.agent_address(), self.kamailio())?;
        agent.register(None)?;
        Ok(agent)
    }

    /// An XMPP user, logged in at the server of the domain.
    pub fn client(&self, user: &str, domain: &str) -> Outcome<Client> {
        let server = if domain.starts_with("ej") { 20 } else { 10 };
        Client::login(&self.host(server), user, domain, "test")
    }

    /// The name of an XMPP user whom nobody knows yet.
    pub fn guest(&self) -> String {
        format!("guest{}", self.guests.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Tells Kamailio how to reach the gateway for an XMPP domain.
    pub fn kamailio_hop(&self, domain: &str, hop: Hop) -> Outcome {
        let to = match hop {
            Hop::Udp => format!("sip:{}:5060;transport=udp", self.host(40)),
            Hop::Tcp => format!("sip:{}:5060;transport=tcp", self.host(40)),
            Hop::Tls => format!("sip:{}:5061;transport=tls", self.host(40)),
        };
        self.kamcmd(&["htable.sets", "hop", domain, &to]).map(drop)
    }

    /// Lets Kamailio carry out a command; gives what it says.
    pub fn kamcmd(&self, words: &[&str]) -> Outcome<String> {
        let socket = format!("unix:{}", self.run.join("kamailio.ctl").display());
        let output = Command::new("kamcmd").args(["-s", &socket]).args(words).output();
        match output.map_err(|e| format!("kamcmd: {e}"))? {
            output if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            output => Err(format!("kamcmd: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    /// Sets what everybody who watches a SIP user gets: `allow`, `confirm` (he has to wait)
    /// or `block`. Those who watch already are told.
    pub fn watchers(&self, address: &str, rule: &str) -> Outcome {
        let (user, domain) = address.split_once('@').unwrap_or((address, ""));
        let sql = format!(
            "insert or replace into xcap (username, domain, doc, doc_type, etag, source, doc_uri, port) \
             select '{user}', '{domain}', doc, 2, 'test', 0, '{address}', 0 from xcap where username = '{rule}' \
             and domain = 'rules'"
        );
        let database = self.run.join("kamailio/presence.db");
        let output = Command::new("sqlite3").args(["-cmd", ".timeout 2000"]).arg(database).arg(sql).output();
        let output = output.map_err(|e| format!("sqlite3: {e}"))?;
        if !output.status.success() {
            return Err(format!("sqlite3: {}", String::from_utf8_lossy(&output.stderr)));
        }
        self.kamcmd(&["presence.refreshWatchers", &format!("sip:{address}"), "presence", "0"]).map(drop)
    }

    /// How many SUBSCRIBEs for a SIP user came to Kamailio.
    pub fn asked(&self, address: &str) -> u32 {
        let said = self.kamcmd(&["htable.get", "asked", address]).unwrap_or_default();
        let value = said.lines().find_map(|line| line.trim().strip_prefix("value: ")?.trim().parse().ok());
        value.unwrap_or(0)
    }

    /// A file of the test CA.
    pub fn pem(&self, name: &str) -> Outcome<String> {
        let path = self.run.join("ca").join(name);
        std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// The log of a peer.
    pub fn peer_log(&self, name: &str) -> String {
        std::fs::read(self.run.join(name)).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let clean: &[&str] = if std::env::var_os("KEEP").is_some() { &[] } else { &["--clean"] };
        let _ = self.peers("down", clean);
    }
}

/// `set` lines for a gateway that stands at `.40`, with all its listeners.
pub struct Config {
    net: String,
    pub text: String,
}

impl Config {
    pub fn new(world: &World) -> Outcome<Self> {
        Self::with_certificate(world, "gw")
    }

    pub fn with_certificate(world: &World, certificate: &str) -> Outcome<Self> {
        let mut config = Self { net: world.net.clone(), text: String::new() };
        let net = &world.net;
        for line in [
            "system host-name gw.example".to_string(),
            format!("system dns server {net}.53:5353"),
            "tls public-roots false".into(),
            format!("tls trust peers {}", quoted(&world.pem("ca.pem")?)),
            format!("tls certificate gw chain {}", quoted(&world.pem(&format!("{certificate}.pem"))?)),
            format!("tls certificate gw key {}", quoted(&world.pem(&format!("{certificate}.key"))?)),
            format!("sip listen udp udp:{net}.40:5060"),
            format!("sip listen tcp tcp:{net}.40:5060"),
            format!("sip listen tls tls:{net}.40:5061"),
            format!("xmpp listen s2s starttls:{net}.40:5269"),
            format!("xmpp listen direct direct-tls:{net}.40:5270"),
        ] {
            config.set(&line);
        }
        Ok(config)
    }

    pub fn set(&mut self, line: &str) -> &mut Self {
        let _ = writeln!(self.text, "set {line}");
        self
    }

    /// A SIP domain behind Kamailio.
    pub fn sip(&mut self, domain: &str, hop: Hop) -> &mut Self {
        let net = self.net.clone();
        match hop {
            Hop::Tls => self.set(&format!("sip domain {domain} next-hop tls:kamailio.example:5061")),
            Hop::Tcp => self.set(&format!("sip domain {domain} next-hop tcp:{net}.30:5060")),
            Hop::Udp => self.set(&format!("sip domain {domain} next-hop udp:{net}.30:5060")),
        };
        if hop != Hop::Tls {
            self.set(&format!("sip domain {domain} peer {net}.30/32"));
        }
        self
    }

    /// A partner with some of its settings, such as `tls optional`.
    pub fn partner(&mut self, domain: &str, settings: &[&str]) -> &mut Self {
        self.set(&format!("partner {domain} type federated"));
        for setting in settings {
            self.set(&format!("partner {domain} {setting}"));
        }
        self
    }
}

pub fn quoted(pem: &str) -> String {
    format!("\"{}\"", pem.trim_end().replace('\n', "\\n"))
}

/// The program under test.
pub struct Latimer {
    child: Child,
    dir: PathBuf,
}

impl Latimer {
    /// Loads the configuration and starts `latimer serve`; back when it is ready.
    pub fn start(world: &World, config: &Config) -> Outcome<Self> {
        Self::start_in(&world.run.join("latimer"), &config.text)
    }

    /// The same with its files in a folder of its own, which is made anew.
    pub fn start_in(dir: &Path, text: &str) -> Outcome<Self> {
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        load(dir, text)?;
        Self::serve(dir, false)
    }

    /// Starts it once more on the files it left.
    pub fn start_again(&mut self) -> Outcome<Duration> {
        let begun = Instant::now();
        *self = Self::serve(&self.dir, true)?;
        Ok(begun.elapsed())
    }

    fn serve(dir: &Path, again: bool) -> Outcome<Self> {
        let log_path = dir.join("log");
        let log = std::fs::OpenOptions::new().create(true).append(again).write(true).open(&log_path);
        let log = log.map_err(|e| e.to_string())?;
        let before = std::fs::metadata(&log_path).map_or(0, |m| m.len()) as usize;
        let mut command = Command::new(env!("CARGO_BIN_EXE_latimer"));
        command.arg("serve").arg("--config").arg(dir.join("config.bin")).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(log).spawn().map_err(|e| e.to_string())?;
        let mut latimer = Self { child, dir: dir.into() };
        let end = Instant::now() + Duration::from_secs(5);
        while !latimer.log().get(before..).is_some_and(|log| log.contains("ready")) {
            if let Ok(Some(status)) = latimer.child.try_wait() {
                return Err(format!("latimer ended at its start: {status}\n{}", latimer.log()));
            }
            if Instant::now() > end {
                return Err("latimer was not ready within 5 s".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(latimer)
    }

    /// Loads another configuration into the file and sends SIGHUP.
    pub fn reload(&self, config: &Config) -> Outcome {
        self.reload_text(&config.text)
    }

    pub fn reload_text(&self, text: &str) -> Outcome {
        load(&self.dir, text)?;
        self.signal("HUP")
    }

    pub fn signal(&self, name: &str) -> Outcome {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        status.map_err(|e| e.to_string()).and_then(|s| if s.success() { Ok(()) } else { Err(format!("kill: {s}")) })
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Outcome<ExitStatus> {
        let end = Instant::now() + within;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().map_err(|e| e.to_string())? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("latimer did not end within {within:?}"))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Waits for a log line that holds all `words`.
    pub fn wait_log(&self, words: &[&str]) -> Outcome<String> {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(line) = self.log().lines().find(|line| words.iter().all(|word| line.contains(word))) {
                return Ok(line.to_string());
            }
            if Instant::now() > end {
                return Err(format!("the log has no line with {words:?}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What a command showed.
#[derive(Debug)]
pub struct Shown {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Latimer {
    /// Runs `latimer test`.
    pub fn test(&self, words: &[&str]) -> Outcome<Shown> {
        self.run("test", words, "")
    }

    /// Runs `latimer console` with these lines.
    pub fn console(&self, lines: &str) -> Outcome<Shown> {
        self.run("console", &[], lines)
    }

    fn run(&self, command: &str, words: &[&str], input: &str) -> Outcome<Shown> {
        use std::io::Write;
        let mut child = Command::new(env!("CARGO_BIN_EXE_latimer"));
        child.arg(command).args(words).arg("--control").arg(self.dir.join("latimer.sock"));
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().map_err(|e| e.to_string())?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that looks at no input may be gone already.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(|e| e.to_string())?;
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let code = output.status.code().unwrap_or(-1);
        Ok(Shown { code, out: text(&output.stdout), err: text(&output.stderr) })
    }
}

impl Drop for Latimer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `latimer config load`.
fn load(dir: &Path, text: &str) -> Outcome {
    let lines = dir.join("config.set");
    std::fs::write(&lines, text).map_err(|e| e.to_string())?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_latimer"));
    let output = command.args(["config", "load"]).arg(&lines).arg("--config").arg(dir.join("config.bin")).output();
    match output.map_err(|e| e.to_string())? {
        output if output.status.success() => Ok(()),
        output => Err(format!("config load: {}", String::from_utf8_lossy(&output.stderr).trim_end())),
    }
}
