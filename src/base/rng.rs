//! The one source of chance: tags, branches, stream ids, jitter. Seeded by the
//! operating system in `io` and by a number in tests; its values are those of a
//! stream cipher, so nobody who saw some can guess the next (RFC 3261 section 19.3,
//! RFC 6120 section 4.7.3).

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A seeded generator.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha12Rng);

/// Thirty-two letters and digits that are tokens in SIP, XML and DNS alike.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl Rng {
    /// A generator from 256 bits of the operating system's.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ChaCha12Rng::from_seed(seed))
    }

    /// A generator from a number: for tests and the simulation, where it has to be
    /// repeatable, never for the program.
    pub fn from_number(seed: u64) -> Self {
        Self(ChaCha12Rng::seed_from_u64(seed))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number from 0 up to but not including `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product is even enough for jitter and weights.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// `N` characters of five random bits each, out of a lower-case alphabet.
    pub fn token<const N: usize>(&mut self) -> Token<N> {
        let mut text = [0; N];
        for chunk in text.chunks_mut(12) {
            let mut bits = self.next_u64();
            for place in chunk {
                *place = ALPHABET[(bits & 31) as usize];
                bits >>= 5;
            }
        }
        Token(text)
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

/// Random characters from [`Rng::token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token<const N: usize>([u8; N]);

impl<const N: usize> Token<N> {
    /// The characters as text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl<const N: usize> core::fmt::Display for Token<N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let (mut a, mut b) = (Rng::from_number(7), Rng::from_number(7));
        assert_eq!(a.token::<30>(), b.token::<30>());
        assert_ne!(a.token::<30>(), Rng::from_number(8).token::<30>());
    }

    #[test]
    fn below_stays_below() {
        let mut rng = Rng::from_number(1);
        assert!((0..1000).all(|_| rng.below(7) < 7));
        assert_eq!(rng.below(0), 0);
    }
}
