//! Who may talk to whom: which domain is on which side, who may send for it, what a
//! partner's users may do, and the guards that stop a message running in a circle.
//!
//! Domains are compared as `Settings` has them: lower case, U-labels, no final dot.

use crate::base::certificate::PeerCertificate;
use crate::base::net::Transport;
use crate::base::text::hex_value;
use crate::base::time::Instant;
use crate::limits::{DEPARTED_DOMAINS_MAX, LOOP_ENTRIES_MAX, LOOP_PAIRS_MAX};
use crate::settings::{
    DISCOVERED, Dialect, NextHop, NextHopTransport, Partner, PartnerKind, Peer, Settings, SipDomain,
};
use crate::sip::diagnostics::cause;
use core::hash::{Hash, Hasher};
use core::net::IpAddr;
use core::time::Duration;
use std::hash::DefaultHasher;

/// The domains of both sides, sorted, so that a look-up does not grow dear with the
/// number of partners. Made anew whenever the settings change.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Served SIP domains and their places in `Settings::sip_domains`.
    sip: Vec<(Box<str>, usize)>,
    /// Partners' domains, additional ones too, and their places in `Settings::partners`.
    xmpp: Vec<(Box<str>, usize)>,
    /// Domains that may not talk, whatever else is set.
    blocked: Vec<Box<str>>,
    discovery_open: bool,
    /// SIP domains that were served before, as they were: what still runs there is ended by
    /// the way it came.
    departed: Vec<SipDomain>,
}

/// An XMPP domain that may talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XmppDomain<'a> {
    /// Its partner; `None` for a domain that is none, while `partner discovery` is open.
    pub partner: Option<&'a Partner>,
    /// What its users may do. A discovered domain counts as public-verified: its
    /// streams are authenticated like a partner's, but nobody vouched for it.
    pub kind: PartnerKind,
}

impl XmppDomain<'_> {
    /// May its users write to a SIP user? Those of a public-unverified partner only
    /// to one who has them among his contacts.
    pub fn may_write(&self, is_contact: bool) -> bool {
        is_contact || self.kind != PartnerKind::PublicUnverified
    }
}

/// Why a message goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The sender's domain is not served by us: 403, `forbidden`.
    Sender,
    /// The sender's domain is not proved by the connection it came on: 403.
    Unproven,
    /// The sender's address is one of the other side's, mapped by us, and came back:
    /// 403, `forbidden`.
    Mapped,
    /// The recipient's domain is not served by us: 404, `remote-server-not-found`.
    Recipient,
    /// The users of this partner may not write to whom has not added them: `forbidden`.
    NotContact,
    /// The sender's domain is blocked: 403, `forbidden`.
    Blocked,
}

impl Denied {
    /// In words, for logs and error texts.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Sender => "sender's domain not served",
            Self::Unproven => "sender's domain not proved by this connection",
            Self::Mapped => "sender's address belongs to the other side",
            Self::Recipient => "recipient's domain not served",
            Self::NotContact => "recipient has not added the sender",
            Self::Blocked => "sender's domain is blocked",
        }
    }

    /// The answer to a SIP request.
    pub const fn status(self) -> u16 {
        match self {
            Self::Recipient => 404,
            _ => 403,
        }
    }

    /// What a Lync administrator reads in `ms-diagnostics-public`, where there is more to
    /// say than the status does.
    pub const fn diagnostic(self) -> Option<&'static str> {
        match self {
            Self::Mapped => Some(cause::SAME_SIDE),
            Self::Recipient => Some(cause::NO_ROUTE),
            Self::Blocked => Some(cause::BLOCKED),
            Self::Sender | Self::Unproven | Self::NotContact => None,
        }
    }

    /// The answer to a stanza.
    pub const fn condition(self) -> crate::xmpp::stanza::Condition {
        match self {
            Self::Recipient => crate::xmpp::stanza::Condition::RemoteServerNotFound,
            _ => crate::xmpp::stanza::Condition::Forbidden,
        }
    }
}

impl Routes {
    /// The index of these settings.
    pub fn new(settings: &Settings) -> Self {
        let mut sip: Vec<(Box<str>, usize)> =
            settings.sip_domains.iter().enumerate().map(|(place, d)| (d.domain.as_str().into(), place)).collect();
        let mut xmpp: Vec<(Box<str>, usize)> = Vec::new();
        for (place, partner) in settings.partners.iter().enumerate() {
            let domains = core::iter::once(&partner.domain).chain(&partner.additional_domains);
            xmpp.extend(domains.map(|domain| (domain.as_str().into(), place)));
        }
        let mut blocked: Vec<Box<str>> = settings.blocked.iter().map(|domain| domain.as_str().into()).collect();
        sip.sort_unstable();
        xmpp.sort_unstable();
        blocked.sort_unstable();
        Self { sip, xmpp, blocked, discovery_open: settings.discovery_open, departed: Vec::new() }
    }

