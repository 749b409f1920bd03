//! /sys/class/net and /sys/devices/virtual/net: the interfaces of the namespace that sysfs was mounted from, as they are.
//!
//! Inodes are made at each look-up and know the interface by its index. A sysfs does not keep its namespace.

use crate::node::{self, booted};
use chitin_abi::Errno;
use chitin_abi::netdevice::{IF_OPER_DOWN, IF_OPER_UP, IFF_DORMANT, IFF_LOWER_UP, IFF_RUNNING, IFF_UP};
use chitin_kernel::Kernel;
use chitin_kernel::inspect::{NetLink, ProcNet};
use chitin_kernel::ns::NetNs;
use chitin_vfs::{
    Attr, Caller, DirEntry, DirSink, Directory, FileKind, FileOps, Inode, InodeState, LinkTarget, SetAttr,
};
use std::sync::{Arc, Weak};

/// What the text of a file is made of.
type Show = fn(&NetLink) -> Result<String, Errno>;

/// The files of an interface.
const FILES: [(&str, Show); 20] = [
    ("addr_assign_type", |_| line(0)),
    ("addr_len", |_| line(6)),
    ("address", |link| line(colons(&link.address))),
    ("broadcast", |link| line(colons(&link.broadcast))),
    ("carrier", |link| if link.flags & IFF_UP == 0 { Err(Errno::EINVAL) } else { line(1) }),
    ("dev_id", |_| line("0x0")),
    ("dev_port", |_| line(0)),
    ("dormant", |link| if link.flags & IFF_UP == 0 { Err(Errno::EINVAL) } else { line(0) }),
    ("flags", |link| line(format!("0x{:x}", link.flags & !DERIVED))),
    ("ifalias", |_| Ok(String::new())),
    ("ifindex", |link| line(link.index)),
    ("iflink", |link| line(link.peer)),
    ("link_mode", |_| line(0)),
    ("mtu", |link| line(link.mtu)),
    ("netdev_group", |link| line(link.group)),
    ("operstate", |link| line(state(link.state))),
    ("proto_down", |_| line(0)),
    ("tx_queue_len", |link| line(link.tx_queue_len)),
    ("type", |link| line(link.kind)),
    ("uevent", |link| Ok(format!("INTERFACE={}\nIFINDEX={}\n", link.name, link.index))),
];
/// What ioctl and rtnetlink tell beside a device's own flags (dev_get_flags()).
const DERIVED: u32 = IFF_RUNNING | IFF_LOWER_UP | IFF_DORMANT;
const STATISTICS: [&str; 24] = [
    "collisions",
    "multicast",
    "rx_bytes",
    "rx_compressed",
    "rx_crc_errors",
    "rx_dropped",
    "rx_errors",
    "rx_fifo_errors",
    "rx_frame_errors",
    "rx_length_errors",
    "rx_missed_errors",
    "rx_nohandler",
    "rx_over_errors",
    "rx_packets",
    "tx_aborted_errors",
    "tx_bytes",
    "tx_carrier_errors",
    "tx_compressed",
    "tx_dropped",
    "tx_errors",
    "tx_fifo_errors",
    "tx_heartbeat_errors",
    "tx_packets",
    "tx_window_errors",
];
const SUBSYSTEM: &str = "subsystem";
const COUNTERS: &str = "statistics";
/// Inode numbers: beyond those of everything else, so many for each interface.
const FIRST_INO: u64 = 1 << 32;
const PER_LINK: u64 = 64;

fn line(value: impl ToString) -> Result<String, Errno> {
    Ok(format!("{}\n", value.to_string()))
}

fn colons(address: &[u8]) -> String {
    let bytes: Vec<String> = address.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

fn state(operational: u8) -> &'static str {
    match operational {
        IF_OPER_UP => "up",
        IF_OPER_DOWN => "down",
        _ => "unknown",
    }
}

/// What all inodes of a sysfs share.
struct Shared {
    kernel: Arc<Kernel>,
    net: Weak<NetNs>,
    dev: u64,
    booted: u64,
}

impl Shared {
    fn links(&self) -> Vec<NetLink> {
        let files = self.kernel.extension::<ProcNet>();
        self.net.upgrade().zip(files).map(|(net, files)| files.0.links(&net.stack)).unwrap_or_default()
    }
    fn link(&self, index: u32) -> Option<NetLink> {
        self.links().into_iter().find(|link| link.index == index)
    }
}

#[derive(Clone, Copy)]
enum Place {
    /// /sys/class/net, of links to ...
    Class,
    /// ... /sys/devices/virtual/net.
    Devices,
    /// In the one, and in the other.
    Alias(u32),
    Interface(u32),
    Subsystem(u32),
    Counters(u32),
    /// By their places in the lists.
    File(u32, usize),
    Counter(u32, usize),
}

