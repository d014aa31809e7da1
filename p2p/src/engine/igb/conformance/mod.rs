//! The 82576 against the promises of every engine, and its own.

mod ends;
mod frames;
mod peer;

use super::Igb;
use crate::backend::Backend;
use crate::engine::conformance::Subject;
use crate::engine::conformance::bytes;
use crate::engine::conformance::rig::{Piece, Rig, pattern};
use crate::pci::PciAddress;
use crate::soft::{Builder, Igb as Model, Soft};
use tidegate_core::drain::FlushUsed;
use tidegate_core::{Op, Status};

use peer::{recv, send};

/// Every frame here: what a receive has room for.
const FRAME: u64 = 1000;

/// A place is a frame on the wire: what was stocked first is loaded first.
impl Subject for Igb {
    const NAME: &'static str = "igb";
    // A receive's buffer is never shorter than the longest frame.
    const LENGTHS: &'static [u64] = &[FRAME];
    const FEW_LENGTHS: &'static [u64] = &[FRAME];
    const UNIT: u64 = FRAME;
    const FLUSH: FlushUsed = FlushUsed::Engine;

    fn soft(on: Builder, at: PciAddress) -> Builder {
        on.device(at, Model::description(), Model::default())
    }

    /// Neither world has a switch.
    fn make(depth: u32) -> Igb {
        Igb::queue(0).entries(depth + 1).frames(FRAME as u32).through_root_complex()
    }

    fn refused<B: Backend>(rig: &mut Rig<B, Self>) -> Vec<Op> {
        let (short, long) = (rig.host(0, FRAME - 1), rig.host(0, 9725));
        let copies = bytes::copies_onto_themselves(rig);
        let others = [
            Op::copy(rig.host(0, FRAME).span, rig.vram(0, FRAME).span),
            Op::fill(rig.host(0, FRAME).span, 1),
            Op::read(0, short.span),
            Op::read(0, rig.vram(0, FRAME - 1).span),
            Op::write(rig.host(0, 16).span, 0),
            Op::write(long.span, 0),
        ];
        copies.into_iter().chain(others).collect()
    }

    fn stock<B: Backend>(rig: &mut Rig<B, Self>, _n: u64, bytes: &[u8]) {
        // A load brings one frame, however long its buffer is.
        let frame = bytes.chunks(FRAME as usize).next().unwrap();
        send(rig, frame);
    }

    fn clear<B: Backend>(rig: &mut Rig<B, Self>) {
        let last = pattern(0xc1ea_4e4d, FRAME);
        send(rig, &last);
        loop {
            let to = rig.host(0xf000, FRAME);
            let end = rig.run(Op::read(0, to.span));
            assert_eq!(end.status, Status::Done);
            if rig.read_host(0xf000, FRAME) == last {
                return;
            }
        }
    }

    fn load<B: Backend>(_rig: &mut Rig<B, Self>, _n: u64, to: Piece) -> Op {
        Op::read(0, to.span)
    }

    fn store<B: Backend>(_rig: &mut Rig<B, Self>, from: Piece, _n: u64) -> Op {
        Op::write(from.span, 0)
    }

    fn stored<B: Backend>(rig: &mut Rig<B, Self>, _n: u64, len: u64) -> Vec<u8> {
        let frame = recv(rig);
        assert_eq!(frame.len() as u64, len);
        frame
    }
}

on_soft!(Igb: moves fences flushes);
in_guest!(Igb: moves fences flushes =>
    #[test]
    fn headers_and_payloads_are_parted() {
        crate::engine::conformance::guest::all::<Igb>(frames::part);
    }
);

type IgbRig = Rig<Soft, Igb>;
