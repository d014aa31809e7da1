//! The TSM's side against our DSM, against recorded bytes, and against peers that lie.

mod common;

use core::num::NonZeroU16;
use std::collections::VecDeque;

use common::device::*;
use proptest::collection::vec;
use proptest::prelude::*;
use tidegate_tdisp::report::InterfaceReport;
use tidegate_tdisp::requester::*;
use tidegate_tdisp::responder::{Scrub, Settings};
use tidegate_tdisp::state::State;
use tidegate_tdisp::state::event::{Event, FunctionEvent};
use tidegate_tdisp::wire::*;

/// A function call into the DSM of a bench.
impl Transport for Bench {
    fn exchange(&mut self, request: &[u8], response: &mut Vec<u8>) -> Result<(), TransportError> {
        self.effects = self.dsm.handle(SESSION, request, response);
        Ok(())
    }
}

/// A peer that says what it was told to say, and remembers what it was asked.
#[derive(Default)]
struct Script {
    answers: VecDeque<Vec<u8>>,
    asked: Vec<Vec<u8>>,
}

impl Script {
    fn of(answers: &[Response<'_>]) -> Self {
        let bytes = answers.iter().map(|answer| bytes(GPU, answer));
        Script { answers: bytes.collect(), asked: Vec::new() }
    }
}

impl Transport for Script {
    fn exchange(&mut self, request: &[u8], response: &mut Vec<u8>) -> Result<(), TransportError> {
        self.asked.push(request.to_vec());
        *response = self.answers.pop_front().ok_or(TransportError::TimedOut)?;
        Ok(())
    }
}

fn bytes(function: FunctionId, response: &Response<'_>) -> Vec<u8> {
    let mut out = vec![0; response.size()];
    response.emit(Head::v1_0(function), &mut out).unwrap();
    out
}

fn busy() -> Response<'static> {
    Response::Error(ErrorResponse::new(ErrorCode::Busy, 0))
}

/// What comes of the peer's being busy, for the n-th time in a row.
fn busy_turn<T>(attempts: u32) -> Turn<T> {
    Turn::Busy { attempts, pause: Backoff::default().pause(attempts) }
}

fn patient(attempts: u32) -> Backoff {
    Backoff { attempts, ..Backoff::default() }
}

fn portion(portion: &[u8], remainder: u16) -> Response<'_> {
    Response::Report(ReportResponse { portion, remainder })
}

fn state(state: State) -> Response<'static> {
    Response::State(StateResponse { state: state.into() })
}

#[test]
fn a_whole_life_against_our_own_dsm() {
    let mut tsm = Requester::new(Bench::with(Settings { portion: 64, ..Settings::default() }), GPU);
    assert_eq!(tsm.version(), Ok(Version::V1_0));
    assert_eq!(tsm.capabilities().map(|caps| caps.messages), Ok(MessageSet::MANDATORY));
    assert_eq!(tsm.state(), Ok(State::ConfigUnlocked));
    tsm.lock(lock_request()).unwrap();
    assert!(tsm.has_nonce());
    let report = InterfaceReport::parse(&tsm.report().unwrap(), lock_request().flags).unwrap();
    assert_eq!(report.ranges.len(), 3);
    assert_eq!(tsm.start(), Ok(()));
    assert!(!tsm.has_nonce());
    assert_eq!(tsm.state(), Ok(State::Run));
    assert_eq!(tsm.stop(), Ok(()));
    assert_eq!(tsm.state(), Ok(State::ConfigUnlocked));
}

