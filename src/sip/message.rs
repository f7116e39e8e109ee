//! SIP messages: parsed in place, borrowed from the octets they came in, and written.
//!
//! Parsing is three steps. One pass over the header fields unfolds lines and moves
//! each colon to its name, in place; httparse then finds the fields and refuses
//! control characters; last, the fields every message must have are read and checked.
//! Whatever follows sees one canonical form.
//!
//! Left out on purpose: bare CR or LF as a line end, charsets other than UTF-8 in
//! header fields, versions other than 2.0.

pub use super::emit::{Request, Response};
use super::header::{CSeq, MediaType, NameAddr, Via, decimal, is_call_id, is_token, split_list, trim};
use super::uri::Uri;
use crate::limits::SIP_HEADER_LINES_MAX;
use core::fmt;

/// A request method. Methods are case-sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method<'a> {
    /// RFC 3261.
    Invite,
    /// RFC 3261.
    Ack,
    /// RFC 3261.
    Bye,
    /// RFC 3261.
    Cancel,
    /// RFC 3261.
    Options,
    /// RFC 3261.
    Register,
    /// RFC 3428.
    Message,
    /// RFC 6665.
    Subscribe,
    /// RFC 6665.
    Notify,
    /// A NOTIFY that is never answered ([MS-SIP] section 3.5).
    Benotify,
    /// RFC 3515.
    Refer,
    /// RFC 6086.
    Info,
    /// RFC 3903.
    Publish,
    /// RFC 3262.
    Prack,
    /// RFC 3311.
    Update,
    /// No method we have heard of.
    Other(&'a str),
}

impl<'a> Method<'a> {
    /// The method of that name.
    pub fn new(name: &'a str) -> Self {
        match name {
            "INVITE" => Self::Invite,
            "ACK" => Self::Ack,
            "BYE" => Self::Bye,
            "CANCEL" => Self::Cancel,
            "OPTIONS" => Self::Options,
            "REGISTER" => Self::Register,
            "MESSAGE" => Self::Message,
            "SUBSCRIBE" => Self::Subscribe,
            "NOTIFY" => Self::Notify,
            "BENOTIFY" => Self::Benotify,
            "REFER" => Self::Refer,
            "INFO" => Self::Info,
            "PUBLISH" => Self::Publish,
            "PRACK" => Self::Prack,
            "UPDATE" => Self::Update,
            other => Self::Other(other),
        }
    }

    /// Its name.
    pub const fn as_str(self) -> &'a str {
        match self {
            Self::Invite => "INVITE",
            Self::Ack => "ACK",
            Self::Bye => "BYE",
            Self::Cancel => "CANCEL",
            Self::Options => "OPTIONS",
            Self::Register => "REGISTER",
            Self::Message => "MESSAGE",
            Self::Subscribe => "SUBSCRIBE",
            Self::Notify => "NOTIFY",
            Self::Benotify => "BENOTIFY",
            Self::Refer => "REFER",
            Self::Info => "INFO",
            Self::Publish => "PUBLISH",
            Self::Prack => "PRACK",
            Self::Update => "UPDATE",
            Self::Other(name) => name,
        }
    }
}

