//! Stanzas (RFC 6120 section 8): what one says on its outside, and how ours are
//! written. What a stanza carries stays an [`xml::Node`](Node).

use super::jid::{Jid, split};
use super::ns;
use super::stream_error::{StreamCondition, StreamFault};
use crate::base::outbox::Writer;
use crate::base::time::Wall;
use crate::base::xml::{Node, Tag};
use core::fmt;
use std::borrow::Cow;

/// Which stanza.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `<message/>`.
    Message,
    /// `<presence/>`.
    Presence,
    /// `<iq/>`.
    Iq,
}

impl Kind {
    /// The element's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Presence => "presence",
            Self::Iq => "iq",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "message" => Some(Self::Message),
            "presence" => Some(Self::Presence),
            "iq" => Some(Self::Iq),
            _ => None,
        }
    }
}

/// A stanza as it came in, with prepared addresses.
#[derive(Clone, Debug)]
pub struct Stanza<'a> {
    /// Which stanza.
    pub kind: Kind,
    /// Who sent it.
    pub from: Jid,
    /// Whom it is for.
    pub to: Jid,
    /// `id`.
    pub id: Option<&'a str>,
    /// `type`.
    pub type_: Option<&'a str>,
    /// `xml:lang`, its own or the stream's.
    pub lang: Option<&'a str>,
    /// The whole element.
    pub element: Node<'a>,
}

/// Why a first-level element is no stanza that can be handled.
#[derive(Clone, Debug)]
pub enum BadStanza<'a> {
    /// The stream has to be closed.
    Stream(StreamFault),
    /// Its domains are in order, but a local part or a resource is not. Once `from` is
    /// known to be proved on the stream and `to` to be ours, it is to be answered with
    /// [`emit_error_raw`] and `jid-malformed`, if [`Self::may_answer`].
    Address {
        /// The sender's domain.
        from: Jid,
        /// The recipient's domain.
        to: Jid,
        /// The whole element.
        element: Node<'a>,
    },
}

impl BadStanza<'_> {
    /// May it be answered with an error? Errors and results never are.
    pub fn may_answer(&self) -> bool {
        match self {
            Self::Stream(_) => false,
            Self::Address { element, .. } => may_answer(element.attribute("type")),
        }
    }
}

const fn fault(condition: StreamCondition, cause: &'static str) -> BadStanza<'static> {
    BadStanza::Stream(StreamFault::new(condition, cause))
}

/// Neither errors nor results are answered (RFC 6120 section 8.3.1).
fn may_answer(type_: Option<&str>) -> bool {
    !matches!(type_, Some("error" | "result"))
}

impl<'a> Stanza<'a> {
    /// Reads a first-level element of a stream whose content namespace is `content` and
    /// whose `xml:lang` is `lang`.
    pub fn parse(element: Node<'a>, content: &str, lang: Option<&'a str>) -> Result<Self, BadStanza<'a>> {
        if element.namespace() != content {
            return Err(fault(StreamCondition::InvalidNamespace, "stanza in another namespace"));
        }
        let Some(kind) = Kind::from_name(element.name()) else {
            return Err(fault(StreamCondition::UnsupportedStanzaType, "no message, presence or iq"));
        };
        let (Some(from), Some(to)) = (element.attribute("from"), element.attribute("to")) else {
            return Err(fault(StreamCondition::ImproperAddressing, "stanza without to or from"));
        };
        match (Jid::parse(from), Jid::parse(to)) {
            (Ok(from), Ok(to)) => Ok(Self {
                kind,
                from,
                to,
                id: element.attribute("id"),
                type_: element.attribute("type"),
                lang: element.lang().or(lang).filter(|lang| !lang.is_empty()),
                element,
            }),
            _ => match (domain_of(from), domain_of(to)) {
                (Some(from), Some(to)) => Err(BadStanza::Address { from, to, element }),
                _ => Err(fault(StreamCondition::ImproperAddressing, "to or from is no address")),
            },
        }
    }

    /// May it be answered with an error? Errors and results never are.
    pub fn may_answer(&self) -> bool {
        may_answer(self.type_)
    }

    /// Is it of type `error`?
    pub fn is_error(&self) -> bool {
        self.type_ == Some("error")
    }

    /// Is it an iq of type `get` or `set`, that has to be answered?
    pub fn is_request(&self) -> bool {
        self.kind == Kind::Iq && matches!(self.type_, Some("get" | "set"))
    }

    /// Does it break the rules for its kind, so that the answer is `bad-request`
    /// (RFC 6120 sections 8.1.3, 8.2.3 and 4.7.1 of RFC 6121)? An iq needs an id and a
    /// known type, a request exactly one child; presence needs a known type.
    pub fn is_bad_request(&self) -> bool {
        match self.kind {
            Kind::Message => false,
            Kind::Presence => !matches!(
                self.type_,
                None | Some(
                    "error" | "probe" | "subscribe" | "subscribed" | "unavailable" | "unsubscribe" | "unsubscribed"
                )
            ),
            Kind::Iq => match self.type_ {
                Some("get" | "set") => self.id.is_none() || self.element.children().count() != 1,
                Some("result" | "error") => false,
                _ => true,
            },
        }
    }

    /// The one child of an iq request.
    pub fn payload(&self) -> Option<Node<'a>> {
        self.element.children().next()
    }

    /// The head of an answer: addresses swapped, same kind and id.
    pub fn answer<'b>(&'b self, type_: &'b str) -> Head<'b> {
        Head {
            kind: self.kind,
            from: self.to.as_str(),
            to: self.from.as_str(),
            id: self.id,
            type_: Some(type_),
            lang: None,
        }
    }

    /// Writes the error stanza that answers this one, unless [`Self::may_answer`] says
    /// no; then nothing is written and the answer is false.
    pub fn emit_error(&self, w: &mut Writer<'_>, error: &StanzaError<'_>) -> bool {
        if !self.may_answer() {
            return false;
        }
        self.answer("error").emit(w, |w| error.emit(w));
        true
    }

    /// Writes the empty result that answers an iq request.
    pub fn emit_result(&self, w: &mut Writer<'_>) {
        self.answer("result").emit_empty(w);
    }
}

