//! Sequence numbers, which wrap, and sets of ranges of them.

/// A sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub(crate) struct Seq(pub u32);

impl Seq {
    pub fn plus(self, n: usize) -> Seq {
        Seq(self.0.wrapping_add(crate::wire::len32(n)))
    }
    pub fn minus(self, n: u32) -> Seq {
        Seq(self.0.wrapping_sub(n))
    }
    /// How far ahead of `other` it is; negative if it is behind.
    pub fn since(self, other: Seq) -> i32 {
        self.0.wrapping_sub(other.0).cast_signed()
    }
    pub fn lt(self, other: Seq) -> bool {
        self.since(other) < 0
    }
    pub fn le(self, other: Seq) -> bool {
        self.since(other) <= 0
    }
    /// Whether it lies from `low` to `high`. Unlike two comparisons it is not deceived by what is half of the space away.
    pub fn within(self, low: Seq, high: Seq) -> bool {
        self.0.wrapping_sub(low.0) <= high.0.wrapping_sub(low.0)
    }
    /// The distance from an earlier one; 0 if it is not earlier.
    pub fn from(self, other: Seq) -> usize {
        usize::try_from(self.since(other)).unwrap_or(0)
    }
    pub fn max(self, other: Seq) -> Seq {
        if self.lt(other) { other } else { self }
    }
    pub fn min(self, other: Seq) -> Seq {
        if self.lt(other) { self } else { other }
    }
}

/// Ranges in order, apart from each other. All lie within half of the space.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ranges(Vec<(Seq, Seq)>);

impl Ranges {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn clear(&mut self) {
        self.0.clear();
    }
    pub fn first(&self) -> Option<(Seq, Seq)> {
        self.0.first().copied()
    }
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &(Seq, Seq)> {
        self.0.iter()
    }
    /// Where the range that ends at or behind `at` is.
    fn at(&self, at: Seq) -> usize {
        self.0.partition_point(|(_, end)| end.lt(at))
    }
    pub fn covers(&self, start: Seq, end: Seq) -> bool {
        let at = self.0.partition_point(|(_, e)| e.lt(end));
        self.0.get(at).is_some_and(|(s, e)| s.le(start) && end.le(*e))
    }
    /// Adds a range; the one that it is now part of, and how many bytes are new.
    pub fn insert(&mut self, start: Seq, end: Seq) -> ((Seq, Seq), usize) {
        let from = self.at(start);
        let mut whole = (start, end);
        let mut known = 0;
        let mut to = from;
        while let Some((s, e)) = self.0.get(to).filter(|(s, _)| s.le(end)) {
            known += e.min(end).from(s.max(start));
            whole = (whole.0.min(*s), whole.1.max(*e));
            to += 1;
        }
        let new = end.from(start).saturating_sub(known);
        match self.0.get_mut(from).filter(|_| to > from) {
            Some(first) => {
                *first = whole;
                self.0.drain(from + 1..to);
            }
            None => self.0.insert(from, whole),
        }
        (whole, new)
    }
    /// Forgets what lies before `to`.
    pub fn trim(&mut self, to: Seq) {
        let gone = self.0.partition_point(|(_, end)| end.le(to));
        if gone > 0 {
            self.0.drain(..gone);
        }
        if let Some(first) = self.0.first_mut().filter(|(start, _)| start.lt(to)) {
            first.0 = to;
        }
    }
    /// Takes the first range out if it begins at or before `at`; its end.
    pub fn pop_at(&mut self, at: Seq) -> Option<Seq> {
        let (_, end) = self.first().filter(|(start, _)| start.le(at))?;
        self.0.remove(0);
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge() {
        let base = u32::MAX - 50;
        let q = |n: u32| Seq(base.wrapping_add(n));
        let mut ranges = Ranges::default();
        assert_eq!(ranges.insert(q(10), q(20)), ((q(10), q(20)), 10));
        assert_eq!(ranges.insert(q(40), q(60)), ((q(40), q(60)), 20));
        assert_eq!(ranges.insert(q(70), q(80)), ((q(70), q(80)), 10));
        assert_eq!(ranges.insert(q(20), q(30)), ((q(10), q(30)), 10));
        assert_eq!(ranges.insert(q(12), q(18)), ((q(10), q(30)), 0));
        assert!(ranges.covers(q(10), q(30)) && ranges.covers(q(11), q(12)) && !ranges.covers(q(29), q(31)));
        assert_eq!(ranges.insert(q(25), q(75)), ((q(10), q(80)), 20));
        assert_eq!(ranges.len(), 1);
        ranges.insert(q(90), q(95));
        ranges.trim(q(50));
        assert_eq!(ranges.first(), Some((q(50), q(80))));
        assert_eq!(ranges.pop_at(q(49)), None);
        assert_eq!(ranges.pop_at(q(50)), Some(q(80)));
        ranges.trim(q(95));
        assert!(ranges.is_empty());
    }

    #[test]
    fn ranges_against_a_plain_set() {
        let mut rng = crate::testing::Rng::new(5);
        for _ in 0..200 {
            let mut ranges = Ranges::default();
            let mut set = [false; 200];
            for _ in 0..30 {
                let (a, n) = (rng.below(180), 1 + rng.below(19));
                let (_, new) = ranges.insert(Seq(a as u32), Seq((a + n) as u32));
                let fresh = set[a as usize..(a + n) as usize].iter().filter(|set| !**set).count();
                assert_eq!(new, fresh);
                set[a as usize..(a + n) as usize].fill(true);
            }
            let mut again = [false; 200];
            for (s, e) in ranges.iter() {
                again[s.0 as usize..e.0 as usize].fill(true);
            }
            assert_eq!(set, again);
            assert!(ranges.0.windows(2).all(|w| w[0].1.lt(w[1].0)));
        }
    }
}
