//! Calls between users of our SIP domains and those of public providers: a request that
//! offers sound or pictures passes from one side's servers to the other's as SIP, end to
//! end, and with it all that belongs to its dialog; media goes directly.
//!
//! Who may: the sender's domain is proved by the connection like that of every request,
//! the target's is that of an enabled provider, or the other way round, and the SIP user
//! needs the right to it (`policy.rs`). It goes to the servers that are configured for the
//! target's domain and nowhere else, whatever Route or Request-URI say: this is no relay
//! for strangers. What is refused gets 488, so that Lync goes on without the call.
//!
//! `sip/relay.rs` knows what a proxy changes in a message; here is who asked whom.

use super::Gateway;
use super::address::jid_of;
use super::owner::RELAY as OF_RELAY;
use super::policy::{Denial, What};
use super::provider;
use super::provider::undecorate;
use super::route::HOPS_MAX;
use super::uas::Answer;
use crate::base::counters::Counter;
use crate::base::cx::{Cx, Ticket};
use crate::base::net::Transport;
use crate::base::slab::{Key, Slab};
use crate::base::time::Instant;
use crate::base::timers::Timers;
use crate::limits::RELAYS_MAX;
use crate::settings::provider::Provider;
use crate::sip::diagnostics::cause;
use crate::sip::endpoint::{Destination, Failure, NameAddr, Refused, Response, Source};
use crate::sip::message::{Message, Method};
use crate::sip::relay::Onward;
use crate::sip::transaction::T1_64;
use crate::sip::uri::{Scheme, Uri};
use crate::xmpp::jid::{Jid, domain_to_ascii, prepare_domain};
use core::time::Duration;

/// Timer C (RFC 3261 section 16.6): so long an INVITE may ring between two responses. Below
/// the time after which our own transaction gives up.
const RINGING_TIME: Duration = Duration::from_secs(185);

/// Requests that were sent on and are not over.
#[derive(Debug)]
pub(super) struct Table {
    relays: Slab<Relay>,
    /// Timer C, and when further 2xx are waited for no more.
    timers: Timers,
}

/// One of them.
#[derive(Debug)]
struct Relay {
    /// The transaction that it came with.
    transaction: Key,
    /// Is it an INVITE?
    is_invite: bool,
    /// Was it answered 2xx? More of them may come, from other phones.
    is_answered: bool,
    /// Did it ring for too long, so that it was cancelled?
    is_given_up: bool,
}

impl Default for Table {
    fn default() -> Self {
        Self { relays: Slab::with_capacity(RELAYS_MAX), timers: Timers::with_capacity(RELAYS_MAX) }
    }
}

impl Table {
    /// When [`Gateway::relays_timeout`] is next due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn remove(&mut self, key: Key) -> Option<Relay> {
        self.timers.stop(key.index());
        self.relays.remove(key)
    }
}

/// A request of a call that may be sent on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// Whose rights count: the user who is none of the provider's.
    user: Jid,
    /// The provider's domain.
    provider_domain: String,
    /// The domain whose servers it goes to.
    to_domain: String,
    /// What it offers, if it offers anything.
    offered: Option<What>,
    /// Does it begin a dialog?
    is_first: bool,
}

const fn ticket(key: Key) -> Ticket {
    Ticket(Key::from_bits(key.to_bits() | OF_RELAY))
}

fn relay_of(ticket: Ticket) -> Option<Key> {
    let bits = ticket.0.to_bits();
    (bits >> 62 == OF_RELAY >> 62).then(|| Key::from_bits(bits & !OF_RELAY))
}

