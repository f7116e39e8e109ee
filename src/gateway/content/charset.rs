//! Octets to text, by their charset (REQ-7572-23). What comes out is what a stanza may
//! carry: LF line ends, and U+FFFD in the place of all that XML 1.0 has no room for.

use super::Refusal;
use super::codepage::CodePage;
use crate::base::text::is_xml_char;

/// A charset we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charset {
    /// Also for US-ASCII, which many name and few keep to.
    Utf8,
    Latin1,
    Latin9,
    /// One of the code pages of Windows.
    Page(CodePage),
    /// By its byte order mark; big endian without one (RFC 2781 section 4.3).
    Utf16,
    Utf16Be,
    Utf16Le,
}

impl Charset {
    /// The charset of that name; UTF-8 when none is given.
    pub(super) fn named(name: Option<&str>) -> Result<Self, Refusal> {
        const NAMES: &[(&str, Charset)] = &[
            ("utf-8", Charset::Utf8),
            ("utf8", Charset::Utf8),
            ("us-ascii", Charset::Utf8),
            ("ascii", Charset::Utf8),
            ("ansi_x3.4-1968", Charset::Utf8),
            ("iso-8859-1", Charset::Latin1),
            ("iso8859-1", Charset::Latin1),
            ("iso_8859-1", Charset::Latin1),
            ("latin1", Charset::Latin1),
            ("l1", Charset::Latin1),
            ("iso-8859-15", Charset::Latin9),
            ("iso8859-15", Charset::Latin9),
            ("iso_8859-15", Charset::Latin9),
            ("latin-9", Charset::Latin9),
            ("latin9", Charset::Latin9),
            ("utf-16", Charset::Utf16),
            ("utf-16be", Charset::Utf16Be),
            ("utf-16le", Charset::Utf16Le),
        ];
        let Some(name) = name else { return Ok(Self::Utf8) };
        let name = name.trim();
        let known = NAMES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, charset)| *charset);
        known.or_else(|| code_page(name).map(Self::Page)).ok_or(Refusal::Charset)
    }

    /// Appends the text of `octets`. What is not of the charset becomes U+FFFD; when
    /// that is most of it, nothing was understood.
    pub(super) fn decode(self, octets: &[u8], out: &mut String) -> Result<(), Refusal> {
        if self == Self::Utf8
            && is_plain(octets)
            && let Ok(text) = core::str::from_utf8(octets)
        {
            out.push_str(text);
            return Ok(());
        }
        let mut sink = Sink { out, last_was_return: false, characters: 0, replaced: 0 };
        match self {
            Self::Utf8 => {
                let octets = octets.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(octets);
                for chunk in octets.utf8_chunks() {
                    chunk.valid().chars().for_each(|c| sink.push(c));
                    if !chunk.invalid().is_empty() {
                        sink.replace();
                    }
                }
            }
            Self::Latin1 => octets.iter().for_each(|octet| sink.push(char::from(*octet))),
            Self::Latin9 => octets.iter().for_each(|octet| sink.push(latin9(*octet))),
            Self::Page(page) => octets.iter().for_each(|octet| match page.character(*octet) {
                Some(c) => sink.push(c),
                None => sink.replace(),
            }),
            Self::Utf16 => match octets {
                [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes, &mut sink),
                [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes, &mut sink),
                _ => utf16(octets, u16::from_be_bytes, &mut sink),
            },
            Self::Utf16Be => utf16(octets, u16::from_be_bytes, &mut sink),
            Self::Utf16Le => utf16(octets, u16::from_le_bytes, &mut sink),
        }
        if sink.replaced * 2 > sink.characters { Err(Refusal::Malformed) } else { Ok(()) }
    }
}

/// The code page that is named `windows-1252` or `cp1252`.
fn code_page(name: &str) -> Option<CodePage> {
    let number = ["windows-", "cp"].iter().find_map(|prefix| {
        let start = name.get(..prefix.len())?;
        start.eq_ignore_ascii_case(prefix).then(|| name.get(prefix.len()..))?
    })?;
    let is_number = (3..=5).contains(&number.len()) && number.bytes().all(|octet| octet.is_ascii_digit());
    CodePage::numbered(number.parse().ok().filter(|_| is_number)?)
}

/// Is there nothing in UTF-8 text that would have to change? Nearly all text is so.
fn is_plain(octets: &[u8]) -> bool {
    // 0xEF begins the byte order mark and the two characters that XML leaves out.
    octets.iter().all(|octet| matches!(octet, b' '..=0xEE | 0xF0.. | b'\n' | b'\t'))
}

