//! Where the host put the BARs, in what the report counts them from, and in which pages the host maps.

use super::{MmioRange, PAGE_SIZE, ReportError};
use crate::wire::{PAGE_SHIFT, PAGES_OF_ADDRESS_SPACE};

/// BARs that range ids can name: 0 to 7, as Enhanced Allocation counts them.
pub(super) const BARS: usize = 8;

/// Where the host put a BAR, in the addresses in which it maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarWindow {
    /// The number of the BAR (0 to 7, as range ids count them).
    pub bar: u8,
    /// Its address; a multiple of [`PAGE_SIZE`].
    pub base: u64,
    /// Its length in bytes; a multiple of [`PAGE_SIZE`], not zero.
    pub len: u64,
}

impl BarWindow {
    /// First page and number of pages.
    fn pages(&self) -> Option<(u64, u64)> {
        let whole = self.base % PAGE_SIZE == 0 && self.len % PAGE_SIZE == 0 && self.len > 0;
        let (first, pages) = (self.base >> PAGE_SHIFT, self.len >> PAGE_SHIFT);
        (whole && first.checked_add(pages)? <= PAGES_OF_ADDRESS_SPACE).then_some((first, pages))
    }
}

/// The pages in which the host maps: 4 KiB or larger. Two tags in one of them cannot be kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPage {
    shift: u32,
}

impl HostPage {
    /// 4 KiB, the pages of the report.
    pub const SMALL: HostPage = HostPage { shift: PAGE_SHIFT };

    /// `None` where it is not a power of two, or smaller than 4 KiB.
    pub const fn new(bytes: u64) -> Option<HostPage> {
        if bytes.is_power_of_two() && bytes >= PAGE_SIZE {
            Some(HostPage { shift: bytes.trailing_zeros() })
        } else {
            None
        }
    }

    /// Its bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// Pages of the report in one of the host: a power of two.
    pub(super) const fn pages(self) -> u64 {
        self.bytes() >> PAGE_SHIFT
    }
}

impl Default for HostPage {
    fn default() -> Self {
        HostPage::SMALL
    }
}

/// What the reader of a report knows of MMIO_REPORTING_OFFSET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportingOffset {
    /// The value of the LOCK: who locked knows it, and the windows are at the addresses that the device was given.
    Known(i64),
    /// A guest was told neither it nor the physical addresses. Only reports are then placed that leave no choice:
    /// each range names its BAR, and the ranges of a BAR reach from its first page to its last.
    Unknown,
}

/// One BAR, in pages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// Its length; zero for a BAR that is not there.
    pub(super) pages: u64,
    /// Its first page in the host's addresses: where the host's pages begin is counted there.
    pub(super) host: u64,
    /// Its first page as the report counts, modulo 2^64.
    pub(super) reported: u64,
}

impl Window {
    /// Where the range begins in the BAR; `None` where it is not wholly inside.
    ///
    /// Exact in wrapping arithmetic: page numbers and offsets are below 2^53, so a difference is below the length of a
    /// window (at most 2^52) only if the true one is.
    #[inline]
    fn place(&self, range: &MmioRange) -> Option<u64> {
        let first = range.first_page.wrapping_sub(self.reported);
        (u64::from(range.pages) <= self.pages && first <= self.pages.wrapping_sub(u64::from(range.pages)))
            .then_some(first)
    }
}

/// The BARs of a device, checked: whole pages, one a number, none over another.
#[derive(Clone, Debug, Default)]
pub(super) struct Windows([Window; BARS]);

impl Windows {
    pub(super) fn new(bars: &[BarWindow]) -> Result<Self, ReportError> {
        let mut windows = Windows::default();
        for bar in bars {
            let error = ReportError::Window { bar: bar.bar };
            let Some((host, pages)) = bar.pages() else { return Err(error) };
            let end = host.saturating_add(pages);
            let over = |other: &Window| host < other.host.saturating_add(other.pages) && other.host < end;
            if windows.0.iter().any(|other| other.pages > 0 && over(other)) {
                return Err(error);
            }
            match windows.0.get_mut(usize::from(bar.bar)) {
                Some(window) if window.pages == 0 => *window = Window { pages, host, reported: host },
                _ => return Err(error),
            }
        }
        Ok(windows)
    }