/// Why octets are no SIP message, or none we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The start-line breaks the grammar.
    StartLine,
    /// Another version than 2.0.
    Version,
    /// The Request-URI breaks the grammar.
    RequestUri,
    /// A CR or a LF without the other.
    BareLineEnd,
    /// The empty line behind the headers is missing.
    NoEnd,
    /// A header name is no token, or a line has no colon.
    HeaderName,
    /// A header value holds control characters.
    HeaderValue,
    /// A header value is not UTF-8.
    NotUtf8,
    /// The start-line is too long.
    StartLineTooLong,
    /// One header field is too long.
    HeaderTooLong,
    /// All header fields together are too long.
    HeadersTooLong,
    /// Too many header lines.
    TooManyHeaders,
    /// The whole message is too long.
    TooLarge,
    /// A mandatory header is missing.
    Missing(&'static str),
    /// A header that may be there once is there twice.
    Repeated(&'static str),
    /// A header breaks its grammar.
    Bad(&'static str),
    /// The method in CSeq is not the one of the request.
    MethodMismatch,
    /// Content-Length is no number.
    ContentLengthBad,
    /// Two Content-Lengths differ.
    ContentLengthDiffers,
    /// The body is shorter than Content-Length says.
    BodyShort,
}

impl Fault {
    /// The status code of the answer.
    pub const fn status(self) -> u16 {
        match self {
            Self::Version => 505,
            Self::StartLineTooLong => 414,
            Self::TooLarge | Self::HeaderTooLong | Self::HeadersTooLong | Self::TooManyHeaders => 513,
            _ => 400,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StartLine => "Bad Start-Line",
            Self::Version => "Version Not Supported",
            Self::RequestUri => "Bad Request-URI",
            Self::BareLineEnd => "Bare CR or LF",
            Self::NoEnd => "No Empty Line After Headers",
            Self::HeaderName => "Bad Header Name",
            Self::HeaderValue => "Control Character in Header",
            Self::NotUtf8 => "Header Not UTF-8",
            Self::StartLineTooLong => "Request-URI Too Long",
            Self::HeaderTooLong => "Header Too Long",
            Self::HeadersTooLong => "Headers Too Long",
            Self::TooManyHeaders => "Too Many Headers",
            Self::TooLarge => "Message Too Large",
            Self::Missing(name) => return write!(f, "Missing {name}"),
            Self::Repeated(name) => return write!(f, "Repeated {name}"),
            Self::Bad(name) => return write!(f, "Bad {name}"),
            Self::MethodMismatch => "CSeq Method Does Not Match",
            Self::ContentLengthBad => "Bad Content-Length",
            Self::ContentLengthDiffers => "Content-Length Headers Differ",
            Self::BodyShort => "Body Shorter Than Content-Length",
        })
    }
}

/// A message that was parsed and checked.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    start: StartLine<'a>,
    /// The header fields, one line each, without the empty line.
    fields: &'a str,
    /// From the first Via line to the end of the last one.
    vias: &'a str,
    known: [Option<&'a str>; KNOWN.len()],
    via: Via<'a>,
    from: NameAddr<'a>,
    to: NameAddr<'a>,
    cseq: CSeq<'a>,
    max_forwards: Option<u8>,
    body: &'a [u8],
}

/// The first line of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartLine<'a> {
    /// Of a request.
    Request {
        /// What is asked for.
        method: Method<'a>,
        /// The Request-URI.
        uri: &'a str,
    },
    /// Of a response.
    Response {
        /// 100 to 699.
        status: u16,
        /// Whatever the peer wrote; may be empty.
        reason: &'a str,
    },
}

/// What is left of a message that was refused: enough to answer it.
#[derive(Clone, Copy, Debug)]
pub struct Malformed<'a> {
    /// Why it was refused.
    pub fault: Fault,
    /// The head, as far as it was read.
    head: &'a [u8],
}

impl<'a> Message<'a> {
    /// Parses a message of which `head` octets are start-line, headers and the empty
    /// line, as [`super::framer`] found them.
    #[allow(clippy::result_large_err)]
    pub fn parse(octets: &'a mut [u8], head: usize) -> Result<Self, Malformed<'a>> {
        let (head, body) = octets.split_at_mut_checked(head).unwrap_or_default();
        let mut found = Found::default();
        let read = found.read(head);
        let (head, body): (&'a [u8], &'a [u8]) = (head, body);
        let head = head.get(..found.len()).unwrap_or(head);
        read.and_then(|()| Self::assemble(head, &found, body)).map_err(|fault| Malformed { fault, head })
    }

    fn assemble(head: &'a [u8], found: &Found, body: &'a [u8]) -> Result<Self, Fault> {
        let (line, fields) = head.split_at_checked(found.line).unwrap_or_default();
        let line = core::str::from_utf8(line).map_err(|_| Fault::NotUtf8)?;
        let start = StartLine::parse(line.trim_end_matches("\r\n"))?;
        let fields = core::str::from_utf8(fields).map_err(|_| Fault::NotUtf8)?;
        if let Some(name) = found.repeated {
            return Err(Fault::Repeated(name));
        }
        let known = found.known.map(|place| {
            let (from, to) = place?;
            fields.get(from as usize..to as usize)
        });
        let field = |which: usize| known[which].ok_or(Fault::Missing(KNOWN[which]));
        let via = field(VIA)?;
        let via = split_list(via).next().and_then(Via::parse).ok_or(Fault::Bad("Via"))?;
        let from = NameAddr::parse(field(FROM)?).ok_or(Fault::Bad("From"))?;
        let to = NameAddr::parse(field(TO)?).ok_or(Fault::Bad("To"))?;
        let cseq = CSeq::parse(field(CSEQ)?).ok_or(Fault::Bad("CSeq"))?;
        if !is_call_id(field(CALL_ID)?) {
            return Err(Fault::Bad("Call-ID"));
        }
        let max_forwards = match known[MAX_FORWARDS].map(decimal) {
            Some(Some(hops @ 0..=255)) => Some(hops as u8),
            Some(_) => return Err(Fault::Bad("Max-Forwards")),
            None => None,
        };
        if known[CONTENT_LENGTH].is_some_and(|length| decimal(length).is_none()) {
            return Err(Fault::ContentLengthBad);
        }
        let vias = fields.get(found.vias.0 as usize..found.vias.1 as usize).unwrap_or_default();
        let message = Self { start, fields, vias, known, via, from, to, cseq, max_forwards, body };
        message.check()?;
        Ok(message)
    }

    fn check(&self) -> Result<(), Fault> {
        if matches!(self.start, StartLine::Request { method, .. } if method.as_str() != self.cseq.method) {
            return Err(Fault::MethodMismatch);
        }
        // The top one was read already.
        if self.vias().skip(1).any(|via| Via::parse(via).is_none()) {
            return Err(Fault::Bad("Via"));
        }
        if self.known[CONTACT].is_some() {
            let is_bad = |value: &str| value != "*" && NameAddr::parse(value).is_none();
            if self.headers("Contact").any(is_bad) {
                return Err(Fault::Bad("Contact"));
            }
        }
        Ok(())
    }

    /// The first line.
    pub const fn start_line(&self) -> StartLine<'a> {
        self.start
    }

