//! What is kept of contacts: one [`Contact`] for each pair of a SIP user and an XMPP
//! user, a [`Subscriber`] for each dialog in which we watch a SIP user, a [`Notifier`]
//! for each in which a SIP user watches somebody of XMPP. All bounded; nothing is found
//! by looking through a whole table.

use super::doubt::Suspicions;
use super::format::Format;
use super::state::Resource;
use crate::base::slab::{Key, Slab};
use crate::base::time::{Instant, Wall};
use crate::base::timers::Timers;
use crate::limits::{
    CONTACTS_MAX, CONTACTS_PER_USER_MAX, NOTIFIERS_MAX, PRESENCE_OCTETS_MAX, REFUSALS_REMEMBERED_MAX, SUBSCRIBERS_MAX,
};
use crate::sip::dialog::{Dialog, RouteSets};
use crate::sip::subscription::Reason;
use crate::xmpp::jid::Jid;
use crate::xmpp::server::Handle;
use crate::xmpp::stanza::Condition;
use core::hash::Hasher as _;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::DefaultHasher;
use std::rc::Rc;

/// How an authorization stands (REQ-8048-2): it outlives dialogs, streams and restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Authorization {
    /// Nobody asked, or it is over.
    #[default]
    None,
    /// Asked for, not decided.
    Pending,
    /// Given.
    Active,
    /// Over, and the XMPP user is still to be told so.
    Ended,
}

/// A pair of users.
#[derive(Debug)]
pub(super) struct Contact {
    /// The SIP user's place among the users.
    pub(super) sip: Key,
    /// The XMPP user's.
    pub(super) xmpp: Key,
    /// The XMPP user watches the SIP user.
    pub(super) watch: Watch,
    /// The SIP user watches the XMPP user.
    pub(super) grant: Grant,
    /// What is to be done when, in no order.
    pub(super) plan: Vec<(Task, Instant)>,
    /// The number of its last record.
    pub(super) record: u64,
    /// Octets of its variable parts, as counted in the table.
    octets: u32,
}

/// The XMPP user watches the SIP user: one lasting authorization, and the SIP dialogs
/// that stand for it now.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) state: Authorization,
    /// Subscribers: one, or one for each fork.
    pub(super) dialogs: Keys,
    /// What the XMPP user was told of each client of the contact.
    pub(super) shown: Vec<Shown>,
    /// `subscribed` is to be sent.
    pub(super) say_subscribed: bool,
    /// Sent and not known to have arrived.
    pub(super) unconfirmed: bool,
    /// The end of it was said, and is not known to have arrived.
    pub(super) is_end_said: bool,
    /// Stanzas of this contact whose outcome is open.
    pub(super) in_flight: u8,
    /// No SUBSCRIBE was ever accepted: a failure is told, and nothing kept
    /// (REQ-8048-20).
    pub(super) is_new: bool,
    /// Attempts in a row that came to nothing.
    pub(super) failures: u8,
    pub(super) last_in: Option<Instant>,
    pub(super) last_out: Option<Instant>,
    pub(super) last_probe: Option<Instant>,
    /// The hash of who asked then.
    pub(super) last_prober: u32,
    /// What there is while something is new or fails.
    pub(super) trouble: Rare<WatchTrouble>,
    /// The last word of a dialog that ended was that nobody is there.
    pub(super) is_closed: bool,
    /// It waits for its record to be safe.
    pub(super) waits: bool,
    /// It may not be at present, and is begun again when it may.
    pub(super) rests: bool,
    /// Attempts in a row to tell the XMPP user that came to nothing.
    pub(super) tell_failures: u8,
}

impl Watch {
    /// What is known is to be said, whether it was said before or not.
    pub(super) fn say_all_again(&mut self) {
        self.shown.iter_mut().for_each(|shown| shown.digest = 0);
    }

    /// The Expires to ask for at least.
    pub(super) fn expires_min_s(&self) -> u32 {
        self.trouble.get().map_or(0, |trouble| trouble.expires_min_s)
    }
}

