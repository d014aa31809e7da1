//! What a channel counts, for whoever wants to look: kept by the owner as plain numbers, stored once a section.
//!
//! Everything published is an atomic that only the channel's possessor (C1) writes, so a reader costs the poller the
//! cache line and nothing else. Nothing is ordered by it; the atomics are the standard library's also in the models.

use super::rows::{self, Generations, Rows, Use};
use crate::op::{Flow, Status, Submit};
use crate::region::RawSpan;
use crossbeam_utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// False only for the bench that tells what counting costs.
const COUNTED: bool = !cfg!(tidegate_uncounted);

/// What happened on a channel since it was made. Each only grows. At rest `submitted` is the sum of `done`,
/// `device_errors`, `unconfirmed`, `unsupported`, `revoked`, `aborted` and what is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Operations accepted; a list or a confirm is one.
    pub submitted: u64,
    /// Completed with [`Status::Done`].
    pub done: u64,
    /// Completed with [`Status::Device`].
    pub device_errors: u64,
    /// Confirms completed with [`Status::Unconfirmed`].
    pub unconfirmed: u64,
    /// Lists completed with [`Status::Unsupported`].
    pub unsupported: u64,
    /// Completed with [`Status::Revoked`].
    pub revoked: u64,
    /// Completed with [`Status::Aborted`].
    pub aborted: u64,
    /// Bytes moved, as the device reports them with its completions.
    pub bytes: u64,
    /// Submits answered [`Submit::Full`].
    pub full: u64,
    /// Submits answered [`Submit::Stale`].
    pub stale: u64,
    /// Submits answered [`Submit::Closed`].
    pub closed: u64,
    /// Submits answered [`Submit::Denied`], by why.
    pub denied: Denials,
    /// Calls of poll.
    pub polls: u64,
    /// Of them, those that found nothing.
    pub empty_polls: u64,
    /// Doorbells rung; `submitted / doorbells` is the mean burst.
    pub doorbells: u64,
    /// Operations that used a declassified span.
    pub declassified: u64,
    /// Completions of the device that named nothing in flight: dropped.
    pub spurious: u64,
}

/// Submits that were denied, by [`Flow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Denials {
    /// [`Flow::Domain`].
    pub domain: u64,
    /// [`Flow::Trust`].
    pub trust: u64,
    /// [`Flow::Access`].
    pub access: u64,
    /// [`Flow::Bounds`].
    pub bounds: u64,
    /// [`Flow::Unsupported`].
    pub unsupported: u64,
    /// [`Flow::Pieces`].
    pub pieces: u64,
}

/// Places in the arrays below.
#[derive(Debug, Clone, Copy)]
enum Of {
    Submitted,
    Doorbells,
    Declassified,
    Done,
    Bytes,
    Polls,
    Empty,
    // Rare from here on.
    DeviceErrors,
    Unconfirmed,
    Unsupported,
    Revoked,
    Aborted,
    Full,
    Stale,
    Closed,
    DeniedDomain,
    DeniedTrust,
    DeniedAccess,
    DeniedBounds,
    DeniedUnsupported,
    DeniedPieces,
    Spurious,
}
const ALL: usize = Of::Spurious as usize + 1;

/// What any thread may read.
#[derive(Debug)]
pub(crate) struct Published {
    counts: CachePadded<[AtomicU64; ALL]>,
    rows: Rows,
}

impl Published {
    /// The numbers as of the last section that counted something. What has ended is never more than what it says was
    /// submitted.
    pub(crate) fn read(&self) -> Counters {
        // Acquire, and `submitted` last: it was stored before what ended was.
        let mut counts: [u64; ALL] = std::array::from_fn(|n| self.counts[n].load(Ordering::Acquire));
        counts[Of::Submitted as usize] = self.counts[Of::Submitted as usize].load(Ordering::Acquire);
        Counters::from(&counts)
    }

    /// Slot, generation and use of each region that is counted by itself; and of all others together.
    pub(crate) fn regions(&self) -> (Vec<(u32, u32, Use)>, Use) {
        self.rows.read(|| self.counts[Of::Submitted as usize].load(Ordering::Acquire))
    }
}

