//! What a failure on one side is called on the other (RFC 7247 section 7): one table
//! each way, [`answer_for`] with two statuses a condition and [`condition_for`] with the
//! conditions of every status. Whatever fails inside the gateway goes through
//! the same two doors, so that both sides hear the words of their own standard.
//!
//! Decisions: `service-unavailable` never becomes 503, which would tell the SIP side
//! that the whole server is unusable (403 for a bare JID, 405 for a full one). 401 and
//! 407 are not sent, since an XMPP error brings no challenge: 403 instead.

use super::address;
use crate::base::net::NotLocated;
use crate::base::text::{Escaped, Sentence, cut};
use crate::settings::Dialect;
use crate::sip::diagnostics::Diagnostic;
use crate::sip::endpoint::Failure;
use crate::sip::message::Message;
use crate::xmpp::server::Undelivered;
use crate::xmpp::stanza::{Condition, StanzaError};
use core::fmt;

/// The statuses of a condition when a full JID and when a bare JID sends it (REQ-7247-34,
/// REQ-7247-35). `gone` and `redirect` stand here without an address; with one see
/// [`answer_for`].
const fn statuses(condition: Condition) -> (u16, u16) {
    match condition {
        Condition::BadRequest
        | Condition::Conflict
        | Condition::JidMalformed
        | Condition::SubscriptionRequired
        | Condition::UndefinedCondition => (400, 400),
        Condition::FeatureNotImplemented => (405, 501),
        Condition::Forbidden => (403, 603),
        Condition::Gone => (410, 410),
        Condition::InternalServerError | Condition::ResourceConstraint => (500, 500),
        Condition::ItemNotFound => (404, 604),
        Condition::NotAcceptable => (406, 606),
        Condition::NotAllowed
        | Condition::NotAuthorized
        | Condition::PolicyViolation
        | Condition::RegistrationRequired => (403, 403),
        Condition::RecipientUnavailable => (480, 600),
        Condition::Redirect => (480, 480),
        Condition::RemoteServerNotFound => (404, 404),
        Condition::RemoteServerTimeout => (408, 408),
        Condition::ServiceUnavailable => (405, 403),
        Condition::UnexpectedRequest => (491, 491),
    }
}

/// A final response that tells a failure to the SIP side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Its reason phrase, unless the failure brought a text of its own.
    pub reason: &'static str,
    /// For Retry-After, in seconds.
    pub retry_after_s: Option<u32>,
}

impl Answer {
    /// The response with that status and its usual reason phrase.
    pub const fn new(status: u16) -> Self {
        Self { status, reason: reason_of(status), retry_after_s: None }
    }

    /// Must the response carry Allow (RFC 3261 section 21.4.6)?
    pub const fn needs_allow(&self) -> bool {
        self.status == 405
    }
}

/// Seconds after which a peer may come back when we or the other side are short of
/// room. Long enough for a queue to drain, short enough not to look like an outage.
const RETRY_AFTER_S: u32 = 10;

/// The SIP answer to a stanza error. `address` is the character data of `<gone/>` or
/// `<redirect/>`; `from_is_full` tells whether a full JID sent the error
/// (REQ-7247-35). `contact` is cleared, and for 301 and 302 holds the URI for Contact,
/// without brackets.
pub fn answer_for(condition: Condition, address: Option<&str>, from_is_full: bool, contact: &mut String) -> Answer {
    contact.clear();
    let address = address.map(str::trim).filter(|address| !address.is_empty());
    match (condition, address) {
        (Condition::Gone, Some(address)) if address::uri_to_sip(address, contact).is_ok() => return Answer::new(301),
        (Condition::Redirect, Some(address)) if address::uri_to_sip(address, contact).is_ok() => {
            return Answer::new(302);
        }
        // An address that is no user's is handed on as it is if SIP can carry it.
        (Condition::Gone, Some(address)) if address::is_plain_uri(address) => {
            contact.clear();
            contact.push_str(address);
            return Answer::new(301);
        }
        _ => contact.clear(),
    }
    let (full, bare) = statuses(condition);
    let mut answer = Answer::new(if from_is_full { full } else { bare });
    if condition == Condition::ResourceConstraint {
        answer.retry_after_s = Some(RETRY_AFTER_S);
    }
    answer
}

