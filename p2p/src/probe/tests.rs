//! Probes over the soft fabric, by switches and root complexes that pass, block, drop and misroute.

use super::*;
use crate::engine::edu::Edu;
use crate::engine::softnic::{SoftNic, SoftNicEngine};
use crate::pci::PciAddress;
use crate::soft::{Peers, Route, Soft};
use crate::{Device, Domain, Want};
use std::os::unix::fs::FileExt;
use tidegate_core::{Cause, ChannelConfig, Deadline, Fabric, Op, Submit};

const NIC: PciAddress = PciAddress { segment: 0, bus: 1, device: 0, function: 0 };
const GPU: PciAddress = PciAddress { segment: 0, bus: 2, device: 0, function: 0 };
const EDU: PciAddress = PciAddress { segment: 0, bus: 3, device: 0, function: 0 };
const VRAM: u64 = 1 << 20;
const RANGE: Range<u64> = 0x1000..0x5000;

struct Rig {
    window: Import<Soft, Shared>,
    channel: Channel<SoftNicEngine<Soft>>,
    nic: Device<Soft>,
    gpu: Device<Soft>,
    fabric: Fabric,
    soft: Soft,
}

fn below(peers: Route) -> Soft {
    Soft::builder(7).switch(peers).nic(NIC).gpu(GPU, VRAM).edu(EDU).build().unwrap()
}

fn over(peers: Peers) -> Soft {
    Soft::builder(7).nic(NIC).gpu(GPU, VRAM).edu(EDU).peers(peers).build().unwrap()
}

impl Rig {
    fn new(soft: Soft) -> Rig {
        let fabric = Fabric::builder().build().unwrap();
        let domain = Domain::new(&fabric, soft.clone()).unwrap();
        let (nic, gpu) = (domain.attach(NIC).unwrap(), domain.attach(GPU).unwrap());
        let window = domain.import(&gpu.export(0, 0..0x1_0000).unwrap(), Want::default()).unwrap();
        let poller = fabric.poller("probe");
        let channel = nic.channel(&poller, SoftNic::queue(0), ChannelConfig::depth(8)).unwrap();
        soft.vram_file(GPU).unwrap().write_all_at(&contents(), 0).unwrap();
        Rig { window, channel, nic, gpu, fabric, soft }
    }

