//! Intel's 82576 (QEMU's `igb`): a network controller whose frames land in, and leave from, a peer's BAR.
//!
//! [`Operation::Read`] receives the next frame, whole, into its operand; [`Operation::Write`] sends its operand as one frame.
//! Their position is ignored. A frame is all bytes from the destination address to the last one before the check sequence, which
//! the device adds, checks and takes off. Queue 0 receives and sends; queues 1 to 15 only send, since every frame on the wire
//! goes to queue 0: no filter is set, nothing is sorted by hash, VLAN tags stay in the frame.
//!
//! *How long a receive's buffer must be.* The device knows one length for all buffers of a queue, so an operand has to hold the
//! longest frame that may come: [`Igb::frames`]. Shorter ones are refused, longer frames are dropped by the device (RLPML).
//! A completion's length is the frame's; frames below 60 bytes arrive padded to 60. Error bits of a write-back end the
//! receive with these bits as code (bit 11: damaged frame); [`TOO_LONG`] is the engine's own.
//!
//! *Lists.* A list of writes is sent as one frame (its header from host memory, its payload from VRAM, say), of up to
//! [`PIECES`] pieces. With [`Igb::split`] the device parts headers from payloads: a plain read then gets the payload alone, the
//! header goes to memory that nobody looks at; a read into a list of two operands gets the header in the first (at an even
//! address) and the payload in the second, and its completion counts both. The header is Ethernet, IP and UDP or TCP, where
//! the device sees these in the frame, else the first [`Igb::split`] bytes.
//!
//! *Fences* are kept in software, since receives and sends know no order between them: what follows one waits until
//! everything before it has completed. For a receive, that is until a frame has come. A list behind a fence is not
//! kept: it is answered [`Push::Full`] until the fence has fallen.
//!
//! # Order, and the window flush
//!
//! The device is told never to relax the order of a request (CTRL_EXT, bit 17, and the queues' DCA control). So a descriptor's
//! write-back, which is what ends an operation here, left the device after all the frame's bytes, and follows them as far as
//! both go the same way: to the root complex, or to the switch at which the bytes turn off to the peer.
//!
//! An 82576 has no operation that reads from a window and tells what it read: a send would put the bytes on the wire. So
//! it never confirms, and a queue that runs is never flushed by a read-back. What is left, for operations that have completed:
//!
//! 1. A register of the device is read. The answer does not pass posted writes (PCIe 6.0, 2.4.1), so they have reached the
//!    root complex when it is there.
//! 2. The drain then reads the target's configuration space. That read leaves the root complex towards the target after the
//!    writes, and does not pass them either.
//!
//! The queue itself need not stop for that: what names the window was retired or withdrawn before (a withdrawal stops the
//! queue and reads its register), and what is in the queue for others does not matter here.
//!
//! *When it does not hold.* Where a switch lets the two devices talk directly, the writes have left the common way before the
//! root complex: the register's answer says nothing about them, and the CPU's read comes down another way. Nor is a private
//! window read by the CPU. And whether the mapping was *alive* nobody knows: the IOMMU drops writes to a dead one without a
//! word; within this library a mapping dies only after the region's generation changed, but a reset by somebody else is not
//! seen. So the answer is [`Flush::Impossible`], and the drain takes the forced path (unmap first, then read), unless whoever
//! opens the queue knows the route and says so: [`Igb::through_root_complex`].
//!
//! # Stopping
//!
//! A cancel switches both rings off (bit 25 of RXDCTL and TXDCTL). The device ends the frame that it is at and clears the bit; the
//! register read that shows it pushed the last write-backs to memory. Frames that come meanwhile wait in the device or are
//! lost, as on any wire. If a queue does not come to rest the function is reset (CTRL.RST), after it was told to make no more
//! requests; only where no other engine has a queue of it, else the gate's reset of the device is what is left. After that the
//! queue can't be resumed: the channel stays closed, and the next one that is opened sets the device up again.

#[cfg(test)]
mod conformance;
mod descriptor;
mod mac;
mod port;
mod queue;
mod registers;
mod ring;

pub use queue::IgbEngine;

