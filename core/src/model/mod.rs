//! Loom models: the production fabric, channels, drains and epoch, against an engine whose device touches the
//! region's memory (a cell that loom watches) from the push of a descriptor to its completion, and a revoker that
//! gives the memory to somebody else once its revoke has ended. Any order that lets the two meet is a reported race.
//!
//! Nothing of the crate is typed again here; what runs is what runs in production, through [`crate::sync`].
//! `ci/mutations/loom` names, for each weakening of that code, the models that have to fail.

mod dead;
mod drain;
mod grace;
mod owner;

use crate::channel::{Channel, ChannelConfig, Erased, Reach, Seat};
use crate::drain::{Gate, Progress};
use crate::engine::{AddressSpace, Cancel, Engine, Operation, Outcome, Push, Sink};
use crate::epoch::{Barrier, Epoch, Grace};
use crate::op::{Completion, Op, Status, Submit};
use crate::region::{Access, Class, Extent, MapError, Mapping, Region};
use crate::tag::Shared;
use crate::{BarrierMode, Cause, Deadline, DomainId, Fabric};
use loom::cell::UnsafeCell;
use loom::thread;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};

const PATIENT: Deadline = Deadline::millis(3_600_000, 3_600_000);
const CANCEL: Deadline = Deadline::millis(0, 3_600_000);
/// Turns enough for a revoke that ends.
const TO_THE_END: usize = usize::MAX;

/// Explores every schedule with at most `LOOM_MAX_PREEMPTIONS` preemptions (default: `preemptions`).
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 10_000;
    builder.check(model);
}

/// A region's memory; true once it is somebody else's.
struct Memory {
    taken: UnsafeCell<bool>,
    /// Touched after that. A flag, not a panic: the control thread would survive the panic.
    touched: AtomicBool,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

// SAFETY: 1. loom's cell reports every unordered access.
#[expect(unsafe_code, reason = "loom checks it")]
unsafe impl Sync for Memory {}
// SAFETY: 1. plain data.
#[expect(unsafe_code, reason = "loom checks it")]
unsafe impl Send for Memory {}

impl Memory {
    #[expect(unsafe_code, reason = "the access that loom checks")]
    fn touch(&self) {
        // SAFETY: 1. loom checks that nobody writes meanwhile.
        if self.taken.with(|p| unsafe { *p }) {
            self.touched.store(true, SeqCst);
        }
    }

    #[expect(unsafe_code, reason = "the access that loom checks")]
    fn reuse(&self) {
        // SAFETY: 1. loom checks that nobody else touches it meanwhile.
        self.taken.with_mut(|p| unsafe { *p = true });
    }
}

/// Touches the memory when a descriptor is pushed and when it is completed; completes at the next retire.
struct Device {
    memory: Vec<Arc<Memory>>,
    queue: Vec<(u32, usize)>,
    /// Completes nothing by itself.
    stuck: bool,
    /// A channel that is pinned inside each push.
    inner: Weak<Mutex<Channel<Device>>>,
}

#[expect(unsafe_code, reason = "an engine of a model")]
// SAFETY: 1. what it touches is a cell of the model.
unsafe impl Engine for Device {
    const SPACE: AddressSpace = AddressSpace::Device;
    const CONFIRMS: bool = false;
    fn depth(&self) -> u32 {
        1
    }
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        let Operation::Fill { to, .. } = op else { return Push::Unsupported };
        if let Some(inner) = self.inner.upgrade() {
            drop(inner.lock().unwrap().pin());
        }
        let at = to.address as usize;
        self.memory[at].touch();
        self.queue.push((index, at));
        Push::Taken
    }
    fn doorbell(&mut self) {}
    fn retire(&mut self, sink: &mut Sink<'_>) {
        if self.stuck {
            return;
        }
        for (index, at) in self.queue.drain(..) {
            self.memory[at].touch();
            sink.complete(index, Outcome::Done, 0);
        }
    }
    fn cancel(&mut self) -> Cancel {
        self.finish();
        Cancel::Stopped
    }
    fn resume(&mut self) -> bool {
        true
    }
}

impl Device {
    fn finish(&mut self) {
        for (_, at) in self.queue.drain(..) {
            self.memory[at].touch();
        }
    }
}

