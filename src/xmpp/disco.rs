//! What is told about ourselves: service discovery (XEP-0030), entity capabilities
//! (XEP-0115), ping (XEP-0199), software version (XEP-0092) and time (XEP-0202).
//!
//! Pure writing: the caller says what the entity is and what it can do.

use super::ns;
use super::stanza::{Condition, DateTime, Stanza, StanzaError};
use crate::base::outbox::Writer;
use crate::base::time::Wall;
use crate::base::xml::{Node, Tag};
use base64ct::{Base64, Encoding};
use core::fmt;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

/// What an entity is, such as `gateway`/`sip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity<'a> {
    /// The category of the registry.
    pub category: &'a str,
    /// The type within it.
    pub type_: &'a str,
    /// A name for people.
    pub name: Option<&'a str>,
}

/// An item that is found at an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// Its address.
    pub jid: &'a str,
    /// A name for people.
    pub name: Option<&'a str>,
}

/// All that is told about one entity.
#[derive(Clone, Copy, Debug)]
pub struct Entity<'a> {
    /// What it is.
    pub identities: &'a [Identity<'a>],
    /// What it can do.
    pub features: &'a [&'a str],
    /// What is found there.
    pub items: &'a [Item<'a>],
    /// The URI that stands for the software in capabilities; `#` and the hash follow.
    pub node: &'a str,
    /// Name and version of the software.
    pub software: (&'a str, &'a str),
}

/// A question of an iq `get` that can be answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// Are you there?
    Ping,
    /// What are you, at this node?
    Info(Option<&'a str>),
    /// What is found there, at this node?
    Items(Option<&'a str>),
    /// Which software?
    Version,
    /// What time is it?
    Time,
}

impl<'a> Query<'a> {
    /// The question a request asks, if it is one of these.
    pub fn of(request: &Stanza<'a>) -> Option<Self> {
        if !request.is_request() || request.type_ != Some("get") {
            return None;
        }
        Self::of_payload(request.payload()?)
    }

    fn of_payload(payload: Node<'a>) -> Option<Self> {
        match (payload.name(), payload.namespace()) {
            ("ping", ns::PING) => Some(Self::Ping),
            ("query", ns::DISCO_INFO) => Some(Self::Info(payload.attribute("node"))),
            ("query", ns::DISCO_ITEMS) => Some(Self::Items(payload.attribute("node"))),
            ("query", ns::VERSION) => Some(Self::Version),
            ("time", ns::TIME) => Some(Self::Time),
            _ => None,
        }
    }
}

impl Entity<'_> {
    /// Answers a question about this entity: with a result, or with `item-not-found`
    /// for a node it does not have.
    pub fn answer(&self, w: &mut Writer<'_>, request: &Stanza<'_>, query: Query<'_>, wall: Wall) {
        if let Query::Info(Some(node)) | Query::Items(Some(node)) = query
            && !self.has_node(node)
        {
            request.emit_error(w, &StanzaError::new(Condition::ItemNotFound));
            return;
        }
        let head = request.answer("result");
        match query {
            Query::Ping => head.emit_empty(w),
            Query::Info(node) => head.emit(w, |w| self.emit_info(w, node)),
            Query::Items(node) => head.emit(w, |w| self.emit_items(w, node)),
            Query::Version => head.emit(w, |w| self.emit_version(w)),
            Query::Time => head.emit(w, |w| emit_time(w, wall)),
        }
    }

    /// Writes the answer to disco#info.
    pub fn emit_info(&self, w: &mut Writer<'_>, node: Option<&str>) {
        Tag::begin(w, "query").namespace(ns::DISCO_INFO).maybe("node", node).content(|w| {
            for identity in self.identities {
                Tag::begin(w, "identity")
                    .attribute("category", identity.category)
                    .attribute("type", identity.type_)
                    .maybe("name", identity.name)
                    .empty();
            }
            for feature in self.features {
                Tag::begin(w, "feature").attribute("var", feature).empty();
            }
        });
    }

    /// Writes the answer to disco#items. A node of capabilities holds no items.
    pub fn emit_items(&self, w: &mut Writer<'_>, node: Option<&str>) {
        let items = if node.is_none() { self.items } else { &[] };
        Tag::begin(w, "query").namespace(ns::DISCO_ITEMS).maybe("node", node).content(|w| {
            for item in items {
                Tag::begin(w, "item").attribute("jid", item.jid).maybe("name", item.name).empty();
            }
        });
    }

    /// Writes `<c/>` for presence of this entity.
    pub fn emit_capabilities(&self, w: &mut Writer<'_>) {
        Tag::begin(w, "c")
            .namespace(ns::CAPS)
            .attribute("hash", "sha-1")
            .attribute("node", self.node)
            .attribute("ver", self.capabilities().as_str())
            .empty();
    }

    fn emit_version(&self, w: &mut Writer<'_>) {
        let (name, version) = self.software;
        Tag::begin(w, "query").namespace(ns::VERSION).content(|w| {
            Tag::begin(w, "name").text(name);
            Tag::begin(w, "version").text(version);
        });
    }

    /// Is this the node of its capabilities?
    fn has_node(&self, node: &str) -> bool {
        let hash = node.strip_prefix(self.node).and_then(|rest| rest.strip_prefix('#'));
        hash.is_some_and(|hash| hash == self.capabilities().as_str())
    }

    /// The hash over what it is and what it can do (XEP-0115 section 5.1).
    pub fn capabilities(&self) -> Capabilities {
        let mut identities = self.identities.to_vec();
        identities.sort_unstable();
        let mut features = self.features.to_vec();
        features.sort_unstable();
        let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        for identity in identities {
            // Between the last two slashes there would be a language; we have none.
            for part in [identity.category, "/", identity.type_, "//", identity.name.unwrap_or_default(), "<"] {
                hash.update(part.as_bytes());
            }
        }
        for feature in features {
            hash.update(feature.as_bytes());
            hash.update(b"<");
        }
        let mut text = [b'='; CAPABILITIES_OCTETS];
        // 20 octets give exactly 28 characters.
        let _ = Base64::encode(hash.finish().as_ref(), &mut text);
        Capabilities(text)
    }
}

