//! What there is to say about the streams with one domain, for the operator to read.

use super::server::{Server, Undelivered, route_of_side};
use super::stream::{Channel, Pair, Side, State, Stream};
use crate::base::cx::Cx;
use crate::base::net::{CloseReason, LinkId};
use crate::base::slab::Key;
use crate::base::trail::{Side as AtFault, Step};
use core::fmt;
use core::net::SocketAddr;

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

/// What helps where no connection comes about.
pub(super) const UNREACHABLE: &str =
    "the partner's server must be up and take connections there; check firewalls on both sides and its SRV records";

/// What helps where its side does not want our TLS.
const TLS_REFUSED: &str = "the partner's log says why: does it believe our certificate, and do both have a TLS version in common? (set tls certificate)";

impl Server {
    /// The stream that stanzas to a domain go out on now, for the operator to read.
    pub fn carrier_state(&self, ours: &str, theirs: &str) -> Option<String> {
        let route = self.routes.get(self.route_of(ours, theirs)?)?;
        let stream = self.streams.get(route.carrier?)?;
        let channel = match &stream.channel {
            Channel::Clear => "not encrypted".to_owned(),
            Channel::Secure { peer, .. } => peer.summary(),
        };
        let whose = match stream.side {
            Side::Component { .. } => "the connection as a component",
            Side::Initiator { .. } => "our stream",
            Side::Answerer { .. } => "the partner's stream, which goes both ways",
        };
        let proof = if stream.external { "EXTERNAL" } else { "dialback" };
        Some(match stream.side {
            Side::Component { .. } => format!("{whose} is up and used: {channel}"),
            _ => format!("{whose} is up and used: {channel}, proved by {proof}"),
        })
    }

    /// Does the operator want to try a domain again at once that failed a moment ago?
    pub fn forgive(&mut self, theirs: &str) {
        for key in self.routes_to.get(theirs).cloned().unwrap_or_default() {
            if let Some(route) = self.routes.get_mut(key) {
                route.blocked = None;
            }
        }
    }

    /// The partner of a stream of ours and the address it leads to.
    pub(super) fn target_of(&self, key: Key) -> Option<(&str, SocketAddr)> {
        let stream = self.streams.get(key)?;
        let route = self.routes.get(route_of_side(stream.side)?)?;
        Some((&route.theirs, route.targets.get(route.next)?.address))
    }

    /// Tells whoever asks how the link of a stream ended that had proved nothing.
    pub(super) fn note_closed(&self, cx: &mut Cx<'_>, key: Key, link: LinkId, why: CloseReason) {
        let Some(stream) = self.streams.get(key).filter(|stream| stream.proved.is_empty()) else { return };
        let cause = cx.out.trail.cause_of(link).map_or_else(|| why.reason().to_owned(), str::to_owned);
        let address = self.target_of(key).map_or_else(String::new, |(_, address)| format!("{address}: "));
        let (step, side, advice) = match (stream.state, why) {
            (State::Connecting, CloseReason::Refused) => (Step::Tcp, AtFault::Partner, UNREACHABLE),
            (State::Connecting, _) => (Step::Tcp, AtFault::Network, UNREACHABLE),
            // It told us so in an alert.
            (State::Securing, _) | (_, CloseReason::Tls) if cause.contains("received fatal alert") => {
                (Step::Tls, AtFault::Ours, TLS_REFUSED)
            }
            (State::Securing, _) | (_, CloseReason::Tls) => (Step::Tls, AtFault::Partner, TLS_REFUSED),
            _ => (Step::Identity, AtFault::Partner, "it hung up before anybody was proved; its log says why"),
        };
        stream.trail_failed(cx, step, side, format_args!("{address}{cause}"), advice);
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

/// A failure for the operator to read.
pub const fn in_words(why: Undelivered) -> &'static str {
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
