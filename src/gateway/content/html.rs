//! text/html to XHTML-IM (XEP-0071) and to plain text, in one pass over the source.
//!
//! Nothing is copied through: tags are read tolerantly, and only elements, attributes
//! and style properties of the recommended profile are written anew, so the result is
//! always well-formed. Where a link's text does not say where it leads, the plain text
//! does so behind it, between angle brackets (RFC 3986 appendix C). Of all other elements the text is kept, of scripts and styles
//! not even that. HTML that breaks off within a tag, or goes beyond the bounds, is
//! given as plain text alone (REQ-7572-27).

use super::mime::Value;
use super::reference::decoded;
use crate::base::text::XmlEscaped;
use core::fmt::Write;
use std::borrow::Cow;

/// Most octets of XHTML; markup can outgrow its source.
pub(super) const XHTML_OCTETS_MAX: usize = 32 * 1024;
/// Most elements written: a stanza has a bound too, and other elements.
pub(super) const ELEMENTS_MAX: usize = 256;
/// Most elements open at one time, for the same reason.
const DEPTH_MAX: usize = 24;
/// Attributes of one element that are looked at.
const ATTRIBUTES_MAX: usize = 16;

/// Octets at the beginning of a document in which it says its charset (HTML, section
/// 13.2.3.2).
const DECLARATION_OCTETS_MAX: usize = 1024;

/// Appends the text of `source` to `body` and its markup to `xhtml`; leaves `xhtml`
/// empty if the source is broken. Was a picture left out that nothing stands for?
pub(super) fn read(source: &str, body: &mut String, xhtml: &mut String) -> bool {
    xhtml.clear();
    let plain = Plain { out: body, line_breaks: 0, has_blank: false, is_empty: true };
    let mut reader = Reader {
        rest: source,
        plain,
        xhtml,
        open: heapless::Vec::new(),
        link: None,
        elements: 0,
        is_broken: false,
        apart: Apart::Not,
        has_lost_picture: false,
    };
    while reader.step() {}
    reader.finish()
}

/// The charset that a document names itself, in `<meta charset>` or in the Content-Type of
/// a `<meta content>`.
pub(super) fn declared_charset(octets: &[u8]) -> Option<String> {
    const TAG: &str = "<meta";
    let start = octets.get(..octets.len().min(DECLARATION_OCTETS_MAX))?;
    let text: String = start.iter().map(|octet| if octet.is_ascii() { char::from(*octet) } else { '?' }).collect();
    let mut rest = text.as_str();
    while let Some(at) = rest.to_ascii_lowercase().find(TAG) {
        rest = rest.get(at + TAG.len()..)?;
        let mut attributes = Attributes::new();
        if rest.starts_with(|c: char| c == '/' || is_blank(c)) {
            rest = read_attributes(rest, &mut attributes)?;
        }
        let content = || Value::of(&attribute(&attributes, "content")?).parameter("charset").map(Cow::into_owned);
        if let Some(charset) = attribute(&attributes, "charset").or_else(content) {
            let charset = charset.trim_matches(['\'', '"']);
            // Nobody could have read the tag.
            let is_utf16 = charset.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("utf-16"));
            return Some(if is_utf16 { "utf-8" } else { charset }.to_owned());
        }
    }
    None
}

