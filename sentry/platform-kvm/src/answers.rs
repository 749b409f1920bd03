//! What ring 0 may answer calls with: what the kernel said of a task, and what its processor has been given of it.
//!
//! Neighbours: `task` keeps [`Answers`] under its lock, `vcpu` has a [`Given`], `ring0` the words that ring 0 reads.
//!
//! Invariants: a processor has no other task's answers while it runs one, since entering compares the two; an answer that
//! is forgotten is gone from the processor at once, and one that is withdrawn until its task enters again.

use crate::phys::Phys;
use crate::ring0::{ANSWERABLE, Part};

/// A task's.
#[derive(Default)]
pub struct Answers {
    known: Vec<(u64, u32)>,
    /// Counts changes.
    version: u64,
}

impl Answers {
    pub fn add(&mut self, nr: u64, value: u32) {
        if nr < ANSWERABLE && !self.known.contains(&(nr, value)) {
            self.known.retain(|(other, _)| *other != nr);
            self.known.push((nr, value));
            self.version += 1;
        }
    }

    /// Forgets all, also on the processor that runs the task.
    pub fn forget(&mut self, runs_on: Option<(&Phys, Part)>) {
        if self.known.is_empty() {
            return;
        }
        self.version += 1;
        for (nr, _) in self.known.drain(..) {
            if let Some((phys, part)) = runs_on {
                part.answer(phys, nr, None);
            }
        }
    }
}

/// A processor's: of which task and which version, and for which numbers.
#[derive(Default)]
pub struct Given {
    of: (u64, u64),
    numbers: Vec<u64>,
}

impl Given {
    /// Makes them those of the task `id`, which is about to enter.
    pub fn update(&mut self, phys: &Phys, part: Part, id: u64, answers: &Answers) {
        if self.of == (id, answers.version) {
            return;
        }
        self.withdraw(phys, part);
        self.of = (id, answers.version);
        for (nr, value) in &answers.known {
            part.answer(phys, *nr, Some(*value));
            self.numbers.push(*nr);
        }
    }

    pub fn withdraw(&mut self, phys: &Phys, part: Part) {
        // Tasks count from 1.
        self.of = (0, 0);
        self.numbers.drain(..).for_each(|nr| part.answer(phys, nr, None));
    }
}
