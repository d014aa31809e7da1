//! Every event of the tables, from every state, on every TDI that it may hit.

mod common;

use common::device::*;
use proptest::collection::vec;
use proptest::prelude::*;
use tidegate_tdisp::responder::Effect;
use tidegate_tdisp::state::event::*;
use tidegate_tdisp::state::{State, Trigger};
use tidegate_tdisp::wire::*;

/// Every line of the table about functions.
fn function_rules() -> impl Iterator<Item = (FunctionEvent, EventRule)> {
    EVENTS.iter().filter_map(|&rule| match rule.event {
        Happening::Function(event) => Some((event, rule)),
        _ => None,
    })
}

/// Every fault there is that hits the GPU when it is locked by `lock_request` through `SESSION`.
fn faults() -> Vec<Event> {
    let event = |rule: &EventRule| match rule.event {
        Happening::Function(event) => Event::Function(GPU, event),
        Happening::Stream(event) => Event::Stream(lock_request().stream, event),
        Happening::SessionEnded => Event::SessionEnded(SESSION),
        Happening::Device(event) => Event::Device(event),
        other => panic!("{other:?}"),
    };
    EVENTS.iter().filter(|rule| rule.does == Trigger::Fault).map(event).collect()
}

#[test]
fn every_fault_leads_from_locked_and_run_to_error_and_is_ignored_elsewhere() {
    assert!(faults().len() >= 33);
    for event in faults() {
        for from in State::ALL {
            let mut bench = Bench::new();
            bench.bring(GPU, from);
            let effects = bench.dsm.event(event);
            let held = matches!(from, State::ConfigLocked | State::Run);
            let to = State::Error;
            let wanted: &[Effect] =
                if held { &[Effect::StateChanged { function: GPU, from, to }] } else { &[] };
            assert_eq!(effects, wanted, "{event:?} in {from}");
            assert_eq!(bench.state(GPU), if held { to } else { from }, "{event:?} in {from}");
        }
    }
}

#[test]
fn a_fault_destroys_the_nonce_and_stop_is_the_way_out() {
    let mut bench = Bench::new();
    let nonce = bench.bring(GPU, State::ConfigLocked).unwrap();
    bench.dsm.event(Event::Function(GPU, FunctionEvent::MemorySpaceCleared));
    assert_eq!(bench.start(GPU, &nonce), Meaning::Error(ErrorCode::InvalidInterfaceState));
    assert_eq!(bench.report(GPU, 0, 1), Meaning::Error(ErrorCode::InvalidInterfaceState));
    assert_eq!(bench.stop(GPU), Meaning::Ok(ResponseCode::Stop));
    let again = bench.lock(GPU);
    assert_eq!(bench.start(GPU, &nonce), Meaning::Error(ErrorCode::InvalidNonce));
    assert_eq!(bench.start(GPU, &again), Meaning::Ok(ResponseCode::Start));
}

#[test]
fn a_conventional_reset_unlocks_every_tdi_from_every_state() {
    for from in State::ALL {
        let mut bench = Bench::new();
        bench.bring(GPU, from);
        bench.bring(NIC, from);
        let effects = bench.dsm.reset();
        assert_eq!(effects.len(), if from == State::ConfigUnlocked { 0 } else { 2 });
        assert_eq!((bench.state(GPU), bench.state(NIC)), (State::ConfigUnlocked, State::ConfigUnlocked));
        assert_eq!(bench.dsm.locked(GPU), None);
    }
}

#[test]
fn an_event_of_another_function_stream_or_session_changes_nothing() {
    for (event, _) in function_rules() {
        let mut bench = Bench::new();
        bench.bring(GPU, State::Run);
        assert_eq!(bench.dsm.event(Event::Function(NIC, event)), []);
        assert_eq!(bench.dsm.event(Event::Function(FunctionId::new(0xFFFF), event)), []);
        assert_eq!(bench.dsm.event(Event::Stream(lock_request().stream + 1, StreamEvent::KeysLost)), []);
        assert_eq!(bench.dsm.event(Event::SessionEnded(SessionId(SESSION.0 + 1))), []);
        assert_eq!(bench.state(GPU), State::Run);
    }
}

#[test]
fn writing_the_msix_capability_is_a_fault_only_where_the_table_is_locked() {
    for (flags, wanted) in [(LockFlags::LOCK_MSIX, State::Error), (LockFlags::empty(), State::ConfigLocked)] {
        let mut bench = Bench::new();
        bench.lock_with(GPU, LockRequest { flags, ..lock_request() }).unwrap();
        bench.dsm.event(Event::Function(GPU, FunctionEvent::MsixWritten));
        assert_eq!(bench.state(GPU), wanted);
    }
}

