//! What drives devices: register and descriptor layouts, and the queues built on them.
//!
//! | driver | device | operations | confirms |
//! |---|---|---|---|
//! | [`edu::Edu`] | QEMU's `edu`, and its model in [`crate::soft`] | copy, fill, fence | yes |
//! | [`igb::Igb`] | Intel's 82576 (QEMU's `igb`), and its model | read (receive), write (transmit), lists of them, fence | no |
//! | [`nvme::Nvme`] | an NVMe controller, and its model | read, write, fence; flush and deallocate | yes, by Compare |
//! | [`softnic::SoftNic`] | the NIC of [`crate::soft`] | read (receive), write (transmit), copy, fence | yes |
//!
//! # How a window flush works, and why it holds
//!
//! A device says "done" when its last write has left it; the bytes may still be on their way to the peer, and a dead
//! mapping swallows them without a word. [`Operation::ReadBack`] settles both at once. The engine lets the device
//! read some bytes that it wrote into that window before, and compares them with what it wrote.
//!
//! *Order.* A memory read does not pass posted writes of its requester on the same way (PCIe 6.0, 2.4.1), so
//! when its answer is there, all writes to the window that were issued before it have arrived: those of every
//! operation that had completed when the read-back was pushed.
//!
//! *Life.* Nobody brings a dead mapping back at its place: un-revoking an export restores no import, and the fabric
//! unmaps and maps again only for a new generation of the region, whose writes were checked against that generation.
//! So a mapping that answers now has been alive since the region was made, for all writes to it, not only for the one
//! that is compared. That the mapping answers, and not something in its place, is what the value shows: a dead one
//! gives all-ones (the IOMMU or the root port), zeros (QEMU), or leaves the device's own buffer as it was.
//! The bytes compared hold at least one that is neither 0x00 nor 0xff, and edu's buffer is first filled with their
//! complement. Where no write since the window was made left such bytes, the outcome is [`Outcome::Unchecked`]:
//! ordered, but nothing is proved.
//!
//! *A wrong value.* It is [`code::DEAD_WINDOW`] if it is what a dead mapping gives and nobody else had a hand in the
//! place as far as the engine knows, else [`Outcome::Unchecked`]: a second channel, the CPU or the exporter itself may
//! have written there since. Neither confirms anything.

// Before the engines: they use its macros.
#[cfg(any(test, feature = "testing"))]
#[macro_use]
pub mod conformance;

pub mod edu;
mod held;
pub mod igb;
mod kinds;
pub mod nvme;
mod patrol;
pub mod softnic;
mod window;

pub use held::Held;
pub use kinds::{Id, KINDS, Kind, kind_of};
pub use patrol::Patrol;

use tidegate_core::engine::Target;
#[cfg(doc)]
use tidegate_core::engine::{Operation, Outcome};

/// What the engines here say in [`tidegate_core::Status::Device`] beside their devices' own codes, which are small.
pub mod code {
    /// A register reads all-ones: the device is gone, or does not answer. What it had accepted stays in flight (an
    /// engine can't know that it stopped) until a quiesce or revoke ends it; everything else ends with this.
    pub const GONE: u16 = 0xffff;
    /// The queue stopped by itself. What the device had accepted stays in flight as for [`GONE`].
    pub const FAILED: u16 = 0xfffe;
    /// A read-back gave what a dead mapping gives, instead of what was written.
    pub const DEAD_WINDOW: u16 = 0xfffd;
    /// A completion that can't be: it says that more was moved than was asked for, or has an unknown status.
    pub const NONSENSE: u16 = 0xfffc;
}

/// Do two operands share a byte? Devices copy in pieces, so such a copy would not be one.
fn overlap(a: &Target, b: &Target) -> bool {
    meet(a.address, a.len, b.address, b.len)
}

/// Do two ranges share a byte?
fn meet(a: u64, a_len: u64, b: u64, b_len: u64) -> bool {
    a < b.saturating_add(b_len) && b < a.saturating_add(a_len)
}
