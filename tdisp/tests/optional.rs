//! The requests that a DSM need not answer: direct P2P streams, attributes of pages, a vendor's own.

mod common;

use common::device::*;
use tidegate_tdisp::report::{MmioRange, RangeFlags};
use tidegate_tdisp::responder::*;
use tidegate_tdisp::state::State;
use tidegate_tdisp::state::event::{Event, SessionId, StreamEvent};
use tidegate_tdisp::wire::*;

const BAD_STATE: Meaning = Meaning::Error(ErrorCode::InvalidInterfaceState);
const BAD_REQUEST: Meaning = Meaning::Error(ErrorCode::InvalidRequest);
const BUSY: Meaning = Meaning::Error(ErrorCode::Busy);
const STREAM: u8 = 9;
/// In pages: what the lock of these tests adds to the pages of the device.
const OFFSET: u64 = 0xD_0000;

/// A DSM that answers everything, with a stream that can be bound and a range that can change.
fn bench() -> Bench {
    let mut bench = Bench::with(Settings { optional: OptionalRequests::all(), ..Settings::default() });
    let device = bench.dsm.device_mut();
    device.streams = vec![(STREAM, SESSION), (lock_request().stream, SESSION)];
    let updatable = MmioRange { flags: RangeFlags::UPDATABLE, ..MmioRange::private(4, 0x4000, 16) };
    device.report.ranges.push(updatable);
    bench
}

fn run(bench: &mut Bench) {
    let flags = lock_request().flags | LockFlags::BIND_P2P;
    let nonce = bench.lock_with(GPU, LockRequest { flags, ..lock_request() }).unwrap();
    assert_eq!(bench.start(GPU, &nonce), Meaning::Ok(ResponseCode::Start));
}

fn bind(bench: &mut Bench, stream: u8) -> Meaning {
    bench.ask(GPU, &Request::BindP2p(BindP2pRequest { stream }))
}

fn unbind(bench: &mut Bench, stream: u8) -> Meaning {
    bench.ask(GPU, &Request::UnbindP2p(UnbindP2pRequest { stream }))
}

fn set(bench: &mut Bench, range: MmioRange) -> Meaning {
    bench.ask(GPU, &Request::SetMmioAttribute(SetMmioAttribute { range }))
}

#[test]
fn capabilities_name_exactly_the_requests_that_are_answered() {
    for bits in 0..=OptionalRequests::all().bits() {
        let optional = OptionalRequests::from_bits_retain(bits);
        let mut bench = Bench::with(Settings { optional, ..Settings::default() });
        bench.ask(GPU, &Request::GetCapabilities(GetCapabilities::default()));
        let messages = Capabilities::parse(&bench.response).unwrap().messages;
        for code in 0..=u8::MAX {
            let mut request = [0; 16];
            GetState.emit(Head::v1_0(GPU), &mut request).unwrap();
            request[1] = code;
            let answer = bench.raw(&request);
            let answered = answer != Meaning::Error(ErrorCode::UnsupportedRequest);
            assert_eq!(answered, messages.has(code), "{code:#x} with {optional:?}");
        }
    }
    let all = MessageSet(0x0FFE);
    let mut bench = bench();
    bench.ask(GPU, &Request::GetCapabilities(GetCapabilities::default()));
    assert_eq!(Capabilities::parse(&bench.response).unwrap().messages, all);
}

#[test]
fn streams_and_attributes_are_for_a_running_tdi() {
    for state in [State::ConfigUnlocked, State::ConfigLocked, State::Error] {
        let mut bench = bench();
        bench.bring(GPU, state);
        assert_eq!(bind(&mut bench, STREAM), BAD_STATE);
        assert_eq!(unbind(&mut bench, STREAM), BAD_STATE);
        assert_eq!(set(&mut bench, MmioRange::shared(4, 0x4000 + OFFSET, 1)), BAD_STATE);
        assert_eq!(bench.state(GPU), state);
    }
}

#[test]
fn a_stream_is_bound_once_and_released_once_and_both_are_told_as_effects() {
    let mut bench = bench();
    run(&mut bench);
    assert_eq!(bind(&mut bench, STREAM), Meaning::Ok(ResponseCode::BindP2p));
    assert_eq!(bench.effects, [Effect::StreamBound { function: GPU, stream: STREAM }]);
    assert!(bench.dsm.p2p_streams(GPU).iter().eq([STREAM]));
    assert_eq!(bind(&mut bench, STREAM), BAD_REQUEST);
    assert_eq!(unbind(&mut bench, STREAM), Meaning::Ok(ResponseCode::UnbindP2p));
    assert_eq!(bench.effects, [Effect::StreamReleased { function: GPU, stream: STREAM }]);
    assert_eq!(unbind(&mut bench, STREAM), BAD_REQUEST);
    assert!(bench.effects.is_empty() && bench.dsm.p2p_streams(GPU).iter().next().is_none());
    assert_eq!(bench.state(GPU), State::Run);
}

