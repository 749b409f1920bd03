//! `ioctl` requests, encoded as on x86_64.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use crate::termios::{Termio, Termios, Termios2, Winsize};
// Terminals.
pub const TCGETS: u32 = 0x5401;
pub const TCSETS: u32 = 0x5402;
pub const TCSETSW: u32 = 0x5403;
pub const TCSETSF: u32 = 0x5404;
pub const TCGETA: u32 = 0x5405;
pub const TCSETA: u32 = 0x5406;
pub const TCSETAW: u32 = 0x5407;
pub const TCSETAF: u32 = 0x5408;
pub const TCSBRK: u32 = 0x5409;
pub const TCXONC: u32 = 0x540a;
pub const TCFLSH: u32 = 0x540b;
pub const TCGETS2: u32 = 0x802c_542a;
pub const TCSETS2: u32 = 0x402c_542b;
pub const TCSETSW2: u32 = 0x402c_542c;
pub const TCSETSF2: u32 = 0x402c_542d;
pub const TCGETX: u32 = 0x5432;
pub const TCSETX: u32 = 0x5433;
pub const TCSETXF: u32 = 0x5434;
pub const TCSETXW: u32 = 0x5435;
pub const TCSBRKP: u32 = 0x5425;
pub const TIOCEXCL: u32 = 0x540c;
pub const TIOCNXCL: u32 = 0x540d;
pub const TIOCSCTTY: u32 = 0x540e;
pub const TIOCGPGRP: u32 = 0x540f;
pub const TIOCSPGRP: u32 = 0x5410;
pub const TIOCOUTQ: u32 = 0x5411;
pub const TIOCSTI: u32 = 0x5412;
pub const TIOCGWINSZ: u32 = 0x5413;
pub const TIOCSWINSZ: u32 = 0x5414;
pub const TIOCMGET: u32 = 0x5415;
pub const TIOCMBIS: u32 = 0x5416;
pub const TIOCMBIC: u32 = 0x5417;
pub const TIOCMSET: u32 = 0x5418;
pub const TIOCGSOFTCAR: u32 = 0x5419;
pub const TIOCSSOFTCAR: u32 = 0x541a;
pub const TIOCINQ: u32 = 0x541b;
pub const TIOCLINUX: u32 = 0x541c;
pub const TIOCCONS: u32 = 0x541d;
pub const TIOCGSERIAL: u32 = 0x541e;
pub const TIOCSSERIAL: u32 = 0x541f;
pub const TIOCPKT: u32 = 0x5420;
pub const TIOCNOTTY: u32 = 0x5422;
pub const TIOCSETD: u32 = 0x5423;
pub const TIOCGETD: u32 = 0x5424;
pub const TIOCSBRK: u32 = 0x5427;
pub const TIOCCBRK: u32 = 0x5428;
pub const TIOCGSID: u32 = 0x5429;
pub const TIOCGRS485: u32 = 0x542e;
pub const TIOCSRS485: u32 = 0x542f;
pub const TIOCGPTN: u32 = 0x8004_5430;
pub const TIOCSPTLCK: u32 = 0x4004_5431;
pub const TIOCGDEV: u32 = 0x8004_5432;
pub const TIOCSIG: u32 = 0x4004_5436;
pub const TIOCVHANGUP: u32 = 0x5437;
pub const TIOCGPKT: u32 = 0x8004_5438;
pub const TIOCGPTLCK: u32 = 0x8004_5439;
pub const TIOCGEXCL: u32 = 0x8004_5440;
pub const TIOCGPTPEER: u32 = 0x5441;
pub const TIOCSERCONFIG: u32 = 0x5453;
pub const TIOCSERGWILD: u32 = 0x5454;
pub const TIOCSERSWILD: u32 = 0x5455;
pub const TIOCGLCKTRMIOS: u32 = 0x5456;
pub const TIOCSLCKTRMIOS: u32 = 0x5457;
pub const TIOCSERGSTRUCT: u32 = 0x5458;
pub const TIOCSERGETLSR: u32 = 0x5459;
pub const TIOCSERGETMULTI: u32 = 0x545a;
pub const TIOCSERSETMULTI: u32 = 0x545b;
pub const TIOCMIWAIT: u32 = 0x545c;
pub const TIOCGICOUNT: u32 = 0x545d;
pub const TIOCGISO7816: u32 = 0x8028_5442;
pub const TIOCSISO7816: u32 = 0xc028_5443;

