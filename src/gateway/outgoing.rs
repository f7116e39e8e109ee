//! A MESSAGE for SIP, made and not yet sent: what a lane keeps while another message
//! of the same pair is under way.

use crate::base::cx::{Cx, Ticket};
use crate::settings::Settings;
use crate::sip::endpoint::{Destination, Endpoint, Refused};
use crate::sip::message::{Method, Request};
use crate::xmpp::jid::domain_to_ascii;

/// A request of method MESSAGE outside a dialog (RFC 3428).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The SIP domain it goes to, as the settings name it.
    pub sip_domain: String,
    /// Request-URI.
    pub uri: String,
    /// The sender's URI.
    pub from: String,
    /// The tag of From.
    pub from_tag: String,
    /// The target's URI without `gr`.
    pub to: String,
    /// Call-ID.
    pub call_id: String,
    /// The number of CSeq.
    pub cseq: u32,
    /// Hops that are left.
    pub max_forwards: u8,
    /// Subject, on one line.
    pub subject: Option<String>,
    /// Content-Language.
    pub language: Option<String>,
    /// Date, when the stanza was delayed (XEP-0203).
    pub date: Option<String>,
    /// Content-Type.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
    /// The body as HTML too, where the SIP side may take it; empty: there is none.
    pub html: String,
    /// The conversation, as XMPP knows it.
    pub thread: Option<String>,
    /// It was sent in a session that turned out to be dead: not once more (promise P2).
    pub is_repeated: bool,
}

impl Outgoing {
    /// Octets it holds while it waits.
    pub fn octets(&self) -> usize {
        let texts = [&self.uri, &self.from, &self.to, &self.call_id, &self.body, &self.html];
        let options = [&self.subject, &self.language, &self.date, &self.thread];
        texts.iter().map(|t| t.len()).sum::<usize>()
            + options.iter().filter_map(|t| t.as_ref()).map(String::len).sum::<usize>()
    }

    /// How large the request is as it would be sent, in octets.
    pub fn size(&self, sip: &Endpoint, settings: &Settings) -> usize {
        self.with_request(settings, |destination, request| sip.size(destination, request))
    }

    /// Gives it to the SIP side. The outcome comes with `ticket`.
    pub fn send(
        &self,
        cx: &mut Cx<'_>,
        sip: &mut Endpoint,
        settings: &Settings,
        ticket: Ticket,
    ) -> Result<(), Refused> {
        self.with_request(settings, |destination, request| sip.request(cx, ticket, destination, request))
    }

    /// Its header fields besides those every request has.
    pub fn headers(&self) -> heapless::Vec<(&str, &str), 4> {
        let optional = [
            ("Subject", self.subject.as_deref()),
            ("Content-Language", self.language.as_deref()),
            ("Date", self.date.as_deref()),
        ];
        // Four places for three headers.
        optional.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn with_request<T>(&self, settings: &Settings, act: impl FnOnce(&Destination<'_>, &Request<'_>) -> T) -> T {
        let headers = self.headers();
        // Settings hold domains that were checked, so each has A-labels.
        let domain = domain_to_ascii(&self.sip_domain).unwrap_or_default();
        let served = settings.sip_domains.iter().find(|served| served.domain == self.sip_domain);
        let destination = match served.and_then(|served| served.next_hop.as_ref()) {
            Some(hop) => Destination::NextHop { hop, domain: &domain },
            None => Destination::Domain { domain: &domain },
        };
        act(
            &destination,
            &Request {
                method: Method::Message,
                uri: &self.uri,
                from: &self.from,
                from_tag: &self.from_tag,
                to: &self.to,
                to_tag: None,
                call_id: &self.call_id,
                cseq: self.cseq,
                max_forwards: self.max_forwards,
                headers: &headers,
                content_type: Some(self.content_type),
                body: self.body.as_bytes(),
            },
        )
    }
}
