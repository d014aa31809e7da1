//! A submission queue and its completion queue, as rings of one size.
//!
//! Completions lie in memory that the device and this process share, and so do commands, or these lie in the controller's
//! memory buffer. No more commands are out than the rings have places less one, which the owner sees to: a command's place is
//! free when it has completed, and a completion finds room.

use super::abi::{COMMAND_LEN, COMPLETION_LEN, Completion, DOORBELLS, PAGE};
use super::command::Command;
use crate::backend::{Backend, Registers};
use crate::device::DmaMemory;

/// Where the commands are.
pub(super) enum Place<R> {
    /// At the start of the pair's memory.
    Host,
    /// In the memory buffer: its BAR, the offset there, and the address at which the controller finds it.
    Buffer(R, u64, u64),
}

pub(super) struct Pair<B: Backend> {
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

impl<B: Backend> Pair<B> {
    /// Bytes of memory that a pair of `entries` takes: the completions start a page.
    pub(super) fn bytes(entries: u16) -> u64 {
        let round = |bytes: u64| bytes.next_multiple_of(PAGE);
        round(u64::from(entries) * COMMAND_LEN) + round(u64::from(entries) * COMPLETION_LEN)
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
        let commands = match self.place {
            Place::Host => self.memory.iova(),
            Place::Buffer(_, _, address) => address,
        };
        (commands, self.memory.iova() + self.completions)
    }

    /// Writes a command; the caller knows that there is room.
    #[inline]
    pub(super) fn post(&mut self, command: &Command) {
        let at = u64::from(self.tail) * COMMAND_LEN;
        match &self.place {
            Place::Host => {
                let _in_bounds = self.memory.memory().store_words(at, &command.words());
            }
            Place::Buffer(bar, start, _) => {
                for (word, at) in command.words().iter().zip((start + at..).step_by(8)) {
                    bar.write64(at, *word);
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
        let (memory, at) = (self.memory.memory(), self.completions + u64::from(self.head) * COMPLETION_LEN);
        // Acquire: what the command brought, and the other half, were written before the phase.
        let upper = memory.load64(at + 8)?;
        if Completion::phase(upper) != self.phase {
            return None;
        }
        let completion = Completion::of(memory.load64(at)?, upper);
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

    /// As new, for queues that are not there.
    pub(super) fn restart(&mut self) {
        for n in 0..u64::from(self.entries) {
            let _in_bounds = self.memory.memory().store64(self.completions + n * COMPLETION_LEN + 8, 0);
        }
        (self.tail, self.head, self.rung, self.consumed, self.phase) = (0, 0, 0, 0, true);
    }

    fn after(&self, n: u16) -> u16 {
        if n + 1 == self.entries { 0 } else { n + 1 }
    }
}
