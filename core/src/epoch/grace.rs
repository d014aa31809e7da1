//! The grace period at two speeds.

use super::thread::Pinner;
use super::{ACTIVE, Epoch, Line};
use crate::sync::Ordering;
use crossbeam_utils::CachePadded;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the fast phase spins before it pays a membarrier (measured best between 1 and 5 us: a busy poller
/// passes within its turn).
const SPIN: Duration = Duration::from_micros(2);

type Slot = Arc<CachePadded<Line>>;

/// A grace period under way: over when no section that began before its bump is still inside.
#[derive(Debug)]
pub(crate) struct Grace {
    target: u64,
    pending: Vec<Slot>,
    speed: Speed,
}

#[derive(Debug, PartialEq, Eq)]
enum Speed {
    /// Only an announced epoch at or past the target counts; spins until then, then falls to the slow one.
    Fast { since: Instant },
    /// After the barrier. `idle_counts`: it succeeded, so a slot without ACTIVE is past too.
    Slow { idle_counts: bool },
}

impl Grace {
    /// Bumps the epoch, then takes the lines to wait for from `lines`. Call after the marks.
    pub(crate) fn begin(epoch: &Epoch, lines: impl FnOnce() -> Vec<Arc<CachePadded<Line>>>) -> Grace {
        let target = epoch.bump();
        Grace { target, pending: lines(), speed: Speed::Fast { since: Instant::now() } }
    }

    /// Looks again. True when the grace period is over. Spins at most 2 us, makes at most one membarrier in the
    /// life of the grace period.
    pub(crate) fn turn(&mut self, epoch: &Epoch) -> bool {
        if let Speed::Fast { since } = self.speed {
            loop {
                let mut active = false;
                let target = self.target;
                self.pending.retain(|line| {
                    // Acquire: what the section did before it left (or entered anew) happens before what we do.
                    let slot = line.slot.load(Ordering::Acquire);
                    active |= slot & ACTIVE != 0;
                    slot & !ACTIVE < target
                });
                if self.pending.is_empty() {
                    return true;
                }
                // An idle owner announces nothing: spinning for it would be in vain.
                if !active || cfg!(loom) || since.elapsed() >= SPIN {
                    break;
                }
                for _ in 0..16 {
                    std::hint::spin_loop();
                }
            }
            self.speed = Speed::Slow { idle_counts: self.barrier(epoch) };
        }
        let Speed::Slow { idle_counts } = self.speed else { return false };
        let target = self.target;
        // Read again after the barrier: idle seen before it proves nothing.
        self.pending.retain(|line| {
            let slot = line.slot.load(Ordering::Acquire);
            let past = slot & !ACTIVE >= target || (idle_counts && (slot & ACTIVE == 0 || line.is_dead()));
            !past
        });
        self.pending.is_empty()
    }

    /// Counts sections whose thread died in them as past, and returns those: the line, and who it was. `is_gone`:
    /// does the kernel say so ([`Pinner::is_gone`])? Some system calls for each line still waited for; at most one
    /// barrier.
    ///
    /// A dead thread accepts nothing any more. That it is *its* section follows from the barrier that went before:
    /// whoever got the channel from it and pinned it since announced itself first (E3), so either that is seen here,
    /// or that section sees our marks. What the dead thread did last happens before the end of the second barrier
    /// (see [`Pinner::is_gone`]). The second look refuses a line that changed hands while it was read.
    #[cold]
    pub(crate) fn bury(&mut self, epoch: &Epoch, is_gone: impl Fn(Pinner) -> bool) -> Vec<(Slot, Pinner)> {
        // Without a barrier nothing says that the line shows who is in the section.
        if !matches!(self.speed, Speed::Slow { idle_counts: true }) {
            return Vec::new();
        }
        let who = |line: &Slot| Some((line.clone(), Pinner::of(line))).filter(|(_, who)| is_gone(*who));
        let mut gone: Vec<_> = self.pending.iter().filter_map(who).collect();
        if gone.is_empty() || !epoch.barrier.after_death() {
            return Vec::new();
        }
        gone.retain(|(line, who)| Pinner::of(line) == *who);
        for (line, who) in &gone {
            // Release: who reads it has what the dead thread did.
            line.dead.store(who.serial, Ordering::Release);
        }
        self.pending.retain(|line| !gone.iter().any(|(dead, _)| Arc::ptr_eq(dead, line)));
        gone
    }

    /// The epoch it waits for.
    pub(crate) fn target(&self) -> u64 {
        self.target
    }

    /// One barrier for all revokers that bumped before it began.
    fn barrier(&self, epoch: &Epoch) -> bool {
        if epoch.covers.load(Ordering::Acquire) >= self.target {
            return true;
        }
        // Read before the barrier begins: every bump up to here, and its marks, is covered by it.
        let covered = epoch.now.load(Ordering::Acquire);
        let done = epoch.barrier.heavy();
        if done {
            epoch.covers.fetch_max(covered, Ordering::Release);
        }
        done
    }

    /// The lines still waited for.
    pub(crate) fn pending(&self) -> &[Arc<CachePadded<Line>>] {
        &self.pending
    }
}
