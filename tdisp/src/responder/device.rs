//! What the DSM asks of the device and of the source of random numbers.

use crate::report::InterfaceReport;
use crate::state::event::SessionId;
use crate::wire::{FunctionId, LockFlags, LockRequest};

/// The device that a DSM speaks for. A call must not wait.
pub trait Device {
    /// What protects the TDI's traffic. Default: nothing, and any stream id is accepted.
    fn ide(&self, function: FunctionId) -> Ide {
        let _ = function;
        Ide::NotRequired
    }

    /// Reasons of the device's own against this LOCK: overlapping BARs, phantom functions, a bad cache line size,
    /// earlier work that cannot be aborted yet. No side effect: the LOCK can still fail. Default: none.
    fn check_lock(&self, function: FunctionId, lock: &LockRequest) -> Result<(), LockRefusal> {
        let _ = (function, lock);
        Ok(())
    }

    /// What the report shall say, with the *physical* page numbers of the ranges: the DSM adds the reporting
    /// offset. Ranges with MSI-X bits, MSI_X_MESSAGE_CONTROL and TPH_CONTROL are left out where `flags` does not
    /// lock the table.
    fn describe(&self, function: FunctionId, flags: LockFlags) -> InterfaceReport;

    /// Operations of the TDI that are in flight at this moment, counted by the device itself. While there is one,
    /// a STOP is answered BUSY.
    fn outstanding(&self, function: FunctionId) -> u64;

    /// Wipes the trust domain's data and secrets. Called by each STOP of a TDI that is not CONFIG_UNLOCKED, once
    /// nothing is outstanding; again with the next STOP after [`Scrub::Pending`].
    fn scrub(&mut self, function: FunctionId) -> Scrub;
}

/// The IDE default stream of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ide {
    /// The device needs none (an endpoint inside the root complex, or the soft fabric).
    NotRequired,
    /// A sub-stream has no keys, or the keys of several sessions.
    Unkeyed,
    /// Every sub-stream has keys, and they came through this session.
    Keyed {
        /// The id of the default stream.
        stream: u8,
        /// The SPDM session through which its keys were programmed.
        session: SessionId,
    },
}

/// Why the device refuses a LOCK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockRefusal {
    /// A field of the request cannot be honoured: INVALID_REQUEST.
    Request,
    /// The configuration forbids it: INVALID_DEVICE_CONFIGURATION.
    Configuration,
    /// Not now: BUSY.
    Busy,
}

/// How far a scrub is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scrub {
    /// Nothing of the trust domain is left.
    Done,
    /// It goes on; STOP is answered BUSY.
    Pending,
}

/// There are no random numbers now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the source of random numbers failed")]
pub struct NoEntropy;

/// A source of random numbers that an attacker cannot guess.
pub trait Entropy {
    /// Fills `out`, wholly or not at all.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), NoEntropy>;
}

impl<F: FnMut(&mut [u8]) -> Result<(), NoEntropy>> Entropy for F {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), NoEntropy> {
        self(out)
    }
}
