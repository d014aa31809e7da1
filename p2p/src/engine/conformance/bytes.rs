//! Bytes land where they should, and nowhere else; every operation completes once.

use super::On;
use super::rig::{DEPTH, LEN, Rig, pattern};
use crate::backend::Backend;
use std::collections::BTreeSet;
use tidegate_core::{Flow, Op, Status, Submit};

const OLD: u8 = 0xee;

/// In and out of the window, and into host memory; the neighbours stay as they were.
pub fn bytes_land_exactly<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    for (n, len) in rig.lengths().iter().copied().enumerate() {
        let bytes = pattern(n as u32 + 1, len);
        let (to, back) = (rig.at(0x207 + 3 * n as u64), rig.at(0x8101));
        rig.poke(OLD);
        rig.fill_host(0, &[OLD; LEN as usize]);
        S::stock(rig, 0, &bytes);
        let load = S::load(rig, 0, rig.vram(to, len)).cookie(77);
        let completion = rig.run(load);
        assert_eq!((completion.status, completion.cookie, completion.len), (Status::Done, 77, len as u32));
        assert_eq!(rig.peek(to - 7, 7), [OLD; 7]);
        assert!(rig.peek(to, len) == bytes, "{len} bytes into the window");
        assert_eq!(rig.peek(to + len, 9), [OLD; 9]);
        let store = S::store(rig, rig.vram(to, len), 1);
        rig.run_well(store);
        assert!(S::stored(rig, 1, len) == bytes, "{len} bytes out of the window");
        S::stock(rig, 2, &bytes);
        let load = S::load(rig, 2, rig.host(back, len));
        rig.run_well(load);
        assert!(rig.read_host(back, len) == bytes, "{len} bytes into host memory");
        assert_eq!(rig.read_host(back - 3, 3), [OLD; 3]);
        assert_eq!(rig.read_host(back + len, 5), [OLD; 5]);
        let store = S::store(rig, rig.host(back, len), 3);
        rig.run_well(store);
        assert!(S::stored(rig, 3, len) == bytes, "{len} bytes out of host memory");
    }
}

/// As many as fit, each with its own bytes, completing once each; and all over again.
pub fn a_full_queue_completes_each_operation_once<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    let len = rig.len(40);
    let stride = len + rig.at(88);
    for round in 0..rig.rounds.min(3) {
        rig.poke(OLD);
        let mut tickets = BTreeSet::new();
        for n in 0..u64::from(DEPTH) {
            S::stock(rig, n, &pattern(round * 100 + n as u32, len));
        }
        for n in 0..u64::from(DEPTH) {
            let op = S::load(rig, n, rig.vram(n * stride, len)).cookie(n);
            tickets.insert(rig.submit(op).0);
        }
        let one_more = S::load(rig, 0, rig.vram(0x4000, len));
        assert_eq!(rig.channel().pin().unwrap().submit(one_more), Submit::Full);
        let done = rig.complete(DEPTH as usize);
        assert!(done.iter().all(|c| c.status == Status::Done && u64::from(c.len) == len));
        assert_eq!(done.iter().map(|c| c.ticket.0).collect::<BTreeSet<_>>(), tickets);
        let first = *tickets.first().unwrap();
        assert!(done.iter().all(|c| c.ticket.0 - first == c.cookie), "cookies keep to their tickets");
        for n in 0..u64::from(DEPTH) {
            assert!(rig.peek(n * stride, len) == pattern(round * 100 + n as u32, len), "operation {n}");
        }
        assert_eq!(rig.peek(0x4000, 8), [OLD; 8]);
        assert_eq!(rig.channel().counters().spurious, 0);
    }
}

/// Nothing behind a fence starts before all that is in front of it has ended.
pub fn a_fence_holds_what_follows<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    let len = rig.len(500);
    for round in 0..rig.rounds {
        rig.fill_host(0, &[OLD; 0x4000]);
        let bytes = pattern(round + 7, len);
        S::stock(rig, 0, &bytes);
        S::stock(rig, 1, &vec![OLD; len as usize]);
        let hops = [
            S::load(rig, 0, rig.host(0x1000, len)),
            S::store(rig, rig.host(0x1000, len), 1),
            S::load(rig, 1, rig.host(0x2000, len)),
        ];
        let mut order = Vec::new();
        for hop in hops {
            order.push(rig.submit(hop));
            order.push(rig.submit(Op::fence()));
        }
        let done = rig.complete(order.len());
        assert_eq!(done.iter().map(|c| c.ticket).collect::<Vec<_>>(), order);
        assert!(rig.read_host(0x2000, len) == bytes, "round {round}");
    }
}

/// Fences in one section with what they part, at the start, at the end, and in a row.
pub fn fences_alone_and_in_a_row_complete<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    let len = rig.len(8);
    S::stock(rig, 0, &pattern(1, len));
    let load = S::load(rig, 0, rig.host(0x100, len));
    {
        let mut pinned = rig.channel().pin().unwrap();
        for op in [Op::fence(), Op::fence(), load, Op::fence(), Op::fence()] {
            assert!(matches!(pinned.submit(op), Submit::Queued(_)));
        }
    }
    let done = rig.complete(5);
    assert!(done.iter().all(|c| c.status == Status::Done));
    rig.run_well(Op::fence());
}

/// What an engine does not do is a value, and disturbs nothing.
pub fn what_is_not_done_is_denied<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    let refused = S::refused(rig);
    assert!(!refused.is_empty());
    for op in refused {
        let answer = rig.channel().pin().unwrap().submit(op);
        assert_eq!(answer, Submit::Denied(Flow::Unsupported), "{op:?}");
    }
    assert_eq!(rig.channel().in_flight(), 0);
    let len = rig.len(0x1000);
    S::stock(rig, 0, &pattern(1, len));
    let fine = S::load(rig, 0, rig.host(0, len));
    rig.run_well(fine);
}

/// Copies whose sides overlap: no engine that copies does them.
pub fn copies_onto_themselves<B: Backend, S: On<B>>(rig: &Rig<B, S>) -> [Op; 3] {
    [
        Op::copy(rig.host(0, 0x1000).span, rig.host(0x800, 0x1000).span),
        Op::copy(rig.vram(0x800, 0x1000).span, rig.vram(0, 0x1000).span),
        Op::copy(rig.vram(0, 8).span, rig.vram(0, 8).span),
    ]
}
