//! The poll-mode thread: keeps the ring full, counts what is real.

use crate::rig::{Rig, StoryError};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use tidegate::core::{
    ChannelConfig, Completion, FlowsTo, Handle, RegionTag, Seized, Shared, Status, Submit, Ticket,
};
use tidegate::p2p::Device;

/// Cookie of what is not a chunk.
const NO_CHUNK: u64 = u64::MAX;

/// Which chunks of the data still have to be sent.
pub struct Plan {
    len: usize,
    chunk: usize,
    /// Chunks to send, last first.
    todo: Mutex<Vec<usize>>,
    submitted: AtomicUsize,
    confirmed: AtomicUsize,
    stop: AtomicBool,
}

impl Plan {
    pub fn new(len: usize, chunk: usize) -> Plan {
        let todo = (0..len.div_ceil(chunk)).rev().collect();
        Plan {
            len,
            chunk,
            todo: Mutex::new(todo),
            submitted: AtomicUsize::new(0),
            confirmed: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        }
    }

    pub fn chunks(&self) -> usize {
        self.len.div_ceil(self.chunk)
    }

    pub fn confirmed(&self) -> usize {
        self.confirmed.load(Ordering::Relaxed)
    }

    pub fn is_complete(&self) -> bool {
        self.confirmed() == self.chunks()
    }

    fn range(&self, chunk: usize) -> Range<usize> {
        chunk * self.chunk..((chunk + 1) * self.chunk).min(self.len)
    }

    /// The poller gives up when its ring is empty.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub fn resume(&self) {
        self.stop.store(false, Ordering::Release);
    }

    /// Waits until half of the chunks were submitted, then holds the source back and waits for descriptors in
    /// flight: the unbind that follows finds some for sure.
    pub fn wait_until_half<R: Rig, T>(
        &self,
        rig: &R,
        poller: &ScopedJoinHandle<'_, T>,
    ) -> Result<(), StoryError> {
        let reached = |n: &AtomicUsize| n.load(Ordering::Acquire) >= self.chunks() / 2;
        wait(rig, poller, || reached(&self.submitted))?;
        rig.hold(true);
        wait(rig, poller, || rig.waits())
    }
}

/// Waits for `done`, unless the poller ended or the user wants out.
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
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
    Ok(())
}

/// Streams what is left of the plan into `window` until it is sent and confirmed, or the channel closes. Returns how
/// many chunks of the plan are confirmed in all; the others stay in the plan.
pub fn stream<R: Rig, T: RegionTag>(rig: &R, plan: &Plan, window: Handle<T>) -> Result<usize, StoryError>
where
    Shared: FlowsTo<T>,
{
    let device: &Device<R::B> = rig.initiator();
    let poller = rig.domain().fabric().poller("stream");
    let mut channel = device.channel(&poller, rig.driver(), ChannelConfig::depth(rig.depth()))?;
    let mut todo = std::mem::take(&mut *plan.todo.lock().unwrap_or_else(PoisonError::into_inner));
    let mut done: Vec<(Ticket, usize)> = Vec::new();
    let (mut in_flight, mut confirming, mut open) = (Vec::new(), false, true);
    let mut out = [Completion::EMPTY; 32];
    let failed = loop {
        let Ok(mut pinned) = channel.pin().map_err(|Seized| std::thread::yield_now()) else { continue };
        let n = pinned.poll(&mut out);
        for completion in out.iter().take(n) {
            if completion.cookie == NO_CHUNK || !in_flight.contains(&(completion.cookie as usize)) {
                confirming = false;
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
        while let Some(chunk) = todo.last().copied().filter(|_| open) {
            let range = plan.range(chunk);
            let to = window.span(range.start as u64..range.end as u64);
            match pinned.submit(rig.op(range.clone(), to).cookie(chunk as u64)) {
                Submit::Queued(_) => {
                    todo.pop();
                    in_flight.push(chunk);
                    rig.feed(range);
                    plan.submitted.fetch_add(1, Ordering::Release);
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
        let idle = in_flight.is_empty() && !confirming;
        let sent = todo.is_empty() && idle && open;
        if sent && !done.is_empty() && confirming_needed(plan, &done) {
            match pinned.confirm() {
                Ok(Submit::Queued(ticket)) => confirming = ticket != Ticket(0),
                Ok(Submit::Full) => {}
                Ok(_) | Err(_) => open = false,
            }
        }
        pinned.ring();
        rig.pump();
        let confirmed = channel.confirmed();
        let fresh = done.iter().filter(|(ticket, _)| *ticket <= confirmed).count();
        plan.confirmed.fetch_add(fresh, Ordering::Relaxed);
        done.retain(|(ticket, _)| *ticket > confirmed);
        if sent && done.is_empty() && !confirming {
            break None;
        }
        if rig.interrupted() && open {
            open = false;
        }
        let enough = plan.stop.load(Ordering::Acquire) || rig.interrupted();
        let closing = channel.closed().is_some() || (enough && !open);
        if closing && channel.in_flight() == 0 && in_flight.is_empty() {
            break None::<StoryError>;
        }
    };
    // What the device said but nothing confirms goes again.
    todo.extend(done.iter().map(|(_, chunk)| *chunk));
    todo.extend(in_flight);
    todo.sort_unstable_by(|a, b| b.cmp(a));
    *plan.todo.lock().unwrap_or_else(PoisonError::into_inner) = todo;
    failed.map_or(Ok(plan.confirmed()), Err)
}

fn confirming_needed(plan: &Plan, done: &[(Ticket, usize)]) -> bool {
    plan.confirmed() + done.len() == plan.chunks()
}

#[expect(clippy::print_stderr, reason = "the demo's own output")]
fn tracing_denied(flow: tidegate::core::Flow) {
    eprintln!("submit was denied: {flow:?}");
}
