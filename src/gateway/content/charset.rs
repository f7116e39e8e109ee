//! Octets to text, by their charset (REQ-7572-23). What comes out is what a stanza may
//! carry: LF line ends, and U+FFFD in the place of all that XML 1.0 has no room for.
//!
//! The charsets are those of the Encoding Standard of the WHATWG, with the names it knows
//! them by. It reads ISO-8859-1 as windows-1252 and GB 2312 as GBK, which hold more.

use super::Refusal;
use crate::base::text::is_xml_char;
use encoding_rs as standard;
use encoding_rs::Encoding;

pub(super) use encoding_rs::Decoder;

/// Most octets of text that one octet ends: the characters before it in GB 18030 that turn
/// out to be none, and its own.
const OCTET_TEXT_MAX: usize = 32;

/// A charset we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charset {
    /// One of the standard.
    Standard(&'static Encoding),
    /// UTF-16 that says itself in which order its octets are.
    Utf16,
    /// A code page of DOS: the characters of 0x80 to 0xFF. Below, it is ASCII.
    Oem(&'static str),
}

impl Charset {
    pub(super) const UTF_8: Self = Self::Standard(standard::UTF_8);

    /// The charset of that name; UTF-8 when none is given.
    pub(super) fn named(name: Option<&str>) -> Result<Self, Refusal> {
        // Some put it into quotes that are none here.
        let name = name.unwrap_or_default().trim().trim_matches('\'');
        let is_one_of = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known));
        // US-ASCII is what many name and few keep to.
        if is_one_of(&["", "us-ascii", "ascii", "ansi_x3.4-1968"]) {
            return Ok(Self::UTF_8);
        }
        if is_one_of(&["latin9", "latin-9"]) {
            return Ok(Self::Standard(standard::ISO_8859_15));
        }
        match Encoding::for_label_no_replacement(name.as_bytes()) {
            Some(encoding) if encoding == standard::UTF_16LE && !is_one_of(&["utf-16le"]) => Ok(Self::Utf16),
            // Whose characters are private knows only who wrote them.
            Some(encoding) if encoding != standard::X_USER_DEFINED => Ok(Self::Standard(encoding)),
            _ => page_of_name(name).and_then(Self::numbered).ok_or(Refusal::Charset),
        }
    }

    /// The code page of that number, as `\ansicpg` of RTF gives it.
    pub(super) fn numbered(page: u32) -> Option<Self> {
        Some(Self::Standard(match page {
            437 => return Some(Self::Oem(OEM_437)),
            850 => return Some(Self::Oem(OEM_850)),
            866 => standard::IBM866,
            874 => standard::WINDOWS_874,
            932 | 10_001 => standard::SHIFT_JIS,
            936 | 10_008 => standard::GBK,
            949 | 10_003 => standard::EUC_KR,
            950 | 10_002 => standard::BIG5,
            1250 => standard::WINDOWS_1250,
            1251 => standard::WINDOWS_1251,
            1252 => standard::WINDOWS_1252,
            1253 => standard::WINDOWS_1253,
            1254 => standard::WINDOWS_1254,
            1255 => standard::WINDOWS_1255,
            1256 => standard::WINDOWS_1256,
            1257 => standard::WINDOWS_1257,
            1258 => standard::WINDOWS_1258,
            10_000 => standard::MACINTOSH,
            10_007 => standard::X_MAC_CYRILLIC,
            20_866 => standard::KOI8_R,
            21_866 => standard::KOI8_U,
            54_936 => standard::GB18030,
            65_001 => standard::UTF_8,
            _ => return None,
        }))
    }

    /// Appends the text of `octets`. What is not of the charset becomes U+FFFD; when
    /// that is most of it, nothing was understood.
    pub(super) fn decode(self, octets: &[u8], out: &mut String) -> Result<(), Refusal> {
        if self == Self::UTF_8
            && is_plain(octets)
            && let Ok(text) = core::str::from_utf8(octets)
        {
            out.push_str(text);
            return Ok(());
        }
        let (text, has_errors) = match self {
            Self::Standard(encoding) => encoding.decode_with_bom_removal(octets),
            Self::Utf16 => utf16_of(octets).decode_with_bom_removal(octets),
            Self::Oem(page) => (octets.iter().map(|octet| oem_character(page, *octet)).collect(), false),
        };
        let (mut characters, mut replaced, mut last_was_return) = (0, 0, false);
        for c in text.chars() {
            characters += 1;
            replaced += usize::from(has_errors && c == char::REPLACEMENT_CHARACTER);
            let completes = c == '\n' && last_was_return;
            last_was_return = c == '\r';
            match c {
                _ if completes => {}
                '\r' => out.push('\n'),
                c if is_xml_char(c) && !self.is_unmapped(c) => out.push(c),
                _ => out.push(char::REPLACEMENT_CHARACTER),
            }
        }
        if replaced * 2 > characters { Err(Refusal::Malformed) } else { Ok(()) }
    }

    /// The text that is whole with this octet: none yet if it only begins or goes on
    /// with a character, which `begun` holds then. One that goes wrong is U+FFFD.
    pub(super) fn decode_octet(self, octet: u8, begun: &mut Option<Decoder>) -> heapless::String<OCTET_TEXT_MAX> {
        let mut text = heapless::String::new();
        let encoding = match self {
            Self::Standard(encoding) => encoding,
            Self::Utf16 => standard::UTF_16BE,
            Self::Oem(page) => {
                // One character is never too long.
                let _ = text.push(oem_character(page, octet));
                return text;
            }
        };
        let mut decoder = begun.take().unwrap_or_else(|| encoding.new_decoder_without_bom_handling());
        let mut decoded = [0; OCTET_TEXT_MAX];
        let (_, _, written, _) = decoder.decode_to_utf8(&[octet], &mut decoded, false);
        let decoded = decoded.get(..written).and_then(|decoded| core::str::from_utf8(decoded).ok());
        for c in decoded.unwrap_or_default().chars() {
            let _ = text.push(if self.is_unmapped(c) { char::REPLACEMENT_CHARACTER } else { c });
        }
        if text.is_empty() {
            *begun = Some(decoder);
        }
        text
    }

    /// The standard gives octets without a character a control that has no meaning.
    fn is_unmapped(self, c: char) -> bool {
        matches!(self, Self::Standard(encoding) if !encoding.can_encode_everything())
            && matches!(c, '\u{80}'..='\u{9F}')
    }
}

