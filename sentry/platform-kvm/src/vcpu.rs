//! A virtual processor: enters ring 3 with a task's registers and tells why it came out.
//!
//! Between runs a processor rests in ring 0, at one of the OUTs of `ring0`. Entering: the frame for IRETQ is put on its
//! stack, the general registers go through the shared `kvm_run` page, and only what differs from the last run (bases, root
//! of the page tables, FPU state) costs more. Leaving: by OUT, with a trap's frame on the stack; or by a kick.
//!
//! Hosts that run ring 0 by emulation (PVM) do not reach the entry point of SYSCALL: it arrives as a page fault there, of
//! ring 3, with interrupts masked as SYSCALL has left them, which ring 3 cannot do otherwise.

use crate::answers::{Answers, Given};
use crate::cpuid::Features;
use crate::host::{self, SetupError};
use crate::kick::Kicks;
use crate::phys::Phys;
use crate::ring0::{self, Answering, Part};
use crate::space::Space;
use chitin_platform::Registers;
use kvm_bindings::{
    CpuId, Msrs, kvm_device_attr, kvm_msr_entry, kvm_segment, kvm_sregs, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, SyncReg, VcpuExit, VcpuFd, VmFd};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_FMASK: u32 = 0xc000_0084;
const MSR_TSC_AUX: u32 = 0xc000_0103;
/// As Linux: what SYSCALL clears, the interrupt and trap flags above all.
const FMASK: u64 = 0x25_7fd5;
const IF: u64 = 1 << 9;
/// Flags that ring 3 may have: those of `rt_sigreturn`.
pub const USER_FLAGS: u64 = 0x0005_0dd5;
pub const RESERVED_FLAGS: u64 = 0x202;

// KVM_GET_XSAVE and KVM_SET_XSAVE.
const GET_XSAVE: u64 = 0x9000_aea4;
const SET_XSAVE: u64 = 0x5000_aea5;
/// KVM_SET_DEVICE_ATTR, with which a processor's time stamp counter is set.
const SET_DEVICE_ATTR: u64 = 0x4018_aee1;

/// Why a processor came out.
#[derive(Clone, Debug)]
pub enum Exit {
    Syscall,
    Trap {
        vector: u8,
        error: u64,
        addr: u64,
    },
    /// Kicked; the registers are the task's.
    Kicked,
    /// Kicked before it entered.
    NotEntered,
    /// The host could not give it a page.
    NoPage,
    /// Something that must not be.
    Broken(String),
}

/// What other threads may do with a processor.
pub struct Handle {
    fd: OwnedFd,
    /// `immediate_exit` of its `kvm_run`, in a mapping of our own.
    page: *mut libc::c_void,
    pub index: usize,
    /// As guests know it.
    pub number: u32,
    /// The thread that runs it.
    pub tid: AtomicI32,
    /// Its task shall make room.
    pub preempt: AtomicBool,
    kicks: Kicks,
    /// Counts entries and exits: odd while it may be in the VM.
    pub turns: AtomicU64,
    /// The scheduler's tick at which its task began.
    pub since: AtomicU64,
}

