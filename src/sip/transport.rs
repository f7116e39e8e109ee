//! Where an answer or a request goes: listeners, connections, `received` and `rport`,
//! who is a configured peer, and which addresses failed lately.

use super::framer::Framer;
use super::header::{Via, split_list};
use super::message::{Malformed, Message};
use super::uri::host_address;
use crate::base::certificate::PeerCertificate;
use crate::base::net::{LinkId, ListenerId, Target, Transport};
use crate::base::outbox::Writer;
use crate::base::slab::{Key, Slab};
use crate::base::time::Instant;
use crate::limits::{DNS_TARGETS_MAX, SIP_LINKS_MAX};
use crate::settings::{ListenerKind, NextHop, NextHopTransport, Peer, Settings};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;

/// Port of `sip:` over UDP and TCP.
pub const PORT: u16 = 5060;
/// Port of SIP over TLS.
pub const PORT_TLS: u16 = 5061;
/// How long an address that failed is left alone (RFC 3263 section 4.3, derived).
pub const FAILED_FOR: Duration = Duration::from_secs(32);
/// Longest Retry-After that is believed: after a fault everything works again within
/// five minutes (promise P7).
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(240);

/// The port of a transport where none is given.
pub const fn default_port(transport: Transport) -> u16 {
    match transport {
        Transport::Tls => PORT_TLS,
        Transport::Udp | Transport::Tcp => PORT,
    }
}

/// What the settings say about the ways in and out.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// Our name in Via.
    pub(super) host_name: String,
    listeners: Vec<(ListenerId, Transport, SocketAddr)>,
    networks: Vec<crate::base::net::Network>,
    /// Next hops, those that are addresses and those that are names.
    hop_addresses: Vec<IpAddr>,
    /// Names a peer's certificate may have.
    names: Vec<String>,
}

