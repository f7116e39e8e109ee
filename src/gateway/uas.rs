//! What a SIP request gets: who may ask, what is served, and the answer to the rest
//! (RFC 3261 section 8.2, RFC 7247 section 8).
//!
//! The order of the checks: the sender's right to speak for his domain, the method,
//! the extensions it requires, where it goes, then what the method itself demands.
//! A source that proved nothing is answered without keeping anything of it.

use super::content::{self, Refusal};
use super::discovered::Held;
use super::policy::{Denial, What};
use super::route::{self, SipSource};
use super::{Gateway, address, error, provider};
use crate::base::certificate::PeerCertificate;
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::slab::Key;
use crate::base::text::Escaped;
use crate::settings::{Dialect, Verification};
use crate::sip::diagnostics::{self, cause};
use crate::sip::endpoint::{NameAddr, Source};
use crate::sip::message::{Message, Method, Response};
use crate::sip::session_timer::TIMER;
use crate::sip::uri::{Scheme, Uri};
use crate::xmpp::jid::Jid;
use crate::xmpp::server::{Refused, Undelivered};
use crate::xmpp::stanza::{Condition, StanzaError};
use std::borrow::Cow;

/// The methods served.
pub(super) const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, MESSAGE, INFO, UPDATE, SUBSCRIBE, NOTIFY, OPTIONS";
/// Seconds a sender waits before he tries an overloaded gateway again.
const RETRY_AFTER_S: &str = "10";

/// A final answer, decided.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The status code.
    pub(super) status: u16,
    /// The reason phrase: the cause in words.
    pub(super) reason: Cow<'static, str>,
    /// What counts it.
    pub(super) counter: Counter,
    /// Header fields that belong to the status.
    headers: Vec<(&'static str, Cow<'static, str>)>,
}

impl Answer {
    pub(super) fn new(status: u16, reason: impl Into<Cow<'static, str>>, counter: Counter) -> Self {
        Self { status, reason: reason.into(), counter, headers: Vec::new() }
    }

    /// With one header field more.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With what `ms-diagnostics-public` says of the cause, where that is more than the
    /// status does.
    pub(super) fn because(self, diagnostic: Option<&'static str>) -> Self {
        match diagnostic {
            Some(diagnostic) => self.with(diagnostics::HEADER, diagnostic),
            None => self,
        }
    }

    /// 503: a table is full, or the program ends.
    pub(super) fn overload(reason: &'static str) -> Self {
        Self::new(503, reason, Counter::SipOverload).with("Retry-After", RETRY_AFTER_S)
    }

    /// The answer to a MESSAGE that XMPP refused or lost; it is counted already.
    pub(super) fn of_failure(failure: error::Answer) -> Self {
        let mut answer = Self::new(failure.status, failure.reason, Counter::SipMessageFailed);
        if failure.needs_allow() {
            answer = answer.with("Allow", ALLOW);
        }
        match failure.retry_after_s {
            Some(seconds) => answer.with("Retry-After", seconds.to_string()),
            None => answer,
        }
    }

    /// The answer to a request that XMPP answered with a stanza error, in the words of the
    /// dialect that its sender speaks.
    pub(super) fn of_stanza_error(error: &StanzaError<'_>, from_is_full: bool, dialect: Dialect) -> Self {
        let (mut contact, mut words) = (String::new(), String::new());
        let failure = match dialect {
            Dialect::Standard => {
                error::answer_for(error.condition, error.address.as_deref(), from_is_full, &mut contact)
            }
            Dialect::Lync => error::lync_answer_for(error.condition),
        };
        let mut answer = Self::of_failure(failure).because(match error.condition {
            Condition::RemoteServerNotFound => Some(cause::NO_ROUTE),
            _ => None,
        });
        error::phrase(error.text.as_deref().unwrap_or_default(), &mut words);
        if !words.is_empty() {
            answer.reason = words.into();
        }
        if contact.is_empty() { answer } else { answer.with("Contact", format!("<{contact}>")) }
    }

