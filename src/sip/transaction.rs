//! The four machines of RFC 3261 section 17 with the changes of RFC 6026 (INVITE and
//! 2xx) and RFC 4320 (nothing but 100 before the final answer to other requests).
//!
//! A machine knows its state and its timers and says what is to be done; the endpoint
//! does it. Of the timers A to M each state needs two at most: one that sends again
//! and one that ends the state.

use core::time::Duration;

/// An estimate of the round-trip time.
pub const T1: Duration = Duration::from_millis(500);
/// The longest interval between two sendings.
pub const T2: Duration = Duration::from_secs(4);
/// How long a message may stay in the network.
pub const T4: Duration = Duration::from_secs(5);
/// Timers B, F, H, J, L and M, and the least for D.
pub const T1_64: Duration = Duration::from_secs(32);
/// How long an INVITE of ours may ring, in place of the proxies' timer C.
pub const RINGING_MAX: Duration = Duration::from_secs(200);
/// A 100 goes out after this time if the core has not answered an INVITE.
pub const TRYING_INVITE: Duration = Duration::from_millis(200);
/// The same for other requests: when the client's timer E has grown to T2 (RFC 4320
/// section 4.1): T1 + 2*T1 + 4*T1.
pub const TRYING_OTHER: Duration = Duration::from_millis(3500);

/// Which of the two kinds of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For INVITE.
    Invite,
    /// For all other methods but ACK.
    Other,
}

/// The class of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 100 to 199.
    Provisional,
    /// 200 to 299.
    Success,
    /// 300 to 699.
    Failure,
}

impl Class {
    /// The class of a status code.
    pub const fn of(status: u16) -> Self {
        match status {
            0..=199 => Self::Provisional,
            200..=299 => Self::Success,
            _ => Self::Failure,
        }
    }
}

/// What to do with a timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Set {
    /// Leave it.
    #[default]
    Keep,
    /// Take it back.
    Stop,
    /// Let it fire after that time.
    After(Duration),
}

/// What a step asks the endpoint to do. The timers are to be set first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Timers A, E and G, and the one for 100.
    pub resend: Set,
    /// Timers B, D, F, H, I, J, K, L and M.
    pub end: Set,
    /// What to send.
    pub send: Send,
    /// What to tell the core.
    pub tell: Tell,
    /// The transaction is over, and nothing of it need be kept.
    pub over: bool,
}

/// What to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Send {
    /// Nothing.
    #[default]
    Nothing,
    /// A response the core just gave.
    Given,
    /// What was sent last.
    Again,
    /// An ACK to the response that came.
    Ack,
    /// A 100 of our own.
    Trying,
}

/// What to tell the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tell {
    /// Nothing.
    #[default]
    Nothing,
    /// The response or the ACK that came.
    Message,
    /// No answer, or no ACK, came in time.
    Timeout,
}

/// What happens to a client transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientInput {
    /// The request was sent for the first time.
    Sent,
    /// A response came.
    Response(Class),
    /// Timer A or E fired.
    Resend,
    /// Timer B, D, F, K or M fired.
    End,
}

/// States of the client machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// Calling (INVITE) or Trying: no response yet; the interval to the next sending.
    Trying {
        /// Timer A or E.
        interval: Duration,
    },
    /// A provisional response came.
    Proceeding,
    /// A final response came (INVITE: 300 to 699).
    Completed,
    /// INVITE: a 2xx came.
    Accepted,
}

/// A client transaction's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientMachine {
    /// Which kind.
    pub kind: Kind,
    /// The state.
    pub state: ClientState,
    /// Does the transport deliver in order or fail?
    pub reliable: bool,
}

impl ClientMachine {
    /// A machine whose request is about to be sent.
    pub const fn new(kind: Kind, reliable: bool) -> Self {
        Self { kind, state: ClientState::Trying { interval: T1 }, reliable }
    }

    /// Has the core been told a final response?
    pub const fn is_answered(&self) -> bool {
        matches!(self.state, ClientState::Completed | ClientState::Accepted)
    }