impl Place {
    fn kind(self) -> FileKind {
        match self {
            Place::Class | Place::Devices | Place::Interface(_) | Place::Counters(_) => FileKind::Directory,
            Place::Alias(_) | Place::Subsystem(_) => FileKind::Symlink,
            Place::File(..) | Place::Counter(..) => FileKind::Regular,
        }
    }

    fn ino(self) -> u64 {
        let of = |index: u32, slot: u64| FIRST_INO + u64::from(index) * PER_LINK + slot;
        match self {
            Place::Class => FIRST_INO,
            Place::Devices => FIRST_INO + 1,
            Place::Alias(index) => of(index, 0),
            Place::Interface(index) => of(index, 1),
            Place::Subsystem(index) => of(index, 2),
            Place::Counters(index) => of(index, 3),
            Place::File(index, at) => of(index, 4 + at as u64),
            Place::Counter(index, at) => of(index, 4 + FILES.len() as u64 + at as u64),
        }
    }
}

struct Node {
    shared: Arc<Shared>,
    place: Place,
    state: InodeState,
}

/// The two directories.
pub(crate) fn dirs(kernel: &Arc<Kernel>, net: &Arc<NetNs>, dev: u64) -> [Arc<dyn Inode>; 2] {
    let shared =
        Arc::new(Shared { kernel: kernel.clone(), net: Arc::downgrade(net), dev, booted: booted(kernel) });
    [Place::Class, Place::Devices].map(|place| Node::make(&shared, place))
}

impl Node {
    fn make(shared: &Arc<Shared>, place: Place) -> Arc<dyn Inode> {
        Arc::new(Node { shared: shared.clone(), place, state: InodeState::default() })
    }

    fn text(&self) -> Result<String, Errno> {
        let of = |index: u32| self.shared.link(index).ok_or(Errno::ENODEV);
        match self.place {
            Place::File(index, at) => FILES.get(at).map_or(Err(Errno::EINVAL), |(_, show)| show(&of(index)?)),
            Place::Counter(index, at) => {
                let link = of(index)?;
                let known = link.counters.iter().find(|(name, _)| STATISTICS.get(at) == Some(name));
                line(known.map_or(0, |(_, count)| *count))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// What is in a directory.
    fn names(&self) -> Vec<(String, Place)> {
        let named = |(name, place): (&str, Place)| (name.to_owned(), place);
        match self.place {
            Place::Class => {
                self.shared.links().into_iter().map(|link| (link.name, Place::Alias(link.index))).collect()
            }
            Place::Devices => self
                .shared
                .links()
                .into_iter()
                .map(|link| (link.name, Place::Interface(link.index)))
                .collect(),
            Place::Interface(index) if self.shared.link(index).is_some() => {
                let files = FILES.iter().enumerate().map(|(at, (name, _))| (*name, Place::File(index, at)));
                let others = [(SUBSYSTEM, Place::Subsystem(index)), (COUNTERS, Place::Counters(index))];
                files.chain(others).map(named).collect()
            }
            Place::Counters(index) if self.shared.link(index).is_some() => STATISTICS
                .iter()
                .enumerate()
                .map(|(at, name)| named((name, Place::Counter(index, at))))
                .collect(),
            _ => Vec::new(),
        }
    }
}

impl Inode for Node {
    fn ino(&self) -> u64 {
        self.place.ino()
    }
    fn kind(&self) -> FileKind {
        self.place.kind()
    }
    fn attr(&self) -> Result<Attr, Errno> {
        let dirs = match self.place {
            Place::Devices => self.shared.links().len(),
            Place::Interface(_) => 1,
            _ => 0,
        };
        Ok(node::attr(self.shared.dev, self.ino(), self.kind(), self.shared.booted, dirs))
    }
    fn set_attr(&self, _change: &SetAttr) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    fn state(&self) -> &InodeState {
        &self.state
    }
    fn dir(&self) -> Option<&dyn Directory> {
        (self.kind() == FileKind::Directory).then_some(self)
    }
    fn link_target(&self, _caller: &Caller) -> Result<LinkTarget, Errno> {
        let text = match self.place {
            Place::Alias(index) => {
                let link = self.shared.link(index).ok_or(Errno::ENOENT)?;
                format!("../../devices/virtual/net/{}", link.name)
            }
            Place::Subsystem(_) => "../../../../class/net".to_owned(),
            _ => return Err(Errno::EINVAL),
        };
        Ok(LinkTarget::Text(text.into_bytes()))
    }
    fn open(self: Arc<Self>, flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        node::open(flags, Box::new(move || self.text()))
    }
}

impl Directory for Node {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let found = self.names().into_iter().find(|(known, _)| known.as_bytes() == name);
        found.map(|(_, place)| Node::make(&self.shared, place)).ok_or(Errno::ENOENT)
    }
    fn read_dir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        for ((name, place), next) in self.names().iter().zip(1u64..) {
            let (ino, kind) = (place.ino(), place.kind());
            if next > cookie && !sink.entry(&DirEntry { name: name.as_bytes(), ino, kind, next }) {
                break;
            }
        }
        Ok(())
    }
}
