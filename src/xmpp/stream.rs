//! One connection of XMPP: header, features, STARTTLS, SASL EXTERNAL and the elements
//! of server dialback (RFC 6120 sections 4 to 6, XEP-0178, XEP-0220, XEP-0288).
//!
//! A stream knows its peer and nothing of other streams. Each element it takes in ends
//! in one [`Step`], which tells the server what has to happen beyond this connection.
//!
//! The order of [`State`] is a matter of security. What was proved is in
//! [`Stream::proved`]: stanzas pass for the pairs in it, and a pair gets there in three
//! ways only: SASL EXTERNAL, a dialback key that its authoritative server confirmed, or
//! the handshake of a component. A restart of the stream forgets everything but that.
//! Clear text that came behind `<starttls/>` or `<proceed/>` never survives the start of
//! TLS.

use super::framer::{Framer, StreamHeader};
use super::jid::{domain_to_ascii, prepare_domain};
use super::ns;
use super::policy::Policy;
use super::server::Undelivered;
use super::stanza::Kind;
use super::stream_error::{StreamCondition, StreamError, StreamFault};
use crate::base::certificate::{CertificateFault, PeerCertificate};
use crate::base::counters::Counter;
use crate::base::cx::{Cx, Ticket};
use crate::base::net::LinkId;
use crate::base::outbox::{Level, TlsRole, Writer};
use crate::base::slab::Key;
use crate::base::text::Escaped;
use crate::base::time::Instant;
use crate::base::trail;
use crate::base::xml::{Bindings, Limits, Node, Tag, emit_attribute};
use crate::limits;
use core::fmt;
use core::net::IpAddr;
use std::collections::VecDeque;

/// One connection.
#[derive(Debug)]
pub(super) struct Stream {
    /// The connection.
    pub(super) link: LinkId,
    /// Which end of it is ours.
    pub(super) side: Side,
    /// How far it is.
    pub(super) state: State,
    /// Is it encrypted, and what did the peer show?
    pub(super) channel: Channel,
    /// Our domain; empty until the peer named it.
    pub(super) ours: String,
    /// The peer's domain; empty until it named it. Proved only if in `proved`.
    pub(super) theirs: String,
    /// The pairs that stanzas may pass for.
    pub(super) proved: Vec<Pair>,
    /// The pairs a dialback key was shown for and not judged yet: ours by the peer if we
    /// are the initiator, the peer's by its authoritative server if we are not.
    pub(super) asked: Vec<Pair>,
    /// Receiving role: how many keys the peer made us confirm.
    pub(super) keys_shown: usize,
    /// Is the peer proved and no partner?
    pub(super) is_stranger: bool,
    /// What may be used to prove the initiator.
    pub(super) methods: Methods,
    /// Initiator: what the peer offers.
    pub(super) offers: Offers,
    /// Was the first pair proved by SASL EXTERNAL?
    pub(super) external: bool,
    /// Initiator: did the peer refuse SASL EXTERNAL?
    pub(super) external_failed: bool,
    /// May the answerer send stanzas too (XEP-0288)?
    pub(super) bidi: bool,
    /// Stream management, once enabled.
    pub(super) session: Option<Key>,
    /// Initiator: the stream to take up again, and how much of it we handled.
    pub(super) resume: Option<(String, u32)>,
    /// Initiator: is the answer to `<resume/>` due?
    pub(super) resuming: bool,
    /// Does a stanza wait for room on it?
    pub(super) stalled: bool,
    /// Did we stop reading, because too much is not handled yet?
    pub(super) paused: bool,
    /// Which dialback keys of other streams are being confirmed over this one.
    pub(super) verifying: usize,
    /// The answerer's name for it.
    pub(super) id: String,
    /// Finds the pieces.
    pub(super) framer: Framer,
    /// The declarations of the peer's header.
    pub(super) bindings: Bindings,
    /// Was our header sent since the last restart?
    pub(super) header_sent: bool,
    /// Was our end tag sent?
    pub(super) end_sent: bool,
    /// SASL attempts that failed.
    pub(super) refusals: u8,
    /// Initiator: what an earlier attempt showed not to work.
    pub(super) without: Without,
    /// Octets given to the link.
    pub(super) sent: u64,
    /// Octets of those that left for the network.
    pub(super) drained: u64,
    /// Stanzas whose senders wait until their octets have left.
    pub(super) deliveries: VecDeque<Delivery>,
    /// When anything last came in.
    pub(super) last_in: Instant,
    /// When anything last went out.
    pub(super) last_out: Instant,
    /// The ping that is not answered yet.
    pub(super) ping: Option<Ping>,
}

