//! GET_TDISP_VERSION (0x81) and TDISP_VERSION (0x01).

use super::bytes::{At, Writer, prefix};
use super::header::bare_message;
use super::{Head, Version, WireError};

bare_message! {
    /// GET_TDISP_VERSION: which versions do you speak? Legal in any state, answered for any version of major 1.
    GetVersion, 0x81
}

/// Bytes in front of the variable part.
const FIXED: usize = 17;

/// Checked view of TDISP_VERSION: VERSION_NUM_COUNT (offset 16) is at least one and says the exact length.
#[derive(Clone, Copy, Debug)]
pub struct VersionResponseView<'a> {
    entries: &'a [u8],
}

impl<'a> VersionResponseView<'a> {
    /// Checks type, length and count.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        let code = VersionResponse::CODE;
        let (fixed, entries) = prefix::<FIXED>(message, code)?;
        let count = usize::from(At::<16>::u8(fixed));
        if count == 0 {
            return Err(WireError::NoVersions);
        }
        if entries.len() != count {
            let expected = count.saturating_add(FIXED);
            return Err(WireError::Length { code, expected, got: message.len() });
        }
        Ok(VersionResponseView { entries })
    }

    /// VERSION_NUM_ENTRY, one byte each.
    pub fn entries(&self) -> &'a [u8] {
        self.entries
    }
}

/// TDISP_VERSION: the versions that the responder speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionResponse<'a> {
    /// One byte a version, 1 to 255 of them.
    pub entries: &'a [u8],
}

impl<'a> VersionResponse<'a> {
    /// The type byte of the message.
    pub const CODE: u8 = 0x01;

    /// Checks the message and takes its meaning.
    pub fn parse(message: &'a [u8]) -> Result<Self, WireError> {
        Ok(VersionResponse { entries: VersionResponseView::new(message)?.entries() })
    }

    /// The versions in the order of the message.
    pub fn versions(&self) -> impl Iterator<Item = Version> + 'a {
        self.entries.iter().map(|&entry| Version(entry))
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        FIXED.saturating_add(self.entries.len())
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
        let len = self.entries.len();
        if len == 0 {
            return Err(WireError::NoVersions);
        }
        let count = u8::try_from(len).map_err(|_| WireError::TooLong { len, max: 255 })?;
        let mut writer = Writer::begin(out, self.size(), Self::CODE, head)?;
        writer.put(&[count]);
        writer.put(self.entries);
        Ok(writer.finish())
    }
}
