//! The device as tdisp's coordinator sees it.

use super::{Device, lock};
use crate::backend::{Backend, Function};
use std::sync::Arc;
use tidegate_core::tdi::{
    BarSizes, Event, Host, HostError, Observer, TagError, TaggedRange, TdiState, TrustDomain,
};
use tidegate_core::{Gate, Quiesced};

impl<B: Backend> Host for Device<B> {
    fn gate(&self) -> &Gate {
        &self.0.gate
    }

    fn function_id(&self) -> u32 {
        // Bit 24: the segment is valid (PCIe TDISP, FUNCTION_ID).
        u32::from(self.0.at.requester_id()) | (u32::from(self.0.at.segment) & 0xff) << 16 | 1 << 24
    }

    fn bars(&self) -> BarSizes {
        self.0.function.bars()
    }

    fn host_page(&self) -> u64 {
        self.0.domain.0.backend.page_size()
    }

    fn in_flight(&self) -> u64 {
        self.0.gate.in_flight()
    }

    fn set_state(&self, state: TdiState, domain: Option<TrustDomain>) {
        let mut trust = lock(&self.0.trust);
        trust.state = state;
        trust.domain = domain;
        if state == TdiState::Unlocked {
            trust.tags.clear();
        }
    }

    fn state(&self) -> TdiState {
        self.trust().0
    }

    fn set_tags(&self, ranges: &[TaggedRange]) -> Result<(), TagError> {
        let bars = self.bars();
        for (i, one) in ranges.iter().enumerate() {
            let size = bars.get(usize::from(one.bar)).copied().unwrap_or(0);
            if one.range.start >= one.range.end || one.range.end > size {
                return Err(TagError::OutsideBar { bar: one.bar, range: one.range.clone(), size });
            }
            let overlaps = |other: &&TaggedRange| {
                other.bar == one.bar && other.range.start < one.range.end && one.range.start < other.range.end
            };
            if let Some(other) = ranges.iter().take(i).find(overlaps) {
                return Err(TagError::Overlap { bar: one.bar, at: one.range.start.max(other.range.start) });
            }
        }
        lock(&self.0.trust).tags = ranges.to_vec();
        Ok(())
    }

    fn observe(&self, observer: Option<Arc<dyn Observer>>) {
        *lock(&self.0.observer) = observer;
    }

    fn reset(&self, q: &Quiesced) -> Result<Event, HostError> {
        if !q.is_for(&self.0.gate) {
            return Err(HostError::Foreign);
        }
        self.reset_now()
    }
}
