//! Places of engines that copy.

use super::On;
use super::rig::{PLACE, Piece, Rig};
use crate::backend::Backend;
use tidegate_core::Op;

/// Places in host memory, for engines that copy.
pub(crate) mod copies {
    use super::*;

    pub(crate) fn stock<B: Backend, S: On<B>>(rig: &mut Rig<B, S>, n: u64, bytes: &[u8]) {
        rig.shelf.write(n * PLACE, bytes).unwrap();
    }

    pub(crate) fn load<B: Backend, S: On<B>>(rig: &mut Rig<B, S>, n: u64, to: Piece) -> Op {
        Op::copy(rig.place(n, to.len).span, to.span)
    }

    pub(crate) fn store<B: Backend, S: On<B>>(rig: &mut Rig<B, S>, from: Piece, n: u64) -> Op {
        Op::copy(from.span, rig.place(n, from.len).span)
    }

    pub(crate) fn stored<B: Backend, S: On<B>>(rig: &mut Rig<B, S>, n: u64, len: u64) -> Vec<u8> {
        rig.read_place(n, len)
    }
}
