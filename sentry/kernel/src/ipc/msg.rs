//! Message queues (ipc/msg.c).

use super::ids::{Ids, Perm, PermChange};
use super::now;
use crate::{Restart, SysError, Task};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_SYS_RESOURCE;
use chitin_abi::ipc::*;
use chitin_abi::num::low16;
use chitin_vfs::bounds::{MESSAGE_BYTES, Share};
use chitin_vfs::{Creds, WaitQueue};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;

/// What a message takes up beside its text.
const HEAD: usize = 64;

/// A message.
pub struct Message {
    pub kind: i64,
    pub text: Vec<u8>,
    /// Its part of what all messages may take up; a copy has none.
    share: Option<Share>,
}

struct State {
    perm: Perm,
    stime: i64,
    rtime: i64,
    ctime: i64,
    bytes: usize,
    max_bytes: usize,
    last_sender: i32,
    last_receiver: i32,
    messages: VecDeque<Message>,
    removed: bool,
}

struct Queue {
    id: i32,
    state: Mutex<State>,
    /// Woken when a message comes, when one is taken, and at the end.
    senders: WaitQueue,
    receivers: WaitQueue,
}

/// All queues.
pub struct Table {
    ids: Mutex<Ids<Queue>>,
}

impl Default for Table {
    fn default() -> Self {
        Table { ids: Mutex::new(Ids::new(MSGMNI)) }
    }
}

/// What msgrcv(2) asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub kind: i64,
    pub room: usize,
    pub flags: u32,
}

impl State {
    fn stat(&self) -> MsqidDs {
        MsqidDs {
            msg_perm: self.perm.abi(),
            msg_stime: self.stime,
            msg_rtime: self.rtime,
            msg_ctime: self.ctime,
            msg_cbytes: self.bytes as u64,
            msg_qnum: self.messages.len() as u64,
            msg_qbytes: self.max_bytes as u64,
            msg_lspid: self.last_sender,
            msg_lrpid: self.last_receiver,
            ..MsqidDs::default()
        }
    }

    /// find_msg(): where the message is that `wanted` means.
    fn choose(&self, wanted: &Wanted) -> Option<usize> {
        let kinds = || self.messages.iter().map(|message| message.kind).enumerate();
        let kind = wanted.kind;
        if wanted.flags & MSG_COPY != 0 {
            return usize::try_from(kind).ok().filter(|&at| at < self.messages.len());
        }
        match kind {
            0 => kinds().next(),
            1.. if wanted.flags & MSG_EXCEPT != 0 => kinds().find(|&(_, other)| other != kind),
            1.. => kinds().find(|&(_, other)| other == kind),
            // The lowest type of those up to this; the first of its kind.
            _ => kinds().filter(|&(_, other)| other <= kind.saturating_neg()).min_by_key(|&(_, other)| other),
        }
        .map(|(at, _)| at)
    }

    fn send(&mut self, slot: &mut Option<Message>, creds: &Creds, pid: i32) -> Result<(), Errno> {
        self.perm.check(creds, 0o222)?;
        if self.removed {
            return Err(Errno::EIDRM);
        }
        let Some(len) = slot.as_ref().map(|message| message.text.len()) else { return Ok(()) };
        let fits = self.bytes.saturating_add(len) <= self.max_bytes && self.messages.len() < self.max_bytes;
        if !fits {
            return Err(Errno::EAGAIN);
        }
        self.messages.extend(slot.take());
        self.bytes = self.bytes.saturating_add(len);
        self.last_sender = pid;
        self.stime = now();
        Ok(())
    }

    fn receive(&mut self, wanted: &Wanted, creds: &Creds, pid: i32) -> Result<Message, Errno> {
        self.perm.check(creds, 0o444)?;
        if self.removed {
            return Err(Errno::EIDRM);
        }
        let at = self.choose(wanted).ok_or(Errno::ENOMSG)?;
        let found = self.messages.get(at).ok_or(Errno::ENOMSG)?;
        if found.text.len() > wanted.room && wanted.flags & MSG_NOERROR == 0 {
            return Err(Errno::E2BIG);
        }
        if wanted.flags & MSG_COPY != 0 {
            return Ok(Message { kind: found.kind, text: found.text.clone(), share: None });
        }
        let message = self.messages.remove(at).ok_or(Errno::ENOMSG)?;
        self.bytes = self.bytes.saturating_sub(message.text.len());
        self.last_receiver = pid;
        self.rtime = now();
        Ok(message)
    }
}

impl Table {
    fn find(&self, id: i32) -> Result<Arc<Queue>, Errno> {
        self.ids.lock().get(id)
    }

