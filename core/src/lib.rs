//! Tidegate's heart: being written.
mod cause;
mod channel;
pub mod drain;
pub mod engine;
mod epoch;
mod fabric;
mod memory;
mod op;
mod region;
mod sync;
mod tag;
pub mod tdi;

pub use cause::{Cause, Deadline};
pub use channel::{Channel, ChannelConfig, Counters, Pinned, Reach, Seat, Seized};
pub use drain::{Gate, GateClosed, Quiesce, QuiesceError, Quiesced, Revocation, WaitError};
pub use engine::Engine;
pub use epoch::BarrierMode;
pub use fabric::{ChannelError, ChannelState, DomainId, Fabric, FabricBuilder, Poller, Revocable, Snapshot};
pub use memory::{Backing, Memory, MemoryError, page_size};
pub use op::{Completion, Flow, Op, OpKind, Status, Submit, Ticket};
pub use region::{Access, Class, Extent, Generation, Handle, MapError, Mapping, Region, RegionError, Span};
pub use tag::{Declassified, FlowsTo, Private, Reason, RegionTag, Shared, Tag};