impl Gateway {
    /// The call that a request of a proved sender begins or belongs to; `None`: it is
    /// something else, and what it gets is decided elsewhere.
    pub(super) fn call_of(&self, message: &Message<'_>, from: &Jid) -> Option<Call> {
        if !self.settings.providers.iter().any(|provider| provider.enabled) {
            return None;
        }
        // Messages and presence have rules of their own, which no Route leads around.
        let is_of_call = !matches!(message.method(), Method::Message | Method::Subscribe | Method::Publish);
        let is_inside = is_of_call && message.to().tag.is_some() && self.sip.follows_our_route(message);
        let offered = offered(message.body());
        let begins = message.method() == Method::Invite && message.to().tag.is_none() && offered.is_some();
        if !is_inside && !begins {
            return None;
        }
        let target = if is_inside { message.to().uri } else { message.uri() };
        let host = Uri::parse(target).ok().filter(Uri::is_sip)?.host;
        let to_domain = prepare_domain(host).ok()?.into_owned();
        self.routes.sip_domain(&self.settings, &to_domain)?;
        let is_providers = |domain: &str| {
            let has = |p: &Provider| p.enabled && p.has_domain(domain);
            self.settings.providers.iter().any(has)
        };
        let (user, provider_domain) = match (is_providers(from.domain()), is_providers(&to_domain)) {
            (false, true) => (from.to_bare(), to_domain.clone()),
            (true, false) => (jid_of(target)?.to_bare(), from.domain().to_owned()),
            _ => return None,
        };
        // A decorated address may be that of an XMPP user, whom nobody can call.
        let is_xmpp = |user: &Jid| self.routes.xmpp_domain(&self.settings, user.domain()).is_some();
        if provider::is_routing_domain(&self.settings, &to_domain)
            && let Some(Ok((decorated, _))) = jid_of(target).and_then(|jid| undecorate(&self.settings, &jid))
            && is_xmpp(&decorated)
        {
            return None;
        }
        Some(Call { user, provider_domain, to_domain, offered, is_first: !is_inside })
    }

    /// Sends a request of a call on, or says why not.
    pub(super) fn relay(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &Message<'_>,
        source: &Source,
        call: &Call,
    ) {
        if let Err(answer) = self.try_relay(cx, transaction, message, source, call) {
            cx.count(Counter::SipRelayRefused);
            cx.count(answer.counter);
            self.log_refusal(cx, message, &answer);
            self.respond(cx, transaction, &answer);
        }
    }

    fn try_relay(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &Message<'_>,
        source: &Source,
        call: &Call,
    ) -> Result<(), Answer> {
        let hops = message.max_forwards().unwrap_or(HOPS_MAX);
        if hops == 0 {
            return Err(Answer::new(483, "Too Many Hops", Counter::Loop));
        }
        let is_sips = Uri::parse(message.uri()).is_ok_and(|uri| uri.scheme == Scheme::Sips);
        if is_sips && (source.transport != Transport::Tls || self.transport_to(&call.to_domain) != Transport::Tls) {
            return Err(Answer::new(416, "sips: Cannot Be Kept There", Counter::SipRequestRefused));
        }
        check_proxy_require(message)?;
        check_asserted(message)?;
        if let Some(what) = call.offered {
            // Who is called takes no licence: he may not even exist.
            let way = if call.to_domain == call.provider_domain {
                self.may_talk(cx, &call.user, &call.provider_domain, what)
            } else {
                self.may_be_reached(cx, &call.user, &call.provider_domain, what)
            };
            way.map_err(refusal)?;
        }
        if call.is_first && !self.is_verified(call.origin_domain(), message) {
            let answer = Answer::new(403, "The Sender Is Not Verified", Counter::Unverified);
            return Err(answer.because(Some(cause::UNVERIFIED)));
        }
        let is_invite = message.method() == Method::Invite;
        let relay = Relay { transaction, is_invite, is_answered: false, is_given_up: false };
        let key = self.calls.relays.insert(relay).map_err(|_| Answer::overload("Too Many Calls Are Being Set Up"))?;
        if is_invite {
            // Its sender need not send it again.
            self.sip.respond(cx, transaction, &Response { status: 100, ..Response::default() });
        }
        let sent = self.send_on(cx, Some(transaction), ticket(key), message, source, call, hops - 1);
        if let Err(refused) = sent {
            self.calls.remove(key);
            return Err(match refused {
                Refused::TooLarge => Answer::new(513, "Larger Than A SIP Message May Be", Counter::SipRelayFailed),
                Refused::Overload | Refused::Malformed => Answer::overload("Too Much Waits For This Domain"),
            });
        }
        cx.count(Counter::SipRelayed);
        if is_invite {
            self.calls.timers.set(key.index(), cx.now.after(RINGING_TIME));
            cx.info(
                "sip.call",
                format_args!(
                    "from={} to={} offers={}",
                    self.named(message.from().uri),
                    self.named(message.to().uri),
                    call.offered.map_or("nothing", |what| if what == What::Video { "video" } else { "audio" })
                ),
            );
        }
        Ok(())
    }

    /// How requests to a served domain travel; one that its records decide by TLS, which
    /// comes first.
    fn transport_to(&self, domain: &str) -> Transport {
        let served = self.routes.sip_domain(&self.settings, domain);
        served.and_then(|served| served.next_hop.as_ref()).map_or(Transport::Tls, |hop| hop.transport.into())
    }

