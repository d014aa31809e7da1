use super::{ACTIVE, Barrier, BarrierMode, Epoch, Grace, Line, Lines, OFFLINE};
use crate::engine::cpu::Cpu;
use crate::{Access, Cause, Channel, ChannelConfig, ChannelError, Deadline, Fabric, Memory};
use crossbeam_utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of a channel that goes from one thread to another.
const ROUNDS: u64 = 8_000;

fn lines(n: usize, epoch: &Epoch) -> Lines {
    let line = |_| {
        let line: Arc<CachePadded<Line>> = Arc::new(Line::new());
        assert!(epoch.register(&line));
        line
    };
    (0..n).map(line).collect()
}

fn epoch() -> Epoch {
    Epoch::new(Barrier::choose(BarrierMode::Auto))
}

#[test]
fn a_line_fills_one_cache_line_at_most() {
    assert!(size_of::<Line>() <= 64);
    assert!(align_of::<CachePadded<Line>>() >= 64);
}

#[test]
fn a_section_that_began_before_the_bump_is_waited_for_and_one_that_began_after_is_not() {
    let epoch = epoch();
    let lines = lines(2, &epoch);
    let (old, new) = (&lines[0], &lines[1]);
    let inside = epoch.enter(old, epoch.barrier().needs_fence());
    let mut grace = Grace::begin(&epoch, || lines.clone());
    assert_eq!(grace.pending().len(), 2, "before the first look nobody is past");
    epoch.enter(new, epoch.barrier().needs_fence());
    for _ in 0..3 {
        assert!(!grace.turn(&epoch));
        assert!(grace.pending().len() == 1 && Arc::ptr_eq(&grace.pending()[0], old));
    }
    epoch.leave(old, inside);
    assert!(grace.turn(&epoch));
    assert!(grace.pending().is_empty());
}

#[test]
fn past_is_for_good() {
    let epoch = epoch();
    let lines = lines(2, &epoch);
    // The first is past at once (it is parked), the second keeps the grace period open.
    epoch.unregister(&lines[0]);
    epoch.enter(&lines[1], true);
    let mut grace = Grace::begin(&epoch, || lines.clone());
    assert!(!grace.turn(&epoch));
    epoch.register(&lines[0]);
    epoch.enter(&lines[0], true);
    assert!(!grace.turn(&epoch));
    assert!(grace.pending().len() == 1 && Arc::ptr_eq(&grace.pending()[0], &lines[1]));
}

#[test]
fn a_barrier_that_began_after_a_bump_serves_it_and_an_earlier_one_does_not() {
    let epoch = epoch();
    let lines = lines(1, &epoch);
    // Idle, and it announces nothing: each grace period needs a barrier that began after its own bump.
    let mut first = Grace::begin(&epoch, || lines.clone());
    let mut second = Grace::begin(&epoch, || lines.clone());
    assert!(first.turn(&epoch));
    let covers = epoch.covers.load(Ordering::Relaxed);
    assert_eq!(covers, epoch.now(), "both bumps came before the barrier");
    assert!(second.turn(&epoch));
    assert_eq!(epoch.covers.load(Ordering::Relaxed), covers, "the second shared it");
    let mut third = Grace::begin(&epoch, || lines.clone());
    assert!(third.turn(&epoch));
    assert!(epoch.covers.load(Ordering::Relaxed) > covers, "the third made its own");
}

#[test]
fn parked_lines_need_no_barrier() {
    let epoch = epoch();
    let lines = lines(1024, &epoch);
    lines.iter().for_each(|line| epoch.unregister(line));
    let mut grace = Grace::begin(&epoch, || lines.clone());
    assert!(grace.turn(&epoch));
    assert_eq!(epoch.covers.load(Ordering::Relaxed), 0);
    assert!(lines.iter().all(|line| line.slot.load(Ordering::Relaxed) == OFFLINE));
}

#[test]
fn of_1024_lines_exactly_those_inside_a_section_are_waited_for() {
    let epoch = epoch();
    let lines = lines(1024, &epoch);
    let inside: Vec<_> = lines.iter().step_by(100).map(|line| (line, epoch.enter(line, true))).collect();
    let mut grace = Grace::begin(&epoch, || lines.clone());
    assert!(!grace.turn(&epoch));
    assert_eq!(grace.pending().len(), inside.len());
    assert!(grace.pending().iter().all(|line| line.slot.load(Ordering::Relaxed) & ACTIVE != 0));
    for (n, (line, epoch_of)) in inside.iter().enumerate() {
        assert!(!grace.turn(&epoch));
        assert_eq!(grace.pending().len(), inside.len() - n);
        epoch.leave(line, *epoch_of);
    }
    assert!(grace.turn(&epoch));
}

