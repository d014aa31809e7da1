//! What all queues of an 82576 share: reset, link, filters.
//!
//! Nothing here waits. Going down and coming up are asked for, and asked after; only `open` sleeps in between, on its
//! caller's thread. An engine looks in under a lock that it only tries to take.

use super::registers as reg;
use crate::backend::{Backend, Registers};
use crate::device::{DriverError, Resources};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long a function may take until its last request has ended, once it was told to make no more.
const REQUESTS: Duration = Duration::from_millis(100);
/// After a reset the registers are left alone for so long (datasheet 4.6.1).
const HANDS_OFF: Duration = Duration::from_millis(1);
/// How long a reset may take.
const RESET: Duration = Duration::from_secs(1);
/// How long the PHY may take for an access.
const PHY: Duration = Duration::from_millis(100);
/// How long the link may take to come up. Copper takes up to 3 s.
const LINK: Duration = Duration::from_secs(5);

/// The shared part of a function.
pub(super) struct Mac<B: Backend> {
    core: Mutex<Core<B>>,
    /// Resets that were completed. A queue that was switched on before the last one is off.
    resets: AtomicU64,
}

pub(super) struct Core<B: Backend> {
    bar: B::Bar,
    power: Power,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    /// As far as is known it is set up, or a former owner's.
    Up,
    /// It was told to make no more requests.
    Ending(Instant),
    Resetting(Instant),
    Down,
}

/// How far a reset has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Done,
    Pending,
    /// It does not end.
    Failed,
    /// Its registers read all-ones.
    Gone,
}