    /// Is it a request?
    pub const fn is_request(&self) -> bool {
        matches!(self.start, StartLine::Request { .. })
    }

    /// The method of a request, or the one a response answers.
    pub fn method(&self) -> Method<'a> {
        match self.start {
            StartLine::Request { method, .. } => method,
            StartLine::Response { .. } => Method::new(self.cseq.method),
        }
    }

    /// The Request-URI as it stands; empty in a response.
    pub const fn uri(&self) -> &'a str {
        match self.start {
            StartLine::Request { uri, .. } => uri,
            StartLine::Response { .. } => "",
        }
    }

    /// The status code; 0 in a request.
    pub const fn status(&self) -> u16 {
        match self.start {
            StartLine::Request { .. } => 0,
            StartLine::Response { status, .. } => status,
        }
    }

    /// The reason phrase; empty in a request.
    pub const fn reason(&self) -> &'a str {
        match self.start {
            StartLine::Request { .. } => "",
            StartLine::Response { reason, .. } => reason,
        }
    }

    /// The value of the first header field of that name; long and compact forms are
    /// the same name.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        match known(name) {
            Some(which) => self.known[which],
            None => self.fields().find(|(found, _)| same_name(found, name)).map(|(_, value)| value),
        }
    }

    /// All values of that name in order; comma lists are split where they are defined.
    pub fn headers<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        let is_list = is_list(name);
        self.fields().filter(move |(found, _)| same_name(found, name)).flat_map(move |(_, value)| {
            let (whole, list) = if is_list { (None, Some(split_list(value))) } else { (Some(value), None) };
            whole.into_iter().chain(list.into_iter().flatten())
        })
    }

    /// All header fields, names as they were written.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        lines(self.fields)
    }

    /// The top Via.
    pub const fn via(&self) -> &Via<'a> {
        &self.via
    }

    /// All values of Via, the top one first.
    pub fn vias(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        lines(self.vias).filter(|(name, _)| known(name) == Some(VIA)).flat_map(|(_, value)| split_list(value))
    }

    /// From.
    pub const fn from(&self) -> &NameAddr<'a> {
        &self.from
    }

    /// To.
    pub const fn to(&self) -> &NameAddr<'a> {
        &self.to
    }

    /// The first Contact that is an address.
    pub fn contact(&self) -> Option<NameAddr<'a>> {
        self.headers("Contact").find_map(NameAddr::parse)
    }

    /// Call-ID.
    pub fn call_id(&self) -> &'a str {
        self.known[CALL_ID].unwrap_or_default()
    }

    /// CSeq.
    pub const fn cseq(&self) -> CSeq<'a> {
        self.cseq
    }

    /// Max-Forwards, if there is one.
    pub const fn max_forwards(&self) -> Option<u8> {
        self.max_forwards
    }

    /// Content-Type, if there is a legal one.
    pub fn content_type(&self) -> Option<MediaType<'a>> {
        self.known[CONTENT_TYPE].and_then(MediaType::parse)
    }

    /// Expires: larger numbers than fit become the largest; a malformed one is as if
    /// it were not there (RFC 3261 section 20.19).
    pub fn expires(&self) -> Option<u32> {
        self.known[EXPIRES].and_then(decimal).map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    /// Retry-After in seconds.
    pub fn retry_after(&self) -> Option<u32> {
        let value = self.header("Retry-After")?;
        let digits = value.split([';', '(', ' ', '\t']).next().unwrap_or_default();
        decimal(digits).map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    /// The body.
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }
}

