//! The ring and its words, in memory that the device and this process share.

use crate::sheet::{DESCRIPTOR_LEN, DONE, REFUSED, WORD_LEN};
use tidegate::p2p::Backend;
use tidegate::p2p::device::DmaMemory;

/// The free-running counts of the data sheet say what is where.
pub(crate) struct Ring<B: Backend> {
    memory: DmaMemory<B>,
    entries: u32,
    posted: u32,
    rung: u32,
    taken: u32,
}

/// How a descriptor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    Done,
    Refused,
    /// A status that the data sheet does not have.
    Nonsense,
}

impl<B: Backend> Ring<B> {
    pub(crate) fn bytes(entries: u32) -> u64 {
        u64::from(entries) * (DESCRIPTOR_LEN + WORD_LEN)
    }

    /// In zeroed memory of so many bytes; `entries` is a power of two.
    pub(crate) fn new(memory: DmaMemory<B>, entries: u32) -> Ring<B> {
        Ring { memory, entries, posted: 0, rung: 0, taken: 0 }
    }

    /// Where the device finds the descriptors, and the words.
    pub(crate) fn addresses(&self) -> (u64, u64) {
        (self.memory.iova(), self.memory.iova() + u64::from(self.entries) * DESCRIPTOR_LEN)
    }

    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    /// Place of the descriptor that is written or taken next.
    pub(crate) fn next(&self) -> usize {
        (self.posted & (self.entries - 1)) as usize
    }

    pub(crate) fn oldest(&self) -> usize {
        (self.taken & (self.entries - 1)) as usize
    }

    pub(crate) fn posted(&self) -> u32 {
        self.posted
    }

    /// Descriptors whose word was not taken.
    pub(crate) fn outstanding(&self) -> u32 {
        self.posted.wrapping_sub(self.taken)
    }

    /// Writes a descriptor; the caller knows that there is room.
    #[inline]
    pub(crate) fn post(&mut self, from: u64, to: u64, len: u32) {
        let at = self.next() as u64 * DESCRIPTOR_LEN;
        let _in_bounds = self.memory.memory().store_words(at, &[from, to, u64::from(len), 0]);
        self.posted = self.posted.wrapping_add(1);
    }

    /// What the doorbell has to say, if it is new.
    #[inline]
    pub(crate) fn ring(&mut self) -> Option<u32> {
        let new = self.rung != self.posted;
        self.rung = self.posted;
        new.then_some(self.posted)
    }

    /// The word of the `n`th descriptor, if it is there.
    #[inline]
    pub(crate) fn word(&self, n: u32) -> Option<Word> {
        let place = u64::from(n & (self.entries - 1));
        let at = u64::from(self.entries) * DESCRIPTOR_LEN + place * WORD_LEN;
        // Acquire: what the device moved was written before.
        let word = self.memory.memory().load64(at)?;
        if word as u32 != n.wrapping_add(1) {
            return None;
        }
        Some(match (word >> 32) as u32 {
            DONE => Word::Done,
            REFUSED => Word::Refused,
            _ => Word::Nonsense,
        })
    }

    /// The oldest word that was not taken, if it is there. One for a descriptor that the device was not told of is none.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Word> {
        if self.taken == self.rung {
            return None;
        }
        let word = self.word(self.taken)?;
        self.taken = self.taken.wrapping_add(1);
        Some(word)
    }

    /// As new, for a device that has stopped.
    pub(crate) fn restart(&mut self) {
        for n in 0..u64::from(self.entries) {
            let at = u64::from(self.entries) * DESCRIPTOR_LEN + n * WORD_LEN;
            let _in_bounds = self.memory.memory().store64(at, 0);
        }
        (self.posted, self.rung, self.taken) = (0, 0, 0);
    }
}
