//! Between a report's tags and the host's.

use super::BindError;
use super::dsm::bar_windows;
use crate::report::{Attr, HostPage, InterfaceReport, ReportError, TagTable, TaggedRange, Terms};
use crate::wire::LockRequest;
use tidegate_core::tdi::{Host, PageTag, TaggedRange as HostRange};

/// The pages in which the host says that it maps.
pub(super) fn host_page<H: Host>(host: &H) -> Result<HostPage, BindError> {
    let bytes = host.host_page();
    HostPage::new(bytes).ok_or(BindError::HostPage { bytes })
}

/// The tags of a report, in the pages of the host.
pub(super) fn read<H: Host>(
    host: &H,
    host_page: HostPage,
    report: &InterfaceReport,
    lock: &LockRequest,
) -> Result<TagTable, ReportError> {
    let bars = bar_windows(&host.bars());
    let terms = Terms { host_page, ..Terms::new(lock.flags, lock.reporting_offset, &bars) };
    TagTable::new(report.ranges.iter().copied(), &terms)
}

/// What the host is told.
pub(super) fn host_ranges(table: &TagTable) -> Vec<HostRange> {
    table.iter().map(host_range).collect()
}

fn host_range(range: TaggedRange) -> HostRange {
    let tag = match range.attr {
        Attr::Private => PageTag::Private,
        Attr::Shared => PageTag::Shared,
        Attr::MsixTable | Attr::MsixPba => PageTag::MsixLocked,
        Attr::Inaccessible => PageTag::Inaccessible,
    };
    HostRange { bar: range.bar, range: range.offset..range.offset.saturating_add(range.len), tag }
}