impl Ways {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut ways = Self { host_name: settings.host_name.clone(), ..Self::default() };
        for (place, listener) in settings.listeners.iter().enumerate() {
            let transport = match listener.kind {
                ListenerKind::SipUdp => Transport::Udp,
                ListenerKind::SipTcp => Transport::Tcp,
                ListenerKind::SipTls => Transport::Tls,
                ListenerKind::XmppStartTls | ListenerKind::XmppDirectTls => continue,
            };
            ways.listeners.push((ListenerId(place as u8), transport, listener.address));
        }
        for domain in &settings.sip_domains {
            ways.names.push(ascii(&domain.domain));
            for peer in &domain.peers {
                match peer {
                    Peer::Host(host) => ways.names.push(ascii(host)),
                    Peer::Network(network) => ways.networks.push(*network),
                }
            }
            if let Some(hop) = &domain.next_hop {
                match host_address(&hop.host).or_else(|| hop.host.parse().ok()) {
                    Some(address) => ways.hop_addresses.push(address.to_canonical()),
                    None => ways.names.push(ascii(&hop.host)),
                }
            }
        }
        ways
    }

    pub(super) fn transport_of(&self, listener: ListenerId) -> Option<Transport> {
        self.listeners.iter().find(|(id, ..)| *id == listener).map(|(_, transport, _)| *transport)
    }

    /// The UDP listener to send from to `address`.
    pub(super) fn udp_towards(&self, address: IpAddr) -> Option<ListenerId> {
        let fits = |at: &SocketAddr| at.is_ipv4() == address.to_canonical().is_ipv4();
        self.listeners.iter().find(|(_, t, at)| *t == Transport::Udp && fits(at)).map(|(id, ..)| *id)
    }

    /// The port we take responses and requests on by that transport.
    pub(super) fn port_of(&self, transport: Transport) -> Option<u16> {
        self.listeners.iter().find(|(_, t, _)| *t == transport).map(|(_, _, at)| at.port())
    }

    /// Does the address belong to a configured peer or next hop?
    pub(super) fn is_peer_address(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
            || self.hop_addresses.contains(&address.to_canonical())
    }

    /// Is the certificate good for a SIP domain or a peer of ours?
    pub(super) fn is_peer_certificate(&self, peer: &PeerCertificate) -> bool {
        peer.is_trusted() && self.names.iter().any(|name| peer.names_sip_domain(name))
    }

    /// Is this our own `sent-by`?
    pub(super) fn is_ours(&self, via: &Via<'_>) -> bool {
        super::uri::same_host(via.host, &self.host_name)
            || host_address(via.host).is_some_and(|a| self.listeners.iter().any(|(_, _, at)| at.ip() == a))
    }

    /// Writes the Via of a request of ours, the whole line.
    pub(super) fn emit_via(&self, w: &mut Writer<'_>, transport: Transport, branch: &Branch, compact: bool) {
        super::emit::emit_name(w, "Via", compact);
        w.str("SIP/2.0/").str(transport.name()).str(" ").str(&self.host_name);
        if let Some(port) = self.port_of(transport).filter(|port| *port != default_port(transport)) {
            w.str(":").number(u64::from(port));
        }
        w.str(";branch=").str(branch.as_str()).str(via_end(transport));
    }

    /// Where we are reached over a transport, as a URI of `user`.
    pub(super) fn contact(&self, transport: Transport, user: &str, mark: &str) -> String {
        use core::fmt::Write;
        let mut uri = format!("sip:{user}@{}", self.host_name);
        // Writing into a String does not fail.
        if let Some(port) = self.port_of(transport).filter(|port| *port != default_port(transport)) {
            let _ = write!(uri, ":{port}");
        }
        match transport {
            Transport::Tls => uri.push_str(";transport=tls"),
            Transport::Tcp => uri.push_str(";transport=tcp"),
            Transport::Udp => {}
        }
        let _ = write!(uri, ";gr={mark}");
        uri
    }

    /// Octets of that line without the branch.
    pub(super) fn via_len(&self, transport: Transport, compact: bool) -> usize {
        let port = self.port_of(transport).filter(|port| *port != default_port(transport));
        let port = port.map_or(0, |port| ":".len() + super::emit::decimal_len(u64::from(port)));
        let name = super::emit::name_len("Via", compact);
        name + "SIP/2.0/TCP ;branch=".len() + self.host_name.len() + port + via_end(transport).len()
    }
}

const fn via_end(transport: Transport) -> &'static str {
    match transport {
        // RFC 3581; RFC 5923 section 9.
        Transport::Udp => ";rport\r\n",
        Transport::Tls => ";alias\r\n",
        Transport::Tcp => "\r\n",
    }
}

/// A domain in A-labels, as certificates have it.
pub(super) fn ascii(domain: &str) -> String {
    idna::domain_to_ascii(domain).unwrap_or_else(|_| domain.to_ascii_lowercase())
}

/// The magic cookie every branch of RFC 3261 begins with.
pub const COOKIE: &str = "z9hG4bK";

/// A branch of ours: the cookie, random characters, and a mark that ties them to the
/// request, so that the request is known again when it comes back (RFC 5393).
pub(super) type Branch = heapless::String<40>;

/// Thirteen characters for 64 bits, all of them token characters.
pub(super) fn base32(mut bits: u64) -> heapless::String<13> {
    let mut text = heapless::String::new();
    for _ in 0..13 {
        let digit = (bits & 31) as usize;
        bits >>= 5;
        // Thirteen characters fit by type.
        let _ = text.push(char::from(b"0123456789abcdefghjkmnpqrstvwxyz"[digit]));
    }
    text
}

/// Where a response over UDP goes (RFC 3261 section 18.2.2, RFC 3581 section 4).
/// `maddr` is followed for configured peers only: else anybody could point answers
/// at anybody; multicast and broadcast never.
pub(super) fn datagram_reply(via: Option<&Via<'_>>, from: SocketAddr, is_peer: bool) -> SocketAddr {
    let Some(via) = via else { return from };
    let port = via.port.unwrap_or(PORT);
    let maddr = via.params.value("maddr").filter(|_| is_peer).and_then(host_address);
    if let Some(address) = maddr.filter(|address| is_unicast(*address)) {
        return SocketAddr::new(address, port);
    }
    if via.rport().is_some() { from } else { SocketAddr::new(from.ip(), port) }
}

