//! Unbind: the order of each platform, what is refused before a step and at one, BUSY, the forced path.

mod common;

use common::tdi::*;
use std::time::{Duration, Instant};
use tidegate_core::Deadline;
use tidegate_core::tdi::*;
use tidegate_tdisp::platform::{Firmware, PlatformKind, Refusal, Step};
use tidegate_tdisp::report::{Attr, TaggedRange as Tagged};
use tidegate_tdisp::state::State;
use tidegate_tdisp::tdi::*;
use tidegate_tdisp::wire::{ErrorCode, FunctionId};

const STOP: u8 = 0x87;
const STATE: u8 = 0x85;

#[test]
fn unbind_on_tdx_stops_unmaps_cleans_up_reclaims_and_verifies() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let run = rig.start();
    let report = rig.unbind();
    let steps =
        ["STOP_INTERFACE", "private_mmio_unmap", "trusted_context_cleanup", "reclaim", "verify_unlocked"];
    assert_eq!((names(&report), report.forced, report.refusal), (steps.into(), false, None));
    assert_eq!(rig.log.take(), ["STOP", "model Unlocked", "pages 0", "host Unlocked", "tags 0"]);
    assert!(!run.is_live());
    unbound(report).restore();
    rig.assert_free();
}

#[test]
fn unbind_on_cca_unmaps_and_turns_the_context_off_before_it_stops() {
    let mut rig = Rig::new(PlatformKind::Cca);
    let run = rig.start();
    let report = rig.unbind();
    let steps = ["private_mmio_unmap", "trusted_context_off", "STOP_INTERFACE", "destroy", "verify_unlocked"];
    assert_eq!((names(&report), report.forced, report.refusal), (steps.into(), false, None));
    assert!(!run.is_live());
    unbound(report).restore();
    rig.assert_free();
}

#[test]
fn the_firmware_refuses_the_other_platforms_order() {
    let gpu = FunctionId::new(0x100);
    let page =
        Tagged { bar: 0, offset: 0x3000, len: 0x1000, attr: Attr::Private, index: Some(0), id: Some(0) };
    let running = |platform| {
        let mut firmware = Firmware::new(platform);
        firmware.bind(gpu).unwrap();
        firmware.observe(gpu, State::ConfigLocked).unwrap();
        firmware.map_private(gpu, &page).unwrap();
        firmware.open_context(gpu).unwrap();
        firmware.observe(gpu, State::Run).unwrap();
        firmware
    };
    // STOP_INTERFACE before private_mmio_unmap on CCA: the message does not get to the device.
    let mapped = Refusal::MappedMmio { bar: 0, offset: 0x3000 };
    assert_eq!(running(PlatformKind::Cca).apply(Step::StopInterface, gpu), Err(mapped));
    // private_mmio_unmap before STOP_INTERFACE on TDX.
    let step = Step::PrivateMmioUnmap;
    let refusal = Refusal::State { step, state: State::Run };
    assert_eq!(running(PlatformKind::Tdx).apply(step, gpu), Err(refusal));
}

#[test]
fn stop_is_refused_while_descriptors_are_in_flight_whatever_proof_is_shown() {
    for platform in PlatformKind::ALL {
        let mut rig = Rig::new(platform);
        rig.start();
        let q = rig.host.quiet();
        rig.host.set_in_flight(5);
        let report = rig.tdi.unbind(q, BY).wait();
        assert!(names(&report).is_empty() && !report.forced, "{platform}: {report:?}");
        let (step, code, q) = failed(report);
        assert_eq!((step, code), (platform.steps()[0].name(), 5));
        assert_eq!((rig.log.take(), rig.state()), (vec![], TdiState::Run), "nothing was sent");
        assert!(!rig.host.is_open());
        // The intercept lets nothing through either, not even a conventional reset.
        let mut q = q;
        for event in [Event::Flr, Event::MemoryDisable, Event::BusReset] {
            let refused = rig.host.intercept(event, q).unwrap_err();
            assert_eq!((refused.step, refused.code), (platform.steps()[0].name(), 5));
            q = refused.back.unwrap();
        }
        assert!(rig.log.take().is_empty());
        rig.host.set_in_flight(0);
        unbound(rig.tdi.unbind(q, BY).wait()).restore();
        rig.assert_free();
    }
}

