//! Time stamps of a few nanoseconds: the counter of the CPU, calibrated once.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "reads the time stamp counter; every figure is checked against Instant at start"
    )
)]

use std::time::{Duration, Instant};

/// The counter now.
#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: 1. every x86-64 CPU has the instruction, and Linux lets user space run it.
    return unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    return u64::try_from(
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos(),
    )
    .unwrap_or(0);
}

/// What a tick is worth.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    ns_per_tick: f64,
    /// Ticks that a pair of stamps costs by itself.
    pub stamp: u64,
}

impl Clock {
    /// Compares the counter with the kernel's clock for 50 ms.
    pub fn calibrated() -> Clock {
        let (began, from) = (Instant::now(), ticks());
        while began.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let (took, to) = (began.elapsed(), ticks());
        let ns_per_tick = took.as_nanos() as f64 / (to - from) as f64;
        let mut pairs: Vec<u64> = (0..2001)
            .map(|_| {
                let from = ticks();
                ticks() - from
            })
            .collect();
        pairs.sort_unstable();
        Clock { ns_per_tick, stamp: pairs[pairs.len() / 2] }
    }

    /// Ticks as nanoseconds.
    pub fn ns(&self, ticks: u64) -> f64 {
        ticks as f64 * self.ns_per_tick
    }

    /// How many ticks that is.
    pub fn ticks(&self, time: Duration) -> u64 {
        (time.as_nanos() as f64 / self.ns_per_tick) as u64
    }

    /// Nanoseconds of one call, without what the stamps cost.
    #[inline(always)]
    pub fn time(&self, call: impl FnOnce()) -> f64 {
        let from = ticks();
        call();
        self.ns((ticks() - from).saturating_sub(self.stamp))
    }
}
