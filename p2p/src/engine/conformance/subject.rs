//! What an engine says of itself to be tested.

use super::rig::{PLACE, Piece, Rig};
use crate::backend::Backend;
use crate::device::Driver;
use crate::pci::PciAddress;
use crate::soft::Builder;
use tidegate_core::Op;
use tidegate_core::drain::FlushUsed;

/// An engine under test. Bytes come from numbered *places* (0 to 63) and go to them; what a place is, is the engine's
/// business: memory for one that copies (what the four methods below do if they are left alone), blocks of its medium
/// ([`super::medium`] has them), frames on its wire.
pub trait Subject: Sized + 'static {
    /// Its name; of an engine of this crate, that in [`crate::engine::KINDS`].
    const NAME: &'static str;
    /// Lengths to be tried, at most [`super::rig::PLACE`].
    const LENGTHS: &'static [u64];
    /// The same where time is short.
    const FEW_LENGTHS: &'static [u64];
    /// What a length must be a multiple of.
    const UNIT: u64 = 1;
    /// What an address must be a multiple of.
    const ALIGN: u64 = 1;
    /// Does a failed read-back say that the window is dead ([`crate::engine::code::DEAD_WINDOW`])? Otherwise it proves
    /// nothing.
    const TELLS_DEAD: bool = true;
    /// How a clean revoke flushes a window that it wrote.
    const FLUSH: FlushUsed = FlushUsed::ReadBack;

    /// Adds its device to a modelled fabric.
    fn soft(on: Builder, at: PciAddress) -> Builder;
    /// A driver for operations up to `depth` in flight.
    fn make(depth: u32) -> Self;
    /// Operations that it must refuse.
    fn refused<B: Backend>(rig: &mut Rig<B, Self>) -> Vec<Op>
    where
        Self: On<B>;
    /// Makes place `n` hold `bytes`, for one [`Subject::load`] at least.
    fn stock<B: Backend>(rig: &mut Rig<B, Self>, n: u64, bytes: &[u8])
    where
        Self: On<B>,
    {
        rig.shelf.write(n * PLACE, bytes).expect("a place of the shelf");
    }
    /// Empties all places. Called where operations were withdrawn: who knows what of the stock is left, and the next load must
    /// not get it. For engines whose places are taken from in the order of stocking; of others nothing is left over.
    fn clear<B: Backend>(rig: &mut Rig<B, Self>)
    where
        Self: On<B>,
    {
        let _ = rig;
    }
    /// Brings as many bytes as `to` is long from place `n`.
    fn load<B: Backend>(rig: &mut Rig<B, Self>, n: u64, to: Piece) -> Op
    where
        Self: On<B>,
    {
        Op::copy(rig.place(n, to.len).span, to.span)
    }
    /// Takes the bytes of `from` to place `n`.
    fn store<B: Backend>(rig: &mut Rig<B, Self>, from: Piece, n: u64) -> Op
    where
        Self: On<B>,
    {
        Op::copy(from.span, rig.place(n, from.len).span)
    }
    /// What the last [`Subject::store`] took to place `n`.
    fn stored<B: Backend>(rig: &mut Rig<B, Self>, n: u64, len: u64) -> Vec<u8>
    where
        Self: On<B>,
    {
        rig.read_place(n, len)
    }
}

/// A subject that runs on a backend. Implemented by itself.
pub trait On<B: Backend>: Subject + Driver<B> {}

impl<B: Backend, S: Subject + Driver<B>> On<B> for S {}
