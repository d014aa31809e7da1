//! Devices of the soak. They touch memory at the worst moments that their contract allows, and look at each access
//! whether that memory's time is over.
#![expect(
    unsafe_code,
    reason = "engines that write to the regions they were given; run by ci/soak and ci/asan"
)]

use crate::lives::{Life, Rng, Wrong, wrong};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidegate_core::drain::Initiator;
use tidegate_core::engine::{
    AddressSpace, Cancel, Engine, ListOperation, Operation, Outcome, Push, Sink, Target,
};
use tidegate_core::{Extent, MapError, Mapping};

/// Words of one region.
pub(crate) const WORDS: u64 = 512;
pub(crate) const LEN: u64 = WORDS * 8;

/// What a device has to do: an operation, or a list as a whole.
#[derive(Debug)]
enum Job {
    Plain(Operation),
    List(Vec<Target>, Vec<Target>, u64),
}

impl Job {
    fn of(list: &ListOperation<'_>) -> Job {
        Job::List(list.from.to_vec(), list.to.to_vec(), list.at)
    }

    /// May it fail?
    fn may_fail(&self) -> bool {
        !matches!(self, Job::Plain(op) if op.kind().is_none())
    }
}

/// Carries out one operation, word by word.
fn carry_out(who: &str, job: &Job) -> u32 {
    match job {
        Job::Plain(Operation::Fill { to, pattern }) => {
            for word in words(&[*to]) {
                late(who, job, *pattern);
                put(word, *pattern);
            }
            to.len as u32
        }
        Job::Plain(Operation::Copy { from, to }) => gather(who, job, &[*from], &[*to], 0),
        Job::Plain(Operation::Read { at, to }) => gather(who, job, &[], &[*to], *at),
        Job::Plain(Operation::Write { from, .. }) => gather(who, job, &[*from], &[], 0),
        Job::List(from, to, at) => gather(who, job, from, to, *at),
        Job::Plain(_) => 0,
    }
}

/// From all pieces of one side, or the medium, to all of the other.
fn gather(who: &str, job: &Job, from: &[Target], to: &[Target], at: u64) -> u32 {
    let (mut from, mut to, mut n) = (words(from), words(to), 0);
    loop {
        let (word, to) = match (from.next(), to.next()) {
            (Some(from), to) => (take(from), to),
            // The medium has the stamp of whoever's position it is.
            (None, Some(to)) => (Life::at(at).stamp(), Some(to)),
            (None, None) => return n,
        };
        late(who, job, word);
        if let Some(to) = to {
            put(to, word);
        }
        n += 8;
    }
}

/// Addresses of the words of all pieces, in order.
fn words(side: &[Target]) -> impl Iterator<Item = u64> + '_ {
    side.iter().flat_map(|piece| (0..piece.len).step_by(8).map(|at| piece.address + at))
}

fn late(who: &str, job: &Job, pattern: u64) {
    if Life::of(pattern).is_over() {
        wrong(Wrong::LateWrite, 1, || {
            format!("{who} touches {:?} after its revoke: {job:x?}", Life::of(pattern))
        });
    }
}

fn put(address: u64, word: u64) {
    // SAFETY: 1. inside an operand that the fabric checked and keeps alive until the operation has ended; operands are
    // whole aligned words here. That this holds is what the soak tries to refute.
    unsafe { (address as *mut u64).write_volatile(word) };
}

fn take(address: u64) -> u64 {
    // SAFETY: 1. as in `put`.
    unsafe { (address as *const u64).read_volatile() }
}

/// How long an [`Eager`] waits at most for memory's end.
const LOITERS: Duration = Duration::from_millis(2);

/// In the polling thread, in order, of the process. Writes while the descriptor is being made, where only the grace
/// period protects the memory, and is slow at that now and then: at times so slow that a revoke that did not wait for
/// it would have ended.
#[derive(Debug)]
pub(crate) struct Eager {
    ended: VecDeque<(u32, u32)>,
    rng: Rng,
}

impl Eager {
    pub(crate) fn new(rng: Rng) -> Self {
        Eager { ended: VecDeque::new(), rng }
    }
}

/// Until the memory's time is over, which nobody may say as long as this lasts; so for a while.
fn loiter(op: &Operation) {
    if let Operation::Fill { pattern, .. } = op {
        let begun = Instant::now();
        while begun.elapsed() < LOITERS && !Life::of(*pattern).is_over() {
            std::thread::yield_now();
        }
    }
}

