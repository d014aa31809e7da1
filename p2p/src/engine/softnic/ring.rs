//! The rings of a queue, in memory that the device and this process share.

use super::abi::{COMPLETION_LEN, COMPLETION_PHASE, Completion, DESCRIPTOR_LEN, Descriptor};
use crate::backend::Backend;
use crate::device::DmaMemory;

/// Descriptors first, completions behind them.
pub(super) struct Rings<B: Backend> {
    memory: DmaMemory<B>,
    entries: u32,
    /// Descriptors written, and completions taken, since the queue was switched on; modulo 2^32.
    posted: u32,
    taken: u32,
}

impl<B: Backend> Rings<B> {
    /// Rings of `entries`, a power of two, in zeroed memory that is large enough.
    pub(super) fn new(memory: DmaMemory<B>, entries: u32) -> Rings<B> {
        Rings { memory, entries, posted: 0, taken: 0 }
    }

    pub(super) fn entries(&self) -> u32 {
        self.entries
    }

    /// Device address of the descriptors.
    pub(super) fn descriptors(&self) -> u64 {
        self.memory.iova()
    }

    /// Device address of the completions.
    pub(super) fn completions(&self) -> u64 {
        self.memory.iova() + self.completion(0)
    }

    pub(super) fn posted(&self) -> u32 {
        self.posted
    }

    pub(super) fn outstanding(&self) -> u32 {
        self.posted.wrapping_sub(self.taken)
    }

    fn completion(&self, n: u32) -> u64 {
        let slot = n & (self.entries - 1);
        u64::from(self.entries) * DESCRIPTOR_LEN as u64 + u64::from(slot) * COMPLETION_LEN as u64
    }

    /// Writes the next descriptor; the caller knows that there is room.
    #[inline]
    pub(super) fn post(&mut self, descriptor: &Descriptor) {
        let at = u64::from(self.posted & (self.entries - 1)) * DESCRIPTOR_LEN as u64;
        for (word, at) in descriptor.encode().chunks_exact(8).zip((at..).step_by(8)) {
            let word = word.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
            let _in_bounds = self.memory.memory().store64(at, word);
        }
        self.posted = self.posted.wrapping_add(1);
    }

    /// The next completion, if it is there.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Completion> {
        let (memory, at) = (self.memory.memory(), self.completion(self.taken));
        // Acquire: the rest of the entry was written before its phase.
        let phase = memory.load64(at + COMPLETION_PHASE as u64)? & 1 != 0;
        let lap = (self.taken / self.entries) & 1 == 0;
        if phase != lap || self.outstanding() == 0 {
            return None;
        }
        let mut raw = [0; COMPLETION_LEN];
        for (word, at) in raw.chunks_exact_mut(8).zip((at..).step_by(8)) {
            word.copy_from_slice(&memory.load64(at)?.to_le_bytes());
        }
        self.taken = self.taken.wrapping_add(1);
        Some(Completion::decode(&raw))
    }

    /// As new, for a queue that is off.
    pub(super) fn restart(&mut self) {
        for n in 0..self.entries {
            let _in_bounds = self.memory.memory().store64(self.completion(n) + COMPLETION_PHASE as u64, 0);
        }
        (self.posted, self.taken) = (0, 0);
    }
}
