//! A slot: the one cache line of a region that the hot path reads, and what its word means.

use crate::sync::{AtomicU64, Ordering};

/// Bit layout of a slot's word.
///
/// ```text
/// 63..32 generation | 31..20 domain | 19..12 fabric | 11..7 addresses, rights | 6..0 live, class
/// ```
pub(crate) mod word {
    pub(crate) const LIVE: u64 = 1;
    /// Host memory.
    pub(crate) const HOST: u64 = 1 << 1;
    /// A peer's BAR, reached by T=0 requests.
    pub(crate) const SHARED_WINDOW: u64 = 1 << 2;
    /// A peer's BAR, reached by T=1 requests.
    pub(crate) const PRIVATE_WINDOW: u64 = 1 << 3;
    pub(crate) const WINDOWS: u64 = SHARED_WINDOW | PRIVATE_WINDOW;
    /// Devices and engines may read it.
    pub(crate) const READ: u64 = 1 << 7;
    /// Devices and engines may write it.
    pub(crate) const WRITE: u64 = 1 << 8;
    /// It has an address in this process.
    pub(crate) const CPU: u64 = 1 << 9;
    /// In a span only, never in a slot: it was made out of bounds, so no slot's word matches it.
    pub(crate) const BEYOND: u64 = 1 << 6;
    /// It has an address in its domain.
    pub(crate) const DEVICE: u64 = 1 << 10;
    pub(crate) const ADDRESSES: u64 = CPU | DEVICE;

    pub(crate) const FABRIC_SHIFT: u32 = 12;
    pub(crate) const FABRIC: u64 = 0xff << FABRIC_SHIFT;
    pub(crate) const DOMAIN_SHIFT: u32 = 20;
    pub(crate) const DOMAIN: u64 = 0xfff << DOMAIN_SHIFT;
    pub(crate) const GENERATION_SHIFT: u32 = 32;
    pub(crate) const GENERATION: u64 = !0 << GENERATION_SHIFT;
}

/// What the hot path needs to know of a region.
///
/// # Invariants
/// - **T2** `device`, `cpu` and `len` change only while `word` is not LIVE and a grace period has passed since it
///   was, so a section that saw LIVE reads the values of that generation.
/// - **T3** A fabric's number, an index and a generation are given to one registration in the life of the process
///   (see [`numbers`](super::numbers)): who finds them in a slot's word has a handle of what lies there now, and the length in the
///   handle is the region's. So bounds are checked where a span is made, not at each submit.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Slot {
    pub(crate) word: AtomicU64,
    pub(crate) device: AtomicU64,
    pub(crate) cpu: AtomicU64,
    pub(crate) len: AtomicU64,
}

impl Slot {
    /// Marks a slot if it still holds the registration that `bits` names: no section that begins after the grace
    /// period that follows accepts it. Relaxed is enough: the bump that follows publishes it. A load and a store: only
    /// revokers write the word of a live slot, and they hold the lock of `fabric::runs`.
    #[inline(always)]
    pub(crate) fn take(&self, bits: u64) -> Seen {
        let seen = self.word.load(Ordering::Relaxed);
        match (seen ^ bits) & (word::GENERATION | word::FABRIC | word::LIVE) {
            0 => {
                self.word.store(seen & !word::LIVE, Ordering::Relaxed);
                Seen::Marked
            }
            word::LIVE => Seen::Revoked,
            _ => Seen::Other,
        }
    }

    #[cfg(loom)]
    pub(super) fn empty() -> Slot {
        let zero = || AtomicU64::new(0);
        Slot { word: zero(), device: zero(), cpu: zero(), len: zero() }
    }
}

/// What a revoker found in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Live; it is marked now.
    Marked,
    /// The registration it asked for, marked before.
    Revoked,
    /// A later registration.
    Other,
}
