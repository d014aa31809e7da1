//! The project's own NIC: queues whose descriptors receive, transmit, copy and read back.
//!
//! Descriptors and completions are rings in host memory; one register write a section rings the doorbell, and a
//! poll reads only memory: the phase bit of the next completion. Completions come in any order and are told apart by
//! their index, which carries a serial number, so that one that comes twice ends nothing else.
//!
//! *Fences* are kept here, since the device knows no order: what follows one waits in software until everything before
//! it has completed. A read-back does not wait for a fence; it speaks only of what had completed before.
//!
//! *Reading back*: the completion of a write tells its last 8 bytes (`tail`), and [`abi::Opcode::Readback`] reads the
//! same place. Of each window the engine remembers the newest completed write whose last bytes tell a live mapping from
//! a dead one; see [`crate::engine`] for what that proves.

pub mod abi;
#[cfg(test)]
mod conformance;
mod ring;

use super::window::{Proof, Windows};
use super::{Held, Patrol, code, overlap};
use crate::backend::{Backend, Registers};
use crate::device::{Claim, Driver, DriverError, Resources};
use abi::{Completion, Descriptor, Opcode, Status};
use ring::Rings;
use std::time::{Duration, Instant};
use tidegate_core::Engine;
use tidegate_core::engine::{AddressSpace, Cancel, Operation, Outcome, Push, Sink, Target};

/// How long `open` waits for a queue that a former owner left on.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a dropped engine looks whether its queue has stopped, before it leaks its memory.
const LAST_LOOKS: u32 = 1000;
/// Bits of a descriptor's index that name the ring entry; the rest is the serial number.
const INDEX_BITS: u32 = abi::MAX_RING.trailing_zeros();
/// No ring entry: core counts such a completion as spurious.
const NOBODY: u32 = u32::MAX;
/// Bytes that a completion tells of what was moved.
const TAIL: u32 = 8;

/// Opens a queue of a soft NIC as a channel's engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoftNic {
    queue: u32,
    entries: u32,
}

impl SoftNic {
    /// Queue number `queue` (below [`abi::QUEUES`]), with rings of 256 entries.
    pub fn queue(queue: u32) -> SoftNic {
        SoftNic { queue, entries: 256 }
    }

    /// Entries of each ring: a power of two from 2 to [`abi::MAX_RING`]. One less can be in flight.
    pub fn entries(self, entries: u32) -> SoftNic {
        SoftNic { entries, ..self }
    }
}

impl<B: Backend> Driver<B> for SoftNic {
    type Engine = SoftNicEngine<B>;

