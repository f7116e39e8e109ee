//! What of a contact survives a restart: its two authorizations, what the XMPP user was
//! shown, and the dialogs of SIP watchers, who do not know that we were gone. A record is
//! the whole state of one pair; a later one takes the place of an earlier one.

use super::RESTART_SPREAD_MS;
use super::format::Format;
use super::grant::{CSEQ_BEYOND, restored_until};
use super::table::{Authorization, End, Notifier, Shown, Task};
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::slab::Key;
use crate::base::time::Wall;
use crate::gateway::Gateway;
use crate::sip::dialog::{Dialog, Parts};
use crate::sip::subscription::Reason;
use crate::xmpp::jid::Jid;
use core::time::Duration;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The first octet of each record.
const VERSION: u8 = 2;
/// That of records without [`Record::ways`].
const VERSION_1: u8 = 1;

/// One pair of users.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record<'a> {
    sip: &'a str,
    xmpp: &'a str,
    watch: u8,
    grant: u8,
    is_added: bool,
    #[serde(borrow)]
    shown: Vec<&'a str>,
    #[serde(borrow)]
    dialogs: Vec<DialogRecord<'a>>,
    /// What each of these watchers is sent: [`Format::code`], and [`EXTENDED`]; those of
    /// dialogs without one are PIDF's.
    ways: Vec<u8>,
}

/// Each NOTIFY makes the dialog last anew.
const EXTENDED: u8 = 0x80;

/// One watcher's dialog.
#[derive(Debug, Serialize, Deserialize)]
struct DialogRecord<'a> {
    call_id: &'a str,
    local_tag: &'a str,
    remote_tag: &'a str,
    local_uri: &'a str,
    remote_uri: &'a str,
    target: &'a str,
    #[serde(borrow)]
    route_set: Cow<'a, str>,
    event_id: Option<&'a str>,
    local_cseq: u32,
    remote_cseq: Option<u32>,
    /// Wall clock, in seconds since 1970.
    expires: i64,
    granted_s: u32,
}

/// Is that one under which a watcher may have a dialog?
const fn stands(grant: Authorization) -> bool {
    matches!(grant, Authorization::Pending | Authorization::Active)
}

const fn code(state: Authorization) -> u8 {
    match state {
        Authorization::None => 0,
        Authorization::Pending => 1,
        Authorization::Active => 2,
        Authorization::Ended => 3,
    }
}

/// Active, and `subscribed` is not known to have arrived.
const UNTOLD: u8 = 4;

const fn state(code: u8) -> Authorization {
    match code {
        1 => Authorization::Pending,
        2 | UNTOLD => Authorization::Active,
        3 => Authorization::Ended,
        _ => Authorization::None,
    }
}

/// A record, of whatever version, as the present one has it behind its first octet.
fn brought_up(octets: &[u8]) -> Option<Cow<'_, [u8]>> {
    match octets {
        // Its last part was left out: an empty list is one 0.
        [VERSION_1, rest @ ..] => Some([rest, &[0]].concat().into()),
        [VERSION, rest @ ..] => Some(rest.into()),
        _ => None,
    }
}

impl Gateway {
    /// Stores a contact as it is now, and gives the number of the record.
    pub(super) fn store(&mut self, cx: &mut Cx<'_>, key: Key) -> Option<u64> {
        let octets = self.record_of(key, cx.wall, cx.now)?;
        let number = cx.out.store(&octets);
        if let Some(contact) = self.presence.contacts.get_mut(key) {
            contact.record = number;
        }
        Some(number)
    }

