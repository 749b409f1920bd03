//! containerd with `io.containerd.runc.v2` and the runtime under test as its binary, driven by `ctr`.
//! One daemon serves all tests of this file; it lives in a world of its own that ends with this process.

use std::sync::OnceLock;
use std::time::Duration;

use chitin_tests::engine::unique_id;
use chitin_tests::engines::containerd::{BOOKWORM, BUSYBOX, Containerd};
use chitin_tests::engines::pty::Session;
use chitin_tests::leftovers::{cgroups, settle};
use chitin_tests::{paths, run, skip};

const LIMIT: Duration = Duration::from_secs(60);

/// The daemon with its images, or a loud skip.
fn daemon(test: &str) -> Option<&'static Containerd> {
    static ONE: OnceLock<Result<Containerd, String>> = OnceLock::new();
    let one = ONE.get_or_init(|| {
        let c = Containerd::start("ctr")?;
        for image in ["busybox", "bookworm"] {
            c.import(c.namespace(), image)?;
        }
        Ok(c)
    });
    one.as_ref().map_err(|why| skip(test, &format!("containerd does not start here: {why}"))).ok()
}

/// A container by id that is removed whatever happens.
struct Container<'a> {
    on: &'a Containerd,
    id: String,
}

impl<'a> Container<'a> {
    fn named(on: &'a Containerd) -> Container<'a> {
        Container { on, id: unique_id() }
    }
    /// Running detached.
    fn up(on: &'a Containerd, flags: &[&str], image: &str, args: &[&str]) -> Container<'a> {
        let c = Container::named(on);
        let mut all = vec!["-d"];
        all.extend(flags);
        let o = on.ctr_run(&all, image, &c.id, args);
        assert_eq!(o.code, Some(0), "run -d: {}\ncontainerd: {}", o.brief(), on.log());
        assert_eq!(on.status(&c.id).as_deref(), Some("RUNNING"));
        c
    }
    fn sleeping(on: &'a Containerd) -> Container<'a> {
        Container::up(on, &[], BUSYBOX, &["sleep", "1000"])
    }
    fn exec(&self, script: &str) -> run::Outcome {
        let eid = unique_id();
        self.on.ctr(&["tasks", "exec", "--exec-id", &eid, &self.id, "/bin/sh", "-c", script])
    }
    /// Deletes the task; the exit code that ctr warns of.
    fn delete(&self) -> i32 {
        let o = self.on.ctr_ok(&["tasks", "delete", &self.id]);
        let code = o
            .stderr
            .split("non-zero exit code ")
            .nth(1)
            .map(|r| r.chars().take_while(char::is_ascii_digit).collect::<String>());
        code.map_or(0, |c| c.parse().expect("digits"))
    }
    fn until(&self, want: &str) {
        let is = || match self.on.status(&self.id) {
            Some(s) if s == want => Ok(()),
            other => Err(format!("{} is {other:?}, not {want}", self.id)),
        };
        settle(LIMIT, is).unwrap();
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.on.ctr(&["tasks", "delete", "--force", &self.id]);
        let _ = self.on.ctr(&["containers", "delete", &self.id]);
    }
}

#[test]
fn run_prints_and_ends() {
    let Some(d) = daemon("containerd run") else { return };
    for (image, shell) in [(BUSYBOX, "/bin/sh"), (BOOKWORM, "/bin/bash")] {
        let c = Container::named(d);
        let script = "echo out; echo err >&2; cat /etc/hosts | head -1; exit 7";
        let o = d.ctr_run(&["--rm"], image, &c.id, &[shell, "-c", script]);
        assert_eq!(o.code, Some(7), "{}\ncontainerd: {}", o.brief(), d.log());
        assert_eq!(o.text(), "out\n127.0.0.1 localhost\n", "{}", o.brief());
        assert!(o.stderr.contains("err"), "{}", o.brief());
        assert_eq!(d.status(&c.id), None, "--rm leaves no task");
        settle(LIMIT, || match cgroups(&c.id) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("cgroups left: {left:?}")),
        })
        .unwrap();
    }
}

#[test]
fn stdin_is_passed() {
    let Some(d) = daemon("containerd stdin") else { return };
    let c = Container::named(d);
    let mut cmd = d.run_command(&["--rm"], BUSYBOX, &c.id, &["sh", "-c", "read x; echo got:$x"]);
    cmd.env_remove("TERM");
    let o = run::run(cmd, b"hello\n", &chitin_tests::paths::scratch("stdin"), LIMIT);
    assert_eq!(o.text(), "got:hello\n", "{}", o.brief());
}

#[test]
fn what_cannot_start_says_why() {
    let Some(d) = daemon("containerd errors") else { return };
    let c = Container::named(d);
    let o = d.ctr_run(&["--rm"], BUSYBOX, &c.id, &["/no/such/program"]);
    assert!(o.code != Some(0) && o.code.is_some(), "{}", o.brief());
    // Taken by the shim from the runtime's --log file.
    assert!(o.stderr.contains("/no/such/program"), "{}", o.brief());
}

#[test]
fn detached_exec_kill_delete() {
    let Some(d) = daemon("containerd run -d") else { return };
    let c = Container::sleeping(d);
    let o = c.exec("echo in $(cat /proc/1/comm); exit 3");
    assert_eq!(
        (o.code, o.text().as_str()),
        (Some(3), "in sleep\n"),
        "{}\ncontainerd: {}",
        o.brief(),
        d.log()
    );
    // PID 1 ignores what it has no handler for.
    d.ctr_ok(&["tasks", "kill", "-s", "SIGUSR1", &c.id]);
    assert_eq!(d.status(&c.id).as_deref(), Some("RUNNING"));
    assert_ne!(d.ctr(&["tasks", "delete", &c.id]).code, Some(0), "a running task is not deleted");
    d.ctr_ok(&["tasks", "kill", "-s", "SIGKILL", &c.id]);
    c.until("STOPPED");
    assert_eq!(c.delete(), 137);
    d.ctr_ok(&["containers", "delete", &c.id]);
    settle(LIMIT, || match cgroups(&c.id) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("cgroups left: {left:?}")),
    })
    .unwrap();
}

