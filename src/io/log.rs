//! The log: one event one line, on standard error and, where configured, to syslog
//! collectors (RFC 5424; over TCP with octet counting, RFC 6587).
//!
//! A line that repeats within ten seconds is counted instead of written, and told as
//! `repeated=N` when that time is over. Beyond [`LOG_LINES_PER_SECOND_MAX`] lines are
//! dropped and counted. Nothing here waits: a collector that does not keep up loses
//! lines, never the gateway its time.

use crate::base::counters::{Counter, Counters};
use crate::base::outbox::Level;
use crate::base::time::{Instant, Wall};
use crate::limits::{LOG_LINES_PER_SECOND_MAX, LOG_REMEMBERED_MAX, LOG_SYSLOG_OCTETS_MAX};
use core::fmt::{self, Write as _};
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use mio::net::{TcpStream, UdpSocket};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write as _};

/// How long a line is remembered so that its repeats are only counted.
const COLLAPSE: Duration = Duration::from_secs(10);
/// How long a broken connection to a collector rests before it is tried again.
const RECONNECT: Duration = Duration::from_secs(10);
/// How long a connection to a collector that takes no more is left alone.
const RETRY: Duration = Duration::from_millis(200);
/// The time in which the number of lines is bounded.
const SECOND: Duration = Duration::from_secs(1);

/// Where log lines go besides standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syslog {
    /// One datagram a line.
    Udp(SocketAddr),
    /// A connection, octets counted.
    Tcp(SocketAddr),
}

/// The log.
#[derive(Debug)]
pub struct Log {
    host: String,
    /// Lines written a short time ago, oldest first.
    remembered: VecDeque<Remembered>,
    /// When the current second began, and how many lines it saw.
    second: (Instant, u32),
    /// Lines dropped in the current second.
    dropped: u64,
    collectors: Vec<Collector>,
}

#[derive(Debug)]
struct Remembered {
    level: Level,
    code: &'static str,
    text: String,
    since: Instant,
    repeated: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self::new()
    }
}

impl Log {
    /// A log without collectors; see [`to_stderr`].
    pub fn new() -> Self {
        Self {
            host: "-".into(),
            remembered: VecDeque::new(),
            second: (Instant::ZERO, 0),
            dropped: 0,
            collectors: Vec::new(),
        }
    }

    /// Takes over the name of this host and the collectors; the connections of those
    /// that stay are kept.
    pub fn configure(&mut self, host: &str, collectors: &[Syslog]) {
        self.host = if host.is_empty() { "-".into() } else { host.into() };
        self.collectors.retain(|collector| collectors.contains(&collector.to));
        for to in collectors {
            if !self.collectors.iter().any(|collector| collector.to == *to) {
                self.collectors.push(Collector::new(*to));
            }
        }
    }

    /// Writes a line, or counts it if it repeats or there are too many.
    pub fn line(
        &mut self,
        now: Instant,
        wall: Wall,
        count: &mut Counters,
        level: Level,
        code: &'static str,
        text: &str,
    ) {
        self.timeout(now, wall);
        let same = |line: &&mut Remembered| line.level == level && line.code == code && line.text == text;
        if let Some(line) = self.remembered.iter_mut().find(same) {
            line.repeated += 1;
            count.add(Counter::LogCollapsed);
            return;
        }
        if self.second.1 >= LOG_LINES_PER_SECOND_MAX {
            self.dropped += 1;
            count.add(Counter::LogCollapsed);
            return;
        }
        self.second.1 += 1;
        if self.remembered.len() >= LOG_REMEMBERED_MAX {
            self.forget_oldest(now, wall);
        }
        self.remembered.push_back(Remembered { level, code, text: text.into(), since: now, repeated: 0 });
        self.write(now, wall, level, code, text);
    }

    /// Tells of repeats and of dropped lines whose time is over, and sends what
    /// waits for collectors.
    pub fn timeout(&mut self, now: Instant, wall: Wall) {
        while self.remembered.front().is_some_and(|line| now.since(line.since) >= COLLAPSE) {
            self.forget_oldest(now, wall);
        }
        if now.since(self.second.0) >= SECOND {
            self.second = (now, 0);
            let dropped = core::mem::take(&mut self.dropped);
            if dropped > 0 {
                self.write(now, wall, Level::Warn, "log.dropped", &format!("side=ours cause=rate lines={dropped}"));
            }
        }
        for collector in &mut self.collectors {
            collector.send(now);
        }
    }