#[test]
fn a_stream_that_is_unknown_the_default_one_or_keyed_in_another_session_is_not_bound() {
    let mut bench = bench();
    run(&mut bench);
    assert_eq!(bind(&mut bench, STREAM + 1), BAD_REQUEST);
    assert_eq!(bind(&mut bench, lock_request().stream), BAD_REQUEST);
    bench.dsm.device_mut().streams = vec![(STREAM, SessionId(SESSION.0 + 1))];
    assert_eq!(bind(&mut bench, STREAM), BAD_REQUEST);
    assert!(bench.dsm.p2p_streams(GPU).iter().next().is_none());
    assert_eq!(bench.state(GPU), State::Run);
}

#[test]
fn a_lock_without_the_flag_for_it_binds_no_stream() {
    let mut bench = bench();
    bench.bring(GPU, State::Run);
    assert_eq!(bind(&mut bench, STREAM), BAD_REQUEST);
}

#[test]
fn a_stream_is_busy_while_something_is_in_flight_on_it() {
    let mut bench = bench();
    run(&mut bench);
    bind(&mut bench, STREAM);
    bench.dsm.device_mut().outstanding = 3;
    assert_eq!(unbind(&mut bench, STREAM), BUSY);
    assert!(bench.dsm.p2p_streams(GPU).iter().eq([STREAM]));
    bench.dsm.device_mut().on_stream = Some(0);
    assert_eq!(unbind(&mut bench, STREAM), Meaning::Ok(ResponseCode::UnbindP2p));
}

#[test]
fn a_bound_stream_that_becomes_insecure_is_a_fault_and_a_released_one_is_none() {
    let mut bench = bench();
    run(&mut bench);
    let fault = Event::Stream(STREAM, StreamEvent::KeySetStopped);
    assert_eq!(bench.dsm.event(fault), []);
    bind(&mut bench, STREAM);
    unbind(&mut bench, STREAM);
    assert_eq!(bench.dsm.event(fault), []);
    bind(&mut bench, STREAM);
    assert_eq!(bench.dsm.event(fault).len(), 1);
    assert_eq!(bench.state(GPU), State::Error);
    assert_eq!(bench.stop(GPU), Meaning::Ok(ResponseCode::Stop));
    assert!(bench.dsm.p2p_streams(GPU).iter().next().is_none(), "a stop releases every stream");
    run(&mut bench);
    assert_eq!(bench.dsm.event(fault), []);
}

#[test]
fn an_attribute_changes_for_pages_inside_one_updatable_range() {
    let mut bench = bench();
    run(&mut bench);
    for (first, pages) in [(0, 16), (0, 1), (15, 1), (3, 7)] {
        for shared in [true, false] {
            let range = match shared {
                true => MmioRange::shared(4, 0x4000 + OFFSET + first, pages),
                false => MmioRange::private(4, 0x4000 + OFFSET + first, pages),
            };
            assert_eq!(set(&mut bench, range), Meaning::Ok(ResponseCode::SetMmioAttribute));
            let range = MmioRange { first_page: 0x4000 + first, ..range };
            assert_eq!(bench.effects, [Effect::AttributeChanged { function: GPU, range }], "physical pages");
        }
    }
    // Reserved attributes are ignored, and not handed on.
    let flags = RangeFlags::from_bits_retain(0xFFFC);
    let range = MmioRange { flags, ..MmioRange::shared(4, 0x4000 + OFFSET, 2) };
    assert_eq!(set(&mut bench, range), Meaning::Ok(ResponseCode::SetMmioAttribute));
    let range = MmioRange::shared(4, 0x4000, 2);
    assert_eq!(bench.effects, [Effect::AttributeChanged { function: GPU, range }]);
}

#[test]
fn an_attribute_of_pages_that_are_not_updatable_or_not_there_is_refused() {
    let mut bench = bench();
    run(&mut bench);
    let good = MmioRange::shared(4, 0x4000 + OFFSET, 1);
    let cases = [
        ("not updatable", MmioRange::shared(0, 0x1000 + OFFSET, 1)),
        ("without the offset", MmioRange { first_page: 0x4000, ..good }),
        ("one page too early", MmioRange { first_page: 0x3FFF + OFFSET, ..good }),
        ("one page too far", MmioRange { pages: 17, ..good }),
        ("no page", MmioRange { pages: 0, ..good }),
        ("past the address space", MmioRange { first_page: u64::MAX, ..good }),
        ("another id", MmioRange { id: 5, ..good }),
        ("the MSI-X table", MmioRange { flags: RangeFlags::MSIX_TABLE, ..good }),
        ("the MSI-X pending bits", MmioRange { flags: RangeFlags::MSIX_PBA, ..good }),
    ];
    for (what, range) in cases {
        assert_eq!(set(&mut bench, range), BAD_REQUEST, "{what}");
        assert_eq!((bench.effects.len(), bench.state(GPU)), (0, State::Run), "{what}");
    }
    bench.dsm.device_mut().refusal = Some(Objection::Busy);
    assert_eq!(set(&mut bench, good), BUSY);
}

