//! Tests that an operator asks for: whether a partner or a SIP domain can be reached and
//! reaches us, and whether one user's message arrives at another.
//!
//! A test uses the gateway's own locator, connections and streams: it sends a question
//! as any other part of the gateway does, and is told by [`crate::base::trail`] how its
//! way comes about. `machine` is the test as such; here it is tied to the world: what
//! is asked, what an outcome means. [`Gateway::begin_test`] begins one;
//! [`Gateway::test_lines`] shows what it said; whoever began it ends it by
//! [`Gateway::end_test`], else it is forgotten after a while.
//!
//! A test of two users takes the road of their messages, the checks among it: all it
//! leaves out is the proof of the sender's domain, which the operator stands for.

mod advice;
mod heard;
mod machine;
mod user;

pub(super) use heard::Heard;

use super::owner::PROBE as OF_PROBE;
use super::{Gateway, content};
use crate::base::cx::{Cx, Ticket};
use crate::base::slab::{Key, Slab};
use crate::base::time::Instant;
use crate::base::trail::{Mark, Side};
use crate::base::xml::Tag;
use crate::limits::PROBES_MAX;
use crate::settings::{Dialect, ListenerKind, Requirement};
use crate::sip::diagnostics::Diagnostic;
use crate::sip::endpoint::{Destination, Failure, Request};
use crate::sip::message::{Message, Method};
use crate::xmpp::jid::{domain_to_ascii, prepare_domain};
use crate::xmpp::ns;
use crate::xmpp::server::Undelivered;
use crate::xmpp::stanza::{Head, Kind, Stanza, StanzaError};
use crate::xmpp::status::in_words;
use machine::{ANSWER_TIME_MAX, Fault, Probe};

/// What is to be tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// A partner, or a SIP domain.
    Partner {
        /// Its domain, as the operator wrote it.
        domain: String,
        /// For which of our domains, as towards a partner; the first one if not said.
        ours: Option<String>,
    },
    /// A message from one user to another on the other side.
    User {
        /// Whose message it is: `user@domain`, or a URI.
        from: String,
        /// Who gets it.
        to: String,
    },
}

/// How a test ended: the error is a sentence for the operator.
pub type Verdict = Result<(), String>;

/// What a test does.
#[derive(Debug)]
enum Course {
    /// Pings an XMPP domain.
    Xmpp {
        /// Our domain.
        ours: String,
        /// The partner's.
        theirs: String,
        /// The id of the ping.
        id: String,
    },
    /// Sends OPTIONS to a SIP domain.
    Sip,
    /// Sends a MESSAGE that goes to XMPP.
    ToXmpp(user::ToXmpp),
    /// Sends a stanza that goes to SIP.
    ToSip(user::ToSip),
}

/// The tests that run, and those whose lines were not fetched yet.
#[derive(Debug)]
pub(super) struct Table {
    probes: Slab<Probe>,
    /// The number of the last stanza that was a test.
    stanzas: u32,
}

impl Default for Table {
    fn default() -> Self {
        Self { probes: Slab::with_capacity(PROBES_MAX), stanzas: 0 }
    }
}

impl Table {
    /// When [`Gateway::tests_timeout`] is next due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.probes.iter().map(|(_, probe)| probe.deadline()).min()
    }

    /// Those that still run, for the look at each that an event costs; none as a rule.
    fn running(&mut self) -> impl Iterator<Item = (Key, &mut Probe)> {
        self.probes.iter_mut().filter(|(_, probe)| probe.runs())
    }
}

const fn ticket(key: Key) -> Ticket {
    Ticket(marked(key))
}

const fn marked(key: Key) -> Key {
    Key::from_bits(key.to_bits() | OF_PROBE)
}

/// The test that a ticket or a transaction names, if it is one of ours.
fn probe_of(key: Key) -> Option<Key> {
    let bits = key.to_bits();
    (bits >> 61 == OF_PROBE >> 61).then(|| Key::from_bits(bits & !OF_PROBE))
}

