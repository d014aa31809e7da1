//! Moving bytes with the device: into its buffer, and out of it.

use super::abi;
use crate::backend::Registers;
use crate::engine::{Gone, OpenError};

/// A copy between two device addresses, of any length; the device does it in pieces of 4096 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Source, as the device sees it.
    pub from: u64,
    /// Destination, as the device sees it. `None`: the bytes stay in the device's buffer. Such a read pushes the
    /// device's earlier writes to the same peer, and proves nothing about what it read.
    pub to: Option<u64>,
    /// Bytes.
    pub len: u64,
}

/// How far the move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// None was started, or the last one's end was reported.
    Idle,
    /// Under way.
    Busy,
    /// At its end, told once: the device says so. Writes to a peer may still be on their way.
    Done,
}

/// The device, one move at a time.
#[derive(Debug)]
pub struct Mover<R> {
    bar: R,
    work: Option<Work>,
}

#[derive(Debug)]
struct Work {
    job: Move,
    done: u64,
    leg: Leg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leg {
    /// Into the buffer.
    In,
    /// Out of the buffer.
    Out,
}

impl<R: Registers> Mover<R> {
    /// Takes the device into use, after a look at its identity and its liveness register.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(bar: R) -> Result<Mover<R>, OpenError> {
        for (at, expected) in [(abi::ID, abi::ID_VALUE), (abi::LIVENESS, !0x7469_6465)] {
            if at == abi::LIVENESS {
                bar.write32(at, !expected);
            }
            match bar.read32(at) {
                found if found == expected => {}
                u32::MAX => return Err(OpenError::Gone { at }),
                found => return Err(OpenError::Identity { at, found, expected }),
            }
        }
        Ok(Mover { bar, work: None })
    }

    /// Starts a move. False: one is under way. Five register accesses.
    #[must_use]
    pub fn start(&mut self, job: Move) -> bool {
        if self.work.is_some() {
            return false;
        }
        let work = Work { job, done: 0, leg: Leg::In };
        if job.len > 0 {
            self.go(&work);
        }
        self.work = Some(work);
        true
    }

    /// Looks how far the move is, and starts its next piece. One register read, five accesses at most.
    ///
    /// # Errors
    /// [`Gone`]: the device does not answer; the move stays under way.
    pub fn poll(&mut self) -> Result<Moved, Gone> {
        let Some(work) = &mut self.work else { return Ok(Moved::Idle) };
        if work.job.len > 0 {
            match self.bar.read64(abi::DMA_COMMAND) {
                u64::MAX => return Err(Gone),
                command if command & abi::COMMAND_RUN != 0 => return Ok(Moved::Busy),
                _ => work.finish_leg(),
            }
        }
        if work.done >= work.job.len {
            self.work = None;
            return Ok(Moved::Done);
        }
        if let Some(work) = &self.work {
            self.go(work);
        }
        Ok(Moved::Busy)
    }

    /// Gives up a move at the end of the piece that is under way: the device cannot be interrupted. True once the
    /// device is at rest.
    ///
    /// # Errors
    /// [`Gone`]: the device does not answer.
    pub fn cancel(&mut self) -> Result<bool, Gone> {
        match self.bar.read64(abi::DMA_COMMAND) {
            u64::MAX => Err(Gone),
            command if command & abi::COMMAND_RUN != 0 => Ok(false),
            _ => {
                self.work = None;
                Ok(true)
            }
        }
    }

    fn go(&self, work: &Work) {
        let (source, target, command) = match (work.leg, work.job.to) {
            (Leg::Out, Some(to)) => (abi::BUFFER, to.wrapping_add(work.done), abi::COMMAND_TO_HOST),
            _ => (work.job.from.wrapping_add(work.done), abi::BUFFER, 0),
        };
        self.bar.write64(abi::DMA_SOURCE, source);
        self.bar.write64(abi::DMA_TARGET, target);
        self.bar.write64(abi::DMA_COUNT, work.piece());
        self.bar.write64(abi::DMA_COMMAND, command | abi::COMMAND_RUN);
    }
}

impl Work {
    fn piece(&self) -> u64 {
        (self.job.len - self.done).min(abi::BUFFER_LEN)
    }

