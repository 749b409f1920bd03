//! Dropping files that were on their way to another process.
//!
//! A socket's queue may hold the last reference of a file that is a socket whose queue holds the last reference of yet
//! another, as deep as a guest likes: dropping them one inside the other would use up the stack. So the outermost call on
//! a thread drops everything that comes up below it, one after the other.

use chitin_vfs::File;
use std::cell::RefCell;
use std::sync::Arc;

thread_local! {
    /// Files to be dropped by the outermost call; `None`: there is none under way.
    static PENDING: RefCell<Option<Vec<Arc<File>>>> = const { RefCell::new(None) };
}

/// Drops files. Nothing may be locked.
pub fn discard(files: Vec<Arc<File>>) {
    if files.is_empty() {
        return;
    }
    let mut files = Some(files);
    let outermost = PENDING.with(|pending| {
        let mut pending = pending.borrow_mut();
        match pending.as_mut() {
            Some(list) => {
                list.extend(files.take().unwrap_or_default());
                false
            }
            None => {
                *pending = files.take();
                true
            }
        }
    });
    if !outermost {
        return;
    }
    loop {
        let next = PENDING.with(|pending| {
            let mut pending = pending.borrow_mut();
            let next = pending.as_mut().and_then(Vec::pop);
            if next.is_none() {
                *pending = None;
            }
            next
        });
        match next {
            Some(file) => drop(file),
            None => return,
        }
    }
}
