//! The one table of everything that can be configured: a row a path. Reading,
//! checking, showing, completion and help all go by these rows.
//!
//! In a path, words in capitals stand for a name the operator chooses.

use super::value::{Kind, Syslog};
use crate::base::net::Transport;
use crate::base::outbox::Level;
use crate::limits;
use crate::settings::{Dialect, ImMode, ListenerKind, PartnerKind, Privacy, Requirement, Verification};

/// One path that can be set.
#[derive(Debug)]
pub struct Row {
    /// The words of the path.
    pub path: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// May it be set several times, each adding a value?
    pub several: bool,
    /// What holds when it is not set; for the reader.
    pub default: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// A line that sets it.
    pub example: &'static str,
}

const fn row(path: &'static str, kind: Kind, default: &'static str, help: &'static str, example: &'static str) -> Row {
    Row { path, kind, several: false, default, help, example }
}

const fn several(
    path: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
    example: &'static str,
) -> Row {
    Row { path, kind, several: true, default, help, example }
}

const DAY_S: u32 = 86_400;

/// Longest `message error-wait`: a SIP sender gives up after 32 s (RFC 3261 timer F).
const ERROR_WAIT_S_MAX: u32 = 30;

/// All rows. Where a fixed word and a name could both stand, the fixed word wins.
pub static ROWS: &[Row] = &[
    row(
        "system host-name",
        Kind::HostName(|c, _, v| c.settings.host_name = v),
        "required",
        "FQDN of the gateway, as Via and Contact show it",
        "set system host-name gw.example",
    ),
    several(
        "system dns server",
        Kind::Address(Some(53), |c, _, v| c.settings.dns_servers.push(v)),
        "the system's resolver file",
        "a DNS server to ask; the one that answers is asked first",
        "set system dns server 192.0.2.53",
    ),
    row(
        "system log level",
        Kind::Choice(&[
            ("error", |c, _| c.system.log_level = Level::Error),
            ("warn", |c, _| c.system.log_level = Level::Warn),
            ("info", |c, _| c.system.log_level = Level::Info),
            ("debug", |c, _| c.system.log_level = Level::Debug),
        ]),
        "info",
        "which log lines are written",
        "set system log level debug",
    ),
    row(
        "system log syslog",
        Kind::Scheme(&[
            ("udp", |c, _, address| c.system.syslog = Some(Syslog { transport: Transport::Udp, address })),
            ("tcp", |c, _, address| c.system.syslog = Some(Syslog { transport: Transport::Tcp, address })),
            ("tls", |c, _, address| c.system.syslog = Some(Syslog { transport: Transport::Tls, address })),
        ]),
        "none",
        "where log lines go besides standard error",
        "set system log syslog udp:192.0.2.14:514",
    ),
    row(
        "system privacy",
        Kind::Choice(&[
            ("full", |c, _| c.settings.privacy = Privacy::Full),
            ("hash", |c, _| c.settings.privacy = Privacy::Hash),
            ("domain", |c, _| c.settings.privacy = Privacy::Domain),
        ]),
        "full",
        "how addresses appear in logs",
        "set system privacy hash",
    ),
    row(
        "system metrics listen",
        Kind::Address(None, |c, _, v| c.system.metrics_listen = Some(v)),
        "none",
        "where metrics can be read",
        "set system metrics listen 127.0.0.1:9090",
    ),
    row(
        "tls certificate NAME chain",
        Kind::Certificates(|c, name, v| c.tls.certificate(name).chain = v),
        "none",
        "our certificate and its intermediates, our own first",
        r#"set tls certificate main chain "-----BEGIN CERTIFICATE-----\nMIIB...\n-----END CERTIFICATE-----\n""#,
    ),
    row(
        "tls certificate NAME key",
        Kind::PrivateKey(|c, name, v| c.tls.certificate(name).key = v),
        "none",
        "the private key of that certificate",
        r#"set tls certificate main key "-----BEGIN PRIVATE KEY-----\nMIIE...\n-----END PRIVATE KEY-----\n""#,
    ),
    row(
        "tls trust NAME",
        Kind::Certificates(|c, name, v| c.tls.add_trust(name, v)),
        "none",
        "a further CA to believe",
        r#"set tls trust ours "-----BEGIN CERTIFICATE-----\nMIIB...\n-----END CERTIFICATE-----\n""#,
    ),
    row(
        "tls revoked NAME",
        Kind::RevocationLists(|c, name, v| c.tls.add_revoked(name, v)),
        "none",
        "revocation lists of CAs: what is on one is not believed; nothing is fetched",
        r#"set tls revoked ours "-----BEGIN X509 CRL-----\nMIIB...\n-----END X509 CRL-----\n""#,
    ),
    row(
        "tls public-roots",
        Kind::Truth(|c, _, v| c.tls.public_roots = v),
        "true",
        "believe the public CAs, which are compiled in",
        "set tls public-roots false",
    ),
    row(
        "sip listen NAME",
        Kind::Scheme(&[
            ("udp", |c, name, v| c.listen(name, ListenerKind::SipUdp, v)),
            ("tcp", |c, name, v| c.listen(name, ListenerKind::SipTcp, v)),
            ("tls", |c, name, v| c.listen(name, ListenerKind::SipTls, v)),
        ]),
        "none",
        "where SIP peers reach us",
        "set sip listen edge tls:192.0.2.1:5061",
    ),
    row(
        "sip domain DOMAIN",
        Kind::Nothing(|c, name| _ = c.sip_domain(name)),
        "none",
        "a domain whose users are on SIP, everything else at its default",
        "set sip domain sip.example",
    ),
    row(
        "sip domain DOMAIN next-hop",
        Kind::NextHop(|c, name, v| c.sip_domain(name).next_hop = Some(v)),
        "RFC 3263 (DNS)",
        "where its requests go",
        "set sip domain sip.example next-hop tls:edge.sip.example",
    ),
    several(
        "sip domain DOMAIN peer",
        Kind::Peer(|c, name, v| c.sip_domain(name).peers.push(v)),
        "the next hop",
        "who may send for it: the name in a certificate, or a network for udp and tcp",
        "set sip domain sip.example peer edge.sip.example",
    ),
    row(
        "sip domain DOMAIN dialect",
        Kind::Choice(&[
            ("standard", |c, name| c.sip_domain(name).dialect = Dialect::Standard),
            ("lync", |c, name| c.sip_domain(name).dialect = Dialect::Lync),
        ]),
        "standard",
        "how its side speaks",
        "set sip domain sip.example dialect lync",
    ),
    row(
        "sip domain DOMAIN im-mode",
        Kind::Choice(&[
            ("pager", |c, name| c.sip_domain(name).im_mode = Some(ImMode::Pager)),
            ("session", |c, name| c.sip_domain(name).im_mode = Some(ImMode::Session)),
        ]),
        "pager; session with dialect lync",
        "single MESSAGE requests, or INVITE first",
        "set sip domain sip.example im-mode pager",
    ),
    row(
        "sip domain DOMAIN policy",
        Kind::Name(|c, name, v| c.sip_domain(name).policy = Some(v)),
        "policy default",
        "what its users may do who have no policy of their own",
        "set sip domain sip.example policy default",
    ),
    row(
        "sip domain DOMAIN verification",
        Kind::Choice(&[
            ("always", |c, name| c.sip_domain(name).verification = Verification::Always),
            ("never", |c, name| c.sip_domain(name).verification = Verification::Never),
            ("source", |c, name| c.sip_domain(name).verification = Verification::Source),
        ]),
        "always",
        "are its users who they say? unverified ones reach only those who have them as contacts",
        "set sip domain sip.example verification source",
    ),
    row(
        "sip domain DOMAIN srv-target",
        Kind::Choice(&[
            ("strict", |c, name| c.sip_domain(name).srv_target_strict = true),
            ("warn", |c, name| c.sip_domain(name).srv_target_strict = false),
        ]),
        "strict",
        "what happens when the DNS names a server outside the domain: refused, or only logged",
        "set sip domain sip.example srv-target warn",
    ),
    row(
        "sip domain DOMAIN rate",
        Kind::Number(1, 10_000, |c, name, v| c.sip_domain(name).rate = Some(v)),
        "none; 20 where discovered",
        "most requests a second that are sent there; the others wait in order",
        "set sip domain sip.example rate 20",
    ),
    row(
        "sip domain DOMAIN session-idle",
        Kind::Number(10, DAY_S, |c, name, v| c.sip_domain(name).session_idle_s = v),
        "600",
        "seconds without a message after which a session is ended",
        "set sip domain sip.example session-idle 1800",
    ),
    row(
        "sip domain DOMAIN html",
        Kind::Truth(|c, name, v| c.sip_domain(name).html = v),
        "false",
        "send text/html beside text/plain?",
        "set sip domain sip.example html true",
    ),
    row(
        "xmpp listen NAME",
        Kind::Scheme(&[
            ("starttls", |c, name, v| c.listen(name, ListenerKind::XmppStartTls, v)),
            ("direct-tls", |c, name, v| c.listen(name, ListenerKind::XmppDirectTls, v)),
        ]),
        "none",
        "where XMPP servers reach us",
        "set xmpp listen main starttls:192.0.2.1:5269",
    ),
    row(
        "xmpp component NAME server",
        Kind::Address(None, |c, name, v| c.component(name).server = v),
        "none",
        "the server whose external component we are (XEP-0114)",
        "set xmpp component local server 127.0.0.1:5347",
    ),
    row(
        "xmpp component NAME secret",
        Kind::Secret(|c, name, v| c.component(name).secret = v),
        "none",
        "the secret shared with that server",
        "set xmpp component local secret \"a long secret\"",
    ),
    row(
        "xmpp component NAME domain",
        Kind::Domain(|c, name, v| c.component(name).domain = v),
        "none",
        "our SIP domain that is served there",
        "set xmpp component local domain sip.example",
    ),
    row(
        "xmpp dialback-secret",
        Kind::Secret(|c, _, v| c.settings.xmpp.dialback_secret = Some(v)),
        "random, kept in the state",
        "the secret behind our dialback keys, where several gateways share a domain",
        "set xmpp dialback-secret \"a long secret\"",
    ),
    row(
        "xmpp connection-limit",
        Kind::Number(1, limits::STREAMS_MAX as u32, |c, _, v| c.settings.xmpp.connection_limit = v),
        "1000",
        "streams in all",
        "set xmpp connection-limit 200",
    ),
    row(
        "xmpp partner-connection-limit",
        Kind::Number(1, limits::STREAMS_MAX as u32, |c, _, v| c.settings.xmpp.partner_connection_limit = v),
        "20",
        "streams a partner",
        "set xmpp partner-connection-limit 10",
    ),
    row(
        "xmpp keep-alive-interval",
        Kind::Number(1, DAY_S, |c, _, v| c.settings.xmpp.keep_alive_interval_s = v),
        "300",
        "seconds without traffic after which a stream is probed",
        "set xmpp keep-alive-interval 120",
    ),
    row(
        "xmpp stream-establishment-timeout",
        Kind::Number(1, 600, |c, _, v| c.settings.xmpp.stream_establishment_timeout_s = v),
        "60",
        "seconds a stream may take to open",
        "set xmpp stream-establishment-timeout 30",
    ),
    row(
        "xmpp stream-inactivity-timeout",
        Kind::Number(1, 7 * DAY_S, |c, _, v| c.settings.xmpp.stream_inactivity_timeout_s = v),
        "600",
        "seconds without a stanza after which a stream is closed",
        "set xmpp stream-inactivity-timeout 1800",
    ),
    row(
        "xmpp subscription-refresh-interval",
        Kind::Number(60, 30 * DAY_S, |c, _, v| c.settings.xmpp.subscription_refresh_interval_s = v),
        "28800",
        "seconds between two checks of a presence subscription",
        "set xmpp subscription-refresh-interval 14400",
    ),
    row(
        "xmpp log-message-bodies",
        Kind::Truth(|c, _, v| c.settings.xmpp.log_message_bodies = v),
        "false",
        "write what people say into the log, the beginning of each message",
        "set xmpp log-message-bodies true",
    ),
    row(
        "partner DOMAIN",
        Kind::Nothing(|c, name| _ = c.partner(name)),
        "none",
        "a domain whose users are on XMPP, everything else at its default",
        "set partner xmpp.example",
    ),
    row(
        "partner DOMAIN type",
        Kind::Choice(&[
            ("federated", |c, name| c.partner(name).kind = PartnerKind::Federated),
            ("public-verified", |c, name| c.partner(name).kind = PartnerKind::PublicVerified),
            ("public-unverified", |c, name| c.partner(name).kind = PartnerKind::PublicUnverified),
        ]),
        "public-unverified",
        "what its users may do",
        "set partner xmpp.example type federated",
    ),
    row(
        "partner DOMAIN tls",
        Kind::Choice(&[
            ("required", |c, name| c.partner(name).tls = Requirement::Required),
            ("optional", |c, name| c.partner(name).tls = Requirement::Optional),
            ("not-supported", |c, name| c.partner(name).tls = Requirement::NotSupported),
        ]),
        "required",
        "whether streams are encrypted",
        "set partner xmpp.example tls required",
    ),
    row(
        "partner DOMAIN sasl",
        Kind::Choice(&[
            ("required", |c, name| c.partner(name).sasl = Requirement::Required),
            ("optional", |c, name| c.partner(name).sasl = Requirement::Optional),
            ("not-supported", |c, name| c.partner(name).sasl = Requirement::NotSupported),
        ]),
        "optional",
        "whether streams are authenticated by certificate (SASL EXTERNAL)",
        "set partner xmpp.example sasl required",
    ),
    row(
        "partner DOMAIN dialback",
        Kind::Truth(|c, name, v| c.partner(name).dialback = v),
        "true",
        "whether streams may be authenticated by dialback",
        "set partner xmpp.example dialback false",
    ),
    row(
        "partner DOMAIN keep-alive",
        Kind::Truth(|c, name, v| c.partner(name).keep_alive = v),
        "true",
        "whether quiet streams are probed",
        "set partner xmpp.example keep-alive false",
    ),
    row(
        "partner DOMAIN proxy",
        Kind::HostPort(|c, name, v| c.partner(name).proxy = Some(v)),
        "none",
        "where its server is, instead of what the DNS says",
        "set partner xmpp.example proxy xmpp1.example:5269",
    ),
    several(
        "partner DOMAIN additional-domain",
        Kind::Domain(|c, name, v| c.partner(name).additional_domains.push(v)),
        "none",
        "a further domain of this partner",
        "set partner xmpp.example additional-domain rooms.xmpp.example",
    ),
    row(
        "partner DOMAIN connection-limit",
        Kind::Number(1, limits::STREAMS_MAX as u32, |c, name, v| c.partner(name).connection_limit = Some(v)),
        "xmpp partner-connection-limit",
        "streams with this partner",
        "set partner xmpp.example connection-limit 5",
    ),
    row(
        "partner DOMAIN description",
        Kind::Text(255, |c, name, v| c.partner(name).description = Some(v)),
        "none",
        "a remark",
        "set partner xmpp.example description \"our first partner\"",
    ),
    row(
        "partner discovery",
        Kind::Choice(&[
            ("open", |c, _| c.settings.discovery_open = true),
            ("closed", |c, _| c.settings.discovery_open = false),
        ]),
        "closed",
        "may domains that are neither partner nor sip domain talk?",
        "set partner discovery open",
    ),
    row(
        "partner discovery-verification",
        Kind::Choice(&[
            ("always", |c, _| c.settings.discovery_verification = Verification::Always),
            ("never", |c, _| c.settings.discovery_verification = Verification::Never),
            ("source", |c, _| c.settings.discovery_verification = Verification::Source),
        ]),
        "always",
        "are users of discovered SIP domains who they say?",
        "set partner discovery-verification source",
    ),
    row(
        "message error-wait",
        Kind::Number(0, ERROR_WAIT_S_MAX, |c, _, v| c.settings.message.error_wait_s = v),
        "0",
        "seconds the answer to a MESSAGE waits for a stanza error; 0: not at all",
        "set message error-wait 3",
    ),
    row(
        "message late-errors",
        Kind::Choice(&[
            ("notify", |c, _| c.settings.message.late_errors_notify = true),
            ("log", |c, _| c.settings.message.late_errors_notify = false),
        ]),
        "notify",
        "what happens to a stanza error that comes after the 200",
        "set message late-errors log",
    ),
    row(
        "message archiving-notice",
        Kind::Text(500, |c, _, v| c.settings.message.archiving_notice = Some(v)),
        "none",
        "what a session begins with on the other side, such as that messages are archived",
        "set message archiving-notice \"This conversation is archived.\"",
    ),
    row(
        "presence expires",
        Kind::Number(60, 7 * DAY_S, |c, _, v| c.settings.presence.expires_s = v),
        "3600",
        "seconds asked for and granted in presence dialogs",
        "set presence expires 600",
    ),
    row(
        "presence probe-before-refresh",
        Kind::Truth(|c, _, v| c.settings.presence.probe_before_refresh = v),
        "true",
        "ask the XMPP user before a presence dialog is refreshed",
        "set presence probe-before-refresh false",
    ),
    row(
        "presence min-interval",
        Kind::Number(0, 3600, |c, _, v| c.settings.presence.min_interval_s = v),
        "1",
        "least seconds between two changes told for one pair",
        "set presence min-interval 5",
    ),
    row(
        "room DOMAIN side",
        Kind::Choice(&[("sip", |c, name| c.room(name).on_sip = true), ("xmpp", |c, name| c.room(name).on_sip = false)]),
        "none",
        "the side on which this domain's addresses are rooms",
        "set room rooms.xmpp.example side xmpp",
    ),
    row(
        "msrp max-size",
        Kind::Number(1000, 1_000_000, |c, _, v| c.settings.msrp.max_size = v),
        "10000",
        "largest message in a session, in octets",
        "set msrp max-size 20000",
    ),
    row(
        "msrp tls",
        Kind::Truth(|c, _, v| c.settings.msrp.tls = v),
        "true",
        "whether sessions are encrypted",
        "set msrp tls false",
    ),
    row(
        "blocked DOMAIN",
        Kind::Nothing(|c, name| c.settings.blocked.push(name.into())),
        "none",
        "a domain that may not talk, be it of SIP or of XMPP, while discovery is open",
        "set blocked spam.example",
    ),
    row(
        "policy NAME xmpp",
        Kind::Truth(|c, name, v| c.policy(name).xmpp = v),
        "false",
        "may users with this policy talk to XMPP partners? (with no policy at all everybody may)",
        "set policy default xmpp true",
    ),
    row(
        "policy NAME public-cloud",
        Kind::Truth(|c, name, v| c.policy(name).public_cloud = v),
        "false",
        "may they talk to users of public providers?",
        "set policy staff public-cloud true",
    ),
    row(
        "policy NAME public-cloud-audio-video",
        Kind::Truth(|c, name, v| c.policy(name).public_cloud_audio_video = v),
        "false",
        "may they call users of public providers? (public-cloud is needed too)",
        "set policy staff public-cloud-audio-video true",
    ),
    row(
        "policy NAME federation",
        Kind::Truth(|c, name, v| c.policy(name).federation = v),
        "true",
        "may they talk to anybody outside, users of public providers excepted?",
        "set policy interns federation false",
    ),
    row(
        "user ADDRESS policy",
        Kind::Name(|c, name, v| c.user(name, v)),
        "that of his sip domain, else policy default",
        "which policy a SIP user has",
        "set user marta@sip.example policy default",
    ),
    row(
        "provider NAME enabled",
        Kind::Truth(|c, name, v| c.provider(name).enabled = v),
        "false",
        "may SIP users reach this public provider? aol, windows-live, yahoo and skype are known",
        "set provider skype enabled true",
    ),
    row(
        "provider NAME proxy",
        Kind::HostPort(|c, name, v| c.provider(name).proxy = Some(v)),
        "none",
        "the provider's SIP server, by TLS: its own domains are there",
        "set provider harbour proxy sip.harbour.example",
    ),
    row(
        "provider NAME verification",
        Kind::Choice(&[
            ("always", |c, name| c.provider(name).verification = Verification::Always),
            ("never", |c, name| c.provider(name).verification = Verification::Never),
            ("source", |c, name| c.provider(name).verification = Verification::Source),
        ]),
        "always",
        "are its users who they say? unverified ones reach only those who have them as contacts",
        "set provider harbour verification never",
    ),
    row(
        "provider NAME im",
        Kind::Truth(|c, name, v| c.provider(name).im = v),
        "true",
        "does it carry messages?",
        "set provider harbour im false",
    ),
    row(
        "provider NAME presence",
        Kind::Truth(|c, name, v| c.provider(name).presence = v),
        "true",
        "does it carry presence?",
        "set provider harbour presence false",
    ),
    row(
        "provider NAME audio",
        Kind::Truth(|c, name, v| c.provider(name).audio = v),
        "false",
        "does it carry calls?",
        "set provider harbour audio true",
    ),
    row(
        "provider NAME video",
        Kind::Truth(|c, name, v| c.provider(name).video = v),
        "false",
        "does it carry calls with pictures?",
        "set provider harbour video true",
    ),
    several(
        "provider NAME domain",
        Kind::Domain(|c, name, v| c.provider(name).domains.push(v)),
        "none",
        "a domain of the provider itself, whose addresses are used as they are",
        "set provider harbour domain harbour.example",
    ),
    several(
        "provider NAME partner",
        Kind::Domain(|c, name, v| c.provider(name).partners.push(v)),
        "none",
        "an XMPP partner's domain that SIP users reach by this provider, under its policy",
        "set provider harbour partner xmpp.example",
    ),
    row(
        "provider NAME routing-domain",
        Kind::Domain(|c, name, v| c.provider(name).routing_domain = Some(v)),
        "none",
        "the domain of decorated addresses: user(domain)@routing-domain is user@domain",
        "set provider harbour routing-domain harbour.example",
    ),
    several(
        "provider NAME excluded-domain",
        Kind::Domain(|c, name, v| c.provider(name).excluded_domains.push(v)),
        "none",
        "a domain whose addresses are never decorated",
        "set provider harbour excluded-domain harbour.example",
    ),
    row(
        "provider NAME licence-needed",
        Kind::Truth(|c, name, v| c.provider(name).licence_needed = v),
        "false",
        "does each user of this provider need a licence?",
        "set provider harbour licence-needed true",
    ),
    row(
        "provider NAME licences",
        Kind::Number(0, limits::LICENCES_MAX as u32, |c, name, v| c.provider(name).licences = Some(v)),
        "none",
        "how many users may have used it within 30 days; without it they are not counted",
        "set provider harbour licences 200",
    ),
    row(
        "provider NAME end-of-life",
        Kind::Day(|c, name, v| c.provider(name).end_of_life = Some(v)),
        "none",
        "the day from which it is refused; 90 days before it is warned of",
        "set provider harbour end-of-life 2031-03-31",
    ),
    row(
        "provider NAME description",
        Kind::Text(255, |c, name, v| c.provider(name).description = Some(v)),
        "none",
        "a remark",
        "set provider harbour description \"the town's own\"",
    ),
];

