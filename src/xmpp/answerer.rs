//! The end of a stream that was connected to: the part of [`Stream`] that says what is
//! offered, judges SASL EXTERNAL, and plays the receiving and the authoritative role of
//! server dialback.
//!
//! Nothing is offered, and nothing taken, that the settings of the peer's domain do not
//! allow on the channel as it is.

use super::framer::StreamHeader;
use super::jid::prepare_domain;
use super::ns;
use super::policy::Policy;
use super::server::{Server, Timer, Undelivered, timer};
use super::stanza::{Condition, StanzaError};
use super::stream::{Channel, Ended, Methods, Pair, Side, State, Step, Stream, pair_of};
use super::stream_error::{StreamCondition, StreamFault};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::text::Escaped;
use crate::base::xml::{Node, Tag};
use crate::limits;
use crate::settings::Requirement;
use base64ct::{Base64, Encoding};
use core::time::Duration;

impl Stream {
    /// Answerer: the initiator's header.
    pub(super) fn on_opening_header(&mut self, cx: &mut Cx<'_>, policy: &Policy, header: &StreamHeader) -> Step {
        self.id = cx.rng.token::<24>().to_string();
        let has_features = header.has_features();
        if let Err(fault) = self.take_addresses(policy, header) {
            return self.refuse_header(cx, has_features, fault);
        }
        if self.is_secure() && !self.external && !self.theirs.is_empty() {
            self.judge(cx, policy);
        }
        self.send_header(cx, has_features);
        self.state = State::Open;
        if has_features {
            return self.offer(cx, policy);
        }
        let may = match (&self.channel, self.theirs.as_str()) {
            (Channel::Clear, "") => policy.any_in_the_clear(),
            (Channel::Clear, theirs) => policy.rules_for(theirs).may_dialback_in_the_clear(),
            // The key's own `from` decides.
            (Channel::Secure { .. }, _) => true,
        };
        if !may {
            let cause = "streams without version 1.0, and so without TLS, are not taken";
            return self.fail(cx, StreamFault::new(StreamCondition::UnsupportedVersion, cause));
        }
        Step::Quiet
    }

    /// Takes over who talks to whom, or says what is wrong with it. After SASL both have
    /// to be what was proved; a header that leaves them out means the same as before.
    pub(super) fn take_addresses(&mut self, policy: &Policy, header: &StreamHeader) -> Result<(), StreamFault> {
        let improper = |cause| StreamFault::new(StreamCondition::ImproperAddressing, cause);
        for address in [&header.from, &header.to].into_iter().flatten() {
            if address.local().is_some() || address.resource().is_some() {
                return Err(improper("to or from of the header is no domain"));
            }
        }
        let from = header.from.as_ref().map(|from| from.domain());
        let to = header.to.as_ref().map(|to| to.domain());
        if self.external && from.is_some_and(|from| from != self.theirs) {
            return Err(StreamFault::new(StreamCondition::InvalidFrom, "from changed after authentication"));
        }
        if self.external && to.is_some_and(|to| to != self.ours) {
            return Err(improper("to changed after authentication"));
        }
        if let Some(to) = to {
            self.ours = to.into();
        }
        if let Some(from) = from {
            self.theirs = from.into();
        }
        if self.ours.is_empty() && header.has_features() {
            return Err(improper("header without to"));
        }
        if !self.ours.is_empty() && !policy.serves(&self.ours) {
            return Err(StreamFault::new(StreamCondition::HostUnknown, "domain not served here"));
        }
        if policy.is_ours(&self.theirs) {
            return Err(StreamFault::new(StreamCondition::InvalidFrom, "from is a domain of ours"));
        }
        if policy.is_blocked(&self.theirs) {
            return Err(StreamFault::new(StreamCondition::PolicyViolation, "domain is blocked"));
        }
        Ok(())
    }

    /// Ends the stream over something in its header: an answer header goes first.
    pub(super) fn refuse_header(&mut self, cx: &mut Cx<'_>, versioned: bool, fault: StreamFault) -> Step {
        if !self.header_sent && !self.is_initiator() {
            if self.id.is_empty() {
                self.id = cx.rng.token::<24>().to_string();
            }
            self.send_header(cx, versioned);
        }
        self.fail(cx, fault)
    }

