//! Extended attributes; those of exclusive trees that were asked for are kept, since every execve asks.

use crate::inode::GoferInode;
use chitin_abi::Errno;
use chitin_vfs::Xattrs;
use std::collections::HashMap;

/// Answers kept per inode, and the largest value kept.
const VALUES_MAX: usize = 8;
const VALUE_MAX: usize = 256;

/// Answers by name.
pub type Values = HashMap<Box<[u8]>, Result<Vec<u8>, Errno>>;

impl GoferInode {
    pub(crate) fn drop_values(&self) {
        let old = self.values.lock().take();
        drop(old);
    }

    fn known(&self, name: &[u8]) -> Option<Result<Vec<u8>, Errno>> {
        self.values.lock().as_ref()?.get(name).cloned()
    }

    fn ask(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        match self.with_node(|client, node| client.getxattr(node, name)) {
            // Not served by the gofer: for the guest there are none.
            Err(Errno::EPERM) if name.starts_with(b"trusted.") => Err(Errno::ENODATA),
            outcome => outcome,
        }
    }

    fn changing(
        &self,
        request: impl Fn(&chitin_gofer_protocol::Client, u64) -> Result<(), chitin_gofer_protocol::GoferError>,
    ) -> Result<(), Errno> {
        self.core.writable()?;
        let outcome = self.with_node(request);
        // The status change time, and with ACLs the mode. Then the values, so that an answer under way is not kept.
        self.changed();
        self.drop_values();
        outcome
    }
}

impl Xattrs for GoferInode {
    fn get(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if self.core.shared() {
            return self.ask(name);
        }
        if let Some(known) = self.known(name) {
            return known;
        }
        let version = self.cached.lock().version;
        let answer = self.ask(name);
        let lasting = match &answer {
            Ok(value) => value.len() <= VALUE_MAX,
            Err(error) => matches!(*error, Errno::ENODATA | Errno::EOPNOTSUPP),
        };
        if lasting {
            // Changes count the version up before they drop the values.
            let cached = self.cached.lock();
            if cached.version == version {
                let mut values = self.values.lock();
                let values = values.get_or_insert_default();
                if values.len() < VALUES_MAX {
                    values.insert(name.into(), answer.clone());
                }
            }
        }
        answer
    }

    fn list(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let packed = self.with_node(|client, node| client.listxattr(node))?;
        Ok(packed.split(|&b| b == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
    }

    fn set(&self, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        self.changing(|client, node| client.setxattr(node, name, value, flags))
    }

    fn remove(&self, name: &[u8]) -> Result<(), Errno> {
        self.changing(|client, node| client.removexattr(node, name))
    }
}
