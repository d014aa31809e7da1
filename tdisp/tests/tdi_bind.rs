//! LOCK, the report, acceptance, START, and the link between two TDIs.

mod common;

use common::tdi::*;
use std::sync::Arc;
use tidegate_core::tdi::*;
use tidegate_core::*;
use tidegate_tdisp::platform::{PlatformKind, Refusal};
use tidegate_tdisp::report::ReportError;
use tidegate_tdisp::requester::RequestError;
use tidegate_tdisp::state::State;
use tidegate_tdisp::tdi::*;
use tidegate_tdisp::wire::{ErrorCode, LockFlags, RequestCode};

fn lock(rig: &mut Rig) -> Result<(), BindError> {
    rig.tdi.lock(LockParams::default()).map(drop)
}

#[test]
fn a_bind_tells_the_device_first_and_the_host_what_the_device_confirmed() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let locked = rig.lock();
    // The hole in BAR 2 gets a tag too: inaccessible.
    assert_eq!(rig.log.take(), ["LOCK", "pages 2", "model Locked", "host Locked", "tags 3"]);
    assert_eq!(rig.host.trust(), (TdiState::Locked, Some(HOME)));
    let tags = rig.host.tags();
    assert_eq!(tags[..2], layout());
    assert_eq!(tags[2], range(2, 0..0x4000, PageTag::Inaccessible));
    let acceptance = rig.provider.accept(&locked).unwrap();
    let run = locked.start(acceptance).unwrap();
    assert_eq!(rig.log.take(), ["START", "model Run", "host Run"]);
    assert!(run.is_live());
    assert_eq!(rig.host.trust(), (TdiState::Run, Some(HOME)));
    assert_eq!(rig.tdi.state(), Ok(State::Run));
    assert!(run.is_live() && rig.host.is_open(), "asking changes nothing");
}

#[test]
fn the_msix_table_is_tee_memory_only_where_the_lock_asked_for_it() {
    for (flags, pages) in [(LockFlags::NO_FW_UPDATE, 2), (LockFlags::LOCK_MSIX, 3)] {
        let mut with_msix = layout();
        with_msix.push(range(2, 0..0x1000, PageTag::MsixLocked));
        let mut rig = Rig::of(&fabric(), provider(PlatformKind::Tdx), with_msix, 0x100);
        let locked = rig.tdi.lock(LockParams { flags, ..LockParams::default() }).unwrap();
        assert_eq!(rig.model.pages.lock().unwrap().len(), pages);
        let tag = rig.host.tags().into_iter().find(|tag| tag.bar == 2).unwrap().tag;
        assert_eq!(tag == PageTag::MsixLocked, flags == LockFlags::LOCK_MSIX);
        drop(locked);
    }
}

#[test]
fn lock_is_refused_while_something_of_ours_is_under_way() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    rig.host.set_in_flight(3);
    assert_eq!(lock(&mut rig), Err(BindError::InUse { in_flight: 3, channels: 0, windows: 0 }));
    rig.host.set_in_flight(0);

    let poller = rig.fabric.poller("test");
    let gate = Some(rig.host.gate().clone());
    let seat = Seat { domain: rig.fabric.domain().unwrap(), reach: Reach::Shared, gate };
    let engine = engine::cpu::Cpu::new(2);
    let channel = rig.fabric.place_channel(&poller, engine, ChannelConfig::default(), seat).unwrap();
    assert_eq!(lock(&mut rig), Err(BindError::InUse { in_flight: 0, channels: 1, windows: 0 }));
    drop(channel);
    while rig.fabric.turn() {}

    let window = rig.window(BarRange { bar: 0, range: 0..0x1000 }, None);
    assert_eq!(lock(&mut rig), Err(BindError::InUse { in_flight: 0, channels: 0, windows: 1 }));
    window.revoke(Cause::User, BY).wait().unwrap();
    drop(window);
    assert_eq!(rig.log.take(), ["unmap 0:0x0"]);

    let q = rig.host.quiet();
    assert!(matches!(lock(&mut rig), Err(BindError::Gate(_))));
    drop(q);
    assert!(matches!(lock(&mut rig), Err(BindError::Gate(_))));
    assert!(rig.log.take().is_empty(), "the device was not even asked");
    rig.assert_free();
}

