//! An emulated TSM: what firmware holds for each bound TDI, and what it refuses.
//!
//! It enforces the preconditions that the real ones are known to have (the TDX module's and TF-RMM's sources), and no
//! others: where real firmware lets a wrong order pass, so does this one.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use thiserror::Error;

use super::{PlatformKind, Step};
use crate::report::{Attr, TaggedRange};
use crate::state::State;
use crate::wire::FunctionId;

/// Why the firmware refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The firmware holds nothing for the function.
    #[error("{function} is not bound")]
    NotBound {
        /// Whose TDI.
        function: FunctionId,
    },
    /// The firmware already holds the function's TDI.
    #[error("{function} is bound already")]
    AlreadyBound {
        /// Whose TDI.
        function: FunctionId,
    },
    /// The function was taken away by force and was not reset since.
    #[error("{function} was taken away by force and must be reset first")]
    NeedsReset {
        /// Whose TDI.
        function: FunctionId,
    },
    /// The platform has no such step.
    #[error("{platform} has no step {step}")]
    NoSuchStep {
        /// The platform.
        platform: PlatformKind,
        /// The step.
        step: Step,
    },
    /// The TDI is in a state in which the step is not done, and its stream is not blocked.
    #[error("{step} is refused in {state}")]
    State {
        /// The step.
        step: Step,
        /// The state that the firmware last saw.
        state: State,
    },
    /// Private MMIO of the TDI is still mapped; one place where it is.
    #[error("BAR {bar} is still mapped at {offset:#x}")]
    MappedMmio {
        /// The BAR.
        bar: u8,
        /// The offset in it.
        offset: u64,
    },
    /// The trusted DMA context of the TDI still stands.
    #[error("the trusted DMA context still stands")]
    ContextStands,
    /// Only private ranges and locked MSI-X ranges go into the trusted tables.
    #[error("a range that is {attr:?} is not mapped as private")]
    NotPrivate {
        /// What it is.
        attr: Attr,
    },
    /// The stream of the TDI is blocked: nothing new is built on it.
    #[error("the stream is blocked")]
    Blocked,
    /// SET_MMIO_ATTRIBUTE passes in RUN only.
    #[error("SET_MMIO_ATTRIBUTE is refused in {state}")]
    NotRunning {
        /// The state that the firmware last saw.
        state: State,
    },
}

/// What the firmware holds for one TDI.
#[derive(Clone, Debug)]
struct Bound {
    state: State,
    blocked: bool,
    context: bool,
    /// (BAR, offset) of each mapped range, and its length.
    mapped: BTreeMap<(u8, u64), u64>,
}

impl Bound {
    fn unlocked_or_blocked(&self, step: Step) -> Result<(), Refusal> {
        if self.blocked || self.state == State::ConfigUnlocked {
            Ok(())
        } else {
            Err(Refusal::State { step, state: self.state })
        }
    }

    fn nothing_mapped(&self) -> Result<(), Refusal> {
        match self.mapped.first_key_value() {
            Some((&(bar, offset), _)) => Err(Refusal::MappedMmio { bar, offset }),
            None => Ok(()),
        }
    }

    /// What is mapped of these pages: (offset, length) of each range that reaches into them.
    fn mapped_of(&self, pages: &TaggedRange) -> Vec<(u64, u64)> {
        let end = pages.offset.saturating_add(pages.len);
        let before = self.mapped.range((pages.bar, 0)..(pages.bar, end));
        let reaching = before.filter(|((_, offset), len)| offset.saturating_add(**len) > pages.offset);
        reaching.map(|((_, offset), len)| (*offset, *len)).collect()
    }

    /// Unmaps these pages; what was mapped around them stays.
    fn unmap(&mut self, pages: &TaggedRange) {
        let (bar, end) = (pages.bar, pages.offset.saturating_add(pages.len));
        for (offset, len) in self.mapped_of(pages) {
            self.mapped.remove(&(bar, offset));
            let (head, tail) =
                (pages.offset.saturating_sub(offset), offset.saturating_add(len).saturating_sub(end));
            for (offset, len) in [(offset, head), (end, tail)] {
                if len > 0 {
                    self.mapped.insert((bar, offset), len);
                }
            }
        }
    }

    fn context_off(&self) -> Result<(), Refusal> {
        if self.context { Err(Refusal::ContextStands) } else { Ok(()) }
    }

    /// New trusted mappings are made while the TDI is locked or runs.
    fn may_build(&self, step: Step) -> Result<(), Refusal> {
        match self.state {
            _ if self.blocked => Err(Refusal::Blocked),
            State::ConfigLocked | State::Run => Ok(()),
            state => Err(Refusal::State { step, state }),
        }
    }
}