/// Which end of a stream is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// We opened it, for this route.
    Initiator {
        /// The route.
        route: Key,
        /// Is TLS the first thing on it (XEP-0368)?
        direct_tls: bool,
    },
    /// The peer opened it.
    Answerer {
        /// Where it came from.
        from: IpAddr,
    },
    /// We opened it as a component, for this route.
    Component {
        /// The route.
        route: Key,
    },
}

/// How far a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// TCP is on its way.
    Connecting,
    /// TLS is on its way.
    Securing,
    /// The peer's header is to come.
    Header,
    /// Initiator: the features are to come.
    Features,
    /// Initiator: the answer to `<starttls/>` is to come.
    StartTls,
    /// Initiator: the answer to `<auth/>` is to come.
    External,
    /// Component: the answer to `<handshake/>` is to come.
    Handshake,
    /// Initiator: proved; the answer to `<enable/>` or `<resume/>` is to come.
    Enabling,
    /// Dialback passes, and stanzas for the pairs that are proved.
    Open,
    /// An end tag was sent, ours or the peer's; what still comes is taken, and what is
    /// still leaving is waited for.
    Closing,
}

/// What carries the stream.
#[derive(Debug)]
pub(super) enum Channel {
    /// TCP.
    Clear,
    /// TLS.
    Secure {
        /// What the peer showed.
        peer: Box<PeerCertificate>,
        /// Is it trusted, and does it name the peer's domain?
        believed: bool,
    },
}

/// A domain of ours and one of a partner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// Ours.
    pub(super) ours: String,
    /// The partner's.
    pub(super) theirs: String,
}

/// What may be used to prove ourselves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Methods {
    pub(super) external: bool,
    pub(super) dialback: bool,
}

/// The peer's features.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Offers {
    pub(super) starttls: bool,
    pub(super) external: bool,
    /// Dialback errors, and with them several pairs on a stream.
    pub(super) dialback_errors: bool,
    pub(super) bidi: bool,
    pub(super) management: bool,
    /// XEP-0478: the most octets of a stanza.
    pub(super) max_bytes: Option<usize>,
    /// XEP-0478: after so long in silence the peer closes.
    pub(super) idle_seconds: Option<u64>,
}

/// What an earlier attempt at the same address showed not to work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Without {
    /// The peer refused STARTTLS.
    pub(super) tls: bool,
    /// The peer closed the stream when we tried SASL EXTERNAL.
    pub(super) external: bool,
}

/// A stanza whose octets have not left for certain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    /// Its last octet, counted from the opening of the link.
    pub(super) end: u64,
    /// Who waits; nobody for an answer of ours.
    pub(super) ticket: Option<Ticket>,
    /// When it was sent.
    pub(super) since: Instant,
}

/// A ping of ours.
#[derive(Clone, Debug)]
pub(super) struct Ping {
    /// Its id.
    pub(super) id: String,
    /// When it was sent.
    pub(super) since: Instant,
}

/// What an element has led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing beyond this connection.
    Quiet,
    /// Initiator: negotiated; keys can be confirmed over it, and we can prove ourselves.
    Ready,
    /// The first pair of the stream is proved and stanzas may pass.
    Proved,
    /// Initiator: as `Proved`, and acknowledgements are on, with the partner's offer to
    /// resume: its name for the stream and how long it keeps it.
    Enabled(Option<(String, u64)>),
    /// Initiator: as `Proved`, and an earlier stream goes on; so much the peer handled.
    Resumed(u32),
    /// Initiator: an earlier stream cannot go on; so much the peer handled, if it says.
    /// `Proved` or `Enabled` follows.
    NotResumed(Option<u32>),
    /// Receiving role: the peer shows a key.
    KeyShown {
        /// For these domains.
        pair: Pair,
        /// The key.
        key: String,
    },
    /// Initiating role: the peer judged our key for another pair than the first.
    Judged {
        /// The pair.
        pair: Pair,
        /// Is it proved now?
        valid: bool,
    },
    /// Receiving role: an authoritative server judged a key.
    Verdict {
        /// The pair.
        pair: Pair,
        /// The id of the stream the key was shown on.
        id: String,
        /// What it says.
        verdict: Verdict,
    },
    /// `<enable/>` of the peer.
    Enable,
    /// `<resume/>` of the peer.
    Resume,
    /// `<r/>` of the peer.
    Request,
    /// `<a/>` of the peer.
    Acknowledged(u32),
    /// The stream is over; the link is closed or being closed.
    Ended(Ended),
}

