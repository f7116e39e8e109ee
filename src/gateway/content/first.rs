//! The first message of an IM session, where an INVITE carries it in header fields, as
//! Lync and its forerunners do:
//!
//! ```text
//! ms-text-format: text/plain; charset=UTF-8; ms-body=SGVsbG8=
//! ms-im-format: text/html; charset=UTF-8; ms-body=PEI+SGVsbG88L0I+
//! ```
//!
//! The second field may stand there several times, with the same message in other types.
//! `ms-body` is base64, of which some leave out the padding. Clients of 2007 add a parameter
//! `msgr` with the font, which is passed over.

use super::mime::{self, Value};
use super::{Body, Rank, Refusal, Text, read_part};
use crate::limits::{FIRST_MESSAGE_OCTETS_MAX, SIP_BODY_OCTETS_MAX};

/// Fields of rich text that are looked at.
const FORMATS_MAX: usize = 8;

/// Reads the first message out of the values of `ms-text-format` and of all
/// `ms-im-format` into `out`, which is cleared first. Was there a text? The plain form
/// gives the body and HTML the markup, RTF only what neither has. A form that cannot be
/// read is passed over as long as another one can; if none can, the error is that of the
/// plain form, else of the best one.
pub fn read_first<'a>(
    text_format: Option<&'a str>,
    im_formats: impl Iterator<Item = &'a str>,
    out: &mut Text,
) -> Result<bool, Refusal> {
    out.clear();
    let mut formats: heapless::Vec<(Rank, &str), { FORMATS_MAX + 1 }> = heapless::Vec::new();
    for format in text_format.into_iter().chain(im_formats) {
        // More than we look at say nothing new.
        let _ = formats.push((Rank::of_type(Some(Value::of(format).main)), format));
    }
    let mut refusal = None;
    let mut rich = Text::default();
    for rank in [Rank::Plain, Rank::Rich, Rank::Rtf] {
        for (_, format) in formats.iter().filter(|(of, _)| *of == rank) {
            let text = if rank == Rank::Plain { &mut *out } else { &mut rich };
            match read_format(format, text) {
                Ok(()) if !text.body.is_empty() => break,
                Ok(()) => {}
                Err(why) => refusal = refusal.or(Some(why)),
            }
            text.clear();
        }
        if !rich.body.is_empty() {
            break;
        }
    }
    out.xhtml = rich.xhtml;
    if out.body.is_empty() {
        out.body = rich.body;
    }
    match refusal {
        _ if !out.body.is_empty() => Ok(true),
        Some(why) => Err(why),
        None => Ok(false),
    }
}

