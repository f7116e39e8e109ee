//! What an XMPP stanza gets: messages go to `message.rs`, queries about the gateway
//! are answered here, and every other iq and presence is refused properly (RFC 6120
//! section 8.2.3: each request gets exactly one answer, and no answer gets one).

use super::Gateway;
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::text::Escaped;
use crate::xmpp::disco::{Entity, Identity, Query};
use crate::xmpp::jid::Jid;
use crate::xmpp::ns;
use crate::xmpp::server::Handle;
use crate::xmpp::stanza::{Condition, Kind, Stanza, StanzaError};

/// What the software is called in XEP-0092 and in disco.
const SOFTWARE: (&str, &str) = ("Latimer", env!("CARGO_PKG_VERSION"));
/// The URI that stands for the software in entity capabilities.
const NODE: &str = "urn:latimer:gateway";

impl Gateway {
    /// A stanza whose sender's domain the stream proved.
    pub(super) fn on_stanza(&mut self, cx: &mut Cx<'_>, handle: Handle, stanza: &Stanza<'_>) {
        match stanza.kind {
            Kind::Message if stanza.is_error() => self.on_message_error(cx, stanza),
            Kind::Message => return self.message_from_xmpp(cx, handle, stanza),
            Kind::Iq if stanza.is_request() || stanza.is_bad_request() => self.on_query(cx, stanza),
            // A result or an error belongs to a question of the streams' own, or of a test.
            Kind::Iq => self.test_answered(cx, stanza),
            Kind::Presence => {
                if stanza.type_ == Some("unavailable") {
                    self.client_left(stanza);
                }
                return self.on_presence(cx, handle, stanza);
            }
        }
        self.xmpp.handled(cx, handle);
    }

    fn on_query(&mut self, cx: &mut Cx<'_>, stanza: &Stanza<'_>) {
        let (from, to) = (stanza.to.domain(), stanza.from.domain());
        let refusal = if stanza.is_bad_request() {
            Condition::BadRequest
        } else if let Some(query) = Query::of(stanza) {
            cx.count(Counter::IqAnswered);
            let entity = entity(&stanza.to);
            let wall = cx.wall;
            let sent = self.xmpp.answer(cx, from, to, |w| entity.answer(w, stanza, query, wall));
            return Self::note_lost_answer(cx, to, sent);
        } else {
            Condition::ServiceUnavailable
        };
        cx.refuse(
            Counter::IqRefused,
            "iq.refused",
            format_args!(
                "side=xmpp from={} to={} condition={}",
                self.named(stanza.from.as_str()),
                self.named(stanza.to.as_str()),
                refusal.name()
            ),
        );
        let error = StanzaError::new(refusal);
        let sent = self.xmpp.answer(cx, from, to, |w| {
            stanza.emit_error(w, &error);
        });
        Self::note_lost_answer(cx, to, sent);
    }

    /// The `<c/>` of the presence of a SIP user's clients (XEP-0115).
    pub(super) fn phone_capabilities(cx: &mut Cx<'_>) -> String {
        let mut w = cx.out.begin();
        PHONE.emit_capabilities(&mut w);
        let capabilities = String::from_utf8_lossy(w.written()).into_owned();
        w.cancel();
        capabilities
    }

    pub(super) fn note_lost_answer(cx: &mut Cx<'_>, domain: &str, sent: Result<(), crate::xmpp::server::Refused>) {
        if let Err(refused) = sent {
            cx.refuse(
                Counter::StanzaUndelivered,
                "xmpp.answer-lost",
                format_args!("side=xmpp domain={} cause={refused:?}", Escaped(domain)),
            );
        }
    }
}

/// The domain itself.
const GATEWAY: Entity<'_> = Entity {
    identities: &[Identity { category: "gateway", type_: "sip", name: Some(SOFTWARE.0) }],
    features: &[ns::DISCO_INFO, ns::DISCO_ITEMS, ns::PING, ns::VERSION, ns::TIME, ns::JID_ESCAPING],
    items: &[],
    node: NODE,
    software: SOFTWARE,
};
/// A user.
const ACCOUNT: Entity<'_> = Entity {
    identities: &[Identity { category: "account", type_: "registered", name: None }],
    features: &[ns::DISCO_INFO, ns::DISCO_ITEMS, ns::PING],
    ..GATEWAY
};
/// A client of a user.
const PHONE: Entity<'_> =
    Entity { identities: &[Identity { category: "client", type_: "phone", name: None }], ..ACCOUNT };

/// What an address of ours says about itself: the domain is the gateway, a bare JID an
/// account, a full JID a phone (REQ-XI-20). What is not bridged is not announced.
fn entity(of: &Jid) -> Entity<'static> {
    match (of.local(), of.resource()) {
        (None, _) => GATEWAY,
        (Some(_), None) => ACCOUNT,
        (Some(_), Some(_)) => PHONE,
    }
}
