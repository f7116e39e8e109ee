//! Strict XML 1.0 with namespaces for one element of a stream, or for one small
//! document: `quick-xml` cuts the text into tokens, everything it lets through and XML
//! does not is refused here, and what is left stands in a [`Tree`] that is used again
//! for the next element.
//!
//! Left out on purpose (RFC 6120 section 11.1): document types, comments and
//! processing instructions (a document may have the latter two; they are skipped),
//! entities except the five predefined ones, encodings other than UTF-8. Nothing is
//! ever copied from input to output: [`Node::emit`] writes anew what was understood.
//!
//! Invariants: every span of a tree lies on character boundaries of its own text; the
//! work is linear in the input, since the factors of what is looked up in each other
//! (attributes of one element, declarations in force) have small fixed bounds.

use super::outbox::Writer;
use super::text::{XmlEscaped, is_xml_char};
use crate::limits;
use core::fmt;
use quick_xml::Reader;
use quick_xml::events::Event;
use std::borrow::Cow;

/// The namespace the prefix `xml` is bound to, always.
pub const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";
/// The namespace of declarations themselves; nothing may be bound to it.
const XMLNS_NAMESPACE: &str = "http://www.w3.org/2000/xmlns/";

/// What may be asked of one piece of XML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All octets.
    pub octets: usize,
    /// Nesting, the outermost element counted as 1.
    pub depth: usize,
    /// Elements.
    pub elements: usize,
    /// Attributes of one element, declarations among them.
    pub attributes: usize,
}

impl Limits {
    /// For a stanza on an authenticated stream.
    pub const STANZA: Self = Self {
        octets: limits::STANZA_OCTETS_MAX,
        depth: limits::STANZA_DEPTH_MAX,
        elements: limits::STANZA_ELEMENTS_MAX,
        attributes: limits::STANZA_ATTRIBUTES_MAX,
    };

    /// For what comes before a stream is authenticated.
    pub const UNPROVEN: Self = Self { octets: limits::STANZA_OCTETS_UNPROVEN_MAX, ..Self::STANZA };
}

/// Why XML was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XmlError {
    /// Which rule it breaks.
    pub kind: XmlErrorKind,
    /// Where in the grammar, in words for a log line.
    pub cause: &'static str,
}

/// The rule that was broken; each leads to the stream error of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XmlErrorKind {
    /// XML 1.0 or Namespaces in XML: `not-well-formed`.
    NotWellFormed,
    /// A part of XML that XMPP leaves out: `restricted-xml`.
    Restricted,
    /// A prefix that is not declared: `bad-namespace-prefix`.
    BadNamespacePrefix,
    /// Another encoding than UTF-8 is declared: `unsupported-encoding`.
    UnsupportedEncoding,
    /// More than [`Limits`] allow: `policy-violation`.
    TooMuch,
}

impl fmt::Display for XmlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cause)
    }
}

impl XmlError {
    const fn malformed(cause: &'static str) -> Self {
        Self { kind: XmlErrorKind::NotWellFormed, cause }
    }

    const fn restricted(cause: &'static str) -> Self {
        Self { kind: XmlErrorKind::Restricted, cause }
    }

    const fn too_much(cause: &'static str) -> Self {
        Self { kind: XmlErrorKind::TooMuch, cause }
    }
}

/// The namespace declarations of a stream header: they hold for every stanza in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    /// Prefix and namespace; the empty prefix is the default namespace.
    list: Vec<(Box<str>, Box<str>)>,
    /// The header's `xml:lang`, inherited like a declaration.
    lang: Option<Box<str>>,
}

impl Bindings {
    /// Nothing but a default namespace.
    pub fn with_default(namespace: &str) -> Self {
        Self { list: vec![("".into(), namespace.into())], lang: None }
    }

    /// The same declarations inside an element with this `xml:lang`.
    pub fn with_lang(self, lang: Option<&str>) -> Self {
        Self { lang: lang.map(Into::into), ..self }
    }

    /// The namespace of elements without a prefix; empty if none is declared.
    pub fn default_namespace(&self) -> &str {
        self.namespace_of("").unwrap_or_default()
    }

    /// The namespace a prefix stands for.
    pub fn namespace_of(&self, prefix: &str) -> Option<&str> {
        self.list.iter().find(|(p, _)| **p == *prefix).map(|(_, namespace)| &**namespace)
    }

    /// The first prefix that is not empty and stands for `namespace`.
    pub fn prefix_of(&self, namespace: &str) -> Option<&str> {
        self.list.iter().find(|(p, n)| !p.is_empty() && **n == *namespace).map(|(prefix, _)| &**prefix)
    }
}

/// A piece of a tree's text.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn of(self, text: &str) -> &str {
        &text[self.start as usize..self.end as usize]
    }
}

/// An element or a run of character data, in document order.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The local name of an element; the characters of a run.
    text: Span,
    /// The namespace of an element.
    namespace: Span,
    /// Where its attributes begin and end in [`Tree::attributes`].
    attributes: (u32, u32),
    /// The place of the entry behind it and all it holds.
    end: u32,
    is_element: bool,
}

/// An attribute that is no declaration.
#[derive(Clone, Copy, Debug)]
struct Attribute {
    /// Until the start tag is read whole: the prefix.
    namespace: Span,
    name: Span,
    value: Span,
}

/// A declaration in force.
#[derive(Clone, Copy, Debug)]
struct Binding {
    prefix: Span,
    namespace: Span,
}

