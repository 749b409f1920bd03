//! Egress policies, from inside: what is allowed works, what is not fails as on Linux behind nftables' `reject`, and the log has
//! both; with interfaces taken over, with the host's sockets, and without a namespace. Servers are in a network namespace at
//! the other end of a veth pair.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::{Engine, unique_id};
use chitin_tests::leftovers::settle;
use chitin_tests::run::{Outcome, quick};
use chitin_tests::{paths, skip};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const CLIENT: &str = include_str!("programs/egress_client.py");
const SERVERS: &str = include_str!("programs/egress_servers.py");
/// The address of the servers.
const THERE: &str = "10.79.0.1";
const OWN: &str = "10.79.0.2";

fn sh(script: &str) {
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    let outcome = quick(command, LIMIT);
    assert_eq!(outcome.code, Some(0), "{script}: {}", outcome.brief());
}

/// Two namespaces, the servers in one of them, and a place for files.
struct World {
    near: String,
    far: String,
    dir: PathBuf,
    servers: Child,
}

impl World {
    fn new(test: &str) -> Option<World> {
        if Engine::under_test() != Engine::Chitin {
            skip(test, "egress policies are chitin's own");
            return None;
        }
        if !nix::unistd::geteuid().is_root() {
            skip(test, "making network namespaces needs root");
            return None;
        }
        let id = unique_id();
        let (near, far) = (format!("{id}-n"), format!("{id}-f"));
        let dir = paths::scratch("egress");
        sh(&format!(
            "ip netns add {near}; ip netns add {far}
             ip -n {near} link set lo up; ip -n {far} link set lo up
             ip -n {near} link add veth0 type veth peer name eth0 netns {far}
             ip -n {near} addr add {THERE}/24 dev veth0; ip -n {near} addr add 169.254.169.254/32 dev veth0
             ip -n {near} addr add fd79::1/64 dev veth0 nodad; ip -n {far} addr add fd79::2/64 dev eth0 nodad
             ip -n {near} link set veth0 up
             ip -n {far} addr add {OWN}/24 dev eth0; ip -n {far} link set eth0 up; ip -n {far} route add default via {THERE}"
        ));
        let mut servers = Command::new("ip");
        servers.args(["netns", "exec", &near, "python3", "-c", SERVERS, THERE]).arg(dir.join("heard"));
        let mut servers = servers.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let mut line = String::new();
        let out = servers.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("the servers say that they are ready");
        assert_eq!(line, "ready\n");
        Some(World { near, far, dir, servers })
    }

    fn audit(&self) -> PathBuf {
        self.dir.join("audit")
    }

