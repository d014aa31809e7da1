//! One queue of the NIC from software's side.

use super::abi::{self, Completion, Descriptor, Opcode, Status};
use crate::backend::Registers;
use crate::engine::{Gone, OpenError, Words};

/// A running queue: its registers, and its two rings in one piece of host memory.
///
/// # Invariants
/// - `posted - consumed <= size`: so a descriptor is never overwritten before the device fetched it (each
///   completion consumed is of a descriptor fetched, and descriptors are fetched in order), and the completion
///   ring never overflows.
/// - `rung <= posted`: the device sees whole descriptors only.
#[derive(Debug)]
pub struct Queue<R, M> {
    bar: R,
    index: u32,
    rings: M,
    size: u32,
    posted: u32,
    rung: u32,
    consumed: u32,
}

/// How far a disable is, see [`Queue::stopped`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Not acknowledged yet.
    NotYet,
    /// Acknowledged: the completions of all accepted descriptors can be polled now; those posted after the first
    /// `accepted` were never looked at and complete never.
    Quiet {
        /// Descriptors accepted since the queue was opened, modulo 2^32.
        accepted: u32,
    },
}

impl<R: Registers, M: Words> Queue<R, M> {
    /// Bytes of ring memory that a queue of `entries` needs.
    pub const fn memory_needed(entries: u32) -> u64 {
        entries as u64 * (abi::DESCRIPTOR_LEN + abi::COMPLETION_LEN) as u64
    }

    /// Takes queue `index` into use. `rings` lies at `address` for the device; its contents are cleared. The
    /// device's other queues are left alone.
    ///
    /// # Errors
    /// See [`OpenError`]; the queue is then as before.
    pub fn open(bar: R, index: u32, rings: M, address: u64, entries: u32) -> Result<Self, OpenError> {
        let needed = Self::memory_needed(entries);
        let possible = entries.is_power_of_two() && (2..=abi::MAX_RING).contains(&entries);
        if !possible || needed > rings.len() {
            let needed = if possible { needed } else { 0 };
            return Err(OpenError::Rings { entries, needed, given: rings.len() });
        }
        expect(&bar, abi::ID, abi::ID_VALUE)?;
        expect(&bar, abi::CAPS, abi::CAPS_VALUE)?;
        let mut queue = Queue { bar, index, rings, size: entries, posted: 0, rung: 0, consumed: 0 };
        let status = queue.register(abi::QUEUE_STATUS);
        if index >= abi::QUEUES || status & abi::QUEUE_STATUS_ENABLED != 0 {
            return Err(OpenError::Queue { queue: index, status });
        }
        queue.start(address);
        match queue.register(abi::QUEUE_STATUS) {
            abi::QUEUE_STATUS_ENABLED => Ok(queue),
            status => Err(OpenError::Queue { queue: index, status }),
        }
    }

    fn start(&mut self, address: u64) {
        for at in (0..Self::memory_needed(self.size)).step_by(8) {
            self.rings.store(at, 0);
        }
        let at = |register| abi::queue(self.index, register);
        self.bar.write32(abi::CONTROL, abi::CONTROL_ENABLE);
        self.bar.write64(at(abi::QUEUE_DESCRIPTORS), address);
        self.bar.write64(at(abi::QUEUE_COMPLETIONS), address + self.completions_at());
        self.bar.write32(at(abi::QUEUE_SIZE), self.size);
        self.bar.write32(at(abi::QUEUE_CONTROL), abi::QUEUE_CONTROL_ENABLE);
    }

    /// Entries of each ring.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Descriptors that may be posted before a completion must be consumed.
    pub fn room(&self) -> u32 {
        self.size - self.posted.wrapping_sub(self.consumed)
    }