/// An element whose end tag is still to come.
#[derive(Clone, Copy, Debug)]
struct Open {
    entry: u32,
    /// How many declarations were in force outside of it.
    bindings: u32,
}

/// One parsed element. Its memory is kept for the next one.
#[derive(Debug, Default)]
pub struct Tree {
    text: String,
    entries: Vec<Entry>,
    attributes: Vec<Attribute>,
    bindings: Vec<Binding>,
    open: Vec<Open>,
    /// The language around the outermost element.
    lang: Option<Span>,
    /// Does the last entry take more character data?
    in_text: bool,
    elements: usize,
}

/// What the input has to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One element, from its first octet to its last.
    Element,
    /// One start tag.
    StartTag,
    /// A document with a prolog.
    Document,
}

impl Tree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Parses one element, which `bytes` hold from its first octet to its last, inside
    /// a stream that declared `context`.
    pub fn parse<'a>(&'a mut self, bytes: &[u8], context: &Bindings, limits: Limits) -> Result<Node<'a>, XmlError> {
        self.read(bytes, context, limits, Form::Element)?;
        Ok(Node { tree: self, at: 0 })
    }

    /// Parses the start tag of a stream; its attributes are in the node, its
    /// declarations in the bindings.
    pub fn parse_start_tag<'a>(&'a mut self, bytes: &[u8], limits: Limits) -> Result<(Node<'a>, Bindings), XmlError> {
        self.read(bytes, &Bindings::default(), limits, Form::StartTag)?;
        let bindings = self.stream_bindings()?;
        Ok((Node { tree: self, at: 0 }, bindings))
    }

    /// Parses a whole document, such as a presence document of SIP: it may begin with
    /// an XML declaration and hold comments and processing instructions, which are
    /// skipped.
    pub fn parse_document<'a>(&'a mut self, bytes: &[u8], limits: Limits) -> Result<Node<'a>, XmlError> {
        self.read(bytes, &Bindings::default(), limits, Form::Document)?;
        Ok(Node { tree: self, at: 0 })
    }

    fn read(&mut self, bytes: &[u8], context: &Bindings, limits: Limits, form: Form) -> Result<(), XmlError> {
        if bytes.len() > limits.octets {
            return Err(XmlError::too_much("element too large"));
        }
        let text = core::str::from_utf8(bytes).map_err(|_| XmlError::malformed("not UTF-8"))?;
        check_characters(text)?;
        // The tokenizer would drop a byte order mark in mid-stream.
        if form != Form::Document && !text.starts_with('<') {
            return Err(XmlError::malformed("text outside of an element"));
        }
        self.begin(context);
        self.read_tokens(text, limits, form)?;
        if self.entries.is_empty() || (form == Form::StartTag) == self.open.is_empty() {
            return Err(XmlError::malformed("element not closed"));
        }
        Ok(())
    }

    fn begin(&mut self, context: &Bindings) {
        self.text.clear();
        self.entries.clear();
        self.attributes.clear();
        self.bindings.clear();
        self.open.clear();
        self.in_text = false;
        self.elements = 0;
        self.lang = context.lang.as_deref().map(|lang| self.keep(lang));
        let always = Binding { prefix: self.keep("xml"), namespace: self.keep(XML_NAMESPACE) };
        self.bindings.push(always);
        for (prefix, namespace) in &context.list {
            let binding = Binding { prefix: self.keep(prefix), namespace: self.keep(namespace) };
            self.bindings.push(binding);
        }
    }

    fn read_tokens(&mut self, text: &str, limits: Limits, form: Form) -> Result<(), XmlError> {
        let mut reader = Reader::from_str(text);
        reader.config_mut().check_comments = true;
        loop {
            let at = reader.buffer_position();
            match reader.read_event() {
                Ok(Event::Start(tag)) => self.start(&tag, limits)?,
                Ok(Event::Empty(_)) if form == Form::StartTag => {
                    return Err(XmlError::malformed("start tag closes itself"));
                }
                Ok(Event::Empty(tag)) => {
                    self.start(&tag, limits)?;
                    self.end();
                }
                Ok(Event::End(_)) => self.end(),
                Ok(Event::Text(text)) => self.character_data(&text, form)?,
                Ok(Event::CData(text)) => self.section(&text)?,
                Ok(Event::GeneralRef(name)) => self.reference(&name)?,
                Ok(Event::Decl(declaration)) if form == Form::Document && at == 0 => check_declaration(&declaration)?,
                Ok(Event::Comment(_)) if form == Form::Document => self.in_text = false,
                Ok(Event::PI(instruction)) if form == Form::Document => {
                    self.in_text = false;
                    check_instruction(instruction.target())?;
                }
                Ok(Event::DocType(_)) => return Err(XmlError::restricted("document type declaration")),
                Ok(Event::Comment(_)) => return Err(XmlError::restricted("comment")),
                Ok(Event::PI(_)) => return Err(XmlError::restricted("processing instruction")),
                Ok(Event::Decl(_)) => return Err(XmlError::restricted("XML declaration out of place")),
                Ok(Event::Eof) => return Ok(()),
                Err(_) => return Err(classify(text, at)),
            }
        }
    }

    /// Takes in a start tag; `tag` is what stands between its brackets.
    fn start(&mut self, tag: &str, limits: Limits) -> Result<(), XmlError> {
        if self.open.is_empty() && !self.entries.is_empty() {
            return Err(XmlError::malformed("second outermost element"));
        }
        if self.open.len() >= limits.depth {
            return Err(XmlError::too_much("elements nested too deep"));
        }
        if self.elements >= limits.elements {
            return Err(XmlError::too_much("too many elements"));
        }
        self.elements += 1;
        self.in_text = false;
        let (outside, first) = (self.bindings.len(), self.attributes.len());
        let name_end = tag.find(is_blank).unwrap_or(tag.len());
        let (name, rest) = tag.split_at(name_end);
        let (prefix, name) = split_name(name)?;
        self.read_attributes(rest, limits, outside)?;
        let namespace = self.resolve_element(prefix)?;
        self.resolve_attributes(first)?;
        let text = self.keep(name);
        let entry = self.entries.len() as u32;
        self.open.push(Open { entry, bindings: outside as u32 });
        let attributes = (first as u32, self.attributes.len() as u32);
        self.entries.push(Entry { text, namespace, attributes, end: entry + 1, is_element: true });
        Ok(())
    }

    fn read_attributes(&mut self, tag: &str, limits: Limits, outside: usize) -> Result<(), XmlError> {
        let mut rest = tag;
        for count in 0.. {
            let trimmed = rest.trim_start_matches(is_blank);
            if trimmed.is_empty() {
                return Ok(());
            }
            if trimmed.len() == rest.len() {
                return Err(XmlError::malformed("no blank before an attribute"));
            }
            if count >= limits.attributes {
                return Err(XmlError::too_much("too many attributes"));
            }
            let (name, value, behind) = cut_attribute(trimmed)?;
            rest = behind;
            match split_name(name)? {
                ("", "xmlns") => self.bind("", value, outside)?,
                ("xmlns", prefix) => self.bind(prefix, value, outside)?,
                (prefix, name) => {
                    let (namespace, name) = (self.keep(prefix), self.keep(name));
                    let value = self.keep_value(value)?;
                    self.attributes.push(Attribute { namespace, name, value });
                }
            }
        }
        Ok(())
    }

    /// Puts a declaration into force. Those from `outside` on belong to this element.
    fn bind(&mut self, prefix: &str, value: &str, outside: usize) -> Result<(), XmlError> {
        if self.bindings.len() >= limits::STANZA_BINDINGS_MAX {
            return Err(XmlError::too_much("too many namespace declarations"));
        }
        let own = self.bindings.get(outside..).unwrap_or_default();
        if own.iter().any(|binding| self.str(binding.prefix) == prefix) {
            return Err(XmlError::malformed("namespace declared twice"));
        }
        let namespace = self.keep_value(value)?;
        check_binding(prefix, self.str(namespace))?;
        let prefix = self.keep(prefix);
        self.bindings.push(Binding { prefix, namespace });
        Ok(())
    }

    fn resolve(&self, prefix: &str) -> Option<Span> {
        let found = self.bindings.iter().rev().find(|binding| self.str(binding.prefix) == prefix)?;
        Some(found.namespace)
    }

    fn resolve_element(&self, prefix: &str) -> Result<Span, XmlError> {
        match self.resolve(prefix) {
            Some(namespace) => Ok(namespace),
            None if prefix.is_empty() => Ok(Span::default()),
            None => Err(UNBOUND),
        }
    }

    /// Puts namespaces in the place of prefixes, and finds attributes given twice. The
    /// order of attributes means nothing, so they are sorted for that.
    fn resolve_attributes(&mut self, first: usize) -> Result<(), XmlError> {
        for at in first..self.attributes.len() {
            let prefix = self.str(self.attributes[at].namespace);
            let namespace = if prefix.is_empty() { Span::default() } else { self.resolve(prefix).ok_or(UNBOUND)? };
            self.attributes[at].namespace = namespace;
        }
        let (text, own) = (&self.text, &mut self.attributes[first..]);
        let key = |attribute: &Attribute| (attribute.name.of(text), attribute.namespace.of(text));
        own.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
        if own.windows(2).any(|pair| key(&pair[0]) == key(&pair[1])) {
            return Err(XmlError::malformed("attribute given twice"));
        }
        Ok(())
    }

    fn end(&mut self) {
        self.in_text = false;
        // The tokenizer refuses an end tag that closes nothing.
        let Some(open) = self.open.pop() else { return };
        self.bindings.truncate(open.bindings as usize);
        self.entries[open.entry as usize].end = self.entries.len() as u32;
    }

    fn character_data(&mut self, text: &str, form: Form) -> Result<(), XmlError> {
        if self.open.is_empty() && form == Form::Document && text.chars().all(is_blank) {
            return Ok(());
        }
        if text.contains("]]>") {
            return Err(XmlError::malformed("]]> in text"));
        }
        self.section(text)
    }

    /// Takes in text as it stands, only with line ends made one (XML section 2.11).
    fn section(&mut self, text: &str) -> Result<(), XmlError> {
        let mut lines = text.split('\r');
        self.append(lines.next().unwrap_or_default())?;
        for line in lines {
            if !line.starts_with('\n') {
                self.append("\n")?;
            }
            self.append(line)?;
        }
        Ok(())
    }

    fn reference(&mut self, name: &str) -> Result<(), XmlError> {
        let character = referenced(name)?;
        self.append(character.encode_utf8(&mut [0; 4]))
    }

    fn append(&mut self, text: &str) -> Result<(), XmlError> {
        if text.is_empty() {
            return Ok(());
        }
        if self.open.is_empty() {
            return Err(XmlError::malformed("text outside of an element"));
        }
        let span = self.keep(text);
        match self.entries.last_mut() {
            // Nothing else was kept since the last piece, so they lie side by side.
            Some(entry) if self.in_text => entry.text.end = span.end,
            _ => {
                let end = self.entries.len() as u32 + 1;
                let (namespace, attributes) = (Span::default(), (0, 0));
                self.entries.push(Entry { text: span, namespace, attributes, end, is_element: false });
                self.in_text = true;
            }
        }
        Ok(())
    }

    /// Keeps an attribute value: references resolved, blanks made spaces (XML section
    /// 3.3.3).
    fn keep_value(&mut self, value: &str) -> Result<Span, XmlError> {
        let start = self.text.len() as u32;
        let mut rest = value;
        while let Some(at) = rest.find(['&', '<', '\t', '\n', '\r']) {
            let (before, behind) = rest.split_at(at);
            self.text.push_str(before);
            rest = if let Some(reference) = behind.strip_prefix('&') {
                let (name, behind) = reference.split_once(';').ok_or(XmlError::malformed("reference not closed"))?;
                self.text.push(referenced(name)?);
                behind
            } else if behind.starts_with('<') {
                return Err(XmlError::malformed("< in an attribute value"));
            } else {
                self.text.push(' ');
                behind.strip_prefix("\r\n").unwrap_or_else(|| &behind[1..])
            };
        }
        self.text.push_str(rest);
        Ok(Span { start, end: self.text.len() as u32 })
    }

    fn keep(&mut self, text: &str) -> Span {
        let start = self.text.len() as u32;
        self.text.push_str(text);
        Span { start, end: self.text.len() as u32 }
    }

    fn str(&self, span: Span) -> &str {
        span.of(&self.text)
    }

    /// The declarations of a stream header, within their bounds.
    fn stream_bindings(&self) -> Result<Bindings, XmlError> {
        let own = self.bindings.get(1..).unwrap_or_default();
        let octets: usize = own.iter().map(|b| self.str(b.prefix).len() + self.str(b.namespace).len()).sum();
        if own.len() > limits::STREAM_BINDINGS_MAX || octets > limits::STREAM_BINDINGS_OCTETS_MAX {
            return Err(XmlError::too_much("too many namespace declarations in the stream header"));
        }
        let list = own.iter().map(|b| (self.str(b.prefix).into(), self.str(b.namespace).into())).collect();
        Ok(Bindings { list, lang: None })
    }
}

