//! The wire format against an independent peer's bytes, against every wrong length, and against itself.

mod common;

use common::messages::{VENDOR, is_request, one_of_each, parses, reencode};
use proptest::collection::vec;
use proptest::prelude::*;
use tidegate_tdisp::wire::*;

fn is_vdm(message: &[u8]) -> bool {
    message[1] & 0x7F == 0x0B
}

#[test]
fn every_vector_decodes_and_encodes_to_itself() {
    let exchanges = common::exchanges();
    assert!(exchanges.len() >= 29, "only {} exchanges in the vector file", exchanges.len());
    for e in &exchanges {
        assert_eq!(reencode(&e.request), e.request, "line {}: {}", e.line, e.what);
        assert_eq!(reencode(&e.response), e.response, "line {}: {}", e.line + 1, e.what);
    }
}

#[test]
fn vectors_mean_what_their_comments_say() {
    let all = common::exchanges();
    let lock = all.iter().find(|e| e.what.contains("LOCK_INTERFACE flags=")).unwrap();
    let (head, body) = Request::parse(&lock.request).unwrap();
    assert_eq!(head, Head::v1_0(FunctionId::new(0x100)));
    let flags = LockFlags::NO_FW_UPDATE | LockFlags::LOCK_MSIX;
    let wanted = LockRequest { flags, stream: 3, reporting_offset: 0xD000_0000, p2p_address_mask: 0 };
    assert_eq!(body, Request::Lock(wanted));
    let caps = all.iter().find(|e| e.what.contains("CAPABILITIES")).unwrap();
    let Ok((_, Response::Capabilities(caps))) = Response::parse(&caps.response) else {
        panic!("capabilities")
    };
    assert_eq!((caps.messages, caps.address_width, caps.requests_this), (MessageSet::MANDATORY, 48, 0));
}

#[test]
fn every_truncation_of_every_message_is_an_error_but_for_a_vendors_data() {
    for message in one_of_each() {
        assert_eq!(parses(&message), Ok(()));
        for len in 0..message.len() {
            let cut = &message[..len];
            let got = if is_request(&message) {
                Request::parse(cut).map(|_| ())
            } else {
                Response::parse(cut).map(|_| ())
            };
            match got {
                // A VDM says where the vendor id ends, not where the vendor's data do.
                Err(WireError::Claim { got, claimed, .. }) => {
                    assert!(is_vdm(&message) && len >= HEADER_SIZE && claimed > got);
                }
                Ok(()) => assert!(is_vdm(&message) && len >= HEADER_SIZE + 2 + VENDOR.vendor.len()),
                Err(WireError::Short { need: HEADER_SIZE, got }) => assert!(len < HEADER_SIZE && got == len),
                Err(WireError::Length { code, got, expected }) => {
                    assert!(len >= HEADER_SIZE && code == message[1] && got == len && expected > len);
                }
                other => panic!("{:#x} cut to {len}: {other:?}", message[1]),
            }
        }
    }
}

#[test]
fn every_extension_of_every_message_is_an_error_but_for_a_vendors_data() {
    for message in one_of_each().into_iter().filter(|message| !is_vdm(message)) {
        for more in [1, 2, 3, 4, 15, 16, 1000] {
            let mut long = message.clone();
            long.resize(message.len() + more, 0);
            let expected = message.len();
            let wanted = WireError::Length { code: message[1], expected, got: long.len() };
            assert_eq!(parses(&long), Err(wanted));
        }
    }
}

#[test]
fn an_unknown_type_is_named_and_not_guessed() {
    // 0x8C and 0x0C have a name where the feature for PCIe 7.0 is on.
    let last = if cfg!(feature = "set-config") { 0x0C } else { 0x0B };
    let known_requests = 0x81..=0x80 | last;
    let known_responses = (1..=last).chain([0x7F]).collect::<Vec<_>>();
    for code in 0..=u8::MAX {
        let mut message = vec![0; 16];
        (message[0], message[1]) = (0x10, code);
        let unknown = Err(WireError::UnknownCode { code });
        if !known_requests.contains(&code) {
            assert_eq!(Request::parse(&message).map(|_| ()), unknown);
        }
        if !known_responses.contains(&code) {
            assert_eq!(Response::parse(&message).map(|_| ()), unknown);
        }
    }
}

#[test]
fn a_view_of_another_type_is_refused() {
    let messages = one_of_each();
    let stop = messages.iter().find(|m| m[1] == 0x87).unwrap();
    assert_eq!(GetState::parse(stop), Err(WireError::Type { expected: 0x85, got: 0x87 }));
    assert!(matches!(LockRequestView::new(stop), Err(WireError::Type { expected: 0x83, got: 0x87 })));
}