    /// May sleep for a second, when a former owner left the queue on.
    fn open(self, resources: Resources<B>) -> Result<SoftNicEngine<B>, DriverError> {
        let at = resources.address();
        let SoftNic { queue, entries } = self;
        if queue >= abi::QUEUES || !entries.is_power_of_two() || !(2..=abi::MAX_RING).contains(&entries) {
            return Err(DriverError::Queue { at, queue, entries });
        }
        let claim = resources.claim(queue)?;
        let registers = Port { bar: resources.bar(0)?, queue };
        let id = registers.bar.read32(abi::ID);
        if id != abi::ID_VALUE {
            return Err(DriverError::Kind { at, kind: "soft NIC", found: u64::from(id) });
        }
        registers.write(abi::QUEUE_CONTROL, abi::QUEUE_CONTROL_DISABLE);
        let since = Instant::now();
        while registers.read(abi::QUEUE_STATUS) & abi::QUEUE_STATUS_ENABLED != 0 {
            if since.elapsed() > PATIENCE {
                return Err(DriverError::Unresponsive { at, what: "stop a queue that was on" });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let bytes = u64::from(entries) * (abi::DESCRIPTOR_LEN + abi::COMPLETION_LEN) as u64;
        let rings = Rings::new(resources.memory("NIC rings", bytes)?, entries);
        let engine = SoftNicEngine {
            registers,
            slots: vec![Slot::default(); entries as usize].into_boxed_slice(),
            held: Held::with_room(entries as usize),
            serial: 0,
            rung: 0,
            patrol: Patrol::default(),
            windows: Windows::default(),
            state: State::Running,
            trouble: None,
            hold: Some((rings, claim)),
        };
        if !engine.enable() {
            return Err(DriverError::Unresponsive { at, what: "switch its queue on" });
        }
        Ok(engine)
    }
}

/// A queue's registers.
struct Port<R> {
    bar: R,
    queue: u32,
}

impl<R: Registers> Port<R> {
    fn read(&self, register: u64) -> u32 {
        self.bar.read32(abi::queue(self.queue, register))
    }

    fn write(&self, register: u64, value: u32) {
        self.bar.write32(abi::queue(self.queue, register), value);
    }

    fn write64(&self, register: u64, value: u64) {
        self.bar.write64(abi::queue(self.queue, register), value);
    }
}

/// Drives one queue of a soft NIC. Made by [`SoftNic`].
///
/// [`Operation::Read`] receives a frame (its position is ignored), [`Operation::Write`] sends one, at most
/// [`abi::MTU`] bytes; copies are of any length below 4 GiB and not onto themselves. A fill is refused. Completions
/// carry the device's own codes ([`abi::Status`]) or those of [`code`].
pub struct SoftNicEngine<B: Backend> {
    registers: Port<B::Bar>,
    /// By the index that core gave.
    slots: Box<[Slot]>,
    /// Behind a fence, or refused; oldest first.
    held: Held,
    serial: u32,
    /// The doorbell rang for so many descriptors.
    rung: u32,
    patrol: Patrol,
    windows: Windows,
    state: State,
    /// What new operations end with.
    trouble: Option<u16>,
    /// `None` only while dropped.
    hold: Option<(Rings<B>, Claim)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// A disable was asked for.
    Stopping,
    /// The device said so.
    Stopped,
}

/// What the device works on.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The descriptor's index.
    tag: u32,
    work: Work,
}

#[derive(Debug, Clone, Copy, Default)]
enum Work {
    #[default]
    Nothing,
    /// Writes no window; so many bytes.
    Plain(u64),
    Window(Target),
    ReadBack(Option<Proof>),
}

impl<B: Backend> SoftNicEngine<B> {
    /// Switches the queue on, with empty rings.
    fn enable(&self) -> bool {
        let Some((rings, _)) = &self.hold else { return false };
        let registers = &self.registers;
        let control = registers.bar.read32(abi::CONTROL);
        if control == u32::MAX {
            return false;
        }
        if control & abi::CONTROL_ENABLE == 0 {
            registers.bar.write32(abi::CONTROL, abi::CONTROL_ENABLE);
        }
        registers.write64(abi::QUEUE_DESCRIPTORS, rings.descriptors());
        registers.write64(abi::QUEUE_COMPLETIONS, rings.completions());
        registers.write(abi::QUEUE_SIZE, rings.entries());
        registers.write(abi::QUEUE_CONTROL, abi::QUEUE_CONTROL_ENABLE);
        registers.read(abi::QUEUE_STATUS) == abi::QUEUE_STATUS_ENABLED
    }

    /// Descriptors whose completion was not seen.
    fn outstanding(&self) -> u32 {
        self.hold.as_ref().map_or(0, |(rings, _)| rings.outstanding())
    }

    /// The descriptor of an operation, and what is to be remembered of it. `None`: not done here.
    fn translate(&self, op: &Operation) -> Option<(Descriptor, Work)> {
        let fits = |len: u64, most: u64| u32::try_from(len).ok().filter(|_| len <= most);
        let all = u64::from(u32::MAX);
        let (opcode, address, target, len, work) = match op {
            Operation::Copy { from, to } if from.len == to.len && !overlap(from, to) => {
                (Opcode::Copy, from.address, to.address, fits(to.len, all)?, Work::of(to))
            }
            Operation::Read { to, .. } => (Opcode::Receive, to.address, 0, fits(to.len, all)?, Work::of(to)),
            Operation::Write { from, .. } => {
                let len = fits(from.len, u64::from(abi::MTU))?;
                (Opcode::Transmit, from.address, 0, len, Work::Plain(from.len))
            }
            Operation::ReadBack { window } => {
                let proof = self.windows.proof(window);
                let (at, len) = match &proof {
                    Some(proof) => (proof.address(), proof.bytes().len() as u64),
                    None => (window.address, window.len.min(u64::from(TAIL))),
                };
                (Opcode::Readback, at, 0, len as u32, Work::ReadBack(proof))
            }
            _ => return None,
        };
        Some((Descriptor { address, target, len, index: 0, opcode: opcode as u8 }, work))
    }

    /// Writes a descriptor into the ring. There is room: checked by `push` for all that is in flight.
    fn post(&mut self, index: u32, (descriptor, work): (Descriptor, Work)) {
        self.serial = self.serial.wrapping_add(1);
        let tag = self.serial << INDEX_BITS | index;
        let (Some((rings, _)), Some(slot)) = (&mut self.hold, self.slots.get_mut(index as usize)) else {
            return;
        };
        *slot = Slot { tag, work };
        rings.post(&Descriptor { index: tag, ..descriptor });
    }