    /// Goes from one state of the settings to the next.
    pub fn configure(&mut self, old: &Settings, new: &Settings) {
        let mut departed = core::mem::take(&mut self.departed);
        *self = Self::new(new);
        departed.retain(|domain| place_of(&self.sip, &domain.domain).is_none());
        for domain in &old.sip_domains {
            if place_of(&self.sip, &domain.domain).is_none() {
                departed.insert(0, domain.clone());
            }
        }
        departed.truncate(DEPARTED_DOMAINS_MAX);
        self.departed = departed;
    }

    /// Where requests to a SIP domain go, one that was served until now among them; `None`: to
    /// where the DNS says.
    pub fn next_hop<'s>(&'s self, settings: &'s Settings, domain: &str) -> Option<&'s NextHop> {
        let served = match place_of(&self.sip, domain) {
            Some(place) => settings.sip_domains.get(place),
            None => self.departed.iter().find(|departed| departed.domain == domain),
        };
        served?.next_hop.as_ref()
    }

    /// The served SIP domain of that name: a configured one, or any that may be one while
    /// discovery is open.
    pub fn sip_domain<'s>(&self, settings: &'s Settings, domain: &str) -> Option<&'s SipDomain> {
        match place_of(&self.sip, domain) {
            Some(place) => settings.sip_domains.get(place),
            None => (place_of(&self.xmpp, domain).is_none() && self.may_be_discovered(settings, domain))
                .then_some(&DISCOVERED),
        }
    }

    /// Is the SIP domain served, or was it until now, so that its servers are known?
    pub fn reaches_sip(&self, settings: &Settings, domain: &str) -> bool {
        self.sip_domain(settings, domain).is_some() || self.departed.iter().any(|departed| departed.domain == domain)
    }

    /// May the domain talk although it is not configured?
    fn may_be_discovered(&self, settings: &Settings, domain: &str) -> bool {
        self.discovery_open && !self.is_blocked(domain) && !super::provider::is_routing_domain(settings, domain)
    }

    /// Is the domain blocked?
    pub fn is_blocked(&self, domain: &str) -> bool {
        self.blocked.binary_search_by(|name| (**name).cmp(domain)).is_ok()
    }

    /// Is the domain configured, on whichever side?
    pub fn is_configured(&self, domain: &str) -> bool {
        place_of(&self.sip, domain).is_some() || place_of(&self.xmpp, domain).is_some()
    }

    /// The XMPP domain of that name, if it may talk. One of our own SIP domains never
    /// is one.
    pub fn xmpp_domain<'s>(&self, settings: &'s Settings, domain: &str) -> Option<XmppDomain<'s>> {
        if let Some(partner) = place_of(&self.xmpp, domain).and_then(|place| settings.partners.get(place)) {
            return Some(XmppDomain { partner: Some(partner), kind: partner.kind });
        }
        (place_of(&self.sip, domain).is_none() && self.may_be_discovered(settings, domain))
            .then_some(XmppDomain { partner: None, kind: PartnerKind::PublicVerified })
    }

    /// The served SIP domain of a sender, if the source of his request may send for it.
    /// `from` in U-labels.
    pub fn sip_sender<'s>(
        &self,
        settings: &'s Settings,
        from: &str,
        source: &SipSource<'_>,
    ) -> Result<&'s SipDomain, Denied> {
        match self.sip_domain(settings, from) {
            Some(domain) if is_discovered(domain) && proves_discovered(source, from) => Ok(domain),
            Some(domain) if may_send_for(domain, source) => Ok(domain),
            None if self.is_blocked(from) => Err(Denied::Blocked),
            Some(_) => Err(Denied::Unproven),
            // A partner's address that arrives on SIP is our own mapping, come back.
            None if place_of(&self.xmpp, from).is_some() => Err(Denied::Mapped),
            None => Err(Denied::Sender),
        }
    }

    /// May a stanza with these domains pass? Its stream proved `from` already.
    pub fn from_xmpp<'s>(
        &self,
        settings: &'s Settings,
        from: &str,
        to: &str,
        is_contact: bool,
    ) -> Result<(XmppDomain<'s>, &'s SipDomain), Denied> {
        if place_of(&self.sip, from).is_some() {
            return Err(Denied::Mapped);
        }
        let recipient = self.sip_domain(settings, to).ok_or(Denied::Recipient)?;
        if self.is_blocked(from) {
            return Err(Denied::Blocked);
        }
        let sender = self.xmpp_domain(settings, from).ok_or(Denied::Sender)?;
        if !sender.may_write(is_contact) {
            return Err(Denied::NotContact);
        }
        Ok((sender, recipient))
    }
}

