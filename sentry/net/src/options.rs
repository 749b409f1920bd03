//! Options of SOL_SOCKET (socket(7)), alike in all families.
//!
//! Locks: `Common::options` is a leaf; what messages look at on their way is atomic, and changes under it.

use crate::NetNs;
use crate::completions::Completions;
use crate::filter::{Packet, Program};
use crate::inet::ports::{REUSE_ADDR, REUSE_PORT};
use crate::socket::SocketOps;
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_NET_ADMIN, CAP_NET_RAW};
use chitin_abi::seccomp::SockFilter;
use chitin_abi::socket::*;
use chitin_abi::time::Timeval;
use chitin_vfs::walk::Caller;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

/// net.core.{w,r}mem_{default,max}.
pub const MEM_MAX: usize = 212_992;
/// SOCK_MIN_SNDBUF and SOCK_MIN_RCVBUF.
const MIN_SNDBUF: usize = 4608;
const MIN_RCVBUF: usize = 2304;
/// SOCK_SNDBUF_LOCK and SOCK_RCVBUF_LOCK.
const BUF_LOCKS: i32 = 3;

/// What every socket has, whatever its family.
pub struct Common {
    pub ns: Arc<NetNs>,
    pub family: u32,
    /// SOCK_*.
    pub kind: u32,
    pub protocol: u32,
    /// Who made it: plain write(2) sends as this process.
    pub creator: Ucred,
    cookie: u64,
    /// The inode of the descriptor; 0 while there is none.
    pub(crate) ino: AtomicU64,
    pub(crate) nonblocking: AtomicBool,
    pub(crate) sndbuf: Arc<AtomicUsize>,
    rcvbuf: AtomicUsize,
    rcvlowat: AtomicUsize,
    /// SO_REUSEADDR and SO_REUSEPORT, for whoever compares ports.
    pub(crate) reuse: Arc<AtomicU32>,
    pub(crate) passcred: AtomicBool,
    /// SO_PEEK_OFF; -1: off.
    pub(crate) peek_off: AtomicI32,
    pub(crate) completions: Completions,
    /// Whether there is one, and it; a leaf.
    filters: AtomicBool,
    filter: Mutex<Option<Arc<Program>>>,
    /// Those that are on or off: bits by SO_*.
    switches: [AtomicU64; 2],
    /// Whether SO_RCVTIMEO or SO_SNDTIMEO has ever been set.
    timed: AtomicBool,
    options: Mutex<Options>,
}

/// Options that are only kept.
#[derive(Clone, Default)]
struct Options {
    rcvtimeo: Option<Duration>,
    sndtimeo: Option<Duration>,
    /// On, and seconds.
    linger: (bool, i32),
    priority: i32,
    mark: u32,
    buf_lock: i32,
    device: Vec<u8>,
}

/// The answer of getsockopt(2).
#[derive(Debug, PartialEq, Eq)]
pub enum OptValue {
    /// The value, no longer than asked for; its length goes to optlen.
    Value(Vec<u8>),
    /// ERANGE, with the length that is needed in optlen.
    Needs(usize),
    /// A program, with its number of instructions in optlen.
    Program(Vec<u8>, usize),
}

impl Common {
    pub fn new(ns: &Arc<NetNs>, family: u32, kind: u32, protocol: u32, creator: Ucred) -> Common {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Common {
            ns: ns.clone(),
            family,
            kind,
            protocol,
            creator,
            cookie: NEXT.fetch_add(1, Ordering::Relaxed),
            ino: AtomicU64::new(0),
            nonblocking: AtomicBool::new(false),
            sndbuf: Arc::new(AtomicUsize::new(ns.stack.sysctls.wmem_default.size())),
            rcvbuf: AtomicUsize::new(ns.stack.sysctls.rmem_default.size()),
            rcvlowat: AtomicUsize::new(1),
            reuse: Arc::default(),
            passcred: AtomicBool::new(false),
            peek_off: AtomicI32::new(-1),
            completions: Completions::default(),
            filters: AtomicBool::new(false),
            filter: Mutex::default(),
            switches: Default::default(),
            timed: AtomicBool::new(false),
            options: Mutex::default(),
        }
    }

    /// Whether TCP may send data with a SYN (TFO_CLIENT_ENABLE).
    pub(crate) fn fast_open(&self) -> bool {
        self.ns.stack.sysctls.tcp_fastopen.u32() & 1 != 0
    }