#[test]
fn a_signal_is_handled_inside() {
    let Some(d) = daemon("containerd kill") else { return };
    let script = "trap 'exit 5' TERM; while :; do sleep 0.05; done";
    let c = Container::up(d, &[], BUSYBOX, &["sh", "-c", script]);
    std::thread::sleep(Duration::from_millis(500));
    d.ctr_ok(&["tasks", "kill", "-s", "SIGTERM", &c.id]);
    c.until("STOPPED");
    assert_eq!(c.delete(), 5);
}

#[test]
fn execs_are_separate() {
    let Some(d) = daemon("containerd exec") else { return };
    let c = Container::sleeping(d);
    // Each has its own stdio and exit code, all see the same files and processes.
    let outs: Vec<_> = std::thread::scope(|s| {
        let one = |n: i32| {
            let c = &c;
            move || (n, c.exec(&format!("echo {n} >/tmp/f{n}; echo {n}; exit {n}")))
        };
        let all: Vec<_> = (0..8).map(|n| s.spawn(one(n))).collect();
        all.into_iter().map(|t| t.join().expect("no panic")).collect()
    });
    for (n, o) in outs {
        assert_eq!((o.code, o.text()), (Some(n), format!("{n}\n")), "{}", o.brief());
    }
    assert_eq!(c.exec("cat /tmp/f*").text(), "0\n1\n2\n3\n4\n5\n6\n7\n");
    let o = c.exec("kill -9 $$");
    assert_eq!(o.code, Some(137), "{}", o.brief());
    let o = d.ctr(&["tasks", "exec", "--exec-id", "none", &c.id, "/no/such/program"]);
    assert!(o.code != Some(0) && o.stderr.contains("/no/such/program"), "{}", o.brief());
    let o = d.ctr(&[
        "tasks",
        "exec",
        "--exec-id",
        "user",
        "--user",
        "1000:1001",
        "--cwd",
        "/tmp",
        &c.id,
        "sh",
        "-c",
        "id -u; id -g; pwd",
    ]);
    assert_eq!(o.text(), "1000\n1001\n/tmp\n", "{}", o.brief());
}

