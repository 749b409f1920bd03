//! Docker Engine with `--runtime=chitin`: what its users do every day. One daemon serves all tests of this file.

use std::sync::OnceLock;
use std::time::Duration;

use chitin_tests::engines::client::{self, Client, Container};
use chitin_tests::engines::docker::Docker;
use chitin_tests::leftovers::{cgroups, settle};
use chitin_tests::{paths, skip};

const LIMIT: Duration = Duration::from_secs(60);

fn daemon(test: &str) -> Option<&'static Docker> {
    static ONE: OnceLock<Result<Docker, String>> = OnceLock::new();
    ONE.get_or_init(|| Docker::start("docker"))
        .as_ref()
        .map_err(|why| skip(test, &format!("Docker does not start here: {why}")))
        .ok()
}

#[test]
fn run_gives_output_and_exit_code() {
    let Some(d) = daemon("docker run") else { return };
    let c = Container::named(d);
    let o = c.run(&["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (o.code, o.text().as_str(), o.stderr.as_str()),
        (Some(7), "out\n", "err\n"),
        "dockerd: {}",
        d.log()
    );
    let o = c.run(
        &["--rm", "-e", "A=b c", "-w", "/tmp", "-u", "1000:1001", "-h", "box"],
        &["sh", "-c", "echo $A; pwd; id -u; id -g; hostname; ls /sys/class/net"],
    );
    assert_eq!((o.code, o.text().as_str()), (Some(0), "b c\n/tmp\n1000\n1001\nbox\nlo\n"), "{}", o.brief());
    let o = c.run(&["--rm"], &["/no/such/program"]);
    assert!(o.code == Some(127) && o.stderr.contains("/no/such/program"), "{}", o.brief());
    let o = c.run(&["--rm"], &["/etc/passwd"]);
    assert!(o.code == Some(126) && o.stderr.contains("/etc/passwd"), "{}", o.brief());
}

#[test]
fn logs_exec_stop_rm() {
    let Some(d) = daemon("docker exec") else { return };
    let script = "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.05; done";
    let c = Container::up(d, &[], &["sh", "-c", script]);
    settle(LIMIT, || if c.ok(&["logs", &c.name]) == "ready\n" { Ok(()) } else { Err("not ready".into()) })
        .unwrap();
    let o = d.call(&[
        "exec",
        "-e",
        "X=1",
        "-w",
        "/tmp",
        "-u",
        "nobody",
        &c.name,
        "sh",
        "-c",
        "echo $X; pwd; id -un; exit 9",
    ]);
    assert_eq!(
        (o.code, o.text().as_str()),
        (Some(9), "1\n/tmp\nnobody\n"),
        "{}\ndockerd: {}",
        o.brief(),
        d.log()
    );
    let o = d.call(&["exec", &c.name, "/no/such/program"]);
    assert!(o.code.is_some_and(|c| c == 126 || c == 127), "{}", o.brief());
    assert!(c.ok(&["top", &c.name]).lines().count() >= 2);
    c.ok(&["stop", "--time", "30", &c.name]);
    assert_eq!(c.inspect(".State.ExitCode"), "4");
    assert_eq!(c.ok(&["logs", &c.name]), "ready\nbye\n");
    // The same container can be started again.
    c.ok(&["start", &c.name]);
    settle(
        LIMIT,
        || if c.inspect(".State.Status") == "running" { Ok(()) } else { Err("not running".into()) },
    )
    .unwrap();
    assert_ne!(d.call(&["rm", &c.name]).code, Some(0), "a running container is not removed");
    let id = c.inspect(".Id");
    c.ok(&["kill", &c.name]);
    c.ends_with("137");
    c.ok(&["rm", &c.name]);
    settle(LIMIT, || match cgroups(&id) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("cgroups left: {left:?}")),
    })
    .unwrap();
}

#[test]
fn cp_goes_both_ways() {
    let Some(d) = daemon("docker cp") else { return };
    let c = Container::up(d, &[], &["sh", "-c", "echo from inside >/tmp/out; sleep 1000"]);
    let dir = paths::scratch("cp");
    std::fs::write(dir.join("in"), "from outside\n").unwrap();
    let at = |p: &str| format!("{}:{p}", c.name);
    c.ok(&["cp", &dir.join("in").to_string_lossy(), &at("/tmp/in")]);
    assert_eq!(c.ok(&["exec", &c.name, "cat", "/tmp/in"]), "from outside\n");
    c.ok(&["cp", &at("/tmp/out"), &dir.join("out").to_string_lossy()]);
    assert_eq!(std::fs::read_to_string(dir.join("out")).unwrap_or_default(), "from inside\n");
    // What a stopped container wrote is still there.
    c.ok(&["stop", "--time", "0", &c.name]);
    c.ok(&["cp", &at("/tmp/out"), &dir.join("again").to_string_lossy()]);
    assert_eq!(std::fs::read_to_string(dir.join("again")).unwrap_or_default(), "from inside\n");
}

