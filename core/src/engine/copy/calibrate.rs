//! Measures the kernels on the machine at hand.
//!
//! The kernels take turns, and the least time of each counts: what disturbs a run only makes it longer, and what
//! lasts (a neighbour, a host that takes the CPU away) meets all of them and not one of them in all its runs.

use super::{CLASSES, Kernel, Table, class};

/// Turns of each kernel at each length.
const TURNS: usize = 5;
const HOT_LENGTHS: [usize; 6] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
const COLD_LENGTHS: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];

#[cfg(not(all(target_arch = "x86_64", not(loom))))]
pub(super) fn measure() -> Table {
    let _ =
        (TURNS, HOT_LENGTHS, COLD_LENGTHS, Kernel::ALL, threshold as fn(Vec<u64>, Vec<u64>) -> Option<u64>);
    let _ = serve as fn(&mut [Kernel; CLASSES], &[usize], &[Kernel], &mut dyn FnMut(Kernel, usize) -> u64);
    Table::plain()
}

#[cfg(all(target_arch = "x86_64", not(loom)))]
pub(super) fn measure() -> Table {
    let mut bench = bench::Bench::new();
    let mut table = Table::plain();
    let (stay, all): (Vec<Kernel>, Vec<Kernel>) = {
        let all = Kernel::ALL.into_iter().filter(|k| k.is_available());
        // Hot is what is to stay in the caches, and streams throw it out: whoever reads it next pays for that, and
        // these times don't show it.
        (all.clone().filter(|k| !k.streams()).collect(), all.collect())
    };
    serve(&mut table.hot, &HOT_LENGTHS, &stay, &mut |kernel, len| bench.hot(kernel, len));
    serve(&mut table.cold, &COLD_LENGTHS, &all, &mut |kernel, len| bench.cold(kernel, len));
    let (hot, cold) = bench.probes();
    table.threshold = threshold(hot, cold);
    table
}

/// Fills `row` with the best of `candidates` by `time`, from each of `lengths` (ascending) to the next one.
fn serve(
    row: &mut [Kernel; CLASSES],
    lengths: &[usize],
    candidates: &[Kernel],
    time: &mut dyn FnMut(Kernel, usize) -> u64,
) {
    for len in lengths {
        let mut least: Vec<(Kernel, u64)> = candidates.iter().map(|kernel| (*kernel, u64::MAX)).collect();
        for _ in 0..TURNS {
            for (kernel, least) in &mut least {
                *least = (*least).min(time(*kernel, *len));
            }
        }
        let best = best(&least);
        // Longer ones too, until measured.
        row.iter_mut().skip(class(*len)).for_each(|kernel| *kernel = best);
    }
}

/// The first one that no other one beats by more than a sixty-fourth: below that it is noise, and the order is that of
/// [`Kernel::ALL`], `memmove` first.
fn best(times: &[(Kernel, u64)]) -> Kernel {
    let least = times.iter().map(|(_, time)| *time).min().unwrap_or(u64::MAX);
    let near = least.saturating_add(least / 64);
    times.iter().find(|(_, time)| *time <= near).map_or(Kernel::Plain, |(kernel, _)| *kernel)
}

/// Three quarters of the way from what a look takes at a cached block to what it takes where no cache has it: a block
/// in a shared last level is not cold (stores past the caches took twice the time there), and right after
/// non-temporal stores a cached one may take a few times as long as else. The lower quartile of the cold ones: a
/// busy memory makes them slower, and later it may be idle. `None` where the two are too near each other to tell.
fn threshold(mut hot: Vec<u64>, mut cold: Vec<u64>) -> Option<u64> {
    hot.sort_unstable();
    cold.sort_unstable();
    let (hot, cold) = (hot.get(hot.len() / 2)?, cold.get(cold.len() / 4)?);
    let hot = (*hot).max(1);
    (*cold > 2 * hot).then(|| hot + (cold - hot) / 4 * 3)
}

#[cfg(all(target_arch = "x86_64", not(loom)))]
mod bench {
    use super::super::kernel::x86::{flush, probe};
    use super::super::{Kernel, store_fence};
    use std::alloc::Layout;
    use std::time::Instant;

    /// Bytes of each of the two blocks.
    const BLOCK: usize = 4 << 20;
    /// Bytes of a cold run, and of a hot one at least.
    const RUN: usize = 256 << 10;

    /// Two blocks at huge pages where the kernel gives some, as a data plane's memory is.
    pub(super) struct Bench {
        from: Block,
        to: Block,
    }

    struct Block(*mut u8);

    impl Block {
        /// At a huge page.
        const LAYOUT: Layout = match Layout::from_size_align(BLOCK, 2 << 20) {
            Ok(layout) => layout,
            Err(_) => panic!("not a power of two"),
        };

        /// Touched.
        fn new(byte: u8) -> Block {
            // SAFETY: 1. of a size other than 0.
            let base = unsafe { std::alloc::alloc(Block::LAYOUT) };
            if base.is_null() {
                std::alloc::handle_alloc_error(Block::LAYOUT);
            }
            // SAFETY: 1. whole pages of our own. Advice only: a refusal costs nothing but small pages.
            unsafe { libc::madvise(base.cast(), BLOCK, libc::MADV_HUGEPAGE) };
            // SAFETY: 1. BLOCK bytes of our own.
            unsafe { base.write_bytes(byte, BLOCK) };
            Block(base)
        }
    }

    impl Drop for Block {
        fn drop(&mut self) {
            // SAFETY: 1. allocated by `new` with this layout; nobody uses it any more.
            unsafe { std::alloc::dealloc(self.0, Block::LAYOUT) };
        }
    }

    impl Bench {
        pub(super) fn new() -> Bench {
            Bench { from: Block::new(1), to: Block::new(2) }
        }

