//! Making and ending threads, processes and families of them.

use crate::*;
use chitin_platform::*;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub fn fork_copies(m: &Machine) {
    let g = m.load(entry!(g_store));
    let mut r = g.task.registers().expect("registers");
    r.r15 = DATA;
    r.r14 = 11;
    g.task.set_registers(&r).expect("set");
    g.task.resume(Resume::Frame);
    assert_eq!(m.syscall(&g, 39)[0], 11);
    let child = m.adopt(wait(g.task.spawn(Spawn::Fork)).expect("fork"));
    let mut r = child.task.registers().expect("child registers");
    assert_eq!(r.r14, 11);
    r.r14 = 22;
    child.task.set_registers(&r).expect("set");
    child.task.resume(Resume::Return(1));
    assert_eq!(m.syscall(&child, 39)[0], 22);
    assert_eq!(word(&child, DATA), 22);
    assert_eq!(word(&g, DATA), 11);
    g.task.resume(Resume::Return(2));
    assert_eq!(m.syscall(&g, 39)[0], 11);
    // A grandchild, from the child.
    let grand = m.adopt(wait(child.task.spawn(Spawn::Fork)).expect("fork"));
    grand.task.resume(Resume::Return(0));
    assert_eq!(m.syscall(&grand, 39)[0], 22);
}

pub fn thread_shares(m: &Machine) {
    let g = m.load(entry!(g_store));
    let mut r = g.task.registers().expect("registers");
    (r.r15, r.r14) = (DATA, 11);
    g.task.set_registers(&r).expect("set");
    g.task.resume(Resume::Frame);
    m.syscall(&g, 39);
    let t = m.adopt(wait(g.task.spawn(Spawn::Thread)).expect("thread"));
    let mut r = t.task.registers().expect("registers");
    (r.r15, r.r14, r.fs_base) = (DATA + 64, 33, DATA);
    t.task.set_registers(&r).expect("set");
    t.task.resume(Resume::Return(0));
    assert_eq!(m.syscall(&t, 39)[0], 33);
    assert_eq!(word(&g, DATA + 64), 33);
    g.task.resume(Resume::Return(0));
    m.syscall(&g, 39);
    // The thread can be kicked, forks and has a frame of its own.
    wait(t.task.ensure_frame()).expect("frame");
    assert_eq!(t.task.registers().expect("registers").fs_base, DATA);
    let f = m.adopt(wait(t.task.spawn(Spawn::Fork)).expect("fork from a thread"));
    f.task.resume(Resume::Return(0));
    assert_eq!(m.syscall(&f, 39)[0], 33);
    let ft = m.adopt(wait(f.task.spawn(Spawn::Thread)).expect("thread in the fork"));
    ft.task.resume(Resume::Return(0));
    m.syscall(&ft, 39);
    t.task.exit_thread();
    g.task.resume(Resume::Return(0));
    m.syscall(&g, 39);
}

pub fn shared_process(m: &Machine) {
    let g = m.load(entry!(g_store));
    let mut r = g.task.registers().expect("registers");
    (r.r15, r.r14) = (DATA, 11);
    g.task.set_registers(&r).expect("set");
    g.task.resume(Resume::Frame);
    m.syscall(&g, 39);
    let v = m.adopt(wait(g.task.spawn(Spawn::SharedProcess)).expect("vfork"));
    let mut r = v.task.registers().expect("registers");
    (r.r15, r.r14) = (DATA + 8, 44);
    v.task.set_registers(&r).expect("set");
    v.task.resume(Resume::Return(0));
    assert_eq!(m.syscall(&v, 39)[0], 44);
    assert_eq!(word(&g, DATA + 8), 44);
    v.task.kill_process();
    std::thread::sleep(Duration::from_millis(20));
    g.task.resume(Resume::Return(0));
    m.syscall(&g, 39);
    // The other way round: the maker dies, the copy goes on and can be read.
    let v = m.adopt(wait(g.task.spawn(Spawn::SharedProcess)).expect("vfork"));
    g.task.kill_process();
    std::thread::sleep(Duration::from_millis(20));
    v.task.resume(Resume::Return(0));
    m.syscall(&v, 39);
    assert_eq!(word(&v, DATA + 8), 44);
    m.no_event(20);
}

pub fn exit_and_kill(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    g.task.exit_thread();
    gone(m, &g);
    assert!(matches!(g.task.registers(), Err(PlatformError::Gone)));
    assert!(g.space.read(DATA, &mut [0; 4]).is_err());
    let g = m.load(entry!(g_spin));
    g.task.resume(Resume::Frame);
    assert!(!m.traits.host_side || alive(&g));
    g.task.kill_process();
    gone(m, &g);
    let g = m.load(entry!(g_brk));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 12);
    let t = m.adopt(wait(g.task.spawn(Spawn::Thread)).expect("thread"));
    t.task.resume(Resume::Return(5));
    assert_eq!(m.syscall(&t, 60)[0], 5);
    t.task.exit_thread();
    gone(m, &t);
    assert!(!m.traits.host_side || alive(&g));
    g.task.kill_process();
    gone(m, &g);
    m.no_event(20);
}

