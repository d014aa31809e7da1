//! The acceptance list for a responder (the cases of the public TEE-IO validator, and more). `v1_1` and so on are the case numbers of
//! tee-io-validator.

mod common;

use common::device::*;
use tidegate_tdisp::report::{InterfaceReport, MmioRange, RangeFlags};
use tidegate_tdisp::responder::*;
use tidegate_tdisp::state::event::{SessionId, StreamEvent};
use tidegate_tdisp::state::{State, TABLE, event::Event};
use tidegate_tdisp::wire::*;

const BAD_STATE: Meaning = Meaning::Error(ErrorCode::InvalidInterfaceState);
const BAD_REQUEST: Meaning = Meaning::Error(ErrorCode::InvalidRequest);
const STOPPED: Meaning = Meaning::Ok(ResponseCode::Stop);

fn every_request(nonce: &Nonce) -> [Request<'_>; 7] {
    [
        Request::GetVersion(GetVersion),
        Request::GetCapabilities(GetCapabilities::default()),
        Request::Lock(lock_request()),
        Request::GetReport(GetReport { offset: 0, length: 0xFFFF }),
        Request::GetState(GetState),
        Request::Start(StartRequest { nonce: nonce.borrow() }),
        Request::Stop(StopRequest),
    ]
}

#[test]
fn v1_1_version_lists_1_0_alone() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(GPU, &Request::GetVersion(GetVersion)), Meaning::Ok(ResponseCode::Version));
    assert_eq!(&bench.response[16..], [1, 0x10]);
}

#[test]
fn version_is_answered_for_every_minor_of_major_1_and_for_no_other_major() {
    let mut bench = Bench::new();
    for version in 0..=u8::MAX {
        let head = Head { version: Version(version), ..Head::v1_0(GPU) };
        let mut request = [0; 16];
        GetVersion.emit(head, &mut request).unwrap();
        let answer = bench.raw(&request);
        if version >> 4 == 1 {
            assert_eq!(answer, Meaning::Ok(ResponseCode::Version), "{version:#x}");
        } else {
            assert_eq!(answer, Meaning::Error(ErrorCode::VersionMismatch), "{version:#x}");
            assert_eq!(bench.response[0], version, "the error echoes the version");
        }
    }
}

#[test]
fn every_other_request_of_another_version_is_a_mismatch_and_changes_nothing() {
    let mut bench = Bench::new();
    let nonce = bench.bring(GPU, State::ConfigLocked).unwrap();
    for request in every_request(&nonce).iter().skip(1) {
        let head = Head { version: Version(0x11), ..Head::v1_0(GPU) };
        let mut bytes = vec![0; request.size()];
        request.emit(head, &mut bytes).unwrap();
        assert_eq!(bench.raw(&bytes), Meaning::Error(ErrorCode::VersionMismatch), "{request:?}");
        assert_eq!(bench.state(GPU), State::ConfigLocked);
    }
}

#[test]
fn version_and_capabilities_have_no_side_effect_in_any_state() {
    for state in State::ALL {
        let mut bench = Bench::new();
        let nonce = bench.bring(GPU, state);
        for request in [Request::GetVersion(GetVersion), Request::GetCapabilities(GetCapabilities::default())]
        {
            assert!(matches!(bench.ask(GPU, &request), Meaning::Ok(_)));
            assert_eq!((bench.effects.len(), bench.state(GPU)), (0, state));
        }
        if let (State::ConfigLocked, Some(nonce)) = (state, nonce) {
            assert_eq!(bench.start(GPU, &nonce), Meaning::Ok(ResponseCode::Start), "the nonce outlives them");
        }
    }
}

#[test]
fn v2_1_capabilities_are_those_of_a_1_0_device() {
    let mut bench = Bench::new();
    bench.ask(GPU, &Request::GetCapabilities(GetCapabilities { tsm_caps: 0xFFFF_FFFF }));
    let caps = Capabilities::parse(&bench.response).unwrap();
    assert_eq!((caps.dsm_caps, caps.messages, caps.lock_flags), (0, MessageSet(0xFE), LockFlags::all()));
    assert!(caps.address_width >= 52 && caps.requests_this > 0 && caps.requests_all > 0);
    assert_eq!(bench.response[38..41], [0; 3]);
}