    /// Tells the device of everything in the ring.
    fn ring(&mut self) {
        let Some(posted) = self.hold.as_ref().map(|(rings, _)| rings.posted()) else { return };
        if posted != self.rung {
            self.rung = posted;
            // 64 bits: ordered after the descriptors (`Registers::write64`).
            self.registers.write64(abi::QUEUE_TAIL, u64::from(posted));
        }
    }

    /// Moves on what was held back and may go now. `sink`: for fences, and for what is refused.
    #[cold]
    fn release(&mut self, mut sink: Option<&mut Sink<'_>>) {
        // Descriptors that no doorbell rang for yet leave with theirs.
        let all_rung = self.hold.as_ref().is_some_and(|(rings, _)| rings.posted() == self.rung);
        while self.state == State::Running {
            let Some((index, op)) = self.held.first() else { break };
            if let Some(code) = self.trouble {
                let Some(sink) = sink.as_deref_mut().filter(|sink| sink.room() > 0) else { break };
                sink.complete(index, Outcome::Device(code), 0);
            } else if op == Operation::Fence {
                let Some(sink) = sink.as_deref_mut().filter(|sink| sink.room() > 0) else { break };
                if self.outstanding() > 0 {
                    break;
                }
                sink.complete(index, Outcome::Done, 0);
            } else if let Some(posting) = self.translate(&op) {
                self.post(index, posting);
            }
            self.held.pop();
        }
        if all_rung {
            self.ring();
        }
    }

    /// Ends what a completion names.
    #[inline]
    fn finish(&mut self, completion: &Completion, sink: &mut Sink<'_>) {
        let index = completion.index & (abi::MAX_RING - 1);
        let work = match self.slots.get_mut(index as usize) {
            Some(slot) if slot.tag == completion.index => std::mem::take(&mut slot.work),
            _ => Work::Nothing,
        };
        let status = Status::of(completion.status);
        if status == Some(Status::Aborted) && self.state != State::Running {
            // It stays in flight for core, which withdraws it.
            self.spoil(work);
            return;
        }
        let asked = match work {
            Work::Nothing => return sink.complete(NOBODY, Outcome::Device(code::NONSENSE), 0),
            Work::Plain(len) => len,
            Work::Window(to) => to.len,
            Work::ReadBack(_) => u64::from(TAIL).max(super::window::MOST as u64),
        };
        let outcome = match status {
            Some(Status::Done) if u64::from(completion.len) <= asked => self.succeed(work, completion),
            Some(Status::Done) | None => {
                self.spoil(work);
                Outcome::Device(code::NONSENSE)
            }
            Some(failure) => {
                self.spoil(work);
                Outcome::Device(failure as u16)
            }
        };
        sink.complete(index, outcome, completion.len);
    }

    #[inline]
    fn succeed(&mut self, work: Work, completion: &Completion) -> Outcome {
        let tail = completion.tail.to_le_bytes();
        let tail = tail.get(..completion.len.min(TAIL) as usize).unwrap_or(&[]);
        match work {
            Work::Window(to) => {
                let len = u64::from(completion.len);
                let proof = Proof::find(to.region, to.address + len - tail.len() as u64, tail);
                self.windows.wrote(to.region, to.address, len, proof);
                Outcome::Done
            }
            Work::ReadBack(Some(proof)) => {
                let slots = &self.slots;
                self.windows.judge(&proof, tail, || {
                    let touches = |to: &Target| proof.is_in(to.region, to.address, to.len);
                    slots.iter().any(|slot| matches!(&slot.work, Work::Window(to) if touches(to)))
                })
            }
            Work::ReadBack(None) => Outcome::Unchecked,
            Work::Plain(_) | Work::Nothing => Outcome::Done,
        }
    }

    /// It may have been done in part.
    fn spoil(&mut self, work: Work) {
        if let Work::Window(to) = work {
            self.windows.wrote(to.region, to.address, to.len, None);
        }
    }