impl Gateway {
    /// Begins a test and gives its number. The error is a sentence: what is wrong and
    /// what is allowed.
    pub fn begin_test(&mut self, cx: &mut Cx<'_>, test: &Test) -> Result<u64, String> {
        if self.ending {
            return Err("the gateway is being shut down".into());
        }
        if self.tests.probes.is_full() {
            return Err(format!("{PROBES_MAX} tests run; allowed: to try again when one has ended"));
        }
        let key = match test {
            Test::Partner { domain, ours } => {
                let domain = prepared(domain)?;
                let ours = ours.as_deref().map(prepared).transpose()?;
                if self.routes.sip_domain(&self.settings, &domain).is_some() {
                    self.test_sip_domain(cx, &domain)
                } else {
                    self.test_partner(cx, domain, ours)
                }
            }
            Test::User { from, to } => self.test_user(cx, from, to)?,
        };
        self.settle(cx);
        key.map(Key::to_bits).ok_or_else(|| "no room for the test; allowed: to try again".into())
    }

    /// What a test said so far, and how it ended; `None` once it is forgotten.
    pub fn test_lines(&self, test: u64) -> Option<(&[String], Option<&Verdict>)> {
        let probe = self.tests.probes.get(Key::from_bits(test))?;
        Some((probe.lines(), probe.outcome()))
    }

    /// Forgets a test.
    pub fn end_test(&mut self, cx: &mut Cx<'_>, test: u64) {
        if let Some(probe) = self.tests.probes.remove(Key::from_bits(test)) {
            for name in &probe.names {
                cx.out.trail.unwatch(name);
            }
        }
    }

    /// Enters a test; from now on it hears of the names. `None` if there is no room.
    fn enter_test(&mut self, cx: &mut Cx<'_>, course: Course, mut names: Vec<String>) -> Option<Key> {
        names.retain(|name| !name.is_empty());
        names.dedup();
        let key = self.tests.probes.insert(Probe::new(course, Vec::new(), cx.now)).ok()?;
        if let Some(probe) = self.tests.probes.get_mut(key) {
            names.retain(|name| cx.out.trail.watch(name));
            probe.names = names;
        }
        Some(key)
    }

    /// Somebody found something out about a name that is watched.
    pub(super) fn on_mark(&mut self, cx: &mut Cx<'_>, mark: &Mark) {
        for (_, probe) in self.tests.running() {
            if probe.names.contains(&mark.subject) {
                probe.on_mark(cx.now, mark.clone());
            }
        }
    }

    /// Tells the tests what was found out before the outcome that follows from it.
    fn take_marks(&mut self, cx: &mut Cx<'_>) {
        while let Some(mark) = cx.out.trail.pop() {
            self.on_mark(cx, &mark);
        }
    }

    /// Deadlines of tests have come.
    pub(super) fn tests_timeout(&mut self, cx: &mut Cx<'_>) {
        let due: Vec<Key> =
            self.tests.probes.iter().filter(|(_, probe)| probe.deadline() <= cx.now).map(|(key, _)| key).collect();
        for key in due {
            self.take_marks(cx);
            match self.tests.probes.get(key) {
                Some(probe) if probe.runs() => self.test_timed_out(cx, key),
                _ => self.end_test(cx, key.to_bits()),
            }
        }
    }

    fn test_timed_out(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(probe) = self.tests.probes.get(key) else { return };
        let unheard = match &probe.course {
            Course::Xmpp { ours, theirs, .. } if probe.delivered => Some(self.why_unheard(ours, theirs)),
            _ => None,
        };
        let Some(probe) = self.tests.probes.get_mut(key) else { return };
        match (unheard, &probe.course) {
            (Some((false, fault)), _) => probe.unheard(cx.now, fault),
            (Some((true, fault)), _) => probe.red(cx.now, fault),
            // No error came after it was delivered.
            (None, Course::ToXmpp(_)) if probe.delivered => probe.green(cx.now, "the message was delivered"),
            (None, _) => probe.lost(
                cx.now,
                Fault::new(
                    "round-trip",
                    Side::Partner,
                    "nothing happened any more",
                    "look into the log of this gateway",
                ),
            ),
        }
    }

