//! Why a request did not do what was asked.

use alloc::string::String;
use alloc::vec::Vec;
use thiserror::Error;

use crate::state::UnknownState;
use crate::wire::{
    ErrorCode, FunctionId, LockFlags, Registry, RequestCode, ResponseCode, TdiState, Version, WireError,
};

/// Why a request failed. Whatever it was, nothing is known of the TDI's state but what a later
/// GET_DEVICE_INTERFACE_STATE says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The response (or the request, where it could not be written) is malformed.
    #[error("malformed message: {0}")]
    Wire(#[from] WireError),
    /// The peer answered TDISP_ERROR; by the specification the TDI's state did not change.
    #[error("{request:?} was refused with {code:?} (data {data:#x})")]
    Refused {
        /// What was asked.
        request: RequestCode,
        /// ERROR_CODE.
        code: ErrorCode,
        /// ERROR_DATA.
        data: u32,
    },
    /// The peer answered VENDOR_SPECIFIC_ERROR; the TDI's state did not change.
    #[error("{request:?} was refused for a reason of the vendor's, in {} bytes", extended.len())]
    VendorSpecific {
        /// What was asked.
        request: RequestCode,
        /// EXTENDED_ERROR_DATA, as it came: [`VendorData::parse`](crate::wire::VendorData::parse) reads it.
        extended: Vec<u8>,
    },
    /// The response to a VDM is another vendor's.
    #[error("the response is of the vendor {vendor:02x?} in {registry:?}, the request was not")]
    WrongVendor {
        /// REGISTRY_ID of the response.
        registry: Registry,
        /// VENDOR_ID of the response.
        vendor: Vec<u8>,
    },
    /// The peer was busy each time.
    #[error("{request:?} was answered BUSY {attempts} times")]
    Busy {
        /// What was asked.
        request: RequestCode,
        /// How often in a row.
        attempts: u32,
    },
    /// The response has a type that no specification defines: as good as a TDISP_ERROR.
    #[error("{request:?} was answered with the undefined type {code:#04x}")]
    Undefined {
        /// What was asked.
        request: RequestCode,
        /// The type byte of the response.
        code: u8,
    },
    /// The response belongs to another request.
    #[error("{request:?} was answered with {response:?}")]
    Unexpected {
        /// What was asked.
        request: RequestCode,
        /// What came.
        response: ResponseCode,
    },
    /// The response is about another interface.
    #[error("the response is about {got}, the request was about {expected}")]
    WrongInterface {
        /// Whom the request named.
        expected: FunctionId,
        /// Whom the response names.
        got: FunctionId,
    },
    /// The response has another version than the request.
    #[error("the response has version {got} where {expected} was asked")]
    WrongVersion {
        /// The version of the request.
        expected: Version,
        /// The version of the response.
        got: Version,
    },
    /// The peer speaks no version that we do.
    #[error("no common version; the peer speaks {offered:?}")]
    NoCommonVersion {
        /// What the peer offered.
        offered: Vec<Version>,
    },
    /// The peer does not support a request that is mandatory.
    #[error("the peer does not support the mandatory {missing:?}")]
    MissingMessages {
        /// Which ones.
        missing: Vec<RequestCode>,
    },
    /// The peer's capabilities do not have the request.
    #[error("the peer does not support {request:?}")]
    UnsupportedRequest {
        /// Which one.
        request: RequestCode,
    },
    /// The peer's capabilities do not have a flag that the LOCK was to ask for.
    #[error("the peer does not support the lock flags {flags:?}")]
    UnsupportedFlags {
        /// Which ones.
        flags: LockFlags,
    },
    /// The peer breaks the rules of the report loop.
    #[error("the report cannot be read: {0}")]
    Portion(#[from] PortionError),
    /// The peer answered STOP and is not in CONFIG_UNLOCKED after it.
    #[error("the TDI answered STOP and is in {state:?}")]
    NotUnlocked {
        /// The state after the STOP.
        state: TdiState,
    },
    /// The peer named a state that does not exist.
    #[error("the peer named a state that does not exist: {0}")]
    State(#[from] UnknownState),
    /// START without the nonce of a LOCK.
    #[error("there is no nonce: the TDI was not locked, or was stopped or seen in ERROR since")]
    NoNonce,
    /// The message did not get through.
    #[error("transport: {0}")]
    Transport(#[from] TransportError),
}

impl RequestError {
    /// Whether the peer said that it did not do it, or was not asked: then nothing has changed there.
    pub fn changed_nothing(&self) -> bool {
        matches!(
            self,
            RequestError::Refused { .. }
                | RequestError::VendorSpecific { .. }
                | RequestError::Busy { .. }
                | RequestError::UnsupportedRequest { .. }
                | RequestError::UnsupportedFlags { .. }
        )
    }
}

/// How a peer broke the rules of the report loop.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PortionError {
    /// An empty portion: the loop would never end.
    #[error("empty portion at offset {offset}, {remainder} bytes said to remain")]
    Empty {
        /// Where the portion was to start.
        offset: u16,
        /// What the peer says is left.
        remainder: u16,
    },
    /// More bytes than were asked for.
    #[error("{got} bytes where at most {asked} were asked for")]
    TooLong {
        /// The length in the request.
        asked: u16,
        /// The length of the portion.
        got: usize,
    },
    /// The remainder is not the previous one less this portion.
    #[error("remainder {got} where {expected} follows from the portion before")]
    Remainder {
        /// What must be left.
        expected: u16,
        /// What the peer says.
        got: u16,
    },
    /// The whole report is larger than the limit.
    #[error("a report of {total} bytes, at most {limit} are taken")]
    TooLarge {
        /// The first portion and its remainder.
        total: usize,
        /// The limit.
        limit: u16,
    },
}

/// Why a message did not get through, or its response did not come back.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The session or the mailbox is gone.
    #[error("the transport is closed")]
    Closed,
    /// No response in time.
    #[error("no response in time")]
    TimedOut,
    /// The peer says that it has no response.
    #[error("the peer gave no response")]
    NoResponse,
    /// What came back is not what the transport carries.
    #[error("{what} is no response")]
    Garbled {
        /// The beginning of it.
        what: String,
    },
    /// An error of the operating system.
    #[error("{op}: errno {errno}")]
    Os {
        /// The operation.
        op: &'static str,
        /// Its errno.
        errno: i32,
    },
}