/// Lies about the 16 bytes of each range: which range, and what to do with it.
fn in_range(n: usize, at: usize, bytes: &'static [u8]) -> impl Fn(&mut Vec<u8>) + Send + 'static {
    move |report| {
        let at = 16 + 16 * n + at;
        report[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Binds with a lying report; what is left must be nothing.
fn caught(lie: impl Fn(&mut Vec<u8>) + Send + 'static) -> ReportError {
    let lie = Arc::new(std::sync::Mutex::new(lie));
    let errors = PlatformKind::ALL.map(|platform| {
        let mut rig = Rig::new(platform);
        let lie = lie.clone();
        rig.lie(move |report| lie.lock().unwrap()(report));
        let error = match rig.tdi.lock(LockParams::default()) {
            Err(BindError::Report(error)) => error,
            other => panic!("{other:?}"),
        };
        assert!(rig.host.is_open(), "no proof was needed, none is owed");
        assert!(!rig.log.take().iter().any(|line| line.starts_with("tags")), "the host's tags never changed");
        rig.heal();
        rig.assert_free();
        error
    });
    assert!(errors.iter().all(|error| *error == errors[0]));
    errors[0].clone()
}

#[test]
fn a_report_with_ranges_that_overlap_is_refused_and_nothing_stays_bound() {
    let first_page: &'static [u8] = &[0x07];
    assert_eq!(caught(in_range(1, 0, first_page)), ReportError::Overlap { a: 0, b: 1 });
}

#[test]
fn a_report_with_a_range_outside_its_bar_is_refused_and_nothing_stays_bound() {
    let error = caught(in_range(1, 8, &[9, 0, 0, 0]));
    assert!(matches!(error, ReportError::OutsideBar { index: 1, bar: Some(0), len: 0x9000, .. }), "{error}");
    assert_eq!(caught(in_range(1, 14, &[1, 0])), ReportError::NoSuchBar { index: 1, bar: 1 });
}

#[test]
fn a_report_with_a_range_without_pages_is_refused_and_nothing_stays_bound() {
    assert_eq!(caught(in_range(0, 8, &[0; 4])), ReportError::ZeroPages { index: 0 });
}

#[test]
fn a_report_that_claims_more_ranges_than_it_has_bytes_is_refused_and_nothing_stays_bound() {
    let claim = |report: &mut Vec<u8>| report[12..16].copy_from_slice(&[0xff; 4]);
    let error = caught(claim);
    assert!(matches!(error, ReportError::RangeCount { claimed: u32::MAX, room: 0..4 }), "{error}");
    let short = move |report: &mut Vec<u8>| {
        claim(report);
        report.truncate(21);
    };
    let error = caught(short);
    assert!(matches!(error, ReportError::RangeCount { claimed: u32::MAX, room: 0 }), "{error}");
}

#[test]
fn a_lock_that_the_host_cannot_follow_leaves_nothing_bound() {
    let mut rig = Rig::new(PlatformKind::Cca);
    let error = TagError::Overlap { bar: 0, at: 0x1000 };
    rig.host.refuse_tags(Some(error.clone()));
    assert_eq!(lock(&mut rig), Err(BindError::Tags(error)));
    rig.host.refuse_tags(None);
    rig.assert_free();
}

#[test]
fn a_lock_under_which_work_began_is_taken_back() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let host = rig.host.clone();
    rig.session(move |request, device| {
        // A channel that was made before the host knew that the TDI is locked.
        host.set_in_flight(u64::from(request[1] == 0x84));
        Ok(device(request))
    });
    assert_eq!(lock(&mut rig), Err(BindError::InUse { in_flight: 1, channels: 0, windows: 0 }));
    // STOP is not sent over descriptors in flight; the TDI says what it is, and a proof brings it down.
    assert_eq!(rig.state(), TdiState::Locked);
    assert!(!rig.log.take().contains(&"STOP".into()));
    rig.heal();
    rig.host.set_in_flight(0);
    unbound(rig.unbind()).restore();
    rig.assert_free();
}

#[test]
fn a_lock_whose_response_is_lost_is_taken_back() {
    for reach in [false, true] {
        let mut rig = Rig::new(PlatformKind::Tdx);
        rig.lose(0x83, reach);
        assert!(matches!(lock(&mut rig), Err(BindError::Request(RequestError::Transport(_)))));
        rig.heal();
        rig.assert_free();
    }
}

#[test]
fn a_lock_that_fails_and_cannot_be_stopped_is_cut_off_and_told_as_error() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    rig.session(|request, device| match request[1] {
        0x84 | 0x87 => Err(tidegate_tdisp::requester::TransportError::TimedOut),
        _ => Ok(device(request)),
    });
    assert!(matches!(lock(&mut rig), Err(BindError::Request(_))));
    assert_eq!(rig.host.trust(), (TdiState::Error, None));
    rig.heal();
    assert_eq!(lock(&mut rig), Err(BindError::State(TdiState::Locked)));
    // It can be stopped after all, and used in shared mode; but bound only after a reset.
    let q = unbound(rig.unbind());
    assert_eq!(rig.state(), TdiState::Unlocked);
    q.restore();
    assert!(matches!(lock(&mut rig), Err(BindError::Firmware(Refusal::NeedsReset { .. }))));
    let q = rig.host.intercept(Event::BusReset, rig.host.quiet()).unwrap();
    q.restore();
    rig.assert_free();
}

#[test]
fn what_the_trust_domain_does_not_accept_is_not_started() {
    let provider = Provider::soft(PlatformKind::Tdx, HOME, |report| report.ranges.len() > 2);
    let mut rig = Rig::of(&fabric(), provider, layout(), 0x100);
    let locked = rig.lock();
    assert_eq!(rig.provider.accept(&locked).unwrap_err(), NotAccepted);
    // Another one, which would, is not the one that locked it.
    let lax = Provider::soft(PlatformKind::Tdx, HOME, |_| true);
    assert_eq!(lax.accept(&locked).unwrap_err(), NotAccepted);
    drop(locked);
    assert_eq!(rig.state(), TdiState::Locked);
    unbound(rig.unbind()).restore();
    rig.assert_free();
}

#[test]
fn an_acceptance_is_about_one_lock() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let old = rig.lock();
    let of_old = rig.provider.accept(&old).unwrap();
    unbound(rig.unbind()).restore();
    let new = rig.lock();
    let of_new = rig.provider.accept(&new).unwrap();
    assert_eq!(new.start(of_old).unwrap_err(), BindError::Stale);
    assert_eq!(old.start(of_new).unwrap_err(), BindError::Stale);
    assert!(!rig.log.take().contains(&"START".into()));
    assert_eq!(rig.state(), TdiState::Locked);
}

#[test]
fn a_lock_is_over_with_its_unbind() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let locked = rig.lock();
    let acceptance = rig.provider.accept(&locked).unwrap();
    let q = unbound(rig.unbind());
    assert_eq!(locked.start(acceptance).unwrap_err(), BindError::Stale);
    q.restore();
    rig.assert_free();
}