impl<'a> StartLine<'a> {
    fn parse(line: &'a str) -> Result<Self, Fault> {
        let is_version = |text: &str| text.len() > 4 && text.get(..4).is_some_and(|t| t.eq_ignore_ascii_case("SIP/"));
        let mut parts = line.splitn(3, ' ');
        let (Some(first), Some(second), Some(third)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Fault::StartLine);
        };
        if is_version(first) {
            if !first.eq_ignore_ascii_case("SIP/2.0") {
                return Err(Fault::Version);
            }
            let status = decimal(second).filter(|status| second.len() == 3 && (100..700).contains(status));
            let status = status.ok_or(Fault::StartLine)? as u16;
            if third.bytes().any(|c| c.is_ascii_control() && c != b'\t') {
                return Err(Fault::StartLine);
            }
            return Ok(Self::Response { status, reason: third });
        }
        if !is_token(first) {
            return Err(Fault::StartLine);
        }
        if !third.eq_ignore_ascii_case("SIP/2.0") {
            let is_other_version = is_version(third) && third.bytes().all(|c| c.is_ascii_graphic());
            return Err(if is_other_version { Fault::Version } else { Fault::StartLine });
        }
        Uri::parse(second).map_err(|_| Fault::RequestUri)?;
        Ok(Self::Request { method: Method::new(first), uri: second })
    }
}

impl<'a> Malformed<'a> {
    /// A message whose framing failed: `head` octets of it were read.
    pub fn new(octets: &'a mut [u8], head: usize, fault: Fault) -> Self {
        let head = octets.get_mut(..head).unwrap_or_default();
        let mut found = Found::default();
        // What is wrong is known already; this is for folded lines.
        let _ = found.read(head);
        let head: &'a [u8] = head;
        Self { fault, head: head.get(..found.len()).unwrap_or(head) }
    }

    /// Does it look like a response? Those are never answered.
    pub fn is_response(&self) -> bool {
        self.head.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"SIP/"))
    }

    /// Does it begin like a request: a method, a space, anything?
    pub fn is_request(&self) -> bool {
        let method = self.head.split(|c| *c == b' ').next().unwrap_or_default();
        !self.is_response() && method.len() < self.head.len() && core::str::from_utf8(method).is_ok_and(is_token)
    }

    /// Is it an ACK or a BENOTIFY? Those are never answered.
    pub fn is_unanswered(&self) -> bool {
        self.head.starts_with(b"ACK ") || self.head.starts_with(b"BENOTIFY ")
    }

    /// Those header fields that can be read, each on its own line; broken ones are
    /// left out.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let line = self.head.iter().position(|c| *c == b'\n').map_or(self.head.len(), |end| end + 1);
        let mut rest = self.head.get(line..).unwrap_or_default();
        core::iter::from_fn(move || {
            loop {
                if rest.is_empty() {
                    return None;
                }
                let end = rest.iter().position(|c| *c == b'\n').map_or(rest.len(), |end| end + 1);
                let (line, after) = rest.split_at_checked(end)?;
                rest = after;
                let clean = !line.trim_ascii_end().iter().any(|c| c.is_ascii_control() && *c != b'\t');
                if let (true, Ok(line)) = (clean, core::str::from_utf8(line.trim_ascii_end()))
                    && let Some((name, value)) = line.split_once(':')
                    && is_token(name.trim_end_matches([' ', '\t']))
                {
                    return Some((trim(name), trim(value)));
                }
            }
        })
    }
}

/// Header names the parser remembers the place of: the single ones it checks first.
const KNOWN: [&str; 10] =
    ["Via", "From", "To", "Call-ID", "CSeq", "Max-Forwards", "Content-Length", "Content-Type", "Contact", "Expires"];
const VIA: usize = 0;
const FROM: usize = 1;
const TO: usize = 2;
const CALL_ID: usize = 3;
const CSEQ: usize = 4;
const MAX_FORWARDS: usize = 5;
const CONTENT_LENGTH: usize = 6;
const CONTENT_TYPE: usize = 7;
const CONTACT: usize = 8;
const EXPIRES: usize = 9;

/// Other headers that may be there once only (RFC 3261 section 20, RFC 4475 section 3.3.8).
const SINGLE: [&str; 12] = [
    "Subject",
    "Event",
    "Subscription-State",
    "Date",
    "Content-Disposition",
    "MIME-Version",
    "Min-Expires",
    "Retry-After",
    "Refer-To",
    "Referred-By",
    "Reply-To",
    "Session-Expires",
];