#[test]
fn a_fabric_takes_1024_channels_and_not_one_more() {
    let fabric = Fabric::builder().manual().regions(4).build().unwrap();
    let poller = fabric.poller("many");
    let make = || fabric.channel(&poller, Cpu::new(1), ChannelConfig::depth(1));
    let mut channels: Vec<_> = (0..1024).map(|_| make().unwrap()).collect();
    assert!(matches!(make(), Err(ChannelError::Channels { channels: 1024 })));
    let memory = Memory::allocate("many", 4096).unwrap();
    let region = fabric.register(memory.backing(), Access::Read).unwrap();
    assert!(region.revoke(Cause::User, Deadline::millis(10_000, 10_000)).wait().unwrap().is_clean());
    assert_eq!(fabric.shared.lines().len(), 1024);
    assert!(
        Arc::ptr_eq(&fabric.shared.lines(), &fabric.shared.lines()),
        "one list while nobody comes or goes"
    );
    channels.truncate(1000);
    while fabric.turn() {}
    assert_eq!(fabric.shared.lines().len(), 1000);
    drop(make().unwrap());
}

/// Pollers register, work, park, come back and go, while a revoker revokes: every revoke ends clean, nobody is left.
#[test]
fn pollers_come_and_go_while_a_revoker_revokes() {
    let fabric = Fabric::builder().regions(64).build().unwrap();
    std::thread::scope(|s| {
        for n in 0..2 {
            let fabric = fabric.clone();
            s.spawn(move || {
                let poller = fabric.poller(&format!("passer-by {n}"));
                for _ in 0..40 {
                    let mut channel = fabric.channel(&poller, Cpu::new(4), ChannelConfig::depth(4)).unwrap();
                    for turn in 0..20 {
                        drop(channel.pin());
                        if turn % 7 == n {
                            channel.park();
                        }
                    }
                    drop(channel);
                    std::thread::yield_now();
                }
            });
        }
        let memory = Memory::allocate("passers-by", 4096).unwrap();
        for _ in 0..100 {
            let region = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
            let report = region.revoke(Cause::User, Deadline::millis(60_000, 60_000)).wait().unwrap();
            assert!(report.is_clean(), "{report:?}");
        }
    });
    while !fabric.inspect().channels.is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(fabric.shared.lines().len(), 0);
}

/// A thread that had a channel is not taken for the one that has it now, however the two looks at its line fall.
#[test]
fn a_thread_that_handed_its_channel_on_may_wait() {
    use crate::drain::own_pin;
    let fabric = Fabric::builder().manual().regions(1).build().unwrap();
    let poller = fabric.poller("handed on");
    let (round, left) = (AtomicU64::new(0), AtomicU64::new(0));
    let handed = std::sync::Mutex::new(None);
    std::thread::scope(|s| {
        s.spawn(|| {
            for now in 1..=ROUNDS {
                while round.load(Ordering::Acquire) < now {
                    std::thread::yield_now();
                }
                let mut channel: Channel<Cpu> = handed.lock().unwrap().take().unwrap();
                let section = channel.pin();
                for _ in 0..50 {
                    std::hint::spin_loop();
                }
                drop(section);
                *handed.lock().unwrap() = Some(channel);
                left.store(now, Ordering::Release);
            }
        });
        let mut channel = fabric.channel(&poller, Cpu::new(1), ChannelConfig::depth(1)).unwrap();
        let mut refused = 0;
        for now in 1..=ROUNDS {
            drop(channel.pin());
            *handed.lock().unwrap() = Some(channel);
            round.store(now, Ordering::Release);
            while left.load(Ordering::Acquire) < now {
                for _ in 0..64 {
                    refused += u64::from(own_pin(&fabric.shared).is_some());
                }
                // With one CPU the other thread needs it.
                std::thread::yield_now();
            }
            channel = handed.lock().unwrap().take().unwrap();
        }
        assert_eq!(refused, 0, "inside a section of another thread's");
    });
}
