//! Whether a processor has been told to come out: once per run.
//!
//! Whoever kept sending signals would keep its thread from ever getting back to where a pending exception ends by itself. So
//! a second kick relies on the first one, and a kick that counted as given without its effect would leave a processor
//! deaf for as long as its guest makes no exit.

use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Default)]
pub struct Kicks(AtomicBool);

impl Kicks {
    /// `tell` has the run end, or the next one end at once.
    pub fn kick(&self, tell: impl FnOnce()) {
        if !self.0.swap(true, Ordering::SeqCst) {
            tell();
        }
    }

    /// Before a run; `forget` takes back what a kick left. That comes first: a kick in between is none, or one that
    /// counts for nothing and ends the run. The other way round it would count, and be taken back.
    pub fn arm(&self, forget: impl FnOnce()) {
        forget();
        self.0.store(false, Ordering::SeqCst);
    }

    /// Since it was armed.
    pub fn given(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Kicks before, within and after arming: the next one has an effect, or one had already.
    #[test]
    fn no_kick_makes_a_processor_deaf() {
        for earlier in [false, true] {
            for moment in 0..4 {
                let (kicks, exits) = (Kicks::default(), Cell::new(false));
                let kick = || kicks.kick(|| exits.set(true));
                let at = |now| {
                    if now == moment {
                        kick()
                    }
                };
                if earlier {
                    kick();
                }
                at(0);
                kicks.arm(|| {
                    at(1);
                    exits.set(false);
                    at(2);
                });
                at(3);
                kick();
                assert!(exits.get() && kicks.given(), "moment {moment}, earlier {earlier}");
            }
        }
    }
}
