//! Ancillary data (cmsg(3)): parsing what sendmsg(2) brings and encoding what recvmsg(2) hands out.
//!
//! Neighbours: the syscalls crate copies the bytes from and to the guest and knows descriptors; the families move
//! [`Control`] with their messages.

use chitin_abi::Errno;
use chitin_abi::capability::{CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN};
use chitin_abi::socket::*;
use chitin_vfs::File;
use chitin_vfs::walk::Caller;
use std::sync::Arc;
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of a control message's head.
const HEAD: usize = size_of::<CmsgHdr>();

/// The ancillary data of a message.
#[derive(Clone, Default)]
pub struct Control {
    /// SCM_RIGHTS, at most [`SCM_MAX_FD`].
    pub rights: Vec<Arc<File>>,
    /// SCM_CREDENTIALS.
    pub creds: Option<Ucred>,
    /// Whatever else a family hands out on receiving, or gets to send with: level, type, data.
    pub other: Vec<(u32, u32, Vec<u8>)>,
}

/// A control message as found in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cmsg<'a> {
    pub level: u32,
    pub kind: u32,
    pub data: &'a [u8],
}

/// Splits a buffer into control messages: EINVAL where a length makes no sense.
pub fn messages(raw: &[u8]) -> impl Iterator<Item = Result<Cmsg<'_>, Errno>> {
    let mut rest = Some(raw);
    std::iter::from_fn(move || {
        let raw = rest.take()?;
        let (head, _) = CmsgHdr::read_from_prefix(raw).ok()?;
        let data = usize::try_from(head.cmsg_len).ok().and_then(|len| raw.get(HEAD..len));
        let Some(data) = data else { return Some(Err(Errno::EINVAL)) };
        rest = CMSG_ALIGN(HEAD.saturating_add(data.len())).and_then(|next| raw.get(next..));
        Some(Ok(Cmsg { level: head.cmsg_level, kind: head.cmsg_type, data }))
    })
}

/// Whether a sender may claim to be `creds` (scm_check_creds()).
fn check_creds(creds: &Ucred, caller: &Caller) -> Result<(), Errno> {
    let own = &caller.creds;
    let pid = creds.pid == caller.tgid || own.capable(CAP_SYS_ADMIN);
    let uid = [own.uid, own.euid, own.suid].contains(&creds.uid) || own.capable_here(CAP_SETUID);
    let gid = [own.gid, own.egid, own.sgid].contains(&creds.gid) || own.capable_here(CAP_SETGID);
    if pid && uid && gid { Ok(()) } else { Err(Errno::EPERM) }
}

impl Control {
    pub fn is_empty(&self) -> bool {
        self.rights.is_empty() && self.creds.is_none() && self.other.is_empty()
    }

