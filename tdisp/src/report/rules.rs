//! What holds of each range by itself and of its place in the report.

use super::{MmioRange, RangeFlags, ReportError};
use crate::wire::LockFlags;

const MSIX: RangeFlags = RangeFlags::MSIX_TABLE.union(RangeFlags::MSIX_PBA);

/// Looks at the ranges in the order of the report.
pub(super) struct Rules {
    msix_locked: bool,
    last_bar: u8,
}

impl Rules {
    /// `locked` is what the LOCK asked for.
    pub(super) fn new(locked: LockFlags) -> Self {
        Rules { msix_locked: locked.contains(LockFlags::LOCK_MSIX), last_bar: 0 }
    }

    /// The next range: has pages, inside the address space, MSI-X only where that was locked, and BARs ascend.
    #[inline]
    pub(super) fn admit(&mut self, index: usize, range: &MmioRange) -> Result<(), ReportError> {
        if range.page_span().is_none() {
            return Err(match range.pages {
                0 => ReportError::ZeroPages { index },
                pages => ReportError::Overflow { index, first_page: range.first_page, pages },
            });
        }
        if !self.msix_locked && range.flags.intersects(MSIX) {
            return Err(ReportError::MsixNotLocked { index });
        }
        if let Some(bar) = range.bar() {
            if bar < self.last_bar {
                return Err(ReportError::BarOrder { index, bar, after: self.last_bar });
            }
            self.last_bar = bar;
        }
        Ok(())
    }
}
