//! The poll-mode thread: keeps the ring full, counts what is real.

use crate::rig::{Rig, StoryError};
use crate::unbind::BY;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::Duration;
use tidegate::core::{
    Cause, ChannelConfig, Completion, FlowsTo, Handle, RegionTag, Seized, Shared, Status, Submit, Ticket,
};

/// Cookie of what is not a chunk.
const NO_CHUNK: u64 = u64::MAX;
/// So many checked read-backs that confirm nothing are enough.
const DOUBTS: u32 = 8;

/// Which chunks of the data still have to be sent.
pub struct Plan {
    /// Where the rig's data has them.
    start: usize,
    len: usize,
    chunk: usize,
    /// Chunks to send, last first.
    todo: Mutex<Vec<usize>>,
    confirmed: AtomicUsize,
    /// Operations until the rig holds its source back; 0 is never.
    until_held: AtomicUsize,
    held: AtomicBool,
    /// It is held back with a ring that was filled anew, of which the device has seen nothing.
    whole: AtomicBool,
    /// Whoever interrupts has closed a gate, and the drain has counted what is in flight.
    counted: AtomicBool,
    stop: AtomicBool,
}

impl Plan {
    /// For `of` of the rig's data, to the start of a window.
    pub fn new(of: Range<usize>, chunk: usize) -> Plan {
        let todo = (0..of.len().div_ceil(chunk)).rev().collect();
        Plan {
            start: of.start,
            len: of.len(),
            chunk,
            todo: Mutex::new(todo),
            confirmed: AtomicUsize::new(0),
            until_held: AtomicUsize::new(0),
            held: AtomicBool::new(false),
            whole: AtomicBool::new(false),
            counted: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        }
    }

    pub fn chunks(&self) -> usize {
        self.len.div_ceil(self.chunk)
    }

