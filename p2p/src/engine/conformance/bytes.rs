//! Bytes land where they should, and nowhere else; every operation completes once.

use super::rig::{DEPTH, LEN, Rig, Subject, pattern};
use crate::backend::Backend;
use std::collections::BTreeSet;
use tidegate_core::{Flow, Op, Status, Submit};

const OLD: u8 = 0xee;

/// In and out of the window, and within host memory; the neighbours stay as they were.
pub(super) fn copies_land_exactly<B: Backend, D: Subject<B>>(rig: &mut Rig<B, D>, lengths: &[u64]) {
    for (n, len) in lengths.iter().copied().enumerate() {
        let bytes = pattern(n as u32 + 1, len);
        let (from, to, back) = (0x100 + n as u64, 0x207 + 3 * n as u64, 0x8101);
        rig.poke(OLD);
        rig.fill_host(0, &[OLD; LEN as usize]);
        rig.fill_host(from, &bytes);
        let (a, b) = (rig.host(from, len), rig.vram(to, len));
        let completion = rig.run(Op::copy(a, b).cookie(77));
        assert_eq!((completion.status, completion.cookie, completion.len), (Status::Done, 77, len as u32));
        assert_eq!(rig.peek(to - 7, 7), [OLD; 7]);
        assert!(rig.peek(to, len) == bytes, "{len} bytes into the window");
        assert_eq!(rig.peek(to + len, 9), [OLD; 9]);
        let (b, c) = (rig.vram(to, len), rig.host(back, len));
        rig.run_well(Op::copy(b, c));
        assert!(rig.read_host(back, len) == bytes, "{len} bytes out of the window");
        assert_eq!(rig.read_host(back - 3, 3), [OLD; 3]);
        assert_eq!(rig.read_host(back + len, 5), [OLD; 5]);
        let (a, d) = (rig.host(from, len), rig.host(0x4003, len));
        rig.run_well(Op::copy(a, d));
        assert!(rig.read_host(0x4003, len) == bytes, "{len} bytes in host memory");
    }
}

/// As many as fit, each with its own bytes, completing once each; and all over again.
pub(super) fn a_full_queue_completes_each_operation_once<B: Backend, D: Subject<B>>(rig: &mut Rig<B, D>) {
    for round in 0..3_u32 {
        rig.poke(OLD);
        let mut tickets = BTreeSet::new();
        for n in 0..u64::from(DEPTH) {
            rig.fill_host(n * 64, &pattern(round * 100 + n as u32, 40));
            let op = Op::copy(rig.host(n * 64, 40), rig.vram(n * 128, 40)).cookie(n);
            tickets.insert(rig.submit(op).0);
        }
        let one_more = Op::copy(rig.host(0, 40), rig.vram(0x4000, 40));
        assert_eq!(rig.channel().pin().unwrap().submit(one_more), Submit::Full);
        let done = rig.complete(DEPTH as usize);
        assert!(done.iter().all(|c| c.status == Status::Done && c.len == 40));
        assert_eq!(done.iter().map(|c| c.ticket.0).collect::<BTreeSet<_>>(), tickets);
        let first = *tickets.first().unwrap();
        assert!(done.iter().all(|c| c.ticket.0 - first == c.cookie), "cookies keep to their tickets");
        for n in 0..u64::from(DEPTH) {
            assert_eq!(rig.peek(n * 128, 40), pattern(round * 100 + n as u32, 40));
        }
        assert_eq!(rig.peek(0x4000, 8), [OLD; 8]);
        assert_eq!(rig.channel().counters().spurious, 0);
    }
}

/// Nothing behind a fence starts before all that is in front of it has ended.
pub(super) fn a_fence_holds_what_follows<B: Backend, D: Subject<B>>(rig: &mut Rig<B, D>, rounds: u32) {
    for round in 0..rounds {
        rig.fill_host(0, &[OLD; 0x4000]);
        let bytes = pattern(round + 7, 500);
        rig.fill_host(0, &bytes);
        let mut order = Vec::new();
        {
            let hop = |from: u64, to: u64| (from * 0x1000, to * 0x1000);
            for (from, to) in [hop(0, 1), hop(1, 2), hop(2, 3)] {
                let copy = Op::copy(rig.host(from, 500), rig.host(to, 500));
                order.push(rig.submit(copy));
                order.push(rig.submit(Op::fence()));
            }
        }
        let done = rig.complete(order.len());
        assert_eq!(done.iter().map(|c| c.ticket).collect::<Vec<_>>(), order);
        assert!(rig.read_host(0x3000, 500) == bytes, "round {round}");
    }
}

/// Fences in one section with what they part, at the start, at the end, and in a row.
pub(super) fn fences_alone_and_in_a_row_complete<B: Backend, D: Subject<B>>(rig: &mut Rig<B, D>) {
    {
        let (a, b) = (rig.host(0, 8), rig.host(0x100, 8));
        let mut pinned = rig.channel().pin().unwrap();
        for op in [Op::fence(), Op::fence(), Op::copy(a, b), Op::fence(), Op::fence()] {
            assert!(matches!(pinned.submit(op), Submit::Queued(_)));
        }
    }
    let done = rig.complete(5);
    assert!(done.iter().all(|c| c.status == Status::Done));
    rig.run_well(Op::fence());
}

/// What an engine does not do is a value, and disturbs nothing.
pub(super) fn what_is_not_done_is_denied<B: Backend, D: Subject<B>>(rig: &mut Rig<B, D>, refused: &[Op]) {
    let onto_itself = [
        Op::copy(rig.host(0, 0x1000), rig.host(0x800, 0x1000)),
        Op::copy(rig.vram(0x800, 0x1000), rig.vram(0, 0x1000)),
        Op::copy(rig.vram(0, 8), rig.vram(0, 8)),
    ];
    for op in refused.iter().chain(&onto_itself) {
        let answer = rig.channel().pin().unwrap().submit(*op);
        assert_eq!(answer, Submit::Denied(Flow::Unsupported));
    }
    assert_eq!(rig.channel().in_flight(), 0);
    let neighbours = Op::copy(rig.host(0, 0x1000), rig.host(0x1000, 0x1000));
    rig.run_well(neighbours);
}
