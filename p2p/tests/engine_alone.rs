//! Engines on a backend that does nothing else: no allocation in steady state, and the ways in which a mapping can be
//! dead that the soft fabric does not have.

#[path = "engine_alone/counting.rs"]
mod counting;
#[path = "engine_alone/flat.rs"]
mod flat;

use counting::allocations;
use flat::{Dead, EDU, EXPORTER, Flat};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_core::{
    Access, Channel, ChannelConfig, Completion, Engine, Fabric, Memory, Op, Poller, Region, Shared, Status,
    Submit,
};
use tidegate_p2p::bounce::{Bounce, Buffers, End};
use tidegate_p2p::engine::code;
use tidegate_p2p::engine::edu::{Edu, EduEngine};
use tidegate_p2p::engine::nvme::{Fences, Nvme};
use tidegate_p2p::engine::softnic::SoftNic;
use tidegate_p2p::pci::PciAddress;
use tidegate_p2p::probe::{Outcome as Probed, Plan, Returned, measure};
use tidegate_p2p::soft::Soft;
use tidegate_p2p::soft::device::nvme::{self as model, Lists};
use tidegate_p2p::{Backend, Device, Domain, Import, Progress, Want};

const LEN: u64 = 64 << 10;

struct Bench<B: Backend> {
    host: Region<Shared>,
    window: Import<B, Shared>,
    initiator: Device<B>,
    poller: Arc<Poller>,
    fabric: Fabric,
}

fn bench<B: Backend>(backend: B, initiator: PciAddress, exporter: PciAddress) -> Bench<B> {
    let fabric = Fabric::builder().build().unwrap();
    let domain = Domain::new(&fabric, backend).unwrap();
    let initiator = domain.attach(initiator).unwrap();
    let exporter = domain.attach(exporter).unwrap();
    let window = domain.import(&exporter.export(0, 0..LEN).unwrap(), Want::default()).unwrap();
    let memory = Memory::allocate("bench", LEN).unwrap();
    let host = domain.register(memory.backing(), Access::ReadWrite).unwrap();
    let poller = fabric.poller("bench");
    Bench { host, window, initiator, poller, fabric }
}

