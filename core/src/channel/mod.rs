//! Channels: one poll-mode queue of one device, owned by one thread at a time.
//!
//! The hot path is `pin`, `submit`, `poll`, drop. It has no lock, syscall, allocation or read-modify-write, and on
//! x86-64 with membarrier no fence. The channel's state (engine, ring) lies in a shared core behind the owner
//! word, so that a revoker can take it over when the owner is slow, parked or dead.
//!
//! # Invariants
//! - **C1** The state belongs to the owner while it is inside a section and the owner word it read after the pin
//!   had no `TAKEN`; it belongs to a revoker from the end of a grace period that followed its own setting of that
//!   bit until it clears it (Release). The other bits may be set by anyone at any time and are never lost.
#![expect(unsafe_code, reason = "the owner's access to the shared state (C1); models: crate::model")]

mod confirm;
mod fuse;
mod group;
mod list;
mod names;
mod ring;
mod rows;
mod submit;
mod taken;
mod tally;

pub use confirm::Unconfirmable;
pub(crate) use names::{Ended, Look, NO_REGION, Names};
pub(crate) use ring::Ring;
pub use rows::Use;
pub use submit::Pinned;
pub(crate) use taken::{Erased, Flushing, Seizure, Taken, look_again};
pub(crate) use tally::Published;
pub use tally::{Counters, Denials};

use crate::drain::{Closing, Gate, Report, Revocation, WaitError};
use crate::engine::{AddressSpace, Engine, Target};
use crate::epoch::{Line, announce_thread, this_thread};
use crate::fabric::{Poller, Shared};
use crate::op::{Completion, Ticket};
use crate::region::slot::word;
use crate::sync::{AtomicU64, Cell, Ordering, cell_mut, mutated, order};
use crate::{Cause, Deadline};
use crossbeam_utils::CachePadded;
use std::fmt;
use std::sync::{Arc, Weak};

/// Bits of the owner word.
pub(crate) mod owner {
    /// None of them: the owner's, and it may submit.
    pub(crate) const MINE: u64 = 0;
    /// Its device is closing: the owner may poll, not submit. Never cleared.
    pub(crate) const CLOSING: u64 = 1;
    /// A revoker's.
    pub(crate) const TAKEN: u64 = 2;
    /// The engine is gone; completions are left to be fetched. Never cleared.
    pub(crate) const CLOSED: u64 = 4;
    /// The owner dropped it: whoever has it closes it. Never cleared.
    pub(crate) const ORPHANED: u64 = 8;
}

/// How a channel is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelConfig {
    /// Operations in flight at most; the engine may allow fewer. Default 256.
    pub depth: u32,
    /// Name in reports. Default: the engine's type.
    pub name: Option<String>,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        ChannelConfig { depth: 256, name: None }
    }
}

impl ChannelConfig {
    /// A depth other than the default.
    pub fn depth(depth: u32) -> Self {
        ChannelConfig { depth, ..Self::default() }
    }
}

/// Which requests a channel's device makes; decides which windows it reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Not a device: memory of the process, no windows.
    Process,
    /// T=0: host memory and shared windows.
    Shared,
    /// T=1 (its TDI is in RUN): host memory of the domain and private windows.
    Private,
}

/// Where a device layer puts a channel; see [`crate::Fabric::place_channel`].
#[derive(Debug, Clone)]
pub struct Seat {
    /// Domain of the device's address space.
    pub domain: crate::DomainId,
    /// What its requests reach.
    pub reach: Reach,
    /// The device's gate: quiescing it closes the channel.
    pub gate: Option<Gate>,
}

/// What is known of a channel without owning it.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) name: String,
    pub(crate) poller: Arc<Poller>,
    pub(crate) gate: Option<Gate>,
    /// Domain bits of the regions it reaches by device address.
    pub(crate) domain: u64,
    /// Code of the cause why it is closing or closed.
    pub(crate) cause: AtomicU64,
    /// Weak: the fabric has the channel.
    fabric: Weak<Shared>,
}

