//! QEMU's `edu`: one transfer of at most 4096 bytes at a time, through a buffer of its own.

pub mod abi;
mod mover;

pub use mover::{Move, Moved, Mover};
