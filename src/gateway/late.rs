//! Stanza errors that come after the 200: the sender believes his message arrived, so
//! he is told (`message late-errors`), with a MESSAGE that says so in words and, where
//! he asked for it, with a disposition notification `failed` (RFC 5438, REQ-7572-34).

use super::outgoing::Outgoing;
use super::pending::Trace;
use super::route::{HOPS_MAX, Passing};
use super::{Gateway, content, message};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::text::XmlEscaped;
use crate::xmpp::jid::Jid;
use crate::xmpp::stanza::{Condition, StanzaError};

impl Gateway {
    /// The error belongs to a stanza that was delivered and answered with 200.
    pub(super) fn on_late_error(&mut self, cx: &mut Cx<'_>, trace: &Trace, error: &StanzaError<'_>) {
        cx.refuse(
            Counter::LateErrorLogged,
            "message.late-error",
            format_args!(
                "side=xmpp from={} to={} condition={} notify={}",
                self.named(trace.from.as_str()),
                self.named(trace.to.as_str()),
                error.condition.name(),
                self.settings.message.late_errors_notify
            ),
        );
        if !self.settings.message.late_errors_notify || self.ending {
            return;
        }
        let (sender, recipient) = (&trace.from, &trace.to);
        // A notice that ran in a circle with somebody's automatic answer would be worse
        // than the loss it tells of.
        let passing = Passing { from: recipient.bare(), to: sender.bare(), conversation: None, body: "late error" };
        if self.memory.loops.pass(cx.now, &passing).is_err() {
            return;
        }
        let Some((words, imdn)) = self.notice(cx, trace, error) else { return };
        let lane = self.lane(recipient.bare(), sender.bare());
        let mut told = self.enter_lane(cx, lane, None, words).is_ok();
        if let Some(imdn) = imdn {
            told |= self.enter_lane(cx, lane, None, imdn).is_ok();
        }
        if told {
            cx.count(Counter::LateErrorNotified);
        }
    }

    /// A message whose sender counts it as delivered was not: the words say why.
    pub(super) fn tell_late(&mut self, cx: &mut Cx<'_>, from: Jid, to: Jid, why: &str) {
        let trace = Trace { id: String::new(), from, to, imdn: None };
        let error = StanzaError::new(Condition::UndefinedCondition).with_text(why.to_owned());
        self.on_late_error(cx, &trace, &error);
    }

    /// The notice in words, and the disposition notification where one was asked for.
    fn notice(
        &mut self,
        cx: &mut Cx<'_>,
        trace: &Trace,
        error: &StanzaError<'_>,
    ) -> Option<(Outgoing, Option<Outgoing>)> {
        let (sender, recipient) = (&trace.from, &trace.to);
        let from = message::sip_uri(recipient, false).ok()?;
        let to = message::sip_uri(sender, false).ok()?;
        let words = Outgoing {
            sip_domain: sender.domain().to_owned(),
            uri: message::sip_uri(sender, true).ok()?,
            from: from.clone(),
            from_tag: message::new_tag(cx),
            to: to.clone(),
            call_id: message::new_call_id(cx),
            cseq: self.memory.next_cseq(cx.wall),
            max_forwards: HOPS_MAX,
            content_type: "text/plain",
            body: format!("Your message was not delivered: {}.", in_words(error)),
            ..Outgoing::default()
        };
        let imdn = trace.imdn.as_ref().map(|wanted| Outgoing {
            call_id: message::new_call_id(cx),
            cseq: self.memory.next_cseq(cx.wall),
            content_type: "message/cpim",
            body: format!(
                "From: <{from}>\r\nTo: <{to}>\r\nDateTime: {now}\r\nNS: imdn <urn:ietf:params:imdn>\r\nimdn.Message-ID: {own}\r\n\r\n\
                 Content-Type: message/imdn+xml\r\nContent-Disposition: notification\r\n\r\n\
                 <?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<imdn xmlns=\"urn:ietf:params:xml:ns:imdn\">\
                 <message-id>{id}</message-id><datetime>{datetime}</datetime><recipient-uri>{from}</recipient-uri>\
                 <delivery-notification><status><failed/></status></delivery-notification></imdn>",
                from = XmlEscaped(&from),
                to = XmlEscaped(&to),
                now = content::date::Stamp(cx.wall),
                own = cx.rng.token::<16>(),
                id = XmlEscaped(&wanted.message_id),
                datetime = content::date::Stamp(wanted.date_time),
            ),
            ..words.clone()
        });
        Some((words, imdn))
    }
}

/// What went wrong, for a person who knows nothing of XMPP.
fn in_words(error: &StanzaError<'_>) -> &'static str {
    match error.condition {
        Condition::ItemNotFound | Condition::JidMalformed => "there is no such user",
        Condition::Gone | Condition::Redirect => "the user has another address now",
        Condition::RecipientUnavailable => "the user cannot be reached at the moment",
        Condition::Forbidden
        | Condition::NotAllowed
        | Condition::NotAuthorized
        | Condition::RegistrationRequired
        | Condition::SubscriptionRequired => "the user does not take messages from you",
        Condition::RemoteServerNotFound | Condition::RemoteServerTimeout => "the user's server cannot be reached",
        Condition::PolicyViolation | Condition::ResourceConstraint => "the user's server does not take more messages",
        _ => "the user's server does not take it",
    }
}
