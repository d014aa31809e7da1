//! Every reason to refuse a report has a test.

mod change;
mod tags;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const MSIX: LockFlags = LockFlags::LOCK_MSIX;
const BARS: [BarWindow; 2] = [
    BarWindow { bar: 0, base: 0x10_0000, len: 0x1_0000 },
    BarWindow { bar: 2, base: 0x20_0000, len: 0x4000 },
];

fn report(ranges: &[MmioRange]) -> InterfaceReport {
    InterfaceReport { ranges: ranges.to_vec(), ..InterfaceReport::default() }
}

fn parse(ranges: &[MmioRange]) -> Result<InterfaceReport, ReportError> {
    InterfaceReport::parse(&report(ranges).emit().unwrap(), LockFlags::empty())
}

fn tag(ranges: &[MmioRange], offset: i64) -> Result<Vec<TaggedRange>, ReportError> {
    table(ranges, &Terms::new(MSIX, offset, &BARS)).map(|table| table.iter().collect())
}

fn table(ranges: &[MmioRange], terms: &Terms<'_>) -> Result<TagTable, ReportError> {
    TagTable::new(ranges.iter().copied(), terms)
}

#[test]
fn a_report_that_claims_four_billion_ranges_is_refused_before_anything_is_allocated() {
    let mut bytes = report(&[MmioRange::private(0, 0x100, 1)]).emit().unwrap();
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let wanted = ReportError::RangeCount { claimed: u32::MAX, room: 1 };
    assert_eq!(ReportView::new(&bytes).err(), Some(wanted.clone()));
    assert_eq!(InterfaceReport::parse(&bytes, MSIX), Err(wanted));
}

#[test]
fn a_device_information_length_that_lies_is_refused() {
    let whole = InterfaceReport { device_info: vec![7; 5], ..report(&[MmioRange::private(0, 0x100, 1)]) };
    let good = whole.emit().unwrap();
    assert_eq!(InterfaceReport::parse(&good, MSIX), Ok(whole));
    for claimed in [0, 4, 6, 0xFFFF, u32::MAX] {
        let mut bytes = good.clone();
        bytes[32..36].copy_from_slice(&claimed.to_le_bytes());
        let wanted = ReportError::DeviceInfoLength { claimed, got: 5 };
        assert_eq!(InterfaceReport::parse(&bytes, MSIX), Err(wanted));
    }
}

#[test]
fn every_truncation_and_every_extension_of_a_report_is_refused() {
    let ranges = [MmioRange::private(0, 0x100, 1), MmioRange::shared(2, 0x200, 1)];
    let mut bytes = InterfaceReport { device_info: vec![1; 3], ..report(&ranges) }.emit().unwrap();
    for len in 0..bytes.len() {
        assert!(InterfaceReport::parse(&bytes[..len], MSIX).is_err(), "{len} bytes");
    }
    for _ in 0..40 {
        bytes.push(0);
        assert!(InterfaceReport::parse(&bytes, MSIX).is_err(), "{} bytes", bytes.len());
    }
}

#[test]
fn a_range_without_pages_is_refused() {
    let ranges = [MmioRange::private(0, 0x100, 1), MmioRange::private(0, 0x101, 0)];
    assert_eq!(parse(&ranges), Err(ReportError::ZeroPages { index: 1 }));
    assert_eq!(tag(&ranges, 0), Err(ReportError::ZeroPages { index: 1 }));
}

#[test]
fn a_range_past_the_address_space_is_refused() {
    for (first_page, pages) in [(u64::MAX, 1), (u64::MAX, u32::MAX), (1 << 52, 1), ((1 << 52) - 1, 2)] {
        let range = MmioRange::private(0, first_page, pages);
        let wanted = ReportError::Overflow { index: 0, first_page, pages };
        assert_eq!(parse(&[range]), Err(wanted.clone()));
        assert_eq!(tag(&[range], 0), Err(wanted));
    }
    assert!(parse(&[MmioRange::private(0, (1 << 52) - 1, 1)]).is_ok());
}

#[test]
fn overlapping_ranges_are_refused_wherever_they_stand() {
    let ranges = [
        MmioRange::private(0, 0x108, 2),
        MmioRange::shared(0, 0x100, 2),
        MmioRange { id: 9, ..MmioRange::private(0, 0x109, 1) },
    ];
    assert_eq!(parse(&ranges), Err(ReportError::Overlap { a: 0, b: 2 }));
    assert_eq!(tag(&ranges, 0), Err(ReportError::Overlap { a: 0, b: 2 }));
    assert_eq!(tag(&[ranges[0], ranges[0]], 0), Err(ReportError::Overlap { a: 0, b: 1 }));
}

#[test]
fn ranges_out_of_bar_order_are_refused() {
    let ranges = [MmioRange::private(2, 0x200, 1), MmioRange::private(0, 0x100, 1)];
    assert_eq!(parse(&ranges), Err(ReportError::BarOrder { index: 1, bar: 0, after: 2 }));
}

#[test]
fn msix_bits_without_the_lock_flag_are_refused() {
    for flag in [RangeFlags::MSIX_TABLE, RangeFlags::MSIX_PBA] {
        let bytes = report(&[MmioRange { flags: flag, ..MmioRange::private(0, 0x100, 1) }]).emit().unwrap();
        let wanted = ReportError::MsixNotLocked { index: 0 };
        assert_eq!(InterfaceReport::parse(&bytes, LockFlags::NO_FW_UPDATE), Err(wanted));
        assert!(InterfaceReport::parse(&bytes, MSIX).is_ok());
    }
}

#[test]
fn a_report_too_large_for_the_request_is_not_written() {
    let large = InterfaceReport { device_info: vec![0; 0x1_0000], ..InterfaceReport::default() };
    assert_eq!(large.emit(), Err(ReportError::TooLarge { size: 0x1_0014 }));
}

fn ranges() -> impl Strategy<Value = Vec<MmioRange>> {
    let range = (
        0u64..44,
        prop_oneof![1 => Just(0u32), 15 => 1u32..5],
        0u16..16,
        prop_oneof![Just(0u16), Just(2), Just(300)],
    );
    let range = range.prop_map(|(page, pages, bits, id)| {
        // Mostly inside one of the windows, sometimes not.
        let first_page = if id == 2 { 0x200 + page % 5 } else { 0xFF + page % 18 };
        MmioRange { first_page, pages, flags: RangeFlags::from_bits_retain(bits), id }
    });
    vec(range, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn any_report_that_is_written_is_read_again(
        ranges in ranges(),
        info: u16,
        (msix_control, lnr_control, tph_control) in any::<(u16, u16, u32)>(),
        device_info in vec(any::<u8>(), 0..40),
    ) {
        let info = InterfaceInfo::from_bits_retain(info);
        let report = InterfaceReport { info, msix_control, lnr_control, tph_control, ranges, device_info };
        let parsed = InterfaceReport::parse(&report.emit().unwrap(), MSIX);
        match report.check(MSIX) {
            Ok(()) => prop_assert_eq!(parsed, Ok(report)),
            Err(error) => prop_assert_eq!(parsed, Err(error)),
        }
    }

    #[test]
    fn any_bytes_are_a_report_or_refused_without_a_panic(bytes in vec(any::<u8>(), 0..120), count in 0u32..8) {
        let mut bytes = bytes;
        if let Some(field) = bytes.get_mut(12..16) {
            field.copy_from_slice(&count.to_le_bytes());
        }
        if let Ok(report) = InterfaceReport::parse(&bytes, MSIX) {
            let _ = tag(&report.ranges, 0);
        }
    }
}
