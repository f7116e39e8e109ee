//! What a configuration must be as a whole, beyond each line being right: errors
//! refuse it, warnings tell what it leads to.

use super::config::{Config, Error, Lines, Warning};
use super::grammar::Fault;
use super::table;
use crate::base::net::Transport;
use crate::base::time::Wall;
use crate::limits;
use crate::settings::provider::{Life, Provider};
use crate::settings::{DEFAULT_POLICY, ListenerKind, NextHopTransport, Peer, Requirement};
use core::net::SocketAddr;
use std::collections::BTreeMap;

/// Everything that refuses the configuration.
pub(super) fn errors(config: &Config, lines: &Lines) -> Vec<Error> {
    let mut refused = Refused { lines, errors: Vec::new() };
    if config.settings.host_name.is_empty() {
        let what = "system host-name is missing".into();
        refused.at("system host-name", what, "the FQDN of the gateway", "set system host-name gw.example");
    }
    domains(config, &mut refused);
    policies(config, &mut refused);
    listeners(config, &mut refused);
    certificates(config, &mut refused);
    components(config, &mut refused);
    refused.errors.sort_by_key(|error| error.line);
    refused.errors
}

/// Errors collected, each put to the line of the path it is about.
struct Refused<'a> {
    lines: &'a Lines,
    errors: Vec<Error>,
}

impl Refused<'_> {
    fn at(&mut self, path: &str, what: String, allowed: &str, example: &str) {
        self.push(self.lines.line_of(path), what, allowed, example);
    }

    fn push(&mut self, line: usize, what: String, allowed: &str, example: &str) {
        self.errors.push(Error { line, fault: Fault::new(what, allowed, example) });
    }
}

fn domains(config: &Config, refused: &mut Refused<'_>) {
    for partner in config.settings.partners.iter().filter(|partner| !partner.can_negotiate()) {
        let path = format!("partner {}", partner.domain);
        refused.at(
            &path,
            format!("{path}: no stream can come about with these tls, sasl and dialback"),
            "sasl not not-supported with tls not not-supported, or dialback true with sasl not required",
            "set partner xmpp.example dialback true",
        );
    }
    for (domain, one, other) in claimed_twice(config) {
        refused.push(
            refused.lines.line_of_value(&other.0, &other.1),
            format!("domain {domain} stands at '{}' and at '{}'", one.0, other.0),
            "each domain once: on SIP, with one partner, or blocked",
            format!("delete {} {}", other.0, other.1).trim_end(),
        );
    }
}

fn policies(config: &Config, refused: &mut Refused<'_>) {
    let settings = &config.settings;
    let of_users = settings.users.iter().map(|user| (format!("user {} policy", user.address), &user.policy));
    let of_domains = (settings.sip_domains.iter())
        .filter_map(|sip| Some((format!("sip domain {} policy", sip.domain), sip.policy.as_ref()?)));
    for (path, name) in of_users.chain(of_domains) {
        if name != DEFAULT_POLICY && !settings.policies.iter().any(|policy| policy.name == *name) {
            let known: Vec<&str> = settings.policies.iter().map(|policy| policy.name.as_str()).collect();
            let allowed = format!("{DEFAULT_POLICY}, or a policy that is set: {}", known.join(", "));
            let example = format!("set policy {name} xmpp true");
            refused.at(&path, format!("{path}: there is no policy {name}"), &allowed, &example);
        }
    }
}

fn listeners(config: &Config, refused: &mut Refused<'_>) {
    let all = &config.settings.listeners;
    if all.len() > limits::LISTENERS_MAX {
        let allowed = format!("at most {} listeners", limits::LISTENERS_MAX);
        refused.at("xmpp listen", "too many listeners".into(), &allowed, "delete sip listen old");
    }
    for (at, listener) in all.iter().enumerate() {
        let path = format!("{} {}", listen_path(listener.kind), listener.name);
        let is_udp = |kind| kind == ListenerKind::SipUdp;
        // All addresses of its family are one that is unspecified.
        let is_same = |a: SocketAddr, b: SocketAddr| {
            let is_all = a.ip().is_unspecified() || b.ip().is_unspecified();
            a.port() == b.port() && (a.ip() == b.ip() || (is_all && a.is_ipv4() == b.is_ipv4()))
        };
        let same = all[..at].iter().find(|other| {
            is_same(other.address, listener.address)
                && other.address.port() != 0
                && is_udp(other.kind) == is_udp(listener.kind)
        });
        if let Some(other) = same {
            let (name, address) = (&listener.name, listener.address);
            let what = match other.address == address {
                true => format!("listeners {} and {name} have one address, {address}", other.name),
                false => format!("listeners {} and {name} cannot have {} and {address}", other.name, other.address),
            };
            refused.at(&path, what, "an address and port of its own", "set sip listen edge tls:192.0.2.1:5061");
        }
        if config.tls.certificates.is_empty() && needs_certificate(config, listener.kind) {
            refused.at(
                &path,
                format!("{path}: no certificate is set"),
                "a listener with TLS together with tls certificate NAME chain and key",
                r#"set tls certificate main chain "-----BEGIN CERTIFICATE-----\nMIIB...\n-----END CERTIFICATE-----\n""#,
            );
        }
    }
}

