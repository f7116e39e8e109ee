//! What the body of a MESSAGE becomes in XMPP, and what of a stanza may stand in a SIP
//! header. Pure: text and octets in, text into the caller's buffers out.
//!
//! A multipart is read as RFC 5621 wants it: of an alternative the best part we know, of
//! a related body its root, of any other all parts that must be handled. One that must be
//! handled and cannot refuses the whole, since leaving it out would be a silent loss.

use crate::base::time::Wall;
use crate::limits::SIP_BODY_OCTETS_MAX;
use charset::Charset;
use mime::Value;

mod charset;
mod cpim;
pub mod date;
mod first;
mod html;
mod mime;
pub mod outward;
mod reference;
mod rtf;
mod typing;
mod xhtml;

pub use first::read_first;
pub use outward::{call_id, header_text, language, pick_body};
pub use typing::{COMPOSING_TYPE, KEYBOARD_TYPE, Typing, composing_document, keyboard_document, read_keyboard};
pub use xhtml::{html_of, text_of_xhtml};

/// The types that [`read`] takes, for Accept.
pub const ACCEPT: &str = "text/plain, text/html, text/rtf, application/rtf, multipart/alternative, multipart/mixed, \
     multipart/related, message/cpim, application/im-iscomposing+xml, message/imdn+xml";

/// Deepest nesting of multiparts and CPIM wrappings.
const DEPTH_MAX: usize = 4;

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

impl<'a> Body<'a> {
    /// The body of a request.
    pub fn of(message: &crate::sip::message::Message<'a>) -> Self {
        Self {
            content_type: message.header("Content-Type"),
            content_encoding: message.header("Content-Encoding"),
            transfer_encoding: message.header("Content-Transfer-Encoding"),
            disposition: message.header("Content-Disposition"),
            octets: message.body(),
        }
    }
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

impl Text {
    /// Adds what a further part says.
    fn merge(&mut self, part: Self) {
        let is_both = !self.body.is_empty() && !part.body.is_empty();
        // Markup stands for the whole text or for nothing of it.
        self.xhtml = if self.body.is_empty() { part.xhtml } else { String::new() };
        if is_both && !self.body.ends_with('\n') {
            self.body.push('\n');
        }
        self.body.push_str(&part.body);
        if self.subject.is_empty() {
            self.subject = part.subject;
        }
        self.sent = self.sent.or(part.sent);
        if self.notification.message_id.is_empty() {
            self.notification = part.notification;
        }
    }
}

/// What kind of body it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A message to show; `Text::body` may be empty.
    Message,
    /// `application/im-iscomposing+xml`: the sender types, or has stopped to. Nothing
    /// to show.
    Composing(Typing),
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
    /// More octets, parts or depth than we take: 413.
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
            Self::TooLarge => "Body Too Large",
            Self::Required => "Unknown CPIM Header Required",
        }
    }
}

/// Reads a body into `out`, which is cleared first.
pub fn read(body: &Body<'_>, out: &mut Text) -> Result<Content, Refusal> {
    out.clear();
    if body.octets.len() > SIP_BODY_OCTETS_MAX {
        return Err(Refusal::TooLarge);
    }
    let content = read_part(body, 1, out);
    if content != Ok(Content::Message) {
        out.body.clear();
        out.xhtml.clear();
    }
    content
}