/// Headers defined as comma lists (RFC 3261 section 7.3.1).
const LISTS: [&str; 22] = [
    "Via",
    "Contact",
    "Route",
    "Record-Route",
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "Alert-Info",
    "Allow",
    "Allow-Events",
    "Call-Info",
    "Content-Encoding",
    "Content-Language",
    "Error-Info",
    "In-Reply-To",
    "Path",
    "Proxy-Require",
    "Require",
    "Service-Route",
    "Supported",
    "Unsupported",
    "Warning",
];

/// Compact forms (RFC 3261 section 7.3.3 and the RFCs that add some).
const COMPACT: [(&str, &str); 20] = [
    ("i", "Call-ID"),
    ("m", "Contact"),
    ("e", "Content-Encoding"),
    ("l", "Content-Length"),
    ("c", "Content-Type"),
    ("f", "From"),
    ("s", "Subject"),
    ("k", "Supported"),
    ("t", "To"),
    ("v", "Via"),
    ("o", "Event"),
    ("u", "Allow-Events"),
    ("r", "Refer-To"),
    ("b", "Referred-By"),
    ("x", "Session-Expires"),
    ("a", "Accept-Contact"),
    ("j", "Reject-Contact"),
    ("d", "Request-Disposition"),
    ("y", "Identity"),
    ("n", "Identity-Info"),
];

/// The long form of a header name.
fn long_name(name: &str) -> &str {
    if name.len() != 1 {
        return name;
    }
    COMPACT.iter().find(|(compact, _)| compact.eq_ignore_ascii_case(name)).map_or(name, |(_, long)| long)
}

/// The compact form of a header name, where there is one.
pub(super) fn compact_name(name: &str) -> &str {
    COMPACT.iter().find(|(_, long)| long.eq_ignore_ascii_case(name)).map_or(name, |(compact, _)| compact)
}

fn same_name(a: &str, b: &str) -> bool {
    long_name(a).eq_ignore_ascii_case(long_name(b))
}

fn known(name: &str) -> Option<usize> {
    let name = long_name(name);
    KNOWN.iter().position(|known| known.len() == name.len() && known.eq_ignore_ascii_case(name))
}

fn is_list(name: &str) -> bool {
    let name = long_name(name);
    LISTS.iter().any(|list| list.eq_ignore_ascii_case(name))
}

/// The fields of a canonical block.
fn lines(block: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = block;
    core::iter::from_fn(move || {
        let end = rest.bytes().position(|c| c == b'\n')?;
        let (line, after) = rest.split_at_checked(end + 1)?;
        rest = after;
        let colon = line.bytes().position(|c| c == b':')?;
        Some((line.get(..colon)?, trim(line.get(colon + 1..)?.strip_suffix("\r\n")?)))
    })
}

/// What one look over the head found; places are octets from its first field.
#[derive(Default)]
struct Found {
    /// Octets of the start-line with its CRLF.
    line: usize,
    /// Octets of the canonical fields behind it, the empty line left out; `None`: the
    /// head could not be brought into canonical form.
    fields: Option<usize>,
    known: [Option<(u32, u32)>; KNOWN.len()],
    /// From the first Via line to the end of the last one.
    vias: (u32, u32),
    repeated: Option<&'static str>,
}

impl Found {
    /// Octets of the canonical head; more than there are if there is none.
    fn len(&self) -> usize {
        self.fields.map_or(usize::MAX, |fields| self.line + fields)
    }

    /// Brings the head into canonical form and finds the fields.
    fn read(&mut self, head: &mut [u8]) -> Result<(), Fault> {
        self.line = head.iter().position(|c| *c == b'\n').ok_or(Fault::NoEnd)? + 1;
        if head.get(..self.line).is_none_or(|line| !line.ends_with(b"\r\n")) {
            return Err(Fault::BareLineEnd);
        }
        let block = head.get_mut(self.line..).unwrap_or_default();
        let fields = canonicalise(block)?;
        self.fields = Some(fields);
        let block = block.get_mut(..fields + 2).ok_or(Fault::NoEnd)?;
        // A quoted pair may hide any control character but CR and LF (RFC 3261 section
        // 25.1); httparse does not know that, so it gets to see something else.
        let hidden = Hidden::hide(block)?;
        let read = self.find(block);
        hidden.restore(block);
        read
    }