    /// Answerer: sends the features for what the stream is now. If nothing that is
    /// offered could lead anywhere, the stream ends.
    pub(super) fn offer(&mut self, cx: &mut Cx<'_>, policy: &Policy) -> Step {
        let rules = policy.rules_for(&self.theirs);
        let proved = !self.proved.is_empty();
        let starttls = !self.is_secure() && rules.tls != Requirement::NotSupported;
        let required = starttls && !rules.may_dialback_in_the_clear();
        let external = !proved && self.believed() && rules.may_sasl();
        let dialback = !proved && self.may_dialback(policy, &self.theirs);
        let idle_seconds = u64::from(policy.xmpp.stream_inactivity_timeout_s);
        self.methods = Methods { external, dialback };
        self.write(cx, |w| {
            Tag::begin(w, "stream:features").content(|w| {
                if starttls {
                    Tag::begin(w, "starttls").namespace(ns::TLS).content(|w| {
                        if required {
                            w.str("<required/>");
                        }
                    });
                }
                if external {
                    Tag::begin(w, "mechanisms").namespace(ns::SASL).content(|w| {
                        Tag::begin(w, "mechanism").text("EXTERNAL");
                    });
                }
                if dialback {
                    Tag::begin(w, "dialback").namespace(ns::DIALBACK_FEATURE).content(|w| {
                        w.str("<errors/>");
                    });
                }
                if proved {
                    Tag::begin(w, "sm").namespace(ns::MANAGEMENT).empty();
                } else {
                    Tag::begin(w, "bidi").namespace(ns::BIDI_FEATURE).empty();
                }
                Tag::begin(w, "limits").namespace(ns::STREAM_LIMITS).content(|w| {
                    w.str("<max-bytes>").number(limits::STANZA_OCTETS_MAX as u64).str("</max-bytes>");
                    w.str("<idle-seconds>").number(idle_seconds).str("</idle-seconds>");
                });
            });
        });
        if proved {
            return Step::Proved;
        }
        if !starttls && !external && !dialback {
            let cause = "your certificate does not prove your domain, and dialback is not taken";
            return self.fail(cx, StreamFault::new(StreamCondition::NotAuthorized, cause));
        }
        Step::Quiet
    }

    /// Answerer: `<starttls/>`.
    pub(super) fn on_starttls(&mut self, cx: &mut Cx<'_>, policy: &Policy) -> Step {
        let rules = policy.rules_for(&self.theirs);
        let may = !self.is_secure() && rules.tls != Requirement::NotSupported;
        if may && self.proved.is_empty() && self.asked.is_empty() {
            self.write(cx, |w| Tag::begin(w, "proceed").namespace(ns::TLS).empty());
            self.bidi = false;
            self.start_tls(cx, "");
            return Step::Quiet;
        }
        cx.refuse(
            Counter::StreamFailed,
            "xmpp.starttls.out-of-place",
            format_args!("partner={} side=partner", Escaped(&self.theirs)),
        );
        self.write(cx, |w| Tag::begin(w, "failure").namespace(ns::TLS).empty());
        self.end(cx);
        Step::Ended(Ended::new(Undelivered::Refused))
    }

    /// Answerer: `<auth/>`, or what else there is of SASL.
    pub(super) fn on_sasl_request(&mut self, cx: &mut Cx<'_>, request: Node<'_>) -> Step {
        match self.check_sasl(request) {
            Ok(()) => {
                self.write(cx, |w| Tag::begin(w, "success").namespace(ns::SASL).empty());
                let (ours, theirs) = (self.ours.clone(), self.theirs.clone());
                self.forget();
                self.prove(Pair { ours, theirs });
                self.external = true;
                self.state = State::Header;
                Step::Quiet
            }
            Err(condition) => self.refuse_sasl(cx, condition),
        }
    }

