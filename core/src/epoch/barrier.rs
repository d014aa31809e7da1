//! The asymmetric barrier: sections pay a compiler fence, revokers pay `membarrier(2)`; or both pay a fence.
#![expect(unsafe_code, reason = "membarrier has no wrapper in libc; exercised by every membarrier test")]

/// What the builder may choose; see [`crate::FabricBuilder::barrier`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BarrierMode {
    /// `membarrier(PRIVATE_EXPEDITED)` where the kernel offers it, else fences.
    #[default]
    Auto,
    /// Fences only (some 5 ns a section): for isolated cores that no inter-processor interrupt may reach.
    Never,
}

/// How a fabric's sections and revokers order against each other; fixed before the first slot is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// The revoker's membarrier stands for a fence in every running thread of the process.
    #[cfg_attr(loom, expect(dead_code, reason = "loom has no membarrier"))]
    Membarrier,
    /// Every section has a SeqCst fence of its own.
    Fence,
}

#[cfg(not(loom))]
const REGISTER_PRIVATE_EXPEDITED: libc::c_long = 16;
#[cfg(not(loom))]
const PRIVATE_EXPEDITED: libc::c_long = 8;

#[cfg(not(loom))]
fn membarrier(command: libc::c_long) -> bool {
    // SAFETY: 1. the call takes three integers and touches no memory of ours (kernel/sched/membarrier.c).
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

impl Barrier {
    /// Registers the process for expedited membarriers, once per fabric; falls back to fences.
    pub(crate) fn choose(mode: BarrierMode) -> Barrier {
        #[cfg(not(loom))]
        if mode == BarrierMode::Auto && membarrier(REGISTER_PRIVATE_EXPEDITED) {
            return Barrier::Membarrier;
        }
        let _ = mode;
        Barrier::Fence
    }

    /// Must sections fence?
    pub(crate) fn needs_fence(self) -> bool {
        self == Barrier::Fence
    }

    /// Makes every thread of the process pass a full barrier. False if the kernel refused: then a slot seen idle
    /// proves nothing.
    pub(crate) fn heavy(self) -> bool {
        match self {
            #[cfg(not(loom))]
            Barrier::Membarrier => membarrier(PRIVATE_EXPEDITED),
            #[cfg(loom)]
            Barrier::Membarrier => false,
            // The fence after the bump already stands against the fence of every section.
            Barrier::Fence => true,
        }
    }
}
