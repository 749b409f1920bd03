//! select(2), pselect6(2).

use super::{Limit, Rest, finish, look, no_hand, pollable, set_mask, wait_many};
use crate::Args;
use chitin_abi::Errno;
use chitin_abi::poll::{POLLEX_SET, POLLIN_SET, POLLOUT_SET, SigsetArgpack};
use chitin_abi::time::{NSEC_PER_USEC, Timespec, Timeval, USEC_PER_SEC};
use chitin_kernel::result::Interrupted;
use chitin_kernel::time::from_timespec;
use chitin_kernel::{Outcome, SysError, SysResult, Task};
use chitin_mm::{Glance, Mm};
use chitin_vfs::poll::{PollEntry, PollMany};
use std::sync::Arc;
use zerocopy::IntoBytes;

const EVENTS: [u32; 3] = [POLLIN_SET, POLLOUT_SET, POLLEX_SET];

/// The three sets of one call.
struct Sets {
    addrs: [u64; 3],
    /// The bits asked for, in words; empty for a null pointer.
    asked: [Vec<u64>; 3],
    words: usize,
    /// The descriptor of each entry.
    fds: Vec<usize>,
    many: PollMany,
}

fn has(set: &[u64], fd: usize) -> bool {
    set.get(fd / 64).is_some_and(|word| word >> (fd % 64) & 1 != 0)
}

fn add(set: &mut [u64], fd: usize) {
    if let Some(word) = set.get_mut(fd / 64) {
        *word |= 1 << (fd % 64);
    }
}

/// Descriptors that a table of Linux with this highest one has room for; what lies beyond is not looked at.
fn table_size(highest: usize) -> usize {
    if highest < 64 { 64 } else { 128 * (highest / 128 + 1).next_power_of_two() }
}

impl Sets {
    fn read(task: &Arc<Task>, args: Args, glance: &Glance<'_>) -> Result<Sets, Errno> {
        let count = usize::try_from(args.i32(0)).map_err(|_| Errno::EINVAL)?;
        let highest = task.files().numbers().last().and_then(|&fd| usize::try_from(fd).ok()).unwrap_or(0);
        let count = count.min(table_size(highest));
        let words = count.div_ceil(64);
        let addrs = [args.u64(1), args.u64(2), args.u64(3)];
        let mut asked = [Vec::new(), Vec::new(), Vec::new()];
        for (set, addr) in asked.iter_mut().zip(addrs) {
            if addr != 0 {
                *set = vec![0; words];
                glance.read_bytes(addr, set.as_mut_bytes())?;
            }
        }
        let (mut fds, mut entries) = (Vec::new(), Vec::new());
        for fd in 0..count {
            let events = asked
                .iter()
                .zip(EVENTS)
                .fold(0, |sum, (set, bits)| if has(set, fd) { sum | bits } else { sum });
            if events != 0 {
                let file = pollable(task, i32::try_from(fd).map_err(|_| Errno::EBADF)?)?;
                fds.push(fd);
                entries.push(PollEntry::select(file, events));
            }
        }
        Ok(Sets { addrs, asked, words, fds, many: PollMany::new(entries) })
    }

    /// The sets to write back, and how many bits they have.
    fn results(&self) -> ([Vec<u64>; 3], u64) {
        let mut found = [vec![0; self.words], vec![0; self.words], vec![0; self.words]];
        let mut count = 0;
        for (&fd, entry) in self.fds.iter().zip(&self.many.entries) {
            for ((asked, found), bits) in self.asked.iter().zip(&mut found).zip(EVENTS) {
                if entry.revents & bits != 0 && has(asked, fd) {
                    add(found, fd);
                    count += 1;
                }
            }
        }
        (found, count)
    }

    /// Writes the results back, and the rest of the time, if that can be; nothing after an interruption.
    fn answer(&self, task: &Task, result: Result<usize, Interrupted>, limit: Limit, rest: Rest) -> SysResult {
        if result.is_err() {
            return no_hand(Err(Interrupted));
        }
        let (found, count) = self.results();
        let (mut ranges, mut data) = (Vec::with_capacity(4), Vec::with_capacity(64));
        for (set, addr) in found.iter().zip(self.addrs) {
            if addr != 0 && !set.is_empty() {
                ranges.push((addr, size_of_val(set.as_slice())));
                data.extend_from_slice(set.as_bytes());
            }
        }
        let sets = data.len();
        if let Some((addr, left)) = rest.told(limit) {
            ranges.push((addr, size_of_val(&left)));
            data.extend_from_slice(left.as_bytes());
        }
        match task.mm().write_scattered(&ranges, &data) {
            Err(done) if done < sets => Err(Errno::EFAULT.into()),
            _ => Ok(count),
        }
    }
}

