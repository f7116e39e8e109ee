//! A test message from one user to another.

use super::machine::{Fault, LATE_ERROR_TIME, STEP_TIME_MAX};
use super::{Course, advice, marked, probe_of};
use crate::base::cx::Cx;
use crate::base::net::Transport;
use crate::base::slab::Key;
use crate::base::text::Escaped;
use crate::base::trail::Side;
use crate::base::xml::{Bindings, Limits, Tag};
use crate::gateway::uas::Answer;
use crate::gateway::{Gateway, address, message};
use crate::sip::endpoint::Source;
use crate::sip::message::Message;
use crate::xmpp::jid::{Jid, domain_to_ascii};
use crate::xmpp::ns;
use crate::xmpp::server::Handle;
use crate::xmpp::stanza::{Head, Kind, Stanza, StanzaError};

/// What the recipient reads.
const TEXT: &str = "Test message from the gateway: its operator checks whether messages arrive. Please ignore it.";

/// A MESSAGE on its way to XMPP.
#[derive(Debug, Default)]
pub(super) struct ToXmpp {
    /// The id of its stanza, once there is one.
    id: Option<String>,
}

/// A stanza on its way to SIP.
#[derive(Debug)]
pub(super) struct ToSip {
    /// Its id.
    id: String,
    /// The number of its handle.
    number: u32,
    /// Did our own checks take it?
    taken: bool,
}

impl Gateway {
    /// Begins a test with two addresses of different sides.
    pub(super) fn test_user(&mut self, cx: &mut Cx<'_>, from: &str, to: &str) -> Result<Option<Key>, String> {
        let (from, to) = (user(from)?, user(to)?);
        let on_sip = |jid: &Jid| self.routes.sip_domain(&self.settings, jid.domain()).is_some();
        // While discovery is open a domain that nobody configured may be on either side.
        let is_set = |jid: &Jid| self.routes.is_configured(jid.domain());
        let sides = match (on_sip(&from), on_sip(&to)) {
            (true, true) if is_set(&from) != is_set(&to) => (is_set(&from), is_set(&to)),
            sides => sides,
        };
        match sides {
            (true, false) => Ok(self.test_to_xmpp(cx, &from, &to)),
            (false, true) => Ok(self.test_to_sip(cx, &from, &to)),
            (true, true) => Err(format!(
                "{} and {} are both SIP domains here; allowed: one user of a SIP domain, one of an XMPP domain",
                from.domain(),
                to.domain()
            )),
            (false, false) => Err(format!(
                "neither {} nor {} is a SIP domain here; allowed: one user of a SIP domain, one of an XMPP domain",
                from.domain(),
                to.domain()
            )),
        }
    }

    // ---- SIP -> XMPP --------------------------------------------------------------

    fn test_to_xmpp(&mut self, cx: &mut Cx<'_>, from: &Jid, to: &Jid) -> Option<Key> {
        let names = vec![to.domain().to_owned()];
        let key = self.enter_test(cx, Course::ToXmpp(ToXmpp::default()), names)?;
        self.xmpp.forgive(to.domain());
        let uris = (message::sip_uri(from, true), message::sip_uri(to, true));
        let (Ok(from_uri), Ok(to_uri)) = uris else {
            let fault = Fault::new("configured", Side::Ours, "an address has no SIP form", "check the addresses");
            self.tests.probes.get_mut(key)?.red(cx.now, fault);
            return Some(key);
        };
        let (call_id, tag) = (message::new_call_id(cx), message::new_tag(cx));
        let mut octets = format!(
            "MESSAGE {to_uri} SIP/2.0\r\nVia: SIP/2.0/TLS {host};branch=z9hG4bK{tag}\r\nMax-Forwards: 70\r\n\
             From: <{from_uri}>;tag={tag}\r\nTo: <{to_uri}>\r\nCall-ID: {call_id}\r\nCSeq: 1 MESSAGE\r\n\
             Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{TEXT}",
            host = self.settings.host_name,
            length = TEXT.len(),
        )
        .into_bytes();
        let head = octets.len() - TEXT.len();
        match Message::parse(&mut octets, head) {
            Ok(message) => {
                let source = Source {
                    transport: Transport::Tls,
                    address: (core::net::Ipv4Addr::UNSPECIFIED, 0).into(),
                    link: None,
                    listener: None,
                };
                let judged =
                    self.judge_from(&message, from.clone()).and_then(|accepted| self.permit(cx, &message, accepted));
                self.settle_request(cx, marked(key), &message, &source, true, judged);
            }
            Err(_) => {
                let fault =
                    Fault::new("configured", Side::Ours, "the addresses make no request", "check the addresses");
                self.tests.probes.get_mut(key)?.red(cx.now, fault);
            }
        }
        let id = self.pending.id_of(marked(key)).map(str::to_owned);
        let probe = self.tests.probes.get_mut(key)?;
        if probe.runs() {
            probe.passed(cx.now, "accepted", "the rules of this gateway let it pass; it is on its way to the partner");
            probe.wait(cx.now, STEP_TIME_MAX);
            probe.course = Course::ToXmpp(ToXmpp { id });
        }
        Some(key)
    }