/// What an element of HTML becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// An element within a line, with a style of its own.
    Inline(&'static str, &'static str),
    /// A paragraph, with a style of its own.
    Paragraph(&'static str),
    /// A container of paragraphs or items.
    Block(&'static str),
    Item,
    Link,
    Image,
    LineBreak,
    /// No element, but a line of its own.
    Line,
    /// No element, but apart from what is beside it.
    Cell,
    /// Nothing, nor its text.
    Dropped,
}

/// What the element of that name becomes. One that is missing here leaves its text.
fn meaning(name: &str) -> Option<Meaning> {
    use Meaning::*;
    Some(match name {
        "a" => Link,
        "b" | "strong" => Inline("strong", ""),
        "i" | "em" | "var" | "dfn" => Inline("em", ""),
        "cite" => Inline("cite", ""),
        "span" | "font" => Inline("span", ""),
        "u" | "ins" => Inline("span", "text-decoration:underline"),
        "s" | "strike" | "del" => Inline("span", "text-decoration:line-through"),
        "code" | "tt" | "kbd" | "samp" => Inline("span", "font-family:monospace"),
        "p" | "div" | "address" | "center" | "dt" | "dd" => Paragraph(""),
        "pre" => Paragraph("font-family:monospace"),
        "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => Paragraph("font-weight:bold"),
        "blockquote" => Block("blockquote"),
        "ul" => Block("ul"),
        "ol" => Block("ol"),
        "li" => Item,
        "img" => Image,
        "br" => LineBreak,
        "hr" | "tr" | "table" | "form" | "section" | "article" | "header" | "footer" | "main" | "nav" | "aside"
        | "dl" | "figure" | "figcaption" | "fieldset" | "legend" | "details" | "summary" | "caption" | "menu"
        | "dir" => Line,
        "td" | "th" | "option" => Cell,
        "script" | "style" | "title" | "xmp" | "iframe" | "noembed" | "noframes" => Dropped,
        _ => return None,
    })
}

/// An element that was written and is not closed yet.
#[derive(Clone, Copy, Debug)]
struct Open {
    meaning: Meaning,
    /// As it was written.
    element: &'static str,
    /// Do blanks count in it?
    is_preformatted: bool,
}

struct Reader<'a, 'o> {
    rest: &'a str,
    plain: Plain<'o>,
    xhtml: &'o mut String,
    open: heapless::Vec<Open, DEPTH_MAX>,
    /// Where the link leads that is open, and where its text begins in the plain text.
    link: Option<(String, usize)>,
    elements: usize,
    is_broken: bool,
    /// What the markup has to put before the next text.
    apart: Apart,
    /// Was a picture left out that has no text, either?
    has_lost_picture: bool,
}

/// How what follows is kept apart where no element of the profile does so.
#[derive(Clone, Copy, Debug, Default)]
enum Apart {
    #[default]
    Not,
    Blank,
    Line,
}

/// Attributes with their values as they stand in the source.
type Attributes<'a> = heapless::Vec<(&'a str, &'a str), ATTRIBUTES_MAX>;

impl<'a> Reader<'a, '_> {
    /// Takes one piece: a run of text, a tag, a comment. `false` at the end.
    fn step(&mut self) -> bool {
        let Some(rest) = self.rest.strip_prefix('<') else {
            let end = self.rest.find('<').unwrap_or(self.rest.len());
            let (text, rest) = self.rest.split_at(end);
            self.rest = rest;
            self.text(text);
            return !text.is_empty();
        };
        if let Some(comment) = rest.strip_prefix("!--") {
            self.skip_comment(comment);
        } else if rest.starts_with(['!', '?']) {
            self.skip_behind(rest, ">");
        } else if let Some(name) = rest.strip_prefix('/').filter(|name| name.starts_with(is_name_start)) {
            self.end_tag(name);
        } else if rest.starts_with(is_name_start) {
            self.start_tag(rest);
        } else {
            self.rest = rest;
            self.text("<");
        }
        true
    }

    /// Skips a comment, whose ends HTML knows several of.
    fn skip_comment(&mut self, comment: &'a str) {
        let empty = comment.strip_prefix("->").or_else(|| comment.strip_prefix('>'));
        let end = || ["-->", "--!>"].iter().filter_map(|end| Some(comment.find(end)? + end.len())).min();
        match empty.or_else(|| comment.get(end()?..)) {
            Some(behind) => self.rest = behind,
            None => self.break_off(),
        }
    }

    fn skip_behind(&mut self, rest: &'a str, end: &str) {
        match rest.split_once(end) {
            Some((_, behind)) => self.rest = behind,
            None => self.break_off(),
        }
    }

    /// The source ends within something that is not text.
    fn break_off(&mut self) {
        self.rest = "";
        self.is_broken = true;
    }

    fn start_tag(&mut self, text: &'a str) {
        let (name, rest) = tag_name(text);
        let mut attributes = Attributes::new();
        let Some(rest) = read_attributes(rest, &mut attributes) else { return self.break_off() };
        self.rest = rest;
        let Some(meaning) = meaning(&name) else { return };
        match meaning {
            Meaning::Inline(element, style) => {
                self.keep_apart();
                self.begin(meaning, element, style, &attributes);
            }
            Meaning::Link => {
                if let Some(href) = attribute(&attributes, "href").and_then(|href| safe_link(&href)) {
                    self.begin_link(href);
                }
            }
            Meaning::Image => self.image(&attributes),
            Meaning::LineBreak => {
                self.plain.line_breaks += 1;
                self.write_element(format_args!("<br/>"));
            }
            Meaning::Line => self.line(),
            Meaning::Cell => self.cell(),
            Meaning::Paragraph(style) => {
                self.end_paragraph();
                self.plain.line();
                self.begin(meaning, "p", style, &attributes);
                if name == "pre" {
                    self.set_preformatted();
                    // The line it stands in is none of it.
                    self.rest = rest.strip_prefix('\n').unwrap_or(rest);
                }
            }
            Meaning::Block(element) => {
                self.end_paragraph();
                self.plain.line();
                self.begin(meaning, element, "", &attributes);
            }
            Meaning::Item => self.begin_item(&attributes),
            Meaning::Dropped => self.skip_content(&name),
        }
    }

    fn end_tag(&mut self, text: &'a str) {
        let (name, rest) = tag_name(text);
        let Some(rest) = read_attributes(rest, &mut Attributes::new()) else { return self.break_off() };
        self.rest = rest;
        let Some(meaning) = meaning(&name) else { return };
        match meaning {
            Meaning::Paragraph(_) | Meaning::Block(_) | Meaning::Item | Meaning::Line => self.line(),
            Meaning::Cell => self.cell(),
            _ => {}
        }
        if let Some(at) = self.open.iter().rposition(|open| open.meaning == meaning) {
            self.end_to(at);
        }
    }

    /// What follows begins a line, though no element says so.
    fn line(&mut self) {
        self.plain.line();
        self.apart = Apart::Line;
    }

    /// What follows is apart from what is before it.
    fn cell(&mut self) {
        self.plain.has_blank = true;
        if matches!(self.apart, Apart::Not) {
            self.apart = Apart::Blank;
        }
    }

    /// Keeps what is written now apart from what is before it, unless it is already.
    fn keep_apart(&mut self) {
        let apart = core::mem::take(&mut self.apart);
        let before = self.xhtml.trim_end_matches(is_blank);
        let tag = before.strip_suffix('>').and_then(|before| before.rsplit('<').next()).unwrap_or_default();
        let name = tag.trim_start_matches('/').split(|c: char| !c.is_ascii_alphanumeric()).next();
        let is_new_line =
            before.is_empty() || name.is_some_and(|name| ["p", "ul", "ol", "li", "blockquote", "br"].contains(&name));
        match apart {
            Apart::Line if !is_new_line => self.write_element(format_args!("<br/>")),
            Apart::Blank if !is_new_line && before.len() == self.xhtml.len() => self.write(format_args!(" ")),
            _ => {}
        }
    }

    /// Skips what stands between a tag and its end tag, whatever that looks like.
    fn skip_content(&mut self, name: &str) {
        let mut rest = self.rest;
        while let Some(at) = rest.find("</") {
            rest = rest.get(at + 2..).unwrap_or_default();
            if rest.get(..name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name)) {
                let behind = rest.get(name.len()..).unwrap_or_default();
                if behind.starts_with(|c: char| c == '>' || c == '/' || is_blank(c)) {
                    return self.skip_behind(behind, ">");
                }
            }
        }
        self.break_off();
    }

    fn begin(&mut self, meaning: Meaning, element: &'static str, style: &str, attributes: &Attributes<'_>) {
        let mut styles = String::from(style);
        for (name, property) in [("color", "color"), ("face", "font-family")] {
            if let Some(value) = attribute(attributes, name) {
                push_declaration(property, &value, &mut styles);
            }
        }
        let own_style = attribute(attributes, "style").unwrap_or_default();
        push_declarations(&own_style, &mut styles);
        if styles.is_empty() {
            self.write_element(format_args!("<{element}>"));
        } else {
            self.write_element(format_args!("<{element} style='{}'>", XmlEscaped(&styles)));
        }
        self.push_open(meaning, element);
        if keeps_lines(&own_style) {
            self.set_preformatted();
        }
    }

    fn begin_link(&mut self, href: String) {
        // A link within a link is none: the first one ends.
        if let Some(at) = self.open.iter().rposition(|open| open.meaning == Meaning::Link) {
            self.end_to(at);
        }
        self.keep_apart();
        self.write_element(format_args!("<a href='{}'>", XmlEscaped(&href)));
        self.link = Some((href, self.plain.out.len()));
        self.push_open(Meaning::Link, "a");
    }

    fn end_link(&mut self) {
        let Some((href, start)) = self.link.take() else { return };
        let text = self.plain.out.get(start..).unwrap_or_default();
        if says(text, &href) {
            return;
        }
        if text.is_empty() {
            self.plain.text("<", true);
        } else {
            self.plain.out.push_str(" <");
        }
        self.plain.out.push_str(&href);
        self.plain.out.push('>');
    }

    fn begin_item(&mut self, attributes: &Attributes<'_>) {
        self.line();
        let list = self.open.iter().rposition(|open| matches!(open.meaning, Meaning::Block("ul" | "ol")));
        let Some(list) = list else { return };
        let inside = self.open.iter().skip(list);
        if let Some(at) = inside.clone().position(|open| open.meaning == Meaning::Item) {
            self.end_to(list + at);
        }
        self.begin(Meaning::Item, "li", "", attributes);
    }

    fn image(&mut self, attributes: &Attributes<'_>) {
        let alt = attribute(attributes, "alt").unwrap_or_default();
        let Some(src) = attribute(attributes, "src").filter(|src| is_safe_image(src)) else {
            self.has_lost_picture |= alt.trim().is_empty();
            return self.decoded_text(&alt);
        };
        let src = src.trim();
        let mut size = String::new();
        for name in ["height", "width"] {
            let value = attribute(attributes, name).unwrap_or_default();
            if (1..=4).contains(&value.len()) && value.bytes().all(|octet| octet.is_ascii_digit()) {
                // Writing into a String does not fail.
                let _ = write!(size, " {name}='{value}'");
            }
        }
        self.keep_apart();
        self.plain.text(if alt.is_empty() { src } else { &alt }, false);
        self.write_element(format_args!("<img alt='{}' src='{}'{size}/>", XmlEscaped(&alt), XmlEscaped(src)));
    }

    /// Ends a paragraph that is open within the innermost block: HTML lets it go
    /// without an end tag.
    fn end_paragraph(&mut self) {
        let block = self.open.iter().rposition(|open| matches!(open.meaning, Meaning::Block(_) | Meaning::Item));
        let first = block.map_or(0, |at| at + 1);
        let inside = self.open.iter().skip(first);
        if let Some(at) = inside.clone().position(|open| matches!(open.meaning, Meaning::Paragraph(_))) {
            self.end_to(first + at);
        }
    }

    /// Closes all open elements from the innermost to the one at `at`.
    fn end_to(&mut self, at: usize) {
        while self.open.len() > at {
            let Some(open) = self.open.pop() else { return };
            if open.meaning == Meaning::Link {
                self.end_link();
            }
            self.write(format_args!("</{}>", open.element));
        }
    }

    fn push_open(&mut self, meaning: Meaning, element: &'static str) {
        let is_preformatted = self.open.last().is_some_and(|open| open.is_preformatted);
        if self.open.push(Open { meaning, element, is_preformatted }).is_err() {
            self.is_broken = true;
        }
    }

    fn set_preformatted(&mut self) {
        if let Some(open) = self.open.last_mut() {
            open.is_preformatted = true;
        }
    }

    fn text(&mut self, text: &str) {
        if !text.contains('&') {
            return self.decoded_text(text);
        }
        self.decoded_text(&decoded(text));
    }

    fn decoded_text(&mut self, text: &str) {
        let is_preformatted = self.open.last().is_some_and(|open| open.is_preformatted);
        self.plain.text(text, is_preformatted);
        if text.contains(|c| !is_blank(c)) {
            self.keep_apart();
        }
        if is_preformatted {
            self.write_preformatted(text);
        } else {
            self.write(format_args!("{}", XmlEscaped(text)));
        }
    }

    /// Writes text whose line ends and blanks count, though the profile has no element for
    /// it.
    fn write_preformatted(&mut self, text: &str) {
        for (place, line) in text.split('\n').enumerate() {
            if place > 0 {
                self.write_element(format_args!("<br/>"));
            }
            let mut is_behind_blank = self.xhtml.ends_with(['>', ' ']);
            for c in line.chars() {
                let c = if c == ' ' && is_behind_blank { '\u{A0}' } else { c };
                is_behind_blank = matches!(c, ' ' | '\u{A0}');
                self.write(format_args!("{}", XmlEscaped(c.encode_utf8(&mut [0; 4]))));
            }
        }
    }

    fn write_element(&mut self, markup: core::fmt::Arguments<'_>) {
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

    fn finish(mut self) -> bool {
        self.end_to(0);
        self.end_link();
        if self.is_broken || self.xhtml.len() > XHTML_OCTETS_MAX {
            self.xhtml.clear();
        }
        self.has_lost_picture
    }
}