fn run(task: &Arc<Task>, args: Args, glance: &Glance<'_>, limit: Limit, rest: Rest, masked: bool) -> Outcome {
    let mut sets = match Sets::read(task, args, glance) {
        Ok(sets) => sets,
        Err(error) => {
            return Outcome::Done(finish(task, Err(SysError::Errno(error)), masked, limit, rest));
        }
    };
    let end = move |task: &Arc<Task>, sets: &Sets, result| {
        let result = sets.answer(task, result, limit, rest);
        // It has been told with the results.
        let rest = if result.is_ok() { Rest::Nowhere } else { rest };
        finish(task, result, masked, limit, rest)
    };
    if let Some(result) = look(task, &mut sets.many, limit) {
        return Outcome::Done(end(task, &sets, result));
    }
    let task = task.clone();
    Outcome::block(async move {
        let result = wait_many(&task, &mut sets.many, limit).await;
        end(&task, &sets, result)
    })
}

/// What the call reads: sets and time are on a stack, as a rule.
fn glance(mm: &Mm, args: Args) -> Glance<'_> {
    let size = usize::try_from(args.i32(0)).map_or(0, |count| count.div_ceil(64).saturating_mul(8));
    let [read, write, except, time] = [1, 2, 3, 4].map(|n| args.u64(n));
    Glance::new(mm, &[(read, size), (write, size), (except, size), (time, size_of::<Timespec>())])
}

/// A timeval may have more than a second of microseconds.
fn limit_of(value: Timeval) -> Result<Limit, Errno> {
    let tv_sec = value.tv_sec.checked_add(value.tv_usec / USEC_PER_SEC).ok_or(Errno::EINVAL)?;
    let tv_nsec = (value.tv_usec % USEC_PER_SEC) * NSEC_PER_USEC;
    from_timespec(&Timespec { tv_sec, tv_nsec }).map(Limit::after)
}

pub(crate) fn select(task: &Arc<Task>, args: Args) -> Outcome {
    let mm = task.mm();
    let glance = glance(&mm, args);
    let (limit, rest) = match args.u64(4) {
        0 => (Ok(Limit::Never), Rest::Nowhere),
        addr => (glance.read(addr).and_then(limit_of), Rest::Timeval(addr)),
    };
    match limit {
        Ok(limit) => run(task, args, &glance, limit, rest, false),
        Err(error) => Outcome::error(error),
    }
}

pub(crate) fn pselect6(task: &Arc<Task>, args: Args) -> Outcome {
    let mm = task.mm();
    let glance = glance(&mm, args);
    let (addr, rest) = match args.u64(4) {
        0 => (None, Rest::Nowhere),
        addr => (Some(addr), Rest::Timespec(addr)),
    };
    let prepared = (|| {
        let pack = match args.opt::<SigsetArgpack>(5) {
            Some(addr) => task.mm().read(addr)?,
            None => SigsetArgpack::default(),
        };
        let limit = match addr {
            None => Limit::Never,
            Some(addr) => from_timespec(&glance.read(addr)?).map(Limit::after)?,
        };
        Ok((limit, set_mask(task, pack.p, pack.size)?))
    })();
    match prepared {
        Ok((limit, masked)) => run(task, args, &glance, limit, rest, masked),
        Err(error) => Outcome::error(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_abi::fcntl::O_RDWR;
    use chitin_vfs::File;
    use chitin_vfs::eventfd::EventFd;

    #[test]
    fn bits() {
        let mut set = vec![0; 2];
        add(&mut set, 64);
        add(&mut set, 500);
        assert_eq!(set, [0, 1]);
        assert!(has(&set, 64) && !has(&set, 0) && !has(&set, 5000));
        assert_eq!([0, 63, 64, 127, 128, 300].map(table_size), [64, 64, 128, 128, 256, 512]);
    }

    #[test]
    fn results_count_bits_over_all_sets() {
        let file = File::anon(EventFd::new(1, 0), "[eventfd]", O_RDWR);
        let entry = PollEntry::select(file, POLLIN_SET | POLLOUT_SET | POLLEX_SET);
        let mut sets = Sets {
            addrs: [1; 3],
            asked: [vec![1 << 5], vec![1 << 5], vec![1 << 5]],
            words: 1,
            fds: vec![5],
            many: PollMany::new(vec![entry]),
        };
        assert_eq!(sets.many.scan(), 1);
        assert_eq!(sets.results(), ([vec![1 << 5], vec![1 << 5], vec![0]], 2));
    }

    #[test]
    fn timevals() {
        let at = |tv_sec, tv_usec| limit_of(Timeval { tv_sec, tv_usec });
        assert!(matches!(at(0, 0), Ok(Limit::Zero)));
        assert!(matches!(at(0, 3_000_000), Ok(Limit::At(deadline)) if deadline.left() > 2_000_000_000));
        assert!(at(0, -1).is_err() && at(-1, 0).is_err() && at(i64::MAX, i64::MAX).is_err());
    }
}
