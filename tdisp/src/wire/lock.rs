//! LOCK_INTERFACE_REQUEST (0x83) and LOCK_INTERFACE_RESPONSE (0x03).

use bitflags::bitflags;

use super::bytes::{At, Writer, exact};
use super::{Head, NonceRef, WireError};

bitflags! {
    /// FLAGS of a LOCK. Bits 15:5 are reserved; they are kept when read and mean nothing.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct LockFlags: u16 {
        /// The device refuses firmware updates while it is locked or runs.
        const NO_FW_UPDATE = 1 << 0;
        /// The system's cache line has 128 bytes (clear: 64).
        const CACHE_LINE_128 = 1 << 1;
        /// Lock and report the MSI-X table and PBA; T=0 access to them is rejected.
        const LOCK_MSIX = 1 << 2;
        /// Direct P2P streams may be bound later.
        const BIND_P2P = 1 << 3;
        /// All ATS-translated requests go up to the root complex.
        const ALL_REQUEST_REDIRECT = 1 << 4;
    }
}

/// Checked view of LOCK_INTERFACE_REQUEST.
#[derive(Clone, Copy, Debug)]
pub struct LockRequestView<'a>(&'a [u8; 36]);

impl<'a> LockRequestView<'a> {
    /// Checks type and exact length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        exact(message, LockRequest::CODE).map(Self)
    }

    /// FLAGS (offset 16).
    pub fn flags(&self) -> LockFlags {
        LockFlags::from_bits_retain(At::<16>::u16(self.0))
    }

    /// Default Stream ID (offset 18).
    pub fn stream(&self) -> u8 {
        At::<18>::u8(self.0)
    }

    /// MMIO_REPORTING_OFFSET (offset 20), signed.
    pub fn reporting_offset(&self) -> i64 {
        i64::from_le_bytes(At::<20>::bytes(self.0))
    }

    /// BIND_P2P_ADDRESS_MASK (offset 28).
    pub fn p2p_address_mask(&self) -> u64 {
        At::<28>::u64(self.0)
    }
}

/// LOCK_INTERFACE_REQUEST: freeze the configuration and make a nonce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockRequest {
    /// What the lock asks for.
    pub flags: LockFlags,
    /// The id of the IDE default stream.
    pub stream: u8,
    /// MMIO_REPORTING_OFFSET: bytes added to every MMIO address in later reports; may be negative.
    pub reporting_offset: i64,
    /// BIND_P2P_ADDRESS_MASK: has a meaning only with [`LockFlags::BIND_P2P`].
    pub p2p_address_mask: u64,
}

impl LockRequest {
    /// The type byte of the message.
    pub const CODE: u8 = 0x83;

    /// Checks the message and takes its meaning.
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        let view = LockRequestView::new(message)?;
        Ok(LockRequest {
            flags: view.flags(),
            stream: view.stream(),
            reporting_offset: view.reporting_offset(),
            p2p_address_mask: view.p2p_address_mask(),
        })
    }

    /// The request without reserved flags, which mean nothing. Fails with the flags that are asked for and that
    /// are not among `supported` (LOCK_INTERFACE_FLAGS_SUPPORTED).
    pub const fn honoured(self, supported: LockFlags) -> Result<Self, LockFlags> {
        let flags = self.flags.intersection(LockFlags::all());
        let refused = flags.difference(supported);
        if refused.is_empty() { Ok(LockRequest { flags, ..self }) } else { Err(refused) }
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        36
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::begin(out, self.size(), Self::CODE, head)?;
        writer.put(&self.flags.bits().to_le_bytes());
        writer.put(&[self.stream, 0]);
        writer.put(&self.reporting_offset.to_le_bytes());
        writer.put(&self.p2p_address_mask.to_le_bytes());
        Ok(writer.finish())
    }
}

/// Checked view of LOCK_INTERFACE_RESPONSE.
#[derive(Clone, Copy)]
pub struct LockResponseView<'a>(&'a [u8; 48]);

impl<'a> LockResponseView<'a> {
    /// Checks type and exact length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        exact(message, LockResponse::CODE).map(Self)
    }

    /// START_INTERFACE_NONCE (offset 16).
    pub fn nonce(&self) -> NonceRef<'a> {
        NonceRef::new(At::<16>::array(self.0))
    }
}

/// LOCK_INTERFACE_RESPONSE: the interface is locked; here is the nonce for START.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockResponse<'a> {
    /// START_INTERFACE_NONCE.
    pub nonce: NonceRef<'a>,
}

impl<'a> LockResponse<'a> {
    /// The type byte of the message.
    pub const CODE: u8 = 0x03;

    /// Checks the message and takes its meaning.
    pub fn parse(message: &'a [u8]) -> Result<Self, WireError> {
        Ok(LockResponse { nonce: LockResponseView::new(message)?.nonce() })
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        48
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::begin(out, self.size(), Self::CODE, head)?;
        writer.put(self.nonce.bytes());
        Ok(writer.finish())
    }
}