    /// msgget(2).
    pub fn get(&self, creds: &Creds, key: i32, flags: u32) -> Result<i32, Errno> {
        let mut ids = self.ids.lock();
        if let Some(queue) = ids.find(key, flags)? {
            queue.state.lock().perm.check(creds, flags)?;
            return Ok(queue.id);
        }
        let make = |id| {
            let state = State {
                perm: Perm::new(key, flags, creds, id),
                stime: 0,
                rtime: 0,
                ctime: now(),
                bytes: 0,
                max_bytes: MSGMNB as usize,
                last_sender: 0,
                last_receiver: 0,
                messages: VecDeque::new(),
                removed: false,
            };
            let (senders, receivers) = (WaitQueue::new(), WaitQueue::new());
            Ok(Queue { id, state: Mutex::new(state), senders, receivers })
        };
        Ok(ids.insert(key, make)?.0)
    }

    /// IPC_INFO, and MSG_INFO with what is in use.
    pub fn info(&self, usage: bool) -> (MsgInfo, i32) {
        let ids = self.ids.lock();
        let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let mut info = MsgInfo {
            msgpool: MSGPOOL.cast_signed(),
            msgmap: MSGMAP.cast_signed(),
            msgmax: MSGMAX.cast_signed(),
            msgmnb: MSGMNB.cast_signed(),
            msgmni: MSGMNI.cast_signed(),
            msgssz: MSGSSZ.cast_signed(),
            msgtql: MSGTQL.cast_signed(),
            msgseg: low16(MSGSEG),
            ..MsgInfo::default()
        };
        if usage {
            let (mut count, mut bytes) = (0usize, 0usize);
            for queue in ids.all() {
                let state = queue.state.lock();
                count = count.saturating_add(state.messages.len());
                bytes = bytes.saturating_add(state.bytes);
            }
            (info.msgpool, info.msgmap, info.msgtql) = (int(ids.len()), int(count), int(bytes));
        }
        (info, ids.highest())
    }

    pub fn stat(&self, creds: &Creds, id: i32) -> Result<MsqidDs, Errno> {
        let queue = self.find(id)?;
        let state = queue.state.lock();
        state.perm.check(creds, 0o444)?;
        Ok(state.stat())
    }

    /// MSG_STAT and MSG_STAT_ANY (`creds` is `None`): the id too.
    pub fn stat_index(&self, creds: Option<&Creds>, index: i32) -> Result<(MsqidDs, i32), Errno> {
        let (id, queue) = self.ids.lock().at_index(index)?;
        let state = queue.state.lock();
        if let Some(creds) = creds {
            state.perm.check(creds, 0o444)?;
        }
        Ok((state.stat(), id))
    }

    /// IPC_SET: the limit of bytes too.
    pub fn set(&self, creds: &Creds, id: i32, change: &PermChange, max_bytes: u64) -> Result<(), Errno> {
        let queue = self.find(id)?;
        {
            let mut state = queue.state.lock();
            state.perm.check_control(creds)?;
            if max_bytes > u64::from(MSGMNB) && !creds.capable(CAP_SYS_RESOURCE) {
                return Err(Errno::EPERM);
            }
            state.perm.change(change)?;
            state.max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
            state.ctime = now();
        }
        // Whoever waits may no longer be allowed to, or have room now.
        queue.senders.wake(0);
        queue.receivers.wake(0);
        Ok(())
    }

    pub fn remove(&self, creds: &Creds, id: i32) -> Result<(), Errno> {
        let (queue, lost) = {
            let mut ids = self.ids.lock();
            let queue = ids.get(id)?;
            let mut state = queue.state.lock();
            state.perm.check_control(creds)?;
            ids.remove(state.perm.key, id);
            state.removed = true;
            let lost = std::mem::take(&mut state.messages);
            drop(state);
            (queue, lost)
        };
        drop(lost);
        queue.senders.wake(0);
        queue.receivers.wake(0);
        Ok(())
    }

    /// /proc/sysvipc/msg.
    pub(super) fn text(&self, nr: &dyn Fn(i32) -> i32) -> String {
        let mut text = String::from(
            "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      \
             stime      rtime      ctime\n",
        );
        let all = self.ids.lock().all();
        for queue in all {
            let ds = queue.state.lock().stat();
            let perm = ds.msg_perm;
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{:10} {:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}",
                perm.key,
                queue.id,
                perm.mode,
                ds.msg_cbytes,
                ds.msg_qnum,
                nr(ds.msg_lspid),
                nr(ds.msg_lrpid),
                perm.uid,
                perm.gid,
                perm.cuid,
                perm.cgid,
                ds.msg_stime,
                ds.msg_rtime,
                ds.msg_ctime,
            );
        }
        text
    }
}

