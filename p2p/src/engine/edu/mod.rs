//! QEMU's `edu` device as a copy engine: one transfer at a time through a buffer of 4096 bytes.
//!
//! An operation is a row of transfers, device address to buffer and buffer to device address. The next one starts
//! when a poll finds the last one ended ([`abi::DMA_COMMAND`] bit 0 clear); nothing waits. That register read
//! also pushes what the device wrote to host memory, so a completed operation's bytes are in host memory for real.
//!
//! # Reading back
//!
//! What was written to a window has to be known before it can be compared, and the CPU never reads a source. But after
//! the last transfer of a copy the device's buffer still holds the bytes that went out. They are saved (one transfer,
//! buffer to scratch) when something is about to use the buffer and the window that got them is not the one to be
//! written next; a run of copies to one window costs nothing more, since only the last chunk matters. Nothing but this
//! engine uses the buffer ([`crate::device::Claim`]), so what is saved is what was sent. The scratch page is cleared
//! before, and zeros prove nothing: a save that got lost leaves no proof.
//!
//! A read-back is then three transfers: the complement of the expected bytes into the buffer (a read that a dead
//! mapping does not answer leaves it), the window into the buffer, the buffer to a cleared piece of scratch.
//! See [`crate::engine`] for what that proves.

pub mod abi;
#[cfg(test)]
mod conformance;
mod job;

use super::window::Windows;
use super::{code, overlap};
use crate::backend::{Backend, BackendError, Registers};
use crate::device::{Claim, DmaMemory, Driver, DriverError, Resources};
use job::{Job, Step};
use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};
use tidegate_core::Engine;
use tidegate_core::engine::{AddressSpace, Cancel, Operation, Outcome, Push, Sink, Target};

/// How long `open` waits for a transfer that a former owner left behind (QEMU's take 100 ms; edu has no reset).
const PATIENCE: Duration = Duration::from_secs(1);
/// What is written to the liveness register.
const SIGN: u32 = 0x7469_6465;

/// Opens an edu as a channel's engine. The device has one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edu {
    depth: u32,
    mask: u64,
}

impl Default for Edu {
    /// 64 operations in flight, addresses of 28 bits (QEMU's default).
    fn default() -> Self {
        Edu { depth: 64, mask: (1 << 28) - 1 }
    }
}

impl Edu {
    /// Operations in flight at most (in software: the device does one at a time).
    pub fn depth(self, depth: u32) -> Edu {
        Edu { depth: depth.clamp(1, 1 << 16), ..self }
    }

    /// Bits of a device address: the device cuts off what is above (`-device edu,dma_mask=`), and has no register
    /// that says so. Operands beyond them are refused.
    pub fn address_bits(self, bits: u32) -> Edu {
        Edu { mask: u64::MAX >> (64 - bits.clamp(12, 64)), ..self }
    }
}

impl<B: Backend> Driver<B> for Edu {
    type Engine = EduEngine<B>;

