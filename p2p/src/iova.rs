//! The address space of a domain: which IOVAs are handed out, and which never again.
//!
//! Rules, with their sources:
//! * an IOVA lies in what the kernel calls usable after *each* attach (a device narrows it;
//!   `drivers/iommu/iommufd`);
//! * never 0, never the x86 interrupt window, never a bus window: a switch may claim such an address
//!   instead of handing it to the IOMMU (see [`crate::backend::Backend::windows`]);
//! * congruent with the target's physical address modulo 2 MiB or 1 GiB where the length allows, so that the
//!   IOMMU can use large entries (`drivers/iommu/iommufd/pages.c`);
//! * an area whose import died keeps its IOVA until it was unmapped, and is brought back at the same one:
//!   [`Use::Recovering`];
//! * an area whose initiator was not proved stopped may still be written: [`Use::Quarantined`] until it was.
//!
//! Plain bookkeeping: no syscall, no lock.

mod spans;

use spans::Spans;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// IOVAs and bus addresses are handed out in pages of this size.
pub const PAGE: u64 = 4096;

/// Where x86 takes a write for an interrupt.
pub const X86_INTERRUPTS: RangeInclusive<u64> = 0xfee0_0000..=0xfeef_ffff;

/// Sizes that an IOMMU's page table can map in one entry, largest first.
const ALIGNMENTS: [u64; 3] = [1 << 30, 2 << 20, PAGE];

/// What an area is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Use {
    /// In use.
    Live,
    /// Its import is dead; the owner will unmap it and map it again here.
    Recovering,
    /// A device that was not proved stopped may still use it.
    Quarantined,
}

/// The IOVAs of a domain, each free, in use or never to be used. Handing one out looks at the gaps from the
/// lowest on; everything else costs a tree lookup.
#[derive(Debug, Clone)]
pub struct Iovas {
    /// What an IOVA may be, in use or not.
    allowed: Spans,
    /// `allowed` without the areas.
    free: Spans,
    areas: BTreeMap<u64, Area>,
}

#[derive(Debug, Clone, Copy)]
struct Area {
    /// Inclusive.
    last: u64,
    state: Use,
}

impl Iovas {
    /// All 64 bits, without page 0 and [`X86_INTERRUPTS`].
    pub fn new() -> Iovas {
        let mut allowed = Spans::default();
        allowed.add(PAGE, u64::MAX);
        allowed.remove(*X86_INTERRUPTS.start(), *X86_INTERRUPTS.end());
        Iovas { free: allowed.clone(), allowed, areas: BTreeMap::new() }
    }

    /// Allows only what is in `usable` as well: what [`crate::backend::Space::usable`] says after an attach,
    /// or the reach of a device (`&[0..=mask]`).
    ///
    /// # Errors
    /// [`IovaError::Conflict`]: an area, not in quarantine, would lie outside. Nothing is changed.
    pub fn narrow(&mut self, usable: &[RangeInclusive<u64>]) -> Result<(), IovaError> {
        let mut within = Spans::default();
        usable.iter().for_each(|range| within.add(*range.start(), *range.end()));
        let mut allowed = self.allowed.clone();
        allowed.intersect(&within);
        self.allow(allowed)
    }

    /// Never hands out an address in `range`, for example a bus window.
    ///
    /// # Errors
    /// As [`Iovas::narrow`].
    pub fn exclude(&mut self, range: RangeInclusive<u64>) -> Result<(), IovaError> {
        let mut allowed = self.allowed.clone();
        allowed.remove(*range.start(), *range.end());
        self.allow(allowed)
    }

    fn allow(&mut self, allowed: Spans) -> Result<(), IovaError> {
        let outside = |(start, area): &(&u64, &Area)| {
            area.state != Use::Quarantined && !allowed.contains(**start, area.last)
        };
        if let Some((start, area)) = self.areas.iter().find(outside) {
            return Err(IovaError::Conflict { at: *start, len: area.len(*start) });
        }
        self.free.intersect(&allowed);
        self.allowed = allowed;
        Ok(())
    }

    /// The lowest free area of `len` bytes that is congruent with `target` modulo 1 GiB, else modulo 2 MiB
    /// (each only where `len` is that long), else modulo a page. It is [`Use::Live`].
    ///
    /// # Errors
    /// `Misaligned`: `len` is 0, or `len` or `target` is no multiple of [`PAGE`]. `Exhausted`: no gap is long
    /// enough.
    pub fn allocate(&mut self, len: u64, target: u64) -> Result<u64, IovaError> {
        if len == 0 || len % PAGE != 0 || target % PAGE != 0 {
            return Err(IovaError::Misaligned { at: target, len });
        }
        let fits = ALIGNMENTS.into_iter().filter(|align| *align <= len.max(PAGE));
        let start = fits.filter_map(|align| self.free.find(len, align, target % align)).next();
        let start = start.ok_or(IovaError::Exhausted { len })?;
        self.occupy(start, start + (len - 1));
        Ok(start)
    }

