//! GET_DEVICE_INTERFACE_REPORT (0x84) and DEVICE_INTERFACE_REPORT (0x04): one portion of the report.
//!
//! What the report says is in [`crate::report`].

use super::bytes::{At, Writer, exact, prefix};
use super::{Head, WireError};

/// Checked view of GET_DEVICE_INTERFACE_REPORT.
#[derive(Clone, Copy, Debug)]
pub struct GetReportView<'a>(&'a [u8; 20]);

impl<'a> GetReportView<'a> {
    /// Checks type and exact length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        exact(message, GetReport::CODE).map(Self)
    }

    /// OFFSET (offset 16).
    pub fn offset(&self) -> u16 {
        At::<16>::u16(self.0)
    }

    /// LENGTH (offset 18).
    pub fn length(&self) -> u16 {
        At::<18>::u16(self.0)
    }
}

/// GET_DEVICE_INTERFACE_REPORT: a portion of the report, please.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetReport {
    /// Where the portion starts.
    pub offset: u16,
    /// The most bytes that the requester takes.
    pub length: u16,
}

impl GetReport {
    /// The type byte of the message.
    pub const CODE: u8 = 0x84;

    /// Checks the message and takes its meaning.
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        let view = GetReportView::new(message)?;
        Ok(GetReport { offset: view.offset(), length: view.length() })
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        20
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::begin(out, self.size(), Self::CODE, head)?;
        writer.put(&self.offset.to_le_bytes());
        writer.put(&self.length.to_le_bytes());
        Ok(writer.finish())
    }
}

/// Bytes in front of the variable part.
const FIXED: usize = 20;

/// Checked view of DEVICE_INTERFACE_REPORT: PORTION_LENGTH says the exact length.
#[derive(Clone, Copy, Debug)]
pub struct ReportResponseView<'a> {
    fixed: &'a [u8; FIXED],
    portion: &'a [u8],
}

impl<'a> ReportResponseView<'a> {
    /// Checks type and length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        let code = ReportResponse::CODE;
        let (fixed, portion) = prefix::<FIXED>(message, code)?;
        let len = usize::from(At::<16>::u16(fixed));
        if portion.len() != len {
            let expected = len.saturating_add(FIXED);
            return Err(WireError::Length { code, expected, got: message.len() });
        }
        Ok(ReportResponseView { fixed, portion })
    }

    /// REMAINDER_LENGTH (offset 18): bytes of the report after this portion.
    pub fn remainder(&self) -> u16 {
        At::<18>::u16(self.fixed)
    }

    /// The bytes of the portion (offset 20).
    pub fn portion(&self) -> &'a [u8] {
        self.portion
    }
}

/// DEVICE_INTERFACE_REPORT: a portion, and how much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportResponse<'a> {
    /// The bytes; PORTION_LENGTH is their number.
    pub portion: &'a [u8],
    /// REMAINDER_LENGTH; zero for the last portion.
    pub remainder: u16,
}

impl<'a> ReportResponse<'a> {
    /// The type byte of the message.
    pub const CODE: u8 = 0x04;

    /// Checks the message and takes its meaning.
    pub fn parse(message: &'a [u8]) -> Result<Self, WireError> {
        let view = ReportResponseView::new(message)?;
        Ok(ReportResponse { portion: view.portion(), remainder: view.remainder() })
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        FIXED.saturating_add(self.portion.len())
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
        let len = self.portion.len();
        let field = u16::try_from(len).map_err(|_| WireError::TooLong { len, max: 0xFFFF })?;
        let mut writer = Writer::begin(out, self.size(), Self::CODE, head)?;
        writer.put(&field.to_le_bytes());
        writer.put(&self.remainder.to_le_bytes());
        writer.put(self.portion);
        Ok(writer.finish())
    }
}
