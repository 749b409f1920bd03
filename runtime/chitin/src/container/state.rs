//! `state.json`, and the processes it names.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use chitin_control::Status;
use serde::{Deserialize, Serialize};

use crate::egress::Egress;
use crate::network::Attachment;
use crate::network::claim::Named;
use crate::network::outbound::Publish;
use crate::util::{Context, Result, write_atomically};

/// A host process, told apart from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostProcess {
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks from boot to its start.
    pub start_time: u64,
}

impl HostProcess {
    /// The process that has this number now.
    pub fn of(pid: i32) -> Result<Self> {
        let (_, start_time) = stat(pid).ok_or_else(|| format!("process {pid} is gone"))?;
        Ok(Self { pid, start_time })
    }

    /// Whether it is there and no zombie.
    pub fn is_alive(&self) -> bool {
        stat(self.pid)
            .is_some_and(|(state, start)| start == self.start_time && !matches!(state, 'Z' | 'X' | 'x'))
    }
}

/// State letter and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

/// A container as `state` and `list` show it: the fields and their order are runc's.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown<'a> {
    pub oci_version: &'a str,
    pub id: &'a str,
    pub pid: i32,
    pub status: Status,
    pub bundle: &'a Path,
    pub rootfs: &'a Path,
    pub created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: &'a BTreeMap<String, String>,
    pub owner: String,
}

/// Everything that later commands need to know of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub oci_version: String,
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339.
    pub created: String,
    /// The user who made it.
    pub owner: u32,
    pub sentry: HostProcess,
    pub gofer: HostProcess,
    /// Of a further container of a pod: the id of the container whose sentry runs it.
    #[serde(default)]
    pub sandbox: Option<String>,
    /// Of a further container of a pod: the process that stands for it on the host and ends with it.
    #[serde(default)]
    pub stand_in: Option<HostProcess>,
    /// What `start` has to do about the network.
    #[serde(default)]
    pub network: Attachment,
    /// The network namespace that it takes over and that outlives it.
    #[serde(default)]
    pub namespace: Option<Named>,
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// The egress policy of a sandbox.
    #[serde(default)]
    pub egress: Option<Egress>,
    /// `start` was successful.
    pub started: bool,
    /// `pause` was successful, and no `resume` since.
    #[serde(default)]
    pub paused: bool,
    /// Of `do`, or of a `run` in the foreground: nobody will ask for it after its end.
    pub ephemeral: bool,
}

impl State {
    pub const FILE: &'static str = "state.json";

    /// `None` when the directory holds no state (yet).
    pub fn load(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(Self::FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(format!("cannot read {}: {e}", path.display())),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .context(|| format!("{} is damaged (delete --force removes the container)", path.display()))
    }

    /// Replaces the stored state.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).context(|| "cannot encode the state".into())?;
        write_atomically(&directory.join(Self::FILE), &bytes)
    }

    /// The host process that is the container's for engines: the sentry, or the one that stands for a further
    /// container of a pod.
    pub fn init(&self) -> &HostProcess {
        self.stand_in.as_ref().unwrap_or(&self.sentry)
    }

    pub fn is_alive(&self) -> bool {
        self.init().is_alive()
    }

    pub fn status(&self) -> Status {
        // A paused sentry may be frozen, so it is never asked.
        match (self.is_alive(), self.started, self.paused) {
            (false, _, _) => Status::Stopped,
            (true, _, true) => Status::Paused,
            (true, false, false) => Status::Created,
            (true, true, false) => Status::Running,
        }
    }

    /// What `state` and `list` show.
    pub fn shown(&self) -> Shown<'_> {
        let status = self.status();
        Shown {
            oci_version: &self.oci_version,
            id: &self.id,
            pid: if status == Status::Stopped { 0 } else { self.init().pid },
            status,
            bundle: &self.bundle,
            rootfs: &self.rootfs,
            created: &self.created,
            annotations: &self.annotations,
            owner: self.owner_name().unwrap_or_default(),
        }
    }

    pub fn owner_name(&self) -> Option<String> {
        // Not getpwuid: a statically linked binary has no name service, and /etc/passwd is what it would read.
        let passwd = fs::read_to_string("/etc/passwd").ok()?;
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse::<u32>().ok()? == self.owner).then(|| name.to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(sentry: HostProcess, started: bool) -> State {
        State {
            oci_version: "1.0.2".into(),
            id: "c".into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            annotations: BTreeMap::new(),
            created: "now".into(),
            owner: 0,
            sentry,
            gofer: sentry,
            sandbox: None,
            stand_in: None,
            network: Attachment::None,
            namespace: None,
            publish: Vec::new(),
            egress: None,
            started,
            paused: false,
            ephemeral: false,
        }
    }

    #[test]
    fn the_status_follows_the_sentry() {
        let me = HostProcess::of(std::process::id().try_into().unwrap()).unwrap();
        assert_eq!(state(me, false).status(), Status::Created);
        assert_eq!(state(me, true).status(), Status::Running);
        // Somebody else with the same number.
        let other = HostProcess { start_time: me.start_time + 1, ..me };
        assert_eq!(state(other, true).status(), Status::Stopped);
        assert_eq!(state(other, true).shown().pid, 0);
    }

    #[test]
    fn a_zombie_is_stopped() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let process = HostProcess::of(child.id().try_into().unwrap()).unwrap();
        for _ in 0..500 {
            if !process.is_alive() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(state(process, true).status(), Status::Stopped);
        child.wait().unwrap();
        assert_eq!(state(process, true).status(), Status::Stopped);
    }

    #[test]
    fn a_state_survives_its_file() {
        let dir = std::env::temp_dir().join(format!("chitin-state-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert_eq!(State::load(&dir), Ok(None));
        let me = HostProcess { pid: 1, start_time: 2 };
        state(me, true).save(&dir).unwrap();
        assert_eq!(State::load(&dir), Ok(Some(state(me, true))));
        fs::write(dir.join(State::FILE), b"{\"id\":").unwrap();
        assert!(State::load(&dir).unwrap_err().contains("damaged"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_order_of_the_fields_is_runcs() {
        let mut gone = state(HostProcess { pid: i32::MAX, start_time: 2 }, true);
        gone.owner = u32::MAX - 7;
        let text = serde_json::to_string(&gone.shown()).unwrap();
        let expected = concat!(
            r#"{"ociVersion":"1.0.2","id":"c","pid":0,"status":"stopped","bundle":"/b","#,
            r#""rootfs":"/b/rootfs","created":"now","owner":""}"#
        );
        assert_eq!(text, expected);
    }
}
