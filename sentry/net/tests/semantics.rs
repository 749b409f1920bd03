//! What takes more than one guest: waiting, credentials, permissions, descriptors on their way.

mod support;

use chitin_abi::Errno;
use chitin_abi::poll::{POLLIN, POLLOUT};
use chitin_abi::socket::*;
use chitin_mm::{SliceSource, VecSink};
use chitin_net::*;
use chitin_vfs::wait::ready;
use chitin_vfs::{Context, File};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Wake, Waker};
use support::*;

/// Counts wake-ups.
#[derive(Default)]
struct Bell(AtomicUsize);
impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Checks that `future` sleeps until `event` happened, was woken by it, and is done then.
fn woken_by<T>(future: impl Future<Output = T>, event: impl FnOnce()) -> T {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    let mut cx = std::task::Context::from_waker(&waker);
    let mut future = pin!(future);
    assert!(future.as_mut().poll(&mut cx).is_pending());
    let before = bell.0.load(Ordering::SeqCst);
    event();
    assert!(bell.0.load(Ordering::SeqCst) > before, "nobody was woken");
    match future.as_mut().poll(&mut cx) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("woken for nothing"),
    }
}

fn send_as(ctx: &Context, file: &Arc<File>, data: &[u8], rights: Vec<Arc<File>>) -> Result<usize, Errno> {
    let mut source = SliceSource::new(data);
    let mut msg = SendMsg::new(&mut source, 0);
    msg.ctx = Some(ctx);
    msg.control.rights = rights;
    SocketFile::of(file).unwrap().sendmsg(&mut msg)
}

fn recv(file: &Arc<File>, room: usize) -> Result<(Vec<u8>, Control), Errno> {
    let mut sink = VecSink { data: Vec::new(), limit: room };
    let mut msg = RecvMsg::new(&mut sink, MSG_DONTWAIT);
    SocketFile::of(file).unwrap().recvmsg(&mut msg)?;
    let control = std::mem::take(&mut msg.control);
    Ok((sink.data, control))
}

fn bind(ctx: &Context, file: &Arc<File>, addr: UnixAddr) -> Result<(), Errno> {
    SocketFile::of(file).unwrap().bind(ctx, &SockAddr::Unix(addr))
}

fn connect(ctx: &Context, file: &Arc<File>, addr: UnixAddr, wait_on: &mut WaitOn) -> Result<(), Errno> {
    SocketFile::of(file).unwrap().connect(ctx, &SockAddr::Unix(addr), wait_on)
}

fn abs(name: &str) -> UnixAddr {
    UnixAddr::Abstract(name.as_bytes().to_vec())
}

#[test]
fn readers_and_writers_are_woken() {
    let (ns, ctx) = (NetNs::new(true), context());
    let [a, b] = pair(&ns, &ctx, SOCK_STREAM);
    let shown = woken_by(ready(a.ops(), POLLIN), || {
        b.write(&mut SliceSource::new(b"x")).unwrap();
    });
    assert_eq!(shown, POLLIN);
    let big = vec![0; 1 << 20];
    assert!(a.write(&mut SliceSource::new(&big)).unwrap() < big.len());
    assert_eq!(a.write(&mut SliceSource::new(&big)), Err(Errno::EAGAIN));
    woken_by(ready(a.ops(), POLLOUT), || {
        assert!(recv(&b, 1 << 20).unwrap().0.len() > 200_000);
    });
    let hung = woken_by(ready(b.ops(), POLLIN), || drop(a));
    assert_eq!(hung & POLLIN, POLLIN);
}

