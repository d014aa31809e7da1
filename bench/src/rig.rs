//! What every figure is measured with: two cores, a clock, the peers that could be had, and how long to take.

use crate::children::Children;
use crate::clock::Clock;
use crate::cpus;
use crate::missing::Missing;
use crate::peers::dpdk::Dpdk;
use crate::peers::fio::Fio;
use std::time::Duration;

/// Measured with this.
#[derive(Debug)]
pub struct Rig {
    /// CPU of the calling thread, which the program has tied itself to.
    pub caller: usize,
    /// CPU of whoever works beside it.
    pub worker: usize,
    /// Time stamps.
    pub clock: Clock,
    /// Less time a figure, for `--quick`.
    pub quick: bool,
    /// DPDK's environment, once a process.
    pub dpdk: Result<Dpdk, Missing>,
    /// The program fio.
    pub fio: Result<Fio, Missing>,
    /// Builds of our own library with something left out.
    pub children: Children,
}

impl Rig {
    /// The first two CPUs that the process may use, the calling thread tied to the first, and the peers that start.
    ///
    /// # Errors
    /// The kernel refuses that CPU.
    pub fn new(quick: bool, children: Children) -> Result<Rig, Missing> {
        let cpus = cpus::allowed();
        let caller = cpus.first().copied().unwrap_or(0);
        let worker = cpus.get(1).copied().unwrap_or(caller);
        if !cpus::pin_to(caller) {
            return Err(Missing::new(format!("the kernel refused CPU {caller}")));
        }
        Ok(Rig {
            caller,
            worker,
            clock: Clock::calibrated(),
            quick,
            dpdk: Dpdk::start(caller, worker),
            fio: Fio::find(),
            children,
        })
    }

    /// Time of one slice of a race; seven slices a figure.
    pub fn slice(&self) -> Duration {
        Duration::from_millis(if self.quick { 4 } else { 15 })
    }

    /// A number of samples: a quarter of it under `--quick`.
    pub fn samples(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(4) } else { full }
    }
}
