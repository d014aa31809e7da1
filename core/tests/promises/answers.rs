//! The five answers of submit, and what happens to a burst.

use crate::common::{LEN, Mock, PATIENT, World, poll};
use tidegate_core::engine::Outcome;
use tidegate_core::engine::cpu::Cpu;
use tidegate_core::{
    Access, Cause, ChannelConfig, Class, Fabric, Flow, Generation, Memory, Op, OpKind, Reach, Seat, Status,
    Submit,
};

#[test]
fn a_burst_dropped_without_ring_is_rung() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    {
        let mut pinned = channel.pin().unwrap();
        let _ = pinned.submit(Op::fill(region.span(), 1));
        let _ = pinned.submit(Op::fill(region.span(), 2));
        assert_eq!(world.log.count("doorbell"), 0, "one doorbell for the burst");
    }
    assert_eq!(world.log.count("doorbell"), 1);
    assert_eq!(dev.see(|s| s.running.len()), 2);
    channel.pin().unwrap().ring();
    assert_eq!(world.log.count("doorbell"), 1, "nothing to ring for");
}

#[test]
fn full_is_an_answer_and_room_comes_back_with_polling() {
    let world = World::new();
    let (mut channel, dev) = world.channel(2);
    let region = world.host("r");
    let op = Op::fill(region.span(), 1);
    {
        let mut pinned = channel.pin().unwrap();
        assert!(matches!(pinned.submit(op), Submit::Queued(_)));
        assert!(matches!(pinned.submit(op), Submit::Queued(_)));
        assert_eq!(pinned.submit(op), Submit::Full);
    }
    dev.complete(0, Outcome::Done);
    assert_eq!(poll(&mut channel).len(), 1);
    assert!(matches!(channel.pin().unwrap().submit(op), Submit::Queued(t) if t.0 == 3));
}

#[test]
fn a_revoked_region_is_stale_at_once_and_for_good_also_when_its_slot_is_reused() {
    let world = World::new();
    let (mut channel, _dev) = world.channel(8);
    let old = world.host("old");
    let (handle, span) = (old.handle(), old.span());
    old.revoke(Cause::User, PATIENT).wait().unwrap();
    assert_eq!(channel.pin().unwrap().submit(Op::fill(span, 1)), Submit::Stale(handle.generation()));
    drop(old);
    // The slot comes back after all others had their turn.
    let next = Generation(handle.generation().0 + 1);
    for n in 0..8 {
        let region = world.host(&format!("new {n}"));
        if region.handle().generation() == next {
            assert_eq!(channel.pin().unwrap().submit(Op::fill(span, 1)), Submit::Stale(next));
            assert_ne!(region.handle(), handle);
            return;
        }
        std::mem::forget(region);
    }
    panic!("the slot was never reused");
}

#[test]
fn a_closed_channel_answers_why() {
    let world = World::new();
    let (mut channel, _dev) = world.channel(8);
    let region = world.host("r");
    let quiet = world.nic.quiesce(Cause::Unbind, PATIENT).unwrap().wait().unwrap();
    assert_eq!(channel.pin().unwrap().submit(Op::fill(region.span(), 1)), Submit::Closed(Cause::Unbind));
    assert!(matches!(channel.pin().unwrap().confirm(), Ok(Submit::Closed(Cause::Unbind))));
    assert_eq!(channel.closed(), Some(Cause::Unbind));
    let _ = quiet.restore();
    assert_eq!(channel.closed(), Some(Cause::Unbind), "old channels stay closed");
}

#[test]
fn a_closing_channel_accepts_nothing_and_still_polls() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1));
    let mut quiesce = world.nic.quiesce(Cause::Reset, PATIENT).unwrap();
    let _ = quiesce.turn();
    assert_eq!(channel.pin().unwrap().submit(Op::fence()), Submit::Closed(Cause::Reset));
    dev.complete(0, Outcome::Done);
    assert_eq!(poll(&mut channel)[0].status, Status::Done);
    assert!(quiesce.wait().unwrap().report().is_clean());
}

#[test]
fn a_handle_of_another_domain_is_denied() {
    let world = World::new();
    let (mut channel, _dev) = world.channel(8);
    let elsewhere = world.fabric.domain().unwrap();
    let foreign = world
        .fabric
        .adopt::<tidegate_core::Shared>(elsewhere, Class::Host, Access::ReadWrite, world.map("f"), None, None)
        .unwrap();
    assert_eq!(channel.pin().unwrap().submit(Op::fill(foreign.span(), 1)), Submit::Denied(Flow::Domain));
}

