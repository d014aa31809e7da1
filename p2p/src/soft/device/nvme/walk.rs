//! Finding a command's bytes: pages or descriptors, which may lie in lists that have to be read first.

use super::spec::{Entry, PAGE, sc};
use std::collections::VecDeque;

/// What a controller says of its scatter-gather lists in Identify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lists {
    /// None: pages only.
    None,
    /// Any address and length.
    Bytes,
    /// Multiples of 4 only.
    Dwords,
}

/// On its way through the pointers of a command.
#[derive(Debug)]
pub(super) struct Walk {
    /// Found, in order: address and length.
    pub(super) found: VecDeque<(u64, u64)>,
    /// Bytes that were not found yet.
    missing: u64,
    /// What has to be read next: where, so many bytes.
    pub(super) list: Option<(u64, u32)>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Pages,
    /// The segment to be read is the last one.
    Segments(Lists, bool),
}

impl Walk {
    /// Begins with what the command itself says.
    pub(super) fn begin(entry: &Entry, bytes: u64, lists: Lists) -> Result<Walk, u16> {
        let mut walk = Walk { found: VecDeque::new(), missing: bytes, list: None, kind: Kind::Pages };
        if bytes == 0 {
            return Ok(walk);
        }
        if entry.has_sgl() {
            if lists == Lists::None {
                return Err(sc::INVALID_FIELD);
            }
            walk.kind = Kind::Segments(lists, false);
            walk.descriptor(entry.qword(6), entry.qword(8), lists, true)?;
            return walk.check();
        }
        let (first, second) = (entry.qword(6), entry.qword(8));
        if first & 3 != 0 {
            return Err(sc::PRP_OFFSET);
        }
        walk.take(first, PAGE - first % PAGE);
        if walk.missing > PAGE {
            if second & 7 != 0 {
                return Err(sc::PRP_OFFSET);
            }
            walk.list = Some((second, walk.entries_at(second)));
        } else if walk.missing > 0 {
            walk.page(second)?;
        }
        Ok(walk)
    }

    /// The list that was asked for.
    pub(super) fn read(&mut self, data: &[u8]) -> Result<(), u16> {
        self.list = None;
        match self.kind {
            Kind::Pages => {
                let mut words = data.chunks_exact(8).map(number).peekable();
                while let Some(word) = words.next() {
                    // The last place of a page that is not the last one points on.
                    if words.peek().is_none() && self.missing > PAGE {
                        if word % PAGE != 0 {
                            return Err(sc::PRP_OFFSET);
                        }
                        self.list = Some((word, self.entries_at(word)));
                        break;
                    }
                    self.page(word)?;
                }
                Ok(())
            }
            Kind::Segments(lists, is_last) => {
                let mut raw = data.chunks_exact(16).peekable();
                while let Some(descriptor) = raw.next() {
                    let (low, high) = descriptor.split_at(8);
                    let may_point = raw.peek().is_none() && !is_last;
                    self.descriptor(number(low), number(high), lists, may_point)?;
                }
                if self.list.is_none() && self.missing > 0 { Err(sc::SGL_LENGTH) } else { Ok(()) }
            }
        }
    }

    fn check(self) -> Result<Walk, u16> {
        if self.list.is_none() && self.missing > 0 { Err(sc::SGL_LENGTH) } else { Ok(self) }
    }

    fn descriptor(&mut self, address: u64, rest: u64, lists: Lists, may_point: bool) -> Result<(), u16> {
        let (len, kind) = (rest & 0xffff_ffff, rest >> 60);
        match kind {
            0 => {
                if lists == Lists::Dwords && (address | len) & 3 != 0 {
                    return Err(sc::SGL_GRANULARITY);
                }
                if len > self.missing {
                    return Err(sc::SGL_LENGTH);
                }
                self.take(address, len);
                Ok(())
            }
            2 | 3 if may_point => {
                if len == 0 || len % 16 != 0 || len > 65536 {
                    return Err(sc::INVALID_SGL_COUNT);
                }
                self.kind = Kind::Segments(lists, kind == 3);
                self.list = Some((address, len as u32));
                Ok(())
            }
            _ => Err(sc::SGL_TYPE),
        }
    }

