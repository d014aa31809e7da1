//! What an engine knows of its operations, apart from the ring: what is queued, what the kernel has, what a
//! completion means.

use super::entry::{CANCEL, Entry, Kind, Medium, OFFSET, OFFSET_BITS, SYNC};
use super::{Fence, OFFSET_END};
use crate::engine::{Outcome, Push, Sink, Target};
use std::collections::VecDeque;

/// Times that an operation is submitted again in a row without a byte moved, before its errno is reported.
pub(super) const TRIES: u8 = 64;
/// An index that no channel has: counted as spurious.
const NOBODY: u32 = u32::MAX;

/// A fence that waits for the kernel.
#[derive(Debug, Clone, Copy)]
struct Syncing {
    left: u32,
    /// The first errno.
    errno: Option<u16>,
}

#[derive(Debug)]
pub(super) struct Book {
    pub(super) entries: Box<[Entry]>,
    pub(super) media: Box<[Medium]>,
    /// Accepted, in order, with no entry in the submission queue yet.
    pub(super) queue: Vec<u32>,
    /// The first of `queue`: a doorbell was rung for them, or they go on by themselves.
    pub(super) rung: usize,
    /// Operations whose entries lie in the submission queue, and the kernel has not taken them.
    built: usize,
    /// Which ones: the last `built` before `sent`, by the low bits of the count.
    log: Box<[u32]>,
    sent: usize,
    /// Entries whose completions have not come: operations that the kernel took, and syncs.
    pub(super) out: u32,
    /// Cancels whose completions have not come.
    pub(super) cancels: u32,
    /// Syncs that lie in the submission queue (nothing is before them), and cancels (nothing is behind them).
    syncs_built: usize,
    cancels_built: usize,
    /// Fences that ended and were not reported.
    ready: VecDeque<(u32, Outcome)>,
    syncing: Option<Syncing>,
    fence: Fence,
    pub(super) cancelling: bool,
}

impl Book {
    pub(super) fn new(depth: u32, media: Vec<Medium>, fence: Fence) -> Book {
        let room = (depth as usize + 1).next_power_of_two();
        Book {
            entries: vec![Entry::IDLE; room].into_boxed_slice(),
            media: media.into_boxed_slice(),
            queue: Vec::with_capacity(room),
            rung: 0,
            built: 0,
            log: vec![0; room].into_boxed_slice(),
            sent: 0,
            out: 0,
            cancels: 0,
            syncs_built: 0,
            cancels_built: 0,
            ready: VecDeque::with_capacity(room),
            syncing: None,
            fence,
            cancelling: false,
        }
    }

    /// Checks an operation; `None`: not one of this engine.
    #[inline]
    pub(super) fn check(&self, kind: Kind, operand: &Target, at: u64) -> Option<Entry> {
        let len = u32::try_from(operand.len).ok()?;
        let entry = Entry::new(kind, operand.address, at, len);
        // The end in the file's own offsets: those of the next file never begin.
        let end = (at & OFFSET) + u64::from(len);
        (entry.file() < self.media.len() && end <= OFFSET_END).then_some(entry)
    }

    /// Are these bytes of one file, which each have their place in it?
    pub(super) fn splits(&self, at: u64, len: u64) -> bool {
        let medium = usize::try_from(at >> OFFSET_BITS).ok().and_then(|file| self.media.get(file));
        let fits = (at & OFFSET).checked_add(len).is_some_and(|end| end <= OFFSET_END);
        fits && medium.is_some_and(|medium| medium.seekable && !medium.appends)
    }

    /// Its place, if it is free, and its file.
    #[inline]
    pub(super) fn place(&mut self, index: u32, new: &Entry) -> Option<(&mut Entry, &mut Medium)> {
        let entry = self.entries.get_mut(index as usize).filter(|entry| entry.kind == Kind::Idle)?;
        Some((entry, self.media.get_mut(new.file())?))
    }

    /// Accepts an operation, to be built later.
    pub(super) fn enqueue(&mut self, index: u32, new: Entry) -> Push {
        let entry = self.entries.get_mut(index as usize).filter(|entry| entry.kind == Kind::Idle);
        let Some(entry) = entry else { return Push::Full };
        *entry = new;
        // An index comes once, so the queue's capacity is enough.
        self.queue.push(index);
        Push::Taken
    }

    /// May an operation be built as it comes, past an empty queue?
    #[inline]
    pub(super) fn is_direct(&self) -> bool {
        self.queue.is_empty() && !self.cancelling
    }

    /// The entry of `index` was put into the submission queue.
    #[inline]
    pub(super) fn sent(&mut self, index: u32) {
        let at = self.sent & (self.log.len() - 1);
        if let Some(slot) = self.log.get_mut(at) {
            *slot = index;
        }
        self.sent = self.sent.wrapping_add(1);
        self.built += 1;
    }

