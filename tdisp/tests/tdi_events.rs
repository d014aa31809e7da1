//! The observer: it unbinds before an event, and finds out after one.

mod common;

use common::tdi::*;
use std::sync::mpsc;
use std::time::Duration;
use tidegate_core::tdi::*;
use tidegate_tdisp::platform::{PlatformKind, Refusal};
use tidegate_tdisp::requester::RequestError;
use tidegate_tdisp::state::State;
use tidegate_tdisp::tdi::*;
use tidegate_tdisp::wire::ErrorCode;

/// Events that the intercept can hold back.
const HELD_BACK: [Event; 7] = [
    Event::Flr,
    Event::BusReset,
    Event::MemoryDisable,
    Event::BusMasterDisable,
    Event::D3,
    Event::BarWrite(2),
    Event::Close,
];

/// Events that lead a bound TDI to ERROR.
const FAULTS: [Event; 10] = [
    Event::Flr,
    Event::MemoryDisable,
    Event::BusMasterDisable,
    Event::D3,
    Event::BarWrite(2),
    Event::Close,
    Event::Aer,
    Event::AllOnes,
    Event::IdeFail,
    Event::SessionEnd,
];

/// On a stream that is not the default, so that an event of the stream has to find it.
fn started(rig: &mut Rig) -> Run {
    let locked = rig.tdi.lock(LockParams { stream: 5, ..LockParams::default() }).unwrap();
    let acceptance = rig.provider.accept(&locked).unwrap();
    let run = locked.start(acceptance).unwrap();
    rig.log.take();
    run
}

#[test]
fn an_event_is_let_through_once_the_tdi_is_unbound() {
    for platform in PlatformKind::ALL {
        for event in HELD_BACK {
            let mut rig = Rig::new(platform);
            let run = started(&mut rig);
            let q = rig.host.intercept(event, rig.host.quiet()).unwrap();
            let log =
                ["STOP", "model Unlocked", "pages 0", "host Unlocked", "tags 0", &format!("event {event:?}")];
            assert_eq!(rig.log.take(), log);
            assert!(!run.is_live() && !rig.host.is_open());
            q.restore();
            rig.assert_free();
        }
    }
}

#[test]
fn an_event_of_a_tdi_that_is_not_bound_is_let_through_at_once() {
    for event in HELD_BACK {
        let mut rig = Rig::new(PlatformKind::Tdx);
        let q = rig.host.intercept(event, rig.host.quiet()).unwrap();
        assert_eq!(rig.log.take(), [format!("event {event:?}")]);
        q.restore();
        rig.assert_free();
    }
}

#[test]
fn after_a_fault_a_bound_tdi_is_in_error_and_its_run_is_over() {
    for platform in PlatformKind::ALL {
        for event in FAULTS {
            let mut rig = Rig::new(platform);
            let run = started(&mut rig);
            rig.host.after(event);
            assert_eq!(rig.log.take(), ["model Error", "host Error"], "{event:?}");
            assert_eq!(rig.host.trust(), (TdiState::Error, None));
            assert!(!run.is_live(), "{event:?}");
            assert!(!rig.host.is_open(), "{event:?}: doubt is closed");
            assert!(!rig.host.tags().is_empty(), "what was private is not shared now");
            let report = rig.unbind();
            assert!(!report.forced && names(&report).len() == 5, "{report:?}");
            unbound(report).restore();
            rig.assert_free();
        }
    }
}

#[test]
fn a_fault_between_lock_and_start_leads_to_error_too() {
    for event in FAULTS {
        let mut rig = Rig::new(PlatformKind::Tdx);
        let locked = rig.tdi.lock(LockParams { stream: 5, ..LockParams::default() }).unwrap();
        let acceptance = rig.provider.accept(&locked).unwrap();
        rig.host.after(event);
        assert_eq!(rig.state(), TdiState::Error, "{event:?}");
        assert!(matches!(locked.start(acceptance), Err(BindError::Gate(_))), "{event:?}");
        unbound(rig.unbind()).restore();
        rig.assert_free();
    }
}

#[test]
fn the_gate_closes_before_anybody_finds_out() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let _run = rig.start();
    let (host, (send, seen)) = (rig.host.clone(), mpsc::channel());
    rig.session(move |request, device| {
        send.send(host.is_open()).unwrap();
        Ok(device(request))
    });
    rig.host.after(Event::Aer);
    assert!(!seen.recv().unwrap());
}