fn is_unicast(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !v4.is_multicast() && !v4.is_broadcast() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unspecified(),
    }
}

/// What of the request an answer carries: (octets up to CSeq, where the tag of ours
/// stands in them). Behind it a Timestamp, which only a 100 repeats.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copied {
    /// Octets up to and with CSeq.
    pub(super) len: usize,
    /// Where `;tag=...` that we added stands.
    pub(super) tag: (usize, usize),
}

/// Copies Via, From, To, Call-ID and CSeq, with `received`, `rport` and our tag added.
pub(super) fn emit_copied(w: &mut Writer<'_>, message: &Message<'_>, from: SocketAddr, tag: &str) -> Copied {
    for (place, via) in message.vias().enumerate() {
        if place == 0 {
            emit_top_via(w, message.via(), from);
        } else {
            w.str("Via: ").str(via);
        }
        w.str("\r\n");
    }
    w.str("From: ").str(message.header("From").unwrap_or_default());
    w.str("\r\nTo: ").str(message.header("To").unwrap_or_default());
    let before = w.len();
    if message.to().tag.is_none() {
        w.str(";tag=").str(tag);
    }
    let tag = (before, w.len());
    w.str("\r\nCall-ID: ").str(message.call_id());
    w.str("\r\nCSeq: ").number(u64::from(message.cseq().number)).str(" ").str(message.cseq().method).str("\r\n");
    let len = w.len();
    if let Some(timestamp) = message.header("Timestamp") {
        w.str("Timestamp: ").str(timestamp).str("\r\n");
    }
    Copied { len, tag }
}

/// The same for a request that was refused: what there is of them.
pub(super) fn emit_salvaged(w: &mut Writer<'_>, malformed: &Malformed<'_>, from: SocketAddr, tag: &str) {
    let is =
        |name: &str, long: &str, compact: &str| name.eq_ignore_ascii_case(long) || name.eq_ignore_ascii_case(compact);
    let mut is_top = true;
    for (_, via) in malformed.fields().filter(|(name, _)| is(name, "Via", "v")) {
        // One line may hold several values; only the very first is ours to change.
        match split_list(via).next().and_then(Via::parse).filter(|_| is_top) {
            Some(top) => {
                emit_top_via(w, &top, from);
                for further in split_list(via).skip(1) {
                    w.str("\r\nVia: ").str(further);
                }
            }
            None => {
                w.str("Via: ").str(via);
            }
        }
        w.str("\r\n");
        is_top = false;
    }
    for (long, compact) in [("From", "f"), ("To", "t"), ("Call-ID", "i"), ("CSeq", "cseq")] {
        if let Some((_, value)) = malformed.fields().find(|(name, _)| is(name, long, compact)) {
            w.str(long).str(": ").str(value);
            if long == "To" && !value.to_ascii_lowercase().contains("tag") {
                w.str(";tag=").str(tag);
            }
            w.str("\r\n");
        }
    }
}

