//! The owner word: seizure against pin, giving back, closing, dropping. The state of a channel is one cell that loom
//! watches: it has one user at a time, and each sees what the last one did.

use super::{Device, PATIENT, Rig, check, poll};
use crate::channel::{Channel, Erased, Seizure, Taken};
use crate::epoch::Barrier;
use crate::op::{Op, Submit};
use crate::{Cause, Fabric};
use loom::thread;
use std::sync::Arc;

/// Takes the channel, if it can be had within so many turns.
fn seize(channel: &Arc<dyn Erased>, fabric: &Fabric, turns: usize) -> Option<Taken> {
    let epoch = &fabric.shared.epoch;
    let mut seizure = Seizure::begin(channel, epoch)?;
    for _ in 0..turns {
        if seizure.turn(epoch) {
            return Some(seizure.finish().unwrap());
        }
        thread::yield_now();
    }
    seizure.abandon();
    None
}

fn give_back(taken: Taken) {
    assert!(taken.give_back().is_ok());
}

/// Uses the state in two sections.
fn use_twice(mut channel: Channel<Device>) -> Channel<Device> {
    poll(&mut channel);
    poll(&mut channel);
    channel
}

fn take(barrier: Barrier, turns: usize) {
    check(3, move || {
        let rig = Rig::new(barrier, 0);
        let channel = rig.channel();
        let erased = rig.erased();
        let owner = thread::spawn(move || use_twice(channel));
        let taken = seize(&erased, &rig.fabric, turns).map(|mut taken| {
            taken.retire();
            taken
        });
        let channel = owner.join().unwrap();
        taken.map(give_back);
        drop(channel);
        rig.end();
    });
}

/// Taken when the owner announced that it had seen the word.
#[test]
fn model_take_fast() {
    take(Barrier::Membarrier, 3);
}

/// Taken when a barrier showed the owner outside.
#[test]
fn model_take_slow() {
    take(Barrier::Modelled, usize::MAX);
}

/// Taken, and back: what the revoker did to the state is there when the owner comes back.
#[test]
fn model_take_and_give_back() {
    check(3, || {
        let rig = Rig::new(Barrier::Fence, 0);
        let channel = rig.channel();
        let erased = rig.erased();
        let owner = thread::spawn(move || use_twice(channel));
        let mut taken = seize(&erased, &rig.fabric, usize::MAX).unwrap();
        taken.retire();
        give_back(taken);
        drop(owner.join().unwrap());
        rig.end();
    });
}

/// Two revokers want the channel: one has it at a time, and sees what the other did.
#[test]
fn model_two_takers() {
    check(3, || {
        let rig = Rig::new(Barrier::Fence, 0);
        let channel = rig.channel();
        let take = |rig: Arc<Rig>| {
            let erased = rig.erased();
            for _ in 0..2 {
                if let Some(mut taken) = seize(&erased, &rig.fabric, usize::MAX) {
                    taken.retire();
                    give_back(taken);
                }
                thread::yield_now();
            }
        };
        let second = rig.clone();
        let other = thread::spawn(move || take(second));
        take(rig.clone());
        other.join().unwrap();
        drop(channel);
        rig.end();
    });
}

/// The owner drops the channel while a revoker has it: closed by exactly one of them, and off the list.
#[test]
fn model_drop_while_taken() {
    check(3, || {
        let rig = Rig::new(Barrier::Fence, 0);
        let channel = rig.channel();
        let erased = rig.erased();
        let owner = thread::spawn(move || drop(channel));
        if let Some(mut taken) = seize(&erased, &rig.fabric, usize::MAX) {
            taken.retire();
            if let Err(mut taken) = taken.give_back() {
                drop(taken.unplug());
                if taken.close() {
                    rig.fabric.shared.delist(&erased);
                }
            }
        }
        owner.join().unwrap();
        rig.end();
    });
}

/// The device closes while a revoker has the channel: it comes back closing.
#[test]
fn model_close_while_taken() {
    check(3, || {
        let rig = Rig::new(Barrier::Fence, 0);
        let gate = rig.fabric.gate("model", None);
        let mut channel = rig.place(rig.device(), Some(gate.clone()));
        let (erased, fabric) = (rig.erased(), rig.fabric.clone());
        let taker = thread::spawn(move || seize(&erased, &fabric, usize::MAX).map(give_back));
        drop(gate.quiesce(Cause::Reset, PATIENT).unwrap());
        taker.join().unwrap();
        let answer = channel.pin().map(|mut pinned| pinned.submit(Op::fence()));
        assert!(matches!(answer, Ok(Submit::Closed(Cause::Reset))), "{answer:?}");
        drop(channel);
        rig.end();
    });
}
