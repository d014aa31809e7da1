//! DPDK: dmadev on dma_skeleton, rte_ring, rte_rcu_qsbr. See `shims/dpdk.c`.
#![expect(unsafe_code, reason = "calls the shim; `the_driver_copies` below runs it where DPDK is")]

use super::memory::{Pair, Pairs};
use super::shim;
use crate::missing::Missing;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;

shim!("dpdk" {
    fn tg_dpdk_version() -> *const c_char;
    fn tg_dpdk_start(caller: c_uint, worker: c_uint) -> c_int;
    fn tg_dma_start() -> c_int;
    fn tg_dma_halt() -> c_int;
    fn tg_dma_run(pairs: *const Pair, n: usize, next: *mut usize, len: u32, ops: u64, burst: u32, window: u32) -> i64;
    fn tg_dma_caller(pair: *const Pair, len: u32, burst: u32, bursts: u64, stamp: u64) -> u64;
    fn tg_dma_stop(pairs: *const Pair, n: u32, len: u32, reported: *mut u32) -> i64;
    fn tg_ring_new(size: c_uint) -> *mut c_void;
    fn tg_ring_free(ring: *mut c_void);
    fn tg_ring_produce(ring: *mut c_void, n: u64, burst: c_uint);
    fn tg_ring_consume(ring: *mut c_void, n: u64, burst: c_uint) -> u64;
    fn tg_qsbr_new() -> *mut c_void;
    fn tg_qsbr_free(v: *mut c_void);
    fn tg_qsbr_enter(v: *mut c_void, id: c_uint) -> c_int;
    fn tg_qsbr_quiescent(v: *mut c_void, id: c_uint);
    fn tg_qsbr_leave(v: *mut c_void, id: c_uint);
    fn tg_qsbr_synchronize(v: *mut c_void);
});

/// The environment, with one dma_skeleton device whose thread runs on the worker's CPU. Not `Sync`: the device has one
/// caller.
#[derive(Debug)]
pub struct Dpdk {
    one_caller: PhantomData<Cell<()>>,
}

/// The driver's answer was an error.
fn refused(op: &str, errno: i64) -> Missing {
    Missing::new(format!("{op}: {}", std::io::Error::from_raw_os_error(-errno as i32)))
}

impl Dpdk {
    /// Operations in flight at most.
    pub const DEPTH: u32 = 1023;

    /// Starts the environment, once a process; it ties the calling thread to `caller`.
    ///
    /// # Errors
    /// [`Missing`] without the feature, with one CPU only, or if DPDK refuses.
    pub fn start(caller: usize, worker: usize) -> Result<Dpdk, Missing> {
        if cfg!(not(feature = "dpdk")) {
            return Err(Missing::new("built without DPDK (libdpdk-dev, feature `dpdk`)"));
        }
        if caller == worker {
            return Err(Missing::new("dma_skeleton needs a CPU of its own; there is one only"));
        }
        // SAFETY: 1. called once a process: `rounds` and the test do so at start (a second call is answered with an
        // error by the library itself).
        let answer = unsafe { ffi::tg_dpdk_start(caller as c_uint, worker as c_uint) };
        match answer {
            0 => Ok(Dpdk { one_caller: PhantomData }),
            errno => Err(refused("DPDK did not start", errno.into())),
        }
    }

    /// As DPDK calls itself.
    pub fn version(&self) -> String {
        // SAFETY: 1. touches nothing.
        let version = unsafe { ffi::tg_dpdk_version() };
        // SAFETY: 1. a static, zero-ended string of the library.
        let version = unsafe { CStr::from_ptr(version) };
        version.to_string_lossy().into_owned()
    }

