//! What happens to a function as a whole: open, config writes, reset, revoke, TDI states, close.

use super::config::Effects;
use super::iommu::Export;
use super::port::{BarKind, Port};
use super::record::{Breach, FaultKind, Violation, Who};
use super::transit::Target;
use super::world::World;
use crate::backend::ResetMethod;
use crate::pci::PciAddress;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use tidegate_core::tdi::{TaggedRange, TdiState, TrustDomain};

impl World {
    /// Claims a function, as VFIO's bind does: reset, memory decode on, bus mastering off. False: taken.
    pub(super) fn open(&mut self, ports: &[Port], who: usize) -> bool {
        let Some(unit) = self.units.get_mut(who).filter(|unit| !unit.open) else { return false };
        unit.open = true;
        unit.config.restart(true);
        self.restart_device(ports, who);
        self.publish(ports, who);
        true
    }

    /// Lets a function go: exports are revoked for ever, DMA stops, the device is reset if it can be.
    pub(super) fn close(&mut self, ports: &[Port], who: usize) {
        self.revoke(who);
        let Some(unit) = self.units.get_mut(who) else { return };
        unit.exports.iter().filter_map(Weak::upgrade).for_each(|export| export.close());
        unit.space = None;
        unit.open = false;
        unit.config.restart(false);
        if let Some(method) = unit.resets.first().copied() {
            self.reset_tdi(ports, who, method);
            self.restart_device(ports, who);
        }
        self.publish(ports, who);
    }

    /// A config write. `None`: misaligned or out of range.
    pub(super) fn config_write(
        &mut self,
        ports: &[Port],
        who: usize,
        at: u16,
        width: u8,
        value: u32,
    ) -> Option<()> {
        let unit = self.units.get_mut(who)?;
        if unit.dead {
            return Some(());
        }
        let Effects { memory, master, asleep, bar, flr } = unit.config.write(at, width, value)?;
        if memory == Some(false) || asleep == Some(true) {
            self.revoke(who);
        }
        if memory == Some(false) || master == Some(false) || asleep == Some(true) || bar.is_some() {
            self.fail_tdi(who);
        }
        if flr {
            self.revoke(who);
            self.reset_tdi(ports, who, ResetMethod::Flr);
            self.restart_device(ports, who);
        }
        if flr || memory == Some(true) || asleep == Some(false) {
            self.unrevoke(who);
        }
        self.publish(ports, who);
        Some(())
    }

    /// A reset by its first method; the errno when there is none or it fails. Imports die in any case.
    pub(super) fn reset(&mut self, ports: &[Port], who: usize) -> Result<(), i32> {
        self.revoke(who);
        let Some(unit) = self.units.get_mut(who) else { return Err(libc::ENODEV) };
        let result = match unit.resets.first().copied() {
            None => Err(libc::EINVAL),
            Some(_) if unit.dead => Err(libc::ENOTTY),
            Some(_) if unit.fail_resets > 0 => {
                unit.fail_resets -= 1;
                Err(libc::EAGAIN)
            }
            Some(method) => Ok(method),
        };
        if let Ok(method) = result {
            unit.config.wake();
            self.reset_tdi(ports, who, method);
            self.restart_device(ports, who);
        }
        self.unrevoke(who);
        self.publish(ports, who);
        result.map(|_| ())
    }

    /// The function misbehaves from now on.
    pub(super) fn misbehave(&mut self, ports: &[Port], who: usize, fault: FaultKind) {
        let (Some(unit), Some(port)) = (self.units.get_mut(who), ports.get(who)) else { return };
        match fault {
            FaultKind::Dead => unit.dead = true,
            FaultKind::FailResets(n) => unit.fail_resets += n,
            FaultKind::TdiError => self.fail_tdi(who),
            _ => port.model().misbehave(fault),
        }
        self.publish(ports, who);
        port.wake();
    }

    /// The DSM moved the TDI.
    pub(super) fn set_state(
        &mut self,
        ports: &[Port],
        who: usize,
        state: TdiState,
        domain: Option<TrustDomain>,
    ) {
        let Some(old) = self.units.get(who).map(|unit| unit.tdi.state) else { return };
        if old.is_bound() && state == TdiState::Unlocked {
            self.check_stop(ports, who);
            self.stop(ports, who);
        }
        if let Some(unit) = self.units.get_mut(who) {
            unit.tdi.state = state;
            unit.tdi.domain = match state {
                TdiState::Unlocked => None,
                _ => domain.or(unit.tdi.domain),
            };
        }
        self.publish(ports, who);
        if let Some(port) = ports.get(who) {
            port.wake();
        }
    }

    /// Which pages are TEE memory while the TDI is bound. In RUN it is a change of attribute.
    pub(super) fn set_pages(&mut self, ports: &[Port], who: usize, ranges: &[TaggedRange]) {
        self.check_change(ports, who, ranges);
        if let Some(unit) = self.units.get_mut(who) {
            unit.tdi.set_pages(ranges);
        }
        self.publish(ports, who);
    }

    /// Work of the device, its requests, and requests towards it.
    pub(super) fn outstanding(&self, ports: &[Port], who: usize) -> u64 {
        let (outbound, inbound) = self.under_way(who);
        ports.get(who).map_or(0, |port| port.model().outstanding()) + outbound + inbound
    }

    /// A new export of a live or sleeping function.
    pub(super) fn export(&mut self, who: usize, bar: u8, range: Range<u64>) -> Option<Arc<Export>> {
        let unit = self.units.get_mut(who)?;
        let live = unit.config.memory() && !unit.config.asleep();
        let export = Arc::new(Export::new(who, bar, range, live));
        unit.exports.retain(|old| old.strong_count() > 0);
        unit.exports.push(Arc::downgrade(&export));
        Some(export)
    }

