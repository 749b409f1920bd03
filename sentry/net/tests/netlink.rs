//! What netlink holds for guests that do not receive: the bound is the process's, so this test has one of its own.

mod support;

use chitin_abi::Errno;
use chitin_abi::netlink::*;
use chitin_abi::socket::*;
use chitin_mm::{SliceSource, VecSink};
use chitin_net::*;
use chitin_netstack::config::RouteMode;
use chitin_netstack::{Prefix, RouteEntry};
use chitin_vfs::bounds::NETLINK_BYTES;
use chitin_vfs::{Context, File};
use std::sync::Arc;
use support::*;
use zerocopy::IntoBytes;

fn dump(ctx: &Context, file: &Arc<File>, kind: u16) {
    let head = NlMsgHdr {
        nlmsg_len: 28,
        nlmsg_type: kind,
        nlmsg_flags: NLM_F_REQUEST | NLM_F_DUMP,
        ..NlMsgHdr::default()
    };
    let raw = [head.as_bytes(), &[0; 12]].concat();
    let mut source = SliceSource::new(&raw);
    let mut msg = SendMsg::new(&mut source, 0);
    msg.ctx = Some(ctx);
    assert_eq!(SocketFile::of(file).unwrap().sendmsg(&mut msg), Ok(28));
}

fn recv(file: &Arc<File>) -> Result<Vec<u8>, Errno> {
    let mut sink = VecSink { data: Vec::new(), limit: 1 << 17 };
    let mut msg = RecvMsg::new(&mut sink, MSG_DONTWAIT);
    SocketFile::of(file).unwrap().recvmsg(&mut msg)?;
    Ok(sink.data)
}

#[test]
fn dumps_that_nobody_receives_are_bounded() {
    let (ns, ctx) = (NetNs::new(true), context());
    for n in 0..2000_u32 {
        let [.., a, b] = n.to_be_bytes();
        let route = RouteEntry::new(Prefix::of([10, 9, a, b].into(), 32), 1);
        ns.stack().config.route_add(route, RouteMode::New).unwrap();
    }
    let files: Vec<_> = (0..400).map(|_| create(&ns, 16, SOCK_RAW, 0, &ctx.caller).unwrap()).collect();
    files.iter().for_each(|file| dump(&ctx, file, RTM_GETROUTE));
    assert!(NETLINK_BYTES.used() <= NETLINK_BYTES.limit());
    // Who came first has all of it; who came last is told.
    let mut received = 0;
    loop {
        let packet = recv(&files[0]).unwrap();
        received += packet.len();
        if packet.len() == 20 {
            break;
        }
    }
    assert!(received > 100_000, "{received}");
    let refused = recv(files.last().unwrap()).unwrap();
    assert_eq!(refused[16..20], (-Errno::ENOBUFS.raw()).to_ne_bytes());
    // What is small has a place in any case.
    let file = create(&ns, 16, SOCK_RAW, 0, &ctx.caller).unwrap();
    dump(&ctx, &file, RTM_GETLINK);
    assert!(recv(&file).unwrap().windows(3).any(|name| name == b"lo\0"));
    assert_eq!(recv(&file).unwrap().len(), 20);
    drop((files, file));
    assert_eq!(NETLINK_BYTES.used(), 0);
}
