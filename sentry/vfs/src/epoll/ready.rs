//! The ready queue of an epoll: keys of items that may be ready, in the order of reporting.
//!
//! Places only grow, so the queue is sorted by them. An item that leaves from the middle leaves a gap, so that thousands can
//! leave in any order without moving the others each time; the first and the last entry are never gaps.

use super::Key;
use std::collections::VecDeque;

#[derive(Default)]
pub(super) struct Ready {
    /// The last place given.
    last: u64,
    queue: VecDeque<(u64, Option<Key>)>,
    gaps: usize,
}

impl Ready {
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Puts an item at the end; answers its place.
    pub(super) fn push(&mut self, key: Key) -> u64 {
        self.last += 1;
        self.queue.push_back((self.last, Some(key)));
        self.last
    }

    /// Takes the first item, if its place is `last` or before.
    pub(super) fn pop(&mut self, last: u64) -> Option<(u64, Key)> {
        let &(place, key) = self.queue.front()?;
        if place > last {
            return None;
        }
        self.queue.pop_front();
        self.trim();
        Some((place, key?))
    }

    /// Puts the item back that was taken first, with its old place.
    pub(super) fn put_back(&mut self, place: u64, key: Key) {
        self.queue.push_front((place, Some(key)));
    }

    /// Takes the item out that is at `place`, if there is one.
    pub(super) fn remove(&mut self, place: u64) {
        let Ok(at) = self.queue.binary_search_by_key(&place, |(place, _)| *place) else { return };
        let Some((_, key)) = self.queue.get_mut(at) else { return };
        if key.take().is_some() {
            self.gaps += 1;
        }
        self.trim();
        if self.gaps > 8 && self.gaps > self.queue.len() / 2 {
            self.queue.retain(|(_, key)| key.is_some());
            self.gaps = 0;
        }
    }

    fn trim(&mut self) {
        while let Some((_, None)) = self.queue.front() {
            self.queue.pop_front();
            self.gaps = self.gaps.saturating_sub(1);
        }
        while let Some((_, None)) = self.queue.back() {
            self.queue.pop_back();
            self.gaps = self.gaps.saturating_sub(1);
        }
        if self.queue.is_empty() && self.queue.capacity() > 256 {
            self.queue = VecDeque::new();
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_order_around_gaps() {
        let mut ready = Ready::default();
        let places: Vec<u64> = (0..40).map(|fd| ready.push((fd, 0))).collect();
        for at in (1..40).step_by(2).chain([0, 38]) {
            ready.remove(places[at]);
            ready.remove(places[at]);
        }
        let fds = |ready: &mut Ready| {
            let last = ready.last();
            std::iter::from_fn(|| ready.pop(last)).map(|(_, (fd, _))| fd).collect::<Vec<_>>()
        };
        assert_eq!(ready.pop(places[1]), None);
        let (place, key) = ready.pop(places[2]).unwrap();
        assert_eq!((place, key.0), (places[2], 2));
        ready.put_back(place, key);
        assert_eq!(fds(&mut ready), (2..38).step_by(2).collect::<Vec<_>>());
        assert!(ready.is_empty() && ready.gaps == 0);
    }

    #[test]
    fn any_order_of_leaving_is_cheap() {
        let mut ready = Ready::default();
        let places: Vec<u64> = (0..100_000).map(|fd| ready.push((fd, 0))).collect();
        // From the middle outwards: gaps in the midst, until the rest is moved together.
        for at in (0..50_000).flat_map(|at| [49_999 - at, 50_000 + at]) {
            ready.remove(places[at]);
        }
        assert!(ready.is_empty());
    }
}
