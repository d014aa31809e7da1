//! GET_DEVICE_INTERFACE_STATE (0x85) and DEVICE_INTERFACE_STATE (0x05).

use super::bytes::{At, Writer, exact};
use super::header::bare_message;
use super::{Head, TdiState, WireError};

bare_message! {
    /// GET_DEVICE_INTERFACE_STATE: the only way to learn of ERROR. Legal in any state.
    GetState, 0x85
}

/// Checked view of DEVICE_INTERFACE_STATE.
#[derive(Clone, Copy, Debug)]
pub struct StateResponseView<'a>(&'a [u8; 17]);

impl<'a> StateResponseView<'a> {
    /// Checks type and exact length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        exact(message, StateResponse::CODE).map(Self)
    }

    /// TDI_STATE (offset 16).
    pub fn state(&self) -> TdiState {
        At::<16>::u8(self.0).into()
    }
}

/// DEVICE_INTERFACE_STATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateResponse {
    /// TDI_STATE.
    pub state: TdiState,
}

impl StateResponse {
    /// The type byte of the message.
    pub const CODE: u8 = 0x05;

    /// Checks the message and takes its meaning.
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        Ok(StateResponse { state: StateResponseView::new(message)?.state() })
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        17
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::begin(out, self.size(), Self::CODE, head)?;
        writer.put(&[self.state.into()]);
        Ok(writer.finish())
    }
}