#[test]
fn reserved_fields_are_ignored_when_read_and_zero_when_written() {
    // Offsets of reserved bytes of the fixed layouts, by type.
    let reserved: &[(u8, &[usize])] = &[(0x83, &[19]), (0x02, &[38, 39, 40])];
    for message in one_of_each() {
        let mut dirty = message.clone();
        for at in [2, 3, 8, 9, 10, 11, 12, 13, 14, 15] {
            dirty[at] = 0xFF;
        }
        dirty[7] |= 0xFE;
        for at in reserved.iter().filter(|(code, _)| *code == message[1]).flat_map(|(_, at)| at.iter()) {
            dirty[*at] = 0xFF;
        }
        assert_ne!(dirty, message);
        assert_eq!(reencode(&dirty), message, "type {:#x}", message[1]);
    }
}

#[test]
fn unknown_bits_of_a_mask_and_unknown_codes_are_kept() {
    let head = Head::v1_0(FunctionId::new(1));
    let lock = LockRequest { flags: LockFlags::from_bits_retain(0xFFE1), ..LockRequest::default() };
    let mut out = [0; 64];
    let len = lock.emit(head, &mut out).unwrap();
    assert_eq!(LockRequest::parse(&out[..len]), Ok(lock));
    let error = ErrorResponse { code: ErrorCode::Unknown(0xABCD_EF01), data: 77, extended: &[1, 2, 3] };
    let len = error.emit(head, &mut out).unwrap();
    assert_eq!(ErrorResponse::parse(&out[..len]), Ok(error));
    let state = StateResponse { state: TdiState::Unknown(9) };
    let len = state.emit(head, &mut out).unwrap();
    assert_eq!(StateResponse::parse(&out[..len]), Ok(state));
}

#[test]
fn optional_messages_have_the_layout_of_the_specification_and_not_of_peers_that_differ() {
    let head = "10880000000100000000000000000000";
    let with = |code: &str, payload: &str| common::hex(&format!("10{code}{}{payload}", &head[4..]));
    // Some hardware projects give the stream id two or four bytes.
    let bind = with("88", "07");
    assert_eq!(BindP2pRequest::parse(&bind), Ok(BindP2pRequest { stream: 7 }));
    for wide in ["0700", "07000000"] {
        assert!(matches!(
            BindP2pRequest::parse(&with("88", wide)),
            Err(WireError::Length { expected: 17, .. })
        ));
    }
    assert_eq!(UnbindP2pRequest::parse(&with("89", "09")), Ok(UnbindP2pRequest { stream: 9 }));
    let set = with("8a", "0100000000000000" /* page */).into_iter();
    let set: Vec<_> = set.chain(common::hex("02000000" /* pages */)).chain(common::hex("04000500")).collect();
    let parsed = SetMmioAttribute::parse(&set).unwrap();
    assert_eq!(parsed.range, MmioRange::shared(5, 1, 2));
    assert!(parsed.shared());
    // One peer's dispatcher answers a VDM_REQUEST as an unknown request.
    let vdm = with("8b", "0102981eaabb");
    let vendor_data = VendorData { registry: Registry::Cxl, vendor: &[0x98, 0x1E], data: &[0xAA, 0xBB] };
    assert_eq!(Request::parse(&vdm).unwrap().1, Request::Vdm(VdmRequest { vendor_data }));
    // A vendor id that is longer than the message.
    let lie = WireError::Claim { field: "VENDOR_ID_LEN", claimed: 255, got: 4 };
    assert_eq!(VdmRequest::parse(&with("8b", "01ff981eaabb")), Err(lie));
}

#[test]
fn an_errors_vendor_data_are_read_where_they_are_and_never_a_reason_to_refuse_the_error() {
    let messages = one_of_each();
    let last = messages.last().unwrap();
    assert_eq!(ErrorResponse::parse(last).unwrap().vendor_data(), Some(VENDOR));
    let strange = ErrorResponse { code: ErrorCode::VendorSpecific, data: 2, extended: &[0, 200] };
    assert_eq!(strange.vendor_data(), None);
    let mut out = vec![0; strange.size()];
    strange.emit(Head::v1_0(FunctionId::new(1)), &mut out).unwrap();
    assert_eq!(ErrorResponse::parse(&out), Ok(strange));
    assert_eq!(ErrorResponse::new(ErrorCode::Busy, 0).vendor_data(), None);
}

