//! Families of address spaces, which the host can tell apart.

use crate::{BoxFuture, PlatformError, Spawned};
use std::os::fd::OwnedFd;

/// Called when the host has ended an origin (by this signal) that the sentry still wanted.
pub type OnLost = Box<dyn Fn(i32) + Send + Sync>;

/// A family of address spaces: all host processes in it descend from one *origin*, so that whatever the host inherits
/// over fork (a cgroup above all) is given to them by giving it to the origin before the first space is made. Dropping
/// the group ends the origin and leaves the spaces alone. Where guests are no processes of the host, there is none.
pub trait SpaceGroup: Send + Sync {
    /// As [`crate::Platform::new_space`], within the group.
    fn new_space(&self) -> BoxFuture<Result<Spawned, PlatformError>>;

    /// A pidfd of the origin; `None`: the host cannot tell the group's spaces from others.
    fn origin(&self) -> Result<Option<OwnedFd>, PlatformError>;
}
