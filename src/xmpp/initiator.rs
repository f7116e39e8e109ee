//! The end of a stream that opened it: the part of [`Stream`] that answers what the
//! answerer offers, proves ourselves, and turns on acknowledgements; and that of a
//! component.
//!
//! The way is chosen in two steps, [`Stream::on_features`] and [`Stream::ready`], from what
//! the partner's settings allow. TLS that is required is never given up for clear text.

use super::component;
use super::framer::StreamHeader;
use super::ns;
use super::policy::Policy;
use super::server::Undelivered;
use super::stanza::StanzaError;
use super::stream::{Channel, Ended, Methods, Offers, Pair, State, Step, Stream, Verdict, Without, pair_of};
use super::stream_error::{StreamCondition, StreamFault};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::text::Escaped;
use crate::base::trail;
use crate::base::xml::{Node, Tag};
use crate::limits;
use crate::settings::Requirement;
use base64ct::{Base64, Encoding};

impl Stream {
    /// Initiator: the answerer's header.
    pub(super) fn on_answer_header(&mut self, cx: &mut Cx<'_>, policy: &Policy, header: StreamHeader) -> Step {
        let has_features = header.has_features();
        self.id = header.id.unwrap_or_default();
        if has_features {
            self.state = State::Features;
            return Step::Quiet;
        }
        // A server from before XMPP 1.0: no features, no TLS, dialback at once.
        cx.debug("xmpp.stream.legacy", format_args!("partner={} side=partner", Escaped(&self.theirs)));
        self.ready(cx, policy)
    }

    /// Component: the server's header.
    pub(super) fn on_component_header(&mut self, cx: &mut Cx<'_>, policy: &Policy, header: StreamHeader) -> Step {
        let (Some(id), Some(component)) = (header.id, policy.component_of(&self.ours)) else {
            return self.fail(cx, StreamFault::new(StreamCondition::BadFormat, "header without an id"));
        };
        let proof = component::handshake(&id, &component.secret);
        self.id = id;
        self.state = State::Handshake;
        self.write(cx, |w| Tag::begin(w, "handshake").text(&proof));
        Step::Quiet
    }

    /// Initiator: the features came.
    pub(super) fn on_features(&mut self, cx: &mut Cx<'_>, policy: &Policy, features: Node<'_>) -> Step {
        self.offers = Offers::parse(features);
        if !self.external {
            let offers = &self.offers;
            let all = [
                (offers.starttls, "STARTTLS"),
                (offers.external, "EXTERNAL"),
                (offers.dialback_errors, "dialback"),
                (offers.bidi, "bidi"),
                (offers.management, "acknowledgements"),
            ];
            let names: Vec<&str> = all.iter().filter(|(offered, _)| *offered).map(|(_, name)| *name).collect();
            let (place, names) = (if self.is_secure() { "over TLS" } else { "in the clear" }, names.join(", "));
            let what = if names.is_empty() { "nothing of use" } else { &names };
            cx.out.trail.noted(&[&self.theirs], trail::Step::Identity, format_args!("it offers {place}: {what}"));
        }
        if self.external {
            return self.enable(cx);
        }
        let rules = policy.rules_for(&self.theirs);
        if self.is_secure() || rules.tls == Requirement::NotSupported || self.without.tls {
            return self.ready(cx, policy);
        }
        // A missing offer may be an attacker's work: TLS is tried all the same where
        // nothing else is allowed (RFC 7590 section 3.1).
        if self.offers.starttls || !rules.may_dialback_in_the_clear() {
            self.state = State::StartTls;
            self.write(cx, |w| Tag::begin(w, "starttls").namespace(ns::TLS).empty());
            return Step::Quiet;
        }
        cx.info("xmpp.stream.no-tls", format_args!("partner={} side=partner", Escaped(&self.theirs)));
        self.ready(cx, policy)
    }

