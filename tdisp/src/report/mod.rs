//! DEVICE_INTERFACE_REPORT as a whole: what it says, what is wrong with it, and which page of which BAR is private
//! (PCIe base specification 6.x, chapter 11, "DEVICE_INTERFACE_REPORT").
//!
//! A report comes from a device, so nothing in it is believed before it was checked: [`ReportView`] checks the two
//! length fields against the bytes that are there, [`InterfaceReport::parse`] checks the ranges against each other
//! and against the lock, and a [`TagTable`] checks them against the BARs that the host gave to the device.
//! [`change`] is how a tag changes while the TDI runs.
//!
//! ```
//! use tidegate_tdisp::report::{Attr, BarWindow, InterfaceReport, MmioRange, ReportView, TagTable, Terms};
//! use tidegate_tdisp::wire::LockFlags;
//!
//! let mut report = InterfaceReport::default();
//! report.ranges.push(MmioRange::private(0, 0xE_0000, 3));
//! let bytes = report.emit()?;
//! let report = ReportView::new(&bytes)?; // or `InterfaceReport::parse`, which owns what it says
//! let bar0 = BarWindow { bar: 0, base: 0xE000_0000, len: 0x4000 };
//! let table = TagTable::new(report.ranges(), &Terms::new(LockFlags::empty(), 0, &[bar0]))?;
//! let tags: Vec<_> = table.iter().map(|tag| (tag.attr, tag.len, tag.index)).collect();
//! assert_eq!(tags, [(Attr::Private, 0x3000, Some(0)), (Attr::Inaccessible, 0x1000, None)]);
//! # Ok::<(), tidegate_tdisp::report::ReportError>(())
//! ```

pub mod change;
mod fault;
mod rules;
mod tags;
mod view;
mod walk;
mod window;

use alloc::vec::Vec;
use bitflags::bitflags;

pub use change::{ChangeError, Outcome, Planned, Quiet, Requested, To, Unmapped};
pub use fault::ReportError;
use rules::Rules;
pub use tags::{Attr, TagTable, TaggedRange, Terms};
pub use view::ReportView;
pub use walk::Walk;
pub use window::{BarWindow, HostPage, ReportingOffset};

use crate::wire::LockFlags;
pub use crate::wire::{MmioRange, PAGE_SIZE, RangeFlags};

bitflags! {
    /// INTERFACE_INFO. Unknown bits are kept.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct InterfaceInfo: u16 {
        /// The device refuses firmware updates while the TDI is locked or runs.
        const NO_FW_UPDATE = 1 << 0;
        /// The TDI makes DMA requests without PASID.
        const DMA_WITHOUT_PASID = 1 << 1;
        /// The TDI makes DMA requests with PASID.
        const DMA_WITH_PASID = 1 << 2;
        /// ATS is supported and enabled.
        const ATS = 1 << 3;
        /// PRS is supported and enabled.
        const PRS = 1 << 4;
        /// XT mode is enabled (PCIe 7.0).
        #[cfg(feature = "set-config")]
        const XT_MODE = 1 << 5;
    }
}

/// The interface report: what the TDI is while it is locked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceReport {
    /// INTERFACE_INFO.
    pub info: InterfaceInfo,
    /// MSI_X_MESSAGE_CONTROL; zero without MSI-X, or where its table is not locked.
    pub msix_control: u16,
    /// LNR_CONTROL; zero where there is none.
    pub lnr_control: u16,
    /// TPH_CONTROL; zero where there is none, or where the MSI-X table is not locked.
    pub tph_control: u32,
    /// MMIO_RANGE, in the order of the report: platforms name a range by its index.
    pub ranges: Vec<MmioRange>,
    /// DEVICE_SPECIFIC_INFO.
    pub device_info: Vec<u8>,
}

impl InterfaceReport {
    /// Bytes of a report without ranges and without device information.
    const FIXED: usize = 20;

    /// Parses and checks a whole report. `locked` is what the LOCK asked for.
    ///
    /// Refused: lengths that lie, a range without pages or past the address space, ranges that overlap, ranges out of
    /// BAR order, MSI-X bits where the lock did not ask for [`LockFlags::LOCK_MSIX`]. Allocates after the lengths
    /// were checked.
    pub fn parse(bytes: &[u8], locked: LockFlags) -> Result<Self, ReportError> {
        let view = ReportView::new(bytes)?;
        let report = InterfaceReport {
            info: view.info(),
            msix_control: view.msix_control(),
            lnr_control: view.lnr_control(),
            tph_control: view.tph_control(),
            ranges: view.ranges().collect(),
            device_info: view.device_info().to_vec(),
        };
        report.check(locked)?;
        Ok(report)
    }

    /// The checks of [`parse`](Self::parse) that do not need the bytes.
    pub fn check(&self, locked: LockFlags) -> Result<(), ReportError> {
        let mut order = Vec::with_capacity(self.ranges.len());
        let mut rules = Rules::new(locked);
        for (index, range) in self.ranges.iter().enumerate() {
            rules.admit(index, range)?;
            let pages = range.page_span().unwrap_or_default();
            order.push((pages.start, pages.end, index));
        }
        order.sort_unstable();
        let mut end_of_last: Option<(u64, usize)> = None;
        for (start, end, index) in order {
            match end_of_last {
                Some((last, with)) if start < last => return Err(ReportError::overlap(index, with)),
                _ => end_of_last = Some((end, index)),
            }
        }
        Ok(())
    }

    /// The bytes of the report. Fails where they would not fit the 16-bit offsets of the request.
    pub fn emit(&self) -> Result<Vec<u8>, ReportError> {
        let ranges = self.ranges.len().saturating_mul(MmioRange::SIZE);
        let size = Self::FIXED.saturating_add(ranges).saturating_add(self.device_info.len());
        let too_large = ReportError::TooLarge { size };
        if size > usize::from(u16::MAX) {
            return Err(too_large);
        }
        let count = u32::try_from(self.ranges.len()).map_err(|_| too_large.clone())?;
        let info_len = u32::try_from(self.device_info.len()).map_err(|_| too_large)?;
        let mut out = Vec::with_capacity(size);
        out.extend(self.info.bits().to_le_bytes());
        out.extend([0; 2]);
        out.extend(self.msix_control.to_le_bytes());
        out.extend(self.lnr_control.to_le_bytes());
        out.extend(self.tph_control.to_le_bytes());
        out.extend(count.to_le_bytes());
        for range in &self.ranges {
            out.extend(range.to_bytes());
        }
        out.extend(info_len.to_le_bytes());
        out.extend(&self.device_info);
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
