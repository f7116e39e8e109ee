//! A gateway that is killed again and again in the middle of subscription traffic, and
//! started again with the same files: `kill -9` at random moments, from one seed. What was
//! acknowledged before a kill holds after it.
//!
//! The program is the real one, on sockets of loopback in the clear; its two neighbours
//! live here: a SIP server over UDP, and an XMPP server with Server Dialback and stream
//! management. Like real ones they send again what was not answered or acknowledged.
//! After the last kill they are left alone until everything was asked anew, which the
//! gateway spreads over 41 seconds, and then:
//!
//! - who lets himself be watched was not asked once more, and who was told `subscribed`
//!   still watches;
//! - XMPP watchers were told the present state, and those who gave it up were told nothing;
//! - SIP watchers could refresh their dialogs, or got 481 and a new one without anybody
//!   being asked, and were told the present state.
//!
//! `KILLS=200 SEED=7 cargo test --release --test kill9 -- --nocapture` is the long run;
//! without `KILLS` it is 20 kills.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Pairs of users in each direction.
const PAIRS: usize = 12;
/// Everything is told again within this time after a start.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// How long a request or a stanza waits before it is sent again.
const RESEND: Duration = Duration::from_millis(300);
/// An approval that crossed a question on its way is none that was asked for twice.
const CROSSING: Duration = Duration::from_secs(2);
const SHOWS: [&str; 4] = ["away", "chat", "dnd", "xa"];

#[test]
fn what_was_acknowledged_before_a_kill_holds_after_it() {
    let number = |name: &str, or: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or);
    let (kills, seed) = (number("KILLS", 20), number("SEED", 1));
    let mut town = Town::new(seed);
    for kill in 0..=kills {
        town.start();
        if kill == kills {
            break;
        }
        // Mostly before the first records are safe, sometimes long after it.
        let lives = if town.chance.below(5) == 0 { town.chance.below(1500) } else { 50 + town.chance.below(250) };
        let until = Instant::now() + Duration::from_millis(lives);
        while Instant::now() < until {
            town.act();
            town.look_around();
        }
        town.gateway.kill();
    }
    let problems = town.settle();
    println!("kill9: seed={seed} kills={kills} {:?}", town.told);
    assert!(problems.is_empty(), "seed={seed} kills={kills}:\n{}\n{}", problems.join("\n"), town.gateway.log());
}

/// Chance from a seed (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// The program under test and its files.
struct Gateway {
    folder: PathBuf,
    process: Option<Child>,
    starts: usize,
}