    /// May sleep for a second, when a former owner left a transfer behind.
    fn open(self, resources: Resources<B>) -> Result<EduEngine<B>, DriverError> {
        let at = resources.address();
        let claim = resources.claim(0)?;
        let bar = resources.bar(0)?;
        let id = bar.read32(abi::ID);
        if id != abi::ID_VALUE {
            return Err(DriverError::Kind { at, kind: "edu", found: u64::from(id) });
        }
        bar.write32(abi::LIVENESS, SIGN);
        if bar.read32(abi::LIVENESS) != !SIGN {
            return Err(DriverError::Unresponsive { at, what: "answer its liveness register" });
        }
        let since = Instant::now();
        while bar.read64(abi::DMA_COMMAND) & abi::COMMAND_RUN != 0 {
            if since.elapsed() > PATIENCE {
                return Err(DriverError::Unresponsive { at, what: "end a transfer that it was doing" });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let scratch = resources.memory("edu scratch", 2 * abi::BUFFER_LEN)?;
        let (iova, len) = (scratch.iova(), scratch.memory().len());
        if iova + (len - 1) > self.mask {
            return Err(BackendError::Range { what: "edu's memory", at: iova, len }.into());
        }
        Ok(EduEngine {
            bar,
            hold: Some((scratch, claim)),
            mask: self.mask,
            depth: self.depth,
            queue: VecDeque::with_capacity(self.depth as usize + 1),
            rung: 0,
            job: None,
            idle: true,
            buffer: None,
            windows: Windows::default(),
            stopping: false,
            gone: false,
        })
    }
}

/// Drives an edu. Made by [`Edu`].
///
/// Copies of any length, fills and fences, in order, one at a time; a copy onto itself is refused. If a register reads
/// all-ones the device is taken for gone ([`code::GONE`]).
pub struct EduEngine<B: Backend> {
    bar: B::Bar,
    /// Two pages: what goes to the device, and what comes from it. `None` only while dropped.
    hold: Option<(DmaMemory<B>, Claim)>,
    mask: u64,
    depth: u32,
    /// Not begun. Room for `depth + 1`: the fabric's own read-back comes on top.
    queue: VecDeque<(u32, Operation)>,
    /// Of them, how many may begin.
    rung: usize,
    /// Its transfer is under way, unless it was halted or the device was seen idle since.
    job: Option<Job>,
    idle: bool,
    /// What the device's buffer holds.
    buffer: Option<Chunk>,
    windows: Windows,
    stopping: bool,
    gone: bool,
}

/// The last bytes that went to a window.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    region: u32,
    address: u64,
    len: u64,
}

/// An operation's end.
type Ended = (u32, Outcome, u32);

/// What the command register says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Idle,
    Running,
    Gone,
}

impl<B: Backend> EduEngine<B> {
    fn look(&mut self) -> Look {
        let command = self.bar.read64(abi::DMA_COMMAND);
        // What the device wrote before it said so is read after.
        fence(Ordering::Acquire);
        match command {
            u64::MAX => Look::Gone,
            running if running & abi::COMMAND_RUN != 0 => Look::Running,
            _ => {
                self.idle = true;
                Look::Idle
            }
        }
    }

    /// Starts a transfer. Only when none runs: the registers are deaf then.
    fn start(&mut self, from: u64, to: u64, len: u64, command: u64) {
        self.idle = false;
        self.bar.write64(abi::DMA_SOURCE, from);
        self.bar.write64(abi::DMA_TARGET, to);
        self.bar.write64(abi::DMA_COUNT, len);
        self.bar.write64(abi::DMA_COMMAND, abi::COMMAND_RUN | command);
    }

    fn reaches(&self, target: &Target) -> bool {
        target.address.checked_add(target.len - 1).is_some_and(|last| last <= self.mask)
    }

    /// Goes as far as it can without waiting; the next end, if there is one.
    fn turn(&mut self) -> Option<Ended> {
        loop {
            let Some(mut job) = self.job else {
                if self.gone {
                    return self.refuse();
                }
                if let Some(ended) = self.begin_next()? {
                    return Some(ended);
                }
                continue;
            };
            if job.halted {
                return None;
            }
            match self.look() {
                Look::Running => return None,
                Look::Gone => {
                    self.gone = true;
                    return self.refuse();
                }
                Look::Idle => {}
            }
            match self.follow(&mut job) {
                Step::End(outcome, len) => {
                    self.job = None;
                    return Some((job.index, outcome, len));
                }
                step if self.stopping => {
                    self.job = Some(Job { step, halted: true, ..job });
                    return None;
                }
                step => self.go(Job { step, ..job }),
            }
        }
    }

    /// Begins the next operation that the doorbell rang for. `None`: there is none; `Some(Some(..))`: it was over
    /// at once.
    fn begin_next(&mut self) -> Option<Option<Ended>> {
        if self.stopping || self.rung == 0 {
            return None;
        }
        self.rung -= 1;
        let (index, op) = self.queue.pop_front()?;
        let job = Job::new(index, op);
        match self.first(&job) {
            Step::End(outcome, len) => return Some(Some((index, outcome, len))),
            step => self.go(Job { step, ..job }),
        }
        Some(None)
    }

