//! Server Dialback (XEP-0220): the keys (XEP-0185), and how the keys of partners are
//! confirmed.
//!
//! A key is bound to the receiving domain, the originating domain and the stream id,
//! so the authoritative server need not remember which streams it opened: it makes
//! the key again and compares. Who knows one key can make no other.
//!
//! A partner's key is confirmed over a stream of our own to the partner's domain, never
//! over the one it was shown on. A verdict counts only if it comes on the stream that the
//! question went out on, for the pair and the stream id that were asked about
//! (CVE-2012-3525).

use super::server::{Server, Undelivered};
use super::stanza::Condition;
use super::stream::{Pair, Side, State, Step, Verdict};
use super::stream_error::{StreamCondition, StreamFault};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::slab::Key;
use crate::base::text::{Escaped, hex_lower, hex_value};
use crate::limits;
use core::time::Duration;
use ring::{digest, hmac};

/// A key that a partner showed us and that is being confirmed.
#[derive(Debug)]
pub(super) struct Verification {
    /// The stream it was shown on.
    shown_on: Key,
    /// That stream's id.
    id: String,
    /// The domains.
    pair: Pair,
    key: String,
    /// The stream its authoritative server was asked on.
    asked_on: Option<Key>,
    /// How often it was asked.
    tries: u8,
}

/// REQ-XC-35: an authoritative server has so long to answer.
const VERIFICATION_MAX: Duration = Duration::from_secs(30);
/// A stream of ours may have died unseen: then the question goes out once more, on a new
/// one.
const TRIES_MAX: u8 = 2;

/// Each key a peer shows makes us look up and connect to a domain of its choice
/// (REQ-XC-35): a stream gets room for every pair it may have, and for as many mistakes.
const KEYS_PER_STREAM_MAX: usize = 2 * limits::STREAM_PAIRS_MAX;