#[test]
fn a_device_that_claims_to_run_after_a_reset_is_not_believed() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let run = rig.start();
    claim(&rig, 2);
    rig.host.after(Event::Flr);
    assert_eq!(rig.host.trust(), (TdiState::Error, None));
    assert!(!run.is_live());
}

/// Every GET_DEVICE_INTERFACE_STATE is answered with this state.
fn claim(rig: &Rig, state: u8) {
    rig.session(move |request, device| {
        let mut response = device(request);
        if request[1] == 0x85 {
            response[16] = state;
        }
        Ok(response)
    });
}

#[test]
fn a_request_for_the_device_changes_nothing_of_its_tdi() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let run = rig.start();
    rig.host.after(Event::Requested);
    assert!(run.is_live() && rig.host.is_open());
    assert_eq!((rig.state(), rig.log.take()), (TdiState::Run, vec![]));
}

#[test]
fn events_of_an_unlocked_tdi_change_nothing() {
    for event in FAULTS.into_iter().chain([Event::BusReset, Event::Requested]) {
        let mut rig = Rig::new(PlatformKind::Tdx);
        rig.host.after(event);
        assert!(rig.host.is_open(), "{event:?}");
        assert_eq!(rig.log.take(), [""; 0], "{event:?}");
        rig.assert_free();
    }
}

#[test]
fn a_conventional_reset_that_nobody_held_back_unlocks_and_the_firmware_still_wants_its_list() {
    for platform in PlatformKind::ALL {
        let mut rig = Rig::new(platform);
        let run = started(&mut rig);
        rig.host.after(Event::BusReset);
        assert_eq!(rig.log.take(), ["model Unlocked", "pages 0", "host Unlocked", "tags 0"]);
        assert!(!run.is_live() && !rig.host.is_open());
        rig.host.quiet().restore();
        let error = rig.tdi.lock(LockParams::default()).unwrap_err();
        assert!(matches!(error, BindError::Firmware(Refusal::AlreadyBound { .. })), "{error}");
        let report = rig.unbind();
        assert_eq!(names(&report).len(), 5);
        unbound(report).restore();
        rig.assert_free();
    }
}

#[test]
fn a_reset_by_the_host_comes_back_to_the_observer_without_a_deadlock() {
    for (event, state) in [(Event::Flr, TdiState::Error), (Event::BusReset, TdiState::Unlocked)] {
        let mut rig = Rig::new(PlatformKind::Tdx);
        let run = rig.start();
        let q = rig.host.quiet();
        rig.host.set_reset(Ok(event));
        assert_eq!(rig.host.reset(&q), Ok(event));
        assert_eq!(rig.state(), state);
        assert!(!run.is_live());
        unbound(rig.tdi.unbind(q, BY).wait()).restore();
        rig.assert_free();
    }
}

#[test]
fn a_hung_stop_does_not_hold_a_reset_back_for_ever() {
    for platform in PlatformKind::ALL {
        for event in [Event::Flr, Event::BusReset] {
            let mut rig = Rig::new(platform);
            let run = started(&mut rig);
            rig.model.set_outstanding(1);
            let q = rig.host.before(event, rig.host.quiet(), SOON).unwrap();
            assert!(!run.is_live());
            rig.host.after(event);
            let reset = event == Event::BusReset;
            assert_eq!(rig.state(), if reset { TdiState::Unlocked } else { TdiState::Error });
            rig.model.set_outstanding(0);
            unbound(rig.tdi.unbind(q, BY).wait()).restore();
            assert_eq!(rig.state(), TdiState::Unlocked);
            let again = rig.tdi.lock(LockParams::default());
            assert_eq!(again.is_ok(), reset, "only a conventional reset lets it be bound again");
        }
    }
}

#[test]
fn asking_for_the_state_ends_a_run_that_the_device_ended() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let run = rig.start();
    rig.dsm.fail();
    assert_eq!(rig.tdi.state(), Ok(State::Error));
    assert!(!run.is_live() && !rig.host.is_open());
    assert_eq!(rig.host.trust(), (TdiState::Error, None));
    unbound(rig.unbind()).restore();
    rig.assert_free();
}