    /// Starts the device, and with it the driver's thread.
    ///
    /// # Errors
    /// What the driver answered.
    pub fn device(&self) -> Result<Device<'_>, Missing> {
        // SAFETY: 1. configured by `start`; not running: `Device` stops it, and a second one is refused by the library.
        let answer = unsafe { ffi::tg_dma_start() };
        if answer < 0 {
            Err(refused("rte_dma_start", answer.into()))
        } else {
            Ok(Device { of: self, stopped: false })
        }
    }

    /// A ring for one producer and one consumer.
    ///
    /// # Errors
    /// No memory.
    pub fn ring(&self, size: u32) -> Result<Ring, Missing> {
        // SAFETY: 1. the environment runs: there is a `Dpdk`.
        let ring = NonNull::new(unsafe { ffi::tg_ring_new(size) });
        ring.map(Ring).ok_or_else(|| Missing::new("rte_ring_create failed"))
    }

    /// A QSBR variable.
    ///
    /// # Errors
    /// No memory.
    pub fn qsbr(&self) -> Result<Qsbr, Missing> {
        // SAFETY: 1. the environment runs: there is a `Dpdk`.
        let v = NonNull::new(unsafe { ffi::tg_qsbr_new() });
        v.map(Qsbr).ok_or_else(|| Missing::new("rte_rcu_qsbr_init failed"))
    }
}

/// The device while its thread runs; stopped when dropped.
#[derive(Debug)]
pub struct Device<'a> {
    of: &'a Dpdk,
    stopped: bool,
}

impl Device<'_> {
    /// `ops` copies, `burst` a doorbell, at most `window` in flight; the pairs go on where the last run left off.
    pub fn run(&self, pairs: &Pairs, ops: u64, burst: u32, window: u32) -> u64 {
        assert!(burst <= window && window <= Dpdk::DEPTH, "the driver's ring holds {}", Dpdk::DEPTH);
        let all = pairs.all();
        let mut next = pairs.next.get();
        // SAFETY: 1. `Pairs` keeps the memory of each pair alive and checked its bounds. 2. everything is complete
        // when the call returns. 3. one caller: not Sync.
        let done = unsafe {
            ffi::tg_dma_run(all.as_ptr(), all.len(), &raw mut next, pairs.len(), ops, burst, window)
        };
        pairs.next.set(next);
        assert!(done >= 0, "dma_skeleton failed: {done}");
        done as u64
    }

    /// Ticks of the caller's side of `bursts` bursts: enqueue, submit and completed, without the waiting between.
    pub fn caller_side(&self, pairs: &Pairs, burst: u32, bursts: u64, stamp: u64) -> u64 {
        assert!(burst <= Dpdk::DEPTH, "the driver's ring holds {}", Dpdk::DEPTH);
        // SAFETY: 1., 2., 3. as in `run`; `Pairs` has a first pair.
        unsafe { ffi::tg_dma_caller(pairs.all().as_ptr(), pairs.len(), burst, bursts, stamp) }
    }

    /// Stops the device with one copy of each pair in flight. Ticks of the stop, and how many
    /// of the copies were ever reported.
    ///
    /// # Errors
    /// What the driver answered.
    pub fn stop(mut self, pairs: &Pairs) -> Result<(u64, u32), Missing> {
        let all = pairs.all();
        assert!(all.len() <= Dpdk::DEPTH as usize, "the driver's ring holds {}", Dpdk::DEPTH);
        let mut reported = 0;
        self.stopped = true;
        // SAFETY: 1. as in `run`. 2. the driver's thread is cancelled and joined by the stop.
        let took =
            unsafe { ffi::tg_dma_stop(all.as_ptr(), all.len() as u32, pairs.len(), &raw mut reported) };
        if took < 0 { Err(refused("rte_dma_stop", took)) } else { Ok((took as u64, reported)) }
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        let _ = self.of;
        if !self.stopped {
            // SAFETY: 1. started by `Dpdk::device`; nothing is in flight between two calls.
            unsafe { ffi::tg_dma_halt() };
        }
    }
}

/// An rte_ring, SP/SC.
#[derive(Debug)]
pub struct Ring(NonNull<c_void>);

// SAFETY: 1. rte_ring is made for a producer and a consumer on two threads.
unsafe impl Send for Ring {}
// SAFETY: 1. as above; `produce` and `consume` take guards that there is one of each.
unsafe impl Sync for Ring {}

