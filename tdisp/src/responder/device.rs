//! What the DSM asks of the device and of the source of random numbers.

use crate::report::InterfaceReport;
use crate::state::State;
use crate::state::event::SessionId;
use crate::wire::{FunctionId, LockFlags, LockRequest, MmioRange, VendorData};
use alloc::vec::Vec;

/// The device that a DSM speaks for. A call must not wait.
pub trait Device {
    /// What protects the TDI's traffic. Default: nothing, and any stream id is accepted.
    fn ide(&self, function: FunctionId) -> Ide {
        let _ = function;
        Ide::NotRequired
    }

    /// Reasons of the device's own against this LOCK: overlapping BARs, phantom functions, a bad cache line size,
    /// earlier work that cannot be aborted yet. No side effect: the LOCK can still fail. Default: none.
    fn check_lock(&self, function: FunctionId, lock: &LockRequest) -> Result<(), Objection> {
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
    /// nothing is outstanding; again with the next STOP after [`Scrub::Pending`]. From the first call on the TDI
    /// starts nothing new: the DSM will not start it, bind a stream or change an attribute until it was locked anew.
    fn scrub(&mut self, function: FunctionId) -> Scrub;

    /// The session through which *every* key of every sub-stream of this stream was programmed. `None` where a
    /// direct P2P stream of this id cannot be bound: there is none, a key is missing or came through another
    /// session, two registers have the id, its address associations overlap others, ATS is off. Default: there is
    /// none. Asked where the settings have [`OptionalRequests::P2P_STREAMS`](super::OptionalRequests::P2P_STREAMS).
    fn p2p_stream(&self, function: FunctionId, stream: u8) -> Option<SessionId> {
        let _ = (function, stream);
        None
    }

    /// Operations of the TDI that are in flight on this direct P2P stream. While there is one, an UNBIND is answered
    /// BUSY. Default: everything that is in flight.
    fn outstanding_on(&self, function: FunctionId, stream: u8) -> u64 {
        let _ = stream;
        self.outstanding(function)
    }

    /// Reasons of the device's own against making these *physical* pages private or shared. They lie in one
    /// updatable range of the report. Default: none. Asked where the settings have
    /// [`OptionalRequests::MMIO_ATTRIBUTE`](super::OptionalRequests::MMIO_ATTRIBUTE).
    fn check_attribute(&self, function: FunctionId, range: &MmioRange) -> Result<(), Objection> {
        let _ = (function, range);
        Ok(())
    }

    /// Answers a vendor's request: appends the vendor's data to `data`; the response names the same registry and
    /// vendor. Default: unsupported. Asked where the settings have
    /// [`OptionalRequests::VENDOR_DEFINED`](super::OptionalRequests::VENDOR_DEFINED).
    fn vendor_defined(
        &mut self,
        function: FunctionId,
        state: State,
        request: VendorData<'_>,
        data: &mut Vec<u8>,
    ) -> Result<(), VendorRefusal> {
        let _ = (function, state, request, data);
        Err(VendorRefusal::Unsupported)
    }
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

/// Why the device refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Objection {
    /// A field of the request cannot be honoured: INVALID_REQUEST.
    Request,
    /// The configuration forbids it: INVALID_DEVICE_CONFIGURATION.
    Configuration,
    /// Not now: BUSY.
    Busy,
}

/// Why the device refuses a vendor's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VendorRefusal {
    /// It does not know the vendor or the request: UNSUPPORTED_REQUEST.
    Unsupported,
    /// A field cannot be honoured: INVALID_REQUEST.
    Request,
    /// Not in this state: INVALID_INTERFACE_STATE.
    State,
    /// Not now: BUSY.
    Busy,
    /// A reason of the vendor's own, which stands in the data: VENDOR_SPECIFIC_ERROR.
    Vendor,
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

/// The operating system's source of random numbers: `/dev/urandom`, opened and read anew each time.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

#[cfg(feature = "std")]
impl Entropy for SystemEntropy {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), NoEntropy> {
        use std::io::Read;
        let mut source = std::fs::File::open("/dev/urandom").map_err(|_| NoEntropy)?;
        source.read_exact(out).map_err(|_| NoEntropy)
    }
}