#[test]
fn full_queues_name_what_to_wait_for() {
    let (ns, ctx) = (NetNs::new(true), context());
    let listener = socket(&ns, &ctx, SOCK_STREAM);
    bind(&ctx, &listener, abs("l")).unwrap();
    SocketFile::of(&listener).unwrap().listen(0, &ctx.caller).unwrap();
    let mut wait_on = None;
    let (first, second) = (socket(&ns, &ctx, SOCK_STREAM), socket(&ns, &ctx, SOCK_STREAM));
    connect(&ctx, &first, abs("l"), &mut wait_on).unwrap();
    assert_eq!(connect(&ctx, &second, abs("l"), &mut wait_on), Err(Errno::EAGAIN));
    woken_by(ready(&wait_on.take().unwrap(), POLLOUT), || {
        SocketFile::of(&listener).unwrap().accept(0, &ctx.caller).unwrap();
    });
    connect(&ctx, &second, abs("l"), &mut wait_on).unwrap();

    let receiver = socket(&ns, &ctx, SOCK_DGRAM);
    bind(&ctx, &receiver, abs("r")).unwrap();
    let sender = socket(&ns, &ctx, SOCK_DGRAM);
    let mut source = SliceSource::new(b"abc");
    let mut msg = SendMsg::new(&mut source, 0);
    (msg.ctx, msg.dest) = (Some(&ctx), Some(SockAddr::Unix(abs("r"))));
    for _ in 0..11 {
        assert_eq!(SocketFile::of(&sender).unwrap().sendmsg(&mut msg), Ok(3));
        msg.data.untake(3);
    }
    assert_eq!(SocketFile::of(&sender).unwrap().sendmsg(&mut msg), Err(Errno::EAGAIN));
    assert_eq!(msg.data.left(), 3);
    let wait_on = msg.wait_on.take().unwrap();
    woken_by(ready(&wait_on, POLLOUT), || assert_eq!(recv(&receiver, 9).unwrap().0, b"abc"));
    connect(&ctx, &sender, abs("r"), &mut None).unwrap();
    assert_eq!(SocketFile::of(&sender).unwrap().sendmsg(&mut msg), Ok(3));
    woken_by(ready(sender.ops(), POLLOUT), || assert_eq!(recv(&receiver, 9).unwrap().0, b"abc"));
}

#[test]
fn credentials_and_permissions() {
    let (ns, root) = (NetNs::new(true), context());
    let user = as_user(&root, 1000, 42);
    let listener = socket(&ns, &root, SOCK_STREAM);
    let path = UnixAddr::Path(b"/sock".to_vec());
    bind(&root, &listener, path.clone()).unwrap();
    SocketFile::of(&listener).unwrap().listen(1, &root.caller).unwrap();
    let client = socket(&ns, &user, SOCK_STREAM);
    // The node is 0755, root's.
    assert_eq!(connect(&user, &client, path.clone(), &mut None), Err(Errno::EACCES));
    connect(&user, &client, abs("none"), &mut None).unwrap_err();
    let other = socket(&ns, &user, SOCK_STREAM);
    assert_eq!(bind(&user, &other, UnixAddr::Path(b"/new".to_vec())), Err(Errno::EACCES));
    let name = root.walk(&root.root, b"/sock", chitin_vfs::walk::Walk::FOLLOW).unwrap();
    name.inode().set_attr(&chitin_vfs::SetAttr { perm: Some(0o777), ..Default::default() }).unwrap();
    let on = 1i32.to_ne_bytes();
    SocketFile::of(&listener).unwrap().setsockopt(SOL_SOCKET, SO_PASSCRED, &on, &root.caller).unwrap();
    connect(&user, &client, path, &mut None).unwrap();
    send_as(&user, &client, b"hi", Vec::new()).unwrap();
    let server = SocketFile::of(&listener).unwrap().accept(0, &root.caller).unwrap();
    let peer = |file: &Arc<File>| SocketFile::of(file).unwrap().ops().peer_cred().unwrap();
    assert_eq!(peer(&server).ucred, Ucred { pid: 42, uid: 1000, gid: 1000 });
    assert_eq!(peer(&server).groups, [1000, 77]);
    assert_eq!(peer(&client).ucred, Ucred { pid: 10, uid: 0, gid: 0 });
    // SO_PASSCRED came along.
    let (data, control) = recv(&server, 9).unwrap();
    assert_eq!((&*data, control.creds), (&b"hi"[..], Some(Ucred { pid: 42, uid: 1000, gid: 1000 })));
    // Bytes of two senders are not mixed.
    send_as(&user, &client, b"1", Vec::new()).unwrap();
    send_as(&root, &client, b"2", Vec::new()).unwrap();
    assert_eq!(recv(&server, 9).unwrap().0, b"1");
    assert_eq!(recv(&server, 9).unwrap().1.creds.unwrap().uid, 0);
    let groups = SocketFile::of(&server).unwrap().getsockopt(SOL_SOCKET, SO_PEERGROUPS, 4).unwrap();
    assert_eq!(groups, OptValue::Needs(8));
    assert_eq!(
        SocketFile::of(&client).unwrap().setsockopt(SOL_SOCKET, SO_SNDBUFFORCE, &on, &user.caller),
        Err(Errno::EPERM)
    );
    let text = String::from_utf8(unix::proc_net_unix(&ns)).unwrap();
    assert!(text.lines().any(|line| line.contains("00010000 0001 01") && line.ends_with(" /sock")), "{text}");
}