// SAFETY: the pointer is to a mapping that lives as long as the handle and is only used for one atomic byte.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    fn new(vcpu: &VcpuFd, index: usize, number: u32) -> Result<Handle, i32> {
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::fcntl(vcpu.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
        if fd < 0 {
            return Err(host::errno());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page =
            unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if page == libc::MAP_FAILED {
            return Err(host::errno());
        }
        Ok(Handle {
            fd,
            page,
            index,
            number,
            tid: AtomicI32::new(0),
            preempt: AtomicBool::new(false),
            kicks: Kicks::default(),
            turns: AtomicU64::new(0),
            since: AtomicU64::new(0),
        })
    }

    fn set_immediate_exit(&self, on: bool) {
        let at = self.page.cast::<u8>().wrapping_add(1).cast::<AtomicU8>();
        // SAFETY: `immediate_exit` is the second byte of `kvm_run`, and the mapping lives as long as we do.
        let flag = unsafe { &*at };
        flag.store(u8::from(on), Ordering::SeqCst);
    }

    /// Makes it come out soon if it runs, or the run that has been [armed](Handle::arm) end at once.
    pub fn kick(&self) {
        self.kicks.kick(|| {
            self.set_immediate_exit(true);
            host::kick(self.tid.load(Ordering::Acquire));
        });
    }

    /// Before a run: what kicks were for has been looked at, under the lock under which it comes about.
    pub fn arm(&self) {
        self.kicks.arm(|| self.set_immediate_exit(false));
    }

    /// The FPU state of whoever ran last; it does not run.
    pub fn get_xsave(&self) -> Result<Box<kvm_xsave>, i32> {
        let mut area = Box::new(kvm_xsave::default());
        // SAFETY: the kernel fills the 4096 bytes of the structure.
        let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), GET_XSAVE as _, &raw mut *area) };
        if r == 0 { Ok(area) } else { Err(host::errno()) }
    }

    /// No offset to the host's time stamp counter.
    pub fn use_host_tsc(&self) -> Result<(), i32> {
        let offset = 0u64;
        // KVM_VCPU_TSC_CTRL (0), KVM_VCPU_TSC_OFFSET (0).
        let attr = kvm_device_attr { addr: &raw const offset as u64, ..Default::default() };
        // SAFETY: the kernel reads the structure and, for this attribute, eight bytes at `addr`.
        let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), SET_DEVICE_ATTR as _, &raw const attr) };
        if r == 0 { Ok(()) } else { Err(host::errno()) }
    }

    pub fn set_xsave(&self, area: &kvm_xsave) -> Result<(), i32> {
        // SAFETY: the kernel reads the 4096 bytes of the structure, which hold no component that needs more.
        let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), SET_XSAVE as _, &raw const *area) };
        if r == 0 { Ok(()) } else { Err(host::errno()) }
    }
}

impl std::fmt::Display for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let turns = self.turns.load(Ordering::Relaxed);
        let place = if turns % 2 == 1 { "inside" } else { "outside" };
        let kicked = if self.kicks.given() { ", kicked" } else { "" };
        write!(
            f,
            "processor {} {place} (turn {turns}){kicked} by thread {}",
            self.index,
            self.tid.load(Ordering::Relaxed)
        )
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: our own mapping, used by nobody else.
        unsafe { libc::munmap(self.page, 4096) };
    }
}

pub struct Vcpu {
    fd: VcpuFd,
    pub handle: Arc<Handle>,
    part: Part,
    /// Segments, control registers and descriptor tables as they are in ring 0.
    rest: kvm_sregs,
    /// The space whose translations it may have, and that space's generation.
    space: (u64, u64),
    /// It rests in ring 0; a kick leaves it in ring 3.
    in_ring0: bool,
    given: Given,
}

fn code_segment(selector: u16, dpl: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_: 11,
        present: 1,
        dpl,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    }
}