impl From<&[u64; ALL]> for Counters {
    fn from(counts: &[u64; ALL]) -> Counters {
        let of = |which: Of| counts[which as usize];
        Counters {
            submitted: of(Of::Submitted),
            done: of(Of::Done),
            device_errors: of(Of::DeviceErrors),
            unconfirmed: of(Of::Unconfirmed),
            unsupported: of(Of::Unsupported),
            revoked: of(Of::Revoked),
            aborted: of(Of::Aborted),
            bytes: of(Of::Bytes),
            full: of(Of::Full),
            stale: of(Of::Stale),
            closed: of(Of::Closed),
            denied: Denials {
                domain: of(Of::DeniedDomain),
                trust: of(Of::DeniedTrust),
                access: of(Of::DeniedAccess),
                bounds: of(Of::DeniedBounds),
                unsupported: of(Of::DeniedUnsupported),
                pieces: of(Of::DeniedPieces),
            },
            polls: of(Of::Polls),
            empty_polls: of(Of::Empty),
            doorbells: of(Of::Doorbells),
            declassified: of(Of::Declassified),
            spurious: of(Of::Spurious),
        }
    }
}

/// What a section did that has to be stored at its end.
pub(super) mod touched {
    pub(crate) const PUSHED: u8 = 1;
    pub(crate) const POLLED: u8 = 2;
    pub(crate) const REFUSED: u8 = 4;
    /// A poll began and has not ended.
    pub(crate) const RETIRING: u8 = 8;
}

/// Operations in a row on the same regions, over any number of sections.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// What their entries say; [`NO_RUN`]: nothing is counted yet.
    names: u64,
    /// [`Table::given_again`](crate::region::table::Table::given_again) when it began. The names alone are not enough: what
    /// lies in a slot in a later section may be another region.
    given_again: u64,
    /// Last ticket before it.
    before: u64,
    bytes: u64,
    /// What was looked up last, and where that is counted.
    keys: [u64; 2],
    places: [usize; 2],
}

/// No operation names this.
pub(super) const NO_RUN: u64 = u64::MAX;

/// The owner's numbers.
#[derive(Debug)]
pub(crate) struct Tally {
    /// As in [`Published`], but `Submitted` follows from the tickets.
    counts: [u64; ALL],
    /// Tickets that are no operation of the user's.
    inner: u64,
    /// Something rare happened since the rare ones were stored.
    rare: bool,
    run: Run,
    published: Arc<Published>,
}

impl Tally {
    pub(super) fn new() -> Tally {
        let counts = CachePadded::new(std::array::from_fn(|_| AtomicU64::new(0)));
        Tally {
            counts: [0; ALL],
            inner: 0,
            rare: false,
            run: Run {
                names: NO_RUN,
                given_again: 0,
                before: 0,
                bytes: 0,
                keys: [0; 2],
                places: [rows::NOWHERE; 2],
            },
            published: Arc::new(Published { counts, rows: Rows::new() }),
        }
    }

    pub(super) fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Exact as of now. `last`: the last ticket.
    pub(crate) fn counters(&self, last: u64) -> Counters {
        Counters { submitted: last - self.inner, ..Counters::from(&self.counts) }
    }

    #[cold]
    fn rarely(&mut self, which: Of) {
        self.counts[which as usize] += 1;
        self.rare = true;
    }

    /// An operation of the current run was accepted.
    #[inline(always)]
    pub(super) fn submitted(&mut self, len: u64) {
        self.run.bytes += len;
    }

    /// Is an operation on these regions one more of the current run?
    #[inline(always)]
    pub(super) fn is_run(&self, names: u64, given_again: u64) -> bool {
        self.run.names == names && self.run.given_again == given_again
    }

    #[inline(always)]
    pub(super) fn declassified(&mut self, is: bool) {
        self.counts[Of::Declassified as usize] += u64::from(is);
    }

    /// A run of operations on these regions begins after ticket `before`. Asked for the first of a section and where the
    /// names change only: within a section a slot holds one region.
    pub(super) fn begin_run(&mut self, names: u64, generations: Generations, given_again: u64, before: u64) {
        self.end_run(before);
        let keys = rows::keys(names, generations);
        if self.run.keys != keys {
            self.run.keys = keys;
            self.run.places = keys.map(|key| self.published.rows.place(key));
        }
        self.run = Run { names, given_again, before, bytes: 0, ..self.run };
        self.published.rows.begin(self.run.places, before - self.inner);
    }

    /// Moves what the run counted to the rows.
    fn end_run(&mut self, last: u64) {
        if COUNTED && self.run.names != NO_RUN {
            self.run.names = NO_RUN;
            let (ops, bytes) = (last - self.run.before, std::mem::take(&mut self.run.bytes));
            self.published.rows.end(ops, bytes);
        }
    }

