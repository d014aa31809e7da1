//! What both CPU engines promise, through a channel. `worker/tests.rs` runs the same with a thread.

use super::*;
use crate::engine::copy::{Kernel, Table, Temporal};
use crate::{
    Access, Cause, Channel, ChannelConfig, Completion, Deadline, Fabric, Memory, Op, Region, Shared,
};
use crate::{Flow, Status, Submit};
use proptest::prelude::*;

const AT_ONCE: Deadline = Deadline::millis(0, 10_000);

/// A channel, and regions of one length.
pub(in crate::engine) struct Rig<E: Engine> {
    /// Outlives the rest.
    _fabric: Fabric,
    pub(in crate::engine) channel: Channel<E>,
    pub(in crate::engine) regions: Vec<Region<Shared>>,
    len: u64,
}

impl<E: Engine> Rig<E> {
    pub(in crate::engine) fn new(engine: E, regions: u64, len: u64) -> Rig<E> {
        let fabric = Fabric::builder().build().unwrap();
        let memory = Memory::allocate("cpu", regions * len).unwrap();
        let at = |i| memory.slice(i * len..(i + 1) * len).unwrap();
        let regions = (0..regions).map(|i| fabric.register(at(i), Access::ReadWrite).unwrap()).collect();
        let channel = fabric.channel(&fabric.poller("test"), engine, ChannelConfig::depth(4096)).unwrap();
        Rig { _fabric: fabric, channel, regions, len }
    }

    pub(in crate::engine) fn submit(&mut self, ops: &[Op]) {
        let mut pinned = self.channel.pin().unwrap();
        for op in ops {
            let answer = pinned.submit(*op);
            assert!(matches!(answer, Submit::Queued(_)), "{answer:?}");
        }
    }

    pub(in crate::engine) fn poll(&mut self) -> Vec<Completion> {
        let mut out = [Completion::EMPTY; 64];
        let n = self.channel.pin().unwrap().poll(&mut out);
        out[..n].to_vec()
    }

    /// Polls until `n` have completed.
    pub(in crate::engine) fn complete(&mut self, n: usize) -> Vec<Completion> {
        let mut all = Vec::new();
        while all.len() < n {
            all.extend(self.poll());
        }
        assert_eq!(all.len(), n);
        all
    }

    pub(in crate::engine) fn bytes(&self, region: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.regions[region].read(0, &mut bytes).unwrap();
        bytes
    }

    pub(in crate::engine) fn copy(&self, from: usize, to: usize) -> Op {
        Op::copy(self.regions[from].span(), self.regions[to].span())
    }
}

pub(in crate::engine) fn config(chunk: u64) -> CpuConfig {
    CpuConfig { depth: 4096, chunk, copier: Copier::with(Table::detect()) }
}

pub(in crate::engine) fn noise(len: u64) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8) | 1).collect()
}

/// Both ways, over several chunks.
pub(in crate::engine) fn overlapping_copies_are_moves<E: Engine>(engine: E) {
    const LEN: u64 = 11 * 4096 + 40;
    let mut rig = Rig::new(engine, 1, 16 * 4096);
    for shift in [1, 100, 4096, 3 * 4096 + 5] {
        for (from, to) in [(0, shift), (shift, 0)] {
            let mut expected = noise(16 * 4096);
            rig.regions[0].write(0, &expected).unwrap();
            let handle = rig.regions[0].handle();
            rig.submit(&[Op::copy(handle.span(from..from + LEN), handle.span(to..to + LEN))]);
            rig.complete(1);
            expected.copy_within(from as usize..(from + LEN) as usize, to as usize);
            assert!(rig.bytes(0) == expected, "from {from} to {to}");
        }
    }
}

/// In order, each with its cookie and length; each sees what those before it did.
pub(in crate::engine) fn operations_are_done_in_order<E: Engine>(engine: E) {
    let mut rig = Rig::new(engine, 2, 4 * 4096);
    let (a, b) = (rig.regions[0].handle(), rig.regions[1].handle());
    let ops = [
        Op::fill(a.span(0..4 * 4096), 0x1111_1111_1111_1111).cookie(1),
        Op::copy(a.span(5..105), b.span(8192..8292)).cookie(2),
        Op::fence().cookie(3),
        Op::fill(a.span(3..12), 0x0807_0605_0403_0201).cookie(4),
        Op::copy(a.span(0..4 * 4096), b.span(0..4 * 4096)).cookie(5),
        Op::fill(b.span(0..1), 0xff).cookie(6),
    ];
    rig.submit(&ops);
    let seen: Vec<_> = rig.complete(6).iter().map(|c| (c.cookie, c.status, c.len)).collect();
    let lengths = [16_384, 100, 0, 9, 16_384, 1];
    let expected: Vec<_> = (1..).zip(lengths).map(|(cookie, len)| (cookie, Status::Done, len)).collect();
    assert_eq!(seen, expected);
    let mut bytes = vec![0x11; 4 * 4096];
    bytes[3..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 1]);
    assert!(rig.bytes(0) == bytes);
    bytes[0] = 0xff;
    assert!(rig.bytes(1) == bytes);
}

