//! How a pair of queues comes into being, and how it ends. Nothing here waits: each call goes as far as it can.

use super::abi::status;
use super::command::Command;
use super::controller::{Asked, Core, Turn};
use super::queue::NvmeEngine;
use crate::backend::Backend;
use crate::engine::code;
use std::time::{Duration, Instant};
use tidegate_core::engine::Cancel;

/// How long the controller may take to delete a queue, before it is stopped as a whole.
const PATIENCE: Duration = Duration::from_secs(1);
/// Invalid Queue Identifier: there is no such queue to delete.
const NO_QUEUE: u16 = 0x101;

/// What a pair of queues is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Starting(Start),
    Running,
    Stopping(Stop, Instant),
    /// The queues are not there, or the controller is not up.
    Stopped,
}

/// What is next, or the admin command that is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// The controller comes up.
    Controller,
    Completions(Option<Asked>),
    Submissions(Option<Asked>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// A command of [`Start`] ends.
    Await(Asked),
    Submissions(Option<Asked>),
    Completions(Option<Asked>),
    /// The controller goes down.
    Controller,
}

impl<B: Backend> NvmeEngine<B> {
    /// Goes on making the queues.
    pub(super) fn start(&mut self) {
        let State::Starting(mut step) = self.state else { return };
        let Some(hold) = &self.hold else { return };
        let controller = hold.controller.clone();
        let Some(mut core) = controller.try_lock() else { return };
        if step != Start::Controller && controller.stops() != self.life {
            // It was stopped for another queue's sake.
            step = Start::Controller;
        }
        let (commands, completions) = hold.pair.addresses();
        let (id, entries) = (self.id, hold.pair.entries());
        loop {
            let (next, trouble) = match step {
                Start::Controller => match controller.turn_up(&mut core) {
                    Turn::Done => {
                        self.life = controller.stops();
                        (Some(Start::Completions(None)), None)
                    }
                    Turn::Pending => (None, None),
                    Turn::Failed => (None, Some(code::FAILED)),
                    Turn::Gone => (None, Some(code::GONE)),
                },
                Start::Completions(None) => {
                    let create = Command::create_completion_queue(id, entries, completions);
                    (core.begin(create).map(|id| Start::Completions(Some(id))), None)
                }
                Start::Submissions(None) => {
                    let create = Command::create_submission_queue(id, entries, commands);
                    (core.begin(create).map(|id| Start::Submissions(Some(id))), None)
                }
                Start::Completions(Some(out)) | Start::Submissions(Some(out)) => match core.ended(out) {
                    None => (None, trouble(&core)),
                    Some(ended) if ended.status != status::SUCCESS => {
                        self.refused = Some(ended.status);
                        // Not to be asked after again.
                        step = Start::Controller;
                        (None, Some(code::FAILED))
                    }
                    Some(_) if matches!(step, Start::Completions(_)) => {
                        (Some(Start::Submissions(None)), None)
                    }
                    Some(_) => {
                        self.state = State::Running;
                        return;
                    }
                },
            };
            self.trouble = trouble;
            match next {
                Some(next) => step = next,
                None => break,
            }
        }
        self.state = State::Starting(step);
    }

    /// Are the queues there, though not for long?
    pub(super) fn is_deleting(&self) -> bool {
        matches!(self.state, State::Stopping(Stop::Submissions(_), _))
    }

    /// Goes on ending them.
    pub(super) fn stop(&mut self) -> Cancel {
        let now = Instant::now();
        let (mut step, since) = match self.state {
            State::Stopped => return Cancel::Stopped,
            State::Running => (Stop::Submissions(None), now),
            State::Starting(Start::Completions(Some(id)) | Start::Submissions(Some(id))) => {
                (Stop::Await(id), now)
            }
            State::Starting(_) => (Stop::Submissions(None), now),
            State::Stopping(step, since) => (step, since),
        };
        self.state = State::Stopping(step, since);
        let Some(hold) = &self.hold else { return Cancel::Stopped };
        let controller = hold.controller.clone();
        if controller.stops() != self.life {
            // It was down since: it has forgotten the queues.
            self.state = State::Stopped;
            return Cancel::Stopped;
        }
        let Some(mut core) = controller.try_lock() else { return Cancel::Pending };
        loop {
            if !core.is_up() {
                step = Stop::Controller;
            }
            let next = match step {
                Stop::Await(id) => core.ended(id).map(|_| Stop::Submissions(None)),
                Stop::Submissions(None) => {
                    let delete = Command::delete_submission_queue(self.id);
                    core.begin(delete).map(|id| Stop::Submissions(Some(id)))
                }
                Stop::Completions(None) => {
                    let delete = Command::delete_completion_queue(self.id);
                    core.begin(delete).map(|id| Stop::Completions(Some(id)))
                }
                Stop::Submissions(Some(id)) | Stop::Completions(Some(id)) => match core.ended(id) {
                    None => None,
                    Some(ended) if !matches!(ended.status, status::SUCCESS | NO_QUEUE) => {
                        Some(Stop::Controller)
                    }
                    Some(_) if matches!(step, Stop::Submissions(_)) => Some(Stop::Completions(None)),
                    Some(_) => {
                        self.state = State::Stopped;
                        return Cancel::Stopped;
                    }
                },
                Stop::Controller => {
                    let cancel = match controller.turn_down(&mut core) {
                        Turn::Done => Cancel::Stopped,
                        Turn::Pending => Cancel::Pending,
                        Turn::Failed => Cancel::Impossible,
                        Turn::Gone => {
                            self.trouble = Some(code::GONE);
                            Cancel::Impossible
                        }
                    };
                    let done = cancel == Cancel::Stopped;
                    self.state = if done { State::Stopped } else { State::Stopping(step, since) };
                    return cancel;
                }
            };
            match next {
                Some(next) => step = next,
                None => break,
            }
        }
        match core.look() {
            Turn::Gone => {
                self.trouble = Some(code::GONE);
                return Cancel::Impossible;
            }
            Turn::Failed => step = Stop::Controller,
            _ if since.elapsed() > PATIENCE => {
                tracing::warn!(queue = self.id, "NVMe queue is not deleted: the controller is stopped");
                step = Stop::Controller;
            }
            _ => {}
        }
        self.state = State::Stopping(step, since);
        Cancel::Pending
    }
}

/// What an admin command that does not end means.
fn trouble<B: Backend>(core: &Core<B>) -> Option<u16> {
    match core.look() {
        Turn::Gone => Some(code::GONE),
        Turn::Failed => Some(code::FAILED),
        _ => None,
    }
}
