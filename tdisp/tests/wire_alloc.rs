//! Reading and writing messages allocates nothing.

mod common;

use std::hint::black_box;

use common::messages::{is_request, one_ide_km_of_each, one_of_each};
use tidegate_tdisp::report::ReportView;
use tidegate_tdisp::wire::doe::{Object, ObjectKind};
use tidegate_tdisp::wire::ide_km::Message;
use tidegate_tdisp::wire::spdm::{Code, Plain, Protocol, Record, VendorDefined, Version, emit_pci};
use tidegate_tdisp::wire::*;

/// Allocations of `f`; freed by it is what it allocated.
fn allocations(f: impl FnOnce()) -> u64 {
    let info = allocation_counter::measure(f);
    assert_eq!(info.count_current, 0);
    info.count_total
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(black_box(Box::new(1_u64)))), 1);
}

#[test]
fn reading_and_writing_a_message_of_each_type_allocates_nothing() {
    let mut out = [0; 256];
    let messages = one_of_each();
    for message in &messages {
        let none = allocations(|| {
            if is_request(message) {
                let (head, request) = Request::parse(message).unwrap();
                let (code, inner) = (Code::Request, |room: &mut [u8]| request.emit(head, room));
                emit_pci(Version::V1_2, code, Protocol::Tdisp, &mut out, inner).unwrap();
            } else {
                let (head, response) = Response::parse(message).unwrap();
                let (code, inner) = (Code::Response, |room: &mut [u8]| response.emit(head, room));
                emit_pci(Version::V1_2, code, Protocol::Tdisp, &mut out, inner).unwrap();
            }
            black_box(VendorDefined::split(&out).unwrap().0.pci().unwrap());
        });
        assert_eq!(none, 0, "type {:#x}", message[1]);
    }
    for message in one_ide_km_of_each() {
        let none = allocations(|| {
            let len = message.emit(&mut out).unwrap();
            black_box(Message::parse(&out[..len]).unwrap());
        });
        assert_eq!(none, 0, "{message:?}");
    }
}

#[test]
fn frames_and_refusals_allocate_nothing() {
    let (mut sealed, mut out) = ([0; 128], [0; 256]);
    let report = common::reassembled_report();
    let none = allocations(|| {
        let len = Plain { message: &[7; 40] }.emit(&mut sealed).unwrap();
        let record = Record { session: 1, ciphertext: &sealed[..len], tag: &[9; 16] };
        let mut bytes = [0; 128];
        let len = record.emit(&mut bytes).unwrap();
        let len = Object::pci_sig(ObjectKind::SecuredSpdm, &bytes[..len]).emit(&mut out).unwrap();
        let object = Object::parse(&out[..len]).unwrap();
        black_box(Record::split(object.payload).unwrap());
        black_box(ReportView::new(&report).unwrap().ranges().count());
        for len in 0..out.len() {
            let _ = black_box(Request::parse(&out[..len]).is_err());
            let _ = black_box(Object::parse(&out[..len]).is_err());
        }
    });
    assert_eq!(none, 0);
}