const UNBOUND: XmlError = XmlError { kind: XmlErrorKind::BadNamespacePrefix, cause: "prefix not declared" };

/// An element of a tree.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    tree: &'a Tree,
    at: u32,
}

/// A part of what an element holds.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// Character data.
    Text(&'a str),
    /// A child.
    Element(Node<'a>),
}

impl<'a> Node<'a> {
    fn entry(self) -> Entry {
        self.tree.entries[self.at as usize]
    }

    /// The local name.
    pub fn name(self) -> &'a str {
        self.tree.str(self.entry().text)
    }

    /// The namespace; empty for none.
    pub fn namespace(self) -> &'a str {
        self.tree.str(self.entry().namespace)
    }

    /// Has it this name in this namespace?
    pub fn is(self, name: &str, namespace: &str) -> bool {
        self.name() == name && self.namespace() == namespace
    }

    /// The value of an attribute without a namespace.
    pub fn attribute(self, name: &str) -> Option<&'a str> {
        self.attribute_ns(name, "")
    }

    /// The value of an attribute in a namespace.
    pub fn attribute_ns(self, name: &str, namespace: &str) -> Option<&'a str> {
        let mut all = self.attributes();
        all.find(|(n, ns, _)| *n == name && *ns == namespace).map(|(_, _, value)| value)
    }

    /// The element's own `xml:lang`.
    pub fn lang(self) -> Option<&'a str> {
        self.attribute_ns("lang", XML_NAMESPACE)
    }

    /// The language around the outermost element, which holds for what has no
    /// `xml:lang` of its own.
    pub fn inherited_lang(self) -> Option<&'a str> {
        self.tree.lang.map(|lang| self.tree.str(lang))
    }

    /// All attributes, sorted: name, namespace, value. Declarations are none.
    pub fn attributes(self) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> + use<'a> {
        let (first, end) = self.entry().attributes;
        let tree = self.tree;
        let list = tree.attributes.get(first as usize..end as usize).unwrap_or_default();
        list.iter().map(move |a| (tree.str(a.name), tree.str(a.namespace), tree.str(a.value)))
    }

    /// What it holds, in order.
    pub fn contents(self) -> Contents<'a> {
        Contents { tree: self.tree, at: self.at + 1, end: self.entry().end }
    }

    /// The elements it holds.
    pub fn children(self) -> impl Iterator<Item = Self> + use<'a> {
        self.contents().filter_map(|content| match content {
            Content::Element(node) => Some(node),
            Content::Text(_) => None,
        })
    }

    /// The first child of this name in this namespace.
    pub fn child(self, name: &str, namespace: &str) -> Option<Self> {
        self.children().find(|child| child.is(name, namespace))
    }

    /// Its character data, without that of its children; borrowed unless children
    /// stand in between.
    pub fn text(self) -> Cow<'a, str> {
        let mut text = Cow::Borrowed("");
        for content in self.contents() {
            if let Content::Text(piece) = content {
                text += piece;
            }
        }
        text
    }

    /// Writes the element anew, with all it holds, for a place whose default namespace
    /// is `inherited`. Every namespace is declared where it changes.
    pub fn emit(self, w: &mut Writer<'_>, inherited: &str) {
        // The namespace of the prefix `xml` cannot be the default one.
        let reserved = self.namespace() == XML_NAMESPACE;
        let prefix = if reserved { "xml:" } else { "" };
        let (name, namespace) = (self.name(), if reserved { inherited } else { self.namespace() });
        w.str("<").str(prefix).str(name);
        if namespace != inherited {
            emit_attribute(w, "xmlns", namespace);
        }
        for (at, (name, namespace, value)) in self.attributes().enumerate() {
            self.emit_own_attribute(w, at as u64, (name, namespace, value));
        }
        if self.entry().end == self.at + 1 {
            w.str("/>");
            return;
        }
        w.str(">");
        for content in self.contents() {
            match content {
                Content::Text(text) => emit_text(w, text),
                // No deeper than the limit the element was parsed with.
                Content::Element(child) => child.emit(w, namespace),
            }
        }
        w.str("</").str(prefix).str(name).str(">");
    }

    fn emit_own_attribute(self, w: &mut Writer<'_>, at: u64, (name, namespace, value): (&str, &str, &str)) {
        match namespace {
            "" => {
                w.str(" ").str(name);
            }
            XML_NAMESPACE => {
                w.str(" xml:").str(name);
            }
            _ => {
                w.str(" xmlns:n").number(at).str("='");
                emit_attribute_value(w, namespace);
                w.str("' n").number(at).str(":").str(name);
            }
        }
        w.str("='");
        emit_attribute_value(w, value);
        w.str("'");
    }
}

