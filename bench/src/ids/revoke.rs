//! revoke-loaded: a revoke with copies in flight. lost: the end of what is in flight, and who hears of it.

use super::Group;
use crate::cpus::{Beat, beside};
use crate::line;
use crate::missing::{Missing, Setup, missing};
use crate::rig::Rig;
use crate::round::Round;
use crate::seams;
use crate::shapes::{Blocks, Copies, Stretch};
use crate::stats::{Random, Sorted};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidegate_core::engine::cpu::Cpu;
use tidegate_core::{
    Access, Cause, Channel, ChannelConfig, Completion, Deadline, Fabric, Handle, Op, Shared, Status, Submit,
};

/// Bytes of each copy in flight under a revoke.
const CHUNK: u64 = 64 << 10;
/// How many of them.
const LOAD: u64 = 32;

/// No patience with what is in flight; ten seconds for the rest (a busy machine may not run the owner for one).
const AT_ONCE: Deadline = Deadline { cancel: Duration::ZERO, force: Duration::from_secs(10) };

pub(super) struct Loaded {
    stretch: Stretch,
}

impl Loaded {
    pub(super) fn new() -> Setup<Loaded> {
        Ok(Loaded { stretch: Stretch::new(256 << 20)? })
    }
}

/// What the revoker tells the owner, and the owner the revoker.
struct Talk {
    /// The destination to use, and its number.
    target: Mutex<(u64, Handle<Shared>)>,
    /// Number of the destination that 32 copies are in flight to.
    loaded: AtomicU64,
}

/// Keeps 32 copies in flight, in short turns, to whatever destination there is now.
fn owner(beat: &Beat, talk: &Talk, channel: &mut Channel<Cpu>, from: Handle<Shared>, offsets: &[(u64, u64)]) {
    let mut out = [Completion::EMPTY; LOAD as usize];
    let mut left = Vec::new();
    let (mut flying, mut next) = (0_u64, 0);
    beat.ready();
    while !beat.is_over() {
        // A new number is looked for when the old one is no longer accepted, not in each turn.
        let (number, to) = *talk.target.lock().expect("nobody panics with it");
        loop {
            let Ok(mut pinned) = channel.pin() else {
                left.clear();
                if channel.reclaim(&mut left).is_ok() {
                    flying = flying.saturating_sub(left.len() as u64);
                }
                if beat.is_over() {
                    return;
                }
                continue;
            };
            flying = flying.saturating_sub(pinned.poll(&mut out) as u64);
            let mut stale = false;
            while flying < LOAD && !stale {
                let (a, b) = offsets[next];
                match pinned.submit(Op::copy(from.span(a..a + CHUNK), to.span(b..b + CHUNK))) {
                    Submit::Queued(_) => {
                        flying += 1;
                        next = (next + 1) % offsets.len();
                    }
                    Submit::Stale(_) => stale = true,
                    _ => break,
                }
            }
            drop(pinned);
            if stale || beat.is_over() {
                break;
            }
            if flying == LOAD {
                talk.loaded.store(number, Ordering::Release);
            }
        }
    }
}

impl Group for Loaded {
    fn crosses(&self) -> bool {
        true
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        let offsets = self.stretch.offsets(CHUNK, Blocks::Cold);
        let fabric = Fabric::builder().build().map_err(missing)?;
        let (from, to) = self.stretch.backings();
        let from = fabric.register(from.clone(), Access::Read).map_err(missing)?;
        let fresh = || fabric.register(to.clone(), Access::ReadWrite).map_err(missing);
        let config = ChannelConfig::depth(LOAD as u32);
        let mut channel =
            fabric.channel(&fabric.poller("loaded"), Cpu::new(LOAD as u32), config).map_err(missing)?;
        let mut target = fresh()?;
        let talk = Talk { target: Mutex::new((1, target.handle())), loaded: AtomicU64::new(0) };
        let samples = rig.samples(1000) as u64;
        let work = |beat: &Beat| owner(beat, &talk, &mut channel, from.handle(), &offsets);
        let times = beside(rig.worker, work, || -> Setup<Vec<f64>> {
            let mut random = Random::new(41);
            let mut times = Vec::new();
            for number in 1..=samples {
                while talk.loaded.load(Ordering::Acquire) != number {
                    std::hint::spin_loop();
                }
                // Anywhere in a chunk.
                for _ in 0..random.below(400) {
                    std::hint::spin_loop();
                }
                let revocation = || target.revoke(Cause::User, AT_ONCE).wait();
                let mut report = None;
                times.push(rig.clock.time(|| report = Some(revocation())));
                match report {
                    Some(Ok(report)) if report.is_clean() => {}
                    other => return Err(Missing::new(format!("a revoke did not end cleanly: {other:?}"))),
                }
                target = fresh()?;
                *talk.target.lock().expect("nobody panics with it") = (number + 1, target.handle());
            }
            Ok(times)
        })?;
        round.put("revoke-loaded", Sorted::new(times).at(0.99));

        // A chunk as the same engine copies it, one at a time.
        let mut copies = Copies::new(Cpu::new(1), 1, &self.stretch)?;
        let one = |_| rig.clock.time(|| copies.run(&offsets, CHUNK, 1, 1, 1));
        let chunk = Sorted::new((0..rig.samples(2000)).map(one).collect()).median();
        round.put("revoke-loaded@chunk-and-line", chunk + line::round_trip(rig, 15));
        Ok(())
    }
}

