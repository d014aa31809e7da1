//! An IDE key, and the order of its bytes on the wire.

use core::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Bytes of a key: AES-256.
pub const KEY_SIZE: usize = 32;

/// A key of an IDE stream, its bytes in the order in which AES takes them. Compared in constant time, wiped when
/// dropped, never shown by `Debug`.
///
/// The wire has eight double words, that with the key's first four bytes in front, each of them little-endian: four
/// bytes are turned round, the words stay where they are.
#[derive(Clone)]
pub struct Key([u8; KEY_SIZE]);

impl Key {
    /// A key of these bytes, in the order of AES.
    pub const fn new(bytes: [u8; KEY_SIZE]) -> Self {
        Key(bytes)
    }

    /// The bytes in the order of AES.
    pub const fn bytes(&self) -> &[u8; KEY_SIZE] {
        &self.0
    }

    /// Reads the field of KEY_PROG.
    pub fn from_wire(wire: &[u8; KEY_SIZE]) -> Self {
        let mut key = Key(*wire);
        turn(&mut key.0);
        key
    }

    /// Writes the field of KEY_PROG.
    pub fn to_wire(&self, wire: &mut [u8; KEY_SIZE]) {
        *wire = self.0;
        turn(wire);
    }
}

/// Turns the bytes of each double word round.
fn turn(bytes: &mut [u8; KEY_SIZE]) {
    for word in bytes.chunks_exact_mut(4) {
        word.reverse();
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