/// What an authoritative server says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It gave it out.
    Valid,
    /// It did not.
    Invalid,
    /// It cannot say.
    Error,
}

/// How a stream came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// What the senders of waiting stanzas are told if nothing else helps.
    pub(super) why: Undelivered,
    /// What to try at the same address before the next one.
    pub(super) retry: Option<Without>,
}

impl Ended {
    pub(super) const fn new(why: Undelivered) -> Self {
        Self { why, retry: None }
    }
}

impl Stream {
    /// A stream on a link that is being connected or was just accepted.
    pub(super) fn new(link: LinkId, side: Side, ours: &str, theirs: &str, now: Instant) -> Self {
        Self {
            link,
            side,
            state: if matches!(side, Side::Answerer { .. }) { State::Header } else { State::Connecting },
            channel: Channel::Clear,
            ours: ours.into(),
            theirs: theirs.into(),
            proved: Vec::new(),
            asked: Vec::new(),
            keys_shown: 0,
            is_stranger: false,
            methods: Methods::default(),
            offers: Offers::default(),
            external: false,
            external_failed: false,
            bidi: false,
            session: None,
            resume: None,
            resuming: false,
            stalled: false,
            paused: false,
            verifying: 0,
            id: String::new(),
            framer: Framer::new(),
            bindings: Bindings::default(),
            header_sent: false,
            end_sent: false,
            refusals: 0,
            without: Without::default(),
            sent: 0,
            drained: 0,
            deliveries: VecDeque::new(),
            last_in: now,
            last_out: now,
            ping: None,
        }
    }

    /// Tells whoever asks that a step is done.
    pub(super) fn trail_passed(&self, cx: &mut Cx<'_>, step: trail::Step, text: fmt::Arguments<'_>) {
        cx.out.trail.passed(&[&self.theirs], self.trail_step(step), text);
    }

    /// Tells whoever asks that a step came to nothing.
    pub(super) fn trail_failed(
        &self,
        cx: &mut Cx<'_>,
        step: trail::Step,
        side: trail::Side,
        text: fmt::Arguments<'_>,
        advice: &str,
    ) {
        cx.out.trail.failed(&[&self.theirs], self.trail_step(step), side, text, advice);
    }

    /// On a stream of the peer's all steps are one.
    fn trail_step(&self, step: trail::Step) -> trail::Step {
        if self.is_initiator() { step } else { trail::Step::Incoming }
    }

    /// Did we open it?
    pub(super) fn is_initiator(&self) -> bool {
        !matches!(self.side, Side::Answerer { .. })
    }

    /// Is it a connection to the server of one of our components?
    pub(super) fn is_component(&self) -> bool {
        matches!(self.side, Side::Component { .. })
    }

