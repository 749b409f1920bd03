//! Packet sockets, through which a sandbox takes over an interface (packet(7)).
//!
//! `unsafe` is for socket addresses and options that have no safe wrapper.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::answers::{DNS, PORTS};
use crate::sandbox::launch::own_fd;
use crate::util::{Context, Result};

/// What may wait to be read by the sentry, and to be sent by it: some hundred packets of full offload size.
const BUFFER: libc::c_int = 8 << 20;
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// Opens a socket for all packets of the interface, in the namespace of the calling thread. Whether each one has a
/// `virtio_net_hdr` before it, by which checksums and segmentation are left to the other side. `answers`: those of name
/// servers by TCP are for the host's stack ([`answers`](super::answers)).
pub fn open(index: u32, name: &str, answers: bool) -> Result<(OwnedFd, bool)> {
    let failed = || {
        format!(
            "cannot take over the interface {name} (a packet socket needs CAP_NET_RAW over its namespace)"
        )
    };
    open_filtered(index, (&[], answers), &failed)
}

/// The same for all interfaces but those that are `known`: those that come later.
pub fn open_rest(known: &[u32], answers: bool) -> Result<(OwnedFd, bool)> {
    open_filtered(0, (known, answers), &|| "cannot open a packet socket for interfaces to come".into())
}

fn open_filtered(
    index: u32,
    (known, answers): (&[u32], bool),
    failed: &dyn Fn() -> String,
) -> Result<(OwnedFd, bool)> {
    let protocol = 0u16;
    // SAFETY: integers only. Protocol 0 receives nothing before the socket is bound.
    let raw =
        unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol)) };
    if raw < 0 {
        return Err(io::Error::last_os_error()).context(failed);
    }
    let socket = own_fd(raw).context(failed)?;
    let offload = set(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1).is_ok();
    // Before Linux 4.20 the sentry sees what the host kernel itself sends, and takes no harm.
    let _ = set(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
    for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
    {
        if set(&socket, libc::SOL_SOCKET, forced, BUFFER).is_err() {
            set(&socket, libc::SOL_SOCKET, plain, BUFFER).context(failed)?;
        }
    }
    filter(&socket, known, answers).context(failed)?;
    // SAFETY: a structure of numbers, for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = i32::try_from(index).context(failed)?;
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: an initialised address and its length.
    let r = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if r != 0 {
        return Err(io::Error::last_os_error()).context(failed);
    }
    Ok((socket, offload))
}

/// Packets for others, of our own, of a VLAN (whose tag would not be seen) and of the interfaces `known` are none of the
/// sandbox's business here, nor are answers of name servers by TCP where the host's stack wants them.
fn filter(socket: &OwnedFd, known: &[u32], answers: bool) -> io::Result<()> {
    const LOAD: u16 = 0x20;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_HALF_BEHIND: u16 = 0x48;
    const LOAD_HEADER_LENGTH: u16 = 0xb1;
    const JUMP_IF_GREATER: u16 = 0x25;
    const JUMP_IF_ANY_OF: u16 = 0x45;
    const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ANCILLARY: u32 = 0xffff_f000;
    const NETWORK_HEADER: u32 = 0xfff0_0000;
    const PROTOCOL: u32 = 0;
    const PACKET_TYPE: u32 = 4;
    const INTERFACE: u32 = 8;
    const VLAN_TAG_PRESENT: u32 = 48;
    const PACKET_OTHERHOST: u32 = 3;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = vec![op(LOAD, 0, 0, ANCILLARY + INTERFACE)];
    for index in known {
        program.extend([op(JUMP_IF_EQUAL, 0, 1, *index), op(RETURN, 0, 0, 0)]);
    }
    program.extend([
        op(LOAD_BYTE, 0, 0, ANCILLARY + PACKET_TYPE),
        op(JUMP_IF_GREATER_OR_EQUAL, 2, 0, PACKET_OTHERHOST),
        op(LOAD_BYTE, 0, 0, ANCILLARY + VLAN_TAG_PRESENT),
        op(JUMP_IF_EQUAL, 1, 0, 0),
        op(RETURN, 0, 0, 0),
    ]);
    if answers {
        program.extend([
            op(LOAD, 0, 0, ANCILLARY + PROTOCOL),
            op(JUMP_IF_EQUAL, 0, 11, 0x0800),
            op(LOAD_BYTE, 0, 0, NETWORK_HEADER + 9),
            op(JUMP_IF_EQUAL, 0, 9, 6),
            // Not the first fragment: it has no ports.
            op(LOAD_HALF, 0, 0, NETWORK_HEADER + 6),
            op(JUMP_IF_ANY_OF, 7, 0, 0x1fff),
            op(LOAD_HEADER_LENGTH, 0, 0, NETWORK_HEADER),
            op(LOAD_HALF_BEHIND, 0, 0, NETWORK_HEADER),
            op(JUMP_IF_EQUAL, 0, 4, u32::from(DNS)),
            op(LOAD_HALF_BEHIND, 0, 0, NETWORK_HEADER + 2),
            op(JUMP_IF_GREATER_OR_EQUAL, 0, 2, u32::from(*PORTS.start())),
            op(JUMP_IF_GREATER, 1, 0, u32::from(*PORTS.end())),
            op(RETURN, 0, 0, 0),
        ]);
    }
    program.push(op(RETURN, 0, 0, u32::MAX));
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    let length = size_of_val(&program) as libc::socklen_t;
    // SAFETY: a program of the stated length, which outlives the call.
    let r = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length,
        )
    };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: an integer and its length.
    let r = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
