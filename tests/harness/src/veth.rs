//! Two network namespaces of a test with a veth pair between: `near` for the host's side, `far` for the container.

use std::process::{Child, Command};
use std::time::Duration;

use serde_json::json;

use crate::bundle::Bundle;
use crate::engine::unique_id;
use crate::run::{Outcome, quick};
use crate::{paths, skip};

const LIMIT: Duration = Duration::from_secs(30);

/// Addresses of the two ends.
pub const NEAR: &str = "10.77.0.1";
pub const FAR: &str = "10.77.0.2";

/// A shell script on the host that must succeed.
pub fn sh(script: &str) -> Outcome {
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    let outcome = quick(command, LIMIT);
    assert_eq!(outcome.code, Some(0), "{script}: {}", outcome.brief());
    outcome
}

/// A namespace `near` with one end of a veth pair, and one for the container with the other.
#[derive(Debug)]
pub struct Pair {
    pub near: String,
    pub far: String,
}

impl Pair {
    /// The container's end has no addresses yet.
    pub fn new(mtu: u32) -> Option<Pair> {
        if !nix::unistd::geteuid().is_root() {
            skip("veth", "making network namespaces needs root");
            return None;
        }
        let id = unique_id();
        let pair = Pair { near: format!("{id}-n"), far: format!("{id}-f") };
        let Pair { near, far } = &pair;
        sh(&format!(
            "ip netns add {near}; ip netns add {far}
             ip -n {near} link set lo up; ip -n {far} link set lo up
             ip -n {near} link add veth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {far}
             ip -n {near} addr add {NEAR}/24 dev veth0; ip -n {near} addr add fd77::1/64 dev veth0 nodad
             ip -n {near} link set veth0 up"
        ));
        Some(pair)
    }

    pub fn with_addresses(mtu: u32) -> Option<Pair> {
        let pair = Pair::new(mtu)?;
        let far = &pair.far;
        sh(&format!(
            "ip -n {far} addr add {FAR}/24 dev eth0; ip -n {far} addr add fd77::2/64 dev eth0 nodad
             ip -n {far} link set eth0 up; ip -n {far} route add default via {NEAR}"
        ));
        Some(pair)
    }

    /// As [`Pair::with_addresses`], with a wire in between that does what `faults` says (`tests/apps/faulty.c`: loss in percent, delay
    /// in microseconds, …).
    pub fn over_a_faulty_wire(faults: &str) -> Option<(Pair, Wire)> {
        if !nix::unistd::geteuid().is_root() {
            skip("wire", "making network namespaces needs root");
            return None;
        }
        let id = unique_id();
        let pair = Pair { near: format!("{id}-n"), far: format!("{id}-f") };
        let mid = format!("{id}-m");
        let Pair { near, far } = &pair;
        sh(&format!(
            "for n in {near} {far} {mid}; do ip netns add $n; ip -n $n link set lo up; done
             ip -n {near} link add veth0 type veth peer name left netns {mid}
             ip -n {far} link add eth0 type veth peer name right netns {mid}
             ip -n {near} addr add {NEAR}/24 dev veth0; ip -n {far} addr add {FAR}/24 dev eth0
             ip -n {mid} link set left up; ip -n {mid} link set right up
             ip -n {near} link set veth0 up; ip -n {far} link set eth0 up"
        ));
        let mut wire = Command::new("ip");
        wire.args(["netns", "exec", &mid]).arg(paths::guests().join("faulty")).args(["left", "right"]);
        let wire = wire.args(faults.split_whitespace()).spawn().expect("the wire");
        Some((pair, Wire { mid, wire }))
    }

    /// A bundle whose network is the namespace `name`, one of the two.
    pub fn inside(&self, bundle: Bundle, name: &str) -> Bundle {
        let path = format!("/run/netns/{name}");
        let list = json!([{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"},
            {"type": "network", "path": path}]);
        bundle.set("/linux/namespaces", list)
    }

    /// Runs something at the near end.
    pub fn near(&self, command: &str) -> Outcome {
        let busybox = paths::rootfs("busybox").join("bin/busybox");
        let mut ip = Command::new("ip");
        let script = command.replace("busybox", &busybox.to_string_lossy());
        ip.args(["netns", "exec", &self.near, "sh", "-c", &script]);
        quick(ip, LIMIT)
    }
}

/// A wire between the two, in a namespace of its own.
#[derive(Debug)]
pub struct Wire {
    mid: String,
    wire: Child,
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.wire.kill();
        let _ = self.wire.wait();
        let _ = Command::new("ip").args(["netns", "del", &self.mid]).status();
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}
