//! What a failure on one side is called on the other (RFC 7247 section 7): one table
//! each way, [`Condition`] with its two statuses and [`condition_for`] with the
//! conditions of every status. Whatever fails inside the gateway goes through
//! the same two doors, so that both sides hear the words of their own standard.
//!
//! Decisions: `service-unavailable` never becomes 503, which would tell the SIP side
//! that the whole server is unusable (403 for a bare JID, 405 for a full one). 401 and
//! 407 are not sent, since an XMPP error brings no challenge: 403 instead.

use super::address;
use crate::base::text::cut;

/// A defined condition of a stanza error (RFC 6120 section 8.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
#[allow(missing_docs)]
pub enum Condition {
    BadRequest,
    Conflict,
    FeatureNotImplemented,
    Forbidden,
    Gone,
    InternalServerError,
    ItemNotFound,
    JidMalformed,
    NotAcceptable,
    NotAllowed,
    NotAuthorized,
    PolicyViolation,
    RecipientUnavailable,
    Redirect,
    RegistrationRequired,
    RemoteServerNotFound,
    RemoteServerTimeout,
    ResourceConstraint,
    ServiceUnavailable,
    SubscriptionRequired,
    UndefinedCondition,
    UnexpectedRequest,
}

/// The `type` of `<error/>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// Retry after providing credentials.
    Auth,
    /// Do not retry.
    Cancel,
    /// Retry after changing the data.
    Modify,
    /// Retry later.
    Wait,
}

impl ErrorType {
    /// The attribute's value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Cancel => "cancel",
            Self::Modify => "modify",
            Self::Wait => "wait",
        }
    }
}

/// Condition, element name, error type, status when a full JID and when a bare JID
/// sends it. `gone` and `redirect` without an address; with one see [`answer_for`].
type Row = (Condition, &'static str, ErrorType, u16, u16);

#[rustfmt::skip]
const CONDITIONS: [Row; 22] = {
    use Condition::*;
    use ErrorType::*;
    [
        (BadRequest,            "bad-request",             Modify, 400, 400),
        (Conflict,              "conflict",                Cancel, 400, 400),
        (FeatureNotImplemented, "feature-not-implemented", Cancel, 405, 501),
        (Forbidden,             "forbidden",               Auth,   403, 603),
        (Gone,                  "gone",                    Cancel, 410, 410),
        (InternalServerError,   "internal-server-error",   Cancel, 500, 500),
        (ItemNotFound,          "item-not-found",          Cancel, 404, 604),
        (JidMalformed,          "jid-malformed",           Modify, 400, 400),
        (NotAcceptable,         "not-acceptable",          Modify, 406, 606),
        (NotAllowed,            "not-allowed",             Cancel, 403, 403),
        (NotAuthorized,         "not-authorized",          Auth,   403, 403),
        (PolicyViolation,       "policy-violation",        Modify, 403, 403),
        (RecipientUnavailable,  "recipient-unavailable",   Wait,   480, 600),
        (Redirect,              "redirect",                Modify, 480, 480),
        (RegistrationRequired,  "registration-required",   Auth,   403, 403),
        (RemoteServerNotFound,  "remote-server-not-found", Cancel, 404, 404),
        (RemoteServerTimeout,   "remote-server-timeout",   Wait,   408, 408),
        (ResourceConstraint,    "resource-constraint",     Wait,   500, 500),
        (ServiceUnavailable,    "service-unavailable",     Cancel, 405, 403),
        (SubscriptionRequired,  "subscription-required",   Auth,   400, 400),
        (UndefinedCondition,    "undefined-condition",     Cancel, 400, 400),
        (UnexpectedRequest,     "unexpected-request",      Wait,   491, 491),
    ]
};

// The rows stand in the order of the enum, so that a condition is its row's index.
const _: () = {
    let mut at = 0;
    while at < CONDITIONS.len() {
        assert!(CONDITIONS[at].0 as usize == at);
        at += 1;
    }
};

impl Condition {
    const fn row(self) -> &'static Row {
        &CONDITIONS[self as usize]
    }

    /// The element's name, in the namespace `urn:ietf:params:xml:ns:xmpp-stanzas`.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// The condition of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        CONDITIONS.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// The type that goes with it (REQ-7247-47).
    pub const fn error_type(self) -> ErrorType {
        self.row().2
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
    let &(_, _, _, full, bare) = condition.row();
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
                // The stanza alone does not tell; our own failures do: see `undelivered`.
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
        assert!(CONDITIONS.iter().all(|row| seen.contains(&row.0)));
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
}
