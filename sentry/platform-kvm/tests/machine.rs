//! The platform suite, and what only this platform has. Without /dev/kvm it is skipped.

use chitin_platform::*;
use chitin_platform_kvm::{Config, KvmPlatform, open};
use chitin_platform_tests::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn main() {
    if let Err(why) = open() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    // As on hosts with EPT or NPT, tables can also be followed by flushes where the host has shadow tables: not the other
    // way round, so the mode is the host's own.
    chitin_platform_tests::main(
        &[("host", Place::Namespace), ("plain", Place::Plain)],
        make,
        &[
            ("spinners_share", spinners_share),
            ("calls_of_the_platform", calls_of_the_platform),
            ("ring0_answers", ring0_answers),
            ("kicks_amid_answers", kicks_amid_answers),
            ("answers_forgotten_amid_calls", answers_forgotten_amid_calls),
            ("restartable_sequences", restartable_sequences),
            ("masks_are_obeyed", masks_are_obeyed),
            ("membarrier_beside_a_runner", membarrier_beside_a_runner),
            ("the_vdso_stays", the_vdso_stays),
            ("the_clock_is_there", the_clock_is_there),
        ],
    );
}

fn make(_: &str) -> Subject {
    let config =
        Config { device: open().expect("/dev/kvm"), cpus: 2, memory: 1 << 30, shadow: None, maps: None };
    let platform = KvmPlatform::new(config).expect("platform");
    Subject {
        platform: Arc::new(platform),
        traits: Traits { host_side: false, lazy_frames: false, kept_fds: 0 },
        kill: Box::new(|| {}),
    }
}

/// More spinning tasks than processors all make progress, and one that makes calls does, too.
fn spinners_share(m: &Machine) {
    let spinners: Vec<_> = (0..5).map(|_| m.load(entry!(g_spin))).collect();
    spinners.iter().for_each(|g| g.task.resume(Resume::Frame));
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    for i in 0..10 {
        m.syscall(&g, 110);
        g.task.resume(Resume::Return(i));
    }
    let end = Instant::now() + Duration::from_secs(5);
    while spinners.iter().any(|s| word(s, DATA) == 0) {
        assert!(Instant::now() < end, "somebody starves");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(spinners.iter().any(|s| s.task.preemptions() > 0));
    assert!(spinners.iter().all(|s| s.task.cpu_times().user_ns > 0));
}

/// A call with an answer is no event, until the answer is forgotten; others' calls are.
fn ring0_answers(m: &Machine) {
    let g = m.load(entry!(g_getpids));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 39);
    let used = || g.task.cpu_times().user_ns;
    let batch = |calls: u64| {
        let start = used();
        for _ in 0..calls {
            g.task.resume(Resume::Return(5));
            m.syscall(&g, 39);
        }
        (used() - start) / calls
    };
    let by_events = (0..30).map(|_| batch(10)).min();
    g.task.may_answer(39, u32::MAX);
    g.task.may_answer(1 << 40, 1);
    let before = word(&g, DATA + 8);
    g.task.resume(Resume::Return(5));
    let batch = || {
        let start = (used(), word(&g, DATA + 8));
        std::thread::sleep(Duration::from_millis(5));
        (used() - start.0) / (word(&g, DATA + 8) - start.1).max(1)
    };
    let by_ring0 = (0..40).map(|_| batch()).min();
    println!("In the guest, a call takes {by_events:?} ns by an event, {by_ring0:?} ns by ring 0");
    let calls = word(&g, DATA + 8) - before;
    assert!(calls > 10, "{calls} calls");
    assert_eq!(word(&g, DATA), u64::from(u32::MAX));
    // Another task on the same processors has other answers, or none.
    let other = m.load(entry!(g_getpids));
    other.task.resume(Resume::Frame);
    m.syscall(&other, 39);
    other.task.may_answer(39, 77);
    other.task.resume(Resume::Return(5));
    let none = m.load(entry!(g_getpids));
    none.task.resume(Resume::Frame);
    let mut events = 0;
    while events < 50 || word(&other, DATA) == 5 {
        match guest_of(&m.event()) {
            it if it.id == none.id => {
                events += 1;
                it.task.resume(Resume::Return(6));
            }
            // A processor that is wanted elsewhere was caught before the answer.
            it if it.id == other.id => it.task.resume(Resume::Return(77)),
            it => it.task.resume(Resume::Return(0xffff_ffff)),
        }
        assert_eq!(word(&g, DATA), u64::from(u32::MAX));
        assert!(matches!(word(&other, DATA), 5 | 77));
        assert!(matches!(word(&none, DATA), 0 | 6));
    }
    // From then on each of them asks.
    g.task.forget_answers();
    other.task.forget_answers();
    let mut asked = [0; 4];
    while asked.iter().filter(|n| **n >= 10).count() < 3 {
        let it = guest_of(&m.event());
        asked[it.id] += 1;
        it.task.resume(Resume::Return(8));
    }
    assert_eq!((word(&g, DATA), word(&other, DATA), word(&none, DATA)), (8, 8, 8));
}