    // ---- An XMPP domain -----------------------------------------------------------

    fn test_partner(&mut self, cx: &mut Cx<'_>, theirs: String, ours: Option<String>) -> Option<Key> {
        let first = || self.settings.sip_domains.first().map(|served| served.domain.clone());
        let (named, ours) = (ours.is_some(), ours.or_else(first).unwrap_or_default());
        let id = format!("probe-{}", cx.rng.token::<16>());
        let course = Course::Xmpp { ours: ours.clone(), theirs: theirs.clone(), id: id.clone() };
        let key = self.enter_test(cx, course, vec![theirs.clone()])?;
        let configured = self.configured(&ours, named, &theirs);
        let running = self.xmpp.carrier_state(&ours, &theirs);
        let probe = self.tests.probes.get_mut(key)?;
        match configured {
            Ok(text) => probe.passed(cx.now, "configured", text),
            Err(fault) => {
                probe.red(cx.now, fault);
                return Some(key);
            }
        }
        if let Some(running) = running {
            probe.noted(cx.now, "identity", running);
        }
        // The operator may have just put right what failed a moment ago.
        self.xmpp.forgive(&theirs);
        let head = Head { kind: Kind::Iq, from: &ours, to: &theirs, id: Some(&id), type_: Some("get"), lang: None };
        let sent = self.xmpp.send(cx, Some(ticket(key)), &ours, &theirs, |w| {
            head.emit(w, |w| Tag::begin(w, "ping").namespace(ns::PING).empty());
        });
        if let Err(refused) = sent {
            let probe = self.tests.probes.get_mut(key)?;
            probe.red(cx.now, advice::of_refused(refused));
        }
        Some(key)
    }

    /// Whether a partner is one, and with which settings, in words.
    fn configured(&self, ours: &str, named: bool, theirs: &str) -> Result<String, Fault> {
        let ours_is_served = self.routes.sip_domain(&self.settings, ours).is_some();
        if !ours_is_served {
            let text = match named {
                true => format!("{ours} is no SIP domain that is served here"),
                false => "no SIP domain is served here, so there is nobody to speak for".into(),
            };
            return Err(Fault::new("configured", Side::Ours, text, "set sip domain DOMAIN"));
        }
        if self.routes.is_blocked(theirs) {
            let text = format_args!("{theirs} is blocked");
            return Err(Fault::new("configured", Side::Ours, text, format!("delete blocked {theirs}")));
        }
        let Some(domain) = self.routes.xmpp_domain(&self.settings, theirs) else {
            return Err(Fault::new(
                "configured",
                Side::Ours,
                format_args!("{theirs} is neither an allowed partner nor a SIP domain here"),
                format!("set partner {theirs} type federated, or set sip domain {theirs} for a domain of SIP users"),
            ));
        };
        let word = |requirement| match requirement {
            Requirement::Required => "required",
            Requirement::Optional => "optional",
            Requirement::NotSupported => "not-supported",
        };
        let listens = self.settings.listeners.iter().any(|listener| is_xmpp(listener.kind));
        let deaf = if listens { "" } else { "; nothing is listened on for its own streams (set xmpp listen NAME)" };
        Ok(match domain.partner {
            Some(partner) => format!(
                "partner {}, tls {}, sasl {}, dialback {}{}; we are {ours}{deaf}",
                partner.domain,
                word(partner.tls),
                word(partner.sasl),
                partner.dialback,
                partner.proxy.as_ref().map_or_else(String::new, |(host, _)| format!(", proxy {host}")),
            ),
            None => format!("no partner, and partner discovery is open; we are {ours}{deaf}"),
        })
    }

