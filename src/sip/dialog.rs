//! Dialogs (RFC 3261 section 12): who the two ends are, which way requests go, and how
//! they are numbered. Small: there are tens of thousands of them.
//!
//! A dialog does nothing by itself. The one who holds it makes requests with
//! [`Dialog::request`] and shows it those of the other end with [`Dialog::admits`].

use super::emit::Request;
use super::message::{Message, Method};
use super::uri::Uri;
use std::rc::Rc;

/// Route sets in use, each kept once: all dialogs through one proxy share its own.
#[derive(Debug, Default)]
pub struct RouteSets {
    sets: std::collections::BTreeSet<Rc<str>>,
    /// With so many, those that no dialog uses any more are dropped.
    sweep_at: usize,
}

impl RouteSets {
    /// The route set of these values, in this order.
    pub fn of<'a>(&mut self, values: impl Iterator<Item = &'a str>) -> Rc<str> {
        let mut joined = String::new();
        for value in values {
            if !joined.is_empty() {
                joined.push_str(", ");
            }
            joined.push_str(value);
        }
        self.intern(&joined)
    }

    /// The one copy of a route set that is already one text.
    pub fn intern(&mut self, joined: &str) -> Rc<str> {
        if let Some(known) = self.sets.get(joined) {
            return Rc::clone(known);
        }
        if self.sets.len() >= self.sweep_at {
            self.sets.retain(|set| Rc::strong_count(set) > 1);
            self.sweep_at = (2 * self.sets.len()).max(SWEEP_MIN);
        }
        let set: Rc<str> = joined.into();
        self.sets.insert(Rc::clone(&set));
        set
    }
}

/// Route sets kept before any of them is looked at again.
const SWEEP_MIN: usize = 64;

/// One dialog.
#[derive(Clone, Debug)]
pub struct Dialog {
    /// The texts of [`Text`], each ending in a line feed, which none of them can hold.
    texts: Box<str>,
    /// The values of Route, joined by commas; empty: there is none.
    route_set: Rc<str>,
    /// The CSeq number of our last request.
    local_cseq: u32,
    /// The CSeq number of the other end's last request; `None`: there was none.
    remote_cseq: Option<u32>,
}

/// What a dialog keeps in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    CallId,
    LocalTag,
    RemoteTag,
    LocalUri,
    RemoteUri,
    Target,
}

const TEXTS: usize = 6;

/// The parts of a dialog, for one that is put together from what was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Call-ID.
    pub call_id: &'a str,
    /// Our tag.
    pub local_tag: &'a str,
    /// The other end's; empty until it is known.
    pub remote_tag: &'a str,
    /// Our URI.
    pub local_uri: &'a str,
    /// The other end's URI.
    pub remote_uri: &'a str,
    /// The other end's Contact; the Request-URI.
    pub target: &'a str,
}

impl<'a> Parts<'a> {
    /// Has none of them a line end in it?
    pub fn is_sound(&self) -> bool {
        self.all().iter().all(|text| !text.contains(['\n', '\r']))
    }

    const fn all(&self) -> [&'a str; TEXTS] {
        [self.call_id, self.local_tag, self.remote_tag, self.local_uri, self.remote_uri, self.target]
    }
}

impl Dialog {
    /// A dialog of these parts. Texts come from parsed messages or from us, so none has
    /// a line end; one that has loses what follows it.
    pub fn new(parts: &Parts<'_>, route_set: Rc<str>, local_cseq: u32, remote_cseq: Option<u32>) -> Self {
        Self { texts: pack(parts), route_set, local_cseq, remote_cseq }
    }

