//! Dialogs of ours that their notifier may have forgotten, though nobody said so: each is
//! asked by a refresh long before its time, and made anew where it is gone. Else the XMPP
//! user would go on seeing what was true once (promise P7).

use super::table::Phase;
use crate::base::cx::Cx;
use crate::base::net::{CloseReason, LinkId};
use crate::base::slab::Key;
use crate::base::time::Instant;
use crate::gateway::Gateway;
use crate::gateway::route::{SipSource, may_send_for};
use crate::limits::SUSPICIONS_MAX;
use core::time::Duration;
use std::collections::BTreeSet;

/// All dialogs with a domain are asked once in that time, if one of them was lost.
const EXAMINE_AGAIN: Duration = Duration::from_secs(1800);
/// Dialogs that are asked when a connection is gone.
const EXAMINED_FIRST: usize = 4;
/// How long suspicions are collected, so that one look at all dialogs serves them all.
const COLLECT: Duration = Duration::from_secs(2);
/// A dialog is not asked within this time after it was granted: seconds.
const ASKED_AGAIN_S: u32 = 30;

/// Dialogs that may have been taken for another one with the same tag.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    /// The slot of the SIP user, and the hash of the tag his notifier gave.
    of: BTreeSet<(u32, u64)>,
    /// When they are looked into.
    pub(super) due: Option<Instant>,
}

impl Gateway {
    /// A notifier does not know a dialog of ours: it may have lost others with it, and
    /// nobody would hear of that before their refresh. So all of the domain are asked, in
    /// the time that is promised for healing (promise P7), but not again and again.
    pub(super) fn examine_domain(&mut self, cx: &mut Cx<'_>, contact: Key) {
        let Some((sip, _)) = self.presence.names(contact) else { return };
        let last = self.presence.examined.get(sip.domain());
        if last.is_some_and(|last| cx.now.since(*last) < EXAMINE_AGAIN) {
            return;
        }
        self.presence.examined.insert(sip.domain().to_owned(), cx.now);
        self.doubt(cx, sip.domain(), usize::MAX, 40_000);
    }

    /// A connection of a SIP peer is gone: it may have closed an idle one, or have been
    /// started anew with nothing in its memory. A few dialogs are asked.
    pub(in crate::gateway) fn on_sip_link_lost(&mut self, cx: &mut Cx<'_>, link: LinkId, why: CloseReason) {
        let Some((transport, peer)) = self.sip.peer_of(link).filter(|_| why != CloseReason::Local) else { return };
        let source = SipSource { transport, address: peer.ip(), certificate: self.sip.certificate(link) };
        let domains: Vec<String> = self
            .settings
            .sip_domains
            .iter()
            .filter(|domain| may_send_for(domain, &source))
            .map(|domain| domain.domain.clone())
            .collect();
        for domain in domains {
            self.doubt(cx, &domain, EXAMINED_FIRST, 10_000);
        }
    }

    /// Lets up to `most` dialogs with a SIP domain be refreshed within that time.
    fn doubt(&mut self, cx: &mut Cx<'_>, domain: &str, most: usize, within_ms: u64) {
        let slots = self.presence.subscribers.end();
        let first = cx.rng.below(u64::from(slots.max(1))) as u32;
        let mut doubted = 0;
        for index in (first..slots).chain(0..first) {
            if doubted >= most {
                return;
            }
            let Some(key) = self.presence.subscribers.key_at(index) else { continue };
            let Some(contact) = self.presence.subscribers.get(key).map(|subscriber| subscriber.contact) else {
                continue;
            };
            if self.presence.names(contact).is_none_or(|(sip, _)| sip.domain() != domain) {
                continue;
            }
            let at = cx.now.after(Duration::from_millis(2000 + cx.rng.below(within_ms)));
            if self.ask_dialog(key, at) {
                doubted += 1;
            }
        }
    }

    /// Lets a dialog be refreshed at that time at the latest. False: it is none that lives.
    fn ask_dialog(&mut self, key: Key, at: Instant) -> bool {
        let Some(subscriber) = self.presence.subscribers.get_mut(key) else { return false };
        if subscriber.phase != Phase::Live {
            return false;
        }
        if at >= subscriber.expires {
            // Its end comes first, and another is begun then.
            return true;
        }
        // Whether the XMPP user is there does not matter any more.
        (subscriber.is_in_doubt, subscriber.probing) = (true, None);
        subscriber.refresh = Some(subscriber.refresh.map_or(at, |planned| planned.min(at)));
        self.presence.arm_subscriber(key);
        true
    }

    /// The notifier of a SIP user, a bare JID, was made to forget a subscription to him that
    /// it gave this tag: we ended it, or said that we do not know it. A tag is to be unique
    /// (RFC 3261 section 19.3), and some notifiers forget by it alone; but Kamailio may give
    /// one tag to all subscriptions to a user, and then it forgot whichever it found first.
    /// So those with the same tag are asked, soon.
    pub(super) fn suspect(&mut self, cx: &Cx<'_>, sip: &str, tag: &str) {
        let Some(user) = self.presence.user(sip) else { return };
        let tag = self.presence.hash(tag, "");
        let suspicions = &mut self.presence.suspicions;
        if suspicions.of.len() < SUSPICIONS_MAX {
            suspicions.of.insert((user.index(), tag));
            let now = cx.now;
            suspicions.due.get_or_insert_with(|| now.after(COLLECT));
        }
    }

    /// Looks for the dialogs that suspicions are about.
    pub(super) fn examine_suspects(&mut self, cx: &mut Cx<'_>) {
        let suspicions = core::mem::take(&mut self.presence.suspicions);
        for index in 0..self.presence.subscribers.end() {
            let Some(key) = self.presence.subscribers.key_at(index) else { continue };
            let Some(subscriber) = self.presence.subscribers.get(key) else { continue };
            let Some(contact) = self.presence.contacts.get(subscriber.contact) else { continue };
            let user = contact.sip.index();
            if suspicions.of.range((user, 0)..=(user, u64::MAX)).next().is_none()
                || !suspicions.of.contains(&(user, self.presence.hash(subscriber.dialog.remote_tag(), "")))
            {
                continue;
            }
            let left = u32::try_from(subscriber.expires.since(cx.now).as_secs()).unwrap_or(u32::MAX);
            let since_granted = subscriber.granted_s.saturating_sub(left);
            let rest = Duration::from_secs(u64::from(ASKED_AGAIN_S.saturating_sub(since_granted)));
            let chance = Duration::from_millis(500 + cx.rng.below(3500));
            self.ask_dialog(key, cx.now.after(rest.max(chance)));
        }
    }
}