#[test]
fn v3_1_lock_gives_a_nonce_and_is_told_as_an_effect() {
    let mut bench = Bench::new();
    bench.lock(GPU);
    let to = State::ConfigLocked;
    assert_eq!(bench.effects, [Effect::StateChanged { function: GPU, from: State::ConfigUnlocked, to }]);
    assert_eq!(bench.state(GPU), to);
    assert_eq!(bench.dsm.locked(GPU), Some(&lock_request()));
}

#[test]
fn v3_2_lock_without_ide_keys_is_refused() {
    let mut bench = Bench::new();
    bench.dsm.device_mut().ide = Ide::Unkeyed;
    assert_eq!(bench.lock_with(GPU, lock_request()), Err(ErrorCode::InvalidRequest));
    assert_eq!(bench.state(GPU), State::ConfigUnlocked);
}

#[test]
fn lock_of_another_stream_or_from_another_session_than_the_keys_is_refused() {
    let mut bench = Bench::new();
    bench.dsm.device_mut().ide = Ide::Keyed { stream: 4, session: SESSION };
    assert_eq!(bench.lock_with(GPU, lock_request()), Err(ErrorCode::InvalidRequest));
    let mut request = [0; 36];
    LockRequest { stream: 4, ..lock_request() }.emit(Head::v1_0(GPU), &mut request).unwrap();
    assert_eq!(bench.raw_in(SessionId(8), &request), BAD_REQUEST);
    assert_eq!(bench.raw_in(SESSION, &request), Meaning::Ok(ResponseCode::Lock));
}

#[test]
fn v3_3_and_v3_4_lock_in_any_other_state_is_refused() {
    for state in [State::ConfigLocked, State::Run, State::Error] {
        let mut bench = Bench::new();
        bench.bring(GPU, state);
        assert_eq!(bench.lock_with(GPU, lock_request()), Err(ErrorCode::InvalidInterfaceState));
        assert_eq!(bench.state(GPU), state);
    }
}

#[test]
fn a_lock_flag_that_is_not_supported_is_refused_and_a_reserved_bit_is_ignored() {
    let mut bench = Bench::with(Settings { lock_flags: LockFlags::LOCK_MSIX, ..Settings::default() });
    assert_eq!(bench.lock_with(GPU, lock_request()), Err(ErrorCode::InvalidRequest));
    let flags = LockFlags::from_bits_retain(0xFFE0) | LockFlags::LOCK_MSIX;
    assert!(bench.lock_with(GPU, LockRequest { flags, ..lock_request() }).is_ok());
    assert_eq!(bench.dsm.locked(GPU).unwrap().flags, LockFlags::LOCK_MSIX);
}

#[test]
fn each_reason_of_the_device_against_a_lock_has_its_code() {
    let cases = [
        (Objection::Request, ErrorCode::InvalidRequest),
        (Objection::Configuration, ErrorCode::InvalidDeviceConfiguration),
        (Objection::Busy, ErrorCode::Busy),
    ];
    for (refusal, code) in cases {
        let mut bench = Bench::new();
        bench.dsm.device_mut().refusal = Some(refusal);
        assert_eq!(bench.lock_with(GPU, lock_request()), Err(code));
        assert_eq!(bench.state(GPU), State::ConfigUnlocked);
    }
}

#[test]
fn a_lock_without_entropy_is_refused_and_sends_no_nonce() {
    let mut bench = Bench::new();
    bench.no_entropy.set(true);
    assert_eq!(bench.lock_with(GPU, lock_request()), Err(ErrorCode::InsufficientEntropy));
    assert_eq!((bench.response.len(), bench.state(GPU)), (24, State::ConfigUnlocked));
    bench.no_entropy.set(false);
    bench.lock(GPU);
}

#[test]
fn a_reporting_offset_that_leaves_the_address_space_is_refused() {
    let mut bench = Bench::new();
    // The ranges of the test device start at 0x100_0000; one more goes to the end of the address space.
    bench.dsm.device_mut().report.ranges.push(MmioRange::private(4, (1 << 52) - 2, 2));
    for reporting_offset in [i64::MIN, -0x100_0001, 1, 0x1000, i64::MAX] {
        let lock = LockRequest { reporting_offset, ..lock_request() };
        assert_eq!(bench.lock_with(GPU, lock), Err(ErrorCode::InvalidRequest), "{reporting_offset:#x}");
        assert_eq!(bench.state(GPU), State::ConfigUnlocked);
    }
    for reporting_offset in [-0x100_0000, -1, 0] {
        assert!(bench.lock_with(GPU, LockRequest { reporting_offset, ..lock_request() }).is_ok());
        assert_eq!(bench.stop(GPU), STOPPED);
    }
}