/// The stanza error for a SIP final response of 300 or more (RFC 7247 section 7.2).
/// `contact` is the URI of its Contact. `address` is cleared, and for 301, 300, 302
/// and 305 holds the character data of `<gone/>` or `<redirect/>`: an `xmpp:` URI, or
/// the SIP URI as it stands when it has no JID (REQ-7247-43, REQ-7247-44).
pub fn error_for(status: u16, contact: Option<&str>, address: &mut String) -> Condition {
    address.clear();
    let condition = condition_for(status);
    let has_address = matches!(status, 300..=379 | 381..=399);
    if let Some(contact) = contact.filter(|_| has_address)
        && address::sip_to_xmpp_uri(contact, address).is_err()
    {
        address.clear();
        if address::is_plain_uri(contact) {
            address.push_str(contact);
        }
    }
    condition
}

/// The condition for a status; one that is not in the table goes by its class
/// (REQ-7247-42). The error type goes with the condition. A 301 that names no new
/// address is `gone` all the same.
pub const fn condition_for(status: u16) -> Condition {
    use Condition::*;
    match status {
        301 | 410 => Gone,
        380 | 406 | 415 | 416 | 421 | 482 | 483 | 488 | 505 | 606 => NotAcceptable,
        300..=399 => Redirect,
        401 => NotAuthorized,
        403 => Forbidden,
        404 | 481 | 484 | 485 | 604 => ItemNotFound,
        405 | 420 | 439 | 501 => FeatureNotImplemented,
        407 => RegistrationRequired,
        408 | 504 => RemoteServerTimeout,
        413 | 414 | 440 | 489 | 513 => PolicyViolation,
        423 => ResourceConstraint,
        430 | 480 | 486 | 487 => RecipientUnavailable,
        491 => UnexpectedRequest,
        502 => RemoteServerNotFound,
        500..=599 => InternalServerError,
        600..=699 => RecipientUnavailable,
        _ => BadRequest,
    }
}

/// The status of a condition towards a peer of the Lync dialect, where it is not that of
/// RFC 7247: its clients take 405 and 406 for faults of their own, know no redirection,
/// and end the session at a 408 or 481.
pub const fn lync_status_for(condition: Condition) -> u16 {
    use Condition::*;
    match condition {
        ItemNotFound | RemoteServerNotFound => 404,
        ServiceUnavailable | RecipientUnavailable => 480,
        RemoteServerTimeout => 504,
        NotAcceptable | FeatureNotImplemented => 488,
        Forbidden | NotAllowed | NotAuthorized | PolicyViolation | RegistrationRequired | SubscriptionRequired => 403,
        ResourceConstraint => 503,
        Gone | Redirect => 410,
        InternalServerError => 500,
        BadRequest | Conflict | JidMalformed | UndefinedCondition => 400,
        UnexpectedRequest => 491,
    }
}

/// The condition for a status of a peer of the Lync dialect, where it is not that of RFC
/// 7247. `is_filtered`: a Warning says that a policy of its side forbids the content.
pub const fn lync_condition_for(status: u16, is_filtered: bool) -> Condition {
    match status {
        606 if is_filtered => Condition::PolicyViolation,
        603 | 606 => Condition::NotAcceptable,
        503 => Condition::ResourceConstraint,
        _ => condition_for(status),
    }
}

/// The answer to a peer of the Lync dialect for a stanza error.
pub const fn lync_answer_for(condition: Condition) -> Answer {
    let mut answer = Answer::new(lync_status_for(condition));
    if answer.status == 503 {
        answer.retry_after_s = Some(RETRY_AFTER_S);
    }
    answer
}

/// What `Warning` has for content that a filter refused.
const FILTERED: &str = "309";