    /// The namespace of its stanzas.
    pub(super) fn content(&self) -> &'static str {
        if self.is_component() { ns::COMPONENT } else { ns::SERVER }
    }

    /// What one first-level element may have.
    pub(super) fn limits(&self) -> Limits {
        if self.proved.is_empty() { Limits::UNPROVEN } else { Limits::STANZA }
    }

    /// Is the pair proved?
    pub(super) fn has_proved(&self, ours: &str, theirs: &str) -> bool {
        self.proved.iter().any(|pair| pair.ours == ours && pair.theirs == theirs)
    }

    /// May we send stanzas of a proved pair on it now?
    pub(super) fn carries(&self) -> bool {
        self.state == State::Open && !self.proved.is_empty() && (self.is_initiator() || self.bidi)
    }

    /// Is the peer allowed to send stanzas of a proved pair?
    pub(super) fn takes(&self) -> bool {
        let open = matches!(self.state, State::Open | State::Enabling | State::Closing);
        open && !self.proved.is_empty() && (!self.is_initiator() || self.is_component() || self.bidi)
    }

    /// Did the peer end it, and is our end tag still to come?
    pub(super) fn was_ended(&self) -> bool {
        self.state == State::Closing && !self.end_sent
    }

    /// Is it encrypted with a peer whose certificate is believed?
    pub(super) fn believed(&self) -> bool {
        matches!(self.channel, Channel::Secure { believed: true, .. })
    }

    pub(super) fn is_secure(&self) -> bool {
        matches!(self.channel, Channel::Secure { .. })
    }

    /// Writes something and sends it.
    pub(super) fn write(&mut self, cx: &mut Cx<'_>, write: impl FnOnce(&mut Writer<'_>)) {
        let mut w = cx.out.begin();
        write(&mut w);
        let bytes = w.finish();
        self.sent += bytes.len() as u64;
        self.last_out = cx.now;
        cx.out.push(crate::base::outbox::Action::Send { link: self.link, bytes });
    }

    // ---- What happens to the link -------------------------------------------------

    /// TCP is up.
    pub(super) fn on_opened(&mut self, cx: &mut Cx<'_>) {
        if self.state != State::Connecting {
            return;
        }
        match self.side {
            Side::Initiator { direct_tls: true, .. } => self.start_tls(cx, "xmpp-server"),
            _ => {
                self.send_header(cx, true);
                self.state = State::Header;
            }
        }
    }

    /// Begins TLS; all that was said in the clear is forgotten.
    pub(super) fn start_tls(&mut self, cx: &mut Cx<'_>, alpn: &'static str) {
        let role = if self.is_initiator() { TlsRole::Client } else { TlsRole::Server };
        let ours = domain_to_ascii(&self.ours).unwrap_or_default();
        let theirs = domain_to_ascii(&self.theirs).unwrap_or_default();
        cx.out.start_tls(self.link, role, &ours, &theirs, alpn);
        self.state = State::Securing;
        self.forget();
    }

    /// TLS is up. The certificate is judged now if we know whom we asked for, else when
    /// the header says who it is.
    pub(super) fn on_secured(&mut self, cx: &mut Cx<'_>, policy: &Policy, peer: &PeerCertificate) {
        if self.state != State::Securing {
            return;
        }
        self.channel = Channel::Secure { peer: Box::new(peer.clone()), believed: false };
        self.state = State::Header;
        if self.is_initiator() {
            self.judge(cx, policy);
            self.send_header(cx, true);
        } else {
            // Who it said in the clear that it was, anybody on the way may have written.
            self.ours.clear();
            self.theirs.clear();
        }
    }

    /// What a restart leaves of the stream: what is proved, and the connection.
    pub(super) fn forget(&mut self) {
        self.framer.restart();
        self.bindings = Bindings::default();
        self.header_sent = false;
        self.offers = Offers::default();
        self.methods = Methods::default();
        self.asked.clear();
        self.id.clear();
    }

    /// Holds the peer's certificate against its domain, and says why it is not believed.
    pub(super) fn judge(&mut self, cx: &mut Cx<'_>, policy: &Policy) {
        let Channel::Secure { peer, believed } = &mut self.channel else { return };
        let ascii = domain_to_ascii(&self.theirs).unwrap_or_default();
        let (fault, advice) = match peer.verdict {
            Some(Ok(())) if peer.names_xmpp_domain(&ascii, &self.theirs) => {
                *believed = true;
                let summary = if cx.out.trail.is_watching() { peer.summary() } else { String::new() };
                self.trail_passed(cx, trail::Step::Tls, format_args!("{summary}"));
                return;
            }
            Some(Ok(())) => ("wrong name", "the partner needs a certificate that names its domain"),
            Some(Err(fault)) => (fault.reason(), advice(fault)),
            None => ("no certificate", "the partner has to show its certificate"),
        };
        *believed = false;
        let rules = policy.rules_for(&self.theirs);
        let then = if rules.may_dialback_over_tls() { "dialback" } else { "refused" };
        let (names, has_one) = (peer.names(), peer.verdict.is_some());
        let text = match cx.out.trail.is_watching() {
            true => format!("{}: {fault}, wanted {ascii}", peer.summary()),
            false => String::new(),
        };
        if rules.may_dialback_over_tls() {
            self.trail_passed(cx, trail::Step::Tls, format_args!("{text}; dialback has to prove it ({advice})"));
        } else {
            self.trail_failed(cx, trail::Step::Tls, trail::Side::Partner, format_args!("{text}"), advice);
        }
        // A server that shows none and goes on with dialback is nothing to act upon.
        if !has_one && rules.may_dialback_over_tls() {
            cx.debug("tls.certificate.none", format_args!("partner={} then=dialback", Escaped(&self.theirs)));
            return;
        }
        cx.refuse(
            Counter::CertificateRefused,
            "tls.certificate.refused",
            format_args!(
                "partner={} ours={} fault={} found={} wanted={} side=partner then={} advice={}",
                Escaped(&self.theirs),
                Escaped(&self.ours),
                Escaped(fault),
                Escaped(&names),
                Escaped(&ascii),
                then,
                Escaped(advice),
            ),
        );
    }

    // ---- Header and features ------------------------------------------------------

    pub(super) fn send_header(&mut self, cx: &mut Cx<'_>, versioned: bool) {
        let content = self.content();
        let (ours, theirs, id) = (self.ours.clone(), self.theirs.clone(), self.id.clone());
        let (initiator, component) = (self.is_initiator(), self.is_component());
        self.header_sent = true;
        self.write(cx, |w| {
            w.str("<?xml version='1.0'?><stream:stream");
            emit_attribute(w, "xmlns", content);
            emit_attribute(w, "xmlns:stream", ns::STREAMS);
            if component {
                // XEP-0114: a component names only the domain it wants to be.
                emit_attribute(w, "to", &ours);
                w.str(">");
                return;
            }
            emit_attribute(w, "xmlns:db", ns::DIALBACK);
            for (name, value) in [("from", &ours), ("to", &theirs)] {
                if !value.is_empty() {
                    emit_attribute(w, name, value);
                }
            }
            if !initiator {
                emit_attribute(w, "id", &id);
            }
            emit_attribute(w, "xml:lang", "en");
            if versioned {
                emit_attribute(w, "version", "1.0");
            }
            w.str(">");
        });
    }

    /// The peer's header came.
    pub(super) fn on_header(&mut self, cx: &mut Cx<'_>, policy: &Policy, header: StreamHeader) -> Step {
        if self.state != State::Header {
            return self.fail(cx, StreamFault::new(StreamCondition::BadFormat, "header out of place"));
        }
        self.bindings = header.bindings.clone().with_lang(header.lang.as_deref());
        match self.side {
            Side::Initiator { .. } => self.on_answer_header(cx, policy, header),
            Side::Component { .. } => self.on_component_header(cx, policy, header),
            Side::Answerer { .. } => self.on_opening_header(cx, policy, &header),
        }
    }

    /// May `theirs` be authenticated by dialback on this channel?
    pub(super) fn may_dialback(&self, policy: &Policy, theirs: &str) -> bool {
        let rules = policy.rules_for(theirs);
        match self.channel {
            Channel::Clear => rules.may_dialback_in_the_clear(),
            Channel::Secure { .. } => rules.may_dialback_over_tls(),
        }
    }

    // ---- Elements -----------------------------------------------------------------

    /// A first-level element came that is no stanza.
    pub(super) fn on_element(&mut self, cx: &mut Cx<'_>, policy: &Policy, element: Node<'_>) -> Step {
        if StreamError::is(element) {
            return self.on_error(cx, element);
        }
        match (self.side, self.state, element.namespace(), element.name()) {
            (_, State::Closing, ns::MANAGEMENT, "a") => self.on_management(cx, element),
            (_, State::Closing, ..) => Step::Quiet,
            (_, State::Open | State::Enabling, ns::MANAGEMENT, _) => self.on_management(cx, element),
            (Side::Initiator { .. }, State::Features, ns::STREAMS, "features") => self.on_features(cx, policy, element),
            (Side::Initiator { .. }, State::StartTls, ns::TLS, _) => self.on_tls_answer(cx, policy, element),
            (Side::Initiator { .. }, State::External, ns::SASL, _) => self.on_sasl_answer(cx, policy, element),
            (
                Side::Initiator { .. },
                State::Open | State::Enabling | State::External,
                ns::DIALBACK,
                "result" | "verify",
            ) => self.on_dialback_answer(cx, element),
            // Some servers send features again once dialback is done.
            (Side::Initiator { .. }, State::Open, ns::STREAMS, "features") => Step::Quiet,
            (Side::Component { .. }, State::Handshake, ns::COMPONENT, "handshake") => self.prove_first(),
            (Side::Answerer { .. }, State::Open, ns::TLS, "starttls") => self.on_starttls(cx, policy),
            (Side::Answerer { .. }, State::Open, ns::SASL, _) => self.on_sasl_request(cx, element),
            (Side::Answerer { .. }, State::Open, ns::BIDI, "bidi") => self.on_bidi(cx),
            (Side::Answerer { .. }, State::Open, ns::DIALBACK, "result") => self.on_dialback_result(cx, element),
            (Side::Answerer { .. }, State::Open, ns::DIALBACK, "verify") => {
                self.on_dialback_verify(cx, policy, element)
            }
            (Side::Answerer { .. }, State::Open, ns::COMPRESSION, "compress") => {
                self.write(cx, |w| {
                    Tag::begin(w, "failure").namespace(ns::COMPRESSION).content(|w| {
                        w.str("<unsupported-method/>");
                    });
                });
                Step::Quiet
            }
            (_, _, _, name) if Kind::from_name(name).is_some() => {
                let cause = "stanza in another namespace";
                self.fail(cx, StreamFault::new(StreamCondition::InvalidNamespace, cause))
            }
            _ => self.fail(cx, StreamFault::new(StreamCondition::UnsupportedStanzaType, "element not expected here")),
        }
    }

    /// The pair of the header is proved, whatever the way.
    pub(super) fn prove_first(&mut self) -> Step {
        self.state = State::Open;
        let (ours, theirs) = (self.ours.clone(), self.theirs.clone());
        self.prove(Pair { ours, theirs });
        Step::Proved
    }

    /// Lets stanzas of a pair pass from now on.
    pub(super) fn prove(&mut self, pair: Pair) {
        self.asked.retain(|asked| *asked != pair);
        if !self.proved.contains(&pair) {
            self.proved.push(pair);
        }
        self.framer.set_limit(limits::STANZA_OCTETS_MAX);
    }

    /// A dialback element that answers nothing: CVE-2012-3525 and its kin. Nothing
    /// comes of it.
    pub(super) fn unasked(&self, cx: &mut Cx<'_>, element: Node<'_>, cause: &str) -> Step {
        cx.refuse(
            Counter::DialbackInvalid,
            "xmpp.dialback.unasked",
            format_args!(
                "partner={} element={} from={} to={} cause={} side=partner",
                Escaped(&self.theirs),
                Escaped(element.name()),
                Escaped(element.attribute("from").unwrap_or_default()),
                Escaped(element.attribute("to").unwrap_or_default()),
                Escaped(cause),
            ),
        );
        Step::Quiet
    }

    /// An element of stream management.
    pub(super) fn on_management(&mut self, cx: &mut Cx<'_>, element: Node<'_>) -> Step {
        let handled = element.attribute("h").and_then(|h| h.trim().parse().ok());
        if self.state == State::Enabling {
            return self.on_enabling(cx, element, handled);
        }
        if self.proved.is_empty() {
            let cause = "stream management before authentication";
            return self.fail(cx, StreamFault::new(StreamCondition::NotAuthorized, cause));
        }
        match (element.name(), handled) {
            ("r", _) => Step::Request,
            ("a", Some(handled)) => Step::Acknowledged(handled),
            ("enable", _) if !self.is_initiator() => Step::Enable,
            ("resume", _) if !self.is_initiator() => Step::Resume,
            _ => self.fail(cx, StreamFault::new(StreamCondition::BadFormat, "stream management out of place")),
        }
    }

    // ---- The end ------------------------------------------------------------------

    /// The peer's `<stream:error/>`.
    pub(super) fn on_error(&mut self, cx: &mut Cx<'_>, element: Node<'_>) -> Step {
        let error = StreamError::parse(element);
        // The level tells what calls for somebody: an idle stream that ends does not.
        let (why, side, level) = match error.condition {
            StreamCondition::HostUnknown | StreamCondition::HostGone => (Undelivered::NotFound, "partner", Level::Warn),
            StreamCondition::ConnectionTimeout
            | StreamCondition::Conflict
            | StreamCondition::Reset
            | StreamCondition::SeeOtherHost
            | StreamCondition::SystemShutdown => (Undelivered::Unreachable, "partner", Level::Info),
            StreamCondition::ResourceConstraint => (Undelivered::Unreachable, "partner", Level::Warn),
            StreamCondition::InternalServerError
            | StreamCondition::PolicyViolation
            | StreamCondition::RemoteConnectionFailed
            | StreamCondition::UndefinedCondition => (Undelivered::Refused, "partner", Level::Warn),
            // It complains of what we sent or showed.
            _ => (Undelivered::Refused, "ours", Level::Warn),
        };
        cx.count(Counter::StreamErrorReceived);
        cx.out.log(
            level,
            "xmpp.stream.error-received",
            format_args!(
                "partner={} ours={} condition={} text={} side={side}",
                Escaped(&self.theirs),
                Escaped(&self.ours),
                error.condition.name(),
                Escaped(error.text.as_deref().unwrap_or_default()),
            ),
        );
        if self.proved.is_empty() {
            let at_fault = if side == "ours" { trail::Side::Ours } else { trail::Side::Partner };
            let said = error.text.as_deref().unwrap_or_default();
            let text = format_args!("it ended the stream: {} {said}", error.condition.name());
            self.trail_failed(cx, trail::Step::Identity, at_fault, text, stream_advice(error.condition));
        }
        let retry = self.retry();
        self.end(cx);
        Step::Ended(Ended { why, retry })
    }

    /// The peer's end tag. Stanzas that are still leaving are waited for: the peer goes
    /// on reading until it sees our end tag (RFC 6120 section 4.4).
    pub(super) fn on_end(&mut self, cx: &mut Cx<'_>) -> Step {
        let retry = self.retry();
        if self.deliveries.is_empty() || self.state == State::Closing {
            self.end(cx);
            return Step::Ended(Ended { why: Undelivered::Unreachable, retry });
        }
        self.state = State::Closing;
        Step::Quiet
    }

    /// What is worth another attempt at the same address after the peer ended the stream.
    pub(super) fn retry(&self) -> Option<Without> {
        let tried = self.external_failed || self.state == State::External;
        let again = tried && self.proved.is_empty() && !self.without.external;
        again.then_some(Without { external: true, ..self.without })
    }

    /// Ends the stream with an error of the peer's making.
    pub(super) fn fail(&mut self, cx: &mut Cx<'_>, fault: StreamFault) -> Step {
        self.fail_with(cx, fault, None)
    }

    /// The same, with an application condition.
    pub(super) fn fail_with(
        &mut self,
        cx: &mut Cx<'_>,
        fault: StreamFault,
        application: Option<(&'static str, &'static str)>,
    ) -> Step {
        if !self.header_sent {
            // No error without a header before it (RFC 6120 section 4.9.1.2).
            if self.id.is_empty() && !self.is_initiator() {
                self.id = cx.rng.token::<24>().to_string();
            }
            if self.state != State::Connecting && self.state != State::Securing {
                self.send_header(cx, true);
            }
        }
        cx.refuse(
            counter_of(fault.condition),
            "xmpp.stream.error-sent",
            format_args!(
                "partner={} ours={} condition={} cause={} side=partner",
                Escaped(&self.theirs),
                Escaped(&self.ours),
                fault.condition.name(),
                Escaped(fault.cause),
            ),
        );
        cx.count(Counter::StreamErrorSent);
        // That the certificate is not believed was told when it was shown.
        let is_told = self.is_secure() && !self.believed() && fault.condition == StreamCondition::PolicyViolation;
        if self.proved.is_empty() && !is_told {
            let (at_fault, advice) = match fault.condition {
                // A server offers EXTERNAL to those whose certificate it believes.
                StreamCondition::PolicyViolation if self.believed() => (
                    trail::Side::Ours,
                    "our certificate must name our domain and come from a CA that the partner trusts; or allow \
                     dialback: set partner DOMAIN sasl optional, dialback true",
                ),
                StreamCondition::PolicyViolation => (
                    trail::Side::Partner,
                    "let its server offer what is asked for, or ask for less: set partner DOMAIN tls, sasl, dialback",
                ),
                StreamCondition::ConnectionTimeout => {
                    (trail::Side::Partner, "its server is up and too slow, or is no XMPP server")
                }
                StreamCondition::ResourceConstraint => (
                    trail::Side::Ours,
                    "raise the limits: set xmpp connection-limit, set partner DOMAIN connection-limit",
                ),
                StreamCondition::HostUnknown => (
                    trail::Side::Partner,
                    "it wants a domain that is not served here: set sip domain DOMAIN, if it should be",
                ),
                _ => (trail::Side::Partner, "its server does not keep to the standard; our log has the details"),
            };
            let text = format_args!("we ended the stream: {} ({})", fault.cause, fault.condition.name());
            self.trail_failed(cx, trail::Step::Identity, at_fault, text, advice);
        }
        if self.header_sent && !self.end_sent {
            self.write(cx, |w| {
                super::stream_error::emit(w, fault.condition, Some(fault.cause), application);
            });
        }
        self.end(cx);
        Step::Ended(Ended::new(Undelivered::Refused))
    }

    /// Says that we go down, and closes the link.
    pub(super) fn say_goodbye(&mut self, cx: &mut Cx<'_>) {
        if self.header_sent && !self.end_sent {
            self.write(cx, |w| {
                StreamFault::new(StreamCondition::SystemShutdown, "the gateway is shutting down").emit(w);
            });
        }
        self.end(cx);
    }

    /// Sends the end tag, once; what comes until the peer's is still taken.
    pub(super) fn send_end(&mut self, cx: &mut Cx<'_>) {
        if self.header_sent && !self.end_sent {
            self.write(cx, |w| {
                w.str("</stream:stream>");
            });
        }
        self.end_sent = true;
        self.state = State::Closing;
    }

    /// Sends the end tag, once, and closes the link.
    pub(super) fn end(&mut self, cx: &mut Cx<'_>) {
        self.send_end(cx);
        self.close(cx);
    }

    pub(super) fn close(&self, cx: &mut Cx<'_>) {
        cx.out.close(self.link);
    }
}

