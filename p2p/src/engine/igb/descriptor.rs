//! Advanced descriptors of the 82576: 16 bytes, two little-endian words of 64 bits (datasheet 7.1.5 and 7.2.2).

/// Bytes of a descriptor.
pub(super) const LEN: u64 = 16;
/// Written back.
const DONE: u64 = 1;
/// The frame ends here.
const END: u64 = 1 << 1;
/// Errors in the high word of a receive write-back: bits 20 to 31. Of them, "header longer than its buffer" is none.
const ERRORS: u64 = 0xfff << 20;
const NO_ROOM_FOR_HEADER: u64 = 1 << 23;

/// A receive buffer. `header`: where headers go, 0 without header split. Both addresses may be odd but for the header's, whose
/// lowest bit is the one that the device sets when it writes back.
pub(super) fn receive(buffer: u64, header: u64) -> [u64; 2] {
    [buffer, header & !DONE]
}

/// What a receive descriptor says once it was written back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    /// Bytes in the packet buffer.
    pub(super) len: u32,
    /// Bytes in the header buffer.
    pub(super) header: u32,
    /// The frame ends here.
    pub(super) end: bool,
    /// The device's error bits; 0: none.
    pub(super) errors: u16,
}

impl Received {
    /// Of the high word; `None`: not written back yet.
    #[inline]
    pub(super) fn of(high: u64) -> Option<Received> {
        if high & DONE == 0 {
            return None;
        }
        Some(Received {
            len: (high >> 32) as u32 & 0xffff,
            header: 0,
            end: high & END != 0,
            errors: ((high & ERRORS & !NO_ROOM_FOR_HEADER) >> 20) as u16,
        })
    }

    /// With the header's length, from the low word. Where the device did not recognise a header (bit 15 of the field is
    /// clear), a queue that splits always has filled the header's buffer all the same: the field says so too.
    pub(super) fn with_header(self, low: u64) -> Received {
        // 10 bits, from bit 5 of the second half-word on.
        Received { header: (low >> 21) as u32 & 0x3ff, ..self }
    }
}

/// A piece of a frame to be sent. `frame`: bytes of all of it. `last`: the frame ends here, and the device is to write back.
pub(super) fn transmit(buffer: u64, len: u32, frame: u32, last: bool) -> [u64; 2] {
    const DATA: u64 = 3 << 20;
    const ADVANCED: u64 = 1 << 29;
    const CHECK_SEQUENCE: u64 = 1 << 25;
    const END_AND_REPORT: u64 = 1 << 24 | 1 << 27;
    let end = if last { END_AND_REPORT } else { 0 };
    let command = u64::from(len & 0xffff) | DATA | ADVANCED | CHECK_SEQUENCE | end;
    let frame = u64::from(frame & 0x3_ffff) << 14;
    [buffer, command | frame << 32]
}

/// Was a transmit descriptor written back?
#[inline]
pub(super) fn is_sent(high: u64) -> bool {
    (high >> 32) & DONE != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: [u64; 2]) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (eight, word) in bytes.chunks_exact_mut(8).zip(words) {
            eight.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn high(bytes: [u8; 8]) -> u64 {
        u64::from_le_bytes(bytes)
    }

    #[test]
    fn a_receive_buffer_is_laid_out_as_in_the_datasheet() {
        let one = receive(0x1122_3344_5566_7789, 0);
        assert_eq!(bytes(one), [0x89, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0, 0, 0, 0, 0]);
        let two = receive(0x1000, 0xaabb_ccdd_eeff_0001);
        assert_eq!(bytes(two)[8..], [0, 0, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa], "its lowest bit stays clear");
    }

    #[test]
    fn a_receive_write_back_is_read_as_in_the_datasheet() {
        // Status 0x03 (DD, EOP), no errors, length 0x05ea, VLAN 0x1234.
        let well = high([0x03, 0, 0, 0, 0xea, 0x05, 0x34, 0x12]);
        assert_eq!(Received::of(well), Some(Received { len: 1514, header: 0, end: true, errors: 0 }));
        assert_eq!(Received::of(high([0x02, 0, 0, 0, 0xea, 0x05, 0, 0])), None, "without DD");
        let more = high([0x01, 0, 0, 0, 0, 0x04, 0, 0]);
        assert_eq!(Received::of(more), Some(Received { len: 1024, header: 0, end: false, errors: 0 }));
        // RXE is bit 31, IPE bit 30, HBO bit 23 of the status and error field.
        let bad = high([0x03, 0, 0, 0x80, 60, 0, 0, 0]);
        assert_eq!(Received::of(bad).map(|r| r.errors), Some(0x800));
        assert_eq!(Received::of(high([0x03, 0, 0, 0x40, 60, 0, 0, 0])).map(|r| r.errors), Some(0x400));
        assert_eq!(Received::of(high([0x03, 0, 0x80, 0, 60, 0, 0, 0])).map(|r| r.errors), Some(0));
        // Header length 42 is 0x540 in its half-word (bits 14:5), SPH is bit 15.
        let split = Received { len: 9, header: 0, end: true, errors: 0 };
        let low = high([0x11, 0, 0x40, 0x85, 0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(split.with_header(low).header, 42);
        let low = high([0xff, 0xff, 0xe0, 0x7f, 0, 0, 0, 0]);
        assert_eq!(split.with_header(low).header, 1023);
    }

    #[test]
    fn a_transmit_descriptor_is_laid_out_as_in_the_datasheet() {
        let only = transmit(0x0102_0304_0506_0708, 1514, 1514, true);
        // DTALEN 0x05ea; DTYP 3 in bits 23:20; DCMD 0x2b: DEXT, RS, IFCS, EOP; PAYLEN 1514 << 14 = 0x017a8000.
        let expected = [8, 7, 6, 5, 4, 3, 2, 1, 0xea, 0x05, 0x30, 0x2b, 0x00, 0x80, 0x7a, 0x01];
        assert_eq!(bytes(only), expected);
        let first = transmit(0, 42, 1514, false);
        assert_eq!(bytes(first)[8..12], [42, 0, 0x30, 0x22], "neither end nor report");
        assert!(!is_sent(only[1]) && !is_sent(first[1]));
        assert!(is_sent(high([0xea, 0x05, 0x30, 0x2b, 0x01, 0x80, 0x7a, 0x01])));
        assert!(!is_sent(high([0x01, 0, 0, 0, 0, 0, 0, 0])), "DD is in the status, bit 32");
    }
}