impl<B: Backend> Mac<B> {
    /// Takes the registers; [`Mac::ready`] sets the function up.
    pub(super) fn open(resources: &Resources<B>) -> Result<Mac<B>, DriverError> {
        let (at, bar) = (resources.address(), resources.bar(0)?);
        let (len, status) = (bar.len(), bar.read32(reg::STATUS));
        if len < reg::BAR_LEN || status == u32::MAX {
            return Err(DriverError::Kind { at, kind: "82576", found: u64::from(status) });
        }
        Ok(Mac { core: Mutex::new(Core { bar, power: Power::Up }), resets: AtomicU64::new(0) })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core<B>> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is behind the lock, if nobody has it.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Core<B>>> {
        match self.core.try_lock() {
            Ok(core) => Some(core),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Resets that were completed.
    pub(super) fn resets(&self) -> u64 {
        self.resets.load(Ordering::Acquire)
    }

    /// Makes sure that the function is set up and its link up. `alone`: no other engine has a queue of it, so it is reset,
    /// whatever a former owner left. Sleeps.
    pub(super) fn ready(
        &self,
        core: &mut Core<B>,
        resources: &Resources<B>,
        alone: bool,
    ) -> Result<(), DriverError> {
        let at = resources.address();
        if alone || core.power != Power::Up || !is_set_up(&core.bar) {
            self.restart(core, resources)?;
        }
        if !resources.wait(LINK, || core.bar.read32(reg::STATUS) & reg::STATUS_LINK != 0) {
            return Err(DriverError::Unresponsive {
                at,
                what: "bring its link up (STATUS.LU): is there a cable?",
            });
        }
        Ok(())
    }

    fn restart(&self, core: &mut Core<B>, resources: &Resources<B>) -> Result<(), DriverError> {
        let at = resources.address();
        let mut turn = Turn::Pending;
        resources.wait(REQUESTS + 2 * RESET, || {
            turn = self.turn_down(core);
            turn != Turn::Pending
        });
        if turn != Turn::Done {
            return Err(DriverError::Unresponsive { at, what: "end its reset (CTRL.RST)" });
        }
        let phy = core.phy(resources, reg::MDIC_READ, reg::PHY_ID, 0)?;
        if phy != reg::PHY_ID_VALUE {
            return Err(DriverError::Kind { at, kind: "82576", found: u64::from(phy) });
        }
        core.set_up();
        core.phy(resources, reg::MDIC_WRITE, reg::PHY_CONTROL, reg::PHY_CONTROL_NEGOTIATE)?;
        core.power = Power::Up;
        Ok(())
    }

    /// Goes on resetting it, which ends all that it does. Other queues' engines must be gone.
    pub(super) fn turn_down(&self, core: &mut Core<B>) -> Turn {
        let was_down = core.power == Power::Down;
        let turn = core.turn_down();
        if turn == Turn::Done && !was_down {
            // Release: who knows of it knows that it has ended.
            self.resets.fetch_add(1, Ordering::Release);
        }
        turn
    }
}

impl<B: Backend> Core<B> {
    fn turn_down(&mut self) -> Turn {
        match self.power {
            Power::Up => {
                let control = self.bar.read32(reg::CTRL);
                if control == u32::MAX {
                    return Turn::Gone;
                }
                self.bar.write32(reg::CTRL, control | reg::CTRL_MASTER_DISABLE);
                self.power = Power::Ending(Instant::now());
                Turn::Pending
            }
            Power::Ending(since) => {
                let status = self.bar.read32(reg::STATUS);
                if status == u32::MAX {
                    return Turn::Gone;
                }
                // Past its time a request hangs, which a reset ends too, if less gently.
                if status & reg::STATUS_MASTER == 0 || since.elapsed() > REQUESTS {
                    self.bar.write32(reg::CTRL, reg::CTRL_MASTER_DISABLE | reg::CTRL_RESET);
                    self.power = Power::Resetting(Instant::now());
                }
                Turn::Pending
            }
            Power::Resetting(since) if since.elapsed() < HANDS_OFF => Turn::Pending,
            Power::Resetting(since) => match self.bar.read32(reg::CTRL) {
                u32::MAX => Turn::Gone,
                control if control & reg::CTRL_RESET == 0 => {
                    self.power = Power::Down;
                    Turn::Done
                }
                _ if since.elapsed() > RESET => Turn::Failed,
                _ => Turn::Pending,
            },
            Power::Down => Turn::Done,
        }
    }

    /// Has somebody begun to reset it?
    pub(super) fn is_going_down(&self) -> bool {
        self.power != Power::Up
    }

    /// After a reset: no interrupts, strict order, every frame on the wire to queue 0, all queues off.
    fn set_up(&self) {
        let bar = &self.bar;
        bar.write32(reg::IMC, u32::MAX);
        bar.write32(reg::EIMC, u32::MAX);
        bar.read32(reg::ICR);
        for queue in 0..reg::QUEUES {
            // A reset leaves queue 0 on.
            bar.write32(reg::receive(queue, reg::CONTROL), 0);
            bar.write32(reg::transmit(queue, reg::CONTROL), 0);
        }
        let extended = bar.read32(reg::CTRL_EXT);
        bar.write32(reg::CTRL_EXT, extended | reg::CTRL_EXT_STRICT_ORDER | reg::CTRL_EXT_DRIVER);
        bar.write32(reg::MRQC, 0);
        bar.write32(reg::RXCSUM, 0);
        bar.write32(reg::RCTL, reg::RCTL_ENABLE | reg::RCTL_ALL | reg::RCTL_LONG | reg::RCTL_STRIP_CHECK);
        bar.write32(reg::TCTL, reg::TCTL_ENABLE | reg::TCTL_PAD | reg::TCTL_COLLISIONS);
        let control = bar.read32(reg::CTRL) & !(reg::CTRL_MASTER_DISABLE | reg::CTRL_VLAN);
        bar.write32(reg::CTRL, control | reg::CTRL_SET_LINK_UP);
    }

    /// Reads or writes a register of the PHY: 16 bits.
    fn phy(
        &self,
        resources: &Resources<B>,
        operation: u32,
        register: u32,
        value: u32,
    ) -> Result<u32, DriverError> {
        let at = resources.address();
        let word = operation | reg::MDIC_PHY | register << reg::MDIC_REGISTER | value;
        self.bar.write32(reg::MDIC, word);
        let mut answer = 0;
        let ready = resources.wait(PHY, || {
            answer = self.bar.read32(reg::MDIC);
            answer & reg::MDIC_READY != 0
        });
        if !ready || answer & reg::MDIC_ERROR != 0 {
            return Err(DriverError::Unresponsive { at, what: "reach its PHY (MDIC)" });
        }
        Ok(answer & 0xffff)
    }
}

/// Was the function set up, and not reset since?
pub(super) fn is_set_up<R: Registers>(bar: &R) -> bool {
    let (receive, transmit) = (bar.read32(reg::RCTL), bar.read32(reg::TCTL));
    receive != u32::MAX && receive & reg::RCTL_ENABLE != 0 && transmit & reg::TCTL_ENABLE != 0
}
