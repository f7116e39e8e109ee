//! Who asked: every message on its way through the gateway, and how its outcome finds
//! the way back.
//!
//! A message from SIP holds the transaction that waits for an answer; one from XMPP
//! holds what a stanza error needs and stands in a lane: between one sender and one
//! target only one MESSAGE is under way outside a session (RFC 3428 section 8), the
//! others wait behind it in order. Both kinds lie in one bounded table; a message
//! that finds no room is refused, never dropped.

use super::outgoing::Outgoing;
use crate::base::cx::Ticket;
use crate::base::slab::{Key, Slab};
use crate::base::time::{Instant, Wall};
use crate::base::timers::Timers;
use crate::limits::{DELIVERED_REMEMBERED_MAX, PENDING_MAX, PENDING_OCTETS_MAX, PENDING_PER_PAIR_MAX};
use crate::xmpp::jid::Jid;
use crate::xmpp::server::Handle;
use std::collections::{BTreeMap, VecDeque};

/// One message on its way.
#[derive(Debug)]
pub enum Pending {
    /// From SIP to XMPP.
    ToXmpp(ToXmpp),
    /// From XMPP to SIP, or a notice of our own to a SIP user.
    ToSip(ToSip),
}

/// A message from SIP whose sender waits for the answer.
#[derive(Debug)]
pub struct ToXmpp {
    /// The server transaction to answer; `None`: its sender counts it as delivered already.
    pub transaction: Option<Key>,
    /// What a stanza error is matched and reported by.
    pub trace: Trace,
    /// Was the stanza delivered, so that only `message error-wait` is still running?
    pub delivered: bool,
}

/// What is remembered of a stanza made from a MESSAGE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The stanza's `id`.
    pub id: String,
    /// The stanza's `from`: the SIP sender's JID.
    pub from: Jid,
    /// The stanza's `to`.
    pub to: Jid,
    /// What the sender asked to be told by IMDN (RFC 5438), if he did.
    pub imdn: Option<ImdnRequest>,
}

/// A request for a delivery notification (RFC 5438 section 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImdnRequest {
    /// `imdn.Message-ID`.
    pub message_id: String,
    /// When the message was written.
    pub date_time: Wall,
}

/// A MESSAGE made for SIP.
#[derive(Debug)]
pub struct ToSip {
    /// Who is told of a failure; `None` for a notice of our own.
    pub origin: Option<Origin>,
    /// Which lane it stands in.
    lane: u64,
    /// Its place in the lane.
    turn: u64,
    /// The request, while it waits for its turn.
    waiting: Option<Box<Outgoing>>,
    /// The session it was sent in, and the request, should that be dead.
    carried: Option<(Key, Box<Outgoing>)>,
}

impl ToSip {
    /// The session it was sent in, or waits for.
    pub fn session(&self) -> Option<Key> {
        self.carried.as_ref().map(|(session, _)| *session)
    }

    /// The lane it stands in.
    pub fn lane(&self) -> u64 {
        self.lane
    }

    /// Its text, while that is kept; else empty.
    pub fn body(&self) -> &str {
        self.carried.as_ref().map_or("", |(_, request)| &request.body)
    }
}

/// The stanza a MESSAGE was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The stanza may be acknowledged when its fate is known.
    pub handle: Handle,
    /// Its `from`.
    pub from: String,
    /// Its `to`.
    pub to: String,
    /// Its `id`.
    pub id: Option<String>,
    /// Does its sender want to be told when it has arrived (XEP-0184)?
    pub wants_receipt: bool,
}

/// Why a message finds no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// Too many messages are on their way.
    Table,
    /// Too many wait between this sender and this target.
    Lane,
}

