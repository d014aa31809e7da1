//! The asymmetric barrier: sections pay a compiler fence, revokers pay `membarrier(2)`; or both pay a fence.
#![cfg_attr(
    not(loom),
    expect(unsafe_code, reason = "membarrier has no wrapper in libc; exercised by every membarrier test")
)]

use crate::sync::{Ordering, fence, full_fence};

/// What the builder may choose; see [`crate::FabricBuilder::barrier`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BarrierMode {
    /// `membarrier(PRIVATE_EXPEDITED)` where the kernel offers it, else fences.
    #[default]
    Auto,
    /// Fences only: every section pays one (some 5 ns), no revoke makes a membarrier.
    ///
    /// For cores that nothing may interrupt (`isolcpus`, `nohz_full`, real time): an expedited membarrier sends an
    /// inter-processor interrupt to each CPU that runs a thread of this process at that moment, isolated or not.
    /// It takes a busy poller out for microseconds, in a virtual machine for an exit of each.
    Never,
}

/// How a fabric's sections and revokers order against each other; fixed before the first slot is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// The revoker's membarrier stands for a fence in every running thread of the process.
    #[cfg_attr(loom, allow(dead_code, reason = "only models make it"))]
    Membarrier,
    /// Every section has a SeqCst fence of its own.
    Fence,
    /// Membarrier as a model can say it: a fence in each section stands for the interrupt that the membarrier
    /// causes there, and a fence of the revoker where it calls it; the one after its bump is left out, which in
    /// truth pairs with no section.
    #[cfg(all(test, loom))]
    Modelled,
    /// None at all, and says it had one: what the litmus must catch.
    #[cfg(all(test, not(loom)))]
    Missing,
}

#[cfg(not(loom))]
const REGISTER_PRIVATE_EXPEDITED: libc::c_long = 16;
#[cfg(not(loom))]
const PRIVATE_EXPEDITED: libc::c_long = 8;

#[cfg(not(loom))]
fn membarrier(command: libc::c_long) -> Result<(), i32> {
    // SAFETY: 1. the call takes three integers and touches no memory of ours (kernel/sched/membarrier.c).
    match unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
    }
}

#[cfg(not(loom))]
impl BarrierMode {
    /// Can fabrics of this process have membarriers? Registers the process for them and makes one, as
    /// [`BarrierMode::Auto`] would: two system calls, and an interrupt of each CPU that runs a thread of the process.
    ///
    /// # Errors
    /// The errno: ENOSYS (no CONFIG_MEMBARRIER, or a seccomp filter), EPERM (a seccomp filter). `Auto` uses fences then.
    pub fn probe() -> Result<(), i32> {
        membarrier(REGISTER_PRIVATE_EXPEDITED)?;
        membarrier(PRIVATE_EXPEDITED)
    }
}

impl Barrier {
    /// Registers the process for expedited membarriers, once per fabric; falls back to fences.
    pub(crate) fn choose(mode: BarrierMode) -> Barrier {
        #[cfg(not(loom))]
        if mode == BarrierMode::Auto && membarrier(REGISTER_PRIVATE_EXPEDITED).is_ok() {
            return Barrier::Membarrier;
        }
        let _ = mode;
        Barrier::Fence
    }

    /// Must sections fence?
    pub(crate) fn needs_fence(self) -> bool {
        #[cfg(all(test, not(loom)))]
        if self == Barrier::Missing {
            return false;
        }
        self != Barrier::Membarrier
    }

    /// The fence after a bump: orders marks and bump before the reads of the slots; pairs with `register` and with
    /// fenced sections.
    pub(crate) fn after_bump(self) {
        #[cfg(all(test, loom))]
        if self == Barrier::Modelled {
            return;
        }
        full_fence("no-fence-after-bump");
    }

    /// After the kernel said that a thread is gone: what it did is seen from here on, and so is whoever entered a
    /// section after it. False if the kernel refused.
    pub(crate) fn after_death(self) -> bool {
        fence(Ordering::SeqCst);
        self.heavy()
    }

    /// Makes every thread of the process pass a full barrier. False if the kernel refused: then a slot seen idle
    /// proves nothing.
    pub(crate) fn heavy(self) -> bool {
        match self {
            #[cfg(not(loom))]
            Barrier::Membarrier => membarrier(PRIVATE_EXPEDITED).is_ok(),
            // In models it fails, so that only announced epochs count.
            #[cfg(loom)]
            Barrier::Membarrier => false,
            // The fence after the bump already stands against the fence of every section.
            Barrier::Fence => true,
            #[cfg(all(test, loom))]
            Barrier::Modelled => {
                full_fence("no-barrier");
                true
            }
            #[cfg(all(test, not(loom)))]
            Barrier::Missing => true,
        }
    }
}
