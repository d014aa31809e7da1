//! Requests that wait, and a STOP that takes its time.

mod common;

use common::device::*;
use tidegate_tdisp::responder::*;
use tidegate_tdisp::state::State;
use tidegate_tdisp::state::event::{Event, SessionId};
use tidegate_tdisp::wire::*;

const BUSY: Meaning = Meaning::Error(ErrorCode::Busy);
const OTHER: SessionId = SessionId(8);

fn limits(requests_this: u8, requests_all: u8) -> Bench {
    Bench::with(Settings { requests_this, requests_all, ..Settings::default() })
}

fn bytes(function: FunctionId, request: &Request<'_>) -> Vec<u8> {
    let mut out = vec![0; request.size()];
    request.emit(Head::v1_0(function), &mut out).unwrap();
    out
}

fn state_of(function: FunctionId) -> Vec<u8> {
    bytes(function, &Request::GetState(GetState))
}

/// What came of taking a request: its ticket, or the meaning of the answer at once.
fn take(bench: &mut Bench, session: SessionId, request: &[u8]) -> Result<Ticket, Meaning> {
    let ticket = bench.dsm.take(session, request, &mut bench.response);
    ticket.ok_or_else(|| meaning(&bench.response))
}

#[test]
fn no_more_requests_wait_than_the_capabilities_say_for_one_tdi_and_for_all() {
    let mut bench = limits(2, 3);
    bench.ask(GPU, &Request::GetCapabilities(GetCapabilities::default()));
    let caps = Capabilities::parse(&bench.response).unwrap();
    assert_eq!((caps.requests_this, caps.requests_all), (2, 3));
    assert!(take(&mut bench, SESSION, &state_of(GPU)).is_ok());
    assert!(take(&mut bench, SESSION, &state_of(GPU)).is_ok());
    assert_eq!(take(&mut bench, SESSION, &state_of(GPU)), Err(BUSY), "two of one TDI");
    assert!(take(&mut bench, SESSION, &state_of(NIC)).is_ok());
    assert_eq!(take(&mut bench, SESSION, &state_of(NIC)), Err(BUSY), "three of all");
    assert_eq!(bench.raw(&state_of(NIC)), BUSY, "one that does not want to wait");
    assert_eq!(bench.dsm.outstanding(), 3);
    assert!(bench.dsm.answer_next(&mut bench.response).is_some());
    assert!(take(&mut bench, SESSION, &state_of(NIC)).is_ok());
}

#[test]
fn a_limit_of_zero_is_told_and_kept_as_one() {
    let mut bench = limits(0, 0);
    bench.ask(GPU, &Request::GetCapabilities(GetCapabilities::default()));
    let caps = Capabilities::parse(&bench.response).unwrap();
    assert_eq!((caps.requests_this, caps.requests_all), (1, 1));
    assert!(take(&mut bench, SESSION, &state_of(GPU)).is_ok());
    assert_eq!(take(&mut bench, SESSION, &state_of(NIC)), Err(BUSY));
}

#[test]
fn the_version_is_told_at_once_however_many_wait() {
    let mut bench = limits(1, 1);
    take(&mut bench, SESSION, &state_of(GPU)).unwrap();
    let version = bytes(GPU, &Request::GetVersion(GetVersion));
    assert_eq!(take(&mut bench, SESSION, &version), Err(Meaning::Ok(ResponseCode::Version)));
    assert_eq!(bench.raw(&version), Meaning::Ok(ResponseCode::Version));
}

#[test]
fn a_request_that_cannot_be_right_does_not_wait() {
    let mut bench = limits(1, 1);
    let good = state_of(GPU);
    let of = |at: usize, value| {
        let mut wrong = good.clone();
        wrong[at] = value;
        wrong
    };
    let cases = [
        (good[..15].to_vec(), None),
        ([&good[..], &[0]].concat(), Some(ErrorCode::InvalidRequest)),
        (of(0, 0x11), Some(ErrorCode::VersionMismatch)),
        (of(1, 0x90), Some(ErrorCode::UnsupportedRequest)),
        (of(4, 0x01), Some(ErrorCode::InvalidInterface)),
    ];
    for (request, code) in cases {
        assert_eq!(bench.dsm.take(SESSION, &request, &mut bench.response), None);
        assert_eq!(bench.dsm.outstanding(), 0);
        match code {
            Some(code) => assert_eq!(meaning(&bench.response), Meaning::Error(code)),
            None => assert!(bench.response.is_empty()),
        }
    }
}

