//! A client of containerd's CRI service: `cri.py` (Debian's python3-grpcio) speaks it, from the messages in `cri.proto`.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::engines::containerd::Containerd;
use crate::engines::which;
use crate::paths;
use crate::run;

/// containerd keeps what the CRI made in this namespace.
pub const NAMESPACE: &str = "k8s.io";

#[derive(Debug)]
pub struct Cri {
    pub containerd: Containerd,
    descriptors: PathBuf,
}

impl Cri {
    pub fn start(name: &str) -> Result<Cri, String> {
        for program in ["protoc", "python3"] {
            which(program).ok_or(format!("{program} is not installed (tests/rootfs/packages does it)"))?;
        }
        let containerd = Containerd::start(name)?;
        for image in ["pause", "busybox"] {
            containerd.import(NAMESPACE, image)?;
        }
        let descriptors = containerd.world.dir.join("cri.desc");
        let mut c = Command::new("protoc");
        let here = paths::repo().join("tests/harness/src/engines");
        c.arg(format!("--proto_path={}", here.display()))
            .arg(format!("--descriptor_set_out={}", descriptors.display()));
        let o = run::quick(
            {
                c.arg("cri.proto");
                c
            },
            Duration::from_secs(30),
        );
        if o.code != Some(0) {
            return Err(format!("protoc: {}", o.brief()));
        }
        let cri = Cri { containerd, descriptors };
        let version = cri.call("Version", &json!({}))?;
        if version["runtime_name"] != "containerd" {
            return Err(format!("the CRI service answers {version}"));
        }
        Ok(cri)
    }

    pub fn call(&self, method: &str, request: &Value) -> Result<Value, String> {
        let mut c = self.containerd.world.command("/usr/bin/python3");
        c.arg(paths::repo().join("tests/harness/src/engines/cri.py"));
        c.arg(&self.descriptors).arg(&self.containerd.socket).arg(method);
        let o = run::run(c, request.to_string().as_bytes(), &paths::scratch("cri"), Duration::from_secs(90));
        if o.code != Some(0) {
            return Err(format!("{method}: {}; containerd: {}", o.stderr.trim(), self.containerd.log()));
        }
        serde_json::from_slice(&o.stdout).map_err(|e| format!("{method}: {e}: {}", o.text()))
    }
}
