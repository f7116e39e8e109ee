//! What the operator decided, in the form the gateway obeys: parsed once, so that it
//! cannot be wrong. `appliance::config` makes it from `set` lines and keeps it on
//! flash; domains are lower case, in U-labels, without a trailing dot.

pub mod provider;

use crate::base::net::{Network, Transport};
use core::net::SocketAddr;
use provider::Provider;
use serde::{Deserialize, Serialize};

/// All that the gateway needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// `system host-name`: our name in Via and Contact.
    pub host_name: String,
    /// `system dns server`; `io` fills in the system's when none is set.
    pub dns_servers: Vec<SocketAddr>,
    /// `system privacy`.
    pub privacy: Privacy,
    /// `sip listen` and `xmpp listen`; the place is the `ListenerId`.
    pub listeners: Vec<Listener>,
    /// `sip domain DOMAIN ...`.
    pub sip_domains: Vec<SipDomain>,
    /// `partner DOMAIN ...`.
    pub partners: Vec<Partner>,
    /// `partner discovery open`: may domains that are no partner talk?
    pub discovery_open: bool,
    /// `partner discovery-verification`: whose word it needs for users of SIP domains that
    /// were merely discovered.
    pub discovery_verification: Verification,
    /// `xmpp component NAME ...`.
    pub components: Vec<Component>,
    /// `xmpp ...`.
    pub xmpp: Xmpp,
    /// `message ...`.
    pub message: Message,
    /// `presence ...`.
    pub presence: Presence,
    /// `room DOMAIN side ...`.
    pub rooms: Vec<Room>,
    /// `msrp ...`.
    pub msrp: Msrp,
    /// `blocked DOMAIN`: they may not talk on either side, discovery or not.
    pub blocked: Vec<String>,
    /// `policy NAME ...`. With none at all everybody may talk to every partner.
    pub policies: Vec<Policy>,
    /// `user ADDRESS policy NAME`.
    pub users: Vec<UserPolicy>,
    /// `provider NAME ...`, those that are not enabled too.
    pub providers: Vec<Provider>,
}

impl Settings {
    /// Does what follows from the settings as a whole: providers get what their profiles
    /// say, and the domains that are at a provider's proxy become SIP domains. Once, when
    /// all that is set is in.
    pub fn complete(&mut self) {
        self.providers.iter_mut().for_each(Provider::complete);
        let mut found: Vec<SipDomain> = Vec::new();
        for provider in self.providers.iter().filter(|provider| provider.enabled) {
            let Some((host, port)) = &provider.proxy else { continue };
            for domain in &provider.domains {
                let is_known = |sip: &SipDomain| sip.domain == *domain;
                if self.partner_of(domain).is_some()
                    || self.sip_domains.iter().any(is_known)
                    || found.iter().any(is_known)
                {
                    continue;
                }
                found.push(SipDomain {
                    next_hop: Some(NextHop { transport: NextHopTransport::Tls, host: host.clone(), port: *port }),
                    // The next hop alone may send for it: no certificate of the domain
                    // itself does, which anybody at a public provider might come to have.
                    peers: vec![Peer::Host(host.clone())],
                    dialect: Dialect::Lync,
                    verification: provider.verification,
                    ..SipDomain::new(domain)
                });
            }
        }
        self.sip_domains.append(&mut found);
    }

    /// The partner an XMPP domain belongs to.
    pub fn partner_of(&self, domain: &str) -> Option<&Partner> {
        let is_its = |p: &&Partner| p.domain == domain || p.additional_domains.iter().any(|more| more == domain);
        self.partners.iter().find(is_its)
    }

    /// The enabled provider that serves a domain of its own, or by which an XMPP domain
    /// is reached.
    pub fn provider_of(&self, domain: &str) -> Option<&Provider> {
        let is_its = |p: &&Provider| p.enabled && (p.has_domain(domain) || p.has_partner(domain));
        self.providers.iter().find(is_its)
    }
}

/// How addresses appear in logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Privacy {
    /// As they are.
    #[default]
    Full,
    /// The user part as a keyed hash.
    Hash,
    /// The domain alone.
    Domain,
}

/// A socket that takes connections or datagrams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The operator's name for it.
    pub name: String,
    /// What is spoken there.
    pub kind: ListenerKind,
    /// Where.
    pub address: SocketAddr,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListenerKind {
    /// `sip listen NAME udp:...`.
    SipUdp,
    /// `sip listen NAME tcp:...`.
    SipTcp,
    /// `sip listen NAME tls:...`.
    SipTls,
    /// `xmpp listen NAME starttls:...`.
    XmppStartTls,
    /// `xmpp listen NAME direct-tls:...`.
    XmppDirectTls,
}

