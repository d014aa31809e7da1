//! From a report to tags: which bytes of which BAR are private, shared, MSI-X, or nobody's.

use super::rules::Rules;
use super::walk::Walk;
use super::window::{HostPage, ReportingOffset, Windows};
use super::{BarWindow, MmioRange, RangeFlags, ReportError};
use crate::wire::{LockFlags, PAGE_SHIFT};
use alloc::vec::Vec;

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
    /// Must be mapped by nobody, neither as private nor as shared: in no range of the report, in a page of the host
    /// together with another tag, or in a change of attribute whose end was not seen.
    Inaccessible,
}

impl Attr {
    fn of(flags: RangeFlags) -> Self {
        if flags.contains(RangeFlags::MSIX_TABLE) {
            Attr::MsixTable
        } else if flags.contains(RangeFlags::MSIX_PBA) {
            Attr::MsixPba
        } else if flags.contains(RangeFlags::NON_TEE) {
            Attr::Shared
        } else {
            Attr::Private
        }
    }

    /// Whether a page of the host may hold both.
    pub(super) fn goes_with(self, other: Attr) -> bool {
        let msix = |attr| matches!(attr, Attr::MsixTable | Attr::MsixPba);
        self == other || (msix(self) && msix(other))
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

/// What the reader of a report knows besides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms<'a> {
    /// The flags of the LOCK.
    pub locked: LockFlags,
    /// MMIO_REPORTING_OFFSET of the LOCK.
    pub offset: ReportingOffset,
    /// Where the BARs are.
    pub bars: &'a [BarWindow],
    /// In which pages the host maps.
    pub host_page: HostPage,
    /// Refuse a report after which nothing can be mapped as private.
    pub needs_private: bool,
}

impl<'a> Terms<'a> {
    /// The terms of who sent `locked` and `offset` in its LOCK; pages of 4 KiB, and no private range is needed.
    pub fn new(locked: LockFlags, offset: i64, bars: &'a [BarWindow]) -> Self {
        let offset = ReportingOffset::Known(offset);
        Terms { locked, offset, bars, host_page: HostPage::SMALL, needs_private: false }
    }
}

/// A range of the report, or a part of one, in pages from the start of its BAR.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) index: usize,
    pub(super) id: u16,
    pub(super) bar: u8,
    /// What the device is known to hold it for.
    pub(super) attr: Attr,
    pub(super) updatable: bool,
    /// A change is under way: the device may hold it for either.
    pub(super) held: bool,
}

impl Piece {
    /// What it may be mapped as now.
    pub(super) fn usable_as(&self) -> Attr {
        if self.held { Attr::Inaccessible } else { self.attr }
    }
}

/// The tags of every byte of every BAR, made from a report, and changed by
/// [SET_MMIO_ATTRIBUTE](TagTable::change) alone: the report shows the values at LOCK for ever.
///
/// # Invariants
/// 1. `pieces` are ordered by BAR and first page, inside their windows, and none overlaps another.
/// 2. A piece is `held` exactly while the one change under way is about it.
#[derive(Clone, Debug, Default)]
pub struct TagTable {
    pub(super) windows: Windows,
    pub(super) host_page: HostPage,
    pub(super) pieces: Vec<Piece>,
    pub(super) ledger: super::change::Ledger,
}

impl TagTable {
    /// The tags of a report. One allocation.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub fn new<I>(ranges: I, terms: &Terms<'_>) -> Result<Self, ReportError>
    where
        I: ExactSizeIterator<Item = MmioRange> + Clone,
    {
        let mut table = TagTable::default();
        table.fill(ranges, terms)?;
        Ok(table)
    }

    /// Forgets what it holds, changes of attributes too, and takes the tags of another report: `ranges` in its order.
    /// Allocates only where it never had so many ranges. Linear for ranges in the order of their addresses,
    /// O(n log n) for others.
    ///
    /// # Errors
    /// A range without pages or past the address space, MSI-X bits where the lock did not ask for
    /// [`LockFlags::LOCK_MSIX`], ranges out of BAR order, one that is not inside the BAR that its id names (with a
    /// device-defined id: inside no BAR), ranges that overlap, no private range where the terms need one, windows that
    /// are none, and with an unknown offset ranges whose place is not certain. The table is empty then: no BAR is in it.
    pub fn fill<I>(&mut self, ranges: I, terms: &Terms<'_>) -> Result<(), ReportError>
    where
        I: ExactSizeIterator<Item = MmioRange> + Clone,
    {
        self.clear();
        let filled = self.read(ranges, terms);
        if filled.is_err() {
            self.clear();
        }
        filled
    }

    /// Every tag, by BAR and offset, without holes: what no range covers is [`Attr::Inaccessible`], and so is what
    /// shares a page of the host with another tag or with what is not of the BAR (with the index and the id of its
    /// range). Locked MSI-X table and pending bits may share one. Two ranges never become one piece.
    pub fn iter(&self) -> Walk<'_> {
        Walk::new(self)
    }

    fn clear(&mut self) {
        self.pieces.clear();
        self.windows = Windows::default();
        self.ledger.forget();
    }

    fn read<I>(&mut self, ranges: I, terms: &Terms<'_>) -> Result<(), ReportError>
    where
        I: ExactSizeIterator<Item = MmioRange> + Clone,
    {
        self.windows = Windows::new(terms.bars)?;
        self.windows.count_from(terms.offset, ranges.clone())?;
        self.host_page = terms.host_page;
        self.pieces.reserve(ranges.len());
        let mut rules = Rules::new(terms.locked);
        let (mut sorted, mut last) = (true, (0, 0));
        for (index, range) in ranges.enumerate() {
            rules.admit(index, &range)?;
            let (bar, first) = self.windows.place(index, &range, terms.offset)?;
            sorted &= last <= (bar, first);
            last = (bar, first);
            self.pieces.push(Piece {
                first,
                // Inside its window, so below 2^52.
                end: first.saturating_add(range.pages.into()),
                index,
                id: range.id,
                bar,
                attr: Attr::of(range.flags),
                updatable: range.flags.contains(RangeFlags::UPDATABLE),
                held: false,
            });
        }
        if !sorted {
            self.pieces.sort_unstable_by_key(|piece| (piece.bar, piece.first, piece.index));
        }
        self.refuse_overlaps()?;
        if terms.needs_private && !self.iter().any(|tag| tag.attr == Attr::Private) {
            return Err(ReportError::NoPrivate);
        }
        Ok(())
    }

    fn refuse_overlaps(&self) -> Result<(), ReportError> {
        let mut pieces = self.pieces.iter();
        let Some(mut before) = pieces.next() else { return Ok(()) };
        for piece in pieces {
            if piece.bar == before.bar && piece.first < before.end {
                return Err(ReportError::overlap(piece.index, before.index));
            }
            before = piece;
        }
        Ok(())
    }
}

impl<'a> IntoIterator for &'a TagTable {
    type Item = TaggedRange;
    type IntoIter = Walk<'a>;

    fn into_iter(self) -> Walk<'a> {
        self.iter()
    }
}

/// Pages `first..end` of a BAR, as bytes.
#[inline]
pub(super) fn tagged(bar: u8, first: u64, end: u64, attr: Attr) -> TaggedRange {
    // Below 2^52, so nothing is shifted out.
    let (offset, len) = (first << PAGE_SHIFT, end.wrapping_sub(first) << PAGE_SHIFT);
    TaggedRange { bar, offset, len, attr, index: None, id: None }
}