    /// The `at`th of the queue, to be built, if it is no fence.
    #[inline]
    pub(super) fn next(&mut self, at: usize) -> Option<(u32, &mut Entry, &mut Medium)> {
        if at >= self.rung {
            return None;
        }
        let index = *self.queue.get(at)?;
        let entry = self.entries.get_mut(index as usize).filter(|e| e.kind != Kind::Fence)?;
        let medium = self.media.get_mut(entry.file())?;
        Some((index, entry, medium))
    }

    /// The first `n` of the queue were built.
    #[inline]
    pub(super) fn forget(&mut self, n: usize) {
        self.queue.drain(..n.min(self.queue.len()));
        self.rung = self.rung.saturating_sub(n);
    }

    /// Of those built and not taken, the `n`th from the last.
    fn unsent(&self, n: usize) -> Option<u32> {
        self.log.get(self.sent.wrapping_sub(n + 1) & (self.log.len() - 1)).copied()
    }

    /// Nothing was built that the kernel has not taken.
    #[inline]
    pub(super) fn is_taken(&self) -> bool {
        self.built == 0
    }

    /// Entries that lie in the submission queue.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.syncs_built + self.built + self.cancels_built
    }

    /// The kernel took the first `n` of them.
    #[inline]
    pub(super) fn took(&mut self, n: usize) {
        let syncs = n.min(self.syncs_built);
        self.syncs_built -= syncs;
        let ops = (n - syncs).min(self.built);
        self.built -= ops;
        self.out += ops as u32;
        self.cancels_built -= (n - syncs - ops).min(self.cancels_built);
    }

    /// Is a fence at the front, with everything before it over?
    pub(super) fn at_fence(&self) -> bool {
        let over = self.built == 0 && self.out == 0 && self.rung > 0 && !self.cancelling;
        over && self.queue.first().is_some_and(|index| self.is_fence(*index))
    }

    /// Must the fence at the front sync first?
    pub(super) fn wants_sync(&self) -> bool {
        self.fence == Fence::DataSync && self.syncing.is_none() && self.media.iter().any(|m| m.dirty)
    }

    /// Syncs were written for the fence at the front.
    pub(super) fn sync_began(&mut self, n: u32) {
        if n > 0 {
            self.syncing = Some(Syncing { left: n, errno: None });
            self.out += n;
            self.syncs_built = n as usize;
        }
    }

    /// A cancel was written.
    pub(super) fn cancel_began(&mut self) {
        self.cancels += 1;
        self.cancels_built += 1;
    }

    fn is_fence(&self, index: u32) -> bool {
        self.entries.get(index as usize).is_some_and(|entry| entry.kind == Kind::Fence)
    }

    /// Ends the fence at the front.
    pub(super) fn pass_fence(&mut self, outcome: Outcome) {
        let Some(index) = self.queue.first().copied().filter(|index| self.is_fence(*index)) else { return };
        self.forget(1);
        if let Some(entry) = self.entries.get_mut(index as usize) {
            *entry = Entry::IDLE;
        }
        self.ready.push_back((index, outcome));
    }

    #[inline]
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Reports fences that ended.
    #[cold]
    #[inline(never)]
    pub(super) fn report_ready(&mut self, sink: &mut Sink<'_>) {
        while sink.room() > 0 {
            let Some((index, outcome)) = self.ready.pop_front() else { break };
            sink.complete(index, outcome, 0);
        }
    }

    /// A completion of the common kind: the whole operation, as asked. False: see [`Book::odd`].
    #[inline]
    pub(super) fn whole(&mut self, data: u64, result: i32, sink: &mut Sink<'_>) -> bool {
        let Some(entry) = self.entries.get_mut(data as usize).filter(|e| e.is_ended_by(result)) else {
            return false;
        };
        let len = entry.len;
        entry.end();
        self.out -= 1;
        sink.complete(data as u32, Outcome::Done, len);
        true
    }

    /// Any other completion. Without a sink nobody wants to hear of ends.
    #[cold]
    #[inline(never)]
    pub(super) fn odd(&mut self, data: u64, result: i32, sink: Option<&mut Sink<'_>>) {
        if data & SYNC != 0 {
            return self.synced(result);
        }
        if data & CANCEL != 0 {
            self.cancels = self.cancels.saturating_sub(1);
            return;
        }
        let ended = match self.entries.get_mut(data as usize) {
            Some(entry) if entry.is_out() => {
                self.out -= 1;
                let whole = entry.is_ended_by(result);
                entry.back(u32::try_from(result).unwrap_or(0));
                if whole { Some(Outcome::Done) } else { self.judge(data as u32, result) }
            }
            _ => {
                if let Some(sink) = sink {
                    sink.complete(NOBODY, Outcome::Done, 0);
                }
                return;
            }
        };
        let Some(entry) = self.entries.get_mut(data as usize) else { return };
        match (ended, sink) {
            (Some(outcome), sink) => {
                let moved = entry.moved();
                *entry = Entry::IDLE;
                if let Some(sink) = sink {
                    sink.complete(data as u32, outcome, moved);
                }
            }
            // The drain ends it for its owner.
            (None, _) if self.cancelling => *entry = Entry::IDLE,
            (None, _) => self.again(data as u32),
        }
    }

    /// How an operation ended whose piece came back with this result; `None`: it goes on.
    fn judge(&mut self, index: u32, result: i32) -> Option<Outcome> {
        let entry = self.entries.get_mut(index as usize)?;
        let medium = self.media.get(entry.file());
        let of = |is: fn(&Medium) -> bool| medium.is_some_and(is);
        let reads = entry.kind == Kind::Read;
        if entry.left == 0 {
            return Some(Outcome::Done);
        }
        let again = match result {
            // What a pipe or socket gives at once is what it has.
            1.. if reads && !of(|m| m.seekable) => return Some(Outcome::Done),
            1.. => {
                entry.tries = 0;
                return None;
            }
            // The end of the file.
            0 if reads => return Some(Outcome::Done),
            // A write that moves nothing and gives no reason.
            0 => true,
            _ => match result.wrapping_neg() {
                // Past the last whole block of a file opened for direct access: its end.
                libc::EINVAL if reads && entry.moved() > 0 && entry.at % 512 != 0 && of(|m| m.direct) => {
                    return Some(Outcome::Done);
                }
                // The buffer's slot was emptied meanwhile.
                libc::EFAULT if entry.fixed => {
                    entry.plain = true;
                    return None;
                }
                // The last: the kernel cancels what a thread submitted that is gone. Nobody asked for it.
                errno => matches!(errno, libc::EINTR | libc::EAGAIN | libc::ECANCELED),
            },
        };
        entry.tries += u8::from(again);
        if again && (self.cancelling || entry.tries < TRIES) {
            return None;
        }
        Some(Outcome::Device(if result == 0 { libc::EIO as u16 } else { result.wrapping_neg() as u16 }))
    }

    /// Puts an operation back into the queue, before everything that waits.
    fn again(&mut self, index: u32) {
        self.queue.insert(0, index);
        self.rung += 1;
    }

    fn synced(&mut self, result: i32) {
        self.out = self.out.saturating_sub(1);
        if result < 0 {
            // Whether the bytes are there, nobody knows: the next fence syncs too.
            self.soil();
        }
        let Some(syncing) = self.syncing.as_mut() else { return };
        syncing.left -= 1;
        if result < 0 {
            syncing.errno = syncing.errno.or(Some(result.wrapping_neg() as u16));
        }
        let Syncing { left: 0, errno } = *syncing else { return };
        self.syncing = None;
        match errno {
            Some(errno) => self.pass_fence(Outcome::Device(errno)),
            // Those for which there was no room are next.
            None if self.media.iter().any(|m| m.dirty) => {}
            None => self.pass_fence(Outcome::Done),
        }
    }

    fn soil(&mut self) {
        self.media.iter_mut().for_each(|m| m.dirty = m.seekable);
    }

    /// Forgets what was not built: the drain ends it.
    pub(super) fn withdraw(&mut self) {
        self.cancelling = true;
        if self.syncing.take().is_some() {
            self.soil();
        }
        for index in self.queue.drain(..) {
            if let Some(entry) = self.entries.get_mut(index as usize) {
                *entry = Entry::IDLE;
            }
        }
        self.rung = 0;
    }

    /// Withdraws what lies in the submission queue too; true if there was any.
    pub(super) fn drop_built(&mut self) -> bool {
        let any = self.built > 0;
        for n in 0..self.built {
            let entry = self.unsent(n).and_then(|index| self.entries.get_mut(index as usize));
            if let Some(entry) = entry {
                *entry = Entry::IDLE;
            }
        }
        self.built = 0;
        any
    }

    /// The ring is dead: syncs and cancels that the kernel has not taken it never will, and no completion of theirs is
    /// waited for.
    pub(super) fn bury(&mut self) {
        self.out = self.out.saturating_sub(self.syncs_built as u32);
        self.cancels = self.cancels.saturating_sub(self.cancels_built as u32);
        (self.syncs_built, self.cancels_built) = (0, 0);
    }

    /// Ends with this errno what the kernel will never take.
    #[cold]
    pub(super) fn fail(&mut self, errno: i32, sink: &mut Sink<'_>) {
        self.bury();
        self.syncing = None;
        // Those built first, so that they come out in order.
        while sink.room() > 0 && self.built > 0 {
            let index = self.unsent(self.built - 1);
            self.built -= 1;
            self.end(index, errno, sink);
        }
        while sink.room() > 0 && self.rung > 0 {
            let index = self.queue.remove(0);
            self.rung -= 1;
            self.end(Some(index), errno, sink);
        }
    }

    fn end(&mut self, index: Option<u32>, errno: i32, sink: &mut Sink<'_>) {
        let Some(index) = index else { return };
        let Some(entry) = self.entries.get_mut(index as usize) else { return };
        let moved = entry.moved();
        *entry = Entry::IDLE;
        sink.complete(index, Outcome::Device(errno as u16), moved);
    }
}