fn place_of(index: &[(Box<str>, usize)], domain: &str) -> Option<usize> {
    let at = index.binary_search_by(|(name, _)| (**name).cmp(domain)).ok()?;
    index.get(at).map(|(_, place)| *place)
}

/// Where a SIP request came from, and what that connection proved.
#[derive(Clone, Copy, Debug)]
pub struct SipSource<'a> {
    /// How it came.
    pub transport: Transport,
    /// The address it came from.
    pub address: IpAddr,
    /// What the TLS peer showed.
    pub certificate: Option<&'a PeerCertificate>,
}

/// May this source send for that domain (RFC 5922 section 7, `sip domain ... peer`)?
/// The peers that the operator named; without any the next hop; without a next hop
/// whoever shows a certificate of the domain itself.
pub fn may_send_for(domain: &SipDomain, source: &SipSource<'_>) -> bool {
    if !domain.peers.is_empty() {
        return domain.peers.iter().any(|peer| match peer {
            Peer::Host(host) => proves(source, host),
            // An address proves something only where nothing better is to be had.
            Peer::Network(network) => source.transport != Transport::Tls && network.contains(source.address),
        });
    }
    match &domain.next_hop {
        Some(hop) if hop.transport == NextHopTransport::Tls => {
            proves(source, &hop.host) || proves(source, &domain.domain)
        }
        // A name would have to be asked from DNS: the operator has to name a peer. One
        // that is written to over UDP turns to TCP for large requests (RFC 3261 section
        // 18.1.1).
        Some(hop) => {
            let is_by_tcp = source.transport == Transport::Tcp;
            (is_by_tcp || source.transport == Transport::from(hop.transport))
                && literal_address(&hop.host)
                    .is_some_and(|address| address.to_canonical() == source.address.to_canonical())
        }
        // The certificate of an Edge names the Edge.
        None if domain.dialect == Dialect::Lync => proves_discovered(source, &domain.domain),
        None => proves(source, &domain.domain),
    }
}