/// One side of a [`Ring`].
#[derive(Debug)]
pub struct Side<'a>(&'a Ring);

impl Ring {
    /// The producer's and the consumer's side.
    pub fn sides(&mut self) -> (Side<'_>, Side<'_>) {
        (Side(self), Side(self))
    }
}

impl Side<'_> {
    /// Pushes 0, 1, .. n.
    pub fn produce(&mut self, n: u64, burst: u32) {
        // SAFETY: 1. the ring lives as long as the borrow. 2. one producer: `sides` gave one side for it.
        unsafe { ffi::tg_ring_produce(self.0.0.as_ptr(), n, burst) };
    }

    /// Takes n; their sum.
    pub fn consume(&mut self, n: u64, burst: u32) -> u64 {
        // SAFETY: 1. the ring lives as long as the borrow. 2. one consumer: `sides` gave one side for it.
        unsafe { ffi::tg_ring_consume(self.0.0.as_ptr(), n, burst) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: 1. made by `Dpdk::ring`, freed once.
        unsafe { ffi::tg_ring_free(self.0.as_ptr()) };
    }
}

/// An rte_rcu_qsbr variable.
#[derive(Debug)]
pub struct Qsbr(NonNull<c_void>);

// SAFETY: 1. made to be shared by readers and a writer.
unsafe impl Send for Qsbr {}
// SAFETY: 1. as above.
unsafe impl Sync for Qsbr {}

impl Qsbr {
    /// Registers the calling thread as reader 0, and reports it on line.
    pub fn enter(&self) -> bool {
        // SAFETY: 1. the variable lives; reader 0 is below its 8.
        unsafe { ffi::tg_qsbr_enter(self.0.as_ptr(), 0) == 0 }
    }

    /// Reader 0 holds nothing.
    #[inline]
    pub fn quiescent(&self) {
        // SAFETY: 1. as in `enter`.
        unsafe { ffi::tg_qsbr_quiescent(self.0.as_ptr(), 0) };
    }

    /// Reader 0 leaves.
    pub fn leave(&self) {
        // SAFETY: 1. as in `enter`.
        unsafe { ffi::tg_qsbr_leave(self.0.as_ptr(), 0) };
    }

    /// Waits for all readers; the caller is none.
    pub fn synchronize(&self) {
        // SAFETY: 1. as in `enter`.
        unsafe { ffi::tg_qsbr_synchronize(self.0.as_ptr()) };
    }
}

impl Drop for Qsbr {
    fn drop(&mut self) {
        // SAFETY: 1. made by `Dpdk::qsbr`, freed once; readers borrow it.
        unsafe { ffi::tg_qsbr_free(self.0.as_ptr()) };
    }
}

#[cfg(all(test, feature = "dpdk"))]
mod tests {
    use super::*;
    use crate::cpus;
    use crate::shapes::{Blocks, Stretch};

    #[test]
    fn the_driver_copies_and_its_stop_loses_what_is_in_flight() {
        let all = cpus::allowed();
        let dpdk = match Dpdk::start(all[0], *all.get(1).unwrap_or(&all[0])) {
            Ok(dpdk) => dpdk,
            Err(why) => panic!("the feature is on, so DPDK has to start: {why}"),
        };
        let stretch = Stretch::new(64 << 20).unwrap();
        let pairs = stretch.pairs(4096, Blocks::Cold).unwrap();
        for (ops, burst, window) in [(100, 32, 128), (10, 1, 1)] {
            assert!(dpdk.device().unwrap().run(&pairs, ops, burst, window) >= ops);
        }
        let pairs = stretch.pairs(1 << 20, Blocks::Cold).unwrap();
        let (took, reported) = dpdk.device().unwrap().stop(&pairs).unwrap();
        assert!(took > 0 && reported < 64, "{reported} of 64 reported");
        let mut ring = dpdk.ring(64).unwrap();
        let (mut producer, mut consumer) = ring.sides();
        producer.produce(63, 1);
        assert_eq!(consumer.consume(63, 32), 62 * 63 / 2);
    }
}