#[test]
fn descriptors_that_appear_in_the_middle_of_the_list_stop_it() {
    let mut rig = Rig::new(PlatformKind::Cca);
    rig.start();
    rig.model.set_outstanding_for(1, 1);
    let q = rig.host.quiet();
    let mut unbind = rig.tdi.unbind(q, BY);
    assert_eq!(unbind.turn(), UnbindProgress::Pending(Step::StopInterface));
    rig.host.set_in_flight(1);
    std::thread::sleep(Duration::from_millis(1));
    assert_eq!(unbind.turn(), UnbindProgress::Done);
    let report = unbind.finish();
    assert_eq!(names(&report), ["private_mmio_unmap", "trusted_context_off"]);
    let (step, code, _q) = failed(report);
    assert_eq!((step, code), ("STOP_INTERFACE", 1));
    assert_eq!(rig.state(), TdiState::Run);
}

#[test]
fn stop_is_asked_again_while_the_device_is_busy() {
    for platform in PlatformKind::ALL {
        let mut rig = Rig::new(platform);
        rig.start();
        rig.model.set_outstanding_for(2, 3);
        let report = rig.unbind();
        assert!(!report.forced, "{report:?}");
        assert_eq!(names(&report).len(), 5);
        assert_eq!(rig.log.take().iter().filter(|line| *line == "STOP").count(), 4, "three BUSY, one not");
        unbound(report).restore();
        rig.assert_free();
    }
}

#[test]
fn a_turn_never_waits_for_a_busy_device() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    rig.start();
    rig.model.set_outstanding(1);
    let q = rig.host.quiet();
    let mut unbind = rig.tdi.unbind(q, Deadline::millis(1000, 60_000));
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(unbind.turn(), UnbindProgress::Pending(Step::StopInterface));
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    rig.model.set_outstanding(0);
    let report = unbind.wait();
    assert!(!report.forced);
    // Paused in between: not one STOP a turn.
    assert!(rig.log.take().iter().filter(|line| *line == "STOP").count() < 50);
    drop(unbound(report));
}

#[test]
fn past_the_deadline_a_busy_device_is_cut_off_and_not_before() {
    // `force` counts as at least `cancel`.
    for by in [Deadline::millis(5, 30), Deadline::millis(30, 5)] {
        let mut rig = Rig::new(PlatformKind::Tdx);
        rig.start();
        rig.model.set_outstanding(1);
        let q = rig.host.quiet();
        let started = Instant::now();
        let report = rig.tdi.unbind(q, by).wait();
        assert!(started.elapsed() >= Duration::from_millis(30));
        assert!(report.forced, "{report:?}");
        let (step, code, _q) = failed(report);
        assert_eq!((step, code), ("verify_unlocked", 2), "the device says RUN");
        // For the host it does not run any more, although the device says so.
        assert_eq!(rig.host.trust(), (TdiState::Error, None));
    }
}

const FORCED: [(PlatformKind, [&str; 4]); 3] = [
    (PlatformKind::Tdx, ["block_stream", "private_mmio_unmap", "trusted_context_cleanup", "reclaim"]),
    (PlatformKind::Cca, ["private_mmio_unmap", "trusted_context_off", "block_stream", "destroy"]),
    (PlatformKind::Soft, ["block_stream", "private_mmio_unmap", "trusted_context_cleanup", "reclaim"]),
];

type Break = fn(&Rig);

