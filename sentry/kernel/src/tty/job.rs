//! Controlling terminals and job control (drivers/tty/tty_jobctrl.c).

use super::{Tty, TtyFile};
use crate::result::{Restart, SysError};
use crate::signal::{send_to_group, send_to_process};
use crate::{Kernel, Process, Task};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_SYS_ADMIN;
use chitin_abi::fcntl::O_NOCTTY;
use chitin_abi::poll::*;
use chitin_abi::signal::*;
use chitin_abi::termios::TOSTOP;
use chitin_vfs::File;
use std::sync::Arc;

/// Makes a terminal the controlling terminal of a session leader.
pub fn adopt(tty: &Arc<Tty>, process: &Arc<Process>) {
    let (sid, pgid) = {
        let mut links = process.links.lock();
        links.tty = Some(tty.clone());
        (links.session.kid(), links.pgrp.kid())
    };
    let mut state = tty.state.lock();
    state.session = sid;
    state.pgrp = pgid;
}

/// The leader of a session ends: its terminal's foreground group hears of it, and nobody keeps the terminal.
pub fn session_leader_exits(kernel: &Arc<Kernel>, process: &Arc<Process>) {
    let Some(tty) = process.tty() else { return };
    disassociate(kernel, &tty, process.sid(), true);
}

/// disassociate_ctty(), by the session's leader.
fn disassociate(kernel: &Arc<Kernel>, tty: &Arc<Tty>, sid: i32, on_exit: bool) {
    let pgrp = tty.foreground();
    if pgrp > 0 {
        send_to_group(kernel, pgrp, SigInfo::kernel(SIGHUP));
        if !on_exit {
            send_to_group(kernel, pgrp, SigInfo::kernel(SIGCONT));
        }
    }
    let tree = kernel.tree.lock();
    clear_session(&tree, tty, sid);
    tty.forget_session();
}

/// Takes the terminal from all processes of a session.
fn clear_session(tree: &crate::tree::Tree, tty: &Arc<Tty>, sid: i32) {
    for process in tree.processes() {
        let mut links = process.links.lock();
        if links.session.kid() == sid && links.tty.as_ref().is_some_and(|held| Arc::ptr_eq(held, tty)) {
            links.tty = None;
        }
    }
}

impl Tty {
    fn forget_session(&self) {
        let mut state = self.state.lock();
        (state.session, state.pgrp) = (0, 0);
    }

    /// The line is gone (vhangup(2), or the master's end): files open on it are dead, and the session's leader hears.
    pub fn hangup(self: &Arc<Tty>) {
        let session = {
            let mut state = self.state.lock();
            state.hangups += 1;
            state.slaves = 0;
            state.left_alone = true;
            state.typed.clear();
            state.ldisc.flush_input();
            state.session
        };
        if session > 0
            && let Some(kernel) = self.kernel.upgrade()
        {
            {
                let tree = kernel.tree.lock();
                clear_session(&tree, self, session);
                self.forget_session();
            }
            if let Some(leader) = kernel.process_by_kid(session).filter(|leader| leader.sid() == session) {
                send_to_process(&leader, SigInfo::kernel(SIGHUP));
                send_to_process(&leader, SigInfo::kernel(SIGCONT));
            }
        }
        let all = POLLIN | POLLOUT | POLLERR | POLLHUP;
        self.slave_queue.wake(all);
        self.master_queue.wake(all);
    }
}

/// __tty_check_change(): what a background process may not do makes its group stop by `signal`.
pub(super) fn check_change(task: &Arc<Task>, tty: &Arc<Tty>, signal: u32) -> Result<(), SysError> {
    let process = &task.process;
    if !process.tty().is_some_and(|held| Arc::ptr_eq(&held, tty)) {
        return Ok(());
    }
    let (own, foreground) = (process.pgid(), tty.foreground());
    if foreground == 0 || own == foreground {
        return Ok(());
    }
    let action = process.handlers().get(signal).sa_handler;
    if task.signal_mask().contains(signal) || action == SIG_IGN {
        return if signal == SIGTTIN { Err(Errno::EIO.into()) } else { Ok(()) };
    }
    // Init is not stopped by it either, so that it would try again and again.
    if task.kernel.is_orphaned_group(process) || (process.is_unkillable() && action == SIG_DFL) {
        return Err(Errno::EIO.into());
    }
    send_to_group(&task.kernel, own, SigInfo::kernel(signal));
    Err(SysError::Restart(Restart::Sys))
}

