//! Waiting: the only place where a thread of the user sleeps for a revoke.

use crate::channel::Erased;
use crate::epoch::ACTIVE;
use crate::fabric::Shared;
use crate::sync::Ordering;
use std::sync::Arc;
use std::time::Duration;

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
    let me = std::thread::current().id();
    let pinned = |channel: &Arc<dyn Erased>| {
        channel.meta().poller.thread() == me && channel.line().slot.load(Ordering::Relaxed) & ACTIVE != 0
    };
    if let Some(channel) = fabric.channels().iter().find(|c| pinned(c)) {
        return Err(WaitError::OwnPin { channel: channel.meta().name.clone() });
    }
    let mut rounds = 0_u32;
    while !done() {
        rounds += 1;
        if fabric.control.is_manual() {
            fabric.control.turn();
        }
        #[cfg(loom)]
        loom::thread::yield_now();
        #[cfg(not(loom))]
        match rounds {
            0..=64 => std::hint::spin_loop(),
            65..=256 => std::thread::sleep(Duration::from_micros(20)),
            _ => std::thread::sleep(Duration::from_micros(200)),
        }
    }
    let _ = Duration::ZERO;
    Ok(())
}
