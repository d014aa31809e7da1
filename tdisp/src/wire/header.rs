//! The 16-byte header in front of every message, and the messages that are nothing but a header.

use core::fmt;

use super::bytes::At;
use super::{FunctionId, InterfaceId, WireError};

/// Bytes of the common header.
pub const HEADER_SIZE: usize = 16;

/// TDISPVersion: major in bits 7:4, minor in bits 3:0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u8);

impl Version {
    /// TDISP 1.0, the only version there is (PCIe 6.x and 7.0).
    pub const V1_0: Version = Version(0x10);

    /// The major number.
    pub const fn major(self) -> u8 {
        self.0 >> 4
    }

    /// The minor number.
    pub const fn minor(self) -> u8 {
        self.0 & 0x0F
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the header says besides the type: in which version, and about which interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// TDISPVersion.
    pub version: Version,
    /// INTERFACE_ID.
    pub interface: InterfaceId,
}

impl Head {
    /// A header of version 1.0 about the TDI of `function`.
    pub const fn v1_0(function: FunctionId) -> Self {
        Head { version: Version::V1_0, interface: InterfaceId { function } }
    }
}

/// The checked view of a header: at least 16 bytes are there.
#[derive(Clone, Copy, Debug)]
pub struct HeaderView<'a> {
    header: &'a [u8; HEADER_SIZE],
    payload: &'a [u8],
}

impl<'a> HeaderView<'a> {
    /// Checks that the header is whole.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        let (header, payload) =
            message.split_first_chunk().ok_or(WireError::Short { need: HEADER_SIZE, got: message.len() })?;
        Ok(HeaderView { header, payload })
    }

    /// TDISPVersion.
    pub fn version(&self) -> Version {
        Version(At::<0>::u8(self.header))
    }

    /// MessageType.
    pub fn code(&self) -> u8 {
        At::<1>::u8(self.header)
    }

    /// FUNCTION_ID with its reserved bits.
    pub fn function_bits(&self) -> u32 {
        At::<4>::u32(self.header)
    }

    /// INTERFACE_ID, all twelve bytes with the reserved ones.
    pub fn interface_bytes(&self) -> [u8; 12] {
        At::<4>::bytes(self.header)
    }

    /// Version and interface.
    pub fn head(&self) -> Head {
        let interface = InterfaceId { function: FunctionId::from_bits(self.function_bits()) };
        Head { version: self.version(), interface }
    }

    /// What follows the header.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A message without a payload.
macro_rules! bare_message {
    ($(#[$meta:meta])* $name:ident, $code:expr) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name;

        impl $name {
            /// The type byte of the message.
            pub const CODE: u8 = $code;

            /// Checks type and exact length.
            pub fn parse(message: &[u8]) -> Result<Self, $crate::wire::WireError> {
                $crate::wire::bytes::exact::<{ $crate::wire::HEADER_SIZE }>(message, Self::CODE).map(|_| $name)
            }

            /// Bytes of the whole message.
            pub const fn size(&self) -> usize {
                $crate::wire::HEADER_SIZE
            }

            /// Writes the whole message to the start of `out` and says how many bytes it has.
            pub fn emit(
                &self,
                head: $crate::wire::Head,
                out: &mut [u8],
            ) -> Result<usize, $crate::wire::WireError> {
                Ok($crate::wire::bytes::Writer::begin(out, self.size(), Self::CODE, head)?.finish())
            }
        }
    };
}
pub(super) use bare_message;

/// A request whose payload is one byte, a stream id.
macro_rules! stream_message {
    ($(#[$meta:meta])* $name:ident, $view:ident, $code:expr) => {
        /// Checked view of the request.
        #[derive(Clone, Copy, Debug)]
        pub struct $view<'a>(&'a [u8; 17]);

        impl<'a> $view<'a> {
            /// Checks type and exact length.
            pub fn new(message: &'a [u8]) -> Result<Self, $crate::wire::WireError> {
                $crate::wire::bytes::exact(message, $name::CODE).map(Self)
            }

            /// P2P_STREAM_ID (offset 16).
            pub fn stream(&self) -> u8 {
                $crate::wire::bytes::At::<16>::u8(self.0)
            }
        }

        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            /// P2P_STREAM_ID.
            pub stream: u8,
        }

        impl $name {
            /// The type byte of the message.
            pub const CODE: u8 = $code;

            /// Checks the message and takes its meaning.
            pub fn parse(message: &[u8]) -> Result<Self, $crate::wire::WireError> {
                Ok($name { stream: $view::new(message)?.stream() })
            }

            /// Bytes of the whole message.
            pub const fn size(&self) -> usize {
                17
            }

            /// Writes the whole message to the start of `out` and says how many bytes it has.
            pub fn emit(
                &self,
                head: $crate::wire::Head,
                out: &mut [u8],
            ) -> Result<usize, $crate::wire::WireError> {
                let mut writer = $crate::wire::bytes::Writer::begin(out, self.size(), Self::CODE, head)?;
                writer.put(&[self.stream]);
                Ok(writer.finish())
            }
        }
    };
}
pub(super) use stream_message;