/// An emulated TSM of one platform.
#[derive(Clone, Debug)]
pub struct Firmware {
    platform: PlatformKind,
    bound: BTreeMap<FunctionId, Bound>,
    /// Taken away by force, not reset since.
    tainted: BTreeSet<FunctionId>,
}

impl Firmware {
    /// A TSM that holds nothing.
    pub fn new(platform: PlatformKind) -> Self {
        Firmware { platform, bound: BTreeMap::new(), tainted: BTreeSet::new() }
    }

    /// Whose rules it has.
    pub fn platform(&self) -> PlatformKind {
        self.platform
    }

    /// Makes the metadata of a TDI (DEVIF.CREATE, VDEV_CREATE). The TDI is in CONFIG_UNLOCKED.
    pub fn bind(&mut self, function: FunctionId) -> Result<(), Refusal> {
        if self.tainted.contains(&function) {
            return Err(Refusal::NeedsReset { function });
        }
        if self.bound.contains_key(&function) {
            return Err(Refusal::AlreadyBound { function });
        }
        let state = State::ConfigUnlocked;
        let bound = Bound { state, blocked: false, context: false, mapped: BTreeMap::new() };
        self.bound.insert(function, bound);
        Ok(())
    }

    /// The firmware saw this state in a response of the device (LOCK, START, STOP, GET_STATE). It learns of a state
    /// in no other way, so between two responses it may be wrong.
    pub fn observe(&mut self, function: FunctionId, state: State) -> Result<(), Refusal> {
        self.tdi_mut(function)?.state = state;
        Ok(())
    }

    /// Maps a range of the report into the trust domain's private page tables.
    pub fn map_private(&mut self, function: FunctionId, range: &TaggedRange) -> Result<(), Refusal> {
        let tdi = self.tdi_mut(function)?;
        tdi.may_build(Step::PrivateMmioUnmap)?;
        match range.attr {
            Attr::Private | Attr::MsixTable | Attr::MsixPba => {
                tdi.mapped.insert((range.bar, range.offset), range.len);
                Ok(())
            }
            attr => Err(Refusal::NotPrivate { attr }),
        }
    }

    /// Whether pages can be taken out of the private page tables by themselves, while the TDI runs. On TDX they can't:
    /// MMIO.UNMAP wants CONFIG_UNLOCKED or a blocked stream for each page. On CCA RTT_DEV_UNMAP asks for no state.
    pub fn check_unmap_private(&self, function: FunctionId) -> Result<(), Refusal> {
        match self.platform {
            PlatformKind::Tdx | PlatformKind::Cca => self.check(Step::PrivateMmioUnmap, function),
            PlatformKind::Soft => self.tdi(function).map(|_| ()),
        }
    }

    /// Takes these pages alone out of the trust domain's private page tables. What is not mapped stays so.
    pub fn unmap_private(&mut self, function: FunctionId, pages: &TaggedRange) -> Result<(), Refusal> {
        self.check_unmap_private(function)?;
        self.tdi_mut(function)?.unmap(pages);
        Ok(())
    }

    /// Whether SET_MMIO_ATTRIBUTE of these pages may go to the device: in RUN, over a stream that is not blocked, and
    /// with none of them in the private page tables.
    pub fn check_attribute(&self, function: FunctionId, pages: &TaggedRange) -> Result<(), Refusal> {
        let tdi = self.tdi(function)?;
        match (tdi.mapped_of(pages).first(), tdi.state) {
            _ if tdi.blocked => Err(Refusal::Blocked),
            (_, state) if state != State::Run => Err(Refusal::NotRunning { state }),
            (Some((offset, _)), _) => Err(Refusal::MappedMmio { bar: pages.bar, offset: *offset }),
            (None, _) => Ok(()),
        }
    }

    /// Sets up the trusted DMA context of the TDI.
    pub fn open_context(&mut self, function: FunctionId) -> Result<(), Refusal> {
        let tdi = self.tdi_mut(function)?;
        tdi.may_build(Step::TrustedContextOff)?;
        tdi.context = true;
        Ok(())
    }

    /// Whether the firmware holds anything for the function.
    pub fn is_bound(&self, function: FunctionId) -> bool {
        self.bound.contains_key(&function)
    }

    /// Bytes of private MMIO that are mapped for the function.
    pub fn mapped_bytes(&self, function: FunctionId) -> u64 {
        let mapped = self.bound.get(&function).map(|tdi| tdi.mapped.values());
        mapped.into_iter().flatten().fold(0, |sum, len| sum.saturating_add(*len))
    }

