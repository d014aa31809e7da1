//! Confirm: real bytes are confirmed, others never.

use super::rig::{AT_ONCE, LEN, Rig, Subject, pattern};
use crate::backend::Backend;
use crate::domain::Want;
use crate::engine::code;
use std::time::Duration;
use tidegate_core::drain::FlushUsed;
use tidegate_core::{Cause, Deadline, Op, Status};

/// Copies `bytes` to `at` of the window; the device says that all is well.
fn write<B: Backend, D: Subject<B>>(rig: &mut Rig<B, D>, at: u64, bytes: &[u8]) {
    rig.fill_host(0x8000, bytes);
    let len = bytes.len() as u64;
    let op = Op::copy(rig.host(0x8000, len), rig.vram(at, len));
    rig.run_well(op);
}

pub(super) fn a_live_window_is_confirmed<B: Backend, D: Subject<B>>(rig: &mut Rig<B, D>) {
    assert_eq!(rig.confirm(), None, "nothing was written");
    for (round, len) in [(1, 4096 + 100), (2, 8), (3, 5)] {
        write(rig, 0x1000 * u64::from(round), &pattern(round, len));
        let last = rig.confirmed();
        assert_eq!(rig.confirm(), Some(Status::Done));
        assert!(rig.confirmed() > last);
        // A copy elsewhere in between takes the device's buffer, where it has one.
        write(rig, 0x1000, &pattern(round + 10, 64));
        let (from, to) = (rig.vram(0x1000, 64), rig.host(0x100, 64));
        rig.run_well(Op::copy(from, to));
        assert_eq!(rig.confirm(), Some(Status::Done));
    }
    assert_eq!(rig.confirm(), None, "all is confirmed");
}

pub(super) fn bytes_that_a_dead_window_could_give_prove_nothing<B: Backend, D: Subject<B>>(
    rig: &mut Rig<B, D>,
) {
    for byte in [0, 0xff] {
        write(rig, 0, &[byte; 300]);
        assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
        write(rig, 0, &[byte, byte, 1]);
        assert_eq!(rig.confirm(), Some(Status::Unconfirmed), "too few");
        assert_eq!(rig.confirmed(), 0);
    }
    // What was overwritten by such bytes, in an early chunk, is not missed.
    write(rig, 0x100, &pattern(1, 64));
    let elsewhere = Op::copy(rig.host(0, 8), rig.host(64, 8));
    rig.run_well(elsewhere);
    write(rig, 0, &[0; 5000]);
    assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
    // One that can't confirms all of it.
    write(rig, 0x500, b"tidegate");
    assert_eq!(rig.confirm(), Some(Status::Done));
    assert!(rig.confirmed() > 0);
}

/// The exporter's memory decode goes off behind everybody's back, and on again.
pub(super) fn a_dead_window_is_never_confirmed<B: Backend, D: Subject<B>>(
    rig: &mut Rig<B, D>,
    was_good: bool,
) {
    rig.poke(0x11);
    if was_good {
        write(rig, 0x700, &pattern(5, 200));
        assert_eq!(rig.confirm(), Some(Status::Done));
    }
    let good = rig.confirmed();
    rig.set_decode(false);
    // All-zero bytes say nothing by themselves; what was confirmed before must not speak for them.
    write(rig, 0x3000, &[0; 64]);
    assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
    // These do: the device says Done, and the read-back says otherwise.
    write(rig, 0x2000, &pattern(6, 300));
    assert_eq!(rig.confirm(), Some(Status::Device(code::DEAD_WINDOW)));
    assert_eq!(rig.confirm(), Some(Status::Device(code::DEAD_WINDOW)), "and goes on saying so");
    assert_eq!(rig.confirmed(), good);
    // The exporter is back. Its mapping is not.
    rig.set_decode(true);
    write(rig, 0x2000, &pattern(7, 300));
    assert_ne!(rig.confirm(), Some(Status::Done));
    assert_eq!(rig.confirmed(), good);
    assert_eq!(rig.peek(0x2000, 300), [0x11; 300]);
    let revocation = rig.window.region().revoke(Cause::Doubt, AT_ONCE);
    let (report, _) = rig.finish(revocation, true);
    assert!(!report.is_clean(), "a drain does not call it flushed: {report:?}");
    assert_eq!(report.flushes.last().map(|f| f.1), Some(FlushUsed::Forced));
    assert_eq!(rig.confirmed(), good);
}

