//! Everybody else: who quiesces devices, who looks, who comes and goes, a device that dies, and an inbox.

use crate::engines::{Buffer, Dead, HardStop, Mapped};
use crate::lanes::{Entry, Kind, Ledger};
use crate::lives::{DONE, Rng, Wrong, add, wrong};
use crate::round::{World, settle};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidegate_core::engine::cpu::Cpu;
use tidegate_core::mpsc::{Answer, Inbox, InboxConfig, Refused, Sent, Submitter};
use tidegate_core::{
    Access, Cause, ChannelConfig, Class, Completion, Deadline, Op, Reach, Region, Seat, Shared, Status,
    Submit,
};

/// Quiesces a device, holds it for a moment, restores it.
pub(crate) fn quiesce(world: &World, stream: u64) {
    let mut rng = world.rng(stream);
    while !world.stopped() {
        std::thread::sleep(Duration::from_micros(rng.below(40_000)));
        let gate = match rng.below(3) {
            0 => &world.gpu,
            n => &world.nics[n as usize - 1],
        };
        let begun = Instant::now();
        let by = Deadline::millis([0, 1, 20][rng.below(3) as usize], 10_000);
        match gate.quiesce(Cause::Reset, by).map(|quiesce| quiesce.wait()) {
            Ok(Ok(quiet)) => {
                add(&DONE.quiesces, 1);
                if gate.in_flight() + gate.windows() as u64 + gate.channels() as u64 != 0 {
                    wrong(Wrong::Other, 1, || format!("{gate:?} is not quiet"));
                }
                if !quiet.report().is_clean() {
                    wrong(Wrong::Other, 1, || format!("a quiesce was not clean: {:?}", quiet.report()));
                }
                std::thread::sleep(Duration::from_micros(rng.below(500)));
                if rng.one_in(8) {
                    // The proof is dropped, the gate stays closed; the next one opens it.
                    drop(quiet);
                    match gate.quiesce(Cause::Reset, by).map(|quiesce| quiesce.wait()) {
                        Ok(Ok(quiet)) => drop(quiet.restore()),
                        other => wrong(Wrong::Other, 1, || format!("again: {other:?}")),
                    }
                } else {
                    quiet.restore();
                }
            }
            other => wrong(Wrong::Other, 1, || format!("a quiesce: {other:?}")),
        }
        if begun.elapsed() > Duration::from_secs(12) {
            wrong(Wrong::LateRevoke, 1, || format!("a quiesce took {:?}", begun.elapsed()));
        }
    }
}

/// Takes snapshots.
pub(crate) fn look(world: &World, stream: u64) {
    let mut rng = world.rng(stream);
    while !world.stopped() {
        std::thread::sleep(Duration::from_micros(rng.below(10_000)));
        for channel in world.fabric.inspect().channels {
            // Entries come and go while they are counted: no more than the ring has.
            if channel.in_flight > 128
                || channel.counters.submitted > DONE.operations.load(Ordering::Relaxed) + 1_000_000
            {
                wrong(Wrong::Other, 1, || format!("a snapshot that can't be: {channel:?}"));
            }
        }
    }
}

/// Threads that live for a moment; half of them go without a good-bye.
pub(crate) fn come_and_go(world: &Arc<World>, stream: u64) {
    let mut rng = world.rng(stream);
    let mut visitor = 0;
    while !world.stopped() {
        visitor += 1;
        std::thread::sleep(Duration::from_micros(rng.below(5000)));
        let mut rng = Rng::new(rng.next(), visitor);
        std::thread::scope(|s| {
            s.spawn(|| {
                let name = format!("visitor {visitor}");
                let mut lanes = vec![world.lane(rng.below(15), &name)];
                let mut lives = Vec::new();
                for _ in 0..rng.below(50) {
                    let kind = lanes[0].kind();
                    world.lives(kind, &mut lives);
                    lanes[0].turn(&lives, &mut rng);
                }
                if rng.one_in(2) {
                    settle(&mut lanes);
                } else {
                    add(&DONE.abandoned, lanes[0].die(&mut rng, &lives));
                }
            });
        });
    }
}