impl fmt::Debug for Node<'_> {
    /// Name and namespace: contents are nobody's business in a trace.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} xmlns='{}'>", self.name(), self.namespace())
    }
}

/// Goes through what an element holds.
#[derive(Clone, Debug)]
pub struct Contents<'a> {
    tree: &'a Tree,
    at: u32,
    end: u32,
}

impl<'a> Iterator for Contents<'a> {
    type Item = Content<'a>;

    fn next(&mut self) -> Option<Content<'a>> {
        if self.at >= self.end {
            return None;
        }
        let entry = self.tree.entries.get(self.at as usize)?;
        let node = Node { tree: self.tree, at: self.at };
        self.at = entry.end;
        Some(if entry.is_element { Content::Element(node) } else { Content::Text(self.tree.str(entry.text)) })
    }
}

/// Writes one element: `Tag::begin(w, "body").lang(lang).text(text)`. Values and text are
/// escaped; names are ours.
#[derive(Debug)]
#[must_use = "a tag has to be ended by `empty`, `text` or `content`"]
pub struct Tag<'w, 'b> {
    w: &'w mut Writer<'b>,
    name: &'static str,
}

impl<'w, 'b> Tag<'w, 'b> {
    /// Begins an element. `name` may carry a prefix that is declared where it goes.
    pub fn begin(w: &'w mut Writer<'b>, name: &'static str) -> Self {
        w.str("<").str(name);
        Self { w, name }
    }

