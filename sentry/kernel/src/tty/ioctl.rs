//! Requests to terminals (drivers/tty/tty_io.c, tty_ioctl.c, pty.c).

use super::{ConsoleTty, State, Tty, TtyFile, job, of_file};
use crate::Task;
use crate::result::{SysError, SysResult};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_SYS_ADMIN;
use chitin_abi::fcntl::*;
use chitin_abi::ioctl::*;
use chitin_abi::num::{low16, low32};
use chitin_abi::poll::*;
use chitin_abi::signal::*;
use chitin_abi::termios::*;
use chitin_vfs::File;
use chitin_vfs::walk::Walk;
use std::sync::Arc;

/// A terminal's request, made by a task. `None`: the file is no terminal, or the request is one that all files take.
pub fn ioctl(task: &Arc<Task>, file: &Arc<File>, cmd: u32, arg: u64) -> Option<SysResult> {
    let tty = of_file(file)?;
    let end = file.downcast::<TtyFile>()?;
    // do_vfs_ioctl()'s.
    let common =
        matches!(cmd, FIONCLEX | FIOCLEX | FIONBIO | FIOASYNC | FIOQSIZE | FIGETBSZ | FIFREEZE | FITHAW)
            || matches!(cmd, FICLONE | FICLONERANGE | FIDEDUPERANGE | FS_IOC_FIEMAP);
    if common {
        return None;
    }
    if end.hung_up() {
        return Some(Err(if cmd == TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO }.into()));
    }
    let call = Call { task, file, tty: &tty, master: end.is_master(), arg };
    Some(call.run(cmd))
}

struct Call<'a> {
    task: &'a Arc<Task>,
    file: &'a Arc<File>,
    tty: &'a Arc<Tty>,
    master: bool,
    arg: u64,
}

