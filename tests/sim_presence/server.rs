//! An honest XMPP server as far as contacts and presence go (RFC 6121 sections 3 and 4):
//! the rosters of its users, what each of them publishes, and what each of them is
//! shown. A machine without a network: stanzas come in, stanzas go out.

use crate::peers::{Element, domain_of, escape};
use std::collections::{BTreeMap, BTreeSet};

/// What one client shows: `<show/>` and `<status/>`, either may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    pub show: String,
    pub status: String,
}

/// What somebody is shown of one contact: client -> what it shows.
pub type View = BTreeMap<String, Shown>;

/// The subscription states of a user and a contact (RFC 6121 appendix A).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// The user sees the contact.
    pub to: bool,
    /// The user has asked to see the contact.
    pub asked: bool,
    /// The contact sees the user.
    pub from: bool,
    /// The contact has asked to see the user, who has not answered.
    pub asking: bool,
}

#[derive(Clone, Debug, Default)]
pub struct User {
    /// Client -> `<show/>` and the number of the change.
    pub online: BTreeMap<String, (String, u64)>,
    /// By the contact's bare address.
    pub roster: BTreeMap<String, Item>,
    /// What the user is shown, by the contact's bare address.
    pub views: BTreeMap<String, View>,
    /// Contacts that got presence though they have no subscription.
    directed: BTreeSet<String>,
}

/// What is counted about a pair, seen from the XMPP user.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Presence stanzas with a state of the contact's that came.
    pub states: u64,
    /// Changes that were told to the contact.
    pub changes: u64,
    /// Probes sent.
    pub probes: u64,
    /// When the person was asked, and when he answered.
    pub asked: Vec<u64>,
    pub answered: Vec<u64>,
}

