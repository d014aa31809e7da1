//! The driver, and the engine that a channel gets from it.

use crate::ring::{Ring, Word};
use crate::sheet;
use std::collections::VecDeque;
use std::time::Duration;
use tidegate::core::Engine;
use tidegate::core::engine::{AddressSpace, Cancel, Flush, Operation, Outcome, Push, Sink, Target};
use tidegate::p2p::Backend;
use tidegate::p2p::backend::Registers;
use tidegate::p2p::device::{Claim, DmaMemory, Driver, DriverError, Resources};
use tidegate::p2p::engine::{Patrol, code};

/// How long `open` waits for a device that a former owner left running.
const PATIENCE: Duration = Duration::from_secs(1);
/// Looks at the device before a dropped engine leaks what it may touch.
const LAST_LOOKS: u32 = 1000;
/// Most bytes that a flush reads.
const FLUSH: u64 = 8;

/// Opens the device as a channel's engine. There is one ring, so one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingDma {
    entries: u32,
}

impl Default for RingDma {
    /// 255 operations in flight.
    fn default() -> Self {
        RingDma::depth(255)
    }
}

impl RingDma {
    /// So many operations in flight at least, up to [`sheet::MOST_ENTRIES`] less one.
    pub fn depth(depth: u32) -> RingDma {
        // One entry is for a flush.
        let most = sheet::MOST_ENTRIES;
        RingDma { entries: depth.clamp(1, most - 1).saturating_add(1).next_power_of_two() }
    }
}

impl<B: Backend> Driver<B> for RingDma {
    type Engine = RingDmaEngine<B>;

    fn open(self, resources: Resources<B>) -> Result<RingDmaEngine<B>, DriverError> {
        let at = resources.address();
        let claim = resources.claim(0)?;
        let bar = resources.bar(0)?;
        let found = bar.read32(sheet::ID);
        if found != sheet::ID_VALUE {
            return Err(DriverError::Kind { at, kind: "ring DMA", found: u64::from(found) });
        }
        bar.write32(sheet::CONTROL, 0);
        if !resources.wait(PATIENCE, || bar.read32(sheet::STATUS) & sheet::RUNNING == 0) {
            return Err(DriverError::Unresponsive { at, what: "stop" });
        }
        let ring = Ring::new(resources.memory("ring", Ring::<B>::bytes(self.entries))?, self.entries);
        let scratch = resources.memory("flush", FLUSH)?;
        let slots = vec![Slot::Nothing; self.entries as usize].into_boxed_slice();
        let engine = RingDmaEngine {
            bar,
            slots,
            refused: VecDeque::with_capacity(self.entries as usize),
            flush: None,
            patrol: Patrol::default(),
            state: State::Running,
            trouble: None,
            hold: Some(Hold { ring, scratch, _claim: claim }),
        };
        if engine.start() { Ok(engine) } else { Err(DriverError::Unresponsive { at, what: "start" }) }
    }
}

/// Drives the ring. Made by [`RingDma`].
///
/// Copies of less than 4 GiB, not onto themselves, and fences; nothing else. They run in the order in which they were
/// submitted. Completions carry [`sheet::REFUSED`] or a code of [`code`].
///
/// *The window flush* is a descriptor of its own that reads some bytes of the window into memory of the engine's. It comes
/// behind everything in the ring and, by the sheet's "Order", its read does not pass the writes to the window of what completed
/// before. The device tells a read that was refused: so one that is [`sheet::DONE`] was answered by a mapping that is alive. It
/// is no value that could be compared, so there is no confirm ([`Engine::CONFIRMS`]).
pub struct RingDmaEngine<B: Backend> {
    bar: B::Bar,
    /// By the place in the ring.
    slots: Box<[Slot]>,
    /// Indexes of what was pushed while the device was in trouble.
    refused: VecDeque<u32>,
    /// The descriptor of the flush under way.
    flush: Option<u32>,
    patrol: Patrol,
    state: State,
    /// What new operations end with.
    trouble: Option<u16>,
    /// `None` only while dropped.
    hold: Option<Hold<B>>,
}

/// What the device may touch, and what keeps others from it.
struct Hold<B: Backend> {
    ring: Ring<B>,
    scratch: DmaMemory<B>,
    _claim: Claim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Nothing,
    /// An operation: its index and its bytes.
    Operation(u32, u32),
    /// A flush.
    Flush,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// A stop was asked for.
    Stopping,
    Stopped,
}

impl<B: Backend> RingDmaEngine<B> {
    fn start(&self) -> bool {
        let Some(hold) = &self.hold else { return false };
        let (ring, words) = hold.ring.addresses();
        self.bar.write64(sheet::RING, ring);
        self.bar.write64(sheet::WORDS, words);
        self.bar.write32(sheet::ENTRIES, hold.ring.entries());
        self.bar.write32(sheet::CONTROL, sheet::RUN);
        self.bar.read32(sheet::CONTROL) == sheet::RUN
    }

    /// Source, destination and length; `None`: not done here.
    fn translate(op: &Operation) -> Option<(u64, u64, u32)> {
        match op {
            Operation::Copy { from, to } => {
                let apart = from.address >= to.address.saturating_add(to.len)
                    || to.address >= from.address.saturating_add(from.len);
                let len = u32::try_from(to.len).ok()?;
                (apart && from.len == to.len).then_some((from.address, to.address, len))
            }
            // Order is the ring's own.
            Operation::Fence => Some((0, 0, 0)),
            _ => None,
        }
    }

    fn post(&mut self, what: Slot, (from, to, len): (u64, u64, u32)) {
        let Some(hold) = &mut self.hold else { return };
        if let Some(slot) = self.slots.get_mut(hold.ring.next()) {
            *slot = what;
            hold.ring.post(from, to, len);
        }
    }

