//! Waiting for host descriptors: epoll, eventfd, poll, a signalfd, and a timerfd that tells when the clock is set.
//!
//! Neighbour: the kernel's reactor. Event masks are plain numbers, since EPOLL* and POLL* agree.

use nix::errno::Errno;
use nix::sys::epoll::{EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EfdFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SfdFlags;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// An epoll instance; registrations are edge-triggered.
pub struct Epoll(nix::sys::epoll::Epoll);

/// Events of one wait.
pub struct Events {
    buffer: Vec<libc::epoll_event>,
    count: usize,
}

impl Events {
    pub fn new(capacity: usize) -> Events {
        Events { buffer: vec![libc::epoll_event { events: 0, u64: 0 }; capacity.max(1)], count: 0 }
    }

    /// (token, events) of each.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32)> {
        self.buffer.iter().take(self.count).map(|event| (event.u64, event.events))
    }
}

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        Ok(Epoll(nix::sys::epoll::Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Reports every change of the descriptor's readiness under `token`. EPERM for regular files.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let flags = EpollFlags::EPOLLET
            | EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLPRI
            | EpollFlags::EPOLLRDHUP;
        Ok(self.0.add(fd, EpollEvent::new(flags, token))?)
    }

    /// As [`Epoll::add`], for input only and level-triggered.
    pub fn add_input(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?)
    }

    pub fn delete(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.0.delete(fd)?)
    }

    /// Waits for events at most `timeout` (`None`: as long as it takes). A signal ends the wait without events.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.count = 0;
        let limit = timeout.map(|timeout| libc::timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let capacity = libc::c_int::try_from(events.buffer.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the buffer holds `capacity` elements, the time outlives the call or is null, and so is the mask.
        let r = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.0.as_raw_fd(),
                events.buffer.as_mut_ptr(),
                capacity,
                limit,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        match usize::try_from(r) {
            Ok(count) => events.count = count,
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // Before Linux 5.11.
                    Some(libc::ENOSYS) => self.wait_ms(events, timeout)?,
                    _ => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// The same with milliseconds, rounded up.
    fn wait_ms(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let ms = timeout
            .map_or(-1, |timeout| i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        let capacity = libc::c_int::try_from(events.buffer.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the buffer holds `capacity` elements.
        let r = unsafe { libc::epoll_wait(self.0.0.as_raw_fd(), events.buffer.as_mut_ptr(), capacity, ms) };
        match usize::try_from(r) {
            Ok(count) => events.count = count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// A doorbell: an eventfd.
pub struct Doorbell(nix::sys::eventfd::EventFd);

impl Doorbell {
    pub fn new() -> io::Result<Doorbell> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Doorbell(nix::sys::eventfd::EventFd::from_value_and_flags(0, flags)?))
    }

    pub fn ring(&self) {
        // Fails only when the counter is full, and then it has been rung.
        let _ = self.0.write(1);
    }

    pub fn clear(&self) {
        // Fails only when it has not been rung.
        let _ = self.0.read();
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What is ready on a descriptor at this moment, of `events` (POLLERR, POLLHUP and POLLNVAL always).
pub fn ready(fd: BorrowedFd<'_>, events: u32) -> u32 {
    // The low half: `short` is what poll(2) takes.
    let [low, high, ..] = events.to_le_bytes();
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: i16::from_le_bytes([low, high]), revents: 0 };
    // Not nix's: it answers nothing where there is a bit that it does not know (POLLRDHUP).
    // SAFETY: one entry, which outlives the call.
    match unsafe { libc::poll(&raw mut entry, 1, 0) } {
        1 => u32::from(entry.revents.cast_unsigned()),
        _ => 0,
    }
}

/// Waits until there is something to be read on one of two descriptors, or an error; whether there is on the second. A signal ends
/// the wait.
pub fn either(first: BorrowedFd<'_>, second: BorrowedFd<'_>) -> bool {
    let entry = |fd: BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut entries = [entry(first), entry(second)];
    // SAFETY: two entries, which outlive the call.
    unsafe { libc::poll(entries.as_mut_ptr(), 2, -1) };
    entries[1].revents != 0
}

/// Reads of SIGCHLD. The signal gets blocked in the calling thread; the others must have it blocked too.
pub struct ChildSignals(nix::sys::signalfd::SignalFd);

impl ChildSignals {
    pub fn new() -> io::Result<ChildSignals> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(ChildSignals(nix::sys::signalfd::SignalFd::with_flags(&mask, flags)?))
    }

    /// Takes all pending signals; whether there were any.
    pub fn take(&mut self) -> bool {
        let mut any = false;
        while let Ok(Some(_)) = self.0.read_signal() {
            any = true;
        }
        any
    }
}

impl AsFd for ChildSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Becomes readable whenever somebody sets the host's real-time clock, or the machine wakes from suspension.
pub struct ClockSteps(OwnedFd);

impl ClockSteps {
    pub fn new() -> io::Result<ClockSteps> {
        use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let steps = ClockSteps(TimerFd::new(ClockId::CLOCK_REALTIME, flags)?.into());
        steps.arm()?;
        Ok(steps)
    }

    fn arm(&self) -> io::Result<()> {
        let never = libc::timespec { tv_sec: i64::MAX / 4, tv_nsec: 0 };
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = libc::itimerspec { it_interval: zero, it_value: never };
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        // SAFETY: the new value outlives the call, the old one is not asked for.
        let r = unsafe { libc::timerfd_settime(self.0.as_raw_fd(), flags, &spec, std::ptr::null_mut()) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Whether the clock has been set since the last call.
    pub fn take(&self) -> bool {
        let mut bytes = [0; 8];
        match nix::unistd::read(&self.0, &mut bytes) {
            Err(Errno::ECANCELED) => {
                // Stays armed; should it fail all the same, steps go unnoticed until timers next expire.
                let _ = self.arm();
                true
            }
            _ => false,
        }
    }
}

impl AsFd for ClockSteps {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doorbell_wakes_the_wait() {
        let epoll = Epoll::new().unwrap();
        let bell = Doorbell::new().unwrap();
        epoll.add_input(bell.as_fd(), 7).unwrap();
        let mut events = Events::new(4);
        epoll.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.iter().count(), 0);
        bell.ring();
        bell.ring();
        epoll.wait(&mut events, None).unwrap();
        assert_eq!(events.iter().collect::<Vec<_>>(), [(7, libc::EPOLLIN as u32)]);
        bell.clear();
        assert_eq!(ready(bell.as_fd(), libc::POLLIN as u32 | libc::POLLOUT as u32), libc::POLLOUT as u32);
        epoll.wait_ms(&mut events, Some(Duration::from_nanos(1))).unwrap();
        assert_eq!(events.iter().count(), 0);
    }

    #[test]
    fn a_hang_up_shows_with_what_else_there_is() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(b);
        let all = (libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP).cast_unsigned();
        let want = (libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP | libc::POLLHUP).cast_unsigned();
        assert_eq!(ready(a.as_fd(), all.into()), u32::from(want));
    }

    #[test]
    fn waits_are_finer_than_a_millisecond() {
        let epoll = Epoll::new().unwrap();
        let mut events = Events::new(1);
        let start = std::time::Instant::now();
        epoll.wait(&mut events, Some(Duration::from_micros(200))).unwrap();
        assert!(start.elapsed() >= Duration::from_micros(200));
    }

    #[test]
    fn no_step_unless_set() {
        assert!(!ClockSteps::new().unwrap().take());
    }
}