    /// Whether packets are to be shown to [`Common::admit`].
    pub(crate) fn filters(&self) -> bool {
        self.filters.load(Ordering::Relaxed)
    }
    /// How much of a packet the filter keeps, from its data's start; `None`: nothing, it is lost.
    pub(crate) fn admit(&self, packet: &Packet<'_>) -> Option<usize> {
        let filter = self.filter.lock().clone();
        let Some(filter) = filter else { return Some(usize::MAX) };
        usize::try_from(filter.run(packet)).ok().filter(|&kept| kept > 0)
    }
    /// SO_GET_FILTER (sk_get_filter()): sizes are in instructions; without room it only tells how many there are.
    fn program(&self, room: usize) -> Result<OptValue, Errno> {
        let filter = self.filter.lock().clone();
        let code = filter.as_ref().map_or(&[][..], |filter| filter.code());
        match room {
            0 => Ok(OptValue::Program(Vec::new(), code.len())),
            room if room < code.len() => Err(Errno::EINVAL),
            _ => {
                Ok(OptValue::Program(code.iter().flat_map(|op| op.as_bytes().to_vec()).collect(), code.len()))
            }
        }
    }
    fn set_filter(&self, filter: Option<Arc<Program>>) -> Option<Arc<Program>> {
        self.filters.store(filter.is_some(), Ordering::Relaxed);
        std::mem::replace(&mut *self.filter.lock(), filter)
    }

    /// SO_COOKIE: unique for ever.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }
    pub fn sndbuf(&self) -> usize {
        self.sndbuf.load(Ordering::Relaxed)
    }
    pub fn rcvbuf(&self) -> usize {
        self.rcvbuf.load(Ordering::Relaxed)
    }
    pub fn passcred(&self) -> bool {
        self.passcred.load(Ordering::Relaxed)
    }
    /// SO_REUSEADDR, SO_BROADCAST and other switches.
    pub fn flag(&self, name: u32) -> bool {
        self.switches() & bit(name) != 0
    }
    fn switches(&self) -> u128 {
        let [low, high] = &self.switches;
        u128::from(low.load(Ordering::Relaxed)) | u128::from(high.load(Ordering::Relaxed)) << 64
    }
    fn set_switches(&self, switches: u128) {
        let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
        let [low, high] = &self.switches;
        low.store(half(switches), Ordering::Relaxed);
        high.store(half(switches >> 64), Ordering::Relaxed);
    }
    /// SO_LINGER, if on.
    pub fn linger(&self) -> Option<Duration> {
        let (on, seconds) = self.options.lock().linger;
        on.then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }
    /// How long to wait for receiving and sending; `None`: for ever, zero: not at all.
    pub fn timeouts(&self) -> (Option<Duration>, Option<Duration>) {
        if !self.timed.load(Ordering::Relaxed) {
            return (None, None);
        }
        let options = self.options.lock();
        (options.rcvtimeo, options.sndtimeo)
    }
    /// How much a receiving call of a stream wants before it returns (sock_rcvlowat()).
    pub fn recv_target(&self, room: usize, wait_all: bool) -> usize {
        let wanted = if wait_all { room } else { room.min(self.rcvlowat.load(Ordering::Relaxed)) };
        wanted.max(1)
    }

    pub(crate) fn set_flag(&self, name: u32, on: bool) {
        let _one_at_a_time = self.options.lock();
        let switches = if on { self.switches() | bit(name) } else { self.switches() & !bit(name) };
        self.set_switches(switches);
        let is_on = |name: u32| switches & bit(name) != 0;
        let reuse = (if is_on(SO_REUSEADDR) { REUSE_ADDR } else { 0 })
            | (if is_on(SO_REUSEPORT) { REUSE_PORT } else { 0 });
        self.reuse.store(reuse, Ordering::Relaxed);
    }

