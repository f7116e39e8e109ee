//! Dialogs (RFC 3261 section 12): who the two ends are, which way requests go, and how
//! they are numbered. Small: there are tens of thousands of them.
//!
//! A dialog does nothing by itself. The one who holds it makes requests with
//! [`Dialog::request`] and shows it those of the other end with [`Dialog::admits`].

use super::emit::Request;
use super::header::{NameAddr, split_list};
use super::message::{Message, Method};
use super::uri::Uri;
use crate::limits::{ROUTE_SET_OCTETS_PER_DIALOG, ROUTE_SETS_OCTETS_MIN};
use std::borrow::Cow;
use std::rc::Rc;

/// Route sets in use, each kept once: all dialogs through one proxy share its own.
#[derive(Debug, Default)]
pub struct RouteSets {
    sets: std::collections::BTreeSet<Rc<str>>,
    /// With so many, those that no dialog uses any more are dropped.
    sweep_at: usize,
    /// Octets of all that are kept.
    octets: usize,
    /// How often one was asked for since the last sweep, and is in use from before it.
    uses: usize,
}

/// The route set of one dialog: what it shares with others, and what is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSet {
    /// With a line feed wherever a line of `own` belongs.
    shared: Rc<str>,
    /// Lines; empty: nothing.
    own: Box<str>,
}

impl From<Rc<str>> for RouteSet {
    fn from(shared: Rc<str>) -> Self {
        Self { shared, own: Box::default() }
    }
}

impl RouteSet {
    /// The whole of it.
    pub fn text(&self) -> Cow<'_, str> {
        joined(&self.shared, &self.own)
    }
}

/// What is shared, with a line of what is not in the place of each line feed.
fn joined<'a>(shared: &'a str, own: &'a str) -> Cow<'a, str> {
    if !shared.contains('\n') {
        return shared.into();
    }
    let mut text = String::with_capacity(shared.len() + own.len());
    let mut lines = own.split('\n');
    for piece in shared.split_inclusive('\n') {
        text.push_str(piece.trim_end_matches('\n'));
        if piece.ends_with('\n') {
            text.push_str(lines.next().unwrap_or_default());
        }
    }
    text.into()
}

impl RouteSets {
    /// The route set of these values, in this order.
    pub fn of<'a>(&mut self, values: impl Iterator<Item = &'a str>) -> Rc<str> {
        self.intern(&join(values))
    }

    /// The route set of these values for one of very many dialogs; see
    /// [`Self::intern_thriftily`].
    pub fn of_thriftily<'a>(&mut self, values: impl Iterator<Item = &'a str>) -> RouteSet {
        self.intern_thriftily(&join(values))
    }

    /// A route set that is already one text, for one of very many dialogs. While there are
    /// many dialogs to a route set, each is kept once. An Edge whose signature
    /// differs from dialog to dialog would have a thousand octets kept for each: then only
    /// what stands before the signatures is shared.
    pub fn intern_thriftily(&mut self, text: &str) -> RouteSet {
        let has_room = self.octets + text.len() <= ROUTE_SETS_OCTETS_MIN + self.uses * ROUTE_SET_OCTETS_PER_DIALOG;
        if has_room || self.sets.contains(text) {
            return self.intern(text).into();
        }
        let (mut shared, mut own) = (String::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(SIGNATURE) {
            let (before, behind) = rest.split_at(at + SIGNATURE.len());
            let (signature, next) = behind.split_at(behind.find(", <").unwrap_or(behind.len()));
            shared.push_str(before);
            shared.push('\n');
            own.push_str(if own.is_empty() { "" } else { "\n" });
            own.push_str(signature);
            rest = next;
        }
        if shared.is_empty() {
            return RouteSet { shared: self.intern("\n"), own: text.into() };
        }
        shared.push_str(rest);
        RouteSet { shared: self.intern(&shared), own: own.into() }
    }

    /// The one copy of a route set that is already one text.
    pub fn intern(&mut self, joined: &str) -> Rc<str> {
        self.uses = self.uses.saturating_add(1);
        if let Some(known) = self.sets.get(joined) {
            return Rc::clone(known);
        }
        if self.sets.len() >= self.sweep_at {
            self.sets.retain(|set| Rc::strong_count(set) > 1);
            self.sweep_at = (2 * self.sets.len()).max(SWEEP_MIN);
            self.octets = self.sets.iter().map(|set| set.len()).sum();
            self.uses = self.sets.iter().map(|set| Rc::strong_count(set) - 1).sum();
        }
        let set: Rc<str> = joined.into();
        self.sets.insert(Rc::clone(&set));
        self.octets += set.len();
        set
    }
}