#[test]
fn a_negative_offset_of_no_whole_pages_is_undone_as_it_was_applied() {
    for reporting_offset in [-0x1000, -1, -0x1001, 0, 1, 0xFFF, 0x1000, 0x1001] {
        let mut bench = bench();
        let nonce = bench.lock_with(GPU, LockRequest { reporting_offset, ..lock_request() }).unwrap();
        bench.report(GPU, 0, 0xFFFF);
        let report = ReportResponse::parse(&bench.response).unwrap().portion;
        let report = tidegate_tdisp::report::InterfaceReport::parse(report, lock_request().flags).unwrap();
        let updatable = report.ranges[3];
        bench.start(GPU, &nonce);
        assert_eq!(set(&mut bench, updatable), Meaning::Ok(ResponseCode::SetMmioAttribute));
        let range = MmioRange::private(4, 0x4000, 16);
        assert_eq!(bench.effects, [Effect::AttributeChanged { function: GPU, range }]);
    }
}

#[test]
fn a_vendors_request_is_the_devices_in_every_state() {
    let vendor_data = VendorData { registry: Registry::Cxl, vendor: &[0x98, 0x1E], data: &[1, 2, 3] };
    let vdm = Request::Vdm(VdmRequest { vendor_data });
    for state in State::ALL {
        let mut bench = bench();
        bench.bring(GPU, state);
        bench.dsm.device_mut().vendor = Ok(vec![7, 8]);
        assert_eq!(bench.ask(GPU, &vdm), Meaning::Ok(ResponseCode::Vdm));
        let answer = VdmResponse::parse(&bench.response).unwrap().vendor_data;
        assert_eq!(answer, VendorData { data: &[7, 8], ..vendor_data });
        let refusals = [
            (VendorRefusal::Unsupported, ErrorCode::UnsupportedRequest),
            (VendorRefusal::Request, ErrorCode::InvalidRequest),
            (VendorRefusal::State, ErrorCode::InvalidInterfaceState),
            (VendorRefusal::Busy, ErrorCode::Busy),
        ];
        for (refusal, code) in refusals {
            bench.dsm.device_mut().vendor = Err((refusal, vec![1]));
            assert_eq!(bench.ask(GPU, &vdm), Meaning::Error(code));
            assert_eq!(bench.response.len(), 24, "no extended data");
        }
        bench.dsm.device_mut().vendor = Err((VendorRefusal::Vendor, vec![0xEE]));
        assert_eq!(bench.ask(GPU, &vdm), Meaning::Error(ErrorCode::VendorSpecific));
        let error = ErrorResponse::parse(&bench.response).unwrap();
        assert_eq!(error.vendor_data(), Some(VendorData { data: &[0xEE], ..vendor_data }));
        assert_eq!(bench.state(GPU), state);
    }
}

#[cfg(feature = "set-config")]
#[test]
fn a_configuration_is_taken_in_unlocked_shown_by_the_report_and_ended_by_a_reset() {
    use tidegate_tdisp::report::{InterfaceInfo, InterfaceReport};
    let mut bench = Bench::with(Settings { config: Config::XT_MODE, ..Settings::default() });
    bench.ask(GPU, &Request::GetCapabilities(GetCapabilities::default()));
    let caps = Capabilities::parse(&bench.response).unwrap();
    assert_eq!((caps.dsm_caps, caps.messages), (1, MessageSet(0x10FE)));
    let ask = |bench: &mut Bench, config| bench.ask(GPU, &Request::SetConfig(SetConfig { config }));
    assert_eq!(ask(&mut bench, Config::all()), BAD_REQUEST);
    let config = Config::XT_MODE | Config::from_bits_retain(0xF000);
    assert_eq!(ask(&mut bench, config), Meaning::Ok(ResponseCode::SetConfig), "reserved bits are ignored");
    assert_eq!(bench.effects, [Effect::Configured { function: GPU, config: Config::XT_MODE }]);
    let shown = |bench: &mut Bench| {
        bench.lock(GPU);
        assert_eq!(ask(bench, Config::empty()), BAD_STATE);
        bench.report(GPU, 0, 0xFFFF);
        let report = ReportResponse::parse(&bench.response).unwrap().portion;
        InterfaceReport::parse(report, lock_request().flags).unwrap().info.contains(InterfaceInfo::XT_MODE)
    };
    assert!(shown(&mut bench));
    bench.stop(GPU);
    assert!(shown(&mut bench), "it outlives a lock");
    bench.dsm.reset();
    assert!(!shown(&mut bench));
}
