//! What TDISP costs, as functions of their own, so that their instructions can be counted (ci/icount).
#![expect(unsafe_code, reason = "unmangled names, for the listing")]

use std::hint::black_box;
use tidegate_bench::tdisp::{self, Lock};
use tidegate_tdisp::report::{ReportError, ReportView, TagTable, Terms};
use tidegate_tdisp::wire::LockFlags;

/// How often each function is called, so that the first call does not count.
const ROUNDS: u64 = 1000;
/// How often the large report is read.
const MIXED: u64 = 10;

/// [`tdisp::lock`].
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_lock(message: &[u8], supported: LockFlags) -> Lock {
    tdisp::lock(message, supported)
}

/// [`tdisp::tags`].
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_tags(
    report: &[u8],
    terms: &Terms<'_>,
    table: &mut TagTable,
) -> Result<(), ReportError> {
    tdisp::tags(report, terms, table)
}

/// [`tdisp::tags`] of ranges whose order is the worst for it.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_reversed(
    report: &[u8],
    terms: &Terms<'_>,
    table: &mut TagTable,
) -> Result<(), ReportError> {
    // Else it is the same as the one before, and the compiler makes one of both.
    black_box(1);
    tdisp::tags(report, terms, table)
}

/// [`tdisp::tags`] of as many ranges as a report can have, in no order.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_mixed(
    report: &[u8],
    terms: &Terms<'_>,
    table: &mut TagTable,
) -> Result<(), ReportError> {
    // Else it is the same as the one before, and the compiler makes one of both.
    black_box(2);
    tdisp::tags(report, terms, table)
}

/// Every tag of the table, gaps too.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_walk(table: &TagTable) -> u64 {
    table.iter().map(|tag| tag.offset ^ tag.attr as u64).sum()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (message, lock) = tdisp::lock_request()?;
    let (bars, report) = (tdisp::bars(64), tdisp::report()?);
    let reversed = tdisp::report_of(64, |piece| 15 - piece)?;
    let terms = Terms::new(LockFlags::LOCK_MSIX, 0, &bars);
    let mut table = TagTable::default();
    for _ in 0..ROUNDS {
        assert_eq!(tidegate_hot_lock(black_box(&message), LockFlags::all()), lock);
        tidegate_hot_reversed(black_box(&reversed), &terms, &mut table)?;
        assert_eq!(table.iter().count(), 96);
        tidegate_hot_tags(black_box(&report), &terms, &mut table)?;
        assert_eq!(table.iter().count(), 96);
        black_box(tidegate_hot_walk(black_box(&table)));
    }
    // 389 and 1000 have no common factor: each place comes up once.
    let (bars, mixed) = (tdisp::bars(4000), tdisp::report_of(4000, |piece| piece * 389 % 1000)?);
    let terms = Terms::new(LockFlags::LOCK_MSIX, 0, &bars);
    table.fill(ReportView::new(&mixed)?.ranges(), &terms)?;
    for _ in 0..MIXED {
        tidegate_hot_mixed(black_box(&mixed), &terms, &mut table)?;
        assert!(table.iter().count() > 4000);
    }
    Ok(())
}
