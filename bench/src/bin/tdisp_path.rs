//! TDISP's answer path as functions of their own, so that their instructions can be counted (ci/icount).
#![expect(unsafe_code, reason = "unmangled names, for the listing")]

use std::hint::black_box;
use tidegate_tdisp::wire::{FunctionId, Head, LockFlags, LockRequest, Request, Version};

/// How often the function is called, so that the first call does not count.
const ROUNDS: u64 = 1000;

/// A LOCK_INTERFACE_REQUEST from bytes to what a device may honour: type, length, version and flags are checked.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_lock(
    message: &[u8],
    supported: LockFlags,
) -> Option<(FunctionId, LockRequest)> {
    let Ok((head, Request::Lock(lock))) = Request::parse(message) else { return None };
    let lock = lock.honoured(supported).ok().filter(|_| head.version == Version::V1_0)?;
    Some((head.interface.function, lock))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (flags, head) = (LockFlags::NO_FW_UPDATE | LockFlags::LOCK_MSIX, Head::v1_0(FunctionId::new(0x100)));
    let lock = LockRequest { flags, stream: 3, reporting_offset: -0x1000, p2p_address_mask: 0 };
    let mut message = [0; 36];
    lock.emit(head, &mut message)?;
    for _ in 0..ROUNDS {
        let parsed = tidegate_hot_lock(black_box(&message), LockFlags::all());
        assert_eq!(parsed, Some((head.interface.function, lock)));
    }
    Ok(())
}
