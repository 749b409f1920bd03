//! Families of address spaces: a zygote of its own for each, forked from the first one.
//!
//! Neighbours: `spawn` forks zygotes as it forks everything, `task` tells of their deaths.

use crate::sandbox::Sandbox;
use crate::spawn;
use crate::task::Task;
use chitin_platform::{BoxFuture, OnLost, PlatformError, PlatformTask, SpaceGroup, Spawn, Spawned};
use std::os::fd::OwnedFd;
use std::sync::Arc;

struct Group {
    zygote: Arc<Task>,
}

/// Forks a further zygote.
pub async fn make(sb: Arc<Sandbox>, lost: OnLost) -> Result<Arc<dyn SpaceGroup>, PlatformError> {
    let first = sb.zygote.get().cloned().ok_or(PlatformError::Gone)?;
    let spawned = spawn::spawn(first, Spawn::Fork).await?;
    let id = u32::try_from(spawned.task.debug_id()).map_err(|_| PlatformError::Gone)?;
    let Some(zygote) = sb.table.get(id) else {
        spawned.task.kill_process();
        return Err(PlatformError::Gone);
    };
    sb.origins.lock().insert(zygote.proc.pid, lost);
    Ok(Arc::new(Group { zygote }))
}

impl SpaceGroup for Group {
    fn new_space(&self) -> BoxFuture<Result<Spawned, PlatformError>> {
        Box::pin(spawn::new_space(self.zygote.clone()))
    }

    fn origin(&self) -> Result<OwnedFd, PlatformError> {
        self.zygote.proc.pidfd().map_err(|errno| match errno {
            libc::ESRCH => PlatformError::Gone,
            errno => PlatformError::Host { op: "pidfd_open", errno },
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.zygote.kill_process();
    }
}
