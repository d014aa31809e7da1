//! Address spaces: what a device address means.

use super::memory::Memory;
use super::record::Refusal;
use crate::backend::{Rights, Trust};
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What every address and length of a mapping is a multiple of.
pub(super) const PAGE: u64 = 4096;
/// Where device addresses may lie: 48 bits without the interrupt range.
pub(super) const USABLE: [RangeInclusive<u64>; 2] = [0..=0xfedf_ffff, 0xfef0_0000..=0xffff_ffff_ffff];

/// A range of a BAR that left its function.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) exporter: usize,
    pub(super) bar: u8,
    pub(super) range: Range<u64>,
    state: AtomicU8,
}

const LIVE: u8 = 0;
const REVOKED: u8 = 1;
const CLOSED: u8 = 2;

impl Export {
    pub(super) fn new(exporter: usize, bar: u8, range: Range<u64>, live: bool) -> Export {
        Export { exporter, bar, range, state: AtomicU8::new(if live { LIVE } else { REVOKED }) }
    }

    pub(super) fn is_live(&self) -> bool {
        self.state.load(Ordering::Acquire) == LIVE
    }

    /// Revokes or un-revokes; a closed export stays closed.
    pub(super) fn set_live(&self, live: bool) {
        let (from, to) = if live { (REVOKED, LIVE) } else { (LIVE, REVOKED) };
        // In any other state there is nothing to change.
        let _unchanged = self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Revokes for ever.
    pub(super) fn close(&self) {
        self.state.store(CLOSED, Ordering::Release);
    }
}

/// A mapping.
#[derive(Debug)]
pub(super) struct Area {
    pub(super) len: u64,
    pub(super) to: Behind,
    pub(super) rights: Rights,
    pub(super) trust: Trust,
    /// Revoked once: it occupies its addresses and translates nothing, for good.
    pub(super) dead: bool,
}

/// What a mapping leads to.
#[derive(Debug, Clone)]
pub(super) enum Behind {
    /// Host memory from an offset on. Answers T=0 and T=1: whose pages are whose is not modelled.
    Memory(Memory, u64),
    /// An imported window.
    Window(Arc<Export>),
}

/// Where a piece of a request goes.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Memory(Memory, u64),
    Bar { function: usize, bar: u8, at: u64 },
}

/// A piece of a request: where it starts in it, its length, and where it goes.
pub(super) type Piece = (u64, u64, Result<Place, Refusal>);

/// One address space.
#[derive(Debug, Default)]
pub(super) struct Table {
    areas: BTreeMap<u64, Area>,
}

impl Table {
    /// Enters a mapping; gives the area back when something is there.
    pub(super) fn map(&mut self, iova: u64, area: Area) -> Result<(), Area> {
        let end = iova + area.len;
        let before = self.areas.range(..end).next_back();
        if before.is_some_and(|(start, old)| start + old.len > iova) {
            return Err(area);
        }
        self.areas.insert(iova, area);
        Ok(())
    }

    /// Removes whole mappings; `None` when there are none, or one sticks out.
    pub(super) fn unmap(&mut self, iova: u64, len: u64) -> Option<u64> {
        let end = iova.checked_add(len)?;
        let sticks_out = |(start, area): (&u64, &Area)| *start < iova || start + area.len > end;
        if self.areas.range(..end).filter(|(start, area)| *start + area.len > iova).any(sticks_out) {
            return None;
        }
        let inside: Vec<u64> = self.areas.range(iova..end).map(|(start, _)| *start).collect();
        let bytes: u64 =
            inside.iter().filter_map(|start| self.areas.remove(start)).map(|area| area.len).sum();
        (bytes > 0).then_some(bytes)
    }

    /// Cuts a request at the borders of mappings.
    pub(super) fn translate(&self, address: u64, len: u64, t: bool, write: bool) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < len {
            let Some(at) = address.checked_add(done) else {
                pieces.push((done, len - done, Err(Refusal::Unmapped)));
                break;
            };
            let here = self.areas.range(..=at).next_back().filter(|(start, area)| at - **start < area.len);
            let (size, place) = match here {
                Some((start, area)) => {
                    ((area.len - (at - start)).min(len - done), area.place(at - start, t, write))
                }
                None => {
                    let left = len - done;
                    let next = self.areas.range(at..).next().map_or(left, |(start, _)| start - at);
                    (next.min(left), Err(Refusal::Unmapped))
                }
            };
            pieces.push((done, size, place));
            done += size;
        }
        pieces
    }

    /// Live windows of a function: their addresses, and the BAR and bytes of it that they lead to.
    pub(super) fn windows_of(&self, exporter: usize) -> impl Iterator<Item = (u64, u8, Range<u64>)> + '_ {
        self.areas.iter().filter_map(move |(iova, area)| match &area.to {
            Behind::Window(export) if area.is_window_of(exporter) => {
                let start = export.range.start;
                Some((*iova, export.bar, start..start + area.len))
            }
            _ => None,
        })
    }

    /// The exporter revoked: its windows die.
    pub(super) fn kill_windows_of(&mut self, exporter: usize) {
        self.areas.values_mut().filter(|area| area.is_window_of(exporter)).for_each(|area| area.dead = true);
    }
}