    /// The answer to a MESSAGE that the XMPP side did not even take.
    pub(super) fn of_refused(refused: Refused) -> Self {
        match refused {
            Refused::NotPartner => Self::new(404, "The Domain Is No XMPP Partner Here", Counter::SipMessageFailed)
                .because(Some(cause::NO_ROUTE)),
            Refused::Overload => {
                Self { counter: Counter::SipMessageFailed, ..Self::overload("Too Much Waits For This Domain") }
            }
            Refused::TooLarge { .. } => Self::new(513, "Larger Than The XMPP Server Takes", Counter::SipMessageFailed),
            Refused::Failed(why) => Self::of_undelivered(why),
        }
    }

    /// The answer to a request whose stanza did not reach the XMPP side.
    pub(super) fn of_undelivered(why: Undelivered) -> Self {
        Self::of_failure(error::answer_for_undelivered(why)).because(match why {
            Undelivered::NotFound => Some(cause::NO_ROUTE),
            Undelivered::Refused => Some(cause::NO_TRUST),
            Undelivered::Unreachable | Undelivered::Timeout | Undelivered::StreamLost => Some(cause::NOT_NOW),
            Undelivered::TooLarge | Undelivered::Overload => None,
        })
    }

    /// The answer to a body we cannot read.
    pub(super) fn of_content(refusal: Refusal) -> Self {
        let answer = Self::new(refusal.status(), refusal.reason(), Counter::SipMessageRefused);
        match refusal.status() {
            415 => answer.with("Accept", content::ACCEPT).with("Accept-Encoding", "identity"),
            _ => answer,
        }
    }
}

impl Gateway {
    /// A new request.
    pub(super) fn on_request(&mut self, cx: &mut Cx<'_>, transaction: Key, message: &Message<'_>, source: &Source) {
        let proven = self.proves_anything(source);
        let judged = self.judge(message, source, proven).and_then(|accepted| self.permit(cx, message, accepted));
        if !self.settings.discovery_open || !proven {
            // Nobody is counted.
        } else if let Some(domain) = self.discovered_sender(message, source) {
            self.note_outcome(&domain, judged.as_ref().err().map(|answer| answer.counter));
        }
        let refused = judged.as_ref().err().map(|answer| (answer.status, &*answer.reason));
        self.heard.note(cx.now, message, refused, |domain| self.routes.sip_domain(&self.settings, domain).is_some());
        self.settle_request(cx, transaction, message, source, proven, judged);
    }

    /// Does what a request may do, or answers why it may not.
    pub(super) fn settle_request(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        message: &Message<'_>,
        source: &Source,
        proven: bool,
        judged: Result<Accepted, Answer>,
    ) {
        let is_message = message.method() == Method::Message;
        if is_message {
            cx.count(Counter::SipMessageIn);
        }
        match judged {
            Ok(Accepted::Message { from, to }) => self.message_from_sip(cx, transaction, message, from, to),
            Ok(Accepted::Subscribe { from, to }) => {
                self.subscribe_from_sip(cx, transaction, message, source, (from, to));
            }
            Ok(Accepted::Resubscribe { from }) => self.resubscribe_from_sip(cx, transaction, message, source, &from),
            Ok(Accepted::Notify { from }) => self.notify_from_sip(cx, transaction, message, &from),
            Ok(Accepted::Invite { from, to }) => self.invite_from_sip(cx, transaction, message, (from, to)),
            Ok(Accepted::InSession { session }) => self.session_request(cx, transaction, message, session),
            Ok(Accepted::Call(call)) => self.relay(cx, transaction, message, source, &call),
            Ok(Accepted::Options) => self.answer_options(cx, transaction),
            Err(answer) => {
                if is_message {
                    cx.count(Counter::SipMessageRefused);
                }
                cx.count(answer.counter);
                self.log_refusal(cx, message, &answer);
                if answer.counter == Counter::SipForbidden {
                    self.log_identity(cx, message, source);
                }
                self.answer(cx, transaction, proven, &answer);
            }
        }
    }

