//! Every byte of a message survives the way to JSON and back.

use super::frame::{self, Framing};
use super::hex::{self, Hex};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn bytes(text: &str) -> Vec<u8> {
    hex::parse(text).unwrap().0
}

/// Decodes, encodes, compares; gives the document.
fn round(bytes: &[u8], framing: Framing) -> Value {
    let document = frame::decode(bytes, framing).unwrap_or_else(|why| panic!("{why:?}: {bytes:02x?}"));
    let text = document.to_string();
    let again = frame::encode(&serde_json::from_str(&text).unwrap());
    assert_eq!(again.map(Hex), Ok(Hex(bytes.to_vec())), "{text}");
    document
}

/// The recorded messages of independent peers, with the protocol id in front.
fn vectors() -> Vec<Vec<u8>> {
    let lines = include_str!("../../../tdisp/tests/vectors/tdisp_vectors.txt").lines();
    let messages = lines.filter_map(|line| line.strip_prefix("REQ ").or(line.strip_prefix("RSP ")));
    messages.map(|text| bytes(&format!("01{}", text.split(' ').next().unwrap()))).collect()
}

fn framing_vector(name: &str) -> Vec<u8> {
    let lines = include_str!("../../../tdisp/tests/vectors/framing_vectors.txt").lines();
    bytes(lines.filter_map(|line| line.strip_prefix(name)).find(|rest| rest.starts_with(' ')).unwrap())
}

/// Messages that the vectors do not have: the optional ones, IDE_KM, unknown types.
const MORE: [&str; 26] = [
    "01 1088 0000 00010000 0000000000000000 07",
    "01 1089 0000 00010000 0000000000000000 07",
    "01 108a 0000 00010000 0000000000000000 0100000000000000 02000000 0400 0500",
    "01 108b 0000 00010000 0000000000000000 01 02 981e aabbcc",
    "01 108b 0000 00010000 0000000000000000 07 00",
    "01 1008 0000 00010000 0000000000000000",
    "01 1009 0000 00010000 0000000000000000",
    "01 100a 0000 00010000 0000000000000000",
    "01 100b 0000 00010000 0000000000000000 00 02 0100",
    "01 107f 0000 00010000 0000000000000000 ff000000 05000000 00 02 8680 01",
    "01 107f 0000 00010000 0000000000000000 cdab0000 00000000 11",
    "01 1005 0000 00010000 0000000000000000 09",
    "01 1001 0000 00010000 0000000000000000 03 10 11 a0",
    "01 109c 0000 00010000 0000000000000000 1234",
    "01 108c 0000 00010000 0000000000000000 07000000",
    "01 1040 0000 00010000 0000000000000000",
    "00 00 00 03",
    "00 01 00 01 02 03 04 05 78563412 00000080",
    "00 02 00 00 09 00 23 06 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 0000000001000000",
    "00 03 00 00 09 02 12 06",
    "00 04 00 00 09 00 00 06",
    "00 05 00 00 09 00 01 06",
    "00 06 00 00 09 00 f7 06",
    "00 77 0102",
    "02 0102",
    "00 ff",
];

#[test]
fn every_vector_survives_the_way_through_json() {
    assert!(vectors().len() >= 58);
    let mut types = BTreeSet::new();
    for message in vectors().into_iter().chain(MORE.iter().map(|text| bytes(text))) {
        let document = round(&message, Framing::Protocol);
        types.extend(document["message"]["type"].as_str().map(str::to_owned));
        assert_eq!(document["message"].get("reserved"), None, "{document:#}");
    }
    // All of TDISP 1.0 and of IDE_KM, and four that have no name.
    assert!(types.len() >= 23 + 7 + 4, "{types:?}");
}

#[test]
fn a_lock_reads_as_the_specification_speaks_of_it() {
    let lock = &vectors()[6];
    let document = round(lock, Framing::Protocol);
    let wanted = json!({
        "protocol": "TDISP",
        "message": {
            "type": "LOCK_INTERFACE_REQUEST",
            "version": "1.0",
            "function_id": "0x00000100",
            "flags": ["NO_FW_UPDATE", "LOCK_MSIX"],
            "stream_id": 3,
            "mmio_reporting_offset": "0xd0000000",
            "bind_p2p_address_mask": "0x0",
        },
    });
    assert_eq!(document, wanted);
    let key = round(&bytes(MORE[18]), Framing::Protocol);
    assert_eq!(
        key["message"]["key_slot"],
        json!({ "sub_stream": "COMPLETION", "direction": "TX", "key_set": 1 })
    );
    assert_eq!(key["message"]["key"].as_str().unwrap()[..8], *"03020100");
    assert_eq!(key["message"]["iv"], "0x1");
}

