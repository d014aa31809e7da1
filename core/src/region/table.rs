//! The slot table: one cache line for each region, which the hot path reads and revokers mark.

use super::Class;
#[cfg(all(test, not(loom)))]
use super::Generation;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use std::collections::VecDeque;

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

/// A slot that reaches this generation is retired rather than reused, so no handle ever becomes valid again.
#[cfg(not(test))]
const LAST_GENERATION: u32 = u32::MAX;
#[cfg(test)]
const LAST_GENERATION: u32 = 5;

/// Slots of one fabric at most (the index rides in half a word beside each ring entry).
pub(crate) const MAX_SLOTS: u32 = 1 << 20;

/// What the hot path needs to know of a region.
///
/// # Invariants
/// `device`, `cpu` and `len` change only while `word` is not LIVE and a grace period has passed since it was, so
/// a section that saw LIVE reads the values of that generation.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Slot {
    pub(crate) word: AtomicU64,
    pub(crate) device: AtomicU64,
    pub(crate) cpu: AtomicU64,
    pub(crate) len: AtomicU64,
}

impl Slot {
    fn empty() -> Slot {
        Slot {
            word: AtomicU64::new(0),
            device: AtomicU64::new(0),
            cpu: AtomicU64::new(0),
            len: AtomicU64::new(0),
        }
    }
}

/// Where a region lies, for its slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) class: Class,
    pub(crate) domain: u16,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) device: Option<u64>,
    pub(crate) cpu: Option<u64>,
    pub(crate) len: u64,
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

/// All slots of a fabric.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Box<[Slot]>,
    fabric: u64,
    free: Mutex<Free>,
}

#[derive(Debug)]
struct Free {
    /// First slot never used.
    fresh: u32,
    /// Released slots, oldest first.
    reusable: VecDeque<u32>,
}

impl Table {
    /// A table of `capacity` slots (at most [`MAX_SLOTS`]). `fabric` tells handles of different fabrics apart.
    pub(crate) fn new(capacity: u32, fabric: u8) -> Table {
        Table {
            slots: (0..capacity.clamp(1, MAX_SLOTS)).map(|_| Slot::empty()).collect(),
            fabric: u64::from(fabric) << word::FABRIC_SHIFT,
            free: Mutex::new(Free { fresh: 0, reusable: VecDeque::new() }),
        }
    }