#[test]
fn a_flag_that_is_not_supported_is_named_and_reserved_ones_mean_nothing() {
    let flags = LockFlags::from_bits_retain(0xFF05);
    let lock = LockRequest { flags, stream: 1, ..LockRequest::default() };
    let meant = LockFlags::NO_FW_UPDATE | LockFlags::LOCK_MSIX;
    assert_eq!(lock.honoured(LockFlags::all()), Ok(LockRequest { flags: meant, ..lock }));
    assert_eq!(lock.honoured(LockFlags::NO_FW_UPDATE), Err(LockFlags::LOCK_MSIX));
}

#[test]
fn length_fields_that_lie_are_refused() {
    let head = Head::v1_0(FunctionId::new(1));
    let mut out = [0; 64];
    let len = VersionResponse { entries: &[0x10] }.emit(head, &mut out).unwrap();
    out[16] = 0;
    assert_eq!(VersionResponse::parse(&out[..len]), Err(WireError::NoVersions));
    out[16] = 255;
    let lie = WireError::Length { code: 1, expected: 272, got: 18 };
    assert_eq!(VersionResponse::parse(&out[..len]), Err(lie));
    let len = ReportResponse { portion: &[0; 8], remainder: 0 }.emit(head, &mut out).unwrap();
    out[17] = 0xFF;
    let lie = WireError::Length { code: 4, expected: 20 + 0xFF08, got: 28 };
    assert_eq!(ReportResponse::parse(&out[..len]), Err(lie));
    let error = ErrorResponse { code: ErrorCode::VendorSpecific, data: 2, extended: &[0, 0] };
    let len = error.emit(head, &mut out).unwrap();
    out[20..24].fill(0xFF);
    assert!(matches!(ErrorResponse::parse(&out[..len]), Err(WireError::Length { code: 0x7F, .. })));
}

#[test]
fn what_cannot_be_parsed_cannot_be_written() {
    let head = Head::v1_0(FunctionId::new(1));
    let mut out = vec![0; 70_000];
    let long = vec![0; 0x1_0000];
    let report = ReportResponse { portion: &long, remainder: 0 };
    assert_eq!(report.emit(head, &mut out), Err(WireError::TooLong { len: 0x1_0000, max: 0xFFFF }));
    let versions = VersionResponse { entries: &long[..256] };
    assert_eq!(versions.emit(head, &mut out), Err(WireError::TooLong { len: 256, max: 255 }));
    assert_eq!(VersionResponse { entries: &[] }.emit(head, &mut out), Err(WireError::NoVersions));
    let error = ErrorResponse { code: ErrorCode::Busy, data: 1, extended: &[0] };
    assert_eq!(error.emit(head, &mut out), Err(WireError::TooLong { len: 1, max: 0 }));
    let error = ErrorResponse { code: ErrorCode::VendorSpecific, data: 4, extended: &[0] };
    assert!(matches!(error.emit(head, &mut out), Err(WireError::Length { .. })));
    assert_eq!(GetState.emit(head, &mut out[..15]), Err(WireError::Room { need: 16, have: 15 }));
}

fn heads() -> impl Strategy<Value = Head> {
    (any::<u8>(), any::<u32>()).prop_map(|(version, bits)| Head {
        version: Version(version),
        interface: FunctionId::from_bits(bits).into(),
    })
}

