//! What a cache line costs that goes to the other core and back: the unit of everything that crosses cores.

use crate::cpus;
use crate::rig::Rig;
use crate::stats::Sorted;
use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds of a round trip between the rig's two cores: the median of `batches` batches of 2,000.
pub fn round_trip(rig: &Rig, batches: usize) -> f64 {
    const TRIPS: u64 = 2000;
    let there = CachePadded::new(AtomicU64::new(0));
    let back = CachePadded::new(AtomicU64::new(0));
    let echo = |beat: &cpus::Beat| {
        beat.ready();
        let mut last = 0;
        while !beat.is_over() {
            // The flag above is in another line, which stays here: only `there` and `back` travel.
            let now = there.load(Ordering::Acquire);
            if now != last {
                back.store(now, Ordering::Release);
                last = now;
            }
        }
    };
    cpus::beside(rig.worker, echo, || {
        let mut trip = 0;
        let batch = |_| {
            let time = rig.clock.time(|| {
                for _ in 0..TRIPS {
                    trip += 1;
                    there.store(trip, Ordering::Release);
                    while back.load(Ordering::Acquire) != trip {
                        std::hint::spin_loop();
                    }
                }
            });
            time / TRIPS as f64
        };
        Sorted::new((0..batches).map(batch).collect()).median()
    })
}