/// In which order the octets are: as their mark says, else as the zeros lie in text of the
/// West, else in the order of the network (RFC 2781 section 4.3).
fn utf16_of(octets: &[u8]) -> &'static Encoding {
    match octets {
        [0xFF, 0xFE, ..] => standard::UTF_16LE,
        [0xFE, 0xFF, ..] => standard::UTF_16BE,
        _ => {
            let zeros = |place| octets.iter().skip(place).step_by(2).filter(|octet| **octet == 0).count();
            if zeros(1) > zeros(0) { standard::UTF_16LE } else { standard::UTF_16BE }
        }
    }
}

/// The code page that is named `windows-932` or `cp932`.
fn page_of_name(name: &str) -> Option<u32> {
    let number = ["windows-", "cp", "ibm", "ms"].iter().find_map(|prefix| {
        let start = name.get(..prefix.len())?;
        start.eq_ignore_ascii_case(prefix).then(|| name.get(prefix.len()..))?
    })?;
    let is_number = (3..=5).contains(&number.len()) && number.bytes().all(|octet| octet.is_ascii_digit());
    number.parse().ok().filter(|_| is_number)
}

/// Is there nothing in UTF-8 text that would have to change? Nearly all text is so.
fn is_plain(octets: &[u8]) -> bool {
    // 0xEF begins the byte order mark and the two characters that XML leaves out.
    octets.iter().all(|octet| matches!(octet, b' '..=0xEE | 0xF0.. | b'\n' | b'\t'))
}