#[test]
fn a_lock_is_not_started_once_the_gate_was_closed() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let locked = rig.lock();
    let acceptance = rig.provider.accept(&locked).unwrap();
    let q = rig.host.quiet();
    assert!(matches!(locked.start(acceptance), Err(BindError::Gate(_))));
    unbound(rig.tdi.unbind(q, BY).wait()).restore();

    // Restored without an unbind: the lock is one of an earlier generation.
    let locked = rig.lock();
    let acceptance = rig.provider.accept(&locked).unwrap();
    rig.host.quiet().restore();
    assert_eq!(locked.start(acceptance).unwrap_err(), BindError::Stale);
    assert!(!rig.log.take().contains(&"START".into()));
    unbound(rig.unbind()).restore();
    rig.assert_free();
}

#[test]
fn a_start_that_fails_leaves_no_run_and_an_unbind_clears_what_it_mapped() {
    for platform in PlatformKind::ALL {
        for (reach, state) in [(false, TdiState::Locked), (true, TdiState::Error)] {
            let mut rig = Rig::new(platform);
            let locked = rig.lock();
            let acceptance = rig.provider.accept(&locked).unwrap();
            rig.lose(0x86, reach);
            let error = locked.start(acceptance).unwrap_err();
            assert!(matches!(error, BindError::Request(RequestError::Transport(_))), "{error}");
            // RUN that nobody saw start is doubt.
            assert_eq!(rig.host.state(), state, "{platform} {reach}");
            assert_eq!(rig.host.is_open(), state == TdiState::Locked);
            rig.heal();
            unbound(rig.unbind()).restore();
            rig.assert_free();
        }
    }
}