fn data_segment(selector: u16, dpl: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_: 3,
        present: 1,
        dpl,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// A null selector, as Linux gives 64-bit programs; the base still counts for FS and GS.
fn null_segment(base: u64) -> kvm_segment {
    kvm_segment { base, unusable: 1, ..Default::default() }
}

impl Vcpu {
    pub fn new(
        vm: &VmFd,
        index: usize,
        number: u32,
        cpuid: &CpuId,
        f: &Features,
    ) -> Result<Vcpu, SetupError> {
        let failed = |what: &'static str| {
            move |e: kvm_ioctls::Error| {
                SetupError(format!(
                    "platform kvm: {what} for processor {index}: {e}; is the host's KVM too old?"
                ))
            }
        };
        let mut fd = vm.create_vcpu(index as u64).map_err(failed("KVM_CREATE_VCPU"))?;
        fd.set_cpuid2(cpuid).map_err(failed("KVM_SET_CPUID2"))?;
        let part = Part::new(index);
        let mut rest = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        rest.cs = code_segment(ring0::KERNEL_CS, 0);
        rest.ss = data_segment(ring0::KERNEL_SS, 0);
        rest.ds = null_segment(0);
        rest.es = null_segment(0);
        rest.fs = null_segment(0);
        rest.gs = null_segment(0);
        rest.ldt = null_segment(0);
        rest.tr = kvm_segment {
            base: part.tss(),
            limit: 0x67,
            selector: ring0::TSS_SELECTOR,
            type_: 11,
            present: 1,
            ..Default::default()
        };
        rest.gdt.base = ring0::gdt();
        rest.gdt.limit = ring0::GDT_LIMIT;
        rest.idt.base = ring0::idt();
        rest.idt.limit = ring0::IDT_LIMIT;
        // PE MP ET NE WP AM PG.
        rest.cr0 = 0x8005_0033;
        // PAE PGE OSFXSR OSXMMEXCPT OSXSAVE.
        rest.cr4 = 0x20 | 0x80 | 0x200 | 0x400 | 1 << 18;
        for (there, bit) in [(f.umip, 11), (f.fsgsbase, 16), (f.smep, 20), (f.smap, 21)] {
            rest.cr4 |= u64::from(there) << bit;
        }
        // SCE LME LMA NXE.
        rest.efer = 0xd01;
        fd.set_sregs(&rest).map_err(failed("KVM_SET_SREGS"))?;
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        if let Some(first) = xcrs.xcrs.first_mut() {
            first.value = f.xcr0;
        }
        fd.set_xcrs(&xcrs).map_err(failed("KVM_SET_XCRS"))?;
        let star = u64::from(ring0::USER_SS - 8) << 48 | u64::from(ring0::KERNEL_CS) << 32;
        for (msr, data, must) in [
            (MSR_STAR, star, true),
            (MSR_LSTAR, part.lstar(), true),
            (MSR_FMASK, FMASK, true),
            (MSR_TSC_AUX, number.into(), false),
        ] {
            let entry = kvm_msr_entry { index: msr, data, ..Default::default() };
            let list = Msrs::from_entries(&[entry]).map_err(|_| SetupError("platform kvm: msrs".into()))?;
            let set = fd.set_msrs(&list).map_err(failed("KVM_SET_MSRS"))?;
            if set != 1 && must {
                return Err(SetupError(format!("platform kvm: the host's KVM refused MSR {msr:#x}")));
            }
        }
        for reg in [SyncReg::Register, SyncReg::SystemRegister, SyncReg::VcpuEvents] {
            fd.set_sync_valid_reg(reg);
        }
        let handle = Handle::new(&fd, index, number)
            .map_err(|errno| SetupError(format!("platform kvm: mapping processor {index}: errno {errno}")))?;
        Ok(Vcpu {
            fd,
            handle: Arc::new(handle),
            part,
            rest,
            space: (0, 0),
            in_ring0: true,
            given: Given::default(),
        })
    }

    /// Before a run of the task `id`, under the lock under which its answers change.
    pub fn give_answers(&mut self, phys: &Phys, id: u64, answers: &Answers) {
        self.given.update(phys, self.part, id, answers);
    }

    /// Runs ring 3 from `regs` until it comes out; `regs` is then what ring 3 had (but for [`Exit::NotEntered`]).
    /// `switched`: the bases may differ from what it has. The caller has armed the handle.
    pub fn run(&mut self, phys: &Phys, space: &Space, regs: &mut Registers, switched: bool) -> Exit {
        self.handle.turns.fetch_add(1, Ordering::SeqCst);
        space.running.fetch_add(1, Ordering::SeqCst);
        let at = (space.id, if space.world.shadow { 0 } else { space.generation.load(Ordering::SeqCst) });
        let flush = at != self.space;
        let system = switched || at.0 != self.space.0 || !self.in_ring0;
        self.prepare(phys, regs, system.then_some(space.cr3), flush.then_some(space.cr3));
        self.space = at;
        let exit = loop {
            let ran = match self.fd.run() {
                Ok(VcpuExit::IoOut(port, _)) => Ok(port),
                Ok(other) => Err(Exit::Broken(format!("{other:?}"))),
                Err(e) => match e.errno() {
                    libc::EAGAIN => continue,
                    libc::EINTR => Err(Exit::Kicked),
                    libc::EFAULT => Err(Exit::NoPage),
                    errno => Err(Exit::Broken(format!("KVM_RUN: errno {errno}"))),
                },
            };
            match self.came_out(phys, ran, regs) {
                Some(exit) => break exit,
                // In the middle of something that ends by itself. It stays kicked, so that nothing holds it up again.
                // Nor may it go back to ring 3 from there without coming out.
                None => {
                    self.given.withdraw(phys, self.part);
                    self.handle.set_immediate_exit(false);
                }
            }
        };
        self.handle.turns.fetch_add(1, Ordering::SeqCst);
        space.running.fetch_sub(1, Ordering::SeqCst);
        exit
    }

    fn prepare(&mut self, phys: &Phys, r: &Registers, system: Option<u64>, flush: Option<u64>) {
        let frame = self.part.entry_frame();
        let flags = r.eflags & USER_FLAGS | RESERVED_FLAGS;
        let words = [r.rax, r.rip, ring0::USER_CS.into(), flags, r.rsp, ring0::USER_SS.into()];
        let mut bytes = [0; 48];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        phys.write(frame, &bytes);
        let sync = self.fd.sync_regs_mut();
        let g = &mut sync.regs;
        (g.rbx, g.rcx, g.rdx, g.rsi, g.rdi, g.rbp) = (r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp);
        (g.r8, g.r9, g.r10, g.r11) = (r.r8, r.r9, r.r10, r.r11);
        (g.r12, g.r13, g.r14, g.r15) = (r.r12, r.r13, r.r14, r.r15);
        g.rax = flush.unwrap_or(0);
        g.rip = if flush.is_some() { ring0::flush() } else { ring0::enter() };
        g.rsp = ring0::BASE + frame;
        g.rflags = 2;
        if let Some(cr3) = system {
            sync.sregs = self.rest;
            sync.sregs.cr3 = cr3;
            sync.sregs.fs = null_segment(r.fs_base);
            sync.sregs.gs = null_segment(r.gs_base);
            self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
        }
        self.fd.set_sync_dirty_reg(SyncReg::Register);
    }

    /// `None`: run on.
    fn came_out(&mut self, phys: &Phys, ran: Result<u16, Exit>, regs: &mut Registers) -> Option<Exit> {
        let sync = self.fd.sync_regs();
        let g = &sync.regs;
        let user = sync.sregs.cs.selector & 3 == 3;
        self.in_ring0 = !user;
        let mut now = Registers {
            r15: g.r15,
            r14: g.r14,
            r13: g.r13,
            r12: g.r12,
            rbp: g.rbp,
            rbx: g.rbx,
            r11: g.r11,
            r10: g.r10,
            r9: g.r9,
            r8: g.r8,
            rax: g.rax,
            rcx: g.rcx,
            rdx: g.rdx,
            rsi: g.rsi,
            rdi: g.rdi,
            rip: g.rip,
            eflags: g.rflags,
            rsp: g.rsp,
            fs_base: sync.sregs.fs.base,
            gs_base: sync.sregs.gs.base,
        };
        let port = match ran {
            Ok(port) => port,
            Err(exit @ (Exit::Kicked | Exit::NoPage)) => {
                if user {
                    let events = &sync.events.exception;
                    if events.injected != 0 || events.pending != 0 {
                        // On its way to our handler: nobody else may get it.
                        return matches!(exit, Exit::NoPage).then_some(exit);
                    }
                    if now.rip == self.part.lstar() && now.eflags & IF == 0 {
                        // Caught between the call and its page fault.
                        (now.rip, now.eflags) = (now.rcx, now.r11);
                        *regs = now;
                        return Some(Exit::Syscall);
                    }
                    *regs = now;
                    return Some(exit);
                }
                if let (Exit::Kicked, Some(answering)) = (&exit, self.part.answering(g.rip)) {
                    return Some(self.caught_answering(phys, answering, now, regs));
                }
                if ring0::is_entering(g.rip) {
                    // Nor may it have flushed.
                    self.space = (0, 0);
                    return Some(Exit::NotEntered);
                }
                return match exit {
                    Exit::Kicked => None,
                    _ => Some(Exit::Broken(format!("no page for ring 0 at {:#x}", g.rip))),
                };
            }
            Err(exit) => return Some(exit),
        };
        if port == ring0::SYSCALL {
            (now.rip, now.eflags) = (now.rcx, now.r11);
            *regs = now;
            return Some(Exit::Syscall);
        }
        let Some(vector) = ring0::vector(g.rip).filter(|_| port == ring0::TRAP) else {
            return Some(Exit::Broken(format!("OUT to {port:#x} at {:#x}", g.rip)));
        };
        let has_error = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
        let top = match vector {
            1 | 2 | 8 | 18 => self.part.odd_top(),
            _ => self.part.trap_top(),
        };
        let word = |i: u64| phys.load(top - 48 + i * 8);
        let (error, rip, cs, flags, rsp) =
            (if has_error { word(0) } else { 0 }, word(1), word(2), word(3), word(4));
        if cs & 3 != 3 {
            // IRETQ did not take the frame: what Linux makes of such a return is a general protection fault.
            if ring0::is_entering(rip) && matches!(vector, 10..=13) {
                return Some(Exit::Trap { vector: 13, error: 0, addr: 0 });
            }
            return Some(Exit::Broken(format!("vector {vector} in ring 0 at {rip:#x}, error {error:#x}")));
        }
        (now.rip, now.eflags, now.rsp) = (rip, flags, rsp);
        if vector == 14 && rip == self.part.lstar() && flags & IF == 0 {
            (now.rip, now.eflags) = (now.rcx, now.r11);
            *regs = now;
            return Some(Exit::Syscall);
        }
        *regs = now;
        Some(Exit::Trap { vector, error, addr: sync.sregs.cr2 })
    }

    /// Ring 0 would have gone back to ring 3 without another look at us: the call ends here, or has not begun.
    fn caught_answering(&self, phys: &Phys, at: Answering, mut now: Registers, regs: &mut Registers) -> Exit {
        // SYSCALL leaves the stack as it is; a fault's frame has it.
        if !self.part.is_own(now.rip) {
            now.rsp = phys.load(self.part.trap_top() - 16);
        }
        (now.rip, now.eflags) = (now.rcx, now.r11);
        *regs = now;
        match at {
            Answering::Not => Exit::Syscall,
            Answering::Done => Exit::Kicked,
        }
    }
}