    /// Ends what the device never saw.
    fn refuse(&mut self) -> Option<Ended> {
        let (index, _) = self.queue.pop_front().filter(|_| !self.stopping)?;
        self.rung = self.rung.saturating_sub(1);
        Some((index, Outcome::Device(code::GONE), 0))
    }
}

// SAFETY: 1. transfers name an operand's bytes (`Job`: `done + chunk <= len`), within the mask, or scratch pages of
// `hold`; no two engines share the registers (`Claim`), and they are written only while no transfer runs. 2. an
// operation is retired after its last transfer's RUN bit read clear, and that read pushed its writes to host memory;
// when `cancel` answers `Stopped` no transfer runs and `stopping` keeps the next from starting. 3. `Drop` leaks
// `hold` unless the register showed that no transfer runs.
#[expect(unsafe_code, reason = "the promise to core; engine/conformance, edu/conformance.rs")]
unsafe impl<B: Backend> Engine for EduEngine<B> {
    const SPACE: AddressSpace = AddressSpace::Device;
    const CONFIRMS: bool = true;

    fn depth(&self) -> u32 {
        self.depth
    }

    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        let fits = match op {
            Operation::Copy { from, to } => {
                self.reaches(from) && self.reaches(to) && from.len == to.len && !overlap(from, to)
            }
            Operation::Fill { to, .. } => self.reaches(to),
            Operation::ReadBack { window } => self.reaches(window),
            Operation::Fence => true,
            _ => false,
        };
        if !fits {
            return Push::Unsupported;
        }
        if self.queue.len() + usize::from(self.job.is_some()) > self.depth as usize {
            return Push::Full;
        }
        self.queue.push_back((index, *op));
        Push::Taken
    }

    /// Starts the first transfer if the device has none: four register writes.
    fn doorbell(&mut self) {
        self.rung = self.queue.len();
        let at_once = matches!(self.queue.front(), Some((_, Operation::Fence)) | None);
        if self.job.is_none() && !self.gone && !at_once {
            // Not a fence, so it is not over at once.
            let _under_way = self.begin_next();
        }
    }

    /// One register read a call, and four writes where a transfer ended.
    fn retire(&mut self, sink: &mut Sink<'_>) {
        while sink.room() > 0 {
            let Some((index, outcome, len)) = self.turn() else { break };
            sink.complete(index, outcome, len);
        }
    }

    /// edu can't be stopped: `Pending` until its transfer has ended.
    fn cancel(&mut self) -> Cancel {
        self.stopping = true;
        if self.job.is_none_or(|job| job.halted) {
            return Cancel::Stopped;
        }
        match self.look() {
            Look::Idle => Cancel::Stopped,
            Look::Running => Cancel::Pending,
            Look::Gone => {
                self.gone = true;
                Cancel::Impossible
            }
        }
    }

    fn resume(&mut self) -> bool {
        if self.job.is_some_and(|job| !job.halted) && self.look() != Look::Idle {
            return false;
        }
        if let Some(to) = self.job.and_then(|job| job.window()) {
            // It may have been written in part.
            self.windows.wrote(to.region, to.address, to.len, None);
        }
        self.queue.clear();
        (self.rung, self.job, self.buffer, self.stopping) = (0, None, None, false);
        self.gone = self.bar.read32(abi::ID) != abi::ID_VALUE;
        !self.gone
    }
}

impl<B: Backend> std::fmt::Debug for EduEngine<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EduEngine")
            .field("queue", &self.queue)
            .field("job", &self.job)
            .field("stopping", &self.stopping)
            .field("gone", &self.gone)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Drop for EduEngine<B> {
    fn drop(&mut self) {
        // The register is not asked: where memory decode is off by now, that would be a SIGBUS.
        if self.job.is_some_and(|job| !job.halted && !self.idle) {
            tracing::warn!("edu is dropped while a transfer runs: its memory is leaked");
            std::mem::forget(self.hold.take());
        }
    }
}
