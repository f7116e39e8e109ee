//! `ms-diagnostics-public` and `ms-diagnostics`: what a Lync Edge and its administrator
//! read of a failure, beside the status. Every failure answer to a peer of that dialect
//! carries exactly one `ms-diagnostics-public`; other peers never see one.
//!
//! The numbers are the published ones where one fits. The others are 7,247,000 and the
//! status, or a number below it for a cause of our own: published ones have five digits
//! at most. Neither a source nor a host of ours stands in them.

use super::emit::Response;
use super::transport::ascii;
use crate::base::certificate::PeerCertificate;
use crate::base::net::{Network, Transport};
use crate::settings::{Dialect, Peer, Settings};
use core::net::IpAddr;

/// The header field.
pub const HEADER: &str = "ms-diagnostics-public";

/// The value for a cause that a status alone does not tell.
pub mod cause {
    /// The user may not talk to users of public providers.
    pub const PUBLIC_CLOUD: &str = "1001;reason=\"From URI not authorized to communicate with public IM providers\"";
    /// The user may not talk to anybody outside.
    pub const FEDERATION: &str = "1002;reason=\"From URI not authorized to communicate with federated partners\"";
    /// The domain of the target is no partner, or does not exist.
    pub const NO_ROUTE: &str = "1005;reason=\"Cannot route to destination domain\"";
    /// The target's server cannot be reached at present.
    pub const NOT_NOW: &str = "1007;reason=\"Temporarily cannot route\"";
    /// The DNS names a server outside the domain.
    pub const SRV_CONFLICT: &str = "1009;reason=\"Conflicting SRV and host domains in DNS\"";
    /// No stream with the target's server came to be trusted.
    pub const NO_TRUST: &str = "1010;reason=\"Certificate trust with next-hop server could not be established\"";
    /// Both domains are on the same side.
    pub const SAME_SIDE: &str = "1017;reason=\"Cannot route From and To domains in this combination\"";
    /// The public provider has ended.
    pub const PROVIDER_ENDED: &str = "7247001;reason=\"The public IM provider has ended\"";
    /// No licence is left.
    pub const NO_LICENCE: &str = "7247002;reason=\"No licence is left for this public IM provider\"";
    /// Neither the provider nor the gateway carries this.
    pub const NOT_CARRIED: &str = "7247007;reason=\"The gateway does not carry this there\"";
    /// The domain is blocked.
    pub const BLOCKED: &str = "7247003;reason=\"The domain is blocked\"";
    /// A discovered domain addressed too many users.
    pub const TOO_MANY_ADDRESSEES: &str =
        "7247004;reason=\"Too many different users were addressed by a domain that is not configured\"";
    /// A discovered domain sends too much.
    pub const TOO_FAST: &str = "7247005;reason=\"Too many messages from a domain that is not configured\"";
    /// The sender is not verified and no contact of the target.
    pub const UNVERIFIED: &str = "7247006;reason=\"The sender is not verified and no contact of the user\"";
}

/// The value for a status whose cause is nowhere told better.
const fn of_status(status: u16) -> &'static str {
    match status {
        400 => "7247400;reason=\"The request cannot be understood\"",
        401 | 407 => "7247401;reason=\"Authentication is not served\"",
        403 => "7247403;reason=\"Not allowed between these domains\"",
        404 | 604 => "1003;reason=\"User does not exist\"",
        405 | 501 => "7247405;reason=\"The method is not served\"",
        406 | 415 | 488 | 606 => "7247488;reason=\"The content or the media cannot be carried\"",
        408 => cause::NOT_NOW,
        410 => "7247410;reason=\"The user is gone\"",
        413 | 513 => "7247413;reason=\"The message is too large\"",
        414 => "7247414;reason=\"The address is too long\"",
        416 => "7247416;reason=\"The address has a scheme that is not served\"",
        420 | 421 => "7247420;reason=\"An extension that is required is not served\"",
        423 => "7247423;reason=\"The interval is too brief\"",
        433 => "7247433;reason=\"Anonymous senders are not served\"",
        480 | 486 | 600 => "7247480;reason=\"The user cannot be reached now\"",
        481 => "7247481;reason=\"The session or subscription does not exist\"",
        482 => "7247482;reason=\"The message runs in a circle\"",
        483 => "7247483;reason=\"Too many hops\"",
        487 => "7247487;reason=\"The request was cancelled\"",
        489 => "7247489;reason=\"The event package is not served\"",
        491 => "7247491;reason=\"Another request is under way\"",
        502 => cause::NO_ROUTE,
        503 => "7247503;reason=\"The gateway is busy, try again later\"",
        504 => "7247504;reason=\"The other side does not answer\"",
        603 => "7247603;reason=\"The user declines\"",
        402..=499 => "7247499;reason=\"The request failed\"",
        600.. => "7247699;reason=\"The request failed everywhere\"",
        _ => "7247500;reason=\"The gateway failed\"",
    }
}