    fn check_stop(&mut self, ports: &[Port], who: usize) {
        let Some(port) = ports.get(who) else { return };
        let (outbound, inbound) = self.under_way(who);
        let accepted = port.model().outstanding();
        let (when, culprit) = (self.now, Who::Function(port.at));
        if accepted + outbound + inbound > 0 {
            let what = Breach::StopWithOutstanding { accepted, outbound, inbound };
            self.log.violation(Violation { when, who: culprit, what });
        }
        for (importer, iova) in self.importers(ports, who, |_, _| true) {
            let what = Breach::MappedAtStop { importer, iova };
            self.log.violation(Violation { when, who: culprit, what });
        }
    }

    /// Other functions that have live windows of this one, where what they lead to is `wanted`.
    fn importers(
        &self,
        ports: &[Port],
        who: usize,
        wanted: impl Fn(u8, Range<u64>) -> bool,
    ) -> Vec<(PciAddress, u64)> {
        let mut found = Vec::new();
        for (importer, unit) in self.units.iter().enumerate().filter(|(n, _)| *n != who) {
            let Some(table) = unit.space.and_then(|id| self.spaces.get(&id)) else { continue };
            let Some(importer) = ports.get(importer).map(|port| port.at) else { continue };
            let windows = table.windows_of(who).filter(|(_, bar, range)| wanted(*bar, range.clone()));
            found.extend(windows.map(|(iova, ..)| (importer, iova)));
        }
        found
    }

    /// Pages of a TDI in RUN change: nobody may have them mapped, and nothing may be on its way to them.
    fn check_change(&mut self, ports: &[Port], who: usize, to: &[TaggedRange]) {
        let (Some(unit), Some(port)) = (self.units.get(who), ports.get(who)) else { return };
        if unit.tdi.state != TdiState::Run {
            return;
        }
        let changes = |bar, range| unit.tdi.changes(bar, range, to);
        let inbound = self.inbound(who).filter(|(bar, range)| changes(*bar, range.clone())).count() as u64;
        let mapped = self.importers(ports, who, changes);
        let (when, culprit) = (self.now, Who::Function(port.at));
        let under_way = (inbound > 0).then_some(Breach::ChangedUnderWay { inbound });
        let mapped = mapped.into_iter().map(|(importer, iova)| Breach::MappedAtChange { importer, iova });
        for what in under_way.into_iter().chain(mapped) {
            self.log.violation(Violation { when, who: culprit, what });
        }
    }

    /// The TDI lets go of its trust domain.
    fn stop(&mut self, ports: &[Port], who: usize) {
        self.sequence += 1;
        let (sequence, scrub) = (self.sequence, self.rules.scrub);
        let (Some(unit), Some(port)) = (self.units.get_mut(who), ports.get(who)) else { return };
        unit.tdi.stopped_at = sequence;
        port.model().stopped();
        for page in unit.tdi.private().filter(|_| scrub) {
            if let BarKind::Memory(memory) = port.bar(page.bar) {
                memory.scrub(page.range.clone());
            }
        }
    }

    /// An event that a locked TDI answers with ERROR.
    fn fail_tdi(&mut self, who: usize) {
        if let Some(unit) = self.units.get_mut(who) {
            if matches!(unit.tdi.state, TdiState::Locked | TdiState::Run) {
                unit.tdi.state = TdiState::Error;
            }
        }
    }

    /// What a reset does to the TDI: ERROR after a function-level one, UNLOCKED after a conventional one.
    fn reset_tdi(&mut self, ports: &[Port], who: usize, method: ResetMethod) {
        let bound = self.units.get(who).is_some_and(|unit| unit.tdi.state.is_bound());
        match method {
            ResetMethod::Flr | ResetMethod::Pm => self.fail_tdi(who),
            ResetMethod::Bus | ResetMethod::Other if bound => {
                self.stop(ports, who);
                if let Some(unit) = self.units.get_mut(who) {
                    unit.tdi.state = TdiState::Unlocked;
                    unit.tdi.domain = None;
                    unit.tdi.set_pages(&[]);
                }
            }
            ResetMethod::Bus | ResetMethod::Other => {}
        }
    }

    fn restart_device(&mut self, ports: &[Port], who: usize) {
        if let Some(port) = ports.get(who) {
            port.model().reset();
            self.forget_reads(who);
            port.wake();
        }
    }

    /// No window of the function is reachable when it returns; requests already past the IOMMU land.
    fn revoke(&mut self, who: usize) {
        let Some(unit) = self.units.get(who) else { return };
        unit.exports.iter().filter_map(Weak::upgrade).for_each(|export| export.set_live(false));
        self.spaces.values_mut().for_each(|table| table.kill_windows_of(who));
    }

    /// Exports may be imported again. Restores no mapping.
    fn unrevoke(&mut self, who: usize) {
        let Some(unit) = self.units.get(who) else { return };
        if unit.open && unit.config.memory() && !unit.config.asleep() {
            unit.exports.iter().filter_map(Weak::upgrade).for_each(|export| export.set_live(true));
        }
    }

    /// Lets register accesses know whether they must ask.
    fn publish(&self, ports: &[Port], who: usize) {
        if let (Some(unit), Some(port)) = (self.units.get(who), ports.get(who)) {
            let decodes = unit.config.memory() && !unit.config.asleep() && !unit.dead;
            port.plain.store(decodes && !unit.tdi.guards(), Ordering::Release);
        }
    }

    /// Holds a lane back, or lets it go; a read behind pushes all the same.
    pub(super) fn hold(&mut self, who: usize, target: Target, held: bool) {
        self.lanes.entry((who, target)).or_default().held = held;
    }
}
