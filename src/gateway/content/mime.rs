//! MIME as far as a message body needs it: type and parameters, header fields of a
//! part, transfer encodings, and where the parts of a multipart lie (RFC 2045, 2046).

use super::{Body, Refusal};
use crate::base::text::hex_value;
use base64ct::{Base64, Encoding};
use std::borrow::Cow;

/// Most parts of one multipart.
const PARTS_MAX: usize = 16;
/// Longest boundary, in octets (RFC 2046 section 5.1.1).
const BOUNDARY_OCTETS_MAX: usize = 70;
/// All header fields of one part, in octets.
const HEADERS_OCTETS_MAX: usize = 4096;

/// A value with parameters, such as Content-Type and Content-Disposition have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    /// What stands before the first `;`.
    pub(super) main: &'a str,
    rest: &'a str,
}

impl<'a> Value<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let (main, rest) = text.split_once(';').unwrap_or((text, ""));
        Self { main: main.trim(), rest }
    }

    /// Is it this type, `*` standing for any subtype?
    pub(super) fn is(&self, wanted: &str) -> bool {
        // SIP allows blanks around the stroke (RFC 3261 section 25.1, SLASH).
        let (kind, subtype) = self.main.split_once('/').unwrap_or((self.main, ""));
        let (wanted_kind, wanted_subtype) = wanted.split_once('/').unwrap_or((wanted, ""));
        kind.trim_end().eq_ignore_ascii_case(wanted_kind)
            && (wanted_subtype == "*" || subtype.trim_start().eq_ignore_ascii_case(wanted_subtype))
    }

    /// The value of a parameter, its quotes undone.
    pub(super) fn parameter(&self, name: &str) -> Option<Cow<'a, str>> {
        let mut rest = self.rest;
        while !rest.is_empty() {
            let (key, behind) = match rest.find(['=', ';']) {
                Some(at) if rest.as_bytes().get(at) == Some(&b'=') => (rest.get(..at)?, rest.get(at + 1..)?),
                Some(at) => {
                    rest = rest.get(at + 1..)?;
                    continue;
                }
                None => return None,
            };
            let behind = behind.trim_start();
            let (value, next) = match behind.strip_prefix('"') {
                Some(quoted) => {
                    let (value, next) = unquoted(quoted)?;
                    (value, next.split_once(';').map_or("", |(_, next)| next))
                }
                None => {
                    let (value, next) = behind.split_once(';').unwrap_or((behind, ""));
                    (value.trim().into(), next)
                }
            };
            if key.trim().eq_ignore_ascii_case(name) {
                return Some(value);
            }
            rest = next;
        }
        None
    }
}

/// The text of a quoted string whose first quote is gone, and what is behind it.
fn unquoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut escaped = false;
    let mut has_escapes = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => (escaped, has_escapes) = (true, true),
            '"' => {
                let (value, next) = (text.get(..at)?, text.get(at + 1..)?);
                return Some(if has_escapes {
                    (without_backslashes(value).into(), next)
                } else {
                    (value.into(), next)
                });
            }
            _ => {}
        }
    }
    None
}

fn without_backslashes(text: &str) -> String {
    let mut escaped = false;
    text.chars()
        .filter(|c| {
            escaped = *c == '\\' && !escaped;
            !escaped
        })
        .collect()
}

/// Splits header fields from what follows the first empty line. Octets without an
/// empty line are all header fields.
pub(super) fn split_headers(octets: &[u8]) -> Result<(&str, &[u8]), Refusal> {
    let mut end = 0;
    let (headers, body) = loop {
        let rest = octets.get(end..).unwrap_or_default();
        if end > HEADERS_OCTETS_MAX {
            return Err(Refusal::TooLarge);
        }
        match rest {
            [b'\n', body @ ..] | [b'\r', b'\n', body @ ..] => break (octets.get(..end).unwrap_or_default(), body),
            _ => {}
        }
        match rest.iter().position(|octet| *octet == b'\n') {
            Some(at) => end += at + 1,
            None => break (octets, &[][..]),
        }
    };
    if headers.len() > HEADERS_OCTETS_MAX {
        return Err(Refusal::TooLarge);
    }
    core::str::from_utf8(headers).map(|headers| (headers, body)).map_err(|_| Refusal::Malformed)
}

/// The header fields of a part: name and value, the lines of a folded one still apart.
pub(super) fn fields(headers: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = headers;
    core::iter::from_fn(move || {
        loop {
            let mut end = 0;
            // A line that begins with a blank belongs to the one before it.
            loop {
                let line = rest.get(end..)?;
                match line.find('\n') {
                    Some(at) => end += at + 1,
                    None => end = rest.len(),
                }
                if !rest.get(end..)?.starts_with([' ', '\t']) {
                    break;
                }
            }
            if end == 0 {
                return None;
            }
            let (field, behind) = rest.split_at_checked(end)?;
            rest = behind;
            if let Some((name, value)) = field.split_once(':') {
                return Some((name.trim(), value.trim()));
            }
        }
    })
}