fn certificates(config: &Config, refused: &mut Refused<'_>) {
    for certificate in &config.tls.certificates {
        let path = format!("tls certificate {}", certificate.name);
        let example = format!(r#"set {path} key "-----BEGIN PRIVATE KEY-----\nMIIE...\n-----END PRIVATE KEY-----\n""#);
        for (is_missing, name) in [(certificate.chain.is_empty(), "chain"), (certificate.key.is_empty(), "key")] {
            if is_missing {
                refused.at(&path, format!("{path}: its {name} is missing"), "chain and key together", &example);
            }
        }
    }
}

fn components(config: &Config, refused: &mut Refused<'_>) {
    let settings = &config.settings;
    for (at, component) in settings.components.iter().enumerate() {
        let path = format!("xmpp component {}", component.name);
        let missing = [
            (component.server.port() == 0, "server", "127.0.0.1:5347"),
            (component.secret.is_empty(), "secret", "\"a long secret\""),
            (component.domain.is_empty(), "domain", "sip.example"),
        ];
        for (_, name, example) in missing.iter().filter(|(is_missing, ..)| *is_missing) {
            let example = format!("set {path} {name} {example}");
            refused.at(&path, format!("{path}: its {name} is missing"), "server, secret and domain", &example);
        }
        let domain = &component.domain;
        if domain.is_empty() {
            continue;
        }
        let place = format!("{path} domain");
        if !settings.sip_domains.iter().any(|sip| sip.domain == *domain) {
            let what = format!("{path}: {domain} is no SIP domain of ours");
            refused.at(&place, what, "a domain that also stands at sip domain", &format!("set sip domain {domain}"));
        }
        if settings.components[..at].iter().any(|other| other.domain == *domain) {
            let what = format!("{path}: {domain} is served by another component");
            refused.at(&place, what, "one component a domain", "delete xmpp component old");
        }
    }
}

/// Path and value of a statement.
type Place = (String, String);

/// Domains that stand in two places, with both.
fn claimed_twice(config: &Config) -> Vec<(&str, Place, Place)> {
    let mut claims: BTreeMap<&str, Place> = BTreeMap::new();
    let mut twice = Vec::new();
    let mut claim = |domain, place: Place| match claims.get(domain) {
        Some(first) => twice.push((domain, first.clone(), place)),
        None => _ = claims.insert(domain, place),
    };
    for sip in &config.settings.sip_domains {
        claim(&sip.domain, (format!("sip domain {}", sip.domain), String::new()));
    }
    for partner in &config.settings.partners {
        claim(&partner.domain, (format!("partner {}", partner.domain), String::new()));
    }
    for domain in &config.settings.blocked {
        claim(domain, (format!("blocked {domain}"), String::new()));
    }
    for partner in &config.settings.partners {
        for domain in &partner.additional_domains {
            claim(domain, (format!("partner {} additional-domain", partner.domain), domain.clone()));
        }
    }
    twice
}

const fn listen_path(kind: ListenerKind) -> &'static str {
    match kind {
        ListenerKind::SipUdp | ListenerKind::SipTcp | ListenerKind::SipTls => "sip listen",
        ListenerKind::XmppStartTls | ListenerKind::XmppDirectTls => "xmpp listen",
    }
}

/// Can the listener not do what the partners want without a certificate of ours?
fn needs_certificate(config: &Config, kind: ListenerKind) -> bool {
    let settings = &config.settings;
    match kind {
        ListenerKind::SipTls | ListenerKind::XmppDirectTls => true,
        ListenerKind::SipUdp | ListenerKind::SipTcp => false,
        ListenerKind::XmppStartTls => {
            settings.discovery_open
                || settings.partners.is_empty()
                || settings.partners.iter().any(|partner| partner.tls == Requirement::Required)
        }
    }
}

