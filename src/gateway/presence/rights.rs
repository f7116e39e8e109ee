//! What the two users of a contact may have of each other, and what becomes of a contact
//! whose rights change while it stands.
//!
//! Its authorizations stay: what users agreed on is not the operator's to forget, and he may
//! give the right back. What ends are the dialogs under it, on both sides, and what the XMPP
//! user was shown; the watch rests, and is begun again when it may be.

use super::state::Resource;
use super::table::{Authorization, End, Task};
use crate::base::cx::Cx;
use crate::base::slab::Key;
use crate::gateway::Gateway;
use crate::gateway::policy::What;
use crate::limits::CONTACTS_MAX;
use crate::sip::subscription::Reason;
use crate::xmpp::server::Refused;
use core::time::Duration;

/// What rests is begun again within this time, so that all of it is no storm.
const WAKE_SPREAD_MS: u64 = 2000;

/// The XMPP side has no room for a farewell at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct NoRoom;

impl Gateway {
    /// May users of this partner watch a SIP user? Those of a public-unverified one only
    /// while they are among his contacts.
    pub(super) fn may_watch(&self, contact: Key) -> bool {
        let Some((sip, xmpp)) = self.presence.names(contact) else { return false };
        let is_added = self.presence.contacts.get(contact).is_some_and(|c| c.grant.is_added);
        self.is_served(contact)
            && self.routes.xmpp_domain(&self.settings, xmpp.domain()).is_some_and(|domain| domain.may_write(is_added))
            && self.could_talk(self.presence.clock.1, &sip, xmpp.domain(), What::Presence).is_ok()
    }

    /// Are the domains of both users served?
    pub(super) fn is_served(&self, contact: Key) -> bool {
        self.presence.names(contact).is_some_and(|(sip, xmpp)| {
            self.routes.sip_domain(&self.settings, sip.domain()).is_some()
                && self.routes.xmpp_domain(&self.settings, xmpp.domain()).is_some()
        })
    }

    /// Why the two may have nothing of each other at present, in words for the operator.
    pub(super) fn hindrance(&self, contact: Key) -> Option<String> {
        let (sip, xmpp) = self.presence.names(contact)?;
        if !self.is_served(contact) {
            return Some("ours: one of the two domains is not served".into());
        }
        let denial = self.could_talk(self.presence.clock.1, &sip, xmpp.domain(), What::Presence).err()?;
        Some(format!("ours: {}", denial.reason()))
    }

    /// Ends what the users of the contact in this slot may have no longer, and begins again
    /// what they may have again. True: there was something to do. `says_farewell`: the XMPP
    /// user can be told that the contact is gone, although one of the domains is served no more.
    pub(in crate::gateway) fn review_contact(
        &mut self,
        cx: &mut Cx<'_>,
        slot: u32,
        says_farewell: bool,
    ) -> Result<bool, NoRoom> {
        let Some(key) = self.presence.contacts.key_at(slot) else { return Ok(false) };
        let Some((sip, xmpp)) = self.presence.names(key) else { return Ok(false) };
        let is_served = self.is_served(key);
        if !is_served && says_farewell {
            self.say_farewell(cx, key)?;
        }
        let end = if !is_served {
            Some(Reason::NoResource)
        } else {
            self.could_talk(cx.wall, &sip, xmpp.domain(), What::Presence).is_err().then_some(Reason::Rejected)
        };
        let is_ended = end.is_some_and(|reason| self.rest_grant(cx, key, reason));
        let is_changed = if self.may_watch(key) { self.wake_watch(cx, key) } else { self.suspend_watch(cx, key) };
        // Those who live need the places more.
        if !is_served && self.presence.len() > CONTACTS_MAX / 2 {
            self.drop_watch(cx, key);
            self.drop_grant(cx, key);
        }
        Ok(is_ended || is_changed)
    }

    /// The XMPP user sees nobody any more, while there is a stream to say so on.
    fn say_farewell(&mut self, cx: &mut Cx<'_>, key: Key) -> Result<(), NoRoom> {
        let Some((_, xmpp)) = self.presence.names(key) else { return Ok(()) };
        let mut is_said = false;
        let mut outcome = Ok(());
        while let Some(contact) = self.presence.contacts.get(key)
            && let Some(shown) = contact.watch.shown.iter().find(|shown| shown.is_available)
        {
            let gone = Resource::gone(&shown.name);
            match self.emit_resource(cx, key, None, xmpp.bare(), &gone) {
                Ok(()) => {}
                Err(Refused::Overload) => {
                    outcome = Err(NoRoom);
                    break;
                }
                // He hears it when he can be reached again.
                Err(_) => break,
            }
            is_said = true;
            if let Some(contact) = self.presence.contacts.get_mut(key) {
                contact.watch.shown.retain(|shown| shown.name != gone.name);
            }
        }
        if is_said {
            self.store(cx, key);
        }
        outcome
    }

