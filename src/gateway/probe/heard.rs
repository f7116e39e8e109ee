//! When a SIP domain was last heard of, for the operator who asks whether it reaches us.

use crate::base::time::Instant;
use crate::sip::message::Message;
use crate::sip::uri::Uri;
use crate::xmpp::jid::prepare_domain;
use std::collections::BTreeMap;

/// What came from the served domains; as large as their number.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Heard(BTreeMap<String, Last>);

/// What came from one domain, or from who said to be of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Last {
    /// When the last request was taken.
    pub(super) last: Option<Instant>,
    /// When the last one was refused, and why.
    pub(super) refused: Option<(Instant, String)>,
}

impl Heard {
    /// What came from a domain.
    pub(super) fn of(&self, domain: &str) -> Option<&Last> {
        self.0.get(domain)
    }

    /// A request came. `refused`: why it is not taken, with the status. Only domains
    /// that `is_served` names are kept.
    pub(in crate::gateway) fn note(
        &mut self,
        now: Instant,
        message: &Message<'_>,
        refused: Option<(u16, &str)>,
        is_served: impl Fn(&str) -> bool,
    ) {
        let Ok(uri) = Uri::parse(message.from().uri) else { return };
        let Ok(domain) = prepare_domain(uri.host) else { return };
        if let Some(last) = self.0.get_mut(&*domain) {
            last.note(now, message, refused);
        } else if is_served(&domain) {
            self.0.entry(domain.into_owned()).or_default().note(now, message, refused);
        }
    }

    /// Forgets the domains that are served no more.
    pub(in crate::gateway) fn retain(&mut self, is_served: impl Fn(&str) -> bool) {
        self.0.retain(|domain, _| is_served(domain));
    }
}

impl Last {
    fn note(&mut self, now: Instant, message: &Message<'_>, refused: Option<(u16, &str)>) {
        match refused {
            None => self.last = Some(now),
            Some((status, reason)) => {
                self.refused = Some((now, format!("{} {status} {reason}", message.method().as_str())));
            }
        }
    }
}
