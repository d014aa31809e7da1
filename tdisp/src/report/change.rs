//! SET_MMIO_ATTRIBUTE: a part of an updatable range from private to shared, or back, in the one order that is safe.
//!
//! Between the request and its response the device may hold the pages for either. So neither mapping may be there
//! meanwhile, and the order is the same both ways:
//!
//! 1. *Quiesce* the fabric: no descriptor names the pages, posted writes were flushed. A descriptor carries the T bit
//!    of the time at which it was submitted. Before the unmap, because a write whose mapping goes away is lost in
//!    silence; before the request, because afterwards the device rejects it, or takes it for the other kind.
//! 2. *Unmap* the pages where they are mapped. Private to shared: a store of the trust domain through a private
//!    mapping that outlives the request would land where the host reads. Shared to private: a store of the host would
//!    be dropped, and nobody would know.
//! 3. *Request*. From here on the table says [`Attr::Inaccessible`], and goes on to say so where no answer comes.
//! 4. *Map* anew once the response was seen, and not before. Shared to private: through a private mapping made earlier
//!    the trust domain would put secrets into pages that are still shared.
//!
//! `Tdi::set_attribute` of the coordinator (module `tdi`) does all of it; what it quiesces are the windows that lead to the
//! pages.
//!
//! The types allow no other order. Each step takes the one before by value; the table is borrowed, so that no second
//! change, STOP or new report comes in between; and the proof that the fabric is quiet is held until the answer is
//! there: where it is a `Quiesced`, its gate cannot be opened before.
//!
//! ```
//! use tidegate_tdisp::report::*;
//! use tidegate_tdisp::wire::LockFlags;
//!
//! let ranges = [MmioRange { flags: RangeFlags::UPDATABLE, ..MmioRange::private(0, 0xE_0000, 16) }];
//! let bar0 = BarWindow { bar: 0, base: 0xE000_0000, len: 0x1_0000 };
//! let mut table = TagTable::new(ranges.into_iter(), &Terms::new(LockFlags::empty(), 0, &[bar0]))?;
//!
//! let plan = table.change(0, 0x4000..0x8000, To::Shared { reason: "a window for the host's telemetry" })?;
//! let quiet = plan.quiesced("the gate's proof"); // tidegate-core's `Quiesced`
//! let unmapped = quiet.unmapped(); // after the platform removed its private mapping
//! let sent = unmapped.request();
//! assert_eq!(sent.range(), MmioRange::shared(0, 0xE_0004, 4)); // what SET_MMIO_ATTRIBUTE_REQUEST carries
//! let Outcome::Changed { now, proof } = sent.answered(true) else { panic!() };
//! assert_eq!((now.attr, proof), (Attr::Shared, "the gate's proof")); // map it, then open the gate
//! let attrs: Vec<_> = table.iter().map(|tag| tag.attr).collect();
//! assert_eq!(attrs, [Attr::Private, Attr::Shared, Attr::Private]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! No request before the old mapping is gone, no unmap before the fabric is quiet, no opening of the gate before the
//! answer:
//!
//! ```compile_fail,E0599
//! # use tidegate_tdisp::report::*;
//! # fn early(plan: Planned<'_>) {
//! let sent = plan.request();
//! # }
//! ```
//! ```compile_fail,E0599
//! # use tidegate_tdisp::report::*;
//! # fn loud(plan: Planned<'_>) {
//! let unmapped = plan.unmapped();
//! # }
//! ```
//! ```compile_fail,E0382
//! # use tidegate_tdisp::report::*;
//! # fn reopened(plan: Planned<'_>, quiesced: tidegate_core::Quiesced) {
//! let sent = plan.quiesced(quiesced).unmapped().request();
//! let open = quiesced.restore();
//! # }
//! ```
//! ```compile_fail,E0499
//! # use tidegate_tdisp::report::*;
//! # fn two_at_once(table: &mut TagTable) {
//! let one = table.change(0, 0..0x1000, To::Private);
//! let other = table.change(0, 0x1000..0x2000, To::Private);
//! drop(one);
//! # }
//! ```

