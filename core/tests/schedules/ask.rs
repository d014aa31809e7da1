//! What a schedule submits: operations and lists, and what the model has to know of each.

use crate::common::LEN;
use crate::step::What;
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::{Flow, Op, OpList, Region, Shared};

/// What an operation asks for: regions by number.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// Regions, by entry of the ring.
    pub(crate) names: Vec<Vec<usize>>,
    /// Those that it writes.
    pub(crate) to: Vec<usize>,
    /// Completions that the device gives: one for each of the last so many entries.
    pub(crate) own: usize,
    /// Bytes that a success moves, as the device counts them.
    pub(crate) len: u32,
    /// Why it can't be queued here, ever.
    pub(crate) denied: Option<Flow>,
}

/// How a channel's engine takes lists.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lists {
    pub(crate) whole: bool,
    /// Those of its medium too, if not whole.
    pub(crate) splits: bool,
    pub(crate) depth: u64,
}

type Regions<M> = BTreeMap<usize, (Region<Shared>, M)>;

/// Bytes of a list: pieces of it are whole words for any number of them up to four.
const TOTAL: u64 = 0xc00;

pub(crate) fn plain<M>(regions: &Regions<M>, what: What, a: usize, b: usize) -> (Op, Ask) {
    let span = |n: usize| regions[&n].0.span();
    let (op, names, to) = match what {
        What::Fill => (Op::fill(span(a), 1), vec![a], Some(a)),
        What::Copy => (Op::copy(span(a), span(b)), vec![a, b], Some(b)),
        What::Read => (Op::read(0, span(a)), vec![a], Some(a)),
        What::Write => (Op::write(span(a), 0), vec![a], None),
        What::Fence => (Op::fence(), vec![], None),
    };
    let len = to.map_or(0, |_| LEN as u32);
    (op, Ask { names: vec![names], to: to.into_iter().collect(), own: 1, len, denied: None })
}

/// A list with pieces of these regions on each side; one of no side is a read or a write.
pub(crate) fn list<M>(regions: &Regions<M>, from: &[usize], to: &[usize], by: Lists) -> (OpList, Ask) {
    let side = |side: &[usize]| {
        let len = TOTAL.checked_div(side.len() as u64).unwrap_or(0);
        let spans = side.iter().zip(1..).map(|(n, at)| {
            // Each at another place.
            regions[n].0.handle().span(at * 8..at * 8 + len)
        });
        spans.collect::<Vec<_>>()
    };
    let list = match (from, to) {
        ([], _) => OpList::read(64, &side(to)),
        (_, []) => OpList::write(&side(from), 64),
        _ => OpList::copy(&side(from), &side(to)),
    };
    let (names, own) = if by.whole { (entries(from, to), 1) } else { (pieces(from, to), usize::MAX) };
    let medium = from.is_empty() || to.is_empty();
    let denied = match () {
        () if !by.whole && medium && !by.splits => Some(Flow::Unsupported),
        () if names.len() as u64 > by.depth => Some(Flow::Pieces),
        () => None,
    };
    let len = if to.is_empty() { 0 } else { TOTAL as u32 };
    let own = own.min(names.len());
    (list, Ask { names, to: to.to_vec(), own, len, denied })
}

/// Of a whole list: two regions an entry, neighbours of one region count once.
fn entries(from: &[usize], to: &[usize]) -> Vec<Vec<usize>> {
    let mut all: Vec<usize> = from.iter().chain(to).copied().collect();
    all.dedup();
    all.chunks(2).map(<[usize]>::to_vec).collect()
}

/// Of a list that is split: cut where a piece of either side ends.
fn pieces(from: &[usize], to: &[usize]) -> Vec<Vec<usize>> {
    let sides = [from, to];
    let lens = sides.map(|side| TOTAL.checked_div(side.len() as u64));
    let cuts: BTreeSet<u64> =
        lens.iter().flatten().flat_map(|len| (0..TOTAL).step_by(*len as usize)).collect();
    let names = |at: u64| sides.iter().zip(lens).filter_map(move |(s, len)| Some(s[(at / len?) as usize]));
    cuts.into_iter().map(|at| names(at).collect()).collect()
}
