//! The socket that hears of changes, and lists what there is.

use super::known::{Known, News};
use chitin_abi::netlink::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTI, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, RTM_GETADDR,
    RTM_GETLINK, RTM_GETROUTE,
};
use chitin_control::rtnetlink::{AF_INET, AF_INET6, Message};
use nix::sys::socket::{MsgFlags, recv, send};
use std::os::fd::{AsRawFd, OwnedFd};

/// The kernel sends no more at a time.
const ROOM: usize = 64 << 10;

pub struct Listing {
    socket: OwnedFd,
    room: Vec<u8>,
    sequence: u32,
}

impl Listing {
    pub fn new(socket: OwnedFd) -> Listing {
        Listing { socket, room: vec![0; ROOM], sequence: 0 }
    }

    fn recv(&mut self, flags: MsgFlags) -> nix::Result<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.room, flags) {
                Err(nix::Error::EINTR) => {}
                other => return other,
            }
        }
    }

    /// The messages of the first `count` bytes.
    fn messages(&self, count: usize) -> impl Iterator<Item = Message<'_>> {
        let mut rest = self.room.get(..count).unwrap_or_default();
        std::iter::from_fn(move || Message::split(&mut rest))
    }

    /// News among them; parts of a list are none.
    fn heard(&self, count: usize) -> Vec<News> {
        let all = self.messages(count).filter(|message| message.flags & NLM_F_MULTI == 0);
        all.filter_map(|message| News::of(&message)).collect()
    }

    /// Waits for news. ENOBUFS: some are lost.
    pub fn next(&mut self) -> nix::Result<Vec<News>> {
        let count = self.recv(MsgFlags::empty())?;
        Ok(self.heard(count))
    }

    /// What waits by now.
    pub fn waiting(&mut self) -> nix::Result<Vec<News>> {
        let mut all = Vec::new();
        loop {
            match self.recv(MsgFlags::MSG_DONTWAIT) {
                Ok(count) => all.extend(self.heard(count)),
                Err(nix::Error::EAGAIN) => return Ok(all),
                // What was heard before it counts nevertheless.
                Err(nix::Error::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What there is, and what was heard meanwhile, which is as new or newer.
    pub fn list(&mut self) -> nix::Result<(Known, Vec<News>)> {
        let (mut now, mut heard) = (Known::default(), Vec::new());
        self.dump(RTM_GETLINK, &[0; 16], &mut now, &mut heard)?;
        self.dump(RTM_GETADDR, &[0; 8], &mut now, &mut heard)?;
        for family in [AF_INET, AF_INET6] {
            let mut head = [0; 12];
            head[0] = family;
            match self.dump(RTM_GETROUTE, &head, &mut now, &mut heard) {
                // A kernel without IPv6.
                Err(nix::Error::EOPNOTSUPP) if family == AF_INET6 => {}
                other => other?,
            }
        }
        Ok((now, heard))
    }

    fn dump(&mut self, kind: u16, head: &[u8], now: &mut Known, heard: &mut Vec<News>) -> nix::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(head.len().saturating_add(16)).map_err(|_| nix::Error::EINVAL)?;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        request.extend_from_slice(&self.sequence.to_ne_bytes());
        request.extend_from_slice(&[0; 4]);
        request.extend_from_slice(head);
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut torn = false;
        loop {
            let count = self.recv(MsgFlags::empty())?;
            heard.extend(self.heard(count));
            for message in self.messages(count).filter(|message| message.sequence == self.sequence) {
                let code = message.body.first_chunk().map_or(0, |raw| i32::from_ne_bytes(*raw));
                torn |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR if code != 0 => {
                        return Err(nix::Error::from_raw(code.wrapping_neg()));
                    }
                    // It has changed while it was listed.
                    NLMSG_DONE if torn => return Err(nix::Error::EAGAIN),
                    NLMSG_DONE | NLMSG_ERROR => return Ok(()),
                    _ if message.flags & NLM_F_MULTI != 0 => {
                        News::of(&message).iter().for_each(|news| now.note(news));
                    }
                    _ => {}
                }
            }
        }
    }
}
