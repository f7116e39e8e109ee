//! Decorated addresses: a user of a public provider whose account is at a foreign domain
//! is `user(domain)@routing-domain` for Lync, which may write that by itself. Here both
//! directions, as pure text; which policy holds is left to `policy.rs`.
//!
//! A routing domain is no domain of users: nothing is sent to it because an address could
//! not be read (promise P3 has it so for everything that is ours alone).

use super::policy::Way;
use super::{Gateway, address, message};
use crate::settings::Settings;
use crate::settings::provider::{Provider, built_in_routing_domains};
use crate::xmpp::jid::{Jid, domain_to_ascii};

/// Why an address in a routing domain reaches nobody: 404.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecorated {
    /// No enabled provider has this routing domain.
    NoProvider,
    /// It names no user of a foreign domain.
    NotDecorated,
    /// It names a domain whose addresses are used as they are.
    Excluded,
}

impl Undecorated {
    /// In words, as a reason phrase.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoProvider => "No Public Provider Is Enabled For This Address",
            Self::NotDecorated => "The Address Names No User Of Another Domain",
            Self::Excluded => "Addresses Of This Domain Are Used As They Are",
        }
    }
}

/// The XMPP user that an address in a routing domain stands for, and the place of the
/// provider. `None`: its domain is no routing domain.
pub fn undecorate(settings: &Settings, jid: &Jid) -> Option<Result<(Jid, usize), Undecorated>> {
    if !is_routing_domain(settings, jid.domain()) {
        return None;
    }
    let is_its = |p: &Provider| p.enabled && p.routing_domain.as_deref() == Some(jid.domain());
    let Some(place) = settings.providers.iter().position(is_its) else { return Some(Err(Undecorated::NoProvider)) };
    let Some((local, domain)) = jid.local().and_then(split) else { return Some(Err(Undecorated::NotDecorated)) };
    let Ok(user) = Jid::new(Some(local), domain, jid.resource()) else {
        return Some(Err(Undecorated::NotDecorated));
    };
    let decorates = settings.providers.get(place).is_some_and(|provider| provider.decorates(user.domain()));
    Some(if decorates { Ok((user, place)) } else { Err(Undecorated::Excluded) })
}

/// Does the domain stand for decorated addresses, with a provider that is set or with one
/// that is built in?
pub fn is_routing_domain(settings: &Settings, domain: &str) -> bool {
    settings.providers.iter().any(|provider| provider.routing_domain.as_deref() == Some(domain))
        || built_in_routing_domains().any(|routing| routing == domain)
}

/// `user(domain)`, in its two parts. A user part may hold brackets of its own.
fn split(local: &str) -> Option<(&str, &str)> {
    let (user, domain) = local.strip_suffix(')')?.rsplit_once('(')?;
    (!user.is_empty() && !domain.is_empty()).then_some((user, domain))
}

/// The SIP URI by which users of a provider know this XMPP user: decorated where the
/// provider decorates his domain, else as it is.
pub fn decorated(provider: &Provider, jid: &Jid, with_resource: bool) -> Result<String, address::NotMapped> {
    let routing = provider.routing_domain.as_deref().filter(|_| provider.decorates(jid.domain()));
    let (Some(routing), Some(local)) = (routing, jid.local()) else { return message::sip_uri(jid, with_resource) };
    let domain = domain_to_ascii(jid.domain()).ok_or(address::NotMapped::Domain)?;
    let resource = jid.resource().filter(|_| with_resource);
    let mut uri = String::new();
    address::to_sip(Some(&format!("{local}({domain})")), routing, resource, &mut uri)?;
    Ok(uri)
}

impl Gateway {
    /// The decorated address that a SIP URI is, as it stands there: what a watcher who asked
    /// for it is to read in documents.
    pub(super) fn decorated_in(&self, uri: &str) -> Option<Jid> {
        if !self.settings.providers.iter().any(|provider| provider.enabled) {
            return None;
        }
        let mut jid = String::new();
        address::to_jid(uri, None, &mut jid).ok()?;
        Jid::parse(&jid).ok().filter(|jid| is_routing_domain(&self.settings, jid.domain()))
    }

