//! The memory and its bytes.
#![expect(
    unsafe_code,
    reason = "reads and writes memory that devices write; tests below, and ASAN in ci/test"
)]

use super::map::Map;
use super::{MemoryBuilder, MemoryError};
use crate::Access;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// A memfd mapped into this process. A memfd keeps its pages when the process dies with a device still writing,
/// and iommufd maps it without a virtual address (IOMMU_IOAS_MAP_FILE).
///
/// # Invariants
/// - **M1** No Rust reference into the mapping exists, ever: bytes move by volatile accesses on raw pointers, so
///   a device may write at any time.
/// - **M2** The file is sealed against shrinking, so the mapping never faults; of hugetlb all pages are there before
///   anybody gets the memory, since one that can't be had later is a SIGBUS.
///
/// A child that is forked does not get the mapping (MADV_DONTFORK, checked): it could not write it without tearing it
/// from the pages that devices know, and must not see what they write.
#[derive(Debug)]
pub struct Memory {
    pub(super) file: File,
    pub(super) map: Map,
    /// Bytes of a page of the file.
    pub(super) page: u64,
    /// What was tried first, and why it did not work.
    pub(super) tried: Vec<MemoryError>,
}

/// A range of a [`Memory`] that a region is made of.
#[derive(Debug, Clone)]
pub struct Backing {
    pub(crate) memory: Arc<Memory>,
    pub(crate) range: Range<u64>,
}

impl Memory {
    /// Allocates `len` bytes (rounded up to whole pages), zeroed, on plain pages that come when they are first touched.
    /// Five system calls.
    ///
    /// # Errors
    /// errno of memfd_create, ftruncate, fcntl, mmap or madvise; zero bytes.
    pub fn allocate(name: &str, len: u64) -> Result<Arc<Memory>, MemoryError> {
        Memory::builder().name(name).len(len).build()
    }

    /// How to ask for huge pages, a node, populating, locking. Nothing happens before [`MemoryBuilder::build`].
    pub fn builder() -> MemoryBuilder {
        MemoryBuilder::default()
    }

    /// Bytes, a multiple of the page size of what was got: of 2 MiB or 1 GiB where huge pages were tried.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// The memfd, for importers.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The whole of it as the backing of a region.
    pub fn backing(self: &Arc<Self>) -> Backing {
        Backing { memory: self.clone(), range: 0..self.len() }
    }

    /// A part of it as the backing of a region.
    ///
    /// # Errors
    /// [`MemoryError::Range`].
    pub fn slice(self: &Arc<Self>, range: Range<u64>) -> Result<Backing, MemoryError> {
        self.check(range.start, range.end.saturating_sub(range.start))?;
        Ok(Backing { memory: self.clone(), range })
    }

