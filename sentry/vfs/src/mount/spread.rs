//! Where a change goes besides the place it was made (fs/pnode.c). [`super::group::lock`] is held.

use super::group::Group;
use super::tree::{Ties, Tree};
use super::{Mount, MountNs};
use crate::{Dentry, Path};
use std::collections::HashSet;
use std::sync::Arc;

/// A mount of the group's propagation that shows the directory.
fn shows(mount: &Arc<Mount>, dentry: &Arc<Dentry>) -> Option<Arc<MountNs>> {
    if dentry.is_within(mount.root()) { mount.ns() } else { None }
}

/// Copies of `tree`, which was mounted at `point`, for every other mount that sees what happens to `point`'s.
/// All mounts of `tree` are shared.
pub(super) fn copies(tree: &Tree, point: &Path) -> Vec<(Arc<MountNs>, Path, Tree)> {
    let mut found = Vec::new();
    let Some(group) = point.mount.peers() else { return found };
    let new: HashSet<u64> = tree.mounts().map(|mount| mount.id()).collect();
    for peer in group.members() {
        if Arc::ptr_eq(&peer, &point.mount) || new.contains(&peer.id()) {
            continue;
        }
        if let Some(ns) = shows(&peer, &point.dentry) {
            let place = Path { mount: peer, dentry: point.dentry.clone() };
            found.push((ns, place, tree.copy(Ties::Same)));
        }
    }
    let mut seen = HashSet::from([group.id]);
    to_slaves(&group, tree, &point.dentry, &new, &mut seen, &mut found);
    found
}

fn to_slaves(
    group: &Group,
    source: &Tree,
    dentry: &Arc<Dentry>,
    new: &HashSet<u64>,
    seen: &mut HashSet<u64>,
    found: &mut Vec<(Arc<MountNs>, Path, Tree)>,
) {
    for slave in group.slaves() {
        let Some(peers) = slave.peers() else {
            if !new.contains(&slave.id())
                && let Some(ns) = shows(&slave, dentry)
            {
                let place = Path { mount: slave, dentry: dentry.clone() };
                found.push((ns, place, source.copy(Ties::Slave)));
            }
            continue;
        };
        if !seen.insert(peers.id) {
            continue;
        }
        // The first of them gets a slave copy that is shared with the others'.
        let mut first: Option<usize> = None;
        for member in peers.members() {
            if new.contains(&member.id()) {
                continue;
            }
            let Some(ns) = shows(&member, dentry) else { continue };
            let copy = match first.and_then(|at| found.get(at)) {
                Some((_, _, copy)) => copy.copy(Ties::Same),
                None => source.copy(Ties::SharedSlave),
            };
            first = first.or(Some(found.len()));
            found.push((ns, Path { mount: member, dentry: dentry.clone() }, copy));
        }
        // Copying ends the borrow of `found`.
        match first.and_then(|at| found.get(at)).map(|(_, _, copy)| copy.alias()) {
            Some(copy) => to_slaves(&peers, &copy, dentry, new, seen, found),
            None => to_slaves(&peers, source, dentry, new, seen, found),
        }
    }
}

/// All other mounts that see what happens to this one.
pub(super) fn audience(mount: &Arc<Mount>) -> Vec<Arc<Mount>> {
    let mut found: Vec<Arc<Mount>> = Vec::new();
    let mut seen = HashSet::new();
    let mut groups: Vec<Arc<Group>> = mount.peers().into_iter().collect();
    while let Some(group) = groups.pop() {
        if !seen.insert(group.id) {
            continue;
        }
        found.extend(group.members().into_iter().filter(|member| !Arc::ptr_eq(member, mount)));
        for slave in group.slaves() {
            match slave.peers() {
                Some(peers) => groups.push(peers),
                None => found.push(slave),
            }
        }
    }
    found
}
