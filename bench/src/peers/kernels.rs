//! Copy kernels to choose from by hand, and glibc's memcpy. See `shims/kernels.c`.
#![expect(unsafe_code, reason = "calls the shim; `every_kernel_copies` below runs each")]

use super::shim;
use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

shim!("kernels" {
    fn tg_has_avx512() -> c_int;
    fn tg_has_avx2() -> c_int;
    fn tg_rep_movsb(to: *mut c_void, from: *const c_void, n: usize);
    fn tg_nt_avx512(to: *mut c_void, from: *const c_void, n: usize);
    fn tg_nt_avx2(to: *mut c_void, from: *const c_void, n: usize);
});

/// A copy of `n` bytes, `to` aligned to 64, `n` a multiple of 256 (memcpy and rep movsb: anything).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// glibc's memcpy.
    Memcpy,
    /// `rep movsb`.
    RepMovsb,
    /// Non-temporal stores of 64 bytes.
    NtAvx512,
    /// Non-temporal stores of 32 bytes.
    NtAvx2,
}

impl Kernel {
    /// Those that this CPU and this build have; memcpy always.
    pub fn all() -> Vec<Kernel> {
        let mut all = vec![Kernel::Memcpy];
        if cfg!(feature = "kernels") {
            all.push(Kernel::RepMovsb);
            // SAFETY: 1. asks the CPU; built in (the feature is on).
            if unsafe { ffi::tg_has_avx512() } != 0 {
                all.push(Kernel::NtAvx512);
            }
            // SAFETY: 1. as above.
            if unsafe { ffi::tg_has_avx2() } != 0 {
                all.push(Kernel::NtAvx2);
            }
        }
        all
    }

    /// Its name in a series.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Memcpy => "memcpy",
            Kernel::RepMovsb => "rep-movsb",
            Kernel::NtAvx512 => "nt-avx512",
            Kernel::NtAvx2 => "nt-avx2",
        }
    }

    /// Copies block after block, `n` of them.
    pub fn run(self, arena: &mut Arena, walk: &mut Walk<'_>, n: u64) {
        let len = walk.blocks.len;
        match self {
            // SAFETY: 1. `each` hands in blocks inside two distinct mappings (so they don't overlap).
            Kernel::Memcpy => arena.each(walk, n, |to, from| unsafe {
                libc::memcpy(to.cast(), from.cast(), len);
            }),
            // SAFETY: 1. as above. 2. built in, or `all` would not have named it.
            Kernel::RepMovsb => arena.each(walk, n, |to, from| unsafe {
                ffi::tg_rep_movsb(to.cast(), from.cast(), len);
            }),
            // SAFETY: 1. 2. as above. 3. `Blocks` are aligned to 64, and `copy` asks for multiples of 256 only.
            Kernel::NtAvx512 => arena.each(walk, n, |to, from| unsafe {
                ffi::tg_nt_avx512(to.cast(), from.cast(), len);
            }),
            // SAFETY: 1. 2. 3. as above.
            Kernel::NtAvx2 => arena.each(walk, n, |to, from| unsafe {
                ffi::tg_nt_avx2(to.cast(), from.cast(), len);
            }),
        }
    }
}

/// Two mappings of anonymous memory, a source and a destination, on transparent huge pages where they are to be had.
#[derive(Debug)]
pub struct Arena {
    from: NonNull<u8>,
    to: NonNull<u8>,
    len: usize,
}

impl Arena {
    /// Both of `len` bytes, touched.
    pub fn new(len: usize) -> Option<Arena> {
        let map = |byte: u8| {
            let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: 1. a fresh mapping, of nobody else.
            let base = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
            let base = NonNull::new(base.cast::<u8>()).filter(|b| b.as_ptr().cast() != libc::MAP_FAILED)?;
            // SAFETY: 1. advice on our own mapping; refusal does no harm.
            unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
            // SAFETY: 1. `len` bytes of our own mapping.
            unsafe { std::ptr::write_bytes(base.as_ptr(), byte, len) };
            Some(base)
        };
        Some(Arena { from: map(0x5a)?, to: map(0)?, len })
    }

    /// Bytes of each.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Blocks of `len` bytes at these offsets, checked: inside, and aligned to 64. `None`: one is not, or there is none.
    pub fn blocks(&self, offsets: Vec<(usize, usize)>, len: usize) -> Option<Blocks> {
        let inside = |at: usize| at % 64 == 0 && at.checked_add(len).is_some_and(|end| end <= self.len);
        let all = !offsets.is_empty() && offsets.iter().all(|(from, to)| inside(*from) && inside(*to));
        all.then_some(Blocks { offsets, len, arena: self.len })
    }

    /// Calls `copy(to, from)` for the next `n` blocks.
    #[inline(always)]
    pub fn each(&mut self, walk: &mut Walk<'_>, n: u64, mut copy: impl FnMut(*mut u8, *const u8)) {
        assert!(walk.blocks.arena <= self.len, "blocks of a larger arena");
        let (from, to) = (self.from.as_ptr(), self.to.as_ptr());
        let offsets = &walk.blocks.offsets[..];
        let mut left = usize::try_from(n).unwrap_or(usize::MAX);
        while left > 0 {
            let some = &offsets[walk.at..];
            let some = &some[..some.len().min(left)];
            for (a, b) in some {
                copy(to.wrapping_add(*b), from.wrapping_add(*a));
            }
            left -= some.len();
            walk.at = (walk.at + some.len()) % offsets.len();
        }
    }
}

/// Offsets of a source and a destination each, checked against an arena.
#[derive(Debug)]
pub struct Blocks {
    offsets: Vec<(usize, usize)>,
    len: usize,
    arena: usize,
}

/// Goes through blocks again and again; a call goes on where the last one ended, so that cold blocks stay cold.
#[derive(Debug)]
pub struct Walk<'a> {
    blocks: &'a Blocks,
    at: usize,
}

impl Blocks {
    /// From the first one on.
    pub fn walk(&self) -> Walk<'_> {
        Walk { blocks: self, at: 0 }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for base in [self.from, self.to] {
            // SAFETY: 1. mapped by `new` with this length; nothing points into it any more.
            unsafe { libc::munmap(base.as_ptr().cast(), self.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_copies() {
        for kernel in Kernel::all() {
            let mut arena = Arena::new(1 << 16).unwrap();
            let blocks = arena.blocks(vec![(0, 256)], 1024).unwrap();
            kernel.run(&mut arena, &mut blocks.walk(), 1);
            let mut seen = [0; 3];
            for (byte, at) in seen.iter_mut().zip([255, 256, 1279]) {
                // SAFETY: 1. inside the arena's 64 KiB.
                *byte = unsafe { arena.to.as_ptr().wrapping_add(at).read() };
            }
            assert_eq!(seen, [0, 0x5a, 0x5a], "{kernel:?}");
        }
    }

    #[test]
    fn blocks_lie_inside_and_a_walk_goes_on() {
        let mut arena = Arena::new(1 << 16).unwrap();
        assert!(arena.blocks(vec![(0, (1 << 16) - 64)], 128).is_none());
        assert!(arena.blocks(vec![(1, 0)], 64).is_none());
        let blocks = arena.blocks(vec![(0, 0), (64, 64), (128, 128)], 64).unwrap();
        let (mut walk, mut seen, base) = (blocks.walk(), Vec::new(), arena.to.as_ptr() as usize);
        for n in [2, 5, 1] {
            arena.each(&mut walk, n, |to, _| seen.push((to as usize - base) / 64));
        }
        assert_eq!(seen, [0, 1, 2, 0, 1, 2, 0, 1]);
    }
}