    /// __scm_send(): from the bytes of msg_control. `file` finds a descriptor's file (EBADF); `process` the kernel id
    /// of a process that the caller knows by a number. Messages of other levels are the internet families' to judge, and
    /// passed over by others.
    pub fn parse(
        raw: &[u8],
        family: u32,
        caller: &Caller,
        file: &mut dyn FnMut(i32) -> Result<Arc<File>, Errno>,
        process: &dyn Fn(i32) -> Option<i32>,
    ) -> Result<Control, Errno> {
        let mut control = Control::default();
        for message in messages(raw) {
            let message = message?;
            let inet = matches!(family, AF_INET | AF_INET6);
            if message.level != SOL_SOCKET {
                if inet {
                    control.other.push((message.level, message.kind, message.data.to_vec()));
                }
                continue;
            }
            match message.kind {
                // They mean nothing there, but are no mistake either (__sock_cmsg_send()).
                SCM_RIGHTS | SCM_CREDENTIALS | SO_MARK | SO_TIMESTAMPING_OLD | SCM_TXTIME if inet => {}
                SCM_RIGHTS if family == AF_UNIX => {
                    let count = message.data.len() / size_of::<i32>();
                    if control.rights.len().saturating_add(count) > SCM_MAX_FD {
                        return Err(Errno::EINVAL);
                    }
                    for fd in message.data.as_chunks::<4>().0 {
                        control.rights.push(file(i32::from_ne_bytes(*fd))?);
                    }
                }
                SCM_CREDENTIALS => {
                    if message.data.len() != size_of::<Ucred>() {
                        return Err(Errno::EINVAL);
                    }
                    let creds = Ucred::read_from_bytes(message.data).map_err(|_| Errno::EINVAL)?;
                    let pid = process(creds.pid);
                    let ns = &caller.creds.user_ns;
                    let uid = ns.kuid(creds.uid).ok_or(Errno::EINVAL)?;
                    let creds =
                        Ucred { pid: pid.unwrap_or(0), uid, gid: ns.kgid(creds.gid).ok_or(Errno::EINVAL)? };
                    check_creds(&creds, caller)?;
                    pid.ok_or(Errno::ESRCH)?;
                    control.creds = Some(creds);
                }
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(control)
    }

    /// scm_recv(): the bytes for a buffer of `room` bytes (0: there is none) and MSG_CTRUNC if not all fit. `install`
    /// gives a file a descriptor; the first failure ends the descriptors.
    pub fn encode(
        self,
        room: usize,
        install: &mut dyn FnMut(Arc<File>) -> Result<i32, Errno>,
    ) -> (Vec<u8>, u32) {
        let mut out = Writer { raw: Vec::new(), room, flags: 0 };
        for (level, kind, data) in &self.other {
            out.put(*level, *kind, data);
        }
        if let Some(creds) = self.creds {
            out.put(SOL_SOCKET, SCM_CREDENTIALS, creds.as_bytes());
        }
        let count = self.rights.len();
        if count > 0 {
            let fits = out.room.saturating_sub(HEAD) / size_of::<i32>();
            let mut fds: Vec<u8> = Vec::new();
            for file in self.rights.into_iter().take(fits) {
                match install(file) {
                    Ok(fd) => fds.extend_from_slice(&fd.to_ne_bytes()),
                    Err(_) => break,
                }
            }
            if fds.len() / size_of::<i32>() < count {
                out.flags |= MSG_CTRUNC;
            }
            if !fds.is_empty() {
                out.put(SOL_SOCKET, SCM_RIGHTS, &fds);
            }
        }
        (out.raw, out.flags)
    }
}

/// Builds a buffer of control messages (put_cmsg()).
struct Writer {
    raw: Vec<u8>,
    room: usize,
    flags: u32,
}

impl Writer {
    fn put(&mut self, level: u32, kind: u32, data: &[u8]) {
        if self.room < HEAD {
            self.flags |= MSG_CTRUNC;
            return;
        }
        let mut len = HEAD.saturating_add(data.len());
        if len > self.room {
            self.flags |= MSG_CTRUNC;
            len = self.room;
        }
        let head = CmsgHdr { cmsg_len: len as u64, cmsg_level: level, cmsg_type: kind };
        let start = self.raw.len();
        self.raw.extend_from_slice(head.as_bytes());
        self.raw.extend_from_slice(data.get(..len - HEAD).unwrap_or(data));
        let space = CMSG_ALIGN(HEAD.saturating_add(data.len())).unwrap_or(len).min(self.room);
        self.raw.resize(start + space, 0);
        self.room -= space;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_vfs::{Caps, Creds, FileOps};

    struct Nothing;
    impl FileOps for Nothing {}

    /// Any buffer splits into messages that lie within it, and ends.
    #[test]
    fn noise_splits() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % limit as u64).unwrap()
        };
        let mut found = 0;
        for _ in 0..200_000 {
            let mut raw: Vec<u8> = (0..next(120)).map(|_| next(256).to_le_bytes()[0]).collect();
            // Lengths that are about right, or not at all.
            for at in (0..raw.len()).step_by(8) {
                let len: u64 = if next(16) == 0 { u64::MAX - next(32) as u64 } else { next(64) as u64 };
                raw.iter_mut().skip(at).zip(len.to_ne_bytes()).for_each(|(to, from)| *to = from);
            }
            let split: Vec<_> = messages(&raw).collect();
            assert!(split.len() <= raw.len() / HEAD);
            let bytes: usize = split.iter().flatten().map(|message| HEAD + message.data.len()).sum();
            assert!(bytes <= raw.len(), "{raw:?}");
            // An error is the last.
            assert!(split.iter().rev().skip(1).all(Result::is_ok));
            found += split.iter().flatten().count();
        }
        assert!(found > 10_000, "{found}");
    }

    fn caller(root: bool) -> Caller {
        let mut creds = Creds::root();
        if !root {
            (creds.uid, creds.euid, creds.suid, creds.gid, creds.egid, creds.sgid) = (7, 7, 7, 8, 8, 8);
            creds.effective = Caps::EMPTY;
        }
        Caller { tgid: 5, tid: 5, creds: Arc::new(creds) }
    }

