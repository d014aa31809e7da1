//! A controller: its registers, its admin queue, and how it comes up and goes down. All engines of a device share it.
//!
//! Nothing here waits: coming up, going down and each admin command are asked for, and asked after. Only `open` sleeps in
//! between, on its caller's thread. Engines look in under a lock that they only try to take: who finds it taken asks again.

use super::AdminQueues;
use super::abi::{self, Cap, Completion};
use super::buffer::{Buffer, Found};
use super::command::Command;
use super::identify::Features;
use super::pair::{Pair, Place};
use crate::backend::{Backend, Registers};
use crate::device::{Claim, DmaMemory, DriverError, Resources};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// Entries of the admin queues.
pub(super) const ENTRIES: u16 = 32;
/// The claim that stands for the controller: no I/O queue has this number.
const CLAIM: u32 = 0;
/// How long an admin command may take in `open`.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// What is added to the time that the controller asks for: CAP.TO may be 0.
const GRACE: Duration = Duration::from_millis(500);
/// How often a dropped controller looks whether it has stopped, before it leaks its memory.
const LAST_LOOKS: u32 = 1000;

/// A controller.
pub(super) struct Controller<B: Backend> {
    core: Mutex<Core<B>>,
    pub(super) cap: Cap,
    pub(super) features: Features,
    /// Where its own queues are.
    pub(super) admin: AdminQueues,
    /// Its memory buffer, or why it is not used.
    buffer: Result<Arc<Buffer>, DriverError>,
    /// How often it has stopped. Queues made before that are gone.
    stops: AtomicU32,
    /// Who asks for identify data: there is one page for it.
    asking: Mutex<()>,
}

/// What is behind the lock.
pub(super) struct Core<B: Backend> {
    bar: B::Bar,
    /// `None` only while dropped.
    hold: Option<Hold<B>>,
    commands: [Slot; ENTRIES as usize - 1],
    /// How often they were all forgotten.
    life: u32,
    power: Power,
    since: Instant,
    /// How long it may take to come up or go down.
    limit: Duration,
    /// CAP.CMBS.
    has_buffer: bool,
}

/// An admin command: its identifier, and in which life of the controller's. Identifiers are used again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    id: u16,
    life: u32,
}

/// What the controller may touch, and what keeps others from it.
struct Hold<B: Backend> {
    pair: Pair<B, true>,
    /// For identify data.
    page: DmaMemory<B>,
    /// Its addresses are the controller's as long as it may look there.
    buffer: Option<Arc<Buffer>>,
    _claim: Claim,
}

/// A place for an admin command; its number is the command's identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    Out,
    /// Nobody will ask after it.
    Abandoned,
    Ended(Completion),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    Down,
    /// CC.EN is 0; CSTS.RDY is not yet.
    Stopping,
    /// CC.EN is 1; CSTS.RDY is not yet.
    Starting,
    /// It is ready, and was asked for queues.
    Asked(Asked),
    Up,
}

/// How far something has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Done,
    Pending,
    /// It does not do it.
    Failed,
    /// Its registers read all-ones.
    Gone,
}

