//! Names of AF_UNIX sockets: bind(2), automatic names, and finding whom a name means.

use super::UnixSock;
use crate::{SockAddr, UnixAddr};
use chitin_abi::Errno;
use chitin_vfs::creds::MAY_WRITE;
use chitin_vfs::walk::Walk;
use chitin_vfs::{Context, FileKind, NewKind};
use std::any::Any;
use std::collections::hash_map::Entry;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// Automatic names are five hexadecimal digits.
const AUTO_NAMES: u32 = 1 << 20;

impl UnixSock {
    pub(super) fn bind_to(&self, ctx: &Context, addr: &SockAddr) -> Result<(), Errno> {
        let SockAddr::Unix(addr) = addr else { return Err(Errno::EINVAL) };
        match addr {
            UnixAddr::Unnamed => self.autobind(),
            UnixAddr::Path(path) => self.bind_path(ctx, path),
            UnixAddr::Abstract(name) => {
                let _guard = self.bind_lock.lock();
                if self.addr().is_some() {
                    return Err(Errno::EINVAL);
                }
                if !self.claim(name) {
                    return Err(Errno::EADDRINUSE);
                }
                self.set_addr(addr.clone());
                Ok(())
            }
        }
    }

    /// Names never change once set; the callers hold `bind_lock` and have checked that there is none.
    fn set_addr(&self, addr: UnixAddr) {
        let _ = self.shared.addr.set(addr);
    }

    fn bind_path(&self, ctx: &Context, path: &[u8]) -> Result<(), Errno> {
        let _guard = self.bind_lock.lock();
        let made = ctx.make(&ctx.cwd, path, NewKind::Socket, 0o777).map_err(|error| match error {
            Errno::EEXIST => Errno::EADDRINUSE,
            error => error,
        })?;
        if self.addr().is_some() {
            ctx.unlink(&ctx.cwd, path)?;
            return Err(Errno::EINVAL);
        }
        let me: Weak<dyn Any + Send + Sync> = self.me.clone();
        made.inode().state().bind_socket(me);
        self.state.lock().place = Some(made);
        self.set_addr(UnixAddr::Path(path.to_vec()));
        Ok(())
    }

    /// Takes an abstract name, unless a living socket of the same type has it.
    fn claim(&self, name: &[u8]) -> bool {
        match self.common.ns.abstracts.lock().entry((self.kind(), name.to_vec())) {
            Entry::Occupied(mut taken) => {
                if taken.get().strong_count() > 0 {
                    return false;
                }
                taken.insert(self.me.clone());
                true
            }
            Entry::Vacant(free) => {
                free.insert(self.me.clone());
                true
            }
        }
    }

    /// Gives it an abstract name of the kernel's choice if it has none: ENOSPC when all are taken.
    pub(super) fn autobind(&self) -> Result<(), Errno> {
        let _guard = self.bind_lock.lock();
        if self.addr().is_some() {
            return Ok(());
        }
        for _ in 0..AUTO_NAMES {
            let number = self.common.ns.autobind.fetch_add(1, Ordering::Relaxed) % AUTO_NAMES;
            let name = format!("{number:05x}").into_bytes();
            if self.claim(&name) {
                self.set_addr(UnixAddr::Abstract(name));
                return Ok(());
            }
        }
        Err(Errno::ENOSPC)
    }

    /// Who wants credentials with its messages must be known by a name.
    pub(super) fn autobind_if_passing(&self) -> Result<(), Errno> {
        if self.common.passcred() && self.addr().is_none() { self.autobind() } else { Ok(()) }
    }

    /// Gives the abstract name back.
    pub(super) fn forget_name(&self) {
        let Some(UnixAddr::Abstract(name)) = self.addr() else { return };
        let mut abstracts = self.common.ns.abstracts.lock();
        let key = (self.kind(), name.clone());
        if abstracts.get(&key).is_some_and(|owner| Weak::ptr_eq(owner, &self.me)) {
            abstracts.remove(&key);
        }
    }

    /// The living socket that a name means to this one.
    pub(super) fn find(&self, ctx: &Context, addr: &SockAddr) -> Result<Arc<UnixSock>, Errno> {
        let found = match addr {
            SockAddr::Unix(UnixAddr::Path(path)) => {
                let found = ctx.walk(&ctx.cwd, path, Walk::FOLLOW)?;
                ctx.may(found.inode(), MAY_WRITE)?;
                if found.inode().kind() != FileKind::Socket {
                    return Err(Errno::ECONNREFUSED);
                }
                let bound = found.inode().state().bound_socket();
                bound.and_then(|bound| bound.downcast::<UnixSock>().ok())
            }
            SockAddr::Unix(UnixAddr::Abstract(name)) => {
                let key = (self.kind(), name.clone());
                self.common.ns.abstracts.lock().get(&key).and_then(Weak::upgrade)
            }
            _ => return Err(Errno::EINVAL),
        };
        let found = found.ok_or(Errno::ECONNREFUSED)?;
        if found.state.lock().dead {
            return Err(Errno::ECONNREFUSED);
        }
        if found.kind() != self.kind() {
            return Err(Errno::EPROTOTYPE);
        }
        Ok(found)
    }
}
