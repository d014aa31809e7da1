//! The worlds of the soft fabric.

use super::On;
use super::rig::{DEPTH, Rig, World};
use crate::device::{Driver, DriverError, Resources};
use crate::pci::PciAddress;
use crate::soft::{Builder, Soft};
use tidegate_core::Engine;
use tidegate_core::engine::{Operation, Push};

/// Where the engine's device sits.
pub const DEVICE: PciAddress = PciAddress { segment: 0, bus: 1, device: 0, function: 0 };
/// Where the exporter sits, a GPU.
pub const GPU: PciAddress = PciAddress { segment: 0, bus: 3, device: 0, function: 0 };
const VRAM: u64 = 2 << 20;
/// Of the schedules that each test runs under.
pub const SEEDS: std::ops::Range<u64> = 1..6;

/// A fabric with both.
pub fn builder<S: On<Soft>>(seed: u64) -> Builder {
    S::soft(Soft::builder(seed), DEVICE).gpu(GPU, VRAM)
}

/// Under a scheduler.
pub fn rig<S: On<Soft>>(seed: u64) -> Rig<Soft, S> {
    let soft = builder::<S>(seed).build().unwrap();
    Rig::new(World::Manual(soft.clone()), soft, DEVICE, GPU, 0, DEPTH)
}

/// With devices that move by themselves.
pub fn threads<S: On<Soft>>(seed: u64) -> Rig<Soft, S> {
    let soft = builder::<S>(seed).threads().build().unwrap();
    Rig::new(World::Threads(soft.clone()), soft, DEVICE, GPU, 0, DEPTH)
}

/// With some seeds.
pub fn steps<S: On<Soft>>(test: impl Fn(&mut Rig<Soft, S>)) {
    SEEDS.for_each(|seed| run(rig(seed), &test));
}

/// With some seeds, and with threads.
pub fn each<S: On<Soft>>(test: impl Fn(&mut Rig<Soft, S>)) {
    steps(&test);
    run(threads(9), &test);
}

fn run<S: On<Soft>>(mut rig: Rig<Soft, S>, test: &impl Fn(&mut Rig<Soft, S>)) {
    test(&mut rig);
    let soft = rig.world.soft().clone();
    drop(rig);
    assert_eq!(soft.violations(), [], "what must never happen");
}

/// Opens an engine, gives it work, and drops it: what no caller of core can do.
pub struct DroppedAtWork<D>(pub D, pub Operation);

#[expect(unsafe_code, reason = "pushes by itself, as a channel would")]
impl<D: Driver<Soft>> Driver<Soft> for DroppedAtWork<D> {
    type Engine = D::Engine;

    fn open(self, resources: Resources<Soft>) -> Result<D::Engine, DriverError> {
        let at = resources.address();
        let mut engine = self.0.open(resources)?;
        // SAFETY: 1. nothing is mapped at its address: a soft device's request faults in the model's IOMMU.
        assert_eq!(unsafe { engine.push(1, &self.1) }, Push::Taken);
        engine.doorbell();
        drop(engine);
        Err(DriverError::Unresponsive { at, what: "live" })
    }
}