/// The stanza error for a final response of 300 or more (RFC 7247 section 7.2), in the
/// words of the dialect its side speaks. Its text is the reason that
/// `ms-diagnostics-public` or `ms-diagnostics` gives, else the reason phrase.
pub fn of_response(message: &Message<'_>, dialect: Dialect) -> StanzaError<'static> {
    let (mut address, mut words) = (String::new(), String::new());
    let contact = message.contact();
    let mut condition = error_for(message.status(), contact.as_ref().map(|contact| contact.uri), &mut address);
    if dialect == Dialect::Lync {
        let mut warnings = message.headers("Warning").filter_map(|warning| warning.split_ascii_whitespace().next());
        condition = lync_condition_for(message.status(), warnings.any(|code| code == FILTERED));
    }
    let mut error = StanzaError::new(condition);
    if !address.is_empty() && matches!(condition, Condition::Gone | Condition::Redirect) {
        error = error.with_address(address);
    }
    let said = Diagnostic::all(message).map(|said| said.reason).find(|reason| !reason.is_empty());
    phrase(said.unwrap_or_else(|| message.reason()), &mut words);
    if words.is_empty() { error } else { error.with_text(words) }
}

/// What a failure's diagnostics say, for a log line: number, reason, what it is about and who says so, the
/// public ones first.
pub struct Said<'a>(pub &'a Message<'a>);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, said) in Diagnostic::all(self.0).enumerate() {
            let blank = if at == 0 { "" } else { " " };
            write!(f, "{blank}diagnostics={} reason={}", said.id, Sentence(said.reason))?;
            for (name, value) in [("about", said.domain), ("source", said.source)] {
                if !value.is_empty() {
                    write!(f, " {name}={}", Escaped(value))?;
                }
            }
        }
        Ok(())
    }
}

/// Longest text that goes from a reason phrase to `<text/>` or back, in octets.
const PHRASE_OCTETS_MAX: usize = 120;

/// A reason phrase as `<text/>`, or `<text/>` as a reason phrase: on one line, without
/// controls, cut at 120 octets (REQ-7247-41). `out` is cleared; it stays empty if
/// nothing is left, and then the usual phrase is right.
pub fn phrase(text: &str, out: &mut String) {
    out.clear();
    super::content::header_text(text, usize::MAX, out);
    let end = cut(out, PHRASE_OCTETS_MAX).trim_end().len();
    out.truncate(end);
}

/// The SIP answer to a message that did not reach the XMPP side (promise P1: 408, 480
/// or 503 by cause; REQ-7247-7: 404 for a domain that does not exist).
pub const fn answer_for_undelivered(why: Undelivered) -> Answer {
    match why {
        Undelivered::NotFound => Answer { reason: "No Such XMPP Domain", ..Answer::new(404) },
        Undelivered::Unreachable => Answer { reason: "XMPP Server Unreachable", ..Answer::new(408) },
        Undelivered::Timeout => Answer { reason: "XMPP Server Did Not Answer In Time", ..Answer::new(408) },
        // It is there and does not talk to us, or we not to it: nothing is wrong with
        // the request, and it may work again when somebody has acted.
        Undelivered::Refused => Answer { reason: "No Trusted Stream With The XMPP Server", ..Answer::new(480) },
        Undelivered::StreamLost => Answer { reason: "XMPP Stream Was Lost", ..Answer::new(480) },
        Undelivered::TooLarge => Answer { reason: "Larger Than The XMPP Server Takes", ..Answer::new(513) },
        Undelivered::Overload => Answer {
            reason: "Too Much Waits For The XMPP Server",
            retry_after_s: Some(RETRY_AFTER_S),
            ..Answer::new(503)
        },
    }
}