#[test]
fn a_device_that_describes_overlapping_ranges_cannot_be_locked() {
    let mut bench = Bench::new();
    bench.dsm.device_mut().report.ranges.push(MmioRange::shared(2, 0x2003, 1));
    assert_eq!(bench.lock_with(GPU, lock_request()), Err(ErrorCode::InvalidDeviceConfiguration));
}

/// The whole report in portions of `length`.
fn read_report(bench: &mut Bench, length: u16) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let answer = bench.report(GPU, u16::try_from(all.len()).unwrap(), length);
        assert_eq!(answer, Meaning::Ok(ResponseCode::Report));
        let portion = ReportResponse::parse(&bench.response).unwrap();
        assert!(!portion.portion.is_empty() && portion.portion.len() <= usize::from(length));
        all.extend(portion.portion);
        if portion.remainder == 0 {
            return all;
        }
    }
}

#[test]
fn v4_1_v4_2_and_v4_5_the_report_is_whole_and_well_formed_in_locked_and_run() {
    for state in [State::ConfigLocked, State::Run] {
        for portion in [u16::MAX, 64, 1] {
            let mut bench = Bench::with(Settings { portion, ..Settings::default() });
            bench.bring(GPU, state);
            let bytes = read_report(&mut bench, 0xFFFF);
            for length in [1, 7, 16, 64] {
                assert_eq!(read_report(&mut bench, length), bytes);
            }
            assert_eq!(bytes[2..4], [0, 0], "reserved");
            let report = InterfaceReport::parse(&bytes, lock_request().flags).unwrap();
            let mut wanted = bench.dsm.device().report.clone();
            for range in &mut wanted.ranges {
                range.first_page += 0xD_0000;
            }
            assert_eq!(report, wanted);
        }
    }
}

#[test]
fn a_portion_is_never_longer_than_the_responders_own_limit() {
    for (portion, wanted) in [(64, 64), (1, 1), (0, 1)] {
        let mut bench = Bench::with(Settings { portion, ..Settings::default() });
        bench.lock(GPU);
        bench.report(GPU, 0, 0xFFFF);
        assert_eq!(ReportResponse::parse(&bench.response).unwrap().portion.len(), wanted);
    }
}

#[test]
fn a_report_without_the_msix_lock_says_nothing_of_msix() {
    let mut bench = Bench::new();
    bench.lock_with(GPU, LockRequest { flags: LockFlags::empty(), ..lock_request() }).unwrap();
    let report = InterfaceReport::parse(&read_report(&mut bench, 0xFFFF), LockFlags::empty()).unwrap();
    assert_eq!((report.msix_control, report.tph_control, report.ranges.len()), (0, 0, 2));
    let msix = RangeFlags::MSIX_TABLE | RangeFlags::MSIX_PBA;
    assert!(report.ranges.iter().all(|range| !range.flags.intersects(msix)));
}

#[test]
fn a_report_stays_what_it_was_when_the_lock_was_taken() {
    let mut bench = Bench::new();
    bench.lock(GPU);
    let before = read_report(&mut bench, 0xFFFF);
    bench.dsm.device_mut().report.ranges.clear();
    assert_eq!(read_report(&mut bench, 0xFFFF), before);
}

#[test]
fn v4_3_a_report_offset_past_the_end_or_a_length_of_zero_is_refused() {
    let mut bench = Bench::new();
    bench.lock(GPU);
    let end = u16::try_from(read_report(&mut bench, 0xFFFF).len()).unwrap();
    assert_eq!(bench.report(GPU, 0xFFFF, 1), BAD_REQUEST);
    assert_eq!(bench.report(GPU, end, 1), BAD_REQUEST);
    assert_eq!(bench.report(GPU, 0, 0), BAD_REQUEST);
    assert_eq!(bench.report(GPU, end - 1, 0xFFFF), Meaning::Ok(ResponseCode::Report));
}

#[test]
fn v4_4_a_report_in_unlocked_or_error_is_refused() {
    for state in [State::ConfigUnlocked, State::Error] {
        let mut bench = Bench::new();
        bench.bring(GPU, state);
        assert_eq!(bench.report(GPU, 0, 0xFFFF), BAD_STATE);
    }
    let mut bench = Bench::new();
    bench.lock(GPU);
    bench.stop(GPU);
    assert_eq!(bench.report(GPU, 0, 0xFFFF), BAD_STATE, "after a lock and a stop");
}

