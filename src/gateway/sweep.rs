//! What a change of rights, or the loss of a partner, means for all that runs: a walk along
//! contacts and sessions, some of them a turn, so that nobody waits for it.
//!
//! New rights hold at once for whatever begins. Behind them the walk ends what may not run any
//! longer, and begins again what rested for want of a right. While a domain goes, streams are
//! kept as they were until the walk has said on them that its users are gone, or
//! [`FAREWELL_MAX`] is over: what arrives on them meanwhile is judged by the new settings.

use super::Gateway;
use super::presence::NoRoom;
use crate::base::cx::Cx;
use crate::base::time::Instant;
use crate::limits::{SWEEP_CHANGES_MAX, SWEEP_TURN_MAX};
use crate::settings::Settings;
use core::time::Duration;
use std::collections::BTreeSet;

/// Between two turns of a walk. With [`SWEEP_CHANGES_MAX`] it bounds how fast SIP peers have
/// to take in that something ended.
const PAUSE: Duration = Duration::from_millis(20);
/// How long streams of domains that go are kept for the last words.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// The walk.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    walk: Option<Walk>,
    /// What came up while one was under way: it is followed by another.
    next: Purpose,
    /// The XMPP side still goes by the settings before, until then at most.
    farewell: Option<Instant>,
}

/// How far a walk is.
#[derive(Debug)]
struct Walk {
    /// Slots of contacts, and of sessions, that are behind it.
    contacts: u32,
    sessions: u32,
    purpose: Purpose,
    /// When it goes on.
    at: Instant,
}

/// What a walk is for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Purpose {
    /// Rights changed.
    rights: bool,
    /// Partners' domains whose streams were lost. No more than there are pairs of domains.
    partners: BTreeSet<String>,
    /// Our domains that lost the server of their component, behind which everybody is.
    components: BTreeSet<String>,
}

impl Purpose {
    fn is_for_lost(&self) -> bool {
        !self.partners.is_empty() || !self.components.is_empty()
    }
}

impl Sweep {
    /// When [`Gateway::sweep_timeout`] is next due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.walk.as_ref().map(|walk| walk.at), self.farewell].into_iter().flatten().min()
    }

    fn begin(&mut self, now: Instant) {
        if self.walk.is_none() && self.next != Purpose::default() {
            let purpose = core::mem::take(&mut self.next);
            self.walk = Some(Walk { contacts: 0, sessions: 0, purpose, at: now });
        }
    }
}

impl Gateway {
    /// The settings changed from `old` to what they are now.
    pub(super) fn settings_changed(&mut self, cx: &mut Cx<'_>, old: &Settings) {
        if self.is_left(old) {
            self.sweep.farewell.get_or_insert_with(|| cx.now.after(FAREWELL_MAX));
        }
        if self.sweep.farewell.is_none() {
            self.xmpp.configure(cx, &self.settings);
        } else {
            self.xmpp.listen(&self.settings);
        }
        self.review_rights(cx);
        self.sweep_timeout(cx);
    }

    /// Was a domain served by the settings before, on whichever side, that is so no more?
    fn is_left(&self, old: &Settings) -> bool {
        let mut sip = old.sip_domains.iter().map(|served| &served.domain);
        let mut partners = old.partners.iter().flat_map(|p| core::iter::once(&p.domain).chain(&p.additional_domains));
        sip.any(|domain| self.routes.sip_domain(&self.settings, domain).is_none())
            || partners.any(|domain| self.routes.xmpp_domain(&self.settings, domain).is_none())
            || (old.discovery_open && (!self.settings.discovery_open || self.settings.blocked != old.blocked))
    }

    /// Somebody's rights changed: all that runs is looked at, from the beginning.
    pub(super) fn review_rights(&mut self, cx: &Cx<'_>) {
        let Sweep { walk, next, .. } = &mut self.sweep;
        next.rights = true;
        if let Some(Walk { purpose, .. }) = walk.take() {
            next.partners.extend(purpose.partners);
            next.components.extend(purpose.components);
        }
        self.sweep.begin(cx.now);
    }

    /// The stream of a pair of domains was lost in the middle of things; `theirs` is empty for
    /// the server of a component.
    pub(super) fn on_partner_lost(&mut self, cx: &Cx<'_>, ours: String, theirs: String) {
        if self.ending || (!theirs.is_empty() && self.routes.xmpp_domain(&self.settings, &theirs).is_none()) {
            return;
        }
        if theirs.is_empty() {
            self.sweep.next.components.insert(ours);
        } else {
            self.sweep.next.partners.insert(theirs);
        }
        self.sweep.begin(cx.now);
    }

    /// The walk goes on, if it is time.
    pub(super) fn sweep_timeout(&mut self, cx: &mut Cx<'_>) {
        if self.sweep.farewell.is_some_and(|until| until <= cx.now) {
            self.farewell_over(cx);
        }
        if let Some(mut walk) = self.sweep.walk.take_if(|walk| walk.at <= cx.now) {
            if self.walk(cx, &mut walk) {
                if walk.purpose.rights {
                    self.farewell_over(cx);
                }
            } else if let Some(newer) = &mut self.sweep.walk {
                // Somebody's rights changed meanwhile: that one looks at all from the beginning.
                newer.purpose.partners.append(&mut walk.purpose.partners);
                newer.purpose.components.append(&mut walk.purpose.components);
            } else {
                walk.at = cx.now.after(PAUSE);
                self.sweep.walk = Some(walk);
            }
            self.sweep.begin(cx.now);
        }
    }

    /// The XMPP side goes by the present settings, too.
    fn farewell_over(&mut self, cx: &mut Cx<'_>) {
        if self.sweep.farewell.take().is_some() {
            self.xmpp.configure(cx, &self.settings);
        }
    }

    /// One turn. True: the walk is at its end.
    fn walk(&mut self, cx: &mut Cx<'_>, walk: &mut Walk) -> bool {
        let (contacts, sessions) = (self.presence.slots(), self.sessions.slots_end());
        let says_farewell = self.sweep.farewell.is_some();
        let (mut looked, mut changes) = (0, 0);
        while looked < SWEEP_TURN_MAX && changes < SWEEP_CHANGES_MAX {
            looked += 1;
            if walk.contacts < contacts {
                if walk.purpose.rights {
                    match self.review_contact(cx, walk.contacts, says_farewell) {
                        Ok(is_changed) => changes += usize::from(is_changed),
                        Err(NoRoom) => return false,
                    }
                }
                if walk.purpose.is_for_lost() {
                    let Walk { contacts, purpose, .. } = &*walk;
                    self.review_lost(cx, *contacts, |sip, xmpp| {
                        purpose.partners.contains(xmpp) || purpose.components.contains(sip)
                    });
                }
                walk.contacts += 1;
            } else if walk.purpose.rights && walk.sessions < sessions {
                changes += usize::from(self.review_session(cx, walk.sessions));
                walk.sessions += 1;
            } else {
                return true;
            }
        }
        false
    }
}
