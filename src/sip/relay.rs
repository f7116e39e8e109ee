//! Requests and responses of others, sent on as they are (RFC 3261 section 16): what a
//! proxy changes in them, and nothing else. Header fields keep their order, their names
//! and their values, bodies every octet.
//!
//! A request that is sent on is one of our own to its next hop, with our Via on top: it is
//! located, connected, sent again and failed over like the others. Its responses go back by
//! the transaction it came with. So an ACK to a failure and the answer to a CANCEL are
//! ours, as for every stateful proxy, and an ACK to a 2xx is a request of its own.
//!
//! Our Record-Route has a parameter of its own, [`MARK`]: in-dialog requests are known by
//! it. Where both sides differ in transport there are two (RFC 5658).
//!
//! Left out on purpose: forking, that is done by who comes behind us; recursion on 3xx;
//! credentials; picking a next hop by Route or Request-URI, since only the proved servers
//! of the domains of a call get its requests.

use super::emit::emit_text;
use super::endpoint::{Destination, Endpoint, NameAddr, Refused, Source};
use super::header::split_list;
use super::message::Message;
use super::transport::{Ways, default_port, emit_top_via};
use super::uri::Uri;
use crate::base::cx::{Cx, Ticket};
use crate::base::net::Transport;
use crate::base::outbox::Writer;
use crate::base::slab::Key;

/// The parameter of our own Record-Route.
const MARK: &str = "relay";

/// What is changed in a request that is sent on.
#[derive(Clone, Copy, Debug)]
pub struct Onward<'a> {
    /// Its Max-Forwards.
    pub max_forwards: u8,
    /// Values of Record-Route that go before all others.
    pub record_routes: &'a [String],
    /// Where it came from.
    pub source: Source,
}

impl Endpoint {
    /// Does the request follow a Record-Route of ours: is it inside a dialog that was
    /// relayed?
    pub fn follows_our_route(&self, message: &Message<'_>) -> bool {
        message.headers("Route").next().is_some_and(|route| self.ways.is_own_route(route))
            || self.ways.is_own_uri(message.uri())
    }

    /// The values of Record-Route for a request that came by one transport and goes out by
    /// another.
    pub fn record_routes(&self, from: Transport, to: Transport) -> Vec<String> {
        let value = |transport| format!("<{}>", self.ways.route_uri(transport));
        if from == to { vec![value(to)] } else { vec![value(to), value(from)] }
    }

    /// Sends a request on. Its responses come with `ticket`, each of them: they are to go
    /// back by [`Self::relay_response`]. From now on the transaction it came with, `None`
    /// for an ACK, answers nothing of itself but 100 and CANCEL.
    pub fn relay(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Option<Key>,
        ticket: Ticket,
        destination: &Destination<'_>,
        message: &Message<'_>,
        onward: &Onward<'_>,
    ) -> Result<(), Refused> {
        let ways = &self.ways;
        let mut w = cx.out.begin();
        let via = emit_onward(&mut w, ways, message, onward);
        let octets = w.written().to_vec();
        w.cancel();
        self.begin_relayed(cx, ticket, destination, message, &octets, via)?;
        if let Some(transaction) = transaction {
            self.keep_open(transaction);
        }
        Ok(())
    }

    /// Sends a response to a relayed request back to where that came from.
    pub fn relay_response(&mut self, cx: &mut Cx<'_>, transaction: Key, message: &Message<'_>) {
        self.pass_back(cx, transaction, message);
    }
}

impl Ways {
    /// Our own URI in a Record-Route.
    fn route_uri(&self, transport: Transport) -> String {
        use core::fmt::Write;
        let mut uri = format!("sip:{}", self.host_name);
        if let Some(port) = self.port_of(transport).filter(|port| *port != default_port(transport)) {
            // Writing into a String does not fail.
            let _ = write!(uri, ":{port}");
        }
        let _ = write!(uri, ";transport={};lr;{MARK}", transport.name().to_ascii_lowercase());
        uri
    }

