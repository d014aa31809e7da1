//! IDE_KM, and the frames of DOE and SPDM, against bytes of independent peers, against wrong lengths, and against
//! themselves.

mod common;

use common::hex;
use common::messages::one_ide_km_of_each;
use proptest::collection::vec;
use proptest::prelude::*;
use tidegate_tdisp::wire::doe::{Discovered, Discovery, Object, ObjectKind};
use tidegate_tdisp::wire::ide_km::{Direction, Key, KeyProg, KeySlot, Message, QueryResp, SubStream};
use tidegate_tdisp::wire::spdm::{
    Code, PCI_FRAME_SIZE, Plain, Protocol, Record, RecordView, VendorDefined, Version, emit_pci, nonce,
};
use tidegate_tdisp::wire::*;

/// The bytes of this name in the vector file.
fn vector(name: &str) -> Vec<u8> {
    let lines = include_str!("vectors/framing_vectors.txt").lines();
    let mut found = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    hex(found.next().unwrap_or_else(|| panic!("no vector {name}")))
}

/// What `emit` writes into a buffer of `size` bytes that are not zero.
fn written(size: usize, emit: impl FnOnce(&mut [u8]) -> Result<usize, WireError>) -> Vec<u8> {
    let mut out = vec![0xEE; size];
    assert_eq!(emit(&mut out), Ok(size));
    out
}

#[test]
fn a_lock_in_a_secured_session_has_the_frames_of_an_independent_peer() {
    let doe = vector("lock_doe");
    let object = Object::parse(&doe).unwrap();
    assert_eq!(object, Object::pci_sig(ObjectKind::SecuredSpdm, &vector("lock_record")));
    assert_eq!(written(doe.len(), |out| object.emit(out)), doe);
    let (record, rest) = Record::split(object.payload).unwrap();
    assert_eq!((record.session, record.ciphertext.len(), rest.len()), (0xFFFF_FFFF, 50, 0));
    assert_eq!(written(72, |out| record.emit(out)), vector("lock_record"));
    assert_eq!(Record::aad(0xFFFF_FFFF, 50), Ok([0xFF, 0xFF, 0xFF, 0xFF, 0x42, 0]));
    let salt = vector("lock_salt").try_into().unwrap();
    assert_eq!(nonce(&salt, 16).to_vec(), vector("lock_nonce"));

    let spdm = vector("lock_spdm");
    let frame = VendorDefined::parse(&spdm).unwrap();
    let (protocol, message) = frame.pci().unwrap();
    assert_eq!((frame.version, frame.code, protocol), (Version::V1_2, Code::Request, Protocol::Tdisp));
    let (head, Request::Lock(lock)) = Request::parse(message).unwrap() else { panic!("a LOCK") };
    assert_eq!(head, Head::v1_0(FunctionId::new(0xBEEF)));
    let flags = LockFlags::NO_FW_UPDATE | LockFlags::CACHE_LINE_128 | LockFlags::LOCK_MSIX;
    assert_eq!(lock, LockRequest { flags, reporting_offset: 0xD000_0000, ..LockRequest::default() });
    assert_eq!(written(spdm.len(), |out| frame.emit(out)), spdm);
    let again = written(spdm.len(), |out| {
        emit_pci(Version::V1_2, Code::Request, protocol, out, |room| lock.emit(head, room))
    });
    assert_eq!(again, spdm);
}

