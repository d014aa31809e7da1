//! What TDISP costs, as functions of their own, so that their instructions can be counted (ci/icount).
#![expect(unsafe_code, reason = "unmangled names, for the listing")]

use std::hint::black_box;
use tidegate_bench::tdisp::{self, Lock};
use tidegate_tdisp::report::{ReportError, TagTable, Terms};
use tidegate_tdisp::wire::LockFlags;

/// How often each function is called, so that the first call does not count.
const ROUNDS: u64 = 1000;

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

/// Every tag of the table, gaps too.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_walk(table: &TagTable) -> u64 {
    table.iter().map(|tag| tag.offset ^ tag.attr as u64).sum()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (message, lock) = tdisp::lock_request()?;
    let (bars, report) = (tdisp::bars(), tdisp::report()?);
    let terms = Terms::new(LockFlags::LOCK_MSIX, 0, &bars);
    let mut table = TagTable::default();
    for _ in 0..ROUNDS {
        assert_eq!(tidegate_hot_lock(black_box(&message), LockFlags::all()), lock);
        tidegate_hot_tags(black_box(&report), &terms, &mut table)?;
        assert_eq!(table.iter().count(), 96);
        black_box(tidegate_hot_walk(black_box(&table)));
    }
    Ok(())
}
