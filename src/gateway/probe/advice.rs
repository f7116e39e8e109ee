//! What to do about an outcome that says no more than what it is.

use super::machine::Fault;
use crate::base::trail::Side;
use crate::sip::endpoint::Failure;
use crate::xmpp::server::{Refused, Undelivered};
use crate::xmpp::stanza::Condition;

/// Requests of a SIP domain are refused.
pub(super) const OF_REFUSED_REQUEST: &str = "if that was the domain's own server: let its certificate name the next hop or the domain, or set sip domain DOMAIN peer; if the reason is another: the log has the request";

/// An Edge does not take what comes from us.
pub(super) const OF_REFUSED_DOMAIN: &str = "its administrator has to allow each XMPP domain and say where it is (New-CsAllowedDomain with Domain and ProxyFqdn), and federation for its users";

/// What helps against a stanza that did not arrive.
pub(super) const fn of_undelivered(why: Undelivered) -> &'static str {
    match why {
        Undelivered::NotFound => "check how the domain is written; its owner has to publish SRV _xmpp-server._tcp",
        Undelivered::Unreachable => "its server must be up and take connections; check firewalls on both sides",
        Undelivered::Timeout => "its server is up and too slow, or something between drops what is sent",
        Undelivered::Refused => "the log of this gateway and that of its server say who refused whom and why",
        Undelivered::Overload => "this gateway is full: see show counters, raise the limits or try again later",
        Undelivered::TooLarge => "its server takes no stanza of that size",
        Undelivered::StreamLost => "its server closed the stream: try again; if it happens each time, its log says why",
    }
}

/// A stanza that was not even taken.
pub(super) fn of_refused(refused: Refused) -> Fault {
    match refused {
        Refused::NotPartner => Fault::new(
            "configured",
            Side::Ours,
            "the domain is no partner, and no streams are opened to strangers",
            "set partner DOMAIN type federated",
        ),
        Refused::Overload => {
            Fault::new("sent", Side::Ours, "too much waits for this domain", of_undelivered(Undelivered::Overload))
        }
        Refused::TooLarge { limit } => Fault::new(
            "sent",
            Side::Partner,
            format_args!("its server takes no stanza above {limit} octets"),
            of_undelivered(Undelivered::TooLarge),
        ),
        Refused::Failed(why) => Fault::new(
            "sent",
            Side::Partner,
            format_args!("it failed a moment ago: {}", crate::xmpp::status::in_words(why)),
            of_undelivered(why),
        ),
    }
}

/// A request that got no answer.
pub(super) fn of_failure(failure: Failure) -> Fault {
    let (step, side, text, advice) = match failure {
        Failure::Timeout => (
            "round-trip",
            Side::Partner,
            "nobody answered in time".to_owned(),
            "the peer must be up; look whether a firewall drops what is sent, and into its log",
        ),
        Failure::Transport(why) => (
            "tcp",
            Side::Network,
            format!("no connection: {}", why.reason()),
            "the peer must be up and take connections there; check the next hop and firewalls on both sides",
        ),
        Failure::NotLocated(_) => (
            "dns",
            Side::Dns,
            "there is no address to send it to".to_owned(),
            "publish the domain's SRV records, or set sip domain DOMAIN next-hop",
        ),
        Failure::Certificate => (
            "tls",
            Side::Partner,
            "its certificate is not believed".to_owned(),
            "the peer's certificate must name the domain or the next hop and come from a CA of ours: set tls trust NAME",
        ),
        Failure::Overload => {
            ("round-trip", Side::Partner, "it said that it is overloaded".to_owned(), "try again later")
        }
    };
    Fault::new(step, side, text, advice)
}

/// What helps against a final answer that a MESSAGE got.
pub(super) const fn of_status(status: u16, by_us: bool) -> &'static str {
    match (status, by_us) {
        (403, true) => {
            "the rules of this gateway forbid it: see policy, user, partner type and the contacts of the recipient"
        }
        (404, true) => "no partner serves the recipient's domain: check the address, or set partner DOMAIN",
        (404 | 604, false) => "its server knows no such user: check the address",
        (408, _) => "its server could not be reached in time: test partner DOMAIN shows where it stops",
        (480 | 600, _) => "no trusted stream, or nobody is there: test partner DOMAIN tells which",
        (403 | 603, false) => "its server or the recipient does not take messages of the sender",
        (416, _) => "write the addresses without sips:",
        (503, _) => "too much is under way: try again later",
        (513, _) => "its server takes no stanza of that size",
        _ => "the log of this gateway has the details",
    }
}

/// What helps against a stanza error that a `<message/>` got.
pub(super) const fn of_condition(condition: Condition, by_us: bool) -> &'static str {
    match (condition, by_us) {
        (Condition::Forbidden, true) => {
            "the rules of this gateway forbid it: see policy, user, partner type and the contacts of the recipient"
        }
        (Condition::RemoteServerNotFound, true) => "the recipient's domain is not served here: set sip domain DOMAIN",
        (Condition::ItemNotFound | Condition::Gone, false) => "the SIP side knows no such user: check the address",
        (Condition::RecipientUnavailable, false) => "the user is known and has no phone that takes messages now",
        (Condition::RemoteServerTimeout | Condition::RemoteServerNotFound, false) => {
            "the SIP side did not answer: test partner with the SIP domain shows where it stops"
        }
        (Condition::Forbidden | Condition::NotAuthorized | Condition::RegistrationRequired, false) => {
            "the SIP side does not take messages of the sender's domain: its administrator has to allow it"
        }
        (Condition::FeatureNotImplemented, false) => {
            "the SIP side takes no MESSAGE: set sip domain DOMAIN im-mode session"
        }
        (Condition::InternalServerError, false) => {
            "the SIP side failed, or its certificate is not believed: test partner with the SIP domain tells which"
        }
        _ => "the log of this gateway has the details",
    }
}
