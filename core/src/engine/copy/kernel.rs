//! The instructions that move bytes. Raw pointers in, nothing else: the memory may be a device's too.
#![expect(
    unsafe_code,
    reason = "copies by address; copy/tests.rs runs every kernel against bytes, and against guard pages"
)]

/// Bytes of a line, and what a non-temporal store must be aligned to.
const LINE: usize = 64;
/// Hardware prefetchers stop at its end.
const PAGE: usize = 4096;

/// `memmove`: what libc picks for this machine. Overlap is allowed.
///
/// # Safety
/// K1: `from..from + len` may be read and `to..to + len` written, no Rust reference points into them.
#[inline(always)]
pub(super) unsafe fn plain(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: 1. K1.
    unsafe { std::ptr::copy(from, to, len) }
}

/// # Safety
/// K1.
#[inline(always)]
unsafe fn step_on(from: *const u8, to: *mut u8, by: usize) -> (*const u8, *mut u8) {
    // SAFETY: 1. K1 for at least `by` bytes.
    let from = unsafe { from.add(by) };
    // SAFETY: 1. K1 for at least `by` bytes.
    (from, unsafe { to.add(by) })
}

/// Bytes before `to` is at a line.
#[inline(always)]
fn head(to: *const u8, len: usize) -> usize {
    ((to as usize).wrapping_neg() % LINE).min(len)
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::{LINE, PAGE, plain, step_on};
    use std::arch::asm;

    /// `rep movsb`: microcode moves whole lines where the CPU has "enhanced rep movsb".
    ///
    /// # Safety
    /// K1, and the two do not overlap.
    #[inline]
    pub(in super::super) unsafe fn repeat(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: 1. K1. 2. the ABI has the direction flag clear.
        unsafe {
            asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len => _,
                options(nostack, preserves_flags));
        }
    }

    /// Where the lines of a copy past the caches come from and go to: four of them `stride` bytes apart, `times`
    /// times, each time `step` bytes further on. Unless `ahead` is 0, the four lines that begin so many bytes further
    /// on in the source are fetched meanwhile, and where a page of the destination begins one line of a page further
    /// on, so that its address is translated before a store waits for it. A fetch never faults.
    #[derive(Clone, Copy)]
    struct Walk {
        stride: usize,
        step: usize,
        times: usize,
        ahead: usize,
    }

    impl Walk {
        /// The bits of a destination that are all 0 in the first four lines of a page.
        fn within_page(&self) -> usize {
            if self.ahead == 0 { usize::MAX } else { PAGE - 4 * LINE }
        }
    }

    type Lines = unsafe fn(*const u8, *mut u8, Walk);

    /// # Safety
    /// K1 for `3 * stride + (times - 1) * step + 64` bytes; AVX-512F; `to`, `stride` and `step` are multiples of 64;
    /// `times > 0`.
    unsafe fn lines512(from: *const u8, to: *mut u8, walk: Walk) {
        let Walk { stride, step, times, ahead } = walk;
        let (from3, to3) = (from.wrapping_add(3 * stride), to.wrapping_add(3 * stride));
        // SAFETY: 1. the caller's promises: all loads and stores are inside the four streams. 2. xmm0-15 name the
        // whole registers: `vzeroupper`, which leaves no dirty upper halves, clears those of all sixteen.
        unsafe {
            asm!(
                "2:",
                "prefetcht0 [{s} + {a}]",
                "prefetcht0 [{s} + {a} + 64]",
                "prefetcht0 [{s} + {a} + 128]",
                "prefetcht0 [{s} + {a} + 192]",
                "test {d}, {m}",
                "jnz 3f",
                "prefetcht0 [{d} + {a}]",
                "3:",
                "vmovdqu64 zmm0, [{s}]",
                "vmovdqu64 zmm1, [{s} + {k}]",
                "vmovdqu64 zmm2, [{s} + 2*{k}]",
                "vmovdqu64 zmm3, [{s3}]",
                "vmovntdq [{d}], zmm0",
                "vmovntdq [{d} + {k}], zmm1",
                "vmovntdq [{d} + 2*{k}], zmm2",
                "vmovntdq [{d3}], zmm3",
                "add {s}, {p}",
                "add {s3}, {p}",
                "add {d}, {p}",
                "add {d3}, {p}",
                "dec {n}",
                "jnz 2b",
                "vzeroupper",
                s = inout(reg) from => _, s3 = inout(reg) from3 => _,
                d = inout(reg) to => _, d3 = inout(reg) to3 => _,
                k = in(reg) stride, p = in(reg) step, a = in(reg) ahead,
                m = in(reg) walk.within_page(), n = inout(reg) times => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nostack),
            );
        }
    }

    /// # Safety
    /// As [`lines512`], with AVX2.
    unsafe fn lines256(from: *const u8, to: *mut u8, walk: Walk) {
        let Walk { stride, step, times, ahead } = walk;
        let (from3, to3) = (from.wrapping_add(3 * stride), to.wrapping_add(3 * stride));
        // SAFETY: 1. as in `lines512`, two halves a line.
        unsafe {
            asm!(
                "2:",
                "prefetcht0 [{s} + {a}]",
                "prefetcht0 [{s} + {a} + 64]",
                "prefetcht0 [{s} + {a} + 128]",
                "prefetcht0 [{s} + {a} + 192]",
                "test {d}, {m}",
                "jnz 3f",
                "prefetcht0 [{d} + {a}]",
                "3:",
                "vmovdqu ymm0, [{s}]",
                "vmovdqu ymm1, [{s} + 32]",
                "vmovdqu ymm2, [{s} + {k}]",
                "vmovdqu ymm3, [{s} + {k} + 32]",
                "vmovdqu ymm4, [{s} + 2*{k}]",
                "vmovdqu ymm5, [{s} + 2*{k} + 32]",
                "vmovdqu ymm6, [{s3}]",
                "vmovdqu ymm7, [{s3} + 32]",
                "vmovntdq [{d}], ymm0",
                "vmovntdq [{d} + 32], ymm1",
                "vmovntdq [{d} + {k}], ymm2",
                "vmovntdq [{d} + {k} + 32], ymm3",
                "vmovntdq [{d} + 2*{k}], ymm4",
                "vmovntdq [{d} + 2*{k} + 32], ymm5",
                "vmovntdq [{d3}], ymm6",
                "vmovntdq [{d3} + 32], ymm7",
                "add {s}, {p}",
                "add {s3}, {p}",
                "add {d}, {p}",
                "add {d3}, {p}",
                "dec {n}",
                "jnz 2b",
                "vzeroupper",
                s = inout(reg) from => _, s3 = inout(reg) from3 => _,
                d = inout(reg) to => _, d3 = inout(reg) to3 => _,
                k = in(reg) stride, p = in(reg) step, a = in(reg) ahead,
                m = in(reg) walk.within_page(), n = inout(reg) times => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nostack),
            );
        }
    }

    /// Copies past the caches, with `lines`. Up to `groups` groups of four pages a line of each page in turn: each page
    /// has a prefetcher of its own, and they all begin at once. The rest in order, the source fetched a page ahead:
    /// hardware stops at the end of a page. Behind the block, what is fetched are the `more` bytes that come next.
    ///
    /// # Safety
    /// K1; no overlap; the CPU has what `lines` needs.
    unsafe fn stream(from: *const u8, to: *mut u8, len: usize, lines: Lines, groups: usize, more: usize) {
        const GROUP: Walk = Walk { stride: PAGE, step: LINE, times: PAGE / LINE, ahead: 0 };
        const ORDER: Walk = Walk { stride: LINE, step: 4 * LINE, times: 0, ahead: 0 };
        let head = super::head(to, len);
        // SAFETY: 1. K1: `head <= len`.
        unsafe { plain(from, to, head) };
        // SAFETY: 1. K1: `head <= len`.
        let (mut from, mut to) = unsafe { step_on(from, to, head) };
        let mut left = len - head;
        let groups = std::iter::repeat_n(GROUP, (left / (4 * PAGE)).min(groups));
        let left_in_order = left - groups.len() * 4 * PAGE;
        let ahead = (left_in_order + more.min(PAGE)).saturating_sub(PAGE) / (4 * LINE);
        let ahead = Walk { times: ahead, ahead: PAGE, ..ORDER };
        let last = Walk { times: (left_in_order - ahead.times * 4 * LINE) / (4 * LINE), ..ORDER };
        for walk in groups.chain([ahead, last]).filter(|walk| walk.times > 0) {
            // SAFETY: 1. K1: `times` times four lines are left, and those are what it covers. 2. `to` is at a line, and
            // stays so. 3. the caller's promise of the CPU.
            unsafe { lines(from, to, walk) };
            // SAFETY: 1. K1, as above.
            (from, to) = unsafe { step_on(from, to, walk.times * 4 * LINE) };
            left -= walk.times * 4 * LINE;
        }
        // SAFETY: 1. K1: what is left.
        unsafe { plain(from, to, left) };
    }

    /// # Safety
    /// K1; no overlap; AVX-512F.
    pub(in super::super) unsafe fn stream512(from: *const u8, to: *mut u8, len: usize, more: usize) {
        // SAFETY: 1. the caller's promises.
        unsafe { stream(from, to, len, lines512, 0, more) }
    }

    /// # Safety
    /// K1; no overlap; AVX2.
    pub(in super::super) unsafe fn stream256(from: *const u8, to: *mut u8, len: usize, more: usize) {
        // SAFETY: 1. the caller's promises.
        unsafe { stream(from, to, len, lines256, 0, more) }
    }

    /// # Safety
    /// K1; no overlap; AVX-512F.
    pub(in super::super) unsafe fn spread512(from: *const u8, to: *mut u8, len: usize, more: usize) {
        // SAFETY: 1. the caller's promises.
        unsafe { stream(from, to, len, lines512, usize::MAX, more) }
    }

    /// # Safety
    /// K1; no overlap; AVX2.
    pub(in super::super) unsafe fn spread256(from: *const u8, to: *mut u8, len: usize, more: usize) {
        // SAFETY: 1. the caller's promises.
        unsafe { stream(from, to, len, lines256, usize::MAX, more) }
    }

    /// Repeats an 8-byte word by `rep stosq`.
    ///
    /// # Safety
    /// `to..to + 8 * words` may be written.
    pub(super) unsafe fn repeat_word(to: *mut u8, words: usize, word: u64) {
        // SAFETY: 1. the caller's promise. 2. the ABI has the direction flag clear.
        unsafe {
            asm!("rep stosq", inout("rdi") to => _, inout("rcx") words => _, in("rax") word,
                options(nostack, preserves_flags));
        }
    }

    /// Fills whole lines past the caches.
    ///
    /// # Safety
    /// `to..to + 64 * lines` may be written, `to` is at a line, `lines > 0`.
    pub(super) unsafe fn stream_word(to: *mut u8, lines: usize, word: u64) {
        // SAFETY: 1. the caller's promise. 2. `movnti` is in every x86-64.
        unsafe {
            asm!(
                "2:",
                "movnti [{d}], {w}",
                "movnti [{d} + 8], {w}",
                "movnti [{d} + 16], {w}",
                "movnti [{d} + 24], {w}",
                "movnti [{d} + 32], {w}",
                "movnti [{d} + 40], {w}",
                "movnti [{d} + 48], {w}",
                "movnti [{d} + 56], {w}",
                "add {d}, 64",
                "dec {n}",
                "jnz 2b",
                d = inout(reg) to => _, w = in(reg) word, n = inout(reg) lines => _,
                options(nostack),
            );
        }
    }

    /// Orders non-temporal stores before every later store.
    #[inline(always)]
    pub(in super::super) fn store_fence() {
        // SAFETY: 1. a fence; SSE is in every x86-64.
        unsafe { asm!("sfence", options(nostack, preserves_flags)) };
    }

    /// Ticks that three loads spread over a block take. Of a source: copying past the caches leaves it cached, so
    /// the answer does not depend on how the last copy was made.
    ///
    /// # Safety
    /// `at..at + len` may be read; `len > 0`.
    #[inline(always)]
    pub(in super::super) unsafe fn probe(at: *const u8, len: usize) -> u64 {
        let (start, end): (u64, u64);
        // SAFETY: 1. loads of single bytes inside the block; `lfence` and `rdtsc` are in every x86-64.
        unsafe {
            asm!(
                "lfence", "rdtsc", "shl rdx, 32", "or rax, rdx", "mov {start}, rax",
                "movzx {a:e}, byte ptr [{s} + {i}]",
                "movzx {a:e}, byte ptr [{s} + 2*{i}]",
                "movzx {a:e}, byte ptr [{s} + {j}]",
                "lfence", "rdtsc", "shl rdx, 32", "or rax, rdx",
                start = out(reg) start, a = out(reg) _, s = in(reg) at, i = in(reg) len / 4,
                j = in(reg) len / 4 * 3, out("rax") end, out("rdx") _,
                options(nostack, readonly),
            );
        }
        end.wrapping_sub(start)
    }

    /// For calibration: writes the lines back and drops them from every cache.
    ///
    /// # Safety
    /// `at..at + len` is mapped.
    #[cfg(not(loom))]
    pub(in super::super) unsafe fn flush(at: *const u8, len: usize) {
        for offset in (0..len).step_by(LINE) {
            // SAFETY: 1. the caller's promise; no byte changes.
            unsafe {
                asm!("clflush [{}]", in(reg) at.wrapping_add(offset), options(nostack, preserves_flags))
            };
        }
        // SAFETY: 1. a fence.
        unsafe { asm!("mfence", options(nostack, preserves_flags)) };
    }
}