use core::ops::Range;

use thiserror::Error;

use super::tags::{Piece, tagged};
use super::{Attr, MmioRange, PAGE_SIZE, RangeFlags, TagTable, TaggedRange};
use crate::wire::PAGE_SHIFT;

/// What the pages shall become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// TEE memory.
    Private,
    /// Open to the host. Who asks for it has wiped what the host must not see, and says why.
    Shared {
        /// Why; for the record.
        reason: &'static str,
    },
}

impl To {
    /// The tag of the pages then.
    pub fn attr(self) -> Attr {
        match self {
            To::Private => Attr::Private,
            To::Shared { .. } => Attr::Shared,
        }
    }
}

/// Why a change cannot be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// No bytes of a BAR of the table.
    #[error("bytes {start:#x} to {end:#x} are not in BAR {bar}")]
    Outside {
        /// The BAR.
        bar: u8,
        /// First byte.
        start: u64,
        /// Byte past the end.
        end: u64,
    },
    /// Not whole pages of the host: the rest of a page would change its mapping too.
    #[error("bytes {start:#x} to {end:#x} of BAR {bar} are not whole pages of {page:#x} bytes")]
    Unaligned {
        /// The BAR.
        bar: u8,
        /// First byte.
        start: u64,
        /// Byte past the end.
        end: u64,
        /// Bytes of a page of the host.
        page: u64,
    },
    /// A request names one range of the report; these bytes are not all of one.
    #[error("byte {at:#x} of BAR {bar} is in no range, or in another one than the first")]
    NotOneRange {
        /// The BAR.
        bar: u8,
        /// First byte of which that is so.
        at: u64,
    },
    /// The range is not IS_MEM_ATTR_UPDATABLE.
    #[error("MMIO range {index} cannot be changed")]
    NotUpdatable {
        /// Index of the range in the report.
        index: usize,
    },
    /// The MSI-X table and its pending bits stay locked.
    #[error("MMIO range {index} is MSI-X")]
    Msix {
        /// Index of the range in the report.
        index: usize,
    },
    /// Some of it is already what it shall become.
    #[error("byte {at:#x} of BAR {bar} is {attr:?} already")]
    Already {
        /// The BAR.
        bar: u8,
        /// First byte of which that is so.
        at: u64,
        /// What it is.
        attr: Attr,
    },
    /// Of an earlier change nobody knows how it ended: stop the TDI.
    #[error("an earlier change of byte {at:#x} of BAR {bar} was never answered")]
    InDoubt {
        /// The BAR.
        bar: u8,
        /// First byte of which that is so.
        at: u64,
    },
}

/// What changes of attributes did to a table since its report.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ledger {
    declassified: u64,
}

impl Ledger {
    pub(super) fn forget(&mut self) {
        *self = Ledger::default();
    }
}

#[derive(Debug)]
struct Change<'t> {
    table: &'t mut TagTable,
    bar: u8,
    first: u64,
    end: u64,
    index: usize,
    id: u16,
    to: To,
}

impl Change<'_> {
    fn tags(&self, attr: Attr) -> TaggedRange {
        TaggedRange {
            index: Some(self.index),
            id: Some(self.id),
            ..tagged(self.bar, self.first, self.end, attr)
        }
    }

    /// The pieces that are the change's, cut out of theirs first.
    fn each(&mut self, set: impl Fn(&mut Piece)) {
        let (bar, first, end) = (self.bar, self.first, self.end);
        self.table.cut(bar, first);
        self.table.cut(bar, end);
        for piece in &mut self.table.pieces {
            if piece.bar == bar && first <= piece.first && piece.end <= end {
                set(piece);
            }
        }
        self.table.join();
    }
}

/// A change that may be made. Dropped, nothing has happened.
#[derive(Debug)]
#[must_use = "nothing is asked for yet"]
pub struct Planned<'t>(Change<'t>);

