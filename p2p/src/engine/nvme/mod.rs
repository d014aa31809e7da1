//! NVMe: I/O queues of a controller, whose medium is a namespace.
//!
//! [`tidegate_core::Op::read`] brings blocks of the namespace to host memory or straight into another device's BAR,
//! [`tidegate_core::Op::write`] takes them from there. Positions are in bytes. A position and a length are multiples of the
//! block ([`Nvme::seen`]), and a transfer is no longer than the controller takes at once; other ones are refused.
//! [`deallocate`] makes Dataset Management of a list of blocks; what flushes the controller's write cache is a fence, where
//! the driver was told so ([`Nvme::fences`]). Copies and fills are refused.
//!
//! Each engine has a pair of queues of its own. The controller and its admin queue are the device's: the first engine brings
//! them up, the last one takes them down. A section's commands are rung for once; a poll reads memory only, and writes one
//! register if it found something.
//!
//! # Addresses
//!
//! Where the controller takes scatter-gather lists, an operation is one descriptor in its command, and a list of operations is
//! one command. Where it takes pages only (or [`Nvme::pages_only`] was asked for), an address is a multiple of 4, and a list
//! is one command if its pieces meet at pages; else it becomes one command a piece, if the pieces are whole blocks.
//!
//! What is longer than the controller takes at once is a list of shorter pieces: it becomes one command a piece.
//!
//! # The controller memory buffer
//!
//! Commands of an I/O queue ([`Nvme::commands_in_buffer`]) and the admin queues ([`Nvme::admin_queues`]) may lie in the
//! controller's own memory (CMB), if it has one of which the host chooses the address: NVMe 1.4 or newer. Queue n has the
//! [`QUEUE_SHARE`] bytes from (n - 1) * `QUEUE_SHARE` on, the admin queues have the last [`ADMIN_SHARE`] bytes. What is left
//! may be exported as a target for peers. What queues are in is withheld ([`Resources::withhold`]): whoever writes there writes
//! commands.
//!
//! A stop or reset may leave anything there, so the phases of completions are cleared, and read back, before each start. As
//! long as the controller may still run, its addresses are kept with the rest.
//!
//! # Reading back
//!
//! See `check.rs` in the source for the commands, and [`crate::engine`] for what a checked read proves. In short: a
//! window is read by Compare with a block that was read into it before, of which the CPU has seen that no dead mapping
//! gives its bytes; nothing is written to the namespace.
//!
//! *Why it holds.* Compare fetches the bytes with memory reads of the same function, which do not pass the posted writes of
//! commands that had completed. It succeeds only if all of a block's bytes came back. It is confirmed that they are telling
//! before and after, so a dead mapping, which gives zeros, ones or nothing, can't have given them.
//!
//! *Where it does not.* A controller that neither fails a command whose data it could not fetch nor compares anything but
//! what it has of the medium itself is not told apart; the comparison with a block's complement, which must fail, is there to
//! catch it. Somebody who changes the block to what a dead mapping gives and back, in the time of two commands, is not seen.
//! A window that was reached by no whole block, or by blocks of zeros and ones only, is read for the order alone:
//! unconfirmed. That a comparison fails proves nothing: whether the window is dead or somebody wrote there Compare does not
//! tell, so this engine never says [`super::code::DEAD_WINDOW`].
//!
//! *Where it is impossible.* A controller without Compare, or a window smaller than a block: the read-back is refused, and a
//! drain takes the forced path.
//!
//! # Stopping
//!
//! A cancel deletes the submission queue, by which all its commands end, then the completion queue. If the controller does
//! not do that within a second, it is stopped as a whole (CC.EN), with all its queues: their engines end what comes new with
//! [`super::code::FAILED`], and resume when they are cancelled. None of it waits or sleeps.

pub mod abi;
mod buffer;
mod check;
mod command;
#[cfg(test)]
mod conformance;
mod controller;
mod data;
mod engine;
mod identify;
mod known;
mod pair;
mod power;
mod prp;
mod queue;
mod sgl;
#[cfg(test)]
mod tests;

pub use command::Range;
pub use identify::{Features, Namespace, Sgl};
pub use queue::NvmeEngine;

use crate::backend::Backend;
use crate::device::{Driver, DriverError, Resources};
use controller::Controller;
use std::sync::{Arc, OnceLock};
use tidegate_core::{FlowsTo, Op, Shared, Span};

/// Most operations in flight of one engine.
pub const MOST_DEPTH: u32 = 1022;
/// Most bytes of an operation, if the controller takes as many.
pub const MOST_BYTES: u64 = 1 << 20;
/// Most ranges of a list for [`deallocate`].
pub const MOST_RANGES: u64 = 256;

/// Bytes of the controller memory buffer that an I/O queue's commands have.
pub const QUEUE_SHARE: u64 = 64 << 10;
/// Bytes at its end that the admin queues have, if they are there.
pub const ADMIN_SHARE: u64 = 8 << 10;

/// The position that stands for Dataset Management: beyond every namespace.
const DEALLOCATE: u64 = 1 << 63;

