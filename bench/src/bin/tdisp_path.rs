//! What TDISP costs, as functions of their own, so that their instructions can be counted (ci/icount).
#![expect(unsafe_code, reason = "unmangled names, for the listing")]

use std::hint::black_box;
use tidegate_tdisp::report::{
    BarWindow, InterfaceReport, MmioRange, RangeFlags, ReportError, ReportView, TagTable, Terms,
};
use tidegate_tdisp::wire::{FunctionId, Head, LockFlags, LockRequest, Request, Version};

/// How often each function is called, so that the first call does not count.
const ROUNDS: u64 = 1000;

/// A LOCK_INTERFACE_REQUEST from bytes to what a device may honour: type, length, version and flags are checked.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_lock(
    message: &[u8],
    supported: LockFlags,
) -> Option<(FunctionId, LockRequest)> {
    let Ok((head, Request::Lock(lock))) = Request::parse(message) else { return None };
    let lock = lock.honoured(supported).ok().filter(|_| head.version == Version::V1_0)?;
    Some((head.interface.function, lock))
}

/// From the bytes of a report to the tags of every page: both lengths, every rule, the table. The table is filled
/// again, so nothing is allocated.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_tags(
    report: &[u8],
    terms: &Terms<'_>,
    table: &mut TagTable,
) -> Result<(), ReportError> {
    table.fill(ReportView::new(report)?.ranges(), terms)
}

/// Every tag of the table, gaps too.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_walk(table: &TagTable) -> u64 {
    table.iter().map(|tag| tag.offset ^ tag.attr as u64).sum()
}

/// 64 ranges in four BARs of 64 pages: private, shared, gaps. MSI-X in the last.
fn report() -> InterfaceReport {
    let ranges = (0..64u64).map(|n| {
        let (bar, piece) = (n / 16, n % 16);
        let first = 0x10_0000 * (bar + 1) + piece * 4;
        let range = MmioRange::private(bar as u8, first, 3 + (n % 2) as u32);
        match n {
            63 => MmioRange { flags: RangeFlags::MSIX_TABLE | RangeFlags::MSIX_PBA, ..range },
            _ if n % 3 == 0 => MmioRange { flags: RangeFlags::NON_TEE, ..range },
            _ => range,
        }
    });
    InterfaceReport { ranges: ranges.collect(), ..InterfaceReport::default() }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (flags, head) = (LockFlags::NO_FW_UPDATE | LockFlags::LOCK_MSIX, Head::v1_0(FunctionId::new(0x100)));
    let lock = LockRequest { flags, stream: 3, reporting_offset: -0x1000, p2p_address_mask: 0 };
    let mut message = [0; 36];
    lock.emit(head, &mut message)?;
    let bars: [BarWindow; 4] = std::array::from_fn(|n| BarWindow {
        bar: n as u8,
        base: 0x1_0000_0000 * (n as u64 + 1),
        len: 64 * 4096,
    });
    let terms = Terms::new(LockFlags::LOCK_MSIX, 0, &bars);
    let report = report().emit()?;
    let mut table = TagTable::default();
    for _ in 0..ROUNDS {
        let parsed = tidegate_hot_lock(black_box(&message), LockFlags::all());
        assert_eq!(parsed, Some((head.interface.function, lock)));
        tidegate_hot_tags(black_box(&report), &terms, &mut table)?;
        assert_eq!(table.iter().count(), 96);
        black_box(tidegate_hot_walk(black_box(&table)));
    }
    Ok(())
}