    /// Looks at the queue's status: a completion is long in coming.
    #[cold]
    fn look(&mut self) {
        let status = self.registers.read(abi::QUEUE_STATUS);
        let well = status & abi::QUEUE_STATUS_ENABLED != 0 && status & abi::QUEUE_STATUS_FAILED == 0;
        match status {
            u32::MAX => self.trouble = Some(code::GONE),
            _ if well || self.state != State::Running => {}
            _ => self.trouble = Some(code::FAILED),
        }
    }
}

// SAFETY: 1. descriptors are made of operands by `translate`, rings and completions lie in `hold`; no two engines
// share a queue (`Claim`). 2. an operation is retired by its own completion (index and serial), which follows the data
// it speaks of to host memory (abi, "Order"); after QUEUE_STATUS shows the queue off nothing that it accepted does DMA
// any more (abi, "Disable"). 3. `Drop` leaks `hold` unless the queue is off, or has nothing to do.
#[expect(unsafe_code, reason = "the promise to core; engine/conformance, softnic/conformance")]
unsafe impl<B: Backend> Engine for SoftNicEngine<B> {
    const SPACE: AddressSpace = AddressSpace::Device;
    const CONFIRMS: bool = true;

    fn depth(&self) -> u32 {
        // One entry is for the fabric's own read-back.
        self.slots.len() as u32 - 1
    }

    #[inline]
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        let is_fence = *op == Operation::Fence;
        let posting = self.translate(op);
        if posting.is_none() && !is_fence {
            return Push::Unsupported;
        }
        let in_flight = self.held.len() + self.outstanding() as usize;
        if in_flight >= self.slots.len() || index as usize >= self.slots.len() {
            return Push::Full;
        }
        let waits = !self.held.is_empty() && !matches!(op, Operation::ReadBack { .. });
        match posting {
            Some(posting) if !waits && self.trouble.is_none() => self.post(index, posting),
            _ => self.held.push(index, op),
        }
        Push::Taken
    }

    /// One register write, if anything is new.
    #[inline]
    fn doorbell(&mut self) {
        if self.held.ring() {
            self.release(None);
        }
        self.ring();
    }

    #[inline]
    fn retire(&mut self, sink: &mut Sink<'_>) {
        let mut found = false;
        while sink.room() > 0 {
            let Some(completion) = self.hold.as_mut().and_then(|(rings, _)| rings.take()) else { break };
            found = true;
            self.finish(&completion, sink);
        }
        if self.held.is_rung() {
            self.release(Some(sink));
        }
        let alive = found || self.outstanding() == 0;
        if self.patrol.is_due(alive) {
            self.look();
        }
    }

    /// Disables the queue. The device gives up what it can; what it completed is still retired.
    fn cancel(&mut self) -> Cancel {
        if self.state == State::Stopped {
            return Cancel::Stopped;
        }
        if self.state == State::Running {
            self.state = State::Stopping;
            self.registers.write(abi::QUEUE_CONTROL, abi::QUEUE_CONTROL_DISABLE);
        }
        // A read that shows the queue off pushed its last completions to memory.
        match self.registers.read(abi::QUEUE_STATUS) {
            u32::MAX => {
                self.trouble = Some(code::GONE);
                Cancel::Impossible
            }
            status if status & abi::QUEUE_STATUS_ENABLED != 0 => Cancel::Pending,
            _ => {
                self.state = State::Stopped;
                Cancel::Stopped
            }
        }
    }

    fn resume(&mut self) -> bool {
        if self.state != State::Stopped {
            return false;
        }
        for slot in 0..self.slots.len() {
            let work = self.slots.get_mut(slot).map(|slot| std::mem::take(&mut slot.work));
            self.spoil(work.unwrap_or_default());
        }
        self.held.clear();
        self.patrol = Patrol::default();
        (self.rung, self.trouble) = (0, None);
        if let Some((rings, _)) = &mut self.hold {
            rings.restart();
        }
        if !self.enable() {
            return false;
        }
        self.state = State::Running;
        true
    }
}

impl<B: Backend> std::fmt::Debug for SoftNicEngine<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoftNicEngine")
            .field("queue", &self.registers.queue)
            .field("outstanding", &self.outstanding())
            .field("held", &self.held)
            .field("state", &self.state)
            .field("trouble", &self.trouble)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Drop for SoftNicEngine<B> {
    fn drop(&mut self) {
        // With nothing outstanding the device has nothing to do, and hears of nothing new.
        let stopped = |engine: &mut Self| engine.cancel() == Cancel::Stopped;
        if stopped(self) || self.outstanding() == 0 || (0..LAST_LOOKS).any(|_| stopped(self)) {
            return;
        }
        tracing::warn!(
            queue = self.registers.queue,
            "NIC queue is dropped while it runs: its memory is leaked"
        );
        std::mem::forget(self.hold.take());
    }
}

impl Work {
    fn of(to: &Target) -> Work {
        if to.window { Work::Window(*to) } else { Work::Plain(to.len) }
    }
}
