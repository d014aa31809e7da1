//! Every kernel against bytes: lengths, alignments, overlap, and pages that must not be touched.

use super::*;
use proptest::prelude::*;

/// Bytes that differ from their neighbours.
fn noise(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8).wrapping_add(seed)).collect()
}

fn available() -> impl Iterator<Item = Kernel> {
    Kernel::ALL.into_iter().filter(|k| k.is_available())
}

/// Copies with `copy` between two blocks, each with a margin that must stay.
fn check(copy: &mut dyn FnMut(*const u8, *mut u8, usize), from_at: usize, to_at: usize, len: usize) {
    const MARGIN: usize = 96;
    let from = noise(from_at + len + MARGIN, 7);
    let mut to = noise(to_at + len + MARGIN, 99);
    let mut expected = to.clone();
    expected[to_at..to_at + len].copy_from_slice(&from[from_at..from_at + len]);
    copy(from[from_at..].as_ptr(), to[to_at..].as_mut_ptr(), len);
    store_fence();
    assert!(to == expected, "{len} bytes from +{from_at} to +{to_at}");
}

#[test]
fn every_kernel_copies_every_length_and_alignment() {
    for kernel in available() {
        // SAFETY: 1. `check` gives it bytes of its vectors.
        let mut copy = |from, to, len| unsafe { kernel.copy(from, to, len) };
        for len in (0..=300).chain([511, 512, 513, 2047, 2048, 2049, 4095, 4096, 4097]) {
            check(&mut copy, 0, 0, len);
            check(&mut copy, 3, 61, len);
        }
        for at in 0..64 {
            for len in [1, 63, 64, 65, 255, 256, 257, 319, 320, 700, 4096 + 65] {
                check(&mut copy, at, 0, len);
                check(&mut copy, 0, at, len);
                check(&mut copy, at, 63 - at, len);
            }
        }
        // Around the group of four pages.
        for len in [16_383, 16_384, 16_385, 16_384 + 63, 16_384 + 320, 32_768, 40_000, 81_920 + 255] {
            for at in [0, 1, 63] {
                check(&mut copy, at, 0, len);
                check(&mut copy, 0, at, len);
            }
        }
    }
}

#[test]
fn blocks_that_overlap_are_moved_as_by_memmove() {
    for kernel in available() {
        for len in [1, 8, 64, 65, 300, 4096, 20_000] {
            for shift in [0, 1, 7, 63, 64, 65, 256, len / 2, len - 1] {
                for forward in [true, false] {
                    let mut bytes = noise(len + shift, 1);
                    let (from, to) = if forward { (0, shift) } else { (shift, 0) };
                    let mut expected = bytes.clone();
                    expected.copy_within(from..from + len, to);
                    let base = bytes.as_mut_ptr();
                    // SAFETY: 1. both blocks are inside the vector.
                    unsafe { kernel.copy(base.wrapping_add(from), base.wrapping_add(to), len) };
                    store_fence();
                    assert!(bytes == expected, "{kernel:?} {len} {shift} {forward}");
                }
            }
        }
    }
}

/// Two blocks of `pages` pages, each between two pages that fault.
struct Guarded {
    base: *mut u8,
    pages: usize,
}

const PAGE: usize = 4096;

impl Guarded {
    fn new(pages: usize) -> Guarded {
        let len = (pages + 2) * PAGE;
        // SAFETY: 1. a new mapping, wherever the kernel wants it.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(base, libc::MAP_FAILED);
        let base = base.cast::<u8>();
        let inner = base.wrapping_add(PAGE).cast();
        // SAFETY: 1. pages of the mapping just made.
        let failed = unsafe { libc::mprotect(inner, pages * PAGE, libc::PROT_READ | libc::PROT_WRITE) };
        assert_eq!(failed, 0);
        Guarded { base, pages }
    }

    fn start(&self) -> *mut u8 {
        self.base.wrapping_add(PAGE)
    }

    fn end(&self) -> *mut u8 {
        self.start().wrapping_add(self.pages * PAGE)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: 1. the mapping is ours, and nobody uses it any more.
        unsafe { libc::munmap(self.base.cast(), (self.pages + 2) * PAGE) };
    }
}

