//! The tables transactions are found by, and the octets they keep. None of them
//! allocates once it has grown to its usual size, and each has a bound.

use crate::base::slab::Key;
use crate::base::time::Instant;
use core::time::Duration;
use std::hash::{DefaultHasher, Hasher};

/// A secret for hashes, so that nobody outside can make two of them collide or guess
/// one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Secret(pub(super) [u64; 2]);

impl Secret {
    /// The keyed hash of a list of texts.
    pub(super) fn hash(self, purpose: u8, parts: &[&[u8]]) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0[0]);
        hasher.write_u64(self.0[1]);
        hasher.write_u8(purpose);
        for part in parts {
            // The length keeps "ab", "c" and "a", "bc" apart.
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        hasher.finish()
    }
}

/// Finds keys by hash: open addressing with room for twice as many as may come. Two
/// texts of one hash would be taken for one another; with a secret of 128 bits that
/// is left to chance, once in 2^50 requests.
#[derive(Debug)]
pub(super) struct Index {
    places: Vec<Option<(u64, Key)>>,
    len: usize,
}

impl Index {
    /// An index of at most `capacity` keys.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { places: vec![None; (capacity * 2).next_power_of_two()], len: 0 }
    }

    pub(super) fn find(&self, hash: u64) -> Option<Key> {
        let place = self.place_of(hash)?;
        self.places[place].map(|(_, key)| key)
    }

    /// Enters `key`, in place of another one of that hash.
    pub(super) fn insert(&mut self, hash: u64, key: Key) {
        if let Some(place) = self.place_of(hash) {
            self.places[place] = Some((hash, key));
        } else if self.len * 2 < self.places.len() {
            let mut place = self.home(hash);
            while self.places[place].is_some() {
                place = self.after(place);
            }
            self.places[place] = Some((hash, key));
            self.len += 1;
        } else {
            debug_assert!(false, "as many keys as the slab they come from has slots");
        }
    }

    /// Takes out `hash` if it leads to `key`.
    pub(super) fn remove(&mut self, hash: u64, key: Key) {
        let Some(mut gap) = self.place_of(hash).filter(|place| self.places[*place] == Some((hash, key))) else {
            return;
        };
        self.len -= 1;
        // What was pushed on from its home moves back, so that no search stops short.
        let mut place = gap;
        loop {
            place = self.after(place);
            let Some((hash, _)) = self.places[place] else { break };
            let from_home = place.wrapping_sub(self.home(hash)) & self.mask();
            if from_home >= place.wrapping_sub(gap) & self.mask() {
                self.places[gap] = self.places[place];
                gap = place;
            }
        }
        self.places[gap] = None;
    }

    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    fn place_of(&self, hash: u64) -> Option<usize> {
        let mut place = self.home(hash);
        // At least half of the places are free, so this ends.
        while let Some((found, _)) = self.places[place] {
            if found == hash {
                return Some(place);
            }
            place = self.after(place);
        }
        None
    }

    const fn mask(&self) -> usize {
        self.places.len() - 1
    }

    const fn home(&self, hash: u64) -> usize {
        hash as usize & self.mask()
    }

    const fn after(&self, place: usize) -> usize {
        (place + 1) & self.mask()
    }
}

/// Remembers hashes for a while. A table of fixed size in which a new entry may push
/// an old one out: it lessens harm, nothing depends on it.
#[derive(Debug)]
pub(super) struct Recent {
    places: Vec<(u64, u16, Instant)>,
    keep: Duration,
}

impl Recent {
    pub(super) fn new(places: usize, keep: Duration) -> Self {
        Self { places: vec![(0, 0, Instant::ZERO); places], keep }
    }

    fn place(&self, hash: u64) -> usize {
        (hash % self.places.len().max(1) as u64) as usize
    }

    pub(super) fn remember(&mut self, now: Instant, hash: u64, status: u16) {
        let (place, until) = (self.place(hash), now.after(self.keep));
        if let Some(place) = self.places.get_mut(place) {
            *place = (hash, status, until);
        }
    }

    pub(super) fn recall(&self, now: Instant, hash: u64) -> Option<u16> {
        let (found, status, until) = *self.places.get(self.place(hash))?;
        (found == hash && now < until).then_some(status)
    }
}

/// Buffers that are lent out and come back with their capacity.
#[derive(Debug)]
pub(super) struct Buffers {
    free: Vec<Vec<u8>>,
    /// Capacity of all buffers, lent and free.
    octets: usize,
    octets_max: usize,
}