    /// Why the answer to a ping did not come, and whether the partner's own stream is
    /// there for it.
    fn why_unheard(&self, ours: &str, theirs: &str) -> (bool, Fault) {
        let state = self.xmpp.partner_state(theirs);
        if state.incoming > 0 || state.components > 0 {
            let fault = Fault::new(
                "round-trip",
                Side::Partner,
                format_args!("it took our ping and did not answer within {} s", ANSWER_TIME_MAX.as_secs()),
                "its server may be overloaded, or drop what comes from a domain it does not know: its log says why",
            );
            return (true, fault);
        }
        let port = self.settings.listeners.iter().find(|listener| listener.kind == ListenerKind::XmppStartTls);
        let port = port.map_or(5269, |listener| listener.address.port());
        let ascii = domain_to_ascii(ours).unwrap_or_default();
        let fault = Fault::new(
            "incoming",
            Side::Partner,
            format_args!("it took our ping and has no stream to us, so that its answer cannot come"),
            format!(
                "its server has to find us: DNS needs SRV _xmpp-server._tcp.{ascii} that leads to {}, port {port} has \
                 to be open from outside, our certificate has to name {ascii}, and its rules have to allow {ascii}",
                self.settings.host_name
            ),
        );
        (false, fault)
    }

    /// A stanza of ours arrived; false if its ticket is no test's.
    pub(super) fn test_delivered(&mut self, cx: &mut Cx<'_>, ticket: Ticket) -> bool {
        let Some(key) = probe_of(ticket.0) else { return false };
        self.take_marks(cx);
        if let Some(probe) = self.tests.probes.get_mut(key).filter(|probe| probe.runs()) {
            probe.delivered = true;
            probe.passed(cx.now, "sent", "the partner has our ping");
            probe.wait(cx.now, ANSWER_TIME_MAX);
        }
        true
    }

    /// A stanza of ours did not arrive; false if its ticket is no test's.
    pub(super) fn test_undelivered(&mut self, cx: &mut Cx<'_>, ticket: Ticket, why: Undelivered) -> bool {
        let Some(key) = probe_of(ticket.0) else { return false };
        self.take_marks(cx);
        if let Some(probe) = self.tests.probes.get_mut(key) {
            let text = in_words(why);
            probe.lost(cx.now, Fault::new("round-trip", Side::Partner, text, advice::of_undelivered(why)));
        }
        true
    }

    /// An answer to an iq came: perhaps to a ping of ours.
    pub(super) fn test_answered(&mut self, cx: &mut Cx<'_>, stanza: &Stanza<'_>) {
        let is_ours = |probe: &Probe| match &probe.course {
            Course::Xmpp { ours, theirs, id } => {
                stanza.id == Some(id) && stanza.from.as_str() == theirs && stanza.to.as_str() == ours
            }
            _ => false,
        };
        let Some(key) = self.tests.running().find(|(_, probe)| is_ours(probe)).map(|(key, _)| key) else { return };
        self.take_marks(cx);
        let state = self.xmpp.partner_state(stanza.from.domain());
        let Some(probe) = self.tests.probes.get_mut(key) else { return };
        let error = StanzaError::parse(stanza.element).filter(|_| stanza.is_error());
        match error {
            None => probe.passed(cx.now, "round-trip", "our ping was answered"),
            // Whatever it answers, it is there and heard us.
            Some(error) => {
                let name = error.condition.name();
                probe.passed(cx.now, "round-trip", format_args!("our ping was answered with the error {name}"));
            }
        }
        match state.incoming {
            0 => probe.passed(cx.now, "incoming", "its answer came on our stream; it opened none of its own yet"),
            streams => probe.passed(cx.now, "incoming", format_args!("its own streams are here: {streams}")),
        }
        let domain = stanza.from.domain();
        probe.green(cx.now, format_args!("{domain} can be reached and reaches us"));
    }

    // ---- A SIP domain -------------------------------------------------------------

