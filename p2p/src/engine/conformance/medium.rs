//! Places in the medium of an engine that reads and writes one: place `n` is at `n` times [`PLACE`]. What goes in and out by
//! the CPU goes through the same place of host memory.

use super::On;
use super::rig::{PLACE, Piece, Rig};
use crate::backend::Backend;
use tidegate_core::Op;

/// [`Subject::stock`](super::Subject::stock).
pub fn stock<B: Backend, S: On<B>>(rig: &mut Rig<B, S>, n: u64, bytes: &[u8]) {
    rig.shelf.write(n * PLACE, bytes).unwrap();
    let from = rig.place(n, bytes.len() as u64);
    rig.run_well(Op::write(from.span, n * PLACE));
}

/// [`Subject::load`](super::Subject::load).
pub fn load<B: Backend, S: On<B>>(_rig: &mut Rig<B, S>, n: u64, to: Piece) -> Op {
    Op::read(n * PLACE, to.span)
}

/// [`Subject::store`](super::Subject::store).
pub fn store<B: Backend, S: On<B>>(_rig: &mut Rig<B, S>, from: Piece, n: u64) -> Op {
    Op::write(from.span, n * PLACE)
}

/// [`Subject::stored`](super::Subject::stored).
pub fn stored<B: Backend, S: On<B>>(rig: &mut Rig<B, S>, n: u64, len: u64) -> Vec<u8> {
    rig.shelf.write(n * PLACE, &vec![0; len as usize]).unwrap();
    let to = rig.place(n, len);
    rig.run_well(Op::read(n * PLACE, to.span));
    rig.read_place(n, len)
}