/// The fabric is quiet: unmap the pages. Dropped, nothing has happened, but the proof is gone.
#[derive(Debug)]
#[must_use = "the fabric stays quiet for it"]
pub struct Quiet<'t, Q> {
    change: Change<'t>,
    proof: Q,
}

/// Neither the trust domain nor the host has the pages mapped. Dropped, nothing was asked for.
#[derive(Debug)]
#[must_use = "the fabric stays quiet for it"]
pub struct Unmapped<'t, Q> {
    change: Change<'t>,
    proof: Q,
}

/// The request is on its way. Dropped, the pages stay [`Attr::Inaccessible`] until the table is filled again.
#[derive(Debug)]
#[must_use = "without its answer the pages are nobody's"]
pub struct Requested<'t, Q> {
    change: Change<'t>,
    proof: Q,
}

/// How a change ended, with the proof that the fabric is quiet: map first, then open the gate.
#[derive(Debug)]
#[must_use = "what is unmapped has to be mapped again"]
pub enum Outcome<Q> {
    /// The pages are what was asked for: map them so.
    Changed {
        /// The pages.
        now: TaggedRange,
        /// The proof.
        proof: Q,
    },
    /// The device refused, and nothing changed: the old mapping may come back.
    Unchanged {
        /// The pages.
        still: TaggedRange,
        /// The proof.
        proof: Q,
    },
}

impl<'t> Planned<'t> {
    /// The pages as they are now: what has to be quiet and unmapped.
    pub fn pages(&self) -> TaggedRange {
        self.0.tags(match self.0.to {
            To::Private => Attr::Shared,
            To::Shared { .. } => Attr::Private,
        })
    }

    /// No descriptor names the pages any more, and none can while `proof` exists.
    pub fn quiesced<Q>(self, proof: Q) -> Quiet<'t, Q> {
        Quiet { change: self.0, proof }
    }
}

impl<'t, Q> Quiet<'t, Q> {
    /// The mappings of the pages are gone.
    pub fn unmapped(self) -> Unmapped<'t, Q> {
        Unmapped { change: self.change, proof: self.proof }
    }

    /// Gives up, and gives the proof back. Nothing has changed.
    pub fn cancel(self) -> Q {
        self.proof
    }
}

impl<'t, Q> Unmapped<'t, Q> {
    /// The request is about to be sent. May allocate: the part is cut out of its range.
    pub fn request(mut self) -> Requested<'t, Q> {
        self.change.each(|piece| piece.held = true);
        Requested { change: self.change, proof: self.proof }
    }

    /// Gives up, and gives the proof back: the old mapping may come back.
    pub fn cancel(self) -> Q {
        self.proof
    }
}

impl<Q> Requested<'_, Q> {
    /// What SET_MMIO_ATTRIBUTE_REQUEST carries: the pages as the report counts them, the id of their range, and of
    /// the attributes IS_NON_TEE_MEM alone. It may be sent again after BUSY, or after an answer that was lost.
    pub fn range(&self) -> MmioRange {
        let Change { table, bar, first, end, id, to, .. } = &self.change;
        let reported = table.windows.get(*bar).map_or(0, |window| window.reported);
        MmioRange {
            first_page: reported.wrapping_add(*first),
            // A part of a range, which counts its pages in 32 bits.
            pages: u32::try_from(end.saturating_sub(*first)).unwrap_or(u32::MAX),
            flags: if to.attr() == Attr::Shared { RangeFlags::NON_TEE } else { RangeFlags::empty() },
            id: *id,
        }
    }

    /// The device answered: with SET_MMIO_ATTRIBUTE_RESPONSE (`done`), or with an error that means that nothing
    /// changed (TDISP_ERROR never changes anything; BUSY can be asked again instead).
    pub fn answered(mut self, done: bool) -> Outcome<Q> {
        let to = self.change.to.attr();
        self.change.each(|piece| {
            piece.held = false;
            if done {
                piece.attr = to;
            }
        });
        let Requested { change, proof } = self;
        if !done {
            let still = Planned(change).pages();
            return Outcome::Unchanged { still, proof };
        }
        let now = change.tags(to);
        if to == Attr::Shared {
            let ledger = &mut change.table.ledger;
            ledger.declassified = ledger.declassified.saturating_add(now.len);
        }
        Outcome::Changed { now, proof }
    }

    /// No answer came, or one that says nothing. The pages stay [`Attr::Inaccessible`]: unbind the TDI with the proof.
    pub fn lost(self) -> Q {
        self.proof
    }
}