/// Repeats `pattern`, little-endian, from the first byte on. `stream`: past the caches (then a store fence is due).
///
/// # Safety
/// `to..to + len` may be written, no Rust reference points into it.
pub(super) unsafe fn fill(to: *mut u8, len: usize, pattern: u64, stream: bool) {
    if len < 1024 || !cfg!(target_arch = "x86_64") {
        // SAFETY: 1. the caller's promise.
        return unsafe { fill_words(to, len, pattern) };
    }
    #[cfg(target_arch = "x86_64")]
    {
        let head = head(to, len);
        // SAFETY: 1. `head < 64 <= len`.
        unsafe { fill_words(to, head, pattern) };
        // SAFETY: 1. `head <= len`.
        let at = unsafe { to.add(head) };
        let word = pattern.to_le().rotate_right(head as u32 % 8 * 8);
        let lines = (len - head) / LINE;
        if stream {
            // SAFETY: 1. `head + 64 * lines <= len`; `at` is at a line; at least one line, as `len >= 1024`.
            unsafe { x86::stream_word(at, lines, word) };
        } else {
            // SAFETY: 1. `head + 64 * lines <= len`.
            unsafe { x86::repeat_word(at, lines * 8, word) };
        }
        // SAFETY: 1. `head + 64 * lines <= len`.
        let rest = unsafe { at.add(lines * LINE) };
        // SAFETY: 1. what is left.
        unsafe { fill_words(rest, len - head - lines * LINE, u64::from_le(word)) };
    }
}

/// # Safety
/// As [`fill`].
unsafe fn fill_words(to: *mut u8, len: usize, pattern: u64) {
    for word in 0..len / 8 {
        // SAFETY: 1. `word * 8 + 8 <= len`.
        let at = unsafe { to.add(word * 8) }.cast::<u64>();
        // SAFETY: 1. in bounds, as above; unaligned is allowed.
        unsafe { at.write_unaligned(pattern.to_le()) };
    }
    for (i, byte) in (len & !7..len).zip(pattern.to_le_bytes()) {
        // SAFETY: 1. `i < len`.
        let at = unsafe { to.add(i) };
        // SAFETY: 1. in bounds.
        unsafe { at.write(byte) };
    }
}