impl Call<'_> {
    fn run(&self, cmd: u32) -> SysResult {
        match cmd {
            TCGETS | TCGETS2 | TCGETA => self.get_settings(cmd)?,
            TCSETS | TCSETSW | TCSETSF | TCSETS2 | TCSETSW2 | TCSETSF2 | TCSETA | TCSETAW | TCSETAF => {
                self.set_settings(cmd)?;
            }
            TIOCGWINSZ => {
                // The host's may be newer than what its signal has told us.
                ConsoleTty::refresh(self.tty);
                self.put(&self.tty.winsize())?;
            }
            TIOCSWINSZ => {
                let size = self.get::<Winsize>()?;
                ConsoleTty::resize(self.tty, size);
            }
            TIOCSCTTY => job::set_controlling(self.task, self.file, self.tty, self.arg)?,
            // The master is nobody's controlling terminal.
            TIOCNOTTY if self.master => return Err(Errno::ENOTTY.into()),
            TIOCNOTTY => job::give_up(self.task, self.tty)?,
            TIOCGPGRP => {
                self.require_controlling()?;
                self.put(&self.task.nr_of(self.tty.foreground()))?;
            }
            TIOCSPGRP => {
                let pgrp = self.get::<i32>()?;
                job::set_foreground(self.task, self.tty, pgrp)?;
            }
            TIOCGSID => {
                self.require_controlling()?;
                match self.tty.session() {
                    0 => return Err(Errno::ENOTTY.into()),
                    sid => self.put(&self.task.nr_of(sid))?,
                }
            }
            TIOCINQ => {
                let count = self.file.ops().readable_bytes()?;
                self.put(&i32::try_from(count).unwrap_or(i32::MAX))?;
            }
            // What a pseudo-terminal was given has left it.
            TIOCOUTQ => self.put(&0i32)?,
            TCSBRK | TCSBRKP | TIOCSBRK => self.check_change()?,
            TIOCCBRK => self.check_change()?,
            TCFLSH => self.flush()?,
            TCXONC => self.flow()?,
            TIOCEXCL => self.tty.state.lock().exclusive = true,
            TIOCNXCL => self.tty.state.lock().exclusive = false,
            TIOCGEXCL => {
                let exclusive = self.tty.state.lock().exclusive;
                self.put(&i32::from(exclusive))?;
            }
            TIOCGETD => self.put(&N_TTY.cast_signed())?,
            TIOCSETD => {
                let wanted = self.get::<i32>()?;
                self.check_change()?;
                if wanted != N_TTY.cast_signed() {
                    return Err(Errno::EINVAL.into());
                }
            }
            TIOCGDEV => self.put(&low32(self.tty.dev()))?,
            TIOCSTI => self.insert()?,
            TIOCVHANGUP => {
                if !self.admin() {
                    return Err(Errno::EPERM.into());
                }
                self.tty.hangup();
            }
            _ if self.master => return self.run_master(cmd),
            _ => return Err(Errno::ENOTTY.into()),
        }
        Ok(0)
    }

    /// What only masters of pseudo-terminals know.
    fn run_master(&self, cmd: u32) -> SysResult {
        match cmd {
            TIOCGPTN => self.put(&self.tty.index())?,
            TIOCSPTLCK => {
                let locked = self.get::<i32>()? != 0;
                self.tty.state.lock().locked = locked;
            }
            TIOCGPTLCK => {
                let locked = self.tty.state.lock().locked;
                self.put(&i32::from(locked))?;
            }
            TIOCPKT => {
                let on = self.get::<i32>()? != 0;
                let mut state = self.tty.state.lock();
                if on && !state.packet {
                    state.status = 0;
                }
                state.packet = on;
            }
            TIOCGPKT => {
                let packet = self.tty.state.lock().packet;
                self.put(&i32::from(packet))?;
            }
            TIOCSIG => match u32::try_from(self.arg) {
                Ok(signal @ (SIGINT | SIGQUIT | SIGTSTP)) => {
                    self.tty.signal_group(self.tty.foreground(), signal);
                }
                _ => return Err(Errno::EINVAL.into()),
            },
            TIOCGPTPEER => return self.open_peer(),
            _ => return Err(Errno::ENOTTY.into()),
        }
        Ok(0)
    }

    fn put<T: zerocopy::IntoBytes + zerocopy::Immutable>(&self, value: &T) -> Result<(), Errno> {
        self.task.mm().write_bytes(self.arg, value.as_bytes())
    }
    fn get<T: zerocopy::FromBytes + zerocopy::IntoBytes>(&self) -> Result<T, Errno> {
        self.task.mm().read::<T>(self.arg)
    }
    fn admin(&self) -> bool {
        self.task.creds().capable(CAP_SYS_ADMIN)
    }

    /// A background process may not change the terminal. The master is nobody's terminal.
    fn check_change(&self) -> Result<(), SysError> {
        if self.master { Ok(()) } else { job::check_change(self.task, self.tty, SIGTTOU) }
    }

    /// Through the slave only the caller's own terminal tells its session.
    fn require_controlling(&self) -> Result<(), Errno> {
        let ours = self.task.process.tty().is_some_and(|held| Arc::ptr_eq(&held, self.tty));
        if self.master || ours { Ok(()) } else { Err(Errno::ENOTTY) }
    }

    fn get_settings(&self, cmd: u32) -> Result<(), Errno> {
        let (t, (c_ispeed, c_ospeed)) = {
            let state = self.tty.state.lock();
            (*state.ldisc.termios(), state.speeds)
        };
        let Termios { c_iflag, c_oflag, c_cflag, c_lflag, c_line, c_cc } = t;
        match cmd {
            TCGETS => self.put(&t),
            TCGETS2 => {
                let t2 = Termios2 { c_iflag, c_oflag, c_cflag, c_lflag, c_line, c_cc, c_ispeed, c_ospeed };
                self.put(&t2)
            }
            _ => {
                let mut old = Termio {
                    c_iflag: low16(c_iflag),
                    c_oflag: low16(c_oflag),
                    c_cflag: low16(c_cflag),
                    c_lflag: low16(c_lflag),
                    c_line,
                    ..Termio::default()
                };
                for (to, from) in old.c_cc.iter_mut().zip(c_cc) {
                    *to = from;
                }
                self.put(&old)
            }
        }
    }

    fn set_settings(&self, cmd: u32) -> Result<(), SysError> {
        // Through the master too it is the slave that changes, and the caller that must be allowed to.
        job::check_change(self.task, self.tty, SIGTTOU)?;
        let (new, speeds) = match cmd {
            TCSETS2 | TCSETSW2 | TCSETSF2 => {
                let t = self.get::<Termios2>()?;
                let Termios2 { c_iflag, c_oflag, c_cflag, c_lflag, c_line, c_cc, c_ispeed, c_ospeed } = t;
                let new = Termios { c_iflag, c_oflag, c_cflag, c_lflag, c_line, c_cc };
                (new, Some(super::speed::of(&new, (c_ispeed, c_ospeed))))
            }
            TCSETA | TCSETAW | TCSETAF => {
                let t = self.get::<Termio>()?;
                let mut new = self.tty.termios();
                let low = |old: u32, new: u16| old & 0xffff_0000 | u32::from(new);
                new.c_iflag = low(new.c_iflag, t.c_iflag);
                new.c_oflag = low(new.c_oflag, t.c_oflag);
                new.c_cflag = low(new.c_cflag, t.c_cflag);
                new.c_lflag = low(new.c_lflag, t.c_lflag);
                for (to, from) in new.c_cc.iter_mut().zip(t.c_cc) {
                    *to = from;
                }
                (new, None)
            }
            _ => (self.get::<Termios>()?, None),
        };
        let flush = matches!(cmd, TCSETSF | TCSETSF2 | TCSETAF);
        self.tty.set_termios(new, speeds, flush);
        Ok(())
    }

    /// tcflush(3); at the master the two directions are the other way round.
    fn flush(&self) -> Result<(), SysError> {
        self.check_change()?;
        let (input, output) = match u32::try_from(self.arg) {
            Ok(TCIFLUSH) => (true, false),
            Ok(TCOFLUSH) => (false, true),
            Ok(TCIOFLUSH) => (true, true),
            _ => return Err(Errno::EINVAL.into()),
        };
        {
            let mut state = self.tty.state.lock();
            if self.master {
                if input {
                    state.shown.clear();
                }
                if output {
                    state.typed.clear();
                }
            } else {
                if input {
                    state.flush_input();
                }
                if output {
                    state.flush_output();
                }
            }
        }
        self.tty.slave_queue.wake(POLLOUT | POLLWRNORM);
        self.tty.master_queue.wake(POLLOUT | POLLWRNORM | POLLIN | POLLPRI);
        Ok(())
    }

    /// tcflow(3).
    fn flow(&self) -> Result<(), SysError> {
        self.check_change()?;
        let action = u32::try_from(self.arg).map_err(|_| Errno::EINVAL)?;
        if action > TCION {
            return Err(Errno::EINVAL.into());
        }
        if self.master {
            // Its own output is never held: what it types arrives.
            return Ok(());
        }
        {
            let mut state = self.tty.state.lock();
            let State { ldisc, shown, packet, status, .. } = &mut *state;
            match action {
                TCOOFF if !ldisc.tco_stopped => {
                    ldisc.tco_stopped = true;
                    if *packet {
                        *status = *status & !TIOCPKT_START | TIOCPKT_STOP;
                    }
                }
                TCOON if ldisc.tco_stopped => {
                    ldisc.tco_stopped = false;
                    ldisc.stopped = false;
                    if *packet {
                        *status = *status & !TIOCPKT_STOP | TIOCPKT_START;
                    }
                }
                TCIOFF | TCION => {
                    let c = ldisc.cc(if action == TCIOFF { VSTOP } else { VSTART });
                    if c != 0 {
                        shown.push_back(c);
                    }
                }
                _ => {}
            }
        }
        self.tty.restarted();
        Ok(())
    }

    /// TIOCSTI: typing in the terminal's stead, for administrators only (dev.tty.legacy_tiocsti is 0).
    fn insert(&self) -> Result<(), Errno> {
        if !self.admin() {
            return Err(Errno::EIO);
        }
        let c = self.get::<u8>()?;
        if self.master {
            let mut state = self.tty.state.lock();
            state.shown.push_back(c);
            drop(state);
            self.tty.master_queue.wake(POLLIN | POLLRDNORM);
        } else {
            self.tty.typed(&[c]);
        }
        Ok(())
    }

    /// TIOCGPTPEER: opens the slave, whatever the caller can see of /dev/pts.
    fn open_peer(&self) -> SysResult {
        let flags = u32::try_from(self.arg).map_err(|_| Errno::EINVAL)?;
        let inode = self.tty.slave_inode.get().and_then(std::sync::Weak::upgrade).ok_or(Errno::EIO)?;
        let ops = self.tty.open_slave(flags, self.admin())?;
        let ctx = self.task.context();
        let name = format!("/dev/pts/{}", self.tty.index());
        let path = ctx.walk(&ctx.root, name.as_bytes(), Walk::NOFOLLOW).ok();
        let path = path.filter(|path| Arc::ptr_eq(path.inode(), &inode));
        let file = File::new(ops, inode, path, flags & (O_ACCMODE | O_NONBLOCK | O_APPEND));
        job::opened(self.task, &file, flags);
        let limit = self.task.process.nofile();
        let fd = self.task.files().add(file, flags & O_CLOEXEC != 0, 0, limit)?;
        Ok(u64::try_from(fd).unwrap_or(0))
    }
}
