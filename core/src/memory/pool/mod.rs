//! Pools of equal buffers.
//!
//! A [`Pool`] cuts registered regions into buffers. A poller takes and gives back through its own [`PoolCache`]: two
//! *magazines* (arrays of free buffers) that no other thread sees, so `get` and `put` are a few loads and stores, no
//! lock, no atomic read-modify-write, no allocation. When both run empty or full, one whole magazine is exchanged with
//! the pool's *depot* under a mutex: a few moves, whatever the magazine's size (after Bonwick and Adams, "Magazines and
//! Vmem", USENIX 2001; DPDK's mempool copies buffer by buffer there). A mutex, since the exchange is rare and short; a
//! holder that is preempted holds up those who exchange, and nobody else.
//!
//! ```
//! use tidegate_core::memory::Pool;
//! use tidegate_core::{Access, Fabric, Memory};
//!
//! let fabric = Fabric::builder().build()?;
//! let region = fabric.register(Memory::allocate("rx", 1 << 20)?.backing(), Access::ReadWrite)?;
//! let pool = Pool::new([region], 2048, 32)?; // 512 buffers, magazines of 32
//! let mut cache = pool.cache(); // goes to the poller's thread
//! let buffer = cache.get().ok_or("all buffers are out")?;
//! buffer.write(0, b"hello")?;
//! let span = buffer.span(0..5); // for `Op::copy` and the others; keep the buffer until it completed
//! cache.put(buffer);
//! # let _ = span;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod depot;
mod nodes;

pub use cache::PoolCache;
pub use nodes::Pools;

use crate::region::{Handle, Region, RegionError, Span};
use crate::tag::RegionTag;
use depot::Depot;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Equal buffers out of regions with tag `T`. Dropping it takes the free buffers away; the ones that are out stay good,
/// and when a region's last buffer is dropped, the region is (it is revoked in the background).
pub struct Pool<T: RegionTag> {
    depot: Arc<Depot<T>>,
    size: u64,
}

/// A buffer of a pool. Dropping it gives it back to the pool's depot, from any thread, under the depot's lock;
/// [`PoolCache::put`] is the cheap way.
///
/// While DMA into or out of it is under way, keep it: what was given back is handed out again, and the bytes would mix.
/// Nothing else would break (the memory stays registered, and is reached by volatile accesses only).
#[must_use = "dropping it gives it back"]
pub struct Buffer<T: RegionTag> {
    /// `None` only while it is being dropped or put.
    slot: Option<Slot<T>>,
}

/// What a pool holds and how it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolState {
    /// Buffers that the pool was made of.
    pub buffers: usize,
    /// Free in the depot. The ones in caches count as out.
    pub free: usize,
    /// Taken out of use, since their region was revoked. Counted when they pass the depot; until then
    /// operations that name them are answered with `Stale`.
    pub revoked: usize,
}

/// A pool could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// No region is as long as one buffer, or a length is 0.
    #[error(
        "no buffer of {size} bytes fits into the regions ({bytes} bytes in all), or magazines of {magazine}"
    )]
    Empty {
        /// Bytes of a buffer asked for.
        size: u64,
        /// Bytes of the regions.
        bytes: u64,
        /// Buffers of a magazine.
        magazine: usize,
    },
    /// There are 2^32 buffers or more.
    #[error("2^32 buffers or more")]
    Many,
}

/// What the buffers of a region share, read-only: a line or two that stays in each core's cache. One count for each
/// buffer, so the region lives as long as any of them.
struct Home<T: RegionTag> {
    handle: Handle<T>,
    /// Bytes of a buffer.
    size: u64,
    /// The pool's number of the region's first buffer.
    first: u32,
    depot: Arc<Depot<T>>,
    region: Region<T>,
}

/// One buffer: exactly one of these exists for each, free or in a [`Buffer`], and it moves. Two words, since moving is
/// most of what `get` and `put` do.
struct Slot<T: RegionTag> {
    home: Arc<Home<T>>,
    /// Which of the region's buffers: it starts at `index * size`.
    index: u32,
}

