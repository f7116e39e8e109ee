//! SIP messages written: what the core wants to say, in one canonical form. No value
//! can end its line, and what is written reads as it was meant.

use super::header::is_token;
use super::message::{Method, compact_name};
use crate::base::outbox::Writer;

/// A response to be sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Response<'a> {
    /// 100 to 699.
    pub status: u16,
    /// The reason phrase; empty: the usual one.
    pub reason: &'a str,
    /// Further header fields.
    pub headers: &'a [(&'a str, &'a str)],
    /// Of the body.
    pub content_type: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

/// A request to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What is asked for.
    pub method: Method<'a>,
    /// The Request-URI.
    pub uri: &'a str,
    /// URI of From, without brackets.
    pub from: &'a str,
    /// Tag of From.
    pub from_tag: &'a str,
    /// URI of To, without brackets.
    pub to: &'a str,
    /// Tag of To, inside a dialog.
    pub to_tag: Option<&'a str>,
    /// Call-ID.
    pub call_id: &'a str,
    /// Number of CSeq.
    pub cseq: u32,
    /// Max-Forwards.
    pub max_forwards: u8,
    /// Further header fields.
    pub headers: &'a [(&'a str, &'a str)],
    /// Of the body.
    pub content_type: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

/// Writes a response: `copied` holds the header fields taken from the request, from
/// Via to CSeq, in two pieces.
pub(crate) fn emit_response(w: &mut Writer<'_>, response: &Response<'_>, copied: [&[u8]; 2]) {
    let reason = if response.reason.is_empty() { usual_reason(response.status) } else { response.reason };
    w.str("SIP/2.0 ").number(u64::from(response.status)).str(" ");
    emit_text(w, reason);
    w.str("\r\n").bytes(copied[0]).bytes(copied[1]);
    emit_tail(w, response.headers, response.content_type, response.body, false);
}

/// Writes a request without its Via, and gives the place that belongs to it.
pub(crate) fn emit_request(w: &mut Writer<'_>, request: &Request<'_>, compact: bool) -> usize {
    w.str(request.method.as_str()).str(" ").str(request.uri).str(" SIP/2.0\r\n");
    let via = w.len();
    emit_name(w, "Max-Forwards", compact);
    w.number(u64::from(request.max_forwards)).str("\r\n");
    emit_name(w, "From", compact);
    w.str("<").str(request.from).str(">;tag=").str(request.from_tag).str("\r\n");
    emit_name(w, "To", compact);
    w.str("<").str(request.to).str(">");
    if let Some(tag) = request.to_tag {
        w.str(";tag=").str(tag);
    }
    w.str("\r\n");
    emit_name(w, "Call-ID", compact);
    w.str(request.call_id).str("\r\n");
    emit_name(w, "CSeq", compact);
    w.number(u64::from(request.cseq)).str(" ").str(request.method.as_str()).str("\r\n");
    emit_tail(w, request.headers, request.content_type, request.body, compact);
    via
}

/// Octets of what [`emit_request`] writes.
pub(crate) fn request_len(request: &Request<'_>, compact: bool) -> usize {
    let line = |name: &str, value: usize| name_len(name, compact) + value + "\r\n".len();
    let method = request.method.as_str().len();
    let to_tag = request.to_tag.map_or(0, |tag| ";tag=".len() + tag.len());
    let content_type = request.content_type.map(|value| ("Content-Type", value));
    let headers = request.headers.iter().copied().chain(content_type).filter(|(name, _)| is_token(name));
    method
        + request.uri.len()
        + "  SIP/2.0\r\n".len()
        + line("Max-Forwards", decimal_len(u64::from(request.max_forwards)))
        + line("From", "<>;tag=".len() + request.from.len() + request.from_tag.len())
        + line("To", "<>".len() + request.to.len() + to_tag)
        + line("Call-ID", request.call_id.len())
        + line("CSeq", decimal_len(u64::from(request.cseq)) + " ".len() + method)
        + headers.map(|(name, value)| line(name, value.len())).sum::<usize>()
        + line("Content-Length", decimal_len(request.body.len() as u64))
        + "\r\n".len()
        + request.body.len()
}

/// Digits of a number.
pub(crate) const fn decimal_len(number: u64) -> usize {
    match number.checked_ilog10() {
        Some(log) => log as usize + 1,
        None => 1,
    }
}