/// A part as its header fields describe it.
pub(super) fn part<'a>(octets: &'a [u8]) -> Result<Body<'a>, Refusal> {
    let (headers, octets) = split_headers(octets)?;
    let mut body = Body { octets, ..Body::default() };
    for (name, value) in fields(headers) {
        let place = match name {
            n if n.eq_ignore_ascii_case("Content-Type") => &mut body.content_type,
            n if n.eq_ignore_ascii_case("Content-Transfer-Encoding") => &mut body.transfer_encoding,
            n if n.eq_ignore_ascii_case("Content-Disposition") => &mut body.disposition,
            n if n.eq_ignore_ascii_case("Content-Encoding") => &mut body.content_encoding,
            _ => continue,
        };
        // The first one counts, as everywhere.
        place.get_or_insert(value);
    }
    Ok(body)
}

/// Has this part that Content-ID?
pub(super) fn is_identified(octets: &[u8], id: &str) -> bool {
    let bare = |id: &str| id.trim().trim_matches(['<', '>']).to_owned();
    split_headers(octets).is_ok_and(|(headers, _)| {
        fields(headers).any(|(name, value)| name.eq_ignore_ascii_case("Content-ID") && bare(value) == bare(id))
    })
}

/// The parts of a multipart. What stands before the first boundary and behind the last
/// is no part; a multipart that breaks off ends there.
pub(super) fn parts<'a>(octets: &'a [u8], boundary: &str) -> Result<heapless::Vec<&'a [u8], PARTS_MAX>, Refusal> {
    if boundary.is_empty() || boundary.len() > BOUNDARY_OCTETS_MAX {
        return Err(Refusal::Malformed);
    }
    let mut parts = heapless::Vec::new();
    let mut part_start = None;
    let mut line_start = 0;
    while let Some(rest) = octets.get(line_start..).filter(|rest| !rest.is_empty()) {
        let length = rest.iter().position(|octet| *octet == b'\n').map_or(rest.len(), |at| at + 1);
        let line = rest.get(..length).unwrap_or(rest);
        if let Some(is_last) = delimiter(line, boundary) {
            if let Some(start) = part_start {
                parts.push(between(octets, start, line_start)).map_err(|_| Refusal::TooLarge)?;
            }
            part_start = (!is_last).then_some(line_start + length);
            if is_last {
                break;
            }
        }
        line_start += length;
    }
    if let Some(start) = part_start {
        parts.push(octets.get(start..).unwrap_or_default()).map_err(|_| Refusal::TooLarge)?;
    }
    if parts.is_empty() { Err(Refusal::Malformed) } else { Ok(parts) }
}

/// Is this line a delimiter, and if so the closing one?
fn delimiter(line: &[u8], boundary: &str) -> Option<bool> {
    let rest = line.strip_prefix(b"--")?.strip_prefix(boundary.as_bytes())?;
    let (is_last, rest) = match rest.strip_prefix(b"--") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    rest.iter().all(|octet| b" \t\r\n".contains(octet)).then_some(is_last)
}

/// A part without the line end before its delimiter, which belongs to that.
fn between(octets: &[u8], start: usize, end: usize) -> &[u8] {
    let part = octets.get(start..end).unwrap_or_default();
    let part = part.strip_suffix(b"\n").unwrap_or(part);
    part.strip_suffix(b"\r").unwrap_or(part)
}

/// Undoes a transfer encoding.
pub(super) fn transfer_decoded<'a>(body: &Body<'a>) -> Result<Cow<'a, [u8]>, Refusal> {
    let Some(encoding) = body.transfer_encoding.map(str::trim) else { return Ok(body.octets.into()) };
    if ["7bit", "8bit", "binary", "identity"].iter().any(|known| encoding.eq_ignore_ascii_case(known)) {
        Ok(body.octets.into())
    } else if encoding.eq_ignore_ascii_case("base64") {
        base64_decoded(body.octets).map(Cow::from)
    } else if encoding.eq_ignore_ascii_case("quoted-printable") {
        Ok(quoted_printable_decoded(body.octets).into())
    } else {
        Err(Refusal::Type)
    }
}

/// Undoes base64. Blanks in it and padding that is missing are no fault.
pub(super) fn base64_decoded(octets: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut digits: Vec<u8> = octets.iter().copied().filter(|octet| !octet.is_ascii_whitespace()).collect();
    while !digits.len().is_multiple_of(4) {
        digits.push(b'=');
    }
    let text = core::str::from_utf8(&digits).map_err(|_| Refusal::Malformed)?;
    Base64::decode_vec(text).map_err(|_| Refusal::Malformed)
}