proptest! {
    #[test]
    fn any_lock_request_round_trips(
        head in heads(),
        flags: u16,
        stream: u8,
        reporting_offset: i64,
        p2p_address_mask: u64,
    ) {
        let flags = LockFlags::from_bits_retain(flags);
        let lock = Request::Lock(LockRequest { flags, stream, reporting_offset, p2p_address_mask });
        let mut out = [0; 36];
        prop_assert_eq!(lock.emit(head, &mut out), Ok(36));
        prop_assert_eq!(Request::parse(&out), Ok((head, lock)));
    }

    #[test]
    fn any_other_request_round_trips(head in heads(), nonce: [u8; 32], word: u32, a: u16, b: u16, range: [u8; 16], data in vec(any::<u8>(), 0..300), which in 0..10) {
        let request = match which {
            0 => Request::GetVersion(GetVersion),
            1 => Request::GetCapabilities(GetCapabilities { tsm_caps: word }),
            2 => Request::GetReport(GetReport { offset: a, length: b }),
            3 => Request::GetState(GetState),
            4 => Request::Start(StartRequest { nonce: NonceRef::new(&nonce) }),
            5 => Request::BindP2p(BindP2pRequest { stream: range[0] }),
            6 => Request::UnbindP2p(UnbindP2pRequest { stream: range[0] }),
            7 => Request::SetMmioAttribute(SetMmioAttribute { range: MmioRange::from_bytes(&range) }),
            8 => {
                let (vendor, data) = data.split_at(data.len().min(range[0].into()));
                let registry = range[1].into();
                Request::Vdm(VdmRequest { vendor_data: VendorData { registry, vendor, data } })
            }
            _ => Request::Stop(StopRequest),
        };
        let mut out = vec![0; request.size()];
        prop_assert_eq!(request.emit(head, &mut out), Ok(out.len()));
        prop_assert_eq!(Request::parse(&out), Ok((head, request)));
    }

    #[test]
    fn any_response_round_trips(
        head in heads(),
        bytes in vec(any::<u8>(), 1..200),
        nonce: [u8; 32],
        (word, code, half, mask) in any::<(u32, u32, u16, u128)>(),
        [x, y, z] in any::<[u8; 3]>(),
        which in 0..13,
    ) {
        let known = ErrorCode::NAMED[code as usize % ErrorCode::NAMED.len()];
        let vendor = ErrorCode::VendorSpecific;
        let response = match which {
            0 => Response::Version(VersionResponse { entries: &bytes }),
            1 => Response::Capabilities(Capabilities {
                dsm_caps: word,
                messages: MessageSet(mask),
                lock_flags: LockFlags::from_bits_retain(half),
                address_width: x,
                requests_this: y,
                requests_all: z,
            }),
            2 => Response::Lock(LockResponse { nonce: NonceRef::new(&nonce) }),
            3 => Response::Report(ReportResponse { portion: &bytes, remainder: half }),
            4 => Response::State(StateResponse { state: x.into() }),
            5 => Response::Start(StartResponse),
            6 => Response::Stop(StopResponse),
            7 => Response::Error(ErrorResponse { code: vendor, data: bytes.len() as u32, extended: &bytes }),
            8 => Response::BindP2p(BindP2pResponse),
            9 => Response::UnbindP2p(UnbindP2pResponse),
            10 => Response::SetMmioAttribute(SetMmioAttributeResponse),
            11 => {
                let vendor_data = VendorData { registry: x.into(), vendor: &bytes[..1], data: &bytes[1..] };
                Response::Vdm(VdmResponse { vendor_data })
            }
            _ if known == vendor => Response::Error(ErrorResponse::new(vendor, 0)),
            _ => Response::Error(ErrorResponse::new(known, word)),
        };
        let mut out = vec![0; response.size()];
        prop_assert_eq!(response.emit(head, &mut out), Ok(out.len()));
        prop_assert_eq!(Response::parse(&out), Ok((head, response)));
    }

    #[test]
    fn any_bytes_are_parsed_or_refused_without_a_panic(mut bytes in vec(any::<u8>(), 0..100), code: u8) {
        let _ = (Request::parse(&bytes), Response::parse(&bytes));
        if let Some(at) = bytes.get_mut(1) {
            *at = code & 0x8F;
        }
        if let Ok((head, request)) = Request::parse(&bytes) {
            let mut out = vec![0; bytes.len()];
            prop_assert_eq!(request.emit(head, &mut out), Ok(bytes.len()));
            prop_assert_eq!(Request::parse(&out), Ok((head, request)));
        }
        if let Ok((head, response)) = Response::parse(&bytes) {
            let mut out = vec![0; bytes.len()];
            prop_assert_eq!(response.emit(head, &mut out), Ok(bytes.len()));
            prop_assert_eq!(Response::parse(&out), Ok((head, response)));
        }
    }
}

#[test]
fn the_peers_report_is_parsed_and_written_again() {
    use tidegate_tdisp::report::{InterfaceInfo, InterfaceReport, RangeFlags, ReportView};
    let bytes = common::reassembled_report();
    let view = ReportView::new(&bytes).unwrap();
    assert_eq!(view.info(), InterfaceInfo::NO_FW_UPDATE | InterfaceInfo::DMA_WITHOUT_PASID);
    assert_eq!(view.ranges().len(), 4);
    assert_eq!(view.device_info(), b"tdisp_dev_emu\0\0\0");
    let report = InterfaceReport::parse(&bytes, LockFlags::LOCK_MSIX).unwrap();
    let at = |index: usize| {
        let range = report.ranges[index];
        (range.first_page, range.pages, range.flags, range.id)
    };
    assert_eq!(at(0), (0, 1, RangeFlags::NON_TEE, 1));
    assert_eq!(at(1), (0x8000, 4, RangeFlags::UPDATABLE, 2));
    assert_eq!(at(3), (0x20000, 8, RangeFlags::UPDATABLE, 4));
    assert_eq!(report.emit(), Ok(bytes));
}