    fn find(&mut self, block: &[u8]) -> Result<(), Fault> {
        // Few messages have many headers, and clearing room for all takes its time.
        let mut few = [httparse::EMPTY_HEADER; HEADER_LINES_USUAL];
        match httparse::parse_headers(block, &mut few) {
            Ok(httparse::Status::Complete((_, fields))) => {
                self.note(block, fields);
                return Ok(());
            }
            Err(httparse::Error::TooManyHeaders) => {}
            Ok(httparse::Status::Partial) => return Err(Fault::NoEnd),
            Err(error) => return Err(fault_of(error)),
        }
        let mut many = [httparse::EMPTY_HEADER; SIP_HEADER_LINES_MAX];
        match httparse::parse_headers(block, &mut many) {
            Ok(httparse::Status::Complete((_, fields))) => {
                self.note(block, fields);
                Ok(())
            }
            Ok(httparse::Status::Partial) => Err(Fault::NoEnd),
            Err(error) => Err(fault_of(error)),
        }
    }

    /// Notes where the fields are, and which were there before.
    fn note(&mut self, block: &[u8], fields: &[httparse::Header<'_>]) {
        let place = |part: &[u8]| (part.as_ptr() as usize).wrapping_sub(block.as_ptr() as usize);
        let mut seen = 0u32;
        for field in fields {
            let from = place(field.value);
            if known(field.name) == Some(VIA) {
                let begin = place(field.name.as_bytes());
                let line = block.get(begin..).unwrap_or_default();
                let end = begin + line.iter().position(|c| *c == b'\n').map_or(line.len(), |end| end + 1);
                let first = if self.known[VIA].is_none() { begin as u32 } else { self.vias.0 };
                self.vias = (first, end as u32);
            }
            match known(field.name) {
                Some(which) => match &mut self.known[which] {
                    // An empty value may point anywhere.
                    place @ None if field.value.is_empty() => *place = Some((0, 0)),
                    place @ None => *place = Some((from as u32, (from + field.value.len()) as u32)),
                    Some(_) if matches!(which, VIA | CONTACT) => {}
                    Some(_) => self.repeated = self.repeated.or(Some(KNOWN[which])),
                },
                None => {
                    let name = long_name(field.name);
                    if let Some(which) = SINGLE.iter().position(|single| single.eq_ignore_ascii_case(name)) {
                        if seen & 1 << which != 0 {
                            self.repeated = self.repeated.or(Some(SINGLE[which]));
                        }
                        seen |= 1 << which;
                    }
                }
            }
        }
    }
}

/// Header lines that most messages do with.
const HEADER_LINES_USUAL: usize = 32;

const fn fault_of(error: httparse::Error) -> Fault {
    match error {
        httparse::Error::TooManyHeaders => Fault::TooManyHeaders,
        httparse::Error::HeaderName => Fault::HeaderName,
        _ => Fault::HeaderValue,
    }
}

/// Unfolds lines and moves each colon to its name, in place. Gives the octets of the
/// fields; an empty line stands behind them.
fn canonicalise(block: &mut [u8]) -> Result<usize, Fault> {
    let (mut read, mut write) = (0, 0);
    loop {
        let rest = block.get(read..).ok_or(Fault::NoEnd)?;
        let len = rest.iter().position(|c| matches!(c, b'\r' | b'\n')).ok_or(Fault::NoEnd)?;
        let line = rest.get(..len).unwrap_or_default();
        if rest.get(len..len + 2) != Some(b"\r\n") {
            return Err(Fault::BareLineEnd);
        }
        if line.is_empty() {
            put(block, &mut write, read..read + 2);
            return Ok(write - 2);
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            // A fold is one space, whatever white space stood around it.
            let blank = line.iter().take_while(|c| matches!(c, b' ' | b'\t')).count();
            let text = read + blank..read + len;
            write = block
                .get(..write)
                .unwrap_or_default()
                .strip_suffix(b"\r\n")
                .ok_or(Fault::HeaderName)?
                .trim_ascii_end()
                .len();
            if !text.is_empty()
                && let Some(place) = block.get_mut(write)
            {
                *place = b' ';
                write += 1;
            }
            put(block, &mut write, text);
        } else {
            let colon = line.iter().position(|c| *c == b':').ok_or(Fault::HeaderName)?;
            let name = line.get(..colon).unwrap_or_default().trim_ascii_end().len();
            put(block, &mut write, read..read + name);
            put(block, &mut write, read + colon..read + len);
        }
        put(block, &mut write, read + len..read + len + 2);
        read += len + 2;
    }
}

/// Moves `range` to where it is to be written, never ahead of what is read.
fn put(block: &mut [u8], write: &mut usize, range: core::ops::Range<usize>) {
    let len = range.len();
    if *write != range.start {
        debug_assert!(*write < range.start && range.end <= block.len(), "the canonical form is never longer");
        block.copy_within(range, *write);
    }
    *write += len;
}

/// Control characters in quoted pairs, taken out of sight for a while.
struct Hidden(heapless::Vec<(u32, u8), 32>);

impl Hidden {
    fn hide(block: &mut [u8]) -> Result<Self, Fault> {
        let mut hidden = heapless::Vec::new();
        let is_control = |c: &u8| (*c < b' ' && !matches!(c, b'\t' | b'\r' | b'\n')) || *c == 0x7F;
        // Without an early end this loop handles many octets at once.
        if !block.iter().fold(false, |found, octet| found | is_control(octet)) {
            return Ok(Self(hidden));
        }
        let (mut quoted, mut escaped) = (false, false);
        for (at, octet) in block.iter_mut().enumerate() {
            if escaped && is_control(octet) {
                hidden.push((at as u32, *octet)).map_err(|_| Fault::HeaderValue)?;
                *octet = b'x';
            }
            match octet {
                b'\r' | b'\n' => (quoted, escaped) = (false, false),
                b'\\' if quoted && !escaped => escaped = true,
                b'"' if !escaped => quoted = !quoted,
                _ => escaped = false,
            }
        }
        Ok(Self(hidden))
    }

