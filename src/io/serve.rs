//! `latimer serve`: from the configuration to the loop, and to a clean end.

use super::journal::Journal;
use super::log::{self, Log, Quoted};
use super::reactor::Reactor;
use super::store;
use super::tls::{Material, Tls, Unusable};
use crate::appliance::config::Config;
use crate::appliance::slots::{self, Chosen};
use crate::base::counters::Counter;
use crate::base::net::Transport;
use crate::base::outbox::Level;
use crate::base::text::Escaped;
use crate::base::time::Instant;
use crate::gateway::Gateway;
use crate::gateway::input::Input;
use crate::limits::LINKS_MAX;
use crate::settings::Settings;
use core::time::Duration;
use std::path::PathBuf;

/// Name, version and commit, without the name.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("LATIMER_COMMIT"), ")");

/// How long the protocols may take to say goodbye before their connections are
/// closed.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(2);
/// How long peers have to close their side, when all was sent.
const LAST_WORDS_TIME: Duration = Duration::from_millis(500);
/// How long a clean end may take; the promise is five seconds, the process's own end
/// among them.
const END_TIME_MAX: Duration = Duration::from_millis(4500);

/// Descriptors for listeners, files, signals and the log.
const DESCRIPTORS_BESIDES: u64 = 280;

/// What stands behind `serve` on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `--config`: the binary configuration.
    pub config: PathBuf,
    /// `--state`: the folder of what must survive a restart.
    pub state: PathBuf,
    /// `--control`: the socket for consoles.
    pub control: PathBuf,
}

/// Serves until it is told to end. The error is a sentence for the operator.
pub fn run(options: &Options) -> Result<(), String> {
    log::to_stderr();
    raise_descriptor_limit();
    let mut server = Server::start(options)?;
    server.reactor.watch_signals().map_err(|e| format!("cannot watch signals: {e}"))?;
    server.say_ready();
    loop {
        let asked = server.turn()?;
        if asked.end {
            return server.end();
        }
        if asked.reload {
            server.reload(options);
        }
    }
}

/// Asks for as many descriptors as there may be links; with fewer, accepting rests
/// when they are used up.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = LINKS_MAX as u64 + DESCRIPTORS_BESIDES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        // What is refused leaves the limit as it was.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum });
    }
}

/// 256 bits of chance from the operating system.
pub fn seed() -> Result<[u8; 32], String> {
    let mut seed = [0; 32];
    let mut filled = 0;
    while let Some(rest) = seed.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| format!("the operating system gives no random numbers: {e}"))?;
    }
    Ok(seed)
}

/// What `io` makes of a configuration, unless it cannot be used.
pub fn usable(config: &Config) -> Result<(Tls, Vec<log::Syslog>), Unusable> {
    let certificates: Vec<_> = config
        .tls
        .certificates
        .iter()
        .map(|certificate| (certificate.name.as_str(), certificate.chain.as_str(), certificate.key.as_str()))
        .collect();
    let trust: Vec<_> =
        config.tls.trust.iter().map(|trust| (trust.name.as_str(), trust.certificates.as_str())).collect();
    let revoked: Vec<_> =
        config.tls.revoked.iter().map(|revoked| (revoked.name.as_str(), revoked.lists.as_str())).collect();
    let public_roots = config.tls.public_roots;
    let material = Material { certificates: &certificates, trust: &trust, revoked: &revoked, public_roots };
    let syslog = match config.system.syslog {
        None => None,
        Some(syslog) => match syslog.transport {
            Transport::Udp => Some(log::Syslog::Udp(syslog.address)),
            Transport::Tcp => Some(log::Syslog::Tcp(syslog.address)),
            Transport::Tls => {
                let what = "tls: not in this version; allowed: udp:ADDR:PORT, tcp:ADDR:PORT; example: \
                            set system log syslog tcp:192.0.2.14:514";
                return Err(Unusable { path: "system log syslog".into(), what: what.into() });
            }
        },
    };
    Ok((Tls::new(&material)?, syslog.into_iter().collect()))
}

struct Server {
    reactor: Reactor,
    gateway: Gateway,
    /// Of the configuration that is obeyed.
    generation: u64,
}

