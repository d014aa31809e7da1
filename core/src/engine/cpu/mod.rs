//! Copies by the CPU, in the polling thread.
#![expect(
    unsafe_code,
    reason = "promises to the fabric, and runs its operands; cpu/tests.rs, and ASAN in ci/test"
)]

pub(super) mod job;
#[cfg(all(test, not(loom)))]
pub(super) mod tests;

use super::copy::Copier;
use super::{AddressSpace, Cancel, Engine, Flush, Operation, Outcome, Push, Sink, Target};
use job::{Job, PIECE, Runner};

/// How a [`Cpu`] is set up.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CpuConfig {
    /// Operations in flight at most. Default 256.
    pub depth: u32,
    /// Bytes moved in one turn: in a poll and at the end of a section that submitted, both together. It bounds how
    /// long a section is that polls once. A revoke past its `cancel` deadline waits for at most two sections, and
    /// copies nothing itself. Whole pages, at least one. Default 16 KiB.
    pub chunk: u64,
    /// What copies. Default [`Copier::calibrated`].
    pub copier: Copier,
}

impl Default for CpuConfig {
    fn default() -> Self {
        CpuConfig { depth: 256, chunk: 16 << 10, copier: Copier::calibrated() }
    }
}

impl CpuConfig {
    /// A depth other than the default.
    pub fn depth(depth: u32) -> Self {
        CpuConfig { depth, ..Self::default() }
    }
}

/// Copies and fills in the thread that polls. In order; it reaches host memory of every domain.
///
/// Each poll works for one turn, of [`CpuConfig::chunk`] bytes, while something is left; the doorbell (the end of a
/// section that submitted) for what the last poll has left of its turn. What is longer is done in pieces over
/// several polls, so a section stays short and a revoke past its `cancel` deadline finds the channel free
/// after the turn under way. Nothing runs in the background. No system call, lock, allocation; at the end of a turn
/// with non-temporal stores one `sfence`.
#[derive(Debug)]
pub struct Cpu {
    /// A power of two, more than `depth`.
    jobs: Box<[Job]>,
    depth: u32,
    chunk: u64,
    /// What is left of the turn that a poll began: a section's end must not begin a second one.
    budget: u64,
    /// `retired <= worked <= rung <= pushed`, each a count.
    pushed: u64,
    rung: u64,
    worked: u64,
    retired: u64,
    runner: Runner,
}

impl Cpu {
    /// At most `depth` operations in flight; everything else as [`CpuConfig::default`].
    pub fn new(depth: u32) -> Self {
        Cpu::with(CpuConfig::depth(depth))
    }

    /// As configured. The only allocation that it makes.
    pub fn with(config: CpuConfig) -> Self {
        let depth = config.depth.clamp(1, 1 << 16);
        let room = (depth as usize + 1).next_power_of_two();
        let chunk = (config.chunk & !(PIECE - 1)).max(PIECE);
        Cpu {
            jobs: vec![Job::NOTHING; room].into_boxed_slice(),
            depth,
            chunk,
            budget: chunk,
            pushed: 0,
            rung: 0,
            worked: 0,
            retired: 0,
            runner: Runner::new(config.copier),
        }
    }

    #[inline(always)]
    fn at(&self, count: u64) -> usize {
        count as usize & (self.jobs.len() - 1)
    }

    /// Works on what was rung for `budget` bytes; what is left of them.
    #[inline]
    fn turn(&mut self, mut budget: u64) -> u64 {
        while self.worked != self.rung && budget > 0 {
            let at = self.at(self.worked);
            let Some(job) = self.jobs.get(at) else { break };
            // SAFETY: 1. J1: accepted by `push`, rung, not retired; `cancel` moves `rung` back to `worked`.
            if !unsafe { self.runner.run(job, &mut budget) } {
                break;
            }
            self.worked += 1;
        }
        // A revoker may have the memory as soon as this section has ended: nothing may still be on its way.
        self.runner.publish();
        budget
    }
}

// SAFETY: 1. only the operands of accepted operations are touched, in `doorbell` and `retire`, with every store
// ordered before the call returns. 2. there is no device: nothing runs between calls, so nothing does after
// `cancel`, and what was retired has been worked. 3. dropping it leaves nothing running.
unsafe impl Engine for Cpu {
    const SPACE: AddressSpace = AddressSpace::Cpu;
    const CONFIRMS: bool = false;

    fn depth(&self) -> u32 {
        self.depth
    }

    #[inline]
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        let Some(job) = Job::new(index, op) else { return Push::Unsupported };
        if self.pushed - self.retired > u64::from(self.depth) {
            return Push::Full;
        }
        let at = self.at(self.pushed);
        if let Some(slot) = self.jobs.get_mut(at) {
            *slot = job;
        }
        self.pushed += 1;
        Push::Taken
    }

    #[inline]
    fn doorbell(&mut self) {
        self.rung = self.pushed;
        self.turn(self.budget);
        self.budget = self.chunk;
    }

    #[inline]
    fn retire(&mut self, sink: &mut Sink<'_>) {
        if self.worked != self.rung {
            self.budget = self.turn(self.chunk);
        }
        self.reap(sink);
    }

    #[inline]
    fn reap(&mut self, sink: &mut Sink<'_>) {
        while self.retired != self.worked && sink.room() > 0 {
            let Some(job) = self.jobs.get(self.at(self.retired)) else { break };
            sink.complete(job.index, Outcome::Done, job.moved());
            self.retired += 1;
        }
    }

    fn cancel(&mut self) -> Cancel {
        self.runner.abandon();
        self.pushed = self.worked;
        self.rung = self.worked;
        Cancel::Stopped
    }

    fn resume(&mut self) -> bool {
        true
    }

    fn flush(&mut self, _: &Target) -> Flush {
        Flush::Flushed
    }
}
