//! KEY_PROG (2).

use zeroize::Zeroize;

use super::{KEY_SIZE, Key, KeySlot, exact};
use crate::wire::WireError;
use crate::wire::bytes::{At, Writer};

/// Checked view of KEY_PROG.
#[derive(Clone, Copy)]
pub struct KeyProgView<'a>(&'a [u8; 47]);

impl<'a> KeyProgView<'a> {
    /// Checks type and exact length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        exact(message, KeyProg::CODE).map(Self)
    }

    /// Stream ID (offset 3).
    pub fn stream(&self) -> u8 {
        At::<3>::u8(self.0)
    }

    /// Sub-stream, direction and key set (offset 5).
    pub fn slot(&self) -> KeySlot {
        KeySlot(At::<5>::u8(self.0))
    }

    /// PortIndex (offset 6).
    pub fn port(&self) -> u8 {
        At::<6>::u8(self.0)
    }

    /// The key (offset 7): a copy in the order of AES, wiped when dropped.
    pub fn key(&self) -> Key {
        Key::from_wire(At::<7>::array(self.0))
    }

    /// The initial value of the invocation field (offset 39): the high double word first, each little-endian.
    pub fn iv(&self) -> u64 {
        (u64::from(At::<39>::u32(self.0)) << 32) | u64::from(At::<43>::u32(self.0))
    }
}

/// KEY_PROG: here is a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyProg {
    /// Stream ID.
    pub stream: u8,
    /// Sub-stream, direction and key set.
    pub slot: KeySlot,
    /// PortIndex.
    pub port: u8,
    /// The key.
    pub key: Key,
    /// The initial value of the invocation field; 1 in practice.
    pub iv: u64,
}

impl KeyProg {
    /// OBJECT_ID.
    pub const CODE: u8 = 2;

    /// Checks the message and takes its meaning.
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        let view = KeyProgView::new(message)?;
        Ok(KeyProg {
            stream: view.stream(),
            slot: view.slot(),
            port: view.port(),
            key: view.key(),
            iv: view.iv(),
        })
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        47
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::new(out, self.size())?;
        writer.put(&[Self::CODE, 0, 0, self.stream, 0, self.slot.0, self.port]);
        let mut wire = [0; KEY_SIZE];
        self.key.to_wire(&mut wire);
        writer.put(&wire);
        wire.zeroize();
        let [a, b, c, d, e, f, g, h] = self.iv.to_le_bytes();
        writer.put(&[e, f, g, h, a, b, c, d]);
        Ok(writer.finish())
    }
}
