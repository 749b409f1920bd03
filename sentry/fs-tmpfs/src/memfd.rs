//! memfd_create(2): files without a name on a tmpfs of the kernel's own, which can be sealed.

use crate::file::TmpFile;
use crate::inode::TmpInode;
use crate::space::{Space, Storage};
use crate::{Options, TmpFs};
use chitin_abi::Errno;
use chitin_abi::fcntl::{F_SEAL_EXEC, F_SEAL_SEAL, O_LARGEFILE, O_RDWR};
use chitin_abi::mman::{MFD_ALLOW_SEALING, MFD_CLOEXEC, MFD_EXEC, MFD_HUGETLB, MFD_NOEXEC_SEAL};
use chitin_vfs::{File, Inode, Mount, NewInode, NewKind, Path};
use std::sync::{Arc, OnceLock};

/// The mount that memfds live on (Linux's shm_mnt).
fn shm() -> Result<&'static (Arc<TmpFs>, Arc<Mount>), Errno> {
    static SHM: OnceLock<Option<(Arc<TmpFs>, Arc<Mount>)>> = OnceLock::new();
    // No limit: Linux' own mount has none either, memory control is the host's.
    let made = SHM.get_or_init(|| {
        let fs = TmpFs::with_space(Space::new(Storage::Memory, 0, 0), &Options::default()).ok()?;
        let mount = Mount::new(fs.clone(), b"tmpfs", 0);
        Some((fs, mount))
    });
    made.as_ref().ok_or(Errno::ENOMEM)
}

/// The inode of a new memfd owned by `uid` and `gid`. EINVAL for flags Linux does not know.
pub fn memfd_inode(flags: u32, uid: u32, gid: u32) -> Result<Arc<TmpInode>, Errno> {
    if flags & MFD_HUGETLB != 0 {
        // A kernel without hugetlbfs.
        return Err(Errno::ENOSYS);
    }
    if flags & !(MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC) != 0
        || flags & (MFD_EXEC | MFD_NOEXEC_SEAL) == (MFD_EXEC | MFD_NOEXEC_SEAL)
    {
        return Err(Errno::EINVAL);
    }
    let (perm, seals) = if flags & MFD_NOEXEC_SEAL != 0 {
        (0o666, F_SEAL_EXEC)
    } else if flags & MFD_ALLOW_SEALING != 0 {
        (0o777, 0)
    } else {
        (0o777, F_SEAL_SEAL)
    };
    TmpInode::make(shm()?.0.shared(), &NewInode { kind: NewKind::Regular, perm, uid, gid }, 0, seals)
}

/// memfd_create(2): an open file that shows as `/memfd:NAME (deleted)`. The caller has checked the name, and does
/// MFD_CLOEXEC.
pub fn memfd_file(name: &[u8], flags: u32, uid: u32, gid: u32) -> Result<Arc<File>, Errno> {
    let inode = memfd_inode(flags, uid, gid)?;
    let mount = shm()?.1.clone();
    let dentry = mount.root().unnamed(&[b"memfd:", name].concat(), inode.clone());
    // Balanced when the file goes.
    inode.state().start_write()?;
    let ops = inode.clone().open(O_RDWR)?;
    Ok(File::new(ops, inode, Some(Path { mount, dentry }), O_RDWR | O_LARGEFILE))
}

/// The seals of an open file: EINVAL where it is no file of a tmpfs (F_GET_SEALS).
pub fn seals(file: &File) -> Result<u32, Errno> {
    file.downcast::<TmpFile>().ok_or(Errno::EINVAL)?.inode().seals()
}

/// F_ADD_SEALS.
pub fn add_seals(file: &File, seals: u32) -> Result<(), Errno> {
    let ops = file.downcast::<TmpFile>().ok_or(Errno::EINVAL)?;
    if !file.writable() {
        return Err(Errno::EPERM);
    }
    ops.inode().add_seals(seals)
}