impl Meta {
    pub(crate) fn cause(&self) -> Cause {
        Cause::from_code(self.cause.load(Ordering::Relaxed) as u8).unwrap_or(Cause::User)
    }

    /// Keeps the first cause.
    pub(crate) fn blame(&self, why: Cause) {
        let _ = self.cause.compare_exchange(0, why as u64, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Its engine panicked in a section of the owner: closes it, in the background. What is in flight ends there.
    #[cold]
    #[inline(never)]
    fn close_broken(&self) {
        let Some(fabric) = self.fabric.upgrade() else { return };
        let itself = fabric.find_channel(|channel| std::ptr::eq(channel.meta(), self));
        itself.inspect(|channel| fabric.close_later(channel, Cause::Panicked));
    }
}

/// State behind the owner word.
pub(crate) struct State<E> {
    /// `None` once closed, or once it panicked: then the owner word has `CLOSED`, or is about to get it.
    pub(crate) engine: Option<E>,
    /// The engine, if it panicked.
    broken: Option<Box<fuse::Broken<E>>>,
    pub(crate) ring: Ring,
}

/// The part of a channel that its owner and revokers share.
pub(crate) struct Core<E> {
    line: Arc<CachePadded<Line>>,
    names: Names,
    published: Arc<Published>,
    meta: Meta,
    state: Cell<State<E>>,
}

// SAFETY: 1. `state` is reached only under C1, by one thread at a time, and `State<E>` is Send since E is. 2. all
// else is Sync by itself.
unsafe impl<E: Engine> Sync for Core<E> {}
// SAFETY: 1. every part is Send.
unsafe impl<E: Engine> Send for Core<E> {}

impl<E> fmt::Debug for Core<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({} of {})", self.meta.name, self.meta.poller.name())
    }
}

/// One poll-mode queue. `Send`, not `Sync`: it belongs to one thread at a time.
///
/// ```compile_fail,E0277
/// fn needs_sync<T: Sync>() {}
/// needs_sync::<tidegate_core::Channel<tidegate_core::engine::cpu::Cpu>>();
/// ```
#[derive(Debug)]
pub struct Channel<E: Engine> {
    line: Arc<CachePadded<Line>>,
    fabric: Arc<Shared>,
    /// The thread whose pins take the fast arm: it was announced, the channel is not parked, and no fence is needed.
    /// [`NOBODY`] otherwise.
    ready: u64,
    rules: Rules,
    core: Arc<Core<E>>,
    fenced: bool,
    parked: bool,
    /// Operands of the list that is being submitted.
    operands: Box<[Target]>,
    not_sync: std::marker::PhantomData<std::cell::Cell<()>>,
}

/// What a slot's word must look like beside the bits of the handle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    mask: u64,
    expect: u64,
}

/// For the region that is read, and the one that is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    read: Rule,
    write: Rule,
}

const NO_TARGET: Target = Target { address: 0, len: 0, region: NO_REGION, window: false };

/// No thread's number.
const NOBODY: u64 = u64::MAX;

/// A revoker has the channel: come back later ([`Channel::reclaim`] fetches what it left behind).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a revoke holds the channel")]
pub struct Seized;