/// The table.
#[derive(Debug)]
pub struct Table {
    slots: Slab<Pending>,
    /// How long an answer may still wait for a stanza error, by slot.
    timers: Timers,
    /// Lane and turn of every message towards SIP.
    lanes: BTreeMap<(u64, u64), Key>,
    /// The next turn, rising.
    turn: u64,
    /// Octets of all requests that wait.
    waiting_octets: usize,
    /// Stanzas delivered and answered, oldest first, for errors that come late.
    delivered: VecDeque<Trace>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            slots: Slab::with_capacity(PENDING_MAX),
            timers: Timers::with_capacity(PENDING_MAX),
            lanes: BTreeMap::new(),
            turn: 0,
            waiting_octets: 0,
            delivered: VecDeque::new(),
        }
    }
}

impl Table {
    /// Enters a message from SIP.
    pub fn enter_to_xmpp(&mut self, transaction: Option<Key>, trace: Trace) -> Result<Ticket, NoRoom> {
        let entry = Pending::ToXmpp(ToXmpp { transaction, trace, delivered: false });
        self.slots.insert(entry).map(Ticket).map_err(|_| NoRoom::Table)
    }

    /// Enters a message for SIP into its lane. `Ok` with the request back: it is its
    /// turn, send it; `Ok(.., None)`: it waits.
    pub fn enter_to_sip(
        &mut self,
        lane: u64,
        origin: Option<Origin>,
        request: Outgoing,
    ) -> Result<(Ticket, Option<Outgoing>), (NoRoom, Option<Origin>)> {
        let ahead = self.lanes.range((lane, 0)..=(lane, u64::MAX)).take(PENDING_PER_PAIR_MAX + 1).count();
        let octets = request.octets();
        if ahead > PENDING_PER_PAIR_MAX {
            return Err((NoRoom::Lane, origin));
        }
        if self.slots.is_full() || (ahead > 0 && self.waiting_octets + octets > PENDING_OCTETS_MAX) {
            return Err((NoRoom::Table, origin));
        }
        self.turn += 1;
        let (now, waiting) = if ahead == 0 { (Some(request), None) } else { (None, Some(Box::new(request))) };
        if waiting.is_some() {
            self.waiting_octets += octets;
        }
        let entry = ToSip { origin, lane, turn: self.turn, waiting, carried: None };
        match self.slots.insert(Pending::ToSip(entry)) {
            Ok(key) => {
                self.lanes.insert((lane, self.turn), key);
                Ok((Ticket(key), now))
            }
            Err(Pending::ToSip(entry)) => Err((NoRoom::Table, entry.origin)),
            Err(Pending::ToXmpp(_)) => Err((NoRoom::Table, None)),
        }
    }

    /// The message of a ticket.
    pub fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Pending> {
        self.slots.get_mut(ticket.0)
    }

    /// Takes a message out: its fate is known.
    pub fn take(&mut self, ticket: Ticket) -> Option<Pending> {
        let pending = self.slots.remove(ticket.0)?;
        self.timers.stop(ticket.0.index());
        if let Pending::ToSip(entry) = &pending {
            self.lanes.remove(&(entry.lane, entry.turn));
            let kept =
                entry.waiting.as_deref().into_iter().chain(entry.carried.as_ref().map(|(_, request)| &**request));
            self.waiting_octets -= kept.map(Outgoing::octets).sum::<usize>();
        }
        Some(pending)
    }

    /// The JID of the XMPP user whose message it is; `None`: it is a notice of our own.
    pub fn sender(&self, ticket: Ticket) -> Option<&str> {
        match self.slots.get(ticket.0)? {
            Pending::ToSip(entry) => entry.origin.as_ref().map(|origin| &*origin.from),
            Pending::ToXmpp(_) => None,
        }
    }

    /// Is a message for SIP of this lane on its way?
    pub fn is_under_way(&self, lane: u64) -> bool {
        self.lanes.range((lane, 0)..=(lane, u64::MAX)).next().is_some()
    }

    /// Which lane a message for SIP stands in.
    pub fn lane_of(&self, ticket: Ticket) -> Option<u64> {
        match self.slots.get(ticket.0)? {
            Pending::ToSip(entry) => Some(entry.lane),
            Pending::ToXmpp(_) => None,
        }
    }