/// What there is of a [`Watch`] while it is new or fails.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct WatchTrouble {
    /// The error to be sent instead of `unsubscribed`, with the `id` of what it answers.
    pub(super) error: Option<(Condition, Option<Box<str>>)>,
    /// The `id` of the `subscribe` that began it, while it is new.
    pub(super) asked_id: Option<Box<str>>,
    /// Since when it has been tried in vain.
    pub(super) failing_since: Option<Instant>,
    /// What failed last, and on which side; `None`: it works.
    pub(super) problem: Option<Box<str>>,
    /// The Expires to ask for when the notifier wanted more than ours (423).
    pub(super) expires_min_s: u32,
    /// When a subscription was last begun again at the notifier's word, and how often it
    /// was with little time between.
    pub(super) begun_again: Option<(Instant, u8)>,
}

/// Some keys; the first of them, nearly always the only one, takes no room of its own.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// [`NOBODY`]: there is none.
    first: Key,
    /// A vector in a box: half as large as one by itself while there is none.
    #[allow(clippy::box_collection, reason = "there are tens of thousands, nearly all without")]
    more: Option<Box<Vec<Key>>>,
}

/// The key of nothing: no table is so large.
const NOBODY: Key = Key::from_bits(u64::MAX);

impl Default for Keys {
    fn default() -> Self {
        Self { first: NOBODY, more: None }
    }
}

impl Keys {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        let first = (self.first != NOBODY).then_some(&self.first);
        first.into_iter().chain(self.more.iter().flat_map(|more| more.iter()))
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first != NOBODY) + self.more.as_ref().map_or(0, |more| more.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == NOBODY
    }

    fn push(&mut self, key: Key) {
        if self.is_empty() {
            self.first = key;
        } else {
            self.more.get_or_insert_default().push(key);
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(more) = &mut self.more {
            more.retain(|other| *other != key);
            if self.first == key && !more.is_empty() {
                self.first = more.remove(0);
            }
            if more.is_empty() {
                self.more = None;
            }
        }
        if self.first == key {
            self.first = NOBODY;
        }
    }
}

impl IntoIterator for Keys {
    type Item = Key;
    type IntoIter = core::iter::Chain<core::option::IntoIter<Key>, std::vec::IntoIter<Key>>;

    fn into_iter(self) -> Self::IntoIter {
        let first = Some(self.first).filter(|first| *first != NOBODY);
        first.into_iter().chain(self.more.map(|more| *more).unwrap_or_default())
    }
}

/// What few have: in a box, so that the others do not carry it. There is no box of
/// nothing.
#[derive(Debug, Default)]
pub(super) struct Rare<T>(Option<Box<T>>);

impl<T: Default + PartialEq> Rare<T> {
    /// What there is.
    pub(super) fn get(&self) -> Option<&T> {
        self.0.as_deref()
    }

    /// Changes it; what is nothing afterwards takes no room.
    pub(super) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        match &mut self.0 {
            Some(kept) => {
                let result = change(kept);
                if **kept == T::default() {
                    self.0 = None;
                }
                result
            }
            None => {
                let mut new = T::default();
                let result = change(&mut new);
                if new != T::default() {
                    self.0 = Some(Box::new(new));
                }
                result
            }
        }
    }
}

/// What the XMPP user was told of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) name: Box<str>,
    pub(super) is_available: bool,
    /// Of all that was said; 0: it is to be said again.
    pub(super) digest: u32,
}

/// The SIP user watches the XMPP user: the authorization, and his dialogs.
#[derive(Debug, Default)]
pub(super) struct Grant {
    pub(super) state: Authorization,
    /// Notifiers: one for each phone.
    pub(super) dialogs: Keys,
    /// The XMPP user's clients, those just gone among them.
    pub(super) resources: Vec<Resource>,
    /// Probes in a row that nothing came back to.
    pub(super) silent_probes: u8,
    /// Watchers may show something that is not known any more: from before a restart.
    pub(super) is_unsure: bool,
    /// Is that the state? Else nothing is known.
    pub(super) is_known: bool,
    /// The SIP user has the XMPP user among his contacts: he asked to see him and did
    /// not take it back.
    pub(super) is_added: bool,
    /// `subscribe` was sent and is not known to have arrived.
    pub(super) is_asking: bool,
    /// The leave came at once: the server may have had it already, and then it tells no state
    /// with it (RFC 6121 section 3.1.3).
    pub(super) is_automatic: bool,
    /// What there is while something is asked, or fails.
    pub(super) trouble: Rare<GrantTrouble>,
    pub(super) failures: u8,
    pub(super) last_in: Option<Instant>,
    pub(super) last_out: Option<Instant>,
}

