use super::*;
use crate::Caps;
use chitin_abi::capability::*;

fn extent(first: u32, lower: u32, count: u32) -> Extent {
    Extent { first, lower, count }
}

fn user(uid: u32) -> Creds {
    let mut creds = Creds::root();
    (creds.uid, creds.euid, creds.suid, creds.fsuid) = (uid, uid, uid, uid);
    (creds.gid, creds.egid, creds.sgid, creds.fsgid) = (uid, uid, uid, uid);
    (creds.permitted, creds.effective) = (Caps::EMPTY, Caps::EMPTY);
    creds
}

#[test]
fn maps_are_checked() {
    for bad in [
        vec![],
        vec![extent(0, 0, 0)],
        vec![extent(u32::MAX, 0, 1)],
        vec![extent(0, u32::MAX, 1)],
        vec![extent(0, 0, 10), extent(9, 20, 1)],
        vec![extent(0, 0, 10), extent(10, 9, 1)],
    ] {
        assert_eq!(IdMap::new(bad.clone()), Err(Errno::EINVAL), "{bad:?}");
    }
    let map = IdMap::new(vec![extent(0, 1000, 1), extent(1, 100_000, 65536)]).unwrap();
    assert_eq!((map.down(0), map.down(1), map.down(65537)), (Some(1000), Some(100_000), None));
    assert_eq!((map.up(1000), map.up(100_001), map.up(0)), (Some(0), Some(2), None));
}

#[test]
fn an_ordinary_user_maps_itself_alone() {
    let creds = user(1000);
    let ns = UserNs::new_child(&creds).unwrap();
    let inside = Creds::in_new_ns(&creds, ns.clone());
    assert_eq!((ns.show_uid(1000), ns.root_uid()), (OVERFLOW_ID, INVALID_ID));
    let map = |lower, count| IdMap::new(vec![extent(0, lower, count)]).unwrap();
    for (creds, map) in [(&inside, map(1001, 1)), (&inside, map(1000, 2)), (&user(1001), map(1001, 1))] {
        assert_eq!(ns.set_map(IdKind::User, creds, &map), Err(Errno::EPERM));
    }
    assert_eq!(ns.may_write_map(IdKind::User, &inside), Ok(()));
    assert_eq!(ns.set_map(IdKind::User, &inside, &map(1000, 1)), Ok(()));
    assert_eq!(ns.may_write_map(IdKind::User, &inside), Err(Errno::EPERM));
    // Groups only once nobody there can shed them.
    assert_eq!(ns.set_map(IdKind::Group, &inside, &map(1000, 1)), Err(Errno::EPERM));
    assert_eq!(ns.set_setgroups(false), Ok(()));
    assert_eq!(ns.set_map(IdKind::Group, &inside, &map(1000, 1)), Ok(()));
    assert_eq!((ns.set_setgroups(true), ns.may_setgroups()), (Err(Errno::EPERM), false));
    assert_eq!((ns.show_uid(1000), ns.show_uid(0), ns.kuid(0)), (0, OVERFLOW_ID, Some(1000)));
    assert_eq!(ns.shown_map(IdKind::User, &ns), [extent(0, 1000, 1)]);
    assert_eq!(ns.shown_map(IdKind::User, UserNs::initial()), [extent(0, 1000, 1)]);
}

#[test]
fn power_is_relative() {
    let creds = user(1000);
    let ns = UserNs::new_child(&creds).unwrap();
    let inside = Creds::in_new_ns(&creds, ns.clone());
    assert!(inside.capable_here(CAP_SYS_ADMIN) && !inside.capable(CAP_SYS_ADMIN));
    // The owner from outside, and root, but nobody else.
    assert!(creds.capable_in(&ns, CAP_SYS_ADMIN) && Creds::root().capable_in(&ns, CAP_SYS_ADMIN));
    assert!(!user(1001).capable_in(&ns, CAP_SYS_ADMIN));
    assert!(!inside.capable_in(UserNs::initial(), CAP_SYS_ADMIN));
    assert!(ns.is_within(UserNs::initial()) && !UserNs::initial().is_within(&ns));
}

#[test]
fn nested_maps_end_in_kernel_ids() {
    let root = Creds::root();
    let outer = UserNs::new_child(&root).unwrap();
    let map = IdMap::new(vec![extent(0, 100_000, 1000), extent(1000, 500_000, 1000)]).unwrap();
    assert_eq!(outer.set_map(IdKind::User, &root, &map), Ok(()));
    assert_eq!(outer.set_map(IdKind::Group, &root, &map), Ok(()));
    let mut creds = Creds::in_new_ns(&root, outer.clone());
    (creds.uid, creds.euid, creds.gid, creds.egid) = (100_000, 100_000, 100_000, 100_000);
    let inner = UserNs::new_child(&creds).unwrap();
    let across = IdMap::new(vec![extent(0, 900, 200)]).unwrap();
    assert_eq!(inner.set_map(IdKind::User, &creds, &across), Err(Errno::EPERM));
    let fits = IdMap::new(vec![extent(0, 1000, 10)]).unwrap();
    assert_eq!(inner.set_map(IdKind::User, &creds, &fits), Ok(()));
    assert_eq!(inner.kuid(3), Some(500_003));
    assert_eq!(inner.shown_map(IdKind::User, &inner), [extent(0, 1000, 10)]);
    assert_eq!(inner.shown_map(IdKind::User, UserNs::initial()), [extent(0, 500_000, 10)]);
}

#[test]
fn nesting_is_bounded() {
    let mut creds = Creds::root();
    for _ in 0..MAX_LEVEL {
        let ns = UserNs::new_child(&creds).unwrap();
        let map = IdMap::new(vec![extent(0, 0, 1)]).unwrap();
        ns.set_map(IdKind::User, &creds, &map).unwrap();
        ns.set_map(IdKind::Group, &creds, &map).unwrap();
        creds = Creds::in_new_ns(&creds, ns);
    }
    assert_eq!(UserNs::new_child(&creds).err(), Some(Errno::ENOSPC));
}

#[test]
fn a_containers_ids_are_shown_with_the_hosts() {
    let map = IdMap::new(vec![extent(0, 100_000, 65536)]).unwrap();
    let ns = UserNs::of_container(map.clone(), map.clone(), true);
    assert_eq!((ns.kuid(7), ns.kuid(65536), ns.show_uid(70_000)), (Some(7), None, OVERFLOW_ID));
    assert_eq!(ns.shown_map(IdKind::User, &ns), map.extents());
}