#[test]
fn discovery_reads_as_independent_peers_write_it() {
    let bytes = vector("discovery");
    let object = Object::parse(&bytes).unwrap();
    assert_eq!(object.kind, ObjectKind::Discovery);
    assert_eq!(Discovery::parse(object.payload), Ok(Discovery::default()));
    for (index, next, kind) in
        [(0, 1, ObjectKind::Discovery), (1, 2, ObjectKind::Spdm), (2, 0, ObjectKind::SecuredSpdm)]
    {
        let bytes = vector(&format!("discovered_{index}"));
        let object = Object::parse(&bytes).unwrap();
        let answer = Discovered::parse(object.payload).unwrap();
        assert_eq!(answer, Discovered { vendor: doe::PCI_SIG, kind, next });
        assert_eq!(written(4, |out| answer.emit(out)), object.payload);
        assert_eq!(written(12, |out| object.emit(out)), bytes);
    }
    for len in [0, 3, 5, 8] {
        assert_eq!(
            Discovery::parse(&vec![0; len]),
            Err(WireError::Length { code: 0, expected: 4, got: len })
        );
    }
}

#[test]
fn a_key_is_turned_round_in_each_double_word_and_not_as_a_whole() {
    let (aes, wire) = (vector("key_aes"), vector("key_wire"));
    let whole = |part: &[u8]| -> [u8; 32] {
        let (start, end) = part.split_at(8);
        [start, &[0; 20], end].concat().try_into().unwrap()
    };
    let key = Key::new(whole(&aes));
    let mut out = [0; 32];
    key.to_wire(&mut out);
    assert_eq!(out, whole(&wire));
    assert_eq!(Key::from_wire(&out), key);
    assert_eq!(format!("{key:?}"), "Key(..)");
    let program = KeyProg { stream: 0, slot: KeySlot(0), port: 0, key, iv: 1 };
    assert_eq!(written(47, |out| program.emit(out))[39..], vector("iv_1"));
    assert_eq!(written(47, |out| KeyProg { iv: 1 << 32, ..program.clone() }.emit(out))[39..43], [1, 0, 0, 0]);
}

#[test]
fn key_slots_of_different_sub_streams_differ() {
    // One peer's sample device tells keys apart by the two lowest bits only.
    let mut all = std::collections::HashSet::new();
    for sub in [SubStream::Posted, SubStream::NonPosted, SubStream::Completion] {
        for direction in [Direction::Rx, Direction::Tx] {
            for second in [false, true] {
                let slot = KeySlot::new(sub, direction, second);
                assert_eq!(
                    (slot.sub_stream(), slot.direction(), slot.second_set()),
                    (sub, direction, second)
                );
                assert!(all.insert(slot.0) && slot.0 & 0x0C == 0);
            }
        }
    }
    assert_eq!(KeySlot::new(SubStream::Completion, Direction::Tx, true), KeySlot(0x23));
}

#[test]
fn every_ide_km_message_writes_what_it_reads_and_no_other_length_is_taken() {
    for (id, message) in one_ide_km_of_each().into_iter().enumerate() {
        let bytes = written(message.size(), |out| message.emit(out));
        assert_eq!(usize::from(bytes[0]), id);
        assert_eq!(Message::parse(&bytes), Ok(message.clone()));
        for len in (0..bytes.len()).chain([bytes.len() + 1, bytes.len() + 3]) {
            let mut wrong = bytes.clone();
            wrong.resize(len, 0);
            match Message::parse(&wrong) {
                Err(WireError::Short { need: 1, got: 0 }) => assert_eq!(len, 0),
                Err(WireError::Length { got, .. }) => assert_eq!(got, len),
                // One register less is a QUERY_RESP as well.
                Ok(Message::QueryResp(_)) => assert!(id == 1 && len >= 7 && (len - 7) % 4 == 0),
                other => panic!("id {id} with {len} bytes: {other:?}"),
            }
        }
        assert_eq!(
            message.emit(&mut [0; 2]).map(|_| ()),
            Err(WireError::Room { need: message.size(), have: 2 })
        );
    }
    assert_eq!(Message::parse(&[7; 7]), Err(WireError::UnknownCode { code: 7 }));
    let odd = QueryResp { registers: &[1, 2, 3], ..QueryResp::default() };
    assert!(matches!(odd.emit(&mut [0; 64]), Err(WireError::Length { code: 1, expected: 7, got: 10 })));
}