    #[allow(clippy::too_many_arguments)] // All of it belongs to the one request.
    fn send_on(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Option<Key>,
        ticket: Ticket,
        message: &Message<'_>,
        source: &Source,
        call: &Call,
        max_forwards: u8,
    ) -> Result<(), Refused> {
        let served = self.routes.sip_domain(&self.settings, &call.to_domain).ok_or(Refused::Malformed)?;
        let domain = domain_to_ascii(&call.to_domain).ok_or(Refused::Malformed)?;
        let destination = match &served.next_hop {
            Some(hop) => Destination::NextHop { hop, domain: &domain },
            None => Destination::Domain { domain: &domain },
        };
        let transport = self.transport_to(&call.to_domain);
        let record_routes =
            if call.is_first { self.sip.record_routes(source.transport, transport) } else { Vec::new() };
        let onward = Onward { max_forwards, record_routes: &record_routes, source: *source };
        self.sip.relay(cx, transaction, ticket, &destination, message, &onward)
    }

    /// The ACK to a 2xx that was relayed: it goes on, or is lost, for nobody answers it.
    pub(super) fn on_relayed_ack(&mut self, cx: &mut Cx<'_>, message: &Message<'_>, source: &Source) {
        let hops = message.max_forwards().unwrap_or(HOPS_MAX);
        let call = match self.proved_sender(message, source) {
            Ok(from) => self.call_of(message, &from).filter(|_| hops > 0),
            Err(_) => None,
        };
        // A ticket that no table has: an ACK has no outcome.
        let nobody = ticket(Key::from_bits(u64::from(u32::MAX)));
        let sent = call.map(|call| self.send_on(cx, None, nobody, message, source, &call, hops.saturating_sub(1)));
        if !matches!(sent, Some(Ok(()))) {
            cx.refuse(
                Counter::SipRelayRefused,
                "sip.call.ack-lost",
                format_args!("side=sip peer={} from={}", source.address, self.named(message.from().uri)),
            );
        }
    }

    /// A response to a request that was sent on; false if its ticket is none of ours.
    pub(super) fn relay_response(&mut self, cx: &mut Cx<'_>, ticket: Ticket, message: &Message<'_>) -> bool {
        let Some(key) = relay_of(ticket) else { return false };
        let status = message.status();
        let Some(relay) = self.calls.relays.get_mut(key).filter(|_| status > 100) else { return true };
        let (transaction, is_invite) = (relay.transaction, relay.is_invite);
        if status == 503 {
            // It would say that we are overloaded (RFC 3261 section 16.7, point 6).
            let answer = Answer::new(500, "The Next Server Is Overloaded", Counter::SipRelayFailed);
            cx.count(Counter::SipRelayFailed);
            self.respond(cx, transaction, &answer);
        } else {
            self.sip.relay_response(cx, transaction, message);
        }
        match status {
            ..200 if is_invite => {
                if !relay_is_given_up(&self.calls, key) {
                    self.calls.timers.set(key.index(), cx.now.after(RINGING_TIME));
                }
            }
            ..200 => {}
            200..300 if is_invite => {
                if let Some(relay) = self.calls.relays.get_mut(key) {
                    relay.is_answered = true;
                }
                self.calls.timers.set(key.index(), cx.now.after(T1_64));
            }
            _ => drop(self.calls.remove(key)),
        }
        true
    }

    /// No response came to a request that was sent on; false if its ticket is none of ours.
    pub(super) fn relay_failed(&mut self, cx: &mut Cx<'_>, ticket: Ticket, failure: Failure) -> bool {
        let Some(key) = relay_of(ticket) else { return false };
        let Some(relay) = self.calls.remove(key) else { return true };
        cx.refuse(Counter::SipRelayFailed, "sip.call.failed", format_args!("side=sip failure={failure:?}"));
        // One that was answered hears of further phones no more; and who waits for the answer
        // to another request than INVITE has given up by now (RFC 4320 section 4.2).
        let is_too_late = failure == Failure::Timeout && !relay.is_invite;
        if !relay.is_answered && !is_too_late {
            let answer = match failure {
                Failure::Timeout => Answer::new(408, "The Other Side Did Not Answer In Time", Counter::SipRelayFailed),
                Failure::NotLocated(_) | Failure::Transport(_) | Failure::Certificate | Failure::Overload => {
                    let mut answer = Answer::overload("The Other Side Cannot Be Reached");
                    answer.counter = Counter::SipRelayFailed;
                    answer
                }
            };
            self.respond(cx, relay.transaction, &answer.because(Some(cause::NOT_NOW)));
        }
        true
    }