/// An answer that is forgotten while ring 0 is about to give it is given, or it is not: nothing else is.
fn answers_forgotten_amid_calls(m: &Machine) {
    let g = m.load(entry!(g_getpids));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 39);
    for _ in 0..200 {
        g.task.may_answer(39, 4711);
        g.task.resume(Resume::Return(4711));
        std::thread::sleep(Duration::from_micros(60));
        g.task.forget_answers();
        m.syscall(&g, 39);
        assert_eq!(word(&g, DATA), 4711);
    }
    g.task.kill_process();
}

/// A task that is kicked on its way through ring 0 is where it was before its call, or after it.
fn kicks_amid_answers(m: &Machine) {
    let g = m.load(entry!(g_getpids));
    let (call, after) = (entry!(g_getpids) + 5, entry!(g_getpids) + 7);
    g.task.resume(Resume::Frame);
    m.syscall(&g, 39);
    g.task.may_answer(39, 4711);
    g.task.resume(Resume::Return(4711));
    let mut seen = 0;
    for _ in 0..400 {
        g.task.interrupt();
        let mut event = m.event();
        if let EventKind::Syscall { nr, .. } = event.kind {
            // The kick caught the call before it had its answer.
            assert_eq!(nr, 39);
            let r = g.task.registers().expect("registers");
            assert_eq!((r.rip, r.rax as u32), (after, 39));
            g.task.resume(Resume::Return(4711));
            event = m.event();
        }
        assert!(matches!(event.kind, EventKind::Interrupted), "{:?}", event.kind);
        let r = g.task.registers().expect("registers");
        assert!((call - 5..after + 20).contains(&r.rip), "{:x}", r.rip);
        assert_eq!(r.rsp, STACK_TOP - 0x100);
        match r.rip {
            at if at == call => assert_eq!(r.rax, 39),
            at if at >= after => assert_eq!(r.rax, 4711),
            _ => {}
        }
        seen += u32::from(r.rip == after);
        assert!(word(&g, DATA) == 4711 || word(&g, DATA) == 0);
        g.task.resume(Resume::Frame);
    }
    println!("{seen} of 400 kicks came right after a call");
}

