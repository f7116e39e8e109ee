//! application/im-iscomposing+xml (RFC 3994): is somebody typing?

use super::Refusal;
use crate::base::xml::{Limits, Tree};

const NAMESPACE: &str = "urn:ietf:params:xml:ns:im-iscomposing";

/// A status document has four elements; anything much larger is none.
const LIMITS: Limits = Limits { octets: 4096, depth: 4, elements: 16, attributes: 8 };

/// Reads a status document: is its state active? An unknown state is idle
/// (REQ-IM-18).
pub(super) fn is_active(octets: &[u8]) -> Result<bool, Refusal> {
    let mut tree = Tree::new();
    let root = tree.parse_document(octets, LIMITS).map_err(|_| Refusal::Malformed)?;
    if !root.is("isComposing", NAMESPACE) {
        return Err(Refusal::Malformed);
    }
    let state = root.child("state", NAMESPACE).ok_or(Refusal::Malformed)?;
    Ok(state.text().trim() == "active")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(inside: &str) -> Result<bool, Refusal> {
        is_active(format!("<?xml version='1.0'?><isComposing xmlns='{NAMESPACE}'>{inside}</isComposing>").as_bytes())
    }

    #[test]
    fn req_im_18_an_unknown_state_is_idle() {
        assert_eq!(state("<state>active</state><refresh>90</refresh>"), Ok(true));
        assert_eq!(state("<state>idle</state>"), Ok(false));
        assert_eq!(state("<state>thinking</state><new xmlns='x'/>"), Ok(false));
        assert_eq!(state(""), Err(Refusal::Malformed));
        assert_eq!(is_active(b"<isComposing>"), Err(Refusal::Malformed));
    }
}