    /// A BENOTIFY, whose sender hears nothing.
    pub(super) fn on_benotify(&mut self, cx: &mut Cx<'_>, message: &Message<'_>, source: &Source) {
        let from = if self.ending {
            Err(Answer::overload("The Gateway Is Being Shut Down"))
        } else {
            check_require(message).and_then(|()| self.proved_sender(message, source))
        };
        self.benotify_from_sip(cx, message, from);
    }

    fn judge(&self, message: &Message<'_>, source: &Source, proven: bool) -> Result<Accepted, Answer> {
        if self.ending {
            return Err(Answer::overload("The Gateway Is Being Shut Down"));
        }
        if !proven {
            return Err(Answer::new(403, "This Address Is No Peer Of Any Domain Here", Counter::SipForbidden));
        }
        let method = message.method();
        let to_us = self.is_own_host(message.uri());
        if method == Method::Options && to_us {
            check_require(message)?;
            return Ok(Accepted::Options);
        }
        // Known or not, nobody may do what nobody here can: the answer tells nothing else.
        self.check_method(message)?;
        let from = self.proved_sender(message, source)?;
        self.judge_from(message, from)
    }

    /// What a request may do whose sender is proved.
    pub(super) fn judge_from(&self, message: &Message<'_>, from: Jid) -> Result<Accepted, Answer> {
        if let Some(call) = self.call_of(message, &from) {
            return Ok(Accepted::Call(call));
        }
        let method = message.method();
        self.check_method(message)?;
        check_require(message)?;
        // What stands in a dialog goes by its tags; its Request-URI is our own Contact.
        match (method, message.to().tag) {
            (Method::Subscribe, Some(_)) => return Ok(Accepted::Resubscribe { from }),
            (Method::Notify, _) => return Ok(Accepted::Notify { from }),
            (_, Some(_)) => {
                let session = self.sessions.find(message).filter(|key| self.is_session_of(*key, &from));
                return session.map(|session| Accepted::InSession { session }).ok_or_else(no_dialog);
            }
            _ => {}
        }
        let target = self.target(message)?;
        if needs_dialog(method) {
            return Err(no_dialog());
        }
        match method {
            Method::Options => Ok(Accepted::Options),
            Method::Message => Ok(Accepted::Message { from, to: target }),
            Method::Subscribe if from.local().is_none() => {
                Err(Answer::new(403, "From Names No User", Counter::SipForbidden))
            }
            Method::Subscribe => Ok(Accepted::Subscribe { from, to: target }),
            Method::Invite if from.local().is_none() => {
                Err(Answer::new(403, "From Names No User", Counter::SipForbidden))
            }
            Method::Invite => Ok(Accepted::Invite { from, to: target }),
            _ => Err(not_allowed()),
        }
    }

    /// May its sender have of the target what he asks for, by his rights and by the word
    /// that vouches for him?
    pub(super) fn permit(
        &mut self,
        cx: &mut Cx<'_>,
        message: &Message<'_>,
        accepted: Accepted,
    ) -> Result<Accepted, Answer> {
        let users;
        let (from, to, what) = match &accepted {
            Accepted::Message { from, to } | Accepted::Invite { from, to } => (from, to, What::Im),
            // A session may outlive the right to it.
            Accepted::InSession { session } if message.method() == Method::Message => {
                users = self.sessions.users(*session).ok_or_else(no_dialog)?;
                (&users.0, &users.1, What::Im)
            }
            Accepted::Subscribe { from, to } => (from, to, What::Presence),
            // A call asks for its own right: what it offers decides which.
            Accepted::InSession { .. }
            | Accepted::Resubscribe { .. }
            | Accepted::Notify { .. }
            | Accepted::Call(_)
            | Accepted::Options => return Ok(accepted),
        };
        self.permit_sip(cx, message, from, to, what)?;
        Ok(accepted)
    }

