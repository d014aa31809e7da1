//! Commands, by name.

use super::abi::{admin, io};

/// A submission queue entry, not yet with its identifier: of its eight words of 64 bits those that any command here uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Command {
    /// Opcode, flags, identifier, namespace.
    head: u64,
    /// Where the bytes are.
    data: (u64, u64),
    /// Command dwords 10 and 11.
    what: u64,
    /// 12 and 13.
    more: u64,
}

/// Where a command's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    /// Two PRP entries.
    Prp(u64, u64),
    /// An SGL descriptor, as two words.
    Sgl(u64, u64),
}

impl Command {
    fn new(opcode: u8, namespace: u32) -> Command {
        Command { head: u64::from(opcode) | u64::from(namespace) << 32, data: (0, 0), what: 0, more: 0 }
    }

    /// Command dwords 10 and 11.
    fn with(mut self, dword10: u32, dword11: u32) -> Command {
        self.what = u64::from(dword10) | u64::from(dword11) << 32;
        self
    }

    #[inline]
    fn data(mut self, data: Data) -> Command {
        let (first, second, kind) = match data {
            Data::Prp(first, second) => (first, second, 0),
            // PSDT: SGLs, metadata (there is none) by an address.
            Data::Sgl(first, second) => (first, second, 1 << 14),
        };
        self.head |= kind;
        self.data = (first, second);
        self
    }

    #[inline]
    fn blocks(opcode: u8, namespace: u32, block: u64, blocks: u32, data: Data) -> Command {
        let mut command = Command::new(opcode, namespace).data(data);
        command.what = block;
        command.more = u64::from(blocks.wrapping_sub(1) & 0xffff);
        command
    }

    /// Read `blocks` (1 to 65,536) from `block` on.
    #[inline]
    pub(super) fn read(namespace: u32, block: u64, blocks: u32, to: Data) -> Command {
        Command::blocks(io::READ, namespace, block, blocks, to)
    }

    /// Write them.
    #[inline]
    pub(super) fn write(namespace: u32, block: u64, blocks: u32, from: Data) -> Command {
        Command::blocks(io::WRITE, namespace, block, blocks, from)
    }

    /// Read memory and compare it with them.
    pub(super) fn compare(namespace: u32, block: u64, blocks: u32, with: Data) -> Command {
        Command::blocks(io::COMPARE, namespace, block, blocks, with)
    }

    /// Commit what was completed to the medium.
    pub(super) fn flush(namespace: u32) -> Command {
        Command::new(io::FLUSH, namespace)
    }

    /// Deallocate `ranges` (1 to 256), which are listed at `list`.
    pub(super) fn deallocate(namespace: u32, ranges: u32, list: Data) -> Command {
        Command::new(io::DSM, namespace).data(list).with(ranges.wrapping_sub(1) & 0xff, 1 << 2)
    }

    /// Identify: the controller (`what` 1), or a namespace (0). 4096 bytes at a page's start.
    pub(super) fn identify(what: u32, namespace: u32, to: u64) -> Command {
        Command::new(admin::IDENTIFY, namespace).data(Data::Prp(to, 0)).with(what, 0)
    }

    /// Set Features, Number of Queues: so many of each kind.
    pub(super) fn queues(wanted: u16) -> Command {
        let n = u32::from(wanted.saturating_sub(1));
        Command::new(admin::SET_FEATURES, 0).with(admin::QUEUES, n << 16 | n)
    }

    /// Create a completion queue, in one piece at a page's start, without interrupts.
    pub(super) fn create_completion_queue(id: u16, entries: u16, at: u64) -> Command {
        let size = u32::from(entries.saturating_sub(1));
        Command::new(admin::CREATE_CQ, 0).data(Data::Prp(at, 0)).with(size << 16 | u32::from(id), 1)
    }