    fn test_sip_domain(&mut self, cx: &mut Cx<'_>, domain: &str) -> Option<Key> {
        let served = self.routes.sip_domain(&self.settings, domain)?.clone();
        let ascii = domain_to_ascii(domain)?.into_owned();
        let host = served.next_hop.as_ref().map_or("", |hop| &hop.host);
        let key = self.enter_test(cx, Course::Sip, vec![ascii.clone(), host.into()])?;
        let running = self.sip.link_state(served.next_hop.as_ref(), &ascii);
        let probe = self.tests.probes.get_mut(key)?;
        let way = match &served.next_hop {
            Some(hop) => {
                let (transport, host) = (crate::base::net::Transport::from(hop.transport), &hop.host);
                let port = hop.port.map_or_else(String::new, |port| format!(":{port}"));
                format!("next hop {host}{port} by {transport}")
            }
            None => "no next hop: the DNS decides (RFC 3263)".into(),
        };
        probe.passed(cx.now, "configured", format_args!("SIP domain {domain}, {way}, dialect {:?}", served.dialect));
        if let Some(running) = running {
            probe.noted(cx.now, "tls", running);
        }
        let destination = match &served.next_hop {
            Some(hop) => Destination::NextHop { hop, domain: &ascii },
            None => Destination::Domain { domain: &ascii },
        };
        // A partner's domain is one that the SIP side may know; our host name need not be.
        let from = self.settings.partners.first().and_then(|partner| domain_to_ascii(&partner.domain));
        let from = format!("sip:{}", from.as_deref().unwrap_or(&self.settings.host_name));
        let uri = format!("sip:{ascii}");
        let (call_id, from_tag) = (super::message::new_call_id(cx), super::message::new_tag(cx));
        let request = Request {
            method: Method::Options,
            uri: &uri,
            from: &from,
            from_tag: &from_tag,
            to: &uri,
            to_tag: None,
            call_id: &call_id,
            cseq: 1,
            max_forwards: 70,
            headers: &[("Accept", content::ACCEPT)],
            content_type: None,
            body: b"",
        };
        if let Err(refused) = self.sip.request(cx, ticket(key), &destination, &request) {
            let probe = self.tests.probes.get_mut(key)?;
            let text = format_args!("the request could not be sent: {refused:?}");
            probe
                .red(cx.now, Fault::new("round-trip", Side::Ours, text, "the SIP side is full: try again in a moment"));
        }
        Some(key)
    }

    /// A response came; false if its ticket is no test's.
    pub(super) fn test_response(&mut self, cx: &mut Cx<'_>, ticket: Ticket, message: &Message<'_>) -> bool {
        let Some(key) = probe_of(ticket.0) else { return false };
        if message.status() < 200 {
            return true;
        }
        self.take_marks(cx);
        let domain = crate::sip::uri::Uri::parse(message.to().uri).map_or("", |uri| uri.host);
        let domain = prepare_domain(domain).unwrap_or_default();
        let heard = self.heard.of(&domain).cloned().unwrap_or_default();
        let is_lync = self.dialect_of(&domain) == Dialect::Lync;
        let Some(probe) = self.tests.probes.get_mut(key).filter(|probe| probe.runs()) else { return true };
        let software = message.header("Server").or_else(|| message.header("User-Agent"));
        let software = software.map_or_else(String::new, |software| format!(", {software}"));
        let said = Diagnostic::all(message).find(|diagnostic| !diagnostic.reason.is_empty());
        let said = said.map_or_else(String::new, |said| format!(" ({} {})", said.id, said.reason));
        let text = format!("OPTIONS was answered {} {}{said}{software}", message.status(), message.reason());
        // An Edge answers whom it knows, whatever it thinks of OPTIONS.
        if is_lync && matches!(message.status(), 403 | 504) {
            probe.red(cx.now, Fault::new("round-trip", Side::Partner, text, advice::OF_REFUSED_DOMAIN));
            return true;
        }
        probe.passed(cx.now, "round-trip", text);
        match heard.last {
            Some(last) => {
                let text = format_args!("its last request came {} s ago", cx.now.since(last).as_secs());
                probe.passed(cx.now, "incoming", text);
            }
            None => probe.noted(cx.now, "incoming", "no request of it was taken since the start"),
        }
        if let Some((when, reason)) = heard.refused {
            let age = cx.now.since(when).as_secs();
            let text = format_args!("a request that names it was refused {age} s ago: {reason}");
            if heard.last.is_none_or(|last| last < when) {
                probe.red(cx.now, Fault::new("incoming", Side::Partner, text, advice::OF_REFUSED_REQUEST));
                return true;
            }
            probe.noted(cx.now, "incoming", text);
        }
        probe.green(cx.now, format_args!("{domain} can be reached"));
        true
    }