/// Who gets them: the peers of SIP domains whose dialect is lync.
#[derive(Clone, Debug, Default)]
pub(super) struct Readers {
    /// Names that their certificates may have, in A-labels.
    names: Vec<String>,
    /// The same of the other domains.
    others: Vec<String>,
    networks: Vec<Network>,
    addresses: Vec<IpAddr>,
    /// May any domain come that is not configured?
    discovery_open: bool,
}

impl Readers {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut readers = Self { discovery_open: settings.discovery_open, ..Self::default() };
        for domain in &settings.sip_domains {
            let is_lync = domain.dialect == Dialect::Lync;
            let hop = domain.next_hop.as_ref();
            let hop_address =
                hop.and_then(|hop| hop.host.trim_matches(['[', ']']).parse::<IpAddr>().ok()).map(|a| a.to_canonical());
            let hop_name = hop.filter(|_| hop_address.is_none()).map(|hop| hop.host.as_str());
            let peers = domain.peers.iter().filter_map(|peer| match peer {
                Peer::Host(host) => Some(host.as_str()),
                Peer::Network(_) => None,
            });
            let names = peers.chain(hop_name).chain([domain.domain.as_str()]).map(ascii);
            if !is_lync {
                readers.others.extend(names);
                continue;
            }
            readers.names.extend(names);
            readers.addresses.extend(hop_address);
            readers.networks.extend(domain.peers.iter().filter_map(|peer| match peer {
                Peer::Network(network) => Some(*network),
                Peer::Host(_) => None,
            }));
        }
        readers
    }

    /// Does this peer get them? Over TLS everybody does who is not known as a peer of
    /// another dialect, so that an Edge with a bad certificate reads why.
    pub(super) fn has(&self, transport: Transport, address: IpAddr, certificate: Option<&PeerCertificate>) -> bool {
        if transport != Transport::Tls {
            return self.addresses.contains(&address.to_canonical())
                || self.networks.iter().any(|network| network.contains(address));
        }
        let shows = |names: &[String]| {
            let shown = certificate.filter(|certificate| certificate.is_trusted());
            shown.is_some_and(|shown| names.iter().any(|name| shown.names_sip_domain(name)))
        };
        shows(&self.names) || ((!self.names.is_empty() || self.discovery_open) && !shows(&self.others))
    }
}

/// Has a response written with the diagnostics that belong in it: its own if it has one,
/// else that of its status, and none if it is no failure or nobody who reads it.
pub(super) fn diagnosed<T>(response: &Response<'_>, is_reader: bool, write: impl FnOnce(&Response<'_>) -> T) -> T {
    let is_one = |(name, _): &(&str, &str)| name.eq_ignore_ascii_case(HEADER);
    let is_due = is_reader && response.status >= 400;
    let has_one = response.headers.iter().any(is_one);
    if is_due == has_one {
        return write(response);
    }
    let mut headers: Vec<(&str, &str)> = response.headers.iter().filter(|header| !is_one(header)).copied().collect();
    if is_due {
        headers.push((HEADER, of_status(response.status)));
    }
    write(&Response { headers: &headers, ..*response })
}

/// Diagnostics looked at in one message.
const READ_MAX: usize = 8;

/// What a peer says of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diagnostic<'a> {
    /// Its number.
    pub id: u32,
    /// `reason`, without its quotes; empty if there is none.
    pub reason: &'a str,
    /// `source`: the host that says so; empty if it does not tell.
    pub source: &'a str,
    /// `domain`: the domain it is about; empty if it does not tell.
    pub domain: &'a str,
}

impl<'a> Diagnostic<'a> {
    /// Reads a header value: `ID;reason="..";source="..";...`.
    pub fn parse(value: &'a str) -> Option<Self> {
        let (id, mut rest) = value.split_once(';').unwrap_or((value, ""));
        let mut found = Self { id: id.trim().parse().ok()?, reason: "", source: "", domain: "" };
        while let Some((name, after)) = rest.split_once('=') {
            let after = after.trim_start();
            let (value, next) = match after.strip_prefix('"') {
                Some(quoted) => {
                    let (value, next) = quoted.split_once('"').unwrap_or((quoted, ""));
                    (value, next.split_once(';').map_or("", |(_, next)| next))
                }
                None => after.split_once(';').unwrap_or((after, "")),
            };
            match name.trim() {
                name if name.eq_ignore_ascii_case("reason") => found.reason = value,
                name if name.eq_ignore_ascii_case("source") => found.source = value,
                name if name.eq_ignore_ascii_case("domain") => found.domain = value,
                _ => {}
            }
            rest = next;
        }
        Some(found)
    }

    /// All that a message carries, the public ones first: these were meant for us.
    pub fn all(message: &'a super::message::Message<'a>) -> impl Iterator<Item = Self> {
        let own = message.headers("ms-diagnostics");
        message.headers(HEADER).chain(own).take(READ_MAX).filter_map(Self::parse)
    }
}

/// "Route set is no longer valid": the dialog has to be made anew.
const ROUTE_SET_INVALID: u32 = 1004;