    fn cmsg(level: u32, kind: u32, data: &[u8]) -> Vec<u8> {
        let mut out = Writer { raw: Vec::new(), room: 4096, flags: 0 };
        out.put(level, kind, data);
        out.raw
    }

    fn parse(raw: &[u8], root: bool) -> Result<Control, Errno> {
        let mut file =
            |fd: i32| if fd < 100 { Ok(File::anon(Arc::new(Nothing), "[x]", 0)) } else { Err(Errno::EBADF) };
        Control::parse(raw, AF_UNIX, &caller(root), &mut file, &|pid| (pid != 99).then_some(pid))
    }

    #[test]
    fn parses_with_linux_errors() {
        let fds = |n: usize| vec![0u8; 4 * n];
        assert_eq!(parse(&cmsg(SOL_SOCKET, SCM_RIGHTS, &fds(3)), false).unwrap().rights.len(), 3);
        let mut two = cmsg(SOL_SOCKET, SCM_RIGHTS, &fds(1));
        two.extend(cmsg(SOL_SOCKET, SCM_RIGHTS, &fds(2)));
        assert_eq!(parse(&two, false).unwrap().rights.len(), 3);
        assert_eq!(parse(&cmsg(SOL_SOCKET, SCM_RIGHTS, &fds(254)), false).err(), Some(Errno::EINVAL));
        let bad = 100i32.to_ne_bytes();
        assert_eq!(parse(&cmsg(SOL_SOCKET, SCM_RIGHTS, &bad), false).err(), Some(Errno::EBADF));
        assert!(parse(&cmsg(SOL_IP, 1234, b"x"), false).unwrap().is_empty());
        assert_eq!(parse(&cmsg(SOL_SOCKET, 77, b""), false).err(), Some(Errno::EINVAL));
        let mut long = cmsg(SOL_SOCKET, SCM_RIGHTS, &fds(1));
        long[0] = 200;
        assert_eq!(parse(&long, false).err(), Some(Errno::EINVAL));
        long[0] = 3;
        assert_eq!(parse(&long, false).err(), Some(Errno::EINVAL));
        long[0..8].fill(0xff);
        assert_eq!(parse(&long, false).err(), Some(Errno::EINVAL));
        let creds = |pid, uid, gid| cmsg(SOL_SOCKET, SCM_CREDENTIALS, Ucred { pid, uid, gid }.as_bytes());
        assert!(parse(&creds(5, 7, 8), false).unwrap().creds.is_some());
        assert_eq!(parse(&creds(6, 7, 8), false).err(), Some(Errno::EPERM));
        assert_eq!(parse(&creds(5, 0, 8), false).err(), Some(Errno::EPERM));
        assert_eq!(parse(&creds(99, 0, 8), true).err(), Some(Errno::ESRCH));
    }

    #[test]
    fn encodes_with_truncation() {
        let file = || File::anon(Arc::new(Nothing), "[x]", 0);
        let full = || Control {
            rights: vec![file(), file(), file()],
            creds: Some(Ucred { pid: 1, uid: 2, gid: 3 }),
            other: Vec::new(),
        };
        let run = |room| {
            let mut next = 10;
            full().encode(room, &mut |_| {
                next += 1;
                Ok(next)
            })
        };
        let (raw, flags) = run(64);
        assert_eq!((raw.len(), flags), (32 + 32, 0));
        let found: Vec<_> = messages(&raw).map(Result::unwrap).collect();
        assert_eq!((found[0].kind, found[0].data.len()), (SCM_CREDENTIALS, 12));
        assert_eq!((found[1].kind, found[1].data.len()), (SCM_RIGHTS, 12));
        // Room for the credentials and two descriptors only; CMSG_SPACE is cut short too.
        let (raw, flags) = run(32 + 16 + 11);
        assert_eq!((raw.len(), flags), (32 + 24, MSG_CTRUNC));
        let (raw, flags) = run(20);
        assert_eq!((raw.len(), flags), (20, MSG_CTRUNC));
        assert_eq!(run(0), (Vec::new(), MSG_CTRUNC));
        let (raw, flags) = full().encode(64, &mut |_| Err(Errno::EMFILE));
        assert_eq!((raw.len(), flags), (32, MSG_CTRUNC));
    }
}