/// The character of an octet in a code page of DOS.
fn oem_character(page: &str, octet: u8) -> char {
    match octet.checked_sub(0x80) {
        Some(place) => page.chars().nth(place.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
        None => octet.into(),
    }
}

const OEM_437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπ\
    ΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{A0}";

const OEM_850: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜø£Ø×ƒáíóúñÑªº¿®¬½¼¡«»░▒▓│┤ÁÂÀ©╣║╗╝¢¥┐└┴┬├─┼ãÃ╚╔╩╦╠═╬¤ðÐÊËÈıÍÎÏ┘┌█▄¦Ì▀ÓßÔÒ\
    õÕµþÞÚÛÙýÝ¯´\u{AD}±‗¾¶§÷¸°¨·¹³²■\u{A0}";

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
        assert_eq!(text("utf-16", b"\xFF\xFEx\0=\xD8\0\xDE").as_deref(), Ok("x😀"));
        assert_eq!(text("utf-16", b"\xFE\xFF\0x").as_deref(), Ok("x"));
        assert_eq!(text("utf-16be", b"\0x").as_deref(), Ok("x"));
        assert_eq!(text("utf-16le", b"x\0").as_deref(), Ok("x"));
        assert_eq!(text("utf-16", b"x\0\xAC\x20").as_deref(), Ok("x€"));
        assert_eq!(text("utf-16", b"\x65\xE5\x67\x2C").as_deref(), Ok("日本"));
        for name in ["klingon", "cp+1252", "windows-1361", "utf-7", "utf-32", "iso-2022-kr", "x-user-defined", "\""] {
            assert_eq!(text(name, b"x"), Err(Refusal::Charset), "{name}");
        }
    }

    #[test]
    fn req_7572_23_each_charset_has_its_letters() {
        for (names, octets, expected) in [
            (&["", "ascii", "US-ASCII", "utf8", "'utf-8'", " UTF-8 "][..], "Grüße".as_bytes(), "Grüße"),
            (&["latin1", "iso_8859-1", "L1", "cp1252", "windows-1252"], b"\x80\xE9", "€é"),
            (&["latin-9", "iso8859-15"], b"\xA4", "€"),
            (&["iso-8859-2", "latin2"], b"\xE6\xB1", "ćą"),
            (&["cp437", "ibm437"], b"\x81\xE1\xDB", "üß█"),
            (&["cp850"], b"\x9B\xD5", "øı"),
            (&["cp866", "ibm866"], b"\x8C\xAE\xE1\xE2", "Мост"),
            (&["windows-874", "tis-620"], b"\xA1\xDF\xFB", "ก฿๛"),
            (&["windows-1253"], b"\xC1\xF9\xAA", "Αω\u{FFFD}"),
            (&["windows-1255"], b"\xF9\xFA", "\u{5E9}\u{5EA}"),
            (&["windows-1256"], b"\xC7\xED", "\u{627}\u{64A}"),
            (&["windows-1257"], b"\xE0\xF0", "ąš"),
            (&["windows-1258"], b"\xD0\xFE", "Đ₫"),
            (&["macintosh"], b"\x8E\xA5", "é•"),
            (&["koi8-r", "KOI8-U"], b"\xED\xCF\xD3\xD4", "Мост"),
            (&["Shift_JIS", "sjis", "windows-31j", "cp932"], b"\x94\x67\x83\x5C\xB1", "波ソ\u{FF71}"),
            (&["euc-jp"], b"\xC7\xC8", "波"),
            (&["iso-2022-jp"], b"\x1B$BGH\x1B(B!", "波!"),
            (&["gb2312", "GBK", "gb18030", "cp936"], b"\xB2\xA8a", "波a"),
            (&["gb18030"], b"\x94\x39\xDA\x33", "💩"),
            (&["big5", "big5-hkscs", "cp950"], b"\xAA\x69", "波"),
            (&["euc-kr", "ks_c_5601-1987", "cp949"], b"\xC6\xC4\xB5\xB5", "파도"),
        ] {
            for name in names {
                assert_eq!(text(name, octets).as_deref(), Ok(expected), "{name}");
                if *name != "iso-2022-jp" {
                    let charset = Charset::named(Some(name)).expect("a charset");
                    let mut begun = None;
                    let single = octets.iter().map(|octet| charset.decode_octet(*octet, &mut begun));
                    assert_eq!(single.fold(String::new(), |text, part| text + &part), expected, "{name}");
                    assert!(begun.is_none(), "{name}");
                }
            }
        }
    }

    #[test]
    fn what_is_read_octet_by_octet_always_goes_on() {
        let pages =
            [437, 850, 866, 874, 932, 936, 949, 950, 1250, 1251, 1252, 1253, 1254, 1255, 1256, 1257, 1258, 10_000]
                .into_iter()
                .chain([10_001, 10_002, 10_003, 10_007, 10_008, 20_866, 21_866, 54_936, 65_001]);
        let mut rng = crate::base::rng::Rng::from_number(932);
        for page in pages {
            let charset = Charset::numbered(page).expect("a code page we have");
            for octet in 0..0x80 {
                let text = charset.decode_octet(octet, &mut None);
                assert_eq!(text.as_str(), char::from(octet).encode_utf8(&mut [0; 4]), "{page}");
            }
            let (mut begun, mut waiting) = (None, 0);
            for _ in 0..20_000 {
                let text = charset.decode_octet(rng.below(256) as u8, &mut begun);
                waiting = if text.is_empty() { waiting + 1 } else { 0 };
                assert!(waiting < 4 && begun.is_some() == text.is_empty(), "{page}");
            }
        }
        assert_eq!(Charset::numbered(1361), None);
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
