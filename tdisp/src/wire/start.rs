//! START_INTERFACE_REQUEST (0x86) and START_INTERFACE_RESPONSE (0x06).

use super::bytes::{At, Writer, exact};
use super::header::bare_message;
use super::{Head, NonceRef, WireError};

/// Checked view of START_INTERFACE_REQUEST.
#[derive(Clone, Copy)]
pub struct StartRequestView<'a>(&'a [u8; 48]);

impl<'a> StartRequestView<'a> {
    /// Checks type and exact length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        exact(message, StartRequest::CODE).map(Self)
    }

    /// START_INTERFACE_NONCE (offset 16).
    pub fn nonce(&self) -> NonceRef<'a> {
        NonceRef::new(At::<16>::array(self.0))
    }
}

/// START_INTERFACE_REQUEST: go to RUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartRequest<'a> {
    /// The nonce of the LOCK.
    pub nonce: NonceRef<'a>,
}

impl<'a> StartRequest<'a> {
    /// The type byte of the message.
    pub const CODE: u8 = 0x86;

    /// Checks the message and takes its meaning.
    pub fn parse(message: &'a [u8]) -> Result<Self, WireError> {
        Ok(StartRequest { nonce: StartRequestView::new(message)?.nonce() })
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        48
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::begin(out, self.size(), Self::CODE, head)?;
        writer.put(self.nonce.bytes());
        Ok(writer.finish())
    }
}

bare_message! {
    /// START_INTERFACE_RESPONSE: the TDI is in RUN.
    StartResponse, 0x06
}
