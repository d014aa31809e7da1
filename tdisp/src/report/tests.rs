//! Every reason to refuse a report has a test; the tags are compared with a page-by-page reference.

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
    tags(&report(ranges), &BARS, offset)
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
fn a_range_outside_its_bar_is_refused() {
    let outside = |range| tag(&[range], 0).unwrap_err();
    let range = MmioRange::private(0, 0x10F, 2);
    let wanted = ReportError::OutsideBar { index: 0, bar: Some(0), address: 0x10_F000, len: 0x2000 };
    assert_eq!(outside(range), wanted);
    // Inside another BAR is outside its own.
    assert!(matches!(outside(MmioRange::private(0, 0x200, 1)), ReportError::OutsideBar { bar: Some(0), .. }));
    assert!(matches!(outside(MmioRange::private(0, 0xFF, 1)), ReportError::OutsideBar { .. }));
    assert_eq!(outside(MmioRange::private(1, 0x100, 1)), ReportError::NoSuchBar { index: 0, bar: 1 });
    let device_defined = MmioRange { id: 8, ..MmioRange::private(0, 0x300, 1) };
    assert!(matches!(outside(device_defined), ReportError::OutsideBar { bar: None, .. }));
}

#[test]
fn a_device_defined_id_is_placed_by_its_address() {
    let range = MmioRange { id: 0x1234, ..MmioRange::shared(0, 0x201, 1) };
    let tags = tag(&[range], 0).unwrap();
    let wanted = TaggedRange {
        bar: 2,
        offset: 0x1000,
        len: 0x1000,
        attr: Attr::Shared,
        index: Some(0),
        id: Some(0x1234),
    };
    assert!(tags.contains(&wanted), "{tags:?}");
}

#[test]
fn an_offset_that_leads_outside_the_address_space_is_refused() {
    let range = MmioRange::private(0, 0x100, 1);
    assert_eq!(tag(&[range], i64::MAX), Err(ReportError::Offset { index: 0, offset: i64::MAX }));
    assert_eq!(tag(&[range], 0x101_000), Err(ReportError::Offset { index: 0, offset: 0x101_000 }));
    let top = MmioRange::private(0, (1 << 52) - 1, 1);
    assert_eq!(tag(&[top], i64::MIN), Err(ReportError::Offset { index: 0, offset: i64::MIN }));
}

#[test]
fn windows_that_are_no_windows_are_refused() {
    let bad = |bars: &[BarWindow]| tags(&report(&[]), bars, 0).unwrap_err();
    let good = BARS[0];
    for window in [
        BarWindow { len: 0, ..good },
        BarWindow { len: 0x800, ..good },
        BarWindow { base: 0x10_0800, ..good },
        BarWindow { base: u64::MAX - 0xFFF, len: 0x2000, ..good },
        BarWindow { bar: 8, ..good },
    ] {
        assert_eq!(bad(&[window]), ReportError::Window { bar: window.bar });
    }
    assert_eq!(bad(&[good, good]), ReportError::Window { bar: 0 });
    assert_eq!(
        bad(&[good, BarWindow { bar: 1, base: 0x10_F000, len: 0x2000 }]),
        ReportError::Window { bar: 1 }
    );
}

#[test]
fn pages_in_no_range_are_inaccessible() {
    let all = tag(&[], 0).unwrap();
    assert_eq!(all.iter().map(|tag| (tag.bar, tag.len)).collect::<Vec<_>>(), [(0, 0x1_0000), (2, 0x4000)]);
    assert!(all.iter().all(|tag| tag.attr == Attr::Inaccessible && tag.index.is_none() && tag.id.is_none()));
}

#[test]
fn msix_pages_have_a_tag_of_their_own() {
    let table = MmioRange { flags: RangeFlags::MSIX_TABLE, ..MmioRange::private(0, 0x100, 1) };
    let pba = MmioRange { flags: RangeFlags::MSIX_PBA, ..MmioRange::private(0, 0x101, 1) };
    let both = MmioRange { flags: table.flags | pba.flags, ..MmioRange::private(0, 0x102, 1) };
    let attrs: Vec<_> = tag(&[table, pba, both], 0).unwrap().iter().map(|tag| tag.attr).collect();
    assert_eq!(attrs[..3], [Attr::MsixTable, Attr::MsixPba, Attr::MsixTable]);
}

