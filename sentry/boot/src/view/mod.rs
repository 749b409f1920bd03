//! What the host sees of a container's files: a FUSE file system that the sentry serves.
//!
//! Engines enter the mount namespace of a container's process to look at its files and its /proc (`podman cp`, `podman
//! top`). That process is the sentry's, whose own root is empty; so a FUSE mount lies on top of that root, where nobody
//! but who enters the namespace comes to. It shows what the container's init sees: layers in memory, mounts, /proc.
//! Nothing is done before somebody looks: then the reactor starts the thread that serves until it has had nothing to do
//! for a while.
//!
//! The runtime makes the mount (`sandbox/view.rs` there) with `default_permissions`: who may do what is checked by the
//! host's kernel, and whoever gets here has power over the sentry. Still, the peer is treated as a guest is: requests are
//! parsed with checks, the tables are bounded.
//!
//! Neighbours: `wire` has the protocol's bytes, `nodes` what the host's kernel knows by number, `ops` does what it asks for.
//! Lock: `View::nodes` (leaf; not held while the VFS works).

mod nodes;
mod ops;
mod wire;

use crate::exec;
use chitin_abi::poll::POLLIN;
use chitin_control::IdMappings;
use chitin_kernel::reactor::HostFdWatch;
use chitin_kernel::{Kernel, run};
use chitin_vfs::{Context, Creds, MountNs};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};
use nodes::Nodes;
use parking_lot::Mutex;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Requests: a header, and the largest write.
const BUFFER: usize = (64 << 10) + 4096;
const STACK: usize = 256 << 10;
/// How long the thread stays when nobody asks for anything.
const IDLE_MS: u16 = 5000;

pub struct View {
    kernel: Weak<Kernel>,
    ns: Arc<MountNs>,
    ids: Ids,
    device: Arc<OwnedFd>,
    nodes: Mutex<Nodes>,
    /// The thread is there.
    serving: AtomicBool,
}

/// The container's ids and the host's.
struct Ids(Option<IdMappings>);

/// Shows a container's files from now on, until the result is dropped.
pub fn show(
    kernel: &Arc<Kernel>,
    ns: &Arc<MountNs>,
    ids: Option<IdMappings>,
    device: OwnedFd,
) -> Result<Arc<HostFdWatch>, String> {
    let device = Arc::new(device);
    let view = Arc::new(View {
        kernel: Arc::downgrade(kernel),
        ns: ns.clone(),
        ids: Ids(ids),
        device: device.clone(),
        nodes: Mutex::new(Nodes::new(ns.root())),
        serving: AtomicBool::new(false),
    });
    let on_ready = Box::new(move |events: u32| {
        // It can be written to at any time.
        if events & POLLIN != 0 {
            view.wake();
        }
    });
    kernel
        .reactor
        .watch_with(device, on_ready)
        .map_err(|error| format!("cannot watch the view of the container's files: {error}"))
}

impl View {
    fn wake(self: &Arc<View>) {
        if self.serving.swap(true, Ordering::AcqRel) {
            return;
        }
        let view = self.clone();
        let spawned =
            std::thread::Builder::new().name("view".into()).stack_size(STACK).spawn(move || view.serve());
        if let Err(error) = spawned {
            tracing::warn!(%error, "nobody can look at the container's files: no thread");
            self.serving.store(false, Ordering::Release);
        }
    }

