//! Terminal settings: `termios`, `winsize`, mode flags and control characters.

use crate::num::low8;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

// Indices of control characters.
pub const VINTR: usize = 0;
pub const VQUIT: usize = 1;
pub const VERASE: usize = 2;
pub const VKILL: usize = 3;
pub const VEOF: usize = 4;
pub const VTIME: usize = 5;
pub const VMIN: usize = 6;
pub const VSWTC: usize = 7;
pub const VSTART: usize = 8;
pub const VSTOP: usize = 9;
pub const VSUSP: usize = 10;
pub const VEOL: usize = 11;
pub const VREPRINT: usize = 12;
pub const VDISCARD: usize = 13;
pub const VWERASE: usize = 14;
pub const VLNEXT: usize = 15;
pub const VEOL2: usize = 16;
pub const NCCS: usize = 19;

// Input modes.
pub const IGNBRK: u32 = 0x001;
pub const BRKINT: u32 = 0x002;
pub const IGNPAR: u32 = 0x004;
pub const PARMRK: u32 = 0x008;
pub const INPCK: u32 = 0x010;
pub const ISTRIP: u32 = 0x020;
pub const INLCR: u32 = 0x040;
pub const IGNCR: u32 = 0x080;
pub const ICRNL: u32 = 0x100;
pub const IUCLC: u32 = 0x0200;
pub const IXON: u32 = 0x0400;
pub const IXANY: u32 = 0x800;
pub const IXOFF: u32 = 0x1000;
pub const IMAXBEL: u32 = 0x2000;
pub const IUTF8: u32 = 0x4000;

// Output modes.
pub const OPOST: u32 = 0x01;
pub const OLCUC: u32 = 0x0000_0002;
pub const ONLCR: u32 = 0x0000_0004;
pub const OCRNL: u32 = 0x08;
pub const ONOCR: u32 = 0x10;
pub const ONLRET: u32 = 0x20;
pub const OFILL: u32 = 0x40;
pub const OFDEL: u32 = 0x80;
pub const NLDLY: u32 = 0x0000_0100;
pub const NL0: u32 = 0x0000_0000;
pub const NL1: u32 = 0x0000_0100;
pub const CRDLY: u32 = 0x0000_0600;
pub const CR0: u32 = 0x0000_0000;
pub const CR1: u32 = 0x0000_0200;
pub const CR2: u32 = 0x0000_0400;
pub const CR3: u32 = 0x0000_0600;
pub const TABDLY: u32 = 0x0000_1800;
pub const TAB0: u32 = 0x0000_0000;
pub const TAB1: u32 = 0x0000_0800;
pub const TAB2: u32 = 0x0000_1000;
pub const TAB3: u32 = 0x0000_1800;
pub const XTABS: u32 = 0x0000_1800;
pub const BSDLY: u32 = 0x0000_2000;
pub const BS0: u32 = 0x0000_0000;
pub const BS1: u32 = 0x0000_2000;
pub const VTDLY: u32 = 0x0000_4000;
pub const VT0: u32 = 0x0000_0000;
pub const VT1: u32 = 0x0000_4000;
pub const FFDLY: u32 = 0x0000_8000;
pub const FF0: u32 = 0x0000_0000;
pub const FF1: u32 = 0x0000_8000;

// Control modes.
pub const CBAUD: u32 = 0x0000_100f;
pub const B0: u32 = 0x0000_0000;
pub const B50: u32 = 0x0000_0001;
pub const B75: u32 = 0x0000_0002;
pub const B110: u32 = 0x0000_0003;
pub const B134: u32 = 0x0000_0004;
pub const B150: u32 = 0x0000_0005;
pub const B200: u32 = 0x0000_0006;
pub const B300: u32 = 0x0000_0007;
pub const B600: u32 = 0x0000_0008;
pub const B1200: u32 = 0x0000_0009;
pub const B1800: u32 = 0x0000_000a;
pub const B2400: u32 = 0x0000_000b;
pub const B4800: u32 = 0x0000_000c;
pub const B9600: u32 = 0x0000_000d;
pub const B19200: u32 = 0x0000_000e;
pub const B38400: u32 = 0x0000_000f;
pub const B57600: u32 = 0x0000_1001;
pub const B115200: u32 = 0x0000_1002;
pub const B230400: u32 = 0x0000_1003;
pub const B460800: u32 = 0x0000_1004;
pub const B500000: u32 = 0x0000_1005;
pub const B576000: u32 = 0x0000_1006;
pub const B921600: u32 = 0x0000_1007;
pub const B1000000: u32 = 0x0000_1008;
pub const B1152000: u32 = 0x0000_1009;
pub const B1500000: u32 = 0x0000_100a;
pub const B2000000: u32 = 0x0000_100b;
pub const B2500000: u32 = 0x0000_100c;
pub const B3000000: u32 = 0x0000_100d;
pub const B3500000: u32 = 0x0000_100e;
pub const B4000000: u32 = 0x0000_100f;
pub const CSIZE: u32 = 0x0000_0030;
pub const CS5: u32 = 0x0000_0000;
pub const CS6: u32 = 0x0000_0010;
pub const CS7: u32 = 0x0000_0020;
pub const CS8: u32 = 0x0000_0030;
pub const CSTOPB: u32 = 0x0000_0040;
pub const CREAD: u32 = 0x0000_0080;
pub const PARENB: u32 = 0x0000_0100;
pub const PARODD: u32 = 0x0000_0200;
pub const HUPCL: u32 = 0x0000_0400;
pub const CLOCAL: u32 = 0x0000_0800;
pub const CBAUDEX: u32 = 0x0000_1000;
pub const BOTHER: u32 = 0x0000_1000;
pub const CIBAUD: u32 = 0x100f_0000;
pub const CMSPAR: u32 = 0x4000_0000;
pub const CRTSCTS: u32 = 0x8000_0000;
pub const IBSHIFT: u32 = 16;

