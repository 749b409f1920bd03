//! The names in a directory, with cookies that stay valid whatever comes and goes between two reads.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Entries by name and in the order of their making. A cookie is never used twice.
pub struct Entries<T> {
    names: HashMap<Arc<[u8]>, u64>,
    order: BTreeMap<u64, (Arc<[u8]>, T)>,
    last: u64,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Entries { names: HashMap::new(), order: BTreeMap::new(), last: 0 }
    }
}

impl<T> Entries<T> {
    pub fn len(&self) -> usize {
        self.order.len()
    }
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
    pub fn get(&self, name: &[u8]) -> Option<&T> {
        let cookie = self.names.get(name)?;
        self.order.get(cookie).map(|(_, value)| value)
    }
    pub fn get_mut(&mut self, name: &[u8]) -> Option<&mut T> {
        let cookie = self.names.get(name)?;
        self.order.get_mut(cookie).map(|(_, value)| value)
    }
    /// Adds a name, or replaces what it leads to under a new cookie.
    pub fn insert(&mut self, name: Arc<[u8]>, value: T) -> Option<T> {
        let old = self.remove(&name);
        self.last += 1;
        self.names.insert(name.clone(), self.last);
        self.order.insert(self.last, (name, value));
        old
    }
    pub fn remove(&mut self, name: &[u8]) -> Option<T> {
        let cookie = self.names.remove(name)?;
        self.order.remove(&cookie).map(|(_, value)| value)
    }
    /// Entries from `cookie` on, with the cookie of each.
    pub fn from(&self, cookie: u64) -> impl Iterator<Item = (u64, &Arc<[u8]>, &T)> {
        self.order.range(cookie..).map(|(cookie, (name, value))| (*cookie, name, value))
    }
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.order.values().map(|(_, value)| value)
    }
    /// Takes everything out.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.names.clear();
        std::mem::take(&mut self.order).into_values().map(|(_, value)| value)
    }
}