    /// When [`Self::timeout`] is next due.
    pub fn deadline(&self) -> Option<Instant> {
        let repeats = self.remembered.iter().find(|line| line.repeated > 0).map(|line| line.since.after(COLLAPSE));
        let dropped = (self.dropped > 0).then(|| self.second.0.after(SECOND));
        let collectors = self.collectors.iter().filter_map(Collector::deadline).min();
        [repeats, dropped, collectors].into_iter().flatten().min()
    }

    /// Tells of all repeats at once: the program ends.
    pub fn finish(&mut self, now: Instant, wall: Wall) {
        while !self.remembered.is_empty() {
            self.forget_oldest(now, wall);
        }
    }

    fn forget_oldest(&mut self, now: Instant, wall: Wall) {
        let Some(mut line) = self.remembered.pop_front() else { return };
        if line.repeated > 0 {
            // Writing to a String cannot fail.
            let _ = write!(line.text, " repeated={}", line.repeated);
            self.write(now, wall, line.level, line.code, &line.text);
        }
    }

    fn write(&mut self, now: Instant, wall: Wall, level: Level, code: &'static str, text: &str) {
        let grade = match level {
            Level::Error => log::Level::Error,
            Level::Warn => log::Level::Warn,
            Level::Info => log::Level::Info,
            Level::Debug => log::Level::Debug,
        };
        log::log!(target: code, grade, "{text}");
        for collector in &mut self.collectors {
            collector.take(now, &message(&self.host, wall, level, code, text));
        }
    }
}

/// Sends the program's log lines to standard error; without it they go to collectors
/// only. Which levels are written is decided where lines are made.
pub fn to_stderr() {
    let config = simplelog::ConfigBuilder::new()
        .set_time_format_rfc3339()
        .set_thread_level(log::LevelFilter::Off)
        .set_location_level(log::LevelFilter::Off)
        .set_target_level(log::LevelFilter::Error)
        .build();
    // It fails when the program has a log already: then that one is used.
    let _ = simplelog::WriteLogger::init(log::LevelFilter::Debug, config, io::stderr());
}

/// A sentence of ours or of a library as a field: in quotes, on one line.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("'")?,
                ' '..='~' => fmt::Write::write_char(f, c)?,
                _ => f.write_str("?")?,
            }
        }
        f.write_str("\"")
    }
}

/// A line as RFC 5424 has it, facility daemon.
fn message(host: &str, wall: Wall, level: Level, code: &str, text: &str) -> String {
    let severity = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug => 7,
    };
    let at = wall.civil();
    format!(
        "<{}>1 {:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z {host} latimer {} {code} - {text}",
        3 * 8 + severity,
        at.year,
        at.month,
        at.day,
        at.hour,
        at.minute,
        at.second,
        wall.0.rem_euclid(1000),
        std::process::id()
    )
}

/// One syslog collector.
#[derive(Debug)]
struct Collector {
    to: Syslog,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Not to be tried before this time.
    Resting(Instant),
    Udp(UdpSocket),
    Tcp {
        stream: TcpStream,
        waiting: VecDeque<u8>,
        /// When the kernel last took no more.
        blocked: Instant,
    },
}

impl Collector {
    const fn new(to: Syslog) -> Self {
        Self { to, state: State::Resting(Instant::ZERO) }
    }

    /// Takes a message; drops it if the collector rests or does not keep up.
    fn take(&mut self, now: Instant, message: &str) {
        self.wake(now);
        match &mut self.state {
            State::Resting(_) => {}
            // A datagram that does not go is lost, as on the network.
            State::Udp(socket) => drop(socket.send(message.as_bytes())),
            State::Tcp { waiting, .. } => {
                let count = format!("{} ", message.len());
                if waiting.len() + count.len() + message.len() <= LOG_SYSLOG_OCTETS_MAX {
                    waiting.extend(count.as_bytes());
                    waiting.extend(message.as_bytes());
                }
            }
        }
        self.send(now);
    }

    fn wake(&mut self, now: Instant) {
        let State::Resting(until) = self.state else { return };
        if now < until {
            return;
        }
        let opened = match self.to {
            Syslog::Udp(to) => open_udp(to).map(State::Udp),
            Syslog::Tcp(to) => {
                TcpStream::connect(to).map(|stream| State::Tcp { stream, waiting: VecDeque::new(), blocked: now })
            }
        };
        self.state = opened.unwrap_or_else(|_| State::Resting(now.after(RECONNECT)));
    }

