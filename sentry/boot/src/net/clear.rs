//! Keeping a link's thread clear of who reads what it brings, or sends what it hears of.
//!
//! The two wake each other, so the host likes to have them on one CPU, one after the other, with an idle CPU beside them for
//! tenths of a second: each sleeps for so short that nothing is moved. A link's thread that finds itself on the CPU of a worker
//! that reads or sends much goes to another one, and stays off that CPU as long as this goes on there.

use chitin_platform_host::sys;

/// So many batches are between two moves, and so many without anything of that end it.
const CALM: u32 = 32;

/// Of the thread that made it.
pub struct Clear {
    /// Where it may run at all, as a mask; empty if the host does not say.
    cpus: Vec<u8>,
    off: Option<usize>,
    /// Batches since the last move, and since anybody was busy.
    moved: u32,
    quiet: u32,
}

impl Clear {
    pub fn new() -> Clear {
        Clear { cpus: sys::get_affinity(0).unwrap_or_default(), off: None, moved: 0, quiet: 0 }
    }

    /// After each batch: where much has been read or sent since the one before.
    pub fn of(&mut self, busy: Option<usize>) {
        self.moved = self.moved.saturating_add(1);
        self.quiet = if busy.is_some() { 0 } else { self.quiet.saturating_add(1) };
        match busy {
            Some(_) if self.off != busy && self.moved > CALM && sys::current_cpu() == busy => {
                self.keep_off(busy);
            }
            None if self.off.is_some() && self.quiet > CALM => self.keep_off(None),
            _ => {}
        }
    }

    /// Where there is no other one it stays.
    fn keep_off(&mut self, cpu: Option<usize>) {
        (self.off, self.moved) = (cpu, 0);
        let _as_it_was = match cpu {
            Some(cpu) => sys::keep_off(&self.cpus, cpu),
            None => sys::set_affinity(0, &self.cpus).is_ok(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_off_a_busy_cpu_while_there_is_one() {
        let all = sys::get_affinity(0).unwrap();
        let may = |cpu: usize| sys::get_affinity(0).unwrap()[cpu / 8] & 1 << (cpu % 8) != 0;
        if sys::count_cpus(&all) < 2 {
            return;
        }
        // A test's thread stays where it is put, so that the busy CPU is its own.
        let here = sys::current_cpu().unwrap();
        let mut clear = Clear::new();
        sys::set_affinity(0, &sys::only_cpu(here)).unwrap();
        (0..CALM).for_each(|_| clear.of(Some(here)));
        assert!(may(here));
        clear.of(Some(here));
        assert!(!may(here));
        assert_ne!(sys::current_cpu().unwrap(), here);
        (0..=CALM).for_each(|_| clear.of(None));
        assert_eq!(sys::get_affinity(0).unwrap(), all);
    }
}
