//! What a record holds before it is sealed: a length and an SPDM message.

use crate::wire::WireError;
use crate::wire::bytes::{Writer, claimed};

/// Bytes of the length field.
const FIXED: usize = 2;

/// Checked view of a record's plaintext: the length field is what is there. Random padding after the message, which
/// PCIe forbids, is refused.
#[derive(Clone, Copy, Debug)]
pub struct PlainView<'a>(&'a [u8]);

impl<'a> PlainView<'a> {
    /// Checks the exact length.
    pub fn new(plain: &'a [u8]) -> Result<Self, WireError> {
        let short = WireError::Short { need: FIXED, got: plain.len() };
        let (len, message) = plain.split_first_chunk::<FIXED>().ok_or(short)?;
        claimed("application data length", u16::from_le_bytes(*len).into(), message.len())?;
        Ok(PlainView(message))
    }

    /// The SPDM message (offset 2).
    pub fn message(&self) -> &'a [u8] {
        self.0
    }
}

/// A record's plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain<'a> {
    /// The SPDM message.
    pub message: &'a [u8],
}

impl<'a> Plain<'a> {
    /// Checks the plaintext and takes its meaning.
    pub fn parse(plain: &'a [u8]) -> Result<Self, WireError> {
        Ok(Plain { message: PlainView::new(plain)?.message() })
    }

    /// Bytes of the whole plaintext.
    pub const fn size(&self) -> usize {
        FIXED.saturating_add(self.message.len())
    }

    /// Writes the plaintext to the start of `out` and says how many bytes it has. Fails for more than 65535 bytes.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let len = self.message.len();
        let field = u16::try_from(len).map_err(|_| WireError::TooLong { len, max: 0xFFFF })?;
        let mut writer = Writer::new(out, self.size())?;
        writer.put(&field.to_le_bytes());
        writer.put(self.message);
        Ok(writer.finish())
    }
}
