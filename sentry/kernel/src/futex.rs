//! Futexes.
use crate::Task;
use std::sync::Arc;
#[derive(Default)]
pub struct FutexTable {}
pub fn exit_robust_list(_task: &Arc<Task>) {}
pub fn mm_release(_task: &Arc<Task>) {}
