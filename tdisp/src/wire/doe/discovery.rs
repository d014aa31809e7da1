//! What objects of type 0 carry: the question which object types a mailbox takes, one index at a time.

use super::ObjectKind;
use crate::wire::WireError;
use crate::wire::bytes::{At, Writer};

/// Bytes of both payloads.
const SIZE: usize = 4;

fn whole(payload: &[u8]) -> Result<&[u8; SIZE], WireError> {
    let code = ObjectKind::Discovery.into();
    payload.try_into().map_err(|_| WireError::Length { code, expected: SIZE, got: payload.len() })
}

/// Checked view of a discovery request's payload.
#[derive(Clone, Copy, Debug)]
pub struct DiscoveryView<'a>(&'a [u8; SIZE]);

impl<'a> DiscoveryView<'a> {
    /// Checks the exact length.
    pub fn new(payload: &'a [u8]) -> Result<Self, WireError> {
        whole(payload).map(Self)
    }

    /// Index (offset 0).
    pub fn index(&self) -> u8 {
        At::<0>::u8(self.0)
    }

    /// DOE Discovery Version (offset 1).
    pub fn version(&self) -> u8 {
        At::<1>::u8(self.0)
    }
}

/// The payload of a discovery request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// Which entry is asked for; 0 to begin with.
    pub index: u8,
    /// DOE Discovery Version.
    pub version: u8,
}

impl Discovery {
    /// Checks the payload and takes its meaning.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let view = DiscoveryView::new(payload)?;
        Ok(Discovery { index: view.index(), version: view.version() })
    }

    /// Writes the payload to the start of `out` and says how many bytes it has.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::new(out, SIZE)?;
        writer.put(&[self.index, self.version]);
        Ok(writer.finish())
    }
}

/// Checked view of a discovery response's payload.
#[derive(Clone, Copy, Debug)]
pub struct DiscoveredView<'a>(&'a [u8; SIZE]);

impl<'a> DiscoveredView<'a> {
    /// Checks the exact length.
    pub fn new(payload: &'a [u8]) -> Result<Self, WireError> {
        whole(payload).map(Self)
    }

    /// Vendor ID (offset 0).
    pub fn vendor(&self) -> u16 {
        At::<0>::u16(self.0)
    }

    /// Data Object Type (offset 2).
    pub fn kind(&self) -> ObjectKind {
        At::<2>::u8(self.0).into()
    }

    /// Next Index (offset 3).
    pub fn next(&self) -> u8 {
        At::<3>::u8(self.0)
    }
}

/// The payload of a discovery response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discovered {
    /// Vendor ID of the object type.
    pub vendor: u16,
    /// The object type; the names are PCI-SIG's.
    pub kind: ObjectKind,
    /// The next index to ask for; 0 after the last.
    pub next: u8,
}

impl Discovered {
    /// Checks the payload and takes its meaning.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let view = DiscoveredView::new(payload)?;
        Ok(Discovered { vendor: view.vendor(), kind: view.kind(), next: view.next() })
    }

    /// Writes the payload to the start of `out` and says how many bytes it has.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::new(out, SIZE)?;
        writer.put(&self.vendor.to_le_bytes());
        writer.put(&[self.kind.into(), self.next]);
        Ok(writer.finish())
    }
}