// Descriptors.
pub const FIONREAD: u32 = 0x541b;
pub const FIONBIO: u32 = 0x5421;
pub const FIONCLEX: u32 = 0x5450;
pub const FIOCLEX: u32 = 0x5451;
pub const FIOASYNC: u32 = 0x5452;
pub const FIOQSIZE: u32 = 0x5460;
pub const FIOSETOWN: u32 = 0x8901;
pub const FIOGETOWN: u32 = 0x8903;

// Packet mode of pseudo-terminals.
pub const TIOCPKT_DATA: u8 = 0;
pub const TIOCPKT_FLUSHREAD: u8 = 1;
pub const TIOCPKT_FLUSHWRITE: u8 = 2;
pub const TIOCPKT_STOP: u8 = 4;
pub const TIOCPKT_START: u8 = 8;
pub const TIOCPKT_NOSTOP: u8 = 16;
pub const TIOCPKT_DOSTOP: u8 = 32;
pub const TIOCPKT_IOCTL: u8 = 64;

// Modem lines.
pub const TIOCM_LE: u32 = 0x001;
pub const TIOCM_DTR: u32 = 0x002;
pub const TIOCM_RTS: u32 = 0x004;
pub const TIOCM_ST: u32 = 0x008;
pub const TIOCM_SR: u32 = 0x010;
pub const TIOCM_CTS: u32 = 0x020;
pub const TIOCM_CAR: u32 = 0x040;
pub const TIOCM_RNG: u32 = 0x080;
pub const TIOCM_DSR: u32 = 0x100;
pub const TIOCM_CD: u32 = 64;
pub const TIOCM_RI: u32 = 128;
pub const TIOCM_OUT1: u32 = 0x2000;
pub const TIOCM_OUT2: u32 = 0x4000;
pub const TIOCM_LOOP: u32 = 0x8000;

// Consoles (asked by programs that probe what their terminal is).
pub const KDGKBTYPE: u32 = 0x4b33;
pub const KDGETMODE: u32 = 0x4b3b;
pub const KDSETMODE: u32 = 0x4b3a;
pub const KDGKBMODE: u32 = 0x4b44;
pub const KDSKBMODE: u32 = 0x4b45;
pub const VT_OPENQRY: u32 = 0x5600;
pub const VT_GETMODE: u32 = 0x5601;
pub const VT_GETSTATE: u32 = 0x5603;
pub const VT_ACTIVATE: u32 = 0x5606;
pub const VT_WAITACTIVE: u32 = 0x5607;

