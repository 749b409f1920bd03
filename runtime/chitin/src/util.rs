//! Small things that several modules need: error texts, file writing, time stamps.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{FcntlArg, fcntl};

/// Errors are texts for the user: cause and, where there is one, remedy, in one line.
pub type Result<T> = std::result::Result<T, String>;

/// Says what was being done when something failed.
pub trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| format!("{}: {e}", what()))
    }
}

/// Replaces `path` by a file with these bytes in one step: readers see the old or the new content.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.context(|| format!("cannot write {}", path.display()))
}

/// A close-on-exec duplicate with a number of at least 3, so that it cannot be taken for standard input or output.
pub fn duplicate(fd: impl AsFd) -> Result<OwnedFd> {
    let raw = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(3)).context(|| "cannot duplicate a descriptor".into())?;
    crate::sandbox::launch::own_fd(raw).context(|| format!("descriptor {raw}"))
}

/// Whether we are in a user namespace, where user 0 is not the machine's root.
pub fn in_user_namespace() -> bool {
    // Without the file there are no user namespaces.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.is_empty() && !maps_all_ids(&map)
}

/// Whether we act for an unprivileged user: one without power, or root of a user namespace (rootless Podman) that does not
/// call itself root, as an engine in a container does. So runc decides it.
pub fn acts_for_user() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    !is_root || in_user_namespace() && std::env::var_os("USER").is_none_or(|user| user != "root")
}

/// Whether a map is that of the initial namespace, where every id is itself.
fn maps_all_ids(map: &str) -> bool {
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

pub fn dev_null() -> Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/null").context(|| "cannot open /dev/null".into())
}

/// The present time as RFC 3339 in UTC with nanoseconds.
pub fn now_rfc3339() -> String {
    rfc3339(SystemTime::now())
}

/// A time as RFC 3339 in UTC with nanoseconds.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, nanoseconds) = (since.as_secs(), since.subsec_nanos());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years: leap days come last in each year, century and era.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_initial_namespace_is_known_by_its_map() {
        assert!(maps_all_ids("         0          0 4294967295\n"));
        for other in
            ["", "0 1000 1\n", "0 0 65536\n", "0 1000 1\n1 200000 65536\n", "0 0 4294967295\n1 1 1\n"]
        {
            assert!(!maps_all_ids(other), "{other:?}");
        }
    }

    #[test]
    fn time_stamps() {
        let at = |s: u64, n: u32| rfc3339(UNIX_EPOCH + Duration::new(s, n));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(at(1_709_251_199, 999_999_999), "2024-02-29T23:59:59.999999999Z");
        assert_eq!(at(1_735_689_599, 0), "2024-12-31T23:59:59.000000000Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
    }
}
