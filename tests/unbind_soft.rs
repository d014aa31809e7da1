//! Unbind on the soft fabric, step by step, for many seeds.

mod bed;

use bed::{BY, Bed, GPU, VRAM, post};
use tidegate::core::drain::{Outcome, Phase, Progress};
use tidegate::core::tdi::{Event, Host, TdiState};
use tidegate::core::{Cause, Deadline, Flow, Op, Status, Submit};
use tidegate::p2p::device::Written;
use tidegate::p2p::{ExportError, ImportError, Want};
use tidegate::tdisp::platform::PlatformKind;
use tidegate::tdisp::tdi::UnbindOutcome;

const CHUNK: u64 = 4096;

/// The story with descriptors in flight, devices and poller moved by the seed.
fn unbind_under_traffic(seed: u64, platform: PlatformKind) {
    let bed = Bed::new(seed);
    let provider = bed.provider(platform);
    let (mut gpu_tdi, gpu_run) = bed.tdi(&bed.gpu, &provider);
    let (mut nic_tdi, nic_run) = bed.tdi(&bed.nic, &provider);
    let export = bed.gpu.export(0, 0..8 * CHUNK).unwrap();
    let link = provider.link(&nic_run, &gpu_run).unwrap();
    let import = bed.domain.import_private(&export, &link).unwrap();
    let mut channel = bed.channel(16);
    let window = import.region().handle();
    for i in 0..8 {
        let to = window.span(i * CHUNK..(i + 1) * CHUNK);
        assert!(matches!(post(&mut channel, to, i), Submit::Queued(_)));
        bed.frame(b'a' + i as u8, CHUNK as usize);
    }
    let mut got = Vec::new();
    let quiesce = bed.gpu.quiesce(Cause::Unbind, BY).unwrap();
    let quiet = bed.quiesce(quiesce, Some(&mut channel), &mut got);
    let report = quiet.report();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(
        (report.in_flight, report.drained, report.revoked, report.failed),
        (8, 8, 0, 0),
        "seed {seed}"
    );
    let unbind = gpu_tdi.unbind(quiet, BY).wait();
    let UnbindOutcome::Unbound(quiet) = unbind.outcome else { panic!("seed {seed}: {unbind:?}") };
    assert_eq!(bed.gpu.state(), TdiState::Unlocked);
    assert!(!gpu_run.is_live());
    bed.soft.run_until_idle(100_000);
    assert_eq!(bed.soft.violations(), [], "seed {seed}");
    for i in 0..8 {
        assert_eq!(bed.vram(i * CHUNK, 4096), vec![b'a' + i as u8; 4096], "seed {seed} chunk {i}");
    }
    // The NIC too, then both go on in shared mode.
    let nic_quiet = bed.quiesce(bed.nic.quiesce(Cause::Unbind, BY).unwrap(), Some(&mut channel), &mut got);
    let UnbindOutcome::Unbound(nic_quiet) = nic_tdi.unbind(nic_quiet, BY).wait().outcome else {
        panic!("NIC")
    };
    got.extend(bed::poll(&mut channel));
    assert_eq!(got.len(), 8);
    assert!(got.iter().all(|c| c.status == Status::Done), "{got:?}");
    assert!(matches!(post(&mut channel, window.span(0..64), 9), Submit::Closed(Cause::Unbind)));
    quiet.restore();
    nic_quiet.restore();
    let shared = import.recover().unwrap();
    assert_ne!(shared.region().handle().generation(), window.generation());
    let mut channel = bed.channel(16);
    assert!(matches!(post(&mut channel, window.span(0..64), 9), Submit::Stale(_)), "old handles stay stale");
    assert!(matches!(post(&mut channel, shared.region().handle().span(0..64), 9), Submit::Queued(_)));
    bed.frame(b'z', 64);
    assert_eq!(bed.settle(&mut channel).len(), 1);
    assert!(matches!(channel.pin().unwrap().confirm(), Ok(Submit::Queued(_))));
    assert_eq!(bed.settle(&mut channel).len(), 1);
    assert!(channel.confirmed().0 >= 1);
    assert_eq!(bed.vram(0, 64), vec![b'z'; 64]);
    assert_eq!(bed.soft.violations(), [], "seed {seed}");
}

