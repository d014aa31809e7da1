//! An open function.

use super::bar::Bar;
use super::port::Port;
use super::space::{AddressSpace, DmaBuf};
use super::tdi::Mark;
use super::world::World;
use super::{Soft, iommu};
use crate::backend::{BackendError, Function, Notice, ResetMethod};
use crate::pci::PciAddress;
use std::ops::Range;
use std::sync::MutexGuard;
use tidegate_core::tdi::{BarSizes, TrustDomain};

/// A function of the modelled fabric, claimed. Dropping it closes it.
pub struct OpenFunction {
    fabric: Soft,
    who: usize,
}

impl OpenFunction {
    pub(super) fn new(fabric: Soft, who: usize) -> OpenFunction {
        OpenFunction { fabric, who }
    }

    /// Where it sits.
    pub fn at(&self) -> PciAddress {
        self.port().map_or(PciAddress { segment: 0, bus: 0, device: 0, function: 0 }, |port| port.at)
    }

    /// Maps a BAR as a TVM of `domain` would: accesses carry T=1.
    ///
    /// # Errors
    /// No such BAR: [`BackendError::NoBar`].
    pub fn map_bar_trusted(&self, bar: u8, domain: TrustDomain) -> Result<Bar, BackendError> {
        self.map(bar, Mark::Protected(Some(domain)))
    }

    fn map(&self, bar: u8, mark: Mark) -> Result<Bar, BackendError> {
        match self.port().map_or(0, |port| port.bar(bar).len()) {
            0 => Err(BackendError::NoBar { bar }),
            len => Ok(Bar::new(self.fabric.clone(), self.who, bar, len, mark)),
        }
    }

    fn port(&self) -> Option<&Port> {
        self.fabric.shared.ports.get(self.who)
    }

    fn ports(&self) -> &[Port] {
        &self.fabric.shared.ports
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.fabric.shared.world()
    }
}

fn config_range(at: u16, width: u8) -> BackendError {
    BackendError::Range { what: "config space", at: u64::from(at), len: u64::from(width) }
}

impl Function for OpenFunction {
    type Bar = Bar;
    type Space = AddressSpace;
    type DmaBuf = DmaBuf;

    fn bars(&self) -> BarSizes {
        let mut sizes = [0; 6];
        for (size, index) in sizes.iter_mut().zip(0..) {
            *size = self.port().map_or(0, |port| port.bar(index).len());
        }
        sizes
    }

    fn config_read(&self, at: u16, width: u8) -> Result<u32, BackendError> {
        let mut world = self.world();
        world.push(self.ports(), self.who);
        let unit = world.units.get(self.who).ok_or_else(|| config_range(at, width))?;
        let value = unit.config.read(at, width).ok_or_else(|| config_range(at, width))?;
        let ones = u32::MAX >> (32 - 8 * u32::from(width));
        Ok(if unit.dead { ones } else { value })
    }

    fn config_write(&self, at: u16, width: u8, value: u32) -> Result<(), BackendError> {
        self.world()
            .config_write(self.ports(), self.who, at, width, value)
            .ok_or_else(|| config_range(at, width))
    }

    fn attach(&self, space: &AddressSpace) -> Result<(), BackendError> {
        let id = space.id_in(&self.fabric).ok_or(BackendError::Os { op: "attach", errno: libc::EINVAL })?;
        if let Some(unit) = self.world().units.get_mut(self.who) {
            unit.space = Some(id);
        }
        Ok(())
    }

    fn detach(&self) -> Result<(), BackendError> {
        if let Some(unit) = self.world().units.get_mut(self.who) {
            unit.space = None;
        }
        Ok(())
    }

    fn map_bar(&self, bar: u8) -> Result<Bar, BackendError> {
        self.map(bar, Mark::Plain)
    }

    fn export(&self, bar: u8, range: Range<u64>) -> Result<DmaBuf, BackendError> {
        let size = self.port().map_or(0, |port| port.bar(bar).len());
        if size == 0 {
            return Err(BackendError::NoBar { bar });
        }
        let (start, end) = (range.start, range.end);
        let aligned = start % iommu::PAGE == 0 && end % iommu::PAGE == 0;
        if !aligned || start >= end || end > size {
            let len = end.saturating_sub(start);
            return Err(BackendError::Range { what: "export", at: start, len });
        }
        let gone = BackendError::Os { op: "export", errno: libc::ENODEV };
        let export = self.world().export(self.who, bar, range).ok_or(gone)?;
        Ok(DmaBuf::new(self.fabric.clone(), export))
    }

    fn reset(&self) -> Result<(), BackendError> {
        let result = self.world().reset(self.ports(), self.who);
        result.map_err(|errno| BackendError::Os { op: "reset", errno })
    }

    fn reset_methods(&self) -> Vec<ResetMethod> {
        self.world().units.get(self.who).map_or_else(Vec::new, |unit| unit.resets.clone())
    }

    fn notice(&self) -> Option<Notice> {
        self.world().units.get_mut(self.who)?.notices.pop_front()
    }

    fn bar_congruence(&self, bar: u8) -> u64 {
        let address = self.port().and_then(|port| port.addresses.get(usize::from(bar)).copied());
        address.unwrap_or(0) % (1 << 30)
    }
}

impl Drop for OpenFunction {
    fn drop(&mut self) {
        self.world().close(self.ports(), self.who);
    }
}

impl std::fmt::Debug for OpenFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpenFunction").field(&self.at()).finish()
    }
}
