//! Which of a stream's keys: sub-stream, direction, key set.

use crate::wire::code::open_enum;

open_enum! {
    /// A sub-stream of an IDE stream; each has keys of its own.
    SubStream: u8 {
        /// Posted requests (PR).
        Posted = 0 "POSTED",
        /// Non-posted requests (NPR).
        NonPosted = 1 "NON_POSTED",
        /// Completions (CPL).
        Completion = 2 "COMPLETION",
    }
}

/// The direction of a key, as the port sees it that gets the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// What the port receives.
    Rx,
    /// What the port transmits.
    Tx,
}

/// The byte that names one key of a stream: key set in bit 0, direction in bit 1, sub-stream in bits 7:4. Bits 3:2 are
/// zero where the sender keeps to the specification; they are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeySlot(pub u8);

impl KeySlot {
    /// The key of a sub-stream (its low four bits count) and direction, in key set 1 or 0.
    pub fn new(sub_stream: SubStream, direction: Direction, second_set: bool) -> Self {
        let direction = match direction {
            Direction::Rx => 0,
            Direction::Tx => 2,
        };
        KeySlot((u8::from(sub_stream) << 4) | direction | u8::from(second_set))
    }

    /// Whether it is key set 1 (a refresh programs the set that is not in use).
    pub const fn second_set(self) -> bool {
        self.0 & 1 == 1
    }

    /// The direction.
    pub const fn direction(self) -> Direction {
        if self.0 & 2 == 2 { Direction::Tx } else { Direction::Rx }
    }

    /// The sub-stream.
    pub fn sub_stream(self) -> SubStream {
        (self.0 >> 4).into()
    }
}

/// K_SET_GO, K_SET_STOP and K_GOSTOP_ACK have one layout.
macro_rules! key_set_message {
    ($(#[$meta:meta])* $name:ident, $view:ident, $code:expr) => {
        /// Checked view of the message.
        #[derive(Clone, Copy, Debug)]
        pub struct $view<'a>(&'a [u8; 7]);

        impl<'a> $view<'a> {
            /// Checks type and exact length.
            pub fn new(message: &'a [u8]) -> Result<Self, $crate::wire::WireError> {
                super::exact(message, $name::CODE).map(Self)
            }

            /// Stream ID (offset 3).
            pub fn stream(&self) -> u8 {
                $crate::wire::bytes::At::<3>::u8(self.0)
            }

            /// Sub-stream, direction and key set (offset 5).
            pub fn slot(&self) -> super::KeySlot {
                super::KeySlot($crate::wire::bytes::At::<5>::u8(self.0))
            }

            /// PortIndex (offset 6).
            pub fn port(&self) -> u8 {
                $crate::wire::bytes::At::<6>::u8(self.0)
            }
        }

        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            /// Stream ID.
            pub stream: u8,
            /// Sub-stream, direction and key set.
            pub slot: super::KeySlot,
            /// PortIndex.
            pub port: u8,
        }

        impl $name {
            /// OBJECT_ID.
            pub const CODE: u8 = $code;

            /// Checks the message and takes its meaning.
            pub fn parse(message: &[u8]) -> Result<Self, $crate::wire::WireError> {
                let view = $view::new(message)?;
                Ok($name { stream: view.stream(), slot: view.slot(), port: view.port() })
            }

            /// Bytes of the whole message.
            pub const fn size(&self) -> usize {
                7
            }

            /// Writes the whole message to the start of `out` and says how many bytes it has.
            pub fn emit(&self, out: &mut [u8]) -> Result<usize, $crate::wire::WireError> {
                let mut writer = $crate::wire::bytes::Writer::new(out, self.size())?;
                writer.put(&[Self::CODE, 0, 0, self.stream, 0, self.slot.0, self.port]);
                Ok(writer.finish())
            }
        }
    };
}
pub(super) use key_set_message;