#[test]
fn healthchecks_run_inside() {
    let Some(d) = daemon("docker healthcheck") else { return };
    let flags = ["--health-cmd", "test -e /tmp/well", "--health-interval", "1s", "--health-retries", "2"];
    let c = Container::up(d, &flags, &["sh", "-c", "sleep 1000"]);
    let health = |want: &str| {
        settle(LIMIT, || match c.inspect(".State.Health.Status").as_str() {
            s if s == want => Ok(()),
            s => Err(format!("health is {s}, want {want}")),
        })
    };
    health("unhealthy").unwrap();
    c.ok(&["exec", &c.name, "touch", "/tmp/well"]);
    health("healthy").unwrap();
}

#[test]
fn a_network_is_shared() {
    let Some(d) = daemon("docker run --network container") else { return };
    client::shared_network(d);
}

#[test]
fn a_terminal() {
    let Some(d) = daemon("docker run -it") else { return };
    // Docker sets the size some time after the start.
    let size = "until [ \"$(stty size 2>/dev/null)\" = '33 77' ]; do sleep 0.1; done; echo si''ze";
    client::terminal(d, size, "size");
}

#[test]
fn volumes_pause_and_limits() {
    let Some(d) = daemon("docker volumes") else { return };
    let c = client::volumes_and_pause(d);
    if d.world.limits_memory() {
        c.ok(&["update", "--memory", "80m", "--memory-swap", "-1", &c.name]);
        let stats = c.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", &c.name]);
        assert!(stats.contains("80MiB"), "{stats}");
    } else {
        skip("docker limits", "no memory controller in the cgroups seen here");
    }
}

#[test]
fn a_build_of_two_steps() {
    let Some(d) = daemon("docker build") else { return };
    // The classic builder runs each step as a container of the daemon's default runtime.
    client::build_of_two_steps(d, &[], &[("DOCKER_BUILDKIT", "0")]);
}

/// `--userns-remap`: root of a container is a user without power on the host, and its files belong to that user.
#[test]
fn ids_are_remapped() {
    let d = match Docker::start_remapped("docker-remap") {
        Ok(d) => d,
        Err(why) => return skip("docker userns-remap", &format!("such a daemon does not start here: {why}")),
    };
    let volume = paths::scratch("remap-volume");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&volume, open).expect("own directory");
    let bind = format!("{}:/vol", volume.display());
    let c =
        Container::up(&d, &["-v", &bind], &["sh", "-c", "echo made >/vol/file; echo own >/own; sleep 1000"]);
    settle(LIMIT, || match std::fs::metadata(volume.join("file")) {
        Ok(m) if m.len() == 5 => Ok(()),
        other => Err(format!("{other:?}: {}", d.log())),
    })
    .unwrap();
    let owner = |p: &std::path::Path| {
        let m = std::fs::metadata(p).expect("it is there");
        (std::os::unix::fs::MetadataExt::uid(&m), std::os::unix::fs::MetadataExt::gid(&m))
    };
    assert_eq!(owner(&volume.join("file")), (100_000, 100_000));
    let inside = "cat /proc/self/uid_map | tr -s ' '; id -u; stat -c '%u %g' /own /etc/passwd /vol/file";
    let shown = c.ok(&["exec", &c.name, "sh", "-c", inside]);
    assert_eq!(shown.trim_start(), "0 100000 65536\n0\n0 0\n0 0\n0 0\n", "{shown:?}");
    let o = d.call(&["exec", "-u", "1000:1001", &c.name, "sh", "-c", "echo u >/vol/user; id -u; id -g"]);
    assert_eq!((o.code, o.text().as_str()), (Some(0), "1000\n1001\n"), "{}", o.brief());
    assert_eq!(owner(&volume.join("user")), (101_000, 101_001));
    // Out of the container and into it.
    let dir = paths::scratch("remap-cp");
    c.ok(&["cp", &format!("{}:/own", c.name), &dir.join("own").to_string_lossy()]);
    assert_eq!(std::fs::read_to_string(dir.join("own")).expect("copied"), "own\n");
    c.ok(&["cp", &dir.join("own").to_string_lossy(), &format!("{}:/tmp/in", c.name)]);
    assert_eq!(c.ok(&["exec", &c.name, "cat", "/tmp/in"]), "own\n");
    // What belongs to the host's root is out of reach.
    let o = d.call(&[
        "exec",
        &c.name,
        "sh",
        "-c",
        "mount -t tmpfs t /mnt 2>&1; cat /proc/1/environ >/dev/null && echo self",
    ]);
    assert!(o.text().contains("self"), "{}", o.brief());
    c.ok(&["kill", &c.name]);
    c.ok(&["rm", "-f", &c.name]);
}

#[test]
fn detach_and_attach() {
    let Some(d) = daemon("docker attach") else { return };
    client::detach_and_attach(d);
}
