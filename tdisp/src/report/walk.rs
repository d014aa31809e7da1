//! Walks a table of tags: its pieces, the gaps between them, and what the host's pages take from both.

use core::ops::Range;

use super::tags::{Piece, tagged};
use super::window::{BARS, HostPage, Window};
use super::{Attr, TagTable, TaggedRange};

/// The tags of a table, see [`TagTable::iter`]. Linear over the whole table; allocates nothing.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    table: &'a TagTable,
    bar: u8,
    /// The next page, in the BAR.
    at: u64,
    /// Index of the next piece.
    next: usize,
    /// Each page of the report is one of the host.
    small: bool,
    /// Pieces without a gap between them whose tags go together: up to where, and the whole host pages in them.
    run_end: u64,
    whole: Range<u64>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(table: &'a TagTable) -> Self {
        Walk {
            table,
            bar: 0,
            at: 0,
            next: 0,
            small: table.host_page == HostPage::SMALL,
            run_end: 0,
            whole: 0..0,
        }
    }

    /// Finds the run that begins with `piece`, the next one.
    fn measure(&mut self, window: &Window, piece: &Piece) {
        let attr = piece.usable_as();
        let mut end = piece.end;
        let page = self.table.host_page.pages();
        for piece in self.table.pieces.get(self.next..).unwrap_or(&[]).iter().skip(1) {
            if piece.bar != self.bar || piece.first != end || !attr.goes_with(piece.usable_as()) {
                break;
            }
            end = piece.end;
        }
        // The host's pages begin at multiples in its addresses, not in the BAR. `page` is a power of two.
        let mask = page.wrapping_sub(1);
        let first = piece.first.saturating_add(window.host.saturating_add(piece.first).wrapping_neg() & mask);
        let last = end.saturating_sub(window.host.saturating_add(end) & mask);
        self.run_end = end;
        // Without one whole page of the host all of the run comes before the first.
        self.whole = if first < last { first..last } else { end..end };
    }

    /// How far the next part of the piece goes whose pages of the host are all of its kind, or none of them.
    fn part(&mut self, window: &Window, piece: &Piece) -> (u64, Attr) {
        if self.at >= self.run_end {
            self.measure(window, piece);
        }
        let (end, attr) = if self.at < self.whole.start {
            (self.whole.start, Attr::Inaccessible)
        } else if self.at < self.whole.end {
            (self.whole.end, piece.usable_as())
        } else {
            (piece.end, Attr::Inaccessible)
        };
        (end.min(piece.end), attr)
    }
}

impl Iterator for Walk<'_> {
    type Item = TaggedRange;

    fn next(&mut self) -> Option<TaggedRange> {
        let table = self.table;
        loop {
            let window = table.windows.get(self.bar).filter(|window| self.at < window.pages);
            let Some(window) = window else {
                if usize::from(self.bar) >= BARS {
                    return None;
                }
                self.bar = self.bar.saturating_add(1);
                (self.at, self.run_end) = (0, 0);
                continue;
            };
            let first = self.at;
            let piece = table.pieces.get(self.next).filter(|piece| piece.bar == self.bar);
            let Some(piece) = piece.filter(|piece| piece.first <= first) else {
                self.at = piece.map_or(window.pages, |piece| piece.first);
                return Some(tagged(self.bar, first, self.at, Attr::Inaccessible));
            };
            let (end, attr) =
                if self.small { (piece.end, piece.usable_as()) } else { self.part(window, piece) };
            self.at = end;
            if self.at == piece.end {
                self.next = self.next.saturating_add(1);
            }
            let (index, id) = (Some(piece.index), Some(piece.id));
            return Some(TaggedRange { index, id, ..tagged(self.bar, first, self.at, attr) });
        }
    }
}
