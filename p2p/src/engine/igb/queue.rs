//! A queue of an 82576: its two rings, and the engine on them.

use super::descriptor::{self, Received};
use super::mac::{Mac, Turn};
use super::port::Port;
use super::registers as reg;
use super::ring::{Ring, Slot};
use super::{Igb, LONGEST, PIECES, SHORTEST, TOO_LONG};
use crate::backend::Backend;
use crate::device::{Claim, DmaMemory, DriverError, Resources};
use crate::engine::{Held, Patrol, code};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_core::engine::{
    AddressSpace, Cancel, Flush, ListOperation, Operation, Outcome, Push, Sink, Target,
};
use tidegate_core::{Engine, OpKind};

/// How long `open` waits for a queue to be on.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// What the device may still have on its way inside gets so long to leave, once its queue rests.
const SETTLE: Duration = Duration::from_micros(100);
/// A queue that does not rest after so long is stopped by a reset.
const STUCK: Duration = Duration::from_millis(100);
/// How long a dropped engine looks whether its queue has stopped, before it leaks its memory.
const LAST_LOOKS: Duration = Duration::from_millis(2);
/// Room for headers that nobody asked for.
const SCRATCH: u64 = 4096;

/// Drives one queue of an 82576. Made by [`Igb`].
///
/// Completions carry the device's error bits, [`TOO_LONG`], or the codes of [`code`].
pub struct IgbEngine<B: Backend> {
    port: Port<B::Bar>,
    config: Igb,
    receive: Option<Ring>,
    transmit: Ring,
    /// The last receive's frame goes on in the next one's buffer.
    continued: bool,
    /// Behind a fence, or refused; oldest first.
    held: Held,
    patrol: Patrol,
    state: State,
    /// What new operations end with.
    trouble: Option<u16>,
    /// Resets of the device when the queue was switched on.
    resets: u64,
    /// `None` only while dropped.
    hold: Option<Hold<B>>,
}

/// What the device may touch, and what keeps others from it.
struct Hold<B: Backend> {
    memory: DmaMemory<B>,
    mac: Arc<Mac<B>>,
    _claim: Claim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Switched on; the device has not said so yet.
    Starting,
    Running,
    /// Switched off, since then.
    Stopping(Instant),
    /// The device said so, since then.
    Resting(Instant),
    Stopped,
    /// The device is being reset to stop it.
    Forcing,
    /// By a reset: the device has to be set up anew.
    Reset,
}

impl<B: Backend> IgbEngine<B> {
    pub(super) fn new(
        config: Igb,
        resources: &Resources<B>,
        claim: Claim,
        mac: Arc<Mac<B>>,
    ) -> Result<Self, DriverError> {
        let (entries, bytes) = (config.entries, Ring::bytes(config.entries));
        let memory = resources.memory("igb rings", 2 * bytes + SCRATCH)?;
        let port = Port::new(resources.bar(0)?, config.queue);
        Ok(IgbEngine {
            receive: port.receives().then(|| Ring::new(0, entries)),
            port,
            config,
            transmit: Ring::new(bytes, entries),
            continued: false,
            held: Held::with_room(entries as usize),
            patrol: Patrol::default(),
            state: State::Stopped,
            trouble: None,
            resets: 0,
            hold: Some(Hold { memory, mac, _claim: claim }),
        })
    }

    /// Switches the queue on, with empty rings.
    pub(super) fn begin(&mut self) {
        let Some(hold) = &self.hold else { return };
        // Before the registers are written: a reset from here on is seen as one.
        self.resets = hold.mac.resets();
        self.port.switch_on(&self.config, hold.memory.iova(), self.receive.as_ref(), &self.transmit);
        self.state = State::Starting;
    }

    /// Has the device switched it on? Only then it takes tails.
    #[cold]
    pub(super) fn is_running(&mut self) -> bool {
        if self.state == State::Starting && self.port.is_on() {
            self.state = State::Running;
            self.ring();
        }
        self.state == State::Running
    }

