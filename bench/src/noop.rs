//! An engine that does nothing, as fast as possible.
#![expect(unsafe_code, reason = "implements Engine; it touches no memory but its own")]

use tidegate_core::engine::{AddressSpace, Cancel, Engine, Operation, Outcome, Push, Sink};

/// Completes everything at the next poll, in order, and touches no operand. What remains is the fabric's own cost.
#[derive(Debug)]
pub struct NoOp {
    ring: [(u32, u64); 256],
    pushed: u32,
    rung: u32,
    retired: u32,
}

impl Default for NoOp {
    fn default() -> Self {
        NoOp { ring: [(0, 0); 256], pushed: 0, rung: 0, retired: 0 }
    }
}

// SAFETY: 1. no descriptor leaves the process. 2. nothing runs in the background. 3. nothing is left running.
unsafe impl Engine for NoOp {
    const SPACE: AddressSpace = AddressSpace::Cpu;
    const CONFIRMS: bool = false;

    fn depth(&self) -> u32 {
        255
    }

    #[inline(always)]
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        let address = match op {
            Operation::Copy { from, to } => from.address ^ to.address,
            _ => 0,
        };
        self.ring[(self.pushed & 255) as usize] = (index, address);
        self.pushed = self.pushed.wrapping_add(1);
        Push::Taken
    }

    #[inline(always)]
    fn doorbell(&mut self) {
        self.rung = self.pushed;
    }

    #[inline(always)]
    fn retire(&mut self, sink: &mut Sink<'_>) {
        while self.retired != self.rung && sink.room() > 0 {
            let (index, _) = self.ring[(self.retired & 255) as usize];
            self.retired = self.retired.wrapping_add(1);
            sink.complete(index, Outcome::Done, 64);
        }
    }

    fn cancel(&mut self) -> Cancel {
        self.rung = self.retired;
        self.pushed = self.retired;
        Cancel::Stopped
    }

    fn resume(&mut self) -> bool {
        true
    }
}