    fn serve(&self) {
        let mut buffer = vec![0; BUFFER];
        loop {
            match read(&self.device, &mut buffer) {
                Ok(length) => {
                    let request = buffer.get(..length).unwrap_or_default();
                    self.answer(request);
                }
                Err(Errno::EAGAIN) => {
                    let mut fds = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
                    if matches!(poll(&mut fds, PollTimeout::from(IDLE_MS)), Ok(n) if n > 0) {
                        continue;
                    }
                    self.serving.store(false, Ordering::Release);
                    // What came in between has found a thread that served.
                    let mut fds = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
                    let came = matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0);
                    if !came || self.serving.swap(true, Ordering::AcqRel) {
                        return;
                    }
                }
                // The request was withdrawn, or a signal came.
                Err(Errno::ENOENT | Errno::EINTR) => {}
                // The mount is gone (ENODEV). With `serving` set nobody begins again.
                Err(_) => return,
            }
        }
    }

    fn answer(&self, request: &[u8]) {
        let Ok((header, args)) = wire::Header::split(request) else { return };
        let Some(kernel) = self.kernel.upgrade() else { return };
        let outcome = self.context(&kernel, &header).and_then(|ctx| self.run(&ctx, &header, args));
        run::drain();
        let reply = match outcome {
            Ok(None) => return,
            Ok(Some(body)) => wire::reply(header.unique, 0, &body),
            Err(errno) => wire::reply(header.unique, errno.raw().wrapping_neg(), &[]),
        };
        // Fails when the request was withdrawn.
        let _ = write(&self.device, &reply);
    }

    /// Root of the container's, whose new files belong to whoever asks.
    fn context(&self, kernel: &Arc<Kernel>, header: &wire::Header) -> Result<Context, chitin_abi::Errno> {
        let root = Creds::root();
        let creds = Creds {
            // Host users that the container does not know are its root.
            fsuid: self.ids.uid_inside(header.uid).unwrap_or(root.fsuid),
            fsgid: self.ids.gid_inside(header.gid).unwrap_or(root.fsgid),
            ..root
        };
        // The host's kernel has applied the umask.
        Ok(exec::context(kernel, &self.ns, creds, 0))
    }
}

/// Ids that the other side has no name for.
const OVERFLOW_ID: u32 = 65534;

impl Ids {
    fn uid_inside(&self, host: u32) -> Option<u32> {
        self.0.as_ref().map_or(Some(host), |maps| inside(&maps.uids, host))
    }
    fn gid_inside(&self, host: u32) -> Option<u32> {
        self.0.as_ref().map_or(Some(host), |maps| inside(&maps.gids, host))
    }
    fn uid_outside(&self, id: u32) -> u32 {
        self.0.as_ref().map_or(Some(id), |maps| outside(&maps.uids, id)).unwrap_or(OVERFLOW_ID)
    }
    fn gid_outside(&self, id: u32) -> u32 {
        self.0.as_ref().map_or(Some(id), |maps| outside(&maps.gids, id)).unwrap_or(OVERFLOW_ID)
    }
}

fn inside(maps: &[chitin_control::IdMapping], host: u32) -> Option<u32> {
    maps.iter().find_map(|r| {
        let offset = host.checked_sub(r.host).filter(|offset| *offset < r.size)?;
        r.container.checked_add(offset)
    })
}

fn outside(maps: &[chitin_control::IdMapping], id: u32) -> Option<u32> {
    maps.iter().find_map(|r| {
        let offset = id.checked_sub(r.container).filter(|offset| *offset < r.size)?;
        r.host.checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_control::IdMapping;

    #[test]
    fn ids_are_translated_both_ways() {
        let range = |container, host, size| IdMapping { container, host, size };
        let maps = vec![range(0, 100_000, 10), range(1000, 5, 1)];
        let ids = Ids(Some(IdMappings { uids: maps.clone(), gids: maps }));
        assert_eq!((ids.uid_inside(100_003), ids.gid_inside(5)), (Some(3), Some(1000)));
        assert_eq!((ids.uid_inside(100_010), ids.uid_inside(0)), (None, None));
        assert_eq!((ids.uid_outside(9), ids.gid_outside(1000)), (100_009, 5));
        assert_eq!(ids.uid_outside(10), OVERFLOW_ID);
        let own = Ids(None);
        assert_eq!((own.uid_inside(7), own.uid_outside(7)), (Some(7), 7));
    }
}
