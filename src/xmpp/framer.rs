//! Where the next piece of a stream ends.
//!
//! The framer is shown the octets from the first one not used yet, again and again as
//! more come, and goes on where it stopped: a stream that comes octet by octet costs no
//! more than one that comes at once. It knows just enough of XML for that; whether a
//! piece is well-formed is for [`crate::base::xml`] to say. What XMPP leaves out of XML
//! (comments, processing instructions, document types) and what grows too large or too
//! deep is refused as soon as it is seen, not when it ends.
//!
//! [`StreamHeader`] is what a stream's start tag says.

use super::jid::Jid;
use super::ns;
use super::stream_error::{StreamCondition, StreamFault};
use crate::base::xml::{Bindings, Limits, Tree};
use crate::limits;

/// A piece of the stream, by the number of octets it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// More has to come; nothing is used.
    Incomplete,
    /// Blanks between elements: keep-alives.
    Whitespace(usize),
    /// The XML declaration; it has been checked.
    Declaration(usize),
    /// The start tag of the stream, for [`StreamHeader::parse`].
    Header(usize),
    /// A whole first-level element, for [`Tree::parse`].
    Element(usize),
    /// The end tag of the stream.
    End(usize),
}

/// Finds the pieces of one stream.
#[derive(Clone, Debug)]
pub struct Framer {
    /// Where in XML the scan stands.
    state: State,
    /// Octets of the current piece that were looked at.
    scanned: usize,
    /// Elements of the current piece that are open.
    depth: usize,
    /// What the stream is at.
    phase: Phase,
    /// Most octets of a piece.
    octets_max: usize,
    /// Blanks since the last piece that was none.
    blanks: usize,
    /// The name in the stream's start tag, prefix included.
    root: Box<[u8]>,
}

/// What the stream is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing came yet: an XML declaration may.
    Start,
    /// The header has to come.
    Header,
    /// Elements come.
    Elements,
    /// The end tag came.
    Ended,
}

/// Where in XML the scan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In character data, or before a piece.
    Text,
    /// Behind `<`.
    Open,
    /// In a start tag; was the last octet a slash?
    StartTag {
        /// Was it?
        slash: bool,
    },
    /// In an attribute value that ends with this quote.
    Value {
        /// Which.
        quote: u8,
    },
    /// In an end tag.
    EndTag,
    /// In `<![CDATA[`, so many octets of it seen.
    SectionStart {
        /// How many.
        seen: usize,
    },
    /// In a CDATA section, with so many `]` right before.
    Section {
        /// How many, two at most.
        brackets: u8,
    },
    /// In `<?xml`, so many octets of it seen.
    DeclarationStart {
        /// How many.
        seen: usize,
    },
    /// In an XML declaration; was the last octet a question mark?
    Declaration {
        /// Was it?
        question: bool,
    },
}

const SECTION_START: &[u8] = b"<![CDATA[";
const DECLARATION_START: &[u8] = b"<?xml";

impl Default for Framer {
    fn default() -> Self {
        Self::new()
    }
}

impl Framer {
    /// A framer before a stream header, with the limit for peers that proved nothing.
    pub fn new() -> Self {
        Self {
            state: State::Text,
            scanned: 0,
            depth: 0,
            phase: Phase::Start,
            octets_max: limits::STANZA_OCTETS_UNPROVEN_MAX,
            blanks: 0,
            root: Box::default(),
        }
    }

    /// Begins anew before a stream header, after TLS or SASL; the limit stays.
    pub fn restart(&mut self) {
        *self = Self { octets_max: self.octets_max, ..Self::new() };
    }

    /// Sets how many octets a piece may have.
    pub const fn set_limit(&mut self, octets_max: usize) {
        self.octets_max = octets_max;
    }

