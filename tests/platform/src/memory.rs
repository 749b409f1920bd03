//! Address spaces: mappings and copies.

use crate::*;
use chitin_platform::*;
use std::os::fd::AsFd;
use std::sync::Arc;

pub fn native_mmap(m: &Machine) {
    let g = m.load(entry!(g_call6));
    let r = mmap_call(m, &g, [0, 0x3000, 3, 0x22, u64::MAX, 0], None);
    assert!(r > 0 && r % 4096 == 0, "{r}");
    g.space.write(r as u64, b"x").expect("write to the new mapping");
    let v = g.space.mapping_at(r as u64 + 0x1000).expect("mapping_at").expect("there");
    assert_eq!((v.prot, v.shared, v.kind), (3, false, HostVmaKind::Anonymous));
    let own = g.space.reserved();
    for addr in [own.start, own.start - 0x1000, own.start + 0x10_0000, own.end - 0x1000] {
        let r = mmap_call(m, &g, [addr, 0x2000, 3, 0x32, u64::MAX, 0], None);
        assert_eq!(r, -i64::from(libc::ENOMEM));
    }
    let over = MapCall::Munmap { addr: 0x1000, len: u64::MAX - 0x1000 };
    assert_eq!(g.space.map_call(&*g.task, &over), Err(libc::EINVAL));
    if !m.traits.host_side {
        return;
    }
    let over = MapCall::Munmap { addr: 0x1000, len: 0x7000_0000_0000 };
    assert_eq!(g.space.map_call(&*g.task, &over), Err(libc::EINVAL));
}

pub fn file_mmap(m: &Machine) {
    let g = m.load(entry!(g_call6));
    let f = temp_file(&[0x5a; 8192]);
    let file = MapFile { guest_fd: 5, host: f.as_fd() };
    let r = mmap_call(m, &g, [0, 0x2000, 1, 2, 5, 0], Some(file));
    assert!(r > 0, "{r}");
    assert_eq!(word(&g, r as u64 + 4096), 0x5a5a_5a5a_5a5a_5a5a);
    assert_eq!(g.space.write(r as u64, b"x"), Err(CopyFault { done: 0 }));
    let v = g.space.mapping_at(r as u64).expect("mapping_at").expect("there");
    assert!(v.ino != 0 && v.kind == HostVmaKind::File);
    let list = g.space.mappings(true).expect("mappings");
    let w = list.iter().find(|x| x.range.contains(&(r as u64))).expect("listed");
    assert_eq!((w.dev, w.ino, w.offset), (v.dev, v.ino, v.offset));
}

pub fn high_fd_mmap(m: &Machine) {
    let g = m.load(entry!(g_call6));
    let f = temp_file(&[0x6b; 4096]);
    for fd in [1000u64, 1023, 5000, 0x7fff_ffff] {
        let file = MapFile { guest_fd: fd as i32, host: f.as_fd() };
        let r = mmap_call(m, &g, [0, 0x1000, 1, 2, fd, 0], Some(file));
        assert!(r > 0, "{r}");
        assert_eq!(word(&g, r as u64), 0x6b6b_6b6b_6b6b_6b6b);
    }
}

pub fn mappings_hide_ours(m: &Machine) {
    let g = m.load(entry!(g_spin));
    let list = g.space.mappings(false).expect("mappings");
    let own = g.space.reserved();
    for v in &list {
        assert!(v.range.end <= own.start || v.range.start >= own.end, "{v:x?}");
    }
    let anon: Vec<_> = list.iter().filter(|v| v.kind == HostVmaKind::Anonymous).collect();
    assert_eq!(anon.len(), 3, "{list:x?}");
    let vdso = list.iter().find(|v| v.kind == HostVmaKind::Vdso).map(|v| v.range.start);
    assert_eq!(vdso, g.space.vdso());
    assert!(vdso.is_some() || !m.traits.host_side);
    let u = g.space.usage();
    assert!(u.virt >= 0x30000 && u.virt < 0x100000, "{u:?}");
    assert_eq!(g.space.mapping_at(own.start).expect("mapping_at"), None);
    assert!(g.space.read(own.start, &mut [0; 8]).is_err());
    let h = m.load(entry!(g_spin));
    let at = |g: &Guest| {
        let op = HostOp::Mmap { addr: 0, len: 4096, prot: 1, flags: 0x22, file: None };
        wait(g.space.apply(g.task.clone(), vec![op])).expect("apply")[0]
    };
    assert_ne!(at(&g), at(&h), "mmap bases are randomised");
}