impl Area {
    fn is_window_of(&self, function: usize) -> bool {
        !self.dead && matches!(&self.to, Behind::Window(export) if export.exporter == function)
    }

    fn place(&self, at: u64, t: bool, write: bool) -> Result<Place, Refusal> {
        let allowed = match self.rights {
            Rights::ReadWrite => true,
            Rights::Write => write,
            Rights::Read => !write,
        };
        match &self.to {
            _ if self.dead => Err(Refusal::Unmapped),
            Behind::Window(_) if t != (self.trust == Trust::Private) => Err(Refusal::Unmapped),
            _ if !allowed => Err(Refusal::Rights),
            Behind::Memory(memory, offset) => Ok(Place::Memory(memory.clone(), offset + at)),
            Behind::Window(export) => {
                Ok(Place::Bar { function: export.exporter, bar: export.bar, at: export.range.start + at })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(len: u64, rights: Rights, trust: Trust) -> Area {
        let export = Arc::new(Export::new(3, 0, 0x8000..0x8000 + len, true));
        Area { len, to: Behind::Window(export), rights, trust, dead: false }
    }

    fn outcomes(
        table: &Table,
        address: u64,
        len: u64,
        t: bool,
        write: bool,
    ) -> Vec<(u64, u64, Option<Refusal>)> {
        table.translate(address, len, t, write).into_iter().map(|(a, l, p)| (a, l, p.err())).collect()
    }

    #[test]
    fn requests_are_cut_at_the_borders_of_mappings() {
        let mut table = Table::default();
        table.map(0x1000, window(0x1000, Rights::ReadWrite, Trust::Shared)).unwrap();
        table.map(0x2000, window(0x1000, Rights::Read, Trust::Shared)).unwrap();
        let got = outcomes(&table, 0x800, 0x3000, false, true);
        let want = [
            (0, 0x800, Some(Refusal::Unmapped)),
            (0x800, 0x1000, None),
            (0x1800, 0x1000, Some(Refusal::Rights)),
            (0x2800, 0x800, Some(Refusal::Unmapped)),
        ];
        assert_eq!(got, want);
        let nowhere = outcomes(&table, u64::MAX - 3, 8, false, true);
        assert_eq!(nowhere, [(0, 8, Some(Refusal::Unmapped))]);
    }

    #[test]
    fn a_dead_area_keeps_its_addresses_until_it_is_unmapped() {
        let mut table = Table::default();
        table.map(0x1000, window(0x2000, Rights::ReadWrite, Trust::Shared)).unwrap();
        table.kill_windows_of(3);
        assert_eq!(outcomes(&table, 0x1000, 8, false, false), [(0, 8, Some(Refusal::Unmapped))]);
        assert!(table.map(0x2000, window(0x1000, Rights::Read, Trust::Shared)).is_err());
        assert_eq!(table.unmap(0x1000, 0x1000), None, "a partial cover removes nothing");
        assert_eq!(table.unmap(0x1000, 0x2000), Some(0x2000));
        assert_eq!(table.unmap(0x1000, 0x2000), None);
        assert!(table.map(0x2000, window(0x1000, Rights::Read, Trust::Shared)).is_ok());
    }

    #[test]
    fn a_window_answers_one_t_bit_only() {
        let mut table = Table::default();
        table.map(0x1000, window(0x1000, Rights::ReadWrite, Trust::Private)).unwrap();
        assert_eq!(outcomes(&table, 0x1000, 8, false, true), [(0, 8, Some(Refusal::Unmapped))]);
        assert_eq!(outcomes(&table, 0x1000, 8, true, true), [(0, 8, None)]);
    }

    #[test]
    fn a_closed_export_never_lives_again() {
        let export = Export::new(0, 0, 0..4096, false);
        export.set_live(true);
        assert!(export.is_live());
        export.close();
        export.set_live(true);
        assert!(!export.is_live());
    }
}