impl Server {
    /// Receiving role: a partner shows a key for a pair of domains.
    pub(super) fn on_key_shown(&mut self, cx: &mut Cx<'_>, key: Key, pair: Pair, shown: String) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if self.policy.is_ours(&pair.theirs) {
            let fault = StreamFault::new(StreamCondition::InvalidFrom, "dialback for a domain of ours");
            let step = stream.fail(cx, fault);
            self.on_step(cx, key, step);
            return;
        }
        if stream.has_proved(&pair.ours, &pair.theirs) {
            stream.answer_dialback(cx, "db:result", &pair, None, Ok(true));
            return;
        }
        if stream.asked.contains(&pair) {
            return;
        }
        let refusal = if !self.policy.serves(&pair.ours) {
            Some((Condition::ItemNotFound, Counter::HostUnknown, "domain not served here"))
        } else if self.policy.is_blocked(&pair.theirs) {
            Some((Condition::PolicyViolation, Counter::NotPartner, "domain is blocked"))
        } else if !stream.may_dialback(&self.policy, &pair.theirs) {
            Some((Condition::PolicyViolation, Counter::StreamFailed, "dialback is not taken on this stream"))
        } else if shown.is_empty() || shown.len() > limits::DIALBACK_KEY_OCTETS_MAX {
            Some((Condition::NotAcceptable, Counter::DialbackInvalid, "no key"))
        } else if stream.proved.len() + stream.asked.len() >= limits::STREAM_PAIRS_MAX
            || stream.asked.len() >= limits::VERIFICATIONS_PER_STREAM_MAX
            || stream.keys_shown >= KEYS_PER_STREAM_MAX
            || self.verifications.is_full()
        {
            Some((Condition::ResourceConstraint, Counter::StreamLimit, "too many keys to confirm"))
        } else {
            None
        };
        if let Some((condition, counter, cause)) = refusal {
            cx.refuse(
                counter,
                "xmpp.dialback.denied",
                format_args!(
                    "partner={} ours={} cause={} side=partner",
                    Escaped(&pair.theirs),
                    Escaped(&pair.ours),
                    Escaped(cause)
                ),
            );
            stream.answer_dialback(cx, "db:result", &pair, None, Err(condition));
            return;
        }
        stream.asked.push(pair.clone());
        stream.keys_shown += 1;
        if stream.ours.is_empty() && stream.theirs.is_empty() {
            // A header without addresses: the first key says who talks to whom.
            (stream.ours, stream.theirs) = (pair.ours.clone(), pair.theirs.clone());
        }
        let id = stream.id.clone();
        let verification = Verification { shown_on: key, id, pair: pair.clone(), key: shown, asked_on: None, tries: 0 };
        let Ok(verification) = self.verifications.insert(verification) else { return };
        self.set_verification_timer(verification, Some(cx.now.after(VERIFICATION_MAX)));
        match self.route_or_new(cx, &pair.ours, &pair.theirs) {
            Some(route) => {
                if let Some(route) = self.routes.get_mut(route) {
                    route.verifications.push(verification);
                }
                self.advance(cx, route);
            }
            None => self.conclude(cx, verification, Err(Condition::ResourceConstraint)),
        }
    }

    /// Asks the partner's server about all keys that wait on a route.
    pub(super) fn send_verifications(&mut self, cx: &mut Cx<'_>, route: Key, on: Key) {
        let Some(stream) = self.streams.get_mut(on) else { return };
        if stream.state != State::Open || !matches!(stream.side, Side::Initiator { .. }) {
            return;
        }
        let Some(route) = self.routes.get_mut(route) else { return };
        for key in core::mem::take(&mut route.verifications) {
            let Some(verification) = self.verifications.get_mut(key) else { continue };
            verification.asked_on = Some(on);
            verification.tries += 1;
            stream.verifying += 1;
            stream.ask_about(cx, &verification.pair, &verification.id, &verification.key);
        }
    }

    /// Receiving role: an authoritative server says whether a key is its own.
    pub(super) fn on_verdict(&mut self, cx: &mut Cx<'_>, on: Key, pair: &Pair, id: &str, verdict: Verdict) {
        let asked = |v: &Verification| v.asked_on == Some(on) && v.pair == *pair && v.id == id;
        let Some(key) = self.verifications.iter().find(|(_, v)| asked(v)).map(|(key, _)| key) else {
            cx.refuse(
                Counter::DialbackInvalid,
                "xmpp.dialback.unasked",
                format_args!(
                    "element=verify from={} to={} cause=not-asked side=partner",
                    Escaped(&pair.theirs),
                    Escaped(&pair.ours)
                ),
            );
            return;
        };
        self.conclude(
            cx,
            key,
            match verdict {
                Verdict::Valid => Ok(true),
                Verdict::Invalid => Ok(false),
                Verdict::Error => Err(Condition::RemoteServerNotFound),
            },
        );
        // The stream may be free to prove ourselves now.
        if let Some(route) = self.route_of(&pair.ours, &pair.theirs) {
            self.advance(cx, route);
        }
    }

    /// Ends a verification and tells the partner.
    fn conclude(&mut self, cx: &mut Cx<'_>, key: Key, answer: Result<bool, Condition>) {
        self.set_verification_timer(key, None);
        let Some(Verification { shown_on, pair, asked_on, .. }) = self.verifications.remove(key) else { return };
        if let Some(stream) = asked_on.and_then(|on| self.streams.get_mut(on)) {
            stream.verifying = stream.verifying.saturating_sub(1);
        }
        let Some(stream) = self.streams.get_mut(shown_on).filter(|stream| stream.state == State::Open) else {
            return;
        };
        stream.asked.retain(|asked| *asked != pair);
        stream.answer_dialback(cx, "db:result", &pair, None, answer);
        match answer {
            Ok(true) => {
                let is_first = stream.proved.is_empty();
                if is_first {
                    (stream.ours, stream.theirs) = (pair.ours.clone(), pair.theirs.clone());
                }
                stream.prove(pair);
                if is_first {
                    self.on_step(cx, shown_on, Step::Proved);
                }
            }
            Ok(false) => {
                cx.refuse(
                    Counter::DialbackInvalid,
                    "xmpp.dialback.invalid",
                    format_args!(
                        "partner={} ours={} cause={} side=partner",
                        Escaped(&pair.theirs),
                        Escaped(&pair.ours),
                        Escaped("its server says that the key is not its own")
                    ),
                );
                if stream.proved.is_empty() && stream.asked.is_empty() {
                    self.end_stream(cx, shown_on, super::stream::Ended::new(Undelivered::Refused));
                }
            }
            Err(condition) => cx.refuse(
                Counter::StreamFailed,
                "xmpp.dialback.unconfirmed",
                format_args!(
                    "partner={} ours={} condition={} side=partner",
                    Escaped(&pair.theirs),
                    Escaped(&pair.ours),
                    condition.name()
                ),
            ),
        }
    }

    /// No verdict in time. The stream that was asked on answers nothing: it is dead.
    pub(super) fn verification_timed_out(&mut self, cx: &mut Cx<'_>, key: Key) {
        let asked_on = self.verifications.get(key).and_then(|verification| verification.asked_on);
        self.conclude(cx, key, Err(Condition::RemoteServerTimeout));
        let silent = asked_on.and_then(|on| self.streams.get(on)).is_some_and(|stream| {
            cx.now.since(stream.last_in) >= VERIFICATION_MAX.saturating_sub(Duration::from_secs(1))
        });
        if let Some(on) = asked_on.filter(|_| silent) {
            self.dead(cx, on, "no answer to a dialback verification");
        }
    }

    /// No stream to the partner came up.
    pub(super) fn verification_failed(&mut self, cx: &mut Cx<'_>, key: Key, why: Undelivered) {
        let condition = match why {
            Undelivered::NotFound => Condition::RemoteServerNotFound,
            Undelivered::Overload => Condition::ResourceConstraint,
            _ => Condition::RemoteServerTimeout,
        };
        self.conclude(cx, key, Err(condition));
    }

    /// A stream is gone. Keys that were shown on it matter no more; those that were asked
    /// about on it are asked about again, once.
    pub(super) fn release_verifications(&mut self, cx: &mut Cx<'_>, stream: Key) {
        let concerned = |v: &Verification| v.shown_on == stream || v.asked_on == Some(stream);
        let keys: Vec<Key> = self.verifications.iter().filter(|(_, v)| concerned(v)).map(|(key, _)| key).collect();
        for key in keys {
            let Some(verification) = self.verifications.get_mut(key) else { continue };
            if verification.shown_on == stream {
                self.conclude(cx, key, Err(Condition::RemoteServerTimeout));
            } else if verification.tries < TRIES_MAX {
                verification.asked_on = None;
                let pair = verification.pair.clone();
                let route = self.route_of(&pair.ours, &pair.theirs);
                if let Some(route) = route.and_then(|route| self.routes.get_mut(route)) {
                    route.verifications.push(key);
                }
            } else {
                self.conclude(cx, key, Err(Condition::RemoteServerTimeout));
            }
        }
    }
}

