//! The grace period at two speeds.

use super::thread::Pinner;
use super::{ACTIVE, Epoch, Line};
use crate::sync::{Ordering, mutated, observe, order};
use crossbeam_utils::CachePadded;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the fast phase looks before it pays a membarrier. A busy poller passes within its turn; one that copies by
/// itself has sections of a chunk (16 KiB by default), which take some microseconds out of cache. A membarrier costs more
/// than this where a busy CPU is interrupted in a virtual machine (some 20 us), and does not end a section.
const SPIN: Duration = Duration::from_micros(10);
/// Looks in a row at a slot without ACTIVE whose owner may be between two sections.
const LINGER: u32 = 3;
/// Pauses between two looks at most: a slot that is read without pause is taken from its owner's cache each time.
const PAUSES: u32 = 16;

/// The lines of all channels at one moment.
pub(crate) type Lines = Arc<[Arc<CachePadded<Line>>]>;

type Slot = Arc<CachePadded<Line>>;

/// A grace period under way: over when no section that began before its bump is still inside.
#[derive(Debug)]
pub(crate) struct Grace {
    target: u64,
    lines: Lines,
    /// How many of them, from the first on, are past.
    seen: usize,
    speed: Speed,
}

#[derive(Debug)]
enum Speed {
    /// Only an announced epoch at or past the target counts.
    Fast,
    /// After the barrier. `idle_counts`: it succeeded, so a slot without ACTIVE is past too. `left`: not past yet.
    Slow { idle_counts: bool, left: Vec<Arc<CachePadded<Line>>> },
}

impl Grace {
    /// Bumps the epoch, then takes the lines to wait for from `lines`. Call after the marks. No allocation of its
    /// own, no system call.
    pub(crate) fn begin(epoch: &Epoch, lines: impl FnOnce() -> Lines) -> Grace {
        let target = epoch.bump();
        // After the marks: a channel that is listed later than this sees them.
        Grace { target, lines: lines(), seen: 0, speed: Speed::Fast }
    }

    /// Looks again. True when the grace period is over. Spins at most 10 us, makes at most one membarrier that
    /// succeeds in the life of the grace period; allocates only for channels that stay in a section for longer.
    pub(crate) fn turn(&mut self, epoch: &Epoch) -> bool {
        let target = self.target;
        // Acquire: what the section did before it left (or entered anew) happens before what we do.
        let is_past = |line: &Line, idle_counts| {
            let slot = observe(&line.slot, order(Ordering::Acquire, "slow-read-relaxed"));
            slot & !ACTIVE >= target || (idle_counts && (slot & ACTIVE == 0 || line.is_dead()))
        };
        // A barrier that the kernel refused (it may be out of memory) is asked for again.
        let refused = matches!(self.speed, Speed::Slow { idle_counts: false, .. });
        let again = !cfg!(loom) && refused && self.barrier(epoch);
        match &mut self.speed {
            Speed::Slow { idle_counts, left } => {
                *idle_counts |= again;
                left.retain(|line| !is_past(line, *idle_counts));
            }
            Speed::Fast => {
                let idle_counts = !self.look() && self.barrier(epoch);
                // Read again after the barrier: idle seen before it proves nothing.
                let rest = self.lines.iter().skip(self.seen);
                let left = rest.filter(|line| !is_past(line, idle_counts)).cloned().collect();
                self.speed = Speed::Slow { idle_counts, left };
            }
        }
        self.pending().is_empty()
    }

