//! What a TLS peer proved about itself: the judgement of its chain and the names
//! its certificate carries. `io` judges the chain; the protocols compare the names
//! with the one they wanted (RFC 5922 section 7, RFC 6120 section 13.7).

use super::time::Wall;
use core::fmt;

/// What `io` found out about the peer of a TLS connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCertificate {
    /// `None`: the peer sent no certificate. `Some(Ok)`: the chain leads to a
    /// trusted root, is in its time and may be used by a server.
    pub verdict: Option<Result<(), CertificateFault>>,
    /// subjectAltName dNSName entries, lower case, as they stand (A-labels, `*.`).
    pub dns_names: Vec<String>,
    /// subjectAltName SRVName entries (RFC 4985), such as `_xmpp-server.chat.example`.
    pub srv_names: Vec<String>,
    /// subjectAltName id-on-xmppAddr entries (RFC 6120 section 13.7.1.4).
    pub xmpp_addresses: Vec<String>,
    /// Hosts of subjectAltName `sip:` URIs that have no user part (RFC 5922).
    pub sip_hosts: Vec<String>,
    /// The subject's CN, only when there is no subjectAltName at all (RFC 5922).
    pub common_name: Option<String>,
    /// Its extended key usage allows SIP and nothing else (RFC 5924).
    pub sip_only: bool,
    /// When its time is over; `None` if it cannot be read.
    pub expires: Option<Wall>,
    /// SHA-256 of the certificate, for logs.
    pub fingerprint: [u8; 32],
    /// The TLS version and cipher suite, for logs.
    pub protocol: String,
}

/// Why a certificate chain is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// Its time is over.
    Expired,
    /// Its time has not come, or our clock is behind.
    NotYetValid,
    /// It leads to a root we do not trust.
    UnknownIssuer,
    /// It signs itself and is not among our roots.
    SelfSigned,
    /// The chain breaks before any root: the peer left an intermediate out.
    MissingIntermediate,
    /// It may not be used by a server (extended key usage).
    NotForServers,
    /// A name constraint of its issuer forbids its names.
    NameConstraint,
    /// It was withdrawn.
    Revoked,
    /// It cannot be read, or a signature does not fit, or its key is too weak.
    Bad,
}