    /// Keeps the request of a message that goes, or waits to go, in a session. Gives it back
    /// if there is no room.
    #[allow(clippy::result_large_err, reason = "it is on the way, not on a heap")]
    pub fn carry(&mut self, ticket: Ticket, session: Key, request: Outgoing) -> Result<(), Outgoing> {
        let octets = request.octets();
        let Some(Pending::ToSip(entry)) = self.slots.get_mut(ticket.0) else { return Err(request) };
        if self.waiting_octets + octets > PENDING_OCTETS_MAX {
            return Err(request);
        }
        self.waiting_octets += octets;
        entry.carried = Some((session, Box::new(request)));
        Ok(())
    }

    /// The session a message was sent in, and its request, which is kept no longer.
    pub fn uncarry(&mut self, ticket: Ticket) -> Option<(Key, Outgoing)> {
        let Some(Pending::ToSip(entry)) = self.slots.get_mut(ticket.0) else { return None };
        let (session, request) = entry.carried.take()?;
        self.waiting_octets -= request.octets();
        Some((session, *request))
    }

    /// The request whose turn it is in the lane of a message just taken out.
    pub fn next_in_lane(&mut self, done: &ToSip) -> Option<(Ticket, Outgoing)> {
        let (_, &key) = self.lanes.range((done.lane, 0)..=(done.lane, u64::MAX)).next()?;
        let Pending::ToSip(entry) = self.slots.get_mut(key)? else { return None };
        let request = entry.waiting.take()?;
        self.waiting_octets -= request.octets();
        Some((Ticket(key), *request))
    }

    /// Lets an answer wait for a stanza error until `at`.
    pub fn wait(&mut self, ticket: Ticket, at: Instant) {
        self.timers.set(ticket.0.index(), at);
    }

    /// The message whose waiting is over.
    pub fn pop_due(&mut self, now: Instant) -> Option<Ticket> {
        let index = self.timers.pop_due(now)?;
        self.slots.key_at(index).map(Ticket)
    }

    /// When the next waiting is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The message that a stanza error belongs to: same id, and it comes from where
    /// the stanza went (or from the bare address or the domain of it).
    pub fn find_trace(&self, id: &str, from: &str, to: &str) -> Option<Ticket> {
        self.slots.iter().find_map(|(key, pending)| match pending {
            Pending::ToXmpp(entry) if entry.trace.answers(id, from, to) => Some(Ticket(key)),
            _ => None,
        })
    }

    /// The id of the stanza made from the MESSAGE of a transaction.
    pub fn id_of(&self, transaction: Key) -> Option<&str> {
        self.slots.iter().find_map(|(_, pending)| match pending {
            Pending::ToXmpp(entry) if entry.transaction == Some(transaction) => Some(entry.trace.id.as_str()),
            _ => None,
        })
    }

    /// Remembers a delivered stanza for errors that come late.
    pub fn remember(&mut self, trace: Trace) {
        if self.delivered.len() == DELIVERED_REMEMBERED_MAX {
            self.delivered.pop_front();
        }
        self.delivered.push_back(trace);
    }

    /// Takes out the delivered stanza that a late error belongs to.
    pub fn recall(&mut self, id: &str, from: &str, to: &str) -> Option<Trace> {
        let at = self.delivered.iter().rposition(|trace| trace.answers(id, from, to))?;
        self.delivered.remove(at)
    }

    /// Any message still on its way, for the end of the program.
    pub fn first(&self) -> Option<Ticket> {
        self.slots.iter().next().map(|(key, _)| Ticket(key))
    }

    /// How many messages are on their way.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Is nothing on its way?
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

impl Trace {
    fn answers(&self, id: &str, from: &str, to: &str) -> bool {
        self.id == id && bare(to) == self.from.bare() && (bare(from) == self.to.bare() || from == self.to.domain())
    }
}

fn bare(jid: &str) -> &str {
    jid.split_once('/').map_or(jid, |(bare, _)| bare)
}
