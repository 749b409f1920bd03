//! The guest programs, one test each.

use std::process::Command;

use chitin_tests::paths;

macro_rules! programs {
    ($($test:ident = $name:literal),* $(,)?) => {
        #[allow(dead_code)]
        pub const ALL: &[&str] = &[$($name),*];
        macro_rules! each {
            ($f:path) => { $( #[test] fn $test() { $f($name) } )* };
        }
        pub(crate) use each;
    };
}

programs! {
    files = "files", dirs = "dirs", locks = "locks", pipes = "pipes", events = "events", inotify = "inotify",
    unixsock = "unixsock", inet_tcp = "inet_tcp", inet_udp = "inet_udp",
    inet_opts = "inet_opts", sigio = "sigio", signals = "signals", signals_dyn = "signals.dyn",
    process = "process", threads = "threads", mem = "mem", misc = "misc", tty = "tty", hostile = "hostile",
    sysvipc = "sysvipc", cgroup2 = "cgroup2", mqueue = "mqueue", bounds = "bounds", storm = "storm", long = "long",
    mounts = "mounts", ns = "ns", netns = "netns", netconf = "netconf", userns = "userns", timens = "timens",
    seccomp = "seccomp", threads_dyn = "threads.dyn", hot = "hot", hot_dyn = "hot.dyn", exec = "exec", exec_dyn = "exec.dyn", whoami = "whoami",
}

/// The names of a program's checks, by asking it on the host.
pub fn checks(program: &str) -> Vec<String> {
    let out =
        Command::new(paths::guests().join(program)).arg("--list").output().expect("guest program starts");
    String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect()
}
