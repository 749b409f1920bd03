//! What the answering thread does next.
//!
//! A worker that has answered a guest's thread waits for its next call, so the two had best share a CPU, one after the other.
//! A thread that goes on with something else keeps its CPU busy: who is answered then is better off on another one. The host
//! would leave it there for tenths of a second, beside an idle CPU.

use std::cell::Cell;

thread_local! {
    static GOES_ON: Cell<bool> = const { Cell::new(false) };
}

/// Says that this thread needs its CPU for itself, or no more.
pub fn set_goes_on(goes_on: bool) {
    GOES_ON.set(goes_on);
}

/// For platforms, when they answer.
pub fn goes_on() -> bool {
    GOES_ON.get()
}