fn read_part(body: &Body<'_>, depth: usize, out: &mut Text) -> Result<Content, Refusal> {
    if depth > DEPTH_MAX {
        return Err(Refusal::TooLarge);
    }
    check_encoding(body)?;
    if !check_disposition(body)? {
        return Ok(Content::Message);
    }
    // RFC 2045 section 5.2 gives parts without a type this one; a whole body has to
    // name its type (REQ-SIP-21).
    let default = if depth > 1 || body.octets.is_empty() { "text/plain" } else { "" };
    let kind = Value::of(body.content_type.unwrap_or(default));
    let decoded = mime::transfer_decoded(body)?;
    let octets = &*decoded;
    if kind.is("text/plain") {
        Charset::named(kind.parameter("charset").as_deref())?.decode(octets, &mut out.body)?;
    } else if kind.is("text/html") {
        let mut source = String::with_capacity(octets.len());
        charset_of_html(&kind, octets)?.decode(octets, &mut source)?;
        let has_lost_picture = html::read(&source, &mut out.body, &mut out.xhtml);
        if has_lost_picture && out.body.is_empty() {
            return Err(Refusal::Type);
        }
    } else if is_rtf(&kind) {
        // It says itself which characters it has; a charset parameter is of no use.
        rtf::read(octets, &mut out.body, &mut out.xhtml)?;
    } else if kind.is("message/cpim") {
        let inner = cpim::open(octets, out)?;
        return read_part(&inner, depth + 1, out);
    } else if kind.is(COMPOSING_TYPE) {
        return typing::read_composing(octets).map(Content::Composing);
    } else if kind.is("message/imdn+xml") {
        return Ok(Content::Notification);
    } else if kind.is("multipart/encrypted") || is_enveloped(&kind) {
        return Err(Refusal::Undecipherable);
    } else if kind.is("multipart/*") && !kind.is("multipart/signed") {
        let boundary = kind.parameter("boundary").ok_or(Refusal::Malformed)?;
        let parts = mime::parts(octets, &boundary)?;
        return if kind.is("multipart/alternative") {
            read_alternative(&parts, depth, out)
        } else if kind.is("multipart/related") {
            read_part(&root(&parts, kind.parameter("start").as_deref())?, depth + 1, out)
        } else {
            read_mixed(&parts, depth, out)
        };
    } else {
        return Err(Refusal::Type);
    }
    Ok(Content::Message)
}

/// The charset of the parameter, else the one that the document names, unless it is UTF-8
/// for all to see: many who convert HTML leave its tag as it was.
fn charset_of_html(kind: &Value<'_>, octets: &[u8]) -> Result<Charset, Refusal> {
    let parameter = kind.parameter("charset");
    if parameter.is_some() || (!octets.is_ascii() && core::str::from_utf8(octets).is_ok()) {
        return Charset::named(parameter.as_deref());
    }
    let charset = Charset::named(html::declared_charset(octets).as_deref());
    // ASCII reads the same in whatever it may be.
    if octets.is_ascii() { charset.or(Ok(Charset::UTF_8)) } else { charset }
}

fn is_rtf(kind: &Value<'_>) -> bool {
    kind.is("text/rtf") || kind.is("application/rtf")
}

/// Is it S/MIME that is encrypted, not only signed (RFC 8551 section 3.2)?
fn is_enveloped(kind: &Value<'_>) -> bool {
    let is_smime = kind.is("application/pkcs7-mime") || kind.is("application/x-pkcs7-mime");
    is_smime && !kind.parameter("smime-type").is_some_and(|kind| kind.eq_ignore_ascii_case("signed-data"))
}

fn check_encoding(body: &Body<'_>) -> Result<(), Refusal> {
    let encodings = body.content_encoding.unwrap_or_default().split(',').map(str::trim);
    let mut others = encodings.filter(|encoding| !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity"));
    if others.next().is_some() { Err(Refusal::Encoding) } else { Ok(()) }
}

/// Is the body there to be shown (RFC 3261 section 20.11)? One of an unknown
/// disposition is passed over if its sender lets us.
fn check_disposition(body: &Body<'_>) -> Result<bool, Refusal> {
    let Some(disposition) = body.disposition.map(Value::of) else { return Ok(true) };
    let known = ["render", "inline", "attachment", "notification", "alert", ""];
    if known.iter().any(|known| disposition.is(known)) {
        Ok(true)
    } else if is_optional(body) {
        Ok(false)
    } else {
        Err(Refusal::Disposition)
    }
}

fn is_optional(body: &Body<'_>) -> bool {
    let handling = body.disposition.and_then(|disposition| Value::of(disposition).parameter("handling"));
    handling.is_some_and(|handling| handling.eq_ignore_ascii_case("optional"))
}

/// Reads the last part that we know: later ones are richer (RFC 2046 section 5.1.4).
/// But RTF is read only where there is nothing else that is rich, and a plain part gives
/// the body wherever it stands: its author knows best how it reads. A part that shows
/// nothing is as good as none, as long as another one shows something.
fn read_alternative(parts: &[&[u8]], depth: usize, out: &mut Text) -> Result<Content, Refusal> {
    let mut refusal = None;
    let mut blank = None;
    for rank in [Rank::Rich, Rank::Rtf, Rank::Plain] {
        for octets in parts.iter().rev() {
            let part = match mime::part(octets) {
                Ok(part) => part,
                Err(why) => {
                    refusal = Some(why);
                    continue;
                }
            };
            if Rank::of(&part) != rank {
                continue;
            }
            let mut best = Text::default();
            match read_part(&part, depth + 1, &mut best) {
                Ok(content) => {
                    if rank == Rank::Rtf || !best.xhtml.is_empty() || is_html(&part) {
                        read_plain_sibling(parts, depth, &mut best);
                    }
                    if content == Content::Message && best.body.trim().is_empty() {
                        blank = Some(best);
                        continue;
                    }
                    out.merge(best);
                    return Ok(content);
                }
                // How deep it nests is a matter of the whole.
                Err(Refusal::TooLarge) => return Err(Refusal::TooLarge),
                Err(why) => refusal = Some(why),
            }
        }
    }
    match (refusal, blank) {
        (None, Some(text)) => {
            out.merge(text);
            Ok(Content::Message)
        }
        (refusal, _) => Err(refusal.unwrap_or(Refusal::Type)),
    }
}

/// In which order alternatives are tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rank {
    /// HTML, and whatever wraps something.
    Rich,
    Rtf,
    Plain,
}

