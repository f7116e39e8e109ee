//! One connection: a TCP stream, with or without TLS, or a connected UDP socket.
//!
//! A link never blocks. It holds only what could not be handled or sent at once, so
//! an idle one has no buffers. What is sent is counted before TLS: `given` by the
//! protocols, `left` once it is out of the TLS buffer and with the kernel.
//!
//! Nothing goes out in the clear on a link that was opened for TLS, and nothing that
//! was received in the clear is handed on once TLS was asked for.

use crate::base::net::{CloseReason, LinkId, ListenerId, Transport};
use crate::limits::{LINK_RECEIVE_OCTETS_MAX, LINK_SEND_OCTETS_MAX};
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};
use rustls::Connection;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;

/// A buffer larger than this is given back when it is empty.
const KEPT_OCTETS_MAX: usize = 4096;

/// One connection.
#[derive(Debug)]
pub struct Link {
    /// Its name.
    pub id: LinkId,
    /// The other end.
    pub peer: SocketAddr,
    /// The listener that accepted it; `None`: we connected.
    pub listener: Option<ListenerId>,
    socket: Socket,
    wire: Wire,
    phase: Phase,
    /// Octets received that the gateway has not used yet.
    unused: Vec<u8>,
    /// Octets to send, before TLS.
    waiting: VecDeque<u8>,
    /// How many of `waiting` go out in the clear although TLS was asked for: they
    /// were given before.
    clear: usize,
    /// Octets given to send since the link was opened.
    given: u64,
    /// Octets of `given` that are with the kernel.
    left: u64,
    /// Octets of `left` that were reported as drained.
    pub told: u64,
    /// Does the protocol want input?
    reading: bool,
    /// May there be input that was not read?
    pub readable: bool,
    /// Did the other end stop sending? Then a short read is not the last one.
    pub hung_up: bool,
    /// May the kernel take more?
    pub writable: bool,
    /// Is it in the reactor's list of links to read?
    pub listed_to_read: bool,
    /// Is it in the reactor's list of links to flush?
    pub listed_to_flush: bool,
    /// Is it in the reactor's list of links whose flush is to be confirmed?
    pub listed_to_confirm: bool,
    /// Are unused octets to be offered again although no more came?
    pub offer: bool,
    /// What [`Self::held`] was when the reactor last added it up.
    pub accounted: usize,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

#[derive(Debug)]
enum Wire {
    Clear,
    /// Opened for TLS, which was not begun yet: nothing passes.
    AwaitingTls,
    Tls {
        session: Box<Connection>,
        secured: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Open,
    /// We closed: what waits still goes out, input is dropped.
    Closing,
    /// All went out and our half is shut: waiting for the other end.
    Shut,
}

/// Why a link broke: for the protocol, and in words for the log.
#[derive(Debug)]
pub struct Fault {
    /// For the protocol.
    pub why: CloseReason,
    /// What happened.
    pub cause: String,
}

impl Fault {
    fn tls(cause: impl ToString) -> Self {
        Self { why: CloseReason::Tls, cause: cause.to_string() }
    }

    /// The reason behind an error of the operating system.
    pub fn system(error: &io::Error) -> Self {
        let why = match error.kind() {
            ErrorKind::ConnectionRefused => CloseReason::Refused,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => CloseReason::Reset,
            _ => CloseReason::Unreachable,
        };
        Self { why, cause: error.to_string() }
    }
}

/// What one attempt to read found.
#[derive(Debug)]
pub enum Input {
    /// So many octets, at the beginning of the buffer that was lent; of a stream none
    /// if TLS went on by a step and nothing came out of it.
    Octets(usize),
    /// The TLS handshake is done.
    Secured,
    /// Nothing for now.
    Nothing,
    /// The other end will send no more.
    End,
}

impl Link {
    /// Begins a connection.
    pub fn connect(id: LinkId, transport: Transport, to: SocketAddr) -> io::Result<Self> {
        let (socket, wire, phase) = match transport {
            Transport::Udp => {
                let any = match to {
                    SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                    SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
                };
                let socket = UdpSocket::bind(any)?;
                socket.connect(to)?;
                (Socket::Udp(socket), Wire::Clear, Phase::Open)
            }
            Transport::Tcp => (Socket::Tcp(TcpStream::connect(to)?), Wire::Clear, Phase::Connecting),
            Transport::Tls => (Socket::Tcp(TcpStream::connect(to)?), Wire::AwaitingTls, Phase::Connecting),
        };
        Ok(Self::new(id, to, None, socket, wire, phase))
    }