/// In words for a log, what a SIP connection proved: the names of a believed certificate,
/// what is wrong with another, or the address alone.
pub fn proved_by(source: &SipSource<'_>) -> String {
    /// Names of a certificate that are told.
    const NAMES_MAX: usize = 4;
    let Some(certificate) = source.certificate.filter(|_| source.transport == Transport::Tls) else {
        return format!("{} by {}", source.address, source.transport);
    };
    let mut names: Vec<&str> = Vec::new();
    for name in certificate.dns_names.iter().chain(&certificate.sip_hosts).chain(&certificate.common_name) {
        if names.len() < NAMES_MAX && !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let names = if names.is_empty() { "no name".into() } else { names.join(",") };
    match certificate.verdict {
        None => "no certificate".into(),
        Some(Ok(())) => names,
        Some(Err(fault)) => format!("{names} ({fault})"),
    }
}

/// In words for a log, what a connection has to prove to send for a SIP domain: what
/// [`may_send_for`] asks of it.
pub fn wanted_of(domain: &SipDomain) -> String {
    if domain.peers.is_empty() {
        return match &domain.next_hop {
            Some(hop) if hop.transport == NextHopTransport::Tls => format!("{} or {}", hop.host, domain.domain),
            Some(hop) => hop.host.clone(),
            None => domain.domain.clone(),
        };
    }
    let peers = domain.peers.iter().map(|peer| match peer {
        Peer::Host(host) => host.clone(),
        Peer::Network(network) => format!("{}/{}", network.address, network.length),
    });
    peers.collect::<Vec<_>>().join(" or ")
}

/// Is it what holds for all SIP domains that are merely discovered?
pub fn is_discovered(domain: &SipDomain) -> bool {
    domain.domain.is_empty()
}

/// May this source send for a domain that nobody configured? Only over TLS, with a
/// certificate of the domain or of a host exactly one label below it: what public
/// providers asked of an Edge that they discovered.
pub fn proves_discovered(source: &SipSource<'_>, domain: &str) -> bool {
    let Some(certificate) = source.certificate.filter(|c| source.transport == Transport::Tls && c.is_trusted()) else {
        return false;
    };
    idna::domain_to_ascii(domain).is_ok_and(|ascii| certificate.names_sip_host_of(&ascii))
}

/// Did the TLS peer prove that it is `host`?
fn proves(source: &SipSource<'_>, host: &str) -> bool {
    let Some(certificate) = source.certificate.filter(|c| source.transport == Transport::Tls && c.is_trusted()) else {
        return false;
    };
    if host.is_ascii() {
        return certificate.names_sip_domain(host);
    }
    idna::domain_to_ascii(host).is_ok_and(|ascii| certificate.names_sip_domain(&ascii))
}

fn literal_address(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

/// Most hops a message may take, XMPP and SIP together (RFC 3261 section 8.1.1.6).
pub const HOPS_MAX: u8 = 70;

/// Writes the id of a stanza into `id`, which is cleared: the hops that are left, so
/// that a gateway further on can carry them back into Max-Forwards, and a token that
/// nobody can guess.
pub fn stanza_id(hops: u8, token: &str, id: &mut String) {
    use core::fmt::Write;
    id.clear();
    // Writing into a String does not fail.
    let _ = write!(id, "lat-{hops:02x}-{token}");
}

/// The hops that are left, of an id that [`stanza_id`] made somewhere.
pub fn hops_of(id: &str) -> Option<u8> {
    let (hops, token) = id.strip_prefix("lat-")?.split_once('-')?;
    let &[high, low] = hops.as_bytes() else { return None };
    let is_ours = token.len() >= 8 && token.bytes().all(|octet| octet.is_ascii_alphanumeric());
    if is_ours { Some(hex_value(high)? << 4 | hex_value(low)?) } else { None }
}

/// How often the same text of the same conversation (thread, Call-ID) may pass within
/// [`RETURN_WINDOW`]: a loop through XMPP brings it back unchanged within milliseconds,
/// and nobody says the same thing so often.
const RETURNS_MAX: u32 = 30;

/// How long returns of one conversation are counted together.
const RETURN_WINDOW: Duration = Duration::from_secs(20);

/// How often the same text may pass between the same two users within
/// [`ELSEWHERE_WINDOW`] when the conversation changes each time, since some gateways
/// make a new Call-ID for every message. Above what any sender of the same text but a
/// loop comes to.
const RETURNS_ELSEWHERE_MAX: u32 = 1_000_000;

/// How long returns are counted together whatever their conversation.
const ELSEWHERE_WINDOW: Duration = Duration::from_secs(60);

/// How many messages two automatic repliers may exchange.
const PING_PONG_MAX: u32 = 10;

/// An answer that comes later than this was written by a person.
const PING_PONG_GAP: Duration = Duration::from_secs(2);

/// One text on its way from one user to another.
#[derive(Clone, Copy, Debug)]
pub struct Passing<'a> {
    /// The sender's bare JID.
    pub from: &'a str,
    /// The recipient's bare JID.
    pub to: &'a str,
    /// Thread or Call-ID.
    pub conversation: Option<&'a str>,
    /// The text.
    pub body: &'a str,
}

/// Why the guard stops a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circle {
    /// It came back unchanged too often: 482, `policy-violation` (REQ-7247-52).
    Loop,
    /// Two automatic repliers answer one another.
    PingPong,
}

impl Circle {
    /// In words, for logs and error texts.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Loop => "message runs in a circle",
            Self::PingPong => "two automatic repliers answer one another",
        }
    }
}

/// Remembers what passed of late and stops what runs in a circle where no hop count
/// helps: through XMPP servers and clients that know nothing of hops (decision D-7).
/// Fixed in size; when full it forgets the oldest.
#[derive(Clone, Debug)]
pub struct LoopGuard {
    texts: Vec<PassedText>,
    pairs: Vec<Pair>,
}

/// A text between two users.
#[derive(Clone, Copy, Debug, Default)]
struct PassedText {
    /// Of sender, recipient and body; 0 when free.
    key: u64,
    conversation: u64,
    /// When counting in this conversation began.
    since: Instant,
    in_conversation: u32,
    /// When counting in all of them began.
    all_since: Instant,
    in_all: u32,
}

/// Two users who write to each other.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    /// Of both users, in whatever order; 0 when free.
    key: u64,
    /// The last text of each direction; the first is that of the lesser address.
    texts: [u64; 2],
    last_is_second: bool,
    last: Instant,
    /// Messages that were each a quick answer, and nothing new, in a row.
    exchanged: u32,
}