    /// The BAR of this number; `None` where it is not there.
    #[inline]
    pub(super) fn get(&self, bar: u8) -> Option<&Window> {
        self.0.get(usize::from(bar)).filter(|window| window.pages > 0)
    }

    /// Says from where the report counts.
    pub(super) fn count_from(
        &mut self,
        offset: ReportingOffset,
        ranges: impl Iterator<Item = MmioRange>,
    ) -> Result<(), ReportError> {
        match offset {
            // An address is a whole number of pages, so the low bits of the offset never carry: its whole pages
            // (rounded down) are exact.
            ReportingOffset::Known(offset) => {
                for window in &mut self.0 {
                    window.reported = window.host.wrapping_add_signed(offset >> PAGE_SHIFT);
                }
                Ok(())
            }
            ReportingOffset::Unknown => self.count_from_the_lowest(ranges),
        }
    }

    #[cold]
    fn count_from_the_lowest(&mut self, ranges: impl Iterator<Item = MmioRange>) -> Result<(), ReportError> {
        let mut spans = [(u64::MAX, 0); BARS];
        for (index, range) in ranges.enumerate() {
            let bar = range.bar().ok_or(ReportError::Unplaced { index, id: range.id })?;
            if let (Some(pages), Some((first, end))) = (range.page_span(), spans.get_mut(usize::from(bar))) {
                (*first, *end) = (pages.start.min(*first), pages.end.max(*end));
            }
        }
        for ((window, (first, end)), bar) in self.0.iter_mut().zip(spans).zip(0..) {
            let span = end.saturating_sub(first);
            // One that is longer than its BAR is refused where its ranges are placed.
            if window.pages > 0 && span > 0 && span < window.pages {
                let bytes = |pages: u64| pages.saturating_mul(PAGE_SIZE);
                return Err(ReportError::Ambiguous { bar, span: bytes(span), len: bytes(window.pages) });
            }
            window.reported = first;
        }
        Ok(())
    }

    /// The BAR of a range, and where it begins in it.
    #[inline]
    pub(super) fn place(
        &self,
        index: usize,
        range: &MmioRange,
        offset: ReportingOffset,
    ) -> Result<(u8, u64), ReportError> {
        let found = match range.bar() {
            Some(bar) => self.get(bar).and_then(|window| window.place(range)).map(|first| (bar, first)),
            None => self.anywhere(range),
        };
        found.ok_or_else(|| self.misplaced(index, range, offset))
    }

    /// A device-defined id names no BAR: its address does.
    #[cold]
    fn anywhere(&self, range: &MmioRange) -> Option<(u8, u64)> {
        self.0.iter().zip(0..).find_map(|(window, bar)| window.place(range).map(|first| (bar, first)))
    }

    /// Why a range has no place.
    #[cold]
    fn misplaced(&self, index: usize, range: &MmioRange, offset: ReportingOffset) -> ReportError {
        let bar = range.bar();
        if let Some(bar) = bar.filter(|&bar| self.get(bar).is_none()) {
            return ReportError::NoSuchBar { index, bar };
        }
        let (address, outside) = match offset {
            ReportingOffset::Known(offset) => {
                let pages = offset >> PAGE_SHIFT;
                let back = |page: u64| {
                    let magnitude = pages.unsigned_abs();
                    let page =
                        if pages < 0 { page.checked_add(magnitude) } else { page.checked_sub(magnitude) };
                    page.filter(|&page| page <= PAGES_OF_ADDRESS_SPACE)
                };
                match (back(range.first_page), back(range.first_page.saturating_add(range.pages.into()))) {
                    (Some(first), Some(_)) => (first, None),
                    _ => (range.first_page, Some(ReportError::Offset { index, offset })),
                }
            }
            ReportingOffset::Unknown => (range.first_page, None),
        };
        outside.unwrap_or(ReportError::OutsideBar {
            index,
            bar,
            address: address.saturating_mul(PAGE_SIZE),
            len: u64::from(range.pages).saturating_mul(PAGE_SIZE),
        })
    }
}
