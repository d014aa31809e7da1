//! Regions: registered ranges that DMA may touch; handles and spans that name them.
//!
//! A [`Region`] owns its registration: dropping it revokes it in the background. A [`Handle`] is a value (copy it
//! anywhere); a [`Span`] is a piece of one. Neither holds an address: both are checked when an operation is
//! submitted, against the slot's current word, in one cache line.

mod mapping;
mod numbers;
pub(crate) mod slot;
pub(crate) mod slots;
pub(crate) mod table;

pub use mapping::{Extent, MapError, Mapping};

use crate::drain::{Gate, Revocation};
use crate::fabric::Shared as FabricShared;
use crate::memory::{Backing, Memory};
use crate::sync::{AtomicU64, Ordering};
use crate::tag::{Declassified, Private, Reason, RegionTag, Tag};
use crate::{Cause, Deadline};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

/// Counts the registrations that a slot has held; a handle is good for one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u32);

/// What kind of memory a region is; with the tag it decides which requests reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Host memory, reached by T=0 requests and by T=1 requests of the domain's TDIs.
    Host,
    /// A window into a peer's BAR that ordinary (T=0) requests reach.
    SharedWindow,
    /// A window that T=1 requests of the same trust domain reach.
    PrivateWindow,
}

/// Which way DMA may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Engines and devices read it.
    Read,
    /// They write it.
    Write,
    /// Both.
    ReadWrite,
}

impl Access {
    pub(crate) fn readable(self) -> bool {
        self != Access::Write
    }
    pub(crate) fn writable(self) -> bool {
        self != Access::Read
    }
}

/// What a region is made of: kept until nothing can touch it any more.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) memory: Option<Arc<Memory>>,
    pub(crate) memory_offset: u64,
    pub(crate) mapping: Option<Arc<dyn Mapping>>,
    /// Gate of the device whose BAR this is.
    pub(crate) exporter: Option<Gate>,
}

/// The registration itself, shared by the owner, running revocations and the quarantine.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) fabric: Arc<FabricShared>,
    pub(crate) index: u32,
    pub(crate) bits: u64,
    pub(crate) len: u64,
    pub(crate) class: Class,
    pub(crate) hold: Hold,
    /// 1 when a revoke of it has ended. Kept for windows, whose gates ask.
    pub(crate) gone: AtomicU64,
}

impl Inner {
    /// Nothing but a slot and memory of this process: no mapping to remove, no gate that counts it.
    pub(crate) fn is_plain(&self) -> bool {
        self.class == Class::Host && self.hold.mapping.is_none() && self.hold.exporter.is_none()
    }

    /// Has a revoke of it ended?
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire) != 0
    }
}

/// A registered range with tag `T`. Dropping it revokes it on the control thread.
#[derive(Debug)]
pub struct Region<T: RegionTag> {
    pub(crate) inner: Arc<Inner>,
    tag: PhantomData<T>,
}

impl<T: RegionTag> Region<T> {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        debug_assert_eq!(T::PRIVATE, inner.class == Class::PrivateWindow);
        Region { inner, tag: PhantomData }
    }

    /// Names the region; a value, good until the region is revoked. No cost.
    pub fn handle(&self) -> Handle<T> {
        Handle { index: self.inner.index, bits: self.inner.bits, len: self.inner.len, tag: PhantomData }
    }

    /// The whole region as a span.
    pub fn span(&self) -> Span<T> {
        self.handle().span(0..self.inner.len)
    }

    /// Bytes. Never 0.
    #[allow(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> u64 {
        self.inner.len
    }

    /// Host memory or a window?
    pub fn class(&self) -> Class {
        self.inner.class
    }

    /// Makes the region unusable, for good: no operation that names it is accepted any more, what is in flight
    /// drains (or is cancelled, see [`Deadline`]), posted writes are flushed, its mapping is removed. Costs a
    /// grace period and, for mappings, system calls on the control thread; nothing of it blocks this call: turn
    /// or wait the [`Revocation`]. Racing revokers all end when nothing is alive.
    pub fn revoke(&self, why: Cause, by: Deadline) -> Revocation {
        Revocation::begin(&self.inner.fabric, &[self.revocable()], why, by)
    }

    /// Reads the region's host memory (volatile; bytes a device is writing may be mixed).
    ///
    /// # Errors
    /// [`RegionError::NotHost`] for windows, [`RegionError::Range`], [`RegionError::Stale`] after a revoke.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<(), RegionError> {
        let (memory, offset) = self.host(at, into.len())?;
        memory.read(offset, into).map_err(|_| RegionError::Range {
            at,
            len: into.len() as u64,
            size: self.len(),
        })
    }

    /// Writes the region's host memory (volatile).
    ///
    /// # Errors
    /// As [`Region::read`].
    pub fn write(&self, at: u64, from: &[u8]) -> Result<(), RegionError> {
        let (memory, offset) = self.host(at, from.len())?;
        memory.write(offset, from).map_err(|_| RegionError::Range {
            at,
            len: from.len() as u64,
            size: self.len(),
        })
    }

    fn host(&self, at: u64, len: usize) -> Result<(&Memory, u64), RegionError> {
        let memory = self.inner.hold.memory.as_deref().ok_or(RegionError::NotHost)?;
        if self.is_revoked() {
            return Err(RegionError::Stale);
        }
        match at.checked_add(len as u64) {
            Some(end) if end <= self.len() => Ok((memory, self.inner.hold.memory_offset + at)),
            _ => Err(RegionError::Range { at, len: len as u64, size: self.len() }),
        }
    }

    /// Has a revoke of it begun? One load.
    pub fn is_revoked(&self) -> bool {
        !self.inner.fabric.table.is_live(self.inner.index, self.inner.bits)
    }

    /// Has a revoke of it ended, by force or not? Nothing of it is done later. Takes a lock.
    pub fn is_ended(&self) -> bool {
        self.is_revoked() && self.inner.fabric.has_ended(self.inner.index, self.inner.bits)
    }
}

