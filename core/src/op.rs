//! Operations, what submit answers, and completions.

use crate::Cause;
use crate::channel::{NO_REGION, Names};
use crate::region::slot::word;
use crate::region::{Generation, RawSpan};
use crate::tag::{Declassified, FlowsTo, RegionTag, Tag};
use std::any::TypeId;

/// Names an accepted operation of one channel, in ascending order from 1; the fabric's own read-backs take tickets
/// too, so some are never seen. `Ticket(0)` is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// The operations there are; engines translate them and refuse the ones their device does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// Copy one span to another of the same length.
    Copy,
    /// Repeat an 8-byte pattern over a span.
    Fill,
    /// Bring bytes from the engine's medium (a wire, a file, a namespace) into a span.
    Read,
    /// Send a span to the engine's medium.
    Write,
    /// Start nothing that follows before everything before it, in this channel, has completed: an operation after it
    /// reads what operations before it wrote. Without one, operations may run in any order and at the same time,
    /// also if they name the same bytes; what orders them otherwise is that the first one's completion was polled
    /// before the second was submitted. A fence names no region, takes an entry, and completes when everything before
    /// it has. An engine that runs in order completes it as a no-op; one that neither orders nor fences denies it.
    Fence,
}

/// One operation. Made by its constructors only, whose types allow no forbidden flow. One cache line.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    /// The regions, as the ring entry names them.
    pub(crate) names: u64,
    /// What the word of the slot that is read must look like; see [`Operand`].
    pub(crate) from: Operand,
    pub(crate) to: Operand,
    pub(crate) len: u64,
    pub(crate) cookie: u64,
    pub(crate) kind: OpKind,
    pub(crate) declassified: bool,
}

/// One side of an operation: the expected word, and where in the region. Of a side without a region, `start` is the
/// position in the medium, or the pattern.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand {
    pub(crate) bits: u64,
    pub(crate) start: u64,
}

impl Operand {
    #[inline(always)]
    const fn at(position: u64) -> Operand {
        Operand { bits: 0, start: position }
    }

    #[inline(always)]
    pub(crate) fn of(span: &RawSpan) -> Operand {
        Operand { bits: span.bits, start: span.start }
    }
}

impl Op {
    #[inline(always)]
    fn new(kind: OpKind, names: u64, from: Operand, to: Operand, len: u64) -> Op {
        Op { names, from, to, len, cookie: 0, kind, declassified: false }
    }

    /// Copies `from` to `to`; both of one length.
    #[inline(always)]
    pub fn copy<S: FlowsTo<D>, D: RegionTag>(from: crate::Span<S>, to: crate::Span<D>) -> Op {
        let (from, mut to) = (from.raw, to.raw);
        if from.len != to.len && !cfg!(tidegate_unchecked) {
            to.bits |= word::BEYOND;
        }
        let names = Names::in_flight(from.index, to.index);
        let op = Op::new(OpKind::Copy, names, Operand::of(&from), Operand::of(&to), from.len);
        Op { declassified: declassified::<S>(), ..op }
    }

    /// Fills `to` with `pattern`, little-endian, repeated.
    #[inline(always)]
    pub fn fill<D: RegionTag>(to: crate::Span<D>, pattern: u64) -> Op {
        let names = Names::in_flight(NO_REGION, to.raw.index);
        Op::new(OpKind::Fill, names, Operand::at(pattern), Operand::of(&to.raw), to.raw.len)
    }

    /// Reads from position `at` of the engine's medium into `to` (a receiving NIC ignores `at`). What the medium
    /// gives is tagged by where it goes.
    #[inline(always)]
    pub fn read<D: RegionTag>(at: u64, to: crate::Span<D>) -> Op {
        let names = Names::in_flight(NO_REGION, to.raw.index);
        Op::new(OpKind::Read, names, Operand::at(at), Operand::of(&to.raw), to.raw.len)
    }

    /// Writes `from` to position `at` of the engine's medium, which is outside the trust domain: shared or
    /// declassified bytes only.
    #[inline(always)]
    pub fn write<S: FlowsTo<crate::Shared>>(from: crate::Span<S>, at: u64) -> Op {
        let names = Names::in_flight(from.raw.index, NO_REGION);
        let op = Op::new(OpKind::Write, names, Operand::of(&from.raw), Operand::at(at), from.raw.len);
        Op { declassified: declassified::<S>(), ..op }
    }

    /// A fence: see [`OpKind::Fence`].
    #[inline(always)]
    pub fn fence() -> Op {
        let names = Names::in_flight(NO_REGION, NO_REGION);
        Op::new(OpKind::Fence, names, Operand::at(0), Operand::at(0), 0)
    }

    /// A value of the user's that comes back with the completion.
    #[inline(always)]
    pub fn cookie(mut self, user: u64) -> Op {
        self.cookie = user;
        self
    }
}