#[test]
fn namespaces_are_apart() {
    let (ns, other, ctx) = (NetNs::new(true), NetNs::new(true), context());
    let (a, b) = (socket(&ns, &ctx, SOCK_DGRAM), socket(&other, &ctx, SOCK_DGRAM));
    bind(&ctx, &a, abs("n")).unwrap();
    assert_eq!(connect(&ctx, &b, abs("n"), &mut None), Err(Errno::ECONNREFUSED));
    bind(&ctx, &b, abs("n")).unwrap();
}

/// Descriptors on their way are counted for the whole process, so these run in one test.
#[test]
fn descriptors_on_their_way() {
    let (ns, ctx) = (NetNs::new(true), context());
    let user = as_user(&ctx, 1000, 42);
    // A cycle of two that nobody can reach goes away, and so does what it holds.
    let [a, b] = pair(&ns, &ctx, SOCK_STREAM);
    let [plain, held] = pair(&ns, &ctx, SOCK_STREAM);
    let gone = [weak(&a), weak(&b), weak(&held)];
    send_as(&ctx, &a, b"x", vec![a.clone(), held]).unwrap();
    send_as(&ctx, &b, b"x", vec![b.clone()]).unwrap();
    drop(a);
    assert!(gone[0].upgrade().is_some());
    drop(b);
    // Another test may be looking at the same moment: then the next end of a socket looks again.
    for _ in 0..1000 {
        drop(pair(&ns, &ctx, SOCK_STREAM));
        if gone.iter().all(|file| file.upgrade().is_none()) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(gone.iter().all(|file| file.upgrade().is_none()));
    assert_eq!(unix::in_flight(), 0);
    assert_eq!(recv(&plain, 1).unwrap().0, b"");

    // One that can still be received stays: c holds d holds d.
    let [c, receiver] = pair(&ns, &ctx, SOCK_DGRAM);
    let [d, d2] = pair(&ns, &ctx, SOCK_DGRAM);
    send_as(&ctx, &d2, b"self", vec![d.clone()]).unwrap();
    send_as(&ctx, &c, b"d", vec![d]).unwrap();
    for _ in 0..10 {
        drop(pair(&ns, &ctx, SOCK_STREAM));
    }
    let mut got = recv(&receiver, 9).unwrap().1.rights;
    let d = got.pop().unwrap();
    let (data, control) = recv(&d, 9).unwrap();
    assert_eq!((&*data, control.rights.len()), (&b"self"[..], 1));
    drop((d, control, d2));
    assert_eq!(unix::in_flight(), 0);

    // A connection nobody accepted holds its listener.
    let listener = socket(&ns, &ctx, SOCK_STREAM);
    bind(&ctx, &listener, abs("gc")).unwrap();
    SocketFile::of(&listener).unwrap().listen(1, &ctx.caller).unwrap();
    let client = socket(&ns, &ctx, SOCK_STREAM);
    connect(&ctx, &client, abs("gc"), &mut None).unwrap();
    send_as(&ctx, &client, b"x", vec![listener.clone()]).unwrap();
    let lost = weak(&listener);
    drop(listener);
    for _ in 0..2 {
        drop(pair(&ns, &ctx, SOCK_STREAM));
    }
    assert!(lost.upgrade().is_none());
    assert_eq!(recv(&client, 9).err(), Some(Errno::ECONNRESET));
    assert_eq!(unix::in_flight(), 0);

    // A chain as long as can be does not use up the stack.
    let mut chain = pair(&ns, &ctx, SOCK_STREAM);
    for _ in 0..50_000 {
        let next = pair(&ns, &ctx, SOCK_STREAM);
        send_as(&ctx, &next[0], b"x", chain.to_vec()).unwrap_or_default();
        chain = next;
        if unix::in_flight() > 60_000 {
            break;
        }
    }
    assert!(unix::in_flight() > 60_000);
    drop(chain);
    assert_eq!(unix::in_flight(), 0);

    // Too many for a user.
    let [e, f] = pair(&ns, &ctx, SOCK_STREAM);
    let mut source = SliceSource::new(b"abcdef");
    let mut results = Vec::new();
    for _ in 0..5 {
        let mut one = SendMsg::new(&mut source, 0);
        (one.ctx, one.rights_limit) = (Some(&user), 3);
        one.control.rights = vec![plain.clone(), plain.clone()];
        results.push(SocketFile::of(&e).unwrap().sendmsg(&mut one));
        one.data.untake(6);
    }
    assert_eq!(results[..3], [Ok(6), Ok(6), Err(Errno::ETOOMANYREFS)]);
    drop(f);
    assert_eq!(unix::in_flight(), 0);
}
