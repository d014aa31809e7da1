//! Channels of any engine, and the hard stop of a device.

use crate::common::Dev;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tidegate_core::drain::Initiator;
use tidegate_core::engine::Engine;
use tidegate_core::{
    Channel, Completion, Counters, MapError, Op, OpList, Seized, Submit, Ticket, Unconfirmable,
};

/// A channel of any engine.
pub(crate) trait Owner {
    fn submit(&mut self, ops: &[Op]) -> Result<Vec<Submit>, Seized>;
    fn submit_list(&mut self, list: &OpList) -> Result<Submit, Seized>;
    fn confirm(&mut self) -> Result<Result<Submit, Unconfirmable>, Seized>;
    fn poll(&mut self, room: usize) -> Result<Vec<Completion>, Seized>;
    fn sleep(&mut self) -> Result<(), Seized>;
    /// A thread of its own falls asleep like that, and ends.
    fn die(&mut self) -> Result<(), Seized>;
    fn rest(&mut self);
    fn counters(&mut self) -> Counters;
    fn confirmed(&mut self) -> Ticket;
    fn in_flight(&self) -> u64;
}

impl<E: Engine> Owner for Channel<E> {
    fn submit(&mut self, ops: &[Op]) -> Result<Vec<Submit>, Seized> {
        let mut section = self.pin()?;
        Ok(ops.iter().map(|op| section.submit(*op)).collect())
    }
    fn submit_list(&mut self, list: &OpList) -> Result<Submit, Seized> {
        Ok(self.pin()?.submit_list(list))
    }
    fn confirm(&mut self) -> Result<Result<Submit, Unconfirmable>, Seized> {
        Ok(self.pin()?.confirm())
    }
    fn poll(&mut self, room: usize) -> Result<Vec<Completion>, Seized> {
        let mut out = vec![Completion::EMPTY; room];
        let n = self.pin()?.poll(&mut out);
        out.truncate(n);
        Ok(out)
    }
    fn sleep(&mut self) -> Result<(), Seized> {
        // The section is left when the owner pins again.
        std::mem::forget(self.pin()?);
        Ok(())
    }
    fn die(&mut self) -> Result<(), Seized> {
        let dies = || (self.sleep(), std::fs::read_link("/proc/thread-self").unwrap());
        let (slept, entry) = std::thread::scope(|s| s.spawn(dies).join().unwrap());
        // A join returns before the kernel has taken the thread off its lists.
        while std::path::Path::new("/proc").join(&entry).exists() {
            std::thread::yield_now();
        }
        slept
    }
    fn rest(&mut self) {
        self.park();
    }
    fn counters(&mut self) -> Counters {
        Channel::counters(self)
    }
    fn confirmed(&mut self) -> Ticket {
        Channel::confirmed(self)
    }
    fn in_flight(&self) -> u64 {
        Channel::in_flight(self)
    }
}

/// Detaches all queues of a device, which forget what they had.
#[derive(Debug, Default)]
pub(crate) struct HardStop {
    pub(crate) devs: Mutex<Vec<Dev>>,
    pub(crate) stopped: AtomicBool,
}

#[expect(unsafe_code, reason = "the hard stop of devices without memory")]
// SAFETY: 1. the devices have no memory: there is nothing they could touch.
unsafe impl Initiator for HardStop {
    fn detach(&self) -> Result<(), MapError> {
        self.devs.lock().unwrap().iter().for_each(Dev::halt);
        self.stopped.store(true, Ordering::SeqCst);
        Ok(())
    }
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}