/// Bytes of several places as one operation: scatter-gather. Built once, outside the hot path (it allocates), then
/// submitted as often as one likes with [`crate::Pinned::submit_list`]; like a span it is checked each time.
///
/// The pieces of both sides are in the order of the bytes. Their lengths must sum up to the same; where the pieces end
/// need not agree. Flows are checked by the types, as with [`Op`].
#[derive(Debug, Clone)]
pub struct OpList {
    pub(crate) kind: OpKind,
    pub(crate) from: Box<[RawSpan]>,
    pub(crate) to: Box<[RawSpan]>,
    pub(crate) at: u64,
    pub(crate) len: u64,
    pub(crate) cookie: u64,
    pub(crate) declassified: bool,
    /// The sides differ in length.
    pub(crate) uneven: bool,
}

impl OpList {
    fn new(kind: OpKind, from: Box<[RawSpan]>, to: Box<[RawSpan]>, at: u64) -> OpList {
        let sum = |side: &[RawSpan]| side.iter().try_fold(0_u64, |sum, span| sum.checked_add(span.len));
        let (read, written) = (sum(&from), sum(&to));
        let (len, uneven) = match kind {
            OpKind::Copy => (read, read != written || read.is_none()),
            OpKind::Write => (read, read.is_none()),
            _ => (written, written.is_none()),
        };
        OpList { kind, from, to, at, len: len.unwrap_or(0), cookie: 0, declassified: false, uneven }
    }

    /// Copies the bytes of `from`, one after the other, to those of `to`.
    pub fn copy<S: FlowsTo<D>, D: RegionTag>(from: &[crate::Span<S>], to: &[crate::Span<D>]) -> OpList {
        OpList { declassified: declassified::<S>(), ..OpList::new(OpKind::Copy, raw(from), raw(to), 0) }
    }

    /// Reads from position `at` of the engine's medium into the pieces of `to`.
    pub fn read<D: RegionTag>(at: u64, to: &[crate::Span<D>]) -> OpList {
        OpList::new(OpKind::Read, Box::default(), raw(to), at)
    }

    /// Writes the pieces of `from` to position `at` of the engine's medium, which is outside the trust domain.
    pub fn write<S: FlowsTo<crate::Shared>>(from: &[crate::Span<S>], at: u64) -> OpList {
        OpList {
            declassified: declassified::<S>(),
            ..OpList::new(OpKind::Write, raw(from), Box::default(), at)
        }
    }

    /// A value of the user's that comes back with the completion.
    pub fn cookie(mut self, user: u64) -> OpList {
        self.cookie = user;
        self
    }

    /// Bytes in all.
    #[allow(clippy::len_without_is_empty, reason = "an empty list is refused")]
    pub fn len(&self) -> u64 {
        self.len
    }
}

fn raw<T: Tag>(spans: &[crate::Span<T>]) -> Box<[RawSpan]> {
    spans.iter().map(|span| span.raw).collect()
}

#[inline(always)]
fn declassified<S: Tag>() -> bool {
    TypeId::of::<S>() == TypeId::of::<Declassified>()
}

/// What submit answers.
#[must_use = "an operation that was not queued will not complete"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submit {
    /// Accepted: it completes exactly once, with this ticket.
    Queued(Ticket),
    /// The ring is full: poll, then try again.
    Full,
    /// A region it names was revoked; the generation its slot shows now.
    Stale(Generation),
    /// It may not be done, now or later, on this channel.
    Denied(Flow),
    /// The channel is closed, or closing because its device is.
    Closed(Cause),
}

/// Why an operation was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flow {
    /// The handle belongs to another domain (its addresses mean something else here) or fabric, or the region has
    /// no address that this channel's engine could use.
    Domain,
    /// The channel's requests don't reach such a region: T=0 to a private window, or T=1 to a shared one.
    Trust,
    /// The region was registered without the right to read (or write) it.
    Access,
    /// The span is out of bounds, empty, or lengths differ.
    Bounds,
    /// The engine does not know the operation, or not on such operands.
    Unsupported,
    /// A list of more pieces or regions than the channel's depth has entries, or of none.
    Pieces,
}

/// How an accepted operation ended. It never changes afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The device said success. See [`crate::Channel::confirmed`] for what that proves.
    Done,
    /// The device said failure, with its own code.
    Device(u16),
    /// A region it named was revoked before it was done; nothing is promised of the destination's bytes.
    Revoked,
    /// Its queue was stopped for another's sake, or had room for a part of a list only: submit it again. Nothing is
    /// promised of the destination. A list whose queue was stopped for a region of its own ends so too, if the piece that
    /// names the region was done by then; submitted again, it is stale.
    Aborted,
    /// Only for a list: the engine took some of its pieces and does not do another one. Those it took have ended; nothing
    /// is promised of the destination. It will not fare better if it is submitted again.
    Unsupported,
    /// Only for a confirm: the read-back came, but does not tell live bytes from dead ones.
    Unconfirmed,
}

/// The end of one operation.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Which one.
    pub ticket: Ticket,
    /// The user's value.
    pub cookie: u64,
    /// How it ended.
    pub status: Status,
    /// Bytes moved, as the device reports them.
    pub len: u32,
}

impl Completion {
    /// A value to fill a polling array with.
    pub const EMPTY: Completion = Completion { ticket: Ticket(0), cookie: 0, status: Status::Done, len: 0 };
}
