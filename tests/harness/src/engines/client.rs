//! What the command lines of Docker and Podman have in common: a container by name, and flows that are the same with both.

use std::process::Command;
use std::time::Duration;

use crate::engine::unique_id;
use crate::engines::containerd::BUSYBOX;
use crate::engines::pty::Session;
use crate::engines::world::World;
use crate::leftovers::settle;
use crate::paths;
use crate::run::{self, Outcome};

/// What containers here are made of.
const IMAGE: &str = BUSYBOX;
const LIMIT: Duration = Duration::from_secs(60);
/// How long a command may take.
const CALL: Duration = Duration::from_secs(90);

pub trait Client {
    /// The program's name.
    const NAME: &'static str;
    fn world(&self) -> &World;
    fn command(&self, args: &[&str]) -> Command;
    /// What its daemon has said last.
    fn log(&self) -> String {
        String::new()
    }
    fn call(&self, args: &[&str]) -> Outcome {
        run::quick(self.command(args), CALL)
    }
}

/// A container by name that is removed whatever happens.
pub struct Container<'a, C: Client> {
    on: &'a C,
    pub name: String,
}

impl<'a, C: Client> Container<'a, C> {
    pub fn named(on: &'a C) -> Self {
        Container { on, name: unique_id() }
    }
    /// `run --name … FLAGS busybox ARGS`.
    pub fn run(&self, flags: &[&str], args: &[&str]) -> Outcome {
        let mut all = vec!["run", "--network", "none", "--name", &self.name];
        all.extend(flags);
        all.push(BUSYBOX);
        all.extend(args);
        self.on.call(&all)
    }
    pub fn up(on: &'a C, flags: &[&str], args: &[&str]) -> Self {
        let c = Container::named(on);
        let mut all = vec!["-d"];
        all.extend(flags);
        let o = c.run(&all, args);
        assert_eq!(o.code, Some(0), "run -d: {}\n{}", o.brief(), on.log());
        c
    }
    pub fn ok(&self, args: &[&str]) -> String {
        let o = self.on.call(args);
        assert_eq!(o.code, Some(0), "{} {args:?}: {}\n{}", C::NAME, o.brief(), self.on.log());
        o.text()
    }
    pub fn inspect(&self, what: &str) -> String {
        self.ok(&["inspect", "--format", &format!("{{{{{what}}}}}"), &self.name]).trim().to_owned()
    }
    /// Waits until the engine says that it ended with this code.
    pub fn ends_with(&self, code: &str) {
        settle(LIMIT, || match self.inspect(".State.ExitCode") {
            found if found == code => Ok(()),
            other => Err(format!("exit code {other}")),
        })
        .unwrap();
    }
}

impl<C: Client> Drop for Container<'_, C> {
    fn drop(&mut self) {
        let _ = self.on.call(&["rm", "--force", &self.name]);
    }
}

/// `--network container:X`: two containers share a loopback interface, and nothing else.
pub fn shared_network<C: Client>(d: &C) {
    let serve = "mkdir /tmp/w; echo served >/tmp/w/f; exec httpd -f -p 80 -h /tmp/w";
    let first = Container::up(d, &[], &["sh", "-c", serve]);
    let network = format!("--network=container:{}", first.name);
    settle(LIMIT, || {
        let second = Container::named(d);
        let script = "ls /tmp; wget -qO- http://127.0.0.1/f";
        let args = ["run", "--rm", "--name", &second.name, &network, BUSYBOX, "sh", "-c", script];
        match d.call(&args) {
            o if o.text() == "served\n" => Ok(()),
            o => Err(format!("{}\n{}", o.brief(), d.log())),
        }
    })
    .unwrap();
    assert_eq!(first.ok(&["exec", &first.name, "cat", "/tmp/w/f"]), "served\n");
}

