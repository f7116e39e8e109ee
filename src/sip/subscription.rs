//! The rules of SIP events (RFC 6665, RFC 3856) that hold for whoever subscribes or
//! notifies: what Event and Subscription-State say, what the end of a subscription asks
//! for, and when to refresh.

use super::header::{Params, decimal};
use super::message::Message;
use core::time::Duration;

/// The package of presence (RFC 3856 section 6.1).
pub const PRESENCE: &str = "presence";
/// Each NOTIFY makes the subscription last anew ([MS-SIP] section 3.3).
pub const AUTO_EXTEND: &str = "com.microsoft.autoextend";
/// What a watcher of Lync's supports, for what we do: the state in the answer to a
/// SUBSCRIBE, that each NOTIFY is a refresh, and NOTIFYs that are not answered.
pub const SUPPORTED_LYNC: &str = "ms-piggyback-first-notify, com.microsoft.autoextend, ms-benotify";
/// The CSeq number of the NOTIFY that rides in an answer to SUBSCRIBE ([MS-SIP] section
/// 2.2.1).
pub const PIGGYBACK_CSEQ: &str = "ms-piggyback-cseq";

/// The value of Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The package.
    pub package: &'a str,
    /// The parameter `id`, which tells subscriptions of one dialog apart.
    pub id: Option<&'a str>,
}

impl<'a> Event<'a> {
    /// The Event of a message.
    pub fn of(message: &Message<'a>) -> Option<Self> {
        let value = message.header("Event")?;
        let (package, params) = split(value)?;
        Some(Self { package, id: params.value("id") })
    }
}

/// The value of Subscription-State (RFC 6665 section 4.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionState {
    /// How the subscription stands.
    pub status: Status,
    /// Seconds it lasts, when it says so.
    pub expires_s: Option<u32>,
    /// Seconds to wait before the next attempt, when it says so.
    pub retry_after_s: Option<u32>,
}

/// How a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Accepted, state follows.
    Active,
    /// Nobody decided yet.
    Pending,
    /// Over.
    Terminated(Option<Reason>),
}

/// Why a subscription is over (RFC 6665 section 4.1.3); a reason that is not known is as
/// none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Subscribe again at once.
    Deactivated,
    /// Subscribe again later.
    Probation,
    /// Never again: somebody refused.
    Rejected,
    /// It ran out; subscribe again if you like.
    Timeout,
    /// Nobody decided in time; subscribe again later.
    Giveup,
    /// There is no such state any more: never again.
    NoResource,
    /// The state will never change: nothing to subscribe to.
    Invariant,
}

impl Reason {
    const ALL: [Self; 7] = [
        Self::Deactivated,
        Self::Probation,
        Self::Rejected,
        Self::Timeout,
        Self::Giveup,
        Self::NoResource,
        Self::Invariant,
    ];

    /// As the header has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deactivated => "deactivated",
            Self::Probation => "probation",
            Self::Rejected => "rejected",
            Self::Timeout => "timeout",
            Self::Giveup => "giveup",
            Self::NoResource => "noresource",
            Self::Invariant => "invariant",
        }
    }
}

impl SubscriptionState {
    /// The Subscription-State of a NOTIFY; `None` without a legal one. A state that is
    /// not known counts as pending: it says that there is a subscription and no more.
    pub fn of(message: &Message<'_>) -> Option<Self> {
        let (word, params) = split(message.header("Subscription-State")?)?;
        if !super::header::is_token(word) {
            return None;
        }
        let number = |name| {
            let seconds = params.value(name).and_then(decimal)?;
            Some(u32::try_from(seconds).unwrap_or(u32::MAX))
        };
        let reason = || {
            let reason = params.value("reason")?;
            Reason::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(reason))
        };
        let status = if word.eq_ignore_ascii_case("active") {
            Status::Active
        } else if word.eq_ignore_ascii_case("terminated") {
            Status::Terminated(reason())
        } else {
            Status::Pending
        };
        Some(Self { status, expires_s: number("expires"), retry_after_s: number("retry-after") })
    }
}

/// A value and its parameters; `None` if those break the grammar.
fn split(value: &str) -> Option<(&str, Params<'_>)> {
    match value.split_once(';') {
        Some((word, params)) => Some((word.trim(), Params::parse(params)?)),
        None => Some((value.trim(), Params::default())),
    }
}

