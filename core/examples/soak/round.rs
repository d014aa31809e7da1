//! One round: a fabric, its threads, its end. Everything that is random in it comes from its seed; what the threads
//! make of it in time does not.

use crate::engines::{Eager, Far, HardStop, Remote, Shuffled, WORDS};
use crate::lanes::{Drive, Kind, Lane};
use crate::lists;
use crate::lives::{DONE, Life, Rng, Wrong, add, wrong};
use crate::others;
use crate::revokers;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidegate_core::engine::cpu::Cpu;
use tidegate_core::{
    BarrierMode, Cause, ChannelConfig, DomainId, Fabric, Gate, Handle, Op, OpList, Reach, Region, Seat,
    Shared, Span,
};

/// Regions that come and go.
pub(crate) const TARGETS: usize = 12;
/// Devices of the lanes.
const NICS: usize = 2;

/// A region that may be used now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Live {
    pub(crate) handle: Handle<Shared>,
    pub(crate) life: Life,
    /// Devices reach it; the CPU too unless it is a window.
    pub(crate) device: bool,
    pub(crate) window: bool,
}

impl Live {
    /// Something that leaves nothing in the region but its own patterns; and its bytes.
    pub(crate) fn operation(&self, rng: &mut Rng) -> (Op, u64) {
        let words = 1 + rng.below(8);
        let place = |rng: &mut Rng| {
            let at = rng.below(WORDS - words) * 8;
            self.handle.span(at..at + words * 8)
        };
        let (from, to) = (place(rng), place(rng));
        let op = if rng.one_in(8) { Op::copy(from, to) } else { Op::fill(to, self.life.stamp()) };
        (op, words * 8)
    }
}

/// Several pieces, of several regions if need be, as one operation; and whose they are. Two to four pieces, so that it
/// fits the smallest ring if it is split. `medium`: the engine has one.
pub(crate) fn list(lives: [&Live; 2], medium: bool, rng: &mut Rng) -> (OpList, [Life; 2]) {
    let piece = |live: &Live, words: u64, rng: &mut Rng| {
        let at = rng.below(WORDS - words) * 8;
        live.handle.span(at..at + words * 8)
    };
    let both = lives.map(|live| live.life);
    let [a, b] = lives;
    match rng.below(if medium { 3 } else { 1 }) {
        0 => {
            // What is of a life stays in its region; the cuts of the two sides differ.
            let words = 2 + rng.below(7);
            let cut = 1 + rng.below(words - 1);
            let mut cuts = |live: &Live, cut: u64| [piece(live, cut, rng), piece(live, words - cut, rng)];
            let ([a1, a2], [b1, b2]) = (cuts(a, cut), cuts(b, words - cut));
            let (from, to) = ([a1, a2, piece(b, words, rng)], [piece(a, words, rng), b1, b2]);
            (OpList::copy(&from, &to), both)
        }
        1 => {
            let to: Vec<Span<Shared>> =
                (0..2 + rng.below(3)).map(|_| piece(a, 1 + rng.below(8), rng)).collect();
            (OpList::read(a.life.position(), &to), [a.life; 2])
        }
        _ => {
            let from: Vec<Span<Shared>> =
                (0..2 + rng.below(3)).map(|n| piece(lives[n as usize % 2], 1 + rng.below(8), rng)).collect();
            (OpList::write(&from, 0), both)
        }
    }
}

/// A published region, for whoever wants to revoke it too.
pub(crate) type Slot = Mutex<Option<(Live, Arc<Region<Shared>>)>>;

pub(crate) struct World {
    pub(crate) fabric: Fabric,
    pub(crate) domain: DomainId,
    pub(crate) nics: [Gate; NICS],
    pub(crate) gpu: Gate,
    pub(crate) slots: [Slot; TARGETS],
    pub(crate) fars: Mutex<Vec<Far>>,
    stop: AtomicBool,
    device_stop: AtomicBool,
    pub(crate) seed: u64,
    streams: AtomicU64,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A thread's own stream.
    pub(crate) fn rng(&self, stream: u64) -> Rng {
        Rng::new(self.seed, stream)
    }

