//! What can be wrong with the bytes of a message.

use thiserror::Error;

/// Why bytes are not the message that was asked for, or why a message could not be written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// Fewer bytes than a header. A responder cannot answer such a request at all.
    #[error("{got} bytes, at least {need} are needed for the header")]
    Short {
        /// Bytes of the header.
        need: usize,
        /// Bytes that there were.
        got: usize,
    },
    /// The message type is not one that this side understands.
    #[error("message type {code:#04x} is not known")]
    UnknownCode {
        /// The message type byte.
        code: u8,
    },
    /// The message is of another type than the view that was asked for.
    #[error("message type {got:#04x} where {expected:#04x} was expected")]
    Type {
        /// The type of the view.
        expected: u8,
        /// The type in the message.
        got: u8,
    },
    /// The length is not the one that the type, or a length field in the message, demands.
    #[error("message type {code:#04x} has {got} bytes instead of {expected}")]
    Length {
        /// The message type byte.
        code: u8,
        /// Bytes that the message must have (at least, where the message has a variable part that is not there).
        expected: usize,
        /// Bytes that it has.
        got: usize,
    },
    /// A length field inside the message does not agree with the bytes that are there.
    #[error("{field} says {claimed} bytes, there are {got}")]
    Claim {
        /// The length field, by its name in the specification.
        field: &'static str,
        /// What it says.
        claimed: usize,
        /// Bytes that there are.
        got: usize,
    },
    /// The message belongs to another standard or vendor than PCI-SIG.
    #[error("standard {standard:#06x}, vendor id of {vendor_len} bytes: not a message of PCI-SIG")]
    NotPciSig {
        /// StandardID.
        standard: u16,
        /// Bytes of the vendor id.
        vendor_len: usize,
    },
    /// TDISP_VERSION names no version at all.
    #[error("TDISP_VERSION with an empty list of versions")]
    NoVersions,
    /// The part of a message that has a length field is longer than the field can say.
    #[error("{len} bytes do not fit a length field that ends at {max}")]
    TooLong {
        /// Bytes that were to be written.
        len: usize,
        /// The most that the field can say.
        max: usize,
    },
    /// The buffer to write to is too small.
    #[error("the message needs {need} bytes and the buffer has {have}")]
    Room {
        /// Bytes of the message.
        need: usize,
        /// Bytes of the buffer.
        have: usize,
    },
}
