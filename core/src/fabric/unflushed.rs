//! Windows with posted writes of a channel that is gone: its queue could not be asked whether they arrived.

use super::Shared;
use crate::channel::Erased;
use crate::drain::{DeviceId, Gate};
use crate::engine::Target;
use crate::region::slot::word;
use crate::sync::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// By slot, and the device whose writes they are. Not the models' lock: nothing waits inside it, and nothing is ordered by
/// it that the owner word does not order.
#[derive(Debug, Default)]
pub(super) struct Unflushed(Mutex<Vec<(u32, Option<DeviceId>)>>);

impl Unflushed {
    fn lock(&self) -> MutexGuard<'_, Vec<(u32, Option<DeviceId>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// A channel is about to be closed. `tried`: the windows that were to be flushed; `failed`: those of them for which
    /// nothing proves that its writes arrived. Whoever revokes such a window must not call it clean.
    pub(crate) fn leave_unflushed(&self, channel: &dyn Erased, tried: &[Target], mut failed: Vec<u32>) {
        match channel.names().dirty() {
            Some(dirty) => failed.extend(dirty),
            // More than it remembers: any window of its domain.
            None => {
                let reached = |region: &u32| {
                    let seen = self.table.of(*region).word.load(Ordering::Relaxed);
                    seen & word::DOMAIN == channel.meta().domain
                };
                let all = self.table.windows().into_iter().filter(reached);
                failed.extend(all.filter(|region| tried.iter().all(|window| window.region != *region)));
            }
        }
        if failed.is_empty() {
            return;
        }
        failed.sort_unstable();
        failed.dedup();
        let device = channel.meta().gate.as_ref().map(Gate::device);
        self.unflushed.lock().extend(failed.into_iter().map(|window| (window, device)));
    }

    /// Is a write to this window perhaps still on its way, of a channel that is closed?
    pub(crate) fn was_left_unflushed(&self, window: u32) -> bool {
        self.unflushed.lock().iter().any(|(left, _)| *left == window)
    }

    /// The slots are about to be others'.
    pub(super) fn forget_unflushed(&self, slots: &[u32]) {
        let mut all = self.unflushed.lock();
        if !all.is_empty() {
            all.retain(|(window, _)| !slots.contains(window));
        }
    }

    /// The device was proved stopped: what it had written has arrived, or never will.
    pub(super) fn forget_unflushed_of(&self, device: &Gate) {
        self.unflushed.lock().retain(|(_, of)| *of != Some(device.device()));
    }
}
