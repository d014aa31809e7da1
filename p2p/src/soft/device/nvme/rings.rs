//! Submission and completion queues, as the controller keeps them.

use super::spec::{Entry, completion};
use super::work::Work;

/// Commands fetched by one read.
const BURST: u32 = 4;

/// A submission queue.
#[derive(Debug, Default)]
pub(super) struct Submission {
    pub(super) base: u64,
    pub(super) size: u32,
    pub(super) completions: u16,
    pub(super) head: u32,
    pub(super) tail: u32,
    /// So many are being fetched.
    pub(super) fetching: u32,
    /// Commands up to there were posted before the TDI was stopped: so many are left.
    stale: u32,
    /// The admin command that deletes it.
    pub(super) deleting: Option<u32>,
}

impl Submission {
    pub(super) fn new(base: u64, size: u32, completions: u16) -> Submission {
        Submission { base, size, completions, ..Submission::default() }
    }

    /// Commands that were rung for and not fetched.
    pub(super) fn waiting(&self) -> u32 {
        if self.size == 0 { 0 } else { (self.tail + self.size - self.head) % self.size }
    }

    pub(super) fn ring(&mut self, tail: u32) {
        if tail < self.size {
            self.tail = tail;
        }
    }

    pub(super) fn stopped(&mut self) {
        self.stale = self.waiting();
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale > 0
    }

    /// What to fetch next: where, so many bytes.
    pub(super) fn fetch(&mut self) -> Option<(u64, u32)> {
        if self.waiting() == 0 || self.fetching > 0 || self.deleting.is_some() {
            return None;
        }
        self.fetching = self.waiting().min(BURST).min(self.size - self.head);
        Some((self.base.wrapping_add(u64::from(self.head) * 64), self.fetching * 64))
    }

    /// What was fetched; `take` gets each with whether it is stale.
    pub(super) fn fetched(&mut self, raw: &[u8], mut take: impl FnMut(Entry, bool)) {
        let n = std::mem::take(&mut self.fetching);
        if self.deleting.is_some() {
            return;
        }
        for raw in raw.chunks_exact(64).take(n as usize) {
            take(Entry::decode(raw), self.stale > 0);
            self.stale = self.stale.saturating_sub(1);
            self.head = (self.head + 1) % self.size;
        }
    }
}

/// A completion queue.
#[derive(Debug, Default)]
pub(super) struct Completions {
    pub(super) base: u64,
    pub(super) size: u32,
    pub(super) head: u32,
    tail: u32,
    flipped: bool,
}

impl Completions {
    pub(super) fn new(base: u64, size: u32) -> Completions {
        Completions { base, size, ..Completions::default() }
    }

    pub(super) fn consumed(&mut self, head: u32) {
        if head < self.size {
            self.head = head;
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.size > 0 && (self.tail + 1) % self.size != self.head
    }

    /// The entry for a command that ended: where it goes, and its bytes. There is room.
    pub(super) fn post(&mut self, work: &Work, head: u32) -> (u64, Vec<u8>) {
        let at = self.base.wrapping_add(u64::from(self.tail) * 16);
        let (id, phase) = (work.entry.id(), !self.flipped);
        let entry = completion(work.result, head as u16, work.queue, id, work.status, phase);
        self.tail = (self.tail + 1) % self.size;
        self.flipped ^= self.tail == 0;
        (at, entry)
    }
}