    /// May this SIP user have this of that XMPP user, as this request asks? The same for
    /// whatever a request may ask for: messages, sessions, presence, calls.
    pub(super) fn permit_sip(
        &mut self,
        cx: &mut Cx<'_>,
        message: &Message<'_>,
        from: &Jid,
        to: &Jid,
        what: What,
    ) -> Result<(), Answer> {
        self.is_there(from.bare());
        self.hold_discovered(cx, from.domain(), to.bare()).map_err(Held::answer)?;
        if !self.routes.is_configured(from.domain()) {
            // Its users can be answered from now on.
            self.xmpp.serve(from.domain());
        }
        // Before a licence is taken for him.
        if !self.is_verified(from.domain(), message) && !self.has_as_contact(to, from) {
            let answer = Answer::new(403, "The Sender Is Not Verified And No Contact", Counter::Unverified);
            return Err(answer.because(Some(cause::UNVERIFIED)));
        }
        let way = match self.decorating(message.uri()) {
            Some(place) => self.may_talk_by(cx, from, place, what),
            None => self.may_talk(cx, from, to.domain(), what),
        };
        way.map(drop).map_err(Denial::answer)
    }

    /// The domain that a request comes from, if it proved one that nobody configured.
    fn discovered_sender(&self, message: &Message<'_>, source: &Source) -> Option<String> {
        let from = Uri::parse(message.from().uri).ok()?;
        let domain = idna::domain_to_unicode(from.host).0;
        let found = self.routes.sip_sender(&self.settings, &domain, &self.sip_source(source)).ok()?;
        route::is_discovered(found).then_some(domain)
    }

    /// The provider whose decorated address a Request-URI is.
    fn decorating(&self, uri: &str) -> Option<usize> {
        if !self.settings.providers.iter().any(|provider| provider.enabled) {
            return None;
        }
        let mut jid = String::new();
        address::to_jid(uri, None, &mut jid).ok()?;
        provider::undecorate(&self.settings, &Jid::parse(&jid).ok()?)?.ok().map(|(_, place)| place)
    }

    /// Is the sender who he says, by the word that counts for his domain?
    pub(super) fn is_verified(&self, sip_domain: &str, message: &Message<'_>) -> bool {
        let level = match self.routes.sip_domain(&self.settings, sip_domain) {
            Some(domain) if route::is_discovered(domain) => self.settings.discovery_verification,
            Some(domain) => domain.verification,
            None => Verification::Always,
        };
        match level {
            Verification::Always => true,
            Verification::Never => false,
            Verification::Source => says_verified(message),
        }
    }

    /// Is the source a peer of any domain?
    fn proves_anything(&self, source: &Source) -> bool {
        let source = self.sip_source(source);
        self.settings.sip_domains.iter().any(|domain| route::may_send_for(domain, &source))
            // While discovery is open a believed certificate may be anybody's.
            || (self.settings.discovery_open && source.certificate.is_some_and(PeerCertificate::is_trusted))
    }