impl Server {
    fn start(options: &Options) -> Result<Self, String> {
        let Chosen { config, generation, other_damaged, .. } = read(options)?;
        let (tls, syslog) = usable(&config).map_err(|e| e.to_string())?;
        let mut reactor =
            Reactor::new(seed()?, tls, Log::new()).map_err(|e| format!("cannot set up the event loop: {e}"))?;
        reactor.set_log(config.system.log_level, |log| log.configure(&config.settings.host_name, &syslog));
        if other_damaged {
            say_damaged(&mut reactor);
        }
        let secret = store::secret(&options.state, seed()?);
        if let (None, Some(fault)) = (&config.settings.xmpp.dialback_secret, &secret.fault) {
            reactor.say(
                Level::Warn,
                "state.not-kept",
                format_args!("side=ours cause={} effect=new-dialback-secret-after-restart", Quoted(fault)),
            );
        }
        let settings = complete(config.settings);
        reactor.listen(&settings.listeners)?;
        // Messages pass without anybody watching.
        if let Err(cause) = reactor.open_control(&options.control) {
            reactor.say(
                Level::Warn,
                "control.not-open",
                format_args!("side=ours cause={} effect=no-consoles", Quoted(&cause)),
            );
        }
        let mut gateway = Gateway::new(settings, &secret.octets);
        let (journal, found) = Journal::open(&options.state, reactor.now());
        reactor.set_journal(journal);
        reactor.with(|cx| gateway.restore(cx, &mut found.records()));
        // A new file that is needed at once is there before anybody is heard.
        while reactor.compact(&mut |from, record| gateway.snapshot(from, record)) {}
        Ok(Self { gateway, reactor, generation })
    }

    /// Says that every listener is up, whatever the log level.
    fn say_ready(&mut self) {
        let generation = self.generation;
        let listeners: Vec<String> = self
            .gateway
            .settings()
            .listeners
            .iter()
            .map(|listener| format!("{}={}", Escaped(&listener.name), listener.address))
            .collect();
        self.reactor.announce(
            "latimer.ready",
            format_args!("version={} generation={generation} listen={}", Quoted(VERSION), listeners.join(",")),
        );
    }

    fn turn(&mut self) -> Result<super::reactor::Asked, String> {
        self.turn_before(None)
    }

    /// One turn of the loop that waits until then at most, and a slice of the journal's
    /// new file if there is one.
    fn turn_before(&mut self, until: Option<Instant>) -> Result<super::reactor::Asked, String> {
        let Self { reactor, gateway, .. } = self;
        let soon = [gateway.deadline(), until].into_iter().flatten().min();
        let asked = reactor.turn(soon, &mut |cx, input| gateway.handle(cx, input)).map_err(|e| failed(&e))?;
        reactor.compact(&mut |from, record| gateway.snapshot(from, record));
        reactor.serve_consoles(gateway, VERSION);
        Ok(asked)
    }

    /// Takes over the configuration file as it is now, or keeps all as it was.
    fn reload(&mut self, options: &Options) {
        match self.commit(options) {
            Ok(generation) => {
                self.generation = generation;
                self.reactor.say(Level::Info, "config.committed", format_args!("generation={generation}"));
                self.say_counters();
            }
            Err(cause) => self.reactor.say(
                Level::Error,
                "config.refused",
                format_args!("side=ours cause={} effect=the-old-one-stays", Quoted(&cause)),
            ),
        }
    }

    fn commit(&mut self, options: &Options) -> Result<u64, String> {
        let Chosen { config, generation, other_damaged, .. } = read(options)?;
        let (tls, syslog) = usable(&config).map_err(|e| e.to_string())?;
        let settings = complete(config.settings);
        self.reactor.listen(&settings.listeners)?;
        if other_damaged {
            say_damaged(&mut self.reactor);
        }
        self.reactor.set_tls(tls);
        self.reactor.set_log(config.system.log_level, |log| log.configure(&settings.host_name, &syslog));
        let Self { reactor, gateway, .. } = self;
        reactor.with(|cx| gateway.configure(cx, settings));
        Ok(generation)
    }

