//! The model by itself, with bytes as the datasheet has them.

use super::*;
use crate::soft::chance::Chance;

/// A model that is set up by plain numbers: link up, everything received, one ring of eight descriptors at 0x10000 each way.
struct Desk(Igb, Chance, u64);

impl Desk {
    fn new() -> Desk {
        let mut desk = Desk(Igb::default(), Chance::new(1), 0);
        for (at, value) in [(0x100, 0x0400_0002), (0x400, 0x0a), (0x18, 1 << 17), (0x20, 0x0420_1200)] {
            desk.0.write(0, at, 4, value);
        }
        while desk.0.read(0, 8, 4) & 2 == 0 {
            desk.step();
        }
        desk
    }

    fn queue(mut self, base: u64) -> Desk {
        for (offset, value) in [(0, 0x1_0000), (8, 128), (0x0c, 0x0200_0001), (0x28, 1 << 25)] {
            self.0.write(0, base + offset, 4, value);
        }
        assert_eq!(self.0.read(0, base + 0x28, 4), 0, "on a step later");
        self.0.write(0, base + 0x18, 4, 1);
        assert_eq!(self.step(), Some(Action::Inside));
        assert_eq!(self.0.read(0, base + 0x28, 4), 1 << 25);
        assert_eq!(self.0.read(0, base + 0x18, 4), 0, "a queue that is off takes no tail");
        self.0.write(0, base + 0x18, 4, 1);
        self
    }

    fn step(&mut self) -> Option<Action> {
        self.2 += 1;
        self.0.next(Turn { now: self.2, chance: &mut self.1 })
    }

    fn fetch(&mut self, descriptor: [u8; 16]) {
        let Some(Action::Read { tag, address: 0x1_0000, len: 16, .. }) = self.step() else { panic!() };
        self.0.reply(tag, Reply { data: descriptor.to_vec(), failed: false });
    }

    fn write(&mut self) -> (u64, Vec<u8>) {
        match self.step() {
            Some(Action::Write { address, data, .. }) => (address, data),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_frame_is_stored_and_the_descriptor_written_back() {
    let mut desk = Desk::new().queue(0xc000);
    desk.fetch([0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(desk.step(), None, "no frame yet");
    desk.0.wire().send(&[7; 70]).unwrap();
    assert_eq!(desk.write(), (0x2000, vec![7; 70]));
    assert_eq!(desk.write(), (0x1_0000, vec![0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 70, 0, 0, 0]));
    assert_eq!(desk.write(), (0x1_0008, vec![3, 0, 0, 0]));
    assert_eq!((desk.0.read(0, 0xc010, 4), desk.0.outstanding(), desk.step()), (1, 0, None));
}

#[test]
fn a_frame_is_fetched_sent_and_reported() {
    let mut desk = Desk::new().queue(0xe000);
    desk.fetch([0, 0x30, 0, 0, 0, 0, 0, 0, 20, 0, 0x30, 0x2b, 0, 0, 5, 0]);
    let Some(Action::Read { tag, address: 0x3000, len: 20, .. }) = desk.step() else { panic!() };
    assert_eq!(desk.step(), None);
    desk.0.reply(tag, Reply { data: vec![9; 20], failed: false });
    assert_eq!(desk.step(), Some(Action::Inside));
    let frame = desk.0.wire().recv().unwrap();
    assert_eq!((frame.len(), frame.iter().filter(|byte| **byte == 9).count()), (60, 20), "padded");
    let (address, status) = desk.write();
    assert_eq!((address, status[12..].to_vec()), (0x1_0000, vec![1, 0, 0, 0]));
}

#[test]
fn a_disable_waits_for_the_fetch_under_way() {
    let mut desk = Desk::new().queue(0xc000);
    let Some(Action::Read { tag, .. }) = desk.step() else { panic!() };
    desk.0.write(0, 0xc028, 4, 0);
    assert_eq!((desk.step(), desk.0.read(0, 0xc028, 4)), (None, 1 << 25));
    desk.0.reply(tag, Reply { data: vec![0; 16], failed: false });
    assert_eq!((desk.step(), desk.0.read(0, 0xc028, 4)), (Some(Action::Inside), 0));
    desk.0.wire().send(&[1; 60]).unwrap();
    assert_eq!((desk.step(), desk.0.outstanding()), (None, 0), "given up, though it had come");
}

#[test]
fn a_reset_takes_a_step_and_leaves_nothing() {
    let mut desk = Desk::new().queue(0xc000);
    desk.0.write(0, 0, 4, 1 << 26);
    assert_ne!(desk.0.read(0, 0, 4) & 1 << 26, 0);
    assert_eq!(desk.step(), Some(Action::Inside));
    assert_eq!(desk.0.read(0, 0, 4) & 1 << 26, 0);
    assert_eq!([0x100, 0xc008, 0xc028, 0xc018].map(|at| desk.0.read(0, at, 4)), [0; 4]);
    assert_eq!((desk.0.read(0, 8, 4) & 2, desk.step()), (0, None), "the link is down");
}

#[test]
fn faults_do_what_they_say() {
    let mut desk = Desk::new().queue(0xc000);
    desk.fetch([0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let faults = [
        FaultKind::DropFrames(1),
        FaultKind::LoseCompletions(1),
        FaultKind::LateWrite { after: 50 },
        FaultKind::HungDisable,
    ];
    faults.into_iter().for_each(|fault| desk.0.misbehave(fault));
    desk.0.wire().send(&[1; 60]).unwrap();
    assert_eq!(desk.step(), Some(Action::Inside), "dropped");
    assert_eq!(desk.0.read(0, 0x40ac, 4), 1);
    desk.0.wire().send(&[2; 60]).unwrap();
    assert_eq!(desk.step(), Some(Action::Inside), "withheld");
    assert_eq!(desk.step(), None, "and not written back");
    let late = desk.0.wakes_at().unwrap();
    desk.2 = late;
    assert_eq!(desk.write(), (0x2000, vec![2; 60]));
    desk.0.write(0, 0xc028, 4, 0);
    (0..10).for_each(|_| assert_eq!(desk.step(), None));
    assert_eq!(desk.0.read(0, 0xc028, 4), 1 << 25, "never off");
}
