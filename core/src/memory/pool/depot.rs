//! The part of a pool that threads share.

use super::{PoolState, Slot};
use crate::region::Region;
use crate::sync::{Mutex, lock};
use crate::tag::RegionTag;

/// Free buffers, by the magazine.
///
/// # Invariants
/// - **P1** A `Slot` is made once for each buffer (`Pool::new`) and then only moved, so no buffer is handed out twice.
/// - **P2** What is put into a closed depot, or belongs to a revoked region, is dropped, outside of the lock: a region
///   that goes with its last buffer revokes itself.
pub(super) struct Depot<T: RegionTag> {
    magazine: usize,
    inner: Mutex<Inner<T>>,
}

struct Inner<T: RegionTag> {
    full: Vec<Vec<Slot<T>>>,
    /// Came one by one, or from a cache that ended; less than a magazine.
    loose: Vec<Slot<T>>,
    /// Kept, so that an exchange allocates nothing.
    empty: Vec<Vec<Slot<T>>>,
    buffers: usize,
    revoked: usize,
    closed: bool,
}

impl<T: RegionTag> Depot<T> {
    pub(super) fn new(magazine: usize, buffers: usize) -> Self {
        let magazines = buffers.div_ceil(magazine);
        Depot {
            magazine,
            inner: Mutex::new(Inner {
                full: Vec::with_capacity(magazines),
                loose: Vec::with_capacity(magazine),
                empty: (0..magazines).map(|_| Vec::with_capacity(magazine)).collect(),
                buffers,
                revoked: 0,
                closed: false,
            }),
        }
    }

    pub(super) fn magazine(&self) -> usize {
        self.magazine
    }

    /// One buffer comes back.
    pub(super) fn put(&self, slot: Slot<T>) {
        let revoked = slot.home.region.is_revoked();
        let gone = {
            let mut inner = lock(&self.inner);
            if revoked {
                inner.revoked += 1;
                Some(slot)
            } else {
                inner.accept(slot, self.magazine)
            }
        };
        drop(gone);
    }

    /// One buffer goes out.
    pub(super) fn get(&self) -> Option<Slot<T>> {
        loop {
            let slot = lock(&self.inner).take()?;
            if !slot.home.region.is_revoked() {
                return Some(slot);
            }
            lock(&self.inner).revoked += 1;
        }
    }

    /// Exchanges an empty magazine for one with buffers; false if there is none. Buffers of revoked regions are sorted
    /// out.
    pub(super) fn refill(&self, into: &mut Vec<Slot<T>>) -> bool {
        debug_assert!(into.is_empty());
        loop {
            {
                let mut inner = lock(&self.inner);
                if let Some(full) = inner.full.pop() {
                    let empty = std::mem::replace(into, full);
                    inner.empty.push(empty);
                } else if !inner.loose.is_empty() {
                    std::mem::swap(into, &mut inner.loose);
                } else {
                    return false;
                }
            }
            self.sort_out(into);
            if !into.is_empty() {
                return true;
            }
        }
    }

    /// Exchanges a full magazine for an empty one.
    pub(super) fn empty(&self, full: &mut Vec<Slot<T>>) {
        self.sort_out(full);
        let gone = {
            let mut inner = lock(&self.inner);
            if inner.closed {
                Some(std::mem::take(full))
            } else if full.len() == self.magazine {
                // As many empty ones as full ones were taken; a cache brought two more.
                let empty = inner.empty.pop().unwrap_or_else(|| Vec::with_capacity(self.magazine));
                inner.full.push(std::mem::replace(full, empty));
                None
            } else {
                for slot in full.drain(..) {
                    let gone = inner.accept(slot, self.magazine);
                    debug_assert!(gone.is_none());
                }
                None
            }
        };
        if gone.is_some() {
            full.reserve(self.magazine);
        }
        drop(gone);
    }

    /// A cache begins: room for the magazines that it brings when it is full.
    pub(super) fn cache(&self) -> [Vec<Slot<T>>; 2] {
        let mut inner = lock(&self.inner);
        inner.full.reserve(2);
        inner.empty.reserve(2);
        [Vec::with_capacity(self.magazine), Vec::with_capacity(self.magazine)]
    }

    pub(super) fn close(&self) {
        let gone = {
            let mut inner = lock(&self.inner);
            inner.closed = true;
            (std::mem::take(&mut inner.full), std::mem::take(&mut inner.loose))
        };
        drop(gone);
    }

    pub(super) fn state(&self) -> PoolState {
        let inner = lock(&self.inner);
        let free = inner.full.iter().map(Vec::len).sum::<usize>() + inner.loose.len();
        PoolState { buffers: inner.buffers, free, revoked: inner.revoked }
    }

    /// Drops the buffers of revoked regions. One look per run of buffers of the same region.
    fn sort_out(&self, slots: &mut Vec<Slot<T>>) {
        let mut last: Option<(*const Region<T>, bool)> = None;
        let before = slots.len();
        slots.retain(|slot| {
            let region = &slot.home.region;
            match last {
                Some((same, revoked)) if std::ptr::eq(same, region) => !revoked,
                _ => {
                    let revoked = region.is_revoked();
                    last = Some((region, revoked));
                    !revoked
                }
            }
        });
        let revoked = before - slots.len();
        if revoked > 0 {
            lock(&self.inner).revoked += revoked;
        }
    }
}

impl<T: RegionTag> Inner<T> {
    /// The slot comes back where the depot is closed: to be dropped without the lock.
    fn accept(&mut self, slot: Slot<T>, magazine: usize) -> Option<Slot<T>> {
        if self.closed {
            return Some(slot);
        }
        if self.loose.len() == magazine {
            let empty = self.empty.pop().unwrap_or_else(|| Vec::with_capacity(magazine));
            let full = std::mem::replace(&mut self.loose, empty);
            self.full.push(full);
        }
        self.loose.push(slot);
        None
    }

    fn take(&mut self) -> Option<Slot<T>> {
        if self.loose.is_empty() {
            let full = self.full.pop()?;
            let empty = std::mem::replace(&mut self.loose, full);
            self.empty.push(empty);
        }
        self.loose.pop()
    }
}
