//! Whose a network namespace is: one sandbox at a time can answer for its addresses.
//!
//! The claim is the name of a unix socket, of which every network namespace has its own set. The sentry holds the socket, which
//! can do nothing but have that name, so the claim ends with the sentry, however that ends, and holds against runtimes with
//! another `--root`.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
use serde::{Deserialize, Serialize};

use super::{answers, netlink::Netlink, silence, within};
use crate::container::State;
use crate::util::{Context, Result};

const NAME: &[u8] = b"chitin/network";

/// A network namespace that a configuration names, told apart from a later one in the same place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    path: PathBuf,
    inode: u64,
    /// What the host's stack there chose ports from before the sandbox came, if that has changed.
    #[serde(default)]
    pub ports: Option<String>,
}

impl Named {
    pub fn at(path: &Path) -> Result<Self> {
        let inode = std::fs::metadata(path).map(|data| data.ino());
        Ok(Self {
            path: path.to_owned(),
            inode: inode.context(|| format!("{}", path.display()))?,
            ports: None,
        })
    }

    fn open(&self) -> Option<File> {
        let file = File::open(&self.path).ok()?;
        let same = file.metadata().is_ok_and(|data| data.ino() == self.inode);
        same.then_some(file)
    }
}

/// Claims the namespace that the calling thread is in; `None`: it is somebody's.
pub fn claim() -> Result<Option<OwnedFd>> {
    let failed = || "cannot claim the network namespace".to_owned();
    let socket =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).context(failed)?;
    let name = UnixAddr::new_abstract(NAME).context(failed)?;
    match bind(socket.as_raw_fd(), &name) {
        Ok(()) => Ok(Some(socket)),
        Err(nix::Error::EADDRINUSE) => Ok(None),
        Err(e) => Err(e).context(failed),
    }
}

/// Why `id` cannot have the namespace of the process `pid`: who has it, and what to do.
pub fn refusal(root: &Path, id: &str, pid: i32) -> String {
    let inode = |pid: i32| std::fs::metadata(format!("/proc/{pid}/ns/net")).map(|data| data.ino()).ok();
    let own = inode(pid);
    let all = crate::container::list(root).unwrap_or_default();
    let holder = all.iter().find(|other| {
        other.id != id && other.sandbox.is_none() && other.is_alive() && inode(other.sentry.pid) == own
    });
    let (who, whose) = match holder {
        Some(holder) => (format!("the sandbox {}", holder.id), holder.sentry.pid.to_string()),
        None => ("another sandbox (of another --root)".to_owned(), "PID".to_owned()),
    };
    format!(
        "the network namespace belongs to {who}, whose network stack answers for it: to share it a container has to run in \
         that sandbox (name it as /proc/{whose}/ns/net, which `--network container:` of docker and podman and pods do), \
         otherwise give it a namespace of its own"
    )
}

/// The sandbox of a running container whose process's network namespace `path` names: that is how engines ask for a container
/// that shares another one's network.
pub fn holder(root: &Path, id: &str, path: &Path) -> Option<String> {
    let inside = path.strip_prefix("/proc").ok()?;
    let mut parts = inside.iter().map(|part| part.to_str());
    let pid: i32 = parts.next()??.parse().ok()?;
    if !parts.eq([Some("ns"), Some("net")]) {
        return None;
    }
    let all = crate::container::list(root).ok()?;
    let found =
        all.into_iter().find(|other| other.id != id && other.init().pid == pid && other.is_alive())?;
    Some(found.sandbox.unwrap_or(found.id))
}

/// The sandbox is gone: whoever comes finds the namespace as it was before. Not if it is another one's by now.
pub fn give_back(state: &State) {
    let Some(named) = &state.namespace else { return };
    let Some(namespace) = named.open() else { return };
    let restored = within(namespace, || {
        let Some(_claim) = claim()? else { return Ok(()) };
        if let Some(before) = &named.ports {
            answers::set_ports(before)?;
        }
        silence::give_back(&mut Netlink::open()?)
    });
    if let Err(e) = restored {
        crate::log::warn(&format!("{e}: for others than a sandbox, the namespace has to be made anew"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_claimed_once() {
        // In one of its own, so that it disturbs nobody; without the right to make one there is nothing to see.
        std::thread::spawn(|| {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                return;
            }
            let claimed = claim().unwrap();
            assert!(claimed.is_some() && claim().unwrap().is_none());
            drop(claimed);
            assert!(claim().unwrap().is_some());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn only_a_process_names_its_container() {
        for path in ["/run/netns/x", "/proc/self/ns/net", "/proc/1/ns/uts", "/proc/1/ns", "/proc/1/ns/net/x"]
        {
            assert_eq!(holder(Path::new("/nonexistent"), "c", Path::new(path)), None, "{path}");
        }
    }
}