    /// Lines of the log, as values.
    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.audit()).unwrap_or_default();
        text.lines()
            .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("no JSON ({e}): {l}")))
            .collect()
    }

    /// Whether the log has a line with these fields.
    fn has(&self, fields: &Value) -> bool {
        let wanted = fields.as_object().expect("an object");
        self.lines().iter().any(|line| wanted.iter().all(|(key, value)| line.get(key) == Some(value)))
    }

    fn expect_line(&self, fields: Value) {
        assert!(self.has(&fields), "{fields} is not in the log: {:#?}", self.lines());
    }

    fn with_audit(&self, policy: &str) -> String {
        format!("{policy}; audit {}", self.audit().display())
    }

    fn bundle(&self, steps: &[&str]) -> Bundle {
        let args = [&["python3", "-c", CLIENT], steps].concat();
        let path = format!("/run/netns/{}", self.far);
        let list = json!([{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"},
            {"type": "network", "path": path}]);
        Bundle::new("egress", &paths::rootfs("bookworm"), &args)
            .capability("CAP_NET_RAW")
            .env(&format!("OWN={OWN}"))
            .set("/linux/sysctl", json!({"net.ipv4.ping_group_range": "0 2147483647"}))
            .set("/linux/namespaces", list)
    }

    fn chitin(&self) -> Command {
        let mut command = Command::new(paths::chitin());
        command.arg("--root").arg(self.dir.join("state")).env("CHITIN_OVERLAY", "root:memory");
        if let Ok(platform) = std::env::var("CHITIN_TEST_PLATFORM") {
            command.arg(format!("--platform={platform}"));
        }
        command
    }

    fn run_bundle(&self, globals: &[&str], policy: &str, bundle: &Bundle) -> Outcome {
        bundle.write();
        let mut command = self.chitin();
        command.args(globals).args(["run", "--egress", policy, "--bundle"]).arg(&bundle.dir).arg(unique_id());
        quick(command, LIMIT)
    }

    fn run(&self, policy: &str, steps: &[&str]) -> Outcome {
        self.run_bundle(&[], &self.with_audit(policy), &self.bundle(steps))
    }

    /// Without a namespace of its own, and with ours.
    fn run_do(&self, policy: &str, steps: &[&str]) -> Outcome {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.far]).arg(paths::chitin());
        command.arg("--root").arg(self.dir.join("state")).arg("do");
        command.arg("--rootfs").arg(paths::rootfs("bookworm")).arg("--egress").arg(self.with_audit(policy));
        command.args(["--", "python3", "-c", CLIENT]).args(steps);
        quick(command, LIMIT)
    }

    /// A container that goes on.
    fn start(&self, policy: &str, bundle: &Bundle) -> Running<'_> {
        bundle.write();
        let said = self.dir.join("said");
        let (dir, id) = (bundle.dir.to_string_lossy(), unique_id());
        let mut create = self.chitin();
        create.args(["create", "--egress", &self.with_audit(policy), "--bundle", &dir, &id]);
        create.stdin(Stdio::null()).stdout(std::fs::File::create(&said).unwrap());
        assert!(create.status().unwrap().success());
        let running = Running { world: self, id, said };
        running.ok(&["start", &running.id]);
        running
    }

    /// What the servers have got as datagrams.
    fn heard(&self) -> String {
        std::fs::read_to_string(self.dir.join("heard")).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.servers.kill();
        let _ = self.servers.wait();
        for name in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// A container that goes on.
struct Running<'w> {
    world: &'w World,
    id: String,
    said: PathBuf,
}

impl Running<'_> {
    fn call(&self, args: &[&str]) -> Outcome {
        let mut command = self.world.chitin();
        command.args(args);
        quick(command, LIMIT)
    }

    fn ok(&self, args: &[&str]) -> Outcome {
        let o = self.call(args);
        assert_eq!(o.code, Some(0), "{args:?}: {}", o.brief());
        o
    }

    /// Waits until it says this.
    fn says(&self, want: &str) {
        settle(LIMIT, || {
            let text = std::fs::read_to_string(&self.said).unwrap_or_default();
            if text.contains(want) { Ok(()) } else { Err(format!("{text:?} without {want:?}")) }
        })
        .unwrap();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.call(&["delete", "--force", &self.id]);
    }
}

fn assert_text(outcome: &Outcome, want: &[&str]) {
    let text = outcome.text();
    assert_eq!(text.lines().collect::<Vec<_>>(), want, "{}", outcome.brief());
}

const DOMAINS: &str = "dns 10.79.0.1; allow good.test *.below.test tcp:443";
const DOMAIN_STEPS: [&str; 9] = [
    "tcp 10.79.0.1 443",
    "resolve 10.79.0.1 good.test",
    "tls 10.79.0.1 443 good.test",
    "tls 10.79.0.1 443 evil.test",
    "tls 10.79.0.1 443",
    "tls 10.79.0.1 443 a.below.test",
    "resolvetcp 10.79.0.1 a.below.test",
    "tls 10.79.0.1 443 a.below.test",
    "tls 10.79.0.1 8443 good.test",
];
/// The last name of an address that shares it is known only after it was asked for.
const DOMAIN_RESULTS: [&str; 9] = [
    "ECONNREFUSED",
    "10.79.0.1",
    "served",
    "ECONNRESET",
    "ECONNRESET",
    "ECONNRESET",
    "10.79.0.1",
    "served",
    "ECONNREFUSED",
];

/// What the log has after the steps above.
fn domains_are_logged(w: &World) {
    w.expect_line(json!({"event": "deny", "verdict": "deny", "rule": "default deny", "proto": "tcp", "remote": THERE, "port": 443}));
    w.expect_line(json!({"event": "open", "verdict": "allow", "rule": "dns", "proto": "udp", "port": 53}));
    w.expect_line(json!({"event": "reset", "verdict": "deny", "domain": "evil.test", "port": 443}));
    w.expect_line(json!({"event": "deny", "port": 8443}));
    let rule = "allow good.test *.below.test tcp:443";
    w.expect_line(json!({"event": "close", "verdict": "allow", "rule": rule, "domain": "good.test", "received": 6, "local": OWN}));
    w.expect_line(json!({"event": "close", "rule": rule, "domain": "a.below.test", "received": 6}));
    assert!(w.lines().iter().all(|line| line["time"].as_str().is_some_and(|t| t.len() == 24)));
}