    /// What it consists of.
    pub fn parts(&self) -> Parts<'_> {
        Parts {
            call_id: self.text(Text::CallId),
            local_tag: self.text(Text::LocalTag),
            remote_tag: self.text(Text::RemoteTag),
            local_uri: self.text(Text::LocalUri),
            remote_uri: self.text(Text::RemoteUri),
            target: self.text(Text::Target),
        }
    }

    fn text(&self, which: Text) -> &str {
        self.texts.split('\n').nth(which as usize).unwrap_or_default()
    }

    /// Call-ID.
    pub fn call_id(&self) -> &str {
        self.text(Text::CallId)
    }

    /// Our tag.
    pub fn local_tag(&self) -> &str {
        self.text(Text::LocalTag)
    }

    /// The other end's tag; empty until it is known.
    pub fn remote_tag(&self) -> &str {
        self.text(Text::RemoteTag)
    }

    /// The route set as one text.
    pub fn route_set(&self) -> &str {
        &self.route_set
    }

    /// The CSeq number of our last request.
    pub const fn local_cseq(&self) -> u32 {
        self.local_cseq
    }

    /// The CSeq number of the other end's last request.
    pub const fn remote_cseq(&self) -> Option<u32> {
        self.remote_cseq
    }

    /// Octets it holds besides itself; a shared route set is not counted.
    pub fn octets(&self) -> usize {
        self.texts.len()
    }

    /// The other end is known now: its tag, where it wants requests, and the way there
    /// (RFC 6665 section 4.4.1: what NOTIFY says holds).
    pub fn confirm(&mut self, remote_tag: &str, target: Option<&str>, route_set: Rc<str>) {
        let parts = self.parts();
        self.texts = pack(&Parts { remote_tag, target: target.unwrap_or(parts.target), ..parts });
        self.route_set = route_set;
    }

    /// Takes over a new target (RFC 3261 section 12.2: target refresh).
    pub fn refresh_target(&mut self, target: &str) {
        let parts = self.parts();
        if parts.target != target {
            self.texts = pack(&Parts { target, ..parts });
        }
    }

    /// Is a request of the other end the next one, or one after it? Then its number is
    /// noted. One that comes too late is answered 500 (section 12.2.2).
    pub fn admits(&mut self, cseq: u32) -> bool {
        let is_next = self.remote_cseq.is_none_or(|last| cseq > last);
        if is_next {
            self.remote_cseq = Some(cseq);
        }
        is_next
    }

    /// Is the From tag of a request that of the other end?
    pub fn is_from(&self, message: &Message<'_>) -> bool {
        message.from().tag.unwrap_or_default() == self.remote_tag()
    }

    /// Hands a new request of this dialog to `send`, with `headers` behind its Route.
    pub fn request<T>(
        &mut self,
        method: Method<'_>,
        headers: &[(&str, &str)],
        content_type: Option<&str>,
        body: &[u8],
        send: impl FnOnce(&Request<'_>) -> T,
    ) -> T {
        self.local_cseq = self.local_cseq.wrapping_add(1) & (u32::MAX >> 1);
        self.numbered(self.local_cseq, method, headers, content_type, body, send)
    }

    /// Hands the ACK to the 2xx of an INVITE of ours to `send`: it has that INVITE's number
    /// (section 13.2.2.4).
    pub fn acknowledge<T>(&self, invite_cseq: u32, send: impl FnOnce(&Request<'_>) -> T) -> T {
        self.numbered(invite_cseq, Method::Ack, &[], None, b"", send)
    }

    fn numbered<T>(
        &self,
        cseq: u32,
        method: Method<'_>,
        headers: &[(&str, &str)],
        content_type: Option<&str>,
        body: &[u8],
        send: impl FnOnce(&Request<'_>) -> T,
    ) -> T {
        let parts = self.parts();
        let mut all: heapless::Vec<(&str, &str), 12> = heapless::Vec::new();
        if !self.route_set.is_empty() {
            // Twelve places; nobody gives more than ten.
            let _ = all.push(("Route", &self.route_set));
        }
        let is_fit = all.extend_from_slice(headers).is_ok();
        debug_assert!(is_fit, "more headers than a dialog's request has room for");
        send(&Request {
            method,
            uri: parts.target,
            from: parts.local_uri,
            from_tag: parts.local_tag,
            to: parts.remote_uri,
            to_tag: Some(parts.remote_tag).filter(|tag| !tag.is_empty()),
            call_id: parts.call_id,
            cseq,
            max_forwards: 70,
            headers: &all,
            content_type,
            body,
        })
    }
}

fn pack(parts: &Parts<'_>) -> Box<str> {
    let all = parts.all();
    let mut texts = String::with_capacity(all.iter().map(|text| text.len() + 1).sum());
    for text in all {
        texts.push_str(text.split(['\n', '\r']).next().unwrap_or_default());
        texts.push('\n');
    }
    texts.into_boxed_str()
}

/// Where the other end wants requests: the URI of its Contact, if it is a SIP one.
pub fn target_of<'a>(message: &Message<'a>) -> Option<&'a str> {
    message.contact().map(|contact| contact.uri).filter(|uri| Uri::parse(uri).is_ok_and(|uri| uri.is_sip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts<'static> {
        Parts {
            call_id: "c@x",
            local_tag: "l",
            remote_tag: "",
            local_uri: "sip:lena@chat.example",
            remote_uri: "sip:marta@voip.example",
            target: "sip:marta@voip.example",
        }
    }

    #[test]
    fn a_request_goes_to_the_target_by_the_route_set_with_the_next_number() {
        let mut sets = RouteSets::default();
        let mut dialog = Dialog::new(&parts(), sets.intern(""), 7, None);
        dialog.request(Method::Subscribe, &[("Event", "presence")], None, b"", |request| {
            assert_eq!((request.cseq, request.to_tag, request.headers), (8, None, &[("Event", "presence")][..]));
        });
        dialog.confirm("r", Some("sip:marta@192.0.2.1"), sets.of(["<sip:a;lr>", "<sip:b;lr>"].into_iter()));
        dialog.request(Method::Subscribe, &[], None, b"", |request| {
            assert_eq!((request.cseq, request.to_tag, request.uri), (9, Some("r"), "sip:marta@192.0.2.1"));
            assert_eq!(request.headers, [("Route", "<sip:a;lr>, <sip:b;lr>")]);
        });
    }

    #[test]
    fn a_number_that_does_not_rise_is_not_admitted() {
        let mut dialog = Dialog::new(&parts(), RouteSets::default().intern(""), 1, None);
        assert!([5, 6, 9].into_iter().all(|cseq| dialog.admits(cseq)));
        assert!(!dialog.admits(9) && !dialog.admits(8) && dialog.admits(10));
    }

    #[test]
    fn equal_route_sets_are_kept_once_and_go_some_time_after_their_last_dialog() {
        let mut sets = RouteSets::default();
        let (a, b) = (sets.intern("<sip:a;lr>"), sets.of(["<sip:a;lr>"].into_iter()));
        assert!(Rc::ptr_eq(&a, &b));
        drop((a, b));
        for number in 0..1000 {
            sets.intern(&format!("<sip:c{number};lr>"));
        }
        assert!(sets.sets.len() <= 2 * SWEEP_MIN);
    }
}
