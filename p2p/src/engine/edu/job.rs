//! The transfers that an operation is made of.

use super::abi::{BUFFER, BUFFER_LEN, COMMAND_TO_HOST};
use super::{Chunk, EduEngine};
use crate::backend::Backend;
use crate::engine::window::{MOST, Proof};
use tidegate_core::engine::{Operation, Outcome, Target};

/// Offsets in scratch memory: what goes to the device, and what comes from it.
const OUTBOX: u64 = 0;
const INBOX: u64 = BUFFER_LEN;

/// An operation that was begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) index: u32,
    pub(super) op: Operation,
    /// Bytes of it that went out.
    pub(super) done: u64,
    pub(super) step: Step,
    /// Between two transfers, and no further one will be started.
    pub(super) halted: bool,
}

/// What is under way.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// The last chunk of another operation: buffer to scratch, so that a later read-back knows it.
    Save,
    /// Source (or a page of the pattern) to buffer.
    In,
    /// Buffer to destination.
    Out,
    /// The complement of what is expected: scratch to buffer.
    Blank(Proof),
    /// Window to buffer.
    Look(Proof),
    /// Buffer to scratch, to be compared.
    Fetch(Proof),
    /// Window to buffer, for the order alone.
    Order,
    /// It is over.
    End(Outcome, u32),
}

impl Job {
    pub(super) fn new(index: u32, op: Operation) -> Job {
        Job { index, op, done: 0, step: Step::Save, halted: false }
    }

    /// The window that it writes.
    pub(super) fn window(&self) -> Option<Target> {
        match self.op {
            Operation::Copy { to, .. } | Operation::Fill { to, .. } if to.window => Some(to),
            _ => None,
        }
    }
}

fn chunk(len: u64, done: u64) -> u64 {
    len.saturating_sub(done).min(BUFFER_LEN)
}

impl<B: Backend> EduEngine<B> {
    /// The first step of an operation: a save first, if it would overwrite what only the buffer knows.
    pub(super) fn first(&self, job: &Job) -> Step {
        let saved = match (self.buffer, job.op) {
            (None, _) | (_, Operation::Fence) => true,
            // The same window gets a newer chunk.
            (Some(chunk), _) => job.window().is_some_and(|to| to.region == chunk.region),
        };
        if saved { self.first_own(job) } else { Step::Save }
    }

    fn first_own(&self, job: &Job) -> Step {
        match job.op {
            Operation::Copy { .. } | Operation::Fill { .. } => Step::In,
            Operation::ReadBack { window } => match self.windows.proof(&window) {
                Some(proof) => Step::Blank(proof),
                None => Step::Order,
            },
            _ => Step::End(Outcome::Done, 0),
        }
    }

    /// Starts the transfer of the job's step.
    pub(super) fn go(&mut self, job: Job) {
        let scratch = self.scratch();
        let done = job.done;
        match (job.step, job.op) {
            (Step::Save, _) => {
                self.clear(INBOX, BUFFER_LEN);
                let len = self.buffer.map_or(0, |chunk| chunk.len);
                self.start(BUFFER, scratch + INBOX, len, COMMAND_TO_HOST);
            }
            (Step::In, Operation::Copy { from, .. }) => {
                self.buffer = None;
                self.start(from.address + done, BUFFER, chunk(from.len, done), 0);
            }
            (Step::In, Operation::Fill { to, pattern }) => {
                self.buffer = None;
                self.words(OUTBOX, BUFFER_LEN, pattern);
                self.start(scratch + OUTBOX, BUFFER, chunk(to.len, 0), 0);
            }
            (Step::Out, Operation::Copy { to, .. } | Operation::Fill { to, .. }) => {
                self.start(BUFFER, to.address + done, chunk(to.len, done), COMMAND_TO_HOST);
            }
            (Step::Blank(proof), _) => {
                self.buffer = None;
                self.put(OUTBOX, &proof.complement());
                self.start(scratch + OUTBOX, BUFFER, proof.bytes().len() as u64, 0);
            }
            (Step::Look(proof), _) => self.start(proof.address(), BUFFER, proof.bytes().len() as u64, 0),
            (Step::Fetch(proof), _) => {
                self.clear(INBOX, MOST as u64);
                self.start(BUFFER, scratch + INBOX, proof.bytes().len() as u64, COMMAND_TO_HOST);
            }
            (Step::Order, Operation::ReadBack { window }) => {
                self.buffer = None;
                self.start(window.address, BUFFER, window.len.min(8), 0);
            }
            // No other pairs are made.
            _ => return,
        }
        self.job = Some(job);
    }