    /// The slot of a handle; `None` only for a handle of a larger fabric.
    #[inline(always)]
    pub(crate) fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.get(index as usize)
    }

    /// Takes a slot, writes the place, then makes it live. `None`: all slots are taken or retired.
    pub(crate) fn publish(&self, place: Place) -> Option<(u32, u64)> {
        let index = {
            let mut free = lock(&self.free);
            match free.reusable.pop_front() {
                Some(index) => index,
                None if (free.fresh as usize) < self.slots.len() => {
                    free.fresh += 1;
                    free.fresh - 1
                }
                None => return None,
            }
        };
        let slot = self.slot(index)?;
        // Relaxed: the slot is not live, and whoever learns the new handle got it through something stronger.
        let generation = (slot.word.load(Ordering::Relaxed) >> word::GENERATION_SHIFT) + 1;
        slot.device.store(place.device.unwrap_or(0), Ordering::Relaxed);
        slot.cpu.store(place.cpu.unwrap_or(0), Ordering::Relaxed);
        slot.len.store(place.len, Ordering::Relaxed);
        let class = match place.class {
            Class::Host => word::HOST,
            Class::SharedWindow => word::SHARED_WINDOW,
            Class::PrivateWindow => word::PRIVATE_WINDOW,
        };
        let bits = generation << word::GENERATION_SHIFT
            | u64::from(place.domain) << word::DOMAIN_SHIFT & word::DOMAIN
            | self.fabric
            | class
            | if place.readable { word::READ } else { 0 }
            | if place.writable { word::WRITE } else { 0 }
            | if place.cpu.is_some() { word::CPU } else { 0 }
            | if place.device.is_some() { word::DEVICE } else { 0 };
        // Release: the place is written before the word says it may be read.
        slot.word.store(bits | word::LIVE, Ordering::Release);
        Some((index, bits & (word::GENERATION | word::FABRIC) | word::LIVE))
    }

    /// Marks a slot if it still holds the registration that `bits` names: no section that begins after the grace
    /// period that follows accepts it. Relaxed is enough: the bump that follows publishes it. A load and a store: only
    /// revokers write the word of a live slot, and they hold the lock of `fabric::runs`.
    #[inline]
    pub(crate) fn take(&self, index: u32, bits: u64) -> Seen {
        let Some(slot) = self.slot(index) else { return Seen::Other };
        let seen = slot.word.load(Ordering::Relaxed);
        match (seen ^ bits) & (word::GENERATION | word::FABRIC | word::LIVE) {
            0 => {
                slot.word.store(seen & !word::LIVE, Ordering::Relaxed);
                Seen::Marked
            }
            word::LIVE => Seen::Revoked,
            _ => Seen::Other,
        }
    }

    /// Does the slot hold the registration that `bits` names, live or marked?
    pub(crate) fn is_registered(&self, index: u32, bits: u64) -> bool {
        let seen = self.slot(index).map_or(0, |slot| slot.word.load(Ordering::Relaxed));
        (seen ^ bits) & (word::GENERATION | word::FABRIC) == 0
    }

    /// What names the registration that the slot holds, live or marked.
    pub(crate) fn bits(&self, index: u32) -> u64 {
        let seen = self.slot(index).map_or(0, |slot| slot.word.load(Ordering::Relaxed));
        seen & (word::GENERATION | word::FABRIC) | word::LIVE
    }

    /// And is it live?
    pub(crate) fn is_live(&self, index: u32, bits: u64) -> bool {
        let seen = self.slot(index).map_or(0, |slot| slot.word.load(Ordering::Relaxed));
        (seen ^ bits) & (word::GENERATION | word::FABRIC | word::LIVE) == 0
    }

    /// Marks a slot, whatever it holds.
    #[cfg(test)]
    pub(crate) fn mark(&self, index: u32) {
        if let Some(slot) = self.slot(index) {
            slot.word.fetch_and(!word::LIVE, Ordering::Relaxed);
        }
    }

    /// Gives a marked slot back for reuse. Only after a grace period that followed the mark.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn recycle(&self, index: u32) {
        self.recycle_all(&[index]);
    }

    /// Gives marked slots back for reuse, under one lock. Only after a grace period that followed their marks.
    pub(crate) fn recycle_all(&self, slots: &[u32]) {
        let mut free = lock(&self.free);
        for index in slots {
            let Some(slot) = self.slot(*index) else { continue };
            let generation = slot.word.load(Ordering::Relaxed) >> word::GENERATION_SHIFT;
            if generation < u64::from(LAST_GENERATION) {
                free.reusable.push_back(*index);
            }
        }
    }

    /// Slots there are.
    pub(crate) fn capacity(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Address of a region in its domain; for a slot that is held (not recycled).
    pub(crate) fn device_address(&self, index: u32) -> u64 {
        self.slot(index).map_or(0, |slot| slot.device.load(Ordering::Relaxed))
    }

    /// Generation a slot shows now.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn generation(&self, index: u32) -> Generation {
        let bits = self.slot(index).map_or(0, |slot| slot.word.load(Ordering::Relaxed));
        Generation((bits >> word::GENERATION_SHIFT) as u32)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const PLACE: Place = Place {
        class: Class::Host,
        domain: 3,
        readable: true,
        writable: true,
        device: Some(0x1000),
        cpu: None,
        len: 4096,
    };

    #[test]
    fn a_slot_fills_one_cache_line_at_most() {
        assert!(size_of::<Slot>() <= 64);
    }

    #[test]
    fn handles_never_resurrect_and_a_slot_retires_before_its_generation_wraps() {
        let table = Table::new(1, 1);
        let mut seen = Vec::new();
        while let Some((index, bits)) = table.publish(PLACE) {
            let live = table.slot(index).unwrap().word.load(Ordering::Relaxed);
            assert_eq!(live & bits, bits);
            assert!(!seen.contains(&bits), "generation reused");
            seen.push(bits);
            table.mark(index);
            table.recycle(index);
        }
        assert_eq!(seen.len(), LAST_GENERATION as usize);
        assert_eq!(table.generation(0), Generation(LAST_GENERATION));
    }
}
