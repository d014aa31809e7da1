//! The admin command set.

use super::disk::Disk;
use super::rings::{Completions, Submission};
use super::spec::{MOST_ENTRIES, QUEUES, sc};
use super::walk::Lists;
use super::work::Work;
use super::{Nvme, Pair};

impl Nvme {
    /// Begins an admin command. Deleting a submission queue ends later.
    pub(super) fn begin_admin(&mut self, work: &mut Work) {
        let entry = work.entry;
        let status = match entry.opcode() {
            0x00 => match self.delete_submissions(entry.dword(10) as u16, work.serial) {
                Ok(()) => return self.deletions.push(work.serial),
                Err(status) => status,
            },
            0x01 => self.create_submissions(entry.dword(10), entry.dword(11), entry.qword(6)),
            0x04 => self.delete_completions(entry.dword(10) as u16),
            0x05 => self.create_completions(entry.dword(10), entry.dword(11), entry.qword(6)),
            0x06 => match entry.dword(10) & 0xff {
                0x00 if entry.dword(1) == 1 => return work.send(namespace(&self.disk)),
                // One that is not active.
                0x00 => return work.send(vec![0; 4096]),
                0x01 => return work.send(self.identify()),
                _ => sc::INVALID_FIELD,
            },
            0x09 if entry.dword(10) & 0xff == 0x07 => {
                work.result = u32::from(QUEUES - 1) * 0x1_0001;
                sc::OK
            }
            0x09 => sc::INVALID_FIELD,
            _ => sc::INVALID_OPCODE,
        };
        work.end(status);
    }

    fn pair(&mut self, id: u16) -> Option<&mut Pair> {
        if id == 0 { None } else { self.queues.get_mut(usize::from(id)) }
    }

    fn create_completions(&mut self, ids: u32, flags: u32, base: u64) -> u16 {
        let (id, size) = (ids as u16, (ids >> 16) + 1);
        let held = self.buffer.may_hold(base, u64::from(size) * 16, true);
        match self.pair(id) {
            Some(pair) if pair.completions.is_none() => {
                if !(2..=MOST_ENTRIES).contains(&size) {
                    return sc::QUEUE_SIZE;
                }
                if flags & 1 == 0 || base % 4096 != 0 {
                    return sc::INVALID_FIELD;
                }
                if !held {
                    return sc::BUFFER_USE;
                }
                pair.completions = Some(Completions::new(base, size));
                sc::OK
            }
            _ => sc::QUEUE_ID,
        }
    }

    fn create_submissions(&mut self, ids: u32, flags: u32, base: u64) -> u16 {
        let (id, size, completions) = (ids as u16, (ids >> 16) + 1, (flags >> 16) as u16);
        if self.pair(completions).is_none_or(|pair| pair.completions.is_none()) {
            return sc::CQ_INVALID;
        }
        let held = self.buffer.may_hold(base, u64::from(size) * 64, false);
        match self.pair(id) {
            Some(pair) if pair.submissions.is_none() => {
                if !(2..=MOST_ENTRIES).contains(&size) {
                    return sc::QUEUE_SIZE;
                }
                if flags & 1 == 0 || base % 4096 != 0 {
                    return sc::INVALID_FIELD;
                }
                if !held {
                    return sc::BUFFER_USE;
                }
                pair.submissions = Some(Submission::new(base, size, completions));
                sc::OK
            }
            _ => sc::QUEUE_ID,
        }
    }

    fn delete_submissions(&mut self, id: u16, by: u32) -> Result<(), u16> {
        match self.pair(id).and_then(|pair| pair.submissions.as_mut()) {
            Some(queue) if queue.deleting.is_none() => {
                queue.deleting = Some(by);
                Ok(())
            }
            _ => Err(sc::QUEUE_ID),
        }
    }

    fn delete_completions(&mut self, id: u16) -> u16 {
        let in_use = |pair: &Pair| pair.submissions.as_ref().is_some_and(|queue| queue.completions == id);
        if self.queues.iter().any(in_use) {
            return sc::QUEUE_IN_USE;
        }
        match self.pair(id).and_then(|pair| pair.completions.take()) {
            Some(_) => sc::OK,
            None => sc::QUEUE_ID,
        }
    }

    /// What Identify (controller) gives: the few fields that matter here.
    fn identify(&self) -> Vec<u8> {
        let mut data = vec![0; 4096];
        let mut put =
            |at: usize, bytes: &[u8]| data.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        put(0, &0x5447_u16.to_le_bytes());
        put(4, b"soft                ");
        put(24, b"Tidegate soft NVMe                      ");
        put(77, &[self.transfer_power]);
        put(80, &0x0001_0400_u32.to_le_bytes());
        put(512, &[0x66, 0x44]);
        put(516, &1_u32.to_le_bytes());
        // ONCS: Dataset Management, and Compare where it has it.
        put(520, &[0x04 | u8::from(self.compares), 0]);
        // A volatile write cache.
        put(525, &[1]);
        let lists = match self.lists {
            Lists::None => 0,
            Lists::Bytes => 1,
            Lists::Dwords => 2,
        };
        put(536, &[lists]);
        data
    }
}

/// What Identify (namespace) gives.
fn namespace(disk: &Disk) -> Vec<u8> {
    let mut data = vec![0; 4096];
    for at in [0, 8, 16] {
        let size = disk.blocks().to_le_bytes();
        data.iter_mut().skip(at).zip(size).for_each(|(to, from)| *to = from);
    }
    // Two formats; the second one is in use.
    for (at, byte) in [(25, 1), (26, 1), (130, 9), (134, disk.block().trailing_zeros() as u8)] {
        if let Some(to) = data.get_mut(at) {
            *to = byte;
        }
    }
    data
}
