//! Mappings that log, and holds that block.
#![expect(unsafe_code, reason = "implements the unsafe seam of a mapping without memory")]

use super::{Dev, LEN, Log};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tidegate_core::tdi::BarRange;
use tidegate_core::{Extent, MapError, Mapping};

/// A mapping that logs, and notes when it is unmapped under a descriptor.
#[derive(Debug)]
pub struct MockMap {
    pub(super) name: String,
    /// Device addresses.
    pub at: Range<u64>,
    pub(super) log: Log,
    pub(super) devs: Vec<Dev>,
    /// Unmap fails with this errno.
    pub fails: Mutex<Option<i32>>,
    /// Unmap waits until this opens.
    pub hang: Mutex<Option<Arc<Hold>>>,
    pub stopped: AtomicBool,
    pub lent: AtomicBool,
    /// Where it leads, if it says so.
    pub leads_to: Mutex<Option<BarRange>>,
}

/// Blocks until opened.
#[derive(Debug, Default)]
pub struct Hold(Mutex<bool>, Condvar);

impl Hold {
    pub fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
    pub fn wait_some_time(&self) {
        let open = self.0.lock().unwrap();
        let _ = self.1.wait_timeout_while(open, Duration::from_secs(10), |open| !*open).unwrap();
    }
    pub fn wait(&self) {
        let mut open = self.0.lock().unwrap();
        while !*open {
            open = self.1.wait(open).unwrap();
        }
    }
}

// SAFETY: 1. nothing is mapped, and no engine of these tests touches memory.
unsafe impl Mapping for MockMap {
    fn extent(&self) -> Extent {
        Extent { device: self.at.start, cpu: None, len: LEN }
    }
    fn unmap(&self) -> Result<(), MapError> {
        let hang = self.hang.lock().unwrap().clone();
        if let Some(hold) = hang {
            hold.wait();
        }
        if let Some(errno) = *self.fails.lock().unwrap() {
            return Err(MapError { op: "unmap", errno });
        }
        if self.devs.iter().any(|dev| dev.touches(&self.at)) {
            self.log.add(format!("VIOLATION: {} unmapped under a descriptor", self.name));
        }
        let posted = |dev: &Dev| dev.see(|s| s.posted.keys().any(|at| self.at.contains(at)));
        if self.devs.iter().any(posted) {
            self.log.add(format!("unflushed {}", self.name));
        }
        self.log.add(format!("unmap {}", self.name));
        self.stopped.store(true, Ordering::SeqCst);
        Ok(())
    }
    fn detach(&self) -> Result<(), MapError> {
        Ok(())
    }
    fn read_back(&self) -> bool {
        self.log.add(format!("cpu read {}", self.name));
        true
    }
    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
    fn is_lent(&self) -> bool {
        self.lent.load(Ordering::SeqCst)
    }
    fn window(&self) -> Option<BarRange> {
        self.leads_to.lock().unwrap().clone()
    }
}

impl Drop for MockMap {
    fn drop(&mut self) {
        self.log.add(format!("{} freed", self.name));
    }
}
