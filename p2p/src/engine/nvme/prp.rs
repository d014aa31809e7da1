//! Physical region pages: where a command's bytes are, page by page (NVMe Base 2.0, 4.1.1).
//!
//! The first entry may point into a page, at a multiple of 4 bytes; each further one is a whole page. Two fit into the
//! command. If there are more, the second points to a list of all but the first, and the last place of a page of the list
//! that is not its last page points to the next page of it.

/// Memory for a list: in one piece of the device's address space, at a multiple of 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    /// Where the device finds it.
    pub(super) iova: u64,
    /// Bytes.
    pub(super) len: u64,
}

/// Bytes of a list that names `entries` pages at most and starts at a page's start, or needs no more than what is left of
/// the page that it starts in.
pub(super) fn list_bytes(entries: u64, page: u64) -> u64 {
    let per_page = page / 8;
    // The last place of each page but the last is a pointer.
    let pages = entries.saturating_sub(2) / (per_page - 1);
    8 * (entries + pages)
}

/// The two entries for one piece that needs no list. `None`: ask [`build`].
#[inline]
pub(super) fn short(address: u64, len: u64, page: u64) -> Option<(u64, u64)> {
    let first = address & (page - 1);
    // What lies beyond the first page.
    let rest = (first + len.min(2 * page)).saturating_sub(page);
    if address % 4 != 0 || len == 0 || len > 2 * page || rest > page || address > u64::MAX - 3 * page {
        return None;
    }
    Some((address, if rest == 0 { 0 } else { address - first + page }))
}

/// The two entries for the bytes of `pieces` (address and length), in order. Entries of the list are handed to `put` with
/// their offset in `area`. `None`: not possible: a piece starts or ends inside a page between others, the first one is not
/// at a multiple of 4, or the list does not fit.
pub(super) fn build(
    pieces: impl Iterator<Item = (u64, u64)> + Clone,
    page: u64,
    area: Area,
    mut put: impl FnMut(u64, u64),
) -> Option<(u64, u64)> {
    let total = count(pieces.clone(), page)?;
    let (mut first, mut second) = (0, 0);
    let (mut n, mut at) = (0_u64, 0_u64);
    for (address, len) in pieces {
        let end = address.checked_add(len)?;
        let mut entry = address;
        while entry < end {
            match n {
                0 => first = entry,
                1 if total == 2 => second = entry,
                _ => {
                    if n == 1 {
                        second = area.iova;
                    }
                    let is_last_place = (area.iova + at + 8) % page == 0;
                    if is_last_place && n + 1 < total {
                        put(at, area.iova + at + 8);
                        at += 8;
                    }
                    if at + 8 > area.len {
                        return None;
                    }
                    put(at, entry);
                    at += 8;
                }
            }
            n += 1;
            entry = (entry & !(page - 1)) + page;
        }
    }
    Some((first, second))
}