    /// What a lane of this kind may name.
    pub(crate) fn lives(&self, kind: Kind, into: &mut Vec<Live>) {
        into.clear();
        for slot in &self.slots {
            let Some(live) = lock(slot).as_ref().map(|(live, _)| *live) else { continue };
            let fits = match kind {
                Kind::Device => live.device,
                Kind::Process => !live.window,
                Kind::Bystander => false,
            };
            if fits {
                into.push(live);
            }
        }
    }

    /// A lane of the `n`th sort.
    pub(crate) fn lane(self: &Arc<Self>, n: u64, name: &str) -> Box<dyn Drive> {
        let (world, poller) = (self.clone(), self.fabric.poller(name));
        let seed = self.seed ^ 1 << 40;
        let streams = move |world: &World| Rng::new(seed, world.streams.fetch_add(1, Ordering::Relaxed));
        let seat = move |world: &World, nic: usize| Seat {
            domain: world.domain,
            reach: Reach::Shared,
            gate: Some(world.nics[nic].clone()),
        };
        let depth = ChannelConfig::depth([4, 32, 64][(n / 5 % 3) as usize]);
        match n % 5 {
            0 => Lane::boxed(Kind::Process, move || {
                world.fabric.channel(&poller, Eager::new(streams(&world)), depth.clone()).ok()
            }),
            1 => Lane::boxed(Kind::Device, move || {
                let engine = Shuffled::new(streams(&world));
                world.fabric.place_channel(&poller, engine, depth.clone(), seat(&world, 0)).ok()
            }),
            2 => Lane::boxed(Kind::Process, move || {
                world.fabric.channel(&poller, Cpu::new(64), depth.clone()).ok()
            }),
            3 => Lane::boxed(Kind::Device, move || {
                let (engine, far) = Remote::new();
                let made = world.fabric.place_channel(&poller, engine, depth.clone(), seat(&world, 1)).ok();
                lock(&world.fars).push(far);
                made
            }),
            _ => Lane::boxed(Kind::Bystander, move || {
                world.fabric.channel(&poller, Cpu::new(64), depth.clone()).ok()
            }),
        }
    }
}

/// Plays one round. `limit`: stop when so many operations were done in all.
pub(crate) fn play(seed: u64, length: Duration, limit: u64) {
    let mut rng = Rng::new(seed, 0);
    let mode = if rng.one_in(4) { BarrierMode::Never } else { BarrierMode::Auto };
    let fabric = match Fabric::builder().barrier(mode).regions(64).channels(128).build() {
        Ok(fabric) => fabric,
        Err(error) => return wrong(Wrong::Other, 1, || format!("no fabric: {error}")),
    };
    let Some(domain) = fabric.domain() else { return };
    let hard_stop = Arc::new(HardStop::default());
    let world = Arc::new(World {
        domain,
        nics: [fabric.gate("nic 0", None), fabric.gate("nic 1", None)],
        gpu: fabric.gate("gpu", None),
        slots: std::array::from_fn(|_| Mutex::new(None)),
        fars: Mutex::default(),
        stop: AtomicBool::new(false),
        device_stop: AtomicBool::new(false),
        seed,
        streams: AtomicU64::new(0),
        fabric,
    });
    std::thread::scope(|s| {
        s.spawn(|| device(&world));
        act(&world, &hard_stop, length, limit);
        end(&world, rng.one_in(2));
        world.device_stop.store(true, Ordering::Relaxed);
    });
}