impl<E: Engine> Channel<E> {
    pub(crate) fn new(
        fabric: &Arc<Shared>,
        poller: &Arc<Poller>,
        engine: E,
        cfg: &ChannelConfig,
        seat: Seat,
    ) -> Self {
        let depth = cfg.depth.clamp(1, 1 << 16).min(engine.depth().max(1));
        let ring = Ring::new(depth);
        let id = fabric.next_channel_id();
        // `a::b::Engine<c::D>` is called `Engine`.
        let path = std::any::type_name::<E>().split('<').next().unwrap_or_default();
        let short = path.rsplit("::").next().unwrap_or("engine");
        let line = match mutated("one-slot-for-two-channels").then(|| fabric.lines().first().cloned()) {
            Some(Some(of_another)) => of_another,
            _ => Arc::new(Line::new()),
        };
        let core = Arc::new(Core {
            line: line.clone(),
            names: ring.names().clone(),
            published: ring.tally.published().clone(),
            meta: Meta {
                name: cfg.name.clone().unwrap_or_else(|| format!("{short}-{id}")),
                poller: poller.clone(),
                gate: seat.gate,
                domain: u64::from(seat.domain.0) << word::DOMAIN_SHIFT & word::DOMAIN,
                cause: AtomicU64::new(0),
                fabric: Arc::downgrade(fabric),
            },
            state: Cell::new(State { engine: Some(engine), broken: None, ring }),
        });
        let denied = match (E::SPACE, seat.reach) {
            (AddressSpace::Cpu, _) | (_, Reach::Process) => word::WINDOWS,
            (_, Reach::Shared) => word::PRIVATE_WINDOW,
            (_, Reach::Private) => word::SHARED_WINDOW,
        };
        // A region without an address in the engine's space has none that could be given to the engine.
        let (expect, mask) = match E::SPACE {
            AddressSpace::Device => (core.meta.domain | word::DEVICE, word::DOMAIN | word::DEVICE),
            AddressSpace::Cpu => (word::CPU, word::CPU),
        };
        let mask = mask | word::GENERATION | word::FABRIC | word::LIVE | word::BEYOND | denied;
        let rule = |right| Rule { mask: mask | right, expect: expect | right };
        fabric.epoch.register(&core.line);
        fabric.enlist(core.clone());
        Channel {
            line,
            fabric: fabric.clone(),
            ready: NOBODY,
            rules: Rules { read: rule(word::READ), write: rule(word::WRITE) },
            core,
            fenced: fabric.epoch.barrier().needs_fence(),
            parked: false,
            operands: vec![NO_TARGET; if cfg!(loom) { 0 } else { depth as usize * 2 }].into_boxed_slice(),
            not_sync: std::marker::PhantomData,
        }
    }

