//! Streams: accepted, opened, secured, read, kept alive and closed.

use super::endpoint::{Endpoint, Event, Failure, Source};
use super::framer::{CRLF_OCTETS, Frame, Framer};
use super::message::{Fault, Malformed};
use super::transport::{Link, LinkState, names_any};
use crate::base::certificate::PeerCertificate;
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::net::{CloseReason, LinkId, ListenerId, Target, Transport};
use crate::base::outbox::{Action, Level, Span, TlsRole};
use crate::base::slab::Key;
use crate::base::trail::{Side, Step};
use crate::limits::{
    SIP_HANDSHAKE_TIME_MAX_S, SIP_LINKS_MAX, SIP_LINKS_UNPROVEN_PER_ADDRESS_MAX, SIP_LINKS_UNPROVEN_PERCENT,
    SIP_MESSAGE_TIME_MAX_S,
};
use core::net::SocketAddr;
use core::time::Duration;

/// Timers a connection has.
pub(super) const TIMERS: u32 = 3;
/// It must be up, or a message whole, by then.
const DEADLINE: u32 = 0;
/// A ping is due, or the answer to one.
const KEEP_ALIVE: u32 = 1;
/// It was not used for long.
const IDLE: u32 = 2;

/// A connection nobody uses is closed after that time; well beyond the 32 s and more
/// that REQ-SIP-71 asks for.
const IDLE_TIME: Duration = Duration::from_secs(600);
/// A ping goes out that long after the last octets came (RFC 5626 section 4.4.1), plus
/// a random part.
const PING_AFTER_MS: u64 = 95_000;
const PING_SPREAD_MS: u64 = 25_000;
/// The answer to a ping must come by then.
const PONG_TIME: Duration = Duration::from_secs(10);
/// How long a stranger may keep its place in silence when all places of strangers are
/// taken.
const STRANGER_TIME: Duration = Duration::from_secs(2);
/// Two CRLFs that are farther apart are no ping.
const PING_APART: Duration = Duration::from_secs(1);

const fn timer(key: Key, which: u32) -> u32 {
    key.index() * TIMERS + which
}

impl Endpoint {
    pub(super) fn on_accepted(&mut self, cx: &mut Cx<'_>, id: LinkId, listener: ListenerId, from: SocketAddr) {
        let Some(transport) = self.ways.transport_of(listener) else {
            cx.out.abort(id);
            return;
        };
        let is_proved = self.ways.is_peer_address(from.ip());
        let (here, all) = self.links.unproved(from.ip());
        let unproved_max = SIP_LINKS_MAX * SIP_LINKS_UNPROVEN_PERCENT / 100;
        let is_refused = !is_proved
            && (here >= SIP_LINKS_UNPROVEN_PER_ADDRESS_MAX || all >= unproved_max && !self.drop_stranger(cx));
        let state = if transport == Transport::Tls { LinkState::Handshaking } else { LinkState::Ready };
        let link = Link { listener: Some(listener), is_proved, ..new_link(cx, id, transport, from, state) };
        let key = if is_refused { None } else { self.links.insert(link) };
        let Some(key) = key else {
            let count = self.links.len();
            cx.refuse(
                Counter::SipConnectionRefused,
                "sip.connection.refused",
                format_args!("side=sip cause=limit peer={from} of-address={here} unproven={all} all={count}"),
            );
            cx.out.abort(id);
            return;
        };
        self.link_timers.set(timer(key, IDLE), cx.now.after(IDLE_TIME));
        if transport == Transport::Tls {
            cx.out.start_tls(id, TlsRole::Server, &self.ways.host_name, "", "");
            self.set_deadline(cx, key, SIP_HANDSHAKE_TIME_MAX_S);
        } else {
            self.on_ready(cx, id);
        }
    }

    /// Makes room for a newcomer, who may be a peer with a certificate to show: the oldest
    /// stranger goes that is here for some time and has nothing to say. A flood that holds
    /// every place of strangers would keep the peer out for ever.
    fn drop_stranger(&mut self, cx: &mut Cx<'_>) -> bool {
        let Some(id) = self.links.idle_stranger(cx.now, STRANGER_TIME) else { return false };
        cx.refuse(
            Counter::SipConnectionRefused,
            "sip.connection.closed",
            format_args!("side=sip cause=\"others wait, and it proved nothing\""),
        );
        cx.out.abort(id);
        self.on_closed(cx, id, Failure::Transport(CloseReason::Local));
        true
    }

