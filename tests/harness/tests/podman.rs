//! Podman with `--runtime` set to the runtime under test: what its users do every day. conmon is between the two.

use std::sync::OnceLock;
use std::time::Duration;

use chitin_tests::engine::unique_id;
use chitin_tests::engines::client::{self, Client, Container};
use chitin_tests::engines::containerd::BUSYBOX;
use chitin_tests::engines::podman::{Network, Podman};
use chitin_tests::leftovers::{cgroups, settle};
use chitin_tests::{paths, skip};

const LIMIT: Duration = Duration::from_secs(60);

fn podman(test: &str) -> Option<&'static Podman> {
    static ONE: OnceLock<Result<Podman, String>> = OnceLock::new();
    ONE.get_or_init(|| Podman::start("podman"))
        .as_ref()
        .map_err(|why| skip(test, &format!("Podman does not start here: {why}")))
        .ok()
}

#[test]
fn run_gives_output_and_exit_code() {
    let Some(d) = podman("podman run") else { return };
    let c = Container::named(d);
    let o = c.run(&["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((o.code, o.text().as_str(), o.stderr.as_str()), (Some(7), "out\n", "err\n"), "{}", o.brief());
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
    let Some(d) = podman("podman exec") else { return };
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
    assert_eq!((o.code, o.text().as_str()), (Some(9), "1\n/tmp\nnobody\n"), "{}", o.brief());
    let o = d.call(&["exec", &c.name, "/no/such/program"]);
    assert!(o.code.is_some_and(|c| c == 126 || c == 127), "{}", o.brief());
    let top = c.ok(&["top", &c.name, "pid", "ppid", "user", "args"]);
    let lines: Vec<_> = top.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(lines.iter().any(|l| l.starts_with("1 0 root sh -c trap")), "{top}");
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
    let Some(d) = podman("podman cp") else { return };
    let script = "echo from inside >/tmp/out; echo in memory >/mem/out; mkdir -p /many/a; ln -s ../x /many/a/l; \
        echo deep >/many/a/f; sleep 1000";
    let c = Container::up(d, &["--tmpfs", "/mem"], &["sh", "-c", script]);
    let dir = paths::scratch("cp");
    std::fs::write(dir.join("in"), "from outside\n").unwrap();
    let at = |p: &str| format!("{}:{p}", c.name);
    let outside = |p: &str| dir.join(p).to_string_lossy().into_owned();
    let text = |p: &str| std::fs::read_to_string(dir.join(p)).unwrap_or_default();
    c.ok(&["cp", &outside("in"), &at("/tmp/in")]);
    assert_eq!(c.ok(&["exec", &c.name, "cat", "/tmp/in"]), "from outside\n");
    settle(LIMIT, || match d.call(&["cp", &at("/many/a/f"), &outside("f")]) {
        o if o.code == Some(0) => Ok(()),
        o => Err(o.brief()),
    })
    .unwrap();
    c.ok(&["cp", &at("/tmp/out"), &outside("out")]);
    assert_eq!(text("out"), "from inside\n");
    // What is nowhere on the host, in both directions.
    c.ok(&["cp", &at("/mem/out"), &outside("mem")]);
    assert_eq!(text("mem"), "in memory\n");
    c.ok(&["cp", &outside("in"), &at("/mem/in")]);
    assert_eq!(c.ok(&["exec", &c.name, "cat", "/mem/in"]), "from outside\n");
    c.ok(&["cp", &at("/many"), &outside("many")]);
    assert_eq!(text("many/a/f"), "deep\n");
    assert_eq!(std::fs::read_link(dir.join("many/a/l")).unwrap_or_default().as_os_str(), "../x");
    assert_ne!(d.call(&["cp", &at("/no/such"), &outside("none")]).code, Some(0));
    // What a stopped container wrote is still there.
    c.ok(&["stop", "--time", "0", &c.name]);
    c.ok(&["cp", &at("/tmp/out"), &dir.join("again").to_string_lossy()]);
    assert_eq!(std::fs::read_to_string(dir.join("again")).unwrap_or_default(), "from inside\n");
}

#[test]
fn healthchecks_run_inside() {
    let Some(d) = podman("podman healthcheck") else { return };
    // Without systemd nobody runs them by the clock; the check itself is an exec.
    let flags = ["--health-cmd", "test -e /tmp/well", "--health-retries", "1"];
    let c = Container::up(d, &flags, &["sh", "-c", "sleep 1000"]);
    assert_eq!(d.call(&["healthcheck", "run", &c.name]).code, Some(1));
    assert_eq!(c.inspect(".State.Health.Status"), "unhealthy");
    c.ok(&["exec", &c.name, "touch", "/tmp/well"]);
    assert_eq!(d.call(&["healthcheck", "run", &c.name]).code, Some(0));
    assert_eq!(c.inspect(".State.Health.Status"), "healthy");
}

#[test]
fn a_network_is_shared() {
    let Some(d) = podman("podman run --network container") else { return };
    client::shared_network(d);
}

#[test]
fn a_terminal() {
    let Some(d) = podman("podman run -it") else { return };
    client::terminal(d, "echo size $(stty size)", "size 33 77");
}

#[test]
fn volumes_pause_and_limits() {
    let Some(d) = podman("podman volumes") else { return };
    let c = client::volumes_and_pause(d);
    if d.world.limits_memory() {
        let id = c.inspect(".Id");
        let limit = || {
            cgroups(&id).iter().find_map(|g| {
                ["memory.limit_in_bytes", "memory.max"]
                    .iter()
                    .find_map(|f| std::fs::read_to_string(g.join(f)).ok())
            })
        };
        assert_eq!(limit().as_deref().map(str::trim), Some("67108864"));
        c.ok(&["update", "--memory", "80m", &c.name]);
        assert_eq!(limit().as_deref().map(str::trim), Some("83886080"), "after the update");
    } else {
        skip("podman limits", "no memory controller in the cgroups seen here");
    }
}

#[test]
fn a_build_of_two_steps() {
    let Some(d) = podman("podman build") else { return };
    client::build_of_two_steps(d, &["--isolation", "oci"], &[]);
}

#[test]
fn detach_and_attach() {
    let Some(d) = podman("podman attach") else { return };
    client::detach_and_attach(d);
}

/// A pod by name that is removed, with its containers, whatever happens.
struct Pod<'a> {
    on: &'a Podman,
    name: String,
}

impl<'a> Pod<'a> {
    fn new(on: &'a Podman, flags: &[&str]) -> Self {
        let pod = Pod { on, name: unique_id() };
        let mut all = vec!["pod", "create", "--name", &pod.name, "--infra-image", BUSYBOX];
        all.extend(["--infra-command", "sleep 1000"]);
        all.extend(flags);
        pod.ok(&all);
        pod
    }

    fn up(&self, script: &str) -> Container<'a, Podman> {
        let c = Container::named(self.on);
        self.ok(&["run", "-d", "--name", &c.name, "--pod", &self.name, BUSYBOX, "sh", "-c", script]);
        c
    }

    fn ok(&self, args: &[&str]) -> String {
        let o = self.on.call(args);
        assert_eq!(o.code, Some(0), "podman {args:?}: {}", o.brief());
        o.text()
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        let _ = self.on.call(&["pod", "rm", "--force", "--time", "0", &self.name]);
    }
}