    /// Lets what is under way come to its end, for as long as is promised: first the
    /// protocols, then whatever connections they left open.
    fn end(mut self) -> Result<(), String> {
        let links = self.reactor.links();
        self.reactor.say(Level::Info, "latimer.ending", format_args!("links={links}"));
        self.reactor.stop_accepting();
        let Self { reactor, gateway, .. } = &mut self;
        reactor.with(|cx| gateway.handle(cx, Input::Shutdown));
        let begun = reactor.now();
        self.turn_until(begun.after(FAREWELL_TIME_MAX), |server| {
            server.reactor.streams() == 0 && server.gateway.messages_under_way() == 0
        })?;
        self.reactor.close_all();
        let closed = self.reactor.now();
        self.turn_until(closed.after(LAST_WORDS_TIME), |server| server.reactor.streams() == 0)?;
        // Who has been sent everything needs no more waiting for.
        self.turn_until(begun.after(END_TIME_MAX), |server| server.reactor.unsent() == 0)?;
        self.say_counters();
        let left = self.reactor.streams();
        self.reactor.announce("latimer.ended", format_args!("links={left}"));
        self.reactor.finish();
        Ok(())
    }

    /// Says what was counted so far, leaving out what never happened: the balance of
    /// what came in, and why the rest was refused.
    fn say_counters(&mut self) {
        let counters = self.reactor.counters();
        let counted: Vec<String> = Counter::ALL
            .iter()
            .filter(|counter| counters.of(**counter) > 0)
            .map(|counter| format!("{}={}", counter.name(), counters.of(*counter)))
            .collect();
        self.reactor.announce("latimer.counters", format_args!("{}", counted.join(" ")));
    }

    fn turn_until(&mut self, until: Instant, done: impl Fn(&Self) -> bool) -> Result<(), String> {
        while !done(self) && self.reactor.now() < until {
            self.turn_before(Some(until))?;
        }
        Ok(())
    }
}

fn failed(error: &std::io::Error) -> String {
    format!("the event loop failed: {error}")
}

fn read(options: &Options) -> Result<Chosen, String> {
    let file = store::read_config(&options.config)?;
    slots::choose(&file).map_err(|e| format!("{}: {e}", options.config.display()))
}

/// The settings with what only this machine knows.
fn complete(mut settings: Settings) -> Settings {
    if settings.dns_servers.is_empty() {
        settings.dns_servers = store::system_resolvers();
    }
    settings
}

