//! The numbers of a descriptor table: low ones lie in a row, high ones in a tree, so that one descriptor with the
//! highest number does not cost what a million would. What all tables take up is bounded ([`FD_BLOCKS`]).

use super::Fd;
use chitin_abi::Errno;
use chitin_vfs::bounds::FD_BLOCKS;
use std::collections::BTreeMap;

/// Numbers that lie in a row.
const NEAR: usize = 1024;
/// The row grows by as much; what [`FD_BLOCKS`] counts.
const BLOCK: usize = 64;
/// Entries of the tree that take up as much as a block of the row.
const FAR_BLOCK: usize = 32;

#[derive(Default)]
pub(super) struct Slots {
    near: Vec<Option<Fd>>,
    far: BTreeMap<usize, Fd>,
    /// No free number below this.
    pub(super) first_free: usize,
    /// Taken of [`FD_BLOCKS`].
    charged: usize,
}

impl Slots {
    /// A copy; `None` when there are too many descriptors in the sandbox.
    pub(super) fn copy(&self) -> Option<Slots> {
        FD_BLOCKS.take(self.charged).then(|| self.copy_charged())
    }

    /// A copy even if there are too many.
    pub(super) fn copy_in_any_case(&self) -> Slots {
        let _within = FD_BLOCKS.force(self.charged);
        self.copy_charged()
    }

    fn copy_charged(&self) -> Slots {
        Slots {
            near: self.near.clone(),
            far: self.far.clone(),
            first_free: self.first_free,
            charged: self.charged,
        }
    }

    pub(super) fn get(&self, at: usize) -> Option<&Fd> {
        match at < NEAR {
            true => self.near.get(at)?.as_ref(),
            false => self.far.get(&at),
        }
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Fd> {
        match at < NEAR {
            true => self.near.get_mut(at)?.as_mut(),
            false => self.far.get_mut(&at),
        }
    }

    /// Puts a descriptor at a number; what was there is returned. ENOMEM when there are too many in the sandbox.
    pub(super) fn put(&mut self, at: usize, fd: Fd) -> Result<Option<Fd>, Errno> {
        let near = if at < NEAR { self.near.len().max((at / BLOCK + 1) * BLOCK) } else { self.near.len() };
        let far = self.far.len() + usize::from(at >= NEAR);
        let cost = near / BLOCK + far.div_ceil(FAR_BLOCK);
        if cost > self.charged {
            if !FD_BLOCKS.take(cost - self.charged) {
                return Err(Errno::ENOMEM);
            }
            self.charged = cost;
        }
        if at >= NEAR {
            return Ok(self.far.insert(at, fd));
        }
        if near > self.near.len() {
            self.near.resize(near, None);
        }
        Ok(self.near.get_mut(at).and_then(|slot| slot.replace(fd)))
    }

    pub(super) fn take(&mut self, at: usize) -> Option<Fd> {
        let fd = match at < NEAR {
            true => self.near.get_mut(at)?.take()?,
            false => self.far.remove(&at)?,
        };
        self.first_free = self.first_free.min(at);
        Some(fd)
    }

    /// The lowest free number from `from` on.
    pub(super) fn free(&self, from: usize) -> usize {
        let mut at = from;
        while self.get(at).is_some() {
            at += 1;
        }
        at
    }

    /// What is open, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Fd)> {
        let near = self.near.iter().enumerate().filter_map(|(at, slot)| Some((at, slot.as_ref()?)));
        near.chain(self.far.iter().map(|(at, fd)| (*at, fd)))
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        FD_BLOCKS.give(self.charged);
    }
}
