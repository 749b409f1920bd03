//! The sentry's own confinement, step by step, before it touches anything that a guest controls.
//!
//! Order at boot (single-threaded until the filter is on):
//! 1. [`enter_empty_root`]: nothing of the host can be reached by path any more; only a detached procfs of our own
//!    pid namespace remains, as a descriptor.
//!    [`cover_root`]: who enters our mount namespace sees the container's files.
//!    [`Labels`]: those of the host's security modules, whose profiles forbid mounts, and which must come before
//!    no_new_privs; the files they are written to are opened first.
//! 2. [`no_new_privs`] and [`drop_capabilities`].
//! 3. The platform starts its zygote: stub processes are its children and must not inherit the sentry's filter,
//!    because they run guest code under a filter of their own.
//! 4. [`crate::filter::install`].
//!
//! Neighbours: the runtime has put us into new user, pid, mount, net, ipc and uts namespaces before exec; `filter`
//! holds the syscall list. Every step fails closed: errors are texts that name cause and remedy, and the caller must
//! end the sandbox on them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use chitin_control::HostLabel;
use chitin_host::label::{self, Label, Pending};
use chitin_host::{caps, mountfd};
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, pivot_root};

/// Where the empty root is built. Any directory does, and this one exists wherever `/proc/self/exe` could be run.
const BUILD_AT: &str = "/proc";

/// The root of a read-only procfs that shows our pid namespace (the sentry and its stubs) and has no path.
#[derive(Debug)]
pub struct ProcFd(OwnedFd);

impl ProcFd {
    /// A second descriptor of the same directory.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Opens `relative` (`"42/statm"`) for reading.
    pub fn open(&self, relative: &str) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let fd = openat(&self.0, relative, flags, Mode::empty())?;
        Ok(File::from(fd))
    }

    /// What `relative` holds.
    pub fn read(&self, relative: &str) -> Result<String, String> {
        let mut text = String::new();
        let read = self.open(relative).and_then(|mut file| file.read_to_string(&mut text));
        read.map(|_| text).map_err(|e| format!("cannot read {relative} in the sentry's procfs: {e}"))
    }
}

impl AsFd for ProcFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for ProcFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Leaves the host's file system for an empty read-only one.
pub fn enter_empty_root() -> Result<ProcFd, String> {
    // Nothing done here may travel to the host, and nothing mounted there later may appear here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).map_err(
        |e| {
            format!(
                "cannot make the sentry's mounts private: {e}; the sentry needs a mount namespace of its own"
            )
        },
    )?;
    // First, because a user namespace may mount procfs only while another, unmasked one is in sight.
    let proc = detached_proc()?;

    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("chitin"), BUILD_AT, Some("tmpfs"), flags, Some("size=4k,nr_inodes=1,mode=0")).map_err(
        |e| format!("cannot mount the sentry's empty root on {BUILD_AT}: {e}; is {BUILD_AT} there?"),
    )?;
    chdir(BUILD_AT).map_err(|e| format!("cannot enter the sentry's empty root: {e}"))?;
    // The old root ends up stacked on the new one, at the very same place, from where it is detached.
    pivot_root(".", ".").map_err(|e| {
        format!("cannot pivot into the sentry's empty root: {e}; a root file system on initramfs does not allow it")
    })?;
    umount2(".", MntFlags::MNT_DETACH)
        .map_err(|e| format!("cannot detach the host's file system from the sentry: {e}"))?;
    chdir("/").map_err(|e| format!("cannot enter the sentry's empty root: {e}"))?;
    Ok(proc)
}

/// Lays the view of the container's files ([`crate::view`]) on top of our root: whoever enters our mount namespace from
/// outside comes out there, while our own root stays the empty one.
pub fn cover_root(view: BorrowedFd<'_>) -> Result<(), String> {
    mountfd::attach(view, c"/").map_err(|e| format!("cannot mount the view of the container's files: {e}"))
}

