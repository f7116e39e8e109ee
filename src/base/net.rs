//! Names for connections and where they lead.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};

/// One TCP or TLS connection, or one connected UDP socket. Numbers are given once
/// and never again while the program runs, so a stale one finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// A configured listener: its place in `Settings::listeners`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u8);

/// How octets travel to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Datagrams in the clear.
    Udp,
    /// A stream in the clear (XMPP: one that starts in the clear, for STARTTLS).
    Tcp,
    /// A stream that is TLS from its first octet (XMPP: XEP-0368).
    Tls,
}

impl Transport {
    /// Does it deliver in order or fail (RFC 3261 "reliable transport")?
    pub const fn is_reliable(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// The name as a Via header has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One address to try, with its transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// How to go there.
    pub transport: Transport,
    /// Where it is.
    pub address: SocketAddr,
}

/// Why a domain has no address to try. Carried to the sender as the error of the
/// domain's side (RFC 7247 section 7: does not exist, or cannot be reached).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLocated {
    /// The name does not exist (NXDOMAIN), or it says the service is not offered.
    NoSuchDomain,
    /// No server of the DNS gave a usable answer in time.
    NoAnswer,
    /// There is an answer, and it holds no address that may be used.
    NoAddress,
    /// The servers it names are outside the domain, and that is not allowed.
    ForeignTarget,
}

/// Why a link is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// We closed it.
    Local,
    /// The peer closed it in good order.
    Peer,
    /// Nobody listens there.
    Refused,
    /// No route, or no answer in time.
    Unreachable,
    /// The peer or the network reset it.
    Reset,
    /// The TLS handshake failed, or TLS broke later.
    Tls,
    /// Too much waits to be sent to it.
    Overflow,
}

impl CloseReason {
    /// In words, for logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Local => "closed by us",
            Self::Peer => "closed by the peer",
            Self::Refused => "connection refused",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Tls => "TLS failed",
            Self::Overflow => "peer does not read",
        }
    }
}

/// A range of addresses, `ADDR/LEN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The network's address.
    pub address: IpAddr,
    /// How many leading bits count.
    pub length: u8,
}

impl Network {
    /// Does `address` lie in it? An IPv4 address in IPv6 form counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address.to_canonical() {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
            IpAddr::V6(v6) => (u128::from(v6), 128),
        };
        let ((ours, our_width), (theirs, their_width)) = (bits(self.address), bits(address));
        let length = u32::from(self.length).min(our_width);
        our_width == their_width && (length == 0 || (ours ^ theirs) >> (128 - length) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_the_addresses_that_share_its_bits() {
        let network = Network { address: "192.0.2.0".parse().expect("an address"), length: 24 };
        for (address, held) in
            [("192.0.2.200", true), ("192.0.3.1", false), ("::ffff:192.0.2.7", true), ("2001:db8::1", false)]
        {
            assert_eq!(network.contains(address.parse().expect("an address")), held, "{address}");
        }
        assert!(
            Network { address: "::".parse().expect("an address"), length: 0 }
                .contains("2001:db8::1".parse().expect("an address"))
        );
    }
}