    fn is_own_uri(&self, uri: &str) -> bool {
        Uri::parse(uri).is_ok_and(|uri| {
            uri.user.is_none() && uri.params.get(MARK).is_some() && super::uri::same_host(uri.host, &self.host_name)
        })
    }

    fn is_own_route(&self, value: &str) -> bool {
        NameAddr::parse(value).is_some_and(|route| self.is_own_uri(route.uri))
    }
}

/// Writes a request as it is sent on, without our Via, and gives the place of that.
fn emit_onward(w: &mut Writer<'_>, ways: &Ways, message: &Message<'_>, onward: &Onward<'_>) -> usize {
    let routes: Vec<&str> = message.headers("Route").collect();
    let ours = routes.iter().take_while(|route| ways.is_own_route(route)).count();
    // A strict router put the last Route in place of the target (section 16.4).
    let target = routes.last().filter(|_| ways.is_own_uri(message.uri()) && ours < routes.len());
    let target = target.and_then(|route| NameAddr::parse(route)).map(|route| route.uri);
    let kept = ours..routes.len() - usize::from(target.is_some());
    w.str(message.method().as_str()).str(" ").str(target.unwrap_or_else(|| message.uri())).str(" SIP/2.0\r\n");
    let via = w.len();
    for value in onward.record_routes {
        w.str("Record-Route: ").str(value).str("\r\n");
    }
    let (mut is_top, mut hops, mut length, mut place) = (true, false, false, 0);
    for (name, value) in message.fields() {
        let is = |long: &str, compact: &str| name.eq_ignore_ascii_case(long) || name.eq_ignore_ascii_case(compact);
        if is("Via", "v") && is_top {
            is_top = false;
            emit_top_via(w, message.via(), onward.source.address);
            for further in split_list(value).skip(1) {
                w.str("\r\nVia: ").str(further);
            }
        } else if name.eq_ignore_ascii_case("Max-Forwards") {
            hops = true;
            w.str(name).str(": ").number(u64::from(onward.max_forwards));
        } else if name.eq_ignore_ascii_case("Route") {
            let here: Vec<&str> = split_list(value).collect();
            let from = place;
            place += here.len();
            if kept.start <= from && place <= kept.end {
                w.str(name).str(": ").str(value);
            } else {
                let left: Vec<&str> = here
                    .into_iter()
                    .enumerate()
                    .filter(|(at, _)| kept.contains(&(from + at)))
                    .map(|(_, v)| v)
                    .collect();
                if left.is_empty() {
                    continue;
                }
                w.str(name).str(": ").str(&left.join(", "));
            }
        } else {
            length |= is("Content-Length", "l");
            w.str(name).str(": ").str(value);
        }
        w.str("\r\n");
    }
    if !hops {
        w.str("Max-Forwards: ").number(u64::from(onward.max_forwards)).str("\r\n");
    }
    emit_body(w, message, length);
    via
}

/// Writes a response as it goes back: without the top Via, which is ours.
pub(super) fn emit_back(w: &mut Writer<'_>, message: &Message<'_>) {
    w.str("SIP/2.0 ").number(u64::from(message.status())).str(" ");
    emit_text(w, message.reason());
    w.str("\r\n");
    let (mut is_top, mut length) = (true, false);
    for (name, value) in message.fields() {
        let is = |long: &str, compact: &str| name.eq_ignore_ascii_case(long) || name.eq_ignore_ascii_case(compact);
        if is("Via", "v") && core::mem::take(&mut is_top) {
            for further in split_list(value).skip(1) {
                w.str("Via: ").str(further).str("\r\n");
            }
            continue;
        }
        length |= is("Content-Length", "l");
        w.str(name).str(": ").str(value).str("\r\n");
    }
    emit_body(w, message, length);
}