    /// Opens a connection; one of `names` must be in a TLS peer's certificate.
    pub(super) fn connect(&mut self, cx: &mut Cx<'_>, target: Target, names: [String; 2]) -> Option<LinkId> {
        // TLS begins when the connection is up: then we say with which name.
        let id = cx.out.new_link();
        let link = Link {
            wanted: names,
            is_proved: true,
            ..new_link(cx, id, target.transport, target.address, LinkState::Connecting)
        };
        let key = self.links.insert(link)?;
        cx.out.push(Action::Connect { link: id, transport: Transport::Tcp, to: target.address });
        self.set_deadline(cx, key, SIP_HANDSHAKE_TIME_MAX_S);
        Some(id)
    }

    pub(super) fn on_opened(&mut self, cx: &mut Cx<'_>, id: LinkId) {
        let Some(link) = self.links.get_mut(id).filter(|link| link.state == LinkState::Connecting) else { return };
        cx.out.trail.passed(
            &link.names(),
            Step::Tcp,
            format_args!("connected to {} for {}", link.peer, link.transport),
        );
        if link.transport != Transport::Tls {
            self.on_ready(cx, id);
            return;
        }
        link.state = LinkState::Handshaking;
        // The name we ask for is that of the next hop, if one is set; an address is no
        // name to ask for (RFC 6066 section 3).
        let [domain, host] = &link.wanted;
        let is_name =
            !host.is_empty() && super::uri::host_address(host).is_none() && host.parse::<core::net::IpAddr>().is_err();
        cx.out.start_tls(id, TlsRole::Client, &self.ways.host_name, if is_name { host } else { domain }, "");
    }

    pub(super) fn on_secured(&mut self, cx: &mut Cx<'_>, id: LinkId, peer: &PeerCertificate) {
        let Some(link) = self.links.get_mut(id).filter(|link| link.state == LinkState::Handshaking) else { return };
        if link.listener.is_some() {
            link.is_proved |= self.ways.is_peer_certificate(peer);
            link.certificate = Some(peer.clone());
            self.on_ready(cx, id);
            return;
        }
        let [domain, host] = &link.wanted;
        let is_asked = cx.out.trail.is_watching();
        if names_any(peer, &[domain, host]) {
            if is_asked {
                cx.out.trail.passed(&[domain, host], Step::Tls, format_args!("{}", peer.summary()));
            }
            link.certificate = Some(peer.clone());
            self.on_ready(cx, id);
            return;
        }
        let fault = match peer.verdict {
            None => "none was sent",
            Some(Err(fault)) => fault.reason(),
            Some(Ok(())) => "it names another domain",
        };
        let wanted = format!("{domain},{host}");
        if is_asked {
            let text = format_args!("{}: {fault}, wanted {}", peer.summary(), wanted.trim_matches(','));
            cx.out.trail.failed(&[domain, host], Step::Tls, Side::Partner, text, CERTIFICATE);
        }
        cx.refuse(
            Counter::CertificateRefused,
            "sip.certificate.refused",
            format_args!(
                "side=sip peer={} fault=\"{fault}\" found={} wanted={} do=\"let the peer's certificate name one of the wanted names, or trust its CA\"",
                link.peer,
                crate::base::text::Escaped(&peer.names()),
                wanted.trim_matches(',')
            ),
        );
        cx.out.abort(id);
        self.on_closed(cx, id, Failure::Certificate);
    }

    /// Messages may go.
    fn on_ready(&mut self, cx: &mut Cx<'_>, id: LinkId) {
        let Some(key) = self.links.key(id) else { return };
        let Some(link) = self.links.get_mut(id) else { return };
        link.state = LinkState::Ready;
        link.used = cx.now;
        link.heard = cx.now;
        let (is_accepted, is_proved) = (link.listener.is_some(), link.is_proved);
        self.link_timers.stop(timer(key, DEADLINE));
        if is_accepted {
            // A stranger has to say something soon.
            if !is_proved {
                self.set_deadline(cx, key, SIP_MESSAGE_TIME_MAX_S);
            }
            return;
        }
        self.link_timers.set(timer(key, IDLE), cx.now.after(IDLE_TIME));
        self.set_ping(cx, key);
        self.flush_requests(cx, id);
        self.flush_replies(cx, id);
    }

    fn set_deadline(&mut self, cx: &Cx<'_>, key: Key, seconds: u64) {
        self.link_timers.set(timer(key, DEADLINE), cx.now.after(Duration::from_secs(seconds)));
    }

    fn set_ping(&mut self, cx: &mut Cx<'_>, key: Key) {
        let wait = Duration::from_millis(PING_AFTER_MS + cx.rng.below(PING_SPREAD_MS));
        self.link_timers.set(timer(key, KEEP_ALIVE), cx.now.after(wait));
    }

