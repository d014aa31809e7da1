//! Registers, descriptors and completions of the soft NIC: the one text that model and engine share.
//!
//! All registers are in BAR 0, little-endian, 32 bits wide unless said; a 64-bit one may be written whole or as
//! two halves, low half first. A register that is not defined reads zero; none of those defined can hold
//! all-ones, so all-ones means that the device is gone.
//!
//! **A queue** is a pair of rings of `SIZE` entries in host memory: descriptors (written by software, fetched by
//! the device) and completions (the other way round). Any queue takes any opcode. The device fetches as soon as
//! the tail moves, works on what it fetched in any order, and completes in any order; a `RECEIVE` waits for its
//! frame without holding anything up. Software may have at most `SIZE` descriptors whose completion it has not
//! consumed, so a completion ring cannot overflow.
//!
//! **Order.** A completion follows the data it speaks of only as far as the root complex: data that went to a
//! peer's BAR may land after the completion was seen. An [`Opcode::Readback`] from the same peer pushes it.
//!
//! **Disable.** Software sets [`QUEUE_CONTROL_DISABLE`]. The device stops fetching ([`QUEUE_HEAD`] stands still:
//! descriptors from there on were never accepted and get no completion), gives up what it accepted and had not
//! finished ([`Status::Aborted`]), and once the last completion left the device shows [`QUEUE_STATUS_QUIET`].
//! A register read that shows it also pushed those completions to host memory.

/// PCI vendor id of the model's own devices.
pub const VENDOR: u16 = 0x5447;
/// PCI device id.
pub const DEVICE: u16 = 0x0001;
/// Size of BAR 0.
pub const BAR_LEN: u64 = 0x1000;
/// Queues.
pub const QUEUES: u32 = 4;
/// Most entries of a ring; sizes are powers of two from 2.
pub const MAX_RING: u32 = 4096;
/// Longest frame. A `COPY` may be as long as `len` can say.
pub const MTU: u32 = 65536;
/// Longest `READBACK`.
pub const MAX_READBACK: u32 = 64;

/// Identification: [`ID_VALUE`].
pub const ID: u64 = 0x00;
/// "TGN1".
pub const ID_VALUE: u32 = 0x5447_4e31;
/// What the device can do: bits 0-7 version (1), 8 copy, 9 read back, 16-23 queues.
pub const CAPS: u64 = 0x04;
/// Value of [`CAPS`] in this version.
pub const CAPS_VALUE: u32 = QUEUES << 16 | 1 << 9 | 1 << 8 | 1;
/// [`CONTROL_ENABLE`], [`CONTROL_RESET`].
pub const CONTROL: u64 = 0x08;
/// The device may do DMA.
pub const CONTROL_ENABLE: u32 = 1;
/// Write: back to power-on state at once; clears by itself. Unfinished work is forgotten without completions.
pub const CONTROL_RESET: u32 = 2;
/// Read only: [`STATUS_READY`], [`STATUS_FAILED`].
pub const STATUS: u64 = 0x0c;
/// The device answers and is enabled.
pub const STATUS_READY: u32 = 1;
/// A queue failed.
pub const STATUS_FAILED: u32 = 2;
/// Read only: [`MTU`].
pub const FRAME_LIMIT: u64 = 0x10;
/// Read only: frames that wait on the wire.
pub const FRAMES_WAITING: u64 = 0x14;

/// Start of the queue blocks.
pub const QUEUE_BASE: u64 = 0x100;
/// Bytes of one queue block.
pub const QUEUE_STRIDE: u64 = 0x40;
/// 64 bits: device address of the descriptor ring. Written while the queue is off.
pub const QUEUE_DESCRIPTORS: u64 = 0x00;
/// 64 bits: device address of the completion ring, which software cleared. Written while the queue is off.
pub const QUEUE_COMPLETIONS: u64 = 0x08;
/// Entries of each ring. Written while the queue is off.
pub const QUEUE_SIZE: u64 = 0x10;
/// [`QUEUE_CONTROL_ENABLE`], [`QUEUE_CONTROL_DISABLE`].
pub const QUEUE_CONTROL: u64 = 0x14;
/// Switches a queue that is off on, at index 0 and phase 1. A bad size is ignored: the status stays 0.
pub const QUEUE_CONTROL_ENABLE: u32 = 1;
/// Asks the queue to stop.
pub const QUEUE_CONTROL_DISABLE: u32 = 2;
/// Read only: [`QUEUE_STATUS_ENABLED`], [`QUEUE_STATUS_QUIET`], [`QUEUE_STATUS_FAILED`].
pub const QUEUE_STATUS: u64 = 0x18;
/// The queue is on (also while it is stopping).
pub const QUEUE_STATUS_ENABLED: u32 = 1;
/// The queue stopped as asked: nothing that it accepted will do DMA any more.
pub const QUEUE_STATUS_QUIET: u32 = 2;
/// The rings could not be read; the queue does nothing until it is disabled.
pub const QUEUE_STATUS_FAILED: u32 = 4;
/// Read only: descriptors accepted so far, counted from the enable, modulo 2^32.
pub const QUEUE_HEAD: u64 = 0x1c;
/// Doorbell: descriptors written so far, counted alike. Best written as 64 bits, whose upper half is ignored:
/// that write comes after the descriptors.
pub const QUEUE_TAIL: u64 = 0x20;

/// Offset of a register of a queue.
pub const fn queue(index: u32, register: u64) -> u64 {
    QUEUE_BASE + index as u64 * QUEUE_STRIDE + register
}

