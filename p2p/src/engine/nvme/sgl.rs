//! Scatter-gather lists: where a command's bytes are, piece by piece (NVMe Base 2.0, 4.1.2).
//!
//! One piece is a descriptor in the command. More are a list in memory, to which the command's descriptor points.

use super::prp::Area;

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR_LEN: u64 = 16;
/// Descriptor types, in the upper half of the last byte: a piece of data, and the last segment of a list.
const DATA_BLOCK: u64 = 0x0 << 60;
const LAST_SEGMENT: u64 = 0x3 << 60;

/// The descriptor of one piece of less than 4 GiB, as two words.
#[inline]
pub(super) fn one(address: u64, len: u32) -> (u64, u64) {
    (address, u64::from(len) | DATA_BLOCK)
}

/// The command's descriptor for the bytes of `pieces` (address and length), in order; descriptors of the list are handed to
/// `put` with their offset in `area`. `None`: there is no piece, one is too long, or the list does not fit.
pub(super) fn build(
    mut pieces: impl ExactSizeIterator<Item = (u64, u64)>,
    area: Area,
    mut put: impl FnMut(u64, (u64, u64)),
) -> Option<(u64, u64)> {
    let n = pieces.len() as u64;
    let descriptor = |(address, len)| Some(one(address, u32::try_from(len).ok()?));
    if n == 1 {
        return descriptor(pieces.next()?);
    }
    let bytes = n * DESCRIPTOR_LEN;
    if n == 0 || bytes > area.len {
        return None;
    }
    for (at, piece) in (0..).step_by(DESCRIPTOR_LEN as usize).zip(pieces) {
        put(at, descriptor(piece)?);
    }
    Some((area.iova, bytes | LAST_SEGMENT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Byte by byte, as the specification's figures have it: address, length, three zeros, type and subtype.
    fn bytes((low, high): (u64, u64)) -> [u8; 16] {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&low.to_le_bytes());
        raw[8..].copy_from_slice(&high.to_le_bytes());
        raw
    }

    fn expected(kind: u8, address: u64, len: u32) -> [u8; 16] {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&len.to_le_bytes());
        raw[15] = kind << 4;
        raw
    }

    proptest! {
        #[test]
        fn descriptors_name_the_pieces_in_order(
            pieces in proptest::collection::vec((any::<u64>(), 1_u64..1 << 32), 1..40)
        ) {
            let area = Area { iova: 0x7000, len: 40 * 16 };
            let mut list = Vec::new();
            let own = build(pieces.iter().copied(), area, |at, descriptor| {
                assert_eq!(at, 16 * list.len() as u64);
                list.push(bytes(descriptor));
            })
            .unwrap();
            let all: Vec<_> = pieces.iter().map(|(at, len)| expected(0, *at, *len as u32)).collect();
            if pieces.len() == 1 {
                prop_assert_eq!(bytes(own), all[0]);
                prop_assert!(list.is_empty());
            } else {
                prop_assert_eq!(bytes(own), expected(3, 0x7000, 16 * pieces.len() as u32));
                prop_assert_eq!(list, all);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let area = Area { iova: 0x7000, len: 32 };
        let no = |pieces: &[(u64, u64)]| build(pieces.iter().copied(), area, |_, _| ()).is_none();
        assert!(no(&[]) && no(&[(0, 1 << 32)]) && no(&[(0, 1), (1, 1), (2, 1)]));
        assert!(!no(&[(0, 1), (7, 1)]));
    }
}