/// A domain whose users are on SIP; towards XMPP we are its server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SipDomain {
    /// The domain.
    pub domain: String,
    /// Where its requests go; `None`: RFC 3263.
    pub next_hop: Option<NextHop>,
    /// Who may send for it; when empty the next hop, else a certificate that names
    /// the domain.
    pub peers: Vec<Peer>,
    /// How its side speaks.
    pub dialect: Dialect,
    /// MESSAGE or INVITE first; `None`: as the dialect has it.
    pub im_mode: Option<ImMode>,
    /// `policy`: what its users may do where they have none of their own.
    pub policy: Option<String>,
    /// `verification`: whose word it needs that a sender is who he says.
    pub verification: Verification,
    /// `srv-target strict`: a server that the DNS names for it has to be below it.
    pub srv_target_strict: bool,
    /// `rate`: requests a second that we send there; `None`: as they come.
    pub rate: Option<u32>,
    /// `session-idle`: seconds without a message after which a session is ended.
    pub session_idle_s: u32,
    /// `html`: is text/html sent beside text/plain?
    pub html: bool,
}

/// Seconds without a message after which a session is ended.
pub const SESSION_IDLE_S: u32 = 600;
/// Requests a second that we send to a domain that was merely discovered, and that we take
/// from it: what an Edge grants a partner it discovered.
pub const DISCOVERED_RATE: u32 = 20;

/// What holds for a SIP domain that nobody configured, while discovery is open. Its name
/// is empty: it stands for all of them.
pub static DISCOVERED: SipDomain = {
    let mut discovered = SipDomain::named(String::new());
    discovered.dialect = Dialect::Lync;
    discovered.rate = Some(DISCOVERED_RATE);
    discovered
};

impl SipDomain {
    /// A SIP domain with every setting at its default.
    pub fn new(domain: &str) -> Self {
        Self::named(domain.into())
    }

    const fn named(domain: String) -> Self {
        Self {
            domain,
            next_hop: None,
            peers: Vec::new(),
            dialect: Dialect::Standard,
            im_mode: None,
            policy: None,
            verification: Verification::Always,
            srv_target_strict: true,
            rate: None,
            session_idle_s: SESSION_IDLE_S,
            html: false,
        }
    }
}

/// Whose word it needs that a sender is who he says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verification {
    /// Nobody's: all are verified.
    #[default]
    Always,
    /// No word counts: all are unverified, and reach only those who have them as contacts.
    Never,
    /// That of the domain itself, in a header field of each request.
    Source,
}

/// The policy of all who have no other.
pub const DEFAULT_POLICY: &str = "default";

/// `policy NAME ...`: what a user may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name; `default` holds for all who have no other.
    pub name: String,
    /// `xmpp`: may he talk to XMPP partners? He needs `federation` too.
    pub xmpp: bool,
    /// `public-cloud`: to users of public providers?
    pub public_cloud: bool,
    /// `public-cloud-audio-video`: and call them?
    pub public_cloud_audio_video: bool,
    /// `federation`: may he talk to anybody outside but those of public providers?
    pub federation: bool,
}

impl Policy {
    /// A policy with every setting at its default.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), xmpp: false, public_cloud: false, public_cloud_audio_video: false, federation: true }
    }
}

/// `user ADDRESS policy NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserPolicy {
    /// The user's bare JID.
    pub address: String,
    /// The policy he has.
    pub policy: String,
}

/// A fixed place to send requests to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// How.
    pub transport: NextHopTransport,
    /// A name (A-labels) or an address.
    pub host: String,
    /// `None`: 5060, or 5061 with TLS.
    pub port: Option<u16>,
}

/// `tls:`, `tcp:` or `udp:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NextHopTransport {
    /// TLS with mutual authentication.
    Tls,
    /// TCP in the clear.
    Tcp,
    /// UDP in the clear.
    Udp,
}

impl From<NextHopTransport> for Transport {
    fn from(transport: NextHopTransport) -> Self {
        match transport {
            NextHopTransport::Tls => Self::Tls,
            NextHopTransport::Tcp => Self::Tcp,
            NextHopTransport::Udp => Self::Udp,
        }
    }
}

/// Who may send for a SIP domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peer {
    /// A TLS peer whose certificate names this host.
    Host(String),
    /// A UDP or TCP peer within this network.
    Network(Network),
}

/// How a SIP side speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialect {
    /// As the RFCs have it.
    #[default]
    Standard,
    /// As Lync and Skype for Business do.
    Lync,
}

/// How messages go to a SIP domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImMode {
    /// Single MESSAGE requests.
    Pager,
    /// INVITE sessions.
    Session,
}

/// A domain whose users are on XMPP; towards SIP we are its server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partner {
    /// The domain.
    pub domain: String,
    /// What its users may do.
    pub kind: PartnerKind,
    /// `tls`.
    pub tls: Requirement,
    /// `sasl`: EXTERNAL.
    pub sasl: Requirement,
    /// `dialback`.
    pub dialback: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `proxy HOST[:PORT]`: instead of DNS.
    pub proxy: Option<(String, Option<u16>)>,
    /// `additional-domain`: further domains of this partner.
    pub additional_domains: Vec<String>,
    /// `connection-limit`; `None`: the global one.
    pub connection_limit: Option<u32>,
    /// `description`.
    pub description: Option<String>,
}

