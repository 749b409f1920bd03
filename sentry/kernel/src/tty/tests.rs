//! Terminals against the host's.