/// How many entries that takes.
fn count(pieces: impl Iterator<Item = (u64, u64)>, page: u64) -> Option<u64> {
    let (mut total, mut previous_end) = (0, None);
    for (address, len) in pieces {
        let end = address.checked_add(len).filter(|end| *end > address && *end <= u64::MAX - page)?;
        match previous_end {
            None if address % 4 != 0 => return None,
            Some(previous) if address % page != 0 || previous % page != 0 => return None,
            _ => {}
        }
        previous_end = Some(end);
        total += (end - 1) / page - address / page + 1;
    }
    (total > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const PAGE: u64 = 4096;

    /// Reads what was built as a controller would: the addresses of all bytes.
    fn walk(prp: (u64, u64), list: &BTreeMap<u64, u64>, len: u64) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        let mut left = len;
        let mut take = |address: u64, left: &mut u64| {
            let n = (PAGE - address % PAGE).min(*left);
            out.push((address, n));
            *left -= n;
        };
        take(prp.0, &mut left);
        if left == 0 {
            return out;
        }
        if left <= PAGE {
            assert_eq!(prp.1 % PAGE, 0);
            take(prp.1, &mut left);
            return out;
        }
        let mut at = prp.1;
        while left > 0 {
            let value = list[&at];
            if (at + 8) % PAGE == 0 && left > PAGE {
                at = value;
                continue;
            }
            assert_eq!(value % PAGE, 0);
            take(value, &mut left);
            at += 8;
        }
        out
    }

    fn joined(ranges: impl IntoIterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
        let mut all: Vec<(u64, u64)> = Vec::new();
        for (address, len) in ranges {
            match all.last_mut() {
                Some(last) if last.0 + last.1 == address => last.1 += len,
                _ => all.push((address, len)),
            }
        }
        all
    }

    fn check(pieces: &[(u64, u64)], iova: u64) {
        let len: u64 = pieces.iter().map(|piece| piece.1).sum();
        let area = Area { iova, len: 1 << 20 };
        let mut list = BTreeMap::new();
        let put = |at, value| assert_eq!(list.insert(iova + at, value), None, "written twice");
        let prp = build(pieces.iter().copied(), PAGE, area, put).unwrap();
        assert_eq!(joined(walk(prp, &list, len)), joined(pieces.iter().copied()));
        let entries = count(pieces.iter().copied(), PAGE).unwrap();
        if entries > 2 && iova % PAGE == 0 {
            let bytes = list.keys().max().unwrap() + 8 - iova;
            assert_eq!(bytes, list_bytes(entries - 1, PAGE));
            let tight = Area { iova, len: bytes - 8 };
            assert_eq!(
                build(pieces.iter().copied(), PAGE, tight, |_, _| ()),
                None,
                "a list that does not fit"
            );
        }
    }

    proptest! {
        #[test]
        fn a_controller_finds_exactly_the_bytes(
            start in (0_u64..1 << 30).prop_map(|n| n * 4),
            len in 1_u64..8 << 20,
            list in (1_u64 << 20..1 << 21).prop_map(|n| n * 8),
        ) {
            check(&[(start, len)], list);
            check(&[(start, len)], list & !(PAGE - 1));
        }

        #[test]
        fn pieces_that_meet_at_pages_are_one_row(
            head in 1_u64..2048,
            pages in proptest::collection::vec((1_u64..1 << 20, 1_u64..600), 0..5),
            tail in (1_u64 << 20..1 << 21, 1_u64..10_000),
            list in (1_u64 << 24..1 << 25).prop_map(|n| n * 8),
        ) {
            let mut pieces = vec![(PAGE - (head & !3).max(4), (head & !3).max(4))];
            pieces.extend(pages.iter().map(|(page, n)| (page * PAGE, n * PAGE)));
            pieces.push((tail.0 * PAGE, tail.1));
            check(&pieces, list);
        }
    }

    proptest! {
        #[test]
        fn a_short_piece_is_what_the_general_way_makes_of_it(
            address in prop_oneof![0_u64..1 << 14, any::<u64>(), u64::MAX - 0x4000..=u64::MAX],
            len in 0_u64..3 * PAGE,
        ) {
            let area = Area { iova: 0x10_0000, len: 4096 };
            let mut listed = false;
            let built = build(std::iter::once((address, len)), PAGE, area, |_, _| listed = true);
            match short(address, len, PAGE) {
                Some(entries) => prop_assert_eq!((Some(entries), false), (built, listed)),
                None => prop_assert!(built.is_none() || listed || address > u64::MAX - 3 * PAGE),
            }
        }
    }

    #[test]
    fn what_pages_can_not_say_is_refused() {
        let area = Area { iova: 0x10_0000, len: 4096 };
        let no = |pieces: &[(u64, u64)]| build(pieces.iter().copied(), PAGE, area, |_, _| ()).is_none();
        assert!(no(&[(2, 512)]), "not at a multiple of 4");
        assert!(no(&[(0, 512), (0x1000, 512)]), "a hole in the first page");
        assert!(no(&[(0, 4096), (0x2200, 512)]), "the second starts inside a page");
        assert!(no(&[]) && no(&[(0, 0)]) && no(&[(u64::MAX - 10, 100)]));
        assert!(!no(&[(0xffc, 4), (0x2000, 4096), (0x8000, 100)]));
    }
}
