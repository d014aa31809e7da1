//! The platform's list, one checked step after the other. Who may run it is decided elsewhere: [`super::Unbind`]
//! with a proof that the device is quiet, a LOCK that failed before anything ran.

use super::{Shared, Tsm};
use crate::platform::{Refusal, Step};
use crate::requester::{Backoff, Exchange, RequestError, Stop, Turn};
use crate::state::State;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tidegate_core::Deadline;
use tidegate_core::tdi::{Host, TdiState};

/// A step and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepTime {
    /// Which.
    pub step: Step,
    /// Wall-clock.
    pub took: Duration,
}

/// Is there more to do?
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnbindProgress {
    /// Over.
    Done,
    /// In this step; turn again.
    Pending(Step),
}

/// The list under way.
#[derive(Debug)]
pub(super) struct Teardown {
    by: Deadline,
    started: Instant,
    todo: VecDeque<Step>,
    stop: Option<Exchange<Stop>>,
    /// How often the device was busy when its state was asked for.
    unheard: u32,
    pause_until: Option<Instant>,
    step_since: Instant,
    pub(super) steps: Vec<StepTime>,
    pub(super) forced: bool,
    pub(super) failed: Option<(&'static str, u32)>,
    pub(super) refusal: Option<Refusal>,
}

enum Ran {
    Done,
    /// Done by another step than the list's.
    Instead(Step),
    Again,
    Failed(u32),
}

impl Teardown {
    /// What there is to take down: the list where the firmware holds the TDI; STOP alone where it does not (it was
    /// taken away by force, or bound by somebody else) and the TDI is not CONFIG_UNLOCKED; else nothing.
    pub(super) fn new<H: Host>(shared: &Shared<H>, by: Deadline) -> Self {
        let held = shared.firmware().is_bound(shared.function);
        let list: &[Step] = match held {
            true => shared.provider.platform().steps(),
            false if shared.host.state().is_bound() => &[Step::StopInterface],
            false => &[],
        };
        Self::of(list.iter().copied().chain([Step::VerifyUnlocked]).collect(), by)
    }

    /// Failed before the first step.
    pub(super) fn refused_at(step: &'static str, by: Deadline) -> Self {
        Teardown { failed: Some((step, 0)), ..Self::of(VecDeque::new(), by) }
    }

    fn of(todo: VecDeque<Step>, by: Deadline) -> Self {
        let started = Instant::now();
        Teardown {
            by,
            started,
            todo,
            stop: None,
            unheard: 0,
            pause_until: None,
            step_since: started,
            steps: Vec::new(),
            forced: false,
            failed: None,
            refusal: None,
        }
    }

    /// The step that is not done yet, and since when it is under way.
    pub(super) fn pending(&self) -> Option<(Step, Instant)> {
        self.todo.front().map(|step| (*step, self.step_since))
    }

    /// Goes as far as it can without waiting.
    pub(super) fn turn<H: Host>(&mut self, shared: &Shared<H>, tsm: &mut Tsm) -> UnbindProgress {
        while self.failed.is_none() {
            let Some(step) = self.todo.front().copied() else { break };
            match self.run(step, shared, tsm) {
                Ran::Done => self.note(step),
                Ran::Instead(other) => self.note(other),
                Ran::Again => return UnbindProgress::Pending(step),
                Ran::Failed(code) => self.failed = Some((step.name(), code)),
            }
        }
        UnbindProgress::Done
    }

    /// Sleeps until another turn makes sense.
    pub(super) fn nap(&self) {
        if let Some(until) = self.pause_until {
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
        }
    }

    fn note(&mut self, step: Step) {
        let now = Instant::now();
        self.todo.pop_front();
        self.steps.push(StepTime { step, took: now.saturating_duration_since(self.step_since) });
        self.step_since = now;
    }

