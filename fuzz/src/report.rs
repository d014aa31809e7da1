//! The interface report.

use crate::{Group, Seen, same_but_reserved};
use tidegate_tdisp::report::{InterfaceReport, ReportView};
use tidegate_tdisp::wire::LockFlags;

fn report(input: &[u8]) -> Seen {
    let Ok(view) = ReportView::new(input) else { return Seen::Refused };
    let ranges = view.ranges().len();
    assert!(ranges <= input.len() / 16, "{ranges} ranges in {} bytes", input.len());
    let Ok(report) = InterfaceReport::parse(input, LockFlags::all()) else { return Seen::Refused };
    match report.emit() {
        Ok(out) => same_but_reserved(input, &out, &[(2, 0xFF), (3, 0xFF)]),
        Err(error) => assert!(input.len() > usize::from(u16::MAX), "{error}"),
    }
    Seen::Taken
}

pub(crate) const TARGETS: Group = &[("report", report)];