/// The stanza error for a MESSAGE that got no final response (REQ-7247-45).
pub fn stanza_error_for(failure: Failure) -> StanzaError<'static> {
    let (condition, text) = match failure {
        Failure::Timeout => (Condition::RemoteServerTimeout, "the SIP server did not answer"),
        Failure::Transport(_) => (Condition::RemoteServerTimeout, "the SIP server cannot be reached"),
        Failure::NotLocated(NotLocated::NoSuchDomain) => {
            (Condition::RemoteServerNotFound, "the SIP domain has no server in the DNS")
        }
        Failure::NotLocated(NotLocated::ForeignTarget) => {
            (Condition::RemoteServerNotFound, "the DNS names a server outside the SIP domain")
        }
        Failure::NotLocated(_) => (Condition::RemoteServerTimeout, "the SIP server cannot be found in the DNS now"),
        Failure::Certificate => (Condition::InternalServerError, "the SIP server's certificate is not trusted"),
        Failure::Overload => (Condition::InternalServerError, "the SIP server is overloaded"),
    };
    StanzaError::new(condition).with_text(text)
}

/// The usual reason phrase (RFC 3261 section 21 and its extensions).
pub const fn reason_of(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        421 => "Extension Required",
        423 => "Interval Too Brief",
        440 => "Max-Breadth Exceeded",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        _ => class_of(status),
    }
}