/// A device that was not cancelled goes on with what it has.
impl Drop for Device {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Says where the memory is. It is given away when the revoke has ended: unmapping is a task for whoever turns the
/// control queue, which loom does not see.
#[derive(Debug)]
struct Map(usize);

#[expect(unsafe_code, reason = "a mapping of a model")]
// SAFETY: 1. it maps nothing.
unsafe impl Mapping for Map {
    fn extent(&self) -> Extent {
        Extent { device: self.0 as u64, cpu: None, len: 8 }
    }
    fn unmap(&self) -> Result<(), MapError> {
        Ok(())
    }
    fn detach(&self) -> Result<(), MapError> {
        Ok(())
    }
    fn read_back(&self) -> bool {
        false
    }
    fn stopped(&self) -> bool {
        true
    }
}

struct Rig {
    fabric: Fabric,
    memory: Vec<Arc<Memory>>,
    domain: DomainId,
    regions: Vec<Region<Shared>>,
}

impl Rig {
    /// A manual fabric with this barrier, and so many regions.
    fn new(barrier: Barrier, regions: usize) -> Arc<Rig> {
        let slots = regions as u32;
        let mut fabric =
            Fabric::builder().manual().regions(slots).barrier(BarrierMode::Never).build().unwrap();
        Arc::get_mut(&mut fabric.shared).unwrap().epoch = Epoch::new(barrier);
        let domain = fabric.domain().unwrap();
        let memory = || Arc::new(Memory { taken: UnsafeCell::new(false), touched: AtomicBool::new(false) });
        let adopt = |n| fabric.adopt(domain, Class::Host, Access::ReadWrite, Arc::new(Map(n)), None, None);
        let regions: Vec<_> = (0..regions).map(|n| adopt(n).unwrap()).collect();
        let memory = regions.iter().map(|_| memory()).collect();
        Arc::new(Rig { fabric, memory, domain, regions })
    }

    fn device(&self) -> Device {
        Device { memory: self.memory.clone(), queue: Vec::new(), stuck: false, inner: Weak::new() }
    }

    fn channel(&self) -> Channel<Device> {
        self.place(self.device(), None)
    }

    fn place(&self, device: Device, gate: Option<Gate>) -> Channel<Device> {
        let seat = Seat { domain: self.domain, reach: Reach::Shared, gate };
        let poller = self.fabric.poller("model");
        self.fabric.place_channel(&poller, device, ChannelConfig::depth(1), seat).unwrap()
    }

    /// The first channel, as revokers see it.
    fn erased(&self) -> Arc<dyn Erased> {
        self.fabric.shared.channels()[0].clone()
    }

    fn op(&self, region: usize) -> Op {
        Op::fill(self.regions[region].span(), 0)
    }

    /// Revokes a region in at most so many turns, then gives its memory to somebody else. One that did not end goes
    /// on in the background, and nobody gets the memory.
    fn revoke(&self, region: usize, by: Deadline, turns: usize) {
        let mut revoke = self.regions[region].revoke(Cause::User, by);
        for _ in 0..turns {
            if revoke.turn() == Progress::Done {
                assert!(revoke.report().is_clean(), "{:?}", revoke.report());
                return self.memory[region].reuse();
            }
            self.fabric.turn();
            thread::yield_now();
        }
    }

    /// The same of all regions, as one batch.
    fn revoke_all(&self, by: Deadline) {
        let batch: Vec<_> = self.regions.iter().map(Region::revocable).collect();
        let mut revoke = self.fabric.revoke(&batch, Cause::User, by);
        while revoke.turn() != Progress::Done {
            self.fabric.turn();
            thread::yield_now();
        }
        assert!(revoke.report().is_clean(), "{:?}", revoke.report());
        self.memory.iter().for_each(|memory| memory.reuse());
    }

    /// A grace period for its own sake, in at most so many turns.
    fn grace(&self, turns: usize) {
        let shared = &self.fabric.shared;
        let mut grace = Grace::begin(&shared.epoch, || shared.lines());
        for _ in 0..turns {
            if grace.turn(&shared.epoch) {
                return;
            }
            thread::yield_now();
        }
    }

    /// No channel is left, and no memory was touched after it was given away.
    fn end(&self) {
        while self.fabric.turn() {}
        assert!(self.fabric.inspect().channels.is_empty());
        assert!(!self.memory.iter().any(|m| m.touched.load(SeqCst)), "touched after its revoke");
    }
}

/// The regions end before the fabric: left to each other they would keep the memory of every schedule explored.
impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.regions.clear();
            while self.fabric.turn() {}
        }
    }
}

/// Submits once; true if it was accepted.
fn submit(channel: &mut Channel<Device>, op: Op) -> bool {
    loop {
        match channel.pin() {
            Ok(mut pinned) => return matches!(pinned.submit(op), Submit::Queued(_)),
            Err(_) => thread::yield_now(),
        }
    }
}

/// Polls once: how an operation ended, if one did.
fn poll(channel: &mut Channel<Device>) -> Option<Status> {
    let mut out = [Completion::EMPTY; 1];
    let n = channel.pin().map_or(0, |mut pinned| pinned.poll(&mut out));
    (n == 1).then_some(out[0].status)
}

/// Submits once and polls until it has ended. How: `None` if it was not accepted.
fn run(channel: &mut Channel<Device>, op: Op) -> Option<Status> {
    if !submit(channel, op) {
        return None;
    }
    loop {
        match poll(channel) {
            None => thread::yield_now(),
            status => return status,
        }
    }
}