    /// Copies bytes out (volatile, in ascending order, words where aligned).
    ///
    /// # Errors
    /// [`MemoryError::Range`].
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        if into.is_empty() {
            return Ok(());
        }
        let from = self.check(at, into.len() as u64)?;
        for (i, byte) in into.iter_mut().enumerate() {
            // SAFETY: 1. `check` bounded `from..from + len` by the mapping.
            let p = unsafe { from.add(i) };
            // SAFETY: 1. in bounds as above. 2. volatile read of plain bytes; M1: no reference is made.
            *byte = unsafe { p.read_volatile() };
        }
        Ok(())
    }

    /// Copies bytes in (volatile, in ascending order).
    ///
    /// # Errors
    /// [`MemoryError::Range`].
    pub fn write(&self, at: u64, from: &[u8]) -> Result<(), MemoryError> {
        if from.is_empty() {
            return Ok(());
        }
        let to = self.check(at, from.len() as u64)?;
        for (i, byte) in from.iter().enumerate() {
            // SAFETY: 1. `check` bounded `to..to + len` by the mapping.
            let p = unsafe { to.add(i) };
            // SAFETY: 1. in bounds as above. 2. volatile write of plain bytes; M1: no reference is made.
            unsafe { p.write_volatile(*byte) };
        }
        Ok(())
    }

    /// Reads the 32-bit little-endian word at a multiple of 4, in one access, then orders later reads after it
    /// (acquire): a device's completion word is read this way. `None` out of bounds or misaligned.
    #[inline]
    pub fn load32(&self, at: u64) -> Option<u32> {
        let p = self.word(at, 4)?.cast::<u32>();
        // SAFETY: 1. in bounds and aligned (`word`). 2. volatile read; M1.
        let value = unsafe { p.read_volatile() };
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        Some(u32::from_le(value))
    }

    /// Reads a 64-bit little-endian word at a multiple of 8, as [`Memory::load32`] does.
    #[inline]
    pub fn load64(&self, at: u64) -> Option<u64> {
        let p = self.word(at, 8)?.cast::<u64>();
        // SAFETY: 1. in bounds and aligned (`word`). 2. volatile read; M1.
        let value = unsafe { p.read_volatile() };
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        Some(u64::from_le(value))
    }

    /// Writes a 64-bit little-endian word at a multiple of 8, in one access. False out of bounds or misaligned:
    /// nothing was written.
    #[inline]
    pub fn store64(&self, at: u64, value: u64) -> bool {
        let Some(p) = self.word(at, 8) else { return false };
        // SAFETY: 1. in bounds and aligned (`word`). 2. volatile write; M1.
        unsafe { p.cast::<u64>().write_volatile(value.to_le()) };
        true
    }

    /// Writes 64-bit little-endian words, the first at a multiple of 8, in ascending order: [`Memory::store64`] for each, with
    /// the bounds looked at once. False: nothing was written.
    #[inline]
    pub fn store_words<const N: usize>(&self, at: u64, words: &[u64; N]) -> bool {
        let bytes = 8 * N as u64;
        if at % 8 != 0 || at.checked_add(bytes).is_none_or(|end| end > self.len()) {
            return false;
        }
        // SAFETY: 1. `at + bytes` is within the mapping.
        let base = unsafe { self.map.base().as_ptr().add(at as usize) };
        for (n, word) in words.iter().enumerate() {
            // SAFETY: 1. `n < N`, so it and its word are within `bytes`.
            let p = unsafe { base.add(8 * n) };
            // SAFETY: 1. in bounds as above, aligned with `at`. 2. volatile write; M1.
            unsafe { p.cast::<u64>().write_volatile(word.to_le()) };
        }
        true
    }

    #[inline]
    fn word(&self, at: u64, bytes: u64) -> Option<*mut u8> {
        (at % bytes == 0 && at.checked_add(bytes)? <= self.len()).then(|| {
            // SAFETY: 1. `at + bytes` is within the mapping.
            unsafe { self.map.base().as_ptr().add(at as usize) }
        })
    }

    fn check(&self, at: u64, len: u64) -> Result<*mut u8, MemoryError> {
        match at.checked_add(len) {
            Some(end) if len > 0 && end <= self.len() => {
                // SAFETY: 1. `at < end <= len` of the mapping.
                Ok(unsafe { self.map.base().as_ptr().add(at as usize) })
            }
            _ => Err(MemoryError::Range { at, len, size: self.len() }),
        }
    }
}

impl Backing {
    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// The memory and the range of it.
    pub fn parts(&self) -> (&Arc<Memory>, Range<u64>) {
        (&self.memory, self.range.clone())
    }

    /// Where the CPU finds it.
    pub fn cpu(&self) -> NonNull<u8> {
        // SAFETY: 1. `range` was checked against the mapping when the backing was made.
        unsafe { self.memory.map.base().add(self.range.start as usize) }
    }

    pub(crate) fn place(&self, access: Access) -> crate::region::table::Place {
        crate::region::table::Place {
            class: crate::region::Class::Host,
            domain: 0,
            readable: access.readable(),
            writable: access.writable(),
            device: None,
            cpu: Some(self.cpu().as_ptr() as u64),
            len: self.len(),
        }
    }
}

/// Bytes of a page of this machine.
pub fn page_size() -> u64 {
    // SAFETY: 1. sysconf reads a constant.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_and_out_of_bounds_changes_nothing() {
        let memory = Memory::allocate("test", 5000).unwrap();
        assert_eq!(memory.len() % page_size(), 0);
        memory.write(4990, b"abc").unwrap();
        let mut back = [0; 3];
        memory.read(4990, &mut back).unwrap();
        assert_eq!(&back, b"abc");
        let size = memory.len();
        for (at, len) in [(size, 1), (size - 1, 2), (u64::MAX, 8)] {
            let refused = MemoryError::Range { at, len: len as u64, size };
            assert_eq!(memory.write(at, &vec![0xff; len]), Err(refused));
        }
        assert_eq!(memory.load64(size - 4), None);
        assert!(!memory.store64(4, 1), "misaligned");
        assert!(memory.store64(8, 0x0102_0304_0506_0708));
        assert_eq!(memory.load32(8), Some(0x0506_0708));
    }

    #[test]
    fn zero_bytes_are_refused() {
        assert!(matches!(Memory::allocate("test", 0), Err(MemoryError::Range { .. })));
    }

    #[test]
    fn the_memfd_can_not_shrink_under_its_mapping() {
        let memory = Memory::allocate("test", 4096).unwrap();
        assert!(memory.file.set_len(0).is_err());
    }
}
