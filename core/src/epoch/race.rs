//! Plain memory between sections and revokers, for ThreadSanitizer (`ci/tsan`) to watch: whatever is not ordered by
//! the epoch and the owner word is a race that it reports. Nothing else synchronises here: no lock is taken and no
//! reference counted across threads while they run, since the standard library's own code is not instrumented.
#![expect(unsafe_code, reason = "plain accesses, which these tests exist for")]

use super::{Barrier, BarrierMode, Epoch, Grace, Line, Lines};
use crate::channel::{Erased, Seizure};
use crate::engine::cpu::Cpu;
use crate::region::Class;
use crate::region::slot::word;
use crate::region::table::{Place, Table};
use crate::{ChannelConfig, Completion, Fabric};
use crossbeam_utils::CachePadded;
use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const ROUNDS: u64 = 3_000;
const READERS: usize = 2;

const PLACE: Place = Place {
    class: Class::Host,
    domain: 1,
    readable: true,
    writable: true,
    device: Some(0),
    cpu: None,
    len: 8,
};

/// The region's memory: two words that its users keep equal.
struct Memory([UnsafeCell<u64>; 2]);

// SAFETY: 1. sections read it while the region is live, the revoker writes it after a grace period: the promise under
// test.
unsafe impl Sync for Memory {}

impl Memory {
    fn read(&self) -> [u64; 2] {
        // SAFETY: 1. as for Sync. 2. volatile, so that a broken promise shows itself without a sanitizer too.
        [0, 1].map(|n: usize| unsafe { self.0[n].get().read_volatile() })
    }

    fn write(&self, value: u64) {
        for word in &self.0 {
            // SAFETY: 1. as for Sync.
            unsafe { word.get().write_volatile(value) };
        }
    }
}

/// Waits until the others have done something, so that both sides really meet. Relaxed: it orders nothing.
fn meet(progress: &AtomicU64) {
    let before = progress.load(Ordering::Relaxed);
    while progress.load(Ordering::Relaxed) == before {
        std::thread::yield_now();
    }
}

/// Without the test harness, whose own threads the sanitizer does not understand either.
#[cfg(tidegate_tsan)]
pub(crate) fn all() {
    a_section_that_found_a_region_live_reads_what_no_revoker_writes();
    a_section_that_found_a_region_live_reads_what_no_revoker_writes_with_fences();
    a_channels_state_has_one_user_at_a_time();
}

fn run(barrier: Barrier) {
    let epoch = Epoch::new(barrier);
    let table = Table::new(1, 1);
    table.publish(PLACE).unwrap();
    let line = |_| {
        let line: Arc<CachePadded<Line>> = Arc::new(Line::new());
        epoch.register(&line);
        line
    };
    let lines: Lines = (0..READERS).map(line).collect();
    let memory = Memory([UnsafeCell::new(0), UnsafeCell::new(0)]);
    let (stop, progress) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|s| {
        let mut readers = Vec::new();
        for line in lines.iter() {
            let (epoch, table, memory, stop, progress) = (&epoch, &table, &memory, &stop, &progress);
            readers.push(s.spawn(move || {
                let slot = table.slot(0).unwrap();
                for turn in 0_u64.. {
                    let section = epoch.enter(line, epoch.barrier().needs_fence());
                    if slot.word.load(Ordering::Acquire) & word::LIVE != 0 {
                        let [a, b] = memory.read();
                        assert_eq!(a, b, "half written: a section outlived its grace period");
                    }
                    epoch.leave(line, section);
                    progress.fetch_add(1, Ordering::Relaxed);
                    if turn % 64 == 0 {
                        epoch.unregister(line);
                        std::thread::yield_now();
                        epoch.register(line);
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }));
        }
        let slot = table.slot(0).unwrap();
        for round in 1..=ROUNDS {
            meet(&progress);
            table.mark(0);
            let mut grace = Grace::begin(&epoch, || lines.clone());
            while !grace.turn(&epoch) {
                std::thread::yield_now();
            }
            memory.write(round);
            // Live again, as `publish` does it; test tables retire a slot after a few generations.
            slot.word.fetch_or(word::LIVE, Ordering::Release);
        }
        stop.store(true, Ordering::Relaxed);
        // The sanitizer knows a join of a thread, not the end of a scope.
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

#[cfg_attr(test, test)]
fn a_section_that_found_a_region_live_reads_what_no_revoker_writes() {
    run(Barrier::choose(BarrierMode::Auto));
}

#[cfg_attr(test, test)]
fn a_section_that_found_a_region_live_reads_what_no_revoker_writes_with_fences() {
    run(Barrier::Fence);
}

#[cfg_attr(test, test)]
fn a_channels_state_has_one_user_at_a_time() {
    let fabric = Fabric::builder().manual().regions(1).build().unwrap();
    let mut channel = fabric.channel(&fabric.poller("owner"), Cpu::new(4), ChannelConfig::depth(4)).unwrap();
    let erased: Arc<dyn Erased> = fabric.shared.channels()[0].clone();
    let (stop, progress) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|s| {
        let (owned, stop, met) = (&mut channel, &stop, &progress);
        let owner = s.spawn(move || {
            let mut out = [Completion::EMPTY; 4];
            while !stop.load(Ordering::Relaxed) {
                if let Ok(mut pinned) = owned.pin() {
                    let _ = pinned.submit(crate::Op::fence());
                    pinned.poll(&mut out);
                }
                met.fetch_add(1, Ordering::Relaxed);
            }
        });
        let epoch = &fabric.shared.epoch;
        for _ in 0..ROUNDS {
            meet(&progress);
            let mut seizure = Seizure::begin(&erased, epoch).unwrap();
            while !seizure.turn(epoch) {
                std::thread::yield_now();
            }
            let mut taken = seizure.finish().unwrap();
            taken.retire();
            assert!(taken.give_back().is_ok());
        }
        stop.store(true, Ordering::Relaxed);
        owner.join().unwrap();
    });
}
