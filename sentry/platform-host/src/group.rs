//! Families of address spaces: a zygote of its own for each, forked from the first one.
//!
//! Neighbours: a platform's task is a [`Zygote`], since any task can become one; it tells of deaths.

use chitin_platform::{BoxFuture, OnLost, PlatformError, PlatformTask, SpaceGroup, Spawned};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A task that others are forked from.
pub trait Zygote: PlatformTask + 'static {
    fn fork(self: Arc<Self>) -> BoxFuture<Result<Spawned, PlatformError>>;
    fn new_space(self: Arc<Self>) -> BoxFuture<Result<Spawned, PlatformError>>;
    /// The platform's task of this number.
    fn find(&self, id: u32) -> Option<Arc<Self>>;
    /// Remembers what is to be told if its process dies unasked.
    fn on_lost(&self, lost: OnLost);
    fn pidfd(&self) -> Result<OwnedFd, i32>;
}

struct Group<Z: Zygote> {
    zygote: Arc<Z>,
}

/// Forks a further zygote.
pub async fn make<Z: Zygote>(first: Arc<Z>, lost: OnLost) -> Result<Arc<dyn SpaceGroup>, PlatformError> {
    let spawned = first.clone().fork().await?;
    let id = u32::try_from(spawned.task.debug_id()).map_err(|_| PlatformError::Gone)?;
    let Some(zygote) = first.find(id) else {
        spawned.task.kill_process();
        return Err(PlatformError::Gone);
    };
    zygote.on_lost(lost);
    Ok(Arc::new(Group { zygote }))
}

impl<Z: Zygote> SpaceGroup for Group<Z> {
    fn new_space(&self) -> BoxFuture<Result<Spawned, PlatformError>> {
        self.zygote.clone().new_space()
    }

    fn origin(&self) -> Result<Option<OwnedFd>, PlatformError> {
        self.zygote.pidfd().map(Some).map_err(|errno| match errno {
            libc::ESRCH => PlatformError::Gone,
            errno => PlatformError::Host { op: "pidfd_open", errno },
        })
    }
}

impl<Z: Zygote> Drop for Group<Z> {
    fn drop(&mut self) {
        self.zygote.kill_process();
    }
}
