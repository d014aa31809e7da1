//! VFIO's device ioctls. Facts: `drivers/vfio/{vfio_main,device_cdev}.c`,
//! `drivers/vfio/pci/vfio_pci_{core,intrs, dmabuf}.c` of Linux 7.3.

use super::{Errno, ioctl, number, owned};
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use vfio_bindings::bindings::vfio as uapi;

/// A region of a device, as VFIO describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Region {
    /// Bytes; 0: not implemented.
    pub(crate) size: u64,
    /// Where it starts in the device file.
    pub(crate) offset: u64,
    /// Can it be mapped at all?
    pub(crate) mappable: bool,
    /// The only parts that can be mapped; empty: all of it. Generic vfio-pci never says this, variant drivers
    /// do.
    pub(crate) sparse: Vec<Range<u64>>,
}

/// `size_of::<T>()` as the ioctls want it.
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// VFIO_DEVICE_BIND_IOMMUFD: opens, enables and *resets* the function; the device's id in the iommufd.
pub(crate) fn bind(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut arg = uapi::vfio_device_bind_iommufd {
        argsz: size::<uapi::vfio_device_bind_iommufd>(),
        iommufd: iommufd.as_raw_fd(),
        ..Default::default()
    };
    // SAFETY: the number's argument is a vfio_device_bind_iommufd; without BIND_FLAG_TOKEN its address is
    // unused.
    unsafe { ioctl(device, number::DEVICE_BIND_IOMMUFD, &mut arg) }?;
    Ok(arg.out_devid)
}

/// VFIO_DEVICE_ATTACH_IOMMUFD_PT: attaches, or replaces what is attached, by an IOAS.
pub(crate) fn attach(device: BorrowedFd<'_>, ioas: u32) -> Result<(), Errno> {
    let mut arg = uapi::vfio_device_attach_iommufd_pt {
        argsz: size::<uapi::vfio_device_attach_iommufd_pt>(),
        pt_id: ioas,
        ..Default::default()
    };
    // SAFETY: the number's argument is a vfio_device_attach_iommufd_pt, which holds no address.
    unsafe { ioctl(device, number::DEVICE_ATTACH_IOMMUFD_PT, &mut arg) }.map(drop)
}

/// VFIO_DEVICE_DETACH_IOMMUFD_PT: the device is left in the blocking domain.
pub(crate) fn detach(device: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut arg = uapi::vfio_device_detach_iommufd_pt {
        argsz: size::<uapi::vfio_device_detach_iommufd_pt>(),
        ..Default::default()
    };
    // SAFETY: the number's argument is a vfio_device_detach_iommufd_pt, which holds no address.
    unsafe { ioctl(device, number::DEVICE_DETACH_IOMMUFD_PT, &mut arg) }.map(drop)
}

/// VFIO_DEVICE_GET_INFO: is it a PCI device with at least the regions that vfio-pci defines?
pub(crate) fn is_pci(device: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut arg = uapi::vfio_device_info { argsz: size::<uapi::vfio_device_info>(), ..Default::default() };
    // SAFETY: the number's argument is a vfio_device_info, which holds no address.
    unsafe { ioctl(device, number::DEVICE_GET_INFO, &mut arg) }?;
    Ok(arg.flags & uapi::VFIO_DEVICE_FLAGS_PCI != 0 && arg.num_regions >= uapi::VFIO_PCI_NUM_REGIONS)
}

/// VFIO_DEVICE_GET_REGION_INFO: once, and again with room for the capabilities where there are any.
pub(crate) fn region(device: BorrowedFd<'_>, index: u32) -> Result<Region, Errno> {
    let mut info =
        uapi::vfio_region_info { argsz: size::<uapi::vfio_region_info>(), index, ..Default::default() };
    // SAFETY: the number's argument is a vfio_region_info, which holds no address.
    unsafe { ioctl(device, number::DEVICE_GET_REGION_INFO, &mut info) }?;
    let sparse = if info.argsz > size::<uapi::vfio_region_info>() {
        sparse_areas(&region_bytes(device, index, info.argsz)?)?
    } else {
        Vec::new()
    };
    let mappable = info.flags & uapi::VFIO_REGION_INFO_FLAG_MMAP != 0;
    Ok(Region { size: info.size, offset: info.offset, mappable, sparse })
}

