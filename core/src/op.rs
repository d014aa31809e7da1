//! Operations, what submit answers, and completions.

use crate::Cause;
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
    /// Start nothing that follows before everything before it has completed.
    Fence,
}

/// One operation. Made by its constructors only, whose types allow no forbidden flow.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    pub(crate) kind: OpKind,
    pub(crate) declassified: bool,
    pub(crate) from: RawSpan,
    pub(crate) to: RawSpan,
    pub(crate) at: u64,
    pub(crate) cookie: u64,
}

impl Op {
    /// Copies `from` to `to`; both of one length.
    #[inline]
    pub fn copy<S: FlowsTo<D>, D: RegionTag>(from: crate::Span<S>, to: crate::Span<D>) -> Op {
        Op {
            kind: OpKind::Copy,
            declassified: declassified::<S>(),
            from: from.raw,
            to: to.raw,
            at: 0,
            cookie: 0,
        }
    }

    /// Fills `to` with `pattern`, little-endian, repeated.
    #[inline]
    pub fn fill<D: RegionTag>(to: crate::Span<D>, pattern: u64) -> Op {
        Op {
            kind: OpKind::Fill,
            declassified: false,
            from: RawSpan::NONE,
            to: to.raw,
            at: pattern,
            cookie: 0,
        }
    }

    /// Reads from position `at` of the engine's medium into `to` (a receiving NIC ignores `at`). What the medium
    /// gives is tagged by where it goes.
    #[inline]
    pub fn read<D: RegionTag>(at: u64, to: crate::Span<D>) -> Op {
        Op { kind: OpKind::Read, declassified: false, from: RawSpan::NONE, to: to.raw, at, cookie: 0 }
    }

    /// Writes `from` to position `at` of the engine's medium, which is outside the trust domain: shared or
    /// declassified bytes only.
    #[inline]
    pub fn write<S: FlowsTo<crate::Shared>>(from: crate::Span<S>, at: u64) -> Op {
        Op {
            kind: OpKind::Write,
            declassified: declassified::<S>(),
            from: from.raw,
            to: RawSpan::NONE,
            at,
            cookie: 0,
        }
    }

    /// A fence; engines that run in order treat it as a no-op.
    #[inline]
    pub fn fence() -> Op {
        Op {
            kind: OpKind::Fence,
            declassified: false,
            from: RawSpan::NONE,
            to: RawSpan::NONE,
            at: 0,
            cookie: 0,
        }
    }

    /// A value of the user's that comes back with the completion.
    #[inline]
    pub fn cookie(mut self, user: u64) -> Op {
        self.cookie = user;
        self
    }
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
    /// Its queue was stopped for another's sake: submit it again. Nothing is promised of the destination.
    Aborted,
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