#[test]
fn tty_of_run_and_exec() {
    let Some(d) = daemon("containerd tty") else { return };
    let c = Container::named(d);
    let script = "tty; while [ -z \"$(stty size 2>&1 | grep 7)\" ]; do sleep 0.02; done; stty size; read x; echo got:$x; read y; exit 9";
    let mut t = Session::start(&d.run_command(&["--rm", "-t"], BUSYBOX, &c.id, &["sh", "-c", script]));
    t.expect("/dev/", LIMIT).unwrap();
    t.expect("33 77\r", LIMIT).unwrap();
    t.send("hello\n");
    t.expect("got:hello", LIMIT).unwrap();
    let inner = d.ctr_command(&[
        "tasks",
        "exec",
        "-t",
        "--exec-id",
        "t",
        &c.id,
        "sh",
        "-c",
        "tty; while [ -z \"$(stty size 2>&1 | grep 7)\" ]; do sleep 0.02; done; stty size; read x; exit $x",
    ]);
    let mut e = Session::start(&inner);
    e.expect("33 77\r", LIMIT).unwrap();
    e.send("6\n");
    let (code, seen) = e.finish(LIMIT);
    assert_eq!(code, Some(6), "{seen}");
    t.send("end\n");
    let (code, seen) = t.finish(LIMIT);
    assert_eq!(code, Some(9), "{seen}");
}

#[test]
fn tty_interrupt_and_resize() {
    let Some(d) = daemon("containerd tty signals") else { return };
    let c = Container::named(d);
    let script = "trap 'echo INT; exit 4' INT; while [ -z \"$(stty size 2>&1 | grep 7)\" ]; do sleep 0.02; done; stty size; echo ready; \
                  while [ \"$(stty size)\" = '33 77' ]; do sleep 0.05; done; \
                  stty size; while :; do sleep 0.05; done";
    let mut t = Session::start(&d.run_command(&["--rm", "-t"], BUSYBOX, &c.id, &["sh", "-c", script]));
    t.expect("33 77", LIMIT).unwrap();
    t.expect("ready", LIMIT).unwrap();
    t.resize(40, 100);
    t.expect("40 100", LIMIT).unwrap();
    t.send("\x03");
    let (code, seen) = t.finish(LIMIT);
    assert!(code == Some(4) && seen.contains("INT"), "{code:?} {seen}");
}

#[test]
fn pause_stops_and_resume_goes_on() {
    let Some(d) = daemon("containerd pause") else { return };
    let c = Container::up(
        d,
        &[],
        BUSYBOX,
        &["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/tmp/m; mv /tmp/m /tmp/n; sleep 0.02; done"],
    );
    let count = || c.exec("cat /tmp/n").text().trim().parse::<u64>().ok();
    settle(LIMIT, || if count() > Some(1) { Ok(()) } else { Err("does not count".into()) }).unwrap();
    d.ctr_ok(&["tasks", "pause", &c.id]);
    assert_eq!(d.status(&c.id).as_deref(), Some("PAUSED"));
    std::thread::sleep(Duration::from_millis(1500));
    let o = c.exec("cat /tmp/n");
    assert!(o.code != Some(0), "a paused container takes no exec: {}", o.brief());
    d.ctr_ok(&["tasks", "resume", &c.id]);
    assert_eq!(d.status(&c.id).as_deref(), Some("RUNNING"));
    let n = count().expect("a number is always there");
    settle(LIMIT, || if count() > Some(n) { Ok(()) } else { Err("does not go on".into()) }).unwrap();
}

#[test]
fn metrics_come_from_the_container_s_cgroup() {
    let Some(d) = daemon("containerd metrics") else { return };
    let c = Container::up(d, &[], BUSYBOX, &["sh", "-c", "while :; do :; done"]);
    std::thread::sleep(Duration::from_millis(700));
    let o = d.ctr(&["tasks", "metrics", "--format", "json", &c.id]);
    if o.code != Some(0) && !d.world.limits_memory() {
        skip("containerd metrics", "no memory controller in the cgroups seen here");
        return;
    }
    assert_eq!(o.code, Some(0), "{}", o.brief());
    let v: serde_json::Value =
        serde_json::from_slice(&o.stdout).unwrap_or_else(|e| panic!("{e}: {}", o.text()));
    // v1 and v2 differ in names; both count time and bytes.
    let find = |p: &[&str]| p.iter().find_map(|p| v.pointer(p)?.as_u64());
    let cpu = find(&["/cpu/usage/total", "/cpu/usage_usec", "/CPU/usage/total", "/CPU/usage_usec"]);
    let memory = find(&["/memory/usage/usage", "/memory/usage"]);
    assert!(cpu > Some(1000) && memory > Some(4096), "cpu {cpu:?} memory {memory:?} in {v}");
}

