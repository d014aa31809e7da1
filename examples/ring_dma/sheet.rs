//! The device's data sheet: a memory-to-memory DMA engine with one ring.
//!
//! PCI function [`VENDOR`]:[`DEVICE`], registers in BAR 0. All numbers are little-endian.
//!
//! *Ring.* [`ENTRIES`] descriptors of [`DESCRIPTOR_LEN`] bytes at [`RING`], and as many completion words of [`WORD_LEN`] bytes
//! at [`WORDS`]. [`TAIL`] counts the descriptors that were written since the device was started, modulo 2^32; the *n*th one
//! (from 0) is in place *n* modulo the entries, and so is its word.
//!
//! *Order.* One descriptor at a time, in the order of the ring. The word of a descriptor is written after the last of its
//! bytes, and the next descriptor is fetched after that. So the reads of a descriptor come after all writes of those before it,
//! which they do not pass (PCIe 6.0, 2.4.1).
//!
//! *Words.* Low half: *n* + 1 modulo 2^32. Upper half: [`DONE`], or [`REFUSED`] when a read did not complete with success
//! (unsupported request, completer abort, no answer): then nothing is written of what was asked for from there on.
//!
//! *Stop.* When [`RUN`] is cleared the device gives up what it is at: it makes no request any more, and when the answer to the
//! read under way has come, [`STATUS`] reads without [`RUNNING`]. What was written before stays written; words of what was
//! given up never come. Setting [`RUN`] on a device that is not [`RUNNING`] starts at descriptor 0 with [`TAIL`] 0.

/// Vendor id, of emulated devices for teaching.
pub const VENDOR: u16 = 0x1234;
/// Device id.
pub const DEVICE: u16 = 0x0d3a;
/// Bytes of BAR 0.
pub const BAR_LEN: u64 = 4096;

/// 32 bits, read only: [`ID_VALUE`].
pub const ID: u64 = 0x00;
/// "RING".
pub const ID_VALUE: u32 = 0x474e_4952;
/// 32 bits: [`RUN`].
pub const CONTROL: u64 = 0x04;
/// Of [`CONTROL`].
pub const RUN: u32 = 1;
/// 32 bits, read only: [`RUNNING`].
pub const STATUS: u64 = 0x08;
/// Of [`STATUS`]: it runs, or has not given up all yet.
pub const RUNNING: u32 = 1;
/// 32 bits: entries of the ring, a power of two from 2 to [`MOST_ENTRIES`]. Taken over at the start, as the addresses are.
pub const ENTRIES: u64 = 0x0c;
/// 64 bits: where the descriptors are.
pub const RING: u64 = 0x10;
/// 64 bits: where the words are.
pub const WORDS: u64 = 0x18;
/// 64 bits, of which the lower 32 count: the doorbell.
pub const TAIL: u64 = 0x20;
/// Most entries of a ring.
pub const MOST_ENTRIES: u32 = 4096;

/// Bytes of a descriptor: source and destination (64 bits each), bytes to be moved (32 bits; 0 moves nothing), zeros.
pub const DESCRIPTOR_LEN: u64 = 32;
/// Bytes of a completion word.
pub const WORD_LEN: u64 = 8;
/// All was moved.
pub const DONE: u32 = 0;
/// A read was refused.
pub const REFUSED: u32 = 1;
/// Most bytes that the device moves at a time.
pub const CHUNK: u32 = 4096;