        fn pair(&mut self, at: usize) -> (*const u8, *mut u8) {
            (self.from.0.wrapping_add(at), self.to.0.wrapping_add(at))
        }

        /// Nanoseconds on the same bytes again and again.
        pub(super) fn hot(&mut self, kernel: Kernel, len: usize) -> u64 {
            let (from, to) = self.pair(0);
            // SAFETY: 1. `len <= BLOCK`, and the blocks are ours.
            let copy = || unsafe { kernel.copy(from, to, len) };
            copy();
            let begun = Instant::now();
            for _ in 0..(RUN / len).max(1) {
                copy();
            }
            begun.elapsed().as_nanos() as u64
        }

        /// Nanoseconds for [`RUN`] bytes in copies of `len` that lie apart, so that no prefetcher comes from one into
        /// the next. From no cache, and back out of the caches: a line that a copy leaves changed has to be written
        /// back later, in the time of others.
        pub(super) fn cold(&mut self, kernel: Kernel, len: usize) -> u64 {
            let places: Vec<usize> = (0..RUN / len).map(|i| i * (BLOCK / RUN) * len).collect();
            for at in &places {
                self.flush(*at, len);
            }
            let begun = Instant::now();
            for at in &places {
                let (from, to) = self.pair(*at);
                // SAFETY: 1. `at + len <= BLOCK`, as `len` divides RUN.
                unsafe { kernel.copy(from, to, len) };
            }
            store_fence();
            for at in &places {
                let (_, to) = self.pair(*at);
                // SAFETY: 1. inside the block, as above.
                unsafe { flush(to, len) };
            }
            begun.elapsed().as_nanos() as u64
        }

        /// A part of both blocks that no cache has.
        fn flush(&mut self, at: usize, len: usize) {
            let (from, to) = self.pair(at);
            // SAFETY: 1. inside the block: the callers' `at + len <= BLOCK`.
            unsafe { flush(from, len) };
            // SAFETY: 1. as above.
            unsafe { flush(to, len) };
        }

        /// Ticks of looks at pieces of 8 KiB: when they are cached, and when no cache has them.
        pub(super) fn probes(&mut self) -> (Vec<u64>, Vec<u64>) {
            const PIECE: usize = RUN / 32;
            self.flush(0, RUN);
            let mut looks = || -> Vec<u64> {
                let (from, _) = self.pair(0);
                // To and fro: in order, a prefetcher would see them coming.
                let places = (0..32_u8).map(|i| usize::from(i.reverse_bits() >> 3) * PIECE);
                // SAFETY: 1. `32 * PIECE` is RUN, inside the block.
                places.map(|at| unsafe { probe(from.wrapping_add(at), PIECE) }).collect()
            };
            let cold = looks();
            // The same lines once more.
            (looks(), cold)
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ALL: [Kernel; 6] = Kernel::ALL;

    #[test]
    fn the_fastest_serves_and_memmove_where_it_is_as_good() {
        let times = |t: [u64; 6]| -> Vec<(Kernel, u64)> { ALL.into_iter().zip(t).collect() };
        assert_eq!(best(&times([100, 99, 100, 101, 99, 200])), Kernel::Plain);
        assert_eq!(best(&times([100, 96, 200, 200, 200, 200])), Kernel::Repeat);
        assert_eq!(best(&times([1550, 1400, 1010, 1000, 1040, 1200])), Kernel::Stream256);
        assert_eq!(best(&times([1550, 1400, 1100, 1200, 1040, 1000])), Kernel::Spread512);
        assert_eq!(best(&times([0; 6])), Kernel::Plain);
        assert_eq!(best(&times([u64::MAX; 6])), Kernel::Plain);
        assert_eq!(best(&[]), Kernel::Plain);
    }

    #[test]
    fn a_length_serves_until_the_next_one() {
        let mut row = [Kernel::Plain; CLASSES];
        let mut time = |kernel, len| match (kernel, len) {
            (Kernel::Stream256, 16_384..) => 50,
            (Kernel::Repeat, ..16_384) => 60,
            _ => 100,
        };
        serve(&mut row, &[4 << 10, 16 << 10, 64 << 10], &ALL, &mut time);
        assert_eq!(row[..3], [Kernel::Repeat, Kernel::Repeat, Kernel::Stream256]);
        assert!(row[2..].iter().all(|kernel| *kernel == Kernel::Stream256));
    }

    #[test]
    fn what_disturbs_a_few_runs_in_a_row_changes_nothing() {
        for disturbed in 0..ALL.len() * (TURNS - 1) {
            let mut row = [Kernel::Plain; CLASSES];
            let mut run = 0;
            let mut time = |kernel, _| {
                run += 1;
                let took = if kernel == Kernel::Stream512 { 500 } else { 1000 };
                // As many runs as four turns have: one is left to each.
                if (disturbed..disturbed + ALL.len() * (TURNS - 1)).contains(&run) { 20 * took } else { took }
            };
            serve(&mut row, &[4 << 10], &ALL, &mut time);
            assert_eq!(row[0], Kernel::Stream512, "from run {disturbed} on");
        }
    }

    #[test]
    fn cold_is_near_what_an_idle_memory_takes() {
        assert_eq!(threshold(vec![52; 8], vec![452; 8]), Some(352));
        // An interrupt in each, and a memory that was busy half of the time.
        let busy = vec![452, 4000, 452, 900, 452, 950, 900, 452, 90_000];
        assert_eq!(threshold(vec![52, 26, 52, 9000, 52], busy), Some(352));
        assert_eq!(threshold(vec![52; 8], vec![104; 8]), None, "no telling apart");
        assert_eq!(threshold(vec![0; 8], vec![0; 8]), None);
        assert_eq!(threshold(vec![], vec![]), None);
    }
}