/// The domains of a dialback element from the peer: `to` is ours.
pub(super) fn pair_of(element: Node<'_>) -> Option<Pair> {
    let domain = |name| prepare_domain(element.attribute(name)?).ok().map(|domain| domain.into_owned());
    Some(Pair { ours: domain("to")?, theirs: domain("from")? })
}

/// What helps against a partner's stream error.
const fn stream_advice(condition: StreamCondition) -> &'static str {
    match condition {
        StreamCondition::HostUnknown | StreamCondition::HostGone => {
            "that server does not serve the domain: its SRV records, or partner DOMAIN proxy, lead to the wrong one"
        }
        StreamCondition::NotAuthorized | StreamCondition::InvalidFrom => {
            "it does not believe who we are: our certificate must name our domain and come from a CA it trusts"
        }
        StreamCondition::PolicyViolation => "its rules keep us out: its administrator has to allow our domain",
        StreamCondition::RemoteConnectionFailed => {
            "it cannot reach us to confirm our key: SRV _xmpp-server._tcp of our domain and port 5269 must lead here"
        }
        StreamCondition::ResourceConstraint | StreamCondition::SystemShutdown | StreamCondition::Reset => {
            "its server is overloaded or restarts: try again later"
        }
        _ => "its log says why",
    }
}