    fn restore(self, block: &mut [u8]) {
        for (at, octet) in self.0 {
            if let Some(place) = block.get_mut(at as usize) {
                *place = octet;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::framer;
    use super::*;

    /// Parses `text` as a datagram.
    fn parse<'a>(octets: &'a mut [u8]) -> Result<Message<'a>, Fault> {
        match framer::datagram(octets) {
            Ok((skip, head, len)) => {
                Message::parse(&mut octets[skip..skip + len], head).map_err(|malformed| malformed.fault)
            }
            Err((fault, ..)) => Err(fault),
        }
    }

    fn request(further: &str) -> Vec<u8> {
        format!(
            "MESSAGE sip:b@c SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bKx\r\nFrom: <sip:a@a>;tag=1\r\nTo: <sip:b@c>\r\n\
             Call-ID: x\r\nCSeq: 1 MESSAGE\r\n{further}\r\nbody"
        )
        .into_bytes()
    }

    fn fault(further: &str) -> Fault {
        parse(&mut request(further)).expect_err(further)
    }

    #[test]
    fn white_space_folding_and_compact_names_make_no_difference() {
        let mut octets = include_bytes!("../../tests/corpus/torture/wsinv.sip").to_vec();
        let m = parse(&mut octets).expect("a message");
        assert_eq!(m.method(), Method::Message);
        assert_eq!(m.to().uri, "sip:zoe@im.sued.example");
        assert_eq!(m.to().params.value("outo"), Some("77n"));
        assert_eq!(m.from().tag, Some("wsi55"));
        assert_eq!(m.max_forwards(), Some(68));
        assert_eq!(m.cseq().number, 9);
        assert_eq!(m.header("subject"), Some(""));
        assert_eq!(m.header("UusiOtsake"), Some("uusi arvo jatkuva uusi arvo"));
        assert_eq!(m.header("OutoArvo"), Some(";;,,;;,;"));
        assert_eq!(m.header("Route"), Some("<sip:edge9.sued.example;lr;outo=arvo;ilman-arvoa>"));
        let vias: Vec<_> = m.vias().map(|via| Via::parse(via).expect("a Via").host).collect();
        assert_eq!(vias, ["sbc.nord.example", "hub.nord.example", "203.0.113.77"]);
        assert_eq!(m.body(), b"Moi wsinv");
    }

    #[test]
    fn control_characters_hidden_in_quoted_pairs_come_through_unchanged() {
        let mut octets = include_bytes!("../../tests/corpus/torture/intmeth.sip").to_vec();
        let m = parse(&mut octets).expect("a message");
        assert_eq!(m.method(), Method::Other("!kierto-Method42_*+`.%round'~"));
        assert_eq!(m.to().display, "\"BELL:\\\u{7} NOLLA:\\\0 POISTO:\\\u{7f}\"");
    }

    #[test]
    fn control_characters_are_refused_everywhere_else() {
        assert_eq!(fault("Subject: a\u{1}b\r\n"), Fault::HeaderValue);
        assert_eq!(fault("Subject: a\0b\r\n"), Fault::HeaderValue);
        assert_eq!(fault("Subject: \"a\u{7f}b\"\r\n"), Fault::HeaderValue);
        assert_eq!(fault("Subject: a\\\u{7}\r\n"), Fault::HeaderValue);
        assert_eq!(fault("To\u{1}: <sip:d@e>\r\n"), Fault::HeaderName);
        assert_eq!(fault("To x: <sip:d@e>\r\n"), Fault::HeaderName);
        assert_eq!(fault(": x\r\n"), Fault::HeaderName);
        assert_eq!(fault("no colon\r\n"), Fault::HeaderName);
        assert_eq!(fault("Subject: a\rb\r\n"), Fault::BareLineEnd);
        assert_eq!(fault("Subject: a\nRoute: <sip:x>\r\n"), Fault::BareLineEnd);
        let mut octets = request("Subject: ?\r\n");
        let at = octets.iter().position(|c| *c == b'?').expect("the mark");
        octets[at] = 0xFF;
        assert_eq!(parse(&mut octets).expect_err("no UTF-8"), Fault::NotUtf8);
    }

    #[test]
    fn what_may_be_there_once_is_refused_twice_in_any_spelling() {
        for (further, name) in [
            ("t: <sip:d@e>\r\n", "To"),
            ("FROM : <sip:d@e>\r\n", "From"),
            ("i: x\r\n", "Call-ID"),
            ("CSeq: 1 MESSAGE\r\n", "CSeq"),
            ("Max-Forwards: 1\r\nMAX-FORWARDS: 1\r\n", "Max-Forwards"),
            ("Content-Type: a/b\r\nc: a/b\r\n", "Content-Type"),
            ("Content-Length: 4\r\nl: 4\r\n", "Content-Length"),
            ("Subject: x\r\ns: x\r\n", "Subject"),
            ("o: x\r\nEvent: x\r\n", "Event"),
        ] {
            assert_eq!(fault(further), Fault::Repeated(name), "{further}");
        }
    }

    #[test]
    fn a_missing_header_is_named() {
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            let text = String::from_utf8(request("")).expect("text");
            let without: Vec<_> = text.split_inclusive("\r\n").filter(|line| !line.starts_with(name)).collect();
            let mut octets = without.concat().into_bytes();
            assert_eq!(parse(&mut octets).expect_err(name), Fault::Missing(name));
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused_or_cut() {
        assert_eq!(fault("Max-Forwards: 256\r\n"), Fault::Bad("Max-Forwards"));
        assert_eq!(fault("Max-Forwards: -1\r\n"), Fault::Bad("Max-Forwards"));
        assert_eq!(fault("Content-Length: 1x\r\n"), Fault::ContentLengthBad);
        let mut octets = request("Expires: 1099511627776\r\nRetry-After: 120 (in two minutes);duration=5\r\n");
        let m = parse(&mut octets).expect("a message");
        assert_eq!((m.expires(), m.retry_after()), (Some(u32::MAX), Some(120)));
    }

    #[test]
    fn lists_are_split_only_where_they_are_defined() {
        let mut octets =
            request("Require: a, b\r\nRequire:c\r\nAuthorization: Digest a=b, c=d\r\nAccept-Contact: x,y\r\n");
        let m = parse(&mut octets).expect("a message");
        assert_eq!(m.headers("require").collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(m.headers("Authorization").collect::<Vec<_>>(), ["Digest a=b, c=d"]);
        assert_eq!(m.header("a"), Some("x,y"));
        assert_eq!(m.header("Via"), Some("SIP/2.0/UDP a;branch=z9hG4bKx"));
    }

    #[test]
    fn a_start_line_is_taken_to_the_letter() {
        for (line, expected) in [
            ("OPTIONS sip:a SIP/2.0", None),
            ("OPTIONS sip:a sip/2.0", None),
            ("OPTIONS  sip:a SIP/2.0", Some(Fault::StartLine)),
            ("OPTIONS sip:a  SIP/2.0", Some(Fault::StartLine)),
            ("OPTIONS sip:a SIP/2.0 ", Some(Fault::StartLine)),
            (" OPTIONS sip:a SIP/2.0", Some(Fault::StartLine)),
            ("OPTIONS sip:a SIP/7.0", Some(Fault::Version)),
            ("OPTIONS sip:a HTTP/1.1", Some(Fault::StartLine)),
            ("OPTIONS sip:a", Some(Fault::StartLine)),
            ("OPT(IONS sip:a SIP/2.0", Some(Fault::StartLine)),
            ("OPTIONS <sip:a> SIP/2.0", Some(Fault::RequestUri)),
            ("SIP/2.0 200 OK", None),
            ("SIP/2.0 100 ", None),
            ("SIP/2.0 200", Some(Fault::StartLine)),
            ("SIP/2.0 99 x", Some(Fault::StartLine)),
            ("SIP/2.0 700 x", Some(Fault::StartLine)),
            ("SIP/2.0 4294967301 x", Some(Fault::StartLine)),
            ("SIP/3.0 200 OK", Some(Fault::Version)),
        ] {
            assert_eq!(StartLine::parse(line).err(), expected, "{line}");
        }
    }
}