/// What to call a status that has no phrase of its own.
const fn class_of(status: u16) -> &'static str {
    match status {
        ..300 => "Done",
        300..400 => "Redirection",
        400..500 => "Request Failure",
        500..600 => "Server Failure",
        _ => "Global Failure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
        table
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .skip(1)
            .map(|line| line.split('\t').collect())
    }

    /// A response of those header lines.
    fn parsed<T>(status: &str, lines: &str, read: impl FnOnce(&Message<'_>) -> T) -> T {
        let text = format!(
            "SIP/2.0 {status}\r\nVia: SIP/2.0/TLS gw.example;branch=z9hG4bK1\r\nFrom: <sip:lena@lake.example>;tag=1\r\n\
             To: <sip:nora@office.example>;tag=2\r\nCall-ID: a\r\nCSeq: 1 MESSAGE\r\n{lines}Content-Length: 0\r\n\r\n"
        );
        let mut octets = text.into_bytes();
        let head = octets.len();
        read(&Message::parse(&mut octets, head).expect("a good response"))
    }

    #[test]
    fn every_failure_of_a_lync_peer_has_its_condition() {
        let filtered = "Warning: 309 edge.office.example \"Not allowed by policy\"\r\n";
        for (status, lines, condition, text) in [
            ("403 Forbidden", "", "forbidden", "Forbidden"),
            ("404 Not Found", "", "item-not-found", "Not Found"),
            ("408 Late", "", "remote-server-timeout", "Late"),
            ("480 Gone Home", "", "recipient-unavailable", "Gone Home"),
            ("486 Busy", "", "recipient-unavailable", "Busy"),
            ("488 No", "", "not-acceptable", "No"),
            ("503 Busy", "", "resource-constraint", "Busy"),
            ("504 Late", "", "remote-server-timeout", "Late"),
            ("600 Busy", "", "recipient-unavailable", "Busy"),
            ("603 No", "", "not-acceptable", "No"),
            ("604 No", "", "item-not-found", "No"),
            ("606 No", "", "not-acceptable", "No"),
            ("606 No", filtered, "policy-violation", "No"),
            (
                "404 No",
                "ms-diagnostics: 9;reason=\"Inner\";source=\"h\"\r\nms-diagnostics-public: 8;reason=\"Outer\"\r\n",
                "item-not-found",
                "Outer",
            ),
            (
                "404 No",
                "ms-diagnostics: 9;source=\"h\"\r\nms-diagnostics: 8;reason=\"Inner\"\r\n",
                "item-not-found",
                "Inner",
            ),
        ] {
            let error = parsed(status, lines, |message| of_response(message, Dialect::Lync));
            assert_eq!((error.condition.name(), error.text.as_deref()), (condition, Some(text)), "{status} {lines}");
        }
        let standard = parsed("606 No", filtered, |message| of_response(message, Dialect::Standard));
        assert_eq!(standard.condition, Condition::NotAcceptable);
        let moved = "Contact: <sip:nora@home.example>\r\n";
        let moved = parsed("302 Moved", moved, |message| of_response(message, Dialect::Lync));
        assert_eq!(moved.address.as_deref(), Some("xmpp:nora@home.example"));
    }

    #[test]
    fn what_a_peer_says_of_a_failure_is_logged_on_one_line() {
        let lines = "ms-diagnostics: 1008;reason=\"Cannot resolve\";domain=\"lake.example\";source=\"edge.office.example\"\r\n\
                     ms-diagnostics-public: 1003;reason=\"No one\"\r\n";
        let said = parsed("504 Late", lines, |message| Said(message).to_string());
        assert_eq!(
            said,
            "diagnostics=1003 reason=\"No one\" diagnostics=1008 reason=\"Cannot resolve\" about=lake.example source=edge.office.example"
        );
        assert_eq!(parsed("504 Late", "", |message| Said(message).to_string()), "");
    }

    #[test]
    fn every_condition_has_a_status_for_a_lync_peer() {
        for condition in Condition::ALL {
            let answer = lync_answer_for(*condition);
            assert!((400..600).contains(&answer.status), "{condition:?}");
            assert_eq!(answer.retry_after_s.is_some(), answer.status == 503, "{condition:?}");
            assert!(!matches!(answer.status, 405 | 406 | 408 | 481), "{condition:?}");
        }
    }

    #[test]
    fn req_7247_34_every_row_of_the_table_xmpp_to_sip_holds() {
        let mut seen = Vec::new();
        for row in rows(include_str!("../../tests/standards/error-xmpp-to-sip.tsv")) {
            let (condition, detail) = row[0].split_once('+').unwrap_or((row[0], ""));
            let condition = Condition::from_name(condition).expect("a defined condition");
            let address = match (condition, detail) {
                (Condition::Gone, "address") | (Condition::Redirect, _) => Some("xmpp:new@chat.example"),
                _ => None,
            };
            if detail == "unreachable" {
                // The stanza alone does not tell; our own failures do: see `answer_for_undelivered`.
                continue;
            }
            for from_is_full in [true, false] {
                if (row[1] == "full" && !from_is_full) || (row[1] == "bare" && from_is_full) {
                    continue;
                }
                let mut contact = String::new();
                let status = answer_for(condition, address, from_is_full, &mut contact).status.to_string();
                let without_challenge = matches!(row[2], "401" | "407") && status == "403";
                assert!(row[2].split('|').any(|s| s == status) || without_challenge, "{row:?}: {status}");
                assert_eq!(contact.is_empty(), !matches!(row[2], "301" | "302"), "{row:?}");
            }
            seen.push(condition);
        }
        assert!(Condition::ALL.iter().all(|condition| seen.contains(condition)));
    }

    #[test]
    fn req_7247_42_every_row_of_the_table_sip_to_xmpp_holds() {
        let table: Vec<_> = rows(include_str!("../../tests/standards/error-sip-to-xmpp.tsv")).collect();
        for status in 300..700_u16 {
            let exact = status.to_string();
            let class = format!("{}xx", status / 100);
            let row = table.iter().find(|row| row[0] == exact).or_else(|| table.iter().find(|row| row[0] == class));
            let row = row.expect("a row for every class");
            let mut address = String::new();
            let condition = error_for(status, Some("sip:new@voip.example"), &mut address);
            let (wanted, wants_address) = match row[1].split_once('+') {
                Some((wanted, _)) => (wanted, true),
                None => (row[1], row[1] == "redirect"),
            };
            assert_eq!(condition.name(), wanted, "{status}");
            assert_eq!(condition.error_type().name(), row[2], "{status}");
            assert_eq!(address, if wants_address { "xmpp:new@voip.example" } else { "" }, "{status}");
        }
    }

    #[test]
    fn req_7247_36_gone_is_301_with_a_new_address_and_410_without() {
        let mut contact = String::new();
        assert_eq!(answer_for(Condition::Gone, Some("xmpp:a\u{fc}@chat.example"), false, &mut contact).status, 301);
        assert_eq!(contact, "sip:a%C3%BC@chat.example");
        assert_eq!(answer_for(Condition::Gone, Some("  "), false, &mut contact).status, 410);
        assert_eq!(contact, "");
        assert_eq!(answer_for(Condition::Gone, Some("https://a.example/b"), false, &mut contact).status, 301);
        assert_eq!(contact, "https://a.example/b");
        assert_eq!(answer_for(Condition::Gone, Some("x:\r\nRoute: <y>"), false, &mut contact).status, 410);
        assert_eq!(contact, "");
    }

    #[test]
    fn req_7247_38_a_redirect_without_a_usable_address_is_480() {
        let mut contact = String::new();
        assert_eq!(answer_for(Condition::Redirect, Some("mailto:a@b.example"), true, &mut contact).status, 480);
        assert_eq!(answer_for(Condition::Redirect, None, true, &mut contact).status, 480);
        assert_eq!(contact, "");
        assert_eq!(answer_for(Condition::Redirect, Some("sip:a@b.example"), true, &mut contact).status, 302);
        assert_eq!(contact, "sip:a@b.example");
    }

    #[test]
    fn req_7247_43_a_new_address_that_has_no_jid_stays_a_sip_uri_and_410_has_none() {
        let mut address = String::new();
        assert_eq!(error_for(301, Some("sip:bad%FF@voip.example"), &mut address), Condition::Gone);
        assert_eq!(address, "sip:bad%FF@voip.example");
        error_for(301, Some("sip:a b<>@voip.example"), &mut address);
        assert_eq!(address, "");
        error_for(410, Some("sip:a@voip.example"), &mut address);
        assert_eq!(address, "");
    }

    #[test]
    fn req_7247_41_a_phrase_is_one_line_of_at_most_120_octets() {
        let mut out = String::new();
        phrase("Not\r\nVia: x\u{0}\u{2028}here\u{85}", &mut out);
        assert_eq!(out, "Not Via: x here");
        phrase(&"\u{fc}".repeat(100), &mut out);
        assert_eq!(out.len(), 120);
        phrase("\r\n\t ", &mut out);
        assert_eq!(out, "");
    }

    #[test]
    fn req_7247_40_a_405_carries_allow() {
        let mut contact = String::new();
        assert!(answer_for(Condition::ServiceUnavailable, None, true, &mut contact).needs_allow());
        assert!(!answer_for(Condition::ServiceUnavailable, None, false, &mut contact).needs_allow());
    }

    #[test]
    fn req_7247_7_a_domain_that_is_not_there_is_404_and_one_out_of_reach_408() {
        for (why, status) in [
            (Undelivered::NotFound, 404),
            (Undelivered::Unreachable, 408),
            (Undelivered::Timeout, 408),
            (Undelivered::Refused, 480),
            (Undelivered::StreamLost, 480),
            (Undelivered::TooLarge, 513),
            (Undelivered::Overload, 503),
        ] {
            let answer = answer_for_undelivered(why);
            assert_eq!(answer.status, status, "{why:?}");
            assert_eq!(answer.retry_after_s.is_some(), status == 503, "{why:?}");
        }
    }

    #[test]
    fn req_7247_45_no_answer_is_a_timeout_and_no_such_name_is_not_found() {
        for (failure, condition) in [
            (Failure::Timeout, Condition::RemoteServerTimeout),
            (Failure::Transport(crate::base::net::CloseReason::Reset), Condition::RemoteServerTimeout),
            (Failure::NotLocated(NotLocated::NoSuchDomain), Condition::RemoteServerNotFound),
            (Failure::NotLocated(NotLocated::NoAnswer), Condition::RemoteServerTimeout),
        ] {
            assert_eq!(stanza_error_for(failure).condition, condition, "{failure:?}");
        }
    }
}