/// What a stream error of ours counts as.
const fn counter_of(condition: StreamCondition) -> Counter {
    match condition {
        StreamCondition::InvalidFrom | StreamCondition::ImproperAddressing => Counter::InvalidFrom,
        StreamCondition::HostUnknown => Counter::HostUnknown,
        StreamCondition::BadFormat
        | StreamCondition::BadNamespacePrefix
        | StreamCondition::InvalidNamespace
        | StreamCondition::InvalidXml
        | StreamCondition::NotWellFormed
        | StreamCondition::RestrictedXml
        | StreamCondition::UnsupportedEncoding => Counter::XmlRefused,
        StreamCondition::ResourceConstraint => Counter::StreamLimit,
        _ => Counter::StreamFailed,
    }
}

/// What helps against a fault of a partner's certificate.
const fn advice(fault: CertificateFault) -> &'static str {
    match fault {
        CertificateFault::Expired => "the partner has to renew it; check our clock too",
        CertificateFault::NotYetValid => "check our clock, then the partner's certificate",
        CertificateFault::UnknownIssuer => "if its CA is to be believed: set tls trust NAME",
        CertificateFault::SelfSigned => "if this very certificate is to be believed: set tls trust NAME",
        CertificateFault::MissingIntermediate => "the partner has to send its intermediate certificates",
        CertificateFault::NotForServers => "the partner needs a certificate for servers (serverAuth)",
        CertificateFault::NameConstraint => "the partner needs a certificate of a CA that may name its domain",
        CertificateFault::Revoked | CertificateFault::Bad => "the partner needs a new certificate",
    }
}