    /// Adds an attribute; `xmlns` is one like any other.
    pub fn attribute(self, name: &'static str, value: &str) -> Self {
        emit_attribute(self.w, name, value);
        self
    }

    /// Adds an attribute if there is a value.
    pub fn maybe(self, name: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.attribute(name, value),
            None => self,
        }
    }

    /// Declares the element's namespace.
    pub fn namespace(self, namespace: &str) -> Self {
        self.attribute("xmlns", namespace)
    }

    /// Adds `xml:lang` if there is one.
    pub fn lang(self, lang: Option<&str>) -> Self {
        self.maybe("xml:lang", lang)
    }

    /// Ends it empty.
    pub fn empty(self) {
        self.w.str("/>");
    }

    /// Ends it with text in it.
    pub fn text(self, text: &str) {
        self.content(|w| emit_text(w, text));
    }

    /// Ends it with what `write` writes in it.
    pub fn content(self, write: impl FnOnce(&mut Writer<'_>)) {
        self.w.str(">");
        write(self.w);
        self.w.str("</").str(self.name).str(">");
    }

    /// Ends the start tag and leaves the element open, as a stream header is.
    pub fn open(self) {
        self.w.str(">");
    }
}

/// Writes character data.
pub fn emit_text(w: &mut Writer<'_>, text: &str) {
    // Writing into the arena cannot fail.
    let _ = fmt::Write::write_fmt(w, format_args!("{}", XmlEscaped(text)));
}

/// Writes an attribute with a blank before it.
pub fn emit_attribute(w: &mut Writer<'_>, name: &str, value: &str) {
    w.str(" ").str(name).str("='");
    emit_attribute_value(w, value);
    w.str("'");
}

/// Writes a value; a reader would make spaces of tabs and line ends that stand there
/// as themselves.
fn emit_attribute_value(w: &mut Writer<'_>, value: &str) {
    for piece in value.split_inclusive(['\t', '\n']) {
        let text = piece.trim_end_matches(['\t', '\n']);
        emit_text(w, text);
        match piece.as_bytes().get(text.len()) {
            Some(b'\t') => w.str("&#x9;"),
            Some(_) => w.str("&#xA;"),
            None => w,
        };
    }
}

const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// Only characters of XML 1.0 production 2.
fn check_characters(text: &str) -> Result<(), XmlError> {
    if text.bytes().any(|octet| octet < b' ' && !matches!(octet, b'\t' | b'\n' | b'\r')) {
        return Err(XmlError::malformed("control character"));
    }
    if text.contains(['\u{FFFE}', '\u{FFFF}']) {
        return Err(XmlError::malformed("character that XML does not have"));
    }
    Ok(())
}