impl Partner {
    /// A partner with every setting at its default.
    pub fn new(domain: &str) -> Self {
        Self {
            domain: domain.into(),
            kind: PartnerKind::PublicUnverified,
            tls: Requirement::Required,
            sasl: Requirement::Optional,
            dialback: true,
            keep_alive: true,
            proxy: None,
            additional_domains: Vec::new(),
            connection_limit: None,
            description: None,
        }
    }

    /// Do its streams come about in the same way, so that those of the other stay?
    pub fn negotiates_like(&self, other: &Self) -> bool {
        (self.tls, self.sasl, self.dialback, &self.proxy) == (other.tls, other.sasl, other.dialback, &other.proxy)
    }

    /// May a stream with this partner be authenticated by SASL EXTERNAL? If TLS and
    /// SASL are not `not-supported`.
    pub fn may_sasl(&self) -> bool {
        self.tls != Requirement::NotSupported && self.sasl != Requirement::NotSupported
    }

    /// May it be authenticated by dialback over TLS? If dialback is on, TLS is not
    /// `not-supported` and SASL is not `required`.
    pub fn may_dialback_over_tls(&self) -> bool {
        self.dialback && self.tls != Requirement::NotSupported && self.sasl != Requirement::Required
    }

    /// May it be authenticated by dialback in the clear? If dialback is on, TLS is
    /// not `required` and SASL is not `required`.
    pub fn may_dialback_in_the_clear(&self) -> bool {
        self.dialback && self.tls != Requirement::Required && self.sasl != Requirement::Required
    }

    /// Can any stream come about at all? If not, the configuration is refused.
    pub fn can_negotiate(&self) -> bool {
        self.may_sasl() || self.may_dialback_over_tls() || self.may_dialback_in_the_clear()
    }
}

/// What a partner's users may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartnerKind {
    /// Like our own.
    Federated,
    /// A public service that verifies its users' names.
    PublicVerified,
    /// A public service that does not: our user has to add them first.
    #[default]
    PublicUnverified,
}

/// How much a mechanism is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Requirement {
    /// Nothing goes without it.
    Required,
    /// Used where the partner has it.
    Optional,
    /// Never used.
    NotSupported,
}

/// A connection as an external component of one XMPP server (XEP-0114).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// The operator's name for it.
    pub name: String,
    /// The server's address.
    pub server: SocketAddr,
    /// The shared secret.
    pub secret: String,
    /// Our SIP domain that is served there.
    pub domain: String,
}

/// `xmpp ...`; times in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xmpp {
    /// `dialback-secret`; `None`: random, kept in the state.
    pub dialback_secret: Option<String>,
    /// `connection-limit`.
    pub connection_limit: u32,
    /// `partner-connection-limit`.
    pub partner_connection_limit: u32,
    /// `keep-alive-interval`.
    pub keep_alive_interval_s: u32,
    /// `stream-establishment-timeout`.
    pub stream_establishment_timeout_s: u32,
    /// `stream-inactivity-timeout`.
    pub stream_inactivity_timeout_s: u32,
    /// `subscription-refresh-interval`.
    pub subscription_refresh_interval_s: u32,
    /// `log-message-bodies`.
    pub log_message_bodies: bool,
}

impl Default for Xmpp {
    fn default() -> Self {
        Self {
            dialback_secret: None,
            connection_limit: 1000,
            partner_connection_limit: 20,
            keep_alive_interval_s: 300,
            stream_establishment_timeout_s: 60,
            stream_inactivity_timeout_s: 600,
            subscription_refresh_interval_s: 28_800,
            log_message_bodies: false,
        }
    }
}

/// `message ...`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `error-wait` in seconds; 0: not at all.
    pub error_wait_s: u32,
    /// `late-errors notify`: tell the sender; else only log.
    pub late_errors_notify: bool,
    /// `archiving-notice`: what a session begins with on the other side.
    pub archiving_notice: Option<String>,
}

impl Default for Message {
    fn default() -> Self {
        Self { error_wait_s: 0, late_errors_notify: true, archiving_notice: None }
    }
}

/// `presence ...`; times in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// `expires`.
    pub expires_s: u32,
    /// `probe-before-refresh`.
    pub probe_before_refresh: bool,
    /// `min-interval`.
    pub min_interval_s: u32,
}

impl Default for Presence {
    fn default() -> Self {
        Self { expires_s: 3600, probe_before_refresh: true, min_interval_s: 1 }
    }
}

/// `room DOMAIN side ...`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// The domain whose addresses are rooms.
    pub domain: String,
    /// Is it on the SIP side?
    pub on_sip: bool,
}

/// `msrp ...`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msrp {
    /// `max-size` in octets.
    pub max_size: u32,
    /// `tls`.
    pub tls: bool,
}

impl Default for Msrp {
    fn default() -> Self {
        Self { max_size: 10_000, tls: true }
    }
}