// Local modes.
pub const ISIG: u32 = 0x0000_0001;
pub const ICANON: u32 = 0x0000_0002;
pub const XCASE: u32 = 0x0000_0004;
pub const ECHO: u32 = 0x0000_0008;
pub const ECHOE: u32 = 0x0000_0010;
pub const ECHOK: u32 = 0x0000_0020;
pub const ECHONL: u32 = 0x0000_0040;
pub const NOFLSH: u32 = 0x0000_0080;
pub const TOSTOP: u32 = 0x0000_0100;
pub const ECHOCTL: u32 = 0x0000_0200;
pub const ECHOPRT: u32 = 0x0000_0400;
pub const ECHOKE: u32 = 0x0000_0800;
pub const FLUSHO: u32 = 0x0000_1000;
pub const PENDIN: u32 = 0x0000_4000;
pub const IEXTEN: u32 = 0x0000_8000;
pub const EXTPROC: u32 = 0x0001_0000;

// `tcflow`, `tcflush`, `tcsetattr`.
pub const TCOOFF: u32 = 0;
pub const TCOON: u32 = 1;
pub const TCIOFF: u32 = 2;
pub const TCION: u32 = 3;
pub const TCIFLUSH: u32 = 0;
pub const TCOFLUSH: u32 = 1;
pub const TCIOFLUSH: u32 = 2;
pub const TCSANOW: u32 = 0;
pub const TCSADRAIN: u32 = 1;
pub const TCSAFLUSH: u32 = 2;

// Line disciplines.
pub const N_TTY: u32 = 0;

/// `struct termios` of the kernel (`TCGETS`), smaller than the C library's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, PartialEq, Eq)]
pub struct Termios {
    pub c_iflag: u32,
    pub c_oflag: u32,
    pub c_cflag: u32,
    pub c_lflag: u32,
    pub c_line: u8,
    pub c_cc: [u8; NCCS],
}

/// `struct termios2` (`TCGETS2`), with speeds as numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, PartialEq, Eq)]
pub struct Termios2 {
    pub c_iflag: u32,
    pub c_oflag: u32,
    pub c_cflag: u32,
    pub c_lflag: u32,
    pub c_line: u8,
    pub c_cc: [u8; NCCS],
    pub c_ispeed: u32,
    pub c_ospeed: u32,
}

/// `struct termio` (`TCGETA`), the oldest form.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Termio {
    pub c_iflag: u16,
    pub c_oflag: u16,
    pub c_cflag: u16,
    pub c_lflag: u16,
    pub c_line: u8,
    pub c_cc: [u8; 8],
    pub _pad0: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, PartialEq, Eq)]
pub struct Winsize {
    pub ws_row: u16,
    pub ws_col: u16,
    pub ws_xpixel: u16,
    pub ws_ypixel: u16,
}

/// The control characters of a new terminal (`INIT_C_CC`).
pub const INIT_C_CC: [u8; NCCS] = {
    let mut cc = [0; NCCS];
    cc[VINTR] = 0o003;
    cc[VQUIT] = 0o034;
    cc[VERASE] = 0o177;
    cc[VKILL] = 0o025;
    cc[VEOF] = 0o004;
    cc[VSTART] = 0o021;
    cc[VSTOP] = 0o023;
    cc[VSUSP] = 0o032;
    cc[VREPRINT] = 0o022;
    cc[VDISCARD] = 0o017;
    cc[VWERASE] = 0o027;
    cc[VLNEXT] = 0o026;
    cc[VMIN] = 1;
    cc
};

impl Termios {
    /// The settings of a new terminal (`tty_std_termios`).
    pub const STD: Termios = Termios {
        c_iflag: ICRNL | IXON,
        c_oflag: OPOST | ONLCR,
        c_cflag: B38400 | CS8 | CREAD | HUPCL,
        c_lflag: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
        c_line: low8(N_TTY),
        c_cc: INIT_C_CC,
    };

    /// The settings of the slave of a new pseudo-terminal.
    pub const PTY_SLAVE: Termios = Termios { c_cflag: B38400 | CS8 | CREAD, ..Termios::STD };

    /// The settings of the master of a new pseudo-terminal: everything passes.
    pub const PTY_MASTER: Termios =
        Termios { c_iflag: 0, c_oflag: 0, c_cflag: B38400 | CS8 | CREAD, c_lflag: 0, ..Termios::STD };
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn layouts() {
        assert_eq!(size_of::<Termios>(), 36);
        assert_eq!(offset_of!(Termios, c_cc), 17);
        assert_eq!(size_of::<Termios2>(), size_of::<libc::termios2>());
        assert_eq!(offset_of!(Termios2, c_ispeed), offset_of!(libc::termios2, c_ispeed));
        assert_eq!(size_of::<Termio>(), 18);
        assert_eq!(size_of::<Winsize>(), size_of::<libc::winsize>());
    }
}