/// A region's info with its capabilities, as bytes.
fn region_bytes(device: BorrowedFd<'_>, index: u32, need: u32) -> Result<Vec<u8>, Errno> {
    /// More than any driver's list; the argument's size is part of its type.
    const ROOM: usize = 4096;
    #[repr(C, align(8))]
    struct Room([u8; ROOM]);
    const _: () = assert!(size_of::<Room>() == ROOM);
    let need = usize::try_from(need).ok().filter(|need| *need <= ROOM).ok_or(Errno(libc::E2BIG))?;
    let mut room = Room([0; ROOM]);
    for (at, value) in [(0, ROOM as u32), (8, index)] {
        room.0.iter_mut().skip(at).zip(value.to_ne_bytes()).for_each(|(to, from)| *to = from);
    }
    // SAFETY: the number's argument is a vfio_region_info and what follows it, up to `argsz`, which is the
    // size of `room`; it holds no address.
    unsafe { ioctl(device, number::DEVICE_GET_REGION_INFO, &mut room) }?;
    room.0.get(..need).map(<[u8]>::to_vec).ok_or(Errno(libc::EPROTO))
}

/// The mappable areas in a region info with capabilities. EPROTO for a list that leaves its buffer or loops.
fn sparse_areas(info: &[u8]) -> Result<Vec<Range<u64>>, Errno> {
    let malformed = Errno(libc::EPROTO);
    let bytes = |at: usize| info.get(at..).ok_or(malformed);
    let word = |at: usize| bytes(at)?.first_chunk().map(|b| u32::from_ne_bytes(*b)).ok_or(malformed);
    let long = |at: usize| bytes(at)?.first_chunk().map(|b| u64::from_ne_bytes(*b)).ok_or(malformed);
    let place = |at: u32| usize::try_from(at).map_err(|_| malformed);
    let plus = |at: usize, n: usize| at.checked_add(n).ok_or(malformed);

    let mut at = place(word(12)?)?;
    let mut areas = Vec::new();
    // Each capability is 8 bytes or more, so a list without a loop is shorter than this.
    for _ in 0..info.len() {
        if at == 0 {
            return Ok(areas);
        }
        let id = word(at)? & 0xffff;
        if id == uapi::VFIO_REGION_INFO_CAP_SPARSE_MMAP {
            let mut area = plus(at, 16)?;
            for _ in 0..word(plus(at, 8)?)? {
                let (start, len) = (long(area)?, long(plus(area, 8)?)?);
                areas.push(start..start.checked_add(len).ok_or(malformed)?);
                area = plus(area, 16)?;
            }
        }
        at = place(word(plus(at, 4)?)?)?;
    }
    Err(malformed)
}

/// VFIO_DEVICE_GET_IRQ_INFO: how many interrupts of this kind the device has. EINVAL: none of the kind.
pub(crate) fn irq_count(device: BorrowedFd<'_>, index: u32) -> Result<u32, Errno> {
    let mut arg = uapi::vfio_irq_info { argsz: size::<uapi::vfio_irq_info>(), index, ..Default::default() };
    // SAFETY: the number's argument is a vfio_irq_info, which holds no address.
    unsafe { ioctl(device, number::DEVICE_GET_IRQ_INFO, &mut arg) }?;
    Ok(arg.count)
}

/// VFIO_DEVICE_SET_IRQS: the single interrupt of this kind signals `eventfd` from now on.
pub(crate) fn set_eventfd(device: BorrowedFd<'_>, index: u32, eventfd: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut arg = number::IrqSet1 { fd: eventfd.as_raw_fd(), ..Default::default() };
    arg.set.argsz = size::<number::IrqSet1>();
    arg.set.flags = uapi::VFIO_IRQ_SET_DATA_EVENTFD | uapi::VFIO_IRQ_SET_ACTION_TRIGGER;
    arg.set.index = index;
    arg.set.count = 1;
    // SAFETY: the number's argument is a vfio_irq_set followed by `count` descriptors, which is an IrqSet1.
    unsafe { ioctl(device, number::DEVICE_SET_IRQS, &mut arg) }.map(drop)
}

