//! Pin, submit, poll and ring allocate nothing once the rings have been round.

use allocation_counter::measure;
use tidegate_core::engine::cpu::Cpu;
use tidegate_core::mpsc::{Answer, Inbox, InboxConfig, Sent};
use tidegate_core::{
    Access, BarrierMode, Cause, ChannelConfig, Completion, Deadline, Fabric, Memory, Op, Status, Submit,
};

/// Neither allocated nor freed: `count_current` sinks where something is freed that was there before.
fn none(info: allocation_counter::AllocationInfo) -> bool {
    (info.count_total, info.count_current) == (0, 0)
}

#[test]
fn the_counter_counts() {
    let mut there = Some(Box::new(1_u64));
    assert!(!none(measure(|| std::hint::black_box(&mut there).take().into_iter().for_each(drop))));
    assert!(!none(measure(|| drop(std::hint::black_box(Box::new(1_u64))))));
}

#[test]
fn pin_submit_poll_and_every_answer_allocate_nothing() {
    for barrier in [BarrierMode::Auto, BarrierMode::Never] {
        let fabric = Fabric::builder().barrier(barrier).build().unwrap();
        let memory = Memory::allocate("hot", 3 * 4096).unwrap();
        let part = |n: u64| memory.slice(n * 4096..(n + 1) * 4096).unwrap();
        let from = fabric.register(part(0), Access::Read).unwrap();
        let to = fabric.register(part(1), Access::ReadWrite).unwrap();
        let revoked = fabric.register(part(2), Access::ReadWrite).unwrap();
        revoked.revoke(Cause::User, Deadline::default()).wait().unwrap();
        let poller = fabric.poller("hot");
        let mut channel = fabric.channel(&poller, Cpu::new(16), ChannelConfig::depth(16)).unwrap();
        let mut out = [Completion::EMPTY; 16];
        let (from, to, revoked) = (from.handle(), to.handle(), revoked.handle());
        let mut round = |n: u64| {
            let mut pinned = channel.pin().unwrap();
            for i in 0..16 {
                let op = Op::copy(from.span(0..64), to.span(64 * i..64 * i + 64)).cookie(n + i);
                assert!(matches!(pinned.submit(op), Submit::Queued(_)));
            }
            assert_eq!(pinned.submit(Op::fence()), Submit::Full);
            pinned.ring();
            let mut pinned = channel.pin().unwrap();
            assert_eq!(pinned.poll(&mut out), 16);
            assert!(out.iter().zip(n..).all(|(c, cookie)| (c.cookie, c.status) == (cookie, Status::Done)));
            assert!(matches!(pinned.submit(Op::fill(revoked.span(0..8), 1)), Submit::Stale(_)));
            assert!(matches!(pinned.submit(Op::fill(from.span(0..8), 1)), Submit::Denied(_)));
            assert!(matches!(pinned.submit(Op::fill(to.span(0..9999), 1)), Submit::Denied(_)));
        };
        round(0);
        assert!(none(measure(|| (1..1000).for_each(|n| round(n * 16)))), "{barrier:?}");
    }
}

#[test]
fn requests_of_other_threads_and_their_answers_allocate_nothing() {
    let fabric = Fabric::builder().build().unwrap();
    let memory = Memory::allocate("mpsc", 4096).unwrap();
    let region = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
    let mut channel = fabric.channel(&fabric.poller("hot"), Cpu::new(16), ChannelConfig::depth(16)).unwrap();
    let mut inbox = Inbox::new(&channel, InboxConfig::window(16));
    let mut submitter = inbox.submitter();
    let (mut out, mut answers) = ([Completion::EMPTY; 16], [Answer::EMPTY; 16]);
    // Small enough for one turn of the engine.
    let span = region.handle().span(0..64);
    let mut round = |n: u64| {
        for i in 0..16 {
            assert_eq!(submitter.submit(Op::fill(span, 1).cookie(n + i)), Sent::Queued);
        }
        assert_eq!(submitter.submit(Op::fence()), Sent::Full);
        let mut section = channel.pin().unwrap();
        assert_eq!(inbox.forward(&mut section), 16);
        section.ring();
        assert_eq!(inbox.poll(&mut channel.pin().unwrap(), &mut out), 0);
        assert_eq!(submitter.poll(&mut answers), 16);
    };
    round(0);
    assert!(none(measure(|| (1..1000).for_each(|n| round(n * 16)))));
}