    /// The step after the one whose transfer ended.
    pub(super) fn follow(&mut self, job: &mut Job) -> Step {
        match (job.step, job.op) {
            (Step::Save, _) => {
                self.keep_chunk();
                self.first_own(job)
            }
            (Step::In, _) => Step::Out,
            (Step::Out, Operation::Copy { to, .. }) => {
                let sent =
                    Chunk { region: to.region, address: to.address + job.done, len: chunk(to.len, job.done) };
                job.done += sent.len;
                if job.done < to.len {
                    return Step::In;
                }
                if to.window {
                    self.windows.wrote(to.region, to.address, to.len, None);
                    self.buffer = Some(sent);
                }
                Step::End(Outcome::Done, count(to.len))
            }
            (Step::Out, Operation::Fill { to, pattern }) => {
                job.done += chunk(to.len, job.done);
                if job.done < to.len {
                    // The pattern is still in the buffer.
                    return Step::Out;
                }
                if to.window {
                    let proof = pattern_at_end(&to, pattern);
                    self.windows.wrote(to.region, to.address, to.len, proof);
                }
                Step::End(Outcome::Done, count(to.len))
            }
            (Step::Blank(proof), _) => Step::Look(proof),
            (Step::Look(proof), _) => Step::Fetch(proof),
            (Step::Fetch(proof), _) => {
                let mut got = [0; MOST];
                let got = got.get_mut(..proof.bytes().len()).unwrap_or(&mut []);
                self.take(INBOX, got);
                // In order, one at a time: nothing of this engine came in between.
                let outcome = self.windows.judge(&proof, got, || false);
                Step::End(outcome, got.len() as u32)
            }
            (Step::Order, _) => Step::End(Outcome::Unchecked, 0),
            // No other pairs are made.
            _ => Step::End(Outcome::Unchecked, 0),
        }
    }

    /// What the buffer held is in scratch now.
    fn keep_chunk(&mut self) {
        let Some(Chunk { region, address, len }) = self.buffer.take() else { return };
        let mut bytes = [0; BUFFER_LEN as usize];
        let bytes = bytes.get_mut(..len as usize).unwrap_or(&mut []);
        self.take(INBOX, bytes);
        self.windows.wrote(region, address, len, Proof::find(region, address, bytes));
    }

    fn scratch(&self) -> u64 {
        self.hold.as_ref().map_or(0, |(memory, _)| memory.iova())
    }

    /// Fills a piece of scratch with a word. `at` and `len` are multiples of 8.
    fn words(&self, at: u64, len: u64, word: u64) {
        if let Some((scratch, _)) = &self.hold {
            (at..at + len).step_by(8).for_each(|at| {
                let _in_bounds = scratch.memory().store64(at, word);
            });
        }
    }

    fn clear(&self, at: u64, len: u64) {
        self.words(at, len, 0);
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        if let Some((scratch, _)) = &self.hold {
            let _in_bounds = scratch.memory().write(at, bytes);
        }
    }

    fn take(&self, at: u64, into: &mut [u8]) {
        if let Some((scratch, _)) = &self.hold {
            let _in_bounds = scratch.memory().read(at, into);
        }
    }
}

/// Bytes moved, as a completion tells them.
fn count(len: u64) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The last bytes of a fill.
fn pattern_at_end(to: &Target, pattern: u64) -> Option<Proof> {
    let len = to.len.min(8);
    let start = to.len - len;
    // A chunk is a multiple of 8, so the pattern goes on where it stopped.
    let bytes = pattern.rotate_right(8 * (start % 8) as u32).to_le_bytes();
    Proof::find(to.region, to.address + start, bytes.get(..len as usize)?)
}
