//! Everything one event causes, in the order it was caused: bytes to send,
//! connections to open and close, lines to log. The caller owns the outbox, acts on
//! it after each event and clears it; bytes lie in one arena, so nothing is
//! allocated once the arena has grown to its usual size.

use super::net::{LinkId, ListenerId, Transport};
use super::trail::Trail;
use core::fmt;
use core::net::SocketAddr;
use core::ops::Range;

/// A piece of the outbox's arena.
pub type Span = Range<usize>;

/// One thing to do for the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send one datagram from a listener's socket.
    Datagram {
        /// The UDP listener to send from.
        listener: ListenerId,
        /// Where to.
        to: SocketAddr,
        /// What.
        bytes: Span,
    },
    /// Append octets to a stream, or send one datagram on a connected UDP socket.
    Send {
        /// The link to send on.
        link: LinkId,
        /// What.
        bytes: Span,
    },
    /// Open a connection; `Opened` or `Closed` will tell. `Tls` opens TCP on which
    /// nothing passes before [`Action::StartTls`].
    Connect {
        /// The name the new link has from now on; from [`Outbox::new_link`].
        link: LinkId,
        /// `Udp` makes a connected socket with a random port; else TCP.
        transport: Transport,
        /// Where to.
        to: SocketAddr,
    },
    /// Begin TLS on a stream; octets received and not yet handed on are dropped.
    /// `Secured` or `Closed` will tell.
    StartTls {
        /// The link.
        link: LinkId,
        /// Which side of the handshake is ours.
        role: TlsRole,
        /// The domain that we are, to choose our certificate by (as a server the
        /// name asked for by SNI wins if we have one for it).
        local: Span,
        /// The domain of the peer: SNI when we are the client.
        remote: Span,
        /// What to say in ALPN: XEP-0368 demands `xmpp-server`; empty for none.
        alpn: &'static str,
    },
    /// Close a link after what was sent to it has left; nothing more is heard of it
    /// except `Closed`.
    Close {
        /// The link.
        link: LinkId,
        /// Drop what has not left yet and reset.
        abort: bool,
    },
    /// Stop or go on reading from a stream: back-pressure.
    Reading {
        /// The link.
        link: LinkId,
        /// Is reading on?
        on: bool,
    },
    /// Append a record to what survives a restart, before anything that stands behind
    /// this in the outbox goes out. `Stored` tells when it is safe from a power cut.
    Store {
        /// The record.
        bytes: Span,
    },
    /// Write a line to the log: `code key=value ...`.
    Log {
        /// How grave it is.
        level: Level,
        /// The stable code of the event, such as `sip.refused`.
        code: &'static str,
        /// The rest of the line, already escaped.
        text: Span,
    },
}

/// Which side of a TLS handshake is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsRole {
    /// We connected.
    Client,
    /// We were connected to; a client certificate is asked for, not demanded.
    Server,
}

/// How grave a log line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Somebody has to act.
    Error,
    /// Something was refused or lost.
    Warn,
    /// What an operator wants to see in quiet times.
    #[default]
    Info,
    /// Every step.
    Debug,
}

/// The arena and the list of actions.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    actions: Vec<Action>,
    next_link: u64,
    /// Records stored so far.
    records: u64,
    /// Log lines graver than or equal to this are kept; others are never formatted.
    pub log_level: Level,
    /// What somebody wants to know of a peer.
    pub trail: Trail,
}

