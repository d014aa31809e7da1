//! Measuring a route: what one device writes into a window of another, does it arrive, and does it come back?
//!
//! The kernel imports a window without asking whether anybody routes requests to it, and a device reports success of
//! writes that were dropped. So a probe writes patterns by DMA and reads them back by DMA, into memory that holds other
//! bytes before, and after the device moved those other bytes (a read that brings nothing may leave a device's buffer as
//! it was); and, unless told not to, has the CPU look at the target's BAR. Nothing is taken from completions but their
//! status and length. The engine must know [`tidegate_core::OpKind::Copy`], both ways and within host memory; one that
//! moves bytes between memory and a medium only (NVMe) takes them through it: [`Plan::through_medium`].
//!
//! ```
//! use std::time::Duration;
//! use tidegate_core::*;
//! use tidegate_p2p::engine::softnic::SoftNic;
//! use tidegate_p2p::probe::{Left, Outcome, Plan, Probe};
//! use tidegate_p2p::soft::Soft;
//! use tidegate_p2p::{Domain, Progress, Want};
//!
//! let (nic_at, gpu_at) = ("0000:01:00.0".parse()?, "0000:02:00.0".parse()?);
//! let soft = Soft::builder(1).nic(nic_at).gpu(gpu_at, 1 << 20).build()?;
//! let fabric = Fabric::builder().build()?;
//! let domain = Domain::new(&fabric, soft.clone())?;
//! let (nic, gpu) = (domain.attach(nic_at)?, domain.attach(gpu_at)?);
//! let window = domain.import(&gpu.export(0, 0..0x1_0000)?, Want::default())?;
//! let mut channel = nic.channel(&fabric.poller("probe"), SoftNic::queue(0), ChannelConfig::depth(16))?;
//!
//! // The bytes are saved first and written back in the end.
//! let mut probe = Probe::new(&mut channel, &window, Plan::preserve(0..0x4000))?
//!     .clock(|| Duration::from_micros(soft.now()));
//! while probe.turn() != Progress::Done {
//!     soft.step();
//! }
//! let report = probe.report().ok_or("not over")?;
//! assert_eq!((report.outcome, report.left), (Outcome::Works, Left::Restored));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it shows, and what not
//!
//! [`Outcome::Works`] says that this initiator reached this window, both ways, when it was probed. It says nothing about
//! other pairs, nor about after a reset: the probe belongs behind every new import. The range must be nobody else's
//! meanwhile, and the channel has nothing in flight.
//!
//! An untranslated address that a switch takes for a peer's makes writes land elsewhere. With the CPU as a witness that is
//! found ([`Outcome::Elsewhere`]); with [`Plan::preserve`] the bytes there are saved and brought back like all others.

mod report;
#[cfg(test)]
mod tests;
mod transfer;

pub use report::{Left, Outcome, ProbeError, Rate, Refusal, Report, Returned, Step, Witness};

use crate::Progress;
use crate::backend::{Backend, Function, Registers};
use crate::import::Import;
use std::ops::Range;
use std::time::{Duration, Instant};
use tidegate_core::{Access, Channel, Engine, Handle, Memory, Region, Shared, page_size};
use transfer::{Transfer, Turned, Way};

/// Longest range.
const MOST: u64 = 1 << 30;
/// What the buffer holds before a read, as a difference to the pattern that should come.
const FILLER: u8 = 0x5a;

/// What to probe and how.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a plan does nothing by itself"]
pub struct Plan {
    range: Range<u64>,
    preserve: bool,
    piece: u64,
    patience: Duration,
    witness: bool,
    seed: u64,
    medium: Option<u64>,
}

impl Plan {
    /// Probes `range` of the window, whose bytes are nobody's: they are overwritten.
    pub fn scratch(range: Range<u64>) -> Plan {
        Plan {
            range,
            preserve: false,
            piece: 4096,
            patience: Duration::from_secs(2),
            witness: true,
            seed: 0x7469_6465_6761_7465,
            medium: None,
        }
    }

    /// Probes `range` of the window and brings its bytes back. Nothing is written where they could not be saved:
    /// [`Outcome::Unsafe`].
    pub fn preserve(range: Range<u64>) -> Plan {
        Plan { preserve: true, ..Plan::scratch(range) }
    }

    /// Bytes of one operation; default 4096, which every engine takes.
    pub fn piece(self, bytes: u64) -> Plan {
        Plan { piece: bytes.max(8), ..self }
    }

    /// How long nothing may complete before the device counts as silent, by the probe's clock; default 2 seconds.
    pub fn patience(self, longest: Duration) -> Plan {
        Plan { patience: longest, ..self }
    }

