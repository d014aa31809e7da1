//! The bytes of a report whose two length fields were checked.

use super::{InterfaceInfo, InterfaceReport, MmioRange, ReportError};

/// Checked view of a whole report: both counts agree with the bytes that are there. Allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct ReportView<'a> {
    fixed: &'a [u8; 12],
    ranges: &'a [u8],
    device_info: &'a [u8],
}

impl<'a> ReportView<'a> {
    /// Checks MMIO_RANGE_COUNT and DEVICE_SPECIFIC_INFO_LEN, both exactly.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ReportError> {
        let short = ReportError::Short { need: InterfaceReport::FIXED, got: bytes.len() };
        let (fixed, rest) = bytes.split_first_chunk().ok_or(short.clone())?;
        let (count, rest) = rest.split_first_chunk().ok_or(short.clone())?;
        let claimed = u32::from_le_bytes(*count);
        // What is left holds the ranges and the 4-byte length of the device information.
        let room = rest.len().checked_sub(4).ok_or(short)? / MmioRange::SIZE;
        let range_error = ReportError::RangeCount { claimed, room };
        let count =
            usize::try_from(claimed).ok().filter(|&count| count <= room).ok_or(range_error.clone())?;
        let (ranges, rest) =
            rest.split_at_checked(count.saturating_mul(MmioRange::SIZE)).ok_or(range_error.clone())?;
        let (len, device_info) = rest.split_first_chunk().ok_or(range_error)?;
        let claimed = u32::from_le_bytes(*len);
        if usize::try_from(claimed) != Ok(device_info.len()) {
            return Err(ReportError::DeviceInfoLength { claimed, got: device_info.len() });
        }
        Ok(ReportView { fixed, ranges, device_info })
    }

    /// INTERFACE_INFO (offset 0).
    pub fn info(&self) -> InterfaceInfo {
        let [low, high, ..] = *self.fixed;
        InterfaceInfo::from_bits_retain(u16::from_le_bytes([low, high]))
    }

    /// MSI_X_MESSAGE_CONTROL (offset 4).
    pub fn msix_control(&self) -> u16 {
        let [_, _, _, _, low, high, ..] = *self.fixed;
        u16::from_le_bytes([low, high])
    }

    /// LNR_CONTROL (offset 6).
    pub fn lnr_control(&self) -> u16 {
        let [.., low, high, _, _, _, _] = *self.fixed;
        u16::from_le_bytes([low, high])
    }

    /// TPH_CONTROL (offset 8).
    pub fn tph_control(&self) -> u32 {
        let [.., a, b, c, d] = *self.fixed;
        u32::from_le_bytes([a, b, c, d])
    }

    /// MMIO_RANGE, in the order of the report.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = MmioRange> + Clone + 'a {
        // The view holds a whole number of ranges, so every chunk converts.
        self.ranges
            .chunks_exact(MmioRange::SIZE)
            .map(|chunk| MmioRange::from_bytes(chunk.first_chunk().unwrap_or(&[0; MmioRange::SIZE])))
    }

    /// DEVICE_SPECIFIC_INFO.
    pub fn device_info(&self) -> &'a [u8] {
        self.device_info
    }
}
