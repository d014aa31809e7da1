//! The model alone, driven by hand: what a driver would see of a controller.

use super::spec::reg;
use super::{Nvme, Takes, sc};
use crate::soft::chance::Chance;
use crate::soft::device::{Action, DeviceModel, OwnMemory, Reply, Turn};
use crate::soft::memory::Memory;
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

/// Where the buffer is put, in these tests.
const PLACE: u64 = 0x10_0000;

/// With admin queues in the first pages of the buffer; `control` is CMBMSC. Returns CSTS too.
fn buffered(takes: Takes, control: u64, completions: u64) -> (Bench, OwnMemory, u64) {
    let mut bench = Bench::new(Nvme::new(64, 9).buffer(0x10000).buffer_takes(takes));
    let memory = OwnMemory(Memory::anonymous(0x10000).unwrap());
    bench.nvme.own_memory(2, memory.clone());
    bench.nvme.write(0, reg::CMBMSC, 8, control);
    bench.nvme.write(0, reg::AQA, 4, 7 << 16 | 7);
    bench.nvme.write(0, reg::ASQ, 8, PLACE);
    bench.nvme.write(0, reg::ACQ, 8, completions);
    bench.nvme.write(0, reg::CC, 4, 0x46_0001);
    bench.run();
    let status = bench.nvme.read(0, reg::CSTS, 4);
    (bench, memory, status)
}

#[test]
fn admin_queues_work_in_the_buffer_where_it_answers() {
    let (mut bench, memory, status) = buffered(Takes::Queues, PLACE | 3, PLACE + 0x1000);
    assert_eq!(status, 1);
    // An opcode that it does not know, as command 5.
    memory.write(0, &0x0005_007f_u32.to_le_bytes());
    bench.nvme.write(0, reg::BELLS, 4, 1);
    bench.run();
    let mut completion = [0; 16];
    memory.read(0x1000, &mut completion);
    assert_eq!(completion[12..], [5, 0, 1 | (sc::INVALID_OPCODE as u8) << 1, 0]);
    assert!(bench.memory.is_empty(), "nothing went to host memory");
}

#[test]
fn the_buffer_is_not_there_until_it_is_enabled_and_takes_what_it_says() {
    // Registers shown only, so the queues are somewhere else.
    let (mut bench, memory, status) = buffered(Takes::Queues, PLACE | 1, PLACE + 0x1000);
    assert_eq!(status, 1);
    memory.write(0, &0x0005_007f_u32.to_le_bytes());
    bench.nvme.write(0, reg::BELLS, 4, 1);
    bench.run();
    let mut word = [0; 4];
    memory.read(0x100c, &mut word);
    assert!(word == [0; 4] && !bench.memory.is_empty());
    assert_eq!(buffered(Takes::Submissions, PLACE | 3, PLACE + 0x1000).2, 2, "no completions there");
    assert_eq!(buffered(Takes::Submissions, PLACE | 3, 0x1000).2, 1);
    assert_eq!(buffered(Takes::Data, PLACE | 3, 0x1000).2, 2, "no commands there");
    // The commands' last bytes would be outside of it.
    assert_eq!(buffered(Takes::Queues, (PLACE - 0xf000) | 3, 0x1000).2, 1, "its last page");
    let (bench, ..) = buffered(Takes::Queues, 0xffff_ffff_ffff_f000 | 3, 0x1000);
    let mut nvme = bench.nvme;
    assert_eq!(nvme.read(0, reg::CMBSTS, 4), 1, "a range that wraps");
}
