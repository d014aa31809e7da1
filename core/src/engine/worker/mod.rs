//! Copies by the CPU, in a thread beside the polling one.
//!
//! A [`WorkerThread`] serves any number of [`Worker`] engines, one a channel; [`Worker::spawn`] makes one with a
//! thread of its own. Submitting writes a descriptor of one line, the doorbell publishes a burst with one store, the
//! worker publishes what it has done with one store a batch: no lock, no read-modify-write, no system call on either
//! side.
//!
//! # An idle worker
//! It spins ([`Idle::Spin`], the default), or sleeps in short naps once it has been idle for some time
//! ([`Idle::Nap`]). A doorbell never wakes it: that would take a fence and perhaps a system call on the hot path. So
//! a nap is also how long the first operation after a pause may wait. What is rare does wake it: cancel, a new
//! engine, the end.
#![expect(
    unsafe_code,
    reason = "promises to the fabric, runs its operands, pins threads; worker/model.rs, worker/tests.rs, ASAN in ci/test"
)]

mod lane;
#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;

use super::cpu::CpuConfig;
use super::cpu::job::{Errand, Job, PIECE, Runner};
use super::{AddressSpace, Cancel, Engine, Flush, Operation, Outcome, Push, Sink, Target};
use lane::{Serve, Server, Submitter, Turn};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// What a worker does while there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Idle {
    /// Looks again at once: the shortest way to the next operation, and a whole CPU.
    #[default]
    Spin,
    /// Spins for `after`, then looks once every `nap`.
    Nap {
        /// How long it spins first.
        after: Duration,
        /// How long it sleeps at a time, at least as long as the kernel's timer slack.
        nap: Duration,
    },
}

/// How a [`WorkerThread`] is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThreadConfig {
    /// Its name (the kernel shows 15 bytes). Default "tidegate-worker".
    pub name: String,
    /// The CPU that it runs on, for ever. Default: any.
    pub cpu: Option<usize>,
    /// Default [`Idle::Spin`].
    pub idle: Idle,
}

impl Default for ThreadConfig {
    fn default() -> Self {
        ThreadConfig { name: "tidegate-worker".to_owned(), cpu: None, idle: Idle::Spin }
    }
}

/// A worker could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// A system call failed. EAGAIN of clone: raise the limit of threads (`ulimit -u`). EINVAL of
    /// sched_setaffinity: this process may not run on that CPU (see `taskset -p`, the cgroup's cpuset).
    #[error("{op}: errno {errno}")]
    Os {
        /// The call.
        op: &'static str,
        /// The errno.
        errno: i32,
    },
}

fn os(op: &'static str, error: &io::Error) -> WorkerError {
    WorkerError::Os { op, errno: error.raw_os_error().unwrap_or(0) }
}

/// A thread that works for engines. Dropping it lets the thread end once its last engine is gone; nothing waits for
/// that.
#[derive(Debug)]
pub struct WorkerThread {
    shared: Arc<Shared>,
    thread: Thread,
}

/// Between the thread and its handle.
#[derive(Debug)]
struct Shared {
    /// Changes each time something was put into `inbox`.
    news: AtomicU64,
    inbox: Mutex<Inbox>,
}

#[derive(Debug)]
struct Inbox {
    lanes: Vec<Served>,
    /// No more will come.
    closed: bool,
}