/// The text without markup: blanks made one, blocks on lines of their own.
struct Plain<'o> {
    out: &'o mut String,
    /// Line ends that come before the next text.
    line_breaks: usize,
    has_blank: bool,
    is_empty: bool,
}

impl Plain<'_> {
    /// What follows begins a line.
    fn line(&mut self) {
        self.line_breaks = self.line_breaks.max(1);
    }

    fn text(&mut self, text: &str, is_preformatted: bool) {
        for c in text.chars() {
            match c {
                '\n' if is_preformatted => self.line_breaks += 1,
                c if is_blank(c) && !(is_preformatted && matches!(c, ' ' | '\t')) => self.has_blank = true,
                c => self.push(if c == '\u{A0}' { ' ' } else { c }),
            }
        }
    }

    fn push(&mut self, c: char) {
        // Nothing stands before the first text, and blanks do not begin a line.
        if !self.is_empty {
            if self.line_breaks > 0 {
                self.out.extend(core::iter::repeat_n('\n', self.line_breaks));
            } else if self.has_blank {
                self.out.push(' ');
            }
        }
        (self.line_breaks, self.has_blank, self.is_empty) = (0, false, false);
        self.out.push(if crate::base::text::is_xml_char(c) { c } else { char::REPLACEMENT_CHARACTER });
    }
}