#[test]
fn a_bound_tdi_that_does_not_say_its_state_counts_as_error_and_a_busy_one_does_not() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let run = rig.start();
    rig.refuse(0x85, ErrorCode::Busy);
    assert!(matches!(rig.tdi.state(), Err(RequestError::Busy { .. })));
    assert!(run.is_live() && rig.host.is_open());
    rig.lose(0x85, true);
    assert!(matches!(rig.tdi.state(), Err(RequestError::Transport(_))));
    assert!(!run.is_live() && !rig.host.is_open());
    assert_eq!(rig.host.state(), TdiState::Error);
    rig.heal();
    unbound(rig.unbind()).restore();
    // Unlocked it is an ordinary device, whether its DSM answers or not.
    rig.lose(0x85, true);
    assert!(rig.tdi.state().is_err());
    assert!(rig.host.is_open() && rig.host.state() == TdiState::Unlocked);
}

#[test]
fn a_bound_tdi_that_claims_to_be_unlocked_is_not_shared() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let run = rig.start();
    claim(&rig, 0);
    assert_eq!(rig.tdi.state(), Ok(State::ConfigUnlocked));
    assert_eq!(rig.host.state(), TdiState::Error);
    assert!(!rig.host.tags().is_empty() && !rig.host.is_open() && !run.is_live());
    rig.heal();
    let report = rig.unbind();
    assert_eq!(names(&report).len(), 5, "the list takes down what the firmware holds");
    unbound(report).restore();
    rig.assert_free();
}

#[test]
fn an_event_waits_for_the_lock_or_start_under_way_and_unbinds_what_it_bound() {
    for code in [0x83, 0x84, 0x86] {
        let mut rig = Rig::new(PlatformKind::Tdx);
        let (go, gone) = mpsc::channel();
        rig.session(move |request, device| {
            if request[1] == code {
                let _ = go.send(());
                // The intercept asks now, in its own thread, while this request is under way.
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(device(request))
        });
        let host = rig.host.clone();
        let intercept = std::thread::spawn(move || {
            gone.recv().unwrap();
            let q = host.quiet();
            host.intercept(Event::Flr, q).unwrap()
        });
        let locked = rig.tdi.lock(LockParams::default()).unwrap();
        let acceptance = rig.provider.accept(&locked).unwrap();
        // Started before the event, or not at all.
        let run = locked.start(acceptance);
        intercept.join().unwrap().restore();
        assert!(run.is_ok_and(|run| !run.is_live()) || code != 0x86);
        let log = rig.log.take();
        let at = |what: &str| log.iter().position(|line| line == what).unwrap();
        assert!(at("LOCK") < at("STOP") && at("host Unlocked") < at("event Flr"), "{log:?}");
        assert_eq!(rig.state(), TdiState::Unlocked);
    }
}

#[test]
fn a_tdi_that_was_dropped_while_bound_is_still_unbound_before_an_event() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let run = rig.start();
    let Rig { host, model, log, tdi, .. } = rig;
    drop(tdi);
    assert!(run.is_live(), "it runs");
    let alive = host.weak();
    // The event itself fails, so nobody is told of it.
    let q = host.before(Event::MemoryDisable, host.quiet(), BY).unwrap();
    assert!(log.take().contains(&"STOP".into()));
    assert!(!run.is_live());
    assert_eq!(model.state.lock().unwrap().0, TdiState::Unlocked);
    q.restore();
    drop((host, model));
    assert!(alive.upgrade().is_none(), "and then it is kept no longer");
}

#[test]
fn a_tdi_that_was_dropped_while_bound_is_let_go_after_a_reset() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let run = rig.start();
    rig.lose(0x87, false);
    let Rig { host, tdi, .. } = rig;
    drop(tdi);
    let alive = host.weak();
    let q = host.intercept(Event::BusReset, host.quiet()).unwrap();
    assert!(!run.is_live());
    q.restore();
    drop(host);
    assert!(alive.upgrade().is_none());
}

#[test]
fn a_tdi_that_was_dropped_unbound_keeps_nothing_alive() {
    let rig = Rig::new(PlatformKind::Tdx);
    let Rig { host, tdi, .. } = rig;
    drop(tdi);
    let alive = host.weak();
    drop(host);
    assert!(alive.upgrade().is_none());
}