impl Grant {
    /// Does a watcher who asked once wait for the answer to a probe?
    pub(super) fn is_polled(&self, notifiers: &Slab<Notifier>) -> bool {
        let waits = |notifier: &Notifier| notifier.poll.is_some() && notifier.end.is_none();
        self.dialogs.iter().any(|dialog| notifiers.get(*dialog).is_some_and(waits))
    }
}

/// What there is of a [`Grant`] while the XMPP side is asked, or something fails.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct GrantTrouble {
    /// Those clients that the answers to a probe have not named yet.
    pub(super) stale: Vec<Box<str>>,
    /// The display name of the SIP user, until the XMPP user has decided.
    pub(super) nick: Option<Box<str>>,
    /// What failed last, and on which side; `None`: it works.
    pub(super) problem: Option<Box<str>>,
}

/// Something to be done for a contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// Begin a dialog with the SIP user.
    Subscribe,
    /// Tell the XMPP user what he was not told yet.
    Tell,
    /// Ask the XMPP user to let himself be watched.
    Ask,
    /// Ask the XMPP user's server how he is.
    Probe,
    /// It did not answer.
    ProbeOver,
}

/// A dialog in which we watch a SIP user.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) contact: Key,
    pub(super) dialog: Dialog,
    pub(super) phase: Phase,
    /// A SUBSCRIBE is under way.
    pub(super) is_busy: bool,
    /// The full JID that asked once (REQ-8048-71): no authorization stands behind it.
    pub(super) poll: Option<Box<str>>,
    /// When it runs out.
    pub(super) expires: Instant,
    /// How long it was granted for, in seconds; 0: that was not said yet.
    pub(super) granted_s: u32,
    /// When to refresh; `None`: it is left to run out.
    pub(super) refresh: Option<Instant>,
    /// Until when the XMPP user's server may answer our probe.
    pub(super) probing: Option<Instant>,
    /// Until when the first NOTIFY, or one of another fork, may come (Timer N).
    pub(super) forks_until: Instant,
    /// Until when the NOTIFY that follows a refresh may come; `None`: it came.
    pub(super) notify_until: Option<Instant>,
    /// What the last NOTIFY with a body said.
    pub(super) resources: Vec<Resource>,
    /// Was there one?
    pub(super) is_informed: bool,
    /// The next refresh asks whether the dialog still stands, whoever is online.
    pub(super) is_in_doubt: bool,
    /// A NOTIFY has said how long it lasts since the last SUBSCRIBE.
    pub(super) is_life_told: bool,
    /// The last SUBSCRIBE had Expires 0.
    pub(super) is_end_asked: bool,
    /// Octets of the dialog as they were counted.
    pub(super) octets: u32,
}

/// How far a subscriber is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No NOTIFY came yet.
    Begun,
    /// NOTIFYs come.
    Live,
    /// Expires 0 was sent: the last NOTIFY is waited for.
    Ending,
}

/// A dialog in which a SIP user watches somebody of XMPP.
#[derive(Debug)]
pub(super) struct Notifier {
    pub(super) contact: Key,
    pub(super) dialog: Dialog,
    /// The parameter `id` of Event, to be echoed.
    pub(super) event_id: Option<Box<str>>,
    /// What the watcher is sent: what he took first.
    pub(super) format: Format,
    /// Each NOTIFY makes it last anew (`com.microsoft.autoextend`).
    pub(super) is_extended: bool,
    pub(super) expires: Instant,
    /// How long it was granted for, in seconds.
    pub(super) granted_s: u32,
    /// A NOTIFY is under way.
    pub(super) is_busy: bool,
    /// There is something the watcher was not told yet.
    pub(super) is_dirty: bool,
    /// When a NOTIFY with state last went out.
    pub(super) last_state: Option<Instant>,
    /// Not before.
    pub(super) hold: Option<Instant>,
    pub(super) end: Option<End>,
    /// The watcher asked once: until then the answer to a probe is waited for.
    pub(super) poll: Option<Instant>,
    pub(super) failures: u8,
    /// Octets of the dialog as they were counted.
    pub(super) octets: u32,
}