pub fn copy_faults(m: &Machine) {
    let g = m.load(entry!(g_spin));
    let end = DATA + 0x10000;
    let mut b = vec![0u8; 0x3000];
    assert_eq!(g.space.read(end - 0x1234, &mut b), Err(CopyFault { done: 0x1234 }));
    assert_eq!(g.space.write(end - 5, &b), Err(CopyFault { done: 5 }));
    assert_eq!(g.space.read(0, &mut b), Err(CopyFault { done: 0 }));
    assert_eq!(g.space.read(u64::MAX - 5, &mut b), Err(CopyFault { done: 0 }));
    assert_eq!(g.space.read(0xffff_8000_0000_0000, &mut b), Err(CopyFault { done: 0 }));
    g.space.write(DATA, b"abcdefgh").expect("write");
    let mut out = [0u8; 6];
    g.space.read_vectored(&[(DATA, 2), (DATA + 4, 3), (DATA + 7, 1)], &mut out).expect("readv");
    assert_eq!(&out, b"abefgh");
    let ranges: Vec<_> =
        (0..200).map(|i| (DATA + 0x100 + i * 16, 3)).chain([(end - 2, 4), (DATA, 1)]).collect();
    let mut big = vec![7u8; 605];
    assert_eq!(g.space.write_vectored(&ranges, &big), Err(CopyFault { done: 602 }));
    big.fill(0);
    assert_eq!(g.space.read_vectored(&ranges[..200], &mut big[..600]), Ok(()));
    assert!(big[..600].iter().all(|b| *b == 7));
}

pub fn apply_files(m: &Machine) {
    let g = m.load(entry!(g_spin));
    let f = Arc::new(std::os::fd::OwnedFd::from(temp_file(&[0x77; 16384])));
    let ops: Vec<HostOp> = (0..30)
        .map(|i| HostOp::Mmap {
            addr: 0x1000_0000 + i * 0x4000,
            len: 0x4000,
            prot: 1,
            flags: 0x12,
            file: Some((f.clone(), 0)),
        })
        .collect();
    let r = wait(g.space.apply(g.task.clone(), ops)).expect("apply");
    assert_eq!(r.len(), 30);
    assert_eq!(word(&g, 0x1000_0000 + 29 * 0x4000 + 0x3000), 0x7777_7777_7777_7777);
    only_kept_fds(m, &g);
    let bad = vec![
        HostOp::Mmap { addr: 0, len: 4096, prot: 3, flags: 0x22, file: None },
        HostOp::Mmap { addr: 1, len: 4096, prot: 3, flags: 0x12, file: Some((f.clone(), 0)) },
        HostOp::Munmap { addr: 0x1000_0000, len: 4096 },
    ];
    match wait(g.space.apply(g.task.clone(), bad)) {
        Err((1, PlatformError::Host { errno: libc::EINVAL, .. })) => {}
        r => panic!("{r:?}"),
    }
    assert_eq!(word(&g, 0x1000_0000), 0x7777_7777_7777_7777);
    only_kept_fds(m, &g);
}

fn only_kept_fds(m: &Machine, g: &Guest) {
    if m.traits.host_side {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", g.task.debug_id())).expect("fds").count();
        assert_eq!(fds, m.traits.kept_fds, "descriptors of files stay");
    }
}
