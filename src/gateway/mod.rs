//! The only code that knows both SIP and XMPP. One door: [`Gateway::handle`] takes one
//! event and leaves all it causes in the outbox; [`Gateway::deadline`] says when it
//! wants to be woken.
//!
//! `uas.rs` decides what a SIP request gets, `service.rs` what an iq or a presence
//! gets, `message.rs` carries messages both ways, by themselves or in a `session`;
//! `pending.rs` remembers who asked.

pub mod address;
pub mod content;
pub mod discovered;
pub mod error;
pub mod input;
pub mod late;
pub mod message;
pub mod outgoing;
mod owner;
pub mod pending;
pub mod policy;
pub mod presence;
pub mod probe;
pub mod provider;
mod relay;
pub mod report;
pub mod route;
pub mod service;
mod session;
mod sweep;
pub mod uas;

use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::net::{LinkId, ListenerId};
use crate::base::slab::{Key, Slab};
use crate::base::text::Escaped;
use crate::base::time::Instant;
use crate::base::xml::Tree;
use crate::dns::locate::{Located, Locator, Service};
use crate::limits::{SIP_CLIENT_TRANSACTIONS_MAX, STREAMS_MAX};
use crate::settings::{Dialect, ListenerKind, Settings, SipDomain};
use crate::sip::endpoint::Endpoint;
use crate::xmpp::server::Server;
use input::Input;
use ring::hmac;

/// The gateway: one of everything.
#[derive(Debug)]
pub struct Gateway {
    settings: Settings,
    /// The settings' domains, indexed.
    routes: route::Routes,
    /// Domains that nobody configured.
    discovered: discovered::Discovered,
    /// What SIP users may do.
    rights: policy::Rights,
    sip: Endpoint,
    xmpp: Server,
    dns: Locator,
    /// Where stanzas are parsed into; lent out for the length of one event.
    tree: Tree,
    /// Messages on their way.
    pending: pending::Table,
    /// What `message.rs` keeps from one message to the next.
    memory: message::Memory,
    /// Sessions of messages.
    sessions: session::table::Table,
    /// Contacts, and who watches whom.
    presence: presence::table::Table,
    /// Who waits for an answer of the DNS.
    asked: Slab<Asker>,
    /// Calls to and from public providers.
    calls: relay::Table,
    /// Tests that an operator asked for.
    tests: probe::Table,
    /// When the SIP domains were last heard of.
    heard: probe::Heard,
    /// The walk along all that runs, when rights changed.
    sweep: sweep::Sweep,
    /// The program ends: nothing new is taken.
    ending: bool,
}

/// Who asked where a domain is.
#[derive(Clone, Copy, Debug)]
enum Asker {
    /// A SIP request.
    Sip(Key),
    /// An XMPP stream.
    Xmpp(Key),
}

