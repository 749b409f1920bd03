//! The process that `exec` adds: the container's own with what the flags change, or one from a file.

use std::path::Path;

use oci_spec::runtime::Process;
use serde_json::{Value, json};

use super::capabilities;
use crate::util::{Context, Result};

/// What the command line says about the process.
#[derive(Clone, Debug, Default)]
pub struct ExecFlags {
    pub args: Vec<String>,
    pub tty: bool,
    pub user: Option<String>,
    pub additional_gids: Vec<i64>,
    pub cap: Vec<String>,
    pub env: Vec<String>,
    pub cwd: Option<String>,
    pub no_new_privs: Option<bool>,
    pub apparmor: Option<String>,
    pub process_label: Option<String>,
}

/// `container`, the container's own process, as the flags change it. Like runc, `exec` never inherits the terminal.
pub fn from_flags(container: &Process, flags: &ExecFlags) -> Result<Process> {
    let mut process = as_value(container)?;
    process["args"] = json!(flags.args);
    process["terminal"] = json!(flags.tty);
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            process[name] = value;
        }
    };
    set("cwd", flags.cwd.as_ref().filter(|c| !c.is_empty()).map(|c| json!(c)));
    set("noNewPrivileges", flags.no_new_privs.map(|b| json!(b)));
    set("apparmorProfile", flags.apparmor.as_ref().map(|p| json!(p)));
    set("selinuxLabel", flags.process_label.as_ref().map(|l| json!(l)));
    if !flags.cap.is_empty() {
        let given = &mut process["capabilities"];
        let mut sets = vec!["bounding", "effective", "permitted"];
        // As runc has it: ambient ones are impossible without inheritable ones.
        if given["inheritable"].as_array().is_some_and(|list| !list.is_empty()) {
            sets.push("ambient");
        }
        for set in sets {
            let mut list = given[set].as_array().cloned().unwrap_or_default();
            list.extend(flags.cap.iter().map(|c| json!(c)));
            given[set] = json!(list);
        }
    }
    if let Some(user) = flags.user.as_deref().filter(|u| !u.is_empty()) {
        let (uid, gid) = user.split_once(':').map_or((user, None), |(uid, gid)| (uid, Some(gid)));
        let number = |text: &str, what: &str| {
            text.parse::<u32>().map_err(|_| {
                format!("parsing {text} as int for {what} failed: --user takes UID[:GID] as numbers")
            })
        };
        if let Some(gid) = gid {
            process["user"]["gid"] = json!(number(gid, "gid")?);
        }
        process["user"]["uid"] = json!(number(uid, "uid")?);
    }
    if !flags.additional_gids.is_empty() {
        let mut list = process["user"]["additionalGids"].as_array().cloned().unwrap_or_default();
        for gid in &flags.additional_gids {
            let gid = u32::try_from(*gid)
                .map_err(|_| format!("additional-gids must be a positive number {gid}"))?;
            list.push(json!(gid));
        }
        process["user"]["additionalGids"] = json!(list);
    }
    let mut env: Vec<Value> = process["env"].as_array().cloned().unwrap_or_default();
    env.extend(flags.env.iter().map(|e| json!(e)));
    process["env"] = json!(env);
    finish(process)
}

/// A process from a file; what it leaves open is the container's.
pub fn from_file(container: &Process, path: &Path) -> Result<Process> {
    let failed = || format!("--process {}", path.display());
    let text = std::fs::read(path).context(failed)?;
    let mut process: Value = serde_json::from_slice(&text).context(failed)?;
    let base = as_value(container)?;
    for name in [
        "capabilities",
        "rlimits",
        "apparmorProfile",
        "selinuxLabel",
        "oomScoreAdj",
        "scheduler",
        "execCPUAffinity",
    ] {
        if process[name].is_null() && !base[name].is_null() {
            process[name] = base[name].clone();
        }
    }
    for name in ["uid", "gid"] {
        if process["user"][name].is_null() {
            process["user"][name] = json!(0);
        }
    }
    if process["user"]["umask"].is_null() && !base["user"]["umask"].is_null() {
        process["user"]["umask"] = base["user"]["umask"].clone();
    }
    finish(process).context(failed)
}

fn as_value(process: &Process) -> Result<Value> {
    serde_json::to_value(process).context(|| "cannot encode the process".into())
}