    pub(super) fn on_tls_answer(&mut self, cx: &mut Cx<'_>, policy: &Policy, answer: Node<'_>) -> Step {
        if answer.name() == "proceed" {
            self.start_tls(cx, "");
            return Step::Quiet;
        }
        let may = policy.rules_for(&self.theirs).may_dialback_in_the_clear();
        cx.refuse(
            Counter::StreamFailed,
            "xmpp.starttls.refused",
            format_args!(
                "partner={} side=partner then={}",
                Escaped(&self.theirs),
                if may { "clear" } else { "given-up" }
            ),
        );
        self.trail_failed(
            cx,
            trail::Step::Tls,
            trail::Side::Partner,
            format_args!("its server refused STARTTLS"),
            "its server has to offer TLS, or: set partner DOMAIN tls optional",
        );
        self.close(cx);
        let retry = may.then_some(Without { tls: true, ..self.without });
        Step::Ended(Ended { why: Undelivered::Refused, retry })
    }

    /// Initiator: as secure as it gets before we prove ourselves.
    pub(super) fn ready(&mut self, cx: &mut Cx<'_>, policy: &Policy) -> Step {
        let rules = policy.rules_for(&self.theirs);
        let believed = self.believed();
        let external = self.offers.external && believed && rules.may_sasl() && !self.without.external;
        self.methods = Methods { external, dialback: self.may_dialback(policy, &self.theirs) };
        if self.methods.external || self.methods.dialback {
            self.state = State::Open;
            return Step::Ready;
        }
        let cause = match &self.channel {
            Channel::Clear => "no TLS, and dialback in the clear is not allowed",
            Channel::Secure { .. } if !believed => "certificate not believed, and dialback is not allowed",
            // The partner offers it only to certificates it believes.
            Channel::Secure { .. } => "SASL EXTERNAL not offered (does the partner trust our certificate?)",
        };
        self.fail(cx, StreamFault::new(StreamCondition::PolicyViolation, cause))
    }

    /// Initiator: can [`Self::authenticate`] be called?
    pub(super) fn can_authenticate(&self) -> bool {
        let idle = self.state == State::Open && self.proved.is_empty() && self.asked.is_empty();
        // A restart would lose the answers that are due.
        idle && (!self.methods.external || self.verifying == 0)
    }

    /// Initiator: begins to prove ourselves.
    pub(super) fn authenticate(&mut self, cx: &mut Cx<'_>, policy: &Policy) {
        // What comes back on this stream would be proved by the certificate alone.
        if self.offers.bidi && self.believed() {
            self.bidi = true;
            self.write(cx, |w| Tag::begin(w, "bidi").namespace(ns::BIDI).empty());
        }
        if self.methods.external {
            self.state = State::External;
            let name = Base64::encode_string(self.ours.as_bytes());
            self.write(cx, |w| {
                Tag::begin(w, "auth").namespace(ns::SASL).attribute("mechanism", "EXTERNAL").text(&name);
            });
        } else {
            self.show_key(cx, policy, Pair { ours: self.ours.clone(), theirs: self.theirs.clone() });
        }
    }

    /// Initiator: shows the dialback key of a pair.
    pub(super) fn show_key(&mut self, cx: &mut Cx<'_>, policy: &Policy, pair: Pair) {
        let key = policy.keys.key(&pair.theirs, &pair.ours, &self.id);
        self.write(cx, |w| {
            Tag::begin(w, "db:result").attribute("from", &pair.ours).attribute("to", &pair.theirs).text(&key);
        });
        self.asked.push(pair);
    }