#[test]
fn unbind_under_traffic_is_clean_for_every_seed() {
    for seed in 0..40 {
        unbind_under_traffic(seed, PlatformKind::Tdx);
        unbind_under_traffic(seed, PlatformKind::Cca);
    }
}

#[test]
fn posted_writes_have_arrived_before_stop() {
    // The NIC's writes to VRAM are held on their way: only a read-back on the same path pushes them.
    let bed = Bed::new(3);
    let provider = bed.provider(PlatformKind::Tdx);
    let (mut gpu_tdi, gpu_run) = bed.tdi(&bed.gpu, &provider);
    let (_nic_tdi, nic_run) = bed.tdi(&bed.nic, &provider);
    let export = bed.gpu.export(0, 0..CHUNK).unwrap();
    let link = provider.link(&nic_run, &gpu_run).unwrap();
    let import = bed.domain.import_private(&export, &link).unwrap();
    let mut channel = bed.channel(4);
    bed.soft.hold(bed::NIC, tidegate::p2p::soft::Toward::Function(GPU), true);
    assert!(matches!(post(&mut channel, import.region().handle().span(0..CHUNK), 0), Submit::Queued(_)));
    bed.frame(b'x', CHUNK as usize);
    let mut got = bed.settle(&mut channel);
    assert_eq!(got.len(), 1, "the device said Done");
    assert_eq!(bed.vram(0, 8), [0; 8], "and its writes have not arrived");
    let quiet = bed.quiesce(bed.gpu.quiesce(Cause::Unbind, BY).unwrap(), Some(&mut channel), &mut got);
    assert_eq!(bed.vram(0, 4096), vec![b'x'; 4096], "the flush pushed them");
    let UnbindOutcome::Unbound(_) = gpu_tdi.unbind(quiet, BY).wait().outcome else { panic!("unbind") };
    bed.soft.hold(bed::NIC, tidegate::p2p::soft::Toward::Function(GPU), false);
    bed.soft.run_until_idle(100_000);
    assert_eq!(bed.soft.violations(), []);
}

#[test]
fn imports_are_unmapped_before_stop() {
    let bed = Bed::new(4);
    let provider = bed.provider(PlatformKind::Tdx);
    let (mut gpu_tdi, gpu_run) = bed.tdi(&bed.gpu, &provider);
    let (_nic_tdi, nic_run) = bed.tdi(&bed.nic, &provider);
    let export = bed.gpu.export(0, 0..CHUNK).unwrap();
    let _import = bed.domain.import_private(&export, &provider.link(&nic_run, &gpu_run).unwrap()).unwrap();
    let quiet = bed.quiesce(bed.gpu.quiesce(Cause::Unbind, BY).unwrap(), None, &mut Vec::new());
    let _ = gpu_tdi.unbind(quiet, BY).wait();
    assert_eq!(bed.soft.violations(), [], "a live mapping at STOP is a violation");
}

#[test]
fn a_receive_ring_that_does_not_name_the_region_is_neither_waited_for_nor_stopped() {
    let bed = Bed::new(5);
    let window = bed.domain.import(&bed.gpu.export(0, 0..CHUNK).unwrap(), Want::default()).unwrap();
    let memory = tidegate::core::Memory::allocate("host", CHUNK).unwrap();
    let host = bed.domain.register(memory.backing(), tidegate::core::Access::ReadWrite).unwrap();
    let mut channel = bed.channel(4);
    // A receive buffer in host memory that never completes: no frame comes.
    assert!(matches!(post(&mut channel, host.handle().span(0..CHUNK), 1), Submit::Queued(_)));
    bed.soft.run_until_idle(1000);
    let report = bed.revoke(window.region().revoke(Cause::User, BY), None, &mut Vec::new());
    assert!(report.is_clean() && report.in_flight == 0, "{report:?}");
    assert_eq!(channel.in_flight(), 1, "still posted");
    bed.frame(b'h', 16);
    let got = bed.settle(&mut channel);
    assert_eq!((got.len(), got[0].status), (1, Status::Done), "and it still receives");
}

