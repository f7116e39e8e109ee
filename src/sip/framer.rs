//! Where a SIP message ends: on a stream, resuming where the last look stopped, and
//! in a datagram. Keep-alives between messages are told apart (RFC 5626 section
//! 3.5.1). The framer and the parser agree on what a line is: CRLF ends it, a bare
//! CR or LF is a fault, so that nobody behind us sees another message than we do.

use super::message::Fault;
use crate::limits::{
    SIP_FIRST_MESSAGE_HEADER_OCTETS_MAX, SIP_HEADER_LINES_MAX, SIP_HEADER_OCTETS_MAX, SIP_HEADERS_OCTETS_MAX,
    SIP_MESSAGE_OCTETS_MAX, SIP_START_LINE_OCTETS_MAX,
};

/// What stands at the beginning of the octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Not all of it is there yet.
    Partial,
    /// A CRLF between messages: the answer to a ping, or the first half of one.
    Pong,
    /// The second CRLF in a row: a ping that wants an answer.
    Ping,
    /// A whole message.
    Message {
        /// Octets of start-line and headers, the empty line included.
        head: usize,
        /// Octets of the message.
        len: usize,
    },
    /// Nobody can tell where this ends.
    Broken {
        /// Why.
        fault: Fault,
        /// Octets of the head, as far as it was read.
        head: usize,
    },
}

/// Octets of a keep-alive CRLF.
pub const CRLF_OCTETS: usize = 2;

/// Reads one stream.
#[derive(Clone, Debug, Default)]
pub struct Framer {
    scan: Scan,
    /// Head and length of the message whose body is still coming.
    body: Option<(usize, usize)>,
    /// Was the last thing between messages a CRLF without its twin?
    half_ping: bool,
}

impl Framer {
    /// Looks at all octets not used so far. After anything but [`Frame::Partial`] the
    /// next look begins behind what was found.
    pub fn next(&mut self, octets: &[u8]) -> Frame {
        if self.scan.at == 0
            && let Some(frame) = self.keep_alive(octets)
        {
            return frame;
        }
        let frame = self.message(octets);
        if frame != Frame::Partial {
            *self = Self::default();
        }
        frame
    }

    /// Is a message begun and not whole?
    pub const fn is_inside(&self) -> bool {
        self.scan.at > 0
    }

    /// A ping is two CRLFs at once. One that is long past belongs to no ping.
    pub const fn forget_half_ping(&mut self) {
        self.half_ping = false;
    }

    fn keep_alive(&mut self, octets: &[u8]) -> Option<Frame> {
        match octets {
            [] | [b'\r'] => Some(Frame::Partial),
            [b'\r', b'\n', ..] => {
                self.half_ping = !self.half_ping;
                Some(if self.half_ping { Frame::Pong } else { Frame::Ping })
            }
            _ => None,
        }
    }

    fn message(&mut self, octets: &[u8]) -> Frame {
        let (head, len) = match self.body {
            Some(sizes) => sizes,
            None => match self.scan.head_end(octets) {
                Ok(None) => return Frame::Partial,
                Ok(Some(head)) => match stream_len(octets, head) {
                    Ok(len) => *self.body.insert((head, len)),
                    Err(fault) => return Frame::Broken { fault, head },
                },
                Err(fault) => return Frame::Broken { fault, head: self.scan.at.min(octets.len()) },
            },
        };
        if octets.len() < len { Frame::Partial } else { Frame::Message { head, len } }
    }
}

/// Length of a message on a stream: Content-Length must be there (RFC 3261 section 18.3).
fn stream_len(octets: &[u8], head: usize) -> Result<usize, Fault> {
    let body = content_length(octets.get(..head).unwrap_or_default())?.ok_or(Fault::Missing("Content-Length"))?;
    head.checked_add(body).filter(|len| *len <= SIP_MESSAGE_OCTETS_MAX).ok_or(Fault::TooLarge)
}

