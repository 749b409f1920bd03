//! Which security modules the host runs, and which labels a configuration wants of them.
//!
//! A label is that of the host processes which a guest's programs run in: the sentry takes it on, and with it everything that it
//! forks (`chitin_sentry::confine`), once for the life of the sandbox. What joins later, by `exec` or as a further container of a
//! pod, runs under it too, whatever label it asks for.

use std::path::Path;

use chitin_control::HostLabel;
use oci_spec::runtime::{Process, Spec};

/// As runc asks: its files are in sight, and it is enabled.
pub fn apparmor() -> bool {
    apparmor_below(Path::new("/sys"))
}

fn apparmor_below(sys: &Path) -> bool {
    let enabled = std::fs::read_to_string(sys.join("module/apparmor/parameters/enabled"));
    sys.join("kernel/security/apparmor").exists() && enabled.is_ok_and(|text| text.starts_with('Y'))
}

/// selinuxfs is mounted where a policy is in force.
pub fn selinux() -> bool {
    has_selinuxfs(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

fn has_selinuxfs(mounts: &str) -> bool {
    mounts.lines().filter_map(|line| line.split_once(" - ")).any(|(_, rest)| rest.starts_with("selinuxfs "))
}

fn given(label: Option<&String>) -> Option<&str> {
    label.map(String::as_str).filter(|l| !l.is_empty())
}

/// What a process asks for.
fn labels(process: &Process) -> Vec<HostLabel> {
    let apparmor = given(process.apparmor_profile().as_ref()).map(|p| HostLabel::AppArmor(p.to_owned()));
    let selinux = given(process.selinux_label().as_ref()).map(|l| HostLabel::Selinux(l.to_owned()));
    apparmor.into_iter().chain(selinux).collect()
}

/// The labels of a container's host processes.
pub fn host_labels(spec: &Spec) -> Vec<HostLabel> {
    spec.process().as_ref().map(labels).unwrap_or_default()
}

/// The one that files are guarded by.
pub fn selinux_label(spec: &Spec) -> Option<&str> {
    given(spec.process().as_ref()?.selinux_label().as_ref())
}

/// Says so where a process is to run in a sandbox that has other labels.
pub fn warn_of_others(process: &Process, sandbox: &Spec) {
    let has = host_labels(sandbox);
    for label in labels(process).into_iter().filter(|label| !has.contains(label)) {
        let (field, label) = match label {
            HostLabel::AppArmor(profile) => ("process.apparmorProfile", profile),
            HostLabel::Selinux(label) => ("process.selinuxLabel", label),
        };
        crate::log::warn(&format!(
            "{field}: {label:?} is not applied: all programs of a sandbox run under the labels that it was made with"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn apparmor_is_asked_as_by_runc() {
        let sys = std::env::temp_dir().join(format!("chitin-sys-{}", std::process::id()));
        let parameters = sys.join("module/apparmor/parameters");
        std::fs::create_dir_all(&parameters).unwrap();
        std::fs::write(parameters.join("enabled"), "Y\n").unwrap();
        assert!(!apparmor_below(&sys), "its files are out of sight");
        std::fs::create_dir_all(sys.join("kernel/security/apparmor")).unwrap();
        assert!(apparmor_below(&sys));
        std::fs::write(parameters.join("enabled"), "N\n").unwrap();
        assert!(!apparmor_below(&sys));
        std::fs::remove_dir_all(&sys).unwrap();
        assert!(!apparmor_below(&sys));
    }

    #[test]
    fn selinux_is_where_its_files_are_mounted() {
        assert!(has_selinuxfs("25 1 0:22 / /sys/fs/selinux rw - selinuxfs selinuxfs rw\n"));
        assert!(!has_selinuxfs("25 1 0:22 / /sys/fs/selinux rw - tmpfs selinuxfs rw\n"));
    }

    #[test]
    fn labels_of_a_configuration() {
        let spec = |process: serde_json::Value| -> Spec {
            let mut config = json!({"ociVersion": "1.0.2", "process": process});
            config["process"]["cwd"] = json!("/");
            config["process"]["user"] = json!({"uid": 0, "gid": 0});
            serde_json::from_value(config).unwrap()
        };
        assert_eq!(host_labels(&spec(json!({"apparmorProfile": ""}))), []);
        let both = spec(json!({"apparmorProfile": "docker-default", "selinuxLabel": "u:r:t:s0"}));
        let expected = [HostLabel::AppArmor("docker-default".into()), HostLabel::Selinux("u:r:t:s0".into())];
        assert_eq!(host_labels(&both), expected);
        assert_eq!(selinux_label(&both), Some("u:r:t:s0"));
        assert_eq!(selinux_label(&spec(json!({}))), None);
    }
}
