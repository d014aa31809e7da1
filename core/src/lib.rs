//! Regions that DMA may touch, channels that submit to devices, and revocation of a region while pollers run.
//!
//! A data plane registers memory as *regions* and hands out *handles*, which are plain values. A polling thread owns
//! a *channel* (one queue of one device) and submits operations that name spans of regions. Any thread may *revoke* a
//! region at any time: from then on no channel accepts it, what is in flight ends, posted writes are flushed, the
//! mapping is removed, and a report says how it went. The poller takes no lock for that and makes no system call.
//!
//! This crate knows no hardware. Device layers hand in mappings ([`Mapping`]), queues ([`Engine`]) and gates
//! ([`Gate`]); `tidegate-p2p` is one, `tidegate-tdisp` decides when a device may be stopped ([`tdi`]).
//!
//! # Copy something, then take the memory away
//!
//! ```
//! use tidegate_core::engine::cpu::Cpu;
//! use tidegate_core::*;
//!
//! // One fabric a process is usual: an epoch, a table of regions, one control thread.
//! let fabric = Fabric::builder().regions(64).build()?;
//!
//! // Regions are made of memory that the fabric keeps alive. No address comes out of them.
//! let memory = Memory::allocate("tutorial", 8192)?;
//! let from = fabric.register(memory.slice(0..4096)?, Access::Read)?;
//! let to = fabric.register(memory.slice(4096..8192)?, Access::ReadWrite)?;
//! from.write(0, b"hello")?;
//!
//! // A channel is `Send`, not `Sync`. `Cpu` copies in the polling thread; devices come from a device layer.
//! let poller = fabric.poller("worker 0");
//! let mut channel = fabric.channel(&poller, Cpu::new(64), ChannelConfig::default())?;
//!
//! // Everything happens in a section. Dropping it rings the doorbell.
//! let target = to.handle(); // a value: Copy, Send, checked at each submit
//! {
//!     let mut section = channel.pin()?;
//!     let copy = Op::copy(from.handle().span(0..5), target.span(0..5)).cookie(7);
//!     assert!(matches!(section.submit(copy), Submit::Queued(Ticket(1))));
//! }
//! let mut done = [Completion::EMPTY; 8];
//! assert_eq!(channel.pin()?.poll(&mut done), 1);
//! assert_eq!((done[0].cookie, done[0].status, done[0].len), (7, Status::Done, 5));
//! let mut bytes = [0; 5];
//! to.read(0, &mut bytes)?;
//! assert_eq!(&bytes, b"hello");
//!
//! // What may not be done is an answer, not a fault.
//! let beyond = Op::copy(from.handle().span(0..8), target.span(4092..4100));
//! assert_eq!(channel.pin()?.submit(beyond), Submit::Denied(Flow::Bounds));
//!
//! // Revoke. `wait` returns when nothing can touch the region any more; `turn` does the same without waiting.
//! let report = to.revoke(Cause::User, Deadline::millis(100, 1000)).wait()?;
//! assert!(report.is_clean());
//! let late = Op::copy(from.handle().span(0..5), target.span(0..5));
//! assert!(matches!(channel.pin()?.submit(late), Submit::Stale(_)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A wait for a revoke inside one's own section would wait for itself. It is an error at once:
//!
//! ```
//! # use tidegate_core::{engine::cpu::Cpu, *};
//! # let fabric = Fabric::builder().build()?;
//! # let region = fabric.register(Memory::allocate("own pin", 4096)?.backing(), Access::ReadWrite)?;
//! # let mut channel = fabric.channel(&fabric.poller("main"), Cpu::new(8), ChannelConfig::default())?;
//! let section = channel.pin()?;
//! let refused = region.revoke(Cause::User, Deadline::default()).wait();
//! assert!(matches!(refused, Err(WaitError::OwnPin { .. })));
//! drop(section); // the revoke itself goes on, on the control thread
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Tags
//!
//! A region is [`Private`] (TEE memory) or [`Shared`]. Which flows there are is decided when the program is compiled:
//!
//! ```compile_fail,E0277
//! # use tidegate_core::*;
//! fn leak(secret: Span<Private>, public: Span<Shared>) -> Op {
//!     Op::copy(secret, public) // bytes tagged `Private` must not flow to `Shared`
//! }
//! ```
//! ```
//! # use tidegate_core::*;
//! fn publish(ciphertext: Span<Private>, public: Span<Shared>) -> Op {
//!     Op::copy(ciphertext.declassify(Reason::Encrypted), public) // counted in `Counters::declassified`
//! }
//! ```
//!
//! What a device may change by itself (its TDI's state, a reset) is no type: it is checked at each submit, as a
//! generation and a few bits in the region's cache line.
//!
//! # Where to read on
//!
//! * [`Pinned`]: submit, poll, confirm. [`Submit`] and [`Status`]: the answers.
//! * [`drain`]: the phases of a revoke, both deadlines, quarantine, [`Gate`] and [`Quiesced`].
//! * [`engine`]: how to drive a device of one's own.
//! * [`mpsc`]: submitting from threads that own no channel.
//! * [`memory`]: huge pages, NUMA nodes, locking; pools of buffers. [`topology`]: which node a device or CPU is on.
//! * [`tdi`]: the traits between devices and the TDISP coordinator.
mod cause;
mod channel;
pub mod drain;
pub mod engine;
mod epoch;
mod fabric;
pub mod memory;
#[cfg(all(test, loom))]
mod model;
pub mod mpsc;
mod op;
mod region;
pub mod spsc;
mod sync;
mod tag;
pub mod tdi;
pub mod topology;

/// Of a build for ThreadSanitizer: what `ci/tsan` runs.
#[cfg(tidegate_tsan)]
#[doc(hidden)]
pub fn races() {
    epoch::race::all();
}

pub use cause::{Cause, Deadline};
pub use channel::{
    Channel, ChannelConfig, Counters, Denials, Pinned, Reach, Seat, Seized, Unconfirmable, Use,
};
pub use drain::{Gate, GateClosed, Quiesce, QuiesceError, Quiesced, Revocation, WaitError};
pub use engine::Engine;
pub use epoch::BarrierMode;
pub use fabric::{
    ChannelError, ChannelState, DomainId, Fabric, FabricBuilder, Poller, RegionUse, Revocable, RevokeTotals,
    Snapshot, Stalled,
};
pub use memory::{Backing, Memory, MemoryError, page_size};
pub use op::{Completion, Flow, Op, OpKind, OpList, Status, Submit, Ticket};
pub use region::{Access, Class, Extent, Generation, Handle, MapError, Mapping, Region, RegionError, Span};
pub use tag::{Declassified, FlowsTo, Private, Reason, RegionTag, Shared, Tag};
