//! A submission queue and its completion queue, as rings of one size.
//!
//! Completions lie in memory that the device and this process share, and so do commands; or commands lie in the controller's
//! memory buffer, and of the admin queues the completions as well. No more commands are out than the rings have places less one, which the owner sees to: a command's place is
//! free when it has completed, and a completion finds room.

use super::abi::{COMMAND_LEN, COMPLETION_LEN, Completion, DOORBELLS, PAGE};
use super::command::Command;
use crate::backend::{Backend, Registers};
use crate::device::{DmaMemory, Withheld};

/// Where the queues are.
pub(super) enum Place<R> {
    /// In the pair's memory.
    Host,
    /// Commands in the memory buffer.
    Commands(Part<R>),
    /// Completions as well, behind them; only where the pair may (`BOTH`).
    Both(Part<R>),
}

/// A part of the memory buffer.
pub(super) struct Part<R> {
    pub(super) bar: R,
    /// Where it starts in the BAR.
    pub(super) start: u64,
    /// At which address the controller finds it.
    pub(super) address: u64,
    /// No peer may write here.
    pub(super) _kept: Withheld,
}

/// `BOTH`: its completions may lie in the memory buffer. Then each look for one asks where they are, and if they lie there it
/// is a read over PCIe (a microsecond) instead of one of the cache: for queues that are seldom looked at.
pub(super) struct Pair<B: Backend, const BOTH: bool = false> {
    memory: DmaMemory<B>,
    place: Place<B::Bar>,
    /// Offset of the completions.
    completions: u64,
    entries: u16,
    /// The next command's place, and that of the next completion.
    tail: u16,
    head: u16,
    /// Of new completions.
    phase: bool,
    /// What the doorbells said last.
    rung: u16,
    consumed: u16,
    bells: (u64, u64),
}

impl<B: Backend, const BOTH: bool> Pair<B, BOTH> {
    /// Bytes of memory that a pair of `entries` takes: the completions start a page.
    pub(super) const fn bytes(entries: u16) -> u64 {
        let (commands, completions) = (entries as u64 * COMMAND_LEN, entries as u64 * COMPLETION_LEN);
        commands.next_multiple_of(PAGE) + completions.next_multiple_of(PAGE)
    }

    /// Pair number `id` in zeroed memory of so many bytes.
    pub(super) fn new(
        id: u16,
        entries: u16,
        stride: u64,
        memory: DmaMemory<B>,
        place: Place<B::Bar>,
    ) -> Self {
        let bell = DOORBELLS + 2 * u64::from(id) * stride;
        Pair {
            memory,
            place,
            completions: (u64::from(entries) * COMMAND_LEN).next_multiple_of(PAGE),
            entries,
            tail: 0,
            head: 0,
            phase: true,
            rung: 0,
            consumed: 0,
            bells: (bell, bell + stride),
        }
    }

    pub(super) fn entries(&self) -> u16 {
        self.entries
    }

    /// Where the device finds the commands, and the completions.
    pub(super) fn addresses(&self) -> (u64, u64) {
        let host = self.memory.iova();
        match &self.place {
            Place::Host => (host, host + self.completions),
            Place::Commands(part) => (part.address, host + self.completions),
            Place::Both(part) => (part.address, part.address + self.completions),
        }
    }

    /// Writes a command; the caller knows that there is room.
    #[inline]
    pub(super) fn post(&mut self, command: &Command) {
        let at = u64::from(self.tail) * COMMAND_LEN;
        match &self.place {
            Place::Host => {
                let _in_bounds = self.memory.memory().store_words(at, &command.words());
            }
            Place::Commands(part) | Place::Both(part) => {
                for (word, at) in command.words().iter().zip((part.start + at..).step_by(8)) {
                    part.bar.write64(at, *word);
                }
            }
        }
        self.tail = self.after(self.tail);
    }

    /// One register write, if a command is new.
    #[inline]
    pub(super) fn ring(&mut self, bar: &B::Bar) {
        if self.rung != self.tail {
            self.rung = self.tail;
            bar.write32(self.bells.0, u32::from(self.tail));
        }
    }

    /// Are there commands that no doorbell rang for?
    pub(super) fn is_rung(&self) -> bool {
        self.rung == self.tail
    }

    /// The next completion, if it is there.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Completion> {
        let at = self.completions + u64::from(self.head) * COMPLETION_LEN;
        // Acquire: what the command brought, and the other half, were written before the phase. Of a BAR: the answer to a
        // read does not pass what the device wrote before (PCIe 6.0, 2.4.1), and one read is over before the next begins.
        let upper = self.load(at + 8)?;
        if Completion::phase(upper) != self.phase {
            return None;
        }
        let completion = Completion::of(self.load(at)?, upper);
        self.head = self.after(self.head);
        self.phase ^= self.head == 0;
        Some(completion)
    }

    /// Gives the places of the completions taken back: one register write, if there are any.
    #[inline]
    pub(super) fn consume(&mut self, bar: &B::Bar) {
        if self.consumed != self.head {
            self.consumed = self.head;
            bar.write32(self.bells.1, u32::from(self.head));
        }
    }

    /// As new, for queues that are not there. What is in the memory buffer has to answer by now; false: it does not.
    #[must_use]
    pub(super) fn restart(&mut self) -> bool {
        for n in 0..u64::from(self.entries) {
            self.clear(self.completions + n * COMPLETION_LEN + 8);
        }
        (self.tail, self.head, self.rung, self.consumed, self.phase) = (0, 0, 0, 0, true);
        // The last one, read back: the phases are there before the controller starts. All-ones are no answer.
        self.load(self.completions + u64::from(self.entries - 1) * COMPLETION_LEN + 8) == Some(0)
    }

    /// A word of the completions. `None`: a device that is gone, whose all-ones are no completion.
    #[inline]
    fn load(&self, at: u64) -> Option<u64> {
        match &self.place {
            Place::Both(part) if BOTH => {
                Some(part.bar.read64(part.start + at)).filter(|word| *word != u64::MAX)
            }
            _ => self.memory.memory().load64(at),
        }
    }

    fn clear(&self, at: u64) {
        match &self.place {
            Place::Both(part) if BOTH => part.bar.write64(part.start + at, 0),
            _ => {
                let _in_bounds = self.memory.memory().store64(at, 0);
            }
        }
    }

    fn after(&self, n: u16) -> u16 {
        if n + 1 == self.entries { 0 } else { n + 1 }
    }
}
