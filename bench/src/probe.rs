//! What child builds measure (checks or counters left out by a cfg): one figure for each run of the program `probe`,
//! so that each comes with a fresh layout of its memory.

use crate::clock::Clock;
use crate::missing::{Missing, missing};
use crate::shapes::{Blocks, Copies, Stretch, Turner};
use crate::stats::Sorted;
use std::time::{Duration, Instant};
use tidegate_core::Fabric;
use tidegate_core::engine::cpu::Cpu;

/// A figure that a child can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// No-ops, 32 a turn.
    NoOps32,
    /// No-ops, one a turn.
    NoOps1,
    /// Copies of 64 bytes by the CPU, 32 a turn.
    Copies32,
}

impl Probe {
    /// All of them.
    pub const ALL: [Probe; 3] = [Probe::NoOps32, Probe::NoOps1, Probe::Copies32];

    /// Its argument.
    pub fn name(self) -> &'static str {
        match self {
            Probe::NoOps32 => "noops-32",
            Probe::NoOps1 => "noops-1",
            Probe::Copies32 => "copies-32",
        }
    }

    /// By its name.
    pub fn named(name: &str) -> Option<Probe> {
        Probe::ALL.into_iter().find(|probe| probe.name() == name)
    }

    /// Nanoseconds an operation: the median of slices over `time`.
    ///
    /// # Errors
    /// [`Missing`] if it can't be set up.
    pub fn measure(self, clock: &Clock, time: Duration) -> Result<f64, Missing> {
        match self {
            Probe::NoOps32 | Probe::NoOps1 => {
                let fabric = Fabric::builder().build().map_err(missing)?;
                let mut turner = Turner::new(&fabric)?;
                if self == Probe::NoOps32 {
                    Ok(slices(clock, time, |n| turner.bursts_of_32(n)))
                } else {
                    Ok(slices(clock, time, |n| turner.bursts_of_1(n)))
                }
            }
            Probe::Copies32 => {
                let stretch = Stretch::new(1 << 16)?;
                let offsets = stretch.offsets(64, Blocks::Hot);
                let mut copies = Copies::new(Cpu::new(64), 64, &stretch)?;
                Ok(slices(clock, time, |n| copies.run(&offsets, 64, n, 32, 32)))
            }
        }
    }
}

/// Slices of some 200 us; the first tenth warms up.
fn slices(clock: &Clock, time: Duration, mut run: impl FnMut(u64)) -> f64 {
    const OPS: u64 = 32 * 1024;
    let began = Instant::now();
    let mut figures = Vec::new();
    while began.elapsed() < time || figures.is_empty() {
        let took = clock.time(|| run(OPS)) / OPS as f64;
        if began.elapsed() > time / 10 {
            figures.push(took);
        }
    }
    Sorted::new(figures).median()
}