/// What a descriptor asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The next frame from the wire into the buffer at `address`.
    Receive = 1,
    /// The frame at `address` onto the wire.
    Transmit = 2,
    /// `len` bytes from `address` to `target`.
    Copy = 3,
    /// A non-posted read of `len` bytes at `address`; its last bytes come back as the tail.
    Readback = 4,
}

impl Opcode {
    /// The opcode of a code.
    pub const fn of(code: u8) -> Option<Opcode> {
        Some(match code {
            1 => Opcode::Receive,
            2 => Opcode::Transmit,
            3 => Opcode::Copy,
            4 => Opcode::Readback,
            _ => return None,
        })
    }
}

/// Bytes of a descriptor.
pub const DESCRIPTOR_LEN: usize = 32;

/// A descriptor: `address` u64, `target` u64, `len` u32, `index` u32, `opcode` u8, zeros to 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Buffer, source, or what to read back.
    pub address: u64,
    /// Destination of a copy.
    pub target: u64,
    /// Bytes.
    pub len: u32,
    /// Comes back in the completion.
    pub index: u32,
    /// An [`Opcode`].
    pub opcode: u8,
}

impl Descriptor {
    /// As in the ring.
    pub fn encode(&self) -> [u8; DESCRIPTOR_LEN] {
        let mut raw = [0; DESCRIPTOR_LEN];
        raw[0..8].copy_from_slice(&self.address.to_le_bytes());
        raw[8..16].copy_from_slice(&self.target.to_le_bytes());
        raw[16..20].copy_from_slice(&self.len.to_le_bytes());
        raw[20..24].copy_from_slice(&self.index.to_le_bytes());
        raw[24] = self.opcode;
        raw
    }

    /// From the ring.
    pub fn decode(raw: &[u8; DESCRIPTOR_LEN]) -> Descriptor {
        Descriptor {
            address: u64_at(raw, 0),
            target: u64_at(raw, 8),
            len: u32_at(raw, 16),
            index: u32_at(raw, 20),
            opcode: raw[24],
        }
    }
}

/// How a descriptor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// As asked, says the device.
    Done = 0,
    /// Given up because its queue was disabled.
    Aborted = 1,
    /// Unknown opcode, or a length that the opcode does not allow.
    BadDescriptor = 2,
    /// The frame was longer than the buffer: its start was written.
    Truncated = 3,
    /// A read was refused, by a device that looks ([`crate::soft::Nic::strict`]).
    ReadFailed = 4,
}

impl Status {
    /// The status of a code.
    pub const fn of(code: u8) -> Option<Status> {
        Some(match code {
            0 => Status::Done,
            1 => Status::Aborted,
            2 => Status::BadDescriptor,
            3 => Status::Truncated,
            4 => Status::ReadFailed,
            _ => return None,
        })
    }
}

/// Bytes of a completion.
pub const COMPLETION_LEN: usize = 32;
/// Offset of the byte that carries the phase in bit 0. The device writes it last.
pub const COMPLETION_PHASE: usize = 24;

/// A completion: `index` u32, `len` u32, `tail` u64, `status` u8 at 16, phase in bit 0 of byte 24, zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Of the descriptor.
    pub index: u32,
    /// Bytes moved.
    pub len: u32,
    /// The last 8 bytes moved (fewer: zero-extended), as a little-endian number.
    pub tail: u64,
    /// A [`Status`].
    pub status: u8,
    /// True in the first lap of the ring, then alternating: an entry is new when its phase is the lap's.
    pub phase: bool,
}

impl Completion {
    /// As in the ring.
    pub fn encode(&self) -> [u8; COMPLETION_LEN] {
        let mut raw = [0; COMPLETION_LEN];
        raw[0..4].copy_from_slice(&self.index.to_le_bytes());
        raw[4..8].copy_from_slice(&self.len.to_le_bytes());
        raw[8..16].copy_from_slice(&self.tail.to_le_bytes());
        raw[16] = self.status;
        raw[COMPLETION_PHASE] = u8::from(self.phase);
        raw
    }

    /// From the ring.
    pub fn decode(raw: &[u8; COMPLETION_LEN]) -> Completion {
        Completion {
            index: u32_at(raw, 0),
            len: u32_at(raw, 4),
            tail: u64_at(raw, 8),
            status: raw[16],
            phase: raw[COMPLETION_PHASE] & 1 != 0,
        }
    }

    /// The tail of `data`.
    pub fn tail_of(data: &[u8]) -> u64 {
        let from = data.len().saturating_sub(8);
        data.get(from..).unwrap_or(&[]).iter().rev().fold(0, |tail, byte| tail << 8 | u64::from(*byte))
    }
}

fn u32_at(raw: &[u8; 32], at: usize) -> u32 {
    raw.iter().skip(at).take(4).rev().fold(0, |n, byte| n << 8 | u32::from(*byte))
}

fn u64_at(raw: &[u8; 32], at: usize) -> u64 {
    raw.iter().skip(at).take(8).rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn descriptors_survive_the_ring(address: u64, target: u64, len: u32, index: u32, opcode: u8) {
            let d = Descriptor { address, target, len, index, opcode };
            prop_assert_eq!(Descriptor::decode(&d.encode()), d);
        }

        #[test]
        fn completions_survive_the_ring(index: u32, len: u32, tail: u64, status: u8, phase: bool) {
            let c = Completion { index, len, tail, status, phase };
            prop_assert_eq!(Completion::decode(&c.encode()), c);
        }
    }

    #[test]
    fn the_tail_is_the_last_eight_bytes() {
        assert_eq!(Completion::tail_of(b"0123456789"), u64::from_le_bytes(*b"23456789"));
        assert_eq!(Completion::tail_of(&[1, 2]), 0x0201);
        assert_eq!(Completion::tail_of(&[]), 0);
    }
}
