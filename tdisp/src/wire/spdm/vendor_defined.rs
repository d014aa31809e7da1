//! VENDOR_DEFINED_REQUEST and VENDOR_DEFINED_RESPONSE.

use crate::wire::WireError;
use crate::wire::bytes::{At, Writer, take};
use crate::wire::code::open_enum;

/// SPDMVersion: major in bits 7:4, minor in bits 3:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub u8);

impl Version {
    /// SPDM 1.2.
    pub const V1_2: Version = Version(0x12);
}

open_enum! {
    /// RequestResponseCode.
    Code: u8 {
        /// VENDOR_DEFINED_REQUEST.
        Request = 0xFE "VENDOR_DEFINED_REQUEST",
        /// VENDOR_DEFINED_RESPONSE.
        Response = 0x7E "VENDOR_DEFINED_RESPONSE",
    }
}

open_enum! {
    /// The PCI protocol id: the first byte of a payload of PCI-SIG.
    Protocol: u8 {
        /// IDE key management: [`crate::wire::ide_km`].
        IdeKm = 0 "IDE_KM",
        /// TDISP: [`crate::wire`].
        Tdisp = 1 "TDISP",
    }
}

/// StandardID of PCI-SIG.
const PCI_SIG: u16 = 3;
/// The vendor id that PCI-SIG has in its own list.
const PCI_SIG_VENDOR: [u8; 2] = [1, 0];
/// Bytes in front of the vendor id.
const FIXED: usize = 7;
/// Bytes in front of a message of PCI-SIG, the protocol id included.
pub const PCI_FRAME_SIZE: usize = 12;

/// Checked view of a VENDOR_DEFINED message: both length fields fit the bytes that are there.
#[derive(Clone, Copy, Debug)]
pub struct VendorDefinedView<'a> {
    fixed: &'a [u8; FIXED],
    vendor: &'a [u8],
    payload: &'a [u8],
}

impl<'a> VendorDefinedView<'a> {
    /// Checks code and lengths, and gives what follows the message (in a DOE object: zeros).
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let short = WireError::Short { need: FIXED, got: bytes.len() };
        let (fixed, rest) = bytes.split_first_chunk::<FIXED>().ok_or(short)?;
        if let Code::Unknown(code) = Code::from(At::<1>::u8(fixed)) {
            return Err(WireError::UnknownCode { code });
        }
        let (vendor, rest) = take(rest, "SPDM vendor id length", At::<6>::u8(fixed).into())?;
        let no_length = WireError::Claim { field: "SPDM payload length field", claimed: 2, got: rest.len() };
        let (len, rest) = rest.split_first_chunk::<2>().ok_or(no_length)?;
        let (payload, rest) = take(rest, "SPDM payload length", u16::from_le_bytes(*len).into())?;
        Ok((VendorDefinedView { fixed, vendor, payload }, rest))
    }

    /// SPDMVersion (offset 0).
    pub fn version(&self) -> Version {
        Version(At::<0>::u8(self.fixed))
    }

    /// RequestResponseCode (offset 1).
    pub fn code(&self) -> Code {
        At::<1>::u8(self.fixed).into()
    }

    /// StandardID (offset 4).
    pub fn standard(&self) -> u16 {
        At::<4>::u16(self.fixed)
    }

    /// VendorID (offset 7).
    pub fn vendor(&self) -> &'a [u8] {
        self.vendor
    }

    /// The payload, after its 16-bit length.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A VENDOR_DEFINED message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VendorDefined<'a> {
    /// SPDMVersion.
    pub version: Version,
    /// Request or response; a code without a name is not written.
    pub code: Code,
    /// StandardID; 3 for PCI-SIG.
    pub standard: u16,
    /// VendorID, at most 255 bytes.
    pub vendor: &'a [u8],
    /// The payload, at most 65535 bytes.
    pub payload: &'a [u8],
}

impl<'a> VendorDefined<'a> {
    /// A message of PCI-SIG with a whole payload, the protocol id included.
    pub const fn pci_sig(version: Version, code: Code, payload: &'a [u8]) -> Self {
        VendorDefined { version, code, standard: PCI_SIG, vendor: &PCI_SIG_VENDOR, payload }
    }

    /// Checks the message and takes its meaning, and gives what follows it (in a DOE object: zeros).
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (view, rest) = VendorDefinedView::split(bytes)?;
        let meaning = VendorDefined {
            version: view.version(),
            code: view.code(),
            standard: view.standard(),
            vendor: view.vendor(),
            payload: view.payload(),
        };
        Ok((meaning, rest))
    }

    /// Checks a message that ends where the bytes do.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (meaning, rest) = Self::split(bytes)?;
        let got = meaning.payload.len().saturating_add(rest.len());
        crate::wire::bytes::claimed("SPDM payload length", meaning.payload.len(), got)?;
        Ok(meaning)
    }

    /// The protocol and the message of a payload of PCI-SIG.
    pub fn pci(&self) -> Result<(Protocol, &'a [u8]), WireError> {
        if self.standard != PCI_SIG || self.vendor != PCI_SIG_VENDOR {
            return Err(WireError::NotPciSig { standard: self.standard, vendor_len: self.vendor.len() });
        }
        split_pci(self.payload)
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        FIXED.saturating_add(self.vendor.len()).saturating_add(2).saturating_add(self.payload.len())
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        if let Code::Unknown(code) = self.code {
            return Err(WireError::UnknownCode { code });
        }
        let (vendor, payload) = (self.vendor.len(), self.payload.len());
        let vendor = u8::try_from(vendor).map_err(|_| WireError::TooLong { len: vendor, max: 255 })?;
        let payload = u16::try_from(payload).map_err(|_| WireError::TooLong { len: payload, max: 0xFFFF })?;
        let mut writer = Writer::new(out, self.size())?;
        writer.put(&[self.version.0, self.code.into(), 0, 0]);
        writer.put(&self.standard.to_le_bytes());
        writer.put(&[vendor]);
        writer.put(self.vendor);
        writer.put(&payload.to_le_bytes());
        writer.put(self.payload);
        Ok(writer.finish())
    }
}

/// Splits a payload of PCI-SIG into the protocol id and the message.
pub fn split_pci(payload: &[u8]) -> Result<(Protocol, &[u8]), WireError> {
    let (&protocol, message) = payload.split_first().ok_or(WireError::Short { need: 1, got: 0 })?;
    Ok((protocol.into(), message))
}

/// Writes a message of PCI-SIG to the start of `out`, and says how many bytes it has. `message` writes what is framed
/// (by an `emit`) into the room it gets: nothing is copied.
pub fn emit_pci(
    version: Version,
    code: Code,
    protocol: Protocol,
    out: &mut [u8],
    message: impl FnOnce(&mut [u8]) -> Result<usize, WireError>,
) -> Result<usize, WireError> {
    let have = out.len();
    let room = WireError::Room { need: PCI_FRAME_SIZE, have };
    let (frame, inner) = out.split_first_chunk_mut::<PCI_FRAME_SIZE>().ok_or(room)?;
    let len = message(inner)?;
    let too_long = WireError::TooLong { len, max: 0xFFFE };
    let payload = len.checked_add(1).and_then(|len| u16::try_from(len).ok()).ok_or(too_long)?;
    let ([s0, s1], [p0, p1]) = (PCI_SIG.to_le_bytes(), payload.to_le_bytes());
    let [v0, v1] = PCI_SIG_VENDOR;
    *frame = [version.0, code.into(), 0, 0, s0, s1, 2, v0, v1, p0, p1, protocol.into()];
    Ok(PCI_FRAME_SIZE.saturating_add(len))
}