impl<B: Backend> Controller<B> {
    /// Takes the controller: stops it if a former owner left it on, starts it with an admin queue, and identifies it. Sleeps.
    /// Where it has no place for its queues as `admin` says it is not even stopped.
    pub(super) fn open(resources: &Resources<B>, admin: AdminQueues) -> Result<Self, DriverError> {
        let at = resources.address();
        let unresponsive = |what| DriverError::Unresponsive { at, what };
        let claim = resources.claim(CLAIM)?;
        let bar = resources.bar(0)?;
        let raw = bar.read64(abi::CAP);
        let cap = Cap(raw);
        if raw == u64::MAX || !cap.is_nvm() {
            return Err(DriverError::Kind { at, kind: "NVMe controller", found: raw });
        }
        if cap.least_page() > abi::PAGE {
            return Err(unresponsive("take pages of 4096 bytes"));
        }
        let found = Found::look(&bar, cap, resources);
        if admin != AdminQueues::Host {
            found.clone()?.takes(admin)?;
        }
        let mut buffer = found.and_then(|found| found.reserve(resources)).map(Arc::new);
        let place = match admin {
            AdminQueues::Host => Place::Host,
            _ => buffer.clone()?.admin(resources, admin)?,
        };
        let memory = resources.memory("NVMe admin queues", Pair::<B, true>::bytes(ENTRIES))?;
        let pair = Pair::new(0, ENTRIES, cap.stride(), memory, place);
        let page = resources.memory("NVMe identify data", abi::PAGE)?;
        let mut core = Core {
            bar,
            hold: Some(Hold { pair, page, buffer: buffer.clone().ok(), _claim: claim }),
            commands: [Slot::Free; ENTRIES as usize - 1],
            life: 0,
            // It may be up: going down tells.
            power: Power::Stopping,
            since: Instant::now(),
            limit: Duration::from_millis(500) * cap.timeout() + GRACE,
            has_buffer: cap.has_cmb(),
        };
        core.down();
        let limit = core.limit;
        let mut turn = Turn::Pending;
        resources.wait(2 * limit + PATIENCE, || {
            turn = core.turn_down();
            turn != Turn::Pending
        });
        if turn != Turn::Done {
            return Err(unresponsive("stop (CSTS.RDY)"));
        }
        if let Some(refused) = core.refused_buffer() {
            if admin != AdminQueues::Host {
                return Err(refused);
            }
            buffer = Err(refused);
        }
        turn = Turn::Pending;
        resources.wait(2 * limit + PATIENCE, || {
            turn = core.turn_up();
            turn != Turn::Pending
        });
        if turn != Turn::Done {
            return Err(unresponsive("become ready (CSTS.RDY)"));
        }
        let core = Mutex::new(core);
        let features = Features::parse(&identify(&core, resources, 1, 0)?);
        let (stops, asking) = (AtomicU32::new(0), Mutex::default());
        Ok(Controller { core, cap, features, admin, buffer, stops, asking })
    }

    /// Its memory buffer.
    pub(super) fn buffer(&self) -> Result<&Buffer, DriverError> {
        self.buffer.as_deref().map_err(Clone::clone)
    }

    /// Identify for a namespace. Sleeps, without the lock: others' queues can be stopped meanwhile.
    pub(super) fn namespace(&self, resources: &Resources<B>, id: u32) -> Result<Vec<u8>, DriverError> {
        let _alone = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        identify(&self.core, resources, 0, id)
    }

    /// What is behind the lock, if nobody has it.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Core<B>>> {
        match self.core.try_lock() {
            Ok(core) => Some(core),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(super) fn stops(&self) -> u32 {
        self.stops.load(Ordering::Acquire)
    }

    /// Goes on stopping it: the force behind a queue that does not end.
    pub(super) fn turn_down(&self, core: &mut Core<B>) -> Turn {
        let was_down = core.power == Power::Down;
        if matches!(core.power, Power::Up | Power::Asked(_) | Power::Starting) {
            core.down();
        }
        let turn = core.turn_down();
        if turn == Turn::Done && !was_down {
            // Release: that it is down is known before that its queues are gone.
            self.stops.fetch_add(1, Ordering::Release);
        }
        turn
    }

    /// Goes on starting it.
    pub(super) fn turn_up(&self, core: &mut Core<B>) -> Turn {
        if core.power == Power::Stopping {
            let turn = self.turn_down(core);
            if turn != Turn::Done {
                return turn;
            }
        }
        core.turn_up()
    }
}

impl<B: Backend> Core<B> {
    fn down(&mut self) {
        self.bar.write32(abi::CC, self.bar.read32(abi::CC) & !abi::CC_ENABLE);
        (self.power, self.since) = (Power::Stopping, Instant::now());
    }