    fn run<H: Host>(&mut self, step: Step, shared: &Shared<H>, tsm: &mut Tsm) -> Ran {
        if self.pause_until.is_some_and(|until| Instant::now() < until) {
            return Ran::Again;
        }
        self.pause_until = None;
        if step == Step::VerifyUnlocked {
            return self.verify(shared, tsm);
        }
        // The platform counts what is in flight by itself, whatever token it was shown, and at every step: not
        // every list begins with STOP.
        let live = shared.host.in_flight();
        if live > 0 {
            tracing::error!(live, %step, "refused: descriptors in flight");
            return Ran::Failed(u32::try_from(live).unwrap_or(u32::MAX));
        }
        if step == Step::StopInterface {
            return self.stop(shared, tsm);
        }
        let applied = shared.firmware().apply(step, shared.function);
        self.judge(step, applied)
    }

    fn stop<H: Host>(&mut self, shared: &Shared<H>, tsm: &mut Tsm) -> Ran {
        let held = shared.firmware().is_bound(shared.function);
        if held {
            let allowed = shared.firmware().apply(Step::StopInterface, shared.function);
            if let Err(refusal) = allowed {
                return self.judge(Step::StopInterface, Err(refusal));
            }
        }
        let mut exchange = self.stop.take().unwrap_or_else(|| tsm.requester.begin_stop());
        loop {
            match tsm.requester.turn(&mut exchange) {
                Ok(Turn::Done(())) => break,
                Ok(Turn::Send) => {}
                Ok(Turn::Busy { pause, .. }) if !self.is_late() => {
                    self.stop = Some(exchange);
                    return self.again(pause);
                }
                Ok(Turn::Busy { attempts, .. }) => {
                    tracing::warn!(attempts, "STOP stays BUSY");
                    return self.force(shared);
                }
                Err(error) => {
                    tracing::warn!(%error, "STOP failed");
                    return self.force(shared);
                }
            }
        }
        if !held {
            return Ran::Done;
        }
        let observed = shared.firmware().observe(shared.function, State::ConfigUnlocked);
        self.judge(Step::StopInterface, observed)
    }

    /// The forced path: the stream is blocked, which stands for CONFIG_UNLOCKED in every precondition but the last.
    /// Where the firmware holds nothing there is no stream to block, and it says so.
    fn force<H: Host>(&mut self, shared: &Shared<H>) -> Ran {
        let blocked = shared.firmware().block_stream(shared.function);
        self.forced = blocked.is_ok();
        match self.judge(Step::BlockStream, blocked) {
            Ran::Done => Ran::Instead(Step::BlockStream),
            failed => failed,
        }
    }

    fn verify<H: Host>(&mut self, shared: &Shared<H>, tsm: &mut Tsm) -> Ran {
        let said = tsm.requester.state();
        let code = match said {
            // A device that had to be cut off is not believed: nobody saw it say that it scrubbed anything.
            Ok(State::ConfigUnlocked) if !self.forced => {
                // The firmware holds nothing of it any more.
                let _ = shared.confirmed(State::ConfigUnlocked);
                return Ran::Done;
            }
            Err(RequestError::Busy { .. }) if !self.is_late() => {
                self.unheard = self.unheard.saturating_add(1);
                return self.again(Backoff::default().pause(self.unheard));
            }
            Ok(state) => u8::from(crate::wire::TdiState::from(state)).into(),
            Err(RequestError::Refused { code, .. }) => code.into(),
            Err(_) => u32::MAX,
        };
        shared.tell(TdiState::Error);
        Ran::Failed(code)
    }

    fn judge(&mut self, step: Step, did: Result<(), Refusal>) -> Ran {
        match did {
            Ok(()) => Ran::Done,
            Err(refusal) => {
                tracing::error!(%step, %refusal, "the platform refused");
                self.refusal = Some(refusal);
                Ran::Failed(0)
            }
        }
    }

    fn is_late(&self) -> bool {
        self.started.elapsed() >= self.by.force.max(self.by.cancel)
    }

    fn again(&mut self, pause: Duration) -> Ran {
        self.pause_until = Instant::now().checked_add(pause);
        Ran::Again
    }
}