    /// Takes the area at `at`, for someone who needs this very address. It is [`Use::Live`].
    ///
    /// # Errors
    /// `Misaligned`; `Forbidden`: not usable, or excluded; `Occupied`: it overlaps an area.
    pub fn reserve(&mut self, at: u64, len: u64) -> Result<(), IovaError> {
        if len == 0 || at % PAGE != 0 || len % PAGE != 0 {
            return Err(IovaError::Misaligned { at, len });
        }
        let last = at.checked_add(len - 1).ok_or(IovaError::Forbidden { at, len })?;
        if self.areas.range(..=last).next_back().is_some_and(|(_, area)| area.last >= at) {
            return Err(IovaError::Occupied { at, len });
        }
        if !self.allowed.contains(at, last) {
            return Err(IovaError::Forbidden { at, len });
        }
        self.occupy(at, last);
        Ok(())
    }

    fn occupy(&mut self, start: u64, last: u64) {
        self.free.remove(start, last);
        self.areas.insert(start, Area { last, state: Use::Live });
    }

    /// The area that starts at `at` may be handed out again: it was unmapped, and nothing can reach it.
    ///
    /// # Errors
    /// `Unknown`: no area starts there. `Held`: it is in quarantine, see [`Iovas::release`].
    pub fn free(&mut self, at: u64) -> Result<(), IovaError> {
        match self.state(at)? {
            Use::Quarantined => Err(IovaError::Held { at }),
            Use::Live | Use::Recovering => {
                self.give_back(at);
                Ok(())
            }
        }
    }

    /// The import at `at` died: the area stays its owner's, to be brought back by [`Iovas::recovered`].
    ///
    /// # Errors
    /// `Unknown`; `Held`.
    pub fn recovering(&mut self, at: u64) -> Result<(), IovaError> {
        self.shift(at, Use::Recovering)
    }

    /// The area at `at` was unmapped and mapped again.
    ///
    /// # Errors
    /// `Unknown`; `Held`.
    pub fn recovered(&mut self, at: u64) -> Result<(), IovaError> {
        self.shift(at, Use::Live)
    }

    /// Its initiator was not proved stopped: the area at `at` is nobody's until [`Iovas::release`].
    ///
    /// # Errors
    /// `Unknown`.
    pub fn quarantine(&mut self, at: u64) -> Result<(), IovaError> {
        self.areas.get_mut(&at).ok_or(IovaError::Unknown { at })?.state = Use::Quarantined;
        Ok(())
    }

    /// Ends a quarantine: the initiator was reset, and the area unmapped. It may be handed out again.
    ///
    /// # Errors
    /// `Unknown`: no area in quarantine starts there.
    pub fn release(&mut self, at: u64) -> Result<(), IovaError> {
        match self.state(at)? {
            Use::Quarantined => {
                self.give_back(at);
                Ok(())
            }
            Use::Live | Use::Recovering => Err(IovaError::Unknown { at }),
        }
    }

    /// What the area that starts at `at` is in.
    ///
    /// # Errors
    /// `Unknown`.
    pub fn state(&self, at: u64) -> Result<Use, IovaError> {
        self.areas.get(&at).map(|area| area.state).ok_or(IovaError::Unknown { at })
    }

    fn shift(&mut self, at: u64, to: Use) -> Result<(), IovaError> {
        match self.areas.get_mut(&at) {
            None => Err(IovaError::Unknown { at }),
            Some(area) if area.state == Use::Quarantined => Err(IovaError::Held { at }),
            Some(area) => {
                area.state = to;
                Ok(())
            }
        }
    }

    fn give_back(&mut self, at: u64) {
        if let Some(area) = self.areas.remove(&at) {
            // Only what is still allowed: the space may have been narrowed around a quarantine.
            let mut back = Spans::default();
            back.add(at, area.last);
            back.intersect(&self.allowed);
            back.iter().for_each(|(start, last)| self.free.add(start, last));
        }
    }
}

impl Default for Iovas {
    fn default() -> Self {
        Iovas::new()
    }
}

impl Area {
    fn len(&self, start: u64) -> u64 {
        self.last - start + 1
    }
}

/// Why an address was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IovaError {
    /// Not whole pages, or none.
    #[error("{at:#x}+{len:#x} is not made of pages")]
    Misaligned {
        /// Start or target.
        at: u64,
        /// Length.
        len: u64,
    },
    /// No gap is long enough.
    #[error("no {len:#x} bytes of IOVA in a row are free")]
    Exhausted {
        /// The length asked for.
        len: u64,
    },
    /// Outside of what the devices of the domain can use, or excluded.
    #[error("iova {at:#x}+{len:#x} is not usable in this domain")]
    Forbidden {
        /// Start.
        at: u64,
        /// Length.
        len: u64,
    },
    /// It overlaps an area in use.
    #[error("iova {at:#x}+{len:#x} overlaps an area in use")]
    Occupied {
        /// Start.
        at: u64,
        /// Length.
        len: u64,
    },
    /// No such area starts there.
    #[error("no such area starts at iova {at:#x}")]
    Unknown {
        /// Start.
        at: u64,
    },
    /// The area is in quarantine.
    #[error("the area at iova {at:#x} is in quarantine")]
    Held {
        /// Start.
        at: u64,
    },
    /// An area in use would lie outside of what becomes usable.
    #[error("the area at iova {at:#x}+{len:#x} is in use and would become unusable")]
    Conflict {
        /// Start.
        at: u64,
        /// Length.
        len: u64,
    },
}

#[cfg(test)]
mod tests;
