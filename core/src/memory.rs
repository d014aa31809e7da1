//! Host memory for DMA: memfds, mapped once, seen only through volatile copies.
#![expect(
    unsafe_code,
    reason = "maps memfds and reads memory that devices write; tests below, and ASAN in ci/test"
)]

use crate::Access;
use memmap2::{MmapOptions, MmapRaw};
use std::ffi::CString;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// A memfd mapped into this process. A memfd keeps its pages when the process dies with a device still writing,
/// and iommufd maps it without a virtual address (IOMMU_IOAS_MAP_FILE).
///
/// # Invariants
/// - **M1** No Rust reference into the mapping exists, ever: bytes move by volatile accesses on raw pointers, so
///   a device may write at any time.
/// - **M2** The file is sealed against shrinking, so the mapping never faults.
#[derive(Debug)]
pub struct Memory {
    file: File,
    map: MmapRaw,
}

/// A range of a [`Memory`] that a region is made of.
#[derive(Debug, Clone)]
pub struct Backing {
    pub(crate) memory: Arc<Memory>,
    pub(crate) range: Range<u64>,
}

/// Memory could not be made or reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// A system call failed. ENOMEM of mmap: raise the memlock limit or the size of memory.
    #[error("{op}: errno {errno}")]
    Os {
        /// The call.
        op: &'static str,
        /// The errno.
        errno: i32,
    },
    /// Out of bounds, or zero bytes.
    #[error("{at:#x}+{len:#x} is outside memory of {size:#x} bytes, or empty")]
    Range {
        /// Start.
        at: u64,
        /// Bytes.
        len: u64,
        /// Bytes there are.
        size: u64,
    },
}

fn os(op: &'static str) -> MemoryError {
    MemoryError::Os { op, errno: std::io::Error::last_os_error().raw_os_error().unwrap_or(0) }
}

impl Memory {
    /// Allocates `len` bytes (rounded up to whole pages), zeroed. Four system calls.
    ///
    /// # Errors
    /// errno of memfd_create, ftruncate, fcntl or mmap; zero bytes.
    pub fn allocate(name: &str, len: u64) -> Result<Arc<Memory>, MemoryError> {
        let page = page_size();
        let size = len.checked_add(page - 1).map(|n| n & !(page - 1)).filter(|n| *n > 0);
        let Some(size) = size else { return Err(MemoryError::Range { at: 0, len, size: 0 }) };
        let name = CString::new(name.replace('\0', "_")).unwrap_or_default();
        // SAFETY: 1. `name` is a NUL-terminated string that outlives the call.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if fd < 0 {
            return Err(os("memfd_create"));
        }
        // SAFETY: 1. the kernel just gave us this fd; nobody else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(size).map_err(|_| os("ftruncate"))?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        // SAFETY: 1. fcntl on a fd we own; F_ADD_SEALS takes an integer.
        if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) } < 0 {
            return Err(os("F_ADD_SEALS"));
        }
        let map = MmapOptions::new().len(size as usize).map_raw(&file).map_err(|_| os("mmap"))?;
        // A child must not hold pages that a device writes. Best effort: the mapping is right without it.
        // SAFETY: 1. the range is the mapping just made. 2. MADV_DONTFORK changes no byte of it.
        unsafe { libc::madvise(map.as_mut_ptr().cast(), map.len(), libc::MADV_DONTFORK) };
        Ok(Arc::new(Memory { file, map }))
    }

    /// Bytes, a multiple of the page size.
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

    #[inline]
    fn word(&self, at: u64, bytes: u64) -> Option<*mut u8> {
        (at % bytes == 0 && at.checked_add(bytes)? <= self.len()).then(|| {
            // SAFETY: 1. `at + bytes` is within the mapping.
            unsafe { self.map.as_mut_ptr().add(at as usize) }
        })
    }

    fn check(&self, at: u64, len: u64) -> Result<*mut u8, MemoryError> {
        match at.checked_add(len) {
            Some(end) if len > 0 && end <= self.len() => {
                // SAFETY: 1. `at < end <= len` of the mapping.
                Ok(unsafe { self.map.as_mut_ptr().add(at as usize) })
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
        let base = NonNull::new(self.memory.map.as_mut_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: 1. `range` was checked against the mapping when the backing was made.
        unsafe { base.add(self.range.start as usize) }
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