    /// Initiator: the answer to our `<auth/>`.
    pub(super) fn on_sasl_answer(&mut self, cx: &mut Cx<'_>, policy: &Policy, answer: Node<'_>) -> Step {
        if answer.name() == "success" {
            self.forget();
            self.external = true;
            self.send_header(cx, true);
            self.state = State::Header;
            return Step::Quiet;
        }
        if answer.name() == "challenge" {
            // A server that wants the name again, in an answer of its own.
            let name = Base64::encode_string(self.ours.as_bytes());
            self.write(cx, |w| Tag::begin(w, "response").namespace(ns::SASL).text(&name));
            self.refusals += 1;
            return if self.refusals > 2 {
                self.fail(cx, StreamFault::new(StreamCondition::PolicyViolation, "too many challenges"))
            } else {
                Step::Quiet
            };
        }
        let condition = answer.children().find(|child| child.name() != "text").map_or("", |child| child.name());
        cx.refuse(
            Counter::StreamFailed,
            "xmpp.sasl.refused",
            format_args!(
                "partner={} ours={} condition={} side=ours then={} advice={}",
                Escaped(&self.theirs),
                Escaped(&self.ours),
                Escaped(condition),
                if self.methods.dialback { "dialback" } else { "given-up" },
                Escaped("the partner has to trust our certificate for this domain"),
            ),
        );
        let text = format_args!("it refused EXTERNAL: {condition}");
        let advice = "our certificate must name our domain and come from a CA that the partner trusts";
        if self.methods.dialback {
            cx.out.trail.noted(&[&self.theirs], trail::Step::Identity, format_args!("{text}; dialback is tried"));
        } else {
            self.trail_failed(cx, trail::Step::Identity, trail::Side::Ours, text, advice);
        }
        self.external_failed = true;
        self.methods.external = false;
        self.state = State::Open;
        if self.methods.dialback {
            self.show_key(cx, policy, Pair { ours: self.ours.clone(), theirs: self.theirs.clone() });
            return Step::Quiet;
        }
        self.end(cx);
        Step::Ended(Ended::new(Undelivered::Refused))
    }

    /// Initiator: proved; asks for acknowledgements where the peer has them.
    pub(super) fn enable(&mut self, cx: &mut Cx<'_>) -> Step {
        if !self.offers.management {
            return self.prove_first();
        }
        self.state = State::Enabling;
        let bidi = self.bidi;
        let resume = self.resume.take();
        self.resuming = resume.is_some();
        match resume {
            Some((id, handled)) => self.write(cx, |w| {
                Tag::begin(w, "resume")
                    .namespace(ns::MANAGEMENT)
                    .attribute("previd", &id)
                    .attribute("h", &handled.to_string())
                    .empty();
            }),
            None => self.write(cx, |w| {
                // What the peer sent on a stream that goes both ways could not be told
                // apart after a resumption: handles belong to one stream.
                let resume = (!bidi).then_some("true");
                Tag::begin(w, "enable").namespace(ns::MANAGEMENT).maybe("resume", resume).empty();
            }),
        }
        Step::Quiet
    }

    /// Initiator: `<db:result type='...'/>` or `<db:verify type='...'/>`.
    pub(super) fn on_dialback_answer(&mut self, cx: &mut Cx<'_>, answer: Node<'_>) -> Step {
        let (Some(pair), Some(type_)) = (pair_of(answer), answer.attribute("type")) else {
            return self.unasked(cx, answer, "no answer, on a stream of ours");
        };
        let verdict = match type_ {
            "valid" => Verdict::Valid,
            "invalid" => Verdict::Invalid,
            _ => Verdict::Error,
        };
        if answer.name() == "verify" {
            let id = answer.attribute("id").unwrap_or_default().to_owned();
            return Step::Verdict { pair, id, verdict };
        }
        let Some(place) = self.asked.iter().position(|asked| *asked == pair) else {
            return self.unasked(cx, answer, "result of a pair not asked for");
        };
        self.asked.remove(place);
        let valid = verdict == Verdict::Valid;
        if !valid {
            self.log_refused_key(cx, &pair, answer, type_);
        }
        let is_first = pair.ours == self.ours && pair.theirs == self.theirs;
        match (is_first, valid) {
            (true, true) => self.enable(cx),
            (true, false) if self.proved.is_empty() => {
                self.end(cx);
                Step::Ended(Ended { why: Undelivered::Refused, retry: None })
            }
            _ => {
                if valid {
                    self.prove(pair.clone());
                }
                Step::Judged { pair, valid }
            }
        }
    }

