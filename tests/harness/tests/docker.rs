//! Docker Engine with `--runtime=chitin`: what its users do every day. One daemon serves all tests of this file.

use std::sync::OnceLock;
use std::time::Duration;

use chitin_tests::engine::unique_id;
use chitin_tests::engines::containerd::BUSYBOX;
use chitin_tests::engines::docker::Docker;
use chitin_tests::engines::pty::Session;
use chitin_tests::leftovers::{cgroups, settle};
use chitin_tests::run::Outcome;
use chitin_tests::{paths, skip};

const LIMIT: Duration = Duration::from_secs(60);

fn daemon(test: &str) -> Option<&'static Docker> {
    static ONE: OnceLock<Result<Docker, String>> = OnceLock::new();
    ONE.get_or_init(|| Docker::start("docker"))
        .as_ref()
        .map_err(|why| skip(test, &format!("Docker does not start here: {why}")))
        .ok()
}

/// A container by name that is removed whatever happens.
struct Container<'a> {
    on: &'a Docker,
    name: String,
}

impl<'a> Container<'a> {
    fn named(on: &'a Docker) -> Container<'a> {
        Container { on, name: unique_id() }
    }
    /// `docker run --name … FLAGS busybox ARGS`.
    fn run(&self, flags: &[&str], args: &[&str]) -> Outcome {
        let mut all = vec!["run", "--network", "none", "--name", &self.name];
        all.extend(flags);
        all.push(BUSYBOX);
        all.extend(args);
        self.on.docker(&all)
    }
    fn up(on: &'a Docker, flags: &[&str], args: &[&str]) -> Container<'a> {
        let c = Container::named(on);
        let mut all = vec!["-d"];
        all.extend(flags);
        let o = c.run(&all, args);
        assert_eq!(o.code, Some(0), "run -d: {}\ndockerd: {}", o.brief(), on.log());
        c
    }
    fn ok(&self, args: &[&str]) -> String {
        let o = self.on.docker(args);
        assert_eq!(o.code, Some(0), "docker {args:?}: {}\ndockerd: {}", o.brief(), self.on.log());
        o.text()
    }
    fn inspect(&self, what: &str) -> String {
        self.ok(&["inspect", "--format", &format!("{{{{{what}}}}}"), &self.name]).trim().to_owned()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.on.docker(&["rm", "--force", &self.name]);
    }
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
    let o = d.docker(&[
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
    let o = d.docker(&["exec", &c.name, "/no/such/program"]);
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
    assert_ne!(d.docker(&["rm", &c.name]).code, Some(0), "a running container is not removed");
    let id = c.inspect(".Id");
    c.ok(&["kill", &c.name]);
    settle(LIMIT, || match c.inspect(".State.ExitCode").as_str() {
        "137" => Ok(()),
        other => Err(format!("exit code {other}")),
    })
    .unwrap();
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
fn a_terminal() {
    let Some(d) = daemon("docker run -it") else { return };
    let c = Container::named(d);
    let args = ["run", "--rm", "-it", "--network", "none", "--name", &c.name, BUSYBOX, "sh"];
    let mut t = Session::start(&d.command(&args));
    t.expect("# ", LIMIT).unwrap();
    // Docker sets the size some time after the start.
    t.send("tty; until [ \"$(stty size 2>/dev/null)\" = '33 77' ]; do sleep 0.1; done; echo si''ze\n");
    t.expect("/dev/", LIMIT).unwrap();
    t.expect("size", LIMIT).unwrap();
    t.expect("# ", LIMIT).unwrap();
    let mut e =
        Session::start(&d.command(&["exec", "-it", &c.name, "sh", "-c", "echo in exec; read x; exit $x"]));
    e.expect("in exec", LIMIT).unwrap();
    e.send("5\n");
    let (code, seen) = e.finish(LIMIT);
    assert_eq!(code, Some(5), "{seen}");
    t.send("exit 3\n");
    let (code, seen) = t.finish(LIMIT);
    assert_eq!(code, Some(3), "{seen}");
}

#[test]
fn volumes_pause_and_limits() {
    let Some(d) = daemon("docker volumes") else { return };
    let dir = paths::scratch("volume");
    std::fs::write(dir.join("given"), "given\n").unwrap();
    let volume = format!("{}:/data", dir.display());
    let script = "cat /data/given; echo made >/data/made; echo up; sleep 1000";
    let mut flags = vec!["-v", &volume, "--tmpfs", "/scratch:size=1m", "--read-only"];
    if d.world.limits_memory() {
        flags.extend(["--memory", "64m", "--pids-limit", "50"]);
    }
    let c = Container::up(d, &flags, &["sh", "-c", script]);
    settle(LIMIT, || if c.ok(&["logs", &c.name]) == "given\nup\n" { Ok(()) } else { Err("not up".into()) })
        .unwrap();
    assert_eq!(std::fs::read_to_string(dir.join("made")).unwrap_or_default(), "made\n");
    let o = d.docker(&[
        "exec",
        &c.name,
        "sh",
        "-c",
        "touch /x 2>/dev/null || echo refused; touch /scratch/y && echo fine",
    ]);
    assert_eq!(o.text(), "refused\nfine\n", "{}", o.brief());
    c.ok(&["pause", &c.name]);
    assert_eq!(c.inspect(".State.Status"), "paused");
    c.ok(&["unpause", &c.name]);
    assert_eq!(c.inspect(".State.Status"), "running");
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
    let (dir, tag) = (paths::scratch("build"), unique_id());
    let file = format!(
        "FROM {BUSYBOX}\nRUN echo built >/made && chmod 600 /made\nCOPY given /given\nCMD cat /made /given\n"
    );
    std::fs::write(dir.join("Dockerfile"), file).unwrap();
    std::fs::write(dir.join("given"), "given\n").unwrap();
    let mut command = d.command(&["build", "--network", "none", "-t", &tag, &dir.to_string_lossy()]);
    // The classic builder runs each step as a container of the daemon's default runtime.
    command.env("DOCKER_BUILDKIT", "0");
    let o = chitin_tests::run::quick(command, Duration::from_secs(120));
    assert_eq!(o.code, Some(0), "{}\ndockerd: {}", o.brief(), d.log());
    let o = d.docker(&["run", "--rm", "--network", "none", &tag]);
    assert_eq!(o.text(), "built\ngiven\n", "{}", o.brief());
}
