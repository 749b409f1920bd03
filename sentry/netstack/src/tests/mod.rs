//! Whole stacks against each other.

mod datagrams;
mod fuzz;
mod hostile;
mod speed;
mod tcp;
