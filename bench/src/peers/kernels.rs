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

    /// Copies block after block of `len` bytes, `n` of them.
    pub fn run(self, arena: &mut Arena, blocks: &[(usize, usize)], len: usize, n: u64) {
        match self {
            // SAFETY: 1. `each` hands in blocks inside two distinct mappings (so they don't overlap).
            Kernel::Memcpy => arena.each(blocks, len, n, |to, from| unsafe {
                libc::memcpy(to.cast(), from.cast(), len);
            }),
            // SAFETY: 1. as above. 2. built in, or `all` would not have named it.
            Kernel::RepMovsb => arena.each(blocks, len, n, |to, from| unsafe {
                ffi::tg_rep_movsb(to.cast(), from.cast(), len);
            }),
            // SAFETY: 1. 2. as above. 3. `each` asserts alignment and length.
            Kernel::NtAvx512 => arena.each(blocks, len, n, |to, from| unsafe {
                ffi::tg_nt_avx512(to.cast(), from.cast(), len);
            }),
            // SAFETY: 1. 2. 3. as above.
            Kernel::NtAvx2 => arena.each(blocks, len, n, |to, from| unsafe {
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

    /// Calls `copy(to, from)` for `n` blocks, over `blocks` again and again; asserts once that all of them are inside.
    #[inline(always)]
    pub fn each(
        &mut self,
        blocks: &[(usize, usize)],
        len: usize,
        n: u64,
        mut copy: impl FnMut(*mut u8, *const u8),
    ) {
        let inside = |at: usize| at % 64 == 0 && at.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(
            blocks.iter().all(|(from, to)| inside(*from) && inside(*to)),
            "blocks of {len} inside the arena"
        );
        let (from, to) = (self.from.as_ptr(), self.to.as_ptr());
        let mut left = n;
        while left > 0 {
            for (a, b) in blocks.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                copy(to.wrapping_add(*b), from.wrapping_add(*a));
            }
            left = left.saturating_sub(blocks.len().max(1) as u64);
        }
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
            kernel.run(&mut arena, &[(0, 256)], 1024, 1);
            let mut seen = [0; 3];
            for (byte, at) in seen.iter_mut().zip([255, 256, 1279]) {
                // SAFETY: 1. inside the arena's 64 KiB.
                *byte = unsafe { arena.to.as_ptr().wrapping_add(at).read() };
            }
            assert_eq!(seen, [0, 0x5a, 0x5a], "{kernel:?}");
        }
    }
}