/// Operations in flight when the queue is stopped, and the bytes of each.
const STOPPED: u64 = 64;
const EACH: u64 = 1 << 20;

pub(super) struct Lost {
    stretch: Stretch,
}

impl Lost {
    pub(super) fn new() -> Setup<Lost> {
        Ok(Lost { stretch: Stretch::new(STOPPED * EACH)? })
    }

    /// Revokes the destination of 64 copies in flight, all that the queue has: nanoseconds, and how many of them ended
    /// neither done nor revoked.
    fn ours(&self, rig: &Rig) -> Setup<(f64, u64)> {
        let engine = seams::worker(rig.worker, STOPPED as u32)?;
        let fabric = Fabric::builder().build().map_err(missing)?;
        let config = ChannelConfig::depth(STOPPED as u32);
        let mut channel = fabric.channel(&fabric.poller("lost"), engine, config).map_err(missing)?;
        let (from, to) = self.stretch.backings();
        let from = fabric.register(from.clone(), Access::Read).map_err(missing)?;
        let to = fabric.register(to.clone(), Access::ReadWrite).map_err(missing)?;
        {
            let mut pinned = channel.pin().map_err(missing)?;
            for at in (0..STOPPED).map(|i| i * EACH) {
                let op = Op::copy(from.handle().span(at..at + EACH), to.handle().span(at..at + EACH));
                let answer = pinned.submit(op);
                assert!(matches!(answer, Submit::Queued(_)), "{answer:?}");
            }
        }
        let mut report = None;
        let time = rig.clock.time(|| report = to.revoke(Cause::User, AT_ONCE).wait().ok());
        if !report.is_some_and(|report| report.is_clean()) {
            return Err(Missing::new("the revoke did not end cleanly"));
        }
        let mut all = Vec::new();
        let mut out = [Completion::EMPTY; 32];
        channel.reclaim(&mut all).map_err(missing)?;
        while let Ok(mut pinned) = channel.pin() {
            match pinned.poll(&mut out) {
                0 => break,
                n => all.extend_from_slice(&out[..n]),
            }
        }
        let told = all.iter().filter(|c| matches!(c.status, Status::Done | Status::Revoked)).count() as u64;
        Ok((time, STOPPED.abs_diff(told)))
    }
}

impl Group for Lost {
    fn crosses(&self) -> bool {
        true
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        let pairs = self.stretch.pairs(EACH, Blocks::Cold)?;
        let (mut ours, mut lost, mut theirs) = (Vec::new(), 0, Vec::new());
        for _ in 0..rig.samples(12) {
            match self.ours(rig) {
                Ok((time, n)) => {
                    ours.push(time);
                    lost = lost.max(n);
                }
                Err(why) => {
                    round.miss("lost/time", &why);
                    round.miss("lost/operations", &why);
                }
            }
            let stop = rig.dpdk.as_ref().map_err(Clone::clone).and_then(|dpdk| dpdk.device()?.stop(&pairs));
            match stop {
                Ok((ticks, reported)) => {
                    theirs.push(rig.clock.ns(ticks));
                    round.put("lost/operations@dma_skeleton", f64::from(STOPPED as u32 - reported));
                }
                Err(why) => {
                    round.miss("lost/time@rte_dma_stop", &why);
                    round.miss("lost/operations@dma_skeleton", &why);
                }
            }
        }
        if !ours.is_empty() {
            round.put("lost/time", Sorted::new(ours).median());
            round.put("lost/operations", lost as f64);
        }
        if !theirs.is_empty() {
            round.put("lost/time@rte_dma_stop", Sorted::new(theirs).median());
        }
        Ok(())
    }
}