    pub(super) fn on_stream<'a>(
        &mut self,
        cx: &mut Cx<'_>,
        id: LinkId,
        bytes: &'a mut [u8],
    ) -> (usize, Option<Event<'a>>) {
        let Some(key) = self.links.key(id) else { return (bytes.len(), None) };
        let Some(link) = self.links.get_mut(id) else { return (bytes.len(), None) };
        if link.state == LinkState::Closing {
            return (bytes.len(), None);
        }
        if cx.now.since(link.heard) > PING_APART {
            link.framer.forget_half_ping();
        }
        link.heard = cx.now;
        link.awaits_pong = false;
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            match link.framer.next(rest) {
                Frame::Pong => used += CRLF_OCTETS,
                Frame::Ping => {
                    used += CRLF_OCTETS;
                    link.given += CRLF_OCTETS as u64;
                    cx.out.send(id, b"\r\n");
                }
                Frame::Partial => {
                    if link.framer.is_inside() && self.link_timers.of(timer(key, DEADLINE)).is_none() {
                        let whole = cx.now.after(Duration::from_secs(SIP_MESSAGE_TIME_MAX_S));
                        self.link_timers.set(timer(key, DEADLINE), whole);
                    }
                    return (used, None);
                }
                Frame::Message { head, len } => {
                    self.link_timers.stop(timer(key, DEADLINE));
                    link.used = cx.now;
                    let source = source_of(link);
                    let end = used + len;
                    let octets = bytes.get_mut(used..end).unwrap_or_default();
                    return (end, self.on_octets(cx, source, octets, head));
                }
                Frame::Broken { fault, head } => {
                    let source = source_of(link);
                    let len = bytes.len();
                    let octets = bytes.get_mut(used..).unwrap_or_default();
                    self.on_malformed(cx, source, &Malformed::new(octets, head, fault), len);
                    self.refuse_stream(cx, id, fault);
                    return (len, None);
                }
            }
        }
    }

    /// Where the next message begins is unknown: the answer was sent, the stream ends.
    fn refuse_stream(&mut self, cx: &mut Cx<'_>, id: LinkId, fault: Fault) {
        let Some(link) = self.links.get_mut(id) else { return };
        let peer = link.peer;
        cx.refuse(
            Counter::SipConnectionRefused,
            "sip.connection.closed",
            format_args!("side=sip cause=\"{fault}\" peer={peer}"),
        );
        cx.out.close(id);
        if let Some(key) = self.links.key(id) {
            self.set_deadline(cx, key, SIP_MESSAGE_TIME_MAX_S);
        }
        self.abandon(cx, id, Failure::Transport(CloseReason::Local));
    }

    /// Appends octets of the arena to a stream that is up.
    pub(super) fn push_octets(&mut self, cx: &mut Cx<'_>, id: LinkId, span: Span) -> bool {
        let Some(link) = self.links.get_mut(id).filter(|link| link.state == LinkState::Ready) else { return false };
        link.given += span.len() as u64;
        link.used = cx.now;
        cx.out.push(Action::Send { link: id, bytes: span });
        true
    }

    /// A connection is gone, by itself or because we gave it up.
    pub(super) fn on_closed(&mut self, cx: &mut Cx<'_>, id: LinkId, why: Failure) {
        let Some(link) = self.links.get(id) else { return };
        if let Failure::Transport(why) = why {
            note_closed(cx, link, why);
            let level = if link.state == LinkState::Ready { Level::Debug } else { Level::Warn };
            let (peer, transport) = (link.peer, link.transport);
            cx.out.log(
                level,
                "sip.closed",
                format_args!("peer={peer} transport={transport} cause=\"{}\"", why.reason()),
            );
        }
        self.abandon(cx, id, why);
        let Some((key, _)) = self.links.remove(id) else { return };
        for which in 0..TIMERS {
            self.link_timers.stop(timer(key, which));
        }
    }

    /// What waited for this connection, or went over it, has to look for another.
    fn abandon(&mut self, cx: &mut Cx<'_>, id: LinkId, why: Failure) {
        // First nothing more may be put on it.
        let Some(link) = self.links.get_mut(id) else { return };
        let was = core::mem::replace(&mut link.state, LinkState::Closing);
        let drained = link.drained;
        self.lose_replies(cx, id);
        self.divert_requests(cx, id, was, drained, why);
    }

    pub(super) fn on_link_timer(&mut self, cx: &mut Cx<'_>, fired: u32) {
        let Some(id) = self.links.at(fired / TIMERS) else { return };
        match fired % TIMERS {
            DEADLINE => self.on_link_deadline(cx, id),
            KEEP_ALIVE => self.on_keep_alive(cx, id),
            _ => self.on_idle(cx, id),
        }
    }

    fn on_link_deadline(&mut self, cx: &mut Cx<'_>, id: LinkId) {
        let Some(link) = self.links.get(id) else { return };
        let (cause, why) = match link.state {
            LinkState::Connecting => ("no connection in time", CloseReason::Unreachable),
            LinkState::Handshaking => ("no TLS in time", CloseReason::Tls),
            LinkState::Ready | LinkState::Closing => ("no whole message in time", CloseReason::Local),
        };
        let peer = link.peer;
        cx.refuse(
            Counter::SipConnectionRefused,
            "sip.connection.closed",
            format_args!("side=sip cause=\"{cause}\" peer={peer}"),
        );
        cx.out.abort(id);
        self.on_closed(cx, id, Failure::Transport(why));
    }

    fn on_keep_alive(&mut self, cx: &mut Cx<'_>, id: LinkId) {
        let Some(key) = self.links.key(id) else { return };
        let Some(link) = self.links.get_mut(id).filter(|link| link.state == LinkState::Ready) else { return };
        if link.awaits_pong {
            let peer = link.peer;
            cx.refuse(
                Counter::SipConnectionRefused,
                "sip.connection.closed",
                format_args!("side=sip cause=\"no answer to a keep-alive\" peer={peer}"),
            );
            cx.out.abort(id);
            self.on_closed(cx, id, Failure::Transport(CloseReason::Unreachable));
            return;
        }
        if cx.now.since(link.heard) < Duration::from_millis(PING_AFTER_MS) {
            self.set_ping(cx, key);
            return;
        }
        link.awaits_pong = true;
        link.given += 2 * CRLF_OCTETS as u64;
        cx.out.send(id, b"\r\n\r\n");
        self.link_timers.set(timer(key, KEEP_ALIVE), cx.now.after(PONG_TIME));
    }

    fn on_idle(&mut self, cx: &mut Cx<'_>, id: LinkId) {
        let Some(key) = self.links.key(id) else { return };
        let Some(link) = self.links.get(id) else { return };
        // Who accepted lets the other side decide: its keep-alives count (RFC 5626).
        let last = if link.listener.is_some() { link.used.max(link.heard) } else { link.used };
        if cx.now.since(last) < IDLE_TIME {
            self.link_timers.set(timer(key, IDLE), last.after(IDLE_TIME));
            return;
        }
        cx.out.close(id);
        self.on_closed(cx, id, Failure::Transport(CloseReason::Local));
    }
}

