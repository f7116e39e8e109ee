//! What there is to say about the streams with one domain, for the operator to read.

use super::server::{Server, Undelivered};
use super::stream::{Pair, State, Stream};
use core::fmt;

/// The streams with one domain at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartnerState {
    /// Streams of the domain that are proved for it.
    pub incoming: usize,
    /// Streams of ours on which one of our domains is proved to it.
    pub outgoing: usize,
    /// Connections to servers that serve our domains as components: they carry stanzas
    /// to any domain.
    pub components: usize,
    /// Streams that are located, connected or negotiated.
    pub opening: usize,
    /// Stanzas that wait for a stream.
    pub waiting: usize,
    /// Why new stanzas are answered with a failure for a moment.
    pub blocked: Option<Undelivered>,
}

impl Server {
    /// How the streams with a domain are.
    pub fn partner_state(&self, domain: &str) -> PartnerState {
        let mut state = PartnerState::default();
        let is_open = |stream: &Stream| matches!(stream.state, State::Open | State::Enabling);
        for (_, stream) in self.streams.iter().filter(|(_, stream)| is_open(stream)) {
            let proved = stream.proved.iter().any(|pair: &Pair| pair.theirs == domain);
            if stream.is_component() {
                state.components += 1;
            } else if proved && stream.is_initiator() {
                state.outgoing += 1;
            } else if proved {
                state.incoming += 1;
            }
        }
        let keys = self.routes_to.get(domain).map(Vec::as_slice).unwrap_or_default();
        for route in keys.iter().filter_map(|key| self.routes.get(*key)) {
            state.opening += usize::from(route.is_opening());
            state.waiting += route.queue.len();
            state.blocked = state.blocked.or_else(|| route.blocked.map(|(_, why)| why));
        }
        state
    }
}

impl fmt::Display for PartnerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.incoming, self.outgoing) {
            (0, 0) => f.write_str("no stream")?,
            (incoming, outgoing) => write!(f, "streams: {incoming} in, {outgoing} out")?,
        }
        if self.components > 0 {
            write!(f, ", {} as component", self.components)?;
        }
        if self.opening > 0 {
            write!(f, ", {} being opened", self.opening)?;
        }
        if self.waiting > 0 {
            write!(f, ", stanzas that wait: {}", self.waiting)?;
        }
        match self.blocked {
            Some(why) => write!(f, ", not tried again for a moment: {}", in_words(why)),
            None => Ok(()),
        }
    }
}

const fn in_words(why: Undelivered) -> &'static str {
    match why {
        Undelivered::NotFound => "the domain has no XMPP service",
        Undelivered::Unreachable => "none of its addresses could be reached",
        Undelivered::Timeout => "it did not answer in time",
        Undelivered::Refused => "one side refused the other",
        Undelivered::Overload => "no room",
        Undelivered::TooLarge => "a stanza was too large for it",
        Undelivered::StreamLost => "its stream was lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_of_a_partner_is_said_and_nothing_else() {
        assert_eq!(PartnerState::default().to_string(), "no stream");
        let state = PartnerState { incoming: 2, outgoing: 1, waiting: 3, ..PartnerState::default() };
        assert_eq!(state.to_string(), "streams: 2 in, 1 out, stanzas that wait: 3");
        let state = PartnerState { opening: 1, blocked: Some(Undelivered::Timeout), ..PartnerState::default() };
        assert_eq!(
            state.to_string(),
            "no stream, 1 being opened, not tried again for a moment: it did not answer in time"
        );
    }
}
