//! The one table: number, name, handler, arguments for strace, support for the docs.

use crate::args::Args;
use crate::strace::{Arg, Strace};
use crate::*;
use Arg::*;
use chitin_abi::Errno;
use chitin_abi::nr::*;
use chitin_abi::num::to_usize;
use chitin_kernel::{Dispatch, Outcome, SyscallArgs, Task};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much of Linux's behaviour an entry has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Full,
    /// The note says what is missing.
    Partial,
    /// Answers what a Linux without the feature answers; the note says what.
    Unsupported,
}

/// One system call.
#[derive(Clone, Copy)]
pub struct Entry {
    pub nr: u64,
    pub name: &'static str,
    pub support: Support,
    pub note: &'static str,
    pub(crate) args: &'static [Arg],
    handler: fn(&Arc<Task>, Args) -> Outcome,
}

fn enosys(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}
fn eperm(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::EPERM)
}

macro_rules! table {
    ($( $nr:ident $handler:path, [$($arg:expr),*], $support:ident $(, $note:literal)? ; )*) => {
        &[$( Entry {
            nr: $nr,
            name: name_of(stringify!($nr)),
            support: Support::$support,
            note: concat!($($note)?),
            args: &[$($arg),*],
            handler: $handler,
        }, )*]
    };
}

/// `SYS_read` → `read`.
const fn name_of(constant: &'static str) -> &'static str {
    constant.split_at(4).1
}

/// All entries, by family.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    FILES.iter().chain(PROCESSES).chain(OTHERS).chain(REFUSED)
}

include!("table/files.rs");
include!("table/processes.rs");
include!("table/others.rs");
include!("table/refused.rs");

/// Numbers run below this.
const SLOTS: usize = 512;

/// The table by number, with strace and counts of what is not supported.
pub struct Table {
    slots: Vec<Option<&'static Entry>>,
    strace: Option<Strace>,
    /// Calls per unsupported number, so that gaps show in the log once each.
    unsupported: Vec<AtomicU64>,
}

impl Table {
    pub fn new(strace: Option<Strace>) -> Table {
        let mut slots = vec![None; SLOTS];
        for entry in entries() {
            if let Some(slot) = slots.get_mut(to_usize(entry.nr)) {
                *slot = Some(entry);
            }
        }
        let unsupported = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Table { slots, strace, unsupported }
    }

    /// Counts a call that is not supported; the first of its number is logged.
    fn count_unsupported(&self, task: &Task, nr: u64, name: &str) {
        let Some(count) = self.unsupported.get(to_usize(nr)) else { return };
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::info!(nr, name, pid = task.pid(), "the guest used an unsupported system call");
        }
    }
}

impl Dispatch for Table {
    fn shows_calls(&self) -> bool {
        self.strace.is_some()
    }

    fn call(&self, task: &Arc<Task>, call: SyscallArgs) -> Outcome {
        let entry = usize::try_from(call.nr).ok().and_then(|nr| self.slots.get(nr).copied().flatten());
        let Some(entry) = entry else {
            self.count_unsupported(task, call.nr, "unknown");
            return match &self.strace {
                Some(strace) => strace.unknown(task, call),
                None => Outcome::error(Errno::ENOSYS),
            };
        };
        if entry.support == Support::Unsupported {
            self.count_unsupported(task, call.nr, entry.name);
        }
        let args = Args(call.args);
        match &self.strace {
            None => (entry.handler)(task, args),
            Some(strace) => strace.around(task, entry, args, || (entry.handler)(task, args)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_named_as_in_the_abi() {
        let mut seen = std::collections::HashMap::new();
        for entry in entries() {
            assert!(seen.insert(entry.nr, entry.name).is_none(), "{} stands twice", entry.name);
            assert_eq!(chitin_abi::nr::name(entry.nr), Some(entry.name));
        }
    }

    #[test]
    fn every_number_has_an_entry() {
        for nr in 0..chitin_abi::nr::NR_SYSCALLS {
            if let Some(name) = chitin_abi::nr::name(nr) {
                assert!(entries().any(|entry| entry.nr == nr), "{name} ({nr}) is missing");
            }
        }
    }
}