    /// The SIP URI by which a SIP user reached on this way knows an XMPP user: what
    /// stands in From of what is begun on behalf of the XMPP user, and in Contact.
    pub fn known_as(&self, way: Way, xmpp: &Jid, with_resource: bool) -> Result<String, address::NotMapped> {
        match way {
            Way::Provider(place) if self.settings.providers.get(place).is_some() => {
                decorated(&self.settings.providers[place], xmpp, with_resource)
            }
            _ => message::sip_uri(xmpp, with_resource),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let provider = Provider {
            enabled: true,
            routing_domain: Some("pier.example".into()),
            excluded_domains: vec!["pier.example".into(), "quay.example".into()],
            ..Provider::new("harbour")
        };
        Settings { providers: vec![Provider::new("other"), provider], ..Settings::default() }
    }

    fn jid(text: &str) -> Jid {
        Jid::parse(text).expect("an address")
    }

    #[test]
    fn a_decorated_address_is_a_user_of_the_domain_in_brackets() {
        let settings = settings();
        let of =
            |text: &str| undecorate(&settings, &jid(text)).map(|found| found.map(|(user, _)| user.as_str().to_owned()));
        assert_eq!(of("lena(lake.example)@pier.example"), Some(Ok("lena@lake.example".into())));
        assert_eq!(of("lena(Lake.example)@pier.example/desk"), Some(Ok("lena@lake.example/desk".into())));
        assert_eq!(of("l(e)na(lake.example)@pier.example"), Some(Ok("l(e)na@lake.example".into())));
        assert_eq!(of("lena(xn--bcher-kva.example)@pier.example"), Some(Ok("lena@b\u{fc}cher.example".into())));
        for not_one in ["lena", "lena(lake.example", "(lake.example)", "lena()", "lena(lake.example)x", "lena(-)"] {
            let address = format!("{not_one}@pier.example");
            assert_eq!(of(&address), Some(Err(Undecorated::NotDecorated)), "{address}");
        }
        assert_eq!(of("pier.example"), Some(Err(Undecorated::NotDecorated)));
        assert_eq!(of("lena(quay.example)@pier.example"), Some(Err(Undecorated::Excluded)));
        assert_eq!(of("lena(pier.example)@pier.example"), Some(Err(Undecorated::Excluded)));
        assert_eq!(of("lena(lake.example)@msn.com"), Some(Err(Undecorated::NoProvider)));
        assert_eq!(of("lena(lake.example)@lake.example"), None);
    }

    #[test]
    fn a_provider_that_is_off_reaches_nobody() {
        let mut settings = settings();
        settings.providers[1].enabled = false;
        let found = undecorate(&settings, &jid("lena(lake.example)@pier.example"));
        assert_eq!(found, Some(Err(Undecorated::NoProvider)));
    }

    #[test]
    fn an_address_is_decorated_and_comes_back() {
        let settings = settings();
        let provider = &settings.providers[1];
        for (user, uri) in [
            ("lena@lake.example", "sip:lena(lake.example)@pier.example"),
            ("lena@b\u{fc}cher.example", "sip:lena(xn--bcher-kva.example)@pier.example"),
            ("l(e)na@lake.example", "sip:l(e)na(lake.example)@pier.example"),
            ("lena@quay.example", "sip:lena@quay.example"),
        ] {
            let decorated = decorated(provider, &jid(user), false).expect("a URI");
            assert_eq!(decorated, uri);
            let mut back = String::new();
            address::to_jid(&decorated, None, &mut back).expect("an address");
            let back = jid(&back);
            let back = undecorate(&settings, &back).map_or(back, |found| found.expect("a user").0);
            assert_eq!(back.as_str(), user);
        }
    }
}
