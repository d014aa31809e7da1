//! Registers of QEMU's `edu` device, all in BAR 0 (1 MiB). Those below 0x80 take 32-bit access only.

/// PCI vendor id (QEMU).
pub const VENDOR: u16 = 0x1234;
/// PCI device id.
pub const DEVICE: u16 = 0x11e8;
/// Size of BAR 0.
pub const BAR_LEN: u64 = 1 << 20;

/// Identification: [`ID_VALUE`].
pub const ID: u64 = 0x00;
/// Version 1.0, and `edu` in the low byte.
pub const ID_VALUE: u32 = 0x0100_00ed;
/// Reads back the complement of what was written.
pub const LIVENESS: u64 = 0x04;
/// Write n, wait until [`STATUS_COMPUTING`] clears, read n! modulo 2^32.
pub const FACTORIAL: u64 = 0x08;
/// [`STATUS_COMPUTING`], [`STATUS_IRQ`].
pub const STATUS: u64 = 0x20;
/// A factorial is being computed.
pub const STATUS_COMPUTING: u32 = 0x01;
/// Interrupt when the factorial is done (writable).
pub const STATUS_IRQ: u32 = 0x80;
/// Which interrupts are raised.
pub const IRQ_STATUS: u64 = 0x24;
/// Write: raise these.
pub const IRQ_RAISE: u64 = 0x60;
/// Write: lower these.
pub const IRQ_ACK: u64 = 0x64;
/// The factorial's interrupt.
pub const IRQ_FACTORIAL: u32 = 0x001;
/// The transfer's interrupt.
pub const IRQ_DMA: u32 = 0x100;
/// Source of a transfer: device address, or [`BUFFER`] and up when [`COMMAND_TO_HOST`].
pub const DMA_SOURCE: u64 = 0x80;
/// Destination of a transfer, the other way round.
pub const DMA_TARGET: u64 = 0x88;
/// Bytes.
pub const DMA_COUNT: u64 = 0x90;
/// Starts a transfer; while [`COMMAND_RUN`] reads back set, all four DMA registers ignore writes.
pub const DMA_COMMAND: u64 = 0x98;
/// Start; clears by itself at the end.
pub const COMMAND_RUN: u64 = 1;
/// Direction: set, from the buffer to a device address; clear, the other way.
pub const COMMAND_TO_HOST: u64 = 2;
/// Raise [`IRQ_DMA`] at the end.
pub const COMMAND_IRQ: u64 = 4;

/// Where the internal buffer lies in the device's own addresses (not in the BAR).
pub const BUFFER: u64 = 0x40000;
/// Its size.
pub const BUFFER_LEN: u64 = 4096;
