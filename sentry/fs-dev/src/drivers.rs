//! Which driver opens which device number.

use crate::mem::MemDevices;
use chitin_kernel::Kernel;
use chitin_kernel::tty::Tty;
use chitin_vfs::FileKind;
use std::sync::Arc;

/// Registers the drivers of all devices there are; `console` is the terminal behind /dev/console.
pub fn register_drivers(kernel: &Arc<Kernel>, _console: Option<Arc<Tty>>) {
    let devices = &kernel.vfs.devices;
    devices.register(FileKind::CharDevice, 1, None, Arc::new(MemDevices));
}
