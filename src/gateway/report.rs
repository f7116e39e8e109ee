//! What a console is told of the gateway: plain values, made when they are asked for
//! and kept by nobody. How they look is the business of whoever shows them; foreign
//! text in them is as it came and has to be escaped there.

use super::{Gateway, address};
use crate::base::time::Instant;
use crate::limits::CONSOLE_CONTACTS_PER_SLICE_MAX;
use crate::xmpp::jid::Jid;
use core::time::Duration;

/// Two people who may see each other's presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The one on the SIP side.
    pub sip: String,
    /// The one on the XMPP side.
    pub xmpp: String,
    /// What the XMPP side sees of the SIP side.
    pub xmpp_watches: Direction,
    /// What the SIP side sees of the XMPP side.
    pub sip_watches: Direction,
}

/// A session of messages that is open, or being opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The SIP user.
    pub sip: String,
    /// The XMPP user.
    pub xmpp: String,
    /// `inviting`, `open`, or `accepted` while our acceptance is not acknowledged.
    pub state: &'static str,
    /// How long ago something crossed.
    pub used: Duration,
}

/// One of them watching the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direction {
    /// How far it is: `none`, `pending`, `active`, or that it ended and who does not
    /// know it yet.
    pub state: &'static str,
    /// SIP dialogs that carry it.
    pub dialogs: u32,
    /// What the watcher was last told, such as `tisch4 open away`; empty for nothing.
    pub peer_believes: String,
    /// How long ago the last change came in.
    pub last_in: Option<Duration>,
    /// How long ago the last change was told.
    pub last_out: Option<Duration>,
    /// In how much time it is refreshed.
    pub next_refresh: Option<Duration>,
    /// What failed last, and on which side.
    pub problem: Option<String>,
}

impl Gateway {
    /// Contacts, a slice at a time: `each` gets at most
    /// [`crate::limits::CONSOLE_CONTACTS_PER_SLICE_MAX`], beginning at `from`, 0 at
    /// first; the answer says where the next slice begins, `None` after the last. Who
    /// comes or goes between two slices may be left out.
    pub fn contacts(&self, now: Instant, from: u32, each: &mut dyn FnMut(Contact)) -> Option<u32> {
        self.describe_from(now, from, CONSOLE_CONTACTS_PER_SLICE_MAX as u32, each)
    }

    /// What is known of two people, whichever of them is named first.
    pub fn contact(&self, now: Instant, a: &str, b: &str) -> Option<Contact> {
        let parsed = |address: &str| {
            let bare = address.strip_prefix("xmpp:").unwrap_or(address);
            let mut jid = String::new();
            let text = if address.starts_with("sip:") || address.starts_with("sips:") {
                address::to_jid(address, None, &mut jid).ok()?;
                &jid
            } else {
                bare
            };
            Jid::parse(text).ok().map(|jid| jid.to_bare())
        };
        let (a, b) = (parsed(a)?, parsed(b)?);
        self.describe_pair(now, a.as_str(), b.as_str()).or_else(|| self.describe_pair(now, b.as_str(), a.as_str()))
    }

    /// Whether streams to and from the partner are up, in words.
    pub fn partner_state(&self, domain: &str) -> String {
        self.xmpp.partner_state(domain).to_string()
    }
}
