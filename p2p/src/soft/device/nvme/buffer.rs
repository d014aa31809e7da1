//! The controller memory buffer: CMBLOC, CMBSZ, CMBMSC, CMBSTS, and what lies in it.

use super::super::OwnMemory;
use super::Nvme;
use super::spec::{PAGE, reg};

/// What CMBSZ says it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Data both ways, and submission queues: what QEMU's takes.
    Submissions,
    /// Completion queues as well.
    Queues,
    /// Data only.
    Data,
}

impl Takes {
    fn bits(self) -> u32 {
        match self {
            Takes::Data => 0x18,
            Takes::Submissions => 0x19,
            Takes::Queues => 0x1b,
        }
    }
}

/// The buffer's registers, and its bytes.
#[derive(Debug)]
pub(super) struct Buffer {
    /// 0: there is none.
    pub(super) len: u64,
    pub(super) takes: Takes,
    /// As before NVMe 1.4: at its BAR's address, always.
    pub(super) fixed: bool,
    pub(super) memory: Option<OwnMemory>,
    control: u64,
}

impl Buffer {
    pub(super) fn none() -> Buffer {
        Buffer { len: 0, takes: Takes::Submissions, fixed: false, memory: None, control: 0 }
    }

    /// CAP.CMBS.
    pub(super) fn is_told(&self) -> bool {
        self.len > 0 && !self.fixed
    }

    /// CMBMSC.
    pub(super) fn control(&self) -> u64 {
        if self.is_told() { self.control } else { 0 }
    }

    pub(super) fn set_control(&mut self, value: u64) {
        self.control = value;
    }

    pub(super) fn read32(&self, at: u64) -> u32 {
        let shown = self.len > 0 && (self.fixed || self.control & 1 != 0);
        match at {
            // No offset, BAR 2.
            reg::CMBLOC if shown => 2,
            // Units of 4 KiB.
            reg::CMBSZ if shown => ((self.len >> 12) as u32) << 12 | self.takes.bits(),
            reg::CMBSTS => u32::from(self.is_told() && self.control & 2 != 0 && !self.is_placed()),
            _ => 0,
        }
    }

    /// CMBMSC.CBA: the range may not wrap.
    fn is_placed(&self) -> bool {
        (self.control & !(PAGE - 1)).checked_add(self.len).is_some()
    }

    /// Does the controller find this in the buffer, and where?
    pub(super) fn own(&self, address: u64, len: u64) -> Option<(OwnMemory, u64)> {
        let at = address.checked_sub(self.control() & !(PAGE - 1))?;
        let on = self.control() & 3 == 3 && self.is_placed() && at.checked_add(len)? <= self.len;
        self.memory.clone().filter(|_| on).map(|memory| (memory, at))
    }

    /// May a queue of so many bytes be there? One that reaches into the buffer lies in it whole (CQMMS is 0), and is of a kind
    /// that the buffer takes.
    pub(super) fn may_hold(&self, base: u64, len: u64, completions: bool) -> bool {
        let takes = if completions { 2 } else { 1 };
        let (whole, first) = (self.own(base, len).is_some(), self.own(base, 1).is_some());
        let last = base.checked_add(len - 1).is_some_and(|last| self.own(last, 1).is_some());
        if whole { self.takes.bits() & takes != 0 } else { !first && !last }
    }
}

impl Nvme {
    /// With a controller memory buffer of so many bytes (a power of two) in BAR 2, which takes data and submission queues.
    pub fn buffer(mut self, bytes: u64) -> Nvme {
        self.buffer.len = bytes;
        self
    }

    /// Whose buffer takes this.
    pub fn buffer_takes(mut self, takes: Takes) -> Nvme {
        self.buffer.takes = takes;
        self
    }

    /// Whose buffer has no CMBMSC, as before NVMe 1.4. What it would answer at its BAR's address is not modelled.
    pub fn fixed_buffer(mut self) -> Nvme {
        self.buffer.fixed = true;
        self
    }
}