#[test]
fn no_kernel_touches_a_byte_outside() {
    let (from, to) = (Guarded::new(20), Guarded::new(20));
    let lengths = (1..=260).chain([1023, 1024, 2048, 4096, 5000, 16_384, 16_385, 40_000, 81_920]);
    for len in lengths {
        for kernel in available() {
            // SAFETY: 1. the last, then the first `len` bytes of the pages.
            unsafe { kernel.copy(from.end().wrapping_sub(len), to.end().wrapping_sub(len), len) };
            // SAFETY: 1. as above.
            unsafe { kernel.copy(from.start(), to.start(), len) };
            // SAFETY: 1. as above.
            unsafe { kernel.copy(from.end().wrapping_sub(len), to.start(), len) };
        }
        for stream in [false, true] {
            // SAFETY: 1. as above.
            unsafe { kernel::fill(to.end().wrapping_sub(len), len, 1, stream) };
            // SAFETY: 1. as above.
            unsafe { kernel::fill(to.start(), len, 1, stream) };
        }
        let mut copier = Copier::with(Table::detect());
        // SAFETY: 1. as above.
        unsafe { copier.copy(from.end().wrapping_sub(len), to.end().wrapping_sub(len), len) };
        copier.publish();
    }
    store_fence();
}

#[test]
fn a_fill_repeats_its_pattern_from_the_first_byte() {
    let pattern = 0x0807_0605_0403_0201_u64;
    for stream in [false, true] {
        for len in (0..=200).chain(1020..1100).chain([4096, 4099, 20_001]) {
            for at in [0, 1, 5, 8, 63] {
                let mut bytes = noise(at + len + 70, 3);
                let mut expected = bytes.clone();
                for (i, byte) in expected[at..at + len].iter_mut().enumerate() {
                    *byte = pattern.to_le_bytes()[i % 8];
                }
                // SAFETY: 1. inside the vector.
                unsafe { kernel::fill(bytes.as_mut_ptr().wrapping_add(at), len, pattern, stream) };
                store_fence();
                assert!(bytes == expected, "{len} bytes at +{at}, {stream}");
            }
        }
    }
}

#[test]
fn a_table_holds_only_kernels_that_the_cpu_has() {
    for table in [Table::plain(), Table::detect(), Table::measure(), *Copier::default().table()] {
        for kernel in table.hot.iter().chain(&table.cold) {
            assert!(kernel.is_available());
        }
        assert_eq!(table.kernel(SMALLEST - 1, false), Kernel::Plain);
        assert!(table.to_string().starts_with("below 4 KiB: memmove\nhot, from 4 KiB: "));
    }
    for kernel in Kernel::ALL.into_iter().filter(|k| !k.is_available()) {
        assert_eq!(Table::plain().hot(kernel).cold(kernel), Table::plain());
    }
}

#[test]
fn classes_begin_at_powers_of_two_and_end_with_the_last() {
    let classes = [4096, 8191, 8192, 16_383, 16_384, 4 << 20, (4 << 20) + 1, usize::MAX].map(class);
    assert_eq!(classes, [0, 0, 1, 1, 2, CLASSES - 1, CLASSES - 1, CLASSES - 1]);
}

#[cfg(target_arch = "x86_64")]
fn two_rows(threshold: Option<u64>) -> Copier {
    Copier::with(Table { threshold, ..Table::plain().cold(Kernel::Repeat) })
}