    pub fn confirmed(&self) -> usize {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// That everything was sent and is confirmed, or why not.
    pub fn completed<R: Rig>(&self, rig: &R) -> Result<(), StoryError> {
        let (confirmed, chunks) = (self.confirmed(), self.chunks());
        match confirmed == chunks {
            _ if rig.interrupted() => Err(StoryError::Interrupted),
            true => Ok(()),
            false => Err(StoryError::Incomplete { confirmed, chunks }),
        }
    }

    fn range(&self, chunk: usize) -> Range<usize> {
        chunk * self.chunk..((chunk + 1) * self.chunk).min(self.len)
    }

    /// The poller gives up when its ring is empty.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Will somebody stop the poller? Until then a closed channel may be one whose drain is not over: its last step says
    /// what of the bytes is real.
    fn is_attended(&self) -> bool {
        self.held.load(Ordering::Acquire) && !self.stop.load(Ordering::Acquire)
    }

    /// What is left may be sent.
    pub fn resume(&self) {
        self.whole.store(false, Ordering::Release);
        self.held.store(false, Ordering::Release);
        self.stop.store(false, Ordering::Release);
    }

    /// The rig holds its source back once half of the chunks were accepted: what follows finds descriptors in flight.
    pub fn hold_at_half(&self) {
        self.held.store(false, Ordering::Release);
        self.until_held.store((self.chunks() / 2).max(1), Ordering::Release);
    }

    /// As [`Plan::hold_at_half`], where the source can't be held back: once half of the chunks were accepted the poller lets
    /// its ring run empty, fills it within one section, and stays there until a gate is closed. So the device begins all of it
    /// when the drain does, and the poller looks for none of it before [`Plan::counted`] or
    /// [`Plan::stop`].
    pub fn hold_whole_at_half(&self) {
        self.whole.store(true, Ordering::Release);
        self.counted.store(false, Ordering::Release);
        self.hold_at_half();
    }

    /// The poller may go on.
    pub fn counted(&self) {
        self.counted.store(true, Ordering::Release);
    }

    /// Is it time to fill the ring anew?
    fn gathers(&self) -> bool {
        let half = self.until_held.load(Ordering::Acquire) == 0;
        self.whole.load(Ordering::Acquire) && half && !self.held.load(Ordering::Acquire)
    }

    /// In a section whose doorbell has not rung: until a gate is closed, or the user wants out.
    fn strike<R: Rig>(&self, rig: &R) {
        rig.hold(true);
        self.held.store(true, Ordering::Release);
        let are_open = || [rig.target(), rig.initiator()].iter().all(|device| device.gate().check().is_ok());
        while are_open() && !self.is_over(rig) {
            std::thread::yield_now();
        }
    }

    /// Behind that section: until the drain has counted.
    fn stay_away<R: Rig>(&self, rig: &R) {
        while !self.counted.load(Ordering::Acquire) && !self.is_over(rig) {
            std::thread::yield_now();
        }
    }

    fn is_over<R: Rig>(&self, rig: &R) -> bool {
        self.stop.load(Ordering::Acquire) || rig.interrupted()
    }

    /// An operation was accepted. Called before its doorbell: it can't have completed.
    fn accepted<R: Rig>(&self, rig: &R) {
        let left = self.until_held.load(Ordering::Acquire);
        if left > 0 {
            self.until_held.store(left - 1, Ordering::Release);
        }
        if left == 1 && !self.whole.load(Ordering::Acquire) {
            rig.hold(true);
            self.held.store(true, Ordering::Release);
        }
    }

    /// Waits until half of the operations before the hold were accepted, unless the poller ended or the user wants out.
    pub fn wait_until_under_way<R: Rig, T>(
        &self,
        rig: &R,
        poller: &ScopedJoinHandle<'_, T>,
    ) -> Result<(), StoryError> {
        wait(rig, poller, || self.until_held.load(Ordering::Acquire) <= self.chunks() / 4)
    }

    /// Waits until the rig holds its source back, unless the poller ended or the user wants out.
    pub fn wait_until_held<R: Rig, T>(
        &self,
        rig: &R,
        poller: &ScopedJoinHandle<'_, T>,
    ) -> Result<(), StoryError> {
        wait(rig, poller, || self.held.load(Ordering::Acquire))
    }
}

fn wait<R: Rig, T>(
    rig: &R,
    poller: &ScopedJoinHandle<'_, T>,
    done: impl Fn() -> bool,
) -> Result<(), StoryError> {
    while !done() {
        if rig.interrupted() {
            return Err(StoryError::Interrupted);
        }
        if poller.is_finished() {
            return Err(StoryError::Poller);
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}

/// Streams what is left of the plan into `window` until it is sent and confirmed, or the window or the channel closes.
/// Returns how many chunks of the plan are confirmed in all; the others stay in the plan.
pub fn stream<R: Rig, T: RegionTag>(rig: &R, plan: &Plan, window: Handle<T>) -> Result<usize, StoryError>
where
    Shared: FlowsTo<T>,
{
    let poller = rig.domain().fabric().poller("stream");
    let mut channel = rig.initiator().channel(&poller, rig.driver(), ChannelConfig::depth(rig.depth()))?;
    let mut todo = std::mem::take(&mut *plan.todo.lock().unwrap_or_else(PoisonError::into_inner));
    let mut done: Vec<(Ticket, usize)> = Vec::new();
    let (mut in_flight, mut confirming, mut open, mut doubts) = (Vec::new(), false, true, 0);
    let mut out = [Completion::EMPTY; 32];
    loop {
        let Ok(mut pinned) = channel.pin().map_err(|Seized| std::thread::yield_now()) else { continue };
        let n = pinned.poll(&mut out);
        for completion in out.iter().take(n) {
            if completion.cookie == NO_CHUNK || !in_flight.contains(&(completion.cookie as usize)) {
                confirming = false;
                doubts += u32::from(completion.status != Status::Done);
                continue;
            }
            let chunk = completion.cookie as usize;
            in_flight.retain(|c| *c != chunk);
            match completion.status {
                Status::Done => done.push((completion.ticket, chunk)),
                // Revoked, aborted or failed: it goes again.
                _ => todo.push(chunk),
            }
        }
        let (gathers, runs) = (plan.gathers(), !in_flight.is_empty());
        while let Some(chunk) =
            todo.last().copied().filter(|_| open && gathers == plan.gathers() && !(gathers && runs))
        {
            let range = plan.range(chunk);
            let to = window.span(range.start as u64..range.end as u64);
            let of = plan.start + range.start..plan.start + range.end;
            match pinned.submit(rig.op(of.clone(), to).cookie(chunk as u64)) {
                Submit::Queued(_) => {
                    todo.pop();
                    in_flight.push(chunk);
                    rig.feed(of);
                    plan.accepted(rig);
                }
                Submit::Full => break,
                Submit::Stale(_) | Submit::Closed(_) => open = false,
                Submit::Denied(flow) => {
                    plan.stop();
                    tracing_denied(flow);
                    open = false;
                }
            }
        }
        let strikes = gathers && !runs && open && !in_flight.is_empty();
        if strikes {
            plan.strike(rig);
        }
        let idle = in_flight.is_empty() && !confirming;
        let sent = todo.is_empty() && idle && open;
        if sent && !done.is_empty() {
            match pinned.confirm() {
                Ok(Submit::Queued(ticket)) => confirming = ticket != Ticket(0),
                Ok(Submit::Full) => {}
                Ok(_) | Err(_) => open = false,
            }
        }
        pinned.ring();
        if strikes {
            plan.stay_away(rig);
        }
        rig.pump();
        let confirmed = channel.confirmed();
        let fresh = done.iter().filter(|(ticket, _)| *ticket <= confirmed).count();
        plan.confirmed.fetch_add(fresh, Ordering::Relaxed);
        done.retain(|(ticket, _)| *ticket > confirmed);
        if sent && done.is_empty() && !confirming {
            break;
        }
        open &= doubts < DOUBTS && !rig.interrupted();
        let enough = plan.stop.load(Ordering::Acquire) || doubts >= DOUBTS || rig.interrupted();
        let closing = channel.closed().is_some() || (enough && !open);
        if closing && !plan.is_attended() && channel.in_flight() == 0 && in_flight.is_empty() {
            break;
        }
    }
    // What the device said but nothing confirms goes again.
    todo.extend(done.iter().map(|(_, chunk)| *chunk));
    todo.extend(in_flight);
    todo.sort_unstable_by(|a, b| b.cmp(a));
    *plan.todo.lock().unwrap_or_else(PoisonError::into_inner) = todo;
    // Its queue is free when this returns.
    channel.close(Cause::User, BY)?;
    Ok(plan.confirmed())
}

#[expect(clippy::print_stderr, reason = "the demo's own output")]
fn tracing_denied(flow: tidegate::core::Flow) {
    eprintln!("submit was denied: {flow:?}");
}
