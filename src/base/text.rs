//! Small things done to text: escapes for logs and XML, percent coding, cutting on a
//! character boundary.

use core::fmt;

/// Foreign text for a log line: blanks, quotes, controls, invisible and
/// direction-changing characters are written as `\xNN` or `\u{N}`, so that one event
/// stays one line and cannot steer a terminal; cut at 256 octets.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

const ESCAPED_OCTETS_MAX: usize = 256;

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = cut(self.0, ESCAPED_OCTETS_MAX);
        for c in cut.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '!' | '#'..='[' | ']'..='~' => fmt::Write::write_char(f, c)?,
                c if c.is_ascii() => write!(f, "\\x{:02X}", c as u32)?,
                c if c.is_alphanumeric() => fmt::Write::write_char(f, c)?,
                c => write!(f, "\\u{{{:X}}}", c as u32)?,
            }
        }
        if cut.len() < self.0.len() { f.write_str("...") } else { Ok(()) }
    }
}

/// The same between quotes, with its blanks as they are: for text that people read.
#[derive(Clone, Copy, Debug)]
pub struct Sentence<'a>(pub &'a str);

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = cut(self.0, ESCAPED_OCTETS_MAX);
        f.write_str("\"")?;
        for (at, words) in cut.split(' ').enumerate() {
            write!(f, "{}{}", if at == 0 { "" } else { " " }, Escaped(words))?;
        }
        f.write_str(if cut.len() < self.0.len() { "...\"" } else { "\"" })
    }
}

/// The longest beginning of `text` that has at most `octets` octets and ends with a
/// whole character.
pub fn cut(text: &str, octets: usize) -> &str {
    let mut end = octets.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// May XML 1.0 carry this character (production 2)?
pub const fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}')
}

/// Text as XML character data or an attribute value in either quote; characters XML
/// cannot carry become U+FFFD. A carriage return is written as a reference, else the
/// reader would lose it.
#[derive(Clone, Copy, Debug)]
pub struct XmlEscaped<'a>(pub &'a str);

impl fmt::Display for XmlEscaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut from = 0;
        for (at, c) in self.0.char_indices() {
            let instead = match c {
                '&' => "&amp;",
                '<' => "&lt;",
                '>' => "&gt;",
                '"' => "&quot;",
                '\'' => "&apos;",
                '\r' => "&#xD;",
                c if !is_xml_char(c) => "\u{FFFD}",
                _ => continue,
            };
            f.write_str(&self.0[from..at])?;
            f.write_str(instead)?;
            from = at + c.len_utf8();
        }
        f.write_str(&self.0[from..])
    }
}

/// The two halves of an octet as a hex digit each, upper case.
pub const fn hex_upper(octet: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [DIGITS[(octet >> 4) as usize], DIGITS[(octet & 15) as usize]]
}

/// The value of a hex digit in either case.
pub const fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Octets as lower-case hex text.
pub fn hex_lower(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len() * 2);
    for octet in octets {
        for digit in hex_upper(*octet) {
            text.push(digit.to_ascii_lowercase() as char);
        }
    }
    text
}

/// Undoes percent coding (RFC 3986 section 2.1). `None` if a `%` is not followed by
/// two hex digits.
pub fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(if octet == b'%' { hex_value(rest.next()?)? << 4 | hex_value(rest.next()?)? } else { octet });
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_keeps_its_blanks_and_stays_on_one_line() {
        assert_eq!(Sentence("We meet  at 9.").to_string(), "\"We meet  at 9.\"");
        assert_eq!(Sentence("a\" b\nc").to_string(), "\"a\\x22 b\\x0Ac\"");
        assert_eq!(Sentence("").to_string(), "\"\"");
        let long = Sentence(&"ab ".repeat(200)).to_string();
        assert!(long.len() < 270 && long.ends_with("...\""), "{long}");
    }

    #[test]
    fn a_hostile_name_stays_on_one_line() {
        let hostile = "a b\r\n\u{1b}[2J\u{202E}\"\\\u{7f}ü";
        assert_eq!(Escaped(hostile).to_string(), "a\\x20b\\x0D\\x0A\\x1B[2J\\u{202E}\\x22\\\\\\x7Fü");
        assert!(Escaped(&"x".repeat(100_000)).to_string().len() < 300);
    }

    #[test]
    fn xml_text_cannot_become_markup() {
        assert_eq!(XmlEscaped("<a b='1'>&\0]]>\r").to_string(), "&lt;a b=&apos;1&apos;&gt;&amp;\u{FFFD}]]&gt;&#xD;");
    }

    #[test]
    fn percent_codes_come_undone_or_are_refused() {
        assert_eq!(percent_decode("a%C3%bc%00"), Some(vec![b'a', 0xC3, 0xBC, 0]));
        assert_eq!(percent_decode("%Z1"), None);
        assert_eq!(percent_decode("%4"), None);
    }

    #[test]
    fn cutting_keeps_characters_whole() {
        assert_eq!(cut("aüb", 2), "a");
        assert_eq!(cut("aüb", 3), "aü");
        assert_eq!(cut("ab", 9), "ab");
    }
}
