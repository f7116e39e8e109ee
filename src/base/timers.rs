//! Deadlines by number: a binary heap in which a deadline can be moved and taken
//! back, for keys from 0 up to a fixed capacity. Owners use the index of a slab
//! slot, or that times the number of timers a slot has plus which one.

use super::time::Instant;

/// A fixed set of deadlines.
#[derive(Debug)]
pub struct Timers {
    /// Keys, ordered as a heap by (deadline, order of setting).
    heap: Vec<u32>,
    /// Of each key: its place in the heap, or `NOWHERE`.
    place: Vec<u32>,
    /// Of each key: its deadline and the order it was set in.
    due: Vec<(Instant, u64)>,
    /// Counts settings, so that equal deadlines fire in the order they were set.
    settings: u64,
    /// Keys are below this.
    capacity: usize,
}

const NOWHERE: u32 = u32::MAX;

impl Timers {
    /// Room for the keys 0 to `capacity - 1`.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            heap: Vec::with_capacity(capacity),
            place: vec![NOWHERE; capacity],
            due: vec![(Instant::ZERO, 0); capacity],
            settings: 0,
            capacity,
        }
    }

    /// Room for the same keys, taken as they come: for a table that is seldom full.
    pub const fn growing(capacity: usize) -> Self {
        Self { heap: Vec::new(), place: Vec::new(), due: Vec::new(), settings: 0, capacity }
    }

    /// Sets or moves the deadline of `key`.
    pub fn set(&mut self, key: u32, at: Instant) {
        if key as usize >= self.capacity {
            debug_assert!(false, "timer key {key} beyond the capacity");
            return;
        }
        if self.place.len() <= key as usize {
            let more = key as usize + 1 - self.place.len();
            if self.place.capacity() < key as usize + 1 {
                self.place.reserve_exact(more + key as usize / 8);
                self.due.reserve_exact(more + key as usize / 8);
            }
            self.place.resize(key as usize + 1, NOWHERE);
            self.due.resize(key as usize + 1, (Instant::ZERO, 0));
        }
        let Some(&place) = self.place.get(key as usize) else { return };
        self.settings += 1;
        self.due[key as usize] = (at, self.settings);
        if place == NOWHERE {
            self.heap.push(key);
            self.place[key as usize] = (self.heap.len() - 1) as u32;
            self.rise(self.heap.len() - 1);
        } else {
            let place = self.rise(place as usize);
            self.sink(place);
        }
    }

    /// Takes the deadline of `key` back, if it has one.
    pub fn stop(&mut self, key: u32) {
        let Some(&place) = self.place.get(key as usize) else { return };
        if place == NOWHERE {
            return;
        }
        self.place[key as usize] = NOWHERE;
        let last = self.heap.len() - 1;
        self.heap.swap(place as usize, last);
        self.heap.pop();
        if (place as usize) < self.heap.len() {
            self.place[self.heap[place as usize] as usize] = place;
            let place = self.rise(place as usize);
            self.sink(place);
        }
    }

    /// The deadline of `key`, if it has one.
    pub fn of(&self, key: u32) -> Option<Instant> {
        let place = *self.place.get(key as usize)?;
        (place != NOWHERE).then(|| self.due[key as usize].0)
    }

    /// The nearest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.heap.first().map(|&key| self.due[key as usize].0)
    }

    /// Takes out one key whose deadline has come, the earliest first.
    pub fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let key = *self.heap.first()?;
        if self.due[key as usize].0 > now {
            return None;
        }
        self.stop(key);
        Some(key)
    }

    /// How many deadlines are set.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Is no deadline set?
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    fn earlier(&self, a: usize, b: usize) -> bool {
        self.due[self.heap[a] as usize] < self.due[self.heap[b] as usize]
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.place[self.heap[a] as usize] = a as u32;
        self.place[self.heap[b] as usize] = b as u32;
    }

    fn rise(&mut self, mut at: usize) -> usize {
        while at > 0 && self.earlier(at, (at - 1) / 2) {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
        at
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let mut first = at;
            if left < self.heap.len() && self.earlier(left, first) {
                first = left;
            }
            if right < self.heap.len() && self.earlier(right, first) {
                first = right;
            }
            if first == at {
                return;
            }
            self.swap(at, first);
            at = first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    #[test]
    fn fires_in_order_whatever_was_moved_and_stopped() {
        let mut rng = Rng::from_number(3);
        let mut timers = Timers::with_capacity(64);
        let mut model: Vec<Option<u64>> = vec![None; 64];
        for _ in 0..20_000 {
            let key = rng.below(64) as u32;
            if rng.below(3) == 0 {
                timers.stop(key);
                model[key as usize] = None;
            } else {
                let at = rng.below(1000);
                timers.set(key, Instant::from_millis(at));
                model[key as usize] = Some(at);
            }
            assert_eq!(timers.next().map(Instant::as_millis), model.iter().flatten().min().copied());
            assert_eq!(timers.len(), model.iter().flatten().count());
        }
        let mut last = 0;
        while let Some(key) = timers.pop_due(Instant::from_millis(1000)) {
            let at = model[key as usize].take().expect("a key that was set");
            assert!(at >= last);
            last = at;
        }
        assert!(model.iter().all(Option::is_none));
    }

    #[test]
    fn equal_deadlines_fire_in_the_order_they_were_set() {
        let mut timers = Timers::with_capacity(3);
        for key in [2, 0, 1] {
            timers.set(key, Instant::from_millis(5));
        }
        let now = Instant::from_millis(5);
        assert_eq!([timers.pop_due(now), timers.pop_due(now), timers.pop_due(now)], [Some(2), Some(0), Some(1)]);
        assert_eq!(timers.pop_due(now), None);
    }
}