/// Makes and checks the keys of all our domains.
#[derive(Clone)]
pub(super) struct Keys(hmac::Key);

impl core::fmt::Debug for Keys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Keys(secret)")
    }
}

impl Keys {
    /// Keys from the secret; the HMAC key is the hex text of its SHA-256.
    pub(super) fn new(secret: &[u8]) -> Self {
        let text = hex_lower(digest::digest(&digest::SHA256, secret).as_ref());
        Self(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes()))
    }

    /// The key for a stream with the given id from `originating` to `receiving`.
    pub(super) fn key(&self, receiving: &str, originating: &str, id: &str) -> String {
        hex_lower(hmac::sign(&self.0, text(receiving, originating, id).as_bytes()).as_ref())
    }

    /// Is `key` the one we gave out for that stream? Takes the same time for every
    /// wrong key.
    pub(super) fn is_ours(&self, key: &str, receiving: &str, originating: &str, id: &str) -> bool {
        let mut tag = [0; 32];
        let digits = key.as_bytes();
        if digits.len() != 2 * tag.len() {
            return false;
        }
        for (octet, pair) in tag.iter_mut().zip(digits.chunks_exact(2)) {
            let (Some(high), Some(low)) = (hex_value(pair[0]), hex_value(pair[1])) else { return false };
            *octet = high << 4 | low;
        }
        hmac::verify(&self.0, text(receiving, originating, id).as_bytes(), &tag).is_ok()
    }
}

/// What is signed: `receiving SP originating SP stream-id`.
fn text(receiving: &str, originating: &str, id: &str) -> String {
    [receiving, originating, id].join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_xep_0185_comes_out() {
        let keys = Keys::new(b"s3cr3tf0rd14lb4ck");
        let key = keys.key("xmpp.example.com", "example.org", "D60000229F");
        assert_eq!(key, "37c69b1cf07a3f67c04a5ef5902fa5114f2c76fe4a2686482ba5b89323075643");
        assert!(keys.is_ours(&key, "xmpp.example.com", "example.org", "D60000229F"));
    }

    #[test]
    fn a_key_fits_one_pair_one_id_and_one_secret() {
        let keys = Keys::new(b"one");
        let key = keys.key("a.example", "b.example", "1");
        assert!(!keys.is_ours(&key, "b.example", "a.example", "1"));
        assert!(!keys.is_ours(&key, "a.example", "b.example", "2"));
        assert!(!Keys::new(b"two").is_ours(&key, "a.example", "b.example", "1"));
        assert!(!keys.is_ours("", "a.example", "b.example", "1"));
        assert!(!keys.is_ours(&key[1..], "a.example", "b.example", "1"));
    }

    #[test]
    fn the_secret_shows_nowhere() {
        assert_eq!(format!("{:?}", Keys::new(b"one")), "Keys(secret)");
    }
}
