//! Inside a section: submit, poll, ring.

use super::fuse::{fused_by_owner, named, put_aside};
use super::rows::Generations;
use super::tally::{NO_RUN, touched};
use super::{Core, Counters, Meta, Ring, Rule, Rules, State, owner};
use crate::Cause;
use crate::engine::{AddressSpace, Engine, Operation, Push, Sink, Target};
use crate::epoch::Line;
use crate::fabric::Shared;
use crate::op::{Completion, Flow, Op, OpKind, Operand, Submit};
use crate::region::Generation;
use crate::region::slot::word;
use crate::region::table::Table;
use crate::sync::{CellPtr, Ordering, cell_mut, mutated};
use crossbeam_utils::CachePadded;
use std::marker::PhantomData;

/// A section on a channel: while it lives no grace period that began after it ends. Not `Send`.
///
/// Dropping it rings: no descriptor leaves a section unrung.
pub struct Pinned<'a, E: Engine> {
    line: &'a Line,
    fabric: &'a Shared,
    core: &'a Core<E>,
    rules: &'a Rules,
    /// Room for the operands of a list.
    operands: &'a mut Box<[Target]>,
    state: CellPtr<State<E>>,
    epoch: u64,
    /// The owner word, read after the pin; with `CLOSED` while a poll has not come to its end.
    owner: u64,
    /// [`touched`]: what the end of the section has to do, beside what `run` says.
    touched: u8,
    /// What the operation names that this section queued last; [`NO_RUN`] if there is none that is counted in a run.
    run: u64,
    not_send: PhantomData<*mut ()>,
}

