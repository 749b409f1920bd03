//! The line discipline N_TTY as a state machine without locks (drivers/tty/n_tty.c): input editing, echo, output
//! processing.
//!
//! Neighbour: `tty` owns one per terminal, feeds it what was typed and takes what it shows.
//!
//! Positions are counted from the oldest unread byte; `canon` is where the line being edited begins.

use chitin_abi::signal::{SIGINT, SIGQUIT, SIGTSTP};
use chitin_abi::termios::*;
use std::collections::VecDeque;

/// N_TTY_BUF_SIZE.
pub(crate) const BUF_SIZE: usize = 4096;
/// The "disabled" control character, also what an end of file is stored as.
const DISABLED: u8 = 0;
/// Echo is held back until there is this much, or the input's end (ECHO_COMMIT_WATERMARK).
const ECHO_BATCH: usize = 256;

/// Echo that waits for room, or for output to be started again.
enum Echo {
    /// Shown as output is.
    Byte(u8),
    /// Shown as ^X.
    Control(u8),
    /// Columns since the line's start, or since the tab before.
    EraseTab {
        columns: usize,
        after_tab: bool,
    },
    SetCanonColumn,
    MoveBack,
}

/// What input caused beyond the discipline itself.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Effects {
    /// For the foreground group, in order.
    pub(crate) signals: Vec<u32>,
    /// Input was thrown away by a signal, and output is to be.
    pub(crate) flushed: bool,
    pub(crate) started: bool,
    pub(crate) stopped: bool,
}

/// Where output goes, up to a limit.
pub(crate) struct Out<'a> {
    pub(crate) queue: &'a mut VecDeque<u8>,
    pub(crate) limit: usize,
}

impl Out<'_> {
    fn room(&self) -> usize {
        self.limit.saturating_sub(self.queue.len())
    }
    fn put(&mut self, bytes: &[u8]) {
        self.queue.extend(bytes);
    }
}

pub(crate) struct Ldisc {
    termios: Termios,
    buf: VecDeque<u8>,
    /// Which bytes end a line.
    ends: VecDeque<bool>,
    canon: usize,
    push: bool,
    lnext: bool,
    erasing: bool,
    column: usize,
    canon_column: usize,
    echo: VecDeque<Echo>,
    /// What is to be echoed shall be shown before more input is looked at.
    echo_now: bool,
    /// ^S.
    pub(crate) stopped: bool,
    /// tcflow(TCOOFF).
    pub(crate) tco_stopped: bool,
}

/// The kernel's ctype: Latin-1.
fn is_control(c: u8) -> bool {
    c < 32 || c == 127
}
fn is_alnum(c: u8) -> bool {
    c.is_ascii_alphanumeric() || (c >= 192 && c != 215 && c != 247)
}
fn to_upper(c: u8) -> u8 {
    if c.is_ascii_lowercase() || (c >= 224 && c != 247 && c != 255) { c.wrapping_sub(32) } else { c }
}
fn to_lower(c: u8) -> u8 {
    if c.is_ascii_uppercase() || ((192..=222).contains(&c) && c != 215) { c.wrapping_add(32) } else { c }
}

impl Ldisc {
    pub(crate) fn new(termios: Termios) -> Ldisc {
        Ldisc {
            termios,
            buf: VecDeque::new(),
            ends: VecDeque::new(),
            canon: 0,
            push: false,
            lnext: false,
            erasing: false,
            column: 0,
            canon_column: 0,
            echo: VecDeque::new(),
            echo_now: false,
            stopped: false,
            tco_stopped: false,
        }
    }

    pub(crate) fn termios(&self) -> &Termios {
        &self.termios
    }
    pub(crate) fn lflag(&self, bit: u32) -> bool {
        self.termios.c_lflag & bit != 0
    }
    pub(crate) fn iflag(&self, bit: u32) -> bool {
        self.termios.c_iflag & bit != 0
    }
    fn oflag(&self, bit: u32) -> bool {
        self.termios.c_oflag & bit != 0
    }
    pub(crate) fn cc(&self, index: usize) -> u8 {
        self.termios.c_cc.get(index).copied().unwrap_or(DISABLED)
    }
    pub(crate) fn canonical(&self) -> bool {
        self.lflag(ICANON) && !self.lflag(EXTPROC)
    }
    fn is_continuation(&self, c: u8) -> bool {
        self.iflag(IUTF8) && c & 0xc0 == 0x80
    }

