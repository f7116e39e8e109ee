//! The conditions a stream ends with (RFC 6120 section 4.9), read and written.

use super::ns;
use crate::base::outbox::Writer;
use crate::base::xml::{Node, Tag, XmlError, XmlErrorKind};
use core::fmt;
use std::borrow::Cow;

macro_rules! conditions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A condition of RFC 6120 section 4.9.3.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum StreamCondition { $($(#[$doc])* $variant,)* }

        impl StreamCondition {
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
        }
    };
}

conditions! {
    /// XML that cannot be processed.
    BadFormat = "bad-format",
    /// A prefix that is not supported or not declared.
    BadNamespacePrefix = "bad-namespace-prefix",
    /// A new stream took the place of this one.
    Conflict = "conflict",
    /// Nothing was heard for too long.
    ConnectionTimeout = "connection-timeout",
    /// The domain is no longer served here.
    HostGone = "host-gone",
    /// The domain is not served here.
    HostUnknown = "host-unknown",
    /// `to` or `from` is missing or no address.
    ImproperAddressing = "improper-addressing",
    /// A fault of the server itself.
    InternalServerError = "internal-server-error",
    /// A `from` that was not proved on this stream.
    InvalidFrom = "invalid-from",
    /// The stream's or the content namespace is not the right one.
    InvalidNamespace = "invalid-namespace",
    /// XML that a schema refuses.
    InvalidXml = "invalid-xml",
    /// Something was sent before the stream was authenticated.
    NotAuthorized = "not-authorized",
    /// XML that is none.
    NotWellFormed = "not-well-formed",
    /// A local rule was broken, such as a limit.
    PolicyViolation = "policy-violation",
    /// A server needed for authentication cannot be reached.
    RemoteConnectionFailed = "remote-connection-failed",
    /// The stream has to be opened anew.
    Reset = "reset",
    /// The server has not enough of something.
    ResourceConstraint = "resource-constraint",
    /// A comment, a processing instruction, a document type or an entity.
    RestrictedXml = "restricted-xml",
    /// Another host serves the domain; its address is the text.
    SeeOtherHost = "see-other-host",
    /// The server is going down.
    SystemShutdown = "system-shutdown",
    /// None of the others; an application condition stands beside it.
    UndefinedCondition = "undefined-condition",
    /// Another encoding than UTF-8.
    UnsupportedEncoding = "unsupported-encoding",
    /// A mandatory feature that the peer does not have.
    UnsupportedFeature = "unsupported-feature",
    /// A first-level element that is no stanza.
    UnsupportedStanzaType = "unsupported-stanza-type",
    /// A version of XMPP that is not spoken here.
    UnsupportedVersion = "unsupported-version",
}

/// Why we end a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamFault {
    /// What the peer is told.
    pub condition: StreamCondition,
    /// The cause in words: for the log, and as text for the peer.
    pub cause: &'static str,
}

impl StreamFault {
    /// A fault with its cause.
    pub const fn new(condition: StreamCondition, cause: &'static str) -> Self {
        Self { condition, cause }
    }

    /// Writes `<stream:error/>`; the prefix `stream` is declared by our header.
    pub fn emit(self, w: &mut Writer<'_>) {
        emit(w, self.condition, Some(self.cause), None);
    }
}

impl fmt::Display for StreamFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.condition.name(), self.cause)
    }
}

impl From<XmlError> for StreamFault {
    fn from(error: XmlError) -> Self {
        let condition = match error.kind {
            XmlErrorKind::NotWellFormed => StreamCondition::NotWellFormed,
            XmlErrorKind::Restricted => StreamCondition::RestrictedXml,
            XmlErrorKind::BadNamespacePrefix => StreamCondition::BadNamespacePrefix,
            XmlErrorKind::UnsupportedEncoding => StreamCondition::UnsupportedEncoding,
            XmlErrorKind::TooMuch => StreamCondition::PolicyViolation,
        };
        Self::new(condition, error.cause)
    }
}

/// Writes `<stream:error/>` with a text and with the name and namespace of an
/// application condition, if there are any.
pub fn emit(
    w: &mut Writer<'_>,
    condition: StreamCondition,
    text: Option<&str>,
    application: Option<(&'static str, &str)>,
) {
    Tag::begin(w, "stream:error").content(|w| {
        Tag::begin(w, condition.name()).namespace(ns::STREAM_ERRORS).empty();
        if let Some(text) = text {
            Tag::begin(w, "text").namespace(ns::STREAM_ERRORS).lang(Some("en")).text(text);
        }
        if let Some((name, namespace)) = application {
            Tag::begin(w, name).namespace(namespace).empty();
        }
    });
}

/// A stream error of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamError<'a> {
    /// Its condition; `undefined-condition` if it has none that we know.
    pub condition: StreamCondition,
    /// What the condition element holds: the other host of `see-other-host`.
    pub content: Cow<'a, str>,
    /// Its text, for the log.
    pub text: Option<Cow<'a, str>>,
}

impl<'a> StreamError<'a> {
    /// Is this element a stream error?
    pub fn is(element: Node<'_>) -> bool {
        element.is("error", ns::STREAMS)
    }

    /// Reads a stream error.
    pub fn parse(element: Node<'a>) -> Self {
        let mut error = Self { condition: StreamCondition::UndefinedCondition, content: "".into(), text: None };
        for child in element.children().filter(|child| child.namespace() == ns::STREAM_ERRORS) {
            if child.name() == "text" {
                error.text = Some(child.text());
            } else if let Some(condition) = StreamCondition::from_name(child.name()) {
                error.condition = condition;
                error.content = child.text();
            }
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::outbox::Outbox;
    use crate::base::xml::{Limits, Tree};

    fn header() -> crate::base::xml::Bindings {
        let header = b"<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'>";
        Tree::new().parse_start_tag(header, Limits::UNPROVEN).expect("a header").1
    }

    #[test]
    fn what_is_written_is_read_back() {
        for condition in StreamCondition::ALL {
            assert_eq!(StreamCondition::from_name(condition.name()), Some(*condition));
            let mut out = Outbox::default();
            let mut w = out.begin();
            emit(&mut w, *condition, Some("a <cause>"), Some(("handled-count-too-high", ns::MANAGEMENT)));
            let span = w.finish();
            let mut tree = Tree::new();
            let element = tree.parse(out.bytes(&span), &header(), Limits::STANZA).expect("our own output");
            assert!(StreamError::is(element));
            let error = StreamError::parse(element);
            assert_eq!((error.condition, error.text.as_deref()), (*condition, Some("a <cause>")));
        }
    }

    #[test]
    fn the_other_host_is_the_content_of_its_condition() {
        let mut tree = Tree::new();
        let text = b"<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>b.example:5269\
            </see-other-host><odd xmlns='urn:x'/></stream:error>";
        let error = StreamError::parse(tree.parse(text, &header(), Limits::STANZA).expect("an error"));
        assert_eq!((error.condition, &*error.content), (StreamCondition::SeeOtherHost, "b.example:5269"));
    }
}
