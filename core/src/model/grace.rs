//! One revoker or two against one owner: the grace period, in both phases.

use super::{PATIENT, Rig, TO_THE_END, check, run, submit};
use crate::epoch::Barrier;
use loom::thread;
use std::sync::{Arc, Mutex};

/// The barrier fails (as loom's membarrier does): only announced epochs count.
const FAST: Barrier = Barrier::Membarrier;
/// The barrier is a fence of the revoker at the point of the membarrier.
const SLOW: Barrier = Barrier::Modelled;

/// Only announcements count.
#[test]
fn model_fast() {
    check(3, || {
        let rig = Rig::new(FAST, 1);
        let (mut channel, op) = (rig.channel(), rig.op(0));
        let owner = thread::spawn(move || {
            run(&mut channel, op);
            drop(channel.pin());
            channel
        });
        rig.revoke(0, PATIENT, 3);
        drop(owner.join().unwrap());
        rig.end();
    });
}

/// Sections, then idle for ever: only the barrier can tell.
#[test]
fn model_slow() {
    check(3, || {
        let rig = Rig::new(SLOW, 1);
        let (mut channel, op) = (rig.channel(), rig.op(0));
        let owner = thread::spawn(move || {
            run(&mut channel, op);
            channel
        });
        rig.revoke(0, PATIENT, TO_THE_END);
        drop(owner.join().unwrap());
        rig.end();
    });
}

/// An owner that goes on: either phase may end it.
#[test]
fn model_both() {
    check(3, || {
        let rig = Rig::new(SLOW, 1);
        let (mut channel, op) = (rig.channel(), rig.op(0));
        let owner = thread::spawn(move || {
            run(&mut channel, op);
            drop(channel.pin());
            channel
        });
        rig.revoke(0, PATIENT, TO_THE_END);
        drop(owner.join().unwrap());
        rig.end();
    });
}

/// A batch shares one grace period, and an owner uses one of its regions after the other.
#[test]
fn model_batch() {
    check(3, || {
        let rig = Rig::new(SLOW, 2);
        let (mut channel, ops) = (rig.channel(), [rig.op(0), rig.op(1)]);
        let owner = thread::spawn(move || {
            for op in ops {
                run(&mut channel, op);
            }
            channel
        });
        rig.revoke_all(PATIENT);
        drop(owner.join().unwrap());
        rig.end();
    });
}

fn register(barrier: Barrier) {
    check(3, move || {
        let rig = Rig::new(barrier, 1);
        let (mut channel, op) = (rig.channel(), rig.op(0));
        channel.park();
        let owner = thread::spawn(move || {
            submit(&mut channel, op);
            channel.park();
            channel
        });
        rig.revoke(0, PATIENT, 3);
        drop(owner.join().unwrap());
        rig.end();
    });
}

/// A parked channel comes back while a revoke runs: it is seen, or it sees the mark. No fence in its sections helps.
#[test]
fn model_register_fast() {
    register(FAST);
}

/// The same in a fabric of fences.
#[test]
fn model_register_slow() {
    register(Barrier::Fence);
}

/// Parked after its work, and back for more.
#[test]
fn model_reuse_fast() {
    check(2, || {
        let rig = Rig::new(FAST, 1);
        let (mut channel, op) = (rig.channel(), rig.op(0));
        let owner = thread::spawn(move || {
            run(&mut channel, op);
            channel.park();
            run(&mut channel, op);
            channel.park();
            channel
        });
        rig.revoke(0, PATIENT, 3);
        drop(owner.join().unwrap());
        rig.end();
    });
}

fn coalesce(barrier: Barrier, preemptions: usize, other: fn(&Rig)) {
    check(preemptions, move || {
        let rig = Rig::new(barrier, 2);
        let (mut channel, op) = (rig.channel(), rig.op(0));
        let owner = thread::spawn(move || {
            submit(&mut channel, op);
            drop(channel.pin());
            channel
        });
        let second = rig.clone();
        let other = thread::spawn(move || other(&second));
        rig.revoke(0, PATIENT, 2);
        other.join().unwrap();
        drop(owner.join().unwrap());
        rig.end();
    });
}

/// A revoker, somebody else who wants a grace period, and an owner whose epochs are all that counts: neither may borrow the other's bump.
#[test]
fn model_coalesce_fast() {
    coalesce(FAST, 2, |rig| rig.grace(1));
}

/// Two revokers share one barrier.
#[test]
fn model_coalesce_slow() {
    coalesce(SLOW, 3, |rig| rig.grace(1));
}

fn nest(barrier: Barrier, turns: usize) {
    check(2, move || {
        let rig = Rig::new(barrier, 1);
        let inner = Arc::new(Mutex::new(rig.channel()));
        let mut device = rig.device();
        device.inner = Arc::downgrade(&inner);
        let (mut channel, op) = (rig.place(device, None), rig.op(0));
        let owner = thread::spawn(move || {
            run(&mut channel, op);
            channel
        });
        rig.revoke(0, PATIENT, turns);
        drop(owner.join().unwrap());
        drop(inner);
        rig.end();
    });
}

/// A section on a second channel inside one on the first: its end does not end the outer one.
#[test]
fn model_nest() {
    nest(Barrier::Fence, TO_THE_END);
}

/// The same where only announcements count: what the inner one announces does not speak for the outer one.
#[test]
fn model_nest_refreshed() {
    nest(FAST, 3);
}

/// A channel that is made while a revoke runs is on its list, or sees the mark.
#[test]
fn model_channel_made_meanwhile() {
    check(3, || {
        let rig = Rig::new(Barrier::Fence, 1);
        let (maker, op) = (rig.clone(), rig.op(0));
        let owner = thread::spawn(move || {
            let mut channel = maker.channel();
            submit(&mut channel, op);
            channel
        });
        rig.revoke(0, PATIENT, 3);
        drop(owner.join().unwrap());
        rig.end();
    });
}