    /// Enters a section. Everything is done through the [`Pinned`]; dropping it rings the doorbell and leaves.
    /// Two loads, two compares, two stores with the leaving; with membarrier no call, lock or fence (`ci/golden` has
    /// the machine code). The first pin of a thread, and every one of a fabric without membarrier, costs a call more.
    /// Keep sections short: a revoke waits for them.
    ///
    /// # Errors
    /// [`Seized`] while a revoke has taken the channel over.
    #[inline]
    pub fn pin(&mut self) -> Result<Pinned<'_, E>, Seized> {
        let (line, fabric): (&Line, &Shared) = (&self.line, &self.fabric);
        let early = mutated("owner-read-before-pin").then(|| line.owner.load(Ordering::Acquire));
        let epoch = if self.ready != this_thread() {
            // By the pointers as they lie there: what only this arm needs is computed in it.
            enter_slow(&self.fabric, &self.line, &mut self.parked, self.fenced, &mut self.ready)
        } else if cfg!(tidegate_unchecked) {
            0
        } else {
            fabric.epoch.enter(line, false)
        };
        // Acquire: what a revoker did to the state before it gave it back is ours.
        let owner = early.unwrap_or_else(|| line.owner.load(order(Ordering::Acquire, "owner-load-relaxed")));
        if owner & owner::TAKEN != 0 && !mutated("no-owner-word") {
            fabric.epoch.leave(line, epoch);
            return Err(Seized);
        }
        let (state, operands) = (self.core.state.ptr(), &mut self.operands);
        Ok(Pinned::new(line, fabric, &self.core, &self.rules, operands, state, epoch, owner))
    }

    fn enter_slow(&mut self) -> u64 {
        enter_slow(&self.fabric, &self.line, &mut self.parked, self.fenced, &mut self.ready)
    }

    /// Up to this ticket the bytes are real: their device said `Done` *and* a checked read-back, or the end of a
    /// clean drain, proved that the path was alive. Never moves by itself; see [`Pinned::confirm`]. It speaks of bytes
    /// written to windows. Bytes *read* from a window are proved by what they say only (a dead mapping returns all
    /// ones), or by a later confirmed write to the same window: a mapping that died does not come back.
    pub fn confirmed(&mut self) -> Ticket {
        self.peek(|state| Ticket(state.ring.confirmed)).unwrap_or_default()
    }

    /// Counters so far; while seized, as they were when the revoker took the channel.
    pub fn counters(&mut self) -> Counters {
        let exact = self.peek(|state| state.ring.tally.counters(state.ring.last));
        exact.unwrap_or_else(|| self.core.published.read())
    }

    /// Entries of the ring in flight, as published at the last unpin: one for each operation accepted and not yet
    /// completed; a list or a confirm has several.
    pub fn in_flight(&self) -> u64 {
        self.core.names.count(|_| true)
    }

    /// Name in reports.
    pub fn name(&self) -> &str {
        &self.core.meta.name
    }

    /// Why it is closing or closed; `None` while open.
    pub fn closed(&self) -> Option<Cause> {
        let owner = self.core.line.owner.load(Ordering::Acquire);
        (owner & (owner::CLOSING | owner::CLOSED) != 0).then(|| self.core.meta.cause())
    }

    /// After [`Seized`]: fetches the completions that the revoke left (revoked, aborted, or done meanwhile).
    ///
    /// # Errors
    /// [`Seized`] while the revoke is not through with the channel.
    pub fn reclaim(&mut self, into: &mut Vec<Completion>) -> Result<(), Seized> {
        let mut pinned = self.pin()?;
        let mut out = [Completion::EMPTY; 32];
        loop {
            let n = pinned.leftovers(&mut out);
            into.extend(out.iter().take(n));
            if n < out.len() {
                return Ok(());
            }
        }
    }

    /// Takes the channel off the list that revokers wait for, until the next pin. A parked channel costs a revoke
    /// no membarrier. What is in flight stays so, and is seized if a revoke needs it.
    pub fn park(&mut self) {
        if !self.parked {
            self.fabric.epoch.unregister(&self.line);
            (self.parked, self.ready) = (true, NOBODY);
        }
    }

    /// Closes the channel and waits until it is: what is in flight is cancelled if it does not end before `by.cancel`, the
    /// engine is dropped, and its queue is free for another one, unless the report says that it is in quarantine. Dropping
    /// does the same in the background. Completions that were not polled are lost. System calls, sleeps.
    ///
    /// # Errors
    /// [`WaitError::OwnPin`] if another channel of the calling thread is inside a section; then this one closes in the
    /// background.
    pub fn close(self, why: Cause, by: Deadline) -> Result<Report, WaitError> {
        let channel: Arc<dyn Erased> = self.core.clone();
        let closing = Closing { channels: vec![channel], ..Closing::default() };
        Revocation::begin_all(&self.fabric, &[], closing, Vec::new(), why, by).wait()
    }

    /// Tells the channel apart from all others that live.
    pub(crate) fn line(&self) -> &Arc<CachePadded<Line>> {
        &self.core.line
    }

    fn peek<R>(&mut self, look: impl FnOnce(&mut State<E>) -> R) -> Option<R> {
        let epoch = self.enter_slow();
        let mine = self.line.owner.load(Ordering::Acquire) & owner::TAKEN == 0;
        let result = mine.then(|| {
            let mut ptr = self.core.state.ptr();
            // SAFETY: 1. C1: pinned, and the word read after it had no TAKEN; `&mut self` keeps other pins away.
            look(unsafe { cell_mut(&mut ptr) })
        });
        self.fabric.epoch.leave(&self.line, epoch);
        result
    }
}

/// The arm of `pin` for fenced fabrics, parked channels and another thread than last time.
#[cold]
#[inline(never)]
fn enter_slow(
    fabric: &Arc<Shared>,
    line: &Arc<CachePadded<Line>>,
    parked: &mut bool,
    fenced: bool,
    ready: &mut u64,
) -> u64 {
    if *parked {
        fabric.epoch.register(line);
        *parked = false;
    }
    let me = announce_thread(line);
    if !fenced {
        *ready = me;
    }
    fabric.epoch.enter(line, fenced)
}

impl<E: Engine> Drop for Channel<E> {
    fn drop(&mut self) {
        self.fabric.epoch.unregister(&self.line);
        self.fabric.orphan(&self.core);
    }
}
