//! text/rtf to plain text, and to XHTML-IM (XEP-0071) where it has bold, italic,
//! underlined or struck text, or links. RTF has no RFC: this reads version 1.9.1 as far as
//! a chat needs it, in one pass over the octets.
//!
//! Control words that say nothing about the text are dropped, and groups that hold
//! something else than text (fonts, colours, pictures, what `\*` marks) with all that is in
//! them. RTF that breaks off gives what it said until there. What stands behind the
//! outermost group is no text.

use super::Refusal;
use super::charset::{Charset, Decoder};
use super::html::{self, ELEMENTS_MAX, XHTML_OCTETS_MAX};
use crate::base::text::{XmlEscaped, hex_value, is_xml_char};
use core::fmt::Write;

/// Deepest nesting of groups. Word's tables need about a dozen.
const DEPTH_MAX: usize = 64;
/// Fonts whose code page is remembered; those of others are the document's.
const FONTS_MAX: usize = 128;
/// Longest instruction of a field, in octets: a link has its address in it.
const INSTRUCTION_OCTETS_MAX: usize = 4096;

/// Appends the text of `octets` to `body` and its markup to `xhtml`, which is cleared
/// first and left empty if there is none. `Malformed` if this is no RTF or nests too deep;
/// `Type` if it is nothing but a picture or an object; `Charset` if most of it is in code
/// pages that we do not have.
pub(super) fn read(octets: &[u8], body: &mut String, xhtml: &mut String) -> Result<(), Refusal> {
    xhtml.clear();
    let octets = octets.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(octets).trim_ascii_start();
    if !octets.starts_with(b"{\\rtf") {
        return Err(Refusal::Malformed);
    }
    let mut reader = Reader {
        rest: octets,
        is_utf8: core::str::from_utf8(octets).is_ok(),
        groups: Vec::new(),
        group: Group::OUTSIDE,
        ansi_page: 1252,
        default_font: 0,
        fonts: heapless::Vec::new(),
        begun: None,
        high_surrogate: None,
        fallback: 0,
        instruction: String::new(),
        link: None,
        has_picture: false,
        shown: 0,
        unknown: 0,
        sink: Sink::new(body, xhtml),
    };
    let outcome = reader.read();
    let (has_picture, is_understood) = (reader.has_picture, reader.unknown * 2 <= reader.shown);
    let has_text = reader.sink.finish();
    outcome?;
    match (is_understood, has_text) {
        (false, _) => Err(Refusal::Charset),
        (true, false) if has_picture => Err(Refusal::Type),
        _ => Ok(()),
    }
}

/// Where the characters of a group go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    Text,
    /// Nowhere, nor those of the groups in it.
    Nowhere,
    /// `\fonttbl`: which font has which code page.
    Fonts,
    /// `\fldinst`: what a field does.
    Instruction,
    /// `\upr`: the text twice; the one that is marked `\ud` counts.
    Twice,
}

/// How characters look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Look {
    bold: bool,
    italic: bool,
    underline: bool,
    strike: bool,
    /// Not to be seen at all.
    hidden: bool,
}

impl Look {
    /// The elements that show it, from the outermost to the innermost one, each with its
    /// end tag.
    fn elements(self) -> [Option<(&'static str, &'static str)>; 4] {
        [
            self.bold.then_some(("<strong>", "</strong>")),
            self.italic.then_some(("<em>", "</em>")),
            self.underline.then_some(("<span style='text-decoration:underline'>", "</span>")),
            self.strike.then_some(("<span style='text-decoration:line-through'>", "</span>")),
        ]
    }
}

/// What holds in a group and ends with it.
#[derive(Clone, Copy, Debug)]
struct Group {
    destination: Destination,
    look: Look,
    font: Option<i32>,
    /// How many characters stand behind a `\u` for readers who do not know it (`\uc`).
    fallback: u32,
    /// Did it begin with `\*`: nobody who does not know its first word may show it?
    is_ignorable: bool,
}

impl Group {
    const OUTSIDE: Self = Self {
        destination: Destination::Text,
        look: Look { bold: false, italic: false, underline: false, strike: false, hidden: false },
        font: None,
        fallback: 1,
        is_ignorable: false,
    };
}

/// A font, and the code page its characters are in.
#[derive(Clone, Copy, Debug)]
struct Font {
    number: i32,
    page: u32,
}

/// The code page of Symbol fonts, which is none: they have pictures for letters.
const SYMBOL: u32 = 42;

struct Reader<'a, 'o> {
    rest: &'a [u8],
    /// RTF is ASCII. Where it is not, but is UTF-8, it is meant as such.
    is_utf8: bool,
    /// Those around the one we are in.
    groups: Vec<Group>,
    group: Group,
    /// `\ansicpg`.
    ansi_page: u32,
    /// `\deff`.
    default_font: i32,
    fonts: heapless::Vec<Font, FONTS_MAX>,
    /// Holds the octets so far of a character that has several.
    begun: Option<Decoder>,
    /// The first half of a character beyond U+FFFF.
    high_surrogate: Option<u16>,
    /// Characters still to be skipped behind a `\u`.
    fallback: u32,
    /// The text of `\fldinst`.
    instruction: String,
    /// How many groups were around the one that a link spans, while in one.
    link: Option<usize>,
    /// Was a picture or an object left out?
    has_picture: bool,
    /// Characters of the text.
    shown: usize,
    /// Those of them that nobody knows.
    unknown: usize,
    sink: Sink<'o>,
}

/// A control word or a control symbol.
#[derive(Clone, Copy, Debug)]
struct Control<'a> {
    word: &'a str,
    number: Option<i32>,
}

impl Control<'_> {
    /// Is it switched on: without a number, or with one that is not 0?
    fn is_on(self) -> bool {
        self.number != Some(0)
    }
}