#[test]
fn a_receive_buffer_that_never_completes_does_not_hang_the_unbind() {
    let bed = Bed::new(6);
    let window = bed.domain.import(&bed.gpu.export(0, 0..CHUNK).unwrap(), Want::default()).unwrap();
    let mut channel = bed.channel(4);
    assert!(matches!(post(&mut channel, window.region().handle().span(0..CHUNK), 1), Submit::Queued(_)));
    bed.soft.run_until_idle(1000);
    let mut got = Vec::new();
    let now = Deadline::millis(0, 120_000);
    let quiet = bed.quiesce(bed.gpu.quiesce(Cause::Unbind, now).unwrap(), Some(&mut channel), &mut got);
    assert!(quiet.report().is_clean(), "{:?}", quiet.report());
    assert_eq!((quiet.report().in_flight, quiet.report().revoked), (1, 1));
    got.extend(bed::poll(&mut channel));
    assert_eq!((got.len(), got[0].status), (1, Status::Revoked));
    assert_eq!(bed.soft.violations(), []);
}

#[test]
fn a_dead_device_ends_in_quarantine_and_its_memory_is_not_reused() {
    let bed = Bed::new(7);
    let window = bed.domain.import(&bed.gpu.export(0, 0..CHUNK).unwrap(), Want::default()).unwrap();
    let mut channel = bed.channel(4);
    assert!(matches!(post(&mut channel, window.region().handle().span(0..CHUNK), 1), Submit::Queued(_)));
    bed.soft.misbehave(bed::NIC, tidegate::p2p::soft::FaultKind::Dead);
    let now = Deadline::millis(0, 1);
    let mut got = Vec::new();
    let quiet = bed.quiesce(bed.nic.quiesce(Cause::Doubt, now).unwrap(), Some(&mut channel), &mut got);
    let Outcome::Forced(held) = &quiet.report().outcome else { panic!("{:?}", quiet.report()) };
    assert!(!held.is_empty());
    got.extend(bed::poll(&mut channel));
    assert_eq!(got.len(), 1, "its operation ended for the user: {got:?}");
    assert!(!bed.domain.fabric().inspect().quarantine.is_empty());
    bed.soft.run_until_idle(1000);
    assert_eq!(bed.soft.violations(), []);
}

#[test]
fn while_a_quiesced_lives_everything_answers_that_the_gate_is_closed() {
    let bed = Bed::new(8);
    let export = bed.gpu.export(0, 0..CHUNK).unwrap();
    let quiet = bed.quiesce(bed.gpu.quiesce(Cause::User, BY).unwrap(), None, &mut Vec::new());
    assert!(matches!(bed.domain.import(&export, Want::default()), Err(ImportError::Gate(_))));
    assert!(matches!(bed.gpu.export(0, 0..CHUNK), Err(ExportError::Gate(_))));
    let memory = tidegate::core::Memory::allocate("host", CHUNK).unwrap();
    let register = || bed.domain.register(memory.backing(), tidegate::core::Access::ReadWrite);
    assert!(matches!(register(), Err(tidegate::p2p::DomainError::Gate(_))));
    let nic_quiet = bed.quiesce(bed.nic.quiesce(Cause::User, BY).unwrap(), None, &mut Vec::new());
    let poller = bed.domain.fabric().poller("test");
    let channel =
        bed.nic.channel(&poller, tidegate::p2p::engine::softnic::SoftNic::queue(0), Default::default());
    assert!(matches!(channel, Err(tidegate::p2p::device::DeviceError::Channel(_))));
    drop(nic_quiet);
    quiet.restore();
    assert!(bed.gpu.export(0, 0..CHUNK).is_ok());
    assert!(register().is_err(), "the dropped proof of the NIC keeps its gate closed");
}

#[test]
fn a_handle_of_another_domain_is_denied() {
    let bed = Bed::new(9);
    let other = tidegate::p2p::Domain::new(bed.domain.fabric(), bed.soft.clone()).unwrap();
    let memory = tidegate::core::Memory::allocate("host", CHUNK).unwrap();
    let region = other.register(memory.backing(), tidegate::core::Access::ReadWrite).unwrap();
    let mut channel = bed.channel(4);
    let answer = channel.pin().unwrap().submit(Op::read(0, region.span()));
    assert_eq!(answer, Submit::Denied(Flow::Domain));
}