impl WorkerThread {
    /// Starts the thread. Some system calls; returns when it runs, on its CPU.
    ///
    /// # Errors
    /// errno of clone or sched_setaffinity.
    pub fn spawn(config: ThreadConfig) -> Result<WorkerThread, WorkerError> {
        let shared = Arc::new(Shared {
            news: AtomicU64::new(0),
            inbox: Mutex::new(Inbox { lanes: Vec::new(), closed: false }),
        });
        let (ready, started) = mpsc::sync_channel(1);
        let theirs = shared.clone();
        let ThreadConfig { name, cpu, idle } = config;
        let name = name.replace('\0', "_");
        let handle = std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                let pinned = cpu.map_or(Ok(()), pin_to);
                let failed = pinned.is_err();
                if ready.send(pinned).is_err() || failed {
                    return;
                }
                work(&theirs, idle);
            })
            .map_err(|e| os("clone", &e))?;
        match started.recv() {
            Ok(Ok(())) => Ok(WorkerThread { shared, thread: handle.thread().clone() }),
            Ok(Err(error)) => Err(error),
            // It ended without a word: it can't.
            Err(_) => Err(WorkerError::Os { op: "clone", errno: 0 }),
        }
    }

    /// An engine whose work this thread does. The thread takes its engines in turn, a chunk each. Allocates a line
    /// for each operation of the depth; no system call.
    pub fn engine(&self, config: CpuConfig) -> Worker {
        let depth = config.depth.clamp(1, 1 << 16);
        let (submitter, server) = lane::lane(depth, Job::NOTHING.errand());
        let room = (depth as usize + 1).next_power_of_two();
        let chunk = (config.chunk & !(PIECE - 1)).max(PIECE);
        self.tell(|inbox| {
            let hand = Hand { runner: Runner::new(config.copier), chunk, budget: 0 };
            inbox.lanes.push(Served { server, hand });
        });
        Worker {
            submitter,
            pending: vec![(0, 0); room].into_boxed_slice(),
            depth,
            done: 0,
            retired: 0,
            stopped: false,
            thread: self.thread.clone(),
        }
    }

    fn tell(&self, what: impl FnOnce(&mut Inbox)) {
        what(&mut self.shared.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.news.fetch_add(1, Ordering::Release);
        self.thread.unpark();
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        self.tell(|inbox| inbox.closed = true);
    }
}

fn pin_to(cpu: usize) -> Result<(), WorkerError> {
    let mut mask = [0_u64; 128];
    match mask.get_mut(cpu / 64) {
        Some(word) => *word = 1 << (cpu % 64),
        None => return Err(WorkerError::Os { op: "sched_setaffinity", errno: libc::EINVAL }),
    }
    // SAFETY: 1. the kernel reads as many bytes as the array has; 0 is this thread.
    let failed = unsafe { libc::sched_setaffinity(0, size_of_val(&mask), mask.as_ptr().cast()) } != 0;
    if failed { Err(os("sched_setaffinity", &io::Error::last_os_error())) } else { Ok(()) }
}

/// A lane, and what runs its jobs.
#[derive(Debug)]
struct Served {
    server: Server<Errand>,
    hand: Hand,
}

#[derive(Debug)]
struct Hand {
    runner: Runner,
    chunk: u64,
    /// What is left of this turn.
    budget: u64,
}

impl Serve<Errand> for Hand {
    #[inline(always)]
    fn begin(&mut self) {
        self.budget = self.chunk;
    }
    #[inline(always)]
    fn run(&mut self, errand: &Errand) -> bool {
        // SAFETY: 1. J1: pushed by `Worker::push`, and not yet reported done: the lane hands out a job only once it
        // was rung, and none after it has obeyed a stop.
        unsafe { self.runner.run(&Job::of(*errand), &mut self.budget) }
    }
    #[inline(always)]
    fn publish(&mut self) {
        self.runner.publish();
    }
    fn abandon(&mut self) {
        self.runner.abandon();
    }
}

/// Empty rounds before a spinning worker leaves the core's other thread some room between two looks.
const EAGER: u32 = 256;

/// The thread.
fn work(shared: &Shared, idle: Idle) {
    let mut lanes: Vec<Served> = Vec::new();
    let (mut heard, mut closed) = (u64::MAX, false);
    let mut idle_rounds = 0_u32;
    let mut idle_since = None;
    loop {
        // Acquire: with what is in the inbox.
        let news = shared.news.load(Ordering::Acquire);
        if news != heard {
            heard = news;
            let mut inbox = shared.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            lanes.append(&mut inbox.lanes);
            closed = inbox.closed;
        }
        let mut busy = false;
        let mut n = 0;
        while let Some(lane) = lanes.get_mut(n) {
            match lane.server.turn(&mut lane.hand) {
                Turn::Busy => busy = true,
                Turn::Idle => {}
                Turn::Gone => {
                    lanes.swap_remove(n);
                    continue;
                }
            }
            n += 1;
        }
        if busy {
            (idle_rounds, idle_since) = (0, None);
            continue;
        }
        if closed && lanes.is_empty() {
            return;
        }
        idle_rounds = idle_rounds.saturating_add(1);
        if idle_rounds > EAGER {
            rest(idle, &mut idle_since);
        }
    }
}

