//! Loom models of the epoch: the production code above, one or two revokers against one reader.
//!
//! The region's memory is a cell that loom watches: a section that finds the slot live reads it, a revoker whose
//! grace period is over writes it. Any order that lets the two meet is a reported race.

use super::{Barrier, Epoch, Grace, Line};
use crate::region::Class;
use crate::region::table::{Place, Table, word};
use crate::sync::{Mutex, Ordering, lock};
use crossbeam_utils::CachePadded;
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;

const PLACE: Place = Place {
    class: Class::Host,
    domain: 1,
    readable: true,
    writable: true,
    device: Some(0),
    cpu: None,
    len: 1,
};

struct Rig {
    epoch: Epoch,
    table: Table,
    line: Arc<CachePadded<Line>>,
    memory: Vec<UnsafeCell<u32>>,
}

impl Rig {
    /// `regions` live slots, and one channel's line, registered or not.
    fn new(barrier: Barrier, regions: u32, registered: bool) -> Arc<Rig> {
        let rig = Rig {
            epoch: Epoch::new(barrier),
            table: Table::new(regions, 1),
            line: Arc::new(Line::new()),
            memory: (0..regions).map(|_| UnsafeCell::new(0)).collect(),
        };
        for _ in 0..regions {
            rig.table.publish(PLACE).unwrap();
        }
        if registered {
            assert!(rig.epoch.register(&rig.line));
        }
        Arc::new(rig)
    }

    fn enter(&self, line: &Line) -> u64 {
        self.epoch.enter(line, self.epoch.barrier().needs_fence())
    }

    /// What submit and the device do with a region: check, then touch.
    #[expect(unsafe_code, reason = "the access that loom checks")]
    fn touch(&self, region: u32) {
        let seen = self.table.slot(region).unwrap().word.load(Ordering::Acquire);
        if seen & word::LIVE != 0 {
            // SAFETY: 1. loom checks that no revoker writes meanwhile.
            self.memory[region as usize].with(|p| unsafe { std::ptr::read_volatile(p) });
        }
    }

    fn section(&self, line: &Line) {
        let epoch = self.enter(line);
        self.touch(0);
        self.epoch.leave(line, epoch);
    }

    fn begin(&self, region: u32) -> Grace {
        self.table.mark(region);
        Grace::begin(&self.epoch, || vec![self.line.clone()])
    }

    /// The region's memory belongs to somebody else.
    #[expect(unsafe_code, reason = "the access that loom checks")]
    fn reuse(&self, region: u32) {
        // SAFETY: 1. loom checks that no section reads meanwhile.
        self.memory[region as usize].with_mut(|p| unsafe { *p = 1 });
    }

    /// Revokes, to the end.
    fn revoke(&self, region: u32) {
        let mut grace = self.begin(region);
        while !grace.turn(&self.epoch) {
            thread::yield_now();
        }
        self.reuse(region);
    }

    /// Revokes if the reader announces in time.
    fn try_revoke(&self, region: u32, turns: u32) {
        let mut grace = self.begin(region);
        for _ in 0..turns {
            if grace.turn(&self.epoch) {
                return self.reuse(region);
            }
            thread::yield_now();
        }
    }
}

/// Only announced epochs count (as after a membarrier that failed).
#[test]
fn model_fast() {
    loom::model(|| {
        let rig = Rig::new(Barrier::Membarrier, 1, true);
        let reader = rig.clone();
        let reader = thread::spawn(move || {
            reader.section(&reader.line);
            reader.section(&reader.line);
        });
        rig.try_revoke(0, 3);
        reader.join().unwrap();
    });
}

/// One section, then idle for ever: only the barrier can tell.
#[test]
fn model_slow() {
    loom::model(|| {
        let rig = Rig::new(Barrier::Fence, 1, true);
        let reader = rig.clone();
        let reader = thread::spawn(move || reader.section(&reader.line));
        rig.revoke(0);
        reader.join().unwrap();
    });
}

/// A reader that goes on: either speed may end it.
#[test]
fn model_both() {
    loom::model(|| {
        let rig = Rig::new(Barrier::Fence, 1, true);
        let reader = rig.clone();
        let reader = thread::spawn(move || {
            reader.section(&reader.line);
            reader.section(&reader.line);
        });
        rig.revoke(0);
        reader.join().unwrap();
    });
}

/// A channel that registers while a revoke runs: seen, or it sees the mark. No fence in its sections helps it.
#[test]
fn model_register() {
    loom::model(|| {
        let rig = Rig::new(Barrier::Membarrier, 1, false);
        let reader = rig.clone();
        let reader = thread::spawn(move || {
            assert!(reader.epoch.register(&reader.line));
            reader.section(&reader.line);
        });
        rig.try_revoke(0, 3);
        reader.join().unwrap();
    });
}

/// Parked, and back.
#[test]
fn model_reuse() {
    loom::model(|| {
        let rig = Rig::new(Barrier::Membarrier, 1, true);
        let reader = rig.clone();
        let reader = thread::spawn(move || {
            reader.section(&reader.line);
            reader.epoch.unregister(&reader.line);
            assert!(reader.epoch.register(&reader.line));
            reader.section(&reader.line);
            reader.epoch.unregister(&reader.line);
        });
        rig.try_revoke(0, 3);
        reader.join().unwrap();
    });
}

