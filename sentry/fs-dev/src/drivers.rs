//! Which driver opens which device number.

use crate::mem::MemDevices;
use crate::terminals::{Slaves, Terminals};
use chitin_kernel::Kernel;
use chitin_kernel::tty::Tty;
use chitin_vfs::FileKind;
use std::sync::Arc;

/// Registers the drivers of all devices there are; `console` is the terminal behind /dev/console.
pub fn register_drivers(kernel: &Arc<Kernel>, console: Option<Arc<Tty>>) {
    let devices = &kernel.vfs.devices;
    let terminals = Terminals { kernel: Arc::downgrade(kernel), console };
    devices.register(FileKind::CharDevice, 1, None, Arc::new(MemDevices));
    devices.register(FileKind::CharDevice, 5, None, Arc::new(terminals));
    devices.register(FileKind::CharDevice, 136, None, Arc::new(Slaves));
}
