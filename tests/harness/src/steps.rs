//! A container whose steps are taken one by one, as engines take them. It is deleted when dropped.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::bundle::Bundle;
use crate::engine::{Engine, state_root, unique_id};
use crate::leftovers::settle;
use crate::run::{self, Outcome};

pub const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Steps {
    pub engine: Engine,
    pub bundle: Bundle,
    pub root: PathBuf,
    pub id: String,
}

impl Steps {
    pub fn new(bundle: Bundle) -> Steps {
        bundle.write();
        Steps { engine: Engine::under_test(), bundle, root: state_root("steps"), id: unique_id() }
    }
    pub fn call(&self, args: &[&str]) -> Outcome {
        self.call_with(args, b"")
    }
    pub fn call_with(&self, args: &[&str], stdin: &[u8]) -> Outcome {
        // The overlay is for `create` alone: later commands find the container where it runs.
        let b = args.first().is_some_and(|a| *a == "create" || *a == "run").then_some(&self.bundle);
        let dir = crate::paths::scratch("step");
        run::run(self.engine.command(&self.root, b, args), stdin, &dir, LIMIT)
    }
    pub fn ok(&self, args: &[&str]) -> Outcome {
        let o = self.call(args);
        assert_eq!(o.code, Some(0), "{args:?}: {}", o.brief());
        o
    }
    pub fn fails(&self, args: &[&str]) -> Outcome {
        let o = self.call(args);
        assert!(o.code.is_some_and(|c| c != 0), "{args:?} must fail: {}", o.brief());
        o
    }
    pub fn bundle_path(&self) -> String {
        self.bundle.dir.to_string_lossy().into_owned()
    }
    pub fn try_create(&self) -> Outcome {
        self.call(&["create", "--bundle", &self.bundle_path(), &self.id])
    }
    pub fn create(&self) {
        self.ok(&["create", "--bundle", &self.bundle_path(), &self.id]);
    }
    pub fn start(&self) {
        self.ok(&["start", &self.id]);
    }
    /// A busybox that runs a shell script.
    pub fn busybox(name: &str, script: &str) -> Steps {
        Steps::new(Bundle::new(name, &crate::paths::rootfs("busybox"), &["/bin/sh", "-c", script]))
    }
    /// `create` and `start`, until it runs.
    pub fn launch(&self) {
        self.create();
        self.start();
        self.until("running");
    }
    /// `exec` in the container, the id and the command behind the flags.
    pub fn exec(&self, flags: &[&str], command: &[&str]) -> Outcome {
        let args = [&["exec"], flags, &[self.id.as_str()], command].concat();
        self.call(&args)
    }
    pub fn state(&self) -> Value {
        let o = self.ok(&["state", &self.id]);
        serde_json::from_slice(&o.stdout).unwrap_or_else(|e| panic!("state is no JSON ({e}): {}", o.text()))
    }
    pub fn until(&self, status: &str) {
        settle(LIMIT, || match self.state()["status"].as_str() {
            Some(s) if s == status => Ok(()),
            s => Err(format!("status {s:?}, want {status}")),
        })
        .unwrap();
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        let _ = self.call(&["delete", "--force", &self.id]);
    }
}