fn say_damaged(reactor: &mut Reactor) {
    reactor.say(
        Level::Warn,
        "config.slot-damaged",
        format_args!("side=ours effect=none cause=the-older-slot-is-not-whole advice=load-the-configuration-again"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::commands;
    use crate::base::net::ListenerId;
    use std::net::{TcpListener, TcpStream};

    /// A folder with a configuration, gone after the test.
    struct Folder(Options);

    impl Folder {
        fn new(name: &str, text: &str) -> Self {
            let state = std::env::temp_dir().join(format!("latimer-serve-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&state).expect("a folder");
            let control = state.join("latimer.sock");
            let it = Self(Options { config: state.join("latimer.conf"), state, control });
            it.load(text);
            it
        }

        fn load(&self, text: &str) {
            let change = |file: &[u8]| commands::load(text.as_bytes(), file).map(|load| (load.offset, load.octets, ()));
            store::update_config(&self.0.config, change).expect("a good text");
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0.state);
        }
    }

    const TEXT: &str = "set system host-name gw.example\nset sip domain sip.example\n\
                        set partner xmpp.example\nset tls public-roots false\nset sip listen a tcp:127.0.0.1:0\n";

    fn address(server: &Server) -> std::net::SocketAddr {
        server.reactor.local_address(ListenerId(0)).expect("a listener")
    }

    #[test]
    fn a_commit_takes_over_what_changed_and_keeps_what_did_not() {
        let folder = Folder::new("commit", TEXT);
        let mut server = Server::start(&folder.0).expect("a start");
        let before = address(&server);
        assert_eq!(server.generation, 1);
        folder.load(&format!("{TEXT}set partner other.example\n"));
        server.reload(&folder.0);
        assert_eq!(server.generation, 2);
        assert_eq!(server.gateway.settings().partners.len(), 2);
        assert_eq!(address(&server), before);
    }

    #[test]
    fn a_commit_that_cannot_be_carried_out_changes_nothing() {
        let folder = Folder::new("refused", TEXT);
        let mut server = Server::start(&folder.0).expect("a start");
        let before = address(&server);
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let blocked = taken.local_addr().expect("an address");
        folder.load(&format!("{TEXT}set partner other.example\nset sip listen b tcp:{blocked}\n"));
        server.reload(&folder.0);
        assert_eq!((server.generation, address(&server)), (1, before));
        assert_eq!(server.gateway.settings().partners.len(), 1);
        std::fs::write(&folder.0.config, b"LATIMERc damaged").expect("written");
        server.reload(&folder.0);
        assert_eq!(server.generation, 1);
        TcpStream::connect(before).expect("it still listens");
    }

    #[test]
    fn a_port_in_use_is_named_with_its_cause() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let blocked = taken.local_addr().expect("an address");
        let folder = Folder::new("port", &TEXT.replace("127.0.0.1:0", &blocked.to_string()));
        let error = Server::start(&folder.0).err().expect("a port in use");
        assert!(error.contains(&blocked.to_string()) && error.contains("in use"), "{error}");
    }

    #[test]
    fn a_damaged_configuration_is_no_empty_one() {
        let folder = Folder::new("damaged", TEXT);
        std::fs::write(&folder.0.config, b"").expect("written");
        let error = Server::start(&folder.0).err().expect("nothing to obey");
        assert!(error.contains("empty"), "{error}");
        let nowhere = std::path::Path::new("/nonexistent");
        let [config, control] = ["latimer.conf", "latimer.sock"].map(|name| nowhere.join(name));
        let missing = Options { config, state: nowhere.into(), control };
        let error = Server::start(&missing).err().expect("no file");
        assert!(error.starts_with("cannot read /nonexistent/latimer.conf"), "{error}");
    }

    #[test]
    fn contacts_have_their_file_before_anybody_is_heard_and_a_bad_folder_stops_nothing() {
        let folder = Folder::new("journal", TEXT);
        let server = Server::start(&folder.0).expect("a start");
        let file = std::fs::read(folder.0.state.join("contacts.0")).expect("a file");
        assert_eq!(crate::base::journal::read(&file).expect("a journal").generation, 1);
        server.end().expect("a clean end");
        let nowhere = Options {
            config: folder.0.config.clone(),
            state: "/proc/nonexistent".into(),
            control: "/proc/nonexistent/latimer.sock".into(),
        };
        let mut server = Server::start(&nowhere).expect("a start");
        server.turn_until(server.reactor.now().after(Duration::from_millis(50)), |_| false).expect("turns");
        assert!(server.reactor.counters().of(Counter::StoreFailed) > 0);
    }

    #[test]
    fn the_end_is_quick_when_nobody_is_connected() {
        let folder = Folder::new("end", TEXT);
        let server = Server::start(&folder.0).expect("a start");
        let begun = std::time::Instant::now();
        server.end().expect("a clean end");
        assert!(begun.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn the_end_waits_for_peers_no_longer_than_promised() {
        let folder = Folder::new("slow-end", TEXT);
        let mut server = Server::start(&folder.0).expect("a start");
        let _idle = TcpStream::connect(address(&server)).expect("a connection");
        while server.reactor.streams() == 0 {
            server.turn().expect("a turn");
        }
        let begun = std::time::Instant::now();
        server.end().expect("a clean end");
        assert!(begun.elapsed() < Duration::from_millis(4900));
    }

    #[test]
    fn a_console_is_answered_by_the_gateway_that_runs() {
        use std::io::{Read, Write};
        let folder = Folder::new("console", TEXT);
        let mut server = Server::start(&folder.0).expect("a start");
        let mut console = std::os::unix::net::UnixStream::connect(&folder.0.control).expect("it listens");
        console.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        console.write_all(b"show version\nshow contact a b\nshow contacts\n").expect("room");
        console.shutdown(std::net::Shutdown::Write).expect("a shutdown");
        let heard = std::thread::spawn(move || {
            let mut text = String::new();
            console.read_to_string(&mut text).map(|_| text)
        });
        while !heard.is_finished() {
            let soon = server.reactor.now().after(Duration::from_millis(50));
            server.turn_until(soon, |_| false).expect("a turn");
        }
        let text = heard.join().expect("no panic").expect("an answer");
        assert!(text.starts_with(&format!(" latimer {VERSION}\n+\n-a and b are no contacts")), "{text}");
        assert!(text.ends_with(" 0 contacts shown\n+\n"), "{text}");
        server.end().expect("a clean end");
        assert!(!folder.0.control.exists());
    }

    #[test]
    fn a_socket_that_cannot_be_opened_keeps_nobody_from_writing() {
        let mut folder = Folder::new("no-console", TEXT);
        folder.0.control = "/nonexistent/latimer.sock".into();
        let server = Server::start(&folder.0).expect("a start");
        TcpStream::connect(address(&server)).expect("it listens");
    }
}