    /// The CPU does not touch the BAR. The initiator is then the only witness.
    pub fn without_cpu(self) -> Plan {
        Plan { witness: false, ..self }
    }

    /// Moves everything through the engine's medium, from position `at` on: as many bytes of it as the range has are
    /// overwritten and not brought back. For engines that don't copy. The rates include the medium's.
    pub fn through_medium(self, at: u64) -> Plan {
        Plan { medium: Some(at), ..self }
    }

    /// What the patterns are drawn from.
    pub fn seed(self, seed: u64) -> Plan {
        Plan { seed, ..self }
    }
}

/// A probe under way; poll-mode, one [`Probe::turn`] after the other. Dropped before its end it leaves what is in flight
/// to the channel, and the bytes as they are.
pub struct Probe<'a, B: Backend, E: Engine> {
    channel: &'a mut Channel<E>,
    window: Handle<Shared>,
    plan: Plan,
    /// Three times the range: what is written, what was read, and a spare.
    host: Region<Shared>,
    len: u64,
    back: u64,
    bar: Option<(B::Bar, u64)>,
    clock: Box<dyn Fn() -> Duration + 'a>,
    transfer: Option<Transfer>,
    /// The second half of the step, from the medium.
    then: Option<Way>,
    /// When the transfer began, and when something moved last.
    since: Duration,
    moved: Duration,
    /// What was there before.
    saved: Vec<u8>,
    /// What the window held before the last write, as far as known.
    before: Vec<u8>,
    pattern: Vec<u8>,
    second: bool,
    written: bool,
    /// What the device said of the last read, if that failed.
    trouble: Option<u16>,
    outcome: Option<Outcome>,
    write: Option<Rate>,
    read: Option<Rate>,
    left: Left,
}