    /// Looks at `bytes`, which begin behind the last piece this framer gave, and says
    /// what comes next. After an error the stream is to be closed.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Item, StreamFault> {
        let most = bytes.len().min(self.octets_max);
        while let Some(&octet) = bytes.get(..most).and_then(|bytes| bytes.get(self.scanned)) {
            if self.is_between() {
                if is_blank(octet) {
                    return self.whitespace(bytes);
                }
                self.check_first(octet)?;
            }
            self.scanned += 1;
            if let Some(item) = self.step(octet, bytes)? {
                (self.scanned, self.depth, self.state, self.blanks) = (0, 0, State::Text, 0);
                return Ok(item);
            }
        }
        if self.scanned >= self.octets_max {
            return Err(fault(StreamCondition::PolicyViolation, "element too large"));
        }
        Ok(Item::Incomplete)
    }

    /// Is the next octet the first one of a piece?
    fn is_between(&self) -> bool {
        self.scanned == 0
    }

    fn whitespace(&mut self, bytes: &[u8]) -> Result<Item, StreamFault> {
        let length = bytes.iter().take_while(|octet| is_blank(**octet)).count();
        self.blanks += length;
        if self.blanks > self.octets_max {
            return Err(fault(StreamCondition::PolicyViolation, "too many blanks"));
        }
        // Nothing may stand before an XML declaration.
        if self.phase == Phase::Start {
            self.phase = Phase::Header;
        }
        Ok(Item::Whitespace(length))
    }

    fn check_first(&self, octet: u8) -> Result<(), StreamFault> {
        match (self.phase, octet) {
            (Phase::Ended, _) => Err(fault(StreamCondition::NotWellFormed, "data behind the end of the stream")),
            (_, b'<') => Ok(()),
            (Phase::Elements, _) => Err(fault(StreamCondition::BadFormat, "text between stanzas")),
            _ => Err(fault(StreamCondition::NotWellFormed, "no stream header")),
        }
    }

    /// Takes in one octet; gives the piece if it was the last one of it.
    fn step(&mut self, octet: u8, bytes: &[u8]) -> Result<Option<Item>, StreamFault> {
        self.state = match (self.state, octet) {
            (State::Text, b'<') => State::Open,
            (State::Text, _) => State::Text,
            (State::Open, b'/') => self.begin_end_tag()?,
            (State::Open, b'!') => State::SectionStart { seen: 2 },
            (State::Open, b'?') => self.begin_declaration()?,
            (State::Open | State::StartTag { .. } | State::Value { .. } | State::EndTag, b'<') => {
                return Err(fault(StreamCondition::NotWellFormed, "< inside of a tag"));
            }
            (State::Open, b'>') => return Err(fault(StreamCondition::NotWellFormed, "tag without a name")),
            (State::Open, _) => self.begin_element()?,
            (State::StartTag { slash }, b'>') => return self.end_start_tag(slash, bytes),
            (State::StartTag { slash: true }, _) => {
                return Err(fault(StreamCondition::NotWellFormed, "slash inside of a tag"));
            }
            (State::StartTag { .. }, quote @ (b'\'' | b'"')) => State::Value { quote },
            (State::StartTag { .. }, _) => State::StartTag { slash: octet == b'/' },
            (State::Value { quote }, _) if octet == quote => State::StartTag { slash: false },
            (State::Value { quote }, _) => State::Value { quote },
            (State::EndTag, b'>') => return self.end_element(bytes),
            (State::EndTag, _) => State::EndTag,
            (State::SectionStart { seen }, _) => self.begin_section(seen, octet)?,
            (State::Section { brackets: 2 }, b'>') => State::Text,
            (State::Section { brackets }, b']') => State::Section { brackets: (brackets + 1).min(2) },
            (State::Section { .. }, _) => State::Section { brackets: 0 },
            (State::DeclarationStart { seen }, _) => go_on_declaration(seen, octet)?,
            (State::Declaration { question: true }, b'>') => return self.end_declaration(bytes).map(Some),
            (State::Declaration { .. }, _) => State::Declaration { question: octet == b'?' },
        };
        Ok(None)
    }

    fn begin_element(&mut self) -> Result<State, StreamFault> {
        if self.depth >= limits::STANZA_DEPTH_MAX {
            return Err(fault(StreamCondition::PolicyViolation, "elements nested too deep"));
        }
        self.depth += 1;
        Ok(State::StartTag { slash: false })
    }

    fn begin_end_tag(&self) -> Result<State, StreamFault> {
        if self.phase != Phase::Elements {
            return Err(fault(StreamCondition::NotWellFormed, "end tag before the stream header"));
        }
        Ok(State::EndTag)
    }

    /// Whatever begins with `<!` and is no CDATA section within an element.
    fn begin_section(&self, seen: usize, octet: u8) -> Result<State, StreamFault> {
        if SECTION_START.get(seen) != Some(&octet) {
            return Err(fault(StreamCondition::RestrictedXml, "comment or document type"));
        }
        if self.depth == 0 {
            return Err(fault(StreamCondition::BadFormat, "text between stanzas"));
        }
        let seen = seen + 1;
        Ok(if seen == SECTION_START.len() { State::Section { brackets: 0 } } else { State::SectionStart { seen } })
    }

    fn begin_declaration(&self) -> Result<State, StreamFault> {
        if self.phase != Phase::Start || self.scanned != 2 {
            return Err(fault(StreamCondition::RestrictedXml, "processing instruction"));
        }
        Ok(State::DeclarationStart { seen: 2 })
    }

    fn end_start_tag(&mut self, slash: bool, bytes: &[u8]) -> Result<Option<Item>, StreamFault> {
        if self.phase != Phase::Elements {
            if slash {
                return Err(fault(StreamCondition::BadFormat, "stream header closes itself"));
            }
            self.phase = Phase::Elements;
            self.root = name_of(bytes.get(1..self.scanned).unwrap_or_default()).into();
            return Ok(Some(Item::Header(self.scanned)));
        }
        self.state = State::Text;
        if slash {
            return self.end_element(bytes);
        }
        if self.depth == 1 && local_name(bytes.get(1..self.scanned).unwrap_or_default()) == local_name(&self.root) {
            // It would swallow every stanza behind it.
            return Err(fault(StreamCondition::BadFormat, "second stream header"));
        }
        Ok(None)
    }

    fn end_element(&mut self, bytes: &[u8]) -> Result<Option<Item>, StreamFault> {
        self.state = State::Text;
        if self.depth == 0 {
            let tag = bytes.get(2..self.scanned).unwrap_or_default();
            let behind = tag.strip_prefix(&*self.root).and_then(|rest| rest.strip_suffix(b">"));
            if behind.is_none_or(|blanks| !blanks.iter().all(|octet| is_blank(*octet))) {
                return Err(fault(StreamCondition::NotWellFormed, "end tag does not fit"));
            }
            self.phase = Phase::Ended;
            return Ok(Some(Item::End(self.scanned)));
        }
        self.depth -= 1;
        Ok((self.depth == 0).then_some(Item::Element(self.scanned)))
    }

    fn end_declaration(&mut self, bytes: &[u8]) -> Result<Item, StreamFault> {
        self.phase = Phase::Header;
        check_declaration(bytes.get(..self.scanned).unwrap_or_default())?;
        Ok(Item::Declaration(self.scanned))
    }
}