/// msgsnd(2). The caller has checked the type and the length.
pub async fn send(task: &Arc<Task>, id: i32, kind: i64, text: Vec<u8>, flags: u32) -> Result<(), SysError> {
    let ipc = task.ipc();
    let table = &ipc.msg;
    let queue = table.find(id)?;
    let share = MESSAGE_BYTES.share(text.len().saturating_add(HEAD)).ok_or(Errno::ENOMEM)?;
    let creds = task.ipc_creds();
    let mut slot = Some(Message { kind, text, share: Some(share) });
    let mut attempt = || match queue.state.lock().send(&mut slot, &creds, task.process.kid()) {
        Err(Errno::EAGAIN) if flags & IPC_NOWAIT == 0 => None,
        result => Some(result),
    };
    let result = match attempt() {
        Some(result) => result,
        None => match task.interruptible(queue.senders.wait_until(attempt)).await {
            Ok(result) => result,
            Err(_) => return Err(SysError::Restart(Restart::NoHand)),
        },
    };
    result?;
    queue.receivers.wake(0);
    Ok(())
}

/// msgrcv(2).
pub async fn receive(task: &Arc<Task>, id: i32, wanted: Wanted) -> Result<Message, SysError> {
    let queue = task.ipc().msg.find(id)?;
    let creds = task.ipc_creds();
    let attempt = || match queue.state.lock().receive(&wanted, &creds, task.process.kid()) {
        Err(Errno::ENOMSG) if wanted.flags & IPC_NOWAIT == 0 => None,
        result => Some(result),
    };
    let result = match attempt() {
        Some(result) => result,
        None => match task.interruptible(queue.receivers.wait_until(attempt)).await {
            Ok(result) => result,
            Err(_) => return Err(SysError::Restart(Restart::NoHand)),
        },
    };
    let mut message = result?;
    if message.share.take().is_some() {
        queue.senders.wake(0);
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: i64, text: &[u8]) -> Option<Message> {
        Some(Message { kind, text: text.to_vec(), share: None })
    }

    fn wanted(kind: i64, room: usize, flags: u32) -> Wanted {
        Wanted { kind, room, flags }
    }

    #[test]
    fn choosing() {
        let table = Table::default();
        let root = Creds::root();
        let id = table.get(&root, 3, IPC_CREAT | 0o600).unwrap();
        let queue = table.find(id).unwrap();
        let mut state = queue.state.lock();
        for (kind, text) in [(3, b"three"), (1, b"one.."), (2, b"two.."), (1, b"uno..")] {
            state.send(&mut message(kind, text), &root, 4).unwrap();
        }
        let mut take = |kind, flags| state.receive(&wanted(kind, 5, flags), &root, 5).map(|m| m.text);
        assert_eq!(take(2, MSG_COPY | IPC_NOWAIT).unwrap(), b"two..");
        assert_eq!(take(4, MSG_COPY | IPC_NOWAIT), Err(Errno::ENOMSG));
        assert_eq!(take(-2, 0).unwrap(), b"one..");
        assert_eq!(take(i64::MIN, 0).unwrap(), b"uno..");
        assert_eq!(take(3, MSG_EXCEPT).unwrap(), b"two..");
        assert_eq!(take(9, 0), Err(Errno::ENOMSG));
        assert_eq!(state.receive(&wanted(0, 4, 0), &root, 5).err(), Some(Errno::E2BIG));
        assert_eq!(state.receive(&wanted(0, 4, MSG_NOERROR), &root, 5).unwrap().kind, 3);
        assert_eq!((state.bytes, state.last_sender, state.last_receiver), (0, 4, 5));
    }

    #[test]
    fn limits() {
        let table = Table::default();
        let root = Creds::root();
        let id = table.get(&root, IPC_PRIVATE, 0o600).unwrap();
        let change = PermChange { uid: 1, gid: 2, mode: 0o666 };
        table.set(&root, id, &change, 6).unwrap();
        let queue = table.find(id).unwrap();
        let mut one = message(1, b"1234");
        queue.state.lock().send(&mut one, &root, 4).unwrap();
        let mut two = message(1, b"123");
        assert_eq!(queue.state.lock().send(&mut two, &root, 4), Err(Errno::EAGAIN));
        assert!(two.is_some());
        assert_eq!(table.stat(&root, id).unwrap().msg_qnum, 1);
        assert_eq!(table.text(&|kid| kid).lines().count(), 2);
        table.remove(&root, id).unwrap();
        assert_eq!(queue.state.lock().send(&mut two, &root, 4), Err(Errno::EIDRM));
    }
}
