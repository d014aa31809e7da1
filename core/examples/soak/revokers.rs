//! Those who register, revoke and look at the memory.

use crate::engines::{Buffer, LEN, Mapped, WORDS};
use crate::lives::{DONE, Life, Rng, Wrong, add, is_blind, wrong};
use crate::round::{Live, TARGETS, World, lock};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_core::drain::Report;
use tidegate_core::{Access, Cause, Class, Deadline, Memory, Region, Revocation, Shared};

/// Past this a revoke is forced, which here never needs to happen.
const FORCE: Duration = Duration::from_secs(10);

/// Memory of one target.
enum Words {
    /// A memfd, registered for the process.
    File(Arc<Memory>),
    /// Heap, mapped for devices.
    Heap(Arc<Buffer>),
}

impl Words {
    fn new(device: bool) -> Option<Words> {
        Some(if device {
            Words::Heap(Buffer::new())
        } else {
            Words::File(Memory::allocate("soak", LEN).ok()?)
        })
    }

    fn get(&self, word: u64) -> u64 {
        match self {
            Words::File(memory) => memory.load64(word * 8).unwrap_or(0),
            Words::Heap(buffer) => buffer.get(word),
        }
    }

    fn fill(&self, value: u64) {
        for word in 0..WORDS {
            match self {
                Words::File(memory) => {
                    memory.store64(word * 8, value);
                }
                Words::Heap(buffer) => buffer.set(word, value),
            }
        }
    }

    /// Everything in it belongs to `life`.
    fn check(&self, life: Life) {
        if let Some(word) = (0..WORDS).find(|word| !life.owns(self.get(*word))) {
            let found = self.get(word);
            wrong(Wrong::LateWrite, 1, || format!("word {word} of {life:?} holds {found:#x}"));
        }
    }
}

struct Target {
    slot: usize,
    words: Words,
    now: Option<(Live, Arc<Region<Shared>>)>,
}

impl Target {
    /// By number: of the process, of devices, a window.
    fn new(slot: usize) -> Option<Target> {
        Some(Target { slot, words: Words::new(slot % 3 != 0)?, now: None })
    }

    fn register(&mut self, world: &World) {
        let life = Life::new();
        self.words.fill(life.base());
        let window = self.slot % 3 == 2;
        let made = match &self.words {
            Words::File(memory) => world.fabric.register(memory.backing(), Access::ReadWrite),
            Words::Heap(buffer) => {
                let map = Arc::new(Mapped(buffer.clone()));
                let (class, gate) =
                    if window { (Class::SharedWindow, Some(&world.gpu)) } else { (Class::Host, None) };
                world.fabric.adopt(world.domain, class, Access::ReadWrite, map, None, gate)
            }
        };
        // The gpu's gate may be closed just now.
        let Ok(region) = made else { return };
        let live = Live { handle: region.handle(), life, device: self.slot % 3 != 0, window };
        self.now = Some((live, Arc::new(region)));
        lock(&world.slots[self.slot]).clone_from(&self.now);
    }
}

fn deadline(rng: &mut Rng) -> Deadline {
    // At once, soon, or (as good as) only by the owner's own polling.
    let cancel = [0, 2, 5000][rng.below(3) as usize];
    Deadline { cancel: Duration::from_millis(cancel), force: FORCE }
}

/// Waits; a revoke that is not clean or late is wrong here: every device answers.
fn finish(revoke: Revocation, begun: Instant, count: u64) -> bool {
    let report: Option<Report> = revoke.wait().ok();
    add(&DONE.revokes, count);
    let age = begun.elapsed();
    if age > FORCE + Duration::from_secs(2) {
        wrong(Wrong::LateRevoke, 1, || format!("it took {age:?}"));
    }
    match report {
        Some(report) if report.is_clean() => {
            if report.in_flight != report.drained + report.revoked + report.failed {
                wrong(Wrong::Other, 1, || format!("it does not add up: {report:?}"));
            }
            true
        }
        other => {
            wrong(Wrong::Other, 1, || format!("a revoke was not clean: {other:?}"));
            false
        }
    }
}