    fn sip_source<'a>(&'a self, source: &Source) -> SipSource<'a> {
        SipSource {
            transport: source.transport,
            address: source.address.ip(),
            certificate: source.link.and_then(|link| self.sip.certificate(link)),
        }
    }

    /// Who sends it, when the connection proves his domain (REQ-7247-55); a domain
    /// that is a partner's is never proved by SIP (P3).
    pub(super) fn proved_sender(&self, message: &Message<'_>, source: &Source) -> Result<Jid, Answer> {
        let bad_from = |cause: &'static str| Answer::new(400, cause, Counter::SipRequestRefused);
        let from = message.from();
        let uri = Uri::parse(from.uri).map_err(|_| bad_from("The URI Of From Cannot Be Read"))?;
        if !uri.is_sip() {
            return Err(bad_from("From Is No SIP Address"));
        }
        if uri.host.eq_ignore_ascii_case("anonymous.invalid") {
            return Err(Answer::new(433, "Anonymity Disallowed", Counter::SipForbidden));
        }
        let mut jid = String::new();
        let mapped = address::to_jid(from.uri, from.params.value("gr"), &mut jid).map(|()| Jid::parse(&jid));
        let domain = match &mapped {
            Ok(Ok(jid)) => jid.domain(),
            _ => &uri.host.to_ascii_lowercase(),
        };
        if let Err(denied) = self.routes.sip_sender(&self.settings, domain, &self.sip_source(source)) {
            let answer = Answer::new(denied.status(), denied.reason(), Counter::SipForbidden);
            return Err(answer.because(denied.diagnostic()));
        }
        match mapped {
            Ok(Ok(jid)) if jid.resource().is_none() => Ok(gruu_elsewhere(message, &jid).unwrap_or(jid)),
            Ok(Ok(jid)) => Ok(jid),
            Ok(Err(_)) => Err(bad_from("From Has No XMPP Form")),
            Err(why) => Err(bad_from(why.reason())),
        }
    }

    fn check_method(&self, message: &Message<'_>) -> Result<(), Answer> {
        match message.method() {
            Method::Other(_) => {
                Err(Answer::new(501, "Not Implemented", Counter::SipMethodRefused).with("Allow", ALLOW))
            }
            Method::Register | Method::Publish => Err(not_allowed()),
            _ => Ok(()),
        }
    }

    /// Whom it is for: an address of a partner's domain.
    fn target(&self, message: &Message<'_>) -> Result<Jid, Answer> {
        let not_found = |cause: &'static str| Answer::new(404, cause, Counter::SipRequestRefused);
        let bad_scheme = |cause: &'static str| Answer::new(416, cause, Counter::SipRequestRefused);
        let uri = match Uri::parse(message.uri()) {
            Ok(uri) if uri.is_sip() => uri,
            Ok(_) => return Err(bad_scheme("Only sip: Addresses Are Bridged")),
            Err(_) => return Err(Answer::new(400, "Request-URI Cannot Be Read", Counter::SipRequestRefused)),
        };
        let to_is_sips = message.to().uri().is_some_and(|to| to.scheme == Scheme::Sips);
        if uri.scheme == Scheme::Sips || to_is_sips {
            // XMPP cannot promise TLS on every hop (RFC 7247 section 8).
            return Err(bad_scheme("sips: Cannot Be Kept Across XMPP"));
        }
        let mut jid = String::new();
        address::to_jid(message.uri(), None, &mut jid).map_err(|why| not_found(why.reason()))?;
        let jid = Jid::parse(&jid).map_err(|_| not_found("The Address Has No XMPP Form"))?;
        let jid = match provider::undecorate(&self.settings, &jid) {
            None => jid,
            Some(Ok((user, _))) => user,
            Some(Err(why)) => return Err(not_found(why.reason())),
        };
        if self.routes.xmpp_domain(&self.settings, jid.domain()).is_some() {
            return if jid.local().is_none() && message.method() != Method::Options {
                Err(not_found("The Address Has No User"))
            } else {
                Ok(jid)
            };
        }
        if self.routes.sip_domain(&self.settings, jid.domain()).is_some() {
            let answer = not_found("This Gateway Bridges To XMPP, Not Back To SIP");
            return Err(answer.because(Some(cause::SAME_SIDE)));
        }
        Err(not_found("The Domain Is No XMPP Partner Here").because(Some(cause::NO_ROUTE)))
    }

    fn is_own_host(&self, uri: &str) -> bool {
        let Ok(uri) = Uri::parse(uri) else { return false };
        if uri.user.is_some() {
            return false;
        }
        let literal = uri.host.trim_start_matches('[').trim_end_matches(']').parse::<core::net::IpAddr>().ok();
        uri.host.eq_ignore_ascii_case(&self.settings.host_name)
            || literal.is_some_and(|ip| {
                self.settings.listeners.iter().any(|l| l.address.ip() == ip || l.address.ip().is_unspecified())
            })
    }

    fn answer(&mut self, cx: &mut Cx<'_>, transaction: Key, proven: bool, answer: &Answer) {
        if self.test_message_answered(cx, transaction, answer) {
            return;
        }
        let headers: Vec<(&str, &str)> = answer.headers.iter().map(|(name, value)| (*name, value.as_ref())).collect();
        let response =
            Response { status: answer.status, reason: &answer.reason, headers: &headers, ..Response::default() };
        if proven {
            self.sip.respond(cx, transaction, &response);
        } else {
            self.sip.respond_unproven(cx, transaction, &response);
        }
    }

    /// Answers a request of a source that is known.
    pub(super) fn respond(&mut self, cx: &mut Cx<'_>, transaction: Key, answer: &Answer) {
        self.answer(cx, transaction, true, answer);
    }

    pub(super) fn answer_options(&mut self, cx: &mut Cx<'_>, transaction: Key) {
        self.sip.respond(cx, transaction, &OPTIONS);
    }

    /// Is this a session of a user of the sender's domain?
    pub(super) fn is_session_of(&self, session: Key, from: &Jid) -> bool {
        self.sessions.sip_domain(session).is_some_and(|domain| domain == from.domain())
    }

    /// Says what a connection proved, and what it has to prove for who it says it speaks
    /// for: one of the two is to be mended.
    fn log_identity(&self, cx: &mut Cx<'_>, message: &Message<'_>, source: &Source) {
        let uri = message.from().uri;
        let domain = Uri::parse(uri).map(|uri| uri.host.to_ascii_lowercase()).unwrap_or_default();
        let found = route::proved_by(&self.sip_source(source));
        let wanted = match self.routes.sip_domain(&self.settings, &domain) {
            Some(domain) => route::wanted_of(domain),
            None => "a configured SIP domain".into(),
        };
        cx.out.log(
            crate::base::outbox::Level::Info,
            "sip.identity",
            format_args!(
                "side=sip domain={} peer={} found={} wanted={}",
                Escaped(&domain),
                source.address,
                Escaped(&found),
                Escaped(&wanted)
            ),
        );
    }

    pub(super) fn log_refusal(&self, cx: &mut Cx<'_>, message: &Message<'_>, answer: &Answer) {
        let from = message.from().uri;
        let side = if answer.counter == Counter::SipOverload { "ours" } else { "sip" };
        cx.out.log(
            crate::base::outbox::Level::Warn,
            "sip.refused",
            format_args!(
                "side={side} method={} from={} to={} status={} cause={}",
                Escaped(message.method().as_str()),
                self.named(from),
                self.named(message.uri()),
                answer.status,
                Escaped(&answer.reason)
            ),
        );
    }
}