/// A message in a datagram: (octets before it, octets of the head, octets of the
/// message). What lies behind it is dropped (RFC 3261 section 18.3). On a fault: the
/// octets before it and of the head as far as it was read.
pub fn datagram(octets: &[u8]) -> Result<(usize, usize, usize), (Fault, usize, usize)> {
    let mut skip = 0;
    while octets.get(skip..skip + CRLF_OCTETS) == Some(b"\r\n") {
        skip += CRLF_OCTETS;
    }
    let octets = octets.get(skip..).unwrap_or_default();
    let mut scan = Scan::default();
    let head = match scan.head_end(octets) {
        Ok(Some(head)) => head,
        Ok(None) => return Err((Fault::NoEnd, skip, octets.len())),
        Err(fault) => return Err((fault, skip, scan.at.min(octets.len()))),
    };
    let len = match content_length(octets.get(..head).unwrap_or_default()) {
        Ok(None) => octets.len(),
        Ok(Some(body)) if body <= octets.len() - head => head + body,
        Ok(Some(_)) => return Err((Fault::BodyShort, skip, head)),
        Err(fault) => return Err((fault, skip, head)),
    };
    Ok((skip, head, len))
}

/// Looks for the empty line, and for limits on the way to it.
#[derive(Clone, Debug, Default)]
struct Scan {
    /// Octets looked at.
    at: usize,
    /// Where the current line begins.
    line: usize,
    /// Lines that ended, the start-line among them.
    lines: usize,
    /// Where the current header field begins, its folded lines included.
    field: usize,
}

impl Scan {
    fn head_end(&mut self, octets: &[u8]) -> Result<Option<usize>, Fault> {
        while let Some(rest) = octets.get(self.at..) {
            let Some(found) = rest.iter().position(|c| matches!(c, b'\r' | b'\n')) else {
                self.at = octets.len();
                break;
            };
            let end = self.at + found;
            match octets.get(end..end + CRLF_OCTETS) {
                Some(b"\r\n") => {}
                None if octets.get(end) == Some(&b'\r') => {
                    // The LF may be in the next read.
                    self.at = end;
                    break;
                }
                _ => {
                    self.at = end;
                    return Err(Fault::BareLineEnd);
                }
            }
            let is_empty = end == self.line;
            self.at = end + CRLF_OCTETS;
            self.check_field(octets, end)?;
            self.line = self.at;
            if is_empty {
                return Ok(Some(self.at));
            }
            self.lines += 1;
            if self.lines > SIP_HEADER_LINES_MAX + 1 {
                return Err(Fault::TooManyHeaders);
            }
        }
        self.check_field(octets, self.at)?;
        Ok(None)
    }

    /// Holds the line that reaches to `end`, with the ones it continues, to the limits.
    fn check_field(&mut self, octets: &[u8], end: usize) -> Result<(), Fault> {
        if self.lines == 0 {
            return if end > SIP_START_LINE_OCTETS_MAX { Err(Fault::StartLineTooLong) } else { Ok(()) };
        }
        if !matches!(octets.get(self.line), Some(b' ' | b'\t')) {
            self.field = self.line;
        }
        let length = end - self.field;
        if length > SIP_HEADER_OCTETS_MAX && length > field_octets_max(octets.get(self.field..).unwrap_or_default()) {
            return Err(Fault::HeaderTooLong);
        }
        if end > SIP_START_LINE_OCTETS_MAX + SIP_HEADERS_OCTETS_MAX {
            return Err(Fault::HeadersTooLong);
        }
        Ok(())
    }
}

/// How many octets the header field may have that begins here. COMPAT: Lync and its
/// forerunners put the first message of an IM session into one.
fn field_octets_max(field: &[u8]) -> usize {
    let name = field.split(|octet| *octet == b':').next().unwrap_or_default().trim_ascii_end();
    let is_first_message = [b"ms-text-format".as_slice(), b"ms-im-format"].iter().any(|n| name.eq_ignore_ascii_case(n));
    if is_first_message { SIP_FIRST_MESSAGE_HEADER_OCTETS_MAX } else { SIP_HEADER_OCTETS_MAX }
}