/// Where characters go: line ends made LF, illegal ones replaced.
struct Sink<'a> {
    out: &'a mut String,
    last_was_return: bool,
    characters: usize,
    /// Those that were not of the charset.
    replaced: usize,
}

impl Sink<'_> {
    fn push(&mut self, c: char) {
        self.characters += 1;
        let completes = c == '\n' && self.last_was_return;
        self.last_was_return = c == '\r';
        match c {
            _ if completes => {}
            '\r' => self.out.push('\n'),
            c if is_xml_char(c) => self.out.push(c),
            _ => self.out.push(char::REPLACEMENT_CHARACTER),
        }
    }

    fn replace(&mut self) {
        self.push(char::REPLACEMENT_CHARACTER);
        self.replaced += 1;
    }
}

fn utf16(octets: &[u8], unit: impl Fn([u8; 2]) -> u16, sink: &mut Sink<'_>) {
    let (pairs, rest) = octets.as_chunks::<2>();
    for decoded in char::decode_utf16(pairs.iter().map(|pair| unit(*pair))) {
        match decoded {
            Ok(c) => sink.push(c),
            Err(_) => sink.replace(),
        }
    }
    if !rest.is_empty() {
        sink.replace();
    }
}

const fn latin9(octet: u8) -> char {
    match octet {
        0xA4 => '\u{20AC}',
        0xA6 => '\u{160}',
        0xA8 => '\u{161}',
        0xB4 => '\u{17D}',
        0xB8 => '\u{17E}',
        0xBC => '\u{152}',
        0xBD => '\u{153}',
        0xBE => '\u{178}',
        octet => octet as char,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(charset: &str, octets: &[u8]) -> Result<String, Refusal> {
        let mut out = String::new();
        Charset::named(Some(charset))?.decode(octets, &mut out).map(|()| out)
    }

    #[test]
    fn req_7572_23_charsets_are_converted() {
        assert_eq!(text("UTF-8", "\u{FEFF}Grüße".as_bytes()).as_deref(), Ok("Grüße"));
        assert_eq!(text("iso-8859-1", b"Gr\xFC\xDFe").as_deref(), Ok("Grüße"));
        assert_eq!(text("ISO-8859-15", b"5 \xA4 \xBD").as_deref(), Ok("5 € œ"));
        assert_eq!(text("windows-1252", b"\x93x\x94 \x80").as_deref(), Ok("\u{201C}x\u{201D} €"));
        assert_eq!(text("Windows-1251", b"\xCC\xEE\xF1\xF2").as_deref(), Ok("Мост"));
        assert_eq!(text("CP1250", b"\xF8eka").as_deref(), Ok("řeka"));
        assert_eq!(text("windows-932", b"x"), Err(Refusal::Charset));
        assert_eq!(text("cp+1252", b"x"), Err(Refusal::Charset));
        assert_eq!(text("utf-16", b"\xFF\xFEx\0=\xD8\0\xDE").as_deref(), Ok("x😀"));
        assert_eq!(text("utf-16", b"\xFE\xFF\0x").as_deref(), Ok("x"));
        assert_eq!(text("utf-16be", b"\0x").as_deref(), Ok("x"));
        assert_eq!(text("utf-16le", b"x\0").as_deref(), Ok("x"));
        assert_eq!(text("koi8-r", b"x"), Err(Refusal::Charset));
    }

    #[test]
    fn req_7572_23_what_xml_cannot_carry_is_replaced() {
        assert_eq!(text("utf-8", b"a\0b\x1Bc\xFFd\t").as_deref(), Ok("a\u{FFFD}b\u{FFFD}c\u{FFFD}d\t"));
        assert_eq!(text("utf-16le", b"a\0\0\xD8b\0\xFF\xFFc\0d\0e").as_deref(), Ok("a\u{FFFD}b\u{FFFD}cd\u{FFFD}"));
        assert_eq!(text("windows-1252", b"a\x81").as_deref(), Ok("a\u{FFFD}"));
    }

    #[test]
    fn req_7572_23_what_is_not_understood_at_all_is_refused() {
        assert_eq!(text("utf-8", b"\xFF\xFE\xFDa"), Err(Refusal::Malformed));
        assert_eq!(text("utf-8", b"").as_deref(), Ok(""));
    }

    #[test]
    fn line_ends_become_one_octet() {
        assert_eq!(text("utf-8", b"a\r\nb\rc\nd\r\r\n").as_deref(), Ok("a\nb\nc\nd\n\n"));
    }
}
