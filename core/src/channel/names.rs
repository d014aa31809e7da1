//! The regions named by each ring entry, published for revokers.

use crate::sync::{AtomicU64, Ordering, order};
use std::sync::Arc;

/// "No region": an operand that an operation does not have.
pub(crate) const NO_REGION: u32 = (1 << 30) - 1;
/// An entry's word:
///
/// ```text
/// 63 not in flight | 62 one of a group's | 61..32 region read | 29..0 region written
/// ```
///
/// Not in flight, the lower half is how the last one ended. What is plain and in flight has neither upper bit: one
/// test for each completion.
const CLEAR: u64 = 1 << 63;
const MEMBER: u64 = 1 << 62;
/// Windows with posted writes that a channel remembers one by one.
const DIRTY: usize = 8;
/// In a dirty slot: none. In the last dirty slot [`EVERY`]: more windows than slots.
const NONE: u64 = u64::MAX;
const EVERY: u64 = u64::MAX - 1;

/// How an entry ended, as the lower half of its word remembers it until the entry is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Done = 0,
    Device = 1,
    Withdrawn = 2,
    /// A read-back whose value proves nothing.
    Unproved = 3,
}

/// What a revoker finds in an entry that once named its region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Still in flight, naming these.
    InFlight([u32; 2]),
    /// Over.
    Ended(Ended),
}

/// One entry of a ring.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: AtomicU64,
    /// The user's value; the owner's alone.
    pub(crate) cookie: AtomicU64,
}

/// Written by the channel's owner only; read by anyone. One word an entry, so an entry is never seen half.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// A power of two of them.
    entries: Arc<[Entry]>,
    /// Windows that were written since the last flush: region slots.
    dirty: Arc<[AtomicU64; DIRTY]>,
}

impl Names {
    pub(crate) fn new(entries: usize) -> Names {
        let fresh = || Entry { name: AtomicU64::new(CLEAR), cookie: AtomicU64::new(0) };
        Names {
            entries: (0..entries.next_power_of_two()).map(|_| fresh()).collect(),
            dirty: Arc::new(std::array::from_fn(|_| AtomicU64::new(NONE))),
        }
    }

    /// The entry of an index; `None` for one that an engine invented.
    #[inline(always)]
    pub(crate) fn entry(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline(always)]
    pub(crate) const fn in_flight(from: u32, to: u32) -> u64 {
        (from as u64) << 32 | to as u64
    }

    /// The same as one of a group's.
    pub(crate) const fn member(name: u64) -> u64 {
        name | MEMBER
    }

    #[inline(always)]
    pub(crate) fn ended(how: Ended) -> u64 {
        CLEAR | how as u64
    }

    #[inline(always)]
    pub(crate) fn is_in_flight(word: u64) -> bool {
        word & CLEAR == 0
    }

    /// In flight, and an operation of its own.
    #[inline(always)]
    pub(crate) fn is_plain(word: u64) -> bool {
        word & (CLEAR | MEMBER) == 0
    }

    /// The regions in a word that is in flight.
    pub(crate) fn regions(word: u64) -> [u32; 2] {
        [(word >> 32) as u32 & NO_REGION, word as u32 & NO_REGION]
    }

    /// Acquire: if the entry has ended, what its device did happens before what the caller does.
    pub(crate) fn look(&self, index: usize) -> Look {
        let acquire = order(Ordering::Acquire, "names-look-relaxed");
        let word = self.entry(index).map_or(CLEAR, |e| e.name.load(acquire));
        if Names::is_in_flight(word) {
            return Look::InFlight(Names::regions(word));
        }
        Look::Ended(match word as u32 {
            0 => Ended::Done,
            1 => Ended::Device,
            3 => Ended::Unproved,
            _ => Ended::Withdrawn,
        })
    }

    /// Entries in flight for which `wanted` says yes, given the regions they name.
    pub(crate) fn count(&self, wanted: impl Fn([u32; 2]) -> bool) -> u64 {
        let named = |i: &usize| matches!(self.look(*i), Look::InFlight(regions) if wanted(regions));
        (0..self.len()).filter(named).count() as u64
    }

    /// Is an entry in flight for which `wanted` says yes, given the regions it names?
    pub(crate) fn any_in_flight(&self, wanted: impl Fn([u32; 2]) -> bool) -> bool {
        // Acquire, as in `look`.
        self.entries.iter().any(|entry| {
            let word = entry.name.load(Ordering::Acquire);
            Names::is_in_flight(word) && wanted(Names::regions(word))
        })
    }

    /// Every region that an operation in flight names, or that may have posted writes on the way to it.
    pub(crate) fn touched(&self) -> Vec<u32> {
        let mut all = self.dirty().unwrap_or_default();
        for index in 0..self.len() {
            if let Look::InFlight(regions) = self.look(index) {
                all.extend(regions.into_iter().filter(|r| *r != NO_REGION));
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Remembers that `region` (a window) was written. By the owner.
    #[cold]
    #[inline(never)]
    pub(crate) fn soil(&self, region: u32) {
        let mut free = None;
        for slot in self.dirty.iter() {
            match slot.load(Ordering::Relaxed) {
                NONE => free = free.or(Some(slot)),
                held if held == u64::from(region) || held == EVERY => return,
                _ => {}
            }
        }
        match free {
            Some(slot) => slot.store(u64::from(region), Ordering::Relaxed),
            None => self.dirty[DIRTY - 1].store(EVERY, Ordering::Relaxed),
        }
    }

    /// Forgets windows that were flushed. By the owner, or by whoever seized the channel.
    pub(crate) fn clean(&self, flushed: impl Fn(u32) -> bool) {
        for slot in self.dirty.iter() {
            let held = slot.load(Ordering::Relaxed);
            if held < EVERY && flushed(held as u32) {
                slot.store(NONE, Ordering::Relaxed);
            }
        }
    }

    /// Forgets all of them: every window was flushed.
    pub(crate) fn clean_all(&self) {
        self.dirty.iter().for_each(|slot| slot.store(NONE, Ordering::Relaxed));
    }

    /// Was `region` written since its last flush? Read after a grace period.
    pub(crate) fn is_dirty(&self, region: u32) -> bool {
        self.dirty.iter().any(
            |slot| matches!(slot.load(Ordering::Relaxed), held if held == u64::from(region) || held == EVERY),
        )
    }

    /// All windows written since their last flush; `None` if there were too many to remember.
    pub(crate) fn dirty(&self) -> Option<Vec<u32>> {
        let held: Vec<u64> =
            self.dirty.iter().map(|slot| slot.load(Ordering::Relaxed)).filter(|h| *h != NONE).collect();
        (!held.contains(&EVERY)).then(|| held.into_iter().map(|h| h as u32).collect())
    }
}
