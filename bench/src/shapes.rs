//! What a poller does in its turn, in one place: the driver, the criterion benches and the child builds run these.

use crate::missing::{Missing, Setup, missing};
use crate::peers::memory::Pairs;
use crate::seams;
use crate::{NoOp, stats::Random};
use tidegate_core::engine::Engine;
use tidegate_core::{
    Access, Backing, Channel, ChannelConfig, Completion, Fabric, Handle, Memory, Op, Region, Shared, Submit,
};

/// Largest burst of a turn.
const MOST: usize = 32;

/// A poller's turn on an engine that does nothing: take what completed, submit copies of 64 bytes between two regions
/// (generation, bounds, rights and tags are checked), ring.
#[derive(Debug)]
pub struct Turner {
    channel: Channel<NoOp>,
    from: Handle<Shared>,
    to: Handle<Shared>,
    out: [Completion; MOST],
    _alive: [Region<Shared>; 2],
}

impl Turner {
    /// With two regions and a channel of its own on `fabric`.
    pub fn new(fabric: &Fabric) -> Setup<Turner> {
        let memory = Memory::allocate("bench turner", 8192).map_err(missing)?;
        let region = |range| {
            fabric.register(memory.slice(range).map_err(missing)?, Access::ReadWrite).map_err(missing)
        };
        let (from, to) = (region(0..4096)?, region(4096..8192)?);
        let config = ChannelConfig::depth(128);
        let channel = fabric.channel(&fabric.poller("turner"), NoOp::default(), config).map_err(missing)?;
        Ok(Turner {
            channel,
            from: from.handle(),
            to: to.handle(),
            out: [Completion::EMPTY; MOST],
            _alive: [from, to],
        })
    }

    /// One turn. `burst` is 32 at most; a constant is best.
    #[inline(always)]
    pub fn turn(&mut self, burst: u64) {
        let Ok(mut pinned) = self.channel.pin() else { return };
        pinned.poll(&mut self.out);
        let mut refused = 0;
        for i in 0..burst {
            let at = i * 64;
            let op = Op::copy(self.from.span(at..at + 64), self.to.span(at..at + 64));
            // As a caller looks at it: in registers, not in memory.
            if !matches!(pinned.submit(op), Submit::Queued(_)) {
                refused += 1;
            }
        }
        std::hint::black_box(refused);
    }

    /// `ops` operations in turns of 32.
    pub fn bursts_of_32(&mut self, ops: u64) {
        for _ in 0..ops.div_ceil(32) {
            self.turn(32);
        }
    }

    /// `ops` operations in turns of one.
    pub fn bursts_of_1(&mut self, ops: u64) {
        for _ in 0..ops {
            self.turn(1);
        }
    }

    /// Enters and leaves a section, `n` times.
    pub fn sections(&mut self, n: u64) {
        for _ in 0..n {
            std::hint::black_box(self.channel.pin().is_ok());
        }
    }

    /// The channel.
    pub fn channel(&mut self) -> &mut Channel<NoOp> {
        &mut self.channel
    }
}

/// Which blocks of the two regions a copy takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// Few and in order: they stay in a cache.
    Hot,
    /// At random over all of it.
    Cold,
}

/// Two stretches of memory, and which of their blocks are copied to which.
#[derive(Debug, Clone)]
pub struct Stretch {
    from: Backing,
    to: Backing,
}

impl Stretch {
    /// Each `len` bytes, touched.
    pub fn new(len: u64) -> Setup<Stretch> {
        let make = |name| -> Setup<Backing> { Ok(seams::memory(name, len)?.backing()) };
        Ok(Stretch { from: make("bench from")?, to: make("bench to")? })
    }

    /// Offsets of blocks of `len` bytes: as many as stay in a cache, or all there are, at random.
    pub fn offsets(&self, len: u64, blocks: Blocks) -> Vec<(u64, u64)> {
        let step = len.max(1);
        let all = (self.from.len() / step).max(1) as usize;
        match blocks {
            Blocks::Hot => {
                let few = all.min((128 << 10) / step as usize).clamp(1, 32);
                (0..few as u64).map(|i| (i * len, i * len)).collect()
            }
            Blocks::Cold => {
                let many = all.min(1 << 20);
                let (mut from, mut to) = (Random::new(11), Random::new(12));
                let (from, to) = (from.permutation(all), to.permutation(all));
                from.into_iter().zip(to).take(many).map(|(a, b)| (a as u64 * len, b as u64 * len)).collect()
            }
        }
    }