/// Registers targets of its own, revokes them alone, in batches, in halves by two revocations at once, or drops them.
pub(crate) fn own(world: &World, stream: u64) {
    let mut rng = world.rng(stream);
    let half = (stream % 2) as usize;
    let mut mine: Vec<Target> = (0..TARGETS).filter(|n| n % 2 == half).filter_map(Target::new).collect();
    while !world.stopped() {
        for target in mine.iter_mut().filter(|target| target.now.is_none()) {
            target.register(world);
        }
        std::thread::sleep(Duration::from_micros(rng.below(300)));
        let n = 1 + rng.below(3) as usize;
        let first = rng.below(mine.len() as u64) as usize;
        let chosen: Vec<usize> = (first..first + n).map(|at| at % mine.len()).collect();
        revoke(world, &mut mine, &chosen, &mut rng);
    }
    let all: Vec<usize> = (0..mine.len()).collect();
    revoke(world, &mut mine, &all, &mut rng);
}

fn revoke(world: &World, mine: &mut [Target], chosen: &[usize], rng: &mut Rng) {
    let live: Vec<_> = chosen.iter().filter_map(|at| mine[*at].now.clone()).collect();
    live.iter().for_each(|(live, _)| live.life.begin_end());
    let (begun, by) = (Instant::now(), deadline(rng));
    let batch: Vec<_> = live.iter().map(|(_, region)| region.revocable()).collect();
    let clean = if rng.one_in(2) {
        finish(world.fabric.revoke(&batch, Cause::User, by), begun, batch.len() as u64)
    } else {
        // One after the other, all under way at once; turned by hand in between.
        let mut running: Vec<_> = live.iter().map(|(_, region)| region.revoke(Cause::User, by)).collect();
        for revoke in &mut running {
            let _ = revoke.turn();
        }
        running.into_iter().filter_map(|revoke| (!finish(revoke, begun, 1)).then_some(())).count() == 0
    };
    drop(batch);
    drop(live);
    for at in chosen {
        let target = &mut mine[*at];
        let Some((live, region)) = target.now.take() else { continue };
        drop(lock(&world.slots[target.slot]).take());
        drop(region);
        if !clean {
            // Its memory is left alone.
            target.words = Words::new(live.device).unwrap_or_else(|| Words::Heap(Buffer::new()));
            continue;
        }
        live.life.end();
        target.words.check(live.life);
        if is_blind() || rng.one_in(8) {
            // Freed, rather than used again at once.
            if let Some(words) = Words::new(live.device) {
                target.words = words;
            }
        }
    }
}

/// Revokes regions of others: both must return only when nothing is alive.
pub(crate) fn race(world: &World, stream: u64) {
    let mut rng = world.rng(stream);
    while !world.stopped() {
        std::thread::sleep(Duration::from_micros(rng.below(2000)));
        let mut found = Vec::new();
        for _ in 0..=rng.below(3) {
            found.extend(lock(&world.slots[rng.below(TARGETS as u64) as usize]).clone());
        }
        found.iter().for_each(|(live, _): &(Live, _)| live.life.begin_end());
        let batch: Vec<_> = found.iter().map(|(_, region)| region.revocable()).collect();
        let (begun, by) = (Instant::now(), deadline(&mut rng));
        let revoke = world.fabric.revoke(&batch, Cause::Doubt, by);
        if rng.one_in(4) {
            // It goes on without us.
            revoke.detach();
        } else if finish(revoke, begun, batch.len() as u64) {
            found.iter().for_each(|(live, _)| live.life.end());
        }
    }
}

/// A region that nobody revokes before the end, for those who are not to be disturbed.
pub(crate) struct Still {
    memory: Option<Arc<Memory>>,
    region: Option<Region<Shared>>,
    lives: Vec<Live>,
}

impl Still {
    pub(crate) fn new(world: &World) -> Still {
        let memory = Memory::allocate("still", LEN).ok();
        let life = Life::new();
        let region = memory.as_ref().and_then(|memory| {
            Words::File(memory.clone()).fill(life.base());
            world.fabric.register(memory.backing(), Access::ReadWrite).ok()
        });
        let live =
            |region: &Region<Shared>| Live { handle: region.handle(), life, device: false, window: false };
        let lives = region.iter().map(live).collect();
        Still { memory, region, lives }
    }

    pub(crate) fn lives(&self) -> &[Live] {
        &self.lives
    }

    pub(crate) fn end(mut self) {
        let Some(region) = self.region.take() else {
            return wrong(Wrong::Other, 1, || "no region for the bystander".to_owned());
        };
        let by = Deadline { cancel: FORCE, force: FORCE };
        if finish(region.revoke(Cause::User, by), Instant::now(), 1) {
            if let (Some(memory), Some(live)) = (self.memory.take(), self.lives.first()) {
                Words::File(memory).check(live.life);
            }
        }
    }
}