// Sockets and interfaces.
pub const SIOCSPGRP: u32 = 0x8902;
pub const SIOCGPGRP: u32 = 0x8904;
pub const SIOCATMARK: u32 = 0x8905;
pub const SIOCINQ: u32 = 0x541b;
pub const SIOCOUTQ: u32 = 0x5411;
pub const SIOCGSTAMP: u32 = 0x8906;
pub const SIOCGSTAMPNS: u32 = 0x8907;
pub const SIOCADDRT: u32 = 0x890b;
pub const SIOCDELRT: u32 = 0x890c;
pub const SIOCRTMSG: u32 = 0x890d;
pub const SIOCGIFNAME: u32 = 0x8910;
pub const SIOCSIFLINK: u32 = 0x8911;
pub const SIOCGIFCONF: u32 = 0x8912;
pub const SIOCGIFFLAGS: u32 = 0x8913;
pub const SIOCSIFFLAGS: u32 = 0x8914;
pub const SIOCGIFADDR: u32 = 0x8915;
pub const SIOCSIFADDR: u32 = 0x8916;
pub const SIOCGIFDSTADDR: u32 = 0x8917;
pub const SIOCSIFDSTADDR: u32 = 0x8918;
pub const SIOCGIFBRDADDR: u32 = 0x8919;
pub const SIOCSIFBRDADDR: u32 = 0x891a;
pub const SIOCGIFNETMASK: u32 = 0x891b;
pub const SIOCSIFNETMASK: u32 = 0x891c;
pub const SIOCGIFMETRIC: u32 = 0x891d;
pub const SIOCSIFMETRIC: u32 = 0x891e;
pub const SIOCGIFMEM: u32 = 0x891f;
pub const SIOCSIFMEM: u32 = 0x8920;
pub const SIOCGIFMTU: u32 = 0x8921;
pub const SIOCSIFMTU: u32 = 0x8922;
pub const SIOCSIFNAME: u32 = 0x8923;
pub const SIOCSIFHWADDR: u32 = 0x8924;
pub const SIOCGIFENCAP: u32 = 0x8925;
pub const SIOCSIFENCAP: u32 = 0x8926;
pub const SIOCGIFHWADDR: u32 = 0x8927;
pub const SIOCGIFSLAVE: u32 = 0x8929;
pub const SIOCSIFSLAVE: u32 = 0x8930;
pub const SIOCADDMULTI: u32 = 0x8931;
pub const SIOCDELMULTI: u32 = 0x8932;
pub const SIOCGIFINDEX: u32 = 0x8933;
pub const SIOCSIFPFLAGS: u32 = 0x8934;
pub const SIOCGIFPFLAGS: u32 = 0x8935;
pub const SIOCDIFADDR: u32 = 0x8936;
pub const SIOCSIFHWBROADCAST: u32 = 0x8937;
pub const SIOCGIFCOUNT: u32 = 0x8938;
pub const SIOCGIFBR: u32 = 0x8940;
pub const SIOCSIFBR: u32 = 0x8941;
pub const SIOCGIFTXQLEN: u32 = 0x8942;
pub const SIOCSIFTXQLEN: u32 = 0x8943;
pub const SIOCETHTOOL: u32 = 0x8946;
pub const SIOCGMIIPHY: u32 = 0x8947;
pub const SIOCGMIIREG: u32 = 0x8948;
pub const SIOCSMIIREG: u32 = 0x8949;
pub const SIOCOUTQNSD: u32 = 0x894b;
pub const SIOCGSKNS: u32 = 0x894c;
pub const SIOCDARP: u32 = 0x8953;
pub const SIOCGARP: u32 = 0x8954;
pub const SIOCSARP: u32 = 0x8955;
pub const SIOCDRARP: u32 = 0x8960;
pub const SIOCGRARP: u32 = 0x8961;
pub const SIOCSRARP: u32 = 0x8962;
pub const SIOCGIFMAP: u32 = 0x8970;
pub const SIOCSIFMAP: u32 = 0x8971;
pub const SIOCADDDLCI: u32 = 0x8980;
pub const SIOCDELDLCI: u32 = 0x8981;
pub const SIOCGIFVLAN: u32 = 0x8982;
pub const SIOCSIFVLAN: u32 = 0x8983;
pub const SIOCSHWTSTAMP: u32 = 0x89b0;
pub const SIOCGHWTSTAMP: u32 = 0x89b1;

// Files.
pub const FS_IOC_SET_ENCRYPTION_POLICY: u32 = 0x800c_6613;
pub const FS_IOC_GET_ENCRYPTION_PWSALT: u32 = 0x4010_6614;
pub const FS_IOC_GET_ENCRYPTION_POLICY: u32 = 0x400c_6615;
pub const FS_IOC_GET_ENCRYPTION_POLICY_EX: u32 = 0xc009_6616;
pub const FS_IOC_ADD_ENCRYPTION_KEY: u32 = 0xc050_6617;
pub const FS_IOC_REMOVE_ENCRYPTION_KEY: u32 = 0xc040_6618;
pub const FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS: u32 = 0xc040_6619;
pub const FS_IOC_GET_ENCRYPTION_KEY_STATUS: u32 = 0xc080_661a;
pub const FS_IOC_GET_ENCRYPTION_NONCE: u32 = 0x8010_661b;
pub const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
pub const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
pub const FS_IOC_GETVERSION: u32 = 0x8008_7601;
pub const FS_IOC_SETVERSION: u32 = 0x4008_7602;
pub const FS_IOC_FIEMAP: u32 = 0xc020_660b;
pub const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
pub const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;
pub const FS_IOC_GETFSLABEL: u32 = 0x8100_9431;
pub const FS_IOC_SETFSLABEL: u32 = 0x4100_9432;
pub const FIBMAP: u32 = 1;
pub const FIGETBSZ: u32 = 2;
pub const FIFREEZE: u32 = 0xc004_5877;
pub const FITHAW: u32 = 0xc004_5878;
pub const FITRIM: u32 = 0xc018_5879;
pub const FICLONE: u32 = 0x4004_9409;
pub const FICLONERANGE: u32 = 0x4020_940d;
pub const FIDEDUPERANGE: u32 = 0xc018_9436;

