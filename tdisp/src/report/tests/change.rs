//! A change of attribute flips exactly its pages, and nothing while nobody knows.

use std::ops::Range;

use super::tags::{Page, expand, merge_host_pages};
use super::*;

const OPEN: To = To::Shared { reason: "a test" };

/// Updatable private pages 0 to 5 and shared ones 6 to 7, a fixed page 8, a locked MSI-X table in page 9.
fn ranges() -> [MmioRange; 4] {
    let updatable = |range: MmioRange| MmioRange { flags: range.flags | RangeFlags::UPDATABLE, ..range };
    [
        updatable(MmioRange::private(0, 0x100, 6)),
        updatable(MmioRange::shared(0, 0x106, 2)),
        MmioRange::private(0, 0x108, 1),
        updatable(MmioRange { flags: RangeFlags::MSIX_TABLE, ..MmioRange::private(0, 0x109, 1) }),
    ]
}

fn at(host_page: u64) -> TagTable {
    let host_page = HostPage::new(host_page).unwrap();
    table(&ranges(), &Terms { host_page, ..Terms::new(MSIX, 0, &BARS) }).unwrap()
}

/// The tags of BAR 0, as long as they are alike.
fn runs(table: &TagTable) -> Vec<(u64, Attr)> {
    let tags = table.iter().filter(|tag| tag.bar == 0 && tag.index.is_some());
    tags.map(|tag| (tag.offset >> 12, tag.attr)).collect()
}

#[test]
fn private_pages_become_shared_once_the_device_says_so_and_back() {
    let mut table = at(0x1000);
    let before = runs(&table);
    let plan = table.change(0, 0x2000..0x4000, OPEN).unwrap();
    let pages = plan.pages();
    assert_eq!((pages.offset, pages.len, pages.attr), (0x2000, 0x2000, Attr::Private));
    assert_eq!((pages.index, pages.id), (Some(0), Some(0)));
    let sent = plan.quiesced(7).unmapped().request();
    assert_eq!(sent.range(), MmioRange::shared(0, 0x102, 2));
    let Outcome::Changed { now, proof: 7 } = sent.answered(true) else { panic!() };
    assert_eq!((now.offset, now.len, now.attr), (0x2000, 0x2000, Attr::Shared));
    use Attr::{MsixTable, Private, Shared};
    let open = [(0, Private), (2, Shared), (4, Private), (6, Shared), (8, Private), (9, MsixTable)];
    assert_eq!((runs(&table), table.declassified()), (open.to_vec(), 0x2000));

    let sent = table.change(0, 0x2000..0x4000, To::Private).unwrap().quiesced(()).unmapped().request();
    assert_eq!(sent.range(), MmioRange::private(0, 0x102, 2));
    assert!(matches!(sent.answered(true), Outcome::Changed { .. }));
    // What was cut is one piece again. What was published once stays counted.
    assert_eq!((runs(&table), table.declassified()), (before, 0x2000));
}

#[test]
fn a_request_that_is_refused_changes_nothing() {
    let mut table = at(0x1000);
    let before = runs(&table);
    let sent = table.change(0, 0x1000..0x2000, OPEN).unwrap().quiesced(1).unmapped().request();
    let Outcome::Unchanged { still, proof: 1 } = sent.answered(false) else { panic!() };
    assert_eq!((still.offset, still.attr), (0x1000, Attr::Private));
    assert_eq!((runs(&table), table.declassified()), (before, 0));
}

#[test]
fn a_change_given_up_before_its_request_changes_nothing() {
    let mut table = at(0x1000);
    let before = runs(&table);
    fn plan(table: &mut TagTable) -> Planned<'_> {
        table.change(0, 0x1000..0x2000, OPEN).unwrap()
    }
    drop(plan(&mut table));
    assert_eq!(plan(&mut table).quiesced(1).cancel(), 1);
    assert_eq!(plan(&mut table).quiesced(2).unmapped().cancel(), 2);
    assert_eq!(runs(&table), before);
}

#[test]
fn pages_whose_request_was_not_answered_are_nobodys_until_the_next_report() {
    for drop_it in [false, true] {
        let mut table = at(0x1000);
        let sent = table.change(0, 0x1000..0x3000, OPEN).unwrap().quiesced(3).unmapped().request();
        if drop_it {
            drop(sent)
        } else {
            assert_eq!(sent.lost(), 3)
        }
        assert_eq!(runs(&table)[..3], [(0, Attr::Private), (1, Attr::Inaccessible), (3, Attr::Private)]);
        assert_eq!(table.change(0, 0..0x2000, OPEN).err(), Some(ChangeError::InDoubt { bar: 0, at: 0x1000 }));
        // The rest can still be changed; a new report ends the doubt.
        assert!(table.change(0, 0x3000..0x4000, OPEN).is_ok());
        table.fill(ranges().into_iter(), &Terms::new(MSIX, 0, &BARS)).unwrap();
        assert_eq!(runs(&table), runs(&at(0x1000)));
    }
}

#[test]
fn the_request_counts_pages_as_the_report_does() {
    let flags = RangeFlags::UPDATABLE;
    let range = [MmioRange { flags, id: 0x1234, ..MmioRange::private(0, 0x2_0100, 16) }];
    let mut table = table(&range, &Terms::new(MSIX, 0x2000_0000 + 0x800, &BARS)).unwrap();
    let sent = table.change(0, 0x5000..0x6000, OPEN).unwrap().quiesced(()).unmapped().request();
    assert_eq!(sent.range(), MmioRange { id: 0x1234, ..MmioRange::shared(0, 0x2_0105, 1) });
}

