//! What the body of a MESSAGE becomes in XMPP, and what of a stanza may stand in a SIP
//! header. Pure: text and octets in, text into the caller's buffers out.

use crate::base::time::Wall;

pub mod outward;

pub use outward::{call_id, header_text, language, pick_body};

/// The types that [`read`] takes, for Accept.
pub const ACCEPT: &str = "text/plain, text/html, multipart/alternative, multipart/mixed, multipart/related, \
     message/cpim, application/im-iscomposing+xml, message/imdn+xml";

/// A body as it came, with the header fields that say what it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Body<'a> {
    /// Content-Type.
    pub content_type: Option<&'a str>,
    /// Content-Encoding.
    pub content_encoding: Option<&'a str>,
    /// Content-Transfer-Encoding. SIP bodies are binary, but some senders set it.
    pub transfer_encoding: Option<&'a str>,
    /// Content-Disposition.
    pub disposition: Option<&'a str>,
    /// The octets.
    pub octets: &'a [u8],
}

/// What a body says. Kept by the caller and used again, so that a plain message costs
/// no allocation; empty text means that there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// The plain text for `<body/>`: LF line ends, XML characters only.
    pub body: String,
    /// The same as XHTML-IM: the well-formed content of
    /// `<body xmlns='http://www.w3.org/1999/xhtml'>`, to be written as it is.
    pub xhtml: String,
    /// A subject from CPIM, which goes before the SIP header's.
    pub subject: String,
    /// When it was written, by CPIM's DateTime.
    pub sent: Option<Wall>,
    /// What the sender wants to be told (RFC 5438).
    pub notification: NotificationRequest,
}

/// A request for disposition notifications (RFC 5438 section 6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotificationRequest {
    /// `imdn.Message-ID`; empty when nothing is asked for.
    pub message_id: String,
    /// `positive-delivery`.
    pub positive_delivery: bool,
    /// `negative-delivery`.
    pub negative_delivery: bool,
    /// `display`.
    pub display: bool,
    /// `processing`.
    pub processing: bool,
}

impl Text {
    /// Empties it and keeps its buffers.
    pub fn clear(&mut self) {
        self.body.clear();
        self.xhtml.clear();
        self.subject.clear();
        self.sent = None;
        self.notification.message_id.clear();
        self.notification.positive_delivery = false;
        self.notification.negative_delivery = false;
        self.notification.display = false;
        self.notification.processing = false;
    }
}

/// What kind of body it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A message to show; `Text::body` may be empty.
    Message,
    /// `application/im-iscomposing+xml`: the sender types, or has stopped to. Nothing
    /// to show.
    Composing {
        /// Is he typing?
        active: bool,
    },
    /// `message/imdn+xml`: a disposition notification about a message of ours. Nothing
    /// to show.
    Notification,
}

/// Why a body is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A type we do not read: 415 with Accept.
    Type,
    /// A Content-Encoding: 415 with Accept-Encoding.
    Encoding,
    /// A charset we do not know: 415 with Accept.
    Charset,
    /// A disposition that must be handled and is not known: 415.
    Disposition,
    /// Encrypted for someone else: 493.
    Undecipherable,
    /// Octets that are not what their type says: 400.
    Malformed,
    /// More parts, depth or text than we take: 413.
    TooLarge,
    /// A CPIM header that the sender requires and we do not know: 400.
    Required,
}

impl Refusal {
    /// The status of the answer.
    pub const fn status(self) -> u16 {
        match self {
            Self::Type | Self::Encoding | Self::Charset | Self::Disposition => 415,
            Self::Undecipherable => 493,
            Self::Malformed | Self::Required => 400,
            Self::TooLarge => 413,
        }
    }

    /// In words, for logs and the reason phrase.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Type => "Unsupported Media Type",
            Self::Encoding => "Unsupported Content Encoding",
            Self::Charset => "Unsupported Charset",
            Self::Disposition => "Unsupported Content Disposition",
            Self::Undecipherable => "Undecipherable",
            Self::Malformed => "Malformed Body",
            Self::TooLarge => "Body Too Complex",
            Self::Required => "Unknown CPIM Header Required",
        }
    }
}