    /// Writes a descriptor; the device does not look before [`Queue::ring`]. False: no room. No syscall.
    #[must_use]
    pub fn post(&mut self, descriptor: &Descriptor) -> bool {
        if self.room() == 0 {
            return false;
        }
        let slot = u64::from(self.posted & (self.size - 1)) * abi::DESCRIPTOR_LEN as u64;
        for (word, at) in descriptor.encode().chunks_exact(8).zip((slot..).step_by(8)) {
            self.rings.store(at, word.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)));
        }
        self.posted = self.posted.wrapping_add(1);
        true
    }

    /// Tells the device of everything posted, by one register write; none when nothing is new.
    pub fn ring(&mut self) {
        if self.rung != self.posted {
            self.rung = self.posted;
            self.bar.write64(abi::queue(self.index, abi::QUEUE_TAIL), u64::from(self.posted));
        }
    }

    /// The next completion. No register access.
    pub fn poll(&mut self) -> Option<Completion> {
        if self.rung == self.consumed {
            return None;
        }
        let at =
            self.completions_at() + u64::from(self.consumed & (self.size - 1)) * abi::COMPLETION_LEN as u64;
        // The phase first: the rest of the entry is whole once it turned.
        let last = self.rings.load(at + abi::COMPLETION_PHASE as u64);
        let lap_is_even = self.consumed & self.size == 0;
        if (last & 1 != 0) != lap_is_even {
            return None;
        }
        let mut raw = [0; abi::COMPLETION_LEN];
        let words = [self.rings.load(at), self.rings.load(at + 8), self.rings.load(at + 16), last];
        for (into, word) in raw.chunks_exact_mut(8).zip(words) {
            into.copy_from_slice(&word.to_le_bytes());
        }
        self.consumed = self.consumed.wrapping_add(1);
        Some(Completion::decode(&raw))
    }

    /// Asks the device to stop this queue; [`Queue::stopped`] tells when it has. Posting on is pointless.
    pub fn disable(&self) {
        self.bar.write32(abi::queue(self.index, abi::QUEUE_CONTROL), abi::QUEUE_CONTROL_DISABLE);
    }

    /// Has a disable been acknowledged? Two register reads at most; the first pushed the last completions.
    ///
    /// # Errors
    /// [`Gone`]: the device does not answer.
    pub fn stopped(&self) -> Result<Stopped, Gone> {
        match self.register(abi::QUEUE_STATUS) {
            u32::MAX => Err(Gone),
            status if status & abi::QUEUE_STATUS_QUIET == 0 => Ok(Stopped::NotYet),
            _ => match self.register(abi::QUEUE_HEAD) {
                u32::MAX if self.bar.read32(abi::ID) != abi::ID_VALUE => Err(Gone),
                accepted => Ok(Stopped::Quiet { accepted }),
            },
        }
    }

    /// The read-back that pushes earlier writes to `address` and brings its last bytes, for [`Queue::post`].
    pub fn readback(address: u64, len: u32, index: u32) -> Descriptor {
        Descriptor { address, target: 0, len, index, opcode: Opcode::Readback as u8 }
    }

    /// Does the completion of a read-back prove that the bytes before it arrived? `wrote` is the tail of what
    /// was written last to the same place. All-ones and zero prove nothing: a dead mapping reads so.
    pub fn proves(wrote: u64, read: &Completion) -> bool {
        read.status == Status::Done as u8 && read.tail == wrote && wrote != u64::MAX && wrote != 0
    }

    /// Gives the parts back. The queue should be stopped: the device may still write to the rings.
    pub fn into_parts(self) -> (R, M) {
        (self.bar, self.rings)
    }

    fn completions_at(&self) -> u64 {
        u64::from(self.size) * abi::DESCRIPTOR_LEN as u64
    }

    fn register(&self, register: u64) -> u32 {
        self.bar.read32(abi::queue(self.index, register))
    }
}