#[test]
fn v5_1_to_v5_4_the_state_is_told_in_every_state_and_after_stop() {
    for state in State::ALL {
        let mut bench = Bench::new();
        bench.bring(GPU, state);
        assert_eq!(bench.stop(GPU), STOPPED);
        assert_eq!(bench.state(GPU), State::ConfigUnlocked);
    }
}

#[test]
fn v6_1_start_with_the_nonce_goes_to_run_and_uses_it_up() {
    let mut bench = Bench::new();
    let nonce = bench.bring(GPU, State::Run).unwrap();
    assert_eq!(bench.start(GPU, &nonce), BAD_STATE);
    bench.stop(GPU);
    assert_eq!(bench.start(GPU, &nonce), BAD_STATE);
}

#[test]
fn v6_2_start_with_a_bad_nonce_stays_locked_and_the_good_one_still_works() {
    let mut bench = Bench::new();
    let nonce = bench.bring(GPU, State::ConfigLocked).unwrap();
    for bit in 0..256 {
        let mut bytes = *nonce.borrow().bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(bench.start(GPU, &Nonce::new(bytes)), Meaning::Error(ErrorCode::InvalidNonce));
        assert_eq!(bench.state(GPU), State::ConfigLocked);
    }
    assert_eq!(bench.start(GPU, &nonce), Meaning::Ok(ResponseCode::Start));
}

#[test]
fn v6_3_and_v6_4_start_outside_locked_is_refused() {
    for state in [State::ConfigUnlocked, State::Run, State::Error] {
        let mut bench = Bench::new();
        let nonce = bench.bring(GPU, state).unwrap_or(Nonce::new([0; 32]));
        assert_eq!(bench.start(GPU, &nonce), BAD_STATE);
        assert_eq!(bench.state(GPU), state);
    }
}

#[test]
fn the_nonce_of_an_earlier_lock_or_of_another_tdi_is_refused() {
    let mut bench = Bench::new();
    let old = bench.lock(GPU);
    bench.stop(GPU);
    let new = bench.lock(GPU);
    let other = bench.lock(NIC);
    for wrong in [&old, &other] {
        assert_ne!(*wrong, new);
        assert_eq!(bench.start(GPU, wrong), Meaning::Error(ErrorCode::InvalidNonce));
    }
    assert_eq!(bench.start(GPU, &new), Meaning::Ok(ResponseCode::Start));
}

#[test]
fn v7_1_to_v7_3_stop_succeeds_in_all_four_states() {
    for state in State::ALL {
        let mut bench = Bench::new();
        bench.bring(GPU, state);
        assert_eq!(bench.stop(GPU), STOPPED, "from {state}");
        assert_eq!(bench.state(GPU), State::ConfigUnlocked);
        assert_eq!(bench.dsm.locked(GPU), None);
        let scrubs = u32::from(state != State::ConfigUnlocked);
        assert_eq!(bench.dsm.device().scrubs, scrubs, "scrubbed before the answer, from {state}");
    }
}

#[test]
fn stop_is_busy_while_anything_is_in_flight_and_scrubs_nothing_then() {
    for state in [State::ConfigLocked, State::Run, State::Error] {
        let mut bench = Bench::new();
        bench.bring(GPU, state);
        bench.dsm.device_mut().outstanding = 1;
        assert_eq!(bench.stop(GPU), Meaning::Error(ErrorCode::Busy));
        assert_eq!((bench.effects.len(), bench.state(GPU)), (0, state));
        assert_eq!(bench.dsm.device().scrubs, 0);
        bench.dsm.device_mut().outstanding = 0;
        assert_eq!(bench.stop(GPU), STOPPED);
    }
}

#[test]
fn stop_is_busy_until_the_scrub_is_done() {
    let mut bench = Bench::new();
    bench.bring(GPU, State::Run);
    bench.dsm.device_mut().scrub = Scrub::Pending;
    for _ in 0..3 {
        assert_eq!(bench.stop(GPU), Meaning::Error(ErrorCode::Busy));
        assert_eq!(bench.state(GPU), State::Run);
    }
    bench.dsm.device_mut().scrub = Scrub::Done;
    assert_eq!(bench.stop(GPU), STOPPED);
}

#[test]
fn stop_of_an_unlocked_tdi_leaves_shared_work_in_flight_alone() {
    let mut bench = Bench::new();
    bench.dsm.device_mut().outstanding = 5;
    assert_eq!(bench.stop(GPU), STOPPED);
    assert!(bench.effects.is_empty());
}