    fn record_of(&self, key: Key, wall: Wall, now: crate::base::time::Instant) -> Option<Vec<u8>> {
        let contact = self.presence.contacts.get(key)?;
        let (sip, xmpp) = self.presence.names(key)?;
        // A watcher who lost his leave, or his right, is kept till he has heard it: he still
        // shows what he saw.
        let is_told = |end: End| !matches!(end.reason, Reason::Rejected | Reason::NoResource);
        let living =
            |key: &Key| self.presence.notifiers.get(*key).filter(|n| n.poll.is_none() && !n.end.is_some_and(is_told));
        let ways = contact.grant.dialogs.iter().filter_map(living);
        let ways = ways.map(|notifier| notifier.format.code() | if notifier.is_extended { EXTENDED } else { 0 });
        let dialogs = contact.grant.dialogs.iter().filter_map(living).map(|notifier| {
            let parts = notifier.dialog.parts();
            let left = notifier.expires.since(now).as_secs();
            DialogRecord {
                call_id: parts.call_id,
                local_tag: parts.local_tag,
                remote_tag: parts.remote_tag,
                local_uri: parts.local_uri,
                remote_uri: parts.remote_uri,
                target: parts.target,
                route_set: notifier.dialog.route_set(),
                event_id: notifier.event_id.as_deref(),
                local_cseq: notifier.dialog.local_cseq(),
                remote_cseq: notifier.dialog.remote_cseq(),
                expires: wall.seconds().saturating_add(i64::try_from(left).unwrap_or(i64::MAX)),
                granted_s: notifier.granted_s,
            }
        });
        let record = Record {
            sip: sip.as_str(),
            xmpp: xmpp.as_str(),
            watch: match contact.watch.state {
                Authorization::Active if contact.watch.say_subscribed || contact.watch.unconfirmed => UNTOLD,
                state => code(state),
            },
            grant: code(contact.grant.state),
            is_added: contact.grant.is_added,
            // One that is gone stays until the XMPP user is known to have heard it.
            shown: contact
                .watch
                .shown
                .iter()
                .filter(|shown| shown.is_available || contact.watch.in_flight > 0)
                .map(|shown| &*shown.name)
                .collect(),
            dialogs: dialogs.collect(),
            ways: ways.collect(),
        };
        // A record of texts and numbers always has a postcard form.
        postcard::to_extend(&record, vec![VERSION]).ok()
    }

