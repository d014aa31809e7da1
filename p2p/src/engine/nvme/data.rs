//! Where an operation's bytes are, as its command says it.

use super::abi::PAGE;
use super::command::Data;
use super::identify::Sgl;
use super::prp::{self, Area};
use super::sgl;
use crate::backend::Backend;
use crate::device::DmaMemory;
use tidegate_core::engine::Target;

/// Most pieces of a list in one command: so many descriptors fit.
const PIECES: u64 = 64;

/// How the controller is told, and memory for lists: an area for each operation in flight.
pub(super) struct Pointers {
    /// `None`: by pages.
    sgl: Option<Sgl>,
    area: u64,
}

impl Pointers {
    /// For operations of `most` bytes.
    pub(super) fn new(sgl: Option<Sgl>, most: u64) -> Pointers {
        // One that starts in the middle of a page reaches one page further; the first page is in the command.
        let pages = prp::list_bytes(most.div_ceil(PAGE), PAGE);
        let bytes = if sgl.is_some() { PIECES * sgl::DESCRIPTOR_LEN } else { pages };
        // An area within a page crosses none; a longer one starts one.
        let area = if bytes > PAGE { bytes.next_multiple_of(PAGE) } else { bytes.next_power_of_two() };
        Pointers { sgl, area }
    }

    /// Bytes of the areas of so many operations.
    pub(super) fn bytes(&self, operations: u64) -> u64 {
        operations * self.area
    }

    /// One piece, by operation `index`. `None`: the controller does not take it.
    #[inline]
    pub(super) fn one<B: Backend>(&self, areas: &DmaMemory<B>, index: u64, piece: &Target) -> Option<Data> {
        match self.sgl {
            Some(unit) => {
                let fits = unit == Sgl::Bytes || (piece.address | piece.len) % 4 == 0;
                let (first, second) = sgl::one(piece.address, u32::try_from(piece.len).ok()?);
                fits.then_some(Data::Sgl(first, second))
            }
            None => match prp::short(piece.address, piece.len, PAGE) {
                Some((first, second)) => Some(Data::Prp(first, second)),
                None => self.by_pages(areas, index, std::iter::once((piece.address, piece.len))),
            },
        }
    }

    /// Many pieces.
    pub(super) fn many<B: Backend>(
        &self,
        areas: &DmaMemory<B>,
        index: u64,
        pieces: &[Target],
    ) -> Option<Data> {
        let each = pieces.iter().map(|piece| (piece.address, piece.len));
        let Some(unit) = self.sgl else { return self.by_pages(areas, index, each) };
        if unit == Sgl::Dwords && pieces.iter().any(|piece| (piece.address | piece.len) % 4 != 0) {
            return None;
        }
        let (area, start) = self.area(areas, index);
        let (first, second) = sgl::build(each, area, |at, (low, high)| {
            let _in_bounds = areas.memory().store64(start + at, low);
            let _in_bounds = areas.memory().store64(start + at + 8, high);
        })?;
        Some(Data::Sgl(first, second))
    }

    #[inline(never)]
    fn by_pages<B: Backend>(
        &self,
        areas: &DmaMemory<B>,
        index: u64,
        pieces: impl Iterator<Item = (u64, u64)> + Clone,
    ) -> Option<Data> {
        let (area, start) = self.area(areas, index);
        let (first, second) = prp::build(pieces, PAGE, area, |at, entry| {
            let _in_bounds = areas.memory().store64(start + at, entry);
        })?;
        Some(Data::Prp(first, second))
    }

    fn area<B: Backend>(&self, areas: &DmaMemory<B>, index: u64) -> (Area, u64) {
        let start = index * self.area;
        (Area { iova: areas.iova() + start, len: self.area }, start)
    }
}