#[cold]
#[inline(never)]
fn rest(idle: Idle, since: &mut Option<Instant>) {
    match idle {
        Idle::Nap { after, nap } if since.get_or_insert_with(Instant::now).elapsed() >= after => {
            std::thread::park_timeout(nap);
        }
        _ => std::hint::spin_loop(),
    }
}

/// Copies and fills in a [`WorkerThread`]. In order; it reaches host memory of every domain.
///
/// The thread works for one turn of [`CpuConfig::chunk`] bytes before it looks whether it shall stop, so a cancel is
/// answered within one. The completions of a batch (up to 32 operations, or one turn) become visible together.
/// Dropped, it waits until the thread is done with it: at most a turn, if the thread gets a CPU.
#[derive(Debug)]
pub struct Worker {
    submitter: Submitter<Errand>,
    /// Index and length of what was pushed and not retired.
    pending: Box<[(u32, u32)]>,
    depth: u32,
    /// Jobs known to be done.
    done: u64,
    retired: u64,
    /// `cancel` answered `Stopped`, and no `resume` since.
    stopped: bool,
    thread: Thread,
}

impl Worker {
    /// An engine with a thread of its own, which ends with it.
    ///
    /// # Errors
    /// As [`WorkerThread::spawn`].
    pub fn spawn(thread: ThreadConfig, config: CpuConfig) -> Result<Worker, WorkerError> {
        Ok(WorkerThread::spawn(thread)?.engine(config))
    }

    #[inline(always)]
    fn at(&self, count: u64) -> usize {
        count as usize & (self.pending.len() - 1)
    }
}

// SAFETY: 1. the thread touches only operands of accepted operations (J1). 2. an operation is retired when the
// thread has published that it is done, after a store fence where one was due; `Stopped` is answered when it has
// obeyed (L2). 3. drop waits for that; the lane itself is kept by both sides.
unsafe impl Engine for Worker {
    const SPACE: AddressSpace = AddressSpace::Cpu;
    const CONFIRMS: bool = false;

    fn depth(&self) -> u32 {
        self.depth
    }

    #[inline]
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        let Some(job) = Job::new(index, op) else { return Push::Unsupported };
        let position = self.submitter.pushed();
        if position - self.retired > u64::from(self.depth) || self.stopped {
            return Push::Full;
        }
        let at = self.at(position);
        if let Some(pending) = self.pending.get_mut(at) {
            *pending = (index, job.moved());
        }
        self.submitter.push(job.errand());
        Push::Taken
    }

    #[inline]
    fn doorbell(&mut self) {
        self.submitter.ring();
    }

    #[inline]
    fn retire(&mut self, sink: &mut Sink<'_>) {
        if self.retired == self.done {
            // Only now: each look may take the line from the thread that writes it.
            self.done = self.submitter.done();
        }
        while self.retired != self.done && sink.room() > 0 {
            let Some((index, len)) = self.pending.get(self.at(self.retired)) else { break };
            sink.complete(*index, Outcome::Done, *len);
            self.retired += 1;
        }
    }

    fn cancel(&mut self) -> Cancel {
        if !self.stopped {
            if !self.submitter.stop() {
                self.thread.unpark();
                return Cancel::Pending;
            }
            self.stopped = true;
            // What it did last is retired after this.
            self.done = self.submitter.done();
        }
        Cancel::Stopped
    }

    fn resume(&mut self) -> bool {
        if self.stopped {
            self.submitter.resume();
            self.retired = self.done;
            self.stopped = false;
        }
        true
    }

    fn flush(&mut self, _: &Target) -> Flush {
        Flush::Flushed
    }

    /// A thread that got no CPU in time obeys when it does.
    fn stopped(&mut self) -> bool {
        self.cancel() == Cancel::Stopped
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut looks = 0_u32;
        while !self.submitter.leave() {
            self.thread.unpark();
            looks += 1;
            if looks < 1000 {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
}
