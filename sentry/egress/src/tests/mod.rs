//! The policy as people write it, and the engine against packets as guests send them.

mod fuzz;
mod packets;
mod policies;
mod support;