/// Does an Edge vouch for the sender of this request?
fn says_verified(message: &Message<'_>) -> bool {
    let levels = message.headers("ms-asserted-verification-level");
    let said = |level: &str| {
        level.split(';').filter_map(|parameter| parameter.split_once('=')).find_map(|(name, value)| {
            name.trim()
                .eq_ignore_ascii_case("ms-source-verified-user")
                .then(|| value.trim().eq_ignore_ascii_case("verified"))
        })
    };
    // One that says otherwise takes the word back.
    let mut told = levels.filter_map(said).peekable();
    told.peek().is_some() && told.all(|verified| verified)
}

/// The sender's full address when not From but Contact or P-Asserted-Identity holds his
/// GRUU (REQ-7572-15). It has to be the same user's: From is what was proved.
fn gruu_elsewhere(message: &Message<'_>, from: &Jid) -> Option<Jid> {
    let asserted = message.headers("P-Asserted-Identity").filter_map(NameAddr::parse);
    message.contact().into_iter().chain(asserted).take(4).find_map(|address| {
        let mut jid = String::new();
        address::to_jid(address.uri, None, &mut jid).ok()?;
        Jid::parse(&jid).ok().filter(|jid| jid.resource().is_some() && jid.bare() == from.bare())
    })
}

/// What a request may do.
pub(super) enum Accepted {
    /// A message between two addresses.
    Message { from: Jid, to: Jid },
    /// Watch somebody's presence.
    Subscribe { from: Jid, to: Jid },
    /// Go on watching, or end it.
    Resubscribe { from: Jid },
    /// Tell somebody's presence to one who watches.
    Notify { from: Jid },
    /// Open a session of messages.
    Invite { from: Jid, to: Jid },
    /// Whatever it is, inside such a session.
    InSession { session: Key },
    /// A call, or something that belongs to one, with a public provider.
    Call(super::relay::Call),
    /// Be told what is served here.
    Options,
}

