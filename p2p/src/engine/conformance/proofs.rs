//! Confirm: real bytes are confirmed, others never.

use super::On;
use super::rig::{AT_ONCE, DEPTH, LEN, Piece, Rig, pattern};
use crate::backend::Backend;
use crate::domain::Want;
use crate::engine::code;
use std::time::Duration;
use tidegate_core::drain::FlushUsed;
use tidegate_core::{Cause, Deadline, Status};

/// Brings `bytes` to `at` of the window; the device says that all is well.
fn write<B: Backend, S: On<B>>(rig: &mut Rig<B, S>, at: u64, bytes: &[u8]) {
    let place = rig.next_place();
    S::stock(rig, place, bytes);
    let op = S::load(rig, place, rig.vram(at, bytes.len() as u64));
    rig.run_well(op);
}

/// The same with `len` bytes that no dead window gives, or the next length that the engine does.
fn write_pattern<B: Backend, S: On<B>>(rig: &mut Rig<B, S>, at: u64, seed: u32, len: u64) {
    let bytes = pattern(seed, rig.len(len));
    write(rig, at, &bytes);
}

fn write_byte<B: Backend, S: On<B>>(rig: &mut Rig<B, S>, at: u64, byte: u8, len: u64) {
    let bytes = vec![byte; rig.len(len) as usize];
    write(rig, at, &bytes);
}

pub fn a_live_window_is_confirmed<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    assert_eq!(rig.confirm(), None, "nothing was written");
    for (round, len) in [(1, 4096 + 100), (2, 8), (3, 5)] {
        write_pattern(rig, 0x1000 * u64::from(round), round, len);
        let last = rig.confirmed();
        assert_eq!(rig.confirm(), Some(Status::Done));
        assert!(rig.confirmed() > last);
        // Something else in between takes the device's buffer, where it has one.
        write_pattern(rig, 0x1000, round + 10, 64);
        let from = rig.vram(0x1000, rig.len(64));
        let away = S::store(rig, from, 40);
        rig.run_well(away);
        assert_eq!(rig.confirm(), Some(Status::Done));
    }
    assert_eq!(rig.confirm(), None, "all is confirmed");
}

pub fn bytes_that_a_dead_window_could_give_prove_nothing<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    for byte in [0, 0xff] {
        write_byte(rig, 0, byte, 300);
        assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
        if S::UNIT == 1 {
            write(rig, 0, &[byte, byte, 1]);
            assert_eq!(rig.confirm(), Some(Status::Unconfirmed), "too few");
        }
        assert_eq!(rig.confirmed(), 0);
    }
    // What was overwritten by such bytes, in an early chunk, is not missed.
    write_pattern(rig, 0x100, 1, 64);
    let elsewhere = S::load(rig, 41, rig.host(0, rig.len(8)));
    S::stock(rig, 41, &pattern(2, rig.len(8)));
    rig.run_well(elsewhere);
    write_byte(rig, 0, 0, 5000);
    assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
    // One that can't confirms all of it.
    write_pattern(rig, 0x500, 3, 8);
    assert_eq!(rig.confirm(), Some(Status::Done));
    assert!(rig.confirmed() > 0);
}

/// The exporter's memory decode goes off behind everybody's back, and on again.
fn a_dead_window_is_never_confirmed<B: Backend, S: On<B>>(rig: &mut Rig<B, S>, was_good: bool) {
    let dead = if S::TELLS_DEAD { Status::Device(code::DEAD_WINDOW) } else { Status::Unconfirmed };
    rig.poke(0x11);
    if was_good {
        write_pattern(rig, 0x700, 5, 200);
        assert_eq!(rig.confirm(), Some(Status::Done));
    }
    let good = rig.confirmed();
    rig.set_decode(false);
    // All-zero bytes say nothing by themselves; what was confirmed before must not speak for them.
    write_byte(rig, 0x3000, 0, 64);
    assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
    // These do: the device says Done, and the read-back says otherwise.
    write_pattern(rig, 0x2000, 6, 300);
    assert_eq!(rig.confirm(), Some(dead));
    assert_eq!(rig.confirm(), Some(dead), "and goes on saying so");
    assert_eq!(rig.confirmed(), good);
    // The exporter is back. Its mapping is not.
    rig.set_decode(true);
    write_pattern(rig, 0x2000, 7, 300);
    assert_ne!(rig.confirm(), Some(Status::Done));
    assert_eq!(rig.confirmed(), good);
    assert_eq!(rig.peek(0x2000, 300), [0x11; 300]);
    let revocation = rig.window().region().revoke(Cause::Doubt, AT_ONCE);
    let (report, _) = rig.finish(revocation, true);
    if S::TELLS_DEAD {
        assert!(!report.is_clean(), "a drain does not call it flushed: {report:?}");
        assert_eq!(report.flushes.last().map(|f| f.1), Some(FlushUsed::Forced));
    }
    assert_eq!(rig.confirmed(), good);
}

pub fn a_window_that_died_is_never_confirmed<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    a_dead_window_is_never_confirmed(rig, true);
}

