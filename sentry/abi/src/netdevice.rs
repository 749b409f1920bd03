//! Network interfaces: `ifreq`, interface flags, ARP hardware types.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

// Interface flags.
pub const IFF_UP: u32 = 1 << 0;
pub const IFF_BROADCAST: u32 = 1 << 1;
pub const IFF_DEBUG: u32 = 1 << 2;
pub const IFF_LOOPBACK: u32 = 1 << 3;
pub const IFF_POINTOPOINT: u32 = 1 << 4;
pub const IFF_NOTRAILERS: u32 = 1 << 5;
pub const IFF_RUNNING: u32 = 1 << 6;
pub const IFF_NOARP: u32 = 1 << 7;
pub const IFF_PROMISC: u32 = 1 << 8;
pub const IFF_ALLMULTI: u32 = 1 << 9;
pub const IFF_MASTER: u32 = 1 << 10;
pub const IFF_SLAVE: u32 = 1 << 11;
pub const IFF_MULTICAST: u32 = 1 << 12;
pub const IFF_PORTSEL: u32 = 1 << 13;
pub const IFF_AUTOMEDIA: u32 = 1 << 14;
pub const IFF_DYNAMIC: u32 = 1 << 15;
pub const IFF_LOWER_UP: u32 = 1 << 16;
pub const IFF_DORMANT: u32 = 1 << 17;
pub const IFF_ECHO: u32 = 1 << 18;
pub const IFF_VOLATILE: u32 = 0x0007_0c5a;

// Operational states.
pub const IF_OPER_UNKNOWN: u8 = 0;
pub const IF_OPER_NOTPRESENT: u8 = 1;
pub const IF_OPER_DOWN: u8 = 2;
pub const IF_OPER_LOWERLAYERDOWN: u8 = 3;
pub const IF_OPER_TESTING: u8 = 4;
pub const IF_OPER_DORMANT: u8 = 5;
pub const IF_OPER_UP: u8 = 6;

// Hardware types.
pub const ARPHRD_NETROM: u16 = 0;
pub const ARPHRD_ETHER: u16 = 1;
pub const ARPHRD_PPP: u16 = 512;
pub const ARPHRD_TUNNEL: u16 = 768;
pub const ARPHRD_TUNNEL6: u16 = 769;
pub const ARPHRD_LOOPBACK: u16 = 772;
pub const ARPHRD_SIT: u16 = 776;
pub const ARPHRD_NONE: u16 = 0xfffe;
pub const ARPHRD_VOID: u16 = 0xffff;

// Ethernet protocols.
pub const ETH_P_ALL: u16 = 0x0003;
pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_ARP: u16 = 0x0806;
pub const ETH_P_IPV6: u16 = 0x86dd;
pub const ETH_P_8021Q: u16 = 0x8100;
pub const ETH_P_LOOP: u16 = 0x0060;

// Sizes.
pub const IFNAMSIZ: usize = 16;
pub const ETH_ALEN: usize = 6;
pub const ETH_HLEN: usize = 14;
pub const ETH_DATA_LEN: usize = 1500;

/// `struct ifreq`: an interface name and a union of 24 bytes whose meaning the request says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ifreq {
    pub ifr_name: [u8; IFNAMSIZ],
    pub ifr_ifru: [u8; 24],
}

/// Argument of `SIOCGIFCONF`; the buffer is a guest address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ifconf {
    pub ifc_len: i32,
    pub _pad0: u32,
    pub ifc_buf: u64,
}

/// Argument of `SIOCADDRT` and `SIOCDELRT` of IPv4 (`struct rtentry`); addresses are `struct sockaddr`, the device's name is
/// at a guest address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RtEntry {
    pub rt_pad1: u64,
    pub rt_dst: [u8; 16],
    pub rt_gateway: [u8; 16],
    pub rt_genmask: [u8; 16],
    pub rt_flags: u16,
    pub rt_pad2: u16,
    pub _pad0: u32,
    pub rt_pad3: u64,
    pub rt_pad4: u64,
    pub rt_metric: i16,
    pub _pad1: [u16; 3],
    pub rt_dev: u64,
    pub rt_mtu: u64,
    pub rt_window: u64,
    pub rt_irtt: u16,
    pub _pad2: [u16; 3],
}

/// The same of IPv6 (`struct in6_rtmsg`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct In6Rtmsg {
    pub rtmsg_dst: [u8; 16],
    pub rtmsg_src: [u8; 16],
    pub rtmsg_gateway: [u8; 16],
    pub rtmsg_type: u32,
    pub rtmsg_dst_len: u16,
    pub rtmsg_src_len: u16,
    pub rtmsg_metric: u32,
    pub _pad0: u32,
    pub rtmsg_info: u64,
    pub rtmsg_flags: u32,
    pub rtmsg_ifindex: i32,
}

/// Argument of `SIOCSIFADDR` and `SIOCDIFADDR` of IPv6 (`struct in6_ifreq`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct In6Ifreq {
    pub ifr6_addr: [u8; 16],
    pub ifr6_prefixlen: u32,
    pub ifr6_ifindex: i32,
}

/// Argument of `SIOCSARP`, `SIOCGARP` and `SIOCDARP` (`struct arpreq`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ArpReq {
    pub arp_pa: [u8; 16],
    pub arp_ha_family: u16,
    pub arp_ha: [u8; 14],
    pub arp_flags: u32,
    pub arp_netmask: [u8; 16],
    pub arp_dev: [u8; IFNAMSIZ],
}

// Flags of a route in `rtentry` and `in6_rtmsg`.
pub const RTF_UP: u32 = 0x1;
pub const RTF_GATEWAY: u32 = 0x2;
pub const RTF_HOST: u32 = 0x4;
pub const RTF_MTU: u32 = 0x40;
pub const RTF_REJECT: u32 = 0x200;

// Flags of an entry in `arpreq`.
pub const ATF_COM: u32 = 0x02;
pub const ATF_PERM: u32 = 0x04;
pub const ATF_PUBL: u32 = 0x08;
pub const ATF_NETMASK: u32 = 0x20;
pub const ATF_DONTPUB: u32 = 0x40;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn layouts() {
        assert_eq!(size_of::<Ifreq>(), size_of::<libc::ifreq>());
        assert_eq!(size_of::<Ifconf>(), 16);
        // libc knows it of other C libraries only.
        assert_eq!(size_of::<RtEntry>(), 120);
        assert_eq!(
            [offset_of!(RtEntry, rt_flags), offset_of!(RtEntry, rt_metric), offset_of!(RtEntry, rt_dev)],
            [56, 80, 88]
        );
        assert_eq!(size_of::<In6Rtmsg>(), size_of::<libc::in6_rtmsg>());
        assert_eq!(offset_of!(In6Rtmsg, rtmsg_ifindex), 76);
        assert_eq!(size_of::<In6Ifreq>(), 24);
        assert_eq!(size_of::<ArpReq>(), size_of::<libc::arpreq>());
        assert_eq!(offset_of!(ArpReq, arp_dev), offset_of!(libc::arpreq, arp_dev));
        let flags = [libc::ATF_COM, libc::ATF_PERM, libc::ATF_PUBL, libc::ATF_NETMASK, libc::ATF_DONTPUB];
        let ours = [ATF_COM, ATF_PERM, ATF_PUBL, ATF_NETMASK, ATF_DONTPUB];
        assert_eq!(flags.map(|flag| flag as u32), ours);
    }
}
