//! A ring of descriptors, in memory that the device and this process share.

use super::descriptor::LEN;
use tidegate_core::Memory;

/// What an operation's descriptors stand for; kept with the first of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slot {
    /// The index that core gave.
    pub(super) index: u32,
    /// Bytes of the operation.
    pub(super) len: u32,
    /// Descriptors. The device writes back the last one.
    pub(super) pieces: u32,
    /// Receive: the header goes to the operation too.
    pub(super) header: bool,
}

/// One ring. The device works it off in order and writes each descriptor back in its place.
#[derive(Debug)]
pub(super) struct Ring {
    /// Where in the memory it begins.
    start: u64,
    slots: Box<[Slot]>,
    /// Descriptors written and taken back since it was made, and those that the doorbell rang for; modulo 2^32.
    posted: u32,
    taken: u32,
    rung: u32,
}

impl Ring {
    /// A ring of `entries`, a power of two, at `start`.
    pub(super) fn new(start: u64, entries: u32) -> Ring {
        let slots = vec![Slot::default(); entries as usize].into_boxed_slice();
        Ring { start, slots, posted: 0, taken: 0, rung: 0 }
    }

    /// Bytes of a ring.
    pub(super) fn bytes(entries: u32) -> u64 {
        u64::from(entries) * LEN
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn entries(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Descriptors that the device has.
    pub(super) fn outstanding(&self) -> u32 {
        self.posted.wrapping_sub(self.taken)
    }

    /// Descriptors that still fit: a full ring looks like an empty one to the device, so one place stays free.
    pub(super) fn room(&self) -> u32 {
        self.entries() - 1 - self.outstanding()
    }

    fn slot(&self, n: u32) -> usize {
        (n & (self.entries() - 1)) as usize
    }

    fn place(&self, n: u32) -> u64 {
        self.start + self.slot(n) as u64 * LEN
    }

    /// Begins an operation, whose descriptors are posted next.
    #[inline]
    pub(super) fn begin(&mut self, what: Slot) {
        let slot = self.slot(self.posted);
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = what;
        }
    }

    /// Writes the next descriptor; the caller knows that there is room.
    #[inline]
    pub(super) fn post(&mut self, memory: &Memory, [low, high]: [u64; 2]) {
        let at = self.place(self.posted);
        let _in_bounds = memory.store64(at, low);
        let _in_bounds = memory.store64(at + 8, high);
        self.posted = self.posted.wrapping_add(1);
    }

    /// The new tail, if there is something that the device was not told of.
    #[inline]
    pub(super) fn news(&mut self) -> Option<u32> {
        if self.rung == self.posted {
            return None;
        }
        self.rung = self.posted;
        Some(self.posted & (self.entries() - 1))
    }

    /// Has the device heard of all that was posted?
    pub(super) fn is_rung(&self) -> bool {
        self.rung == self.posted
    }

    fn oldest(&self) -> Slot {
        self.slots.get(self.slot(self.taken)).copied().unwrap_or_default()
    }

    /// The high word of the last descriptor of the oldest operation that the device has. What is read after it was written
    /// before it.
    #[inline]
    pub(super) fn peek(&self, memory: &Memory) -> Option<u64> {
        if self.taken == self.rung {
            return None;
        }
        let last = self.taken.wrapping_add(self.oldest().pieces.max(1) - 1);
        memory.load64(self.place(last) + 8)
    }

    /// The low word of its first descriptor.
    #[inline]
    pub(super) fn peek_low(&self, memory: &Memory) -> u64 {
        memory.load64(self.place(self.taken)).unwrap_or(0)
    }

    /// Takes that operation's descriptors back.
    #[inline]
    pub(super) fn take(&mut self) -> Slot {
        let slot = self.oldest();
        self.taken = self.taken.wrapping_add(slot.pieces.max(1));
        slot
    }

    /// As new, for a queue that is off.
    pub(super) fn restart(&mut self) {
        (self.posted, self.taken, self.rung) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(ring: &mut Ring, memory: &Memory, n: u32, pieces: u32) {
        ring.begin(Slot { index: n, len: 1, pieces, header: false });
        (0..pieces).for_each(|_| ring.post(memory, [u64::from(n), 0]));
    }

    #[test]
    fn a_ring_is_full_with_one_place_free_and_its_tail_wraps() {
        let memory = Memory::allocate("ring", 256).unwrap();
        let mut ring = Ring::new(128, 8);
        assert_eq!((Ring::bytes(8), ring.room(), ring.news()), (128, 7, None));
        (0..7).for_each(|n| post(&mut ring, &memory, n, 1));
        assert_eq!((ring.room(), ring.news(), ring.news()), (0, Some(7), None));
        assert_eq!(memory.load64(128 + 6 * 16), Some(6));
        assert_eq!(ring.take().index, 0);
        post(&mut ring, &memory, 7, 1);
        assert_eq!((ring.room(), ring.is_rung(), ring.news(), ring.is_rung()), (0, false, Some(0), true));
    }

    #[test]
    fn only_what_the_doorbell_rang_for_is_looked_at() {
        let memory = Memory::allocate("ring", 128).unwrap();
        let mut ring = Ring::new(0, 8);
        assert!(memory.store64(8, 1), "a write-back of an earlier life");
        assert_eq!(ring.peek(&memory), None);
        post(&mut ring, &memory, 0, 1);
        assert_eq!(ring.peek(&memory), None);
        assert_eq!(ring.news(), Some(1));
        assert_eq!(ring.peek(&memory), Some(0), "posting cleared it");
    }

    #[test]
    fn an_operation_of_several_descriptors_ends_with_the_last_of_them() {
        let memory = Memory::allocate("ring", 128).unwrap();
        let mut ring = Ring::new(0, 8);
        post(&mut ring, &memory, 5, 3);
        post(&mut ring, &memory, 6, 1);
        assert_eq!((ring.news(), ring.room()), (Some(4), 3));
        assert!(memory.store64(8, 1), "the first is never written back: this says nothing");
        assert_eq!(ring.peek(&memory), Some(0));
        assert!(memory.store64(2 * 16 + 8, 1));
        assert_eq!((ring.peek(&memory), ring.take().index, ring.room()), (Some(1), 5, 6));
        assert_eq!((ring.peek(&memory), ring.take().index, ring.outstanding()), (Some(0), 6, 0));
    }
}
