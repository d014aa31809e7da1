//! KP_ACK (3).

use super::{KeySlot, exact};
use crate::wire::WireError;
use crate::wire::bytes::{At, Writer};
use crate::wire::code::open_enum;

open_enum! {
    /// How a KEY_PROG ended.
    KpStatus: u8 {
        /// The key is programmed.
        Success = 0 "SUCCESS",
        /// The message has the wrong length.
        IncorrectLength = 1 "INCORRECT_LENGTH",
        /// No such port.
        UnsupportedPort = 2 "UNSUPPORTED_PORT",
        /// A field has a value that the port does not support.
        UnsupportedValue = 3 "UNSUPPORTED_VALUE",
        /// No reason given.
        Unspecified = 4 "UNSPECIFIED",
    }
}

/// Checked view of KP_ACK.
#[derive(Clone, Copy, Debug)]
pub struct KpAckView<'a>(&'a [u8; 7]);

impl<'a> KpAckView<'a> {
    /// Checks type and exact length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        exact(message, KpAck::CODE).map(Self)
    }

    /// Stream ID (offset 3).
    pub fn stream(&self) -> u8 {
        At::<3>::u8(self.0)
    }

    /// Status (offset 4).
    pub fn status(&self) -> KpStatus {
        At::<4>::u8(self.0).into()
    }

    /// Sub-stream, direction and key set (offset 5).
    pub fn slot(&self) -> KeySlot {
        KeySlot(At::<5>::u8(self.0))
    }

    /// PortIndex (offset 6).
    pub fn port(&self) -> u8 {
        At::<6>::u8(self.0)
    }
}

/// KP_ACK: the answer to KEY_PROG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KpAck {
    /// Stream ID.
    pub stream: u8,
    /// How it ended.
    pub status: KpStatus,
    /// Sub-stream, direction and key set.
    pub slot: KeySlot,
    /// PortIndex.
    pub port: u8,
}

impl KpAck {
    /// OBJECT_ID.
    pub const CODE: u8 = 3;

    /// Checks the message and takes its meaning.
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        let view = KpAckView::new(message)?;
        Ok(KpAck { stream: view.stream(), status: view.status(), slot: view.slot(), port: view.port() })
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        7
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::new(out, self.size())?;
        writer.put(&[Self::CODE, 0, 0, self.stream, self.status.into(), self.slot.0, self.port]);
        Ok(writer.finish())
    }
}