impl CertificateFault {
    /// What to write into a log: the cause in words.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not yet valid",
            Self::UnknownIssuer => "issued by an unknown CA",
            Self::SelfSigned => "self-signed",
            Self::MissingIntermediate => "an intermediate certificate is missing",
            Self::NotForServers => "not issued for servers",
            Self::NameConstraint => "its CA may not issue for this name",
            Self::Revoked => "revoked",
            Self::Bad => "unreadable or badly signed",
        }
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl PeerCertificate {
    /// Is the chain good, so that its names may be believed?
    pub fn is_trusted(&self) -> bool {
        matches!(self.verdict, Some(Ok(())))
    }

    /// Does it name `domain` as a SIP domain? `sip:` URIs and dNSNames count, the CN
    /// only when there is no subjectAltName; no wildcards (RFC 5922 section 7.2).
    /// `domain` in lower case, A-labels.
    pub fn names_sip_domain(&self, domain: &str) -> bool {
        self.sip_hosts.iter().chain(&self.dns_names).any(|name| name.eq_ignore_ascii_case(domain))
            || self.common_name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(domain))
    }

    /// Does it name `domain`, or a host exactly one label below it, as
    /// [`Self::names_sip_domain`] has it? A domain of one label alone is none.
    pub fn names_sip_host_of(&self, domain: &str) -> bool {
        let is_host = |name: &str| {
            let host = name.split_once('.');
            host.is_some_and(|(label, rest)| !matches!(label, "" | "*") && rest.eq_ignore_ascii_case(domain))
        };
        let all = self.sip_hosts.iter().chain(&self.dns_names).chain(&self.common_name);
        domain.contains('.') && (self.names_sip_domain(domain) || all.into_iter().any(|name| is_host(name)))
    }

    /// Does it name `domain` as an XMPP domain? dNSName (a wildcard may stand for the
    /// whole left label), SRVName and XmppAddr count, the CN never (RFC 6120 section
    /// 13.7.1.2, RFC 6125). `ascii` in A-labels, `unicode` in U-labels, lower case.
    pub fn names_xmpp_domain(&self, ascii: &str, unicode: &str) -> bool {
        if self.sip_only {
            return false;
        }
        let wildcard = |name: &str| {
            let (Some(rest), Some((_, parent))) = (name.strip_prefix("*."), ascii.split_once('.')) else {
                return false;
            };
            // A wildcard right under a top-level domain would name half the world.
            parent.contains('.') && rest.eq_ignore_ascii_case(parent)
        };
        self.dns_names.iter().any(|name| name.eq_ignore_ascii_case(ascii) || wildcard(name))
            || self
                .srv_names
                .iter()
                .any(|name| name.strip_prefix("_xmpp-server.").is_some_and(|host| host.eq_ignore_ascii_case(ascii)))
            || self.xmpp_addresses.iter().any(|name| name.eq_ignore_ascii_case(ascii) || name.to_lowercase() == unicode)
    }

    /// The names it carries, for a log line: what was found, next to what was wanted.
    pub fn names(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        let all = [&self.dns_names, &self.sip_hosts, &self.srv_names, &self.xmpp_addresses];
        for name in all.into_iter().flatten().map(String::as_str).chain(self.common_name.as_deref()) {
            if !names.contains(&name) && names.len() < 8 {
                names.push(name);
            }
        }
        if names.is_empty() { "none".into() } else { names.join(",") }
    }

    /// All that an operator wants to see of it, in one line: encryption, names, the
    /// verdict on its chain and the last day it is good for.
    pub fn summary(&self) -> String {
        let verdict = match self.verdict {
            None => return format!("{}, no certificate", self.protocol),
            Some(Ok(())) => "believed".to_owned(),
            Some(Err(fault)) => format!("not believed ({fault})"),
        };
        let until = self.expires.map_or_else(String::new, |expires| {
            let at = expires.civil();
            format!(", good until {:04}-{:02}-{:02}", at.year, at.month, at.day)
        });
        format!("{}, certificate of {}, chain {verdict}{until}", self.protocol, self.names())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_dns(names: &[&str]) -> PeerCertificate {
        PeerCertificate { dns_names: names.iter().map(|n| (*n).into()).collect(), ..PeerCertificate::default() }
    }

    #[test]
    fn a_wildcard_stands_for_one_whole_label_and_only_in_xmpp() {
        let c = with_dns(&["*.chat.example"]);
        assert!(c.names_xmpp_domain("a.chat.example", "a.chat.example"));
        assert!(!c.names_xmpp_domain("a.b.chat.example", "a.b.chat.example"));
        assert!(!c.names_xmpp_domain("chat.example", "chat.example"));
        assert!(!c.names_sip_domain("a.chat.example"));
        assert!(!with_dns(&["*.example"]).names_xmpp_domain("chat.example", "chat.example"));
    }

    #[test]
    fn a_common_name_counts_in_sip_only() {
        let c = PeerCertificate { common_name: Some("voip.example".into()), ..PeerCertificate::default() };
        assert!(c.names_sip_domain("voip.example"));
        assert!(!c.names_xmpp_domain("voip.example", "voip.example"));
    }

    #[test]
    fn a_host_one_label_below_a_domain_stands_for_it_where_that_is_asked() {
        assert!(with_dns(&["sip.office.example"]).names_sip_host_of("office.example"));
        assert!(with_dns(&["office.example"]).names_sip_host_of("office.example"));
        for other in ["sip.it.office.example", "sip.office-edge.example", "*.office.example", ".office.example"] {
            assert!(!with_dns(&[other]).names_sip_host_of("office.example"), "{other}");
        }
        assert!(!with_dns(&["office.example"]).names_sip_host_of("example"));
    }

    #[test]
    fn srv_names_and_xmpp_addresses_name_an_xmpp_domain() {
        let c = PeerCertificate {
            srv_names: vec!["_xmpp-server.chat.example".into(), "_sip.other.example".into()],
            xmpp_addresses: vec!["bücher.example".into()],
            ..PeerCertificate::default()
        };
        assert!(c.names_xmpp_domain("chat.example", "chat.example"));
        assert!(!c.names_xmpp_domain("other.example", "other.example"));
        assert!(c.names_xmpp_domain("xn--bcher-kva.example", "bücher.example"));
    }
}
