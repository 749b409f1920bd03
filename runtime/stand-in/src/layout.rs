//! What the runtime and the program agree on: an order is a head of numbers, and bytes behind it.

/// First of all; changes with everything else here.
pub const MAGIC: u32 = 0x6368_7301;

/// Positions in the head, 32 bits each.
pub mod head {
    /// [`super::MAGIC`].
    pub const MAGIC: usize = 0;
    /// Descriptor: where the process was started, and its end will be told.
    pub const CONNECTION: usize = 1;
    /// Descriptor: a second connection, for signals.
    pub const POST: usize = 2;
    /// Descriptor: a pipe that is told [`super::READY`], or a step that failed and its errno.
    pub const READY: usize = 3;
    /// Descriptor: the mount namespace to live in; all bits set for none.
    pub const NAMESPACE: usize = 4;
    /// Descriptor: a detached mount that shows the container's files, to be laid over that namespace's root; likewise.
    pub const VIEW: usize = 5;
    /// The host user and group to become; all bits set for none.
    pub const USER: usize = 6;
    /// Lengths in bytes of what follows the head, in this order: the seccomp program, the request to wait, what is before
    /// and after the number of a signal from kill(2), and the same for one of the terminal.
    pub const LENGTHS: usize = 7;
    pub const COUNT: usize = LENGTHS + super::PARTS;
}

pub const PARTS: usize = 6;
/// For descriptors and users that there are not.
pub const NONE: u32 = u32::MAX;
/// An order may have this many bytes.
pub const MAX: usize = 16 << 10;

/// Everything is done, no signal is lost any more.
pub const READY: u8 = 0;

/// Steps that can fail.
pub mod step {
    pub const SIGNALS: u8 = 2;
    pub const NAMESPACE: u8 = 3;
    pub const VIEW: u8 = 4;
    pub const PRIVILEGES: u8 = 5;
    pub const FILTER: u8 = 6;
}

/// The exit code when the sentry is gone: that of SIGKILL, which is what has become of the process.
pub const LOST: u8 = 137;

/// The name proxy's order: a head, the address as it stands in a request, and the seccomp program.
pub mod names {
    /// First of all; changes with everything else here.
    pub const MAGIC: u32 = 0x6368_6e01;

    /// Positions in the head, 32 bits each.
    pub mod head {
        /// [`super::MAGIC`].
        pub const MAGIC: usize = 0;
        /// Descriptor: where requests come from and answers go.
        pub const SOCKET: usize = 1;
        /// Descriptor: the network namespace to live in; all bits set for that of whoever starts it.
        pub const NETWORK: usize = 2;
        /// Descriptor: the mount namespace to live in; likewise.
        pub const MOUNTS: usize = 3;
        /// The host user and group to become; all bits set for none.
        pub const USER: usize = 4;
        pub const COUNT: usize = 5;
    }

    /// Bytes of a request: whether a stream is wanted and so on, and an address.
    pub const REQUEST: usize = 4 + ADDRESS;
    pub const ADDRESS: usize = 20;
}
