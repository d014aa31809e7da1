//! Who a message is about: FUNCTION_ID and INTERFACE_ID.

use core::fmt;

/// FUNCTION_ID: the requester id (bus 15:8, device 7:3, function 2:0) and, where it is valid, the segment.
///
/// Bits 31:25, and the segment bits when "segment valid" is clear, are reserved: they are dropped when read and
/// zero when written. `==` compares both fields; use [`matches`](Self::matches) to find an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionId {
    rid: u16,
    segment: Option<u8>,
}

impl FunctionId {
    const SEGMENT_VALID: u32 = 1 << 24;

    /// A function whose segment is not stated.
    pub const fn new(rid: u16) -> Self {
        FunctionId { rid, segment: None }
    }

    /// A function of a stated segment.
    pub const fn in_segment(segment: u8, rid: u16) -> Self {
        FunctionId { rid, segment: Some(segment) }
    }

    /// Reads the 32-bit field.
    pub const fn from_bits(bits: u32) -> Self {
        let [low, high, segment, flags] = bits.to_le_bytes();
        let rid = u16::from_le_bytes([low, high]);
        FunctionId { rid, segment: if flags & 1 == 1 { Some(segment) } else { None } }
    }

    /// The 32-bit field, with reserved bits zero.
    pub const fn to_bits(self) -> u32 {
        let [low, high] = self.rid.to_le_bytes();
        match self.segment {
            Some(segment) => u32::from_le_bytes([low, high, segment, 0]) | Self::SEGMENT_VALID,
            None => u32::from_le_bytes([low, high, 0, 0]),
        }
    }

    /// The requester id: bus, device and function.
    pub const fn rid(self) -> u16 {
        self.rid
    }

    /// The segment, where the field says that it is valid.
    pub const fn segment(self) -> Option<u8> {
        self.segment
    }

    /// Whether both name the same function: equal requester ids, and equal segments where both state one.
    pub const fn matches(self, other: FunctionId) -> bool {
        let same_segment = match (self.segment, other.segment) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        self.rid == other.rid && same_segment
    }
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low, bus] = self.rid.to_le_bytes();
        if let Some(segment) = self.segment {
            write!(f, "{segment:04x}:")?;
        }
        write!(f, "{bus:02x}:{:02x}.{}", low >> 3, low & 7)
    }
}

/// INTERFACE_ID: a function and eight reserved bytes, which are ignored when read and zero when written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId {
    /// The function that hosts the interface.
    pub function: FunctionId,
}

impl InterfaceId {
    /// Whether both name the same interface; see [`FunctionId::matches`].
    pub const fn matches(self, other: InterfaceId) -> bool {
        self.function.matches(other.function)
    }
}

impl From<FunctionId> for InterfaceId {
    fn from(function: FunctionId) -> Self {
        InterfaceId { function }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_counts_only_where_both_sides_state_it() {
        let plain = FunctionId::new(0x0100);
        let zero = FunctionId::in_segment(0, 0x0100);
        let one = FunctionId::in_segment(1, 0x0100);
        assert!(plain.matches(zero) && plain.matches(one) && one.matches(plain));
        assert!(!zero.matches(one));
        assert!(!plain.matches(FunctionId::new(0x0101)));
    }

    #[test]
    fn reserved_bits_of_a_function_id_are_dropped() {
        assert_eq!(FunctionId::from_bits(0xFE00_0100), FunctionId::new(0x0100));
        assert_eq!(FunctionId::from_bits(0x00AA_0100), FunctionId::new(0x0100));
        assert_eq!(FunctionId::from_bits(0xFFAA_0100), FunctionId::in_segment(0xAA, 0x0100));
        assert_eq!(FunctionId::from_bits(0xFFAA_0100).to_bits(), 0x01AA_0100);
    }

    #[test]
    fn a_function_is_shown_as_lspci_shows_it() {
        assert_eq!(FunctionId::in_segment(2, 0x01F9).to_string(), "0002:01:1f.1");
        assert_eq!(FunctionId::new(0x0100).to_string(), "01:00.0");
    }
}
