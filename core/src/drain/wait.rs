//! Waiting: the only place where a thread of the user sleeps for a revoke.

use crate::channel::Erased;
use crate::epoch::{ACTIVE, this_thread};
use crate::fabric::Shared;
use crate::sync::Ordering;
use std::sync::Arc;
#[cfg(not(loom))]
use std::time::{Duration, Instant};

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

/// The channel of this thread that is inside a section, if one is: a wait would wait for it.
pub(crate) fn own_pin(fabric: &Shared) -> Option<String> {
    let me = this_thread();
    if me == 0 {
        return None;
    }
    // Acquire, and the slot first: a section that is seen is this thread's own, or it is another's, who wrote its number
    // before (E4). The other way round, a thread that handed its channel on could take the new owner's for its own.
    let pinned = |channel: &&Arc<dyn Erased>| {
        let line = channel.line();
        line.slot.load(Ordering::Acquire) & ACTIVE != 0 && line.thread.load(Ordering::Relaxed) == me
    };
    fabric.find_channel(|channel| pinned(&channel)).map(|channel| channel.meta().name.clone())
}

/// Turns until `done` says so, and the control work of `fabric` and of `others` with it where nobody else does.
pub(crate) fn until(
    fabric: &Arc<Shared>,
    others: &[Arc<Shared>],
    mut done: impl FnMut() -> bool,
) -> Result<(), WaitError> {
    let all = || std::iter::once(fabric).chain(others);
    if let Some(channel) = all().find_map(|fabric| own_pin(fabric)) {
        return Err(WaitError::OwnPin { channel });
    }
    if done() {
        return Ok(());
    }
    let mut pause = Pause::begin();
    // A wait on the control thread itself must not wait for the control thread.
    let is_mine = |fabric: &&Arc<Shared>| fabric.control.is_manual() || fabric.control.is_here();
    let mine: Vec<_> = all().filter(is_mine).collect();
    loop {
        for fabric in &mine {
            fabric.control.turn();
        }
        pause.once();
        if done() {
            return Ok(());
        }
    }
}

/// Pauses first, then sleeps, never yields: a yield costs milliseconds on a core that a poller keeps busy.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct Pause {
    since: Instant,
    sleeps: u32,
}

/// What ends within so long is not slept for.
#[cfg(not(loom))]
const AWAKE: Duration = Duration::from_micros(20);
/// Then sleeps, so many of the first length.
#[cfg(not(loom))]
const SHORT: (u32, Duration) = (200, Duration::from_micros(20));
#[cfg(not(loom))]
const LONG: Duration = Duration::from_micros(200);

#[cfg(not(loom))]
impl Pause {
    pub(crate) fn begin() -> Pause {
        Pause { since: Instant::now(), sleeps: 0 }
    }

    pub(crate) fn once(&mut self) {
        if self.sleeps == 0 && self.since.elapsed() < AWAKE {
            for _ in 0..16 {
                std::hint::spin_loop();
            }
            return;
        }
        self.sleeps = self.sleeps.saturating_add(1);
        std::thread::sleep(if self.sleeps <= SHORT.0 { SHORT.1 } else { LONG });
    }
}

/// A model's threads take turns.
#[cfg(loom)]
pub(crate) struct Pause;

#[cfg(loom)]
impl Pause {
    pub(crate) fn begin() -> Pause {
        Pause
    }
    pub(crate) fn once(&mut self) {
        loom::thread::yield_now();
    }
}