/// VFIO_DEVICE_RESET. Sleeps.
pub(crate) fn reset(device: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the number takes no argument; the kernel ignores the pointer.
    unsafe { ioctl(device, number::DEVICE_RESET, &mut ()) }.map(drop)
}

/// VFIO_DEVICE_FEATURE, probing DMA_BUF: ENOTTY, EOPNOTSUPP where it is missing.
pub(crate) fn probe_dma_buf(device: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut arg = uapi::vfio_device_feature {
        argsz: size::<uapi::vfio_device_feature>(),
        flags: uapi::VFIO_DEVICE_FEATURE_PROBE
            | uapi::VFIO_DEVICE_FEATURE_GET
            | uapi::VFIO_DEVICE_FEATURE_DMA_BUF,
        ..Default::default()
    };
    // SAFETY: the number's argument is a vfio_device_feature; a probe has nothing behind it.
    unsafe { ioctl(device, number::DEVICE_FEATURE, &mut arg) }.map(drop)
}

/// VFIO_DEVICE_FEATURE_DMA_BUF: one range of a BAR as a dma-buf.
pub(crate) fn export(device: BorrowedFd<'_>, bar: u32, offset: u64, length: u64) -> Result<OwnedFd, Errno> {
    let mut arg =
        number::DmaBuf1 { range: uapi::vfio_region_dma_range { offset, length }, ..Default::default() };
    arg.feature.argsz = size::<number::DmaBuf1>();
    arg.feature.flags = uapi::VFIO_DEVICE_FEATURE_GET | uapi::VFIO_DEVICE_FEATURE_DMA_BUF;
    arg.export.region_index = bar;
    arg.export.open_flags = (libc::O_RDWR | libc::O_CLOEXEC) as u32;
    arg.export.nr_ranges = 1;
    // SAFETY: the number's argument is a vfio_device_feature followed by the feature's own, which is a
    // DmaBuf1.
    let fd = unsafe { ioctl(device, number::DEVICE_FEATURE, &mut arg) }?;
    // SAFETY: on success the answer is a descriptor that the kernel made for this call.
    unsafe { owned(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A region info with the capabilities given as (id, payload), each linked to the next.
    fn info(caps: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = vec![0; 32];
        let mut link = 12;
        for (id, payload) in caps {
            let at = bytes.len() as u32;
            bytes[link..link + 4].copy_from_slice(&at.to_ne_bytes());
            bytes.extend(id.to_ne_bytes());
            bytes.extend(1u16.to_ne_bytes());
            link = bytes.len();
            bytes.extend(0u32.to_ne_bytes());
            bytes.extend(payload);
        }
        bytes
    }

    fn sparse(areas: &[(u64, u64)]) -> Vec<u8> {
        let mut payload = (areas.len() as u32).to_ne_bytes().to_vec();
        payload.extend(0u32.to_ne_bytes());
        areas.iter().for_each(|(at, len)| {
            payload.extend(at.to_ne_bytes());
            payload.extend(len.to_ne_bytes());
        });
        payload
    }

    #[test]
    fn sparse_areas_are_found_behind_other_capabilities() {
        assert_eq!(sparse_areas(&info(&[])), Ok(vec![]));
        assert_eq!(sparse_areas(&info(&[(3, vec![])])), Ok(vec![]));
        assert_eq!(
            sparse_areas(&info(&[(3, vec![]), (1, sparse(&[(0, 0x1000), (0x3000, 0x2000)]))])),
            Ok(vec![0..0x1000, 0x3000..0x5000])
        );
    }

    #[test]
    fn a_malformed_capability_list_is_refused() {
        let mut looped = info(&[(3, vec![])]);
        looped[36..40].copy_from_slice(&32u32.to_ne_bytes());
        let mut outside = info(&[(3, vec![])]);
        outside[12..16].copy_from_slice(&4000u32.to_ne_bytes());
        let mut short = info(&[(1, sparse(&[(0, 0x1000)]))]);
        short.truncate(60);
        let wrapped = info(&[(1, sparse(&[(u64::MAX, 2)]))]);
        for bad in [looped, outside, short, wrapped, vec![0; 8]] {
            assert_eq!(sparse_areas(&bad), Err(Errno(libc::EPROTO)), "{bad:?}");
        }
    }
}