    /// SO_MARK.
    pub(crate) fn mark(&self) -> u32 {
        self.options.lock().mark
    }
    /// The inode of the descriptor; 0 while there is none.
    pub fn ino(&self) -> u64 {
        self.ino.load(Ordering::Relaxed)
    }
    /// Sizes that are not the caller's choice.
    pub(crate) fn set_buffers(&self, send: usize, receive: usize) {
        self.sndbuf.store(send, Ordering::Relaxed);
        self.rcvbuf.store(receive, Ordering::Relaxed);
    }
    /// Whether SO_SNDBUF and SO_RCVBUF were set, so that they stay.
    pub(crate) fn buffers_locked(&self) -> (bool, bool) {
        let lock = self.options.lock().buf_lock;
        (lock & 1 != 0, lock & 2 != 0)
    }
    /// Whether somebody wants to know when a message came.
    pub(crate) fn timestamps(&self) -> bool {
        self.switches() & TIMESTAMPS != 0
    }
    /// The control message that says so (__sock_recv_timestamp()); `at`: nanoseconds of the real time, 0: unknown.
    pub(crate) fn tell_timestamp(&self, at: u64, out: &mut Vec<(u32, u32, Vec<u8>)>) {
        let flags = self.switches();
        if at == 0 || flags & TIMESTAMPS == 0 {
            return;
        }
        let on = |name: u32| flags & bit(name) != 0;
        let (nano, new) = (
            on(SO_TIMESTAMPNS_OLD) || on(SO_TIMESTAMPNS_NEW),
            on(SO_TIMESTAMP_NEW) || on(SO_TIMESTAMPNS_NEW),
        );
        let (seconds, rest) = (at / 1_000_000_000, at % 1_000_000_000);
        let mut raw = seconds.to_ne_bytes().to_vec();
        raw.extend(if nano { rest } else { rest / 1000 }.to_ne_bytes());
        let kind = match (nano, new) {
            (true, true) => SO_TIMESTAMPNS_NEW,
            (true, false) => SO_TIMESTAMPNS_OLD,
            (false, true) => SO_TIMESTAMP_NEW,
            (false, false) => SO_TIMESTAMP_OLD,
        };
        out.push((SOL_SOCKET, kind, raw));
    }
    /// The interface of SO_BINDTODEVICE; 0: any.
    pub(crate) fn device_index(&self) -> u32 {
        let device = self.options.lock().device.clone();
        if device.is_empty() {
            return 0;
        }
        let interfaces = self.ns.interfaces();
        interfaces.iter().find(|iface| iface.name.as_bytes() == device).map_or(0, |iface| iface.index)
    }
    /// Has the filter that another has.
    pub(crate) fn share_filter(&self, from: &Common) {
        let filter = from.filter.lock().clone();
        drop(self.set_filter(filter));
    }
    /// What an accepted connection gets of its listener's.
    pub(crate) fn inherit(&self, from: &Common) {
        let (options, switches) = {
            let options = from.options.lock();
            (options.clone(), from.switches())
        };
        {
            let mut own = self.options.lock();
            *own = options;
            self.set_switches(switches);
            self.timed.store(from.timed.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.share_filter(from);
        self.set_buffers(from.sndbuf(), from.rcvbuf());
        self.rcvlowat.store(from.rcvlowat.load(Ordering::Relaxed), Ordering::Relaxed);
        self.reuse.store(from.reuse.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Options that ask for the time of each message.
const TIMESTAMPS: u128 =
    1 << SO_TIMESTAMP_OLD | 1 << SO_TIMESTAMPNS_OLD | 1 << SO_TIMESTAMP_NEW | 1 << SO_TIMESTAMPNS_NEW;

fn bit(name: u32) -> u128 {
    1u128.checked_shl(name).unwrap_or(0)
}

fn int(value: &[u8]) -> Result<i32, Errno> {
    value.first_chunk().map(|raw| i32::from_ne_bytes(*raw)).ok_or(Errno::EINVAL)
}

/// What a buffer size asked for comes to: doubled for bookkeeping, within limits.
fn buffer_size(asked: i32, max: usize, min: usize) -> usize {
    // Negative numbers are huge ones here, as in Linux.
    (asked.cast_unsigned() as usize).min(max).saturating_mul(2).min(i32::MAX as usize).max(min)
}

/// Times are kept in ticks of a millisecond, rounded up.
fn timeout(value: &[u8]) -> Result<Option<Duration>, Errno> {
    let (tv, _) = Timeval::read_from_prefix(value).map_err(|_| Errno::EINVAL)?;
    if !(0..1_000_000).contains(&tv.tv_usec) {
        return Err(Errno::EDOM);
    }
    let Ok(seconds) = u64::try_from(tv.tv_sec) else { return Ok(Some(Duration::ZERO)) };
    if (seconds == 0 && tv.tv_usec == 0) || seconds >= (i64::MAX / 1000 - 1) as u64 {
        return Ok(None);
    }
    let millis = tv.tv_usec.cast_unsigned().div_ceil(1000);
    Ok(Some(Duration::from_secs(seconds) + Duration::from_millis(millis)))
}

/// SO_ATTACH_FILTER (sk_attach_filter()).
pub(crate) fn attach(
    ops: &dyn SocketOps,
    code: impl FnOnce() -> Result<Vec<SockFilter>, Errno>,
) -> Result<(), Errno> {
    let common = ops.common();
    if common.flag(SO_LOCK_FILTER) {
        return Err(Errno::EPERM);
    }
    let program = Program::new(code()?)?;
    drop(common.set_filter(Some(Arc::new(program))));
    ops.filter_changed();
    Ok(())
}

/// setsockopt(2) at SOL_SOCKET.
pub(crate) fn set(ops: &dyn SocketOps, name: u32, value: &[u8], caller: &Caller) -> Result<(), Errno> {
    let common = ops.common();
    let creds = &caller.creds;
    let admin = common.ns.allows(creds, CAP_NET_ADMIN);
    if name == SO_BINDTODEVICE {
        if !common.ns.allows(creds, CAP_NET_RAW) {
            return Err(Errno::EPERM);
        }
        let device: Vec<u8> = value.iter().copied().take(15).take_while(|&b| b != 0).collect();
        if !device.is_empty() && !common.ns.interfaces().iter().any(|i| i.name.as_bytes() == device) {
            return Err(Errno::ENODEV);
        }
        common.options.lock().device = device;
        return Ok(());
    }
    let number = int(value)?;
    let on = number != 0;
    match name {
        SO_DEBUG if on && !admin => Err(Errno::EACCES),
        SO_REUSEPORT if on && !matches!(common.family, AF_INET | AF_INET6) => Err(Errno::EOPNOTSUPP),
        SO_DEBUG | SO_REUSEADDR | SO_REUSEPORT | SO_DONTROUTE | SO_BROADCAST | SO_KEEPALIVE
        | SO_OOBINLINE | SO_NO_CHECK | SO_TIMESTAMP_OLD | SO_TIMESTAMPNS_OLD | SO_TIMESTAMP_NEW
        | SO_TIMESTAMPNS_NEW | SO_RXQ_OVFL | SO_WIFI_STATUS | SO_NOFCS | SO_SELECT_ERR_QUEUE | SO_RCVMARK => {
            common.set_flag(name, on);
            Ok(())
        }
        // Security labels: there is no security module, so nothing is ever passed.
        SO_PASSSEC => {
            common.set_flag(name, on);
            Ok(())
        }
        SO_PASSCRED => {
            if !matches!(common.family, AF_UNIX | AF_NETLINK) {
                return Err(Errno::EOPNOTSUPP);
            }
            common.passcred.store(on, Ordering::Relaxed);
            Ok(())
        }
        SO_TYPE | SO_PROTOCOL | SO_DOMAIN | SO_ERROR => Err(Errno::ENOPROTOOPT),
        SO_SNDBUF => {
            common.sndbuf.store(
                buffer_size(number, common.ns.stack.sysctls.wmem_max.size(), MIN_SNDBUF),
                Ordering::Relaxed,
            );
            common.options.lock().buf_lock |= 1;
            ops.buffers_changed();
            Ok(())
        }
        SO_RCVBUF => {
            common.rcvbuf.store(
                buffer_size(number, common.ns.stack.sysctls.rmem_max.size(), MIN_RCVBUF),
                Ordering::Relaxed,
            );
            common.options.lock().buf_lock |= 2;
            ops.buffers_changed();
            Ok(())
        }
        SO_SNDBUFFORCE | SO_RCVBUFFORCE => {
            if !admin {
                return Err(Errno::EPERM);
            }
            // The guest's root must not get at more of the host's memory than this.
            let (field, min, lock) = match name {
                SO_SNDBUFFORCE => (&*common.sndbuf, MIN_SNDBUF, 1),
                _ => (&common.rcvbuf, MIN_RCVBUF, 2),
            };
            field.store(buffer_size(number.max(0), 64 * MEM_MAX, min), Ordering::Relaxed);
            common.options.lock().buf_lock |= lock;
            ops.buffers_changed();
            Ok(())
        }
        SO_PRIORITY => {
            if !(0..=6).contains(&number) && !admin && !common.ns.allows(creds, CAP_NET_RAW) {
                return Err(Errno::EPERM);
            }
            common.options.lock().priority = number;
            Ok(())
        }
        SO_MARK => {
            if !admin && !common.ns.allows(creds, CAP_NET_RAW) {
                return Err(Errno::EPERM);
            }
            common.options.lock().mark = number.cast_unsigned();
            Ok(())
        }
        SO_LINGER => {
            let (linger, _) = Linger::read_from_prefix(value).map_err(|_| Errno::EINVAL)?;
            let mut options = common.options.lock();
            options.linger.0 = linger.l_onoff != 0;
            if linger.l_onoff != 0 {
                options.linger.1 = linger.l_linger;
            }
            Ok(())
        }
        SO_RCVLOWAT => {
            let low = usize::try_from(number).unwrap_or(i32::MAX as usize).max(1);
            common.rcvlowat.store(low, Ordering::Relaxed);
            Ok(())
        }
        SO_RCVTIMEO_OLD | SO_RCVTIMEO_NEW => {
            common.options.lock().rcvtimeo = timeout(value)?;
            common.timed.store(true, Ordering::Relaxed);
            Ok(())
        }
        SO_SNDTIMEO_OLD | SO_SNDTIMEO_NEW => {
            common.options.lock().sndtimeo = timeout(value)?;
            common.timed.store(true, Ordering::Relaxed);
            Ok(())
        }
        SO_PEEK_OFF => {
            if common.family != AF_UNIX {
                return Err(Errno::EOPNOTSUPP);
            }
            common.peek_off.store(number, Ordering::Relaxed);
            Ok(())
        }
        SO_BUF_LOCK => {
            if number & !BUF_LOCKS != 0 {
                return Err(Errno::EINVAL);
            }
            common.options.lock().buf_lock = number;
            Ok(())
        }
        SO_DETACH_FILTER if common.flag(SO_LOCK_FILTER) => Err(Errno::EPERM),
        SO_DETACH_FILTER => {
            common.set_filter(None).map(drop).ok_or(Errno::ENOENT)?;
            ops.filter_changed();
            Ok(())
        }
        SO_LOCK_FILTER if !on && common.flag(SO_LOCK_FILTER) => Err(Errno::EPERM),
        SO_LOCK_FILTER => {
            common.set_flag(name, on);
            Ok(())
        }
        SO_ZEROCOPY if !ops.copies() => Err(Errno::EOPNOTSUPP),
        SO_ZEROCOPY if !(0..=1).contains(&number) => Err(Errno::EINVAL),
        SO_ZEROCOPY => {
            common.set_flag(name, on);
            Ok(())
        }
        // Obsolete, and without effect.
        SO_BSDCOMPAT => Ok(()),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

/// getsockopt(2) at SOL_SOCKET for a buffer of `room` bytes.
pub(crate) fn get(ops: &dyn SocketOps, name: u32, room: usize) -> Result<OptValue, Errno> {
    let common = ops.common();
    let options = common.options.lock().clone();
    let flag = |name: u32| i32::from(common.flag(name));
    let clamp = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let time = |timeout: Option<Duration>| {
        let t = timeout.unwrap_or_default();
        let tv_sec = i64::try_from(t.as_secs()).unwrap_or(i64::MAX);
        Timeval { tv_sec, tv_usec: i64::from(t.subsec_micros()) }.as_bytes().to_vec()
    };
    let number = match name {
        SO_DEBUG | SO_REUSEADDR | SO_REUSEPORT | SO_DONTROUTE | SO_BROADCAST | SO_KEEPALIVE
        | SO_OOBINLINE | SO_NO_CHECK | SO_TIMESTAMP_OLD | SO_TIMESTAMPNS_OLD | SO_TIMESTAMP_NEW
        | SO_TIMESTAMPNS_NEW | SO_RXQ_OVFL | SO_WIFI_STATUS | SO_NOFCS | SO_SELECT_ERR_QUEUE | SO_RCVMARK
        | SO_PASSSEC => flag(name),
        SO_PASSCRED => i32::from(common.passcred()),
        SO_TYPE => clamp(common.kind as usize),
        SO_PROTOCOL => clamp(common.protocol as usize),
        SO_DOMAIN => clamp(common.family as usize),
        SO_ERROR => ops.take_error().map_or(0, Errno::raw),
        SO_SNDBUF => clamp(common.sndbuf()),
        SO_RCVBUF => clamp(common.rcvbuf()),
        SO_PRIORITY => options.priority,
        SO_MARK => options.mark.cast_signed(),
        SO_RCVLOWAT => clamp(common.rcvlowat.load(Ordering::Relaxed)),
        SO_SNDLOWAT => 1,
        SO_ACCEPTCONN => i32::from(ops.listening()),
        SO_PEEK_OFF if common.family == AF_UNIX => common.peek_off.load(Ordering::Relaxed),
        SO_PEEK_OFF => return Err(Errno::EOPNOTSUPP),
        SO_BUF_LOCK => options.buf_lock,
        SO_BINDTOIFINDEX => {
            let interfaces = common.ns.interfaces();
            let bound = interfaces.iter().find(|iface| iface.name.as_bytes() == options.device);
            bound.map_or(0, |iface| iface.index.cast_signed())
        }
        SO_INCOMING_CPU => -1,
        SO_BPF_EXTENSIONS => 64,
        SO_LOCK_FILTER => flag(name),
        SO_ZEROCOPY => flag(name),
        SO_BSDCOMPAT | SO_INCOMING_NAPI_ID => 0,
        _ => return get_long(ops, name, room, &options, time),
    };
    Ok(cut(number.to_ne_bytes().to_vec(), room))
}

fn cut(mut value: Vec<u8>, room: usize) -> OptValue {
    value.truncate(room);
    OptValue::Value(value)
}

/// Options whose value is no int.
fn get_long(
    ops: &dyn SocketOps,
    name: u32,
    room: usize,
    options: &Options,
    time: impl Fn(Option<Duration>) -> Vec<u8>,
) -> Result<OptValue, Errno> {
    let common = ops.common();
    let value = match name {
        SO_LINGER => {
            let linger = Linger { l_onoff: i32::from(options.linger.0), l_linger: options.linger.1 };
            linger.as_bytes().to_vec()
        }
        SO_RCVTIMEO_OLD | SO_RCVTIMEO_NEW => time(options.rcvtimeo),
        SO_SNDTIMEO_OLD | SO_SNDTIMEO_NEW => time(options.sndtimeo),
        SO_PEERCRED => {
            let nobody = Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
            ops.peer_cred().map_or(nobody, |peer| peer.ucred).as_bytes().to_vec()
        }
        SO_PEERGROUPS => {
            let groups = ops.peer_cred().ok_or(Errno::ENODATA)?.groups;
            let raw: Vec<u8> = groups.iter().flat_map(|gid| gid.to_ne_bytes()).collect();
            if raw.len() > room {
                return Ok(OptValue::Needs(raw.len()));
            }
            raw
        }
        SO_PEERNAME => {
            let raw = ops.getpeername().map_err(|_| Errno::ENOTCONN)?.encode();
            if raw.len() < room {
                return Err(Errno::EINVAL);
            }
            raw
        }
        SO_COOKIE | SO_NETNS_COOKIE => {
            if room < size_of::<u64>() {
                return Err(Errno::EINVAL);
            }
            let cookie = if name == SO_COOKIE { common.cookie } else { common.ns.cookie() };
            cookie.to_ne_bytes().to_vec()
        }
        SO_BINDTODEVICE => {
            let mut device = options.device.clone();
            if !device.is_empty() {
                device.push(0);
                if room < 16 {
                    return Err(Errno::EINVAL);
                }
            }
            device
        }
        SO_GET_FILTER => return common.program(room),
        SO_MEMINFO => {
            let (receive, send) = ops.memory();
            let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let info = [clamp(receive), clamp(common.rcvbuf()), clamp(send), clamp(common.sndbuf())];
            info.iter().chain(&[0; 5]).flat_map(|n| n.to_ne_bytes()).collect()
        }
        _ => return Err(Errno::ENOPROTOOPT),
    };
    Ok(cut(value, room))
}
