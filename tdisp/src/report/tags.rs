//! From a report to tags: which bytes of which BAR are private, shared, MSI-X, or nobody's.

use super::{InterfaceReport, MmioRange, PAGE_SIZE, RangeFlags, ReportError};
use crate::wire::{PAGE_SHIFT, PAGES_OF_ADDRESS_SPACE};
use alloc::vec::Vec;

/// Where the host put a BAR, in physical addresses.
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
    /// First page and page past the end.
    fn pages(&self) -> Option<(u64, u64)> {
        let whole = self.base % PAGE_SIZE == 0 && self.len % PAGE_SIZE == 0 && self.len > 0;
        let first = self.base >> PAGE_SHIFT;
        let end = first.checked_add(self.len >> PAGE_SHIFT)?;
        (whole && self.bar <= 7 && end <= PAGES_OF_ADDRESS_SPACE).then_some((first, end))
    }
}

/// What a page of a BAR is to the trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Attr {
    /// TEE memory: reached with T=1, in RUN.
    Private,
    /// IS_NON_TEE_MEM: the state of the TDI changes nothing.
    Shared,
    /// The locked MSI-X table (with or without the pending bits in the same page).
    MsixTable,
    /// The locked MSI-X pending bits.
    MsixPba,
    /// In no range of the report: must be mapped by nobody, neither as private nor as shared.
    Inaccessible,
}

impl Attr {
    fn of(range: &MmioRange) -> Self {
        if range.flags.contains(RangeFlags::MSIX_TABLE) {
            Attr::MsixTable
        } else if range.flags.contains(RangeFlags::MSIX_PBA) {
            Attr::MsixPba
        } else if range.flags.contains(RangeFlags::NON_TEE) {
            Attr::Shared
        } else {
            Attr::Private
        }
    }
}

/// A piece of a BAR with one tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaggedRange {
    /// The BAR.
    pub bar: u8,
    /// Where the piece starts in the BAR, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What it is.
    pub attr: Attr,
    /// The index of its range in the report (TDX names ranges so); `None` for a gap.
    pub index: Option<usize>,
    /// The id of its range (AMD names ranges so); `None` for a gap.
    pub id: Option<u16>,
}

/// The tags of every byte of every BAR, ordered by BAR and offset, without holes: what no range covers is
/// [`Attr::Inaccessible`]. `offset` is the MMIO_REPORTING_OFFSET of the LOCK.
///
/// A range with an id of 0 to 7 must lie inside that BAR; one with a larger id inside any one of them. Costs
/// O(n log n) in the number of ranges; allocates.
pub fn tags(
    report: &InterfaceReport,
    bars: &[BarWindow],
    offset: i64,
) -> Result<Vec<TaggedRange>, ReportError> {
    let windows = windows(bars)?;
    let mut pieces = Vec::with_capacity(report.ranges.len());
    for (index, range) in report.ranges.iter().enumerate() {
        let (bar, first, end) = place(index, range, &windows, offset)?;
        pieces.push(Piece { bar, first, end, index, attr: Attr::of(range), id: range.id });
    }
    pieces.sort_unstable_by_key(|piece| (piece.bar, piece.first, piece.index));
    let mut tagged = Vec::with_capacity(pieces.len().saturating_mul(2).saturating_add(windows.len()));
    let mut pieces = pieces.into_iter().peekable();
    for window in &windows {
        let mut at = window.first;
        let mut last = None;
        while let Some(piece) = pieces.next_if(|piece| piece.bar == window.bar) {
            if let (true, Some(last)) = (piece.first < at, last) {
                return Err(ReportError::overlap(piece.index, last));
            }
            window.gap(at, piece.first, &mut tagged);
            tagged.push(TaggedRange {
                index: Some(piece.index),
                id: Some(piece.id),
                ..window.tagged(piece.first, piece.end, piece.attr)
            });
            (at, last) = (piece.end, Some(piece.index));
        }
        window.gap(at, window.end, &mut tagged);
    }
    Ok(tagged)
}

/// A range of the report in physical pages.
struct Piece {
    bar: u8,
    first: u64,
    end: u64,
    index: usize,
    attr: Attr,
    id: u16,
}

/// A BAR in physical pages.
#[derive(Clone, Copy)]
struct Window {
    bar: u8,
    first: u64,
    end: u64,
}

impl Window {
    fn holds(&self, first: u64, end: u64) -> bool {
        self.first <= first && end <= self.end
    }

    /// Pages `first..end`, which lie inside the window.
    fn tagged(&self, first: u64, end: u64, attr: Attr) -> TaggedRange {
        let offset = first.saturating_sub(self.first).saturating_mul(PAGE_SIZE);
        let len = end.saturating_sub(first).saturating_mul(PAGE_SIZE);
        TaggedRange { bar: self.bar, offset, len, attr, index: None, id: None }
    }

    fn gap(&self, first: u64, end: u64, into: &mut Vec<TaggedRange>) {
        if first < end {
            into.push(self.tagged(first, end, Attr::Inaccessible));
        }
    }
}

/// The windows by BAR number, checked: whole pages, one a BAR, none over another.
fn windows(bars: &[BarWindow]) -> Result<Vec<Window>, ReportError> {
    let mut windows: Vec<Window> = Vec::with_capacity(bars.len());
    for window in bars {
        let error = ReportError::Window { bar: window.bar };
        let (first, end) = window.pages().ok_or(error.clone())?;
        let mut others = windows.iter();
        if others.any(|other| other.bar == window.bar || (first < other.end && other.first < end)) {
            return Err(error);
        }
        windows.push(Window { bar: window.bar, first, end });
    }
    windows.sort_unstable_by_key(|window| window.bar);
    Ok(windows)
}

/// The BAR and the physical pages of a range.
fn place(
    index: usize,
    range: &MmioRange,
    windows: &[Window],
    offset: i64,
) -> Result<(u8, u64, u64), ReportError> {
    let reported = range.page_span().ok_or(match range.pages {
        0 => ReportError::ZeroPages { index },
        pages => ReportError::Overflow { index, first_page: range.first_page, pages },
    })?;
    // An address is a whole number of pages, so the low bits of the offset never carry: taking back the offset's
    // whole pages (rounded down) is exact.
    let delta = offset >> PAGE_SHIFT;
    let (Some(first), Some(end)) = (take_back(reported.start, delta), take_back(reported.end, delta)) else {
        return Err(ReportError::Offset { index, offset });
    };
    let outside = |bar| ReportError::OutsideBar {
        index,
        bar,
        address: first.saturating_mul(PAGE_SIZE),
        len: u64::from(range.pages).saturating_mul(PAGE_SIZE),
    };
    let window = match range.bar() {
        Some(bar) => {
            let window = windows.iter().find(|window| window.bar == bar);
            let window = window.ok_or(ReportError::NoSuchBar { index, bar })?;
            if window.holds(first, end) { window } else { return Err(outside(Some(bar))) }
        }
        None => windows.iter().find(|window| window.holds(first, end)).ok_or_else(|| outside(None))?,
    };
    Ok((window.bar, first, end))
}

/// A reported page with the offset's pages taken back.
fn take_back(page: u64, delta: i64) -> Option<u64> {
    let magnitude = delta.unsigned_abs();
    let page = if delta < 0 { page.checked_add(magnitude) } else { page.checked_sub(magnitude) };
    page.filter(|&page| page <= PAGES_OF_ADDRESS_SPACE)
}
