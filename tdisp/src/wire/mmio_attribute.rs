//! SET_MMIO_ATTRIBUTE_REQUEST (0x8A) and SET_MMIO_ATTRIBUTE_RESPONSE (0x0A).

use super::bytes::{At, Writer, exact};
use super::header::bare_message;
use super::{Head, MmioRange, RangeFlags, WireError};

/// Checked view of SET_MMIO_ATTRIBUTE_REQUEST.
#[derive(Clone, Copy, Debug)]
pub struct SetMmioAttributeView<'a>(&'a [u8; 32]);

impl<'a> SetMmioAttributeView<'a> {
    /// Checks type and exact length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        exact(message, SetMmioAttribute::CODE).map(Self)
    }

    /// MMIO_RANGE (offset 16).
    pub fn range(&self) -> MmioRange {
        MmioRange::from_bytes(At::<16>::array(self.0))
    }
}

/// SET_MMIO_ATTRIBUTE_REQUEST: make a range, or a part of one, shared or private. Legal in RUN, for ranges that are
/// [`RangeFlags::UPDATABLE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetMmioAttribute {
    /// The pages, as the report counts them, and the range id. Of the flags only [`RangeFlags::NON_TEE`] asks for
    /// something; the bits of MSI-X must be clear, the others are reserved.
    pub range: MmioRange,
}

impl SetMmioAttribute {
    /// The type byte of the message.
    pub const CODE: u8 = 0x8A;

    /// Whether the pages are to be shared (IS_NON_TEE_MEM); otherwise private.
    pub const fn shared(&self) -> bool {
        self.range.flags.contains(RangeFlags::NON_TEE)
    }

    /// Checks the message and takes its meaning.
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        Ok(SetMmioAttribute { range: SetMmioAttributeView::new(message)?.range() })
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        32
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::begin(out, self.size(), Self::CODE, head)?;
        writer.put(&self.range.to_bytes());
        Ok(writer.finish())
    }
}

bare_message! {
    /// SET_MMIO_ATTRIBUTE_RESPONSE: the pages are what was asked for.
    SetMmioAttributeResponse, 0x0A
}