    fn page(&mut self, address: u64) -> Result<(), u16> {
        if address % PAGE != 0 {
            return Err(sc::PRP_OFFSET);
        }
        self.take(address, PAGE);
        Ok(())
    }

    fn take(&mut self, address: u64, len: u64) {
        let len = len.min(self.missing);
        if len > 0 {
            self.found.push_back((address, len));
        }
        self.missing -= len;
    }

    /// Bytes of the list from `at` to where it, or its page, ends.
    fn entries_at(&self, at: u64) -> u32 {
        (self.missing.div_ceil(PAGE) * 8).min(PAGE - at % PAGE) as u32
    }
}

fn number(raw: &[u8]) -> u64 {
    raw.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sgl: bool, low: u64, high: u64) -> Entry {
        let mut dwords = [0; 16];
        dwords[0] = u32::from(sgl) << 14;
        (dwords[6], dwords[7], dwords[8], dwords[9]) =
            (low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32);
        Entry(dwords)
    }

    #[test]
    fn pages_are_found_directly_and_through_lists() {
        let walk = Walk::begin(&entry(false, 0x1e00, 0x5000), 0x400, Lists::None).unwrap();
        assert_eq!((walk.found, walk.list), (VecDeque::from([(0x1e00, 0x200), (0x5000, 0x200)]), None));
        let mut walk = Walk::begin(&entry(false, 0x1000, 0x8ff0), 0x4000, Lists::None).unwrap();
        assert_eq!(walk.list, Some((0x8ff0, 16)));
        let words = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        walk.read(&words(&[0x2000, 0x9000])).unwrap();
        assert_eq!(walk.list, Some((0x9000, 16)), "the last place of a page points on");
        walk.read(&words(&[0x7000, 0x3000])).unwrap();
        assert_eq!(walk.found, [(0x1000, 0x1000), (0x2000, 0x1000), (0x7000, 0x1000), (0x3000, 0x1000)]);
        assert_eq!(Walk::begin(&entry(false, 0x1002, 0), 8, Lists::None).unwrap_err(), sc::PRP_OFFSET);
        assert_eq!(Walk::begin(&entry(false, 0x1ffc, 0x2010), 8, Lists::None).unwrap_err(), sc::PRP_OFFSET);
    }

    #[test]
    fn descriptors_must_fit_the_command() {
        let begin = |low, high, lists| Walk::begin(&entry(true, low, high), 0x200, lists);
        assert_eq!(begin(0x1001, 0x200, Lists::Bytes).unwrap().found, [(0x1001, 0x200)]);
        assert_eq!(begin(0x1001, 0x200, Lists::Dwords).unwrap_err(), sc::SGL_GRANULARITY);
        assert_eq!(begin(0x1000, 0x200, Lists::None).unwrap_err(), sc::INVALID_FIELD);
        assert_eq!(begin(0x1000, 0x1ff, Lists::Bytes).unwrap_err(), sc::SGL_LENGTH);
        assert_eq!(begin(0x1000, 0x201, Lists::Bytes).unwrap_err(), sc::SGL_LENGTH);
        assert_eq!(begin(0x1000, 1 << 60, Lists::Bytes).unwrap_err(), sc::SGL_TYPE);
        let mut walk = begin(0x7000, 3 << 60 | 32, Lists::Bytes).unwrap();
        assert_eq!(walk.list, Some((0x7000, 32)));
        let mut list = Vec::new();
        for (address, len) in [(0x10_u64, 0x100_u64), (0x2000, 0x100)] {
            list.extend(address.to_le_bytes());
            list.extend(len.to_le_bytes());
        }
        walk.read(&list).unwrap();
        assert_eq!(walk.found, [(0x10, 0x100), (0x2000, 0x100)]);
        assert_eq!(begin(0x7000, 3 << 60 | 32, Lists::Bytes).unwrap().read(&list[..16]), Err(sc::SGL_LENGTH));
    }
}
