//! A soft GPU and NIC that a test owns every step of: manual scheduler, manual fabric, one thread.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use std::ops::Range;
use std::sync::Arc;
use tidegate::core::drain::{Phase, Progress};
use tidegate::core::tdi::{Host, PageTag, TaggedRange, TrustDomain};
use tidegate::core::{
    Channel, ChannelConfig, Completion, Deadline, Fabric, Quiesce, Quiesced, RegionTag, Revocation, Seized,
};
use tidegate::p2p::engine::softnic::SoftNic;
use tidegate::p2p::soft::{Builder, Route, Soft};
use tidegate::p2p::{Device, Domain, Driver, PciAddress};
use tidegate::tdisp::platform::PlatformKind;
use tidegate::tdisp::tdi::{LockParams, Provider, Run, SoftDsm, Tdi, Unmodelled};

pub const GPU: PciAddress = PciAddress { segment: 0, bus: 2, device: 0, function: 0 };
pub const NIC: PciAddress = PciAddress { segment: 0, bus: 3, device: 0, function: 0 };
pub const VRAM: u64 = 1 << 20;
pub const BY: Deadline = Deadline::millis(60_000, 120_000);

pub type NicChannel = Channel<<SoftNic as Driver<Soft>>::Engine>;

pub struct Bed {
    pub soft: Soft,
    pub domain: Domain<Soft>,
    pub gpu: Device<Soft>,
    pub nic: Device<Soft>,
}

impl Bed {
    pub fn new(seed: u64) -> Bed {
        Bed::with(seed, |builder| builder)
    }

    pub fn with(seed: u64, more: impl FnOnce(Builder) -> Builder) -> Bed {
        let builder =
            Soft::builder(seed).switch(Route::RootComplex).gpu(GPU, VRAM).nic(NIC).keep_private_pages();
        let soft = more(builder).build().unwrap();
        let fabric = Fabric::builder().manual().build().unwrap();
        let domain = Domain::new(&fabric, soft.clone()).unwrap();
        let gpu = domain.attach(GPU).unwrap();
        let nic = domain.attach(NIC).unwrap();
        Bed { soft, domain, gpu, nic }
    }

    pub fn provider(&self, platform: PlatformKind) -> Provider {
        Provider::soft(platform, TrustDomain(1), |_| true)
    }

    /// The lower half of VRAM private, the upper half shared; the NIC's registers shared.
    pub fn dsm(&self, of: &Device<Soft>) -> SoftDsm {
        let piece = |range: Range<u64>, tag| TaggedRange { bar: 0, range, tag };
        let layout = if of.address() == GPU {
            vec![piece(0..VRAM / 2, PageTag::Private), piece(VRAM / 2..VRAM, PageTag::Shared)]
        } else {
            vec![piece(0..of.bars()[0], PageTag::Shared)]
        };
        let model = self.soft.model(of.address()).unwrap_or_else(|| Arc::new(Unmodelled));
        SoftDsm::new(of.function_id(), model, layout)
    }

    pub fn tdi(&self, of: &Device<Soft>, provider: &Provider) -> (Tdi<Device<Soft>>, Run) {
        self.bind(of, provider, self.dsm(of))
    }

    pub fn bind(&self, of: &Device<Soft>, provider: &Provider, dsm: SoftDsm) -> (Tdi<Device<Soft>>, Run) {
        let mut tdi = Tdi::new(of.clone(), provider.clone(), dsm).unwrap();
        let locked = tdi.lock(LockParams::default()).unwrap();
        let acceptance = provider.accept(&locked).unwrap();
        let run = locked.start(acceptance).unwrap();
        (tdi, run)
    }

    pub fn channel(&self, depth: u32) -> NicChannel {
        let poller = self.domain.fabric().poller("test");
        // Opening resets the queue, which takes steps of the device.
        self.nic.channel(&poller, SoftNic::queue(0), ChannelConfig::depth(depth)).unwrap()
    }

    pub fn frame(&self, byte: u8, len: usize) {
        // The last bytes differ from what a dead mapping gives.
        self.soft.wire(NIC).unwrap().send(&vec![byte; len]).unwrap();
    }

    pub fn vram(&self, at: u64, len: usize) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; len];
        self.soft.vram_file(GPU).unwrap().read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    /// Steps devices and polls until nothing moves.
    pub fn settle(&self, channel: &mut NicChannel) -> Vec<Completion> {
        let mut all = Vec::new();
        loop {
            let moved = self.soft.run_until_idle(100_000);
            let got = poll(channel);
            if moved == 0 && got.is_empty() {
                return all;
            }
            all.extend(got);
        }
    }

    /// Turns a quiesce while the owner polls and the devices step.
    pub fn quiesce(
        &self,
        mut quiesce: Quiesce,
        channel: Option<&mut NicChannel>,
        got: &mut Vec<Completion>,
    ) -> Quiesced {
        self.turn_all(channel, got, || quiesce.turn());
        quiesce.wait().unwrap()
    }

    pub fn revoke(
        &self,
        mut revoke: Revocation,
        channel: Option<&mut NicChannel>,
        got: &mut Vec<Completion>,
    ) -> tidegate::core::drain::Report {
        self.turn_all(channel, got, || revoke.turn());
        revoke.report()
    }

    fn turn_all(
        &self,
        mut channel: Option<&mut NicChannel>,
        got: &mut Vec<Completion>,
        mut turn: impl FnMut() -> Progress,
    ) {
        for _ in 0..1_000_000 {
            if turn() == Progress::Done {
                return;
            }
            self.domain.fabric().turn();
            self.soft.step();
            if let Some(channel) = channel.as_deref_mut() {
                got.extend(poll(channel));
            }
        }
        panic!("no end: {:?}", self.domain.fabric().inspect());
    }

    /// Turns until this phase, with nobody polling and no device stepping.
    pub fn until(&self, quiesce: &mut Quiesce, phase: Phase) {
        for _ in 0..1000 {
            match quiesce.turn() {
                Progress::Pending(now) if now >= phase => return,
                _ => {
                    self.domain.fabric().turn();
                }
            }
        }
        panic!("never got to {phase:?}");
    }
}

/// Whatever is there, also while a revoke has the channel.
pub fn poll(channel: &mut NicChannel) -> Vec<Completion> {
    let mut out = [Completion::EMPTY; 32];
    match channel.pin() {
        Ok(mut pinned) => {
            let n = pinned.poll(&mut out);
            out[..n].to_vec()
        }
        Err(Seized) => Vec::new(),
    }
}

/// Posts one receive buffer.
pub fn post<T: RegionTag>(
    channel: &mut NicChannel,
    to: tidegate::core::Span<T>,
    cookie: u64,
) -> tidegate::core::Submit {
    channel.pin().unwrap().submit(tidegate::core::Op::read(0, to).cookie(cookie))
}