/// Whether the task may read now: EIO, or ERESTARTSYS with SIGTTIN sent.
pub fn check_read(task: &Arc<Task>, tty: &Arc<Tty>) -> Result<(), SysError> {
    check_change(task, tty, SIGTTIN)
}

/// Whether the task may write now: with TOSTOP, background processes may not.
pub fn check_write(task: &Arc<Task>, tty: &Arc<Tty>) -> Result<(), SysError> {
    if tty.state.lock().ldisc.lflag(TOSTOP) { check_change(task, tty, SIGTTOU) } else { Ok(()) }
}

/// A file was opened by a task: a session leader without a terminal gets this one, unless O_NOCTTY.
pub fn opened(task: &Arc<Task>, file: &Arc<File>, flags: u32) {
    let Some(end) = file.downcast::<TtyFile>().filter(|end| !end.is_master()) else { return };
    // /dev/console never becomes the controlling terminal by being opened.
    if flags & O_NOCTTY != 0 || !end.tty().is_pty() || !file.readable() {
        return;
    }
    let process = &task.process;
    let _tree = task.kernel.tree.lock();
    let free = {
        let links = process.links.lock();
        links.session.kid() == process.kid() && links.tty.is_none()
    };
    if free && end.tty().session() == 0 {
        adopt(end.tty(), process);
    }
}

/// TIOCSCTTY.
pub(super) fn set_controlling(task: &Arc<Task>, file: &File, tty: &Arc<Tty>, arg: u64) -> Result<(), Errno> {
    let process = &task.process;
    let tree = task.kernel.tree.lock();
    let (leader, sid, has) = {
        let links = process.links.lock();
        (links.session.kid() == process.kid(), links.session.kid(), links.tty.is_some())
    };
    let session = tty.session();
    if leader && session == sid {
        return Ok(());
    }
    let admin = task.creds().capable(CAP_SYS_ADMIN);
    if !leader || has {
        return Err(Errno::EPERM);
    }
    if session != 0 {
        if arg != 1 || !admin {
            return Err(Errno::EPERM);
        }
        clear_session(&tree, tty, session);
    }
    if !file.readable() && !admin {
        return Err(Errno::EPERM);
    }
    adopt(tty, process);
    Ok(())
}

/// TIOCNOTTY.
pub(super) fn give_up(task: &Arc<Task>, tty: &Arc<Tty>) -> Result<(), Errno> {
    let process = &task.process;
    if !process.tty().is_some_and(|held| Arc::ptr_eq(&held, tty)) {
        return Err(Errno::ENOTTY);
    }
    if process.sid() == process.kid() {
        disassociate(&task.kernel, tty, process.sid(), false);
    }
    process.links.lock().tty = None;
    Ok(())
}

/// TIOCSPGRP.
pub(super) fn set_foreground(task: &Arc<Task>, tty: &Arc<Tty>, pgrp: i32) -> Result<(), SysError> {
    let not_tty = SysError::Errno(Errno::ENOTTY);
    check_change(task, tty, SIGTTOU).map_err(|error| match error {
        SysError::Errno(Errno::EIO) => SysError::Errno(Errno::ENOTTY),
        other => other,
    })?;
    let process = &task.process;
    let tree = task.kernel.tree.lock();
    let sid = process.sid();
    let ours = process.tty().is_some_and(|held| Arc::ptr_eq(&held, tty));
    if !ours || tty.session() != sid {
        return Err(not_tty);
    }
    if pgrp < 0 {
        return Err(Errno::EINVAL.into());
    }
    let group = task.kid_of(pgrp).ok_or(Errno::ESRCH)?;
    let processes = tree.processes();
    let mut members = processes.iter().filter(|process| process.pgid() == group).peekable();
    if members.peek().is_none() {
        // A process that leads no group has an id, but not one of this session.
        let exists = processes.iter().any(|process| process.kid() == group || process.sid() == group);
        return Err(if exists { Errno::EPERM } else { Errno::ESRCH }.into());
    }
    if !members.any(|member| member.sid() == sid) {
        return Err(Errno::EPERM.into());
    }
    tty.state.lock().pgrp = group;
    Ok(())
}
