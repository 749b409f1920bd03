//! A mini kernel for the platform's tests and bench: guest programs in assembly, an event pump, and a blocking executor.

use chitin_platform::*;
use chitin_platform_seccomp::{Config, Options, SeccompPlatform};
use std::arch::global_asm;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

pub const CODE: u64 = 0x40_0000;
pub const DATA: u64 = 0x50_0000;
pub const STACK_TOP: u64 = 0x61_0000;

global_asm!(
    r#"
    .pushsection .rodata.guest,"a",@progbits
    .globl guest_start
    .globl guest_end
    .balign 4096
guest_start:
    .globl g_getppid
g_getppid:
    mov eax, 110
    syscall
    mov [0x500000], rax
    jmp g_getppid
    .globl g_brk
g_brk:
    mov edi, 0x1234
    mov eax, 12
    syscall
    mov rdi, rax
    mov eax, 60
    syscall
    .globl g_brkloop
g_brkloop:
    mov eax, 12
    syscall
    jmp g_brkloop
    .globl g_spin
g_spin:
    inc qword ptr [0x500000]
    jmp g_spin
    .globl g_fault
g_fault:
    mov rax, 0x123456789000
    mov rbx, [rax]
    ud2
    int3
    xor edx, edx
    xor ecx, ecx
    mov eax, 1
    div ecx
    hlt
    .globl g_call6
// Makes the call described at DATA+0x100 (nr, 6 args), stores the result at DATA, and stops with getpid.
g_call6:
    mov rax, [0x500100]
    mov rdi, [0x500108]
    mov rsi, [0x500110]
    mov rdx, [0x500118]
    mov r10, [0x500120]
    mov r8,  [0x500128]
    mov r9,  [0x500130]
    syscall
    mov [0x500000], rax
    mov eax, 39
    syscall
    jmp g_call6
    .globl g_fpu
// Keeps xmm0 and the bases over a stop.
g_fpu:
    movq rbx, xmm0
    mov eax, 39
    syscall
    movq rdi, xmm0
    mov rsi, fs:[0]
    mov eax, 60
    syscall
    .globl g_store
// Writes a mark to r15 and asks.
g_store:
    mov [r15], r14
    mov rdi, [r15]
    mov eax, 39
    syscall
    jmp g_store
    .globl g_jump
// Jumps to rbx with everything as the sentry set it.
g_jump:
    jmp rbx
    .globl g_syscall
g_syscall:
    syscall
    mov rdi, rax
    mov eax, 39
    syscall
    hlt
guest_end:
    .popsection
"#
);

unsafe extern "C" {
    static guest_start: u8;
    static guest_end: u8;
}

#[macro_export]
macro_rules! entry {
    ($name:ident) => {{
        unsafe extern "C" {
            static $name: u8;
        }
        $crate::common::address_of(&raw const $name)
    }};
}

pub fn address_of(p: *const u8) -> u64 {
    CODE + (p as u64 - (&raw const guest_start as u64))
}

pub fn image() -> Vec<u8> {
    let len = &raw const guest_end as usize - &raw const guest_start as usize;
    // SAFETY: the symbols bound one object.
    unsafe { std::slice::from_raw_parts(&raw const guest_start, len) }.to_vec()
}

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
    pub plat: Arc<SeccompPlatform>,
    pub events: Receiver<Event>,
    next: std::cell::Cell<usize>,
}

pub fn guest_of(e: &Event) -> Arc<Guest> {
    e.owner.clone().downcast::<Guest>().expect("owner")
}

impl Machine {
    pub fn new(options: Options) -> Machine {
        let plat = Arc::new(SeccompPlatform::new(Config { proc_dir: None, options }).expect("platform"));
        let (tx, events) = channel();
        for _ in 0..2 {
            let (p, tx) = (plat.clone(), tx.clone());
            std::thread::spawn(move || while tx.send(p.next_event(&|| {})).is_ok() {});
        }
        Machine { plat, events, next: std::cell::Cell::new(1) }
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
        self.events.recv_timeout(Duration::from_secs(5)).expect("an event within 5 s")
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