/// A device that does not answer: its region is forced and held, until the device was proved stopped.
pub(crate) fn fail(world: &World, hard_stop: &Arc<HardStop>, stream: u64) {
    let mut rng = world.rng(stream);
    let poller = world.fabric.poller("dead");
    while !world.stopped() {
        std::thread::sleep(Duration::from_millis(20 + rng.below(200)));
        let gate = world.fabric.gate("dead", Some(hard_stop.clone()));
        let seat = Seat { domain: world.domain, reach: Reach::Shared, gate: Some(gate.clone()) };
        let buffer = Buffer::new();
        let map = Arc::new(Mapped(buffer.clone()));
        let made: Result<Region<Shared>, _> =
            world.fabric.adopt(world.domain, Class::Host, Access::ReadWrite, map, None, None);
        let channel = world.fabric.place_channel(&poller, Dead, ChannelConfig::depth(4), seat);
        let (Ok(region), Ok(mut channel)) = (made, channel) else { continue };
        let mut sent = 0;
        if let Ok(mut section) = channel.pin() {
            for _ in 0..=rng.below(4) {
                let op = Op::fill(region.span(), 0).cookie(7);
                sent += u64::from(matches!(section.submit(op), Submit::Queued(_)));
            }
        }
        let begun = Instant::now();
        match region.revoke(Cause::Doubt, Deadline::millis(rng.below(5), 10)).wait() {
            Ok(report) if !report.is_clean() && report.revoked == sent => add(&DONE.revokes, 1),
            other => wrong(Wrong::Other, 1, || format!("{sent} on a dead device: {other:?}")),
        }
        if begun.elapsed() > Duration::from_secs(3) {
            wrong(Wrong::LateRevoke, 1, || format!("a forced revoke took {:?}", begun.elapsed()));
        }
        let mut ended = Vec::new();
        while channel.reclaim(&mut ended).is_err() {}
        let fair = ended.iter().all(|c| c.status == Status::Revoked && c.cookie == 7);
        let n = ended.len() as u64;
        wrong(Wrong::Lost, sent.saturating_sub(n), || format!("of {sent} on a dead device"));
        wrong(Wrong::Twice, n.saturating_sub(sent), || format!("of {sent} on a dead device: {ended:?}"));
        wrong(Wrong::Other, u64::from(!fair), || format!("on a dead device: {ended:?}"));
        add(&DONE.operations, n);
        drop(region);
        if Arc::strong_count(&buffer) == 1 {
            wrong(Wrong::Other, 1, || "memory that a dead device may write was let go".to_owned());
        }
        drop(channel);
        // Detached, and with that proved stopped.
        match gate.quiesce(Cause::Reset, Deadline::millis(0, 1000)).map(|quiesce| quiesce.wait()) {
            Ok(Ok(quiet)) => drop(quiet),
            other => wrong(Wrong::Other, 1, || format!("the dead device: {other:?}")),
        }
        let begun = Instant::now();
        while Arc::strong_count(&buffer) > 1 && begun.elapsed() < Duration::from_secs(10) {
            world.fabric.release(&gate);
            std::thread::yield_now();
        }
        if Arc::strong_count(&buffer) > 1 {
            wrong(Wrong::Other, 1, || "memory of a stopped device is never freed".to_owned());
        }
    }
}

/// An owner with nothing but an inbox, and submitters in other threads.
pub(crate) fn inbox(world: &Arc<World>, stream: u64) {
    let mut rng = world.rng(stream);
    let poller = world.fabric.poller("inbox");
    while !world.stopped() {
        let Ok(mut channel) = world.fabric.channel(&poller, Cpu::new(32), ChannelConfig::depth(32)) else {
            continue;
        };
        add(&DONE.channels, 1);
        let mut inbox = Inbox::new(&channel, InboxConfig::window(16));
        let turns = rng.below(3000);
        std::thread::scope(|s| {
            for n in 0..2 {
                let submitter = inbox.submitter();
                let rng = Rng::new(rng.next(), n);
                s.spawn(move || submit(world, submitter, rng));
            }
            let mut out = [Completion::EMPTY; 32];
            for turn in 0..turns {
                if world.stopped() {
                    break;
                }
                let Ok(mut section) = channel.pin() else { continue };
                inbox.forward(&mut section);
                section.ring();
                if let Ok(mut section) = channel.pin() {
                    let others = inbox.poll(&mut section, &mut out);
                    wrong(Wrong::Other, others as u64, || {
                        "a completion of nobody in the inbox's channel".to_owned()
                    });
                }
                if turn % 8 == 0 {
                    std::thread::yield_now();
                }
            }
            drop(inbox);
        });
    }
}

fn submit(world: &World, mut submitter: Submitter, mut rng: Rng) {
    let (mut ledger, mut lives) = (Ledger::new(), Vec::new());
    let mut out = [Answer::EMPTY; 16];
    for turn in 0_u64.. {
        if turn % 16 == 0 {
            world.lives(Kind::Process, &mut lives);
            std::thread::yield_now();
        }
        for _ in 0..rng.below(8) {
            if lives.is_empty() {
                break;
            }
            let live = lives[rng.below(lives.len() as u64) as usize];
            let Some(cookie) = ledger.cookie() else { break };
            match submitter.submit(live.operation(&mut rng).0.cookie(cookie)) {
                Sent::Queued => ledger.accepted(Entry::of(cookie, [live.life; 2])),
                Sent::Full | Sent::Closed => break,
            }
        }
        // Before the poll: then one that finds nothing was the last.
        let closed = submitter.is_closed();
        let n = submitter.poll(&mut out);
        for answer in &out[..n] {
            let Some(entry) = ledger.ended(answer.cookie) else { continue };
            let ending = entry.is_ending();
            let fair = match answer.result {
                Ok(completion) => match completion.status {
                    Status::Done | Status::Aborted => true,
                    Status::Revoked => ending,
                    _ => false,
                },
                Err(Refused::Stale(_)) => ending,
                Err(Refused::Gone | Refused::Orphaned) => true,
                Err(_) => false,
            };
            wrong(Wrong::Other, u64::from(!fair), || format!("{answer:?}"));
            add(&DONE.operations, u64::from(answer.result.is_ok()));
        }
        if n == 0 && closed {
            break;
        }
    }
    wrong(Wrong::Lost, ledger.open, || "sent, and never answered".to_owned());
}