impl Gateway {
    /// A gateway that obeys `settings`. `secret` is what dialback keys and hashes are
    /// made from when the settings hold no dialback secret of their own: 32 octets or
    /// more that nobody knows.
    pub fn new(settings: Settings, secret: &[u8]) -> Self {
        let secret = settings.xmpp.dialback_secret.as_deref().map_or(secret, str::as_bytes);
        let hash_key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"hashes of addresses");
        Self {
            routes: route::Routes::new(&settings),
            discovered: discovered::Discovered::default(),
            rights: policy::Rights::new(&settings),
            sip: Endpoint::new(&settings),
            xmpp: Server::new(&settings, secret),
            dns: Locator::new(&settings),
            tree: Tree::default(),
            pending: pending::Table::default(),
            memory: message::Memory::new(hash_key.as_ref()),
            sessions: session::table::Table::default(),
            presence: presence::table::Table::new(hash_key.as_ref()),
            asked: Slab::with_capacity(SIP_CLIENT_TRANSACTIONS_MAX + STREAMS_MAX),
            calls: relay::Table::default(),
            tests: probe::Table::default(),
            heard: probe::Heard::default(),
            sweep: sweep::Sweep::default(),
            ending: false,
            settings,
        }
    }

    /// Takes new settings: what they do not touch goes on undisturbed. They hold at once for
    /// whatever begins; what runs is looked at again turn by turn (`sweep.rs`).
    pub fn configure(&mut self, cx: &mut Cx<'_>, settings: Settings) {
        let old = core::mem::replace(&mut self.settings, settings);
        self.routes.configure(&old, &self.settings);
        self.rights.configure(&self.settings);
        self.discovered.configure(|domain| self.routes.is_configured(domain));
        self.heard.retain(|domain| self.routes.sip_domain(&self.settings, domain).is_some());
        self.sip.configure(cx, &self.settings);
        self.dns.configure(cx, &self.settings);
        self.settings_changed(cx, &old);
        self.settle(cx);
    }

    /// Takes in what was stored by [`crate::base::outbox::Outbox::store`], oldest first:
    /// before anything else happens.
    pub fn restore(&mut self, cx: &mut Cx<'_>, records: &mut dyn Iterator<Item = &[u8]>) {
        self.presence.note_time(cx.now, cx.wall);
        for record in records {
            if !self.rights.licences.restore(cx.now, cx.wall, record) {
                self.restore_record(cx, record);
            }
        }
        self.rights.licences.allot(&self.settings);
        self.restored(cx);
        self.review_rights(cx);
    }

    /// What has to be stored to have all that is known, a slice at a time: `record` gets
    /// the records of the slice that begins at `from`, 0 at first; the answer says where
    /// the next one begins, `None` after the last. What changes meanwhile is stored anew.
    pub fn snapshot(&self, from: u32, record: &mut dyn FnMut(&[u8])) -> Option<u32> {
        const LICENCES: u32 = u32::MAX - 0xFF;
        match u8::try_from(from.wrapping_sub(LICENCES)) {
            Err(_) => self.snapshot_records(from, record).or(Some(LICENCES)),
            Ok(octet) => {
                let (now, wall) = self.presence.time();
                let has_more = self.rights.licences.snapshot(octet, now, wall, record) && octet < u8::MAX;
                has_more.then(|| from + 1)
            }
        }
    }

    /// The settings it obeys.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes one event; all it causes is in `cx.out` on return. Returns how many of
    /// its octets were used: the rest is to be brought again, with more.
    pub fn handle(&mut self, cx: &mut Cx<'_>, input: Input<'_>) -> usize {
        self.presence.note_time(cx.now, cx.wall);
        let used = match input {
            Input::Datagram { listener, from, bytes } => {
                let length = bytes.len();
                if let Some(event) = self.sip.datagram(cx, listener, from, bytes) {
                    self.on_sip(cx, event);
                }
                length
            }
            Input::Stream { link, bytes } => self.on_stream(cx, link, bytes),
            Input::Accepted { link, listener, from } => {
                match self.listener_kind(listener) {
                    Some(ListenerKind::XmppStartTls | ListenerKind::XmppDirectTls) => {
                        self.xmpp.accepted(cx, link, listener, from);
                    }
                    Some(ListenerKind::SipTcp | ListenerKind::SipTls) => self.sip.accepted(cx, link, listener, from),
                    Some(ListenerKind::SipUdp) | None => cx.out.abort(link),
                }
                0
            }
            Input::Opened { link } => {
                if self.sip.owns(link) {
                    self.sip.opened(cx, link);
                } else if self.xmpp.owns(link) {
                    self.xmpp.opened(cx, link);
                } else {
                    self.dns.opened(cx, link);
                }
                0
            }
            Input::Secured { link, peer } => {
                if self.sip.owns(link) {
                    self.sip.secured(cx, link, peer);
                } else {
                    self.xmpp.secured(cx, link, peer);
                }
                0
            }
            Input::Drained { link, sent } => {
                if self.sip.owns(link) {
                    self.sip.drained(cx, link, sent);
                } else {
                    self.xmpp.drained(cx, link, sent);
                }
                0
            }
            Input::Closed { link, why } => {
                if self.sip.owns(link) {
                    self.on_sip_link_lost(cx, link, why);
                    self.sip.closed(cx, link, why);
                } else if self.xmpp.owns(link) {
                    self.xmpp.closed(cx, link, why);
                } else {
                    self.dns.closed(cx, link, why);
                }
                0
            }
            Input::Timeout => {
                self.sip.timeout(cx);
                self.xmpp.timeout(cx);
                self.dns.timeout(cx);
                self.on_error_wait_over(cx);
                self.presence_timeout(cx);
                self.session_timeout(cx);
                self.provider_alarms(cx);
                self.sweep_timeout(cx);
                self.relays_timeout(cx);
                self.tests_timeout(cx);
                0
            }
            Input::Stored { number } => {
                self.on_stored(cx, number);
                0
            }
            Input::StoreFailed => {
                self.on_store_failed(cx);
                0
            }
            Input::Shutdown => {
                self.shutdown(cx);
                0
            }
        };
        self.settle(cx);
        used
    }

    /// When `Input::Timeout` is next due.
    pub fn deadline(&self) -> Option<Instant> {
        [
            self.sip.deadline(),
            self.xmpp.deadline(),
            self.dns.deadline(),
            self.pending.deadline(),
            self.presence.deadline(),
            self.sessions.deadline(),
            self.rights.deadline(),
            self.sweep.deadline(),
            self.calls.deadline(),
            self.tests.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// How many messages are on their way: 0 at a quiet moment.
    pub fn messages_under_way(&self) -> usize {
        self.pending.len()
    }

    fn listener_kind(&self, listener: ListenerId) -> Option<ListenerKind> {
        self.settings.listeners.get(usize::from(listener.0)).map(|listener| listener.kind)
    }

    /// Feeds a stream to its owner, one message or stanza at a time. Outcomes are
    /// settled in between, so that what a stanza causes goes out before the next.
    fn on_stream(&mut self, cx: &mut Cx<'_>, link: LinkId, bytes: &mut [u8]) -> usize {
        let mut used = 0;
        while used < bytes.len() {
            let rest = &mut bytes[used..];
            let step = if self.sip.owns(link) {
                let (step, event) = self.sip.stream(cx, link, rest);
                if let Some(event) = event {
                    self.on_sip(cx, event);
                }
                step
            } else if self.xmpp.owns(link) {
                // The event borrows from the tree, so the tree leaves the gateway for
                // as long as the event lives; an empty tree costs nothing.
                let mut tree = core::mem::take(&mut self.tree);
                let (step, event) = self.xmpp.receive(cx, link, rest, &mut tree);
                if let Some(event) = event {
                    self.on_xmpp(cx, event);
                }
                self.tree = tree;
                step
            } else {
                self.dns.receive(cx, link, rest)
            };
            if step == 0 {
                break;
            }
            used += step;
            self.settle(cx);
        }
        used
    }

    /// Lets every outcome that has no message of its own find its way, until there is
    /// none left.
    fn settle(&mut self, cx: &mut Cx<'_>) {
        loop {
            if let Some(mark) = cx.out.trail.pop() {
                self.on_mark(cx, &mark);
            } else if let Some(event) = self.sip.poll() {
                self.on_sip(cx, event);
            } else if let Some(event) = self.xmpp.poll() {
                self.on_xmpp(cx, event);
            } else if let Some(located) = self.dns.poll() {
                self.on_located(cx, &located);
            } else {
                return;
            }
        }
    }

    fn on_sip(&mut self, cx: &mut Cx<'_>, event: crate::sip::endpoint::Event<'_>) {
        use crate::sip::endpoint::Event;
        match event {
            Event::Request { transaction, message, source } => self.on_request(cx, transaction, &message, &source),
            Event::Benotify { message, source } => self.on_benotify(cx, &message, &source),
            Event::Response { ticket, message } => {
                let is_theirs = self.test_response(cx, ticket, &message)
                    || self.relay_response(cx, ticket, &message)
                    || self.presence_response(cx, ticket, &message)
                    || self.session_response(cx, ticket, &message);
                if !is_theirs {
                    self.on_response(cx, ticket, &message);
                }
            }
            Event::Failed { ticket, failure } => {
                let is_theirs = self.test_failed(cx, ticket, failure)
                    || self.relay_failed(cx, ticket, failure)
                    || self.presence_failed(cx, ticket, failure)
                    || self.session_failed(cx, ticket, failure);
                if !is_theirs {
                    self.on_sip_failure(cx, ticket, failure);
                }
            }
            Event::Acknowledged { transaction, message, source } => {
                self.on_acknowledged(cx, transaction, &message, &source);
            }
            Event::RelayedAck { message, source } => self.on_relayed_ack(cx, &message, &source),
            Event::Cancelled { transaction } => self.on_cancelled(cx, transaction),
            // An INVITE for a session is accepted or refused at once: what was refused is over.
            Event::Unacknowledged { .. } => {}
            Event::Locate { request, place } => {
                let federation = self.federation(&place.host);
                let service = match (place.port, place.transport) {
                    (Some(port), Some(transport)) => Service::Host { host: &place.host, port, transport },
                    (None, None) if federation.is_some() => Service::Federation {
                        domain: &place.host,
                        is_strict: federation.is_some_and(|domain| domain.srv_target_strict),
                    },
                    (port, transport) => Service::Sip { host: &place.host, port, transport, secure_only: place.sips },
                };
                self.locate(cx, Asker::Sip(request), &service);
            }
        }
    }

    fn on_xmpp(&mut self, cx: &mut Cx<'_>, event: crate::xmpp::server::Event<'_>) {
        use crate::xmpp::server::Event;
        match event {
            Event::Stanza { handle, stanza } => self.on_stanza(cx, handle, &stanza),
            Event::Delivered { ticket } => {
                if !self.test_delivered(cx, ticket) && !self.presence_delivered(cx, ticket) {
                    self.on_delivered(cx, ticket);
                }
            }
            Event::Undelivered { ticket, why } => {
                if !self.test_undelivered(cx, ticket, why) && !self.presence_undelivered(cx, ticket, why) {
                    self.on_undelivered(cx, ticket, why);
                }
            }
            Event::Handled { number } => self.test_handled(cx, number),
            Event::Lost { ours, theirs } => self.on_partner_lost(cx, ours, theirs),
            Event::Locate { place, domain, proxy } => {
                let service = match &proxy {
                    Some((host, port)) => {
                        Service::Host { host, port: port.unwrap_or(5269), transport: crate::base::net::Transport::Tcp }
                    }
                    None => Service::XmppServer { domain: &domain },
                };
                self.locate(cx, Asker::Xmpp(place), &service);
            }
        }
    }

    /// The SIP domain, in A-labels, if it federates as Lync does and nobody said where its
    /// servers are.
    fn federation(&self, ascii: &str) -> Option<&SipDomain> {
        let name = idna::domain_to_unicode(ascii).0;
        let domain = self.routes.sip_domain(&self.settings, &name)?;
        (domain.dialect == Dialect::Lync && domain.next_hop.is_none()).then_some(domain)
    }

    fn locate(&mut self, cx: &mut Cx<'_>, asker: Asker, service: &Service<'_>) {
        let Ok(key) = self.asked.insert(asker) else {
            cx.refuse(Counter::DnsTimeout, "dns.full", format_args!("side=ours cause=too-many-questions"));
            return self.tell_asker(cx, asker, Err(crate::base::net::NotLocated::NoAnswer), &[]);
        };
        if let Some(located) = self.dns.locate(cx, *service, key.to_bits()) {
            self.on_located(cx, &located);
        }
    }

    fn on_located(&mut self, cx: &mut Cx<'_>, located: &Located) {
        let Some(asker) = self.asked.remove(Key::from_bits(located.token)) else { return };
        self.tell_asker(cx, asker, located.result.as_deref().map_err(|why| *why), &located.hosts);
    }

    fn tell_asker(
        &mut self,
        cx: &mut Cx<'_>,
        asker: Asker,
        result: Result<&[crate::base::net::Target], crate::base::net::NotLocated>,
        hosts: &[String],
    ) {
        match asker {
            Asker::Sip(request) => {
                self.sip.may_name(request, hosts);
                self.sip.located(cx, request, result);
            }
            Asker::Xmpp(place) => self.xmpp.located(cx, place, result),
        }
    }

    /// Ends in good order: who waits is told, then the streams close.
    fn shutdown(&mut self, cx: &mut Cx<'_>) {
        if core::mem::replace(&mut self.ending, true) {
            return;
        }
        cx.info("gateway.ending", format_args!("messages={}", self.pending.len()));
        self.sweep = sweep::Sweep::default();
        self.give_up_all(cx);
        self.sessions_shutdown(cx);
        self.relays_shutdown(cx);
        self.presence_shutdown(cx);
        self.xmpp.shutdown(cx);
        self.sip.shutdown(cx);
    }
}

/// An address in a log line, as `system privacy` wants it.
pub(crate) struct Named<'a> {
    /// The address, `user@domain` or a URI.
    pub(crate) address: &'a str,
    /// How it may appear.
    pub(crate) privacy: crate::settings::Privacy,
    /// The key of the hash.
    pub(crate) key: &'a [u8],
}