#[test]
fn domains_by_name_servers_and_tls() {
    let Some(w) = World::new("domains_by_name_servers_and_tls") else { return };
    assert_text(&w.run(DOMAINS, &DOMAIN_STEPS), &DOMAIN_RESULTS);
    domains_are_logged(&w);
}

#[test]
fn domains_with_the_hosts_sockets() {
    let Some(w) = World::new("domains_with_the_hosts_sockets") else { return };
    let o = w.run_bundle(&["--network=host"], &w.with_audit(DOMAINS), &w.bundle(&DOMAIN_STEPS));
    assert_text(&o, &DOMAIN_RESULTS);
    domains_are_logged(&w);
    let steps = ["udp 10.79.0.1 9000 no", "udp 10.79.0.1 9001 yes"];
    let o = w.run_bundle(&["--network=host"], "allow any udp:9001", &w.bundle(&steps));
    assert_text(&o, &["EPERM", "heard"]);
    assert_eq!(w.heard(), "yes\n");
}

#[test]
fn domains_without_a_namespace() {
    let Some(w) = World::new("domains_without_a_namespace") else { return };
    assert_text(&w.run_do(DOMAINS, &DOMAIN_STEPS), &DOMAIN_RESULTS);
    domains_are_logged(&w);
    let steps = ["udp 10.79.0.1 9000 no", "udp 10.79.0.1 9001 yes", "inside"];
    assert_text(&w.run_do("allow any udp:9001", &steps), &["EPERM", "heard", "inside"]);
    assert_eq!(w.heard(), "yes\n");
}

#[test]
fn ipv6_and_strict_questions() {
    let Some(w) = World::new("ipv6_and_strict_questions") else { return };
    let steps = [
        "tcp fd79::1 80",
        "tcp fd79::1 443",
        "resolve 10.79.0.1 secret.test",
        "resolvetcp 10.79.0.1 good.test",
        "resolve 10.79.0.1 good.test",
        "tls 10.79.0.1 443 good.test",
    ];
    let want = ["served", "ECONNREFUSED", "EPERM", "ECONNREFUSED", "10.79.0.1", "served"];
    let policy = "dns 10.79.0.1 strict; allow fd79::/64 tcp:80; allow good.test";
    // The last one takes the interface from the host's stack for good.
    assert_text(&w.run_bundle(&["--network=host"], &w.with_audit(policy), &w.bundle(&steps)), &want);
    assert_text(&w.run_do(policy, &steps[2..]), &want[2..]);
    assert_text(&w.run(policy, &steps), &want);
    w.expect_line(json!({"event": "deny", "rule": "dns strict", "domain": "secret.test", "port": 53}));
    w.expect_line(json!({"event": "close", "remote": "fd79::1", "port": 80, "local": "fd79::2"}));
}

#[test]
fn raw_and_packet_sockets_are_no_way_round() {
    let Some(w) = World::new("raw_and_packet_sockets_are_no_way_round") else { return };
    let steps = [
        "udp 10.79.0.1 9000 udp-no",
        "rawudp 10.79.0.1 9000 raw-no",
        "hdrincl 10.79.0.1 9000 hdr-no",
        "frame 10.79.0.1 9000 frame-no",
        "ping 10.79.0.1",
        "frame 10.79.0.1 9001 frame-yes",
        "rawudp 10.79.0.1 9001 raw-yes",
        "hdrincl 10.79.0.1 9001 hdr-yes",
        "udp 10.79.0.1 9001 udp-yes",
        "inside",
    ];
    let o = w.run("allow 10.79.0.0/24 udp:9001", &steps);
    let want = ["EPERM", "EPERM", "EPERM", "sent", "EPERM", "sent", "sent", "sent", "heard", "inside"];
    assert_text(&o, &want);
    // Nothing overtakes the last one.
    assert_eq!(w.heard(), "frame-yes\nraw-yes\nhdr-yes\nudp-yes\n");
    let denied = |line: &&Value| line["event"] == "deny" && line["port"] == 9000;
    assert!(w.lines().iter().filter(denied).count() >= 2, "{:#?}", w.lines());
    w.expect_line(json!({"event": "deny", "proto": "icmp", "remote": THERE}));
}

