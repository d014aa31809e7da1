//! SET_MMIO_ATTRIBUTE of a TDI that runs: pages of one updatable range become shared, or private.
//!
//! The order is that of [`report::change`](crate::report::change), and the same on every platform. What is quiesced are
//! the windows that lead to the pages, not the device: its channels, its other windows and its gate go on.

use super::bind::Bind;
use super::tags::host_ranges;
use super::{Shared, Tsm};
use crate::platform::Refusal;
use crate::report::{Attr, ChangeError, Planned, TagTable, TaggedRange, To};
use crate::requester::{Exchange, RequestError, SetAttribute, Turn};
use crate::wire::RequestCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_core::drain::{Phase, Progress, Report};
use tidegate_core::tdi::{BarRange, Host, TagError, TdiState};
use tidegate_core::{Cause, Deadline, GateClosed, Revocation, WaitError};

/// Why pages did not change.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AttributeError {
    /// The TDI is in another state than RUN, or was started by somebody else.
    #[error("the TDI is in {0:?}, or was not started here: pages change in RUN only")]
    State(TdiState),
    /// Its gate was closed and restored since LOCK: unbind it.
    #[error("the gate was closed since LOCK: unbind the TDI")]
    Stale,
    /// The device's gate is closed.
    #[error(transparent)]
    Gate(#[from] GateClosed),
    /// The pages can't change.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The DSM refused, was busy past the deadline, or did not answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The platform refused its part.
    #[error("the platform refused: {0}")]
    Firmware(#[from] Refusal),
    /// The host refused the tags.
    #[error(transparent)]
    Tags(#[from] TagError),
    /// The drain of the windows ended by force ([`AttributeReport::drain`] says of what): something may still be on its
    /// way to the pages.
    #[error("the windows to the pages were not quiet by the deadline")]
    NotQuiet,
    /// The wait was refused; the drain goes on in the background.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// [`AttributeChange::finish`] was called before the end.
    #[error("given up before the device had done it")]
    GivenUp,
}

/// How a change ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum AttributeOutcome {
    /// The device confirmed: the pages are what was asked for.
    Changed,
    /// The device holds the pages for what they were, and, if the TDI still runs, so do host and platform.
    Unchanged(AttributeError),
    /// The device was asked, and nobody knows what it did. The pages are inaccessible: unbind the TDI.
    InDoubt(AttributeError),
}

/// What a change did. In each case the windows that led to the pages are revoked: those whose tag fits come back by
/// recovery (tidegate-p2p's `Import::recover`, `Import::recover_private`), or new ones are made.
#[derive(Debug)]
#[must_use]
pub struct AttributeReport {
    /// How it ended.
    pub outcome: AttributeOutcome,
    /// The pages, and what they are for the host now.
    pub pages: TaggedRange,
    /// How the windows' drain ended, or how far it was.
    pub drain: Report,
    /// Why the platform did not map private pages afterwards, if it did not: the trust domain's CPUs do not reach them.
    pub refusal: Option<Refusal>,
    /// Why the host did not take their tags at the end, if it did not: to it they stay inaccessible, and no window to them
    /// is made. Unbind the TDI.
    pub untagged: Option<TagError>,
}

/// Is there more to do?
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeProgress {
    /// Over.
    Done,
    /// The windows drain; turn again.
    Drain(Phase),
    /// The device is asked, and busy; turn again.
    Ask,
}

/// A change under way; a state machine: [`AttributeChange::turn`] never waits. Dropped unfinished, nothing has changed
/// but that the windows are revoked: the old tags come back at once, and the drain goes on in the background.
#[derive(Debug)]
#[must_use = "turn or wait it; dropped, only the windows are revoked"]
pub struct AttributeChange<'a, H: Host> {
    shared: &'a Arc<Shared<H>>,
    bind: Arc<Bind>,
    bytes: BarRange,
    to: To,
    /// What the pages were.
    was: TaggedRange,
    by: Deadline,
    started: Instant,
    windows: Revocation,
    exchange: Option<Exchange<SetAttribute>>,
    pause_until: Option<Instant>,
    /// They are not in the private page tables.
    unmapped: bool,
    stage: Stage,
    refusal: Option<Refusal>,
    untagged: Option<TagError>,
}

#[derive(Debug)]
enum Stage {
    Drain,
    Ask,
    Over(AttributeOutcome),
}

/// What came of one request.
enum Asked {
    Changed,
    Busy(Duration, RequestError),
    Unchanged(AttributeError),
    Lost(RequestError),
}

