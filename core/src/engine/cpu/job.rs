//! One operation for a CPU, done in pieces: shared by the engines in and beside the polling thread.
#![expect(
    unsafe_code,
    reason = "turns checked operands into pointers; cpu/tests.rs and worker/tests.rs, and ASAN in ci/test"
)]

use crate::engine::copy::{Copier, Kernel, overlap};
use crate::engine::{Operation, Target};

/// Work is cut at pages.
pub(crate) const PIECE: u64 = 4096;
/// What an operation costs beside its bytes, so that no-ops use up a turn too.
const EACH: u64 = 64;
/// Copies below this are done whole.
const SMALL: u64 = 2048;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    Nothing,
    Copy,
    Fill,
}

/// A checked operation, half a line.
///
/// # Invariants
/// - **J1** Made from an [`Operation`] that the fabric checked: its operands are this process's memory and stay so
///   until the operation is retired, or withdrawn after `cancel` answered `Stopped`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    /// Source; for a fill its pattern.
    from: u64,
    to: u64,
    len: u64,
    kind: Kind,
    /// The channel's.
    pub(crate) index: u32,
}

impl Job {
    pub(crate) const NOTHING: Job = Job { from: 0, to: 0, len: 0, kind: Kind::Nothing, index: 0 };

    /// `None`: nothing that a CPU does.
    #[inline(always)]
    pub(crate) fn new(index: u32, op: &Operation) -> Option<Job> {
        Some(match *op {
            Operation::Copy { from, to } => {
                let Target { address, len, .. } = to;
                Job { from: from.address, to: address, len: len.min(from.len), kind: Kind::Copy, index }
            }
            Operation::Fill { to, pattern } => {
                Job { from: pattern, to: to.address, len: to.len, kind: Kind::Fill, index }
            }
            Operation::Fence => Job { index, ..Job::NOTHING },
            _ => return None,
        })
    }

    /// Bytes, as a completion tells them.
    #[inline(always)]
    pub(crate) fn moved(&self) -> u32 {
        u32::try_from(self.len).unwrap_or(u32::MAX)
    }
}

/// A job without its index, small enough that two share a line with what they are found by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Errand {
    from: u64,
    to: u64,
    /// Above the two bits of its kind.
    len: u64,
}

impl Job {
    /// For whoever runs it elsewhere. Lengths are those of memory, so two bits are free.
    #[inline(always)]
    pub(crate) fn errand(&self) -> Errand {
        Errand { from: self.from, to: self.to, len: self.len << 2 | self.kind as u64 }
    }

    /// The job of it, without its index. J1 holds of it as it did of the one that it was made from.
    #[inline(always)]
    pub(crate) fn of(errand: Errand) -> Job {
        let kind = match errand.len & 3 {
            1 => Kind::Copy,
            2 => Kind::Fill,
            _ => Kind::Nothing,
        };
        Job { from: errand.from, to: errand.to, len: errand.len >> 2, kind, index: 0 }
    }
}

/// Runs jobs, one at a time, each in as many pieces as its turns have room for.
#[derive(Debug)]
pub(crate) struct Runner {
    copier: Copier,
    /// Bytes done of the job that was begun.
    done: u64,
    /// Of that job.
    kernel: Kernel,
    /// From its end to its start, as its blocks overlap.
    backward: bool,
}

impl Runner {
    pub(crate) fn new(copier: Copier) -> Runner {
        Runner { copier, done: 0, kernel: Kernel::Plain, backward: false }
    }

    /// Goes on with `job` for at most `budget` bytes, and a little; true when it is done. The next call gets the same
    /// job until then. A budget of [`PIECE`] always gets on.
    ///
    /// # Safety
    /// J1 holds of `job` now.
    #[inline(always)]
    pub(crate) unsafe fn run(&mut self, job: &Job, budget: &mut u64) -> bool {
        if job.kind == Kind::Nothing {
            *budget = budget.saturating_sub(EACH);
            return true;
        }
        if job.kind == Kind::Copy && job.len < SMALL {
            *budget = budget.saturating_sub(EACH + job.len);
            // SAFETY: 1. J1.
            unsafe { self.copier.copy(job.from as *const u8, job.to as *mut u8, job.len as usize) };
            return true;
        }
        // SAFETY: 1. J1.
        unsafe { self.run_long(job, budget) }
    }

    /// # Safety
    /// J1 holds of `job` now.
    #[inline(never)]
    unsafe fn run_long(&mut self, job: &Job, budget: &mut u64) -> bool {
        let left = job.len - self.done;
        let now = if left <= *budget { left } else { *budget & !(PIECE - 1) };
        if now == 0 {
            return false;
        }
        *budget = (*budget - now).saturating_sub(EACH);
        let (from, to) = (job.from as *const u8, job.to as *mut u8);
        if job.kind == Kind::Fill {
            let at = to.wrapping_add(self.done as usize);
            // SAFETY: 1. J1; `done + now <= len`. 2. `done` is whole pages, so the pattern's phase is kept.
            unsafe { self.copier.fill(at, now as usize, job.from) };
        } else {
            if self.done == 0 {
                // SAFETY: 1. J1.
                self.kernel = unsafe { self.copier.choose(from, to, job.len as usize) };
                // A piece must not write what a later piece reads.
                self.backward = overlap(from, to, job.len as usize) && job.from < job.to;
            }
            let at = if self.backward { left - now } else { self.done } as usize;
            let (from, to) = (from.wrapping_add(at), to.wrapping_add(at));
            let more = if self.backward { 0 } else { left - now };
            // SAFETY: 1. J1; `at + now <= len`. 2. the kernel was chosen for the whole of it.
            unsafe { self.copier.piece(self.kernel, from, to, now as usize, more as usize) };
        }
        self.done += now;
        if self.done < job.len {
            return false;
        }
        self.done = 0;
        true
    }

    /// Forgets the job that was begun.
    pub(crate) fn abandon(&mut self) {
        self.done = 0;
    }

    /// Orders what was written before the caller's next store: due before a job is called done, and before anybody
    /// is told that nothing is being written.
    #[inline(always)]
    pub(crate) fn publish(&mut self) {
        self.copier.publish();
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn is_published(&self) -> bool {
        self.copier.is_published()
    }
}