    fn turn_down(&mut self) -> Turn {
        if self.power == Power::Down {
            return Turn::Done;
        }
        match self.bar.read32(abi::CSTS) {
            u32::MAX => Turn::Gone,
            status if status & abi::CSTS_READY == 0 => {
                // It does no DMA any more, and has forgotten its queues and what was in them.
                self.power = Power::Down;
                self.commands = [Slot::Free; ENTRIES as usize - 1];
                self.life = self.life.wrapping_add(1);
                Turn::Done
            }
            _ if self.since.elapsed() > self.limit => Turn::Failed,
            _ => Turn::Pending,
        }
    }

    fn turn_up(&mut self) -> Turn {
        match self.power {
            Power::Up => return Turn::Done,
            Power::Stopping => return Turn::Pending,
            Power::Down => {
                let Some(hold) = &mut self.hold else { return Turn::Failed };
                // First: the queues may be in it, and have to be there when the controller starts.
                let enabled = match &hold.buffer {
                    Some(buffer) => buffer.enable(&self.bar),
                    // Where a former owner let it answer something else may be mapped by now.
                    None if self.has_buffer => {
                        self.bar.write64(abi::CMBMSC, 0);
                        true
                    }
                    None => true,
                };
                if !enabled || !hold.pair.restart() {
                    // All-ones look like a refusal.
                    return if self.look() == Turn::Gone { Turn::Gone } else { Turn::Failed };
                }
                let ((commands, completions), last) = (hold.pair.addresses(), u32::from(ENTRIES) - 1);
                self.bar.write32(abi::AQA, last << 16 | last);
                self.bar.write64(abi::ASQ, commands);
                self.bar.write64(abi::ACQ, completions);
                self.bar.write32(abi::CC, abi::CC_VALUE);
                (self.power, self.since) = (Power::Starting, Instant::now());
            }
            Power::Starting | Power::Asked(_) => {}
        }
        if let Power::Asked(id) = self.power {
            return match self.ended(id) {
                Some(Completion { status: abi::status::SUCCESS, .. }) => {
                    self.power = Power::Up;
                    Turn::Done
                }
                Some(_) => Turn::Failed,
                None if self.since.elapsed() > PATIENCE => Turn::Failed,
                None => self.look(),
            };
        }
        match self.bar.read32(abi::CSTS) {
            u32::MAX => Turn::Gone,
            status if status & abi::CSTS_FATAL != 0 => Turn::Failed,
            status if status & abi::CSTS_READY != 0 => {
                // Before any I/O queue is made. It may give fewer: then making one fails.
                let Some(id) = self.begin(Command::queues(u16::MAX)) else { return Turn::Failed };
                (self.power, self.since) = (Power::Asked(id), Instant::now());
                Turn::Pending
            }
            _ if self.since.elapsed() > self.limit => Turn::Failed,
            _ => Turn::Pending,
        }
    }

