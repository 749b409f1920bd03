//! The gofer's own root: a read-only tmpfs with `/roots/N` for each donated tree and `/fd`. It can be searched by whoever
//! the gofer is in the container's user namespace.
//!
//! `/fd` is a bind mount of `/proc/self/fd`. It lets the gofer reopen exactly the file an `O_PATH`
//! descriptor names, which no path could do safely; and because it is a mount of that one directory,
//! nothing else of procfs can be reached from it, not even by `..`.
//!
//! In a user namespace, mounts that were copied from a more privileged namespace are locked together: a
//! tree with mounts below it can then only be bound with all of them. For a root that is not recursive
//! that is done where the kernel insists, and `RESOLVE_NO_XDEV` keeps what is mounted below unreachable.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, mkdir, pivot_root};

use super::RootConfig;
use crate::error::Error;
use crate::host;
use crate::server::Root;

/// Where the process's own descriptor directory is, inside.
pub const OWN_FDS: &str = "/fd";

/// Directories the new root may be built on: any will do that exists, as it is only covered in this
/// mount namespace and left behind by the pivot.
const STAGING: [&str; 5] = ["/tmp", "/run", "/mnt", "/dev", "/sys"];

const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;

/// Builds the root, moves into it, and opens the donated trees there.
pub fn enter(configs: &[RootConfig]) -> Result<Vec<Root>, Error> {
    // Nothing that is mounted here may show outside, nor the other way round.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|e| Error::host("make the mounts private below", "/", e))?;

    // Taken before the staging directory covers anything, in them too.
    let sources = configs.iter().map(source).collect::<Result<Vec<_>, _>>()?;
    let stage = STAGING.iter().find(|path| Path::new(path).is_dir()).ok_or_else(|| {
        Error::new(
            "find a directory to build its root on",
            "none of /tmp /run /mnt /dev /sys exists",
            "create /tmp",
        )
    })?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("chitin-gofer"), *stage, Some("tmpfs"), flags, Some("mode=0711,size=1m"))
        .map_err(|e| Error::host("mount a tmpfs on", stage, e))?;

    let own_fds = format!("{stage}{OWN_FDS}");
    make_dir(&own_fds)?;
    mount(Some("/proc/self/fd"), own_fds.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(
        |e| {
            let remedy = "mount procfs on /proc in the namespace chitin is started in";
            Error::new("bind its own descriptor directory /proc/self/fd", e.desc(), remedy)
        },
    )?;
    let quiet = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_RDONLY;
    restrict(&own_fds, quiet, false)?;

    make_dir(&format!("{stage}/roots"))?;
    for (index, (config, source)) in configs.iter().zip(sources).enumerate() {
        bind(config, source, &format!("{stage}/roots/{index}"))?;
    }

    pivot(stage)?;
    restrict("/", quiet, false)?;
    configs.iter().enumerate().map(|(index, config)| open_root(index, config)).collect()
}

/// A donated tree, cloned and attached nowhere yet.
struct Source {
    tree: OwnedFd,
    is_dir: bool,
}

fn source(config: &RootConfig) -> Result<Source, Error> {
    let shown = config.path.display().to_string();
    let path = open(&config.path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| Error::host("find the donated path", &shown, e))?;
    let failed = |e| Error::host("clone the mount of (open_tree)", &shown, e);
    let is_dir = host::statx(path.as_fd(), c"").map_err(failed)?.is_dir();
    let tree = match host::open_tree(path.as_fd(), config.recursive) {
        // Locked mounts below, see above.
        Err(Errno::EINVAL) if !config.recursive => host::open_tree(path.as_fd(), true),
        other => other,
    };
    Ok(Source { tree: tree.map_err(failed)?, is_dir })
}

/// Binds a donated tree at `target` with its options.
fn bind(config: &RootConfig, source: Source, target: &str) -> Result<(), Error> {
    let shown = config.path.display().to_string();
    let failed = |e| Error::host("attach (move_mount) the donated path", &shown, e);
    if source.is_dir {
        make_dir(target)?;
    } else {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        open(target, flags, Mode::S_IRUSR).map_err(failed)?;
    }
    // With other ids (mount_setattr(2)), which only a tree that is nowhere attached yet can be given.
    if let Some((ids, all)) = &config.id_mapped {
        host::map_mount_ids(source.tree.as_fd(), ids.as_fd(), *all).map_err(|e| {
            let remedy = "use a file system that can be id-mapped (ext4, xfs, btrfs, tmpfs), or remove the mount's mappings";
            Error::new("id-map (mount_setattr) the mount of", format!("{shown}: {}", e.desc()), remedy)
        })?;
    }
    let c_target = CString::new(target).unwrap_or_default();
    host::move_mount(source.tree.as_fd(), &c_target).map_err(failed)?;
    restrict_root(config, target)
}

fn restrict_root(config: &RootConfig, target: &str) -> Result<(), Error> {
    let mut attrs = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    if config.readonly {
        attrs |= MOUNT_ATTR_RDONLY;
    }
    if config.noexec {
        attrs |= MOUNT_ATTR_NOEXEC;
    }
    restrict(target, attrs, true)
}

fn restrict(path: &str, attrs: u64, recursive: bool) -> Result<(), Error> {
    let c_path = CString::new(path).unwrap_or_default();
    host::mount_setattr(AT_FDCWD, &c_path, attrs, recursive)
        .map_err(|e| Error::host("restrict the mount (mount_setattr) at", path, e))
}

fn make_dir(path: &str) -> Result<(), Error> {
    mkdir(path, Mode::S_IRWXU).map_err(|e| Error::host("make the directory", path, e))
}

/// Makes `stage` the root and leaves the old one.
fn pivot(stage: &str) -> Result<(), Error> {
    chdir(stage).map_err(|e| Error::host("enter its root", stage, e))?;
    // Both arguments the same: the old root ends up on top of the new one and is taken off again.
    pivot_root(".", ".").map_err(|e| {
        let remedy =
            "start chitin from a root that is a mount (not an initramfs), in a mount namespace of its own";
        Error::new("make the tmpfs its root (pivot_root)", e.desc(), remedy)
    })?;
    umount2(".", MntFlags::MNT_DETACH).map_err(|e| Error::host("detach the old root from", ".", e))?;
    chdir("/").map_err(|e| Error::host("enter its root", "/", e))
}

fn open_root(index: usize, config: &RootConfig) -> Result<Root, Error> {
    let path = format!("/roots/{index}");
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = open(path.as_str(), flags, Mode::empty())
        .map_err(|e| Error::host("open the donated path", &config.path.display().to_string(), e))?;
    Ok(Root { fd, readonly: config.readonly, recursive: config.recursive })
}