#[test]
fn reserved_bytes_of_ide_km_are_ignored_when_read_and_zero_when_written() {
    let reserved: [&[usize]; 7] = [&[1], &[1], &[1, 2, 4], &[1, 2], &[1, 2, 4], &[1, 2, 4], &[1, 2, 4]];
    for (message, reserved) in one_ide_km_of_each().iter().zip(reserved) {
        let bytes = written(message.size(), |out| message.emit(out));
        let mut dirty = bytes.clone();
        for &at in reserved {
            assert_eq!(dirty[at], 0);
            dirty[at] = 0xFF;
        }
        assert_eq!(Message::parse(&dirty).as_ref(), Ok(message));
    }
}

#[test]
fn an_objects_length_counts_double_words_with_the_header_and_zero_says_the_most() {
    let header = |length: u32| -> [u8; 8] {
        let [a, b, c, d] = length.to_le_bytes();
        [1, 0, 1, 0, a, b, c, d]
    };
    assert_eq!(doe::object_size(&header(2)), 8);
    // Bits 31:18 are reserved.
    assert_eq!(doe::object_size(&header(0xFFFC_0003)), 12);
    assert_eq!(doe::object_size(&header(0)), 1 << 20);
    let payload = vec![5; (1 << 20) - 8];
    let most = Object::pci_sig(ObjectKind::Spdm, &payload);
    let bytes = written(1 << 20, |out| most.emit(out));
    assert_eq!(bytes[4..8], [0; 4]);
    assert_eq!(Object::parse(&bytes), Ok(most));
    let more = vec![5; (1 << 20) - 7];
    let mut room = vec![0; 1 << 21];
    let too_long = WireError::TooLong { len: (1 << 20) + 4, max: 1 << 20 };
    assert_eq!(Object::pci_sig(ObjectKind::Spdm, &more).emit(&mut room), Err(too_long));
    for length in [0, 1, 3, 0x3_FFFF] {
        let lie = Object::parse(&header(length)).unwrap_err();
        assert!(matches!(lie, WireError::Claim { field: "DOE length", got: 8, .. }), "{lie}");
    }
}

#[test]
fn length_fields_that_lie_are_refused() {
    let lock = vector("lock_spdm");
    for len in 0..lock.len() {
        assert!(VendorDefined::split(&lock[..len]).is_err(), "{len}");
    }
    let mut long = lock.clone();
    long.push(0);
    assert_eq!(VendorDefined::split(&long).unwrap().1, [0]);
    let more = WireError::Claim { field: "SPDM payload length", claimed: 37, got: 38 };
    assert_eq!(VendorDefined::parse(&long), Err(more));
    let mut vendor = lock.clone();
    vendor[6] = 255;
    assert!(matches!(VendorDefined::parse(&vendor), Err(WireError::Claim { claimed: 255, got: 41, .. })));
    let mut other = lock.clone();
    other[1] = 0xFF;
    assert_eq!(VendorDefined::parse(&other), Err(WireError::UnknownCode { code: 0xFF }));
    let mut cxl = lock;
    (cxl[7], cxl[8]) = (0x98, 0x1E);
    assert_eq!(
        VendorDefined::parse(&cxl).unwrap().pci(),
        Err(WireError::NotPciSig { standard: 3, vendor_len: 2 })
    );
    let empty = VendorDefined::pci_sig(Version::V1_2, Code::Response, &[]);
    assert_eq!(empty.pci(), Err(WireError::Short { need: 1, got: 0 }));

    let record = vector("lock_record");
    for len in 0..record.len() {
        assert!(RecordView::split(&record[..len]).is_err(), "{len}");
    }
    let mut no_tag = record;
    no_tag[4] = 15;
    let lie = WireError::Claim { field: "record tag", claimed: 16, got: 15 };
    assert_eq!(RecordView::split(&no_tag).map(|_| ()), Err(lie));
    assert!(matches!(Record::aad(0, 0xFFF0), Err(WireError::TooLong { len: 0xFFF0, max: 0xFFEF })));
    // Random padding behind the message is forbidden.
    assert_eq!(Plain::parse(&[1, 0, 9]), Ok(Plain { message: &[9] }));
    assert!(matches!(Plain::parse(&[1, 0, 9, 9]), Err(WireError::Claim { claimed: 1, got: 2, .. })));
}

