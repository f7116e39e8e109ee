//! Sessions of instant messages: an INVITE whose media line says that messages travel as SIP
//! requests inside the dialog, as Lync and its kin have it; the rules of RFC 7573 that are
//! not MSRP's.
//!
//! XMPP has no sessions. One is opened when the first message wants to go to a SIP user who
//! takes sessions, and is ended when nothing crossed for a while; one that the SIP user opens
//! is accepted in the XMPP user's name. Every message keeps its place in the lane of its
//! pair (`pending.rs`), so a session carries one at a time and holds at most one while it
//! is being opened.
//!
//! `caller.rs` is the side that invites, `callee.rs` the one that is invited, `inside.rs`
//! what comes in an open session, `typing.rs` who is writing, `table.rs` where all is kept.

mod callee;
mod caller;
mod inside;
pub(super) mod table;
mod typing;

use super::owner::{SESSION as OF_SESSION, SESSION_WHAT as WHAT};
use super::pending::Pending;
use super::policy::What;
use super::presence::Headers;
use super::route::{Denied, HOPS_MAX};
use super::{Gateway, report};
use crate::base::counters::Counter;
use crate::base::cx::{Cx, Ticket};
use crate::base::outbox::Writer;
use crate::base::slab::Key;
use crate::base::time::Instant;
use crate::base::xml::Tag;
use crate::limits::SESSION_TURN_MAX;
use crate::settings::{Dialect, ImMode, SESSION_IDLE_S};
use crate::sip::diagnostics::{self, status_in_dialog};
use crate::sip::endpoint::{Failure, Refused};
use crate::sip::message::{Message, Method};
use crate::sip::sdp;
use crate::sip::session_timer::TIMER;
use crate::xmpp;
use crate::xmpp::stanza::{Condition, Head, Kind, StanzaError};
use core::time::Duration;
use table::{First, Phase};

/// What a request of a session is for; MESSAGE has the ticket of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Asked {
    /// INVITE.
    Invite = 0,
    /// A notice that somebody types.
    Typing = 1 << 58,
    /// A refresh of the session.
    Refresh = 2 << 58,
    /// BYE, whose answer changes nothing.
    Bye = 3 << 58,
}

fn ticket(key: Key, asked: Asked) -> Ticket {
    Ticket(Key::from_bits(key.to_bits() | OF_SESSION | asked as u64))
}

/// The session that a ticket names, and what was asked, if it is one of a session.
fn asked(ticket: Ticket) -> Option<(Key, Asked)> {
    let bits = ticket.0.to_bits();
    if bits & OF_SESSION == 0 || bits >> 61 != 0 {
        return None;
    }
    let asked = match bits & WHAT {
        0 => Asked::Invite,
        what if what == Asked::Typing as u64 => Asked::Typing,
        what if what == Asked::Refresh as u64 => Asked::Refresh,
        _ => Asked::Bye,
    };
    Some((Key::from_bits(bits & !(OF_SESSION | WHAT)), asked))
}

/// The types of bodies that a session takes: for `a=accept-types`.
const ACCEPT_TYPES: &str = "text/plain text/html text/rtf multipart/alternative application/im-iscomposing+xml";
/// The methods that are taken inside a session.
const ALLOW: &str = super::uas::ALLOW;

impl Gateway {
    /// Is a session opened for messages to this SIP domain?
    fn opens_sessions(&self, domain: &str) -> bool {
        let served = self.routes.sip_domain(&self.settings, domain);
        served.is_some_and(|served| {
            served.dialect == Dialect::Lync && served.im_mode.unwrap_or(ImMode::Session) == ImMode::Session
        })
    }

    fn is_lync(&self, domain: &str) -> bool {
        self.routes.sip_domain(&self.settings, domain).is_some_and(|served| served.dialect == Dialect::Lync)
    }

    /// How long a session with users of this domain lives without traffic.
    fn session_idle(&self, domain: &str) -> Duration {
        let served = self.routes.sip_domain(&self.settings, domain);
        Duration::from_secs(u64::from(served.map_or(SESSION_IDLE_S, |served| served.session_idle_s)))
    }