    /// n_tty_set_termios(). Answers whether output was started by it.
    pub(crate) fn set_termios(&mut self, new: Termios) -> bool {
        let old = std::mem::replace(&mut self.termios, new);
        if (old.c_lflag ^ new.c_lflag) & (ICANON | EXTPROC) != 0 {
            self.ends.iter_mut().for_each(|end| *end = false);
            if new.c_lflag & ICANON == 0 || self.buf.is_empty() {
                self.canon = 0;
                self.push = false;
            } else {
                if let Some(last) = self.ends.back_mut() {
                    *last = true;
                }
                self.canon = self.buf.len();
                self.push = true;
            }
            self.erasing = false;
            self.lnext = false;
        }
        let starts = new.c_iflag & IXON == 0 && old.c_iflag & IXON != 0 && self.stopped && !self.tco_stopped;
        if starts {
            self.stopped = false;
        }
        starts
    }

    /// Whether output waits for a ^Q or tcflow(TCOON).
    pub(crate) fn held(&self) -> bool {
        self.stopped || self.tco_stopped
    }

    /// Throws input away.
    pub(crate) fn flush_input(&mut self) {
        self.buf.clear();
        self.ends.clear();
        self.canon = 0;
        self.push = false;
        self.erasing = false;
    }

    // Input.

    /// Takes typed bytes as far as there is room.
    pub(crate) fn feed(&mut self, typed: &mut VecDeque<u8>, out: &mut Out<'_>, fx: &mut Effects) {
        // What was shown before this input is with the other side's reader already.
        let kept = out.queue.len().min(BUF_SIZE - 1);
        while !typed.is_empty() {
            let mut room = BUF_SIZE.saturating_sub(self.buf.len());
            if self.iflag(PARMRK) {
                room = room.div_ceil(3);
            }
            if room <= 1 {
                // A line that fills the buffer goes on in its last place, so that its end can still come.
                if !self.lflag(ICANON) || self.canon != 0 {
                    break;
                }
                if room == 0 {
                    self.buf.pop_back();
                    self.ends.pop_back();
                }
            }
            let Some(c) = typed.pop_front() else { break };
            let before = fx.signals.len();
            self.receive(c, fx);
            if fx.flushed && fx.signals.len() > before {
                // Output that waits is dropped before the echo of the character that did it.
                out.queue.truncate(kept);
            }
            // Echo is shown in batches, and what was not shown yet goes with a signal.
            if std::mem::take(&mut self.echo_now) || self.echo.len() >= ECHO_BATCH {
                self.show_echo(out);
            }
        }
        self.show_echo(out);
    }

    fn put(&mut self, c: u8, end: bool) {
        self.buf.push_back(c);
        self.ends.push_back(end);
    }

    fn put_marked(&mut self, c: u8) {
        if c == 0xff && self.iflag(PARMRK) {
            self.put(c, false);
        }
        self.put(c, false);
    }

    /// Whether characters are looked at one by one (the character map has entries).
    fn special(&self, c: u8) -> bool {
        let canon = self.lflag(ICANON);
        let extended = self.lflag(IEXTEN);
        let is = |index: usize| c == self.cc(index);
        if c == b'\r' && self.iflag(IGNCR | ICRNL) || c == b'\n' && (self.iflag(INLCR) || canon) {
            return true;
        }
        if c == DISABLED {
            return false;
        }
        canon && (is(VERASE) || is(VKILL) || is(VEOF) || is(VEOL))
            || canon && extended && (is(VWERASE) || is(VLNEXT) || is(VEOL2))
            || canon && extended && self.lflag(ECHO) && is(VREPRINT)
            || self.iflag(IXON) && (is(VSTART) || is(VSTOP))
            || self.lflag(ISIG) && (is(VINTR) || is(VQUIT) || is(VSUSP))
    }

    /// No processing at all: `ldata->raw`.
    fn raw(&self) -> bool {
        !self.iflag(ISTRIP | IUCLC | IGNCR | ICRNL | INLCR | IXON | PARMRK)
            && !self.lflag(ICANON | ISIG | ECHO)
    }

    fn receive(&mut self, c: u8, fx: &mut Effects) {
        if self.raw() {
            return self.put(c, false);
        }
        let mut c = c;
        let literal = std::mem::take(&mut self.lnext);
        if self.iflag(ISTRIP) {
            c &= 0x7f;
        }
        if self.iflag(IUCLC) && self.lflag(IEXTEN) {
            c = to_lower(c);
        }
        if literal {
            self.receive_plain(c, fx);
        } else if self.lflag(EXTPROC) {
            self.put(c, false);
        } else if self.special(c) {
            self.receive_special(c, fx);
        } else {
            self.receive_plain(c, fx);
        }
    }