    pub(super) fn log_refused_key(&self, cx: &mut Cx<'_>, pair: &Pair, answer: Node<'_>, type_: &str) {
        let condition = StanzaError::parse(answer).map_or("", |error| error.condition.name());
        self.trail_failed(
            cx,
            trail::Step::Identity,
            trail::Side::Ours,
            format_args!("it refused our dialback key for {}: {type_} {condition}", pair.ours),
            "it asks the server that DNS names for our domain: SRV _xmpp-server._tcp of it and port 5269 must lead here",
        );
        cx.refuse(
            Counter::StreamFailed,
            "xmpp.dialback.refused",
            format_args!(
                "partner={} ours={} type={} condition={} side=partner advice={}",
                Escaped(&pair.theirs),
                Escaped(&pair.ours),
                Escaped(type_),
                condition,
                Escaped("the partner asks the server that DNS names for our domain: is that us?"),
            ),
        );
    }

    /// Receiving role, on a stream of ours: is this key yours?
    pub(super) fn ask_about(&mut self, cx: &mut Cx<'_>, pair: &Pair, id: &str, key: &str) {
        self.write(cx, |w| {
            Tag::begin(w, "db:verify")
                .attribute("from", &pair.ours)
                .attribute("to", &pair.theirs)
                .attribute("id", id)
                .text(key);
        });
    }

    /// Initiator: the answer to `<enable/>` or `<resume/>`.
    pub(super) fn on_enabling(&mut self, cx: &mut Cx<'_>, element: Node<'_>, handled: Option<u32>) -> Step {
        match (element.name(), handled) {
            ("enabled", _) => {
                let _ = self.prove_first();
                let resume = matches!(element.attribute("resume"), Some("true" | "1")) && !self.bidi;
                let id = element.attribute("id").filter(|id| id.len() <= limits::STREAM_ATTRIBUTE_OCTETS_MAX);
                let seconds = element.attribute("max").and_then(|max| max.parse().ok()).unwrap_or(u64::MAX);
                Step::Enabled(id.filter(|_| resume).map(|id| (id.to_owned(), seconds)))
            }
            ("resumed", Some(handled)) => {
                let _ = self.prove_first();
                Step::Resumed(handled)
            }
            ("failed", _) if self.resuming => {
                let _ = self.enable(cx);
                Step::NotResumed(handled)
            }
            ("failed", _) => self.prove_first(),
            _ => self.fail(cx, StreamFault::new(StreamCondition::BadFormat, "stream management out of place")),
        }
    }
}

impl Offers {
    fn parse(features: Node<'_>) -> Self {
        let mut offers = Self::default();
        for feature in features.children() {
            match (feature.namespace(), feature.name()) {
                (ns::TLS, "starttls") => offers.starttls = true,
                (ns::SASL, "mechanisms") => {
                    offers.external = feature.children().any(|m| m.text().trim() == "EXTERNAL");
                }
                (ns::DIALBACK_FEATURE, "dialback") => {
                    offers.dialback_errors = feature.child("errors", ns::DIALBACK_FEATURE).is_some();
                }
                (ns::BIDI_FEATURE, "bidi") => offers.bidi = true,
                (ns::MANAGEMENT, "sm") => offers.management = true,
                (ns::STREAM_LIMITS, "limits") => {
                    let number = |name| {
                        let value = feature.child(name, ns::STREAM_LIMITS)?;
                        value.text().trim().parse::<u64>().ok()
                    };
                    offers.max_bytes = number("max-bytes").map(|octets| octets.try_into().unwrap_or(usize::MAX));
                    offers.idle_seconds = number("idle-seconds").filter(|seconds| *seconds > 0);
                }
                _ => {}
            }
        }
        offers
    }
}