    /// Something crossed in a session: it lives on.
    fn touch(&mut self, cx: &Cx<'_>, key: Key) {
        let Some(session) = self.sessions.slots.get(key) else { return };
        let idle = self.session_idle(session.sip.domain());
        if let Some(session) = self.sessions.slots.get_mut(key) {
            (session.used, session.idle_at) = (cx.now, cx.now.after(idle));
        }
        self.sessions.arm(key);
    }

    /// Sends a request inside a session's dialog, with what every one of them has.
    fn ask_in_session(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        ticket: Ticket,
        method: Method<'_>,
        headers: &[(&str, &str)],
        content: Option<(&str, &[u8])>,
    ) -> Result<(), Refused> {
        self.ask_within(cx, key, ticket, (method, HOPS_MAX), headers, content)
    }

    /// The same for a request that may not go as far.
    fn ask_within(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        ticket: Ticket,
        (method, hops): (Method<'_>, u8),
        headers: &[(&str, &str)],
        content: Option<(&str, &[u8])>,
    ) -> Result<(), Refused> {
        let Self { sessions, sip, settings, routes, .. } = self;
        let Some(session) = sessions.slots.get_mut(key) else { return Err(Refused::Malformed) };
        let domain = session.sip.domain().to_owned();
        let (content_type, body) = content.map_or((None, &b""[..]), |(kind, body)| (Some(kind), body));
        Self::with_destination(sip, (settings, routes), &domain, |sip, destination| {
            session.dialog.request_within(hops, method, headers, content_type, body, |request| {
                sip.request(cx, ticket, destination, request)
            })
        })
    }

    /// Tells the XMPP user something that is no message of the SIP user's: nobody waits for
    /// what becomes of it.
    fn say_to_xmpp(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        write: impl FnOnce(&mut Writer<'_>),
    ) -> Result<(), xmpp::server::Refused> {
        let Some(session) = self.sessions.slots.get(key) else { return Ok(()) };
        let (id, to) = (cx.rng.token::<10>(), session.xmpp_target());
        let head = Head {
            kind: Kind::Message,
            from: session.sip.as_str(),
            to: to.as_str(),
            id: Some(id.as_str()),
            type_: Some("chat"),
            lang: None,
        };
        self.xmpp.send(cx, None, session.sip.domain(), to.domain(), |w| {
            head.emit(w, |w| {
                Tag::begin(w, "thread").text(&session.thread);
                write(w);
            });
        })
    }

    /// Our Contact in a session.
    fn session_contact(&self, key: Key) -> Option<String> {
        let session = self.sessions.slots.get(key)?;
        let user = super::presence::user_of(session.dialog.parts().local_uri);
        let transport = self.transport_for(session.sip.domain());
        Some(format!("<{}>", self.sip.contact(transport, user, session.dialog.local_tag())))
    }

    /// The description of our side of a session.
    fn session_description(&self, key: Key, offer: Option<&sdp::AllMedia<'_>>) -> Option<String> {
        let session = self.sessions.slots.get(key)?;
        let side = sdp::Side {
            host: &self.settings.host_name,
            session: session.number,
            format: if offer.is_some() { session.dialog.parts().local_uri } else { "null" },
            accept_types: ACCEPT_TYPES,
        };
        match offer {
            Some(offer) => side.answer(offer),
            None => Some(side.offer()),
        }
    }

    /// A message in a session got no answer at all: it is as dead as by a 408 (RFC 3261
    /// section 12.2.1.2), but nobody knows whether the message was seen.
    pub(super) fn message_unanswered(&mut self, cx: &mut Cx<'_>, ticket: Ticket) {
        let Some(Pending::ToSip(entry)) = self.pending.get_mut(ticket) else { return };
        if let Some(key) = entry.session() {
            self.end_session(cx, key, "a message had no answer in it");
        }
    }

    /// A message in a session was refused. Some refusals end all that the dialog is for
    /// (RFC 5057 section 5.1): the next message opens another.
    pub(super) fn message_refused(&mut self, cx: &mut Cx<'_>, key: Key, status: u16) {
        if matches!(status, 404 | 410 | 416 | 484 | 485 | 502 | 604) {
            self.end_session(cx, key, "its user or his address is there no more");
        }
    }

    /// Ends a session with a BYE, if need be as soon as one may be sent. What it holds is to be
    /// taken out before.
    fn end_session(&mut self, cx: &mut Cx<'_>, key: Key, cause: &'static str) {
        self.end_session_because(cx, key, cause, Condition::RecipientUnavailable, &[("Reason", "SIP;cause=200")]);
    }

    /// The same with what the BYE says of the cause, or the error what was held gets.
    fn end_session_because(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        cause: &'static str,
        condition: Condition,
        reason: &[(&str, &str)],
    ) {
        self.flush_first(cx, key);
        let Some(session) = self.sessions.slots.get_mut(key) else { return };
        if let Some(pending) = &mut session.unacknowledged {
            pending.ends.get_or_insert(cause);
            return self.sessions.arm(key);
        }
        if session.phase == Phase::Open {
            // Without room for it the other end finds out by a 481.
            let _ = self.ask_in_session(cx, key, ticket(key, Asked::Bye), Method::Bye, reason, None);
            self.drop_session(cx, key, cause);
        } else {
            self.sip.cancel(cx, ticket(key, Asked::Invite));
            let error = StanzaError::new(condition).with_text(cause);
            self.give_up_invite(cx, key, &error, cause);
        }
    }

    /// Ends a session that only waited for its ACK; if its users lost their rights meanwhile,
    /// with that cause.
    fn end_acknowledged(&mut self, cx: &mut Cx<'_>, key: Key, cause: &'static str) {
        if !self.review_session(cx, key.index()) {
            self.end_session(cx, key, cause);
        }
    }

    /// Ends a session without delay: with a BYE if it may have one, else the other end finds out
    /// by a 481.
    fn end_at_once(&mut self, cx: &mut Cx<'_>, key: Key, cause: &'static str) {
        if self.sessions.slots.get(key).is_some_and(|session| session.unacknowledged.is_some()) {
            self.drop_session(cx, key, cause);
        } else {
            self.end_session(cx, key, cause);
        }
    }

    /// A session is gone. A text that still waits is passed on: its sender counts it as
    /// delivered.
    fn drop_session(&mut self, cx: &mut Cx<'_>, key: Key, cause: &'static str) {
        self.flush_first(cx, key);
        if let Some(session) = self.sessions.remove(key) {
            cx.count(Counter::SessionEnded);
            cx.debug(
                "session.ended",
                format_args!(
                    "sip={} xmpp={} cause={cause}",
                    self.named(session.sip.as_str()),
                    self.named(session.xmpp.as_str())
                ),
            );
        }
    }

    /// SIP answered a request of a session. False: it was none of ours.
    pub(super) fn session_response(&mut self, cx: &mut Cx<'_>, ticket: Ticket, message: &Message<'_>) -> bool {
        let Some((key, asked)) = asked(ticket) else { return false };
        match asked {
            Asked::Invite => self.invite_answered(cx, key, message),
            Asked::Typing if message.status() >= 200 => self.typing_answered(cx, key, status_in_dialog(message)),
            Asked::Refresh if message.status() >= 200 => self.refresh_answered(cx, key, message),
            Asked::Typing | Asked::Refresh | Asked::Bye => {}
        }
        true
    }

    /// A request of a session got no answer. False: it was none of ours.
    pub(super) fn session_failed(&mut self, cx: &mut Cx<'_>, ticket: Ticket, failure: Failure) -> bool {
        let Some((key, asked)) = asked(ticket) else { return false };
        match asked {
            Asked::Invite => self.invite_failed(cx, key, failure),
            // The other end does not answer: as good as a 408.
            Asked::Typing => self.typing_answered(cx, key, 408),
            Asked::Refresh => self.end_session(cx, key, "a refresh had no answer"),
            Asked::Bye => {}
        }
        true
    }

    /// Deadlines of sessions have come.
    pub(super) fn session_timeout(&mut self, cx: &mut Cx<'_>) {
        for _ in 0..SESSION_TURN_MAX {
            let Some(key) = self.sessions.pop_due(cx.now) else { return };
            self.session_due(cx, key);
            self.sessions.arm(key);
        }
    }

    fn session_due(&mut self, cx: &mut Cx<'_>, key: Key) {
        let now = cx.now;
        let Some(session) = self.sessions.slots.get(key) else { return };
        if let Phase::Inviting { until, is_cancelled } = session.phase {
            if until <= now {
                self.invite_too_slow(cx, key, is_cancelled);
            }
            return;
        }
        if session.unacknowledged.as_ref().is_some_and(|u| u.again <= now) {
            return self.repeat_accept(cx, key);
        }
        if session.is_ending() {
            return;
        }
        if matches!(session.first, First::Waiting { at, .. } if at <= now) {
            return self.flush_first(cx, key);
        }
        if session.typing.sip_until.is_some_and(|until| until <= now) {
            return self.typing_forgotten(cx, key);
        }
        if session.timer.is_some_and(|timer| timer.at <= now) {
            return self.timer_due(cx, key);
        }
        if session.idle_at <= now {
            self.end_session(cx, key, "nothing crossed for a while");
        }
    }

    /// Ends the session in this slot if its users may not talk any longer. True: it did.
    pub(super) fn review_session(&mut self, cx: &mut Cx<'_>, slot: u32) -> bool {
        let Some(key) = self.sessions.slots.key_at(slot) else { return false };
        let Some(session) = self.sessions.slots.get(key) else { return false };
        let (sip, xmpp, is_ours) = (session.sip.to_bare(), session.xmpp.clone(), session.is_ours);
        let is_lync = self.is_lync(sip.domain());
        let domain = self.routes.xmpp_domain(&self.settings, xmpp.domain());
        let (status, condition, cause, diagnostic) = match domain {
            Some(domain) if self.routes.sip_domain(&self.settings, sip.domain()).is_some() => {
                let denial = self.could_talk(cx.wall, &sip, xmpp.domain(), What::Im).err();
                let may_write = !is_ours || domain.may_write(self.is_contact(&sip, &xmpp));
                match denial {
                    Some(d) => (d.status(), d.condition(), d.reason(), Some(d.diagnostic())),
                    None if may_write => return false,
                    None => denied(Denied::NotContact),
                }
            }
            _ if self.routes.is_blocked(xmpp.domain()) || self.routes.is_blocked(sip.domain()) => {
                denied(Denied::Blocked)
            }
            _ => denied(Denied::Recipient),
        };
        let reason = format!("SIP;cause={status};text=\"{cause}\"");
        let headers = [("Reason", reason.as_str()), (diagnostics::HEADER, diagnostic.unwrap_or_default())];
        let told = if is_lync && diagnostic.is_some() { 2 } else { 1 };
        self.end_session_because(cx, key, cause, condition, &headers[..told]);
        true
    }

    /// The program ends: the other ends are told, as far as there is room.
    pub(super) fn sessions_shutdown(&mut self, cx: &mut Cx<'_>) {
        for key in self.sessions.keys() {
            self.end_at_once(cx, key, "the gateway ends");
        }
    }

    /// Up to `most` sessions, and how many there are.
    pub fn sessions(&self, now: Instant, most: usize) -> (Vec<report::Session>, usize) {
        let shown = self.sessions.slots.iter().take(most).map(|(_, session)| report::Session {
            sip: session.sip.as_str().to_owned(),
            xmpp: session.xmpp_target().as_str().to_owned(),
            state: match session.phase {
                Phase::Inviting { .. } => "inviting",
                Phase::Open if session.unacknowledged.is_some() => "accepted",
                Phase::Open => "open",
            },
            used: now.since(session.used),
        });
        (shown.collect(), self.sessions.len())
    }

    /// How many sessions there are.
    pub fn sessions_kept(&self) -> usize {
        self.sessions.len()
    }
}

/// What an end for this cause is told as.
const fn denied(why: Denied) -> (u16, Condition, &'static str, Option<&'static str>) {
    (why.status(), why.condition(), why.reason(), why.diagnostic())
}

/// The header fields that make or refresh a session: Contact, Allow, Supported.
fn session_headers<'a>(contact: &'a str) -> Headers<'a> {
    [("Contact", contact), ("Allow", ALLOW), ("Supported", TIMER)].into_iter().collect()
}
