//! As many regions as a fabric takes, while a poller runs.

use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_core::drain::Progress;
use tidegate_core::engine::cpu::Cpu;
use tidegate_core::{
    Access, Cause, ChannelConfig, Completion, Deadline, Fabric, Memory, Op, RegionError, Submit,
};

#[test]
fn a_fabric_holds_2_to_the_20_regions_and_gives_their_slots_again() {
    // The whole number where it is quick.
    let slots: u32 = if cfg!(debug_assertions) { 1 << 12 } else { 1 << 20 };
    let fabric = Fabric::builder().manual().regions(slots).build().unwrap();
    let memory = Memory::allocate("many", 4096).unwrap();
    let regions: Vec<_> = (0..u64::from(slots))
        .map(|n| {
            let at = n % 256 * 8;
            fabric.register(memory.slice(at..at + 8).unwrap(), Access::ReadWrite).unwrap()
        })
        .collect();
    let more = fabric.register(memory.backing(), Access::Read);
    assert!(matches!(more, Err(RegionError::Slots { slots: all }) if all == slots));
    let mut channel = fabric.channel(&fabric.poller("many"), Cpu::new(64), ChannelConfig::depth(64)).unwrap();
    let mut out = [Completion::EMPTY; 64];
    for n in (0..slots as usize).step_by(997) {
        let (from, to) = (regions[n].span(), regions[slots as usize - 1 - n].span());
        assert!(matches!(channel.pin().unwrap().submit(Op::copy(from, to)), Submit::Queued(_)));
        assert_eq!(channel.pin().unwrap().poll(&mut out), 1);
    }
    let seen = &fabric.inspect().channels[0];
    let counted: u64 = seen.regions.iter().map(|r| r.used.reads + r.used.writes).sum();
    assert_eq!(counted + seen.other.reads + seen.other.writes, 2 * seen.counters.submitted);
    // All of them at once: one grace period.
    let stale = regions[5].handle();
    let batch: Vec<_> = regions.iter().map(|r| r.revocable()).collect();
    let report = fabric.revoke(&batch, Cause::User, Deadline::millis(60_000, 60_000)).wait().unwrap();
    assert!(report.is_clean());
    drop(batch);
    drop(regions);
    let again: Vec<_> =
        (0..10).map(|_| fabric.register(memory.slice(0..8).unwrap(), Access::ReadWrite).unwrap()).collect();
    let answer = channel.pin().unwrap().submit(Op::fill(stale.span(0..8), 1));
    assert!(matches!(answer, Submit::Stale(_)), "{answer:?}");
    assert!(matches!(channel.pin().unwrap().submit(Op::fill(again[5].span(), 1)), Submit::Queued(_)));
}

#[test]
fn what_many_dropped_regions_cost_grows_with_their_number_not_with_its_square() {
    const REGIONS: u32 = 1 << 16;
    let fabric = Fabric::builder().manual().regions(REGIONS).build().unwrap();
    let memory = Memory::allocate("dropped", 4096).unwrap();
    let register = |_| fabric.register(memory.slice(0..8).unwrap(), Access::ReadWrite).unwrap();
    let regions: Vec<_> = (0..REGIONS).map(register).collect();
    let begun = Instant::now();
    drop(regions);
    while fabric.turn() {}
    assert_eq!(Arc::strong_count(&memory), 1, "all are gone");
    // A second or two; minutes, were each looked for among all others.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn many_regions_in_quarantine_are_looked_after_as_one_batch() {
    const REGIONS: u32 = 1 << 14;
    let fabric = Fabric::builder().manual().regions(REGIONS).build().unwrap();
    let memory = Memory::allocate("held", 4096).unwrap();
    let register = |_| fabric.register(memory.slice(0..8).unwrap(), Access::ReadWrite).unwrap();
    let regions: Vec<_> = (0..REGIONS).map(register).collect();
    let mut channel = fabric.channel(&fabric.poller("stuck"), Cpu::new(1), ChannelConfig::depth(1)).unwrap();
    // A section that does not end.
    std::mem::forget(channel.pin().unwrap());
    let batch: Vec<_> = regions.iter().map(|r| r.revocable()).collect();
    let mut revoke = fabric.revoke(&batch, Cause::User, Deadline::millis(0, 0));
    while revoke.turn() != Progress::Done {}
    drop(batch);
    drop(regions);
    assert_eq!(fabric.inspect().quarantine.len(), REGIONS as usize);
    let begun = Instant::now();
    for n in 0..100 {
        fabric.turn();
        assert!(begun.elapsed() < Duration::from_secs(10), "{n} looks took {:?}", begun.elapsed());
    }
    drop(channel.pin());
    fabric.turn();
    assert!(fabric.inspect().quarantine.is_empty());
    assert_eq!(Arc::strong_count(&memory), 1);
}