impl<'a, H: Host> AttributeChange<'a, H> {
    /// What can be refused before anything is disturbed is refused here.
    pub(super) fn begin(
        shared: &'a Arc<Shared<H>>,
        bytes: BarRange,
        to: To,
        by: Deadline,
    ) -> Result<Self, AttributeError> {
        let mut tsm = shared.tsm();
        let bind = started(shared, &tsm)?;
        shared.host.gate().check()?;
        let said = tsm.requester.state();
        shared.heard(&mut tsm, &said);
        if !bind.runs() {
            return Err(AttributeError::State(shared.host.state()));
        }
        said?;
        tsm.requester.check(RequestCode::SetMmioAttribute)?;
        let was = plan(&mut tsm.tags, &bytes, to)?.pages();
        if was.attr == Attr::Private {
            shared.firmware().check_unmap_private(shared.function)?;
        }
        // From here on nobody gets a new window to them. Those that there are, or are just being made, the gate knows.
        let mut held = tsm.tags.clone();
        plan(&mut held, &bytes, to)?.quiesced(()).unmapped().request().lost();
        shared.host.set_tags(&host_ranges(&held))?;
        let windows = shared.host.gate().revoke_windows(&bytes, Cause::Attribute, by);
        Ok(AttributeChange {
            shared,
            bind,
            bytes,
            to,
            was,
            by,
            started: Instant::now(),
            windows,
            exchange: None,
            pause_until: None,
            unmapped: was.attr != Attr::Private,
            stage: Stage::Drain,
            refusal: None,
            untagged: None,
        })
    }

    /// Goes as far as it can without waiting. A request is one TDISP exchange, two if the device refuses.
    pub fn turn(&mut self) -> AttributeProgress {
        loop {
            match self.stage {
                Stage::Drain => match self.windows.turn() {
                    Progress::Pending(phase) => return AttributeProgress::Drain(phase),
                    Progress::Done => self.drained(),
                },
                Stage::Ask => {
                    let pausing = self.pause_until.is_some_and(|until| Instant::now() < until);
                    if pausing || !self.ask() {
                        return AttributeProgress::Ask;
                    }
                }
                Stage::Over(_) => return AttributeProgress::Done,
            }
        }
    }

    /// Turns until done. The drain ends by its deadline; a device that is still BUSY past `force` (at least `cancel`,
    /// both counted from the start) is asked no more.
    pub fn wait(mut self) -> AttributeReport {
        if let Err(error) = self.windows.join() {
            self.end(AttributeOutcome::Unchanged(error.into()));
        }
        while self.turn() != AttributeProgress::Done {
            if let Some(until) = self.pause_until {
                std::thread::sleep(until.saturating_duration_since(Instant::now()));
            }
        }
        self.finish()
    }

    /// The report. Before [`AttributeChange::turn`] said `Done`, it gives up.
    pub fn finish(mut self) -> AttributeReport {
        self.give_up();
        let (pages, drain) = (self.pages(), self.windows.report());
        let (refusal, untagged) = (self.refusal, self.untagged.take());
        let outcome = match std::mem::replace(&mut self.stage, Stage::Over(AttributeOutcome::Changed)) {
            Stage::Over(outcome) => outcome,
            Stage::Drain | Stage::Ask => AttributeOutcome::Unchanged(AttributeError::GivenUp),
        };
        AttributeReport { outcome, pages, drain, refusal, untagged }
    }

    fn drained(&mut self) {
        if self.windows.report().is_clean() {
            self.stage = Stage::Ask;
        } else {
            self.end(AttributeOutcome::Unchanged(AttributeError::NotQuiet));
        }
    }

    /// One request. False: the device is busy, and is to be asked again.
    fn ask(&mut self) -> bool {
        let shared = self.shared;
        let mut tsm = shared.tsm();
        let outcome = match self.request(&mut tsm) {
            Asked::Changed => AttributeOutcome::Changed,
            Asked::Busy(pause, _) if !self.is_late() => {
                self.pause_until = Instant::now().checked_add(pause);
                return false;
            }
            Asked::Busy(_, error) => AttributeOutcome::Unchanged(error.into()),
            Asked::Unchanged(error) => AttributeOutcome::Unchanged(self.explain(&mut tsm, error)),
            Asked::Lost(error) => AttributeOutcome::InDoubt(self.explain(&mut tsm, error.into())),
        };
        drop(tsm);
        self.end(outcome);
        true
    }