/// Places that share a key's hash: the oldest of them gives way.
const WAYS: usize = 4;

impl Default for LoopGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl LoopGuard {
    /// A guard that remembers nothing yet.
    pub fn new() -> Self {
        Self { texts: vec![PassedText::default(); LOOP_ENTRIES_MAX], pairs: vec![Pair::default(); LOOP_PAIRS_MAX] }
    }

    /// May this message pass? Asked once for each new message, before anything is
    /// sent. What is refused is not counted, so that a circle ends and its users can
    /// write again when the window is over.
    pub fn pass(&mut self, now: Instant, message: &Passing<'_>) -> Result<(), Circle> {
        if self.is_ping_pong(now, message) {
            return Err(Circle::PingPong);
        }
        if self.is_loop(now, message) { Err(Circle::Loop) } else { Ok(()) }
    }

    fn is_loop(&mut self, now: Instant, message: &Passing<'_>) -> bool {
        let key = hash(&(message.from, message.to, message.body));
        let conversation = message.conversation.map_or(0, |conversation| hash(&conversation));
        let Some(entry) = slot(&mut self.texts, key, |entry| (entry.key, entry.since)) else { return false };
        if entry.key != key || now.since(entry.all_since) > ELSEWHERE_WINDOW {
            *entry = PassedText { key, conversation, since: now, in_conversation: 0, all_since: now, in_all: 0 };
        }
        let is_other = entry.conversation != conversation || message.conversation.is_none();
        if is_other || now.since(entry.since) > RETURN_WINDOW {
            (entry.conversation, entry.since, entry.in_conversation) = (conversation, now, 0);
        }
        if entry.in_conversation >= RETURNS_MAX || entry.in_all >= RETURNS_ELSEWHERE_MAX {
            return true;
        }
        entry.in_conversation += 1;
        entry.in_all += 1;
        false
    }

    fn is_ping_pong(&mut self, now: Instant, message: &Passing<'_>) -> bool {
        let is_second = message.from > message.to;
        let key = hash(&if is_second { (message.to, message.from) } else { (message.from, message.to) });
        let text = hash(&message.body);
        let Some(pair) = slot(&mut self.pairs, key, |pair| (pair.key, pair.last)) else { return false };
        if pair.key != key {
            *pair = Pair { key, ..Pair::default() };
        }
        let is_quick_answer = pair.last_is_second != is_second && now.since(pair.last) <= PING_PONG_GAP;
        let said = &mut pair.texts[usize::from(is_second)];
        let is_new = *said != text;
        *said = text;
        pair.last_is_second = is_second;
        pair.last = now;
        pair.exchanged = match (is_quick_answer, is_new) {
            // The first answer of each side is new; from then on they repeat themselves.
            (true, true) if pair.exchanged < 2 => pair.exchanged + 1,
            (true, false) => pair.exchanged + 1,
            _ => 1,
        };
        pair.exchanged > PING_PONG_MAX
    }
}

/// A hash that is never 0.
fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish().max(1)
}