/// How a notifier's dialog ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) reason: Reason,
    /// Seconds after which the watcher may come again.
    pub(super) retry_after_s: Option<u32>,
    /// Say in the body that the contact is `closed`?
    pub(super) says_closed: bool,
    /// Was the last NOTIFY sent?
    pub(super) is_sent: bool,
}

/// A user of either side.
#[derive(Debug)]
struct User {
    jid: Rc<Jid>,
    contacts: u32,
    /// Since when polls are counted, and how many there were.
    polls: (Instant, u16),
}

/// Whose dialog it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DialogKey {
    Subscriber(Key),
    Notifier(Key),
}

/// Whose deadline came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Contact(Key),
    Subscriber(Key),
    Notifier(Key),
}

/// What waits until a record is safe.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiting {
    /// A stanza may be acknowledged.
    Handled(Handle),
    /// A contact has something to promise.
    Contact(Key),
}

/// Why a contact finds no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The table is full.
    Table,
    /// One of the two has as many contacts as one may have.
    User,
}

/// All contacts.
#[derive(Debug)]
pub(in crate::gateway) struct Table {
    hash_key: Vec<u8>,
    users: Slab<User>,
    by_jid: BTreeMap<u64, Key>,
    pub(super) contacts: Slab<Contact>,
    /// By the XMPP user, then the SIP user; slots, since none of them outlives its contact.
    by_pair: BTreeMap<(u32, u32), u32>,
    pub(super) subscribers: Slab<Subscriber>,
    pub(super) notifiers: Slab<Notifier>,
    /// By the hash of Call-ID and our tag: whose it is ([`OF_NOTIFIER`]) and its slot. Forks
    /// of one SUBSCRIBE share their hash, two that have nothing to do with each other may.
    by_dialog: BTreeSet<(u32, u32)>,
    pub(super) route_sets: RouteSets,
    /// Deadlines of contacts, subscribers and notifiers, by their slots.
    timers: [Timers; 3],
    /// Octets of everything of variable size.
    octets: usize,
    /// Pairs that SIP refused of late, oldest first (REQ-8048-74).
    refused: (VecDeque<u64>, BTreeSet<u64>),
    /// When all dialogs with a SIP domain were last asked whether they still stand.
    pub(super) examined: BTreeMap<String, Instant>,
    pub(super) suspicions: Suspicions,
    /// Records up to this one are safe.
    pub(super) safe: u64,
    pub(super) waiting: VecDeque<(u64, Waiting)>,
    /// The time of the last event, for records that are asked for between two.
    pub(super) clock: (Instant, Wall),
    /// The `<c/>` of presence we make, written once.
    pub(super) capabilities: String,
}

/// One dialog, nearly always.
type Vec1 = heapless::Vec<DialogKey, FORKS_MAX>;

/// Dialogs that one SUBSCRIBE of ours may have made.
pub(super) const FORKS_MAX: usize = 4;

/// The mark of a notifier's slot in [`Table::by_dialog`].
const OF_NOTIFIER: u32 = 1 << 31;

const fn slot_of(key: DialogKey) -> u32 {
    match key {
        DialogKey::Subscriber(key) => key.index(),
        DialogKey::Notifier(key) => key.index() | OF_NOTIFIER,
    }
}

/// Whose deadlines they are: places in [`Table::timers`].
const CONTACT_TIMERS: usize = 0;
const SUBSCRIBER_TIMERS: usize = 1;
const NOTIFIER_TIMERS: usize = 2;
/// Polls of one user in a minute.
const POLLS_PER_MINUTE_MAX: u16 = 60;

impl Table {
    pub(in crate::gateway) fn new(hash_key: &[u8]) -> Self {
        Self {
            hash_key: hash_key.to_vec(),
            users: Slab::with_capacity(2 * CONTACTS_MAX),
            by_jid: BTreeMap::new(),
            contacts: Slab::with_capacity(CONTACTS_MAX),
            by_pair: BTreeMap::new(),
            subscribers: Slab::with_capacity(SUBSCRIBERS_MAX),
            notifiers: Slab::with_capacity(NOTIFIERS_MAX),
            by_dialog: BTreeSet::new(),
            route_sets: RouteSets::default(),
            timers: [CONTACTS_MAX, SUBSCRIBERS_MAX, NOTIFIERS_MAX].map(Timers::growing),
            octets: 0,
            refused: (VecDeque::new(), BTreeSet::new()),
            examined: BTreeMap::new(),
            suspicions: Suspicions::default(),
            safe: 0,
            waiting: VecDeque::new(),
            clock: (Instant::ZERO, Wall(0)),
            capabilities: String::new(),
        }
    }

