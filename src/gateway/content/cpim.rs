//! message/cpim (RFC 3862): header fields about a message around the message itself,
//! and the requests for notifications of RFC 5438 in them.
//!
//! From and To are not read: who sent a message is what the SIP connection proved.

use super::mime::{self, split_headers};
use super::{Body, NotificationRequest, Refusal, Text, date};
use crate::base::text::is_xml_char;

/// The namespace of notification headers (RFC 5438 section 6.2).
const IMDN_NAMESPACE: &str = "urn:ietf:params:imdn";

/// Header fields of the core namespace; their names are case-sensitive.
const CORE: [&str; 7] = ["From", "To", "cc", "DateTime", "Subject", "NS", "Require"];

/// Reads the header fields into `out` and gives the part they are about.
pub(super) fn open<'a>(octets: &'a [u8], out: &mut Text) -> Result<Body<'a>, Refusal> {
    let (headers, content) = split_headers(octets)?;
    if content.is_empty() {
        // No empty line, or no message behind it.
        return Err(Refusal::Malformed);
    }
    let mut imdn_prefix = None;
    let mut subject: Option<(bool, &str)> = None;
    for (name, value) in mime::fields(headers) {
        match name {
            "DateTime" => out.sent = date::parse_stamp(value),
            "Subject" => {
                let (is_default, text) = match value.strip_prefix(';') {
                    Some(rest) => (false, rest.split_once(' ').map_or("", |(_, text)| text)),
                    None => (true, value),
                };
                // One without a language goes before those that have one.
                if subject.is_none_or(|(was_default, _)| is_default && !was_default) {
                    subject = Some((is_default, text));
                }
            }
            "NS" => {
                let (prefix, namespace) = value.split_once(' ').unwrap_or(("", value));
                if namespace.trim().trim_matches(['<', '>']) == IMDN_NAMESPACE {
                    imdn_prefix = Some(prefix);
                }
            }
            "Require" => check_required(value, imdn_prefix)?,
            _ => {
                if let Some((prefix, name)) = name.split_once('.')
                    && Some(prefix) == imdn_prefix
                {
                    read_imdn(name, value, &mut out.notification);
                }
            }
        }
    }
    if let Some((_, text)) = subject {
        out.subject.clear();
        unescape(text, &mut out.subject);
    }
    mime::part(content)
}

/// Refuses a message that requires a header field we do not know (RFC 3862 section 3).
fn check_required(names: &str, imdn_prefix: Option<&str>) -> Result<(), Refusal> {
    let is_known = |name: &str| {
        CORE.contains(&name) || name.split_once('.').is_some_and(|(prefix, _)| Some(prefix) == imdn_prefix)
    };
    let mut names = names.split(',').map(str::trim);
    if names.all(|name| name.is_empty() || is_known(name)) { Ok(()) } else { Err(Refusal::Required) }
}

/// Longest message id that is told back, in octets.
const MESSAGE_ID_OCTETS_MAX: usize = 128;