impl<T: RegionTag> Pool<T> {
    /// Cuts regions (host memory of the fabric or of a domain, or windows) into buffers of `size` bytes, each at a
    /// multiple of `size` in its region; a rest stays unused. `magazine` is how many buffers a cache exchanges with the
    /// depot at a time; it holds two of that: take the burst, and see that the pool has some magazines for each
    /// cache. Allocates; no system call.
    ///
    /// # Errors
    /// [`PoolError`]; the regions are dropped then.
    pub fn new(
        regions: impl IntoIterator<Item = Region<T>>,
        size: u64,
        magazine: usize,
    ) -> Result<Pool<T>, PoolError> {
        let regions: Vec<_> = regions.into_iter().collect();
        let bytes = regions.iter().map(Region::len).fold(0, u64::saturating_add);
        let empty = PoolError::Empty { size, bytes, magazine };
        if size == 0 || magazine == 0 {
            return Err(empty);
        }
        let fit = |region: &Region<T>| region.len() / size;
        let count = regions.iter().map(fit).fold(0, u64::saturating_add);
        match count {
            0 => return Err(empty),
            _ if count > u64::from(u32::MAX) => return Err(PoolError::Many),
            _ => {}
        }
        let depot = Arc::new(Depot::new(magazine, count as usize));
        let mut first = 0;
        for region in regions {
            // Below 2^32 in all, as checked.
            let (count, handle) = (fit(&region) as u32, region.handle());
            let home = Arc::new(Home { handle, size, first, depot: depot.clone(), region });
            first = first.wrapping_add(count);
            for index in 0..count {
                depot.put(Slot { home: home.clone(), index });
            }
        }
        Ok(Pool { depot, size })
    }

    /// A cache for one thread at a time. Empty at first. Allocates, here and not later.
    pub fn cache(&self) -> PoolCache<T> {
        PoolCache::new(&self.depot)
    }

    /// A free buffer of the depot, or `None`: all are out, or in caches. Takes the depot's lock: for set-up, and for
    /// threads that need a buffer now and then.
    pub fn get(&self) -> Option<Buffer<T>> {
        self.depot.get().map(Buffer::new)
    }

    /// How many buffers are where. Takes the depot's lock.
    pub fn state(&self) -> PoolState {
        self.depot.state()
    }

    /// Bytes of a buffer.
    pub fn buffer_len(&self) -> u64 {
        self.size
    }
}

impl<T: RegionTag> Drop for Pool<T> {
    fn drop(&mut self) {
        self.depot.close();
    }
}

impl<T: RegionTag> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({:?})", self.state())
    }
}

impl<T: RegionTag> Buffer<T> {
    #[inline]
    fn new(slot: Slot<T>) -> Self {
        Buffer { slot: Some(slot) }
    }

    /// A piece of the buffer, for operations; a value. What reaches beyond the buffer (also where its neighbour lies
    /// there) is a span that submit answers with `Denied(Bounds)`. No cost.
    #[inline]
    pub fn span(&self, at: Range<u64>) -> Span<T> {
        let slot = self.slot();
        let (size, start) = (slot.home.size, slot.start());
        let inside = at.start <= at.end && at.end <= size;
        // Beyond every region.
        let beyond = u64::MAX - 1..u64::MAX;
        slot.home.handle.span(if inside { start + at.start..start + at.end } else { beyond })
    }

    /// Which of the pool's buffers it is: 0 to [`PoolState::buffers`] - 1, for tables beside the pool, or as a cookie.
    #[inline]
    pub fn index(&self) -> u32 {
        let slot = self.slot();
        slot.home.first + slot.index
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    #[inline]
    pub fn len(&self) -> u64 {
        self.slot().home.size
    }

    /// Reads the buffer's host memory (volatile).
    ///
    /// # Errors
    /// As [`Region::read`]; beyond the buffer is [`RegionError::Range`].
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<(), RegionError> {
        let (region, start) = self.bytes(at, into.len())?;
        region.read(start, into)
    }

    /// Writes the buffer's host memory (volatile).
    ///
    /// # Errors
    /// As [`Buffer::read`].
    pub fn write(&self, at: u64, from: &[u8]) -> Result<(), RegionError> {
        let (region, start) = self.bytes(at, from.len())?;
        region.write(start, from)
    }

    fn bytes(&self, at: u64, len: usize) -> Result<(&Region<T>, u64), RegionError> {
        let slot = self.slot();
        let (len, size) = (len as u64, slot.home.size);
        match at.checked_add(len) {
            Some(end) if end <= size => Ok((&slot.home.region, slot.start() + at)),
            _ => Err(RegionError::Range { at, len, size }),
        }
    }

    #[inline]
    fn slot(&self) -> &Slot<T> {
        match &self.slot {
            Some(slot) => slot,
            None => unreachable!("taken by drop and by put only, which end the buffer"),
        }
    }
}

impl<T: RegionTag> Slot<T> {
    #[inline]
    fn start(&self) -> u64 {
        u64::from(self.index) * self.home.size
    }
}

impl<T: RegionTag> Drop for Buffer<T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            give_back(slot);
        }
    }
}

#[cold]
#[inline(never)]
fn give_back<T: RegionTag>(slot: Slot<T>) {
    let depot = slot.home.depot.clone();
    depot.put(slot);
}

impl<T: RegionTag> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = self.slot();
        write!(f, "Buffer({} at {:?}+{:#x})", self.index(), slot.home.handle, slot.start())
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
