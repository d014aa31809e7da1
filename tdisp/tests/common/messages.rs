//! One message of each type, and a way through the codec.
#![allow(dead_code)]

use tidegate_tdisp::wire::ide_km::{
    Direction, KGoStopAck, KSetGo, KSetStop, Key, KeyProg, KeySlot, KpAck, KpStatus, Message, Query,
    QueryResp, SubStream,
};
use tidegate_tdisp::wire::*;

pub(crate) const VENDOR: VendorData<'static> =
    VendorData { registry: Registry::Cxl, vendor: &[0x98, 0x1E], data: &[7, 8, 9] };

/// One TDISP message of each type, requests and responses.
pub(crate) fn one_of_each() -> Vec<Vec<u8>> {
    let head = Head::v1_0(FunctionId::in_segment(3, 0x1234));
    let nonce = Nonce::new([0x5A; 32]);
    let range = MmioRange { first_page: 0xFEDC_BA98_7654, ..MmioRange::shared(2, 0, 0x8001) };
    let requests = [
        Request::GetVersion(GetVersion),
        Request::GetCapabilities(GetCapabilities { tsm_caps: 0 }),
        Request::Lock(LockRequest { flags: LockFlags::LOCK_MSIX, stream: 9, ..LockRequest::default() }),
        Request::GetReport(GetReport { offset: 0, length: 0xFFFF }),
        Request::GetState(GetState),
        Request::Start(StartRequest { nonce: nonce.borrow() }),
        Request::Stop(StopRequest),
        Request::BindP2p(BindP2pRequest { stream: 0xAB }),
        Request::UnbindP2p(UnbindP2pRequest { stream: 0xCD }),
        Request::SetMmioAttribute(SetMmioAttribute { range }),
        Request::Vdm(VdmRequest { vendor_data: VENDOR }),
        #[cfg(feature = "set-config")]
        Request::SetConfig(SetConfig { config: Config::XT_MODE }),
    ];
    let capabilities = Capabilities {
        dsm_caps: 0,
        messages: MessageSet::MANDATORY,
        lock_flags: LockFlags::all(),
        address_width: 52,
        requests_this: 1,
        requests_all: 4,
    };
    let mut extended = [0; 7];
    assert_eq!(VENDOR.emit(&mut extended), Ok(7));
    let vendor = ErrorResponse { code: ErrorCode::VendorSpecific, data: 7, extended: &extended };
    let responses = [
        Response::Version(VersionResponse { entries: &[0x10, 0x11] }),
        Response::Capabilities(capabilities),
        Response::Lock(LockResponse { nonce: nonce.borrow() }),
        Response::Report(ReportResponse { portion: &[1, 2, 3, 4, 5], remainder: 6 }),
        Response::State(StateResponse { state: TdiState::Run }),
        Response::Start(StartResponse),
        Response::Stop(StopResponse),
        Response::BindP2p(BindP2pResponse),
        Response::UnbindP2p(UnbindP2pResponse),
        Response::SetMmioAttribute(SetMmioAttributeResponse),
        Response::Vdm(VdmResponse { vendor_data: VENDOR }),
        #[cfg(feature = "set-config")]
        Response::SetConfig(SetConfigResponse),
        Response::Error(ErrorResponse::new(ErrorCode::Busy, 0)),
        Response::Error(vendor),
    ];
    let mut all = Vec::new();
    for request in &requests {
        let mut out = vec![0xEE; request.size()];
        assert_eq!(request.emit(head, &mut out), Ok(request.size()));
        all.push(out);
    }
    for response in &responses {
        let mut out = vec![0xEE; response.size()];
        assert_eq!(response.emit(head, &mut out), Ok(response.size()));
        all.push(out);
    }
    all
}

pub(crate) fn is_request(message: &[u8]) -> bool {
    message[1] >= 0x80
}

pub(crate) fn parses(message: &[u8]) -> Result<(), WireError> {
    if is_request(message) {
        Request::parse(message).map(|_| ())
    } else {
        Response::parse(message).map(|_| ())
    }
}

/// The meaning of a message, written anew.
pub(crate) fn reencode(message: &[u8]) -> Vec<u8> {
    let mut out = vec![0xEE; message.len()];
    let len = if is_request(message) {
        let (head, body) = Request::parse(message).unwrap();
        body.emit(head, &mut out).unwrap()
    } else {
        let (head, body) = Response::parse(message).unwrap();
        body.emit(head, &mut out).unwrap()
    };
    assert_eq!(len, message.len());
    out
}

/// One IDE_KM message of each type, by the order of the object ids.
pub(crate) fn one_ide_km_of_each() -> Vec<Message<'static>> {
    let slot = KeySlot::new(SubStream::Completion, Direction::Tx, true);
    let mut key = [0; 32];
    key.iter_mut().zip(1..).for_each(|(byte, n)| *byte = n);
    vec![
        Message::Query(Query { port: 3 }),
        Message::QueryResp(QueryResp {
            port: 1,
            devfn: 2,
            bus: 3,
            segment: 4,
            max_port: 5,
            registers: &[1, 0, 0, 0, 2, 0, 0, 0x80],
        }),
        Message::KeyProg(KeyProg { stream: 9, slot, port: 6, key: Key::new(key), iv: 0x0102_0304_0506_0708 }),
        Message::KpAck(KpAck { stream: 9, status: KpStatus::UnsupportedPort, slot, port: 6 }),
        Message::KSetGo(KSetGo { stream: 9, slot, port: 6 }),
        Message::KSetStop(KSetStop { stream: 9, slot, port: 6 }),
        Message::KGoStopAck(KGoStopAck { stream: 9, slot, port: 6 }),
    ]
}