/// What a token that cannot be read is: a restricted thing that is written badly is
/// still restricted.
fn classify(text: &str, position: u64) -> XmlError {
    let at = usize::try_from(position).unwrap_or(usize::MAX);
    match text.as_bytes().get(at..) {
        Some([b'<', b'!', b'[', ..]) => XmlError::malformed("CDATA section"),
        Some([b'<', b'!', ..]) => XmlError::restricted("declaration or comment"),
        Some([b'<', b'?', ..]) => XmlError::restricted("processing instruction"),
        Some([b'<', b'/', ..]) => XmlError::malformed("end tag does not fit"),
        _ => XmlError::malformed("broken tag or reference"),
    }
}

/// The XML declaration of a document, behind `<?`.
fn check_declaration(declaration: &quick_xml::events::BytesDecl<'_>) -> Result<(), XmlError> {
    if declaration.version().ok().is_none_or(|version| !version.starts_with("1.")) {
        return Err(XmlError::malformed("XML declaration"));
    }
    match declaration.encoding() {
        None => Ok(()),
        Some(Ok(encoding)) if encoding.eq_ignore_ascii_case("utf-8") => Ok(()),
        Some(Ok(_)) => Err(XmlError { kind: XmlErrorKind::UnsupportedEncoding, cause: "encoding other than UTF-8" }),
        Some(Err(_)) => Err(XmlError::malformed("XML declaration")),
    }
}

fn check_instruction(target: &str) -> Result<(), XmlError> {
    if target.eq_ignore_ascii_case("xml") {
        return Err(XmlError::malformed("XML declaration out of place"));
    }
    split_name(target).map(|_| ())
}

/// What Namespaces in XML section 3 allows to be declared.
fn check_binding(prefix: &str, namespace: &str) -> Result<(), XmlError> {
    if prefix == "xmlns" || namespace == XMLNS_NAMESPACE || (prefix == "xml") != (namespace == XML_NAMESPACE) {
        return Err(XmlError::malformed("reserved prefix or namespace"));
    }
    if !prefix.is_empty() && namespace.is_empty() {
        return Err(XmlError::malformed("prefix bound to nothing"));
    }
    // No URI has them, and readers that join namespace and name with one go wrong.
    if namespace.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(XmlError::malformed("blank or control character in a namespace"));
    }
    Ok(())
}

/// Prefix and local name; the prefix is empty if there is none.
fn split_name(name: &str) -> Result<(&str, &str), XmlError> {
    let (prefix, local) = match name.split_once(':') {
        Some((prefix, _)) if !is_ncname(prefix) => return Err(BAD_NAME),
        Some(parts) => parts,
        None => ("", name),
    };
    if is_ncname(local) { Ok((prefix, local)) } else { Err(BAD_NAME) }
}

const BAD_NAME: XmlError = XmlError::malformed("name that is none");

/// Is it a name without a colon (XML productions 4 and 5)?
fn is_ncname(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(is_name_start) && characters.all(is_name_character)
}

/// U+FDF0 to U+FFFD, with the byte order mark among them, are left out: other readers
/// refuse them, and nobody names anything so.
const fn is_name_start(c: char) -> bool {
    matches!(c,
        'A'..='Z' | 'a'..='z' | '_'
        | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}' | '\u{370}'..='\u{37D}'
        | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}' | '\u{2070}'..='\u{218F}' | '\u{2C00}'..='\u{2FEF}'
        | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}' | '\u{10000}'..='\u{EFFFF}')
}