use crate::backend::Backend;
use crate::device::{Driver, DriverError, Resources};
use mac::Mac;
use registers as reg;
use std::sync::Arc;
#[cfg(doc)]
use tidegate_core::engine::{Flush, Operation, Push};

/// A frame that was longer than its buffer, which should not have come: it lies in pieces in several operations' buffers, all of
/// which end with this.
pub const TOO_LONG: u16 = 0x1000;
/// Pieces of a list of writes at most.
pub const PIECES: usize = 16;
/// Bytes of a frame at most, without its check sequence (datasheet 1.3: jumbo frames of 9.5 KiB).
pub const LONGEST: u32 = 9728 - CHECK;
/// Bytes of a frame at least, when it is sent; the device pads to 60 (datasheet 7.2.1).
pub const SHORTEST: u32 = 17;
/// Bytes of the check sequence.
const CHECK: u32 = 4;
/// Bytes of the shortest frame on the wire, without its check sequence.
const PADDED: u32 = 60;
/// Entries of a ring: ring lengths are multiples of 128 bytes.
const ENTRIES: std::ops::RangeInclusive<u32> = 8..=4096;

/// Opens a queue of an 82576 as a channel's engine.
///
/// The first one resets the function and brings its link up, which takes some seconds with a copper cable. All of a device's
/// engines must be gone before that happens again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Igb {
    queue: u32,
    entries: u32,
    frames: u32,
    header: u32,
    routed: bool,
}

impl Igb {
    /// Queue number `queue` (below 16), with rings of 256 entries, for frames of up to 1514 bytes.
    pub fn queue(queue: u32) -> Igb {
        Igb { queue, entries: 256, frames: 1514, header: 0, routed: false }
    }

    /// Entries of each ring: a power of two from 8 to 4096. One less can be in flight.
    pub fn entries(self, entries: u32) -> Igb {
        Igb { entries, ..self }
    }

    /// Longest frame to be received, from 60 to [`LONGEST`] bytes (a value beyond is cut to that); a receive's buffer must hold
    /// as much.
    pub fn frames(self, longest: u32) -> Igb {
        Igb { frames: longest.clamp(PADDED, LONGEST), ..self }
    }

    /// Header split, with room for headers of `bytes`: rounded up to a multiple of 64, at most 960.
    pub fn split(self, bytes: u32) -> Igb {
        let header = bytes.clamp(1, 960).next_multiple_of(reg::HEADER_UNIT);
        Igb { header, ..self }
    }

    /// The caller vouches that requests of this device to the windows it will write go through the root complex (no switch
    /// between the two that lets them talk directly), that they are shared ones, and that nobody but this library resets,
    /// disables or unbinds their owners. Then a drain may flush them as told in [`crate::engine::igb`], and end clean.
    ///
    /// If it is not so, a drain says "clean" of bytes that never arrived.
    pub fn through_root_complex(self) -> Igb {
        Igb { routed: true, ..self }
    }
}

impl<B: Backend> Driver<B> for Igb {
    type Engine = IgbEngine<B>;

    /// Sleeps until the link is up: 5 s at most, 2 s more if the device hangs in its reset.
    fn open(self, resources: Resources<B>) -> Result<IgbEngine<B>, DriverError> {
        let at = resources.address();
        let Igb { queue, entries, .. } = self;
        if queue >= reg::QUEUES || !entries.is_power_of_two() || !ENTRIES.contains(&entries) {
            return Err(DriverError::Queue { at, queue, entries });
        }
        let claim = resources.claim(queue)?;
        let mac = resources.shared(|| Mac::open(&resources))?;
        let mut core = mac.lock();
        // Whoever comes meanwhile has the same one, and waits for the lock.
        mac.ready(&mut core, &resources, Arc::strong_count(&mac) == 1)?;
        drop(core);
        let mut engine = IgbEngine::new(self, &resources, claim, mac)?;
        engine.begin();
        if !resources.wait(queue::PATIENCE, || engine.is_running()) {
            return Err(DriverError::Unresponsive { at, what: "switch its queue on" });
        }
        Ok(engine)
    }
}