/// Hops of a request that nothing came before (RFC 3261 section 8.1.1.6).
const HOPS: u8 = 70;

/// Route sets kept before any of them is looked at again.
const SWEEP_MIN: usize = 64;

/// What stands before that part of a Record-Route of Lync's which may differ from dialog
/// to dialog.
const SIGNATURE: &str = ";ms-route-sig=";

/// The values of a header field as one.
fn join<'a>(values: impl Iterator<Item = &'a str>) -> String {
    let mut joined = String::new();
    for value in values {
        if !joined.is_empty() {
            joined.push_str(", ");
        }
        joined.push_str(value);
    }
    joined
}

/// One dialog.
#[derive(Clone, Debug)]
pub struct Dialog {
    /// The texts of [`Text`], each ending in a line feed, which none of them can hold, then
    /// what is its own of the route set.
    texts: Box<str>,
    /// What it shares of the values of Route, joined by commas; see [`RouteSet`]. Empty:
    /// there is none.
    route_set: Rc<str>,
    /// The CSeq number of our last request.
    local_cseq: u32,
    /// The CSeq number of the other end's last request; [`NO_CSEQ`]: there was none.
    remote_cseq: u32,
}

/// More than any CSeq number (RFC 3261 section 8.1.1.5).
const NO_CSEQ: u32 = u32::MAX;

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
    pub fn new(parts: &Parts<'_>, route_set: impl Into<RouteSet>, local_cseq: u32, remote_cseq: Option<u32>) -> Self {
        let RouteSet { shared, own } = route_set.into();
        let remote_cseq = remote_cseq.unwrap_or(NO_CSEQ);
        Self { texts: pack(parts, &own), route_set: shared, local_cseq, remote_cseq }
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
    pub fn route_set(&self) -> Cow<'_, str> {
        joined(&self.route_set, self.own_routes())
    }

    /// What is its own of the route set.
    fn own_routes(&self) -> &str {
        self.texts.splitn(TEXTS + 1, '\n').nth(TEXTS).unwrap_or_default()
    }

    /// The CSeq number of our last request.
    pub const fn local_cseq(&self) -> u32 {
        self.local_cseq
    }

    /// The CSeq number of the other end's last request.
    pub fn remote_cseq(&self) -> Option<u32> {
        Some(self.remote_cseq).filter(|cseq| *cseq != NO_CSEQ)
    }

    /// Octets it holds besides itself; a shared route set is not counted.
    pub fn octets(&self) -> usize {
        self.texts.len()
    }

    /// The other end is known now: its tag, where it wants requests, and the way there
    /// (RFC 6665 section 4.4.1: what NOTIFY says holds).
    pub fn confirm(&mut self, remote_tag: &str, target: Option<&str>, route_set: impl Into<RouteSet>) {
        let parts = self.parts();
        let RouteSet { shared, own } = route_set.into();
        self.texts = pack(&Parts { remote_tag, target: target.unwrap_or(parts.target), ..parts }, &own);
        self.route_set = shared;
    }

    /// Takes over a new target (RFC 3261 section 12.2: target refresh).
    pub fn refresh_target(&mut self, target: &str) {
        let parts = self.parts();
        if parts.target != target {
            self.texts = pack(&Parts { target, ..parts }, self.own_routes());
        }
    }

    /// Is a request of the other end the next one, or one after it? Then its number is
    /// noted. One that comes too late is answered 500 (section 12.2.2).
    pub fn admits(&mut self, cseq: u32) -> bool {
        let is_next = self.remote_cseq == NO_CSEQ || cseq > self.remote_cseq;
        if is_next {
            self.remote_cseq = cseq;
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
        self.request_within(HOPS, method, headers, content_type, body, send)
    }

    /// The same for one that may take only so many hops: what it carries took some already.
    pub fn request_within<T>(
        &mut self,
        hops: u8,
        method: Method<'_>,
        headers: &[(&str, &str)],
        content_type: Option<&str>,
        body: &[u8],
        send: impl FnOnce(&Request<'_>) -> T,
    ) -> T {
        self.local_cseq = self.local_cseq.wrapping_add(1) & (u32::MAX >> 1);
        self.numbered((self.local_cseq, hops), method, headers, content_type, body, send)
    }

    /// Hands the ACK to the 2xx of an INVITE of ours to `send`: it has that INVITE's number
    /// (section 13.2.2.4).
    pub fn acknowledge<T>(&self, invite_cseq: u32, send: impl FnOnce(&Request<'_>) -> T) -> T {
        self.numbered((invite_cseq, HOPS), Method::Ack, &[], None, b"", send)
    }

    fn numbered<T>(
        &self,
        (cseq, max_forwards): (u32, u8),
        method: Method<'_>,
        headers: &[(&str, &str)],
        content_type: Option<&str>,
        body: &[u8],
        send: impl FnOnce(&Request<'_>) -> T,
    ) -> T {
        let parts = self.parts();
        let route_set = self.route_set();
        let (uri, route_set) = way(&route_set, parts.target);
        let mut all: heapless::Vec<(&str, &str), 12> = heapless::Vec::new();
        if !route_set.is_empty() {
            // Twelve places; nobody gives more than ten.
            let _ = all.push(("Route", &route_set));
        }
        let is_fit = all.extend_from_slice(headers).is_ok();
        debug_assert!(is_fit, "more headers than a dialog's request has room for");
        send(&Request {
            method,
            uri,
            from: parts.local_uri,
            from_tag: parts.local_tag,
            to: parts.remote_uri,
            to_tag: Some(parts.remote_tag).filter(|tag| !tag.is_empty()),
            call_id: parts.call_id,
            cseq,
            max_forwards,
            headers: &all,
            content_type,
            body,
        })
    }
}

fn pack(parts: &Parts<'_>, own_routes: &str) -> Box<str> {
    let all = parts.all();
    let octets: usize = all.iter().map(|text| text.len() + 1).sum();
    let mut texts = String::with_capacity(octets + own_routes.len());
    for text in all {
        texts.push_str(text.split(['\n', '\r']).next().unwrap_or_default());
        texts.push('\n');
    }
    texts.push_str(own_routes);
    texts.into_boxed_str()
}

/// Request-URI and Route of a request. If the first router is a strict one, without `lr`, it is
/// asked by its own URI, and the target is the last of the routes (RFC 3261 section 12.2.1.1).
fn way<'a>(routes: &'a str, target: &'a str) -> (&'a str, Cow<'a, str>) {
    // Nearly all are loose and need no more than a look: a route may be a kilobyte long.
    let is_loose =
        |uri: &str| uri.rmatch_indices(";lr").any(|(at, mark)| uri[at + mark.len()..].starts_with([';', '>', '=']));
    if routes.is_empty() || (routes.starts_with('<') && routes.split_inclusive('>').next().is_some_and(is_loose)) {
        return (target, routes.into());
    }
    let first = split_list(routes).next().unwrap_or_default();
    let is_strict = |uri: &&str| Uri::parse(uri).is_ok_and(|uri| uri.is_sip() && uri.params.get("lr").is_none());
    let Some(strict) = NameAddr::parse(first).map(|route| route.uri).filter(is_strict) else {
        return (target, routes.into());
    };
    let rest = routes.strip_prefix(first).unwrap_or_default().trim_start_matches([',', ' ']);
    let comma = if rest.is_empty() { "" } else { ", " };
    // Header fields have no place in a Request-URI.
    (strict.split('?').next().unwrap_or_default(), format!("{rest}{comma}<{target}>").into())
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
    fn a_strict_router_gets_its_own_uri_and_the_target_as_the_last_route() {
        for (routes, uri, route) in [
            ("", "sip:marta@192.0.2.1", ""),
            ("<sip:a;lr>, <sip:b>", "sip:marta@192.0.2.1", "<sip:a;lr>, <sip:b>"),
            ("<sip:a;transport=tls?x=y>;lr", "sip:a;transport=tls", "<sip:marta@192.0.2.1>"),
            ("<sip:a,1@x>;tag=1, <sip:b;lr>", "sip:a,1@x", "<sip:b;lr>, <sip:marta@192.0.2.1>"),
        ] {
            assert_eq!(way(routes, "sip:marta@192.0.2.1"), (uri, route.into()), "{routes}");
        }
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

    /// Two hops of an Edge; the signatures are those of dialog `number`.
    fn edge(number: usize) -> [String; 2] {
        ["<sip:kante.example", "<sip:kern.example"].map(|start| {
            let key = "kM-_".repeat(110);
            format!(
                "{start}:5061;transport=tls;lr;ms-key-info=AAEA{key};ms-route-sig={number:042}AA>;tag={number:032X}"
            )
        })
    }

    fn thrifty(sets: &mut RouteSets, values: &[String]) -> Dialog {
        let route_set = sets.of_thriftily(values.iter().map(String::as_str));
        assert_eq!(route_set.text(), values.join(", "));
        Dialog::new(&parts(), route_set, 0, None)
    }

    #[test]
    fn a_signature_of_its_own_costs_a_dialog_its_length_and_comes_back_octet_by_octet() {
        let mut sets = RouteSets::default();
        let mut dialogs: Vec<Dialog> = (0..5000).map(|number| thrifty(&mut sets, &edge(number))).collect();
        let own: usize = dialogs.iter().map(Dialog::octets).sum();
        assert!(sets.octets + own < 5000 * 450, "{} {own}", sets.octets);
        for (number, dialog) in dialogs.iter_mut().enumerate() {
            dialog.refresh_target("sip:marta@192.0.2.9");
            assert_eq!(dialog.route_set(), edge(number).join(", "));
            assert_eq!((dialog.call_id(), dialog.parts().target), ("c@x", "sip:marta@192.0.2.9"));
            dialog.request(Method::Notify, &[], None, b"", |request| {
                assert_eq!(request.headers, [("Route", &*edge(number).join(", "))]);
            });
        }
        let first = dialogs.swap_remove(0);
        assert_eq!(sets.intern_thriftily(&first.route_set()).text(), first.route_set());
    }

    #[test]
    fn what_many_dialogs_have_in_common_is_kept_once_and_nothing_is_kept_beside_it() {
        let mut sets = RouteSets::default();
        let dialogs: Vec<Dialog> = (0..10_000).map(|number| thrifty(&mut sets, &edge(number / 100))).collect();
        assert!(dialogs.iter().all(|dialog| dialog.own_routes().is_empty()));
        assert_eq!(sets.sets.len(), 100);
    }

    #[test]
    fn routes_that_have_nothing_in_common_are_their_dialogs_own() {
        let mut sets = RouteSets::default();
        let routes = |number: usize| [format!("<sip:{number}.{}.example;lr>", "x".repeat(2000)), "<sip:b;lr>".into()];
        let dialogs: Vec<Dialog> = (0..2000).map(|number| thrifty(&mut sets, &routes(number))).collect();
        assert!(sets.octets <= ROUTE_SETS_OCTETS_MIN + 2000 * ROUTE_SET_OCTETS_PER_DIALOG + 2048);
        for (number, dialog) in dialogs.iter().enumerate() {
            assert_eq!(dialog.route_set(), routes(number).join(", "));
        }
    }
}