    fn outstanding(&self) -> u32 {
        self.transmit.outstanding() + self.receive.as_ref().map_or(0, Ring::outstanding)
    }

    /// May it go into a ring at all?
    fn takes(&self, op: &Operation) -> bool {
        match op {
            Operation::Fence => true,
            Operation::Read { to, .. } => self.receive.is_some() && self.is_buffer(to),
            Operation::Write { from, .. } => is_frame(from.len),
            _ => false,
        }
    }

    /// Does a receive's buffer hold every frame that may come? The device skips descriptors with address 0.
    fn is_buffer(&self, to: &Target) -> bool {
        to.len >= u64::from(self.config.frames) && to.address != 0
    }

    /// Writes the descriptor of a read or write that it takes; false: there is no room.
    #[inline]
    fn post(&mut self, index: u32, op: &Operation) -> bool {
        match op {
            Operation::Read { to, .. } => self.post_buffer(index, to, None),
            Operation::Write { from, .. } => self.post_frame(index, std::slice::from_ref(from), from.len),
            _ => true,
        }
    }

    #[inline]
    fn post_buffer(&mut self, index: u32, to: &Target, header: Option<&Target>) -> bool {
        let (Some(hold), Some(ring)) = (&self.hold, &mut self.receive) else { return false };
        if ring.room() == 0 {
            return false;
        }
        let scratch = hold.memory.iova() + 2 * Ring::bytes(ring.entries());
        let headers = match header {
            Some(to) => to.address,
            None if self.config.header > 0 => scratch,
            None => 0,
        };
        let len = u32::try_from(to.len).unwrap_or(u32::MAX);
        ring.begin(Slot { index, len, pieces: 1, header: header.is_some() });
        ring.post(hold.memory.memory(), descriptor::receive(to.address, headers));
        true
    }

    #[inline]
    fn post_frame(&mut self, index: u32, from: &[Target], len: u64) -> bool {
        let Some(hold) = &self.hold else { return false };
        let (ring, len, pieces) = (&mut self.transmit, len as u32, from.len() as u32);
        if ring.room() < pieces {
            return false;
        }
        ring.begin(Slot { index, len, pieces, header: false });
        for (n, piece) in (1..).zip(from) {
            let words = descriptor::transmit(piece.address, piece.len as u32, len, n == pieces);
            ring.post(hold.memory.memory(), words);
        }
        true
    }

    /// Tells the device of everything in its rings.
    #[inline]
    fn ring(&mut self) {
        if self.state != State::Running {
            return;
        }
        if let Some(tail) = self.receive.as_mut().and_then(Ring::news) {
            self.port.tell(reg::receive, tail);
        }
        if let Some(tail) = self.transmit.news() {
            self.port.tell(reg::transmit, tail);
        }
    }

    /// Moves on what was held back and may go now. `sink`: for fences, and for what is refused.
    #[cold]
    fn release(&mut self, mut sink: Option<&mut Sink<'_>>) {
        // Descriptors that no doorbell rang for yet leave with theirs.
        let all_rung = self.transmit.is_rung() && self.receive.as_ref().is_none_or(Ring::is_rung);
        while matches!(self.state, State::Running | State::Starting) {
            let Some((index, op)) = self.held.first() else { break };
            if self.trouble.is_some() || op == Operation::Fence {
                let outcome = self.trouble.map_or(Outcome::Done, Outcome::Device);
                let Some(sink) = sink.as_deref_mut().filter(|sink| sink.room() > 0) else { break };
                if self.trouble.is_none() && self.outstanding() > 0 {
                    break;
                }
                sink.complete(index, outcome, 0);
            } else if !self.post(index, &op) {
                break;
            }
            self.held.pop();
        }
        if all_rung {
            self.ring();
        }
    }

