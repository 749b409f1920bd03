//! The line discipline against the host's: the same settings and keys go to a real pseudo-terminal and to ours.

use super::ldisc::{Effects, Ldisc, Out};
use chitin_abi::termios::*;
use chitin_host::stdio;
use nix::pty::{OpenptyResult, openpty};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use zerocopy::IntoBytes;

/// What one terminal did: shown bytes, bytes to be read by FIONREAD, and each read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    shown: Vec<u8>,
    readable: usize,
    reads: Vec<Vec<u8>>,
}

/// One step of a dialogue.
#[derive(Clone, Debug)]
enum Step {
    Type(Vec<u8>),
    Write(Vec<u8>),
    Set(Termios),
}

struct Ours {
    ldisc: Ldisc,
    typed: VecDeque<u8>,
    shown: VecDeque<u8>,
}

impl Ours {
    fn run(steps: &[Step], room: usize) -> Seen {
        let mut ours =
            Ours { ldisc: Ldisc::new(Termios::PTY_SLAVE), typed: VecDeque::new(), shown: VecDeque::new() };
        for step in steps {
            let mut out = Out { queue: &mut ours.shown, limit: 1 << 20 };
            match step {
                Step::Type(keys) => {
                    ours.typed.extend(keys);
                    ours.ldisc.feed(&mut ours.typed, &mut out, &mut Effects::default());
                }
                Step::Write(data) => {
                    ours.ldisc.write(data, &mut out);
                }
                Step::Set(termios) => {
                    ours.ldisc.set_termios(*termios);
                    ours.ldisc.show_echo(&mut out);
                }
            }
        }
        let readable = ours.ldisc.readable();
        let mut reads = Vec::new();
        while ours.ldisc.available(false) {
            reads.push(ours.ldisc.read(room));
        }
        Seen { shown: ours.shown.into(), readable, reads }
    }
}

fn settle(pair: &OpenptyResult, seen: &mut Seen, patience: u64) {
    let mut buf = [0; 65536];
    // The host hands bytes over in a worker of its own.
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_micros(patience));
        while let Ok(count) = stdio::read_nowait(pair.master.as_fd(), &mut buf) {
            seen.shown.extend_from_slice(&buf[..count]);
        }
    }
}

fn theirs(steps: &[Step], room: usize, patience: u64) -> Seen {
    let pair = openpty(None, None).unwrap();
    let mut seen = Seen::default();
    stdio::set_nonblocking(pair.slave.as_fd()).unwrap();
    set_host(&pair, &Termios::PTY_SLAVE);
    for step in steps {
        match step {
            Step::Type(keys) => {
                let mut rest = keys.as_slice();
                while !rest.is_empty() {
                    let count = stdio::write_nowait(pair.master.as_fd(), rest).unwrap();
                    rest = &rest[count..];
                }
            }
            Step::Write(data) => {
                // Held output (^S) is refused.
                let _ = nix::unistd::write(&pair.slave, data);
            }
            Step::Set(termios) => set_host(&pair, termios),
        }
        settle(&pair, &mut seen, patience);
    }
    seen.readable = usize::try_from(stdio::readable_bytes(pair.slave.as_fd()).unwrap()).unwrap();
    let mut buf = vec![0; room];
    while let Ok(count) = nix::unistd::read(&pair.slave, &mut buf) {
        seen.reads.push(buf[..count].to_vec());
        let raw = stdio::termios(pair.slave.as_fd()).unwrap()[12] & 2 == 0;
        if count == 0 && raw {
            seen.reads.pop();
            break;
        }
    }
    seen
}

fn set_host(pair: &OpenptyResult, t: &Termios) {
    let Termios { c_iflag, c_oflag, c_cflag, c_lflag, c_line, c_cc } = *t;
    let t = Termios2 { c_iflag, c_oflag, c_cflag, c_lflag, c_line, c_cc, c_ispeed: 38400, c_ospeed: 38400 };
    let mut bytes = [0; 44];
    bytes.copy_from_slice(t.as_bytes());
    stdio::set_termios(pair.slave.as_fd(), bytes).unwrap();
}

/// On a busy machine the host's worker may come late: a difference counts if it stays with more patience.
fn compare(steps: &[Step], room: usize) {
    let ours = Ours::run(steps, room);
    for patience in [600, 20_000] {
        if ours == theirs(steps, room, patience) {
            return;
        }
    }
    assert_eq!(ours, theirs(steps, room, 150_000), "{steps:?}");
}

fn set(edit: impl Fn(&mut Termios)) -> Step {
    let mut termios = Termios::PTY_SLAVE;
    edit(&mut termios);
    Step::Set(termios)
}

fn keys(keys: &[u8]) -> Step {
    Step::Type(keys.to_vec())
}

#[test]
fn canonical_editing() {
    let cases: &[&[u8]] = &[
        b"hello\n",
        b"hellp\x7fo\n",
        b"one two  three\x17\x17four\n",
        b"gone\x15kept\n",
        b"\x7f\x15\x17\n",
        b"a\tb\x7f\x7f\x7f\x7fc\n",
        b"abc\t\x7f\x7fx\n",
        b"\x01\x02\x7fz\n",
        b"lit\x16\x03eral\x16\n\n",
        b"re\x12print\n",
        b"end\x04",
        b"\x04",
        b"a\x04b\n\x04",
        b"cr\rnext\r",
        b"\xc3\xa9\x7fx\n",
        b"st\x13op\x11go\n",
        b"int\x03after\n",
        b"quit\x1cafter\n",
        b"susp\x1aafter\n",
        b"nul\0byte\n",
        b"two\nlines\nand a half",
        b"\xff\xfe\n",
    ];
    for case in cases {
        compare(&[keys(case)], 100);
        compare(&[keys(case)], 3);
    }
}

