//! The stand-in's program, as bytes to be executed, and the orders that it is given; and a second one of its kind, the
//! name proxy's ([`names`]).
//!
//! A stand-in is a host process that engines take for a guest process (`sandbox/stand_in.rs` in the runtime). There may
//! be many of them, so it is a freestanding program of a few pages (`program/main.rs`), without a C library and without an
//! allocator, rather than this binary once more.

pub mod layout;
pub mod names;

use layout::{MAGIC, MAX, NONE, PARTS, head, step};
use std::os::fd::{AsRawFd, BorrowedFd};

/// An ELF executable.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stand_in"));

/// What a stand-in is told.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// Where the process was started, with no request under way.
    pub connection: BorrowedFd<'a>,
    /// A second connection, for signals.
    pub post: BorrowedFd<'a>,
    pub ready: BorrowedFd<'a>,
    pub namespace: Option<BorrowedFd<'a>>,
    pub view: Option<BorrowedFd<'a>>,
    pub user: Option<u32>,
    /// A seccomp program, as the host's kernel takes it.
    pub filter: &'a [u8],
    /// The request to wait for the process's end.
    pub wait: &'a [u8],
    /// Requests that pass on a signal of kill(2) and one of the terminal, cut where the signal's number stands.
    pub signal: (&'a [u8], &'a [u8]),
    pub terminal: (&'a [u8], &'a [u8]),
}

impl Order<'_> {
    /// `None`: it is too long.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let number = |fd: BorrowedFd<'_>| fd.as_raw_fd().cast_unsigned();
        let parts: [&[u8]; PARTS] =
            [self.filter, self.wait, self.signal.0, self.signal.1, self.terminal.0, self.terminal.1];
        let mut words = [0u32; head::COUNT];
        words[head::MAGIC] = MAGIC;
        words[head::CONNECTION] = number(self.connection);
        words[head::POST] = number(self.post);
        words[head::READY] = number(self.ready);
        words[head::NAMESPACE] = self.namespace.map_or(NONE, number);
        words[head::VIEW] = self.view.map_or(NONE, number);
        words[head::USER] = self.user.unwrap_or(NONE);
        for (word, part) in words.iter_mut().skip(head::LENGTHS).zip(parts) {
            *word = u32::try_from(part.len()).ok()?;
        }
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        (bytes.len() <= MAX).then_some(bytes)
    }
}

/// What a step that failed was about.
pub fn step_name(number: u8) -> &'static str {
    match number {
        step::SIGNALS => "catching signals",
        step::NAMESPACE => "entering the sandbox's mount namespace (setns)",
        step::VIEW => "mounting the view of the container's files",
        step::PRIVILEGES => "giving up privileges",
        step::FILTER => "installing its seccomp list",
        _ => "an unknown step",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_program_is_small_and_stands_alone() {
        assert!(PROGRAM.starts_with(b"\x7fELF"));
        assert!(PROGRAM.len() < 32 << 10, "{} bytes", PROGRAM.len());
        let kind = u16::from_le_bytes([PROGRAM[16], PROGRAM[17]]);
        assert_eq!(kind, 2, "ET_EXEC: nothing to relocate");
    }

    #[test]
    fn orders_have_a_head_and_parts() {
        let stdin = std::io::stdin();
        let order = Order {
            connection: stdin.as_fd(),
            post: stdin.as_fd(),
            ready: stdin.as_fd(),
            namespace: None,
            view: Some(stdin.as_fd()),
            user: None,
            filter: b"12345678",
            wait: b"wait\n",
            signal: (b"s", b"t"),
            terminal: (b"u", b"v"),
        };
        let bytes = order.encode().unwrap();
        assert_eq!(bytes.len(), 4 * head::COUNT + 8 + 5 + 4);
        assert!(bytes.ends_with(b"12345678wait\nstuv"));
        assert!(Order { wait: &[0; MAX], ..order }.encode().is_none());
    }
}