pub fn unexpected_death(m: &Machine) {
    if !m.traits.host_side {
        return;
    }
    let g = m.load(entry!(g_spin));
    g.task.resume(Resume::Frame);
    unsafe { libc::kill(g.task.debug_id() as i32, libc::SIGKILL) };
    let e = m.event();
    assert!(matches!(e.kind, EventKind::Exited { signal: libc::SIGKILL }), "{:?}", e.kind);
    assert_eq!(guest_of(&e).id, g.id);
    gone(m, &g);
    // The platform still works.
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
}

pub fn forks_200(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    let mut kids = Vec::new();
    for i in 0..200 {
        let c = m.adopt(wait(g.task.spawn(Spawn::Fork)).expect("fork"));
        c.task.resume(Resume::Return(i));
        m.syscall(&c, 110);
        assert_eq!(word(&c, DATA), i as u64);
        kids.push(c);
        if i % 2 == 0 {
            kids.remove(0).task.kill_process();
        }
    }
    assert_eq!(word(&g, DATA), 0);
    kids.iter().for_each(|k| k.task.exit_thread());
    kids.iter().for_each(|k| gone(m, k));
    g.task.resume(Resume::Return(1));
    m.syscall(&g, 110);
}

pub fn threads_200(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    for round in 0..2 {
        let mut kids = Vec::new();
        for i in 0..200 {
            let c = m.adopt(wait(g.task.spawn(Spawn::Thread)).expect("thread"));
            c.task.resume(Resume::Return(i));
            m.syscall(&c, 110);
            assert_eq!(word(&c, DATA), i as u64);
            kids.push(c);
        }
        // A fork of a process with many windows.
        let f = m.adopt(wait(kids[100].task.spawn(Spawn::Fork)).expect("fork"));
        f.task.resume(Resume::Return(1));
        m.syscall(&f, 110);
        let ft = m.adopt(wait(f.task.spawn(Spawn::Thread)).expect("thread of the fork"));
        ft.task.resume(Resume::Return(1));
        m.syscall(&ft, 110);
        f.task.kill_process();
        kids.iter().for_each(|k| k.task.exit_thread());
        kids.iter().for_each(|k| gone(m, k));
        g.task.resume(Resume::Return(round));
        m.syscall(&g, 110);
    }
}

/// A thread that is ended while it makes another (a sibling executes a program) takes nobody along but that one.
pub fn makers_end_amid_clones(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    for round in 0..60u64 {
        let maker = m.adopt(wait(g.task.spawn(Spawn::Thread)).expect("thread"));
        let mut clone = maker.task.spawn(Spawn::Thread);
        let begun = clone.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        // Given up at once, or a little later, when the clone may be under way or done.
        std::thread::sleep(Duration::from_micros(round % 12 * 20));
        drop(clone);
        if let Poll::Ready(made) = begun {
            made.expect("a clone that is done at once").task.exit_thread();
        }
        maker.task.exit_thread();
        g.task.resume(Resume::Return(round as i64));
        m.syscall(&g, 110);
        gone(m, &maker);
    }
    m.no_event(20);
    if m.traits.host_side {
        let threads =
            || std::fs::read_dir(format!("/proc/{}/task", g.task.debug_id())).map_or(0, Iterator::count);
        for _ in 0..500 {
            if threads() == 1 {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("{} threads are left", threads());
    }
}

pub fn leader_exits_first(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    let t = m.adopt(wait(g.task.spawn(Spawn::Thread)).expect("thread"));
    g.task.exit_thread();
    t.task.resume(Resume::Return(9));
    m.syscall(&t, 110);
    assert_eq!(word(&t, DATA), 9);
    t.task.exit_thread();
    gone(m, &g);
    m.no_event(20);
}

pub fn family(m: &Machine, lost: std::sync::mpsc::Sender<i32>) -> Arc<dyn SpaceGroup> {
    let lost = std::sync::Mutex::new(lost);
    let lost: OnLost =
        Box::new(move |signal| lost.lock().expect("lost").send(signal).expect("the test listens"));
    wait(m.plat.new_group(lost)).expect("group")
}

pub fn families(m: &Machine) {
    let (tx, rx) = std::sync::mpsc::channel();
    let group = family(m, tx);
    let g = m.load_from(wait(group.new_space()).expect("space"), entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    drop(group);
    g.task.resume(Resume::Return(100));
    m.syscall(&g, 110);
    assert_eq!(word(&g, DATA), 100);
    let fork = wait(g.task.spawn(Spawn::Fork)).expect("fork");
    fork.task.kill_process();
    std::thread::sleep(Duration::from_millis(100));
    assert!(rx.try_recv().is_err());
}

pub fn lost_origin(m: &Machine) {
    let (tx, rx) = std::sync::mpsc::channel();
    let group = family(m, tx);
    let origin = group.origin().expect("no error");
    assert_eq!(origin.is_some(), m.traits.host_side);
    let Some(pidfd) = origin else { return };
    let g = m.load_from(wait(group.new_space()).expect("space"), entry!(g_getppid));
    // SAFETY: no memory is involved.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), 9, 0, 0) };
    assert_eq!(sent, 0);
    assert_eq!(rx.recv_timeout(Duration::from_secs(5)), Ok(9));
    assert!(matches!(wait(group.new_space()), Err(PlatformError::Gone)));
    assert!(matches!(group.origin(), Err(PlatformError::Gone)));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    let other = m.load(entry!(g_getppid));
    other.task.resume(Resume::Frame);
    m.syscall(&other, 110);
}
