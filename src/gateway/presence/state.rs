//! What is known of one user's presence: one [`Resource`] a client, in the terms that
//! both sides share (RFC 8048 section 6). Small, since there is one list of them for each
//! contact of each watcher.

use crate::base::time::Wall;

/// The presence of one client: an XMPP resource, a PIDF tuple.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// The resourcepart; empty for the user as a whole (the bare JID).
    pub name: Box<str>,
    /// `open`, or no `type`; else `closed`, `unavailable`.
    pub is_available: bool,
    /// `<show/>`.
    pub show: Option<Show>,
    /// `<priority/>`, from -128 to 127.
    pub priority: Option<i8>,
    /// `<status/>`, `<note/>`: at most one of each language.
    pub statuses: Box<[Status]>,
    /// `xml:lang` of the stanza, Content-Language of the NOTIFY.
    pub lang: Option<Box<str>>,
    /// Since when nobody touched the client (XEP-0319, RPID user-input).
    pub idle_since: Option<Wall>,
}

/// How available somebody is (RFC 6121 section 4.7.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Temporarily away.
    Away,
    /// Eager to talk.
    Chat,
    /// Busy.
    Dnd,
    /// Away for longer.
    Xa,
}

impl Show {
    /// As `<show/>` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Chat => "chat",
            Self::Dnd => "dnd",
            Self::Xa => "xa",
        }
    }

    /// The value of that name; `None` for anything else.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Away, Self::Chat, Self::Dnd, Self::Xa].into_iter().find(|show| show.as_str() == name)
    }
}

/// What somebody says about himself, in one language.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Its own `xml:lang`; `None`: that of what it came in.
    pub lang: Option<Box<str>>,
    /// The text.
    pub text: Box<str>,
}

impl Resource {
    /// A client that is gone, with nothing said about it.
    pub fn gone(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Octets it holds on the heap and in its list.
    pub fn octets(&self) -> usize {
        let status = |status: &Status| {
            size_of::<Status>() + status.text.len() + status.lang.as_ref().map_or(0, |lang| lang.len())
        };
        size_of::<Self>()
            + self.name.len()
            + self.lang.as_ref().map_or(0, |lang| lang.len())
            + self.statuses.iter().map(status).sum::<usize>()
    }
}