    /// Takes over a connection that a listener accepted.
    pub fn accepted(id: LinkId, listener: ListenerId, peer: SocketAddr, stream: TcpStream) -> Self {
        // Without it the parts of a TLS handshake wait for one another's
        // acknowledgement. A socket that refuses is about to break anyway.
        let _ = stream.set_nodelay(true);
        Self::new(id, peer, Some(listener), Socket::Tcp(stream), Wire::Clear, Phase::Open)
    }

    fn new(
        id: LinkId,
        peer: SocketAddr,
        listener: Option<ListenerId>,
        socket: Socket,
        wire: Wire,
        phase: Phase,
    ) -> Self {
        Self {
            id,
            peer,
            listener,
            socket,
            wire,
            phase,
            unused: Vec::new(),
            waiting: VecDeque::new(),
            clear: 0,
            given: 0,
            left: 0,
            told: 0,
            reading: true,
            readable: false,
            hung_up: false,
            writable: phase == Phase::Open,
            listed_to_read: false,
            listed_to_flush: false,
            listed_to_confirm: false,
            offer: false,
            accounted: 0,
        }
    }

    /// Asks to be told about it under `token`.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match &mut self.socket {
            Socket::Tcp(stream) => registry.register(stream, token, interest),
            Socket::Udp(socket) => registry.register(socket, token, Interest::READABLE),
        }
    }

    /// Ends what [`Self::register`] began.
    pub fn deregister(&mut self, registry: &Registry) {
        // It fails only if it was never registered: nothing is left to do then.
        let _ = match &mut self.socket {
            Socket::Tcp(stream) => registry.deregister(stream),
            Socket::Udp(socket) => registry.deregister(socket),
        };
    }

