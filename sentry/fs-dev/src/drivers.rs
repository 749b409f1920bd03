//! Which driver opens which device number.

use crate::mem::MemDevices;
use crate::terminals::{Slaves, Terminals};
use chitin_kernel::Kernel;
use chitin_vfs::FileKind;
use std::sync::Arc;

/// Registers the drivers of all devices there are.
pub fn register_drivers(kernel: &Arc<Kernel>) {
    let devices = &kernel.vfs.devices;
    let terminals = Terminals { kernel: Arc::downgrade(kernel) };
    devices.register(FileKind::CharDevice, 1, None, Arc::new(MemDevices));
    devices.register(FileKind::CharDevice, 5, None, Arc::new(terminals));
    devices.register(FileKind::CharDevice, 136, None, Arc::new(Slaves));
}
