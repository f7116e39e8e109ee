//! The socket that consoles connect to, and those that did.
//!
//! What is spoken there: a request is one line, ended by LF or CR LF. Its answer is any
//! number of lines, each of which begins with a blank that does not belong to it, and
//! then one line that is `+` or, if the request was refused, `-` and a sentence that
//! says why. Requests are answered in their order, whatever was sent ahead. Who finds
//! all places taken gets a refusal unasked and the end of the connection.
//!
//! Who may connect may ask everything: the socket's mode, 0600, is the only lock, and
//! it is set before anybody can connect.
//!
//! A console costs the gateway little whatever it does. Its line is bounded, and what
//! is longer is thrown away up to its end; the next part of an answer is made when the
//! last one has left, so who does not read holds one slice and its own place; and a
//! turn of the loop makes one slice for each console.

use crate::appliance::console::{self, Answer, Running};
use crate::limits::{ACCEPTS_PER_TURN_MAX, CONSOLE_LINE_OCTETS_MAX, CONSOLES_MAX};
use mio::event::Event;
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Event sources it needs: the listener's, then one for each console.
pub const TOKENS: usize = 1 + CONSOLES_MAX;

/// Only the gateway's own user may connect.
const MODE: u32 = 0o600;
/// Consoles the kernel completes ahead of us.
const BACKLOG: i32 = 16;
/// Octets read from a console at once.
const READ_OCTETS: usize = 4096;
/// Things done for one console before the others have their turn.
const STEPS_PER_TURN_MAX: usize = 16;

/// The socket for consoles, gone from the disk when this is dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    /// Device and number of the file, so that a successor's is left alone.
    file: (u64, u64),
    listener: UnixListener,
    /// Does the listener have more than was taken in one turn?
    more: bool,
    first_token: usize,
    consoles: [Option<Console>; CONSOLES_MAX],
}

/// One connection.
#[derive(Debug)]
struct Console {
    stream: UnixStream,
    /// What came and was not looked at.
    input: Vec<u8>,
    /// Is the line too long, and its end still to come?
    skipping: bool,
    /// What is to be sent.
    output: Vec<u8>,
    /// How much of it has left.
    sent: usize,
    /// The answer that is being given.
    answer: Option<Answer>,
    /// Does it wait for something to happen at the gateway?
    waiting: bool,
    /// May there be something to read?
    readable: bool,
    /// Is there room to send?
    writable: bool,
    /// Will nothing more come?
    ended: bool,
}

/// How a step of a console went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There may be more to do.
    Went,
    /// A slice was made: that is enough for this turn.
    Enough,
    /// Nothing can be done until the kernel says so.
    Waits,
    /// The connection is over.
    Over,
}

impl Control {
    /// Opens the socket at `path`. One that nobody listens on any more is replaced; the
    /// error is a sentence. Event sources count from `first_token` on.
    pub fn open(path: &Path, registry: &Registry, first_token: usize) -> Result<Self, String> {
        let failed = |e: &dyn core::fmt::Display| format!("cannot open the socket {}: {e}", path.display());
        let address = SocketAddrUnix::new(path).map_err(|e| failed(&e))?;
        make_room(path, &address).map_err(|cause| failed(&cause))?;
        let mut control = Self::listen(path, &address, first_token).map_err(|e| failed(&e))?;
        registry.register(&mut control.listener, Token(first_token), Interest::READABLE).map_err(|e| failed(&e))?;
        Ok(control)
    }