/// Whether what a row sets has an effect in this version; what has none is taken, kept
/// and told in a warning.
pub fn has_effect(path: &str) -> bool {
    !(path.starts_with("msrp ") || path.starts_with("room ") || path == "system metrics listen")
}

/// What stands for a name in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Exactly this.
    Fixed(&'static str),
    /// `NAME`: the operator's choice.
    Name,
    /// `DOMAIN`.
    Domain,
    /// `ADDRESS` of a user.
    Address,
}

impl Row {
    /// The words of the path.
    pub fn words(&self) -> impl Iterator<Item = Word> {
        self.path.split(' ').map(|word| match word {
            "NAME" => Word::Name,
            "DOMAIN" => Word::Domain,
            "ADDRESS" => Word::Address,
            fixed => Word::Fixed(fixed),
        })
    }

    /// The path with `name` in place of the word in capitals.
    pub fn path_of(&self, name: &str) -> String {
        let mut path = String::with_capacity(self.path.len() + name.len());
        for word in self.words() {
            if !path.is_empty() {
                path.push(' ');
            }
            path.push_str(match word {
                Word::Fixed(fixed) => fixed,
                _ => name,
            });
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_stands_once_and_has_one_name_at_most() {
        for (at, row) in ROWS.iter().enumerate() {
            assert!(ROWS[at + 1..].iter().all(|other| other.path != row.path), "{}", row.path);
            assert!(row.words().filter(|word| !matches!(word, Word::Fixed(_))).count() <= 1, "{}", row.path);
            assert!(!row.help.is_empty() && !row.default.is_empty(), "{}", row.path);
            assert!(row.example.starts_with("set "), "{}", row.path);
        }
    }
}
