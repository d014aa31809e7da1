//! START_INTERFACE_NONCE: the secret that ties a START to the LOCK before it.

use core::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Bytes of a nonce.
pub const NONCE_SIZE: usize = 32;

/// START_INTERFACE_NONCE, owned. Compared in constant time, wiped when dropped, never shown by `Debug`.
#[derive(Clone)]
pub struct Nonce([u8; NONCE_SIZE]);

impl Nonce {
    /// A nonce of these bytes.
    pub const fn new(bytes: [u8; NONCE_SIZE]) -> Self {
        Nonce(bytes)
    }

    /// The same nonce, borrowed.
    pub const fn borrow(&self) -> NonceRef<'_> {
        NonceRef(&self.0)
    }
}

/// START_INTERFACE_NONCE where it lies in a message: no copy is made. Compared in constant time, never shown by
/// `Debug`.
#[derive(Clone, Copy)]
pub struct NonceRef<'a>(&'a [u8; NONCE_SIZE]);

impl<'a> NonceRef<'a> {
    /// A nonce of these bytes.
    pub const fn new(bytes: &'a [u8; NONCE_SIZE]) -> Self {
        NonceRef(bytes)
    }

    /// The bytes, for the wire.
    pub const fn bytes(self) -> &'a [u8; NONCE_SIZE] {
        self.0
    }

    /// A copy that is wiped when dropped.
    pub const fn keep(self) -> Nonce {
        Nonce(*self.0)
    }
}

impl PartialEq for NonceRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(other.0).into()
    }
}

impl Eq for NonceRef<'_> {}

impl fmt::Debug for NonceRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

impl PartialEq for Nonce {
    fn eq(&self, other: &Self) -> bool {
        self.borrow() == other.borrow()
    }
}

impl Eq for Nonce {}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

impl Drop for Nonce {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_never_printed() {
        let nonce = Nonce::new([0xAB; 32]);
        assert_eq!(format!("{nonce:?} {:?}", nonce.borrow()), "Nonce(..) Nonce(..)");
    }

    #[test]
    fn nonces_differ_when_one_bit_does() {
        let mut other = [7; 32];
        other[31] ^= 0x80;
        assert_ne!(Nonce::new([7; 32]), Nonce::new(other));
        assert_eq!(Nonce::new([7; 32]), Nonce::new([7; 32]));
    }
}