#[test]
fn our_requests_are_byte_for_byte_those_of_the_recorded_conversation() {
    let all = common::exchanges();
    let end = all.iter().position(|e| e.what.contains("START in UNLOCKED")).unwrap();
    // The recorded conversation also reads pieces of the report that a TSM does not ask for.
    let taken = |e: &&common::Exchange| !e.what.contains("length=8") && !e.what.contains("length=16 ");
    let recorded: Vec<_> = all[..end].iter().filter(taken).collect();
    let script = Script { answers: recorded.iter().map(|e| e.response.clone()).collect(), asked: Vec::new() };
    let mut tsm = Requester::new(script, GPU);
    tsm.version().unwrap();
    tsm.capabilities().unwrap();
    assert_eq!(tsm.state(), Ok(State::ConfigUnlocked));
    tsm.lock(lock_request()).unwrap();
    assert_eq!(tsm.state(), Ok(State::ConfigLocked));
    let read = ReadReport::new(NonZeroU16::new(0x400).unwrap(), u16::MAX);
    let mut exchange = tsm.begin(read);
    assert_eq!(tsm.turn(&mut exchange), Ok(Turn::Send));
    assert_eq!(tsm.turn(&mut exchange), Ok(Turn::Done(common::reassembled_report())));
    tsm.start().unwrap();
    assert_eq!(tsm.state(), Ok(State::Run));
    let read = ReadReport::new(NonZeroU16::new(16).unwrap(), u16::MAX);
    let mut exchange = tsm.begin(read);
    assert_eq!(tsm.turn(&mut exchange), Ok(Turn::Send));
    tsm.stop().unwrap();
    for (ours, theirs) in tsm.transport().asked.iter().zip(&recorded) {
        let (head, ours) = Request::parse(ours).unwrap();
        let (same_head, theirs_meaning) = Request::parse(&theirs.request).unwrap();
        assert_eq!(head, same_head);
        // After the first portion the recording asks for 0x400 again, where the remainder is enough.
        match (&ours, &theirs_meaning) {
            (Request::GetReport(a), Request::GetReport(b)) if a.offset > 0 => assert_eq!(a.offset, b.offset),
            _ => assert_eq!(ours, theirs_meaning, "line {}", theirs.line),
        }
    }
    assert_eq!(tsm.transport().asked.len(), recorded.len());
}

#[test]
fn busy_is_a_value_with_the_number_of_attempts() {
    let mut tsm = Requester::new(Script::of(&[busy(), busy(), state(State::Run)]), GPU);
    let mut exchange = tsm.begin(GetInterfaceState);
    assert_eq!(tsm.turn(&mut exchange), Ok(busy_turn(1)));
    assert_eq!(tsm.turn(&mut exchange), Ok(busy_turn(2)));
    assert_eq!(tsm.turn(&mut exchange), Ok(Turn::Done(State::Run)));
    let asked = &tsm.transport().asked;
    assert!(asked.len() == 3 && asked.iter().all(|request| request == &asked[0]), "the same request");
}

#[test]
fn busy_answers_are_counted_in_a_row() {
    let script = Script::of(&[busy(), Response::Stop(StopResponse), busy(), state(State::ConfigUnlocked)]);
    let mut tsm = Requester::new(script, GPU);
    let mut stop = tsm.begin_stop();
    assert_eq!(tsm.turn(&mut stop), Ok(busy_turn(1)));
    assert_eq!(tsm.turn(&mut stop), Ok(Turn::Send));
    assert_eq!(tsm.turn(&mut stop), Ok(busy_turn(1)));
    assert_eq!(tsm.turn(&mut stop), Ok(Turn::Done(())));
}

#[test]
fn a_request_gives_up_after_its_limit_of_busy_answers() {
    let mut tsm = Requester::new(Script::of(&[busy(), busy(), busy(), busy()]), GPU).backoff(patient(3));
    let request = RequestCode::GetState;
    assert_eq!(tsm.state(), Err(RequestError::Busy { request, attempts: 3 }));
    assert_eq!(tsm.transport().asked.len(), 3);
    let mut tsm = Requester::new(Script::of(&[busy(), busy()]), GPU).backoff(patient(0));
    assert_eq!(tsm.state(), Err(RequestError::Busy { request, attempts: 1 }));
}

#[test]
fn stop_is_repeated_while_the_device_is_busy_and_verified_at_the_end() {
    let mut bench = Bench::new();
    bench.bring(GPU, State::Run);
    bench.dsm.device_mut().outstanding = 2;
    let mut tsm = Requester::new(bench, GPU);
    let mut stop = tsm.begin_stop();
    assert_eq!(tsm.turn(&mut stop), Ok(busy_turn(1)));
    tsm.transport().dsm.device_mut().outstanding = 0;
    tsm.transport().dsm.device_mut().scrub = Scrub::Pending;
    assert_eq!(tsm.turn(&mut stop), Ok(busy_turn(2)));
    tsm.transport().dsm.device_mut().scrub = Scrub::Done;
    assert_eq!(tsm.turn(&mut stop), Ok(Turn::Send));
    assert_eq!(tsm.turn(&mut stop), Ok(Turn::Done(())));
}