    /// Whether DMA of the function passes the trusted context.
    pub fn has_context(&self, function: FunctionId) -> bool {
        self.bound.get(&function).is_some_and(|tdi| tdi.context && !tdi.blocked)
    }

    /// Whether the firmware would do the step now.
    pub fn check(&self, step: Step, function: FunctionId) -> Result<(), Refusal> {
        let platform = self.platform;
        let Some(tdi) = self.bound.get(&function) else {
            // After the list the firmware holds nothing: it can only tell whether the TDI went by force.
            return match step {
                Step::VerifyUnlocked if self.tainted.contains(&function) => {
                    Err(Refusal::NeedsReset { function })
                }
                Step::VerifyUnlocked => Ok(()),
                _ => Err(Refusal::NotBound { function }),
            };
        };
        match (platform, step) {
            (_, Step::BlockStream) => Ok(()),
            // A blocked stream proves that nothing passes, not that the device scrubbed anything.
            (_, Step::VerifyUnlocked) if tdi.state == State::ConfigUnlocked => Ok(()),
            (_, Step::VerifyUnlocked) => Err(Refusal::State { step, state: tdi.state }),
            (PlatformKind::Tdx | PlatformKind::Soft, Step::StopInterface) => Ok(()),
            (PlatformKind::Tdx | PlatformKind::Soft, Step::PrivateMmioUnmap) => tdi.unlocked_or_blocked(step),
            (PlatformKind::Tdx | PlatformKind::Soft, Step::TrustedContextCleanup) => Ok(()),
            (PlatformKind::Tdx | PlatformKind::Soft, Step::Reclaim) => {
                tdi.unlocked_or_blocked(step)?;
                tdi.context_off()?;
                tdi.nothing_mapped()
            }
            (PlatformKind::Cca, Step::PrivateMmioUnmap) => Ok(()),
            (PlatformKind::Cca, Step::TrustedContextOff) => tdi.nothing_mapped(),
            (PlatformKind::Cca, Step::StopInterface) => {
                tdi.nothing_mapped()?;
                tdi.context_off()
            }
            (PlatformKind::Cca, Step::Destroy) => {
                tdi.unlocked_or_blocked(step)?;
                tdi.context_off()
            }
            (_, Step::TrustedContextCleanup | Step::TrustedContextOff | Step::Reclaim | Step::Destroy) => {
                Err(Refusal::NoSuchStep { platform, step })
            }
        }
    }

    /// Does a step. [`Step::StopInterface`] and [`Step::VerifyUnlocked`] only ask whether they may be done: the
    /// message itself goes to the device, and what it answered comes back through [`observe`](Self::observe).
    pub fn apply(&mut self, step: Step, function: FunctionId) -> Result<(), Refusal> {
        self.check(step, function)?;
        let Some(tdi) = self.bound.get_mut(&function) else { return Ok(()) };
        match step {
            Step::StopInterface | Step::VerifyUnlocked => {}
            Step::PrivateMmioUnmap => tdi.mapped.clear(),
            Step::TrustedContextCleanup | Step::TrustedContextOff => tdi.context = false,
            Step::BlockStream => tdi.blocked = true,
            Step::Reclaim | Step::Destroy => {
                if tdi.state != State::ConfigUnlocked {
                    self.tainted.insert(function);
                }
                self.bound.remove(&function);
            }
        }
        Ok(())
    }

    /// The forced path: blocks the TDI's stream, so that nothing of it passes any more. From then on it stands in
    /// for "CONFIG_UNLOCKED" in every precondition, but not in [`Step::VerifyUnlocked`]; and a TDI that is reclaimed
    /// without having been seen unlocked cannot be bound again before [`device_reset`](Self::device_reset).
    pub fn block_stream(&mut self, function: FunctionId) -> Result<(), Refusal> {
        self.apply(Step::BlockStream, function)
    }

    /// The device went through a conventional reset: its TDI is CONFIG_UNLOCKED, nothing of the trust domain is in it.
    pub fn device_reset(&mut self, function: FunctionId) {
        self.tainted.remove(&function);
        if let Some(tdi) = self.bound.get_mut(&function) {
            tdi.state = State::ConfigUnlocked;
        }
    }

    fn tdi(&self, function: FunctionId) -> Result<&Bound, Refusal> {
        self.bound.get(&function).ok_or(Refusal::NotBound { function })
    }

    fn tdi_mut(&mut self, function: FunctionId) -> Result<&mut Bound, Refusal> {
        self.bound.get_mut(&function).ok_or(Refusal::NotBound { function })
    }
}

#[cfg(test)]
mod tests;
