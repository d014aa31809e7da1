//! Little-endian fields at places that the compiler has checked, and a writer that cannot overrun.

use super::{HEADER_SIZE, Head, WireError};

/// The place at offset `AT` of a message. A type of its own, so that a call names the offset and nothing else: lengths
/// are inferred (Rust 1.85 infers all const arguments of a function or none).
pub(super) struct At<const AT: usize>;

impl<const AT: usize> At<AT> {
    /// The `K` bytes there, where they lie. Out of bounds does not compile.
    #[inline]
    pub(super) fn array<const K: usize, const N: usize>(message: &[u8; N]) -> &[u8; K] {
        const { assert!(AT <= N && K <= N - AT, "the field lies outside the message") };
        // The assertion above makes the default unreachable.
        message.get(AT..).and_then(|tail| tail.first_chunk::<K>()).unwrap_or(&[0; K])
    }

    /// The `K` bytes there.
    #[inline]
    pub(super) fn bytes<const K: usize, const N: usize>(message: &[u8; N]) -> [u8; K] {
        *Self::array(message)
    }

    /// The byte there.
    #[inline]
    pub(super) fn u8<const N: usize>(message: &[u8; N]) -> u8 {
        u8::from_le_bytes(Self::bytes(message))
    }

    /// The 16-bit field there.
    #[inline]
    pub(super) fn u16<const N: usize>(message: &[u8; N]) -> u16 {
        u16::from_le_bytes(Self::bytes(message))
    }

    /// The 32-bit field there.
    #[inline]
    pub(super) fn u32<const N: usize>(message: &[u8; N]) -> u32 {
        u32::from_le_bytes(Self::bytes(message))
    }

    /// The 64-bit field there.
    #[inline]
    pub(super) fn u64<const N: usize>(message: &[u8; N]) -> u64 {
        u64::from_le_bytes(Self::bytes(message))
    }
}

/// A whole TDISP message of the type `code` and of exactly `N` bytes.
#[inline]
pub(super) fn exact<const N: usize>(message: &[u8], code: u8) -> Result<&[u8; N], WireError> {
    typed::<1>(message, code, HEADER_SIZE)?;
    sized(message, code)
}

/// A TDISP message of the type `code` with a fixed part of `N` bytes, and what follows that part.
#[inline]
pub(super) fn prefix<const N: usize>(message: &[u8], code: u8) -> Result<(&[u8; N], &[u8]), WireError> {
    typed::<1>(message, code, HEADER_SIZE)?;
    message.split_first_chunk::<N>().ok_or(WireError::Length { code, expected: N, got: message.len() })
}

/// A whole message whose type, the byte at `AT`, was checked.
#[inline]
pub(super) fn sized<const N: usize>(message: &[u8], code: u8) -> Result<&[u8; N], WireError> {
    message.try_into().map_err(|_| WireError::Length { code, expected: N, got: message.len() })
}

/// Checks that at least `need` bytes are there, and the type at offset `AT`.
#[inline]
pub(super) fn typed<const AT: usize>(message: &[u8], code: u8, need: usize) -> Result<(), WireError> {
    if message.len() < need {
        return Err(WireError::Short { need, got: message.len() });
    }
    match message.get(AT) {
        Some(&got) if got == code => Ok(()),
        got => Err(WireError::Type { expected: code, got: got.copied().unwrap_or(0) }),
    }
}

/// Checks a length field against the bytes that are there.
#[inline]
pub(super) fn claimed(field: &'static str, claimed: usize, got: usize) -> Result<(), WireError> {
    if claimed == got { Ok(()) } else { Err(WireError::Claim { field, claimed, got }) }
}

/// Takes as many bytes as a length field says.
#[inline]
pub(super) fn take<'a>(
    bytes: &'a [u8],
    field: &'static str,
    claimed: usize,
) -> Result<(&'a [u8], &'a [u8]), WireError> {
    bytes.split_at_checked(claimed).ok_or(WireError::Claim { field, claimed, got: bytes.len() })
}

/// Fills a buffer field by field. The whole length is checked at the start, so a put cannot fail.
pub(super) struct Writer<'o> {
    rest: &'o mut [u8],
    size: usize,
}

impl<'o> Writer<'o> {
    /// Takes the first `size` bytes of `out` and zeroes them.
    pub(super) fn new(out: &'o mut [u8], size: usize) -> Result<Self, WireError> {
        let have = out.len();
        let rest = out.get_mut(..size).ok_or(WireError::Room { need: size, have })?;
        rest.fill(0);
        Ok(Writer { rest, size })
    }

    /// Takes the first `size` bytes of `out`, zeroes them and writes the header of a TDISP message.
    pub(super) fn begin(out: &'o mut [u8], size: usize, code: u8, head: Head) -> Result<Self, WireError> {
        let mut writer = Writer::new(out, size)?;
        writer.put(&[head.version.0, code, 0, 0]);
        writer.put(&head.interface.function.to_bits().to_le_bytes());
        writer.put(&[0; 8]);
        Ok(writer)
    }

    /// Writes the next bytes; what would lie past the size given at the start is dropped.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let rest = core::mem::take(&mut self.rest);
        let at = bytes.len().min(rest.len());
        if let Some((head, tail)) = rest.split_at_mut_checked(at) {
            for (to, from) in head.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.rest = tail;
        }
    }

    /// The number of bytes of the whole message.
    pub(super) fn finish(self) -> usize {
        self.size
    }
}
