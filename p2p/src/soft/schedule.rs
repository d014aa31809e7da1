//! Who lets the devices move: a seeded scheduler that owns every step, or a thread a device.

use super::chance::Chance;
use super::port::Port;
use super::transit::Target;
use super::world::World;
use super::{Shared, lock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// One thing that could happen next.
#[derive(Debug, Clone, Copy)]
enum Candidate {
    Device(usize),
    Uplink(usize),
    Lane((usize, Target)),
}

/// What came of a turn.
pub(super) enum Turned {
    /// Something happened.
    Acted,
    /// Nothing can happen before this time; `None`: before somebody touches the fabric.
    Idle(Option<u64>),
}

/// Takes one step of `whose` requests and devices, drawn from all that could happen now.
pub(super) fn turn(
    world: &mut World,
    ports: &[Port],
    chance: &mut Chance,
    whose: impl Fn(usize) -> bool,
) -> Turned {
    let now = world.now;
    let mut wakes: Option<u64> = None;
    let mut later = |at: u64| {
        if at > now {
            wakes = Some(wakes.map_or(at, |old| old.min(at)));
        }
        at <= now
    };
    let mut candidates = Vec::new();
    for who in (0..ports.len()).filter(|who| whose(*who)) {
        if later(world.link_free_at(who)) {
            candidates.push(Candidate::Device(who));
        }
        if world.uplink_ready(who).is_some_and(&mut later) {
            candidates.push(Candidate::Uplink(who));
        }
    }
    for (key, at) in world.lanes_ready().filter(|(key, _)| whose(key.0)) {
        if later(at) {
            candidates.push(Candidate::Lane(key));
        }
    }
    while let Some(drawn) = chance.pick(candidates.len()) {
        let acted = match candidates.swap_remove(drawn) {
            Candidate::Device(who) => world.act(ports, who),
            Candidate::Uplink(who) => world.translate(ports, who),
            Candidate::Lane(key) => world.deliver(ports, key),
        };
        if acted {
            return Turned::Acted;
        }
    }
    for port in ports.iter().enumerate().filter(|(who, _)| whose(*who)).map(|(_, port)| port) {
        if let Some(at) = port.model().wakes_at() {
            later(at);
        }
    }
    Turned::Idle(wakes)
}

/// One step of the whole fabric; the clock moves to the next event when nothing can happen before it.
pub(super) fn step(world: &mut World, ports: &[Port], chance: &mut Chance) -> bool {
    world.now += 1;
    loop {
        match turn(world, ports, chance, |_| true) {
            Turned::Acted => return true,
            Turned::Idle(Some(at)) => world.now = at,
            Turned::Idle(None) => {
                world.now -= 1;
                return false;
            }
        }
    }
}

/// The devices' threads. Dropping it stops and joins them.
pub(super) struct Threads {
    stop: Arc<AtomicBool>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    /// One thread for each function.
    ///
    /// # Errors
    /// The operating system's, when it has no thread to give; those started are stopped.
    pub(super) fn start(shared: &Arc<Shared>, seed: u64) -> std::io::Result<Threads> {
        let mut threads = Threads { stop: Arc::new(AtomicBool::new(false)), running: Vec::new() };
        for (who, port) in shared.ports.iter().enumerate() {
            let (shared, stop) = (Arc::clone(shared), Arc::clone(&threads.stop));
            let chance = Chance::new(seed ^ (who as u64 + 1).wrapping_mul(0x9e37_79b9));
            let name = format!("soft {}", port.at);
            let handle = thread::Builder::new().name(name).spawn(move || run(&shared, who, &stop, chance))?;
            // Set once, by this one call.
            let _first = port.thread.set(handle.thread().clone());
            threads.running.push(handle);
        }
        Ok(threads)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let me = thread::current().id();
        for handle in self.running.drain(..) {
            handle.thread().unpark();
            if handle.thread().id() != me {
                // A device model that panicked has printed why.
                let _panicked = handle.join();
            }
        }
    }
}

fn run(shared: &Shared, who: usize, stop: &AtomicBool, mut chance: Chance) {
    while !stop.load(Ordering::Acquire) {
        let turned = {
            let mut world = shared.world();
            turn(&mut world, &shared.ports, &mut chance, |n| n == who)
        };
        match turned {
            Turned::Acted => {}
            Turned::Idle(None) => thread::park(),
            Turned::Idle(Some(at)) => {
                let wait = at.saturating_sub(shared.micros()).max(1);
                thread::park_timeout(Duration::from_micros(wait));
            }
        }
    }
}

/// The scheduler's own choices, in manual mode.
pub(super) fn manual(shared: &Shared) -> bool {
    let mut chance = lock(&shared.chance);
    let mut world = shared.world();
    step(&mut world, &shared.ports, &mut chance)
}
