//! Copies by the CPU, in the polling thread.
#![expect(unsafe_code, reason = "copies between regions by address; tests below and ASAN in ci/test")]

use super::{AddressSpace, Cancel, Engine, Operation, Outcome, Push, Sink, Target};
use std::collections::VecDeque;

/// Does copies and fills when the doorbell rings; they complete at the next poll. In order.
///
/// It reaches host memory of every domain. A copy costs a `memmove`; nothing runs in the background.
#[derive(Debug)]
pub struct Cpu {
    queue: VecDeque<(u32, Operation)>,
    done: VecDeque<(u32, u32)>,
    depth: u32,
}

impl Cpu {
    /// At most `depth` operations in flight.
    pub fn new(depth: u32) -> Self {
        let depth = depth.clamp(1, 1 << 16);
        let room = depth as usize + 1;
        Cpu { queue: VecDeque::with_capacity(room), done: VecDeque::with_capacity(room), depth }
    }
}

/// Moves bytes between two regions; they may overlap.
fn copy(from: Target, to: Target) {
    let (src, dst) = (from.address as *const u8, to.address as *mut u8);
    let len = from.len.min(to.len) as usize;
    // SAFETY: 1. `Engine::push` gets targets from the fabric only, checked against a live region under the pin
    // (I1), and the region's memory is not released before this operation is retired (C1, drain). 2. `copy`
    // allows overlap. 3. no Rust reference points into region memory (M1).
    unsafe { std::ptr::copy(src, dst, len) };
}

fn fill(to: Target, pattern: u64) {
    let bytes = pattern.to_le_bytes();
    for i in 0..to.len {
        let byte = bytes[(i % 8) as usize];
        let dst = to.address.wrapping_add(i) as *mut u8;
        // SAFETY: 1. as in `copy`: `i < len` of a checked target.
        unsafe { dst.write(byte) };
    }
}

// SAFETY: 1. only the operands of accepted operations are touched, while they are in flight. 2. there is no device:
// nothing runs after `cancel`. 3. dropping it leaves nothing running.
unsafe impl Engine for Cpu {
    const SPACE: AddressSpace = AddressSpace::Cpu;
    const CONFIRMS: bool = false;

    fn depth(&self) -> u32 {
        self.depth
    }

    #[inline]
    fn push(&mut self, index: u32, op: &Operation) -> Push {
        match op {
            Operation::Copy { .. } | Operation::Fill { .. } | Operation::Fence => {}
            _ => return Push::Unsupported,
        }
        if self.queue.len() + self.done.len() > self.depth as usize {
            return Push::Full;
        }
        self.queue.push_back((index, *op));
        Push::Taken
    }

    fn doorbell(&mut self) {
        while let Some((index, op)) = self.queue.pop_front() {
            let len = match op {
                Operation::Copy { from, to } => {
                    copy(from, to);
                    from.len
                }
                Operation::Fill { to, pattern } => {
                    fill(to, pattern);
                    to.len
                }
                _ => 0,
            };
            self.done.push_back((index, u32::try_from(len).unwrap_or(u32::MAX)));
        }
    }

    #[inline]
    fn retire(&mut self, sink: &mut Sink<'_>) {
        while sink.room() > 0 {
            let Some((index, len)) = self.done.pop_front() else { break };
            sink.complete(index, Outcome::Done, len);
        }
    }

    fn cancel(&mut self) -> Cancel {
        self.queue.clear();
        Cancel::Stopped
    }

    fn resume(&mut self) -> bool {
        true
    }

    fn flush(&mut self, _: &Target) -> super::Flush {
        super::Flush::Flushed
    }
}
