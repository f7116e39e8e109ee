//! The network between the gateway and its neighbours: how long octets travel and
//! what becomes of them on the way.

#![allow(dead_code, reason = "the flows want a network without faults and leave most of this unused")]

use latimer::base::certificate::PeerCertificate;
use latimer::base::net::{LinkId, Transport};

/// The world's own source of chance; the gateway's is another one, so that a change
/// in one does not shift the other.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// SplitMix64.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to but not including `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.number() % bound }
    }

    /// True in `parts` of 1000 cases.
    pub fn per_mille(&mut self, parts: u64) -> bool {
        self.below(1000) < parts
    }
}

/// What the network does to what passes. Shares are in parts of 1000.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Shortest time on the way, in milliseconds.
    pub latency_ms: u64,
    /// Time that may be added to it.
    pub jitter_ms: u64,
    /// Datagrams that vanish.
    pub loss: u64,
    /// Datagrams that come twice.
    pub doubles: u64,
    /// Datagrams that take much longer, so that others overtake them.
    pub late: u64,
    /// Connections that nobody takes.
    pub refused: u64,
    /// Pieces of a stream that are cut at a random octet.
    pub cuts: u64,
    /// Pieces of a stream behind which the connection is reset.
    pub resets: u64,
    /// Pieces of a stream behind which nothing moves for a while.
    pub stalls: u64,
}

/// One connection between a neighbour and the gateway.
#[derive(Debug)]
pub struct Link {
    pub id: LinkId,
    pub transport: Transport,
    /// Did the neighbour open it?
    pub inbound: bool,
    /// What the neighbour shows when TLS begins.
    pub certificate: PeerCertificate,
    /// Octets that came and the gateway did not use yet.
    pub unread: Vec<u8>,
    /// Octets that the gateway sent on it in all.
    pub sent: u64,
    /// Does the gateway read?
    pub reading: bool,
    /// The gateway closed it; what it sent before still travels.
    pub closing: bool,
    /// The neighbour closed it; what it sent before still travels.
    pub leaving: bool,
    /// Is what the gateway sends reported as left at once, before it arrives? With
    /// stream management the gateway must not rely on it.
    pub drained_early: bool,
    /// Nothing sent on a stream arrives before what was sent earlier.
    pub next_to_peer: u64,
    pub next_to_gateway: u64,
}
