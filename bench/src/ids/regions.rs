//! regions: submit at random over 2^20 regions, against 64, with the price of a cache miss beside it.

use super::Group;
use crate::NoOp;
use crate::missing::{Missing, Setup, missing};
use crate::rig::Rig;
use crate::round::{Contender, Round};
use crate::stats::Random;
use std::hint::black_box;
use tidegate_core::{
    Access, Cause, Channel, ChannelConfig, Completion, Deadline, Fabric, Handle, Memory, Op, Region, Shared,
};

const MANY: usize = 1 << 20;
const FEW: usize = 64;
/// Operations before the stream begins again: enough to touch most of the slots between two visits.
const STREAM: usize = 1 << 20;

/// Operands in the order of their use: reading the stream itself costs both contenders the same.
type Stream = Vec<(Handle<Shared>, Handle<Shared>)>;

/// A line of 64 bytes, as a slot of the table is.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(u64);

pub(super) struct Regions {
    fabric: Fabric,
    regions: Vec<Region<Shared>>,
    channel: Channel<NoOp>,
    many: Stream,
    few: Stream,
    /// Each line has the index of the next: one cycle through all of them.
    lines: Vec<Line>,
    at_random: Vec<u32>,
}

impl Regions {
    pub(super) fn new() -> Setup<Regions> {
        let fabric = Fabric::builder().regions(MANY as u32).build().map_err(missing)?;
        let memory = Memory::allocate("bench regions", 4096).map_err(missing)?;
        let register = |_| fabric.register(memory.backing(), Access::ReadWrite).map_err(missing);
        let regions: Vec<Region<Shared>> = (0..MANY).map(register).collect::<Result<_, _>>()?;
        let mut random = Random::new(3);
        let mut stream = |n: usize| -> Stream {
            let mut one = || regions[random.below(n as u64) as usize].handle();
            (0..STREAM).map(|_| (one(), one())).collect()
        };
        let (many, few) = (stream(MANY), stream(FEW));
        let mut lines = vec![Line(0); MANY];
        let cycle = Random::new(5).permutation(MANY);
        for (at, next) in cycle.iter().zip(cycle.iter().cycle().skip(1)) {
            lines[*at].0 = *next as u64;
        }
        let mut random = Random::new(9);
        let at_random = (0..STREAM).map(|_| random.below(MANY as u64) as u32).collect();
        let channel = fabric
            .channel(&fabric.poller("regions"), NoOp::default(), ChannelConfig::depth(128))
            .map_err(missing)?;
        Ok(Regions { fabric, regions, channel, many, few, lines, at_random })
    }
}

/// `n` submits in turns of 32, going on where the last call left off.
fn submit(channel: &mut Channel<NoOp>, stream: &Stream, at: &mut usize, n: u64) {
    let mut out = [Completion::EMPTY; 32];
    for _ in 0..n.div_ceil(32) {
        let Ok(mut pinned) = channel.pin() else { return };
        pinned.poll(&mut out);
        for (from, to) in &stream[*at..*at + 32] {
            let _ = black_box(pinned.submit(Op::copy(from.span(0..64), to.span(64..128))));
        }
        *at = (*at + 32) % STREAM;
    }
}

impl Group for Regions {
    fn crosses(&self) -> bool {
        false
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        let Regions { channel, many, few, lines, at_random, .. } = self;
        let (mut a, mut b, mut c, mut d) = (0, 0, 0, 0);
        // Two contenders with one channel: they take turns, slice by slice.
        let channel = std::cell::RefCell::new(channel);
        round.race(
            rig,
            vec![
                Contender::new("regions/random", |n| submit(&mut channel.borrow_mut(), many, &mut a, n))
                    .in_bursts_of(32),
                Contender::new("regions/random@64-regions", |n| {
                    submit(&mut channel.borrow_mut(), few, &mut b, n)
                })
                .in_bursts_of(32),
                Contender::new("regions/operand@cache-miss", |n| {
                    for _ in 0..n {
                        c = lines[c].0 as usize;
                    }
                    black_box(c);
                }),
                Contender::new("regions/operand@independent-miss", |n| {
                    let mut sum = 0;
                    for _ in 0..n {
                        sum += lines[at_random[d] as usize].0;
                        d = (d + 1) % STREAM;
                    }
                    black_box(sum);
                }),
            ],
        );
        let figure =
            |series: &str| round.figure(series).cloned().unwrap_or(Err(Missing::new("not measured")));
        let more =
            figure("regions/random").and_then(|far| Ok((far - figure("regions/random@64-regions")?) / 2.0));
        round.put_or_miss("regions/operand", more);
        Ok(())
    }
}

impl Drop for Regions {
    /// One grace period for all of them, not a million.
    fn drop(&mut self) {
        let all: Vec<_> = self.regions.iter().map(Region::revocable).collect();
        let revoked = self.fabric.revoke(&all, Cause::User, Deadline::default()).wait();
        debug_assert!(revoked.is_ok(), "no section is open");
    }
}
