//! Sets of numbers kept as runs: free frames, free address space.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Runs {
    /// Length by first number; runs neither touch nor overlap.
    map: BTreeMap<u32, u32>,
    total: u32,
}

impl Runs {
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub fn total(&self) -> u32 {
        self.total
    }

    pub fn add(&mut self, first: u32, len: u32) {
        if len == 0 {
            return;
        }
        self.total += len;
        let (mut first, mut len) = (first, len);
        if let Some((&before, &n)) = self.map.range(..first).next_back() {
            if before + n == first {
                first = before;
                len += n;
            }
        }
        if let Some(n) = self.map.remove(&(first + len)) {
            len += n;
        }
        self.map.insert(first, len);
    }

    /// Takes up to `most` in a row.
    pub fn take(&mut self, most: u32) -> Option<(u32, u32)> {
        let (first, len) = self.map.pop_first()?;
        let n = len.min(most);
        if n < len {
            self.map.insert(first + n, len - n);
        }
        self.total -= n;
        Some((first, n))
    }

    /// Takes exactly `len` in a row: the first that fit.
    pub fn take_all(&mut self, len: u32) -> Option<u32> {
        let (&first, &n) = self.map.iter().find(|(_, n)| **n >= len)?;
        self.map.remove(&first);
        if n > len {
            self.map.insert(first + len, n - len);
        }
        self.total -= len;
        Some(first)
    }

    pub fn drain(&mut self) -> impl Iterator<Item = (u32, u32)> + use<> {
        self.total = 0;
        std::mem::take(&mut self.map).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_merge_and_split() {
        let mut r = Runs::default();
        r.add(10, 5);
        r.add(20, 5);
        r.add(15, 5);
        assert_eq!(r.map.iter().map(|(a, b)| (*a, *b)).collect::<Vec<_>>(), [(10, 15)]);
        assert_eq!(r.take(4), Some((10, 4)));
        assert_eq!(r.take_all(12), None);
        assert_eq!(r.take_all(11), Some(14));
        assert!(r.is_empty() && r.total() == 0);
        r.add(1, 2);
        assert_eq!(r.drain().collect::<Vec<_>>(), [(1, 2)]);
        assert_eq!(r.take(1), None);
    }
}