/// Submits a burst and polls until it is through.
fn burst<E: Engine>(channel: &mut Channel<E>, ops: &[Op]) {
    {
        let mut pinned = channel.pin().unwrap();
        for op in ops {
            assert!(matches!(pinned.submit(*op), Submit::Queued(_)));
        }
    }
    let (mut out, mut done, start) = ([Completion::EMPTY; 8], 0, Instant::now());
    while done < ops.len() {
        let n = channel.pin().unwrap().poll(&mut out);
        if n == 0 {
            // An engine that polls in vain for long looks at its device, and soft registers allocate.
            std::thread::sleep(Duration::from_micros(20));
        }
        assert!(out[..n].iter().all(|c| c.status == Status::Done));
        done += n;
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}

fn allocates_nothing<E: Engine>(mut channel: Channel<E>, ops: &[Op]) {
    burst(&mut channel, ops);
    let before = allocations();
    (0..200).for_each(|_| burst(&mut channel, ops));
    assert_eq!(allocations() - before, 0);
}

#[test]
fn an_edu_channel_allocates_nothing() {
    let bench = bench(Flat::new(), EDU, EXPORTER);
    let channel = bench.initiator.channel(&bench.poller, Edu::default(), ChannelConfig::depth(16)).unwrap();
    let (host, window) = (bench.host.handle(), bench.window.region().handle());
    let ops = [
        Op::copy(host.span(0..9000), window.span(0..9000)),
        Op::fence(),
        Op::fill(window.span(0..5000), 7),
        Op::copy(window.span(0..100), host.span(0x4000..0x4064)),
        Op::copy(host.span(0..100), window.span(0x4000..0x4064)),
        Op::copy(host.span(0..100), host.span(0x4000..0x4064)),
    ];
    allocates_nothing(channel, &ops);
}

#[test]
fn a_nic_channel_allocates_nothing() {
    let nic = "0000:01:00.0".parse().unwrap();
    let gpu = "0000:02:00.0".parse().unwrap();
    let soft = Soft::builder(1).threads().nic(nic).gpu(gpu, 1 << 20).build().unwrap();
    let bench = bench(soft, nic, gpu);
    let channel =
        bench.initiator.channel(&bench.poller, SoftNic::queue(0), ChannelConfig::depth(64)).unwrap();
    let (host, window) = (bench.host.handle(), bench.window.region().handle());
    let mut ops = vec![Op::copy(host.span(0..64), window.span(0..64)); 20];
    ops.insert(7, Op::fence());
    ops.insert(15, Op::fence());
    allocates_nothing(channel, &ops);
}

/// The second stream of a hundred pieces, with edu for both legs.
#[test]
fn a_bounce_allocates_nothing_within_a_stream() {
    let bench = bench(Flat::new(), EDU, EXPORTER);
    let channel = bench.initiator.channel(&bench.poller, Edu::default(), ChannelConfig::depth(16)).unwrap();
    let window = bench.window.region().handle();
    let domain = bench.window.domain();
    let buffers = Buffers::new(domain, domain, 4, 4096, None).unwrap();
    let fill = move |at: u64, into| Op::copy(window.span(at % LEN..at % LEN + 4096), into);
    let drain = move |at: u64, from| Op::copy(from, window.span(at % LEN..at % LEN + 4096));
    let mut bounce = Bounce::one(buffers, channel, fill, drain);
    let mut stream = || {
        bounce.begin(100 * 4096).unwrap();
        while bounce.turn() != Progress::Done {}
        assert_eq!(bounce.end(), Some(End::Finished { confirmed: false }));
    };
    stream();
    let before = allocations();
    stream();
    assert_eq!(allocations() - before, 0);
    assert_eq!(bounce.account().drain.bytes, 200 * 4096);
}

#[test]
fn an_nvme_channel_allocates_nothing() {
    let (nvme, gpu) = ("0000:01:00.0".parse().unwrap(), "0000:02:00.0".parse().unwrap());
    for (lists, fences) in [(Lists::Bytes, Fences::Order), (Lists::None, Fences::Flush)] {
        let model = model::Nvme::new(1024, 9).lists(lists);
        let description = model.description();
        let builder = Soft::builder(1).threads().device(nvme, description, model);
        let bench = bench(builder.gpu(gpu, 1 << 20).build().unwrap(), nvme, gpu);
        let driver = Nvme::namespace(1).fences(fences);
        let channel = bench.initiator.channel(&bench.poller, driver, ChannelConfig::depth(64)).unwrap();
        let (host, window) = (bench.host.handle(), bench.window.region().handle());
        let mut ops = vec![Op::read(512, window.span(0x200..0x3200)); 10];
        ops.extend(vec![Op::write(host.span(0..512), 8192); 10]);
        ops.insert(7, Op::fence());
        ops.insert(15, Op::fence());
        allocates_nothing(channel, &ops);
    }
}

fn open() -> (Bench<Flat>, Channel<EduEngine<Flat>>, Flat) {
    let flat = Flat::new();
    let bench = bench(flat.clone(), EDU, EXPORTER);
    let channel = bench.initiator.channel(&bench.poller, Edu::default(), ChannelConfig::depth(16)).unwrap();
    (bench, channel, flat)
}

fn confirm(channel: &mut Channel<EduEngine<Flat>>) -> Status {
    assert!(matches!(channel.pin().unwrap().confirm(), Ok(Submit::Queued(_))));
    let mut out = [Completion::EMPTY; 1];
    for _ in 0..1000 {
        // Each poll looks at the device once.
        if channel.pin().unwrap().poll(&mut out) == 1 {
            return out[0].status;
        }
    }
    panic!("no answer");
}

/// Ones (an IOMMU), zeros (QEMU), or the device's buffer left as it was, which then holds what was sent.
#[test]
fn no_kind_of_dead_mapping_is_confirmed() {
    for dead in [Dead::Ones, Dead::Zeros, Dead::Unchanged] {
        for filled in [false, true] {
            let (bench, mut channel, flat) = open();
            let (host, window) = (bench.host.handle(), bench.window.region().handle());
            bench.host.write(0, b"bytes that arrive nowhere").unwrap();
            let write = match filled {
                true => Op::fill(window.span(0x100..0x119), 0x1122_3344_5566_7788),
                false => Op::copy(host.span(0..25), window.span(0x100..0x119)),
            };
            burst(&mut channel, &[write]);
            assert_eq!(confirm(&mut channel), Status::Done);
            let good = channel.confirmed();
            flat.kill_window(dead);
            burst(&mut channel, &[write]);
            assert_eq!(confirm(&mut channel), Status::Device(code::DEAD_WINDOW), "{dead:?}");
            assert_eq!(channel.confirmed(), good);
            assert_eq!(bench.fabric.inspect().channels.len(), 1);
        }
    }
}

/// Nor does a probe take one for a window that works; without the CPU, which would know.
#[test]
fn no_kind_of_dead_mapping_passes_a_probe() {
    for (dead, reads) in
        [(Dead::Ones, Returned::Ones), (Dead::Zeros, Returned::Zeros), (Dead::Unchanged, Returned::Nothing)]
    {
        let (bench, mut channel, flat) = open();
        // One transfer: the device's buffer, left as it was by a dead read, held the whole pattern.
        let plan = || Plan::scratch(0..0x1000).without_cpu();
        assert_eq!(measure(&mut channel, &bench.window, plan()).unwrap().outcome, Probed::Works);
        flat.kill_window(dead);
        let found = measure(&mut channel, &bench.window, plan()).unwrap().outcome;
        assert_eq!(found, Probed::Drops { reads }, "{dead:?}");
    }
}

/// While bus mastering is off nothing moves, neither the bytes nor what is saved of them.
#[test]
fn what_the_device_could_not_save_proves_nothing() {
    let (bench, mut channel, flat) = open();
    let (host, window) = (bench.host.handle(), bench.window.region().handle());
    bench.host.write(0, &[0x41; 20]).unwrap();
    let write = Op::copy(host.span(0..20), window.span(0..20));
    burst(&mut channel, &[write]);
    assert_eq!(confirm(&mut channel), Status::Done);
    bench.host.write(0, b"others, that are lost").unwrap();
    flat.set_master(false);
    // The save of the second chunk is lost like the chunk; the scratch page must not speak for the first.
    burst(&mut channel, &[write, Op::copy(host.span(0..20), host.span(64..84))]);
    flat.set_master(true);
    assert_eq!(confirm(&mut channel), Status::Unconfirmed);
}

/// Nor may what was saved be taken for what was read.
#[test]
fn a_device_that_moves_nothing_confirms_nothing() {
    let (bench, mut channel, flat) = open();
    let (host, window) = (bench.host.handle(), bench.window.region().handle());
    bench.host.write(0, &[0x41; 16]).unwrap();
    let write = Op::copy(host.span(0..16), window.span(0..16));
    burst(&mut channel, &[write, Op::copy(host.span(0x1000..0x1010), host.span(64..80))]);
    flat.set_master(false);
    assert_eq!(confirm(&mut channel), Status::Device(code::DEAD_WINDOW));
}

/// A transfer that never ends: a drain waits for its deadline, then keeps what the device may still write.
#[test]
fn a_transfer_that_never_ends_is_condemned() {
    let (bench, mut channel, flat) = open();
    let (host, window) = (bench.host.handle(), bench.window.region().handle());
    flat.hang();
    let copy = Op::copy(host.span(0..20), window.span(0..20));
    for _ in 0..2 {
        assert!(matches!(channel.pin().unwrap().submit(copy), Submit::Queued(_)));
    }
    let by = tidegate_core::Deadline::millis(0, 100);
    let report = bench.host.revoke(tidegate_core::Cause::User, by).wait().unwrap();
    assert!(!report.is_clean());
    assert_eq!((report.in_flight, report.revoked), (2, 2));
    let mut done = Vec::new();
    channel.reclaim(&mut done).unwrap();
    assert_eq!(done.iter().map(|c| c.status).collect::<Vec<_>>(), [Status::Revoked; 2]);
    assert!(!bench.fabric.inspect().quarantine.is_empty());
    assert!(flat.is_mapped("edu scratch"), "the device may still read it");
}
