//! The code pages of one octet a character: what 0x80 to 0xFF stand for. RTF names them
//! by number, other bodies by the name of a charset. Below 0x80 all of them are ASCII.

/// A code page: the characters of 0x80 to 0xFF, U+FFFD where it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CodePage(&'static [u16; 128]);

impl CodePage {
    /// The code page of that number, as `\ansicpg` of RTF gives it.
    pub(super) const fn numbered(number: u32) -> Option<Self> {
        Some(Self(match number {
            437 => &OEM_437,
            850 => &OEM_850,
            874 => &WINDOWS_874,
            1250 => &WINDOWS_1250,
            1251 => &WINDOWS_1251,
            1252 => &WINDOWS_1252,
            1253 => &WINDOWS_1253,
            1254 => &WINDOWS_1254,
            1255 => &WINDOWS_1255,
            1256 => &WINDOWS_1256,
            1257 => &WINDOWS_1257,
            1258 => &WINDOWS_1258,
            10_000 => &MACINTOSH,
            _ => return None,
        }))
    }

    /// The character of an octet, if it has one.
    pub(super) fn character(self, octet: u8) -> Option<char> {
        let Some(place) = octet.checked_sub(0x80) else { return Some(octet.into()) };
        char::from_u32(u32::from(self.0[usize::from(place)])).filter(|c| *c != char::REPLACEMENT_CHARACTER)
    }
}

/// The characters of a text in order. None of them needs more than three octets.
const fn table(text: &str) -> [u16; 128] {
    let octets = text.as_bytes();
    let mut table = [0; 128];
    let (mut at, mut place) = (0, 0);
    while at < octets.len() {
        let first = octets[at] as u16;
        let (code, length) = match first {
            0..0x80 => (first, 1),
            0x80..0xE0 => ((first & 0x1F) << 6, 2),
            _ => ((first & 0x0F) << 12, 3),
        };
        table[place] = code;
        if length > 1 {
            table[place] |= (octets[at + length - 1] & 0x3F) as u16;
        }
        if length > 2 {
            table[place] |= ((octets[at + 1] & 0x3F) as u16) << 6;
        }
        at += length;
        place += 1;
    }
    assert!(place == 128, "a code page has 128 characters above ASCII");
    table
}

const OEM_437: [u16; 128] = table(
    "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπ\
     ΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{A0}",
);

const OEM_850: [u16; 128] = table(
    "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜø£Ø×ƒáíóúñÑªº¿®¬½¼¡«»░▒▓│┤ÁÂÀ©╣║╗╝¢¥┐└┴┬├─┼ãÃ╚╔╩╦╠═╬¤ðÐÊËÈıÍÎÏ┘┌█▄¦Ì▀ÓßÔÒ\
     õÕµþÞÚÛÙýÝ¯´\u{AD}±‗¾¶§÷¸°¨·¹³²■\u{A0}",
);

const WINDOWS_874: [u16; 128] = table(
    "€\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}…\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\
     \u{FFFD}\u{FFFD}\u{FFFD}‘’“”•–—\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\
     \u{A0}กขฃคฅฆงจฉชซฌญฎฏฐฑฒณดตถทธนบปผฝพฟภมยรฤลฦวศษสหฬอฮฯะ\u{E31}าำ\u{E34}\u{E35}\u{E36}\u{E37}\u{E38}\
     \u{E39}\u{E3A}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}฿เแโใไๅๆ\u{E47}\u{E48}\u{E49}\u{E4A}\u{E4B}\u{E4C}\
     \u{E4D}\u{E4E}๏๐๑๒๓๔๕๖๗๘๙๚๛\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}",
);

const WINDOWS_1250: [u16; 128] = table(
    "€\u{FFFD}‚\u{FFFD}„…†‡\u{FFFD}‰Š‹ŚŤŽŹ\u{FFFD}‘’“”•–—\u{FFFD}™š›śťžź\u{A0}ˇ˘Ł¤Ą¦§¨©Ş«¬\u{AD}®Ż°±˛ł´µ¶\
     ·¸ąş»Ľ˝ľżŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢßŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙",
);

