//! Mount trees outside of any namespace: what is about to be attached, and copies of it.

use super::Mount;
use crate::{Dentry, Path};
use std::collections::HashMap;
use std::sync::Arc;

/// How a copy is tied to its original.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ties {
    /// Peer of a shared one, slave of the same master.
    Same,
    /// Slave of the original, which is shared.
    Slave,
    /// The same, and shared with copies of its own.
    SharedSlave,
    /// Slave of the original if that is shared, or else slave of the same master.
    Less,
}

/// A mount and the mounts below it, outer ones first; the top has no place yet.
pub(super) struct Tree {
    pub top: Arc<Mount>,
    /// With their mount points, which lie in mounts of this tree.
    pub below: Vec<(Arc<Mount>, Path)>,
}

fn copy_of(mount: &Arc<Mount>, root: Arc<Dentry>, ties: Ties) -> Arc<Mount> {
    let copy = Mount::of(root, mount.source(), mount.flags(), &mount.user_ns);
    copy.lock_like(mount);
    match ties {
        Ties::Same => copy.tie_like(mount),
        Ties::Less if !mount.is_shared() => copy.tie_like(mount),
        Ties::Slave | Ties::SharedSlave | Ties::Less => {
            if let Some(group) = mount.peers() {
                copy.become_slave_of(&group);
            }
            if ties == Ties::SharedSlave {
                copy.make_shared();
            }
        }
    }
    copy
}

impl Tree {
    pub fn of(top: Arc<Mount>) -> Tree {
        Tree { top, below: Vec::new() }
    }

    pub fn mounts(&self) -> impl Iterator<Item = &Arc<Mount>> {
        std::iter::once(&self.top).chain(self.below.iter().map(|(mount, _)| mount))
    }

    pub fn len(&self) -> usize {
        self.below.len().saturating_add(1)
    }

    /// For a namespace with less power than where it comes from.
    pub fn lock(&self) {
        self.mounts().for_each(|mount| mount.lock(!Arc::ptr_eq(mount, &self.top)));
    }

    /// The same mounts once more.
    pub fn alias(&self) -> Tree {
        Tree { top: self.top.clone(), below: self.below.clone() }
    }

    /// A copy of the whole tree.
    pub fn copy(&self, ties: Ties) -> Tree {
        copy_tree(&self.top, self.top.root().clone(), &self.below, ties, true)
    }
}

/// A copy of `top` from `root` on, with the mounts `below` it (outer ones first); unbindable ones, and what is below
/// them, only if they shall come along.
pub(super) fn copy_tree(
    top: &Arc<Mount>,
    root: Arc<Dentry>,
    below: &[(Arc<Mount>, Path)],
    ties: Ties,
    unbindable: bool,
) -> Tree {
    let mut tree = Tree::of(copy_of(top, root, ties));
    let mut copies: HashMap<u64, Arc<Mount>> = HashMap::from([(top.id(), tree.top.clone())]);
    for (mount, point) in below {
        if mount.is_unbindable() && !unbindable {
            continue;
        }
        let Some(parent) = copies.get(&point.mount.id()).cloned() else { continue };
        let copy = copy_of(mount, mount.root().clone(), ties);
        copies.insert(mount.id(), copy.clone());
        tree.below.push((copy, Path { mount: parent, dentry: point.dentry.clone() }));
    }
    tree
}