    /// Create a submission queue, in one piece at a page's start, that completes to the completion queue of its number.
    pub(super) fn create_submission_queue(id: u16, entries: u16, at: u64) -> Command {
        let size = u32::from(entries.saturating_sub(1));
        let queue = u32::from(id);
        Command::new(admin::CREATE_SQ, 0).data(Data::Prp(at, 0)).with(size << 16 | queue, queue << 16 | 1)
    }

    /// Delete a submission queue: its commands end first.
    pub(super) fn delete_submission_queue(id: u16) -> Command {
        Command::new(admin::DELETE_SQ, 0).with(u32::from(id), 0)
    }

    /// Delete a completion queue that no submission queue uses.
    pub(super) fn delete_completion_queue(id: u16) -> Command {
        Command::new(admin::DELETE_CQ, 0).with(u32::from(id), 0)
    }

    /// With an identifier.
    #[inline]
    pub(super) fn id(mut self, id: u16) -> Command {
        self.head |= u64::from(id) << 16;
        self
    }

    /// As it lies in the queue.
    #[inline]
    pub(super) fn words(&self) -> [u64; 8] {
        [self.head, 0, 0, self.data.0, self.data.1, self.what, self.more, 0]
    }
}

/// One range of a list for [`super::deallocate`]: 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First block.
    pub block: u64,
    /// Blocks.
    pub blocks: u32,
}

impl Range {
    /// As in the list.
    pub fn encode(&self) -> [u8; 16] {
        let mut raw = [0; 16];
        raw[4..8].copy_from_slice(&self.blocks.to_le_bytes());
        raw[8..16].copy_from_slice(&self.block.to_le_bytes());
        raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dwords(command: Command) -> [u32; 16] {
        let mut all = [0; 16];
        for (n, word) in command.words().iter().enumerate() {
            (all[2 * n], all[2 * n + 1]) = (*word as u32, (*word >> 32) as u32);
        }
        all
    }

    /// Laid out by hand from the specification's figures.
    #[test]
    fn commands_are_as_the_specification_lays_them_out() {
        let read = Command::read(1, 0x1_2345_6789, 8, Data::Prp(0xa_1000, 0xa_2000)).id(0x1234);
        let expect = [0x1234_0002, 1, 0, 0, 0, 0, 0xa_1000, 0, 0xa_2000, 0, 0x2345_6789, 1, 7, 0, 0, 0];
        assert_eq!(dwords(read), expect);
        let write = Command::write(2, 5, 65_536, Data::Sgl(0xb_0000, 0x200)).id(1);
        let expect = [0x0001_4001, 2, 0, 0, 0, 0, 0xb_0000, 0, 0x200, 0, 5, 0, 0xffff, 0, 0, 0];
        assert_eq!(dwords(write), expect);
        let deallocate = Command::deallocate(1, 3, Data::Prp(0xc000, 0));
        assert_eq!((dwords(deallocate)[0], dwords(deallocate)[10], dwords(deallocate)[11]), (9, 2, 4));
        let queue = dwords(Command::create_submission_queue(3, 17, 0xd000));
        assert_eq!((queue[0], queue[6], queue[10], queue[11]), (1, 0xd000, 16 << 16 | 3, 3 << 16 | 1));
        let queue = dwords(Command::create_completion_queue(3, 17, 0xe000));
        assert_eq!((queue[0], queue[6], queue[10], queue[11]), (5, 0xe000, 16 << 16 | 3, 1));
        let queues = dwords(Command::queues(4));
        assert_eq!((queues[0], queues[10], queues[11]), (9, 7, 3 << 16 | 3));
        let identify = dwords(Command::identify(1, 0, 0xf000));
        assert_eq!((identify[0], identify[6], identify[10]), (6, 0xf000, 1));
        assert_eq!(dwords(Command::delete_submission_queue(9))[10], 9);
        assert_eq!(dwords(Command::delete_completion_queue(9))[0], 4);
    }

    #[test]
    fn ranges_are_as_the_specification_lays_them_out() {
        let raw = Range { block: 0x0102_0304_0506_0708, blocks: 9 }.encode();
        assert_eq!(raw, [0, 0, 0, 0, 9, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
    }
}
