//! SET_TDISP_CONFIG_REQUEST (0x8C) and SET_TDISP_CONFIG_RESPONSE (0x0C).
//!
//! PCIe 7.0 adds them. The layout here is from one independent implementation and was not held against the
//! specification's text, so the feature is off by default.

use bitflags::bitflags;

use super::bytes::{At, Writer, exact};
use super::header::bare_message;
use super::{Head, WireError};

bitflags! {
    /// What SET_TDISP_CONFIG asks for. Unknown bits are kept.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Config: u32 {
        /// XT_MODE_ENABLE: requests say whether they mean TEE memory.
        const XT_MODE = 1 << 0;
        /// XT_BIT_FOR_LOCKED_MSIX.
        const XT_BIT_FOR_LOCKED_MSIX = 1 << 1;
    }
}

/// Checked view of SET_TDISP_CONFIG_REQUEST.
#[derive(Clone, Copy, Debug)]
pub struct SetConfigView<'a>(&'a [u8; 20]);

impl<'a> SetConfigView<'a> {
    /// Checks type and exact length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        exact(message, SetConfig::CODE).map(Self)
    }

    /// The configuration (offset 16).
    pub fn config(&self) -> Config {
        Config::from_bits_retain(At::<16>::u32(self.0))
    }
}

/// SET_TDISP_CONFIG_REQUEST: choose how the TDI will work. Legal in CONFIG_UNLOCKED.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetConfig {
    /// What is asked for.
    pub config: Config,
}

impl SetConfig {
    /// The type byte of the message.
    pub const CODE: u8 = 0x8C;

    /// Checks the message and takes its meaning.
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        Ok(SetConfig { config: SetConfigView::new(message)?.config() })
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        20
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::begin(out, self.size(), Self::CODE, head)?;
        writer.put(&self.config.bits().to_le_bytes());
        Ok(writer.finish())
    }
}

bare_message! {
    /// SET_TDISP_CONFIG_RESPONSE: the TDI works as asked.
    SetConfigResponse, 0x0C
}