    /// An INVITE was cancelled; if it was sent on, so is that.
    pub(super) fn on_cancelled(&mut self, cx: &mut Cx<'_>, transaction: Key) {
        let found = self.calls.relays.iter().find(|(_, relay)| relay.is_invite && relay.transaction == transaction);
        if let Some(key) = found.map(|(key, _)| key) {
            self.sip.cancel(cx, ticket(key));
        }
    }

    /// Deadlines of calls have come.
    pub(super) fn relays_timeout(&mut self, cx: &mut Cx<'_>) {
        while let Some(place) = self.calls.timers.pop_due(cx.now) {
            let Some(key) = self.calls.relays.key_at(place) else { continue };
            let Some(relay) = self.calls.relays.get_mut(key) else { continue };
            if relay.is_answered {
                self.calls.remove(key);
            } else if core::mem::replace(&mut relay.is_given_up, true) {
                self.relay_failed(cx, ticket(key), Failure::Timeout);
            } else {
                // Whoever obeys answers 487; who does not is waited for no longer than this.
                self.calls.timers.set(place, cx.now.after(T1_64));
                self.sip.cancel(cx, ticket(key));
            }
        }
    }

    /// The program ends: calls that are being set up are over.
    pub(super) fn relays_shutdown(&mut self, cx: &mut Cx<'_>) {
        let open: Vec<Key> =
            self.calls.relays.iter().filter(|(_, relay)| !relay.is_answered).map(|(key, _)| key).collect();
        for key in open {
            let Some(relay) = self.calls.remove(key) else { continue };
            if relay.is_invite {
                self.sip.cancel(cx, ticket(key));
            }
            cx.count(Counter::SipRelayFailed);
            self.respond(cx, relay.transaction, &Answer::overload("The Gateway Is Being Shut Down"));
        }
    }
}

fn relay_is_given_up(table: &Table, key: Key) -> bool {
    table.relays.get(key).is_some_and(|relay| relay.is_given_up)
}

impl Call {
    /// The domain that it comes from.
    fn origin_domain(&self) -> &str {
        if self.to_domain == self.provider_domain { self.user.domain() } else { &self.provider_domain }
    }
}

/// What the descriptions in a body offer, the most of it; they may be parts of a multipart.
/// A medium with port 0 is none (RFC 3264 section 6).
fn offered(body: &[u8]) -> Option<What> {
    let has = |kind: &[u8]| {
        body.split(|octet| *octet == b'\n').any(|line| {
            let port = line.strip_prefix(b"m=").and_then(|line| line.strip_prefix(kind));
            port.and_then(|rest| rest.strip_prefix(b" ")).is_some_and(|port| !port.starts_with(b"0 "))
        })
    };
    if has(b"video") { Some(What::Video) } else { has(b"audio").then_some(What::Audio) }
}

/// Lync takes 488 for the end of the call alone, and goes on with what else there is.
fn refusal(denial: Denial) -> Answer {
    Answer::new(488, denial.reason(), denial.counter()).because(Some(denial.diagnostic()))
}

/// A proxy needs to know each of these extensions (RFC 3261 section 16.3), and we know none.
fn check_proxy_require(message: &Message<'_>) -> Result<(), Answer> {
    let unknown: Vec<&str> = message.headers("Proxy-Require").take(32).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Answer::new(420, "Bad Extension", Counter::SipRequestRefused).with("Unsupported", unknown.join(", ")))
}

/// An asserted identity (RFC 3325) is one of the sender's domain, which is proved, or none.
fn check_asserted(message: &Message<'_>) -> Result<(), Answer> {
    let domain = |uri: &str| Uri::parse(uri).ok().filter(Uri::is_sip).map(|uri| uri.host.to_ascii_lowercase());
    let own = domain(message.from().uri);
    let is_foreign = |value: &str| match NameAddr::parse(value) {
        Some(identity) => domain(identity.uri).is_some_and(|host| Some(host) != own),
        None => true,
    };
    if message.headers("P-Asserted-Identity").any(is_foreign) {
        let cause = "P-Asserted-Identity Is Of Another Domain Than From";
        return Err(Answer::new(403, cause, Counter::SipForbidden));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
