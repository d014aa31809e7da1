//! The side of the threads that do not own the channel.

use super::{Answer, Desk, Refused, Reply, Request, Sent};
use crate::Op;
use rtrb::{Consumer, Producer};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Submits into a channel that another thread owns; made by [`super::Inbox::submitter`], or by cloning one: each has
/// rings, a window and answers of its own. `Send`, not `Sync`.
///
/// # Invariants
/// - **S1** `cookies` holds an entry for every request that was sent and not answered, `free` names all others. So at
///   most `window` requests and answers exist, and neither ring overflows.
#[derive(Debug)]
pub struct Submitter {
    desk: Arc<Desk>,
    requests: Producer<Request>,
    replies: Consumer<Reply>,
    /// The user's cookies of unanswered requests.
    cookies: Box<[Option<u64>]>,
    free: Vec<u32>,
}

impl Submitter {
    pub(super) fn new(desk: Arc<Desk>, requests: Producer<Request>, replies: Consumer<Reply>) -> Self {
        let window = desk.window;
        Submitter {
            desk,
            requests,
            replies,
            cookies: vec![None; window as usize].into_boxed_slice(),
            free: (0..window).rev().collect(),
        }
    }

    /// Sends one request to the channel's owner, who submits it in its next turns. No lock, system call,
    /// allocation, read-modify-write or fence; copies the operation once. Regions are checked by the owner, not here.
    #[inline]
    pub fn submit(&mut self, op: Op) -> Sent {
        if self.is_closed() {
            return Sent::Closed;
        }
        let Some(entry) = self.free.pop() else { return Sent::Full };
        let Some(cookie) = self.cookies.get_mut(entry as usize) else { return Sent::Full };
        if self.requests.push(op.cookie(u64::from(entry))).is_err() {
            // S1 says that there was room.
            self.free.push(entry);
            return Sent::Full;
        }
        *cookie = Some(op.cookie);
        Sent::Queued
    }

    /// Takes answers; returns how many were written to `out`. Refusals and completions of one submitter come in no
    /// particular order. After the inbox is gone, everything that is still unanswered is answered here.
    #[inline]
    pub fn poll(&mut self, out: &mut [Answer]) -> usize {
        // Before the ring is read. Acquire: the inbox closes after its last answer, so that what is unanswered when
        // the ring is empty was never seen by it.
        let closed = self.is_closed();
        let mut n = 0;
        while let Some(place) = out.get_mut(n) {
            let Ok(Reply { entry, result }) = self.replies.pop() else { break };
            let Some(cookie) = self.cookies.get_mut(entry as usize).and_then(Option::take) else { continue };
            self.free.push(entry);
            let result = result.map(|mut completion| {
                completion.cookie = cookie;
                completion
            });
            *place = Answer { cookie, result };
            n += 1;
        }
        if closed && n < out.len() {
            n = self.give_up(out, n);
        }
        n
    }

    /// The inbox is gone, and so is every answer that it gave.
    #[cold]
    #[inline(never)]
    fn give_up(&mut self, out: &mut [Answer], mut n: usize) -> usize {
        for (entry, cookie) in (0..).zip(&mut self.cookies) {
            let Some(place) = out.get_mut(n) else { break };
            let Some(cookie) = cookie.take() else { continue };
            self.free.push(entry);
            *place = Answer { cookie, result: Err(Refused::Gone) };
            n += 1;
        }
        n
    }

    /// Requests that were taken and not answered yet.
    pub fn unanswered(&self) -> usize {
        self.cookies.len() - self.free.len()
    }

    /// Is the inbox gone? What is unanswered can still be polled.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.desk.closed.load(Ordering::Acquire)
    }
}

impl Clone for Submitter {
    /// Another submitter of the same inbox, with rings of its own, nothing in them. Takes a lock and allocates.
    fn clone(&self) -> Self {
        self.desk.open()
    }
}