impl Gateway {
    fn new(lines: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("latimer-kill9-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("config.set"), lines).expect("a file");
        let mut load = Command::new(env!("CARGO_BIN_EXE_latimer"));
        load.args(["config", "load"]).arg(folder.join("config.set")).arg("--config").arg(folder.join("config.bin"));
        let loaded = load.output().expect("it runs");
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        Self { folder, process: None, starts: 0 }
    }

    fn start(&mut self) {
        self.starts += 1;
        let log = std::fs::File::create(self.log_file()).expect("a file");
        let mut serve = Command::new(env!("CARGO_BIN_EXE_latimer"));
        serve.arg("serve").arg("--config").arg(self.folder.join("config.bin"));
        serve.arg("--state").arg(self.folder.join("state"));
        self.process = Some(serve.stdin(Stdio::null()).stderr(log).spawn().expect("it runs"));
        let end = Instant::now() + Duration::from_secs(20);
        while !self.log().contains("latimer.ready") {
            assert!(Instant::now() < end, "it did not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGKILL: it has no say in it.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join(format!("log.{}", self.starts))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// What was counted on the way, for whoever reads the output.
#[derive(Debug, Default)]
struct Told {
    subscribed: usize,
    unsubscribed: usize,
    notified: usize,
    refreshed: usize,
    begun_anew: usize,
}

/// The gateway and both neighbours.
struct Town {
    gateway: Gateway,
    chance: Chance,
    sip: Sip,
    xmpp: Xmpp,
    told: Told,
    /// XMPP users who watch SIP users, and SIP users who watch XMPP users.
    watches: Vec<Watch>,
    grants: Vec<Grant>,
    started: Instant,
    /// What went wrong so far.
    problems: Vec<String>,
    is_quiet: bool,
}

/// What an XMPP user wants of a SIP user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wish {
    #[default]
    Nothing,
    Watch,
    NoMore,
}

/// The XMPP user `lena<n>` watches the SIP user `paul<n>`.
#[derive(Debug, Default)]
struct Watch {
    wish: Wish,
    /// The stanza that said so was acknowledged.
    is_acknowledged: bool,
    /// `subscribed` came since the wish.
    is_subscribed: bool,
    /// What the SIP user shows now.
    show: usize,
    /// Dialogs the gateway made, by Call-ID, the latest last.
    dialogs: Vec<Served>,
    /// What was told since the last start, if anything was.
    seen: Option<String>,
    /// A SUBSCRIBE came since the last start.
    is_asked: bool,
}

/// A dialog in which the gateway watches.
#[derive(Debug)]
struct Served {
    call_id: String,
    their_tag: String,
    target: String,
    cseq: u32,
}

/// The SIP user `marta<n>` watches the XMPP user `emil<n>`.
#[derive(Debug, Default)]
struct Grant {
    dialog: Option<Mine>,
    /// What the XMPP user shows now.
    show: usize,
    /// He was asked, and since when his answer is acknowledged.
    is_approved: bool,
    approved: Option<Instant>,
    /// The last word of the gateway: state of the subscription and body.
    state: String,
    body: String,
    /// A NOTIFY came since the last start.
    is_told: bool,
    is_refreshed: bool,
}

/// A dialog of a SIP user's own.
#[derive(Debug)]
struct Mine {
    call_id: String,
    tag: String,
    /// The gateway's tag and Contact, once it answered.
    their_tag: String,
    target: String,
    cseq: u32,
    last_notify: u32,
    is_ending: bool,
}

impl Town {
    fn new(seed: u64) -> Self {
        let phone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        phone.set_nonblocking(true).expect("a socket");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("an address");
        let (sip, xmpp) = (free(), free());
        let lines = format!(
            "set system host-name gw.example\nset system log level info\nset tls public-roots false\n\
             set sip listen udp udp:{sip}\nset sip domain voip.example next-hop udp:{}\n\
             set sip domain voip.example peer 127.0.0.0/8\nset xmpp listen servers starttls:{xmpp}\n\
             set partner chat.example type federated\nset partner chat.example tls not-supported\n\
             set partner chat.example sasl not-supported\nset partner chat.example proxy {}\n\
             set presence expires 3600\n",
            phone.local_addr().expect("an address"),
            listener.local_addr().expect("an address")
        );
        let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        chance.below(2);
        Self {
            gateway: Gateway::new(&lines),
            chance,
            sip: Sip { socket: phone, gateway: sip, number: 0, waiting: Vec::new() },
            xmpp: Xmpp { gateway: xmpp, listener, ours: None, theirs: Vec::new(), unacknowledged: Vec::new() },
            told: Told::default(),
            watches: (0..PAIRS).map(|_| Watch::default()).collect(),
            grants: (0..PAIRS).map(|_| Grant::default()).collect(),
            started: Instant::now(),
            problems: Vec::new(),
            is_quiet: false,
        }
    }

    fn start(&mut self) {
        // What the dead one still said is heard first.
        self.look_around();
        self.gateway.start();
        self.started = Instant::now();
        self.xmpp.ours = None;
        for watch in &mut self.watches {
            (watch.seen, watch.is_asked) = (None, false);
        }
        for grant in &mut self.grants {
            (grant.is_told, grant.is_refreshed) = (false, false);
        }
    }

    /// Somebody does something.
    fn act(&mut self) {
        let who = self.chance.below(PAIRS as u64) as usize;
        let show = self.chance.below(SHOWS.len() as u64) as usize;
        match self.chance.below(12) {
            0..3 if self.watches[who].wish != Wish::Watch => self.wish(who, Wish::Watch, "subscribe"),
            3 if self.watches[who].wish == Wish::Watch && self.watches[who].is_subscribed => {
                self.wish(who, Wish::NoMore, "unsubscribe");
            }
            4..7 if self.grants[who].dialog.is_none() => self.subscribe(who),
            7 if self.grants[who].dialog.as_ref().is_some_and(|dialog| !dialog.their_tag.is_empty()) => {
                self.resubscribe(who, 0);
            }
            8 => {
                self.watches[who].show = show;
                self.notify_all(who);
            }
            9 if self.grants[who].is_approved => {
                self.grants[who].show = show;
                self.show(who);
            }
            _ => {}
        }
    }

    /// Lets everything happen that is due, and waits a little.
    fn look_around(&mut self) {
        self.sip.send_again();
        while let Some(message) = self.sip.receive() {
            self.on_sip(&message);
        }
        for what in self.xmpp.turn() {
            match what {
                Heard::Stanza(stanza) => self.on_stanza(&stanza),
                Heard::Acknowledged(stanza) => self.on_acknowledged(&stanza),
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }

    // ---- XMPP users

    fn wish(&mut self, who: usize, wish: Wish, type_: &str) {
        let watch = &mut self.watches[who];
        (watch.wish, watch.is_acknowledged, watch.is_subscribed) = (wish, false, false);
        self.xmpp.send(format!("<presence from='lena{who}@chat.example' to='paul{who}@voip.example' type='{type_}'/>"));
    }

    fn show(&mut self, who: usize) {
        let show = SHOWS[self.grants[who].show];
        self.xmpp.send(format!(
            "<presence from='emil{who}@chat.example/desk' to='marta{who}@voip.example'><show>{show}</show></presence>"
        ));
    }

    fn on_acknowledged(&mut self, stanza: &str) {
        let who = number_of(attribute(stanza, "from"));
        match attribute(stanza, "type") {
            "subscribe" if self.watches[who].wish == Wish::Watch => self.watches[who].is_acknowledged = true,
            "unsubscribe" if self.watches[who].wish == Wish::NoMore => self.watches[who].is_acknowledged = true,
            "subscribed" => self.grants[who].approved = Some(Instant::now()),
            _ => {}
        }
    }

    fn on_stanza(&mut self, stanza: &str) {
        if !stanza.starts_with("<presence") {
            return self.problems.push(format!("an unexpected stanza: {stanza}"));
        }
        let (from, to, type_) = (attribute(stanza, "from"), attribute(stanza, "to"), attribute(stanza, "type"));
        let who = number_of(to);
        match type_ {
            "subscribe" => {
                if self.grants[who].approved.is_some_and(|since| since.elapsed() > CROSSING) {
                    self.problems.push(format!("{to} was asked again although his answer was acknowledged: {stanza}"));
                }
                self.grants[who].is_approved = true;
                self.xmpp.send(format!("<presence from='{to}' to='{from}' type='subscribed'/>"));
                self.show(who);
            }
            "probe" if self.grants[who].is_approved && to.starts_with("emil") => self.show(who),
            "subscribed" => {
                self.watches[who].is_subscribed |= self.watches[who].wish == Wish::Watch;
                self.told.subscribed += 1;
            }
            "unsubscribed" => {
                self.told.unsubscribed += 1;
                if self.watches[who].wish == Wish::Watch && self.watches[who].is_acknowledged && self.is_quiet {
                    self.problems.push(format!("{to} was told that it is over: {stanza}"));
                }
            }
            "" if to.starts_with("lena") => {
                self.watches[who].seen =
                    stanza.split("<show>").nth(1).map(|rest| rest.split('<').next().unwrap_or_default().to_owned());
                if self.watches[who].wish == Wish::NoMore && self.watches[who].is_acknowledged && self.is_quiet {
                    self.problems.push(format!("{to} was told something after he gave it up: {stanza}"));
                }
            }
            "error" => self.problems.push(format!("an error: {stanza}")),
            _ => {}
        }
    }

    // ---- SIP users

    fn subscribe(&mut self, who: usize) {
        let number = self.sip.next();
        let dialog = Mine {
            call_id: format!("call{number}"),
            tag: format!("tag{number}"),
            their_tag: String::new(),
            target: format!("sip:emil{who}@chat.example"),
            cseq: 0,
            last_notify: 0,
            is_ending: false,
        };
        let grant = &mut self.grants[who];
        (grant.dialog, grant.state, grant.body) = (Some(dialog), String::new(), String::new());
        self.resubscribe(who, 3600);
    }

    fn resubscribe(&mut self, who: usize, expires: u32) {
        let Some(dialog) = self.grants[who].dialog.as_mut().filter(|dialog| !dialog.is_ending) else { return };
        dialog.cseq += 1;
        dialog.is_ending = expires == 0;
        let Mine { call_id, tag, their_tag, target, cseq, .. } = dialog;
        let to_tag = if their_tag.is_empty() { String::new() } else { format!(";tag={their_tag}") };
        let request = format!(
            "SUBSCRIBE {target} SIP/2.0\r\n{}Max-Forwards: 70\r\nFrom: <sip:marta{who}@voip.example>;tag={tag}\r\n\
             To: <sip:emil{who}@chat.example>{to_tag}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} SUBSCRIBE\r\n\
             Contact: <sip:marta{who}@{}>\r\nEvent: presence\r\nAccept: application/pidf+xml\r\nExpires: {expires}\r\n\
             Content-Length: 0\r\n\r\n",
            self.sip.via(*cseq),
            self.sip.address()
        );
        let key = (call_id.clone(), *cseq);
        self.sip.request(key, request);
    }

    /// Tells every dialog of the gateway's what a SIP user shows.
    fn notify_all(&mut self, who: usize) {
        for at in 0..self.watches[who].dialogs.len() {
            self.notify(who, at, "active;expires=3500");
        }
    }

    fn notify(&mut self, who: usize, at: usize, state: &str) {
        let show = SHOWS[self.watches[who].show];
        let Some(Served { call_id, their_tag, target, cseq }) = self.watches[who].dialogs.get_mut(at) else { return };
        *cseq += 1;
        let body = if state.starts_with("active") {
            format!(
                "<?xml version='1.0'?><presence xmlns='urn:ietf:params:xml:ns:pidf' entity='pres:paul{who}@voip.example'>\
                 <tuple id='phone'><status><basic>open</basic><show xmlns='jabber:client'>{show}</show></status></tuple>\
                 </presence>"
            )
        } else {
            String::new()
        };
        let content = if body.is_empty() { "" } else { "Content-Type: application/pidf+xml\r\n" };
        let request = format!(
            "NOTIFY {target} SIP/2.0\r\n{}Max-Forwards: 70\r\nFrom: <sip:paul{who}@voip.example>;tag=p{who}\r\n\
             To: <sip:lena{who}@chat.example>;tag={their_tag}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} NOTIFY\r\n\
             Contact: <sip:paul{who}@{}>\r\nEvent: presence\r\nSubscription-State: {state}\r\n{content}\
             Content-Length: {}\r\n\r\n{body}",
            self.sip.via(*cseq),
            self.sip.address(),
            body.len()
        );
        let key = (call_id.clone(), *cseq);
        self.sip.request(key, request);
    }

    fn on_sip(&mut self, message: &str) {
        if let Some(status) = message.strip_prefix("SIP/2.0 ") {
            let status: u16 = status.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0);
            if status >= 200 {
                self.on_response(status, message);
            }
        } else if message.starts_with("SUBSCRIBE") {
            self.on_subscribe(message);
        } else if message.starts_with("NOTIFY") {
            self.on_notify(message);
        } else {
            self.problems.push(format!("an unexpected request: {message}"));
        }
    }

    fn on_response(&mut self, status: u16, message: &str) {
        let (call_id, (cseq, method)) = (header(message, "Call-ID"), cseq_of(message));
        let key = (call_id.to_owned(), cseq);
        let Some(at) = self.sip.waiting.iter().position(|waiting| waiting.key == key) else { return };
        if status == 503 {
            return;
        }
        self.sip.waiting.remove(at);
        if method == "NOTIFY" {
            if status == 481 {
                // A dialog of one that was killed.
                self.watches.iter_mut().for_each(|watch| watch.dialogs.retain(|dialog| dialog.call_id != call_id));
            } else if status != 200 {
                self.problems.push(format!("NOTIFY was answered: {message}"));
            }
            return;
        }
        let Some(who) = self.grants.iter().position(|g| g.dialog.as_ref().is_some_and(|d| d.call_id == call_id)) else {
            return;
        };
        let grant = &mut self.grants[who];
        let Some(dialog) = grant.dialog.as_mut() else { return };
        match status {
            200 if dialog.is_ending => grant.dialog = None,
            200 => {
                grant.is_refreshed |= !dialog.their_tag.is_empty();
                self.told.refreshed += usize::from(!dialog.their_tag.is_empty());
                dialog.their_tag = tag_of(header(message, "To")).to_owned();
                dialog.target = header(message, "Contact").trim_matches(['<', '>']).to_owned();
            }
            481 if dialog.is_ending => grant.dialog = None,
            481 => {
                self.told.begun_anew += 1;
                self.subscribe(who);
            }
            _ => self.problems.push(format!("SUBSCRIBE was answered: {message}")),
        }
    }

    fn on_subscribe(&mut self, message: &str) {
        let who = number_of(header(message, "To"));
        let call_id = header(message, "Call-ID").to_owned();
        let expires = header(message, "Expires");
        let watch = &mut self.watches[who];
        let known = watch.dialogs.iter().position(|dialog| dialog.call_id == call_id);
        if known.is_none() && header(message, "To").contains(";tag=") {
            return self.sip.respond(message, "481 Subscription Does Not Exist", "");
        }
        let more = format!("Contact: <sip:paul{who}@{}>\r\nExpires: {expires}\r\n", self.sip.address());
        self.sip.respond(message, "200 OK", &more);
        let at = known.unwrap_or(watch.dialogs.len());
        if known.is_none() {
            watch.dialogs.push(Served {
                call_id,
                their_tag: tag_of(header(message, "From")).to_owned(),
                target: header(message, "Contact").trim_matches(['<', '>']).to_owned(),
                cseq: 0,
            });
        }
        if expires == "0" {
            self.notify(who, at, "terminated;reason=timeout");
            self.watches[who].dialogs.remove(at);
        } else {
            watch.is_asked = true;
            if self.is_quiet && watch.wish == Wish::NoMore && watch.is_acknowledged {
                self.problems.push(format!("lena{who} gave it up and watches: {message}"));
            }
            self.notify(who, at, "active;expires=3500");
        }
    }

    fn on_notify(&mut self, message: &str) {
        let who = number_of(header(message, "To"));
        let (call_id, (cseq, _)) = (header(message, "Call-ID"), cseq_of(message));
        let grant = &mut self.grants[who];
        let tag = tag_of(header(message, "From"));
        let is_of = |d: &&mut Mine| d.call_id == call_id && (d.their_tag.is_empty() || d.their_tag == tag);
        let Some(dialog) = grant.dialog.as_mut().filter(is_of) else {
            return self.sip.respond(message, "481 Subscription Does Not Exist", "");
        };
        self.told.notified += 1;
        if cseq > dialog.last_notify {
            dialog.last_notify = cseq;
            grant.is_told = true;
            header(message, "Subscription-State").clone_into(&mut grant.state);
            if let Some((_, body)) = message.split_once("\r\n\r\n").filter(|(_, body)| !body.is_empty()) {
                body.clone_into(&mut grant.body);
            }
        }
        let is_over = grant.state.starts_with("terminated");
        if is_over {
            let was_ending = dialog.is_ending;
            grant.dialog = None;
            if !was_ending && self.is_quiet {
                self.problems.push(format!("the watcher marta{who} was thrown out: {message}"));
            }
        }
        self.sip.respond(message, "200 OK", "");
    }

    // ---- The end

    /// Nobody does anything any more: gives what is wrong when everything was told.
    fn settle(&mut self) -> Vec<String> {
        // What is on its way gets there first.
        let until = Instant::now() + CROSSING;
        while Instant::now() < until {
            self.look_around();
        }
        self.is_quiet = true;
        for who in 0..PAIRS {
            let is_open = self.grants[who].dialog.as_ref().is_some_and(|dialog| !dialog.their_tag.is_empty());
            if is_open {
                self.resubscribe(who, 3600);
            }
        }
        while self.started.elapsed() < SETTLED_WITHIN
            && (!self.missing().is_empty() || self.started.elapsed() < CROSSING)
        {
            self.look_around();
        }
        // The state could be overtaken by what comes a moment later.
        let until = Instant::now() + CROSSING;
        while Instant::now() < until {
            self.look_around();
        }
        let mut problems = core::mem::take(&mut self.problems);
        problems.extend(self.missing());
        problems
    }

    /// What the two sides do not agree on.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (who, watch) in self.watches.iter().enumerate() {
            let show = SHOWS[watch.show];
            if !watch.is_acknowledged && watch.wish != Wish::Nothing {
                missing.push(format!("lena{who}: {:?} is not acknowledged", watch.wish));
            }
            if watch.wish != Wish::Watch {
                continue;
            }
            if !watch.is_asked {
                missing.push(format!("lena{who}: no SUBSCRIBE came after the last start"));
            }
            if !watch.is_subscribed {
                missing.push(format!("lena{who}: was never told `subscribed`"));
            }
            if watch.seen.as_deref() != Some(show) {
                missing.push(format!("lena{who}: saw {:?} since the last start, paul{who} shows {show}", watch.seen));
            }
        }
        for (who, grant) in self.grants.iter().enumerate() {
            let Some(dialog) = grant.dialog.as_ref() else { continue };
            let show = SHOWS[grant.show];
            if dialog.their_tag.is_empty() || dialog.is_ending {
                missing.push(format!("marta{who}: the SUBSCRIBE is not answered"));
            }
            if !grant.is_told || !grant.state.starts_with("active") {
                missing
                    .push(format!("marta{who}: was told {:?}, since the last start: {}", grant.state, grant.is_told));
            }
            if !grant.body.contains(&format!(">{show}<")) {
                missing.push(format!("marta{who}: was told {:?}, emil{who} shows {show}", grant.body));
            }
        }
        missing.extend(self.sip.waiting.iter().map(|waiting| format!("not answered: {:?}", waiting.key)));
        missing
    }
}

/// The SIP server: one socket.
struct Sip {
    socket: UdpSocket,
    gateway: SocketAddr,
    number: u64,
    waiting: Vec<Waiting>,
}

/// A request that is not answered yet.
struct Waiting {
    /// Call-ID and CSeq.
    key: (String, u32),
    request: String,
    sent: Instant,
}

impl Sip {
    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("an address")
    }

    fn via(&mut self, cseq: u32) -> String {
        let number = self.next();
        format!("Via: SIP/2.0/UDP {};branch=z9hG4bKk{number}c{cseq};rport\r\n", self.address())
    }

    fn request(&mut self, key: (String, u32), request: String) {
        let _ = self.socket.send_to(request.as_bytes(), self.gateway);
        self.waiting.push(Waiting { key, request, sent: Instant::now() });
    }

    fn send_again(&mut self) {
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.sent.elapsed() > RESEND) {
            waiting.sent = Instant::now();
            let _ = self.socket.send_to(waiting.request.as_bytes(), self.gateway);
        }
    }

    fn receive(&mut self) -> Option<String> {
        let mut buffer = [0; 8192];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((octets, _)) => return Some(String::from_utf8_lossy(&buffer[..octets]).into_owned()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                // A port that nobody listens on for the moment.
                Err(_) => {}
            }
        }
    }

