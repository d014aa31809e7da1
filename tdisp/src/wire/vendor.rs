//! Data of a vendor: what VDM messages carry, and TDISP_ERROR as extended data.

use super::WireError;
use super::bytes::{At, Writer, take};
use super::code::open_enum;

open_enum! {
    /// REGISTRY_ID: whose list the vendor id is from.
    Registry: u8 {
        /// The vendor ids of PCI-SIG.
        PciSig = 0 "PCI-SIG",
        /// The vendor ids of the CXL consortium.
        Cxl = 1 "CXL",
    }
}

/// REGISTRY_ID, VENDOR_ID_LEN, the vendor id, and what the vendor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VendorData<'a> {
    /// Whose list the id is from.
    pub registry: Registry,
    /// The id, at most 255 bytes.
    pub vendor: &'a [u8],
    /// The vendor's own.
    pub data: &'a [u8],
}

impl<'a> VendorData<'a> {
    /// Bytes in front of the vendor id.
    const FIXED: usize = 2;

    /// Checks VENDOR_ID_LEN against the bytes that are there. Everything after the vendor id is the vendor's.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let short = WireError::Claim { field: "vendor data", claimed: Self::FIXED, got: bytes.len() };
        let (fixed, rest) = bytes.split_first_chunk::<2>().ok_or(short)?;
        let (vendor, data) = take(rest, "VENDOR_ID_LEN", At::<1>::u8(fixed).into())?;
        Ok(VendorData { registry: At::<0>::u8(fixed).into(), vendor, data })
    }

    /// Bytes of the whole.
    pub const fn size(&self) -> usize {
        Self::FIXED.saturating_add(self.vendor.len()).saturating_add(self.data.len())
    }

    /// Writes the whole to the start of `out` and says how many bytes it has. Fails for a vendor id of more than 255
    /// bytes.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let len = self.len_field()?;
        let mut writer = Writer::new(out, self.size())?;
        self.put(len, &mut writer);
        Ok(writer.finish())
    }

    pub(super) fn len_field(&self) -> Result<u8, WireError> {
        let len = self.vendor.len();
        u8::try_from(len).map_err(|_| WireError::TooLong { len, max: 255 })
    }

    pub(super) fn put(&self, len: u8, writer: &mut Writer<'_>) {
        writer.put(&[self.registry.into(), len]);
        writer.put(self.vendor);
        writer.put(self.data);
    }
}