#[test]
fn what_may_not_change_is_refused() {
    let refused = |bytes: Range<u64>, to| at(0x1000).change(0, bytes, to).err().unwrap();
    let outside = |start, end| ChangeError::Outside { bar: 0, start, end };
    assert_eq!(refused(0..0, OPEN), outside(0, 0));
    assert_eq!(refused(0x1_0000..0x1_1000, OPEN), outside(0x1_0000, 0x1_1000));
    assert_eq!(refused(0..u64::MAX, OPEN), outside(0, u64::MAX));
    let other = at(0x1000).change(1, 0..0x1000, OPEN).err();
    assert_eq!(other, Some(ChangeError::Outside { bar: 1, start: 0, end: 0x1000 }));
    for bytes in [0..0x800, 0x800..0x1000, 0x1..0x1001] {
        assert!(matches!(refused(bytes, OPEN), ChangeError::Unaligned { page: 0x1000, .. }));
    }
    assert_eq!(refused(0x8000..0x9000, OPEN), ChangeError::NotUpdatable { index: 2 });
    assert_eq!(refused(0x9000..0xA000, OPEN), ChangeError::Msix { index: 3 });
    assert_eq!(refused(0x9000..0xA000, To::Private), ChangeError::Msix { index: 3 });
    assert_eq!(refused(0xA000..0xB000, OPEN), ChangeError::NotOneRange { bar: 0, at: 0xA000 });
    assert_eq!(refused(0x5000..0x7000, OPEN), ChangeError::NotOneRange { bar: 0, at: 0x6000 });
    let already = |at, attr| ChangeError::Already { bar: 0, at, attr };
    assert_eq!(refused(0x6000..0x7000, OPEN), already(0x6000, Attr::Shared));
    assert_eq!(refused(0x0..0x1000, To::Private), already(0, Attr::Private));
}

#[test]
fn a_part_of_a_host_page_does_not_change() {
    let mut table = at(0x2000);
    let error = ChangeError::Unaligned { bar: 0, start: 0x1000, end: 0x3000, page: 0x2000 };
    assert_eq!(table.change(0, 0x1000..0x3000, OPEN).err(), Some(error));
    assert!(table.change(0, 0x2000..0x4000, OPEN).is_ok());
}

fn is_changed(outcome: Outcome<()>) -> bool {
    matches!(outcome, Outcome::Changed { .. })
}

/// What becomes of one change.
#[derive(Clone, Copy, Debug)]
enum End {
    Done,
    Refused,
    Lost,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_changes_leave_the_tags_of_a_page_by_page_reference(
        host_shift in 12u32..15,
        moved in 0u64..4,
        changes in vec(
            (0u64..12, 1u64..5, any::<bool>(), prop_oneof![3 => Just(End::Done), 1 => Just(End::Refused), 1 => Just(End::Lost)]),
            0..12,
        ),
    ) {
        let host_page = HostPage::new(1 << host_shift).unwrap();
        let bars = BARS.map(|bar| BarWindow { base: bar.base + moved * 4096, ..bar });
        let offset = -4096 * i64::try_from(moved).unwrap();
        let mut table = table(&ranges(), &Terms { host_page, ..Terms::new(MSIX, offset, &bars) }).unwrap();
        // The reference: what the device is known to hold each page of BAR 0 for.
        let kind = |page: u64| match page {
            0..6 => (Attr::Private, Some(0)),
            6..8 => (Attr::Shared, Some(1)),
            8 => (Attr::Private, Some(2)),
            9 => (Attr::MsixTable, Some(3)),
            _ => (Attr::Inaccessible, None),
        };
        let mut pages: Vec<Page> = (0..16).map(|page| (0, page * 4096, kind(page).0, kind(page).1)).collect();
        pages.extend((0..4).map(|page| (2, page * 4096, Attr::Inaccessible, None)));
        let mut doubt = [false; 16];
        for (first, len, share, end) in changes {
            let to = if share { OPEN } else { To::Private };
            let from = if share { Attr::Private } else { Attr::Shared };
            let span = first..first + len;
            let whole = |page: u64| (bars[0].base + page * 4096) % host_page.bytes() == 0;
            let legal = span.end <= 16 && whole(span.start) && whole(span.end)
                && span.clone().all(|page| {
                    let (_, _, attr, index) = pages[page as usize];
                    attr == from && !doubt[page as usize] && page < 8 && index == pages[first as usize].3
                });
            let plan = table.change(0, first * 4096..span.end * 4096, to);
            prop_assert_eq!(plan.is_ok(), legal, "{:?}", plan);
            let Ok(plan) = plan else { continue };
            let sent = plan.quiesced(()).unmapped().request();
            match end {
                End::Done => {
                    prop_assert!(is_changed(sent.answered(true)));
                    span.for_each(|page| pages[page as usize].2 = if share { Attr::Shared } else { Attr::Private });
                }
                End::Refused => prop_assert!(!is_changed(sent.answered(false))),
                End::Lost => {
                    sent.lost();
                    span.for_each(|page| doubt[page as usize] = true);
                }
            }
            let mut wanted = pages.clone();
            (0..16).filter(|&page| doubt[page]).for_each(|page| wanted[page].2 = Attr::Inaccessible);
            merge_host_pages(&mut wanted, &bars, host_page);
            prop_assert_eq!(expand(&table), wanted);
        }
    }
}