/// A larger buffer that comes back is not kept.
const BUFFER_KEPT_OCTETS_MAX: usize = 4096;

impl Buffers {
    pub(super) const fn new(octets_max: usize) -> Self {
        Self { free: Vec::new(), octets: 0, octets_max }
    }

    /// A buffer that holds `content`; `None` if all buffers together would grow
    /// beyond their bound.
    pub(super) fn lend(&mut self, content: &[u8]) -> Option<Vec<u8>> {
        // Steps, so that a buffer that comes back fits most of what comes next.
        let wanted = content.len().next_multiple_of(512);
        let mut buffer = self.free.pop().unwrap_or_default();
        self.octets -= buffer.capacity();
        while self.octets + wanted.max(buffer.capacity()) > self.octets_max {
            // The free ones are the first to go.
            buffer = self.free.pop()?;
            self.octets -= buffer.capacity();
        }
        buffer.reserve_exact(wanted);
        buffer.extend_from_slice(content);
        self.octets += buffer.capacity();
        Some(buffer)
    }

    /// Takes a buffer back.
    pub(super) fn take_back(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() == 0 {
            return;
        }
        if buffer.capacity() > BUFFER_KEPT_OCTETS_MAX {
            self.octets -= buffer.capacity();
            return;
        }
        buffer.clear();
        self.free.push(buffer);
    }

    /// Capacity of all buffers.
    #[cfg(test)]
    pub(super) const fn octets(&self) -> usize {
        self.octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::slab::Slab;

    #[test]
    fn an_index_finds_what_was_entered_last() {
        let mut slab = Slab::with_capacity(2);
        let (a, b) = (slab.insert('a').expect("room"), slab.insert('b').expect("room"));
        let mut index = Index::with_capacity(2);
        index.insert(7, a);
        index.insert(3, b);
        assert_eq!((index.find(7), index.find(3), index.find(5)), (Some(a), Some(b), None));
        index.insert(7, b);
        index.remove(7, a);
        assert_eq!(index.find(7), Some(b));
        index.remove(7, b);
        assert_eq!((index.find(7), index.len()), (None, 1));
    }

    #[test]
    fn an_index_loses_nothing_whatever_comes_and_goes() {
        let mut rng = crate::base::rng::Rng::from_number(5);
        let mut slab = Slab::with_capacity(64);
        let mut index = Index::with_capacity(64);
        let mut model = std::collections::BTreeMap::new();
        for _ in 0..20_000 {
            // Few homes, so that they crowd; some at the end, so that they wrap.
            let hash = rng.below(8) << 32 | (120 + rng.below(12));
            match model.remove(&hash) {
                Some(key) => {
                    index.remove(hash, key);
                    slab.remove(key);
                }
                None => {
                    if let Ok(key) = slab.insert(()) {
                        index.insert(hash, key);
                        model.insert(hash, key);
                    }
                }
            }
            assert_eq!(index.len(), model.len());
            assert!(model.iter().all(|(hash, key)| index.find(*hash) == Some(*key)));
        }
    }

    #[test]
    fn what_was_remembered_is_forgotten_in_time() {
        let mut recent = Recent::new(8, Duration::from_secs(1));
        recent.remember(Instant::ZERO, 42, 200);
        assert_eq!(recent.recall(Instant::from_millis(999), 42), Some(200));
        assert_eq!(recent.recall(Instant::from_millis(1000), 42), None);
        assert_eq!(recent.recall(Instant::ZERO, 43), None);
    }

    #[test]
    fn buffers_stay_within_their_bound_and_are_used_again() {
        let mut buffers = Buffers::new(2048);
        let first = buffers.lend(&[1; 1100]).expect("room");
        assert_eq!(buffers.lend(&[2; 1100]), None);
        buffers.take_back(first);
        let second = buffers.lend(&[3; 10]).expect("room");
        assert!(second.capacity() > 1100 && second == [3; 10]);
        buffers.take_back(second);
        let third = buffers.lend(&[4; 1900]).expect("the free one makes room");
        buffers.take_back(third);
        assert!(buffers.octets() <= 2048);
    }

    #[test]
    fn a_hash_depends_on_where_the_parts_end() {
        let secret = Secret([1, 2]);
        assert_ne!(secret.hash(0, &[b"ab", b"c"]), secret.hash(0, &[b"a", b"bc"]));
        assert_ne!(secret.hash(0, &[b"ab"]), secret.hash(1, &[b"ab"]));
        assert_ne!(secret.hash(0, &[b"ab"]), Secret([1, 3]).hash(0, &[b"ab"]));
    }
}
