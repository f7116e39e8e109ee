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
    /// When it was so, in seconds since 1970, by the word of who published it; 0: that was
    /// not said.
    pub stamp_s: u32,
    /// `<status/>`, `<note/>`: at most one of each language.
    pub statuses: Box<[Status]>,
    /// What few say; `None`: nothing of it, never a box of nothing.
    pub more: Option<Box<More>>,
}

/// What few clients say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct More {
    /// `xml:lang` of the stanza, Content-Language of the NOTIFY.
    pub lang: Option<Box<str>>,
    /// Since when nobody touched the client (XEP-0319, RPID user-input).
    pub idle_since: Option<Wall>,
    /// What the user is called (XEP-0172, RFC 4482 display-name).
    pub nick: Option<Box<str>>,
    /// What he does, in words: told where he says nothing himself.
    pub activity: Option<Box<str>>,
}

impl More {
    /// As a [`Resource`] has it.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
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

    /// The language of what has none of its own.
    pub fn lang(&self) -> Option<&str> {
        self.more.as_ref()?.lang.as_deref()
    }

    /// Since when nobody touched the client.
    pub fn idle_since(&self) -> Option<Wall> {
        self.more.as_ref()?.idle_since
    }

    /// What the user is called.
    pub fn nick(&self) -> Option<&str> {
        self.more.as_ref()?.nick.as_deref()
    }

    /// What he does, in words.
    pub fn activity(&self) -> Option<&str> {
        self.more.as_ref()?.activity.as_deref()
    }

    /// Changes what few say.
    pub fn change_more(&mut self, change: impl FnOnce(&mut More)) {
        let mut more = self.more.take().map(|more| *more).unwrap_or_default();
        change(&mut more);
        self.more = more.boxed();
    }

    /// Octets it holds on the heap and in its list.
    pub fn octets(&self) -> usize {
        let text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        let status = |status: &Status| size_of::<Status>() + status.text.len() + text(&status.lang);
        let more = |more: &More| size_of::<More>() + text(&more.lang) + text(&more.nick) + text(&more.activity);
        size_of::<Self>()
            + self.name.len()
            + self.more.as_deref().map_or(0, more)
            + self.statuses.iter().map(status).sum::<usize>()
    }
}