const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{C}')
}

const fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic()
}

/// The name at the beginning of a tag, in lower case, and what follows it.
fn tag_name(text: &str) -> (String, &str) {
    let end = text.find(|c: char| c == '>' || c == '/' || is_blank(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    // No element we know has a longer name.
    (crate::base::text::cut(name, 16).to_ascii_lowercase(), rest)
}

/// Reads attributes up to the end of the tag; gives what is behind it, or `None` if
/// the tag has no end.
fn read_attributes<'a>(mut rest: &'a str, attributes: &mut Attributes<'a>) -> Option<&'a str> {
    loop {
        rest = rest.trim_start_matches(|c: char| c == '/' || is_blank(c));
        if let Some(behind) = rest.strip_prefix('>') {
            return Some(behind);
        }
        let end = rest.find(|c: char| matches!(c, '=' | '>' | '/') || is_blank(c))?;
        // A name may begin with `=`, so that this always goes on.
        let end = if end == 0 { 1 } else { end };
        let (name, behind) = rest.split_at_checked(end)?;
        rest = behind.trim_start_matches(is_blank);
        let mut value = "";
        if let Some(behind) = rest.strip_prefix('=') {
            let behind = behind.trim_start_matches(is_blank);
            (value, rest) = match behind.chars().next()? {
                quote @ ('"' | '\'') => behind.get(1..)?.split_once(quote)?,
                _ => behind.split_at(behind.find(|c: char| c == '>' || is_blank(c))?),
            };
        }
        // The first of a name counts; more than we look at are none of ours.
        let _ = attributes.push((name, value));
    }
}

/// The value of an attribute, its character references resolved.
fn attribute(attributes: &Attributes<'_>, name: &str) -> Option<String> {
    attributes.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| decoded(value))
}

/// Schemes a link may lead to. Anything else could run something, or tell the
/// reader's machine to.
const LINK_SCHEMES: [&str; 7] = ["http", "https", "mailto", "xmpp", "sip", "sips", "tel"];

/// The address of a link as a browser reads it, if it may be followed: blanks around it and
/// line ends in it are none of it, other blanks it cannot have.
pub(super) fn safe_link(href: &str) -> Option<String> {
    let address = href.trim().replace(['\t', '\n', '\r'], "").replace(' ', "%20");
    is_safe_link(&address).then_some(address)
}

fn is_safe_link(address: &str) -> bool {
    has_scheme(address, &LINK_SCHEMES)
}

fn is_safe_image(src: &str) -> bool {
    has_scheme(src, &LINK_SCHEMES[..2])
}

fn has_scheme(address: &str, schemes: &[&str]) -> bool {
    let address = address.trim();
    // Browsers leave blanks and controls out before they look at the scheme.
    let is_whole = !address.contains(|c: char| c.is_whitespace() || c.is_control() || is_direction_mark(c));
    address.split_once(':').is_some_and(|(found, rest)| {
        is_whole && !rest.is_empty() && schemes.iter().any(|scheme| found.eq_ignore_ascii_case(scheme))
    })
}

/// Could it let text pose as something else?
const fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Does the text of a link say where it leads, be it without the scheme?
pub(super) fn says(text: &str, target: &str) -> bool {
    const SCHEMES: [&str; 7] = ["http://", "https://", "mailto:", "xmpp:", "sip:", "sips:", "tel:"];
    let bare = |address: &str| {
        let scheme = SCHEMES
            .iter()
            .find(|scheme| address.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
        scheme.map_or(0, |scheme| scheme.len())
    };
    let (text, target) = (text.trim().trim_end_matches('/'), target.trim_end_matches('/'));
    let (bare_text, bare_target) = (text.get(bare(text)..), target.get(bare(target)..));
    let is_same = bare_text.zip(bare_target).is_some_and(|(text, target)| text.eq_ignore_ascii_case(target));
    is_same || text.contains(target)
}

/// The style properties of the recommended profile (XEP-0071 section 7.5).
const PROPERTIES: [&str; 10] = [
    "background-color",
    "color",
    "font-family",
    "font-size",
    "font-style",
    "font-weight",
    "margin-left",
    "margin-right",
    "text-align",
    "text-decoration",
];

/// Does this style keep line ends and blanks as they are?
fn keeps_lines(style: &str) -> bool {
    let mut declarations = style.split(';').filter_map(|declaration| declaration.split_once(':'));
    declarations.any(|(name, value)| {
        let start = value.trim_start().get(..3);
        name.trim().eq_ignore_ascii_case("white-space") && start.is_some_and(|start| start.eq_ignore_ascii_case("pre"))
    })
}

fn push_declarations(style: &str, out: &mut String) {
    for declaration in style.split(';') {
        if let Some((name, value)) = declaration.split_once(':') {
            push_declaration(name, value, out);
        }
    }
}

/// Appends a declaration if both its property and its value are harmless: a value is
/// words, numbers and colours, and calls nothing but a colour function.
fn push_declaration(name: &str, value: &str, out: &mut String) {
    let (name, value) = (name.trim(), value.trim());
    let Some(property) = PROPERTIES.iter().find(|property| name.eq_ignore_ascii_case(property)) else { return };
    let is_legal = |octet: u8| octet.is_ascii_alphanumeric() || b" #%,.-()'\"".contains(&octet);
    let lower = value.to_ascii_lowercase();
    let calls_colour_only = match lower.split_once('(') {
        Some((function, rest)) => {
            ["rgb", "rgba", "hsl", "hsla"].contains(&function) && rest.bytes().filter(|o| b"()".contains(o)).eq(*b")")
        }
        None => !lower.contains(')'),
    };
    if value.is_empty() || value.len() > 64 || !value.bytes().all(is_legal) || !calls_colour_only {
        return;
    }
    if !out.is_empty() {
        out.push(';');
    }
    // Writing into a String does not fail.
    let _ = write!(out, "{property}:{value}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use crate::base::xml::{Limits, Tree};

    fn both(source: &str) -> (String, String) {
        let (mut body, mut xhtml) = (String::new(), String::new());
        read(source, &mut body, &mut xhtml);
        assert_well_formed(&xhtml, source);
        (body, xhtml)
    }

    fn assert_well_formed(xhtml: &str, source: &str) {
        let document = format!("<body xmlns='http://www.w3.org/1999/xhtml'>{xhtml}</body>");
        let mut tree = Tree::new();
        let root = tree.parse_document(document.as_bytes(), Limits::STANZA);
        let root = root.unwrap_or_else(|e| panic!("{e:?}: {source:?} became {xhtml}"));
        assert_clean(root, source);
    }

    /// Only elements, attributes and links of the profile.
    fn assert_clean(node: crate::base::xml::Node<'_>, source: &str) {
        for child in node.children() {
            let known = ["a", "blockquote", "br", "cite", "em", "img", "li", "ol", "p", "span", "strong", "ul"];
            assert!(known.contains(&child.name()), "<{}> out of {source:?}", child.name());
            for (name, _, value) in child.attributes() {
                let fits = match name {
                    "href" => is_safe_link(value),
                    "src" => is_safe_image(value),
                    "style" => value.split(';').all(|d| PROPERTIES.contains(&d.split(':').next().unwrap_or_default())),
                    "alt" | "height" | "width" => true,
                    _ => false,
                };
                assert!(fits, "{name}={value} out of {source:?}");
            }
            assert_clean(child, source);
        }
    }

    #[test]
    fn req_7572_27_only_the_profile_of_xhtml_im_is_left() {
        let (body, xhtml) = both(
            "<html><head><title>x</title><script>alert(1)</script></head><body onload='x()'>\
             <p style='color:red;position:fixed'>Hallo <b>du</b> <a href='javascript:alert(2)'>da</a></p></body></html>",
        );
        assert_eq!(body, "Hallo du da");
        assert_eq!(xhtml, "<p style='color:red'>Hallo <strong>du</strong> da</p>");
    }

    #[test]
    fn links_and_images_lead_to_harmless_places_only() {
        let (body, xhtml) = both(
            "<a href=\"https://a.example/?x=1&amp;y=2\" onclick=x>a</a><a href=' JaVa\tscript:x'>b</a>\
             <a href='data:text/html,x'>c</a><img src='data:x' alt='d'><img src=http://e.example/e.png width=9 height='9e'>",
        );
        assert_eq!(body, "a <https://a.example/?x=1&y=2>bcdhttp://e.example/e.png");
        assert_eq!(
            xhtml,
            "<a href='https://a.example/?x=1&amp;y=2'>a</a>bcd<img alt='' src='http://e.example/e.png' width='9'/>"
        );
    }

    #[test]
    fn the_plain_text_says_where_a_link_leads_unless_its_text_does() {
        for (source, expected) in [
            ("<a href='https://fen.example/'>fen.example</a>!", "fen.example!"),
            ("<a href='HTTP://fen.example/a'>http://Fen.example/a/</a>", "http://Fen.example/a/"),
            ("<a href='mailto:ute@fen.example'>ute@fen.example</a>", "ute@fen.example"),
            ("at <a href='http://fen.example/map'> the<br>map</a><br>now", "at the\nmap <http://fen.example/map>\nnow"),
            ("x<br><a href='http://fen.example'></a>y", "x\n<http://fen.example>y"),
            (
                "<a href='http://fen.example'>a<a href='http://moor.example'>b",
                "a <http://fen.example>b <http://moor.example>",
            ),
            ("<a href='javascript:x'>a</a>", "a"),
        ] {
            assert_eq!(both(source).0, expected, "{source}");
        }
    }

    #[test]
    fn styles_are_filtered_by_property_and_value() {
        let (_, xhtml) = both(
            "<span style=\"COLOR: RGB(1,2,3); color:expression(x); background-color:url(x); font-family:'A B'; top:0\">x",
        );
        assert_eq!(xhtml, "<span style='color:RGB(1,2,3);font-family:&apos;A B&apos;'>x</span>");
        assert_eq!(
            both("<font color=#f00 face=Arial>x</font>").1,
            "<span style='color:#f00;font-family:Arial'>x</span>"
        );
    }

    #[test]
    fn elements_left_open_or_crossed_are_closed_in_order() {
        assert_eq!(both("<p>a<b>b<i>c</b>d<p>e").1, "<p>a<strong>b<em>c</em></strong>d</p><p>e</p>");
        assert_eq!(both("<ul><li>a<li>b<ul><li>c</ul></ul>").1, "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>");
        assert_eq!(both("</b></p>x</nothing>").1, "x");
    }

    #[test]
    fn req_7572_27_broken_html_is_plain_text_only() {
        for source in ["a<b", "a<b class='x", "a<!-- x", "a<script>x", "a<style>x</sty>", "a<p x=", "a</b"] {
            assert_eq!(both(source), ("a".into(), String::new()), "{source}");
        }
        let deep = format!("a{}", "<i>".repeat(DEPTH_MAX + 1));
        assert_eq!(both(&deep), ("a".into(), String::new()));
        let wide = format!("a{}", "<i></i>".repeat(ELEMENTS_MAX + 1));
        assert_eq!(both(&wide), ("a".into(), String::new()));
        let large = "&amp;".repeat(XHTML_OCTETS_MAX / 5 + 1);
        assert_eq!(both(&large).1, "");
    }

    #[test]
    fn plain_text_has_lines_where_blocks_are() {
        assert_eq!(
            both("<h1>A</h1>\n<div>b  c<br>d</div><ul><li>e<li>f</ul>g<table><tr><td>h<td>i</table>").0,
            "A\nb c\nd\ne\nf\ng\nh i"
        );
        assert_eq!(both("<pre>a  b\n c</pre>").0, "a  b\n c");
        assert_eq!(both("<pre>a\tb\n\n\n\td</pre>").0, "a\tb\n\n\n\td");
        assert_eq!(both("  a<br><br><br>b  ").0, "a\n\n\nb");
        assert_eq!(both("<div>a</div><div><br></div><div><br></div><div>b<br></div>c").0, "a\n\n\nb\nc");
        assert_eq!(both("<nav>a</nav><main>b<aside>c</aside><dl><dt>d<dd>e</dl></main>f").0, "a\nb\nc\nd\ne\nf");
    }

    #[test]
    fn character_references_are_resolved_once() {
        let (body, xhtml) =
            both("&lt;b&gt; &#60; &#x3C;script&#62; &amp;lt; &auml;&ouml;&uuml; &euro; &#128; &#0;&none; &#xD800; &");
        assert_eq!(body, "<b> < <script> &lt; äöü € € \u{FFFD}&none; \u{FFFD} &");
        assert!(!xhtml.contains("<b>") && !xhtml.contains("<script"));
        assert_eq!(both("1 < 2 <3").0, "1 < 2 <3");
        assert_eq!(
            both("&alpha;&Omega; &ne; &rArr; &lrm;&zwj;x&thinsp;&AMP;&LT;").0,
            "αΩ ≠ ⇒ \u{200E}\u{200D}x\u{2009}&<"
        );
    }

    #[test]
    fn character_references_may_lack_their_end_where_nothing_else_can_be_meant() {
        assert_eq!(both("Ebbe &amp Flut &copy 2031, &auml!").0, "Ebbe & Flut © 2031, ä!");
        assert_eq!(both("&#8364 5 &#x20AC, &#65B &#x &#").0, "€ 5 €, AB &#x &#");
        assert_eq!(both("&copy=2 &notice &alpha &ampx").0, "&copy=2 &notice &alpha &ampx");
        let (body, xhtml) = both("<a href='https://fen.example/?a=1&copy=2&lt=3'>fen</a>");
        assert_eq!(body, "fen <https://fen.example/?a=1&copy=2&lt=3>");
        assert_eq!(xhtml, "<a href='https://fen.example/?a=1&amp;copy=2&amp;lt=3'>fen</a>");
    }

    #[test]
    fn markup_keeps_apart_what_has_no_element_in_it() {
        for (source, expected) in [
            ("<table><tr><td>a<td>b<tr><td><b>c</b><td>d</table>e", "a b<br/><strong>c</strong> d<br/>e"),
            ("a<hr>b<section>c</section>d", "a<br/>b<br/>c<br/>d"),
            ("<p>a</p><table><tr><td>b</td></tr></table><p>c</p>", "<p>a</p>b<p>c</p>"),
            ("<ul><li><form>a</form></ul><table>b", "<ul><li>a</li></ul>b"),
            (
                "<p><table><td><i>a</i><hr><a href='http://moor.example'>b</a></table>c",
                "<p><em>a</em><br/><a href='http://moor.example'>b</a><br/>c</p>",
            ),
            ("<p>a<ul><li>b</ul>c</p>d<li>e", "<p>a</p><ul><li>b</li></ul>c<br/>d<br/>e"),
            ("<nav><br> <hr>a", "<br/> a"),
            ("<table><tr><td>a<td><img src=http://moor.example alt=b>", "a <img alt='b' src='http://moor.example'/>"),
        ] {
            assert_eq!(both(source).1, expected, "{source}");
        }
    }

    #[test]
    fn preformatted_text_keeps_its_lines_and_blanks() {
        let (body, xhtml) = both("x<pre>\na\n  b  c\n</pre>d");
        assert_eq!(body, "x\na\n  b  c\nd");
        assert_eq!(xhtml, "x<p style='font-family:monospace'>a<br/>\u{A0}\u{A0}b \u{A0}c<br/></p>d");
        let (body, xhtml) = both("<div style='White-Space: pre-wrap'>a\n b</div> c\n d");
        assert_eq!((&*body, &*xhtml), ("a\n b\nc d", "<p>a<br/>\u{A0}b</p> c\n d"));
    }

    #[test]
    fn comments_end_where_they_end_in_a_browser() {
        assert_eq!(both("a<!-->b<!--->c<!-- d -- > e --!>f<!-- g -->h").0, "abcfh");
        assert_eq!(both("a<!--[if mso]>b<![endif]-->c<![if !mso]>d<![endif]>e<![CDATA[f]]>g").0, "acdeg");
    }

    #[test]
    fn an_address_is_read_as_browsers_read_it() {
        for (href, expected) in [
            (" https://fen.example/Lage Plan.pdf\n", "https://fen.example/Lage%20Plan.pdf"),
            ("https://fen.example/\r\n  a\tb", "https://fen.example/%20%20ab"),
        ] {
            let (body, xhtml) = both(&format!("<a href='{href}'>Plan</a>"));
            assert_eq!(body, format!("Plan <{expected}>"));
            assert_eq!(xhtml, format!("<a href='{expected}'>Plan</a>"));
        }
        // Direction marks would let it pose as another one.
        assert_eq!(both("<a href='https://fen.example/\u{202E}gpj.exe'>a</a>").1, "a");
        assert_eq!(both("<a href='https://fen.example/\u{2067}x&#x200F;'>a</a>").0, "a");
        assert_eq!(both("<a href='java\nscript:x'>a</a><a href='java script:x'>b</a>"), ("ab".into(), "ab".into()));
    }

    #[test]
    fn a_picture_that_nothing_stands_for_is_told_of() {
        let has_lost_picture = |source: &str| read(source, &mut String::new(), &mut String::new());
        assert!(has_lost_picture("<img src='cid:1@moor.example'>"));
        assert!(has_lost_picture("x<img src='data:image/png;base64,AA' alt=' '>"));
        assert!(!has_lost_picture("<img src='cid:1@moor.example' alt='Watt'>"));
        assert!(!has_lost_picture("<img src='https://moor.example/w.png'>x"));
    }

    #[test]
    fn html_says_itself_which_charset_it_has() {
        for (source, expected) in [
            ("<html><head><meta charset=koi8-r>", Some("koi8-r")),
            ("<META content=\"text/html; CHARSET='windows-1251'\" http-equiv=Content-Type>", Some("windows-1251")),
            ("<meta name=x content=y><meta charset='gbk' />", Some("gbk")),
            ("<meta charset=utf-16le>", Some("utf-8")),
            ("<metal charset=gbk>", None),
            ("<meta charset=gbk", None),
            ("<p>charset=gbk", None),
            ("", None),
        ] {
            assert_eq!(declared_charset(source.as_bytes()).as_deref(), expected, "{source}");
        }
        assert_eq!(declared_charset(&[&b"x"[..]; 2000].concat()), None);
        assert_eq!(declared_charset(b"\xE9<meta charset=\xE9gbk>").as_deref(), Some("?gbk"));
    }

    #[test]
    fn whatever_comes_in_well_formed_markup_of_the_profile_comes_out() {
        const PIECES: &[&str] = &[
            "<",
            ">",
            "</",
            "/>",
            "'",
            "\"",
            "=",
            " ",
            "&",
            ";",
            "&#",
            "x41;",
            "<!--",
            "-->",
            "<![CDATA[",
            "]]>",
            "<p",
            "<p>",
            "</p>",
            "<b>",
            "</b>",
            "<a href=",
            "<a href='http:x'>",
            "</a>",
            "javascript:",
            "<img src=http://x alt='",
            "style='",
            "color:red",
            "<ul>",
            "<li>",
            "</ul>",
            "<script>",
            "</script>",
            "<pre>",
            "\n",
            "\t",
            "\0",
            "\u{C}",
            "\u{FFFE}",
            "ü",
            "😀",
            "text",
            "<br/>",
            "<font color='",
            "<div>",
            "</div>",
            "<table><tr><td>",
            "onload=",
            "<iframe",
            "</iframe>",
            "<title>",
            "<blockquote>",
            "<?",
            "<!",
            "\u{A0}",
            "&nbsp;",
            "&lt;",
            "&#1;",
        ];
        let mut rng = Rng::from_number(71);
        for _ in 0..20_000 {
            let source: String = (0..rng.below(40)).map(|_| PIECES[rng.below(PIECES.len() as u64) as usize]).collect();
            let (body, _) = both(&source);
            assert!(body.chars().all(crate::base::text::is_xml_char), "{source:?}");
        }
    }
}