/// What a user does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A client comes online, or changes what it shows.
    Show(&'static str, &'static str),
    /// A client goes offline.
    Leave(&'static str),
    /// Presence to a contact who need not be allowed to see it.
    Direct(&'static str),
    /// `subscribe`
    Add(&'static str),
    /// `unsubscribe`
    Remove(&'static str),
    /// `subscribed`
    Approve(&'static str),
    /// `unsubscribed`
    Deny(&'static str),
}

#[derive(Debug)]
pub struct Server {
    pub domain: String,
    pub other: String,
    /// The gateway's own probes are answered as those of somebody who may see everything.
    pub trusts_domain: bool,
    pub users: BTreeMap<String, User>,
    /// User and contact (bare address) -> what is counted.
    pub tally: BTreeMap<(String, String), Tally>,
    /// Stanzas that are to be sent, in order.
    pub out: Vec<String>,
    pub faults: Vec<String>,
    /// The latest wish of a user to have a contact, or not to.
    wishes: BTreeMap<(String, String), bool>,
    number: u64,
}

impl Server {
    pub fn new(domain: &str, other: &str, users: &[&str]) -> Self {
        Self {
            domain: domain.into(),
            other: other.into(),
            trusts_domain: false,
            users: users.iter().map(|user| ((*user).to_string(), User::default())).collect(),
            tally: BTreeMap::new(),
            out: Vec::new(),
            faults: Vec::new(),
            wishes: BTreeMap::new(),
            number: 0,
        }
    }

    /// Whoever wanted a contact and finds that he has not even asked asks again. An
    /// `unsubscribed` that answers an `unsubscribe` may cross a new `subscribe`, and then
    /// the server takes it for the answer to that one.
    pub fn insist(&mut self) {
        for ((user, contact), wish) in self.wishes.clone() {
            let item = self.users.get_mut(&user).map(|u| u.roster.entry(contact.clone()).or_default());
            if let Some(item) = item.filter(|item| wish && !item.to && !item.asked) {
                item.asked = true;
                self.send(&user, &contact, "subscribe");
            }
        }
    }

    fn tally(&mut self, user: &str, contact: &str) -> &mut Tally {
        self.tally.entry((user.into(), contact.into())).or_default()
    }

    /// What a client of `user` shows to `contact`. The words name both, so that presence
    /// shown to anybody else gives itself away.
    pub fn shown(user: &str, contact: &str, show: &str, number: u64) -> Shown {
        let watcher = contact.split('@').next().unwrap_or_default();
        Shown { show: show.into(), status: format!("{user} to {watcher} {number}") }
    }

    /// All that `contact` has to be shown of `user` now.
    pub fn truth(&self, user: &str, contact: &str) -> View {
        let Some(u) = self.users.get(user) else { return View::new() };
        if !u.roster.get(contact).is_some_and(|item| item.from) {
            return View::new();
        }
        u.online.iter().map(|(r, (show, number))| (r.clone(), Self::shown(user, contact, show, *number))).collect()
    }

    fn send(&mut self, user: &str, to: &str, kind: &str) {
        self.out.push(format!("<presence from='{user}@{}' to='{}' type='{kind}'/>", self.domain, escape(to)));
    }

    fn send_available(&mut self, user: &str, resource: &str, contact: &str, to: &str) {
        let Some((show, number)) = self.users.get(user).and_then(|u| u.online.get(resource)).cloned() else { return };
        let shown = Self::shown(user, contact, &show, number);
        let show = if show.is_empty() { String::new() } else { format!("<show>{show}</show>") };
        self.out.push(format!(
            "<presence from='{user}@{}/{resource}' to='{}'>{show}<status>{}</status></presence>",
            self.domain,
            escape(to),
            shown.status
        ));
    }

    fn send_gone(&mut self, user: &str, resource: &str, to: &str) {
        self.out.push(format!(
            "<presence from='{user}@{}/{resource}' to='{}' type='unavailable'/>",
            self.domain,
            escape(to)
        ));
    }

    fn watchers(&self, user: &str) -> Vec<String> {
        let Some(u) = self.users.get(user) else { return Vec::new() };
        u.roster.iter().filter(|(_, item)| item.from).map(|(contact, _)| contact.clone()).collect()
    }

    /// A user does something.
    pub fn act(&mut self, user: &str, deed: &Deed, now: u64) {
        match deed {
            Deed::Show(resource, show) => self.show(user, resource, show),
            Deed::Leave(resource) => self.leave(user, resource),
            Deed::Direct(contact) => {
                let contact = format!("{contact}@{}", self.other);
                let Some(u) = self.users.get_mut(user) else { return };
                u.directed.insert(contact.clone());
                for resource in u.online.keys().cloned().collect::<Vec<_>>() {
                    self.send_available(user, &resource, &contact, &contact);
                    self.tally(user, &contact).changes += 1;
                }
            }
            Deed::Add(_) | Deed::Remove(_) | Deed::Approve(_) | Deed::Deny(_) => self.administer(user, deed, now),
        }
    }

    fn show(&mut self, user: &str, resource: &str, show: &str) {
        self.number += 1;
        let number = self.number;
        let Some(u) = self.users.get_mut(user) else { return };
        let fresh = u.online.insert(resource.into(), (show.into(), number)).is_none();
        let roster: Vec<(String, Item)> = u.roster.iter().map(|(contact, item)| (contact.clone(), *item)).collect();
        for contact in self.watchers(user) {
            self.send_available(user, resource, &contact, &contact);
            self.tally(user, &contact).changes += 1;
        }
        if !fresh {
            return;
        }
        for (contact, item) in roster {
            if item.to {
                let from = format!("{user}@{}/{resource}", self.domain);
                self.out.push(format!("<presence from='{from}' to='{contact}' type='probe'/>"));
                self.tally(user, &contact).probes += 1;
            } else if item.asked {
                self.send(user, &contact, "subscribe");
            }
        }
    }

    fn leave(&mut self, user: &str, resource: &str) {
        let Some(u) = self.users.get_mut(user) else { return };
        if u.online.remove(resource).is_none() {
            return;
        }
        if u.online.is_empty() {
            u.views.clear();
        }
        let mut all: BTreeSet<String> = core::mem::take(&mut u.directed);
        all.extend(self.watchers(user));
        for contact in all {
            self.send_gone(user, resource, &contact);
            self.tally(user, &contact).changes += 1;
        }
    }

    /// The server crashes: nobody is online any more, and nobody was told. Rosters stay.
    pub fn crash(&mut self) {
        self.out.clear();
        for user in self.users.values_mut() {
            user.online.clear();
            user.views.clear();
            user.directed.clear();
        }
    }

    fn administer(&mut self, user: &str, deed: &Deed, now: u64) {
        let (Deed::Add(name) | Deed::Remove(name) | Deed::Approve(name) | Deed::Deny(name)) = deed else { return };
        let contact = format!("{name}@{}", self.other);
        if let Deed::Add(_) | Deed::Remove(_) = deed {
            self.wishes.insert((user.into(), contact.clone()), matches!(deed, Deed::Add(_)));
        }
        let Some(u) = self.users.get_mut(user) else { return };
        let item = u.roster.entry(contact.clone()).or_default();
        let before = *item;
        match deed {
            Deed::Add(_) => {
                item.asked |= !item.to;
                self.send(user, &contact, "subscribe");
            }
            Deed::Remove(_) => {
                (item.to, item.asked) = (false, false);
                u.views.remove(&contact);
                self.send(user, &contact, "unsubscribe");
            }
            // Without a question there is nothing to say (no pre-approval here).
            Deed::Approve(_) if before.asking => {
                (item.from, item.asking) = (true, false);
                self.tally(user, &contact).answered.push(now);
                self.send(user, &contact, "subscribed");
                self.tell_all(user, &contact, &contact);
            }
            Deed::Deny(_) if before.asking || before.from => {
                (item.from, item.asking) = (false, false);
                self.tally(user, &contact).answered.push(now);
                self.send(user, &contact, "unsubscribed");
                if before.from {
                    self.tell_gone(user, &contact);
                }
            }
            _ => {}
        }
    }

    fn resources(&self, user: &str) -> Vec<String> {
        self.users.get(user).map(|u| u.online.keys().cloned().collect()).unwrap_or_default()
    }

    fn tell_all(&mut self, user: &str, contact: &str, to: &str) {
        for resource in self.resources(user) {
            self.send_available(user, &resource, contact, to);
            self.tally(user, contact).changes += 1;
        }
    }

    fn tell_gone(&mut self, user: &str, contact: &str) {
        for resource in self.resources(user) {
            self.send_gone(user, &resource, contact);
            self.tally(user, contact).changes += 1;
        }
    }

    /// A presence stanza of the other domain's.
    pub fn receive(&mut self, stanza: &Element, now: u64) {
        let of = |name: &str| stanza.attribute(name).unwrap_or_default().to_string();
        let (from, to, kind) = (of("from"), of("to"), of("type"));
        let (contact, resource) = from.split_once('/').unwrap_or((&from, ""));
        let bare = to.split('/').next().unwrap_or_default();
        let user = bare.split('@').next().unwrap_or_default().to_string();
        if domain_of(&to) != self.domain || domain_of(contact) != self.other {
            self.faults.push(format!("from {from} to {to}"));
            return;
        }
        if kind == "probe" {
            self.on_probe(&user, contact);
            return;
        }
        if !self.users.contains_key(&user) {
            if kind == "subscribe" {
                self.send(&user, contact, "unsubscribed");
            }
            return;
        }
        match kind.as_str() {
            "subscribe" | "subscribed" | "unsubscribe" | "unsubscribed" => {
                if resource.is_empty() && bare == to {
                    self.on_subscription(&user, contact, &kind, now);
                } else {
                    self.faults.push(format!("{kind} from {from} to {to}: not from bare to bare"));
                }
            }
            "" | "unavailable" => self.on_state(&user, contact, resource, stanza, kind.is_empty()),
            "error" => {}
            _ => self.faults.push(format!("presence of type {kind}")),
        }
    }

    fn on_probe(&mut self, user: &str, contact: &str) {
        let may = match contact.contains('@') {
            true => self.users.get(user).and_then(|u| u.roster.get(contact)).is_some_and(|item| item.from),
            false => self.trusts_domain && self.users.contains_key(user),
        };
        if !may {
            self.send(user, contact, "unsubscribed");
            return;
        }
        if self.resources(user).is_empty() {
            self.send(user, contact, "unavailable");
        }
        let contact = contact.to_string();
        self.tell_all(user, &contact, &contact);
    }

    fn on_subscription(&mut self, user: &str, contact: &str, kind: &str, now: u64) {
        let Some(u) = self.users.get_mut(user) else { return };
        let item = u.roster.entry(contact.into()).or_default();
        let before = *item;
        match kind {
            "subscribe" if before.from => self.send(user, contact, "subscribed"),
            "subscribe" => {
                item.asking = true;
                if !before.asking {
                    self.tally(user, contact).asked.push(now);
                }
            }
            "subscribed" if before.asked => (item.to, item.asked) = (true, false),
            "unsubscribe" => {
                (item.from, item.asking) = (false, false);
                if before.from {
                    self.tell_gone(user, contact);
                }
            }
            "unsubscribed" => {
                (item.to, item.asked) = (false, false);
                u.views.remove(contact);
            }
            _ => {}
        }
    }

    fn on_state(&mut self, user: &str, contact: &str, resource: &str, stanza: &Element, available: bool) {
        self.tally(user, contact).states += 1;
        let text = |name: &str| stanza.child(name).map(Element::text).unwrap_or_default();
        let shown = Shown { show: text("show"), status: text("status") };
        let watched = contact.split('@').next().unwrap_or_default();
        // A phone names in its notes who may read them.
        if available && !shown.status.starts_with(&format!("{watched} to {user} ")) {
            self.faults.push(format!("{user} is shown of {watched}: {:?}", shown.status));
        }
        let Some(u) = self.users.get_mut(user) else { return };
        if u.online.is_empty() {
            return;
        }
        let view = u.views.entry(contact.into()).or_default();
        match (available, resource) {
            (true, _) => {
                view.insert(resource.into(), shown);
            }
            (false, "") => view.clear(),
            (false, _) => {
                view.remove(resource);
            }
        }
    }
}
