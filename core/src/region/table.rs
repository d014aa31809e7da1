//! The slot table: one cache line for each region, which the hot path reads and revokers mark.

use super::Class;
#[cfg(all(test, not(loom)))]
use super::Generation;
use super::numbers::{self, Block};
use super::slot::{Seen, Slot, word};
use super::slots::Slots;
use crate::sync::{Mutex, Ordering, lock};
use crossbeam_utils::CachePadded;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic;

/// Slots of one fabric at most (the index rides in half a word beside each ring entry).
pub(crate) const MAX_SLOTS: u32 = 1 << 20;

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

/// All slots of a fabric.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Slots,
    capacity: u32,
    fabric: u64,
    /// It may have more generations than its first block; not in models and tests.
    grows: bool,
    /// How often a slot was given again. In a line of its own: pollers read what is around it. The standard library's also in
    /// the models: it only decides what is counted where.
    given_again: CachePadded<atomic::AtomicU64>,
    free: Mutex<Free>,
}

#[derive(Debug)]
struct Free {
    /// First slot never used.
    fresh: u32,
    /// Released slots, oldest first.
    reusable: VecDeque<u32>,
    /// Windows, live or being revoked: what a drain looks through when a channel wrote too many to remember.
    windows: BTreeSet<u32>,
    /// Generations to give.
    block: Block,
    /// Highest generation given.
    highest: u32,
}

impl Free {
    /// The generation after `shown`, this slot's last. `None`: there is none left, and the slot is retired rather than
    /// reused, so that no handle ever becomes valid again.
    fn generation(&mut self, shown: u32, grows: bool) -> Option<u32> {
        let mut next = shown.max(self.block.before).checked_add(1)?;
        if next > self.block.last {
            self.block = numbers::more(self.block.fabric).filter(|_| grows)?;
            next = self.block.before + 1;
        }
        self.highest = self.highest.max(next);
        Some(next)
    }
}

impl Table {
    /// A table of `capacity` slots (at most [`MAX_SLOTS`]) for a fabric of this process. One mmap; pages are backed
    /// when their first region comes.
    ///
    /// # Errors
    /// The mapping was refused; or the process has made more than a million fabrics that are alive or used up.
    pub(crate) fn open(capacity: u32) -> std::io::Result<Table> {
        if cfg!(loom) {
            // A model makes millions of fabrics, one at a time.
            return Table::bounded(capacity, Block { fabric: 1, before: 0, last: 1000 }, false);
        }
        let block =
            numbers::take().ok_or_else(|| std::io::Error::other("no number is left for another fabric"))?;
        Table::bounded(capacity, block, true)
    }

    /// With a number of the caller's choice, for models and tests.
    #[cfg(any(test, tidegate_tsan))]
    pub(crate) fn new(capacity: u32, fabric: u8) -> Table {
        Table::bounded(capacity, Block { fabric, before: 0, last: 1000 }, false).expect("a mapping")
    }

    fn bounded(capacity: u32, block: Block, grows: bool) -> std::io::Result<Table> {
        let capacity = capacity.clamp(1, MAX_SLOTS);
        let (reusable, windows) = (VecDeque::new(), BTreeSet::new());
        Ok(Table {
            slots: Slots::new(capacity)?,
            capacity,
            fabric: u64::from(block.fabric) << word::FABRIC_SHIFT,
            grows,
            given_again: CachePadded::new(atomic::AtomicU64::new(0)),
            free: Mutex::new(Free { fresh: 0, reusable, windows, block, highest: block.before }),
        })
    }

    /// The slot of a handle. One of another fabric finds a slot too, whose word has another fabric's number.
    #[inline(always)]
    pub(crate) fn of(&self, index: u32) -> &Slot {
        self.slots.at(index)
    }

    /// A slot by its number.
    pub(crate) fn slot(&self, index: u32) -> Option<&Slot> {
        (index < self.capacity).then(|| self.slots.at(index))
    }

    /// While it is the same in two sections, so is what lies in the slots that both used. A section that used a slot sees
    /// it counted that the slot was given again: whoever has the handle has it from the one who counted.
    #[inline(always)]
    pub(crate) fn given_again(&self) -> u64 {
        self.given_again.load(Ordering::Relaxed)
    }

