//! The sessions that are open, and how they are found: by their dialog, by the pair of
//! users who talk in them, by their deadlines.

use crate::base::cx::Ticket;
use crate::base::slab::{Key, Slab};
use crate::base::time::Instant;
use crate::base::timers::Timers;
use crate::limits::{PAGER_PEERS_MAX, SESSION_CALL_IDS_MAX, SESSION_FIRSTS_OCTETS_MAX, SESSIONS_MAX};
use crate::sip::dialog::{Dialog, RouteSets};
use crate::sip::message::Message;
use crate::sip::session_timer::SessionTimer;
use crate::xmpp::jid::Jid;
use core::hash::{Hash, Hasher};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::DefaultHasher;

/// How long a SIP user who refused a session is written to without one.
const PAGER_FOR: Duration = Duration::from_secs(4 * 3600);

/// A session that was used in this time is not ended for another of the same domain.
const SPARED_FOR: Duration = Duration::from_secs(60);

/// One session of instant messages.
#[derive(Debug)]
pub(super) struct Session {
    /// The pair of users, as lanes have it.
    pub(super) lane: u64,
    /// Did we open it?
    pub(super) is_ours: bool,
    /// The SIP user; with a resource if his Contact names his client.
    pub(super) sip: Jid,
    /// The XMPP user, bare.
    pub(super) xmpp: Jid,
    /// Which client of the XMPP user wrote last, and whether what comes from SIP goes there
    /// (D-25): not while he has changed from one to another.
    pub(super) client: Option<(Box<str>, bool)>,
    /// What XMPP knows the conversation by.
    pub(super) thread: Box<str>,
    pub(super) dialog: Dialog,
    /// CSeq number of our last INVITE: the ACK's.
    pub(super) invite_cseq: u32,
    pub(super) phase: Phase,
    /// A 2xx of ours that has no ACK yet.
    pub(super) unacknowledged: Option<Unacknowledged>,
    /// What waits for the session to be open.
    pub(super) held: Option<Ticket>,
    /// The text that came in the header fields of the INVITE.
    pub(super) first: First,
    pub(super) typing: Typing,
    pub(super) timer: Option<Timer>,
    /// A re-INVITE of ours has no answer yet: an offer of the other end's has to wait.
    pub(super) is_offering: bool,
    /// Something crossed last.
    pub(super) used: Instant,
    /// Without any traffic it ends then.
    pub(super) idle_at: Instant,
    /// The type of media that was offered, as our answers to later offers need it; and the
    /// number of the description.
    pub(super) number: u32,
    /// Does the other end speak as Lync does?
    pub(super) is_lync: bool,
    /// Does the other end take `application/im-iscomposing+xml`?
    pub(super) takes_composing: bool,
    /// Does it take a body as HTML beside the plain one?
    pub(super) takes_html: bool,
    /// Who was told that the conversation is archived.
    pub(super) noticed: Noticed,
    /// Does it take UPDATE?
    pub(super) takes_update: bool,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Our INVITE has no final response.
    Inviting {
        /// Then it is cancelled.
        until: Instant,
        /// Was it?
        is_cancelled: bool,
    },
    /// Messages can cross.
    Open,
}

/// A 2xx that is repeated until its ACK comes (RFC 3261 section 13.3.1.4).
#[derive(Clone, Debug)]
pub(super) struct Unacknowledged {
    /// The INVITE.
    pub(super) invite: Key,
    /// Is it the one that opened the session? Whoever sends a request in a session has the
    /// acceptance that opened it.
    pub(super) is_first: bool,
    /// Is the description an offer, to which the ACK brings the answer?
    pub(super) is_offer: bool,
    /// The description in it.
    pub(super) sdp: Box<str>,
    /// Has the other end shown that it has it, though no ACK came?
    pub(super) is_known: bool,
    /// Why the session ends with its ACK, if it does: a BYE has to wait for that (section 15).
    pub(super) ends: Option<&'static str>,
    pub(super) again: Instant,
    pub(super) interval: Duration,
    pub(super) until: Instant,
}

/// The text in the INVITE, which most peers send again as a MESSAGE (promise P2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// There was none, or it is dealt with.
    None,
    /// It waits for that MESSAGE; at that time it is passed on itself.
    Waiting {
        /// When.
        at: Instant,
        /// The plain text.
        body: Box<str>,
        /// The same as XHTML-IM.
        xhtml: Box<str>,
        /// Max-Forwards of the INVITE.
        hops: u8,
    },
    /// It was passed on: a first MESSAGE that says the same until then is its repetition.
    Passed {
        /// Until when.
        until: Instant,
        /// What it said.
        hash: u64,
    },
}

