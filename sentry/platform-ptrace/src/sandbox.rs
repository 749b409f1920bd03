//! What all parts of one running platform share.

use crate::events::Events;
use crate::task::Task;
use crate::tracer::Pool;
use chitin_platform::{AsyncLock, OnLost};
use chitin_platform_host::fpstate::Form;
use chitin_platform_host::memory::Host;
use chitin_platform_host::table::TidTable;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

pub struct Sandbox {
    pub host: Arc<Host>,
    pub form: Form,
    /// Length of the FPU state as the host tells it.
    pub xstate_len: usize,
    pub zygote: OnceLock<Arc<Task>>,
    /// What to call when the host ends a zygote, by pid.
    pub origins: Mutex<HashMap<i32, OnLost>>,
    pub table: TidTable<Arc<Task>>,
    pub events: Events,
    pub pool: Pool,
    /// Files go to stubs over this pair: our end, and the one that all stubs have.
    pub files: [OwnedFd; 2],
    /// Held while one is on its way.
    pub files_lock: Arc<AsyncLock>,
    /// The platform is being dropped.
    pub closing: AtomicBool,
}
