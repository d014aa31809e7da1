//! One operation on its way: what is left of it, and the kernel's entry for its next piece.

use super::buffers::Lookup;
use io_uring::{opcode, squeue, types};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Bits of a position that are the offset; the file's number is above them.
pub(super) const OFFSET_BITS: u32 = 48;
pub(super) const OFFSET: u64 = (1 << OFFSET_BITS) - 1;
/// The kernel moves no more in one go.
const MOST: u32 = 0x7fff_f000;

/// `Entry::expect` of one that the kernel does not have.
const AT_HOME: i32 = i32::MIN;
/// `Entry::expect` of a piece that is not the last: no result ends it.
const MORE: i32 = i32::MIN + 1;

/// Tags of `user_data`, above the index.
pub(super) const SYNC: u64 = 1 << 32;
pub(super) const CANCEL: u64 = 2 << 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Idle,
    Read,
    Write,
    Fence,
}

/// An operation, by its index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Of the next byte.
    pub(super) address: u64,
    /// File and offset of the next byte.
    pub(super) at: u64,
    pub(super) len: u32,
    pub(super) left: u32,
    /// The result that ends it; else one of the two above.
    expect: i32,
    pub(super) kind: Kind,
    /// Times in a row that it was submitted again for nothing.
    pub(super) tries: u8,
    /// Not through a registered buffer.
    pub(super) plain: bool,
    /// Its entry names a registered buffer.
    pub(super) fixed: bool,
}

impl Entry {
    pub(super) const IDLE: Entry = Entry::new(Kind::Idle, 0, 0, 0);
    pub(super) const FENCE: Entry = Entry::new(Kind::Fence, 0, 0, 0);

    #[inline]
    pub(super) const fn new(kind: Kind, address: u64, at: u64, len: u32) -> Entry {
        Entry { address, at, len, left: len, expect: AT_HOME, kind, tries: 0, plain: false, fixed: false }
    }

    /// Does this result end it, as a whole?
    #[inline]
    pub(super) fn is_ended_by(&self, result: i32) -> bool {
        result == self.expect
    }

    /// It is over.
    #[inline]
    pub(super) fn end(&mut self) {
        self.kind = Kind::Idle;
        self.expect = AT_HOME;
    }

    /// Its entry found no room.
    pub(super) fn unbuild(&mut self) {
        self.expect = AT_HOME;
    }

    /// Has the kernel its entry?
    pub(super) fn is_out(&self) -> bool {
        self.expect != AT_HOME
    }

    /// The kernel is through with its piece, of which `bytes` were moved.
    pub(super) fn back(&mut self, bytes: u32) {
        let bytes = bytes.min(self.left);
        self.expect = AT_HOME;
        self.address += u64::from(bytes);
        self.at += u64::from(bytes);
        self.left -= bytes;
    }

    pub(super) fn moved(&self) -> u32 {
        self.len - self.left
    }

    #[inline]
    pub(super) fn file(&self) -> usize {
        (self.at >> OFFSET_BITS) as usize
    }

    /// Makes the kernel's entry for what is left of it, or as much as goes at once, and gives it to `push`; its
    /// answer.
    #[inline(always)]
    pub(super) fn build(
        &mut self,
        medium: &mut Medium,
        lookup: &mut Lookup,
        index: u32,
        push: impl FnOnce(&squeue::Entry) -> bool,
    ) -> bool {
        let found = if self.plain { None } else { lookup.find(self.address) };
        let room = found.map_or(u64::MAX, |(_, room)| room);
        let n = u64::from(self.left.min(MOST)).min(room) as u32;
        self.fixed = found.is_some();
        self.expect = if n == self.left { n as i32 } else { MORE };
        let (offset, data) = (self.at & OFFSET, u64::from(index));
        let (to, from) = (self.address as *mut u8, self.address as *const u8);
        // Each arm pushes what it made: one entry that all of them make would be copied once more.
        macro_rules! entry {
            ($fd:expr) => {
                match (self.kind, found) {
                    (Kind::Read, Some((slot, _))) => {
                        push(&opcode::ReadFixed::new($fd, to, n, slot).offset(offset).build().user_data(data))
                    }
                    (Kind::Read, None) => {
                        push(&opcode::Read::new($fd, to, n).offset(offset).build().user_data(data))
                    }
                    (_, Some((slot, _))) => {
                        medium.dirty = medium.seekable;
                        push(
                            &opcode::WriteFixed::new($fd, from, n, slot)
                                .offset(offset)
                                .build()
                                .user_data(data),
                        )
                    }
                    (_, None) => {
                        medium.dirty = medium.seekable;
                        push(&opcode::Write::new($fd, from, n).offset(offset).build().user_data(data))
                    }
                }
            };
        }
        match medium.place {
            Place::Fixed(n) => entry!(types::Fixed(n)),
            Place::Fd(fd) => entry!(types::Fd(fd)),
            Place::Null => {
                self.expect = 0;
                push(&opcode::Nop::new().build().user_data(data))
            }
        }
    }
}

/// How the kernel's entries name a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Its number in the ring's table.
    Fixed(u32),
    Fd(RawFd),
    /// No file: entries are no-ops.
    Null,
}

/// One file of an engine.
#[derive(Debug)]
pub(super) struct Medium {
    pub(super) place: Place,
    /// Closed with the engine; what is in flight has a reference of the kernel's.
    pub(super) fd: Option<OwnedFd>,
    /// A file or block device: a read that came short goes on until the end.
    pub(super) seekable: bool,
    /// O_DIRECT.
    pub(super) direct: bool,
    /// O_APPEND: writes go to its end, wherever that is, in the order in which they run.
    pub(super) appends: bool,
    /// Written since its last sync.
    pub(super) dirty: bool,
}

impl Medium {
    pub(super) fn null() -> Medium {
        Medium { place: Place::Null, fd: None, seekable: false, direct: false, appends: false, dirty: false }
    }

    pub(super) fn raw(&self) -> Option<RawFd> {
        self.fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Syncs its data.
    pub(super) fn sync(&self) -> Option<squeue::Entry> {
        let flags = types::FsyncFlags::DATASYNC;
        let entry = match self.place {
            Place::Fixed(n) => opcode::Fsync::new(types::Fixed(n)).flags(flags).build(),
            Place::Fd(fd) => opcode::Fsync::new(types::Fd(fd)).flags(flags).build(),
            Place::Null => return None,
        };
        Some(entry.user_data(SYNC))
    }
}

/// Cancels everything that the ring has in flight.
pub(super) fn cancel_all() -> squeue::Entry {
    opcode::AsyncCancel2::new(types::CancelBuilder::any()).build().user_data(CANCEL)
}
