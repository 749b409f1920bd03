//! Waiting for children (wait4, waitid).

use crate::result::{ExitStatus, SysError};
use crate::{Kernel, Process, Task};
use chitin_abi::Errno;
use chitin_abi::resource::Rusage;
use chitin_abi::signal::SIGCHLD;
use chitin_abi::time::Timeval;
use chitin_abi::wait::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Which children are waited for; the numbers are kernel ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Any,
    Pid(i32),
    Group(i32),
}

/// What happened to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildState {
    Ended(ExitStatus),
    Stopped(u32),
    Continued,
}

/// A child's event, fetched.
#[derive(Clone, Copy, Debug)]
pub struct ChildEvent {
    /// As the caller sees it.
    pub pid: i32,
    pub uid: u32,
    pub state: ChildState,
    pub usage: Rusage,
}

/// Waits for an event of a child. `options` are W*: WEXITED, WSTOPPED (= WUNTRACED), WCONTINUED say which;
/// WNOHANG answers `None`; WNOWAIT leaves it to be fetched again.
pub async fn wait_child(task: Arc<Task>, which: Which, options: u32) -> Result<Option<ChildEvent>, SysError> {
    if let Some(event) = try_wait(&task, which, options)? {
        return Ok(Some(event));
    }
    if options & WNOHANG != 0 {
        return Ok(None);
    }
    let process = task.process.clone();
    let waiter = task.clone();
    let check = move || match try_wait(&waiter, which, options) {
        Ok(None) => None,
        Ok(Some(event)) => Some(Ok(event)),
        Err(error) => Some(Err(error)),
    };
    let event = task.interruptible(process.child_events.wait_until(check)).await??;
    Ok(Some(event))
}

fn try_wait(task: &Arc<Task>, which: Which, options: u32) -> Result<Option<ChildEvent>, Errno> {
    let process = &task.process;
    let mut any = false;
    for child in process.children() {
        let matches = match which {
            Which::Any => true,
            Which::Pid(pid) => child.kid() == pid,
            Which::Group(pgid) => child.pgid() == pgid,
        };
        let is_clone = child.exit_signal.load(Ordering::Relaxed) != SIGCHLD.cast_signed();
        let kind_ok = options & __WALL != 0 || is_clone == (options & __WCLONE != 0);
        if !matches || !kind_ok {
            continue;
        }
        any = true;
        if let Some(event) = event_of(task, &child, options) {
            return Ok(Some(event));
        }
    }
    if any { Ok(None) } else { Err(Errno::ECHILD) }
}

fn event_of(task: &Arc<Task>, child: &Arc<Process>, options: u32) -> Option<ChildEvent> {
    let keep = options & WNOWAIT != 0;
    let uid = task.creds().user_ns.show_uid(child.user());
    let event = |state| ChildEvent {
        pid: child.pid_in(task.pid_ns()),
        uid,
        state,
        usage: child.usage_self_and_children(),
    };
    if let Some(status) = child.exit_status() {
        if options & WEXITED == 0 {
            return None;
        }
        let event = event(ChildState::Ended(status));
        if !keep && !reap(&task.kernel, &task.process, child) {
            return None;
        }
        return Some(event);
    }
    let mut links = child.links.lock();
    if options & WSTOPPED != 0
        && let Some(signal) = links.stop_event
    {
        if !keep {
            links.stop_event = None;
        }
        drop(links);
        return Some(event(ChildState::Stopped(signal)));
    }
    if options & WCONTINUED != 0 && links.continue_event {
        if !keep {
            links.continue_event = false;
        }
        drop(links);
        return Some(event(ChildState::Continued));
    }
    None
}

/// Takes a zombie out of the tree; `false` if somebody else already did.
pub(crate) fn reap(kernel: &Arc<Kernel>, parent: &Arc<Process>, child: &Arc<Process>) -> bool {
    let mut tree = kernel.tree.lock();
    {
        let mut links = parent.links.lock();
        let Some(at) = links.children.iter().position(|known| Arc::ptr_eq(known, child)) else {
            return false;
        };
        links.children.remove(at);
    }
    let usage = child.usage_self_and_children();
    let mut total = parent.usage.lock();
    add_usage(&mut total.children, &usage);
    tree.remove_process(child);
    true
}

fn micros(time: &Timeval) -> i64 {
    time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_usec)
}

fn timeval(micros: i64) -> Timeval {
    Timeval { tv_sec: micros / 1_000_000, tv_usec: micros % 1_000_000 }
}

fn add_usage(to: &mut Rusage, more: &Rusage) {
    to.ru_utime = timeval(micros(&to.ru_utime).saturating_add(micros(&more.ru_utime)));
    to.ru_stime = timeval(micros(&to.ru_stime).saturating_add(micros(&more.ru_stime)));
    to.ru_maxrss = to.ru_maxrss.max(more.ru_maxrss);
    to.ru_minflt = to.ru_minflt.saturating_add(more.ru_minflt);
    to.ru_majflt = to.ru_majflt.saturating_add(more.ru_majflt);
    to.ru_nvcsw = to.ru_nvcsw.saturating_add(more.ru_nvcsw);
    to.ru_nivcsw = to.ru_nivcsw.saturating_add(more.ru_nivcsw);
}

impl Process {
    /// RUSAGE_SELF.
    pub fn usage_self(&self) -> Rusage {
        let (user, system) = self.cpu_ns();
        let resident = self.leader().map_or(0, |task| task.mm().space().usage().resident);
        // Those of threads that have ended are known of voluntary switches only.
        let mut switches = (self.usage.lock().dead_threads_switches, 0u64);
        for thread in self.threads() {
            let own = thread.counters.voluntary_switches.load(Ordering::Relaxed);
            switches.0 = switches.0.saturating_add(own);
            switches.1 = switches.1.saturating_add(thread.platform().preemptions());
        }
        Rusage {
            ru_utime: timeval((user / 1000).cast_signed()),
            ru_stime: timeval((system / 1000).cast_signed()),
            ru_maxrss: (resident / 1024).cast_signed(),
            ru_nvcsw: switches.0.cast_signed(),
            ru_nivcsw: switches.1.cast_signed(),
            ..Rusage::default()
        }
    }

    /// RUSAGE_CHILDREN.
    pub fn usage_children(&self) -> Rusage {
        self.usage.lock().children
    }

    fn usage_self_and_children(&self) -> Rusage {
        let mut usage = self.usage_self();
        add_usage(&mut usage, &self.usage_children());
        usage
    }
}

/// Blocks this host thread (no worker) until `check` answers something; woken by the queue.
pub fn block_until<T>(queue: &chitin_vfs::WaitQueue, mut check: impl FnMut() -> Option<T>) -> T {
    struct Unpark(std::thread::Thread);
    impl chitin_vfs::wait::Notify for Unpark {
        fn notify(&self, _events: u32) {
            self.0.unpark();
        }
    }
    let _registration = queue.register(Arc::new(Unpark(std::thread::current())));
    loop {
        if let Some(value) = check() {
            return value;
        }
        std::thread::park();
    }
}

/// Runs a future on this host thread (no worker), which sleeps between its steps.
pub fn block_on<F: Future>(future: F) -> F::Output {
    use std::task::{Context, Poll, Wake, Waker};
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