    /// A MESSAGE was answered; false if its transaction is no test's.
    pub(in crate::gateway) fn test_message_answered(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: Key,
        answer: &Answer,
    ) -> bool {
        let Some(key) = probe_of(transaction) else { return false };
        self.take_marks(cx);
        let Some(probe) = self.tests.probes.get_mut(key).filter(|probe| probe.runs()) else { return true };
        // Without an id it has not left the checks yet.
        let is_on_its_way = matches!(&probe.course, Course::ToXmpp(ToXmpp { id: Some(_) }));
        let status = answer.status;
        if status < 200 {
            return true;
        }
        if status < 300 {
            probe.delivered = true;
            probe.passed(cx.now, "delivered", "the partner's server has it");
            probe.wait(cx.now, LATE_ERROR_TIME);
            return true;
        }
        let by_us = !is_on_its_way && answer.counter != crate::base::counters::Counter::SipMessageFailed;
        let (side, who) = if by_us { (Side::Ours, "this gateway") } else { (Side::Partner, "the XMPP side") };
        let text = format!("refused by {who}: {status} {}", answer.reason);
        let fault =
            Fault::new(if by_us { "accepted" } else { "delivered" }, side, text, advice::of_status(status, by_us));
        if by_us {
            probe.red(cx.now, fault)
        } else {
            probe.lost(cx.now, fault)
        }
        true
    }

    /// A stanza error came after a message was delivered; false if that was no test's.
    pub(in crate::gateway) fn test_late_error(&mut self, cx: &mut Cx<'_>, id: &str, error: &StanzaError<'_>) -> bool {
        let is_it = |course: &Course| matches!(course, Course::ToXmpp(ToXmpp { id: Some(own) }) if own == id);
        let Some((_, probe)) = self.tests.probes.iter_mut().find(|(_, probe)| is_it(&probe.course)) else {
            return false;
        };
        let words = error.text.as_deref().unwrap_or_default();
        let text = format!("the XMPP side took it and sent an error: {} {words}", error.condition.name());
        probe.red(cx.now, Fault::new("delivered", Side::Partner, text, "check the address; its server's log says why"));
        true
    }

    // ---- XMPP -> SIP --------------------------------------------------------------

