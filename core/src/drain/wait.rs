//! Waiting: the only place where a thread of the user sleeps for a revoke.

use crate::channel::Erased;
use crate::epoch::{ACTIVE, this_thread};
use crate::fabric::Shared;
use crate::sync::Ordering;
use std::sync::Arc;

/// A wait was not entered, or can't end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// A channel of this very thread is inside a section: the wait would wait for it.
    #[error("channel {channel} of this thread is pinned: leave the section before you wait")]
    OwnPin {
        /// Its name.
        channel: String,
    },
    /// It was waited for already.
    #[error("already waited for")]
    Gone,
}

/// Pauses first, then sleeps, never yields: a yield costs milliseconds on a core that a poller keeps busy.
pub(crate) fn until(fabric: &Arc<Shared>, mut done: impl FnMut() -> bool) -> Result<(), WaitError> {
    let me = this_thread();
    // Both words are exact if this thread wrote them, and only then does the answer matter.
    let pinned = |channel: &Arc<dyn Erased>| {
        let line = channel.line();
        line.thread.load(Ordering::Relaxed) == me && line.slot.load(Ordering::Relaxed) & ACTIVE != 0
    };
    if let Some(channel) = fabric.channels().iter().find(|c| pinned(c)) {
        return Err(WaitError::OwnPin { channel: channel.meta().name.clone() });
    }
    let mut rounds = 0_u32;
    while !done() {
        rounds = rounds.saturating_add(1);
        // A wait on the control thread itself must not wait for the control thread.
        if fabric.control.is_manual() || fabric.control.is_here() {
            fabric.control.turn();
        }
        pause(rounds);
    }
    Ok(())
}

#[cfg(not(loom))]
fn pause(rounds: u32) {
    match rounds {
        0..=64 => std::hint::spin_loop(),
        65..=256 => std::thread::sleep(std::time::Duration::from_micros(20)),
        _ => std::thread::sleep(std::time::Duration::from_micros(200)),
    }
}

#[cfg(loom)]
fn pause(_: u32) {
    loom::thread::yield_now();
}