/// What a failure of SUBSCRIBE means for the subscription and for the wish behind it
/// (RFC 6665 section 4.1.2.2, RFC 8048 section 5.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 403, 489, 603: never ask again.
    ForGood,
    /// 423: ask for longer.
    TooBrief,
    /// 481: the dialog is gone; ask outside of it at once.
    NoDialog,
    /// The dialog is over; ask again later.
    DialogOver,
    /// The dialog stands until it runs out.
    DialogStands,
}

impl Refusal {
    /// Of this status, 300 or more.
    pub const fn of(status: u16) -> Self {
        match status {
            403 | 489 | 603 => Self::ForGood,
            423 => Self::TooBrief,
            481 => Self::NoDialog,
            404 | 405 | 410 | 416 | 480 | 482..=485 | 501 | 604 => Self::DialogOver,
            _ => Self::DialogStands,
        }
    }
}

/// Does this answer to a NOTIFY end the subscription (section 4.2.2)?
pub const fn ends_notifier(status: u16) -> bool {
    matches!(status, 404 | 405 | 410 | 416 | 480..=485 | 489 | 501 | 604)
}

/// How long to wait before a subscription of `life` is refreshed (D-9): until half of it
/// or 90 seconds before its end, whichever is later, less up to 5 percent by `chance`
/// (from 0 to 999), and never later than 32 seconds before the end of a long one.
pub fn refresh_after(life: Duration, chance: u64) -> Duration {
    let life_ms = life.as_millis() as u64;
    let late = (life_ms / 2).max(life_ms.saturating_sub(90_000));
    let jittered = late - late / 20 * chance.min(999) / 1000;
    let last = if life_ms > 64_000 { life_ms - 32_000 } else { life_ms };
    Duration::from_millis(jittered.min(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(header: &str, look: impl FnOnce(&Message<'_>) -> T) -> T {
        let text = format!(
            "NOTIFY sip:a@b SIP/2.0\r\nVia: SIP/2.0/TLS p;branch=z9hG4bK1\r\nFrom: <sip:c@d>;tag=1\r\n\
             To: <sip:a@b>;tag=2\r\nCall-ID: x\r\nCSeq: 1 NOTIFY\r\n{header}\r\nContent-Length: 0\r\n\r\n"
        );
        let mut octets = text.into_bytes();
        let head = octets.len();
        look(&Message::parse(&mut octets, head).expect("a good message"))
    }

    #[test]
    fn subscription_state_is_read_in_any_case_and_unknown_reasons_are_none() {
        let state = |value: &str| with(&format!("Subscription-State: {value}"), SubscriptionState::of);
        let of = |status, expires_s, retry_after_s| Some(SubscriptionState { status, expires_s, retry_after_s });
        assert_eq!(state("active;expires=30"), of(Status::Active, Some(30), None));
        assert_eq!(state("Terminated ; reason=Rejected"), of(Status::Terminated(Some(Reason::Rejected)), None, None));
        assert_eq!(
            state("terminated;reason=odd;retry-after=99999999999"),
            of(Status::Terminated(None), None, Some(u32::MAX))
        );
        assert_eq!(state("waiting"), of(Status::Pending, None, None));
        assert_eq!(state("a b"), None);
    }

    #[test]
    fn event_has_a_package_and_perhaps_an_id() {
        assert_eq!(
            with("Event: presence;id=7", |m| Event::of(m).map(|e| e.package == "presence" && e.id == Some("7"))),
            Some(true)
        );
        assert_eq!(with("o: dialog", |m| Event::of(m).map(|e| e.package.to_owned())), Some("dialog".into()));
        assert!(with("X: y", |m| Event::of(m).is_none()));
    }

    #[test]
    fn req_8048_16_a_refresh_falls_where_the_decision_has_it() {
        for (life, chance) in [(3600, 0), (3600, 999), (3570, 500), (120, 0), (60, 999), (2, 3)] {
            let after = refresh_after(Duration::from_secs(life), chance).as_secs_f64();
            let life = life as f64;
            assert!(after <= (life / 2.0).max(life - 90.0) && after >= life / 2.0 * 0.95, "{life}: {after}");
            assert!(life <= 64.0 || after <= life - 32.0, "{life}: {after}");
        }
    }
}
