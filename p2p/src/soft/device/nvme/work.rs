//! One command on its way: pointers, data, end.

use super::disk::Disk;
use super::spec::{Entry, sc};
use super::walk::{Lists, Walk};
use crate::soft::device::Reply;
use std::ops::Range;

/// Largest piece of data that goes out as one request.
const PIECE: u64 = 4096;

/// What a namespace command needs of its controller.
pub(super) struct Medium<'a> {
    pub(super) disk: &'a Disk,
    pub(super) lists: Lists,
    /// Most bytes of a command.
    pub(super) most: u64,
}

#[derive(Debug)]
pub(super) struct Work {
    /// Tells it from all others of its life.
    pub(super) serial: u32,
    pub(super) queue: u16,
    pub(super) entry: Entry,
    pub(super) stale: bool,
    pub(super) status: u16,
    pub(super) result: u32,
    stage: Stage,
    walk: Option<Walk>,
    /// What comes from the host, or goes there.
    data: Vec<u8>,
    sent: usize,
    reading: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Begin,
    /// To the host.
    Out,
    /// From the host; then this.
    In(Then),
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Then {
    Write(Range<usize>),
    Compare(Range<usize>),
    Deallocate,
}

/// A step of it.
#[derive(Debug)]
pub(super) enum Step {
    Inside,
    Read(u64, u32),
    Write(u64, Vec<u8>),
}

impl Work {
    pub(super) fn new(serial: u32, queue: u16, entry: Entry, stale: bool) -> Work {
        Work {
            serial,
            queue,
            entry,
            stale,
            status: sc::OK,
            result: 0,
            stage: Stage::Begin,
            walk: None,
            data: Vec::new(),
            sent: 0,
            reading: false,
        }
    }

    /// Waits for the answer to a read.
    pub(super) fn is_reading(&self) -> bool {
        self.reading
    }

    /// Its end, at once.
    pub(super) fn end(&mut self, status: u16) {
        (self.stage, self.status) = (Stage::End, status);
    }

    /// Sends `data` to where the command's pointers say; for the admin queue.
    pub(super) fn send(&mut self, data: Vec<u8>) {
        match Walk::begin(&self.entry, data.len() as u64, Lists::None) {
            Ok(walk) => (self.stage, self.walk, self.data) = (Stage::Out, Some(walk), data),
            Err(status) => self.end(status),
        }
    }

    /// Was it begun?
    pub(super) fn is_new(&self) -> bool {
        self.stage == Stage::Begin
    }

    /// Begins a command of the NVM command set.
    pub(super) fn begin(&mut self, medium: &Medium<'_>) {
        medium.disk.count();
        if let Err(status) = self.try_begin(medium) {
            self.end(status);
        }
    }

    fn try_begin(&mut self, medium: &Medium<'_>) -> Result<(), u16> {
        let entry = self.entry;
        if entry.dword(1) != 1 {
            return Err(sc::INVALID_NAMESPACE);
        }
        let (block, blocks) = (entry.qword(10), u64::from(entry.dword(12) & 0xffff) + 1);
        let bytes = blocks * medium.disk.block();
        let range = medium.disk.range(block, blocks).ok_or(sc::OUT_OF_RANGE);
        let mut take = |bytes: u64, stage| {
            if bytes > medium.most {
                return Err(sc::INVALID_FIELD);
            }
            (self.walk, self.stage) = (Some(Walk::begin(&entry, bytes, medium.lists)?), stage);
            Ok(())
        };
        match entry.opcode() {
            0x00 => {
                medium.disk.flush();
                self.end(sc::OK);
                Ok(())
            }
            0x01 => take(bytes, Stage::In(Then::Write(range?))),
            0x02 => {
                take(bytes, Stage::Out)?;
                self.data = medium.disk.fetch(range?)?;
                Ok(())
            }
            0x05 => take(bytes, Stage::In(Then::Compare(range?))),
            0x09 if entry.dword(11) & 4 != 0 => {
                take((u64::from(entry.dword(10) & 0xff) + 1) * 16, Stage::In(Then::Deallocate))
            }
            _ => Err(sc::INVALID_OPCODE),
        }
    }

    /// The next step; `None` when it is over.
    pub(super) fn step(&mut self, disk: &Disk) -> Option<Step> {
        let walk = self.walk.as_mut().filter(|_| self.stage != Stage::End)?;
        if let Some((at, len)) = walk.list {
            self.reading = true;
            return Some(Step::Read(at, len));
        }
        let Some((address, len)) = walk.found.front_mut() else {
            let status = self.arrive(disk);
            self.end(status);
            return None;
        };
        let piece = (*len).min(PIECE);
        let at = *address;
        (*address, *len) = (*address + piece, *len - piece);
        if *len == 0 {
            walk.found.pop_front();
        }
        if self.stage == Stage::Out {
            let end = self.sent + piece as usize;
            let data = self.data.get(self.sent..end).unwrap_or(&[]).to_vec();
            self.sent = end;
            return Some(Step::Write(at, data));
        }
        self.reading = true;
        Some(Step::Read(at, piece as u32))
    }

    /// The answer to its read. `strict`: a failed read of data is an error; one of a list always is.
    pub(super) fn reply(&mut self, reply: &Reply, strict: bool) {
        self.reading = false;
        let Some(walk) = &mut self.walk else { return };
        let of_list = walk.list.is_some();
        if reply.failed && (strict || of_list) {
            return self.end(sc::TRANSFER_ERROR);
        }
        if !of_list {
            self.data.extend_from_slice(&reply.data);
        } else if let Err(status) = walk.read(&reply.data) {
            self.end(status);
        }
    }

    /// All its bytes are where they should be.
    fn arrive(&mut self, disk: &Disk) -> u16 {
        match std::mem::replace(&mut self.stage, Stage::End) {
            Stage::In(Then::Write(range)) => disk.put(range, &self.data),
            Stage::In(Then::Compare(range)) => match disk.fetch(range) {
                Ok(blocks) if blocks == self.data => sc::OK,
                Ok(_) => sc::COMPARE,
                Err(status) => status,
            },
            Stage::In(Then::Deallocate) => self.deallocate(disk),
            _ => sc::OK,
        }
    }

    fn deallocate(&self, disk: &Disk) -> u16 {
        for range in self.data.chunks_exact(16) {
            let number = |from: usize, to: usize| {
                range.get(from..to).unwrap_or(&[]).iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
            };
            let Some(range) = disk.range(number(8, 16), number(4, 8)) else { return sc::OUT_OF_RANGE };
            let zeros = vec![0; range.len()];
            let status = disk.put(range, &zeros);
            if status != sc::OK {
                return status;
            }
        }
        sc::OK
    }
}
