//! Frames: lengths, headers apart, pieces, what the device says of them.

use super::{FRAME, IgbRig, recv, send};
use crate::backend::Backend;
use crate::engine::code;
use crate::engine::conformance::rig::{DEPTH, Rig, World, pattern};
use crate::engine::conformance::soft::{GPU, builder, rig};
use crate::engine::igb::{Igb, IgbEngine, TOO_LONG};
use crate::pci::PciAddress;
use crate::soft::{Action, DeviceModel, FaultKind, Igb as Model, Reply, Soft, Turn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tidegate_core::{Channel, Flow, Op, OpList, Status, Submit};

/// A rig whose channel is another one of queue 0.
fn with(seed: u64, driver: Igb) -> (IgbRig, Channel<IgbEngine<Soft>>) {
    let mut rig: IgbRig = rig(seed);
    rig.drop_channel();
    let channel = rig.another(driver).unwrap();
    (rig, channel)
}

/// Submits, and polls until all of it has ended.
fn run<B: Backend>(rig: &Rig<B, Igb>, channel: &mut Channel<IgbEngine<B>>, submit: Submit) -> (Status, u32) {
    assert!(matches!(submit, Submit::Queued(_)), "{submit:?}");
    let mut out = [tidegate_core::Completion::EMPTY];
    for _ in 0..100_000 {
        if channel.pin().unwrap().poll(&mut out) == 1 {
            return (out[0].status, out[0].len);
        }
        rig.world.pass();
    }
    panic!("it does not end");
}

/// An Ethernet, IPv4 and UDP header of 42 bytes, and a payload.
fn datagram(payload: &[u8]) -> Vec<u8> {
    let mut frame = pattern(99, 42);
    let len = |headers: usize| ((headers + payload.len()) as u16).to_be_bytes();
    frame[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
    frame[16..18].copy_from_slice(&len(28));
    // No fragment, UDP.
    frame[20..24].copy_from_slice(&[0, 0, 64, 17]);
    frame[38..40].copy_from_slice(&len(8));
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn frames_of_any_length_land_exactly_and_short_ones_padded() {
    for seed in 1..4 {
        let (mut rig, mut channel) = with(seed, Igb::queue(0).frames(9724));
        for len in [1, 59, 60, 61, 1514, 4097, 9724] {
            let frame = pattern(len as u32, len);
            rig.poke(0xee);
            send(&mut rig, &frame);
            let submit = channel.pin().unwrap().submit(Op::read(0, rig.vram(0x333, 9724).span));
            let padded = len.max(60);
            assert_eq!(run(&rig, &mut channel, submit), (Status::Done, padded as u32));
            assert!(rig.peek(0x333, len) == frame, "{len} bytes");
            assert!(rig.peek(0x333 + len, padded - len).iter().all(|byte| *byte == 0));
            assert_eq!(rig.peek(0x333 + padded, 8), [0xee; 8], "nothing behind it, no check sequence");
        }
        for len in [17, 60, 9724] {
            rig.fill_host(0, &pattern(7, len));
            let submit = channel.pin().unwrap().submit(Op::write(rig.host(0, len).span, 0));
            assert_eq!(run(&rig, &mut channel, submit), (Status::Done, len as u32));
            let frame = recv(&mut rig);
            assert!(frame.len() as u64 == len.max(60) && frame[..len as usize] == pattern(7, len));
        }
    }
}

#[test]
fn a_frame_longer_than_the_buffers_is_dropped_and_touches_nothing() {
    let mut rig: IgbRig = rig(1);
    rig.poke(0xee);
    send(&mut rig, &pattern(1, FRAME + 1));
    send(&mut rig, &pattern(2, FRAME));
    let op = Op::read(0, rig.vram(0x800, FRAME).span);
    rig.run_well(op);
    assert!(rig.peek(0x800, FRAME) == pattern(2, FRAME));
    assert_eq!(rig.peek(0x800 + FRAME, 64), [0xee; 64]);
}

#[test]
fn a_frame_that_the_device_lost_is_followed_by_the_next() {
    let mut rig: IgbRig = rig(1);
    rig.world.soft().misbehave(rig.initiator.address(), FaultKind::DropFrames(1));
    send(&mut rig, &pattern(1, FRAME));
    send(&mut rig, &pattern(2, FRAME));
    let op = Op::read(0, rig.host(0, FRAME).span);
    rig.run_well(op);
    assert!(rig.read_host(0, FRAME) == pattern(2, FRAME));
}

#[test]
fn headers_and_payloads_are_parted() {
    (1..6).for_each(|seed| part(&mut rig(seed)));
}

/// Headers apart from payloads, there and back.
pub(super) fn part<B: Backend>(rig: &mut Rig<B, Igb>) {
    rig.drop_channel();
    let mut channel = rig.another(Igb::queue(0).split(128)).unwrap();
    let payload = pattern(3, 1000);
    rig.poke(0xee);
    rig.fill_host(0, &[0xee; 256]);
    // The payload alone, the header nowhere.
    send(rig, &datagram(&payload));
    let submit = channel.pin().unwrap().submit(Op::read(0, rig.vram(0x101, 1514).span));
    assert_eq!(run(rig, &mut channel, submit), (Status::Done, 1000));
    assert!(rig.peek(0x101, 1000) == payload && rig.peek(0x101 + 1000, 8) == [0xee; 8]);
    assert_eq!(rig.read_host(0, 256), [0xee; 256]);
    // Both.
    send(rig, &datagram(&payload));
    let list = OpList::read(0, &[rig.host(0, 128).span, rig.vram(0x1101, 1514).span]);
    let submit = channel.pin().unwrap().submit_list(&list);
    assert_eq!(run(rig, &mut channel, submit), (Status::Done, 1042));
    assert!(rig.read_host(0, 42) == datagram(&payload)[..42] && rig.read_host(42, 86) == [0xee; 86]);
    assert!(rig.peek(0x1101, 1000) == payload && rig.peek(0x1100, 1) == [0xee]);
    // What is no IP: as much as the header's buffer holds.
    let mut other = pattern(5, 700);
    other[12..14].copy_from_slice(&[0x88, 0xb5]);
    send(rig, &other);
    let submit = channel.pin().unwrap().submit_list(&list);
    assert_eq!(run(rig, &mut channel, submit), (Status::Done, 700));
    assert!(rig.read_host(0, 128) == other[..128] && rig.peek(0x1101, 572) == other[128..]);
    // All of it is header.
    send(rig, &other[..100]);
    let submit = channel.pin().unwrap().submit(Op::read(0, rig.vram(0x101, 1514).span));
    assert_eq!(run(rig, &mut channel, submit), (Status::Done, 0));
    // Header from host memory, payload from the window.
    let back = datagram(&other[128..628]);
    rig.fill_host(0, &back[..42]);
    let list = OpList::write(&[rig.host(0, 42).span, rig.vram(0x1101, 500).span], 0);
    let submit = channel.pin().unwrap().submit_list(&list);
    assert_eq!(run(rig, &mut channel, submit), (Status::Done, 542));
    assert!(recv(rig) == back);
}

#[test]
fn lists_that_do_not_fit_are_denied() {
    let (rig, mut channel) = with(1, Igb::queue(0).split(128));
    let odd = OpList::read(0, &[rig.host(1, 128).span, rig.vram(0, 1514).span]);
    let short = OpList::read(0, &[rig.host(0, 127).span, rig.vram(0, 1514).span]);
    let small = OpList::read(0, &[rig.host(0, 128).span, rig.vram(0, 1513).span]);
    let three = OpList::read(0, &[rig.host(0, 128).span, rig.vram(0, 1514).span, rig.host(512, 8).span]);
    let long = OpList::write(&[rig.host(0, 9000).span, rig.vram(0, 725).span], 0);
    for list in [odd, short, small, three, long] {
        let answer = channel.pin().unwrap().submit_list(&list);
        assert_eq!(answer, Submit::Denied(Flow::Unsupported), "{list:?}");
    }
    let mut rig: IgbRig = crate::engine::conformance::soft::rig(2);
    let unsplit = OpList::read(0, &[rig.host(0, 128).span, rig.vram(0, 1514).span]);
    let answer = rig.channel().pin().unwrap().submit_list(&unsplit);
    assert_eq!(answer, Submit::Denied(Flow::Unsupported));
}

#[test]
fn a_list_of_writes_leaves_as_one_frame() {
    for seed in 1..6 {
        let mut rig: IgbRig = rig(seed);
        rig.poke(0x77);
        rig.fill_host(0, &pattern(1, 0x1000));
        // More of them than the ring has places, so that it wraps in the middle of one.
        for round in 0..9_u64 {
            let list = OpList::write(
                &[rig.host(round, 42).span, rig.vram(0x11, 300).span, rig.host(0x800, 1).span],
                0,
            );
            let answer = rig.channel().pin().unwrap().submit_list(&list);
            assert!(matches!(answer, Submit::Queued(_)), "{answer:?}");
            let done = rig.complete(1);
            assert_eq!((done[0].status, done[0].len), (Status::Done, 343));
            let frame = recv(&mut rig);
            assert_eq!(frame.len(), 343);
            assert!(frame[..42] == rig.read_host(round, 42) && frame[42..342] == [0x77; 300]);
            assert!(frame[342..] == rig.read_host(0x800, 1));
        }
        // As many as have room, then no part of another.
        let big = OpList::write(&[rig.host(0, 60).span; 8], 0);
        let mut pinned = rig.channel().pin().unwrap();
        assert!(matches!(pinned.submit_list(&big), Submit::Queued(_)));
        assert_eq!(pinned.submit_list(&big), Submit::Full);
        drop(pinned);
        rig.complete(1);
        assert_eq!(recv(&mut rig).len(), 480);
    }
}

/// An 82576 whose requests are looked at, and bent.
struct Bent<F> {
    igb: Model,
    tails: Arc<AtomicU32>,
    bend: F,
}

impl<F: FnMut(&mut Action) + Send + 'static> DeviceModel for Bent<F> {
    fn read(&mut self, bar: u8, at: u64, width: u8) -> u64 {
        self.igb.read(bar, at, width)
    }
    fn write(&mut self, bar: u8, at: u64, width: u8, value: u64) {
        if at == 0xc018 || at == 0xe018 {
            self.tails.fetch_add(1, Ordering::Relaxed);
        }
        self.igb.write(bar, at, width, value);
    }
    fn next(&mut self, turn: Turn<'_>) -> Option<Action> {
        let mut action = self.igb.next(turn)?;
        (self.bend)(&mut action);
        Some(action)
    }
    fn reply(&mut self, tag: u32, reply: Reply) {
        self.igb.reply(tag, reply);
    }
    fn reset(&mut self) {
        self.igb.reset();
    }
    fn outstanding(&self) -> u64 {
        self.igb.outstanding()
    }
    fn wakes_at(&self) -> Option<u64> {
        self.igb.wakes_at()
    }
}

fn bent(bend: impl FnMut(&mut Action) + Send + 'static) -> (IgbRig, crate::soft::Wire, Arc<AtomicU32>) {
    const BENT: PciAddress = PciAddress { segment: 0, bus: 4, device: 0, function: 0 };
    let (igb, tails) = (Model::default(), Arc::new(AtomicU32::new(0)));
    let wire = igb.wire();
    let bent = Bent { igb, tails: tails.clone(), bend };
    let soft = builder::<Igb>(1).device(BENT, Model::description(), bent).build().unwrap();
    (Rig::new(World::Manual(soft.clone()), soft, BENT, GPU, 0, DEPTH), wire, tails)
}

/// Calls `by` with the `n`th status of a receive, counted from 0.
fn nth_status(n: u32, by: impl Fn(&mut Vec<u8>) + Send + 'static) -> impl FnMut(&mut Action) + Send {
    let mut seen = 0;
    move |action| {
        if let Action::Write { data, .. } = action {
            if data.len() == 4 {
                if seen == n {
                    by(data);
                }
                seen += 1;
            }
        }
    }
}

fn ends(rig: &mut IgbRig, wire: &crate::soft::Wire, n: u64) -> Vec<Status> {
    (0..n).for_each(|n| wire.send(&pattern(n as u32, FRAME)).unwrap());
    for n in 0..n {
        let op = Op::read(0, rig.host(n * FRAME, FRAME).span);
        rig.submit(op);
    }
    rig.complete(n as usize).iter().map(|end| end.status).collect()
}

#[test]
fn the_devices_error_bits_are_told() {
    // RXE, bit 31: of the error bits, the eleventh.
    let (mut rig, wire, _) = bent(nth_status(1, |status| status[3] |= 0x80));
    assert_eq!(ends(&mut rig, &wire, 3), [Status::Done, Status::Device(0x800), Status::Done]);
}

#[test]
fn a_frame_in_pieces_is_nobodys() {
    let (mut rig, wire, _) = bent(nth_status(1, |status| status[0] &= !2));
    let torn = Status::Device(TOO_LONG);
    assert_eq!(ends(&mut rig, &wire, 4), [Status::Done, torn, torn, Status::Done]);
}

#[test]
fn more_bytes_than_the_buffer_has_are_nonsense() {
    let (mut rig, wire, _) = bent(|action| {
        if let Action::Write { data, .. } = action {
            if data.len() == 16 && data[12..14] == 1000_u16.to_le_bytes() {
                data[12..14].copy_from_slice(&1001_u16.to_le_bytes());
            }
        }
    });
    assert_eq!(ends(&mut rig, &wire, 1), [Status::Device(code::NONSENSE)]);
}

#[test]
fn a_section_rings_each_tail_once() {
    let (mut rig, wire, tails) = bent(|_| {});
    let (to, from) = (rig.host(0, FRAME).span, rig.host(0x1000, FRAME).span);
    let before = tails.load(Ordering::Relaxed);
    {
        let mut pinned = rig.channel().pin().unwrap();
        for _ in 0..5 {
            assert!(matches!(pinned.submit(Op::read(0, to)), Submit::Queued(_)));
            assert!(matches!(pinned.submit(Op::write(from, 0)), Submit::Queued(_)));
        }
    }
    assert_eq!(tails.load(Ordering::Relaxed) - before, 2);
    (0..5).for_each(|n| wire.send(&pattern(n, FRAME)).unwrap());
    rig.complete(10);
}

/// A device that may relax the order of its requests says so before the bytes are there: it is told not to.
#[test]
fn bytes_are_there_before_the_device_says_so() {
    for seed in 1..20 {
        let mut rig: IgbRig = rig(seed);
        for n in 0..8 {
            rig.fill_host(0, &[0; FRAME as usize]);
            send(&mut rig, &pattern(n, FRAME));
            let op = Op::read(0, rig.host(0, FRAME).span);
            rig.run_well(op);
            assert!(rig.read_host(0, FRAME) == pattern(n, FRAME));
        }
    }
}
