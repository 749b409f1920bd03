//! Whole stacks against each other.

mod datagrams;
mod hostile;
mod speed;
mod tcp;