impl<'a> Reader<'a, '_> {
    fn read(&mut self) -> Result<(), Refusal> {
        while let Some((octet, rest)) = self.rest.split_first() {
            self.rest = rest;
            match *octet {
                b'{' => self.begin_group()?,
                b'}' => {
                    if self.end_group() {
                        break;
                    }
                }
                b'\\' => self.control(),
                // Line ends are there for whoever edits the source.
                b'\r' | b'\n' | 0 => {}
                b'\t' => self.character('\t'),
                octet @ 0x80.. if self.is_utf8 => self.utf8_character(octet),
                octet => self.octet(octet),
            }
        }
        self.end_characters();
        while !self.end_group() {}
        Ok(())
    }

    fn begin_group(&mut self) -> Result<(), Refusal> {
        self.end_characters();
        self.fallback = 0;
        if self.groups.len() >= DEPTH_MAX {
            return Err(Refusal::Malformed);
        }
        self.groups.push(self.group);
        self.group.is_ignorable = false;
        Ok(())
    }

    /// Ends the innermost group. Was it the outermost one, too?
    fn end_group(&mut self) -> bool {
        self.end_characters();
        self.fallback = 0;
        if self.link == Some(self.groups.len()) {
            self.link = None;
            self.sink.end_link();
        }
        let Some(around) = self.groups.pop() else { return true };
        self.group = around;
        self.groups.is_empty()
    }

    /// Takes what follows a backslash.
    fn control(&mut self) {
        let letters = self.rest.iter().take_while(|octet| octet.is_ascii_alphabetic()).count();
        if letters == 0 {
            let Some((symbol, rest)) = self.rest.split_first() else { return };
            self.rest = rest;
            return self.symbol(*symbol);
        }
        let (word, rest) = self.rest.split_at(letters);
        let sign = usize::from(rest.starts_with(b"-"));
        let digits = rest.iter().skip(sign).take_while(|octet| octet.is_ascii_digit()).count();
        let (number, rest) = if digits == 0 { (&[][..], rest) } else { rest.split_at(sign + digits) };
        self.rest = rest.strip_prefix(b" ").unwrap_or(rest);
        // Both are ASCII. A number that is too large says nothing.
        let word = core::str::from_utf8(word).unwrap_or_default();
        let number = core::str::from_utf8(number).ok().and_then(|digits| digits.parse().ok());
        if word == "bin" {
            // These are octets of a picture, whatever they look like.
            let octets = number.and_then(|number: i32| usize::try_from(number).ok()).unwrap_or_default();
            self.rest = self.rest.get(octets..).unwrap_or_default();
        }
        if word != "u" {
            self.end_characters();
            // A word counts as one of the characters to be skipped.
            if self.fallback > 0 {
                self.fallback -= 1;
                return;
            }
        }
        self.word(Control { word, number });
    }

    fn symbol(&mut self, symbol: u8) {
        match symbol {
            b'\'' => {
                // What is no number stands for nothing, but is text itself.
                let [high, low, rest @ ..] = self.rest else { return };
                let (Some(high), Some(low)) = (hex_value(*high), hex_value(*low)) else { return };
                self.rest = rest;
                self.octet(high << 4 | low);
            }
            b'*' => {
                self.group.is_ignorable = true;
                self.rest = self.rest.trim_ascii_start();
            }
            b'~' => self.character('\u{A0}'),
            b'_' => self.character('\u{2011}'),
            b'\r' | b'\n' => {
                self.end_characters();
                self.line_break();
            }
            b'\t' => self.character('\t'),
            b'\\' | b'{' | b'}' => self.character(char::from(symbol)),
            // `\-` may be broken at, `\|` and `\:` are for formulas and indexes.
            _ => {}
        }
    }

    fn word(&mut self, control: Control<'a>) {
        // The first word of a group says where its text goes.
        let is_ignorable = core::mem::take(&mut self.group.is_ignorable);
        if self.group.destination == Destination::Nowhere {
            return;
        }
        match control.word {
            "u" => self.unicode(control.number.unwrap_or_default()),
            "uc" => self.group.fallback = control.number.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
            "ansicpg" => {
                self.ansi_page = control.number.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(1252);
            }
            "mac" => self.ansi_page = 10_000,
            "pc" => self.ansi_page = 437,
            "pca" => self.ansi_page = 850,
            "deff" => self.default_font = control.number.unwrap_or_default(),
            "f" => self.font(control.number.unwrap_or_default()),
            "fcharset" | "cpg" => self.font_page(control),
            "fonttbl" => self.group.destination = Destination::Fonts,
            "fldinst" => {
                self.instruction.clear();
                self.group.destination = Destination::Instruction;
            }
            "fldrslt" if self.group.destination == Destination::Text => self.begin_link(),
            "upr" if self.group.destination == Destination::Text => self.group.destination = Destination::Twice,
            "ud" if self.group.destination == Destination::Twice => self.group.destination = Destination::Text,
            "pict" | "objdata" => {
                self.has_picture = true;
                self.group.destination = Destination::Nowhere;
            }
            // Pictures are found in it.
            "shppict" => {}
            word if is_ignorable || is_no_text(word) => self.group.destination = Destination::Nowhere,
            _ => self.look(control),
        }
    }

    fn look(&mut self, control: Control<'_>) {
        let look = &mut self.group.look;
        match control.word {
            "plain" => {
                *look = Look::default();
                self.group.font = None;
            }
            "b" => look.bold = control.is_on(),
            "i" => look.italic = control.is_on(),
            "strike" | "striked" => look.strike = control.is_on(),
            "v" | "deleted" => look.hidden = control.is_on(),
            "ulnone" => look.underline = false,
            "ul" | "uld" | "uldash" | "uldashd" | "uldashdd" | "uldb" | "ulhwave" | "ulldash" | "ulth" | "ulthd"
            | "ulthdash" | "ulthdashd" | "ulthdashdd" | "ulthldash" | "ululdbwave" | "ulw" | "ulwave" => {
                look.underline = control.is_on();
            }
            "par" | "line" | "sect" | "page" | "column" | "row" | "nestrow" | "softline" | "lbr" => self.line_break(),
            word => {
                if let Some(c) = named(word) {
                    self.character(c);
                }
            }
        }
    }

    /// `\u`: a half of a character, or one, as a number with a sign (section "Unicode
    /// RTF"). Some write numbers beyond 16 bits as they are.
    fn unicode(&mut self, number: i32) {
        self.end_octets();
        self.fallback = self.group.fallback;
        let code = if number < 0 { number.saturating_add(0x1_0000) } else { number };
        let code = u32::try_from(code).unwrap_or(0xFFFD);
        match (self.high_surrogate.take(), code) {
            (Some(high), 0xDC00..=0xDFFF) => {
                let pair = [high, code as u16];
                self.show(char::decode_utf16(pair).next().and_then(Result::ok).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            (before, code) => {
                if before.is_some() {
                    self.show(char::REPLACEMENT_CHARACTER);
                }
                match u16::try_from(code) {
                    Ok(half @ 0xD800..=0xDBFF) => self.high_surrogate = Some(half),
                    // RichEdit puts letters of Symbol fonts into the private use area.
                    Ok(private @ 0xF020..=0xF0FF) => self.show(symbol_character((private & 0xFF) as u8)),
                    _ => self.show(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)),
                }
            }
        }
    }

    /// `\f`: the font of what follows, or in the table the one that is described.
    fn font(&mut self, number: i32) {
        self.group.font = Some(number);
        if self.group.destination == Destination::Fonts {
            // More than we remember are in the document's code page.
            let _ = self.fonts.push(Font { number, page: 0 });
        }
    }

    fn font_page(&mut self, control: Control<'_>) {
        let Some(font) = self.fonts.last_mut() else { return };
        if self.group.destination != Destination::Fonts || self.group.font != Some(font.number) {
            return;
        }
        let number = control.number.and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
        font.page = if control.word == "cpg" { number } else { page_of_charset(number) };
    }

    /// The code page in force.
    fn page(&self) -> u32 {
        let number = self.group.font.unwrap_or(self.default_font);
        let font = self.fonts.iter().find(|font| font.number == number);
        font.map(|font| font.page).filter(|page| *page != 0).unwrap_or(self.ansi_page)
    }

    /// An octet of text in the code page in force.
    fn octet(&mut self, octet: u8) {
        if self.fallback > 0 {
            self.fallback -= 1;
            return;
        }
        if self.begun.is_none() {
            self.end_characters();
            if octet < 0x80 {
                // By far the most.
                return self.show(char::from(octet));
            }
        }
        let page = self.page();
        match Charset::numbered(page) {
            _ if page == SYMBOL => self.show(symbol_character(octet)),
            Some(charset) => {
                let text = charset.decode_octet(octet, &mut self.begun);
                for c in text.chars() {
                    if c == char::REPLACEMENT_CHARACTER { self.show_unknown() } else { self.show(c) }
                }
            }
            None => self.show_unknown(),
        }
    }

    /// A character of UTF-8 that stands there as itself; all of the rest is good UTF-8.
    fn utf8_character(&mut self, first: u8) {
        let length = match first {
            0xF0.. => 3,
            0xE0.. => 2,
            _ => 1,
        };
        let (tail, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, &[]));
        self.rest = rest;
        let mut octets = heapless::Vec::<u8, 4>::new();
        // Four at most.
        let _ = octets.push(first);
        let _ = octets.extend_from_slice(tail);
        let c = core::str::from_utf8(&octets).ok().and_then(|text| text.chars().next());
        self.character(c.unwrap_or(char::REPLACEMENT_CHARACTER));
    }

    /// A character that needs no code page.
    fn character(&mut self, c: char) {
        self.end_characters();
        if self.fallback > 0 {
            self.fallback -= 1;
            return;
        }
        self.show(c);
    }

    /// What was begun of a character, and goes on no more, is shown as one that is not
    /// known.
    fn end_characters(&mut self) {
        self.end_octets();
        if self.fallback == 0 && self.high_surrogate.take().is_some() {
            self.show(char::REPLACEMENT_CHARACTER);
        }
    }

    fn end_octets(&mut self) {
        if self.begun.take().is_some() {
            self.show_unknown();
        }
    }

    /// Octets that are no character of their code page.
    fn show_unknown(&mut self) {
        let before = self.shown;
        self.show(char::REPLACEMENT_CHARACTER);
        self.unknown += self.shown - before;
    }

    fn show(&mut self, c: char) {
        match self.group.destination {
            // Line ends, too, if somebody writes them as characters.
            Destination::Text if matches!(c, '\r' | '\n' | '\u{B}' | '\u{2028}' | '\u{2029}') => self.line_break(),
            Destination::Text if !self.group.look.hidden => {
                let mut look = self.group.look;
                // Links are underlined by whoever shows them.
                look.underline &= self.link.is_none();
                self.shown += 1;
                self.sink.push(c, look);
            }
            Destination::Instruction if self.instruction.len() < INSTRUCTION_OCTETS_MAX => self.instruction.push(c),
            _ => {}
        }
    }

    fn line_break(&mut self) {
        if self.group.destination == Destination::Text && !self.group.look.hidden {
            self.sink.line_breaks += 1;
        }
    }

    /// `\fldrslt`: what a field shows. That of a link is one.
    fn begin_link(&mut self) {
        let instruction = core::mem::take(&mut self.instruction);
        if self.link.is_none()
            && instruction.len() < INSTRUCTION_OCTETS_MAX
            && let Some(target) = target(&instruction).and_then(|target| html::safe_link(&target))
        {
            self.link = Some(self.groups.len());
            self.sink.begin_link(target);
        }
    }
}