const fn is_name_character(c: char) -> bool {
    is_name_start(c) || matches!(c, '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}

/// Cuts `name='value'` off the front of a tag.
fn cut_attribute(text: &str) -> Result<(&str, &str, &str), XmlError> {
    let (name, rest) = text.split_once('=').ok_or(XmlError::malformed("attribute without a value"))?;
    let rest = rest.trim_start_matches(is_blank);
    let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'));
    let quote = quote.ok_or(XmlError::malformed("attribute value without quotes"))?;
    let (value, behind) = rest[1..].split_once(quote).ok_or(XmlError::malformed("attribute value not closed"))?;
    Ok((name.trim_end_matches(is_blank), value, behind))
}

/// The character a reference stands for, from what is between `&` and `;`.
fn referenced(name: &str) -> Result<char, XmlError> {
    let code = match name {
        "lt" => return Ok('<'),
        "gt" => return Ok('>'),
        "amp" => return Ok('&'),
        "apos" => return Ok('\''),
        "quot" => return Ok('"'),
        _ => name.strip_prefix('#'),
    };
    let Some(code) = code else {
        let known = is_ncname(name);
        return Err(if known { XmlError::restricted("entity reference") } else { BAD_REFERENCE });
    };
    let (digits, radix) = code.strip_prefix('x').map_or((code, 10), |hex| (hex, 16));
    // `from_str_radix` would take a sign.
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(BAD_REFERENCE);
    }
    let number = u32::from_str_radix(digits, radix).map_err(|_| BAD_REFERENCE)?;
    char::from_u32(number).filter(|c| is_xml_char(*c)).ok_or(BAD_REFERENCE)
}

const BAD_REFERENCE: XmlError = XmlError::malformed("reference to no character");

#[cfg(test)]
mod tests {
    use super::super::outbox::Outbox;
    use super::*;

    fn refused(text: &[u8]) -> Option<XmlErrorKind> {
        let mut tree = Tree::new();
        let outcome = tree.parse(text, &Bindings::with_default("jabber:server"), Limits::STANZA);
        outcome.err().map(|error| error.kind)
    }

    #[test]
    fn names_namespaces_attributes_and_text_are_found() {
        let text = b"<message xmlns:x='urn:x' id='1' x:id='2' xml:lang='de'><body>a</body><x:e><y/></x:e>\
            <body xmlns=''>b<i/>c</body></message>";
        let mut tree = Tree::new();
        let context = Bindings::with_default("jabber:server");
        let node = tree.parse(text, &context, Limits::STANZA).expect("well-formed");
        assert!(node.is("message", "jabber:server"));
        assert_eq!((node.attribute("id"), node.attribute_ns("id", "urn:x")), (Some("1"), Some("2")));
        assert_eq!((node.lang(), node.attribute("lang")), (Some("de"), None));
        let body = node.child("body", "jabber:server").expect("a body");
        assert!(matches!(body.text(), Cow::Borrowed("a")));
        let element = node.child("e", "urn:x").expect("a prefixed child");
        assert_eq!(element.children().next().map(Node::namespace), Some("jabber:server"));
        assert_eq!(node.child("body", "").expect("a child without a namespace").text(), "bc");
        assert_eq!((node.children().count(), element.text().len()), (3, 0));
    }

    #[test]
    fn line_ends_blanks_and_references_become_what_xml_says() {
        let text = b"<a b='1\r\n2\r3\t4&#xA;&#9;&#13;5' c=\"'\">1\r\n2\r3&#13;<![CDATA[\r\n&lt;]]>&gt;</a>";
        let mut tree = Tree::new();
        let node = tree.parse(text, &Bindings::default(), Limits::STANZA).expect("well-formed");
        assert_eq!((node.attribute("b"), node.attribute("c")), (Some("1 2 3 4\n\t\r5"), Some("'")));
        assert!(matches!(node.text(), Cow::Borrowed("1\n2\n3\r\n&lt;>")));
    }

    #[test]
    fn what_xmpp_leaves_out_is_restricted() {
        for text in [
            "<!DOCTYPE a><a/>",
            "<a><!DOCTYPE b [<!ENTITY c 'd'>]></a>",
            "<a><!ENTITY b 'c'></a>",
            "<a><!-- b --></a>",
            "<a><!-- b -- c --></a>",
            "<a><?b?></a>",
            "<?xml version='1.0'?><a/>",
            "<a><?xml version='1.0'?></a>",
            "<a>&b;</a>",
            "<a b='&c;'/>",
            "<a><!--",
            "<a><?",
        ] {
            assert_eq!(refused(text.as_bytes()), Some(XmlErrorKind::Restricted), "{text}");
        }
    }

    #[test]
    fn what_is_no_xml_is_not_well_formed() {
        let samples: &[&[u8]] = &[
            b"",
            b"a",
            b" <a/>",
            b"<a/> ",
            b"\xEF\xBB\xBF<a/>",
            b"<a/><b/>",
            b"<a></b>",
            b"<a></a",
            b"<a>",
            b"</a>",
            b"<a></a b='c'>",
            b"<a><b></a></b>",
            b"< a/>",
            b"<a / >",
            b"<a/ >",
            b"<1a/>",
            b"<-a/>",
            b"<a b/>",
            b"<a b=c/>",
            b"<a b='c'd='e'/>",
            b"<a b='c' b='d'/>",
            b"<a b='<'/>",
            b"<a b='&'/>",
            b"<a b='&lt'/>",
            b"<a 1='b'/>",
            b"<a b = = 'c'/>",
            b"<a 'b'/>",
            b"<a>&</a>",
            b"<a>& </a>",
            b"<a>&#0;</a>",
            b"<a>&#x1F;</a>",
            b"<a>&#xD800;</a>",
            b"<a>&#xFFFE;</a>",
            b"<a>&#x110000;</a>",
            b"<a>&#4294967361;</a>",
            b"<a>&#+65;</a>",
            b"<a>&#;</a>",
            b"<a>&#x;</a>",
            b"<a>&#X41;</a>",
            b"<a>&;</a>",
            b"<a>]]></a>",
            b"<a><![CDATA[</a>",
            b"<a><![cdata[b]]></a>",
            b"<![CDATA[a]]>",
            b"<a>\0</a>",
            b"<a>\x0b</a>",
            b"<a b='\x01'/>",
            b"<a>\xEF\xBF\xBE</a>",
            b"<a>\xEF\xBF\xBF</a>",
            b"<a>\xFF</a>",
            b"<a>\xC0\xBC</a>",
            b"<a>\xE0\x80\xBC</a>",
            b"<a>\xED\xA0\x80</a>",
            b"<a>\xF4\x90\x80\x80</a>",
            b"<a>\xC3</a>",
            b"<a b='\xC3'/>",
            b"<a:b:c xmlns:a='urn:a'/>",
            b"<:a/>",
            b"<a:/>",
            b"<a b:='c'/>",
            b"<a xmlns:b=''/>",
            b"<a xmlns:='urn:b'/>",
            b"<a xmlns:xml='urn:b'/>",
            b"<a xmlns:xmlns='urn:b'/>",
            b"<a xmlns:b='http://www.w3.org/2000/xmlns/'/>",
            b"<a xmlns='http://www.w3.org/XML/1998/namespace'/>",
            b"<a xmlns:b='http://www.w3.org/XML/1998/namespace'/>",
            b"<a xmlns='urn:b' xmlns='urn:c'/>",
            b"<a xmlns:b='urn:b' xmlns:b='urn:b'/>",
            b"<a xmlns:b='urn:b' xmlns:c='urn:b' b:d='' c:d=''/>",
            b"<a xmlns='urn:a&#xA;b'/>",
            b"<a xmlns='urn:a\nb'/>",
            b"<a xmlns='urn:a&#x85;b'/>",
        ];
        for text in samples {
            assert_eq!(refused(text), Some(XmlErrorKind::NotWellFormed), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn a_prefix_has_to_be_declared_where_it_is_used() {
        for text in ["<b:a/>", "<a b:c=''/>", "<a><c xmlns:b='urn:b'/><b:d/></a>", "<xmlns:a/>"] {
            assert_eq!(refused(text.as_bytes()), Some(XmlErrorKind::BadNamespacePrefix), "{text}");
        }
        assert_eq!(refused(b"<a xmlns:b='urn:b'><b:c b:d=''/></a>"), None);
    }

    #[test]
    fn more_than_the_limits_is_too_much() {
        let most = |count: usize, piece: &dyn Fn(usize) -> String| (0..count).map(piece).collect::<String>();
        let attributes = |count| format!("<a{}/>", most(count, &|n| format!(" b{n}=''")));
        let elements = |count| format!("<a>{}</a>", "<b/>".repeat(count - 1));
        let depth = |count| format!("{}{}", "<a>".repeat(count), "</a>".repeat(count));
        let octets = |count| format!("<a>{}</a>", "b".repeat(count - 7));
        let bindings = |count: usize| {
            let half = most(count / 2, &|n| format!(" xmlns:b{n}='u'"));
            let other = most(count - count / 2, &|n| format!(" xmlns:c{n}='u'"));
            format!("<a{half}><b{other}/></a>")
        };
        // Two declarations are there from the start: `xml` and the default one.
        let cases: [(&dyn Fn(usize) -> String, usize); 5] = [
            (&attributes, limits::STANZA_ATTRIBUTES_MAX),
            (&elements, limits::STANZA_ELEMENTS_MAX),
            (&depth, limits::STANZA_DEPTH_MAX),
            (&octets, limits::STANZA_OCTETS_MAX),
            (&bindings, limits::STANZA_BINDINGS_MAX - 2),
        ];
        for (text, limit) in cases {
            assert_eq!(refused(text(limit).as_bytes()), None);
            assert_eq!(refused(text(limit + 1).as_bytes()), Some(XmlErrorKind::TooMuch));
        }
    }

    #[test]
    fn a_document_may_have_a_prolog_and_comments_but_no_document_type() {
        let mut tree = Tree::new();
        let text = b"\xEF\xBB\xBF<?xml version='1.0' encoding='UTF-8'?>\n<!-- a --><?b c?>\n\
            <presence xmlns='urn:ietf:params:xml:ns:pidf'>x<!-- d -->y</presence>\n<!-- e -->\n";
        // The byte order mark comes before the declaration and is skipped.
        for text in [&text[3..], &text[..]] {
            let node = tree.parse_document(text, Limits::STANZA).expect("a document");
            assert!(node.is("presence", "urn:ietf:params:xml:ns:pidf"));
            assert_eq!(node.text(), "xy");
        }
        for (text, kind) in [
            ("<!DOCTYPE a><a/>", XmlErrorKind::Restricted),
            ("<?xml version='1.0' encoding='utf-16'?><a/>", XmlErrorKind::UnsupportedEncoding),
            ("<a/><b/>", XmlErrorKind::NotWellFormed),
            ("<a/>b", XmlErrorKind::NotWellFormed),
            ("<!-- a -- b --><a/>", XmlErrorKind::Restricted),
            ("<?XML a?><a/>", XmlErrorKind::NotWellFormed),
            (" <?xml version='1.0'?><a/>", XmlErrorKind::Restricted),
            ("", XmlErrorKind::NotWellFormed),
        ] {
            let outcome = tree.parse_document(text.as_bytes(), Limits::STANZA);
            assert_eq!(outcome.err().map(|error| error.kind), Some(kind), "{text}");
        }
    }

    #[test]
    fn a_tree_is_not_marked_by_what_it_held_before() {
        let mut tree = Tree::new();
        let context = Bindings::with_default("jabber:server");
        for broken in ["<a xmlns:b='urn:b'><c", "<a><b>x", "<a>&b;"] {
            assert!(tree.parse(broken.as_bytes(), &context, Limits::STANZA).is_err());
            let node = tree.parse(b"<d>y</d>", &context, Limits::STANZA).expect("well-formed");
            assert_eq!((node.name(), &*node.text()), ("d", "y"));
            assert!(tree.parse(b"<b:e/>", &context, Limits::STANZA).is_err());
        }
    }

    #[test]
    fn what_is_written_is_escaped() {
        let mut out = Outbox::default();
        let mut w = out.begin();
        Tag::begin(&mut w, "a").namespace("urn:a").maybe("b", None).maybe("c", Some("<'\n\t&\r\n>")).content(|w| {
            Tag::begin(w, "d").lang(Some("de")).text("]]> <e/> \u{0}");
            Tag::begin(w, "f").empty();
        });
        let span = w.finish();
        assert_eq!(
            out.text(&span),
            "<a xmlns='urn:a' c='&lt;&apos;&#xA;&#x9;&amp;&#xD;&#xA;&gt;'><d xml:lang='de'>]]&gt; &lt;e/&gt; \u{FFFD}</d>\
             <f/></a>"
        );
    }
}