/// What helps against a certificate that is not believed.
const CERTIFICATE: &str =
    "the peer's certificate must name one of the wanted names and come from a CA of ours: set tls trust NAME";
/// What helps where no connection comes about.
const UNREACHABLE: &str =
    "the peer must be up and take connections there; check the next hop and firewalls on both sides";
/// What helps where the peer does not want our TLS.
const TLS_REFUSED: &str =
    "the peer's log says why: it has to trust the CA of our certificate and know its name (set tls certificate)";

/// Tells whoever asks how a connection of ours ended that never was of use.
fn note_closed(cx: &mut Cx<'_>, link: &Link, why: CloseReason) {
    if link.listener.is_some() || !cx.out.trail.is_watching() {
        return;
    }
    let cause = cx.out.trail.cause_of(link.id).map_or_else(|| why.reason().to_owned(), str::to_owned);
    let (step, side, advice) = match (link.state, why) {
        (LinkState::Connecting, CloseReason::Refused) => (Step::Tcp, Side::Partner, UNREACHABLE),
        (LinkState::Connecting, _) => (Step::Tcp, Side::Network, UNREACHABLE),
        (LinkState::Handshaking, _) if cause.contains("received fatal alert") => (Step::Tls, Side::Ours, TLS_REFUSED),
        (LinkState::Handshaking, _) => (Step::Tls, Side::Partner, TLS_REFUSED),
        // With TLS 1.3 a server refuses our certificate when the handshake is over for us.
        (_, CloseReason::Tls) => (Step::Tls, Side::Ours, TLS_REFUSED),
        _ => (Step::RoundTrip, Side::Partner, "the peer hung up; its log says why"),
    };
    cx.out.trail.failed(&link.names(), step, side, format_args!("{}: {cause}", link.peer), advice);
}

fn new_link(cx: &Cx<'_>, id: LinkId, transport: Transport, peer: SocketAddr, state: LinkState) -> Link {
    Link {
        id,
        transport,
        peer,
        listener: None,
        state,
        is_proved: false,
        wanted: [String::new(), String::new()],
        certificate: None,
        framer: Framer::default(),
        alias: None,
        given: 0,
        drained: 0,
        heard: cx.now,
        used: cx.now,
        awaits_pong: false,
    }
}

const fn source_of(link: &Link) -> Source {
    Source { transport: link.transport, address: link.peer, link: Some(link.id), listener: link.listener }
}