/// The two parts of a JID or of a SIP URI in whatever form it came; a JID's resource may
/// hold an `@`, and a URI's user part a `/`. Of another URI everything is the user.
fn user_and_domain(address: &str) -> (&str, &str) {
    let is_sip = |scheme: &str| ["sip", "sips"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let (bare, is_uri) = match address.split_once(':') {
        Some((scheme, rest)) if is_sip(scheme) => (rest, true),
        Some((scheme, _)) if !scheme.contains(['@', '/', '[']) => return (address, ""),
        _ => (address.split_once('/').map_or(address, |(bare, _)| bare), false),
    };
    let (user, rest) = bare.split_once('@').unwrap_or(("", bare));
    let ends: &[char] = if is_uri { &['/', ';', '?', '>'] } else { &['>'] };
    (user, rest.split(ends).next().unwrap_or(rest))
}

impl core::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        use crate::settings::Privacy;
        let (user, domain) = user_and_domain(self.address);
        match self.privacy {
            Privacy::Full => Escaped(self.address).fmt(f),
            Privacy::Domain => Escaped(domain).fmt(f),
            Privacy::Hash => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, self.key);
                let tag = hmac::sign(&key, user.as_bytes());
                let short = tag.as_ref().get(..6).unwrap_or_default();
                write!(f, "{}@{}", crate::base::text::hex_lower(short), Escaped(domain))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::user_and_domain;

    #[test]
    fn what_may_be_logged_of_an_address_is_its_domain_and_nothing_else() {
        for (address, parts) in [
            ("lena@chat.example/balkon", ("lena", "chat.example")),
            ("lena@chat.example/phone@home", ("lena", "chat.example")),
            ("chat.example/a@b", ("", "chat.example")),
            ("sip:a/b@voip.example;gr=x", ("a/b", "voip.example")),
            ("SIPS:marta@voip.example:5061;x=y@z", ("marta", "voip.example:5061")),
            ("tel:+15551234", ("tel:+15551234", "")),
        ] {
            assert_eq!(user_and_domain(address), parts, "{address}");
        }
    }
}