impl Rank {
    fn of(part: &Body<'_>) -> Self {
        Self::of_type(part.content_type)
    }

    fn of_type(content_type: Option<&str>) -> Self {
        let kind = Value::of(content_type.unwrap_or("text/plain"));
        if kind.is("text/plain") {
            Self::Plain
        } else if is_rtf(&kind) {
            Self::Rtf
        } else {
            Self::Rich
        }
    }
}

fn is_html(part: &Body<'_>) -> bool {
    part.content_type.is_some_and(|kind| Value::of(kind).is("text/html"))
}

fn read_plain_sibling(parts: &[&[u8]], depth: usize, best: &mut Text) {
    let plain = parts.iter().rev().filter_map(|octets| mime::part(octets).ok());
    let mut plain = plain.filter(|part| Rank::of(part) == Rank::Plain);
    if let Some(part) = plain.next() {
        let mut text = Text::default();
        if read_part(&part, depth + 1, &mut text) == Ok(Content::Message) && !text.body.trim().is_empty() {
            best.body = text.body;
        }
    }
}

/// The part of a related body that all others are there for, such as the pictures of HTML:
/// the one that `start` names, else the first (RFC 2387 section 3.2).
fn root<'a>(parts: &[&'a [u8]], start: Option<&str>) -> Result<Body<'a>, Refusal> {
    let named = start.and_then(|start| parts.iter().find(|octets| mime::is_identified(octets, start)));
    mime::part(named.or_else(|| parts.first()).ok_or(Refusal::Malformed)?)
}