    /// No response came; false if its ticket is no test's.
    pub(super) fn test_failed(&mut self, cx: &mut Cx<'_>, ticket: Ticket, failure: Failure) -> bool {
        let Some(key) = probe_of(ticket.0) else { return false };
        self.take_marks(cx);
        if let Some(probe) = self.tests.probes.get_mut(key) {
            probe.lost(cx.now, advice::of_failure(failure));
        }
        true
    }
}

const fn is_xmpp(kind: ListenerKind) -> bool {
    matches!(kind, ListenerKind::XmppStartTls | ListenerKind::XmppDirectTls)
}

/// A domain as the operator wrote it, as the settings have it.
fn prepared(domain: &str) -> Result<String, String> {
    prepare_domain(domain).map(std::borrow::Cow::into_owned).map_err(|_| {
        format!("{} is no domain; allowed: a name such as chat.example", crate::base::text::Escaped(domain))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::counters::Counters;
    use crate::base::net::{CloseReason, LinkId};
    use crate::base::outbox::{Action, Outbox};
    use crate::base::rng::Rng;
    use crate::base::time::Wall;
    use crate::gateway::input::Input;
    use crate::settings::{NextHop, NextHopTransport, Partner, PartnerKind, Settings, SipDomain};
    use core::time::Duration;

    /// A gateway with a SIP domain and a partner, and a world that goes nowhere.
    struct World {
        gateway: Gateway,
        now: Instant,
        rng: Rng,
        out: Outbox,
        count: Counters,
        connects: Vec<(LinkId, String)>,
        sent: Vec<(LinkId, String)>,
    }

    impl World {
        fn new() -> Self {
            Self::with_settings(|_| {})
        }

        fn with_settings(change: impl FnOnce(&mut Settings)) -> Self {
            let mut partner = Partner::new("wiese.example");
            partner.proxy = Some(("192.0.2.77".into(), None));
            let hop = NextHop { transport: NextHopTransport::Tcp, host: "192.0.2.88".into(), port: Some(5070) };
            let mut settings = Settings {
                host_name: "bruecke.example".into(),
                sip_domains: vec![SipDomain { next_hop: Some(hop), ..SipDomain::new("acker.example") }],
                partners: vec![partner],
                ..Settings::default()
            };
            change(&mut settings);
            Self {
                gateway: Gateway::new(settings, &[7; 32]),
                now: Instant::from_millis(50_000),
                rng: Rng::from_number(3),
                out: Outbox::with_capacity(4096, 16),
                count: Counters::default(),
                connects: Vec::new(),
                sent: Vec::new(),
            }
        }

        fn with<T>(&mut self, call: impl FnOnce(&mut Gateway, &mut Cx<'_>) -> T) -> T {
            let mut cx = Cx {
                now: self.now,
                wall: Wall(1_800_000_000_000),
                rng: &mut self.rng,
                out: &mut self.out,
                count: &mut self.count,
            };
            let result = call(&mut self.gateway, &mut cx);
            for action in self.out.actions() {
                match action {
                    Action::Connect { link, to, .. } => self.connects.push((*link, to.to_string())),
                    Action::Send { link, bytes } => self.sent.push((*link, self.out.text(bytes).into())),
                    _ => {}
                }
            }
            self.out.clear();
            result
        }

        fn begin(&mut self, domain: &str) -> Result<u64, String> {
            let test = Test::Partner { domain: domain.into(), ours: None };
            self.with(|gateway, cx| gateway.begin_test(cx, &test))
        }

        fn wait(&mut self, time: Duration) {
            let end = self.now.after(time);
            while let Some(next) = self.gateway.deadline().filter(|next| *next <= end) {
                self.now = self.now.max(next);
                self.with(|gateway, cx| gateway.handle(cx, Input::Timeout));
            }
            self.now = end;
        }

        fn last_lines(&self, test: u64) -> Vec<String> {
            let (lines, _) = self.gateway.test_lines(test).expect("it is kept");
            lines[lines.len().saturating_sub(2)..].to_vec()
        }

        /// Answers the oldest request that was sent and is not answered, if there is one.
        fn answer(&mut self, body: &str) -> Option<String> {
            self.answer_with("200 OK", body)
        }

        /// The same with another status, and perhaps header fields behind it.
        fn answer_with(&mut self, status: &str, body: &str) -> Option<String> {
            let (link, request) = (!self.sent.is_empty()).then(|| self.sent.remove(0))?;
            let mut text = format!("SIP/2.0 {status}\r\n");
            for line in request.split("\r\n").take_while(|line| !line.is_empty()) {
                let is = |name: &str| line.starts_with(name);
                if is("Via: ") || is("From: ") || is("Call-ID: ") || is("CSeq: ") {
                    text += &format!("{line}\r\n");
                } else if is("To: ") {
                    text += &format!("{line}{}\r\n", if line.contains(";tag=") { "" } else { ";tag=heu" });
                }
            }
            if !request.starts_with("ACK ") {
                let length = body.len();
                text += "Contact: <sip:heu@192.0.2.88>\r\nContent-Type: application/sdp\r\n";
                let mut octets = format!("{text}Content-Length: {length}\r\n\r\n{body}").into_bytes();
                self.with(|gateway, cx| gateway.handle(cx, Input::Stream { link, bytes: &mut octets }));
            }
            Some(request.split("\r\n").next().unwrap_or_default().to_owned())
        }

        fn close(&mut self, why: CloseReason) {
            let (link, _) = self.connects.pop().expect("a connection");
            self.with(|gateway, cx| gateway.handle(cx, Input::Closed { link, why }));
        }
    }

    #[test]
    fn a_port_where_nobody_listens_is_red_at_tcp_for_a_partner_and_for_a_sip_domain() {
        for (domain, address) in [("wiese.example", "192.0.2.77:5269"), ("acker.example", "192.0.2.88:5070")] {
            let mut world = World::new();
            let test = world.begin(domain).expect("a test");
            assert_eq!(world.connects.last().map(|(_, to)| to.as_str()), Some(address));
            assert!(world.gateway.test_lines(test).is_some_and(|(_, outcome)| outcome.is_none()));
            world.close(CloseReason::Refused);
            let lines = world.last_lines(test);
            assert!(lines[0].starts_with("RED tcp") && lines[0].contains(address), "{lines:?}");
            assert!(lines[1].starts_with("    side: the partner's; what to do: "), "{lines:?}");
            world.with(|gateway, cx| gateway.end_test(cx, test));
            assert!(world.gateway.test_lines(test).is_none() && !world.out.trail.is_watching());
        }
    }

    #[test]
    fn a_sip_domain_that_answers_is_green_and_so_is_a_message_in_a_session_with_its_user() {
        let mut world = World::with_settings(|settings| {
            settings.sip_domains[0].dialect = Dialect::Lync;
            settings.partners[0].kind = PartnerKind::Federated;
        });
        let test = world.begin("acker.example").expect("a test");
        let (link, _) = world.connects.pop().expect("a connection");
        world.with(|gateway, cx| gateway.handle(cx, Input::Opened { link }));
        assert_eq!(world.answer("").as_deref(), Some("OPTIONS sip:acker.example SIP/2.0"));
        let lines = world.last_lines(test);
        assert!(lines[1].starts_with("green: acker.example can be reached"), "{lines:?}");

        let user = Test::User { from: "klee@wiese.example".into(), to: "sip:heu@acker.example".into() };
        let test = world.with(|gateway, cx| gateway.begin_test(cx, &user)).expect("a test");
        let session = "v=0\r\no=- 0 0 IN IP4 192.0.2.88\r\ns=-\r\nc=IN IP4 192.0.2.88\r\nt=0 0\r\n\
                       m=message 5060 sip sip:heu@acker.example\r\na=accept-types:text/plain\r\n";
        let mut asked = Vec::new();
        for _ in 0..200 {
            while let Some(line) = world.answer(session) {
                asked.push(line.split(' ').next().unwrap_or_default().to_owned());
            }
            world.wait(Duration::from_millis(50));
            if world.gateway.test_lines(test).is_some_and(|(_, outcome)| outcome.is_some()) {
                break;
            }
        }
        assert_eq!(asked, ["INVITE", "ACK", "MESSAGE"]);
        let lines = world.last_lines(test);
        assert!(lines[0].starts_with("ok  delivered") && lines[1].starts_with("green: the message was delivered"));
    }

    #[test]
    fn an_edge_that_does_not_know_us_is_red_with_what_it_says() {
        for (dialect, is_red) in [(Dialect::Lync, true), (Dialect::Standard, false)] {
            let mut world = World::with_settings(|settings| settings.sip_domains[0].dialect = dialect);
            let test = world.begin("acker.example").expect("a test");
            let (link, _) = world.connects.pop().expect("a connection");
            world.with(|gateway, cx| gateway.handle(cx, Input::Opened { link }));
            let said = "ms-diagnostics-public: 1002;reason=\"From URI not authorized to communicate\"";
            world.answer_with(&format!("403 Forbidden\r\n{said}"), "");
            let (lines, outcome) = world.gateway.test_lines(test).expect("it is kept");
            let told = lines.iter().find(|line| line.contains("403 Forbidden")).expect("a line");
            assert!(told.contains("(1002 From URI not authorized to communicate)"), "{told}");
            assert_eq!((told.starts_with("RED"), outcome.is_some_and(Result::is_err)), (is_red, is_red), "{lines:?}");
        }
    }

    #[test]
    fn a_domain_that_is_nobodys_is_red_before_anything_is_asked() {
        let mut world = World::new();
        let test = world.begin("elsewhere.example").expect("a test");
        let lines = world.last_lines(test);
        assert!(lines[0].starts_with("RED configured") && lines[1].contains("set partner elsewhere.example"));
        assert!(world.connects.is_empty());
        assert!(world.begin("no domain").is_err_and(|error| error.contains("allowed: ")));
    }

    #[test]
    fn few_tests_run_at_a_time_and_those_that_nobody_fetches_are_forgotten() {
        let mut world = World::new();
        let tests: Vec<u64> = (0..PROBES_MAX).map(|_| world.begin("wiese.example").expect("a test")).collect();
        assert!(world.begin("wiese.example").is_err_and(|error| error.contains("tests run")));
        // Nobody answers at all: each comes to its end by itself.
        world.wait(machine::STEP_TIME_MAX);
        for test in &tests {
            let (lines, outcome) = world.gateway.test_lines(*test).expect("it is kept");
            assert!(outcome.is_some_and(Result::is_err), "{lines:?}");
        }
        world.wait(machine::KEPT_TIME);
        assert!(tests.iter().all(|test| world.gateway.test_lines(*test).is_none()));
        assert!(!world.out.trail.is_watching());
        world.begin("acker.example").expect("there is room again");
    }

    #[test]
    fn a_test_message_passes_the_checks_of_messages_or_says_which_did_not_let_it() {
        let mut world = World::new();
        let mut user = |from: &str, to: &str| {
            let test = Test::User { from: from.into(), to: to.into() };
            world.with(|gateway, cx| gateway.begin_test(cx, &test)).map(|test| world.last_lines(test))
        };
        let lines = user("heu@acker.example", "klee@wiese.example").expect("a test");
        assert!(lines[0].starts_with("ok  accepted") && lines[1].starts_with("ok  dns"), "{lines:?}");
        // The partner's users have to be added first.
        let lines = user("klee@wiese.example", "heu@acker.example").expect("a test");
        assert!(lines[0].starts_with("RED accepted") && lines[0].contains("has not added"), "{lines:?}");
        for (from, to) in [("heu@acker.example", "stroh@acker.example"), ("a@b.example", "c@d.example"), ("x", "y")] {
            assert!(user(from, to).is_err_and(|error| error.contains("allowed: ")));
        }
        let counted = |counter| world.count.of(counter);
        use crate::base::counters::Counter;
        assert_eq!((counted(Counter::SipMessageIn), counted(Counter::XmppMessageRefused)), (1, 1));
    }
}