const CAPABILITIES_OCTETS: usize = 28;

/// A capabilities hash in base64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Capabilities([u8; CAPABILITIES_OCTETS]);

impl Capabilities {
    /// The hash as text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn emit_time(w: &mut Writer<'_>, wall: Wall) {
    Tag::begin(w, "time").namespace(ns::TIME).content(|w| {
        Tag::begin(w, "tzo").text("+00:00");
        Tag::begin(w, "utc").content(|w| DateTime(wall).emit(w));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::outbox::Outbox;
    use crate::base::xml::{Bindings, Limits, Tree};

    const GATEWAY: Entity<'static> = Entity {
        identities: &[Identity { category: "gateway", type_: "sip", name: None }],
        features: &[ns::DISCO_INFO, ns::DISCO_ITEMS, ns::PING],
        items: &[Item { jid: "room@voip.example", name: Some("A <room>") }],
        node: "https://latimer.example",
        software: ("Latimer", "0.1.0"),
    };

    fn ask(payload: &str) -> String {
        let text = format!("<iq from='lena@chat.example/x' to='voip.example' id='q&amp;1' type='get'>{payload}</iq>");
        let mut tree = Tree::new();
        let element = tree.parse(text.as_bytes(), &Bindings::with_default(ns::SERVER), Limits::STANZA);
        let request = Stanza::parse(element.expect("an element"), ns::SERVER, None).expect("a stanza");
        let Some(query) = Query::of(&request) else { return "unknown".into() };
        let mut out = Outbox::default();
        let mut w = out.begin();
        GATEWAY.answer(&mut w, &request, query, Wall(951_782_400_000));
        let span = w.finish();
        let text = out.text(&span);
        let head = "<iq from='voip.example' to='lena@chat.example/x' id='q&amp;1' type='";
        text.strip_prefix(head).expect("addresses swapped and the id kept").to_owned()
    }

    #[test]
    fn questions_are_answered() {
        assert_eq!(ask("<ping xmlns='urn:xmpp:ping'/>"), "result'/>");
        assert_eq!(
            ask("<query xmlns='http://jabber.org/protocol/disco#info'/>"),
            "result'><query xmlns='http://jabber.org/protocol/disco#info'><identity category='gateway' type='sip'/>\
             <feature var='http://jabber.org/protocol/disco#info'/>\
             <feature var='http://jabber.org/protocol/disco#items'/><feature var='urn:xmpp:ping'/></query></iq>"
        );
        assert_eq!(
            ask("<query xmlns='http://jabber.org/protocol/disco#items'/>"),
            "result'><query xmlns='http://jabber.org/protocol/disco#items'>\
             <item jid='room@voip.example' name='A &lt;room&gt;'/></query></iq>"
        );
        assert_eq!(
            ask("<query xmlns='jabber:iq:version'/>"),
            "result'><query xmlns='jabber:iq:version'><name>Latimer</name><version>0.1.0</version></query></iq>"
        );
        assert_eq!(
            ask("<time xmlns='urn:xmpp:time'/>"),
            "result'><time xmlns='urn:xmpp:time'><tzo>+00:00</tzo><utc>2000-02-29T00:00:00Z</utc></time></iq>"
        );
        assert_eq!(ask("<query xmlns='jabber:iq:roster'/>"), "unknown");
    }

    #[test]
    fn the_node_of_the_capabilities_is_the_entity_and_others_are_not() {
        let ask = |node: &str| ask(&format!("<query xmlns='{}' node='{node}'/>", ns::DISCO_INFO));
        let node = format!("https://latimer.example#{}", GATEWAY.capabilities().as_str());
        let start = format!("result'><query xmlns='{}' node='{node}'><identity", ns::DISCO_INFO);
        assert!(ask(&node).starts_with(&start));
        assert!(ask("https://latimer.example#x").starts_with("error'><error type='cancel'><item-not-found"));
    }

    #[test]
    fn the_hash_is_that_of_xep_0115() {
        let exodus = Entity {
            identities: &[Identity { category: "client", type_: "pc", name: Some("Exodus 0.9.1") }],
            features: &[ns::DISCO_ITEMS, ns::DISCO_INFO, ns::CAPS, ns::MUC],
            ..GATEWAY
        };
        assert_eq!(exodus.capabilities().as_str(), "QgayPKawpkPSDYmwT/WM94uAlu0=");
    }
}