    fn vram(&self) -> Vec<u8> {
        let mut bytes = vec![0; 0x1_0000];
        self.soft.vram_file(GPU).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn probe(&mut self, plan: Plan) -> Report {
        let soft = self.soft.clone();
        let probe = Probe::new(&mut self.channel, &self.window, plan).unwrap();
        run(probe.clock(|| Duration::from_micros(soft.now())), &soft)
    }
}

/// What the VRAM holds before.
fn contents() -> Vec<u8> {
    (0..0x1_0000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn run<E: Engine>(mut probe: Probe<'_, Soft, E>, soft: &Soft) -> Report {
    for _ in 0..100_000 {
        if probe.turn() == Progress::Done {
            return probe.report().unwrap();
        }
        soft.step();
    }
    panic!("no end: {probe:?}");
}

#[test]
fn a_route_that_works_is_measured_and_the_bytes_come_back() {
    for soft in [over(Peers::Passed), below(Route::Direct), below(Route::RootComplex)] {
        let mut rig = Rig::new(soft);
        let report = rig.probe(Plan::preserve(RANGE));
        assert_eq!((report.outcome, report.left, report.witness), (Outcome::Works, Left::Restored, true));
        assert_eq!(report.write.unwrap().bytes, 0x4000);
        assert!(report.write.unwrap().time > Duration::ZERO && report.read.unwrap().per_second() > 0);
        assert_eq!(rig.vram(), contents());
        assert_eq!(rig.soft.violations(), []);
        assert_eq!(rig.channel.in_flight(), 0);
    }
}

#[test]
fn a_scratch_range_alone_is_overwritten() {
    let mut rig = Rig::new(over(Peers::Passed));
    let report = rig.probe(Plan::scratch(RANGE));
    assert_eq!((report.outcome, report.left), (Outcome::Works, Left::Scratch));
    let (now, then) = (rig.vram(), contents());
    assert_eq!((&now[..0x1000], &now[0x5000..]), (&then[..0x1000], &then[0x5000..]));
    assert_ne!(now[0x1000..0x5000], then[0x1000..0x5000]);
}

/// The NIC says success for all of it.
#[test]
fn dropped_requests_are_found_though_every_completion_says_done() {
    for soft in [|| over(Peers::Refused), || below(Route::Blocked)] {
        for plan in [Plan::scratch(RANGE), Plan::scratch(RANGE).without_cpu()] {
            let mut rig = Rig::new(soft());
            let report = rig.probe(plan);
            assert_eq!(report.outcome, Outcome::Drops { reads: Returned::Ones });
            assert_eq!(rig.vram(), contents());
            assert!(rig.soft.faults().iter().all(|fault| fault.why == crate::soft::Refusal::NotRouted));
        }
    }
}

#[test]
fn bytes_that_cannot_be_saved_are_not_written() {
    for plan in [Plan::preserve(RANGE), Plan::preserve(RANGE).without_cpu()] {
        let mut rig = Rig::new(over(Peers::WritesOnly));
        let report = rig.probe(plan);
        assert_eq!(report.outcome, Outcome::Unsafe { reads: Returned::Ones });
        assert_eq!((report.left, report.write), (Left::Untouched, None));
        assert_eq!(rig.vram(), contents());
    }
}

#[test]
fn a_root_complex_that_passes_writes_only_is_told_from_one_that_drops() {
    let mut rig = Rig::new(over(Peers::WritesOnly));
    let report = rig.probe(Plan::scratch(RANGE));
    assert_eq!(report.outcome, Outcome::WritesOnly { reads: Returned::Ones });
    // Without the CPU nobody can tell.
    let report = rig.probe(Plan::scratch(RANGE).without_cpu());
    assert_eq!(report.outcome, Outcome::Drops { reads: Returned::Ones });
}

/// A device that reports refused reads instead of taking ones for bytes.
#[test]
fn a_device_that_tells_of_failed_reads_is_judged_like_one_that_does_not() {
    let strict = |peers| {
        let nic = crate::soft::Nic::default().strict();
        Rig::new(Soft::builder(7).nic_with(NIC, nic).gpu(GPU, VRAM).peers(peers).build().unwrap())
    };
    let code = crate::engine::softnic::abi::Status::ReadFailed as u16;
    let reads = Returned::Failed(code);
    let outcome = |peers, plan| strict(peers).probe(plan).outcome;
    assert_eq!(outcome(Peers::Passed, Plan::preserve(RANGE)), Outcome::Works);
    assert_eq!(outcome(Peers::Refused, Plan::scratch(RANGE)), Outcome::Drops { reads });
    assert_eq!(outcome(Peers::WritesOnly, Plan::scratch(RANGE)), Outcome::WritesOnly { reads });
    assert_eq!(outcome(Peers::WritesOnly, Plan::preserve(RANGE)), Outcome::Unsafe { reads });
}

/// An engine that does not copy: from the window to the namespace and on, and back.
#[test]
fn an_nvme_controller_is_probed_through_its_medium() {
    use crate::engine::nvme::Nvme;
    for (peers, plan) in [
        (Peers::Passed, Plan::preserve(RANGE)),
        (Peers::Refused, Plan::scratch(RANGE)),
        (Peers::WritesOnly, Plan::scratch(RANGE)),
        (Peers::Passed, Plan::scratch(RANGE).without_cpu()),
        (Peers::Refused, Plan::scratch(RANGE).without_cpu()),
    ] {
        let model = crate::soft::device::nvme::Nvme::new(8192, 9);
        let soft = Soft::builder(7).gpu(GPU, VRAM).device(NIC, model.description(), model).peers(peers);
        let soft = soft.build().unwrap();
        let fabric = Fabric::builder().build().unwrap();
        let domain = Domain::new(&fabric, soft.clone()).unwrap();
        let (nvme, gpu) = (domain.attach(NIC).unwrap(), domain.attach(GPU).unwrap());
        let window = domain.import(&gpu.export(0, 0..0x1_0000).unwrap(), Want::default()).unwrap();
        let driver = Nvme::namespace(1);
        let mut channel = nvme.channel(&fabric.poller("probe"), driver, ChannelConfig::depth(8)).unwrap();
        soft.vram_file(GPU).unwrap().write_all_at(&contents(), 0).unwrap();
        let copies = Probe::new(&mut channel, &window, plan.clone()).unwrap();
        let refused = run(copies, &soft).outcome;
        let why = Refusal::Denied(tidegate_core::Flow::Unsupported);
        assert_eq!(refused, Outcome::Refused { step: Step::Save, why });
        let probe = Probe::new(&mut channel, &window, plan.through_medium(0x1_0000)).unwrap();
        let report = run(probe, &soft);
        let as_it_is = match peers {
            Peers::Passed => report.works(),
            Peers::WritesOnly => matches!(report.outcome, Outcome::WritesOnly { .. }),
            _ => matches!(report.outcome, Outcome::Drops { .. }),
        };
        assert!(as_it_is, "{peers:?} {report:?}");
        if report.left == Left::Restored {
            let mut there = vec![0; 0x1_0000];
            soft.vram_file(GPU).unwrap().read_exact_at(&mut there, 0).unwrap();
            assert!(there == contents());
        }
        assert_eq!(report.left == Left::Restored, report.left != Left::Scratch, "{report:?}");
    }
}

#[test]
fn requests_that_go_astray_are_found_by_the_cpu_and_what_they_hit_is_left_alone() {
    let mut rig = Rig::new(over(Peers::Astray(0x8000)));
    assert_eq!(
        rig.probe(Plan::scratch(RANGE).without_cpu()).outcome,
        Outcome::Works,
        "it reads what it wrote"
    );
    assert_eq!(rig.probe(Plan::scratch(RANGE)).outcome, Outcome::Elsewhere);
    let mut rig = Rig::new(over(Peers::Astray(0x8000)));
    let report = rig.probe(Plan::preserve(RANGE));
    assert_eq!(report.outcome, Outcome::Unsafe { reads: Returned::Others });
    assert_eq!(rig.vram(), contents());
}

#[test]
fn an_edu_is_probed_by_the_same_text() {
    let mut rig = Rig::new(over(Peers::Passed));
    let edu = rig.window.domain().attach(EDU).unwrap();
    let poller = rig.fabric.poller("edu");
    let mut channel = edu.channel(&poller, Edu::default(), ChannelConfig::depth(4)).unwrap();
    let probe = Probe::new(&mut channel, &rig.window, Plan::preserve(RANGE)).unwrap();
    let report = run(probe, &rig.soft);
    assert_eq!((report.outcome, report.left), (Outcome::Works, Left::Restored));
    assert_eq!(rig.vram(), contents());
    rig.channel.park();
}

#[test]
fn a_window_that_dies_under_way_is_no_success() {
    let mut rig = Rig::new(over(Peers::Passed));
    let soft = rig.soft.clone();
    let mut probe = Probe::new(&mut rig.channel, &rig.window, Plan::scratch(RANGE)).unwrap();
    let half = |probe: &mut Probe<'_, Soft, _>| {
        while probe.write.is_none() {
            let _ = probe.turn();
            soft.step();
        }
    };
    half(&mut probe);
    // Behind the library's back: the kernel's revoke, of which no importer hears.
    let gpu = rig.gpu.function().clone();
    gpu.config_write(4, 2, 4).unwrap();
    gpu.config_write(4, 2, 6).unwrap();
    let report = run(probe, &soft);
    assert!(!report.works(), "{report:?}");
    assert!(matches!(report.outcome, Outcome::WritesOnly { .. } | Outcome::Corrupts { .. }), "{report:?}");
}

#[test]
fn a_revoke_ends_the_probe() {
    let mut rig = Rig::new(over(Peers::Passed));
    let soft = rig.soft.clone();
    let mut probe = Probe::new(&mut rig.channel, &rig.window, Plan::scratch(RANGE)).unwrap();
    let _ = probe.turn();
    let mut revoke = rig.window.region().revoke(Cause::User, Deadline::millis(0, 60_000));
    let mut over = false;
    for _ in 0..100_000 {
        let done = revoke.turn() == tidegate_core::drain::Progress::Done;
        over = over || probe.turn() == Progress::Done;
        soft.step();
        if done && over {
            break;
        }
    }
    let report = probe.report().unwrap();
    assert!(matches!(report.outcome, Outcome::Revoked { step: Step::Save }), "{report:?}");
    assert_eq!(report.left, Left::Untouched);
}

#[test]
fn a_device_that_goes_silent_ends_the_probe_by_its_clock() {
    let mut rig = Rig::new(over(Peers::Passed));
    let soft = rig.soft.clone();
    soft.misbehave(NIC, crate::soft::FaultKind::LoseCompletions(1));
    let mut now = 0;
    let ticks = std::cell::Cell::new(0);
    let plan = Plan::scratch(RANGE).patience(Duration::from_millis(5));
    let mut probe =
        Probe::new(&mut rig.channel, &rig.window, plan).unwrap().clock(|| Duration::from_micros(ticks.get()));
    while probe.turn() != Progress::Done {
        soft.step();
        now += 1;
        ticks.set(now);
        assert!(now < 100_000);
    }
    let outcome = probe.report().unwrap().outcome;
    assert_eq!(outcome, Outcome::Silent { step: Step::Save, in_flight: 1 });
}

#[test]
fn what_cannot_be_probed_is_refused() {
    let mut rig = Rig::new(over(Peers::Passed));
    for bad in [0..0, 4..12, 8..12, 0xfff8..0x1_0008] {
        let refused = Probe::new(&mut rig.channel, &rig.window, Plan::scratch(bad.clone())).err();
        assert!(matches!(refused, Some(ProbeError::Range { window: 0x1_0000, .. })), "{bad:?}");
    }
    let span = rig.window.region().handle().span(0..64);
    assert!(matches!(rig.channel.pin().unwrap().submit(Op::read(0, span)), Submit::Queued(_)));
    let busy = Probe::new(&mut rig.channel, &rig.window, Plan::scratch(RANGE)).err();
    assert_eq!(busy, Some(ProbeError::Busy { in_flight: 1 }));
    assert!(rig.nic.gate().check().is_ok());
}

#[test]
fn devices_that_move_by_themselves_are_measured_in_one_call() {
    let soft = Soft::builder(7).threads().nic(NIC).gpu(GPU, VRAM).edu(EDU).build().unwrap();
    let mut rig = Rig::new(soft);
    let report = measure(&mut rig.channel, &rig.window, Plan::preserve(RANGE)).unwrap();
    assert_eq!((report.outcome, report.left), (Outcome::Works, Left::Restored));
    assert_eq!(rig.vram(), contents());
}
