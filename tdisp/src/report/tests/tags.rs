//! The tags are compared with a page-by-page reference.

use std::collections::BTreeMap;

use super::*;

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
    let bad = |bars: &[BarWindow]| table(&[], &Terms::new(MSIX, 0, bars)).unwrap_err();
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
pub(super) type Page = (u8, u64, Attr, Option<usize>);

/// The pages of a table, one by one.
pub(super) fn expand(table: &TagTable) -> Vec<Page> {
    let pages = |tag: TaggedRange| {
        assert!(tag.len > 0, "{tag:?}");
        let starts = (tag.offset..tag.offset + tag.len).step_by(4096);
        starts.map(move |at| (tag.bar, at, tag.attr, tag.index))
    };
    table.iter().flat_map(pages).collect()
}

/// What shares a page of the host with something else is nobody's: `pages` is all that there is.
pub(super) fn merge_host_pages(pages: &mut [Page], bars: &[BarWindow], host_page: HostPage) {
    let base = |bar: u8| bars.iter().find(|window| window.bar == bar).unwrap().base;
    let kind = |attr| if attr == Attr::MsixPba { Attr::MsixTable } else { attr };
    let kinds: BTreeMap<u64, Attr> = pages.iter().map(|page| (base(page.0) + page.1, kind(page.2))).collect();
    for page in pages {
        let at = base(page.0) + page.1;
        let start = at - at % host_page.bytes();
        let whole = (start..start + host_page.bytes()).step_by(4096);
        // A neighbour in another BAR counts as another tag.
        let len = bars.iter().find(|window| window.bar == page.0).unwrap().len;
        let mine = base(page.0)..base(page.0) + len;
        let alike = |at: u64| mine.contains(&at) && kinds.get(&at) == Some(&kind(page.2));
        if !whole.into_iter().all(alike) {
            page.2 = Attr::Inaccessible;
        }
    }
}

/// One page at a time: what each page of each window is, or that the report must be refused.
fn reference(ranges: &[MmioRange], terms: &Terms<'_>) -> Option<Vec<Page>> {
    let ReportingOffset::Known(offset) = terms.offset else { panic!() };
    let address = |page: u64| (i128::from(page) - (i128::from(offset) >> 12)) * 4096;
    let inside =
        |at: i128, bar: &BarWindow| at >= bar.base.into() && at < i128::from(bar.base) + i128::from(bar.len);
    let mut last_bar = 0;
    for range in ranges {
        if range.pages == 0 || (range.flags.bits() & 3 != 0 && !terms.locked.contains(MSIX)) {
            return None;
        }
        if range.id < 8 {
            if range.id < last_bar {
                return None;
            }
            last_bar = range.id;
        }
        let home = terms.bars.iter().filter(|bar| range.id > 7 || u16::from(bar.bar) == range.id);
        let whole = |bar: &&BarWindow| {
            (0..u64::from(range.pages)).all(|page| inside(address(range.first_page + page), bar))
        };
        home.into_iter().find(whole)?;
    }
    let mut sorted = terms.bars.to_vec();
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
    merge_host_pages(&mut pages, terms.bars, terms.host_page);
    let some_private = pages.iter().any(|page| page.2 == Attr::Private);
    (some_private || !terms.needs_private).then_some(pages)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn the_tags_are_those_of_a_page_by_page_reference(
        ranges in ranges(),
        (shift, low) in (0i64..0x40_0000, 0i64..4096),
        (moved, host_shift) in (0u64..20, 12u32..17),
        (msix, needs_private) in any::<(bool, bool)>(),
        again in any::<bool>(),
    ) {
        let bars = BARS.map(|bar| BarWindow { base: bar.base + moved * 4096, ..bar });
        let at = |page: u64| page + moved + shift.unsigned_abs();
        let ranges: Vec<_> =
            ranges.iter().map(|range| MmioRange { first_page: at(range.first_page), ..*range }).collect();
        let terms = Terms {
            locked: if msix { MSIX } else { LockFlags::empty() },
            host_page: HostPage::new(1 << host_shift).unwrap(),
            needs_private,
            ..Terms::new(MSIX, shift * 4096 + low, &bars)
        };
        let mut table = TagTable::default();
        if again {
            // What it held before makes no difference.
            table.fill([MmioRange::private(0, 0x100, 3)].into_iter(), &Terms::new(MSIX, 0, &BARS)).unwrap();
        }
        let filled = table.fill(ranges.iter().copied(), &terms);
        let wanted = reference(&ranges, &terms);
        prop_assert_eq!(filled.is_ok(), wanted.is_some());
        prop_assert_eq!(expand(&table), wanted.unwrap_or_default());
        // Index and id go together.
        for tag in &table {
            prop_assert_eq!(tag.id, tag.index.map(|index| ranges[index].id));
        }
    }
}

#[test]
fn a_report_without_private_mmio_is_refused_where_the_policy_needs_some() {
    let terms = Terms { needs_private: true, ..Terms::new(MSIX, 0, &BARS) };
    let refused = |ranges: &[MmioRange], terms| table(ranges, terms).err();
    assert_eq!(refused(&[MmioRange::shared(0, 0x100, 1)], &terms), Some(ReportError::NoPrivate));
    let private = [MmioRange::private(0, 0x101, 14)];
    assert_eq!(refused(&private, &terms), None);
    // There is some, but not a whole page of the host.
    let large = Terms { host_page: HostPage::new(0x8000).unwrap(), ..terms };
    assert_eq!(refused(&private, &large), Some(ReportError::NoPrivate));
}

