//! The lane between a channel and the thread that works for it: descriptors one way, a count the other.
//!
//! A burst's first descriptor shares a line with the word that says how many there are, so one that comes alone costs
//! its reader one miss, and the lines of a long burst are fetched all at once. Between two cores lines are what
//! costs, so a line holds two descriptors. The first of a burst is kept back until the doorbell; the others are
//! written at once and become visible with it, so a burst is published by one store. What is done is a count in a
//! line that the worker writes once for a batch.
//!
//! # Invariants
//! - **L1** Position `p` lives in slot `p` modulo the room. The slot of a burst's first shows its stamp once the burst
//!   may be run; before that, and in all others of the burst, it shows 0 or the stamp of a burst one round of the
//!   ring ago. The submitter writes a slot only after it has seen `done` beyond what the slot held, or while the lane
//!   is stopped.
//! - **L2** After the server has acknowledged `STOP` or `GONE` it reads no slot, runs nothing and forgets how far it
//!   might have gone, until it sees a later `RUN`. The submitter moves positions back only in between.
#![expect(unsafe_code, reason = "bodies of slots (L1, L2); model: worker/model.rs")]

use crate::sync::{AtomicU64, Cell, Ordering, cell_mut};
use crossbeam_utils::CachePadded;
use std::sync::Arc;

/// Jobs done before the count of them is published, while more are waiting.
const BATCH: u32 = 32;

/// What the submitter wants; above these bits how often it has resumed, so that the answer to one order is never taken for
/// the answer to a later one.
const RUN: u64 = 0;
const STOP: u64 = 1;
const GONE: u64 = 2;
const WANT: u64 = 3;

/// With a body of 24 bytes, half a line.
#[derive(Debug)]
#[repr(align(32))]
struct Slot<J> {
    /// [`stamp`] of the burst that begins here, or 0.
    burst: AtomicU64,
    body: Cell<J>,
}

/// Slots of a line.
const A_LINE: u64 = 2;
/// So many slots before it is written a line is asked for. (In a full ring the server may not have read it yet: then it
/// comes and goes once more.)
const AHEAD: u64 = 16;

/// A burst of `len` jobs from `first` on: its length above, the lower half of `first + 1` below. Never 0, and never that of
/// another burst that the slot has held since it was last cleared: each round of the ring writes every slot, and a
/// round is shorter than the lower half.
#[inline(always)]
fn stamp(first: u64, len: u64) -> u64 {
    len << 32 | (first + 1) & u64::from(u32::MAX)
}

#[derive(Debug)]
struct Lane<J> {
    slots: Box<[Slot<J>]>,
    /// By the submitter, rarely.
    order: CachePadded<AtomicU64>,
    /// Jobs done, by the server.
    done: CachePadded<AtomicU64>,
    /// The last `STOP` or `GONE` that the server obeys.
    obeyed: CachePadded<AtomicU64>,
}

// SAFETY: 1. bodies are reached under L1 and L2 by one side at a time; everything else is Sync by itself.
unsafe impl<J: Send> Sync for Lane<J> {}

impl<J: Copy> Lane<J> {
    #[inline(always)]
    fn slot(&self, position: u64) -> &Slot<J> {
        // The room is a power of two, never 0.
        &self.slots[position as usize & (self.slots.len() - 1)]
    }
}

/// A lane for `depth + 1` jobs; `empty` fills slots that nobody reads.
pub(super) fn lane<J: Copy>(depth: u32, empty: J) -> (Submitter<J>, Server<J>) {
    let room = (depth as usize + 1).next_power_of_two();
    let slot = || Slot { burst: AtomicU64::new(0), body: Cell::new(empty) };
    let lane = Arc::new(Lane {
        slots: (0..room).map(|_| slot()).collect(),
        order: CachePadded::new(AtomicU64::new(RUN)),
        done: CachePadded::new(AtomicU64::new(0)),
        obeyed: CachePadded::new(AtomicU64::new(RUN)),
    });
    let submitter = Submitter { lane: lane.clone(), first: empty, pushed: 0, rung: 0, order: RUN };
    (submitter, Server { lane, next: 0, until: 0, published: 0, order: RUN })
}

/// The channel's side. It keeps at most `depth + 1` jobs between those it has seen done and those it has pushed.
#[derive(Debug)]
pub(super) struct Submitter<J> {
    lane: Arc<Lane<J>>,
    /// The first job since the last `ring`, not yet in its slot.
    first: J,
    pushed: u64,
    rung: u64,
    order: u64,
}

