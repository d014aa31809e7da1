//! Why a report is refused.

use thiserror::Error;

/// What is wrong with a report, and where. `index` counts the ranges of the report from zero.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The bytes end before the fixed fields do.
    #[error("the report has {got} bytes, at least {need} are needed")]
    Short {
        /// Bytes that the fixed fields need.
        need: usize,
        /// Bytes that there are.
        got: usize,
    },
    /// MMIO_RANGE_COUNT claims more ranges than there are bytes.
    #[error("the report claims {claimed} MMIO ranges and has bytes for {room}")]
    RangeCount {
        /// What the field says.
        claimed: u32,
        /// Whole ranges that fit the bytes.
        room: usize,
    },
    /// DEVICE_SPECIFIC_INFO_LEN is not the number of bytes that follow.
    #[error("the report claims {claimed} bytes of device information and has {got}")]
    DeviceInfoLength {
        /// What the field says.
        claimed: u32,
        /// Bytes that follow the field.
        got: usize,
    },
    /// A range without pages.
    #[error("MMIO range {index} has no pages")]
    ZeroPages {
        /// Which range.
        index: usize,
    },
    /// A range that ends past the 64-bit address space.
    #[error("MMIO range {index} ends past the address space: {pages} pages from page {first_page:#x}")]
    Overflow {
        /// Which range.
        index: usize,
        /// Its first page, as reported.
        first_page: u64,
        /// Its number of pages.
        pages: u32,
    },
    /// Two ranges share a page.
    #[error("MMIO ranges {a} and {b} overlap")]
    Overlap {
        /// The lower index.
        a: usize,
        /// The higher index.
        b: usize,
    },
    /// The ranges of BARs do not come in ascending BAR order.
    #[error("MMIO range {index} of BAR {bar} comes after one of BAR {after}")]
    BarOrder {
        /// Which range.
        index: usize,
        /// Its BAR.
        bar: u8,
        /// The BAR that came before.
        after: u8,
    },
    /// MSI-X bits in a range, but the lock did not ask for the MSI-X table to be locked.
    #[error("MMIO range {index} is marked as MSI-X, which was not locked")]
    MsixNotLocked {
        /// Which range.
        index: usize,
    },
    /// The reporting offset, taken back, leads outside the address space.
    #[error("MMIO range {index} is outside the address space once the offset {offset:#x} is taken back")]
    Offset {
        /// Which range.
        index: usize,
        /// MMIO_REPORTING_OFFSET.
        offset: i64,
    },
    /// The range names a BAR of which the host knows nothing.
    #[error("MMIO range {index} names BAR {bar}, which the device does not have")]
    NoSuchBar {
        /// Which range.
        index: usize,
        /// The BAR it names.
        bar: u8,
    },
    /// The range is not inside the BAR that it names, or with a device-defined id inside no BAR.
    #[error("MMIO range {index} at {address:#x}, {len:#x} bytes, is outside its BAR")]
    OutsideBar {
        /// Which range.
        index: usize,
        /// The BAR it names, where it names one.
        bar: Option<u8>,
        /// Where it starts, with the offset taken back.
        address: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// The ranges of a BAR leave open where in it they are, and MMIO_REPORTING_OFFSET is not known.
    #[error(
        "the ranges of BAR {bar} span {span:#x} bytes of {len:#x}: without the offset their place is not certain"
    )]
    Ambiguous {
        /// The BAR.
        bar: u8,
        /// Bytes from the start of the first range to the end of the last.
        span: u64,
        /// Bytes of the BAR.
        len: u64,
    },
    /// The range names no BAR, and its address says nothing without MMIO_REPORTING_OFFSET.
    #[error("MMIO range {index} with id {id:#x} names no BAR: without the offset it has no place")]
    Unplaced {
        /// Which range.
        index: usize,
        /// Its id.
        id: u16,
    },
    /// Nothing in the report can be mapped as private, and it must.
    #[error("no private MMIO in whole pages of the host")]
    NoPrivate,
    /// A window that the host gave is empty, not made of whole pages, past the address space or in the way of another.
    #[error("the window of BAR {bar} is not made of whole pages of its own")]
    Window {
        /// Which BAR.
        bar: u8,
    },
    /// The report would not fit the 16-bit offsets of GET_DEVICE_INTERFACE_REPORT.
    #[error("a report of {size} bytes is too large")]
    TooLarge {
        /// Bytes of the report.
        size: usize,
    },
}

impl ReportError {
    pub(super) fn overlap(one: usize, other: usize) -> Self {
        ReportError::Overlap { a: one.min(other), b: one.max(other) }
    }
}