    /// Is it waiting for the other end to take the connection?
    pub fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// Did we close it?
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing | Phase::Shut)
    }

    /// Did we close it, and did all go out?
    pub fn is_shut(&self) -> bool {
        self.phase == Phase::Shut
    }

    /// Does it carry datagrams?
    pub fn is_datagram(&self) -> bool {
        matches!(self.socket, Socket::Udp(_))
    }

    /// Is a TLS handshake under way?
    pub fn is_shaking(&self) -> bool {
        matches!(self.wire, Wire::Tls { secured: false, .. })
    }

    /// The TLS session, if there is one.
    pub fn session(&self) -> Option<&Connection> {
        match &self.wire {
            Wire::Tls { session, .. } => Some(session),
            Wire::Clear | Wire::AwaitingTls => None,
        }
    }

    /// Does TLS have something to send besides what waits?
    pub fn wants_write(&self) -> bool {
        self.session().is_some_and(|session| session.wants_write())
    }

    /// Octets it holds back in both directions.
    pub fn held(&self) -> usize {
        self.unused.capacity() + self.waiting.capacity()
    }

    /// Octets that are with the kernel, of all that were given.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Finds out whether the connection is up; `false`: not yet.
    pub fn establish(&mut self) -> Result<bool, Fault> {
        let Socket::Tcp(stream) = &self.socket else { return Ok(true) };
        if let Some(error) = stream.take_error().map_err(|e| Fault::system(&e))? {
            return Err(Fault::system(&error));
        }
        match stream.peer_addr() {
            // A connection to a free port of our own may meet itself.
            Ok(peer) if stream.local_addr().is_ok_and(|local| local == peer) => {
                Err(Fault { why: CloseReason::Refused, cause: "the connection met itself".into() })
            }
            Ok(_) => {
                // See `accepted`.
                let _ = stream.set_nodelay(true);
                self.phase = Phase::Open;
                self.writable = true;
                self.readable = true;
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(Fault::system(&e)),
        }
    }

    /// Begins TLS; octets received and not used are dropped. `false`: it has begun
    /// already, or this is no stream.
    pub fn start_tls(&mut self, session: Connection) -> bool {
        if matches!(self.wire, Wire::Tls { .. }) || self.is_datagram() {
            return false;
        }
        self.unused = Vec::new();
        self.clear = if matches!(self.wire, Wire::Clear) { self.waiting.len() } else { 0 };
        self.wire = Wire::Tls { session: Box::new(session), secured: false };
        // Its first octets may lie in the kernel, passed over until now.
        self.readable = true;
        true
    }

    /// Turns input on or off.
    pub fn set_reading(&mut self, on: bool) {
        self.reading = on;
    }

    /// May it be read now? A handshake goes on whatever the protocol wants.
    pub fn wants_read(&self) -> bool {
        self.phase != Phase::Connecting && (self.reading || self.is_shaking() || self.is_closing())
    }

    /// Does the gateway have something of it to look at again, now that it wants
    /// input?
    pub fn has_unused(&self) -> bool {
        !self.unused.is_empty()
    }

    /// The octets not used yet, to be lent; bring the rest back with [`Self::keep`].
    pub fn take_unused(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.unused)
    }

    /// Keeps what follows the first `used` octets of `octets`.
    pub fn keep(&mut self, mut octets: Vec<u8>, used: usize) {
        octets.drain(..used.min(octets.len()));
        self.unused = if octets.is_empty() && octets.capacity() > KEPT_OCTETS_MAX { Vec::new() } else { octets };
    }

    /// How many octets may be read before the bound is reached.
    pub fn room(&self) -> usize {
        LINK_RECEIVE_OCTETS_MAX.saturating_sub(self.unused.len())
    }

    /// Appends octets to send. `false`: more than may wait.
    pub fn push(&mut self, octets: &[u8]) -> bool {
        if self.is_closing() {
            return true;
        }
        if self.waiting.len() + octets.len() > LINK_SEND_OCTETS_MAX {
            return false;
        }
        self.waiting.extend(octets);
        self.given += octets.len() as u64;
        true
    }

    /// Sends one datagram. A full kernel buffer loses it, as the network might.
    pub fn send_datagram(&mut self, octets: &[u8]) -> Result<(), Fault> {
        let Socket::Udp(socket) = &self.socket else { return Ok(()) };
        match socket.send(octets) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(Fault::system(&e)),
        }
    }

    /// Closes our half once all that waits is out.
    pub fn close(&mut self) {
        if !self.is_closing() {
            self.phase = Phase::Closing;
            self.unused = Vec::new();
        }
    }

    /// Makes the coming close a reset.
    pub fn abort(&mut self) {
        if let Socket::Tcp(stream) = &self.socket {
            // If it fails the close is an ordinary one.
            let _ = rustix::net::sockopt::set_socket_linger(stream, Some(core::time::Duration::ZERO));
        }
    }

    /// Reads once into `buffer`.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Input, Fault> {
        let stream = match &mut self.socket {
            Socket::Udp(socket) => {
                return match socket.recv(buffer) {
                    Ok(octets) => Ok(Input::Octets(octets)),
                    Err(e) if is_transient(&e) => {
                        self.readable = false;
                        Ok(Input::Nothing)
                    }
                    Err(e) => Err(Fault::system(&e)),
                };
            }
            Socket::Tcp(stream) => stream,
        };
        match &mut self.wire {
            Wire::Clear => match retry(|| stream.read(buffer)) {
                Ok(0) => Ok(Input::End),
                Ok(octets) => {
                    // A short read took all there was; more comes with an event of
                    // its own, unless the end had already been announced.
                    self.readable = octets == buffer.len() || self.hung_up;
                    Ok(Input::Octets(octets))
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    Ok(Input::Nothing)
                }
                Err(e) => Err(Fault::system(&e)),
            },
            Wire::AwaitingTls => {
                self.readable = false;
                Ok(Input::Nothing)
            }
            Wire::Tls { session, secured } => match read_tls(stream, session, secured, buffer)? {
                Input::Nothing => {
                    self.readable = false;
                    Ok(Input::Nothing)
                }
                input => Ok(input),
            },
        }
    }

    /// Is the connection still there, as far as can be seen without reading?
    pub fn probe(&self) -> Result<bool, Fault> {
        let Socket::Tcp(stream) = &self.socket else { return Ok(true) };
        match retry(|| stream.peek(&mut [0])) {
            Ok(octets) => Ok(octets > 0),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(true),
            Err(e) => Err(Fault::system(&e)),
        }
    }

    /// Sends as much of what waits as the kernel takes.
    pub fn flush(&mut self) -> Result<(), Fault> {
        if self.phase == Phase::Connecting || self.is_datagram() {
            return Ok(());
        }
        if self.writable {
            self.flush_waiting()?;
        }
        if self.phase == Phase::Closing && self.writable && self.waiting.is_empty() {
            self.shut()?;
        }
        if self.waiting.is_empty() && self.waiting.capacity() > KEPT_OCTETS_MAX {
            self.waiting = VecDeque::new();
        }
        Ok(())
    }

    fn flush_waiting(&mut self) -> Result<(), Fault> {
        let clear = match self.wire {
            Wire::Clear => self.waiting.len(),
            Wire::AwaitingTls => 0,
            Wire::Tls { .. } => self.clear,
        };
        let written = self.write_clear(clear)?;
        self.clear = self.clear.saturating_sub(written);
        if self.clear > 0 || !self.writable {
            return Ok(());
        }
        let (Socket::Tcp(stream), Wire::Tls { session, secured }) = (&mut self.socket, &mut self.wire) else {
            return Ok(());
        };
        loop {
            if !write_tls(stream, session)? {
                self.writable = false;
                return Ok(());
            }
            self.left = self.given - self.waiting.len() as u64;
            // Before the peer is known nothing is given to the session.
            if !*secured || self.waiting.is_empty() {
                return Ok(());
            }
            let taken = session.writer().write(self.waiting.as_slices().0).map_err(Fault::tls)?;
            self.waiting.drain(..taken);
        }
    }

    /// Writes up to `octets` of what waits as they are; says how many went.
    fn write_clear(&mut self, octets: usize) -> Result<usize, Fault> {
        let Socket::Tcp(stream) = &mut self.socket else { return Ok(0) };
        let mut written = 0;
        while written < octets {
            let rest = octets - written;
            let (front, back) = self.waiting.as_slices();
            let front = front.get(..rest).unwrap_or(front);
            let back = back.get(..rest - front.len()).unwrap_or(back);
            match retry(|| stream.write_vectored(&[IoSlice::new(front), IoSlice::new(back)])) {
                Ok(count) => {
                    self.waiting.drain(..count);
                    self.left += count as u64;
                    written += count;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.writable = false;
                    break;
                }
                Err(e) => return Err(Fault::system(&e)),
            }
        }
        Ok(written)
    }

    /// Ends our half in good order.
    fn shut(&mut self) -> Result<(), Fault> {
        let Socket::Tcp(stream) = &mut self.socket else { return Ok(()) };
        if let Wire::Tls { session, .. } = &mut self.wire {
            session.send_close_notify();
            if !write_tls(stream, session)? {
                self.writable = false;
                return Ok(());
            }
        }
        self.phase = Phase::Shut;
        // It fails if the other end is gone, which the next read finds out.
        let _ = stream.shutdown(Shutdown::Write);
        Ok(())
    }
}

