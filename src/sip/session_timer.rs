//! Session timers (RFC 4028): who keeps a session alive with a re-INVITE or UPDATE, and when
//! it counts as dead.

use super::header::{Params, decimal};
use super::message::Message;
use core::time::Duration;

/// The extension, for Supported and Require.
pub const TIMER: &str = "timer";
/// The shortest interval anybody may ask for, in seconds (section 4).
pub const MIN_SE_S: u32 = 90;
/// Longest interval that is believed, in seconds.
const INTERVAL_S_MAX: u32 = 24 * 3600;

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimer {
    /// Seconds a session lives without a refresh.
    pub interval_s: u32,
    /// Do we refresh it?
    pub is_ours: bool,
}

impl SessionTimer {
    /// What a request that makes or refreshes a session asks of its answerer. `Err`: the
    /// interval is too short, 422 with Min-SE.
    pub fn asked(request: &Message<'_>) -> Result<Option<Self>, u32> {
        let Some((interval_s, refresher)) = session_expires(request) else { return Ok(None) };
        let can = request.headers("Supported").any(|tag| tag.eq_ignore_ascii_case(TIMER));
        // One who does not know timers would not know the refusal (section 9).
        if interval_s < MIN_SE_S && can {
            return Err(MIN_SE_S);
        }
        // Whoever asks for it refreshes, unless he cannot, or says that we shall (table 2).
        let is_ours = !can || refresher.is_some_and(|who| who.eq_ignore_ascii_case("uas"));
        Ok(Some(Self { interval_s: interval_s.clamp(MIN_SE_S, INTERVAL_S_MAX), is_ours }))
    }

    /// What a 2xx to a request of ours settles.
    pub fn settled(response: &Message<'_>) -> Option<Self> {
        let (interval_s, refresher) = session_expires(response)?;
        let is_ours = refresher.is_none_or(|who| !who.eq_ignore_ascii_case("uas"));
        Some(Self { interval_s: interval_s.clamp(MIN_SE_S, INTERVAL_S_MAX), is_ours })
    }

    /// The shortest interval that a 422 to a request of ours allows, in seconds.
    pub fn min_of(response: &Message<'_>) -> Option<u32> {
        let value = response.header("Min-SE")?;
        let seconds = value.split_once(';').map_or(value, |(seconds, _)| seconds);
        u32::try_from(decimal(seconds.trim())?).ok().filter(|min| *min <= INTERVAL_S_MAX)
    }

    /// The value of Session-Expires, as the answerer of a request says it.
    pub fn as_answerer(&self) -> String {
        format!("{};refresher={}", self.interval_s, if self.is_ours { "uas" } else { "uac" })
    }

    /// The value of Session-Expires in a refresh of ours.
    pub fn as_asker(&self) -> String {
        format!("{};refresher=uac", self.interval_s)
    }

    /// How long after a refresh something is due: our next refresh, or the end, if it is the
    /// other side's (section 10).
    pub fn due_after(&self) -> Duration {
        let interval = u64::from(self.interval_s);
        Duration::from_secs(if self.is_ours { interval / 2 } else { interval - (interval / 3).min(32) })
    }
}

fn session_expires<'a>(message: &Message<'a>) -> Option<(u32, Option<&'a str>)> {
    let value = message.header("Session-Expires").or_else(|| message.header("x"))?;
    let (seconds, params) = value.split_once(';').map_or((value, ""), |(seconds, params)| (seconds, params));
    let seconds = u32::try_from(decimal(seconds.trim())?).unwrap_or(u32::MAX);
    let refresher = Params::parse(params).and_then(|params| params.value("refresher"));
    Some((seconds, refresher))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite(headers: &str) -> Result<Option<SessionTimer>, u32> {
        let mut octets = format!(
            "INVITE sip:lena@chat.example SIP/2.0\r\nVia: SIP/2.0/TLS p.voip.example;branch=z9hG4bK1\r\n\
             From: <sip:marta@voip.example>;tag=1\r\nTo: <sip:lena@chat.example>\r\nCall-ID: a\r\nCSeq: 1 INVITE\r\n\
             {headers}Content-Length: 0\r\n\r\n"
        )
        .into_bytes();
        let head = octets.len();
        SessionTimer::asked(&Message::parse(&mut octets, head).expect("a good request"))
    }

    #[test]
    fn whoever_asks_refreshes_unless_he_cannot_or_wants_it_otherwise() {
        let timer = |is_ours| Ok(Some(SessionTimer { interval_s: 1800, is_ours }));
        assert_eq!(invite("Supported: timer\r\n"), Ok(None));
        assert_eq!(invite("Supported: timer\r\nSession-Expires: 1800\r\n"), timer(false));
        assert_eq!(invite("Supported: timer\r\nSession-Expires: 1800;refresher=uas\r\n"), timer(true));
        assert_eq!(invite("Session-Expires: 1800 ; refresher=uac\r\n"), timer(true));
        assert_eq!(invite("Supported: timer\r\nSession-Expires: 89\r\n"), Err(90));
        assert_eq!(invite("Session-Expires: soon\r\n"), Ok(None));
        let clamped = |interval_s, is_ours| Ok(Some(SessionTimer { interval_s, is_ours }));
        assert_eq!(invite("Session-Expires: 0\r\n"), clamped(90, true));
        assert_eq!(invite("Supported: timer\r\nSession-Expires: 4294967296\r\n"), clamped(86_400, false));
    }

    #[test]
    fn a_refresh_is_due_at_half_time_and_the_end_a_little_before_the_interval() {
        let due = |interval_s, is_ours| SessionTimer { interval_s, is_ours }.due_after().as_secs();
        assert_eq!((due(1800, true), due(1800, false), due(90, false)), (900, 1768, 60));
    }
}