#[test]
fn networks_metadata_and_annotations() {
    let Some(w) = World::new("networks_metadata_and_annotations") else { return };
    let steps = ["tcp 10.79.0.1 80", "tcp 169.254.169.254 80", "tcp 10.79.0.1 443", "ping 10.79.0.1"];
    assert_text(
        &w.run("default allow; block-metadata; deny 10.79.0.1 tcp:443", &steps),
        &["served", "ECONNREFUSED", "ECONNREFUSED", "answered"],
    );
    w.expect_line(json!({"event": "deny", "rule": "block-metadata", "remote": "169.254.169.254"}));
    // An annotation can only forbid more, and names no files.
    let annotated = |text: &str| w.bundle(&steps).set("/annotations", json!({"dev.chitin.egress": text}));
    let o = w.run_bundle(&[], "default allow; deny any tcp:443", &annotated("default allow; block-metadata"));
    assert_text(&o, &["served", "ECONNREFUSED", "ECONNREFUSED", "answered"]);
    for (flag, annotation, want) in [
        ("off", "default allow; audit /tmp/x", "names no file"),
        ("off", "alow any", "annotation dev.chitin.egress: egress policy, statement 1"),
        ("allow 10.0.0.0/99", "default deny", "--egress: egress policy, statement 1"),
        ("/no/such/policy", "default deny", "cannot read the policy /no/such/policy"),
        ("default deny; audit /no/such/dir/x", "default deny", "does its directory exist?"),
    ] {
        let o = w.run_bundle(&[], flag, &annotated(annotation));
        assert!(o.code != Some(0) && o.stderr.contains(want), "{flag} {annotation}: {}", o.brief());
    }
    // A file, by the environment.
    let file = w.dir.join("policy");
    std::fs::write(&file, "# ours\ndefault allow\ndeny any tcp:80 # not this\n").unwrap();
    let bundle = w.bundle(&["tcp 10.79.0.1 80", "tcp 10.79.0.1 443"]);
    bundle.write();
    let mut command = w.chitin();
    command.env("CHITIN_EGRESS", &file).args(["run", "--bundle"]).arg(&bundle.dir).arg(unique_id());
    assert_text(&quick(command, LIMIT), &["ECONNREFUSED", "served"]);
}

#[test]
fn a_running_sandbox_gets_another_policy() {
    let Some(w) = World::new("a_running_sandbox_gets_another_policy") else { return };
    let running = w.start("allow 10.79.0.1", &w.bundle(&["hold 10.79.0.1 80 /tmp/go", "idle"]));
    running.says("held");
    let tries =
        |steps: &[&str]| running.ok(&[&["exec", &running.id, "python3", "-c", CLIENT], steps].concat());
    assert_text(&tries(&["tcp 10.79.0.1 80"]), &["served"]);
    running.ok(&["update", "--egress", &w.with_audit("allow 10.79.0.1 tcp:443"), &running.id]);
    assert_text(&tries(&["tcp 10.79.0.1 80", "tcp 10.79.0.1 443"]), &["ECONNREFUSED", "served"]);
    // What was allowed before is cut off when it goes on.
    running.ok(&["exec", &running.id, "touch", "/tmp/go"]);
    running.says("ECONNRESET");
    w.expect_line(json!({"event": "reset", "verdict": "deny", "port": 80}));
    running.ok(&["update", "--egress", "off", &running.id]);
    assert_text(&tries(&["tcp 10.79.0.1 80"]), &["served"]);
    running.ok(&["delete", "--force", &running.id]);
}

