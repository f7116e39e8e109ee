//! What the gateway writes on XMPP streams, read by `rxml`: a strict reader that shares
//! no line with the gateway's own.

use rxml::error::EndOrError;
use rxml::{Event, Parse};

/// An element as it was understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct El {
    pub(crate) ns: String,
    pub(crate) name: String,
    /// Namespace, name, value.
    pub(crate) attributes: Vec<(String, String, String)>,
    pub(crate) children: Vec<Self>,
    pub(crate) text: String,
}

impl El {
    pub(crate) fn attr(&self, name: &str) -> &str {
        self.attributes.iter().find(|(ns, n, _)| ns.is_empty() && n == name).map_or("", |(.., value)| value)
    }

    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of `<body/>`.
    pub(crate) fn body(&self) -> &str {
        self.child("body").map_or("", |body| &body.text)
    }

    /// The condition of `<error/>`.
    pub(crate) fn error(&self) -> &str {
        self.child("error").and_then(|error| error.children.first()).map_or("", |condition| &condition.name)
    }

    /// All elements with that name in it, at any depth, itself included.
    pub(crate) fn count(&self, name: &str) -> usize {
        usize::from(self.name == name) + self.children.iter().map(|child| child.count(name)).sum::<usize>()
    }
}

/// A piece of a stream.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    /// The stream header, without children.
    Header(El),
    Element(El),
    End,
}

/// Reads one stream. A new header with an XML declaration begins it anew.
#[derive(Default)]
pub(crate) struct Reader {
    parser: Option<rxml::Parser>,
    open: Vec<El>,
}

impl Reader {
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Piece>, String> {
        if bytes.starts_with(b"<?xml") {
            *self = Self::default();
        }
        let parser = self.parser.get_or_insert_with(rxml::Parser::new);
        let (mut rest, mut pieces) = (bytes, Vec::new());
        loop {
            let event = match parser.parse(&mut rest, false) {
                Ok(Some(event)) => event,
                Ok(None) | Err(EndOrError::NeedMoreData) => return Ok(pieces),
                Err(EndOrError::Error(error)) => {
                    return Err(format!("{error}: {:?}", String::from_utf8_lossy(bytes)));
                }
            };
            match event {
                Event::XmlDeclaration(..) => {}
                Event::StartElement(_, (ns, name), attributes) => {
                    let attributes =
                        attributes.iter().map(|((ns, n), v)| (ns.to_string(), n.to_string(), v.clone())).collect();
                    let el = El { ns: ns.to_string(), name: name.to_string(), attributes, ..El::default() };
                    if self.open.is_empty() {
                        pieces.push(Piece::Header(el.clone()));
                    }
                    self.open.push(el);
                }
                Event::Text(_, text) => {
                    if let Some(el) = self.open.last_mut() {
                        el.text.push_str(&text);
                    }
                }
                Event::EndElement(_) => {
                    let Some(el) = self.open.pop() else { return Err("an end tag too many".into()) };
                    match self.open.len() {
                        0 => pieces.push(Piece::End),
                        1 => pieces.push(Piece::Element(el)),
                        _ => self.open.last_mut().expect("it has a parent").children.push(el),
                    }
                }
            }
        }
    }
}

/// Text as it stands in XML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&apos;")
}
