//! GET_TDISP_CAPABILITIES (0x82) and TDISP_CAPABILITIES (0x02).

use super::bytes::{At, Writer, exact};
use super::{Head, LockFlags, RequestCode, WireError};

/// Checked view of GET_TDISP_CAPABILITIES.
#[derive(Clone, Copy, Debug)]
pub struct GetCapabilitiesView<'a>(&'a [u8; 20]);

impl<'a> GetCapabilitiesView<'a> {
    /// Checks type and exact length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        exact(message, GetCapabilities::CODE).map(Self)
    }

    /// TSM_CAPS (offset 16).
    pub fn tsm_caps(&self) -> u32 {
        At::<16>::u32(self.0)
    }
}

/// GET_TDISP_CAPABILITIES: what can you do?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetCapabilities {
    /// TSM_CAPS; all bits are reserved in 1.0.
    pub tsm_caps: u32,
}

impl GetCapabilities {
    /// The type byte of the message.
    pub const CODE: u8 = 0x82;

    /// Checks the message and takes its meaning.
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        Ok(GetCapabilities { tsm_caps: GetCapabilitiesView::new(message)?.tsm_caps() })
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        20
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::begin(out, self.size(), Self::CODE, head)?;
        writer.put(&self.tsm_caps.to_le_bytes());
        Ok(writer.finish())
    }
}

/// REQ_MSGS_SUPPORTED: bit i stands for the request code 0x80 + i.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageSet(pub u128);

impl MessageSet {
    /// The seven mandatory requests: 0x81 to 0x87.
    pub const MANDATORY: MessageSet = MessageSet(0xFE);

    /// The set with one request more. A code below 0x80 is no request and changes nothing.
    pub const fn with(self, code: RequestCodeByte) -> Self {
        match code.checked_sub(0x80) {
            Some(bit) => MessageSet(self.0 | 1_u128.rotate_left(bit as u32)),
            None => self,
        }
    }

    /// Whether the set has the request. A code below 0x80 is no request.
    pub const fn has(self, code: RequestCodeByte) -> bool {
        match code.checked_sub(0x80) {
            Some(bit) => match self.0.checked_shr(bit as u32) {
                Some(bits) => bits & 1 == 1,
                None => false,
            },
            None => false,
        }
    }

    /// The mandatory requests that the set does not have.
    pub fn missing(self) -> impl Iterator<Item = RequestCode> {
        let mandatory = RequestCode::NAMED.iter().copied().filter(|&code| Self::MANDATORY.has(code.into()));
        mandatory.filter(move |&code| !self.has(code.into()))
    }
}

/// A request code as it is on the wire.
type RequestCodeByte = u8;

/// Checked view of TDISP_CAPABILITIES.
#[derive(Clone, Copy, Debug)]
pub struct CapabilitiesView<'a>(&'a [u8; 44]);

impl<'a> CapabilitiesView<'a> {
    /// Checks type and exact length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        exact(message, Capabilities::CODE).map(Self)
    }

    /// DSM_CAPS (offset 16).
    pub fn dsm_caps(&self) -> u32 {
        At::<16>::u32(self.0)
    }

    /// REQ_MSGS_SUPPORTED (offset 20).
    pub fn messages(&self) -> MessageSet {
        MessageSet(u128::from_le_bytes(At::<20>::bytes(self.0)))
    }

    /// LOCK_INTERFACE_FLAGS_SUPPORTED (offset 36).
    pub fn lock_flags(&self) -> LockFlags {
        LockFlags::from_bits_retain(At::<36>::u16(self.0))
    }

    /// DEV_ADDR_WIDTH (offset 41).
    pub fn address_width(&self) -> u8 {
        At::<41>::u8(self.0)
    }

    /// NUM_REQ_THIS (offset 42).
    pub fn requests_this(&self) -> u8 {
        At::<42>::u8(self.0)
    }

    /// NUM_REQ_ALL (offset 43).
    pub fn requests_all(&self) -> u8 {
        At::<43>::u8(self.0)
    }
}

/// TDISP_CAPABILITIES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// DSM_CAPS; reserved in 1.0.
    pub dsm_caps: u32,
    /// REQ_MSGS_SUPPORTED.
    pub messages: MessageSet,
    /// LOCK_INTERFACE_FLAGS_SUPPORTED.
    pub lock_flags: LockFlags,
    /// DEV_ADDR_WIDTH: address bits that the device can drive (52 = bits 51:0).
    pub address_width: u8,
    /// NUM_REQ_THIS: requests that may be outstanding for this TDI.
    pub requests_this: u8,
    /// NUM_REQ_ALL: requests that may be outstanding for the whole device.
    pub requests_all: u8,
}

impl Capabilities {
    /// The type byte of the message.
    pub const CODE: u8 = 0x02;

    /// Checks the message and takes its meaning.
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        let view = CapabilitiesView::new(message)?;
        Ok(Capabilities {
            dsm_caps: view.dsm_caps(),
            messages: view.messages(),
            lock_flags: view.lock_flags(),
            address_width: view.address_width(),
            requests_this: view.requests_this(),
            requests_all: view.requests_all(),
        })
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        44
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::begin(out, self.size(), Self::CODE, head)?;
        writer.put(&self.dsm_caps.to_le_bytes());
        writer.put(&self.messages.0.to_le_bytes());
        writer.put(&self.lock_flags.bits().to_le_bytes());
        writer.put(&[0; 3]);
        writer.put(&[self.address_width, self.requests_this, self.requests_all]);
        Ok(writer.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_bits_count_from_0x80() {
        for code in 0..=u8::MAX {
            assert_eq!(MessageSet::MANDATORY.has(code), (0x81..=0x87).contains(&code), "{code:#x}");
        }
        assert_eq!(MessageSet(0x7F).missing().collect::<Vec<_>>(), [RequestCode::Stop]);
        assert_eq!(MessageSet(u128::MAX).missing().count(), 0);
        assert!(MessageSet(u128::MAX).has(0xFF));
        assert_eq!((0..=0x8B).fold(MessageSet::default(), MessageSet::with), MessageSet(0x0FFF));
    }
}