    /// The steps that [`crate::report::change`] allows, in a row, and nobody moves the TDI in between.
    fn request(&mut self, tsm: &mut Tsm) -> Asked {
        let shared = self.shared;
        let function = shared.function;
        if !self.is_current(tsm) {
            return Asked::Unchanged(AttributeError::State(shared.host.state()));
        }
        // Doubt that came up meanwhile closed it.
        if let Err(closed) = shared.host.gate().check() {
            return Asked::Unchanged(closed.into());
        }
        let plan = match plan(&mut tsm.tags, &self.bytes, self.to) {
            Ok(plan) => plan,
            Err(error) => return Asked::Unchanged(error.into()),
        };
        let quiet = plan.quiesced(self.windows.report());
        if !self.unmapped {
            if let Err(refusal) = shared.firmware().unmap_private(function, &self.was) {
                return Asked::Unchanged(refusal.into());
            }
            self.unmapped = true;
        }
        let unmapped = quiet.unmapped();
        if let Err(refusal) = shared.firmware().check_attribute(function, &self.was) {
            return Asked::Unchanged(refusal.into());
        }
        let sent = unmapped.request();
        let range = sent.range();
        let begin = || tsm.requester.begin(SetAttribute(range));
        let mut exchange = self.exchange.take().unwrap_or_else(begin);
        let answer = loop {
            match tsm.requester.turn(&mut exchange) {
                Ok(Turn::Send) => {}
                other => break other,
            }
        };
        match answer {
            Ok(Turn::Busy { attempts, pause }) => {
                let busy = RequestError::Busy { request: exchange.code(), attempts };
                self.exchange = Some(exchange);
                let _unchanged = sent.answered(false);
                Asked::Busy(pause, busy)
            }
            Ok(Turn::Done(()) | Turn::Send) => {
                let _changed = sent.answered(true);
                Asked::Changed
            }
            Err(error) if error.changed_nothing() => {
                let _unchanged = sent.answered(false);
                Asked::Unchanged(error.into())
            }
            Err(error) => {
                let _report = sent.lost();
                Asked::Lost(error)
            }
        }
    }

    /// Of a request that failed: if the TDI runs no more, that is why.
    fn explain(&self, tsm: &mut Tsm, error: AttributeError) -> AttributeError {
        if !matches!(error, AttributeError::Request(_)) {
            return error;
        }
        let said = tsm.requester.state();
        self.shared.heard(tsm, &said);
        if self.bind.runs() {
            return error;
        }
        let now = self.shared.host.state();
        tracing::warn!(%error, ?now, "the TDI runs no more");
        AttributeError::State(now)
    }

    fn end(&mut self, outcome: AttributeOutcome) {
        tracing::info!(?outcome, bytes = ?self.bytes, to = ?self.to, "attribute");
        self.stage = Stage::Over(outcome);
        self.settle();
    }

    fn give_up(&mut self) {
        if !matches!(self.stage, Stage::Over(_)) {
            self.settle();
        }
    }

    /// What the pages are now.
    fn pages(&self) -> TaggedRange {
        let attr = match self.stage {
            _ if self.untagged.is_some() => Attr::Inaccessible,
            Stage::Over(AttributeOutcome::Changed) => self.to.attr(),
            Stage::Over(AttributeOutcome::InDoubt(_)) => Attr::Inaccessible,
            _ => self.was.attr,
        };
        TaggedRange { attr, ..self.was }
    }

    /// Private pages are mapped; last the host hears what they are, which lets new windows in. A TDI that runs no more
    /// has nothing to be mapped, and its host was told.
    fn settle(&mut self) {
        let (shared, now) = (self.shared, self.pages());
        let tsm = shared.tsm();
        if !self.is_current(&tsm) {
            return;
        }
        if now.attr == Attr::Private && self.unmapped {
            self.refusal = shared.firmware().map_private(shared.function, &now).err();
        }
        if let Err(error) = shared.host.set_tags(&host_ranges(&tsm.tags)) {
            tracing::error!(%error, "the host lets nobody at the pages");
            self.untagged = Some(error);
        }
    }

    /// Is it still the bind that was to change, in RUN?
    fn is_current(&self, tsm: &Tsm) -> bool {
        tsm.bind.as_ref().is_some_and(|bind| Arc::ptr_eq(bind, &self.bind)) && self.bind.runs()
    }

    fn is_late(&self) -> bool {
        self.started.elapsed() >= self.by.force.max(self.by.cancel)
    }
}

impl<H: Host> Drop for AttributeChange<'_, H> {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// The bind, if it was started here.
fn started<H: Host>(shared: &Shared<H>, tsm: &Tsm) -> Result<Arc<Bind>, AttributeError> {
    match tsm.bind.clone().filter(|bind| bind.was_started()) {
        Some(bind) if bind.is_current() => Ok(bind),
        Some(_) => Err(AttributeError::Stale),
        None => Err(AttributeError::State(shared.host.state())),
    }
}

fn plan<'t>(tags: &'t mut TagTable, bytes: &BarRange, to: To) -> Result<Planned<'t>, ChangeError> {
    tags.change(bytes.bar, bytes.range.clone(), to)
}
