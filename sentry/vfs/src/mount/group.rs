//! Peer groups, and who is whose slave.

use super::Mount;
use parking_lot::{Mutex, ReentrantMutex, ReentrantMutexGuard};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Held over every change of mounts anywhere (Linux's namespace_sem): changes spread from namespace to namespace.
/// Reentrant, since the last reference to a namespace may go away under it.
pub(super) fn lock() -> ReentrantMutexGuard<'static, ()> {
    static ALL: ReentrantMutex<()> = ReentrantMutex::new(());
    ALL.lock()
}

/// What mount(2) makes of a mount's propagation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Shared,
    Slave,
    Private,
    Unbindable,
}

/// A mount's ties to others.
#[derive(Default)]
pub(super) struct Tie {
    peers: Option<Arc<Group>>,
    master: Option<Arc<Group>>,
    unbindable: bool,
}

/// Mounts that see each other's changes.
pub(super) struct Group {
    pub id: u64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    members: Vec<Weak<Mount>>,
    slaves: Vec<Weak<Mount>>,
}

fn living(list: &[Weak<Mount>]) -> Vec<Arc<Mount>> {
    list.iter().filter_map(Weak::upgrade).collect()
}

/// Takes a mount, and whatever is dead, off a list.
fn strike(list: &mut Vec<Weak<Mount>>, mount: &Arc<Mount>) {
    list.retain(|known| known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), Arc::as_ptr(mount)));
}

impl Group {
    fn new() -> Arc<Group> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Group { id: NEXT.fetch_add(1, Ordering::Relaxed), inner: Mutex::default() })
    }
    pub fn members(&self) -> Vec<Arc<Mount>> {
        living(&self.inner.lock().members)
    }
    pub fn slaves(&self) -> Vec<Arc<Mount>> {
        living(&self.inner.lock().slaves)
    }
    fn join(&self, mount: &Arc<Mount>) {
        self.inner.lock().members.push(Arc::downgrade(mount));
    }
    fn enslave(&self, mount: &Arc<Mount>) {
        self.inner.lock().slaves.push(Arc::downgrade(mount));
    }
}

/// What changes ties needs [`lock`] held.
impl Mount {
    pub(super) fn peers(&self) -> Option<Arc<Group>> {
        self.tie.lock().peers.clone()
    }
    pub(super) fn master(&self) -> Option<Arc<Group>> {
        self.tie.lock().master.clone()
    }

    /// The number of its peer group, as mountinfo shows it (`shared:N`).
    pub fn peer_group(&self) -> Option<u64> {
        self.peers().map(|group| group.id)
    }
    /// The number of the group it is a slave of (`master:N`).
    pub fn master_group(&self) -> Option<u64> {
        self.master().map(|group| group.id)
    }
    pub fn is_shared(&self) -> bool {
        self.tie.lock().peers.is_some()
    }
    pub fn is_unbindable(&self) -> bool {
        self.tie.lock().unbindable
    }

    /// set_mnt_shared()
    pub(super) fn make_shared(self: &Arc<Mount>) {
        let mut tie = self.tie.lock();
        tie.unbindable = false;
        if tie.peers.is_none() {
            let group = Group::new();
            group.join(self);
            tie.peers = Some(group);
        }
    }

    /// Leaves its group. A group's slaves stay the group's while it has members; then they are its last member's master's.
    fn leave_peers(self: &Arc<Mount>) -> Option<Arc<Group>> {
        let group = self.tie.lock().peers.take()?;
        let orphans = {
            let mut inner = group.inner.lock();
            strike(&mut inner.members, self);
            if !inner.members.is_empty() {
                drop(inner);
                return Some(group);
            }
            std::mem::take(&mut inner.slaves)
        };
        let master = self.master();
        for slave in living(&orphans) {
            if let Some(master) = &master {
                master.enslave(&slave);
            }
            slave.tie.lock().master = master.clone();
        }
        None
    }

    fn leave_master(self: &Arc<Mount>) {
        if let Some(master) = self.tie.lock().master.take() {
            strike(&mut master.inner.lock().slaves, self);
        }
    }

    pub(super) fn become_slave_of(self: &Arc<Mount>, group: &Arc<Group>) {
        self.leave_master();
        group.enslave(self);
        self.tie.lock().master = Some(group.clone());
    }

    /// Cuts all ties.
    pub(super) fn make_private(self: &Arc<Mount>) {
        self.leave_peers();
        self.leave_master();
        self.tie.lock().unbindable = false;
    }

    /// change_mnt_propagation()
    pub(super) fn change(self: &Arc<Mount>, kind: Propagation) {
        match kind {
            Propagation::Shared => self.make_shared(),
            Propagation::Slave => {
                // Of the peers it had; without any it stays what it was else.
                if let Some(group) = self.leave_peers() {
                    self.become_slave_of(&group);
                }
                self.tie.lock().unbindable = false;
            }
            Propagation::Private => self.make_private(),
            Propagation::Unbindable => {
                self.make_private();
                self.tie.lock().unbindable = true;
            }
        }
    }

    /// Joins another mount's groups, as its copy (clone_mnt()).
    pub(super) fn tie_like(self: &Arc<Mount>, other: &Mount) {
        if let Some(group) = other.peers() {
            group.join(self);
            self.tie.lock().peers = Some(group);
        }
        if let Some(master) = other.master() {
            self.become_slave_of(&master);
        }
        self.tie.lock().unbindable = other.is_unbindable();
    }
}