/// Reads all parts one after the other. One that need not be handled is passed over
/// when it cannot be.
fn read_mixed(parts: &[&[u8]], depth: usize, out: &mut Text) -> Result<Content, Refusal> {
    let mut read = None;
    let mut refusal = Refusal::Type;
    for octets in parts {
        let part = mime::part(octets)?;
        let mut text = Text::default();
        match read_part(&part, depth + 1, &mut text) {
            Ok(content) => {
                out.merge(text);
                // A message goes before what shows nothing.
                if read != Some(Content::Message) {
                    read = Some(content);
                }
            }
            Err(why) if why != Refusal::TooLarge && is_optional(&part) => refusal = why,
            Err(why) => return Err(why),
        }
    }
    read.ok_or(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    fn content(kind: &str, octets: &[u8]) -> Result<(Content, Text), Refusal> {
        let mut out = Text::default();
        read(&Body { content_type: Some(kind), octets, ..Body::default() }, &mut out).map(|content| (content, out))
    }

    fn text(kind: &str, octets: &[u8]) -> Result<String, Refusal> {
        content(kind, octets).map(|(_, text)| text.body)
    }

    #[test]
    fn a_body_has_its_limit_in_octets() {
        let octets = vec![b'x'; SIP_BODY_OCTETS_MAX + 1];
        assert_eq!(text("text/plain", &octets), Err(Refusal::TooLarge));
        assert_eq!(text("text/plain", &octets[1..]).map(|text| text.len()), Ok(SIP_BODY_OCTETS_MAX));
    }

    #[test]
    fn req_7572_26_plain_text_is_the_body() {
        assert_eq!(text("text/plain", "Plut\u{f4}t\r\n".as_bytes()).as_deref(), Ok("Plut\u{f4}t\n"));
        assert_eq!(text("Text/Plain ; Charset=\"iso-8859-1\"", b"Gr\xFC\xDFe").as_deref(), Ok("Gr\u{fc}\u{df}e"));
        assert_eq!(text("text/plain;charset=klingon", b"x"), Err(Refusal::Charset));
    }

    #[test]
    fn req_7572_28_other_types_are_refused_with_415() {
        for kind in ["image/png", "application/x-ms-ink", "text/x-msmsgsinvite", "multipart/signed;boundary=b", "", "x"]
        {
            assert_eq!(text(kind, b"x").map_err(Refusal::status), Err(415), "{kind}");
        }
        let mut out = Text::default();
        assert_eq!(read(&Body { octets: b"x", ..Body::default() }, &mut out), Err(Refusal::Type));
        assert_eq!(read(&Body::default(), &mut out), Ok(Content::Message));
    }

    #[test]
    fn req_sip_21_encodings_and_dispositions_that_are_not_known_are_refused() {
        let mut out = Text::default();
        let plain = Body { content_type: Some("text/plain"), octets: b"x", ..Body::default() };
        let gzip = Body { content_encoding: Some("gzip"), ..plain };
        assert_eq!(read(&gzip, &mut out), Err(Refusal::Encoding));
        assert_eq!(read(&Body { content_encoding: Some("Identity"), ..plain }, &mut out), Ok(Content::Message));
        assert_eq!(read(&Body { disposition: Some("icon"), ..plain }, &mut out), Err(Refusal::Disposition));
        assert_eq!(
            read(&Body { disposition: Some("icon;handling=optional"), ..plain }, &mut out),
            Ok(Content::Message)
        );
        assert_eq!(out.body, "");
        assert_eq!(read(&Body { disposition: Some("render"), ..plain }, &mut out), Ok(Content::Message));
        assert_eq!(out.body, "x");
    }

    #[test]
    fn req_7572_33_encrypted_bodies_are_undecipherable() {
        assert_eq!(text("application/pkcs7-mime;smime-type=enveloped-data", b"x"), Err(Refusal::Undecipherable));
        assert_eq!(text("application/pkcs7-mime;smime-type=signed-data", b"x"), Err(Refusal::Type));
        assert_eq!(text("multipart/encrypted;boundary=b", b"x"), Err(Refusal::Undecipherable));
    }

    #[test]
    fn req_7572_28_the_best_part_of_an_alternative_is_read() {
        let body = b"--b\r\n\r\nplain\r\n--b\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
            <b>rich=C3=BC</b>\r\n--b\r\nContent-Type: image/png\r\n\r\nx\r\n--b--";
        let (_, read) = content("multipart/alternative;boundary=b", body).expect("a message");
        assert_eq!((&*read.body, &*read.xhtml), ("plain", "<strong>rich\u{fc}</strong>"));
        let none = b"--b\nContent-Type: image/png\n\nx\n--b--";
        assert_eq!(text("multipart/alternative;boundary=b", none), Err(Refusal::Type));
        assert_eq!(text("multipart/alternative", none), Err(Refusal::Malformed));
    }

    #[test]
    fn of_an_alternative_html_gives_the_markup_and_the_plain_part_the_body() {
        let part = |kind: &str, text: &str| format!("--b\r\nContent-Type: {kind}\r\n\r\n{text}\r\n");
        let plain = part("text/plain; charset=UTF-8", "um vier?");
        let html = part("text/html; charset=UTF-8", "<SPAN>um <B>vier</B>&nbsp;?</SPAN>");
        let rtf = part("text/rtf; charset=UTF-8", "{\\rtf1\\ansi um \\i vier\\i0  ?\\par}");
        let ink = part("application/x-ms-ink", "AGI=") + &part("image/gif", "GIF89a");
        let read = |parts: &[&str]| {
            let body = parts.concat() + "--b--\r\n";
            content("multipart/alternative; boundary=\"b\"", body.as_bytes()).map(|(_, text)| (text.body, text.xhtml))
        };
        let both = |body: &str, xhtml: &str| Ok((body.to_owned(), xhtml.to_owned()));
        let (strong, em) = ("<span>um <strong>vier</strong>\u{A0}?</span>", "um <em>vier</em> ?");
        assert_eq!(read(&[&plain, &html, &rtf]), both("um vier?", strong));
        assert_eq!(read(&[&rtf, &html, &plain]), both("um vier?", strong));
        assert_eq!(read(&[&html, &rtf, &ink]), both("um vier ?", strong));
        assert_eq!(read(&[&plain, &rtf]), both("um vier?", em));
        assert_eq!(read(&[&plain, &part("text/rtf", "{\\rtf1 UM VIER?}")]), both("um vier?", ""));
        assert_eq!(read(&[&rtf]), both("um vier ?", em));
        assert_eq!(read(&[&plain, &ink]), both("um vier?", ""));
        assert_eq!(read(&[&plain, &part("text/rtf", "none")]), both("um vier?", ""));
        assert_eq!(read(&[&plain, &part("text/rtf", &"{\\rtf1".repeat(1000))]), both("um vier?", ""));
        assert_eq!(read(&[&part("text/plain", ""), &html]), both("um vier ?", strong));
        assert_eq!(read(&[&part("text/plain", " \r\n"), &html]), both("um vier ?", strong));
        assert_eq!(read(&[&ink]), Err(Refusal::Type));
        // What shows nothing does not hide what does, nor what cannot be read.
        let nothing = part("text/html", "<br>");
        assert_eq!(read(&[&rtf, &html, &nothing]), both("um vier ?", strong));
        assert_eq!(read(&[&rtf, &nothing]), both("um vier ?", em));
        assert_eq!(read(&[&part("text/plain", " "), &ink]), Err(Refusal::Type));
        assert_eq!(read(&[&part("text/plain", " "), &nothing]), both(" ", ""));
    }

    #[test]
    fn each_part_has_its_own_charset_and_one_that_cannot_be_read_leaves_the_others() {
        let part = |head: &str, octets: &[u8]| {
            [b"--b\r\nContent-Type: ", head.as_bytes(), b"\r\n\r\n", octets, b"\r\n"].concat()
        };
        let read = |parts: &[&[u8]]| {
            let body = [&parts.concat()[..], b"--b--"].concat();
            content("multipart/alternative;boundary=b", &body).map(|(_, text)| (text.body, text.xhtml))
        };
        let both = |body: &str, xhtml: &str| Ok((body.to_owned(), xhtml.to_owned()));
        let russian = part("text/plain; charset=koi8-r", b"\xED\xCF\xD3\xD4");
        let japanese =
            part("text/html; charset=\"Shift_JIS\"\r\nContent-Transfer-Encoding: quoted-printable", b"<b>=94g</b>");
        let unknown = part("text/plain; charset=klingon", b"nuqneH");
        let broken = part("text/html; charset=utf-8", b"\xFF\xFE\xFD\xFC");
        assert_eq!(read(&[&russian, &japanese]), both("Мост", "<strong>波</strong>"));
        assert_eq!(read(&[&unknown, &japanese]), both("波", "<strong>波</strong>"));
        assert_eq!(read(&[&russian, &broken]), both("Мост", ""));
        assert_eq!(read(&[&unknown, &broken]), Err(Refusal::Charset));
    }

    #[test]
    fn html_without_a_charset_may_say_itself_which_it_has() {
        let meta = |charset: &str, octets: &[u8]| {
            text("text/html", &[b"<meta charset=", charset.as_bytes(), b"><p>", octets].concat())
        };
        assert_eq!(meta("windows-1251", b"\xCC\xEE\xF1\xF2").as_deref(), Ok("Мост"));
        assert_eq!(meta("iso-2022-jp", b"\x1B$BGH\x1B(B").as_deref(), Ok("波"));
        // What is good UTF-8 is nothing else: many change the octets and leave the tag.
        assert_eq!(meta("windows-1251", "Мост".as_bytes()).as_deref(), Ok("Мост"));
        assert_eq!(meta("klingon", b"nuqneH").as_deref(), Ok("nuqneH"));
        assert_eq!(meta("klingon", b"\xCC\xEE\xF1\xF2"), Err(Refusal::Charset));
        let both = text("text/html;charset=koi8-r", b"<meta charset=windows-1251>\xED\xCF\xD3\xD4");
        assert_eq!(both.as_deref(), Ok("Мост"));
    }

    #[test]
    fn a_picture_alone_is_refused() {
        assert_eq!(text("text/html", b"<p><img src='data:image/png;base64,AA=='></p>"), Err(Refusal::Type));
        assert_eq!(text("text/html", b"<p>Watt<img src='data:image/png;base64,AA=='></p>").as_deref(), Ok("Watt"));
        assert_eq!(text("text/html", b"<p><br></p>").as_deref(), Ok(""));
    }

    #[test]
    fn of_a_related_body_the_root_says_all() {
        let parts = b"--b\r\nContent-Type: image/gif\r\nContent-ID: <bild@priel.example>\r\n\r\nGIF89a\r\n--b\r\n\
            Content-ID:\r\n <wurzel@priel.example>\r\nContent-Type: text/html\r\n\r\n<i>Priel</i><img src='cid:bild@priel.example'>\r\n--b--";
        let related = |rest: &str| text(&format!("multipart/related;boundary=b{rest}"), parts);
        assert_eq!(related(";start=\"<wurzel@priel.example>\"").as_deref(), Ok("Priel"));
        assert_eq!(related(";start=\"<fehlt@priel.example>\""), Err(Refusal::Type));
        assert_eq!(related(""), Err(Refusal::Type));
    }

    #[test]
    fn html_as_lync_writes_it_is_a_fragment_with_a_style() {
        let html = "<DIV style=\"font-size: 9pt; font-family: Calibri; color: #5b2d8c; direction: ltr\">Im <A \
            href=\"https://hafen.example/liste?x=1&amp;y=2\">Plan</A><BR>steht <I>nichts</I> &lt;mehr&gt; ;-)</DIV>";
        let (_, read) = content("text/html; charset=Utf-8;msgr=WAAtAE0ATQA", html.as_bytes()).expect("a message");
        assert_eq!(read.body, "Im Plan <https://hafen.example/liste?x=1&y=2>\nsteht nichts <mehr> ;-)");
        assert_eq!(
            read.xhtml,
            "<p style='font-size:9pt;font-family:Calibri;color:#5b2d8c'>Im \
             <a href='https://hafen.example/liste?x=1&amp;y=2'>Plan</a><br/>steht <em>nichts</em> &lt;mehr&gt; ;-)</p>"
        );
    }

    #[test]
    fn rtf_is_read_as_what_it_shows() {
        let rtf = b"{\\rtf1\\ansi\\ansicpg1252\\deff0{\\fonttbl{\\f0\\fnil\\fcharset0 Arial;}{\\f1\\fcharset204 Arial;}}\r\n\
            {\\colortbl ;\\red9\\green8\\blue7;}\r\n\\viewkind4\\uc1\\pard\\cf1\\b\\f0\\fs20 Kostet \\u8364?9\\b0\\par\r\n\
            \\f1 \\'ed\\'e5\\'f2\\f0  \\{T\\'fcr\\}\\line Ende\\par\r\n}\r\n";
        for kind in ["text/rtf", "Text/RTF; charset=UTF-8", "application/rtf"] {
            let (_, read) = content(kind, rtf).expect("a message");
            assert_eq!(read.body, "Kostet €9\nнет {Tür}\nEnde");
            assert_eq!(read.xhtml, "<strong>Kostet €9</strong><br/>нет {Tür}<br/>Ende");
        }
        assert_eq!(text("text/rtf", b"Kostet 9"), Err(Refusal::Malformed));
    }

    #[test]
    fn a_part_of_a_mixed_body_is_left_out_only_if_its_sender_lets_us() {
        let body = |disposition: &str| {
            format!(
                "--b\r\nContent-Type: text/plain\r\n\r\nMoi\r\n--b\r\nContent-Type: image/png\r\n{disposition}\r\nx\r\n--b--"
            )
        };
        let optional = body("Content-Disposition: attachment;handling=optional\r\n");
        assert_eq!(text("multipart/mixed;boundary=b", optional.as_bytes()).as_deref(), Ok("Moi"));
        assert_eq!(text("multipart/mixed;boundary=b", body("").as_bytes()), Err(Refusal::Type));
        let two = b"--b\n\none\n--b\n\ntwo\n--b--";
        assert_eq!(text("multipart/mixed;boundary=b", two).as_deref(), Ok("one\ntwo"));
    }

    #[test]
    fn a_binary_part_that_looks_like_a_boundary_stays_one_part() {
        let torture = include_bytes!("../../../tests/corpus/torture/mpart01.sip");
        let body = torture.windows(4).position(|four| four == b"\r\n\r\n").expect("a body") + 4;
        assert_eq!(text("multipart/mixed;boundary=\"r4ja\"", &torture[body..]).as_deref(), Ok("Moi mpart01"));
    }

    #[test]
    fn req_7572_28_cpim_is_unwrapped_whatever_it_wraps() {
        let cpim = b"Subject: s\n\nContent-Type: multipart/alternative;boundary=b\n\n--b\n\nhi\n--b--";
        let (kind, read) = content("message/cpim", cpim).expect("a message");
        assert_eq!((kind, &*read.subject, &*read.body), (Content::Message, "s", "hi"));
        assert_eq!(text("message/cpim", b"Subject: s\n\nContent-Type: image/png\n\nx"), Err(Refusal::Type));
    }

    #[test]
    fn a_status_of_typing_and_a_notification_show_nothing() {
        let status = b"<isComposing xmlns='urn:ietf:params:xml:ns:im-iscomposing'><state>active</state></isComposing>";
        let (kind, read) = content("application/im-iscomposing+xml", status).expect("a status");
        assert_eq!((kind, read), (Content::Composing(Typing { active: true, refresh_s: None }), Text::default()));
        assert_eq!(content("message/imdn+xml", b"<imdn/>").map(|(kind, _)| kind), Ok(Content::Notification));
    }

    #[test]
    fn a_buffer_that_was_used_before_holds_nothing_of_it() {
        let mut out = Text::default();
        let html = Body { content_type: Some("text/html"), octets: b"<b>x</b>", ..Body::default() };
        read(&html, &mut out).expect("a message");
        let plain = Body { content_type: Some("text/plain"), octets: b"y", ..Body::default() };
        read(&plain, &mut out).expect("a message");
        assert_eq!(out, Text { body: "y".into(), ..Text::default() });
    }

    #[test]
    fn nesting_is_bounded_and_costs_no_more_than_its_octets() {
        let mut body = Vec::new();
        for depth in 0..100 {
            body.extend_from_slice(
                format!("--b{depth}\nContent-Type: multipart/mixed;boundary=b{}\n\n", depth + 1).as_bytes(),
            );
        }
        assert_eq!(text("multipart/mixed;boundary=b0", &body), Err(Refusal::TooLarge));
        let mut cpim = Vec::new();
        for _ in 0..100 {
            cpim.extend_from_slice(b"Subject: x\n\nContent-Type: message/cpim\n\n");
        }
        assert_eq!(text("message/cpim", &cpim), Err(Refusal::TooLarge));
        let long = format!("multipart/mixed;boundary={}", "b".repeat(1_000_000));
        assert_eq!(text(&long, b"x"), Err(Refusal::Malformed));
    }

    #[test]
    fn whatever_comes_in_is_refused_or_becomes_text_that_xml_can_carry() {
        const PIECES: &[&[u8]] = &[
            b"--b",
            b"--b--",
            b"--c",
            b"\r\n",
            b"\n",
            b"\n\n",
            b"Content-Type: ",
            b"text/plain",
            b"text/html",
            b"message/cpim",
            b"multipart/alternative;boundary=b",
            b"multipart/mixed;boundary=\"c\"",
            b";charset=utf-16",
            b"Content-Transfer-Encoding: base64\n",
            b"Content-Disposition: x;handling=optional\n",
            b"Subject: \\u00",
            b"NS: i <urn:ietf:params:imdn>\n",
            b"i.Message-ID: \0",
            b"Require: x\n",
            b"<p>",
            b"</p",
            b"&#0;",
            b"\xFF",
            b"\0",
            b"=3D",
            b"=\n",
            b"R3L8",
            b"x",
            b" ",
            b"\"",
        ];
        const KINDS: &[&str] = &[
            "multipart/alternative;boundary=b",
            "multipart/mixed;boundary=b",
            "message/cpim",
            "text/html;charset=utf-16le",
            "text/plain",
            "multipart/related; boundary=\"b\"",
        ];
        let mut rng = Rng::from_number(5621);
        let mut out = Text::default();
        for _ in 0..50_000 {
            let octets: Vec<u8> = (0..rng.below(30))
                .flat_map(|_| PIECES[rng.below(PIECES.len() as u64) as usize].iter().copied())
                .collect();
            let kind = KINDS[rng.below(KINDS.len() as u64) as usize];
            let body = Body { content_type: Some(kind), octets: &octets, ..Body::default() };
            if read(&body, &mut out).is_ok() {
                for text in [&out.body, &out.xhtml, &out.subject, &out.notification.message_id] {
                    assert!(text.chars().all(crate::base::text::is_xml_char), "{kind} {octets:?}");
                }
                assert!(!out.body.contains('\r') && !out.subject.contains(char::is_control));
            }
        }
    }
}
