//! The pairing of a section with a membarrier, on this machine's processors: the production epoch, table and grace
//! period, two threads, no model. A violation is a grace period that ended while a section that had seen the region
//! live was still inside (E1).
//!
//! The reader's half is *store slot, load region*; a processor may let the load pass the store as long as the store
//! waits in its store buffer. Each round starts both threads together; the revoker's delay follows what the reader saw
//! last, so that mark and load keep meeting; and before it pins the reader loads the region's word and then stores
//! to lines that the revoker has just written, so that its load is quick and its store buffer is busy.

use super::{Barrier, BarrierMode, Epoch, Grace, Line, Lines};
use crate::region::Class;
use crate::region::slot::word;
use crate::region::table::{Place, Table};
use crossbeam_utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Rounds with the barrier.
const ROUNDS: u64 = if cfg!(debug_assertions) { 2_000 } else { 100_000 };
/// Rounds without it at most, and violations that are enough.
const ROUNDS_WITHOUT: u64 = 1_000_000;
const ENOUGH: u64 = 10;
/// Lines that the reader stores to before it pins.
const BALLAST: usize = 24;

const PLACE: Place = Place {
    class: Class::Host,
    domain: 1,
    readable: true,
    writable: true,
    device: Some(0),
    cpu: None,
    len: 1,
};

/// Marsaglia's xorshift: the same delays in every run.
struct Delays(u64);

impl Delays {
    fn wait(&mut self, least: u64) {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        for _ in 0..least + self.0 % 32 {
            std::hint::black_box(());
        }
    }
}

struct Rig {
    epoch: Epoch,
    table: Table,
    line: Arc<CachePadded<Line>>,
    /// The round that the revoker has begun, and the one whose grace period it has looked at.
    begun: CachePadded<AtomicU64>,
    looked: CachePadded<AtomicU64>,
    /// The round in which the reader saw the region live, and the one it has left.
    live: CachePadded<AtomicU64>,
    left: CachePadded<AtomicU64>,
    ballast: [CachePadded<AtomicU64>; BALLAST],
}

impl Rig {
    fn reader(&self, rounds: u64) {
        let mut delays = Delays(0x9e37_79b9_7f4a_7c15);
        let slot = self.table.slot(0).unwrap();
        for round in 1..=rounds {
            if !until(&self.begun, round) {
                return;
            }
            delays.wait(0);
            std::hint::black_box(slot.word.load(Ordering::Relaxed));
            for line in &self.ballast {
                line.store(round, Ordering::Relaxed);
            }
            let epoch = self.epoch.enter(&self.line, self.epoch.barrier().needs_fence());
            // As submit reads it.
            if slot.word.load(Ordering::Acquire) & word::LIVE != 0 {
                self.live.store(round, Ordering::Relaxed);
            }
            // Inside until the revoker has made up its mind.
            until(&self.looked, round);
            self.epoch.leave(&self.line, epoch);
            self.left.store(round, Ordering::Release);
        }
    }

    /// Violations, and rounds made.
    fn revoker(&self, rounds: u64, enough: u64) -> (u64, u64) {
        let mut delays = Delays(0xd1b5_4a32_d192_ed03);
        let lines: Lines = Arc::new([self.line.clone()]);
        let slot = self.table.slot(0).unwrap();
        let (mut violations, mut delay) = (0, 0);
        for round in 1..=rounds {
            // Live again, as `publish` does it; test tables retire a slot after a few generations.
            slot.word.fetch_or(word::LIVE, Ordering::Release);
            for line in &self.ballast {
                line.store(0, Ordering::Relaxed);
            }
            self.begun.store(round, Ordering::Release);
            delays.wait(delay);
            self.table.mark(0);
            let mut grace = Grace::begin(&self.epoch, || lines.clone());
            let over = grace.turn(&self.epoch);
            self.looked.store(round, Ordering::Release);
            until(&self.left, round);
            let live = self.live.load(Ordering::Relaxed) == round;
            violations += u64::from(over && live);
            delay = if live { delay.saturating_sub(4) } else { (delay + 4).min(100_000) };
            if violations >= enough {
                // No more rounds: the reader is told.
                self.begun.store(u64::MAX, Ordering::Release);
                return (violations, round);
            }
        }
        (violations, rounds)
    }
}

/// Waits for a round. False if there is none any more.
fn until(what: &AtomicU64, round: u64) -> bool {
    let mut spins = 0_u32;
    loop {
        match what.load(Ordering::Acquire) {
            u64::MAX => return false,
            now if now >= round => return true,
            _ => spins += 1,
        }
        // Somebody else has the other CPU.
        if spins % 1_000 == 0 {
            std::thread::yield_now();
        }
        std::hint::spin_loop();
    }
}

/// Violations, and rounds made.
fn run(barrier: Barrier, rounds: u64, enough: u64) -> (u64, u64) {
    let number = || CachePadded::new(AtomicU64::new(0));
    let rig = Rig {
        epoch: Epoch::new(barrier),
        table: Table::new(1, 1),
        line: Arc::new(Line::new()),
        begun: number(),
        looked: number(),
        live: number(),
        left: number(),
        ballast: std::array::from_fn(|_| number()),
    };
    rig.table.publish(PLACE).unwrap();
    assert!(rig.epoch.register(&rig.line));
    std::thread::scope(|s| {
        s.spawn(|| rig.reader(rounds));
        rig.revoker(rounds, enough)
    })
}

#[test]
#[expect(clippy::print_stdout, reason = "a skip, and what the run without the barrier saw")]
fn litmus_no_section_outlives_its_grace_period_and_without_the_membarrier_some_do() {
    let barrier = Barrier::choose(BarrierMode::Auto);
    assert_eq!(run(barrier, ROUNDS, 1), (0, ROUNDS), "a section outlived its grace period");
    if barrier != Barrier::Membarrier {
        println!("skipped: the kernel has no expedited membarrier");
        return;
    }
    if cfg!(debug_assertions) {
        // The store buffer is empty before so slow a revoker looks.
        println!("skipped: the litmus needs an optimised build (ci/litmus)");
        return;
    }
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        println!("skipped: a store buffer shows on two CPUs only");
        return;
    }
    let (violations, rounds) = run(Barrier::Missing, ROUNDS_WITHOUT, ENOUGH);
    println!("without the membarrier: {violations} violations in {rounds} rounds");
    assert!(violations > 0, "{rounds} rounds without the membarrier did no harm: they prove nothing with it");
}