#[test]
fn no_faster_than_allowed() {
    let Some(w) = World::new("no_faster_than_allowed") else { return };
    // 600 KB at 200 KB a second, less the burst: 2.7 seconds.
    let policy = "default allow; rate 200K burst 64K";
    let steps = ["bulk 10.79.0.1 80 600000"];
    // The last one takes the interface from the host's stack for good.
    for (way, o) in [
        ("host", w.run_bundle(&["--network=host"], policy, &w.bundle(&steps))),
        ("do", w.run_do(policy, &steps)),
        ("sandbox", w.run(policy, &steps)),
    ] {
        let seconds: f64 = o.text().trim().parse().unwrap_or_else(|_| panic!("{way}: {}", o.brief()));
        assert!((0.9..30.0).contains(&seconds), "{way}: {seconds}");
    }
    let o = w.run("default allow", &steps);
    let seconds: f64 = o.text().trim().parse().unwrap_or_else(|_| panic!("{}", o.brief()));
    assert!(seconds < 0.9, "without a rate: {seconds}");
}

/// Behind the sandbox, which forwards.
const BEHIND: &str = "10.79.1.2";

/// A namespace at another interface of the sandbox's, whose way to the servers is through the sandbox.
struct Behind(String);

impl Behind {
    fn new(w: &World) -> Behind {
        let (near, far, behind) = (&w.near, &w.far, format!("{}-b", w.near));
        sh(&format!(
            "ip netns add {behind}; ip -n {behind} link set lo up
             ip -n {behind} link add veth0 type veth peer name eth1 netns {far}
             ip -n {behind} addr add {BEHIND}/24 dev veth0; ip -n {behind} addr add fd79:1::2/64 dev veth0 nodad
             ip -n {far} addr add 10.79.1.1/24 dev eth1; ip -n {far} addr add fd79:1::1/64 dev eth1 nodad
             ip -n {behind} link set veth0 up; ip -n {far} link set eth1 up
             ip -n {behind} route add default via 10.79.1.1; ip -n {behind} route add default via fd79:1::1
             ip -n {near} route add 10.79.1.0/24 via {OWN}; ip -n {near} route add fd79:1::/64 via fd79::2"
        ));
        Behind(behind)
    }

    fn run(&self, steps: &[&str]) -> Outcome {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, "python3", "-c", CLIENT]).args(steps);
        quick(command, LIMIT)
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[test]
fn what_is_forwarded_is_judged() {
    let Some(w) = World::new("what_is_forwarded_is_judged") else { return };
    let behind = Behind::new(&w);
    let sysctl = json!({"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"});
    let bundle = w.bundle(&["udp 10.79.0.1 9001 own", "idle"]).set("/linux/sysctl", sysctl);
    let policy =
        "dns 10.79.0.1; allow 10.79.0.0/24 udp:9001; allow fd79::/64 tcp:80; allow good.test tcp:443";
    let running = w.start(policy, &bundle);
    running.says("heard");
    let steps = [
        "udp 10.79.0.1 9001 yes",
        "udp 10.79.0.1 9000 no",
        "tcp fd79::1 80",
        "tcp fd79::1 443",
        "resolve 10.79.0.1 good.test",
        "tls 10.79.0.1 443 good.test",
        "tls 10.79.0.1 443 evil.test",
        "bulk fd79::1 80 600000",
    ];
    let o = behind.run(&steps);
    let text = o.text();
    let (said, bulk) = text.trim_end().rsplit_once('\n').unwrap_or_default();
    let want = ["heard", "timeout", "served", "timeout", "10.79.0.1", "served", "timeout"];
    assert_eq!(said.lines().collect::<Vec<_>>(), want, "{}", o.brief());
    assert!(bulk.parse::<f64>().is_ok(), "{}", o.brief());
    assert_eq!(w.heard(), "own\nyes\n");
    let denied = json!({"event": "deny", "verdict": "deny", "proto": "udp", "local": BEHIND, "remote": THERE, "port": 9000});
    w.expect_line(denied);
    w.expect_line(
        json!({"event": "deny", "proto": "tcp", "local": "fd79:1::2", "remote": "fd79::1", "port": 443}),
    );
    w.expect_line(json!({"event": "reset", "domain": "evil.test", "local": BEHIND}));
    running.ok(&["update", "--egress", &w.with_audit("default deny"), &running.id]);
    assert_text(&behind.run(&["udp 10.79.0.1 9001 late"]), &["timeout"]);
    running.ok(&["update", "--egress", "off", &running.id]);
    assert_text(&behind.run(&["udp 10.79.0.1 9000 off"]), &["heard"]);
    assert_eq!(w.heard(), "own\nyes\noff\n");
}
