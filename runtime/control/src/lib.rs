//! The protocol between the runtime (the `chitin` command line) and a sentry.
//!
//! Two halves: [`BootConfig`], one JSON document that the runtime hands to `chitin sentry` through an inherited
//! memfd; and the control messages ([`Request`], [`Response`]), JSON lines over a unix stream socket for the rest of
//! the sandbox's life. Neighbours: `runtime/chitin` writes the one and speaks the client side, `sentry/boot` reads
//! the one and speaks the server side. There is no logic here beyond types and framing,
//! and the host kernel's notation of a network ([`rtnetlink`]).
//!
//! Invariants: every message is bounded by [`MAX_MESSAGE`]; unknown fields are refused (both ends are the same
//! binary, so a mismatch is a mistake); no descriptor is owned by a type of this crate, they are plain numbers.

mod boot;
mod container;
mod frame;
mod message;
mod network;
mod proxy;
pub mod rtnetlink;

pub use boot::{
    BootConfig, BootReport, HostLabel, LogFormat, LogLevel, Medium, NetworkMode, OverlayConfig, OverlayMode,
    PlatformChoice, SandboxFds,
};
pub use container::{
    Capabilities, ConsoleSize, ContainerConfig, DeviceConfig, DeviceKind, IdMapping, IdMappings, MountConfig,
    Namespace, Namespaces, ProcessConfig, Rlimit, SeccompConfig, SeccompOp, TimeOffsets,
};
pub use frame::{Client, Decoder, FrameError, MAX_MESSAGE, Server, encode};
pub use message::{ExitStatus, Limits, ProcessInfo, Request, Response, Status};
pub use network::{
    AddressConfig, DeviceLink, LaterConfig, LinkConfig, NeighbourConfig, NetworkConfig, NextHop,
    OutboundConfig, PublishedConfig, RouteConfig,
};
pub use proxy::{Arrived, Open, PROXY_DATAGRAM, PROXY_MESSAGE, Relayed};