#[test]
fn a_stop_that_does_not_unlock_is_no_success() {
    for after in [State::ConfigLocked, State::Run, State::Error] {
        let mut tsm = Requester::new(Script::of(&[Response::Stop(StopResponse), state(after)]), GPU);
        assert_eq!(tsm.stop(), Err(RequestError::NotUnlocked { state: after.into() }));
    }
    let unknown = Response::State(StateResponse { state: TdiState::Unknown(4) });
    let mut tsm = Requester::new(Script::of(&[Response::Stop(StopResponse), unknown]), GPU);
    assert_eq!(tsm.stop(), Err(RequestError::NotUnlocked { state: TdiState::Unknown(4) }));
    let mut tsm = Requester::new(Script::of(&[Response::Stop(StopResponse)]), GPU);
    assert_eq!(tsm.stop(), Err(RequestError::Transport(TransportError::TimedOut)));
}

#[test]
fn the_nonce_is_used_once_and_wiped_by_stop_and_by_error() {
    let mut tsm = Requester::new(Bench::new(), GPU);
    assert_eq!(tsm.start(), Err(RequestError::NoNonce));
    tsm.lock(lock_request()).unwrap();
    tsm.stop().unwrap();
    assert_eq!(tsm.start(), Err(RequestError::NoNonce));
    tsm.lock(lock_request()).unwrap();
    tsm.transport().dsm.event(Event::Function(GPU, FunctionEvent::FunctionReset));
    assert_eq!(tsm.state(), Ok(State::Error));
    assert_eq!(tsm.start(), Err(RequestError::NoNonce));
    tsm.stop().unwrap();
    tsm.lock(lock_request()).unwrap();
    assert_eq!((tsm.start(), tsm.start()), (Ok(()), Err(RequestError::NoNonce)));
}

#[test]
fn a_start_that_found_the_peer_busy_can_be_repeated() {
    let nonce = Nonce::new([3; 32]);
    let lock = Response::Lock(LockResponse { nonce: nonce.borrow() });
    let script = Script::of(&[lock, busy(), Response::Start(StartResponse)]);
    let mut tsm = Requester::new(script, GPU);
    tsm.lock(lock_request()).unwrap();
    assert!(matches!(tsm.start(), Err(RequestError::Busy { attempts: 1, .. })));
    assert_eq!(tsm.start(), Ok(()));
}

#[test]
fn every_error_code_becomes_a_value() {
    let known = ErrorCode::NAMED.iter().copied().filter(|code| *code != ErrorCode::Busy);
    for code in known.chain([ErrorCode::Unknown(0xDEAD)]) {
        let mut tsm = Requester::new(Script::of(&[Response::Error(ErrorResponse::new(code, 0))]), GPU);
        let request = RequestCode::Lock;
        let wanted = match code {
            ErrorCode::VendorSpecific => RequestError::VendorSpecific { request, extended: Vec::new() },
            _ => RequestError::Refused { request, code, data: 0 },
        };
        assert_eq!(tsm.lock(lock_request()), Err(wanted));
        assert!(!tsm.has_nonce());
    }
}

#[test]
fn a_response_of_another_type_interface_or_version_is_refused() {
    let mut tsm = Requester::new(Script::of(&[Response::Start(StartResponse)]), GPU);
    let wanted = RequestError::Unexpected { request: RequestCode::GetState, response: ResponseCode::Start };
    assert_eq!(tsm.state(), Err(wanted));

    let script = Script { answers: [bytes(NIC, &state(State::Run))].into(), asked: Vec::new() };
    let wanted = RequestError::WrongInterface { expected: GPU, got: NIC };
    assert_eq!(Requester::new(script, GPU).state(), Err(wanted));

    let mut other = bytes(GPU, &state(State::Run));
    other[0] = 0x11;
    let script = Script { answers: [other].into(), asked: Vec::new() };
    let wanted = RequestError::WrongVersion { expected: Version::V1_0, got: Version(0x11) };
    assert_eq!(Requester::new(script, GPU).state(), Err(wanted));

    let mut undefined = bytes(GPU, &Response::Start(StartResponse));
    undefined[1] = 0x55;
    let script = Script { answers: [undefined].into(), asked: Vec::new() };
    let wanted = RequestError::Undefined { request: RequestCode::GetState, code: 0x55 };
    assert_eq!(Requester::new(script, GPU).state(), Err(wanted));
}

