//! The memory of a slot table: lazily backed, never moved.
#![expect(
    unsafe_code,
    reason = "slots in an anonymous mapping; region/table.rs and core/tests guard the index arithmetic"
)]

use super::slot::Slot;
#[cfg(not(loom))]
use std::ptr::NonNull;

/// A power of two of slots, all zero at first. Pages that no region ever used cost no memory.
///
/// # Invariants
/// - **T1** `base` is the first of `mask + 1` slots inside `map`, which lives as long as this value and is never
///   unmapped, moved or made smaller before. Slots are only ever reached as `&Slot`, whose fields are atomics.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct Slots {
    base: NonNull<Slot>,
    mask: u32,
    /// Keeps T1.
    #[allow(dead_code, reason = "held, not read")]
    map: memmap2::MmapRaw,
}

// SAFETY: 1. T1: what is reached through `base` is `Slot`, which is Sync and Send.
#[cfg(not(loom))]
unsafe impl Sync for Slots {}
// SAFETY: 1. as above.
#[cfg(not(loom))]
unsafe impl Send for Slots {}

#[cfg(not(loom))]
impl Slots {
    /// `wanted` slots or more. One mmap.
    ///
    /// # Errors
    /// The mapping was refused (address space or overcommit limits).
    pub(crate) fn new(wanted: u32) -> std::io::Result<Slots> {
        let count = wanted.next_power_of_two();
        let bytes = count as usize * size_of::<Slot>();
        let map = memmap2::MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
        #[cfg(target_os = "linux")]
        if bytes >= 2 << 20 {
            // One translation for 32,768 slots instead of 64. Refused where huge pages are off: no harm.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        let map = memmap2::MmapRaw::from(map);
        let base = NonNull::new(map.as_mut_ptr().cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Slots { base, mask: count - 1, map })
    }

    /// The slot `index`, modulo the number of slots. No branch.
    #[inline(always)]
    pub(crate) fn at(&self, index: u32) -> &Slot {
        let index = (index & self.mask) as usize;
        // SAFETY: 1. T1: `index <= mask`, so this stays inside the mapping.
        let slot = unsafe { self.base.add(index) };
        // SAFETY: 1. T1: alive, page-aligned at its start, zero is a valid `Slot`, and nobody has a `&mut` to it.
        unsafe { slot.as_ref() }
    }
}

/// For the models: loom's atomics are made one by one.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct Slots(Box<[Slot]>);

#[cfg(loom)]
impl Slots {
    pub(crate) fn new(wanted: u32) -> std::io::Result<Slots> {
        Ok(Slots((0..wanted.next_power_of_two()).map(|_| Slot::empty()).collect()))
    }

    pub(crate) fn at(&self, index: u32) -> &Slot {
        &self.0[index as usize & (self.0.len() - 1)]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::Ordering;

    #[test]
    fn slots_are_zero_apart_from_each_other_and_wrap() {
        let slots = Slots::new(5).unwrap();
        let all: Vec<*const Slot> = (0..8).map(|i| std::ptr::from_ref(slots.at(i))).collect();
        for (i, slot) in all.iter().enumerate() {
            assert_eq!(slot.addr() - all[0].addr(), i * 64);
            assert_eq!(slots.at(i as u32).word.load(Ordering::Relaxed), 0);
        }
        assert!(std::ptr::eq(slots.at(8), all[0]), "an index beyond the table is one of its slots");
        assert!(std::ptr::eq(slots.at(u32::MAX), all[7]));
    }
}