/// Where a field leads that says `HYPERLINK "address"`, also without the quotes; `\l "place"`
/// is a place in it.
fn target(instruction: &str) -> Option<String> {
    let instruction = instruction.trim_start();
    let name = instruction.get(.."HYPERLINK".len())?;
    if !name.eq_ignore_ascii_case("HYPERLINK") {
        return None;
    }
    let rest = instruction.get(name.len()..)?.trim_start();
    let Some(quoted) = rest.strip_prefix('"') else { return rest.split_whitespace().next().map(str::to_owned) };
    let (address, switches) = quoted.split_once('"').unwrap_or((quoted, ""));
    let place =
        switches.split_once("\\l").and_then(|(_, place)| place.trim_start().strip_prefix('"')?.split('"').next());
    Some(place.map_or_else(|| address.to_owned(), |place| format!("{address}#{place}")))
}

/// Words whose groups hold no text of the message, though no `\*` says so.
fn is_no_text(word: &str) -> bool {
    const WORDS: &[&str] = &[
        "colortbl",
        "stylesheet",
        "info",
        "filetbl",
        "listtable",
        "listoverridetable",
        "revtbl",
        "header",
        "headerl",
        "headerr",
        "headerf",
        "footer",
        "footerl",
        "footerr",
        "footerf",
        "ftnsep",
        "ftnsepc",
        "ftncn",
        "aftnsep",
        "aftnsepc",
        "aftncn",
        "nonshppict",
        "objclass",
        "objname",
        "objalias",
        "objsect",
        "objtime",
        "xe",
        "tc",
        "tcn",
        "rxe",
        "bxe",
        "ixe",
        "datafield",
        "formfield",
        "private",
        "nextfile",
        "template",
        "fchars",
        "lchars",
        "falt",
        "panose",
        "fontemb",
    ];
    WORDS.contains(&word)
}

