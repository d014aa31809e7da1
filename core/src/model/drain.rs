//! From the mark to the end of the drain.

use super::{CANCEL, PATIENT, Rig, TO_THE_END, check, run};
use crate::epoch::Barrier;
use crate::op::Status;
use loom::thread;

/// Submit against revoke: mark, grace period, scan, drain by the owner's polling.
#[test]
fn model_drain() {
    check(3, || {
        let rig = Rig::new(Barrier::Fence, 1);
        let (mut channel, op) = (rig.channel(), rig.op(0));
        let owner = thread::spawn(move || {
            assert!(matches!(run(&mut channel, op), None | Some(Status::Done)));
            channel
        });
        rig.revoke(0, PATIENT, TO_THE_END);
        drop(owner.join().unwrap());
        rig.end();
    });
}

/// A queue that never completes: seized, cancelled, withdrawn, given back; the owner finds out.
#[test]
fn model_cancel() {
    check(3, || {
        let rig = Rig::new(Barrier::Fence, 1);
        let mut device = rig.device();
        device.stuck = true;
        let (mut channel, op) = (rig.place(device, None), rig.op(0));
        let owner = thread::spawn(move || {
            assert!(matches!(run(&mut channel, op), None | Some(Status::Revoked)));
            channel
        });
        rig.revoke(0, CANCEL, TO_THE_END);
        drop(owner.join().unwrap());
        rig.end();
    });
}
