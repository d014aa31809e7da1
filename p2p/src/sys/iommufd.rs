//! iommufd's ioctls. Facts: `drivers/iommu/iommufd/{main,ioas}.c` of Linux 7.3.

use super::{Errno, ioctl, number};
use iommufd_bindings as uapi;
use std::mem::size_of;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `size_of::<T>()` as the ioctls want it.
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// IOMMU_IOAS_ALLOC: the id of a new address space.
pub(crate) fn ioas_alloc(iommufd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut arg = uapi::iommu_ioas_alloc { size: size::<uapi::iommu_ioas_alloc>(), ..Default::default() };
    // SAFETY: the number's argument is an iommu_ioas_alloc, which holds no address.
    unsafe { ioctl(iommufd, number::IOAS_ALLOC, &mut arg) }?;
    Ok(arg.out_ioas_id)
}

/// IOMMU_DESTROY. EBUSY while something is attached.
pub(crate) fn destroy(iommufd: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
    let mut arg = uapi::iommu_destroy { size: size::<uapi::iommu_destroy>(), id };
    // SAFETY: the number's argument is an iommu_destroy, which holds no address.
    unsafe { ioctl(iommufd, number::DESTROY, &mut arg) }.map(drop)
}

/// IOMMU_IOAS_IOVA_RANGES, with a larger array as long as the kernel says EMSGSIZE (the list can grow between
/// two calls, so the number of tries is bounded).
pub(crate) fn iova_ranges(iommufd: BorrowedFd<'_>, ioas: u32) -> Result<Vec<RangeInclusive<u64>>, Errno> {
    let mut room = vec![uapi::iommu_iova_range::default(); 16];
    for _ in 0..8 {
        let mut arg = uapi::iommu_ioas_iova_ranges {
            size: size::<uapi::iommu_ioas_iova_ranges>(),
            ioas_id: ioas,
            num_iovas: u32::try_from(room.len()).map_err(|_| Errno(libc::E2BIG))?,
            allowed_iovas: room.as_mut_ptr() as u64,
            ..Default::default()
        };
        // SAFETY: 1. the number's argument is an iommu_ioas_iova_ranges. 2. `allowed_iovas` points to
        // `num_iovas` entries of `room`, which outlives the call; the kernel writes no more than that many.
        let answer = unsafe { ioctl(iommufd, number::IOAS_IOVA_RANGES, &mut arg) };
        let count = usize::try_from(arg.num_iovas).map_err(|_| Errno(libc::E2BIG))?;
        match answer {
            Ok(_) => {
                return Ok(room.iter().take(count).map(|range| range.start..=range.last).collect());
            }
            Err(Errno(libc::EMSGSIZE)) if count > room.len() => room.resize(count, Default::default()),
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno(libc::EMSGSIZE))
}

/// IOMMU_IOAS_MAP_FILE at a fixed IOVA: `fd` is a memfd or a dma-buf.
pub(crate) fn map_file(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    fd: BorrowedFd<'_>,
    start: u64,
    iova: u64,
    length: u64,
    (read, write): (bool, bool),
) -> Result<(), Errno> {
    let mut flags = uapi::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA;
    if read {
        flags |= uapi::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE;
    }
    if write {
        flags |= uapi::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE;
    }
    let mut arg = uapi::iommu_ioas_map_file {
        size: size::<uapi::iommu_ioas_map_file>(),
        flags,
        ioas_id: ioas,
        fd: fd.as_raw_fd(),
        start,
        length,
        iova,
    };
    // SAFETY: the number's argument is an iommu_ioas_map_file, which holds no address of this process.
    unsafe { ioctl(iommufd, number::IOAS_MAP_FILE, &mut arg) }?;
    // With FIXED_IOVA the kernel gives back the IOVA it was told.
    if arg.iova == iova { Ok(()) } else { Err(Errno(libc::EPROTO)) }
}

/// IOMMU_IOAS_UNMAP: how many bytes were mapped. Synchronous, IOTLB flushed.
pub(crate) fn unmap(iommufd: BorrowedFd<'_>, ioas: u32, iova: u64, length: u64) -> Result<u64, Errno> {
    let mut arg =
        uapi::iommu_ioas_unmap { size: size::<uapi::iommu_ioas_unmap>(), ioas_id: ioas, iova, length };
    // SAFETY: the number's argument is an iommu_ioas_unmap, which holds no address of this process.
    unsafe { ioctl(iommufd, number::IOAS_UNMAP, &mut arg) }?;
    Ok(arg.length)
}