    /// Sends what waits.
    fn send(&mut self, now: Instant) {
        let State::Tcp { stream, waiting, blocked } = &mut self.state else { return };
        while !waiting.is_empty() {
            match stream.write(waiting.as_slices().0) {
                Ok(count) => drop(waiting.drain(..count)),
                // Still connecting, or the collector reads slowly.
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    *blocked = now;
                    return;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.state = State::Resting(now.after(RECONNECT));
                    return;
                }
            }
        }
        if waiting.capacity() > 4096 {
            *waiting = VecDeque::new();
        }
    }

    /// While something waits, it is tried again now and then: the socket is not
    /// among those the reactor watches.
    fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Tcp { waiting, blocked, .. } if !waiting.is_empty() => Some(blocked.after(RETRY)),
            _ => None,
        }
    }
}

fn open_udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, UdpSocket as StdUdpSocket};

    /// A log whose lines come to the socket.
    fn collected() -> (Log, StdUdpSocket) {
        let socket = StdUdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        let mut log = Log::new();
        log.configure("gw.example", &[Syslog::Udp(socket.local_addr().expect("an address"))]);
        (log, socket)
    }

    fn next(socket: &StdUdpSocket) -> Option<String> {
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).ok()?;
        String::from_utf8(buffer[..length].to_vec()).ok()
    }

    fn at(millis: u64) -> (Instant, Wall) {
        (Instant::from_millis(millis), Wall(1_768_435_200_000 + millis as i64))
    }

    #[test]
    fn a_line_has_time_host_code_and_fields() {
        let (mut log, socket) = collected();
        let (now, wall) = at(1);
        log.line(now, wall, &mut Counters::default(), Level::Warn, "sip.refused", "side=sip");
        let line = next(&socket).expect("a line");
        let process = std::process::id();
        assert_eq!(line, format!("<28>1 2026-01-15T00:00:00.001Z gw.example latimer {process} sip.refused - side=sip"));
    }

    #[test]
    fn repeats_become_one_line_with_their_number() {
        let (mut log, socket) = collected();
        let mut count = Counters::default();
        for millis in 0..50 {
            let (now, wall) = at(millis);
            log.line(now, wall, &mut count, Level::Info, "a.b", "x=1");
        }
        assert_eq!(log.deadline(), Some(Instant::from_millis(10_000)));
        let (now, wall) = at(10_000);
        log.timeout(now, wall);
        assert!(next(&socket).is_some_and(|line| line.ends_with("a.b - x=1")));
        assert!(next(&socket).is_some_and(|line| line.ends_with("a.b - x=1 repeated=49")));
        assert_eq!(count.of(Counter::LogCollapsed), 49);
        assert_eq!(log.deadline(), None);
    }

    #[test]
    fn a_flood_of_different_lines_is_cut_off_and_its_size_told() {
        let (mut log, socket) = collected();
        let mut count = Counters::default();
        let (now, wall) = at(0);
        for number in 0..1000 {
            log.line(now, wall, &mut count, Level::Info, "a.b", &format!("x={number}"));
        }
        assert!(log.remembered.len() <= LOG_REMEMBERED_MAX);
        assert_eq!(count.of(Counter::LogCollapsed), 1000 - u64::from(LOG_LINES_PER_SECOND_MAX));
        let (now, wall) = at(1000);
        log.timeout(now, wall);
        let mut last = None;
        while let Some(line) = next(&socket) {
            last = Some(line);
        }
        assert!(last.is_some_and(|line| line.ends_with("side=ours cause=rate lines=800")));
    }

    #[test]
    fn lines_over_tcp_have_their_octets_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let mut log = Log::new();
        log.configure("", &[Syslog::Tcp(listener.local_addr().expect("an address"))]);
        let (now, wall) = at(0);
        log.line(now, wall, &mut Counters::default(), Level::Error, "a.b", "x=ü");
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        let (now, wall) = at(200);
        log.timeout(now, wall);
        let mut buffer = [0; 256];
        let length = stream.read(&mut buffer).expect("a message");
        let text = core::str::from_utf8(&buffer[..length]).expect("UTF-8");
        let (octets, message) = text.split_once(' ').expect("a count");
        assert_eq!(octets.parse(), Ok(message.len()));
        assert!(message.starts_with("<27>1 ") && message.ends_with(" a.b - x=ü"));
    }

    #[test]
    fn a_collector_that_is_not_there_costs_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let gone = listener.local_addr().expect("an address");
        drop(listener);
        let mut log = Log::new();
        log.configure("", &[Syslog::Tcp(gone)]);
        for millis in 0..100 {
            let (now, wall) = at(millis * 100);
            log.line(now, wall, &mut Counters::default(), Level::Error, "a.b", &format!("x={millis}"));
        }
    }
}