/// Tasks stay on the processors of their masks, share these, and go elsewhere when the masks change.
fn masks_are_obeyed(m: &Machine) {
    let on = |g: &Guest, cpu: usize| word(g, DATA + 0x100 + cpu as u64 * 256);
    let wait_for = |what: &str, done: &dyn Fn() -> bool| {
        let end = Instant::now() + Duration::from_secs(15);
        while !done() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let first = m.load(entry!(g_cpu));
    let mask = first.task.affinity(None).expect("mask");
    let numbers: Vec<usize> =
        (0..mask.len() * 8).filter(|i| mask[i / 8] >> (i % 8) & 1 == 1 && *i < 64).collect();
    let &[a, b] = numbers.as_slice() else { panic!("two processors, not {numbers:?}") };
    let only = |cpu: usize| {
        let mut mask = vec![0; mask.len()];
        mask[cpu / 8] = 1 << (cpu % 8);
        mask
    };
    assert!(first.task.affinity(Some(&[0; 8])).is_err());
    let guests: Vec<_> = [first].into_iter().chain((0..3).map(|_| m.load(entry!(g_cpu)))).collect();
    for g in &guests {
        g.task.affinity(Some(&only(b))).expect("set");
        g.task.resume(Resume::Frame);
        m.syscall(g, 334);
        g.task.resume(Resume::Native);
    }
    wait_for("who shares a processor starves", &|| guests.iter().all(|g| on(g, b) > 0));
    assert!(guests.iter().all(|g| on(g, a) == 0));
    // The other processor is free for others.
    let asks = m.load(entry!(g_getppid));
    asks.task.resume(Resume::Frame);
    for i in 0..20 {
        m.syscall(&asks, 110);
        asks.task.resume(Resume::Return(i));
    }
    m.syscall(&asks, 110);
    // Whoever runs or waits moves.
    for g in &guests {
        g.task.affinity(Some(&only(a))).expect("set");
    }
    wait_for("who was moved starves", &|| guests.iter().all(|g| on(g, a) > 0));
    let before: Vec<u64> = guests.iter().map(|g| on(g, b)).collect();
    let moved: Vec<u64> = guests.iter().map(|g| on(g, a)).collect();
    wait_for("it does not go on", &|| guests.iter().zip(&moved).all(|(g, was)| on(g, a) > *was));
    let after: Vec<u64> = guests.iter().map(|g| on(g, b)).collect();
    assert_eq!(before, after, "it has run where it may not");
    for g in &guests {
        g.task.affinity(Some(&mask)).expect("set");
    }
    wait_for("a free processor is not used", &|| guests.iter().zip(&after).any(|(g, was)| on(g, b) > *was));
    let child = wait(asks.task.spawn(Spawn::Fork)).expect("fork");
    assert_eq!(child.task.affinity(None).expect("mask"), mask);
}

/// rseq(2): who is kicked in a critical section is at its abort handler, and knows the processor.
fn restartable_sequences(m: &Machine) {
    let g = m.load(entry!(g_call6));
    let area = DATA + 0x200;
    let rseq = |args: [u64; 4]| {
        let [a, b, c, d] = args;
        m.arm(&g, 334, [a, b, c, d, 0, 0]);
        g.task.resume(Resume::Frame);
        m.syscall(&g, 334);
        g.task.resume(Resume::Native);
        m.syscall(&g, 39);
        word(&g, DATA) as i64
    };
    let failed = |errno: i32| -i64::from(errno);
    const SIGNATURE: u64 = 0x5305_3053;
    assert_eq!(rseq([area, 31, 0, SIGNATURE]), failed(libc::EINVAL));
    assert_eq!(rseq([area + 16, 32, 0, SIGNATURE]), failed(libc::EINVAL));
    assert_eq!(rseq([area, 32, 2, SIGNATURE]), failed(libc::EINVAL));
    assert_eq!(rseq([1 << 62, 32, 0, SIGNATURE]), failed(libc::EFAULT));
    assert_eq!(rseq([area, 32, 1, SIGNATURE]), failed(libc::EINVAL));
    assert_eq!(rseq([area, 32, 0, SIGNATURE]), 0);
    assert_eq!(rseq([area, 32, 0, SIGNATURE]), failed(libc::EBUSY));
    assert_eq!(rseq([area, 32, 0, 1]), failed(libc::EPERM));
    assert_eq!(rseq([area, 32, 1, 1]), failed(libc::EPERM));
    assert_eq!(rseq([area, 32, 1, SIGNATURE]), 0);
    assert_eq!(word(&g, area), u64::from(u32::MAX) << 32);
    assert_eq!(rseq([area, 32, 0, SIGNATURE]), 0);

    let (start, commit) = (entry!(g_rseq_start), entry!(g_rseq_commit));
    for (i, word) in [0, start, commit - start, entry!(g_rseq_abort)].into_iter().enumerate() {
        g.space.write(DATA + 0x240 + i as u64 * 8, &word.to_le_bytes()).expect("write");
    }
    let mut r = g.task.registers().expect("registers");
    r.rip = entry!(g_rseq);
    g.task.set_registers(&r).expect("set_registers");
    g.task.resume(Resume::Frame);
    let (mut commits, mut rounds) = (0, 0);
    // It must get to commit at times, too.
    while rounds < 300 || word(&g, DATA + 0x308) < 20 || word(&g, DATA + 0x300) < 20 {
        rounds += 1;
        std::thread::sleep(Duration::from_micros(rounds % 8 * 50));
        g.task.interrupt();
        m.interrupted(&g);
        let r = g.task.registers().expect("registers");
        assert!(!(start..commit).contains(&r.rip), "left in a critical section at {:x}", r.rip);
        let ids = word(&g, area);
        assert!(ids >> 32 == ids & 0xffff_ffff && ids >> 32 < 2, "{ids:x}");
        assert!(word(&g, DATA + 0x300) >= commits);
        commits = word(&g, DATA + 0x300);
        g.task.resume(Resume::Frame);
    }
    g.task.interrupt();
    m.interrupted(&g);
    // A child has it, too; a description that makes no sense is a fault.
    let child = m.adopt(wait(g.task.spawn(Spawn::Fork)).expect("fork"));
    child.space.write(DATA + 0x258, &0u64.to_le_bytes()).expect("write");
    loop {
        child.task.resume(Resume::Frame);
        std::thread::sleep(Duration::from_millis(1));
        child.task.interrupt();
        match m.event().kind {
            EventKind::Interrupted => {}
            EventKind::Fault { signal, code, .. } => return assert_eq!((signal, code), (libc::SIGSEGV, 128)),
            kind => panic!("{kind:?}"),
        }
    }
}

/// What `Resume::Native` means here.
fn calls_of_the_platform(m: &Machine) {
    let g = m.load(entry!(g_call6));
    let call = |nr: u64, args: [u64; 6]| {
        m.arm(&g, nr, args);
        g.task.resume(Resume::Frame);
        assert_eq!(m.syscall(&g, nr), args);
        g.task.resume(Resume::Native);
        m.syscall(&g, 39);
        word(&g, DATA) as i64
    };
    let membarrier = |command, flags| call(324, [command, flags, 0, 0, 0, 0]);
    assert_eq!(call(24, [0; 6]), 0);
    assert_eq!(call(158, [0x1002, DATA + 64, 0, 0, 0, 0]), 0);
    assert_eq!(g.task.registers().expect("registers").fs_base, DATA + 64);
    assert_eq!(membarrier(0, 0) & 0x18, 0x18);
    assert_eq!(membarrier(8, 0), -i64::from(libc::EPERM));
    assert_eq!(membarrier(16, 0), 0);
    assert_eq!(membarrier(8, 0), 0);
    assert_eq!(membarrier(8, 1), -i64::from(libc::EINVAL));
    assert_eq!(membarrier(1 << 20, 0), -i64::from(libc::EINVAL));
    assert_eq!(call(26, [DATA, 4096, 4, 0, 0, 0]), 0);
    assert_eq!(call(26, [0x7000_0000, 4096, 4, 0, 0, 0]), -i64::from(libc::ENOMEM));
}

/// membarrier(2) while another thread of the space runs, which writes to where the result goes: over and over, since what
/// may be lost on the way (a kick, a wake-up) is lost rarely.
fn membarrier_beside_a_runner(m: &Machine) {
    let g = m.load(entry!(g_call6));
    let membarrier = |command| {
        m.arm(&g, 324, [command, 0, 0, 0, 0, 0]);
        g.task.resume(Resume::Frame);
        m.syscall(&g, 324);
        g.task.resume(Resume::Native);
        m.syscall(&g, 39);
    };
    membarrier(16);
    for _ in 0..50 {
        let t = m.adopt(wait(g.task.spawn(Spawn::Thread)).expect("thread"));
        let mut r = t.task.registers().expect("registers");
        r.rip = entry!(g_spin);
        t.task.set_registers(&r).expect("set");
        t.task.resume(Resume::Frame);
        (0..5).for_each(|_| membarrier(8));
        t.task.interrupt();
        m.interrupted(&t);
        t.task.exit_thread();
    }
}

/// The vDSO can be read, is the host's, and is sealed.
fn the_vdso_stays(m: &Machine) {
    let g = m.load(entry!(g_call6));
    let Some(at) = g.space.vdso() else {
        eprintln!("SKIPPED: no vDSO here");
        return;
    };
    let mut image = [0; 4];
    g.space.read(at, &mut image).expect("read");
    assert_eq!(&image, b"\x7fELF");
    assert!(g.space.write(at, &image).is_err());
    assert_eq!(g.space.map_call(&*g.task, &MapCall::Munmap { addr: at, len: 4096 }), Err(libc::EPERM));
    let fork = m.adopt(wait(g.task.spawn(Spawn::Fork)).expect("fork"));
    assert_eq!(fork.space.vdso(), Some(at));
}

/// Guest code reads the clock's data and executes the image's pages as on the host.
fn the_clock_is_there(m: &Machine) {
    let g = m.load(entry!(g_fpu));
    let list = g.space.mappings(false).expect("mappings");
    let Some(data) = list.iter().find(|v| v.kind == HostVmaKind::Vvar) else {
        eprintln!("SKIPPED: no vDSO here");
        return;
    };
    let mut r = g.task.registers().expect("registers");
    r.fs_base = data.range.start;
    g.task.set_registers(&r).expect("set");
    g.task.resume(Resume::Frame);
    m.syscall(&g, 39);
    g.task.resume(Resume::Return(0));
    m.syscall(&g, 60);
}
