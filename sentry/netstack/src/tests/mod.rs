//! Whole stacks against each other.

mod datagrams;
mod forward;
mod fuzz;
mod hostile;
mod speed;
mod tcp;
