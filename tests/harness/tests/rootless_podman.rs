//! Podman of an unprivileged user, with the runtime under test: with a range of subordinate ids, and with its own id alone.
//! `CHITIN_TEST_ENGINE=crun` proves the flows. Neighbours: `rootless.rs` calls the runtime itself, `podman.rs` is root's.

use std::sync::OnceLock;
use std::time::Duration;

use chitin_tests::engine::Engine;
use chitin_tests::engines::client::{self, Client, Container};
use chitin_tests::engines::rootless::RootlessPodman;
use chitin_tests::leftovers::settle;
use chitin_tests::skip;

const LIMIT: Duration = Duration::from_secs(60);

type Start = OnceLock<Result<RootlessPodman, String>>;

fn started<'a>(one: &'a Start, name: &str, ids: &str, test: &str) -> Option<&'a RootlessPodman> {
    one.get_or_init(|| RootlessPodman::start(name, ids))
        .as_ref()
        .map_err(|why| skip(test, &format!("rootless Podman does not start here: {why}")))
        .ok()
}

fn with_range(test: &str) -> Option<&'static RootlessPodman> {
    static ONE: Start = OnceLock::new();
    started(&ONE, "rootless-range", "sub:200000:65536\\n", test)
}

fn with_own_id(test: &str) -> Option<&'static RootlessPodman> {
    static ONE: Start = OnceLock::new();
    started(&ONE, "rootless-own", "", test)
}

/// run, run -d, exec, logs, stop, inspect, rm.
fn lifecycle(d: &RootlessPodman, user: &str) {
    let c = Container::named(d);
    let o = c.run(&["--rm"], &["sh", "-c", "id -u; echo err >&2; touch /made && exit 7"]);
    assert_eq!((o.code, o.text().as_str(), o.stderr.as_str()), (Some(7), "0\n", "err\n"), "{}", o.brief());
    let script = "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.05; done";
    let c = Container::up(d, &[], &["sh", "-c", script]);
    settle(LIMIT, || if c.ok(&["logs", &c.name]) == "ready\n" { Ok(()) } else { Err("not ready".into()) })
        .unwrap();
    let o = d.call(&["exec", "-u", user, "-w", "/tmp", &c.name, "sh", "-c", "id -u; pwd; exit 9"]);
    assert_eq!((o.code, o.text()), (Some(9), format!("{user}\n/tmp\n")), "{}", o.brief());
    assert_ne!(d.call(&["exec", &c.name, "/no/such"]).code, Some(0));
    assert_ne!(d.call(&["rm", &c.name]).code, Some(0), "a running container is not removed");
    c.ok(&["stop", "--time", "30", &c.name]);
    assert_eq!(c.inspect(".State.ExitCode"), "4");
    // Nothing of the runtime's is in what the container has said.
    assert_eq!(c.ok(&["logs", &c.name]), "ready\nbye\n");
    c.ok(&["start", &c.name]);
    c.ok(&["kill", &c.name]);
    c.ends_with("137");
    c.ok(&["rm", &c.name]);
    if Engine::under_test() == Engine::Chitin {
        let left = d.world().run(&["ls", "/run/user/1000/chitin"], LIMIT);
        assert!(!left.text().contains(&c.name), "{}", left.brief());
    }
}

#[test]
fn the_lifecycle_with_a_range_of_ids() {
    let Some(d) = with_range("rootless podman, range") else { return };
    lifecycle(d, "5");
}

#[test]
fn the_lifecycle_with_the_own_id() {
    let Some(d) = with_own_id("rootless podman, one id") else { return };
    lifecycle(d, "0");
}

#[test]
fn files_belong_to_subordinate_ids() {
    let Some(d) = with_range("rootless podman, files") else { return };
    let c = Container::up(d, &[], &["sh", "-c", "touch /f; chown 7:8 /f; stat -c %u:%g /f; sleep 1000"]);
    settle(
        LIMIT,
        || if c.ok(&["logs", &c.name]) == "7:8\n" { Ok(()) } else { Err(c.ok(&["logs", &c.name])) },
    )
    .unwrap();
    let root = d.call(&["mount", &c.name]);
    // `podman unshare` would show it mapped; the world's root sees what the host has.
    let script =
        format!("find {} -name f -uid 200006 -gid 200007 | wc -l", d.file(".local/share/containers"));
    let found = d.world().run(&["sh", "-c", &script], LIMIT);
    assert_eq!(found.text().trim(), "1", "{} {}", found.brief(), root.brief());
}

#[test]
fn user_namespaces_of_their_own() {
    let Some(d) = with_range("rootless podman, --userns") else { return };
    let c = Container::named(d);
    let o = c.run(
        &["--rm", "--userns=keep-id"],
        &["sh", "-c", "id -u; echo $(cat /proc/self/uid_map); touch /tmp/f"],
    );
    assert_eq!(o.text(), "1000\n0 1 1000 1000 0 1 1001 1001 64536\n", "{}", o.brief());
}

#[test]
fn cp_and_top() {
    let Some(d) = with_range("rootless podman, cp") else { return };
    if d.world().run(&["test", "-e", "/dev/fuse"], LIMIT).code != Some(0) {
        return skip("rootless podman cp", "no /dev/fuse here");
    }
    let c = Container::up(d, &["--tmpfs", "/mem"], &["sh", "-c", "echo inside >/mem/f; echo up; sleep 1000"]);
    settle(LIMIT, || if c.ok(&["logs", &c.name]) == "up\n" { Ok(()) } else { Err("not up".into()) }).unwrap();
    c.ok(&["cp", &format!("{}:/mem/f", c.name), &d.file("out")]);
    assert_eq!(std::fs::read_to_string(d.file("out")).unwrap_or_default(), "inside\n");
    c.ok(&["cp", &d.file("containers.conf"), &format!("{}:/mem/in", c.name)]);
    assert!(c.ok(&["exec", &c.name, "cat", "/mem/in"]).contains("netns"));
    let top = c.ok(&["top", &c.name, "pid", "args"]);
    assert!(top.lines().any(|l| l.starts_with('1') && l.contains("sleep 1000")), "{top}");
}

#[test]
fn a_terminal() {
    let Some(d) = with_range("rootless podman run -it") else { return };
    client::terminal(d, "echo size $(stty size)", "size 33 77");
}

#[test]
fn detach_and_attach() {
    let Some(d) = with_range("rootless podman attach") else { return };
    client::detach_and_attach(d);
}
