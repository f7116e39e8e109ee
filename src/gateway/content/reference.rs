//! Character references of HTML: `&amp;`, `&#8364;`, `&#x20AC;`. The names are those of
//! HTML 4, which letters are written with.

use super::charset::Charset;
use crate::base::text::is_xml_char;

/// Text with its character references resolved; what is none stays as it stands.
pub(super) fn decoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('&') {
        out.push_str(before);
        rest = match reference(behind) {
            Some((c, rest)) => {
                out.push(c);
                rest
            }
            None => {
                out.push('&');
                behind
            }
        };
    }
    out.push_str(rest);
    out
}

/// The character that the reference behind an `&` stands for, and what is behind it.
fn reference(text: &str) -> Option<(char, &str)> {
    let (number, radix) = match text.as_bytes() {
        [b'#', b'x' | b'X', ..] => (text.get(2..)?, 16),
        [b'#', ..] => (text.get(1..)?, 10),
        _ => return named_reference(text),
    };
    let (digits, rest) = number.split_at(number.find(|c: char| !c.is_digit(radix)).unwrap_or(number.len()));
    if digits.is_empty() {
        return None;
    }
    let c = match u32::from_str_radix(digits, radix).unwrap_or(u32::MAX) {
        // Many authors mean windows-1252 here, and HTML 5 agrees.
        code @ 0x80..=0x9F => {
            Charset::numbered(1252).and_then(|page| page.decode_octet(code as u8, &mut None).chars().next())
        }
        // A blank like any other, which a stanza would have to spell out.
        0xD => Some(' '),
        code => char::from_u32(code).filter(|c| is_xml_char(*c)),
    };
    Some((c.unwrap_or(char::REPLACEMENT_CHARACTER), rest.strip_prefix(';').unwrap_or(rest)))
}

/// The old names may stand without a semicolon, but not where they could be the beginning of
/// something else, such as a parameter of an address.
fn named_reference(text: &str) -> Option<(char, &str)> {
    let (name, rest) = text.split_at(text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len()));
    match rest.strip_prefix(';') {
        Some(rest) => Some((old(name).or_else(|| new(name))?, rest)),
        None if rest.starts_with('=') => None,
        None => Some((old(name)?, rest)),
    }
}

/// The characters with names that HTML has had from its beginning.
fn old(name: &str) -> Option<char> {
    /// U+00A0 to U+00FF in order.
    const LATIN_1: &str = "nbsp iexcl cent pound curren yen brvbar sect uml copy ordf laquo not shy reg macr deg plusmn \
         sup2 sup3 acute micro para middot cedil sup1 ordm raquo frac14 frac12 frac34 iquest Agrave Aacute Acirc \
         Atilde Auml Aring AElig Ccedil Egrave Eacute Ecirc Euml Igrave Iacute Icirc Iuml ETH Ntilde Ograve Oacute \
         Ocirc Otilde Ouml times Oslash Ugrave Uacute Ucirc Uuml Yacute THORN szlig agrave aacute acirc atilde auml \
         aring aelig ccedil egrave eacute ecirc euml igrave iacute icirc iuml eth ntilde ograve oacute ocirc otilde \
         ouml divide oslash ugrave uacute ucirc uuml yacute thorn yuml";
    Some(match name {
        "amp" | "AMP" => '&',
        "lt" | "LT" => '<',
        "gt" | "GT" => '>',
        "quot" | "QUOT" => '"',
        _ => {
            let place = LATIN_1.split_ascii_whitespace().position(|known| known == name)?;
            return char::from_u32(0xA0 + u32::try_from(place).ok()?);
        }
    })
}

/// Those that came later.
fn new(name: &str) -> Option<char> {
    const NAMES: &str = "OElig Œ oelig œ Scaron Š scaron š Yuml Ÿ fnof ƒ circ ˆ tilde ˜ Alpha Α Beta Β Gamma Γ \
     Delta Δ Epsilon Ε Zeta Ζ Eta Η Theta Θ Iota Ι Kappa Κ Lambda Λ Mu Μ Nu Ν Xi Ξ Omicron Ο \
     Pi Π Rho Ρ Sigma Σ Tau Τ Upsilon Υ Phi Φ Chi Χ Psi Ψ Omega Ω alpha α beta β gamma γ \
     delta δ epsilon ε zeta ζ eta η theta θ iota ι kappa κ lambda λ mu μ nu ν xi ξ omicron ο \
     pi π rho ρ sigmaf ς sigma σ tau τ upsilon υ phi φ chi χ psi ψ omega ω thetasym ϑ upsih ϒ \
     piv ϖ ndash – mdash — lsquo ‘ rsquo ’ sbquo ‚ ldquo “ rdquo ” bdquo „ dagger † Dagger ‡ \
     bull • hellip … permil ‰ prime ′ Prime ″ lsaquo ‹ rsaquo › oline ‾ frasl ⁄ euro € \
     image ℑ weierp ℘ real ℜ trade ™ alefsym ℵ larr ← uarr ↑ rarr → darr ↓ harr ↔ crarr ↵ \
     lArr ⇐ uArr ⇑ rArr ⇒ dArr ⇓ hArr ⇔ forall ∀ part ∂ exist ∃ empty ∅ nabla ∇ isin ∈ \
     notin ∉ ni ∋ prod ∏ sum ∑ minus − lowast ∗ radic √ prop ∝ infin ∞ ang ∠ and ∧ or ∨ cap ∩ \
     cup ∪ int ∫ there4 ∴ sim ∼ cong ≅ asymp ≈ ne ≠ equiv ≡ le ≤ ge ≥ sub ⊂ sup ⊃ nsub ⊄ \
     sube ⊆ supe ⊇ oplus ⊕ otimes ⊗ perp ⊥ sdot ⋅ lceil ⌈ rceil ⌉ lfloor ⌊ rfloor ⌋ lang ⟨ \
     rang ⟩ loz ◊ spades ♠ clubs ♣ hearts ♥ diams ♦";
    Some(match name {
        "apos" => '\'',
        "ensp" => '\u{2002}',
        "emsp" => '\u{2003}',
        "thinsp" => '\u{2009}',
        "zwnj" => '\u{200C}',
        "zwj" => '\u{200D}',
        "lrm" => '\u{200E}',
        "rlm" => '\u{200F}',
        _ => {
            let mut words = NAMES.split_ascii_whitespace();
            words.find(|known| *known == name)?;
            return words.next()?.chars().next();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_character() {
        for (text, expected) in [
            ("&nbsp;&yuml;&szlig;&times;", "\u{A0}ÿß×"),
            ("&OElig;&zeta;&Zeta;&euro;&diams;&lang;&apos;&rlm;", "ŒζΖ€♦\u{27E8}'\u{200F}"),
            ("a&#13;&#10;b", "a \nb"),
            ("&Alpha &none; &; & &é", "&Alpha &none; &; & &é"),
        ] {
            assert_eq!(decoded(text), expected, "{text}");
        }
    }
}
