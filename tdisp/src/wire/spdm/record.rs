//! A record of a secured session in DOE's binding: session id, length, ciphertext, tag.

use crate::wire::WireError;
use crate::wire::bytes::{At, Writer, take};

/// Bytes of the authentication tag of AES-256-GCM.
pub const TAG_SIZE: usize = 16;

/// Bytes of the additional authenticated data: the fixed part in front of the ciphertext.
pub const AAD_SIZE: usize = 6;

/// Bytes of an AES-GCM nonce.
pub const NONCE_SIZE: usize = 12;

/// Checked view of a record: the length field has room for the tag and fits the bytes that are there.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    aad: &'a [u8; AAD_SIZE],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG_SIZE],
}

impl<'a> RecordView<'a> {
    /// Checks the length, and gives what follows the record (in a DOE object: zeros).
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let short = WireError::Short { need: AAD_SIZE, got: bytes.len() };
        let (aad, rest) = bytes.split_first_chunk::<AAD_SIZE>().ok_or(short)?;
        let (sealed, rest) = take(rest, "record length", At::<4>::u16(aad).into())?;
        let no_tag = WireError::Claim { field: "record tag", claimed: TAG_SIZE, got: sealed.len() };
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_SIZE>().ok_or(no_tag)?;
        Ok((RecordView { aad, ciphertext, tag }, rest))
    }

    /// The session id (offset 0): the requester's half in bits 15:0, the responder's in bits 31:16.
    pub fn session(&self) -> u32 {
        At::<0>::u32(self.aad)
    }

    /// What the tag authenticates besides the ciphertext.
    pub fn aad(&self) -> &'a [u8; AAD_SIZE] {
        self.aad
    }

    /// The ciphertext (offset 6).
    pub fn ciphertext(&self) -> &'a [u8] {
        self.ciphertext
    }

    /// The tag, after the ciphertext.
    pub fn tag(&self) -> &'a [u8; TAG_SIZE] {
        self.tag
    }
}

/// A record. It carries no sequence number: both sides count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The session id.
    pub session: u32,
    /// The ciphertext, at most 65519 bytes.
    pub ciphertext: &'a [u8],
    /// The tag.
    pub tag: &'a [u8; TAG_SIZE],
}

impl<'a> Record<'a> {
    /// Checks the record and takes its meaning, and gives what follows it (in a DOE object: zeros).
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (view, rest) = RecordView::split(bytes)?;
        Ok((Record { session: view.session(), ciphertext: view.ciphertext(), tag: view.tag() }, rest))
    }

    /// Bytes of the whole record.
    pub const fn size(&self) -> usize {
        AAD_SIZE.saturating_add(self.ciphertext.len()).saturating_add(TAG_SIZE)
    }

    /// The additional authenticated data of a record with so many bytes of ciphertext: what is to be known before
    /// anything can be sealed.
    pub fn aad(session: u32, ciphertext: usize) -> Result<[u8; AAD_SIZE], WireError> {
        let too_long =
            WireError::TooLong { len: ciphertext, max: usize::from(u16::MAX).saturating_sub(TAG_SIZE) };
        let len = ciphertext.checked_add(TAG_SIZE).and_then(|len| u16::try_from(len).ok()).ok_or(too_long)?;
        let ([s0, s1, s2, s3], [l0, l1]) = (session.to_le_bytes(), len.to_le_bytes());
        Ok([s0, s1, s2, s3, l0, l1])
    }

    /// Writes the whole record to the start of `out` and says how many bytes it has.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let aad = Self::aad(self.session, self.ciphertext.len())?;
        let mut writer = Writer::new(out, self.size())?;
        writer.put(&aad);
        writer.put(self.ciphertext);
        writer.put(self.tag);
        Ok(writer.finish())
    }
}

/// The nonce of a direction's record number `sequence`: the salt with the number, little-endian, over its first bytes.
pub fn nonce(salt: &[u8; NONCE_SIZE], sequence: u64) -> [u8; NONCE_SIZE] {
    let mut nonce = *salt;
    for (byte, count) in nonce.iter_mut().zip(sequence.to_le_bytes()) {
        *byte ^= count;
    }
    nonce
}