    /// Takes in one record; a later one of the same pair takes its place.
    pub(in crate::gateway) fn restore_record(&mut self, cx: &mut Cx<'_>, octets: &[u8]) {
        let brought_up = brought_up(octets);
        let record = brought_up.as_deref().and_then(|rest| postcard::from_bytes::<Record<'_>>(rest).ok());
        let users = record.as_ref().and_then(|r| Some((Jid::parse(r.sip).ok()?, Jid::parse(r.xmpp).ok()?)));
        let (Some(record), Some((sip, xmpp))) = (record, users) else {
            cx.refuse(
                Counter::RecordRefused,
                "presence.record-refused",
                format_args!("side=ours octets={}", octets.len()),
            );
            return;
        };
        if let Some(old) = self.presence.find(sip.bare(), xmpp.bare()) {
            self.presence.forget(old);
        }
        if record.watch == 0 && record.grant == 0 && !record.is_added && record.dialogs.is_empty() {
            return;
        }
        let Ok(key) = self.presence.find_or_new(&sip, &xmpp) else {
            cx.refuse(Counter::PresenceOverload, "presence.full", format_args!("side=ours what=restored-contact"));
            return;
        };
        if let Some(contact) = self.presence.contacts.get_mut(key) {
            contact.watch.state = state(record.watch);
            contact.watch.say_subscribed = record.watch == UNTOLD;
            contact.grant.state = state(record.grant);
            contact.grant.is_added = record.is_added;
            let shown = record.shown.iter().map(|name| Shown { name: (*name).into(), is_available: true, digest: 0 });
            contact.watch.shown = shown.collect();
        }
        let ways = record.ways.iter().copied().chain(core::iter::repeat(0));
        let end = End { reason: Reason::Rejected, retry_after_s: None, says_closed: false, is_sent: false };
        let end = Some(end).filter(|_| !stands(state(record.grant)));
        for (dialog, way) in record.dialogs.iter().zip(ways) {
            let parts = Parts {
                call_id: dialog.call_id,
                local_tag: dialog.local_tag,
                remote_tag: dialog.remote_tag,
                local_uri: dialog.local_uri,
                remote_uri: dialog.remote_uri,
                target: dialog.target,
            };
            if !parts.is_sound() || dialog.route_set.contains(['\r', '\n']) {
                continue;
            }
            let route_set = self.presence.route_sets.intern_thriftily(&dialog.route_set);
            let cseq = dialog.local_cseq.saturating_add(CSEQ_BEYOND) & (u32::MAX >> 1);
            let left = dialog.expires.saturating_sub(cx.wall.seconds());
            let notifier = Notifier {
                contact: key,
                dialog: Dialog::new(&parts, route_set, cseq, dialog.remote_cseq),
                event_id: dialog.event_id.map(Into::into),
                format: Format::from_code(way & !EXTENDED),
                is_extended: way & EXTENDED != 0,
                expires: restored_until(cx.now, left, dialog.granted_s),
                granted_s: dialog.granted_s,
                is_busy: false,
                is_dirty: false,
                last_state: None,
                hold: None,
                end,
                poll: None,
                failures: 0,
                octets: 0,
            };
            self.presence.add_notifier(notifier);
        }
        self.presence.weigh(key);
    }

    /// All records are in: everything is asked anew, spread over a while.
    pub(in crate::gateway) fn restored(&mut self, cx: &mut Cx<'_>) {
        let keys: Vec<Key> = self.presence.contacts.iter().map(|(key, _)| key).collect();
        for key in keys {
            let at = cx.now.after(Duration::from_millis(1000 + cx.rng.below(RESTART_SPREAD_MS)));
            if let Some((sip, _)) = self.presence.names(key)
                && !self.routes.is_configured(sip.domain())
            {
                self.xmpp.serve(sip.domain());
            }
            let Some(contact) = self.presence.contacts.get(key) else { continue };
            let (watch, grant, dialogs) = (contact.watch.state, contact.grant.state, contact.grant.dialogs.clone());
            if contact.watch.say_subscribed {
                self.presence.plan(key, Task::Tell, at);
            }
            match watch {
                Authorization::Pending | Authorization::Active => self.presence.plan(key, Task::Subscribe, at),
                Authorization::Ended => self.presence.plan(key, Task::Tell, at),
                Authorization::None => {}
            }
            match grant {
                Authorization::Active => {
                    if let Some(contact) = self.presence.contacts.get_mut(key) {
                        contact.grant.is_unsure = true;
                    }
                    self.presence.plan(key, Task::Probe, at);
                }
                Authorization::Pending => self.presence.plan(key, Task::Ask, at),
                Authorization::None | Authorization::Ended => {}
            }
            for dialog in dialogs {
                self.presence.arm_notifier(dialog, Some(at).filter(|_| !stands(grant)));
            }
        }
        cx.info("presence.restored", format_args!("contacts={}", self.presence.len()));
    }

    /// Records of up to 64 contacts from slot `from` on; the answer says where to go on.
    pub(in crate::gateway) fn snapshot_records(&self, from: u32, record: &mut dyn FnMut(&[u8])) -> Option<u32> {
        const SLICE: u32 = 64;
        let (now, wall) = self.presence.clock;
        let to = from.saturating_add(SLICE);
        for index in from..to {
            if let Some(key) = self.presence.contacts.key_at(index)
                && let Some(octets) = self.record_of(key, wall, now)
            {
                record(&octets);
            }
        }
        (to <= self.presence.contacts.end()).then_some(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_first_version_is_read_as_one_of_a_watcher_of_pidf() {
        #[derive(Serialize)]
        struct First<'a>(&'a str, &'a str, u8, u8, bool, Vec<&'a str>, Vec<DialogRecord<'a>>);
        let dialog = DialogRecord {
            call_id: "c",
            local_tag: "l",
            remote_tag: "r",
            local_uri: "sip:runa@chat.example",
            remote_uri: "sip:egil@voip.example",
            target: "sip:egil@192.0.2.9",
            route_set: "<sip:kante.example;lr>".into(),
            event_id: None,
            local_cseq: 7,
            remote_cseq: Some(9),
            expires: 1_900_000_000,
            granted_s: 3600,
        };
        let first = First("egil@voip.example", "runa@chat.example", 2, 2, true, vec!["boat"], vec![dialog]);
        let octets = postcard::to_extend(&first, vec![VERSION_1]).expect("a record");
        let octets = brought_up(&octets).expect("a known version");
        let record: Record<'_> = postcard::from_bytes(&octets).expect("a record");
        assert_eq!((record.sip, record.xmpp, &*record.shown), (first.0, first.1, &["boat"][..]));
        assert_eq!((record.dialogs.len(), record.dialogs[0].granted_s, record.ways.len()), (1, 3600, 0));
        assert!(brought_up(&[0]).is_none() && brought_up(&[]).is_none() && brought_up(&[3, 0]).is_none());
    }

    #[test]
    fn how_a_watcher_is_told_is_one_octet() {
        for format in [Format::Pidf, Format::Presentity, Format::Categories, Format::Xpidf] {
            for extended in [0, EXTENDED] {
                let way = format.code() | extended;
                assert_eq!((Format::from_code(way & !EXTENDED), way & EXTENDED), (format, extended));
            }
        }
    }
}