// SAFETY: 1. only the operands of `push` are touched, before it returns. 2. nothing runs later. 3. as 2.
unsafe impl Engine for Eager {
    const SPACE: AddressSpace = AddressSpace::Cpu;
    const CONFIRMS: bool = false;
    fn depth(&self) -> u32 {
        64
    }
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        match self.rng.below(8192) {
            0 => loiter(op),
            1..4 => std::thread::yield_now(),
            4..64 => (0..200).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
        self.ended.push_back((index, carry_out("Eager", &Job::Plain(*op))));
        Push::Taken
    }
    fn doorbell(&mut self) {}
    fn retire(&mut self, sink: &mut Sink<'_>) {
        while sink.room() > 0 {
            let Some((index, len)) = self.ended.pop_front() else { break };
            sink.complete(index, Outcome::Done, len);
        }
    }
    fn cancel(&mut self) -> Cancel {
        Cancel::Stopped
    }
    fn resume(&mut self) -> bool {
        true
    }
}

/// A device that works when it is looked at: some operations, in any order, the rest another time; now and then it
/// fails one, reports one twice, or takes its time to stop.
#[derive(Debug)]
pub(crate) struct Shuffled {
    unrung: Vec<(u32, Job)>,
    running: Vec<(u32, Job)>,
    rng: Rng,
    /// Of how many operations one fails; of half as many pushes one is refused.
    fails: u64,
    mishaps: Mishaps,
}

impl Shuffled {
    pub(crate) fn new(rng: Rng) -> Self {
        let mishaps = Mishaps { of_device: true, ..Mishaps::default() };
        Shuffled { unrung: Vec::new(), running: Vec::new(), rng, fails: 1024, mishaps }
    }

    /// One that often fails; who has it alone asks whether it did.
    pub(crate) fn clumsy(rng: Rng) -> Self {
        Shuffled { fails: 24, ..Shuffled::new(rng) }
    }

    pub(crate) fn mishaps(&self) -> Mishaps {
        self.mishaps.clone()
    }
}

/// What went wrong in an engine so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mishaps {
    of_device: bool,
    failed: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

impl Mishaps {
    /// Operations that failed, pushes that were refused.
    pub(crate) fn read(&self) -> (u64, u64) {
        (self.failed.load(Ordering::SeqCst), self.refused.load(Ordering::SeqCst))
    }

    pub(crate) fn is_of_device(&self) -> bool {
        self.of_device
    }
}

// SAFETY: 1. only the operands of accepted operations are touched. 2. nothing runs outside of `retire`, and what was
// retired or cancelled is forgotten. 3. as 2.
unsafe impl Engine for Shuffled {
    const SPACE: AddressSpace = AddressSpace::Device;
    const CONFIRMS: bool = true;
    fn depth(&self) -> u32 {
        64
    }
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        if self.rng.one_in(self.fails / 2) {
            self.mishaps.refused.fetch_add(1, Ordering::SeqCst);
            return Push::Full;
        }
        self.unrung.push((index, Job::Plain(*op)));
        Push::Taken
    }
    unsafe fn push_list(&mut self, index: u32, op: &ListOperation<'_>) -> Push {
        // Some of them are split.
        if self.rng.one_in(2) {
            return Push::Unsupported;
        }
        self.unrung.push((index, Job::of(op)));
        Push::Taken
    }
    fn splits(&self, _: u64, _: u64) -> bool {
        true
    }
    fn doorbell(&mut self) {
        self.running.append(&mut self.unrung);
    }
    fn retire(&mut self, sink: &mut Sink<'_>) {
        let some = self.rng.below(64);
        for _ in 0..some {
            if sink.room() == 0 || self.running.is_empty() {
                break;
            }
            let at = self.rng.below(self.running.len() as u64) as usize;
            let (index, job) = self.running.swap_remove(at);
            if self.rng.one_in(self.fails) && job.may_fail() {
                self.mishaps.failed.fetch_add(1, Ordering::SeqCst);
                sink.complete(index, Outcome::Device(5), 0);
                continue;
            }
            let len = carry_out("Shuffled", &job);
            sink.complete(index, Outcome::Done, len);
            if self.rng.one_in(1024) {
                sink.complete(index, Outcome::Done, len);
            }
        }
    }
    fn cancel(&mut self) -> Cancel {
        match self.rng.below(4) {
            0 => {
                self.unrung.clear();
                self.running.clear();
                Cancel::Stopped
            }
            _ => Cancel::Pending,
        }
    }
    fn resume(&mut self) -> bool {
        true
    }
}

#[derive(Debug, Default)]
struct Queue {
    running: VecDeque<(u32, Job)>,
    ended: VecDeque<(u32, u32)>,
    /// The device is at one now.
    busy: bool,
}

/// The far side of a [`Remote`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Far(Arc<Mutex<Queue>>);

impl Far {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out the next operation, on the device's thread. False: there is none.
    pub(crate) fn work(&self) -> bool {
        let next = {
            let mut queue = self.lock();
            let next = queue.running.pop_front();
            queue.busy = next.is_some();
            next
        };
        let Some((index, job)) = next else { return false };
        let len = carry_out("Remote", &job);
        let mut queue = self.lock();
        queue.busy = false;
        queue.ended.push_back((index, len));
        true
    }