impl<'a, E: Engine> Pinned<'a, E> {
    #[inline(always)]
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a channel, so that each can stay in a register"
    )]
    pub(super) fn new(
        line: &'a Line,
        fabric: &'a Shared,
        core: &'a Core<E>,
        rules: &'a Rules,
        operands: &'a mut Box<[Target]>,
        state: CellPtr<State<E>>,
        epoch: u64,
        owner: u64,
    ) -> Self {
        let (touched, run, not_send) = (0, NO_RUN, PhantomData);
        Pinned { line, fabric, core, rules, operands, state, epoch, owner, touched, run, not_send }
    }

    #[inline(always)]
    pub(super) fn split(&mut self) -> (&mut State<E>, Desk<'a>) {
        let (state, desk, _) = self.split_all();
        (state, desk)
    }

    #[inline(always)]
    pub(super) fn split_all(&mut self) -> (&mut State<E>, Desk<'a>, &mut [Target]) {
        let desk = Desk { line: self.line, fabric: self.fabric, meta: &self.core.meta, rules: self.rules };
        // SAFETY: 1. C1: this section is pinned and saw an owner word without TAKEN. 2. `Pinned` borrows the
        // channel mutably, so there is no second section on it, and `self` is borrowed for as long as the result.
        let state = unsafe { cell_mut(&mut self.state) };
        (state, desk, self.operands)
    }

    /// Is it a section of the channel with this line?
    #[inline]
    pub(crate) fn is_of(&self, line: &CachePadded<Line>) -> bool {
        std::ptr::eq(self.line, &**line)
    }

    /// The channel accepts operations.
    #[inline(always)]
    pub(super) fn is_open(&self) -> bool {
        self.owner == owner::MINE
    }

    /// Checks and queues one operation. One load for each operand's region, one descriptor. The device sees it at the
    /// latest when the section ends. In which order it runs: see [`OpKind::Fence`].
    #[inline(always)]
    pub fn submit(&mut self, op: Op) -> Submit {
        match self.try_submit(&op) {
            Submit::Queued(ticket) => {
                // Last: around the call that it may make, little has to be kept.
                self.count(&op);
                Submit::Queued(ticket)
            }
            refusal => self.refused(refusal),
        }
    }

    /// Submits until one is not accepted: how many were, and the answer to the first that was not (which is taken out
    /// of the iterator, and lost if it can't be had again).
    #[inline]
    pub fn submit_all(&mut self, ops: impl IntoIterator<Item = Op>) -> (usize, Option<Submit>) {
        let mut accepted = 0;
        for op in ops {
            match self.submit(op) {
                Submit::Queued(_) => accepted += 1,
                refusal => return (accepted, Some(refusal)),
            }
        }
        (accepted, None)
    }

    /// Counts an operation that was queued.
    #[inline(always)]
    fn count(&mut self, op: &Op) {
        if cfg!(tidegate_uncounted) {
            self.touched |= touched::PUSHED;
            return;
        }
        let run = std::mem::replace(&mut self.run, op.names);
        let (state, desk) = self.split();
        if run != op.names {
            enter_run(&mut state.ring, &desk.fabric.table, op.names);
        }
        state.ring.tally.submitted(op.len);
    }

    /// A list or a read-back was tried: what comes after it is another run, also if it was not `queued`.
    pub(super) fn interrupted(&mut self, queued: bool) {
        if queued || self.run != NO_RUN {
            self.touched |= touched::PUSHED;
        }
        self.run = NO_RUN;
    }

    /// Counts an answer that is not `Queued`.
    #[inline(always)]
    pub(super) fn refused(&mut self, answer: Submit) -> Submit {
        if !cfg!(tidegate_uncounted) {
            self.touched |= touched::REFUSED;
            self.split().0.ring.tally.refused(&answer);
        }
        answer
    }

    #[inline(always)]
    fn try_submit(&mut self, op: &Op) -> Submit {
        let (open, epoch) = (self.is_open(), self.epoch);
        let (state, desk) = self.split();
        if state.engine.is_none() || !open || state.ring.is_full() {
            return desk.refuse(open);
        }
        let (from, to) = ((op.names >> 32) as u32, op.names as u32);
        let operation = match op.kind {
            OpKind::Copy => {
                let from = match desk.check::<E>(from, op.from, op.len, desk.rules.read) {
                    Ok(from) => from,
                    Err(answer) => return answer,
                };
                match desk.check::<E>(to, op.to, op.len, desk.rules.write) {
                    Ok(to) => Operation::Copy { from, to },
                    Err(answer) => return answer,
                }
            }
            OpKind::Fill => match desk.check::<E>(to, op.to, op.len, desk.rules.write) {
                Ok(to) => Operation::Fill { to, pattern: op.from.start },
                Err(answer) => return answer,
            },
            OpKind::Read => match desk.check::<E>(to, op.to, op.len, desk.rules.write) {
                Ok(to) => Operation::Read { at: op.from.start, to },
                Err(answer) => return answer,
            },
            OpKind::Write => match desk.check::<E>(from, op.from, op.len, desk.rules.read) {
                Ok(from) => Operation::Write { from, at: op.to.start },
                Err(answer) => return answer,
            },
            OpKind::Fence => Operation::Fence,
        };
        let pushed = fused_by_owner(state, desk.meta, |state| {
            let (Some(engine), ring) = (state.engine.as_mut(), &mut state.ring) else { return Push::Full };
            let (before, index) = (ring.last, ring.index(ring.last + 1));
            // SAFETY: 1. `check` found the operands live, in reach and in bounds under this pin (I1, C1), and the ring names
            // their regions until the operation has ended: a drain waits for that before it lets them go.
            let push = || unsafe { engine.push(index, &operation) };
            named(ring, before, std::iter::once(op.names), push)
        });
        let ring = &mut state.ring;
        match pushed {
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
        if mutated("named-after-unpin") {
            desk.fabric.epoch.leave(desk.line, epoch);
        }
        ring.tally.declassified(op.declassified);
        Submit::Queued(ring.accept(op.names, op.cookie))
    }

    /// Takes completions, in the order the device gave them; returns how many were written to `out`.
    #[inline(always)]
    pub fn poll(&mut self, out: &mut [Completion]) -> usize {
        if mutated("poll-outside-the-section") {
            let epoch = &self.fabric.epoch;
            epoch.leave(self.line, epoch.enter(self.line, false));
        }
        // Not a fuse: what it keeps for the way of a panic costs two instructions for each completion here. Marked before,
        // unmarked after: whoever catches the panic inside the section does not reach the engine again.
        let (before, owner) = (self.touched, self.owner);
        self.touched |= touched::RETIRING;
        self.owner |= owner::CLOSED;
        let (state, _) = self.split();
        let mut n = 0;
        if state.ring.has_leftovers() {
            n = state.ring.take_leftovers(out);
        }
        if let (Some(engine), true) = (state.engine.as_mut(), n < out.len() && before < touched::RETIRING) {
            let mut sink = Sink::new(&mut state.ring, out, n);
            engine.retire(&mut sink);
            let (all, oldest, bytes) = (sink.n, sink.oldest, sink.bytes);
            state.ring.oldest = oldest;
            state.ring.advance();
            state.ring.tally.ended((all - n) as u64, bytes);
            n = all;
        }
        state.ring.tally.polled(n);
        self.touched = before | touched::POLLED;
        self.owner = owner;
        n
    }

    /// Rings the doorbell and leaves the section; the same as dropping it.
    #[inline(always)]
    pub fn ring(self) {}

    /// Counters so far, this section's included.
    pub fn counters(&mut self) -> Counters {
        let ring = &self.split().0.ring;
        ring.tally.counters(ring.last)
    }

    pub(super) fn leftovers(&mut self, out: &mut [Completion]) -> usize {
        self.split().0.ring.take_leftovers(out)
    }
}

impl<E: Engine> Drop for Pinned<'_, E> {
    #[inline(always)]
    fn drop(&mut self) {
        // Also if the doorbell panics.
        let leave = Leave { line: self.line, fabric: self.fabric, epoch: self.epoch };
        let touched = self.touched | if self.run == NO_RUN { 0 } else { touched::PUSHED };
        if touched != 0 {
            let meta = &self.core.meta;
            end(self.split().0, touched, meta);
        }
        drop(leave);
    }
}