#[test]
fn a_tdi_that_goes_to_error_before_start_does_not_run() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let locked = rig.lock();
    let acceptance = rig.provider.accept(&locked).unwrap();
    rig.dsm.fail();
    let code = ErrorCode::InvalidInterfaceState;
    let refused = RequestError::Refused { request: RequestCode::Start, code, data: 0 };
    assert_eq!(locked.start(acceptance).unwrap_err(), BindError::Request(refused));
    assert_eq!(rig.state(), TdiState::Error);
    assert!(!rig.host.is_open());
    unbound(rig.unbind()).restore();
    rig.assert_free();
}

#[test]
fn a_second_lock_needs_an_unbind_first() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    drop(rig.lock());
    assert_eq!(lock(&mut rig), Err(BindError::State(TdiState::Locked)));
    assert_eq!(rig.state(), TdiState::Locked, "and the first lock stands");
    unbound(rig.unbind()).restore();
    rig.assert_free();
}

/// A GPU and a NIC of one provider.
fn pair(provider: &Provider) -> (Rig, Rig) {
    let fabric = fabric();
    let gpu = Rig::of(&fabric, provider.clone(), layout(), 0x100);
    (gpu, Rig::of(&fabric, provider.clone(), Vec::new(), 0x200))
}

#[test]
fn a_link_names_both_ends_and_dies_with_either() {
    let provider = provider(PlatformKind::Tdx);
    for which in [0, 1] {
        let (mut gpu, mut nic) = pair(&provider);
        let (target, initiator) = (gpu.start(), nic.start());
        let link = provider.link(&initiator, &target).unwrap();
        assert!(link.is_live());
        assert!(link.initiator().is(nic.host.gate()) && link.target().is(gpu.host.gate()));
        assert_eq!(link.domain(), HOME);
        let rig = if which == 0 { &mut gpu } else { &mut nic };
        let q = unbound(rig.unbind());
        assert!(!link.is_live(), "before the gate opens again");
        assert_eq!(provider.link(&initiator, &target).unwrap_err(), LinkError::NotRunning);
        q.restore();
        rig.start();
        assert!(!link.is_live() && !link.clone().is_live(), "a new RUN is another one");
        assert_eq!(provider.link(&initiator, &target).unwrap_err(), LinkError::NotRunning);
        let [gpu, nic] = [unbound(gpu.unbind()), unbound(nic.unbind())];
        gpu.restore();
        nic.restore();
    }
}

#[test]
fn a_link_dies_when_the_gate_is_restored_without_an_unbind() {
    let provider = provider(PlatformKind::Tdx);
    let (mut gpu, mut nic) = pair(&provider);
    let link = provider.link(&nic.start(), &gpu.start()).unwrap();
    gpu.host.quiet().restore();
    assert!(!link.is_live());
}

#[test]
fn there_is_no_link_between_two_trust_domains_or_two_providers() {
    let fabric = fabric();
    let here = provider(PlatformKind::Tdx);
    let mut gpu = Rig::of(&fabric, here.clone(), layout(), 0x100);
    let target = gpu.start();
    for domain in [TrustDomain(8), HOME] {
        // The same number at another provider is another firmware's books, and another policy.
        let there = Provider::soft(PlatformKind::Tdx, domain, |_| true);
        let mut nic = Rig::of(&fabric, there.clone(), Vec::new(), 0x200);
        let initiator = nic.start();
        for provider in [&here, &there] {
            assert_eq!(provider.link(&initiator, &target).unwrap_err(), LinkError::Domain);
            assert_eq!(provider.link(&target, &initiator).unwrap_err(), LinkError::Domain);
        }
    }
}

#[test]
fn two_tdis_of_one_provider_are_bound_and_unbound_apart() {
    let provider = provider(PlatformKind::Cca);
    let (mut gpu, mut nic) = pair(&provider);
    let (of_gpu, of_nic) = (gpu.start(), nic.start());
    unbound(gpu.unbind()).restore();
    assert!(!of_gpu.is_live() && of_nic.is_live());
    assert_eq!((gpu.state(), nic.state()), (TdiState::Unlocked, TdiState::Run));
    unbound(nic.unbind()).restore();
    gpu.assert_free();
    nic.assert_free();
}
