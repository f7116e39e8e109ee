//! XHTML-IM of a stanza (XEP-0071) for a SIP side: as `text/html`, or as plain text where
//! the stanza has nothing else. What stands in the tree is written as HTML and read by the
//! reader that the other direction has, so both keep to the same few elements, attributes,
//! schemes and style properties.

use super::html;
use crate::base::text::XmlEscaped;
use crate::base::xml::{Content, Node};
use crate::xmpp::ns;
use core::fmt::Write;

/// The attributes that the reader looks at.
const ATTRIBUTES: [&str; 6] = ["href", "src", "alt", "height", "width", "style"];

/// Appends the text of an `<html xmlns='http://jabber.org/protocol/xhtml-im'/>`, or of its
/// `<body/>`, as a well-formed fragment for a body of type `text/html`; it is UTF-8 and has
/// at most 32 KiB. `false`, and nothing is appended, if there is none or more than that.
pub fn html_of(node: Node<'_>, out: &mut String) -> bool {
    let (_, html) = read(node);
    out.push_str(&html);
    !html.is_empty()
}

/// The plain text of the same, for a stanza without a `<body/>` of its own; `None` if there
/// is none.
pub fn text_of_xhtml(node: Node<'_>) -> Option<String> {
    let (text, _) = read(node);
    (!text.trim().is_empty()).then_some(text)
}

/// The plain text and the fragment.
fn read(node: Node<'_>) -> (String, String) {
    let (mut source, mut text, mut html) = (String::new(), String::new(), String::new());
    if let Some(body) = body_of(node) {
        push_contents(body, &mut source);
        html::read(&source, &mut text, &mut html);
    }
    (text, html)
}

/// The body without a language of its own, else the first one.
fn body_of(node: Node<'_>) -> Option<Node<'_>> {
    if node.is("body", ns::XHTML) {
        return Some(node);
    }
    let bodies = || node.children().filter(|child| node.is("html", ns::XHTML_IM) && child.is("body", ns::XHTML));
    bodies().find(|body| body.lang().is_none()).or_else(|| bodies().next())
}

/// Writes what an element holds as HTML. No deeper than the limit of a stanza, and no
/// longer than its text with each character as a reference.
fn push_contents(node: Node<'_>, out: &mut String) {
    for content in node.contents() {
        match content {
            Content::Text(text) => push_text(text, out),
            Content::Element(child) if child.namespace() == ns::XHTML => push_element(child, out),
            // What is unknown is as if its tags were not there (XEP-0071 section 8).
            Content::Element(child) => push_contents(child, out),
        }
    }
}

fn push_element(node: Node<'_>, out: &mut String) {
    let name = node.name();
    if name.is_empty() || !name.bytes().all(|octet| octet.is_ascii_alphanumeric()) {
        return push_contents(node, out);
    }
    out.push('<');
    out.push_str(name);
    for (name, namespace, value) in node.attributes() {
        if namespace.is_empty() && ATTRIBUTES.contains(&name) {
            let _ = write!(out, " {name}='");
            push_text(value, out);
            out.push('\'');
        }
    }
    out.push('>');
    push_contents(node, out);
    // HTML has no end tag here, and an end tag of its own would be a second one.
    if !["br", "img", "hr"].contains(&name) {
        // Writing into a String does not fail.
        let _ = write!(out, "</{name}>");
    }
}

fn push_text(text: &str, out: &mut String) {
    // HTML has no reference to a carriage return.
    for piece in text.split_inclusive('\r') {
        let line = piece.strip_suffix('\r');
        let _ = write!(out, "{}", XmlEscaped(line.unwrap_or(piece)));
        if line.is_some() {
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::xml::{Limits, Tree};

    fn both(body: &str) -> (Option<String>, Option<String>) {
        let document = format!("<html xmlns='{}'><body xmlns='{}'>{body}</body></html>", ns::XHTML_IM, ns::XHTML);
        let mut tree = Tree::new();
        let node = tree.parse_document(document.as_bytes(), Limits::STANZA).expect("a document");
        let mut html = String::from("+");
        let found = html_of(node, &mut html);
        assert_eq!(found, html != "+", "{html}");
        (text_of_xhtml(node), found.then(|| html.split_off(1)))
    }

    fn html(body: &str) -> String {
        both(body).1.unwrap_or_default()
    }

    #[test]
    fn the_profile_of_xhtml_im_becomes_html() {
        let (text, html) = both(
            "<p style='color:teal'>Der <strong>Deich</strong> &lt;hält&gt;,<br/>siehe \
             <a href='https://pegel.example/?a=1&amp;b=2'>Pegel</a></p><ul><li>eins</li><li>zwei</li></ul>",
        );
        assert_eq!(
            html.as_deref(),
            Some(
                "<p style='color:teal'>Der <strong>Deich</strong> &lt;hält&gt;,<br/>siehe \
                 <a href='https://pegel.example/?a=1&amp;b=2'>Pegel</a></p><ul><li>eins</li><li>zwei</li></ul>"
            )
        );
        assert_eq!(
            text.as_deref(),
            Some("Der Deich <hält>,\nsiehe Pegel <https://pegel.example/?a=1&b=2>\neins\nzwei")
        );
    }

    #[test]
    fn what_could_run_or_cover_something_is_left_out() {
        assert_eq!(html("a<script>alert(1)</script>b"), "ab");
        assert_eq!(html("<a href='javascript:x' onclick='y'>a</a>"), "a");
        assert_eq!(html("<p style='position:fixed;color:red' onload='x'>a</p>"), "<p style='color:red'>a</p>");
        assert_eq!(html("<a href=\"http://x/'onload='y\">a</a>"), "<a href='http://x/&apos;onload=&apos;y'>a</a>");
        assert_eq!(html("&lt;script&gt;x&lt;/script&gt;"), "&lt;script&gt;x&lt;/script&gt;");
        assert_eq!(html("<x:b xmlns:x='urn:x'>a</x:b>"), "a");
        assert_eq!(html("<iframe src='http://x'>a</iframe>b"), "b");
    }

    #[test]
    fn nothing_is_lost_of_a_stanza_that_has_only_markup() {
        assert_eq!(both("<p>a</p><p>b</p>").0.as_deref(), Some("a\nb"));
        assert_eq!(both("<img alt='Deich' src='cid:sha1+0@bob.xmpp.org'/>").0.as_deref(), Some("Deich"));
        assert_eq!(both("a&#xD;\nb").0.as_deref(), Some("a b"));
        assert_eq!(both("<p> </p>"), (None, Some("<p> </p>".into())));
        assert_eq!(both(""), (None, None));
        // Markup beyond the bounds is dropped, text is not.
        let (text, html) = both(&"<b>x</b>".repeat(400));
        assert_eq!((text.map(|text| text.len()), html), (Some(400), None));
    }

    #[test]
    fn the_body_without_a_language_is_taken() {
        let mut tree = Tree::new();
        let document = format!(
            "<html xmlns='{}'><body xml:lang='de' xmlns='{x}'>Moin</body><body xmlns='{x}'>Hello</body></html>",
            ns::XHTML_IM,
            x = ns::XHTML
        );
        let node = tree.parse_document(document.as_bytes(), Limits::STANZA).expect("a document");
        assert_eq!(text_of_xhtml(node).as_deref(), Some("Hello"));
        assert_eq!(node.children().next().and_then(text_of_xhtml).as_deref(), Some("Moin"));
        let other = tree.parse_document(b"<html><body>x</body></html>", Limits::STANZA).expect("a document");
        assert_eq!(text_of_xhtml(other), None);
    }
}