// Block devices.
pub const BLKROSET: u32 = 0x125d;
pub const BLKROGET: u32 = 0x125e;
pub const BLKRRPART: u32 = 0x125f;
pub const BLKGETSIZE: u32 = 0x1260;
pub const BLKFLSBUF: u32 = 0x1261;
pub const BLKRASET: u32 = 0x1262;
pub const BLKRAGET: u32 = 0x1263;
pub const BLKSSZGET: u32 = 0x1268;
pub const BLKBSZGET: u32 = 0x8008_1270;
pub const BLKBSZSET: u32 = 0x4008_1271;
pub const BLKGETSIZE64: u32 = 0x8008_1272;
pub const BLKDISCARD: u32 = 0x1277;
pub const BLKIOMIN: u32 = 0x1278;
pub const BLKIOOPT: u32 = 0x1279;
pub const BLKALIGNOFF: u32 = 0x127a;
pub const BLKPBSZGET: u32 = 0x127b;
pub const BLKROTATIONAL: u32 = 0x127e;
pub const BLKZEROOUT: u32 = 0x127f;

// Random devices.
pub const RNDGETENTCNT: u32 = 0x8004_5200;
pub const RNDADDTOENTCNT: u32 = 0x4004_5201;
pub const RNDGETPOOL: u32 = 0x8008_5202;
pub const RNDADDENTROPY: u32 = 0x4008_5203;
pub const RNDZAPENTCNT: u32 = 0x5204;
pub const RNDCLEARPOOL: u32 = 0x5206;
pub const RNDRESEEDCRNG: u32 = 0x5207;

/// Argument of `FICLONERANGE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FileCloneRange {
    pub src_fd: i64,
    pub src_offset: u64,
    pub src_length: u64,
    pub dest_offset: u64,
}

/// Argument of `FS_IOC_FSGETXATTR`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Fsxattr {
    pub fsx_xflags: u32,
    pub fsx_extsize: u32,
    pub fsx_nextents: u32,
    pub fsx_projid: u32,
    pub fsx_cowextsize: u32,
    pub fsx_pad: [u8; 8],
}

/// Head of the argument of `RNDADDENTROPY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RandPoolInfo {
    pub entropy_count: i32,
    pub buf_size: i32,
}

const _IOC_SIZESHIFT: u32 = 16;
const _IOC_SIZEMASK: u32 = (1 << 14) - 1;

/// The argument's size, as encoded in requests made with `_IOR` and its kin.
pub const fn _IOC_SIZE(request: u32) -> u32 {
    request >> _IOC_SIZESHIFT & _IOC_SIZEMASK
}

// Namespace files (linux/nsfs.h).
pub const NS_GET_USERNS: u32 = 0xb701;
pub const NS_GET_PARENT: u32 = 0xb702;
pub const NS_GET_NSTYPE: u32 = 0xb703;
pub const NS_GET_OWNER_UID: u32 = 0xb704;
pub const NS_GET_PID_FROM_PIDNS: u32 = 0x8004_b706;
pub const NS_GET_TGID_FROM_PIDNS: u32 = 0x8004_b707;
pub const NS_GET_PID_IN_PIDNS: u32 = 0x8004_b708;
pub const NS_GET_TGID_IN_PIDNS: u32 = 0x8004_b709;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;

    #[test]
    fn layouts() {
        assert_eq!(size_of::<FileCloneRange>() as u32, _IOC_SIZE(FICLONERANGE));
        assert_eq!(size_of::<Fsxattr>() as u32, _IOC_SIZE(FS_IOC_FSGETXATTR));
        assert_eq!(size_of::<crate::termios::Termios2>() as u32, _IOC_SIZE(TCGETS2));
    }
}
