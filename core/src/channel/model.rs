//! Loom models of a channel: the production owner, revoker and drain, against an engine whose device touches the
//! region's memory (a cell that loom watches) from the push of a descriptor to its completion.

use super::{Channel, ChannelConfig, Erased, Reach, Seat, Seizure};
use crate::drain::Progress;
use crate::engine::{AddressSpace, Cancel, Engine, Operation, Outcome, Push, Sink};
use crate::op::{Completion, Op, Status, Submit};
use crate::region::{Access, Class, Extent, MapError, Mapping, Region};
use crate::tag::Shared;
use crate::{BarrierMode, Cause, Deadline, DomainId, Fabric};
use loom::cell::UnsafeCell;
use loom::thread;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const PATIENT: Deadline = Deadline::millis(3_600_000, 3_600_000);
const CANCEL: Deadline = Deadline::millis(0, 3_600_000);

/// The region's memory; true once it is somebody else's.
struct Memory(UnsafeCell<bool>, AtomicBool);

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
        if self.0.with(|p| unsafe { *p }) {
            // Not a panic: the control thread would survive it.
            self.1.store(true, SeqCst);
        }
    }

    #[expect(unsafe_code, reason = "the access that loom checks")]
    fn reuse(&self) {
        // SAFETY: 1. loom checks that nobody else touches it meanwhile.
        self.0.with_mut(|p| unsafe { *p = true });
    }
}

/// Touches the memory when a descriptor is pushed and when it is completed; completes at the next retire.
struct Device {
    memory: Arc<Memory>,
    queue: Vec<u32>,
    /// Completes nothing by itself.
    stuck: bool,
}

#[expect(unsafe_code, reason = "an engine of a model")]
// SAFETY: 1. what it touches is a cell of the model.
unsafe impl Engine for Device {
    const SPACE: AddressSpace = AddressSpace::Device;
    const CONFIRMS: bool = false;
    fn depth(&self) -> u32 {
        1
    }
    fn push(&mut self, index: u32, _: &Operation) -> Push {
        self.memory.touch();
        self.queue.push(index);
        Push::Taken
    }
    fn doorbell(&mut self) {}
    fn retire(&mut self, sink: &mut Sink<'_>) {
        if self.stuck {
            return;
        }
        for index in self.queue.drain(..) {
            self.memory.touch();
            sink.complete(index, Outcome::Done, 0);
        }
    }
    fn cancel(&mut self) -> Cancel {
        for _ in self.queue.drain(..) {
            self.memory.touch();
        }
        Cancel::Stopped
    }
    fn resume(&mut self) -> bool {
        true
    }
}

/// A device that was not cancelled goes on with what it has.
impl Drop for Device {
    fn drop(&mut self) {
        for _ in self.queue.drain(..) {
            self.memory.touch();
        }
    }
}

/// Gives the memory to somebody else when it is unmapped.
#[derive(Debug)]
struct Map(Arc<Memory>);

#[expect(unsafe_code, reason = "a mapping of a model")]
// SAFETY: 1. it maps nothing.
unsafe impl Mapping for Map {
    fn extent(&self) -> Extent {
        Extent { device: 0, cpu: None, len: 8 }
    }
    fn unmap(&self) -> Result<(), MapError> {
        self.0.reuse();
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
    memory: Arc<Memory>,
    domain: DomainId,
    region: Region<Shared>,
}

impl Rig {
    fn new() -> Rig {
        let fabric = Fabric::builder().manual().regions(1).barrier(BarrierMode::Never).build().unwrap();
        let domain = fabric.domain().unwrap();
        let memory = Arc::new(Memory(UnsafeCell::new(false), AtomicBool::new(false)));
        let map = Arc::new(Map(memory.clone()));
        let region = fabric.adopt(domain, Class::Host, Access::ReadWrite, map, None, None).unwrap();
        Rig { fabric, memory, domain, region }
    }

    fn channel(&self, stuck: bool) -> Channel<Device> {
        let engine = Device { memory: self.memory.clone(), queue: Vec::new(), stuck };
        let seat = Seat { domain: self.domain, reach: Reach::Shared, gate: None };
        let poller = self.fabric.poller("model");
        self.fabric.place_channel(&poller, engine, ChannelConfig::depth(1), seat).unwrap()
    }

    /// Nothing is left, and the memory was not touched after its unmap.
    fn end(self, channel: Channel<Device>) {
        drop(channel);
        while self.fabric.turn() {}
        assert!(self.fabric.inspect().channels.is_empty());
        assert!(!self.memory.1.load(SeqCst), "touched after the unmap");
    }