/// What is no escape stays as it stands (RFC 2045 section 6.7, the note for robust
/// readers).
fn quoted_printable_decoded(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len());
    let mut rest = octets;
    while let Some((octet, behind)) = rest.split_first() {
        rest = behind;
        if *octet != b'=' {
            out.push(*octet);
        } else if let Some(next_line) = behind_line_end(behind) {
            rest = next_line;
        } else if let [high, low, behind @ ..] = behind
            && let (Some(high), Some(low)) = (hex_value(*high), hex_value(*low))
        {
            out.push(high << 4 | low);
            rest = behind;
        } else {
            out.push(b'=');
        }
    }
    out
}

/// What is behind a line end, and behind the blanks before it, which came in on the way.
fn behind_line_end(octets: &[u8]) -> Option<&[u8]> {
    let blanks = octets.iter().take_while(|octet| b" \t".contains(octet)).count();
    let rest = octets.get(blanks..)?;
    rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_in_either_form() {
        let value = Value::of(r#"multipart/mixed; a="x;y=\"z" ;boundary = r4ja;flag; CHARSET=utf-8"#);
        assert!(value.is("Multipart/Mixed") && value.is("multipart/*") && !value.is("text/*"));
        assert_eq!(value.parameter("A").as_deref(), Some("x;y=\"z"));
        assert_eq!(value.parameter("boundary").as_deref(), Some("r4ja"));
        assert_eq!(value.parameter("charset").as_deref(), Some("utf-8"));
        assert_eq!(value.parameter("flag"), None);
        assert_eq!(Value::of("a/b; x=\"open").parameter("x"), None);
        let value = Value::of("Text\t/ Plain ; boundary=----=_Part_7 (a'b)");
        assert!(value.is("text/plain") && value.is("text/*") && !value.is("text/html") && !value.is("tex/*"));
        assert_eq!(value.parameter("boundary").as_deref(), Some("----=_Part_7 (a'b)"));
    }

    #[test]
    fn a_multipart_is_cut_at_its_delimiter_lines() {
        let body = b"preamble\r\n--b\r\n\r\none\r\n--bb\r\n--b \r\nX: y\n\ntwo\n--b--\r\nepilogue\r\n--b\r\nthree";
        let parts = parts(body, "b").expect("parts");
        assert_eq!(parts.as_slice(), [&b"\r\none\r\n--bb"[..], b"X: y\n\ntwo"]);
    }

    #[test]
    fn a_multipart_that_breaks_off_ends_there() {
        assert_eq!(parts(b"--b\n\none", "b").expect("parts").as_slice(), [b"\none"]);
        assert_eq!(parts(b"none", "b"), Err(Refusal::Malformed));
        assert_eq!(parts(b"--\n", ""), Err(Refusal::Malformed));
        assert_eq!(parts(b"--b\n", &"b".repeat(71)), Err(Refusal::Malformed));
        assert_eq!(parts(&b"--b\n".repeat(18), "b"), Err(Refusal::TooLarge));
    }

    #[test]
    fn header_fields_end_at_the_empty_line_and_may_be_folded() {
        let (headers, body) = split_headers(b"A: 1\r\nB: 2\r\n 3\r\nnoise\r\nC:4\r\n\r\nrest").expect("headers");
        let all: Vec<_> = fields(headers).collect();
        assert_eq!(all, [("A", "1"), ("B", "2\r\n 3"), ("C", "4")]);
        assert_eq!(body, b"rest");
        assert_eq!(split_headers(b"\nrest").expect("no headers"), ("", &b"rest"[..]));
        assert_eq!(split_headers(&b"A: 1\r\n".repeat(1000)), Err(Refusal::TooLarge));
    }

    #[test]
    fn transfer_encodings_come_undone() {
        let decoded = |encoding, octets| {
            transfer_decoded(&Body { transfer_encoding: Some(encoding), octets, ..Body::default() })
                .map(Cow::into_owned)
        };
        assert_eq!(decoded("BASE64", b"R3L8\r\n32U=\r\n"), Ok(b"Gr\xFC\xDFe".to_vec()));
        assert_eq!(decoded("base64", b"R3L832U"), Ok(b"Gr\xFC\xDFe".to_vec()));
        assert_eq!(decoded("base64", b"!!"), Err(Refusal::Malformed));
        assert_eq!(decoded("quoted-printable", b"Gr=FC=\r\n=DFe=3"), Ok(b"Gr\xFC\xDFe=3".to_vec()));
        assert_eq!(decoded("quoted-printable", b"a= \t\r\nb= c=\t"), Ok(b"ab= c=\t".to_vec()));
        assert_eq!(decoded("binary", b"\0\r"), Ok(b"\0\r".to_vec()));
        assert_eq!(decoded("x-uuencode", b""), Err(Refusal::Type));
    }
}
