//! The table by itself; descriptors are of /dev/null.

use super::*;

fn fd() -> Arc<OwnedFd> {
    Arc::new(std::fs::File::open("/dev/null").unwrap().into())
}

fn identity(ino: u64) -> Identity {
    Identity { dev: 1, ino, kind: libc::S_IFDIR }
}

fn tree(nodes: usize, open: usize) -> (Tree, Key) {
    let mut tree = Tree::new(nodes, open);
    let root =
        tree.add_root(0, &Attr { dev: 1, ino: 1, mode: libc::S_IFDIR, ..Attr::default() }, fd()).unwrap();
    tree.reference(root).unwrap();
    (tree, root)
}

fn add(tree: &mut Tree, parent: Key, name: &str, ino: u64) -> Key {
    tree.add(parent, name.as_bytes(), identity(ino), Some(fd())).unwrap().0
}

fn route(tree: &Tree, key: Key) -> Result<Vec<String>, Errno> {
    let route = tree.route(key)?;
    Ok(route.down.iter().map(|(_, name, _)| String::from_utf8_lossy(name).into_owned()).collect())
}

#[test]
fn an_id_dies_with_its_last_reference_and_never_comes_back() {
    let (mut tree, root) = tree(10, 8);
    let a = add(&mut tree, root, "a", 2);
    assert_eq!(add(&mut tree, root, "a", 2), a);
    let mut closed = Vec::new();
    tree.close(a, &mut closed);
    assert!(tree.get(a).is_ok());
    tree.close(a, &mut closed);
    assert_eq!(tree.get(a).unwrap_err(), Errno::EBADF);
    assert_eq!(closed.len(), 1);
    tree.close(a, &mut closed);
    let b = add(&mut tree, root, "b", 3);
    assert_ne!(a.id(), b.id());
    assert!(tree.get(a).is_err());
    assert_eq!(tree.len(), 2);
}

#[test]
fn parents_live_as_long_as_their_children_but_are_not_the_clients() {
    let (mut tree, root) = tree(10, 8);
    let a = add(&mut tree, root, "a", 2);
    let b = add(&mut tree, a, "b", 3);
    let mut closed = Vec::new();
    tree.close(a, &mut closed);
    assert_eq!(tree.get(a).unwrap_err(), Errno::EBADF);
    assert_eq!(tree.len(), 3);
    tree.close(b, &mut closed);
    assert_eq!(tree.len(), 1);
    assert_eq!(closed.len(), 2);
}

#[test]
fn a_deep_chain_is_freed_without_recursion() {
    let (mut tree, root) = tree(300_000, 8);
    let mut closed = Vec::new();
    let mut at = root;
    for ino in 2..250_000 {
        let next = tree.add(at, b"d", identity(ino), None).unwrap().0;
        if at != root {
            tree.close(at, &mut closed);
        }
        at = next;
    }
    assert_eq!(tree.route(at).unwrap().down.len(), 249_998);
    tree.close(at, &mut closed);
    assert_eq!(tree.len(), 1);
}

#[test]
fn the_number_of_nodes_is_bounded() {
    let (mut tree, root) = tree(3, 8);
    add(&mut tree, root, "a", 2);
    add(&mut tree, root, "b", 3);
    assert_eq!(tree.add(root, b"c", identity(4), None).unwrap_err(), Errno::ENFILE);
    // A file that is known already takes no room.
    add(&mut tree, root, "b", 3);
}

#[test]
fn descriptors_are_evicted_by_last_use_and_found_again() {
    let (mut tree, root) = tree(100, 4); // 3 named, 1 detached
    let keys: Vec<_> = (0..3).map(|i| add(&mut tree, root, &format!("f{i}"), 10 + i)).collect();
    assert!(tree.get(keys[0]).unwrap().fd.is_some());
    add(&mut tree, root, "f3", 13);
    assert_eq!(tree.open(), 3);
    assert!(tree.get(keys[1]).unwrap().fd.is_none(), "the least recently used one goes");
    assert!(tree.get(keys[0]).unwrap().fd.is_some());
    assert_eq!(route(&tree, keys[1]).unwrap(), ["f1"]);
    assert_eq!(tree.shrink(100).len(), 3);
    assert_eq!(tree.open(), 0);
}

