//! A stream from an NVMe namespace into VRAM, interrupted in four ways, step by step, for many seeds.

use std::os::unix::fs::FileExt;
use tidegate::core::drain::{Progress, Report};
use tidegate::core::{
    Cause, Channel, ChannelConfig, Completion, Deadline, Fabric, Handle, Op, Quiesce, Quiesced, Shared,
    Status, Submit,
};
use tidegate::p2p::device::Written;
use tidegate::p2p::engine::nvme::Nvme;
use tidegate::p2p::soft::Soft;
use tidegate::p2p::soft::device::nvme as model;
use tidegate::p2p::{Device, Domain, Driver, PciAddress, Want};

const GPU: PciAddress = PciAddress { segment: 0, bus: 2, device: 0, function: 0 };
const NVME: PciAddress = PciAddress { segment: 0, bus: 3, device: 0, function: 0 };
const CHUNK: u64 = 4096;
const CHUNKS: u64 = 8;
const BY: Deadline = Deadline::millis(60_000, 120_000);

type NvmeChannel = Channel<<Nvme as Driver<Soft>>::Engine>;

/// A GPU and a controller that a test owns every step of, one thread.
struct Bed {
    soft: Soft,
    domain: Domain<Soft>,
    gpu: Device<Soft>,
    nvme: Device<Soft>,
    picture: Vec<u8>,
}

impl Bed {
    fn new(seed: u64) -> Bed {
        let controller = model::Nvme::new(CHUNKS * CHUNK / 512, 9);
        let picture: Vec<u8> = (0..CHUNKS * CHUNK).map(|n| (n * 7 + n / 251 + seed) as u8 | 1).collect();
        controller.disk().write(0, &picture);
        let soft = Soft::builder(seed).gpu(GPU, 1 << 20).device(NVME, controller.description(), controller);
        let soft = soft.build().unwrap();
        let domain = Domain::new(&Fabric::builder().manual().build().unwrap(), soft.clone()).unwrap();
        let (gpu, nvme) = (domain.attach(GPU).unwrap(), domain.attach(NVME).unwrap());
        Bed { soft, domain, gpu, nvme, picture }
    }

    fn channel(&self) -> NvmeChannel {
        let poller = self.domain.fabric().poller("test");
        self.nvme.channel(&poller, Nvme::namespace(1).depth(16), ChannelConfig::depth(16)).unwrap()
    }

    fn submit(&self, channel: &mut NvmeChannel, window: Handle<Shared>, chunks: std::ops::Range<u64>) {
        let mut pinned = channel.pin().unwrap();
        for n in chunks {
            let at = n * CHUNK;
            let op = Op::read(at, window.span(at..at + CHUNK)).cookie(n);
            assert!(matches!(pinned.submit(op), Submit::Queued(_)));
        }
    }

    /// One step of everything.
    fn pass(&self, channel: &mut NvmeChannel, got: &mut Vec<Completion>) {
        self.domain.fabric().turn();
        self.soft.step();
        let mut out = [Completion::EMPTY; 16];
        if let Ok(mut pinned) = channel.pin() {
            let n = pinned.poll(&mut out);
            got.extend_from_slice(&out[..n]);
        }
    }

    fn until(
        &self,
        channel: &mut NvmeChannel,
        got: &mut Vec<Completion>,
        so: impl Fn(&[Completion]) -> bool,
    ) {
        for _ in 0..1_000_000 {
            if so(got) {
                return;
            }
            self.pass(channel, got);
        }
        panic!("no end: {:?}", self.domain.fabric().inspect());
    }