fn detached_proc() -> Result<ProcFd, String> {
    let denied = |e: io::Error| {
        let remedy = match e.raw_os_error() {
            Some(libc::EPERM) => {
                "a container engine around us masks parts of /proc: give its container an unmasked one (docker: \
                 --security-opt systempaths=unconfined)"
            }
            Some(libc::ENOSYS) => "fsopen(2) needs Linux 5.2",
            _ => "the sentry must be pid 1 of a pid namespace that belongs to its user namespace",
        };
        format!("cannot mount a procfs of the sandbox's pid namespace: {e}; {remedy}")
    };
    let context = mountfd::FsContext::open(c"proc").map_err(denied)?;
    // Only the process directories; a kernel before 5.8 has no such option, and the filter admits reads only anyway.
    match context.set(c"subset", c"pid") {
        Err(e) if e.raw_os_error() != Some(libc::EINVAL) => return Err(denied(e)),
        _ => {}
    }
    context.create().map_err(denied)?;
    let attributes = mountfd::MOUNT_ATTR_RDONLY
        | mountfd::MOUNT_ATTR_NOSUID
        | mountfd::MOUNT_ATTR_NODEV
        | mountfd::MOUNT_ATTR_NOEXEC;
    context.mount(attributes).map(ProcFd).map_err(denied)
}

/// The labels of the host's security modules that the sentry, and with it all that runs guest code, is to have.
#[derive(Debug)]
pub struct Labels(Vec<(&'static str, Pending)>);

impl Labels {
    /// While the host's /proc is in sight.
    pub fn open(labels: &[HostLabel]) -> Result<Labels, String> {
        let open = |label: &HostLabel| {
            let (field, label) = match label {
                HostLabel::AppArmor(profile) => ("process.apparmorProfile", Label::AppArmor(profile)),
                HostLabel::Selinux(label) => ("process.selinuxLabel", Label::Selinux(label)),
            };
            let pending = label.open(Path::new(label::ATTRIBUTES));
            pending.map(|pending| (field, pending)).map_err(|e| {
                format!("{field}: cannot open the file in {} that takes the label: {e}", label::ATTRIBUTES)
            })
        };
        labels.iter().map(open).collect::<Result<_, _>>().map(Labels)
    }

    /// Takes them on. Before other threads exist.
    pub fn take_on(self) -> Result<(), String> {
        self.0.into_iter().try_for_each(|(field, pending)| {
            pending.take_on().map_err(|e| {
                let remedy = match e.raw_os_error() {
                    Some(libc::ENOENT) => "the profile is not loaded (see apparmor_parser)",
                    Some(libc::EINVAL) => "the policy does not know it",
                    _ => "the policy does not let this runtime change to it by itself",
                };
                format!("{field}: the host's kernel refuses the label: {e}; {remedy}")
            })
        })
    }
}

/// From here on no exec can add privileges.
pub fn no_new_privs() -> Result<(), String> {
    nix::sys::prctl::set_no_new_privs().map_err(|e| format!("cannot set no_new_privs: {e}"))
}

/// Gives up every capability, also those over the sentry's own namespaces. Before other threads exist.
pub fn drop_capabilities() -> Result<(), String> {
    caps::drop_all_capabilities().map_err(|e| {
        format!("cannot drop the sentry's capabilities: {e}; it must be started with CAP_SETPCAP in its user namespace")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn nothing_of_the_host_is_left() {
        if Command::new("unshare").arg("--version").output().is_err() {
            eprintln!("SKIPPED: unshare(1) of util-linux is not installed");
            return;
        }
        let exe = std::env::current_exe().unwrap();
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--pid", "--fork"])
            .arg(exe)
            .args(["--exact", "confine::tests::child_is_confined", "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("confined"), "{text}{output:?}");
    }

    #[test]
    #[ignore = "run by nothing_of_the_host_is_left in namespaces of its own"]
    fn child_is_confined() {
        let proc = enter_empty_root().unwrap();
        no_new_privs().unwrap();
        drop_capabilities().unwrap();

        let read = |name: &str| {
            let mut text = String::new();
            proc.open(name).map(|mut f| f.read_to_string(&mut text).map(|_| text)).unwrap().unwrap()
        };
        let status = read("thread-self/status");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
        }
        assert_eq!(read("1/mountinfo").lines().count(), 1, "more than the empty root is mounted");
        for path in ["/proc", "/etc/passwd", "/dev/null", "/../etc"] {
            assert!(std::fs::metadata(path).is_err(), "{path} is there");
        }
        assert!(std::fs::write("/file", b"x").is_err(), "the empty root is writable");
        assert!(proc.open("../etc/passwd").is_err(), "procfs leads out");
        assert!(proc.open("kallsyms").is_err(), "more of procfs than processes is there");
        let write = openat(&proc, "1/comm", OFlag::O_WRONLY, Mode::empty());
        assert_eq!(write.err(), Some(nix::Error::EROFS));
        println!("confined");
        std::process::exit(0);
    }
}
