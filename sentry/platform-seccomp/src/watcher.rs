//! The watcher: a thread that sleeps while nothing happens, and otherwise looks each millisecond whether the workers of a line
//! are held up in handlers. Then it calls a standby; when none stands by for some ticks, it asks the kernel for one more
//! worker.
//!
//! It stays on a CPU where a worker left a seat lately: waking every tick on an idle CPU beside it would slow down a busy one
//! that shares its core, and costs a virtual machine exits.
//!
//! Neighbours: `seats` (what it looks at, and who wakes it), `lib` (starts the thread).

use crate::line::Line;
use crate::sandbox::Sandbox;
use crate::seats::Seen;
use crate::sys;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a handler may keep the only seat empty, twice at most.
const TICK: Duration = Duration::from_millis(1);
/// Ticks without any notification until the watcher sleeps.
const QUIET: u32 = 4;
/// Ticks with nobody to call until there is to be one more worker.
const STARVED: u32 = 3;

pub fn run(sb: &Arc<Sandbox>) {
    let closing = || sb.closing.load(Ordering::Relaxed);
    let look = || sb.lines.iter().map(|l| l.seats.seen()).collect::<Vec<Seen>>();
    let mut here = usize::MAX;
    while !closing() {
        sb.standbys.wait_for_work();
        let (mut quiet, mut starved) = (0, 0);
        let mut before = look();
        while quiet < QUIET && !closing() {
            follow(&sb.lines, &mut here);
            std::thread::sleep(TICK);
            let now = look();
            let (mut held_up, mut in_vain) = (false, false);
            for (at, (now, before)) in now.iter().zip(&before).enumerate() {
                // A seat that was taken meanwhile is only between two turns.
                if now.all_free() && now == before {
                    held_up = true;
                    in_vain |= !sb.standbys.call(at);
                }
            }
            starved = if in_vain { starved + 1 } else { 0 };
            if starved >= STARVED {
                starved = 0;
                sb.standbys.ask_for_more();
            }
            quiet = if now == before && !held_up { quiet + 1 } else { 0 };
            before = now;
        }
        sb.standbys.stop_watching(|| look() == before && !before.iter().any(|s| s.all_free()));
    }
}

/// Goes to the CPU of a line's worker, unless it is on one already.
fn follow(lines: &[Arc<Line>], here: &mut usize) {
    let mut cpus = lines.iter().filter_map(|l| l.seats.cpu());
    let Some(first) = cpus.next() else { return };
    if first != *here && !cpus.any(|c| c == *here) {
        *here = first;
        // Unless it may not run there any more.
        let _elsewhere = sys::set_affinity(0, &sys::only_cpu(first));
    }
}