    fn outstanding(&self) -> u32 {
        self.hold.as_ref().map_or(0, |hold| hold.ring.outstanding())
    }

    #[cold]
    fn look(&mut self) {
        match self.bar.read32(sheet::STATUS) {
            u32::MAX => self.trouble = Some(code::GONE),
            status if status & sheet::RUNNING == 0 && self.state == State::Running => {
                self.trouble = Some(code::FAILED);
            }
            _ => {}
        }
    }

    #[cold]
    fn end_refused(&mut self, sink: &mut Sink<'_>) {
        while sink.room() > 0 {
            let Some(index) = self.refused.pop_front() else { return };
            sink.complete(index, Outcome::Device(self.trouble.unwrap_or(code::FAILED)), 0);
        }
    }
}

// SAFETY: 1. descriptors are made of operands by `translate`, or read the window that a flush was asked for into `hold`, where
// ring and words lie too; no two engines share the device (`Claim`). 2. an operation is retired by its own word (place and
// count), which the device writes after the last of its bytes (sheet, "Order"); after STATUS reads without RUNNING it makes
// no request any more (sheet, "Stop"). 3. `Drop` leaks `hold` unless that was read.
#[expect(unsafe_code, reason = "the promise to core; conformance.rs")]
unsafe impl<B: Backend> Engine for RingDmaEngine<B> {
    const SPACE: AddressSpace = AddressSpace::Device;
    const CONFIRMS: bool = false;

    fn depth(&self) -> u32 {
        // One entry is for a flush.
        self.slots.len() as u32 - 1
    }

    #[inline]
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        let Some(descriptor) = Self::translate(op) else { return Push::Unsupported };
        if self.outstanding() as usize + self.refused.len() >= self.slots.len() - 1 {
            return Push::Full;
        }
        if self.trouble.is_some() {
            self.refused.push_back(index);
        } else {
            self.post(Slot::Operation(index, descriptor.2), descriptor);
        }
        Push::Taken
    }

    #[inline]
    fn doorbell(&mut self) {
        if let Some(tail) = self.hold.as_mut().and_then(|hold| hold.ring.ring()) {
            // 64 bits: ordered after the descriptors (`Registers::write64`).
            self.bar.write64(sheet::TAIL, u64::from(tail));
        }
    }

    #[inline]
    fn retire(&mut self, sink: &mut Sink<'_>) {
        let mut found = false;
        while sink.room() > 0 {
            let Some(hold) = &mut self.hold else { break };
            let place = hold.ring.oldest();
            let Some(word) = hold.ring.take() else { break };
            found = true;
            // A flush looks at its word itself.
            let Some(Slot::Operation(index, len)) = self.slots.get(place).copied() else { continue };
            match word {
                Word::Done => sink.complete(index, Outcome::Done, len),
                Word::Refused => sink.complete(index, Outcome::Device(sheet::REFUSED as u16), 0),
                Word::Nonsense => sink.complete(index, Outcome::Device(code::NONSENSE), 0),
            }
        }
        if !self.refused.is_empty() {
            self.end_refused(sink);
        }
        let alive = found || self.outstanding() == 0;
        if self.patrol.is_due(alive) {
            self.look();
        }
    }

    fn cancel(&mut self) -> Cancel {
        if self.state == State::Stopped {
            return Cancel::Stopped;
        }
        if self.state == State::Running {
            self.state = State::Stopping;
            self.bar.write32(sheet::CONTROL, 0);
        }
        // A read that shows the device stopped pushed its last words to memory.
        match self.bar.read32(sheet::STATUS) {
            u32::MAX => {
                self.trouble = Some(code::GONE);
                Cancel::Impossible
            }
            status if status & sheet::RUNNING != 0 => Cancel::Pending,
            _ => {
                self.state = State::Stopped;
                Cancel::Stopped
            }
        }
    }

    fn resume(&mut self) -> bool {
        let Some(hold) = self.hold.as_mut().filter(|_| self.state == State::Stopped) else { return false };
        hold.ring.restart();
        self.slots.fill(Slot::Nothing);
        self.refused.clear();
        self.patrol = Patrol::default();
        (self.flush, self.trouble) = (None, None);
        if !self.start() {
            return false;
        }
        self.state = State::Running;
        true
    }

    fn flush(&mut self, window: &Target) -> Flush {
        if self.trouble.is_some() || self.state != State::Running {
            return Flush::Impossible;
        }
        let Some(hold) = &self.hold else { return Flush::Impossible };
        let Some(n) = self.flush else {
            self.flush = Some(hold.ring.posted());
            let to = hold.scratch.iova();
            self.post(Slot::Flush, (window.address, to, window.len.min(FLUSH) as u32));
            self.doorbell();
            return Flush::Pending;
        };
        match hold.ring.word(n) {
            None if self.bar.read32(sheet::STATUS) == u32::MAX => Flush::Impossible,
            None => Flush::Pending,
            Some(word) => {
                self.flush = None;
                if word == Word::Done { Flush::Flushed } else { Flush::Impossible }
            }
        }
    }

    fn stopped(&mut self) -> bool {
        self.cancel() == Cancel::Stopped
    }
}

impl<B: Backend> std::fmt::Debug for RingDmaEngine<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RingDmaEngine")
            .field("outstanding", &self.outstanding())
            .field("refused", &self.refused)
            .field("flush", &self.flush)
            .field("state", &self.state)
            .field("trouble", &self.trouble)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Drop for RingDmaEngine<B> {
    fn drop(&mut self) {
        if !(0..LAST_LOOKS).any(|_| self.cancel() == Cancel::Stopped) {
            std::mem::forget(self.hold.take());
        }
    }
}