/// What goes wrong with a STOP, and what `verify_unlocked` then hears.
fn broken_stops() -> [(&'static str, Break, u32); 5] {
    [
        ("refused", |rig| rig.refuse(STOP, ErrorCode::Unspecified), 2),
        ("not answered", |rig| rig.lose(STOP, false), 2),
        // The device stopped, but nobody saw it say so.
        ("answer lost", |rig| rig.lose(STOP, true), 0),
        (
            "in ERROR",
            |rig| {
                rig.dsm.fail();
                rig.lose(STOP, false);
            },
            3,
        ),
        ("gone", |rig| rig.session(|_, _| Err(tidegate_tdisp::requester::TransportError::Closed)), u32::MAX),
    ]
}

#[test]
fn a_stop_that_fails_takes_the_forced_path_and_is_never_called_unlocked() {
    for (platform, steps) in FORCED {
        for (what, break_it, said) in broken_stops() {
            let mut rig = Rig::new(platform);
            let run = rig.start();
            break_it(&rig);
            let report = rig.unbind();
            assert!(report.forced, "{platform}, {what}: {report:?}");
            assert_eq!(names(&report), steps, "{what}: the whole list, and no STOP in it");
            let (step, code, q) = failed(report);
            assert_eq!((step, code), ("verify_unlocked", said), "{platform}, {what}");
            assert_eq!(rig.host.trust(), (TdiState::Error, None), "{what}");
            assert!(!run.is_live() && !rig.host.is_open());
            assert!(!rig.host.tags().is_empty(), "what was private is not shared now");

            // A conventional reset, through the intercept, brings it back.
            let q = rig.host.intercept(Event::BusReset, q).unwrap();
            rig.heal();
            rig.host.after(Event::BusReset);
            q.restore();
            rig.assert_free();
        }
    }
}

#[test]
fn a_tdi_that_was_cut_off_can_be_stopped_later_but_is_bound_only_after_a_conventional_reset() {
    for (platform, _) in FORCED {
        let mut rig = Rig::new(platform);
        rig.start();
        rig.lose(STOP, false);
        let (_, _, q) = failed(rig.unbind());
        // Descriptors in flight hold an event back all the same.
        rig.host.set_in_flight(1);
        let q = rig.host.intercept(Event::Flr, q).unwrap_err().back.unwrap();
        rig.host.set_in_flight(0);
        // A function-level reset breaks no bind any more: the firmware has let go.
        let q = rig.host.intercept(Event::Flr, q).unwrap();
        assert_eq!(rig.state(), TdiState::Error);
        rig.heal();
        let report = rig.tdi.unbind(q, BY).wait();
        assert_eq!(names(&report), ["STOP_INTERFACE", "verify_unlocked"]);
        unbound(report).restore();
        assert_eq!(rig.state(), TdiState::Unlocked);
        assert_eq!(rig.host.tags(), []);
        let error = rig.tdi.lock(LockParams::default()).unwrap_err();
        assert!(matches!(error, BindError::Firmware(Refusal::NeedsReset { .. })), "{error}");
        rig.host.intercept(Event::BusReset, rig.host.quiet()).unwrap().restore();
        rig.assert_free();
    }
}

#[test]
fn a_tdi_that_was_cut_off_stays_so_until_a_conventional_reset_is_confirmed() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    rig.start();
    // It stops, but its answer is lost: the state that it claims later is not believed.
    rig.lose(STOP, true);
    let (_, _, q) = failed(rig.unbind());
    let q = rig.host.intercept(Event::Flr, q).unwrap();
    assert_eq!(rig.host.trust(), (TdiState::Error, None));
    let needs_reset = |rig: &mut Rig| {
        let error = rig.tdi.lock(LockParams::default()).unwrap_err();
        matches!(error, BindError::Firmware(Refusal::NeedsReset { .. }))
    };
    q.restore();
    assert!(needs_reset(&mut rig), "a function-level reset is not enough");

    rig.session(|_, _| Err(tidegate_tdisp::requester::TransportError::TimedOut));
    rig.host.intercept(Event::BusReset, rig.host.quiet()).unwrap().restore();
    assert_eq!(rig.host.trust(), (TdiState::Error, None));
    rig.heal();
    assert!(needs_reset(&mut rig), "nobody saw what the reset made of it");

    rig.host.intercept(Event::BusReset, rig.host.quiet()).unwrap().restore();
    rig.assert_free();
}

#[test]
fn a_state_that_cannot_be_verified_is_not_called_unlocked() {
    let answers: [Break; 2] = [|rig| rig.refuse(STATE, ErrorCode::Unspecified), |rig| rig.lose(STATE, true)];
    for (break_it, code) in answers.into_iter().zip([u32::from(ErrorCode::Unspecified), u32::MAX]) {
        let mut rig = Rig::new(PlatformKind::Tdx);
        rig.start();
        break_it(&rig);
        let (step, got, q) = failed(rig.unbind());
        assert_eq!((step, got, rig.host.state()), ("verify_unlocked", code, TdiState::Error));
        rig.heal();
        unbound(rig.tdi.unbind(q, BY).wait()).restore();
    }
    // BUSY is not an answer yet, until the deadline.
    let mut rig = Rig::new(PlatformKind::Tdx);
    rig.refuse(STATE, ErrorCode::Busy);
    let (started, q) = (Instant::now(), rig.host.quiet());
    let (step, _, _q) = failed(rig.tdi.unbind(q, SOON).wait());
    assert_eq!(step, "verify_unlocked");
    assert!(started.elapsed() >= SOON.force);
}

#[test]
fn unbind_from_error_is_the_same_list() {
    for platform in PlatformKind::ALL {
        let mut rig = Rig::new(platform);
        let run = rig.start();
        rig.dsm.fail();
        assert!(run.is_live(), "nobody was told yet");
        let report = rig.unbind();
        assert!(!report.forced && names(&report).len() == 5, "{report:?}");
        unbound(report).restore();
        rig.assert_free();
    }
}

