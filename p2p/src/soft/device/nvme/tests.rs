//! The model alone, driven by hand: what a driver would see of a controller.

use super::spec::reg;
use super::{Nvme, sc};
use crate::soft::chance::Chance;
use crate::soft::device::{Action, DeviceModel, Reply, Turn};
use std::collections::BTreeMap;

/// A controller and the host memory that it reaches.
struct Bench {
    nvme: Nvme,
    chance: Chance,
    memory: BTreeMap<u64, u8>,
    admin: (u32, u32),
}

impl Bench {
    fn new(nvme: Nvme) -> Bench {
        Bench { nvme, chance: Chance::new(1), memory: BTreeMap::new(), admin: (0, 0) }
    }

    fn up(nvme: Nvme) -> Bench {
        let mut bench = Bench::new(nvme);
        bench.nvme.write(0, reg::AQA, 4, 7 << 16 | 7);
        bench.nvme.write(0, reg::ASQ, 8, 0x1000);
        bench.nvme.write(0, reg::ACQ, 8, 0x2000);
        bench.nvme.write(0, reg::CC, 4, 0x46_0001);
        bench.run();
        assert_eq!(bench.nvme.read(0, reg::CSTS, 4), 1);
        bench
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.memory.extend((at..).zip(bytes.iter().copied()));
    }

    fn get(&self, at: u64, len: u64) -> Vec<u8> {
        (at..at + len).map(|at| self.memory.get(&at).copied().unwrap_or(0)).collect()
    }

    /// Until it has nothing to do.
    fn run(&mut self) {
        while let Some(action) = self.nvme.next(Turn { now: 0, chance: &mut self.chance }) {
            match action {
                Action::Inside => {}
                Action::Read { tag, address, len, .. } => {
                    let data = self.get(address, u64::from(len));
                    self.nvme.reply(tag, Reply { data, failed: false });
                }
                Action::Write { address, data, .. } => self.put(address, &data),
            }
        }
    }

    /// One admin command: the status of its completion. At most seven, so that nothing wraps.
    fn admin(&mut self, dwords: &[(usize, u32)]) -> u16 {
        let mut entry = [0_u32; 16];
        dwords.iter().for_each(|(n, value)| entry[*n] = *value);
        let raw: Vec<u8> = entry.iter().flat_map(|dword| dword.to_le_bytes()).collect();
        let (tail, head) = self.admin;
        self.put(0x1000 + u64::from(tail) * 64, &raw);
        self.admin = ((tail + 1) % 8, (head + 1) % 8);
        self.nvme.write(0, reg::BELLS, 4, u64::from(self.admin.0));
        self.run();
        let completion = self.get(0x2000 + u64::from(head) * 16, 16);
        let word = u16::from_le_bytes([completion[14], completion[15]]);
        self.nvme.write(0, reg::BELLS + 8, 4, u64::from(self.admin.1));
        assert_eq!(word & 1, 1, "the first lap's phase");
        word >> 1
    }
}

#[test]
fn it_comes_up_and_goes_down_as_cc_says() {
    let mut bench = Bench::up(Nvme::new(64, 9));
    bench.nvme.write(0, reg::CC, 4, 0);
    assert_eq!(bench.nvme.read(0, reg::CSTS, 4), 1, "it takes a while");
    bench.run();
    assert_eq!(bench.nvme.read(0, reg::CSTS, 4), 0);
    bench.nvme.write(0, reg::ASQ, 8, 0x1010);
    bench.nvme.write(0, reg::CC, 4, 0x46_0001);
    bench.run();
    assert_eq!(bench.nvme.read(0, reg::CSTS, 4), 2, "a queue inside a page is fatal");
}

#[test]
fn queues_are_made_and_deleted_in_their_order_only() {
    let mut bench = Bench::up(Nvme::new(64, 9));
    let submissions = [(0, 1), (6, 0x4000), (10, 7 << 16 | 1), (11, 1 << 16 | 1)];
    let completions = [(0, 5), (6, 0x5000), (10, 7 << 16 | 1), (11, 1)];
    assert_eq!(bench.admin(&submissions), sc::CQ_INVALID);
    assert_eq!(bench.admin(&completions), sc::OK);
    assert_eq!(bench.admin(&completions), sc::QUEUE_ID, "it is there");
    assert_eq!(bench.admin(&submissions), sc::OK);
    assert_eq!(bench.admin(&[(0, 4), (10, 1)]), sc::QUEUE_IN_USE);
    assert_eq!(bench.admin(&[(0, 0), (10, 1)]), sc::OK);
    assert_eq!(bench.admin(&[(0, 4), (10, 1)]), sc::OK);
}

#[test]
fn what_it_does_not_do_it_says() {
    let mut bench = Bench::up(Nvme::new(64, 9));
    assert_eq!(bench.admin(&[(0, 5), (6, 0x5000), (10, 1), (11, 1)]), sc::QUEUE_SIZE, "one entry");
    assert_eq!(bench.admin(&[(0, 5), (6, 0x5010), (10, 7 << 16 | 1), (11, 1)]), sc::INVALID_FIELD);
    assert_eq!(bench.admin(&[(0, 5), (6, 0x5000), (10, 7 << 16 | 9), (11, 1)]), sc::QUEUE_ID, "eight pairs");
    assert_eq!(bench.admin(&[(0, 0), (10, 1)]), sc::QUEUE_ID);
    assert_eq!(bench.admin(&[(0, 0x7f)]), sc::INVALID_OPCODE);
    assert_eq!(bench.admin(&[(0, 6), (6, 0x6000), (10, 0x55)]), sc::INVALID_FIELD);
    assert_eq!(bench.admin(&[(0, 6), (6, 0x6000), (10, 1)]), sc::OK);
    assert_eq!(bench.get(0x6000 + 24, 18), b"Tidegate soft NVMe");
}
