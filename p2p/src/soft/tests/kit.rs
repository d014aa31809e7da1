//! A fabric of one NIC, one GPU and one edu, driven by raw registers and descriptors.

use crate::backend::{Backend, Function, Registers, Rights, Space, Trust};
use crate::engine::softnic::abi::{self, Completion, Descriptor, Opcode};
use crate::pci::PciAddress;
use crate::soft::memory::Memory;
use crate::soft::{AddressSpace, Bar, Breach, Builder, DmaBuf, OpenFunction, Soft};
use std::os::fd::AsFd;
use std::sync::Arc;
use tidegate_core::tdi::{Model, PageTag, TaggedRange, TdiState, TrustDomain};

pub(super) const NIC: PciAddress = PciAddress { segment: 0, bus: 1, device: 0, function: 0 };
pub(super) const GPU: PciAddress = PciAddress { segment: 0, bus: 2, device: 0, function: 0 };
pub(super) const EDU: PciAddress = PciAddress { segment: 0, bus: 3, device: 0, function: 0 };
/// Where the NIC sees its host memory and the GPU's VRAM.
pub(super) const HOST: u64 = 0x10_0000;
pub(super) const WINDOW: u64 = 0x4000_0000;
/// Inside the host memory.
pub(super) const COMPLETIONS: u64 = 0x4000;
pub(super) const BUFFER: u64 = 0x8000;
pub(super) const HOST_LEN: u64 = 0x10_0000;
pub(super) const VRAM: u64 = 1 << 20;
pub(super) const HOME: TrustDomain = TrustDomain(1);

pub(super) struct Lab {
    pub(super) bar: Bar,
    pub(super) window: DmaBuf,
    pub(super) space: AddressSpace,
    pub(super) nic: OpenFunction,
    pub(super) gpu: OpenFunction,
    pub(super) host: Memory,
    pub(super) soft: Soft,
    size: u32,
    posted: u32,
    consumed: u32,
}

/// Both ends of a fabric, before anything is opened.
pub(super) fn builder(seed: u64) -> Builder {
    Soft::builder(seed).nic(NIC).gpu(GPU, VRAM).edu(EDU)
}

impl Lab {
    /// Everything open, the window mapped as shared, queue 0 running with 16 entries.
    pub(super) fn new(seed: u64) -> Lab {
        Lab::on(builder(seed).build().unwrap(), Trust::Shared)
    }

    pub(super) fn on(soft: Soft, trust: Trust) -> Lab {
        let (nic, gpu) = (soft.open(NIC).unwrap(), soft.open(GPU).unwrap());
        let space = soft.space().unwrap();
        let host = Memory::anonymous(HOST_LEN).unwrap();
        space.map_memory(HOST, host.file().as_fd(), 0, HOST_LEN, Rights::ReadWrite).unwrap();
        let window = gpu.export(0, 0..VRAM).unwrap();
        space.map_dmabuf(WINDOW, &window, VRAM, Rights::ReadWrite, trust).unwrap();
        nic.attach(&space).unwrap();
        nic.config_write(4, 2, 6).unwrap();
        let bar = nic.map_bar(0).unwrap();
        let mut lab = Lab { bar, window, space, nic, gpu, host, soft, size: 0, posted: 0, consumed: 0 };
        lab.start(16);
        lab
    }

    /// As [`Lab::new`], with both TDIs in RUN of one domain, all of the VRAM private.
    pub(super) fn trusted(seed: u64) -> Lab {
        let lab = Lab::on(builder(seed).build().unwrap(), Trust::Private);
        lab.bind(GPU, HOME);
        lab.bind(NIC, HOME);
        lab
    }

    pub(super) fn model(&self, at: PciAddress) -> Arc<dyn Model> {
        self.soft.model(at).unwrap()
    }