impl<'a, B: Backend, E: Engine> Probe<'a, B, E> {
    /// Registers host memory with the window's domain (three times the range; vfio: one MAP_FILE), maps the target's BAR for
    /// the CPU, and begins. A BAR that cannot be mapped is no error: [`Report::witness`] says whether the CPU looked.
    /// `channel` is one of a device of the same domain.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub fn new(
        channel: &'a mut Channel<E>,
        window: &Import<B, Shared>,
        plan: Plan,
    ) -> Result<Self, ProbeError> {
        let Range { start, end } = plan.range;
        let size = window.region().len();
        if start >= end || end > size || (start | end) % 8 != 0 || end - start > MOST {
            return Err(ProbeError::Range { start, end, window: size });
        }
        let in_flight = channel.in_flight();
        if in_flight > 0 {
            return Err(ProbeError::Busy { in_flight });
        }
        let len = end - start;
        let back = len.next_multiple_of(page_size());
        let memory = Memory::allocate("probe", back * 3)?;
        let host = window.domain().register(memory.backing(), Access::ReadWrite)?;
        let export = window.export();
        let map = || export.device().function().map_bar(export.bar()).ok();
        let bar = plan.witness.then(map).flatten().map(|bar| (bar, export.range().start + start));
        let begun = Instant::now();
        let mut probe = Probe {
            channel,
            window: window.region().handle(),
            plan,
            host,
            len,
            back,
            bar,
            clock: Box::new(move || begun.elapsed()),
            transfer: None,
            then: None,
            since: Duration::ZERO,
            moved: Duration::ZERO,
            saved: Vec::new(),
            before: Vec::new(),
            pattern: Vec::new(),
            second: false,
            written: false,
            trouble: None,
            outcome: None,
            write: None,
            read: None,
            left: Left::Untouched,
        };
        probe.pattern = probe.draw();
        probe.start(Step::Save);
        Ok(probe)
    }

    /// Another clock than the time since the probe began: of a model, say.
    pub fn clock(mut self, clock: impl Fn() -> Duration + 'a) -> Self {
        self.clock = Box::new(clock);
        (self.since, self.moved) = ((self.clock)(), (self.clock)());
        self
    }

    /// Does what can be done now: polls, submits, compares. Never blocks; comparing costs what reading the range by the
    /// CPU costs (a register read for each 8 bytes of the BAR).
    pub fn turn(&mut self) -> Progress {
        let now = (self.clock)();
        let Some(transfer) = &mut self.transfer else { return Progress::Done };
        match transfer.turn(self.channel) {
            Turned::Moved => {
                self.moved = now;
                return Progress::Moved;
            }
            Turned::Waiting if now.saturating_sub(self.moved) <= self.plan.patience => {
                return Progress::Waiting;
            }
            Turned::Waiting => {
                let (step, in_flight) = (transfer.step(), transfer.in_flight());
                self.transfer = None;
                self.left = if self.written { self.spoiled() } else { Left::Untouched };
                self.outcome.get_or_insert(Outcome::Silent { step, in_flight });
            }
            Turned::Over(failure) => {
                let step = transfer.step();
                match self.then.take().filter(|_| failure.is_none()) {
                    Some(way) => {
                        *transfer = Transfer::new(step, way, self.len, self.plan.piece);
                        self.moved = now;
                    }
                    None => {
                        self.transfer = None;
                        self.over(step, failure, now);
                    }
                }
            }
        }
        if self.transfer.is_some() { Progress::Moved } else { Progress::Done }
    }

    /// What was found, once [`Probe::turn`] said [`Progress::Done`].
    pub fn report(&self) -> Option<Report> {
        let outcome = self.outcome.filter(|_| self.transfer.is_none())?;
        let (write, read, witness, left) = (self.write, self.read, self.bar.is_some(), self.left);
        Some(Report { outcome, write, read, witness, left })
    }

    fn over(&mut self, step: Step, failure: Option<Outcome>, now: Duration) {
        self.trouble = None;
        match (step, failure) {
            (_, None) => {}
            // A device that reports what others swallow: an answer like theirs.
            (Step::Save | Step::Read, Some(Outcome::Refused { why: Refusal::Device(code), .. })) => {
                self.trouble = Some(code);
            }
            (_, Some(outcome)) => return self.failed(outcome),
        }
        let rate = Rate { bytes: self.len, time: now.saturating_sub(self.since) };
        match step {
            Step::Save => self.saved(),
            Step::Write => {
                self.write.get_or_insert(rate);
                self.start(Step::Stir);
            }
            Step::Stir => self.start(Step::Read),
            Step::Read => {
                if self.trouble.is_none() {
                    self.read.get_or_insert(rate);
                }
                self.judge();
            }
            Step::Restore => self.start(Step::Check),
            Step::Check => {
                let back = self.buffer(self.back) == self.saved;
                let there = self.look().is_none_or(|there| there == self.saved);
                self.left = if back && there { Left::Restored } else { self.restore_by_cpu() };
            }
        }
    }

    /// The first read is through: may the range be written?
    fn saved(&mut self) {
        self.saved = self.buffer(self.back);
        let seen = self.look();
        let good = match &seen {
            _ if self.trouble.is_some() => false,
            Some(seen) => *seen == self.saved,
            None => self.returned(&self.saved) == Returned::Others,
        };
        if self.plan.preserve && !good {
            let reads = self.returned(&self.saved);
            self.outcome = Some(Outcome::Unsafe { reads });
            return;
        }
        self.before = seen.unwrap_or_else(|| self.saved.clone());
        self.start(Step::Write);
    }

    /// A pattern was written and read back.
    fn judge(&mut self) {
        let (back, there) = (self.buffer(self.back), self.look());
        let home = self.trouble.is_none() && back == self.pattern;
        let arrived = there.as_ref().map(|there| *there == self.pattern);
        let reads = self.returned(&back);
        let found = match (home, arrived) {
            (true, Some(false)) => Some(Outcome::Elsewhere),
            (true, _) => None,
            (false, Some(true)) if reads != Returned::Others => Some(Outcome::WritesOnly { reads }),
            (false, Some(true)) => Some(self.corrupts(&back, Witness::Initiator)),
            (false, Some(false)) => match there {
                Some(there) if there != self.before => Some(self.corrupts(&there, Witness::Cpu)),
                _ => Some(Outcome::Drops { reads }),
            },
            (false, None) if reads == Returned::Others => Some(self.corrupts(&back, Witness::Initiator)),
            (false, None) => Some(Outcome::Drops { reads }),
        };
        match found {
            None if !self.second => {
                self.second = true;
                self.before = self.pattern.clone();
                self.pattern.iter_mut().for_each(|byte| *byte = !*byte);
                self.start(Step::Write);
            }
            found => self.conclude(found.unwrap_or(Outcome::Works)),
        }
    }

    /// The finding stands: bring the bytes back.
    fn conclude(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
        match (self.written, self.plan.preserve) {
            (false, _) => self.left = Left::Untouched,
            (true, false) => self.left = Left::Scratch,
            (true, true) => self.start(Step::Restore),
        }
    }

    /// Something was refused, or revoked.
    fn failed(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
        self.left = match (self.written, self.plan.preserve) {
            (false, _) => Left::Untouched,
            (true, false) => Left::Scratch,
            (true, true) => self.restore_by_cpu(),
        };
    }

    /// Of a range that was written, while its device may still be writing.
    fn spoiled(&self) -> Left {
        if self.plan.preserve { Left::Unknown } else { Left::Scratch }
    }

    fn restore_by_cpu(&self) -> Left {
        let Some((bar, at)) = &self.bar else { return Left::Unknown };
        for (word, at) in self.saved.chunks_exact(8).zip((*at..).step_by(8)) {
            bar.write64(at, word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)));
        }
        if self.look().as_ref() == Some(&self.saved) { Left::Restored } else { Left::Unknown }
    }

    fn start(&mut self, step: Step) {
        let (start, back) = (self.plan.range.start, self.back);
        let (window, host) = (self.window, self.host.handle());
        let out = match step {
            Step::Write => Some(&self.pattern),
            Step::Restore => Some(&self.saved),
            Step::Save | Step::Stir | Step::Read | Step::Check => None,
        };
        let filler: Vec<u8> = self.pattern.iter().map(|byte| byte ^ FILLER).collect();
        let (prepared, from, to) = match out {
            Some(bytes) => (self.host.write(0, bytes), (host, 0), (window, start)),
            None if step == Step::Stir => (self.host.write(back, &filler), (host, back), (host, back * 2)),
            None => (self.host.write(back, &filler), (window, start), (host, back)),
        };
        if prepared.is_err() {
            return self.failed(Outcome::Revoked { step });
        }
        self.written |= step == Step::Write;
        let (way, then) = match self.plan.medium {
            None => (Way::Copy(from, to), None),
            // What the medium holds then is all that a read which brings nothing leaves there.
            Some(at) if step == Step::Stir => (Way::Out(from, at), None),
            Some(at) => (Way::Out(from, at), Some(Way::In(at, to))),
        };
        self.then = then;
        self.transfer = Some(Transfer::new(step, way, self.len, self.plan.piece));
        (self.since, self.moved) = ((self.clock)(), (self.clock)());
    }

    /// Bytes of the host buffer; empty when it was revoked.
    fn buffer(&self, at: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        match self.host.read(at, &mut bytes) {
            Ok(()) => bytes,
            Err(_) => Vec::new(),
        }
    }

    /// The range as the CPU sees it in the BAR.
    fn look(&self) -> Option<Vec<u8>> {
        let (bar, at) = self.bar.as_ref()?;
        let words = (*at..*at + self.len).step_by(8);
        Some(words.flat_map(|at| bar.read64(at).to_le_bytes()).collect())
    }

    /// What a read gave that did not give the pattern.
    fn returned(&self, got: &[u8]) -> Returned {
        if let Some(code) = self.trouble {
            return Returned::Failed(code);
        }
        let untouched = |(got, pattern): (&u8, &u8)| *got == pattern ^ FILLER;
        match got {
            _ if got.iter().all(|byte| *byte == 0xff) => Returned::Ones,
            _ if got.iter().all(|byte| *byte == 0) => Returned::Zeros,
            _ if got.iter().zip(&self.pattern).all(untouched) => Returned::Nothing,
            _ if got == self.before => Returned::Before,
            _ => Returned::Others,
        }
    }

    fn corrupts(&self, got: &[u8], seen_by: Witness) -> Outcome {
        let mut wrong = got.iter().zip(&self.pattern).enumerate().filter(|(_, (a, b))| a != b);
        let at = wrong.next().map_or(0, |(at, _)| at as u64);
        Outcome::Corrupts { at, wrong: 1 + wrong.count() as u64, seen_by }
    }

    /// Marsaglia's xorshift: any pattern without long runs does.
    fn draw(&self) -> Vec<u8> {
        let mut state = self.plan.seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        (0..self.len / 8).flat_map(|_| next()).collect()
    }
}

impl<B: Backend, E: Engine> std::fmt::Debug for Probe<'_, B, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe")
            .field("plan", &self.plan)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

/// A probe from beginning to end, with devices that move by themselves: spins in the calling thread.
///
/// # Errors
/// [`ProbeError`].
pub fn measure<B: Backend, E: Engine>(
    channel: &mut Channel<E>,
    window: &Import<B, Shared>,
    plan: Plan,
) -> Result<Report, ProbeError> {
    let mut probe = Probe::new(channel, window, plan)?;
    loop {
        match probe.turn() {
            Progress::Moved => {}
            Progress::Waiting => std::hint::spin_loop(),
            // Set in every way out of `turn` that says Done; nothing to wait for otherwise.
            Progress::Done => break,
        }
    }
    let silent = Outcome::Silent { step: Step::Save, in_flight: 0 };
    let nothing = Report { outcome: silent, write: None, read: None, witness: false, left: Left::Unknown };
    Ok(probe.report().unwrap_or(nothing))
}
