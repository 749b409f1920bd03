//! The mount through which the host sees a container's files: made here, served by the sentry (`view` there).
//!
//! Engines enter the mount namespace of a container's process to copy files (`podman cp`) and to read its /proc (`podman
//! top`). Only who may mount for the host's users can show them anything; without that, or without FUSE, they find an
//! empty root, as said in the log.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use chitin_host::mountfd::{FsContext, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID};

use super::Options;
use crate::util::{Result, duplicate};

const INIT: u32 = 26;
/// The protocol that the sentry speaks: 7.31.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;
/// FUSE_ATOMIC_O_TRUNC, FUSE_BIG_WRITES, FUSE_MAX_PAGES.
const FLAGS: u32 = 1 << 3 | 1 << 5 | 1 << 22;
const MAX_PAGES: u16 = 16;
const MAX_WRITE: u32 = 64 << 10;

/// A FUSE mount that is nowhere attached.
#[derive(Debug)]
pub struct View {
    /// Where its requests come from.
    pub device: OwnedFd,
    pub mount: OwnedFd,
}

impl View {
    /// Makes one, if the host lets us.
    pub fn mount(options: &Options) -> Option<Self> {
        if options.rootless {
            return None;
        }
        Self::try_mount()
            .inspect_err(|e| {
                crate::log::debug(&format!(
                    "engines cannot look at the container's files (podman cp, top): {e}"
                ));
            })
            .ok()
    }

    fn try_mount() -> Result<Self> {
        let open = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/fuse");
        let device = open.map_err(|e| format!("/dev/fuse: {e}"))?;
        let made = || -> io::Result<OwnedFd> {
            let context = FsContext::open(c"fuse")?;
            let number = std::ffi::CString::new(device.as_raw_fd().to_string())?;
            context.set(c"source", c"chitin")?;
            context.set(c"fd", &number)?;
            context.set(c"rootmode", c"40755")?;
            context.set(c"user_id", c"0")?;
            context.set(c"group_id", c"0")?;
            // The sentry acts as the container's root; who may do what the host's kernel sees by the files' modes.
            context.set_flag(c"default_permissions")?;
            context.set_flag(c"allow_other")?;
            context.create()?;
            // Programs of the container are not to be run by the host.
            context.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
        };
        let mount = made().map_err(|e| format!("cannot mount FUSE: {e}"))?;
        shake_hands(&device).map_err(|e| format!("FUSE: {e}"))?;
        Ok(Self { device: duplicate(device)?, mount: duplicate(mount)? })
    }
}

/// Answers the first request, which comes at once, so that the sentry has nothing to do until somebody looks.
fn shake_hands(mut device: &std::fs::File) -> io::Result<()> {
    let mut request = [0u8; 8192];
    let length = device.read(&mut request)?;
    let request = request.get(..length).unwrap_or_default();
    let number = |at: usize| {
        let bytes = request.get(at..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map(|b| u32::from_le_bytes(*b)).ok_or(io::ErrorKind::InvalidData)
    };
    let (opcode, major, minor, readahead) = (number(4)?, number(40)?, number(44)?, number(48)?);
    if opcode != INIT || major != MAJOR || minor < MINOR {
        return Err(io::Error::other(format!(
            "the host speaks protocol {major}.{minor}, not {MAJOR}.{MINOR}"
        )));
    }
    let mut reply = Vec::with_capacity(80);
    reply.extend(80u32.to_le_bytes());
    reply.extend(0i32.to_le_bytes());
    reply.extend(request.get(8..16).unwrap_or_default());
    for word in [MAJOR, MINOR, readahead, FLAGS] {
        reply.extend(word.to_le_bytes());
    }
    // max_background, congestion_threshold.
    reply.extend(16u16.to_le_bytes());
    reply.extend(12u16.to_le_bytes());
    reply.extend(MAX_WRITE.to_le_bytes());
    // time_gran: nanoseconds.
    reply.extend(1u32.to_le_bytes());
    reply.extend(MAX_PAGES.to_le_bytes());
    reply.resize(80, 0);
    device.write_all(&reply)
}
