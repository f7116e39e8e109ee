//! Presence as each side writes it down: a PIDF document (RFC 3863, RFC 4480) on SIP, a
//! `<presence/>` stanza on XMPP, and [`Resource`] between the two (RFC 8048 section 6,
//! tables 1 and 2; decisions D-14 to D-17).

use super::state::Resource;
use crate::base::outbox::Writer;
use crate::base::xml::Tree;
use crate::xmpp::jid::Jid;
use crate::xmpp::stanza::Stanza;

/// Why the body of a NOTIFY says nothing about the contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is another type than is accepted: 415.
    Type,
    /// It is not well-formed, no PIDF, or beyond a limit: 400.
    Malformed,
    /// It is about somebody else (REQ-8048-70): 200, and ignored.
    Foreign,
}

/// Reads the body of a NOTIFY about `contact`. One [`Resource`] for each tuple that says
/// `open` or `closed`; none: the document has no such tuple. `language` is that of
/// Content-Language.
pub fn from_pidf(
    content_type: &str,
    octets: &[u8],
    contact: &Jid,
    language: Option<&str>,
    tree: &mut Tree,
) -> Result<Vec<Resource>, Fault> {
    let _ = (content_type, octets, contact, language, tree);
    Err(Fault::Type)
}

/// Writes the PIDF document that says `resources` about `contact`.
pub fn to_pidf<'a>(w: &mut Writer<'_>, contact: &Jid, resources: impl Iterator<Item = &'a Resource>) {
    let _ = (w, contact, resources.count());
}

/// Reads a `<presence/>` without `type` or of type `unavailable`.
pub fn from_stanza(stanza: &Stanza<'_>) -> Resource {
    let _ = stanza;
    Resource::default()
}

/// Writes the `<presence/>` of one resource of the contact `from`, a bare JID.
/// `with_status`: may what he says about himself be told (partner type)? `capabilities`
/// writes `<c/>` (XEP-0115) where it belongs.
pub fn to_stanza(
    w: &mut Writer<'_>,
    from: &str,
    to: &str,
    resource: &Resource,
    with_status: bool,
    capabilities: impl FnOnce(&mut Writer<'_>),
) {
    let _ = (w, from, to, resource, with_status);
    let _ = capabilities;
}
