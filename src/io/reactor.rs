//! One loop: wait, read, handle, carry out, flush.
//!
//! A turn waits until something happens or a deadline comes, lets every link that
//! has input be read up to a bound, hands what happened to the gateway, carries out
//! what the gateway wants and sends what waits. No link is read or written so long
//! that another one has to wait for it (promise P5).
//!
//! `Drained` is told one turn after the octets went to the kernel, when one more
//! read found the connection alive: a peer that had closed or reset before shows
//! itself there (promise P1).
//!
//! Links are known to the gateway by numbers that are never given again and to the
//! kernel by their slot, so an event for a link that is gone is at worst a needless
//! look at its successor.

use super::control::{self, Control};
use super::journal::{Journal, Snapshot};
use super::link::{Fault, Input as Found, Link};
use super::listener::{Listeners, Socket};
use super::log::{Log, Quoted};
use super::tls::{self, Tls};
use crate::appliance::console::Live;
use crate::base::certificate::PeerCertificate;
use crate::base::counters::{Counter, Counters};
use crate::base::cx::Cx;
use crate::base::net::{CloseReason, LinkId, ListenerId, Transport};
use crate::base::outbox::{Action, Level, Outbox, TlsRole};
use crate::base::rng::Rng;
use crate::base::slab::{Key, Slab};
use crate::base::text::Escaped;
use crate::base::time::{Instant, Wall};
use crate::base::timers::Timers;
use crate::gateway::Gateway;
use crate::gateway::input::Input;
use crate::limits::{
    ACCEPTS_PER_TURN_MAX, DATAGRAMS_PER_TURN_MAX, HANDSHAKES_PER_TURN_MAX, LINK_CONNECT_TIME_MAX_S,
    LINK_LINGER_TIME_MAX_S, LINK_OCTETS_TOTAL_MAX, LINK_TURN_OCTETS_MAX, LINKS_MAX,
};
use crate::settings::Listener;
use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use mio::{Events, Poll, Token};
use signal_hook_mio::v1_0::Signals;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;

/// Octets read from a link at once: one TLS record.
const READ_OCTETS: usize = 16 * 1024;
/// What one step of reading counts at least, so that a peer gains nothing by empty
/// TLS records or datagrams.
const STEP_OCTETS: usize = 512;
/// The largest datagram.
const DATAGRAM_OCTETS_MAX: usize = 64 * 1024;
/// Events taken from the kernel in one turn; the others come in the next.
const EVENTS_MAX: usize = 256;
/// How long accepting rests when descriptors or memory ran out.
const ACCEPT_REST: Duration = Duration::from_secs(1);
/// The event source of signals; links and listeners count up from 0.
const SIGNALS: Token = Token(usize::MAX);
/// The first event source of consoles.
const CONSOLES: usize = SIGNALS.0 - control::TOKENS;

/// Where events go: the gateway's door.
pub type Handler<'a> = dyn FnMut(&mut Cx<'_>, Input<'_>) -> usize + 'a;

/// The loop and all sockets.
pub struct Reactor {
    poll: Poll,
    events: Events,
    signals: Option<Signals>,
    start: std::time::Instant,
    now: Instant,
    wall: Wall,
    rng: Rng,
    out: Outbox,
    count: Counters,
    tls: Tls,
    log: Log,
    /// What survives a restart.
    journal: Journal,
    links: Slab<Link>,
    by_id: BTreeMap<LinkId, Key>,
    /// By slot: when a connection must be up, or a closed link gone.
    timers: Timers,
    listeners: Listeners,
    /// Links that may have input.
    to_read: VecDeque<Key>,
    /// Links that may have something to send.
    to_flush: VecDeque<Key>,
    /// Links that sent something, which is not confirmed yet.
    to_confirm: VecDeque<Key>,
    /// What happened to links and was not told yet.
    reports: VecDeque<Report>,
    buffer: Vec<u8>,
    /// Octets that all links hold.
    held: usize,
    /// Until when nothing is accepted: descriptors ran out.
    accept_rests: Option<Instant>,
    /// The consoles and their socket, if it could be opened.
    control: Option<Control>,
}

/// Something to tell the gateway.
#[derive(Debug)]
enum Report {
    Opened(LinkId),
    /// With the cause in words, where there is more to say than the reason.
    Closed(LinkId, CloseReason, Option<String>),
}

/// What the operating system asked of the program in a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// SIGHUP: read the configuration again.
    pub reload: bool,
    /// SIGTERM or SIGINT: end.
    pub end: bool,
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("now", &self.now).field("links", &self.links.len()).finish_non_exhaustive()
    }
}

