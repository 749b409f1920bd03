//! OCI configurations: reading, checking, and turning them into what sentry and gofer are told.
//!
//! Rule: a field that is not understood or not supported is an error that names its JSON path, unless ignoring it
//! cannot weaken what the user asked for (then it is a warning). All errors of a configuration are reported at once.

mod build;
mod capabilities;
mod check;
mod exec;
mod lsm;
mod mappings;
mod placement;
mod resources;
mod seccomp;
mod translate;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use chitin_control::IdMappings;
use oci_spec::runtime::Spec;
use serde_json::Value;

pub use build::{ALL_CAPABILITIES, AdHoc, template};
pub use check::{check, check_in, check_labels, net_devices};
pub use exec::{ExecFlags, from_file as exec_from_file, from_flags as exec_from_flags};
pub use lsm::{host_labels, selinux_label, warn_of_others};
pub use placement::{MemoryPolicy, cpus as exec_cpus};
pub use translate::{GoferRoot, Network, Plan, network, process_config, translate};

use crate::util::{Context, Result};

/// The version of the specification that we implement.
pub const OCI_VERSION: &str = "1.2.1";

/// Larger configurations are refused.
const MAX_SIZE: u64 = 16 << 20;

/// Reads `config.json` of a directory, without checking more than its types.
pub fn load(directory: &Path) -> Result<Spec> {
    load_file(&directory.join("config.json"))
}

/// Reads a configuration, likewise.
pub fn load_file(path: &Path) -> Result<Spec> {
    let mut text = Vec::new();
    let file = File::open(path).context(|| {
        format!(
            "cannot open {} (--bundle names a directory with a config.json; `chitin spec` makes one)",
            path.display()
        )
    })?;
    file.take(MAX_SIZE + 1).read_to_end(&mut text).context(|| format!("cannot read {}", path.display()))?;
    if text.len() as u64 > MAX_SIZE {
        return Err(format!("{} is larger than {MAX_SIZE} bytes", path.display()));
    }
    parse(&text)
}

/// The ids of a configuration's user namespace.
pub fn id_mappings(spec: &Spec) -> Option<IdMappings> {
    spec.linux().as_ref().and_then(mappings::of_container)
}

/// Keeps a container's configuration in its state directory, where [`load`] finds it: the bundle may change or go.
pub fn store(spec: &Spec, directory: &Path) -> Result<()> {
    let text = serde_json::to_vec(spec).context(|| "cannot encode the configuration".into())?;
    crate::util::write_atomically(&directory.join("config.json"), &text)
}

fn parse(text: &[u8]) -> Result<Spec> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    match serde_path_to_error::deserialize(&mut deserializer) {
        Ok(spec) => {
            deserializer.end().map_err(|e| format!("config.json: {e}"))?;
            Ok(spec)
        }
        // Names that may be unknown are looked at one by one.
        Err(e) if e.path().to_string().starts_with("process.capabilities") => {
            let mut config: Value = serde_json::from_slice(text).map_err(|e| format!("config.json: {e}"))?;
            let unknown = config.get_mut("process").map(capabilities::drop_unknown).unwrap_or_default();
            if unknown.is_empty() {
                return Err(complaint("config.json: ", e));
            }
            capabilities::warn(&unknown);
            serde_path_to_error::deserialize(config).map_err(|e| complaint("config.json: ", e))
        }
        Err(e) => Err(complaint("config.json: ", e)),
    }
}

/// What is wrong, with its place below `prefix`.
fn complaint(prefix: &str, e: serde_path_to_error::Error<serde_json::Error>) -> String {
    let path = e.path().to_string();
    format!("{prefix}{path}: {}", e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_errors_name_their_path() {
        let error =
            parse(br#"{"ociVersion":"1.0.0","linux":{"namespaces":[{"type":"pid"},{"type":"nope"}]}}"#);
        let error = error.unwrap_err();
        assert!(error.starts_with("config.json: linux.namespaces[1].type: "), "{error}");
        let error =
            parse(br#"{"ociVersion":"1.0.0","process":{"cwd":"/","user":{"uid":-1,"gid":0}}}"#).unwrap_err();
        assert!(error.starts_with("config.json: process.user.uid: "), "{error}");
        let text = br#"{"ociVersion":"1.0.0","process":{"cwd":"/","user":{"uid":0,"gid":0},
            "capabilities":{"bounding":["CAP_FLY","CAP_KILL"],"effective":["CAP_SWIM"]}}}"#;
        let process = parse(text).unwrap().process().clone().unwrap();
        let kept = process.capabilities().as_ref().unwrap();
        assert_eq!(kept.bounding().as_ref().unwrap().len(), 1);
        assert!(kept.effective().as_ref().unwrap().is_empty());
        let error = parse(br#"{"ociVersion":"1.0.0","process":{"cwd":"/","capabilities":{"bounding":7}}}"#);
        assert!(error.unwrap_err().starts_with("config.json: process.capabilities"));
        assert!(parse(b"{} trailing").is_err());
        assert!(parse(b"").is_err());
    }
}