    /// Nobody else has it any more.
    pub(crate) fn is_unplugged(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// A device on a thread of its own.
#[derive(Debug)]
pub(crate) struct Remote {
    unrung: Vec<(u32, Job)>,
    far: Far,
}

impl Remote {
    pub(crate) fn new() -> (Remote, Far) {
        let far = Far::default();
        (Remote { unrung: Vec::new(), far: far.clone() }, far)
    }
}

// SAFETY: 1. only the operands of accepted operations are touched. 2. `Stopped` is said with an empty queue and the
// device at rest; what was retired has left the queue. 3. dropped only after `Stopped`, or empty.
unsafe impl Engine for Remote {
    const SPACE: AddressSpace = AddressSpace::Device;
    const CONFIRMS: bool = true;
    fn depth(&self) -> u32 {
        64
    }
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        self.unrung.push((index, Job::Plain(*op)));
        Push::Taken
    }
    unsafe fn push_list(&mut self, index: u32, op: &ListOperation<'_>) -> Push {
        self.unrung.push((index, Job::of(op)));
        Push::Taken
    }
    fn doorbell(&mut self) {
        self.far.lock().running.extend(self.unrung.drain(..));
    }
    fn retire(&mut self, sink: &mut Sink<'_>) {
        let mut queue = self.far.lock();
        while sink.room() > 0 {
            let Some((index, len)) = queue.ended.pop_front() else { break };
            sink.complete(index, Outcome::Done, len);
        }
    }
    fn cancel(&mut self) -> Cancel {
        self.unrung.clear();
        let mut queue = self.far.lock();
        queue.running.clear();
        if queue.busy { Cancel::Pending } else { Cancel::Stopped }
    }
    fn resume(&mut self) -> bool {
        true
    }
}

/// A device that takes everything and never answers.
#[derive(Debug)]
pub(crate) struct Dead;

// SAFETY: 1. it touches nothing. 2. and never says otherwise. 3. as 1.
unsafe impl Engine for Dead {
    const SPACE: AddressSpace = AddressSpace::Device;
    const CONFIRMS: bool = false;
    fn depth(&self) -> u32 {
        8
    }
    unsafe fn push(&mut self, _: u32, _: &Operation) -> Push {
        Push::Taken
    }
    fn doorbell(&mut self) {}
    fn retire(&mut self, _: &mut Sink<'_>) {}
    fn cancel(&mut self) -> Cancel {
        Cancel::Impossible
    }
    fn resume(&mut self) -> bool {
        false
    }
}

/// Stops when detached.
#[derive(Debug, Default)]
pub(crate) struct HardStop(AtomicBool);

// SAFETY: 1. it is given to gates of `Dead` only, which touches nothing.
unsafe impl Initiator for HardStop {
    fn detach(&self) -> Result<(), MapError> {
        self.0.store(true, Ordering::SeqCst);
        Ok(())
    }
    fn is_stopped(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Heap memory that devices of the process reach at its own address. Freed by the allocator, so that AddressSanitizer
/// sees who comes too late.
#[derive(Debug)]
pub(crate) struct Buffer(NonNull<[u64]>);

// SAFETY: 1. owned memory without thread affinity, reached by volatile accesses only.
unsafe impl Send for Buffer {}
// SAFETY: 1. as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(crate) fn new() -> Arc<Buffer> {
        let words = vec![0_u64; WORDS as usize].into_boxed_slice();
        Arc::new(Buffer(NonNull::from(Box::leak(words))))
    }

    fn address(&self, word: u64) -> u64 {
        debug_assert!(word < WORDS);
        self.0.cast::<u64>().as_ptr() as u64 + word * 8
    }

    pub(crate) fn get(&self, word: u64) -> u64 {
        take(self.address(word))
    }

    pub(crate) fn set(&self, word: u64, value: u64) {
        put(self.address(word), value);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: 1. it came from `Box::leak`, and this is its only owner's end.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A [`Buffer`] in the devices' address space.
#[derive(Debug)]
pub(crate) struct Mapped(pub(crate) Arc<Buffer>);

// SAFETY: 1. the buffer lives as long as the mapping; no reference points into it. 2. devices here reach it through
// operations only, which have ended. 3. as 2.
unsafe impl Mapping for Mapped {
    fn extent(&self) -> Extent {
        Extent { device: self.0.address(0), cpu: Some(self.0.0.cast()), len: LEN }
    }
    fn unmap(&self) -> Result<(), MapError> {
        Ok(())
    }
    fn detach(&self) -> Result<(), MapError> {
        Ok(())
    }
    fn read_back(&self) -> bool {
        true
    }
    fn stopped(&self) -> bool {
        true
    }
}