#[test]
fn settings_one_by_one() {
    let line: &[u8] = b"Ab\tc\x7f\x7f\x7fd e\x17\x01\r\nx\x15y\xc3\xa9\x7f\x16\x04z\x12\n\xff\xe1k\n";
    let input = [INLCR, IGNCR, ISTRIP, IUCLC, IUTF8, PARMRK, IXANY, IXOFF, IXON | ICRNL, ICRNL];
    for bit in input {
        compare(&[set(|t| t.c_iflag ^= bit), keys(line)], 100);
    }
    let local = [
        ECHO,
        ECHOE,
        ECHOK,
        ECHOCTL,
        ECHOKE,
        ECHONL,
        ECHOPRT,
        IEXTEN,
        NOFLSH,
        ECHO | ECHONL,
        ECHOE | ECHOPRT,
    ];
    for bit in local {
        compare(&[set(|t| t.c_lflag ^= bit), keys(line)], 100);
        compare(&[set(|t| t.c_lflag ^= bit | ICANON), keys(line)], 100);
    }
    let output = [OPOST, ONLCR, OCRNL, ONOCR, ONLRET, OLCUC, XTABS, ONLCR | ONLRET, OCRNL | ONLRET | ONLCR];
    for bit in output {
        let text = b"ab\tc\nx\ry\r\r\n\x08\x08q\tw\xc3\xa9\t\xe9\n".to_vec();
        let flags = [set(|t| t.c_oflag ^= bit), Step::Write(text), keys(line)];
        compare(&flags, 100);
    }
}

#[test]
fn changing_modes() {
    let raw = set(|t| t.c_lflag &= !ICANON);
    let canonical = set(|_| {});
    compare(&[keys(b"half"), raw.clone(), keys(b"more")], 100);
    compare(&[raw.clone(), keys(b"raw"), canonical.clone(), keys(b"line\n")], 100);
    compare(&[keys(b"line\nhalf"), raw.clone(), canonical.clone(), keys(b"x\n")], 100);
    compare(&[keys(b"held\x13more"), set(|t| t.c_iflag &= !IXON), keys(b"!\n")], 100);
    compare(&[keys(b"a\x13"), Step::Write(b"held".to_vec()), keys(b"b\x11c\n")], 100);
    let eol = set(|t| (t.c_cc[VEOL], t.c_cc[VEOL2]) = (b';', b','));
    compare(&[eol, keys(b"one;two,three\n")], 100);
}

#[test]
fn long_lines() {
    let mut long = vec![b'x'; 5000];
    compare(&[set(|t| t.c_lflag &= !ECHO), Step::Type(long.clone()), keys(b"tail\n")], 8192);
    long.truncate(4095);
    compare(&[set(|t| t.c_lflag &= !ECHO), Step::Type(long), keys(b"\n")], 8192);
}

/// xorshift64*: the same sequence every time.
struct Rng(u64);
impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % n
    }
}

#[test]
fn random_dialogues() {
    let mut rng = Rng(7);
    let special = b"\x03\x04\x7f\x15\x17\x12\x16\x13\x11\r\n\t \x01\x1a\0\xc3\xa9\xff;";
    for _ in 0..150 {
        let steps: Vec<Step> = (0..1 + rng.below(5))
            .map(|_| match rng.below(4) {
                0 => set(|_| {}),
                1 => Step::Write(
                    (0..rng.below(30)).map(|_| b"ab\n\r\t\x08Z\xe9"[rng.below(8) as usize]).collect(),
                ),
                2 => {
                    let mut t = Termios::PTY_SLAVE;
                    for _ in 0..rng.below(4) {
                        t.c_lflag ^= [
                            ICANON, ECHO, ECHOE, ECHOK, ECHOCTL, ECHOKE, ECHONL, ISIG, IEXTEN, NOFLSH,
                            ECHOPRT,
                        ][rng.below(11) as usize];
                        t.c_iflag ^=
                            [ICRNL, INLCR, IGNCR, ISTRIP, IUTF8, IXON, IXANY, IUCLC][rng.below(8) as usize];
                        t.c_oflag ^=
                            [OPOST, ONLCR, OCRNL, ONOCR, ONLRET, OLCUC, XTABS][rng.below(7) as usize];
                    }
                    t.c_cc[VEOL] = [0, b';'][rng.below(2) as usize];
                    Step::Set(t)
                }
                _ => Step::Type(
                    (0..rng.below(40))
                        .map(|_| {
                            if rng.below(3) == 0 {
                                special[rng.below(special.len() as u64) as usize]
                            } else {
                                b"abcXYZ09_-"[rng.below(10) as usize]
                            }
                        })
                        .collect(),
                ),
            })
            .filter(|step| !matches!(step, Step::Type(keys) if keys.is_empty()))
            .collect();
        compare(&steps, 1 + rng.below(60) as usize);
    }
}