/// The Via of the hop before us with what we know of it (RFC 3261 section 18.2.1, RFC
/// 3581 section 4), without the line end.
pub(super) fn emit_top_via(w: &mut Writer<'_>, via: &Via<'_>, from: SocketAddr) {
    w.str("Via: SIP/2.0/").str(via.transport).str(" ").str(via.host);
    if let Some(port) = via.port {
        w.str(":").number(u64::from(port));
    }
    let address = from.ip().to_canonical();
    for (name, value) in via.params.iter() {
        if name.eq_ignore_ascii_case("received") {
            continue;
        }
        w.str(";").str(name);
        if name.eq_ignore_ascii_case("rport") {
            w.str("=").number(u64::from(from.port()));
        } else if let Some(value) = value {
            w.str("=").str(value);
        }
    }
    if via.rport().is_some() || host_address(via.host) != Some(address) {
        // Writing into the arena cannot fail.
        let _ = core::fmt::Write::write_fmt(w, format_args!(";received={address}"));
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) transport: Transport,
    pub(super) peer: SocketAddr,
    /// The listener that accepted it; `None`: we opened it.
    pub(super) listener: Option<ListenerId>,
    pub(super) state: LinkState,
    /// Did the peer prove to be a configured one, by address or certificate?
    pub(super) is_proved: bool,
    /// Names one of which the peer's certificate must have, if we opened it.
    pub(super) wanted: [String; 2],
    pub(super) certificate: Option<PeerCertificate>,
    pub(super) framer: Framer,
    /// The port at which the peer takes requests, and that this connection stands for
    /// (RFC 5923).
    pub(super) alias: Option<u16>,
    /// Octets given to it, and octets known to have left.
    pub(super) given: u64,
    pub(super) drained: u64,
    /// When octets last came.
    pub(super) heard: Instant,
    /// When a message last came or went.
    pub(super) used: Instant,
    pub(super) awaits_pong: bool,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    /// TCP is being set up.
    Connecting,
    /// TLS is being set up.
    Handshaking,
    /// Messages may go.
    Ready,
    /// We closed it.
    Closing,
}

impl Link {
    /// May a request for one of these names go over it? Over a connection the peer
    /// opened only with an alias, over TLS only if the certificate covers the name
    /// (RFC 5923 section 9.3).
    fn serves(&self, target: Target, names: &[&str; 2]) -> bool {
        let place = match (self.listener, self.alias) {
            (None, _) => self.peer == target.address,
            (Some(_), Some(port)) => SocketAddr::new(self.peer.ip(), port) == target.address,
            (Some(_), None) => false,
        };
        place
            && self.transport == target.transport
            && self.state != LinkState::Closing
            && (self.transport != Transport::Tls || self.is_for(names))
    }

    /// The names it was opened for.
    pub(super) fn names(&self) -> [&str; 2] {
        let [domain, host] = &self.wanted;
        [domain, host]
    }

    fn is_for(&self, names: &[&str; 2]) -> bool {
        match &self.certificate {
            Some(peer) => names_any(peer, names),
            None => self.wanted.iter().zip(names).all(|(ours, theirs)| ours == theirs),
        }
    }
}

/// Is the certificate believed, and does it have one of these names?
pub(super) fn names_any(peer: &PeerCertificate, names: &[&str; 2]) -> bool {
    peer.is_trusted() && names.iter().any(|name| !name.is_empty() && peer.names_sip_domain(name))
}

/// All connections.
#[derive(Debug)]
pub(super) struct Links {
    slab: Slab<Link>,
    by_id: BTreeMap<LinkId, Key>,
}

impl Links {
    pub(super) const fn new() -> Self {
        Self { slab: Slab::with_capacity(SIP_LINKS_MAX), by_id: BTreeMap::new() }
    }

    pub(super) fn insert(&mut self, link: Link) -> Option<Key> {
        let id = link.id;
        let key = self.slab.insert(link).ok()?;
        self.by_id.insert(id, key);
        Some(key)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = LinkId> {
        self.by_id.keys().copied()
    }

    pub(super) fn key(&self, id: LinkId) -> Option<Key> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&self, id: LinkId) -> Option<&Link> {
        self.slab.get(self.key(id)?)
    }