#[test]
fn unbind_of_a_tdi_that_was_never_locked_only_verifies() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    for _ in 0..2 {
        let report = rig.unbind();
        assert_eq!(names(&report), ["verify_unlocked"]);
        unbound(report).restore();
    }
    assert!(!rig.log.take().contains(&"STOP".into()));
}

#[test]
fn a_second_unbind_only_verifies() {
    let mut rig = Rig::new(PlatformKind::Cca);
    rig.start();
    let q = unbound(rig.unbind());
    let report = rig.tdi.unbind(q, BY).wait();
    assert_eq!(names(&report), ["verify_unlocked"]);
    unbound(report).restore();
    rig.assert_free();
}

#[test]
fn unbind_of_a_tdi_that_was_locked_and_not_started_is_the_same_list() {
    for platform in PlatformKind::ALL {
        let mut rig = Rig::new(platform);
        drop(rig.lock());
        let report = rig.unbind();
        assert_eq!(names(&report).len(), 5);
        unbound(report).restore();
        rig.assert_free();
    }
}

#[test]
fn a_proof_about_another_device_or_generation_fails_before_the_first_step_and_comes_back() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let run = rig.start();
    let other = Mock::new(&rig.fabric, "other", 0x300, &Log::default());
    let stranger = Mock::new(&fabric(), "device", 0x100, &Log::default());
    for host in [other, stranger] {
        let report = rig.tdi.unbind(host.quiet(), BY).wait();
        assert!(names(&report).is_empty());
        let (step, code, q) = failed(report);
        assert_eq!((step, code), ("quiesced", 0));
        assert!(q.gate().is(host.gate()) && !host.is_open());
        q.restore();
        assert!(host.is_open());
    }
    assert!(run.is_live() && rig.host.is_open());
    assert_eq!((rig.state(), rig.log.take()), (TdiState::Run, vec![]));
}

#[test]
fn an_unbind_that_is_dropped_half_way_keeps_the_gate_closed_and_can_be_repeated() {
    for platform in PlatformKind::ALL {
        let mut rig = Rig::new(platform);
        let run = rig.start();
        rig.model.set_outstanding(1);
        let q = rig.host.quiet();
        let mut unbind = rig.tdi.unbind(q, BY);
        assert_eq!(unbind.turn(), UnbindProgress::Pending(Step::StopInterface));
        drop(unbind);
        assert!(!rig.host.is_open() && !run.is_live());
        assert!(matches!(rig.tdi.lock(LockParams::default()), Err(BindError::Gate(_))));
        rig.model.set_outstanding(0);
        let report = rig.unbind();
        assert_eq!(names(&report).len(), 5);
        unbound(report).restore();
        rig.assert_free();
    }
}

#[test]
fn an_unbind_that_is_finished_too_early_is_pending_and_gives_no_proof_back() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    rig.start();
    rig.model.set_outstanding(1);
    let before = Instant::now();
    let q = rig.host.quiet();
    let mut unbind = rig.tdi.unbind(q, BY);
    assert_eq!(unbind.turn(), UnbindProgress::Pending(Step::StopInterface));
    match unbind.finish().outcome {
        UnbindOutcome::Pending { op: "STOP_INTERFACE", since } => assert!(since >= before),
        other => panic!("{other:?}"),
    }
    assert!(!rig.host.is_open());
    rig.model.set_outstanding(0);
    unbound(rig.unbind()).restore();
    rig.assert_free();
}

#[test]
fn a_tdi_that_somebody_else_left_bound_is_stopped_before_it_can_be_locked() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let run = rig.start();
    let theirs = provider(PlatformKind::Cca);
    let mut taken = Tdi::new(rig.host.clone(), theirs, rig.dsm.clone()).unwrap();
    assert_eq!(rig.host.state(), TdiState::Error, "it does not run for the one who takes it over");
    assert!(!rig.host.is_open());
    assert!(!run.is_live(), "the one who had it is not told of events any more");
    assert!(matches!(taken.lock(LockParams::default()), Err(BindError::Gate(_))));
    let report = taken.unbind(rig.host.quiet(), BY).wait();
    assert_eq!(names(&report), ["STOP_INTERFACE", "verify_unlocked"]);
    unbound(report).restore();
    assert_eq!(rig.state(), TdiState::Unlocked);
    drop(taken.lock(LockParams::default()).unwrap());
}