fn emit_tail(w: &mut Writer<'_>, headers: &[(&str, &str)], content_type: Option<&str>, body: &[u8], compact: bool) {
    let content_type = content_type.map(|value| ("Content-Type", value));
    for (name, value) in headers.iter().copied().chain(content_type) {
        debug_assert!(is_token(name), "a header name of ours is a token: {name}");
        if is_token(name) {
            emit_name(w, name, compact);
            emit_text(w, value);
            w.str("\r\n");
        }
    }
    emit_name(w, "Content-Length", compact);
    w.number(body.len() as u64).str("\r\n\r\n").bytes(body);
}

/// Writes a header name and its colon. The compact form goes without the blank too: it
/// is used where every octet counts (RFC 3428 section 8).
pub(crate) fn emit_name(w: &mut Writer<'_>, name: &str, compact: bool) {
    if compact {
        w.str(compact_name(name)).str(":");
    } else {
        w.str(name).str(": ");
    }
}

/// Octets of what [`emit_name`] writes.
pub(crate) fn name_len(name: &str, compact: bool) -> usize {
    if compact { compact_name(name).len() + ":".len() } else { name.len() + ": ".len() }
}

/// Writes text that must stay on its line: control characters become spaces, so that
/// no value can begin a header of its own.
pub(crate) fn emit_text(w: &mut Writer<'_>, text: &str) {
    let is_control = |c: char| c.is_ascii_control() && c != '\t';
    // Nearly every text may stand as it is, and a plain look at its octets shows it at a
    // fifth of what the search for pieces costs: a route set of Lync's has a thousand.
    if !text.bytes().any(|octet| is_control(char::from(octet))) {
        w.str(text);
        return;
    }
    let mut pieces = text.split(is_control);
    w.str(pieces.next().unwrap_or_default());
    for piece in pieces {
        w.str(" ").str(piece);
    }
}

/// The reason phrase the RFCs give a status code.
pub(crate) const fn usual_reason(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        183 => "Session Progress",
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        423 => "Interval Too Brief",
        429 => "Provide Referrer Identity",
        433 => "Anonymity Disallowed",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        _ => match status / 100 {
            1 => "Progress",
            2 => "Success",
            3 => "Redirection",
            4 => "Request Failure",
            5 => "Server Failure",
            _ => "Global Failure",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::framer;
    use super::super::message::Message;
    use super::*;
    use crate::base::outbox::Outbox;

    #[test]
    fn what_is_written_reads_as_it_was_in_both_forms() {
        let wanted = Request {
            method: Method::Message,
            uri: "sip:marta@voip.example",
            from: "sip:lena@chat.example;gr=balkon",
            from_tag: "ft",
            to: "sip:marta@voip.example",
            to_tag: None,
            call_id: "5f3c1d2e-0001",
            cseq: 7,
            max_forwards: 70,
            headers: &[("Subject", "eins\r\nRoute: <sip:evil.example>"), ("X-Own", "\0")],
            content_type: Some("text/plain"),
            body: "Kommst du um zwölf?".as_bytes(),
        };
        for compact in [false, true] {
            let mut out = Outbox::with_capacity(1024, 1);
            let mut w = out.begin();
            let via = emit_request(&mut w, &wanted, compact);
            assert_eq!(w.len(), request_len(&wanted, compact));
            let span = w.finish();
            let mut octets = out.bytes(&span).to_vec();
            octets.splice(via..via, b"v: SIP/2.0/TLS gw;branch=z9hG4bKx\r\n".iter().copied());
            let (_, head, len) = framer::datagram(&octets).expect("a frame");
            let m = Message::parse(&mut octets[..len], head).expect("a message");
            assert_eq!((m.method(), m.uri()), (wanted.method, wanted.uri));
            assert_eq!((m.from().uri, m.from().tag), (wanted.from, Some(wanted.from_tag)));
            assert_eq!((m.to().uri, m.to().tag), (wanted.to, None));
            assert_eq!((m.call_id(), m.cseq().number, m.max_forwards()), (wanted.call_id, 7, Some(70)));
            assert_eq!(m.header("s"), Some("eins  Route: <sip:evil.example>"));
            assert_eq!(m.header("Route"), None);
            assert_eq!(m.body(), wanted.body);
            assert_eq!(m.fields().any(|(name, _)| name == "f"), compact);
        }
    }
}