#[test]
fn memory_limit_kills_inside_and_is_reported() {
    let Some(d) = daemon("containerd memory limit") else { return };
    if !d.world.limits_memory() {
        skip("containerd memory limit", "no memory controller in the cgroups seen here");
        return;
    }
    let script = "head -c 200000000 /dev/zero | tail -c 200000000 >/dev/null; echo tail $?";
    // The host may pick a second victim before the first one's memory is back, and that may be init.
    let mut o = None;
    for _ in 0..2 {
        let c = Container::named(d);
        let run = d.ctr_run(&["--rm", "--memory-limit", "67108864"], BUSYBOX, &c.id, &["sh", "-c", script]);
        let second_victim = run.code == Some(137);
        o = Some(run);
        if !second_victim {
            break;
        }
    }
    let o = o.expect("it ran");
    assert_eq!((o.code, o.text().as_str()), (Some(0), "tail 137\n"), "{}", o.brief());
}

#[test]
fn processes_are_listed() {
    let Some(d) = daemon("containerd ps") else { return };
    let c = Container::up(d, &[], BUSYBOX, &["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
    settle(LIMIT, || {
        let o = d.ctr(&["tasks", "ps", &c.id]);
        let pids: Vec<i32> =
            o.text().lines().filter_map(|l| l.split_whitespace().next()?.parse().ok()).collect();
        if o.code == Some(0) && pids.len() >= 3 { Ok(()) } else { Err(format!("{pids:?} {}", o.brief())) }
    })
    .unwrap();
}

#[test]
fn fifty_containers_at_once() {
    let Some(d) = daemon("containerd: fifty containers") else { return };
    let all: Vec<Container> = (0..50).map(|_| Container::named(d)).collect();
    let bad: Vec<String> = std::thread::scope(|s| {
        let start = |c: &Container| {
            let o = d.ctr_run(&["-d"], BUSYBOX, &c.id, &["sh", "-c", "echo $$ >/tmp/me; exec sleep 1000"]);
            (o.code != Some(0)).then(|| format!("{}: {}", c.id, o.brief()))
        };
        let started: Vec<_> = all.iter().map(|c| s.spawn(move || start(c))).collect();
        started.into_iter().filter_map(|t| t.join().expect("no panic")).collect()
    });
    assert!(bad.is_empty(), "{} of 50 did not start:\n{}", bad.len(), bad.join("\n"));
    let running = all.iter().filter(|c| d.status(&c.id).as_deref() == Some("RUNNING")).count();
    assert_eq!(running, 50);
    for c in all.iter().step_by(7) {
        // ctr gives up a fifo that it has not come to open by the time that the process has ended, which takes it long here.
        let o = c.exec("cat /tmp/me; ls /proc | grep -c '^[0-9]'; sleep 0.5");
        assert_eq!(o.text().lines().next(), Some("1"), "{}", o.brief());
    }
    let killed: Vec<String> = std::thread::scope(|s| {
        let end = |c: &Container| {
            let o = d.ctr(&["tasks", "delete", "--force", &c.id]);
            (o.code.is_none() || d.status(&c.id).is_some()).then(|| format!("{}: {}", c.id, o.brief()))
        };
        let ended: Vec<_> = all.iter().map(|c| s.spawn(move || end(c))).collect();
        ended.into_iter().filter_map(|t| t.join().expect("no panic")).collect()
    });
    assert!(killed.is_empty(), "{}", killed.join("\n"));
    let left: Vec<_> = all.iter().flat_map(|c| cgroups(&c.id)).collect();
    assert!(left.is_empty(), "cgroups left: {left:?}");
}

/// With a daemon of its own, since it is taken away from under the containers.
#[test]
fn containers_survive_a_restart_of_containerd() {
    let d = match Containerd::start("again").and_then(|d| d.import(d.namespace(), "busybox").map(|()| d)) {
        Ok(d) => d,
        Err(why) => return skip("containerd restart", &format!("containerd does not start here: {why}")),
    };
    let alive = Container::sleeping(&d);
    let script = "trap 'exit 11' TERM; while :; do sleep 0.05; done";
    let ends = Container::up(&d, &[], BUSYBOX, &["sh", "-c", script]);
    std::thread::sleep(Duration::from_millis(500));
    d.restart().unwrap();
    for c in [&alive, &ends] {
        assert_eq!(d.status(&c.id).as_deref(), Some("RUNNING"), "after the restart");
        assert_eq!(c.exec("echo still here").text(), "still here\n");
    }
    d.ctr_ok(&["tasks", "kill", "-s", "SIGTERM", &ends.id]);
    ends.until("STOPPED");
    assert_eq!(ends.delete(), 11);
    d.ctr_ok(&["tasks", "kill", "-s", "SIGKILL", &alive.id]);
    alive.until("STOPPED");
    assert_eq!(alive.delete(), 137);
    for c in [&alive, &ends] {
        d.ctr_ok(&["containers", "delete", &c.id]);
        settle(LIMIT, || match cgroups(&c.id) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("cgroups left: {left:?}")),
        })
        .unwrap();
    }
}

