//! AF_NETLINK.
use crate::NetNs;
use crate::socket::{Family, SocketOps};
use chitin_abi::Errno;
use chitin_vfs::walk::Caller;
use std::sync::Arc;

/// Makes AF_NETLINK sockets.
pub struct NetlinkFamily;

impl Family for NetlinkFamily {
    fn create(&self, _: &Arc<NetNs>, _: u32, _: u32, _: &Caller) -> Result<Arc<dyn SocketOps>, Errno> {
        Err(Errno::EPROTONOSUPPORT)
    }
}