impl<J: Copy> Submitter<J> {
    /// Writes a job. Nobody sees it before `ring`. The caller has seen `done` beyond `pushed - room`.
    #[inline(always)]
    pub(super) fn push(&mut self, job: J) {
        if self.pushed == self.rung {
            self.first = job;
        } else {
            // Relaxed: whoever looks at it has seen the first of the burst, which is published by Release.
            self.put(self.pushed, job, 0, Ordering::Relaxed);
        }
        self.pushed += 1;
    }

    /// Publishes what was pushed: one store.
    #[inline(always)]
    pub(super) fn ring(&mut self) {
        if self.pushed != self.rung {
            // Release: this job's body, and the whole of those behind it.
            self.put(self.rung, self.first, stamp(self.rung, self.pushed - self.rung), Ordering::Release);
            self.rung = self.pushed;
        }
    }

    #[inline(always)]
    fn put(&self, position: u64, job: J, burst: u64, order: Ordering) {
        let slot = self.lane.slot(position);
        if position % A_LINE == 0 {
            // Stores leave in order: one that waits for its line holds up all behind it.
            claim(self.lane.slot(position + AHEAD));
        }
        let mut body = slot.body.ptr();
        // SAFETY: 1. L1: the caller has seen the slot's last job done, so the server is past it; it does not read
        // the new one before the store below.
        *unsafe { cell_mut(&mut body) } = job;
        slot.burst.store(burst, order);
    }

    /// Jobs done so far. Acquire: with what they did.
    #[inline(always)]
    pub(super) fn done(&self) -> u64 {
        self.lane.done.load(Ordering::Acquire)
    }

    pub(super) fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Asks the server to stop; true when it has. Then `done` is final.
    pub(super) fn stop(&mut self) -> bool {
        self.want(STOP)
    }

    /// Asks the server to go away for good; true when it has.
    pub(super) fn leave(&mut self) -> bool {
        self.want(GONE)
    }

    fn want(&mut self, what: u64) -> bool {
        if self.order & WANT != what {
            self.order = (self.order & !WANT) | what;
            // Relaxed: the answer is what counts.
            self.lane.order.store(self.order, Ordering::Relaxed);
        }
        // Acquire: what the server did before it stopped happened before what the caller does now.
        self.lane.obeyed.load(Ordering::Acquire) == self.order
    }

    /// After `stop` said so: forgets what was not done, and lets the server run again.
    pub(super) fn resume(&mut self) {
        // Relaxed: `stop` has acquired what the server stored last.
        let done = self.lane.done.load(Ordering::Relaxed);
        for position in done..self.pushed {
            self.lane.slot(position).burst.store(0, Ordering::Relaxed);
        }
        (self.pushed, self.rung) = (done, done);
        self.order = (self.order & !WANT) + (WANT + 1) + RUN;
        // Release: a server that sees it sees the emptied slots.
        self.lane.order.store(self.order, Ordering::Release);
    }
}

/// What a server runs jobs with.
pub(super) trait Serve<J> {
    /// Begins a turn.
    fn begin(&mut self);
    /// Goes on with `job`, the same one until it is done; true then.
    fn run(&mut self, job: &J) -> bool;
    /// Orders what was done before the next store.
    fn publish(&mut self);
    /// Forgets the job that was begun.
    fn abandon(&mut self);
}

/// How a turn went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Something was done.
    Busy,
    /// There was nothing to do.
    Idle,
    /// The submitter is gone, and so must the server be.
    Gone,
}

/// The worker's side.
#[derive(Debug)]
pub(super) struct Server<J> {
    lane: Arc<Lane<J>>,
    /// Position to be run next.
    next: u64,
    /// The end of the burst that it is in.
    until: u64,
    published: u64,
    /// The last order seen.
    order: u64,
}

impl<J: Copy> Server<J> {
    /// Runs what there is, for one turn of `with`.
    #[inline]
    pub(super) fn turn(&mut self, with: &mut impl Serve<J>) -> Turn {
        // Acquire: a `RUN` comes with the slots that were emptied before it.
        let order = self.lane.order.load(Ordering::Acquire);
        if order != self.order {
            self.order = order;
            self.obey(with);
        }
        match self.order & WANT {
            RUN => {}
            STOP => return Turn::Idle,
            _ => return Turn::Gone,
        }
        if !self.look() {
            return Turn::Idle;
        }
        with.begin();
        for _ in 0..BATCH {
            if !with.run(&self.job()) {
                break;
            }
            self.next += 1;
            if !self.look() {
                break;
            }
        }
        self.publish(with);
        Turn::Busy
    }