    /// Ends the receives whose frames are there.
    #[inline]
    fn receive(&mut self, sink: &mut Sink<'_>) -> bool {
        let (Some(hold), Some(ring)) = (&self.hold, &mut self.receive) else { return false };
        let (memory, mut found) = (hold.memory.memory(), false);
        while sink.room() > 0 {
            let Some(mut got) = ring.peek(memory).and_then(Received::of) else { break };
            if self.config.header > 0 {
                got = got.with_header(ring.peek_low(memory));
            }
            let slot = ring.take();
            let in_pieces = self.continued || !got.end;
            (self.continued, found) = (!got.end, true);
            let outcome = match got.errors {
                0 if in_pieces => Outcome::Device(TOO_LONG),
                0 if got.len > slot.len || got.header > self.config.header => Outcome::Device(code::NONSENSE),
                0 => Outcome::Done,
                errors => Outcome::Device(errors),
            };
            sink.complete(slot.index, outcome, got.len + if slot.header { got.header } else { 0 });
        }
        found
    }

    /// Ends the sends whose frames have left.
    #[inline]
    fn sent(&mut self, sink: &mut Sink<'_>) -> bool {
        let Some(hold) = &self.hold else { return false };
        let (memory, ring, mut found) = (hold.memory.memory(), &mut self.transmit, false);
        while sink.room() > 0 && ring.peek(memory).is_some_and(descriptor::is_sent) {
            let slot = ring.take();
            found = true;
            sink.complete(slot.index, Outcome::Done, slot.len);
        }
        found
    }

    /// Looks at the queue: a completion is long in coming.
    #[cold]
    fn look(&mut self) {
        match self.port.is_off(&self.transmit) {
            None => self.trouble = Some(code::GONE),
            Some(true) if self.state == State::Running => self.trouble = Some(code::FAILED),
            Some(_) => {}
        }
    }

    /// Stops a queue that does not rest by a reset of the device, if nobody else uses it.
    #[cold]
    fn force(&mut self) -> Cancel {
        let Some(hold) = &self.hold else { return Cancel::Impossible };
        let Some(mut core) = hold.mac.try_lock() else { return Cancel::Pending };
        if hold.mac.resets() == self.resets {
            // Somebody who comes now has to wait for the lock.
            if !core.is_going_down() && Arc::strong_count(&hold.mac) > 1 {
                return Cancel::Pending;
            }
            self.state = State::Forcing;
            match hold.mac.turn_down(&mut core) {
                Turn::Done => {}
                Turn::Pending => return Cancel::Pending,
                Turn::Failed => return Cancel::Impossible,
                Turn::Gone => {
                    self.trouble = Some(code::GONE);
                    return Cancel::Impossible;
                }
            }
        }
        self.state = State::Reset;
        Cancel::Stopped
    }
}

// SAFETY: 1. descriptors are made of operands that `takes` or `push_list` found fit: a receive's buffer holds the longest frame
// (RLPML, without its check sequence), a header's the queue's header buffer; rings and scratch lie in `hold`; no two engines
// share a queue (`Claim`). 2. an operation is retired by its descriptor's write-back, which follows its data (module docs,
// "Order"); after the control registers show the rings off, or a reset ended, nothing that the queue had does DMA any more.
// 3. `Drop` leaks `hold` unless the queue is off, or has nothing to do.
#[expect(unsafe_code, reason = "the promise to core; engine/conformance, igb/conformance")]
unsafe impl<B: Backend> Engine for IgbEngine<B> {
    const SPACE: AddressSpace = AddressSpace::Device;
    const CONFIRMS: bool = false;

    fn depth(&self) -> u32 {
        self.transmit.entries() - 1
    }