    fn start(&mut self, fx: &mut Effects) {
        if self.stopped && !self.tco_stopped {
            self.stopped = false;
            fx.started = true;
            fx.stopped = false;
        }
    }

    fn any_starts(&mut self, fx: &mut Effects) {
        if self.iflag(IXON) && self.iflag(IXANY) && self.stopped && !self.tco_stopped {
            self.echo_now = true;
            self.start(fx);
        }
    }

    fn receive_plain(&mut self, c: u8, fx: &mut Effects) {
        self.any_starts(fx);
        if self.lflag(ECHO) {
            self.finish_erasing();
            self.note_column();
            self.echo_char(c);
        }
        self.put_marked(c);
    }

    /// The first character of a line says where it begins on the screen.
    fn note_column(&mut self) {
        if self.canon == self.buf.len() {
            self.push_echo(Echo::SetCanonColumn);
        }
    }

    fn receive_special(&mut self, c: u8, fx: &mut Effects) {
        let mut c = c;
        if self.iflag(IXON) {
            if c == self.cc(VSTART) {
                self.echo_now = true;
                return self.start(fx);
            }
            if c == self.cc(VSTOP) {
                if !self.stopped {
                    self.stopped = true;
                    fx.stopped = true;
                    fx.started = false;
                }
                return;
            }
        }
        if self.lflag(ISIG) {
            for (index, signal) in [(VINTR, SIGINT), (VQUIT, SIGQUIT), (VSUSP, SIGTSTP)] {
                if c == self.cc(index) {
                    return self.receive_signal(signal, c, fx);
                }
            }
        }
        self.any_starts(fx);
        if c == b'\r' {
            if self.iflag(IGNCR) {
                return;
            }
            if self.iflag(ICRNL) {
                c = b'\n';
            }
        } else if c == b'\n' && self.iflag(INLCR) {
            c = b'\r';
        }
        if self.lflag(ICANON) && self.receive_canonical(c) {
            return;
        }
        if self.lflag(ECHO) {
            self.finish_erasing();
            if c == b'\n' {
                self.push_echo(Echo::Byte(b'\n'));
            } else {
                self.note_column();
                self.echo_char(c);
            }
        }
        self.put_marked(c);
    }

    fn receive_signal(&mut self, signal: u32, c: u8, fx: &mut Effects) {
        fx.signals.push(signal);
        if !self.lflag(NOFLSH) {
            self.echo.clear();
            self.flush_input();
            fx.flushed = true;
        }
        if self.iflag(IXON) {
            self.start(fx);
        }
        if self.lflag(ECHO) {
            self.echo_char(c);
        }
    }

    /// Editing and line ends; `false`: an ordinary character.
    fn receive_canonical(&mut self, c: u8) -> bool {
        let extended = self.lflag(IEXTEN);
        let echo = self.lflag(ECHO);
        let is = |index: usize| c == self.cc(index);
        if is(VERASE) || is(VKILL) || (extended && is(VWERASE)) {
            self.erase(c);
        } else if extended && is(VLNEXT) {
            self.lnext = true;
            if echo {
                self.finish_erasing();
                if self.lflag(ECHOCTL) {
                    self.push_echo(Echo::Byte(b'^'));
                    self.push_echo(Echo::Byte(8));
                }
            }
        } else if extended && echo && is(VREPRINT) {
            self.finish_erasing();
            self.echo_char(c);
            self.push_echo(Echo::Byte(b'\n'));
            let line: Vec<u8> = self.buf.iter().skip(self.canon).copied().collect();
            line.into_iter().for_each(|c| self.echo_char(c));
        } else if c == b'\n' {
            if echo || self.lflag(ECHONL) {
                self.push_echo(Echo::Byte(b'\n'));
            }
            self.end_line(c);
        } else if is(VEOF) {
            self.end_line(DISABLED);
        } else if is(VEOL) || (extended && is(VEOL2)) {
            if echo {
                self.note_column();
                self.echo_char(c);
            }
            if c == 0xff && self.iflag(PARMRK) {
                self.put(c, false);
            }
            self.end_line(c);
        } else {
            return false;
        }
        true
    }

    fn end_line(&mut self, c: u8) {
        self.put(c, true);
        self.canon = self.buf.len();
    }