fn domain_of(address: &str) -> Option<Jid> {
    Jid::new(None, split(address).1, None).ok()
}

/// Writes the error stanza that answers an element whose addresses could not be
/// prepared: they go back as they came.
pub fn emit_error_raw(w: &mut Writer<'_>, element: Node<'_>, error: &StanzaError<'_>) -> bool {
    let Some(kind) = Kind::from_name(element.name()) else { return false };
    if !may_answer(element.attribute("type")) {
        return false;
    }
    let head = Head {
        kind,
        from: element.attribute("to").unwrap_or_default(),
        to: element.attribute("from").unwrap_or_default(),
        id: element.attribute("id"),
        type_: Some("error"),
        lang: None,
    };
    head.emit(w, |w| error.emit(w));
    true
}

/// The outside of a stanza of ours. Its namespace is left to the stream.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Which stanza.
    pub kind: Kind,
    /// Who sends it.
    pub from: &'a str,
    /// Whom it is for.
    pub to: &'a str,
    /// `id`.
    pub id: Option<&'a str>,
    /// `type`.
    pub type_: Option<&'a str>,
    /// `xml:lang`.
    pub lang: Option<&'a str>,
}

impl Head<'_> {
    /// Writes a stanza with what `write` writes in it.
    pub fn emit(&self, w: &mut Writer<'_>, write: impl FnOnce(&mut Writer<'_>)) {
        self.begin(w).content(write);
    }

    /// Writes a stanza with nothing in it.
    pub fn emit_empty(&self, w: &mut Writer<'_>) {
        self.begin(w).empty();
    }

    fn begin<'w, 'b>(&self, w: &'w mut Writer<'b>) -> Tag<'w, 'b> {
        Tag::begin(w, self.kind.name())
            .attribute("from", self.from)
            .attribute("to", self.to)
            .maybe("id", self.id)
            .maybe("type", self.type_)
            .lang(self.lang)
    }
}

/// What the sender of a stanza that failed can do about it (RFC 6120 section 8.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// Try again after proving who it is.
    Auth,
    /// Nothing.
    Cancel,
    /// Go on: it was a warning.
    Continue,
    /// Try again after changing it.
    Modify,
    /// Try again later.
    Wait,
}