/// Leaves the section when it is dropped.
struct Leave<'a> {
    line: &'a Line,
    fabric: &'a Shared,
    epoch: u64,
}

impl Drop for Leave<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if !cfg!(tidegate_unchecked) {
            self.fabric.epoch.leave(self.line, self.epoch);
        }
    }
}

/// The end of a section that did something. Out of line, so that one that did nothing is two stores.
#[inline(never)]
fn end<E: Engine>(state: &mut State<E>, touched: u8, meta: &Meta) {
    if touched >= touched::RETIRING {
        return retired_badly(state, touched, meta);
    }
    if touched & touched::PUSHED != 0 {
        fused_by_owner(state, meta, |state| state.engine.as_mut().map(Engine::doorbell));
    }
    state.ring.tally.publish(touched, state.ring.last);
}

/// A poll did not come to its end: the engine panicked in it.
#[cold]
#[inline(never)]
fn retired_badly<E: Engine>(state: &mut State<E>, touched: u8, meta: &Meta) {
    put_aside(state);
    state.ring.advance();
    state.ring.tally.publish(touched, state.ring.last);
    meta.close_broken();
}

/// What operations are checked by.
#[derive(Clone, Copy)]
pub(super) struct Desk<'a> {
    line: &'a Line,
    fabric: &'a Shared,
    pub(super) meta: &'a Meta,
    pub(super) rules: &'a Rules,
}

impl Desk<'_> {
    /// Resolves one operand. Everything that can change is in the slot's line, read after the pin.
    #[inline(always)]
    pub(super) fn check<E: Engine>(
        &self,
        region: u32,
        at: Operand,
        len: u64,
        rule: Rule,
    ) -> Result<Target, Submit> {
        let slot = self.fabric.table.of(region);
        let mut window = E::SPACE == AddressSpace::Device;
        if !cfg!(tidegate_unchecked) || window {
            // Relaxed: who has the handle knows that the slot was written (its maker did, and handed it on), and the
            // slot is not written again before a grace period that waits for this section.
            let seen = slot.word.load(Ordering::Relaxed);
            let wrong = seen ^ at.bits ^ rule.expect;
            if wrong & rule.mask != 0 && !cfg!(tidegate_unchecked) {
                return Err(deny(seen, wrong & rule.mask));
            }
            window &= seen & word::WINDOWS != 0;
        }
        let base = match E::SPACE {
            AddressSpace::Device => &slot.device,
            AddressSpace::Cpu => &slot.cpu,
        };
        let address = base.load(Ordering::Relaxed).wrapping_add(at.start);
        Ok(Target { address, len, region, window })
    }

    /// All windows that the channel may write; `None` while one of them is being revoked.
    pub(super) fn windows(&self) -> Option<Vec<Target>> {
        let (table, rule) = (&self.fabric.table, self.rules.write);
        let what = rule.mask & (word::DOMAIN | word::WINDOWS | word::WRITE);
        let written = |r: &u32| table.of(*r).word.load(Ordering::Relaxed) & what == rule.expect & what;
        table.windows().into_iter().filter(written).map(|region| self.fabric.window(region)).collect()
    }

    /// A live window by its slot.
    pub(super) fn window(&self, region: u32) -> Option<Target> {
        self.fabric.window(region)
    }

    #[inline(always)]
    pub(super) fn refuse(&self, open: bool) -> Submit {
        refuse(self.line, self.meta, open)
    }
}

/// The operation just accepted is its section's first, or names other regions than the one before it. Nothing has to be
/// kept for this while the engine is called: the generations of the regions are read anew.
#[inline(never)]
fn enter_run(ring: &mut Ring, table: &Table, names: u64) {
    let given_again = table.given_again();
    if !ring.tally.is_run(names, given_again) {
        begin_run(ring, table, names, given_again);
    }
}

#[cold]
#[inline(never)]
fn begin_run(ring: &mut Ring, table: &Table, names: u64, given_again: u64) {
    // Relaxed: the check of the same section read the same.
    let word = |index| table.of(index).word.load(Ordering::Relaxed);
    let generations = Generations::of(word((names >> 32) as u32), word(names as u32));
    ring.tally.begin_run(names, generations, given_again, ring.last - 1);
}

/// Full or closed?
#[cold]
#[inline(never)]
fn refuse(line: &Line, meta: &Meta, open: bool) -> Submit {
    let closing = line.owner.load(Ordering::Acquire) & (owner::CLOSING | owner::CLOSED) != 0;
    match (open, closing) {
        (true, false) => Submit::Full,
        // Closed to this section only, by a poll that panicked in it.
        (false, false) => Submit::Closed(Cause::Panicked),
        (_, true) => Submit::Closed(meta.cause()),
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
    } else if wrong & (word::READ | word::WRITE) != 0 {
        Submit::Denied(Flow::Access)
    } else {
        Submit::Denied(Flow::Bounds)
    }
}