    pub(super) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.slab.get_mut(self.by_id.get(&id).copied()?)
    }

    pub(super) fn at(&self, index: u32) -> Option<LinkId> {
        self.slab.get(self.slab.key_at(index)?).map(|link| link.id)
    }

    pub(super) fn remove(&mut self, id: LinkId) -> Option<(Key, Link)> {
        let key = self.by_id.remove(&id)?;
        Some((key, self.slab.remove(key)?))
    }

    /// The connection to use for a request to `target`.
    pub(super) fn find(&self, target: Target, names: &[&str; 2]) -> Option<LinkId> {
        let serving = self.slab.iter().map(|(_, link)| link).filter(|link| link.serves(target, names));
        // A connection that stands is better than one that is being set up.
        serving.max_by_key(|link| (link.state == LinkState::Ready, link.id)).map(|link| link.id)
    }

    /// Connections accepted and not proved yet: (from that address, in all).
    pub(super) fn unproved(&self, from: IpAddr) -> (usize, usize) {
        let unproved = self.slab.iter().filter(|(_, link)| link.listener.is_some() && !link.is_proved);
        unproved.fold((0, 0), |(here, all), (_, link)| (here + usize::from(link.peer.ip() == from), all + 1))
    }

    /// The oldest of those that was not used for so long.
    pub(super) fn idle_stranger(&self, now: Instant, idle: Duration) -> Option<LinkId> {
        let strangers =
            self.slab.iter().map(|(_, link)| link).filter(|link| link.listener.is_some() && !link.is_proved);
        strangers.filter(|link| now.since(link.used) >= idle).map(|link| link.id).min()
    }

    pub(super) const fn len(&self) -> usize {
        self.slab.len()
    }
}

/// A destination with the addresses found for it.
#[derive(Debug)]
pub(super) struct Route {
    /// `None`: found by the records of the domain.
    pub(super) hop: Option<NextHop>,
    /// In A-labels.
    pub(super) domain: String,
    pub(super) targets: heapless::Vec<Target, DNS_TARGETS_MAX>,
    /// The host of each, where the peer's certificate may name that instead of the domain.
    pub(super) hosts: Vec<String>,
    /// When the next request may go, in microseconds since the start.
    pub(super) departs: u64,
    /// When they were found; `None`: not yet.
    pub(super) located: Option<Instant>,
    /// Was the locator asked, and has not answered?
    pub(super) is_asking: bool,
    /// When it was last asked for.
    pub(super) used: Instant,
    /// Requests under way.
    pub(super) requests: usize,
}

impl Route {
    /// Names one of which the TLS peer at an address must prove.
    pub(super) fn names_at(&self, address: SocketAddr) -> [&str; 2] {
        let at = self.targets.iter().position(|target| target.address == address);
        let found = at.and_then(|at| self.hosts.get(at)).map_or("", String::as_str);
        [&self.domain, self.hop.as_ref().map_or(found, |hop| &hop.host)]
    }

    pub(super) fn is_for(&self, hop: Option<&NextHop>, domain: &str) -> bool {
        self.hop.as_ref() == hop && self.domain == domain
    }

    /// The address of a next hop that is one.
    pub(super) fn literal(&self) -> Option<Target> {
        let hop = self.hop.as_ref()?;
        let address = host_address(&hop.host).or_else(|| hop.host.parse().ok())?;
        let transport = match hop.transport {
            NextHopTransport::Tls => Transport::Tls,
            NextHopTransport::Tcp => Transport::Tcp,
            NextHopTransport::Udp => Transport::Udp,
        };
        let port = hop.port.unwrap_or_else(|| default_port(transport));
        Some(Target { transport, address: SocketAddr::new(address, port) })
    }
}

/// Addresses that failed lately.
#[derive(Debug, Default)]
pub(super) struct Failed(heapless::Vec<(Target, Instant, bool), 64>);

impl Failed {
    /// Leaves `target` alone for a while; `asked`: it asked for that (Retry-After).
    pub(super) fn add(&mut self, now: Instant, target: Target, time: Duration, asked: bool) {
        self.0.retain(|(other, until, _)| *other != target && *until > now);
        if self.0.is_full() {
            let first = self.0.iter().enumerate().min_by_key(|(_, (_, until, _))| *until).map(|(at, _)| at);
            if let Some(first) = first {
                self.0.swap_remove(first);
            }
        }
        // There is room now.
        let _ = self.0.push((target, now.after(time), asked));
    }