pub(super) fn bytes_written_by_somebody_else_since_prove_nothing<B: Backend, D: Subject<B>>(
    rig: &mut Rig<B, D>,
) {
    write(rig, 0x2000, &pattern(1, 64));
    rig.poke(0x5a);
    assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
    assert_eq!(rig.confirmed(), 0);
}

/// Each window by itself, also when others were written since.
pub(super) fn windows_are_confirmed_one_by_one<B: Backend, D: Subject<B>>(rig: &mut Rig<B, D>) {
    let second = rig.domain.import(rig.window.export(), Want::default()).unwrap();
    for round in 0..2 {
        write(rig, 0x100, &pattern(round, 100));
        let to = second.region().handle().span(0x4000..0x4064);
        let op = Op::copy(rig.host(0x8000, 100), to);
        rig.run_well(op);
        assert_eq!(rig.confirm(), Some(Status::Done));
    }
    write(rig, 0x100, &pattern(9, 100));
    let to = second.region().handle().span(0x4000..0x4064);
    rig.fill_host(0, &[0; 100]);
    let zeros = Op::copy(rig.host(0, 100), to);
    rig.run_well(zeros);
    let good = rig.confirmed();
    assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
    assert_eq!(rig.confirmed(), good, "half a group confirms nothing");
}

/// A completion is not an arrival: held back on their way to the window, bytes are there after a confirm.
pub(super) fn a_confirm_pushes_what_is_still_on_its_way<B: Backend, D: Subject<B>>(rig: &mut Rig<B, D>) {
    hold(rig, true);
    let bytes = pattern(3, 777);
    write(rig, 0x1001, &bytes);
    assert!(rig.raw(0x1001, 777) != bytes, "completed, and not there");
    assert_eq!(rig.confirm(), Some(Status::Done));
    assert!(rig.raw(0x1001, 777) == bytes);
    hold(rig, false);
}

/// A revoke of the window flushes it by itself, in a queue that is full of other work.
pub(super) fn a_revoke_flushes_the_window<B: Backend, D: Subject<B>>(rig: &mut Rig<B, D>) {
    hold(rig, true);
    let bytes = pattern(4, 500);
    write(rig, 0x1001, &bytes);
    for n in 0..u64::from(super::rig::DEPTH) {
        let op = Op::copy(rig.host(0, 100), rig.host(0x1000 + 256 * n, 100));
        rig.submit(op);
    }
    let by = Deadline { cancel: Duration::from_secs(20), force: Duration::from_secs(30) };
    let revocation = rig.window.region().revoke(Cause::User, by);
    let (report, mut done) = rig.finish(revocation, true);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.flushes.iter().map(|f| f.1).collect::<Vec<_>>(), [FlushUsed::ReadBack]);
    assert!(rig.raw(0x1001, 500) == bytes);
    let left = usize::try_from(super::rig::DEPTH).unwrap() - done.len();
    done.extend(rig.complete(left));
    assert!(done.iter().all(|c| c.status == Status::Done), "others were left undisturbed");
    assert!(rig.confirmed() >= 1, "the end of a clean drain confirms");
}

/// The same window region by region: an import that was revoked and brought back starts afresh.
pub(super) fn a_recovered_window_is_confirmed_by_what_is_written_then<B: Backend, D: Subject<B>>(
    rig: Rig<B, D>,
) {
    let mut rig = rig;
    write(&mut rig, 0x1000, &pattern(1, 64));
    let revocation = rig.window.region().revoke(Cause::User, Deadline::millis(20_000, 30_000));
    let (report, _) = rig.finish(revocation, true);
    assert!(report.is_clean(), "{report:?}");
    // Cleared in between, as a stop would.
    rig.poke(0);
    let rig = &mut rig.recover();
    write(rig, 0x3000, &[0; 64]);
    assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
    write(rig, 0x2000, &pattern(2, 64));
    assert_eq!(rig.confirm(), Some(Status::Done));
    assert_eq!(rig.peek(0x2000, 64), pattern(2, 64));
    assert_eq!(LEN, rig.window.region().len());
}

fn hold<B: Backend, D: Subject<B>>(rig: &Rig<B, D>, held: bool) {
    use crate::soft::Toward;
    let (from, to) = (rig.initiator.address(), Toward::Function(rig.exporter.address()));
    rig.world.soft().hold(from, to, held);
}