    /// The fast phase: waits for announcements, one line after the other (E3). False when only the barrier can
    /// tell, or it took too long.
    fn look(&mut self) -> bool {
        let target = self.target;
        // Acquire: as in `turn`.
        let read = |line: &Line| observe(&line.slot, order(Ordering::Acquire, "fast-read-relaxed"));
        let announced = |slot: u64| {
            slot & !ACTIVE >= target || (slot & ACTIVE == 0 && mutated("idle-counted-before-the-barrier"))
        };
        // Will it announce by itself, and soon? Not if it is idle since before the last bump.
        let stirs = |slot: u64, idle: u32| {
            announced(slot) || slot & ACTIVE != 0 || (slot == target - 2 && idle < LINGER)
        };
        // `idle`: looks in a row that found it between two sections.
        let (mut looks, mut idle, mut since) = (0, 0, None);
        while let Some(line) = self.lines.get(self.seen) {
            let slot = read(line);
            if announced(slot) {
                (self.seen, looks, idle) = (self.seen + 1, 0, 0);
                continue;
            }
            let begun = match since {
                Some(begun) => begun,
                // Nobody is waited for if another will need the barrier anyway.
                None if self.lines.iter().skip(self.seen + 1).all(|line| stirs(read(line), 0)) => {
                    *since.insert(Instant::now())
                }
                None => return false,
            };
            if cfg!(loom) || !stirs(slot, idle) || begun.elapsed() >= SPIN {
                return false;
            }
            for _ in 0..PAUSES.min(1 << looks.min(31)) {
                std::hint::spin_loop();
            }
            looks += 1;
            idle = if slot & ACTIVE != 0 { 0 } else { idle + 1 };
        }
        true
    }

    /// Counts sections whose thread died in them as past, and returns those: the line, and who it was. `is_gone`:
    /// does the kernel say so ([`Pinner::is_gone`])? Some system calls for each line still waited for; at most one
    /// barrier.
    ///
    /// A dead thread accepts nothing any more. That it is *its* section follows from the barrier that went before:
    /// whoever got the channel from it and pinned it since announced itself first (E4), so either that is seen here,
    /// or that section sees our marks. What the dead thread did last happens before the end of the second barrier
    /// (see [`Pinner::is_gone`]). The second look refuses a line that changed hands while it was read.
    #[cold]
    pub(crate) fn bury(&mut self, epoch: &Epoch, is_gone: impl Fn(Pinner) -> bool) -> Vec<(Slot, Pinner)> {
        // Without a barrier nothing says that the line shows who is in the section.
        let Speed::Slow { idle_counts: true, left } = &mut self.speed else { return Vec::new() };
        let who = |line: &Slot| Some((line.clone(), Pinner::of(line))).filter(|(_, who)| is_gone(*who));
        let mut gone: Vec<_> = left.iter().filter_map(who).collect();
        if gone.is_empty() || !epoch.barrier.after_death() {
            return Vec::new();
        }
        gone.retain(|(line, who)| Pinner::of(line) == *who);
        for (line, who) in &gone {
            // Release: who reads it has what the dead thread did.
            line.dead.store(who.serial, Ordering::Release);
        }
        left.retain(|line| !gone.iter().any(|(dead, _)| Arc::ptr_eq(dead, line)));
        gone
    }

    /// The epoch it waits for.
    pub(crate) fn target(&self) -> u64 {
        self.target
    }

    /// One barrier for all revokers that bumped before it began.
    fn barrier(&self, epoch: &Epoch) -> bool {
        if epoch.covers.load(order(Ordering::Acquire, "covers-load-relaxed")) >= self.target {
            return true;
        }
        // Read before the barrier begins: every bump up to here, and its marks, is covered by it.
        let mut covered = epoch.now.load(Ordering::Acquire);
        let done =
            mutated("barrier-before-the-mark") || epoch.barrier.heavy() || mutated("failed-barrier-counts");
        if mutated("covers-read-after-the-barrier") {
            covered = epoch.now.load(Ordering::Acquire);
        }
        if done {
            epoch.covers.fetch_max(covered, order(Ordering::Release, "covers-store-relaxed"));
        }
        done
    }

    /// The lines still waited for; before the first turn, all.
    pub(crate) fn pending(&self) -> &[Arc<CachePadded<Line>>] {
        match &self.speed {
            Speed::Fast => &self.lines,
            Speed::Slow { left, .. } => left,
        }
    }
}
