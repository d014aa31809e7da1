//! What only NVMe does, on the model.

mod admin;
mod anywhere;
mod buffer;
mod faults;
mod lists;
mod medium;
mod sharing;

use super::Nvme;
use crate::engine::conformance::On;
use crate::engine::conformance::rig::{DEPTH, Rig, World};
use crate::engine::conformance::soft::{DEVICE, GPU};
use crate::soft::device::nvme::{self as model, Disk};
use crate::soft::{Action, Description, DeviceModel, FaultKind, OwnMemory, Reply, Soft, Turn};
use tidegate_core::{Access, Memory, Region, Shared};

type NvmeRig = Rig<Soft, Nvme>;

/// 4 MiB in blocks of 512 bytes.
fn plain() -> model::Nvme {
    model::Nvme::new(8192, 9)
}

/// A rig with this controller, and its disk.
fn with<S: On<Soft>>(seed: u64, model: model::Nvme) -> (Rig<Soft, S>, Disk) {
    let (disk, description) = (model.disk(), model.description());
    (behind(seed, description, model), disk)
}

/// A rig with any model of a controller.
fn behind<S: On<Soft>>(seed: u64, description: Description, model: impl DeviceModel) -> Rig<Soft, S> {
    let soft = Soft::builder(seed).device(DEVICE, description, model).gpu(GPU, 2 << 20).build().unwrap();
    Rig::new(World::Manual(soft.clone()), soft, DEVICE, GPU, 0, DEPTH)
}

/// More host memory than the rig has.
fn memory(rig: &NvmeRig, len: u64) -> Region<Shared> {
    let memory = Memory::allocate("large", len).unwrap();
    rig.domain.register(memory.backing(), Access::ReadWrite).unwrap()
}

/// A controller whose completions are tampered with on their way: `twist` gets each, with its number from 0.
struct Twisted<F> {
    nvme: model::Nvme,
    seen: u32,
    twist: F,
}

impl<F: FnMut(u32, &mut Vec<u8>) + Send + 'static> DeviceModel for Twisted<F> {
    fn read(&mut self, bar: u8, at: u64, width: u8) -> u64 {
        self.nvme.read(bar, at, width)
    }
    fn write(&mut self, bar: u8, at: u64, width: u8, value: u64) {
        self.nvme.write(bar, at, width, value);
    }
    fn next(&mut self, turn: Turn<'_>) -> Option<Action> {
        let mut action = self.nvme.next(turn)?;
        if let Action::Write { data, .. } = &mut action {
            // Of an I/O queue: the admin queue's number is 0.
            if data.len() == 16 && data[10..12] != [0, 0] {
                (self.twist)(self.seen, data);
                self.seen += 1;
            }
        }
        Some(action)
    }
    fn reply(&mut self, tag: u32, reply: Reply) {
        self.nvme.reply(tag, reply);
    }
    fn reset(&mut self) {
        self.nvme.reset();
    }
    fn outstanding(&self) -> u64 {
        self.nvme.outstanding()
    }
    fn own_memory(&mut self, bar: u8, memory: OwnMemory) {
        self.nvme.own_memory(bar, memory);
    }
    fn misbehave(&mut self, fault: FaultKind) {
        self.nvme.misbehave(fault);
    }
}

fn twisted(twist: impl FnMut(u32, &mut Vec<u8>) + Send + 'static) -> NvmeRig {
    let nvme = plain();
    let description = nvme.description();
    behind(1, description, Twisted { nvme, seen: 0, twist })
}