impl First {
    fn octets(&self) -> usize {
        if let Self::Waiting { body, xhtml, .. } = self { body.len() + xhtml.len() } else { 0 }
    }
}

/// Who is typing, and who was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Typing {
    /// The SIP user types, as far as XMPP was told; it is believed until then.
    pub(super) sip_until: Option<Instant>,
    /// The XMPP user types.
    pub(super) xmpp: bool,
    /// The XMPP user left: the session ends when his last message has its answer.
    pub(super) is_gone: bool,
    /// That is what SIP was told last.
    pub(super) xmpp_told: bool,
    /// A notice to SIP has no answer yet.
    pub(super) is_busy: bool,
    /// SIP does not want such notices.
    pub(super) is_unwanted: bool,
    /// Does the XMPP user's client know chat states (XEP-0085 section 5)? `None`: it has
    /// not shown it yet.
    pub(super) states: Option<bool>,
}

/// Who was told that the conversation is archived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Noticed {
    /// The SIP user.
    pub(super) sip: bool,
    /// The XMPP user.
    pub(super) xmpp: bool,
}

/// A session timer that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timer {
    pub(super) agreed: SessionTimer,
    pub(super) at: Instant,
    /// Our refresh has no answer yet.
    pub(super) is_refreshing: bool,
}

impl Session {
    /// What comes next.
    pub(super) fn due(&self) -> Instant {
        // Nothing else runs until somebody accepts.
        if let Phase::Inviting { until, .. } = self.phase {
            return until;
        }
        if let Some(pending) = self.unacknowledged.as_ref().filter(|pending| pending.ends.is_some()) {
            return pending.again;
        }
        let first = if let First::Waiting { at, .. } = self.first { Some(at) } else { None };
        let again = self.unacknowledged.as_ref().map(|unacknowledged| unacknowledged.again);
        let timer = self.timer.map(|timer| timer.at);
        [first, again, timer, self.typing.sip_until].into_iter().flatten().fold(self.idle_at, Instant::min)
    }

    /// May we send in it? Not while it is being opened, nor when it only waits for the ACK
    /// behind which it ends.
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open && !self.is_ending()
    }

    /// Does it end with the ACK that is waited for?
    pub(super) fn is_ending(&self) -> bool {
        self.unacknowledged.as_ref().is_some_and(|pending| pending.ends.is_some())
    }

    /// The domain whose user opened it.
    fn owner(&self) -> &str {
        if self.is_ours { self.xmpp.domain() } else { self.sip.domain() }
    }

    /// Does an offer of ours wait for its answer? Then none of the other end's is taken
    /// (RFC 3261 section 14.2, RFC 3311 section 5.2).
    pub(super) fn has_offer_out(&self) -> bool {
        self.is_offering || self.unacknowledged.as_ref().is_some_and(|pending| pending.is_offer)
    }

    /// Whom what the SIP user says goes to.
    pub(super) fn xmpp_target(&self) -> Jid {
        let client = self.client.as_ref().filter(|(_, is_locked)| *is_locked);
        client.and_then(|(resource, _)| self.xmpp.with_resource(resource).ok()).unwrap_or_else(|| self.xmpp.clone())
    }

    /// The XMPP user wrote from one of his clients (D-25).
    pub(super) fn heard_from(&mut self, resource: Option<&str>) {
        let Some(resource) = resource else { return };
        let is_same = self.client.as_ref().is_none_or(|(known, _)| **known == *resource);
        self.client = Some((resource.into(), is_same));
    }
}

/// All sessions.
#[derive(Debug)]
pub(in crate::gateway) struct Table {
    pub(super) slots: Slab<Session>,
    timers: Timers,
    by_dialog: BTreeSet<(u64, Key)>,
    by_lane: BTreeSet<(u64, Key)>,
    pub(super) route_sets: RouteSets,
    /// Hashes of Call-IDs of INVITEs of ours, oldest first: none is used for two.
    call_ids: VecDeque<u64>,
    /// Lanes whose SIP user takes no session, until then.
    pagers: BTreeMap<u64, Instant>,
    /// Number of the next description.
    pub(super) next_number: u32,
    /// Octets of all texts that wait for being sent again.
    first_octets: usize,
    /// How many sessions each domain has opened.
    owners: BTreeMap<Box<str>, usize>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            slots: Slab::with_capacity(SESSIONS_MAX),
            timers: Timers::growing(SESSIONS_MAX),
            by_dialog: BTreeSet::new(),
            by_lane: BTreeSet::new(),
            route_sets: RouteSets::default(),
            call_ids: VecDeque::new(),
            pagers: BTreeMap::new(),
            next_number: 0,
            first_octets: 0,
            owners: BTreeMap::new(),
        }
    }
}