/// `<?xml` with a blank behind it, or it is another processing instruction.
fn go_on_declaration(seen: usize, octet: u8) -> Result<State, StreamFault> {
    match DECLARATION_START.get(seen) {
        Some(expected) if *expected == octet => Ok(State::DeclarationStart { seen: seen + 1 }),
        None if is_blank(octet) => Ok(State::Declaration { question: false }),
        _ => Err(fault(StreamCondition::RestrictedXml, "processing instruction")),
    }
}

/// The name that a start tag begins with, prefix included.
fn name_of(tag: &[u8]) -> &[u8] {
    tag.split(|octet| is_blank(*octet) || *octet == b'>').next().unwrap_or_default()
}

/// The same without the prefix.
fn local_name(tag: &[u8]) -> &[u8] {
    name_of(tag).rsplit(|octet| *octet == b':').next().unwrap_or_default()
}

const fn is_blank(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t' | b'\n' | b'\r')
}

const fn fault(condition: StreamCondition, cause: &'static str) -> StreamFault {
    StreamFault::new(condition, cause)
}

/// An XML declaration: version 1.x, UTF-8 or no encoding.
fn check_declaration(bytes: &[u8]) -> Result<(), StreamFault> {
    // A document needs an element; the parser knows all about declarations.
    let mut document = Vec::with_capacity(bytes.len() + 4);
    document.extend_from_slice(bytes);
    document.extend_from_slice(b"<a/>");
    Tree::new().parse_document(&document, Limits::STANZA).map(|_| ()).map_err(StreamFault::from)
}

/// What the start tag of a stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    /// Who opened it.
    pub from: Option<Jid>,
    /// Whom it is for.
    pub to: Option<Jid>,
    /// The answerer's name for it.
    pub id: Option<String>,
    /// Major and minor number; `None` for streams from before XMPP 1.0.
    pub version: Option<(u16, u16)>,
    /// The language of what carries none.
    pub lang: Option<String>,
    /// The declarations that hold for all stanzas in it.
    pub bindings: Bindings,
}

impl StreamHeader {
    /// Reads an [`Item::Header`] of a stream whose stanzas have to be in the namespace
    /// `content`.
    pub fn parse(bytes: &[u8], content: &str, tree: &mut Tree) -> Result<Self, StreamFault> {
        let (element, bindings) = tree.parse_start_tag(bytes, Limits::UNPROVEN)?;
        if element.namespace() != ns::STREAMS {
            return Err(fault(StreamCondition::InvalidNamespace, "stream header in another namespace"));
        }
        if element.name() != "stream" {
            return Err(fault(StreamCondition::BadFormat, "stream header of another name"));
        }
        // A header may leave the default namespace to the stream's own; then each
        // stanza declares its own (RFC 6120 section 4.8.4).
        if ![content, ns::STREAMS].contains(&bindings.default_namespace()) {
            return Err(fault(StreamCondition::InvalidNamespace, "another content namespace"));
        }
        Ok(Self {
            from: address(element.attribute("from"), "from of the stream header is no address")?,
            to: address(element.attribute("to"), "to of the stream header is no address")?,
            id: bounded(element.attribute("id"))?,
            version: version(element.attribute("version"))?,
            lang: bounded(element.lang().filter(|lang| !lang.is_empty()))?,
            bindings,
        })
    }