    fn test_to_sip(&mut self, cx: &mut Cx<'_>, from: &Jid, to: &Jid) -> Option<Key> {
        self.tests.stanzas = self.tests.stanzas.wrapping_add(1);
        let number = self.tests.stanzas;
        let id = format!("test-{}", cx.rng.token::<16>());
        let served = self.routes.sip_domain(&self.settings, to.domain())?;
        let host = served.next_hop.as_ref().map_or_else(String::new, |hop| hop.host.clone());
        let names = vec![domain_to_ascii(to.domain())?.into_owned(), host];
        let key = self.enter_test(cx, Course::ToSip(ToSip { id: id.clone(), number, taken: false }), names)?;
        let mut w = cx.out.begin();
        let head = Head {
            kind: Kind::Message,
            from: from.as_str(),
            to: to.as_str(),
            id: Some(&id),
            type_: Some("chat"),
            lang: None,
        };
        head.emit(&mut w, |w| Tag::begin(w, "body").text(TEXT));
        let octets = w.written().to_vec();
        w.cancel();
        let mut tree = core::mem::take(&mut self.tree);
        let element = tree.parse(&octets, &Bindings::with_default(ns::SERVER), Limits::STANZA);
        match element.ok().map(|element| Stanza::parse(element, ns::SERVER, None)) {
            Some(Ok(stanza)) => self.message_from_xmpp(cx, Handle::of_test(number), &stanza),
            _ => {
                let fault = Fault::new("configured", Side::Ours, "the addresses make no stanza", "check the addresses");
                self.tests.probes.get_mut(key)?.red(cx.now, fault);
            }
        }
        self.tree = tree;
        let probe = self.tests.probes.get_mut(key)?;
        if let (true, Course::ToSip(course)) = (probe.runs(), &mut probe.course) {
            course.taken = true;
            probe.passed(cx.now, "accepted", "the rules of this gateway let it pass; it is on its way to the SIP side");
            probe.wait(cx.now, STEP_TIME_MAX);
        }
        Some(key)
    }

    /// A stanza error is about to go out; false if it does not answer a test.
    pub(in crate::gateway) fn test_refused(
        &mut self,
        cx: &mut Cx<'_>,
        id: Option<&str>,
        error: &StanzaError<'_>,
    ) -> bool {
        let is_it = |course: &Course| matches!(course, Course::ToSip(course) if Some(course.id.as_str()) == id);
        if !self.tests.probes.iter().any(|(_, probe)| is_it(&probe.course)) {
            return false;
        }
        self.take_marks(cx);
        let Some((_, probe)) = self.tests.running().find(|(_, probe)| is_it(&probe.course)) else { return true };
        let by_us = matches!(&probe.course, Course::ToSip(ToSip { taken: false, .. }));
        let (side, who) = if by_us { (Side::Ours, "this gateway") } else { (Side::Partner, "the SIP side") };
        let words = error.text.as_deref().unwrap_or_default();
        let text = format!("refused by {who}: {} {words}", error.condition.name());
        let advice = advice::of_condition(error.condition, by_us);
        let fault = Fault::new(if by_us { "accepted" } else { "delivered" }, side, text, advice);
        if by_us {
            probe.red(cx.now, fault)
        } else {
            probe.lost(cx.now, fault)
        }
        true
    }

    /// What becomes of a test's stanza is certain; without an error it was delivered.
    pub(in crate::gateway) fn test_handled(&mut self, cx: &mut Cx<'_>, number: u32) {
        self.take_marks(cx);
        let is_it = |course: &Course| matches!(course, Course::ToSip(course) if course.number == number);
        let Some((_, probe)) = self.tests.running().find(|(_, probe)| is_it(&probe.course)) else { return };
        probe.passed(cx.now, "delivered", "the SIP side took it");
        probe.green(cx.now, "the message was delivered");
    }
}

/// A user's address, whichever side's form it has.
fn user(text: &str) -> Result<Jid, String> {
    let wrong = || format!("{} is no address of a user; allowed: user@domain", Escaped(text));
    let mut jid = String::new();
    let lower = text.get(..5).unwrap_or_default().to_ascii_lowercase();
    let plain = if lower.starts_with("sip:") || lower.starts_with("sips:") {
        address::to_jid(text, None, &mut jid).map_err(|_| wrong())?;
        &jid
    } else {
        text.strip_prefix("xmpp:").unwrap_or(text)
    };
    Jid::parse(plain).ok().filter(|jid| jid.local().is_some()).ok_or_else(wrong)
}