/// After a cancel in the middle the engine starts afresh.
pub(in crate::engine) fn a_cancel_withdraws_what_is_not_done<E: Engine>(engine: E) {
    const LEN: u64 = 4 << 20;
    let mut rig = Rig::new(engine, 4, LEN);
    rig.regions[0].write(0, &noise(LEN)).unwrap();
    let ops: Vec<Op> = (0..64).map(|i| rig.copy(0, 1 + i % 2).cookie(i as u64)).collect();
    rig.submit(&ops);
    let report = rig.regions[1].revoke(Cause::User, AT_ONCE).wait().unwrap();
    assert!(report.is_clean());
    let mut ended = Vec::new();
    rig.channel.reclaim(&mut ended).unwrap();
    let missing = 64 - ended.len();
    ended.extend(rig.complete(missing));
    ended.sort_by_key(|c| c.cookie);
    assert!(ended.iter().map(|c| c.cookie).eq(0..64), "each once");
    let done = ended.iter().take_while(|c| c.status == Status::Done).count();
    for completion in &ended[done..] {
        let hit = completion.cookie % 2 == 0;
        let expected = if hit { Status::Revoked } else { Status::Aborted };
        assert_eq!(completion.status, expected, "in order: nothing is done after what was withdrawn");
    }
    assert!(done < 64, "a cancel that finds everything done shows nothing");
    // The next one is copied from its first byte on.
    rig.submit(&[rig.copy(0, 3).cookie(7)]);
    assert_eq!(rig.complete(1)[0].status, Status::Done);
    assert!(rig.bytes(3) == noise(LEN));
}

/// Copies and fills at random, against bytes.
pub(in crate::engine) fn random_operations<E: Engine>(engine: E, ops: &[(u64, u64, u64, u64)]) {
    const LEN: u64 = 65_536;
    let mut rig = Rig::new(engine, 1, LEN);
    let mut expected = noise(LEN);
    rig.regions[0].write(0, &expected).unwrap();
    let handle = rig.regions[0].handle();
    let mut made = Vec::new();
    for (from, to, len, pattern) in ops {
        let (from, to, len) = (from % LEN, to % LEN, len % LEN);
        let len = (len + 1).min(LEN - from).min(LEN - to);
        let at = to as usize;
        if pattern % 3 == 0 {
            made.push(Op::fill(handle.span(to..to + len), *pattern));
            let byte = |i| pattern.to_le_bytes()[i % 8];
            (0..len as usize).for_each(|i| expected[at + i] = byte(i));
        } else {
            made.push(Op::copy(handle.span(from..from + len), handle.span(to..to + len)));
            expected.copy_within(from as usize..(from + len) as usize, at);
        }
    }
    rig.submit(&made);
    rig.complete(made.len());
    assert!(rig.bytes(0) == expected, "{ops:?}");
}

#[test]
fn overlapping_copies_are_moves_inline() {
    overlapping_copies_are_moves(Cpu::with(config(4096)));
    overlapping_copies_are_moves(Cpu::new(8));
}

#[test]
fn operations_are_done_in_order_inline() {
    operations_are_done_in_order(Cpu::with(config(4096)));
    operations_are_done_in_order(Cpu::new(8));
}

#[test]
fn a_cancel_withdraws_what_is_not_done_inline() {
    a_cancel_withdraws_what_is_not_done(Cpu::with(config(4096)));
    a_cancel_withdraws_what_is_not_done(Cpu::new(64));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_operations_inline(
        ops in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 1..20),
        temporal in 0..3,
    ) {
        let mut config = config(8192);
        let temporal = [Temporal::Auto, Temporal::Hot, Temporal::Cold][temporal as usize];
        config.copier = Copier::with(Table::detect().hot(Kernel::Repeat)).temporal(temporal);
        random_operations(Cpu::with(config), &ops);
    }
}

