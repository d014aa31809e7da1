//! What a TSM finds out, chooses and waits for: polls, flags, pauses, and the requests that a DSM need not answer.

mod common;

use common::device::*;
use std::time::Duration;
use tidegate_tdisp::report::{MmioRange, RangeFlags};
use tidegate_tdisp::requester::*;
use tidegate_tdisp::responder::{Effect, OptionalRequests, Settings, VendorRefusal};
use tidegate_tdisp::state::State;
use tidegate_tdisp::state::event::{Event, FunctionEvent};
use tidegate_tdisp::wire::*;

/// A function call into the DSM of a bench, which can be busy or deaf for some requests.
struct Line {
    bench: Bench,
    busy: u32,
    lost: bool,
    pauses: Vec<Duration>,
    sent: Vec<u8>,
}

impl Line {
    fn new(settings: Settings) -> Line {
        Line { bench: Bench::with(settings), busy: 0, lost: false, pauses: Vec::new(), sent: Vec::new() }
    }
}

impl Transport for Line {
    fn exchange(&mut self, request: &[u8], response: &mut Vec<u8>) -> Result<(), TransportError> {
        self.sent.push(request[1]);
        if self.busy > 0 {
            self.busy -= 1;
            let busy = ErrorResponse::new(ErrorCode::Busy, 0);
            response.resize(24, 0);
            busy.emit(Head::v1_0(GPU), response).unwrap();
            return Ok(());
        }
        self.bench.effects = self.bench.dsm.handle(SESSION, request, response);
        match self.lost {
            true => Err(TransportError::TimedOut),
            false => Ok(()),
        }
    }

    fn pause(&mut self, pause: Duration) {
        self.pauses.push(pause);
    }
}

fn tsm(settings: Settings) -> Requester<Line> {
    Requester::new(Line::new(settings), GPU)
}

fn fail(tsm: &mut Requester<Line>) {
    tsm.transport().bench.dsm.event(Event::Function(GPU, FunctionEvent::BarWritten));
}

#[test]
fn an_error_that_nobody_told_is_found_by_a_poll_and_wipes_the_nonce() {
    let mut tsm = tsm(Settings::default());
    assert_eq!(tsm.poll(), Ok(Seen { before: None, now: State::ConfigUnlocked }));
    tsm.lock(lock_request()).unwrap();
    let same = tsm.poll().unwrap();
    assert!(!same.is_lost() && same.before == Some(State::ConfigLocked));
    fail(&mut tsm);
    assert_eq!(tsm.confirmed(), Some(State::ConfigLocked), "nobody tells");
    let seen = tsm.poll().unwrap();
    assert_eq!(seen, Seen { before: Some(State::ConfigLocked), now: State::Error });
    assert!(seen.is_lost() && !tsm.has_nonce());
    assert!(!tsm.poll().unwrap().is_lost(), "it is told once");
    tsm.stop().unwrap();
    tsm.lock(lock_request()).unwrap();
    tsm.start().unwrap();
    assert_eq!(tsm.confirmed(), Some(State::Run));
    tsm.transport().bench.dsm.reset();
    assert!(tsm.poll().unwrap().is_lost(), "a reset is a loss too");
    assert_eq!(tsm.confirmed(), Some(State::ConfigUnlocked));
}

#[test]
fn what_is_confirmed_follows_answers_and_is_nothing_where_none_came() {
    let mut tsm = tsm(Settings::default());
    tsm.lock(lock_request()).unwrap();
    assert!(tsm.lock(lock_request()).is_err());
    assert_eq!(tsm.confirmed(), Some(State::ConfigLocked), "a refusal changes nothing");
    tsm.stop().unwrap();
    assert_eq!(tsm.confirmed(), Some(State::ConfigUnlocked));
    tsm.transport().lost = true;
    assert_eq!(tsm.lock(lock_request()), Err(TransportError::TimedOut.into()));
    assert_eq!(tsm.confirmed(), None, "it may be locked by now");
    tsm.transport().lost = false;
    assert_eq!(tsm.poll(), Ok(Seen { before: None, now: State::ConfigLocked }));
}

#[test]
fn a_busy_peer_is_asked_again_after_the_pauses_of_the_back_off() {
    let millis = Duration::from_millis;
    let backoff = Backoff { attempts: 5, first: millis(1), longest: millis(3) };
    let mut tsm = tsm(Settings::default()).backoff(backoff);
    tsm.transport().busy = 4;
    tsm.lock(lock_request()).unwrap();
    assert_eq!(tsm.transport().pauses, [millis(1), millis(2), millis(3), millis(3)]);
    assert_eq!(tsm.transport().sent, [0x83; 5]);
    tsm.transport().pauses.clear();
    tsm.transport().busy = 5;
    assert_eq!(tsm.start(), Err(RequestError::Busy { request: RequestCode::Start, attempts: 5 }));
    assert_eq!(tsm.transport().pauses.len(), 4, "no pause before giving up");
    assert_eq!(tsm.start(), Ok(()), "the nonce was kept");
}