    /// Takes one step.
    pub fn step(&mut self, input: ClientInput) -> Step {
        use ClientInput::{End, Resend, Response, Sent};
        use ClientState::{Accepted, Completed, Proceeding, Trying};
        let absorb = if self.reliable { Duration::ZERO } else { self.absorb() };
        let (state, step) = match (self.kind, self.state, input) {
            (_, Trying { interval }, Sent) => (
                self.state,
                Step {
                    resend: if self.reliable { Set::Stop } else { Set::After(interval) },
                    end: Set::After(T1_64),
                    ..Step::default()
                },
            ),
            (kind, Trying { interval }, Resend) => {
                let next = if kind == Kind::Invite { interval * 2 } else { T2.min(interval * 2) };
                (Trying { interval: next }, Step { resend: Set::After(next), send: Send::Again, ..Step::default() })
            }
            (Kind::Other, Proceeding, Resend) => {
                (Proceeding, Step { resend: Set::After(T2), send: Send::Again, ..Step::default() })
            }
            (Kind::Invite, Trying { .. } | Proceeding, Response(Class::Provisional)) => (
                Proceeding,
                Step { resend: Set::Stop, end: Set::After(RINGING_MAX), tell: Tell::Message, ..Step::default() },
            ),
            (Kind::Invite, Trying { .. } | Proceeding, Response(Class::Success)) => {
                (Accepted, Step { resend: Set::Stop, end: Set::After(T1_64), tell: Tell::Message, ..Step::default() })
            }
            (Kind::Invite, Accepted, Response(Class::Success)) => {
                (Accepted, Step { tell: Tell::Message, ..Step::default() })
            }
            (Kind::Invite, Trying { .. } | Proceeding, Response(Class::Failure)) => (
                Completed,
                Step {
                    resend: Set::Stop,
                    end: Set::After(absorb),
                    send: Send::Ack,
                    tell: Tell::Message,
                    over: self.reliable,
                },
            ),
            (Kind::Invite, Completed, Response(Class::Failure)) => {
                (Completed, Step { send: Send::Ack, ..Step::default() })
            }
            (Kind::Other, Trying { .. }, Response(Class::Provisional)) => {
                let resend = if self.reliable { Set::Stop } else { Set::After(T2) };
                (Proceeding, Step { resend, ..Step::default() })
            }
            (Kind::Other, Trying { .. } | Proceeding, Response(Class::Success | Class::Failure)) => (
                Completed,
                Step {
                    resend: Set::Stop,
                    end: Set::After(absorb),
                    tell: Tell::Message,
                    over: self.reliable,
                    ..Step::default()
                },
            ),
            (_, Trying { .. } | Proceeding, End) => {
                (self.state, Step { tell: Tell::Timeout, over: true, ..Step::default() })
            }
            (_, Completed | Accepted, End) => (self.state, Step { over: true, ..Step::default() }),
            _ => (self.state, Step::default()),
        };
        self.state = state;
        step
    }

    /// Timer D or K on an unreliable transport.
    const fn absorb(&self) -> Duration {
        match self.kind {
            Kind::Invite => T1_64,
            Kind::Other => T4,
        }
    }
}

/// What happens to a server transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerInput {
    /// The request came for the first time.
    Received,
    /// It came again.
    Request,
    /// The core answers.
    Respond(Class),
    /// An ACK came.
    Ack,
    /// Timer G, or the one for 100, fired.
    Resend,
    /// Timer H, I, J or L fired, or the core never answered.
    End,
}

/// States of the server machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Nothing was answered yet.
    Trying,
    /// A provisional response was sent.
    Proceeding,
    /// A final response was sent (INVITE: 300 to 699); the interval to the next sending.
    Completed {
        /// Timer G.
        interval: Duration,
    },
    /// INVITE: the ACK came.
    Confirmed,
    /// INVITE: a 2xx was sent.
    Accepted,
}

/// A server transaction's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerMachine {
    /// Which kind.
    pub kind: Kind,
    /// The state.
    pub state: ServerState,
    /// Does the transport deliver in order or fail?
    pub reliable: bool,
}

impl ServerMachine {
    /// A machine for a request that came.
    pub const fn new(kind: Kind, reliable: bool) -> Self {
        Self { kind, state: ServerState::Trying, reliable }
    }

    /// May the core still give a final response?
    pub const fn is_open(&self) -> bool {
        matches!(self.state, ServerState::Trying | ServerState::Proceeding)
    }

