//! Round trips of the platform beside a bare user notification of the same kernel, in nanoseconds.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

use chitin_platform::*;
use chitin_platform_seccomp::{Config, Options, SeccompPlatform};
use chitin_platform_tests::{self as common, Machine, Subject, Traits, entry};
use std::time::Instant;

fn report(name: &str, n: u64, start: Instant) {
    println!("{name:<40} {:>9.0} ns", start.elapsed().as_nanos() as f64 / n as f64);
}

/// A filter that notifies getppid, and nothing around it.
fn bare(n: u64) {
    unsafe {
        let page = libc::mmap(std::ptr::null_mut(), 4096, 3, 0x21, -1, 0).cast::<i32>();
        let pid = libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) as i32;
        if pid == 0 {
            let f = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
            let prog =
                [f(0x20, 0, 0, 0), f(0x15, 0, 1, 110), f(6, 0, 0, 0x7fc0_0000), f(6, 0, 0, 0x7fff_0000)];
            let p = libc::sock_fprog { len: 4, filter: prog.as_ptr().cast_mut() };
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let fd = libc::syscall(libc::SYS_seccomp, 1, 1 << 3 | 1 << 5, &raw const p) as i32;
            page.write_volatile(fd);
            loop {
                libc::syscall(libc::SYS_getppid);
            }
        }
        while page.read_volatile() == 0 {
            std::thread::yield_now();
        }
        let fd = page.read_volatile();
        let synced = libc::ioctl(fd, 0x4008_2104, 1u64) == 0;
        let mut start = Instant::now();
        for i in 0..n + 1000 {
            if i == 1000 {
                start = Instant::now();
            }
            let mut req = [0u64; 10];
            libc::ioctl(fd, 0xc050_2100, req.as_mut_ptr());
            let mut resp = [req[0], 5, 0];
            libc::ioctl(fd, 0xc018_2101, resp.as_mut_ptr());
        }
        report(if synced { "bare notify getppid (sync)" } else { "bare notify getppid" }, n, start);
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
        libc::close(fd);
    }
}

fn main() {
    let n = 50_000;
    bare(n);
    // One worker for the plain loops: the event is answered where it arrives.
    let p = SeccompPlatform::new(Config { proc_dir: None, options: Options::default() }).expect("platform");
    println!("{:?}", p.features());
    let other =
        SeccompPlatform::new(Config { proc_dir: None, options: Options::default() }).expect("platform");
    let group = other.process_group();
    let m = Machine::new(&Subject {
        platform: std::sync::Arc::new(other),
        traits: Traits { host_side: true, lazy_frames: true, kept_fds: 1 },
        kill: Box::new(|| {}),
    });
    direct(&p, n);
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    let k = 1000;
    let start = Instant::now();
    for _ in 0..k {
        let c = common::wait(g.task.spawn(Spawn::Fork)).expect("fork");
        c.task.kill_process();
    }
    report("fork + kill (through a channel)", k, start);
    let start = Instant::now();
    for _ in 0..k {
        let c = m.adopt(common::wait(g.task.spawn(Spawn::Thread)).expect("thread"));
        c.task.exit_thread();
    }
    report("thread create + exit", k, start);
    let start = Instant::now();
    for _ in 0..k {
        let c = common::wait(m.plat.new_space()).expect("new_space");
        c.task.kill_process();
    }
    report("new_space + kill", k, start);
    unsafe { libc::kill(-group, libc::SIGKILL) };
    unsafe { libc::kill(-p.process_group(), libc::SIGKILL) };
    std::process::exit(0);
}

fn direct(p: &SeccompPlatform, n: u64) {
    let m = std::thread::scope(|s| {
        // A temporary pump until the guests stand; it ends with the marker event.
        let h = s.spawn(|| p.next_event(&|| {}));
        let sp = common::wait(p.new_space()).expect("new_space");
        let map = |addr, len, prot| HostOp::Mmap { addr, len, prot, flags: 0x32, file: None };
        let ops =
            vec![map(common::CODE, 0x10000, 7), map(common::DATA, 0x10000, 3), map(0x60_0000, 0x10000, 3)];
        common::wait(sp.space.apply(sp.task.clone(), ops)).expect("apply");
        sp.space.write(common::CODE, &common::image()).expect("write");
        let mut r = sp.task.registers().expect("registers");
        (r.rip, r.rsp) = (entry!(g_getppid), 0x60_ff00);
        sp.task.set_registers(&r).expect("set");
        let g = std::sync::Arc::new(common::Guest { task: sp.task, space: sp.space, id: 1 });
        g.task.set_owner(g.clone());
        g.task.resume(Resume::Frame);
        h.join().expect("join");
        g
    });
    let run = |name: &str, n: u64, f: &dyn Fn(&EventKind)| {
        let start = Instant::now();
        for _ in 0..n {
            let e = p.next_event(&|| {});
            f(&e.kind);
        }
        report(name, n, start);
    };
    m.task.resume(Resume::Return(1));
    run("notify getppid", n, &|_| m.task.resume(Resume::Return(1)));
    run("notify getppid, continued", n, &|_| m.task.resume(Resume::Native));
    let e = p.next_event(&|| {});
    assert!(matches!(e.kind, EventKind::Syscall { .. }));
    let h = std::thread::scope(|s| {
        let h = s.spawn(|| p.next_event(&|| {}));
        common::wait(m.task.ensure_frame()).expect("frame");
        let mut r = m.task.registers().expect("registers");
        r.rip = entry!(g_brkloop);
        m.task.set_registers(&r).expect("set");
        m.task.resume(Resume::Frame);
        h.join().expect("join")
    });
    assert!(matches!(h.kind, EventKind::Syscall { nr: 12, .. }));
    m.task.resume(Resume::Return(1));
    run("trap brk", n, &|_| m.task.resume(Resume::Return(1)));
    // Kick before the answer: two events per round.
    let e = p.next_event(&|| {});
    assert!(matches!(e.kind, EventKind::Syscall { .. }));
    let h = std::thread::scope(|s| {
        let h = s.spawn(|| p.next_event(&|| {}));
        let mut r = m.task.registers().expect("registers");
        r.rip = entry!(g_getppid);
        m.task.set_registers(&r).expect("set");
        m.task.resume(Resume::Frame);
        h.join().expect("join")
    });
    assert!(matches!(h.kind, EventKind::Syscall { nr: 110, .. }));
    m.task.resume(Resume::Return(1));
    let start = Instant::now();
    for _ in 0..n {
        let e = p.next_event(&|| {});
        if matches!(e.kind, EventKind::Interrupted) {
            m.task.resume(Resume::Frame);
        } else {
            m.task.interrupt();
            m.task.resume(Resume::Return(1));
        }
    }
    report("kick before the answer (both events)", n / 2, start);
    m.task.kill_process();
}