/// Tells the controller that blocks are not needed any more: `list` holds 1 to 256 [`Range`]s as [`Range::encode`] lays them
/// out. What such blocks read afterwards is the controller's business (usually zeros). Like a write: other operations on the
/// same blocks are not ordered with it. Refused by controllers without Dataset Management. It is advice: a range outside of
/// the namespace ends it with the controller's code, or is passed over (as QEMU's does).
pub fn deallocate<S: FlowsTo<Shared>>(list: Span<S>) -> Op {
    Op::write(list, DEALLOCATE)
}

/// What a fence does beside ordering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fences {
    /// Nothing.
    Order,
    /// It completes when what was completed before it, by whatever queue, is on the medium (Flush). What follows it starts
    /// after that.
    Flush,
}

/// Where the admin queues are. They carry what makes and deletes I/O queues, not what moves data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminQueues {
    /// Both in host memory.
    Host,
    /// Commands in the controller memory buffer, which takes CMBSZ.SQS. Completions in host memory.
    CommandsInBuffer,
    /// Both in the buffer, which takes CMBSZ.SQS and CQS. Each look for a completion is then a read over PCIe, a microsecond
    /// or so: in `open` and while a queue is made or deleted, never while I/O goes on.
    InBuffer,
}

impl AdminQueues {
    fn name(self) -> &'static str {
        match self {
            AdminQueues::Host => "host memory",
            AdminQueues::CommandsInBuffer => "the memory buffer, for commands",
            AdminQueues::InBuffer => "the memory buffer",
        }
    }
}

/// Opens a pair of queues of an NVMe controller as a channel's engine. A clone opens another.
#[derive(Debug, Clone)]
pub struct Nvme {
    namespace: u32,
    queue: u16,
    depth: u32,
    fences: Fences,
    pages_only: bool,
    buffer: bool,
    admin: Option<AdminQueues>,
    seen: Arc<OnceLock<(Features, Namespace)>>,
}

impl Nvme {
    /// For namespace number `namespace` (the first one is 1), by queue 1 with 255 operations in flight.
    pub fn namespace(namespace: u32) -> Nvme {
        Nvme {
            namespace,
            queue: 1,
            depth: 255,
            fences: Fences::Order,
            pages_only: false,
            buffer: false,
            admin: None,
            seen: Arc::default(),
        }
    }

    /// By queue `queue`, from 1 on: one engine each.
    pub fn queue(self, queue: u16) -> Nvme {
        Nvme { queue, ..self }
    }

    /// Operations in flight at most: 1 to [`MOST_DEPTH`]. Fewer if the controller has smaller queues.
    pub fn depth(self, depth: u32) -> Nvme {
        Nvme { depth: depth.clamp(1, MOST_DEPTH), ..self }
    }

    /// What a fence does.
    pub fn fences(self, fences: Fences) -> Nvme {
        Nvme { fences, ..self }
    }

    /// Physical region pages even if the controller takes scatter-gather lists.
    pub fn pages_only(self) -> Nvme {
        Nvme { pages_only: true, ..self }
    }

    /// Commands in the controller's memory buffer: the controller fetches them without a way to host memory. `open` fails
    /// with [`DriverError::Lacks`] if it has none for that. Completions stay in host memory, where a poll finds them cheaply.
    pub fn commands_in_buffer(self) -> Nvme {
        Nvme { buffer: true, ..self }
    }

    /// Where the admin queues are. There is one pair of them for all engines of the device, so the first one that is opened
    /// decides, for as long as there are any: one that asks for something else then gets [`DriverError::Differs`]. Without
    /// this it is as the first one has it; the first one without it has them in host memory. A controller that has no such
    /// place is refused with [`DriverError::Lacks`] before it is touched: who has it on, keeps it on.
    pub fn admin_queues(self, admin: AdminQueues) -> Nvme {
        Nvme { admin: Some(admin), ..self }
    }

    /// What was found when an engine was opened with this driver or a clone of it.
    pub fn seen(&self) -> Option<(Features, Namespace)> {
        self.seen.get().copied()
    }
}

impl<B: Backend> Driver<B> for Nvme {
    type Engine = NvmeEngine<B>;

    /// Brings the controller up, if no other engine has it, and makes the queues. Sleeps: as long as the controller asks for
    /// (CAP.TO) and ten seconds at most.
    fn open(self, resources: Resources<B>) -> Result<NvmeEngine<B>, DriverError> {
        let at = resources.address();
        let claim = match self.queue {
            0 => return Err(DriverError::Queue { at, queue: 0, entries: self.depth }),
            queue => resources.claim(u32::from(queue))?,
        };
        let admin = self.admin.unwrap_or(AdminQueues::Host);
        let controller = resources.shared(|| Controller::open(&resources, admin))?;
        if self.admin.is_some_and(|admin| admin != controller.admin) {
            let (has, asked) = (controller.admin.name(), admin.name());
            return Err(DriverError::Differs { at, what: "admin queues", has, asked });
        }
        let data = controller.namespace(&resources, self.namespace)?;
        let namespace =
            Namespace::parse(self.namespace, &data).map_err(|what| DriverError::Unresponsive { at, what })?;
        // Another engine may have been first: then it saw the same.
        let _ = self.seen.set((controller.features, namespace));
        NvmeEngine::open(&self, &resources, controller, claim, namespace)
    }
}