/// A shell on a terminal, `exec -it` beside it, and the exit codes of both. `size` makes the shell show `shown`.
pub fn terminal<C: Client>(d: &C, size: &str, shown: &str) {
    let c = Container::named(d);
    let args = ["run", "--rm", "-it", "--network", "none", "--name", &c.name, BUSYBOX, "sh"];
    let mut t = Session::start(&d.command(&args));
    t.expect("# ", LIMIT).unwrap();
    t.send(&format!("tty; {size}\n"));
    t.expect("/dev/", LIMIT).unwrap();
    t.expect(shown, LIMIT).unwrap();
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

/// A shell on a terminal that is left by the engine's keys (^P ^Q), and come back to.
pub fn detach_and_attach<C: Client>(d: &C) {
    let c = Container::named(d);
    let args = ["run", "-it", "--network", "none", "--name", &c.name, IMAGE, "sh"];
    let mut t = Session::start(&d.command(&args));
    t.expect("# ", LIMIT).unwrap();
    t.send("X=kept\n");
    t.expect("# ", LIMIT).unwrap();
    // The engine knows its keys only when they are typed one by one.
    let typed = (0..20).any(|_| {
        for key in ["\x10", "\x11"] {
            t.send(key);
            std::thread::sleep(Duration::from_millis(150));
        }
        t.ended(Duration::from_secs(2))
    });
    assert!(typed, "the keys do not detach: {}", t.seen());
    let (code, seen) = t.finish(LIMIT);
    assert_eq!(code, Some(0), "{seen}");
    assert_eq!(c.inspect(".State.Status"), "running");
    let mut t = Session::start(&d.command(&["attach", &c.name]));
    t.send("\necho still $X\n");
    t.expect("still kept", LIMIT).unwrap();
    settle(LIMIT, || {
        // A client that does not listen yet when it is told will not ask, so it is told again.
        t.resize(20, 43);
        t.resize(21, 43);
        t.send("stty size\n");
        t.expect("21 43", Duration::from_secs(2))
    })
    .unwrap();
    t.send("exit 6\n");
    // Docker's `attach` ends with that code, Podman's with 0.
    let (code, seen) = t.finish(LIMIT);
    assert!(code.is_some(), "{seen}");
    c.ends_with("6");
}

/// A limited container with a volume and a read-only root, after a pause.
pub fn volumes_and_pause<C: Client>(d: &C) -> Container<'_, C> {
    let dir = paths::scratch("volume");
    std::fs::write(dir.join("given"), "given\n").unwrap();
    let volume = format!("{}:/data", dir.display());
    let script = "cat /data/given; echo made >/data/made; echo up; sleep 1000";
    let mut flags = vec!["-v", &volume, "--tmpfs", "/scratch:size=1m", "--read-only"];
    if d.world().limits_memory() {
        flags.extend(["--memory", "64m", "--pids-limit", "50"]);
    }
    let c = Container::up(d, &flags, &["sh", "-c", script]);
    settle(LIMIT, || if c.ok(&["logs", &c.name]) == "given\nup\n" { Ok(()) } else { Err("not up".into()) })
        .unwrap();
    assert_eq!(std::fs::read_to_string(dir.join("made")).unwrap_or_default(), "made\n");
    let script = "touch /x 2>/dev/null || echo refused; touch /scratch/y && echo fine";
    let o = d.call(&["exec", &c.name, "sh", "-c", script]);
    assert_eq!(o.text(), "refused\nfine\n", "{}", o.brief());
    c.ok(&["pause", &c.name]);
    assert_eq!(c.inspect(".State.Status"), "paused");
    c.ok(&["unpause", &c.name]);
    assert_eq!(c.inspect(".State.Status"), "running");
    c
}

/// `build` of a Dockerfile of two steps, with the flags and the environment that the engine needs, and a run of it.
pub fn build_of_two_steps<C: Client>(d: &C, flags: &[&str], environment: &[(&str, &str)]) {
    let (dir, tag) = (paths::scratch("build"), unique_id());
    let file = format!(
        "FROM {BUSYBOX}\nRUN echo built >/made && chmod 600 /made\nCOPY given /given\nCMD cat /made /given\n"
    );
    std::fs::write(dir.join("Dockerfile"), file).unwrap();
    std::fs::write(dir.join("given"), "given\n").unwrap();
    let context = dir.to_string_lossy();
    let mut command = d.command(&[&["build", "--network", "none"], flags, &["-t", &tag, &context]].concat());
    command.envs(environment.iter().copied());
    let o = run::quick(command, Duration::from_secs(120));
    assert_eq!(o.code, Some(0), "{}\n{}", o.brief(), d.log());
    let o = d.call(&["run", "--rm", "--network", "none", &tag]);
    assert_eq!(o.text(), "built\ngiven\n", "{}", o.brief());
}