    /// eraser(): a character, a word or the line.
    fn erase(&mut self, c: u8) {
        if self.buf.len() <= self.canon {
            return;
        }
        let echo = self.lflag(ECHO);
        let (one, word) = (c == self.cc(VERASE), c == self.cc(VWERASE));
        if !one && !word {
            if !echo {
                return self.cut(self.canon);
            }
            if !self.lflag(ECHOK) || !self.lflag(ECHOKE) || !self.lflag(ECHOE) {
                self.cut(self.canon);
                self.finish_erasing();
                self.echo_char(self.cc(VKILL));
                if self.lflag(ECHOK) {
                    self.push_echo(Echo::Byte(b'\n'));
                }
                return;
            }
        }
        let word = word && !one;
        let mut seen = false;
        while self.buf.len() > self.canon {
            let mut head = self.buf.len();
            let at = |head: usize| self.buf.get(head).copied().unwrap_or(0);
            // A character may be several bytes.
            loop {
                head -= 1;
                if !self.is_continuation(at(head)) || head == self.canon {
                    break;
                }
            }
            let c = at(head);
            if self.is_continuation(c) {
                break;
            }
            if word {
                if is_alnum(c) || c == b'_' {
                    seen = true;
                } else if seen {
                    break;
                }
            }
            let tail: Vec<u8> = self.buf.iter().skip(head + 1).copied().collect();
            self.cut(head);
            if echo {
                self.echo_erased(c, &tail, one);
            }
            if one {
                break;
            }
        }
        if self.buf.len() == self.canon && echo {
            self.finish_erasing();
        }
    }

    fn cut(&mut self, len: usize) {
        self.buf.truncate(len);
        self.ends.truncate(len);
    }

    /// Shows that `c` (followed by the bytes `tail`) is gone.
    fn echo_erased(&mut self, c: u8, tail: &[u8], one: bool) {
        if self.lflag(ECHOPRT) {
            if !self.erasing {
                self.push_echo(Echo::Byte(b'\\'));
                self.erasing = true;
            }
            self.echo_char(c);
            for &byte in tail {
                self.push_echo(Echo::Byte(byte));
                self.push_echo(Echo::MoveBack);
            }
        } else if one && !self.lflag(ECHOE) {
            self.echo_char(self.cc(VERASE));
        } else if c == b'\t' {
            let (mut columns, mut after_tab) = (0, false);
            for &c in self.buf.iter().skip(self.canon).rev() {
                if c == b'\t' {
                    after_tab = true;
                    break;
                }
                if is_control(c) {
                    columns += if self.lflag(ECHOCTL) { 2 } else { 0 };
                } else if !self.is_continuation(c) {
                    columns += 1;
                }
            }
            self.push_echo(Echo::EraseTab { columns, after_tab });
        } else {
            let wide = is_control(c) && self.lflag(ECHOCTL);
            let shown = !is_control(c) || self.lflag(ECHOCTL);
            for _ in 0..usize::from(wide) + usize::from(shown) {
                [8, b' ', 8].into_iter().for_each(|c| self.push_echo(Echo::Byte(c)));
            }
        }
    }

    fn finish_erasing(&mut self) {
        if std::mem::take(&mut self.erasing) {
            self.push_echo(Echo::Byte(b'/'));
        }
    }

    // Echo.

    fn push_echo(&mut self, echo: Echo) {
        // As on Linux the oldest goes when nobody lets output go on.
        if self.echo.len() >= BUF_SIZE {
            self.echo.pop_front();
        }
        self.echo.push_back(echo);
    }

    fn echo_char(&mut self, c: u8) {
        let control = self.lflag(ECHOCTL) && is_control(c) && c != b'\t';
        self.push_echo(if control { Echo::Control(c) } else { Echo::Byte(c) });
    }

    /// Shows echo as far as there is room.
    pub(crate) fn show_echo(&mut self, out: &mut Out<'_>) {
        if self.held() {
            return;
        }
        while let Some(echo) = self.echo.pop_front() {
            let shown = match echo {
                Echo::Byte(c) if self.oflag(OPOST) => self.output(c, out),
                Echo::Byte(c) if out.room() > 0 => {
                    out.put(&[c]);
                    true
                }
                Echo::Control(c) if out.room() >= 2 => {
                    out.put(&[b'^', c ^ 0o100]);
                    self.column += 2;
                    true
                }
                Echo::Byte(_) | Echo::Control(_) => false,
                Echo::EraseTab { columns, after_tab } => {
                    let columns = columns & 7;
                    let from = if after_tab { columns } else { columns + self.canon_column };
                    let back = 8 - (from & 7);
                    if out.room() < back {
                        false
                    } else {
                        out.put(b"\x08\x08\x08\x08\x08\x08\x08\x08".get(..back).unwrap_or_default());
                        self.column = self.column.saturating_sub(back);
                        true
                    }
                }
                Echo::SetCanonColumn => {
                    self.canon_column = self.column;
                    true
                }
                Echo::MoveBack => {
                    self.column = self.column.saturating_sub(1);
                    true
                }
            };
            if !shown {
                self.echo.push_front(echo);
                return;
            }
        }
    }

