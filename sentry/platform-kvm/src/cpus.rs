//! Which processors a task may run on (sched_setaffinity(2)).
//!
//! Neighbours: `task` keeps [`Allowed`], `machine` obeys it, `vcpu` tells guests the numbers (rdtscp, the vDSO, rseq).
//!
//! A processor has the number of a CPU that this process may run on, so that masks and numbers are the host's; the CPU
//! that executes it at a time may be another one, since workers move. A nested host (PVM) shows guests' RDTSCP and RDPID
//! its own CPU's number instead.

use crate::ring0::MAX_VCPUS;
use std::sync::atomic::{AtomicU64, Ordering};

/// The numbers of `count` processors out of a mask of the host's CPUs.
pub fn numbers(mask: &[u8], count: usize) -> Vec<u32> {
    let bits = mask.iter().enumerate().flat_map(|(i, byte)| {
        (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| i as u32 * 8 + bit)
    });
    let mut found: Vec<u32> = bits.take(count).collect();
    // More processors than CPUs: they go on from there.
    while found.len() < count {
        found.push(found.last().map_or(0, |last| last + 1));
    }
    found
}

/// The mask of some processors, as long as the host's.
pub fn mask(numbers: impl Iterator<Item = u32>, len: usize) -> Vec<u8> {
    let mut mask = vec![0; len];
    for number in numbers {
        if let Some(byte) = mask.get_mut(number as usize / 8) {
            *byte |= 1 << (number % 8);
        }
    }
    mask
}

fn has(mask: &[u8], number: u32) -> bool {
    mask.get(number as usize / 8).is_some_and(|byte| byte >> (number % 8) & 1 == 1)
}

/// A bit for each processor, by index.
pub struct Allowed([AtomicU64; MAX_VCPUS.div_ceil(64)]);

impl Allowed {
    pub fn new(numbers: &[u32], mask: &[u8]) -> Allowed {
        let allowed = Allowed(Default::default());
        allowed.set(numbers, mask);
        allowed
    }

    pub fn set(&self, numbers: &[u32], mask: &[u8]) {
        for (i, word) in self.0.iter().enumerate() {
            let own = numbers.iter().skip(i * 64).take(64).enumerate();
            let bits = own.filter(|(_, n)| has(mask, **n)).fold(0, |bits, (bit, _)| bits | 1 << bit);
            word.store(bits, Ordering::SeqCst);
        }
    }

    pub fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word.load(Ordering::SeqCst) >> (index % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_hosts() {
        assert_eq!(numbers(&[0b10_0100, 1], 3), [2, 5, 8]);
        assert_eq!(numbers(&[0b10], 3), [1, 2, 3]);
        assert_eq!(numbers(&[], 2), [0, 1]);
        assert_eq!(mask([1, 9].into_iter(), 2), [2, 2]);
    }

    #[test]
    fn masks_choose() {
        let numbers: Vec<u32> = (0..70).map(|n| n * 2).collect();
        let allowed = Allowed::new(&numbers, &[0b1_0001]);
        assert_eq!((0..70).filter(|i| allowed.has(*i)).collect::<Vec<_>>(), [0, 2]);
        allowed.set(&numbers, &mask([138].into_iter(), 20));
        assert_eq!((0..200).filter(|i| allowed.has(*i)).collect::<Vec<_>>(), [69]);
    }
}