    /// A hash of two texts that nobody outside can foretell.
    pub(super) fn hash(&self, a: &str, b: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.hash_key);
        hasher.write(a.as_bytes());
        hasher.write_u8(0xFF);
        hasher.write(b.as_bytes());
        hasher.finish()
    }

    // ---- Users and contacts

    /// The user of that bare JID, if there is a contact of his.
    pub(super) fn user(&self, jid: &str) -> Option<Key> {
        let key = *self.by_jid.get(&self.hash(jid, ""))?;
        self.users.get(key).filter(|user| user.jid.bare() == jid).map(|_| key)
    }

    fn user_or_new(&mut self, jid: &Jid) -> Option<Key> {
        if let Some(key) = self.user(jid.bare()) {
            return Some(key);
        }
        let hash = self.hash(jid.bare(), "");
        if self.by_jid.contains_key(&hash) {
            return None;
        }
        let user = User { jid: Rc::new(jid.to_bare()), contacts: 0, polls: (Instant::ZERO, 0) };
        let key = self.users.insert(user).ok()?;
        self.by_jid.insert(hash, key);
        self.octets += jid.bare().len();
        Some(key)
    }

    fn release_user(&mut self, key: Key) {
        let Some(user) = self.users.get_mut(key) else { return };
        user.contacts = user.contacts.saturating_sub(1);
        if user.contacts == 0
            && let Some(user) = self.users.remove(key)
        {
            self.octets = self.octets.saturating_sub(user.jid.bare().len());
            let hash = self.hash(user.jid.bare(), "");
            self.by_jid.remove(&hash);
        }
    }

    /// The contact of two bare JIDs.
    pub(super) fn find(&self, sip: &str, xmpp: &str) -> Option<Key> {
        let contact = self.by_pair.get(&(self.user(xmpp)?.index(), self.user(sip)?.index()))?;
        self.contacts.key_at(*contact)
    }

    /// The contact of two users, made if there is none.
    pub(super) fn find_or_new(&mut self, sip: &Jid, xmpp: &Jid) -> Result<Key, NoRoom> {
        if let Some(key) = self.find(sip.bare(), xmpp.bare()) {
            return Ok(key);
        }
        if self.contacts.is_full() || self.octets > PRESENCE_OCTETS_MAX {
            return Err(NoRoom::Table);
        }
        let Some(sip_key) = self.user_or_new(sip) else { return Err(NoRoom::Table) };
        let Some(xmpp_key) = self.user_or_new(xmpp) else {
            self.release_user(sip_key);
            return Err(NoRoom::Table);
        };
        let contacts = |key| self.users.get(key).map_or(0, |user| user.contacts);
        let has_room = contacts(sip_key).max(contacts(xmpp_key)) < CONTACTS_PER_USER_MAX as u32;
        for key in [sip_key, xmpp_key] {
            if let Some(user) = self.users.get_mut(key) {
                user.contacts += 1;
            }
        }
        let contact = Contact {
            sip: sip_key,
            xmpp: xmpp_key,
            watch: Watch::default(),
            grant: Grant::default(),
            plan: Vec::new(),
            record: 0,
            octets: 0,
        };
        let made = if has_room { self.contacts.insert(contact).map_err(|_| NoRoom::Table) } else { Err(NoRoom::User) };
        match made {
            Ok(key) => {
                self.by_pair.insert((xmpp_key.index(), sip_key.index()), key.index());
                Ok(key)
            }
            Err(no_room) => {
                self.release_user(sip_key);
                self.release_user(xmpp_key);
                Err(no_room)
            }
        }
    }

    /// The SIP user and the XMPP user of a contact, bare.
    pub(super) fn names(&self, contact: Key) -> Option<(Rc<Jid>, Rc<Jid>)> {
        let contact = self.contacts.get(contact)?;
        Some((Rc::clone(&self.users.get(contact.sip)?.jid), Rc::clone(&self.users.get(contact.xmpp)?.jid)))
    }

    /// All contacts of an XMPP user, a bare JID.
    pub(super) fn of_xmpp(&self, jid: &str) -> Vec<Key> {
        let Some(user) = self.user(jid) else { return Vec::new() };
        let all = self.by_pair.range((user.index(), 0)..=(user.index(), u32::MAX));
        all.filter_map(|(_, contact)| self.contacts.key_at(*contact)).collect()
    }

    /// Forgets a contact that nothing is left of, but its dialogs.
    pub(super) fn forget(&mut self, key: Key) {
        let Some(contact) = self.contacts.remove(key) else { return };
        self.timers[CONTACT_TIMERS].stop(key.index());
        self.octets = self.octets.saturating_sub(contact.octets as usize);
        self.by_pair.remove(&(contact.xmpp.index(), contact.sip.index()));
        for dialog in contact.watch.dialogs {
            self.remove_subscriber(dialog);
        }
        for dialog in contact.grant.dialogs {
            self.remove_notifier(dialog);
        }
        self.release_user(contact.sip);
        self.release_user(contact.xmpp);
    }

    /// Counts the variable parts of a contact again.
    pub(super) fn weigh(&mut self, key: Key) {
        let Some(contact) = self.contacts.get_mut(key) else { return };
        let shown: usize = contact.watch.shown.iter().map(|shown| size_of::<Shown>() + shown.name.len()).sum();
        let resources: usize = contact.grant.resources.iter().map(Resource::octets).sum();
        let dialogs = contact.watch.dialogs.iter();
        let seen: usize = dialogs
            .filter_map(|dialog| self.subscribers.get(*dialog))
            .flat_map(|subscriber| &subscriber.resources)
            .map(Resource::octets)
            .sum();
        let octets = shown + resources + seen;
        self.octets = (self.octets + octets).saturating_sub(contact.octets as usize);
        contact.octets = u32::try_from(octets).unwrap_or(u32::MAX);
    }

    /// Is there no room for what users say about themselves?
    pub(super) fn is_heavy(&self) -> bool {
        self.octets > PRESENCE_OCTETS_MAX
    }

    /// May this user ask once more without an authorization?
    pub(super) fn may_poll(&mut self, contact: Key, now: Instant) -> bool {
        let Some(user) = self.contacts.get(contact).and_then(|c| self.users.get_mut(c.xmpp)) else { return false };
        if now.since(user.polls.0).as_secs() >= 60 {
            user.polls = (now, 0);
        }
        user.polls.1 = user.polls.1.saturating_add(1);
        user.polls.1 <= POLLS_PER_MINUTE_MAX
    }

    /// Remembers that SIP refused to let this pair watch.
    pub(super) fn note_refused(&mut self, sip: &str, xmpp: &str) {
        let hash = self.hash(sip, xmpp);
        let (order, all) = &mut self.refused;
        if all.insert(hash) {
            order.push_back(hash);
            if order.len() > REFUSALS_REMEMBERED_MAX
                && let Some(oldest) = order.pop_front()
            {
                all.remove(&oldest);
            }
        }
    }

    /// SIP lets this pair watch, whatever it said before.
    pub(super) fn note_approved(&mut self, sip: &str, xmpp: &str) {
        let hash = self.hash(sip, xmpp);
        let (order, all) = &mut self.refused;
        if all.remove(&hash) {
            order.retain(|refused| *refused != hash);
        }
    }

    /// Did SIP refuse this pair of late?
    pub(super) fn is_refused(&self, sip: &str, xmpp: &str) -> bool {
        self.refused.1.contains(&self.hash(sip, xmpp))
    }

    // ---- Dialogs

    /// The dialogs of this Call-ID and tag of ours.
    pub(super) fn dialogs(&self, call_id: &str, local_tag: &str) -> Vec1 {
        let hash = self.hash(call_id, local_tag) as u32;
        let is_it = |key: &&DialogKey| {
            let dialog = match **key {
                DialogKey::Subscriber(key) => self.subscribers.get(key).map(|s| &s.dialog),
                DialogKey::Notifier(key) => self.notifiers.get(key).map(|n| &n.dialog),
            };
            dialog.is_some_and(|d| d.call_id() == call_id && d.local_tag() == local_tag)
        };
        self.of_hash(hash).filter(|key| is_it(&key)).take(FORKS_MAX).collect()
    }

    fn index(&mut self, call_id: &str, local_tag: &str, key: DialogKey) -> bool {
        let hash = self.hash(call_id, local_tag) as u32;
        // As many forks again of another one that has the same hash by chance.
        self.of_hash(hash).count() < 2 * FORKS_MAX && self.by_dialog.insert((hash, slot_of(key)))
    }

    fn unindex(&mut self, dialog: &Dialog, key: DialogKey) {
        let hash = self.hash(dialog.call_id(), dialog.local_tag()) as u32;
        self.by_dialog.remove(&(hash, slot_of(key)));
    }

    fn of_hash(&self, hash: u32) -> impl Iterator<Item = DialogKey> {
        self.by_dialog.range((hash, 0)..=(hash, u32::MAX)).filter_map(|(_, slot)| {
            if slot & OF_NOTIFIER == 0 {
                self.subscribers.key_at(*slot).map(DialogKey::Subscriber)
            } else {
                self.notifiers.key_at(slot & !OF_NOTIFIER).map(DialogKey::Notifier)
            }
        })
    }

    /// Enters a subscriber; `None`: no room.
    pub(super) fn add_subscriber(&mut self, mut subscriber: Subscriber) -> Option<Key> {
        let contact = subscriber.contact;
        if self.contacts.get(contact)?.watch.dialogs.len() >= FORKS_MAX {
            return None;
        }
        let (call_id, tag) = (subscriber.dialog.call_id().to_owned(), subscriber.dialog.local_tag().to_owned());
        let octets = subscriber.dialog.octets();
        subscriber.octets = u32::try_from(octets).unwrap_or(u32::MAX);
        let key = self.subscribers.insert(subscriber).ok()?;
        self.octets += octets;
        if !self.index(&call_id, &tag, DialogKey::Subscriber(key)) {
            self.remove_subscriber(key);
            return None;
        }
        self.contacts.get_mut(contact)?.watch.dialogs.push(key);
        Some(key)
    }

    pub(super) fn remove_subscriber(&mut self, key: Key) -> Option<Subscriber> {
        let subscriber = self.subscribers.remove(key)?;
        self.timers[SUBSCRIBER_TIMERS].stop(key.index());
        self.octets = self.octets.saturating_sub(subscriber.octets as usize);
        self.unindex(&subscriber.dialog, DialogKey::Subscriber(key));
        if let Some(contact) = self.contacts.get_mut(subscriber.contact) {
            contact.watch.dialogs.remove(key);
        }
        Some(subscriber)
    }

    /// Enters a notifier; `None`: no room.
    pub(super) fn add_notifier(&mut self, mut notifier: Notifier) -> Option<Key> {
        let contact = notifier.contact;
        if self.contacts.get(contact)?.grant.dialogs.len() >= crate::limits::NOTIFIERS_PER_CONTACT_MAX {
            return None;
        }
        let (call_id, tag) = (notifier.dialog.call_id().to_owned(), notifier.dialog.local_tag().to_owned());
        let octets = notifier.dialog.octets();
        notifier.octets = u32::try_from(octets).unwrap_or(u32::MAX);
        let key = self.notifiers.insert(notifier).ok()?;
        self.octets += octets;
        if !self.index(&call_id, &tag, DialogKey::Notifier(key)) {
            self.remove_notifier(key);
            return None;
        }
        self.contacts.get_mut(contact)?.grant.dialogs.push(key);
        Some(key)
    }

    pub(super) fn remove_notifier(&mut self, key: Key) -> Option<Notifier> {
        let notifier = self.notifiers.remove(key)?;
        self.timers[NOTIFIER_TIMERS].stop(key.index());
        self.octets = self.octets.saturating_sub(notifier.octets as usize);
        self.unindex(&notifier.dialog, DialogKey::Notifier(key));
        if let Some(contact) = self.contacts.get_mut(notifier.contact) {
            contact.grant.dialogs.remove(key);
        }
        Some(notifier)
    }

    // ---- Time

    /// Plans a task, in place of the same one planned before.
    pub(super) fn plan(&mut self, key: Key, task: Task, at: Instant) {
        let Some(contact) = self.contacts.get_mut(key) else { return };
        contact.plan.retain(|(planned, _)| *planned != task);
        contact.plan.reserve_exact(1);
        contact.plan.push((task, at));
        self.arm_contact(key);
    }

    /// Plans a task, unless it is planned for an earlier time already.
    pub(super) fn plan_by(&mut self, key: Key, task: Task, at: Instant) {
        if self.planned(key, task).is_none_or(|planned| planned > at) {
            self.plan(key, task, at);
        }
    }

    /// When a task is planned for.
    pub(super) fn planned(&self, key: Key, task: Task) -> Option<Instant> {
        self.contacts.get(key)?.plan.iter().find(|(planned, _)| *planned == task).map(|(_, at)| *at)
    }

    /// Takes a task back.
    pub(super) fn cancel(&mut self, key: Key, task: Task) {
        let Some(contact) = self.contacts.get_mut(key) else { return };
        contact.plan.retain(|(planned, _)| *planned != task);
        if contact.plan.is_empty() {
            contact.plan = Vec::new();
        }
        self.arm_contact(key);
    }

    /// Takes out a task whose time has come.
    pub(super) fn next_task(&mut self, key: Key, now: Instant) -> Option<Task> {
        let contact = self.contacts.get_mut(key)?;
        let at = contact.plan.iter().position(|(_, at)| *at <= now)?;
        let (task, _) = contact.plan.swap_remove(at);
        self.arm_contact(key);
        Some(task)
    }

    fn arm_contact(&mut self, key: Key) {
        let next = self.contacts.get(key).and_then(|contact| contact.plan.iter().map(|(_, at)| *at).min());
        self.set_timer(CONTACT_TIMERS, key, next);
    }

    /// Sets the deadline of a subscriber from what it waits for.
    pub(super) fn arm_subscriber(&mut self, key: Key) {
        let Some(s) = self.subscribers.get(key) else { return };
        let first = match s.phase {
            Phase::Begun => Some(s.forks_until),
            Phase::Live => {
                let notify = s.notify_until.filter(|_| !s.is_busy);
                let silent = Some(s.forks_until).filter(|until| !s.is_informed && *until > self.clock.0);
                [Some(s.expires), s.probing.or(s.refresh), notify, silent].into_iter().flatten().min()
            }
            Phase::Ending => Some(s.expires),
        };
        self.set_timer(SUBSCRIBER_TIMERS, key, first);
    }

    /// Sets the deadline of a notifier from what it waits for.
    pub(super) fn arm_notifier(&mut self, key: Key, wake: Option<Instant>) {
        let Some(n) = self.notifiers.get(key) else { return };
        let ends = n.end.is_none().then_some(n.expires);
        let first = [ends, n.poll.filter(|_| n.end.is_none()), wake].into_iter().flatten().min();
        self.set_timer(NOTIFIER_TIMERS, key, first);
    }

    fn set_timer(&mut self, whose: usize, key: Key, at: Option<Instant>) {
        match at {
            Some(at) => self.timers[whose].set(key.index(), at),
            None => self.timers[whose].stop(key.index()),
        }
    }

    /// Whose deadline came first, if one has.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Due> {
        loop {
            let first = |whose: &usize| self.timers[*whose].next();
            let all = [CONTACT_TIMERS, SUBSCRIBER_TIMERS, NOTIFIER_TIMERS];
            let whose = all.into_iter().filter(|whose| first(whose).is_some()).min_by_key(first)?;
            let slot = self.timers[whose].pop_due(now)?;
            let due = match whose {
                NOTIFIER_TIMERS => self.notifiers.key_at(slot).map(Due::Notifier),
                SUBSCRIBER_TIMERS => self.subscribers.key_at(slot).map(Due::Subscriber),
                _ => self.contacts.key_at(slot).map(Due::Contact),
            };
            if due.is_some() {
                return due;
            }
        }
    }

    /// Notes the time of an event.
    pub(in crate::gateway) const fn note_time(&mut self, now: Instant, wall: Wall) {
        self.clock = (now, wall);
    }

    /// When something is due next.
    pub(in crate::gateway) fn deadline(&self) -> Option<Instant> {
        self.timers.iter().filter_map(Timers::next).chain(self.suspicions.due).min()
    }

    /// The time of the last event.
    pub(in crate::gateway) const fn time(&self) -> (Instant, Wall) {
        self.clock
    }

    /// How many contacts there are.
    pub(in crate::gateway) fn len(&self) -> usize {
        self.contacts.len()
    }

    /// All contacts are in the slots below this one.
    pub(in crate::gateway) fn slots(&self) -> u32 {
        self.contacts.end()
    }
}
