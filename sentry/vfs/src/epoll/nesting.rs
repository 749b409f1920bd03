//! Epolls that watch epolls: no cycles, no deep chains, no wake-ups that fan out without bound.

use super::Core;
use chitin_abi::Errno;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;

/// Held while an epoll is added to another, so that two additions cannot close a cycle together (epnested_mutex).
static NESTING: Mutex<()> = Mutex::new(());

/// EP_MAX_NESTS: the most epolls above the innermost.
const MAX_NESTS: usize = 4;
/// How many ways of each length lead up from an epoll (path_limits): beyond them one event would wake too much.
const PATHS: [usize; MAX_NESTS] = [500, 100, 50, 10];
/// The most epolls looked at below the new one.
const MAX_BELOW: usize = 100_000;

/// Checks that `parent` may watch `child`: ELOOP for a cycle or too deep a chain, EINVAL for too many ways.
pub(super) fn enter(parent: &Arc<Core>, child: &Arc<Core>) -> Result<MutexGuard<'static, ()>, Errno> {
    let guard = NESTING.lock();
    let mut below = Vec::new();
    let depth = depth_below(child, parent, 0, &mut HashMap::new(), &mut below)?;
    let above = ways_up(parent)?;
    let height = above.iter().filter(|&&count| count > 0).count();
    if depth + 1 + height > MAX_NESTS {
        return Err(Errno::ELOOP);
    }
    // Every way up from `parent` becomes one, longer, from each epoll below.
    for (core, distance) in &below {
        let mut ways = ways_up(core)?;
        for (length, count) in std::iter::once(1).chain(above).enumerate() {
            if let Some(total) = ways.get_mut(length + distance) {
                *total += count;
            }
        }
        if ways.iter().zip(PATHS).any(|(count, limit)| *count > limit) {
            return Err(Errno::EINVAL);
        }
    }
    Ok(guard)
}

/// How deep the chains of epolls below `core` are; lists them with their distance. ELOOP when `parent` is among them.
fn depth_below(
    core: &Arc<Core>,
    parent: &Arc<Core>,
    at: usize,
    seen: &mut HashMap<*const Core, usize>,
    below: &mut Vec<(Arc<Core>, usize)>,
) -> Result<usize, Errno> {
    if Arc::ptr_eq(core, parent) || at > MAX_NESTS || below.len() > MAX_BELOW {
        return Err(Errno::ELOOP);
    }
    if let Some(depth) = seen.get(&Arc::as_ptr(core)) {
        return Ok(*depth);
    }
    below.push((core.clone(), at));
    let children: Vec<Arc<Core>> = {
        let items = core.items.lock();
        items.map.values().filter_map(|item| item.nested.as_ref()?.upgrade()).collect()
    };
    let mut depth = 0;
    for child in &children {
        depth = depth.max(depth_below(child, parent, at + 1, seen, below)? + 1);
    }
    seen.insert(Arc::as_ptr(core), depth);
    Ok(depth)
}

/// How many ways of length 1, 2, … lead up from `core`. EINVAL past the limits.
fn ways_up(core: &Arc<Core>) -> Result<[usize; MAX_NESTS], Errno> {
    let mut counts = [0; MAX_NESTS];
    let mut level = vec![core.clone()];
    for (count, limit) in counts.iter_mut().zip(PATHS) {
        let mut next = Vec::new();
        for core in &level {
            next.extend(core.parents.lock().iter().filter_map(std::sync::Weak::upgrade));
        }
        if next.len() > limit {
            return Err(Errno::EINVAL);
        }
        *count = next.len();
        level = next;
        if level.is_empty() {
            break;
        }
    }
    Ok(counts)
}