/// Everything that may not be meant.
pub(super) fn warnings(config: &Config, lines: &Lines) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |line: usize, text: String| warnings.push(Warning { line, text });
    let settings = &config.settings;
    for (line, how) in lines.overridden() {
        warn(*line, format!("this line {how}"));
    }
    for (row, path, line) in lines.each() {
        if !table::has_effect(row) {
            warn(line, format!("{path} has no effect in this version"));
        }
    }
    if !settings.host_name.is_empty() && !settings.host_name.contains('.') {
        warn(lines.line_of("system host-name"), "host-name is not fully qualified: others cannot find it".into());
    }
    sip_warnings(config, lines, &mut warn);
    policy_warnings(config, lines, &mut warn);
    provider_warnings(config, lines, &mut warn);
    xmpp_warnings(config, lines, &mut warn);
    if !config.tls.public_roots && config.tls.trust.is_empty() {
        warn(lines.line_of("tls public-roots"), "no CA is believed: every certificate will be refused".into());
    }
    if let Some(syslog) = config.system.syslog
        && syslog.transport != Transport::Tls
        && !is_loopback(syslog.address)
    {
        warn(lines.line_of("system log syslog"), "log lines leave this machine in the clear".into());
    }
    if let Some(address) = config.system.metrics_listen
        && !is_loopback(address)
    {
        let text = "metrics can be read from other machines, without a password and in the clear".into();
        warn(lines.line_of("system metrics listen"), text);
    }
    warnings.sort_by_key(|warning| warning.line);
    warnings
}

fn sip_warnings(config: &Config, lines: &Lines, warn: &mut dyn FnMut(usize, String)) {
    let settings = &config.settings;
    let is_sip = |kind| listen_path(kind) == "sip listen";
    if settings.sip_domains.is_empty() {
        warn(lines.line_of("sip domain"), "no SIP domain is set: nobody on the XMPP side reaches anybody".into());
    }
    if !settings.listeners.iter().any(|listener| is_sip(listener.kind)) {
        warn(lines.line_of("sip listen"), "no SIP listener is set: no SIP peer can reach us".into());
    }
    for sip in &settings.sip_domains {
        let path = format!("sip domain {}", sip.domain);
        if let Some(hop) = &sip.next_hop {
            let line = lines.line_of(&format!("{path} next-hop"));
            let name = match hop.transport {
                NextHopTransport::Tls => continue,
                NextHopTransport::Tcp => "tcp",
                NextHopTransport::Udp => "udp",
            };
            warn(line, format!("{path} next-hop: messages go in the clear over {name}, to whoever has that address"));
        }
        for peer in &sip.peers {
            if matches!(peer, Peer::Network(network) if network.length == 0) {
                let line = lines.line_of(&format!("{path} peer"));
                warn(line, format!("{path} peer: anybody may send for this domain"));
            }
        }
    }
}

fn policy_warnings(config: &Config, lines: &Lines, warn: &mut dyn FnMut(usize, String)) {
    let policies = &config.settings.policies;
    for user in config.settings.users.iter().filter(|_| !config.settings.discovery_open) {
        let domain = user.address.rsplit_once('@').map_or(user.address.as_str(), |(_, domain)| domain);
        if !config.settings.sip_domains.iter().any(|served| served.domain == domain) {
            let path = format!("user {}", user.address);
            let text = format!("{path}: {domain} is no SIP domain here, so its policy never counts");
            warn(lines.line_of(&format!("{path} policy")), text);
        }
    }
    if !policies.is_empty() && !policies.iter().any(|policy| policy.name == DEFAULT_POLICY) {
        let text = "policy default is not set: users who have no other policy may talk to nobody".into();
        warn(lines.line_of("policy"), text);
    }
    for policy in policies {
        let path = format!("policy {}", policy.name);
        if policy.xmpp && !policy.federation {
            let line = lines.line_of(&format!("{path} federation"));
            warn(line, format!("{path}: federation false takes xmpp true back"));
        }
        if policy.public_cloud_audio_video && !policy.public_cloud {
            let line = lines.line_of(&format!("{path} public-cloud-audio-video"));
            warn(line, format!("{path}: public-cloud-audio-video needs public-cloud true"));
        }
    }
}