    /// Is it to be left alone? `Some(true)`: because it asked for that.
    pub(super) fn of(&self, now: Instant, target: Target) -> Option<bool> {
        self.0.iter().find(|(other, until, _)| *other == target && *until > now).map(|(_, _, asked)| *asked)
    }

    /// It answered: forget that it failed.
    pub(super) fn remove(&mut self, target: Target) {
        self.0.retain(|(other, ..)| *other != target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(via: &str, is_peer: bool) -> String {
        let via = Via::parse(via).expect("a Via");
        datagram_reply(Some(&via), "192.0.2.1:9999".parse().expect("an address"), is_peer).to_string()
    }

    #[test]
    fn responses_over_udp_go_where_the_via_says() {
        assert_eq!(reply("SIP/2.0/UDP a;rport", false), "192.0.2.1:9999");
        assert_eq!(reply("SIP/2.0/UDP a", false), "192.0.2.1:5060");
        assert_eq!(reply("SIP/2.0/UDP 198.51.100.7:5070", false), "192.0.2.1:5070");
        assert_eq!(reply("SIP/2.0/UDP a;maddr=203.0.113.9", true), "203.0.113.9:5060");
        assert_eq!(reply("SIP/2.0/UDP a;maddr=203.0.113.9", false), "192.0.2.1:5060");
        assert_eq!(reply("SIP/2.0/UDP a;maddr=239.255.255.1", true), "192.0.2.1:5060");
        assert_eq!(reply("SIP/2.0/UDP a;maddr=255.255.255.255", true), "192.0.2.1:5060");
    }

    #[test]
    fn received_and_rport_are_filled_in() {
        let written = |via: &str, from: &str| {
            let mut out = crate::base::outbox::Outbox::with_capacity(64, 1);
            let mut w = out.begin();
            emit_top_via(&mut w, &Via::parse(via).expect("a Via"), from.parse().expect("an address"));
            let span = w.finish();
            out.text(&span).to_owned()
        };
        assert_eq!(
            written("SIP/2.0/UDP 192.0.2.21:5060;rport;branch=z9hG4bKrr1", "192.0.2.21:4000"),
            "Via: SIP/2.0/UDP 192.0.2.21:5060;rport=4000;branch=z9hG4bKrr1;received=192.0.2.21"
        );
        assert_eq!(
            written("SIP/2.0/TLS 192.0.2.21;branch=x", "192.0.2.21:4000"),
            "Via: SIP/2.0/TLS 192.0.2.21;branch=x"
        );
        assert_eq!(
            written("SIP / 2.0 / UDP a.example ; branch = x;received=10.0.0.1", "[::ffff:192.0.2.21]:4000"),
            "Via: SIP/2.0/UDP a.example;branch=x;received=192.0.2.21"
        );
        assert_eq!(
            written("SIP/2.0/UDP [2001:db8::9]", "[2001:db8::8]:1"),
            "Via: SIP/2.0/UDP [2001:db8::9];received=2001:db8::8"
        );
    }

    #[test]
    fn an_address_that_failed_is_left_alone_for_a_while() {
        let target = Target { transport: Transport::Udp, address: "192.0.2.1:5060".parse().expect("an address") };
        let mut failed = Failed::default();
        failed.add(Instant::ZERO, target, FAILED_FOR, false);
        assert_eq!(failed.of(Instant::from_millis(31_999), target), Some(false));
        assert_eq!(failed.of(Instant::from_millis(32_000), target), None);
        for port in 0..200 {
            let address = SocketAddr::new(target.address.ip(), port);
            failed.add(Instant::ZERO, Target { address, ..target }, FAILED_FOR, true);
        }
        let last = Target { address: SocketAddr::new(target.address.ip(), 199), ..target };
        assert_eq!(failed.of(Instant::ZERO, last), Some(true));
        failed.remove(last);
        assert_eq!(failed.of(Instant::ZERO, last), None);
    }
}
