//! What is around a message: objects of DOE, messages and records of SPDM.

use crate::{Group, Seen, same_but_reserved, with};
use tidegate_tdisp::wire::doe::{Discovered, Discovery, Object};
use tidegate_tdisp::wire::spdm::{Plain, Record, VendorDefined};

fn doe_object(input: &[u8]) -> Seen {
    // The length that there is, where the input is whole double words.
    let dwords = input.len().to_le_bytes();
    let bytes = &match input.len() % 4 {
        0 => with(&with(input, 4, dwords[0] >> 2 | dwords[1] << 6), 5, dwords[1] >> 2),
        _ => input.to_vec(),
    };
    let Ok(object) = Object::parse(bytes) else { return Seen::Refused };
    let mut out = vec![0xEE; bytes.len()];
    assert_eq!(object.emit(&mut out), Ok(bytes.len()));
    assert_eq!(Object::parse(&out), Ok(object));
    same_but_reserved(bytes, &out, &[(3, 0xFF), (6, 0xFC), (7, 0xFF)]);
    Seen::Taken
}

fn doe_discovery_request(input: &[u8]) -> Seen {
    let Ok(question) = Discovery::parse(input) else { return Seen::Refused };
    let mut out = [0xEE; 4];
    assert_eq!(question.emit(&mut out), Ok(4));
    same_but_reserved(input, &out, &[(2, 0xFF), (3, 0xFF)]);
    Seen::Taken
}

fn doe_discovery_response(input: &[u8]) -> Seen {
    let Ok(answer) = Discovered::parse(input) else { return Seen::Refused };
    let mut out = [0xEE; 4];
    assert_eq!(answer.emit(&mut out), Ok(4));
    same_but_reserved(input, &out, &[]);
    Seen::Taken
}

fn spdm_vendor_defined(input: &[u8]) -> Seen {
    // A response or a request.
    let bytes = &with(input, 1, 0x7E | (input.get(1).copied().unwrap_or(0) & 0x80));
    let Ok((frame, rest)) = VendorDefined::split(bytes) else { return Seen::Refused };
    let len = bytes.len() - rest.len();
    let mut out = vec![0xEE; len];
    assert_eq!(frame.emit(&mut out), Ok(len));
    assert_eq!(VendorDefined::parse(&out), Ok(frame));
    same_but_reserved(&bytes[..len], &out, &[(2, 0xFF), (3, 0xFF)]);
    if let Ok((protocol, message)) = frame.pci() {
        assert_eq!([&[protocol.into()], message].concat(), frame.payload);
    }
    Seen::Taken
}

fn spdm_record(input: &[u8]) -> Seen {
    let Ok((record, rest)) = Record::split(input) else { return Seen::Refused };
    let len = input.len() - rest.len();
    let mut out = vec![0xEE; len];
    assert_eq!(record.emit(&mut out), Ok(len));
    same_but_reserved(&input[..len], &out, &[]);
    Seen::Taken
}

fn spdm_plain(input: &[u8]) -> Seen {
    let Ok(plain) = Plain::parse(input) else { return Seen::Refused };
    let mut out = vec![0xEE; input.len()];
    assert_eq!(plain.emit(&mut out), Ok(input.len()));
    same_but_reserved(input, &out, &[]);
    Seen::Taken
}

pub(crate) const TARGETS: Group = &[
    ("doe_object", doe_object),
    ("doe_discovery_request", doe_discovery_request),
    ("doe_discovery_response", doe_discovery_response),
    ("spdm_vendor_defined", spdm_vendor_defined),
    ("spdm_record", spdm_record),
    ("spdm_plain", spdm_plain),
];