    /// Is there a job to be run next?
    #[inline(always)]
    fn look(&mut self) -> bool {
        if self.next != self.until {
            return true;
        }
        // Acquire: with the bodies of the whole burst.
        let seen = self.lane.slot(self.next).burst.load(Ordering::Acquire);
        let len = seen >> 32;
        if len == 0 || seen != stamp(self.next, len) {
            return false;
        }
        self.until = self.next + len;
        // The lines that this turn will want; the first is here.
        let mut ahead = self.next + A_LINE;
        while ahead < self.until.min(self.next + u64::from(BATCH)) {
            prefetch(self.lane.slot(ahead));
            ahead += A_LINE;
        }
        true
    }

    #[inline(always)]
    fn job(&self) -> J {
        let mut body = self.lane.slot(self.next).body.ptr();
        // SAFETY: 1. L1: `next` is in a burst whose stamp was seen, so it was written before, and is not written again
        // before we publish a count beyond it. 2. L2: the order seen last is `RUN`.
        *unsafe { cell_mut(&mut body) }
    }

    /// Publishes how many are done.
    #[inline(always)]
    fn publish(&mut self, with: &mut impl Serve<J>) {
        if self.published != self.next {
            with.publish();
            self.published = self.next;
            // Release: what the jobs did.
            self.lane.done.store(self.next, Ordering::Release);
        }
    }

    #[cold]
    #[inline(never)]
    fn obey(&mut self, with: &mut impl Serve<J>) {
        if self.order & WANT == RUN {
            return;
        }
        with.abandon();
        self.until = self.next;
        // Also what the abandoned job wrote.
        with.publish();
        // Release: nothing of what we did is still to come.
        self.lane.obeyed.store(self.order, Ordering::Release);
    }
}

/// Asks for a line to be written, which another core has read.
#[inline(always)]
fn claim<T>(at: &T) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    {
        let at = std::ptr::from_ref(at);
        // SAFETY: 1. a hint: it reads and writes nothing, and never faults. Processors of x86-64 that have no use for
        // it take it as a NOP (Intel SDM, PREFETCHW; AMD APM 3, PREFETCHlevel).
        unsafe { std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags)) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    let _ = at;
}

/// Asks for a line that another core has written.
#[inline(always)]
fn prefetch<T>(at: &T) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: 1. a hint: it reads nothing that the program sees, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    let _ = at;
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_two_descriptors() {
        assert_eq!(size_of::<Slot<super::super::Errand>>() as u64 * A_LINE, 64);
    }

    #[test]
    fn stamps_tell_bursts_of_two_rounds_apart_also_where_the_lower_half_wraps() {
        for first in [0, 1, u64::from(u32::MAX) - 1, u64::from(u32::MAX), 1 << 40] {
            assert_ne!(stamp(first, 1), 0);
            assert_ne!(stamp(first, 1), stamp(first + 4, 1));
            assert_ne!(stamp(first, 1), stamp(first, 2));
        }
    }

    /// Runs numbers, into a list.
    struct List(Vec<u32>);

    impl Serve<u32> for List {
        fn begin(&mut self) {}
        fn run(&mut self, job: &u32) -> bool {
            self.0.push(*job);
            true
        }
        fn publish(&mut self) {}
        fn abandon(&mut self) {}
    }

    #[test]
    fn positions_go_past_the_stamp_s_lower_half() {
        let (mut submitter, mut server) = lane(3, 0_u32);
        let start = u64::from(u32::MAX) - 1;
        (submitter.pushed, submitter.rung) = (start, start);
        (server.next, server.until, server.published) = (start, start, start);
        let (mut list, mut sent) = (List(Vec::new()), Vec::new());
        for burst in 1..=4 {
            assert_eq!(server.turn(&mut list), Turn::Idle, "nothing was rung");
            for _ in 0..burst {
                sent.push(sent.len() as u32);
                submitter.push(sent.len() as u32 - 1);
            }
            assert_eq!(server.turn(&mut list), Turn::Idle, "not rung yet");
            submitter.ring();
            assert_eq!(server.turn(&mut list), Turn::Busy);
            assert_eq!(list.0, sent);
        }
        assert_eq!(submitter.done(), start + 10);
    }
}
