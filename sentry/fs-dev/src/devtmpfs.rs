//! devtmpfs: a tmpfs that is born with device nodes in it.

use crate::nodes::{DevNode, populate};
use chitin_abi::Errno;
use chitin_abi::stat::Statfs;
use chitin_fs_tmpfs::{Storage, TmpFs};
use chitin_vfs::{FileSystem, Inode};
use std::sync::Arc;

pub struct DevTmpFs {
    files: Arc<TmpFs>,
}

impl DevTmpFs {
    /// A file system with `devices` (see [`crate::default_nodes`]), the usual links and directories. `data` are options
    /// of tmpfs(5); `memory` is how much the guest has.
    pub fn new(devices: &[DevNode], data: &[u8], memory: u64) -> Result<Arc<DevTmpFs>, Errno> {
        let mut options = b"mode=755,".to_vec();
        options.extend_from_slice(data);
        let files = TmpFs::new(Storage::Memory, &options, memory)?;
        populate(&files.root(), devices)?;
        Ok(Arc::new(DevTmpFs { files }))
    }
}

impl FileSystem for DevTmpFs {
    fn fs_type(&self) -> &'static str {
        "devtmpfs"
    }
    fn dev(&self) -> u64 {
        self.files.dev()
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.files.root()
    }
    fn statfs(&self) -> Result<Statfs, Errno> {
        self.files.statfs()
    }
    fn show_options(&self) -> String {
        self.files.show_options()
    }
    fn remount(&self, data: &[u8]) -> Result<(), Errno> {
        self.files.remount(data)
    }
    fn sync(&self) -> Result<(), Errno> {
        self.files.sync()
    }
}