/// The character that a control word stands for.
fn named(word: &str) -> Option<char> {
    Some(match word {
        "tab" | "cell" | "nestcell" => '\t',
        "lquote" => '‘',
        "rquote" => '’',
        "ldblquote" => '“',
        "rdblquote" => '”',
        "bullet" => '•',
        "emdash" => '—',
        "endash" => '–',
        "emspace" => '\u{2003}',
        "enspace" => '\u{2002}',
        "qmspace" => '\u{2005}',
        "zwj" => '\u{200D}',
        "zwnj" => '\u{200C}',
        "ltrmark" => '\u{200E}',
        "rtlmark" => '\u{200F}',
        _ => return None,
    })
}

/// The code page of a `\fcharset`; 0 for the document's.
const fn page_of_charset(charset: u32) -> u32 {
    match charset {
        0 => 1252,
        2 => SYMBOL,
        77 => 10_000,
        78 => 10_001,
        79 => 10_003,
        80 => 10_008,
        81 => 10_002,
        89 => 10_007,
        128 => 932,
        129 => 949,
        130 => 1361,
        134 => 936,
        136 => 950,
        161 => 1253,
        162 => 1254,
        163 => 1258,
        177 => 1255,
        178 => 1256,
        186 => 1257,
        204 => 1251,
        222 => 874,
        238 => 1250,
        254 => 437,
        255 => 850,
        _ => 0,
    }
}

/// A letter of a Symbol font. Lists have their bullets from there.
const fn symbol_character(octet: u8) -> char {
    match octet {
        0xB7 | 0xA7 | 0x6C | 0x6E => '•',
        0x20..0x7F => octet as char,
        _ => char::REPLACEMENT_CHARACTER,
    }
}

/// The link that is open in a [`Sink`].
#[derive(Debug)]
struct Link {
    target: String,
    /// Where its text begins in the body.
    start: usize,
}

/// Where characters go: to the plain text, and with their looks to the markup.
struct Sink<'o> {
    body: &'o mut String,
    xhtml: &'o mut String,
    /// Line ends that come before the next character; at the end they mean nothing.
    line_breaks: usize,
    is_empty: bool,
    /// The look of the elements that are open.
    open: Look,
    link: Option<Link>,
    elements: usize,
    /// Is there markup at all?
    has_markup: bool,
    /// Is there more of it than we write?
    is_broken: bool,
}

impl<'o> Sink<'o> {
    const fn new(body: &'o mut String, xhtml: &'o mut String) -> Self {
        let open = Group::OUTSIDE.look;
        Self {
            body,
            xhtml,
            line_breaks: 0,
            is_empty: true,
            open,
            link: None,
            elements: 0,
            has_markup: false,
            is_broken: false,
        }
    }

    fn push(&mut self, c: char, look: Look) {
        if look == self.open {
            self.end_lines();
        } else {
            self.change(look);
        }
        self.is_empty = false;
        let c = if is_xml_char(c) && c != '\r' { c } else { char::REPLACEMENT_CHARACTER };
        self.body.push(if c == '\u{A0}' { ' ' } else { c });
        self.write(format_args!("{}", XmlEscaped(c.encode_utf8(&mut [0; 4]))));
    }

    fn end_lines(&mut self) {
        let line_breaks = core::mem::take(&mut self.line_breaks);
        if self.is_empty {
            return;
        }
        self.body.extend(core::iter::repeat_n('\n', line_breaks));
        for _ in 0..line_breaks {
            self.element(format_args!("<br/>"));
        }
    }

    /// Changes the look, with the line ends before what looks so.
    fn change(&mut self, look: Look) {
        let kept = self.close(look);
        self.end_lines();
        for (tag, _) in look.elements().iter().skip(kept).flatten() {
            self.has_markup = true;
            self.element(format_args!("{tag}"));
        }
    }

    /// Closes the elements that show another look than this one. How many of its own may
    /// stay?
    fn close(&mut self, look: Look) -> usize {
        let before = core::mem::replace(&mut self.open, look).elements();
        let kept = before.iter().zip(&look.elements()).take_while(|(before, after)| before == after).count();
        for (_, end_tag) in before.iter().skip(kept).rev().flatten() {
            self.write(format_args!("{end_tag}"));
        }
        kept
    }

    fn begin_link(&mut self, target: String) {
        self.change(Look::default());
        self.has_markup = true;
        self.element(format_args!("<a href='{}'>", XmlEscaped(&target)));
        self.link = Some(Link { target, start: self.body.len() });
    }

    /// Ends the link. Where its text does not say where it leads, the plain text does so.
    fn end_link(&mut self) {
        let Some(link) = self.link.take() else { return };
        self.close(Look::default());
        self.write(format_args!("</a>"));
        if !html::says(self.body.get(link.start..).unwrap_or_default(), &link.target) {
            let blank = if self.is_empty || self.body.ends_with([' ', '\n']) { "" } else { " " };
            // Writing into a String does not fail.
            let _ = write!(self.body, "{blank}<{}>", link.target);
            self.is_empty = false;
        }
    }

    fn element(&mut self, markup: core::fmt::Arguments<'_>) {
        self.elements += 1;
        self.write(markup);
    }

    fn write(&mut self, markup: core::fmt::Arguments<'_>) {
        if !self.is_broken && self.elements <= ELEMENTS_MAX && self.xhtml.len() <= XHTML_OCTETS_MAX {
            // Writing into a String does not fail.
            let _ = self.xhtml.write_fmt(markup);
        } else {
            self.is_broken = true;
        }
    }