const WINDOWS_1251: [u16; 128] = table(
    "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—\u{FFFD}™љ›њќћџ\u{A0}ЎўЈ¤Ґ¦§Ё©Є«¬\u{AD}®Ї°±Ііґµ¶·ё№є»јЅѕїАБВГДЕЖЗИЙКЛМНОПРСТ\
     УФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмнопрстуфхцчшщъыьэюя",
);

const WINDOWS_1252: [u16; 128] = table(
    "€\u{FFFD}‚ƒ„…†‡ˆ‰Š‹Œ\u{FFFD}Ž\u{FFFD}\u{FFFD}‘’“”•–—˜™š›œ\u{FFFD}žŸ\u{A0}¡¢£¤¥¦§¨©ª«¬\u{AD}®¯°±²³´µ¶\
     ·¸¹º»¼½¾¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ",
);

const WINDOWS_1253: [u16; 128] = table(
    "€\u{FFFD}‚ƒ„…†‡\u{FFFD}‰\u{FFFD}‹\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}‘’“”•–—\u{FFFD}™\u{FFFD}›\
     \u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{A0}΅Ά£¤¥¦§¨©\u{FFFD}«¬\u{AD}®―°±²³΄µ¶·ΈΉΊ»Ό½ΎΏΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡ\
     \u{FFFD}ΣΤΥΦΧΨΩΪΫάέήίΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώ\u{FFFD}",
);

const WINDOWS_1254: [u16; 128] = table(
    "€\u{FFFD}‚ƒ„…†‡ˆ‰Š‹Œ\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}‘’“”•–—˜™š›œ\u{FFFD}\u{FFFD}Ÿ\u{A0}¡¢£¤¥¦§¨©ª«¬\
     \u{AD}®¯°±²³´µ¶·¸¹º»¼½¾¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏĞÑÒÓÔÕÖ×ØÙÚÛÜİŞßàáâãäåæçèéêëìíîïğñòóôõö÷øùúûüışÿ",
);

const WINDOWS_1255: [u16; 128] = table(
    "€\u{FFFD}‚ƒ„…†‡ˆ‰\u{FFFD}‹\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}‘’“”•–—˜™\u{FFFD}›\u{FFFD}\u{FFFD}\
     \u{FFFD}\u{FFFD}\u{A0}¡¢£₪¥¦§¨©×«¬\u{AD}®¯°±²³´µ¶·¸¹÷»¼½¾¿\u{5B0}\u{5B1}\u{5B2}\u{5B3}\u{5B4}\u{5B5}\
     \u{5B6}\u{5B7}\u{5B8}\u{5B9}\u{FFFD}\u{5BB}\u{5BC}\u{5BD}\u{5BE}\u{5BF}\u{5C0}\u{5C1}\u{5C2}\u{5C3}\
     \u{5F0}\u{5F1}\u{5F2}\u{5F3}\u{5F4}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{5D0}\
     \u{5D1}\u{5D2}\u{5D3}\u{5D4}\u{5D5}\u{5D6}\u{5D7}\u{5D8}\u{5D9}\u{5DA}\u{5DB}\u{5DC}\u{5DD}\u{5DE}\
     \u{5DF}\u{5E0}\u{5E1}\u{5E2}\u{5E3}\u{5E4}\u{5E5}\u{5E6}\u{5E7}\u{5E8}\u{5E9}\u{5EA}\u{FFFD}\u{FFFD}\
     \u{200E}\u{200F}\u{FFFD}",
);

const WINDOWS_1256: [u16; 128] = table(
    "€\u{67E}‚ƒ„…†‡ˆ‰\u{679}‹Œ\u{686}\u{698}\u{688}\u{6AF}‘’“”•–—\u{6A9}™\u{691}›œ\u{200C}\u{200D}\u{6BA}\
     \u{A0}،¢£¤¥¦§¨©\u{6BE}«¬\u{AD}®¯°±²³´µ¶·¸¹\u{61B}»¼½¾\u{61F}\u{6C1}\u{621}\u{622}\u{623}\u{624}\
     \u{625}\u{626}\u{627}\u{628}\u{629}\u{62A}\u{62B}\u{62C}\u{62D}\u{62E}\u{62F}\u{630}\u{631}\u{632}\
     \u{633}\u{634}\u{635}\u{636}×\u{637}\u{638}\u{639}\u{63A}\u{640}\u{641}\u{642}\u{643}à\u{644}â\
     \u{645}\u{646}\u{647}\u{648}çèéêë\u{649}\u{64A}îï\u{64B}\u{64C}\u{64D}\u{64E}ô\u{64F}\u{650}÷\u{651}\
     ù\u{652}ûü\u{200E}\u{200F}\u{6D2}",
);