    fn respond(&self, request: &str, status: &str, more: &str) {
        let mut response = format!("SIP/2.0 {status}\r\n");
        for line in request.lines().take_while(|line| !line.is_empty()) {
            if ["Via:", "From:", "Call-ID:", "CSeq:"].iter().any(|name| line.starts_with(name)) {
                let _ = write!(response, "{line}\r\n");
            } else if line.starts_with("To:") {
                let tag = if line.contains(";tag=") { String::new() } else { format!(";tag=p{}", number_of(line)) };
                let _ = write!(response, "{line}{tag}\r\n");
            }
        }
        let _ = self.socket.send_to(format!("{response}{more}Content-Length: 0\r\n\r\n").as_bytes(), self.gateway);
    }
}

fn header<'a>(message: &'a str, name: &str) -> &'a str {
    let mut lines = message.lines().skip(1).take_while(|line| !line.is_empty());
    let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.map(str::trim).unwrap_or_default()
}

fn cseq_of(message: &str) -> (u32, &str) {
    let (number, method) = header(message, "CSeq").split_once(' ').unwrap_or_default();
    (number.parse().unwrap_or(0), method)
}

fn tag_of(value: &str) -> &str {
    value.split(";tag=").nth(1).and_then(|rest| rest.split(';').next()).unwrap_or_default()
}