#[test]
fn flags_are_chosen_from_what_the_peer_supports() {
    let lock_flags = LockFlags::NO_FW_UPDATE | LockFlags::BIND_P2P;
    let mut tsm = tsm(Settings { lock_flags, ..Settings::default() });
    let (fw, msix) = (LockFlags::NO_FW_UPDATE, LockFlags::LOCK_MSIX);
    assert_eq!(tsm.choose_flags(fw, msix), Ok(fw));
    assert_eq!(tsm.choose_flags(LockFlags::empty(), LockFlags::all()), Ok(lock_flags));
    assert_eq!(tsm.choose_flags(msix | fw, fw), Err(RequestError::UnsupportedFlags { flags: msix }));
    assert_eq!(tsm.transport().sent, [0x82], "the capabilities are asked for once");
}

#[test]
fn an_optional_request_that_the_peer_lacks_is_not_even_sent() {
    let mut tsm = tsm(Settings::default());
    tsm.capabilities().unwrap();
    let vendor = VendorData { registry: Registry::PciSig, vendor: &[0x86, 0x80], data: &[] };
    let missing = |request| Err(RequestError::UnsupportedRequest { request });
    assert_eq!(tsm.bind_stream(1), missing(RequestCode::BindP2p));
    assert_eq!(tsm.unbind_stream(1), missing(RequestCode::UnbindP2p));
    assert_eq!(tsm.set_attribute(MmioRange::shared(0, 0, 1)), missing(RequestCode::SetMmioAttribute));
    assert_eq!(
        tsm.vendor_defined(vendor),
        Err(RequestError::UnsupportedRequest { request: RequestCode::Vdm })
    );
    assert_eq!(tsm.transport().sent, [0x82]);
}

#[test]
fn streams_attributes_and_a_vendors_own_go_to_a_dsm_and_back() {
    let mut tsm = tsm(Settings { optional: OptionalRequests::all(), ..Settings::default() });
    let device = tsm.transport().bench.dsm.device_mut();
    device.streams = vec![(9, SESSION)];
    device.report.ranges[2].flags |= RangeFlags::UPDATABLE;
    let flags = tsm.choose_flags(LockFlags::BIND_P2P, LockFlags::empty()).unwrap();
    tsm.lock(LockRequest { flags, reporting_offset: 0x1000, ..lock_request() }).unwrap();
    tsm.start().unwrap();
    tsm.bind_stream(9).unwrap();
    tsm.unbind_stream(9).unwrap();
    tsm.set_attribute(MmioRange::private(2, 0x2001, 1)).unwrap();
    let range = MmioRange::private(2, 0x2000, 1);
    assert_eq!(tsm.transport().bench.effects, [Effect::AttributeChanged { function: GPU, range }]);
    let vendor = VendorData { registry: Registry::PciSig, vendor: &[0x86, 0x80], data: &[1] };
    tsm.transport().bench.dsm.device_mut().vendor = Ok(vec![2, 3]);
    assert_eq!(tsm.vendor_defined(vendor), Ok(vec![2, 3]));
    tsm.transport().bench.dsm.device_mut().vendor = Err((VendorRefusal::Vendor, vec![4]));
    let extended = vec![0, 2, 0x86, 0x80, 4];
    let request = RequestCode::Vdm;
    assert_eq!(tsm.vendor_defined(vendor), Err(RequestError::VendorSpecific { request, extended }));
    let refused = |request| Err(RequestError::Refused { request, code: ErrorCode::InvalidRequest, data: 0 });
    assert_eq!(tsm.bind_stream(1), refused(RequestCode::BindP2p));
    assert_eq!(tsm.confirmed(), Some(State::Run));
}

#[test]
fn an_answer_of_another_vendor_is_refused() {
    let asked = VendorData { registry: Registry::PciSig, vendor: &[0x86, 0x80], data: &[] };
    for other in [
        VendorData { registry: Registry::Cxl, ..asked },
        VendorData { vendor: &[0x86, 0x81], ..asked },
        VendorData { vendor: &[], ..asked },
    ] {
        let response = VdmResponse { vendor_data: other };
        let mut bytes = vec![0; response.size()];
        response.emit(Head::v1_0(GPU), &mut bytes).unwrap();
        let wanted = RequestError::WrongVendor { registry: other.registry, vendor: other.vendor.to_vec() };
        let mut exchange = Exchange::new(Head::v1_0(GPU), VendorDefined(asked));
        assert_eq!(exchange.accept(&bytes), Err(wanted));
    }
}