#[test]
fn renames_move_nodes_and_what_is_below_them() {
    let (mut tree, root) = tree(100, 16);
    let a = add(&mut tree, root, "a", 2);
    let x = add(&mut tree, a, "x", 3);
    let b = add(&mut tree, root, "b", 4);
    let gone = add(&mut tree, b, "y", 5);
    tree.renamed(root, b"a", b, b"y", false);
    tree.shrink(3);
    assert_eq!(route(&tree, x).unwrap(), ["b", "y", "x"]);
    assert_eq!(tree.child(b, b"y").unwrap().0, a);
    assert!(tree.child(root, b"a").is_none());
    // What was overwritten works while its descriptor is kept.
    assert!(route(&tree, gone).is_ok());
    tree.shrink(1);
    assert_eq!(route(&tree, gone).unwrap_err(), Errno::ESTALE);
    tree.renamed(b, b"y", root, b"b", true);
    assert_eq!(route(&tree, x).unwrap(), ["b", "x"]);
}

#[test]
fn an_exchange_swaps_places() {
    let (mut tree, root) = tree(100, 16);
    let a = add(&mut tree, root, "a", 2);
    let b = add(&mut tree, root, "b", 3);
    tree.renamed(root, b"a", root, b"b", true);
    assert_eq!((tree.child(root, b"a").unwrap().0, tree.child(root, b"b").unwrap().0), (b, a));
}

#[test]
fn a_rename_that_would_make_a_cycle_detaches_instead() {
    let (mut tree, root) = tree(100, 16);
    let a = add(&mut tree, root, "a", 2);
    let b = add(&mut tree, a, "b", 3);
    tree.renamed(root, b"a", b, b"a", false);
    tree.shrink(100);
    assert_eq!(route(&tree, a).unwrap_err(), Errno::ESTALE);
    assert_eq!(route(&tree, b).unwrap_err(), Errno::ESTALE);
}

#[test]
fn two_names_of_one_file_stay_where_they_are() {
    let (mut tree, root) = tree(100, 16);
    let a = add(&mut tree, root, "a", 2);
    let b = add(&mut tree, root, "b", 2);
    tree.renamed(root, b"a", root, b"b", false);
    assert_eq!((tree.child(root, b"a").unwrap().0, tree.child(root, b"b").unwrap().0), (a, b));
}

#[test]
fn random_operations_keep_the_structure_sound() {
    let (mut tree, root) = tree(64, 12);
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut random = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let mut held = vec![root];
    let mut closed = Vec::new();
    for _ in 0..20_000 {
        let pick = held[random(held.len() as u64) as usize];
        let other = held[random(held.len() as u64) as usize];
        let (name, name2) = ([b'a' + random(4) as u8], [b'a' + random(4) as u8]);
        match random(8) {
            0..=2 => {
                if let Ok((key, _)) = tree.add(pick, &name, identity(random(40)), Some(fd())) {
                    held.push(key);
                }
            }
            3 | 4 if held.len() > 1 => {
                let at = 1 + random(held.len() as u64 - 1) as usize;
                let key = held.swap_remove(at);
                tree.close(key, &mut closed);
            }
            5 => drop(tree.renamed(pick, &name, other, &name2, random(2) == 0)),
            6 => {
                let was = tree.child(pick, &name).map(|(key, _)| key);
                drop(tree.removed(pick, &name, was));
            }
            _ => drop((tree.get(pick), tree.route(pick))),
        }
        closed.clear();
        let open = tree.nodes.iter().filter(|n| n.fd.is_some() && n.place != Place::Root).count();
        assert_eq!(tree.open(), open);
        assert!(open <= 12 && tree.len() <= 64);
    }
    for key in held.drain(1..) {
        tree.close(key, &mut closed);
    }
    assert_eq!((tree.len(), tree.open()), (1, 0), "everything is freed when all is closed");
    assert!(tree.index.is_empty());
}
