//! placeholder
use crate::{Error, Limits};
use std::os::fd::OwnedFd;
#[derive(Debug)]
pub struct RootConfig {}
#[derive(Debug)]
pub struct GoferConfig {
    pub socket: OwnedFd,
    pub limits: Limits,
}
pub fn run(_: GoferConfig) -> Result<(), Error> {
    Err(Error::new("x", "y", "z"))
}