    /// With the first half of the picture in flight, which stands still until the gate is closed.
    fn quiesce(
        &self,
        device: &Device<Soft>,
        why: Cause,
        channel: &mut NvmeChannel,
    ) -> (Quiesced, Vec<Completion>) {
        let mut quiesce: Quiesce = device.quiesce(why, BY).unwrap();
        let mut got = Vec::new();
        for _ in 0..50 {
            assert!(matches!(quiesce.turn(), Progress::Pending(_)));
            self.pass(channel, &mut got);
        }
        assert_eq!((got.len(), device.gate().in_flight()), (0, CHUNKS / 2), "it stands still");
        self.soft.stall(NVME, false);
        while quiesce.turn() != Progress::Done {
            self.pass(channel, &mut got);
        }
        (quiesce.wait().unwrap(), got)
    }

    /// Takes a channel down, in steps.
    fn end(&self, channel: NvmeChannel) {
        drop(channel);
        while !self.domain.fabric().inspect().channels.is_empty() {
            self.domain.fabric().turn();
            self.soft.step();
        }
    }

    fn vram(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.picture.len()];
        self.soft.vram_file(GPU).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn blank(&self) {
        self.soft.vram_file(GPU).unwrap().write_all_at(&vec![0; self.picture.len()], 0).unwrap();
    }
}

/// All that was in flight ended well, and nothing was left out.
fn drained(report: &Report, got: &[Completion], seed: u64) {
    let half = CHUNKS / 2;
    assert!(report.is_clean(), "seed {seed}: {report:?}");
    assert_eq!(
        (report.in_flight, report.drained, report.revoked, report.failed),
        (half, half, 0, 0),
        "seed {seed}"
    );
    assert!(got.iter().all(|end| end.status == Status::Done), "seed {seed}: {got:?}");
}

fn interrupted(seed: u64) {
    let bed = Bed::new(seed);
    let export = bed.gpu.export(0, 0..CHUNKS * CHUNK).unwrap();
    let mut import = bed.domain.import(&export, Want::default()).unwrap();
    for what in 0..4 {
        let window = import.region().handle();
        let mut channel = bed.channel();
        bed.soft.stall(NVME, true);
        bed.submit(&mut channel, window, 0..CHUNKS / 2);
        let device = if what == 2 { &bed.nvme } else { &bed.gpu };
        let why = [Cause::Unbind, Cause::Reset, Cause::Reset, Cause::Config][what];
        let (quiet, got) = bed.quiesce(device, why, &mut channel);
        drained(quiet.report(), &got, seed);
        let quiet = match what {
            0 => quiet,
            1 | 2 => device.reset(quiet, BY).unwrap().1,
            _ => {
                // The proof goes back, and the intercept makes its own of a device at which nothing is in flight.
                quiet.restore();
                let command = device.config_read(4, 2).unwrap();
                let written = device.config_write(4, 2, command & !2, BY).unwrap();
                let Written::Intercepted { quiesced, .. } = written else { panic!("{written:?}") };
                assert!(matches!(device.config_write(4, 2, command, BY).unwrap(), Written::Plain));
                quiesced
            }
        };
        quiet.restore();
        bed.end(channel);
        if import.region().is_revoked() {
            import = import.recover().unwrap();
        }
        assert_eq!(import.region().handle().generation() == window.generation(), what == 2);
        let mut channel = bed.channel();
        bed.submit(&mut channel, import.region().handle(), CHUNKS / 2..CHUNKS);
        let mut got = Vec::new();
        bed.until(&mut channel, &mut got, |got| got.len() as u64 == CHUNKS / 2);
        assert!(matches!(channel.pin().unwrap().confirm(), Ok(Submit::Queued(_))));
        bed.until(&mut channel, &mut got, |got| got.len() as u64 == CHUNKS / 2 + 1);
        assert!(got.iter().all(|end| end.status == Status::Done), "seed {seed}: {got:?}");
        assert_eq!(channel.confirmed().0, CHUNKS / 2, "seed {seed}");
        assert!(bed.vram() == bed.picture, "seed {seed}, interruption {what}");
        bed.blank();
        bed.end(channel);
    }
    assert_eq!(bed.soft.violations(), [], "seed {seed}");
}

#[test]
fn a_stream_is_whole_after_each_interruption_for_every_seed() {
    for seed in 0..16 {
        interrupted(seed);
    }
}