impl Reactor {
    /// A reactor without listeners, whose chance comes from `seed`.
    pub fn new(seed: [u8; 32], tls: Tls, log: Log) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_MAX),
            signals: None,
            start: std::time::Instant::now(),
            now: Instant::ZERO,
            wall: wall(),
            rng: Rng::from_seed(seed),
            out: Outbox::with_capacity(4096, 32),
            count: Counters::default(),
            tls,
            log,
            journal: Journal::none(),
            links: Slab::with_capacity(LINKS_MAX),
            by_id: BTreeMap::new(),
            timers: Timers::with_capacity(LINKS_MAX),
            listeners: Listeners::default(),
            to_read: VecDeque::new(),
            to_flush: VecDeque::new(),
            to_confirm: VecDeque::new(),
            reports: VecDeque::new(),
            buffer: vec![0; DATAGRAM_OCTETS_MAX],
            held: 0,
            accept_rests: None,
            control: None,
        })
    }

    /// Takes SIGTERM, SIGINT and SIGHUP from now on.
    pub fn watch_signals(&mut self) -> io::Result<()> {
        use rustix::process::Signal;
        let mut signals = Signals::new([Signal::TERM, Signal::INT, Signal::HUP].map(Signal::as_raw))?;
        self.poll.registry().register(&mut signals, SIGNALS, mio::Interest::READABLE)?;
        self.signals = Some(signals);
        Ok(())
    }

    /// Opens the listeners that are new, keeps those that stay, closes the others. On
    /// an error, which names the address and the cause, all is as before.
    pub fn listen(&mut self, wanted: &[Listener]) -> Result<(), String> {
        self.listeners.change(self.poll.registry(), LINKS_MAX, wanted)
    }

    /// Opens the socket for consoles; they are served by [`Self::serve_consoles`].
    pub fn open_control(&mut self, path: &Path) -> Result<(), String> {
        self.control = Some(Control::open(path, self.poll.registry(), CONSOLES)?);
        Ok(())
    }

    /// Answers what consoles asked: after each turn.
    pub fn serve_consoles(&mut self, gateway: &mut Gateway, version: &str) {
        let Some(control) = &mut self.control else { return };
        let cx = Cx { now: self.now, wall: self.wall, rng: &mut self.rng, out: &mut self.out, count: &mut self.count };
        let refused = control.turn(self.poll.registry(), &mut Live { gateway, cx, version });
        for _ in 0..refused {
            self.count.add(Counter::AcceptRefused);
        }
        self.act();
        self.flush();
    }

    /// Uses other certificates from now on. Connections with peers that were believed and are
    /// so no more end: what they proved holds no longer.
    pub fn set_tls(&mut self, tls: Tls) {
        let before = core::mem::replace(&mut self.tls, tls);
        let judged = self.links.iter().filter(|(_, link)| !self.tls.believes_like(&before) && !link.is_shaking());
        let lost =
            judged.filter_map(|(key, link)| Some((key, self.tls.lost_belief(&before, link.session()?, self.wall)?)));
        for (key, fault) in lost.collect::<Vec<_>>() {
            let cause = format!("its certificate is believed no more: {fault}");
            self.fail(key, &Fault { why: CloseReason::Tls, cause });
        }
    }

    /// Which lines are written, and the log itself.
    pub fn set_log(&mut self, level: Level, change: impl FnOnce(&mut Log)) {
        self.out.log_level = level;
        change(&mut self.log);
    }

    /// Keeps what is to be stored in `journal` from now on.
    pub fn set_journal(&mut self, journal: Journal) {
        self.journal = journal;
        self.tend_journal();
    }

    /// Lets the journal have another slice of all there is, if it wants one; says whether
    /// it wants more.
    pub fn compact(&mut self, snapshot: &mut Snapshot<'_>) -> bool {
        self.journal.compact(self.now, snapshot);
        self.journal.is_compacting()
    }

    /// Makes what was stored safe if it is time, and tells what went wrong.
    fn tend_journal(&mut self) {
        self.journal.tend(self.now);
        while let Some(note) = self.journal.note() {
            if let Some(counter) = note.counter {
                self.count.add(counter);
            }
            if !note.code.is_empty() {
                self.say(note.level, note.code, format_args!("{}", note.text));
            }
        }
    }

    /// Counters, to be shown.
    pub fn counters(&self) -> &Counters {
        &self.count
    }

    /// Where the listener that stands at `place` in the settings listens: its port
    /// may have been left to the kernel.
    pub fn local_address(&self, place: ListenerId) -> Option<SocketAddr> {
        self.listeners.local_address(place)
    }

    /// The time of the last reading of the clock.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Closes the listeners that take connections; datagrams still come, and answers
    /// to what was sent with them.
    pub fn stop_accepting(&mut self) {
        self.listeners.close_streams();
    }

    /// Closes every link, after what was sent on it has left.
    pub fn close_all(&mut self) {
        let links: Vec<LinkId> = self.by_id.keys().copied().collect();
        for link in links {
            self.close(link, false);
        }
        self.flush();
    }

    /// Links that are no datagram sockets.
    pub fn streams(&self) -> usize {
        self.links.iter().filter(|(_, link)| !link.is_datagram()).count()
    }

    /// Streams on which something still waits to be sent, or which are not closed.
    pub fn unsent(&self) -> usize {
        self.links.iter().filter(|(_, link)| !link.is_datagram() && !link.is_shut()).count()
    }

    /// Links at this time.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// Lets `change` act on the world outside a turn, and carries out what it wants.
    pub fn with<T>(&mut self, change: impl FnOnce(&mut Cx<'_>) -> T) -> T {
        self.read_clock();
        let result = change(&mut Cx {
            now: self.now,
            wall: self.wall,
            rng: &mut self.rng,
            out: &mut self.out,
            count: &mut self.count,
        });
        self.act();
        self.flush();
        result
    }

    /// Writes a line.
    pub fn say(&mut self, level: Level, code: &'static str, fields: fmt::Arguments<'_>) {
        if level <= self.out.log_level {
            let Self { now, wall, count, .. } = self;
            self.log.line(*now, *wall, count, level, code, &fields.to_string());
        }
    }

    /// Writes a line whatever level is kept: others wait for it.
    pub fn announce(&mut self, code: &'static str, fields: fmt::Arguments<'_>) {
        let Self { now, wall, count, .. } = self;
        self.log.line(*now, *wall, count, Level::Info, code, &fields.to_string());
    }

    /// One turn. `deadline` is the gateway's, `handle` its door.
    pub fn turn(&mut self, deadline: Option<Instant>, handle: &mut Handler<'_>) -> io::Result<Asked> {
        self.read_clock();
        let wait = self.wait(deadline);
        match self.poll.poll(&mut self.events, wait) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        self.read_clock();
        let asked = self.take_events();
        self.establish();
        self.accept(handle);
        self.take_datagrams(handle);
        self.read_links(handle);
        self.confirm(handle);
        for _ in 0..self.reports.len() {
            match self.reports.pop_front() {
                Some(Report::Opened(link)) => drop(self.tell(handle, Input::Opened { link })),
                Some(Report::Closed(link, why, cause)) => {
                    if let Some(cause) = cause {
                        self.out.trail.note_broken(link, &cause);
                    }
                    self.tell(handle, Input::Closed { link, why });
                }
                None => break,
            }
        }
        if let Some(news) = self.journal.news() {
            self.tell(handle, news);
        }
        if deadline.is_some_and(|at| at <= self.now) {
            self.tell(handle, Input::Timeout);
        }
        self.expire();
        self.flush();
        self.tend_journal();
        self.log.timeout(self.now, self.wall);
        Ok(asked)
    }

    /// Tells of what the log held back: the program ends.
    pub fn finish(&mut self) {
        self.flush();
        self.journal.finish(self.now);
        self.tend_journal();
        self.log.finish(self.now, self.wall);
    }

    fn read_clock(&mut self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.now = Instant::from_millis(millis);
        self.wall = wall();
    }

    /// How long the kernel may make us wait.
    fn wait(&self, deadline: Option<Instant>) -> Option<Duration> {
        let more = !self.to_read.is_empty()
            || !self.to_confirm.is_empty()
            || !self.reports.is_empty()
            || self.control.as_ref().is_some_and(Control::has_work)
            || self.journal.is_busy()
            || (self.accept_rests.is_none() && self.listeners.any_ready());
        if more {
            return Some(Duration::ZERO);
        }
        [deadline, self.timers.next(), self.accept_rests, self.log.deadline(), self.journal.deadline()]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.since(self.now))
    }

    /// Notes what the kernel says is ready.
    fn take_events(&mut self) -> Asked {
        let mut asked = Asked::default();
        let events = core::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let Token(place) = event.token();
            if event.token() == SIGNALS {
                asked = self.take_signals();
            } else if let Some(place) = place.checked_sub(CONSOLES) {
                self.control.iter_mut().for_each(|control| control.set_ready(place, event));
            } else if place >= LINKS_MAX {
                self.listeners.set_ready(place - LINKS_MAX);
            } else if let Some(key) = self.links.key_at(place as u32) {
                if let Some(link) = self.links.get_mut(key) {
                    link.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
                    link.hung_up |= event.is_read_closed() || event.is_error();
                    link.writable |= event.is_writable() && !link.is_connecting();
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.list_to_read(key);
                }
                if event.is_writable() || event.is_error() {
                    self.list_to_flush(key);
                }
            }
        }
        self.events = events;
        asked
    }

    fn take_signals(&mut self) -> Asked {
        use rustix::process::Signal;
        let mut asked = Asked::default();
        for signal in self.signals.iter_mut().flat_map(Signals::pending) {
            if signal == Signal::HUP.as_raw() {
                asked.reload = true;
            } else {
                asked.end = true;
            }
        }
        asked
    }

    /// Looks whether connections that were begun are up.
    fn establish(&mut self) {
        for at in 0..self.to_flush.len() {
            let Some(&key) = self.to_flush.get(at) else { break };
            let Some(link) = self.links.get_mut(key).filter(|link| link.is_connecting()) else { continue };
            match link.establish() {
                Ok(true) => {
                    let id = link.id;
                    self.timers.stop(key.index());
                    self.reports.push_back(Report::Opened(id));
                    self.list_to_read(key);
                }
                Ok(false) => {}
                Err(fault) => self.fail(key, &fault),
            }
        }
    }

    fn accept(&mut self, handle: &mut Handler<'_>) {
        if let Some(until) = self.accept_rests {
            if self.now < until {
                return;
            }
            self.accept_rests = None;
        }
        for place in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_TURN_MAX {
                let Some((id, Socket::Tcp(listener))) = self.listeners.ready(place) else { break };
                match listener.accept() {
                    Ok((stream, from)) => self.admit(handle, id, from, stream),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.listeners.set_idle(place),
                    Err(e) if is_exhaustion(&e) => {
                        self.accept_rests = Some(self.now.after(ACCEPT_REST));
                        self.say(
                            Level::Warn,
                            "io.accept.paused",
                            format_args!("side=ours cause={} links={}", Quoted(&e.to_string()), self.links.len()),
                        );
                        return;
                    }
                    // The connection broke before it was taken.
                    Err(_) => {}
                }
            }
        }
    }

    fn admit(&mut self, handle: &mut Handler<'_>, listener: ListenerId, from: SocketAddr, stream: mio::net::TcpStream) {
        let link = self.out.new_link();
        if self.insert(Link::accepted(link, listener, from, stream)).is_some() {
            self.tell(handle, Input::Accepted { link, listener, from });
        } else {
            self.count.add(Counter::AcceptRefused);
            self.say(
                Level::Warn,
                "io.accept.refused",
                format_args!("side=ours cause=limit from={} links={}", from.ip(), self.links.len()),
            );
        }
    }

    /// Enters a link; `None`: no room, or the kernel refused to watch it.
    fn insert(&mut self, link: Link) -> Option<Key> {
        let id = link.id;
        let key = self.links.insert(link).ok()?;
        let token = Token(key.index() as usize);
        let watched = self.links.get_mut(key).is_some_and(|link| link.register(self.poll.registry(), token).is_ok());
        if !watched {
            self.links.remove(key);
            return None;
        }
        self.by_id.insert(id, key);
        Some(key)
    }

    fn take_datagrams(&mut self, handle: &mut Handler<'_>) {
        let mut buffer = core::mem::take(&mut self.buffer);
        for place in 0..self.listeners.len() {
            for _ in 0..DATAGRAMS_PER_TURN_MAX {
                let Some((listener, Socket::Udp(socket))) = self.listeners.ready(place) else { break };
                match socket.recv_from(&mut buffer) {
                    Ok((octets, from)) => {
                        let bytes = buffer.get_mut(..octets).unwrap_or_default();
                        self.tell(handle, Input::Datagram { listener, from, bytes });
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.listeners.set_idle(place),
                    // An error a peer caused (ICMP) is of no one datagram.
                    Err(_) => {}
                }
            }
        }
        self.buffer = buffer;
    }

    fn read_links(&mut self, handle: &mut Handler<'_>) {
        let mut handshakes = 0;
        for _ in 0..self.to_read.len() {
            let Some(key) = self.to_read.pop_front() else { break };
            let Some(link) = self.links.get_mut(key) else { continue };
            link.listed_to_read = false;
            if link.is_shaking() {
                // A handshake costs as much as a thousand messages.
                if handshakes == HANDSHAKES_PER_TURN_MAX {
                    self.list_to_read(key);
                    continue;
                }
                handshakes += 1;
            }
            self.read_link(key, handle);
        }
    }

    /// Reads a link until nothing is left, its turn is over, or it is gone.
    fn read_link(&mut self, key: Key, handle: &mut Handler<'_>) {
        let mut octets = 0;
        self.offer_again(key, handle);
        while let Some(link) = self.links.get_mut(key) {
            if !link.readable || !link.wants_read() {
                break;
            }
            if octets >= LINK_TURN_OCTETS_MAX {
                self.list_to_read(key);
                break;
            }
            let room = link.room().min(READ_OCTETS);
            let limit = if link.is_datagram() { DATAGRAM_OCTETS_MAX } else { room };
            let mut buffer = core::mem::take(&mut self.buffer);
            let found = link.read(buffer.get_mut(..limit).unwrap_or_default());
            if link.wants_write() {
                self.list_to_flush(key);
            }
            match found {
                Ok(Found::Octets(count)) => {
                    octets += count.max(STEP_OCTETS);
                    self.deliver(key, buffer.get_mut(..count).unwrap_or_default(), handle);
                }
                Ok(Found::Secured) => self.secured(key, handle),
                Ok(Found::Nothing) => {}
                Ok(Found::End) => self.end(key),
                Err(fault) => self.fail(key, &fault),
            }
            self.buffer = buffer;
        }
    }

    /// Hands on what the gateway left, now that it wants input again.
    fn offer_again(&mut self, key: Key, handle: &mut Handler<'_>) {
        let Some(link) = self.links.get_mut(key).filter(|link| link.offer && link.wants_read()) else { return };
        link.offer = false;
        if link.has_unused() {
            self.deliver(key, &mut [], handle);
        }
    }

    /// Hands octets to the gateway, behind those it did not use yet, and keeps what
    /// it does not use now.
    fn deliver(&mut self, key: Key, fresh: &mut [u8], handle: &mut Handler<'_>) {
        let Some(link) = self.links.get_mut(key) else { return };
        let id = link.id;
        if link.is_closing() {
            return;
        }
        if link.is_datagram() {
            self.tell(handle, Input::Stream { link: id, bytes: fresh });
            return;
        }
        if fresh.is_empty() && !link.has_unused() {
            return;
        }
        let mut unused = link.take_unused();
        let used = if unused.is_empty() {
            let used = self.tell_stream(key, id, fresh, handle);
            unused.extend_from_slice(fresh.get(used..).unwrap_or_default());
            0
        } else {
            unused.extend_from_slice(fresh);
            self.tell_stream(key, id, &mut unused, handle)
        };
        let Some(link) = self.links.get_mut(key).filter(|link| !link.is_closing()) else { return };
        link.keep(unused, used);
        let full = link.room() == 0 && link.wants_read();
        self.account(key);
        if full {
            self.overflow(key, "a message is larger than the receive buffer");
        }
    }

    /// Tells of octets; all of them count as used when TLS begins behind them.
    fn tell_stream(&mut self, key: Key, link: LinkId, bytes: &mut [u8], handle: &mut Handler<'_>) -> usize {
        let length = bytes.len();
        let clear = self.links.get(key).is_some_and(|link| link.session().is_none());
        let used = self.tell(handle, Input::Stream { link, bytes });
        let began = clear && self.links.get(key).is_some_and(|link| link.session().is_some());
        if began { length } else { used.min(length) }
    }

    /// Tells what the peer showed in the handshake.
    fn secured(&mut self, key: Key, handle: &mut Handler<'_>) {
        let Some(link) = self.links.get(key) else { return };
        let Some(session) = link.session() else { return };
        let (id, address) = (link.id, link.peer);
        let peer = self.tls.judge(session, self.wall);
        let issuer = match peer.verdict {
            Some(Err(_)) => tls::issuer_of(session).unwrap_or_default(),
            _ => String::new(),
        };
        self.list_to_flush(key);
        self.say_secured(id, address, &peer, &issuer);
        self.tell(handle, Input::Secured { link: id, peer: &peer });
    }

    fn say_secured(&mut self, link: LinkId, address: SocketAddr, peer: &PeerCertificate, issuer: &str) {
        let (protocol, names) = (&peer.protocol, peer.names());
        let names = Escaped(&names);
        match peer.verdict {
            None => self.say(
                Level::Debug,
                "tls.secured",
                format_args!("link={} peer={address} protocol={protocol} certificate=none", link.0),
            ),
            Some(Ok(())) => self.say(
                Level::Debug,
                "tls.secured",
                format_args!(
                    "link={} peer={address} protocol={protocol} certificate=good names={names} sha256={}",
                    link.0,
                    crate::base::text::hex_lower(&peer.fingerprint)
                ),
            ),
            Some(Err(fault)) => self.say(
                Level::Info,
                "tls.certificate.bad",
                format_args!(
                    "link={} peer={address} protocol={protocol} cause={} names={names} issuer={} sha256={}",
                    link.0,
                    Quoted(fault.reason()),
                    Escaped(issuer),
                    crate::base::text::hex_lower(&peer.fingerprint)
                ),
            ),
        }
    }

    /// Confirms what was sent in an earlier turn, on links that are still alive. What
    /// this turn sends leaves at its end.
    fn confirm(&mut self, handle: &mut Handler<'_>) {
        for _ in 0..self.to_confirm.len() {
            let Some(key) = self.to_confirm.pop_front() else { break };
            let Some(link) = self.links.get_mut(key) else { continue };
            link.listed_to_confirm = false;
            if link.is_closing() {
                continue;
            }
            let covered = link.left();
            link.readable = true;
            if link.wants_read() {
                self.read_link(key, handle);
            } else {
                match link.probe() {
                    Ok(true) => {}
                    Ok(false) => self.end(key),
                    Err(fault) => self.fail(key, &fault),
                }
            }
            let Some(link) = self.links.get_mut(key).filter(|link| !link.is_closing() && link.told < covered) else {
                continue;
            };
            link.told = covered;
            let id = link.id;
            self.tell(handle, Input::Drained { link: id, sent: covered });
        }
    }

    /// Ends links whose time is over.
    fn expire(&mut self) {
        while let Some(place) = self.timers.pop_due(self.now) {
            let Some(key) = self.links.key_at(place) else { continue };
            if self.links.get(key).is_some_and(Link::is_connecting) {
                let cause = format!("no answer within {LINK_CONNECT_TIME_MAX_S} s");
                self.fail(key, &Fault { why: CloseReason::Unreachable, cause });
            } else {
                self.remove(key, CloseReason::Local);
            }
        }
    }

    /// Sends what waits on all links that may send.
    fn flush(&mut self) {
        for _ in 0..self.to_flush.len() {
            let Some(key) = self.to_flush.pop_front() else { break };
            let Some(link) = self.links.get_mut(key) else { continue };
            link.listed_to_flush = false;
            let result = link.flush();
            if link.left() > link.told && !link.listed_to_confirm && !link.is_closing() {
                link.listed_to_confirm = true;
                self.to_confirm.push_back(key);
            }
            self.account(key);
            if let Err(fault) = result {
                self.fail(key, &fault);
            }
        }
    }

    /// Hands one event to the gateway and carries out what it causes.
    fn tell(&mut self, handle: &mut Handler<'_>, input: Input<'_>) -> usize {
        let used = handle(
            &mut Cx { now: self.now, wall: self.wall, rng: &mut self.rng, out: &mut self.out, count: &mut self.count },
            input,
        );
        self.act();
        used
    }

    /// Carries out what stands in the outbox.
    fn act(&mut self) {
        if self.out.actions().is_empty() {
            return;
        }
        let mut out = core::mem::take(&mut self.out);
        // Lines of our own obey the same level.
        self.out.log_level = out.log_level;
        for action in out.actions() {
            // What goes out behind a record finds it written.
            if !matches!(action, Action::Store { .. }) {
                self.journal.write();
            }
            match action {
                Action::Datagram { listener, to, bytes } => self.send_datagram(*listener, *to, out.bytes(bytes)),
                Action::Send { link, bytes } => self.send(*link, out.bytes(bytes)),
                Action::Connect { link, transport, to } => self.connect(*link, *transport, *to),
                Action::StartTls { link, role, local, remote, alpn } => {
                    self.start_tls(*link, *role, out.text(local), out.text(remote), alpn);
                }
                Action::Close { link, abort } => self.close(*link, *abort),
                Action::Reading { link, on } => self.set_reading(*link, *on),
                Action::Store { bytes } => self.journal.add(out.bytes(bytes)),
                Action::Log { level, code, text } => {
                    self.log.line(self.now, self.wall, &mut self.count, *level, code, out.text(text));
                }
            }
        }
        self.journal.write();
        out.clear();
        self.out = out;
    }

    fn send_datagram(&mut self, listener: ListenerId, to: SocketAddr, octets: &[u8]) {
        let Some(socket) = self.listeners.udp(listener) else { return };
        if let Err(e) = socket.send_to(octets, to) {
            self.count.add(Counter::DatagramLost);
            self.say(
                Level::Info,
                "io.datagram.lost",
                format_args!("side=ours to={} octets={} cause={}", to.ip(), octets.len(), Quoted(&e.to_string())),
            );
        }
    }

    fn send(&mut self, link: LinkId, octets: &[u8]) {
        let Some(&key) = self.by_id.get(&link) else { return };
        let Some(link) = self.links.get_mut(key) else { return };
        if link.is_datagram() {
            if let Err(fault) = link.send_datagram(octets) {
                self.fail(key, &fault);
            }
            return;
        }
        if link.push(octets) {
            self.list_to_flush(key);
            self.account(key);
        } else {
            self.overflow(key, "the peer does not read");
        }
    }

    fn connect(&mut self, id: LinkId, transport: Transport, to: SocketAddr) {
        let fault = match Link::connect(id, transport, to) {
            Ok(link) if self.links.is_full() => {
                drop(link);
                Fault { why: CloseReason::Unreachable, cause: "too many links".into() }
            }
            Ok(link) => {
                let connecting = link.is_connecting();
                match self.insert(link) {
                    Some(key) if connecting => {
                        let patience = Duration::from_secs(LINK_CONNECT_TIME_MAX_S);
                        self.timers.set(key.index(), self.now.after(patience));
                        return;
                    }
                    Some(_) => {
                        self.reports.push_back(Report::Opened(id));
                        return;
                    }
                    None => Fault { why: CloseReason::Unreachable, cause: "the kernel refused to watch it".into() },
                }
            }
            Err(e) => Fault::system(&e),
        };
        self.say_failed(to, None, &fault);
        self.reports.push_back(Report::Closed(id, fault.why, Some(fault.cause)));
    }

    fn start_tls(&mut self, id: LinkId, role: TlsRole, local: &str, remote: &str, alpn: &'static str) {
        let Some(&key) = self.by_id.get(&id) else { return };
        let Some(link) = self.links.get_mut(key) else { return };
        let hints = link.listener.is_some_and(|listener| self.listeners.is_sip(listener));
        match self.tls.begin(role, local, remote, link.peer.ip(), alpn, hints) {
            Ok(session) => {
                link.start_tls(session);
                self.list_to_flush(key);
                self.list_to_read(key);
            }
            Err(why) => {
                self.count.add(Counter::TlsFailed);
                self.say(Level::Error, "tls.not-begun", format_args!("side=ours cause={}", Quoted(why.reason())));
                self.remove_for(key, CloseReason::Tls, Some(format!("not begun: {}", why.reason())));
            }
        }
    }

    fn close(&mut self, id: LinkId, abort: bool) {
        let Some(&key) = self.by_id.get(&id) else { return };
        let Some(link) = self.links.get_mut(key) else { return };
        if abort {
            link.abort();
        }
        if abort || link.is_connecting() || link.is_datagram() {
            self.remove(key, CloseReason::Local);
            return;
        }
        if link.is_closing() {
            return;
        }
        link.close();
        self.timers.set(key.index(), self.now.after(Duration::from_secs(LINK_LINGER_TIME_MAX_S)));
        self.list_to_flush(key);
        // The end of the other side may have come already.
        self.list_to_read(key);
    }

    fn set_reading(&mut self, id: LinkId, on: bool) {
        let Some(&key) = self.by_id.get(&id) else { return };
        let Some(link) = self.links.get_mut(key) else { return };
        link.set_reading(on);
        if on {
            link.readable = true;
            link.offer = true;
            self.list_to_read(key);
        }
    }

    /// The other end sends no more. What waits for it gets one last chance.
    fn end(&mut self, key: Key) {
        let Some(link) = self.links.get_mut(key) else { return };
        let closing = link.is_closing();
        link.close();
        // It may be gone altogether.
        let _ = link.flush();
        self.remove(key, if closing { CloseReason::Local } else { CloseReason::Peer });
    }

    /// A link broke.
    fn fail(&mut self, key: Key, fault: &Fault) {
        let Some(link) = self.links.get(key) else { return };
        let (peer, listener, closing) = (link.peer, link.listener, link.is_closing());
        if closing {
            self.remove(key, CloseReason::Local);
            return;
        }
        self.say_failed(peer, listener, fault);
        self.remove_for(key, fault.why, Some(fault.cause.clone()));
    }

    /// Writes why a link broke. Of one that a stranger opened neither number nor port
    /// are told, so that the lines of a thousand tries are one.
    fn say_failed(&mut self, peer: SocketAddr, listener: Option<ListenerId>, fault: &Fault) {
        let (level, code) = match fault.why {
            CloseReason::Tls => (Level::Warn, "tls.failed"),
            _ => (Level::Info, "io.link.failed"),
        };
        if fault.why == CloseReason::Tls {
            self.count.add(Counter::TlsFailed);
        }
        let cause = Quoted(&fault.cause);
        match listener {
            None => self.say(level, code, format_args!("side=partner to={peer} cause={cause}")),
            Some(listener) => {
                let side = if self.listeners.is_sip(listener) { "sip" } else { "xmpp" };
                self.say(level, code, format_args!("side={side} from={} cause={cause}", peer.ip()));
            }
        }
    }

    /// Too much waits on a link: it is reset.
    fn overflow(&mut self, key: Key, cause: &'static str) {
        let Some(link) = self.links.get_mut(key) else { return };
        let (id, peer, held) = (link.id, link.peer, link.held());
        link.abort();
        self.count.add(Counter::LinkOverflow);
        self.say(
            Level::Warn,
            "io.link.overflow",
            format_args!("link={} peer={peer} octets={held} cause={}", id.0, Quoted(cause)),
        );
        self.remove(key, CloseReason::Overflow);
    }

    /// Takes a link out and reports it.
    fn remove(&mut self, key: Key, why: CloseReason) {
        self.remove_for(key, why, None);
    }

    fn remove_for(&mut self, key: Key, why: CloseReason, cause: Option<String>) {
        let Some(mut link) = self.links.remove(key) else { return };
        link.deregister(self.poll.registry());
        self.held = self.held.saturating_sub(link.accounted);
        self.by_id.remove(&link.id);
        self.timers.stop(key.index());
        self.reports.push_back(Report::Closed(link.id, why, cause));
    }

    /// Adds up what all links hold; beyond the bound the largest one goes.
    fn account(&mut self, key: Key) {
        let Some(link) = self.links.get_mut(key) else { return };
        let held = link.held();
        self.held = (self.held + held).saturating_sub(link.accounted);
        link.accounted = held;
        while self.held > LINK_OCTETS_TOTAL_MAX {
            let Some((largest, _)) = self.links.iter().max_by_key(|(_, link)| link.accounted) else { break };
            self.overflow(largest, "all links together hold too much");
        }
    }

    fn list_to_read(&mut self, key: Key) {
        if let Some(link) = self.links.get_mut(key).filter(|link| !link.listed_to_read) {
            link.listed_to_read = true;
            self.to_read.push_back(key);
        }
    }

    fn list_to_flush(&mut self, key: Key) {
        if let Some(link) = self.links.get_mut(key).filter(|link| !link.listed_to_flush) {
            link.listed_to_flush = true;
            self.to_flush.push_back(key);
        }
    }
}