/// A datagram may do without a length, a stream may not.
fn emit_body(w: &mut Writer<'_>, message: &Message<'_>, has_length: bool) {
    if !has_length {
        w.str("Content-Length: ").number(message.body().len() as u64).str("\r\n");
    }
    w.str("\r\n").bytes(message.body());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::outbox::Outbox;
    use crate::base::rng::Rng;
    use crate::settings::Settings;

    const INVITE: &str = "INVITE sip:moewe@hafen.example SIP/2.0\r\nVia: SIP/2.0/UDP a.example;rport;branch=z9hG4bK1, \
        SIP/2.0/TCP b.example:7;branch=z9hG4bK2\r\nv: SIP/2.0/TLS c.example;branch=z9hG4bK3\r\nRoute: \
        <sip:bruecke.example;lr;relay>,<sip:d.example;lr>\r\nroute: <sip:e.example;lr>\r\nf: <sip:pia@kontor.example>;tag=1\r\n\
        t: <sip:moewe@hafen.example>\r\ni: x\r\nCSeq: 1 INVITE\r\nX-Odd: a, \"b\"\r\nContact: <sip:pia@a.example>\r\n\
        Content-Length: 4\r\n\r\nv=0\n";

    /// The request and the response to it as they are sent on, if it is a request at all.
    fn relayed(octets: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let ways = Ways::new(&Settings { host_name: "bruecke.example".into(), ..Settings::default() });
        let mut copy = octets.to_vec();
        let (_, head, len) = crate::sip::framer::datagram(&copy).ok()?;
        copy.truncate(len);
        // A response whose only Via is ours belongs to a request of our own.
        let message = Message::parse(&mut copy, head).ok().filter(|m| m.is_request() || m.vias().nth(1).is_some())?;
        let source =
            Source { transport: Transport::Tls, address: ([192, 0, 2, 7], 5061).into(), link: None, listener: None };
        let record_routes = ["<sip:bruecke.example;lr;relay>".to_owned()];
        let onward = Onward { max_forwards: 9, record_routes: &record_routes, source };
        let mut out = Outbox::with_capacity(4096, 4);
        let mut w = out.begin();
        if message.is_request() {
            emit_onward(&mut w, &ways, &message, &onward);
        } else {
            emit_back(&mut w, &message);
        }
        let octets = w.written().to_vec();
        w.cancel();
        Some((octets, message.body().to_vec()))
    }

    #[test]
    fn what_is_ours_is_taken_out_of_lists_and_the_rest_stays_as_it_is() {
        let (sent, _) = relayed(INVITE.as_bytes()).expect("a request");
        let sent = String::from_utf8(sent).expect("text");
        let wanted = INVITE
            .replace("SIP/2.0\r\nVia", "SIP/2.0\r\nRecord-Route: <sip:bruecke.example;lr;relay>\r\nVia")
            .replace("rport;", "rport=5061;")
            .replace("branch=z9hG4bK1, ", "branch=z9hG4bK1;received=192.0.2.7\r\nVia: ")
            .replace("<sip:bruecke.example;lr;relay>,<sip:d.example;lr>", "<sip:d.example;lr>")
            .replace("Content-Length: 4\r\n", "Content-Length: 4\r\nMax-Forwards: 9\r\n");
        assert_eq!(sent, wanted);
    }

    #[test]
    fn whatever_comes_is_sent_on_as_a_message_with_the_same_body_or_not_at_all() {
        let mut rng = Rng::from_number(77);
        let response = INVITE.replacen("INVITE sip:moewe@hafen.example SIP/2.0", "SIP/2.0 200 Fine", 1);
        for (text, round) in [INVITE, &response].into_iter().cycle().zip(0..20_000) {
            let mut octets = text.as_bytes().to_vec();
            for _ in 0..rng.below(4) {
                let at = rng.below(octets.len() as u64) as usize;
                match rng.below(3) {
                    0 => octets[at] = rng.below(256) as u8,
                    1 => drop(octets.remove(at)),
                    _ => octets.insert(at, b";,:<> \r\n\t\"0"[rng.below(11) as usize]),
                }
            }
            let Some((mut sent, body)) = relayed(&octets) else { continue };
            let (_, head, len) = crate::sip::framer::datagram(&sent).unwrap_or_else(|e| panic!("{round}: {e:?}"));
            sent.truncate(len);
            let message = Message::parse(&mut sent, head).unwrap_or_else(|e| panic!("{round}: {:?}", e.fault));
            assert_eq!(message.body(), body, "{round}");
        }
    }
}