    /// Is it SASL EXTERNAL for the domain that the certificate names?
    pub(super) fn check_sasl(&self, request: Node<'_>) -> Result<(), &'static str> {
        if request.name() != "auth" {
            return Err(if request.name() == "abort" { "aborted" } else { "malformed-request" });
        }
        if !self.is_secure() {
            return Err("encryption-required");
        }
        if request.attribute("mechanism") != Some("EXTERNAL") {
            return Err("invalid-mechanism");
        }
        // Offered only where the certificate names the peer and policy allows it.
        if !self.methods.external || !self.proved.is_empty() {
            return Err("not-authorized");
        }
        let text = request.text();
        match text.trim() {
            "" => Err("malformed-request"),
            "=" => Ok(()),
            text if text.len() > 2048 => Err("malformed-request"),
            text => {
                let name = Base64::decode_vec(text).map_err(|_| "incorrect-encoding")?;
                let name = String::from_utf8(name).map_err(|_| "incorrect-encoding")?;
                let same = prepare_domain(&name).is_ok_and(|name| name == self.theirs);
                if same || name.is_empty() { Ok(()) } else { Err("invalid-authzid") }
            }
        }
    }

    pub(super) fn refuse_sasl(&mut self, cx: &mut Cx<'_>, condition: &'static str) -> Step {
        self.refusals += 1;
        cx.refuse(
            Counter::StreamFailed,
            "xmpp.sasl.denied",
            format_args!("partner={} condition={condition} side=partner", Escaped(&self.theirs)),
        );
        self.write(cx, |w| {
            Tag::begin(w, "failure").namespace(ns::SASL).content(|w| {
                Tag::begin(w, condition).empty();
            });
        });
        // Dialback may still follow on the same stream.
        if self.methods.dialback && self.refusals < SASL_ATTEMPTS_MAX {
            return Step::Quiet;
        }
        self.fail(cx, StreamFault::new(StreamCondition::NotAuthorized, "authentication failed"))
    }

    /// Answerer: `<bidi/>`. It takes effect for the pair that is proved after it.
    pub(super) fn on_bidi(&mut self, cx: &mut Cx<'_>) -> Step {
        if !self.proved.is_empty() || !self.asked.is_empty() {
            let cause = "bidi after authentication";
            return self.fail(cx, StreamFault::new(StreamCondition::PolicyViolation, cause));
        }
        self.bidi = true;
        Step::Quiet
    }

    /// Answerer: `<db:result/>`, a key.
    pub(super) fn on_dialback_result(&mut self, cx: &mut Cx<'_>, result: Node<'_>) -> Step {
        if result.attribute("type").is_some() {
            return self.unasked(cx, result, "result on a stream of the peer's");
        }
        let Some(pair) = pair_of(result) else {
            let cause = "dialback without to or from";
            return self.fail(cx, StreamFault::new(StreamCondition::ImproperAddressing, cause));
        };
        let key = result.text().trim().to_owned();
        Step::KeyShown { pair, key }
    }

    /// Answerer, authoritative role: `<db:verify/>`, is this key ours? Needs no memory of
    /// the stream: the key is made again.
    pub(super) fn on_dialback_verify(&mut self, cx: &mut Cx<'_>, policy: &Policy, verify: Node<'_>) -> Step {
        if verify.attribute("type").is_some() {
            return self.unasked(cx, verify, "verdict on a stream of the peer's");
        }
        let (Some(pair), Some(id)) = (pair_of(verify), verify.attribute("id")) else {
            let cause = "dialback without to, from or id";
            return self.fail(cx, StreamFault::new(StreamCondition::ImproperAddressing, cause));
        };
        if !policy.serves(&pair.ours) {
            cx.refuse(
                Counter::HostUnknown,
                "xmpp.dialback.host-unknown",
                format_args!("partner={} domain={} side=partner", Escaped(&pair.theirs), Escaped(&pair.ours)),
            );
            self.answer_dialback(cx, "db:verify", &pair, Some(id), Err(Condition::ItemNotFound));
            return Step::Quiet;
        }
        let valid = policy.keys.is_ours(verify.text().trim(), &pair.theirs, &pair.ours, id);
        if !valid {
            cx.refuse(
                Counter::DialbackInvalid,
                "xmpp.dialback.imposter",
                format_args!(
                    "partner={} ours={} cause={} side=partner",
                    Escaped(&pair.theirs),
                    Escaped(&pair.ours),
                    Escaped("somebody showed it a key for our domain that is not ours"),
                ),
            );
        }
        self.answer_dialback(cx, "db:verify", &pair, Some(id), Ok(valid));
        Step::Quiet
    }

    /// Answers a dialback element: valid, invalid, or an error.
    pub(super) fn answer_dialback(
        &mut self,
        cx: &mut Cx<'_>,
        name: &'static str,
        pair: &Pair,
        id: Option<&str>,
        answer: Result<bool, Condition>,
    ) {
        let type_ = match answer {
            Ok(true) => "valid",
            Ok(false) => "invalid",
            Err(_) => "error",
        };
        self.write(cx, |w| {
            let tag = Tag::begin(w, name)
                .attribute("from", &pair.ours)
                .attribute("to", &pair.theirs)
                .maybe("id", id)
                .attribute("type", type_);
            match answer {
                Ok(_) => tag.empty(),
                Err(condition) => tag.content(|w| StanzaError::new(condition).emit(w)),
            }
        });
    }
}

/// How often a peer may fail at SASL on one stream (RFC 6120 section 6.4.5 wants two at
/// least).
const SASL_ATTEMPTS_MAX: u8 = 3;

/// How long a stranger may keep its place when all places of strangers are taken.
const STRANGER_TIME: Duration = Duration::from_secs(2);

impl Server {
    /// Makes room for a newcomer, who may be a partner: the stranger goes who is here
    /// longest and proved nothing all that time. A partner proves itself within a second
    /// or two; a flood that holds every place of strangers would keep it out for ever.
    pub(super) fn drop_stranger(&mut self, cx: &mut Cx<'_>) -> bool {
        let had_time = cx.now.after(self.establishment().saturating_sub(STRANGER_TIME));
        let strangers = self
            .streams
            .iter()
            .filter(|(_, stream)| matches!(stream.side, Side::Answerer { .. }) && stream.proved.is_empty());
        let oldest = strangers
            .filter_map(|(key, _)| Some((self.timers.of(timer(key, Timer::Progress))?, key)))
            .min_by_key(|(due, _)| *due);
        let Some((_, key)) = oldest.filter(|(due, _)| *due <= had_time) else { return false };
        let fault = StreamFault::new(StreamCondition::ResourceConstraint, "others wait, and it proved nothing");
        let step = self.streams.get_mut(key).map_or(Step::Quiet, |stream| stream.fail(cx, fault));
        self.on_step(cx, key, step);
        true
    }
}