#[cfg(target_arch = "x86_64")]
fn choose(copier: &mut Copier, len: usize) -> Kernel {
    let (from, mut to) = (vec![0_u8; len], vec![0_u8; len]);
    // SAFETY: 1. both blocks are ours.
    unsafe { copier.choose(from.as_ptr(), to.as_mut_ptr(), len) }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_row_is_the_callers_or_that_of_two_looks() {
    // Everything takes longer than no tick, nothing longer than all of them.
    let (slow, fast) = (Some(0), Some(u64::MAX));
    let len = LOOKED;
    assert_eq!(choose(&mut two_rows(None), len), Kernel::Plain);
    assert_eq!(choose(&mut two_rows(None).temporal(Temporal::Cold), len), Kernel::Repeat);
    assert_eq!(choose(&mut two_rows(slow).temporal(Temporal::Hot), len), Kernel::Plain);
    let mut copier = two_rows(slow);
    let look = |copier: &mut Copier, threshold| {
        copier.table.threshold = threshold;
        choose(copier, len)
    };
    assert_eq!(look(&mut copier, slow), Kernel::Plain, "one slow look is nothing");
    assert_eq!(look(&mut copier, fast), Kernel::Plain);
    assert_eq!(look(&mut copier, slow), Kernel::Plain, "nor are two with a fast one between them");
    assert_eq!(look(&mut copier, slow), Kernel::Repeat);
    assert_eq!(look(&mut copier, fast), Kernel::Repeat, "nor is one fast look");
    assert_eq!(look(&mut copier, slow), Kernel::Repeat);
    assert_eq!(look(&mut copier, fast), Kernel::Repeat);
    assert_eq!(look(&mut copier, fast), Kernel::Plain);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn looks_come_at_the_first_two_copies_then_at_as_many_bytes() {
    let mut copier = two_rows(Some(0));
    let kernels: Vec<Kernel> = (0..3).map(|_| choose(&mut copier, 4096)).collect();
    assert_eq!(kernels, [Kernel::Plain, Kernel::Repeat, Kernel::Repeat], "cold from the second one on");
    // Fast from now on; the last look was at the copy before the last.
    copier.table.threshold = Some(u64::MAX);
    let until = (1..1000).find(|_| choose(&mut copier, 4096) == Kernel::Plain);
    // The one that doubts, and the next one, which settles it.
    assert_eq!(until, Some(LOOKED / 4096 - 1 + 1));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn blocks_that_overlap_are_given_to_memmove_whatever_the_row() {
    let len = LOOKED;
    let mut bytes = vec![0_u8; 2 * len];
    let at = bytes.as_mut_ptr();
    // SAFETY: 1. inside the vector.
    let kernel = unsafe { two_rows(None).temporal(Temporal::Cold).choose(at, at.wrapping_add(len - 1), len) };
    assert_eq!(kernel, Kernel::Plain);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_fence_is_due_after_non_temporal_stores_only_and_once() {
    let Some(stream) = available().find(|k| k.streams()) else { return };
    let (from, mut to) = (vec![1_u8; LOOKED], vec![0_u8; LOOKED]);
    for (temporal, due) in [(Temporal::Hot, false), (Temporal::Cold, true)] {
        let mut copier = Copier::with(Table::plain().cold(stream)).temporal(temporal);
        // SAFETY: 1. both blocks are ours.
        unsafe { copier.copy(from.as_ptr(), to.as_mut_ptr(), LOOKED) };
        assert_eq!(copier.streamed, due);
        copier.publish();
        assert!(!copier.streamed);
        // SAFETY: 1. as above.
        unsafe { copier.fill(to.as_mut_ptr(), LOOKED, 1) };
        assert_eq!(copier.streamed, due);
    }
}

proptest! {
    #[test]
    fn a_copier_copies_what_a_slice_copies(
        ops in prop::collection::vec((0_usize..70_000, 0_usize..70_000, 0_usize..70_000, any::<u8>()), 1..8),
    ) {
        let mut bytes = noise(140_000, 5);
        let mut expected = bytes.clone();
        for (from, to, len, how) in ops {
            let kernel = Kernel::ALL[usize::from(how) % Kernel::ALL.len()];
            let temporal = [Temporal::Auto, Temporal::Hot, Temporal::Cold][usize::from(how / 8) % 3];
            let mut copier = Copier::with(Table::detect().hot(kernel)).temporal(temporal);
            let base = bytes.as_mut_ptr();
            // SAFETY: 1. both blocks are inside the vector.
            unsafe { copier.copy(base.wrapping_add(from), base.wrapping_add(to), len) };
            copier.publish();
            expected.copy_within(from..from + len, to);
        }
        prop_assert!(bytes == expected);
    }
}