    /// The source and the destination.
    pub fn backings(&self) -> (&Backing, &Backing) {
        (&self.from, &self.to)
    }

    /// The same blocks for a peer.
    pub fn pairs(&self, len: u64, blocks: Blocks) -> Setup<Pairs> {
        Pairs::new(&self.from, &self.to, len as u32, &self.offsets(len, blocks))
            .ok_or_else(|| Missing::new("blocks outside the memory"))
    }
}

/// Copies through a channel, as a data plane does them.
#[derive(Debug)]
pub struct Copies<E: Engine> {
    fabric: Fabric,
    channel: Channel<E>,
    from: Region<Shared>,
    to: Region<Shared>,
    out: [Completion; MOST],
    next: usize,
}

impl<E: Engine> Copies<E> {
    /// On a fabric of its own, over `stretch`, at most `depth` in flight.
    pub fn new(engine: E, depth: u32, stretch: &Stretch) -> Setup<Copies<E>> {
        let fabric = Fabric::builder().build().map_err(missing)?;
        let from = fabric.register(stretch.from.clone(), Access::Read).map_err(missing)?;
        let to = fabric.register(stretch.to.clone(), Access::ReadWrite).map_err(missing)?;
        let config = ChannelConfig::depth(depth);
        let channel = fabric.channel(&fabric.poller("copies"), engine, config).map_err(missing)?;
        Ok(Copies { fabric, channel, from, to, out: [Completion::EMPTY; MOST], next: 0 })
    }

    /// `ops` copies of `len` bytes at `offsets`, `burst` a doorbell, at most `window` in flight; returns when all
    /// are complete.
    pub fn run(&mut self, offsets: &[(u64, u64)], len: u64, ops: u64, burst: u32, window: u32) {
        let (from, to) = (self.from.handle(), self.to.handle());
        let (burst, window) = (u64::from(burst), u64::from(window));
        let (mut sent, mut done) = (0, 0);
        while sent < ops || done < sent {
            let Ok(mut pinned) = self.channel.pin() else { continue };
            if sent < ops && sent - done + burst <= window {
                for _ in 0..burst {
                    let (a, b) = offsets[self.next];
                    let op = Op::copy(from.span(a..a + len), to.span(b..b + len));
                    let answer = pinned.submit(op);
                    assert!(matches!(answer, Submit::Queued(_)), "{answer:?}");
                    self.next = if self.next + 1 == offsets.len() { 0 } else { self.next + 1 };
                }
                sent += burst;
            }
            done += pinned.poll(&mut self.out[..burst as usize]) as u64;
        }
    }

    /// The parts, for what a shape of its own needs.
    pub fn parts(&mut self) -> (&Fabric, &mut Channel<E>, &Region<Shared>, &Region<Shared>) {
        (&self.fabric, &mut self.channel, &self.from, &self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::engine::cpu::Cpu;

    #[test]
    fn every_copy_of_a_run_is_done_when_it_returns() {
        let stretch = Stretch::new(1 << 20).unwrap();
        let mut copies = Copies::new(Cpu::new(64), 64, &stretch).unwrap();
        for (ops, burst, window) in [(1, 1, 1), (100, 32, 32), (1000, 32, 64), (7, 3, 9)] {
            copies.run(&stretch.offsets(4096, Blocks::Cold), 4096, ops, burst, window);
            assert_eq!(copies.parts().1.in_flight(), 0, "{ops} in bursts of {burst}");
        }
    }

    #[test]
    fn hot_blocks_are_few_and_cold_ones_all() {
        let stretch = Stretch::new(1 << 22).unwrap();
        assert_eq!(stretch.offsets(4096, Blocks::Hot).len(), 32);
        assert_eq!(stretch.offsets(65536, Blocks::Hot).len(), 2);
        let mut cold = stretch.offsets(65536, Blocks::Cold);
        cold.sort_unstable();
        cold.dedup_by_key(|(from, _)| *from);
        assert_eq!(cold.len(), 64);
    }

    #[test]
    fn a_turn_completes_what_the_last_one_submitted() {
        let fabric = Fabric::builder().build().unwrap();
        let mut turner = Turner::new(&fabric).unwrap();
        turner.bursts_of_32(3200);
        turner.bursts_of_1(10);
        assert_eq!(turner.channel().in_flight(), 1);
    }
}
