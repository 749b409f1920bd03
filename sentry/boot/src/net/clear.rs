//! Keeping a link's thread clear of who reads what it brings, or sends what it hears of.
//!
//! The two wake each other, so the host likes to have them on one CPU, one after the other, with an idle CPU beside them for
//! tenths of a second: each sleeps for so short that nothing is moved. A link's thread that finds itself on the CPU of a worker
//! that reads or sends much goes to another one, and stays off that CPU as long as this goes on there.

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// So many batches are between two moves, and so many without anything of that end it.
const CALM: u32 = 32;

/// Of the thread that made it.
pub struct Clear {
    /// Where it may run at all. None: the host has more CPUs than a set has room for.
    cpus: Option<CpuSet>,
    off: Option<usize>,
    /// Batches since the last move, and since anybody was busy.
    moved: u32,
    quiet: u32,
}

impl Clear {
    pub fn new() -> Clear {
        Clear { cpus: sched_getaffinity(Pid::from_raw(0)).ok(), off: None, moved: 0, quiet: 0 }
    }

    /// After each batch: where much has been read or sent since the one before.
    pub fn of(&mut self, busy: Option<usize>) {
        self.moved = self.moved.saturating_add(1);
        self.quiet = if busy.is_some() { 0 } else { self.quiet.saturating_add(1) };
        match busy {
            Some(cpu) if self.off != busy && self.moved > CALM && sched_getcpu() == Ok(cpu) => {
                self.keep_off(busy);
            }
            None if self.off.is_some() && self.quiet > CALM => self.keep_off(None),
            _ => {}
        }
    }

    /// Where there is no other one it stays.
    fn keep_off(&mut self, cpu: Option<usize>) {
        (self.off, self.moved) = (cpu, 0);
        let Some(mut cpus) = self.cpus else { return };
        let left = cpu.map_or(Ok(()), |cpu| cpus.unset(cpu));
        let _as_it_was = left.and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_off_a_busy_cpu_while_there_is_one() {
        let all = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let may = |cpu| sched_getaffinity(Pid::from_raw(0)).unwrap().is_set(cpu).unwrap();
        if (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu).unwrap()).count() < 2 {
            return;
        }
        // A test's thread stays where it is put, so that the busy CPU is its own.
        let here = sched_getcpu().unwrap();
        let mut only = CpuSet::new();
        only.set(here).unwrap();
        let mut clear = Clear::new();
        sched_setaffinity(Pid::from_raw(0), &only).unwrap();
        (0..CALM).for_each(|_| clear.of(Some(here)));
        assert!(may(here));
        clear.of(Some(here));
        assert!(!may(here));
        assert_ne!(sched_getcpu().unwrap(), here);
        (0..=CALM).for_each(|_| clear.of(None));
        assert_eq!(sched_getaffinity(Pid::from_raw(0)).unwrap(), all);
    }
}