/// The time of day; before 1970 is 1970.
pub(super) fn wall() -> Wall {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Wall(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Did the operating system run out of something that comes back?
fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = Errno::from_io_error(error);
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].into_iter().any(|errno| code == Some(errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::tls::{Material, tests::believers, tests::three_believers};
    use crate::limits::LINK_SEND_OCTETS_MAX;
    use crate::settings::ListenerKind;
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};

    /// A gateway that does what the tests want and remembers what it was told.
    #[derive(Default)]
    struct Recorder {
        told: Vec<String>,
        received: BTreeMap<LinkId, Vec<u8>>,
        datagrams: Vec<Vec<u8>>,
        links: Vec<LinkId>,
        drained: u64,
        stored: u64,
        closed: Vec<(LinkId, CloseReason)>,
        peers: Vec<PeerCertificate>,
        echo: bool,
        tls: Option<&'static str>,
        /// Octets used of each offer; `None`: all.
        takes: Option<usize>,
    }

    impl Recorder {
        fn handle(&mut self, cx: &mut Cx<'_>, input: Input<'_>) -> usize {
            match input {
                Input::Datagram { listener, from, bytes } => {
                    self.datagrams.push(bytes.to_vec());
                    if self.echo {
                        cx.out.datagram(listener, from, bytes);
                    }
                    bytes.len()
                }
                Input::Accepted { link, .. } => {
                    self.links.push(link);
                    self.told.push("accepted".into());
                    if let Some(alpn) = self.tls {
                        cx.out.start_tls(link, TlsRole::Server, "chat.example", "", alpn);
                    }
                    0
                }
                Input::Opened { link } => {
                    self.links.push(link);
                    self.told.push("opened".into());
                    if let Some(alpn) = self.tls {
                        cx.out.start_tls(link, TlsRole::Client, "chat.example", "chat.example", alpn);
                    }
                    0
                }
                Input::Secured { peer, .. } => {
                    self.told.push("secured".into());
                    self.peers.push(peer.clone());
                    0
                }
                Input::Stream { link, bytes } => {
                    let used = self.takes.unwrap_or(bytes.len()).min(bytes.len());
                    self.received.entry(link).or_default().extend_from_slice(&bytes[..used]);
                    if self.echo {
                        cx.out.send(link, &bytes[..used]);
                    }
                    used
                }
                Input::Drained { sent, .. } => {
                    self.drained = sent;
                    0
                }
                Input::Closed { link, why } => {
                    self.told.push(format!("closed {why:?}"));
                    self.closed.push((link, why));
                    0
                }
                Input::Stored { number } => {
                    self.stored = number;
                    0
                }
                Input::Timeout | Input::StoreFailed | Input::Shutdown => 0,
            }
        }

        fn all(&self) -> Vec<u8> {
            self.received.values().flatten().copied().collect()
        }
    }

    struct Bench {
        reactor: Reactor,
        recorder: Recorder,
    }

    impl Bench {
        fn new() -> Self {
            Self::with(Tls::new(&Material::default()).expect("nothing to refuse"))
        }

        fn with(tls: Tls) -> Self {
            let reactor = Reactor::new([7; 32], tls, Log::new()).expect("a reactor");
            Self { reactor, recorder: Recorder::default() }
        }

        /// Opens a listener on a free port and gives its address.
        fn listen(&mut self, kind: ListenerKind, address: &str) -> SocketAddr {
            let address = address.parse().expect("an address");
            self.reactor.listen(&[Listener { name: "test".into(), kind, address }]).expect("a free port");
            self.reactor.local_address(ListenerId(0)).expect("an open listener")
        }

        /// Turns until `done`, at most three seconds.
        #[track_caller]
        fn until(&mut self, done: impl Fn(&Recorder, &Reactor) -> bool) {
            let end = std::time::Instant::now() + Duration::from_secs(3);
            while !done(&self.recorder, &self.reactor) {
                assert!(std::time::Instant::now() < end, "it does not come: {:?}", self.recorder.told);
                self.turn();
            }
        }

        fn turn(&mut self) {
            let Self { reactor, recorder } = self;
            let soon = reactor.now.after(Duration::from_millis(10));
            reactor.turn(Some(soon), &mut |cx, input| recorder.handle(cx, input)).expect("a turn");
        }

        fn act<T>(&mut self, change: impl FnOnce(&mut Cx<'_>) -> T) -> T {
            self.reactor.with(change)
        }
    }

    fn connect(to: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(to).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
        stream
    }

    #[test]
    fn what_comes_on_a_stream_goes_back_over_ipv4_and_ipv6() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let mut bench = Bench::new();
            bench.recorder.echo = true;
            let address = bench.listen(ListenerKind::SipTcp, address);
            let mut peer = connect(address);
            peer.write_all(b"hello").expect("room");
            bench.until(|r, _| r.drained == 5);
            let mut answer = [0; 5];
            peer.read_exact(&mut answer).expect("an answer");
            assert_eq!(&answer, b"hello");
            drop(peer);
            bench.until(|r, _| !r.closed.is_empty());
            assert_eq!(bench.recorder.told, ["accepted", "closed Peer"]);
            assert_eq!(bench.reactor.links(), 0);
        }
    }

    #[test]
    fn what_is_stored_is_written_before_what_is_sent_behind_it() {
        let folder = std::env::temp_dir().join(format!("latimer-reactor-{}", std::process::id()));
        let mut bench = Bench::new();
        let address = bench.listen(ListenerKind::SipUdp, "127.0.0.1:0");
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        peer.set_nonblocking(true).expect("a socket option");
        let (to, from) = (peer.local_addr().expect("an address"), address);
        bench.act(|cx| cx.out.store(b"early"));
        bench.until(|r, _| r.stored == 1);
        let (journal, found) = Journal::open(&folder, bench.reactor.now());
        assert_eq!(found.records().count(), 0);
        bench.reactor.set_journal(journal);
        while bench.reactor.compact(&mut |_, _| None) {}
        bench.act(|cx| {
            cx.out.store(b"record");
            cx.out.datagram(ListenerId(0), to, b"answer");
            cx.out.store(b"another");
        });
        let mut buffer = [0; 16];
        assert_eq!(peer.recv_from(&mut buffer).expect("an answer"), (6, from));
        let file = std::fs::read(folder.join("contacts.0")).expect("a file");
        let journal = crate::base::journal::read(&file).expect("a journal");
        let records: Vec<&[u8]> = journal.records.iter().map(|at| &file[at.clone()]).collect();
        assert_eq!(records, [&b"record"[..], b"another"]);
        bench.recorder.stored = 0;
        bench.until(|r, _| r.stored == 2);
        let _ = std::fs::remove_dir_all(&folder);
    }

    #[test]
    fn what_comes_as_a_datagram_goes_back() {
        let mut bench = Bench::new();
        bench.recorder.echo = true;
        let address = bench.listen(ListenerKind::SipUdp, "127.0.0.1:0");
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        peer.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
        let large = vec![b'x'; 60_000];
        for datagram in [&b"a"[..], &large] {
            peer.send_to(datagram, address).expect("sent");
        }
        bench.until(|r, _| r.datagrams.len() == 2);
        let mut buffer = vec![0; 65_536];
        assert_eq!(peer.recv(&mut buffer).expect("an answer"), 1);
        assert_eq!(peer.recv(&mut buffer).expect("an answer"), 60_000);
    }

    #[test]
    fn a_connected_datagram_socket_speaks_with_one_peer_and_hears_that_it_is_gone() {
        let mut bench = Bench::new();
        let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let to = server.local_addr().expect("an address");
        let link = bench.act(|cx| cx.out.connect(Transport::Udp, to));
        bench.until(|r, _| r.told == ["opened"]);
        bench.act(|cx| cx.out.send(link, b"question"));
        let mut buffer = [0; 16];
        let (octets, from) = server.recv_from(&mut buffer).expect("a question");
        server.send_to(&buffer[..octets], from).expect("sent");
        bench.until(|r, _| r.all() == b"question");
        drop(server);
        bench.act(|cx| cx.out.send(link, b"again"));
        bench.until(|r, _| !r.closed.is_empty());
        assert_eq!(bench.recorder.closed, [(link, CloseReason::Refused)]);
    }

    #[test]
    fn a_port_where_nobody_listens_is_told_as_refused() {
        let mut bench = Bench::new();
        let to = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("an address")
        };
        let link = bench.act(|cx| cx.out.connect(Transport::Tcp, to));
        bench.until(|r, _| !r.closed.is_empty());
        assert_eq!(bench.recorder.closed, [(link, CloseReason::Refused)]);
        assert_eq!(bench.recorder.told, ["closed Refused"]);
    }

    #[test]
    fn an_address_without_a_route_is_told_as_unreachable() {
        let mut bench = Bench::new();
        let to = "[fe80::1%0]:9".parse().unwrap_or_else(|_| "255.255.255.255:9".parse().expect("an address"));
        bench.act(|cx| cx.out.connect(Transport::Tcp, to));
        bench.until(|r, _| !r.closed.is_empty());
        assert_eq!(bench.recorder.told, ["closed Unreachable"]);
    }

    #[test]
    fn octets_not_used_come_again_with_more_behind_them() {
        let mut bench = Bench::new();
        let address = bench.listen(ListenerKind::SipTcp, "127.0.0.1:0");
        bench.recorder.takes = Some(0);
        let mut peer = connect(address);
        peer.write_all(b"one ").expect("room");
        bench.until(|_, r| r.held > 0);
        bench.recorder.takes = Some(6);
        peer.write_all(b"two three").expect("room");
        bench.until(|r, _| r.all() == b"one tw");
        bench.recorder.takes = None;
        peer.write_all(b"!").expect("room");
        bench.until(|r, _| r.all() == b"one two three!");
    }

    #[test]
    fn a_link_that_is_not_read_leaves_its_octets_with_the_kernel_until_it_is() {
        let mut bench = Bench::new();
        let address = bench.listen(ListenerKind::SipTcp, "127.0.0.1:0");
        let mut peer = connect(address);
        bench.until(|r, _| r.links.len() == 1);
        let link = bench.recorder.links[0];
        bench.act(|cx| cx.out.push(Action::Reading { link, on: false }));
        peer.write_all(b"later").expect("room");
        for _ in 0..5 {
            bench.turn();
        }
        assert!(bench.recorder.all().is_empty());
        bench.act(|cx| cx.out.push(Action::Reading { link, on: true }));
        bench.until(|r, _| r.all() == b"later");
    }

    #[test]
    fn octets_that_were_offered_before_reading_stopped_are_offered_again() {
        let mut bench = Bench::new();
        let address = bench.listen(ListenerKind::SipTcp, "127.0.0.1:0");
        bench.recorder.takes = Some(0);
        let mut peer = connect(address);
        peer.write_all(b"kept").expect("room");
        bench.until(|_, r| r.held > 0);
        let link = bench.recorder.links[0];
        bench.act(|cx| cx.out.push(Action::Reading { link, on: false }));
        bench.recorder.takes = None;
        bench.act(|cx| cx.out.push(Action::Reading { link, on: true }));
        bench.until(|r, _| r.all() == b"kept");
    }

    #[test]
    fn what_was_sent_before_a_close_arrives_and_then_the_end() {
        let mut bench = Bench::new();
        let address = bench.listen(ListenerKind::SipTcp, "127.0.0.1:0");
        let mut peer = connect(address);
        peer.write_all(b"unread").expect("room");
        bench.until(|r, _| r.links.len() == 1);
        let link = bench.recorder.links[0];
        let large = vec![b'x'; 300_000];
        bench.act(|cx| {
            cx.out.send(link, &large);
            cx.out.close(link);
        });
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all)
        });
        bench.until(|r, _| !r.closed.is_empty());
        assert_eq!(reader.join().expect("no panic").expect("no reset").len(), large.len());
        assert_eq!(bench.recorder.closed, [(link, CloseReason::Local)]);
    }

    #[test]
    fn an_abort_is_seen_as_a_reset() {
        let mut bench = Bench::new();
        let address = bench.listen(ListenerKind::SipTcp, "127.0.0.1:0");
        let mut peer = connect(address);
        bench.until(|r, _| r.links.len() == 1);
        let link = bench.recorder.links[0];
        bench.act(|cx| cx.out.abort(link));
        let error = peer.read(&mut [0; 1]).expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        bench.until(|r, _| r.closed == [(link, CloseReason::Local)]);
    }

    #[test]
    fn a_peer_that_does_not_read_is_cut_off_and_nobody_else() {
        let mut bench = Bench::new();
        let address = bench.listen(ListenerKind::SipTcp, "127.0.0.1:0");
        let (deaf, _other) = (connect(address), connect(address));
        bench.until(|r, _| r.links.len() == 2);
        let link = bench.recorder.links[0];
        let chunk = vec![0; 64 * 1024];
        for _ in 0..200 {
            bench.act(|cx| cx.out.send(link, &chunk));
            assert!(bench.reactor.held <= LINK_SEND_OCTETS_MAX * 2);
        }
        bench.until(|r, _| r.closed == [(link, CloseReason::Overflow)]);
        assert_eq!(bench.reactor.links(), 1);
        assert_eq!(bench.reactor.counters().of(Counter::LinkOverflow), 1);
        assert_eq!(bench.reactor.held, 0);
        drop(deaf);
    }

    #[test]
    fn nothing_is_confirmed_to_a_peer_that_was_gone_when_it_was_sent() {
        let mut bench = Bench::new();
        let address = bench.listen(ListenerKind::SipTcp, "127.0.0.1:0");
        let peer = connect(address);
        bench.until(|r, _| r.links.len() == 1);
        let link = bench.recorder.links[0];
        drop(peer);
        // The kernel takes it: the end of the other side has not been read yet.
        bench.act(|cx| cx.out.send(link, b"lost"));
        bench.until(|r, _| !r.closed.is_empty());
        assert_eq!(bench.recorder.drained, 0);
    }

    #[test]
    fn a_peer_that_keeps_on_sending_does_not_keep_the_others_waiting() {
        let mut bench = Bench::new();
        let address = bench.listen(ListenerKind::SipTcp, "127.0.0.1:0");
        let mut loud = connect(address);
        bench.until(|r, _| r.links.len() == 1);
        let flood = std::thread::spawn(move || {
            let chunk = vec![0; 64 * 1024];
            for _ in 0..200 {
                if loud.write_all(&chunk).is_err() {
                    break;
                }
            }
        });
        bench.until(|r, _| !r.all().is_empty());
        let mut quiet = connect(address);
        quiet.write_all(b"x").expect("room");
        bench.until(|r, _| r.links.len() == 2);
        let (loud, quiet) = (bench.recorder.links[0], bench.recorder.links[1]);
        let before = bench.recorder.received[&loud].len();
        bench.until(|r, _| r.received.contains_key(&quiet));
        let meanwhile = bench.recorder.received[&loud].len() - before;
        assert!(meanwhile <= 8 * LINK_TURN_OCTETS_MAX, "{meanwhile} octets went first");
        bench.until(|r, _| r.received[&loud].len() == 200 * 64 * 1024);
        flood.join().expect("no panic");
    }

    /// Two reactors, one connected to the other over TLS.
    fn over_tls(transport: Transport, alpn: &'static str) -> (Bench, Bench, LinkId) {
        over_tls_of(believers(), transport, alpn)
    }

    fn over_tls_of((client, server): (Tls, Tls), transport: Transport, alpn: &'static str) -> (Bench, Bench, LinkId) {
        let (mut client, mut server) = (Bench::with(client), Bench::with(server));
        client.recorder.tls = Some(alpn);
        server.recorder.tls = Some(alpn);
        server.recorder.echo = true;
        let address = server.listen(ListenerKind::SipTls, "127.0.0.1:0");
        let link = client.act(|cx| cx.out.connect(transport, address));
        for _ in 0..200 {
            client.turn();
            server.turn();
            if client.recorder.told.len() >= 2 && server.recorder.told.len() >= 2 {
                break;
            }
        }
        (client, server, link)
    }

    #[test]
    fn both_sides_of_a_tls_link_know_each_other_and_speak() {
        let (mut client, mut server, link) = over_tls(Transport::Tls, "xmpp-server");
        assert_eq!(client.recorder.told, ["opened", "secured"]);
        assert_eq!(server.recorder.told, ["accepted", "secured"]);
        for bench in [&client, &server] {
            assert_eq!(bench.recorder.peers[0].dns_names, ["chat.example"]);
        }
        let text = vec![b'x'; 200_000];
        client.act(|cx| cx.out.send(link, &text));
        for _ in 0..500 {
            server.turn();
            client.turn();
            if client.recorder.all().len() == text.len() {
                break;
            }
        }
        assert_eq!(client.recorder.all(), text);
        assert_eq!(client.recorder.drained, text.len() as u64);
        client.act(|cx| cx.out.close(link));
        for _ in 0..50 {
            client.turn();
            server.turn();
        }
        assert_eq!(client.recorder.closed, [(link, CloseReason::Local)]);
        assert_eq!(server.recorder.told.last().map(String::as_str), Some("closed Peer"));
        assert_eq!((client.reactor.held, server.reactor.held), (0, 0));
    }

    #[test]
    fn a_peer_that_is_believed_no_more_loses_its_connection_and_another_change_ends_none() {
        let (a, b, another) = three_believers();
        let (mut client, mut server, link) = over_tls_of((a, b), Transport::Tls, "xmpp-server");
        server.reactor.set_tls(another);
        server.turn();
        assert!(server.recorder.closed.is_empty());
        server.reactor.set_tls(Tls::new(&Material::default()).expect("nothing to refuse"));
        for _ in 0..50 {
            server.turn();
            client.turn();
        }
        assert_eq!(server.recorder.told.last().map(String::as_str), Some("closed Tls"));
        assert_eq!(client.recorder.closed.first().map(|(closed, _)| *closed), Some(link));
    }

    #[test]
    fn what_is_sent_before_the_handshake_ends_goes_out_encrypted_after_it() {
        let (client, server) = believers();
        let (mut client, mut server) = (Bench::with(client), Bench::with(server));
        client.recorder.tls = Some("");
        server.recorder.tls = Some("");
        let address = server.listen(ListenerKind::SipTls, "127.0.0.1:0");
        let link = client.act(|cx| {
            let link = cx.out.connect(Transport::Tls, address);
            cx.out.send(link, b"early");
            link
        });
        for _ in 0..200 {
            client.turn();
            server.turn();
            if !server.recorder.all().is_empty() {
                break;
            }
        }
        assert_eq!(server.recorder.all(), b"early");
        assert_eq!(client.recorder.links, [link]);
    }

    #[test]
    fn a_link_opened_for_tls_sends_nothing_in_the_clear() {
        let mut bench = Bench::new();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = listener.local_addr().expect("an address");
        bench.act(|cx| {
            let link = cx.out.connect(Transport::Tls, to);
            cx.out.send(link, b"secret");
        });
        bench.until(|r, _| r.told == ["opened"]);
        let (mut peer, _) = listener.accept().expect("a connection");
        peer.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        for _ in 0..5 {
            bench.turn();
        }
        assert!(peer.read(&mut [0; 16]).is_err());
    }

    #[test]
    fn what_came_in_the_clear_behind_the_request_for_tls_is_dropped() {
        let (_, server) = believers();
        let mut bench = Bench::with(server);
        let address = bench.listen(ListenerKind::XmppStartTls, "127.0.0.1:0");
        let mut peer = connect(address);
        bench.until(|r, _| r.links.len() == 1);
        peer.write_all(b"<starttls/><message>injected</message>").expect("room");
        let Bench { reactor, recorder } = &mut bench;
        let mut begun = false;
        for _ in 0..20 {
            let soon = reactor.now.after(Duration::from_millis(10));
            let mut handle = |cx: &mut Cx<'_>, input: Input<'_>| match input {
                Input::Stream { link, bytes } if !begun => {
                    assert!(bytes.starts_with(b"<starttls/>"));
                    begun = true;
                    cx.out.send(link, b"<proceed/>");
                    cx.out.start_tls(link, TlsRole::Server, "chat.example", "", "");
                    b"<starttls/>".len()
                }
                input => recorder.handle(cx, input),
            };
            reactor.turn(Some(soon), &mut handle).expect("a turn");
        }
        assert!(begun);
        let mut answer = [0; 10];
        peer.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"<proceed/>");
        assert!(bench.recorder.all().is_empty());
        peer.write_all(b"<message>in the clear</message>").expect("room");
        bench.until(|r, _| !r.closed.is_empty());
        assert_eq!(bench.recorder.closed[0].1, CloseReason::Tls);
        assert_eq!(bench.reactor.counters().of(Counter::TlsFailed), 1);
        assert!(bench.recorder.all().is_empty());
    }

    #[test]
    fn an_end_during_the_handshake_is_a_failure_of_tls() {
        let (_, server) = believers();
        let mut bench = Bench::with(server);
        bench.recorder.tls = Some("");
        let address = bench.listen(ListenerKind::SipTls, "127.0.0.1:0");
        let peer = connect(address);
        peer.shutdown(Shutdown::Write).expect("a shutdown");
        bench.until(|r, _| r.told == ["accepted", "closed Tls"]);
    }

    #[test]
    fn a_server_without_a_certificate_says_so() {
        let mut bench = Bench::new();
        bench.recorder.tls = Some("");
        let address = bench.listen(ListenerKind::SipTls, "127.0.0.1:0");
        let _peer = connect(address);
        bench.until(|r, _| r.told == ["accepted", "closed Tls"]);
    }

    #[test]
    fn listeners_come_and_go_without_touching_the_others() {
        let mut bench = Bench::new();
        bench.recorder.echo = true;
        let free = |kind| Listener { name: "x".into(), kind, address: "127.0.0.1:0".parse().expect("an address") };
        bench.reactor.listen(&[free(ListenerKind::SipTcp), free(ListenerKind::SipUdp)]).expect("free ports");
        let tcp = bench.reactor.local_address(ListenerId(0)).expect("open");
        let mut peer = connect(tcp);
        bench.until(|r, _| r.links.len() == 1);
        bench.reactor.listen(&[free(ListenerKind::SipTcp)]).expect("a change");
        assert_eq!(bench.reactor.local_address(ListenerId(0)), Some(tcp));
        assert_eq!(bench.reactor.local_address(ListenerId(1)), None);
        peer.write_all(b"x").expect("room");
        bench.until(|r, _| r.all() == b"x");
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address");
        let blocked = Listener { name: "blocked".into(), kind: ListenerKind::SipTls, address };
        let why = bench.reactor.listen(&[blocked]).expect_err("a port in use");
        assert!(why.contains(&address.to_string()) && why.contains("blocked") && why.contains("in use"), "{why}");
        // The one that was to go is back, if on another port: it had left that to
        // the kernel.
        assert!(bench.reactor.local_address(ListenerId(0)).is_some());
    }

    #[test]
    fn a_port_can_change_hands_within_one_change() {
        let mut bench = Bench::new();
        let address = bench.listen(ListenerKind::SipTcp, "127.0.0.1:0");
        let any = SocketAddr::from(([0, 0, 0, 0], address.port()));
        let wanted = Listener { name: "any".into(), kind: ListenerKind::SipTcp, address: any };
        bench.reactor.listen(&[wanted]).expect("the port is free by then");
        assert_eq!(bench.reactor.local_address(ListenerId(0)), Some(any));
    }
}