fn expect(bar: &impl Registers, at: u64, expected: u32) -> Result<(), OpenError> {
    match bar.read32(at) {
        found if found == expected => Ok(()),
        u32::MAX => Err(OpenError::Gone { at }),
        found => Err(OpenError::Identity { at, found, expected }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Function, Rights, Space};
    use crate::engine::testing::FileWords;
    use crate::pci::PciAddress;
    use crate::soft::{AddressSpace, Bar, FaultKind, OpenFunction, Soft, anonymous_file};
    use std::os::fd::AsFd;

    const NIC: PciAddress = PciAddress { segment: 0, bus: 1, device: 0, function: 0 };
    const HOST: u64 = 0x10_0000;
    const RINGS: u64 = 0x8_0000;

    struct Lab {
        queue: Queue<Bar, FileWords>,
        nic: OpenFunction,
        _space: AddressSpace,
        soft: Soft,
    }

    fn lab(seed: u64, entries: u32) -> Lab {
        let soft = Soft::builder(seed).nic(NIC).build().unwrap();
        let (nic, space) = (soft.open(NIC).unwrap(), soft.space().unwrap());
        let host = anonymous_file(0x10_0000).unwrap();
        space.map_memory(HOST, host.as_fd(), 0, 0x10_0000, Rights::ReadWrite).unwrap();
        let rings = anonymous_file(0x1000).unwrap();
        space.map_memory(HOST + (1 << 30), rings.as_fd(), 0, 0x1000, Rights::ReadWrite).unwrap();
        nic.attach(&space).unwrap();
        nic.config_write(4, 2, 6).unwrap();
        let queue = Queue::open(nic.map_bar(0).unwrap(), 0, FileWords(rings), HOST + (1 << 30), entries);
        Lab { queue: queue.unwrap(), nic, _space: space, soft }
    }

    fn receive(index: u32) -> Descriptor {
        Descriptor { address: HOST, target: 0, len: 64, index, opcode: Opcode::Receive as u8 }
    }

    #[test]
    fn every_descriptor_completes_once_over_many_laps() {
        let mut lab = lab(1, 8);
        let (mut next, mut seen) = (0_u32, Vec::new());
        while seen.len() < 500 {
            while next < 500 && lab.queue.post(&Queue::<Bar, FileWords>::readback(HOST, 8, next)) {
                next += 1;
            }
            lab.queue.ring();
            lab.soft.step();
            seen.extend(std::iter::from_fn(|| lab.queue.poll()).map(|c| c.index));
        }
        assert!(!seen.is_sorted());
        seen.sort_unstable();
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
        assert_eq!((lab.queue.room(), lab.queue.poll()), (8, None));
    }

    #[test]
    fn a_full_ring_refuses_and_an_unrung_one_does_nothing() {
        let mut lab = lab(2, 2);
        assert!(lab.queue.post(&receive(0)) && lab.queue.post(&receive(1)));
        assert!(!lab.queue.post(&receive(2)));
        assert_eq!(lab.soft.run_until_idle(100), 0, "nothing was rung");
        lab.queue.ring();
        assert!(lab.soft.run_until_idle(100) > 0);
    }

    #[test]
    fn a_completion_that_nobody_asked_for_is_not_taken() {
        let mut lab = lab(6, 4);
        let fake = Completion { index: 0, len: 0, tail: 0, status: 0, phase: true };
        let at = lab.queue.completions_at();
        let word = |n: usize| u64::from_le_bytes(fake.encode()[n..n + 8].try_into().unwrap());
        lab.queue.rings.store(at + 24, word(24));
        assert_eq!(lab.queue.poll(), None);
    }

    #[test]
    fn a_disabled_queue_tells_what_it_accepted_and_completes_that() {
        let mut lab = lab(3, 8);
        (0..3).for_each(|n| assert!(lab.queue.post(&receive(n))));
        lab.queue.ring();
        lab.soft.run_until_idle(1000);
        (3..5).for_each(|n| assert!(lab.queue.post(&receive(n))));
        lab.queue.disable();
        lab.queue.ring();
        assert_eq!(lab.queue.stopped(), Ok(Stopped::NotYet));
        lab.soft.run_until_idle(1000);
        assert_eq!(lab.queue.stopped(), Ok(Stopped::Quiet { accepted: 3 }));
        let ends: Vec<_> = std::iter::from_fn(|| lab.queue.poll()).map(|c| (c.index < 3, c.status)).collect();
        assert_eq!(ends, [(true, Status::Aborted as u8); 3]);
        let (bar, rings) = lab.queue.into_parts();
        assert!(Queue::open(bar, 0, rings, HOST + (1 << 30), 4).is_ok());
    }

    #[test]
    fn a_dead_device_is_gone() {
        let lab = lab(4, 8);
        lab.soft.misbehave(NIC, FaultKind::Dead);
        assert_eq!(lab.queue.stopped(), Err(Gone));
        let rings = FileWords(anonymous_file(RINGS).unwrap());
        let open = Queue::open(lab.nic.map_bar(0).unwrap(), 1, rings, HOST, 8);
        assert_eq!(open.err(), Some(OpenError::Gone { at: abi::ID }));
    }

    #[test]
    fn queues_that_cannot_be_are_refused() {
        let lab = lab(5, 8);
        let open = |index, entries, bytes| {
            let rings = FileWords(anonymous_file(bytes).unwrap());
            Queue::open(lab.nic.map_bar(0).unwrap(), index, rings, HOST, entries).err()
        };
        let status = abi::QUEUE_STATUS_ENABLED;
        assert_eq!(open(0, 8, RINGS), Some(OpenError::Queue { queue: 0, status }));
        assert_eq!(open(abi::QUEUES, 8, RINGS), Some(OpenError::Queue { queue: 4, status: 0 }));
        assert_eq!(open(1, 8, 511), Some(OpenError::Rings { entries: 8, needed: 512, given: 511 }));
        for entries in [0, 1, 3, abi::MAX_RING * 2] {
            assert_eq!(open(1, entries, RINGS), Some(OpenError::Rings { entries, needed: 0, given: RINGS }));
        }
        assert_eq!(open(1, 8, RINGS), None);
    }

    #[test]
    fn only_a_matching_readback_proves_anything() {
        let read = |tail, status| Completion { index: 0, len: 8, tail, status: status as u8, phase: true };
        let proves = |wrote, tail, status| Queue::<Bar, FileWords>::proves(wrote, &read(tail, status));
        assert!(proves(5, 5, Status::Done));
        assert!(!proves(5, 6, Status::Done) && !proves(5, 5, Status::Aborted));
        assert!(!proves(u64::MAX, u64::MAX, Status::Done) && !proves(0, 0, Status::Done));
    }
}