/// A network namespace in the daemon's world, with a veth pair to it: `10.85.0.1` there, `10.85.0.2` inside.
struct Far<'a> {
    on: &'a Containerd,
    name: String,
}

impl<'a> Far<'a> {
    fn new(on: &'a Containerd) -> Self {
        let far = Far { on, name: unique_id() };
        far.sh(
            "ip netns add $far
             ip link add veth85 type veth peer name eth0 netns $far
             ip addr add 10.85.0.1/24 dev veth85; ip link set veth85 up
             ip -n $far addr add 10.85.0.2/24 dev eth0
             ip -n $far link set lo up; ip -n $far link set eth0 up; ip -n $far route add default via 10.85.0.1",
        );
        far
    }
    fn sh(&self, script: &str) -> String {
        let script = format!("set -e; far={}; {script}", self.name);
        let o = self.on.world.run(&["sh", "-c", &script], LIMIT);
        assert_eq!(o.code, Some(0), "{script}: {}", o.brief());
        o.text()
    }
    /// What is configured there, and who lives there.
    fn shown(&self) -> String {
        self.sh(
            "ip -n $far -o addr; ip -n $far route; ip -n $far rule; ip -n $far -6 rule; ip netns pids $far",
        )
    }
}

impl Drop for Far<'_> {
    fn drop(&mut self) {
        let _ = self.on.world.run(&["ip", "netns", "del", &self.name], LIMIT);
    }
}

/// A container's tasks, one after the other, in the network that somebody keeps for them.
#[test]
fn tasks_follow_each_other_in_one_network() {
    let Some(d) = daemon("containerd: tasks in one network") else { return };
    let far = Far::new(d);
    let wget = paths::rootfs("busybox").join("bin/busybox");
    let fetch = || {
        let script = format!("timeout 5 {} wget -qO- http://10.85.0.2/starts", wget.display());
        d.world.run(&["sh", "-c", &script], LIMIT).text()
    };
    // Its own address takes a moment, on hosts with IPv6.
    settle(LIMIT, || match far.shown() {
        shown if !shown.contains("inet6") => Ok(()),
        shown if shown.contains("inet6 fe80::") && !shown.contains("tentative") => Ok(()),
        shown => Err(shown),
    })
    .unwrap();
    let before = far.shown();
    let network = format!("network:/run/netns/{}", far.name);
    let script = "mkdir -p /w; echo up >>/w/starts; ip -o -4 addr >/w/addr; exec httpd -f -p 80 -h /w";
    let c = Container::up(d, &["--with-ns", &network], BUSYBOX, &["sh", "-c", script]);
    for round in 1..=4 {
        settle(LIMIT, || match fetch() {
            found if found == "up\n".repeat(round) => Ok(()),
            other => Err(format!("round {round}: {other:?}")),
        })
        .unwrap_or_else(|why| panic!("{why}\n{}\n{}", far.shown(), d.log()));
        let inside = c.exec("cat /w/addr; timeout 5 ping -c 1 10.85.0.1");
        let text = inside.text();
        assert!(
            text.contains("inet 10.85.0.2/24") && text.contains("1 packets received"),
            "{}",
            inside.brief()
        );
        assert_ne!(far.shown(), before, "somebody lives there");
        if round % 2 == 1 {
            d.ctr_ok(&["tasks", "kill", "-s", "SIGKILL", &c.id]);
            c.until("STOPPED");
            assert_eq!(c.delete(), 137);
        } else {
            d.ctr(&["tasks", "delete", "--force", &c.id]);
        }
        assert_eq!(d.status(&c.id), None);
        settle(LIMIT, || match far.shown() {
            after if after == before => Ok(()),
            after => Err(format!("before:\n{before}\nafter:\n{after}")),
        })
        .unwrap();
        assert_eq!(fetch(), "", "nobody serves any more");
        if round < 4 {
            d.ctr_ok(&["tasks", "start", "--detach", &c.id]);
        }
    }
    d.ctr_ok(&["containers", "delete", &c.id]);
    settle(LIMIT, || match cgroups(&c.id) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("cgroups left: {left:?}")),
    })
    .unwrap();
}