    /// Entries follow that are counted on their own, after ticket `last`.
    pub(super) fn interrupt(&mut self, last: u64) {
        self.end_run(last);
        (self.run.keys, self.run.places) = ([0; 2], [rows::NOWHERE; 2]);
    }

    /// A span of a list; `side`: 0 it is read, 1 it is written.
    pub(super) fn listed(&mut self, span: &RawSpan, side: usize) {
        if COUNTED {
            let mut places = [rows::NOWHERE; 2];
            places[side] = self.published.rows.place(rows::key(span.index, span.bits));
            self.published.rows.count(places, 1, span.len);
        }
    }

    /// So many of the tickets given are no operations of the user's.
    pub(super) fn grouped(&mut self, inner: u64) {
        self.inner += inner;
    }

    /// `n` completions that the user gets came from the engine.
    #[inline(always)]
    pub(super) fn ended(&mut self, n: u64, bytes: u64) {
        if COUNTED {
            let done = &mut self.counts[Of::Done as usize];
            *done = done.wrapping_add(n);
            self.counts[Of::Bytes as usize] += bytes;
        }
    }

    /// One of those (before or after it was counted) was not `Done`.
    pub(super) fn not_done(&mut self, status: Status) {
        if COUNTED {
            let done = &mut self.counts[Of::Done as usize];
            *done = done.wrapping_sub(1);
        }
        self.rarely(match status {
            Status::Done => return,
            Status::Device(_) => Of::DeviceErrors,
            Status::Unconfirmed => Of::Unconfirmed,
            Status::Unsupported => Of::Unsupported,
            Status::Revoked => Of::Revoked,
            Status::Aborted => Of::Aborted,
        });
    }

    /// Ended by a revoker.
    pub(super) fn withdrawn(&mut self, status: Status) {
        self.rarely(if status == Status::Revoked { Of::Revoked } else { Of::Aborted });
    }

    pub(super) fn spurious(&mut self) {
        self.rarely(Of::Spurious);
    }

    /// A submit was not accepted.
    #[cold]
    #[inline(never)]
    pub(super) fn refused(&mut self, answer: &Submit) {
        self.rarely(match answer {
            Submit::Queued(_) => return,
            Submit::Full => Of::Full,
            Submit::Stale(_) => Of::Stale,
            Submit::Closed(_) => Of::Closed,
            Submit::Denied(Flow::Domain) => Of::DeniedDomain,
            Submit::Denied(Flow::Trust) => Of::DeniedTrust,
            Submit::Denied(Flow::Access) => Of::DeniedAccess,
            Submit::Denied(Flow::Bounds) => Of::DeniedBounds,
            Submit::Denied(Flow::Unsupported) => Of::DeniedUnsupported,
            Submit::Denied(Flow::Pieces) => Of::DeniedPieces,
        });
    }

    /// A poll handed out `n`.
    #[inline(always)]
    pub(super) fn polled(&mut self, n: usize) {
        if COUNTED {
            self.counts[Of::Polls as usize] += 1;
            self.counts[Of::Empty as usize] += u64::from(n == 0);
        }
    }

    #[inline(always)]
    fn store(&self, which: Of, value: u64) {
        // Release: who sees what ended sees that it was submitted.
        self.published.counts[which as usize].store(value, Ordering::Release);
    }

    /// The end of a section that did something.
    #[inline]
    pub(super) fn publish(&mut self, touched: u8, last: u64) {
        if COUNTED && touched & touched::PUSHED != 0 {
            self.published.rows.go_on(self.run.bytes);
            self.counts[Of::Doorbells as usize] += 1;
            self.store(Of::Submitted, last - self.inner);
            for which in [Of::Doorbells, Of::Declassified] {
                self.store(which, self.counts[which as usize]);
            }
        }
        if COUNTED && touched & touched::POLLED != 0 {
            for which in [Of::Done, Of::Bytes, Of::Polls, Of::Empty] {
                self.store(which, self.counts[which as usize]);
            }
        }
        if self.rare {
            self.publish_all(last);
        }
    }

