//! What a controller and a namespace say of themselves.

use super::abi::PAGE;

/// What Identify (controller) says, as far as it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Most bytes of a command; 0: no limit.
    pub most: u64,
    /// Scatter-gather lists: with pieces of any bytes, or of multiples of 4 at multiples of 4.
    pub sgl: Option<Sgl>,
    /// Compare.
    pub compare: bool,
    /// Dataset Management.
    pub deallocate: bool,
    /// A write cache that loses its contents without power: what Flush is for.
    pub cache: bool,
}

/// What SGL descriptors may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sgl {
    /// Any address, any length.
    Bytes,
    /// Multiples of 4.
    Dwords,
}

impl Features {
    /// From the 4096 bytes that Identify (CNS 01h) gives. NVMe Base 2.0, 5.17.2.1.
    pub fn parse(data: &[u8]) -> Features {
        let most = match byte(data, 77) {
            0 => 0,
            // Units of the smallest page, which is ours.
            power => PAGE.checked_shl(u32::from(power)).unwrap_or(0),
        };
        let sgl = match byte(data, 536) & 3 {
            1 => Some(Sgl::Bytes),
            2 => Some(Sgl::Dwords),
            _ => None,
        };
        let optional = byte(data, 520);
        Features {
            most,
            sgl,
            compare: optional & 1 != 0,
            deallocate: optional & 4 != 0,
            cache: byte(data, 525) & 1 != 0,
        }
    }
}

/// What Identify (namespace) says, as far as it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// Its number.
    pub id: u32,
    /// Its size in blocks.
    pub blocks: u64,
    /// Bytes of a block: a power of two from 512.
    pub block: u64,
}

impl Namespace {
    /// From the 4096 bytes that Identify (CNS 00h) gives. NVM Command Set 1.0, 4.1.5.1. `Err` says what it does not have.
    pub fn parse(id: u32, data: &[u8]) -> Result<Namespace, &'static str> {
        let size = (0..8).rev().fold(0, |n, at| n << 8 | u64::from(byte(data, at)));
        if size == 0 {
            return Err("have an active namespace of that number");
        }
        let flbas = byte(data, 26);
        let format = usize::from(flbas & 0xf | flbas >> 1 & 0x30);
        let at = 128 + 4 * format;
        if byte(data, at) != 0 || byte(data, at + 1) != 0 {
            return Err("have the namespace formatted without metadata");
        }
        match byte(data, at + 2) {
            shift @ 9..=12 => Ok(Namespace { id, blocks: size, block: 1 << shift }),
            _ => Err("have the namespace formatted with blocks of 512 to 4096 bytes"),
        }
    }
}

fn byte(data: &[u8], at: usize) -> u8 {
    data.get(at).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controllers_features_are_read() {
        let mut data = vec![0; 4096];
        let none = Features { most: 0, sgl: None, compare: false, deallocate: false, cache: false };
        assert_eq!(Features::parse(&data), none);
        (data[77], data[520], data[525], data[536]) = (7, 0x5f, 0x07, 0x01);
        let all =
            Features { most: 512 << 10, sgl: Some(Sgl::Bytes), compare: true, deallocate: true, cache: true };
        assert_eq!(Features::parse(&data), all);
        (data[77], data[536]) = (0xff, 2);
        assert_eq!((Features::parse(&data).most, Features::parse(&data).sgl), (0, Some(Sgl::Dwords)));
        assert_eq!(Features::parse(&[]), none);
    }

    #[test]
    fn a_namespaces_format_is_read() {
        let mut data = vec![0; 4096];
        assert!(Namespace::parse(1, &data).is_err(), "not active");
        data[0..8].copy_from_slice(&0x1_0000_u64.to_le_bytes());
        assert!(Namespace::parse(1, &data).is_err(), "no format");
        data[26] = 2;
        data[128 + 8 + 2] = 12;
        assert_eq!(Namespace::parse(7, &data), Ok(Namespace { id: 7, blocks: 0x1_0000, block: 4096 }));
        data[128 + 8] = 8;
        assert!(Namespace::parse(1, &data).is_err(), "metadata");
        // The seventeenth format.
        data[26] = 0x20;
        data[128 + 64 + 2] = 9;
        assert_eq!(Namespace::parse(1, &data).map(|n| n.block), Ok(512));
        assert!(Namespace::parse(1, &[]).is_err());
    }
}
