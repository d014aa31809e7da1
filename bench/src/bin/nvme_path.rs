//! NVMe's part of the hot path as functions of their own, on the soft fabric, so that its instructions can be counted
//! (ci/icount). The argument is how 4 KiB are read: `prp` and `sgl` into host memory, by page entries or by a
//! scatter-gather descriptor; `window` into another device's BAR.
#![expect(unsafe_code, reason = "unmangled names, for the listing")]

use std::hint::black_box;
use tidegate_core::{
    Access, Channel, ChannelConfig, Completion, Fabric, Handle, Memory, Op, Pinned, Shared, Status, Submit,
};
use tidegate_p2p::engine::nvme::{Nvme, NvmeEngine};
use tidegate_p2p::soft::Soft;
use tidegate_p2p::soft::device::nvme as model;
use tidegate_p2p::{Domain, PciAddress, Want};

/// Commands in a turn.
const BURST: u64 = 32;
/// Turns: ci/icount divides by it.
const ROUNDS: u64 = 300;
const BYTES: u64 = 4096;

type Engine = NvmeEngine<Soft>;

/// One submit. The span is made here, as a user would.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_nvme_submit(pinned: &mut Pinned<'_, Engine>, to: Handle<Shared>, n: u64) -> bool {
    let read = Op::read(n * BYTES, to.span(n * BYTES..(n + 1) * BYTES));
    matches!(pinned.submit(read.cookie(n)), Submit::Queued(_))
}

/// One poll, which finds a burst.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_nvme_poll(pinned: &mut Pinned<'_, Engine>, out: &mut [Completion]) -> usize {
    pinned.poll(out)
}

/// A burst in: one section, with its doorbell.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_nvme_in(channel: &mut Channel<Engine>, to: Handle<Shared>) -> u64 {
    let Ok(mut pinned) = channel.pin() else { return 0 };
    (0..BURST).filter(|n| tidegate_nvme_submit(black_box(&mut pinned), to, *n)).count() as u64
}

/// And out: another one.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_nvme_out(channel: &mut Channel<Engine>, out: &mut [Completion]) -> usize {
    channel.pin().map_or(0, |mut pinned| tidegate_nvme_poll(black_box(&mut pinned), out))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let way = std::env::args().nth(1).unwrap_or_default();
    let driver = match way.as_str() {
        "prp" | "window" => Nvme::namespace(1).pages_only(),
        "sgl" => Nvme::namespace(1),
        _ => return Err("nvme-path prp|sgl|window".into()),
    };
    let at = |bus| PciAddress { segment: 0, bus, device: 0, function: 0 };
    let (disk, gpu) = (at(1), at(2));
    let model = model::Nvme::new(1 << 12, 9).lists(model::Lists::Bytes);
    let description = model.description();
    let soft = Soft::builder(1).device(disk, description, model).gpu(gpu, 1 << 20).build()?;
    let fabric = Fabric::builder().build()?;
    let domain = Domain::new(&fabric, soft.clone())?;
    let (nvme, gpu) = (domain.attach(disk)?, domain.attach(gpu)?);
    let window = domain.import(&gpu.export(0, 0..BURST * BYTES)?, Want::default())?;
    let memory = Memory::allocate("nvme path", BURST * BYTES)?;
    let host = domain.register(memory.backing(), Access::ReadWrite)?;
    let depth = ChannelConfig::depth(BURST as u32);
    let mut channel = nvme.channel(&fabric.poller("nvme path"), driver, depth)?;
    let to = if way == "window" { window.region().handle() } else { host.handle() };
    let mut out = [Completion::EMPTY; BURST as usize];
    for _ in 0..ROUNDS {
        assert_eq!(tidegate_nvme_in(&mut channel, to), BURST);
        // The model's work, until nothing is left to do.
        soft.run_until_idle(u64::MAX);
        assert_eq!(tidegate_nvme_out(&mut channel, &mut out), out.len());
        assert!(out.iter().all(|completion| completion.status == Status::Done));
    }
    Ok(())
}