#[test]
fn an_offset_with_low_bits_is_taken_back_exactly() {
    for offset in [0x1800_i64, -0x800, -1, 1, 0xFFF] {
        let page = u64::try_from((0x10_0000 + i128::from(offset)) >> 12).unwrap();
        let tags = tag(&[MmioRange::private(0, page, 16)], offset).unwrap();
        assert_eq!((tags[0].attr, tags[0].offset, tags[0].len), (Attr::Private, 0, 0x1_0000), "{offset}");
    }
}

#[test]
fn a_report_too_large_for_the_request_is_not_written() {
    let large = InterfaceReport { device_info: vec![0; 0x1_0000], ..InterfaceReport::default() };
    assert_eq!(large.emit(), Err(ReportError::TooLarge { size: 0x1_0014 }));
}

/// The attribute bits, read once more.
fn meaning(bits: u16) -> Attr {
    match bits & 7 {
        1 | 3 | 5 | 7 => Attr::MsixTable,
        2 | 6 => Attr::MsixPba,
        4 => Attr::Shared,
        _ => Attr::Private,
    }
}

/// BAR, offset, tag, index of the range.
type Page = (u8, u64, Attr, Option<usize>);

/// One page at a time: what each page of each window is, or that the report must be refused.
fn reference(ranges: &[MmioRange], bars: &[BarWindow], offset: i64) -> Option<Vec<Page>> {
    let address = |page: u64| (i128::from(page) - (i128::from(offset) >> 12)) * 4096;
    let inside =
        |at: i128, bar: &BarWindow| at >= bar.base.into() && at < i128::from(bar.base) + i128::from(bar.len);
    for range in ranges {
        if range.pages == 0 {
            return None;
        }
        let home = bars.iter().filter(|bar| range.id > 7 || u16::from(bar.bar) == range.id);
        let whole = |bar: &&BarWindow| {
            (0..u64::from(range.pages)).all(|page| inside(address(range.first_page + page), bar))
        };
        home.into_iter().find(whole)?;
    }
    let mut sorted = bars.to_vec();
    sorted.sort_by_key(|bar| bar.bar);
    let mut pages = Vec::new();
    for bar in sorted {
        for at in (0..bar.len).step_by(4096) {
            let holds = |range: &MmioRange| {
                (0..u64::from(range.pages))
                    .any(|page| address(range.first_page + page) == i128::from(bar.base + at))
            };
            let mut owners = ranges.iter().enumerate().filter(|(_, range)| holds(range));
            let attr = match (owners.next(), owners.next()) {
                (_, Some(_)) => return None,
                (None, _) => (Attr::Inaccessible, None),
                (Some((index, range)), None) => (meaning(range.flags.bits()), Some(index)),
            };
            pages.push((bar.bar, at, attr.0, attr.1));
        }
    }
    Some(pages)
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
    fn the_tags_are_those_of_a_page_by_page_reference(ranges in ranges(), shift in 0i64..0x40_0000, low in 0i64..4096) {
        let offset = shift * 4096 + low;
        let moved: Vec<_> = ranges
            .iter()
            .map(|range| MmioRange { first_page: range.first_page + shift.unsigned_abs(), ..*range })
            .collect();
        for (ranges, offset) in [(&ranges, 0), (&moved, offset)] {
            let expanded = tags(&report(ranges), &BARS, offset).ok().map(|tags| {
                tags.iter()
                    .flat_map(|tag| {
                        let pages = (tag.offset..tag.offset + tag.len).step_by(4096);
                        pages.map(|at| (tag.bar, at, tag.attr, tag.index))
                    })
                    .collect::<Vec<_>>()
            });
            prop_assert_eq!(expanded, reference(ranges, &BARS, offset));
        }
    }

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
            let _ = tags(&report, &BARS, 0);
        }
    }
}
