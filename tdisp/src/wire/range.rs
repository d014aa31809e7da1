//! MMIO_RANGE: 16 bytes of a report, or of SET_MMIO_ATTRIBUTE.

use core::ops::Range;

use bitflags::bitflags;

/// Bytes of the pages that reports count in, whatever the host's pages are.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

pub(crate) const PAGE_SHIFT: u32 = 12;

/// Pages of the 64-bit address space.
pub(crate) const PAGES_OF_ADDRESS_SPACE: u64 = 1 << (64 - PAGE_SHIFT);

bitflags! {
    /// Attributes of a range. Unknown bits are kept.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RangeFlags: u16 {
        /// The range holds the MSI-X table.
        const MSIX_TABLE = 1 << 0;
        /// The range holds the MSI-X pending bits.
        const MSIX_PBA = 1 << 1;
        /// IS_NON_TEE_MEM: the range is shared. Clear: private.
        const NON_TEE = 1 << 2;
        /// IS_MEM_ATTR_UPDATABLE: SET_MMIO_ATTRIBUTE may change `NON_TEE`, which shows the value at LOCK for ever.
        const UPDATABLE = 1 << 3;
    }
}

/// MMIO_RANGE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MmioRange {
    /// The first 4 KiB page, with MMIO_REPORTING_OFFSET added: (address + offset) >> 12.
    pub first_page: u64,
    /// The number of 4 KiB pages.
    pub pages: u32,
    /// Attributes.
    pub flags: RangeFlags,
    /// Range ID: 0 to 7 name the BAR; larger ones are the device's, and may repeat.
    pub id: u16,
}

impl MmioRange {
    /// Bytes of a range.
    pub const SIZE: usize = 16;

    /// A private range of a BAR.
    pub const fn private(bar: u8, first_page: u64, pages: u32) -> Self {
        MmioRange { first_page, pages, flags: RangeFlags::empty(), id: bar as u16 }
    }

    /// A shared range of a BAR.
    pub const fn shared(bar: u8, first_page: u64, pages: u32) -> Self {
        MmioRange { first_page, pages, flags: RangeFlags::NON_TEE, id: bar as u16 }
    }

    /// The BAR that the range id names.
    #[inline]
    pub fn bar(&self) -> Option<u8> {
        u8::try_from(self.id).ok().filter(|&bar| bar <= 7)
    }

    /// The reported pages; `None` for a range without pages or past the address space.
    pub fn page_span(&self) -> Option<Range<u64>> {
        let end = self.first_page.checked_add(u64::from(self.pages))?;
        (self.pages > 0 && end <= PAGES_OF_ADDRESS_SPACE).then_some(self.first_page..end)
    }

    /// Reads the 16 bytes.
    pub fn from_bytes(bytes: &[u8; 16]) -> Self {
        let [p0, p1, p2, p3, p4, p5, p6, p7, n0, n1, n2, n3, f0, f1, i0, i1] = *bytes;
        MmioRange {
            first_page: u64::from_le_bytes([p0, p1, p2, p3, p4, p5, p6, p7]),
            pages: u32::from_le_bytes([n0, n1, n2, n3]),
            flags: RangeFlags::from_bits_retain(u16::from_le_bytes([f0, f1])),
            id: u16::from_le_bytes([i0, i1]),
        }
    }

    /// The 16 bytes.
    pub fn to_bytes(&self) -> [u8; 16] {
        let [p0, p1, p2, p3, p4, p5, p6, p7] = self.first_page.to_le_bytes();
        let [n0, n1, n2, n3] = self.pages.to_le_bytes();
        let [f0, f1] = self.flags.bits().to_le_bytes();
        let [i0, i1] = self.id.to_le_bytes();
        [p0, p1, p2, p3, p4, p5, p6, p7, n0, n1, n2, n3, f0, f1, i0, i1]
    }
}