    /// Revokes the region, to the end.
    fn revoke(&self, by: Deadline) {
        let mut revoke = self.region.revoke(Cause::User, by);
        while revoke.turn() != Progress::Done {
            self.fabric.turn();
            thread::yield_now();
        }
        assert!(revoke.report().is_clean(), "{:?}", revoke.report());
    }
}

/// Submits once and polls until it has ended. How: `None` if it was not accepted.
fn run(channel: &mut Channel<Device>, op: Op) -> Option<Status> {
    let accepted = loop {
        match channel.pin() {
            Ok(mut pinned) => break matches!(pinned.submit(op), Submit::Queued(_)),
            Err(_) => thread::yield_now(),
        }
    };
    while accepted {
        let mut out = [Completion::EMPTY; 1];
        if channel.pin().is_ok_and(|mut pinned| pinned.poll(&mut out) == 1) {
            return Some(out[0].status);
        }
        thread::yield_now();
    }
    None
}

/// Submit against revoke, to the unmap: mark, grace period, scan, drain by the owner's polling.
#[test]
fn model_drain() {
    loom::model(|| {
        let rig = Rig::new();
        let mut channel = rig.channel(false);
        let op = Op::fill(rig.region.span(), 0);
        let owner = thread::spawn(move || {
            assert!(matches!(run(&mut channel, op), None | Some(Status::Done)));
            channel
        });
        rig.revoke(PATIENT);
        rig.end(owner.join().unwrap());
    });
}

/// A queue that never completes: seized, cancelled, withdrawn, given back; the owner finds out.
#[test]
fn model_cancel() {
    loom::model(|| {
        let rig = Rig::new();
        let mut channel = rig.channel(true);
        let op = Op::fill(rig.region.span(), 0);
        let owner = thread::spawn(move || {
            assert!(matches!(run(&mut channel, op), None | Some(Status::Revoked)));
            channel
        });
        rig.revoke(CANCEL);
        rig.end(owner.join().unwrap());
    });
}

/// Seizure against pin, and back: the state (which loom watches as one cell) has one user at a time, and what the
/// revoker did to it is there when the owner comes back.
#[test]
fn model_take_and_give_back() {
    loom::model(|| {
        let rig = Rig::new();
        let mut channel = rig.channel(false);
        let erased: Arc<dyn Erased> = channel.core.clone();
        let owner = thread::spawn(move || {
            for _ in 0..2 {
                if let Ok(mut pinned) = channel.pin() {
                    let _ = pinned.counters();
                }
            }
            channel
        });
        let epoch = &rig.fabric.shared.epoch;
        let mut seizure = Seizure::begin(&erased, epoch).unwrap();
        while !seizure.turn(epoch) {
            thread::yield_now();
        }
        let mut taken = seizure.finish().unwrap();
        taken.retire();
        assert!(taken.give_back().is_ok());
        rig.end(owner.join().unwrap());
    });
}

/// Two revokers want the channel: one has it at a time, and sees what the other did.
#[test]
fn model_two_takers() {
    loom::model(|| {
        let rig = Rig::new();
        let channel = rig.channel(false);
        let erased: Arc<dyn Erased> = channel.core.clone();
        let take = |erased: Arc<dyn Erased>, fabric: Fabric| {
            let epoch = &fabric.shared.epoch;
            for _ in 0..2 {
                if let Some(mut seizure) = Seizure::begin(&erased, epoch) {
                    while !seizure.turn(epoch) {
                        thread::yield_now();
                    }
                    let mut taken = seizure.finish().unwrap();
                    taken.retire();
                    assert!(taken.give_back().is_ok());
                }
                thread::yield_now();
            }
        };
        let (second, fabric) = (erased.clone(), rig.fabric.clone());
        let other = thread::spawn(move || take(second, fabric));
        take(erased, rig.fabric.clone());
        other.join().unwrap();
        rig.end(channel);
    });
}

/// The owner drops the channel while a revoker has it: closed by exactly one of them, and off the list.
#[test]
fn model_drop_while_taken() {
    loom::model(|| {
        let rig = Rig::new();
        let channel = rig.channel(true);
        let erased: Arc<dyn Erased> = channel.core.clone();
        let owner = thread::spawn(move || drop(channel));
        let epoch = &rig.fabric.shared.epoch;
        if let Some(mut seizure) = Seizure::begin(&erased, epoch) {
            while !seizure.turn(epoch) {
                thread::yield_now();
            }
            let mut taken = seizure.finish().unwrap();
            taken.retire();
            if let Err(mut taken) = taken.give_back() {
                drop(taken.unplug());
                if taken.close() {
                    rig.fabric.shared.delist(&erased);
                }
            }
        }
        owner.join().unwrap();
        while rig.fabric.turn() {}
        assert!(rig.fabric.inspect().channels.is_empty());
    });
}

/// The device closes while a revoker has the channel: it comes back closing.
#[test]
fn model_close_while_taken() {
    loom::model(|| {
        let rig = Rig::new();
        let gate = rig.fabric.gate("model", None);
        let engine = Device { memory: rig.memory.clone(), queue: Vec::new(), stuck: false };
        let seat = Seat { domain: rig.domain, reach: Reach::Shared, gate: Some(gate.clone()) };
        let poller = rig.fabric.poller("model");
        let mut channel = rig.fabric.place_channel(&poller, engine, ChannelConfig::depth(1), seat).unwrap();
        let erased: Arc<dyn Erased> = channel.core.clone();
        let fabric = rig.fabric.clone();
        let taker = thread::spawn(move || {
            let epoch = &fabric.shared.epoch;
            if let Some(mut seizure) = Seizure::begin(&erased, epoch) {
                while !seizure.turn(epoch) {
                    thread::yield_now();
                }
                assert!(seizure.finish().unwrap().give_back().is_ok());
            }
        });
        drop(gate.quiesce(Cause::Reset, PATIENT).unwrap());
        taker.join().unwrap();
        let answer = channel.pin().map(|mut pinned| pinned.submit(Op::fence()));
        assert!(matches!(answer, Ok(Submit::Closed(Cause::Reset))), "{answer:?}");
        rig.end(channel);
    });
}