impl TagTable {
    /// Plans to make `bytes` of a BAR, a part of one range of the report, private or shared. The TDI must be in RUN.
    /// Changes nothing.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn change(&mut self, bar: u8, bytes: Range<u64>, to: To) -> Result<Planned<'_>, ChangeError> {
        let Range { start, end } = bytes;
        let (first, last) = (start >> PAGE_SHIFT, end >> PAGE_SHIFT);
        let window = self.windows.get(bar).filter(|window| start < end && last <= window.pages);
        let window = window.ok_or(ChangeError::Outside { bar, start, end })?;
        let page = self.host_page.bytes();
        let misplaced = |at: u64| {
            let host = window.host.wrapping_mul(PAGE_SIZE).wrapping_add(at);
            host & page.wrapping_sub(1) != 0
        };
        if misplaced(start) || misplaced(end) {
            return Err(ChangeError::Unaligned { bar, start, end, page });
        }
        let (index, id) = self.one_range(bar, first..last, to)?;
        Ok(Planned(Change { table: self, bar, first, end: last, index, id, to }))
    }

    /// Bytes that became shared by [`change`](Self::change) since the report.
    pub fn declassified(&self) -> u64 {
        self.ledger.declassified
    }

    /// The range of the report to which all the pages belong, if they may become what they shall.
    fn one_range(&self, bar: u8, pages: Range<u64>, to: To) -> Result<(usize, u16), ChangeError> {
        let at_byte = |page: u64| page.saturating_mul(PAGE_SIZE);
        let mut at = pages.start;
        let mut range = None;
        for piece in self.pieces.get(self.past(bar, at).saturating_sub(1)..).unwrap_or(&[]) {
            let here = piece.bar == bar && piece.first <= at && at < piece.end;
            let (index, id) = *range.get_or_insert((piece.index, piece.id));
            if !here || piece.index != index {
                break;
            }
            if piece.held {
                return Err(ChangeError::InDoubt { bar, at: at_byte(at) });
            }
            if !matches!(piece.attr, Attr::Private | Attr::Shared) {
                return Err(ChangeError::Msix { index });
            }
            if !piece.updatable {
                return Err(ChangeError::NotUpdatable { index });
            }
            if piece.attr == to.attr() {
                return Err(ChangeError::Already { bar, at: at_byte(at), attr: piece.attr });
            }
            at = piece.end;
            if at >= pages.end {
                return Ok((index, id));
            }
        }
        Err(ChangeError::NotOneRange { bar, at: at_byte(at) })
    }

    /// How many pieces begin at the page or before it.
    fn past(&self, bar: u8, page: u64) -> usize {
        self.pieces.partition_point(|piece| (piece.bar, piece.first) <= (bar, page))
    }

    /// Makes a piece begin at the page, if one holds it.
    fn cut(&mut self, bar: u8, page: u64) {
        let past = self.past(bar, page);
        let piece = past.checked_sub(1).and_then(|at| self.pieces.get_mut(at));
        if let Some(piece) = piece.filter(|piece| piece.bar == bar && piece.first < page && page < piece.end)
        {
            let rest = Piece { first: page, ..*piece };
            piece.end = page;
            self.pieces.insert(past, rest);
        }
    }

    /// Joins what was cut and is alike again.
    fn join(&mut self) {
        self.pieces.dedup_by(|next, piece| {
            let alike = (piece.index, piece.attr, piece.held) == (next.index, next.attr, next.held);
            let joined = alike && piece.bar == next.bar && piece.end == next.first;
            if joined {
                piece.end = next.end;
            }
            joined
        });
    }
}
