//! Inside a section: submit, poll, confirm, ring.

use super::{Channel, Counters, NO_REGION, State, owner};
use crate::engine::{AddressSpace, Engine, Operation, Push, Sink, Target};
use crate::op::{Completion, Flow, Op, OpKind, Submit, Ticket};
use crate::region::table::word;
use crate::region::{Generation, RawSpan};
use crate::sync::{CellPtr, Ordering, cell_mut, mutated};
use std::marker::PhantomData;

/// A section on a channel: while it lives no grace period that began after it ends. Not `Send`.
///
/// Dropping it rings: no descriptor leaves a section unrung.
pub struct Pinned<'a, E: Engine> {
    channel: &'a mut Channel<E>,
    state: CellPtr<State<E>>,
    epoch: u64,
    /// The channel accepts operations.
    open: bool,
    pushed: bool,
    not_send: PhantomData<*mut ()>,
}

/// Confirm can't tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unconfirmable {
    /// The engine has no checked read-back: only the end of a clean drain confirms.
    #[error("the engine has no checked read-back")]
    Engine,
    /// More windows were written than the channel remembers.
    #[error("too many windows were written since the last confirm")]
    Windows,
    /// A window that was written is revoked: what was written to it can't be confirmed any more.
    #[error("a window that was written has been revoked")]
    Revoked,
}

impl<'a, E: Engine> Pinned<'a, E> {
    #[inline(always)]
    pub(super) fn new(channel: &'a mut Channel<E>, epoch: u64, open: bool) -> Self {
        let state = channel.core.state.ptr();
        Pinned { channel, state, epoch, open, pushed: false, not_send: PhantomData }
    }

    #[inline(always)]
    fn split(&mut self) -> (&mut State<E>, &Channel<E>) {
        // SAFETY: 1. C1: this section is pinned and saw an owner word without TAKEN. 2. `Pinned` borrows the
        // channel mutably, so there is no second section on it, and `self` is borrowed for as long as the result.
        (unsafe { cell_mut(&mut self.state) }, &*self.channel)
    }

    /// See [`Channel::line`].
    #[inline]
    pub(crate) fn line(&self) -> &std::sync::Arc<crossbeam_utils::CachePadded<crate::epoch::Line>> {
        self.channel.line()
    }

    /// Checks and queues one operation. One load for each operand's region, its bounds, one descriptor. The
    /// device sees it at the latest when the section ends.
    #[inline]
    pub fn submit(&mut self, op: Op) -> Submit {
        let (open, epoch) = (self.open, self.epoch);
        let (state, channel) = self.split();
        let ring = &mut state.ring;
        let Some(engine) =
            state.engine.as_mut().filter(|_| open && ring.last - (ring.oldest - 1) < ring.depth)
        else {
            return refuse(channel, open && state.engine.is_some());
        };
        let operation = match op.kind {
            OpKind::Copy => {
                let from = match channel.check(&op.from, word::READ) {
                    Ok(target) => target,
                    Err(answer) => return answer,
                };
                match channel.check(&op.to, word::WRITE) {
                    Ok(to) if to.len == from.len => Operation::Copy { from, to },
                    Ok(_) => return Submit::Denied(Flow::Bounds),
                    Err(answer) => return answer,
                }
            }
            OpKind::Fill => match channel.check(&op.to, word::WRITE) {
                Ok(to) => Operation::Fill { to, pattern: op.at },
                Err(answer) => return answer,
            },
            OpKind::Read => match channel.check(&op.to, word::WRITE) {
                Ok(to) => Operation::Read { at: op.at, to },
                Err(answer) => return answer,
            },
            OpKind::Write => match channel.check(&op.from, word::READ) {
                Ok(from) => Operation::Write { from, at: op.at },
                Err(answer) => return answer,
            },
            OpKind::Fence => Operation::Fence,
        };
        match engine.push(ring.next_index(), &operation) {
            Push::Taken => {}
            Push::Full => return Submit::Full,
            Push::Unsupported => return Submit::Denied(Flow::Unsupported),
        }
        if let Operation::Copy { to, .. } | Operation::Fill { to, .. } | Operation::Read { to, .. } =
            operation
        {
            if to.window && ring.soiled != to.region {
                ring.soil(to.region);
            }
        }
        ring.counters.declassified += u64::from(op.declassified);
        if mutated("named-after-unpin") {
            channel.fabric.epoch.leave(&channel.core.line, epoch);
        }
        let ticket = ring.accept(op.from.index, op.to.index, op.cookie);
        self.pushed = true;
        Submit::Queued(ticket)
    }

    /// Takes completions, in the order the device gave them; returns how many were written to `out`.
    #[inline]
    pub fn poll(&mut self, out: &mut [Completion]) -> usize {
        if mutated("poll-outside-the-section") {
            self.channel.fabric.epoch.leave(&self.channel.core.line, self.epoch);
        }
        let (state, channel) = self.split();
        let mut n = 0;
        if state.ring.has_leftovers() {
            n = state.ring.take_leftovers(out);
        }
        if let (Some(engine), true) = (state.engine.as_mut(), n < out.len()) {
            let mut sink = Sink { ring: &mut state.ring, out, n };
            engine.retire(&mut sink);
            n = sink.n;
            state.ring.advance();
            // Release: a revoker that sees a ticket retired sees what its device did.
            channel.core.line.oldest.store(state.ring.oldest, Ordering::Release);
        }
        n
    }

