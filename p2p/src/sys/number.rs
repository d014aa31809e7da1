//! Ioctl numbers and the two argument layouts that a header declares only with an open end.
//!
//! All are `_IO(';', n)`: direction and size bits are zero, the size travels in the argument.

use vfio_bindings::bindings::vfio as uapi;

const fn io(n: u32) -> u32 {
    (b';' as u32) << 8 | n
}

pub(super) const DEVICE_GET_INFO: u32 = io(0x6b);
pub(super) const DEVICE_GET_REGION_INFO: u32 = io(0x6c);
pub(super) const DEVICE_GET_IRQ_INFO: u32 = io(0x6d);
pub(super) const DEVICE_SET_IRQS: u32 = io(0x6e);
pub(super) const DEVICE_RESET: u32 = io(0x6f);
pub(super) const DEVICE_FEATURE: u32 = io(0x75);
pub(super) const DEVICE_BIND_IOMMUFD: u32 = io(0x76);
pub(super) const DEVICE_ATTACH_IOMMUFD_PT: u32 = io(0x77);
pub(super) const DEVICE_DETACH_IOMMUFD_PT: u32 = io(0x78);
pub(super) const DESTROY: u32 = io(0x80);
pub(super) const IOAS_ALLOC: u32 = io(0x81);
pub(super) const IOAS_IOVA_RANGES: u32 = io(0x84);
pub(super) const IOAS_UNMAP: u32 = io(0x86);
pub(super) const IOAS_MAP_FILE: u32 = io(0x8f);

/// `vfio_irq_set` with one eventfd behind it.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct IrqSet1 {
    pub(super) set: uapi::vfio_irq_set,
    pub(super) fd: i32,
}

/// `vfio_device_feature` with `vfio_device_feature_dma_buf` and one range behind it.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct DmaBuf1 {
    pub(super) feature: uapi::vfio_device_feature,
    pub(super) export: uapi::vfio_device_feature_dma_buf,
    pub(super) range: uapi::vfio_region_dma_range,
}

const _: () = {
    use iommufd_bindings as iommu;
    use std::mem::{offset_of, size_of};
    assert!(size_of::<uapi::vfio_device_info>() == 24 && offset_of!(uapi::vfio_device_info, num_irqs) == 12);
    assert!(size_of::<uapi::vfio_region_info>() == 32 && offset_of!(uapi::vfio_region_info, offset) == 24);
    assert!(
        size_of::<uapi::vfio_info_cap_header>() == 8 && offset_of!(uapi::vfio_info_cap_header, next) == 4
    );
    assert!(size_of::<uapi::vfio_irq_info>() == 16 && offset_of!(uapi::vfio_irq_info, count) == 12);
    assert!(size_of::<IrqSet1>() == 24 && offset_of!(IrqSet1, fd) == 20);
    assert!(
        size_of::<DmaBuf1>() == 40 && offset_of!(DmaBuf1, export) == 8 && offset_of!(DmaBuf1, range) == 24
    );
    assert!(offset_of!(uapi::vfio_device_feature_dma_buf, nr_ranges) == 12);
    assert!(size_of::<uapi::vfio_device_bind_iommufd>() == 24);
    assert!(offset_of!(uapi::vfio_device_bind_iommufd, out_devid) == 12);
    assert!(size_of::<uapi::vfio_device_attach_iommufd_pt>() == 16);
    assert!(offset_of!(uapi::vfio_device_attach_iommufd_pt, pt_id) == 8);
    assert!(size_of::<uapi::vfio_device_detach_iommufd_pt>() == 12);
    assert!(size_of::<iommu::iommu_destroy>() == 8 && offset_of!(iommu::iommu_destroy, id) == 4);
    assert!(
        size_of::<iommu::iommu_ioas_alloc>() == 12 && offset_of!(iommu::iommu_ioas_alloc, out_ioas_id) == 8
    );
    assert!(size_of::<iommu::iommu_iova_range>() == 16 && offset_of!(iommu::iommu_iova_range, last) == 8);
    assert!(size_of::<iommu::iommu_ioas_iova_ranges>() == 32);
    assert!(offset_of!(iommu::iommu_ioas_iova_ranges, allowed_iovas) == 16);
    assert!(
        size_of::<iommu::iommu_ioas_map_file>() == 40 && offset_of!(iommu::iommu_ioas_map_file, fd) == 12
    );
    assert!(offset_of!(iommu::iommu_ioas_map_file, iova) == 32);
    assert!(size_of::<iommu::iommu_ioas_unmap>() == 24 && offset_of!(iommu::iommu_ioas_unmap, length) == 16);
};

#[cfg(test)]
mod tests {
    use super::*;
    use iommufd_bindings as iommu;

    #[test]
    fn every_number_is_the_headers() {
        assert_eq!(
            [
                (DEVICE_GET_INFO, 0x3b6b),
                (DEVICE_GET_REGION_INFO, 0x3b6c),
                (DEVICE_GET_IRQ_INFO, 0x3b6d),
                (DEVICE_SET_IRQS, 0x3b6e),
                (DEVICE_RESET, 0x3b6f),
                (DEVICE_FEATURE, 0x3b75),
                (DEVICE_BIND_IOMMUFD, 0x3b76),
                (DEVICE_ATTACH_IOMMUFD_PT, 0x3b77),
                (DEVICE_DETACH_IOMMUFD_PT, 0x3b78),
                (DESTROY, 0x3b80),
                (IOAS_ALLOC, 0x3b81),
                (IOAS_IOVA_RANGES, 0x3b84),
                (IOAS_UNMAP, 0x3b86),
                (IOAS_MAP_FILE, 0x3b8f),
            ]
            .into_iter()
            .find(|(ours, headers)| ours != headers),
            None
        );
    }

    #[test]
    fn iommufd_numbers_agree_with_the_bindings() {
        for (ours, bindings) in [
            (DESTROY, iommu::IOMMUFD_CMD_DESTROY),
            (IOAS_ALLOC, iommu::IOMMUFD_CMD_IOAS_ALLOC),
            (IOAS_IOVA_RANGES, iommu::IOMMUFD_CMD_IOAS_IOVA_RANGES),
            (IOAS_UNMAP, iommu::IOMMUFD_CMD_IOAS_UNMAP),
            (IOAS_MAP_FILE, iommu::IOMMUFD_CMD_IOAS_MAP_FILE),
        ] {
            assert_eq!(ours, u32::from(iommu::IOMMUFD_TYPE) << 8 | bindings);
        }
    }

    #[test]
    fn feature_words_are_the_headers() {
        assert_eq!(uapi::VFIO_DEVICE_FEATURE_GET | uapi::VFIO_DEVICE_FEATURE_DMA_BUF, 0x1_000b);
        assert_eq!(
            uapi::VFIO_DEVICE_FEATURE_PROBE
                | uapi::VFIO_DEVICE_FEATURE_GET
                | uapi::VFIO_DEVICE_FEATURE_DMA_BUF,
            0x5_000b
        );
        assert_eq!(uapi::VFIO_IRQ_SET_DATA_EVENTFD | uapi::VFIO_IRQ_SET_ACTION_TRIGGER, 0x24);
    }
}