#[test]
fn what_waits_is_answered_in_order_and_goes_back_to_its_session() {
    let mut bench = limits(2, 4);
    let lock = take(&mut bench, SESSION, &bytes(GPU, &Request::Lock(lock_request()))).unwrap();
    assert!(bench.response.is_empty());
    let state = take(&mut bench, OTHER, &state_of(GPU)).unwrap();
    assert_eq!(bench.dsm.state(GPU), Some(State::ConfigUnlocked), "taking changes nothing");
    let first = bench.dsm.answer_next(&mut bench.response).unwrap();
    assert_eq!((first.ticket, first.session, first.effects.len()), (lock, SESSION, 1));
    assert_eq!(meaning(&bench.response), Meaning::Ok(ResponseCode::Lock));
    let second = bench.dsm.answer_next(&mut bench.response).unwrap();
    assert_eq!((second.ticket, second.session, second.effects.len()), (state, OTHER, 0));
    assert_eq!(StateResponse::parse(&bench.response).unwrap().state, TdiState::ConfigLocked);
    assert_eq!(bench.dsm.answer_next(&mut bench.response), None);
}

#[test]
fn an_ended_session_and_a_reset_leave_their_requests_without_an_answer() {
    let mut bench = limits(2, 4);
    take(&mut bench, SESSION, &state_of(GPU)).unwrap();
    let kept = take(&mut bench, OTHER, &state_of(GPU)).unwrap();
    bench.dsm.event(Event::SessionEnded(SESSION));
    assert_eq!(bench.dsm.answer_next(&mut bench.response).map(|answer| answer.ticket), Some(kept));
    take(&mut bench, OTHER, &state_of(GPU)).unwrap();
    bench.dsm.reset();
    assert_eq!(bench.dsm.outstanding(), 0);
}

#[test]
fn while_a_scrub_goes_on_the_tdi_cannot_be_started_or_changed_and_still_tells_its_state() {
    for state in [State::ConfigLocked, State::Run] {
        let mut bench = Bench::with(Settings { optional: OptionalRequests::all(), ..Settings::default() });
        let nonce = bench.bring(GPU, state).unwrap();
        bench.dsm.device_mut().scrub = Scrub::Pending;
        assert_eq!(bench.stop(GPU), BUSY);
        assert_eq!(bench.report(GPU, 0, 0xFFFF), BUSY);
        match state {
            State::ConfigLocked => assert_eq!(bench.start(GPU, &nonce), BUSY),
            _ => {
                assert_eq!(bench.ask(GPU, &Request::BindP2p(BindP2pRequest { stream: 1 })), BUSY);
                assert_eq!(bench.ask(GPU, &Request::UnbindP2p(UnbindP2pRequest { stream: 1 })), BUSY);
                let set = SetMmioAttribute { range: MmioRange::shared(0, 0, 1) };
                assert_eq!(bench.ask(GPU, &Request::SetMmioAttribute(set)), BUSY);
            }
        }
        assert_eq!(bench.ask(GPU, &Request::GetVersion(GetVersion)), Meaning::Ok(ResponseCode::Version));
        assert_eq!(bench.state(GPU), state);
        bench.dsm.device_mut().scrub = Scrub::Done;
        assert_eq!(bench.stop(GPU), Meaning::Ok(ResponseCode::Stop));
        let nonce = bench.bring(GPU, State::ConfigLocked).unwrap();
        assert_eq!(bench.start(GPU, &nonce), Meaning::Ok(ResponseCode::Start), "a new lock is a new life");
    }
}

#[test]
fn a_tdi_is_taken_away_in_unlocked_only() {
    for state in State::ALL {
        let mut bench = Bench::new();
        bench.bring(GPU, state);
        let removed = bench.dsm.remove(GPU);
        if state == State::ConfigUnlocked {
            assert_eq!((removed, bench.dsm.state(GPU)), (Ok(()), None));
            assert_eq!(bench.dsm.remove(GPU), Err(RemoveError::Unknown(GPU)));
            assert_eq!(bench.dsm.add(GPU, Some(NIC)), Ok(()));
        } else {
            assert_eq!(removed, Err(RemoveError::Bound(GPU, state)));
            assert_eq!(bench.state(GPU), state);
        }
    }
}