/// Two revokers share one barrier.
#[test]
fn model_coalesce() {
    loom::model(|| {
        let rig = Rig::new(Barrier::Lone, 2, true);
        let (reader, other) = (rig.clone(), rig.clone());
        let reader = thread::spawn(move || {
            let epoch = reader.enter(&reader.line);
            reader.touch(1);
            reader.touch(0);
            reader.epoch.leave(&reader.line, epoch);
        });
        let other = thread::spawn(move || other.try_revoke(1, 2));
        rig.try_revoke(0, 2);
        other.join().unwrap();
        reader.join().unwrap();
    });
}

/// Two revokers, and a reader whose epochs are all that counts: neither may borrow the other's bump.
#[test]
fn model_coalesce_fast() {
    loom::model(|| {
        let rig = Rig::new(Barrier::Membarrier, 2, true);
        let (reader, other) = (rig.clone(), rig.clone());
        let reader = thread::spawn(move || {
            let epoch = reader.enter(&reader.line);
            reader.touch(0);
            reader.epoch.leave(&reader.line, epoch);
        });
        let other = thread::spawn(move || other.try_revoke(1, 1));
        rig.try_revoke(0, 2);
        other.join().unwrap();
        reader.join().unwrap();
    });
}

/// A section on a second channel inside one on the first: two lines, so the inner one ends nothing.
#[test]
fn model_nest() {
    loom::model(|| {
        let rig = Rig::new(Barrier::Fence, 1, true);
        let inner = Arc::new(Line::new());
        rig.epoch.register(&inner);
        let (reader, inside) = (rig.clone(), inner.clone());
        let reader = thread::spawn(move || {
            let epoch = reader.enter(&reader.line);
            // Checked under the outer section, touched after the inner one.
            let seen = reader.table.slot(0).unwrap().word.load(Ordering::Acquire);
            let within = reader.enter(&inside);
            reader.epoch.leave(&inside, within);
            if seen & word::LIVE != 0 {
                reader.use_again();
            }
            reader.epoch.leave(&reader.line, epoch);
        });
        rig.table.mark(0);
        let mut grace = Grace::begin(&rig.epoch, || vec![rig.line.clone(), inner.clone()]);
        while !grace.turn(&rig.epoch) {
            thread::yield_now();
        }
        rig.reuse(0);
        reader.join().unwrap();
    });
}

impl Rig {
    #[expect(unsafe_code, reason = "the access that loom checks")]
    fn use_again(&self) {
        // SAFETY: 1. loom checks that no revoker writes meanwhile.
        self.memory[0].with(|p| unsafe { std::ptr::read_volatile(p) });
    }
}

/// A channel made while a revoke runs is on the list of lines, or sees the mark.
#[test]
fn model_channel_made_meanwhile() {
    loom::model(|| {
        let rig = Rig::new(Barrier::Membarrier, 1, false);
        let list: Arc<Mutex<Vec<Arc<CachePadded<Line>>>>> = Arc::new(Mutex::new(Vec::new()));
        let (reader, made) = (rig.clone(), list.clone());
        let reader = thread::spawn(move || {
            // As `Channel::new`: registered, then listed, then used.
            reader.epoch.register(&reader.line);
            lock(&made).push(reader.line.clone());
            reader.section(&reader.line);
        });
        rig.table.mark(0);
        let mut grace = Grace::begin(&rig.epoch, || lock(&list).clone());
        for _ in 0..3 {
            if grace.turn(&rig.epoch) {
                rig.reuse(0);
                break;
            }
            thread::yield_now();
        }
        reader.join().unwrap();
    });
}

/// An owner dies inside its section; whoever got its channel pins it. The dead section is past once the kernel said so
/// (a flag behind a full barrier, as `exit_mm` has it), the other one's is not.
#[test]
fn model_dead_owner() {
    use crate::sync::{AtomicU64, fence};
    loom::model(|| {
        let rig = Rig::new(Barrier::Fence, 1, true);
        let gone = Arc::new(AtomicU64::new(0));
        let (reader, flag) = (rig.clone(), gone.clone());
        let reader = thread::spawn(move || {
            reader.line.thread.store(1, Ordering::Release);
            let _ = reader.enter(&reader.line);
            reader.touch(0);
            // Never left. Its heir:
            let heir = reader.clone();
            let heir = thread::spawn(move || {
                heir.line.thread.store(2, Ordering::Release);
                heir.section(&heir.line);
            });
            fence(Ordering::SeqCst);
            flag.store(1, Ordering::Relaxed);
            heir.join().unwrap();
        });
        let mut grace = rig.begin(0);
        for _ in 0..3 {
            let over = grace.turn(&rig.epoch) || {
                grace.bury(&rig.epoch, |who| who.serial == 1 && gone.load(Ordering::Relaxed) == 1);
                grace.pending().is_empty()
            };
            if over {
                rig.reuse(0);
                break;
            }
            thread::yield_now();
        }
        reader.join().unwrap();
    });
}
