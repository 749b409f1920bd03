//! Typed user addresses: plain numbers with a type, never references.

use std::marker::PhantomData;

/// The address of a `T` in guest memory. Inert: reading and writing go through [`crate::Mm`] and can fail.
pub struct UserPtr<T> {
    addr: u64,
    kind: PhantomData<fn() -> T>,
}

impl<T> UserPtr<T> {
    pub fn new(addr: u64) -> Self {
        UserPtr { addr, kind: PhantomData }
    }

    pub fn addr(self) -> u64 {
        self.addr
    }

    pub fn is_null(self) -> bool {
        self.addr == 0
    }

    /// The address of the `index`-th element of an array that starts here; wraps, and then faults when used.
    pub fn at(self, index: u64) -> Self {
        UserPtr::new(self.addr.wrapping_add(index.wrapping_mul(size_of::<T>() as u64)))
    }

    /// `None` for a null pointer, as optional arguments are passed.
    pub fn optional(self) -> Option<Self> {
        (!self.is_null()).then_some(self)
    }
}

impl<T> Clone for UserPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for UserPtr<T> {}
impl<T> std::fmt::Debug for UserPtr<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.addr)
    }
}
impl<T> From<u64> for UserPtr<T> {
    fn from(addr: u64) -> Self {
        UserPtr::new(addr)
    }
}
