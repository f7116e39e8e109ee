//! What we say to a Lync Edge of the senders we bring: verified or not. Whether a partner's
//! users reach everybody there, or only those who have them as contacts, depends on it
//! where the Edge goes by the word of the source, which is what it does by itself.
//!
//! Users of a federated and of a public-verified partner are verified: their domain was proved,
//! and the operator says that it knows its users. Of all others nobody says so.

use super::emit::Request;
use super::transport::ascii;
use super::uri::Uri;
use crate::settings::{Dialect, PartnerKind, Settings};

/// The header field.
const HEADER: &str = "ms-asserted-verification-level";
const VERIFIED: &str = "ms-source-verified-user=verified";
const UNVERIFIED: &str = "ms-source-verified-user=unverified";

/// Whom we say it to, and of whom we say that they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Vouching {
    /// SIP domains with the dialect, in A-labels.
    readers: Vec<String>,
    /// The other SIP domains.
    others: Vec<String>,
    /// Domains whose users are verified.
    verified: Vec<String>,
    discovery_open: bool,
}

impl Vouching {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut vouching = Self { discovery_open: settings.discovery_open, ..Self::default() };
        for domain in &settings.sip_domains {
            let is_reader = domain.dialect == Dialect::Lync;
            let list = if is_reader { &mut vouching.readers } else { &mut vouching.others };
            list.push(ascii(&domain.domain));
        }
        for partner in settings.partners.iter().filter(|partner| partner.kind != PartnerKind::PublicUnverified) {
            let domains = core::iter::once(&partner.domain).chain(&partner.additional_domains);
            vouching.verified.extend(domains.map(|domain| ascii(domain)));
        }
        vouching
    }

    /// What to say to the domain of the sender with that URI; `None`: it does not listen.
    fn word(&self, domain: &str, from: &str) -> Option<&'static str> {
        let is = |all: &[String], name: &str| all.iter().any(|known| known.eq_ignore_ascii_case(name));
        if !is(&self.readers, domain) && (!self.discovery_open || is(&self.others, domain)) {
            return None;
        }
        let Ok(uri) = Uri::parse(from) else { return Some(UNVERIFIED) };
        // Of a decorated address the domain in brackets counts.
        let decorated = uri.user.and_then(|user| user.strip_suffix(')')?.rsplit_once('(')).map(|(_, domain)| domain);
        Some(if is(&self.verified, decorated.unwrap_or(uri.host)) { VERIFIED } else { UNVERIFIED })
    }

    /// Has a request to that domain written with our word for its sender, where it is read.
    pub(super) fn vouched<T>(&self, domain: &str, request: &Request<'_>, write: impl FnOnce(&Request<'_>) -> T) -> T {
        let Some(word) = self.word(domain, request.from) else { return write(request) };
        let mut headers: Vec<(&str, &str)> = Vec::with_capacity(request.headers.len() + 1);
        headers.extend_from_slice(request.headers);
        headers.push((HEADER, word));
        write(&Request { headers: &headers, ..*request })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Partner, SipDomain};

    #[test]
    fn a_lync_domain_hears_who_is_verified_and_others_hear_nothing() {
        let mut office = SipDomain::new("office.example");
        office.dialect = Dialect::Lync;
        let mut lake = Partner::new("lake.example");
        lake.kind = PartnerKind::PublicVerified;
        let mut settings = Settings {
            sip_domains: vec![office, SipDomain::new("shop.example")],
            partners: vec![lake, Partner::new("b\u{fc}cher.example")],
            ..Settings::default()
        };
        let word = |settings: &Settings, domain, from| Vouching::new(settings).word(domain, from);
        assert_eq!(word(&settings, "office.example", "sip:lena@lake.example"), Some(VERIFIED));
        assert_eq!(word(&settings, "office.example", "sip:otto@xn--bcher-kva.example"), Some(UNVERIFIED));
        let decorated = "sip:otto(xn--bcher-kva.example)@pier.example";
        assert_eq!(word(&settings, "office.example", decorated), Some(UNVERIFIED));
        assert_eq!(word(&settings, "office.example", "sip:lena(lake.example)@pier.example"), Some(VERIFIED));
        assert_eq!(word(&settings, "shop.example", "sip:lena@lake.example"), None);
        assert_eq!(word(&settings, "far.example", "sip:lena@lake.example"), None);
        settings.discovery_open = true;
        assert_eq!(word(&settings, "office.example", "sip:lena@far.example"), Some(UNVERIFIED));
        assert_eq!(word(&settings, "far.example", "sip:lena@lake.example"), Some(VERIFIED));
        assert_eq!(word(&settings, "shop.example", "sip:lena@lake.example"), None);
    }
}
