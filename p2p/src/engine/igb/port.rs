//! A queue's registers.

use super::registers as reg;
use super::ring::Ring;
use super::{CHECK, Igb};
use crate::backend::Registers;
use std::sync::atomic::{Ordering, fence};

/// The registers of one queue: of both its rings if it is queue 0, else of the one that sends.
pub(super) struct Port<R> {
    bar: R,
    queue: u32,
}

impl<R: Registers> Port<R> {
    pub(super) fn new(bar: R, queue: u32) -> Port<R> {
        Port { bar, queue }
    }

    pub(super) fn receives(&self) -> bool {
        self.queue == 0
    }

    /// Switches the rings on, from their first descriptor. `base`: where the rings' memory is for the device.
    pub(super) fn switch_on(&self, config: &Igb, base: u64, receive: Option<&Ring>, transmit: &Ring) {
        let on = reg::CONTROL_ENABLE | reg::CONTROL_THRESHOLDS;
        if let Some(ring) = receive {
            self.program(reg::receive, base, ring);
            let kind = if config.header > 0 { reg::SPLIT_ALWAYS } else { reg::ONE_BUFFER };
            let header = (config.header / reg::HEADER_UNIT) << reg::HEADER;
            let buffer = config.frames.div_ceil(reg::BUFFER_UNIT);
            self.bar.write32(reg::receive(self.queue, reg::SPLIT), kind | header | buffer);
            self.bar.write32(reg::RLPML, config.frames + CHECK);
            self.bar.write32(reg::receive(self.queue, reg::CONTROL), on);
        }
        self.program(reg::transmit, base, transmit);
        self.bar.write32(reg::transmit(self.queue, reg::HEAD_LOW), 0);
        self.bar.write32(reg::transmit(self.queue, reg::HEAD_HIGH), 0);
        self.bar.write32(reg::transmit(self.queue, reg::CONTROL), on);
    }

    fn program(&self, register: fn(u32, u64) -> u64, base: u64, ring: &Ring) {
        let write = |offset, value| self.bar.write32(register(self.queue, offset), value);
        let base = base + ring.start();
        write(reg::BASE_LOW, base as u32);
        write(reg::BASE_HIGH, (base >> 32) as u32);
        write(reg::LENGTH, Ring::bytes(ring.entries()) as u32);
        write(reg::HEAD, 0);
        write(reg::TAIL, 0);
        write(reg::ORDER, 0);
    }

    pub(super) fn switch_off(&self) {
        if self.receives() {
            self.bar.write32(reg::receive(self.queue, reg::CONTROL), 0);
        }
        self.bar.write32(reg::transmit(self.queue, reg::CONTROL), 0);
    }

    /// The control registers of its rings; all-ones: the device is gone.
    fn controls(&self) -> impl Iterator<Item = u32> + '_ {
        let receive = self.receives().then(|| reg::receive(self.queue, reg::CONTROL));
        let all = receive.into_iter().chain([reg::transmit(self.queue, reg::CONTROL)]);
        all.map(|at| self.bar.read32(at))
    }

    pub(super) fn is_on(&self) -> bool {
        self.controls().all(|control| control != u32::MAX && control & reg::CONTROL_ENABLE != 0)
    }

    /// Do its rings rest? `None`: the device is gone.
    pub(super) fn is_off(&self, transmit: &Ring) -> Option<bool> {
        let (mut off, mut gone) = (true, false);
        for control in self.controls() {
            off &= control & reg::CONTROL_ENABLE == 0;
            gone |= control == u32::MAX;
        }
        let length = self.bar.read32(reg::transmit(self.queue, reg::LENGTH));
        // A reset leaves queue 0 on, with rings of no length.
        let forgotten = u64::from(length) != Ring::bytes(transmit.entries());
        (!gone && length != u32::MAX).then_some(off || forgotten)
    }

    /// Tells the device of all descriptors before `tail`. They are there before it hears of them.
    #[inline]
    pub(super) fn tell(&self, register: fn(u32, u64) -> u64, tail: u32) {
        fence(Ordering::Release);
        self.bar.write32(register(self.queue, reg::TAIL), tail);
    }

    /// Reads a register, which pushes the device's writes to the root complex. False: the device is gone.
    pub(super) fn push(&self) -> bool {
        self.bar.read32(reg::STATUS) != u32::MAX
    }

    /// Was the function set up, and not reset since?
    pub(super) fn is_set_up(&self) -> bool {
        super::mac::is_set_up(&self.bar)
    }
}