#[test]
fn an_unknown_interface_is_refused_and_reserved_bits_do_not_make_one() {
    let mut bench = Bench::new();
    let nonce = Nonce::new([0; 32]);
    for request in every_request(&nonce) {
        let stranger = FunctionId::new(0x101);
        assert_eq!(bench.ask(stranger, &request), Meaning::Error(ErrorCode::InvalidInterface), "{request:?}");
    }
    let mut request = [0; 16];
    GetState.emit(Head::v1_0(GPU), &mut request).unwrap();
    for at in [2, 3, 6, 8, 9, 10, 11, 12, 13, 14, 15] {
        request[at] = 0xFF;
    }
    request[7] = 0xFE;
    assert_eq!(bench.raw(&request), Meaning::Ok(ResponseCode::State));
    assert_eq!(
        bench.response[2..16],
        [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        "reserved is zero on write"
    );
}

#[test]
fn a_known_segment_must_match_where_the_request_states_one() {
    let mut bench = Bench::new();
    let own = FunctionId::in_segment(2, 0x300);
    bench.dsm.add(own, None).unwrap();
    assert_eq!(bench.dsm.add(FunctionId::new(0x300), None), Err(Occupied(FunctionId::new(0x300))));
    let state = Request::GetState(GetState);
    assert_eq!(bench.ask(own, &state), Meaning::Ok(ResponseCode::State));
    assert_eq!(bench.ask(FunctionId::new(0x300), &state), Meaning::Ok(ResponseCode::State));
    let other = FunctionId::in_segment(1, 0x300);
    assert_eq!(bench.ask(other, &state), Meaning::Error(ErrorCode::InvalidInterface));
}

#[test]
fn an_unknown_request_is_unsupported_and_names_its_code() {
    let mut bench = Bench::new();
    bench.bring(GPU, State::Run);
    for code in (0..=u8::MAX).filter(|code| !(0x81..=0x87).contains(code)) {
        let mut request = [0; 16];
        GetState.emit(Head::v1_0(GPU), &mut request).unwrap();
        request[1] = code;
        assert_eq!(bench.raw(&request), Meaning::Error(ErrorCode::UnsupportedRequest));
        assert_eq!(ErrorResponse::parse(&bench.response).unwrap().data, u32::from(code));
        assert_eq!(bench.state(GPU), State::Run);
    }
}

#[test]
fn every_wrong_length_of_every_request_is_invalid_and_changes_no_state() {
    for state in State::ALL {
        let mut bench = Bench::new();
        let nonce = bench.bring(GPU, state).unwrap_or(Nonce::new([0; 32]));
        for request in every_request(&nonce) {
            let mut bytes = vec![0; request.size() + 20];
            let right = request.emit(Head::v1_0(GPU), &mut bytes).unwrap();
            for len in (0..bytes.len()).filter(|&len| len != right) {
                if len < HEADER_SIZE {
                    let effects = bench.dsm.handle(SESSION, &bytes[..len], &mut bench.response);
                    assert!(effects.is_empty() && bench.response.is_empty(), "no answer is possible");
                } else {
                    assert_eq!(bench.raw(&bytes[..len]), BAD_REQUEST, "{request:?} of {len} bytes");
                }
                assert_eq!(bench.dsm.state(GPU), Some(state));
            }
        }
    }
}

#[test]
fn a_failed_request_never_changes_the_state() {
    for state in State::ALL {
        let mut bench = Bench::new();
        bench.bring(GPU, state);
        let wrong = Nonce::new([0xFF; 32]);
        for request in every_request(&wrong) {
            let legal = TABLE.is_legal(request.code(), state);
            if legal && !matches!(request, Request::Start(_)) {
                continue;
            }
            assert!(matches!(bench.ask(GPU, &request), Meaning::Error(_)), "{request:?} in {state}");
            assert_eq!((bench.effects.len(), bench.state(GPU)), (0, state));
        }
    }
}

#[test]
fn two_tdis_are_independent() {
    let mut bench = Bench::new();
    bench.bring(GPU, State::Run);
    bench.bring(NIC, State::ConfigLocked);
    bench.stop(NIC);
    assert_eq!((bench.state(GPU), bench.state(NIC)), (State::Run, State::ConfigUnlocked));
    bench.dsm.event(Event::Stream(99, StreamEvent::CheckFailed));
    assert_eq!(bench.state(GPU), State::Run, "another stream");
}