const WINDOWS_1257: [u16; 128] = table(
    "€\u{FFFD}‚\u{FFFD}„…†‡\u{FFFD}‰\u{FFFD}‹\u{FFFD}¨ˇ¸\u{FFFD}‘’“”•–—\u{FFFD}™\u{FFFD}›\u{FFFD}¯˛\
     \u{FFFD}\u{A0}\u{FFFD}¢£¤\u{FFFD}¦§Ø©Ŗ«¬\u{AD}®Æ°±²³´µ¶·ø¹ŗ»¼½¾æĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽßąįāć\
     äåęēčéźėģķīļšńņóōõö÷ųłśūüżž˙",
);

const WINDOWS_1258: [u16; 128] = table(
    "€\u{FFFD}‚ƒ„…†‡ˆ‰\u{FFFD}‹Œ\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}‘’“”•–—˜™\u{FFFD}›œ\u{FFFD}\u{FFFD}Ÿ\
     \u{A0}¡¢£¤¥¦§¨©ª«¬\u{AD}®¯°±²³´µ¶·¸¹º»¼½¾¿ÀÁÂĂÄÅÆÇÈÉÊË\u{300}ÍÎÏĐÑ\u{309}ÓÔƠÖ×ØÙÚÛÜƯ\u{303}ßàáâăäåæç\
     èéêë\u{301}íîïđñ\u{323}óôơö÷øùúûüư₫ÿ",
);

const MACINTOSH: [u16; 128] = table(
    "ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü†°¢£§•¶ß®©™´¨≠ÆØ∞±≤≥¥µ∂∑∏π∫ªºΩæø¿¡¬√ƒ≈∆«»…\u{A0}ÀÃÕŒœ–—“”‘’÷◊ÿŸ⁄€‹›ﬁ\
     ﬂ‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\u{F8FF}ÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ",
);

#[cfg(test)]
mod tests {
    use super::*;

    fn text(page: u32, octets: &[u8]) -> String {
        let page = CodePage::numbered(page).expect("a code page we have");
        octets.iter().map(|octet| page.character(*octet).unwrap_or('?')).collect()
    }

    #[test]
    fn each_code_page_has_its_letters() {
        for (page, octets, expected) in [
            (437, &b"\x81\xE1\xDB"[..], "üß█"),
            (850, b"\x9B\xD5", "øı"),
            (874, b"\xA1\xDF\xFB", "ก฿๛"),
            (1250, b"\x8A\xB9\xF8", "Šąř"),
            (1251, b"\xCF\xF0\xE8\xE2\xE5\xF2", "Привет"),
            (1252, b"\x80\xE9\x81", "€é?"),
            (1253, b"\xC1\xF9\xAA", "Αω?"),
            (1254, b"\xDD\xFE", "İş"),
            (1255, b"\xF9\xFA", "\u{5E9}\u{5EA}"),
            (1256, b"\xC7\xED", "\u{627}\u{64A}"),
            (1257, b"\xE0\xF0", "ąš"),
            (1258, b"\xD0\xFE", "Đ₫"),
            (10_000, b"\x8E\xA5", "é•"),
        ] {
            assert_eq!(text(page, octets), expected, "{page}");
        }
        assert_eq!(CodePage::numbered(932), None);
    }

    #[test]
    fn only_octets_below_0x80_are_ascii() {
        for octet in 0..=u8::MAX {
            for number in [437, 850, 874, 1250, 1251, 1252, 1253, 1254, 1255, 1256, 1257, 1258, 10_000] {
                let character = CodePage::numbered(number).and_then(|page| page.character(octet));
                let is_ascii = character.is_some_and(|c| c.is_ascii());
                assert_eq!(is_ascii, octet < 0x80, "{number} {octet:#x}");
            }
        }
    }
}