impl<T: RegionTag> Drop for Region<T> {
    fn drop(&mut self) {
        let revoke = (!self.is_revoked()).then(|| self.revoke(Cause::Dropped, Deadline::default()));
        // While a drain or the quarantine has it, the memory stays.
        self.inner.fabric.keep(&self.inner);
        drop(revoke);
    }
}

/// A copyable name of a region of tag `T`: checked at every use, never resurrected.
pub struct Handle<T: Tag> {
    pub(crate) index: u32,
    pub(crate) bits: u64,
    pub(crate) len: u64,
    tag: PhantomData<T>,
}

impl<T: Tag> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Tag> Copy for Handle<T> {}
impl<T: Tag> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.bits) == (other.index, other.bits)
    }
}
impl<T: Tag> Eq for Handle<T> {}
impl<T: Tag> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({}.{})", self.index, self.bits >> slot::word::GENERATION_SHIFT)
    }
}

impl<T: Tag> Handle<T> {
    /// The bytes `at` of the region; a value. Bounds are checked here, against the length that the handle carries
    /// (T3); the answer to a span that is out of bounds or empty comes from submit.
    #[inline(always)]
    pub fn span(self, at: Range<u64>) -> Span<T> {
        let fits = (at.start < at.end && at.end <= self.len) || cfg!(tidegate_unchecked);
        let bits = if fits { self.bits } else { self.bits | slot::word::BEYOND };
        let len = at.end.wrapping_sub(at.start);
        Span { raw: RawSpan { index: self.index, bits, start: at.start, len }, tag: PhantomData }
    }

    /// Bytes of the region.
    #[allow(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(self) -> u64 {
        self.len
    }

    /// The registration it is good for.
    pub fn generation(self) -> Generation {
        Generation((self.bits >> slot::word::GENERATION_SHIFT) as u32)
    }
}

/// A piece of a region of tag `T`.
pub struct Span<T: Tag> {
    pub(crate) raw: RawSpan,
    tag: PhantomData<T>,
}

impl<T: Tag> Clone for Span<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Tag> Copy for Span<T> {}
impl<T: Tag> fmt::Debug for Span<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Span({}+{:#x}..+{:#x})", self.raw.index, self.raw.start, self.raw.len)
    }
}

impl Span<Private> {
    /// Lets private bytes flow to shared memory, for a reason; each operation that uses it is counted.
    pub fn declassify(self, why: Reason) -> Span<Declassified> {
        let _ = why;
        Span { raw: self.raw, tag: PhantomData }
    }
}

/// A span without its tag, as an operation carries it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawSpan {
    pub(crate) index: u32,
    pub(crate) bits: u64,
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// Access to a region's bytes, or its registration, was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// Revoked.
    #[error("the region was revoked")]
    Stale,
    /// A window: the CPU reaches it through its device, not through the region.
    #[error("the region is a window, not host memory")]
    NotHost,
    /// Out of bounds.
    #[error("{at:#x}+{len:#x} is outside the region of {size:#x} bytes")]
    Range {
        /// Start.
        at: u64,
        /// Bytes.
        len: u64,
        /// Size of the region or memory.
        size: u64,
    },
    /// All region slots are taken (or retired): build the fabric with more.
    #[error("all {slots} region slots are taken")]
    Slots {
        /// How many there are.
        slots: u32,
    },
    /// The exporter's gate is closed.
    #[error("the device's gate is closed ({why:?})")]
    GateClosed {
        /// Why.
        why: Cause,
    },
    /// The tag asked for is not the tag of the class.
    #[error("a {class:?} region can't carry that tag")]
    Tag {
        /// The class.
        class: Class,
    },
}

impl Hold {
    pub(crate) fn host(backing: &Backing) -> Hold {
        Hold {
            memory: Some(backing.memory.clone()),
            memory_offset: backing.range.start,
            mapping: None,
            exporter: None,
        }
    }
}
