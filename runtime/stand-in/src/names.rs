//! The name proxy: makes sockets in a container's network namespace that are connected to one name server.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::layout::NONE;
use crate::layout::names::{ADDRESS, MAGIC, head};

/// An ELF executable.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/name_proxy"));

/// What it is told.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// Where requests come from and answers go.
    pub socket: BorrowedFd<'a>,
    /// The namespaces to live in, unless they are those of whoever starts it.
    pub network: Option<BorrowedFd<'a>>,
    pub mounts: Option<BorrowedFd<'a>>,
    pub user: Option<u32>,
    /// The IPv4 name server, as the end of a request has it.
    pub to: [u8; ADDRESS],
    /// A seccomp program, as the host's kernel takes it.
    pub filter: &'a [u8],
}

impl Order<'_> {
    pub fn encode(&self) -> Vec<u8> {
        let number = |fd: BorrowedFd<'_>| fd.as_raw_fd().cast_unsigned();
        let mut words = [0u32; head::COUNT];
        words[head::MAGIC] = MAGIC;
        words[head::SOCKET] = number(self.socket);
        words[head::NETWORK] = self.network.map_or(NONE, number);
        words[head::MOUNTS] = self.mounts.map_or(NONE, number);
        words[head::USER] = self.user.unwrap_or(NONE);
        let head = words.iter().flat_map(|word| word.to_ne_bytes());
        head.chain(self.to).chain(self.filter.iter().copied()).collect()
    }
}