fn provider_warnings(config: &Config, lines: &Lines, warn: &mut dyn FnMut(usize, String)) {
    let settings = &config.settings;
    let enabled: Vec<&Provider> = settings.providers.iter().filter(|provider| provider.enabled).collect();
    for (at, provider) in enabled.iter().enumerate() {
        let path = format!("provider {}", provider.name);
        let line = lines.line_of(&path);
        if provider.proxy.is_none() && provider.partners.is_empty() && provider.routing_domain.is_none() {
            warn(line, format!("{path}: without proxy, partner and routing-domain nobody reaches anybody by it"));
        }
        if provider.proxy.is_none() && (provider.audio || provider.video) {
            warn(line, format!("{path}: calls need its proxy"));
        }
        for domain in &provider.partners {
            if settings.partner_of(domain).is_none() && !settings.discovery_open {
                let line = lines.line_of_value(&format!("{path} partner"), domain);
                warn(line, format!("{path} partner: {domain} is no XMPP partner and discovery is closed"));
            }
        }
        let at_proxy = provider.proxy.as_ref().map(|(host, _)| Peer::Host(host.clone()));
        for domain in &provider.domains {
            let sip = settings.sip_domains.iter().find(|sip| sip.domain == *domain);
            let is_own = sip.is_some_and(|sip| at_proxy.iter().any(|peer| !sip.peers.contains(peer)));
            if is_own || settings.partner_of(domain).is_some() {
                let line = lines.line_of_value(&format!("{path} domain"), domain);
                warn(line, format!("{path} domain: {domain} is a domain of its own too, and is not at the proxy"));
            }
        }
        let is_shared = |other: &&&Provider| {
            let domains = other.domains.iter().any(|domain| provider.has_domain(domain));
            domains || (other.routing_domain.is_some() && other.routing_domain == provider.routing_domain)
        };
        if let Some(other) = enabled[..at].iter().find(is_shared) {
            warn(
                line,
                format!("{path}: provider {} is enabled too and has the same domains: it comes first", other.name),
            );
        }
    }
}

/// What may not be meant because of the day it is: providers at their end.
pub(super) fn dated_warnings(config: &Config, now: Wall) -> Vec<String> {
    let enabled = config.settings.providers.iter().filter(|provider| provider.enabled);
    let told = enabled.filter_map(|provider| {
        let (name, end) = (&provider.name, provider.end_of_life?);
        match provider.life(now) {
            Life::Good => None,
            Life::Ending(days) => Some(format!("warning: provider {name}: it ends on {end}, in {days} days")),
            Life::Ended => Some(format!(
                "warning: provider {name}: it ended on {end}: everything for it is refused; if somebody runs it on, \
                 set provider {name} end-of-life to another day"
            )),
        }
    });
    told.collect()
}

fn xmpp_warnings(config: &Config, lines: &Lines, warn: &mut dyn FnMut(usize, String)) {
    let settings = &config.settings;
    let is_xmpp = |kind| listen_path(kind) == "xmpp listen";
    if settings.partners.is_empty() && !settings.discovery_open && settings.components.is_empty() {
        warn(lines.line_of("partner"), "no partner is set and discovery is closed: no XMPP domain may talk".into());
    }
    if !settings.listeners.iter().any(|listener| is_xmpp(listener.kind)) && settings.components.is_empty() {
        warn(lines.line_of("xmpp listen"), "no XMPP listener is set: no partner can reach us".into());
    }
    if settings.discovery_open {
        warn(
            lines.line_of("partner discovery"),
            "discovery is open: any XMPP domain and any SIP domain may talk".into(),
        );
    }
    for partner in &settings.partners {
        let path = format!("partner {}", partner.domain);
        if partner.sasl == Requirement::Required && partner.dialback {
            let line = lines.line_of(&format!("{path} sasl"));
            warn(line, format!("{path}: sasl required leaves dialback no place: set dialback false if that is meant"));
        }
        if partner.may_dialback_in_the_clear() {
            let line = lines.line_of(&format!("{path} tls"));
            warn(line, format!("{path}: streams may be in the clear, proved by nothing but the DNS"));
        }
        if config.tls.certificates.is_empty() && partner.tls != Requirement::NotSupported {
            warn(
                lines.line_of(&path),
                format!("{path}: without a tls certificate of ours its server cannot verify us"),
            );
        }
    }
    for component in settings.components.iter().filter(|component| !is_loopback(component.server)) {
        let path = format!("xmpp component {}", component.name);
        let line = lines.line_of(&format!("{path} server"));
        warn(line, format!("{path}: everything goes to {} in the clear", component.server));
    }
    if settings.xmpp.log_message_bodies {
        warn(lines.line_of("xmpp log-message-bodies"), "what people say is written into the log".into());
    }
}

const fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
