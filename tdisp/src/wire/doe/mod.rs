//! Data objects of the DOE mailbox (PCIe base specification 6.x, section 6.30), and discovery.
//!
//! An object is a whole number of double words. What it carries may be shorter: the rest is zeros, and the true end is
//! found by the lengths inside.
//!
//! ```
//! use tidegate_tdisp::wire::doe::{Discovery, Object, ObjectKind};
//!
//! let mut question = [0; 4];
//! Discovery { index: 1, version: 0 }.emit(&mut question)?;
//! let mut bytes = [0; 12];
//! Object::pci_sig(ObjectKind::Discovery, &question).emit(&mut bytes)?;
//! assert_eq!(Object::parse(&bytes)?.payload, question);
//! # Ok::<(), tidegate_tdisp::wire::WireError>(())
//! ```

mod discovery;

pub use discovery::{Discovered, DiscoveredView, Discovery, DiscoveryView};

use super::WireError;
use super::bytes::{At, Writer};
use super::code::open_enum;

/// Bytes of an object's header.
pub const HEADER_SIZE: usize = 8;

/// PCI-SIG as the vendor of an object type.
pub const PCI_SIG: u16 = 1;

/// The length field has 18 bits, and 0 says 2^18 double words.
const DWORDS_MAX: usize = 1 << 18;

open_enum! {
    /// The type of an object of PCI-SIG.
    ObjectKind: u8 {
        /// Which object types does the mailbox take?
        Discovery = 0 "DISCOVERY",
        /// SPDM in the clear (component measurement and authentication).
        Spdm = 1 "SPDM",
        /// Records of a secured session.
        SecuredSpdm = 2 "SECURED_SPDM",
        /// SPDM in the clear, with a connection id.
        SpdmConnection = 3 "SPDM_CONNECTION",
        /// Records of a secured session, with a connection id.
        SecuredSpdmConnection = 4 "SECURED_SPDM_CONNECTION",
    }
}

/// Checked view of an object: the length field is what is there.
#[derive(Clone, Copy, Debug)]
pub struct ObjectView<'a> {
    header: &'a [u8; HEADER_SIZE],
    payload: &'a [u8],
}

impl<'a> ObjectView<'a> {
    /// Checks the length of one whole object.
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        let short = WireError::Short { need: HEADER_SIZE, got: bytes.len() };
        let (header, payload) = bytes.split_first_chunk().ok_or(short)?;
        super::bytes::claimed("DOE length", object_size(header), bytes.len())?;
        Ok(ObjectView { header, payload })
    }

    /// Vendor ID (offset 0).
    pub fn vendor(&self) -> u16 {
        At::<0>::u16(self.header)
    }

    /// Data Object Type (offset 2).
    pub fn kind(&self) -> ObjectKind {
        At::<2>::u8(self.header).into()
    }

    /// What the object carries, with the zeros at its end.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The bytes that an object with this header has, the header included: at most 1 MiB. For whoever reads objects from a
/// stream. A length of less than the header, which no object has, is told as it stands there.
pub fn object_size(header: &[u8; HEADER_SIZE]) -> usize {
    // Eighteen bits and two more fit any usize that this crate is built for.
    let dwords = usize::try_from(At::<4>::u32(header) & 0x3_FFFF).unwrap_or(0);
    let dwords = if dwords == 0 { DWORDS_MAX } else { dwords };
    dwords.saturating_mul(4)
}

/// An object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object<'a> {
    /// Vendor ID.
    pub vendor: u16,
    /// Data Object Type; the names are PCI-SIG's.
    pub kind: ObjectKind,
    /// What the object carries. When read it is a multiple of four bytes; when written it is filled up with zeros.
    pub payload: &'a [u8],
}

impl<'a> Object<'a> {
    /// An object of PCI-SIG.
    pub const fn pci_sig(kind: ObjectKind, payload: &'a [u8]) -> Self {
        Object { vendor: PCI_SIG, kind, payload }
    }

    /// Checks the object and takes its meaning.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let view = ObjectView::new(bytes)?;
        Ok(Object { vendor: view.vendor(), kind: view.kind(), payload: view.payload() })
    }

    /// Bytes of the whole object.
    pub const fn size(&self) -> usize {
        HEADER_SIZE.saturating_add(self.payload.len().div_ceil(4).saturating_mul(4))
    }

    /// Writes the whole object to the start of `out` and says how many bytes it has. Fails for more than 1 MiB.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::new(out, self.size())?;
        writer.put(&self.header()?);
        writer.put(self.payload);
        Ok(writer.finish())
    }

    fn header(&self) -> Result<[u8; HEADER_SIZE], WireError> {
        let dwords = self.size() / 4;
        let too_long = WireError::TooLong { len: self.size(), max: DWORDS_MAX.saturating_mul(4) };
        let length = match dwords {
            DWORDS_MAX => 0,
            _ => u32::try_from(dwords).ok().filter(|&n| n < 1 << 18).ok_or(too_long)?,
        };
        let ([v0, v1], [l0, l1, l2, l3]) = (self.vendor.to_le_bytes(), length.to_le_bytes());
        Ok([v0, v1, self.kind.into(), 0, l0, l1, l2, l3])
    }
}