#[test]
fn private_windows_need_the_right_proof_and_the_right_tag() {
    let bed = Bed::new(10);
    let provider = bed.provider(PlatformKind::Tdx);
    let (mut gpu_tdi, gpu_run) = bed.tdi(&bed.gpu, &provider);
    let (_nic_tdi, nic_run) = bed.tdi(&bed.nic, &provider);
    let private = bed.gpu.export(0, 0..CHUNK).unwrap();
    let shared = bed.gpu.export(0, VRAM / 2..VRAM / 2 + CHUNK).unwrap();
    let across = bed.gpu.export(0, VRAM / 2 - CHUNK..VRAM / 2 + CHUNK).unwrap();
    let link = provider.link(&nic_run, &gpu_run).unwrap();
    let backwards = provider.link(&gpu_run, &nic_run).unwrap();
    assert!(matches!(bed.domain.import(&private, Want::default()), Err(ImportError::Tag { .. })));
    assert!(matches!(bed.domain.import(&across, Want::default()), Err(ImportError::Tag { .. })));
    assert!(matches!(bed.domain.import_private(&across, &link), Err(ImportError::Tag { .. })));
    assert!(matches!(bed.domain.import_private(&shared, &link), Err(ImportError::Tag { .. })));
    assert!(matches!(bed.domain.import_private(&private, &backwards), Err(ImportError::Link)));
    // T=1 does not reach a shared window.
    let import = bed.domain.import(&shared, Want::default()).unwrap();
    let mut channel = bed.channel(4);
    assert_eq!(post(&mut channel, import.region().handle().span(0..64), 0), Submit::Denied(Flow::Trust));
    // A dead proof is no proof.
    let quiet = bed.quiesce(bed.gpu.quiesce(Cause::Unbind, BY).unwrap(), Some(&mut channel), &mut Vec::new());
    let UnbindOutcome::Unbound(quiet) = gpu_tdi.unbind(quiet, BY).wait().outcome else { panic!("unbind") };
    quiet.restore();
    assert!(matches!(bed.domain.import_private(&private, &link), Err(ImportError::Link)));
}

#[test]
fn the_msix_table_is_not_exported_unless_asked_aloud() {
    let bed = Bed::new(11);
    let msix = bed.gpu.caps().msix.unwrap();
    let page = msix.table.offset & !0xfff..(msix.table.offset & !0xfff) + 4096;
    assert!(matches!(bed.gpu.export(msix.table.bar, page.clone()), Err(ExportError::Msix { .. })));
    assert!(bed.gpu.export_with_msix(msix.table.bar, page).is_ok());
    for bad in [1..4097, 0..0, 0..VRAM + 4096] {
        assert!(matches!(bed.gpu.export(0, bad), Err(ExportError::Range { .. })));
    }
    assert!(matches!(bed.gpu.export(5, 0..4096), Err(ExportError::Range { size: 0, .. })));
}

#[test]
fn config_writes_that_break_a_bind_unbind_first() {
    let bed = Bed::new(12);
    let provider = bed.provider(PlatformKind::Tdx);
    let (_tdi, run) = bed.tdi(&bed.gpu, &provider);
    let command = bed.gpu.config_read(4, 2).unwrap();
    let plain = bed.gpu.config_write(4, 2, command, BY).unwrap();
    assert!(matches!(plain, Written::Plain));
    assert!(run.is_live(), "a write that changes nothing breaks nothing");
    let written = bed.gpu.config_write(4, 2, command & !2, BY).unwrap();
    let Written::Intercepted { event: Event::MemoryDisable, quiesced } = written else {
        panic!("{written:?}")
    };
    assert!(!run.is_live());
    assert_eq!(bed.gpu.state(), TdiState::Unlocked, "unbound before, so MSE=0 was no error event");
    assert_eq!(bed.soft.violations(), []);
    quiesced.restore();
    assert!(matches!(bed.gpu.config_write(4, 2, command, BY), Ok(Written::Plain)));
}