impl Outbox {
    /// An outbox with room for `bytes` octets and `actions` actions before it grows.
    pub fn with_capacity(bytes: usize, actions: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            actions: Vec::with_capacity(actions),
            next_link: 1,
            records: 0,
            log_level: Level::Info,
            trail: Trail::default(),
        }
    }

    /// A name for a new link, never given before. The reactor draws from here too,
    /// for connections it accepts.
    pub fn new_link(&mut self) -> LinkId {
        self.next_link += 1;
        LinkId(self.next_link)
    }

    /// What is to be done, oldest first.
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// The octets of a span of this turn.
    pub fn bytes(&self, span: &Span) -> &[u8] {
        self.bytes.get(span.clone()).unwrap_or_default()
    }

    /// The text of a span of this turn; empty if it is not UTF-8.
    pub fn text(&self, span: &Span) -> &str {
        core::str::from_utf8(self.bytes(span)).unwrap_or_default()
    }

    /// Forgets all: what was to be done is done.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.actions.clear();
    }

    /// Begins a piece of the arena; end it with [`Self::finish`], or drop what was
    /// written with [`Self::cancel`].
    pub fn begin(&mut self) -> Writer<'_> {
        let start = self.bytes.len();
        Writer { start, bytes: &mut self.bytes }
    }

    /// Puts `content` into the arena.
    pub fn put(&mut self, content: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(content);
        start..self.bytes.len()
    }

    /// Adds an action.
    pub fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Sends a copy of `content` on a link.
    pub fn send(&mut self, link: LinkId, content: &[u8]) {
        let bytes = self.put(content);
        self.push(Action::Send { link, bytes });
    }

    /// Sends a copy of `content` as a datagram.
    pub fn datagram(&mut self, listener: ListenerId, to: SocketAddr, content: &[u8]) {
        let bytes = self.put(content);
        self.push(Action::Datagram { listener, to, bytes });
    }

    /// Opens a connection and gives its name.
    pub fn connect(&mut self, transport: Transport, to: SocketAddr) -> LinkId {
        let link = self.new_link();
        self.push(Action::Connect { link, transport, to });
        link
    }

    /// Begins TLS on a link; see [`Action::StartTls`].
    pub fn start_tls(&mut self, link: LinkId, role: TlsRole, local: &str, remote: &str, alpn: &'static str) {
        let local = self.put(local.as_bytes());
        let remote = self.put(remote.as_bytes());
        self.push(Action::StartTls { link, role, local, remote, alpn });
    }

    /// Closes a link after what was sent has left.
    pub fn close(&mut self, link: LinkId) {
        self.push(Action::Close { link, abort: false });
    }

    /// Resets a link.
    pub fn abort(&mut self, link: LinkId) {
        self.push(Action::Close { link, abort: true });
    }

    /// Stores a copy of `record`, and gives its number: the first has 1. It is safe once
    /// `Stored` comes with that number or a higher one.
    pub fn store(&mut self, record: &[u8]) -> u64 {
        let bytes = self.put(record);
        self.push(Action::Store { bytes });
        self.records += 1;
        self.records
    }

    /// Logs a line if `level` is kept. `code` is stable; `fields` are `key=value`
    /// pairs in which foreign text stands in [`super::text::Escaped`].
    pub fn log(&mut self, level: Level, code: &'static str, fields: fmt::Arguments<'_>) {
        if level > self.log_level {
            return;
        }
        let start = self.bytes.len();
        let mut writer = Writer { start, bytes: &mut self.bytes };
        // Writing into a Vec cannot fail; a Display that does leaves a short line.
        let _ = fmt::Write::write_fmt(&mut writer, fields);
        let text = start..self.bytes.len();
        self.push(Action::Log { level, code, text });
    }
}

/// Writes into the arena. Dropping it keeps what was written; the span says where.
#[derive(Debug)]
pub struct Writer<'a> {
    start: usize,
    bytes: &'a mut Vec<u8>,
}

impl Writer<'_> {
    /// Appends octets.
    pub fn bytes(&mut self, content: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(content);
        self
    }

    /// Appends text.
    pub fn str(&mut self, content: &str) -> &mut Self {
        self.bytes(content.as_bytes())
    }

    /// Appends a number in decimal.
    pub fn number(&mut self, number: u64) -> &mut Self {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.bytes(&digits[at..])
    }

    /// How many octets were written so far.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Was nothing written yet?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was written so far, to be corrected in place.
    pub fn written(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    /// Takes back everything behind the first `len` octets of this piece.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(self.start + len);
    }

    /// Ends the piece and says where it lies.
    pub fn finish(self) -> Span {
        self.start..self.bytes.len()
    }

    /// Ends the piece and forgets it.
    pub fn cancel(self) {
        self.bytes.truncate(self.start);
    }
}

impl fmt::Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_piece_leaves_no_trace() {
        let mut out = Outbox::with_capacity(16, 4);
        let mut w = out.begin();
        w.str("abc").number(0).number(1_234_567);
        assert_eq!(w.len(), 11);
        w.cancel();
        let span = out.put(b"x");
        assert_eq!(out.bytes(&span), b"x");
        assert_eq!(span, 0..1);
    }

    #[test]
    fn lines_below_the_level_are_not_kept() {
        let mut out = Outbox::with_capacity(16, 4);
        out.log(Level::Debug, "a.b", format_args!("x=1"));
        out.log(Level::Warn, "a.c", format_args!("x={}", 2));
        assert_eq!(out.actions().len(), 1);
        let Action::Log { text, .. } = &out.actions()[0] else { panic!("no log line") };
        assert_eq!(out.text(text), "x=2");
    }
}