/// All threads but the device's, from beginning to end.
fn act(world: &Arc<World>, hard_stop: &Arc<HardStop>, length: Duration, limit: u64) {
    let begun = Instant::now();
    std::thread::scope(|s| {
        // Each role is a thread or two; the number is the thread's stream.
        for n in 0..2 {
            s.spawn(move || poll(world, 10 + n));
            s.spawn(move || revokers::own(world, 20 + n));
        }
        s.spawn(|| revokers::race(world, 30));
        s.spawn(|| others::quiesce(world, 40));
        s.spawn(|| others::look(world, 50));
        s.spawn(|| others::come_and_go(world, 60));
        s.spawn(|| others::fail(world, hard_stop, 70));
        s.spawn(|| others::inbox(world, 80));
        s.spawn(|| lists::copy(world, 90));
        let enough = || DONE.operations.load(Ordering::Relaxed) >= limit || crate::lives::is_over();
        while begun.elapsed() < length && !enough() {
            std::thread::sleep(Duration::from_millis(2));
        }
        world.stop.store(true, Ordering::Relaxed);
    });
}

/// A poller with a channel of each sort.
fn poll(world: &Arc<World>, stream: u64) {
    let mut rng = world.rng(stream);
    let mut lanes: Vec<_> =
        (0..5).map(|n| world.lane(n + rng.below(3) * 5, &format!("poller {stream}"))).collect();
    let still = crate::revokers::Still::new(world);
    let (mut lives, mut device) = (Vec::new(), Vec::new());
    for turn in 0_u64.. {
        if turn % 16 == 0 {
            // Handles are used on purpose for a while after they went stale.
            world.lives(Kind::Process, &mut lives);
            world.lives(Kind::Device, &mut device);
        }
        if turn % 64 == 0 {
            // The cores are shared with more threads than there are.
            std::thread::yield_now();
        }
        for lane in &mut lanes {
            let reach: &[Live] = match lane.kind() {
                Kind::Device => &device,
                Kind::Process => &lives,
                Kind::Bystander => still.lives(),
            };
            lane.turn(reach, &mut rng);
        }
        if world.stopped() {
            break;
        }
    }
    settle(&mut lanes);
    drop(lanes);
    still.end();
}

/// Fetches what is open; what does not come in ten seconds is lost.
pub(crate) fn settle(lanes: &mut [Box<dyn Drive>]) {
    let begun = Instant::now();
    while lanes.iter_mut().filter_map(|lane| (!lane.drain()).then_some(())).count() > 0 {
        if begun.elapsed() > Duration::from_secs(10) {
            let open = lanes.iter().map(|lane| lane.open()).sum();
            return wrong(Wrong::Lost, open, || "accepted, and never completed".to_owned());
        }
        std::thread::yield_now();
    }
}

/// The thread of the remote devices: goes on until the last channel has gone.
fn device(world: &World) {
    loop {
        let fars = lock(&world.fars).clone();
        let mut worked = false;
        for far in &fars {
            for _ in 0..8 {
                worked |= far.work();
            }
        }
        drop(fars);
        lock(&world.fars).retain(|far| !far.is_unplugged());
        if world.device_stop.load(Ordering::Relaxed) {
            return;
        }
        if !worked {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// The fabric ends empty.
fn end(world: &World, quiesced: bool) {
    if quiesced {
        for gate in world.nics.iter().chain([&world.gpu]) {
            let by = tidegate_core::Deadline::millis(0, 5000);
            match gate.quiesce(Cause::Close, by).map(|quiesce| quiesce.wait()) {
                Ok(Ok(quiet)) if quiet.report().is_clean() => add(&DONE.quiesces, 1),
                other => wrong(Wrong::Other, 1, || format!("the last quiesce: {other:?}")),
            }
        }
    }
    let begun = Instant::now();
    // Dropped channels and regions end on the control thread.
    while !world.fabric.inspect().channels.is_empty() && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let left = world.fabric.inspect();
    if !left.channels.is_empty() {
        wrong(Wrong::Other, 1, || format!("channels are left: {left:?}"));
    } else if !left.quarantine.is_empty() {
        wrong(Wrong::Other, 1, || format!("the fabric does not end empty: {left:?}"));
    }
}