    // Output.

    /// do_output_char(): `false` when there is no room.
    fn output(&mut self, c: u8, out: &mut Out<'_>) -> bool {
        let mut c = c;
        if out.room() == 0 {
            return false;
        }
        match c {
            b'\n' => {
                if self.oflag(ONLRET) {
                    self.column = 0;
                }
                if self.oflag(ONLCR) {
                    if out.room() < 2 {
                        return false;
                    }
                    (self.column, self.canon_column) = (0, 0);
                    out.put(b"\r\n");
                    return true;
                }
                self.canon_column = self.column;
            }
            b'\r' => {
                if self.oflag(ONOCR) && self.column == 0 {
                    return true;
                }
                if self.oflag(OCRNL) {
                    c = b'\n';
                    if self.oflag(ONLRET) {
                        (self.column, self.canon_column) = (0, 0);
                    }
                } else {
                    (self.column, self.canon_column) = (0, 0);
                }
            }
            b'\t' => {
                let spaces = 8 - (self.column & 7);
                if self.termios.c_oflag & TABDLY == XTABS {
                    if out.room() < spaces {
                        return false;
                    }
                    self.column += spaces;
                    out.put(b"        ".get(..spaces).unwrap_or_default());
                    return true;
                }
                self.column += spaces;
            }
            8 => self.column = self.column.saturating_sub(1),
            _ if !is_control(c) => {
                if self.oflag(OLCUC) {
                    c = to_upper(c);
                }
                if !self.is_continuation(c) {
                    self.column += 1;
                }
            }
            _ => {}
        }
        out.put(&[c]);
        true
    }

    /// A program's output: how many bytes were taken.
    pub(crate) fn write(&mut self, data: &[u8], out: &mut Out<'_>) -> usize {
        self.show_echo(out);
        if self.held() {
            return 0;
        }
        if !self.oflag(OPOST) {
            let count = data.len().min(out.room());
            out.put(data.get(..count).unwrap_or_default());
            return count;
        }
        let mut count = 0;
        for &c in data {
            if !self.output(c, out) {
                break;
            }
            count += 1;
        }
        count
    }

    // Reading.

    /// Bytes that are there, whatever VMIN says.
    pub(crate) fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether a read would find something; `poll`: by the rule of poll(2).
    pub(crate) fn available(&self, poll: bool) -> bool {
        if self.canonical() {
            return self.canon != 0;
        }
        let min = usize::from(self.cc(VMIN));
        let amount = if poll && self.cc(VTIME) == 0 && min != 0 { min } else { 1 };
        self.buf.len() >= amount
    }

    /// FIONREAD.
    pub(crate) fn readable(&self) -> usize {
        if !self.canonical() {
            return self.buf.len();
        }
        let line = self.buf.iter().zip(&self.ends).take(self.canon);
        line.filter(|(c, end)| !(**end && **c == DISABLED)).count()
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.ends.drain(..count.min(self.ends.len()));
        self.canon = self.canon.saturating_sub(count);
        self.buf.drain(..count.min(self.buf.len())).collect()
    }

    /// Takes up to `max` bytes: in canonical mode of one line at most. Empty for an end of file.
    pub(crate) fn read(&mut self, max: usize) -> Vec<u8> {
        if !self.canonical() {
            return self.take(max);
        }
        let window = max.min(self.canon);
        let Some(end) = self.ends.iter().take(window).position(|end| *end) else {
            let data = self.take(window);
            // An end of file right after a full buffer is not a read of its own.
            if self.canon > 0 && self.ends.front() == Some(&true) && self.buf.front() == Some(&DISABLED) {
                self.take(1);
            }
            return data;
        };
        let mut data = self.take(end + 1);
        if data.last() == Some(&DISABLED) {
            data.pop();
        }
        self.push = false;
        data
    }
}
