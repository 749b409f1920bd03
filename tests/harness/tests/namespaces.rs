//! Network namespaces that are not one container's alone: those that several want, that outlive their sandbox, and that
//! change while it has them.

use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::Engine;
use chitin_tests::leftovers::settle;
use chitin_tests::run::Outcome;
use chitin_tests::steps::Steps;
use chitin_tests::veth::{FAR, Pair, sh};
use chitin_tests::{paths, skip};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

fn busybox(script: &str) -> Bundle {
    Bundle::new("namespaces", &paths::rootfs("busybox"), &["/bin/sh", "-c", script]).capability("CAP_NET_RAW")
}

/// A container at the far end of the pair.
fn far(pair: &Pair, script: &str) -> Steps {
    Steps::new(pair.inside(busybox(script), &pair.far))
}

fn chitin_only(test: &str) -> bool {
    if Engine::under_test() != Engine::Chitin {
        skip(test, "a way of chitin's own");
    }
    Engine::under_test() == Engine::Chitin
}

fn until(what: impl Fn() -> Outcome, want: &str) {
    settle(LIMIT, || {
        let o = what();
        if o.text().contains(want) { Ok(()) } else { Err(format!("{want}: {}", o.brief())) }
    })
    .unwrap();
}

fn reaches(pair: &Pair) {
    until(|| pair.near(&format!("busybox ping -c 1 -W 1 {FAR} && echo reached")), "reached");
}

/// All that the host has configured there.
fn configured(pair: &Pair) -> String {
    let commands = ["addr", "-4 route show table all", "-6 route show table all", "rule", "-6 rule"];
    let script: Vec<_> = commands.iter().map(|c| format!("ip -n {} {c}", pair.far)).collect();
    // How long an address lives is counted down, cached routes come and go.
    sh(&script.join("; "))
        .text()
        .lines()
        .filter(|line| !line.contains("cache"))
        .collect::<Vec<_>>()
        .join("\n")
}

const SERVE: &str =
    "mkdir -p /tmp/w; echo served >/tmp/w/f; httpd -p 80 -h /tmp/w; while :; do sleep 1; done";
const WAIT: &str = "while :; do sleep 1; done";

#[test]
fn a_namespace_is_one_sandboxs() {
    if !chitin_only("a_namespace_is_one_sandboxs") {
        return;
    }
    let Some(pair) = Pair::with_addresses(1500) else { return };
    let first = far(&pair, SERVE);
    first.launch();
    let mut second = far(&pair, WAIT);
    second.root = first.root.clone();
    second.create();
    let o = second.fails(&["start", &second.id]);
    let pid = first.state()["pid"].to_string();
    for want in [&first.id, "network namespace", &format!("/proc/{pid}/ns/net")] {
        assert!(o.stderr.contains(want), "{want}: {}", o.brief());
    }
    // Runtimes that do not know of the first one are refused as well.
    let stranger = far(&pair, WAIT);
    stranger.create();
    assert!(stranger.fails(&["start", &stranger.id]).stderr.contains("another sandbox"));
    for other in [second, stranger] {
        other.ok(&["delete", "--force", &other.id]);
    }
    // Nothing of that has disturbed the first.
    reaches(&pair);
    until(|| first.exec(&[], &["wget", "-qO-", &format!("http://{FAR}/f")]), "served");
    // It is free again once that one has ended, deleted or not.
    first.ok(&["kill", &first.id, "KILL"]);
    first.until("stopped");
    let next = far(&pair, WAIT);
    next.launch();
    reaches(&pair);
    first.ok(&["delete", &first.id]);
    reaches(&pair);
    assert!(next.exec(&[], &["ping", "-c", "1", "-W", "5", "10.77.0.1"]).code == Some(0));
}