/// The place of a key: its own, else a free one, else the oldest of those it may have.
fn slot<T>(table: &mut [T], key: u64, of: impl Fn(&T) -> (u64, Instant)) -> Option<&mut T> {
    let sets = (table.len() / WAYS).max(1);
    let set = table.chunks_mut(WAYS).nth(usize::try_from(key % sets as u64).unwrap_or(0))?;
    set.iter_mut().min_by_key(|entry| {
        let (held, when) = of(entry);
        if held == key { (0, Instant::ZERO) } else { (1 + u8::from(held != 0), when) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::certificate::CertificateFault;
    use crate::base::net::Network;
    use crate::settings::NextHop;

    fn sip_domain(domain: &str, next_hop: Option<NextHop>, peers: Vec<Peer>) -> SipDomain {
        SipDomain { next_hop, peers, ..SipDomain::new(domain) }
    }

    fn settings() -> Settings {
        let mut partner = Partner::new("chat.example");
        partner.kind = PartnerKind::Federated;
        partner.additional_domains = vec!["more.example".into()];
        Settings {
            sip_domains: vec![sip_domain("voip.example", None, Vec::new())],
            partners: vec![Partner::new("public.example"), partner],
            ..Settings::default()
        }
    }

    fn certificate(names: &[&str]) -> PeerCertificate {
        PeerCertificate {
            verdict: Some(Ok(())),
            dns_names: names.iter().map(|name| (*name).into()).collect(),
            ..PeerCertificate::default()
        }
    }

    #[test]
    fn the_log_says_what_was_proved_and_what_was_wanted() {
        let found = |certificate: Option<PeerCertificate>| {
            proved_by(&source(Transport::Tls, "192.0.2.1", certificate.as_ref()))
        };
        assert_eq!(found(Some(certificate(&["a.example", "b.example"]))), "a.example,b.example");
        assert_eq!(found(Some(PeerCertificate::default())), "no certificate");
        let expired = PeerCertificate { verdict: Some(Err(CertificateFault::Expired)), ..certificate(&["a.example"]) };
        assert_eq!(found(Some(expired)), "a.example (expired)");
        assert_eq!(found(None), "192.0.2.1 by TLS");
        let hop = NextHop { transport: NextHopTransport::Tls, host: "edge.voip.example".into(), port: None };
        assert_eq!(wanted_of(&sip_domain("voip.example", Some(hop), Vec::new())), "edge.voip.example or voip.example");
        assert_eq!(wanted_of(&sip_domain("voip.example", None, Vec::new())), "voip.example");
        let network = Peer::Network(Network { address: "192.0.2.0".parse().expect("an address"), length: 24 });
        let peers = vec![Peer::Host("pbx.example".into()), network];
        assert_eq!(wanted_of(&sip_domain("voip.example", None, peers)), "pbx.example or 192.0.2.0/24");
    }

    fn source<'a>(transport: Transport, address: &str, certificate: Option<&'a PeerCertificate>) -> SipSource<'a> {
        SipSource { transport, address: address.parse().expect("an address"), certificate }
    }

    #[test]
    fn req_7247_55_a_sip_sender_needs_a_served_domain_that_his_connection_proved() {
        let settings = settings();
        let routes = Routes::new(&settings);
        let voip = certificate(&["voip.example"]);
        let proxy = source(Transport::Tls, "192.0.2.1", Some(&voip));
        let pass = |from, source| routes.sip_sender(&settings, from, source).map(|_| ());
        assert_eq!(pass("voip.example", &proxy), Ok(()));
        assert_eq!(pass("forged.example", &proxy), Err(Denied::Sender));
        assert_eq!(pass("chat.example", &proxy), Err(Denied::Mapped));
        assert_eq!(pass("more.example", &proxy), Err(Denied::Mapped));
        let plain = source(Transport::Udp, "192.0.2.1", None);
        assert_eq!(pass("voip.example", &plain), Err(Denied::Unproven));
    }

    #[test]
    fn a_domain_is_found_on_its_side_only() {
        let settings = settings();
        let routes = Routes::new(&settings);
        let partner = |domain| routes.xmpp_domain(&settings, domain).and_then(|found| found.partner);
        assert_eq!(partner("more.example").map(|found| &*found.domain), Some("chat.example"));
        assert_eq!(partner("voip.example"), None);
        assert_eq!(partner("nowhere.example"), None);
        assert!(routes.sip_domain(&settings, "voip.example").is_some());
        assert!(routes.sip_domain(&settings, "chat.example").is_none());
    }

    #[test]
    fn an_xmpp_sender_needs_a_partner_that_is_allowed_to() {
        let mut settings = settings();
        let routes = Routes::new(&settings);
        let pass = |from, to| routes.from_xmpp(&settings, from, to, false).map(|_| ());
        assert_eq!(pass("chat.example", "voip.example"), Ok(()));
        assert_eq!(pass("chat.example", "other.example"), Err(Denied::Recipient));
        assert_eq!(pass("stranger.example", "voip.example"), Err(Denied::Sender));
        assert_eq!(pass("public.example", "voip.example"), Err(Denied::NotContact));
        assert_eq!(pass("voip.example", "voip.example"), Err(Denied::Mapped));
        assert!(routes.from_xmpp(&settings, "public.example", "voip.example", true).is_ok());
        settings.discovery_open = true;
        let routes = Routes::new(&settings);
        let (stranger, _) = routes.from_xmpp(&settings, "stranger.example", "voip.example", false).expect("allowed");
        assert_eq!(stranger.kind, PartnerKind::PublicVerified);
        assert_eq!(routes.from_xmpp(&settings, "voip.example", "voip.example", false).err(), Some(Denied::Mapped));
    }

    #[test]
    fn a_named_peer_counts_by_certificate_or_by_address() {
        let network = Network { address: "10.0.0.0".parse().expect("an address"), length: 8 };
        let domain = sip_domain("voip.example", None, vec![Peer::Host("edge.example".into()), Peer::Network(network)]);
        let edge = certificate(&["edge.example"]);
        let other = certificate(&["voip.example"]);
        assert!(may_send_for(&domain, &source(Transport::Tls, "192.0.2.1", Some(&edge))));
        assert!(!may_send_for(&domain, &source(Transport::Tls, "192.0.2.1", Some(&other))));
        assert!(may_send_for(&domain, &source(Transport::Udp, "10.1.2.3", None)));
        assert!(!may_send_for(&domain, &source(Transport::Tls, "10.1.2.3", None)));
        assert!(!may_send_for(&domain, &source(Transport::Tcp, "192.0.2.1", None)));
    }

    #[test]
    fn without_peers_the_next_hop_may_send() {
        let hop = |transport, host: &str| Some(NextHop { transport, host: host.into(), port: None });
        let edge = certificate(&["edge.example"]);
        let mut unbelieved = edge.clone();
        unbelieved.verdict = None;
        let tls = sip_domain("voip.example", hop(NextHopTransport::Tls, "edge.example"), Vec::new());
        assert!(may_send_for(&tls, &source(Transport::Tls, "192.0.2.1", Some(&edge))));
        assert!(!may_send_for(&tls, &source(Transport::Tls, "192.0.2.1", Some(&unbelieved))));
        assert!(!may_send_for(&tls, &source(Transport::Tcp, "192.0.2.1", None)));
        let udp = sip_domain("voip.example", hop(NextHopTransport::Udp, "192.0.2.1"), Vec::new());
        assert!(may_send_for(&udp, &source(Transport::Udp, "::ffff:192.0.2.1", None)));
        assert!(!may_send_for(&udp, &source(Transport::Udp, "192.0.2.2", None)));
        assert!(may_send_for(&udp, &source(Transport::Tcp, "192.0.2.1", None)));
        assert!(!may_send_for(&udp, &source(Transport::Tls, "192.0.2.1", None)));
        let tcp = sip_domain("voip.example", hop(NextHopTransport::Tcp, "[2001:db8::1]"), Vec::new());
        assert!(may_send_for(&tcp, &source(Transport::Tcp, "2001:db8::1", None)));
        assert!(!may_send_for(&tcp, &source(Transport::Udp, "2001:db8::1", None)));
    }

    #[test]
    fn an_edge_proves_its_domain_by_its_own_name_one_label_below() {
        let mut domain = sip_domain("office.example", None, Vec::new());
        let edge = certificate(&["sip.office.example"]);
        let deep = certificate(&["sip.it.office.example"]);
        let source = |shown| source(Transport::Tls, "192.0.2.1", Some(shown));
        assert!(!may_send_for(&domain, &source(&edge)));
        domain.dialect = Dialect::Lync;
        assert!(may_send_for(&domain, &source(&edge)) && !may_send_for(&domain, &source(&deep)));
    }

    #[test]
    fn what_is_not_configured_talks_while_discovery_is_open_unless_it_is_blocked() {
        let mut settings = settings();
        settings.discovery_open = true;
        settings.blocked = vec!["moor.example".into()];
        let routes = Routes::new(&settings);
        let shown = certificate(&["sip.fern.example", "sip.moor.example", "sip.chat.example", "voip.example"]);
        let from = |domain, transport| {
            let source = source(transport, "192.0.2.1", Some(&shown));
            routes.sip_sender(&settings, domain, &source).map(is_discovered)
        };
        assert_eq!(from("fern.example", Transport::Tls), Ok(true));
        assert_eq!(from("fern.example", Transport::Tcp), Err(Denied::Unproven));
        assert_eq!(from("elsewhere.example", Transport::Tls), Err(Denied::Unproven));
        assert_eq!(from("moor.example", Transport::Tls), Err(Denied::Blocked));
        assert_eq!(from("chat.example", Transport::Tls), Err(Denied::Mapped));
        assert_eq!(from("voip.example", Transport::Tls), Ok(false));
        assert_eq!(from("msn.com", Transport::Tls), Err(Denied::Sender), "a domain of decorated addresses");
        let to = |domain| routes.from_xmpp(&settings, "chat.example", domain, false).map(|(_, sip)| is_discovered(sip));
        assert_eq!(to("fern.example"), Ok(true));
        assert_eq!(to("moor.example"), Err(Denied::Recipient));
        assert_eq!(to("msn.com"), Err(Denied::Recipient));
        let blocked = routes.from_xmpp(&settings, "moor.example", "voip.example", true).map(|_| ());
        assert_eq!(blocked, Err(Denied::Blocked));
        assert!(routes.xmpp_domain(&settings, "moor.example").is_none());
    }

    #[test]
    fn a_domain_in_u_labels_is_proved_by_its_a_labels() {
        let domain = sip_domain("b\u{fc}cher.example", None, Vec::new());
        let shown = certificate(&["xn--bcher-kva.example"]);
        assert!(may_send_for(&domain, &source(Transport::Tls, "192.0.2.1", Some(&shown))));
    }

    #[test]
    fn an_id_carries_the_hops() {
        let mut id = String::new();
        stanza_id(63, "0123456789ab", &mut id);
        assert_eq!(id, "lat-3f-0123456789ab");
        assert_eq!(hops_of(&id), Some(63));
        for other in ["", "lat-", "lat-3f-", "lat-3-0123456789ab", "lat-+f-0123456789ab", "lat-3f-0123 456789ab", "x"] {
            assert_eq!(hops_of(other), None, "{other}");
        }
    }

    fn message<'a>(from: &'a str, to: &'a str, conversation: &'a str, body: &'a str) -> Passing<'a> {
        Passing { from, to, conversation: Some(conversation), body }
    }

    #[test]
    fn req_7247_52_a_message_that_comes_back_unchanged_is_stopped() {
        let mut guard = LoopGuard::new();
        let mut now = Instant::ZERO;
        for _ in 0..RETURNS_MAX {
            now = now.after(Duration::from_millis(5));
            assert_eq!(guard.pass(now, &message("a@x", "b@y", "t", "hi")), Ok(()));
        }
        assert_eq!(guard.pass(now, &message("a@x", "b@y", "t", "hi")), Err(Circle::Loop));
        assert_eq!(guard.pass(now, &message("a@x", "c@y", "t", "hi")), Ok(()));
        now = now.after(RETURN_WINDOW).after(Duration::from_secs(1));
        assert_eq!(guard.pass(now, &message("a@x", "b@y", "t", "hi")), Ok(()));
    }

    #[test]
    fn req_7247_52_a_loop_that_loses_the_thread_is_stopped_too() {
        let mut guard = LoopGuard::new();
        let mut passed = 0;
        for n in 0..2 * RETURNS_ELSEWHERE_MAX {
            let thread = n.to_string();
            passed += u32::from(guard.pass(Instant::ZERO, &message("a@x", "b@y", &thread, "hi")).is_ok());
        }
        assert_eq!(passed, RETURNS_ELSEWHERE_MAX);
    }

    #[test]
    fn two_automatic_repliers_are_parted_after_ten_messages() {
        let mut guard = LoopGuard::new();
        let mut now = Instant::from_millis(1000);
        let mut passed = 0;
        for n in 0..100 {
            now = now.after(Duration::from_millis(20));
            let away = if n % 2 == 0 {
                message("a@x", "b@y", "t", "I am away")
            } else {
                message("b@y", "a@x", "t", "So am I")
            };
            match guard.pass(now, &away) {
                Ok(()) => passed += 1,
                Err(why) => {
                    assert_eq!(why, Circle::PingPong);
                    break;
                }
            }
        }
        assert_eq!(passed, PING_PONG_MAX);
        // Nobody answers the error, so the next message comes from a person.
        now = now.after(Duration::from_secs(10));
        assert_eq!(guard.pass(now, &message("a@x", "b@y", "t", "I am back")), Ok(()));
    }

    #[test]
    fn quick_chat_and_bulk_senders_are_left_alone() {
        let mut guard = LoopGuard::new();
        let mut now = Instant::ZERO;
        for n in 0..5000_u32 {
            now = now.after(Duration::from_millis(3));
            let body = n.to_string();
            let (from, to) = if n % 2 == 0 { ("a@x", "b@y") } else { ("b@y", "a@x") };
            assert_eq!(guard.pass(now, &message(from, to, "t", &body)), Ok(()));
            assert_eq!(guard.pass(now, &message("bulk@x", "b@y", "u", &body)), Ok(()));
        }
    }

    #[test]
    fn the_guard_stays_as_large_as_it_was() {
        let mut guard = LoopGuard::new();
        for n in 0..10_000_u64 {
            let from = n.to_string();
            assert_eq!(guard.pass(Instant::from_millis(n), &message(&from, "b@y", "t", "hi")), Ok(()));
        }
        assert_eq!((guard.texts.len(), guard.pairs.len()), (LOOP_ENTRIES_MAX, LOOP_PAIRS_MAX));
    }
}