#[test]
fn a_stop_response_to_the_query_after_the_stop_is_refused() {
    let script = Script::of(&[Response::Stop(StopResponse), Response::Stop(StopResponse)]);
    let wanted = RequestError::Unexpected { request: RequestCode::GetState, response: ResponseCode::Stop };
    assert_eq!(Requester::new(script, GPU).stop(), Err(wanted));
}

#[test]
fn a_peer_without_a_common_version_or_a_mandatory_request_is_refused() {
    let list = Response::Version(VersionResponse { entries: &[0x20, 0x11] });
    let offered = vec![Version(0x20), Version(0x11)];
    assert_eq!(
        Requester::new(Script::of(&[list]), GPU).version(),
        Err(RequestError::NoCommonVersion { offered })
    );
    let list = Response::Version(VersionResponse { entries: &[0x20, 0x11, 0x10] });
    assert_eq!(Requester::new(Script::of(&[list]), GPU).version(), Ok(Version::V1_0));
    let caps = Capabilities {
        dsm_caps: 0,
        messages: MessageSet(0x7E),
        lock_flags: LockFlags::empty(),
        address_width: 52,
        requests_this: 1,
        requests_all: 1,
    };
    let missing = vec![RequestCode::Stop];
    let script = Script::of(&[Response::Capabilities(caps)]);
    assert_eq!(Requester::new(script, GPU).capabilities(), Err(RequestError::MissingMessages { missing }));
}

#[test]
fn a_flag_that_the_peer_does_not_support_is_not_even_sent() {
    let settings = Settings { lock_flags: LockFlags::NO_FW_UPDATE, ..Settings::default() };
    let mut tsm = Requester::new(Bench::with(settings), GPU);
    tsm.capabilities().unwrap();
    let flags = LockFlags::LOCK_MSIX;
    assert_eq!(tsm.lock(lock_request()), Err(RequestError::UnsupportedFlags { flags }));
    assert_eq!(tsm.state(), Ok(State::ConfigUnlocked));
}

/// Reads a report from a script, in portions of at most `most`, up to `limit`.
fn read(script: Script, most: u16, limit: u16) -> Result<Vec<u8>, RequestError> {
    let mut tsm = Requester::new(script, GPU);
    let mut exchange = tsm.begin(ReadReport::new(NonZeroU16::new(most).unwrap(), limit));
    loop {
        if let Turn::Done(report) = tsm.turn(&mut exchange)? {
            return Ok(report);
        }
    }
}

#[test]
fn a_report_loop_with_an_empty_portion_is_refused() {
    let error = |offset, remainder| Err(PortionError::Empty { offset, remainder }.into());
    assert_eq!(read(Script::of(&[portion(&[], 10)]), 8, 100), error(0, 10));
    assert_eq!(read(Script::of(&[portion(&[], 0)]), 8, 100), error(0, 0));
    assert_eq!(read(Script::of(&[portion(&[1; 8], 4), portion(&[], 4)]), 8, 100), error(8, 4));
}

#[test]
fn a_portion_longer_than_asked_is_refused() {
    let error = |asked, got| Err(PortionError::TooLong { asked, got }.into());
    assert_eq!(read(Script::of(&[portion(&[1; 9], 0)]), 8, 100), error(8, 9));
    assert_eq!(read(Script::of(&[portion(&[1; 8], 4), portion(&[1; 5], 0)]), 8, 100), error(4, 5));
}

