//! Epochs: how a revoker learns that no poller can still act on what it saw before a mark.
//!
//! Each channel owns a [`Line`]. Entering a section (`pin`) announces the epoch, leaving withdraws it; neither
//! has a lock, a read-modify-write, a syscall, or (with membarrier) a fence. A revoker marks what it revokes,
//! bumps the epoch, and waits for a grace period ([`grace`]).
//!
//! Values: the epoch is even and starts at [`FIRST`]; bit 0 of a slot is [`ACTIVE`]; 0 is past for nobody;
//! [`OFFLINE`] is past for everybody. Epochs are compared with bit 0 masked off.
//!
//! # Invariants
//! - **E1** A section that began before a mark is seen by the grace period that follows the mark, or the section
//!   sees the mark. It rests on the order *store slot, barrier, load region* against *mark, bump, barrier, load
//!   slot* (Dekker), the barrier of the reader being a membarrier of the revoker where the kernel has it.
//! - **E2** A slot that shows an epoch at or past the bump entered after it, and saw the mark: its load of the
//!   epoch acquired the bump.
//!
//! - **E3** "Past" is for good: a slot that was past for a grace period stays past for it, whatever its owner does
//!   next.
//!
//! Why a membarrier is enough: `docs/membarrier.md`; `litmus.rs` sees it fail without. Loom models:
//! `crate::model`; the weakenings that they catch: `ci/mutations/loom`.

mod barrier;
mod grace;
#[cfg(all(test, not(loom)))]
mod litmus;
#[cfg(any(tidegate_tsan, all(test, not(loom))))]
pub(crate) mod race;
#[cfg(all(test, not(loom)))]
mod tests;
pub(crate) mod thread;

pub(crate) use barrier::Barrier;
pub use barrier::BarrierMode;
pub(crate) use grace::{Grace, Lines};
pub(crate) use thread::{announce as announce_thread, this_thread};

use crate::sync::{AtomicU64, Ordering, announce, full_fence, light_barrier, mutated, order};
use crossbeam_utils::CachePadded;

/// Bit 0 of a slot: its owner is inside a section.
pub(crate) const ACTIVE: u64 = 1;
/// Slot of an unregistered or parked channel: past for everybody.
pub(crate) const OFFLINE: u64 = u64::MAX - 1;
/// First epoch.
pub(crate) const FIRST: u64 = 2;

/// What a channel publishes, in one cache line of its own: written by its owner, read by revokers.
#[derive(Debug)]
pub(crate) struct Line {
    /// Epoch announcement.
    pub(crate) slot: AtomicU64,
    /// Whose the channel's state is: see [`crate::channel::owner`].
    pub(crate) owner: AtomicU64,
    /// Thread of the last section ([`this_thread`]), so that a thread can tell its own.
    pub(crate) thread: AtomicU64,
    /// That thread in the kernel's words: see [`thread`].
    pub(crate) kernel: AtomicU64,
    /// A thread that died inside a section: what it announced is past. Written by revokers.
    pub(crate) dead: AtomicU64,
}

impl Line {
    pub(crate) fn new() -> CachePadded<Self> {
        CachePadded::new(Line {
            slot: AtomicU64::new(OFFLINE),
            owner: AtomicU64::new(0),
            thread: AtomicU64::new(thread::NOBODY),
            kernel: AtomicU64::new(0),
            dead: AtomicU64::new(0),
        })
    }

    /// Did the thread of the last section die in it? Only after a barrier.
    fn is_dead(&self) -> bool {
        // Acquire: what that thread did happens before what we do.
        self.thread.load(Ordering::Acquire) == self.dead.load(Ordering::Acquire)
    }
}

/// The epoch of a fabric.
#[derive(Debug)]
pub(crate) struct Epoch {
    now: CachePadded<AtomicU64>,
    /// Highest epoch that a finished barrier covers: it began after that epoch was read.
    covers: CachePadded<AtomicU64>,
    barrier: Barrier,
}

impl Epoch {
    pub(crate) fn new(barrier: Barrier) -> Self {
        Epoch {
            now: CachePadded::new(AtomicU64::new(FIRST)),
            covers: CachePadded::new(AtomicU64::new(0)),
            barrier,
        }
    }

    /// Now.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(crate) fn barrier(&self) -> Barrier {
        self.barrier
    }

    /// Registers a slot (or brings a parked one back). False if it was registered already.
    pub(crate) fn register(&self, line: &Line) -> bool {
        // Relaxed: the fence orders it. (Without fences, see `sync`, the read-modify-write itself.)
        let strength = if cfg!(tidegate_tsan) { Ordering::AcqRel } else { Ordering::Relaxed };
        let fresh = line.slot.compare_exchange(OFFLINE, 0, strength, Ordering::Relaxed).is_ok();
        // Pairs with the fence after a revoker's bump: it sees the slot registered, or we see its mark.
        full_fence("no-fence-in-register");
        fresh
    }

    /// Takes a slot off the list of those that a revoker waits for. Only outside a section.
    pub(crate) fn unregister(&self, line: &Line) {
        announce(&line.slot, OFFLINE, order(Ordering::Release, "unregister-relaxed"));
    }

    /// Enters a section; the value goes to [`Epoch::leave`]. `fenced` is the channel's copy of
    /// [`Barrier::needs_fence`].
    #[inline(always)]
    pub(crate) fn enter(&self, line: &Line, fenced: bool) -> u64 {
        // Acquire: whoever announces the new epoch has seen the mark that came before the bump (E2).
        let epoch = self.now.load(order(Ordering::Acquire, "pin-epoch-relaxed"));
        announce(&line.slot, epoch | ACTIVE, order(Ordering::Release, "pin-store-relaxed"));
        if fenced {
            section_fence();
        }
        light_barrier();
        epoch
    }

    /// Leaves a section. Release: what was done inside happens before a revoker sees the slot past.
    #[inline(always)]
    pub(crate) fn leave(&self, line: &Line, epoch: u64) {
        announce(&line.slot, epoch, order(Ordering::Release, "unpin-relaxed"));
    }

    /// Opens the next epoch and returns it. Every revoker bumps for itself, after its own marks: another's epoch
    /// may have been announced by a section that did not see ours.
    fn bump(&self) -> u64 {
        let new = if mutated("borrowed-bump") {
            self.now.fetch_max(FIRST + 2, Ordering::AcqRel).max(FIRST + 2)
        } else {
            self.now.fetch_add(2, order(Ordering::Release, "bump-relaxed")) + 2
        };
        self.barrier.after_bump();
        new
    }
}

impl Epoch {
    /// Of a mutation: the barrier where a revoker must not make it.
    #[inline(always)]
    pub(crate) fn barrier_before_the_mark(&self) {
        if mutated("barrier-before-the-mark") {
            self.barrier.heavy();
        }
    }
}

/// The arm of `enter` for fabrics without membarrier, out of line so that the fast arm has no fence in it.
#[cold]
#[inline(never)]
fn section_fence() {
    full_fence("no-fence-in-pin");
}
