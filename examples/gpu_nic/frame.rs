//! What goes over the wire: Ethernet frames of a type for local experiments, with a header of fixed length.

use crate::picture::{HEIGHT, PIXEL, WIDTH};

/// Bytes of a header: what the network controller's header split takes to host memory.
pub const HEADER: usize = 64;
/// Bytes of a row of the picture, the payload.
pub const ROW: usize = (WIDTH * PIXEL) as usize;
pub const ROWS: u16 = HEIGHT as u16;
/// The longest frame.
pub const LONGEST: usize = HEADER + ROW;
/// Rows of one request at most.
pub const ASKED: usize = 64;

/// IEEE 802: "local experimental", which no protocol of others has.
const TYPE: [u8; 2] = [0x88, 0xb5];

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The network controller under test.
    Near,
    /// The peer that has the picture.
    Far,
}

impl Side {
    fn address(self) -> [u8; 6] {
        [0x02, b't', b'g', 0, 0, if self == Side::Near { 1 } else { 2 }]
    }
}

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its payload is a row of the picture.
    Row(u16),
    /// Near asks: send the rows whose numbers are the payload, in that order. How many there are.
    Send(u16),
    /// Near asks: which rows came to you?
    Which,
    /// The answer: a bit a row.
    Have,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub from: Side,
    /// Which showing of the picture: a late frame of an earlier one is seen as such.
    pub pass: u8,
    pub kind: Kind,
}

impl Header {
    pub fn encode(self) -> [u8; HEADER] {
        let (kind, number) = match self.kind {
            Kind::Row(row) => (1, row),
            Kind::Send(count) => (2, count),
            Kind::Which => (3, 0),
            Kind::Have => (4, 0),
        };
        let to = if self.from == Side::Near { Side::Far } else { Side::Near };
        let mut bytes = [0; HEADER];
        bytes[..6].copy_from_slice(&to.address());
        bytes[6..12].copy_from_slice(&self.from.address());
        bytes[12..14].copy_from_slice(&TYPE);
        bytes[14..16].copy_from_slice(&[kind, self.pass]);
        bytes[16..18].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    /// Of a frame's first bytes; `None`: it is not one of ours.
    pub fn decode(bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.first_chunk::<HEADER>()?;
        let number = u16::from_le_bytes([bytes[16], bytes[17]]);
        let kind = match bytes[14] {
            1 if number < ROWS => Kind::Row(number),
            2 if usize::from(number) <= ASKED => Kind::Send(number),
            3 => Kind::Which,
            4 => Kind::Have,
            _ => return None,
        };
        let from = [Side::Near, Side::Far].into_iter().find(|side| side.address() == bytes[6..12])?;
        let header = Header { from, pass: bytes[15], kind };
        // Everything else in it is fixed.
        (header.encode() == *bytes).then_some(header)
    }

    /// The frame with that payload.
    pub fn with(self, payload: &[u8]) -> Vec<u8> {
        [&self.encode()[..], payload].concat()
    }
}

/// A request for rows.
pub fn send(pass: u8, rows: &[u16]) -> Vec<u8> {
    let payload: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
    Header { from: Side::Near, pass, kind: Kind::Send(rows.len() as u16) }.with(&payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for kind in [Kind::Row(0), Kind::Row(ROWS - 1), Kind::Send(64), Kind::Which, Kind::Have] {
            for from in [Side::Near, Side::Far] {
                let header = Header { from, pass: 3, kind };
                assert_eq!(Header::decode(&header.encode()), Some(header));
                assert_eq!(Header::decode(&header.with(&[7; 9])), Some(header));
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_no_header() {
        let header = Header { from: Side::Far, pass: 0, kind: Kind::Row(1) }.encode();
        assert_eq!(Header::decode(&header[..HEADER - 1]), None);
        for at in 0..HEADER {
            let mut other = header;
            other[at] ^= 0x80;
            let pass_or_row = at == 15 || at == 16;
            assert_eq!(Header::decode(&other).is_some(), pass_or_row, "byte {at}");
        }
        assert_eq!(
            Header::decode(&Header { from: Side::Far, pass: 0, kind: Kind::Row(ROWS) }.encode()),
            None
        );
        assert_eq!(
            Header::decode(&Header { from: Side::Near, pass: 0, kind: Kind::Send(65) }.encode()),
            None
        );
    }
}