#[test]
fn ranges_out_of_bar_order_and_msix_that_was_not_locked_get_no_tags() {
    let ranges = [MmioRange::private(2, 0x200, 1), MmioRange::private(0, 0x100, 1)];
    assert_eq!(tag(&ranges, 0), Err(ReportError::BarOrder { index: 1, bar: 0, after: 2 }));
    let msix = [MmioRange { flags: RangeFlags::MSIX_PBA, ..MmioRange::private(0, 0x100, 1) }];
    let unlocked = Terms::new(LockFlags::empty(), 0, &BARS);
    assert_eq!(table(&msix, &unlocked).err(), Some(ReportError::MsixNotLocked { index: 0 }));
}

#[test]
fn a_host_page_with_two_tags_is_nobodys_and_names_its_ranges() {
    let ranges = [MmioRange::private(0, 0x100, 6), MmioRange::shared(0, 0x106, 10)];
    let terms = Terms { host_page: HostPage::new(0x4000).unwrap(), ..Terms::new(MSIX, 0, &BARS) };
    let tags: Vec<_> = table(&ranges, &terms).unwrap().iter().filter(|tag| tag.bar == 0).collect();
    let parts: Vec<_> = tags.iter().map(|tag| (tag.offset, tag.attr, tag.index)).collect();
    let wanted = [
        (0, Attr::Private, Some(0)),
        (0x4000, Attr::Inaccessible, Some(0)),
        (0x6000, Attr::Inaccessible, Some(1)),
        (0x8000, Attr::Shared, Some(1)),
    ];
    assert_eq!(parts, wanted);
}

#[test]
fn two_private_ranges_may_share_a_host_page_and_stay_two() {
    let ranges = [MmioRange::private(0, 0x100, 6), MmioRange { id: 9, ..MmioRange::private(0, 0x106, 10) }];
    let terms = Terms { host_page: HostPage::new(0x1_0000).unwrap(), ..Terms::new(MSIX, 0, &BARS) };
    let tags: Vec<_> = table(&ranges, &terms).unwrap().iter().filter(|tag| tag.bar == 0).collect();
    let parts: Vec<_> = tags.iter().map(|tag| (tag.len, tag.attr, tag.id)).collect();
    assert_eq!(parts, [(0x6000, Attr::Private, Some(0)), (0xA000, Attr::Private, Some(9))]);
}

#[test]
fn a_host_page_is_a_power_of_two_of_at_least_4_kib() {
    for bytes in [0, 1, 0x800, 0x1800, 0x3000, u64::MAX] {
        assert_eq!(HostPage::new(bytes), None, "{bytes:#x}");
    }
    assert_eq!(HostPage::new(0x1000), Some(HostPage::SMALL));
    assert_eq!(HostPage::new(0x1_0000).unwrap().bytes(), 0x1_0000);
}

/// A guest: where its BARs are has nothing to do with what the report counts.
fn guest(ranges: &[MmioRange]) -> Result<TagTable, ReportError> {
    table(ranges, &Terms { offset: ReportingOffset::Unknown, ..Terms::new(MSIX, 0, &BARS) })
}

#[test]
fn without_the_offset_ranges_that_fill_their_bars_are_placed_by_order_and_size() {
    let ranges = [
        MmioRange::private(0, 0xABC_0004, 12),
        MmioRange::shared(0, 0xABC_0000, 4),
        MmioRange::private(2, 0x77, 1),
        MmioRange::shared(2, 0x79, 2),
    ];
    let tags: Vec<_> = guest(&ranges).unwrap().iter().map(|tag| (tag.bar, tag.offset, tag.attr)).collect();
    let wanted = [
        (0, 0, Attr::Shared),
        (0, 0x4000, Attr::Private),
        (2, 0, Attr::Private),
        (2, 0x1000, Attr::Inaccessible),
        (2, 0x2000, Attr::Shared),
    ];
    assert_eq!(tags, wanted);
}

#[test]
fn without_the_offset_a_place_that_is_not_certain_is_refused() {
    let one = MmioRange::private(0, 0xABC_0000, 15);
    assert_eq!(guest(&[one]).err(), Some(ReportError::Ambiguous { bar: 0, span: 0xF000, len: 0x1_0000 }));
    let own = MmioRange { id: 8, pages: 16, ..one };
    assert_eq!(guest(&[own]).err(), Some(ReportError::Unplaced { index: 0, id: 8 }));
    let long = MmioRange { pages: 17, ..one };
    assert!(matches!(guest(&[long]).err(), Some(ReportError::OutsideBar { index: 0, bar: Some(0), .. })));
    let absent = MmioRange { id: 1, pages: 16, ..one };
    assert_eq!(guest(&[absent]).err(), Some(ReportError::NoSuchBar { index: 0, bar: 1 }));
    // A BAR without ranges has no place to be certain of.
    assert!(guest(&[]).is_ok());
}