    /// Takes a slot, writes the place, then makes it live. `None`: all slots are taken or retired.
    pub(crate) fn publish(&self, place: Place) -> Option<(u32, u64)> {
        let (slot, index, generation) = {
            let mut free = lock(&self.free);
            loop {
                let index = match free.reusable.pop_front() {
                    Some(index) => {
                        // Relaxed: as the slot's word below.
                        self.given_again.fetch_add(1, Ordering::Relaxed);
                        index
                    }
                    None if free.fresh < self.capacity => {
                        free.fresh += 1;
                        free.fresh - 1
                    }
                    None => return None,
                };
                let slot = self.slots.at(index);
                // Relaxed: the slot is not live, and whoever learns the new handle got it through something stronger.
                let shown = (slot.word.load(Ordering::Relaxed) >> word::GENERATION_SHIFT) as u32;
                let Some(generation) = free.generation(shown, self.grows) else { continue };
                if place.class != Class::Host {
                    free.windows.insert(index);
                }
                break (slot, index, u64::from(generation));
            }
        };
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

    /// [`Slot::take`] by number.
    pub(crate) fn take(&self, index: u32, bits: u64) -> Seen {
        self.slot(index).map_or(Seen::Other, |slot| slot.take(bits))
    }

    /// The slots alone.
    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
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

    /// Is it a slot, and not live? After a grace period: what is in flight on a slot that is live is not being revoked.
    pub(crate) fn is_marked(&self, index: u32) -> bool {
        self.slot(index).is_some_and(|slot| slot.word.load(Ordering::Relaxed) & word::LIVE == 0)
    }

    /// Marks a slot, whatever it holds.
    #[cfg(any(test, tidegate_tsan))]
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
        let free = &mut *free;
        if !free.windows.is_empty() {
            slots.iter().for_each(|index| _ = free.windows.remove(index));
        }
        free.reusable.extend(slots);
    }

    /// Slots there are.
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Windows that are live or not yet recycled.
    pub(crate) fn windows(&self) -> Vec<u32> {
        lock(&self.free).windows.iter().copied().collect()
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

impl Drop for Table {
    fn drop(&mut self) {
        if self.grows {
            let free = lock(&self.free);
            // Nobody has a handle's region any more, but the handles may live: their generations stay used.
            numbers::give_back(Block { before: free.highest.max(free.block.before), ..free.block });
        }
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
    fn a_slot_fills_one_cache_line() {
        assert_eq!((size_of::<Slot>(), align_of::<Slot>()), (64, 64));
    }

    #[test]
    fn handles_never_resurrect_and_a_slot_retires_before_its_generation_wraps() {
        let table = Table::bounded(1, Block { fabric: 1, before: 0, last: 5 }, false).unwrap();
        let mut seen = Vec::new();
        while let Some((index, bits)) = table.publish(PLACE) {
            let live = table.slot(index).unwrap().word.load(Ordering::Relaxed);
            assert_eq!(live & bits, bits);
            assert!(!seen.contains(&bits), "generation reused");
            seen.push(bits);
            table.mark(index);
            table.recycle(index);
        }
        assert_eq!(seen.len(), 5);
        assert_eq!(table.generation(0), Generation(5));
    }

    #[test]
    fn no_two_fabrics_of_a_process_give_the_same_handle() {
        // More fabrics than there are numbers, dead ones and living ones, each with a region in the first slot.
        let (mut seen, mut alive) = (std::collections::HashSet::new(), Vec::new());
        for n in 0..1200 {
            let table = Table::open(1).unwrap();
            let handle = table.publish(PLACE).unwrap();
            assert!(seen.insert(handle), "a handle of another fabric is good here");
            if n % 2 == 0 {
                alive.push(table);
            }
        }
    }

    #[test]
    fn a_fabric_that_used_its_generations_up_gets_later_ones() {
        let mut table = Table::open(1).unwrap();
        let mut last = 0;
        for _ in 0..3 {
            let (index, bits) = table.publish(PLACE).unwrap();
            assert!(bits >> word::GENERATION_SHIFT > last);
            last = bits >> word::GENERATION_SHIFT;
            table.mark(index);
            table.recycle(index);
            lock(&table.free).block.last = last as u32;
        }
        table.grows = false;
    }

    #[test]
    fn windows_are_found_without_a_scan_until_they_are_recycled() {
        let table = Table::new(MAX_SLOTS, 1);
        let window = Place { class: Class::SharedWindow, ..PLACE };
        let (host, _) = table.publish(PLACE).unwrap();
        let (a, _) = table.publish(window).unwrap();
        let (b, _) = table.publish(window).unwrap();
        table.mark(a);
        assert_eq!((table.windows(), host), (vec![a, b], 0));
        table.recycle(a);
        table.mark(host);
        table.recycle(host);
        assert_eq!(table.windows(), [b]);
        // As host memory it is no window any more.
        assert_eq!(table.publish(PLACE).map(|(index, _)| index), Some(a));
        assert_eq!(table.windows(), [b]);
    }
}