#[test]
fn reserved_and_unknown_bits_of_every_byte_survive() {
    // Each bit of each message, set or cleared: what still is a message comes back as it was.
    let mut refused = 0_u32;
    for message in vectors().into_iter().chain(MORE.iter().map(|text| bytes(text))) {
        for at in 0..message.len() * 8 {
            let mut other = message.clone();
            other[at / 8] ^= 1 << (at % 8);
            match frame::decode(&other, Framing::Protocol) {
                Ok(_) => drop(round(&other, Framing::Protocol)),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 100, "lengths that lie are refused");
    let mut lock = vectors()[6].clone();
    (lock[3], lock[8], lock[20], lock[18]) = (0xAA, 0xFE, 0x55, 0xFF);
    let document = round(&lock, Framing::Protocol);
    assert_eq!(document["message"]["reserved"], json!({ "2": "0xaa", "7": "0xfe", "19": "0x55" }));
    assert_eq!(document["message"]["flags"][2], "0xff00");
}

#[test]
fn frames_survive_with_what_is_inside() {
    let document = round(&framing_vector("lock_doe"), Framing::Doe);
    assert_eq!(document["record"]["session_id"], "0xffffffff");
    let document = round(&framing_vector("lock_spdm"), Framing::Spdm);
    assert_eq!(document["message"]["type"], "LOCK_INTERFACE_REQUEST");
    assert_eq!(document["spdm"]["code"], "VENDOR_DEFINED_REQUEST");
    let document = round(&framing_vector("discovery"), Framing::Doe);
    assert_eq!(document["discovery_request"], json!({ "index": 0, "version": 0 }));
    for index in 0..3 {
        let document = round(&framing_vector(&format!("discovered_{index}")), Framing::Doe);
        assert_eq!(document["discovery_response"]["vendor_id"], 1);
    }
    // SPDM that is not VENDOR_DEFINED, in a session's first object; another vendor's message; another vendor's object.
    round(&bytes("0100 01 00 03000000 10840000"), Framing::Doe);
    assert_eq!(round(&bytes("10840000"), Framing::Spdm)["spdm"]["code"], "0x84");
    round(&bytes("12fe0000 0300 02 981e 0300 010203"), Framing::Spdm);
    round(&bytes("981e 00 00 03000000 01020304"), Framing::Doe);
}

#[test]
fn padding_reserved_bits_and_bits_flipped_in_frames_survive() {
    // In the clear: 12 + 16 bytes and no padding; IDE_KM's QUERY: 15 bytes and one.
    let spdm = "12fe0000 0300 02 0100 0400 00 000003";
    let object = |length: &str, tail: &str| bytes(&format!("0100 01 00 {length} {spdm} {tail}"));
    assert_eq!(round(&object("06000000", "00"), Framing::Doe)["doe"].get("padding"), None);
    assert_eq!(round(&object("06000000", "05"), Framing::Doe)["doe"]["padding"], "05");
    assert_eq!(round(&object("07000000", "0000000000"), Framing::Doe)["doe"]["padding"], "0000000000");
    let dirty = bytes(&format!("0100 01 77 0600fcff {spdm} 00"));
    let reserved = json!({ "3": "0x77", "6": "0xfc", "7": "0xff" });
    assert_eq!(round(&dirty, Framing::Doe)["doe"]["reserved"], reserved);
    for name in ["lock_doe", "discovery", "discovered_1"] {
        let object = framing_vector(name);
        for at in 0..object.len() * 8 {
            let mut other = object.clone();
            other[at / 8] ^= 1 << (at % 8);
            if frame::decode(&other, Framing::Doe).is_ok() {
                round(&other, Framing::Doe);
            }
        }
    }
    let spdm = framing_vector("lock_spdm");
    for at in 0..spdm.len() * 8 {
        let mut other = spdm.clone();
        other[at / 8] ^= 1 << (at % 8);
        if frame::decode(&other, Framing::Spdm).is_ok() {
            round(&other, Framing::Spdm);
        }
    }
}

#[test]
fn a_wrong_length_is_refused_with_the_one_that_it_should_have() {
    for message in vectors() {
        for len in 0..message.len() {
            assert!(frame::decode(&message[..len], Framing::Protocol).is_err(), "{:02x?}", &message[..len]);
        }
    }
    let why =
        frame::decode(&bytes("01 1088 0000 00010000 0000000000000000 0700"), Framing::Protocol).unwrap_err();
    assert!(why.0.contains("18 bytes instead of 17"), "{why:?}");
    let spdm = [framing_vector("lock_spdm"), vec![0]].concat();
    assert!(frame::decode(&spdm, Framing::Spdm).unwrap_err().0.contains("1 bytes follow"));
}

#[test]
fn a_document_that_is_not_one_is_refused_and_the_place_is_named() {
    let good = frame::decode(&vectors()[6], Framing::Protocol).unwrap();
    let with = |field: &str, value: Value| {
        let mut document = good.clone();
        document["message"][field] = value;
        frame::encode(&document).unwrap_err().0
    };
    for (field, value) in [
        ("stream_id", json!(256)),
        ("flags", json!(["NO_SUCH_FLAG"])),
        ("version", json!("16.0")),
        ("function_id", json!("0xfe000100")),
        ("mmio_reporting_offset", json!("0x10000000000000000")),
        ("stray", json!(1)),
        ("reserved", json!({ "1000": "0x1" })),
        ("type", json!("LOCK")),
    ] {
        let why = with(field, value);
        assert!(why.contains(field) || why.contains("payload"), "{field}: {why}");
    }
    let mut missing = good.clone();
    missing["message"].as_object_mut().unwrap().remove("flags");
    assert!(frame::encode(&missing).unwrap_err().0.contains("\"flags\""));
    for document in
        [json!([]), json!({}), json!({ "protocol": "TDISP" }), json!({ "doe": {} }), json!({ "dow": {} })]
    {
        assert!(frame::encode(&document).is_err(), "{document}");
    }
}

#[test]
fn the_largest_messages_and_objects_survive() {
    let portion = bytes("01 1004 0000 00010000 0000000000000000 ffff 0100");
    round(&[portion, vec![0xA5; 0xFFFF]].concat(), Framing::Protocol);
    let vdm = bytes("01 108b 0000 00010000 0000000000000000 01 02 981e");
    round(&[vdm, vec![0x5A; 1 << 17]].concat(), Framing::Protocol);
    // 2^18 double words, whose length is written as zero.
    let object = [bytes("0100 02 00 00000000 01000000 ffff"), vec![0; (1 << 20) - 14]].concat();
    let document = round(&object, Framing::Doe);
    assert_eq!(document["doe"]["padding"].as_str().map(str::len), Some(2 * ((1 << 20) - 14 - 0xFFFF)));
    assert!(frame::decode(&[&object[..], &[0; 4]].concat(), Framing::Doe).is_err());
}

#[test]
fn hex_is_read_with_white_space_anywhere_and_nothing_else() {
    assert_eq!(hex::parse(" 0 1\n\tfF "), Ok(Hex(vec![0x01, 0xFF])));
    assert_eq!(hex::parse(""), Ok(Hex(Vec::new())));
    for wrong in ["0x01", "1", "012", "0g", "\u{e9}0", "01,02", "-1"] {
        assert!(hex::parse(wrong).is_err(), "{wrong}");
    }
}

/// What `decode` takes comes back byte for byte.
fn taken_or_refused(bytes: &[u8], framing: Framing) {
    if frame::decode(bytes, framing).is_ok() {
        round(bytes, framing);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_come_back_as_they_were(bytes in vec(any::<u8>(), 0..120)) {
        for framing in [Framing::Protocol, Framing::Spdm, Framing::Doe] {
            taken_or_refused(&bytes, framing);
        }
    }

    #[test]
    fn any_message_with_any_bits_comes_back_as_it_was(
        which in any::<prop::sample::Index>(),
        noise in vec(any::<u8>(), 120),
        keep: u8,
    ) {
        // Of the right type and length, and noise in as much of it as `keep` says; then with frames around it.
        let all: Vec<_> = vectors().into_iter().chain(MORE.iter().map(|text| bytes(text))).collect();
        let original = which.get(&all);
        let mut message = original.clone();
        for (at, (byte, noise)) in message.iter_mut().zip(&noise).enumerate().skip(3) {
            if noise & 7 < keep & 7 {
                *byte = noise.rotate_left(at as u32);
            }
        }
        taken_or_refused(&message, Framing::Protocol);
        let len = (message.len() as u16).to_le_bytes();
        let spdm = [&[0x12, 0xFE, noise[0], noise[1], 3, 0, 2, 1, 0], &len[..], &message].concat();
        taken_or_refused(&spdm, Framing::Spdm);
        let padded = spdm.len().next_multiple_of(4) + usize::from(noise[2] & 4);
        let mut object = [&[1, 0, 1, noise[3]], &[(padded / 4 + 2) as u8, 0, noise[4] & 0xFC, noise[5]], &spdm[..]].concat();
        object.resize(8 + padded, noise[6]);
        taken_or_refused(&object, Framing::Doe);
    }
}