#[test]
fn a_frame_has_room_for_what_it_frames_or_is_not_written() {
    let head = Head::v1_0(FunctionId::new(1));
    let emit = |out: &mut [u8]| {
        emit_pci(Version::V1_2, Code::Request, Protocol::Tdisp, out, |room| GetState.emit(head, room))
    };
    for len in 0..PCI_FRAME_SIZE + HEADER_SIZE {
        assert!(matches!(emit(&mut vec![0; len]), Err(WireError::Room { .. })), "{len}");
    }
    assert_eq!(emit(&mut [0; 100]), Ok(PCI_FRAME_SIZE + HEADER_SIZE));
    let too_long = emit_pci(Version::V1_2, Code::Request, Protocol::Tdisp, &mut [0; 100], |_| Ok(0xFFFF));
    assert_eq!(too_long, Err(WireError::TooLong { len: 0xFFFF, max: 0xFFFE }));
}

proptest! {
    #[test]
    fn any_frame_round_trips(
        version: u8,
        response: bool,
        standard: u16,
        session: u32,
        vendor in vec(any::<u8>(), 0..256),
        payload in vec(any::<u8>(), 0..300),
        tag: [u8; 16],
        (doe_vendor, kind) in any::<(u16, u8)>(),
    ) {
        let code = if response { Code::Response } else { Code::Request };
        let frame = VendorDefined { version: Version(version), code, standard, vendor: &vendor, payload: &payload };
        let bytes = written(frame.size(), |out| frame.emit(out));
        prop_assert_eq!(VendorDefined::parse(&bytes), Ok(frame));
        let record = Record { session, ciphertext: &payload, tag: &tag };
        let bytes = written(record.size(), |out| record.emit(out));
        prop_assert_eq!(Record::split(&bytes), Ok((record, &[][..])));
        let plain = Plain { message: &payload };
        let bytes = written(plain.size(), |out| plain.emit(out));
        prop_assert_eq!(Plain::parse(&bytes), Ok(plain));
        let object = Object { vendor: doe_vendor, kind: kind.into(), payload: &payload };
        let bytes = written(object.size(), |out| object.emit(out));
        let read = Object::parse(&bytes).unwrap();
        prop_assert_eq!((read.vendor, read.kind), (object.vendor, object.kind));
        let (carried, padding) = read.payload.split_at(payload.len());
        prop_assert_eq!(carried, &payload[..]);
        prop_assert!(padding.len() < 4 && padding.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn any_bytes_are_parsed_or_refused_without_a_panic(mut bytes in vec(any::<u8>(), 0..100), id in 0..7_u8) {
        if let Some(first) = bytes.first_mut() {
            *first = id;
        }
        if let Ok(message) = Message::parse(&bytes) {
            let out = written(bytes.len(), |out| message.emit(out));
            prop_assert_eq!(Message::parse(&out), Ok(message));
        }
        let _ = (VendorDefined::split(&bytes), Record::split(&bytes), Object::parse(&bytes), Plain::parse(&bytes));
        if let [_, code, ..] = &mut bytes[..] {
            *code = 0x7E | (id << 7);
        }
        if let Ok((frame, rest)) = VendorDefined::split(&bytes) {
            let len = bytes.len() - rest.len();
            let again = written(len, |out| frame.emit(out));
            prop_assert_eq!(VendorDefined::parse(&again), Ok(frame));
            let _ = frame.pci();
        }
    }
}
