//! Registers of the 82576 that this engine uses, in BAR 0 ("Intel 82576EB Gigabit Ethernet Controller Datasheet", revision
//! 2.63, chapter 8). All are 32 bits wide.

/// Size of BAR 0.
pub(super) const BAR_LEN: u64 = 0x2_0000;
/// Queues of each direction.
pub(super) const QUEUES: u32 = 16;

/// Device control.
pub(super) const CTRL: u64 = 0x0000;
/// Ask the function to make no more requests; [`STATUS_MASTER`] tells when it has stopped.
pub(super) const CTRL_MASTER_DISABLE: u32 = 1 << 2;
/// Set the link up.
pub(super) const CTRL_SET_LINK_UP: u32 = 1 << 6;
/// Reset all but the PHY and the configuration space; clears itself.
pub(super) const CTRL_RESET: u32 = 1 << 26;
/// Strip VLAN tags.
pub(super) const CTRL_VLAN: u32 = 1 << 30;

/// Device status.
pub(super) const STATUS: u64 = 0x0008;
/// The link is up.
pub(super) const STATUS_LINK: u32 = 1 << 1;
/// The function may make requests, or has some under way.
pub(super) const STATUS_MASTER: u32 = 1 << 19;

/// More device control.
pub(super) const CTRL_EXT: u64 = 0x0018;
/// No request is ever relaxed in its order.
pub(super) const CTRL_EXT_STRICT_ORDER: u32 = 1 << 17;
/// A driver has the device: management firmware leaves the link alone.
pub(super) const CTRL_EXT_DRIVER: u32 = 1 << 28;

/// Access to the PHY's registers.
pub(super) const MDIC: u64 = 0x0020;
/// PHY 1, the one inside.
pub(super) const MDIC_PHY: u32 = 1 << 21;
pub(super) const MDIC_WRITE: u32 = 1 << 26;
pub(super) const MDIC_READ: u32 = 2 << 26;
pub(super) const MDIC_READY: u32 = 1 << 28;
pub(super) const MDIC_ERROR: u32 = 1 << 30;
/// Where the number of the PHY's register goes.
pub(super) const MDIC_REGISTER: u32 = 16;

/// The PHY's control register (IEEE 802.3, 22.2.4.1), and its identifier (22.2.4.3.1).
pub(super) const PHY_CONTROL: u32 = 0;
pub(super) const PHY_ID: u32 = 2;
/// Negotiate, and begin anew.
pub(super) const PHY_CONTROL_NEGOTIATE: u32 = 1 << 12 | 1 << 9;
/// First half of the identifier of the PHY in an 82576.
pub(super) const PHY_ID_VALUE: u32 = 0x02a8;

/// Interrupt causes to be masked: legacy, and of vectors. Interrupt causes; a read clears them.
pub(super) const IMC: u64 = 0x150c;
pub(super) const EIMC: u64 = 0x1528;
pub(super) const ICR: u64 = 0x1500;

/// Receive control.
pub(super) const RCTL: u64 = 0x0100;
pub(super) const RCTL_ENABLE: u32 = 1 << 1;
/// Take what is addressed to anybody: unicast, multicast, broadcast.
pub(super) const RCTL_ALL: u32 = 1 << 3 | 1 << 4 | 1 << 15;
/// Take frames up to [`RLPML`], whatever that is.
pub(super) const RCTL_LONG: u32 = 1 << 5;
/// Keep the frame's check sequence to itself.
pub(super) const RCTL_STRIP_CHECK: u32 = 1 << 26;
/// Longest frame taken, its check sequence included.
pub(super) const RLPML: u64 = 0x5004;
/// Receive checksum control; 0: none is checked.
pub(super) const RXCSUM: u64 = 0x5000;
/// How receive queues are shared out; 0: everything goes to queue 0.
pub(super) const MRQC: u64 = 0x5818;

/// Transmit control.
pub(super) const TCTL: u64 = 0x0400;
pub(super) const TCTL_ENABLE: u32 = 1 << 1;
/// Pad short frames.
pub(super) const TCTL_PAD: u32 = 1 << 3;
/// Collision threshold and distance (half duplex only), as the datasheet has them.
pub(super) const TCTL_COLLISIONS: u32 = 0x0f << 4 | 0x40 << 12;

/// Where a ring's registers are.
pub(super) const RECEIVE: u64 = 0xc000;
pub(super) const TRANSMIT: u64 = 0xe000;
const STRIDE: u64 = 0x40;

/// Within a ring's registers: address (a multiple of 128) in two halves, bytes (likewise), head, tail.
pub(super) const BASE_LOW: u64 = 0x00;
pub(super) const BASE_HIGH: u64 = 0x04;
pub(super) const LENGTH: u64 = 0x08;
/// Receive only: size of buffers, kind of descriptors.
pub(super) const SPLIT: u64 = 0x0c;
pub(super) const HEAD: u64 = 0x10;
/// Hints to caches, and what may pass what: 0, nothing.
pub(super) const ORDER: u64 = 0x14;
pub(super) const TAIL: u64 = 0x18;
pub(super) const CONTROL: u64 = 0x28;
/// Transmit only: where the head is to be written instead of descriptors; 0: nowhere.
pub(super) const HEAD_LOW: u64 = 0x38;
pub(super) const HEAD_HIGH: u64 = 0x3c;

/// In [`CONTROL`]: the queue is on. Clears itself late after it was cleared: when the queue has come to rest.
pub(super) const CONTROL_ENABLE: u32 = 1 << 25;
/// In [`CONTROL`]: fetch in groups of 8, write each descriptor back at once.
pub(super) const CONTROL_THRESHOLDS: u32 = 8 | 8 << 8 | 1 << 16;

/// In [`SPLIT`]: kinds of descriptors.
pub(super) const ONE_BUFFER: u32 = 1 << 25;
pub(super) const SPLIT_ALWAYS: u32 = 5 << 25;
/// In [`SPLIT`]: header buffers in units of 64 bytes from this bit on; packet buffers in units of [`BUFFER_UNIT`] from bit 0.
pub(super) const HEADER: u32 = 8;
pub(super) const HEADER_UNIT: u32 = 64;
pub(super) const BUFFER_UNIT: u32 = 1024;

/// A register of a receive queue.
pub(super) const fn receive(queue: u32, register: u64) -> u64 {
    RECEIVE + queue as u64 * STRIDE + register
}

/// A register of a transmit queue.
pub(super) const fn transmit(queue: u32, register: u64) -> u64 {
    TRANSMIT + queue as u64 * STRIDE + register
}