#[test]
fn a_pod_has_one_network() {
    let Some(d) = podman("podman pod") else { return };
    let net = match Network::new(d, "10.84.0.0/24") {
        Ok(net) => net,
        Err(why) => return skip("podman pod", &format!("Podman makes no network here: {why}")),
    };
    let pod = Pod::new(d, &["--network", &net.name, "-p", "8084:80"]);
    let serve = |text: &str, port: u16| {
        format!("mkdir -p /w; echo {text} >/w/f; hostname >/w/h; exec httpd -f -p {port} -h /w")
    };
    let (one, two) = (pod.up(&serve("one", 80)), pod.up(&serve("two", 81)));
    let busybox = paths::rootfs("busybox").join("bin/busybox");
    let from_host = |url: &str| {
        let wget = format!("timeout 5 {} wget -qO- http://{url}", busybox.display());
        d.world.run(&["sh", "-c", &wget], LIMIT).text()
    };
    let inside =
        |c: &Container<'_, Podman>, script: &str| d.call(&["exec", &c.name, "sh", "-c", script]).text();
    let address = || {
        let found = inside(&one, "ip -o -4 addr show eth0");
        let own = found.split_whitespace().find(|word| word.starts_with("10.84.0."));
        own.and_then(|own| own.split('/').next()).unwrap_or_default().to_owned()
    };
    let all_serve = |who: &[(&str, u16)]| {
        settle(LIMIT, || {
            let own = address();
            for (text, port) in who {
                let answers = [
                    inside(&one, &format!("wget -qO- http://127.0.0.1:{port}/f")),
                    inside(
                        &two,
                        &format!("wget -qO- http://127.0.0.1:{port}/f; wget -qO- http://{own}:{port}/f"),
                    ),
                    from_host(&format!("{own}:{port}/f")),
                ];
                if answers != [format!("{text}\n"), format!("{text}\n{text}\n"), format!("{text}\n")] {
                    return Err(format!("{text} at {own}:{port}: {answers:?}"));
                }
            }
            Ok(())
        })
        .unwrap();
    };
    let published = || {
        for at in ["10.84.0.1:8084", "127.0.0.1:8084"] {
            assert_eq!(from_host(&format!("{at}/f")), "one\n", "published at {at}");
        }
    };
    all_serve(&[("one", 80), ("two", 81)]);
    published();
    // One interface with one address, one name; files and processes of their own.
    let [a, b] = [&one, &two].map(|c| inside(c, "ip -o link; ip -o -4 addr; ip route; cat /w/h"));
    assert!(a == b && a.contains("default via 10.84.0.1 dev eth0"), "{a}\n{b}");
    let seen = inside(&two, "cat /w/f; ps -o args | grep -c '^httpd'");
    assert_eq!(seen, "two\n1\n");
    // One is started anew, and the other does not notice.
    pod.ok(&["restart", "--time", "0", &two.name]);
    all_serve(&[("one", 80), ("two", 81)]);
    published();
    // All of it, with a network of its own again.
    pod.ok(&["pod", "stop", "--time", "0", &pod.name]);
    pod.ok(&["pod", "start", &pod.name]);
    all_serve(&[("one", 80), ("two", 81)]);
    published();
    pod.ok(&["kill", &one.name]);
    settle(LIMIT, || match from_host("10.84.0.1:8084/f") {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some} by a dead container")),
    })
    .unwrap();
    assert_eq!(inside(&two, "wget -qO- http://127.0.0.1:81/f"), "two\n", "the other goes on");

    let ids: Vec<String> = [&one, &two].iter().map(|c| c.inspect(".Id")).collect();
    drop(pod);
    settle(LIMIT, || {
        let left: Vec<_> = ids.iter().flat_map(|id| cgroups(id)).collect();
        let here = d.world.run(&["sh", "-c", "ip -o link; iptables -t nat -S; ls /run/netns"], LIMIT).text();
        let traces = ["veth", "8084", "netns-"].iter().any(|trace| here.contains(trace));
        if left.is_empty() && !traces { Ok(()) } else { Err(format!("{left:?}\n{here}")) }
    })
    .unwrap();
}