/// The status of a final response as its dialog has to take it: 481 where nothing can reach
/// the other end in this dialog any more, whatever the status says.
pub fn status_in_dialog(message: &super::message::Message<'_>) -> u16 {
    let is_cut = || Diagnostic::all(message).any(|said| said.id == ROUTE_SET_INVALID);
    if message.status() >= 400 && is_cut() { 481 } else { message.status() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{NextHop, NextHopTransport, SipDomain};

    fn names_of(response: &Response<'_>, is_reader: bool) -> Vec<String> {
        diagnosed(response, is_reader, |response| {
            response.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect()
        })
    }

    #[test]
    fn every_failure_has_exactly_one_and_nothing_else_has() {
        for status in 100..700 {
            let headers = [("Retry-After", "10")];
            let response = Response { status, headers: &headers, ..Response::default() };
            let names = names_of(&response, true);
            assert_eq!(names.len(), if status >= 400 { 2 } else { 1 }, "{status}");
            assert_eq!(names_of(&response, false).len(), 1);
            let Some(line) = names.get(1) else { continue };
            let value = line.strip_prefix("ms-diagnostics-public: ").expect("the header");
            let read = Diagnostic::parse(value).expect("a value");
            assert!(!read.reason.is_empty() && read.source.is_empty(), "{value}");
            assert!(read.id < 1100 || (7_247_000..7_248_000).contains(&read.id), "{value}");
        }
    }

    #[test]
    fn a_cause_of_its_own_goes_before_the_status_and_stays_with_those_who_read_it() {
        let headers = [("Ms-Diagnostics-Public", cause::NO_ROUTE)];
        let response = Response { status: 404, headers: &headers, ..Response::default() };
        assert_eq!(names_of(&response, true), [format!("Ms-Diagnostics-Public: {}", cause::NO_ROUTE)]);
        assert!(names_of(&response, false).is_empty());
        assert!(names_of(&Response { status: 200, headers: &headers, ..Response::default() }, true).is_empty());
    }

    #[test]
    fn what_a_peer_says_is_read() {
        let read =
            Diagnostic::parse("1008;reason=\"Unable to resolve; DNS\";domain=\"a.example\";source=\"edge.example\"");
        assert_eq!(
            read,
            Some(Diagnostic {
                id: 1008,
                reason: "Unable to resolve; DNS",
                source: "edge.example",
                domain: "a.example"
            })
        );
        let short = Diagnostic { id: 42, reason: "", source: "", domain: "" };
        for value in ["42", " 42 ;x", "42;reason", "42;reason=", "42;;="] {
            assert_eq!(Diagnostic::parse(value), Some(short), "{value}");
        }
        assert_eq!(Diagnostic::parse("42;reason=\"open").map(|read| read.reason), Some("open"));
        assert_eq!(
            Diagnostic::parse("42;Reason=bare;source=x").map(|read| (read.reason, read.source)),
            Some(("bare", "x"))
        );
        for value in ["", ";reason=\"x\"", "x;reason=\"y\"", "-1", "99999999999"] {
            assert_eq!(Diagnostic::parse(value), None, "{value}");
        }
    }

    #[test]
    fn any_value_is_read_or_left_without_harm() {
        let mut rng = crate::base::rng::Rng::from_number(5);
        let pieces = ["1", ";", "reason", "=", "\"", "source", " ", "\u{fc}", "\t", "99999999999", "x", ","];
        for _ in 0..20_000 {
            let value: String = (0..rng.below(14)).map(|_| pieces[rng.below(pieces.len() as u64) as usize]).collect();
            if let Some(read) = Diagnostic::parse(&value) {
                assert!(read.reason.len() <= value.len(), "{value}");
            }
        }
    }

    #[test]
    fn peers_of_the_dialect_read_them_and_those_of_another_do_not() {
        let mut edge = SipDomain::new("office.example");
        edge.dialect = Dialect::Lync;
        edge.next_hop =
            Some(NextHop { transport: NextHopTransport::Tls, host: "edge.office.example".into(), port: None });
        edge.peers = vec![Peer::Network(Network { address: "192.0.2.0".parse().expect("an address"), length: 28 })];
        let mut settings = Settings { sip_domains: vec![SipDomain::new("shop.example")], ..Settings::default() };
        let shown = |name: &str| PeerCertificate {
            verdict: Some(Ok(())),
            dns_names: vec![name.into()],
            ..PeerCertificate::default()
        };
        let address: IpAddr = "192.0.2.5".parse().expect("an address");
        let has = |settings: &Settings, transport, certificate: Option<&PeerCertificate>| {
            Readers::new(settings).has(transport, address, certificate)
        };
        assert!(!has(&settings, Transport::Tls, Some(&shown("edge.office.example"))));
        settings.sip_domains.push(edge);
        assert!(has(&settings, Transport::Tls, Some(&shown("edge.office.example"))));
        assert!(has(&settings, Transport::Tls, Some(&shown("stranger.example"))));
        assert!(has(&settings, Transport::Tls, None));
        assert!(!has(&settings, Transport::Tls, Some(&shown("shop.example"))));
        assert!(has(&settings, Transport::Udp, None));
        settings.sip_domains.pop();
        settings.discovery_open = true;
        assert!(has(&settings, Transport::Tls, Some(&shown("stranger.example"))));
        assert!(!has(&settings, Transport::Udp, None));
    }
}
