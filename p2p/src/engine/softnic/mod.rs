//! The project's own NIC: queues whose descriptors receive, transmit, copy and read back.

pub mod abi;
mod queue;

pub use queue::{Queue, Stopped};
