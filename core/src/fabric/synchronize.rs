//! A grace period by itself.

use super::{Fabric, Shared};
use crate::drain::{Pause, Stall, Watch, own_pin};
use crate::epoch::Grace;
use std::time::{Duration, Instant};

/// [`Fabric::synchronize`] did not end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stalled {
    /// A channel of this very thread is inside a section: it would wait for itself.
    #[error("channel {channel} of this thread is pinned: leave the section before you wait")]
    OwnPin {
        /// Its name.
        channel: String,
    },
    /// Sections that began before did not end in time.
    #[error("{} of the sections that began before have not ended; the first: {}", .stalls.len(), First(.stalls))]
    Deadline {
        /// Whose they are.
        stalls: Vec<Stall>,
    },
}

struct First<'a>(&'a [Stall]);

impl std::fmt::Display for First<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.first() {
            Some(stall) => stall.fmt(f),
            None => f.write_str("gone since"),
        }
    }
}

impl Fabric {
    /// Waits for one grace period, as `synchronize_rcu` does: when it returns `Ok`, every section that any channel was
    /// in when it was called has ended, and what those sections did is visible to the caller. Sections that begin
    /// meanwhile are not waited for, and nothing is revoked. For whoever protects data of their own by sections.
    ///
    /// Costs a look at each channel's line while sections end within 10 us; at most one `membarrier(2)` otherwise, and
    /// at once when all channels are idle. It pauses for some 20 us before it first sleeps; it never yields. A thread
    /// that died inside a section does not hold it up for longer than a few milliseconds.
    ///
    /// # Errors
    /// [`Stalled::OwnPin`] at once if a channel of the calling thread is inside a section. [`Stalled::Deadline`] when
    /// `by` is over: nothing is known then.
    #[inline]
    pub fn synchronize(&self, by: Duration) -> Result<(), Stalled> {
        let shared = &*self.shared;
        if let Some(channel) = own_pin(shared) {
            return Err(Stalled::OwnPin { channel });
        }
        let mut grace = Grace::begin(&shared.epoch, || shared.lines());
        if grace.turn(&shared.epoch) { Ok(()) } else { wait(shared, grace, by) }
    }
}

#[cold]
#[inline(never)]
fn wait(shared: &Shared, mut grace: Grace, by: Duration) -> Result<(), Stalled> {
    let begun = Instant::now();
    let (mut watch, mut pause, mut noted) = (Watch::at(begun), Pause::begin(), Vec::new());
    loop {
        let last = begun.elapsed() >= by;
        if grace.turn(&shared.epoch) || watch.look(&mut grace, shared, &mut noted, last) {
            return Ok(());
        }
        if last {
            return Err(Stalled::Deadline { stalls: Stall::all(shared, &grace, watch.age()) });
        }
        pause.once();
    }
}