    /// Is it a stream of XMPP 1.0, with features?
    pub fn has_features(&self) -> bool {
        self.version.is_some()
    }
}

fn address(text: Option<&str>, cause: &'static str) -> Result<Option<Jid>, StreamFault> {
    // Some servers write empty attributes where they mean none.
    let text = text.filter(|text| !text.is_empty());
    text.map(Jid::parse).transpose().map_err(|_| fault(StreamCondition::ImproperAddressing, cause))
}

fn bounded(text: Option<&str>) -> Result<Option<String>, StreamFault> {
    match text {
        Some(text) if text.len() > limits::STREAM_ATTRIBUTE_OCTETS_MAX => {
            Err(fault(StreamCondition::PolicyViolation, "attribute of the stream header too long"))
        }
        text => Ok(text.map(str::to_owned)),
    }
}

/// `MAJOR.MINOR`; below 1.0 is as none at all (RFC 6120 section 4.7.5).
fn version(text: Option<&str>) -> Result<Option<(u16, u16)>, StreamFault> {
    let Some(text) = text else { return Ok(None) };
    let number = |digits: &str| {
        let all_digits = digits.bytes().all(|octet| octet.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|_| all_digits)
    };
    let parts = text.split_once('.').and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
    let version = parts.ok_or(fault(StreamCondition::UnsupportedVersion, "version is no version"))?;
    Ok(Some(version).filter(|(major, _)| *major > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"<s:stream xmlns='jabber:server' a='>'>";

    fn in_a_stream() -> Framer {
        let mut framer = Framer::new();
        assert_eq!(framer.next(HEADER), Ok(Item::Header(HEADER.len())));
        framer
    }

    #[test]
    fn an_element_ends_where_its_end_tag_does() {
        for element in
            ["<a/>", "<a></a>", "<a b='/>' c=\"/a>\"/>", "<a><![CDATA[</a>]] ></a>]]]]></a>", "<a><a/><b>'</b>\"</a >"]
        {
            let mut framer = in_a_stream();
            let length = element.len();
            let bytes = format!("{element}<b/>").into_bytes();
            assert_eq!(framer.next(&bytes), Ok(Item::Element(length)), "{element}");
            assert_eq!(framer.next(&bytes[length..]), Ok(Item::Element(4)));
        }
        assert!(in_a_stream().next(b"<a/ >").is_err());
    }

    #[test]
    fn it_goes_on_where_it_stopped() {
        let mut framer = in_a_stream();
        let element = b"<a b='c'><![CDATA[x]]></a>";
        for end in 0..element.len() {
            assert_eq!(framer.next(&element[..end]), Ok(Item::Incomplete));
            assert_eq!(framer.scanned, end);
        }
        assert_eq!(framer.next(element), Ok(Item::Element(element.len())));
    }

    #[test]
    fn blanks_between_elements_are_keep_alives() {
        let mut framer = in_a_stream();
        assert_eq!(framer.next(b" \n<a/>"), Ok(Item::Whitespace(2)));
        assert_eq!(framer.next(b"<a/>"), Ok(Item::Element(4)));
    }

    #[test]
    fn the_end_tag_is_that_of_the_header() {
        assert_eq!(in_a_stream().next(b"</s:stream \n> "), Ok(Item::End(13)));
        for wrong in ["</stream>", "</s:streams>", "</s:stream a='b'>", "</>"] {
            let fault = in_a_stream().next(wrong.as_bytes()).expect_err(wrong);
            assert_eq!(fault.condition, StreamCondition::NotWellFormed);
        }
        let mut framer = in_a_stream();
        assert_eq!(framer.next(b"</s:stream>"), Ok(Item::End(11)));
        assert!(framer.next(b"<a/>").is_err());
    }

    #[test]
    fn a_second_header_does_not_swallow_what_comes_behind_it() {
        for second in ["<s:stream>", "<stream a='>'>", "<stream:stream xmlns='b' >"] {
            let fault = in_a_stream().next(second.as_bytes()).expect_err(second);
            assert_eq!(fault.condition, StreamCondition::BadFormat);
        }
        assert_eq!(in_a_stream().next(b"<a><stream></stream></a>"), Ok(Item::Element(24)));
        assert_eq!(in_a_stream().next(b"<s:streams><a/>"), Ok(Item::Incomplete));
    }

    #[test]
    fn a_stream_begins_anew_after_tls() {
        let mut framer = in_a_stream();
        framer.restart();
        assert_eq!(framer.next(b"<?xml version='1.0'?>"), Ok(Item::Declaration(21)));
        assert_eq!(framer.next(HEADER), Ok(Item::Header(HEADER.len())));
        assert_eq!(framer.next(b"<a/>"), Ok(Item::Element(4)));
    }
}