    #[inline]
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        if !self.takes(op) {
            return Push::Unsupported;
        }
        if self.held.is_empty() && self.trouble.is_none() && *op != Operation::Fence {
            return if self.post(index, op) { Push::Taken } else { Push::Full };
        }
        if self.held.len() >= self.transmit.entries() as usize {
            return Push::Full;
        }
        self.held.push(index, op);
        Push::Taken
    }

    /// Frames of several pieces; with header split, receives into two buffers.
    unsafe fn push_list(&mut self, index: u32, op: &ListOperation<'_>) -> Push {
        let fits = match (op.kind, op.to) {
            (OpKind::Write, _) => is_frame(op.len) && op.from.len() <= PIECES.min(self.depth() as usize),
            (OpKind::Read, [header, to]) if self.receive.is_some() && self.config.header > 0 => {
                let (room, even) = (header.len >= u64::from(self.config.header), header.address % 2 == 0);
                room && even && header.address != 0 && self.is_buffer(to)
            }
            _ => false,
        };
        if !fits {
            return Push::Unsupported;
        }
        if self.trouble.is_some() && self.held.len() < self.transmit.entries() as usize {
            // Ended by `release`, whatever it is.
            self.held.push(index, &Operation::Fence);
            return Push::Taken;
        }
        let posted = self.held.is_empty()
            && match op.to {
                [header, to] => self.post_buffer(index, to, Some(header)),
                _ => self.post_frame(index, op.from, op.len),
            };
        if posted { Push::Taken } else { Push::Full }
    }

    /// One register write for each ring that has news.
    #[inline]
    fn doorbell(&mut self) {
        if self.held.ring() {
            self.release(None);
        }
        self.ring();
    }

    #[inline]
    fn retire(&mut self, sink: &mut Sink<'_>) {
        if self.state == State::Starting {
            self.is_running();
        }
        let received = self.receive(sink);
        let found = self.sent(sink) || received;
        if self.held.is_rung() {
            self.release(Some(sink));
        }
        let alive = found || self.outstanding() == 0;
        if self.patrol.is_due(alive) {
            self.look();
        }
    }

    /// Switches the queue off. The device ends what it is at; what it completed is still retired.
    fn cancel(&mut self) -> Cancel {
        match self.state {
            State::Stopped | State::Reset => return Cancel::Stopped,
            State::Forcing => return self.force(),
            State::Running | State::Starting => {
                self.port.switch_off();
                self.state = State::Stopping(Instant::now());
            }
            State::Stopping(_) | State::Resting(_) => {}
        }
        // A read that shows the queue off pushed its last write-backs to memory.
        match (self.port.is_off(&self.transmit), self.state) {
            (None, _) => {
                self.trouble = Some(code::GONE);
                return Cancel::Impossible;
            }
            (Some(false), State::Stopping(since)) if since.elapsed() > STUCK => return self.force(),
            (Some(true), State::Stopping(_)) => self.state = State::Resting(Instant::now()),
            (Some(true), State::Resting(since)) if since.elapsed() >= SETTLE => {
                self.state = State::Stopped;
                return Cancel::Stopped;
            }
            _ => {}
        }
        Cancel::Pending
    }

    /// The queue is on again when the device says so, which later polls look for.
    fn resume(&mut self) -> bool {
        if self.state != State::Stopped || !self.port.is_set_up() {
            return false;
        }
        self.held.clear();
        self.patrol = Patrol::default();
        (self.trouble, self.continued) = (None, false);
        self.receive.iter_mut().for_each(Ring::restart);
        self.transmit.restart();
        self.begin();
        true
    }

    /// See the module's "Order, and the window flush". One register read.
    fn flush(&mut self, _window: &Target) -> Flush {
        if !self.config.routed || !self.port.push() {
            return Flush::Impossible;
        }
        Flush::Flushed
    }
}

impl<B: Backend> std::fmt::Debug for IgbEngine<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IgbEngine")
            .field("config", &self.config)
            .field("outstanding", &self.outstanding())
            .field("held", &self.held)
            .field("state", &self.state)
            .field("trouble", &self.trouble)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Drop for IgbEngine<B> {
    fn drop(&mut self) {
        let since = Instant::now();
        // With nothing outstanding the device has nothing to do, and hears of nothing new.
        while self.cancel() != Cancel::Stopped && self.outstanding() > 0 {
            if since.elapsed() > LAST_LOOKS {
                tracing::warn!(
                    queue = self.config.queue,
                    "igb queue is dropped while it runs: its memory is leaked"
                );
                std::mem::forget(self.hold.take());
                return;
            }
        }
    }
}

fn is_frame(len: u64) -> bool {
    (u64::from(SHORTEST)..=u64::from(LONGEST)).contains(&len)
}