/// Opens what the platform needs of the host, and says what it lacks.
pub fn check(kvm: &Kvm) -> Result<(), SetupError> {
    let version = kvm.get_api_version();
    if version < 0 {
        return Err(SetupError(
            "platform kvm: /dev/kvm is not KVM's device; make it anew (mknod /dev/kvm c 10 232), or use --platform=seccomp".into(),
        ));
    }
    if version != 12 {
        return Err(SetupError(format!(
            "platform kvm: /dev/kvm speaks version {version} of the interface, not 12; update the host's kernel"
        )));
    }
    let sync = kvm.check_extension_int(kvm_ioctls::Cap::SyncRegs);
    let missing = [
        (sync & 7 == 7, "KVM_CAP_SYNC_REGS (Linux 4.17)"),
        (kvm.check_extension(kvm_ioctls::Cap::ImmediateExit), "KVM_CAP_IMMEDIATE_EXIT (Linux 4.13)"),
        (kvm.check_extension(kvm_ioctls::Cap::ReadonlyMem), "KVM_CAP_READONLY_MEM (Linux 3.7)"),
        (kvm.check_extension(kvm_ioctls::Cap::Xcrs), "KVM_CAP_XCRS"),
    ];
    match missing.iter().find(|(there, _)| !there) {
        Some((_, what)) => Err(SetupError(format!(
            "platform kvm: the host's KVM lacks {what}; update the host's kernel or use --platform=seccomp"
        ))),
        None => Ok(()),
    }
}