fn read_imdn(name: &str, value: &str, request: &mut NotificationRequest) {
    match name {
        "Message-ID" if value.len() <= MESSAGE_ID_OCTETS_MAX => {
            request.message_id.clear();
            unescape(value, &mut request.message_id);
        }
        "Disposition-Notification" => {
            for wanted in value.split(',') {
                match wanted.split(';').next().unwrap_or_default().trim() {
                    "positive-delivery" => request.positive_delivery = true,
                    "negative-delivery" => request.negative_delivery = true,
                    "display" => request.display = true,
                    "processing" => request.processing = true,
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// Appends a header value, its escapes undone (RFC 3862 section 2.3.1), as one line.
fn unescape(value: &str, out: &mut String) {
    let mut rest = value;
    while let Some((before, behind)) = rest.split_once('\\') {
        push_line(before, out);
        let mut chars = behind.chars();
        let escaped = match chars.next() {
            Some('t' | 'n' | 'r') => ' ',
            Some('u') => {
                let (c, rest) = numbered(chars.as_str());
                chars = rest.chars();
                c
            }
            Some(c) => c,
            None => '\\',
        };
        push_line(escaped.encode_utf8(&mut [0; 4]), out);
        rest = chars.as_str();
    }
    push_line(rest, out);
}

/// The character behind a `\u`, and what is behind it. Beyond U+FFFF it has two.
fn numbered(text: &str) -> (char, &str) {
    let half = |text: &str| {
        let digits = text.get(..4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        u16::from_str_radix(digits, 16).ok()
    };
    let Some((high, rest)) = half(text).zip(text.get(4..)) else { return (char::REPLACEMENT_CHARACTER, text) };
    if let Some(c) = char::from_u32(high.into()) {
        return (c, rest);
    }
    let pair = rest.strip_prefix("\\u").and_then(|low| Some(([high, half(low)?], low.get(4..)?)));
    match pair.and_then(|(pair, rest)| Some((char::decode_utf16(pair).next()?.ok()?, rest))) {
        Some(whole) => whole,
        None => (char::REPLACEMENT_CHARACTER, rest),
    }
}

fn push_line(text: &str, out: &mut String) {
    out.extend(text.chars().map(|c| match c {
        c if c.is_control() => ' ',
        c if is_xml_char(c) => c,
        _ => char::REPLACEMENT_CHARACTER,
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Wall;

    fn opened(source: &str) -> Result<(Text, String), Refusal> {
        let mut out = Text::default();
        let body = open(source.as_bytes(), &mut out)?;
        let content = format!("{} {}", body.content_type.unwrap_or("-"), String::from_utf8_lossy(body.octets));
        Ok((out, content))
    }

    #[test]
    fn what_holds_no_message_is_malformed() {
        for octets in ["no header field at all", "From: <sip:a@b.example>\r\n", "From: <sip:a@b.example>\r\n\r\n"] {
            let refusal = open(octets.as_bytes(), &mut Text::default()).err();
            assert_eq!(refusal, Some(Refusal::Malformed), "{octets}");
        }
    }

    #[test]
    fn req_im_10_the_message_is_taken_out_of_its_wrapping() {
        let (out, content) = opened(
            "From: MK <im:marta@voip.example>\r\nTo: Lena <im:lena@chat.example>\r\nDateTime: 2031-03-01T08:00:00Z\r\n\
             Subject:;lang=de Nicht dies\r\nSubject: Bericht\r\n\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nAnhang",
        )
        .expect("a message");
        assert_eq!(out.subject, "Bericht");
        assert_eq!(out.sent, Wall::from_civil(2031, 3, 1, 8, 0, 0));
        assert_eq!(content, "text/plain; charset=utf-8 Anhang");
    }

    #[test]
    fn req_im_11_an_unknown_header_is_passed_over_unless_required() {
        assert!(opened("X.Y: z\n\n\nhi").is_ok());
        assert!(opened("Require: DateTime,Subject\n\n\nhi").is_ok());
        assert_eq!(opened("NS: X <urn:x>\nRequire: X.Y\n\n\nhi").err(), Some(Refusal::Required));
        assert_eq!(opened("Require: subject\n\n\nhi").err(), Some(Refusal::Required));
    }

    #[test]
    fn req_im_12_escapes_in_a_value_come_undone_on_one_line() {
        let (out, _) = opened("Subject: a\\tb\\u00fc\\\\c\\\"\\r\\nd\\u0000\\uZZ\\\n\n\n").expect("a message");
        assert_eq!(out.subject, "a bü\\c\"  d \u{FFFD}ZZ\\");
        let subject = |text: &str| opened(&format!("Subject: {text}\n\n\n.")).expect("a message").0.subject;
        assert_eq!(subject("\\ud83c\\udf0b!\\ud83c\\u00fc\\udf0b\\ud83c"), "🌋!\u{FFFD}ü\u{FFFD}\u{FFFD}");
        assert_eq!(subject("\\u+12f\\ud83c\\uZZ\\ud83cx"), "\u{FFFD}+12f\u{FFFD}\u{FFFD}ZZ\u{FFFD}x");
        assert_eq!(subject("a\\uübc \\u12"), "a\u{FFFD}übc \u{FFFD}12");
    }

    #[test]
    fn req_im_21_a_request_for_notifications_is_read_under_any_prefix() {
        let (out, _) = opened(
            "NS: n <urn:ietf:params:imdn>\nn.Message-ID: 34jk324j\nimdn.Message-ID: other\n\
             n.Disposition-Notification: positive-delivery, negative-delivery;x=y, display\n\n\nhi",
        )
        .expect("a message");
        let request = out.notification;
        assert_eq!(request.message_id, "34jk324j");
        assert!(request.positive_delivery && request.negative_delivery && request.display && !request.processing);
    }
}