    fn listen(path: &Path, address: &SocketAddrUnix, first_token: usize) -> io::Result<Self> {
        let socket = socket()?;
        rustix::net::bind(&socket, address)?;
        fs::set_permissions(path, Permissions::from_mode(MODE))?;
        let file = fs::symlink_metadata(path)?;
        // From here on others can connect.
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self {
            path: path.into(),
            file: (file.dev(), file.ino()),
            listener: UnixListener::from_std(socket.into()),
            more: false,
            first_token,
            consoles: [const { None }; CONSOLES_MAX],
        })
    }

    /// Notes what the kernel says of the event source at `place`, counted from our first.
    pub fn set_ready(&mut self, place: usize, event: &Event) {
        let Some(place) = place.checked_sub(1) else {
            self.more = true;
            return;
        };
        if let Some(Some(console)) = self.consoles.get_mut(place) {
            console.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            console.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
        }
    }

    /// Is there anything to do before the kernel reports something?
    pub fn has_work(&self) -> bool {
        self.more || self.consoles.iter().flatten().any(Console::has_work)
    }

    /// Takes new consoles and lets each go on a little. Says how many were sent away
    /// because all places were taken.
    pub fn turn(&mut self, registry: &Registry, gateway: &mut dyn Running) -> usize {
        let refused = self.accept(registry);
        for place in &mut self.consoles {
            if place.as_mut().is_some_and(|console| console.turn(gateway) == Step::Over) {
                *place = None;
            }
        }
        refused
    }

    fn accept(&mut self, registry: &Registry) -> usize {
        let mut refused = 0;
        if !self.more {
            return refused;
        }
        for _ in 0..ACCEPTS_PER_TURN_MAX {
            match self.listener.accept() {
                Ok((stream, _)) => refused += usize::from(!self.admit(registry, stream)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // Without descriptors or memory, too: the next one that connects is
                // reason to look again.
                Err(_) => {
                    self.more = false;
                    break;
                }
            }
        }
        refused
    }

    fn admit(&mut self, registry: &Registry, mut stream: UnixStream) -> bool {
        let Some(place) = self.consoles.iter().position(Option::is_none) else {
            let text = format!("-all {CONSOLES_MAX} consoles are in use; allowed: to try again when one has left\n");
            // A socket that is new has room for a line.
            let _ = stream.write(text.as_bytes());
            return false;
        };
        let token = Token(self.first_token + 1 + place);
        // What the kernel does not watch would never be served.
        let is_watched = registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE).is_ok();
        if let Some(free) = self.consoles.get_mut(place).filter(|_| is_watched) {
            *free = Some(Console::new(stream));
        }
        is_watched
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let is_ours = |file: fs::Metadata| (file.dev(), file.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // One that stays is replaced by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that nobody listens on. What is no socket, or is somebody's, stays,
/// and the error says so.
fn make_room(path: &Path, address: &SocketAddrUnix) -> Result<(), String> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e.to_string()),
    };
    if !file.file_type().is_socket() {
        return Err("there is something that is no socket, and is left alone".into());
    }
    // Without waiting: a gateway that hangs must not hold up another one.
    match socket().and_then(|socket| Ok(rustix::net::connect(&socket, address)?)) {
        Ok(()) => Err("another gateway listens there".into()),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Err("another gateway listens there, and is busy".into()),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

fn socket() -> io::Result<rustix::fd::OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

impl Console {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            skipping: false,
            output: Vec::new(),
            sent: 0,
            answer: None,
            waiting: false,
            readable: true,
            writable: true,
            ended: false,
        }
    }

    fn has_work(&self) -> bool {
        if self.output.is_empty() {
            match &self.answer {
                Some(_) => !self.waiting,
                None => self.readable || self.ended || self.input.contains(&b'\n'),
            }
        } else {
            self.writable
        }
    }

    fn turn(&mut self, gateway: &mut dyn Running) -> Step {
        for _ in 0..STEPS_PER_TURN_MAX {
            match self.step(gateway) {
                Step::Went => {}
                other => return other,
            }
        }
        Step::Enough
    }

    /// Does the first of the things that can be done: what was begun comes before what
    /// is new, so that nothing piles up.
    fn step(&mut self, gateway: &mut dyn Running) -> Step {
        if !self.output.is_empty() {
            self.send()
        } else if let Some(answer) = &mut self.answer {
            let mut text = String::new();
            let (is_whole, leaves) = (!answer.next(gateway, &mut text), answer.leaves);
            let failed = answer.failed.take();
            self.waiting = answer.is_waiting() && text.is_empty();
            if self.waiting {
                return Step::Waits;
            }
            for line in text.lines() {
                self.output.push(b' ');
                self.output.extend_from_slice(line.as_bytes());
                self.output.push(b'\n');
            }
            if is_whole {
                match failed {
                    Some(sentence) => self.refuse(&sentence),
                    None => self.output.extend_from_slice(b"+\n"),
                }
                self.answer = None;
                if leaves {
                    self.ended = true;
                    self.input.clear();
                }
            }
            let sent = self.send();
            if sent == Step::Went { Step::Enough } else { sent }
        } else if let Some(end) = self.input.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            self.on_line(&line, gateway);
            Step::Went
        } else if self.ended {
            // Half a line is no request: its other half may have changed its meaning.
            Step::Over
        } else if self.readable {
            self.read()
        } else {
            Step::Waits
        }
    }

    fn on_line(&mut self, line: &[u8], gateway: &mut dyn Running) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let begun = if core::mem::take(&mut self.skipping) || line.len() > CONSOLE_LINE_OCTETS_MAX {
            Err(format!("the line is too long; allowed: {CONSOLE_LINE_OCTETS_MAX} octets"))
        } else {
            core::str::from_utf8(line)
                .map_err(|_| "the line is no text; allowed: UTF-8".into())
                .and_then(|line| console::begin(line, gateway))
        };
        match begun {
            Ok(answer) => self.answer = Some(answer),
            Err(sentence) => self.refuse(&sentence),
        }
    }

    fn refuse(&mut self, sentence: &str) {
        self.output.push(b'-');
        self.output.extend_from_slice(sentence.as_bytes());
        self.output.push(b'\n');
    }

    /// Reads once. There is no whole line in `input`.
    fn read(&mut self) -> Step {
        let mut buffer = [0; READ_OCTETS];
        match self.stream.read(&mut buffer) {
            Ok(0) => (self.readable, self.ended) = (false, true),
            Ok(length) => {
                if self.input.len() > CONSOLE_LINE_OCTETS_MAX {
                    self.input.clear();
                    self.skipping = true;
                }
                self.input.extend_from_slice(buffer.get(..length).unwrap_or_default());
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Step::Over,
        }
        Step::Went
    }

    fn send(&mut self) -> Step {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(length) => self.sent += length,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.writable = false;
                    return Step::Waits;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Step::Over,
            }
        }
        self.output.clear();
        self.sent = 0;
        Step::Went
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::console::tests::Fake;
    use mio::{Events, Poll};
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixStream as Peer;
    use std::time::Duration;

    /// A control socket in a folder of its own, with a loop around it.
    struct Bench {
        folder: PathBuf,
        poll: Poll,
        events: Events,
        control: Option<Control>,
        gateway: Fake,
        refused: usize,
    }

    impl Bench {
        fn new(name: &str, contacts: u32) -> Self {
            let folder = std::env::temp_dir().join(format!("latimer-control-{}-{name}", std::process::id()));
            fs::create_dir_all(&folder).expect("a folder");
            let poll = Poll::new().expect("a poll");
            let control = Control::open(&folder.join("s"), poll.registry(), 100).expect("a socket");
            let gateway = Fake { contacts, ..Fake::default() };
            Self { folder, poll, events: Events::with_capacity(16), control: Some(control), gateway, refused: 0 }
        }

        fn path(&self) -> PathBuf {
            self.folder.join("s")
        }

        fn control(&self) -> &Control {
            self.control.as_ref().expect("open")
        }

        fn connect(&self) -> Peer {
            let peer = Peer::connect(self.path()).expect("it listens");
            peer.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
            peer
        }

        fn turn(&mut self) {
            let control = self.control.as_mut().expect("open");
            let wait = if control.has_work() { Duration::ZERO } else { Duration::from_millis(5) };
            self.poll.poll(&mut self.events, Some(wait)).expect("a poll");
            for event in &self.events {
                control.set_ready(event.token().0 - 100, event);
            }
            self.refused += control.turn(self.poll.registry(), &mut self.gateway);
            for console in control.consoles.iter().flatten() {
                assert!(console.input.len() <= CONSOLE_LINE_OCTETS_MAX + READ_OCTETS);
                assert!(console.output.len() <= 2 * crate::limits::CONSOLE_SLICE_OCTETS_MAX);
            }
        }

        /// Turns while somebody else speaks.
        fn during<T: Send + 'static>(&mut self, speak: impl FnOnce() -> T + Send + 'static) -> T {
            let other = std::thread::spawn(speak);
            while !other.is_finished() {
                self.turn();
            }
            other.join().expect("no panic")
        }

        /// What is answered to `octets`, after which nothing more comes.
        fn answered(&mut self, octets: &[u8]) -> Vec<String> {
            let (mut peer, octets) = (self.connect(), octets.to_vec());
            self.during(move || {
                peer.write_all(&octets).expect("room");
                peer.shutdown(std::net::Shutdown::Write).expect("a shutdown");
                BufReader::new(peer).lines().map(|line| line.expect("a line")).collect()
            })
        }

        fn consoles(&self) -> usize {
            self.control().consoles.iter().flatten().count()
        }

        fn until(&mut self, done: impl Fn(&Self) -> bool) {
            for _ in 0..400 {
                if done(self) {
                    return;
                }
                self.turn();
            }
            panic!("it never came");
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn requests_are_answered_in_their_order() {
        let mut bench = Bench::new("order", 1);
        let answer = bench.answered(b"show version\r\ndance\n\n# nothing\nshow contacts\n");
        assert_eq!(answer[..2], [" latimer 0.1 (test)", "+"]);
        assert!(answer[2].starts_with("-'dance' is not known here; allowed: "), "{answer:?}");
        assert_eq!(answer[3..5], ["+", "+"]);
        assert_eq!(answer[7..], [" 1 contact shown", "+"]);
        bench.until(|bench| bench.consoles() == 0);
    }

    #[test]
    fn the_socket_is_ours_alone_and_gone_at_the_end() {
        let mut bench = Bench::new("mode", 0);
        let mode = fs::symlink_metadata(bench.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = Control::open(&bench.path(), bench.poll.registry(), 200).expect_err("it is taken");
        assert!(error.contains("another gateway listens there"), "{error}");
        bench.control = None;
        assert!(!bench.path().exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_anything_else_is_left_alone() {
        let mut bench = Bench::new("stale", 0);
        bench.control = None;
        drop(std::os::unix::net::UnixListener::bind(bench.path()).expect("a socket"));
        assert!(bench.path().exists());
        bench.control = Some(Control::open(&bench.path(), bench.poll.registry(), 100).expect("it is stale"));
        assert_eq!(bench.answered(b"show version\n").len(), 2);
        // A successor's socket outlives the one before.
        fs::remove_file(bench.path()).expect("there");
        let successor = Control::open(&bench.path(), bench.poll.registry(), 200).expect("room");
        bench.control = None;
        assert!(bench.path().exists());
        drop(successor);
        fs::write(bench.path(), "precious").expect("written");
        let error = Control::open(&bench.path(), bench.poll.registry(), 100).expect_err("no socket");
        assert!(error.contains("no socket"), "{error}");
        assert!(bench.path().exists());
        let long = bench.folder.join("x".repeat(200));
        assert!(Control::open(&long, bench.poll.registry(), 100).is_err());
    }

    #[test]
    fn who_asks_for_much_gets_it_all() {
        let mut bench = Bench::new("much", 20_000);
        let answer = bench.answered(b"show contacts\nshow version\n");
        assert_eq!(answer.len(), 20_002 + 1 + 2);
        assert_eq!(answer[20_001..], [" 20000 contacts shown", "+", " latimer 0.1 (test)", "+"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_and_the_next_one_is_answered() {
        let mut bench = Bench::new("long", 0);
        for length in [CONSOLE_LINE_OCTETS_MAX + 1, 3 * CONSOLE_LINE_OCTETS_MAX, 1 << 20] {
            let mut octets = vec![b'x'; length];
            octets.extend_from_slice(b"\nshow version\n");
            let answer = bench.answered(&octets);
            assert_eq!(answer, ["-the line is too long; allowed: 4096 octets", " latimer 0.1 (test)", "+"], "{length}");
        }
        let mut octets = b"show version #".to_vec();
        octets.resize(CONSOLE_LINE_OCTETS_MAX, b'x');
        octets.push(b'\n');
        assert_eq!(bench.answered(&octets), [" latimer 0.1 (test)", "+"]);
    }

    #[test]
    fn rubbish_is_refused_line_by_line_and_comes_back_harmless() {
        let mut bench = Bench::new("rubbish", 3);
        let mut rng = crate::base::rng::Rng::from_seed([7; 32]);
        for _ in 0..20 {
            let octets: Vec<u8> = (0..10_000).map(|_| rng.below(256) as u8).collect();
            let requests = octets.iter().filter(|octet| **octet == b'\n').count();
            let answer = bench.answered(&octets);
            let ends = answer.iter().filter(|line| line.starts_with(['+', '-'])).count();
            assert_eq!(ends, requests);
            assert!(!answer.iter().any(|line| line.contains(char::is_control)), "{answer:?}");
        }
        assert_eq!(bench.answered(b"\0\n"), ["-'\\x00' is not known here; allowed: help, show, test, exit, quit"]);
        assert_eq!(bench.answered(b"show \xFF\n"), ["-the line is no text; allowed: UTF-8"]);
    }

    #[test]
    fn half_a_line_is_no_request() {
        let mut bench = Bench::new("half", 0);
        assert!(bench.answered(b"show version").is_empty());
        let mut peer = bench.connect();
        peer.write_all(b"show ver").expect("room");
        bench.until(|bench| bench.consoles() == 1);
        drop(peer);
        bench.until(|bench| bench.consoles() == 0);
    }

    #[test]
    fn who_leaves_is_let_go() {
        let mut bench = Bench::new("leave", 0);
        assert_eq!(bench.answered(b"quit\nshow version\n"), ["+"]);
    }

    #[test]
    fn a_console_that_waits_for_a_test_costs_no_turns_and_hears_each_line_when_it_is_said() {
        let mut bench = Bench::new("test", 0);
        let mut peer = bench.connect();
        peer.write_all(b"test user lena@chat.example to marta@voip.example\nshow version\n").expect("room");
        bench.until(|bench| !bench.gateway.test.is_empty());
        for _ in 0..3 {
            bench.turn();
            assert!(!bench.control().has_work());
        }
        bench.gateway.said = 1;
        let heard = bench.during(move || {
            peer.shutdown(std::net::Shutdown::Write).expect("a shutdown");
            BufReader::new(peer).lines().map(|line| line.expect("a line")).collect::<Vec<_>>()
        });
        assert_eq!(heard[..2], [" lena@chat.example writes to marta@voip.example", "-red at delivered: \\x07"]);
        assert_eq!(heard[2..], [" latimer 0.1 (test)", "+"]);
    }

    #[test]
    fn who_does_not_read_holds_one_slice_and_hinders_nobody() {
        let mut bench = Bench::new("slow", 50_000);
        let mut slow = bench.connect();
        slow.write_all(b"show contacts\nshow contacts\n").expect("room");
        bench.until(|bench| bench.consoles() == 1 && !bench.control().has_work());
        for _ in 0..20 {
            bench.turn();
        }
        assert!(!bench.control().has_work(), "the loop runs hot");
        assert_eq!(bench.answered(b"show version\n").len(), 2);
        // It reads after all, and misses nothing.
        slow.shutdown(std::net::Shutdown::Write).expect("a shutdown");
        let lines = bench.during(move || BufReader::new(slow).lines().count());
        assert_eq!(lines, 2 * 50_003);
        // One that goes away instead leaves no trace.
        let mut gone = bench.connect();
        gone.write_all(b"show contacts\n").expect("room");
        bench.until(|bench| bench.consoles() == 1 && !bench.control().has_work());
        drop(gone);
        bench.until(|bench| bench.consoles() == 0);
    }

    #[test]
    fn one_console_too_many_is_sent_away_with_the_reason() {
        let mut bench = Bench::new("many", 0);
        let peers: Vec<Peer> = (0..CONSOLES_MAX).map(|_| bench.connect()).collect();
        bench.until(|bench| bench.consoles() == CONSOLES_MAX);
        let answer = bench.answered(b"");
        assert_eq!(answer, ["-all 8 consoles are in use; allowed: to try again when one has left"]);
        assert_eq!(bench.refused, 1);
        drop(peers);
        bench.until(|bench| bench.consoles() == 0);
        assert_eq!(bench.answered(b"show version\n").len(), 2);
    }
}
