//! What core asks of an engine.

use super::abi;
use super::power::{Start, State};
use super::queue::NvmeEngine;
use crate::backend::{Backend, Registers};
use crate::engine::code;
use tidegate_core::engine::{AddressSpace, Cancel, ListOperation, Operation, Push, Sink};
use tidegate_core::{Engine, OpKind};

/// How often a dropped engine looks whether its queues have gone, before it leaks its memory.
const LAST_LOOKS: u32 = 1000;

// SAFETY: 1. commands are made of operands by `translate` and `push_list` (their lists lie in the operation's own area), or
// name memory of `hold`; a read-back reads a window that its caller keeps. No two engines share a queue (`Claim`).
// 2. an operation is retired by its own completion (index and serial number), which the controller writes after the data
// it speaks of; when Delete I/O Submission Queue has completed, the queue's commands have ended, and when CSTS.RDY reads 0
// after CC.EN was cleared, the controller does no DMA (NVMe Base 2.0, "Delete I/O Submission Queue command" and "Controller
// Level Reset"): `stop` answers `Stopped` only then. 3. `Drop` leaks `hold` unless the queues are gone.
#[expect(unsafe_code, reason = "the promise to core; engine/conformance, nvme/conformance")]
unsafe impl<B: Backend> Engine for NvmeEngine<B> {
    const SPACE: AddressSpace = AddressSpace::Device;
    const CONFIRMS: bool = true;

    fn depth(&self) -> u32 {
        // A place stays empty, and one is for the fabric's own read-back.
        self.hold.as_ref().map_or(0, |hold| u32::from(hold.pair.entries()) - 2)
    }

    #[inline]
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        if let Operation::ReadBack { window } = op {
            if !self.compares || window.len < self.namespace.block {
                return Push::Unsupported;
            }
            if self.is_full(index) {
                return Push::Full;
            }
            self.checks.push_back((index, *window));
            return Push::Taken;
        }
        let posting = self.translate(index, op);
        if posting.is_none() && *op != Operation::Fence {
            return Push::Unsupported;
        }
        if self.is_full(index) {
            return Push::Full;
        }
        let waits = self.waits();
        match posting {
            Some(posting) if !waits => self.post(index, posting),
            _ => self.held.push(index, op),
        }
        Push::Taken
    }

    /// Pieces in one command. Behind a fence, or while the queues are made, there is no room for one.
    unsafe fn push_list(&mut self, index: u32, op: &ListOperation<'_>) -> Push {
        let pieces = match op.kind {
            OpKind::Read => op.to,
            OpKind::Write => op.from,
            _ => return Push::Unsupported,
        };
        let (Some(first), Some(hold)) = (pieces.first(), &self.hold) else { return Push::Unsupported };
        let slot = u64::from(index) & (self.slots.len() as u64 - 1);
        let data = || self.pointers.many(&hold.areas, slot, pieces);
        let Some(command) = self.blocks(op.kind, op.at, op.len, data) else { return Push::Unsupported };
        let work = self.work(op.kind, op.at, op.len, first);
        let waits = self.waits();
        if waits || self.is_full(index) {
            return Push::Full;
        }
        self.post(index, (command, work));
        Push::Taken
    }

    /// Blocks are where they are, whatever comes first.
    fn splits(&self, at: u64, len: u64) -> bool {
        at.checked_add(len).is_some_and(|end| end <= self.namespace.blocks << self.shift)
    }

    /// One register write, if anything is new.
    #[inline]
    fn doorbell(&mut self) {
        if self.held.ring() | (self.checks_rung != self.checks.len()) {
            self.checks_rung = self.checks.len();
            self.turn(None);
        }
        if let Some(hold) = self.hold.as_mut().filter(|_| self.state == State::Running) {
            hold.pair.ring(&self.bar);
        }
    }

    #[inline]
    fn retire(&mut self, sink: &mut Sink<'_>) {
        let mut found = false;
        while sink.room() > 0 {
            let Some(completion) = self.hold.as_mut().and_then(|hold| hold.pair.take()) else { break };
            found = true;
            self.finish(&completion, sink);
        }
        if found && self.has_queues() {
            if let Some(hold) = &mut self.hold {
                hold.pair.consume(&self.bar);
            }
        }
        if self.held.is_rung()
            || self.checks_rung > 0
            || self.check.is_some()
            || matches!(self.state, State::Starting(_))
        {
            self.turn(Some(sink));
        }
        let alive = found || self.is_idle();
        if self.patrol.is_due(alive) {
            self.look();
        }
    }

    /// Deletes the queues, or stops the controller where it does not do that.
    fn cancel(&mut self) -> Cancel {
        self.stop()
    }

    /// The queues are made again by what is called next.
    fn resume(&mut self) -> bool {
        if self.state != State::Stopped {
            return false;
        }
        self.clear();
        self.state = State::Starting(Start::Controller);
        self.start();
        self.trouble.is_none()
    }
}

impl<B: Backend> NvmeEngine<B> {
    /// Must what comes new wait?
    #[inline]
    fn waits(&self) -> bool {
        !self.held.is_empty() || self.flushing || self.state != State::Running || self.trouble.is_some()
    }

    fn is_idle(&self) -> bool {
        self.out == 0 && self.check.is_none()
    }

    /// Is the completion queue there to be told of?
    fn has_queues(&self) -> bool {
        matches!(self.state, State::Running) || self.is_deleting()
    }

    /// Looks at the controller: a completion is long in coming.
    #[cold]
    fn look(&mut self) {
        if self.state != State::Running {
            return;
        }
        let stops = self.hold.as_ref().map_or(self.life, |hold| hold.controller.stops());
        match self.bar.read32(abi::CSTS) {
            u32::MAX => self.trouble = Some(code::GONE),
            status
                if status & abi::CSTS_READY != 0 && status & abi::CSTS_FATAL == 0 && stops == self.life => {}
            _ => self.trouble = Some(code::FAILED),
        }
    }
}

impl<B: Backend> std::fmt::Debug for NvmeEngine<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NvmeEngine")
            .field("queue", &self.id)
            .field("out", &self.out)
            .field("held", &self.held)
            .field("check", &self.check)
            .field("state", &self.state)
            .field("trouble", &self.trouble)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Drop for NvmeEngine<B> {
    fn drop(&mut self) {
        if (0..LAST_LOOKS).any(|_| self.stop() == Cancel::Stopped) {
            return;
        }
        tracing::warn!(queue = self.id, "NVMe queue is dropped while it runs: its memory is leaked");
        std::mem::forget(self.hold.take());
    }
}
