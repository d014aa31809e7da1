//! Unbind: the platform's list, one checked step after the other.

use super::Shared;
use crate::platform::{Refusal, Step};
use crate::requester::{Exchange, RequestError, Stop, Turn};
use crate::state::State;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_core::tdi::Host;
use tidegate_core::{Deadline, Quiesced};

/// Pause between two STOPs that a device answered with BUSY.
const BUSY_PAUSE: Duration = Duration::from_micros(200);

/// A step and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepTime {
    /// Which.
    pub step: Step,
    /// Wall-clock.
    pub took: Duration,
}

/// How an unbind ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum UnbindOutcome {
    /// CONFIG_UNLOCKED, verified. The proof comes back: restore it to use the device in shared mode.
    Unbound(Quiesced),
    /// A step was refused or failed; nothing after it was done.
    Failed {
        /// Which: a step of the platform, or `quiesced` if the proof does not fit.
        step: &'static str,
        /// Descriptors in flight, an error code of TDISP, or 0.
        code: u32,
        /// The proof.
        back: Option<Quiesced>,
    },
}

/// What an unbind did.
#[derive(Debug)]
#[must_use]
pub struct UnbindReport {
    /// How it ended.
    pub outcome: UnbindOutcome,
    /// Steps done, in order.
    pub steps: Vec<StepTime>,
    /// STOP failed and the stream was blocked instead: reset the device before it is bound again.
    pub forced: bool,
}

/// Is there more to do?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnbindProgress {
    /// Over.
    Done,
    /// In this step; turn again.
    Pending(Step),
}

/// An unbind under way; a state machine: [`Unbind::turn`] never waits (a step is a call into the platform). Dropped
/// unfinished, the device's gate stays closed.
#[derive(Debug)]
#[must_use = "turn or wait it; dropped, the device's gate stays closed"]
pub struct Unbind<'a, H: Host> {
    shared: &'a Arc<Shared<H>>,
    by: Deadline,
    started: Instant,
    q: Option<Quiesced>,
    todo: VecDeque<Step>,
    stop: Option<Exchange<Stop>>,
    pause_until: Option<Instant>,
    step_since: Instant,
    steps: Vec<StepTime>,
    forced: bool,
    failed: Option<(&'static str, u32)>,
}

enum Ran {
    Done,
    Again,
    Failed(u32),
}

impl<'a, H: Host> Unbind<'a, H> {
    pub(super) fn new(shared: &'a Arc<Shared<H>>, q: Quiesced, by: Deadline) -> Self {
        let now = Instant::now();
        let fits = q.is_for(shared.host.gate());
        let mut todo: VecDeque<Step> = VecDeque::new();
        if fits {
            // Whatever was proved of this bind is over.
            if let Some(bind) = shared.tsm().bind.take() {
                bind.set_running(false);
            }
            if shared.provider.firmware().is_bound(shared.function) {
                todo.extend(shared.provider.platform().steps());
            }
            todo.push_back(Step::VerifyUnlocked);
        }
        Unbind {
            shared,
            by,
            started: now,
            q: Some(q),
            todo,
            stop: None,
            pause_until: None,
            step_since: now,
            steps: Vec::new(),
            forced: false,
            failed: (!fits).then_some(("quiesced", 0)),
        }
    }

    /// Does the next step, or asks again for one that is pending.
    pub fn turn(&mut self) -> UnbindProgress {
        while self.failed.is_none() {
            let Some(step) = self.todo.front().copied() else { break };
            match self.run(step) {
                Ran::Done => {
                    self.todo.pop_front();
                    self.note(step);
                }
                Ran::Again => return UnbindProgress::Pending(step),
                Ran::Failed(code) => self.failed = Some((step.name(), code)),
            }
        }
        UnbindProgress::Done
    }

    /// Turns until done. Past the `force` deadline a device that does not stop is cut off by the platform's forced
    /// path.
    pub fn wait(mut self) -> UnbindReport {
        while let UnbindProgress::Pending(_) = self.turn() {
            std::thread::sleep(BUSY_PAUSE);
        }
        self.finish()
    }