#[test]
fn a_reset_unbinds_first_and_imports_come_back_by_recovery() {
    let bed = Bed::new(13);
    let export = bed.gpu.export(0, 0..CHUNK).unwrap();
    let import = bed.domain.import(&export, Want::default()).unwrap();
    let provider = bed.provider(PlatformKind::Tdx);
    let quiet = bed.quiesce(bed.gpu.quiesce(Cause::Reset, BY).unwrap(), None, &mut Vec::new());
    let (_, quiet) = bed.gpu.reset(quiet, BY).unwrap();
    let back = import.recover().unwrap_err();
    assert!(matches!(back.why, ImportError::Gate(_)), "not while it is quiet");
    quiet.restore();
    let shared = back.import.recover().unwrap();
    let mut channel = bed.channel(4);
    assert!(matches!(post(&mut channel, shared.region().handle().span(0..64), 0), Submit::Queued(_)));
    bed.frame(b'r', 64);
    assert_eq!(bed.settle(&mut channel).len(), 1);
    bed.soft.run_until_idle(1000);
    assert_eq!(bed.vram(0, 64), vec![b'r'; 64]);
    let _ = provider;
}

#[test]
fn the_drain_waits_for_what_is_in_flight() {
    let bed = Bed::new(14);
    let window = bed.domain.import(&bed.gpu.export(0, 0..CHUNK).unwrap(), Want::default()).unwrap();
    let mut channel = bed.channel(4);
    assert!(matches!(post(&mut channel, window.region().handle().span(0..CHUNK), 1), Submit::Queued(_)));
    let mut quiesce = bed.gpu.quiesce(Cause::Unbind, BY).unwrap();
    bed.until(&mut quiesce, Phase::Drain);
    for _ in 0..100 {
        bed.soft.run_until_idle(100);
        assert!(bed::poll(&mut channel).is_empty());
        assert_eq!(quiesce.turn(), Progress::Pending(Phase::Drain), "no frame came yet");
    }
    bed.frame(b'p', CHUNK as usize);
    let quiet = bed.quiesce(quiesce, Some(&mut channel), &mut Vec::new());
    assert_eq!(quiet.report().drained, 1);
}

#[test]
fn cca_unmaps_private_mmio_before_stop() {
    let bed = Bed::new(15);
    let provider = bed.provider(PlatformKind::Cca);
    let (mut tdi, _run) = bed.tdi(&bed.gpu, &provider);
    let quiet = bed.quiesce(bed.gpu.quiesce(Cause::Unbind, BY).unwrap(), None, &mut Vec::new());
    let report = tdi.unbind(quiet, BY).wait();
    assert!(matches!(report.outcome, UnbindOutcome::Unbound(_)), "{report:?}");
    let steps: Vec<_> = report.steps.iter().map(|s| s.step.name()).collect();
    assert_eq!(
        steps,
        ["private_mmio_unmap", "trusted_context_off", "STOP_INTERFACE", "destroy", "verify_unlocked"]
    );
}

#[test]
fn a_device_that_was_detached_by_force_does_dma_again_only_after_a_reset() {
    let bed = Bed::new(15);
    let window = bed.domain.import(&bed.gpu.export(0, 0..CHUNK).unwrap(), Want::default()).unwrap();
    let mut channel = bed.channel(4);
    let pinned = channel.pin().unwrap();
    let mut quiesce = bed.nic.quiesce(Cause::Doubt, Deadline::millis(0, 1)).unwrap();
    while quiesce.turn() != tidegate::core::drain::Progress::Done {
        bed.domain.fabric().turn();
    }
    drop(pinned);
    let quiet = quiesce.wait().unwrap();
    assert!(matches!(quiet.report().outcome, Outcome::Forced(_)), "{:?}", quiet.report());
    drop(channel);
    while bed.domain.fabric().turn() {}
    quiet.restore();
    let poller = bed.domain.fabric().poller("test");
    let queue = tidegate::p2p::engine::softnic::SoftNic::queue(0);
    let detached = bed.nic.channel(&poller, queue, Default::default());
    assert!(matches!(detached, Err(tidegate::p2p::device::DeviceError::Detached)), "{detached:?}");
    let quiet = bed.quiesce(bed.nic.quiesce(Cause::Reset, BY).unwrap(), None, &mut Vec::new());
    let (_, quiet) = bed.nic.reset(quiet, BY).unwrap();
    quiet.restore();
    let mut channel = bed.channel(4);
    assert!(matches!(post(&mut channel, window.region().handle().span(0..64), 0), Submit::Queued(_)));
    bed.frame(b'd', 64);
    assert_eq!(bed.settle(&mut channel).len(), 1);
    assert_eq!(bed.vram(0, 64), vec![b'd'; 64]);
    assert_eq!(bed.soft.violations(), []);
}