/// `--network container:X` of Docker and Podman, and Podman's pods: the namespace is named by X's process.
#[test]
fn who_shares_the_network_shares_its_loopback() {
    let Some(pair) = Pair::with_addresses(1500) else { return };
    let first = far(&pair, SERVE);
    first.launch();
    let by_process = |s: &Steps| {
        let path = format!("/proc/{}/ns/net", s.state()["pid"]);
        let list = json!([{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"},
            {"type": "network", "path": path}]);
        let mut other = Steps::new(busybox(WAIT).set("/linux/namespaces", list));
        other.root = first.root.clone();
        other
    };
    let second = by_process(&first);
    second.launch();
    let third = by_process(&second);
    third.launch();
    for other in [&second, &third] {
        for address in ["127.0.0.1", FAR] {
            until(|| other.exec(&[], &["wget", "-qO-", &format!("http://{address}/f")]), "served");
        }
        let o = other.exec(&[], &["sh", "-c", "ls /tmp/w; ip addr show eth0"]);
        assert!(o.text().contains(FAR) && o.stderr.contains("/tmp/w"), "{}", o.brief());
    }
    reaches(&pair);
    third.ok(&["delete", "--force", &third.id]);
    second.ok(&["delete", "--force", &second.id]);
    reaches(&pair);
}

#[test]
fn the_namespace_is_given_back() {
    let Some(pair) = Pair::with_addresses(1500) else { return };
    sh(&format!("ip -n {} route add 10.88.0.0/16 via 10.77.0.9 metric 7", pair.far));
    // The link-local address comes by itself.
    until(|| sh(&format!("ip -n {} -6 addr show dev eth0 -tentative", pair.far)), "fe80::");
    let before = configured(&pair);
    for end in ["delete", "kill"] {
        let s = far(&pair, WAIT);
        s.launch();
        reaches(&pair);
        if end == "kill" && s.engine == Engine::Chitin {
            sh(&format!("kill -9 {}", s.state()["pid"]));
            s.until("stopped");
        }
        s.ok(&["delete", "--force", &s.id]);
        assert_eq!(configured(&pair), before, "{end}");
        // The host answers itself.
        reaches(&pair);
    }
}

/// Docker's `network connect` and `disconnect`, and plugins that are called for a running container.
#[test]
fn interfaces_come_and_go() {
    let Some(pair) = Pair::with_addresses(1500) else { return };
    let s = far(&pair, &format!("mkdir -p /tmp/w; head -c 3000000 /dev/zero >/tmp/w/large; {SERVE}"));
    s.launch();
    let Pair { near, far } = &pair;
    let has = |name: &str| s.exec(&[], &["ip", "addr", "show", name]);
    for round in 0..2 {
        // Made elsewhere, moved in, renamed, and only then configured.
        sh(&format!(
            "ip -n {near} link add veth1 type veth peer name moved
             ip -n {near} addr add 10.78.0.1/24 dev veth1; ip -n {near} addr add fd78::1/64 dev veth1 nodad
             ip -n {near} link set veth1 up; ip -n {near} link set moved netns {far}
             ip -n {far} link set moved name net1; ip -n {far} addr add 10.78.0.2/24 dev net1
             ip -n {far} addr add fd78::2/64 dev net1 nodad; ip -n {far} link set net1 up
             ip -n {far} route add 10.99.0.0/16 via 10.78.0.1
             ip -n {far} -6 route add fd99::/64 via fd78::1"
        ));
        for address in ["10.78.0.2", "fd78::2"] {
            until(|| pair.near(&format!("busybox ping -c 1 -W 1 {address} && echo reached")), "reached");
        }
        let o = s.exec(
            &[],
            &["sh", "-c", "for a in 10.78.0.1 fd78::1 10.77.0.1; do ping -c 1 -W 5 $a; done; ip route"],
        );
        assert_eq!(o.text().matches(" 0% packet loss").count(), 3, "round {round}: {}", o.brief());
        assert!(o.text().contains("10.99.0.0/16 via 10.78.0.1 dev net1"), "{}", o.brief());
        // A stream, in large pieces.
        until(|| pair.near("busybox wget -qO- http://10.78.0.2/large | wc -c"), "3000000");
        // Addresses that come and go.
        sh(&format!(
            "ip -n {far} addr del 10.78.0.2/24 dev net1; ip -n {far} addr add 10.78.0.3/24 dev net1"
        ));
        until(|| pair.near("busybox ping -c 1 -W 1 10.78.0.3 && echo reached"), "reached");
        settle(LIMIT, || {
            if has("net1").text().contains("10.78.0.2/") { Err("it stays".into()) } else { Ok(()) }
        })
        .unwrap();
        sh(&format!("ip -n {near} link del veth1"));
        settle(LIMIT, || if has("net1").code == Some(0) { Err("net1 stays".to_owned()) } else { Ok(()) })
            .unwrap();
        reaches(&pair);
    }
    // The one that it began with goes as well.
    sh(&format!("ip -n {near} link del veth0"));
    settle(LIMIT, || if has("eth0").code == Some(0) { Err("eth0 stays".to_owned()) } else { Ok(()) })
        .unwrap();
}

/// Host mode means the host's sockets: not where another sandbox answers, and all of them once it is gone.
#[test]
fn host_mode_finds_local_addresses() {
    if !chitin_only("host_mode_finds_local_addresses") {
        return;
    }
    let Some(pair) = Pair::with_addresses(1500) else { return };
    let s = far(&pair, WAIT);
    s.launch();
    let host = |script: &str| {
        let mut command = std::process::Command::new("ip");
        command.args(["netns", "exec", &pair.far]).arg(paths::chitin()).arg("--root");
        command.arg(paths::scratch("namespaces-host").join("state")).args([
            "--network=host",
            "do",
            "--rootfs",
        ]);
        command.arg(paths::rootfs("busybox")).args(["--", "/bin/sh", "-c", script]);
        chitin_tests::run::quick(command, LIMIT)
    };
    let o = host("echo never");
    assert!(o.code != Some(0) && o.stderr.contains("network namespace belongs to"), "{}", o.brief());
    s.ok(&["delete", "--force", &s.id]);
    let o = host(&format!(
        "mkdir -p /tmp/w; echo hello >/tmp/w/f; httpd -p {FAR}:7001 -h /tmp/w; wget -qO- http://{FAR}:7001/f"
    ));
    assert_eq!(o.text(), "hello\n", "{}", o.brief());
}
