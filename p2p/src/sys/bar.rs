//! A BAR in this process's address space, and volatile access to it.

use super::Errno;
use crate::backend::Registers;
use memmap2::{Advice, MmapOptions, MmapRaw};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

/// Two sizes that a page table can map in one entry.
const HUGE: [usize; 2] = [1 << 30, 2 << 20];

/// A mapped BAR: uncached, shared with the device, not inherited by a forked child.
///
/// A BAR of 2 MiB or more sits at an address aligned to 2 MiB (1 GiB from 1 GiB on), since VFIO itself picks
/// none and the kernel can then map it with huge entries. Nothing is pre-faulted: the first access to each
/// page (or huge page) costs a page fault.
///
/// While the device's memory is disabled an access raises SIGBUS; during a reset it sleeps in the page fault.
/// The mapping holds the device file open: drop every `Bar` of a function before closing it.
///
/// # Invariants
/// 1. `base .. base + len` is mapped readable and writable until `self` is dropped.
/// 2. `base` is page-aligned.
#[derive(Debug)]
pub struct Bar {
    base: NonNull<u8>,
    len: u64,
    _map: Mapping,
}

/// What unmaps the BAR when dropped.
#[derive(Debug)]
enum Mapping {
    Plain(#[expect(dead_code, reason = "held for its drop")] MmapRaw),
    Aligned(#[expect(dead_code, reason = "held for its drop")] Reservation),
}

// SAFETY: 1. the mapping belongs to the process, not to a thread. 2. `Bar` owns it alone.
unsafe impl Send for Bar {}

impl Bar {
    /// Maps `len` bytes of `file` from `offset`. 2 syscalls, 5 from 2 MiB on.
    pub(crate) fn map(file: &File, offset: u64, len: u64) -> Result<Bar, Errno> {
        let bytes = usize::try_from(len).map_err(|_| Errno(libc::EOVERFLOW))?;
        if let Some(align) = HUGE.into_iter().find(|huge| bytes >= *huge) {
            let map = Reservation::map(file, offset, bytes, align)?;
            return Ok(Bar { base: map.base, len, _map: Mapping::Aligned(map) });
        }
        let map = MmapOptions::new().offset(offset).len(bytes).map_raw(file)?;
        map.advise(Advice::DontFork)?;
        let base = NonNull::new(map.as_mut_ptr()).ok_or(Errno(libc::EINVAL))?;
        Ok(Bar { base, len, _map: Mapping::Plain(map) })
    }

    /// Where a register of `N` bytes is; `None` outside the BAR or for a misaligned one.
    fn register<const N: u64>(&self, at: u64) -> Option<NonNull<u8>> {
        if at.checked_add(N)? > self.len || at.checked_rem(N)? != 0 {
            return None;
        }
        let at = usize::try_from(at).ok()?;
        // SAFETY: `at < len`, so the result is inside the mapping (invariant 1).
        Some(unsafe { self.base.add(at) })
    }
}

impl Registers for Bar {
    fn len(&self) -> u64 {
        self.len
    }

    fn read32(&self, at: u64) -> u32 {
        let Some(register) = self.register::<4>(at) else { return u32::MAX };
        // SAFETY: 1. inside the mapping (`register`, invariant 1). 2. aligned to 4 (`register`, invariant 2).
        // 3. the bytes are the device's, so they are only ever accessed volatile, never through a reference.
        u32::from_le(unsafe { register.cast().read_volatile() })
    }

    fn write32(&self, at: u64, value: u32) {
        let Some(register) = self.register::<4>(at) else { return };
        order_before_register_write();
        // SAFETY: as in `read32`.
        unsafe { register.cast().write_volatile(value.to_le()) }
    }

    fn read64(&self, at: u64) -> u64 {
        let Some(register) = self.register::<8>(at) else { return u64::MAX };
        // SAFETY: as in `read32`, with alignment 8.
        u64::from_le(unsafe { register.cast().read_volatile() })
    }

    fn write64(&self, at: u64, value: u64) {
        let Some(register) = self.register::<8>(at) else { return };
        order_before_register_write();
        // SAFETY: as in `read64`.
        unsafe { register.cast().write_volatile(value.to_le()) }
    }
}

/// Keeps this thread's earlier stores to memory before a register write.
///
/// x86-64: stores to ordinary memory and to uncached memory stay in order, so only the compiler is held back
/// (it may move plain stores over a volatile one). Elsewhere: a full fence, not proved on hardware.
#[inline(always)]
fn order_before_register_write() {
    #[cfg(target_arch = "x86_64")]
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    #[cfg(not(target_arch = "x86_64"))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// An address range of our own, with a file mapped over all of it.
///
/// # Invariants
/// `base .. base + len` was reserved by us and is unmapped by nobody else.
#[derive(Debug)]
struct Reservation {
    base: NonNull<u8>,
    len: usize,
}

impl Reservation {
    /// Reserves `len` bytes at a multiple of `align`, a power of two, and maps `file` over them.
    fn map(file: &File, offset: u64, len: usize, align: usize) -> Result<Reservation, Errno> {
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno(libc::EOVERFLOW))?;
        let this = Reservation::reserve(len, align)?;
        // SAFETY: MAP_FIXED replaces pages of our own reservation only (invariant), which nothing refers to
        // yet.
        let at = unsafe {
            libc::mmap(
                this.base.as_ptr().cast(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                file.as_raw_fd(),
                offset,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        // SAFETY: the range is ours (invariant); DONTFORK changes nothing in this process.
        if unsafe { libc::madvise(at, len, libc::MADV_DONTFORK) } != 0 {
            return Err(Errno::last());
        }
        Ok(this)
    }

    /// Reserves `len` bytes at a multiple of `align`, without access.
    fn reserve(len: usize, align: usize) -> Result<Reservation, Errno> {
        let too_big = Errno(libc::EOVERFLOW);
        let page = page_size();
        let len = len.checked_next_multiple_of(page).ok_or(too_big)?;
        let all = len.checked_add(align).ok_or(too_big)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                all,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or(Errno(libc::ENOMEM))?;
        let head = start.align_offset(align);
        // `align` is a multiple of the page, so all three parts are whole pages.
        let tail = align.checked_sub(head).ok_or(too_big)?;
        // SAFETY: head + len <= all, the length of the mapping at `start`.
        let base = unsafe { start.add(head) };
        // SAFETY: as above; at most one past its end.
        let end = unsafe { base.add(len) };
        unmap(start, head);
        unmap(end, tail);
        Ok(Reservation { base, len })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        unmap(self.base, self.len);
    }
}

/// Gives `len` bytes back to the kernel; nothing for 0.
///
/// Callers give only what they mapped themselves and no longer use; private to this module for that reason.
fn unmap(at: NonNull<u8>, len: usize) {
    if len == 0 {
        return;
    }
    // SAFETY: whole pages of a mapping of ours that nothing refers to (see above). It cannot fail then.
    unsafe { libc::munmap(at.as_ptr().cast(), len) };
}

fn page_size() -> usize {
    // SAFETY: sysconf takes no pointers.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// A file as long as the BAR that it stands in for, gone when closed.
    fn device(len: u64) -> File {
        let file = crate::testing::scratch("bar").file("device");
        file.set_len(len).unwrap();
        file
    }

    fn smaps_of(bar: &Bar) -> String {
        let all = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let head = format!("{:x}-", bar.base.as_ptr() as usize);
        let mut lines = all.lines().skip_while(|line| !line.starts_with(&head));
        lines.find(|line| line.starts_with("VmFlags:")).unwrap().to_owned()
    }

    #[test]
    fn registers_are_the_files_bytes() {
        for len in [4096, 3 << 20] {
            let file = device(len);
            let bar = Bar::map(&file, 0, len).unwrap();
            assert_eq!((bar.len(), bar.is_empty()), (len, false));
            bar.write32(4, 0x0403_0201);
            bar.write64(len - 8, 0x1122_3344_5566_7788);
            let mut bytes = [0; 4];
            file.read_exact_at(&mut bytes, 4).unwrap();
            assert_eq!(bytes, [1, 2, 3, 4]);
            assert_eq!(bar.read32(len - 8), 0x5566_7788);
            assert_eq!(bar.read64(len - 8), 0x1122_3344_5566_7788);
        }
    }

    #[test]
    fn past_the_end_reads_all_ones_and_drops_writes() {
        let file = device(8192);
        // Only the first page is mapped; the second is there to be hit by a wrong bound.
        let bar = Bar::map(&file, 0, 4096).unwrap();
        for at in [4096, 4094, 4093, u64::MAX, u64::MAX - 3, 2, 1 << 40] {
            assert_eq!(bar.read32(at), u32::MAX, "{at:#x}");
            bar.write32(at, 7);
        }
        for at in [4096, 4092, 4, u64::MAX - 7, u64::MAX] {
            assert_eq!(bar.read64(at), u64::MAX, "{at:#x}");
            bar.write64(at, 7);
        }
        let mut bytes = vec![1; 8192];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|b| *b == 0));
    }

    #[test]
    fn a_large_bar_is_aligned_and_none_is_inherited_by_fork() {
        let file = device(3 << 20);
        let large = Bar::map(&file, 0, 3 << 20).unwrap();
        assert!(large.base.as_ptr().align_offset(2 << 20) == 0);
        let small = Bar::map(&file, 4096, 4096).unwrap();
        for bar in [&large, &small] {
            // "dc": VM_DONTCOPY.
            assert!(smaps_of(bar).split_whitespace().any(|flag| flag == "dc"), "{}", smaps_of(bar));
        }
    }

    #[test]
    fn a_bar_is_mapped_whole_and_given_back_when_dropped() {
        for len in [8192, 5 << 20] {
            let scratch = crate::testing::scratch("unmap");
            let file = scratch.file("device");
            file.set_len(len).unwrap();
            // The name is this test's alone, so no other thread's mapping is mistaken for it.
            let mapped = || {
                let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
                let line = maps.lines().find(|line| line.contains(scratch.path().to_str().unwrap()))?;
                let (start, rest) = line.split_once('-')?;
                let (end, _) = rest.split_once(' ')?;
                Some(u64::from_str_radix(end, 16).unwrap() - u64::from_str_radix(start, 16).unwrap())
            };
            let bar = Bar::map(&file, 0, len).unwrap();
            assert_eq!(mapped(), Some(len));
            drop(bar);
            assert_eq!(mapped(), None);
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_an_errno() {
        let eventfd = super::super::eventfd().unwrap();
        assert_eq!(Bar::map(&eventfd, 0, 4096).unwrap_err(), Errno(libc::ENODEV));
        assert_eq!(Bar::map(&eventfd, 0, 2 << 20).unwrap_err(), Errno(libc::ENODEV));
        assert_eq!(Bar::map(&eventfd, 0, u64::MAX).unwrap_err(), Errno(libc::EOVERFLOW));
    }
}