impl ErrorType {
    /// The value of `type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Cancel => "cancel",
            Self::Continue => "continue",
            Self::Modify => "modify",
            Self::Wait => "wait",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "auth" => Some(Self::Auth),
            "cancel" => Some(Self::Cancel),
            "continue" => Some(Self::Continue),
            "modify" => Some(Self::Modify),
            "wait" => Some(Self::Wait),
            _ => None,
        }
    }
}

macro_rules! conditions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal $type_:ident,)*) => {
        /// A condition of RFC 6120 section 8.3.3.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Condition { $($(#[$doc])* $variant,)* }

        impl Condition {
            /// Every condition.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The element's name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The condition of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            /// The type that goes with it (REQ-7247-47).
            pub const fn error_type(self) -> ErrorType {
                match self { $(Self::$variant => ErrorType::$type_,)* }
            }
        }
    };
}

conditions! {
    /// The stanza does not follow its schema.
    BadRequest = "bad-request" Modify,
    /// Something of that name is there already.
    Conflict = "conflict" Cancel,
    /// Nobody here knows how.
    FeatureNotImplemented = "feature-not-implemented" Cancel,
    /// The sender may not.
    Forbidden = "forbidden" Auth,
    /// The recipient has moved for good; the new address is its content.
    Gone = "gone" Cancel,
    /// A fault of ours.
    InternalServerError = "internal-server-error" Cancel,
    /// The recipient does not exist.
    ItemNotFound = "item-not-found" Cancel,
    /// An address that is none.
    JidMalformed = "jid-malformed" Modify,
    /// The content is not taken.
    NotAcceptable = "not-acceptable" Modify,
    /// Nobody may.
    NotAllowed = "not-allowed" Cancel,
    /// The sender has to prove who it is.
    NotAuthorized = "not-authorized" Auth,
    /// A local rule was broken, such as a limit.
    PolicyViolation = "policy-violation" Modify,
    /// The recipient is not there now.
    RecipientUnavailable = "recipient-unavailable" Wait,
    /// The recipient is elsewhere for now; the address is its content.
    Redirect = "redirect" Modify,
    /// The sender has to register first.
    RegistrationRequired = "registration-required" Auth,
    /// The other domain does not exist or cannot be found.
    RemoteServerNotFound = "remote-server-not-found" Cancel,
    /// The other domain did not answer in time.
    RemoteServerTimeout = "remote-server-timeout" Wait,
    /// There is not enough of something now.
    ResourceConstraint = "resource-constraint" Wait,
    /// The service is not given.
    ServiceUnavailable = "service-unavailable" Cancel,
    /// The sender has to subscribe first.
    SubscriptionRequired = "subscription-required" Auth,
    /// None of the others.
    UndefinedCondition = "undefined-condition" Cancel,
    /// Right in itself, not expected now.
    UnexpectedRequest = "unexpected-request" Wait,
}

/// What `<error/>` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StanzaError<'a> {
    /// What the sender can do.
    pub type_: ErrorType,
    /// What went wrong.
    pub condition: Condition,
    /// The address in `<gone/>` or `<redirect/>`: a URI.
    pub address: Option<Cow<'a, str>>,
    /// In words.
    pub text: Option<Cow<'a, str>>,
}

impl<'a> StanzaError<'a> {
    /// An error with the type that goes with its condition.
    pub const fn new(condition: Condition) -> Self {
        Self { type_: condition.error_type(), condition, address: None, text: None }
    }

    /// Adds words.
    pub fn with_text(self, text: impl Into<Cow<'a, str>>) -> Self {
        Self { text: Some(text.into()), ..self }
    }

    /// Adds the new address of `<gone/>` or `<redirect/>`.
    pub fn with_address(self, address: impl Into<Cow<'a, str>>) -> Self {
        Self { address: Some(address.into()), ..self }
    }

    /// Reads the error of a stanza, or of another element that has one (server
    /// dialback). Without a condition that we know it is `undefined-condition`; `None`
    /// if there is no `<error/>` at all.
    pub fn parse(element: Node<'a>) -> Option<Self> {
        let error = element.child("error", element.namespace()).or_else(|| {
            // Dialback elements carry the stream's own error element.
            element.children().find(|child| child.name() == "error")
        })?;
        let mut parsed = Self::new(Condition::UndefinedCondition);
        for child in error.children().filter(|child| child.namespace() == ns::STANZA_ERRORS) {
            if child.name() == "text" {
                parsed.text = Some(child.text()).filter(|text| !text.is_empty());
            } else if let Some(condition) = Condition::from_name(child.name()) {
                parsed.condition = condition;
                parsed.address = Some(trimmed(child.text())).filter(|address| !address.is_empty());
            }
        }
        let type_ = error.attribute("type").and_then(ErrorType::from_name);
        parsed.type_ = type_.unwrap_or_else(|| parsed.condition.error_type());
        Some(parsed)
    }

