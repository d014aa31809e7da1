//! One mapping of a memfd and the calls on its address range.
#![expect(
    unsafe_code,
    reason = "mmap, madvise, mbind, mlock and move_pages on a range that we own; memory/tests.rs, numa_guest"
)]

use super::error::os;
use super::{MemoryError, page_size};
use crate::topology::NodeId;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

/// A shared, writable mapping of a whole file.
///
/// # Invariants
/// `base..base + len` is the file, readable and writable, and belongs to this value alone until it is dropped. Nobody
/// holds a reference into it (M1 of [`super::Memory`]).
#[derive(Debug)]
pub(super) struct Map {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: 1. a range of addresses, which are good in every thread. 2. bytes are reached by volatile accesses only (M1).
unsafe impl Send for Map {}
// SAFETY: 1. as above: nothing in it changes after it was made.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `len` bytes of `file`, whose pages are of `page` bytes, at a multiple of `align`, a power of two. The kernel
    /// aligns to a page itself, also where that is a hugetlb page; a larger alignment is had by reserving more addresses
    /// (they cost no memory). One mmap, or two and two munmaps.
    pub(super) fn new(file: &File, len: usize, page: usize, align: usize) -> Result<Map, MemoryError> {
        if align <= page {
            let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
            return Ok(Map { base: mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd)?, len });
        }
        let too_long = MemoryError::Os { op: "mmap", errno: libc::ENOMEM };
        let size = len.checked_add(align).ok_or(too_long)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let start = mmap(ptr::null_mut(), size, libc::PROT_NONE, flags, -1)?;
        Map::within(file, (start, size), len, align)
    }

    /// Maps the file into a reservation of `len + align` bytes and gives the rest back. If the mmap fails, nobody knows
    /// whether the kernel had already taken the reservation away at that place, where another thread may have mapped
    /// something since. So that place is not touched again: at worst some addresses without memory are lost.
    pub(super) fn within(
        file: &File,
        (start, size): (NonNull<u8>, usize),
        len: usize,
        align: usize,
    ) -> Result<Map, MemoryError> {
        let skip = start.align_offset(align);
        // SAFETY: 1. `skip < align` and the reservation is `len + align` long.
        let base = unsafe { start.add(skip) };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let mapped = mmap(base.as_ptr().cast(), len, protection, flags, file.as_raw_fd());
        // SAFETY: 1. as above, `len + skip <= size`.
        let end = unsafe { base.add(len) };
        for (at, len) in [(start, skip), (end, size - skip - len)] {
            if len > 0 {
                // SAFETY: 1. a part of the reservation that the mmap did not name: ours, and nothing points into it.
                // Refused (it would split a mapping, and there are too many), it stays: addresses without memory.
                let _stays = unsafe { libc::munmap(at.as_ptr().cast(), len) };
            }
        }
        mapped.map(|base| Map { base, len })
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn start(&self) -> *mut c_void {
        self.base.as_ptr().cast()
    }

    /// madvise over all of it.
    pub(super) fn advise(&self, advice: i32, op: &'static str) -> Result<(), MemoryError> {
        // SAFETY: 1. the range is ours. 2. no advice that is passed in drops or changes bytes.
        match unsafe { libc::madvise(self.start(), self.len, advice) } {
            0 => Ok(()),
            _ => Err(os(op)),
        }
    }

    /// Reads a byte of every page, after the pages are there: the page tables are filled.
    pub(super) fn touch(&self) {
        for at in (0..self.len).step_by(page_size() as usize) {
            // SAFETY: 1. `at < len`.
            let p = unsafe { self.base.add(at) };
            // SAFETY: 1. mapped and readable. 2. volatile (M1).
            unsafe { p.read_volatile() };
        }
    }

    /// Binds pages that are not there yet to one node. The policy of a memfd belongs to the file, so pages that a
    /// device's mapping pulls in obey it as well; that of a hugetlb file belongs to this mapping.
    pub(super) fn bind(&self, node: NodeId) -> Result<(), MemoryError> {
        let bits = u64::BITS as usize;
        let mut mask = vec![0_u64; node.0 as usize / bits + 1];
        if let Some(word) = mask.last_mut() {
            *word = 1 << (node.0 as usize % bits);
        }
        // The kernel takes one bit less than it is told.
        let maxnode = mask.len() * bits + 1;
        let mode = libc::MPOL_BIND | libc::MPOL_F_STATIC_NODES;
        // SAFETY: 1. the range is ours; `mask` holds `maxnode - 1` bits and outlives the call. 2. pages keep their
        // bytes.
        match unsafe {
            libc::syscall(libc::SYS_mbind, self.start(), self.len, mode, mask.as_ptr(), maxnode, 0)
        } {
            0 => Ok(()),
            _ => Err(os("mbind")),
        }
    }

    /// Locks it: never swapped, never migrated by reclaim. Populates.
    pub(super) fn lock(&self) -> Result<(), MemoryError> {
        // SAFETY: 1. the range is ours; locking changes no byte.
        match unsafe { libc::mlock(self.start(), self.len) } {
            0 => Ok(()),
            _ => Err(os("mlock")),
        }
    }

    /// Bytes on each node, asked page by page of size `step`; pages that are not there count nowhere. `None`: this
    /// kernel has no NUMA. One system call per 1024 pages.
    pub(super) fn nodes(&self, step: usize) -> Result<Option<BTreeMap<NodeId, u64>>, MemoryError> {
        let mut nodes = BTreeMap::new();
        let mut pages: Vec<*mut c_void> = Vec::with_capacity(1024);
        let mut status: Vec<i32> = Vec::with_capacity(1024);
        for chunk in (0..self.len).step_by(step * 1024) {
            pages.clear();
            let end = self.len.min(chunk.saturating_add(step * 1024));
            pages.extend((chunk..end).step_by(step).map(|at| self.start().wrapping_byte_add(at)));
            status.clear();
            status.resize(pages.len(), i32::MIN);
            let (to, none) = (status.as_mut_ptr(), ptr::null::<i32>());
            // SAFETY: 1. `pages` and `status` hold `pages.len()` entries each and outlive the call. 2. without a list
            // of target nodes the kernel only looks (move_pages(2)).
            let code =
                unsafe { libc::syscall(libc::SYS_move_pages, 0, pages.len(), pages.as_ptr(), none, to, 0) };
            match (code, std::io::Error::last_os_error().raw_os_error()) {
                (0, _) => {}
                (_, Some(libc::ENOSYS)) => return Ok(None),
                _ => return Err(os("move_pages")),
            }
            for node in status.iter().filter_map(|node| u32::try_from(*node).ok()) {
                *nodes.entry(NodeId(node)).or_insert(0) += step as u64;
            }
        }
        Ok(Some(nodes))
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: 1. the range is ours and nothing points into it any more: `Memory` hands out backings, which keep it.
        let code = unsafe { libc::munmap(self.start(), self.len) };
        debug_assert_eq!(code, 0, "munmap of a mapping of our own");
    }
}

