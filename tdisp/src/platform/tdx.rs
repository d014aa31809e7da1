//! Intel TDX Connect: STOP comes first, because MMIO.UNMAP is refused while the TDI is not CONFIG_UNLOCKED.

use super::Step;

/// What the steps are in SEAMCALLs:
///
/// 1. DEVIF.REQUEST and DEVIF.RESPONSE with STOP_INTERFACE;
/// 2. for each page MMIO.BLOCK, then MEM.TRACK, then MMIO.UNMAP;
/// 3. DMAR.BLOCK from the leaf up, IQINV.REQ and IQINV.PROC until done, DMAR.REMOVE;
/// 4. MMIOMT.REMOVE, DEVIF.REMOVE, DEVIFMT.REMOVE, page reclaim.
///
/// Forced path: IDE.STREAM.BLOCK stands in for "the TDI is CONFIG_UNLOCKED" in every precondition.
pub(super) const STEPS: &[Step] =
    &[Step::StopInterface, Step::PrivateMmioUnmap, Step::TrustedContextCleanup, Step::Reclaim];
