//! Cancel, resume, death, drop.

use super::On;
use super::rig::{AT_ONCE, DEPTH, LEN, Piece, Rig, pattern};
use crate::backend::Backend;
use crate::engine::code;
use crate::soft::FaultKind;
use std::collections::BTreeSet;
use tidegate_core::{Access, Cause, Completion, Deadline, Memory, Region, Shared, Status};

/// Work for a queue: so many loads, half of which name the second region.
fn work<B: Backend, S: On<B>>(rig: &mut Rig<B, S>, n: u64, len: u64) -> Region<Shared> {
    let memory = Memory::allocate("to be revoked", LEN).unwrap();
    let other = rig.domain.register(memory.backing(), Access::ReadWrite).unwrap();
    let len = rig.len(len);
    S::stock(rig, 0, &pattern(1, len));
    for i in 0..n {
        let to =
            if i % 2 == 0 { rig.host(0x8000, len) } else { Piece { span: other.handle().span(0..len), len } };
        let op = S::load(rig, 0, to).cookie(i);
        rig.submit(op);
    }
    other
}

/// In the middle of its work, at every depth of it: what named the region is revoked, the rest aborted, each once;
/// then the queue works again.
pub fn a_cancel_ends_everything_once_and_the_queue_resumes<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    for round in 0..rig.rounds {
        let other = work(rig, 6, if round % 2 == 0 { 5000 } else { 50 });
        let mut done = Vec::new();
        for pass in 0..round * 7 {
            rig.world.pass();
            if pass % 3 == 0 {
                done.extend(rig.poll());
            }
        }
        let revocation = other.revoke(Cause::User, AT_ONCE);
        let (report, _) = rig.finish(revocation, false);
        assert!(report.is_clean(), "{report:?}");
        assert!(rig.fabric.inspect().quarantine.is_empty());
        rig.channel().reclaim(&mut done).unwrap();
        done.extend(rig.complete(6 - done.len()));
        check_ends(&done, 6);
        S::clear(rig);
        assert_eq!(report.in_flight, report.drained + report.revoked + report.failed);
        let (len, at) = (rig.len(64), rig.at(64));
        S::stock(rig, 1, &pattern(round, len));
        let op = S::load(rig, 1, rig.vram(at, len));
        rig.run_well(op);
        assert!(rig.peek(at, len) == pattern(round, len));
        if rig.confirms() {
            assert_eq!(rig.confirm(), Some(Status::Done));
        }
    }
}

fn check_ends(done: &[Completion], n: u64) {
    assert_eq!(
        done.iter().map(|c| c.cookie).collect::<BTreeSet<_>>(),
        (0..n).collect(),
        "each once: {done:?}"
    );
    assert_eq!(done.len() as u64, n);
    for c in done {
        let withdrawn = if c.cookie % 2 == 0 { Status::Aborted } else { Status::Revoked };
        assert!(c.status == Status::Done || c.status == withdrawn, "{c:?}");
    }
}

/// Dropped with work in flight, it leaves nothing mapped and no queue taken.
pub fn a_channel_dropped_in_mid_flight_leaves_nothing<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    let len = rig.len(5000);
    for round in 0..rig.rounds {
        assert!(!rig.is_bare(), "an engine has memory");
        S::stock(rig, 0, &pattern(1, len));
        for n in 0..6 {
            let op = S::load(rig, 0, rig.host(0x2000 * n, len));
            rig.submit(op);
        }
        (0..round * 5).for_each(|_| rig.world.pass());
        rig.drop_channel();
        rig.until("nothing of the engine is mapped", Rig::is_bare);
        assert!(rig.fabric.inspect().quarantine.is_empty());
        rig.open(DEPTH);
        S::clear(rig);
        let short = rig.len(64);
        S::stock(rig, 1, &pattern(2, short));
        let op = S::load(rig, 1, rig.host(0x1000, short));
        rig.run_well(op);
    }
}

/// A device that no longer answers: what it had is never called ended by the engine (it may still run), everything
/// else ends with a code, and a revoke ends the rest and keeps the memory.
pub fn a_device_that_is_gone_is_ended_by_a_revoke_alone<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    let other = work(rig, 6, 5000);
    for _ in 0..10 * (rig.world.soft().now() % 3) {
        rig.world.pass();
    }
    rig.world.soft().misbehave(rig.initiator.address(), FaultKind::Dead);
    // Long enough for an engine that looks seldom.
    let mut done: Vec<Completion> = (0..70_000).flat_map(|_| rig.poll()).collect();
    let before = done.len();
    let len = rig.len(8);
    let op = S::load(rig, 0, rig.host(0x100, len)).cookie(6);
    rig.submit(op);
    done.extend(rig.complete(1));
    let late = done.iter().find(|c| c.cookie == 6).unwrap();
    assert_eq!(late.status, Status::Device(code::GONE));
    assert!(done.iter().all(|c| matches!(c.status, Status::Done | Status::Device(code::GONE))), "{done:?}");
    assert!(before < 6 && rig.channel().in_flight() > 0, "the device may still do what it had");
    // Some of it names the host region.
    let by = Deadline::millis(0, 300);
    let host = rig.host.revoke(Cause::Doubt, by);
    let (report, _) = rig.finish(host, false);
    let (second, _) = rig.finish(other.revoke(Cause::Doubt, by), false);
    assert!(!report.is_clean() || !second.is_clean(), "{report:?} {second:?}");
    rig.channel().reclaim(&mut done).unwrap();
    assert_eq!(
        done.iter().map(|c| c.cookie).collect::<BTreeSet<_>>(),
        (0..7).collect(),
        "each once: {done:?}"
    );
    assert_eq!(done.len(), 7);
    assert!(!rig.fabric.inspect().quarantine.is_empty());
    assert!(rig.channel().closed().is_some());
}
