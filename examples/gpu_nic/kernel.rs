//! The running kernel as a stage: QEMU's igb receives into the VRAM of bochs-display. The far end is a program of the host, which
//! also looks at the screen, by QEMU's monitor (`far_end.rs`, under `ci/vm run --beside`).

use super::stage::{Mapping, Theatre, layout};
use crate::display::{Display, Mapped};
use crate::rig::StoryError;
use crate::vfio_rig::{dmar_faults, find};
use std::sync::Arc;
use tidegate::core::Fabric;
use tidegate::core::tdi::Host;
use tidegate::p2p::vfio::Vfio;
use tidegate::p2p::{Device, Domain};
use tidegate::tdisp::tdi::{SoftDsm, Unmodelled};

pub struct KernelStage {
    domain: Domain<Vfio>,
    display: Device<Vfio>,
    controller: Device<Vfio>,
    outside: Display,
    vram: Mapped,
    faults: u64,
}

impl KernelStage {
    pub fn new() -> Result<KernelStage, StoryError> {
        let faults = dmar_faults();
        let vfio = Vfio::new()?;
        let fabric = Fabric::builder().emulate_tsm().build()?;
        let domain = Domain::new(&fabric, vfio.clone())?;
        let controller = domain.attach(find(&vfio, (0x8086, 0x10c9))?)?;
        let display = domain.attach(find(&vfio, (0x1234, 0x1111))?)?;
        let (outside, vram) = (Display::new(display.address())?, Mapped::new(display.address(), 0)?);
        Ok(KernelStage { domain, display, controller, outside, vram, faults })
    }
}

impl Theatre for KernelStage {
    type B = Vfio;

    fn domain(&self) -> &Domain<Vfio> {
        &self.domain
    }
    fn display(&self) -> &Device<Vfio> {
        &self.display
    }
    fn controller(&self) -> &Device<Vfio> {
        &self.controller
    }
    fn dsm(&self) -> SoftDsm {
        SoftDsm::new(self.display.function_id(), Arc::new(Unmodelled), layout(self.display.bars()[0]))
    }
    fn show(&self) -> Result<(), StoryError> {
        self.outside.show()
    }
    fn screen(&self, pass: u8) -> Result<(), String> {
        self.outside.screen(pass)
    }
    fn returned(&self, pass: u8) -> Result<u64, String> {
        let twice = self.outside.ask(&format!("returned {pass}"))?;
        twice.parse().map_err(|_| format!("the host said '{twice}' where a number was due"))
    }
    fn maps_registers(&self) -> bool {
        true
    }
    fn mapped(&self, line: &str) -> Mapping {
        match self.vram.is(line) {
            true => Mapping::Vram,
            false if line.contains(" /dev/vfio/devices/") => Mapping::Registers,
            false => Mapping::Other,
        }
    }
    fn violations(&self) -> u64 {
        dmar_faults().saturating_sub(self.faults)
    }
}