/// The number of a user in an address.
fn number_of(address: &str) -> usize {
    let user = address.split('@').next().unwrap_or_default();
    user.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0)
}

/// What the XMPP server heard.
enum Heard {
    Stanza(String),
    /// The gateway has taken over this stanza of ours.
    Acknowledged(String),
}

/// The XMPP server: a stream of its own to the gateway, and those the gateway makes.
struct Xmpp {
    gateway: SocketAddr,
    listener: TcpListener,
    ours: Option<Link>,
    theirs: Vec<Link>,
    /// In their order; the first of them were sent on our stream already.
    unacknowledged: Vec<String>,
}

/// One connection.
struct Link {
    socket: TcpStream,
    unread: String,
    is_open: bool,
    /// Stanzas sent on it, and those of them that were acknowledged.
    sent: usize,
    acknowledged: usize,
    is_ended: bool,
}

const SM: &str = "urn:xmpp:sm:3";

fn stream_header(id: &str) -> String {
    format!(
        "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
         xmlns:db='jabber:server:dialback' from='chat.example' to='voip.example'{id} version='1.0'>"
    )
}

impl Xmpp {
    fn send(&mut self, stanza: String) {
        self.unacknowledged.push(stanza);
    }

    /// Reads and writes what there is.
    fn turn(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        while let Ok((socket, _)) = self.listener.accept() {
            self.theirs.push(Link::new(socket));
        }
        for link in &mut self.theirs {
            link.read();
            while let Some(element) = link.next() {
                link.on_their_element(element, &mut heard);
            }
        }
        self.theirs.retain(|link| !link.is_ended);
        if self.ours.is_none()
            && let Ok(socket) = TcpStream::connect(self.gateway)
        {
            let mut link = Link::new(socket);
            link.write(&stream_header(""));
            self.ours = Some(link);
        }
        let Some(link) = &mut self.ours else { return heard };
        link.read();
        while let Some(element) = link.next() {
            if let Some(acknowledged) = link.on_our_element(&element) {
                let new = acknowledged.saturating_sub(link.acknowledged).min(self.unacknowledged.len());
                (link.acknowledged, link.sent) = (acknowledged, link.sent.saturating_sub(new));
                heard.extend(self.unacknowledged.drain(..new).map(Heard::Acknowledged));
            }
        }
        if link.is_open && link.sent < self.unacknowledged.len() {
            for stanza in &self.unacknowledged[link.sent..] {
                link.write(stanza);
            }
            link.sent = self.unacknowledged.len();
            link.write(&format!("<r xmlns='{SM}'/>"));
        }
        if link.is_ended {
            self.ours = None;
        }
        heard
    }
}