#[test]
fn a_remainder_that_does_not_follow_is_refused() {
    let error = |expected, got| Err(PortionError::Remainder { expected, got }.into());
    for wrong in [0, 3, 5, 0xFFFF] {
        let script = Script::of(&[portion(&[1; 8], 12), portion(&[1; 8], wrong)]);
        assert_eq!(read(script, 8, 100), error(4, wrong));
    }
}

#[test]
fn a_report_may_have_as_many_ranges_and_as_much_information_as_it_has_room_for() {
    let mut bench = Bench::with(Settings { portion: 1000, ..Settings::default() });
    let report = &mut bench.dsm.device_mut().report;
    report.ranges = (0..3000).map(|n| MmioRange::private(0, 0x1000 + n, 1)).collect();
    report.device_info = (0..17_000_u32).map(|n| n as u8).collect();
    let mut wanted = report.clone();
    wanted.ranges.iter_mut().for_each(|range| range.first_page += 0xD_0000);
    bench.lock(GPU);
    let bytes = Requester::new(bench, GPU).report().unwrap();
    assert_eq!(InterfaceReport::parse(&bytes, lock_request().flags), Ok(wanted));
}

#[test]
fn a_report_larger_than_the_limit_is_refused_before_it_is_read() {
    let error = |total, limit| Err(PortionError::TooLarge { total, limit }.into());
    assert_eq!(read(Script::of(&[portion(&[1; 8], 93)]), 8, 100), error(101, 100));
    assert_eq!(read(Script::of(&[portion(&[1; 8], 0xFFFF)]), 8, 0xFFFF), error(0x1_0007, 0xFFFF));
    assert_eq!(
        read(Script::of(&[portion(&[1; 8], 2), portion(&[2; 2], 0)]), 8, 10).map(|all| all.len()),
        Ok(10)
    );
}

proptest! {
    #[test]
    fn a_report_is_the_same_in_portions_of_any_size(ours in 1u16..600, theirs in 1u16..600, info in vec(any::<u8>(), 0..700)) {
        let mut bench = Bench::with(Settings { portion: theirs, ..Settings::default() });
        bench.dsm.device_mut().report.device_info = info.clone();
        bench.lock(GPU);
        let mut tsm = Requester::new(bench, GPU);
        let mut exchange = tsm.begin(ReadReport::new(NonZeroU16::new(ours).unwrap(), u16::MAX));
        let bytes = loop {
            if let Turn::Done(report) = tsm.turn(&mut exchange).unwrap() {
                break report;
            }
        };
        prop_assert_eq!(&bytes, &tsm.report().unwrap());
        let report = InterfaceReport::parse(&bytes, lock_request().flags).unwrap();
        prop_assert_eq!(report.device_info, info);
    }

    #[test]
    fn a_report_loop_ends_whatever_the_peer_says(
        answers in vec((vec(any::<u8>(), 0..20), prop_oneof![0u16..60, any::<u16>()]), 0..80),
        most in 1u16..30,
    ) {
        let answers: Vec<_> = answers.iter().map(|(bytes, remainder)| portion(bytes, *remainder)).collect();
        if let Ok(report) = read(Script::of(&answers), most, 1000) {
            prop_assert!(!report.is_empty() && report.len() <= 1000);
        }
    }

    #[test]
    fn any_response_is_taken_or_refused_without_a_panic(bytes in vec(any::<u8>(), 0..80), code: u8) {
        let mut bytes = bytes;
        if bytes.len() >= 16 {
            bytes[..8].copy_from_slice(&[0x10, code & 0x7F, 0, 0, 0, 1, 0, 0]);
        }
        let head = Head::v1_0(GPU);
        let _ = Exchange::new(head, NegotiateVersion).accept(&bytes);
        let _ = Exchange::new(head, QueryCapabilities).accept(&bytes);
        let _ = Exchange::new(head, Lock(lock_request())).accept(&bytes);
        let _ = Exchange::new(head, ReadReport::default()).accept(&bytes);
        let _ = Exchange::new(head, GetInterfaceState).accept(&bytes);
        let _ = Exchange::new(head, Start(Nonce::new([0; 32]))).accept(&bytes);
        let _ = Exchange::new(head, Stop::new()).accept(&bytes);
    }
}