fn read_format(format: &str, out: &mut Text) -> Result<(), Refusal> {
    let kind = Value::of(format);
    // Nothing that wraps something else belongs into a header field.
    if !["text/plain", "text/html", "text/rtf", "application/rtf"].iter().any(|known| kind.is(known)) {
        return Err(Refusal::Type);
    }
    let octets_max = if kind.is("text/plain") { SIP_BODY_OCTETS_MAX } else { FIRST_MESSAGE_OCTETS_MAX };
    let body = kind.parameter("ms-body").unwrap_or_default();
    if body.len() > octets_max.div_ceil(3) * 4 {
        return Err(Refusal::TooLarge);
    }
    let octets = mime::base64_decoded(body.as_bytes())?;
    let part = Body { content_type: Some(format), octets: &octets, ..Body::default() };
    read_part(&part, 1, out)?;
    if out.body.len() > SIP_BODY_OCTETS_MAX { Err(Refusal::TooLarge) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64ct::{Base64Unpadded, Encoding};

    fn format(kind: &str, body: &str) -> String {
        format!("{kind}; ms-body={}", Base64Unpadded::encode_string(body.as_bytes()))
    }

    fn first(text: Option<&str>, formats: &[&str]) -> Result<Option<(String, String)>, Refusal> {
        let mut out = Text { body: "of before".into(), ..Text::default() };
        let found = read_first(text, formats.iter().copied(), &mut out)?;
        assert_eq!(found, !out.body.is_empty());
        assert!(found || out == Text::default(), "{out:?}");
        Ok(found.then_some((out.body, out.xhtml)))
    }

    fn both(body: &str, xhtml: &str) -> Result<Option<(String, String)>, Refusal> {
        Ok(Some((body.into(), xhtml.into())))
    }

    #[test]
    fn the_plain_form_is_the_body_and_html_the_markup() {
        let plain = format("text/plain; charset=UTF-8", "Flut um 14:10?");
        let html = format("text/html; charset=UTF-8", "<DIV style=\"direction: ltr\">Flut um <B>14:10</B>?</DIV>");
        let rtf = format("text/rtf; charset=UTF-8", "{\\rtf1\\ansi\\uc1 Flut um \\b\\i 14:10\\b0\\i0 ?\\par\r\n}\r\n");
        let markup = "<p>Flut um <strong>14:10</strong>?</p>";
        assert_eq!(first(Some(&plain), &[&html, &rtf]), both("Flut um 14:10?", markup));
        assert_eq!(first(Some(&plain), &[&rtf, &html]), both("Flut um 14:10?", markup));
        assert_eq!(first(None, &[&rtf, &html]), both("Flut um 14:10?", markup));
        let bold = "Flut um <strong><em>14:10</em></strong>?";
        assert_eq!(first(Some(&plain), &[&rtf]), both("Flut um 14:10?", bold));
        assert_eq!(first(None, &[&rtf]), both("Flut um 14:10?", bold));
        assert_eq!(first(Some(&plain), &[]), both("Flut um 14:10?", ""));
        assert_eq!(first(None, &[]), Ok(None));
    }

    #[test]
    fn clients_of_2007_add_their_font_and_leave_out_the_padding() {
        let font: Vec<u8> =
            "X-MMS-IM-Format: FN=Arial; EF=B; CO=ff".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let font = Base64Unpadded::encode_string(&font);
        let value = format!("Text/Plain; Charset=utf-8;msgr={font};ms-body=RWJiZQ");
        assert_eq!(first(Some(&value), &[]), both("Ebbe", ""));
        assert_eq!(first(Some("text/plain;ms-body=\"RWJi\r\n ZQ==\""), &[]), both("Ebbe", ""));
        assert_eq!(first(Some("text/plain; charset=WINDOWS-1252; MS-BODY=R3L832U="), &[]), both("Gr\u{fc}\u{df}e", ""));
    }

    #[test]
    fn a_form_that_cannot_be_read_leaves_the_others() {
        let html = format("text/html", "<i>Priel</i>");
        let read = both("Priel", "<em>Priel</em>");
        for bad in [
            "text/plain; ms-body=!!!!",
            "text/plain; charset=klingon; ms-body=RWJi",
            "text/plain",
            "text/plain; ms-body=",
            "image/gif; ms-body=RWJi",
            "multipart/alternative; boundary=b; ms-body=RWJi",
            "",
        ] {
            assert_eq!(first(Some(bad), &[&html]), read, "{bad}");
            assert_eq!(first(None, &[bad, "text/rtf; ms-body=RWJi", &html]), read, "{bad}");
        }
        assert_eq!(first(Some("text/plain; ms-body=!!!!"), &["text/rtf; ms-body=RWJi"]), Err(Refusal::Malformed));
        assert_eq!(first(None, &["application/x-ms-ink; ms-body=RWJi"]), Err(Refusal::Type));
        assert_eq!(first(Some("text/plain; ms-body="), &[]), Ok(None));
        assert_eq!(first(None, &[&format("text/html", "<br>")]), Ok(None));
    }

    #[test]
    fn what_is_too_long_is_refused_or_passed_over() {
        let long = |octets: usize| format("text/plain", &"x".repeat(octets));
        assert_eq!(first(Some(&long(SIP_BODY_OCTETS_MAX)), &[]).map(|text| text.is_some()), Ok(true));
        assert_eq!(first(Some(&long(SIP_BODY_OCTETS_MAX + 4)), &[]), Err(Refusal::TooLarge));
        let styled = |octets: usize| format("text/html", &format!("<p style='{}'>Watt</p>", "a".repeat(octets)));
        assert_eq!(first(None, &[&styled(FIRST_MESSAGE_OCTETS_MAX - 30)]), both("Watt", "<p>Watt</p>"));
        let plain = format("text/plain", "Watt");
        assert_eq!(first(Some(&plain), &[&styled(FIRST_MESSAGE_OCTETS_MAX)]), both("Watt", ""));
        assert_eq!(first(None, &[&styled(FIRST_MESSAGE_OCTETS_MAX)]), Err(Refusal::TooLarge));
        let text = format("text/html", &"x".repeat(SIP_BODY_OCTETS_MAX + 1));
        assert_eq!(first(None, &[&text]), Err(Refusal::TooLarge));
        let many = ["text/html; ms-body=!"; 1000];
        assert_eq!(first(None, &many), Err(Refusal::Malformed));
    }
}
