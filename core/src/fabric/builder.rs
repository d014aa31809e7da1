//! Setting a fabric up.

use super::{Control, Fabric, List, Runs, Shared, Totals, Unflushed};
use crate::epoch::{Barrier, BarrierMode, Epoch};
use crate::region::table::{MAX_SLOTS, Table};
use crate::sync::{AtomicU64, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// Settings of a fabric.
#[derive(Debug, Clone)]
pub struct FabricBuilder {
    regions: u32,
    channels: usize,
    barrier: BarrierMode,
    control: Option<String>,
    stall_after: Duration,
    emulate_tsm: bool,
}

impl Default for FabricBuilder {
    fn default() -> Self {
        FabricBuilder {
            regions: if cfg!(loom) { 4 } else { 4096 },
            channels: 1024,
            barrier: BarrierMode::Auto,
            control: Some("tidegate".to_owned()),
            stall_after: Duration::from_millis(100),
            emulate_tsm: false,
        }
    }
}

impl FabricBuilder {
    /// Region slots, at most 2^20. Default 4096. 64 bytes each, of which only those that were ever used are backed.
    pub fn regions(mut self, slots: u32) -> Self {
        self.regions = slots.clamp(1, MAX_SLOTS);
        self
    }

    /// Channels at most. Default 1024.
    pub fn channels(mut self, channels: usize) -> Self {
        self.channels = channels;
        self
    }

    /// How sections and revokers order. Default: membarrier where there is one.
    pub fn barrier(mut self, mode: BarrierMode) -> Self {
        self.barrier = mode;
        self
    }

    /// How long a section may hold a grace period up before it is reported: once as a warning (`tracing`), and in
    /// [`crate::drain::Report::stalled`]. Default 100 ms. Nothing is done about it before the deadlines.
    pub fn stall_after(mut self, threshold: Duration) -> Self {
        self.stall_after = threshold;
        self
    }

    /// Name of the control thread. Default `tidegate`.
    pub fn control_thread(mut self, name: &str) -> Self {
        self.control = Some(name.to_owned());
        self
    }

    /// No control thread: [`Fabric::turn`] (and every wait) runs control work in the calling thread. (When the last
    /// [`Fabric`] is dropped with something left to be ended, there is one.)
    pub fn manual(mut self) -> Self {
        self.control = None;
        self
    }

    /// Lets private windows enter an ordinary IOAS, which then stands in for the trusted table that the running
    /// kernel does not have. **Nothing is protected.** For tests and demos; said aloud at start, and counted
    /// ([`Fabric::emulated_imports`]).
    pub fn emulate_tsm(mut self) -> Self {
        self.emulate_tsm = true;
        self
    }

    /// Builds it: registers the process for membarrier, starts the control thread.
    ///
    /// # Errors
    /// The control thread could not be started, or the table of regions not mapped.
    pub fn build(self) -> std::io::Result<Fabric> {
        if self.emulate_tsm {
            tracing::warn!("the TSM is emulated: private windows are not protected");
        }
        let table = Table::open(self.regions)?;
        Ok(Fabric {
            shared: Arc::new(Shared {
                epoch: Epoch::new(Barrier::choose(self.barrier)),
                control: Control::new(self.control.as_deref())?,
                channels: Mutex::new(List::default()),
                quarantine: Mutex::new(Vec::new()),
                runs: Mutex::new(Runs::new(table.capacity())),
                table,
                totals: Mutex::new(Totals::default()),
                unflushed: Unflushed::default(),
                closers: Mutex::new(Vec::new()),
                stall_after: self.stall_after,
                handles: AtomicU64::new(1),
                room: AtomicU64::new(self.channels as u64),
                ids: AtomicU64::new(1),
                domains: AtomicU64::new(1),
                max_channels: self.channels,
                emulate_tsm: self.emulate_tsm,
                emulated: AtomicU64::new(0),
            }),
        })
    }
}
