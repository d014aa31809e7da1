//! Measures the kernels on the machine at hand.
//!
//! Minima of a few short runs: what disturbs a run only makes it longer. A kernel other than `memmove` is taken
//! where it is at least a sixteenth faster.

use super::{CLASSES, Kernel, Table, class};

/// Bytes of each of the two blocks.
const BLOCK: usize = 2 << 20;
/// Bytes copied in one run from and to where no cache has them.
const COLD: usize = 64 << 10;
const HOT_LENGTHS: [usize; 6] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20];
const COLD_LENGTHS: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];

#[cfg(not(all(target_arch = "x86_64", not(loom))))]
pub(super) fn measure() -> Table {
    let _ = (BLOCK, COLD, HOT_LENGTHS, COLD_LENGTHS, CLASSES, class as fn(usize) -> usize, Kernel::ALL);
    Table::plain()
}

#[cfg(all(target_arch = "x86_64", not(loom)))]
pub(super) fn measure() -> Table {
    let mut bench = Bench { from: vec![1; BLOCK], to: vec![2; BLOCK], next: 0 };
    let mut table = Table::plain();
    let candidates: Vec<Kernel> = Kernel::ALL.into_iter().filter(|k| k.is_available()).collect();
    let mut fastest =
        |lengths: &[usize], row: &mut [Kernel; CLASSES], time: fn(&mut Bench, Kernel, usize) -> u64| {
            for len in lengths {
                let mut best = (Kernel::Plain, u64::MAX);
                for kernel in &candidates {
                    let took = time(&mut bench, *kernel, *len);
                    // `Plain` comes first.
                    if best.1 == u64::MAX || took.saturating_mul(16) < best.1.saturating_mul(15) {
                        best = (*kernel, took);
                    }
                }
                // Longer ones too, until measured.
                row.iter_mut().skip(class(*len)).for_each(|kernel| *kernel = best.0);
            }
        };
    fastest(&HOT_LENGTHS, &mut table.hot, Bench::hot);
    fastest(&COLD_LENGTHS, &mut table.cold, Bench::cold);
    table.threshold = bench.threshold();
    table
}

#[cfg(all(target_arch = "x86_64", not(loom)))]
struct Bench {
    from: Vec<u8>,
    to: Vec<u8>,
    /// Where the next cold run begins.
    next: usize,
}

#[cfg(all(target_arch = "x86_64", not(loom)))]
impl Bench {
    fn pair(&mut self, at: usize) -> (*const u8, *mut u8) {
        (self.from.as_ptr().wrapping_add(at), self.to.as_mut_ptr().wrapping_add(at))
    }

    /// Nanoseconds, the least of some runs, on the same bytes again and again.
    fn hot(&mut self, kernel: Kernel, len: usize) -> u64 {
        let times = ((64 << 10) / len).max(1);
        let runs = if len < BLOCK { 4 } else { 3 };
        let (from, to) = self.pair(0);
        let mut least = u64::MAX;
        for run in 0..runs {
            let begun = std::time::Instant::now();
            for _ in 0..times {
                // SAFETY: 1. `len <= BLOCK`, and the vectors are ours.
                unsafe { kernel.copy(from, to, len) };
            }
            super::store_fence();
            // The first one warms.
            if run > 0 {
                least = least.min(begun.elapsed().as_nanos() as u64);
            }
        }
        least
    }

    /// Nanoseconds for [`COLD`] bytes in copies of `len`, the least of three runs.
    fn cold(&mut self, kernel: Kernel, len: usize) -> u64 {
        let mut least = u64::MAX;
        for _ in 0..3 {
            let at = self.flushed();
            let begun = std::time::Instant::now();
            for offset in (0..COLD).step_by(len) {
                let (from, to) = self.pair(at + offset);
                // SAFETY: 1. `at + COLD <= BLOCK`, and `len` divides COLD.
                unsafe { kernel.copy(from, to, len) };
            }
            super::store_fence();
            least = least.min(begun.elapsed().as_nanos() as u64);
        }
        least
    }

    /// A part of both blocks that no cache has.
    fn flushed(&mut self) -> usize {
        let at = self.next;
        self.next = (at + COLD) % BLOCK;
        let (from, to) = self.pair(at);
        // SAFETY: 1. inside the vector: COLD divides BLOCK.
        unsafe { super::kernel::x86::flush(from, COLD) };
        // SAFETY: 1. as above.
        unsafe { super::kernel::x86::flush(to, COLD) };
        at
    }

    /// Three quarters of the way from what a probe takes when the block is cached to what it takes when it is not: a
    /// block in a shared last level is not cold (stores past the caches took twice the time there), and right after
    /// non-temporal stores a cached one may take a few times as long as else. `None` where the two are too near each
    /// other to tell.
    fn threshold(&mut self) -> Option<u64> {
        let at = self.flushed();
        let mut cold = self.probes(at);
        for offset in (0..COLD).step_by(super::PROBED) {
            let (from, to) = self.pair(at + offset);
            // SAFETY: 1. inside the vectors.
            unsafe { Kernel::Plain.copy(from, to, super::PROBED) };
        }
        let mut hot = self.probes(at);
        hot.sort_unstable();
        cold.sort_unstable();
        let (hot, cold) = (hot[hot.len() / 2].max(1), cold[cold.len() / 2]);
        (cold > 2 * hot).then(|| hot + (cold - hot) / 4 * 3)
    }

    /// Ticks of the probes of the part at `at`, 8 KiB each.
    fn probes(&mut self, at: usize) -> Vec<u64> {
        let piece = 8 << 10;
        let mut ticks = Vec::with_capacity(COLD / piece);
        for offset in (0..COLD).step_by(piece) {
            let (from, _) = self.pair(at + offset);
            // SAFETY: 1. inside the vector.
            ticks.push(unsafe { super::kernel::x86::probe(from, piece) });
        }
        ticks
    }
}