#[test]
fn a_section_moves_one_chunk() {
    const LEN: u64 = 5 * 4096 + 10;
    let mut rig = Rig::new(Cpu::with(config(4096)), 2, LEN);
    rig.regions[0].write(0, &noise(LEN)).unwrap();
    let copied = |rig: &Rig<Cpu>| rig.bytes(1).iter().take_while(|b| **b != 0).count();
    rig.submit(&[rig.copy(0, 1)]);
    for chunk in 1..=5 {
        assert_eq!(copied(&rig), chunk * 4096);
        assert!(rig.poll().len() == usize::from(chunk == 5));
    }
    assert!(rig.bytes(1) == noise(LEN));
}

#[test]
fn a_section_that_polls_and_submits_moves_one_chunk_too() {
    const LEN: u64 = 8 * 4096;
    let mut rig = Rig::new(Cpu::with(config(2 * 4096)), 2, LEN);
    rig.regions[0].write(0, &noise(LEN)).unwrap();
    let copied = |rig: &Rig<Cpu>| rig.bytes(1).iter().take_while(|b| **b != 0).count();
    let fence = |rig: &mut Rig<Cpu>| {
        let mut pinned = rig.channel.pin().unwrap();
        pinned.poll(&mut [Completion::EMPTY; 4]);
        assert!(matches!(pinned.submit(Op::fence()), Submit::Queued(_)));
    };
    rig.submit(&[rig.copy(0, 1)]);
    assert_eq!(copied(&rig), 2 * 4096);
    for chunk in 2..=4 {
        fence(&mut rig);
        assert_eq!(copied(&rig), chunk * 2 * 4096, "the poll's turn, and none at the end");
    }
    rig.complete(3);
    assert!(rig.bytes(1) == noise(LEN));
}

#[test]
fn no_ops_use_up_a_turn_too() {
    let mut rig = Rig::new(Cpu::with(config(4096)), 1, 4096);
    rig.submit(&[Op::fence(); 1000]);
    assert!(rig.channel.in_flight() == 1000);
    let mut out = [Completion::EMPTY; 1000];
    let n = rig.channel.pin().unwrap().poll(&mut out);
    assert!((1..500).contains(&n), "two turns at most: {n}");
    rig.complete(1000 - n);
}

#[test]
fn a_withdrawn_copy_stops_where_it_was() {
    const LEN: u64 = 8 * 4096;
    let mut rig = Rig::new(Cpu::with(config(4096)), 2, LEN);
    rig.regions[0].write(0, &noise(LEN)).unwrap();
    rig.submit(&[rig.copy(0, 1)]);
    assert!(rig.regions[0].revoke(Cause::User, AT_ONCE).wait().unwrap().is_clean());
    assert_eq!(rig.complete(1)[0].status, Status::Revoked);
    for _ in 0..10 {
        assert!(rig.poll().is_empty());
    }
    // A turn of ours, none of the revoker's when it looked what had completed.
    assert!(rig.bytes(1)[4096..].iter().all(|b| *b == 0));
}

#[test]
fn a_medium_is_not_the_cpus() {
    let mut rig = Rig::new(Cpu::new(8), 1, 4096);
    let span = rig.regions[0].span();
    let mut pinned = rig.channel.pin().unwrap();
    assert_eq!(pinned.submit(Op::read(0, span)), Submit::Denied(Flow::Unsupported));
    assert_eq!(pinned.submit(Op::write(span, 0)), Submit::Denied(Flow::Unsupported));
}

#[test]
fn a_turn_ends_with_its_stores_ordered() {
    let Some(stream) = Kernel::ALL.into_iter().find(|k| k.is_available() && k.streams()) else { return };
    let copier = Copier::with(Table::plain().cold(stream)).temporal(Temporal::Cold);
    let mut cpu = Cpu::with(CpuConfig { depth: 4, chunk: 8192, copier });
    let (from, mut to) = (noise(32_768), vec![0_u8; 32_768]);
    let target = |address: u64| Target { address, len: 32_768, region: 0, window: false };
    let op = Operation::Copy { from: target(from.as_ptr() as u64), to: target(to.as_mut_ptr() as u64) };
    // SAFETY: 1. both vectors outlive the engine's turns, and are not looked at during one.
    assert_eq!(unsafe { cpu.push(1, &op) }, Push::Taken);
    cpu.doorbell();
    assert!(cpu.runner.is_published(), "a revoker may have the memory now");
    assert!(to[0] != 0 && to[8192] == 0);
    assert_eq!(cpu.cancel(), Cancel::Stopped);
}
