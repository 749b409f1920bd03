//! A mini kernel: loads guest programs, pumps events, and waits for the platform's futures.

use crate::{CODE, DATA, STACK_TOP, Subject, Traits, image};
use chitin_platform::*;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

struct Unpark(std::thread::Thread);
impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub fn wait<T>(f: impl Future<Output = T>) -> T {
    let mut f = pin!(f);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        if let Poll::Ready(v) = f.as_mut().poll(&mut Context::from_waker(&waker)) {
            return v;
        }
        std::thread::park();
    }
}

/// What the tests store as a task's owner.
pub struct Guest {
    pub task: Arc<dyn PlatformTask>,
    pub space: Arc<dyn AddressSpace>,
    pub id: usize,
}

pub struct Machine {
    pub plat: Arc<dyn Platform>,
    pub traits: Traits,
    pub events: Receiver<Event>,
    next: std::cell::Cell<usize>,
}

pub fn guest_of(e: &Event) -> Arc<Guest> {
    e.owner.clone().downcast::<Guest>().expect("owner")
}

impl Machine {
    pub fn new(subject: &Subject) -> Machine {
        let plat = subject.platform.clone();
        let (tx, events) = channel();
        // One for each listener that a platform may have, and a spare.
        for _ in 0..5 {
            let (p, tx) = (plat.clone(), tx.clone());
            std::thread::spawn(move || while tx.send(p.next_event(&|| {})).is_ok() {});
        }
        Machine { plat, traits: subject.traits, events, next: std::cell::Cell::new(1) }
    }

    pub fn adopt(&self, s: Spawned) -> Arc<Guest> {
        let id = self.next.replace(self.next.get() + 1);
        let g = Arc::new(Guest { task: s.task, space: s.space, id });
        g.task.set_owner(g.clone());
        g
    }

    /// A fresh process with the guest code, a data page and a stack, stopped before `entry`.
    pub fn load(&self, entry: u64) -> Arc<Guest> {
        self.load_from(wait(self.plat.new_space()).expect("new_space"), entry)
    }

    /// The same in a space that is there.
    pub fn load_from(&self, s: Spawned, entry: u64) -> Arc<Guest> {
        let map = |addr, len, prot| HostOp::Mmap { addr, len, prot, flags: 0x32, file: None };
        let ops = vec![map(CODE, 0x10000, 7), map(DATA, 0x10000, 3), map(STACK_TOP - 0x10000, 0x10000, 3)];
        let r = wait(s.space.apply(s.task.clone(), ops)).expect("apply");
        assert_eq!(r, vec![CODE, DATA, STACK_TOP - 0x10000]);
        s.space.write(CODE, &image()).expect("write code");
        let mut regs = s.task.registers().expect("registers");
        regs.rip = entry;
        regs.rsp = STACK_TOP - 0x100;
        s.task.set_registers(&regs).expect("set_registers");
        self.adopt(s)
    }

    pub fn event(&self) -> Event {
        let quarter = crate::case_seconds() / 4;
        self.events
            .recv_timeout(Duration::from_secs(quarter))
            .expect("an event within a quarter of the case's time")
    }

    pub fn no_event(&self, ms: u64) {
        if let Ok(e) = self.events.recv_timeout(Duration::from_millis(ms)) {
            panic!("unexpected event {:?} of {}", e.kind, guest_of(&e).id);
        }
    }

    /// The next event must be system call `nr` of `g`.
    pub fn syscall(&self, g: &Guest, nr: u64) -> [u64; 6] {
        let e = self.event();
        assert_eq!(guest_of(&e).id, g.id, "event {:?} of the wrong task", e.kind);
        match e.kind {
            EventKind::Syscall { nr: n, args, .. } if n == nr => args,
            k => panic!("wanted system call {nr}, got {k:?}"),
        }
    }

    pub fn interrupted(&self, g: &Guest) {
        let e = self.event();
        assert_eq!(guest_of(&e).id, g.id);
        assert!(matches!(e.kind, EventKind::Interrupted), "{:?}", e.kind);
    }

    /// Lets `g` make a call (it must stand before or in `g_call6`'s getpid); the call itself is reported next.
    pub fn arm(&self, g: &Guest, nr: u64, args: [u64; 6]) {
        let mut b = nr.to_le_bytes().to_vec();
        args.iter().for_each(|a| b.extend(a.to_le_bytes()));
        g.space.write(DATA + 0x100, &b).expect("arm");
    }
}

pub fn word(g: &Guest, addr: u64) -> u64 {
    let mut b = [0; 8];
    g.space.read(addr, &mut b).expect("read");
    u64::from_le_bytes(b)
}

/// A call through `g_call6`, answered as the kernel would answer a mapping call; returns what the guest got.
pub fn mmap_call(m: &Machine, g: &Guest, args: [u64; 6], file: Option<MapFile<'_>>) -> i64 {
    m.arm(g, 9, args);
    g.task.resume(if g.task.has_frame() { Resume::Frame } else { Resume::Return(0) });
    assert_eq!(m.syscall(g, 9), args);
    let call = MapCall::Mmap {
        addr: args[0],
        len: args[1],
        prot: args[2] as u32,
        flags: args[3] as u32,
        file,
        offset: args[5],
    };
    match g.space.map_call(&*g.task, &call) {
        Ok(Native::Host) => g.task.resume(Resume::Native),
        Ok(Native::Done(v)) => g.task.resume(Resume::Return(v as i64)),
        Err(e) => g.task.resume(Resume::Return(-i64::from(e))),
    }
    m.syscall(g, 39);
    word(g, DATA) as i64
}

pub fn temp_file(data: &[u8]) -> std::fs::File {
    use std::io::Write;
    let path = std::env::temp_dir().join(format!("t-platform-{}-{}", std::process::id(), data.len()));
    std::fs::write(&path, b"").expect("temp file");
    let mut f = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("open");
    f.write_all(data).expect("write");
    std::fs::remove_file(&path).expect("unlink");
    f
}

/// Whether the host process behind a guest thread is there.
pub fn alive(g: &Guest) -> bool {
    unsafe { libc::kill(g.task.debug_id() as i32, 0) == 0 }
}

pub fn gone(m: &Machine, g: &Guest) {
    if !m.traits.host_side {
        return;
    }
    for _ in 0..500 {
        if !alive(g) {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("the host process stays");
}
