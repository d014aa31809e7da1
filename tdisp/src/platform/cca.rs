//! Arm CCA: the unmap comes first, because VDEV_UNLOCK is refused while a device granule is mapped, and STOP goes
//! through the unlock.

use super::Step;

/// What the steps are in RMI calls:
///
/// 1. RTT_DEV_UNMAP of every range;
/// 2. VDEV_UNLOCK, which turns the SMMU's stream table entry off at once;
/// 3. VDEV_COMMUNICATE: STOP_INTERFACE, then GET_DEVICE_INTERFACE_STATE;
/// 4. VDEV_DESTROY (CONFIG_UNLOCKED and DMA off only), granule undelegate.
///
/// Forced path: VDEV_ABORT and a purge of the stream's keys.
pub(super) const STEPS: &[Step] =
    &[Step::PrivateMmioUnmap, Step::TrustedContextOff, Step::StopInterface, Step::Destroy];
