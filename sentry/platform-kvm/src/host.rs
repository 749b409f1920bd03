//! Host calls: memory that is shown to guests, fallible copies, the kick.
//!
//! One operation per function, each with its condition; nothing else in the crate calls the host directly but `vcpu`.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};

/// Why the platform cannot be used here: cause and remedy in one line.
#[derive(Clone, Debug)]
pub struct SetupError(pub String);

impl std::fmt::Display for SetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SetupError {}

pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Memory of `len` bytes, none of which is there yet.
pub fn memfd(len: u64) -> Result<File, SetupError> {
    let failed = |what: &str| {
        SetupError(format!("platform kvm: {what} for guest memory: {}", std::io::Error::last_os_error()))
    };
    let flags = libc::MFD_CLOEXEC | libc::MFD_NOEXEC_SEAL;
    // SAFETY: the name is a C string; nothing else is passed by pointer.
    let mut fd = unsafe { libc::memfd_create(c"guest".as_ptr(), flags) };
    if fd < 0 && errno() == libc::EINVAL {
        // SAFETY: as above. Before Linux 6.3 there is no such seal.
        fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
    }
    if fd < 0 {
        return Err(failed("memfd_create"));
    }
    // SAFETY: the descriptor is new and nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len).map_err(|_| failed("ftruncate"))?;
    Ok(file)
}

/// Gives memory of the memfd back; it reads as zeroes afterwards.
pub fn punch(file: &File, off: u64, len: u64) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: a plain call on a descriptor of ours; mappings of the file stay valid.
    let r = unsafe { libc::fallocate(file.as_raw_fd(), mode, off as i64, len as i64) };
    if r != 0 {
        tracing::error!(errno = errno(), "giving guest memory back failed");
    }
}

/// Drops our page table entries for a range of shared mappings, whose content stays in the files: whoever has translations
/// derived from them (the VM) has to drop these as well.
pub fn forget(hva: u64, len: u64) {
    // SAFETY: the range lies in shared file mappings of ours: what is dropped is read again from the file.
    let r = unsafe { libc::madvise(hva as *mut libc::c_void, len as usize, libc::MADV_DONTNEED) };
    if r != 0 {
        tracing::error!(errno = errno(), hva, len, "revoking guest translations failed");
    }
}

/// Maps a part of a file, shared.
pub fn map_file(fd: BorrowedFd<'_>, off: u64, len: u64, write: bool) -> Result<u64, i32> {
    let prot = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
    // SAFETY: a new mapping at an address of the kernel's choice.
    let p = unsafe {
        libc::mmap(std::ptr::null_mut(), len as usize, prot, libc::MAP_SHARED, fd.as_raw_fd(), off as i64)
    };
    if p == libc::MAP_FAILED { Err(errno()) } else { Ok(p as u64) }
}

pub fn unmap(hva: u64, len: u64) {
    // SAFETY: only `map_file`'s results come here, and no reference into them exists.
    unsafe { libc::munmap(hva as *mut libc::c_void, len as usize) };
}

/// Copies from a mapping of ours that may have lost its file's pages: how many bytes.
pub fn read_mapping(hva: u64, buf: &mut [u8]) -> usize {
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let remote = libc::iovec { iov_base: hva as *mut libc::c_void, iov_len: buf.len() };
    let me = std::process::id() as i32;
    // SAFETY: one iovec each; the local one is `buf`, and the kernel checks the other.
    let n = unsafe { libc::process_vm_readv(me, &local, 1, &remote, 1, 0) };
    usize::try_from(n).unwrap_or(0)
}

/// The same the other way round.
pub fn write_mapping(hva: u64, data: &[u8]) -> usize {
    let local = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let remote = libc::iovec { iov_base: hva as *mut libc::c_void, iov_len: data.len() };
    let me = std::process::id() as i32;
    // SAFETY: one iovec each; the kernel only reads `data`, and checks the other.
    let n = unsafe { libc::process_vm_writev(me, &local, 1, &remote, 1, 0) };
    usize::try_from(n).unwrap_or(0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    pub links: u64,
}

pub fn stat(fd: BorrowedFd<'_>) -> Result<Stat, i32> {
    let mut st = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the kernel fills the structure.
    if unsafe { libc::fstat(fd.as_raw_fd(), st.as_mut_ptr()) } != 0 {
        return Err(errno());
    }
    // SAFETY: zeroes are a valid value, and it has been filled.
    let st = unsafe { st.assume_init() };
    Ok(Stat { dev: st.st_dev, ino: st.st_ino, size: st.st_size as u64, links: st.st_nlink })
}

/// Whether the descriptor may be written through.
pub fn writable(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: no memory is involved.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    flags >= 0 && flags & libc::O_ACCMODE == libc::O_RDWR
}

/// Frees the pages of a part of a file (MADV_REMOVE).
pub fn punch_file(fd: BorrowedFd<'_>, off: u64, len: u64) -> Result<(), i32> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no memory is involved.
    let r = unsafe { libc::fallocate(fd.as_raw_fd(), mode, off as i64, len as i64) };
    if r == 0 { Ok(()) } else { Err(errno()) }
}

pub fn sync_file(fd: BorrowedFd<'_>) -> Result<(), i32> {
    // SAFETY: no memory is involved.
    if unsafe { libc::fdatasync(fd.as_raw_fd()) } == 0 { Ok(()) } else { Err(errno()) }
}

/// The signal that makes KVM_RUN return. Its handler does nothing.
pub fn kick_signal() -> i32 {
    libc::SIGRTMIN() + 3
}

extern "C" fn kicked(_: i32) {}

pub fn install_kick() -> Result<(), SetupError> {
    // SAFETY: all zeroes is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = kicked as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler is a function that touches nothing.
    let r = unsafe { libc::sigaction(kick_signal(), &action, std::ptr::null_mut()) };
    if r != 0 {
        return Err(SetupError(format!("platform kvm: sigaction: errno {}", errno())));
    }
    Ok(())
}

pub fn gettid() -> i32 {
    // SAFETY: no memory is involved.
    unsafe { libc::gettid() }
}

/// Kicks a thread of ours.
pub fn kick(tid: i32) {
    let (me, signal) = (std::process::id() as i32, kick_signal());
    // SAFETY: no memory is involved; a thread that has ended is ESRCH.
    unsafe { libc::syscall(libc::SYS_tgkill, me, tid, signal) };
}

/// The CPUs we may run on.
pub fn affinity() -> Vec<u8> {
    let mut mask = vec![0u8; 128];
    // SAFETY: the kernel writes at most the length given.
    let n = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, mask.len(), mask.as_mut_ptr()) };
    mask.truncate(usize::try_from(n).unwrap_or(0));
    mask
}
