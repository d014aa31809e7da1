//! A poller's own part of a pool.

use super::depot::Depot;
use super::{Buffer, Slot};
use crate::tag::RegionTag;
use std::fmt;
use std::sync::Arc;

/// Free buffers that one thread at a time takes and gives back without a lock, an atomic read-modify-write or an
/// allocation. Goes back to the pool with all it holds when it is dropped. Outlives its [`super::Pool`].
pub struct PoolCache<T: RegionTag> {
    depot: Arc<Depot<T>>,
    /// In use.
    loaded: Vec<Slot<T>>,
    /// Full or empty: a thread that goes to and fro at the edge of a magazine does not go to the depot each time.
    spare: Vec<Slot<T>>,
    magazine: usize,
}

impl<T: RegionTag> PoolCache<T> {
    pub(super) fn new(depot: &Arc<Depot<T>>) -> Self {
        let [loaded, spare] = depot.cache();
        PoolCache { magazine: depot.magazine(), depot: depot.clone(), loaded, spare }
    }

    /// A free buffer, or `None`: neither this cache nor the depot has one (other caches may). Every so often one
    /// exchange with the depot, under its lock.
    #[inline]
    pub fn get(&mut self) -> Option<Buffer<T>> {
        match self.loaded.pop() {
            Some(slot) => Some(Buffer::new(slot)),
            None => self.get_more(),
        }
    }

    /// Gives a buffer back. One of another pool goes home to that one's depot.
    #[inline]
    pub fn put(&mut self, mut buffer: Buffer<T>) {
        if self.loaded.len() == self.magazine {
            self.make_room();
        }
        match buffer.slot.take() {
            Some(slot) if Arc::ptr_eq(&slot.home.depot, &self.depot) => self.loaded.push(slot),
            // Dropped, as it was.
            slot => buffer.slot = slot,
        }
    }

    /// Free buffers that it holds.
    pub fn free(&self) -> usize {
        self.loaded.len() + self.spare.len()
    }

    #[cold]
    #[inline(never)]
    fn get_more(&mut self) -> Option<Buffer<T>> {
        if !self.spare.is_empty() {
            std::mem::swap(&mut self.loaded, &mut self.spare);
        } else if !self.depot.refill(&mut self.loaded) {
            return None;
        }
        self.loaded.pop().map(Buffer::new)
    }

    #[cold]
    #[inline(never)]
    fn make_room(&mut self) {
        if !self.spare.is_empty() {
            self.depot.empty(&mut self.spare);
        }
        std::mem::swap(&mut self.loaded, &mut self.spare);
    }
}

impl<T: RegionTag> Drop for PoolCache<T> {
    fn drop(&mut self) {
        self.depot.empty(&mut self.loaded);
        self.depot.empty(&mut self.spare);
    }
}

impl<T: RegionTag> fmt::Debug for PoolCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolCache({} free)", self.free())
    }
}
