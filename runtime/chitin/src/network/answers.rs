//! Answers to what an engine's name server asks others.
//!
//! dockerd listens at 127.0.0.11 within the container's namespace and, what it does not know itself, asks from there the
//! servers that `--dns` names, by sockets of the host's stack. Of what comes in, that stack hears nothing more once the
//! sandbox has the namespace ([`silence`](super::silence)), but for this: answers from port 53 to [`PORTS`]. Sockets of
//! the host's stack that do not say where they want to be are there from now on; the guest's are below, unless it says
//! otherwise. Of TCP, packet sockets do not show them to the sentry, whose stack would send resets, as the host's does to
//! the guest's; of UDP both stacks are shown them, and the sentry's says nothing if nobody is there (`boot/net/answers.rs`).
//!
//! IPv4 only: name servers of IPv6 dockerd leaves to the container, whose resolv.conf has them beside its own.

use std::ops::RangeInclusive;

use crate::util::{Context, Result};

/// Linux's own choice ends below (`net.ipv4.ip_local_port_range`: 32768 to 60999). Of the ends one has to be odd and the
/// other even, or the kernel warns; and a routing rule takes no 65535.
pub const PORTS: RangeInclusive<u16> = 64_511..=65_534;
/// Where name servers are.
pub const DNS: u16 = 53;
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Has the host's stack in the namespace of this thread choose from [`PORTS`]; what it chose from before, if it differs.
pub fn confine_ports() -> Result<Option<String>> {
    let before = std::fs::read_to_string(RANGE).context(|| format!("cannot read {RANGE}"))?;
    let ours = format!("{}\t{}", PORTS.start(), PORTS.end());
    if before.trim() == ours {
        return Ok(None);
    }
    set_ports(&ours)?;
    Ok(Some(before.trim().to_owned()))
}

/// Has it choose from these again.
pub fn set_ports(range: &str) -> Result<()> {
    std::fs::write(RANGE, range).context(|| format!("cannot write {range:?} to {RANGE}"))
}