impl Table {
    /// Adds a session. `None`: there is no room.
    pub(super) fn insert(&mut self, session: Session) -> Option<Key> {
        let (dialog, lane) = (dialog_hash(session.dialog.call_id(), session.dialog.local_tag()), session.lane);
        let owner: Box<str> = session.owner().into();
        let key = self.slots.insert(session).ok()?;
        *self.owners.entry(owner).or_default() += 1;
        self.by_dialog.insert((dialog, key));
        self.by_lane.insert((lane, key));
        self.arm(key);
        Some(key)
    }

    /// Takes a session out.
    pub(super) fn remove(&mut self, key: Key) -> Option<Session> {
        let session = self.slots.remove(key)?;
        self.timers.stop(key.index());
        self.by_dialog.remove(&(dialog_hash(session.dialog.call_id(), session.dialog.local_tag()), key));
        self.by_lane.remove(&(session.lane, key));
        self.first_octets -= session.first.octets();
        if let Some(count) = self.owners.get_mut(session.owner()) {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(session.owner());
            }
        }
        Some(session)
    }

    /// Keeps the text of an INVITE. False: there is no room for it to wait.
    pub(super) fn keep_first(&mut self, key: Key, first: First) -> bool {
        let octets = first.octets();
        let Some(session) = self.slots.get_mut(key) else { return true };
        self.first_octets += octets;
        session.first = first;
        self.first_octets <= SESSION_FIRSTS_OCTETS_MAX
    }

    /// Did an earlier INVITE of the pair bring the same text, and get no ACK? Then its sender had
    /// no answer and says it again (promise P2): what waits there is dropped. True: it was
    /// passed on already.
    pub(super) fn is_first_again(&mut self, key: Key, hash: u64) -> bool {
        let Some(lane) = self.slots.get(key).map(|session| session.lane) else { return false };
        let is_unanswered = |session: &Session| {
            session.unacknowledged.as_ref().is_some_and(|pending| pending.is_first && !pending.is_known)
        };
        let earlier = self.of_lane(lane).filter(|(other, session)| *other != key && is_unanswered(session));
        let earlier: Vec<Key> = earlier.map(|(other, _)| other).collect();
        let mut is_passed = false;
        for other in earlier {
            match self.slots.get(other).map(|session| &session.first) {
                Some(First::Waiting { body, .. }) if text_hash(body) == hash => {
                    drop(self.take_first(other, First::None));
                }
                Some(First::Passed { hash: passed, .. }) => is_passed |= *passed == hash,
                _ => {}
            }
        }
        is_passed
    }

    /// Takes the text of an INVITE out, and puts `then` in its place.
    pub(super) fn take_first(&mut self, key: Key, then: First) -> Option<First> {
        let session = self.slots.get_mut(key)?;
        let first = core::mem::replace(&mut session.first, then);
        self.first_octets -= first.octets();
        Some(first)
    }

    /// Sets its deadline anew.
    pub(super) fn arm(&mut self, key: Key) {
        if let Some(session) = self.slots.get(key) {
            self.timers.set(key.index(), session.due());
        }
    }

    /// A session whose deadline has come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Key> {
        let index = self.timers.pop_due(now)?;
        self.slots.key_at(index)
    }

    /// When the next deadline comes.
    pub(in crate::gateway) fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// How many there are.
    pub(in crate::gateway) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The open session that a request stands in.
    pub(in crate::gateway) fn find(&self, message: &Message<'_>) -> Option<Key> {
        let tag = message.to().tag?;
        let hash = dialog_hash(message.call_id(), tag);
        let range = self.by_dialog.range((hash, Key::from_bits(0))..=(hash, Key::from_bits(u64::MAX)));
        range.map(|(_, key)| *key).find(|key| {
            self.slots.get(*key).is_some_and(|session| {
                let dialog = &session.dialog;
                session.phase == Phase::Open
                    && dialog.call_id() == message.call_id()
                    && dialog.local_tag() == tag
                    && dialog.is_from(message)
            })
        })
    }

    /// The domain of a session's SIP user.
    pub(in crate::gateway) fn sip_domain(&self, key: Key) -> Option<&str> {
        self.slots.get(key).map(|session| session.sip.domain())
    }

    /// A session's SIP user and its XMPP user.
    pub(in crate::gateway) fn users(&self, key: Key) -> Option<(Jid, Jid)> {
        self.slots.get(key).map(|session| (session.sip.to_bare(), session.xmpp.clone()))
    }

    /// The sessions of a pair of users.
    pub(super) fn of_lane(&self, lane: u64) -> impl Iterator<Item = (Key, &Session)> {
        let range = self.by_lane.range((lane, Key::from_bits(0))..=(lane, Key::from_bits(u64::MAX)));
        range.filter_map(|(_, key)| Some((*key, self.slots.get(*key)?)))
    }

    /// The open session of a pair of users that is this conversation, else the one that was
    /// used last (REQ-7573-12).
    pub(super) fn open(&self, lane: u64, thread: Option<&str>) -> Option<Key> {
        let open = self.of_lane(lane).filter(|(_, session)| session.is_open());
        open.max_by_key(|(_, session)| (thread == Some(&*session.thread), session.used)).map(|(key, _)| key)
    }

    /// Has a pair of users an open session?
    pub(super) fn has_open(&self, lane: u64) -> bool {
        self.open(lane, None).is_some()
    }

    /// The session of a pair of users that is being opened.
    pub(super) fn inviting(&self, lane: u64) -> Option<Key> {
        let is_inviting = |session: &Session| matches!(session.phase, Phase::Inviting { is_cancelled: false, .. });
        self.of_lane(lane).find(|(_, session)| is_inviting(session)).map(|(key, _)| key)
    }

    /// The open session of a pair of users that was used longest ago, if they have that many.
    pub(super) fn one_too_many(&self, lane: u64, most: usize) -> Option<Key> {
        if self.of_lane(lane).count() < most {
            return None;
        }
        let open = self.of_lane(lane).filter(|(_, session)| session.phase == Phase::Open);
        open.min_by_key(|(_, session)| session.used).map(|(key, _)| key)
    }

    /// Which session makes room for one that `domain` opens, if all places are taken: of the
    /// domain that opened most, the one that was used longest ago, if that was not just now or
    /// `domain` has opened fewer. `None`: there is room, or nobody has to make it.
    pub(super) fn in_excess(&self, domain: &str, now: Instant) -> Option<Key> {
        if !self.slots.is_full() {
            return None;
        }
        let own = self.owners.get(domain).copied().unwrap_or(0);
        let (most, count) = self.owners.iter().max_by_key(|(_, count)| **count)?;
        let of_most = self.slots.iter().filter(|(_, s)| s.phase == Phase::Open && s.owner() == &**most);
        let (key, oldest) = of_most.min_by_key(|(_, session)| session.used)?;
        (*count > own + 1 || now.since(oldest.used) >= SPARED_FOR).then_some(key)
    }

    /// Is this the first INVITE with that Call-ID, as far as is remembered?
    pub(super) fn is_new_call_id(&mut self, call_id: &str) -> bool {
        let hash = dialog_hash(call_id, "");
        if self.call_ids.contains(&hash) {
            return false;
        }
        if self.call_ids.len() == SESSION_CALL_IDS_MAX {
            self.call_ids.pop_front();
        }
        self.call_ids.push_back(hash);
        true
    }

    /// The SIP user of this lane takes no session.
    pub(super) fn takes_no_session(&mut self, lane: u64, now: Instant) {
        self.pagers.retain(|_, until| *until > now);
        if self.pagers.len() < PAGER_PEERS_MAX {
            self.pagers.insert(lane, now.after(PAGER_FOR));
        }
    }

    /// Did the SIP user of this lane refuse a session lately?
    pub(super) fn is_pager(&self, lane: u64, now: Instant) -> bool {
        self.pagers.get(&lane).is_some_and(|until| *until > now)
    }

    /// He offers one himself, or takes no single messages either.
    pub(in crate::gateway) fn takes_sessions(&mut self, lane: u64) {
        self.pagers.remove(&lane);
    }

    /// All of them are in the slots below this one.
    pub(in crate::gateway) fn slots_end(&self) -> u32 {
        self.slots.end()
    }

    /// All of them.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.slots.iter().map(|(key, _)| key).collect()
    }
}

/// What a dialog is looked up by. Who finds two that collide gets both compared.
fn dialog_hash(call_id: &str, local_tag: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (call_id, local_tag).hash(&mut hasher);
    hasher.finish()
}

/// What a text is compared by: its words. One that comes again as HTML or RTF has other
/// blanks and line ends.
pub(super) fn text_hash(body: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.split_whitespace().for_each(|word| word.hash(&mut hasher));
    hasher.finish()
}