    /// Takes one step.
    pub fn step(&mut self, input: ServerInput) -> Step {
        use ServerInput::{Ack, End, Received, Request, Resend, Respond};
        use ServerState::{Accepted, Completed, Confirmed, Proceeding, Trying};
        let unless_reliable = |time: Duration| if self.reliable { Duration::ZERO } else { time };
        let (state, step) = match (self.kind, self.state, input) {
            (kind, Trying, Received) => {
                let (trying, end) = match kind {
                    Kind::Invite => (TRYING_INVITE, RINGING_MAX * 2),
                    // Its sender gives up after 64 T1, and what it sent last may travel for a
                    // while: who forgot it by then would take it for a new request (P2).
                    Kind::Other => (TRYING_OTHER, T1_64 + unless_reliable(T1_64)),
                };
                (Trying, Step { resend: Set::After(trying), end: Set::After(end), ..Step::default() })
            }
            (_, Trying, Resend) => (Proceeding, Step { send: Send::Trying, ..Step::default() }),
            (_, Proceeding, Request) => (self.state, Step { send: Send::Again, ..Step::default() }),
            (_, Trying | Proceeding, Respond(Class::Provisional)) => {
                (Proceeding, Step { resend: Set::Stop, send: Send::Given, ..Step::default() })
            }
            (Kind::Other, Trying | Proceeding, Respond(_)) => (
                Completed { interval: T2 },
                Step {
                    resend: Set::Stop,
                    // Timer J, and the time a datagram may travel: the sender's last one
                    // leaves just before its own 64 T1 end (P2).
                    end: Set::After(unless_reliable(T1_64 + T4)),
                    send: Send::Given,
                    over: self.reliable,
                    ..Step::default()
                },
            ),
            (Kind::Invite, Trying | Proceeding, Respond(Class::Success)) => {
                (Accepted, Step { resend: Set::Stop, end: Set::After(T1_64), send: Send::Given, ..Step::default() })
            }
            (Kind::Invite, Accepted, Respond(Class::Success)) => {
                (Accepted, Step { send: Send::Given, ..Step::default() })
            }
            (Kind::Invite, Accepted, Ack) => (Accepted, Step { tell: Tell::Message, ..Step::default() }),
            (Kind::Invite, Trying | Proceeding, Respond(Class::Failure)) => (
                Completed { interval: T1 },
                Step {
                    resend: if self.reliable { Set::Stop } else { Set::After(T1) },
                    end: Set::After(T1_64),
                    send: Send::Given,
                    ..Step::default()
                },
            ),
            (_, Completed { .. }, Request) => (self.state, Step { send: Send::Again, ..Step::default() }),
            (Kind::Invite, Completed { interval }, Resend) => {
                let interval = T2.min(interval * 2);
                (Completed { interval }, Step { resend: Set::After(interval), send: Send::Again, ..Step::default() })
            }
            (Kind::Invite, Completed { .. }, Ack) => (
                Confirmed,
                Step {
                    resend: Set::Stop,
                    end: Set::After(unless_reliable(T4)),
                    over: self.reliable,
                    ..Step::default()
                },
            ),
            (Kind::Invite, Completed { .. }, End) => {
                (self.state, Step { tell: Tell::Timeout, over: true, ..Step::default() })
            }
            (_, _, End) => (self.state, Step { over: true, ..Step::default() }),
            _ => (self.state, Step::default()),
        };
        self.state = state;
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fires the resend timer until `until` and lists when something went out.
    fn resends(mut step: impl FnMut() -> Step, first: Set, until: Duration) -> Vec<u128> {
        let (mut at, mut next, mut sent) = (Duration::ZERO, first, Vec::new());
        while let Set::After(wait) = next {
            at += wait;
            if at > until {
                break;
            }
            let step = step();
            if step.send != Send::Nothing {
                sent.push(at.as_millis());
            }
            next = step.resend;
        }
        sent
    }

    #[test]
    fn timer_a_doubles_without_a_bound() {
        let mut m = ClientMachine::new(Kind::Invite, false);
        let first = m.step(ClientInput::Sent);
        assert_eq!(first.end, Set::After(T1_64));
        let sent = resends(|| m.step(ClientInput::Resend), first.resend, T1_64);
        assert_eq!(sent, [500, 1500, 3500, 7500, 15_500, 31_500]);
        let end = m.step(ClientInput::End);
        assert_eq!((end.tell, end.over), (Tell::Timeout, true));
    }

    #[test]
    fn timer_e_doubles_to_t2_and_stays_there_after_a_provisional_response() {
        let mut m = ClientMachine::new(Kind::Other, false);
        let first = m.step(ClientInput::Sent);
        let sent = resends(|| m.step(ClientInput::Resend), first.resend, T1_64);
        assert_eq!(sent, [500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
        let mut m = ClientMachine::new(Kind::Other, false);
        m.step(ClientInput::Sent);
        let step = m.step(ClientInput::Response(Class::Provisional));
        assert_eq!((step.resend, step.end, step.tell), (Set::After(T2), Set::Keep, Tell::Nothing));
        assert_eq!(m.step(ClientInput::Resend).resend, Set::After(T2));
    }

    #[test]
    fn a_reliable_transport_needs_no_sending_again_and_no_absorbing() {
        for kind in [Kind::Invite, Kind::Other] {
            let mut m = ClientMachine::new(kind, true);
            assert_eq!(m.step(ClientInput::Sent).resend, Set::Stop);
            let step = m.step(ClientInput::Response(Class::Failure));
            assert_eq!((step.tell, step.over), (Tell::Message, true));
            assert_eq!(step.send == Send::Ack, kind == Kind::Invite);
        }
    }

    #[test]
    fn timers_d_and_k_absorb_repeated_responses() {
        for (kind, wait, send) in [(Kind::Invite, T1_64, Send::Ack), (Kind::Other, T4, Send::Nothing)] {
            let mut m = ClientMachine::new(kind, false);
            m.step(ClientInput::Sent);
            let step = m.step(ClientInput::Response(Class::Failure));
            assert_eq!((step.end, step.tell, step.over), (Set::After(wait), Tell::Message, false));
            let again = m.step(ClientInput::Response(Class::Failure));
            assert_eq!((again.tell, again.send), (Tell::Nothing, send));
            let end = m.step(ClientInput::End);
            assert_eq!((end.tell, end.over), (Tell::Nothing, true));
        }
    }

    #[test]
    fn every_2xx_to_an_invite_is_told_until_timer_m() {
        let mut m = ClientMachine::new(Kind::Invite, true);
        m.step(ClientInput::Sent);
        m.step(ClientInput::Response(Class::Provisional));
        for _ in 0..3 {
            let step = m.step(ClientInput::Response(Class::Success));
            assert_eq!((step.tell, step.send, step.over), (Tell::Message, Send::Nothing, false));
        }
        assert_eq!(m.step(ClientInput::Response(Class::Failure)), Step::default());
        assert!(m.step(ClientInput::End).over);
    }

    #[test]
    fn a_request_that_came_again_gets_the_last_response_again() {
        let mut m = ServerMachine::new(Kind::Other, false);
        m.step(ServerInput::Received);
        assert_eq!(m.step(ServerInput::Request).send, Send::Nothing);
        let step = m.step(ServerInput::Respond(Class::Success));
        assert_eq!((step.send, step.end, step.over), (Send::Given, Set::After(T1_64 + T4), false));
        assert_eq!(m.step(ServerInput::Request).send, Send::Again);
        assert_eq!(m.step(ServerInput::Respond(Class::Failure)), Step::default());
        assert!(m.step(ServerInput::End).over);
    }

    #[test]
    fn a_request_nobody_answered_is_absorbed_longer_than_it_is_sent() {
        for (reliable, wait) in [(false, T1_64 * 2), (true, T1_64)] {
            let mut m = ServerMachine::new(Kind::Other, reliable);
            assert_eq!(m.step(ServerInput::Received).end, Set::After(wait));
        }
    }

    #[test]
    fn a_100_goes_out_late_and_for_an_invite_early() {
        for (kind, wait) in [(Kind::Other, 3500), (Kind::Invite, 200)] {
            let mut m = ServerMachine::new(kind, false);
            assert_eq!(m.step(ServerInput::Received).resend, Set::After(Duration::from_millis(wait)));
            assert_eq!(m.step(ServerInput::Resend).send, Send::Trying);
            assert_eq!(m.step(ServerInput::Request).send, Send::Again);
        }
    }

    #[test]
    fn timer_g_repeats_a_failure_until_the_ack_and_timer_h_gives_up() {
        let mut m = ServerMachine::new(Kind::Invite, false);
        m.step(ServerInput::Received);
        let first = m.step(ServerInput::Respond(Class::Failure));
        assert_eq!(first.end, Set::After(T1_64));
        let mut waiting = m;
        let sent = resends(|| waiting.step(ServerInput::Resend), first.resend, Duration::from_secs(16));
        assert_eq!(sent, [500, 1500, 3500, 7500, 11_500, 15_500]);
        assert_eq!(waiting.step(ServerInput::End).tell, Tell::Timeout);
        let ack = m.step(ServerInput::Ack);
        assert_eq!((ack.resend, ack.end, ack.tell), (Set::Stop, Set::After(T4), Tell::Nothing));
        assert_eq!(m.step(ServerInput::Ack), Step::default());
        assert!(m.step(ServerInput::End).over);
    }

    #[test]
    fn an_accepted_invite_absorbs_requests_and_passes_acks_up() {
        let mut m = ServerMachine::new(Kind::Invite, false);
        m.step(ServerInput::Received);
        assert_eq!(m.step(ServerInput::Respond(Class::Success)).end, Set::After(T1_64));
        assert_eq!(m.step(ServerInput::Request), Step::default());
        assert_eq!(m.step(ServerInput::Respond(Class::Success)).send, Send::Given);
        assert_eq!(m.step(ServerInput::Ack).tell, Tell::Message);
        assert!(m.step(ServerInput::End).over);
    }
}