    /// Everything; also by a revoker that has the channel.
    #[cold]
    #[inline(never)]
    pub(super) fn publish_all(&mut self, last: u64) {
        self.rare = false;
        self.store(Of::Submitted, last - self.inner);
        for (at, value) in self.published.counts.iter().zip(&self.counts).skip(1) {
            at.store(*value, Ordering::Release);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::channel::{NO_REGION, Names};

    /// As a section counts an operation that was accepted after ticket `before`; `first`: of it, or after a list.
    fn op(tally: &mut Tally, names: u64, words: (u64, u64), len: u64, before: u64, first: bool) {
        // A slot was given again whenever the words are others than before.
        let given_again = words.0 + words.1;
        if (first || tally.run.names != names) && !tally.is_run(names, given_again) {
            tally.begin_run(names, Generations::of(words.0, words.1), given_again, before);
        }
        tally.submitted(len);
    }

    #[test]
    fn a_reader_never_sees_more_ended_than_submitted() {
        let mut tally = Tally::new();
        let published = tally.published().clone();
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stop = done.clone();
        let reader = std::thread::spawn(move || {
            let (mut before, mut rounds) = (Counters::default(), 0_u64);
            while !stop.load(Ordering::Relaxed) || rounds == 0 {
                let now = published.read();
                assert!(now.done + now.device_errors <= now.submitted, "{now:?}");
                assert!(now.done >= before.done && now.submitted >= before.submitted, "{before:?} {now:?}");
                (before, rounds) = (now, rounds + 1);
            }
        });
        for last in 1..200_000 {
            op(&mut tally, Names::in_flight(NO_REGION, 1), (0, 1 << 32), 8, last - 1, true);
            tally.ended(1, 8);
            if last % 7 == 0 {
                tally.not_done(Status::Device(1));
            }
            tally.polled(1);
            tally.publish(touched::PUSHED | touched::POLLED, last);
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    }

    #[test]
    fn runs_count_what_they_name_and_a_reused_slot_is_another_region() {
        let mut tally = Tally::new();
        let names = Names::in_flight(3, 5);
        let mut last = 0;
        for words in [(1 << 32, 2 << 32), (1 << 32, 2 << 32), (1 << 32, 7 << 32)] {
            for n in 0..10 {
                op(&mut tally, names, words, 64, last, n == 0);
                last += 1;
            }
            tally.publish(touched::PUSHED, last);
        }
        let (mut rows, other) = tally.published().regions();
        rows.sort_unstable();
        let used = |read: (u64, u64), written: (u64, u64)| Use {
            reads: read.0,
            read_bytes: read.1,
            writes: written.0,
            written_bytes: written.1,
        };
        assert_eq!(
            rows,
            [
                (3, 1, used((30, 1920), (0, 0))),
                (5, 2, used((0, 0), (20, 1280))),
                (5, 7, used((0, 0), (10, 640)))
            ]
        );
        assert_eq!(other, Use::default());
    }

    #[test]
    fn what_comes_after_a_run_is_not_counted_to_it() {
        let mut tally = Tally::new();
        op(&mut tally, Names::in_flight(3, 5), (1 << 32, 1 << 32), 64, 0, true);
        tally.publish(touched::PUSHED, 1);
        // Ten tickets that are counted on their own.
        tally.interrupt(1);
        tally.publish(touched::PUSHED, 11);
        let (rows, _) = tally.published().regions();
        let sums =
            |(_, _, used): &(u32, u32, Use)| (used.reads + used.writes, used.read_bytes + used.written_bytes);
        assert_eq!(rows.iter().map(sums).collect::<Vec<_>>(), [(1, 64), (1, 64)]);
    }

    #[test]
    fn a_fence_is_counted_to_no_region_first_of_all_or_after_a_list() {
        let mut tally = Tally::new();
        let (fence, copy) = (Names::in_flight(NO_REGION, NO_REGION), Names::in_flight(3, 5));
        op(&mut tally, fence, (0, 0), 0, 0, true);
        tally.publish(touched::PUSHED, 1);
        op(&mut tally, copy, (1 << 32, 1 << 32), 8, 1, true);
        tally.interrupt(2);
        op(&mut tally, fence, (0, 0), 0, 2, false);
        tally.publish(touched::PUSHED, 3);
        let (rows, _) = tally.published().regions();
        let ops = |(_, _, used): &(u32, u32, Use)| used.reads + used.writes;
        assert_eq!(rows.iter().map(ops).collect::<Vec<_>>(), [1, 1]);
        // What a row holds that was nobody's shows when it gets an owner.
        (0..10_000).for_each(|n| _ = tally.published().rows.place((1000 + n) | 1 << 32));
        let (rows, other) = tally.published().regions();
        assert_eq!(rows.iter().map(ops).sum::<u64>() + other.reads + other.writes, 2);
    }
}