    fn finish_leg(&mut self) {
        if self.leg == Leg::In && self.job.to.is_some() {
            self.leg = Leg::Out;
        } else {
            self.done += self.piece();
            self.leg = Leg::In;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Function, Rights, Space};
    use crate::pci::PciAddress;
    use crate::soft::{AddressSpace, Bar, FaultKind, OpenFunction, Soft, anonymous_file};
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    const EDU: PciAddress = PciAddress { segment: 0, bus: 3, device: 0, function: 0 };
    const HOST: u64 = 0x10_0000;

    fn lab(seed: u64) -> (Mover<Bar>, File, Soft, OpenFunction, AddressSpace) {
        let soft = Soft::builder(seed).edu(EDU).build().unwrap();
        let (edu, space) = (soft.open(EDU).unwrap(), soft.space().unwrap());
        let host = anonymous_file(0x10_0000).unwrap();
        space.map_memory(HOST, host.as_fd(), 0, 0x10_0000, Rights::ReadWrite).unwrap();
        edu.attach(&space).unwrap();
        edu.config_write(4, 2, 6).unwrap();
        (Mover::open(edu.map_bar(0).unwrap()).unwrap(), host, soft, edu, space)
    }

    fn finish(mover: &mut Mover<Bar>, soft: &Soft) {
        while mover.poll() == Ok(Moved::Busy) {
            assert!(soft.step() || mover.poll() != Ok(Moved::Busy));
        }
        soft.run_until_idle(100);
    }

    #[test]
    fn long_moves_go_in_pieces() {
        let (mut mover, host, soft, _edu, _space) = lab(1);
        let data: Vec<u8> = (0..10_000_u32).map(|n| (n / 3) as u8).collect();
        host.write_all_at(&data, 0).unwrap();
        assert!(mover.start(Move { from: HOST, to: Some(HOST + 0x8_0000), len: 10_000 }));
        assert!(!mover.start(Move { from: HOST, to: None, len: 8 }), "one at a time");
        let mut ends = 0;
        for _ in 0..1000 {
            soft.step();
            ends += u32::from(mover.poll() == Ok(Moved::Done));
        }
        let mut got = vec![0; 10_000];
        host.read_exact_at(&mut got, 0x8_0000).unwrap();
        assert_eq!((ends, mover.poll()), (1, Ok(Moved::Idle)));
        assert!(got == data);
    }

    #[test]
    fn a_read_alone_and_an_empty_move_end_too() {
        let (mut mover, _host, soft, _edu, _space) = lab(2);
        for job in [Move { from: HOST, to: None, len: 8 }, Move { from: HOST, to: Some(HOST), len: 0 }] {
            assert!(mover.start(job));
            finish(&mut mover, &soft);
            assert_eq!(mover.poll(), Ok(Moved::Idle));
        }
    }

    #[test]
    fn a_cancel_waits_for_the_piece_under_way() {
        let (mut mover, host, soft, _edu, _space) = lab(3);
        host.write_all_at(&[7; 8192], 0).unwrap();
        assert!(mover.start(Move { from: HOST, to: Some(HOST + 0x8_0000), len: 8192 }));
        assert_eq!(mover.cancel(), Ok(false));
        soft.run_until_idle(100);
        assert_eq!((mover.cancel(), mover.poll()), (Ok(true), Ok(Moved::Idle)));
        assert!(mover.start(Move { from: HOST, to: None, len: 8 }));
    }

    #[test]
    fn a_dead_device_is_gone_and_another_is_not_taken() {
        let (mut mover, _host, soft, edu, _space) = lab(4);
        assert!(mover.start(Move { from: HOST, to: None, len: 8 }));
        soft.misbehave(EDU, FaultKind::Dead);
        assert_eq!((mover.poll(), mover.cancel()), (Err(Gone), Err(Gone)));
        let open = Mover::open(edu.map_bar(0).unwrap());
        assert_eq!(open.err(), Some(OpenError::Gone { at: abi::ID }));
        let nic = "0000:01:00.0".parse().unwrap();
        let soft = Soft::builder(4).nic(nic).build().unwrap();
        let open = Mover::open(soft.open(nic).unwrap().map_bar(0).unwrap());
        assert!(matches!(open.err(), Some(OpenError::Identity { at: abi::ID, .. })));
    }
}
