//! Which engine drives which PCI function.

/// How a function says in config space that it is of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Id {
    /// By vendor and device id.
    Device(u16, u16),
    /// By class code (base class, subclass, interface: 24 bits), whoever made it.
    Class(u32),
}

/// A kind of device that is driven here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The engine's module: `"edu"`.
    pub name: &'static str,
    /// Which functions it drives.
    pub id: Id,
}

/// Every kind; a row for each id.
pub const KINDS: &[Kind] = &[
    Kind { name: "edu", id: Id::Device(0x1234, 0x11e8) },
    Kind { name: "igb", id: Id::Device(0x8086, 0x10c9) },
    Kind { name: "nvme", id: Id::Class(0x01_0802) },
    Kind { name: "softnic", id: Id::Device(0x5447, 0x0001) },
];

/// The kind of a function, from its ids and class code; the most specific row counts. `None`: no engine here drives it.
pub fn kind_of(vendor: u16, device: u16, class: u32) -> Option<&'static Kind> {
    let by = |id: Id| KINDS.iter().find(|kind| kind.id == id);
    by(Id::Device(vendor, device)).or_else(|| by(Id::Class(class)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_rows_of_one_kind_only() {
        for (n, kind) in KINDS.iter().enumerate() {
            assert!(KINDS.iter().skip(n + 1).all(|other| other.id != kind.id), "{kind:?}");
        }
        assert_eq!(kind_of(0x1234, 0x11e8, 0xff_0000).map(|kind| kind.name), Some("edu"));
        assert_eq!(kind_of(0x1234, 0x1111, 0x03_8000), None);
    }
}