/// Takes one step in reading from a session: what it has decrypted first, then what
/// the kernel has.
fn read_tls(
    stream: &mut TcpStream,
    session: &mut Connection,
    secured: &mut bool,
    buffer: &mut [u8],
) -> Result<Input, Fault> {
    if *secured {
        match session.reader().read(buffer) {
            Ok(0) => return Ok(Input::End),
            Ok(octets) => return Ok(Input::Octets(octets)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            // The end without close_notify: both protocols know by themselves whether
            // something is missing.
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(Input::End),
            Err(e) => return Err(Fault::system(&e)),
        }
    }
    let ended = match retry(|| session.read_tls(stream)) {
        Ok(octets) => octets == 0,
        Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Input::Nothing),
        Err(e) => return Err(Fault::system(&e)),
    };
    if let Err(error) = session.process_new_packets() {
        // The alert tells the peer what is wrong; it may be gone already.
        let _ = write_tls(stream, session);
        return Err(Fault::tls(error));
    }
    // The next part of the handshake, or the answer to a key update; what the kernel
    // does not take now goes with the next flush.
    write_tls(stream, session)?;
    if !*secured && !session.is_handshaking() {
        *secured = true;
        return Ok(Input::Secured);
    }
    if ended && !*secured {
        return Err(Fault::tls("the peer closed the connection during the handshake"));
    }
    Ok(Input::Octets(0))
}

/// Writes what a session has to send; `false`: the kernel takes no more.
fn write_tls(stream: &mut TcpStream, session: &mut Connection) -> Result<bool, Fault> {
    while session.wants_write() {
        match retry(|| session.write_tls(stream)) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(Fault::system(&e)),
        }
    }
    Ok(true)
}

/// Repeats a system call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
