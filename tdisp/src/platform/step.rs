//! What an unbind is made of.

use core::fmt;

/// One step of taking a TDI down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// TDISP STOP_INTERFACE, sent through the firmware.
    StopInterface,
    /// Remove the TDI's MMIO from the trust domain's private page tables.
    PrivateMmioUnmap,
    /// Block, invalidate and remove the trusted DMA context of the TDI.
    TrustedContextCleanup,
    /// Turn the trusted DMA context off (CCA: the SMMU's stream table entry, inside VDEV_UNLOCK).
    TrustedContextOff,
    /// Free the firmware's metadata of the TDI and give its pages back.
    Reclaim,
    /// The same on CCA: VDEV_DESTROY, undelegate.
    Destroy,
    /// GET_DEVICE_INTERFACE_STATE says CONFIG_UNLOCKED. After the list, on every platform.
    VerifyUnlocked,
    /// The forced path, for a device that does not answer STOP: the IDE stream is blocked, so that nothing of it
    /// passes any more. In no list.
    BlockStream,
}

impl Step {
    /// The name in timelines and machine-readable lines.
    pub const fn name(self) -> &'static str {
        match self {
            Step::StopInterface => "STOP_INTERFACE",
            Step::PrivateMmioUnmap => "private_mmio_unmap",
            Step::TrustedContextCleanup => "trusted_context_cleanup",
            Step::TrustedContextOff => "trusted_context_off",
            Step::Reclaim => "reclaim",
            Step::Destroy => "destroy",
            Step::VerifyUnlocked => "verify_unlocked",
            Step::BlockStream => "block_stream",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