#[test]
fn a_reset_of_the_physical_function_hits_its_virtual_ones_and_not_the_other_way_round() {
    let virtual_functions = [FunctionId::new(0x108), FunctionId::new(0x109)];
    let all = [GPU, virtual_functions[0], virtual_functions[1]];
    let locked = || {
        let mut bench = Bench::new();
        for function in virtual_functions {
            bench.dsm.add(function, Some(GPU)).unwrap();
        }
        for function in all {
            bench.bring(function, State::Run);
        }
        bench
    };
    for (event, rule) in function_rules() {
        let mut bench = locked();
        bench.dsm.event(Event::Function(GPU, event));
        let virtual_state = if rule.hits == Hits::FunctionAndVirtual { State::Error } else { State::Run };
        let states = all.map(|function| bench.state(function));
        assert_eq!(states, [State::Error, virtual_state, virtual_state], "{rule:?}");
        let mut bench = locked();
        bench.dsm.event(Event::Function(virtual_functions[0], event));
        assert_eq!(
            all.map(|function| bench.state(function)),
            [State::Run, State::Error, State::Run],
            "{rule:?}"
        );
    }
    let reset = function_rules().find(|(event, _)| *event == FunctionEvent::FunctionReset);
    assert_eq!(reset.unwrap().1.hits, Hits::FunctionAndVirtual);
}

#[test]
fn a_stream_is_bound_by_the_lock_and_released_by_stop() {
    let mut bench = Bench::new();
    bench.bring(GPU, State::Run);
    bench.stop(GPU);
    let event = Event::Stream(lock_request().stream, StreamEvent::KeySetStopped);
    assert_eq!(bench.dsm.event(event), []);
    bench.bring(GPU, State::Run);
    assert_eq!(bench.dsm.event(event).len(), 1);
}

/// What a model of the specification, written once more, says of one TDI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Lock,
    StartGood,
    StartBad,
    Stop { busy: bool },
    Fault(usize),
    Reset,
    Query,
}

fn inputs() -> impl Strategy<Value = Input> {
    prop_oneof![
        3 => Just(Input::Lock),
        3 => Just(Input::StartGood),
        1 => Just(Input::StartBad),
        2 => any::<bool>().prop_map(|busy| Input::Stop { busy }),
        2 => (0usize..33).prop_map(Input::Fault),
        1 => Just(Input::Reset),
        1 => Just(Input::Query),
    ]
}

proptest! {
    #[test]
    fn any_history_leads_where_the_specification_says(history in vec((any::<bool>(), inputs()), 1..60)) {
        let mut bench = Bench::new();
        let faults = faults();
        let mut model = [(GPU, State::ConfigUnlocked, None), (NIC, State::ConfigUnlocked, None)];
        for (gpu, input) in history {
            let (function, state, nonce) = &mut model[usize::from(!gpu)];
            match input {
                Input::Lock => match bench.lock_with(*function, LockRequest {
                    // The NIC is locked over another stream, so that stream faults hit the GPU alone.
                    stream: if gpu { lock_request().stream } else { 200 },
                    ..lock_request()
                }) {
                    Ok(fresh) => {
                        prop_assert_eq!(*state, State::ConfigUnlocked);
                        (*state, *nonce) = (State::ConfigLocked, Some(fresh));
                    }
                    Err(_) => prop_assert_ne!(*state, State::ConfigUnlocked),
                },
                Input::StartGood | Input::StartBad => {
                    let good = input == Input::StartGood && nonce.is_some();
                    let used = nonce.clone().filter(|_| good).unwrap_or(Nonce::new([0xFF; 32]));
                    let started = bench.start(*function, &used) == Meaning::Ok(ResponseCode::Start);
                    prop_assert_eq!(started, good && *state == State::ConfigLocked);
                    if started {
                        *state = State::Run;
                    }
                }
                Input::Stop { busy } => {
                    bench.dsm.device_mut().outstanding = busy.into();
                    let stopped = bench.stop(*function) == Meaning::Ok(ResponseCode::Stop);
                    prop_assert_eq!(stopped, !busy || *state == State::ConfigUnlocked);
                    if stopped {
                        *state = State::ConfigUnlocked;
                    }
                }
                Input::Fault(which) => {
                    bench.dsm.event(faults[which]);
                    let everywhere = matches!(faults[which], Event::Device(_) | Event::SessionEnded(_));
                    let hit = if everywhere { &mut model[..] } else { &mut model[..1] };
                    for (_, state, _) in hit {
                        if matches!(state, State::ConfigLocked | State::Run) {
                            *state = State::Error;
                        }
                    }
                }
                Input::Reset => {
                    bench.dsm.reset();
                    model[0].1 = State::ConfigUnlocked;
                    model[1].1 = State::ConfigUnlocked;
                }
                Input::Query => {
                    prop_assert!(matches!(bench.ask(*function, &Request::GetVersion(GetVersion)), Meaning::Ok(_)));
                    let report = bench.report(*function, 0, 0xFFFF);
                    let readable = matches!(state, State::ConfigLocked | State::Run);
                    prop_assert_eq!(report == Meaning::Ok(ResponseCode::Report), readable);
                }
            }
            for (function, state, _) in &model {
                prop_assert_eq!(bench.state(*function), *state);
            }
        }
    }

    #[test]
    fn any_bytes_are_answered_or_ignored_without_a_panic(messages in vec(vec(any::<u8>(), 0..60), 1..20)) {
        let mut bench = Bench::new();
        bench.bring(GPU, State::ConfigLocked);
        for mut message in messages {
            // Half of them look like a request to the GPU.
            if message.len() >= 16 && message[0] & 1 == 0 {
                let code = 0x80 | (message[1] & 0xF);
                message[..8].copy_from_slice(&[0x10, code, 0, 0, 0, 1, 0, 0]);
            }
            bench.dsm.handle(SESSION, &message, &mut bench.response);
            prop_assert_eq!(bench.response.is_empty(), message.len() < 16);
        }
    }
}