    /// Does it still answer, as one that is up?
    pub(super) fn look(&self) -> Turn {
        match self.bar.read32(abi::CSTS) {
            u32::MAX => Turn::Gone,
            status if status & abi::CSTS_FATAL != 0 => Turn::Failed,
            // Somebody stopped or reset it.
            status if status & abi::CSTS_READY == 0 => Turn::Failed,
            _ => Turn::Pending,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.power == Power::Up
    }

    /// Gives the controller an admin command. `None`: no room.
    pub(super) fn begin(&mut self, command: Command) -> Option<Asked> {
        self.reap();
        let (id, slot) = (0..).zip(&mut self.commands).find(|(_, slot)| **slot == Slot::Free)?;
        let hold = self.hold.as_mut()?;
        *slot = Slot::Out;
        hold.pair.post(&command.id(id));
        hold.pair.ring(&self.bar);
        Some(Asked { id, life: self.life })
    }

    /// Does the controller still know of it? One that was stopped since has forgotten it, and says nothing.
    fn knows(&self, asked: Asked) -> bool {
        asked.life == self.life
    }

    /// How it ended; asked after once it has, its place is free again.
    pub(super) fn ended(&mut self, asked: Asked) -> Option<Completion> {
        self.reap();
        if !self.knows(asked) {
            return None;
        }
        let slot = self.commands.get_mut(usize::from(asked.id))?;
        let Slot::Ended(completion) = *slot else { return None };
        *slot = Slot::Free;
        Some(completion)
    }

    /// Nobody will ask after it.
    pub(super) fn abandon(&mut self, asked: Asked) {
        let knows = self.knows(asked);
        if let Some(slot) = self.commands.get_mut(usize::from(asked.id)).filter(|_| knows) {
            *slot = if *slot == Slot::Out { Slot::Abandoned } else { Slot::Free };
        }
    }

    fn reap(&mut self) {
        let Some(Hold { pair, .. }) = &mut self.hold else { return };
        while let Some(completion) = pair.take() {
            // What names nothing is of a former life, or an invention.
            match self.commands.get_mut(usize::from(completion.id)) {
                Some(slot) if *slot == Slot::Out => *slot = Slot::Ended(completion),
                Some(slot) if *slot == Slot::Abandoned => *slot = Slot::Free,
                _ => tracing::warn!(id = completion.id, "NVMe admin completion of no command"),
            }
        }
        pair.consume(&self.bar);
    }

    /// Lets go of a memory buffer whose address the controller does not take, and says so. Only while it is down.
    fn refused_buffer(&mut self) -> Option<DriverError> {
        if self.look() == Turn::Gone {
            return None;
        }
        let buffer = self.hold.as_mut()?.buffer.take_if(|buffer| !buffer.enable(&self.bar))?;
        self.bar.write64(abi::CMBMSC, 0);
        Some(buffer.refused())
    }
}

/// Identify, to its end: `what` is the CNS.
fn identify<B: Backend>(
    core: &Mutex<Core<B>>,
    resources: &Resources<B>,
    what: u32,
    namespace: u32,
) -> Result<Vec<u8>, DriverError> {
    let at = resources.address();
    let lock = || core.lock().unwrap_or_else(PoisonError::into_inner);
    let unresponsive = DriverError::Unresponsive { at, what: "answer Identify" };
    let begin = |core: &mut Core<B>| {
        core.reap();
        // One that nobody waits for may still be written to the page.
        if core.commands.contains(&Slot::Abandoned) {
            return None;
        }
        let page = core.hold.as_ref()?.page.iova();
        core.begin(Command::identify(what, namespace, page))
    };
    let asked = begin(&mut lock()).ok_or_else(|| unresponsive.clone())?;
    let mut ended = None;
    resources.wait(PATIENCE, || {
        let mut core = lock();
        ended = core.ended(asked);
        ended.is_some() || !core.knows(asked) || core.look() != Turn::Pending
    });
    let mut core = lock();
    match ended {
        Some(completion) if completion.status == abi::status::SUCCESS => {
            let mut data = vec![0; abi::PAGE as usize];
            if let Some(hold) = &core.hold {
                hold.page.memory().read(0, &mut data)?;
            }
            Ok(data)
        }
        Some(Completion { status: code, .. }) => Err(DriverError::Refused { at, what: "identify", code }),
        None => {
            core.abandon(asked);
            Err(unresponsive)
        }
    }
}

impl<B: Backend> Drop for Core<B> {
    /// Stops the controller; without a command out it has nothing to do, and hears of nothing new.
    fn drop(&mut self) {
        let idle = self.commands.iter().all(|slot| matches!(slot, Slot::Free | Slot::Ended(_)));
        if self.power != Power::Down {
            self.down();
        }
        if idle || (0..LAST_LOOKS).any(|_| self.turn_down() == Turn::Done) {
            return;
        }
        tracing::warn!("NVMe controller is dropped with admin commands under way: its memory is leaked");
        std::mem::forget(self.hold.take());
    }
}