    /// Ends the dialogs of the SIP user; what he was granted stays. What is known of the XMPP
    /// user is asked for again when somebody looks again.
    fn rest_grant(&mut self, cx: &mut Cx<'_>, key: Key, reason: Reason) -> bool {
        for task in [Task::Ask, Task::Probe, Task::ProbeOver] {
            self.presence.cancel(key, task);
        }
        let Some(contact) = self.presence.contacts.get_mut(key) else { return false };
        let grant = &mut contact.grant;
        (grant.resources, grant.is_known, grant.is_unsure, grant.silent_probes) = (Vec::new(), false, false, 0);
        let dialogs = grant.dialogs.clone();
        let domain = self.presence.names(key).map(|(sip, _)| sip.domain().to_owned()).unwrap_or_default();
        if !self.routes.reaches_sip(&self.settings, &domain) {
            // The domain went while the program did not run: nobody is asked where it was.
            let had_some = !dialogs.is_empty();
            for dialog in dialogs {
                self.presence.remove_notifier(dialog);
            }
            if had_some {
                self.store(cx, key);
            }
            return had_some;
        }
        let lives = |dialog: &Key| self.presence.notifiers.get(*dialog).is_some_and(|n| n.end.is_none());
        if !dialogs.iter().any(lives) {
            return false;
        }
        self.end_dialogs(cx, key, End { reason, retry_after_s: None, says_closed: false, is_sent: false });
        true
    }

    /// The XMPP user may see the SIP user no longer: because of his rights, or because the SIP
    /// user, without whom one of a public-unverified partner sees nothing, took him off his list.
    pub(super) fn suspend_watch(&mut self, cx: &mut Cx<'_>, key: Key) -> bool {
        if self.may_watch(key) {
            return false;
        }
        let Some(contact) = self.presence.contacts.get_mut(key) else { return false };
        let is_wanted = matches!(contact.watch.state, Authorization::Pending | Authorization::Active);
        contact.watch.rests = is_wanted;
        let dialogs = contact.watch.dialogs.clone();
        let has_something = !dialogs.is_empty() || contact.watch.shown.iter().any(|shown| shown.is_available);
        self.presence.cancel(key, Task::Subscribe);
        for dialog in dialogs {
            self.end_dialog(cx, dialog);
        }
        self.show_nothing(cx, key);
        has_something
    }

    /// He may: a watch that rested is begun again, and he sees what he may see now.
    fn wake_watch(&mut self, cx: &mut Cx<'_>, key: Key) -> bool {
        let Some(contact) = self.presence.contacts.get_mut(key) else { return false };
        let rested = core::mem::take(&mut contact.watch.rests);
        let is_shown = contact.watch.state == Authorization::Active && !contact.watch.shown.is_empty();
        if rested {
            contact.watch.failures = 0;
            let at = cx.now.after(Duration::from_millis(cx.rng.below(WAKE_SPREAD_MS)));
            self.presence.plan_by(key, Task::Subscribe, at);
        }
        if is_shown {
            self.tell(cx, key);
        }
        rested
    }

    /// Of a partner that was lost in the middle of things, what its users' presence is now is
    /// asked again, a little later and spread. `is_lost` tells by the SIP user's domain and the
    /// XMPP user's whether the contact in this slot is one of its.
    pub(in crate::gateway) fn review_lost(
        &mut self,
        cx: &mut Cx<'_>,
        slot: u32,
        is_lost: impl FnOnce(&str, &str) -> bool,
    ) {
        let Some(key) = self.presence.contacts.key_at(slot) else { return };
        let Some((sip, xmpp)) = self.presence.names(key) else { return };
        let Some(contact) = self.presence.contacts.get_mut(key) else { return };
        if contact.grant.state != Authorization::Active || !is_lost(sip.domain(), xmpp.domain()) {
            return;
        }
        if contact.grant.dialogs.is_empty() {
            // Nobody looks: it is asked when somebody does.
            (contact.grant.is_known, contact.grant.resources) = (false, Vec::new());
        } else {
            let at = cx.now.after(Duration::from_millis(2000 + cx.rng.below(20_000)));
            self.presence.plan_by(key, Task::Probe, at);
        }
    }
}