    /// The report, once [`Unbind::turn`] said `Done`.
    pub fn finish(mut self) -> UnbindReport {
        let q = self.q.take();
        let outcome = match (self.failed, q) {
            (None, Some(q)) if self.todo.is_empty() => UnbindOutcome::Unbound(q),
            (Some((step, code)), back) => UnbindOutcome::Failed { step, code, back },
            (None, back) => {
                let step = self.todo.front().map_or("finished", |step| step.name());
                UnbindOutcome::Failed { step, code: 0, back }
            }
        };
        UnbindReport { outcome, steps: std::mem::take(&mut self.steps), forced: self.forced }
    }

    fn note(&mut self, step: Step) {
        let now = Instant::now();
        self.steps.push(StepTime { step, took: now.saturating_duration_since(self.step_since) });
        self.step_since = now;
    }

    fn run(&mut self, step: Step) -> Ran {
        match step {
            Step::StopInterface => self.stop(),
            Step::VerifyUnlocked => self.verify(),
            _ => match self.shared.provider.firmware().apply(step, self.shared.function) {
                Ok(()) => Ran::Done,
                Err(refusal) => self.refused(step, refusal),
            },
        }
    }

    /// The platform counts what is in flight by itself, whatever token it was shown; then STOP goes to the device.
    fn stop(&mut self) -> Ran {
        if self.pause_until.is_some_and(|until| Instant::now() < until) {
            return Ran::Again;
        }
        let host = &self.shared.host;
        let live = host.in_flight();
        if live > 0 {
            tracing::error!(live, "STOP refused: descriptors in flight");
            return Ran::Failed(u32::try_from(live).unwrap_or(u32::MAX));
        }
        if let Err(refusal) = self.shared.provider.firmware().apply(Step::StopInterface, self.shared.function)
        {
            return self.refused(Step::StopInterface, refusal);
        }
        let mut tsm = self.shared.tsm();
        let mut exchange = self.stop.take().unwrap_or_else(|| tsm.requester.begin_stop());
        loop {
            match tsm.requester.turn(&mut exchange) {
                Ok(Turn::Done(())) => break,
                Ok(Turn::Send) => {}
                Ok(Turn::Busy { attempts }) => {
                    if self.started.elapsed() >= self.by.force {
                        drop(tsm);
                        tracing::warn!(attempts, "STOP stays BUSY: blocking the stream");
                        return self.force();
                    }
                    self.stop = Some(exchange);
                    self.pause_until = Instant::now().checked_add(BUSY_PAUSE);
                    return Ran::Again;
                }
                Err(error) => {
                    drop(tsm);
                    tracing::warn!(%error, "STOP failed: blocking the stream");
                    return self.force();
                }
            }
        }
        drop(tsm);
        match self.shared.provider.firmware().observe(self.shared.function, State::ConfigUnlocked) {
            Ok(()) => Ran::Done,
            Err(refusal) => self.refused(Step::StopInterface, refusal),
        }
    }

    /// The forced path: the stream is blocked, which stands for CONFIG_UNLOCKED in every precondition but the last.
    fn force(&mut self) -> Ran {
        self.forced = true;
        match self.shared.provider.firmware().block_stream(self.shared.function) {
            Ok(()) => {
                self.note(Step::BlockStream);
                Ran::Done
            }
            Err(refusal) => self.refused(Step::BlockStream, refusal),
        }
    }

    fn verify(&mut self) -> Ran {
        let state = self.shared.tsm().requester.state();
        match state {
            Ok(State::ConfigUnlocked) => {
                // The firmware may hold nothing of it any more; the host learns it in any case.
                let _ = self.shared.confirmed(State::ConfigUnlocked);
                Ran::Done
            }
            Ok(state) => {
                let _ = self.shared.confirmed(state);
                Ran::Failed(state as u32)
            }
            Err(RequestError::Refused { code, .. }) => Ran::Failed(u32::from(code)),
            Err(_) => Ran::Failed(u32::MAX),
        }
    }

    fn refused(&self, step: Step, refusal: Refusal) -> Ran {
        tracing::error!(%step, %refusal, "the platform refused");
        Ran::Failed(1)
    }
}