/// The Content-Length of a whole head, in any spelling the parser would take.
fn content_length(head: &[u8]) -> Result<Option<usize>, Fault> {
    let mut found: Option<usize> = None;
    let mut rest = head;
    while let Some(end) = rest.iter().position(|c| *c == b'\n') {
        let (line, after) = rest.split_at(end + 1);
        rest = after;
        let Some(colon) = line.iter().position(|c| *c == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let name = name.trim_ascii_end();
        if !name.eq_ignore_ascii_case(b"content-length") && !name.eq_ignore_ascii_case(b"l") {
            continue;
        }
        let folded = folded_len(rest);
        let continuation = rest.get(..folded).unwrap_or_default();
        let length = number(value.iter().skip(1).chain(continuation).copied()).ok_or(Fault::ContentLengthBad)?;
        if found.is_some_and(|other| other != length) {
            return Err(Fault::ContentLengthDiffers);
        }
        found = Some(length);
    }
    Ok(found)
}

/// How many octets at the start of `rest` continue the line before.
fn folded_len(rest: &[u8]) -> usize {
    let mut len = 0;
    while let Some(line @ [b' ' | b'\t', ..]) = rest.get(len..) {
        len += line.iter().position(|c| *c == b'\n').map_or(line.len(), |end| end + 1);
    }
    len
}

/// Digits with white space around them and nothing else.
fn number(octets: impl Iterator<Item = u8>) -> Option<usize> {
    let mut value: Option<usize> = None;
    let mut ended = false;
    for octet in octets {
        match octet {
            b'0'..=b'9' if !ended => {
                let digit = usize::from(octet - b'0');
                value = Some(value.unwrap_or_default().saturating_mul(10).saturating_add(digit));
            }
            b' ' | b'\t' | b'\r' | b'\n' => ended = value.is_some(),
            _ => return None,
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: &str, body: &str) -> Vec<u8> {
        format!("OPTIONS sip:a SIP/2.0\r\nVia: x\r\n{length}\r\n{body}").into_bytes()
    }

    /// What a stream yields when it is cut at `cuts`.
    fn frames(octets: &[u8], cuts: &[usize]) -> Vec<Frame> {
        let (mut framer, mut used, mut found) = (Framer::default(), 0, Vec::new());
        for &cut in cuts.iter().chain(&[octets.len()]) {
            loop {
                let frame = framer.next(&octets[used..cut]);
                match frame {
                    Frame::Partial => break,
                    Frame::Pong | Frame::Ping => used += CRLF_OCTETS,
                    Frame::Message { len, .. } => used += len,
                    Frame::Broken { .. } => {}
                }
                found.push(frame);
                if matches!(frame, Frame::Broken { .. }) {
                    return found;
                }
            }
        }
        found
    }

    #[test]
    fn content_length_decides_in_every_spelling() {
        for length in ["Content-Length: 3\r\n", "l:3\r\n", "L \t:\r\n  003\r\n", "CONTENT-LENGTH:3 \r\n \r\n"] {
            let octets = message(length, "abcOPTIONS");
            let head = octets.len() - 10;
            assert_eq!(Framer::default().next(&octets), Frame::Message { head, len: head + 3 }, "{length}");
        }
    }

    #[test]
    fn a_length_nobody_can_trust_breaks_the_stream() {
        for (length, fault) in [
            ("", Fault::Missing("Content-Length")),
            ("l: -1\r\n", Fault::ContentLengthBad),
            ("l: +1\r\n", Fault::ContentLengthBad),
            ("l: 0x4\r\n", Fault::ContentLengthBad),
            ("l: 4.0\r\n", Fault::ContentLengthBad),
            ("l: 4, 4\r\n", Fault::ContentLengthBad),
            ("l: 1\r\n 2\r\n", Fault::ContentLengthBad),
            ("l:\r\n", Fault::ContentLengthBad),
            ("l: 4294967300\r\n", Fault::TooLarge),
            ("l: 99999999999999999999999999999\r\n", Fault::TooLarge),
            ("l: 4\r\nContent-Length: 5\r\n", Fault::ContentLengthDiffers),
        ] {
            let octets = message(length, "abcd");
            let head = octets.len() - 4;
            assert_eq!(Framer::default().next(&octets), Frame::Broken { fault, head }, "{length}");
        }
    }

    #[test]
    fn a_bare_line_end_breaks_the_stream() {
        for text in ["OPTIONS\n\n", "OPTIONS\r\r\n", "A\r\nb: c\nd: e\r\n\r\n", "A\r\nb: c\rd\r\n\r\n", "\nOPTIONS"] {
            let frame = Framer::default().next(text.as_bytes());
            assert!(matches!(frame, Frame::Broken { fault: Fault::BareLineEnd, .. }), "{text:?} {frame:?}");
        }
    }

    #[test]
    fn two_crlf_are_a_ping_and_one_is_a_pong_however_they_are_cut() {
        let mut octets = b"\r\n\r\n\r\n".to_vec();
        octets.extend(message("l: 1\r\n", "x\r\n\r\n"));
        let whole = frames(&octets, &[]);
        let kinds: Vec<_> = whole.iter().map(|f| matches!(f, Frame::Message { .. })).collect();
        assert_eq!(whole[..3], [Frame::Pong, Frame::Ping, Frame::Pong]);
        assert_eq!(kinds, [false, false, false, true, false, false]);
        assert_eq!(whole[4..], [Frame::Pong, Frame::Ping]);
        let every: Vec<usize> = (0..octets.len()).collect();
        assert_eq!(frames(&octets, &every), whole);
    }

    #[test]
    fn a_line_that_never_ends_is_refused_at_the_limit() {
        let start = vec![b'a'; SIP_START_LINE_OCTETS_MAX + 1];
        assert!(matches!(Framer::default().next(&start), Frame::Broken { fault: Fault::StartLineTooLong, .. }));
        let mut header = b"OPTIONS sip:a SIP/2.0\r\nx: ".to_vec();
        header.resize(header.len() + SIP_HEADER_OCTETS_MAX, b'a');
        assert!(matches!(Framer::default().next(&header), Frame::Broken { fault: Fault::HeaderTooLong, .. }));
        let first = |octets: usize, name: &str| {
            let field = format!("{name}: {}", "a".repeat(octets - name.len() - 2));
            format!("INVITE sip:a SIP/2.0\r\n{field}\r\nl: 0\r\n\r\n").into_bytes()
        };
        for name in ["ms-im-format", "Ms-Text-Format", "MS-IM-FORMAT "] {
            let most = first(SIP_FIRST_MESSAGE_HEADER_OCTETS_MAX, name);
            assert_eq!(Framer::default().next(&most), Frame::Message { head: most.len(), len: most.len() });
            let more = first(SIP_FIRST_MESSAGE_HEADER_OCTETS_MAX + 1, name);
            assert!(matches!(Framer::default().next(&more), Frame::Broken { fault: Fault::HeaderTooLong, .. }));
            let cuts: Vec<usize> = (0..most.len()).step_by(1000).collect();
            assert_eq!(frames(&most, &cuts), [Frame::Message { head: most.len(), len: most.len() }]);
        }
        let other = first(SIP_FIRST_MESSAGE_HEADER_OCTETS_MAX, "ms-im-formats");
        assert!(matches!(Framer::default().next(&other), Frame::Broken { fault: Fault::HeaderTooLong, .. }));
        let mut folded = b"OPTIONS sip:a SIP/2.0\r\nx: ".to_vec();
        while folded.len() < 2 * SIP_HEADER_OCTETS_MAX {
            folded.extend(b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n ");
        }
        assert!(matches!(Framer::default().next(&folded), Frame::Broken { fault: Fault::HeaderTooLong, .. }));
        let mut many = b"OPTIONS sip:a SIP/2.0\r\n".to_vec();
        for _ in 0..=SIP_HEADER_LINES_MAX {
            many.extend(b"x: y\r\n");
        }
        assert!(matches!(Framer::default().next(&many), Frame::Broken { fault: Fault::TooManyHeaders, .. }));
    }

    #[test]
    fn a_datagram_is_cut_to_its_content_length_and_may_do_without() {
        let octets = message("l: 3\r\n", "abcdef");
        let head = octets.len() - 6;
        assert_eq!(datagram(&octets), Ok((0, head, head + 3)));
        let octets = message("", "abcdef");
        assert_eq!(datagram(&octets), Ok((0, octets.len() - 6, octets.len())));
        let octets = message("l: 7\r\n", "abcdef");
        assert_eq!(datagram(&octets), Err((Fault::BodyShort, 0, octets.len() - 6)));
        assert_eq!(datagram(b"\r\n\r\nOPTIONS"), Err((Fault::NoEnd, 4, 7)));
        assert_eq!(datagram(b"\r\n\r\n"), Err((Fault::NoEnd, 4, 0)));
    }
}