impl Link {
    fn new(socket: TcpStream) -> Self {
        let _ = socket.set_nodelay(true);
        socket.set_nonblocking(true).expect("a socket");
        Self { socket, unread: String::new(), is_open: false, sent: 0, acknowledged: 0, is_ended: false }
    }

    fn write(&mut self, text: &str) {
        self.is_ended |= self.socket.write_all(text.as_bytes()).is_err();
    }

    fn read(&mut self) {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(octets @ 1..) => self.unread.push_str(&String::from_utf8_lossy(&buffer[..octets])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {
                    self.is_ended = true;
                    return;
                }
            }
        }
    }

    /// The next whole element; the head of a stream counts as one.
    fn next(&mut self) -> Option<String> {
        let begin = self.unread.find('<')?;
        let tag_end = begin + self.unread[begin..].find('>')? + 1;
        let tag = &self.unread[begin..tag_end];
        let name = tag.trim_start_matches('<').split([' ', '/', '>', '\n', '\'']).next().unwrap_or_default();
        let is_whole = tag.ends_with("/>") || tag.starts_with("<?") || tag.starts_with("</") || name == "stream:stream";
        let end = if is_whole {
            tag_end
        } else {
            let close = format!("</{name}>");
            tag_end + self.unread[tag_end..].find(&close)? + close.len()
        };
        let element = self.unread[begin..end].to_owned();
        self.unread.drain(..end);
        Some(element)
    }

    /// On a stream of the gateway's: it is believed, and stanzas come.
    fn on_their_element(&mut self, element: String, heard: &mut Vec<Heard>) {
        if element.starts_with("<stream:stream") {
            let features = "<stream:features><dialback xmlns='urn:xmpp:features:dialback'/></stream:features>";
            self.write(&format!("{}{features}", stream_header(" id='s'")));
        } else if element.starts_with("<db:result") {
            self.write("<db:result from='chat.example' to='voip.example' type='valid'/>");
        } else if element.starts_with("<db:verify") {
            let id = attribute(&element, "id");
            self.write(&format!("<db:verify from='chat.example' to='voip.example' id='{id}' type='valid'/>"));
        } else if element.starts_with("</") {
            self.is_ended = true;
        } else if !element.starts_with("<?") {
            heard.push(Heard::Stanza(element));
        }
    }

    /// On a stream of ours. Gives how many stanzas the gateway has taken over.
    fn on_our_element(&mut self, element: &str) -> Option<usize> {
        if element.starts_with("<stream:features") {
            self.write("<db:result from='chat.example' to='voip.example'>key</db:result>");
        } else if element.starts_with("<db:result") {
            self.write(&format!("<enable xmlns='{SM}'/>"));
        } else if element.starts_with("<enabled") {
            self.is_open = true;
        } else if element.starts_with("<a ") {
            return attribute(element, "h").parse().ok();
        } else if element.starts_with("</") || element.starts_with("<stream:error") {
            self.is_ended = true;
        }
        None
    }
}

/// An attribute of an element's first tag.
fn attribute<'a>(element: &'a str, name: &str) -> &'a str {
    let tag = element.split('>').next().unwrap_or_default();
    let attributes: BTreeMap<&str, &str> = tag
        .split('\'')
        .collect::<Vec<_>>()
        .chunks(2)
        .filter_map(|pair| Some((pair.first()?.rsplit([' ', '<']).next()?.trim_end_matches('='), *pair.get(1)?)))
        .collect();
    attributes.get(name).copied().unwrap_or_default()
}
