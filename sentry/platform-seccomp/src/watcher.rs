//! The watcher: a thread that sleeps while nothing happens, and otherwise looks each millisecond whether the workers of a line
//! are held up in handlers. Then it calls a standby; when none stands by for some ticks, it asks the kernel for one more
//! worker. What has been put off ([`later`]) it does itself when a tick has gone by: who put it off is held up.
//!
//! It stays on a CPU where a worker left a seat lately: waking every tick on an idle CPU beside it would slow down a busy one
//! that shares its core, and costs a virtual machine exits.
//!
//! Neighbours: `seats` (what it looks at, and who wakes it), `lib` (starts the thread).

use crate::line::Line;
use crate::sandbox::Sandbox;
use crate::seats::Seen;
use crate::sys;
use chitin_platform::later;
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
        let mut behind = None;
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
            let was_behind = std::mem::replace(&mut behind, later::behind());
            if behind.is_some() && behind == was_behind {
                later::catch_up();
            }
            starved = if in_vain { starved + 1 } else { 0 };
            if starved >= STARVED {
                starved = 0;
                sb.standbys.ask_for_more();
            }
            quiet = if now == before && !held_up && behind.is_none() { quiet + 1 } else { 0 };
            before = now;
        }
        let all_taken = |seen: &[Seen]| !seen.iter().any(|s| s.all_free());
        sb.standbys.stop_watching(|| look() == before && all_taken(&before) && later::behind().is_none());
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