/// mmap at offset 0. With MAP_FIXED the caller owns `at..at + len`.
fn mmap(
    at: *mut c_void,
    len: usize,
    protection: i32,
    flags: i32,
    fd: i32,
) -> Result<NonNull<u8>, MemoryError> {
    // SAFETY: 1. without MAP_FIXED the kernel picks free addresses; with it (`Map::within`) the range is a reservation of
    // our own, into which nothing points.
    let base = unsafe { libc::mmap(at, len, protection, flags, fd, 0) };
    if base == libc::MAP_FAILED {
        return Err(os("mmap"));
    }
    NonNull::new(base.cast()).ok_or(MemoryError::Os { op: "mmap", errno: libc::EINVAL })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_place_where_the_file_could_not_be_mapped_is_not_touched_again() {
        let file = File::open("/proc/self/exe").unwrap();
        let (len, align) = (2 * page_size() as usize, 1 << 20);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let start = mmap(ptr::null_mut(), len + align, libc::PROT_NONE, flags, -1).unwrap();
        // It is not open for writing.
        let refused = Map::within(&file, (start, len + align), len, align).unwrap_err();
        assert_eq!(refused, MemoryError::Os { op: "mmap", errno: libc::EACCES });
        let base = (start.as_ptr() as usize).next_multiple_of(align);
        let flags = flags | libc::MAP_FIXED_NOREPLACE;
        let again = mmap(base as *mut c_void, len, libc::PROT_NONE, flags, -1);
        assert_eq!(again.unwrap_err(), MemoryError::Os { op: "mmap", errno: libc::EEXIST });
    }
}