    /// To RUN; of the GPU all VRAM is private, of the NIC nothing.
    pub(super) fn bind(&self, at: PciAddress, domain: TrustDomain) {
        let model = self.model(at);
        if at == GPU {
            model.set_pages(&[TaggedRange { bar: 0, range: 0..VRAM, tag: PageTag::Private }]);
        }
        model.set_state(TdiState::Locked, Some(domain));
        model.set_state(TdiState::Run, Some(domain));
    }

    pub(super) fn register(&self, register: u64) -> u32 {
        self.bar.read32(abi::queue(0, register))
    }

    pub(super) fn set(&self, register: u64, value: u32) {
        self.bar.write32(abi::queue(0, register), value);
    }

    /// (Re)starts queue 0.
    pub(super) fn start(&mut self, size: u32) {
        self.host.scrub(0..BUFFER);
        self.bar.write32(abi::CONTROL, abi::CONTROL_ENABLE);
        self.bar.write64(abi::queue(0, abi::QUEUE_DESCRIPTORS), HOST);
        self.bar.write64(abi::queue(0, abi::QUEUE_COMPLETIONS), HOST + COMPLETIONS);
        self.set(abi::QUEUE_SIZE, size);
        self.set(abi::QUEUE_CONTROL, abi::QUEUE_CONTROL_ENABLE);
        (self.size, self.posted, self.consumed) = (size, 0, 0);
    }

    /// Writes a descriptor without ringing; its index is the order of posting.
    pub(super) fn write(&mut self, opcode: Opcode, address: u64, target: u64, len: u32) {
        let d = Descriptor { address, target, len, index: self.posted, opcode: opcode as u8 };
        self.write_raw(&d);
    }

    pub(super) fn write_raw(&mut self, descriptor: &Descriptor) {
        let slot = u64::from(self.posted % self.size);
        self.host.write(slot * 32, &descriptor.encode());
        self.posted += 1;
    }

    pub(super) fn ring(&self) {
        self.set(abi::QUEUE_TAIL, self.posted);
    }

    /// Posts one descriptor and rings.
    pub(super) fn post(&mut self, opcode: Opcode, address: u64, target: u64, len: u32) {
        self.write(opcode, address, target, len);
        self.ring();
    }

    /// A copy of `data` from host memory into the window.
    pub(super) fn post_copy_in(&mut self, data: &[u8], at: u64) {
        self.host.write(BUFFER, data);
        self.post(Opcode::Copy, HOST + BUFFER, WINDOW + at, data.len() as u32);
    }

    /// The next completion, if it is there.
    pub(super) fn poll(&mut self) -> Option<Completion> {
        let slot = u64::from(self.consumed % self.size);
        let mut raw = [0; 32];
        self.host.read(COMPLETIONS + slot * 32, &mut raw);
        let completion = Completion::decode(&raw);
        let lap = (self.consumed / self.size) % 2 == 0;
        (completion.phase == lap).then(|| {
            self.consumed += 1;
            completion
        })
    }

    /// Steps until the next completion is there.
    pub(super) fn wait(&mut self) -> Completion {
        for _ in 0..10_000 {
            if let Some(completion) = self.poll() {
                return completion;
            }
            assert!(self.soft.step(), "idle without a completion");
        }
        panic!("no completion");
    }

    /// Steps until `done`; panics when the fabric goes idle first.
    pub(super) fn step_until(&self, mut done: impl FnMut(&Lab) -> bool) {
        for _ in 0..10_000 {
            if done(self) {
                return;
            }
            assert!(self.soft.step(), "idle too early");
        }
        panic!("never");
    }

    pub(super) fn idle(&self) {
        assert!(self.soft.run_until_idle(100_000) < 100_000);
    }

    pub(super) fn vram(&self, at: u64, len: usize) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut got = vec![0; len];
        self.soft.vram_file(GPU).unwrap().read_exact_at(&mut got, at).unwrap();
        got
    }

    pub(super) fn breaches(&self) -> Vec<Breach> {
        self.soft.violations().into_iter().map(|v| v.what).collect()
    }

    pub(super) fn refusals(&self) -> Vec<crate::soft::Refusal> {
        self.soft.faults().into_iter().map(|f| f.why).collect()
    }
}