    /// Queues a checked read-back of every window written since the last one. It completes once, with the worst
    /// status of them; when that is `Done`, [`Channel::confirmed`] covers everything that had completed by now. `Queued(Ticket(0))`: nothing to do,
    /// confirmed already moved.
    ///
    /// # Errors
    /// [`Unconfirmable`].
    pub fn confirm(&mut self) -> Result<Submit, Unconfirmable> {
        if !E::CONFIRMS {
            return Err(Unconfirmable::Engine);
        }
        let open = self.open;
        let (state, channel) = self.split();
        let Some(engine) = state.engine.as_mut().filter(|_| open) else {
            return Ok(refuse(channel, false));
        };
        let ring = &mut state.ring;
        if ring.is_lost() {
            return Err(Unconfirmable::Revoked);
        }
        let windows = channel.core.names.dirty().ok_or(Unconfirmable::Windows)?;
        let proves = ring.oldest - 1;
        if windows.is_empty() {
            ring.confirmed = ring.confirmed.max(proves);
            return Ok(Submit::Queued(Ticket(0)));
        }
        let mut targets = Vec::with_capacity(windows.len());
        for region in windows {
            targets.push(channel.window(region).ok_or(Unconfirmable::Revoked)?);
        }
        if ring.last - (ring.oldest - 1) + targets.len() as u64 > ring.depth {
            return Ok(Submit::Full);
        }
        let first = Ticket(ring.last + 1);
        let mut refused = None;
        for window in &targets {
            match engine.push(ring.next_index(), &Operation::ReadBack { window: *window }) {
                Push::Taken => ring.accept(window.region, NO_REGION, 0),
                refusal => {
                    refused = Some(refusal);
                    break;
                }
            };
        }
        let last = Ticket(ring.last);
        if last >= first {
            // What did not fit whole proves nothing, and is nobody's to hear of.
            ring.expect_confirm(first, last, proves, refused.is_some());
        }
        // What is written from now on soils anew, and keeps this confirm from calling its window clean.
        ring.soiled = NO_REGION;
        self.pushed |= last >= first;
        match refused {
            None => Ok(Submit::Queued(last)),
            Some(Push::Unsupported) => Err(Unconfirmable::Engine),
            Some(_) => Ok(Submit::Full),
        }
    }

    /// Rings the doorbell and leaves the section; the same as dropping it.
    #[inline]
    pub fn ring(self) {}

    /// Counters so far.
    pub fn counters(&mut self) -> Counters {
        self.split().0.ring.counters
    }

    pub(super) fn leftovers(&mut self, out: &mut [Completion]) -> usize {
        self.split().0.ring.take_leftovers(out)
    }
}

impl<E: Engine> Drop for Pinned<'_, E> {
    #[inline]
    fn drop(&mut self) {
        let (pushed, epoch) = (self.pushed, self.epoch);
        let (state, channel) = self.split();
        if let (true, Some(engine)) = (pushed, state.engine.as_mut()) {
            engine.doorbell();
        }
        let line = &*channel.core.line;
        line.submitted.store(state.ring.last, Ordering::Relaxed);
        channel.fabric.epoch.leave(line, epoch);
    }
}

impl<E: Engine> Channel<E> {
    /// Resolves one operand. Everything that can change is in the slot's line, read after the pin.
    #[inline(always)]
    fn check(&self, span: &RawSpan, right: u64) -> Result<Target, Submit> {
        let Some(slot) = self.fabric.table.slot(span.index) else {
            return Err(Submit::Denied(Flow::Domain));
        };
        // Acquire: the slot's place was written before its word went live.
        let seen = slot.word.load(Ordering::Acquire);
        let wrong = (seen ^ (span.bits | self.expect | right)) & (self.mask | right);
        if wrong != 0 {
            return Err(deny(seen, wrong));
        }
        match span.start.checked_add(span.len) {
            Some(end) if span.len != 0 && end <= slot.len.load(Ordering::Relaxed) => {}
            _ => return Err(Submit::Denied(Flow::Bounds)),
        }
        let base = match E::SPACE {
            AddressSpace::Device => &slot.device,
            AddressSpace::Cpu => &slot.cpu,
        };
        Ok(Target {
            address: base.load(Ordering::Relaxed).wrapping_add(span.start),
            len: span.len,
            region: span.index,
            window: seen & word::WINDOWS != 0,
        })
    }

    /// A live window by its slot.
    fn window(&self, region: u32) -> Option<Target> {
        self.fabric.window(region)
    }
}

/// Which answer a failed check deserves.
#[cold]
#[inline(never)]
fn deny(seen: u64, wrong: u64) -> Submit {
    let generation = Generation((seen >> word::GENERATION_SHIFT) as u32);
    if wrong & word::FABRIC != 0 {
        Submit::Denied(Flow::Domain)
    } else if wrong & (word::GENERATION | word::LIVE) != 0 {
        Submit::Stale(generation)
    } else if wrong & (word::DOMAIN | word::ADDRESSES) != 0 {
        Submit::Denied(Flow::Domain)
    } else if wrong & word::WINDOWS != 0 {
        Submit::Denied(Flow::Trust)
    } else {
        Submit::Denied(Flow::Access)
    }
}

/// Full or closed?
#[cold]
#[inline(never)]
fn refuse<E: Engine>(channel: &Channel<E>, open: bool) -> Submit {
    let closing = channel.core.line.owner.load(Ordering::Acquire) & (owner::CLOSING | owner::CLOSED) != 0;
    if open && !closing { Submit::Full } else { Submit::Closed(channel.core.meta.cause()) }
}
