//! Many channels, bursts of any size, and registration beside running sections.

use crate::common::{CANCEL, Mock, PATIENT, World, poll};
use tidegate_core::drain::{Phase, Progress};
use tidegate_core::engine::{Outcome, cpu::Cpu};
use tidegate_core::{
    Access, BarrierMode, Cause, ChannelConfig, ChannelError, Completion, Fabric, Memory, Op, Status, Submit,
};

#[test]
fn a_thousand_and_twenty_four_channels_and_a_revoke_that_concerns_one_leaves_all_others_alone() {
    let world = World::new();
    let (mut first, dev) = world.channel(4);
    let bystander = world.dev();
    let mut rest: Vec<_> = (1..1024).map(|_| world.channel_of(Mock::<true>(bystander.clone()), 4)).collect();
    let poller = world.fabric.poller("one too many");
    let refused = world.fabric.channel(&poller, Cpu::new(4), ChannelConfig::default());
    assert_eq!(refused.err(), Some(ChannelError::Channels { channels: 1024 }));
    let (region, kept) = (world.host("r"), world.host("kept"));
    assert!(matches!(first.pin().unwrap().submit(Op::read(0, region.span())), Submit::Queued(_)));
    for channel in &mut rest {
        assert!(matches!(channel.pin().unwrap().submit(Op::read(0, kept.span())), Submit::Queued(_)));
    }
    let report = region.revoke(Cause::User, CANCEL).wait().unwrap();
    assert_eq!((report.is_clean(), report.in_flight, report.revoked, report.aborted), (true, 1, 1, 0));
    assert_eq!((dev.see(|s| s.disturbed), bystander.see(|s| s.disturbed)), (1, 0));
    assert!(rest.iter().all(|channel| channel.in_flight() == 1));
    // A place becomes free when a channel goes.
    drop(rest.pop());
    while world.fabric.turn() {}
    assert!(world.fabric.channel(&poller, Cpu::new(4), ChannelConfig::default()).is_ok());
}

#[test]
fn any_of_many_sections_holds_the_grace_period_up() {
    let world = World::new();
    let dev = world.dev();
    let mut all: Vec<_> = (0..64).map(|_| world.channel_of(Mock::<true>(dev.clone()), 4)).collect();
    for n in [0, 31, 63] {
        let region = world.host("r");
        let mut revoke = {
            let section = all[n].pin().unwrap();
            let mut revoke = region.revoke(Cause::User, PATIENT);
            for _ in 0..4 {
                assert_eq!(revoke.turn(), Progress::Pending(Phase::Grace), "channel {n}");
            }
            section.ring();
            revoke
        };
        while revoke.turn() != Progress::Done {
            world.fabric.turn();
        }
    }
}

#[test]
fn bursts_of_any_size_in_order_and_out_of_order_lose_nothing() {
    let world = World::new();
    let region = world.host("r");
    for depth in [1, 2, 3, 7, 8, 9, 63, 64] {
        let (mut channel, dev) = world.channel(depth);
        let mut cookie = 0;
        for burst in 0..70 {
            let mut accepted = Vec::new();
            let mut section = channel.pin().unwrap();
            for n in 0..burst {
                match section.submit(Op::fill(region.span(), 1).cookie(cookie)) {
                    Submit::Queued(_) => accepted.push(cookie),
                    answer => {
                        assert_eq!((answer, n >= depth), (Submit::Full, true), "burst {burst} of {depth}")
                    }
                }
                cookie += 1;
            }
            section.ring();
            assert_eq!(accepted.len() as u32, burst.min(depth));
            // From the back, from the middle, in order.
            while dev.see(|s| !s.running.is_empty()) {
                let last = dev.see(|s| s.running.len()) - 1;
                dev.complete([last, last / 2, 0][burst as usize % 3], Outcome::Done);
            }
            let mut ended: Vec<u64> = Vec::new();
            let mut out = vec![Completion::EMPTY; burst as usize % 5];
            while ended.len() < accepted.len() {
                let n = channel.pin().unwrap().poll(&mut out);
                assert!(out[..n].iter().all(|c| c.status == Status::Done));
                ended.extend(out[..n].iter().map(|c| c.cookie));
                out.resize(out.len() + 1, Completion::EMPTY);
            }
            ended.sort_unstable();
            assert_eq!(ended, accepted);
        }
        assert!(poll(&mut channel).is_empty());
    }
}

#[test]
fn regions_come_and_go_while_a_section_is_open() {
    for mode in [BarrierMode::Auto, BarrierMode::Never] {
        let fabric = Fabric::builder().barrier(mode).manual().regions(2).build().unwrap();
        let memory = Memory::allocate("scale", 4096).unwrap();
        let old = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
        let mut channel = fabric.channel(&fabric.poller("p"), Cpu::new(8), ChannelConfig::default()).unwrap();
        let mut section = channel.pin().unwrap();
        // Neither waits for the section; the slot does.
        let new = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
        assert!(matches!(section.submit(Op::fill(new.span(), 1)), Submit::Queued(_)));
        drop(old);
        fabric.turn();
        assert!(
            fabric.register(memory.backing(), Access::ReadWrite).is_err(),
            "the section may still use it"
        );
        section.ring();
        while fabric.turn() {}
        assert!(fabric.register(memory.backing(), Access::ReadWrite).is_ok());
    }
}