    /// Closes what is open. Was there any text?
    fn finish(mut self) -> bool {
        self.end_link();
        self.close(Look::default());
        if self.is_broken || !self.has_markup || self.xhtml.len() > XHTML_OCTETS_MAX {
            self.xhtml.clear();
        }
        !self.is_empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use crate::base::xml::{Limits, Tree};

    fn both(source: &[u8]) -> Result<(String, String), Refusal> {
        let (mut body, mut xhtml) = (String::new(), String::from("of before"));
        read(source, &mut body, &mut xhtml)?;
        let document = format!("<body xmlns='http://www.w3.org/1999/xhtml'>{xhtml}</body>");
        let mut tree = Tree::new();
        if let Err(error) = tree.parse_document(document.as_bytes(), Limits::STANZA) {
            panic!("{error:?}: {:?} became {xhtml}", String::from_utf8_lossy(source));
        }
        assert!(body.chars().all(|c| is_xml_char(c) && c != '\r'), "{body:?}");
        Ok((body, xhtml))
    }

    fn text(source: &[u8]) -> String {
        both(source).unwrap_or_else(|why| panic!("{why:?}: {}", String::from_utf8_lossy(source))).0
    }

    fn markup(source: &str) -> String {
        both(source.as_bytes()).unwrap_or_else(|why| panic!("{why:?}: {source}")).1
    }

    #[test]
    fn rtf_is_read_as_what_it_shows() {
        const CASES: &[(&[u8], &str)] = &[
            // Words, symbols, blanks and lines.
            (b"{\\rtf1 Moin}", "Moin"),
            (b"{\\rtf1\\ansi\\deff0 Moin\\par\r\n}\r\n\0", "Moin"),
            (b"\r\n {\\rtf1 a}", "a"),
            (b"\xEF\xBB\xBF{\\rtf1 a}", "a"),
            (b"{\\rtf1 a\\par b\\line c\\par\\par d\\par}", "a\nb\nc\n\nd"),
            (b"{\\rtf1 a\\\r\nb\\\nc}", "a\nb\nc"),
            (b"{\\rtf1\\par\\par a}", "a"),
            (b"{\\rtf1 a\r\nb\nc}", "abc"),
            (b"{\\rtf1  two blanks  stay}", " two blanks  stay"),
            (b"{\\rtf1 \\{a\\}\\\\b}", "{a}\\b"),
            (b"{\\rtf1 a\\~b\\_c\\-d\\|e\\:f}", "a b\u{2011}cdef"),
            (b"{\\rtf1 a\\tab b\tc}", "a\tb\tc"),
            (b"{\\rtf1\\lquote a\\rquote\\ldblquote b\\rdblquote\\emdash\\endash\\bullet}", "‘a’“b”—–•"),
            (b"{\\rtf1 x\\emspace y\\enspace z\\qmspace .}", "x\u{2003}y\u{2002}z\u{2005}."),
            (b"{\\rtf1 a\\unheardof99 b\\another-1c}", "abc"),
            (b"{\\rtf1 a\\b-\\b0 b}", "a-b"),
            (b"{\\rtf1 a{b{c}d}e}", "abcde"),
            // Groups that hold no text.
            (
                b"{\\rtf1{\\fonttbl{\\f0\\fnil Sans;}}{\\colortbl ;\\red1\\green2\\blue3;}{\\stylesheet{\\s1 head;}}a}",
                "a",
            ),
            (b"{\\rtf1{\\info{\\title T}{\\author A}}{\\*\\generator G 1.0;}a}", "a"),
            (b"{\\rtf1 a{\\*\\unheardof b{c}d}e}", "ae"),
            (b"{\\rtf1 a{\\* \\unheardof b}c}", "ac"),
            (b"{\\rtf1 a\\par\r\n{\\*\\lyncflags<rtf=1>}}", "a"),
            (b"{\\rtf1 a{\\header b}{\\footer{c}}d}", "ad"),
            (b"{\\rtf1{\\pict\\pngblip 8950}a{\\nonshppict{\\pict 00}}}", "a"),
            (b"{\\rtf1 a{\\*\\shppict{\\pict\\bin4 }{\\x}}b}", "ab"),
            (b"{\\rtf1 a{\\object{\\*\\objdata 00}{\\result shown}}b}", "ashownb"),
            (b"{\\rtf1{\\listtext\\f1\\'B7\\tab}a}", "·\ta"),
            (b"{\\rtf1{\\upr{old}{\\*\\ud{new}}}}", "new"),
            (b"{\\rtf1 a{\\*\\ud b}c}", "ac"),
            (b"{\\rtf1 a{\\v secret\\par}b\\deleted c\\deleted0 d}", "abd"),
            // Octets by code page.
            (b"{\\rtf1\\ansi caf\\'e9 \\'80\\'93}", "café €“"),
            (b"{\\rtf1\\ansi\\ansicpg1251 \\'cc\\'ee\\'f1\\'f2}", "Мост"),
            (b"{\\rtf1\\ansicpg1252{\\fonttbl{\\f0\\fcharset0 A;}{\\f1\\fcharset161 B;}}\\f1 \\'e1\\f0 \\'e1}", "αá"),
            (b"{\\rtf1{\\fonttbl\\f0\\fcharset238 A;\\f7\\fcharset204 B;}\\'b9{\\f7 \\'b9}\\'b9}", "ą№ą"),
            (b"{\\rtf1\\deff3{\\fonttbl{\\f3\\fcharset186 A;}}\\'e0\\f9 \\'e0\\plain\\'e0}", "ąàą"),
            (b"{\\rtf1{\\fonttbl{\\f0\\fcharset0 A;}{\\f1\\fcharset2 Symbol;}}\\f1\\'B7\\f0\\'B7}", "•·"),
            (b"{\\rtf1{\\fonttbl{\\f0\\fcharset0\\cpg1253 A;}}\\'e1}", "α"),
            (b"{\\rtf1\\mac \\'8e}", "é"),
            (b"{\\rtf1\\pc \\'81}", "ü"),
            (b"{\\rtf1\\ansicpg932 \\'93\\'fa\\'b1x}", "日\u{FF71}x"),
            (b"{\\rtf1\\ansicpg932 \\'83A\\'83\\par \\'83xy}", "ア\u{FFFD}\nベy"),
            (b"{\\rtf1\\ansicpg932 \\'83\\'5c\\'83\\'7b\\'83\\\\}", "ソボ\u{FFFD}\\"),
            (
                b"{\\rtf1{\\fonttbl{\\f0\\fcharset0 A;}{\\f1\\fcharset128 B;}{\\f2\\fcharset134 C;}{\\f3\\fcharset136 D;}\
                {\\f4\\fcharset129 E;}}\\f0\\'e9\\f1\\'94\\'67\\f2\\'b2\\'a8\\f3\\'aa\\'69\\f4\\'c6\\'c4\\'b5\\'b5\\f0\\'e9}",
                "é波波波파도é",
            ),
            (b"{\\rtf1\\ansicpg949 \\'c6\r\n\\'c4!}", "파!"),
            (b"{\\rtf1\\ansicpg950 \\b\\'aai\\b0  !}", "波 !"),
            (b"{\\rtf1\\ansicpg54936 \\'94\\'39\\'da\\'33}", "💩"),
            (b"{\\rtf1\\ansicpg936 \\'c4 a}", "\u{FFFD} a"),
            (b"{\\rtf1\\ansicpg65001 \\'c3\\'bc\\'e2\\'82\\'ac\\'f0\\'9f\\'98\\'80\\'c3a}", "ü€😀\u{FFFD}a"),
            (b"{\\rtf1\\ansicpg4711 \\'e9a}", "\u{FFFD}a"),
            (b"{\\rtf1\\ansicpg1257 caf\xE9}", "café"),
            ("{\\rtf1 Grüße \u{20AC} 😀}".as_bytes(), "Grüße € 😀"),
            (b"{\\rtf1 \\'e\\'zz\\'}", "ezz"),
            (b"{\\rtf1 \\'+f\\'0f}", "+f\u{FFFD}"),
            (b"{\\rtf1 a\\'0db\\'0ac\\'0bd\\'09e}", "a\nb\nc\nd\te"),
            (b"{\\rtf1\\uc0 a\\u8232 b\\u8233 c\\u10 d}", "a\nb\nc\nd"),
            // Characters by number.
            (b"{\\rtf1\\u8364?5 \\u252\\'fc\\u-3 ?}", "€5 ü\u{FFFD}"),
            (b"{\\rtf1\\u-10179?\\u-8704?!}", "😀!"),
            (b"{\\rtf1\\u55357?\\u56832?\\u128512?}", "😀😀"),
            (b"{\\rtf1\\u-10179?x\\u-8704?}", "\u{FFFD}x\u{FFFD}"),
            (b"{\\rtf1\\uc0\\u252x{\\uc2\\u252abx}\\u252y}", "üxüxüy"),
            (b"{\\rtf1\\uc2\\u26085\\'93\\'fa\\u26412{\\'96}x}", "日本\u{2013}x"),
            (b"{\\rtf1\\u252\\unheardof x\\u252{}x}", "üxüx"),
            (b"{\\rtf1\\uc3\\u252\\bin2 }}\\{cx}", "üx"),
            (b"{\\rtf1\\u0?\\u65535?\\u1114112?\\u99999999999999?}", "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}"),
            (b"{\\rtf1\\u61623?}", "•"),
            // What breaks off or goes on.
            (b"{\\rtf1 a{b\\par c", "ab\nc"),
            (b"{\\rtf1 a}b}{\\rtf1 c}", "a"),
            (b"{\\rtf1 a\\", "a"),
            (b"{\\rtf1 a\\'", "a"),
            (b"{\\rtf1 a\\'e", "ae"),
            (b"{\\rtf1 a\\u", "a\u{FFFD}"),
            (b"{\\rtf1 a\\bin99999 b}", "a"),
            (b"{\\rtf1 a\\bin-5 b}", "ab"),
            (b"{\\rtf", ""),
            (b"{\\rtf1}", ""),
        ];
        for (source, expected) in CASES {
            assert_eq!(text(source), *expected, "{}", String::from_utf8_lossy(source));
        }
    }

    #[test]
    fn what_word_and_richedit_write_around_a_message_is_no_text() {
        let richedit = b"{\\rtf1\\fbidis\\ansi\\ansicpg1252\\deff0\\nouicompat\\deflang1031{\\fonttbl{\\f0\\fnil\\fcharset0 \
            Segoe UI;}{\\f1\\fnil Segoe UI;}}\r\n{\\colortbl ;\\red31\\green73\\blue125;}\r\n{\\*\\generator Riched20 \
            15.0.4420}{\\*\\mmathPr\\mmathFont1\\mwrapIndent1440 }\\viewkind4\\uc1 \r\n\\pard\\cf1\\embo\\f0\\fs20 Der Deich \
            h\\'e4lt\\embo0\\f1\\par\r\n{\\*\\lyncflags<rtf=1>}}\r\n\0";
        assert_eq!(both(richedit), Ok(("Der Deich hält".into(), String::new())));
        let word = b"{\\rtf1\\adeflang1025\\ansi\\ansicpg1252\\uc1\\adeff31507\\deff0\\stshfdbch31506{\\fonttbl{\\f0\\fbidi \
            \\froman\\fcharset0\\fprq2{\\*\\panose 02020603050405020304}Times New Roman{\\*\\falt Times};}{\\f37\\fswiss Calibri;}}\
            {\\colortbl;\\red0\\green0\\blue0;}{\\*\\defchp \\f37\\fs22 }{\\stylesheet{\\ql \\li0 Normal;}{\\*\\cs10 \\additive \
            Default;}}{\\*\\rsidtbl \\rsid1}{\\*\\xmlnstbl {\\xmlns1 http://x}}\\paperw11906{\\*\\pnseclvl1\\pnucrm{\\pntxta .}}\
            \\pard\\plain \\ltrpar{\\rtlch\\fcs1 \\af0 \\ltrch\\fcs0 \\insrsid1 Ebbe um \\hich\\af0\\dbch\\loch\\f0 9}{\\rtlch \
            \\ltrch \\b\\insrsid2  Uhr}{\\*\\bkmkstart x}{\\*\\bkmkend x}\\par {\\*\\themedata 504b}{\\*\\datastore 01}}";
        assert_eq!(
            both(word),
            Ok(("Ebbe um 9 Uhr".into(), "Ebbe um 9<strong> Uhr</strong>".into())),
            "{}",
            String::from_utf8_lossy(word)
        );
    }

    #[test]
    fn what_other_editors_write_is_read() {
        let textedit = b"{\\rtf1\\ansi\\ansicpg1252\\cocoartf2709\n\\cocoatextscaling0\\cocoaplatform0{\\fonttbl\\f0\\fswiss\\fcharset0 \
            Helvetica;\\f1\\fnil\\fcharset0 AppleColorEmoji;}\n{\\colortbl;\\red255\\green255\\blue255;}\n{\\*\\expandedcolortbl;;}\n\
            \\paperw11900\\paperh16840\\margl1440\n\\pard\\tx566\\pardirnatural\\partightenfactor0\n\n\\f0\\fs24 \\cf0 Nebel \\'fcber dem \
            Priel \n\\f1 \\uc0\\u55356 \\u57099 \n\\f0 \\\nbis \\uc0\\u8232 {\\field{\\*\\fldinst{HYPERLINK \"https://priel.example/\"}}\
            {\\fldrslt \\cf2 \\ul \\ulc2 neun}}}";
        assert_eq!(text(textedit), "Nebel über dem Priel 🌋\nbis \nneun <https://priel.example/>");
        let libreoffice = b"{\\rtf1\\ansi\\deff4\\adeflang1025\n{\\fonttbl{\\f0\\froman\\fprq2\\fcharset0 Times New Roman;}{\\f4\\froman\
            \\fprq2\\fcharset0 Liberation Serif{\\*\\falt Times New Roman};}{\\f5\\fnil\\fprq2\\fcharset0 Noto Sans CJK SC;}}\n{\\colortbl;\
            \\red0\\green0\\blue0;}\n{\\stylesheet{\\s0\\snext0\\kerning1\\dbch\\af8\\langfe2052\\hich\\af4\\loch\\f4\\fs24\\lang1031 \
            Standard;}}{\\*\\listtable{\\list\\listtemplateid1{\\listlevel\\levelnfc23{\\leveltext \\'01\\u8226 ?;}{\\levelnumbers;}\\fi-360}\
            \\listid1}}{\\listoverridetable{\\listoverride\\listid1\\listoverridecount0\\ls1}}{\\*\\generator LibreOffice/7.4}{\\info{\\creatim\
            \\yr2031\\mo5}}{\\*\\userprops}\\deftab709\\formshade{\\*\\pgdsctbl\n{\\pgdsc0\\pgdscuse451\\pgdscnxt0 Standard;}}\n{\\*\\ftnsep\
            \\chftnsep}\\pgndec\\pard\\plain \\s0{\\listtext\\pard\\plain \\u8226\\'3f\\tab}\\ls1 {\\loch\\f4\neins}\n\\par \\pard\\plain \
            {\\hich\\af5\\dbch\\af5\\uc2\\loch\\f5 \\u27874\\'b2\\'a8\\uc1}\n\\par }";
        assert_eq!(text(libreoffice), "•\teins\n波");
        let wordpad = b"{\\rtf1\\ansi\\ansicpg932\\deff0\\nouicompat\\deflang1041{\\fonttbl{\\f0\\fnil\\fcharset128 MS Gothic;}{\\f1\\fnil\
            \\fcharset2 Symbol;}}\r\n{\\*\\generator Riched20 10.0.19041}\\viewkind4\\uc1 \r\n\\pard{\\pntext\\f1\\'B7\\tab}{\\*\\pn\\pnlvlblt\
            \\pnf1\\pnindent0{\\pntxtb\\'B7}}\\fi-200\\li200\\f0\\fs22\\lang17 \\'94\\'67\\'82\\'aa\\'8d\\'82\\'82\\'a2\\par\r\n{\\pntext\\f1\
            \\'B7\\tab}OK\\par\r\n}\r\n\0";
        assert_eq!(text(wordpad), "•\t波が高い\n•\tOK");
        let table = b"{\\rtf1\\trowd\\cellx900\\cellx1800\\intbl Ebbe\\cell 9:10\\cell\\row\\trowd\\intbl\\itap2 Flut{\\nestcell}\
            {\\*\\nesttableprops\\trowd\\nestrow}{\\nonesttables\\par}\\itap1\\cell\\row}";
        assert_eq!(text(table), "Ebbe\t9:10\t\nFlut\t\n\t");
        let arabic = b"{\\rtf1\\ansicpg1256{\\fonttbl{\\f0\\fcharset178 A;}}\\rtlpar\\rtlmark\\'c7\\'ed\\ltrmark !}";
        assert_eq!(text(arabic), "\u{200F}\u{627}\u{64A}\u{200E}!");
    }

    #[test]
    fn text_that_is_mostly_not_understood_is_refused() {
        assert_eq!(both(b"{\\rtf1\\ansicpg1361 \\'d0\\'a1\\'d0\\'a2a}"), Err(Refusal::Charset));
        assert_eq!(text(b"{\\rtf1\\ansicpg1361 \\'d0\\'a1ab}"), "\u{FFFD}\u{FFFD}ab");
        assert_eq!(both(b"{\\rtf1\\ansicpg949 \\'ff\\'ff\\'ff}"), Err(Refusal::Charset));
        assert_eq!(text(b"{\\rtf1\\ansicpg1361{\\v\\'d0\\'a1}\\u65533?}"), "\u{FFFD}");
    }

    #[test]
    fn looks_become_markup() {
        assert_eq!(markup("{\\rtf1 no {\\f0\\fs20 markup}}"), "");
        assert_eq!(markup("{\\rtf1 a\\b b\\i c\\b0 d\\i0 e}"), "a<strong>b<em>c</em></strong><em>d</em>e");
        assert_eq!(
            markup("{\\rtf1{\\ul a}\\par\\strike b\\plain c\\ulw d\\ulnone e<&}"),
            "<span style='text-decoration:underline'>a</span><br/><span style='text-decoration:line-through'>b</span>c\
             <span style='text-decoration:underline'>d</span>e&lt;&amp;"
        );
        assert_eq!(both(b"{\\rtf1 a\\b\\par\\b0 b}"), Ok(("a\nb".into(), String::new())));
        assert_eq!(markup("{\\rtf1\\b a"), "<strong>a</strong>");
    }

    #[test]
    fn a_link_keeps_where_it_leads() {
        let link = |instruction: &str, shown: &str| {
            let source = format!("{{\\rtf1 at {{\\field{{\\*\\fldinst{instruction}}}{{\\fldrslt{shown}}}}}.}}");
            both(source.as_bytes()).expect("RTF")
        };
        for (instruction, shown, text, markup) in [
            (
                "{HYPERLINK \"https://siel.example/?a=1&b=2\"}",
                "{\\ul\\cf1 the gate\\par}",
                "at the gate <https://siel.example/?a=1&b=2>\n.",
                "at <a href='https://siel.example/?a=1&amp;b=2'>the gate</a><br/>.",
            ),
            (
                "{HYPERLINK https://siel.example }",
                "{https://siel.example\\ul0\\cf0}",
                "at https://siel.example.",
                "at <a href='https://siel.example'>https://siel.example</a>.",
            ),
            (
                " hyperlink \"mailto:imke@siel.example\" \\\\o \"tip\"",
                " \\b imke\\b0 @siel.example",
                "at imke@siel.example.",
                "at <a href='mailto:imke@siel.example'><strong>imke</strong>@siel.example</a>.",
            ),
            (
                "{HYPERLINK \"https://siel.example/a b\" \\\\l \"dritter\"}",
                " a",
                "at a <https://siel.example/a%20b#dritter>.",
                "at <a href='https://siel.example/a%20b#dritter'>a</a>.",
            ),
            ("{HYPERLINK \"javascript:x\"}", " a", "at a.", ""),
            ("{HYPERLINK \\\\l \"place\"}", " a", "at a.", ""),
            ("{PAGE}", " 7", "at 7.", ""),
            (
                "{HYPERLINK \"https://siel.example\"}",
                "",
                "at <https://siel.example>.",
                "at <a href='https://siel.example'></a>.",
            ),
            (
                "{HYPERLINK \"https://siel.example\"}",
                "{\\field{\\*\\fldinst HYPERLINK \"https://b.example\"}{\\fldrslt siel.example}}",
                "at siel.example.",
                "at <a href='https://siel.example'>siel.example</a>.",
            ),
        ] {
            assert_eq!(link(instruction, shown), (text.into(), markup.into()), "{instruction}");
        }
        let open = both(b"{\\rtf1{\\field{\\*\\fldinst HYPERLINK \"http://a.example\"}{\\fldrslt \\b x").expect("RTF");
        assert_eq!(open, ("x <http://a.example>".into(), "<a href='http://a.example'><strong>x</strong></a>".into()));
        let long = format!("HYPERLINK \"http://a.example/{}\"", "x".repeat(INSTRUCTION_OCTETS_MAX));
        assert_eq!(link(&long, " a"), ("at a.".into(), String::new()));
    }

    #[test]
    fn what_is_no_rtf_is_refused() {
        for source in [&b""[..], b"x", b"{\\pwd1 a}", b"\\rtf1 a", b"{ \\rtf1 a}", b"{\\urtf1 a}"] {
            assert_eq!(both(source), Err(Refusal::Malformed), "{}", String::from_utf8_lossy(source));
        }
        assert_eq!(both(b"{\\rtf1{\\pict\\pngblip 89504e47}\\par}"), Err(Refusal::Type));
        assert_eq!(both(b"{\\rtf1{\\object{\\*\\objdata 00}}}"), Err(Refusal::Type));
    }

    #[test]
    fn nesting_and_markup_are_bounded() {
        let nested = |depth: usize| format!("{{\\rtf1{}a{}", "{".repeat(depth), "}".repeat(depth + 1));
        assert_eq!(text(nested(DEPTH_MAX - 1).as_bytes()), "a");
        assert_eq!(both(nested(DEPTH_MAX).as_bytes()), Err(Refusal::Malformed));
        assert_eq!(both(&b"{\\rtf1".repeat(10_000)), Err(Refusal::Malformed));
        let many = format!("{{\\rtf1{}}}", "\\b x\\b0 y".repeat(ELEMENTS_MAX + 1));
        let (body, xhtml) = both(many.as_bytes()).expect("RTF");
        assert_eq!((body.len(), xhtml.len()), (2 * (ELEMENTS_MAX + 1), 0));
        let lines = format!("{{\\rtf1\\b a{} b}}", "\\par".repeat(100_000));
        let (body, xhtml) = both(lines.as_bytes()).expect("RTF");
        assert_eq!((body.len(), xhtml.len()), (100_002, 0));
        let fonts: String = (0..10_000).map(|n| format!("{{\\f{n}\\fcharset204 x;}}")).collect();
        assert_eq!(text(format!("{{\\rtf1{{\\fonttbl{fonts}}}\\f1\\'e0\\f9999\\'e0}}").as_bytes()), "аà");
        let word = format!("{{\\rtf1\\{}9{} a}}", "x".repeat(100_000), "9".repeat(100_000));
        assert_eq!(text(word.as_bytes()), "a");
    }

    #[test]
    fn whatever_comes_in_is_refused_or_becomes_good_text_and_markup() {
        const PIECES: &[&str] = &[
            "{",
            "}",
            "\\",
            "{\\*",
            "\\'e9",
            "\\'",
            "\\u8364",
            "\\u-10179",
            "\\u56832",
            "?",
            "\\uc0",
            "\\uc3",
            "\\b",
            "\\b0 ",
            "\\i ",
            "\\ul",
            "\\strike",
            "\\plain",
            "\\par",
            "\\line ",
            "\r\n",
            "\t",
            "\0",
            "x",
            "ü",
            "😀",
            "\u{FFFE}",
            " ",
            "9",
            "-",
            "\\bin3 ",
            "\\fonttbl",
            "\\f1",
            "\\fcharset128",
            "\\fcharset2",
            "\\cpg65001",
            "\\ansicpg932",
            "\\ansicpg54936",
            "\\'81",
            "\\'30",
            "\\u8232",
            "\\pict",
            "\\v ",
            "{\\field",
            "{\\*\\fldinst HYPERLINK \"http://a.example\"}",
            "{\\fldrslt ",
            "\\upr",
            "{\\*\\ud",
            "<",
            "&",
            "'",
            "\"",
            "\\~",
            "\\{",
            "\\cell",
            "\\x",
            "\\'c3",
            "\\'93",
        ];
        let mut rng = Rng::from_number(19);
        for _ in 0..30_000 {
            let mut source = String::from("{\\rtf1");
            (0..rng.below(40)).for_each(|_| source.push_str(PIECES[rng.below(PIECES.len() as u64) as usize]));
            let mut octets = source.into_bytes();
            if rng.below(4) == 0 {
                octets.push(0xFF);
            }
            let _ = both(&octets);
        }
    }
}
