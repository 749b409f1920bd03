//! Making device nodes, links and directories below any directory.

use chitin_abi::Errno;
use chitin_abi::stat::makedev;
use chitin_vfs::{FileKind, Inode, NewInode, NewKind};
use std::sync::Arc;

/// A node to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevNode {
    /// Below the directory that is filled; slashes at its start do not matter.
    pub path: Vec<u8>,
    /// CharDevice, BlockDevice or Fifo.
    pub kind: FileKind,
    pub rdev: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl DevNode {
    pub fn char(path: &str, major: u32, minor: u32, mode: u32) -> DevNode {
        let kind = FileKind::CharDevice;
        DevNode { path: path.into(), kind, rdev: makedev(major, minor), mode, uid: 0, gid: 0 }
    }
}

/// The devices that the OCI specification wants in every /dev, and /dev/console where there is one.
pub fn default_nodes(console: bool) -> Vec<DevNode> {
    let mut nodes = vec![
        DevNode::char("null", 1, 3, 0o666),
        DevNode::char("zero", 1, 5, 0o666),
        DevNode::char("full", 1, 7, 0o666),
        DevNode::char("random", 1, 8, 0o666),
        DevNode::char("urandom", 1, 9, 0o666),
        DevNode::char("tty", 5, 0, 0o666),
    ];
    if console {
        nodes.push(DevNode::char("console", 5, 1, 0o620));
    }
    nodes
}

/// The symbolic links beside them.
const LINKS: [(&[u8], &[u8]); 5] = [
    (b"fd", b"/proc/self/fd"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
    (b"ptmx", b"pts/ptmx"),
];

/// Makes `devices`, the usual symbolic links and the directories pts, shm and mqueue below `root`, the root of the file
/// system on /dev. What exists already stays as it is. To be called before anybody walks there.
pub fn populate(root: &Arc<dyn Inode>, devices: &[DevNode]) -> Result<(), Errno> {
    for (name, perm) in [(b"pts".as_slice(), 0o755), (b"shm", 0o1777), (b"mqueue", 0o1777)] {
        let kind = NewKind::Directory;
        make(root, name, &NewInode { kind, perm, uid: 0, gid: 0 })?;
    }
    for (name, text) in LINKS {
        let kind = NewKind::Symlink(text.to_vec());
        make(root, name, &NewInode { kind, perm: 0o777, uid: 0, gid: 0 })?;
    }
    devices.iter().try_for_each(|device| make_node(root, device).map(drop))
}

/// Makes one node, and the directories that lead to it. What exists already is the answer, whatever it is.
pub fn make_node(root: &Arc<dyn Inode>, device: &DevNode) -> Result<Arc<dyn Inode>, Errno> {
    let mut names = device.path.split(|&b| b == b'/').filter(|name| !name.is_empty()).peekable();
    let mut dir = root.clone();
    while let Some(name) = names.next() {
        if name == b"." || name == b".." || name.len() > chitin_abi::limits::NAME_MAX {
            return Err(Errno::EINVAL);
        }
        if names.peek().is_some() {
            let new = NewInode { kind: NewKind::Directory, perm: 0o755, uid: 0, gid: 0 };
            dir = make(&dir, name, &new)?;
            continue;
        }
        let kind = match device.kind {
            FileKind::Fifo => NewKind::Fifo,
            kind @ (FileKind::CharDevice | FileKind::BlockDevice) => {
                NewKind::Device { kind, rdev: device.rdev }
            }
            _ => return Err(Errno::EINVAL),
        };
        let new = NewInode { kind, perm: device.mode & 0o7777, uid: device.uid, gid: device.gid };
        return make(&dir, name, &new);
    }
    Err(Errno::EINVAL)
}

/// Makes a file, or finds it.
fn make(dir: &Arc<dyn Inode>, name: &[u8], new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
    let ops = dir.dir().ok_or(Errno::ENOTDIR)?;
    match ops.create(name, new) {
        Err(Errno::EEXIST) => ops.lookup(name),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_fs_tmpfs::{Storage, TmpFs};
    use chitin_vfs::FileSystem;
    use chitin_vfs::walk::Caller;

    #[test]
    fn populates_a_tmpfs() {
        let fs = TmpFs::new(Storage::Memory, b"mode=755", 1 << 30).unwrap();
        let root = fs.root();
        let mut nodes = default_nodes(true);
        nodes.push(DevNode::char("/net/tun", 10, 200, 0o600));
        populate(&root, &nodes).unwrap();
        // Once more changes nothing.
        populate(&root, &nodes).unwrap();
        let find = |name: &[u8]| root.dir().unwrap().lookup(name).unwrap();
        let null = find(b"null").attr().unwrap();
        assert_eq!((null.kind, null.rdev, null.perm), (FileKind::CharDevice, makedev(1, 3), 0o666));
        let tun = find(b"net").dir().unwrap().lookup(b"tun").unwrap().attr().unwrap();
        assert_eq!((tun.rdev, tun.perm), (makedev(10, 200), 0o600));
        assert_eq!(find(b"shm").attr().unwrap().perm, 0o1777);
        let caller = Caller { tgid: 1, tid: 1, creds: Arc::new(chitin_vfs::Creds::root()) };
        assert_eq!(find(b"ptmx").link_text(&caller).unwrap(), b"pts/ptmx");
        assert_eq!(make_node(&root, &DevNode::char("a/../b", 1, 3, 0)).err(), Some(Errno::EINVAL));
        assert_eq!(make_node(&root, &DevNode::char("/", 1, 3, 0)).err(), Some(Errno::EINVAL));
        assert_eq!(make_node(&root, &DevNode::char("null/x", 1, 3, 0)).err(), Some(Errno::ENOTDIR));
    }
}