    /// Writes `<error/>`.
    pub fn emit(&self, w: &mut Writer<'_>) {
        Tag::begin(w, "error").attribute("type", self.type_.name()).content(|w| {
            let condition = Tag::begin(w, self.condition.name()).namespace(ns::STANZA_ERRORS);
            match &self.address {
                Some(address) => condition.text(address),
                None => condition.empty(),
            }
            if let Some(text) = &self.text {
                Tag::begin(w, "text").namespace(ns::STANZA_ERRORS).lang(Some("en")).text(text);
            }
        });
    }
}

/// A date and time in UTC as XEP-0082 has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime(pub Wall);

impl DateTime {
    /// Writes it.
    pub fn emit(self, w: &mut Writer<'_>) {
        // Writing into the arena cannot fail.
        let _ = fmt::Write::write_fmt(w, format_args!("{self}"));
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.0.civil();
        let (year, month, day) = (at.year, at.month, at.day);
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", at.hour, at.minute, at.second)
    }
}

fn trimmed(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => text.trim().into(),
        Cow::Owned(text) => text.trim().to_owned().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::outbox::Outbox;
    use crate::base::xml::{Bindings, Limits, Tree};

    fn parse<'a>(tree: &'a mut Tree, text: &str) -> Result<Stanza<'a>, BadStanza<'a>> {
        let element = tree.parse(text.as_bytes(), &Bindings::with_default(ns::SERVER), Limits::STANZA);
        Stanza::parse(element.expect("well-formed"), ns::SERVER, Some("de"))
    }

    fn written(write: impl FnOnce(&mut Writer<'_>)) -> String {
        let mut out = Outbox::default();
        let mut w = out.begin();
        write(&mut w);
        let span = w.finish();
        out.text(&span).to_owned()
    }

    #[test]
    fn a_stanza_has_prepared_addresses_and_the_language_of_its_stream() {
        let mut tree = Tree::new();
        let stanza = parse(&mut tree, "<message from='Lena@Chat.Example/A' to='marta@voip.example' id='1'/>");
        let stanza = stanza.expect("a stanza");
        assert_eq!((stanza.kind, stanza.from.as_str()), (Kind::Message, "lena@chat.example/A"));
        assert_eq!((stanza.id, stanza.type_, stanza.lang), (Some("1"), None, Some("de")));
        let stanza = parse(&mut tree, "<iq from='a' to='b' xml:lang='fr'/>").expect("a stanza");
        assert_eq!((stanza.kind, stanza.lang), (Kind::Iq, Some("fr")));
    }

    #[test]
    fn what_is_no_stanza_ends_the_stream_with_its_condition() {
        let mut tree = Tree::new();
        for (text, condition) in [
            ("<message from='a' to='b' xmlns='jabber:client'/>", StreamCondition::InvalidNamespace),
            ("<letter from='a' to='b'/>", StreamCondition::UnsupportedStanzaType),
            ("<message from='a'/>", StreamCondition::ImproperAddressing),
            ("<message to='a'/>", StreamCondition::ImproperAddressing),
            ("<message from='a' to='@'/>", StreamCondition::ImproperAddressing),
            ("<message from='a' to=''/>", StreamCondition::ImproperAddressing),
        ] {
            match parse(&mut tree, text) {
                Err(BadStanza::Stream(fault)) => assert_eq!(fault.condition, condition, "{text}"),
                other => panic!("{text} gave {other:?}"),
            }
        }
    }

    #[test]
    fn a_bad_local_part_is_answered_with_the_addresses_as_they_came() {
        let mut tree = Tree::new();
        let error = StanzaError::new(Condition::JidMalformed);
        let bad = parse(&mut tree, "<message from='☎@chat.example' to='a&lt;b@voip.example' id='7'/>");
        let Err(bad @ BadStanza::Address { .. }) = bad else { panic!("{bad:?}") };
        assert!(bad.may_answer());
        let BadStanza::Address { from, to, element } = bad else { panic!("another variant") };
        assert_eq!((from.as_str(), to.as_str()), ("chat.example", "voip.example"));
        assert_eq!(
            written(|w| assert!(emit_error_raw(w, element, &error))),
            "<message from='a&lt;b@voip.example' to='☎@chat.example' id='7' type='error'><error type='modify'>\
             <jid-malformed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
        );
        let bad = parse(&mut tree, "<message from='☎@chat.example' to='voip.example' type='error'/>");
        let Err(bad @ BadStanza::Address { .. }) = bad else { panic!("{bad:?}") };
        assert!(!bad.may_answer());
    }

    #[test]
    fn errors_and_results_are_never_answered() {
        let mut tree = Tree::new();
        for (type_, answered) in [("error", false), ("result", false), ("get", true), ("chat", true)] {
            let stanza = parse(&mut tree, &format!("<iq from='a' to='b' id='1' type='{type_}'/>"));
            let stanza = stanza.expect("a stanza");
            let text = written(|w| {
                let error = StanzaError::new(Condition::ServiceUnavailable);
                assert_eq!(stanza.emit_error(w, &error), answered);
            });
            assert_eq!(text.is_empty(), !answered);
        }
    }

    #[test]
    fn an_error_that_is_written_is_read_back() {
        let mut tree = Tree::new();
        for condition in Condition::ALL {
            assert_eq!(Condition::from_name(condition.name()), Some(*condition));
            let error = StanzaError::new(*condition).with_text("Not \"now\" & not <here>\u{0}");
            let error = error.with_address("xmpp:neu@chat.example?a&b");
            let head = Head { kind: Kind::Message, from: "a", to: "b", id: None, type_: Some("error"), lang: None };
            let text = written(|w| head.emit(w, |w| error.emit(w)));
            let stanza = parse(&mut tree, &text).expect("our own stanza");
            let expected = StanzaError { text: Some("Not \"now\" & not <here>\u{FFFD}".into()), ..error };
            assert_eq!(StanzaError::parse(stanza.element), Some(expected));
        }
        assert_eq!(Condition::ALL.len(), 22);
    }

    #[test]
    fn an_error_of_a_peer_is_understood_however_little_it_says() {
        let mut tree = Tree::new();
        for (inside, condition, type_) in [
            ("<error/>", Condition::UndefinedCondition, ErrorType::Cancel),
            ("<error type='wait'><x xmlns='urn:x'/></error>", Condition::UndefinedCondition, ErrorType::Wait),
            (
                "<body>x</body><error><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'> </gone></error>",
                Condition::Gone,
                ErrorType::Cancel,
            ),
        ] {
            let stanza = parse(&mut tree, &format!("<message from='a' to='b' type='error'>{inside}</message>"));
            let stanza = stanza.expect("a stanza");
            let error = StanzaError::parse(stanza.element).expect("an error");
            assert_eq!((error.condition, error.type_, error.address), (condition, type_, None));
        }
        let stanza = parse(&mut tree, "<message from='a' to='b' type='error'/>").expect("a stanza");
        assert_eq!(StanzaError::parse(stanza.element), None);
    }

    #[test]
    fn requests_that_break_the_rules_are_bad() {
        let mut tree = Tree::new();
        for (text, bad) in [
            ("<iq from='a' to='b' id='1' type='get'><q xmlns='x'/></iq>", false),
            ("<iq from='a' to='b' id='1' type='get'/>", true),
            ("<iq from='a' to='b' id='1' type='set'><q xmlns='x'/><q xmlns='x'/></iq>", true),
            ("<iq from='a' to='b' type='set'><q xmlns='x'/></iq>", true),
            ("<iq from='a' to='b' id='1'><q xmlns='x'/></iq>", true),
            ("<iq from='a' to='b' id='1' type='result'/>", false),
            ("<presence from='a' to='b' type='probe'/>", false),
            ("<presence from='a' to='b' type='invisible'/>", true),
            ("<message from='a' to='b' type='odd'/>", false),
        ] {
            assert_eq!(parse(&mut tree, text).expect("a stanza").is_bad_request(), bad, "{text}");
        }
    }
}
