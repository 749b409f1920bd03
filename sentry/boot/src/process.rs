//! From the configuration's texts to credentials, limits and the first process.

use chitin_abi::capability::CAP_LAST_CAP;
use chitin_abi::resource::*;
use chitin_control::{Capabilities, ProcessConfig};
use chitin_vfs::{Caps, Creds, UserNs};
use std::sync::Arc;

/// `CAP_CHOWN` → its number.
fn capability(name: &str) -> Option<u32> {
    const NAMES: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];
    const { assert!(NAMES.len() == CAP_LAST_CAP as usize + 1) };
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    NAMES.iter().position(|known| *known == name).and_then(|index| u32::try_from(index).ok())
}

fn caps(names: &[String]) -> Caps {
    names.iter().filter_map(|name| capability(name)).fold(Caps::EMPTY, Caps::with)
}

/// The credentials a configured process has just before its program is executed, as runc sets them.
pub fn creds(config: &ProcessConfig, user_ns: &Arc<UserNs>) -> Result<Creds, String> {
    let Capabilities { bounding, effective, inheritable, permitted, ambient } = &config.capabilities;
    let (uid, gid) = (config.uid, config.gid);
    let mut groups = config.additional_gids.clone();
    groups.sort_unstable();
    // A container's own ids are kernel ids, if there are such.
    let unknown = |what, id: u32| format!("{what} {id} is not mapped in the container's user namespace");
    user_ns.kuid(uid).ok_or_else(|| unknown("user", uid))?;
    for gid in groups.iter().chain([&gid]) {
        user_ns.kgid(*gid).ok_or_else(|| unknown("group", *gid))?;
    }
    Ok(Creds {
        uid,
        euid: uid,
        suid: uid,
        fsuid: uid,
        gid,
        egid: gid,
        sgid: gid,
        fsgid: gid,
        groups,
        permitted: caps(permitted),
        effective: caps(effective),
        inheritable: caps(inheritable),
        bounding: caps(bounding),
        ambient: caps(ambient),
        securebits: 0,
        no_new_privs: config.no_new_privileges,
        user_ns: user_ns.clone(),
    })
}

fn limit_number(name: &str) -> Option<u32> {
    Some(match name.strip_prefix("RLIMIT_").unwrap_or(name) {
        "CPU" => RLIMIT_CPU,
        "FSIZE" => RLIMIT_FSIZE,
        "DATA" => RLIMIT_DATA,
        "STACK" => RLIMIT_STACK,
        "CORE" => RLIMIT_CORE,
        "RSS" => RLIMIT_RSS,
        "NPROC" => RLIMIT_NPROC,
        "NOFILE" => RLIMIT_NOFILE,
        "MEMLOCK" => RLIMIT_MEMLOCK,
        "AS" => RLIMIT_AS,
        "LOCKS" => RLIMIT_LOCKS,
        "SIGPENDING" => RLIMIT_SIGPENDING,
        "MSGQUEUE" => RLIMIT_MSGQUEUE,
        "NICE" => RLIMIT_NICE,
        "RTPRIO" => RLIMIT_RTPRIO,
        "RTTIME" => RLIMIT_RTTIME,
        _ => return None,
    })
}

/// Linux's own defaults, then what is configured.
pub fn rlimits(config: &ProcessConfig) -> [Rlimit; RLIM_NLIMITS as usize] {
    const NONE: u64 = RLIM_INFINITY;
    let mut limits = [Rlimit { rlim_cur: NONE, rlim_max: NONE }; RLIM_NLIMITS as usize];
    let mut set = |which: u32, soft: u64, hard: u64| {
        if let Some(slot) = limits.get_mut(which as usize) {
            *slot = Rlimit { rlim_cur: soft, rlim_max: hard };
        }
    };
    set(RLIMIT_STACK, 8 << 20, NONE);
    set(RLIMIT_CORE, 0, NONE);
    set(RLIMIT_NPROC, 30_000, 30_000);
    set(RLIMIT_NOFILE, 1024, 1 << 20);
    set(RLIMIT_MEMLOCK, 8 << 20, 8 << 20);
    set(RLIMIT_SIGPENDING, 30_000, 30_000);
    set(RLIMIT_MSGQUEUE, 819_200, 819_200);
    set(RLIMIT_NICE, 0, 0);
    set(RLIMIT_RTPRIO, 0, 0);
    for limit in &config.rlimits {
        if let Some(which) = limit_number(&limit.name) {
            set(which, limit.soft, limit.hard);
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_names_have_their_numbers() {
        assert_eq!(capability("CAP_CHOWN"), Some(0));
        assert_eq!(capability("CAP_SYS_ADMIN"), Some(21));
        assert_eq!(capability("CAP_CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(capability("CAP_NONSENSE"), None);
    }
}
