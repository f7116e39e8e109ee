//! What the operator decided about streams, in the form they ask for it.

use super::dialback::Keys;
use crate::limits::DISCOVERED_MAX;
use crate::settings::{Component, Listener, ListenerKind, Partner, Settings, Xmpp};
use core::net::SocketAddr;
use std::collections::VecDeque;

/// Domains, partners and times.
#[derive(Debug)]
pub(super) struct Policy {
    /// Our domains that are served between servers.
    domains: Vec<String>,
    /// SIP domains that nobody configured and that proved themselves, the oldest first,
    /// while discovery is open: served like ours.
    discovered: VecDeque<Box<str>>,
    /// Domains that may not talk.
    blocked: Vec<String>,
    /// Our domains that are served through another server (XEP-0114).
    pub(super) components: Vec<Component>,
    partners: Vec<Partner>,
    /// How a domain is treated that is no partner: every default.
    stranger: Partner,
    /// May strangers talk, so that we open streams to them of our own accord?
    pub(super) discovery_open: bool,
    /// Limits and times.
    pub(super) xmpp: Xmpp,
    /// The keys of server dialback.
    pub(super) keys: Keys,
    pub(super) listeners: Vec<Listener>,
}

impl Policy {
    pub(super) fn new(settings: &Settings, keys: Keys) -> Self {
        let components = settings.components.clone();
        let is_component = |domain: &str| components.iter().any(|component| component.domain == domain);
        let domains = settings.sip_domains.iter().map(|d| d.domain.clone());
        Self {
            domains: domains.filter(|domain| !is_component(domain)).collect(),
            discovered: VecDeque::new(),
            blocked: settings.blocked.clone(),
            components,
            partners: settings.partners.clone(),
            stranger: Partner::new(""),
            discovery_open: settings.discovery_open,
            xmpp: settings.xmpp.clone(),
            keys,
            listeners: settings.listeners.clone(),
        }
    }

    /// Is it a domain of ours that other servers may open streams to?
    pub(super) fn serves(&self, domain: &str) -> bool {
        self.domains.iter().any(|ours| ours == domain) || self.discovered.iter().any(|found| **found == *domain)
    }

    /// May the domain not talk at all?
    pub(super) fn is_blocked(&self, domain: &str) -> bool {
        self.blocked.iter().any(|blocked| blocked == domain)
    }

    /// Serves a SIP domain that was discovered; the oldest makes room.
    pub(super) fn serve(&mut self, domain: &str) {
        if !self.discovery_open || self.is_ours(domain) || self.is_blocked(domain) || self.partner_of(domain).is_some()
        {
            return;
        }
        if self.discovered.len() >= DISCOVERED_MAX {
            self.discovered.pop_front();
        }
        self.discovered.push_back(domain.into());
    }

    /// Goes on serving what another policy discovered, as far as this one may.
    pub(super) fn serve_as(&mut self, old: &Self) {
        old.discovered.iter().for_each(|domain| self.serve(domain));
    }

    /// Is it any domain of ours, so that nobody else may speak for it (promise P3)?
    pub(super) fn is_ours(&self, domain: &str) -> bool {
        self.serves(domain) || self.component_of(domain).is_some()
    }

    /// The component a domain of ours is served through.
    pub(super) fn component_of(&self, domain: &str) -> Option<&Component> {
        self.components.iter().find(|component| component.domain == domain)
    }

    /// The partner a domain belongs to, and its place among the partners.
    pub(super) fn partner_of(&self, domain: &str) -> Option<(usize, &Partner)> {
        let belongs = |p: &Partner| p.domain == domain || p.additional_domains.iter().any(|more| more == domain);
        self.partners.iter().enumerate().find(|(_, partner)| belongs(partner))
    }

    /// How a domain is treated, partner or not.
    pub(super) fn rules_for(&self, domain: &str) -> &Partner {
        self.partner_of(domain).map_or(&self.stranger, |(_, partner)| partner)
    }

    /// May we open a stream to the domain of our own accord?
    pub(super) fn may_open(&self, domain: &str) -> bool {
        !self.is_ours(domain) && !self.is_blocked(domain) && (self.discovery_open || self.partner_of(domain).is_some())
    }

    /// May any partner at all be authenticated by dialback in the clear?
    pub(super) fn any_in_the_clear(&self) -> bool {
        self.partners.iter().any(Partner::may_dialback_in_the_clear)
    }

    /// Most streams in all.
    pub(super) fn streams_max(&self) -> usize {
        (self.xmpp.connection_limit as usize).min(crate::limits::STREAMS_MAX)
    }

    /// Most streams with the partner a domain belongs to.
    pub(super) fn partner_streams_max(&self, domain: &str) -> usize {
        let own = self.rules_for(domain).connection_limit;
        own.unwrap_or(self.xmpp.partner_connection_limit) as usize
    }

    /// Does a listener speak TLS from the first octet?
    pub(super) fn is_direct_tls(&self, listener: usize) -> bool {
        self.listeners.get(listener).is_some_and(|l| l.kind == ListenerKind::XmppDirectTls)
    }

    /// Is it one of our own listeners, so that a stream there would talk to itself?
    pub(super) fn is_own_listener(&self, address: SocketAddr) -> bool {
        self.listeners.iter().any(|listener| listener.address == address)
    }
}