#[test]
fn a_handle_of_another_fabric_is_denied() {
    let (world, other) = (World::new(), World::new());
    let (mut channel, _dev) = world.channel(8);
    let (_mine, foreign) = (world.host("mine"), other.host("foreign"));
    assert_eq!(channel.pin().unwrap().submit(Op::fill(foreign.span(), 1)), Submit::Denied(Flow::Domain));
    let beyond = Fabric::builder().manual().regions(64).build().unwrap();
    let memory = Memory::allocate("beyond", 4096).unwrap();
    let many: Vec<_> =
        (0..20).map(|_| beyond.register(memory.backing(), Access::ReadWrite).unwrap()).collect();
    let last = many.last().unwrap();
    assert_eq!(channel.pin().unwrap().submit(Op::fill(last.span(), 1)), Submit::Denied(Flow::Domain));
}

#[test]
fn memory_without_a_device_address_is_denied_to_a_device() {
    let world = World::new();
    let memory = Memory::allocate("process", 4096).unwrap();
    let region = world.fabric.register(memory.backing(), Access::ReadWrite).unwrap();
    // Also where the domain numbers agree: an engine of a device given to no domain.
    let poller = world.fabric.poller("p");
    let mut stray =
        world.fabric.channel(&poller, Mock::<true>(world.dev()), ChannelConfig::default()).unwrap();
    assert_eq!(stray.pin().unwrap().submit(Op::fill(region.span(), 1)), Submit::Denied(Flow::Domain));
}

#[test]
fn memory_without_a_cpu_address_is_denied_to_the_cpu() {
    let world = World::new();
    let poller = world.fabric.poller("p");
    let mut cpu = world.fabric.channel(&poller, Cpu::new(4), ChannelConfig::default()).unwrap();
    let unmapped = world.host("no cpu address");
    assert_eq!(cpu.pin().unwrap().submit(Op::fill(unmapped.span(), 1)), Submit::Denied(Flow::Domain));
    let window = world.window("w");
    assert!(matches!(cpu.pin().unwrap().submit(Op::fill(window.span(), 1)), Submit::Denied(_)));
}

#[test]
fn trust_decides_which_windows_requests_reach() {
    let world = World::new();
    let (shared, private) = (world.window("shared"), world.private_window("private"));
    let seats =
        [(Reach::Shared, [false, true]), (Reach::Private, [true, false]), (Reach::Process, [true, true])];
    for (reach, denied) in seats {
        let poller = world.fabric.poller("p");
        let seat = Seat { gate: None, ..world.seat(reach) };
        let mut channel = world
            .fabric
            .place_channel(&poller, Mock::<true>(world.dev()), ChannelConfig::default(), seat)
            .unwrap();
        let mut pinned = channel.pin().unwrap();
        let answers = [pinned.submit(Op::fill(shared.span(), 1)), pinned.submit(Op::fill(private.span(), 1))];
        for (answer, denied) in answers.into_iter().zip(denied) {
            assert_eq!(answer == Submit::Denied(Flow::Trust), denied, "{reach:?}: {answer:?}");
        }
    }
}

#[test]
fn rights_bounds_and_unknown_operations_are_denied() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (region, map) = (world.host("r"), world.map("read only"));
    let read_only =
        world.fabric.adopt::<tidegate_core::Shared>(world.domain, Class::Host, Access::Read, map, None, None);
    let read_only = read_only.unwrap();
    let mut pinned = channel.pin().unwrap();
    let access = Submit::Denied(Flow::Access);
    assert_eq!(pinned.submit(Op::fill(read_only.span(), 1)), access);
    assert_eq!(pinned.submit(Op::copy(region.span(), read_only.span())), access);
    assert!(matches!(pinned.submit(Op::copy(read_only.span(), region.span())), Submit::Queued(_)));
    let handle = region.handle();
    let wrong = [(0, 0), (0, LEN + 1), (LEN, LEN + 1), (u64::MAX, 8), (8, 7), (u64::MAX - 1, u64::MAX)];
    for range in wrong.map(|(start, end)| start..end) {
        let answer = pinned.submit(Op::fill(handle.span(range.clone()), 1));
        assert_eq!(answer, Submit::Denied(Flow::Bounds), "{range:?}");
    }
    let uneven = Op::copy(handle.span(0..8), handle.span(0..9));
    assert_eq!(pinned.submit(uneven), Submit::Denied(Flow::Bounds));
    drop(pinned);
    dev.set(|s| s.running.clear());
    let poller = world.fabric.poller("p");
    let mut cpu = world.fabric.channel(&poller, Cpu::new(4), ChannelConfig::default()).unwrap();
    let memory = Memory::allocate("m", 4096).unwrap();
    let host = world.fabric.register(memory.backing(), Access::ReadWrite).unwrap();
    let answer = cpu.pin().unwrap().submit(Op::read(0, host.span()));
    assert_eq!(answer, Submit::Denied(Flow::Unsupported), "{:?}", OpKind::Read);
}

#[test]
fn what_a_device_completes_twice_or_invents_is_dropped_and_counted() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1));
    dev.complete(0, Outcome::Done);
    dev.invent(1);
    dev.invent(77_777);
    assert_eq!(poll(&mut channel).len(), 1);
    assert_eq!(channel.counters().spurious, 2);
}
