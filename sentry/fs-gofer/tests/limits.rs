//! A full table of descriptors: an error for the guest, and room again afterwards. A process of its own, for its limit.

mod common;

use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_fs_gofer::Cache;
use common::World;

#[allow(unsafe_code)]
fn limit_descriptors(soft: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: soft };
    // SAFETY: a structure that outlives the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

#[test]
fn descriptors_run_out_and_come_back() {
    limit_descriptors(512);
    let world = World::new();
    let guest = world.guest(Cache::Exclusive);
    for i in 0..600 {
        // Kept descriptors make room by themselves.
        guest.put(&format!("f{i}"), b"x");
    }
    let mut held = Vec::new();
    let error = loop {
        match guest.open(&format!("f{}", held.len() % 600), O_RDONLY) {
            Ok(file) => held.push(file),
            Err(error) => break error,
        }
        assert!(held.len() < 600, "600 open files in a table of 512");
    };
    assert_eq!(error, Errno::ENFILE);
    assert!(held.len() > 100, "only {} files open", held.len());
    let error = guest.open("new", O_RDWR | O_CREAT).err();
    assert!(matches!(error, None | Some(Errno::ENFILE)), "{error:?}");
    held.clear();
    for i in 0..600 {
        assert_eq!(guest.get(&format!("f{i}")).unwrap(), b"x");
    }
    guest.put("new", b"y");
    assert_eq!(guest.get("new").unwrap(), b"y");
}