/// The answer to OPTIONS (RFC 3261 section 11.2).
const OPTIONS: Response<'_> = Response {
    status: 200,
    reason: "OK",
    headers: &[
        ("Allow", ALLOW),
        ("Accept", content::ACCEPT),
        ("Accept-Encoding", "identity"),
        ("Supported", TIMER),
        ("Allow-Events", crate::sip::subscription::PRESENCE),
    ],
    content_type: None,
    body: b"",
};

pub(super) fn not_allowed() -> Answer {
    Answer::new(405, "Method Not Allowed", Counter::SipMethodRefused).with("Allow", ALLOW)
}

/// Session timers are supported; every other extension that is required is refused (section
/// 8.2.2.3).
fn check_require(message: &Message<'_>) -> Result<(), Answer> {
    let mut unsupported = String::new();
    for tag in message.headers("Require").filter(|tag| !tag.eq_ignore_ascii_case(TIMER)).take(32) {
        if !unsupported.is_empty() {
            unsupported.push_str(", ");
        }
        unsupported.push_str(tag);
    }
    if unsupported.is_empty() {
        return Ok(());
    }
    Err(Answer::new(420, "Bad Extension", Counter::SipRequestRefused).with("Unsupported", unsupported))
}

/// What stands in none of our dialogs belongs to nothing (section 12.2.2).
fn no_dialog() -> Answer {
    Answer::new(481, "Call/Transaction Does Not Exist", Counter::SipRequestRefused)
}

/// These live in dialogs only.
const fn needs_dialog(method: Method<'_>) -> bool {
    matches!(method, Method::Bye | Method::Update | Method::Prack | Method::Info | Method::Refer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn req_7572_15_the_gruu_of_the_same_user_is_taken_from_contact_or_an_asserted_identity() {
        let resource = |headers: &str| {
            let text = format!(
                "MESSAGE sip:lena@chat.example SIP/2.0\r\nVia: SIP/2.0/TLS p.voip.example;branch=z9hG4bK1\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:marta@voip.example>;tag=1\r\nTo: <sip:lena@chat.example>\r\n\
                 Call-ID: a\r\nCSeq: 1 MESSAGE\r\n{headers}Content-Length: 0\r\n\r\n"
            );
            let mut octets = text.into_bytes();
            let head = octets.len();
            let message = Message::parse(&mut octets, head).expect("a good request");
            let from = Jid::parse("marta@voip.example").expect("a good address");
            gruu_elsewhere(&message, &from).and_then(|jid| jid.resource().map(str::to_owned))
        };
        assert_eq!(resource("Contact: <sip:marta@voip.example;gr=desk>\r\n").as_deref(), Some("desk"));
        assert_eq!(resource("P-Asserted-Identity: <sip:marta@voip.example;gr=hall>\r\n").as_deref(), Some("hall"));
        assert_eq!(resource("Contact: <sip:192.0.2.1>\r\n"), None);
        assert_eq!(resource("Contact: <sip:paul@voip.example;gr=desk>\r\n"), None);
        assert_eq!(resource(""), None);
    }
}
