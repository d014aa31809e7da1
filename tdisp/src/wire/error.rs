//! TDISP_ERROR (0x7F).

use super::bytes::{At, Writer, prefix};
use super::{ErrorCode, Head, VendorData, WireError};

/// Bytes in front of the variable part.
const FIXED: usize = 24;

/// Checked view of TDISP_ERROR. Only VENDOR_SPECIFIC_ERROR has extended data, and ERROR_DATA is its length; after
/// a code without a name anything may follow.
#[derive(Clone, Copy, Debug)]
pub struct ErrorResponseView<'a> {
    fixed: &'a [u8; FIXED],
    extended: &'a [u8],
}

impl<'a> ErrorResponseView<'a> {
    /// Checks type and length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        let code = ErrorResponse::CODE;
        let (fixed, extended) = prefix::<FIXED>(message, code)?;
        let view = ErrorResponseView { fixed, extended };
        let len = match view.code() {
            ErrorCode::Unknown(_) => extended.len(),
            ErrorCode::VendorSpecific => usize::try_from(view.data()).unwrap_or(usize::MAX),
            _ => 0,
        };
        if extended.len() != len {
            let expected = len.saturating_add(FIXED);
            return Err(WireError::Length { code, expected, got: message.len() });
        }
        Ok(view)
    }

    /// ERROR_CODE (offset 16).
    pub fn code(&self) -> ErrorCode {
        At::<16>::u32(self.fixed).into()
    }

    /// ERROR_DATA (offset 20).
    pub fn data(&self) -> u32 {
        At::<20>::u32(self.fixed)
    }

    /// EXTENDED_ERROR_DATA (offset 24).
    pub fn extended(&self) -> &'a [u8] {
        self.extended
    }
}

/// TDISP_ERROR: the request failed, and the state of the TDI is what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorResponse<'a> {
    /// ERROR_CODE.
    pub code: ErrorCode,
    /// ERROR_DATA.
    pub data: u32,
    /// EXTENDED_ERROR_DATA.
    pub extended: &'a [u8],
}

impl<'a> ErrorResponse<'a> {
    /// The type byte of the message.
    pub const CODE: u8 = 0x7F;

    /// What the vendor says in the extended data; `None` where the error is not VENDOR_SPECIFIC_ERROR, or where the
    /// data do not have the layout that they should.
    pub fn vendor_data(&self) -> Option<VendorData<'a>> {
        match self.code {
            ErrorCode::VendorSpecific => VendorData::parse(self.extended).ok(),
            _ => None,
        }
    }

    /// An error without extended data.
    pub const fn new(code: ErrorCode, data: u32) -> Self {
        ErrorResponse { code, data, extended: &[] }
    }

    /// Checks the message and takes its meaning.
    pub fn parse(message: &'a [u8]) -> Result<Self, WireError> {
        let view = ErrorResponseView::new(message)?;
        Ok(ErrorResponse { code: view.code(), data: view.data(), extended: view.extended() })
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        FIXED.saturating_add(self.extended.len())
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    ///
    /// Extended data that [`ErrorResponseView`] would not accept is an error here too.
    pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
        let len = self.extended.len();
        let max = match self.code {
            ErrorCode::Unknown(_) => len,
            ErrorCode::VendorSpecific => usize::try_from(self.data).unwrap_or(usize::MAX),
            _ => 0,
        };
        if len > max {
            return Err(WireError::TooLong { len, max });
        }
        if len < max {
            let expected = max.saturating_add(FIXED);
            return Err(WireError::Length { code: Self::CODE, expected, got: self.size() });
        }
        let mut writer = Writer::begin(out, self.size(), Self::CODE, head)?;
        writer.put(&u32::from(self.code).to_le_bytes());
        writer.put(&self.data.to_le_bytes());
        writer.put(self.extended);
        Ok(writer.finish())
    }
}
