//! Messages of TDISP as a device and a host meet them: what `ci/icount` counts and `ci/bench` times.

use crate::missing::{Missing, Setup, missing};
use tidegate_tdisp::report::{
    BarWindow, InterfaceReport, MmioRange, RangeFlags, ReportError, ReportView, TagTable, Terms,
};
use tidegate_tdisp::wire::{FunctionId, Head, LockFlags, LockRequest, Request, Version};

/// What a device finds in a LOCK_INTERFACE_REQUEST: the TDI, and what it is asked to keep.
pub type Lock = Option<(FunctionId, LockRequest)>;

/// A LOCK_INTERFACE_REQUEST from bytes to what a device may honour: type, length, version and flags are checked.
#[inline(always)]
pub fn lock(message: &[u8], supported: LockFlags) -> Lock {
    let Ok((head, Request::Lock(lock))) = Request::parse(message) else { return None };
    let lock = lock.honoured(supported).ok().filter(|_| head.version == Version::V1_0)?;
    Some((head.interface.function, lock))
}

/// From the bytes of a report to the tags of every page: both lengths, every rule, the table. The table is filled
/// again, so nothing is allocated.
///
/// # Errors
/// The report breaks a rule.
#[inline(always)]
pub fn tags(report: &[u8], terms: &Terms<'_>, table: &mut TagTable) -> Result<(), ReportError> {
    table.fill(ReportView::new(report)?.ranges(), terms)
}

/// A LOCK_INTERFACE_REQUEST with two flags, and what it means.
///
/// # Errors
/// It can't be written; never seen.
pub fn lock_request() -> Setup<([u8; 36], Lock)> {
    let (flags, head) = (LockFlags::NO_FW_UPDATE | LockFlags::LOCK_MSIX, Head::v1_0(FunctionId::new(0x100)));
    let lock = LockRequest { flags, stream: 3, reporting_offset: -0x1000, p2p_address_mask: 0 };
    let mut message = [0; 36];
    lock.emit(head, &mut message).map_err(missing)?;
    Ok((message, Some((head.interface.function, lock))))
}

/// The BARs of a report of so many ranges.
pub fn bars(ranges: u64) -> [BarWindow; 4] {
    let base = |n| 0x1_0000_0000 * (n as u64 + 1);
    std::array::from_fn(|n| BarWindow { bar: n as u8, base: base(n), len: ranges * 4096 })
}

/// 64 ranges in four BARs of 64 pages: private, shared, gaps; MSI-X in the last. 96 tags.
///
/// # Errors
/// It can't be written; never seen.
pub fn report() -> Result<Vec<u8>, Missing> {
    report_of(64, |piece| piece)
}

/// The same with `count` ranges, those of each BAR in an order of the device's choice: `place` says where the n-th is.
///
/// # Errors
/// It can't be written: more than 4000 ranges.
pub fn report_of(count: u64, place: impl Fn(u64) -> u64) -> Result<Vec<u8>, Missing> {
    let ranges = (0..count).map(|n| {
        let (bar, piece) = (n / (count / 4), place(n % (count / 4)));
        let first = 0x10_0000 * (bar + 1) + piece * 4;
        let range = MmioRange::private(bar as u8, first, 3 + (n % 2) as u32);
        match n {
            _ if n == count - 1 => {
                MmioRange { flags: RangeFlags::MSIX_TABLE | RangeFlags::MSIX_PBA, ..range }
            }
            _ if n % 3 == 0 => MmioRange { flags: RangeFlags::NON_TEE, ..range },
            _ => range,
        }
    });
    let report = InterfaceReport { ranges: ranges.collect(), ..InterfaceReport::default() };
    report.emit().map_err(missing)
}