pub fn a_window_dead_from_the_start_is_never_confirmed<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    a_dead_window_is_never_confirmed(rig, false);
}

pub fn bytes_written_by_somebody_else_since_prove_nothing<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    write_pattern(rig, 0x2000, 1, 64);
    rig.poke(0x5a);
    assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
    assert_eq!(rig.confirmed(), 0);
}

/// Each window by itself, also when others were written since.
pub fn windows_are_confirmed_one_by_one<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    let second = rig.domain.import(rig.window().export(), Want::default()).unwrap();
    let len = rig.len(100);
    let to = Piece { span: second.region().handle().span(0x4000..0x4000 + len), len };
    for round in 0..2 {
        write_pattern(rig, 0x100, round, 100);
        S::stock(rig, 41, &pattern(round + 50, len));
        let op = S::load(rig, 41, to);
        rig.run_well(op);
        assert_eq!(rig.confirm(), Some(Status::Done));
    }
    write_pattern(rig, 0x100, 9, 100);
    S::stock(rig, 42, &vec![0; len as usize]);
    let zeros = S::load(rig, 42, to);
    rig.run_well(zeros);
    let good = rig.confirmed();
    assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
    assert_eq!(rig.confirmed(), good, "half a group confirms nothing");
}

/// A completion is not an arrival: held back on their way to the window, bytes are there after a confirm.
pub fn a_confirm_pushes_what_is_still_on_its_way<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    hold(rig, true);
    let bytes = pattern(3, rig.len(777));
    let (at, len) = (rig.at(0x1001), bytes.len() as u64);
    write(rig, at, &bytes);
    assert!(rig.raw(at, len) != bytes, "completed, and not there");
    assert_eq!(rig.confirm(), Some(Status::Done));
    assert!(rig.raw(at, len) == bytes);
    hold(rig, false);
}

/// A revoke of the window flushes it by itself, in a queue that is full of other work.
pub fn a_revoke_flushes_the_window<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    let (short, bytes) = (rig.len(100), pattern(4, rig.len(500)));
    let (at, len) = (rig.at(0x1001), bytes.len() as u64);
    hold(rig, true);
    write(rig, at, &bytes);
    for n in 0..u64::from(DEPTH) {
        S::stock(rig, 40 + n, &pattern(n as u32, short));
    }
    for n in 0..u64::from(DEPTH) {
        let op = S::load(rig, 40 + n, rig.host(0x1000 + short * n, short));
        rig.submit(op);
    }
    let by = Deadline { cancel: Duration::from_secs(20), force: Duration::from_secs(30) };
    let revocation = rig.window().region().revoke(Cause::User, by);
    let (report, mut done) = rig.finish(revocation, true);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.flushes.iter().map(|f| f.1).collect::<Vec<_>>(), [S::FLUSH]);
    assert!(rig.raw(at, len) == bytes);
    let left = usize::try_from(DEPTH).unwrap() - done.len();
    done.extend(rig.complete(left));
    assert!(done.iter().all(|c| c.status == Status::Done), "others were left undisturbed");
    assert!(rig.confirmed() >= 1, "the end of a clean drain confirms");
}

/// The same where nothing can be held back: clean, by the way that the engine says, and the bytes are there.
pub fn a_revoke_of_a_written_window_ends_clean<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    let bytes = pattern(4, rig.len(500));
    write(rig, 0x1000, &bytes);
    let by = Deadline { cancel: Duration::from_secs(20), force: Duration::from_secs(30) };
    let revocation = rig.window().region().revoke(Cause::User, by);
    let (report, _) = rig.finish(revocation, true);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.flushes.iter().map(|f| f.1).collect::<Vec<_>>(), [S::FLUSH]);
    assert!(rig.peek(0x1000, bytes.len() as u64) == bytes);
    assert!(rig.confirmed() >= 1, "the end of a clean drain confirms");
}

/// The same window region by region: an import that was revoked and brought back starts afresh.
pub fn a_recovered_window_is_confirmed_by_what_is_written_then<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    write_pattern(rig, 0x1000, 1, 64);
    let revocation = rig.window().region().revoke(Cause::User, Deadline::millis(20_000, 30_000));
    let (report, _) = rig.finish(revocation, true);
    assert!(report.is_clean(), "{report:?}");
    // Cleared in between, as a stop would.
    rig.poke(0);
    rig.recover();
    write_byte(rig, 0x3000, 0, 64);
    assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
    write_pattern(rig, 0x2000, 2, 64);
    assert_eq!(rig.confirm(), Some(Status::Done));
    assert!(rig.peek(0x2000, rig.len(64)) == pattern(2, rig.len(64)));
    assert_eq!(LEN, rig.window().region().len());
}

fn hold<B: Backend, S: On<B>>(rig: &Rig<B, S>, held: bool) {
    use crate::soft::Toward;
    let (from, to) = (rig.initiator.address(), Toward::Function(rig.exporter.address()));
    rig.world.soft().hold(from, to, held);
}