/// The checks of runc's `validateProcessSpec`, with its words, and ours.
fn finish(mut process: Value) -> Result<Process> {
    match process["cwd"].as_str() {
        None | Some("") => return Err("Cwd property must not be empty".into()),
        Some(cwd) if !cwd.starts_with('/') => return Err("Cwd must be an absolute path".into()),
        _ => {}
    }
    if process["args"].as_array().is_none_or(Vec::is_empty) {
        return Err("process args cannot be empty".into());
    }
    // The last one counts, as for a shell's assignments; a process that gets both would see the first.
    let env = process["env"].as_array().cloned().unwrap_or_default();
    let name = |v: &Value| v.as_str().unwrap_or_default().split('=').next().unwrap_or_default().to_owned();
    let kept =
        env.iter().enumerate().filter(|(at, v)| env.iter().skip(at + 1).all(|later| name(later) != name(v)));
    process["env"] = kept.map(|(_, v)| v.clone()).collect();
    capabilities::warn(&capabilities::drop_unknown(&mut process));
    // With the path in the text, so a wrong number is found.
    let process = serde_path_to_error::deserialize(process).map_err(|e| super::complaint("process.", e))?;
    super::check::process(&process)?;
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Process {
        serde_json::from_value(json!({
            "terminal": true, "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [5]}, "args": ["init"],
            "env": ["PATH=/bin", "A=1"], "cwd": "/work", "noNewPrivileges": true,
            "capabilities": {"bounding": ["CAP_KILL"], "effective": [], "permitted": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 7, "hard": 7}],
        }))
        .unwrap()
    }

    fn flags() -> ExecFlags {
        ExecFlags { args: vec!["ls".into(), "-l".into()], ..ExecFlags::default() }
    }

    #[test]
    fn without_flags_it_is_the_containers_process_without_its_terminal() {
        let process = from_flags(&container(), &flags()).unwrap();
        assert_eq!(process.args().as_deref(), Some(&["ls".to_owned(), "-l".to_owned()][..]));
        assert_eq!(process.terminal(), Some(false));
        assert_eq!((process.user().uid(), process.user().gid()), (1, 2));
        assert_eq!(process.cwd(), Path::new("/work"));
        assert_eq!(process.no_new_privileges(), Some(true));
    }

    #[test]
    fn flags_change_it() {
        let process = from_flags(
            &container(),
            &ExecFlags {
                tty: true,
                user: Some("7:8".into()),
                additional_gids: vec![9],
                cap: vec!["CAP_SYS_TIME".into()],
                env: vec!["A=2".into(), "B=3".into()],
                cwd: Some("/".into()),
                no_new_privs: Some(false),
                ..flags()
            },
        )
        .unwrap();
        assert_eq!(process.terminal(), Some(true));
        assert_eq!((process.user().uid(), process.user().gid()), (7, 8));
        assert_eq!(process.user().additional_gids().as_deref(), Some(&[5, 9][..]));
        assert_eq!(process.env().as_ref().unwrap(), &["PATH=/bin", "A=2", "B=3"]);
        assert_eq!(process.no_new_privileges(), Some(false));
        let capabilities = process.capabilities().as_ref().unwrap();
        assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 2);
        assert_eq!(capabilities.effective().as_ref().unwrap().len(), 1);
        assert!(capabilities.ambient().is_none());
        // Only the user: the group stays.
        let process = from_flags(&container(), &ExecFlags { user: Some("7".into()), ..flags() }).unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (7, 2));
    }

    #[test]
    fn wrong_flags_are_refused() {
        let wrong = |flags: ExecFlags| from_flags(&container(), &flags).unwrap_err();
        assert!(wrong(ExecFlags { user: Some("root".into()), ..flags() }).contains("as int for uid"));
        assert!(wrong(ExecFlags { user: Some("1:x".into()), ..flags() }).contains("as int for gid"));
        assert!(wrong(ExecFlags { additional_gids: vec![-1], ..flags() }).contains("positive number -1"));
        // As with runc, no error: it may be a newer kernel's.
        let kept = from_flags(&container(), &ExecFlags { cap: vec!["CAP_FLY".into()], ..flags() }).unwrap();
        assert_eq!(kept.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().len(), 1);
        assert!(wrong(ExecFlags { cwd: Some("tmp".into()), ..flags() }).contains("absolute"));
        assert!(wrong(ExecFlags { env: vec!["A".into()], ..flags() }).contains("NAME=value"));
        assert_eq!(wrong(ExecFlags::default()), "process args cannot be empty");
    }

    #[test]
    fn a_file_stands_alone_but_for_what_it_leaves_open() {
        let path = std::env::temp_dir().join(format!("chitin-process-{}", std::process::id()));
        std::fs::write(&path, br#"{"args":["id"],"cwd":"/","user":{"uid":3}}"#).unwrap();
        let process = from_file(&container(), &path).unwrap();
        assert_eq!((process.user().uid(), process.user().gid(), process.user().umask()), (3, 0, Some(18)));
        assert!(process.env().as_ref().is_none_or(Vec::is_empty));
        assert_eq!(process.rlimits().as_ref().unwrap().len(), 1);
        assert_eq!(process.no_new_privileges(), None);
        std::fs::write(&path, br#"{"args":["id"]}"#).unwrap();
        assert!(from_file(&container(), &path).unwrap_err().ends_with("Cwd property must not be empty"));
        std::fs::write(&path, b"{").unwrap();
        assert!(from_file(&container(), &path).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(from_file(&container(), &path).is_err());
    }
}
