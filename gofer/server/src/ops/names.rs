//! Changing names: rename and unlink.

use std::sync::Arc;

use chitin_gofer_protocol::NodeId;
use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::resolve::{Name, Node};
use crate::server::Server;
use crate::tree::Key;

impl Server {
    pub(super) fn rename(
        &self,
        from: NodeId,
        from_name: &[u8],
        to: NodeId,
        to_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let (from_name, to_name) = (Name::check(from_name)?, Name::check(to_name)?);
        let flags = RenameFlags::from_bits(flags)
            .filter(|flags| (RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE).contains(*flags))
            .filter(|flags| !flags.is_all())
            .ok_or(Errno::EINVAL)?;
        let from = self.writable_dir(from)?;
        let to = self.writable_dir(to)?;
        if from.root != to.root {
            return Err(Errno::EXDEV);
        }
        let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
        let order = self.renaming.lock();
        if !exchange {
            self.pin(&to, &to_name);
        }
        renameat2(from.fd(), from_name.c_str(), to.fd(), to_name.c_str(), flags)?;
        let evicted =
            self.tree.lock().renamed(from.key, from_name.bytes(), to.key, to_name.bytes(), exchange);
        drop(order);
        drop(evicted);
        Ok(())
    }

    pub(super) fn unlink(&self, parent: NodeId, name: &[u8], flags: u32) -> Result<(), Errno> {
        let name = Name::check(name)?;
        let how = match flags {
            0 => UnlinkatFlags::NoRemoveDir,
            flags if flags == libc::AT_REMOVEDIR as u32 => UnlinkatFlags::RemoveDir,
            _ => return Err(Errno::EINVAL),
        };
        let parent = self.writable_dir(parent)?;
        let was = self.pin(&parent, &name);
        unlinkat(parent.fd(), name.c_str(), how)?;
        let evicted = self.tree.lock().removed(parent.key, name.bytes(), was);
        drop(evicted);
        Ok(())
    }

    /// Opens the descriptor of what is about to lose its name, if the client knows that file: it can be
    /// used on afterwards, but not be found any more.
    fn pin(&self, parent: &Node, name: &Name) -> Option<Key> {
        let (key, open) = {
            let mut tree = self.tree.lock();
            let (key, _) = tree.child(parent.key, name.bytes())?;
            (key, tree.get(key).is_ok_and(|view| view.fd.is_some()))
        };
        if !open && self.tree.lock().is_referenced(key) {
            // If it cannot be opened, it will be stale; the removal itself decides about success.
            let _: Result<Arc<_>, Errno> = self.reopen(key);
        }
        Some(key)
    }
}
